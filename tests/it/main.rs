//! Tests without a node: commands, documents, manifests, and each peer against a fake that implements its
//! protocol. One test binary, because linking takes longer than most of these tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by a panic, and prints what it skips"
)]

#[path = "../programs/apiserver.rs"]
mod apiserver;
#[path = "../programs/browser.rs"]
mod browser;
#[path = "../fakes/mod.rs"]
mod fakes;

mod agent_tasks;
mod bootstrap_faults;
mod bootstrap_runtime;
mod cli_and_http;
mod clock;
mod commands;
mod compatibility;
mod cri;
mod crio_config;
mod dashboards;
mod docs;
mod doctor;
mod ends;
mod explain;
mod exporter;
mod exporter_memory;
mod fuzz;
mod idmap;
mod inside;
mod kube;
mod kube_admission;
mod kube_real;
mod kube_scale;
mod kubectl_demo;
mod language;
mod layers;
mod log;
mod machineconfig;
mod makefile;
mod map;
mod memory;
mod names;
mod nri;
mod page;
mod privilege;
mod prometheus;
mod protection;
mod skew;
mod systemd;
mod systemd_service;
