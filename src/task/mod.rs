//! Where facts, rules and effects meet: observe → plan → apply.
//!
//! - [`snapshot`]: what the agent knows of the node, for everyone who asks

pub mod snapshot;
