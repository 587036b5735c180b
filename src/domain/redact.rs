//! Texts without names: each known name is replaced, the same one always by the same word.

use std::collections::BTreeMap;

/// Names and what stands for them.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// Adds a name, with the word that stands for it. Nothing stands for an empty one.
    pub fn add(&mut self, name: &str, word: String) {
        if !name.is_empty() {
            self.0.entry(name.to_owned()).or_insert(word);
        }
    }

    /// The text without them. A name counts only where it is whole: `web` in `web.1` is another
    /// name, `web` in `default/web` is not.
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

    /// A whole word; of one that is no name its parts, as in `kubepods-podUID.slice`, and at its
    /// end a full stop.
    fn word(&self, word: &str) -> String {
        if let Some(known) = self.0.get(word) {
            return known.clone();
        }
        if let Some(known) = word.strip_suffix('.').and_then(|whole| self.0.get(whole)) {
            return format!("{known}.");
        }
        // UIDs stand in the names of slices. They are long enough to be nothing else.
        let long = self.0.iter().filter(|(name, _)| name.len() >= 32);
        long.fold(word.to_owned(), |word, (name, known)| word.replace(name.as_str(), known))
    }
}

/// What a name in Kubernetes may be made of.
fn is_of_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_and_nothing_else() {
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
