//! The section `bootstrap`: subordinate IDs and the kubelet.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::keys::{Bootstrap, Located};
use super::validate::Validator;
use usernsd_domain::crio::drop_in::CrioOptions;
use usernsd_domain::idplan::{CONTAINERS, CORE, DesiredIds, DesiredRange, KubeletOptions};
use usernsd_domain::kubelet::{DEFAULT_IDS_PER_POD, USER};
use usernsd_domain::nri_plugin::PluginOptions;
use usernsd_domain::oci_hook::HookOptions;
use usernsd_domain::paths::KUBELET;
use usernsd_domain::provision::HostPath;
use usernsd_domain::ranges::{FIRST, LIMIT, MOST_OWNERS};
use usernsd_domain::runtime::RuntimeOverride;

/// A range of subordinate IDs as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapRange {
    /// A user name or a user ID.
    pub owner: String,
    /// The first ID.
    pub start: Option<u64>,
    /// Number of IDs.
    pub count: Option<u64>,
    /// Number of pods, instead of `count`.
    pub pods: Option<u64>,
    /// Number of IDs per pod.
    pub ids_per_pod: Option<u64>,
}

/// The kubelet's range as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapKubelet {
    /// Whether it gets a range.
    pub user: String,
    /// The first ID.
    pub start: Option<u64>,
    /// Number of pods.
    pub max_pods: Option<u64>,
    /// Number of IDs per pod.
    pub ids_per_pod: Option<u64>,
    /// The kubelet's root directory.
    pub root_dir: String,
}

/// The validated section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapSettings {
    /// Whether `usernsd bootstrap` prepares this node.
    pub enabled: bool,
    /// The ranges of subordinate IDs.
    pub ids: DesiredIds,
    /// The container runtime to prepare.
    pub runtime: RuntimeOverride,
    /// The settings of CRI-O's drop-in.
    pub crio: CrioOptions,
    /// Whether containerd should offer NRI.
    pub containerd_nri: bool,
    /// The OCI hook.
    pub hook: HookOptions,
    /// The pre-installed NRI plugin.
    pub plugin: PluginOptions,
    /// Whether to raise the kernel's limit of user namespaces if it is too low.
    pub apply_sysctl: bool,
}

// === impl BootstrapKubelet ===

impl Default for BootstrapKubelet {
    fn default() -> BootstrapKubelet {
        BootstrapKubelet {
            user: "if-present".into(),
            start: None,
            max_pods: None,
            ids_per_pod: None,
            root_dir: KUBELET.to_string(),
        }
    }
}

// === impl Validator ===

impl Validator<'_> {
    pub(super) fn bootstrap(&self, bootstrap: &Bootstrap) -> Result<BootstrapSettings, ConfigError> {
        let at = &bootstrap.ranges;
        if at.value.len() > MOST_OWNERS {
            let what = format!("it has {} owners", at.value.len());
            let remedy = format!("leave some out: at most {MOST_OWNERS} get a range");
            return Err(self.refuse("bootstrap.ranges", at, what, remedy));
        }
        let mut ranges: Vec<DesiredRange> = Vec::new();
        for range in &at.value {
            let desired = self.range(at, range)?;
            if ranges.iter().any(|known| known.owner == desired.owner) {
                let what = format!("{} is there twice", desired.owner);
                return Err(self.refuse(
                    "bootstrap.ranges",
                    at,
                    what,
                    "write one range for each owner".into(),
                ));
            }
            ranges.push(desired);
        }
        let ranges = Some(ranges).filter(|ranges| !ranges.is_empty());
        Ok(BootstrapSettings {
            enabled: bootstrap.enabled.value,
            ids: DesiredIds { ranges, kubelet: self.kubelet(&bootstrap.kubelet)? },
            runtime: self.runtime_override(bootstrap)?,
            crio: self.crio(&bootstrap.crio)?,
            containerd_nri: bootstrap.containerd.value.nri,
            hook: self.hook(&bootstrap.hook)?,
            plugin: self.plugin(&bootstrap.nri)?,
            apply_sysctl: bootstrap.apply_sysctl.value,
        })
    }

    fn range(
        &self,
        at: &Located<Vec<BootstrapRange>>,
        range: &BootstrapRange,
    ) -> Result<DesiredRange, ConfigError> {
        let refuse = |what: String, remedy: &str| self.refuse("bootstrap.ranges", at, what, remedy.into());
        let BootstrapRange { owner, start, count, pods, ids_per_pod } = range;
        if owner == USER {
            return Err(refuse("kubelet is in the list".into(), "set it under bootstrap.kubelet"));
        }
        let is_name = !owner.is_empty()
            && owner.len() <= 256
            && owner.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-@$\\".contains(&byte));
        if !is_name {
            let what = format!("{:?} is no user", owner.chars().take(80).collect::<String>());
            return Err(refuse(what, "write a user's name or number"));
        }
        let default = [CONTAINERS, CORE].into_iter().find(|(known, ..)| known == owner);
        let each = ids_per_pod.unwrap_or(DEFAULT_IDS_PER_POD);
        let count = match (count, pods, default) {
            (Some(count), None, _) => Some(*count),
            (None, Some(pods), _) => pods.checked_mul(each),
            (None, None, Some((_, _, count))) => Some(count),
            _ => return Err(refuse(format!("how many IDs {owner} gets is not clear"), "set count or pods")),
        };
        let fits =
            count.filter(|count| *count > 0).and_then(|count| start.unwrap_or(FIRST).checked_add(count));
        let Some(count) =
            count.filter(|_| start.unwrap_or(FIRST) >= FIRST && fits.is_some_and(|end| end <= LIMIT))
        else {
            let remedy =
                format!("stay within {FIRST} to {}: the rest is the host's own, or never works", LIMIT - 1);
            return Err(refuse(format!("the range of {owner} is out of bounds"), &remedy));
        };
        Ok(DesiredRange { owner: owner.clone(), start: *start, count })
    }

    fn kubelet(&self, at: &Located<BootstrapKubelet>) -> Result<KubeletOptions, ConfigError> {
        let BootstrapKubelet { user, start, max_pods, ids_per_pod, root_dir } = &at.value;
        let key = "bootstrap.kubelet";
        let refuse = |what: String, remedy: &str| self.refuse(key, at, what, remedy.into());
        let user = self.one_of_field(key, at, "user", user)?;
        if ids_per_pod.is_some_and(|ids| ids == 0 || !ids.is_multiple_of(65_536) || ids > LIMIT) {
            return Err(refuse("idsPerPod is no multiple of 65536".into(), "the kubelet takes no other"));
        }
        if max_pods.is_some_and(|pods| pods == 0 || pods > 65_535) {
            return Err(refuse("maxPods is out of bounds".into(), "write a number from 1 to 65535"));
        }
        if start.is_some_and(|start| !(FIRST..LIMIT).contains(&start)) {
            let remedy = format!("write a number from {FIRST} to {}", LIMIT - 1);
            return Err(refuse("start is out of bounds".into(), &remedy));
        }
        let root = HostPath::parse(root_dir).ok().filter(|_| root_dir.starts_with('/'));
        let Some(root) = root else {
            let what =
                format!("rootDir: {:?} is no absolute path", root_dir.chars().take(80).collect::<String>());
            return Err(refuse(what, "write the kubelet's --root-dir"));
        };
        let root_dir = Some(root).filter(|root| *root != KUBELET);
        Ok(KubeletOptions { user, start: *start, max_pods: *max_pods, ids_per_pod: *ids_per_pod, root_dir })
    }
}
