//! Restricts where this process may write (landlock(7)).
//!
//! This also ends access to other processes: a process outside of this one's Landlock domain can neither be traced
//! nor have its memory, its root directory or its descriptors opened below `/proc`, whatever capability this process
//! has.
//!
//! It needs CONFIG_SECURITY_LANDLOCK and "landlock" in the kernel's list of security modules
//! (`/sys/kernel/security/lsm`). Landlock does not restrict changes of owners, modes and extended attributes.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};
use thiserror::Error;

/// The newest ABI whose rights are requested; an older kernel enforces those that it supports.
const NEWEST: ABI = ABI::V5;

/// A directory beneath which something may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritableDirectory {
    /// The directory; a missing one is skipped.
    pub directory: PathBuf,
    /// The operations that are permitted beneath it.
    pub writing: WriteRights,
}

/// Operations that are permitted beneath a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteRights {
    /// Write to existing files, such as those of cgroups.
    InPlace,
    /// Create, rename and remove sockets.
    Sockets,
    /// Create, read, replace and remove files and links.
    Files,
}

/// How much of it the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    /// All requested rights.
    Fully,
    /// The rights that this kernel supports: before 6.2 a file may be truncated anywhere, before 6.10 any ioctl on
    /// devices is allowed.
    Older,
    /// None: the kernel has no Landlock, or does not use it.
    Not,
}

/// Why the restriction failed although the kernel supports it.
#[derive(Debug, Error)]
pub enum LandlockError {
    /// The kernel did not accept the rules.
    #[error("bounding where this process may write (Landlock): {0}")]
    Rules(RulesetError),
}

// === impl WriteRights ===

impl WriteRights {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            WriteRights::InPlace => AccessFs::WriteFile.into(),
            WriteRights::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
            WriteRights::Files => {
                AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeSym
                    | AccessFs::RemoveFile
                    | AccessFs::ReadFile
                    | AccessFs::ReadDir
            }
        }
    }
}

/// Allows this thread, and those that it starts, to write only beneath these directories, and, if `readable` is
/// given, to read only those files and directories and what is beneath them. Must be called with no_new_privs and
/// before another thread exists.
///
/// # Errors
/// See [`LandlockError`].
pub fn confine(
    places: &[WritableDirectory],
    readable: Option<&[PathBuf]>,
) -> Result<Enforced, LandlockError> {
    try_confine(places, readable).map_err(LandlockError::Rules)
}

fn try_confine(places: &[WritableDirectory], readable: Option<&[PathBuf]>) -> Result<Enforced, RulesetError> {
    let handled = match readable {
        Some(_) => AccessFs::from_all(NEWEST),
        None => AccessFs::from_write(NEWEST),
    };
    let mut rules =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(handled)?.create()?;
    rules = rules.add_rules(path_beneath_rules(
        readable.unwrap_or_default(),
        AccessFs::ReadFile | AccessFs::ReadDir,
    ))?;
    for place in places {
        if let Ok(directory) = PathFd::new(&place.directory) {
            rules = rules.add_rule(PathBeneath::new(directory, place.writing.rights() & handled))?;
        }
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Older,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}
