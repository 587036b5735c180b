//! Where facts, rules and effects meet: observe → plan → apply.
//!
//! - [`delegate`]: one container's cgroup, proven and handed over
//! - [`decide`]: the decisions on one container, as values
//! - [`containers`]: every way in leads here; decisions are recorded, counted and logged
//! - [`plugin`]: NRI, the synchronous way in; [`neighbour`]: what joining it would meet
//! - [`launched`]: the link between the plugin that the runtime launches and the agent
//! - [`units`]: systemd's signals, the early way in
//! - [`systemd_user`]: systemd as the owner's hand
//! - [`runtime`]: CRI, and the repair of what was missed; [`repair`]: what is ended, to be made anew
//! - [`bundle`]: what the OCI runtime was told
//! - [`follow`]: the agent, as the exporter sees it
//! - [`gate`]: who may read what is served over HTTP
//! - [`hook`]: the OCI createRuntime hook, the synchronous way in without NRI
//! - [`snapshot`], [`metrics`]: what the agent knows, and what it counts
//! - [`map`], [`verdict`]: of a state document, the host's IDs drawn, and what is wrong
//! - [`page`]: all of it for people, as HTML
//! - [`crio`]: CRI-O's drop-in on a node, and what CRI-O itself says of it
//! - [`machineconfig`]: a pool's nodes by profile, and what a MachineConfig would write
//! - [`idmap`]: which file systems can be mounted with mapped IDs
//! - [`bootstrap`]: makes a node ready, or as it was
//! - [`survey`]: what is looked at when someone asks
//! - [`cluster`]: what the cluster knows, and what it is told; [`features`]: the same without a right
//! - [`doctor`]: looks at a node for its checks
//! - [`explain`]: one container from every side, and why it is as it is
//! - [`kube`]: what the cluster knows, and what it is told; [`features`]: the same without a right
//! - [`support`]: what goes into a support bundle
//! - [`whois`]: whose host IDs are
//! - [`confinement`]: what the privileged processes give up
//! - [`alive`]: ends an agent that hangs
//! - [`ask`]: questions from a thread that must not wait long; [`pauses`]: between tries to join a peer

pub mod alive;
pub mod ask;
pub mod bootstrap;
pub mod bundle;
pub mod cluster;
pub mod confinement;
pub mod containerd;
pub mod containers;
pub mod crio;
pub mod decide;
pub mod delegate;
pub mod doctor;
pub mod explain;
pub mod features;
pub mod follow;
pub mod gate;
pub mod hook;
pub mod idmap;
pub mod launched;
pub mod machineconfig;
pub mod map;
pub mod metrics;
pub mod neighbour;
pub mod page;
pub mod pauses;
pub mod plugin;
pub mod repair;
pub mod runtime;
pub mod snapshot;
pub mod support;
pub mod survey;
pub mod systemd_user;
pub mod units;
pub mod verdict;
pub mod whois;
