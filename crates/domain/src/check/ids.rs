//! Subordinate IDs, and how the kubelet chooses IDs for pods.

use super::{Category, Check, Checked, Probe};
use crate::finding::Finding;
use crate::idplan::NodeIds;
use crate::kubelet::{self, Directory};
use crate::subid::SubidFile;

/// The facts that the checks need.
#[derive(Debug, Clone)]
pub struct IdFacts {
    /// The node's files and surroundings.
    pub node: NodeIds,
    /// Problems of the node as it is ([`crate::idplan::examine`]), and what could not be read.
    pub findings: Vec<Finding>,
}

#[must_use]
pub fn checks(facts: Probe<&IdFacts>) -> Vec<Checked> {
    let facts = match facts {
        Ok(facts) => facts,
        Err(why) => return Check::all_skipped(Category::Ids, &why),
    };
    Check::of_category(Category::Ids).map(|check| facts.check(check)).collect()
}

impl IdFacts {
    fn check(&self, check: Check) -> Checked {
        if let Some(why) = self.not_applicable(check) {
            return check.skipped(why);
        }
        check.judged(&self.findings, self.seen(check))
    }

    /// Why a check does not apply to this node; `None` if it does.
    fn not_applicable(&self, check: Check) -> Option<&'static str> {
        if let Some(why) = self.has_no_file(check) {
            return Some(why);
        }
        let NodeIds { kubelet, accounts, .. } = &self.node;
        let has_user = accounts.user(kubelet::USER).is_some();
        let elsewhere = matches!(kubelet.directory, Directory::Unasked(_));
        let of_kubelet =
            [Check::KubeletPool, Check::KubeletRecords, Check::KubeletConfig, Check::KubeletGate]
                .contains(&check);
        let of_user =
            [Check::SubidKubelet, Check::SubidTerminalSlot, Check::KubeletGetsubids, Check::KubeletGetent]
                .contains(&check);
        let of_line = [Check::SubidKubelet, Check::SubidTerminalSlot].contains(&check);
        if of_kubelet && !kubelet.is_present {
            return Some("there is no kubelet: no /var/lib/kubelet");
        }
        if [Check::KubeletRecords, Check::KubeletConfig, Check::KubeletGate].contains(&check)
            && kubelet.is_hidden
        {
            return Some("the kubelet's directory cannot be seen from here");
        }
        if of_user && kubelet.in_container.is_some() {
            return Some("the kubelet runs in a container, see kubelet_pool");
        }
        if !has_user && elsewhere && (of_user || check == Check::KubeletPool) {
            return Some("whether a directory service has a user kubelet is known on the running node only");
        }
        if of_user && !has_user {
            return Some("there is no user kubelet");
        }
        // The kubelet checks `getsubids` before the line.
        if of_line && !kubelet.getsubids {
            return Some("the kubelet needs getsubids first");
        }
        let asks_elsewhere =
            kubelet.nsswitch_subid.as_deref().is_some_and(|from| !kubelet::reads_files(from));
        if of_line && asks_elsewhere && kubelet.getsubids_output.is_none() {
            return Some("getsubids reads another source, see subid_nsswitch");
        }
        let unusable = || self.findings.iter().any(|finding| finding.check() == Some(Check::SubidKubelet));
        (check == Check::SubidTerminalSlot && unusable()).then_some("the kubelet has no line that it accepts")
    }

    /// A file that the check reads does not exist, and nothing is wrong with that.
    fn has_no_file(&self, check: Check) -> Option<&'static str> {
        const OF_RANGES: [Check; 5] = [
            Check::SubidGrammar,
            Check::SubidNoOverlap,
            Check::SubidNoHostUser,
            Check::SubidPastEnd,
            Check::SubidConventions,
        ];
        let NodeIds { subuid, subgid, account_files, kubelet, .. } = &self.node;
        if self.findings.iter().any(|finding| finding.check() == Some(check)) {
            return None;
        }
        if OF_RANGES.contains(&check) && subuid.is_none() && subgid.is_none() {
            return Some("there is neither /etc/subuid nor /etc/subgid");
        }
        if check == Check::SubidNoHostUser && account_files.iter().all(Option::is_none) {
            return Some("there is neither /etc/passwd nor /etc/group");
        }
        let has_no_nsswitch = check == Check::SubidNsswitch && !kubelet.has_nsswitch;
        has_no_nsswitch
            .then_some("there is no /etc/nsswitch.conf; without it /etc/subuid and /etc/subgid are read")
    }

    fn seen(&self, check: Check) -> String {
        let NodeIds { kubelet, accounts, .. } = &self.node;
        let files = [&self.node.subuid, &self.node.subgid]
            .map(|bytes| SubidFile::parse(bytes.as_deref().unwrap_or_default()));
        let counted = |bytes: &Option<Vec<u8>>, file: &SubidFile, path: &str| match bytes {
            Some(_) => format!("{} ranges in {path}", file.ranges().count()),
            None => format!("no {path}"),
        };
        let [uid_file, gid_file] = &files;
        let line = match &kubelet.getsubids_output {
            Some(output) => {
                output.as_ref().map_or_else(Clone::clone, |window| format!("getsubids: kubelet {window}"))
            }
            None => kubelet::lines_of(uid_file, accounts)
                .first()
                .map_or_else(|| "no line".to_owned(), |line| format!("{line} in both files")),
        };
        match check {
            Check::SubidGrammar => [
                counted(&self.node.subuid, uid_file, "/etc/subuid"),
                counted(&self.node.subgid, gid_file, "/etc/subgid"),
            ]
            .join(", "),
            Check::SubidNsswitch => match &kubelet.nsswitch_subid {
                Some(source) => format!("nsswitch.conf has subid: {source}"),
                None => "nsswitch.conf has no subid: files".to_owned(),
            },
            Check::SubidKubelet => line,
            Check::SubidTerminalSlot => format!("{line}, which ends below 4294901760"),
            Check::KubeletPool => match &kubelet.directory {
                Directory::HasUser(source) => format!("getent finds a user kubelet by \"passwd: {source}\""),
                _ => "there is a user kubelet".to_owned(),
            },
            Check::KubeletRecords => match kubelet.records.len() {
                1 => "1 record".to_owned(),
                count => format!("{count} records"),
            },
            Check::KubeletConfig => {
                let of = |value: Option<u64>, default: u64| value.unwrap_or(default);
                let pods = of(kubelet.max_pods, kubelet::DEFAULT_MAX_PODS);
                let ids = of(kubelet.ids_per_pod, kubelet::DEFAULT_IDS_PER_POD);
                let output = format!("{pods} pods of {ids} IDs");
                if kubelet.max_pods.is_some() {
                    output
                } else {
                    format!("none is visible here; by default {output}")
                }
            }
            Check::KubeletGate => match &kubelet.gate {
                Some(gate) => format!("{} switches {} on", gate.place, kubelet::GATE),
                None => format!("nothing sets {}", kubelet::GATE),
            },
            other => other.meaning().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;
    use crate::check::{CheckOutcome, Summary};
    use crate::finding::FindingId;
    use crate::idplan::{DesiredIds, examine};
    use crate::kubelet::{FeatureGate, KubeletEnvironment, PodIdsRecord};
    use crate::ranges::Window;

    fn node() -> NodeIds {
        let mut accounts = Accounts::default();
        accounts.add_users(b"root:x:0:0::/:/bin/sh\nkubelet:x:900:900::/:/bin/sh\n");
        NodeIds {
            subuid: Some(b"containers:200000:268435456\nkubelet:327155712:7208960\n".to_vec()),
            subgid: Some(b"containers:200000:268435456\nkubelet:327155712:7208960\n".to_vec()),
            account_files: [const { Some(Vec::new()) }; 4],
            accounts,
            kubelet: KubeletEnvironment {
                is_present: true,
                getsubids: true,
                getent: true,
                has_nsswitch: true,
                records: vec![PodIdsRecord {
                    pod: "a".into(),
                    window: Ok(Window { start: 327_155_712, count: 65_536 }),
                }],
                ..KubeletEnvironment::default()
            },
            ..NodeIds::default()
        }
    }

    fn bad(node: NodeIds) -> Vec<String> {
        let findings = examine(&node, &DesiredIds::default());
        let checked = checks(Ok(&IdFacts { node, findings }));
        assert!(Check::of_category(Category::Ids).eq(checked.iter().map(|one| one.check)));
        let bad = checked.iter().filter(|one| one.word() != "pass");
        bad.map(|one| format!("{} {}", one.check.name(), one.word())).collect()
    }

    /// Both files, with these lines for the kubelet, and additional lines.
    fn lines(node: &mut NodeIds, kubelet: &str, more: &str) {
        let text = format!("containers:200000:268435456\n{kubelet}{more}");
        node.subuid = Some(text.clone().into_bytes());
        node.subgid = Some(text.into_bytes());
    }

    #[test]
    fn each_check_fails_alone_if_its_cause_is_present() {
        assert_eq!(bad(node()), Vec::<String>::new());
        const GOOD: &str = "kubelet:327155712:7208960\n";
        type Spoil = fn(&mut NodeIds);
        let line = ["subid_kubelet fail", "subid_terminal_slot skip"];
        let cases: &[(Spoil, &[&str])] = &[
            (
                |n| n.kubelet.gate = Some(FeatureGate { is_on: false, place: "/x".into() }),
                &["kubelet_gate fail"],
            ),
            (
                |n| n.kubelet.in_container = Some("kubelet.service".into()),
                &[
                    "subid_kubelet skip",
                    "subid_terminal_slot skip",
                    "kubelet_pool warn",
                    "kubelet_getsubids skip",
                    "kubelet_getent skip",
                ],
            ),
            (|n| lines(n, GOOD, "x:0x10:5\n"), &["subid_grammar warn"]),
            (
                |n| n.kubelet.nsswitch_subid = Some("sss".into()),
                &["subid_nsswitch warn", "subid_kubelet skip", "subid_terminal_slot skip"],
            ),
            (|n| lines(n, GOOD, "x:300000:5\n"), &["subid_no_overlap warn"]),
            (|n| n.accounts.add_users(b"u:x:200005:5::/:\n"), &["subid_no_host_user warn"]),
            (|n| lines(n, GOOD, "x:65000:10\n"), &["subid_no_host_user warn"]),
            (|n| lines(n, GOOD, "x:4294967290:10\n"), &["subid_past_end warn"]),
            (|n| lines(n, GOOD, "x:2147352576:10\n"), &["subid_conventions warn"]),
            (|n| lines(n, "kubelet:327155712:65536\n", ""), &line),
            (|n| lines(n, "", ""), &line),
            (|n| lines(n, "kubelet:327155713:7208960\n", ""), &line),
            (|n| n.subgid = Some(b"kubelet:393216:7208960\n".to_vec()), &line),
            (
                |n| {
                    n.kubelet.records.clear();
                    lines(n, "kubelet:4287758336:7208960\n", "");
                },
                &["subid_terminal_slot fail"],
            ),
            (
                |n| n.accounts = Accounts::default(),
                &[
                    "subid_kubelet skip",
                    "subid_terminal_slot skip",
                    "kubelet_pool warn",
                    "kubelet_getsubids skip",
                    "kubelet_getent skip",
                ],
            ),
            (
                |n| n.kubelet.getsubids = false,
                &["subid_kubelet skip", "subid_terminal_slot skip", "kubelet_getsubids fail"],
            ),
            (|n| n.kubelet.getent = false, &["kubelet_getent warn"]),
            (|n| n.kubelet.records[0].window = Err("unreadable".into()), &["kubelet_records fail"]),
            (
                |n| n.kubelet.records[0].window = Ok(Window { start: 65_536, count: 65_536 }),
                &["kubelet_records fail"],
            ),
            (
                |n| n.kubelet.is_hidden = true,
                &["kubelet_records skip", "kubelet_config skip", "kubelet_gate skip"],
            ),
            (
                |n| n.kubelet.is_present = false,
                &["kubelet_pool skip", "kubelet_records skip", "kubelet_config skip", "kubelet_gate skip"],
            ),
        ];
        for (index, (spoil, want)) in cases.iter().enumerate() {
            let mut node = node();
            spoil(&mut node);
            assert_eq!(bad(node), *want, "case {index}");
        }
        let unreadable = Finding::warning(FindingId::KubeletConfigUnreadable, "x".into(), "y");
        let checked = checks(Ok(&IdFacts { node: node(), findings: vec![unreadable] }));
        assert_eq!(Summary::of(&checked).warnings, 1);
        assert!(checks(Err("x".into())).iter().all(|one| matches!(one.outcome, CheckOutcome::Skipped(_))));
    }

    #[test]
    fn a_file_that_does_not_exist_passes_no_check() {
        let without = NodeIds {
            subuid: None,
            subgid: None,
            kubelet: KubeletEnvironment { has_nsswitch: false, ..KubeletEnvironment::default() },
            ..NodeIds::default()
        };
        let findings = examine(&without, &DesiredIds::default());
        let passed: Vec<_> = checks(Ok(&IdFacts { node: without, findings }))
            .into_iter()
            .filter(|one| matches!(one.outcome, CheckOutcome::Passed(_)))
            .collect();
        assert!(passed.is_empty(), "{passed:?}");
        let one_file = NodeIds { subgid: None, ..node() };
        let seen = IdFacts { node: one_file, findings: Vec::new() }.seen(Check::SubidGrammar);
        assert_eq!(seen, "2 ranges in /etc/subuid, no /etc/subgid");
    }
}
