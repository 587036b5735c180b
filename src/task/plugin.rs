//! The NRI plugin: the synchronous way in, on a thread of its own so that nothing else the agent
//! does can delay a container's start.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::domain::container::{Container, ContainerState};
use crate::domain::node::Peer;
use crate::domain::record::Source;
use crate::edge::nri::{NriError, Request, Session, Stopper};
use crate::task::containers::{Containers, Way};
use crate::task::decide::keep_from_running;
use crate::task::delegate::MountSource;
use crate::task::pauses::Pauses;

/// The plugin's name in the runtime's log.
const NAME: &str = "usernsd";
/// A runtime that was joined for this long is joined at once when it goes away: nobody calls before
/// a container's start meanwhile.
const LASTING: Duration = Duration::from_secs(5);

/// The plugin, and its state as other threads see it.
#[derive(Debug)]
pub struct Plugin {
    sockets: Vec<PathBuf>,
    index: String,
    connected: AtomicBool,
    /// Milliseconds since `started` at which the request in work came in; 0 when there is none.
    busy_since: AtomicU64,
    started: Instant,
    stopping: Mutex<Stopping>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Stopping {
    now: bool,
    /// A launched plugin is in the start path: the agent is not to join.
    unwanted: bool,
    session: Option<Stopper>,
}

// === impl Plugin ===

impl Plugin {
    /// A plugin for the runtime that listens on the first of `sockets` that answers, called in the
    /// order of `index`.
    #[must_use]
    pub fn new(sockets: Vec<PathBuf>, index: u8) -> Plugin {
        Plugin {
            sockets,
            index: format!("{index:02}"),
            connected: AtomicBool::new(false),
            busy_since: AtomicU64::new(0),
            started: Instant::now(),
            stopping: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Whether the runtime calls before it starts a container.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// For how long the request in work has been in work.
    #[must_use]
    pub fn busy_for(&self) -> Duration {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.started.elapsed().saturating_sub(Duration::from_millis(since)),
        }
    }

    /// Whether the agent is to be joined with the runtime: not while a plugin that the runtime launched
    /// serves it. Leaves the runtime, or joins it, at once.
    pub fn set_wanted(&self, wanted: bool) {
        let mut stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if stopping.unwanted != wanted {
            return;
        }
        stopping.unwanted = !wanted;
        if let Some(session) = stopping.session.take_if(|_| !wanted) {
            session.stop();
        }
        self.wake.notify_all();
    }

    /// Ends [`Plugin::run`], whatever it waits for.
    pub fn stop(&self) {
        let mut stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        stopping.now = true;
        if let Some(session) = &stopping.session {
            session.stop();
        }
        self.wake.notify_all();
    }

    /// Serves the runtime until told to stop; joins it again whenever it comes back. What it lists
    /// on joining goes to `listed`: started while nobody was there.
    pub fn run(
        &self,
        containers: &Containers,
        listed: &mpsc::UnboundedSender<Vec<(Container, ContainerState)>>,
    ) {
        let mut pauses = Pauses::new(LASTING);
        let mut said = None;
        while self.wait_until_wanted() {
            let lasted = match self.join() {
                Ok((session, socket)) => {
                    let since = Instant::now();
                    said = None;
                    if !self.keep(&session) {
                        continue;
                    }
                    let runtime = session.runtime().clone();
                    info!(
                        socket = %socket.display(),
                        runtime = %runtime.name,
                        version = %runtime.version,
                        "joined the runtime over NRI"
                    );
                    let ended = self.serve(session, &runtime.name, containers, listed);
                    self.connected.store(false, Ordering::Release);
                    // A session that ended within a request has none in work.
                    self.busy_since.store(0, Ordering::Relaxed);
                    if self.is_unwanted() {
                        info!(socket = %socket.display(), "left the runtime: the plugin that it launched serves it");
                        continue;
                    }
                    let reason = match ended {
                        Ok(()) => "the runtime ended the connection".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    containers.store().down(Peer::Nri, SystemTime::now(), reason.as_str());
                    if !self.is_stopping() {
                        warn!(socket = %socket.display(), %reason, "lost the runtime's NRI connection; joining again");
                    }
                    since.elapsed()
                }
                Err(_) if self.is_unwanted() => continue,
                Err(reason) => {
                    containers.store().down(Peer::Nri, SystemTime::now(), reason.as_str());
                    // Once for each reason: a node without NRI is asked for ever.
                    if said.as_ref() != Some(&reason) {
                        warn!(%reason, "no NRI here; containers are reached later, over systemd and CRI");
                        said = Some(reason);
                    }
                    Duration::ZERO
                }
            };
            if self.sleep(pauses.after(lasted)) {
                return;
            }
        }
    }

    fn join(&self) -> Result<(Session, &Path), String> {
        let mut reasons = Vec::new();
        for socket in &self.sockets {
            match Session::connect(socket, NAME, &self.index) {
                Ok(session) => return Ok((session, socket)),
                Err(error) => reasons.push(format!("{}: {error}", socket.display())),
            }
        }
        Err(reasons.join("; "))
    }

    fn serve(
        &self,
        mut session: Session,
        runtime: &str,
        containers: &Containers,
        listed: &mpsc::UnboundedSender<Vec<(Container, ContainerState)>>,
    ) -> Result<(), NriError> {
        while let Some(request) = session.next()? {
            let since = Instant::now();
            let at = u64::try_from(since.duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
            self.busy_since.store(at.max(1), Ordering::Relaxed);
            match request {
                Request::Synchronize { containers: found, unreadable, .. } => {
                    if let Some(first) = unreadable.first() {
                        warn!(count = unreadable.len(), %first, "left pods or containers out of the runtime's list");
                    }
                    // From here on, every start comes through here first.
                    self.connected.store(true, Ordering::Release);
                    containers.store().up(Peer::Nri, SystemTime::now());
                    // Nobody listens any more only while the agent stops.
                    let _ = listed.send(found);
                }
                Request::CreateContainer { pod, container, token } => {
                    let answer = containers.before_create(&container, pod.user_namespace);
                    session.answer_create(token, answer.map_err(|refusal| refusal.sentence))?;
                }
                Request::StartContainer { container, token, .. } => {
                    let way = Way {
                        source: Source::Nri,
                        mount: MountSource::Stricter(container.cgroup_mount()),
                        told: None,
                        since,
                        patience: Duration::ZERO,
                    };
                    let look = containers.look_first(&container, way);
                    let answer = match &look.refusal {
                        None => Ok(()),
                        Some(refusal) => {
                            if keep_from_running(runtime, look.init.as_ref()) {
                                warn!(
                                    container = container.id.short(),
                                    "ended the container before its first instruction"
                                );
                            }
                            Err(refusal.sentence.clone())
                        }
                    };
                    // The runtime waits for this and for nothing else.
                    let answered = session.answer_start(token, answer);
                    containers.say(&look);
                    answered?;
                }
                Request::ContainerStopped { id } | Request::ContainerRemoved { id } => containers.forget(&id),
                Request::PodRemoved { id } => containers.forget_pod(id.as_str()),
            }
            self.busy_since.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Lets [`Plugin::stop`] and [`Plugin::set_wanted`] end this session; false where that was called for
    /// already.
    fn keep(&self, session: &Session) -> bool {
        let mut stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        stopping.session = Some(session.stopper());
        !stopping.now && !stopping.unwanted
    }

    /// Waits for as long as the agent is not to join; false when told to stop.
    fn wait_until_wanted(&self) -> bool {
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.wake.wait_while(stopping, |stopping| stopping.unwanted && !stopping.now);
        waiting.is_ok_and(|stopping| !stopping.now)
    }

    fn is_unwanted(&self) -> bool {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner).unwanted
    }

    fn is_stopping(&self) -> bool {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    /// Waits; true when told to stop.
    fn sleep(&self, pause: Duration) -> bool {
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake
            .wait_timeout_while(stopping, pause, |stopping| !stopping.now)
            .map_or(true, |(stopping, _)| stopping.now)
    }
}
