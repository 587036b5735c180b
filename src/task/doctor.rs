//! Looks at a node for the checks of [`check`]: by itself, whether an agent runs or not, on a running
//! node or on one whose disk is mounted somewhere. Nothing is changed.

use std::path::PathBuf;

use crate::domain::cgroup::DelegateList;
use crate::domain::check::ids::IdFacts;
use crate::domain::check::kernel::KernelFacts;
use crate::domain::check::{self, Category, Checked, Look};
use crate::domain::crio::CrioVersion;
use crate::domain::idplan::{self, Wish};
use crate::domain::kubelet::DEFAULT_MAX_PODS;
use crate::domain::provision::HostPath;
use crate::edge::host::{HostError, HostRoot};
use crate::edge::kernel;
use crate::task::bootstrap;

const DELEGATE_LIST: HostPath = HostPath::fixed("sys/kernel/cgroup/delegate");

/// Where to look.
#[derive(Debug, Clone)]
pub struct Place {
    /// The node's root directory.
    pub root: PathBuf,
    /// CRI sockets to try; empty for the usual places.
    pub endpoints: Vec<PathBuf>,
    /// The system bus; `None` where nobody shall ask systemd.
    pub bus: Option<PathBuf>,
    /// What the node is to have.
    pub ids: Wish,
    /// CRI-O's version, where it does not say so itself.
    pub crio_version: Option<CrioVersion>,
}

/// Looks at the node.
#[derive(Debug)]
pub struct Doctor {
    place: Place,
    root: HostRoot,
}

// === impl Doctor ===

impl Doctor {
    /// Opens the node's root.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn new(place: Place) -> Result<Doctor, HostError> {
        Ok(Doctor { root: HostRoot::open(&place.root)?, place })
    }

    /// Looks at everything, category by category; `tell` hears of each as soon as it is looked at.
    ///
    /// # Errors
    /// What `tell` says.
    pub fn look<E>(&self, tell: &mut dyn FnMut(Category, Vec<Checked>) -> Result<(), E>) -> Result<(), E> {
        let ids = self.ids();
        let kernel = self.kernel(&ids);
        tell(Category::Kernel, check::kernel::checks(as_ref(&kernel)))?;
        tell(Category::Ids, check::ids::checks(as_ref(&ids)))
    }

    /// Whether the node runs: its processes are there.
    fn is_running(&self) -> Look<()> {
        let proc = self.place.root.join("proc");
        if proc.join("1/mountinfo").exists() {
            Ok(())
        } else {
            Err(format!("{} shows no processes: this is not a running node", proc.display()))
        }
    }

    /// The subordinate IDs as they are.
    #[must_use]
    pub fn ids(&self) -> Look<IdFacts> {
        bootstrap::ids::examine(&self.root, &self.place.ids).map_err(|error| error.to_string())
    }

    /// The kernel, for a node with these IDs.
    #[must_use]
    pub fn kernel(&self, ids: &Look<IdFacts>) -> Look<KernelFacts> {
        self.is_running()?;
        let has = |path: &str| HostPath::parse(path).is_ok_and(|path| self.root.has(&path).unwrap_or(false));
        let kernel = kernel::read(&self.place.root.join("proc"), has);
        let node = ids.as_ref().map(|facts| &facts.node);
        let pods = node.map_or(DEFAULT_MAX_PODS, |node| idplan::max_pods(node, &self.place.ids));
        Ok(KernelFacts { kernel, delegate_list: self.delegate_list(), pods })
    }

    fn delegate_list(&self) -> Look<Option<DelegateList>> {
        let text = self.root.read(&DELEGATE_LIST).map_err(|error| error.to_string())?;
        let Some(text) = text else { return Ok(None) };
        let list = DelegateList::parse(&String::from_utf8_lossy(&text));
        list.map(Some).map_err(|error| format!("{DELEGATE_LIST}: {error}"))
    }
}

fn as_ref<T>(look: &Look<T>) -> Look<&T> {
    look.as_ref().map_err(Clone::clone)
}
