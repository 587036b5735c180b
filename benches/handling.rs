//! The work of the agent while a runtime waits at NRI CreateContainer and StartContainer: on the wire in the
//! agent's process, with 200 containers on the node; and the library's calls one by one.
//!
//! The runtime is the tests' fake; cgroups, processes and user namespaces are real.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that meets a surprise ends"
)]

mod common;
#[path = "common/faked.rs"]
mod faked;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use common::agent::Agent;
use common::tree::{Crowd, Place, ROOT, owner};
use common::{Samples, builds, in_node, number, say};
use faked::{fakes, node, runtime};
use fakes::nri_runtime::Plugin;
use runtime::Peers;
use usernsd_domain::cgroup::{CgroupPath, DelegateList};
use usernsd_domain::container::{CgroupMount, CriId, SpecifiedNamespaces};
use usernsd_domain::delegation::{Limits, OwnerPolicy, Rules};
use usernsd_domain::idmap::{ContainerId, HostId};
use usernsd_inspect::delegate::{Delegator, MountSource, Target, UnitSource};
use usernsd_inspect::handles::NodeHandles;
use usernsd_linux::cgroupfs::{self, CgroupRoot};
use usernsd_linux::proc::Proc;
use usernsd_nri::decode_frames;

/// The number of containers that exist before the measurement.
const OTHERS: usize = 200;

fn main() {
    let options = node::Options { runtime: node::Runtime::None, ..node::Options::default() };
    in_node(options, || {
        on_the_wire();
        one_by_one();
        hostile();
    });
}

/// An agent, and the runtime whose NRI it has joined.
struct Joined {
    agent: Agent,
    plugin: Plugin,
    samples: Samples,
    cold: Samples,
    nothing: Samples,
    unadjusted: Samples,
    adjusted: Samples,
}

/// The length of the memory that is read to displace what the processors' caches hold: more than the last
/// level's size on most machines.
const CACHES: usize = 96 << 20;

fn join(binary: &str, others: &Peers) -> Joined {
    // There are no scopes in this systemd, so its signals, which precede a real start, are left out.
    let (agent, plugin, _) = others.start(binary, "systemd: {enabled: false}\n");
    let none = Samples::default;
    Joined {
        agent,
        plugin,
        samples: none(),
        cold: none(),
        nothing: none(),
        unadjusted: none(),
        adjusted: none(),
    }
}

fn on_the_wire() {
    let rounds = number("USERNSD_BENCH_COUNT", 2000);
    let crowd = Crowd::new(OTHERS + 1);
    let (one, rest) = crowd.pids.split_first().unwrap();
    let others: Vec<Place> = rest.iter().enumerate().map(|(index, pid)| Place::new(index, *pid)).collect();
    let peers = Peers::new(&others);
    let mut joined: Vec<Joined> = builds().iter().map(|binary| join(binary, &peers)).collect();
    // The first agent has delegated all cgroups; now each agent has inspected them.
    let since = Instant::now();
    while others.iter().any(|place| owner(&place.cgroup) != ROOT) {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", joined[0].agent.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let memory = vec![1_u8; CACHES];
    let warm_up = 50;
    for round in 0..rounds + warm_up {
        // Each tenth round after other memory was used, as by the processes of a start on a real node.
        let is_cold = round % 10 == 9;
        for turn in 0..joined.len() {
            // The order rotates, because the first of a round has colder caches.
            let index = (round + turn) % joined.len();
            let joined = &mut joined[index];
            let place = Place::new(1_000_000 + round * 10 + index, *one);
            let recorded = place.recorded();
            let mut asking = recorded.clone();
            asking["pod"]["annotations"]["usernsd.io/cgroup"] = "writable".into();
            let mounts = asking["container"]["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
            let [mut start, mut nothing, mut create, mut adjust] = [(); 4].map(|()| Samples::default());
            let unadjusted = create.time(|| joined.plugin.create(&recorded)).unwrap();
            let adjusted = adjust.time(|| joined.plugin.create(&asking)).unwrap();
            assert!(unadjusted.is_none() && adjusted.is_some());
            if is_cold {
                black_box(memory.iter().step_by(64).map(|byte| u64::from(*byte)).sum::<u64>());
            }
            start.time(|| joined.plugin.start(&recorded)).unwrap();
            assert_eq!(owner(&place.cgroup), ROOT, "{}", place.cgroup.display());
            nothing.time(|| joined.plugin.stop(&recorded)).unwrap();
            if round >= warm_up {
                let starts = if is_cold { &mut joined.cold } else { &mut joined.samples };
                starts.push(start.median());
                joined.nothing.push(nothing.median());
                joined.unadjusted.push(create.median());
                joined.adjusted.push(adjust.median());
            }
            place.leave();
        }
    }
    let (mine, before) = joined.split_first().unwrap();
    let none = Samples::default();
    let before = before.first();
    let note = "a runtime's view: both ways over the socket included";
    mine.samples.row_and_before(
        before.map_or(&none, |before| &before.samples),
        "NRI StartContainer, chown, 200 others",
        "p50 0.10, p99 0.35 ms",
        note,
    );
    mine.cold.row_and_before(
        before.map_or(&none, |before| &before.cold),
        "the same, after 96 MiB of other memory were read",
        "",
        note,
    );
    mine.unadjusted.row_and_before(
        before.map_or(&none, |before| &before.unadjusted),
        "NRI CreateContainer that adjusts nothing",
        "p50 0.07 ms",
        note,
    );
    mine.adjusted.row_and_before(
        before.map_or(&none, |before| &before.adjusted),
        "NRI CreateContainer that adjusts the container",
        "p50 0.12 ms",
        note,
    );
    mine.nothing.row("NRI StopContainer: the wire and a lock", "", "the floor of the line above");
    let (least, most) = mine.nothing.spread(rounds / 10);
    say(&format!("noise: medians of tenths of the floor from {least:?} to {most:?}"));
    for place in others {
        place.leave();
    }
}

/// Measures the library's calls in this process.
fn one_by_one() {
    let rounds = number("USERNSD_BENCH_COUNT", 2000);
    let crowd = Crowd::new(1);
    let root = CgroupRoot::open(Path::new("/sys/fs/cgroup")).unwrap();
    let list =
        cgroupfs::read_delegate_list(Path::new("/sys")).unwrap().unwrap_or_else(DelegateList::fallback);
    let proc = Proc::new(Path::new("/proc"));
    let rules =
        Rules { owner: OwnerPolicy::ProcessUser, minimum_host_id: HostId(65_536), observe_only: false };
    let delegator =
        Delegator::new(NodeHandles::open(Path::new("/")).unwrap(), rules, Limits::DEFAULT).unwrap();
    let names = [
        "decode the call",
        "open the process (pidfd, /proc/PID)",
        "read uid_map, cgroup, namespace",
        "read the mount table",
        "read the user from status",
        "open the cgroup, from the root down",
        "stat the delegated files",
        "chown them and the directory",
        "verify: open again, owner",
        "Delegator::handle, chown",
        "Delegator::handle, already right",
    ];
    let mut times = vec![Samples::default(); names.len()];
    for round in 0..rounds {
        let mut step = times.iter_mut();
        let place = Place::new(2_000_000 + round * 10, crowd.pids[0]);
        let start = place.recorded();
        let message = {
            use fakes::nri_proto::{container, field, number, pod};
            let both = [field(2, &pod(&start["pod"])), field(3, &container(&start["container"]))].concat();
            Plugin::request_bytes(1, "StateChange", &[number(1, 6), both].concat())
        };
        let path = CgroupPath::parse(&place.path()).unwrap();
        assert_eq!(step.next().unwrap().time(|| decode_frames(&message)).unwrap(), 1);
        let process = step.next().unwrap().time(|| proc.open(place.pid)).unwrap();
        step.next().unwrap().time(|| {
            black_box(process.uid_map().unwrap());
            black_box(process.cgroup(&CgroupPath::root()).unwrap());
            black_box(process.namespace("user").unwrap());
        });
        let namespace = CgroupPath::root();
        step.next().unwrap().time(|| black_box(process.cgroup_mount(&path, &namespace).unwrap()));
        step.next().unwrap().time(|| black_box(process.effective_uid().unwrap()));
        let cgroup = step.next().unwrap().time(|| root.open_cgroup(&path)).unwrap();
        step.next().unwrap().time(|| {
            for name in list.files() {
                black_box(cgroup.file_owner(name).unwrap());
            }
        });
        // The new owner is root: a chown like any other, which leaves the cgroup unchanged.
        step.next().unwrap().time(|| {
            for name in list.files() {
                let _ = cgroup.chown_file(name, HostId(0));
            }
            cgroup.chown(HostId(0)).unwrap();
        });
        step.next().unwrap().time(|| {
            assert!(root.still_has(&cgroup));
            black_box(cgroup.owner_now().unwrap());
        });
        let id = CriId::parse(&place.id).unwrap();
        let cgroups_path = place.cgroups_path();
        let target = Target {
            id: &id,
            cgroups_path: &cgroups_path,
            pid: Some(place.pid),
            process_uid: Some(ContainerId(0)),
            user_namespace: true,
            mount: MountSource::Stricter(CgroupMount::ReadWrite),
            specified: &SpecifiedNamespaces::default(),
            is_started: false,
        };
        for want in ["delegated", "already_right"] {
            let handled = step.next().unwrap().time(|| delegator.handle(&target, UnitSource::Unasked));
            assert_eq!(handled.outcome.name(), want, "{handled:?}");
        }
        drop((cgroup, process));
        place.leave();
    }
    for (name, samples) in names.iter().zip(&times) {
        samples.row(&format!("in the process: {name}"), "", "");
    }
}

/// CreateContainer of a container with as many variables as a message can hold.
fn hostile() {
    use fakes::nri_proto::{container, field, pod};
    const VARIABLES: usize = 1_000_000;
    let crowd = Crowd::new(1);
    let place = Place::new(3_000_000, crowd.pids[0]);
    let mut create = place.recorded();
    create["container"]["env"] = vec![""; VARIABLES].into();
    let both = [field(1, &pod(&create["pod"])), field(2, &container(&create["container"]))].concat();
    let message = Plugin::request_bytes(1, "CreateContainer", &both);
    let mut times = Samples::default();
    for _ in 0..50 {
        let decoded = times.time(|| decode_frames(&message)).unwrap();
        assert_eq!(decoded, 1, "{} bytes", message.len());
    }
    let size = message.len() >> 10;
    times.row("in the process: decode a call with a million variables", "20 ms", &format!("{size} KiB"));
    place.leave();
}
