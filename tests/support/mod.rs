//! Fakes that speak the real protocols.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]

pub mod cri_runtime;
pub mod systemd;
