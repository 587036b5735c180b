//! usernsd in a real Kubernetes cluster: a control plane, and test nodes with a kubelet each. One test is one
//! cluster and a story of several steps in it, because a cluster takes longer to boot than a step to run.
//!
//! The programs of Kubernetes come from the directory that `USERNSD_TEST_KUBE` names; without it the tests are
//! ignored.

// Not #[test] functions alone: what helps them may fail loudly too.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../programs/helm.rs"]
mod helm;
#[path = "../node/image.rs"]
mod image;
#[path = "../node/mod.rs"]
mod node;

mod alerts;
mod chart;
mod clock;
#[path = "../node/pods.rs"]
mod cri;
#[path = "../node/shown.rs"]
mod shown;

mod demo;
mod fleet;
mod harness;
mod install;
mod kubelet;
mod life;
mod machine;
mod node_life;
mod openshift;
mod pods;
mod presence;
mod problem_detector;
mod recipes;
mod release;
mod skew;
