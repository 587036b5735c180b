//! Finds settings that CRI-O would refuse or ignore in its configuration files, with its own messages.
//!
//! `crio config` finds only half of them: it validates neither the handlers' annotations nor paths, conmon or
//! hooks (observed on 1.36.3). Order and messages are those of `pkg/config` in 1.36.3; older versions word
//! some messages differently, with the same meaning.

mod files;
mod handlers;
mod monitors;
mod settings;
#[cfg(test)]
mod tests;
mod workloads;

use super::CrioVersion;
use super::complaint::Complaint;
use super::config::{ConfFile, Content, Effective};
use crate::finding::FindingId;
use crate::toml::{Value, get, table_at};

/// Whether a program exists, given as a path or as a name to look up in `$PATH`; `None` if that was not checked.
pub type Programs<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// The [`Programs`] for callers that cannot check.
#[must_use]
pub fn unchecked(_: &str) -> Option<bool> {
    None
}

/// Everything that is wrong with these files, which are in the order in which CRI-O reads them. An error keeps CRI-O
/// from starting.
#[must_use]
pub fn check(version: CrioVersion, files: &[ConfFile], programs: Programs<'_>) -> Vec<Complaint> {
    let mut found = Vec::new();
    for file in files {
        files::readable(version, file, &mut found);
    }
    files::replaced(files, &mut found);
    let effective = Effective::of(version, files);
    settings::values(version, files, programs, &mut found);
    handlers::default_runtime(&effective, &mut found);
    settings::sysctls(version, &effective, &mut found);
    workloads::workloads(version, &effective, &mut found);
    let ignored = handlers::handlers(version, &effective, programs, &mut found);
    monitors::monitors(version, &effective, &ignored, programs, &mut found);
    monitors::cgroups(version, files, &effective, &ignored, &mut found);
    workloads::allowed_twice(version, &effective, &mut found);
    found.extend(settings::mappings(version, files));
    found
}

/// The configuration of containers/storage, which podman and buildah read (containers-storage.conf(5)).
pub const STORAGE_CONF: &str = "/etc/containers/storage.conf";

/// Settings about user namespaces in [`STORAGE_CONF`], which CRI-O does not pass on: it looks up the user `containers`
/// in every version (`RootConfig.GetStore`; observed on 1.36.3).
#[must_use]
pub fn storage_conf(file: &ConfFile) -> Option<Complaint> {
    const IGNORED: [&str; 7] = [
        "root-auto-userns-user",
        "auto-userns-min-size",
        "auto-userns-max-size",
        "remap-user",
        "remap-group",
        "remap-uids",
        "remap-gids",
    ];
    let Content::Toml(table) = &file.content else { return None };
    let options = table_at(table, &["storage", "options"])?;
    let set: Vec<&str> = IGNORED.into_iter().filter(|key| get(options, key).is_some()).collect();
    let message =
        format!("CRI-O ignores {}: it always takes IDs from the range of containers", set.join(", "));
    let complaint = Complaint::note(FindingId::CrioStorageConf, &file.path, message);
    (!set.is_empty()).then(|| complaint.remedy("other engines read it; for CRI-O nothing has to be done"))
}

/// The beginning of CRI-O's messages about values.
const VALIDATING: &str = "validating runtime config";

/// The file that sets something, for a complaint.
fn place(file: Option<&String>) -> String {
    file.map_or_else(|| "CRI-O's built-in configuration".to_owned(), Clone::clone)
}

/// The last value of a key that a file sets, with that file.
fn last<'a>(files: &'a [ConfFile], table: &[&str], key: &str) -> Option<(&'a Value, &'a str)> {
    files.iter().rev().find_map(|file| {
        let Content::Toml(root) = &file.content else { return None };
        Some((get(table_at(root, table)?, key)?, file.path.as_str()))
    })
}

/// Like [`last`]; `None` also if that value is not a string.
fn last_text<'a>(files: &'a [ConfFile], table: &[&str], key: &str) -> Option<(&'a str, &'a str)> {
    match last(files, table, key)? {
        (Value::Text(text), place) => Some((text, place)),
        _ => None,
    }
}
