//! The Kubernetes API server, as the account of a pod or of a kubeconfig.
//!
//! Each call is one request: the caller decides on pauses, retries and the meaning of an answer. Of the crate
//! `kube`, the client is used (TLS, tokens) but not the watcher: it retries without a pause if a proxy ends
//! each watch at once, never lists again after an HTTP 410, and does not report `Retry-After`.

mod client;
mod events;
mod exec;
mod namespaces;
mod node;
mod pods;
mod review;

pub use client::{Access, Kube, KubeError};
pub use events::Reporter;
pub use exec::{Exec, ProgramEnd};
pub use node::WrittenCondition;
pub use pods::{PodChange, PodList};
pub use review::Review;
