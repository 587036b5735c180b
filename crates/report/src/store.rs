//! The agent's view of the node: written by the tasks, read by all consumers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::watch;

use usernsd_domain::check::pods::Annotations;
use usernsd_domain::check::{Examined, Probe};
use usernsd_domain::clock::ClockChange;
use usernsd_domain::container::CriId;
use usernsd_domain::history::{History, Past};
use usernsd_domain::lock::lock;
use usernsd_domain::node::{CriRuntime, Health, LaunchedPlugin, Peer, PeerState, Peers, Snapshot, StartPath};
use usernsd_domain::pairing::{Caller, Mismatch};
use usernsd_domain::recent_events::{Event, Feed};
use usernsd_domain::record::Record;

/// The agent's records. Clones share them.
///
/// The lock is held to swap or copy pointers, never to render: with 500 containers, a reader delays the
/// writers by some microseconds.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<()>,
    /// Whether the runtime calls the agent or a launched plugin before it starts a container; updated under the lock.
    called_first: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    /// When the agent started.
    started: SystemTime,
    /// When all containers were last inspected without a failure.
    reconciled: Option<SystemTime>,
    containers: BTreeMap<CriId, Arc<Record>>,
    runtime: Option<CriRuntime>,
    peers: Peers,
    feed: Feed,
    examined: Option<Arc<Examined>>,
    /// When each container was first seen.
    since: BTreeMap<CriId, SystemTime>,
    history: History,
    plugins: BTreeMap<u32, LaunchedPlugin>,
    /// The runtime that the agent has joined over NRI.
    joined: Option<Caller>,
}

// === impl Inner ===

impl Inner {
    fn start_path(&self) -> StartPath {
        if self.launched().any(|caller| self.is_ours(&caller)) {
            StartPath::LaunchedPlugin
        } else if self.joined.as_ref().is_some_and(|caller| self.is_ours(caller)) {
            StartPath::AgentJoined
        } else {
            StartPath::Nobody
        }
    }

    fn launched(&self) -> impl Iterator<Item = Caller> {
        self.plugins.values().filter(|plugin| plugin.responds).map(LaunchedPlugin::caller)
    }

    /// The runtime, while it answers over CRI; afterwards its name may have changed.
    fn answering(&self) -> Option<&CriRuntime> {
        self.runtime.as_ref().filter(|_| self.peers.cri.state == PeerState::Up)
    }

    fn is_ours(&self, caller: &Caller) -> bool {
        self.answering().is_none_or(|runtime| caller.is(runtime))
    }

    fn mismatch(&self) -> Option<Mismatch> {
        let callers: Vec<Caller> = self.launched().chain(self.joined.clone()).collect();
        Mismatch::find(self.answering()?, callers.iter())
    }

    fn put(&mut self, record: &Arc<Record>, now: SystemTime) -> Option<Arc<Record>> {
        if !self.since.contains_key(&record.id) {
            self.since.insert(record.id.clone(), now);
            self.history.take_back(&record.id);
        }
        self.containers.insert(record.id.clone(), Arc::clone(record))
    }

    fn shift(&mut self, change: ClockChange) {
        self.started = change.apply(self.started);
        self.reconciled = self.reconciled.map(|at| change.apply(at));
        self.peers.all_mut().into_iter().for_each(|peer| peer.since = change.apply(peer.since));
        self.since.values_mut().for_each(|since| *since = change.apply(*since));
        self.plugins.values_mut().for_each(|plugin| plugin.since = change.apply(plugin.since));
        self.feed.shift(change);
        self.history.shift(change);
    }

    fn forget(&mut self, id: &CriId, now: SystemTime) -> Option<Arc<Record>> {
        let since = self.since.remove(id).unwrap_or(now);
        let record = self.containers.remove(id)?;
        if let Some(past) = Past::of(&record, since, now) {
            self.history.add(past);
        }
        Some(record)
    }
}

// === impl Store ===

impl Store {
    /// The records of an agent that starts now and has not observed anything yet.
    #[must_use]
    pub fn new(now: SystemTime) -> Store {
        let inner = Inner {
            started: now,
            reconciled: None,
            containers: BTreeMap::new(),
            runtime: None,
            peers: Peers::new(now),
            feed: Feed::default(),
            examined: None,
            since: BTreeMap::new(),
            history: History::default(),
            plugins: BTreeMap::new(),
            joined: None,
        };
        Store {
            inner: Arc::new(Mutex::new(inner)),
            changed: watch::Sender::new(()),
            called_first: watch::Sender::new(false),
        }
    }

    /// Notified after each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Changes something that the start path depends on.
    fn change_start_path<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner);
        let is_called_first = inner.start_path() != StartPath::Nobody;
        self.called_first
            .send_if_modified(|before| std::mem::replace(before, is_called_first) != is_called_first);
        drop(inner);
        self.changed.send_replace(());
        result
    }

    /// Locks the records, also after a panic of another task: each change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Stores a container's record; returns the previous one.
    pub fn put(&self, record: Record) -> Option<Arc<Record>> {
        let record = Arc::new(record);
        let before = self.lock().put(&record, SystemTime::now());
        // A resync changes few records.
        if before.as_deref() != Some(&*record) {
            self.changed.send_replace(());
        }
        before
    }

    /// Forgets a container that no longer exists.
    pub fn forget(&self, id: &CriId) -> Option<Arc<Record>> {
        let before = self.lock().forget(id, SystemTime::now());
        self.changed.send_replace(());
        before
    }

    /// Forgets every container that `keep` rejects, and returns their number. For use with a complete list.
    pub fn retain(&self, keep: impl Fn(&CriId) -> bool) -> usize {
        let mut inner = self.lock();
        let gone: Vec<CriId> = inner.containers.keys().filter(|id| !keep(id)).cloned().collect();
        let now = SystemTime::now();
        gone.iter().for_each(|id| drop(inner.forget(id, now)));
        let gone = gone.len();
        drop(inner);
        if gone > 0 {
            self.changed.send_replace(());
        }
        gone
    }

    /// The record of a container.
    #[must_use]
    pub fn get(&self, id: &CriId) -> Option<Arc<Record>> {
        self.lock().containers.get(id).cloned()
    }

    /// All containers, by their ID.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Record>> {
        self.lock().containers.values().cloned().collect()
    }

    /// A peer's health.
    #[must_use]
    pub fn health(&self, peer: Peer) -> Health {
        self.lock().peers.of(peer).clone()
    }

    /// Records that a peer answers.
    pub fn up(&self, peer: Peer, now: SystemTime) {
        self.change_start_path(|inner| inner.peers.of_mut(peer).up(now));
    }

    /// Records that a peer does not answer; `error` is one sentence for people.
    pub fn down(&self, peer: Peer, now: SystemTime, error: impl Into<String>) {
        let error = error.into();
        self.change_start_path(|inner| inner.peers.of_mut(peer).down(now, error));
    }

    /// Records that connecting to a peer is postponed; `reason` is one sentence for people.
    pub fn waiting(&self, peer: Peer, now: SystemTime, reason: impl Into<String>) {
        let reason = reason.into();
        self.change_start_path(|inner| inner.peers.of_mut(peer).waiting(now, reason));
    }

    /// Records that the configuration switches a peer off.
    pub fn off(&self, peer: Peer, now: SystemTime) {
        self.change_start_path(|inner| inner.peers.of_mut(peer).off(now));
    }

    /// Stores a launched plugin's description, by its PID; `None` if it is gone.
    pub fn set_plugin(&self, pid: u32, plugin: Option<LaunchedPlugin>) {
        self.change_start_path(|inner| match plugin {
            Some(plugin) => inner.plugins.insert(pid, plugin),
            None => inner.plugins.remove(&pid),
        });
    }

    /// Stores which runtime the agent has joined over NRI; `None` if it has joined none.
    pub fn set_joined(&self, joined: Option<Caller>) {
        self.change_start_path(|inner| inner.joined = joined);
    }

    /// Stores whether the runtime that the agent has joined over NRI has other containers than CRI lists.
    pub fn set_has_others(&self, has_others: bool) {
        self.change_start_path(|inner| {
            if let Some(joined) = &mut inner.joined {
                joined.has_others = has_others;
            }
        });
    }

    /// Whether the agent has joined a runtime over NRI.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.lock().joined.is_some()
    }

    /// Whether a plugin that answers was launched by the runtime that answers over CRI.
    #[must_use]
    pub fn is_launched(&self) -> bool {
        self.lock().start_path() == StartPath::LaunchedPlugin
    }

    /// Whether the runtime that answers over CRI calls usernsd before it starts a container.
    #[must_use]
    pub fn is_called_first(&self) -> bool {
        self.lock().start_path() != StartPath::Nobody
    }

    /// [`Store::is_called_first`] and its changes.
    #[must_use]
    pub fn called_first(&self) -> watch::Receiver<bool> {
        self.called_first.subscribe()
    }

    /// The reason why the runtime that answers over CRI does not call usernsd, although another runtime
    /// does.
    #[must_use]
    pub fn mismatch(&self) -> Option<Mismatch> {
        self.lock().mismatch()
    }

    /// Stores the results of the node's checks.
    pub fn set_examined(&self, examined: Examined) {
        self.lock().examined = Some(Arc::new(examined));
        self.changed.send_replace(());
    }

    /// Replaces the annotations of pods that can ask for a writable cgroup.
    pub fn set_asked(&self, asked: Probe<Annotations>) {
        let mut state = self.lock();
        if let Some(examined) = &state.examined
            && examined.asked != asked
        {
            state.examined = Some(Arc::new(Examined { asked, ..(**examined).clone() }));
            drop(state);
            self.changed.send_replace(());
        }
    }

    /// Stores the runtime's name and version.
    pub fn set_runtime(&self, runtime: CriRuntime) {
        if self.lock().runtime.as_ref() != Some(&runtime) {
            self.change_start_path(|inner| inner.runtime = Some(runtime));
        }
    }

    /// Stores when all containers were inspected without a failure.
    pub fn set_reconciled(&self, now: SystemTime) {
        self.lock().reconciled = Some(now);
    }

    /// Moves all recorded times, because the clock was set.
    pub fn shift(&self, change: ClockChange) {
        self.lock().shift(change);
        self.changed.send_replace(());
    }

    /// Stores an event, and gives it its number.
    pub fn note(&self, event: Event) {
        self.lock().feed.add(event);
        self.changed.send_replace(());
    }

    /// All records at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            started: inner.started,
            reconciled: inner.reconciled,
            runtime: inner.runtime.clone(),
            peers: inner.peers.clone(),
            start_path: inner.start_path(),
            mismatch: inner.mismatch(),
            plugins: inner.plugins.values().cloned().collect(),
            containers: inner.containers.values().cloned().collect(),
            events: inner.feed.latest(),
            examined: inner.examined.clone(),
            past: inner.history.latest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use usernsd_domain::clock::ClockReading;
    use usernsd_domain::container::PodRef;
    use usernsd_domain::delegation::Skip;
    use usernsd_domain::guard::Verdict;
    use usernsd_domain::idmap::IdMap;
    use usernsd_domain::node::PeerState;
    use usernsd_domain::recent_events::EventKind;
    use usernsd_domain::record::{Outcome, Source, UserNamespace};

    fn record(id: &str) -> Record {
        let outcome = Outcome::Skipped(Skip::Gone);
        Record {
            outcome,
            source: Source::Cri,
            isolation: Verdict::Unknown,
            ..Record::bare(CriId::parse(id).unwrap())
        }
    }

    /// The record of a container that is kept after its end.
    fn isolated(id: &str) -> Record {
        Record {
            user_namespace: Some(UserNamespace { inode: Some(1), is_hosts: false }),
            uid_map: IdMap::parse("0 200000 65536").ok(),
            name: id.to_owned(),
            ..record(id)
        }
    }

    #[test]
    fn the_last_record_of_each_container_is_kept() {
        let store = Store::new(SystemTime::UNIX_EPOCH);
        let other = store.clone();
        assert!(store.put(record("b")).is_none());
        assert!(store.put(record("a")).is_none());
        let before = other.snapshot();
        let replaced = store.put(Record { outcome: Outcome::Delegated, ..record("a") });
        assert_eq!(replaced.unwrap().outcome, Outcome::Skipped(Skip::Gone));
        assert_eq!(before.containers[0].outcome, Outcome::Skipped(Skip::Gone), "a snapshot never changes");
        assert_eq!(other.get(&record("a").id).unwrap().outcome, Outcome::Delegated);
        assert_eq!(other.list().iter().map(|record| record.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(store.retain(|id| id.as_str() == "b"), 1);
        assert!(store.forget(&record("b").id).is_some() && store.forget(&record("b").id).is_none());
        assert!(other.list().is_empty());
    }

    #[test]
    fn an_ended_container_is_kept_for_a_while() {
        let store = Store::new(SystemTime::UNIX_EPOCH);
        for id in ["a", "b"] {
            store.put(isolated(id));
        }
        store.put(record("host"));
        assert!(store.snapshot().past.is_empty());
        store.forget(&record("host").id);
        store.forget(&record("a").id);
        assert_eq!(store.retain(|_| false), 1);
        let past = store.snapshot().past;
        assert_eq!(past.iter().map(|past| past.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert!(past.iter().all(|past| past.since <= past.until));
        // The container still existed.
        store.put(isolated("a"));
        assert_eq!(store.snapshot().past.len(), 1);
    }

    /// Every recorded time, with its place.
    fn times(seen: &Snapshot) -> Vec<(&'static str, SystemTime)> {
        let peers = [&seen.peers.cri, &seen.peers.nri, &seen.peers.systemd].map(|peer| peer.since);
        [("started", seen.started)]
            .into_iter()
            .chain(seen.reconciled.map(|at| ("reconciled", at)))
            .chain(peers.map(|since| ("peer", since)))
            .chain(seen.plugins.iter().map(|plugin| ("plugin", plugin.since)))
            .chain(seen.events.iter().map(|event| ("event", event.at)))
            .chain(seen.past.iter().flat_map(|past| [("first seen", past.since), ("ended", past.until)]))
            .collect()
    }

    #[test]
    fn recorded_times_keep_their_age_when_the_clock_is_set() {
        let start = SystemTime::UNIX_EPOCH;
        let store = Store::new(start);
        store.set_reconciled(start);
        let plugin = LaunchedPlugin {
            pid: 1,
            version: String::new(),
            runtime: String::new(),
            runtime_version: String::new(),
            since: start,
            responds: true,
            settings: String::new(),
            problems: Vec::new(),
            dropped: 0,
        };
        store.set_plugin(1, Some(plugin));
        let event = |name: &str, kind| Event {
            number: 0,
            at: start,
            kind,
            what: "refused",
            container: CriId::parse(name).unwrap(),
            name: name.to_owned(),
            pod: PodRef::default(),
            sentence: String::new(),
        };
        store.note(event("a", EventKind::Fixed));
        store.note(event("b", EventKind::Refused));
        for id in ["ended", "running"] {
            store.lock().put(&Arc::new(isolated(id)), start);
        }
        store.lock().forget(&record("ended").id, start);
        let before = store.snapshot();
        let kept = times(&before);
        assert_eq!(kept.len(), 10, "{kept:?}");
        let day = Duration::from_secs(86_400);
        let reading = |wall| ClockReading { wall, uptime: Duration::from_secs(50) };
        let [first, second] = [start, start + day].map(reading);
        store.shift(second.set_since(&first).unwrap());
        let now = store.snapshot();
        assert_eq!(times(&before), kept, "a snapshot never changes");
        let later: Vec<_> = kept.iter().map(|(place, at)| (*place, *at + day)).collect();
        assert_eq!(times(&now), later);
        let numbers = |seen: &Snapshot| seen.events.iter().map(|event| event.number).collect::<Vec<_>>();
        assert_eq!(numbers(&now), numbers(&before), "no event is a new one");
        store.shift(first.set_since(&second).unwrap());
        assert_eq!(times(&store.snapshot()), kept);
        // A running container's time is only visible once it has ended.
        store.shift(second.set_since(&first).unwrap());
        store.lock().forget(&record("running").id, start + day + day);
        let past = &store.snapshot().past[0];
        assert_eq!((past.since, past.until), (start + day, start + day + day));
    }

    #[test]
    fn a_task_that_panicked_does_not_take_the_others_with_it() {
        let store = Store::new(SystemTime::UNIX_EPOCH);
        store.put(record("a"));
        let clone = store.clone();
        let panicked = std::thread::spawn(move || {
            let _held = clone.inner.lock().unwrap();
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert!(store.inner.is_poisoned());
        assert_eq!(store.list().len(), 1);
        store.up(Peer::Cri, SystemTime::UNIX_EPOCH);
        assert_eq!(store.health(Peer::Cri).state, PeerState::Up);
        assert_eq!(store.health(Peer::Nri).state, PeerState::Down);
    }
}
