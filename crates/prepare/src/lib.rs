//! Makes a node ready for user namespaces, or as it was: subordinate IDs, kubelet, CRI-O, containerd,
//! the OCI hook, the launched plugin, and the same as MachineConfig. Called by `usernsd bootstrap`,
//! `usernsd machineconfig` and doctor; the agent writes none of these files.

pub mod bootstrap;
pub mod containerd;
pub mod crio;
pub mod idmapped_mounts;
pub mod journal;
pub mod kubelet;
pub mod machineconfig;
pub mod runtime_files;
