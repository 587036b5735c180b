//! The terms of the field and the rules: pure functions without clock, files, processes or runtime. The rules of
//! `usernsd-delegation` and the tables of `usernsd-messages` use the terms. Dependencies: std and `thiserror`.
//!
//! - [`idmap`]: host IDs, container IDs and the mapping between them
//! - [`admission`]: the rules for annotations as admission policies of the API server
//! - [`assessment`]: the worst that is known of a container
//! - [`cgroup`]: cgroup paths, `/proc/PID/cgroup`, the kernel's delegate list
//! - [`mod@unit`]: systemd's slices and scopes, and the runtime's `cgroupsPath`
//! - [`crio`]: CRI-O's versions, its configuration, and the drop-in for it
//! - [`toml`]: TOML values
//! - [`containerd`]: whether NRI is on, and the drop-in that switches it on
//! - [`nri_plugin`]: the pre-installed NRI plugin, and whether the runtime requires it
//! - [`oci_hook`]: the OCI hook's files, for runtimes without NRI
//! - [`kernel`]: what the kernel and its mounts must support
//! - [`ignition`]: a node's files and units as MachineConfig, Butane, cloud-init and shell script
//! - [`owned_files`]: the plans for the runtimes as file changes
//! - [`mco`]: files that OpenShift's Machine Config Operator manages
//! - [`restart`]: configuration that was written but is not in effect
//! - [`runtime`]: which container runtime a node has
//! - [`container`]: sandboxes, containers and mounts, as CRI, NRI and OCI describe them
//! - [`delegation`]: the terms of delegation; its rules are in `usernsd-delegation`
//! - [`adjust`]: what an opted-in container needs before it is created
//! - [`check`]: the checks of a node and their results
//! - [`recent_events`]: recent actions and refusals
//! - [`finding`]: facts about a node that an administrator should be aware of
//! - [`guard`]: a pod that asked for a user namespace must run in one
//! - [`relevant`]: which parts of a pod and its containers the rules read
//! - [`repair`]: which containers may be stopped that started without what they should have
//! - [`isolation`]: what one observation of a container proves, and when it is too early for a verdict
//! - [`history`], [`whois`]: recently used host IDs; the holders of an ID
//! - [`mountinfo`], [`mounts`], [`process`]: the kernel's mount table, a container's mounts and its processes
//! - [`node`]: the agent's peers and runtime, and a snapshot of everything at one moment
//! - [`pairing`]: whether the runtime that answers over CRI is the one that calls over NRI
//! - [`places`]: the open connections of a server, and which of them makes room for a new one
//! - [`privilege`]: the capabilities of the privileged role
//! - [`protobuf`]: protobuf messages, read field by field
//! - [`provision`]: planned changes to the node's files
//! - [`readable`]: the files of the node's `/etc` that the agent may read
//! - [`idplan`]: plans the lines of `/etc/subuid` and `/etc/subgid`
//! - [`accounts`], [`kubelet`]: users and groups; how the kubelet chooses IDs
//! - [`ranges`]: windows of host IDs that overlap no other owner's
//! - [`redact`], [`secrets`]: texts without names; texts without secrets
//! - [`record`]: the agent's record of each container, for output and metrics
//! - [`report`]: what was decided and done for one container, as values that can be sent
//! - [`pod`]: pods, put together from the containers' records
//! - [`space`]: the owners of host IDs, and overlaps between them
//! - [`map`]: the ID space as a drawing
//! - [`security_module`]: what AppArmor and SELinux keep containers from
//! - [`subid`]: `/etc/subuid` and `/etc/subgid`
//! - [`unit_file`]: the settings in the files of a systemd unit
//! - [`scc`], [`user_mapping`]: whether a pod's users are within its mapping and its namespace's range
//! - [`denial`]: which denials of AppArmor and SELinux were a container's
//! - [`event`], [`condition`], [`feature`]: what is posted to a cluster, and when
//! - [`join`]: whether joining a runtime over NRI would harm it
//! - [`rate_limit`]: rate limits for requests to a peer that many nodes use
//! - [`lock`]: a lock whose holder may have panicked
//! - [`mod@words`]: enums whose values have names in documents, logs and metrics

#[macro_use]
pub mod words;

pub mod accounts;
pub mod adjust;
pub mod admission;
pub mod assessment;
pub mod certificate;
pub mod cgroup;
pub mod chain;
pub mod check;
pub mod clock;
pub mod condition;
pub mod container;
pub mod containerd;
pub mod crio;
pub mod delegation;
pub mod denial;
pub mod event;
pub mod feature;
pub mod finding;
pub mod guard;
pub mod history;
pub mod idmap;
pub mod idplan;
pub mod ignition;
pub mod isolation;
pub mod join;
pub mod kernel;
pub mod kubelet;
pub mod lock;
pub mod map;
pub mod mco;
pub mod mountinfo;
pub mod mounts;
pub mod node;
pub mod nri_plugin;
pub mod oci_hook;
pub mod owned_files;
pub mod pairing;
pub mod paths;
pub mod places;
pub mod pod;
pub mod privilege;
pub mod process;
pub mod protobuf;
pub mod provision;
pub mod ranges;
pub mod rate_limit;
pub mod readable;
pub mod recent_events;
pub mod record;
pub mod redact;
pub mod relevant;
pub mod repair;
pub mod report;
pub mod restart;
pub mod runtime;
pub mod scc;
pub mod secrets;
pub mod security_module;
pub mod space;
pub mod subid;
pub mod toml;
pub mod unit;
pub mod unit_file;
pub mod user_mapping;
pub mod utc;
pub mod whois;
mod work;
