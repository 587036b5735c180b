//! The NRI plugin that joins a running runtime. It is called synchronously, on a thread of its own, so that
//! nothing else in the agent can delay a container's start.
//!
//! Joining can harm a runtime ([`join`](usernsd_domain::join)), so it is done rarely and at a quiet moment:
//! not while a container is being removed or stopped gracefully, not if the list of all containers would
//! crash the runtime, and not soon after a failed join.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::containers::Containers;
use crate::decide::{Trigger, keep_from_running};
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, ContainerState};
use usernsd_domain::isolation::Occasion;
use usernsd_domain::join::InFlight;
use usernsd_domain::lock::lock;
use usernsd_domain::node::Peer;
use usernsd_domain::pairing::{Caller, StartPathKind};
use usernsd_domain::rate_limit::Backoff;
use usernsd_domain::record::Source;
use usernsd_inspect::ask::Asker;
use usernsd_inspect::neighbour::JoinFacts;
use usernsd_linux::arrival::{Arrival, WakeReason, Waker};
use usernsd_linux::proc;
use usernsd_nri::{Ignored, NriError, Request, Session, Stopper};
use usernsd_tasks::Latest;

/// The plugin's name in the runtime's log.
const NAME: &str = "usernsd";
/// After a session that lasted this long, the runtime is joined again without a pause, because meanwhile
/// containers start unguarded.
const LASTING: Duration = Duration::from_secs(5);
/// The pause while there is no socket. A new socket is joined the moment it appears; the pause is for the
/// case that the notification was missed.
const ABSENT: Duration = Duration::from_secs(300);
/// The first and the longest pause after a join that failed between Configure and the list. In that phase a
/// join can crash the runtime, and a runtime that is joined at each of its starts would never come up.
const FAILED: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(1800));
/// The pause before the list's size is checked again, if it would crash the runtime.
const TOO_LARGE: Duration = Duration::from_secs(30);
/// The pause before the calls in flight are checked again.
const BUSY: Duration = Duration::from_millis(200);
/// How long a removal in flight delays the join. A join at that moment risks a runtime that hangs until it
/// is restarted (containerd#10085); waiting means that pods start without what they ask for, and without
/// the guard. A removal takes seconds, so with a check every 0.2 s for five minutes there is a moment
/// without one, unless pods are removed all the time.
const WAIT_FOR_REMOVAL: Duration = Duration::from_secs(300);
/// How long a graceful stop delays the join: after a join, every start would wait for the end of that stop
/// ([`InFlight::Stop`]). Twice Kubernetes' default grace period; for a longer stop, waiting would leave
/// containers unguarded for longer than starts would be delayed. Pods that may be removed delay it as long:
/// one that has completed looks the same, and a node with a job each minute always has one.
const WAIT_FOR_STOP: Duration = Duration::from_secs(60);
/// A request of the runtime that is in work for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);
/// How long the runtime may take for its list, once it has configured the plugin.
const LIST: Duration = Duration::from_secs(5);
/// A runtime that has not sent its list for this long is considered deadlocked. Longer than any usual grace
/// period.
const DEADLOCK: Duration = Duration::from_secs(180);

/// The containers that a runtime listed when it was joined. The list is complete, so a newer list replaces
/// one that has not been processed yet.
pub type Listed = Latest<Vec<(Container, ContainerState)>>;

/// The plugin, and its state as other threads see it.
#[derive(Debug)]
pub struct Plugin {
    sockets: Vec<PathBuf>,
    index: String,
    /// Answers what a join would meet; without it, the runtime is joined without checking first.
    join_facts: Option<Asker<(), Option<JoinFacts>>>,
    /// Whether it has been decided if the runtime can be joined.
    settled: watch::Sender<bool>,
    /// Milliseconds from `started` until the request in work arrived; 0 if there is none.
    busy_since: AtomicU64,
    started: Instant,
    stopping: Mutex<Stopping>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Stopping {
    now: bool,
    /// A launched plugin is in the start path, so the agent must not join.
    unwanted: bool,
    session: Option<Stopper>,
    waker: Option<Waker>,
}

/// How an attempt to join, or a session, ended.
#[derive(Debug)]
enum SessionEnd {
    /// There is no socket.
    Absent(String),
    /// Calls are in flight that a join must not meet.
    Busy(String),
    /// The list would crash the runtime.
    TooLarge(String),
    /// The connection ended between Configure and the list; with the PID of the runtime.
    Failed(String, Option<i32>),
    /// The runtime was not reached, or did not register the plugin.
    Unreached(String),
    /// A session that worked.
    Lost(String, Duration),
    /// The plugin was asked to stop or to leave.
    Interrupted,
}

/// The joining thread's state for one attempt.
struct Serving<'a> {
    containers: &'a Containers,
    listed: &'a Listed,
    /// The time since which something in flight has delayed the join.
    waiting: Option<Instant>,
}

// === impl Plugin ===

impl Plugin {
    /// A plugin for the runtime that listens on the first of `sockets` that answers. `index` is its
    /// position among the plugins.
    #[must_use]
    pub fn new(sockets: Vec<PathBuf>, index: u8) -> Plugin {
        Plugin {
            sockets,
            index: format!("{index:02}"),
            join_facts: None,
            settled: watch::Sender::new(false),
            busy_since: AtomicU64::new(0),
            started: Instant::now(),
            stopping: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Makes the plugin ask `join_facts` what a join would meet before it joins.
    #[must_use]
    pub fn with_join_facts(self, join_facts: Asker<(), Option<JoinFacts>>) -> Plugin {
        Plugin { join_facts: Some(join_facts), ..self }
    }

    /// True once it is known whether the runtime can be joined: it has been joined, or it cannot be joined
    /// now.
    #[must_use]
    pub fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// How long the current request has been in work.
    #[must_use]
    pub fn busy_for(&self) -> Duration {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.started.elapsed().saturating_sub(Duration::from_millis(since)),
        }
    }

    /// Whether a request has been in work for so long that the agent hangs. The runtime has dropped the
    /// plugin by then.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.busy_for() >= STUCK
    }

    /// Keeps [`Plugin::run`] from joining until [`Plugin::set_wanted`] is called for the first time.
    pub fn hold(&self) {
        lock(&self.stopping).unwanted = true;
    }

    /// Sets whether the agent is to be joined with the runtime: not while a launched plugin serves it.
    /// Takes effect at once.
    pub fn set_wanted(&self, wanted: bool) {
        let mut stopping = lock(&self.stopping);
        if !wanted {
            self.settled.send_replace(true);
        }
        if stopping.unwanted != wanted {
            return;
        }
        stopping.unwanted = !wanted;
        if !wanted && let Some(session) = &stopping.session {
            session.stop();
        }
        self.notify(&stopping);
    }

    /// Ends [`Plugin::run`], whatever it waits for. Requests that the runtime has already sent are
    /// answered.
    pub fn stop(&self) {
        let mut stopping = lock(&self.stopping);
        stopping.now = true;
        if let Some(session) = &stopping.session {
            session.stop();
        }
        self.notify(&stopping);
    }

    fn notify(&self, stopping: &Stopping) {
        if let Some(waker) = &stopping.waker {
            waker.wake();
        }
        self.wake.notify_all();
    }

    /// Serves the runtime until [`Plugin::stop`]; joins it again whenever it comes back. The containers
    /// that the runtime lists go to `listed`, because they started without the agent.
    pub fn run(&self, containers: &Containers, listed: &Listed) {
        let (mut arrival, waker) = match Arrival::new(&self.sockets) {
            Ok(made) => made,
            Err(error) => {
                let reason = format!("no socket pair for the NRI thread: {error}");
                warn!(%reason, "no NRI here");
                self.settled.send_replace(true);
                containers.store().down(Peer::Nri, SystemTime::now(), reason);
                return;
            }
        };
        lock(&self.stopping).waker = Some(waker);
        let mut serving = Serving { containers, listed, waiting: None };
        let mut backoff = Backoff::on_this_node(LASTING);
        let mut failures = Backoff::new(FAILED.0, FAILED.1, FAILED.0);
        let mut logged = None;
        while self.wait_until_wanted() {
            let ended = self.attempt(&mut serving, arrival.any_there());
            containers.store().set_joined(None);
            self.busy_since.store(0, Ordering::Relaxed);
            if self.is_unwanted() {
                logged = None;
                continue;
            }
            let is_put_off = matches!(ended, SessionEnd::Busy(_));
            let (reason, pause, wakes_on_arrival) = match ended {
                SessionEnd::Interrupted => continue,
                SessionEnd::Absent(reason) => (reason, ABSENT, true),
                SessionEnd::Busy(reason) => (reason, BUSY, false),
                SessionEnd::TooLarge(reason) => (reason, TOO_LARGE, true),
                SessionEnd::Unreached(reason) => (reason, backoff.after(Duration::ZERO), true),
                SessionEnd::Lost(reason, lasted) => {
                    failures.after(lasted);
                    (reason, backoff.after(lasted), true)
                }
                SessionEnd::Failed(reason, peer) => {
                    let pause = failures.after(Duration::ZERO);
                    // The kernel closes the sockets of a crashed process before the process is gone.
                    arrival.wait(Duration::from_secs(1));
                    let crashed = match peer {
                        Some(peer) if !proc::lives(peer) => format!(
                            "; its process {peer} has ended since: it seems to have crashed, see its log"
                        ),
                        _ => "; see its log".to_owned(),
                    };
                    // A runtime that is restarted makes a new socket, even after a crash.
                    (format!("{reason}{crashed}; not joining again for {} s", pause.as_secs()), pause, false)
                }
            };
            if is_put_off {
                containers.store().waiting(Peer::Nri, SystemTime::now(), reason.as_str());
            } else {
                containers.store().down(Peer::Nri, SystemTime::now(), reason.as_str());
            }
            if !matches!(reason.as_str(), "") && logged.as_ref() != Some(&reason) && !self.is_stopping() {
                // Each reason is logged once: on a node without NRI, this loop never ends.
                warn!(%reason, "not joined over NRI; containers are reached later, over systemd and CRI");
                logged = Some(reason);
            }
            self.settled.send_replace(true);
            self.pause(&mut arrival, pause, wakes_on_arrival);
        }
    }

    /// Waits for the pause, or until there is something to do.
    fn pause(&self, arrival: &mut Arrival, pause: Duration, wakes_on_arrival: bool) {
        let end = Instant::now() + pause;
        loop {
            match arrival.wait(end.saturating_duration_since(Instant::now())) {
                WakeReason::TimedOut | WakeReason::Interrupted => return,
                WakeReason::Appeared if wakes_on_arrival => return,
                WakeReason::Appeared => {}
            }
        }
    }

    /// Joins the runtime if that is safe, and serves it until the session ends.
    fn attempt(&self, serving: &mut Serving<'_>, is_there: bool) -> SessionEnd {
        if !is_there {
            let sockets: Vec<_> = self.sockets.iter().map(|socket| socket.display().to_string()).collect();
            serving.waiting = None;
            return SessionEnd::Absent(format!("no NRI socket: {}", sockets.join(", ")));
        }
        if let Err(ended) = self.may_join(serving) {
            return ended;
        }
        let mut reasons = Vec::new();
        for socket in &self.sockets {
            let mut declined = None;
            let joined = Session::connect_if(socket, NAME, &self.index, |_| {
                // The last moment: calls that began after the first check are seen here.
                self.may_join(serving).map_err(|ended| {
                    let (SessionEnd::Busy(reason) | SessionEnd::TooLarge(reason)) = &ended else {
                        return String::new();
                    };
                    let reason = reason.clone();
                    declined = Some(ended);
                    reason
                })
            });
            match joined {
                Ok(session) => {
                    if !self.keep(&session) {
                        return SessionEnd::Interrupted;
                    }
                    serving.waiting = None;
                    let since = Instant::now();
                    let name = socket.display().to_string();
                    let ended = self.serve(session, &name, serving);
                    let must_end = self.is_stopping() || self.is_unwanted();
                    return match ended {
                        _ if must_end => {
                            info!(socket = name, "left the runtime");
                            SessionEnd::Interrupted
                        }
                        Err(ended) => ended,
                        Ok(reason) => SessionEnd::Lost(format!("{name}: {reason}"), since.elapsed()),
                    };
                }
                Err(NriError::Declined(reason)) => return declined.unwrap_or(SessionEnd::Busy(reason)),
                Err(error) => reasons.push(format!("{}: {}", socket.display(), chain(&error))),
            }
        }
        SessionEnd::Unreached(reasons.join("; "))
    }

    /// Checks whether the runtime can be joined now.
    fn may_join(&self, serving: &mut Serving<'_>) -> Result<(), SessionEnd> {
        let Some(join_facts) = &self.join_facts else { return Ok(()) };
        let Some(answer) = join_facts.insist(()) else {
            let since = *serving.waiting.get_or_insert_with(Instant::now);
            if since.elapsed() < WAIT_FOR_STOP {
                return Err(SessionEnd::Busy(
                    "not joining NRI yet: the runtime does not answer over CRI in time".to_owned(),
                ));
            }
            return Ok(());
        };
        // No runtime answers over CRI, so nothing is in flight.
        let Some(join_facts) = answer else { return Ok(()) };
        if let Some(reason) = join_facts.refusal {
            serving.waiting = None;
            return Err(SessionEnd::TooLarge(reason));
        }
        let Some(in_flight) = join_facts.in_flight else { return Ok(()) };
        let since = *serving.waiting.get_or_insert_with(Instant::now);
        let limit = match in_flight {
            InFlight::Removal(_) => WAIT_FOR_REMOVAL,
            InFlight::Ending(_) | InFlight::Stop(_) => WAIT_FOR_STOP,
        };
        if since.elapsed() < limit {
            return Err(SessionEnd::Busy(format!("not joining NRI yet: {in_flight}")));
        }
        warn!(%in_flight, seconds = limit.as_secs(), "joining NRI without waiting any longer");
        Ok(())
    }

    /// Serves the runtime, and returns why that ended.
    ///
    /// # Errors
    /// The session ended before the runtime had sent its list: it was never joined.
    fn serve(&self, mut session: Session, socket: &str, serving: &Serving<'_>) -> Result<String, SessionEnd> {
        let configured = Instant::now();
        let runtime = session.runtime().clone();
        let mut is_joined = false;
        let mut ignored = session.ignored().clone();
        session.refuse_unread(serving.containers.decider().refuses());
        if let Err(error) = session.set_patience(Some(LIST)) {
            return Err(SessionEnd::Unreached(chain(&error)));
        }
        let reason = loop {
            let request = match session.next() {
                Ok(Some(request)) => request,
                Ok(None) => break "the runtime ended the connection".to_owned(),
                Err(NriError::Quiet) if is_joined => continue,
                Err(NriError::Quiet) => {
                    self.unlisted(configured.elapsed(), serving);
                    continue;
                }
                Err(error) => break chain(&error),
            };
            if *session.ignored() != ignored {
                let was_silent = ignored == Ignored::default();
                let refused_before = ignored.refused;
                ignored = session.ignored().clone();
                let Ignored { unreadable, unexpected, truncated, refused, last } = &ignored;
                if *refused > refused_before {
                    warn!(
                        refused,
                        ?last,
                        "refused a container, because its description is too long to be read"
                    );
                }
                if was_silent {
                    warn!(
                        unreadable,
                        unexpected,
                        truncated,
                        ?last,
                        "ignored malformed parts of the runtime's messages"
                    );
                }
            }
            if matches!(request, Request::Synchronize { .. }) && !is_joined {
                is_joined = true;
                let (name, version) = (runtime.name.clone(), runtime.version.clone());
                let way = StartPathKind::Joined(socket.to_owned());
                serving.containers.store().set_joined(Some(Caller { name, version, way, has_others: false }));
                info!(
                    socket,
                    runtime = %runtime.name,
                    version = %runtime.version,
                    "joined the runtime over NRI"
                );
                if let Err(error) = session.set_patience(None) {
                    break chain(&error);
                }
            }
            if let Err(error) = self.handle(&mut session, request, &runtime.name, serving) {
                break chain(&error);
            }
            self.busy_since.store(0, Ordering::Relaxed);
        };
        if is_joined {
            return Ok(reason);
        }
        Err(SessionEnd::Failed(
            format!("{socket}: the join failed before the runtime had sent its list: {reason}"),
            session.peer(),
        ))
    }

    /// The runtime has configured the plugin but sends no list. Leaving would not help, because the runtime
    /// would go on waiting for its lock.
    fn unlisted(&self, waited: Duration, serving: &Serving<'_>) {
        let seconds = waited.as_secs();
        let reason = if waited < DEADLOCK {
            format!(
                "the runtime has registered the plugin and not sent its list for {seconds} s: a call of it \
                 holds a lock, such as a graceful stop"
            )
        } else {
            format!(
                "the runtime has registered the plugin and not sent its list for {seconds} s, nor does it start \
                 containers: it seems to be deadlocked (containerd#10085); restart it"
            )
        };
        warn!(%reason, "not joined over NRI yet");
        serving.containers.store().down(Peer::Nri, SystemTime::now(), reason);
    }

    fn handle(
        &self,
        session: &mut Session,
        request: Request,
        runtime: &str,
        serving: &Serving<'_>,
    ) -> Result<(), NriError> {
        let containers = serving.containers;
        let since = Instant::now();
        let at = u64::try_from(since.duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        self.busy_since.store(at.max(1), Ordering::Relaxed);
        match request {
            Request::Synchronize { containers: found, unreadable, .. } => {
                if let Some(first) = unreadable.first() {
                    warn!(count = unreadable.len(), %first, "left pods or containers out of the runtime's list");
                }
                // From here on, the runtime calls the plugin before every start.
                containers.store().up(Peer::Nri, SystemTime::now());
                self.settled.send_replace(true);
                // The list has no receiver only while the agent stops.
                serving.listed.put(found);
            }
            Request::CreateContainer { pod, container, token } => {
                let creation = containers.decider().before_create(&container, pod.user_namespace);
                let (created, answer) = creation.into_answer();
                let answered = session.answer_create(token, answer);
                containers.record_created(&created.answered(answered.is_ok()), SystemTime::now());
                answered?;
            }
            Request::StartContainer { container, token, .. } => {
                let trigger = Trigger {
                    source: Source::Nri,
                    stage: Occasion::NriStart.stage(),
                    since,
                    patience: Duration::ZERO,
                };
                let mut decision = containers.decider().inspect(&container, trigger);
                let refusal = decision.refusal.take();
                let ended = refusal.is_some() && keep_from_running(runtime, decision.init.as_ref());
                // The runtime waits for this answer.
                let answered =
                    session.answer_start(token, refusal.map_or(Ok(()), |refusal| Err(refusal.sentence)));
                decision.complete();
                if ended {
                    warn!(
                        container = container.id.short(),
                        "ended the container before its first instruction"
                    );
                }
                let inspected = decision.inspected.answered(answered.is_ok(), runtime, ended);
                containers.record(&inspected, SystemTime::now());
                answered?;
            }
            Request::ContainerStopped { id } | Request::ContainerRemoved { id } => containers.forget(&id),
            Request::PodRemoved { id } => containers.decider().forget_pod(id.as_str()),
        }
        Ok(())
    }

    /// Registers the session, so that [`Plugin::stop`] and [`Plugin::set_wanted`] can end it; false if one
    /// of them was called already.
    fn keep(&self, session: &Session) -> bool {
        let mut stopping = lock(&self.stopping);
        stopping.session = Some(session.stopper());
        !stopping.now && !stopping.unwanted
    }

    /// Waits until the agent is to join; false if it is to stop.
    fn wait_until_wanted(&self) -> bool {
        let stopping = lock(&self.stopping);
        let waiting = self.wake.wait_while(stopping, |stopping| stopping.unwanted && !stopping.now);
        waiting.is_ok_and(|stopping| !stopping.now)
    }

    fn is_unwanted(&self) -> bool {
        lock(&self.stopping).unwanted
    }

    fn is_stopping(&self) -> bool {
        lock(&self.stopping).now
    }
}
