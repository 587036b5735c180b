//! The time from the agent's start until every container is verified, and the running costs of the agent:
//! memory, and CPU time while nothing happens.
//!
//! There are 500 containers, each with a cgroup, a process in a user namespace and a bundle; the runtime is
//! the tests' fake, on its CRI and its NRI socket.
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
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::tree::{Crowd, Place, ROOT, owner};
use common::{Samples, builds, in_node, number, row, say};
use faked::{fakes, node, runtime};
use runtime::Peers;

fn main() {
    let options = node::Options { runtime: node::Runtime::None, ..node::Options::default() };
    in_node(options, startup);
}

fn startup() {
    let count = number("USERNSD_BENCH_CONTAINERS", 500);
    let rounds = number("USERNSD_BENCH_COUNT", 15);
    let idle = Duration::from_secs(number("USERNSD_BENCH_IDLE", 30) as u64);
    let builds = builds();

    let none = Peers::new(&[]);
    let mut empty = vec![(Samples::default(), Vec::new()); builds.len()];
    for round in 0..rounds {
        for turn in 0..builds.len() {
            let index = (round + turn) % builds.len();
            let (times, resident) = &mut empty[index];
            let (agent, _plugin, ready) = none.start(builds[index], "");
            times.push(ready);
            thread::sleep(Duration::from_millis(300));
            resident.push(agent.resident());
        }
    }

    let crowd = Crowd::new(count);
    let places: Vec<Place> =
        crowd.pids.iter().enumerate().map(|(index, pid)| Place::new(index, *pid)).collect();
    let full = Peers::new(&places);
    let mut first = vec![Samples::default(); builds.len()];
    let mut again = vec![Samples::default(); builds.len()];
    let mut busy = vec![Samples::default(); builds.len()];
    let mut resident = vec![Vec::new(); builds.len()];
    for round in 0..rounds {
        for turn in 0..builds.len() {
            // The order rotates, because the first of a round has colder caches.
            let index = (round + turn) % builds.len();
            let binary = builds[index];
            for place in &places {
                give_back(&place.cgroup);
            }
            let (agent, plugin, ready) = full.start(binary, "");
            first[index].push(ready);
            assert!(
                places.iter().all(|place| owner(&place.cgroup) == ROOT),
                "ready, and not all are right: {}",
                agent.log()
            );
            drop((agent, plugin));
            let (agent, _plugin, ready) = full.start(binary, "");
            again[index].push(ready);
            busy[index].push(agent.cpu());
            thread::sleep(Duration::from_millis(700));
            resident[index].push(agent.resident());
        }
    }
    let before = |samples: &[Samples]| samples.get(1).cloned().unwrap_or_default();
    let what = format!("start to ready, {count} containers");
    first[0].row_and_before(
        &before(&first),
        &format!("{what}, all to be handed over"),
        "",
        "the first start on a node",
    );
    again[0].row_and_before(&before(&again), &format!("{what}, all right already"), "150 ms", "a restart");
    busy[0].row_and_before(&before(&busy), "CPU time of that restart, all threads", "", "");
    let zero: Vec<Samples> = empty.iter().map(|(times, _)| times.clone()).collect();
    zero[0].row_and_before(&before(&zero), "start to ready, no container", "", "");
    for (index, binary) in builds.iter().enumerate() {
        let which = if index == 0 { "" } else { ", before" };
        memory(&format!("resident memory, no container{which}"), &empty[index].1, "");
        memory(&format!("resident memory, {count} containers{which}"), &resident[index], "12 MiB");
        let (agent, _plugin, _) = full.start(binary, "");
        thread::sleep(Duration::from_secs(6)); // helper threads have ended
        let (cpu, since) = (agent.cpu(), Instant::now());
        thread::sleep(idle);
        let used = (agent.cpu() - cpu).as_secs_f64() / since.elapsed().as_secs_f64();
        let percent = format!("{:.4} %", used * 100.0);
        row(
            &format!("idle CPU, {count} containers{which}"),
            &percent,
            "",
            1,
            "0.1 %",
            &format!("of one core, {idle:?}"),
        );
        let (all, anonymous) = agent.resident();
        let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().count();
        say(&format!(
            "{binary}: idle for a while: {all} kB resident, {anonymous} kB anonymous, {threads} threads"
        ));
    }
    for place in places {
        place.leave();
    }
}

fn memory(what: &str, samples: &[(u64, u64)], budget: &str) {
    let mib = |mut all: Vec<u64>| {
        all.sort_unstable();
        format!("{:.1} MiB", all[all.len() / 2] as f64 / 1024.0)
    };
    let anonymous = mib(samples.iter().map(|(_, anonymous)| *anonymous).collect());
    let all = mib(samples.iter().map(|(all, _)| *all).collect());
    row(what, &all, "", samples.len(), budget, &format!("{anonymous} of it anonymous"));
}

/// Makes root the owner of a cgroup, as after its creation by a runtime.
fn give_back(cgroup: &Path) {
    use std::os::unix::fs::chown;
    chown(cgroup, Some(0), None).unwrap();
    for name in
        ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "memory.oom.group", "memory.reclaim"]
    {
        let _ = chown(cgroup.join(name), Some(0), None);
    }
}
