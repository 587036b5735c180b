//! What an opted-in container needs before it is created.

use std::collections::BTreeMap;

use super::container::Mount;

/// Changes to the specification of a container that is about to be created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adjustment {
    /// Annotations to add. CRI-O drops those its runtime handler does not allow.
    pub annotations: BTreeMap<String, String>,
    /// Mounts to add or replace.
    pub mounts: Vec<MountChange>,
    /// Environment variables to set: name, value.
    pub env: Vec<(String, String)>,
    /// Give it a cgroup namespace of its own. Runtimes with NRI before 0.10 ignore this.
    pub add_cgroup_namespace: bool,
}

/// One mount of an [`Adjustment`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountChange {
    /// The mount as it shall be.
    pub mount: Mount,
    /// It takes the place of the mount that the specification has on the same destination.
    pub replaces: bool,
}
