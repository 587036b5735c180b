//! Makes usernsd's records available: the state document and its socket, metrics, HTTP, the status page, and
//! what is posted to the cluster. Reads what the agent has recorded, and changes nothing on the node.

pub mod authorization;
pub mod clock;
pub mod cluster;
pub mod features;
pub mod follow;
pub mod http;
pub mod map;
pub mod metrics;
pub mod page;
pub mod state;
pub mod store;
pub mod verdict;
