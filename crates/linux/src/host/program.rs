//! This program itself, as a file that the node starts: too long to be held in memory or in a journal,
//! so it is known by its digest.

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

/// proc_pid_exe(5): also where the file was replaced since.
const SELF: &str = "/proc/self/exe";
/// Programs have a handful of segments.
const MAX_SEGMENTS: u16 = 64;

/// Of the file at [`SELF`], which nobody can write to while it runs (execve(2), ETXTBSY).
static DIGEST: OnceLock<String> = OnceLock::new();

/// This program's own file.
#[derive(Debug)]
pub struct OwnProgram {
    file: File,
    digest: String,
}

// === impl OwnProgram ===

impl OwnProgram {
    /// Opens it; it is read once in the life of the process.
    ///
    /// # Errors
    /// There is no `/proc`.
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

    /// `sha256:` and 64 digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The program that loads it, where it is linked dynamically.
    #[must_use]
    pub fn loader(&self) -> Option<String> {
        loader_of(&self.file)
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

    /// The program that loads a program, where that is linked dynamically.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn loader(&self, path: &HostPath) -> Result<Option<String>, HostError> {
        Ok(self.open_to_read(path)?.map(File::from).as_ref().and_then(loader_of))
    }

    /// Device and inode of a file; `None` where there is none. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn identity(&self, path: &HostPath) -> Result<Option<(u64, u64)>, HostError> {
        let Some(handle) = self.handle(path)? else { return Ok(None) };
        let stat = fstat(handle).map_err(|errno| self.call("reading", path, errno))?;
        Ok(Some((stat.st_dev, stat.st_ino)))
    }

    /// Replaces a file by this program, as [`HostRoot::replace`] does.
    ///
    /// # Errors
    /// See [`HostError`]; the file is still the old one.
    pub fn install(
        &self,
        path: &HostPath,
        program: &OwnProgram,
        new: &Attributes,
        staging: Option<&HostPath>,
    ) -> Result<(), HostError> {
        let beside = self.beside(path, new, false, staging, &mut |file| {
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
        Ok(self.mount_flags(dir)?.contains(StatVfsMountFlags::NOEXEC))
    }

    /// Whether nothing can be written to this directory, because of how it is mounted; of one that is not
    /// there, the nearest above it counts.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn is_read_only(&self, dir: &HostPath) -> Result<bool, HostError> {
        Ok(self.mount_flags(dir)?.contains(StatVfsMountFlags::RDONLY))
    }

    /// Whether two directories are on one mount, so that a file of the one can be renamed into the other;
    /// of one that is not there, the nearest above it counts.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn is_one_file_system(&self, dirs: [&HostPath; 2]) -> Result<bool, HostError> {
        let [one, other] = dirs;
        Ok(self.mount_of(one)? == self.mount_of(other)?)
    }

    /// What tells the mount of a directory from others: its ID, where the kernel says it (since 5.8), else
    /// its device, which a bind mount shares with what it shows.
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

    /// The path that a directory has without symbolic links; parts of it need not be there.
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
                    // A link that leads nowhere is in the way of the directory.
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

    /// The directory, or the nearest above it that is there.
    fn nearest(&self, dir: &HostPath) -> Result<OwnedFd, HostError> {
        let mut dir = Some(dir.clone());
        while let Some(path) = dir {
            if let Some(file) = self.open_to_read(&path)? {
                return Ok(file);
            }
            dir = path.parent();
        }
        self.open_dir(&HostPath::fixed(""), None)
    }
}

/// The program that loads this one, where it is linked dynamically (elf(5), `PT_INTERP`).
fn loader_of(file: &File) -> Option<String> {
    let bytes = |at: u64, count: usize| {
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
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
