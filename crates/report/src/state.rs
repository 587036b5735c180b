//! The state document: the agent's records as one JSON text over a unix socket.
//!
//! A reader sends one line of a few fixed words, so that it can make the agent parse nothing. `docs/state.md`
//! is the page for readers.

mod checks;
mod client;
mod document;
mod follow;
mod past;
mod request;
mod schema;
mod server;
mod survey;

pub use checks::{CheckState, ProblemState};
pub use client::{ReadStateError, read_state};
pub use document::{
    About, Agent, Cgroup, Container, Event, Limits, Mapping, Node, Peer, Peers, Plugin, Pod, Runtime, State,
    UserNamespace, VERSION,
};
pub use follow::{Documents, read_metrics, watch_state};
pub use past::Past;
pub use schema::Named;
pub use server::{ServeError, Sources, StateServer, serve};
pub use survey::{
    Account, ContainerCgroups, IdSpace, Kernel, MappingProblemState, PodCgroup, PodState, Pool, Range,
    SubordinateRange,
};
