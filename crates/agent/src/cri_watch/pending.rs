//! When the containers that are still being created are inspected again.

use std::collections::BTreeMap;
use std::time::Instant;

use usernsd_domain::container::CriId;
use usernsd_domain::isolation;

/// For each of them, how often it was inspected and when it is due again.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<CriId, (u32, Instant)>);

// === impl Pending ===

impl Pending {
    /// The containers of `made` that are due; schedules the others.
    pub(super) fn due(&mut self, made: Vec<CriId>, now: Instant) -> Vec<CriId> {
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
    pub(super) fn next(&self, made: &[CriId]) -> Option<Instant> {
        made.iter().filter_map(|id| Some(self.0.get(id)?.1)).min()
    }
}
