//! Takes back what was applied, the last run first, and what others have written since stays.

use super::{
    BootstrapError, JOURNAL, Part, content, ids, journal, lock, refuse_managed, release_dead, write_all,
};
use crate::domain::idplan::Wish;
use crate::domain::provision::{FileChange, Form, HostPath, Undo, take_back};
use crate::edge::host::HostRoot;
use crate::edge::journal::{Journal, Written};

/// Plans what `--undo` would do, and writes nothing.
///
/// # Errors
/// See [`BootstrapError`].
pub fn plan_undo(root: &HostRoot, wish: &Wish) -> Result<Part, BootstrapError> {
    let changes = changes(root, &journal(root)?)?;
    refuse_managed(root, &changes)?;
    let findings = ids::check_undo(root, wish, &changes)?;
    Ok(Part { changes, findings, ..Part::default() })
}

/// Takes everything back. `say` hears of each change when it is done.
///
/// # Errors
/// See [`BootstrapError`].
pub fn undo(root: &HostRoot, wish: &Wish, say: &mut dyn FnMut(&str)) -> Result<Part, BootstrapError> {
    let first = plan_undo(root, wish)?;
    let journal = journal(root)?;
    if first.changes.is_empty() {
        release_dead(root)?;
    }
    if journal.runs.is_empty() {
        return Ok(first);
    }
    let _locks = lock(root, &first.changes)?;
    let part = plan_undo(root, wish)?;
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
                staging: None,
                undo: written.undo(),
                reasons: Vec::new(),
                path,
            },
        });
    }
    changes.retain(FileChange::is_needed);
    Ok(changes)
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
            let bytes = take_back(old.unwrap_or_default(), new.unwrap_or_default(), current);
            let bytes = bytes.map_err(|changed| changed.to_string())?;
            // Where there was none, none is left, unless others have written to it.
            Ok(Some(bytes).filter(|bytes| old.is_some() || !bytes.is_empty()))
        }
    }
}
