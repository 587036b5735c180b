//! Metrics of the node's checks.

use super::{Family, counter, gauge, number, truth};
use usernsd_domain::check::configuration::{ConfigFacts, ConfigFile, Drift};
use usernsd_domain::check::{CheckOutcome, Checked, Examined};
use usernsd_domain::node::{Snapshot, Survey};
use usernsd_domain::restart::Service;
use usernsd_domain::restart::to_restart;

pub(super) const CHECK: Family = gauge(
    "usernsd_check_passed",
    &["check", "severity"],
    "Result of a check of this node (1 passed, 0 failed), see docs/runbooks/checks; no series where it was skipped. \
     Determined after the agent's start and with each resync, those of pods at each scrape.",
);
pub(super) const DRIFT: Family = gauge(
    "usernsd_config_drift",
    &["file"],
    "Whether usernsd bootstrap would change the file (1) or not (0), as of the last resync.",
);
pub(super) const PENDING: Family = gauge(
    "usernsd_config_restart_pending",
    &["unit"],
    "Whether the unit runs with older files than those on disk (1) or not (0), as of the last resync.",
);
pub(super) const WRITES: Family = counter(
    "usernsd_config_writes_total",
    &["file"],
    "Times usernsd bootstrap wrote the file, from its journal on the node; undone writes do not count.",
);

/// Writes the families; nothing before the first round of checks.
pub(super) fn write(text: &mut String, snapshot: &Snapshot, survey: &Survey) {
    let Some(examined) = &snapshot.examined else { return };
    let checked = Examined::now(snapshot, survey);
    let result = |one: &Checked| match one.outcome {
        CheckOutcome::Skipped(_) => None,
        _ => Some(([one.check.name(), one.check.severity().name()], truth(!one.is_failed()))),
    };
    CHECK.write(text, checked.iter().filter_map(result));
    let ConfigFacts { drift, pending, .. } = &examined.configuration;
    if let Ok(Drift::Changes(changes)) = drift {
        let drifted: Vec<ConfigFile> = changes.iter().filter_map(|(path, _)| ConfigFile::of(path)).collect();
        let drifts = ConfigFile::ALL.map(|file| (file.name(), truth(drifted.contains(&file))));
        DRIFT.write_of(text, drifts);
    }
    if let Ok(pending) = pending {
        let waits = |service| truth(to_restart(pending).any(|waiting| waiting == service));
        PENDING.write_of(text, Service::ALL.map(|service| (service.name(), waits(service))));
    }
    if let Some(writes) = &examined.writes {
        let count = |file| number(writes.get(&file).copied().unwrap_or(0));
        WRITES.write_of(text, ConfigFile::ALL.map(|file| (file.name(), count(file))));
    }
}
