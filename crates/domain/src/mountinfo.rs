//! Lines of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::borrow::Cow;

/// One mount, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo<'a> {
    /// The directory of the file system that is mounted.
    pub root: Cow<'a, str>,
    /// The mount point, relative to the process's root.
    pub point: Cow<'a, str>,
    /// Options of this mount, separated by commas.
    pub options: &'a str,
    /// The file system's type.
    pub kind: &'a str,
    /// The mount source.
    pub source: Cow<'a, str>,
    /// Options of the file system, separated by commas.
    pub super_options: &'a str,
}

// === impl MountInfo ===

impl<'a> MountInfo<'a> {
    /// Parses one line; `None` if it does not have the kernel's format.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<MountInfo<'a>> {
        // The kernel escapes spaces in every field, so splitting at spaces is safe.
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut system = system.split(' ');
        Some(MountInfo {
            root: unescape(mount.next()?),
            point: unescape(mount.next()?),
            options: mount.next()?,
            kind: system.next()?,
            source: unescape(system.next()?),
            super_options: system.next()?,
        })
    }

    /// The mount on top of others at exactly that mount point: the last one in the table. `None` if there is none, or
    /// if its line is malformed, since the mounts below it are hidden all the same.
    #[must_use]
    pub fn topmost(table: &'a str, point: &str) -> Option<MountInfo<'a>> {
        let is_there = |line: &&str| line.split(' ').nth(4).is_some_and(|field| unescape(field) == point);
        table.lines().rfind(is_there).and_then(MountInfo::parse)
    }
}

/// Whether an option is among those of a comma-separated list.
#[must_use]
pub fn has_option(options: &str, option: &str) -> bool {
    options.split(',').any(|one| one == option)
}

/// Decodes octal escapes (`\040` is a space) and keeps all other bytes.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let digits = after.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code.filter(u8::is_ascii), after.get(3..)) {
            (Some(code), Some(tail)) => {
                out.push(char::from(code));
                rest = tail;
            }
            _ => {
                out.push('\\');
                rest = after;
            }
        }
    }
    Cow::Owned(out + rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_split_into_its_fields() {
        let line = "36 35 98:0 /mnt\\0401 /mnt\\134a rw,noatime master:1 shared:2 - ext3 /dev/my\\040root rw,errors=x";
        let mount = MountInfo::parse(line).unwrap();
        assert_eq!((&*mount.root, &*mount.point, mount.options), ("/mnt 1", "/mnt\\a", "rw,noatime"));
        assert_eq!(
            (mount.kind, &*mount.source, mount.super_options),
            ("ext3", "/dev/my root", "rw,errors=x")
        );
        assert!(has_option(mount.options, "noatime") && !has_option(mount.options, "atime"));
        for malformed in ["", "36 35 98:0 / /mnt rw", "36 35 98:0 / - ext3 x rw", "1 0 0:1 / / rw - ext3 x"] {
            assert_eq!(MountInfo::parse(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn the_last_mount_on_a_mount_point_is_the_topmost() {
        let table =
            "1 0 0:1 / /a rw - ext4 x rw\n2 1 0:2 / /a rw - tmpfs y rw\n3 1 0:3 / /b\\040c rw - xfs z rw\n";
        let kind = |point| MountInfo::topmost(table, point).map(|mount| mount.kind);
        assert_eq!((kind("/a"), kind("/b c"), kind("/")), (Some("tmpfs"), Some("xfs"), None));
        // A line that was cut off must not bring back what its mount hides.
        let cut = format!("{table}4 1 0:4 / /a rw - tm");
        assert_eq!(MountInfo::topmost(&cut, "/a"), None);
    }

    proptest! {
        #[test]
        fn every_escaped_path_is_read_as_it_was(path in "[a-z \\t\\n\\\\]{1,20}") {
            let escaped: String = path
                .chars()
                .map(|char| match char {
                    'a'..='z' => char.to_string(),
                    other => format!("\\{:03o}", u32::from(other)),
                })
                .collect();
            let line = format!("1 0 0:1 / /{escaped} rw - ext4 x rw");
            let mount = MountInfo::parse(&line).unwrap();
            prop_assert_eq!(&*mount.point, format!("/{path}"));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in any::<String>()) {
            let _ = (MountInfo::parse(&text), MountInfo::topmost(&text, "/"), unescape(&text));
        }
    }
}
