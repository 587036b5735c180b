//! Metrics whose values are read at the moment of a scrape.

mod examined;
mod families;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

use self::families::{
    COLLECTOR_DURATION, COLLECTOR_SUCCESS, CONTAINERS, CONTAINERS_OMITTED, KNOWLEDGE, LOG, NODE,
    OF_CONTAINER, OF_NODE, OVERLAPS, PEERS, POD, POD_DESCENDANTS, POD_DESCENDANTS_MAX, POD_DESCENDANTS_USED,
    POD_MAPPED, POD_OVERLAP, POD_ROOT, PODS, PODS_OMITTED, POOL_FIRST, POOL_SLOT_IDS, POOL_SLOTS, POOL_USED,
    PROBLEMS, START_PATH, SUBID_RANGES,
};
use super::SurveyFn;
use crate::state::{About, State};
use crate::store::Store;
use crate::verdict::{NodeVerdict, Tone};
use usernsd_domain::check::Check;
use usernsd_domain::check::configuration::ConfigFile;
use usernsd_domain::delegation::Limit;
use usernsd_domain::finding::Severity;
use usernsd_domain::idmap::IdMap;
use usernsd_domain::node::{
    Collector, CriRuntime, Detail, Exposition, Peer, PeerState, Snapshot, StartPath, Survey, SurveyedPod,
};
use usernsd_domain::pod::is_dns_label;
use usernsd_domain::record::{CgroupState, Record, UserNamespaceMode};
use usernsd_domain::restart::Service;
use usernsd_domain::space::{IdType, OverlapKind, PoolName, SLOT, Space};
use usernsd_linux::log;

/// A family of samples.
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    /// Whether it is a counter.
    counter: bool,
    labels: &'static [&'static str],
    /// The lowest level of detail at which it is shown.
    level: Detail,
}

pub(super) const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, counter: false, labels, level: Detail::Node }
}

pub(super) const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { counter: true, ..gauge(name, labels, help) }
}

/// Maximum number of samples of pods and containers together. Prometheus drops a scrape with more than the
/// `sampleLimit` of `dashboards/podmonitor.yaml`, so that a user who starts many containers would silence the
/// alerts. The rest of that limit is for the node, the exporter, and the user mapping problems of pods.
const MOST_SAMPLES: usize = 6_000;

/// The metrics from the agent's records: one snapshot and one survey for each scrape, so that the numbers
/// are consistent.
pub(super) struct Knowledge {
    store: Store,
    survey: SurveyFn,
    exposition: Exposition,
}

/// A row of the page for each family that may have no sample on a quiet node.
pub(super) fn rows() -> impl Iterator<Item = (String, String)> {
    let of_node = OF_NODE.iter().map(|(family, _)| family);
    let of_peers = PEERS.iter().flat_map(|(up, again)| [up, again]);
    KNOWLEDGE.iter().copied().chain(of_node).chain(of_peers).map(|family| {
        let Family { name, help, counter, labels, level } = family;
        let kind = if *counter { "counter" } else { "gauge" };
        let labels: Vec<String> = labels.iter().map(|label| documented_label(name, label)).collect();
        let level = level.name();
        let labels = labels.join(", ");
        ((*name).to_owned(), format!("| `{name}` | {kind} | {labels} | {level} | {help} |\n"))
    })
}

/// A label with its values, where these are known in advance.
fn documented_label(family: &str, label: &str) -> String {
    let values: Vec<&str> = match label {
        "cgroup_state" => CgroupState::ALL.map(CgroupState::name).to_vec(),
        "level" => log::written().map(|(level, _)| level).collect(),
        "collector" => Collector::ALL.map(Collector::name).to_vec(),
        "userns" => UserNamespaceMode::ALL.map(UserNamespaceMode::name).to_vec(),
        "pool" => PoolName::ALL.map(PoolName::name).to_vec(),
        "check" => Check::ALL.map(Check::name).into(),
        "severity" if family == PROBLEMS.name => {
            [Severity::Error, Severity::Warning].map(Severity::name).to_vec()
        }
        "severity" => [Severity::Error, Severity::Warning, Severity::Note].map(Severity::name).to_vec(),
        "unit" => Service::ALL.map(Service::name).to_vec(),
        "file" if family != SUBID_RANGES.name => ConfigFile::ALL.map(ConfigFile::name).to_vec(),
        "file" => IdType::ALL.map(IdType::file).to_vec(),
        "id_type" => IdType::ALL.map(IdType::name).to_vec(),
        "kind" if family == POD_OVERLAP.name => OverlapKind::OF_PODS.map(OverlapKind::name).to_vec(),
        "path" => StartPath::ALL.map(StartPath::name).to_vec(),
        "kind" => OverlapKind::ALL.map(OverlapKind::name).to_vec(),
        _ => vec![],
    };
    let values = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
    format!("`{label}`{values}")
}

// === impl Family ===

impl Family {
    fn desc(&self) -> prometheus::Result<Desc> {
        let labels = self.labels.iter().map(|&label| label.to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, Default::default())
    }

    /// The family with one sample, without labels.
    pub(super) fn one(&self, number: f64) -> MetricFamily {
        let mut metric = Metric::default();
        if self.counter {
            let mut counter = Counter::default();
            counter.set_value(number);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(number);
            metric.set_gauge(gauge);
        }
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(if self.counter { MetricType::COUNTER } else { MetricType::GAUGE });
        family.set_metric(vec![metric]);
        family
    }

    /// Writes the family with one sample for each item: the values of the labels, in the order of their names, and
    /// the value. Without an item it writes nothing. Returns the number of samples.
    ///
    /// Written here and not by the crate prometheus, which needs some ten allocations for a sample; a node has thousands.
    fn write<'a, const N: usize>(
        &self,
        text: &mut String,
        samples: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) -> usize {
        let mut count = 0;
        for (values, number) in samples {
            if count == 0 {
                let kind = if self.counter { "counter" } else { "gauge" };
                for part in ["# HELP ", self.name, " ", self.help, "\n# TYPE ", self.name, " ", kind, "\n"] {
                    text.push_str(part);
                }
            }
            text.push_str(self.name);
            let mut before = "{";
            for (label, value) in self.labels.iter().zip(values) {
                text.push_str(before);
                text.push_str(label);
                text.push_str("=\"");
                push_escaped(text, value);
                before = "\",";
            }
            if before != "{" {
                text.push_str("\"}");
            }
            // A String takes whatever is written to it.
            let _ = writeln!(text, " {number}");
            count += 1;
        }
        count
    }

    fn write_of(&self, text: &mut String, samples: impl IntoIterator<Item = (&'static str, f64)>) {
        self.write(text, samples.into_iter().map(|(value, number)| ([value], number)));
    }

    fn write_one(&self, text: &mut String, number: f64) {
        self.write(text, [([], number)]);
    }
}

/// A label's value in the text format.
fn push_escaped(text: &mut String, value: &str) {
    let mut rest = value;
    while let Some((plain, special)) = rest.find(['\\', '"', '\n']).and_then(|at| rest.split_at_checked(at)) {
        text.push_str(plain);
        let mut chars = special.chars();
        match chars.next() {
            Some('\n') => text.push_str("\\n"),
            Some(char) => text.extend(['\\', char]),
            None => {}
        }
        rest = chars.as_str();
    }
    text.push_str(rest);
}

pub(super) fn descs<'a>(families: impl IntoIterator<Item = &'a Family>) -> prometheus::Result<Vec<Desc>> {
    families.into_iter().map(Family::desc).collect()
}

/// Counts are far below 2⁵³.
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

/// A time in seconds since 1970; 0 for none.
pub(super) fn seconds(time: Option<SystemTime>) -> f64 {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.unwrap_or_default().as_secs_f64()
}

pub(super) fn truth(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

/// A text of the runtime or the kernel as a label value: short, and of plain characters only.
fn plain(text: &str) -> &str {
    let good = text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if good { text } else { "unknown" }
}

/// A pod's UID; empty if it is not valid.
fn uid(text: &str) -> &str {
    let good = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if good { text } else { "" }
}

/// The pods that get series of their own: those with a problem first, then by name.
fn chosen(pods: &[SurveyedPod], max: usize) -> Vec<&SurveyedPod> {
    let mut names = BTreeSet::new();
    let mut chosen = Vec::new();
    for pod in pods.iter().filter(|pod| pod.pod.has_good_names()) {
        let name = &pod.pod.name;
        // If several pods have one name, the newest comes first.
        if names.insert((name.namespace.as_str(), name.name.as_str())) {
            chosen.push(pod);
        }
    }
    let is_good = |pod: &&SurveyedPod| {
        pod.shared == [0; 4] && pod.pod.containers.iter().all(|record| !record.assessment().is_problem())
    };
    chosen.sort_by_key(is_good);
    chosen.truncate(max);
    chosen
}

/// The number of the node's problems by severity.
fn problems(snapshot: &Snapshot, survey: &Survey) -> [(&'static str, f64); 2] {
    let about = About { node: String::new(), version: String::new(), uptime_at_start: None };
    // A container without a problem adds nothing to the verdict, and most are without one.
    let matters = |record: &&Arc<Record>| record.user_namespace.is_none() || record.assessment().is_problem();
    let snapshot = &Snapshot {
        started: snapshot.started,
        reconciled: snapshot.reconciled,
        runtime: snapshot.runtime.clone(),
        peers: snapshot.peers.clone(),
        start_path: snapshot.start_path,
        mismatch: snapshot.mismatch.clone(),
        plugins: snapshot.plugins.clone(),
        containers: snapshot.containers.iter().filter(matters).cloned().collect(),
        events: Vec::new(),
        examined: snapshot.examined.clone(),
        past: Vec::new(),
    };
    let found = NodeVerdict::of(&State::of(&about, snapshot, survey)).problems;
    [(Severity::Error, Tone::Bad), (Severity::Warning, Tone::Warning)].map(|(severity, tone)| {
        let count = found.iter().filter(|problem| problem.tone == tone).count();
        (severity.name(), number(count as u64))
    })
}

/// A pod's first two labels.
fn names(pod: &SurveyedPod) -> [&str; 2] {
    [pod.pod.name.namespace.as_str(), pod.pod.name.name.as_str()]
}

/// The containers of a pod that get series of their own.
fn named(pod: &SurveyedPod) -> Vec<&Record> {
    let mut names = BTreeSet::new();
    let records = pod.pod.containers.iter().map(AsRef::as_ref);
    records.filter(|record| is_dns_label(&record.name) && names.insert(record.name.as_str())).collect()
}

// === impl Knowledge ===

impl Knowledge {
    pub(super) fn new(store: Store, survey: SurveyFn, exposition: Exposition) -> Knowledge {
        Knowledge { store, survey, exposition }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    fn node(text: &mut String, snapshot: &Snapshot, survey: &Survey) {
        let mut counts = CgroupState::ALL.map(|state| (state, 0_u64));
        for record in &snapshot.containers {
            let state = record.state();
            if let Some((_, count)) = counts.iter_mut().find(|(known, _)| *known == state) {
                *count += 1;
            }
        }
        let in_mode = |mode| survey.pods.iter().filter(|pod| pod.pod.mode == mode).count() as u64;
        let collected = || survey.collected.iter();
        let (cri, cri_version) = match &snapshot.runtime {
            Some(CriRuntime { name, version, .. }) => (plain(name), plain(version)),
            None => ("", ""),
        };
        let oci_runtime = snapshot.examined.as_ref().and_then(|examined| examined.oci_runtime.as_deref());
        let oci_runtime = oci_runtime.map_or("", plain);
        let release = survey.kernel.as_ref().map_or("", |kernel| plain(&kernel.release));
        CONTAINERS.write_of(text, counts.map(|(state, count)| (state.name(), number(count))));
        LOG.write_of(text, log::written().map(|(level, count)| (level, number(count))));
        let paths = StartPath::ALL.map(|path| (path.name(), truth(path == snapshot.start_path)));
        START_PATH.write_of(text, paths);
        PODS.write_of(text, UserNamespaceMode::ALL.map(|mode| (mode.name(), number(in_mode(mode)))));
        PROBLEMS.write_of(text, problems(snapshot, survey));
        NODE.write(text, [([release, cri, cri_version, oci_runtime], 1.0)]);
        COLLECTOR_SUCCESS
            .write_of(text, collected().map(|part| (part.collector.name(), truth(part.succeeded))));
        COLLECTOR_DURATION
            .write_of(text, collected().map(|part| (part.collector.name(), part.took.as_secs_f64())));
        for (family, value) in &OF_NODE {
            if let Some(number) = value(snapshot, survey) {
                family.write_one(text, number);
            }
        }
        if let Some(space) = &survey.space {
            Knowledge::space(text, space);
        }
        for (peer, (up, reconnects)) in Peer::ALL.into_iter().zip(&PEERS) {
            let health = snapshot.peers.of(peer);
            let is_up = match health.state {
                // No alert should fire for a peer that is switched off.
                PeerState::Off => continue,
                PeerState::Down | PeerState::Waiting => false,
                PeerState::Up => true,
            };
            up.write_one(text, truth(is_up));
            reconnects.write_one(text, number(health.reconnects));
        }
    }

    fn space(text: &mut String, space: &Space) {
        let pools = || space.pools.iter();
        POOL_SLOTS.write_of(text, pools().map(|pool| (pool.name.name(), number(pool.slots))));
        POOL_USED.write_of(text, pools().map(|pool| (pool.name.name(), number(pool.used))));
        POOL_SLOT_IDS.write_of(text, pools().map(|pool| (pool.name.name(), number(SLOT))));
        POOL_FIRST.write_of(text, pools().map(|pool| (pool.name.name(), number(pool.first().unwrap_or(0)))));
        let ranges = IdType::ALL.map(IdType::file).into_iter().zip(space.subid_ranges.map(number));
        SUBID_RANGES.write_of(text, ranges);
        let overlaps = OverlapKind::ALL.map(|kind| (kind.name(), number(space.overlaps_of(kind))));
        OVERLAPS.write_of(text, overlaps);
    }

    /// Writes the series of these pods; returns their number.
    fn pods(text: &mut String, chosen: &[&SurveyedPod]) -> usize {
        let all = || chosen.iter().map(|&pod| (pod, names(pod)));
        let isolated = || all().filter(|(pod, _)| pod.pod.is_in_user_namespace());
        let mapped = |value: fn(&IdMap) -> Option<f64>| {
            isolated().flat_map(move |(pod, [namespace, name])| {
                IdType::ALL.into_iter().filter_map(move |space| {
                    Some(([namespace, name, space.name()], value(pod.pod.map(space)?)?))
                })
            })
        };
        let shared = all().flat_map(|(pod, [namespace, name])| {
            let kinds = OverlapKind::OF_PODS.into_iter().zip(pod.shared).filter(|(_, ids)| *ids > 0);
            kinds.map(move |(kind, ids)| ([namespace, name, kind.name()], number(ids)))
        });
        let cgroups = || isolated().filter_map(|(pod, name)| Some((name, pod.cgroup.as_ref()?)));
        let limit = |limit| match limit {
            Limit::Max => f64::INFINITY,
            Limit::At(limit) => limit.into(),
        };
        let about = all().map(|(pod, [namespace, name])| {
            ([namespace, name, uid(&pod.pod.name.uid), pod.pod.mode.name()], 1.0)
        });
        POD.write(text, about)
            + POD_ROOT.write(text, mapped(|map| map.root().map(|root| root.0.into())))
            + POD_MAPPED.write(text, mapped(|map| Some(number(map.len()))))
            + POD_OVERLAP.write(text, shared)
            + POD_DESCENDANTS.write(text, cgroups().map(|(name, cgroup)| (name, number(cgroup.descendants))))
            + POD_DESCENDANTS_MAX.write(text, cgroups().map(|(name, cgroup)| (name, limit(cgroup.limit))))
            + POD_DESCENDANTS_USED.write(text, cgroups().map(|(name, cgroup)| (name, cgroup.used())))
    }

    /// Writes as many containers as fit into this number of samples: those with a problem first, then the first one
    /// of each pod before the second one of any, so that a pod with many containers does not displace others.
    fn containers(text: &mut String, chosen: &[&SurveyedPod], mut room: usize) {
        let isolated = || chosen.iter().filter(|pod| pod.pod.is_in_user_namespace());
        let mut all: Vec<(usize, [&str; 3], &Record)> = isolated()
            .flat_map(|pod| {
                let [namespace, name] = names(pod);
                let records = named(pod).into_iter().enumerate();
                records.map(move |(at, record)| (at, [namespace, name, record.name.as_str()], record))
            })
            .collect();
        all.sort_by_key(|(at, _, record)| (!record.assessment().is_problem(), *at));
        let fits = |(_, _, record): &&(usize, [&str; 3], &Record)| {
            let samples = OF_CONTAINER.iter().filter(|(_, value)| value(record).is_some()).count();
            let left = room.checked_sub(samples);
            room = left.unwrap_or(0);
            left.is_some()
        };
        let shown = all.iter().take_while(fits).count();
        all.truncate(shown);
        let containers: usize = isolated().map(|pod| pod.pod.containers.len()).sum();
        CONTAINERS_OMITTED.write_one(text, number((containers - shown) as u64));
        for (family, value) in OF_CONTAINER {
            family.write(text, all.iter().filter_map(|(_, name, record)| Some((*name, value(record)?))));
        }
    }

    /// Writes the metrics of this moment, in the text format.
    pub(super) fn write(&self, text: &mut String) {
        let snapshot = self.store.snapshot();
        let survey = (self.survey)(&snapshot);
        Knowledge::node(text, &snapshot, &survey);
        examined::write(text, &snapshot, &survey);
        let Exposition { detail, max_pods } = self.exposition;
        let chosen = if detail >= Detail::Pod { chosen(&survey.pods, max_pods) } else { vec![] };
        // If pods have no series at all, none is omitted.
        let omitted = if detail >= Detail::Pod { survey.pods.len() - chosen.len() } else { 0 };
        PODS_OMITTED.write_one(text, number(omitted as u64));
        let mut room = MOST_SAMPLES;
        if detail >= Detail::Pod {
            room = room.saturating_sub(Knowledge::pods(text, &chosen));
        }
        if detail >= Detail::Container {
            Knowledge::containers(text, &chosen, room);
        } else {
            CONTAINERS_OMITTED.write_one(text, 0.0);
        }
    }
}

impl fmt::Debug for Knowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Knowledge").finish_non_exhaustive()
    }
}
