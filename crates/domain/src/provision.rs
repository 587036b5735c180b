//! Planned changes to the node's files: values that are shown as a diff, and applied by other crates. A planner reads
//! what exists, and states for each file its old and its new contents.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

use super::work::step;

/// A path below the host's root, without the leading slash: `etc/subuid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPath(Cow<'static, str>);

/// The text is not a path below the host's root.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a path below the host's root")]
pub struct HostPathError(String);

/// A file's attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The permission bits, at most `0o7777`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The extended attribute `security.selinux`, including its final zero byte if it has one; `None` if the file has
    /// none, or if a new file keeps the label that the kernel assigns.
    pub label: Option<Vec<u8>>,
}

/// How a change is undone if the file was changed by others since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// Not at all: the whole file is ours.
    Whole,
    /// Line by line: added lines are removed, removed lines are restored, the rest is kept. For files that other
    /// programs edit too, and in which the order of lines does not matter.
    Lines,
}

/// The content of a change, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// The file's contents, replaced atomically by a rename.
    #[default]
    Content,
    /// The target of a symbolic link, before and after.
    Link,
    /// A setting of the running kernel below `/proc/sys`, written in place. It is not a regular file, and not part of
    /// a patch.
    Live,
    /// This program: `old` and `new` are digests of the file, which is too large to keep in memory. It is not part of
    /// a patch.
    Program,
}

// === impl Form ===

impl Form {
    /// Whether a patch can contain the change.
    #[must_use]
    pub const fn is_in_a_patch(self) -> bool {
        matches!(self, Form::Content | Form::Link)
    }
}

/// The change to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The file's path.
    pub path: HostPath,
    /// The kind of content in `old` and `new`.
    pub form: Form,
    /// The contents at planning time; `None` if the file did not exist.
    pub old: Option<Vec<u8>>,
    /// The new contents; `None` if the file is removed.
    pub new: Option<Vec<u8>>,
    /// The attributes of a new file; an existing file keeps its own.
    pub attributes: Attributes,
    /// The mode of an existing file if it is to get the mode of `attributes` too; `None` if it keeps its own.
    pub mode_was: Option<u32>,
    /// The directory in which the new contents are written before the rename; `None`: the file's own. Another one, on
    /// the same file system, is needed if every file of the directory is read whatever its name: a half-written one
    /// in `crio.conf.d` keeps CRI-O from starting.
    pub staging: Option<HostPath>,
    /// How the change is undone.
    pub undo: Undo,
    /// The reasons, a sentence each.
    pub reasons: Vec<String>,
}

// === impl HostPath ===

impl HostPath {
    /// A path that is known at compile time, with or without the leading slash.
    #[must_use]
    pub const fn fixed(path: &'static str) -> HostPath {
        HostPath(Cow::Borrowed(match path.as_bytes().first() {
            Some(b'/') => path.split_at(1).1,
            _ => path,
        }))
    }

    /// Parses a path with or without the leading slash.
    ///
    /// # Errors
    /// It is empty, or contains an empty part, `.`, `..`, a zero byte or a line break.
    pub fn parse(text: &str) -> Result<HostPath, HostPathError> {
        let path = text.strip_prefix('/').unwrap_or(text);
        let good = path.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !path.contains(|byte: char| byte.is_control());
        if good { Ok(HostPath(Cow::Owned(path.to_owned()))) } else { Err(HostPathError(text.to_owned())) }
    }

    /// The path without the leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The directory; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<HostPath> {
        self.0.rsplit_once('/').map(|(parent, _)| HostPath(Cow::Owned(parent.to_owned())))
    }

    /// A file in this directory.
    ///
    /// # Errors
    /// The name would lead out of the directory.
    pub fn join(&self, name: &str) -> Result<HostPath, HostPathError> {
        HostPath::parse(&format!("{}/{name}", self.0))
    }
}

/// The absolute path on the host.
impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

// === impl Attributes ===

impl Attributes {
    /// Owned by root, readable by everyone, with the kernel's label.
    pub const READABLE: Attributes = Attributes { mode: 0o644, uid: 0, gid: 0, label: None };
    /// Owned by root, readable by root only.
    pub const SECRET: Attributes = Attributes { mode: 0o600, uid: 0, gid: 0, label: None };
}

// === impl FileChange ===

impl FileChange {
    /// Whether the change has any effect.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.old != self.new || self.mode_was.is_some_and(|mode| mode != self.attributes.mode)
    }
}

// === taking back ===

/// The change cannot be undone line by line, because others have changed these lines since.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the lines {} are not there any more, in the place of {}", shown(.missing), shown(.instead_of))]
pub struct ChangedSince {
    /// Lines that were written and are missing now.
    pub missing: Vec<Vec<u8>>,
    /// Lines that they replaced.
    pub instead_of: Vec<Vec<u8>>,
}

fn shown(lines: &[Vec<u8>]) -> String {
    let one =
        |line: &Vec<u8>| format!("{:?}", String::from_utf8_lossy(line).chars().take(80).collect::<String>());
    lines.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The lines that only one of two texts has, each as often as it occurs more often there: those of the first and
/// those of the second, without line feeds.
#[must_use]
pub fn differing_lines(old: &[u8], new: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    // If lines are equal, the first ones are in both texts.
    let mut in_old: BTreeMap<&[u8], usize> = BTreeMap::new();
    for line in lines(old) {
        step();
        *in_old.entry(line).or_default() += 1;
    }
    let mut in_both: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut added = Vec::new();
    for line in lines(new) {
        step();
        match in_old.get_mut(line).filter(|left| **left > 0) {
            Some(left) => {
                *left -= 1;
                *in_both.entry(line).or_default() += 1;
            }
            None => added.push(line.to_vec()),
        }
    }
    let mut removed = Vec::new();
    for line in lines(old) {
        step();
        match in_both.get_mut(line).filter(|left| **left > 0) {
            Some(left) => *left -= 1,
            None => removed.push(line.to_vec()),
        }
    }
    (removed, added)
}

/// The contents after undoing a change from `old` to `new` in `current`. Other changes made since are kept, and a
/// change that was never applied is not undone.
///
/// # Errors
/// See [`ChangedSince`].
pub fn take_back(old: &[u8], new: &[u8], current: &[u8]) -> Result<Vec<u8>, ChangedSince> {
    if current == new {
        return Ok(old.to_vec());
    }
    let (removed, added) = differing_lines(old, new);
    let mut left: BTreeMap<&[u8], usize> = BTreeMap::new();
    for line in &added {
        *left.entry(line.as_slice()).or_default() += 1;
    }
    let mut place = None;
    let mut rest: Vec<&[u8]> = Vec::new();
    for line in lines(current) {
        step();
        match left.get_mut(line).filter(|left| **left > 0) {
            Some(left) => {
                *left -= 1;
                place = place.or(Some(rest.len()));
            }
            None => rest.push(line),
        }
    }
    let mut missing = Vec::new();
    for line in &added {
        if let Some(left) = left.get_mut(line.as_slice()).filter(|left| **left > 0) {
            *left -= 1;
            missing.push(line.clone());
        }
    }
    if !missing.is_empty() {
        let is_there: BTreeSet<&[u8]> = rest.iter().copied().collect();
        let never_done =
            missing.len() == added.len() && removed.iter().all(|line| is_there.contains(line.as_slice()));
        return if never_done {
            Ok(current.to_vec())
        } else {
            Err(ChangedSince { missing, instead_of: removed })
        };
    }
    let place = place.unwrap_or(rest.len()).min(rest.len());
    rest.splice(place..place, removed.iter().map(Vec::as_slice));
    let mut text = rest.join(&b'\n');
    if !rest.is_empty() {
        text.push(b'\n');
    }
    Ok(text)
}

/// Lines without line feeds.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_root() {
        for (text, want) in [("/etc/subuid", "/etc/subuid"), ("etc/crio", "/etc/crio")] {
            assert_eq!(HostPath::parse(text).unwrap().to_string(), want);
        }
        for text in ["", "/", "//etc", "etc/", "../etc", "etc/./x", "etc/../x", "a\0b", "a\nb"] {
            assert!(HostPath::parse(text).is_err(), "{text:?}");
        }
        let file = HostPath::fixed("etc/crio/crio.conf");
        assert_eq!((file.name(), file.parent().unwrap().as_str()), ("crio.conf", "etc/crio"));
        assert_eq!(file.parent().unwrap().join("x").unwrap(), HostPath::fixed("etc/crio/x"));
        assert!(file.join("../x").is_err());
        assert_eq!(HostPath::fixed("etc").parent(), None);
    }

    #[test]
    fn a_change_is_undone_and_other_changes_are_kept() {
        for (old, new, current, want) in [
            // Not changed since: exactly the old contents.
            ("a", "a\nx\n", "a\nx\n", "a"),
            // Never applied.
            ("a\n", "a\nx\n", "a\n", "a\n"),
            ("a\n", "a\nx\n", "a\nb\n", "a\nb\n"),
            ("a\no\n", "a\nx\n", "a\no\nb\n", "a\no\nb\n"),
            // useradd has added a line, and sorted the file.
            ("a\n", "a\nx\n", "a\nx\nb\n", "a\nb\n"),
            ("a\no\nz\n", "a\nx\nz\n", "b\na\nx\nz\n", "b\na\no\nz\n"),
            ("", "x\n", "x\nb", "b\n"),
            ("x\n", "x\nx\n", "b\nx\nx\n", "b\nx\n"),
            ("", "x\n", "", ""),
        ] {
            let found = take_back(old.as_bytes(), new.as_bytes(), current.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), want, "{old:?} {new:?} {current:?}");
        }
        // The added line is at the place of the first that was added.
        let found = take_back(b"a\no\nz\n", b"a\nx\nz\ny\n", b"a\ny\nx\nz\nb\n").unwrap();
        assert_eq!(found, b"a\no\nz\nb\n");
        let changed = take_back(b"o\n", b"x\n", b"y\n").unwrap_err();
        assert_eq!(changed.to_string(), "the lines \"x\" are not there any more, in the place of \"o\"");
    }

    #[test]
    fn equal_lines_are_counted() {
        let lines =
            |text: &[Vec<u8>]| text.iter().map(|line| String::from_utf8(line.clone()).unwrap()).collect();
        for (old, new, want_removed, want_added) in [
            ("a\nb\na\n", "a\nc", "b a", "c"),
            ("a\nb\nb\n", "b\na\n", "b", ""),
            ("", "a\na\n", "", "a a"),
            ("a", "a\n", "", ""),
        ] {
            let (removed, added) = differing_lines(old.as_bytes(), new.as_bytes());
            let (removed, added): (Vec<String>, Vec<String>) = (lines(&removed), lines(&added));
            assert_eq!(
                (removed.join(" "), added.join(" ")),
                (want_removed.into(), want_added.into()),
                "{old:?}"
            );
        }
    }

    /// A file may have as many lines as fit into 16 MiB, and another program may have sorted them.
    #[test]
    fn the_work_grows_with_the_number_of_lines() {
        let text = |order: &dyn Fn(u64) -> u64| -> String {
            (0..5_000).map(|index| format!("{}:{}:65536\n", order(index), order(index) * 65_536)).collect()
        };
        let (old, sorted) = (text(&|index| index), text(&|index| 4_999 - index));
        let new = format!("{old}kubelet:65536:65536\n");
        let current = format!("{sorted}kubelet:65536:65536\n");
        let (found, steps) =
            crate::work::steps_of(|| take_back(old.as_bytes(), new.as_bytes(), current.as_bytes()));
        assert_eq!(found.unwrap(), sorted.as_bytes());
        assert!(steps < 5_000 * 10, "{steps} steps");
    }
}
