//! The rules, pure: no clock, no file, no process, no runtime. Only std and `thiserror`.
//!
//! - [`idmap`]: host IDs, container IDs and the mapping between them
//! - [`admission`]: the rules for annotations as admission policies of the API server
//! - [`cgroup`]: cgroup paths, `/proc/PID/cgroup`, the kernel's delegate list
//! - [`mod@unit`]: systemd's slices and scopes, and the runtime's `cgroupsPath`
//! - [`crio`]: CRI-O's versions, its configuration, and the drop-in written for it
//! - [`toml`]: TOML as values
//! - [`containerd`]: whether NRI is on, and what makes it so
//! - [`oci_hook`]: the OCI hook's files, for runtimes without NRI
//! - [`kernel`]: what the kernel and its mounts must offer
//! - [`ignition`]: a node's files and units as MachineConfig, Butane, cloud-init and shell say them
//! - [`written`]: what is planned for the runtimes, as changes of files
//! - [`mco`]: files that OpenShift's Machine Config Operator keeps
//! - [`restart`]: what was written and is not in effect yet
//! - [`runtime`]: which container runtime a node has
//! - [`container`]: the words shared by CRI, NRI and OCI: sandbox, container, mounts
//! - [`proof`]: whether a cgroup is proven to be a container's own
//! - [`delegation`]: who should own a container's cgroup, and what it takes to get there
//! - [`adjust`]: what an opted-in container needs before it is created
//! - [`check`]: what a node is checked for, and what came of it
//! - [`feed`]: what was done and refused lately
//! - [`finding`]: what someone should know of
//! - [`guard`]: a pod that asked for a user namespace must run in one
//! - [`heeded`]: what a decision reads of a pod and its containers
//! - [`repair`]: which containers that started without what they should have may be ended
//! - [`isolation`]: what one look at a container proves, and when it is too early for a verdict
//! - [`history`], [`whois`]: whose host IDs were until lately; whose an ID is
//! - [`message`]: messages of other programs: what is behind each, and what to do
//! - [`mounts`], [`process`]: what a container's mount table and its processes say
//! - [`explain`]: why a container's cgroup is as it is, and what to do about it
//! - [`node`]: the agent's peers and runtime, and everything known at one moment
//! - [`privilege`]: what the privileged role may do
//! - [`protobuf`]: messages of protobuf, field by field
//! - [`provision`]: what is to become of the node's files
//! - [`idplan`]: the lines of `/etc/subuid` and `/etc/subgid`, planned
//! - [`accounts`], [`kubelet`]: users and groups; the kubelet's choice of IDs
//! - [`ranges`]: windows of host IDs that meet nobody else's
//! - [`redact`]: texts without names
//! - [`record`]: what is known of each container, for people and for metrics
//! - [`report`]: what was decided and done for one container, as values that can be sent
//! - [`pod`]: what is known of each pod: its containers, put together
//! - [`space`]: whose the host IDs are, and who shares them
//! - [`map`]: the ID space, drawn
//! - [`subid`]: `/etc/subuid` and `/etc/subgid`
//! - [`scc`], [`identity`]: do a pod's users fit into its mapping and its namespace's range
//! - [`event`], [`condition`], [`feature`]: what a cluster is told, and when
//! - [`join`]: whether joining a runtime over NRI harms it
//! - [`pace`]: how often a peer that many ask may be asked

pub mod accounts;
pub mod adjust;
pub mod admission;
pub mod certificate;
pub mod cgroup;
pub mod check;
pub mod condition;
pub mod container;
pub mod containerd;
pub mod crio;
pub mod delegation;
pub mod event;
pub mod explain;
pub mod feature;
pub mod feed;
pub mod finding;
pub mod guard;
pub mod heeded;
pub mod history;
pub mod identity;
pub mod idmap;
pub mod idplan;
pub mod ignition;
pub mod isolation;
pub mod join;
pub mod kernel;
pub mod kubelet;
pub mod map;
pub mod mco;
pub mod message;
pub mod mounts;
pub mod node;
pub mod nri_plugin;
pub mod oci_hook;
pub mod pace;
pub mod pairing;
pub mod places;
pub mod pod;
pub mod privilege;
pub mod process;
pub mod proof;
pub mod protobuf;
pub mod provision;
pub mod ranges;
pub mod readable;
pub mod record;
pub mod redact;
pub mod repair;
pub mod report;
pub mod restart;
pub mod runtime;
pub mod scc;
pub mod secrets;
pub mod space;
pub mod subid;
pub mod toml;
pub mod unit;
pub mod utc;
pub mod whois;
mod work;
pub mod written;
