//! usernsd makes user-namespaced pods work on a node, and keeps them safe: root inside the
//! container, an unprivileged host ID outside.
//!
//! ```text
//!  main → agent / exporter / plugin / cli → task → { edge, domain }      edge → domain      config → domain
//! ```
//!
//! Left may import right, nothing else; edges never import each other. `tests/layers.rs` keeps it
//! so.
//!
//! - [`domain`]: the rules, pure
//! - [`edge`]: the peers, thin: one file each
//! - [`task`]: observe → plan → apply, where facts, rules and effects meet
//! - [`config`], [`args`]: what the administrator says
//! - [`agent`], [`exporter`], [`plugin`]: the composition roots of the roles that stay: two that are deployed,
//!   and the plugin that the container runtime launches
//! - [`cli`]: the commands for people

pub mod agent;
pub mod args;
pub mod cli;
pub mod config;
pub mod domain;
pub mod edge;
pub mod exporter;
pub mod plugin;
pub mod task;
