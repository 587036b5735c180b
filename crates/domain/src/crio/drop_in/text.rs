//! The drop-in's text, and its tables as CRI-O decodes them.

use std::fmt::Write as _;

use super::PATH;
use crate::crio::annotation::{CGROUP, USERNS_MODE};
use crate::crio::config::{Effective, VALIDATOR_KEYS};
use crate::toml::{Table, Value, key, line};

/// A table of the file: its path of keys, a comment with the reason, its keys.
pub(super) struct Section {
    pub(super) path: Vec<String>,
    pub(super) why: &'static str,
    pub(super) keys: Vec<(String, Value)>,
}

/// The sections as CRI-O decodes them.
pub(super) fn table(sections: &[Section]) -> Table {
    let mut root = Table::new();
    for section in sections {
        let keys: Table = section.keys.iter().cloned().collect();
        let nested =
            section.path.iter().rev().fold(keys, |inner, name| [(name.clone(), Value::Table(inner))].into());
        merge(&mut root, "crio", Value::Table(nested));
    }
    root
}

fn merge(table: &mut Table, name: &str, value: Value) {
    match (table.get_mut(name), value) {
        (Some(Value::Table(old)), Value::Table(new)) => {
            for (name, value) in new {
                merge(old, &name, value);
            }
        }
        (_, value) => drop(table.insert(name.to_owned(), value)),
    }
}

pub(super) fn render(sections: &[Section]) -> String {
    let mut text = "# Written by usernsd; changes made here are lost.\n\
                    # CRI-O reads it when it starts, not on reload.\n"
        .to_owned();
    if has_new_names(sections) {
        text.push_str("# CRI-O 1.34 and older do not start with it: take it away before a downgrade.\n");
    }
    for section in sections {
        let path: Vec<String> = section.path.iter().map(|name| key(name)).collect();
        text.push('\n');
        if !section.why.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# {}", section.why);
        }
        let _ = writeln!(text, "[crio.{}]", path.join("."));
        for (name, value) in &section.keys {
            text.push_str(&line(name, value));
        }
    }
    text
}

/// Whether the sections use annotation names that only CRI-O 1.35 and later support.
pub(super) fn has_new_names(sections: &[Section]) -> bool {
    let is_new = |value: &Value| match value {
        Value::Text(text) => [CGROUP[1], USERNS_MODE[1]].contains(&text.as_str()),
        _ => false,
    };
    sections.iter().flat_map(|section| &section.keys).any(|(_, value)| {
        is_new(value) || value.texts().unwrap_or_default().into_iter().any(|text| is_new(&Value::Text(text)))
    })
}

/// The keys and tables of these sections that another file overrides, and that file.
pub(super) fn overridden(effective: &Effective, sections: &[Section]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for section in sections {
        if let [_, kind, name] = section.path.as_slice() {
            let entries = if kind == "runtimes" { &effective.handlers } else { &effective.workloads };
            found.push((section.path.join("."), entries.get(name).and_then(|entry| entry.file.clone())));
            continue;
        }
        for (key, _) in &section.keys {
            let file = match key.as_str() {
                "enable_pod_events" => &effective.pod_events.file,
                "enable_nri" => &effective.nri.file,
                "hooks_dir" => &effective.hooks_dirs.file,
                key if key == VALIDATOR_KEYS.enabled || key.starts_with("nri_validator_") => {
                    &effective.validator.file
                }
                _ => &effective.default_sysctls.file,
            };
            found.push((key.clone(), file.clone()));
        }
    }
    let other = |(what, file): (String, Option<String>)| Some((what, file.filter(|file| file != PATH)?));
    found.into_iter().filter_map(other).collect()
}
