//! The container runtime over CRI: finds it, lists what runs, learns what its pods asked for, and repairs
//! what was missed.

mod events;
mod pods;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use self::events::Events;
pub use self::pods::answer_pods;
use self::pods::{ask_one, facts};
use crate::containers::{Containers, Trigger};
use crate::plugin::Listed;
use crate::repair::Repair;
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, ContainerState, CriId};
use usernsd_domain::isolation::{self, Occasion, Stage};
use usernsd_domain::node::{Peer, Runtime};
use usernsd_domain::pairing::are_others;
use usernsd_domain::rate_limit::Backoff;
use usernsd_domain::record::Source;
use usernsd_domain::repair::RepairRules;
use usernsd_domain::runtime::RuntimeKind;
use usernsd_inspect::bundle::Bundles;
use usernsd_peers::cri::{
    ContainerEvent, ContainerEventKind, Cri, CriError, Endpoints, ListedContainer, first_answering,
};
use usernsd_peers::oci::parse_spec;
use usernsd_report::metrics::{Event, Method, ResyncReason};

/// After a connection that lasted this long, the runtime is reconnected without a pause.
const LASTING: Duration = Duration::from_secs(30);
/// An event stream that ended sooner than this, without an event, means that events are not available.
const TOO_SHORT: Duration = Duration::from_secs(1);
/// The most specifications that a resync holds at a time. This bounds the heap's peak: the allocator would
/// not return the memory of 500 specifications of some kilobytes each.
const AT_ONCE: usize = 16;

/// Watches the runtime, and inspects its containers.
pub struct RuntimeWatch {
    /// The sockets to try; the first one that answers is used until it no longer answers.
    pub endpoints: Endpoints,
    /// Inspects and records containers.
    pub containers: Arc<Containers>,
    /// Reads the runtimes' OCI bundles.
    pub bundles: Arc<Bundles>,
    /// The containers that a runtime listed over NRI.
    pub listed: Arc<Listed>,
    /// Notified when other tasks need a resync.
    pub resync: Arc<Notify>,
    /// The pause between two resyncs.
    pub every: Duration,
    /// Which containers that started without what their pod asked for are ended.
    pub repair: RepairRules,
    /// Set to true after the first resync.
    pub ready: watch::Sender<bool>,
}

/// The event that woke the task.
enum Wake {
    Event(ContainerEvent),
    EventsEnded { lasted: Duration, any: bool, error: Option<CriError> },
    Listed(Vec<(Container, ContainerState)>),
    Resync(ResyncReason),
    Attention,
}

// === impl RuntimeWatch ===

impl RuntimeWatch {
    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::on_this_node(LASTING);
        let mut said = None;
        let mut trigger = ResyncReason::Startup;
        // Kept for as long as the agent runs: a lost connection must not let a container be ended twice.
        let mut repair = Repair::new(self.repair);
        loop {
            let session = match self.join().await {
                Ok((cri, shared)) => {
                    said = None;
                    let since = Instant::now();
                    self.serve(&cri, trigger, shared, &mut repair).await;
                    trigger = ResyncReason::StreamLost;
                    since.elapsed()
                }
                Err(reason) => {
                    self.containers.store().down(Peer::Cri, SystemTime::now(), reason.clone());
                    if said.as_ref() != Some(&reason) {
                        warn!(%reason, "the runtime does not answer over CRI; trying again");
                        said = Some(reason);
                    }
                    // NRI's list can be handled without CRI.
                    if let Some(found) = self.listed.try_take() {
                        self.take_listed(None, found).await;
                    }
                    self.ready.send_replace(true);
                    Duration::ZERO
                }
            };
            tokio::time::sleep(backoff.after(session)).await;
        }
    }

    /// The first runtime that answers, and whether each of its events reaches every subscriber.
    async fn join(&self) -> Result<(Cri, bool), String> {
        let clients = (self.endpoints)().into_iter().map(Cri::new);
        let answered = first_answering(clients).await;
        let (cri, version) = answered.map_err(|unanswered| {
            unanswered.errors.iter().for_each(|_| self.containers.metrics().request_failed(Method::Version));
            unanswered.to_string()
        })?;
        info!(
            socket = %cri.path().display(),
            runtime = %version.name,
            version = %version.version,
            "the runtime answers over CRI"
        );
        let shared = events_are_shared(&version.name, &version.version);
        let store = self.containers.store();
        store.up(Peer::Cri, SystemTime::now());
        store.set_runtime(Runtime {
            name: version.name,
            version: version.version,
            endpoint: cri.path().display().to_string(),
        });
        Ok((cri, shared))
    }

    /// Works with a runtime until it no longer answers.
    async fn serve(&mut self, cri: &Cri, trigger: ResyncReason, shared: bool, repair: &mut Repair) {
        let mut events = if shared { Events::subscribe(cri, &self.resync) } else { Events::none() };
        if shared && trigger != ResyncReason::Startup {
            self.containers.metrics().stream_reconnected();
        }
        if !shared {
            info!(
                "this version of the runtime gives each event to one subscriber only; leaving them to the kubelet"
            );
        }
        // Subscribe first, then list, so that nothing is missed in between.
        let mut reached = self.resync_all(cri, trigger).await;
        self.ready.send_replace(true);
        let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + self.every, self.every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut again = Again::default();
        let mut due = self.attend(cri, &mut again, repair).await;
        while reached {
            let wake = tokio::select! {
                () = self.containers.attention().notified() => Wake::Attention,
                () = at(due) => Wake::Attention,
                found = self.listed.take() => Wake::Listed(found),
                wake = events.next() => wake,
                () = self.resync.notified() => Wake::Resync(ResyncReason::StreamLost),
                _ = timer.tick() => Wake::Resync(ResyncReason::Periodic),
            };
            match wake {
                Wake::Event(event) => self.take_event(cri, event).await,
                Wake::Listed(found) => {
                    self.compare(cri, &found).await;
                    self.take_listed(Some(cri), found).await;
                    // From now on a plugin is in the start path.
                    due = self.attend(cri, &mut again, repair).await;
                }
                Wake::Resync(trigger) => {
                    if self.containers.store().mismatch().is_some() {
                        self.meet_again(cri).await;
                    }
                    reached = self.resync_all(cri, trigger).await;
                    due = self.attend(cri, &mut again, repair).await;
                }
                Wake::Attention => {
                    if self.containers.store().mismatch().is_some() {
                        self.meet_again(cri).await;
                    }
                    due = self.attend(cri, &mut again, repair).await;
                }
                Wake::EventsEnded { lasted, any, error } if is_without(lasted, any, error.as_ref()) => {
                    info!(
                        "the runtime sends no container events (CRI-O: enable_pod_events is off; CRI-O before 1.25 \
                         and containerd before 1.7 have none); NRI, systemd and the resync do without"
                    );
                }
                Wake::EventsEnded { error, .. } => {
                    if error.is_some() {
                        self.containers.metrics().request_failed(Method::GetContainerEvents);
                    }
                    let reason = error.map_or_else(|| "it ended".to_owned(), |error| chain(&error));
                    warn!(%reason, "lost the runtime's event stream");
                    self.containers.store().down(Peer::Cri, SystemTime::now(), reason);
                    return;
                }
            }
        }
    }

    /// Compares NRI's list with CRI's: two runtimes with the same name and version have no container in
    /// common.
    async fn compare(&self, cri: &Cri, found: &[(Container, ContainerState)]) {
        self.meet_again(cri).await;
        let Ok(listed) = cri.containers().await else {
            // Without CRI's list there is nothing to compare.
            self.containers.metrics().request_failed(Method::ListContainers);
            return;
        };
        let store = self.containers.store();
        let joined = store.health(Peer::Nri).since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let was_there = |at_ns: i64| u128::try_from(at_ns).is_ok_and(|at| at < joined.as_nanos());
        let nri: Vec<_> = found.iter().map(|(container, state)| (container.id.clone(), *state)).collect();
        let cri: Vec<_> =
            listed.into_iter().map(|one| (one.id, one.state, was_there(one.created_at_ns))).collect();
        store.set_has_others(are_others(&nri, &cri));
        self.containers.say_mismatch();
    }

    /// Asks the runtime for its version again, because another one may have replaced it.
    async fn meet_again(&self, cri: &Cri) {
        if let Ok(version) = cri.version().await {
            let endpoint = cri.path().display().to_string();
            let runtime = Runtime { name: version.name, version: version.version, endpoint };
            self.containers.store().set_runtime(runtime);
        }
        self.containers.say_mismatch();
    }

    async fn take_event(&self, cri: &Cri, event: ContainerEvent) {
        self.containers.metrics().event(match event.kind {
            ContainerEventKind::Created => Event::Created,
            ContainerEventKind::Started => Event::Started,
            ContainerEventKind::Stopped => Event::Stopped,
            ContainerEventKind::Deleted => Event::Deleted,
        });
        match event.kind {
            // A sandbox's event contains the sandbox's ID twice.
            _ if event.id.as_str() == event.sandbox_id => {}
            ContainerEventKind::Stopped | ContainerEventKind::Deleted => self.containers.forget(&event.id),
            // If the runtime calls over NRI, the start follows there; on containerd the cgroup does not
            // exist yet.
            ContainerEventKind::Created
                if self.containers.store().is_called_first() || !self.created_has_cgroup() => {}
            ContainerEventKind::Created | ContainerEventKind::Started => {
                // NRI or systemd usually came first.
                let known = self.containers.store().get(&event.id);
                if known.is_none_or(|known| !self.containers.is_settled(&known)) {
                    let since = moment(event.created_at_ns, SystemTime::now());
                    let occasion = match event.kind {
                        ContainerEventKind::Started => Occasion::CriStarted,
                        _ => Occasion::CriCreated,
                    };
                    match self.inspect(Some(cri), &event.id).await {
                        Ok(Some(container)) => {
                            self.learn_pods(cri, &[&container]).await;
                            let container = (container, occasion.stage());
                            self.wait(Some(self.look(vec![container], Source::Cri, since))).await;
                        }
                        Ok(None) => {}
                        Err(error) => {
                            debug!(container = event.id.short(), error = %chain(&error), "left to the next resync")
                        }
                    }
                }
            }
        }
    }

    /// Inspects containers again that were being created, and ends those that may be recreated. Returns
    /// when there is more to do.
    async fn attend(&self, cri: &Cri, again: &mut Again, repair: &mut Repair) -> Option<Instant> {
        let now = Instant::now();
        for id in again.due(self.containers.being_made(), now) {
            if let Err(error) = self.look_again(cri, &id).await {
                debug!(container = id.short(), error = %chain(&error), "could not look again; trying later");
            }
        }
        let more = repair.turn(cri, &self.containers, self.containers.store().is_called_first()).await;
        let waiting = again.next(&self.containers.being_made());
        waiting.into_iter().chain(more).min()
    }

    /// Inspects a container whose current state and process the runtime reports.
    async fn look_again(&self, cri: &Cri, id: &CriId) -> Result<(), CriError> {
        let since = Instant::now();
        let found = cri.container(id).await.inspect_err(|_| {
            self.containers.metrics().request_failed(Method::ContainerStatus);
        })?;
        let Some(found) = found else {
            self.containers.forget(id);
            return Ok(());
        };
        if found.container.state == ContainerState::Stopped {
            self.containers.forget(id);
            return Ok(());
        }
        match parse_spec(&found.spec_json) {
            Ok(spec) => {
                let stage = Occasion::Listed(found.container.state).stage();
                let container = named(spec.into_container(id.clone(), found.pid), &found.container);
                self.learn_pods(cri, &[&container]).await;
                self.wait(Some(self.look(vec![(container, stage)], Source::Resync, since))).await;
            }
            Err(error) => {
                warn!(container = id.short(), error = %chain(&error), "the runtime's specification cannot be read");
            }
        }
        Ok(())
    }

    /// Whether the cgroup exists at the event of the creation: on CRI-O it does, on containerd it does not
    /// yet.
    fn created_has_cgroup(&self) -> bool {
        self.containers
            .store()
            .snapshot()
            .runtime
            .is_some_and(|runtime| runtime.kind() == Some(RuntimeKind::Crio))
    }

    /// Inspects the containers that NRI listed when it was joined: they started while the agent was absent.
    async fn take_listed(&self, cri: Option<&Cri>, found: Vec<(Container, ContainerState)>) {
        let since = Instant::now();
        let mut alive = Vec::new();
        for (container, state) in found {
            let is_alive = matches!(state, ContainerState::Created | ContainerState::Running);
            if !is_alive || self.containers.is_still_right(&container.id) {
                continue;
            }
            // The list contains no mounts, and the process may have changed its own.
            match self.inspect(cri, &container.id).await {
                Ok(Some(found)) => {
                    let Container { mounts, user_namespace, pid, specified, .. } = found;
                    self.containers.pods().note_annotations(&container.sandbox_id, &container.annotations);
                    let pid = container.pid.or(pid);
                    let container = Container { mounts, user_namespace, pid, specified, ..container };
                    alive.push((container, Occasion::Listed(state).stage()));
                }
                Ok(None) => {
                    debug!(container = container.id.short(), "no specification; left to the next resync")
                }
                Err(error) => {
                    debug!(container = container.id.short(), error = %chain(&error), "left to the next resync")
                }
            }
        }
        if let Some(cri) = cri {
            self.learn_pods(cri, &containers_of(&alive)).await;
        }
        if !alive.is_empty() {
            self.wait(Some(self.look(alive, Source::Resync, since))).await;
        }
    }

    /// Inspects everything that runs; false if the runtime does not answer.
    async fn resync_all(&self, cri: &Cri, trigger: ResyncReason) -> bool {
        let since = Instant::now();
        let listed = match cri.containers().await {
            Ok(listed) => listed,
            Err(error) => {
                self.containers.metrics().request_failed(Method::ListContainers);
                self.containers.metrics().reconcile_failed(trigger);
                warn!(error = %chain(&error), "could not list the containers");
                self.containers.store().down(Peer::Cri, SystemTime::now(), chain(&error));
                return false;
            }
        };
        let alive: Vec<ListedContainer> = listed
            .into_iter()
            .filter(|listed| matches!(listed.state, ContainerState::Created | ContainerState::Running))
            .collect();
        {
            let ids: HashSet<&CriId> = alive.iter().map(|listed| &listed.id).collect();
            self.containers.forget_gone(&|id| ids.contains(id));
        }
        self.review_pods(cri).await;
        let mut looked = 0;
        let mut looking = None;
        for some in alive.chunks(AT_ONCE) {
            let mut unknown = Vec::new();
            for listed in some {
                if self.containers.is_still_right(&listed.id) {
                    continue;
                }
                match self.inspect(Some(cri), &listed.id).await {
                    Ok(Some(container)) => {
                        unknown.push((named(container, listed), Occasion::Listed(listed.state).stage()));
                    }
                    // Ended in the meantime.
                    Ok(None) => {}
                    Err(error) => {
                        warn!(container = listed.id.short(), error = %chain(&error), "could not inspect the container");
                    }
                }
            }
            looked += unknown.len();
            self.learn_pods(cri, &containers_of(&unknown)).await;
            // One thread inspects these while this task reads the specifications of the next ones.
            self.wait(looking.replace(self.look(unknown, Source::Resync, since))).await;
        }
        self.wait(looking).await;
        self.containers.metrics().reconciled(trigger, SystemTime::now());
        debug!(containers = alive.len(), looked, milliseconds = since.elapsed().as_millis(), "resync done");
        true
    }

    /// Stores the requests of the runtime's pods, and forgets pods that it no longer has. A pod without
    /// containers still exists: it may get another one, and its user record is removed with the pod.
    async fn review_pods(&self, cri: &Cri) {
        // Noted before the list is made, so that pods which are noted in the meantime are kept.
        let noted = self.containers.pods().noted();
        match cri.sandboxes().await {
            Ok(listed) => {
                for sandbox in &listed {
                    let (pods, id) = (self.containers.pods(), sandbox.id.as_str());
                    if sandbox.ready && !sandbox.is_cut && !pods.has_annotations(id) {
                        pods.note_annotations(id, &sandbox.annotations);
                    }
                }
                let listed: HashSet<&str> = listed.iter().map(|sandbox| sandbox.id.as_str()).collect();
                let gone = noted.iter().filter(|id| !listed.contains(id.as_str()));
                gone.for_each(|id| self.containers.forget_pod(id));
            }
            Err(error) => {
                self.containers.metrics().request_failed(Method::ListPodSandbox);
                warn!(error = %chain(&error), "could not list the sandboxes; the next resync tries again");
            }
        }
    }

    /// A container's specification: from its bundle, at the cost of reading a file; otherwise from the
    /// runtime, at the cost of a call, if it answers.
    async fn inspect(&self, cri: Option<&Cri>, id: &CriId) -> Result<Option<Container>, CriError> {
        match self.bundles.find(id) {
            Ok(Some(bundle)) => return Ok(Some(bundle.container)),
            Ok(None) => {}
            Err(error) => {
                debug!(container = id.short(), error = %chain(&error), "the bundle cannot be read; asking the runtime")
            }
        }
        let Some(cri) = cri else { return Ok(None) };
        let found = cri.container(id).await;
        if found.is_err() {
            self.containers.metrics().request_failed(Method::ContainerStatus);
        }
        let Some(found) = found? else { return Ok(None) };
        match parse_spec(&found.spec_json) {
            Ok(spec) => Ok(Some(named(spec.into_container(id.clone(), found.pid), &found.container))),
            Err(error) => {
                warn!(container = id.short(), error = %chain(&error), "the runtime's specification cannot be read");
                Ok(None)
            }
        }
    }

    /// Learns the requests of these containers' pods, once for each pod: from its annotations and, for a
    /// container in the host's user namespace, whether the pod asked for one of its own.
    async fn learn_pods(&self, cri: &Cri, containers: &[&Container]) {
        let pods = self.containers.pods();
        let mut asked = HashSet::new();
        for container in containers {
            let id = &container.sandbox_id;
            let is_known = pods.has_annotations(id) && (container.user_namespace || pods.has(id));
            if is_known || !asked.insert(id) {
                continue;
            }
            let Ok(sandbox) = CriId::parse(id) else { continue };
            match ask_one(cri, &sandbox).await {
                Ok(Some(found)) => {
                    pods.note_annotations(id, &found.sandbox.annotations);
                    if !container.user_namespace {
                        pods.note(id, facts(&found));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    self.containers.metrics().request_failed(Method::PodSandboxStatus);
                    debug!(sandbox = sandbox.short(), error = %chain(&error), "the runtime did not say what the pod asked for")
                }
            }
        }
    }

    /// Inspects containers on a thread that may block: it reads files and asks systemd.
    fn look(&self, containers: Vec<(Container, Stage)>, source: Source, since: Instant) -> JoinHandle<()> {
        let all = Arc::clone(&self.containers);
        tokio::task::spawn_blocking(move || {
            for (container, stage) in &containers {
                let way = Trigger { source, stage: *stage, since, patience: Duration::ZERO };
                // A container that is running already is not refused, but only counted and logged.
                all.look(container, way);
            }
        })
    }

    async fn wait(&self, looking: Option<JoinHandle<()>>) {
        if let Some(looking) = looking
            && let Err(error) = looking.await
        {
            warn!(error = %chain(&error), "an inspection of containers ended early");
        }
    }
}

/// When to inspect containers that are being created again.
#[derive(Debug, Default)]
struct Again(BTreeMap<CriId, (u32, Instant)>);

impl Again {
    /// The containers of `made` that are due; schedules the others.
    fn due(&mut self, made: Vec<CriId>, now: Instant) -> Vec<CriId> {
        self.0.retain(|id, _| made.contains(id));
        let mut due = Vec::new();
        for id in made {
            let (looks, at) = self.0.entry(id.clone()).or_insert((0, now + isolation::pause(0)));
            if *at <= now {
                *looks += 1;
                *at = now + isolation::pause(*looks);
                due.push(id);
            }
        }
        due
    }

    /// The next time at which one of `made` is due.
    fn next(&self, made: &[CriId]) -> Option<Instant> {
        made.iter().filter_map(|id| Some(self.0.get(id)?.1)).min()
    }
}

fn containers_of(found: &[(Container, Stage)]) -> Vec<&Container> {
    found.iter().map(|(container, _)| container).collect()
}

/// Waits until that time; forever if there is none.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The time of an event by the runtime's clock; now, if that time is implausible.
fn moment(at_ns: i64, now: SystemTime) -> Instant {
    let at = u64::try_from(at_ns).ok().filter(|at| *at > 0).map(Duration::from_nanos);
    let ago = at.and_then(|at| now.duration_since(SystemTime::UNIX_EPOCH + at).ok());
    let here = Instant::now();
    ago.and_then(|ago| here.checked_sub(ago)).unwrap_or(here)
}

/// Whether an event stream with this end means that the runtime has no events.
fn is_without(lasted: Duration, any: bool, error: Option<&CriError>) -> bool {
    match error {
        Some(error) => matches!(error, CriError::Unimplemented { .. }),
        None => !any && lasted < TOO_SHORT,
    }
}

/// The container, named by CRI's labels of the kubelet if there are any.
fn named(mut container: Container, listed: &ListedContainer) -> Container {
    if !listed.pod.name.is_empty() {
        container.pod = listed.pod.clone();
    }
    container.name.clone_from(&listed.name);
    container.sandbox_id.clone_from(&listed.sandbox_id);
    container
}

/// Whether every subscriber gets each event. CRI-O before 1.28 and containerd before 2.0 have one channel for
/// all of them (`containerEventsChan`), so that another subscriber takes events from the kubelet.
fn events_are_shared(name: &str, version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match RuntimeKind::named(name) {
        Some(RuntimeKind::Crio) => version >= (1, 28),
        Some(RuntimeKind::Containerd) => version >= (2, 0),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_time_of_the_runtime_unless_it_is_invalid() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let ago = |seconds: i64| moment((1_000_000_000 - seconds) * 1_000_000_000, now).elapsed().as_secs();
        assert_eq!((ago(7), ago(0)), (7, 0));
        // In the future, and absent.
        assert_eq!((ago(-7), moment(0, now).elapsed().as_secs()), (0, 0));
        assert_eq!(moment(-1, now).elapsed().as_secs(), 0);
    }

    #[test]
    fn events_are_left_to_the_kubelet_if_the_runtime_cannot_share_them() {
        for (name, version, want) in [
            ("cri-o", "1.27.9", false),
            ("cri-o", "1.28.0", true),
            ("cri-o", "1.36.3", true),
            ("cri-o", "2.0.0", true),
            ("cri-o", "", false),
            ("containerd", "v1.7.31", false),
            ("containerd", "1.7.24~ds1-8", false),
            ("containerd", "v2.0.0-rc.1", true),
            ("containerd", "2.1.9+unknown", true),
            ("containerd", "", false),
            ("something", "1.0", true),
        ] {
            assert_eq!(events_are_shared(name, version), want, "{name} {version}");
        }
    }
}
