//! CRI-O: its configuration, its restart, and pods that ask it for a user namespace.

use super::{Crio, Older};
use crate::check::{Check, CheckOutcome, Checked, Probe, Problem};
use crate::crio::CrioVersion;
use crate::crio::annotation::{CGROUP, names_for};
use crate::crio::config::Effective;
use crate::finding::Finding;
use crate::restart;

/// The check compares keys, types, values, handlers, workloads and programs with CRI-O's rules; CRI-O itself may still find
/// something else, for example in a certificate or in its storage.
const NOTHING_FOUND: &str = "nothing in it is known to keep CRI-O from starting";

pub(super) fn of_crio(crio: &Probe<Crio>) -> Vec<Checked> {
    let Crio { version, findings, effective, older, hook: _ } = match crio {
        Ok(crio) => crio,
        Err(why) => {
            let checks = [
                Check::CrioConfig,
                Check::CrioConfigIgnored,
                Check::CrioWorkloadTwins,
                Check::CrioAllowedTwice,
                Check::CrioAnnotations,
                Check::CrioPodEvents,
                Check::CrioRestart,
                Check::CrioUserns,
                Check::CrioMappings,
            ];
            return checks.map(|check| check.skipped(why.clone())).into();
        }
    };
    vec![
        starts(*version, findings, older.as_ref()),
        Check::CrioConfigIgnored.judged(findings, Check::CrioConfigIgnored.meaning()),
        Check::CrioWorkloadTwins.judged(findings, Check::CrioWorkloadTwins.meaning()),
        if version.tolerates_allowing_twice() {
            Check::CrioAllowedTwice.passed(format!("CRI-O {version} permits both"))
        } else {
            Check::CrioAllowedTwice.judged(findings, Check::CrioAllowedTwice.meaning())
        },
        annotations(*version, effective),
        pod_events(*version, effective),
        restarts(*version, effective),
        Check::CrioUserns.judged(findings, Check::CrioUserns.meaning()),
        if version.leaves_mappings_out() {
            Check::CrioMappings.failed(
                format!(
                    "CRI-O {version} does not pass the ID mappings to the OCI runtime (cri-o#9705): no \
                     container of a pod with hostUsers: false owns its cgroup, and systemd does not start there"
                ),
                "update to 1.35.1 or later; until then the agent hands the cgroups over",
            )
        } else {
            Check::CrioMappings.passed(format!("CRI-O {version}"))
        },
    ]
}

fn starts(version: CrioVersion, findings: &[Finding], older: Option<&Older>) -> Checked {
    let judged = Check::CrioConfig.judged(findings, NOTHING_FOUND);
    let Some(Older { version: older, is_installed, refuses }) = older.filter(|_| !judged.is_failed()) else {
        return judged;
    };
    if *is_installed {
        return Check::CrioConfig.failed(
            format!("CRI-O {version} runs and {older} is installed, which does not start with its configuration: {}", refuses.what),
            "before CRI-O restarts, install the version that runs, or run usernsd bootstrap --crio-version with the one that \
             is installed",
        );
    }
    Check::CrioConfig.passed(format!(
        "{NOTHING_FOUND}; after a downgrade to {older} or older it would not, until usernsd bootstrap has run: {}",
        refuses.what
    ))
}

fn annotations(version: CrioVersion, effective: &Effective) -> Checked {
    let names = names_for(version, CGROUP);
    if names.is_empty() {
        return Check::CrioAnnotations.skipped(format!("CRI-O {version} has no such annotation"));
    }
    let by_handler = effective.default_handler().map(|handler| handler.allowed()).unwrap_or_default();
    let is_allowed = |name: &str| {
        let by_workload = effective.workloads.values().any(|workload| {
            workload.text("activation_annotation") == name
                && workload.allowed().iter().any(|allowed| allowed == name)
        });
        by_workload || by_handler.iter().any(|allowed| allowed == name)
    };
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_allowed(name)).collect();
    if missing.is_empty() {
        return Check::CrioAnnotations.passed(names.join(", "));
    }
    Check::CrioAnnotations.failed(
        format!("CRI-O ignores {}: pods that use it to ask for a writable cgroup do not get one", missing.join(", ")),
        "usernsd bootstrap; then: systemctl restart crio (see crio_restart first). Or let pods ask by usernsd.io/cgroup",
    )
}

fn pod_events(version: CrioVersion, effective: &Effective) -> Checked {
    if !version.broadcasts_pod_events() {
        return Check::CrioPodEvents.failed(
            format!("CRI-O {version} gives each event to one subscriber only: the agent leaves them to the kubelet"),
            "update to 1.28 or later, or do without: NRI and the resync see every container",
        );
    }
    if effective.pod_events.value {
        return Check::CrioPodEvents.passed("enable_pod_events is true");
    }
    Check::CrioPodEvents.failed(
        "enable_pod_events is false: the agent finds containers by NRI, systemd and the resync only",
        "set enable_pod_events = true under [crio.runtime], and: systemctl restart crio (see crio_restart first)",
    )
}

fn restarts(version: CrioVersion, effective: &Effective) -> Checked {
    let mut problems = Vec::new();
    if version.forgets_mappings_on_restart() {
        problems.push(Problem {
            what: format!(
                "CRI-O {version} forgets the ID mappings of running pods when it is restarted (cri-o#10014): \
                 containers that start in them later would run as the host's root"
            ),
            remedy: "update to 1.35.6, or to 1.37.0 or later; until then drain the node before: systemctl restart crio"
                .to_owned(),
        });
    }
    let monitors = restart::warnings(Some(version), &effective.cgroup_manager.value, 1, 0);
    let judged = Check::CrioRestart.judged(&monitors, format!("CRI-O {version} restores ID mappings"));
    match judged.outcome {
        CheckOutcome::Failed(more) => problems.extend(more),
        _ if problems.is_empty() => return judged,
        _ => {}
    }
    Checked { check: Check::CrioRestart, outcome: CheckOutcome::Failed(problems) }
}
