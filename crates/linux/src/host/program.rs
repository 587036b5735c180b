//! This program as a file that the node starts. It is too large to be kept in memory or in a journal, so it is
//! identified by its digest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use ring::digest::{Context, SHA256};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags, fstat, fstatvfs, openat2,
    readlink, statx,
};
use rustix::io::Errno;

use super::{HostError, HostRoot, errno_of};
use usernsd_domain::provision::{Attributes, HostPath};

/// proc_pid_exe(5); valid even if the file was replaced.
const SELF: &str = "/proc/self/exe";
/// Programs have a handful of segments.
const MAX_SEGMENTS: u16 = 64;

/// Digest of the file at [`SELF`], which cannot be written to while it runs (execve(2), ETXTBSY).
static DIGEST: OnceLock<String> = OnceLock::new();

/// This program's own file.
#[derive(Debug)]
pub struct OwnProgram {
    file: File,
    digest: String,
}

// === impl OwnProgram ===

impl OwnProgram {
    /// Opens the file. Its contents are read once in the life of the process.
    ///
    /// # Errors
    /// `/proc` is missing.
    pub fn open() -> Result<OwnProgram, HostError> {
        let open = || {
            let file = File::open(SELF)?;
            let digest = match DIGEST.get() {
                Some(digest) => digest.clone(),
                None => {
                    let digest = digest_of(&file)?;
                    DIGEST.get_or_init(|| digest).clone()
                }
            };
            Ok(OwnProgram { file, digest })
        };
        open().map_err(|error: io::Error| HostError::Call {
            doing: "reading",
            path: PathBuf::from(SELF),
            errno: errno_of(&error),
        })
    }

    /// `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The program's dynamic loader, if it is dynamically linked.
    #[must_use]
    pub fn loader(&self) -> Option<String> {
        loader_of(&self.file)
    }
}

// === impl HostRoot ===

impl HostRoot {
    /// The digest of a file, in the form of [`OwnProgram::digest`]; `None` if it does not exist.
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

    /// A program's dynamic loader, if it is dynamically linked.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn loader(&self, path: &HostPath) -> Result<Option<String>, HostError> {
        Ok(self.open_to_read(path)?.map(File::from).as_ref().and_then(loader_of))
    }

    /// Device and inode of a file; `None` if it does not exist. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn identity(&self, path: &HostPath) -> Result<Option<(u64, u64)>, HostError> {
        let Some(handle) = self.handle(path)? else { return Ok(None) };
        let stat = fstat(handle).map_err(|errno| self.call("reading", path, errno))?;
        Ok(Some((stat.st_dev, stat.st_ino)))
    }

    /// Replaces a file by this program, like [`HostRoot::replace`].
    ///
    /// # Errors
    /// See [`HostError`]; the file is unchanged.
    pub fn install(
        &self,
        path: &HostPath,
        program: &OwnProgram,
        new: &Attributes,
        staging: Option<&HostPath>,
    ) -> Result<(), HostError> {
        let beside = self.beside(path, new, false, staging, &mut |file| {
            // The kernel copies the file, in one or a few system calls.
            let mut copy = || io::copy(&mut File::open(SELF)?, file);
            copy().map_err(|error| errno_of(&error))?;
            // If it was written to during the copy, nothing of it may be started.
            let same = digest_of(&*file).is_ok_and(|digest| digest == program.digest);
            if same { Ok(()) } else { Err(Errno::TXTBSY) }
        })?;
        self.take_place(&[beside])
    }

    /// Whether the directory's mount forbids starting programs; for a missing directory, the nearest existing one
    /// above counts.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn is_noexec(&self, dir: &HostPath) -> Result<bool, HostError> {
        Ok(self.mount_flags(dir)?.contains(StatVfsMountFlags::NOEXEC))
    }

    /// Whether the directory's mount is read-only; for a missing directory, the nearest existing one above counts.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn is_read_only(&self, dir: &HostPath) -> Result<bool, HostError> {
        Ok(self.mount_flags(dir)?.contains(StatVfsMountFlags::RDONLY))
    }

    /// Whether two directories are on one mount, so that a file can be renamed from one to the other; for a missing
    /// directory, the nearest existing one above counts.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn is_one_file_system(&self, dirs: [&HostPath; 2]) -> Result<bool, HostError> {
        let [one, other] = dirs;
        Ok(self.mount_of(one)? == self.mount_of(other)?)
    }

    /// Identifies the mount of a directory: its mount ID if the kernel reports it (since 5.8), otherwise its device,
    /// which a bind mount shares with its source.
    fn mount_of(&self, dir: &HostPath) -> Result<(Option<u64>, u64), HostError> {
        let call = |errno| self.call("reading", dir, errno);
        let handle = self.nearest(dir)?;
        let device = fstat(&handle).map_err(call)?.st_dev;
        match statx(&handle, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
            Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok((Some(stat.stx_mnt_id), device)),
            Ok(_) | Err(Errno::NOSYS) => Ok((None, device)),
            Err(errno) => Err(call(errno)),
        }
    }

    /// The directory's path without symbolic links; parts of it need not exist.
    ///
    /// # Errors
    /// See [`HostError`]; a link leads out of the root.
    pub fn without_links(&self, dir: &HostPath) -> Result<HostPath, HostError> {
        let call = |errno| self.call("looking for", dir, errno);
        let (mut there, mut rest) = (dir.clone(), Vec::new());
        let handle = loop {
            match self.handle(&there)? {
                Some(handle) => break handle,
                None => {
                    // A dangling link is in the place of the directory.
                    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                    if openat2(&self.dir, there.as_str(), flags, Mode::empty(), resolve).is_ok() {
                        return Err(HostError::Link { path: self.shown(&there) });
                    }
                    rest.push(there.name().to_owned());
                    match there.parent() {
                        Some(parent) => there = parent,
                        None => return Ok(dir.clone()),
                    }
                }
            }
        };
        let path_of = |fd: BorrowedFd<'_>| {
            let path = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()).map_err(call)?;
            Ok::<_, HostError>(path.to_string_lossy().into_owned())
        };
        let (root, found) = (path_of(self.dir.as_fd())?, path_of(handle.as_fd())?);
        let below = found.strip_prefix(root.trim_end_matches('/')).ok_or_else(|| call(Errno::XDEV))?;
        let mut path = below.trim_start_matches('/').to_owned();
        for name in rest.iter().rev() {
            path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        }
        HostPath::parse(&path).map_err(|_| call(Errno::INVAL))
    }

    fn mount_flags(&self, dir: &HostPath) -> Result<StatVfsMountFlags, HostError> {
        let stat = fstatvfs(self.nearest(dir)?).map_err(|errno| self.call("reading", dir, errno))?;
        Ok(stat.f_flag)
    }

    /// The directory, or the nearest existing one above.
    fn nearest(&self, dir: &HostPath) -> Result<OwnedFd, HostError> {
        let mut dir = Some(dir.clone());
        while let Some(path) = dir {
            if let Some(file) = self.handle(&path)? {
                return Ok(file);
            }
            dir = path.parent();
        }
        self.open_dir(&HostPath::fixed(""), None)
    }
}

/// A program's dynamic loader, if it is dynamically linked (elf(5), `PT_INTERP`).
fn loader_of(file: &File) -> Option<String> {
    let bytes = |at: u64, count: usize| {
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    };
    let number = |at: u64, count: usize| {
        let bytes = bytes(at, count)?;
        // All architectures that containers run on are little-endian, except s390x.
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

/// Reads by offset, so that the file's position is not changed.
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
