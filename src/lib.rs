//! usernsd makes user-namespaced pods work on a node, and keeps them safe: root inside the
//! container, an unprivileged host ID outside.
//!
//! ```text
//!  main → agent / exporter / plugin / cli → agent, inspect, prepare, report → linux, peers → domain
//! ```
//!
//! The libraries below `crates/` hold the work; each names on its first page what it is for and who calls
//! it, and Cargo keeps them apart. This crate composes them.
//!
//! - [`args`]: the command line
//! - [`agent`], [`exporter`], [`plugin`]: the composition roots of the roles that stay: two that are
//!   deployed, and the plugin that the container runtime launches
//! - [`cli`]: the commands for people

pub mod agent;
pub mod args;
pub mod cli;
pub mod exporter;
pub mod plugin;
