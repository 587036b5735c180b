//! The link between the plugin that the runtime launches and the agent: a unix socket of the plugin,
//! and one JSON object a line in both directions.
//!
//! The plugin listens in [`DIRECTORY`], the agent connects to every socket it finds there. The two may
//! be of different versions: each skips kinds of messages and fields that it does not know, and each
//! says in its hello which [`PROTOCOL`] it speaks.

mod peer;
mod watch;
mod wire;

pub use peer::{Lines, LinkError, Listener, MAX_LINE, Writer, connect, sockets};
pub use watch::Watch;
pub use wire::{FromAgent, FromPlugin, Hello, PROTOCOL};

/// Where the plugins' sockets are, below the host's root directory.
pub const DIRECTORY: &str = "run/usernsd-plugin";
