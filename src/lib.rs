//! usernsd makes user-namespaced pods work on a node, and keeps them safe: root inside the
//! container, an unprivileged host ID outside.
//!
//! ```text
//!  main → agent / exporter / cli → task → { edge, domain }      edge → domain      config → domain
//! ```
//!
//! Left may import right, nothing else; edges never import each other. `tests/layers.rs` keeps it
//! so.
//!
//! - [`domain`]: the rules, pure
//! - [`edge`]: the peers, thin: one file each
//! - [`task`]: observe → plan → apply, where facts, rules and effects meet
//! - [`config`], [`args`]: what the administrator says
//! - [`agent`], [`exporter`]: the composition roots of the two roles that stay
//! - [`cli`]: the commands for people

pub mod agent;
pub mod args;
pub mod cli;
pub mod config;
pub mod domain;
pub mod edge;
pub mod exporter;
pub mod task;
