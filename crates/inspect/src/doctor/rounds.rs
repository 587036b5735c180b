//! The agent's rounds: the node is checked once everything that runs was looked at, never before and
//! never in the way of a container's start, and then as often as the containers are.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use super::Doctor;
use usernsd_domain::check::{Check, CheckResult, Checked, Outcome, Summary, runtime};
use usernsd_domain::node::{Peer, PeerState};
use usernsd_domain::pairing::Mismatch;
use usernsd_report::snapshot::Store;

/// Between two rounds, however often the runtime comes and goes.
const GAP: Duration = Duration::from_secs(1);

/// The task.
#[derive(Debug)]
pub struct Rounds {
    /// Who looks.
    pub doctor: Arc<Doctor>,
    /// Where it is kept.
    pub store: Store,
    /// Time between two rounds.
    pub every: Duration,
    /// Time between two looks whether there are new pods, which may ask for something.
    pub pods_every: Duration,
    /// Told once everything that ran before was looked at.
    pub ready: watch::Receiver<bool>,
}

impl Rounds {
    /// Runs until it is dropped, or the agent is.
    pub async fn run(mut self) {
        if self.ready.wait_for(|ready| *ready).await.is_err() {
            return;
        }
        let mut told = BTreeSet::new();
        loop {
            let answered = self.answers();
            let joined = self.joined();
            let is_joined = self.store.is_called_first();
            let plugins = self.store.snapshot().plugins;
            let launched = plugins.into_iter().map(|plugin| (plugin.pid, plugin.version)).collect();
            match Arc::clone(&self.doctor).examine(is_joined, launched).await {
                Ok(mut examined) => {
                    let now = self.store.snapshot();
                    let joined = runtime::joined(&now.peers.nri, now.start_path, now.mismatch.as_ref());
                    put(&mut examined.checked, joined);
                    tell(&examined.checked, &mut told);
                    self.store.set_examined(examined);
                }
                Err(error) => warn!(%error, "checking the node ended early; the next round tries again"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = self.returned(answered, joined) => {}
                never = self.follow_pods() => match never {},
            }
        }
    }

    /// Keeps what the pods ask for up to date between two rounds: pods come and go faster than the rest of the node
    /// changes.
    async fn follow_pods(&self) -> Infallible {
        let mut known = self.sandboxes();
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

    /// Waits until a runtime answers that did not, or is joined otherwise than it was: what was said of
    /// the node is no longer so.
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

    /// Whether the runtime is joined over NRI; where it is not, or another than the one of CRI is, why.
    fn joined(&self) -> (PeerState, Option<String>, Option<Mismatch>) {
        let health = self.store.health(Peer::Nri);
        let why = health.last_error.filter(|_| matches!(health.state, PeerState::Down | PeerState::Waiting));
        (health.state, why, self.store.mismatch())
    }

    fn answers(&self) -> bool {
        self.store.health(Peer::Cri).state == PeerState::Up
    }
}

/// Adds a check of the runtime's after the others of its category.
fn put(checked: &mut Vec<Checked>, one: Checked) {
    let at = checked.iter().rposition(|other| other.check.category() == one.check.category());
    checked.insert(at.map_or(checked.len(), |at| at + 1), one);
}

/// One line for each error that was none in the round before.
fn tell(checked: &[Checked], told: &mut BTreeSet<Check>) {
    debug!(summary = %Summary::of(checked).verdict(), "checked the node");
    told.retain(|check| checked.iter().any(|one| one.check == *check && one.result() == CheckResult::Fail));
    for one in checked.iter().filter(|one| one.result() == CheckResult::Fail) {
        if let Outcome::Failed(problems) = &one.outcome
            && let Some(first) = problems.first()
            && told.insert(one.check)
        {
            warn!(check = one.check.name(), problem = %first.what, remedy = %first.remedy, "a check of the node fails");
        }
    }
}
