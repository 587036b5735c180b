//! The files that a file of containerd's configuration imports (`resolveImports` in
//! `cmd/containerd/server/config` of 2.x, `services/server/config` of 1.7).

/// An entry of `imports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Import {
    /// A single file; containerd does not start without it.
    File(String),
    /// Every file whose path has these components, some of which are patterns.
    Pattern(Vec<String>),
    /// A pattern that is malformed, with which containerd does not start.
    Malformed(String),
}

/// Reads an entry of `imports` in the file `parent` (an absolute path); a relative entry is relative to its
/// directory.
#[must_use]
pub fn import(parent: &str, entry: &str) -> Import {
    let directory = parent.rsplit_once('/').map_or("", |(directory, _)| directory);
    let text = if entry.starts_with('/') { entry.to_owned() } else { format!("{directory}/{entry}") };
    let mut components: Vec<&str> = Vec::new();
    // Like Go's `filepath.Clean`.
    for component in text.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            component => components.push(component),
        }
    }
    let path = format!("/{}", components.join("/"));
    if !path.contains('*') {
        Import::File(path)
    } else if components.iter().all(|component| Letter::all(component).is_some()) {
        Import::Pattern(components.into_iter().map(str::to_owned).collect())
    } else {
        Import::Malformed(path)
    }
}

/// A part of a pattern that stands for one letter of a name, or for any number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Letter {
    Any,
    One,
    Exactly(char),
    /// `[…]`: one that is, or with `^` is not, in these ranges.
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Letter {
    /// The parts of a pattern, as in Go's `filepath.Match`; `None` if it is malformed.
    fn all(pattern: &str) -> Option<Vec<Letter>> {
        let mut letters = Vec::new();
        let mut rest = pattern.chars();
        while let Some(letter) = rest.next() {
            letters.push(match letter {
                '*' => Letter::Any,
                '?' => Letter::One,
                '\\' => Letter::Exactly(rest.next()?),
                '[' => Letter::class(&mut rest)?,
                letter => Letter::Exactly(letter),
            });
        }
        Some(letters)
    }

    /// What follows an opening bracket, up to the closing one. A class has at least one letter.
    fn class(rest: &mut std::str::Chars<'_>) -> Option<Letter> {
        let is_negated = rest.as_str().starts_with('^');
        if is_negated {
            rest.next();
        }
        let mut ranges = Vec::new();
        loop {
            if rest.as_str().starts_with(']') && !ranges.is_empty() {
                rest.next();
                return Some(Letter::Class { is_negated, ranges });
            }
            let first = Letter::bound(rest)?;
            let last = if rest.as_str().starts_with('-') {
                rest.next();
                Letter::bound(rest)?
            } else {
                first
            };
            ranges.push((first, last));
        }
    }

    /// An end of a range in a class.
    fn bound(rest: &mut std::str::Chars<'_>) -> Option<char> {
        match rest.next()? {
            '-' | ']' => None,
            '\\' => rest.next(),
            letter => Some(letter),
        }
    }

    fn fits(&self, letter: char) -> bool {
        match self {
            Letter::Any | Letter::One => true,
            Letter::Exactly(exactly) => *exactly == letter,
            Letter::Class { is_negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&letter)) != *is_negated
            }
        }
    }
}

/// Whether a component of a path is a pattern.
#[must_use]
pub fn is_pattern(component: &str) -> bool {
    component.contains(['*', '?', '[', '\\'])
}

/// Whether a name matches a component that is a pattern, as in Go's `filepath.Match`: a leading dot is not special.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some(pattern) = Letter::all(pattern) else { return false };
    let name: Vec<char> = name.chars().collect();
    // For each prefix length of the name: whether the pattern read so far matches that prefix.
    let mut reached = vec![false; name.len() + 1];
    reached.first_mut().into_iter().for_each(|first| *first = true);
    for letter in &pattern {
        let mut next = vec![false; name.len() + 1];
        for (length, slot) in next.iter_mut().enumerate() {
            *slot = match (letter, length.checked_sub(1)) {
                (Letter::Any, _) => reached.iter().take(length + 1).any(|is_reached| *is_reached),
                (_, None) => false,
                (letter, Some(before)) => {
                    name.get(before).is_some_and(|one| letter.fits(*one))
                        && reached.get(before) == Some(&true)
                }
            };
        }
        reached = next;
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_resolved_as_by_containerd() {
        let pattern = |parts: &[&str]| Import::Pattern(parts.iter().map(|part| (*part).to_owned()).collect());
        for (parent, entry, want) in [
            ("/etc/containerd/config.toml", "/x.toml", Import::File("/x.toml".into())),
            ("/etc/containerd/config.toml", "x.toml", Import::File("/etc/containerd/x.toml".into())),
            ("/etc/containerd/config.toml", "../x//./y.toml", Import::File("/etc/x/y.toml".into())),
            // Without an asterisk it is not a pattern.
            ("/etc/containerd/config.toml", "/x?[a].toml", Import::File("/x?[a].toml".into())),
            (
                "/etc/containerd/config.toml",
                "conf.d/*.toml",
                pattern(&["etc", "containerd", "conf.d", "*.toml"]),
            ),
            ("/opt/a.toml", "/etc/*/x*", pattern(&["etc", "*", "x*"])),
            ("/opt/a.toml", "[0-9]*.toml", pattern(&["opt", "[0-9]*.toml"])),
            ("/opt/a.toml", "[ab*", Import::Malformed("/opt/[ab*".into())),
            ("/opt/a.toml", "[]a]*", Import::Malformed("/opt/[]a]*".into())),
            ("/opt/a.toml", "[a-]*", Import::Malformed("/opt/[a-]*".into())),
            ("/opt/a.toml", "*\\", Import::Malformed("/opt/*\\".into())),
        ] {
            assert_eq!(import(parent, entry), want, "{parent} {entry}");
        }
    }

    #[test]
    fn a_pattern_matches_as_in_go() {
        for (pattern, name, want) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", ".a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("a?c*", "abc", true),
            ("a?c*", "ac", false),
            ("**", "", true),
            ("", "a", false),
            ("*a*b", "xaybzb", true),
            ("[0-9]*.toml", "50-nri.toml", true),
            ("[0-9]*.toml", "nri.toml", false),
            ("[0-9][0-9]-*.toml", "5-nri.toml", false),
            ("[^a-c]*", "d", true),
            ("[^a-c]*", "b", false),
            ("[!a]*", "!", true),
            ("[\\]a]*", "]", true),
            ("\\*x*", "*xy", true),
            ("\\*x*", "axy", false),
            ("[a*", "a", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
