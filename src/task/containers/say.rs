//! What was seen and done, for people: log lines, and the feed of the status page.

use std::time::{Duration, SystemTime};

use tracing::{debug, info, warn};

use super::{Containers, Look};
use crate::domain::adjust::Ungranted;
use crate::domain::container::Container;
use crate::domain::delegation::Skip;
use crate::domain::feed::{Event, EventKind};
use crate::domain::record::{Outcome, Source};
use crate::task::delegate::Change;
use crate::task::metrics::Action;

impl Containers {
    /// Says what [`Containers::look_first`] saw and did: one line for each change; a line for what an
    /// operator can put right, once.
    pub fn say(&self, container: &Container, look: &Look, source: Source) {
        let Look { handled, is_news, .. } = look;
        let (namespace, pod, name) = (&container.pod.namespace, &container.pod.name, &container.name);
        for change in &handled.changes {
            info!(
                container = container.id.short(),
                %namespace, %pod, %name,
                action = change.action.name(),
                path = %change.path,
                from = %change.from,
                to = %change.to,
                source = source.name(),
                after_us = u64::try_from(look.after.as_micros()).unwrap_or(u64::MAX),
                "changed"
            );
        }
        if let Some(change) = handled.changes.iter().max_by_key(|change| change.action == Action::ChownCgroup)
        {
            self.note(container, EventKind::Fixed, change.action.name(), fixed(&handled.changes, look.after));
        }
        match &handled.outcome {
            Outcome::Failed(error) => {
                if *is_news {
                    self.note(container, EventKind::Failed, handled.failed_action().name(), error.clone());
                }
                warn!(
                    container = container.id.short(),
                    %namespace, %pod, %name, source = source.name(), %error,
                    "could not hand the cgroup over; the next resync tries again"
                );
            }
            // What an operator can do something about; the rest is everyday.
            Outcome::Skipped(
                skip @ (Skip::Unproven
                | Skip::ForeignOwner
                | Skip::NotDelegated
                | Skip::UnmappedOwner
                | Skip::UnmappedRoot
                | Skip::ReservedOwner),
            ) if *is_news => {
                let why = handled.detail.as_deref().unwrap_or(skip.meaning());
                self.note(container, EventKind::LeftAlone, skip.name(), why.to_owned());
                warn!(
                    container = container.id.short(),
                    %namespace, %pod, %name, source = source.name(),
                    reason = skip.name(),
                    detail = why,
                    "left the cgroup alone"
                );
            }
            outcome => debug!(
                container = container.id.short(),
                %namespace, %pod, %name, source = source.name(),
                outcome = outcome.name(),
                detail = handled.detail.as_deref().unwrap_or_default(),
                "looked at the container"
            ),
        }
    }

    /// Keeps it for whoever looks after the fact.
    pub(super) fn note(&self, container: &Container, kind: EventKind, what: &'static str, sentence: String) {
        self.store.note(Event {
            number: 0,
            at: SystemTime::now(),
            kind,
            what,
            container: container.id.clone(),
            name: container.name.clone(),
            pod: container.pod.clone(),
            sentence,
        });
    }

    pub(super) fn say_ungranted(&self, container: &Container, ungranted: &Ungranted) {
        self.metrics.refused(ungranted);
        self.note(container, EventKind::LeftAlone, ungranted.name(), ungranted.to_string());
        warn!(
            container = container.id.short(),
            namespace = %container.pod.namespace,
            pod = %container.pod.name,
            name = %container.name,
            reason = ungranted.name(),
            detail = %ungranted,
            "did not prepare the container"
        );
    }
}

/// What was put right, in a sentence.
fn fixed(changes: &[Change], after: Duration) -> String {
    let owner = changes.iter().rfind(|change| change.action == Action::ChownCgroup);
    let owner = owner.map(|change| format!("cgroup given to host ID {}", change.to));
    let limits = changes.iter().filter(|change| change.action == Action::SetLimits);
    let limits = limits.map(|change| {
        let file = change.path.as_str().rsplit('/').next().unwrap_or_default();
        format!("{file} set to {}", change.to)
    });
    let all: Vec<String> = owner.into_iter().chain(limits).collect();
    format!("{}, in {:.1} ms", all.join(", "), after.as_secs_f64() * 1000.0)
}
