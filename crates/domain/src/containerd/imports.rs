//! The files that a file of containerd's configuration imports (`resolveImports` in
//! `cmd/containerd/server/config` of 2.x, `services/server/config` of 1.7).

/// An entry of `imports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Import {
    /// A single file; containerd does not start without it.
    File(String),
    /// Every file whose path has these components, some of which are patterns.
    Pattern(Vec<String>),
    /// A pattern with more than `*` and `?`.
    NotUnderstood(String),
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
    } else if path.contains(['[', '\\']) {
        Import::NotUnderstood(path)
    } else {
        Import::Pattern(components.into_iter().map(str::to_owned).collect())
    }
}

/// Whether a component of a path is a pattern.
#[must_use]
pub fn is_pattern(component: &str) -> bool {
    component.contains(['*', '?'])
}

/// Whether a name matches a component with `*` and `?`, as in Go's `filepath.Match`: a leading dot is not special.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // For each prefix length of the name: whether the pattern read so far matches that prefix.
    let mut reached = vec![false; name.len() + 1];
    reached.first_mut().into_iter().for_each(|first| *first = true);
    for letter in pattern {
        let mut next = vec![false; name.len() + 1];
        for (length, slot) in next.iter_mut().enumerate() {
            *slot = match (letter, length.checked_sub(1)) {
                ('*', _) => reached.iter().take(length + 1).any(|is_reached| *is_reached),
                (_, None) => false,
                (letter, Some(before)) => {
                    let fits = letter == '?' || name.get(before) == Some(&letter);
                    fits && reached.get(before) == Some(&true)
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
            ("/opt/a.toml", "[ab]*", Import::NotUnderstood("/opt/[ab]*".into())),
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
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
