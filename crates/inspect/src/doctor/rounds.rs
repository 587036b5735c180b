//! The agent's periodic checks of its node. The first round starts once every running container has been
//! inspected, so that no check delays a container's start.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use super::Doctor;
use usernsd_domain::chain::chain;
use usernsd_domain::check::{Check, CheckOutcome, CheckResult, Checked, Summary, runtime};
use usernsd_domain::node::{Peer, PeerState};
use usernsd_domain::pairing::Mismatch;
use usernsd_report::store::Store;

/// Minimum time between two rounds, however often the runtime disconnects.
const GAP: Duration = Duration::from_secs(1);

/// The periodic task.
#[derive(Debug)]
pub struct Rounds {
    /// Examines the node.
    pub doctor: Arc<Doctor>,
    /// Receives the results.
    pub store: Store,
    /// Time between two rounds.
    pub every: Duration,
    /// Time between two looks for new pods, whose annotations are checks' input.
    pub pods_every: Duration,
    /// True once every container that was already running has been inspected.
    pub ready: watch::Receiver<bool>,
}

impl Rounds {
    /// Runs until it is dropped, or the agent is.
    pub async fn run(mut self) {
        if self.ready.wait_for(|ready| *ready).await.is_err() {
            return;
        }
        let mut reported = BTreeSet::new();
        loop {
            let answered = self.answers();
            let joined = self.joined();
            let is_joined = self.store.is_called_first();
            let plugins = self.store.snapshot().plugins;
            let launched = plugins.into_iter().map(|plugin| (plugin.pid, plugin.version)).collect();
            // Before the pods are asked about: one that comes meanwhile is not among the answers.
            let known = self.sandboxes();
            match Arc::clone(&self.doctor).examine(is_joined, launched).await {
                Ok(mut examined) => {
                    let now = self.store.snapshot();
                    let joined = runtime::joined(&now.peers.nri, now.start_path, now.mismatch.as_ref());
                    put(&mut examined.checked, joined);
                    report(&examined.checked, &mut reported);
                    self.store.set_examined(examined);
                }
                Err(error) => {
                    warn!(error = %chain(&error), "checking the node ended early; the next round tries again")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = self.returned(answered, joined) => {}
                never = self.follow_pods(known) => match never {},
            }
        }
    }

    /// Keeps the pods' requests up to date between two rounds, because pods change more often than the rest
    /// of the node. `known` are those that were there before the last round.
    async fn follow_pods(&self, mut known: BTreeSet<String>) -> Infallible {
        loop {
            tokio::time::sleep(self.pods_every).await;
            let sandboxes = self.sandboxes();
            if sandboxes != known {
                known = sandboxes;
                self.store.set_asked(self.doctor.ask_for_annotations().await);
            }
        }
    }

    fn sandboxes(&self) -> BTreeSet<String> {
        self.store.list().iter().map(|record| record.sandbox_id.clone()).collect()
    }

    /// Waits until the runtime answers again, or the state of the NRI connection changes: the earlier
    /// results are outdated then.
    async fn returned(&self, mut answered: bool, joined: (PeerState, Option<String>, Option<Mismatch>)) {
        let mut changes = self.store.changes();
        tokio::time::sleep(GAP).await;
        loop {
            let answers = self.answers();
            if answers && !answered || self.joined() != joined {
                return;
            }
            answered = answers;
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whether the runtime is joined over NRI; the reason if it is not; and the mismatch if CRI leads to
    /// another runtime.
    fn joined(&self) -> (PeerState, Option<String>, Option<Mismatch>) {
        let health = self.store.health(Peer::Nri);
        let why = health.last_error.filter(|_| matches!(health.state, PeerState::Down | PeerState::Waiting));
        (health.state, why, self.store.mismatch())
    }

    fn answers(&self) -> bool {
        self.store.health(Peer::Cri).state == PeerState::Up
    }
}

/// Inserts a check of the runtime after the others of its category.
fn put(checked: &mut Vec<Checked>, one: Checked) {
    let at = checked.iter().rposition(|other| other.check.category() == one.check.category());
    checked.insert(at.map_or(checked.len(), |at| at + 1), one);
}

/// Logs one line for each error that the round before did not have.
fn report(checked: &[Checked], reported: &mut BTreeSet<Check>) {
    debug!(summary = %Summary::of(checked).verdict(), "checked the node");
    reported
        .retain(|check| checked.iter().any(|one| one.check == *check && one.result() == CheckResult::Fail));
    for one in checked.iter().filter(|one| one.result() == CheckResult::Fail) {
        if let CheckOutcome::Failed(problems) = &one.outcome
            && let Some(first) = problems.first()
            && reported.insert(one.check)
        {
            warn!(check = one.check.name(), problem = %first.what, remedy = %first.remedy, "a check of the node fails");
        }
    }
}
