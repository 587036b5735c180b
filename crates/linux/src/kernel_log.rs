//! The kernel's log, from `/dev/kmsg`.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// More than any record has: the kernel cuts them (`CONSOLE_EXT_LOG_MAX`).
const RECORD: usize = 8192;
/// The most records that are read: more than the largest buffer of a kernel in use has.
const RECORDS: usize = 200_000;

/// The records of the log that contain one of these texts, each as a line, the oldest first. Needs CAP_SYSLOG if
/// `kernel.dmesg_restrict` is set.
///
/// # Errors
/// It cannot be read.
pub fn kernel_log(device: &Path, wanted: &[&str]) -> io::Result<String> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut device = OpenOptions::new().read(true).custom_flags(flags).open(device)?;
    let (mut record, mut found) = (vec![0; RECORD], String::new());
    for _ in 0..RECORDS {
        let length = match device.read(&mut record) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The record was overwritten meanwhile; the next one is read next.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
        // "PRIORITY,NUMBER,TIME,FLAGS;TEXT", and lines with attributes that start with a space.
        let Some((_, text)) = text.split_once(';') else { continue };
        let line = text.lines().next().unwrap_or_default();
        if wanted.iter().any(|wanted| line.contains(wanted)) {
            found.push_str(line);
            found.push('\n');
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_not_there_is_an_error() {
        assert!(kernel_log(Path::new("/dev/no-such-log"), &["x"]).is_err());
    }

    #[test]
    fn the_text_of_a_record_is_kept_if_it_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmsg");
        // A file yields all records in one piece: the first one counts.
        std::fs::write(&path, "6,339,5140900,-;avc:  denied  { x }\n SUBSYSTEM=y\n").unwrap();
        assert_eq!(kernel_log(&path, &["avc:"]).unwrap(), "avc:  denied  { x }\n");
        assert_eq!(kernel_log(&path, &["apparmor="]).unwrap(), "");
    }
}
