//! The section `bootstrap`: the container runtime to prepare.

use serde::{Deserialize, Serialize};

use super::keys::{Bootstrap, Located};
use super::validate::Validator;
use super::{ConfigError, one_of_named};
use usernsd_domain::chain::chain;
use usernsd_domain::containerd::Release;
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::drop_in::CrioOptions;
use usernsd_domain::nri_plugin::PluginOptions;
use usernsd_domain::oci_hook::HookOptions;
use usernsd_domain::provision::HostPath;
use usernsd_domain::runtime::{RuntimeChoice, RuntimeKind, RuntimeOverride};

const RUNTIMES: [(&str, RuntimeChoice); 4] = [
    ("auto", RuntimeChoice::Auto),
    ("crio", RuntimeChoice::Only(RuntimeKind::Crio)),
    ("containerd", RuntimeChoice::Only(RuntimeKind::Containerd)),
    ("none", RuntimeChoice::None),
];
const USERNS_MODES: [(&str, Option<bool>); 3] =
    [("auto", None), ("always", Some(true)), ("never", Some(false))];

/// The settings of CRI-O's drop-in as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapCrio {
    /// CRI-O's version, if it cannot be asked.
    pub version: Option<String>,
    /// Whether pods may ask for a writable cgroup.
    pub writable_cgroup: bool,
    /// Whether pods may ask for a user namespace by annotation.
    pub userns_mode: String,
    /// Whether CRI-O sends events over CRI.
    pub pod_events: bool,
    /// Whether NRI is enabled.
    pub nri: bool,
    /// Whether `ping` works in every pod.
    pub ping_group_range: bool,
}

/// The settings of containerd's drop-in as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapContainerd {
    /// containerd's version, if it cannot be asked.
    pub version: Option<String>,
    /// Whether NRI is enabled.
    pub nri: bool,
}

/// The settings of the OCI hook as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapHook {
    /// When the hook is installed: `auto`, `always` or `never`.
    pub install: String,
    /// The program's path on the host.
    pub path: String,
    /// The directory for its JSON.
    pub directory: Option<String>,
    /// The configuration file for the hook.
    pub config: Option<String>,
}

/// The settings of the pre-installed NRI plugin as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapNri {
    /// When the plugin is installed: `auto` or `never`.
    pub plugin: String,
    /// For which pods the runtime requires the plugin: `off`, `annotated` or `all`.
    pub required: String,
}

impl Default for BootstrapNri {
    fn default() -> BootstrapNri {
        BootstrapNri { plugin: "auto".into(), required: "off".into() }
    }
}

impl Default for BootstrapHook {
    fn default() -> BootstrapHook {
        let HookOptions { program, directory, config, .. } = HookOptions::default();
        BootstrapHook { install: "auto".into(), path: program, directory, config }
    }
}

impl Default for BootstrapCrio {
    fn default() -> BootstrapCrio {
        let CrioOptions { writable_cgroup, pod_events, nri, ping_group_range, .. } = CrioOptions::default();
        let userns_mode = "auto".into();
        BootstrapCrio { version: None, writable_cgroup, userns_mode, pod_events, nri, ping_group_range }
    }
}

impl Default for BootstrapContainerd {
    fn default() -> BootstrapContainerd {
        BootstrapContainerd { version: None, nri: true }
    }
}

impl Validator<'_> {
    /// The runtime to prepare, and its version.
    pub(super) fn runtime_override(&self, bootstrap: &Bootstrap) -> Result<RuntimeOverride, ConfigError> {
        let Bootstrap { runtime, crio, containerd, .. } = bootstrap;
        let version = crio.value.version.as_deref().map(CrioVersion::parse).transpose();
        let release = containerd.value.version.as_deref().map(Release::parse).transpose();
        let (key, remedy) = ("bootstrap.crio", "write the version that \"crio --version\" prints");
        let crio = version.map_err(|error| self.refuse(key, crio, chain(&error), remedy.into()))?;
        let (key, remedy) =
            ("bootstrap.containerd", "write the version that \"containerd --version\" prints");
        let containerd =
            release.map_err(|error| self.refuse(key, containerd, chain(&error), remedy.into()))?;
        Ok(RuntimeOverride {
            choice: one_of_named(&RUNTIMES, &runtime.value)
                .map_err(|remedy| self.unknown("bootstrap.runtime", runtime, &runtime.value, remedy))?,
            crio,
            containerd,
        })
    }

    pub(super) fn crio(&self, at: &Located<BootstrapCrio>) -> Result<CrioOptions, ConfigError> {
        let BootstrapCrio { writable_cgroup, userns_mode, pod_events, nri, ping_group_range, .. } =
            at.value.clone();
        let userns_mode = one_of_named(&USERNS_MODES, &userns_mode)
            .map_err(|remedy| self.unknown_field("bootstrap.crio", at, "usernsMode", &userns_mode, remedy))?;
        Ok(CrioOptions {
            writable_cgroup,
            userns_mode,
            pod_events,
            nri,
            ping_group_range,
            ..CrioOptions::default()
        })
    }

    pub(super) fn hook(&self, at: &Located<BootstrapHook>) -> Result<HookOptions, ConfigError> {
        let BootstrapHook { install, path, directory, config } = at.value.clone();
        let install = self.one_of_field("bootstrap.hook", at, "install", &install)?;
        for path in [Some(&path), directory.as_ref(), config.as_ref()].into_iter().flatten() {
            if !path.starts_with('/') || HostPath::parse(path).is_err() {
                let what = format!("{:?} is not a path", path.chars().take(80).collect::<String>());
                let remedy = "write an absolute path on the host, without \"..\" in it".to_owned();
                return Err(self.refuse("bootstrap.hook", at, what, remedy));
            }
        }
        Ok(HookOptions { install, program: path, directory, config })
    }

    /// The settings of the pre-installed plugin that do not depend on other sections.
    pub(super) fn plugin(&self, at: &Located<BootstrapNri>) -> Result<PluginOptions, ConfigError> {
        let BootstrapNri { plugin, required } = &at.value;
        let key = "bootstrap.nri";
        Ok(PluginOptions {
            install: self.one_of_field(key, at, "plugin", plugin)?,
            required: self.one_of_field(key, at, "required", required)?,
            ..PluginOptions::default()
        })
    }
}
