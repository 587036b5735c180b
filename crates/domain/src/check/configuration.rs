//! Files that this program writes: those that it would change, and those that services have not read.

use super::{Check, CheckOutcome, Checked, Probe, Problem};
use crate::nri_plugin::is_file_name;
use crate::oci_hook::PROGRAM;
use crate::provision::HostPath;
use crate::restart::{SET_ELSEWHERE, Service, Unread};

/// Which part of the configuration a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigFile {
    /// `/etc/subuid`
    Subuid,
    /// `/etc/subgid`
    Subgid,
    /// The user `kubelet`: `/etc/passwd` and similar files.
    Kubelet,
    /// CRI-O's drop-in.
    Crio,
    /// containerd's drop-in.
    Containerd,
    /// The OCI hook and its program.
    Hook,
    /// The pre-installed NRI plugin and its configuration.
    Plugin,
    /// The kernel setting.
    Sysctl,
}

/// The facts that the checks need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFacts {
    /// Why the last run of `usernsd bootstrap` before the agent could not prepare the node, if it failed.
    pub failure: Probe<Option<String>>,
    /// What `usernsd bootstrap` would do.
    pub drift: Probe<Drift>,
    /// Services whose running configuration differs from their files.
    pub pending: Probe<Vec<Unread>>,
    /// Whether a pod has IDs outside the range with which the kubelet would start.
    pub has_pods_outside: bool,
}

/// The action that `usernsd bootstrap` would take on the node as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// Change these files, for these reasons; none if the node is prepared.
    Changes(Vec<(HostPath, String)>),
    /// Refuse; with the reason.
    Refused(String),
}

// === impl ConfigFile ===

words! {
    /// The name in metrics and documents.
    ConfigFile {
        Subuid = "subuid",
        Subgid = "subgid",
        Kubelet = "kubelet",
        Crio = "crio",
        Containerd = "containerd",
        Hook = "hook",
        Plugin = "plugin",
        Sysctl = "sysctl",
    }
}

impl ConfigFile {
    /// The part that a path belongs to; `None` for a path that is never written.
    #[must_use]
    pub fn of(path: &HostPath) -> Option<ConfigFile> {
        let is_plugin = is_file_name(path.name().trim_end_matches(".conf"));
        let path = path.as_str();
        Some(match path {
            "etc/subuid" => ConfigFile::Subuid,
            "etc/subgid" => ConfigFile::Subgid,
            "etc/passwd" | "etc/group" | "etc/shadow" | "etc/gshadow" => ConfigFile::Kubelet,
            _ if path.starts_with("etc/crio/") => ConfigFile::Crio,
            _ if path.starts_with("etc/containerd/") || path.ends_with("/99-usernsd.toml") => {
                ConfigFile::Containerd
            }
            _ if path.starts_with("etc/sysctl.d/") => ConfigFile::Sysctl,
            _ if path.contains("/hooks.d/") || path == PROGRAM.trim_start_matches('/') => ConfigFile::Hook,
            _ if is_plugin => ConfigFile::Plugin,
            _ => return None,
        })
    }
}

#[must_use]
pub fn checks(facts: &ConfigFacts) -> Vec<Checked> {
    vec![
        result(&facts.failure),
        drift(&facts.drift),
        range(&facts.pending, facts.has_pods_outside),
        pending(&facts.pending),
    ]
}

fn result(failure: &Probe<Option<String>>) -> Checked {
    match failure {
        Err(why) => Check::BootstrapResult.skipped(why.clone()),
        Ok(None) => Check::BootstrapResult.passed(Check::BootstrapResult.meaning()),
        Ok(Some(error)) => Check::BootstrapResult.failed(
            format!("usernsd bootstrap could not make this node ready: {error}"),
            "correct that and run it again: usernsd bootstrap; in a DaemonSet, delete the agent's pod of this node",
        ),
    }
}

fn drift(drift: &Probe<Drift>) -> Checked {
    match drift {
        Err(why) => Check::ConfigDrift.skipped(why.clone()),
        Ok(Drift::Refused(refused)) => Check::ConfigDrift
            .failed(format!("usernsd bootstrap would refuse: {refused}"), "usernsd bootstrap --diff shows the rest of the plan; the settings of ranges are bootstrap.ranges and bootstrap.kubelet"),
        Ok(Drift::Changes(changes)) if changes.is_empty() => Check::ConfigDrift.passed(Check::ConfigDrift.meaning()),
        Ok(Drift::Changes(changes)) => {
            let files: Vec<String> = changes
                .iter()
                .map(|(path, reason)| match reason.as_str() {
                    "" => path.to_string(),
                    reason => format!("{path}: {reason}"),
                })
                .collect();
            Check::ConfigDrift.failed(
                format!("usernsd bootstrap would change {}", files.join("; ")),
                "usernsd bootstrap; to see the changes first: usernsd bootstrap --diff",
            )
        }
    }
}

fn range(pending: &Probe<Vec<Unread>>, has_pods_outside: bool) -> Checked {
    let pending = match pending {
        Err(why) => return Check::KubeletRangeRead.skipped(why.clone()),
        Ok(pending) => pending,
    };
    match pending.iter().find(|unread| unread.is_of_range()) {
        None => Check::KubeletRangeRead.passed(Check::KubeletRangeRead.meaning()),
        Some(unread) => {
            let restart = format!("systemctl restart {}", unread.unit);
            // With such a pod the kubelet would not start.
            let remedy = if has_pods_outside { format!("drain the node, then: {restart}") } else { restart };
            Check::KubeletRangeRead.failed(unread.describe(), &remedy)
        }
    }
}

fn pending(pending: &Probe<Vec<Unread>>) -> Checked {
    let pending: Probe<Vec<Unread>> = pending
        .as_ref()
        .map(|all| all.iter().filter_map(Unread::beside_range).collect())
        .map_err(Clone::clone);
    match pending {
        Err(why) => Check::RestartPending.skipped(why),
        Ok(pending) if pending.is_empty() => Check::RestartPending.passed(Check::RestartPending.meaning()),
        Ok(pending) => {
            let problems = pending.iter().map(|unread| {
                let unit = unread.unit;
                let remedy = match unread.service {
                    _ if unread.files.is_empty() => SET_ELSEWHERE.to_owned(),
                    Service::Crio => format!("see crio_restart, then: systemctl restart {unit}"),
                    Service::Containerd | Service::Kubelet => format!("systemctl restart {unit}"),
                };
                Problem { what: unread.describe(), remedy }
            });
            Checked { check: Check::RestartPending, outcome: CheckOutcome::Failed(problems.collect()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::{DROP_IN, MAIN_FILE};
    use crate::crio::drop_in;
    use crate::idplan::ACCOUNT_FILES;
    use crate::kernel::SYSCTL_FILE;
    use crate::oci_hook::{self, DIRECTORIES, HookCondition};
    use crate::paths::SUBUID;

    #[test]
    fn every_written_file_belongs_to_a_part() {
        let hook = oci_hook::plan(PROGRAM, None, &[DIRECTORIES[1].to_owned()], &HookCondition::Always);
        let hook: Vec<String> = hook.files.into_iter().map(|file| file.path).collect();
        let of = |path: &str| ConfigFile::of(&HostPath::parse(path).unwrap());
        assert_eq!(of(drop_in::PATH), Some(ConfigFile::Crio));
        assert_eq!(of(SYSCTL_FILE), Some(ConfigFile::Sysctl));
        assert_eq!(of(MAIN_FILE), Some(ConfigFile::Containerd));
        for path in ["/etc/k0s/containerd.d", "/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d"] {
            assert_eq!(of(&format!("{path}/{DROP_IN}")), Some(ConfigFile::Containerd));
        }
        assert!(hook.iter().all(|path| of(path) == Some(ConfigFile::Hook)), "{hook:?}");
        for (_, path) in &ACCOUNT_FILES {
            assert_eq!(ConfigFile::of(path), Some(ConfigFile::Kubelet));
        }
        for path in ["/opt/nri/plugins/90-usernsd", "/etc/nri/conf.d/90-usernsd.conf"] {
            assert_eq!(of(path), Some(ConfigFile::Plugin));
        }
        assert_eq!(of("/etc/fstab"), None);
    }

    #[test]
    fn a_failed_run_is_an_error_with_its_reason() {
        let checked = result(&Ok(Some("no room for a range; nothing was changed".into())));
        let CheckOutcome::Failed(problems) = &checked.outcome else { panic!("{checked:?}") };
        assert!(problems[0].what.contains("no room for a range"));
        assert!(checked.blocks_readiness());
        assert_eq!(result(&Err("prepared by someone else".into())).word(), "skip");
    }

    #[test]
    fn each_check_fails_alone_if_its_cause_is_present() {
        let words = |drift, pending| -> Vec<&'static str> {
            let facts = ConfigFacts { failure: Ok(None), drift, pending, has_pods_outside: false };
            let checked = checks(&facts);
            assert_eq!(checked.first().map(Checked::word), Some("pass"));
            checked.iter().skip(1).map(Checked::word).collect()
        };
        let changed = || vec![(SUBUID, "x gets y".to_owned())];
        let one = Unread {
            service: Service::Crio,
            unit: "crio.service",
            files: vec!["/etc/subuid".to_owned()],
            differences: None,
        };
        let unread = || vec![one.clone()];
        assert_eq!(words(Ok(Drift::Changes(vec![])), Ok(vec![])), ["pass", "pass", "pass"]);
        assert_eq!(words(Ok(Drift::Changes(changed())), Ok(unread())), ["warn", "pass", "warn"]);
        assert_eq!(words(Ok(Drift::Refused("no".into())), Err("no bus".into())), ["warn", "skip", "skip"]);
        assert_eq!(words(Err("no".into()), Ok(vec![])), ["skip", "pass", "pass"]);
        let kubelet = Unread { service: Service::Kubelet, unit: "kubelet.service", ..one.clone() };
        assert_eq!(words(Ok(Drift::Changes(vec![])), Ok(vec![kubelet])), ["pass", "fail", "pass"]);
    }

    #[test]
    fn a_kubelet_with_pods_outside_its_range_is_restarted_after_a_drain() {
        let files = vec!["/etc/subuid".to_owned()];
        let unread =
            Ok(vec![Unread { service: Service::Kubelet, unit: "kubelet.service", files, differences: None }]);
        let remedy = |has_pods_outside| match range(&unread, has_pods_outside).outcome {
            CheckOutcome::Failed(problems) => problems[0].remedy.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(remedy(false), "systemctl restart kubelet.service");
        assert_eq!(remedy(true), "drain the node, then: systemctl restart kubelet.service");
    }
}
