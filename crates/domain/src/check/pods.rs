//! Checks of running pods.

use std::collections::BTreeMap;

use super::{Category, Check, CheckOutcome, Checked, MANY, Probe, Problem};
use crate::adjust::asks_for_writable;
use crate::assessment::Assessment;
use crate::container::CgroupMount;
use crate::delegation::Skip;
use crate::node::SurveyedPod;
use crate::pod::Pod;
use crate::record::{Outcome, Record};
use crate::space::OverlapKind;

/// The facts that the checks need.
#[derive(Debug, Clone)]
pub struct PodFacts<'a> {
    pub pods: &'a [SurveyedPod],
    /// Whether the files with the owners of host IDs could be read.
    pub space_is_known: bool,
    /// The annotations of pods that can ask for a writable cgroup.
    pub asked: Probe<&'a Annotations>,
}

/// By sandbox: the annotations of its pod that can ask for a writable cgroup, with their values.
pub type Annotations = BTreeMap<String, BTreeMap<String, String>>;

#[must_use]
pub fn checks(facts: Probe<&PodFacts<'_>>) -> Vec<Checked> {
    let facts = match facts {
        Ok(facts) if facts.isolated().next().is_some() => facts,
        Ok(_) => return Check::all_skipped(Category::Pods, "no pod with a user namespace runs"),
        Err(why) => return Check::all_skipped(Category::Pods, &why),
    };
    let pods = facts.isolated().count();
    let seen = match pods {
        1 => "1 pod in a user namespace".to_owned(),
        pods => format!("{pods} pods in user namespaces"),
    };
    vec![
        done(Check::PodIsolation, facts.lost(), &seen),
        done(Check::PodHostRoot, facts.host_roots(), &seen),
        if facts.space_is_known {
            done(Check::PodIdOverlap, facts.overlaps(), &seen)
        } else {
            Check::PodIdOverlap.skipped("/etc/subuid and its like cannot be read")
        },
        done(Check::PodCgroupOwner, facts.owners(), &format!("{seen}{}", facts.closed())),
        match &facts.asked {
            Err(why) => Check::PodCgroupWritable.skipped(why.clone()),
            Ok(asked) if asked.is_empty() => Check::PodCgroupWritable.skipped("no pod asks for one"),
            Ok(asked) => done(Check::PodCgroupWritable, facts.read_only(asked), &seen),
        },
        done(Check::PodCgroupBounded, facts.unbounded(), &seen),
    ]
}

fn done(check: Check, problems: Vec<Problem>, seen: &str) -> Checked {
    if problems.is_empty() {
        return check.passed(seen);
    }
    Checked { check, outcome: CheckOutcome::Failed(problems) }
}

fn container(pod: &Pod, record: &Record) -> String {
    format!("container {} of pod {}/{}", record.name, pod.name.namespace, pod.name.name)
}

/// The command that deletes the pod, as a remedy: its successor gets new mappings, and its own cgroup from the start.
/// Names that Kubernetes would not allow are not put into a command.
fn delete(pod: &Pod) -> String {
    if pod.has_good_names() {
        format!("kubectl delete pod -n {} {}", pod.name.namespace, pod.name.name)
    } else {
        "delete the pod; its controller creates a new one".to_owned()
    }
}

impl PodFacts<'_> {
    fn isolated(&self) -> impl Iterator<Item = &SurveyedPod> {
        self.pods.iter().filter(|pod| pod.pod.is_in_user_namespace())
    }

    fn containers(&self) -> impl Iterator<Item = (&Pod, &Record)> {
        self.isolated().flat_map(|pod| pod.pod.containers.iter().map(|record| (&pod.pod, record.as_ref())))
    }

    fn lost(&self) -> Vec<Problem> {
        let lost = self.pods.iter().flat_map(|pod| pod.pod.lost().map(|record| (&pod.pod, record)));
        let problem = |(pod, record): (&Pod, &std::sync::Arc<Record>)| Problem {
            what: format!(
                "{} runs in the host's user namespace, as the host's root, although its pod asked for a user \
                 namespace",
                container(pod, record)
            ),
            remedy: delete(pod),
        };
        lost.take(MANY).map(problem).collect()
    }

    fn host_roots(&self) -> Vec<Problem> {
        let is_root = |pod: &&SurveyedPod| {
            pod.pod.containers.iter().any(|record| record.assessment() == Assessment::HostRoot)
        };
        let problem = |pod: &SurveyedPod| Problem {
            what: format!(
                "root of pod {}/{} is the host's root: its user namespace maps ID 0 to 0",
                pod.pod.name.namespace, pod.pod.name.name
            ),
            remedy: format!(
                "{}; then check subid_terminal_slot, and userns-mode annotations with auto",
                delete(&pod.pod)
            ),
        };
        self.isolated().filter(is_root).take(MANY).map(problem).collect()
    }

    fn overlaps(&self) -> Vec<Problem> {
        // IDs outside all pools do no harm at present; usernsd_id_range_overlaps counts them.
        let with_someone = |pod: &&SurveyedPod| {
            let mut kinds = OverlapKind::OF_PODS.into_iter().zip(pod.shared);
            kinds.any(|(kind, ids)| ids > 0 && kind != OverlapKind::PodOutsidePool)
        };
        let shared = self.isolated().filter(with_someone);
        let problem = |pod: &SurveyedPod| {
            let with: Vec<String> = OverlapKind::OF_PODS
                .into_iter()
                .zip(pod.shared)
                .filter(|(_, ids)| *ids > 0)
                .map(|(kind, ids)| match kind {
                    OverlapKind::PodOutsidePool => format!("{ids} of its IDs are in no pool"),
                    OverlapKind::PodPod => format!("it shares {ids} IDs with another pod"),
                    OverlapKind::PodHostUser => format!("it has {ids} IDs of users or groups of the host"),
                    _ => format!("it has {ids} IDs of someone else's range in /etc/subuid or /etc/subgid"),
                })
                .collect();
            Problem {
                what: format!("pod {}/{}: {}", pod.pod.name.namespace, pod.pod.name.name, with.join(", ")),
                remedy: format!(
                    "separate the ranges (bootstrap.kubelet.start or bootstrap.ranges; usernsd bootstrap --diff shows what is \
                     written), then: {}",
                    delete(&pod.pod)
                ),
            }
        };
        shared.take(MANY).map(problem).collect()
    }

    fn owners(&self) -> Vec<Problem> {
        let assessed = self.containers().map(|(pod, record)| (pod, record, record.assessment()));
        let wrong = assessed
            .filter(|(.., assessment)| matches!(assessment, Assessment::OwnerWrong | Assessment::Failed));
        let problem = |(pod, record, _): (&Pod, &Record, Assessment)| {
            if let (Some(true) | None, Outcome::Failed(error)) = (record.has_right_owner(), &record.outcome) {
                return Problem {
                    what: format!(
                        "the cgroup of {} could not be handed over: {error}",
                        container(pod, record)
                    ),
                    remedy: "journalctl -u usernsd; the agent tries again with each resync".to_owned(),
                };
            }
            let owner = record.owner.map_or_else(|| "nobody".to_owned(), |owner| owner.to_string());
            let root = record.uid_map.as_ref().and_then(|map| map.root());
            let wanted = root.map_or_else(|| "the container's root".to_owned(), |root| format!("{root}"));
            Problem {
                what: format!(
                    "the cgroup of {} belongs to {owner}, not to {wanted} or another of its users: systemd and \
                     container engines in it fail",
                    container(pod, record)
                ),
                remedy: "start the agent, which hands it over: systemctl start usernsd, or in a DaemonSet see its pod on this node"
                    .to_owned(),
            }
        };
        wrong.take(MANY).map(problem).collect()
    }

    /// The end of a sentence: the containers whose cgroup cannot be read, because they have changed its mode.
    fn closed(&self) -> String {
        let closed = self.containers().filter(|(_, record)| record.outcome == Outcome::Skipped(Skip::Closed));
        let names: Vec<String> = closed.take(MANY).map(|(pod, record)| container(pod, record)).collect();
        match names.as_slice() {
            [] => String::new(),
            names => format!("; unknown for {}, which closed its cgroup (chmod)", names.join(", ")),
        }
    }

    fn read_only(&self, asked: &Annotations) -> Vec<Problem> {
        let read_only = self.containers().filter_map(|(pod, record)| {
            let is_writable = record.mount? == CgroupMount::ReadWrite;
            let why = asks_for_writable(asked.get(&record.sandbox_id)?, &record.name)?;
            (!is_writable).then_some((pod, record, why))
        });
        let problem = |(pod, record, why): (&Pod, &Record, String)| Problem {
            what: format!(
                "/sys/fs/cgroup is read-only in {} although its pod asks for a writable one: {why}",
                container(pod, record)
            ),
            remedy: format!("see that nri_enabled passes and the agent runs, then: {}", delete(pod)),
        };
        read_only.take(MANY).map(problem).collect()
    }

    fn unbounded(&self) -> Vec<Problem> {
        let is_unlimited =
            |record: &Record| record.is_unlimited() || record.assessment() == Assessment::Unlimited;
        let unlimited = self.containers().filter(|(_, record)| is_unlimited(record));
        let problem = |(pod, record): (&Pod, &Record)| {
            Problem {
            what: format!(
                "{} owns its cgroup, and nothing limits the number of cgroups that it creates there: too many can take the node down",
                container(pod, record)
            ),
            remedy: "start the agent, which sets cgroup.max.descendants and cgroup.max.depth: systemctl start usernsd, or in a \
                     DaemonSet see its pod on this node; with delegation.mechanism: none it sets no limits"
                .to_owned(),
        }
        };
        unlimited.take(MANY).map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::container::{CriId, PodRef};
    use crate::delegation::{KnownLimits, Limits};
    use crate::guard::Verdict;
    use crate::idmap::HostId;
    use crate::idmap::IdMap;
    use crate::record::{Source, UserNamespace, UserNamespaceMode};

    fn record() -> Record {
        Record {
            id: CriId::parse("a").unwrap(),
            sandbox_id: "s".into(),
            name: "c".into(),
            pod: PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() },
            pid: None,
            uid_map: Some(IdMap::parse("0 200000 65536").unwrap()),
            gid_map: None,
            user_namespace: Some(UserNamespace { inode: Some(1), is_hosts: false }),
            mode: UserNamespaceMode::Pod,
            mount: Some(CgroupMount::ReadWrite),
            cgroup: None,
            inode: None,
            owner: Some(HostId(200_000)),
            limits: KnownLimits::Set(Limits::DEFAULT),
            outcome: Outcome::AlreadyRight,
            source: Source::Resync,
            isolation: Verdict::Good,
            stage: crate::isolation::Stage::Running,
            missed: false,
        }
    }

    fn bad(record: Record, shared: [u64; 4]) -> Vec<String> {
        let pods = Pod::of(&[Arc::new(record)]);
        let pods: Vec<SurveyedPod> =
            pods.into_iter().map(|pod| SurveyedPod { pod, cgroup: None, shared }).collect();
        let annotation = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let annotations = [
            annotation("usernsd.io/cgroup", "writable"),
            // Another container of the same pod may keep a read-only cgroup.
            annotation("cgroup.usernsd.io/container.sidecar", "read-only"),
        ];
        let asked = [("s".to_owned(), annotations.into())].into();
        let facts = PodFacts { pods: &pods, space_is_known: true, asked: Ok(&asked) };
        let checked = checks(Ok(&facts));
        assert!(Check::of_category(Category::Pods).eq(checked.iter().map(|one| one.check)));
        let bad = checked.iter().filter(|one| one.word() != "pass");
        bad.map(|one| format!("{} {}", one.check.name(), one.word())).collect()
    }

    #[test]
    fn each_check_fails_alone_if_its_cause_is_present() {
        assert_eq!(bad(record(), [0; 4]), Vec::<String>::new());
        assert_eq!(bad(record(), [0, 0, 0, 1]), Vec::<String>::new());
        for shared in [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]] {
            assert_eq!(bad(record(), shared), ["pod_id_overlap fail"]);
        }
        type Spoil = fn(&mut Record);
        let cases: &[(Spoil, &[&str])] = &[
            (
                |r| {
                    r.isolation = Verdict::Lost;
                    r.user_namespace = Some(UserNamespace { inode: Some(2), is_hosts: true });
                    r.outcome = Outcome::Skipped(Skip::HostUserNamespace);
                    r.uid_map = Some(IdMap::parse("0 0 4294967295").unwrap());
                },
                &["pod_isolation fail"],
            ),
            (
                |r| {
                    r.uid_map = Some(IdMap::parse("0 0 65536").unwrap());
                    r.owner = None;
                    r.outcome = Outcome::Skipped(Skip::RootIsHostRoot);
                },
                &["pod_host_root fail"],
            ),
            (|r| r.owner = Some(HostId::ROOT), &["pod_cgroup_owner fail"]),
            (|r| r.outcome = Outcome::Failed("EPERM".into()), &["pod_cgroup_owner fail"]),
            (
                |r| {
                    r.mount = Some(CgroupMount::ReadOnly);
                    r.outcome = Outcome::Skipped(Skip::ReadOnlyMount);
                },
                &["pod_cgroup_writable warn"],
            ),
            (
                |r| {
                    r.name = "sidecar".into();
                    r.mount = Some(CgroupMount::ReadOnly);
                    r.outcome = Outcome::Skipped(Skip::ReadOnlyMount);
                },
                &[],
            ),
            (|r| r.limits = KnownLimits::Missing, &["pod_cgroup_bounded warn"]),
            // crun has handed the cgroup over, although it is mounted read-only.
            (
                |r| {
                    r.name = "sidecar".into();
                    r.mount = Some(CgroupMount::ReadOnly);
                    r.outcome = Outcome::Skipped(Skip::ReadOnlyMount);
                    r.limits = KnownLimits::Missing;
                },
                &["pod_cgroup_bounded warn"],
            ),
        ];
        for (spoil, want) in cases {
            let mut record = record();
            spoil(&mut record);
            assert_eq!(bad(record, [0; 4]), *want);
        }
    }

    #[test]
    fn without_pods_in_user_namespaces_the_checks_report_that() {
        let facts = PodFacts { pods: &[], space_is_known: true, asked: Err("x".into()) };
        assert!(checks(Ok(&facts)).iter().all(|one| one.word() == "skip"));
        assert!(checks(Err("no runtime".into())).iter().all(|one| one.word() == "skip"));
    }

    #[test]
    fn hostile_names_are_not_put_into_commands() {
        let mut hostile = record();
        hostile.pod.name = "x; rm -rf /".into();
        let pods = Pod::of(&[Arc::new(hostile)]);
        assert!(!delete(&pods[0]).contains("rm -rf"));
        assert_eq!(delete(&Pod::of(&[Arc::new(record())])[0]), "kubectl delete pod -n n p");
    }
}
