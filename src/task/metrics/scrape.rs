//! What is not counted but read at the moment of a scrape.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::domain::guard::Verdict;
use crate::domain::node::{Peer, PeerState};
use crate::domain::record::CgroupState;
use crate::edge::log;
use crate::task::snapshot::Store;

/// A family of samples: name, help, whether it only ever grows, label.
struct Family {
    name: &'static str,
    help: &'static str,
    counter: bool,
    label: Option<&'static str>,
}

const CONTAINERS: Family = Family {
    name: "usernsd_containers",
    help: "Running containers by the state of their cgroup.",
    counter: false,
    label: Some("cgroup_state"),
};
const LOST: Family = Family {
    name: "usernsd_lost_isolation_containers",
    help: "Running containers in the host's user namespace although their pod asked for its own.",
    counter: false,
    label: None,
};
const LOG: Family = Family {
    name: "usernsd_log_messages_total",
    help: "Log lines written.",
    counter: true,
    label: Some("level"),
};
const LOG_DROPPED: Family = Family {
    name: "usernsd_log_messages_dropped_total",
    help: "Log lines dropped because nobody read the log fast enough.",
    counter: true,
    label: None,
};
/// In the order of [`Peer::ALL`]: up, reconnects.
const PEERS: [(Family, Family); 3] = [
    (
        up("usernsd_cri_up", "Whether the container runtime answers over CRI (1) or not (0)."),
        reconnects("usernsd_cri_reconnects_total", "Times the container runtime was reached again over CRI."),
    ),
    (
        up(
            "usernsd_nri_up",
            "Whether the agent is registered with the container runtime over NRI (1) or not (0).",
        ),
        reconnects("usernsd_nri_reconnects_total", "Times the agent registered again over NRI."),
    ),
    (
        up("usernsd_systemd_up", "Whether systemd answers over D-Bus (1) or not (0)."),
        reconnects("usernsd_systemd_reconnects_total", "Times systemd was reached again over D-Bus."),
    ),
];

const CPU: Family = Family {
    name: "process_cpu_seconds_total",
    help: "Total user and system CPU time spent in seconds.",
    counter: true,
    label: None,
};
const OPEN_FDS: Family = process("process_open_fds", "Number of open file descriptors.");
const VIRTUAL: Family = process("process_virtual_memory_bytes", "Virtual memory size in bytes.");
const RESIDENT: Family = process("process_resident_memory_bytes", "Resident memory size in bytes.");
const START: Family =
    process("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");

/// The agent's knowledge: one snapshot a scrape, so that its numbers agree with each other.
pub(super) struct Knowledge {
    store: Store,
    descs: Vec<Desc>,
}

/// The agent's process, by the names every program uses.
pub(super) struct OwnProcess {
    descs: Vec<Desc>,
}

// === impl Family ===

const fn up(name: &'static str, help: &'static str) -> Family {
    Family { name, help, counter: false, label: None }
}

const fn reconnects(name: &'static str, help: &'static str) -> Family {
    Family { name, help, counter: true, label: None }
}

const fn process(name: &'static str, help: &'static str) -> Family {
    Family { name, help, counter: false, label: None }
}

impl Family {
    fn desc(&self) -> prometheus::Result<Desc> {
        let labels = self.label.iter().map(|&label| label.to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, Default::default())
    }

    fn of(&self, samples: impl IntoIterator<Item = (&'static str, f64)>) -> MetricFamily {
        let sample = |(value, number): (&'static str, f64)| {
            let labels = self.label.map(|label| {
                let mut pair = LabelPair::default();
                pair.set_name(label.to_owned());
                pair.set_value(value.to_owned());
                pair
            });
            let mut metric = Metric::from_label(labels.into_iter().collect());
            if self.counter {
                let mut counter = Counter::default();
                counter.set_value(number);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(number);
                metric.set_gauge(gauge);
            }
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(if self.counter { MetricType::COUNTER } else { MetricType::GAUGE });
        family.set_metric(samples.into_iter().map(sample).collect());
        family
    }

    fn one(&self, number: f64) -> MetricFamily {
        self.of([("", number)])
    }
}

fn descs<'a>(families: impl IntoIterator<Item = &'a Family>) -> prometheus::Result<Vec<Desc>> {
    families.into_iter().map(Family::desc).collect()
}

/// Counts are far below 2⁵³.
fn number(count: u64) -> f64 {
    count as f64
}

// === impl Knowledge ===

impl Knowledge {
    pub(super) fn new(store: Store) -> prometheus::Result<Knowledge> {
        let peers = PEERS.iter().flat_map(|(up, reconnects)| [up, reconnects]);
        let descs = descs([&CONTAINERS, &LOST, &LOG, &LOG_DROPPED].into_iter().chain(peers))?;
        Ok(Knowledge { store, descs })
    }
}

impl Collector for Knowledge {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.store.snapshot();
        let mut counts = CgroupState::ALL.map(|state| (state, 0_u64));
        for record in &snapshot.containers {
            let state = record.state();
            if let Some((_, count)) = counts.iter_mut().find(|(known, _)| *known == state) {
                *count += 1;
            }
        }
        let lost = snapshot.containers.iter().filter(|record| record.isolation == Verdict::Lost).count();
        let mut families = vec![
            CONTAINERS.of(counts.map(|(state, count)| (state.name(), number(count)))),
            LOST.one(number(lost as u64)),
            LOG.of(log::written().map(|(level, count)| (level, number(count)))),
            LOG_DROPPED.of([("", number(log::dropped()))]),
        ];
        for (peer, (up, reconnects)) in Peer::ALL.into_iter().zip(&PEERS) {
            let health = snapshot.peers.of(peer);
            let is_up = match health.state {
                // Nobody should be woken for what is meant to be down.
                PeerState::Off => continue,
                PeerState::Down => 0.0,
                PeerState::Up => 1.0,
            };
            families.push(up.one(is_up));
            families.push(reconnects.one(number(health.reconnects)));
        }
        families
    }
}

// === impl OwnProcess ===

impl OwnProcess {
    pub(super) fn new() -> prometheus::Result<OwnProcess> {
        Ok(OwnProcess { descs: descs([&CPU, &OPEN_FDS, &VIRTUAL, &RESIDENT, &START])? })
    }

    fn read() -> procfs::ProcResult<Vec<MetricFamily>> {
        let process = procfs::process::Process::myself()?;
        let stat = process.stat()?;
        let ticks = number(procfs::ticks_per_second());
        let start = number(procfs::boot_time_secs()?) + number(stat.starttime) / ticks;
        Ok(vec![
            CPU.one(number(stat.utime + stat.stime) / ticks),
            OPEN_FDS.one(number(process.fd_count()? as u64)),
            VIRTUAL.one(number(stat.vsize)),
            RESIDENT.one(number(stat.rss * procfs::page_size())),
            START.one(start),
        ])
    }
}

impl Collector for OwnProcess {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Without /proc there is nothing to say, and the rest of the scrape is worth having.
        OwnProcess::read().unwrap_or_default()
    }
}
