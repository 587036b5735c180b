//! The journal of `usernsd bootstrap`: what each run found and what it wrote, for `--undo`.

use serde::{Deserialize, Serialize};

use usernsd_domain::chain::chain;
use usernsd_domain::ignition::bytes::{base64, from_base64};
use usernsd_domain::provision::{Attributes, FileChange, Form, HostPath, HostPathError, Undo};

/// All runs that have not been undone, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Version of the file format.
    version: u32,
    /// The runs, oldest first.
    pub runs: Vec<Run>,
    /// When the kubelet's range was last taken back, in milliseconds since 1970: a kubelet that runs since before that
    /// uses another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet_undone_at: Option<u64>,
}

/// One run of bootstrap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Run {
    /// The files, in the order in which they were written.
    pub files: Vec<Written>,
    /// Directories that the run created, outermost first.
    pub made: Vec<String>,
    /// Time of the run in milliseconds since 1970; 0 if an earlier version did not record it.
    #[serde(default)]
    pub at: u64,
}

/// A written file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    path: String,
    undo: UndoKind,
    #[serde(default)]
    form: Shape,
    /// Only the differing lines are stored, because not everyone may read the file.
    pub only_lines: bool,
    old: Option<Bytes>,
    new: Option<Bytes>,
    mode: u32,
    uid: u32,
    gid: u32,
    label: Option<Vec<u8>>,
    /// The written mode, if the change included the mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new_mode: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UndoKind {
    Whole,
    Lines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Shape {
    #[default]
    Content,
    Link,
    Live,
    Program,
}

/// Why the last run could not prepare the node, for the agent. The file does not exist if the run succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Version of the file format.
    version: u32,
    /// Time of the run in milliseconds since 1970.
    pub at: u64,
    /// The version of usernsd that ran.
    pub usernsd: String,
    /// The error, in one line.
    pub error: String,
}

/// Stored as text if it is UTF-8, so that people can read it; otherwise as base64, with four characters for
/// three bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
struct Bytes(Vec<u8>);

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Base64 {
        base64: String,
    },
    /// The form in which earlier versions wrote binary content.
    Bytes(Vec<u8>),
}

// === impl Failure ===

impl Failure {
    /// The failure of a run of this program, with the error message cut after 2000 characters.
    #[must_use]
    pub fn new(at: u64, error: &str) -> Failure {
        let error = error.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        Failure {
            version: 1,
            at,
            usernsd: env!("CARGO_PKG_VERSION").to_owned(),
            error: error.take(2000).collect(),
        }
    }

    /// Parses the file.
    ///
    /// # Errors
    /// The format is unknown; the message has the reason.
    pub fn parse(bytes: &[u8]) -> Result<Failure, String> {
        let failure: Failure = serde_json::from_slice(bytes).map_err(|error| chain(&error))?;
        match failure.version {
            1 => Ok(failure),
            version => Err(format!("form {version} is newer than this program")),
        }
    }

    /// The file's content.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}

// === impl Journal ===

impl Default for Journal {
    fn default() -> Journal {
        Journal { version: 1, runs: Vec::new(), kubelet_undone_at: None }
    }
}

impl Journal {
    /// Parses a journal.
    ///
    /// # Errors
    /// It is not a journal, or one of a later version.
    pub fn parse(bytes: &[u8]) -> Result<Journal, String> {
        let journal: Journal = serde_json::from_slice(bytes).map_err(|error| chain(&error))?;
        if journal.version == 1 {
            Ok(journal)
        } else {
            Err(format!("its version {} is unknown", journal.version))
        }
    }

    /// The file's content.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        // Strings, numbers and lists can always be represented in JSON.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

impl Journal {
    fn times(&mut self) -> impl Iterator<Item = &mut u64> {
        self.runs.iter_mut().map(|run| &mut run.at).chain(&mut self.kubelet_undone_at)
    }

    /// Whether a time in it is after `now`, in milliseconds since 1970.
    #[must_use]
    pub fn has_times_after(mut self, now: u64) -> bool {
        self.times().any(|at| *at > now)
    }

    /// Replaces the times after `now` by it.
    pub fn end_times_at(&mut self, now: u64) {
        self.times().for_each(|at| *at = now.min(*at));
    }

    /// The files that runs have written, once for each write. A run that failed or was killed has not written all that
    /// it wrote down before: the next run found such a file as that one had found it, or it is so still, which
    /// `is_as_found` returns.
    pub fn written(&self, is_as_found: impl Fn(&Written) -> bool) -> Vec<HostPath> {
        let all: Vec<&Written> = self.runs.iter().flat_map(|run| &run.files).collect();
        let was_written = |(index, one): &(usize, &&Written)| {
            let next = all.iter().skip(index + 1).find(|later| later.path == one.path);
            !next.map_or_else(|| is_as_found(one), |next| one.was_repeated_by(next))
        };
        all.iter().enumerate().filter(was_written).filter_map(|(_, one)| one.path().ok()).collect()
    }
}

// === impl Written ===

impl Written {
    /// Whether the file is still as the run found it, if its content is `now`.
    #[must_use]
    pub fn is_as_found(&self, now: Option<&[u8]>) -> bool {
        now == self.old.as_ref().map(|old| old.0.as_slice()) && self.old != self.new
    }

    /// Whether a later run made the same change, because it found the file as this one had found it.
    fn was_repeated_by(&self, later: &Written) -> bool {
        if !self.only_lines {
            return later.old == self.old && self.old != self.new;
        }
        let lines = |bytes: &Option<Bytes>| -> Vec<Vec<u8>> {
            let bytes = bytes.as_ref().map(|bytes| bytes.0.as_slice()).unwrap_or_default();
            bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
        };
        let (own, again) = (lines(&self.new), lines(&later.new));
        !own.is_empty() && own.iter().all(|line| again.contains(line))
    }

    /// Makes a journal entry of a change, with the part of its bytes that is stored.
    #[must_use]
    pub fn of(
        change: &FileChange,
        [old, new]: [Option<&[u8]>; 2],
        only_lines: bool,
        attributes: &Attributes,
    ) -> Written {
        let Attributes { mode, uid, gid, label } = attributes.clone();
        Written {
            path: change.path.as_str().to_owned(),
            form: match change.form {
                Form::Content => Shape::Content,
                Form::Link => Shape::Link,
                Form::Live => Shape::Live,
                Form::Program => Shape::Program,
            },
            undo: match change.undo {
                Undo::Whole => UndoKind::Whole,
                Undo::Lines => UndoKind::Lines,
            },
            only_lines,
            old: old.map(Bytes::of),
            new: new.map(Bytes::of),
            mode,
            uid,
            gid,
            label,
            new_mode: change.mode_was.map(|_| change.attributes.mode),
        }
    }

    /// Path of the file.
    ///
    /// # Errors
    /// The journal has been tampered with.
    pub fn path(&self) -> Result<HostPath, HostPathError> {
        HostPath::parse(&self.path)
    }

    /// The kind of content that is stored here.
    #[must_use]
    pub fn form(&self) -> Form {
        match self.form {
            Shape::Content => Form::Content,
            Shape::Link => Form::Link,
            Shape::Live => Form::Live,
            Shape::Program => Form::Program,
        }
    }

    /// The written mode, if the change included the mode.
    #[must_use]
    pub fn new_mode(&self) -> Option<u32> {
        self.new_mode
    }

    /// How the change is undone.
    #[must_use]
    pub fn undo(&self) -> Undo {
        match self.undo {
            UndoKind::Whole => Undo::Whole,
            UndoKind::Lines => Undo::Lines,
        }
    }

    /// The previous content; `None` if there was no file.
    #[must_use]
    pub fn old(&self) -> Option<&[u8]> {
        self.old.as_ref().map(Bytes::as_slice)
    }

    /// The written content; `None` if the file was removed.
    #[must_use]
    pub fn new_bytes(&self) -> Option<&[u8]> {
        self.new.as_ref().map(Bytes::as_slice)
    }

    /// The previous attributes.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        Attributes { mode: self.mode, uid: self.uid, gid: self.gid, label: self.label.clone() }
    }
}

impl Bytes {
    fn of(bytes: &[u8]) -> Bytes {
        Bytes(bytes.to_owned())
    }

    fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Stored {
    fn from(Bytes(bytes): Bytes) -> Stored {
        match String::from_utf8(bytes) {
            Ok(text) => Stored::Text(text),
            Err(error) => Stored::Base64 { base64: base64(error.as_bytes()) },
        }
    }
}

impl TryFrom<Stored> for Bytes {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Bytes, &'static str> {
        match stored {
            Stored::Text(text) => Ok(Bytes(text.into_bytes())),
            Stored::Base64 { base64 } => from_base64(&base64).map(Bytes).ok_or("base64 expected"),
            Stored::Bytes(bytes) => Ok(Bytes(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let attributes = Attributes { label: Some(b"x\0".to_vec()), ..Attributes::READABLE };
        let path = HostPath::fixed("etc/subuid");
        let change = FileChange {
            path: path.clone(),
            form: Form::Live,
            old: None,
            new: None,
            attributes: attributes.clone(),
            mode_was: None,
            staging: None,
            undo: Undo::Lines,
            reasons: Vec::new(),
        };
        let written = |old, new| Written::of(&change, [old, new], false, &attributes);
        let files = vec![written(None, Some(&b"a\n"[..])), written(Some(&b"\xff"[..]), None)];
        let mut journal = Journal::default();
        journal.runs.push(Run { files, made: vec!["etc".into()], at: 5 });
        let read = Journal::parse(&journal.render()).unwrap();
        assert_eq!(read, journal);
        let first = &read.runs[0].files[0];
        assert_eq!((first.path().unwrap(), first.old(), first.new_bytes()), (path, None, Some(&b"a\n"[..])));
        assert_eq!(first.attributes(), attributes);
        assert_eq!((first.form(), first.undo()), (Form::Live, Undo::Lines));
        assert_eq!(read.runs[0].files[1].old(), Some(&b"\xff"[..]));
    }

    /// As a list of numbers, a byte takes up to five characters and its own line: one binary byte in a file
    /// of 4 MiB made a journal that could not be read again.
    #[test]
    fn binary_content_takes_little_more_space_than_text() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 << 10).collect();
        let text = serde_json::to_string_pretty(&Bytes::of(&bytes)).unwrap();
        assert!(text.len() < 4 * 1024 + 40, "{}", text.len());
        assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap().as_slice(), bytes);
        // Forms that earlier versions wrote.
        for (old, want) in [("[255, 10]", &b"\xff\n"[..]), ("\"a\"", b"a"), ("[]", b"")] {
            assert_eq!(serde_json::from_str::<Bytes>(old).unwrap().as_slice(), want, "{old}");
        }
        assert!(serde_json::from_str::<Bytes>("{\"base64\": \"!\"}").is_err());
    }

    #[test]
    fn a_file_in_another_format_is_refused() {
        assert!(Journal::parse(b"").is_err());
        assert_eq!(Journal::parse(b"{\"version\":2,\"runs\":[]}").unwrap_err(), "its version 2 is unknown");
    }
}
