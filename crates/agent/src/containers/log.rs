//! Log lines, and the recent events of the status page, about inspections.

use std::time::{Duration, SystemTime};

use tracing::{debug, info, warn};

use super::Containers;
use usernsd_domain::delegation::Skip;
use usernsd_domain::recent_events::{Event, EventKind};
use usernsd_domain::record::{Action, Change, Outcome, Record};
use usernsd_domain::report::{ContainerNames, Inspected, NotGranted};
use usernsd_domain::unit::is_pod_cgroup;
use usernsd_report::metrics::RefusalReason;

impl Containers {
    /// Logs an inspection: one line for each change, and one line for each new problem that an operator can
    /// solve.
    pub(super) fn log_inspected(&self, inspected: &Inspected, is_new: bool, at: SystemTime) {
        let record = &inspected.record;
        let (id, source) = (record.id.short(), record.source.name());
        let (namespace, pod, name) = (&record.pod.namespace, &record.pod.name, &record.name);
        let note = |kind, what, sentence| {
            let Record { id, name, pod, .. } = record.clone();
            self.note(&ContainerNames { id, name, pod }, kind, what, sentence, at);
        };
        for change in &inspected.changes {
            info!(
                container = id,
                %namespace, %pod, %name,
                action = change.action.name(),
                path = %change.path,
                from = %change.from,
                to = %change.to,
                source,
                after_us = u64::try_from(inspected.after.as_micros()).unwrap_or(u64::MAX),
                "changed"
            );
        }
        if let Some(change) =
            inspected.changes.iter().max_by_key(|change| change.action == Action::ChownCgroup)
        {
            note(EventKind::Fixed, change.action.name(), fixed(&inspected.changes, inspected.after));
        }
        match &record.outcome {
            Outcome::Failed(error) => {
                if let Some(action) = inspected.failed.filter(|_| is_new) {
                    note(EventKind::Failed, action.name(), error.clone());
                }
                warn!(
                    container = id,
                    %namespace, %pod, %name, source, error = error.as_str(),
                    "could not hand the cgroup over; the next resync tries again"
                );
            }
            // An operator can act on these; the others are normal.
            Outcome::Skipped(
                skip @ (Skip::Unproven
                | Skip::Closed
                | Skip::ForeignOwner
                | Skip::NotDelegated
                | Skip::UnmappedOwner
                | Skip::UnmappedRoot
                | Skip::ReservedOwner),
            ) if is_new => {
                let why = inspected.detail.as_deref().unwrap_or(skip.meaning());
                note(EventKind::LeftAlone, skip.name(), why.to_owned());
                warn!(
                    container = id,
                    %namespace, %pod, %name, source,
                    reason = skip.name(),
                    detail = why,
                    "left the cgroup as it is"
                );
            }
            outcome => debug!(
                container = id,
                %namespace, %pod, %name, source,
                outcome = outcome.name(),
                detail = inspected.detail.as_deref().unwrap_or_default(),
                "inspected the container"
            ),
        }
    }

    /// Keeps the event for the state document.
    pub(super) fn note(
        &self,
        container: &ContainerNames,
        kind: EventKind,
        what: &'static str,
        sentence: String,
        at: SystemTime,
    ) {
        self.store.note(Event {
            number: 0,
            at,
            kind,
            what,
            container: container.id.clone(),
            name: container.name.clone(),
            pod: container.pod.clone(),
            sentence,
        });
    }

    pub(super) fn log_ungranted(&self, container: &ContainerNames, ungranted: &NotGranted, at: SystemTime) {
        // A plugin of another version may send a reason that this version does not define: it is only
        // logged.
        if let Some(refusal) = RefusalReason::named(&ungranted.reason) {
            self.metrics.refused(refusal);
            self.note(container, EventKind::LeftAlone, refusal.name(), ungranted.sentence.clone(), at);
        }
        warn!(
            container = container.id.short(),
            namespace = %container.pod.namespace,
            pod = %container.pod.name,
            name = %container.name,
            reason = %ungranted.reason,
            detail = %ungranted.sentence,
            "did not prepare the container"
        );
    }
}

/// A sentence about what was changed.
fn fixed(changes: &[Change], after: Duration) -> String {
    let owner = changes.iter().rfind(|change| change.action == Action::ChownCgroup);
    let owner = owner.map(|change| format!("cgroup given to host ID {}", change.to));
    let limits = changes.iter().filter(|change| change.action == Action::SetLimits);
    let limits = limits.map(|change| {
        let file = change.path.name().unwrap_or_default();
        let of_pod = change.path.parent().is_none_or(|cgroup| cgroup.name().is_none_or(is_pod_cgroup));
        let whose = if of_pod { "pod" } else { "container" };
        format!("{file} of the {whose} set to {}", change.to)
    });
    let all: Vec<String> = owner.into_iter().chain(limits).collect();
    format!("{}, in {:.1} ms", all.join(", "), after.as_secs_f64() * 1000.0)
}
