//! `usernsd hook` as the OCI runtime runs it: a separate process, from its start to its end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that meets a surprise ends"
)]

#[path = "../tests/node/mod.rs"]
mod node;

mod common;

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::process::{Command, Stdio};

use common::tree::{Crowd, Place, ROOT, owner};
use common::{Samples, builds, in_node, number, say};
use serde_json::json;

fn main() {
    let options = node::Options { runtime: node::Runtime::None, ..node::Options::default() };
    in_node(options, hook);
}

fn hook() {
    let rounds = number("USERNSD_BENCH_COUNT", 500);
    let crowd = Crowd::new(1);
    let bundle = tempfile::tempdir().unwrap();
    let builds = builds();
    let mut times = vec![Samples::default(); builds.len()];
    let mut nothing = Samples::default();
    for round in 0..rounds {
        nothing.time(|| Command::new("/bin/true").stdin(Stdio::null()).status()).unwrap();
        for turn in 0..builds.len() {
            // The order rotates, because the first of a round has colder caches.
            let index = (round + turn) % builds.len();
            let binary = builds[index];
            let place = Place::new(3_000_000 + round * 10 + index, crowd.pids[0]);
            std::fs::write(bundle.path().join("config.json"), place.specification().to_string()).unwrap();
            let state = json!({
                "ociVersion": "1.2.0", "id": place.id, "status": "creating", "pid": place.pid,
                "bundle": bundle.path(), "annotations": {},
            });
            let mut input: File = tempfile::tempfile().unwrap();
            input.write_all(state.to_string().as_bytes()).unwrap();
            input.rewind().unwrap();
            let mut command = Command::new(binary);
            command.arg("hook").stdin(input);
            let status = times[index].time(|| command.status()).unwrap();
            assert!(status.success());
            assert_eq!(owner(&place.cgroup), ROOT);
            place.leave();
        }
    }
    let (mine, before) = times.split_first().unwrap();
    let none = Samples::default();
    mine.row_and_before(
        before.first().unwrap_or(&none),
        "hook: `usernsd hook`, start to end",
        "5 ms",
        "fork, exec and wait included",
    );
    nothing.row("hook: `/bin/true`, start to end", "", "the floor of the line above");
    let (least, most) = nothing.spread(rounds / 10);
    say(&format!("noise: medians of tenths of the floor from {least:?} to {most:?}"));
}
