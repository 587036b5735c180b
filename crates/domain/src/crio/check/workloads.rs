//! Workloads, and the annotations that workloads and handlers allow.

use std::collections::BTreeSet;

use super::{VALIDATING, place};
use crate::crio::CrioVersion;
use crate::crio::annotation::is_known;
use crate::crio::complaint::Complaint;
use crate::crio::config::Effective;
use crate::finding::FindingId;
use crate::toml::{Table, Value, get, table_at};

pub(super) fn workloads(version: CrioVersion, effective: &Effective, found: &mut Vec<Complaint>) {
    if !version.at_least(21) {
        return;
    }
    for (name, workload) in &effective.workloads {
        let place = place(workload.file.as_ref());
        let mut fatal = |why: String| {
            let message = format!("{VALIDATING}: workloads validation: {why}");
            found.push(Complaint::error(FindingId::CrioWorkload, &place, message));
        };
        if workload.text("activation_annotation").is_empty() {
            fatal(format!("annotation shouldn't be empty for workload {name:?}"));
        } else if version.at_least(23)
            && let Some(why) = refused_annotation(version, &workload.allowed())
        {
            fatal(why);
        } else if version.at_least(30)
            && let Some(why) = refused_resources(&workload.fields)
        {
            fatal(why);
        }
        let twin = effective.workloads.iter().find(|(other, entry)| {
            *other > name
                && entry.text("activation_annotation") == workload.text("activation_annotation")
                && !same_set(&entry.allowed(), &workload.allowed())
        });
        if let Some((other, _)) = twin {
            let message = format!(
                "workloads {name:?} and {other:?} are activated by the same annotation; CRI-O picks one at random"
            );
            let remedy = "give both the same allowed_annotations";
            found.push(Complaint::warning(FindingId::CrioWorkloadTwins, &place, message).remedy(remedy));
        }
    }
}

/// Why CRI-O refuses the resources of a workload (`Resources.ValidateDefaults`).
fn refused_resources(workload: &Table) -> Option<String> {
    let resources = table_at(workload, &["resources"])?;
    let number = |key: &str| match get(resources, key) {
        Some(Value::Integer(number)) => *number,
        _ => 0,
    };
    let [quota, shares, period] = ["cpuquota", "cpushares", "cpuperiod"].map(number);
    if let Some(Value::Text(set)) = get(resources, "cpuset").filter(|set| !is_cpuset(set)) {
        return Some(format!("unable to parse cpuset {set:?}"));
    }
    if quota != 0 && quota < shares {
        return Some(format!("cpuquota {quota} cannot be less than cpushares {shares}"));
    }
    (period != 0 && period < 1000)
        .then(|| format!("cpuperiod {period} cannot be less than 1000 microseconds"))
}

/// Whether it is a list of processors such as "0-3,8".
fn is_cpuset(value: &Value) -> bool {
    let Value::Text(text) = value else { return true };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_part = |part: &str| match part.split_once('-') {
        Some((first, last)) => is_number(first) && is_number(last),
        None => is_number(part),
    };
    text.is_empty() || text.split(',').all(is_part)
}

/// Whether two lists hold the same names.
fn same_set(one: &[String], other: &[String]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
}

/// A handler and a workload that allow the same annotation: an error for every pod that has both.
pub(super) fn allowed_twice(version: CrioVersion, effective: &Effective, found: &mut Vec<Complaint>) {
    if version.tolerates_allowing_twice() || !version.at_least(23) {
        return;
    }
    for (name, workload) in &effective.workloads {
        for (handler_name, handler) in &effective.handlers {
            let theirs = handler.allowed();
            for annotation in workload.allowed().iter().filter(|name| theirs.contains(name)) {
                let message = format!(
                    "workload {name:?} and handler {handler_name:?} both allow an annotation: pods that match \
                     both fail with: invalid allowed_annotation: {annotation}"
                );
                let remedy = "take it out of one of them, or update CRI-O";
                let place = place(workload.file.as_ref());
                found.push(Complaint::warning(FindingId::CrioAllowedTwice, place, message).remedy(remedy));
            }
        }
    }
}

/// The first annotation of a list that CRI-O refuses.
pub(super) fn refused_annotation(version: CrioVersion, allowed: &[String]) -> Option<String> {
    let mut seen = BTreeSet::new();
    let refused = |name: &&String| {
        !is_known(version, name)
            || (version.at_least(21) && !version.tolerates_allowing_twice() && !seen.insert((*name).clone()))
    };
    allowed.iter().find(refused).map(|name| format!("invalid allowed_annotation: {name}"))
}
