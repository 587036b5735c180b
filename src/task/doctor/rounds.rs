//! The agent's rounds: the node is checked once everything that runs was looked at, never before and
//! never in the way of a container's start, and then as often as the containers are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use super::Doctor;
use crate::domain::check::{Checked, Outcome, Summary};
use crate::task::snapshot::Store;

/// The task.
#[derive(Debug)]
pub struct Rounds {
    /// Who looks.
    pub doctor: Arc<Doctor>,
    /// Where it is kept.
    pub store: Store,
    /// Time between two rounds.
    pub every: Duration,
    /// Told once everything that ran before was looked at.
    pub ready: watch::Receiver<bool>,
}

impl Rounds {
    /// Runs until told to stop.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        if self.ready.wait_for(|ready| *ready).await.is_err() {
            return;
        }
        let mut told = BTreeSet::new();
        loop {
            match Arc::clone(&self.doctor).examine().await {
                Ok(examined) => {
                    tell(&examined.checked, &mut told);
                    self.store.set_examined(examined);
                }
                Err(error) => warn!(%error, "checking the node ended early; the next round tries again"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                _ = stop.changed() => return,
            }
        }
    }
}

/// One line for each error that was none in the round before.
fn tell(checked: &[Checked], told: &mut BTreeSet<&'static str>) {
    debug!(summary = %Summary::of(checked).verdict(), "checked the node");
    told.retain(|id| checked.iter().any(|one| one.check.id == *id && one.word() == "fail"));
    for one in checked.iter().filter(|one| one.word() == "fail") {
        if let Outcome::Failed(problems) = &one.outcome
            && let Some(first) = problems.first()
            && told.insert(one.check.id)
        {
            warn!(check = one.check.id, problem = %first.what, remedy = %first.remedy, "a check of the node fails");
        }
    }
}
