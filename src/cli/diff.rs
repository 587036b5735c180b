//! Changes as a patch that `patch -p1` applies (GNU diffutils, "Detailed Description of Unified
//! Format").

use similar::{Algorithm, DiffOp, capture_diff_slices, group_diff_ops};

use usernsd_domain::provision::{FileChange, Form};

/// Number of context lines around a change.
const CONTEXT: usize = 3;

/// The patch, with one section for each file in the order of the changes. A created or removed file is
/// `/dev/null` on the other side. Empty if nothing changes. Binary files are left out, because patch(1) does
/// not support them.
#[must_use]
pub fn unified(changes: &[FileChange]) -> Vec<u8> {
    let mut patch = Vec::new();
    // All sections have the same form: patch(1) takes what follows a section without lines for a part of it.
    let mut shown: Vec<&FileChange> = changes.iter().filter(|change| change.is_needed()).collect();
    shown.retain(|change| change.form.is_in_a_patch());
    let is_git = shown.iter().any(|change| !is_plain(change));
    for change in shown {
        let name = |side: char, bytes: &Option<Vec<u8>>| match bytes {
            Some(_) => format!("{side}{}", change.path),
            None => "/dev/null".to_owned(),
        };
        if is_git {
            patch.extend_from_slice(header(change).as_bytes());
        }
        // Only the mode changes, or an empty file is created or removed.
        if change.old.as_deref().unwrap_or_default() == change.new.as_deref().unwrap_or_default() {
            continue;
        }
        let header = format!("--- {}\n+++ {}\n", name('a', &change.old), name('b', &change.new));
        patch.extend_from_slice(header.as_bytes());
        let [old, new] = [&change.old, &change.new].map(|bytes| lines(bytes.as_deref().unwrap_or_default()));
        // If not everyone may read the file, context lines may contain passwords.
        let context = if change.attributes.mode & 0o004 == 0 { 0 } else { CONTEXT };
        for hunk in group_diff_ops(capture_diff_slices(Algorithm::Myers, &old, &new), context) {
            write_hunk(&mut patch, &hunk, &old, &new);
        }
    }
    patch
}

/// Whether the plain form suffices: no link, no mode except 0644, no empty file that is created or removed.
fn is_plain(change: &FileChange) -> bool {
    let comes_or_goes = change.old.is_none() || change.new.is_none();
    let is_empty = change.old.as_deref().unwrap_or_default() == change.new.as_deref().unwrap_or_default();
    let other_mode = change.old.is_none() && change.attributes.mode != 0o644;
    let new_mode = change.mode_was.is_some_and(|was| was != change.attributes.mode);
    !(change.form == Form::Link || other_mode || (new_mode && !comes_or_goes) || (comes_or_goes && is_empty))
}

/// A file's header in git's format, which patch(1) supports since 2.7.
fn header(change: &FileChange) -> String {
    let mode = if change.form == Form::Link { 0o120_000 } else { 0o100_000 | change.attributes.mode };
    let mode_lines = match (&change.old, &change.new, change.mode_was) {
        (None, _, _) => format!("new file mode {mode:o}\n"),
        (_, None, _) => format!("deleted file mode {mode:o}\n"),
        (_, _, Some(was)) if was != change.attributes.mode => {
            format!("old mode {:o}\nnew mode {mode:o}\n", 0o100_000 | was)
        }
        // Nobody looks these object IDs up, but patch(1) reads the mode only if they are present.
        _ if change.form == Form::Link => format!("index 1111111..2222222 {mode:o}\n"),
        _ => String::new(),
    };
    format!("diff --git a{0} b{0}\n{mode_lines}", change.path)
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

fn write_hunk(patch: &mut Vec<u8>, hunk: &[DiffOp], old: &[&[u8]], new: &[&[u8]]) {
    let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { return };
    // Line numbers start at 1; an empty range names the line before it.
    let range = |start: usize, end: usize| match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        count => format!("{},{count}", start + 1),
    };
    let before = range(first.old_range().start, last.old_range().end);
    let after = range(first.new_range().start, last.new_range().end);
    patch.extend_from_slice(format!("@@ -{before} +{after} @@\n").as_bytes());
    for op in hunk {
        if let DiffOp::Equal { .. } = op {
            write_lines(patch, b' ', old.get(op.old_range()));
        } else {
            write_lines(patch, b'-', old.get(op.old_range()));
            write_lines(patch, b'+', new.get(op.new_range()));
        }
    }
}

fn write_lines(patch: &mut Vec<u8>, sign: u8, lines: Option<&[&[u8]]>) {
    for line in lines.unwrap_or_default() {
        patch.push(sign);
        patch.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            patch.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;
    use usernsd_domain::provision::{Attributes, HostPath, Undo};

    fn change(old: Option<&[u8]>, new: Option<&[u8]>) -> FileChange {
        FileChange {
            path: HostPath::fixed("etc/subuid"),
            form: Form::Content,
            old: old.map(<[u8]>::to_vec),
            new: new.map(<[u8]>::to_vec),
            attributes: Attributes::READABLE,
            mode_was: None,
            staging: None,
            undo: Undo::Lines,
            reasons: Vec::new(),
        }
    }

    /// The result of applying the patch of `change` to the old file with patch(1).
    fn patched(change: &FileChange) -> Option<Vec<u8>> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("etc/subuid");
        fs::create_dir(root.path().join("etc")).unwrap();
        if let Some(old) = &change.old {
            fs::write(&path, old).unwrap();
        }
        let mut patch = Command::new("patch");
        patch.args(["-p1", "--force", "--fuzz=0", "--quiet"]).current_dir(root.path()).stdin(Stdio::piped());
        let mut child = patch.stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&unified(std::slice::from_ref(change))).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        fs::read(&path).ok()
    }

    #[test]
    fn a_change_is_printed_as_a_unified_diff() {
        let text = unified(&[change(Some(b"a\nb"), Some(b"a\nb\nc\n"))]);
        let want = "--- a/etc/subuid\n+++ b/etc/subuid\n@@ -1,2 +1,3 @@\n a\n-b\n\\ No newline at end of file\n+b\n+c\n";
        assert_eq!(String::from_utf8(text).unwrap(), want);
        let text = unified(&[change(None, Some(b"a\n"))]);
        assert_eq!(String::from_utf8(text).unwrap(), "--- /dev/null\n+++ b/etc/subuid\n@@ -0,0 +1 @@\n+a\n");
        assert_eq!(unified(&[change(Some(b"a\n"), Some(b"a\n"))]), b"");
    }

    #[test]
    fn a_secret_file_has_no_context_lines() {
        let secret = FileChange {
            attributes: Attributes::SECRET,
            ..change(Some(b"root:hash\n"), Some(b"root:hash\nkubelet:!*\n"))
        };
        let text = String::from_utf8(unified(std::slice::from_ref(&secret))).unwrap();
        assert_eq!(text, "--- a/etc/subuid\n+++ b/etc/subuid\n@@ -1,0 +2 @@\n+kubelet:!*\n");
        assert_eq!(patched(&secret), secret.new);
    }

    #[test]
    fn patch_reproduces_the_change() {
        for (old, new) in [
            (None, Some(&b"a\n"[..])),
            (Some(&b"a\n"[..]), None),
            (Some(b""), Some(b"a")),
            (Some(b"a\r\nb\r"), Some(b"a\r\nb\r\nc\xff\x00d\n")),
            (Some(b"x\ry\n"), Some(b"x\ry\nz\n")),
        ] {
            let change = change(old, new);
            assert_eq!(patched(&change), change.new, "{change:?}");
        }
    }

    #[test]
    fn links_and_modes_are_part_of_the_patch() {
        let link = |old, new| FileChange { form: Form::Link, ..change(old, new) };
        for (before, change) in [
            ("true", link(None, Some(b"/usr/lib/x"))),
            ("ln -s /usr/lib/x etc/subuid", link(Some(b"/usr/lib/x"), None)),
            ("ln -s /usr/lib/x etc/subuid", link(Some(b"/usr/lib/x"), Some(b"/dev/null"))),
        ] {
            let root = tempfile::tempdir().unwrap();
            let patch = root.path().join("patch");
            fs::write(&patch, unified(std::slice::from_ref(&change))).unwrap();
            let script = format!("mkdir etc && {before} && patch -p1 --force --fuzz=0 --quiet <patch");
            let done = Command::new("sh").args(["-ec", &script]).current_dir(root.path()).status().unwrap();
            assert!(done.success(), "{change:?}");
            let found = fs::read_link(root.path().join("etc/subuid")).ok();
            let want = change.new.map(|target| String::from_utf8(target).unwrap().into());
            assert_eq!(found, want);
        }
        let empty = change(None, Some(b""));
        assert_eq!(patched(&empty), empty.new);
        let mode = FileChange { mode_was: Some(0o600), ..change(Some(b"a\n"), Some(b"a\n")) };
        let text = String::from_utf8(unified(&[mode])).unwrap();
        assert_eq!(text, "diff --git a/etc/subuid b/etc/subuid\nold mode 100600\nnew mode 100644\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn patch_reproduces_any_change(
            old in proptest::collection::vec("[ab\r]{0,2}\n", 1..30), at in 0..30_usize, new in "[ab\n\r]{1,4}", cut: bool,
        ) {
            let mut lines = old.clone();
            lines.insert(at.min(lines.len()), new);
            let mut text = lines.concat();
            if cut { text.pop(); }
            let change = change(Some(old.concat().as_bytes()), Some(text.as_bytes()));
            if change.is_needed() && !text.is_empty() {
                prop_assert_eq!(patched(&change), change.new.clone());
            }
        }
    }
}
