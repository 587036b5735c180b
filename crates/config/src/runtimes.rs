//! What the configuration says of the container runtime that `usernsd bootstrap` prepares.

use serde::{Deserialize, Serialize};

use super::door::Door;
use super::keys::{At, Bootstrap};
use super::{ConfigError, one_of};
use usernsd_domain::containerd::Release;
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::drop_in::Wishes;
use usernsd_domain::nri_plugin::{self, PluginWish, Required};
use usernsd_domain::oci_hook::{HookWish, Install};
use usernsd_domain::provision::HostPath;
use usernsd_domain::runtime::{Kind, RuntimeWish, Said};

const RUNTIMES: [(&str, RuntimeWish); 4] = [
    ("auto", RuntimeWish::Auto),
    ("crio", RuntimeWish::Only(Kind::Crio)),
    ("containerd", RuntimeWish::Only(Kind::Containerd)),
    ("none", RuntimeWish::None),
];
const USERNS_MODES: [(&str, Option<bool>); 3] =
    [("auto", None), ("always", Some(true)), ("never", Some(false))];

const INSTALLS: [(&str, Install); 3] =
    [("auto", Install::Auto), ("always", Install::Always), ("never", Install::Never)];

const PLUGINS: [(&str, nri_plugin::Install); 2] =
    [("auto", nri_plugin::Install::Auto), ("never", nri_plugin::Install::Never)];
const REQUIRED: [(&str, Required); 3] =
    [("off", Required::Off), ("annotated", Required::Annotated), ("all", Required::All)];

/// CRI-O's drop-in, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapCrio {
    /// CRI-O's version, for where it cannot be asked.
    pub version: Option<String>,
    /// Whether pods may ask for a writable cgroup.
    pub writable_cgroup: bool,
    /// Whether pods may ask for a user namespace by annotation.
    pub userns_mode: String,
    /// CRI events.
    pub pod_events: bool,
    /// NRI.
    pub nri: bool,
    /// `ping` in every pod.
    pub ping_group_range: bool,
}

/// containerd's drop-in, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapContainerd {
    /// containerd's version, for where it cannot be asked.
    pub version: Option<String>,
    /// NRI.
    pub nri: bool,
}

/// The OCI hook, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapHook {
    /// Whether it is installed.
    pub install: String,
    /// The program's path on the host.
    pub path: String,
    /// The directory of the JSON.
    pub directory: Option<String>,
    /// The configuration that the hook reads.
    pub config: Option<String>,
}

/// The pre-installed NRI plugin, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BootstrapNri {
    /// Whether it is installed.
    pub plugin: String,
    /// Whether the runtime requires it.
    pub required: String,
}

impl Default for BootstrapNri {
    fn default() -> BootstrapNri {
        BootstrapNri { plugin: "auto".into(), required: "off".into() }
    }
}

impl Default for BootstrapHook {
    fn default() -> BootstrapHook {
        let HookWish { program, directory, config, .. } = HookWish::default();
        BootstrapHook { install: "auto".into(), path: program, directory, config }
    }
}

impl Default for BootstrapCrio {
    fn default() -> BootstrapCrio {
        let Wishes { writable_cgroup, pod_events, nri, ping_group_range, .. } = Wishes::default();
        let userns_mode = "auto".into();
        BootstrapCrio { version: None, writable_cgroup, userns_mode, pod_events, nri, ping_group_range }
    }
}

impl Default for BootstrapContainerd {
    fn default() -> BootstrapContainerd {
        BootstrapContainerd { version: None, nri: true }
    }
}

impl Door<'_> {
    /// Which runtime, and of which version.
    pub(super) fn said_of_runtime(&self, bootstrap: &Bootstrap) -> Result<Said, ConfigError> {
        let Bootstrap { runtime, crio, containerd, .. } = bootstrap;
        let version = crio.value.version.as_deref().map(CrioVersion::parse).transpose();
        let release = containerd.value.version.as_deref().map(Release::parse).transpose();
        let (key, remedy) = ("bootstrap.crio", "write what \"crio --version\" says");
        let crio = version.map_err(|error| self.refuse(key, crio, error.to_string(), remedy.into()))?;
        let (key, remedy) = ("bootstrap.containerd", "write what \"containerd --version\" says");
        let containerd =
            release.map_err(|error| self.refuse(key, containerd, error.to_string(), remedy.into()))?;
        Ok(Said { wish: self.one_of("bootstrap.runtime", runtime, &RUNTIMES)?, crio, containerd })
    }

    pub(super) fn crio(&self, at: &At<BootstrapCrio>) -> Result<Wishes, ConfigError> {
        let BootstrapCrio { writable_cgroup, userns_mode, pod_events, nri, ping_group_range, .. } =
            at.value.clone();
        let userns_mode = one_of(&USERNS_MODES, &userns_mode).map_err(|remedy| {
            let what =
                format!("usernsMode: {:?} is unknown", userns_mode.chars().take(80).collect::<String>());
            self.refuse("bootstrap.crio", at, what, remedy)
        })?;
        Ok(Wishes { writable_cgroup, userns_mode, pod_events, nri, ping_group_range, ..Wishes::default() })
    }

    pub(super) fn hook(&self, at: &At<BootstrapHook>) -> Result<HookWish, ConfigError> {
        let BootstrapHook { install, path, directory, config } = at.value.clone();
        let install = one_of(&INSTALLS, &install).map_err(|remedy| {
            let what = format!("install: {:?} is unknown", install.chars().take(80).collect::<String>());
            self.refuse("bootstrap.hook", at, what, remedy)
        })?;
        for path in [Some(&path), directory.as_ref(), config.as_ref()].into_iter().flatten() {
            if !path.starts_with('/') || HostPath::parse(path).is_err() {
                let what = format!("{:?} is not a path", path.chars().take(80).collect::<String>());
                let remedy = "write an absolute path on the host, without \"..\" in it".to_owned();
                return Err(self.refuse("bootstrap.hook", at, what, remedy));
            }
        }
        Ok(HookWish { install, program: path, directory, config })
    }

    /// The pre-installed plugin; what does not depend on other sections.
    pub(super) fn plugin(&self, at: &At<BootstrapNri>) -> Result<PluginWish, ConfigError> {
        let BootstrapNri { plugin, required } = &at.value;
        let refuse = |key: &str, text: &str, remedy: String| {
            let what = format!("{key}: {:?} is unknown", text.chars().take(80).collect::<String>());
            self.refuse("bootstrap.nri", at, what, remedy)
        };
        Ok(PluginWish {
            install: one_of(&PLUGINS, plugin).map_err(|remedy| refuse("plugin", plugin, remedy))?,
            required: one_of(&REQUIRED, required).map_err(|remedy| refuse("required", required, remedy))?,
            ..PluginWish::default()
        })
    }
}
