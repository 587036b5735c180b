//! The state document: what the agent knows, as one JSON text over a unix socket.
//!
//! The agent writes and never reads: whoever connects cannot make it parse anything. The page for
//! those who read it is `docs/state.md`.

mod client;
mod document;
mod server;
mod survey;

pub use client::{ReadError, read_state};
pub use document::{
    About, Agent, Cgroup, Container, Event, Limits, Mapping, Node, Peer, Peers, Pod, Runtime, State,
    UserNamespace, VERSION, rfc3339,
};
pub use server::{ServeError, Server, serve};
pub use survey::{Account, IdSpace, Kernel, PodCgroup, PodState, Pool, Range, SubordinateRange};
