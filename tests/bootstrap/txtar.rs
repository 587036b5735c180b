//! Several files in one text, in Go's txtar form, with extensions: links (`-- NAME -> TARGET --`),
//! directories (`-- NAME/ --`), and in parentheses after a name `no final newline`, or `escaped` for bytes
//! that are not text (`\\r`, `\\0`, `\\xNN`).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    File(Vec<u8>),
    Link(String),
    Directory,
}

/// All entries of a text, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Archive {
    entries: Vec<(String, Content)>,
}

/// An entry with its name.
pub(crate) struct Named<'a>(&'a str, &'a Content);

impl Archive {
    /// Parses a text; everything before the first entry is a comment.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut entries: Vec<(String, Content)> = Vec::new();
        let mut flags = "";
        for line in text.split_inclusive('\n') {
            let header = line.strip_prefix("-- ").and_then(|rest| rest.trim_end().strip_suffix(" --"));
            let Some(header) = header else {
                if let Some((name, content)) = entries.last_mut() {
                    let Content::File(bytes) = content else { return Err(format!("{name} has no content")) };
                    if flags.contains("escaped") {
                        bytes.extend(unescape(line).ok_or_else(|| format!("{name}: {line:?}"))?);
                    } else {
                        bytes.extend(line.as_bytes());
                    }
                }
                continue;
            };
            finish(&mut entries, flags);
            let (name, given) = header.split_once(" (").unwrap_or((header, ""));
            flags = given;
            entries.push(match name.split_once(" -> ") {
                Some((name, target)) => (name.to_owned(), Content::Link(target.to_owned())),
                None if name.ends_with('/') => (name.to_owned(), Content::Directory),
                None => (name.to_owned(), Content::File(Vec::new())),
            });
        }
        finish(&mut entries, flags);
        Ok(Archive { entries })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.entries.iter().find(|(known, _)| known == name).and_then(|(_, content)| match content {
            Content::File(bytes) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        })
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, Named<'_>)> {
        self.entries.iter().map(|(name, content)| (name.as_str(), Named(name, content)))
    }
}

/// Removes the last newline from an entry with the flag `no final newline`.
fn finish(entries: &mut [(String, Content)], flags: &str) {
    if let Some((_, Content::File(bytes))) = entries.last_mut()
        && flags.contains("no final newline")
    {
        bytes.pop();
    }
}

impl Named<'_> {
    pub(crate) fn write(&self, below: &Path) -> io::Result<()> {
        let path = below.join(self.0);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match self.1 {
            Content::File(bytes) => fs::write(path, bytes),
            Content::Link(target) => symlink(target, path),
            Content::Directory => fs::create_dir_all(path),
        }
    }
}

fn unescape(line: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'r' => b'\r',
                b'0' => 0,
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                b'\\' => b'\\',
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(bytes)
}
