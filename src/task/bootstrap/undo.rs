//! Takes back what was applied, the last run first, and what others have written since stays.

use super::ids::Sandboxes;
use super::{
    BootstrapError, JOURNAL, Part, content, ids, journal, lock, refuse_managed, release_dead, write_all,
};
use crate::domain::idplan::{ACCOUNT_FILES, Wish};
use crate::domain::nri_plugin::is_file_name;
use crate::domain::provision::{FileChange, Form, HostPath, Undo, differing_lines, take_back};
use crate::domain::written::staging;
use crate::edge::host::HostRoot;
use crate::edge::journal::{Journal, Written};

/// Plans what `--undo` would do, and writes nothing.
///
/// # Errors
/// See [`BootstrapError`].
pub fn plan_undo(root: &HostRoot, wish: &Wish, sandboxes: Sandboxes<'_>) -> Result<Part, BootstrapError> {
    let journal = journal(root)?;
    let changes = changes(root, &journal)?;
    refuse_managed(root, &changes)?;
    let findings = ids::check_undo(root, wish, sandboxes, &changes, &first(&journal))?;
    Ok(Part { changes, findings, ..Part::default() })
}

/// Takes everything back. `say` hears of each change when it is done.
///
/// # Errors
/// See [`BootstrapError`].
pub fn undo(
    root: &HostRoot,
    wish: &Wish,
    sandboxes: Sandboxes<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Part, BootstrapError> {
    let first = plan_undo(root, wish, sandboxes)?;
    let journal = journal(root)?;
    if first.changes.is_empty() {
        release_dead(root)?;
    }
    if journal.runs.is_empty() {
        return Ok(first);
    }
    let _locks = lock(root, &first.changes)?;
    let part = plan_undo(root, wish, sandboxes)?;
    if let Some(change) = part.changes.iter().find(|change| !first.changes.contains(change)) {
        return Err(BootstrapError::Raced { path: root.shown(&change.path) });
    }
    write_all(root, &part.changes, &mut |change| say(&format!("{}: taken back", change.path)))?;
    for path in journal.runs.iter().rev().flat_map(|run| run.made.iter().rev()) {
        if let Ok(path) = HostPath::parse(path) {
            root.remove_dir(&path)?;
        }
    }
    root.remove(&JOURNAL)?;
    Ok(part)
}

/// What files were before the first run that wrote them, where the journal has all of them.
fn first(journal: &Journal) -> Vec<(HostPath, Option<Vec<u8>>)> {
    let mut first: Vec<(HostPath, Option<Vec<u8>>)> = Vec::new();
    for written in journal.runs.iter().flat_map(|run| &run.files).filter(|written| !written.only_lines) {
        if let Ok(path) = written.path()
            && !first.iter().any(|(known, _)| *known == path)
        {
            first.push((path, written.old().map(<[u8]>::to_vec)));
        }
    }
    first
}

/// One change for each file that is not what it was, in the order opposite to that of writing.
fn changes(root: &HostRoot, journal: &Journal) -> Result<Vec<FileChange>, BootstrapError> {
    let mut changes: Vec<FileChange> = Vec::new();
    for written in journal.runs.iter().rev().flat_map(|run| run.files.iter().rev()) {
        let path = written.path().map_err(|error| BootstrapError::Journal {
            path: root.shown(&JOURNAL),
            what: error.to_string(),
        })?;
        let known = changes.iter().position(|change| change.path == path).map(|index| changes.remove(index));
        let current = match &known {
            Some(change) => change.new.clone(),
            None => content(root, &path, written.form())?,
        };
        let new = former(written, current.as_deref())
            .map_err(|why| BootstrapError::Conflict { path: root.shown(&path), why })?;
        // What several runs wrote has the place that the first of them gave it: a kubelet's lines go
        // after its user, a hook's program after what names it.
        changes.push(match known {
            Some(change) => FileChange { new, attributes: written.attributes(), ..change },
            None => FileChange {
                mode_was: mode(root, &path, written)?,
                form: written.form(),
                old: current,
                new,
                attributes: written.attributes(),
                staging: staging(&path),
                undo: written.undo(),
                reasons: Vec::new(),
                path,
            },
        });
    }
    changes.retain(FileChange::is_needed);
    // A runtime's drop-in may be older than the plugin that it requires by now: it is told otherwise first.
    changes.sort_by_key(|change| is_of_plugin(change.path.name()));
    Ok(changes)
}

/// Whether a file is the launched plugin, or its configuration.
fn is_of_plugin(name: &str) -> bool {
    is_file_name(name.strip_suffix(".conf").unwrap_or(name))
}

/// The mode of a file that is to get its former one back: it was changed, and is as it was written.
fn mode(root: &HostRoot, path: &HostPath, written: &Written) -> Result<Option<u32>, BootstrapError> {
    let Some(new) = written.new_mode() else { return Ok(None) };
    Ok(root.attributes(path)?.map(|attributes| attributes.mode).filter(|mode| *mode == new))
}

/// What a file was before it was written, given what it is now.
fn former(written: &Written, current: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
    let (old, new) = (written.old(), written.new_bytes());
    if !written.only_lines && current == new {
        return Ok(old.map(<[u8]>::to_vec));
    }
    // Journaled, and never done; or taken back already.
    if !written.only_lines && current == old {
        return Ok(current.map(<[u8]>::to_vec));
    }
    // Someone has set it otherwise since, or it was set otherwise at boot.
    if written.form() == Form::Live {
        return Ok(current.map(<[u8]>::to_vec));
    }
    match (written.undo(), current) {
        (Undo::Whole, _) => Err("it was changed since".to_owned()),
        (Undo::Lines, None) => Err("it was removed since".to_owned()),
        (Undo::Lines, Some(current)) => {
            let (old_bytes, new_bytes) = (old.unwrap_or_default(), new.unwrap_or_default());
            if ACCOUNT_FILES.iter().any(|(_, file)| written.path().is_ok_and(|path| path == *file))
                && let Some(name) = edited_account(old_bytes, new_bytes, current)
            {
                return Err(format!("the line of {name} was changed since"));
            }
            let bytes = take_back(old_bytes, new_bytes, current);
            let bytes = bytes.map_err(|changed| changed.to_string())?;
            // Where there was none, none is left, unless others have written to it.
            Ok(Some(bytes).filter(|bytes| old.is_some() || !bytes.is_empty()))
        }
    }
}

/// The name of an account that was added, and whose line was changed since: with its lines of IDs gone
/// and the account still there, the kubelet does not start.
fn edited_account(old: &[u8], new: &[u8], current: &[u8]) -> Option<String> {
    let name = |line: &[u8]| line.split(|byte| *byte == b':').next().map(<[u8]>::to_vec);
    let lines = |text: &[u8]| text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (_, added) = differing_lines(old, new);
    let current = lines(current);
    let edited = added.iter().filter(|line| !current.contains(line)).filter_map(|line| name(line));
    edited
        .filter(|edited| current.iter().any(|line| name(line).as_ref() == Some(edited)))
        .map(|name| String::from_utf8_lossy(&name).into_owned())
        .next()
}
