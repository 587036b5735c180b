//! `/etc/subuid` and `/etc/subgid`: who may use which subordinate IDs (subuid(5), subgid(5)).
//!
//! `OWNER:START:COUNT`, the owner by name or by number. shadow-utils, `getsubids`, CRI-O and podman each read these
//! files in their own way; a line that they would not all read the same way is flawed. Lines that are not understood
//! are kept byte for byte.

use std::fmt;

use thiserror::Error;

/// Editors of other systems write it at the start of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The IDs that one line gives to its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubordinateRange {
    /// A user's name, or a user ID in decimal.
    pub owner: String,
    /// The first ID.
    pub start: u64,
    /// Number of IDs.
    pub count: u64,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubidFile {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// The line without the line feed.
    text: Vec<u8>,
    /// Whether a line feed follows; only the last line may lack it.
    ended: bool,
    content: LineContent,
}

/// The contents of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineContent {
    /// Empty, or a comment. shadow-utils has no comments, but skips such lines.
    Nothing,
    /// A range that every reader understands.
    Range(SubordinateRange),
    /// A line that not every reader understands.
    Flawed {
        /// The problem in one sentence.
        flaw: Flaw,
        /// The owner, if there is one.
        owner: Option<String>,
        /// The ranges that some parsers read from the line; several if they differ. These IDs must be
        /// avoided.
        perhaps: Vec<SubordinateRange>,
    },
}

/// Why a line is flawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Flaw {
    /// Not three fields.
    #[error("has {0} fields instead of 3 (owner:start:count)")]
    Fields(usize),
    /// An empty field.
    #[error("has an empty {0}")]
    Empty(Field),
    /// shadow-utils reads it as a hexadecimal or octal number, CRI-O does not.
    #[error(
        "has a {0} that not every reader takes for the same number; write it in decimal without leading zeros"
    )]
    Ambiguous(Field),
    /// No reader takes it for a number.
    #[error("has a {0} that is not a number")]
    NotANumber(Field),
    /// The count is zero.
    #[error("has a count of 0")]
    Zero,
    /// shadow-utils does not accept a number followed by a carriage return.
    #[error("ends with a carriage return, so shadow-utils and getsubids do not read it")]
    CarriageReturn,
    /// shadow-utils takes a blank for a part of the owner, CRI-O does not.
    #[error("has blanks around a field")]
    Blanks,
    /// shadow-utils reads lines of at most 1,023 bytes.
    #[error("is longer than 1023 bytes, so shadow-utils does not read it")]
    TooLong,
    /// Every reader takes the mark for a part of the owner's name.
    #[error(
        "begins with a byte order mark (UTF-8 BOM), so that no reader finds its owner; save the file without it"
    )]
    ByteOrderMark,
    /// C programs stop reading at a zero byte.
    #[error("has a zero byte in it")]
    ZeroByte,
    /// shadow-utils does not find the end of a line with a zero byte, and reads the next one as its rest.
    #[error("follows a line with a zero byte, to which shadow-utils joins it, so that it is not read")]
    Joined,
    /// shadow-utils looks for the end of the last line until the file ends, and then reads none of it.
    #[error("is not read by shadow-utils, like all others, because the last line has a zero byte in it")]
    Unread,
}

/// A field of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Owner,
    Start,
    Count,
}

// === impl Field, SubordinateRange ===

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Owner => "owner",
            Field::Start => "start",
            Field::Count => "count",
        })
    }
}

impl SubordinateRange {
    /// The ID after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.count)
    }
}

/// As written in the file.
impl fmt::Display for SubordinateRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.owner, self.start, self.count)
    }
}

// === impl Line ===

impl Line {
    fn new(text: &[u8], ended: bool) -> Line {
        Line { text: text.to_owned(), ended, content: content(text) }
    }

    /// Records that not every reader reads a line with that range.
    fn flaw(&mut self, flaw: Flaw) {
        if let LineContent::Range(range) = &self.content {
            let (owner, perhaps) = (Some(range.owner.clone()), vec![range.clone()]);
            self.content = LineContent::Flawed { flaw, owner, perhaps };
        }
    }

    fn owner(&self) -> Option<&str> {
        match &self.content {
            LineContent::Nothing => None,
            LineContent::Range(range) => Some(&range.owner),
            LineContent::Flawed { owner, .. } => owner.as_deref(),
        }
    }
}

// === impl SubidFile ===

impl SubidFile {
    /// Parses a file. Any bytes are accepted.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> SubidFile {
        let line = |text: &[u8]| match text.strip_suffix(b"\n") {
            Some(text) => Line::new(text, true),
            None => Line::new(text, false),
        };
        let mut lines: Vec<Line> = bytes.split_inclusive(|byte| *byte == b'\n').map(line).collect();
        mark_unread(&mut lines);
        SubidFile { lines }
    }

    /// The number of the first line with a zero byte, from 1: with such a line, lines next to it, or all, are not read.
    #[must_use]
    pub fn zero_byte(&self) -> Option<usize> {
        self.texts().find_map(|(number, text)| text.contains(&0).then_some(number))
    }

    /// The file's bytes: those of the input if nothing was set.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in &self.lines {
            bytes.extend_from_slice(&line.text);
            if line.ended {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    /// The contents of each line, with its number, from 1.
    pub fn contents(&self) -> impl Iterator<Item = (usize, &LineContent)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, &line.content))
    }

    /// The text of each line, with its number, from 1.
    pub fn texts(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line.text.as_slice()))
    }

    /// The ranges that every reader understands, with their line numbers.
    pub fn ranges(&self) -> impl Iterator<Item = (usize, &SubordinateRange)> {
        self.contents().filter_map(|(number, content)| match content {
            LineContent::Range(range) => Some((number, range)),
            _ => None,
        })
    }

    /// The lines that not every reader understands, with their numbers.
    pub fn flaws(&self) -> impl Iterator<Item = (usize, Flaw)> {
        self.contents().filter_map(|(number, content)| match content {
            LineContent::Flawed { flaw, .. } => Some((number, *flaw)),
            _ => None,
        })
    }

    /// Makes `range` the only line of its owner, who is recognised by `is_owner`. The owner's first line is replaced,
    /// others are removed; without one the line is appended. Nothing else is changed, except that a missing final
    /// line feed is added.
    pub fn set(&mut self, range: &SubordinateRange, is_owner: impl Fn(&str) -> bool) {
        let mut wanted = Some(Line::new(range.to_string().as_bytes(), true));
        let mut lines = Vec::with_capacity(self.lines.len() + 1);
        for line in std::mem::take(&mut self.lines) {
            if !line.owner().is_some_and(&is_owner) {
                lines.push(line);
            } else if let Some(wanted) = wanted.take() {
                let same = line.content == wanted.content;
                lines.push(if same { line } else { Line { ended: line.ended, ..wanted } });
            }
        }
        // A line that is no longer the last one, or is new, ends with a line feed.
        let last = lines.len().saturating_sub(1);
        let wanted_is_new = wanted.is_some();
        for (index, line) in lines.iter_mut().enumerate() {
            line.ended |= wanted_is_new || index != last;
        }
        lines.extend(wanted);
        self.lines = lines;
    }
}

/// Records which lines shadow-utils does not read because of zero bytes (`commonio_open` in its `lib/commonio.c`; seen with
/// getsubids 4.13).
fn mark_unread(lines: &mut [Line]) {
    let mut is_joined = false;
    for line in &mut *lines {
        if is_joined {
            line.flaw(Flaw::Joined);
        }
        let zero = line.text.iter().position(|byte| *byte == 0);
        is_joined = line.ended && zero.is_some_and(|at| at > 0 || is_joined);
    }
    let ends_unread = lines.last().is_some_and(|line| line.ended && line.text.contains(&0));
    if ends_unread {
        lines.iter_mut().for_each(|line| line.flaw(Flaw::Unread));
    }
}

fn content(text: &[u8]) -> LineContent {
    let trimmed = text.trim_ascii();
    if trimmed.is_empty() || trimmed.starts_with(b"#") {
        return LineContent::Nothing;
    }
    // A byte that is not UTF-8 becomes a character that no valid name contains.
    let fields: Vec<String> = trimmed
        .split(|byte| *byte == b':')
        .map(|field| String::from_utf8_lossy(field).into_owned())
        .collect();
    let owner = fields.first().map(|owner| owner.trim().trim_start_matches(BYTE_ORDER_MARK).to_owned());
    let owner = owner.filter(|owner| !owner.is_empty());
    let ranges = perhaps(&fields);
    let first_flaw = flaw(text, &fields);
    match (first_flaw, ranges.first()) {
        (None, Some(range)) => LineContent::Range(range.clone()),
        (flaw, _) => {
            // Without a flaw there is a range; should that ever be wrong, the line is left alone.
            let flaw = flaw.unwrap_or(Flaw::Fields(fields.len()));
            LineContent::Flawed { flaw, owner, perhaps: ranges }
        }
    }
}

/// The first flaw of a line.
fn flaw(text: &[u8], fields: &[String]) -> Option<Flaw> {
    if text.contains(&0) {
        return Some(Flaw::ZeroByte);
    }
    if fields.first().is_some_and(|owner| owner.starts_with(BYTE_ORDER_MARK)) {
        return Some(Flaw::ByteOrderMark);
    }
    let [owner, start, count] = fields else { return Some(Flaw::Fields(fields.len())) };
    for (field, name) in [(owner, Field::Owner), (start, Field::Start), (count, Field::Count)] {
        if field.trim().is_empty() {
            return Some(Flaw::Empty(name));
        }
    }
    for (field, name) in [(start, Field::Start), (count, Field::Count)] {
        match numbers(field.trim()).as_slice() {
            [] => return Some(Flaw::NotANumber(name)),
            [_] if decimal(field.trim()).is_some() => {}
            _ => return Some(Flaw::Ambiguous(name)),
        }
    }
    let blanks = [owner, start, count].iter().any(|field| field.trim().len() != field.len());
    if decimal(count) == Some(0) {
        return Some(Flaw::Zero);
    } else if blanks || text.trim_ascii_start().len() != text.len() {
        return Some(Flaw::Blanks);
    } else if text.strip_suffix(b"\r").is_some_and(|rest| rest.trim_ascii_end().len() == rest.len()) {
        return Some(Flaw::CarriageReturn);
    } else if text.trim_ascii_end().len() != text.len() {
        return Some(Flaw::Blanks);
    }
    (text.len() > 1023).then_some(Flaw::TooLong)
}

/// Every range that some reader may see in these fields.
fn perhaps(fields: &[String]) -> Vec<SubordinateRange> {
    // Older releases of shadow-utils ignore a fourth field.
    let [owner, start, count, ..] = fields else { return Vec::new() };
    let owner = owner.trim().to_owned();
    let of = |start: &u64| {
        let owner = owner.clone();
        let start = *start;
        numbers(count.trim()).into_iter().map(move |count| SubordinateRange {
            owner: owner.clone(),
            start,
            count,
        })
    };
    numbers(start.trim()).iter().flat_map(of).collect()
}

/// A decimal number that every reader reads the same way.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

/// Every number that a text may stand for: decimal, as Go reads it, and with C's prefixes `0x` and `0` (`strtoul`
/// with base 0), as shadow-utils reads it.
fn numbers(text: &str) -> Vec<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = |text: &str| !text.starts_with(['+', '-']);
    let parsed = |text: &str, radix| digits(text).then(|| u64::from_str_radix(text, radix).ok())?;
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let mut found: Vec<u64> = Vec::new();
    found.extend(parsed(text, 10));
    found.extend(hexadecimal.and_then(|text| parsed(text, 16)));
    found.extend(text.strip_prefix('0').and_then(|text| parsed(text, 8)));
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(owner: &str, start: u64, count: u64) -> SubordinateRange {
        SubordinateRange { owner: owner.into(), start, count }
    }

    fn set(before: &str, wanted: &SubordinateRange) -> String {
        let mut file = SubidFile::parse(before.as_bytes());
        file.set(wanted, |owner| owner == wanted.owner);
        String::from_utf8(file.render()).unwrap()
    }

    #[test]
    fn names_numbers_comments_and_blanks_are_parsed() {
        let text =
            b"# ours\n\ncore:100000:65536\n  \n1000:165536:65536\n #x:1:2\ncontainers:200000:268435456";
        let file = SubidFile::parse(text);
        let found: Vec<_> = file.ranges().map(|(number, range)| (number, range.to_string())).collect();
        let want = [(3, "core:100000:65536"), (5, "1000:165536:65536"), (7, "containers:200000:268435456")];
        assert_eq!(found, want.map(|(number, text)| (number, text.to_owned())));
        assert_eq!(file.flaws().count(), 0);
        assert_eq!(file.ranges().last().unwrap().1.end(), 268_635_456);
    }

    #[test]
    fn a_flaw_is_named_and_its_ids_are_avoided() {
        for (line, want, perhaps) in [
            ("containers", Flaw::Fields(1), vec![]),
            ("containers:1", Flaw::Fields(2), vec![]),
            ("a:1:2:x", Flaw::Fields(4), vec![range("a", 1, 2)]),
            ("a:1:2:", Flaw::Fields(4), vec![range("a", 1, 2)]),
            (":1:2", Flaw::Empty(Field::Owner), vec![range("", 1, 2)]),
            ("a::2", Flaw::Empty(Field::Start), vec![]),
            ("a:1:", Flaw::Empty(Field::Count), vec![]),
            ("a:x:2", Flaw::NotANumber(Field::Start), vec![]),
            ("a:1:-2", Flaw::NotANumber(Field::Count), vec![]),
            ("a:1:99999999999999999999", Flaw::NotANumber(Field::Count), vec![]),
            ("a:0x30d40:2", Flaw::Ambiguous(Field::Start), vec![range("a", 200_000, 2)]),
            ("a:+5:2", Flaw::Ambiguous(Field::Start), vec![range("a", 5, 2)]),
            (
                "a:0200000:2",
                Flaw::Ambiguous(Field::Start),
                vec![range("a", 200_000, 2), range("a", 65_536, 2)],
            ),
            ("a:1:0", Flaw::Zero, vec![range("a", 1, 0)]),
            ("a:1:2\r", Flaw::CarriageReturn, vec![range("a", 1, 2)]),
            (" a:1:2", Flaw::Blanks, vec![range("a", 1, 2)]),
            ("a :1:2", Flaw::Blanks, vec![range("a", 1, 2)]),
            ("a:1: 2", Flaw::Blanks, vec![range("a", 1, 2)]),
            ("a:1:2 ", Flaw::Blanks, vec![range("a", 1, 2)]),
            ("a:1:2\0", Flaw::ZeroByte, vec![]),
        ] {
            let file = SubidFile::parse(line.as_bytes());
            let Some((1, LineContent::Flawed { flaw, perhaps: found, .. })) = file.contents().next() else {
                panic!("{line:?} was taken");
            };
            assert_eq!((*flaw, found), (want, &perhaps), "{line:?}");
            assert_eq!(file.flaws().next(), Some((1, want)));
        }
        let long = format!("{}:1:2", "a".repeat(1020));
        assert_eq!(SubidFile::parse(long.as_bytes()).flaws().next(), Some((1, Flaw::TooLong)));
    }

    /// Each text with the lines that getsubids 4.13 finds of the user `u`.
    #[test]
    fn lines_beside_a_zero_byte_are_read_as_by_shadow_utils() {
        for (text, want) in [
            ("b:1:2\0x\nc:1:2\nu:5:6\n", 1),
            ("b:1:2\0\nu:5:6\nc:1:2\n", 0),
            ("b\0\n\0\nu:5:6\nc:1:2\n", 0),
            ("b\0\n\0\nc:1:2\nu:5:6\n", 1),
            ("\0x\nu:5:6\n", 1),
            ("#\0\nu:5:6\n", 0),
            ("u:5:6\nb:1:2\0\n", 0),
            ("u:5:6\n\0\n", 0),
            ("u:5:6\nb:1:2\0", 1),
            ("u:5:6\n\0\0\0", 1),
        ] {
            let file = SubidFile::parse(text.as_bytes());
            let found = file.ranges().filter(|(_, range)| range.owner == "u").count();
            assert_eq!(found, want, "{text:?}");
            assert!(file.zero_byte().is_some(), "{text:?}");
            assert_eq!(file.render(), text.as_bytes());
        }
        assert_eq!(SubidFile::parse(b"a\nb\0\n").zero_byte(), Some(2));
        assert_eq!(SubidFile::parse(b"a:1:2\n").zero_byte(), None);
    }

    #[test]
    fn an_owner_gets_one_line_and_the_rest_is_kept() {
        let wanted = range("containers", 200_000, 65_536);
        for (before, after) in [
            ("", "containers:200000:65536\n"),
            ("core:1:2\n", "core:1:2\ncontainers:200000:65536\n"),
            ("core:1:2", "core:1:2\ncontainers:200000:65536\n"),
            ("containers:200000:65536", "containers:200000:65536"),
            ("containers:200000:65536\n\n", "containers:200000:65536\n\n"),
            ("containers:1:2", "containers:200000:65536"),
            ("# a\r\ncontainers:1:2\n#b", "# a\r\ncontainers:200000:65536\n#b"),
            ("x:1:2\ncontainers:1:2\ny\ncontainers:3:4\nz:", "x:1:2\ncontainers:200000:65536\ny\nz:"),
            ("containers:1:2\r\nx:1:2\r\n", "containers:200000:65536\nx:1:2\r\n"),
            ("containers:0x1:2\n", "containers:200000:65536\n"),
            ("containers:1\n", "containers:200000:65536\n"),
            (
                "containers2:1:2\n#containers:1:2\n",
                "containers2:1:2\n#containers:1:2\ncontainers:200000:65536\n",
            ),
            ("containers:1:2\nx\ncontainers:3:4", "containers:200000:65536\nx\n"),
        ] {
            assert_eq!(set(before, &wanted), after, "{before:?}");
        }
    }

    #[test]
    fn an_owner_has_two_names() {
        let mut file = SubidFile::parse(b"991:1:2\nkubelet:3:4\n");
        file.set(&range("kubelet", 65_536, 65_536), |owner| owner == "kubelet" || owner == "991");
        assert_eq!(file.render(), b"kubelet:65536:65536\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(SubidFile::parse(&bytes).render(), bytes);
        }

        #[test]
        fn near_misses_round_trip(text in "([a-c#\r ]{0,2}[:0-9x \\-+]{0,8}[:\n\r\0]{0,2}){0,12}") {
            prop_assert_eq!(SubidFile::parse(text.as_bytes()).render(), text.as_bytes());
        }

        #[test]
        fn foreign_lines_survive_byte_for_byte(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..6),
        ) {
            let bytes = lines.join(&b'\n');
            let mut file = SubidFile::parse(&bytes);
            let wanted = range("containers", 200_000, 65_536);
            file.set(&wanted, |owner| owner == "containers");
            let after = file.render();
            // None of the random lines is the owner's.
            prop_assert!(after.starts_with(&bytes));
            let tail = &after[bytes.len()..];
            prop_assert!(tail == b"containers:200000:65536\n" || tail == b"\ncontainers:200000:65536\n");
            // Setting it twice changes nothing.
            file.set(&wanted, |owner| owner == "containers");
            prop_assert_eq!(file.render(), after);
        }
    }
}
