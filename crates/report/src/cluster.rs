//! The exporter's work with the cluster: reads this node's pods from the API server, checks whether their
//! users are mapped, and posts Events and a Node condition.
//!
//! Nothing on the node waits for it. While the API server cannot be reached, the pods are those of its last
//! answer, Events wait for up to ten minutes, and everything else continues.
//!
//! Many nodes do this at once: the work starts at a random moment, random growing pauses follow failures,
//! and `docs/scale.md` counts the requests.

mod condition;
mod facts;
mod judge;
mod namespaces;
mod post;
mod watch;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch as channel};
use tracing::{error, info, warn};

use crate::follow::Followed;
use crate::metrics::cluster::{ApiRequest, ClusterMetrics};
use crate::state::State;
use usernsd_domain::chain::chain;
use usernsd_domain::condition::ConditionPolicy;
use usernsd_domain::event::EventPolicy;
use usernsd_domain::pod::is_dns_name;
use usernsd_domain::rate_limit::{Backoff, spread};
use usernsd_domain::user_mapping::PodMappingProblems;
use usernsd_linux::proc::Proc;
use usernsd_peers::kube::{Kube, KubeError, Reporter};
use usernsd_tasks::Tasks;

pub use facts::{node_facts, with_mapping_problems};

/// The most Events that wait to be posted. Further ones are queued later, if their cause persists. The
/// cause is also in the metrics and in the state document.
const WAITING: usize = 64;

/// The configured parts of the exporter's work with the cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's name; `None` for the one in the agent's document.
    pub node: Option<String>,
    /// This process's name in Events; `None` for the node's name.
    pub instance: Option<String>,
    /// Which Events are posted.
    pub events: EventPolicy,
    /// The Node condition.
    pub condition: ConditionPolicy,
    /// Whether to request the ID ranges of namespaces.
    pub namespaces: bool,
    /// The pauses and time limits.
    pub pace: Pace,
    /// Where the time since the machine's start is read.
    pub proc: Proc,
}

/// Pauses and time limits. Only tests change the default.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The first request is sent within this time, at a random moment, because a DaemonSet's pods start
    /// together.
    pub spread: Duration,
    /// Upper bound of the first pause after a failure.
    pub base: Duration,
    /// Upper bound of every pause.
    pub longest: Duration,
    /// The shortest pause after an answer that will not change soon, such as a missing permission.
    pub refused: Duration,
    /// The server ends a watch between half of this and this.
    pub watch: Duration,
    /// After a watch that lasted this long, the pauses start again from the first.
    pub steady: Duration,
    /// A watch on which nothing arrives for this long is dead, because bookmarks come each minute.
    pub silence: Duration,
    /// Changes within this time are handled together.
    pub settle: Duration,
    /// The age at which a namespace's range is requested again for a new pod.
    pub range_age: Duration,
    /// The next of several namespaces is requested within this time, at a random moment.
    pub apart: Duration,
    /// An Event that has been queued for this long is dropped.
    pub event_age: Duration,
    /// The pause between two looks whether the clock was set, whose times are in the Node condition.
    pub clock: Duration,
    /// The longest time between two writes of the Node condition.
    pub heartbeat: Duration,
    /// An agent that has not answered for less than this counts as starting.
    pub agent_absence: Duration,
}

/// The state that all parts share.
#[derive(Debug)]
struct Cluster {
    kube: Arc<Kube>,
    metrics: ClusterMetrics,
    pace: Pace,
    node: String,
    is_away: AtomicBool,
    was_refused: AtomicBool,
}

impl Default for Pace {
    fn default() -> Pace {
        let (seconds, minutes) = (Duration::from_secs, |minutes: u64| Duration::from_secs(60 * minutes));
        Pace {
            spread: minutes(1),
            base: seconds(1),
            longest: minutes(5),
            refused: minutes(10),
            watch: minutes(30),
            steady: minutes(1),
            silence: seconds(290),
            settle: seconds(1),
            range_age: minutes(10),
            apart: minutes(1),
            event_age: minutes(10),
            clock: seconds(30),
            heartbeat: minutes(30),
            agent_absence: minutes(2),
        }
    }
}

/// Works until it is dropped. `states` are the agent's documents; the user mapping problems are written to
/// `misfits`.
pub async fn run(
    options: Options,
    kube: Arc<Kube>,
    mut states: channel::Receiver<Option<Arc<State>>>,
    metrics: ClusterMetrics,
    misfits: channel::Sender<Arc<Vec<PodMappingProblems>>>,
) {
    let node = match options.node.clone() {
        Some(node) => Some(node),
        None => {
            let Ok(state) = states.wait_for(Option::is_some).await else { return };
            state.as_ref().map(|state| state.node.name.clone())
        }
    };
    let Some(node) = node.filter(|node| is_dns_name(node)) else {
        warn!("Kubernetes has no Node with this node's name, so the API server is not asked; set NODE_NAME");
        return std::future::pending().await;
    };
    let cluster = Arc::new(Cluster {
        kube,
        metrics,
        pace: options.pace,
        node: node.clone(),
        is_away: AtomicBool::new(false),
        was_refused: AtomicBool::new(false),
    });
    let mut tasks = Tasks::new();
    let (pods_told, pods) = channel::channel(Arc::default());
    let (ranges_told, ranges) = channel::channel(Arc::default());
    tasks.spawn("pods", watch::run(Arc::clone(&cluster), pods_told));
    if options.namespaces {
        tasks.spawn("namespaces", namespaces::run(Arc::clone(&cluster), pods.clone(), ranges_told));
    }
    let (queue, waiting) = mpsc::channel(WAITING);
    let judge = judge::Judge::new(Arc::clone(&cluster), options.events, queue, misfits);
    tasks.spawn("judge", judge.run(states.clone(), pods, ranges));
    let reporter = Reporter { instance: options.instance.unwrap_or_else(|| node.clone()), node };
    tasks.spawn("events", post::run(Arc::clone(&cluster), waiting, reporter));
    match options.condition {
        ConditionPolicy::Off => {}
        ConditionPolicy::On => {
            tasks.spawn("condition", condition::run(Arc::clone(&cluster), options.proc, states));
        }
        ConditionPolicy::Remove => {
            tasks.spawn("condition", condition::remove(Arc::clone(&cluster)));
        }
    }
    // If this future is dropped, they stop.
    let ended = tasks.ended().await;
    error!(%ended, "the work with the cluster ends");
}

/// Passes each of the agent's documents on, and `None` while the agent is away.
pub async fn listen(mut followed: Followed, states: channel::Sender<Option<Arc<State>>>) {
    loop {
        let is_present = followed.link.borrow_and_update().present().is_ok();
        let state = followed.state.borrow_and_update().clone().filter(|_| is_present);
        states.send_if_modified(|before| {
            let is_news = match (&*before, &state) {
                (Some(before), Some(state)) => !Arc::ptr_eq(before, state),
                (None, None) => false,
                _ => true,
            };
            *before = state;
            is_news
        });
        tokio::select! {
            Ok(()) = followed.link.changed() => {}
            Ok(()) = followed.state.changed() => {}
            else => return,
        }
    }
}

// === impl Cluster ===

impl Cluster {
    fn backoff(&self) -> Backoff {
        Backoff::new(self.pace.base, self.pace.longest, self.pace.steady)
    }

    /// Waits for the start, at a random moment.
    async fn start(&self) {
        tokio::time::sleep(self.pace.spread.mul_f64(random())).await;
    }

    /// Waits until requests may be sent again.
    async fn rest(&self) {
        while let Some(wait) = self.kube.requested_pause() {
            // Each node waits a little longer, because all were given the same time.
            tokio::time::sleep(wait + self.pace.base.mul_f64(random())).await;
        }
    }

    /// Waits after a failure.
    async fn pause(&self, backoff: &mut Backoff, error: &KubeError) {
        let least = match error {
            KubeError::Forbidden(_) | KubeError::Refused { .. } => Some(self.pace.refused),
            _ => self.kube.requested_pause(),
        };
        tokio::time::sleep(spread(backoff.after(Duration::ZERO), random(), least)).await;
    }

    /// Counts the result of a request, and logs it if it is new.
    fn record_answer<T>(&self, request: ApiRequest, answer: &Result<T, KubeError>) {
        let Err(error) = answer else {
            self.metrics.up(true);
            if self.is_away.swap(false, Ordering::Relaxed) {
                info!("the API server answers again");
            }
            self.was_refused.store(false, Ordering::Relaxed);
            return;
        };
        if matches!(error, KubeError::Exists(_)) {
            // An answer like any other; this error was logged before.
            self.metrics.up(true);
            return;
        }
        self.metrics.request_failed(request);
        self.kube.renew_after(error);
        if error.is_transient() {
            self.metrics.up(false);
            if !self.is_away.swap(true, Ordering::Relaxed) {
                warn!(error = %chain(&error), "no answer from the API server; Events wait, and everything else continues");
            }
        } else {
            self.metrics.up(true);
            let is_refusal = matches!(error, KubeError::Forbidden(_) | KubeError::Refused { .. });
            if is_refusal && !self.was_refused.swap(true, Ordering::Relaxed) {
                warn!(request = request.name(), error = %chain(&error), "the API server refuses a request");
            }
        }
    }
}

/// A number from 0 to 1. It spreads requests and protects nothing.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 12;
    f64::from_bits(0x3ff0_0000_0000_0000 | bits) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_spread() {
        let numbers: Vec<f64> = (0..1000).map(|_| random()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        for tenth in 0..10 {
            let from = f64::from(tenth) / 10.0;
            let within = numbers.iter().filter(|number| (from..from + 0.1).contains(*number)).count();
            assert!(within > 40, "{within} of 1000 from {from}");
        }
    }
}
