//! The end of a log file.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// The last `bytes` of a regular file, beginning at the first whole line. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// It cannot be read, or is not a regular file.
pub fn tail(path: &Path, bytes: u64) -> io::Result<String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let skipped = metadata.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(skipped))?;
    let mut found = Vec::new();
    file.take(bytes).read_to_end(&mut found)?;
    let text = String::from_utf8_lossy(&found);
    let whole = if skipped == 0 { Some(text.as_ref()) } else { text.split_once('\n').map(|(_, rest)| rest) };
    Ok(whole.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 1000).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(tail(&path, 8).unwrap(), "three\n");
        assert_eq!(tail(&path, 2).unwrap(), "");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(tail(&link, 10).is_err() && tail(dir.path(), 10).is_err());
    }
}
