//! Compares the pods of the API server with those of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, sleep, timeout};

use super::Cluster;
use super::facts::{container_facts, in_hosts, map, node_facts, overlaps};
use super::namespaces::Ranges;
use super::post::Waiting;
use super::watch::Pods;
use crate::metrics::Action;
use crate::state::{Agent, Container, Event, State};
use usernsd_domain::event::{
    ContainerFacts, EventPolicy, EventSubject, Notice, PodEventFacts, PostedNotices, in_turn, notices,
};
use usernsd_domain::pod::{is_dns_label, is_dns_name};
use usernsd_domain::rate_limit::{Bucket, Limiter};
use usernsd_domain::recent_events::EventKind;
use usernsd_domain::record::UserNamespaceMode;
use usernsd_domain::space::IdType;
use usernsd_domain::user_mapping::{IDS_PER_POD, OnNode, PodMappingProblems, mapping_problems, node_uid};
use usernsd_domain::utc::rfc3339;

/// The limit of all Events of a node: a burst of ten, then one each six seconds.
const NODE_LIMIT: (u32, Duration) = (10, Duration::from_secs(6));
/// The limit of Events about one object, like client-go's: a burst of 25, then one each five minutes.
const OBJECT_LIMIT: (u32, Duration) = (25, Duration::from_secs(300));

pub(super) struct Judge {
    cluster: Arc<Cluster>,
    events: EventPolicy,
    queue: mpsc::Sender<Waiting>,
    misfits: channel::Sender<Arc<Vec<PodMappingProblems>>>,
    journal: PostedNotices,
    limiter: Limiter,
    began: Instant,
    /// The run of the agent, and the number of its last event before this process read the first document.
    first_document: Option<(Run, u64)>,
}

/// Distinguishes one run of the agent from the next, in which events are numbered from 1 again.
#[derive(PartialEq, Eq)]
enum Run {
    /// The node's uptime when it started.
    Uptime(u64),
    /// When it started, from an earlier version of the agent.
    Time(String),
}

// === impl Run ===

impl Run {
    fn of(agent: &Agent) -> Run {
        agent.uptime_at_start_ms.map_or_else(|| Run::Time(agent.started_at.clone()), Run::Uptime)
    }
}

// === impl Judge ===

impl Judge {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        events: EventPolicy,
        queue: mpsc::Sender<Waiting>,
        misfits: channel::Sender<Arc<Vec<PodMappingProblems>>>,
    ) -> Judge {
        let limiter = Limiter::new(
            Bucket::new(NODE_LIMIT.0, NODE_LIMIT.1),
            Bucket::new(OBJECT_LIMIT.0, OBJECT_LIMIT.1),
        );
        Judge {
            cluster,
            events,
            queue,
            misfits,
            journal: PostedNotices::default(),
            limiter,
            began: Instant::now(),
            first_document: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut states: channel::Receiver<Option<Arc<State>>>,
        mut pods: channel::Receiver<Arc<Pods>>,
        mut ranges: channel::Receiver<Arc<Ranges>>,
    ) {
        loop {
            let (state, known) = (states.borrow_and_update().clone(), pods.borrow_and_update().clone());
            let namespaces = ranges.borrow_and_update().clone();
            let all_queued = self.queue_events(state.as_deref(), &known, &namespaces);
            sleep(self.cluster.pace.settle).await;
            let changed = async {
                // A sender may be gone for good, if its part is disabled or has ended.
                tokio::select! {
                    Ok(()) = states.changed() => true,
                    Ok(()) = pods.changed() => true,
                    Ok(()) = ranges.changed() => true,
                    else => false,
                }
            };
            let goes_on = match all_queued {
                true => changed.await,
                // The limits may permit more by now.
                false => timeout(NODE_LIMIT.1, changed).await.unwrap_or(true),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Queues the Events that are due; returns whether all of them could be queued.
    fn queue_events(&mut self, state: Option<&State>, pods: &Pods, ranges: &Ranges) -> bool {
        let mut on_node: BTreeMap<&str, Vec<&Container>> = BTreeMap::new();
        for container in state.into_iter().flat_map(|state| &state.containers) {
            on_node.entry(&container.pod.uid).or_default().push(container);
        }
        let mut names: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
        for pod in state.into_iter().flat_map(|state| &state.pods) {
            names.insert(&pod.uid, (&pod.namespace, &pod.name));
        }
        let ids_per_pod = ids_per_pod(state);
        let mut found: BTreeMap<&str, PodMappingProblems> = BTreeMap::new();
        for pod in pods.values() {
            let uid = node_uid(pod, &names);
            let containers = on_node.get(uid).map_or([].as_slice(), Vec::as_slice);
            let (uid_map, gid_map) = (map(containers, IdType::Uid), map(containers, IdType::Gid));
            let node = OnNode {
                uid_map: uid_map.as_ref(),
                gid_map: gid_map.as_ref(),
                in_hosts: in_hosts(containers),
                ids_per_pod,
            };
            let misfits = mapping_problems(pod, &node, ranges.get(&pod.namespace));
            if !misfits.is_empty() {
                let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
                found.insert(uid, PodMappingProblems { namespace, name, uid: uid.to_owned(), misfits });
            }
        }
        let all: Vec<PodMappingProblems> = found.values().cloned().collect();
        self.cluster.metrics.set_mapping_problems(&all);
        self.misfits.send_if_modified(|before| {
            let is_news = **before != all;
            *before = Arc::new(all);
            is_news
        });
        // An agent that is away reports nothing new, and its last document still holds. The same is true of
        // an agent that has restarted and not inspected everything yet.
        match state.filter(|state| state.node.ready.is_some()) {
            Some(state) => {
                // The API server's UID of a pod that the node identifies by another one.
                let mirrors: BTreeMap<&str, &str> =
                    pods.values().map(|pod| (node_uid(pod, &names), pod.uid.as_str())).collect();
                self.report(state, &mirrors, &on_node, &found)
            }
            None => true,
        }
    }

    fn report(
        &mut self,
        state: &State,
        mirrors: &BTreeMap<&str, &str>,
        on_node: &BTreeMap<&str, Vec<&Container>>,
        found: &BTreeMap<&str, PodMappingProblems>,
    ) -> bool {
        let mut facts: BTreeMap<&str, PodEventFacts> = BTreeMap::new();
        let subject = |namespace: &str, name: &str, uid: &str| {
            // A value that becomes part of a path must be one that Kubernetes accepts.
            (is_dns_label(namespace) && is_dns_name(name)).then(|| EventSubject::Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: (*mirrors.get(uid).unwrap_or(&uid)).to_owned(),
            })
        };
        for pod in &state.pods {
            let Some(subject) = subject(&pod.namespace, &pod.name, &pod.uid) else { continue };
            let containers = on_node.get(pod.uid.as_str()).map_or([].as_slice(), Vec::as_slice);
            let containers = containers.iter().map(|container| container_facts(container)).collect();
            facts.insert(
                &pod.uid,
                PodEventFacts { subject, shared: overlaps(pod), containers, misfits: vec![] },
            );
        }
        for (event, container) in self.recent_ends(state) {
            let pod = &event.pod;
            let Some(subject) = subject(&pod.namespace, &pod.name, &pod.uid) else { continue };
            let of_none = PodEventFacts { subject, shared: vec![], containers: vec![], misfits: vec![] };
            facts.entry(&pod.uid).or_insert(of_none).containers.push(container);
        }
        for (uid, problem) in found {
            let Some(subject) = subject(&problem.namespace, &problem.name, uid) else { continue };
            let of_none = PodEventFacts { subject, shared: vec![], containers: vec![], misfits: vec![] };
            facts.entry(uid).or_insert(of_none).misfits.clone_from(&problem.misfits);
        }
        let facts: Vec<PodEventFacts> = facts.into_values().collect();
        let present: BTreeSet<EventSubject> = facts.iter().map(|pod| pod.subject.clone()).collect();
        let notices = notices(&node_facts(state), &facts);
        self.post(notices, &present)
    }

    /// Containers that the agent refused or ended. Those from before this process's start count, unless an
    /// Event of that age would not be posted any more: the agent starts first, and immediately ends
    /// containers that were missed while it was away.
    fn recent_ends<'a>(&mut self, state: &'a State) -> Vec<(&'a Event, ContainerFacts)> {
        let oldest = rfc3339(SystemTime::now() - self.cluster.pace.event_age);
        let is_old = |event: &&Event| event.at < oldest;
        let last = || state.events.iter().filter(is_old).map(|event| event.number).max().unwrap_or_default();
        let run = Run::of(&state.agent);
        let (known, old) = self.first_document.get_or_insert_with(|| (Run::of(&state.agent), last()));
        if *known != run {
            (*known, *old) = (run, 0);
        }
        let old = *old;
        let runs = |id: &str| state.containers.iter().any(|container| container.id == id);
        let new = state.events.iter().filter(|event| event.number > old);
        let facts = |event: &'a Event| {
            let of = ContainerFacts { name: event.container.clone(), ..ContainerFacts::default() };
            let sentence = Some(event.sentence.clone());
            if event.kind.is(EventKind::Refused) && !runs(&event.container_id) {
                Some((event, ContainerFacts { refused: sentence, ..of }))
            } else if event.what == Action::EndContainer.name() {
                Some((event, ContainerFacts { ended: sentence, ..of }))
            } else {
                None
            }
        };
        new.filter_map(facts).collect()
    }

    /// Queues new Events as far as the limits permit; returns whether all were queued. The rest is tried
    /// again as long as its cause persists.
    fn post(&mut self, notices: Vec<Notice>, present: &BTreeSet<EventSubject>) -> bool {
        let (now, since) = (self.began.elapsed(), Instant::now());
        let (wanted, unwanted): (Vec<_>, Vec<_>) = self
            .journal
            .turn(notices, present, SystemTime::now())
            .into_iter()
            .partition(|one| self.events.wants(one.notice.reason));
        unwanted.iter().for_each(|one| self.journal.record_posted(one));
        let mut all_queued = true;
        for occurrence in in_turn(wanted, |part| self.limiter.spent(part, now)) {
            let subject = &occurrence.notice.subject;
            let Ok(place) = self.queue.try_reserve() else { return false };
            if self.limiter.may(subject.key(), subject.share(), now) {
                self.journal.record_posted(&occurrence);
                place.send(Waiting { occurrence, since });
            } else {
                all_queued = false;
            }
        }
        all_queued
    }
}

/// The number of IDs that a pod gets on this node: that of the pod with the most, because the kubelet gives
/// all pods the same number.
fn ids_per_pod(state: Option<&State>) -> u64 {
    let Some(state) = state else { return IDS_PER_POD };
    let kubelets: BTreeSet<&str> = state
        .pods
        .iter()
        .filter(|pod| pod.userns.is(UserNamespaceMode::Pod))
        .map(|pod| pod.uid.as_str())
        .collect();
    let widths = state
        .containers
        .iter()
        .filter(|container| kubelets.contains(container.pod.uid.as_str()) && !in_hosts(&[*container]))
        .filter_map(|container| container.uid_map.as_ref())
        .map(|map| map.iter().map(|extent| u64::from(extent.length)).sum());
    widths.max().unwrap_or(IDS_PER_POD).max(IDS_PER_POD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_is_moved_with_the_clock_is_no_other_run() {
        let agent = |started_at: &str, uptime_at_start_ms| Agent {
            version: String::new(),
            started_at: started_at.to_owned(),
            uptime_at_start_ms,
        };
        let run = Run::of(&agent("2026-11-20T09:00:00Z", Some(31_640)));
        assert!(run == Run::of(&agent("2026-11-21T09:00:00Z", Some(31_640))));
        assert!(run != Run::of(&agent("2026-11-20T09:00:00Z", Some(31_650))));
        // An earlier version, before an update of the agent and after it.
        let earlier = Run::of(&agent("2026-11-20T09:00:00Z", None));
        assert!(earlier != run && earlier != Run::of(&agent("2026-11-20T09:00:01Z", None)));
    }
}
