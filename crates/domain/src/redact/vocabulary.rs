//! Which words of a text may leave the node with names removed. Names of pods and namespaces occur in sentences, file
//! names and errors of others, also names that nobody here knows any more. So a word is not removed because it is a
//! name, but kept because it is one of this program's own words, a number, a version or an identifier.

use std::collections::HashSet;
use std::sync::LazyLock;

/// The words of the program's own messages, one a line; generated from the sources (`tests/it/docs.rs`).
const WORDS: &str = include_str!("words.txt");
static OWN: LazyLock<HashSet<&str>> = LazyLock::new(|| WORDS.lines().collect());

/// The replacement of a word.
const LEFT_OUT: &str = "(left out)";
/// Words after which a name follows.
const BEFORE_NAME: [&str; 8] = ["container", "image", "namespace", "node", "pod", "sandbox", "user", "group"];
/// Words that may follow those and are not names.
const NO_NAME: [&str; 70] = [
    "a",
    "all",
    "already",
    "an",
    "and",
    "are",
    "as",
    "asked",
    "asks",
    "at",
    "be",
    "before",
    "by",
    "can",
    "cannot",
    "created",
    "does",
    "ended",
    "exists",
    "for",
    "from",
    "gets",
    "goes",
    "had",
    "has",
    "have",
    "id",
    "ids",
    "in",
    "into",
    "is",
    "it",
    "its",
    "may",
    "mapping",
    "must",
    "name",
    "namespace",
    "namespaces",
    "needs",
    "never",
    "no",
    "not",
    "of",
    "on",
    "only",
    "or",
    "ranges",
    "root",
    "runs",
    "runtime",
    "runtimes",
    "security",
    "started",
    "starts",
    "than",
    "that",
    "the",
    "then",
    "there",
    "this",
    "to",
    "was",
    "were",
    "which",
    "while",
    "whose",
    "will",
    "with",
    "without",
];
/// The shortest word of hexadecimal digits that is taken for an identifier of a runtime or a hash of ours.
const IDENTIFIER: usize = 12;

/// The text with every word removed that may be a name. `hashed` returns the replacement of a pod's UID.
#[must_use]
pub fn own_words(text: &str, hashed: &dyn Fn(&str, &str) -> String) -> String {
    let text = without_uids(text, hashed);
    let mut out = String::with_capacity(text.len());
    let mut follows = false;
    for token in text.split_inclusive(char::is_whitespace) {
        let is_pair = is_pair(token);
        let mut rest = token;
        while !rest.is_empty() {
            let length = rest.find(|char| !is_of_word(char)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length);
            let bare = word.trim_end_matches('.');
            if !bare.is_empty() {
                let is_at_name = is_pair || follows && !is_grammar(bare);
                out += if is_own(bare) && !is_at_name { bare } else { LEFT_OUT };
                follows = BEFORE_NAME.contains(&bare.to_ascii_lowercase().as_str());
            }
            out += word.get(bare.len()..).unwrap_or_default();
            let mut chars = after.chars();
            if let Some(char) = chars.next() {
                // "the pod: it" and "pod=x" are not sentences about a name; in `pod "x"` the name follows.
                follows &= char.is_whitespace() || char == '"' || char == '\'';
                out.push(char);
            }
            rest = chars.as_str();
        }
    }
    out
}

/// The text with every UID of a pod replaced, in both forms: with `-`, and with `_` as in the names of slices. A static
/// pod's UID has neither.
#[must_use]
pub fn without_uids(text: &str, hashed: &dyn Fn(&str, &str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let run = rest.find(|char: char| !char.is_ascii_hexdigit() && char != '-' && char != '_');
        let run = rest.get(..run.unwrap_or(rest.len())).unwrap_or_default();
        // In "podc7f1…" and "d-c7f1…" the digits before do not belong to it.
        let starts = !out.ends_with(|char: char| char.is_ascii_hexdigit());
        match uid(run).filter(|_| starts || out.ends_with("pod")) {
            Some(length) => {
                let (uid, after) = rest.split_at(length);
                out += &hashed("uid", &uid.replace('_', "-"));
                rest = after;
            }
            None => {
                out.push(char);
                rest = rest.get(char.len_utf8()..).unwrap_or_default();
            }
        }
    }
    out
}

/// The length of the UID with which a text of hexadecimal digits, `-` and `_` begins.
fn uid(run: &str) -> Option<usize> {
    let is_hex =
        |text: Option<&str>| text.is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let is_end = |at: usize| !run.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    let is_separator = |at: usize| run.as_bytes().get(at).is_some_and(|byte| b"-_".contains(byte));
    let groups = [(0, 8), (9, 13), (14, 18), (19, 23), (24, 36)];
    if groups.iter().all(|(from, to)| is_hex(run.get(*from..*to)))
        && [8, 13, 18, 23].into_iter().all(is_separator)
        && is_end(36)
    {
        return Some(36);
    }
    (is_hex(run.get(..32)) && is_end(32)).then_some(32)
}

/// `namespace/name`, and not a path.
fn is_pair(token: &str) -> bool {
    let token = token.trim_start_matches(|char: char| !char.is_ascii_alphanumeric() && char != '/');
    let token = token.rsplit_once('=').map_or(token, |(_, value)| value.trim_start_matches('"'));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match token.split_once('/') {
        Some((before, after)) => {
            let is_fraction = is_number(before) && is_number(after.trim_end());
            !(before.is_empty() || before.ends_with(':') || is_fraction)
        }
        None => false,
    }
}

fn is_of_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || "-._".contains(char)
}

fn is_grammar(word: &str) -> bool {
    NO_NAME.contains(&word.to_ascii_lowercase().as_str()) || is_replacement(word)
}

/// A hash of ours, as `pod-0123456789abcdef`.
fn is_replacement(word: &str) -> bool {
    let kinds = ["container", "namespace", "node", "pod", "poduid", "uid", "user"];
    word.split_once('-').is_some_and(|(kind, hash)| kinds.contains(&kind) && is_identifier(hash))
}

fn is_identifier(word: &str) -> bool {
    word.len() >= IDENTIFIER && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_own(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let is_known = |part: &str| {
        // As in "10-crio.conf".
        let bare = part.trim_start_matches(|char: char| char.is_ascii_digit());
        OWN.contains(bare.strip_prefix('-').unwrap_or(part)) || OWN.contains(part)
    };
    is_number(word)
        || is_known(&lower)
        || lower.split('.').all(is_known)
        || is_identifier(word)
        || is_replacement(word)
        || is_unit(&lower)
}

/// Numbers, times, and versions, which begin with two numbers: `2026-11-29T21`, `1.7.24`, `v2.0.0-rc.1`, `20m`.
fn is_number(word: &str) -> bool {
    let number = word.strip_prefix('v').unwrap_or(word);
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    let rest = number.get(digits..).unwrap_or_default();
    let is_time = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b"-.TZ_".contains(&byte));
    let is_version =
        rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(|char: char| char.is_ascii_digit()));
    let is_unit = ["s", "m", "h", "ms", "us", "ns", "k", "x"].contains(&rest) && word.len() > rest.len();
    let is_hex =
        word.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits > 0 && (is_time(rest) || is_version || is_unit) || is_hex
}

/// A slice or scope of systemd's of which each part is known: `kubepods-burstable-poduid-0123456789abcdef.slice`.
fn is_unit(word: &str) -> bool {
    let Some((name, kind)) = word.rsplit_once('.') else { return false };
    let is_part = |part: &str| {
        part.is_empty() || part == "poduid" || is_number(part) || is_identifier(part) || OWN.contains(part)
    };
    ["scope", "slice"].contains(&kind) && name.split(['-', '.', '_']).all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> String {
        own_words(text, &|kind, _| format!("{kind}-0123456789abcdef"))
    }

    #[test]
    fn names_are_left_out_wherever_they_are() {
        let (uid, slice) = ("c7f11ee7-e178-4dea-9d8c-c005ad648988", "c7f11ee7_e178_4dea_9d8c_c005ad648988");
        for (text, want) in [
            (
                "waiting for the removal of pod acme/agent, which has 16.8 MiB of it.",
                "waiting for the removal of pod (left out)/(left out), which has 16.8 MiB of it.",
            ),
            ("container agent of pod kernel ended", "container (left out) of pod (left out) ended"),
            ("pod \"agent\" and namespace 'kernel'", "pod \"(left out)\" and namespace '(left out)'"),
            ("reading acme-payments: no such file", "reading (left out): no such file"),
            ("sandbox zzyzx is gone", "sandbox (left out) is gone"),
            ("acme.", "(left out)."),
        ] {
            assert_eq!(kept(text), want);
        }
        let path =
            |uid: &str| format!("/kubepods.slice/kubepods-pod{uid}.slice/crio-{}.scope", "0a".repeat(32));
        assert_eq!(kept(&path(slice)), path("uid-0123456789abcdef"));
        assert_eq!(
            kept(&format!("pod_uid={uid}")),
            "pod_uid=uid-0123456789abcdef".replace("pod_uid", &kept("pod_uid"))
        );
        let logs = kept(&format!("/var/log/pods/acme_zzyzx_{uid}/x"));
        assert!(!logs.contains("acme") && !logs.contains(uid), "{logs}");
        assert_eq!(without_uids(&"0a".repeat(16), &|kind, _| kind.to_owned()), "uid");
        assert_eq!(without_uids(&"0a".repeat(32), &|kind, _| kind.to_owned()), "0a".repeat(32));
    }

    #[test]
    fn own_words_numbers_and_identifiers_are_kept() {
        for text in [
            "the container runs in the host's user namespace, and its pod asked for one of its own",
            "2026-11-29T21:02:00.123456Z WARN read-only /sys/fs/cgroup: 65536 IDs from 200000 on, 3/4 of 10",
            "unix:///run/containerd/containerd.sock",
            "containerd 1.7.24, v2.0.0-rc.1, 6.1.0-18-amd64",
            "container=0123456789ab pid=12",
            "pod pod-0123456789abcdef of namespace namespace-0123456789abcdef",
            "",
        ] {
            assert_eq!(kept(text), text);
        }
    }
}
