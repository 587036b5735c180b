//! The agent on real nodes. One test binary: linking takes longer than most of these cases.
//!
//! Assertions are about what can be seen from outside the node, in its cgroup tree and /proc, or from inside
//! a container. What the agent reports is asserted in addition, never instead.

// Helpers of tests may panic too; clippy permits that only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../programs/browser.rs"]
mod browser;
#[path = "../fakes/cri_runtime.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "shared with the tests without a node; a fake that meets a surprise is a failed test"
)]
mod cri_runtime;
#[path = "../programs/helm.rs"]
mod helm;
#[path = "../node/image.rs"]
mod image;
#[path = "../node/manifest.rs"]
mod manifest;
#[path = "../node/mod.rs"]
mod node;
#[path = "../node/pods.rs"]
mod pods;

mod agent;
mod apparmor;
mod baseline_without_usernsd;
mod chart;
mod controllers;
mod daemon_pod;
mod daemonset;
mod distributions;
mod doctor;
mod documents;
mod early;
mod evasion;
mod explain;
mod faults;
mod guard;
#[cfg(target_arch = "x86_64")]
mod inject;
mod join;
mod launched;
mod life_cycle;
mod manifests;
mod mechanism;
mod metrics;
mod missed;
mod node_bootstrap;
mod node_smoke;
mod ownership;
mod page;
mod preinstalled;
mod presence;
mod pressure;
mod privilege_separation;
mod prometheus;
mod recipes;
mod release;
mod second_party;
mod selinux;
mod service;
mod spoof;
mod start_calls;
mod storm;
mod support;
mod two_runtimes;
mod update;
mod watch;
mod whois;
