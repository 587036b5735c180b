//! OpenShift: files that the Machine Config Operator manages.
//!
//! Whenever something changes in their directories, the operator compares mode and content of every file, unit and
//! drop-in of the rendered MachineConfig with the node, and marks the node Degraded if one differs
//! (`pkg/daemon/config_drift_monitor.go`). It ignores other files in those directories. So a listed path is never
//! written; a MachineConfig is written instead.

pub mod disruption;
pub mod merge;

use std::collections::BTreeSet;

use super::finding::{Finding, FindingId};

/// The rendered MachineConfig on the node, in JSON; empty on nodes of a hosted control plane.
pub const CURRENT_CONFIG: &str = "etc/machine-config-daemon/currentconfig";

/// The files that the operator manages on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Managed {
    /// There is no Machine Config Operator.
    Nothing,
    /// The contents of a MachineConfig.
    Listed {
        /// The name, `rendered-worker-…`.
        config: String,
        /// Managed paths, absolute.
        paths: BTreeSet<String>,
        /// Managed units: whether they are enabled is compared, too.
        units: BTreeSet<String>,
    },
    /// There is an operator, but its paths are unknown, and why.
    Unknown(String),
}

impl Managed {
    /// Every path of a MachineConfig: its files, and its units and their drop-ins where systemd finds them.
    #[must_use]
    pub fn of(config: &str, files: Vec<String>, units: Vec<(String, Vec<String>)>) -> Managed {
        let mut paths: BTreeSet<String> = files.into_iter().collect();
        for (unit, drop_ins) in &units {
            let path = format!("/etc/systemd/system/{unit}");
            paths.extend(drop_ins.iter().map(|name| format!("{path}.d/{name}")));
            paths.insert(path);
        }
        let units = units.into_iter().map(|(unit, _)| unit).collect();
        Managed::Listed { config: config.to_owned(), paths, units }
    }

    /// Why these paths must not be written; `None` if they may.
    #[must_use]
    pub fn refusal(&self, paths: &[String]) -> Option<Finding> {
        const REMEDY: &str = "put it into a MachineConfig: usernsd machineconfig renders one";
        let what = match self {
            Managed::Listed { config, .. } => {
                let kept: Vec<&str> =
                    paths.iter().map(String::as_str).filter(|path| self.keeps(path)).collect();
                let (first, ..) = kept.split_first()?;
                let all = if kept.len() == 1 { (*first).to_owned() } else { kept.join(", ") };
                let verb = if kept.len() == 1 { "belongs" } else { "belong" };
                format!(
                    "{all} {verb} to the Machine Config Operator ({config}): changed here, the node would go Degraded"
                )
            }
            Managed::Unknown(why) if !paths.is_empty() => {
                format!("{why}, so it is unknown which files are the Machine Config Operator's own")
            }
            Managed::Nothing | Managed::Unknown(_) => return None,
        };
        Some(Finding::error(FindingId::McoManaged, what, REMEDY))
    }

    /// Whether the operator manages a path, as far as known.
    #[must_use]
    pub fn keeps(&self, path: &str) -> bool {
        let Managed::Listed { paths, units, .. } = self else { return false };
        let enabled = path.strip_prefix("/etc/systemd/system/").and_then(|rest| {
            let (dir, unit) = rest.split_once('/')?;
            [".wants", ".requires", ".upholds"].iter().any(|kind| dir.ends_with(kind)).then_some(unit)
        });
        paths.contains(path) || enabled.is_some_and(|unit| units.contains(unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_paths_are_managed() {
        let managed = Managed::of(
            "rendered-worker-1",
            vec!["/etc/crio/crio.conf.d/00-default".into()],
            vec![("kubelet.service".into(), vec!["10-mco.conf".into()])],
        );
        for (path, kept) in [
            ("/etc/crio/crio.conf.d/00-default", true),
            ("/etc/systemd/system/kubelet.service", true),
            ("/etc/systemd/system/kubelet.service.d/10-mco.conf", true),
            ("/etc/systemd/system/multi-user.target.wants/kubelet.service", true),
            ("/etc/systemd/system/multi-user.target.wants/usernsd.service", false),
            ("/etc/crio/crio.conf.d/99-usernsd.conf", false),
            ("/etc/subuid", false),
        ] {
            assert_eq!(managed.keeps(path), kept, "{path}");
        }
        assert!(!Managed::Nothing.keeps("/etc/subuid"));
    }
}
