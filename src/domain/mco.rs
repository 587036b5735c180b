//! OpenShift: files that the Machine Config Operator keeps as they are.
//!
//! It compares mode and content of every file, unit and drop-in of the rendered MachineConfig with
//! what is on the node, at each change in their directories, and sets the node Degraded where one
//! differs (`pkg/daemon/config_drift_monitor.go`). Other files in those directories are nothing to
//! it. So a listed path is never written; a MachineConfig is.

use std::collections::BTreeSet;

use super::finding::Finding;

/// The rendered MachineConfig on the node, in JSON; empty on nodes of a hosted control plane.
pub const CURRENT_CONFIG: &str = "etc/machine-config-daemon/currentconfig";

/// What the operator keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Managed {
    /// No such operator here.
    Nothing,
    /// These paths, with their leading slash.
    Paths(BTreeSet<String>),
    /// There is one, and nobody can say which paths.
    Unknown(String),
}

impl Managed {
    /// Every path of a MachineConfig: its files, and its units and their drop-ins as systemd finds
    /// them.
    #[must_use]
    pub fn of(files: Vec<String>, units: Vec<(String, Vec<String>)>) -> Managed {
        let mut paths: BTreeSet<String> = files.into_iter().collect();
        for (unit, drop_ins) in units {
            let path = format!("/etc/systemd/system/{unit}");
            paths.extend(drop_ins.iter().map(|name| format!("{path}.d/{name}")));
            paths.insert(path);
        }
        Managed::Paths(paths)
    }

    /// Why a path must not be written; `None` where it may.
    #[must_use]
    pub fn refusal(&self, path: &str) -> Option<Finding> {
        const REMEDY: &str = "write it with a MachineConfig: usernsd machineconfig renders one";
        match self {
            Managed::Nothing => None,
            Managed::Paths(paths) if !paths.contains(path) => None,
            Managed::Paths(_) => {
                let what =
                    format!("{path} belongs to a MachineConfig: changed here, the node would go Degraded");
                Some(Finding::error("mco-managed", what, REMEDY))
            }
            Managed::Unknown(why) => {
                let what = format!("whether {path} belongs to a MachineConfig is not known: {why}");
                Some(Finding::error("mco-managed", what, REMEDY))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_paths_are_refused() {
        let managed = Managed::of(
            vec!["/etc/crio/crio.conf.d/00-default".into()],
            vec![("kubelet.service".into(), vec!["10-mco.conf".into()])],
        );
        for (path, refused) in [
            ("/etc/crio/crio.conf.d/00-default", true),
            ("/etc/systemd/system/kubelet.service", true),
            ("/etc/systemd/system/kubelet.service.d/10-mco.conf", true),
            ("/etc/crio/crio.conf.d/99-usernsd.conf", false),
            ("/etc/subuid", false),
        ] {
            let refusal = managed.refusal(path);
            assert_eq!(refusal.is_some(), refused, "{path}");
            assert!(refusal.is_none_or(|finding| finding.to_string().contains("usernsd machineconfig")));
        }
        assert_eq!(Managed::Nothing.refusal("/etc/subuid"), None);
        assert!(Managed::Unknown("x".into()).refusal("/etc/subuid").is_some());
    }
}
