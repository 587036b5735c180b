//! What the configuration says of the container runtime that `usernsd bootstrap` prepares.

use serde::{Deserialize, Serialize};

use super::door::Door;
use super::keys::{At, Bootstrap};
use super::{ConfigError, one_of};
use crate::domain::containerd::Release;
use crate::domain::crio::CrioVersion;
use crate::domain::crio::drop_in::Wishes;
use crate::domain::runtime::{Kind, RuntimeWish, Said};

const RUNTIMES: [(&str, RuntimeWish); 4] = [
    ("auto", RuntimeWish::Auto),
    ("crio", RuntimeWish::Only(Kind::Crio)),
    ("containerd", RuntimeWish::Only(Kind::Containerd)),
    ("none", RuntimeWish::None),
];
const USERNS_MODES: [(&str, Option<bool>); 3] =
    [("auto", None), ("always", Some(true)), ("never", Some(false))];

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
        Ok(Wishes { writable_cgroup, userns_mode, pod_events, nri, ping_group_range })
    }
}
