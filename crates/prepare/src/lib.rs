//! Prepares a node for user namespaces, or restores it: subordinate IDs, kubelet, CRI-O, containerd, the OCI
//! hook, the launched plugin, and the same as a MachineConfig. Used by `usernsd bootstrap`, `usernsd
//! machineconfig` and doctor; the agent writes none of these files.

pub mod bootstrap;
pub mod containerd;
pub mod crio;
pub mod idmapped_mounts;
pub mod journal;
pub mod kubelet;
pub mod machineconfig;
pub mod runtime_files;
mod scratch;
