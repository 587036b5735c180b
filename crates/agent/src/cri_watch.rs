//! The container runtime over CRI: finds it, lists what runs, learns what its pods asked for, and repairs
//! what was missed.

mod events;
mod inspections;
mod pending;
mod pods;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use self::events::Events;
use self::inspections::Inspections;
use self::pending::Pending;
pub use self::pods::answer_pods;
use crate::containers::Containers;
use crate::nri_plugin::Listed;
use crate::repair::Repair;
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, ContainerState};
use usernsd_domain::isolation::Occasion;
use usernsd_domain::node::{CriRuntime, Peer};
use usernsd_domain::pairing::are_different_runtimes;
use usernsd_domain::rate_limit::Backoff;
use usernsd_domain::repair::RepairRules;
use usernsd_domain::runtime::RuntimeKind;
use usernsd_inspect::bundle::Bundles;
use usernsd_peers::cri::{
    ContainerEvent, ContainerEventKind, Cri, CriError, Endpoints, OnFailure, first_answering,
};
use usernsd_report::metrics::{ResyncReason, RuntimeEvent};

/// After a connection that lasted this long, the runtime is reconnected without a pause.
const LASTING: Duration = Duration::from_secs(30);
/// An event stream that ended sooner than this, without an event, means that events are not available.
const TOO_SHORT: Duration = Duration::from_secs(1);

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
        let mut logged = None;
        let mut trigger = ResyncReason::Startup;
        // Kept for as long as the agent runs: a lost connection must not let a container be ended twice.
        let mut repair = Repair::new(self.repair);
        loop {
            let session = match self.join().await {
                Ok((cri, shared)) => {
                    logged = None;
                    let since = Instant::now();
                    self.serve(&cri, trigger, shared, &mut repair).await;
                    trigger = ResyncReason::StreamLost;
                    since.elapsed()
                }
                Err(reason) => {
                    self.containers.store().down(Peer::Cri, SystemTime::now(), reason.clone());
                    if logged.as_ref() != Some(&reason) {
                        warn!(%reason, "the runtime does not answer over CRI; trying again");
                        logged = Some(reason);
                    }
                    // NRI's list can be handled without CRI.
                    if let Some(found) = self.listed.try_take() {
                        self.inspections().listed(None, found).await;
                    }
                    self.ready.send_replace(true);
                    Duration::ZERO
                }
            };
            tokio::time::sleep(backoff.after(session)).await;
        }
    }

    fn inspections(&self) -> Inspections<'_> {
        Inspections { containers: &self.containers, bundles: &self.bundles }
    }

    /// The first runtime that answers, and whether each of its events reaches every subscriber.
    async fn join(&self) -> Result<(Cri, bool), String> {
        let metrics = self.containers.metrics().clone();
        let failed: OnFailure = Arc::new(move |call| metrics.request_failed(call));
        let clients =
            (self.endpoints)().into_iter().map(|path| Cri::new(path).reporting(Arc::clone(&failed)));
        let answered = first_answering(clients).await;
        let (cri, version) = answered.map_err(|unanswered| unanswered.to_string())?;
        info!(
            socket = %cri.path().display(),
            runtime = %version.name,
            version = %version.version,
            "the runtime answers over CRI"
        );
        let shared = events_are_shared(&version.name, &version.version);
        let store = self.containers.store();
        store.up(Peer::Cri, SystemTime::now());
        store.set_runtime(CriRuntime {
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
        let mut reached = self.inspections().all(cri, trigger).await;
        self.ready.send_replace(true);
        let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + self.every, self.every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pending = Pending::default();
        let mut due = self.attend(cri, &mut pending, repair).await;
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
                    self.inspections().listed(Some(cri), found).await;
                    // From now on a plugin is in the start path.
                    due = self.attend(cri, &mut pending, repair).await;
                }
                Wake::Resync(trigger) => {
                    if self.containers.store().mismatch().is_some() {
                        self.refresh_version(cri).await;
                    }
                    reached = self.inspections().all(cri, trigger).await;
                    due = self.attend(cri, &mut pending, repair).await;
                }
                Wake::Attention => {
                    if self.containers.store().mismatch().is_some() {
                        self.refresh_version(cri).await;
                    }
                    due = self.attend(cri, &mut pending, repair).await;
                }
                Wake::EventsEnded { lasted, any, error } if is_without(lasted, any, error.as_ref()) => {
                    info!(
                        "the runtime sends no container events (CRI-O: enable_pod_events is off; CRI-O before 1.25 \
                         and containerd before 1.7 have none); NRI, systemd and the resync do without"
                    );
                }
                Wake::EventsEnded { error, .. } => {
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
        self.refresh_version(cri).await;
        let Ok(listed) = cri.containers().await else {
            // Without CRI's list there is nothing to compare.
            return;
        };
        let store = self.containers.store();
        let joined = store.health(Peer::Nri).since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let was_there = |at_ns: i64| u128::try_from(at_ns).is_ok_and(|at| at < joined.as_nanos());
        let nri: Vec<_> = found.iter().map(|(container, state)| (container.id.clone(), *state)).collect();
        let cri: Vec<_> =
            listed.into_iter().map(|one| (one.id, one.state, was_there(one.created_at_ns))).collect();
        store.set_has_others(are_different_runtimes(&nri, &cri));
        self.containers.log_mismatch();
    }

    /// Asks the runtime for its version again, because another one may have replaced it.
    async fn refresh_version(&self, cri: &Cri) {
        if let Ok(version) = cri.version().await {
            let endpoint = cri.path().display().to_string();
            let runtime = CriRuntime { name: version.name, version: version.version, endpoint };
            self.containers.store().set_runtime(runtime);
        }
        self.containers.log_mismatch();
    }

    async fn take_event(&self, cri: &Cri, event: ContainerEvent) {
        self.containers.metrics().event(match event.kind {
            ContainerEventKind::Created => RuntimeEvent::Created,
            ContainerEventKind::Started => RuntimeEvent::Started,
            ContainerEventKind::Stopped => RuntimeEvent::Stopped,
            ContainerEventKind::Deleted => RuntimeEvent::Deleted,
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
                    self.inspections().one(cri, &event.id, occasion, since).await;
                }
            }
        }
    }

    /// Inspects containers again that were being created, and ends those that may be recreated. Returns
    /// when there is more to do.
    async fn attend(&self, cri: &Cri, pending: &mut Pending, repair: &mut Repair) -> Option<Instant> {
        let now = Instant::now();
        for id in pending.due(self.containers.being_made(), now) {
            if let Err(error) = self.inspections().again(cri, &id).await {
                debug!(container = id.short(), error = %chain(&error), "could not be inspected again; trying later");
            }
        }
        let more = repair.turn(cri, &self.containers, self.containers.store().is_called_first()).await;
        let waiting = pending.next(&self.containers.being_made());
        waiting.into_iter().chain(more).min()
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

/// Whether a stream of events that ended like this shows that the runtime offers none.
fn is_without(lasted: Duration, any: bool, error: Option<&CriError>) -> bool {
    match error {
        Some(error) => matches!(error, CriError::Unimplemented { .. }),
        None => !any && lasted < TOO_SHORT,
    }
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
