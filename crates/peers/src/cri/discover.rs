//! Finds the runtimes' sockets.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use usernsd_domain::runtime::RuntimeKind;

/// The runtimes' defaults, relative to the host's root: crio.conf(5) `listen`; containerd's
/// `grpc.address`. Distributions run a containerd of their own: k3s and RKE2, k0s, MicroK8s. Where there is another one
/// besides, it is not the kubelet's.
const SOCKETS: [(RuntimeKind, &str); 6] = [
    (RuntimeKind::Crio, "run/crio/crio.sock"),
    (RuntimeKind::Crio, "var/run/crio/crio.sock"),
    (RuntimeKind::Containerd, "run/k3s/containerd/containerd.sock"),
    (RuntimeKind::Containerd, "run/k0s/containerd.sock"),
    (RuntimeKind::Containerd, "var/snap/microk8s/common/run/containerd.sock"),
    (RuntimeKind::Containerd, "run/containerd/containerd.sock"),
];

/// Returns the CRI sockets to try. Called for each attempt, because a runtime may be installed later.
pub type Endpoints = Arc<dyn Fn() -> Vec<PathBuf> + Send + Sync>;

/// The CRI sockets to try on the node with that root: those that are `named`, else those that exist at the runtimes'
/// default paths.
#[must_use]
pub fn sockets(host_root: &Path, named: &[PathBuf]) -> Vec<PathBuf> {
    if named.is_empty() {
        discover(host_root).into_iter().map(|(_, path)| path).collect()
    } else {
        named.to_vec()
    }
}

/// Finds the [`sockets`] again for each attempt.
#[must_use]
pub fn endpoints(host_root: PathBuf, named: Vec<PathBuf>) -> Endpoints {
    Arc::new(move || sockets(&host_root, &named))
}

/// The sockets that exist below the host's root, each with the runtime whose default it is; [`super::Cri::version`]
/// returns which one answers there. CRI-O's first, each once (`/var/run` is usually a link to
/// `/run`). A node may have both runtimes. A socket that exists need not answer.
#[must_use]
pub fn discover(host_root: &Path) -> Vec<(RuntimeKind, PathBuf)> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for (kind, path) in SOCKETS {
        let path = host_root.join(path);
        // An unreadable path counts as absent: the caller reports which paths it tried.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let inode = (metadata.dev(), metadata.ino());
        if metadata.file_type().is_socket() && !seen.contains(&inode) {
            seen.push(inode);
            found.push((kind, path));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listen(root: &Path, path: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        UnixListener::bind(path).unwrap();
    }

    #[test]
    fn each_socket_is_found_once() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(discover(root), []);
        listen(root, "run/containerd/containerd.sock");
        listen(root, "run/crio/crio.sock");
        std::fs::create_dir(root.join("var")).unwrap();
        symlink("../run", root.join("var/run")).unwrap();
        let want = [
            (RuntimeKind::Crio, root.join("run/crio/crio.sock")),
            (RuntimeKind::Containerd, root.join("run/containerd/containerd.sock")),
        ];
        assert_eq!(discover(root), want);
    }

    #[test]
    fn k3s_sockets_are_found_and_plain_files_ignored() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        listen(root, "var/run/crio/crio.sock");
        listen(root, "run/k3s/containerd/containerd.sock");
        std::fs::create_dir_all(root.join("run/containerd")).unwrap();
        std::fs::write(root.join("run/containerd/containerd.sock"), "").unwrap();
        let want = [
            (RuntimeKind::Crio, root.join("var/run/crio/crio.sock")),
            (RuntimeKind::Containerd, root.join("run/k3s/containerd/containerd.sock")),
        ];
        assert_eq!(discover(root), want);
    }
}
