//! What is to become of the node's files: planned as values, shown as a difference, applied at the
//! edge. A planner reads what is there, and says for each file what it was and what it becomes.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

/// A path below the host's root, without the leading slash: `etc/subuid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPath(Cow<'static, str>);

/// Why a text is not a path below the host's root.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a path below the host's root")]
pub struct HostPathError(String);

/// What a file has besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The permission bits, at most `0o7777`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The extended attribute `security.selinux`, with its final zero byte where it has one; `None`
    /// where the file has none, or a new file is to get what the kernel gives it.
    pub label: Option<Vec<u8>>,
}

/// How a change is taken back when someone else has changed the file since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// Not at all: the file is ours as a whole.
    Whole,
    /// Line by line: what was added goes, what was taken away comes back, the rest stays. For files
    /// that other programs edit too, and in which the order of lines has no meaning.
    Lines,
}

/// What a change holds of a file, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Its content. The new one takes its place at once, by a rename.
    #[default]
    Content,
    /// Where it leads: it is a symbolic link, and so is the new one.
    Link,
    /// A setting of the running kernel below `/proc/sys`, written in place: it is no file, and in no
    /// patch.
    Live,
    /// This program itself: `old` and `new` are digests of the file, which is too long to be held, and
    /// in no patch.
    Program,
}

// === impl Form ===

impl Form {
    /// Whether a patch can say it.
    #[must_use]
    pub const fn is_in_a_patch(self) -> bool {
        matches!(self, Form::Content | Form::Link)
    }
}

/// One file: what it is, and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The file.
    pub path: HostPath,
    /// What `old` and `new` are.
    pub form: Form,
    /// Its content when it was planned; `None` where there was no such file.
    pub old: Option<Vec<u8>>,
    /// What it becomes; `None` where it goes.
    pub new: Option<Vec<u8>>,
    /// What a new file gets; a file that is there keeps what it has.
    pub attributes: Attributes,
    /// The mode that a file which is there has, where it is to get that of `attributes` too; `None`
    /// where it keeps its own.
    pub mode_was: Option<u32>,
    /// The directory in which the new content is written before it takes its place; `None` for the
    /// file's own. Name another one, on the same file system, where every file of the directory is
    /// read whatever its name: a half-written one in `crio.conf.d` stops CRI-O.
    pub staging: Option<HostPath>,
    /// How it is taken back.
    pub undo: Undo,
    /// Why, one sentence each, for people.
    pub reasons: Vec<String>,
}

// === impl HostPath ===

impl HostPath {
    /// A path that is written in the program.
    #[must_use]
    pub const fn fixed(path: &'static str) -> HostPath {
        HostPath(Cow::Borrowed(path))
    }

    /// Takes a path as people write it, with or without the leading slash.
    ///
    /// # Errors
    /// It is empty, has an empty part, `.` or `..` in it, or a zero byte or a line break.
    pub fn parse(text: &str) -> Result<HostPath, HostPathError> {
        let path = text.strip_prefix('/').unwrap_or(text);
        let good = path.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !path.contains(|byte: char| byte.is_control());
        if good { Ok(HostPath(Cow::Owned(path.to_owned()))) } else { Err(HostPathError(text.to_owned())) }
    }

    /// Without the leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The directory; `None` where that is the root.
    #[must_use]
    pub fn parent(&self) -> Option<HostPath> {
        self.0.rsplit_once('/').map(|(parent, _)| HostPath(Cow::Owned(parent.to_owned())))
    }

    /// A file in this directory.
    ///
    /// # Errors
    /// The name leads elsewhere.
    pub fn join(&self, name: &str) -> Result<HostPath, HostPathError> {
        HostPath::parse(&format!("{}/{name}", self.0))
    }
}

/// As the host has it: with the leading slash.
impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

// === impl Attributes ===

impl Attributes {
    /// Root's, for all to read, with the label the kernel gives it.
    pub const READABLE: Attributes = Attributes { mode: 0o644, uid: 0, gid: 0, label: None };
    /// Root's alone.
    pub const SECRET: Attributes = Attributes { mode: 0o600, uid: 0, gid: 0, label: None };
}

// === impl FileChange ===

impl FileChange {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.old != self.new || self.mode_was.is_some_and(|mode| mode != self.attributes.mode)
    }
}

// === taking back ===

/// Why a change cannot be taken back line by line: someone has changed these lines since.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the lines {} are not there any more, in the place of {}", shown(.missing), shown(.instead_of))]
pub struct Changed {
    /// Lines that were written and are gone.
    pub missing: Vec<Vec<u8>>,
    /// Lines whose place they took.
    pub instead_of: Vec<Vec<u8>>,
}

fn shown(lines: &[Vec<u8>]) -> String {
    let one =
        |line: &Vec<u8>| format!("{:?}", String::from_utf8_lossy(line).chars().take(80).collect::<String>());
    lines.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The lines that only one of two texts has, each as often as it has more of them: those of the first
/// and those of the second, without their line feeds.
#[must_use]
pub fn differing_lines(old: &[u8], new: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut removed: Vec<Vec<u8>> = lines(old).map(<[u8]>::to_vec).collect();
    let mut added = Vec::new();
    for line in lines(new) {
        match removed.iter().position(|known| known == line) {
            Some(index) => drop(removed.remove(index)),
            None => added.push(line.to_vec()),
        }
    }
    (removed, added)
}

/// What `current` becomes when a change from `old` to `new` is taken back in it. Whatever else was
/// changed since stays, and a change that was never made is none to take back.
///
/// # Errors
/// [`Changed`].
pub fn take_back(old: &[u8], new: &[u8], current: &[u8]) -> Result<Vec<u8>, Changed> {
    if current == new {
        return Ok(old.to_vec());
    }
    let (removed, added) = differing_lines(old, new);
    let mut rest: Vec<&[u8]> = lines(current).collect();
    let mut place = None;
    let mut missing = Vec::new();
    for line in &added {
        match rest.iter().position(|known| known == line) {
            Some(index) => {
                rest.remove(index);
                place = place.or(Some(index));
            }
            None => missing.push(line.clone()),
        }
    }
    if !missing.is_empty() {
        let never_done =
            missing.len() == added.len() && removed.iter().all(|line| rest.contains(&line.as_slice()));
        return if never_done { Ok(current.to_vec()) } else { Err(Changed { missing, instead_of: removed }) };
    }
    let place = place.unwrap_or(rest.len()).min(rest.len());
    rest.splice(place..place, removed.iter().map(Vec::as_slice));
    let mut text = rest.join(&b'\n');
    if !rest.is_empty() {
        text.push(b'\n');
    }
    Ok(text)
}

/// Lines without their line feeds.
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
    fn a_change_is_taken_back_and_what_others_did_stays() {
        for (old, new, current, want) in [
            // Untouched since: exactly what it was.
            ("a", "a\nx\n", "a\nx\n", "a"),
            // Never made.
            ("a\n", "a\nx\n", "a\n", "a\n"),
            ("a\n", "a\nx\n", "a\nb\n", "a\nb\n"),
            ("a\no\n", "a\nx\n", "a\no\nb\n", "a\no\nb\n"),
            // useradd has added a line, and sorted them.
            ("a\n", "a\nx\n", "a\nx\nb\n", "a\nb\n"),
            ("a\no\nz\n", "a\nx\nz\n", "b\na\nx\nz\n", "b\na\no\nz\n"),
            ("", "x\n", "x\nb", "b\n"),
            ("x\n", "x\nx\n", "b\nx\nx\n", "b\nx\n"),
            ("", "x\n", "", ""),
        ] {
            let found = take_back(old.as_bytes(), new.as_bytes(), current.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), want, "{old:?} {new:?} {current:?}");
        }
        let changed = take_back(b"o\n", b"x\n", b"y\n").unwrap_err();
        assert_eq!(changed.to_string(), "the lines \"x\" are not there any more, in the place of \"o\"");
    }
}
