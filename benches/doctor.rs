//! `usernsd doctor` on a node with 500 containers: the time until its first line and until its end. No agent
//! runs, so doctor itself asks the runtime (the tests' fake) and the kernel about each container.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that meets a surprise ends"
)]

mod common;
#[path = "common/faked.rs"]
mod faked;

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::tree::{Crowd, Place};
use common::{Samples, builds, in_node, number, say};
use faked::{fakes, node, runtime};
use fakes::cri_runtime::FakeRuntime;

fn main() {
    let options = node::Options { runtime: node::Runtime::None, ..node::Options::default() };
    in_node(options, doctor);
}

fn doctor() {
    let count = number("USERNSD_BENCH_CONTAINERS", 500);
    let rounds = number("USERNSD_BENCH_COUNT", 100);
    let crowd = Crowd::new(count);
    let places: Vec<Place> =
        crowd.pids.iter().enumerate().map(|(index, pid)| Place::new(index, *pid)).collect();
    let recorded: Vec<_> = places.iter().map(Place::recorded).collect();
    let directory = tempfile::tempdir().unwrap();
    let cri = directory.path().join("containerd.sock");
    let _cri = FakeRuntime::start(&cri, runtime::scenario(&places, &recorded));
    let configuration = directory.path().join("config.yaml");
    fs::write(&configuration, format!("runtime: {{endpoints: [{}]}}\n", cri.display())).unwrap();

    let builds = builds();
    let mut first = vec![Samples::default(); builds.len()];
    let mut all = vec![Samples::default(); builds.len()];
    let mut nothing = Samples::default();
    for round in 0..rounds {
        nothing.time(|| Command::new("/bin/true").stdin(Stdio::null()).status()).unwrap();
        for turn in 0..builds.len() {
            // The order rotates, because the first of a round has colder caches.
            let index = (round + turn) % builds.len();
            let started = Instant::now();
            let mut doctor = Command::new(builds[index])
                .args(["doctor", "--no-agent", "--config"])
                .arg(&configuration)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut text = doctor.stdout.take().unwrap();
            let mut byte = [0];
            text.read_exact(&mut byte).unwrap();
            first[index].push(started.elapsed());
            let mut rest = String::new();
            text.read_to_string(&mut rest).unwrap();
            all[index].push(started.elapsed());
            // 1: a node without a runtime has problems.
            assert_eq!(doctor.wait().unwrap().code(), Some(1), "{rest}");
            // No agent has delegated the cgroups.
            assert!(rest.contains("the cgroup of "), "the containers were not looked at: {rest}");
        }
    }
    let before = |samples: &[Samples]| samples.get(1).cloned().unwrap_or_default();
    let what = format!("`usernsd doctor`, {count} containers");
    let note = "fork and exec included";
    first[0].row_and_before(&before(&first), &format!("{what}, start to first output"), "100 ms", note);
    all[0].row_and_before(&before(&all), &format!("{what}, start to end"), "", "");
    let (least, most) = nothing.spread((rounds / 10).max(1));
    say(&format!("noise: medians of tenths of /bin/true from {least:?} to {most:?}"));
    for place in places {
        place.leave();
    }
}
