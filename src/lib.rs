//! usernsd makes user-namespaced pods work on a node, and keeps them safe: root inside the
//! container, an unprivileged host ID outside.
//!
//! ```text
//!  main → agent / exporter / plugin / cli → agent, inspect, prepare, report → linux, peers, nri, delegation → domain
//! ```
//!
//! The libraries in `crates/` do the work; the first page of each describes its purpose and its callers, and
//! Cargo enforces the layers. This crate composes them.
//!
//! - [`args`]: the command line
//! - [`agent`], [`exporter`], [`plugin`]: the composition roots of the long-running roles: two that are
//!   deployed, and the plugin that the container runtime launches
//! - [`cli`]: the commands for people

pub mod agent;
pub mod args;
pub mod cli;
mod compose;
pub mod exporter;
pub mod plugin;
