//! Removes names from texts: each known name is replaced, always by the same word, and words that may be unknown names
//! are left out.

mod vocabulary;

use std::collections::BTreeMap;

pub use vocabulary::{own_words, without_uids};

/// Known names with their replacements.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// Adds a name with its replacement. An empty name is ignored.
    pub fn add(&mut self, name: &str, word: String) {
        if !name.is_empty() {
            self.0.entry(name.to_owned()).or_insert(word);
        }
    }

    /// The replacement of a known name.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The text with known names replaced. Only whole names are replaced: in `web.1`, `web` is part of another name;
    /// in `default/web` it is not.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut word = String::new();
        for char in text.chars() {
            if is_of_name(char) {
                word.push(char);
                continue;
            }
            out.push_str(&self.word(&word));
            word.clear();
            out.push(char);
        }
        out + &self.word(&word)
    }

    /// Replaces a whole word; if it is not a known name, then its parts, as in `kubepods-podUID.slice`, without a
    /// full stop at its end.
    fn word(&self, word: &str) -> String {
        if let Some(known) = self.0.get(word) {
            return known.clone();
        }
        if let Some(known) = word.strip_suffix('.').and_then(|whole| self.0.get(whole)) {
            return format!("{known}.");
        }
        // Slice names contain UIDs, which are long enough to be replaced anywhere.
        let long = self.0.iter().filter(|(name, _)| name.len() >= 32);
        long.fold(word.to_owned(), |word, (name, known)| word.replace(name.as_str(), known))
    }
}

/// Fields of log lines that contain a name, with the kind of the name.
const NAMED: [(&str, &str); 3] = [("name", "container"), ("pod", "pod"), ("namespace", "namespace")];
/// Fields of log lines that contain an identifier from the runtime.
const IDS: [&str; 2] = ["container", "sandbox"];
/// Fields of log lines that contain a number or one of this program's own words.
const PLAIN: [&str; 23] = [
    "action",
    "after_us",
    "agent",
    "cgroup_namespace",
    "check",
    "containers",
    "from",
    "looked",
    "milliseconds",
    "mounts",
    "outcome",
    "owner",
    "pid",
    "pods",
    "policy",
    "request",
    "runtime",
    "seconds",
    "source",
    "summary",
    "to",
    "uid",
    "version",
];

/// A line of the agent's log without names, known or unknown: of time, level and sentence, only this program's own words
/// are kept; of the other fields, only known safe ones. `hashed` returns the replacement of a name, given its kind.
/// `None` for a line of another format.
#[must_use]
pub fn log_line(line: &str, hashed: &dyn Fn(&str, &str) -> String) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let (time, level) = (words.next()?, words.next()?);
    let is_time =
        time.contains('T') && time.bytes().all(|byte| byte.is_ascii_digit() || b"-+.:TZ".contains(&byte));
    if !is_time || !["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level) {
        return None;
    }
    let mut out = format!("{time} {level}");
    // Words between two fields: the sentence, or the rest of the field before them.
    let mut output = String::new();
    // Whether the field that continues after blanks is kept; the first words are the sentence.
    let mut stays = true;
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| is_key(key)) else {
            if stays {
                output.extend([" ", word]);
            }
            continue;
        };
        out += &own_words(&output, hashed);
        output.clear();
        stays = PLAIN.contains(&key);
        let shown = log_field(key, value.trim_matches('"'), hashed);
        out.extend([" ", key, "=", &shown]);
    }
    out += &own_words(&output, hashed);
    Some(out)
}

/// The value of a log field if it contains no name, otherwise its replacement.
#[must_use]
pub fn log_field(key: &str, value: &str, hashed: &dyn Fn(&str, &str) -> String) -> String {
    let kind = NAMED.iter().find(|(named, _)| *named == key).map(|(_, kind)| *kind);
    let is_id = IDS.contains(&key) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind {
        Some(kind) => hashed(kind, value),
        None if is_id => value.to_owned(),
        None if PLAIN.contains(&key) => own_words(value, hashed),
        None => "(left out)".to_owned(),
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Whether a name in Kubernetes may contain the character.
fn is_of_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_keeps_this_programs_own_words() {
        let hashed = |kind: &str, name: &str| format!("{kind}-{}", name.len());
        let time = "2026-11-21T08:52:00.123456Z";
        for (line, want) in [
            (
                "  INFO handed the cgroup over container=0123abcd name=box pod=web namespace=\"team\" after_us=12",
                "INFO handed the cgroup over container=0123abcd name=container-3 pod=pod-3 namespace=namespace-4 after_us=12",
            ),
            (
                "  WARN could not inspect the container container=box error=container box of pod team/web: no source=nri",
                "WARN could not inspect the container container=(left out) error=(left out) source=nri",
            ),
            (
                " DEBUG checked the node summary=1 error, 2 passed. It is not.",
                "DEBUG checked the node summary=1 error, 2 passed. It is not.",
            ),
            (" WARN ended detail=a pod=web says b", "WARN ended detail=(left out) pod=pod-3"),
            (" WARN no pod acme/zzyzx, no acme-web", "WARN no pod (left out)/(left out), no (left out)"),
        ] {
            assert_eq!(log_line(&format!("{time}{line}"), &hashed).unwrap(), format!("{time} {want}"));
        }
        for line in ["", "thread 'web' panicked", "web WARN x", "2026-11-21T08:52:00Z web x"] {
            assert_eq!(log_line(line, &hashed), None, "{line}");
        }
    }

    #[test]
    fn only_whole_names_are_replaced() {
        let mut names = Names::default();
        for (name, word) in [("web", "W"), ("web-0", "W0"), ("team-a", "T"), ("", "never")] {
            names.add(name, word.to_owned());
        }
        names.add("c7f11ee7_e178_4dea_9d8c_c005ad648988", "U".to_owned());
        for (text, want) in [
            ("container web of pod team-a/web-0 ended.", "container W of pod T/W0 ended."),
            ("pod=web-0, name=\"web\"", "pod=W0, name=\"W\""),
            ("webby web.1 my-web", "webby web.1 my-web"),
            ("It was web.", "It was W."),
            ("kubepods-podc7f11ee7_e178_4dea_9d8c_c005ad648988.slice/x", "kubepods-podU.slice/x"),
            ("", ""),
        ] {
            assert_eq!(names.redact(text), want);
        }
    }
}
