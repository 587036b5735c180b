//! Where facts, rules and effects meet: observe → plan → apply.
//!
//! - [`metrics`]: what the agent counts
//! - [`snapshot`]: what the agent knows of the node, for everyone who asks

pub mod metrics;
pub mod snapshot;
