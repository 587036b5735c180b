//! This program itself, as a file that the node starts: too long to be held in memory or in a journal,
//! so it is known by its digest.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ring::digest::{Context, SHA256};
use rustix::fs::{FileType, StatVfsMountFlags, fstat, fstatvfs};
use rustix::io::Errno;

use super::{HostError, HostRoot, errno_of};
use crate::domain::provision::{Attributes, HostPath};

/// proc_pid_exe(5): also where the file was replaced since.
const SELF: &str = "/proc/self/exe";
/// Programs have a handful of segments.
const MAX_SEGMENTS: u16 = 64;

/// This program's own file.
#[derive(Debug)]
pub struct OwnProgram {
    file: File,
    digest: String,
}

// === impl OwnProgram ===

impl OwnProgram {
    /// Opens it, and reads it once.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn open() -> Result<OwnProgram, HostError> {
        let open = || {
            let file = File::open(SELF)?;
            let digest = digest_of(&file)?;
            Ok(OwnProgram { file, digest })
        };
        open().map_err(|error: io::Error| HostError::Call {
            doing: "reading",
            path: PathBuf::from(SELF),
            errno: errno_of(&error),
        })
    }

    /// `sha256:` and 64 digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The program that loads it, where it is linked dynamically (elf(5), `PT_INTERP`).
    #[must_use]
    pub fn loader(&self) -> Option<String> {
        let bytes = |at: u64, count: usize| {
            let mut bytes = vec![0; count];
            self.file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
        };
        let number = |at: u64, count: usize| {
            let bytes = bytes(at, count)?;
            // All machines that containers run on, but s390x, have the lowest byte first.
            Some(bytes.iter().rev().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte)))
        };
        let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        for index in 0..count.min(MAX_SEGMENTS.into()) {
            let segment = table + index * size;
            if number(segment, 4)? == 3 {
                let (at, length) = (number(segment + 8, 8)?, number(segment + 32, 8)?);
                let text = bytes(at, usize::try_from(length).ok().filter(|length| *length < 4096)?)?;
                return String::from_utf8(text).ok().map(|text| text.trim_end_matches('\0').to_owned());
            }
        }
        None
    }
}

// === impl HostRoot ===

impl HostRoot {
    /// The digest of a file, in the form of [`OwnProgram::digest`]; `None` where there is none.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn digest(&self, path: &HostPath) -> Result<Option<String>, HostError> {
        let call = |errno| self.call("reading", path, errno);
        let Some(file) = self.open_to_read(path)? else { return Ok(None) };
        if FileType::from_raw_mode(fstat(&file).map_err(call)?.st_mode) != FileType::RegularFile {
            return Err(HostError::NotAFile { path: self.shown(path) });
        }
        digest_of(&File::from(file)).map(Some).map_err(|error| call(errno_of(&error)))
    }

    /// Replaces a file by this program, as [`HostRoot::replace`] does.
    ///
    /// # Errors
    /// See [`HostError`]; the file is still the old one.
    pub fn install(&self, path: &HostPath, program: &OwnProgram, new: &Attributes) -> Result<(), HostError> {
        let beside = self.beside(path, new, false, None, &mut |file| {
            // One system call, or a few: the kernel copies.
            let mut copy = || io::copy(&mut File::open(SELF)?, file);
            copy().map_err(|error| errno_of(&error))?;
            // Written to while it was copied: nothing of it is to be started.
            let same = digest_of(&*file).is_ok_and(|digest| digest == program.digest);
            if same { Ok(()) } else { Err(Errno::TXTBSY) }
        })?;
        self.take_place(&[beside])
    }

    /// Whether programs in this directory cannot be started, because of how it is mounted; of one that
    /// is not there, the nearest above it counts.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn is_noexec(&self, dir: &HostPath) -> Result<bool, HostError> {
        let mut dir = Some(dir.clone());
        while let Some(path) = dir {
            if let Some(file) = self.open_to_read(&path)? {
                let stat = fstatvfs(file.as_fd()).map_err(|errno| self.call("reading", &path, errno))?;
                return Ok(stat.f_flag.contains(StatVfsMountFlags::NOEXEC));
            }
            dir = path.parent();
        }
        let stat = fstatvfs(&self.dir).map_err(|errno| self.call("reading", &HostPath::fixed(""), errno))?;
        Ok(stat.f_flag.contains(StatVfsMountFlags::NOEXEC))
    }
}

/// Reads by offset: the file's own position stays.
fn digest_of(file: &File) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            break;
        }
        context.update(buffer.get(..count).unwrap_or_default());
        at += count as u64;
    }
    let digits: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{digits}"))
}
