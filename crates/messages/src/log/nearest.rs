//! The known messages that share most words with a line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::errno::{self, KernelError};
use crate::text::plain;
use crate::{Message, all};

/// The most similar messages that are shown.
const MAX_NEAREST: usize = 3;
/// A message is near if the words that it shares with the line are worth so much together, in natural logarithms:
/// two that are rare, or four that are common.
const MIN_NEARNESS: f64 = 6.0;
/// And these words must be that much of the wording: the texts with which runtimes introduce each error share words
/// with many wordings. Measured on the lines of public reports that are not known: of the suggestions 36 in 100 fit,
/// without this limit 11.
const MIN_SHARE: f64 = 0.7;
/// Messages that share less than this part of what the best one does are noise.
const MIN_OF_BEST: f64 = 0.8;

/// Words that are in too many messages: of errors in general, and parts of paths.
const EVERYWHERE: [&str; 61] = [
    "and",
    "argument",
    "bin",
    "cannot",
    "code",
    "container",
    "could",
    "denied",
    "desc",
    "dev",
    "device",
    "directory",
    "error",
    "etc",
    "exit",
    "fail",
    "failed",
    "fatal",
    "file",
    "for",
    "from",
    "function",
    "implemented",
    "invalid",
    "left",
    "level",
    "lib",
    "log",
    "mode",
    "msg",
    "not",
    "only",
    "operation",
    "permission",
    "permitted",
    "pod",
    "proc",
    "process",
    "read",
    "resource",
    "returned",
    "root",
    "rpc",
    "run",
    "running",
    "self",
    "space",
    "status",
    "such",
    "system",
    "temporarily",
    "that",
    "the",
    "this",
    "time",
    "unable",
    "unavailable",
    "unknown",
    "usr",
    "var",
    "with",
];

/// The words of each wording, and how rare each word is.
struct Words {
    rarity: BTreeMap<String, f64>,
    of: Vec<Wording>,
}

struct Wording {
    message: &'static Message,
    words: BTreeSet<String>,
    /// The kernel's error in it.
    error: Option<KernelError>,
}

static WORDS: LazyLock<Words> = LazyLock::new(Words::new);

/// The nearest messages, the nearest first; those with another error of the kernel than the line have other causes.
pub(super) fn to(line: &str, error: Option<KernelError>) -> Vec<&'static Message> {
    WORDS.nearest(line, error)
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|next: char| !next.is_ascii_alphanumeric() && next != '_')
        .filter(|word| word.len() > 2 && !word.bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_ascii_lowercase)
        .filter(|word| !EVERYWHERE.contains(&word.as_str()))
        .collect()
}

// === impl Words ===

impl Words {
    fn new() -> Words {
        let wordings = |message: &'static Message| {
            message.says.iter().map(move |says| Wording {
                message,
                words: words(says),
                error: errno::last(&plain(says)).map(|(_, error)| error),
            })
        };
        let of: Vec<Wording> = all().flat_map(wordings).collect();
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        for word in of.iter().flat_map(|wording| &wording.words) {
            *counts.entry(word.clone()).or_default() += 1.0;
        }
        // A few hundred.
        let total = f64::from(u32::try_from(of.len()).unwrap_or(u32::MAX));
        let rarity = counts.into_iter().map(|(word, count)| (word, (total / count).ln())).collect();
        Words { rarity, of }
    }

    fn nearest(&self, line: &str, error: Option<KernelError>) -> Vec<&'static Message> {
        let line = words(line);
        let nearness = |wording: &Wording| {
            let Wording { message, words, error: other } = wording;
            if error.is_some() && other.is_some() && error != *other {
                return None;
            }
            let shared: Vec<f64> =
                words.intersection(&line).filter_map(|word| self.rarity.get(word).copied()).collect();
            let sum: f64 = shared.iter().sum();
            let whole: f64 = words.iter().filter_map(|word| self.rarity.get(word)).sum();
            let is_near = shared.len() > 1 && sum >= MIN_NEARNESS && sum >= whole * MIN_SHARE;
            is_near.then_some((sum, words.len(), *message))
        };
        let mut near: Vec<(f64, usize, &'static Message)> = self.of.iter().filter_map(nearness).collect();
        // Of two that share as many words, the one with fewer other words.
        near.sort_by(|(one, size, _), (other, others, _)| other.total_cmp(one).then(size.cmp(others)));
        let best = near.first().map_or(0.0, |(sum, ..)| *sum);
        let mut shown = BTreeSet::new();
        near.retain(|(sum, _, message)| *sum > best * MIN_OF_BEST && shown.insert(message.id));
        near.into_iter().take(MAX_NEAREST).map(|(_, _, message)| message).collect()
    }
}
