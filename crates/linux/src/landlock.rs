//! Where this process may write from now on (landlock(7)).
//!
//! With it goes access to other processes: one outside of this process's domain can neither be traced
//! nor have its memory, its root directory or its descriptors opened below `/proc`, whatever capability
//! this process has.
//!
//! It takes CONFIG_SECURITY_LANDLOCK and "landlock" in the kernel's list of security modules
//! (`/sys/kernel/security/lsm`). Owners, modes and extended attributes are none of its rights.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};
use thiserror::Error;

/// The newest rights that are asked for; an older kernel enforces those it has.
const NEWEST: ABI = ABI::V5;

/// A directory beneath which something may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// It; one that is not there is passed over.
    pub directory: PathBuf,
    /// What may be done beneath it.
    pub writing: Writing,
}

/// What may be done beneath a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Files that are there are written, as those of cgroups.
    InPlace,
    /// Sockets are made, renamed and removed.
    Sockets,
    /// Files and links are made, read, replaced and removed.
    Files,
}

/// How much of it the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    /// All rights that are asked for.
    Fully,
    /// Those that this kernel has: before 6.2 a file may be cut short anywhere, before 6.10 devices may be
    /// asked anything.
    Older,
    /// None: it has no Landlock, or does not use it.
    Not,
}

/// Why there are no such bounds, although the kernel has them.
#[derive(Debug, Error)]
pub enum LandlockError {
    /// The rules were not taken.
    #[error("bounding where this process may write (Landlock): {0}")]
    Rules(RulesetError),
}

// === impl Writing ===

impl Writing {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Writing::InPlace => AccessFs::WriteFile.into(),
            Writing::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
            Writing::Files => {
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

/// Lets this thread, and those it starts, write beneath these directories only, and where `readable` is
/// given read only what it names, and what is beneath. To be called before there is another thread, and with
/// no_new_privs.
///
/// # Errors
/// See [`LandlockError`].
pub fn confine(places: &[Place], readable: Option<&[PathBuf]>) -> Result<Enforced, LandlockError> {
    try_confine(places, readable).map_err(LandlockError::Rules)
}

fn try_confine(places: &[Place], readable: Option<&[PathBuf]>) -> Result<Enforced, RulesetError> {
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
