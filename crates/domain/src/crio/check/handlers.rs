//! Runtime handlers: which of them CRI-O ignores, and which keep it from starting.

use std::collections::BTreeSet;

use super::workloads::refused_annotation;
use super::{Programs, VALIDATING, place};
use crate::crio::CrioVersion;
use crate::crio::complaint::Complaint;
use crate::crio::config::{Effective, Entry};
use crate::finding::FindingId;

pub(super) fn default_runtime(effective: &Effective, found: &mut Vec<Complaint>) {
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

/// Returns the handlers that CRI-O ignores.
pub(super) fn handlers(
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
