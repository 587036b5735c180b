//! The link between the plugin that the runtime launches and the agent.
//!
//! - [`reports`]: the plugin's side. What it did waits here until an agent has recorded it.
//! - [`follow`]: the agent's side. It records, counts and logs what the plugin did, and joins NRI
//!   itself only while no plugin answers.

pub mod follow;
pub mod reports;
