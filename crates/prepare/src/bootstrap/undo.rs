//! Undoes what was applied, the last run first, and keeps what other programs have written since. An entry
//! that cannot be undone stays in the journal for the next attempt; everything else is undone.

use std::time::SystemTime;

use super::ids::Sandboxes;
use super::restart::concerned;
use super::{
    BootstrapError, JOURNAL, NotRestored, Part, SHADOWS, content, ids, journal, lock, managed_by_others,
    release_dead, unlabelled, write_all,
};
use crate::journal::{Journal, Written};
use usernsd_domain::chain::chain;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::idplan::{self, ACCOUNT_FILES, DesiredIds};
use usernsd_domain::nri_plugin::is_file_name;
use usernsd_domain::owned_files::staging;
use usernsd_domain::provision::{Attributes, FileChange, Form, HostPath, Undo, differing_lines, take_back};
use usernsd_domain::restart::Service;
use usernsd_linux::host::{HostError, HostRoot};

/// Identifier of the findings about files that were not undone.
const LEFT: FindingId = FindingId::UndoLeft;

/// A file in the order of taking back: its change, or the reason why it stays.
type Item = (HostPath, Result<FileChange, String>);

/// Plans what `--undo` would do, without writing.
///
/// # Errors
/// See [`BootstrapError`].
pub fn plan_undo(
    root: &HostRoot,
    desired: &DesiredIds,
    sandboxes: Sandboxes<'_>,
) -> Result<Part, BootstrapError> {
    let (mut part, _) = plan(root, &journal(root)?, desired, sandboxes)?;
    report_left(&mut part);
    Ok(part)
}

/// Undoes what it can. `say` is called after each change.
///
/// # Errors
/// See [`BootstrapError`]. A file that cannot be undone is not an error, but in [`Part::left`].
pub fn undo(
    root: &HostRoot,
    desired: &DesiredIds,
    sandboxes: Sandboxes<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Part, BootstrapError> {
    let before = journal(root)?;
    let (first, _) = plan(root, &before, desired, sandboxes)?;
    if first.changes.is_empty() {
        release_dead(root)?;
    }
    if before.runs.is_empty() {
        return Ok(first);
    }
    let (_locks, locked_out) = match lock(root, &first.changes) {
        Ok(locks) => (locks, None),
        // Another program holds the locks of the accounts; everything else is undone.
        Err(error) if first.changes.iter().any(|change| is_of_ids(&change.path)) => {
            let rest: Vec<FileChange> =
                first.changes.iter().filter(|change| !is_of_ids(&change.path)).cloned().collect();
            (lock(root, &rest)?, Some(chain(&error)))
        }
        Err(error) => return Err(error),
    };
    let mut journal = journal(root)?;
    // Another run has ended meanwhile: what it wrote is neither planned here nor locked.
    if journal != before {
        return Err(BootstrapError::Raced { path: root.shown(&JOURNAL) });
    }
    for path in journal.runs.iter().flat_map(|run| &run.files).filter_map(|file| file.path().ok()) {
        // The files of accounts and IDs have locks of their own, under which their leftovers are removed.
        if !is_of_ids(&path) {
            root.remove_leftovers(&path, staging(&path).as_ref());
        }
    }
    root.remove_leftovers(&JOURNAL, None);
    let (mut part, mut items) = plan(root, &journal, desired, sandboxes)?;
    if let Some(change) = part.changes.iter().find(|change| !first.changes.contains(change)) {
        return Err(BootstrapError::Raced { path: root.shown(&change.path) });
    }
    if let Some(why) = locked_out {
        items.iter_mut().filter(|(path, _)| is_of_ids(path)).for_each(|(_, item)| *item = Err(why.clone()));
    }
    write_items(root, &mut items, &mut |change| say(&format!("{}: taken back", change.path)));
    part.findings.extend(unlabelled(root));
    part.left.retain(|left| HostPath::parse(&left.path).is_err());
    part.left.extend(not_restored(&items));
    for run in &mut journal.runs {
        let stays = |written: &Written| {
            written.path().is_err() || items.iter().any(|(path, item)| item.is_err() && is(written, path))
        };
        run.files.retain(stays);
        let mut made = Vec::new();
        for name in run.made.iter().rev() {
            let Ok(path) = HostPath::parse(name) else { continue };
            if let Err(error) = root.remove_dir(&path) {
                part.left.push(NotRestored { path: path.to_string(), why: chain(&error) });
            }
            if root.has(&path)? {
                made.insert(0, name.clone());
            }
        }
        run.made = made;
    }
    let is_kubelets = |change: &FileChange| {
        let [old, new] = [&change.old, &change.new].map(|bytes| bytes.as_deref().unwrap_or_default());
        let concerned = concerned(&change.path, old, new, SystemTime::now());
        concerned.iter().any(|changed| changed.only == Some(Service::Kubelet))
    };
    let is_changed = items.iter().filter_map(|(_, item)| item.as_ref().ok()).any(is_kubelets);
    if is_changed && ids::has_kubelet(root, desired, sandboxes)? {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        journal.kubelet_undone_at = u64::try_from(now.as_millis()).ok();
    }
    if part.left.is_empty() && journal.kubelet_undone_at.is_none() {
        root.remove(&JOURNAL)?;
    } else {
        journal.runs.retain(|run| !run.files.is_empty() || !run.made.is_empty());
        root.replace(&JOURNAL, &journal.render(), &Attributes::SECRET, None)?;
    }
    report_left(&mut part);
    Ok(part)
}

fn is(written: &Written, path: &HostPath) -> bool {
    written.path().is_ok_and(|of| of == *path)
}

/// Adds a finding for each file that stays.
fn report_left(part: &mut Part) {
    let finding = |left: &NotRestored| {
        let what = format!("{} was not taken back: {}", left.path, left.why);
        Finding::error(LEFT, what, "correct that and run \"usernsd bootstrap --undo\" again")
    };
    let findings: Vec<Finding> = part.left.iter().map(finding).collect();
    part.findings.extend(findings);
}

/// Undoes the items in order. An item that fails becomes an error, and so do the items that depend on it.
fn write_items(root: &HostRoot, items: &mut [Item], done: &mut dyn FnMut(&FileChange)) {
    let mut rest = items;
    while !rest.is_empty() {
        let both = match &*rest {
            [(_, Ok(first)), (_, Ok(second)), ..] => idplan::must_change_together([first, second]),
            _ => false,
        };
        let (now, others) = rest.split_at_mut(if both { 2 } else { 1 });
        let changes: Vec<FileChange> =
            now.iter().filter_map(|(_, item)| item.as_ref().ok().cloned()).collect();
        if let Err(error) = write_all(root, &changes, done) {
            for (_, item) in &mut *now {
                *item = Err(chain(&error));
            }
            for (path, _) in &*now {
                keep_dependents(path, others);
            }
        }
        rest = others;
    }
}

/// Keeps the items that depend on a file that stays: for a file of accounts or IDs, the other such files; for
/// a file that may name a program, the programs that come after it.
fn keep_dependents(path: &HostPath, after: &mut [Item]) {
    let below = |path: &HostPath, dirs: &[&str]| dirs.iter().any(|dir| path.as_str().starts_with(dir));
    let is_setting = below(path, &["etc/sysctl.d/", "proc/"]);
    // A runtime's drop-in may have a name like the plugin's configuration.
    let is_plugins = |path: &HostPath| {
        is_of_plugin(path.name()) && !below(path, &["etc/crio/", "etc/containerd/", "etc/sysctl.d/"])
    };
    for (other, item) in after {
        let depends = match item {
            Ok(_) if is_of_ids(path) => is_of_ids(other),
            Ok(change) => !is_setting && (change.form == Form::Program || is_plugins(other)),
            Err(_) => false,
        };
        if depends {
            *item = Err(format!("it goes with {path}, which stays"));
        }
    }
}

fn is_of_ids(path: &HostPath) -> bool {
    SHADOWS.contains(path)
}

fn not_restored(items: &[Item]) -> impl Iterator<Item = NotRestored> {
    items.iter().filter_map(|(path, item)| {
        item.as_ref().err().map(|why| NotRestored { path: path.to_string(), why: why.clone() })
    })
}

/// Plans which files can be undone and which cannot, and lists both in the order of undoing.
fn plan(
    root: &HostRoot,
    journal: &Journal,
    desired: &DesiredIds,
    sandboxes: Sandboxes<'_>,
) -> Result<(Part, Vec<Item>), BootstrapError> {
    let (mut items, mut left) = items(root, journal);
    for (_, item) in &mut items {
        let Ok(change) = item else { continue };
        // Reading follows links, writing does not.
        if change.form != Form::Link && matches!(root.link_target(&change.path), Ok(Some(_))) {
            *item = Err(HostError::Link { path: root.shown(&change.path) }.to_string());
            continue;
        }
        // A file of the rendered MachineConfig is never changed.
        if let Some(kept) = managed_by_others(root, std::slice::from_ref(change))? {
            *item = Err(format!("{}; {}", kept.what, kept.remedy));
        }
    }
    // The files of accounts and IDs are only undone together, whichever comes first.
    let kept_ids = items.iter().find(|(path, item)| is_of_ids(path) && item.is_err());
    if let Some(path) = kept_ids.map(|(path, _)| path.clone()) {
        keep_dependents(&path, &mut items);
    }
    for index in 0..items.len() {
        let (before, after) = items.split_at_mut(index + 1);
        if let Some((path, Err(_))) = before.last() {
            keep_dependents(path, after);
        }
    }
    let mut changes = changes_of(&items);
    let checked = ids::check_undo(root, desired, sandboxes, &changes, &first(journal));
    let findings = match checked {
        Ok(findings) => findings,
        Err(error) => {
            let why = chain(&error);
            let why = why.strip_suffix("; nothing was changed").unwrap_or(&why);
            for (path, item) in &mut items {
                if is_of_ids(path) && item.is_ok() {
                    *item = Err(why.to_owned());
                }
            }
            changes = changes_of(&items);
            Vec::new()
        }
    };
    left.extend(not_restored(&items));
    Ok((Part { changes, findings, left, ..Part::default() }, items))
}

fn changes_of(items: &[Item]) -> Vec<FileChange> {
    items.iter().filter_map(|(_, item)| item.as_ref().ok().cloned()).collect()
}

/// The content of files before the first run that wrote them, as far as the journal has it in full.
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

/// The items to undo: each file that differs from its previous content, in the reverse order of writing, and
/// the journal entries that name no valid path.
fn items(root: &HostRoot, journal: &Journal) -> (Vec<Item>, Vec<NotRestored>) {
    // A file that several runs wrote has the position of the first write: the kubelet's ranges go after its
    // user, a hook's program after the files that name it.
    let mut files: Vec<(HostPath, Vec<&Written>)> = Vec::new();
    let mut nowhere = Vec::new();
    for written in journal.runs.iter().rev().flat_map(|run| run.files.iter().rev()) {
        match written.path() {
            Ok(path) => {
                let known = files.iter().position(|(known, _)| *known == path);
                let mut entries = known.map(|index| files.remove(index).1).unwrap_or_default();
                entries.push(written);
                files.push((path, entries));
            }
            Err(error) => {
                nowhere.push(NotRestored {
                    path: root.shown(&JOURNAL).display().to_string(),
                    why: chain(&error),
                });
            }
        }
    }
    let item = |(path, entries): (HostPath, Vec<&Written>)| {
        let change = change(root, &path, &entries).map_err(|error| chain(&error));
        (path, change)
    };
    let mut items: Vec<Item> = files.into_iter().map(item).collect();
    items.retain(|(_, item)| item.as_ref().map_or(true, FileChange::is_needed));
    // A runtime's drop-in may be older than the plugin that it requires: the drop-in must be changed before
    // the plugin is removed.
    items.sort_by_key(|(path, _)| is_of_plugin(path.name()));
    (items, nowhere)
}

/// The change that undoes all journal entries of a file, newest first.
fn change(root: &HostRoot, path: &HostPath, entries: &[&Written]) -> Result<FileChange, BootstrapError> {
    let conflict = |why| BootstrapError::Conflict { path: root.shown(path), why };
    let newest = entries.first().ok_or_else(|| conflict("the journal has no entry of it".to_owned()))?;
    let current = content(root, path, newest.form())?;
    let (new, attributes) = taken_back(entries, current.as_deref()).map_err(conflict)?;
    Ok(FileChange {
        mode_was: mode(root, path, newest)?,
        form: newest.form(),
        old: current,
        new,
        attributes,
        staging: staging(path),
        undo: newest.undo(),
        reasons: Vec::new(),
        path: path.clone(),
    })
}

/// The content and attributes of a file before the oldest of `entries` (newest first). If another program
/// wrote the file between two of them, its version.
fn taken_back(entries: &[&Written], current: Option<&[u8]>) -> Result<(Option<Vec<u8>>, Attributes), String> {
    let mut state = current.map(<[u8]>::to_vec);
    let mut attributes = entries.first().map_or(Attributes::READABLE, |newest| newest.attributes());
    let mut rest = entries;
    // The entry that was undone last: the content that it found may be another program's.
    let mut later: Option<&Written> = None;
    while let [written, older @ ..] = rest {
        // Recorded in the journal but never written, or already restored by an interrupted undo or by hand.
        let is_before = |one: &&Written| !one.only_lines && one.old() == state.as_deref();
        if let Some(found) = rest.iter().rposition(is_before) {
            attributes = rest.get(found).map_or(attributes, |one| one.attributes());
            later = rest.get(found).copied();
            rest = rest.get(found + 1..).unwrap_or_default();
            continue;
        }
        match former(written, state.as_deref()) {
            Ok(former) => state = former,
            // Written by another program between the two: its version is the previous content.
            Err(_) if later.is_some_and(|later| is_broken(written, later)) => break,
            Err(why) => return Err(why),
        }
        attributes = written.attributes();
        later = Some(written);
        rest = older;
    }
    Ok((state, attributes))
}

/// Whether the later run found something else than the earlier one had written.
fn is_broken(earlier: &Written, later: &Written) -> bool {
    !earlier.only_lines && !later.only_lines && earlier.new_bytes() != later.old()
}

/// Whether a file is the launched plugin or its configuration.
fn is_of_plugin(name: &str) -> bool {
    is_file_name(name.strip_suffix(".conf").unwrap_or(name))
}

/// The mode to restore, if the run changed it and it is still as written.
fn mode(root: &HostRoot, path: &HostPath, written: &Written) -> Result<Option<u32>, BootstrapError> {
    let Some(new) = written.new_mode() else { return Ok(None) };
    Ok(root.attributes(path)?.map(|attributes| attributes.mode).filter(|mode| *mode == new))
}

/// The content of a file before it was written, given its present content, which is another than before.
fn former(written: &Written, current: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
    let (old, new) = (written.old(), written.new_bytes());
    if !written.only_lines && current == new {
        return Ok(old.map(<[u8]>::to_vec));
    }
    // Another program, or the boot, has set it to another value since.
    if written.form() == Form::Live {
        return Ok(current.map(<[u8]>::to_vec));
    }
    match (written.undo(), current) {
        (Undo::Whole, _) => Err("it was changed since".to_owned()),
        // The added lines are gone together with the file, and no removed line has to be restored.
        (Undo::Lines, None)
            if differing_lines(old.unwrap_or_default(), new.unwrap_or_default()).0.is_empty() =>
        {
            Ok(None)
        }
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
            // A file that did not exist before is removed, unless others have written to it.
            Ok(Some(bytes).filter(|bytes| old.is_some() || !bytes.is_empty()))
        }
    }
}

/// The name of an added account whose line was changed since. If its ranges were removed while the account
/// stays, the kubelet would not start.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn written(undo: Undo, old: Option<&str>, new: Option<&str>) -> Written {
        let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        let change = FileChange {
            path: HostPath::fixed("etc/x"),
            form: Form::Content,
            old: bytes(old),
            new: bytes(new),
            attributes: Attributes::READABLE,
            mode_was: None,
            staging: None,
            undo,
            reasons: Vec::new(),
        };
        Written::of(&change, [change.old.as_deref(), change.new.as_deref()], false, &change.attributes)
    }

    /// Undoes `runs`, which are in the order in which they were made.
    fn back(
        runs: &[(Option<&str>, Option<&str>)],
        undo: Undo,
        current: Option<&str>,
    ) -> Result<Option<String>, String> {
        let entries: Vec<Written> = runs.iter().rev().map(|(old, new)| written(undo, *old, *new)).collect();
        let entries: Vec<&Written> = entries.iter().collect();
        let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8(bytes).unwrap());
        taken_back(&entries, current.map(str::as_bytes)).map(|(content, _)| text(content))
    }

    #[test]
    fn a_file_of_several_runs_is_restored_to_before_the_first() {
        let none_a_b = &[(None, Some("a")), (Some("a"), Some("b"))][..];
        for (runs, current, want) in [
            (none_a_b, Some("b"), Ok(None)),
            // An undo was killed after this file, or somebody removed it.
            (none_a_b, None, Ok(None)),
            // An undo was killed after the newer of the two.
            (none_a_b, Some("a"), Ok(None)),
            (none_a_b, Some("c"), Err("it was changed since")),
            // Removed after an update, and written again.
            (&[(None, Some("a")), (Some("a"), Some("b")), (None, Some("b"))], Some("b"), Ok(None)),
            // Edited and written again: the edited version is the previous content.
            (&[(None, Some("a")), (Some("edited"), Some("a"))], Some("a"), Ok(Some("edited"))),
            (&[(None, Some("a")), (Some("edited"), Some("a"))], Some("edited"), Ok(Some("edited"))),
            (&[(Some("x"), Some("a")), (Some("a"), Some("x"))], Some("x"), Ok(Some("x"))),
        ] {
            let found = back(runs, Undo::Whole, current);
            assert_eq!(
                found.as_ref().map(|text| text.as_deref()).map_err(String::as_str),
                want,
                "{runs:?} {current:?}"
            );
        }
    }

    #[test]
    fn lines_of_other_programs_survive_an_undo_of_several_runs() {
        let runs = &[(Some("a\n"), Some("a\nk:1\n")), (Some("a\nb\nk:1\n"), Some("a\nb\nk:2\n"))];
        assert_eq!(back(runs, Undo::Lines, Some("a\nb\nk:2\nc\n")), Ok(Some("a\nb\nc\n".to_owned())));
    }
}
