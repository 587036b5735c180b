//! Values of single keys, outside of the tables of handlers and workloads.

use super::{Programs, VALIDATING, last, last_text, place};
use crate::crio::CrioVersion;
use crate::crio::complaint::Complaint;
use crate::crio::config::{ConfFile, Effective};
use crate::finding::FindingId;
use crate::toml::Value;

/// Mappings for the whole node (`uid_mappings`, `gid_mappings`), which are deprecated: CRI-O uses them only
/// if both are set, and for every pod whose user namespace the kubelet does not specify
/// (`server.getIDMappings`).
pub(super) fn mappings(version: CrioVersion, files: &[ConfFile]) -> Option<Complaint> {
    let set = |key: &str| {
        let (text, place) = last_text(files, &["crio", "runtime"], key)?;
        (!text.is_empty()).then_some(place)
    };
    let both = ["uid_mappings", "gid_mappings"].map(set);
    let (place, message) = match both {
        [None, None] => return None,
        [Some(place), None] => (place, "uid_mappings without gid_mappings: CRI-O uses neither".to_owned()),
        [None, Some(place)] => (place, "gid_mappings without uid_mappings: CRI-O uses neither".to_owned()),
        [Some(place), Some(_)] if version.at_least(33) => (
            place,
            "uid_mappings and gid_mappings have no effect from Kubernetes 1.33 on, whose kubelet decides for each pod \
             whether it has a user namespace"
                .to_owned(),
        ),
        [Some(place), Some(_)] => (
            place,
            "uid_mappings and gid_mappings give all pods of the node the same IDs: no pod is kept from the files and \
             processes of another"
                .to_owned(),
        ),
    };
    let remedy = "remove them, and use hostUsers: false for the pods";
    Some(Complaint::warning(FindingId::CrioNodeMappings, place, message).remedy(remedy))
}

/// Values of single keys that CRI-O refuses at its start. Files in other places (seccomp profiles, certificates) are
/// judged only as far as `programs` can find them.
pub(super) fn values(
    version: CrioVersion,
    files: &[ConfFile],
    programs: Programs<'_>,
    found: &mut Vec<Complaint>,
) {
    const LEVELS: [&str; 8] = ["trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"];
    let runtime = ["crio", "runtime"];
    let text = |table: &[&str], key: &str| last_text(files, table, key);
    let mut fatal = |place: &str, message: String, remedy: &str| {
        found.push(Complaint::error(FindingId::CrioSetting, place, message).remedy(remedy));
    };
    if let Some((name, place)) = text(&runtime, "cgroup_manager")
        && !matches!(name, "systemd" | "cgroupfs")
    {
        let message =
            format!("{VALIDATING}: unable to update cgroup manager: invalid cgroup manager: {name}");
        fatal(place, message, "write cgroup_manager = \"systemd\" (or \"cgroupfs\")");
    }
    if let Some((level, place)) = text(&runtime, "log_level")
        && !LEVELS.contains(&level.to_ascii_lowercase().as_str())
    {
        let message = format!("log_level: not a valid logrus Level: {level:?}");
        fatal(place, message, "write fatal, error, warn, info, debug or trace");
    }
    if let Some((Value::List(limits), place)) = last(files, &runtime, "default_ulimits") {
        for limit in limits {
            if let Value::Text(limit) = limit
                && !is_ulimit(limit)
            {
                let message = format!("{VALIDATING}: unrecognized ulimit {limit}");
                fatal(place, message, "write NAME=SOFT:HARD, for example nofile=1024:2048");
            }
        }
    }
    if let Some((Value::Integer(size), place)) = last(files, &runtime, "log_size_max")
        && (0..8192).contains(size)
    {
        let message = format!("{VALIDATING}: log size max should be negative or >= 8192");
        fatal(place, message, "write a larger number, or -1");
    }
    let is_missing = |path: &str| path.starts_with('/') && programs(path) == Some(false);
    if let Some((path, place)) = text(&runtime, "pinns_path")
        && is_missing(path)
    {
        let why = format!("stat {path}: no such file or directory");
        let message = format!("{VALIDATING}: pinns validation: invalid pinns path: {why}");
        fatal(place, message, "install that program, or remove pinns_path");
    }
    if let Some((path, place)) = text(&runtime, "seccomp_profile")
        && is_missing(path)
        && !version.at_least(SECCOMP_FALLBACK)
    {
        let why = format!("open {path}: no such file or directory");
        let message = format!("{VALIDATING}: unable to load seccomp profile: {why}");
        fatal(place, message, "put the profile there, or remove seccomp_profile");
    }
    if let Some((kind, place)) = text(&["crio", "image"], "image_volumes")
        && !matches!(kind, "mkdir" | "ignore" | "bind")
    {
        let message = "unrecognized image volume type specified".to_owned();
        fatal(place, message, "write image_volumes = \"mkdir\", \"bind\" or \"ignore\"");
    }
}

/// The first minor version that starts without its seccomp profile, with the internal one.
const SECCOMP_FALLBACK: u16 = 34;

/// Whether it is a limit as in `docker run --ulimit` (`github.com/docker/go-units`, `ParseUlimit`).
fn is_ulimit(text: &str) -> bool {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let Some((name, limits)) = text.split_once('=') else { return false };
    let numbers: Option<Vec<i64>> = limits.split(':').map(|number| number.parse().ok()).collect();
    NAMES.contains(&name)
        && match numbers.as_deref() {
            Some([_]) => true,
            Some([soft, hard]) => *hard == -1 || (*soft != -1 && soft <= hard),
            _ => false,
        }
}

pub(super) fn sysctls(version: CrioVersion, effective: &Effective, found: &mut Vec<Complaint>) {
    const NAMESPACED: [&str; 4] = ["kernel.shm", "kernel.msg", "fs.mqueue.", "net."];
    let place = || place(effective.default_sysctls.file.as_ref());
    for sysctl in effective.default_sysctls.value.iter().filter(|sysctl| !sysctl.is_empty()) {
        let fatal = |why: String| {
            let message = format!("{VALIDATING}: invalid default_sysctls: {why}");
            Complaint::error(FindingId::CrioSysctl, place(), message).remedy("write key=value")
        };
        let Some((key, value)) = sysctl.split_once('=') else {
            found.push(fatal(format!("{sysctl:?} is not in key=value format")));
            continue;
        };
        if version.at_least(23) && (key.trim() != key || value.trim() != value) {
            let why = "is invalid, extra spaces found: format should be key=value";
            found.push(fatal(format!("'{sysctl}' {why}")));
        } else if key != "kernel.sem" && !NAMESPACED.iter().any(|prefix| key.starts_with(prefix)) {
            let message = format!("{key} not whitelisted: CRI-O skips it for every pod");
            found.push(
                Complaint::warning(FindingId::CrioSysctl, place(), message).remedy("set it on the node"),
            );
        }
    }
}
