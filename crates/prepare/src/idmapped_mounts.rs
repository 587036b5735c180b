//! Tests which of the node's file systems support ID-mapped mounts, by trying to mount them.

use std::path::Path;

use usernsd_domain::chain::chain;
use usernsd_domain::finding::Finding;
use usernsd_domain::kernel::{IdMapped, PodStore, tmpfs_finding};
use usernsd_domain::paths::PROC;
use usernsd_domain::provision::HostPath;
use usernsd_linux::host::HostRoot;
use usernsd_linux::mount_idmap::{Prober, is_proc};

/// This program, even if its file has been replaced.
const OWN: &str = "/proc/self/exe";

/// Tries tmpfs, and each store whose type alone is not conclusive. Nothing is tried below a root without the
/// kernel's `/proc`, which is the root of a node under construction.
#[must_use]
pub fn probe(root: &HostRoot, stores: &mut [PodStore]) -> Option<Finding> {
    probe_with(Path::new(OWN), root, stores)
}

/// Like [`probe`], with this program at `program`.
#[must_use]
pub fn probe_with(program: &Path, root: &HostRoot, stores: &mut [PodStore]) -> Option<Finding> {
    use std::os::fd::AsFd;
    if !root.handle(&PROC).ok().flatten().is_some_and(|proc| is_proc(proc.as_fd())) {
        return None;
    }
    let prober = match Prober::new(program) {
        Ok(prober) => prober,
        Err(error) => {
            for store in stores.iter_mut().filter(|store| store.mapped == IdMapped::Unknown) {
                store.why = chain(&error);
            }
            return None;
        }
    };
    for store in stores.iter_mut().filter(|store| store.mapped == IdMapped::Unknown) {
        let handle = HostPath::parse(&store.path).ok().map(|path| root.handle(&path));
        match handle {
            Some(Ok(Some(handle))) => {
                let tried = prober.try_mount(handle.as_fd());
                (store.mapped, store.why) = (tried.mapped, tried.why);
            }
            Some(Err(error)) => store.why = chain(&error),
            Some(Ok(None)) | None => store.why = "it is not there".to_owned(),
        }
    }
    tmpfs_finding(&prober.try_tmpfs())
}
