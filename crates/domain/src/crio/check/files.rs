//! Mistakes in the files themselves: what cannot be read, what is there by accident, what a later file replaces.

use crate::crio::CrioVersion;
use crate::crio::complaint::Complaint;
use crate::crio::config::{ConfFile, Content, DROP_IN_DIR, wrong_types};
use crate::finding::FindingId;
use crate::toml::{Table, Value, get, table_at};

/// Whether the file can be read and decoded, and is there on purpose.
pub(super) fn readable(version: CrioVersion, file: &ConfFile, found: &mut Vec<Complaint>) {
    const STEP: &str = "get and merge config from context: update config from path: walk path";
    let drop_in = file.path.strip_prefix(DROP_IN_DIR).is_some_and(|rest| rest.starts_with('/'));
    let remedy = match drop_in {
        true => "CRI-O reads every file in that directory: move it elsewhere",
        false => "put a file in its place that can be read",
    };
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
    let name = path.rsplit('/').next().unwrap_or_default();
    if drop_in && is_leftover(name) {
        let message = if is_switched_off(name) {
            "has a name as if it were switched off, and counts all the same"
        } else {
            "is a copy that a package manager or an editor has left, and counts all the same"
        };
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
        || is_switched_off(name)
}

/// Whether someone who renames a file in this way means that it is not to be read.
fn is_switched_off(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".disabled") || lower.ends_with(".off")
}

/// Settings that a handler or workload loses because a later file replaces its whole table.
pub(super) fn replaced(files: &[ConfFile], found: &mut Vec<Complaint>) {
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
