//! One container or one node, looked at: observe, prove, plan, apply. Used by the agent for every
//! container, by the OCI hook for one, and by doctor, explain and whois without an effect.

pub mod ask;
pub mod bundle;
pub mod delegate;
pub mod doctor;
pub mod explain;
pub mod hook;
pub mod neighbour;
pub mod support;
pub mod survey;
pub mod whois;
