//! Inspection of one container or one node: observe, prove, plan, apply. The agent uses [`inspector`] for every
//! container and the OCI hook for one. doctor and explain use it to observe only, and change nothing.

pub mod ask;
pub mod bundle;
pub mod delegate;
pub mod doctor;
pub mod explain;
pub mod handles;
pub mod hook;
pub mod inspector;
pub mod neighbour;
pub mod support;
pub mod survey;
pub mod whois;
