//! How a wording is looked for in a line.

/// Number of bytes that are compared together to exclude a wording from a line.
const GRAM: usize = 4;
/// Bits of a [`Grams`].
const BITS: u32 = 12;

/// A line of a log, without what quoting adds.
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

/// Which sequences of bytes are in a text: those that are, and a few that are not. A journal has many lines and
/// the tables many wordings, and nearly no line holds one.
struct Grams([u64; (1 << BITS) / 64]);

// === impl Line ===

impl Line {
    pub(super) fn new(text: &str) -> Line {
        let text = plain(text);
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

    /// The shortest text that the first `…` can stand for, if the line contains the wording; empty if the
    /// wording has no `…`.
    pub(super) fn find<'a>(&self, line: &'a Line) -> Option<&'a str> {
        if !self.marks.iter().all(|mark| line.grams.contains(*mark)) {
            return None;
        }
        let (begin, others) = self.parts.split_first()?;
        let (_, mut rest) = line.text.split_once(begin.as_str())?;
        let mut first = None;
        for part in others {
            let (before, after) = rest.split_once(part.as_str())?;
            let filled = if part.is_empty() { rest } else { before };
            // The wording may begin again here.
            first.get_or_insert(filled.rsplit_once(begin.as_str()).map_or(filled, |(_, later)| later));
            rest = after;
        }
        Some(first.unwrap_or_default())
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

/// Lower case, without backslashes.
fn plain(text: &str) -> String {
    let mut plain = text.to_ascii_lowercase();
    plain.retain(|next| next != '\\');
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_returns_the_part_that_differs() {
        let find =
            |wording: &str, line: &str| Pattern::new(wording).find(&Line::new(line)).map(str::to_owned);
        assert_eq!(find("ID … is bad", "it says: id 42 is bad"), Some("42".into()));
        assert_eq!(find("ID … is bad: …", "ID 42 is bad: no"), Some("42".into()));
        assert_eq!(find("ID …", "ID 42 is bad"), Some("42 is bad".into()));
        assert_eq!(find("ID … is bad", "ID pair (1, 2): ID 42 is bad"), Some("42".into()));
        assert_eq!(find("is bad", "ID 42 is bad"), Some(String::new()));
        assert_eq!(find("ID … is bad", "42 is bad: ID"), None, "in another order");
        assert_eq!(find("a…b", "xayb"), Some("y".into()), "shorter than what is compared");
        assert_eq!(find("user \"…\" x", r#"msg="user \\\"a\\\" x""#), Some("a".into()), "quoted twice");
    }
}
