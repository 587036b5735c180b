//! How an agent and a launched plugin give up what they do not need: the capability to look at other
//! processes goes to a process of its own, and files are written in a few places only.

use std::path::Path;

use thiserror::Error;

use crate::domain::privilege::{KEPT, OBSERVERS};
use crate::edge;
use crate::edge::landlock::{Enforced, LandlockError, Place};
use crate::edge::privilege::{self, PrivilegeError};
use crate::edge::proc::Proc;
use crate::edge::proc::observer::{OWN_PROGRAM, Observer, ObserverError};

/// Why a process is not confined as it should be.
#[derive(Debug, Error)]
pub enum ConfinementError {
    /// There is no process that looks at others.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// Capabilities are still there.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// There are no bounds to writing.
    #[error(transparent)]
    Landlock(#[from] LandlockError),
}

/// Whether another process holds the capability to look at others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// It does.
    Apart,
    /// This process keeps it: /proc hides processes from whoever has none.
    Together,
}

/// What is left open, for a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Nothing that this program could close.
    Nothing,
    /// Files may be written anywhere.
    Files,
    /// And the memory of other processes.
    Memory,
}

/// Starts the process that looks at others. To be called before there is another thread.
///
/// # Errors
/// See [`ConfinementError`].
pub fn split(proc: &Proc) -> Result<Split, ConfinementError> {
    if proc.hides_processes() {
        return Ok(Split::Together);
    }
    Observer::start(Path::new(OWN_PROGRAM), proc.root())?.install();
    Ok(Split::Apart)
}

/// Gives up the capabilities, and writing outside of `places`, for ever. To be called before there is
/// another thread.
///
/// # Errors
/// See [`ConfinementError`].
pub fn confine(split: Split, places: &[Place]) -> Result<Open, ConfinementError> {
    match split {
        Split::Apart => privilege::keep_only(&KEPT)?,
        Split::Together => {
            privilege::keep_only(&[&KEPT[..], &OBSERVERS].concat())?;
            return Ok(Open::Memory);
        }
    }
    Ok(match edge::landlock::confine(places)? {
        Enforced::Fully | Enforced::Older => Open::Nothing,
        Enforced::Not => Open::Files,
    })
}

// === impl Open ===

impl Open {
    /// What to do about it.
    #[must_use]
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Open::Nothing => None,
            Open::Files => Some(
                "this kernel does not bound where usernsd may write: it has no Landlock, or \"landlock\" is not \
                 among its security modules (the kernel parameter lsm=)",
            ),
            Open::Memory => Some(
                "/proc is mounted with hidepid= and gid=, or with hidepid=ptraceable: to see the node's processes \
                 usernsd keeps CAP_SYS_PTRACE to itself and writes without bounds; mount /proc without them",
            ),
        }
    }
}
