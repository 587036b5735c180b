//! The link between the launched plugin and the agent.
//!
//! - [`reports`]: the plugin's side. Reports wait here until an agent has recorded them.
//! - [`follow`]: the agent's side. It records, counts and logs the plugin's reports, and joins NRI only
//!   while no plugin answers.

pub mod follow;
pub mod reports;
