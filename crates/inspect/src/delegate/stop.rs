//! Why an inspection ends before the cgroup is handed over.

use usernsd_delegation::proof::Unproven;
use usernsd_domain::chain::chain;
use usernsd_domain::delegation::Skip;
use usernsd_linux::cgroupfs::CgroupError;
use usernsd_linux::proc::ProcError;

/// Why an inspection ends early.
pub(super) enum Stop {
    Skip(Skip, Option<String>),
    Failed(String),
}

// === impl Stop ===

impl From<CgroupError> for Stop {
    fn from(error: CgroupError) -> Stop {
        match error {
            CgroupError::Gone(_) => Stop::Skip(Skip::Gone, Some(chain(&error))),
            CgroupError::NotRoots(_) | CgroupError::Escapes(_) => {
                Stop::Skip(Skip::Unproven, Some(chain(&error)))
            }
            CgroupError::Closed { .. } => Stop::Skip(Skip::Closed, Some(chain(&error))),
            CgroupError::Call { .. } => Stop::Failed(chain(&error)),
        }
    }
}

impl From<ProcError> for Stop {
    fn from(error: ProcError) -> Stop {
        match error {
            ProcError::Gone(_) => Stop::Skip(Skip::Gone, Some(chain(&error))),
            ProcError::Cgroup { .. } => Stop::Skip(Skip::Unproven, Some(chain(&error))),
            ProcError::Read { .. }
            | ProcError::IdMap { .. }
            | ProcError::Status { .. }
            | ProcError::Stat { .. } => Stop::Failed(chain(&error)),
        }
    }
}

impl From<Unproven> for Stop {
    fn from(unproven: Unproven) -> Stop {
        Stop::Skip(Skip::Unproven, Some(unproven.reason))
    }
}
