//! A compressed tar archive.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Writes a compressed archive of these files below `directory`, owned by root and readable only by root, with
/// `seconds` as their modification time.
///
/// # Errors
/// See [`Write`].
pub fn write(to: impl Write, directory: &str, files: &[(String, Vec<u8>)], seconds: u64) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        archive.append_data(&mut header, format!("{directory}/{name}"), content.as_slice())?;
    }
    archive.into_inner()?.finish()?.flush()
}
