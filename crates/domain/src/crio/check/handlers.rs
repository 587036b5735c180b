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

/// A handler, with everything on which CRI-O's judgement of it depends.
#[derive(Clone, Copy)]
struct Handler<'a> {
    version: CrioVersion,
    effective: &'a Effective,
    name: &'a str,
    entry: &'a Entry,
    programs: Programs<'a>,
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
    for (name, entry) in &effective.handlers {
        let handler = Handler { version, effective, name, entry, programs };
        let Some(why) = handler.mistake() else { continue };
        let place = place(entry.file.as_ref());
        // 1.20 tolerates no broken handler.
        if name == default || !version.at_least(21) {
            let message = format!("{VALIDATING}: runtime validation: {why}");
            let complaint = Complaint::error(FindingId::CrioHandler, place, message);
            found.push(if name == default && handler.missing_program().is_some() {
                handler.at_default_runtime(complaint)
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

// === impl Handler ===

impl<'a> Handler<'a> {
    /// The complaint about the default handler's program, at the line that makes it the default: the handler itself is
    /// often one of CRI-O's own, and complete.
    fn at_default_runtime(&self, complaint: Complaint) -> Complaint {
        let is_complete = |(name, entry): &(&String, &Entry)| {
            (self.programs)(match entry.text("runtime_path") {
                "" => name.as_str(),
                path => path,
            }) == Some(true)
                && Handler { name, entry, ..*self }.mistake().is_none()
        };
        let others: Vec<&str> =
            self.effective.handlers.iter().filter(is_complete).map(|(name, _)| name.as_str()).collect();
        let remedy = if others.is_empty() {
            "install that program, or set the handler's runtime_path".to_owned()
        } else {
            format!(
                "set default_runtime to a handler whose program is installed ({}), or install that one; on OpenShift \
                 delete the MachineConfig or ContainerRuntimeConfig that sets it",
                others.join(", ")
            )
        };
        let place = self.effective.default_runtime.file.clone().unwrap_or_else(|| complaint.place.clone());
        Complaint { place, ..complaint }.remedy(remedy)
    }

    /// The handler whose settings count for this one, and its name.
    fn source(&self) -> (&'a Entry, &'a str) {
        let inherits = self.entry.is_set("inherit_default_runtime") && self.version.has(&[(31, 3), (32, 0)]);
        match self.effective.default_handler() {
            Some(default) if inherits => (default, self.effective.default_runtime.value.as_str()),
            _ => (self.entry, self.name),
        }
    }

    /// The reason why CRI-O would not find the handler's program, in CRI-O's words.
    fn missing_program(&self) -> Option<String> {
        let (source, program) = self.source();
        match source.text("runtime_path") {
            "" if (self.programs)(program) == Some(false) => {
                let lookup = format!("exec: {program:?}: executable file not found in $PATH");
                Some(format!("{program:?} not found in $PATH: {lookup}"))
            }
            path if !path.is_empty() && (self.programs)(path) == Some(false) => {
                let name = self.name;
                Some(format!(
                    "invalid runtime_path for runtime '{name}': stat {path}: no such file or directory"
                ))
            }
            _ => None,
        }
    }

    /// The reason why CRI-O refuses the handler, in CRI-O's words.
    fn mistake(&self) -> Option<String> {
        let (source, _) = self.source();
        let kind = source.text("runtime_type");
        let pod = kind == "pod" && self.version.at_least(31);
        if !matches!(kind, "" | "oci" | "vm") && !pod {
            return Some(format!("invalid `runtime_type` {kind:?} for runtime {:?}", self.name));
        }
        if let Some(why) = self.missing_program() {
            return Some(why);
        }
        if !source.text("runtime_config_path").is_empty() && kind != "vm" && self.version.at_least(22) {
            return Some("runtime_config_path can only be used with the 'vm' runtime type".to_owned());
        }
        refused_annotation(self.version, &self.entry.allowed())
    }
}
