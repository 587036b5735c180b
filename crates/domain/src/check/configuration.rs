//! Files that this program writes: those that it would change, and those that services have not read.

use super::{Check, Checked, Outcome, Probe, Problem};
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
    /// Files that `usernsd bootstrap` would change, with the reasons; or why it would refuse.
    pub drift: Probe<Result<Vec<(HostPath, String)>, String>>,
    /// Services whose running configuration differs from their files.
    pub pending: Probe<Vec<Unread>>,
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
            _ if path.starts_with("etc/containerd/") => ConfigFile::Containerd,
            _ if path.starts_with("etc/sysctl.d/") => ConfigFile::Sysctl,
            _ if path.contains("/hooks.d/") || path == PROGRAM.trim_start_matches('/') => ConfigFile::Hook,
            _ if is_plugin => ConfigFile::Plugin,
            _ => return None,
        })
    }
}

/// The checks.
#[must_use]
pub fn checks(facts: &ConfigFacts) -> Vec<Checked> {
    vec![result(&facts.failure), drift(&facts.drift), pending(&facts.pending)]
}

fn result(failure: &Probe<Option<String>>) -> Checked {
    match failure {
        Err(why) => Check::BootstrapResult.skipped(why.clone()),
        Ok(None) => Check::BootstrapResult.passed(Check::BootstrapResult.meaning()),
        Ok(Some(error)) => Check::BootstrapResult.failed(
            format!("usernsd bootstrap could not make this node ready: {error}"),
            "put that right and run it again: usernsd bootstrap; in a DaemonSet, delete the agent's pod of this node",
        ),
    }
}

fn drift(drift: &Probe<Result<Vec<(HostPath, String)>, String>>) -> Checked {
    match drift {
        Err(why) => Check::ConfigDrift.skipped(why.clone()),
        Ok(Err(refused)) => Check::ConfigDrift
            .failed(format!("usernsd bootstrap would refuse: {refused}"), "see usernsd bootstrap --diff"),
        Ok(Ok(changes)) if changes.is_empty() => Check::ConfigDrift.passed(Check::ConfigDrift.meaning()),
        Ok(Ok(changes)) => {
            let files: Vec<String> = changes
                .iter()
                .map(|(path, reason)| match reason.as_str() {
                    "" => path.to_string(),
                    reason => format!("{path}: {reason}"),
                })
                .collect();
            Check::ConfigDrift.failed(
                format!("usernsd bootstrap would change {}", files.join("; ")),
                "usernsd bootstrap; show it first: usernsd bootstrap --diff",
            )
        }
    }
}

fn pending(pending: &Probe<Vec<Unread>>) -> Checked {
    match pending {
        Err(why) => Check::RestartPending.skipped(why.clone()),
        Ok(pending) if pending.is_empty() => Check::RestartPending.passed(Check::RestartPending.meaning()),
        Ok(pending) => {
            let problems = pending.iter().map(|unread| {
                let unit = unread.service.unit();
                let remedy = match unread.service {
                    _ if unread.files.is_empty() => SET_ELSEWHERE.to_owned(),
                    Service::Crio => format!("look at crio_restart, then: systemctl restart {unit}"),
                    Service::Containerd | Service::Kubelet => format!("systemctl restart {unit}"),
                };
                Problem { what: unread.what(), remedy }
            });
            Checked { check: Check::RestartPending, outcome: Outcome::Failed(problems.collect()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::MAIN_FILE;
    use crate::crio::drop_in;
    use crate::idplan::ACCOUNT_FILES;
    use crate::kernel::SYSCTL_FILE;
    use crate::oci_hook::{self, DIRECTORIES, When};

    #[test]
    fn every_written_file_belongs_to_a_part() {
        let hook = oci_hook::plan(PROGRAM, None, &[DIRECTORIES[1].to_owned()], &When::Always);
        let hook: Vec<String> = hook.files.into_iter().map(|file| file.path).collect();
        let of = |path: &str| ConfigFile::of(&HostPath::parse(path).unwrap());
        assert_eq!(of(drop_in::PATH), Some(ConfigFile::Crio));
        assert_eq!(of(SYSCTL_FILE), Some(ConfigFile::Sysctl));
        assert_eq!(of(MAIN_FILE), Some(ConfigFile::Containerd));
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
        let Outcome::Failed(problems) = &checked.outcome else { panic!("{checked:?}") };
        assert!(problems[0].what.contains("no room for a range"));
        assert!(checked.blocks_readiness());
        assert_eq!(result(&Err("prepared by someone else".into())).word(), "skip");
    }

    #[test]
    fn each_check_fails_alone_if_its_cause_is_present() {
        let words = |drift, pending| -> Vec<&'static str> {
            let facts = ConfigFacts { failure: Ok(None), drift, pending };
            let checked = checks(&facts);
            assert_eq!(checked.first().map(Checked::word), Some("pass"));
            checked.iter().skip(1).map(Checked::word).collect()
        };
        let changed = || vec![(HostPath::fixed("etc/subuid"), "x gets y".to_owned())];
        let one = Unread { service: Service::Crio, files: vec!["/etc/subuid".to_owned()], differences: None };
        let unread = || vec![one.clone()];
        assert_eq!(words(Ok(Ok(vec![])), Ok(vec![])), ["pass", "pass"]);
        assert_eq!(words(Ok(Ok(changed())), Ok(unread())), ["warn", "warn"]);
        assert_eq!(words(Ok(Err("no".into())), Err("no bus".into())), ["warn", "skip"]);
        assert_eq!(words(Err("no".into()), Ok(vec![])), ["skip", "pass"]);
    }
}
