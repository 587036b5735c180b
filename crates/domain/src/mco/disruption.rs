//! What the Machine Config Operator does to a node for a change of its MachineConfig.
//!
//! Function names in comments are those of openshift/machine-config-operator, as of August 2026.

use std::collections::BTreeMap;

use super::merge::{ChangedPart, ConfigChange};

/// What the operator does on a node after it wrote a change (opv1.NodeDisruptionPolicyStatusAction).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisruptionAction {
    None,
    /// Evict the node's pods before anything is written.
    Drain,
    /// systemd reads its units again.
    DaemonReload,
    /// Reload that service.
    Reload(String),
    /// Restart that service.
    Restart(String),
    /// Only for `/etc/containers/registries.conf`: reload CRI-O, and drain unless nothing but mirrors for digests is
    /// added (isSafeContainerRegistryConfChanges).
    Special,
    /// Drain the node and reboot it.
    Reboot,
}

/// The actions for each kind of change. A change without an action takes a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DisruptionPolicies {
    /// By path: of a file, or of a directory for everything below it.
    pub files: BTreeMap<String, Vec<DisruptionAction>>,
    /// By name of the unit.
    pub units: BTreeMap<String, Vec<DisruptionAction>>,
    /// For the SSH keys and the password of the user `core`.
    pub users: Vec<DisruptionAction>,
}

/// What happens on each node of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consequence {
    /// There is no change.
    Nothing,
    /// The operator refuses the MachineConfig: the pool becomes degraded, and no node changes.
    Refused(Vec<String>),
    /// The node goes on running: the actions in their order, each with the change that causes it.
    Live(Vec<(DisruptionAction, String)>),
    /// The node is drained and rebooted because of these changes.
    Reboot(Vec<String>),
}

const CRIO: &str = "crio.service";
const UPDATE_CA_TRUST: &str = "coreos-update-ca-trust.service";
const IRI_REGISTRY: &str = "iri-registry.service";
const REGISTRIES_CONF: &str = "/etc/containers/registries.conf";
const USER_CA_BUNDLE: &str = "/etc/pki/ca-trust/source/anchors/openshift-config-user-ca-bundle.crt";

impl DisruptionPolicies {
    /// The operator's own policies (apihelpers.go, defaultClusterPolicies). Older versions have fewer of them; the
    /// cluster's are in the status of `MachineConfiguration/cluster`.
    #[must_use]
    pub fn defaults() -> DisruptionPolicies {
        let reload = || vec![DisruptionAction::Reload(CRIO.to_owned())];
        let restart = |unit: &str| DisruptionAction::Restart(unit.to_owned());
        let kubelet = || restart("kubelet.service");
        let files = [
            ("/var/lib/kubelet/config.json", vec![DisruptionAction::None]),
            ("/etc/machine-config-daemon/no-reboot/containers-gpg.pub", reload()),
            ("/etc/containers/policy.json", reload()),
            (REGISTRIES_CONF, vec![DisruptionAction::Special]),
            ("/etc/containers/registries.d", reload()),
            ("/etc/crio/policies", reload()),
            ("/etc/nmstate/openshift", vec![DisruptionAction::None]),
            (USER_CA_BUNDLE, vec![restart(UPDATE_CA_TRUST), restart(CRIO)]),
            ("/etc/kubernetes/credential-providers", vec![kubelet()]),
            (
                "/etc/systemd/system/kubelet.service.d/40-kubelet-crio-image-credential-provider.conf",
                vec![DisruptionAction::DaemonReload, kubelet()],
            ),
            ("/etc/iri-registry", vec![restart(IRI_REGISTRY)]),
            ("/usr/local/bin/load-registry-image.sh", vec![restart(IRI_REGISTRY)]),
            ("/etc/pki/ca-trust/source/anchors/iri-root-ca.crt", vec![restart(UPDATE_CA_TRUST)]),
        ];
        let registry = (IRI_REGISTRY.to_owned(), vec![DisruptionAction::DaemonReload, restart(IRI_REGISTRY)]);
        DisruptionPolicies {
            files: files.into_iter().map(|(path, actions)| (path.to_owned(), actions)).collect(),
            units: BTreeMap::from([registry]),
            users: vec![DisruptionAction::None],
        }
    }

    /// The fixed rules of operators without NodeDisruptionPolicy, before OpenShift 4.17
    /// (calculatePostConfigChangeActionFromMCDiffs). Each unit takes a reboot.
    #[must_use]
    pub fn fixed() -> DisruptionPolicies {
        let reload = || vec![DisruptionAction::Reload(CRIO.to_owned())];
        let restart = |unit: &str| DisruptionAction::Restart(unit.to_owned());
        let files = [
            ("/etc/kubernetes/kubelet-ca.crt", vec![DisruptionAction::None]),
            ("/var/lib/kubelet/config.json", vec![DisruptionAction::None]),
            ("/etc/nmstate/openshift", vec![DisruptionAction::None]),
            (REGISTRIES_CONF, vec![DisruptionAction::Special]),
            ("/etc/machine-config-daemon/no-reboot/containers-gpg.pub", reload()),
            ("/etc/containers/policy.json", reload()),
            ("/etc/containers/registries.d", reload()),
            (USER_CA_BUNDLE, vec![restart(UPDATE_CA_TRUST), restart(CRIO)]),
        ];
        DisruptionPolicies {
            files: files.into_iter().map(|(path, actions)| (path.to_owned(), actions)).collect(),
            units: BTreeMap::new(),
            users: vec![DisruptionAction::None],
        }
    }

    /// These policies, with others that replace those of the same path or unit (MergeClusterPolicies).
    #[must_use]
    pub fn with(mut self, others: &DisruptionPolicies) -> DisruptionPolicies {
        self.files.extend(others.files.clone());
        self.units.extend(others.units.clone());
        if !others.users.is_empty() {
            self.users.clone_from(&others.users);
        }
        self
    }

    /// The policy of the path itself, or of the nearest directory above it (FindClosestFilePolicyPathMatch).
    fn of_file(&self, path: &str) -> Option<&Vec<DisruptionAction>> {
        let covers = |policy: &str| {
            let below = path.strip_prefix(policy.trim_end_matches('/'));
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let matching = self.files.iter().filter(|(policy, _)| covers(policy));
        matching.max_by_key(|(policy, _)| policy.len()).map(|(_, actions)| actions)
    }
}

/// What the operator does for these changes (calculatePostConfigChangeNodeDisruptionAction, update).
#[must_use]
pub fn consequence(
    changes: &[ConfigChange],
    policies: &DisruptionPolicies,
    refused: Vec<String>,
) -> Consequence {
    if !refused.is_empty() {
        return Consequence::Refused(refused);
    }
    if changes.is_empty() {
        return Consequence::Nothing;
    }
    let (mut reboot, mut live) = (Vec::new(), Vec::new());
    for ConfigChange { what, .. } in changes {
        let actions = match what {
            ChangedPart::File(path) => policies.of_file(path),
            ChangedPart::Unit(name) => policies.units.get(name),
            ChangedPart::Users => Some(&policies.users),
            // calculatePostConfigChangeNodeDisruptionAction: "must reboot"
            ChangedPart::KernelArguments | ChangedPart::System(_) => None,
        };
        match actions {
            Some(actions) if !actions.contains(&DisruptionAction::Reboot) => {
                live.extend(actions.iter().map(|action| (action.clone(), what.to_string())));
            }
            _ => reboot.push(what.to_string()),
        }
    }
    if !reboot.is_empty() {
        return Consequence::Reboot(reboot);
    }
    // "None" beside other actions is left out, and a drain comes before the files are written.
    live.retain(|(action, _)| *action != DisruptionAction::None);
    live.sort_by_key(|(action, _)| !matches!(action, DisruptionAction::Drain | DisruptionAction::Special));
    Consequence::Live(live)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> ConfigChange {
        ConfigChange { what: ChangedPart::File(path.to_owned()), how: super::super::merge::Difference::New }
    }

    #[test]
    fn the_longest_policy_that_covers_a_path_counts() {
        let mut policies = DisruptionPolicies::defaults();
        policies.files.insert("/etc/crio".into(), vec![DisruptionAction::Restart("a.service".into())]);
        policies.files.insert("/etc/crio/crio.conf.d/99-x.conf".into(), vec![DisruptionAction::None]);
        for (path, want) in [
            ("/etc/crio/crio.conf.d/99-x.conf", Some(vec![DisruptionAction::None])),
            ("/etc/crio/crio.conf.d/98-x.conf", Some(vec![DisruptionAction::Restart("a.service".into())])),
            ("/etc/crio/policies/x.json", Some(vec![DisruptionAction::Reload("crio.service".into())])),
            ("/etc/crio", Some(vec![DisruptionAction::Restart("a.service".into())])),
            ("/etc/criox", None),
            ("/etc", None),
        ] {
            assert_eq!(policies.of_file(path), want.as_ref(), "{path}");
        }
    }

    #[test]
    fn a_change_without_a_policy_reboots_and_is_named() {
        let policies = DisruptionPolicies::defaults();
        let changes = [file("/etc/containers/policy.json"), file("/etc/motd")];
        assert_eq!(
            consequence(&changes, &policies, Vec::new()),
            Consequence::Reboot(vec!["/etc/motd".into()])
        );
        for what in [
            ChangedPart::KernelArguments,
            ChangedPart::System("the OS image".into()),
            ChangedPart::Unit("a.service".into()),
        ] {
            let change = ConfigChange { what: what.clone(), how: super::super::merge::Difference::New };
            assert_eq!(
                consequence(&[change], &policies, Vec::new()),
                Consequence::Reboot(vec![what.to_string()])
            );
        }
    }

    #[test]
    fn a_policy_may_demand_a_reboot() {
        let mut policies = DisruptionPolicies::defaults();
        policies.files.insert("/etc/motd".into(), vec![DisruptionAction::Reboot]);
        assert_eq!(
            consequence(&[file("/etc/motd")], &policies, Vec::new()),
            Consequence::Reboot(vec!["/etc/motd".into()])
        );
    }

    #[test]
    fn a_drain_comes_first_and_none_is_left_out() {
        let mut policies = DisruptionPolicies::default();
        let restart = DisruptionAction::Restart("crio.service".into());
        policies.files.insert("/a".into(), vec![DisruptionAction::None]);
        policies.files.insert("/b".into(), vec![restart.clone()]);
        policies.files.insert("/c".into(), vec![DisruptionAction::Drain]);
        let changes = [file("/a"), file("/b"), file("/c")];
        assert_eq!(
            consequence(&changes, &policies, Vec::new()),
            Consequence::Live(vec![(DisruptionAction::Drain, "/c".into()), (restart, "/b".into())])
        );
        assert_eq!(consequence(&changes[..1], &policies, Vec::new()), Consequence::Live(Vec::new()));
    }

    #[test]
    fn before_node_disruption_policies_a_drop_in_of_crio_reboots() {
        let own = file("/etc/crio/crio.conf.d/99-usernsd.conf");
        assert!(matches!(
            consequence(&[own], &DisruptionPolicies::fixed(), Vec::new()),
            Consequence::Reboot(_)
        ));
    }
}
