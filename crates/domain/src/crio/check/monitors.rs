//! The monitors of containers (conmon): their program and their cgroup.

use std::collections::BTreeSet;

use super::{Programs, VALIDATING, last_text, place};
use crate::crio::CrioVersion;
use crate::crio::complaint::Complaint;
use crate::crio::config::{ConfFile, Effective};
use crate::finding::FindingId;

/// The monitors' programs that CRI-O would not find.
pub(super) fn monitors(
    version: CrioVersion,
    effective: &Effective,
    ignored: &BTreeSet<String>,
    programs: Programs<'_>,
    found: &mut Vec<Complaint>,
) {
    let everyones = effective.conmon.value.as_str();
    let missing = |path: &str| match path {
        "" if programs("conmon") == Some(false) => {
            Some("exec: \"conmon\": executable file not found in $PATH".to_owned())
        }
        path if !path.is_empty() && programs(path) == Some(false) => {
            Some(format!("invalid conmon path: stat {path}: no such file or directory"))
        }
        _ => None,
    };
    if !version.at_least(24) {
        if let Some(why) = missing(everyones) {
            let message = format!("{VALIDATING}: conmon validation: {why}");
            found.push(Complaint::error(
                FindingId::CrioConmon,
                place(effective.conmon.file.as_ref()),
                message,
            ));
        }
        return;
    }
    for (name, handler) in effective.handlers.iter().filter(|(name, _)| !ignored.contains(*name)) {
        if !matches!(handler.text("runtime_type"), "" | "oci") {
            continue;
        }
        let path = if everyones.is_empty() { handler.text("monitor_path") } else { everyones };
        if let Some(why) = missing(path) {
            let message = format!(
                "{VALIDATING}: monitor fields translation: failed to translate monitor fields for runtime \
                 {name}: {why}"
            );
            let remedy = "give that handler the monitor_path of the default one";
            let place = place(handler.file.as_ref());
            found.push(Complaint::error(FindingId::CrioConmon, place, message).remedy(remedy));
        }
    }
}

/// The cgroups of container monitors that CRI-O refuses (`TranslateMonitorFieldsForHandler`).
pub(super) fn cgroups(
    version: CrioVersion,
    files: &[ConfFile],
    effective: &Effective,
    ignored: &BTreeSet<String>,
    found: &mut Vec<Complaint>,
) {
    const POD: &str = "pod";
    const DEFAULT: &str = "system.slice";
    let is_systemd = effective.cgroup_manager.value != "cgroupfs";
    let everyones = last_text(files, &["crio", "runtime"], "conmon_cgroup");
    let mistake = |cgroup: &str| {
        let is_slice = cgroup.ends_with(".slice");
        if is_systemd {
            (cgroup != POD && !is_slice)
                .then(|| "conmon cgroup should be 'pod' or a systemd slice".to_owned())
        } else {
            // Since 1.33 the default of the other manager counts as empty.
            let is_empty = cgroup.is_empty() || (cgroup == DEFAULT && version.at_least(33));
            (cgroup != POD && !is_empty).then(|| {
                format!("cgroupfs manager conmon cgroup should be 'pod' or empty, but got: '{cgroup}'")
            })
        }
    };
    let remedy = if is_systemd {
        "write \"pod\", or the name of a slice (system.slice)"
    } else {
        "write \"pod\", or remove it: slices are for cgroup_manager = \"systemd\""
    };
    if let Some((cgroup, place)) = everyones.filter(|(cgroup, _)| !cgroup.is_empty()) {
        // It takes the place of every handler's own.
        if let Some(why) = mistake(cgroup) {
            let message = format!("{VALIDATING}: conmon_cgroup: {why}");
            found.push(Complaint::error(FindingId::CrioConmon, place, message).remedy(remedy));
        }
        return;
    }
    if !version.at_least(24) {
        return;
    }
    for (name, handler) in effective.handlers.iter().filter(|(name, _)| !ignored.contains(*name)) {
        let cgroup = handler.text("monitor_cgroup");
        if cgroup.is_empty() || !matches!(handler.text("runtime_type"), "" | "oci") {
            continue;
        }
        if let Some(why) = mistake(cgroup) {
            let message = format!(
                "{VALIDATING}: monitor fields translation: failed to translate monitor fields for runtime {name}: {why}"
            );
            let place = place(handler.file.as_ref());
            found.push(Complaint::error(FindingId::CrioConmon, place, message).remedy(remedy));
        }
    }
}
