//! How long a runtime is up before an agent that waits for its NRI socket has joined it, and how much memory
//! the plugin that a runtime launches uses.
//!
//! The runtime is the tests' fake, on its CRI and its NRI socket. Each round has an agent of its own: one that
//! a runtime left within seconds waits before it joins again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that meets a surprise ends"
)]

mod common;
#[path = "common/faked.rs"]
mod faked;

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::agent::{Agent, resident};
use common::tree::{Crowd, Place};
use common::{Samples, builds, in_node, number, row};
use faked::{fakes, node, runtime};
use fakes::cri_runtime::FakeRuntime;
use fakes::nri_runtime::{Plugin, Runtime};
use runtime::PATIENT;
use serde_json::Value;

fn main() {
    let options = node::Options { runtime: node::Runtime::None, ..node::Options::default() };
    in_node(options, || {
        appearing();
        launched();
    });
}

/// An agent waits for a socket that does not exist yet; then the runtime listens.
fn appearing() {
    let rounds = number("USERNSD_BENCH_COUNT", 50);
    let directory = tempfile::tempdir().unwrap();
    let cri = directory.path().join("containerd.sock");
    let _cri = FakeRuntime::start(&cri, runtime::scenario(&[], &[]));
    let builds = builds();
    let mut connected = vec![Samples::default(); builds.len()];
    let mut joined = vec![Samples::default(); builds.len()];
    for round in 0..rounds {
        for turn in 0..builds.len() {
            let index = (round + turn) % builds.len();
            let home = tempfile::tempdir().unwrap();
            let socket = home.path().join("nri.sock");
            let configuration = format!(
                "nri: {{socketPaths: [{}]}}\nruntime: {{endpoints: [{}]}}\n",
                socket.display(),
                cri.display()
            );
            let agent = Agent::start(builds[index], &configuration);
            // The agent looks for the socket, finds none and waits; the wait differs from round to round, so
            // that no retry at a fixed pace could look like attention.
            thread::sleep(Duration::from_millis(700 + (round as u64 * 37) % 400));
            let since = Instant::now();
            let nri = Runtime::listen_at(&socket);
            let stream = nri.accept();
            connected[index].push(since.elapsed());
            let mut plugin = Plugin::register(stream, PATIENT)
                .unwrap_or_else(|error| panic!("{error:?}\n{}", agent.log()));
            plugin.synchronize(&[], &[], 50).unwrap();
            joined[index].push(since.elapsed());
            agent.ready();
        }
    }
    let before = |samples: &[Samples]| samples.get(1).cloned().unwrap_or_default();
    let note = "the agent was there first";
    connected[0].row_and_before(
        &before(&connected),
        "a runtime's NRI socket appears: until the agent connects",
        "",
        note,
    );
    joined[0].row_and_before(&before(&joined), "the same, until it has joined", "50 ms", note);
}

/// The plugin, launched by a runtime with 500 containers.
fn launched() {
    let count = number("USERNSD_BENCH_CONTAINERS", 500);
    let rounds = number("USERNSD_BENCH_COUNT", 15).min(15);
    let crowd = Crowd::new(1);
    let places: Vec<Place> = (0..count).map(|index| Place::new(4_000_000 + index, crowd.pids[0])).collect();
    let recorded: Vec<Value> = places.iter().map(Place::recorded).collect();
    let containers: Vec<Value> = recorded.iter().map(|one| one["container"].clone()).collect();
    for (index, binary) in builds().iter().enumerate() {
        let mut samples = Vec::new();
        for _ in 0..rounds {
            let nri = Runtime::listen();
            let launched = Launched::start(binary, &nri.socket);
            let mut plugin = nri.register(PATIENT).unwrap();
            plugin.synchronize(&[recorded[0]["pod"].clone()], &containers, 50).unwrap();
            for place in recorded.iter().take(50) {
                plugin.create(place).unwrap();
            }
            thread::sleep(Duration::from_millis(300));
            samples.push(resident(launched.0.id()));
        }
        let which = if index == 0 { "" } else { ", before" };
        let mib = |mut all: Vec<u64>| {
            all.sort_unstable();
            format!("{:.1} MiB", all[all.len() / 2] as f64 / 1024.0)
        };
        let anonymous = mib(samples.iter().map(|(_, anonymous)| *anonymous).collect());
        row(
            &format!("the launched plugin: resident memory, {count} containers listed, 50 created{which}"),
            &mib(samples.iter().map(|(all, _)| *all).collect()),
            "",
            samples.len(),
            "",
            &format!("{anonymous} of it anonymous"),
        );
    }
    for place in places {
        place.leave();
    }
}

/// A plugin as a runtime starts it: under its name, with a connection and without arguments.
struct Launched(Child);

impl Launched {
    fn start(binary: &str, socket: &Path) -> Launched {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("90-usernsd");
        std::os::unix::fs::symlink(binary, &link).unwrap();
        let connection = OwnedFd::from(UnixStream::connect(socket).unwrap());
        // The standard library makes descriptors that close on exec; the plugin inherits this one.
        let inherited = rustix::io::fcntl_dupfd_cloexec(&connection, 100).unwrap();
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
        let child = Command::new(&link)
            .env_clear()
            .env("NRI_PLUGIN_SOCKET", inherited.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Launched(child)
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
