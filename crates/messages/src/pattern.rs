//! How a wording is looked for in a line.

use std::ops::Range;

use super::locale;
use super::text::{journal_bytes, plain};

/// Number of bytes that are compared together to exclude a wording from a line.
const GRAM: usize = 4;
/// Bits of a [`Grams`].
const BITS: u32 = 12;
/// A line that was cut off within a wording must hold at least this much of it: bytes, and hundredths.
const MIN_CUT: (usize, usize) = (24, 60);
/// And this many bytes of the part that is missing, unless nothing else stands there or a mark shows the cut.
const MIN_BEGUN: usize = 3;

/// A line of a log, as it is compared, with the kernel's error in English.
pub(super) struct Line {
    text: String,
    grams: Grams,
}

#[derive(Debug)]
pub(super) struct Pattern {
    /// The fixed parts, in their order.
    parts: Vec<String>,
    /// Of its longest part the beginning, the middle and the end.
    marks: Vec<u32>,
}

/// Where a wording is in a line.
pub(super) struct Hit<'a> {
    /// The shortest text that the first `…` can stand for; empty if the wording has none.
    pub first: &'a str,
    /// From the first fixed part to the last, in bytes.
    pub span: Range<usize>,
}

/// What a line that was cut off within a wording holds of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cut {
    /// Bytes of the fixed parts.
    pub found: usize,
    /// Whether that is enough to tell the wording from any other text.
    pub is_enough: bool,
}

/// Which sequences of bytes are in a text: those that are, and a few that are not. A journal has many lines and
/// the tables many wordings, and nearly no line holds one.
struct Grams([u64; (1 << BITS) / 64]);

// === impl Line ===

impl Line {
    pub(super) fn new(text: &str) -> Line {
        let line = Line::of(plain(journal_bytes(text).as_deref().unwrap_or(text)));
        locale::english(&line).map_or(line, Line::of)
    }

    fn of(text: String) -> Line {
        let mut grams = Grams([0; (1 << BITS) / 64]);
        for gram in text.as_bytes().windows(GRAM) {
            grams.insert(hash(gram));
        }
        Line { text, grams }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

// === impl Grams ===

impl Grams {
    fn insert(&mut self, bit: u32) {
        if let Some(word) = self.0.get_mut(bit as usize / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    fn contains(&self, bit: u32) -> bool {
        self.0.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}

/// Knuth's multiplicative hash.
fn hash(gram: &[u8]) -> u32 {
    let number = gram.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    number.wrapping_mul(2_654_435_761) >> (32 - BITS)
}

// === impl Pattern ===

impl Pattern {
    pub(super) fn new(wording: &str) -> Pattern {
        let parts: Vec<String> = plain(wording).split('…').map(str::to_owned).collect();
        let longest = parts.iter().max_by_key(|part| part.len()).map(String::as_bytes).unwrap_or_default();
        let last = longest.len().saturating_sub(GRAM);
        let at = |place: usize| longest.get(place..place + GRAM).map(hash);
        let marks = [0, last / 2, last].into_iter().filter_map(at).collect();
        Pattern { parts, marks }
    }

    /// The wording in a line.
    pub(super) fn find<'a>(&self, line: &'a Line) -> Option<Hit<'a>> {
        if !self.marks.iter().all(|mark| line.grams.contains(*mark)) {
            return None;
        }
        let (begin, others) = self.parts.split_first()?;
        let start = line.text.find(begin.as_str())?;
        let mut end = start + begin.len();
        let mut first = None;
        for part in others {
            let rest = line.text.get(end..)?;
            let length = rest.find(part.as_str())?;
            let filled = if part.is_empty() { rest } else { rest.get(..length)? };
            // The wording may begin again here.
            first.get_or_insert(filled.rsplit_once(begin.as_str()).map_or(filled, |(_, later)| later));
            end += length + part.len();
        }
        Some(Hit { first: first.unwrap_or_default(), span: start..end })
    }

    /// The beginning of the wording, in a line that was cut off within it.
    pub(super) fn find_cut(&self, line: &Line) -> Option<Cut> {
        // What shows that text is missing, as in less, kubectl and status pages.
        let is_marked = ["…", "...", ">"].iter().any(|mark| line.text.trim_end().ends_with(mark));
        let mut rest = line.text.trim_end_matches([' ', '…', '.', '>', '\'', ')', '│', '|']);
        let mut found = 0;
        for part in &self.parts {
            if let Some((_, after)) = rest.split_once(part.as_str()) {
                found += part.len();
                rest = after;
                continue;
            }
            let lengths = part.char_indices().map(|(at, _)| at).rev();
            let is_end = |length: usize| part.get(..length).is_some_and(|begin| rest.ends_with(begin));
            let begun = lengths.into_iter().find(|length| is_end(*length)).unwrap_or_default();
            // Without a part of what is missing, another end is as likely: an error that the wording does not name.
            if begun < MIN_BEGUN && !rest.trim().is_empty() && !is_marked {
                return None;
            }
            found += begun;
            let (bytes, hundredths) = MIN_CUT;
            let is_enough = found >= bytes && found * 100 >= self.weight() * hundredths;
            return (found > 0).then_some(Cut { found, is_enough });
        }
        None
    }

    /// How long its longest part is.
    pub(super) fn longest(&self) -> usize {
        self.parts.iter().map(String::len).max().unwrap_or_default()
    }

    /// How much of a line it explains.
    pub(super) fn weight(&self) -> usize {
        self.parts.iter().map(String::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_returns_the_part_that_differs() {
        let find = |wording: &str, line: &str| {
            Pattern::new(wording).find(&Line::new(line)).map(|hit| hit.first.to_owned())
        };
        assert_eq!(find("ID … is bad", "it says: id 42 is bad"), Some("42".into()));
        assert_eq!(find("ID … is bad: …", "ID 42 is bad: no"), Some("42".into()));
        assert_eq!(find("ID …", "ID 42 is bad"), Some("42 is bad".into()));
        assert_eq!(find("ID … is bad", "ID pair (1, 2): ID 42 is bad"), Some("42".into()));
        assert_eq!(find("is bad", "ID 42 is bad"), Some(String::new()));
        assert_eq!(find("ID … is bad", "42 is bad: ID"), None, "in another order");
        assert_eq!(find("a…b", "xayb"), Some("y".into()), "shorter than what is compared");
        assert_eq!(find("user \"…\" x", r#"msg="user \\\"a\\\" x""#), Some("a".into()), "quoted twice");
    }
    #[test]
    fn a_wording_is_found_with_its_place() {
        let span =
            |wording: &str, line: &str| Pattern::new(wording).find(&Line::new(line)).map(|hit| hit.span);
        assert_eq!(span("b…d", "a b c d e"), Some(2..7));
        assert_eq!(span("…d", "a b c d e"), Some(0..7));
        assert_eq!(span("b…", "a b c d e"), Some(2..3));
    }

    #[test]
    fn a_line_can_be_cut_off_within_a_wording() {
        let pattern = Pattern::new("failed to do … because there is no space left");
        let enough = |pattern: &Pattern, line: &str| {
            pattern.find_cut(&Line::new(line)).filter(|cut| cut.is_enough).map(|cut| cut.found)
        };
        let cut = |line: &str| enough(&pattern, line);
        assert_eq!(cut("x: failed to do 'y' because there is no spa…"), Some(37));
        assert_eq!(cut("x: failed to do 'y' because there is no spa> "), Some(37));
        assert_eq!(cut("x: failed to do 'y' because"), None, "too little of it");
        assert_eq!(cut("x: failed to do 'y' because there is no space left"), None, "all of it");
        assert_eq!(cut("because there is no space left on this device"), None);
        let other = Pattern::new("failed to set the attribute on …: invalid argument");
        assert_eq!(enough(&other, "failed to set the attribute on /data: bad address"), None);
        assert!(enough(&other, "failed to set the attribute on /data/of…").is_some());
    }
}
