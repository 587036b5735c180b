//! The node's handles: what an inspection of containers reads and changes.

use std::path::Path;

use thiserror::Error;

use usernsd_domain::cgroup::DelegateList;
use usernsd_linux::cgroupfs::{CgroupError, CgroupRoot, ReadListError, read_delegate_list};
use usernsd_linux::proc::Proc;

/// The cgroup tree, the processes and the delegate list of one node.
#[derive(Debug)]
pub struct NodeHandles {
    /// The cgroup tree.
    pub cgroups: CgroupRoot,
    /// The node's /proc.
    pub proc: Proc,
    /// The files that the kernel lets a cgroup's owner have.
    pub delegate_list: DelegateList,
}

/// Why the handles cannot be opened.
#[derive(Debug, Error)]
pub enum OpenHandlesError {
    /// The cgroup tree cannot be opened.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    /// The delegate list cannot be read.
    #[error(transparent)]
    DelegateList(#[from] ReadListError),
}

// === impl NodeHandles ===

impl NodeHandles {
    /// Opens the handles of the node with that root directory. If the kernel publishes no delegate list,
    /// the one in the OCI runtime specification is used.
    ///
    /// # Errors
    /// See [`OpenHandlesError`].
    pub fn open(host_root: &Path) -> Result<NodeHandles, OpenHandlesError> {
        Ok(NodeHandles {
            cgroups: CgroupRoot::open(&host_root.join("sys/fs/cgroup"))?,
            proc: Proc::new(&host_root.join("proc")),
            delegate_list: read_delegate_list(&host_root.join("sys"))?.unwrap_or_else(DelegateList::fallback),
        })
    }
}
