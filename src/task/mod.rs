//! Where facts, rules and effects meet: observe → plan → apply.
//!
//! - [`delegate`]: one container's cgroup, proven and handed over
//! - [`containers`]: every way in leads here
//! - [`plugin`]: NRI, the synchronous way in
//! - [`units`]: systemd's signals, the early way in
//! - [`runtime`]: CRI, and the repair of what was missed
//! - [`bundle`]: what the OCI runtime was told
//! - [`hook`]: the OCI createRuntime hook, the synchronous way in without NRI
//! - [`snapshot`], [`metrics`]: what the agent knows, and what it counts
//! - [`bootstrap`]: makes a node ready, or as it was
//! - [`ask`]: questions from a thread that must not wait long

pub mod ask;
pub mod bootstrap;
pub mod bundle;
pub mod containers;
pub mod delegate;
pub mod hook;
pub mod metrics;
pub mod plugin;
pub mod runtime;
pub mod snapshot;
pub mod units;
