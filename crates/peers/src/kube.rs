//! The Kubernetes API server, as the account of a pod or of a kubeconfig.
//!
//! Each call is one request: pauses, retries and what to make of an answer are the caller's. Of
//! the crate `kube` its client is used, with TLS and tokens, and not its watcher: that one asks
//! again without a pause where a proxy ends each watch at once, never lists anew after an HTTP 410,
//! and does not say what `Retry-After` was.

mod client;
mod events;
mod namespaces;
mod node;
mod pods;
mod review;

pub use client::{Access, Kube, KubeError};
pub use events::Reporter;
pub use node::WrittenCondition;
pub use pods::{PodChange, PodList};
pub use review::Review;
