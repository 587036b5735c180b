//! Fakes that speak the real protocols, shared by the integration tests.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test uses its own part of it, and a fake that meets a surprise is a failed test"
)]

pub mod cri_runtime;
pub mod kube_api;
pub mod kube_exec;
pub mod nri_proto;
pub mod nri_runtime;
pub mod systemd;
