//! Finds settings that CRI-O would refuse or ignore in its configuration files, with its own messages.
//!
//! `crio config` finds only half of them: it validates neither the handlers' annotations nor paths, conmon or
//! hooks (observed on 1.36.3). Order and messages are those of `pkg/config` in 1.36.3; older versions word
//! some messages differently, with the same meaning.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::CrioVersion;
use super::annotation::is_known;
use super::complaint::Complaint;
use super::config::{ConfFile, Content, DROP_IN_DIR, Effective, Entry, wrong_types};
use crate::finding::FindingId;
use crate::toml::{Table, Value, get, table_at};

/// Whether a program exists, given as a path or as a name to look up in `$PATH`; `None` if that was not checked.
pub type Programs<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// The [`Programs`] for callers that cannot check.
#[must_use]
pub fn unseen(_: &str) -> Option<bool> {
    None
}

/// Everything that is wrong with these files, which are in the order in which CRI-O reads them. An error keeps CRI-O
/// from starting.
#[must_use]
pub fn check(version: CrioVersion, files: &[ConfFile], programs: Programs<'_>) -> Vec<Complaint> {
    let mut found = Vec::new();
    for file in files {
        readable(version, file, &mut found);
    }
    replaced(files, &mut found);
    let effective = Effective::of(version, files);
    values(version, files, programs, &mut found);
    default_runtime(&effective, &mut found);
    sysctls(version, &effective, &mut found);
    workloads(version, &effective, &mut found);
    let ignored = handlers(version, &effective, programs, &mut found);
    monitors(version, &effective, &ignored, programs, &mut found);
    monitor_cgroups(version, files, &effective, &ignored, &mut found);
    allowed_twice(version, &effective, &mut found);
    found.extend(mappings(version, files));
    found
}

/// Mappings for the whole node (`uid_mappings`, `gid_mappings`), which are deprecated: CRI-O uses them only
/// if both are set, and for every pod whose user namespace the kubelet does not specify
/// (`server.getIDMappings`).
fn mappings(version: CrioVersion, files: &[ConfFile]) -> Option<Complaint> {
    let set = |key: &str| {
        files.iter().rev().find_map(|file| {
            let Content::Toml(table) = &file.content else { return None };
            match get(table_at(table, &["crio", "runtime"])?, key) {
                Some(Value::Text(text)) => Some((!text.is_empty()).then(|| file.path.clone())),
                _ => None,
            }
        })
    };
    let both = ["uid_mappings", "gid_mappings"].map(|key| set(key).flatten());
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

/// The configuration of containers/storage, which podman and buildah read (containers-storage.conf(5)).
pub const STORAGE_CONF: &str = "/etc/containers/storage.conf";

/// Settings about user namespaces in [`STORAGE_CONF`], which CRI-O does not pass on: it looks up the user `containers`
/// in every version (`RootConfig.GetStore`; observed on 1.36.3).
#[must_use]
pub fn storage_conf(file: &ConfFile) -> Option<Complaint> {
    const IGNORED: [&str; 4] =
        ["root-auto-userns-user", "auto-userns-min-size", "auto-userns-max-size", "remap-user"];
    let Content::Toml(table) = &file.content else { return None };
    let options = table_at(table, &["storage", "options"])?;
    let set: Vec<&str> = IGNORED.into_iter().filter(|key| get(options, key).is_some()).collect();
    let message =
        format!("CRI-O ignores {}: it always takes IDs from the range of containers", set.join(", "));
    let complaint = Complaint::note(FindingId::CrioStorageConf, &file.path, message);
    (!set.is_empty()).then(|| complaint.remedy("other engines read it; for CRI-O nothing has to be done"))
}

const VALIDATING: &str = "validating runtime config";

fn place(file: Option<&String>) -> String {
    file.map_or_else(|| "CRI-O's built-in configuration".to_owned(), Clone::clone)
}

/// Whether the file can be read and decoded, and is there on purpose.
fn readable(version: CrioVersion, file: &ConfFile, found: &mut Vec<Complaint>) {
    const STEP: &str = "get and merge config from context: update config from path: walk path";
    let drop_in = file.path.strip_prefix(DROP_IN_DIR).is_some_and(|rest| rest.starts_with('/'));
    let remedy = "CRI-O reads every file in that directory: move it elsewhere";
    let path = &file.path;
    match &file.content {
        Content::Unreadable(why) => {
            found.push(
                Complaint::error(FindingId::CrioUnreadable, path, format!("{STEP}: {why}")).remedy(remedy),
            );
            return;
        }
        Content::NotToml(why) => {
            let message = format!("{STEP}: unable to decode configuration {path}: toml: {why}");
            found.push(
                Complaint::error(FindingId::CrioUndecodable, path, message).remedy("repair or remove it"),
            );
            return;
        }
        Content::Toml(table) => {
            for wrong in wrong_types(version, table) {
                let message = format!("{STEP}: unable to decode configuration {path}: toml: {wrong}");
                found.push(
                    Complaint::error(FindingId::CrioUndecodable, path, message).remedy("repair or remove it"),
                );
            }
        }
    }
    if drop_in && file.link {
        let message = "is a symbolic link; once it dangles, or leads to a directory, CRI-O does not start";
        found.push(
            Complaint::warning(FindingId::CrioStrayFile, path, message).remedy("put a file in its place"),
        );
    }
    // CRI-O reads every file of the directory, and its users write files with any extension or none (00-default,
    // 99-userns, 10-userns.toml). Only copies that package managers and editors leave are not there on purpose.
    if drop_in && is_leftover(path.rsplit('/').next().unwrap_or_default()) {
        let message = "is a copy that a package manager or an editor has left, and counts all the same";
        found.push(Complaint::warning(FindingId::CrioStrayFile, path, message).remedy(remedy));
    }
}

/// Whether a package manager, an editor or a cautious administrator leaves files of this name next to the real ones.
fn is_leftover(name: &str) -> bool {
    const ENDS: [&str; 10] =
        [".bak", ".backup", ".old", ".orig", ".save", ".rpmsave", ".rpmnew", ".rpmorig", ".swp", ".tmp"];
    let lower = name.to_ascii_lowercase();
    lower.starts_with(['.', '#'])
        || lower.ends_with(['~', '#'])
        || lower.contains(".dpkg-")
        || ENDS.iter().any(|end| lower.ends_with(end))
}

/// Settings that a handler or workload loses because a later file replaces its whole table.
fn replaced(files: &[ConfFile], found: &mut Vec<Complaint>) {
    let tables = |file: &ConfFile, kind: &str| -> Table {
        let Content::Toml(table) = &file.content else { return Table::new() };
        table_at(table, &["crio", "runtime", kind]).cloned().unwrap_or_default()
    };
    for kind in ["runtimes", "workloads"] {
        for (index, later) in files.iter().enumerate() {
            for (name, new) in tables(later, kind) {
                let before = files.get(..index).unwrap_or_default();
                let earlier = before
                    .iter()
                    .rev()
                    .find_map(|file| tables(file, kind).remove(&name).map(|old| (file.path.clone(), old)));
                let Some((path, Value::Table(old))) = earlier else { continue };
                let Value::Table(new) = new else { continue };
                let lost: Vec<&str> =
                    old.keys().filter(|key| get(&new, key).is_none()).map(String::as_str).collect();
                if !lost.is_empty() {
                    let message = format!(
                        "replaces the whole table [crio.runtime.{kind}.{name}] of {path} and loses: {}",
                        lost.join(", ")
                    );
                    let remedy = "copy those keys, or allow annotations through a workload of another name";
                    found.push(
                        Complaint::warning(FindingId::CrioTableReplaced, &later.path, message).remedy(remedy),
                    );
                }
            }
        }
    }
}

fn default_runtime(effective: &Effective, found: &mut Vec<Complaint>) {
    if effective.default_handler().is_none() {
        let name = &effective.default_runtime.value;
        let message = format!(
            "{VALIDATING}: default_runtime set to {name:?}, but no runtime entry table \
             [crio.runtime.runtimes.{name}] was found"
        );
        let place = place(effective.default_runtime.file.as_ref());
        found.push(
            Complaint::error(FindingId::CrioNoDefaultRuntime, place, message).remedy("define that handler"),
        );
    }
}

/// The last value of a key that a file sets, with that file.
fn last<'a>(files: &'a [ConfFile], table: &[&str], key: &str) -> Option<(&'a Value, &'a str)> {
    files.iter().rev().find_map(|file| {
        let Content::Toml(root) = &file.content else { return None };
        Some((get(table_at(root, table)?, key)?, file.path.as_str()))
    })
}

/// Values of single keys that CRI-O refuses at its start. Files in other places (seccomp profiles, certificates) are
/// judged only as far as `programs` can find them.
fn values(version: CrioVersion, files: &[ConfFile], programs: Programs<'_>, found: &mut Vec<Complaint>) {
    const LEVELS: [&str; 8] = ["trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"];
    let runtime = ["crio", "runtime"];
    let text = |table: &[&str], key: &str| match last(files, table, key) {
        Some((Value::Text(text), place)) => Some((text.as_str(), place)),
        _ => None,
    };
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

fn sysctls(version: CrioVersion, effective: &Effective, found: &mut Vec<Complaint>) {
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

/// The first annotation of a list that CRI-O refuses.
fn refused_annotation(version: CrioVersion, allowed: &[String]) -> Option<String> {
    let mut seen = BTreeSet::new();
    let refused = |name: &&String| {
        !is_known(version, name)
            || (version.at_least(21) && !version.tolerates_allowing_twice() && !seen.insert((*name).clone()))
    };
    allowed.iter().find(refused).map(|name| format!("invalid allowed_annotation: {name}"))
}

fn workloads(version: CrioVersion, effective: &Effective, found: &mut Vec<Complaint>) {
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
pub(super) fn same_set(one: &[String], other: &[String]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
}

/// Returns the handlers that CRI-O ignores.
fn handlers(
    version: CrioVersion,
    effective: &Effective,
    programs: Programs<'_>,
    found: &mut Vec<Complaint>,
) -> BTreeSet<String> {
    let mut ignored = BTreeSet::new();
    let default = &effective.default_runtime.value;
    for (name, handler) in &effective.handlers {
        let Some(why) = handler_mistake(version, effective, name, handler, programs) else { continue };
        let place = place(handler.file.as_ref());
        // 1.20 tolerates no broken handler.
        if name == default || !version.at_least(21) {
            let message = format!("{VALIDATING}: runtime validation: {why}");
            let complaint = Complaint::error(FindingId::CrioHandler, place, message);
            let lacks_program = missing_program(version, effective, name, handler, programs).is_some();
            found.push(if name == default && lacks_program {
                at_default_runtime(version, effective, programs, complaint)
            } else {
                complaint
            });
        } else {
            ignored.insert(name.clone());
            let message = format!("Runtime handler {name:?} is being ignored due to: {why}");
            found.push(Complaint::warning(FindingId::CrioHandlerIgnored, place, message));
        }
    }
    ignored
}

/// The complaint about the default handler's program, at the line that makes it the default: the handler itself is
/// often one of CRI-O's own, and complete.
fn at_default_runtime(
    version: CrioVersion,
    effective: &Effective,
    programs: Programs<'_>,
    complaint: Complaint,
) -> Complaint {
    let is_complete = |(name, handler): &(&String, &Entry)| {
        programs(match handler.text("runtime_path") {
            "" => name.as_str(),
            path => path,
        }) == Some(true)
            && handler_mistake(version, effective, name, handler, programs).is_none()
    };
    let others: Vec<&str> =
        effective.handlers.iter().filter(is_complete).map(|(name, _)| name.as_str()).collect();
    let remedy = if others.is_empty() {
        "install that program, or set the handler's runtime_path".to_owned()
    } else {
        format!(
            "set default_runtime to a handler whose program is installed ({}), or install that one; on OpenShift \
             delete the MachineConfig or ContainerRuntimeConfig that sets it",
            others.join(", ")
        )
    };
    let place = effective.default_runtime.file.clone().unwrap_or_else(|| complaint.place.clone());
    Complaint { place, ..complaint }.remedy(remedy)
}

/// The handler whose settings count for this one, and its name.
fn source<'a>(
    version: CrioVersion,
    effective: &'a Effective,
    name: &'a str,
    handler: &'a Entry,
) -> (&'a Entry, &'a str) {
    let inherits = handler.is_set("inherit_default_runtime") && version.has(&[(31, 3), (32, 0)]);
    match effective.default_handler() {
        Some(default) if inherits => (default, effective.default_runtime.value.as_str()),
        _ => (handler, name),
    }
}

/// Why CRI-O would not find the handler's program, in its words.
fn missing_program(
    version: CrioVersion,
    effective: &Effective,
    name: &str,
    handler: &Entry,
    programs: Programs<'_>,
) -> Option<String> {
    let (source, program) = source(version, effective, name, handler);
    match source.text("runtime_path") {
        "" if programs(program) == Some(false) => {
            let lookup = format!("exec: {program:?}: executable file not found in $PATH");
            Some(format!("{program:?} not found in $PATH: {lookup}"))
        }
        path if !path.is_empty() && programs(path) == Some(false) => {
            Some(format!("invalid runtime_path for runtime '{name}': stat {path}: no such file or directory"))
        }
        _ => None,
    }
}

fn handler_mistake(
    version: CrioVersion,
    effective: &Effective,
    name: &str,
    handler: &Entry,
    programs: Programs<'_>,
) -> Option<String> {
    let (source, _) = source(version, effective, name, handler);
    let kind = source.text("runtime_type");
    let pod = kind == "pod" && version.at_least(31);
    if !matches!(kind, "" | "oci" | "vm") && !pod {
        return Some(format!("invalid `runtime_type` {kind:?} for runtime {name:?}"));
    }
    if let Some(why) = missing_program(version, effective, name, handler, programs) {
        return Some(why);
    }
    if !source.text("runtime_config_path").is_empty() && kind != "vm" && version.at_least(22) {
        return Some("runtime_config_path can only be used with the 'vm' runtime type".to_owned());
    }
    refused_annotation(version, &handler.allowed())
}

fn monitors(
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
fn monitor_cgroups(
    version: CrioVersion,
    files: &[ConfFile],
    effective: &Effective,
    ignored: &BTreeSet<String>,
    found: &mut Vec<Complaint>,
) {
    const POD: &str = "pod";
    const DEFAULT: &str = "system.slice";
    let is_systemd = effective.cgroup_manager.value != "cgroupfs";
    let everyones = match last(files, &["crio", "runtime"], "conmon_cgroup") {
        Some((Value::Text(cgroup), place)) => Some((cgroup.as_str(), place)),
        _ => None,
    };
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

/// A handler and a workload that allow the same annotation: an error for every pod that has both.
fn allowed_twice(version: CrioVersion, effective: &Effective, found: &mut Vec<Complaint>) {
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
