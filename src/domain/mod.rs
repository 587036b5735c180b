//! The rules, pure: no clock, no file, no process, no runtime. Only std and `thiserror`.
//!
//! - [`idmap`]: host IDs, container IDs and the mapping between them
//! - [`cgroup`]: cgroup paths, `/proc/PID/cgroup`, the kernel's delegate list
//! - [`unit`]: systemd's slices and scopes, and the runtime's `cgroupsPath`
//! - [`container`]: the words shared by CRI, NRI and OCI: sandbox, container, mounts
//! - [`delegation`]: who should own a container's cgroup, and what it takes to get there
//! - [`adjust`]: what an opted-in container needs before it is created
//! - [`finding`]: what someone should know of
//! - [`guard`]: a pod that asked for a user namespace must run in one
//! - [`node`]: the agent's peers and runtime, and everything known at one moment
//! - [`accounts`], [`kubelet`]: users and groups; the kubelet's choice of IDs
//! - [`provision`]: what is to become of the node's files
//! - [`ranges`]: windows of host IDs that meet nobody else's
//! - [`pod`]: what is known of each pod: its containers, put together
//! - [`record`]: what is known of each container, for people and for metrics
//! - [`space`]: whose the host IDs are, and who shares them
//! - [`subid`]: `/etc/subuid` and `/etc/subgid`

pub mod accounts;
pub mod adjust;
pub mod cgroup;
pub mod container;
pub mod delegation;
pub mod finding;
pub mod guard;
pub mod idmap;
pub mod kubelet;
pub mod node;
pub mod pod;
pub mod provision;
pub mod ranges;
pub mod record;
pub mod space;
pub mod subid;
pub mod unit;
