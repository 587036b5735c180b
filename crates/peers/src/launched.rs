//! The link between the launched plugin and the agent: a unix socket that the plugin listens on, with one
//! JSON object per line in both directions.
//!
//! The plugin listens in [`DIRECTORY`]; the agent connects to every socket there. The two may be of different
//! versions: each ignores message kinds and fields that it does not recognise, and each names the
//! [`PROTOCOL`] that it speaks in its hello.

mod peer;
mod watch;
mod wire;

pub use peer::{Lines, LinkError, MAX_LINE, PluginListener, Writer, connect, sockets};
pub use watch::Watch;
pub use wire::{FromAgent, FromPlugin, Hello, PROTOCOL};

/// Directory of the plugins' sockets, relative to the host's root.
pub const DIRECTORY: &str = "run/usernsd-plugin";
