//! The terms of the field and the rules: pure functions without clock, files, processes or runtime. The rules of
//! `usernsd-delegation` and the tables of `usernsd-messages` use the terms; every other crate uses both. Dependencies: std
//! and `thiserror`.
//!
//! One container:
//!
//! - [`container`], [`pod`]: sandboxes, containers and mounts, as CRI, NRI and OCI describe them; pods, put together from
//!   the containers' records
//! - [`relevant`]: which parts of a pod and its containers the rules read
//! - [`idmap`]: host IDs, container IDs and the mapping between them
//! - [`cgroup`]: cgroup paths, `/proc/PID/cgroup`, the kernel's delegate list
//! - [`mod@unit`]: systemd's slices and scopes, and the runtime's `cgroupsPath`
//! - [`mountinfo`], [`mounts`], [`process`]: the kernel's mount table, a container's mounts and its processes
//! - [`delegation`]: the terms of delegation; its rules are in `usernsd-delegation`
//! - [`guard`]: a pod that asked for a user namespace must run in one
//! - [`adjust`]: what an opted-in container needs before it is created
//! - [`isolation`]: what one observation of a container proves, and when it is too early for a verdict
//! - [`repair`]: which containers may be stopped that started without what they should have
//! - [`scc`], [`user_mapping`]: whether a pod's users are within its mapping and its namespace's range
//! - [`security_module`], [`denial`]: what AppArmor and SELinux keep containers from; which denials were a container's
//!
//! Host IDs:
//!
//! - [`subid`]: `/etc/subuid` and `/etc/subgid`
//! - [`accounts`], [`kubelet`]: users and groups; how the kubelet chooses IDs
//! - [`ranges`]: windows of host IDs that overlap no other owner's
//! - [`space`]: the owners of host IDs, and overlaps between them
//! - [`map`]: the ID space as a drawing
//! - [`history`], [`whois`]: recently used host IDs; the holders of an ID
//! - [`idplan`]: plans the lines of `/etc/subuid` and `/etc/subgid`
//!
//! The node's configuration:
//!
//! - [`kernel`]: what the kernel and its mounts must support
//! - [`runtime`]: which container runtime a node has
//! - [`crio`]: CRI-O's versions, its configuration, and the drop-in for it
//! - [`containerd`]: whether NRI is on, and the drop-in that switches it on
//! - [`nri_plugin`]: the pre-installed NRI plugin, and whether the runtime requires it
//! - [`oci_hook`]: the OCI hook's files, for runtimes without NRI
//! - [`provision`], [`owned_files`]: planned changes to the node's files; those for the runtimes
//! - [`restart`]: configuration that was written but is not in effect
//! - [`mco`]: files that OpenShift's Machine Config Operator manages
//! - [`ignition`]: a node's files and units as MachineConfig, Butane, cloud-init and shell script
//! - [`unit_file`]: the settings in the files of a systemd unit
//! - [`readable`], [`paths`]: the files that the agent may read below the node's root; paths with several users
//! - [`finding`]: facts about a node that an administrator should be aware of
//! - [`check`]: the checks of a node and their results
//!
//! Records, and what is reported:
//!
//! - [`record`]: the agent's record of each container, for output and metrics
//! - [`assessment`]: the worst that is known of a container
//! - [`report`]: what was decided and done for one container, as values that can be sent
//! - [`recent_events`]: recent actions and refusals
//! - [`node`]: the agent's peers and runtime, and a snapshot of everything at one moment
//! - [`event`], [`condition`], [`feature`]: what is posted to a cluster, and when
//! - [`admission`]: the rules for annotations as admission policies of the API server
//! - [`redact`], [`secrets`]: texts without names; texts without secrets
//!
//! Peers and clients:
//!
//! - [`pairing`]: whether the runtime that answers over CRI is the one that calls over NRI
//! - [`join`]: whether joining a runtime over NRI would harm it
//! - [`rate_limit`]: rate limits for requests to a peer that many nodes use
//! - [`places`]: the open connections of a server, and which of them makes room for a new one
//! - [`privilege`]: the capabilities of the privileged role
//! - [`certificate`]: validity and names of a certificate, for messages
//!
//! For all of them:
//!
//! - [`mod@words`]: enums whose values have names in documents, logs and metrics
//! - [`toml`], [`protobuf`]: TOML values; protobuf messages, read field by field
//! - [`chain`]: errors with their causes
//! - [`clock`], [`utc`]: a clock that is set now and then; moments as text
//! - [`lock`]: a lock whose holder may have panicked

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
