//! Questions to systemd about units, and systemd's signals. If no runtime calls before it starts a container,
//! the signals are the earliest safe sign that the container's cgroup exists. Otherwise they are not needed,
//! and slow a start down more than all of usernsd's own work in it: systemd sends several for each unit and
//! job. So they are switched off while a runtime calls.
//!
//! `UnitNew` is ignored, because the directory does not exist yet. `JobRemoved(done)` is sent when it does,
//! and the runtime itself waits for it. The agent was at least 13 ms faster in every race measured; nothing
//! guarantees that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{Stream, StreamExt};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tracing::{debug, info, warn};

use crate::containers::Containers;
use crate::decide::Trigger;
use crate::systemd_user::SystemdUser;
use usernsd_domain::chain::chain;
use usernsd_domain::container::CriId;
use usernsd_domain::isolation::Occasion;
use usernsd_domain::node::Peer;
use usernsd_domain::rate_limit::Backoff;
use usernsd_domain::record::Source;
use usernsd_domain::unit::{Scope, container_of_scope};
use usernsd_inspect::ask::Question;
use usernsd_inspect::bundle::Bundles;
use usernsd_peers::systemd::{Subscription, Systemd, SystemdError, SystemdEvent};

/// After a connection that lasted this long, the bus is reconnected without a pause.
const LASTING: Duration = Duration::from_secs(30);
/// The most scopes that are inspected concurrently: several times what a node starts at once. Further scopes are
/// found by a resync that is then requested.
const AT_ONCE: usize = 64;
/// How long a container that has just got its cgroup may take to enter its user namespace. The runtime
/// needs some milliseconds; a stuck container is left to the resync.
const PATIENCE: Duration = Duration::from_millis(500);

/// Follows systemd's signals, and answers questions about units.
pub struct Units {
    /// The system bus.
    pub bus: PathBuf,
    /// Inspects and records containers.
    pub containers: Arc<Containers>,
    /// Reads the runtimes' OCI bundles.
    pub bundles: Arc<Bundles>,
    /// Questions of other threads about units.
    pub questions: mpsc::Receiver<Question<String, Option<Scope>>>,
    /// Notified when signals were missed and a resync is needed.
    pub resync: Arc<Notify>,
    /// Delegation by systemd, if it is configured; after connecting, it is tested whether it works.
    pub systemd_user: Option<Arc<SystemdUser>>,
}

// === impl Units ===

impl Units {
    /// Runs until it is dropped; reconnects whenever the bus comes back.
    pub async fn run(mut self) {
        let mut backoff = Backoff::on_this_node(LASTING);
        let mut logged = None;
        let mut joined_before = false;
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let lasted = match self.join().await {
                Ok((systemd, events, subscription)) => {
                    let since = Instant::now();
                    logged = None;
                    self.containers.store().up(Peer::Systemd, SystemTime::now());
                    if joined_before {
                        self.resync.notify_one();
                    }
                    joined_before = true;
                    if let Some(systemd_user) = &self.systemd_user {
                        systemd_user.find_out(&systemd).await;
                    }
                    let reason = match self.serve(systemd, events, &subscription, &places).await {
                        Ok(()) => "the connection to the system bus ended".to_owned(),
                        Err(error) => chain(&error),
                    };
                    warn!(bus = %self.bus.display(), %reason, "lost the system bus; joining again");
                    self.containers.store().down(Peer::Systemd, SystemTime::now(), reason);
                    since.elapsed()
                }
                Err(error) => {
                    let reason = chain(&error);
                    self.containers.store().down(Peer::Systemd, SystemTime::now(), reason.as_str());
                    if logged.as_ref() != Some(&reason) {
                        warn!(bus = %self.bus.display(), %reason, "no system bus; cgroups are handed over without asking systemd");
                        logged = Some(reason);
                    }
                    Duration::ZERO
                }
            };
            let until = tokio::time::Instant::now() + backoff.after(lasted);
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    // Questions are refused at once if they cannot be answered.
                    question = self.questions.recv() => match question {
                        Some(question) => question.answer(None),
                        None => return,
                    },
                }
            }
        }
    }

    async fn join(
        &self,
    ) -> Result<(Arc<Systemd>, impl Stream<Item = SystemdEvent> + Unpin + use<>, Subscription), SystemdError>
    {
        let systemd = Systemd::connect(&self.bus).await?;
        let (events, subscription) = systemd.events().await?;
        let version = systemd.version().await?;
        info!(bus = %self.bus.display(), version, "joined systemd over the system bus");
        Ok((Arc::new(systemd), Box::pin(events), subscription))
    }

    /// Answers questions and takes events until the connection ends.
    ///
    /// # Errors
    /// systemd's signals could not be switched on or off.
    async fn serve(
        &mut self,
        systemd: Arc<Systemd>,
        mut events: impl Stream<Item = SystemdEvent> + Unpin,
        subscription: &Subscription,
        places: &Arc<Semaphore>,
    ) -> Result<(), SystemdError> {
        let called_first = self.containers.store().called_first();
        let mut switching =
            std::pin::pin!(switch_signals(subscription, called_first, Arc::clone(&self.resync)));
        loop {
            tokio::select! {
                biased;
                question = self.questions.recv() => {
                    let Some(question) = question else { return Ok(()) };
                    let systemd = Arc::clone(&systemd);
                    tokio::spawn(async move {
                        let answer = scope(&systemd, &question.question).await;
                        question.answer(answer);
                    });
                }
                switched = &mut switching => return switched,
                event = events.next() => match event {
                    None => return Ok(()),
                    Some(SystemdEvent::JobDone { unit }) => self.made(&unit, places),
                    Some(SystemdEvent::UnitRemoved { unit }) => self.containers.unit_removed(&unit),
                    // Neither undoes a chown, but signals may have been lost in the meantime.
                    Some(SystemdEvent::Restarted | SystemdEvent::Reloading(false)) => {
                        if subscription.is_on() {
                            self.resync.notify_one();
                        }
                    }
                    Some(SystemdEvent::Reloading(true)) => {}
                },
            }
        }
    }

    /// Handles the signal that a scope's cgroup exists.
    fn made(&self, unit: &str, places: &Arc<Semaphore>) {
        let Some(id) = container_of_scope(unit) else { return };
        // Some signals are still to be read when they are switched off.
        if self.containers.store().is_called_first() {
            return;
        }
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            self.resync.notify_one();
            return;
        };
        let since = Instant::now();
        let containers = Arc::clone(&self.containers);
        let bundles = Arc::clone(&self.bundles);
        // On a thread that may block: it asks systemd through the channel above.
        tokio::task::spawn_blocking(move || {
            let _place = place;
            inspect_early(&containers, &bundles, &id, since);
        });
    }
}

/// Switches systemd's signals on while no runtime calls before it starts a container, and off while one does.
///
/// # Errors
/// systemd or the bus refused. The function returns only then.
async fn switch_signals(
    subscription: &Subscription,
    mut called_first: watch::Receiver<bool>,
    resync: Arc<Notify>,
) -> Result<(), SystemdError> {
    let mut was_off = false;
    loop {
        let is_called_first = *called_first.borrow_and_update();
        match (is_called_first, subscription.is_on()) {
            (false, false) => {
                subscription.switch_on().await?;
                if was_off {
                    debug!("no runtime calls before it starts a container: systemd's signals are on");
                    // It finds the containers that were started since the runtime's last call.
                    resync.notify_one();
                }
            }
            (true, true) => {
                subscription.switch_off().await?;
                debug!("a runtime calls before it starts a container: systemd's signals are off");
            }
            (true, false) | (false, true) => {}
        }
        was_off = is_called_first;
        // The store, which is at the other end, lives as long as the task.
        if called_first.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn scope(systemd: &Systemd, unit: &str) -> Option<Scope> {
    systemd.scope(unit).await.unwrap_or_else(|error| {
        debug!(unit, error = %chain(&error), "systemd did not answer");
        None
    })
}

/// Inspects a container asynchronously: nothing waits for the result.
fn inspect_early(containers: &Containers, bundles: &Bundles, id: &CriId, since: Instant) {
    let bundle = match bundles.find(id) {
        Ok(Some(bundle)) => bundle,
        // A sandbox, a container of another tool, or a runtime that keeps its bundles elsewhere. CRI and
        // the resync have more information.
        Ok(None) => return,
        Err(error) => {
            warn!(container = id.short(), error = %chain(&error), "the container's specification cannot be read");
            return;
        }
    };
    if bundle.sandbox {
        return;
    }
    let trigger =
        Trigger { source: Source::Systemd, stage: Occasion::UnitMade.stage(), since, patience: PATIENCE };
    containers.inspect(&bundle.container, trigger);
}
