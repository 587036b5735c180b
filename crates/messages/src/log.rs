//! A whole log: which messages are in it, and what is understood of one that is not known.

mod errno;
mod exit;
mod marks;
mod nearest;
mod ordinary;
mod program;
mod statement;
mod step;
mod usual;

use std::borrow::Cow;
use std::collections::BTreeMap;

use self::step::Meaning;
pub use self::step::Step;
use super::coverage::{self, Reason};
use super::pattern::Line;
use super::text::spelled_out;
use super::{Message, MessageId, follows, recognise_all, recognise_cut, recognise_in};

/// The most unknown lines that are shown.
const MAX_UNKNOWN: usize = 5;
/// Up to this number of lines, the input counts as pasted messages and not as a log.
const MAX_PASTED: usize = 20;
/// The most lines over which a terminal or a table breaks one message.
const MAX_WRAPPED: usize = 5;
/// Known messages and understood lines of a log, newest first.
#[derive(Debug, Default)]
pub struct Reading {
    /// Known messages, each once.
    pub known: Vec<Found<&'static Message>>,
    /// Errors that have to do with user namespaces and are not known.
    pub unknown: Vec<Found<Understood>>,
}

/// Something found, and where.
#[derive(Debug)]
pub struct Found<T> {
    /// The message, or what is understood of the line.
    pub what: T,
    /// The last line that holds it.
    pub line: String,
    /// How many lines hold it.
    pub count: usize,
}

/// The understood parts of a line without a known message.
#[derive(Debug, Default)]
pub struct Understood {
    /// The program that prints the message.
    pub program: Option<Cow<'static, str>>,
    /// The operation that failed.
    pub step: Option<Step>,
    /// What the kernel's error usually means in that operation.
    pub usual: Option<&'static str>,
    /// Where the cause shows, or what avoids it.
    pub next: Option<&'static str>,
    /// Where its text is in the sources that were read, and why no message stands for it.
    pub listed: Option<(&'static str, Reason)>,
    /// The nearest known messages by their words, the nearest first.
    pub nearest: Vec<&'static Message>,
}

/// Reads a log, oldest line first, as journalctl prints it.
#[must_use]
pub fn read(text: &str) -> Reading {
    let mut known: Vec<Found<&'static Message>> = Vec::new();
    let mut unknown: BTreeMap<String, (usize, Found<Line>)> = BTreeMap::new();
    let unwrapped = unwrapped(text);
    for (number, text) in unwrapped.as_deref().unwrap_or(text).lines().enumerate() {
        let line = Line::new(text);
        let messages = recognise_all(&line);
        if messages.is_empty() && concerns_user_namespaces(line.as_str()) {
            let (place, found) = unknown
                .entry(without_numbers(line.as_str()))
                .or_insert_with(|| (number, Found { what: line, line: String::new(), count: 0 }));
            *place = number;
            text.clone_into(&mut found.line);
            found.count += 1;
        }
        // The one that says most is the newest.
        for message in messages.into_iter().rev() {
            add(&mut known, message, text, 1);
        }
    }
    if known.is_empty() {
        unknown.retain(|_, (_, found)| {
            let cut = recognise_cut(&found.what);
            cut.inspect(|message| add(&mut known, message, &found.line, found.count)).is_none()
        });
    }
    if known.is_empty() && unknown.is_empty() && is_pasted(text) {
        for line in text.lines() {
            recognise_cut(&Line::new(line)).inspect(|message| add(&mut known, message, line, 1));
        }
    }
    let ids: Vec<MessageId> = known.iter().map(|found| found.what.id).collect();
    let mut known: Vec<_> = known.into_iter().filter(|found| !follows(found.what.id, &ids)).collect();
    known.reverse();
    let mut unknown: Vec<(usize, Found<Line>)> = unknown.into_values().collect();
    unknown.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    let understood = |(_, Found { what, line, count }): (usize, Found<Line>)| Found {
        what: Understood::of_line(&what, &line),
        line,
        count,
    };
    let mut unknown: Vec<_> = unknown.into_iter().take(MAX_UNKNOWN).map(understood).collect();
    if known.is_empty() && unknown.is_empty() {
        unknown = pasted(text);
    }
    Reading { known, unknown }
}

/// Adds a message, as the newest.
fn add(known: &mut Vec<Found<&'static Message>>, message: &'static Message, line: &str, lines: usize) {
    let before = known.iter().position(|found| found.what.id == message.id);
    let count = before.map_or(0, |index| known.remove(index).count);
    known.push(Found { what: message, line: line.to_owned(), count: count + lines });
}

/// Pasted lines with each message on one line that a terminal or a table has broken over several.
fn unwrapped(text: &str) -> Option<String> {
    if !is_pasted(text) {
        return None;
    }
    // The frames of tables belong to no message.
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim_matches(|next: char| next.is_whitespace() || matches!(next, '│' | '┃' | '|')))
        .filter(|line| !line.is_empty())
        .collect();
    let is_known = |text: &str| recognise_in(&Line::new(text)).is_some();
    let mut unwrapped = Vec::new();
    let mut rest = lines.as_slice();
    while let Some((line, after)) = rest.split_first() {
        let joined = (2..=MAX_WRAPPED).find_map(|count| {
            let (wrapped, after) = rest.split_at_checked(count)?;
            if wrapped.iter().any(|line| is_known(line)) {
                return None;
            }
            // Between words, or within one.
            [wrapped.join(" "), wrapped.concat()]
                .into_iter()
                .find(|text| is_known(text))
                .map(|text| (text, after))
        });
        let (text, after) = joined.unwrap_or_else(|| ((*line).to_owned(), after));
        unwrapped.push(text);
        rest = after;
    }
    Some(unwrapped.join("\n"))
}

/// Whether a text is a few lines that someone has pasted, rather than a log.
fn is_pasted(text: &str) -> bool {
    text.lines().filter(|line| !line.trim().is_empty()).take(MAX_PASTED + 1).count() <= MAX_PASTED
}

/// Someone who passes a few lines wants each of them explained, whatever it is about.
fn pasted(text: &str) -> Vec<Found<Understood>> {
    if !is_pasted(text) {
        return Vec::new();
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let all = lines.rev().map(|line| Found { what: Understood::of(line), line: line.to_owned(), count: 1 });
    all.filter(|found| !found.what.is_nothing()).take(MAX_UNKNOWN).collect()
}

/// Whether a line reports something that went wrong on the way to a user namespace.
fn concerns_user_namespaces(line: &str) -> bool {
    names_user_namespaces(line) && reports_a_failure(line)
}

/// Whether a line names what user namespaces consist of, or are used for.
fn names_user_namespaces(line: &str) -> bool {
    const NAMES: [&str; 24] = [
        "unshare",
        "noop process",
        "user namespace",
        "userns",
        "idmap",
        "id-mapped",
        "id mapping",
        "uid_map",
        "gid_map",
        "uidmap",
        "gidmap",
        "subuid",
        "subgid",
        "subids",
        "max_user_namespaces",
        "hostusers",
        "mount_setattr",
        "setgroups",
        "unmapped",
        "remap",
        "/sys/fs/cgroup",
        "cgroup.subtree_control",
        "control group",
        "init.scope",
    ];
    NAMES.iter().any(|word| line.contains(word))
}

/// Whether a line names who may do what.
fn names_rights(line: &str) -> bool {
    const NAMES: [&str; 10] = [
        "permi",
        "allow",
        "privileg",
        "owner",
        "owned",
        "root",
        "capabilit",
        "sandbox",
        "namespace",
        "mount",
    ];
    NAMES.iter().any(|word| line.contains(word))
}

/// Whether a line has a word of failures.
fn reports_a_failure(line: &str) -> bool {
    const WORDS: [&str; 19] = [
        "timed out",
        "not found",
        "fail",
        "error",
        "denied",
        "not permitted",
        "invalid",
        "cannot",
        "can't",
        "could not",
        "couldn't",
        "unable",
        "refus",
        "forbidden",
        "no space left",
        "fatal",
        "abort",
        "exception",
        "not implemented",
    ];
    let none_found = || {
        line.split_once(" found")
            .is_some_and(|(before, _)| before.split_whitespace().any(|word| word == "no"))
    };
    WORDS.iter().any(|word| line.contains(word)) || none_found()
}

/// Lines that differ in numbers and hexadecimal names only are one.
fn without_numbers(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.split(|next: char| !next.is_ascii_alphanumeric()) {
        if !word.bytes().any(|byte| byte.is_ascii_digit()) && !word.is_empty() {
            words.push(word);
        }
    }
    words.join(" ")
}

// === impl Understood ===

impl Understood {
    /// The understood parts of a line.
    #[must_use]
    pub fn of(line: &str) -> Understood {
        Understood::of_line(&Line::new(line), line)
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.program.is_none() && self.step.is_none() && self.listed.is_none() && self.nearest.is_empty()
    }

    /// `shown` is the line as it was printed, with the case of its letters.
    fn of_line(line: &Line, shown: &str) -> Understood {
        let text = line.as_str();
        let listed = coverage::find(line);
        let Meaning { mut step, error, mut usual } = Meaning::of(text);
        if usual.is_none()
            && let Some(words) = spelled_out(shown)
        {
            let meaning = Meaning::of(&words);
            if meaning.usual.is_some() {
                (step, usual) = (meaning.step, meaning.usual);
            }
        }
        let program = listed.map(|(program, _)| program).or_else(|| program::named(text));
        // The text after a mere introduction is the one that was understood.
        let listed = listed.filter(|(_, reason)| usual.is_none() || *reason != Reason::Wrapper);
        let nearest = match step {
            Some(step) if step.is_of_its_own() => Vec::new(),
            _ => nearest::to(text, error),
        };
        let is_unclear = step.is_none() && listed.is_none() && nearest.is_empty();
        if is_unclear && reports_a_failure(text) && !names_user_namespaces(text) && !names_rights(text) {
            step = Some(Step::Unclear);
            usual = Step::Unclear.of_sentence();
        }
        let understood = step.is_some() || program.is_some();
        let by_form =
            || understood.then(|| program::by_form(text)).flatten().map(|name| Cow::Owned(name.to_owned()));
        Understood {
            program: program.map(Cow::Borrowed).or_else(by_form),
            step,
            usual,
            next: usual.and(step).and_then(Step::look),
            listed,
            nearest,
        }
    }
}

/// Whether a word begins after `before`; s6-overlay is one word.
fn begins_word(before: &str) -> bool {
    let inner = before.strip_suffix('-').unwrap_or(before);
    !inner.ends_with(|last: char| last.is_alphanumeric())
}
