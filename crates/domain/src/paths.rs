//! Paths on a node that more than one module uses. A path with a single user is a constant of that module.

use super::provision::HostPath;

/// Subordinate user IDs (subuid(5)).
pub const SUBUID: HostPath = HostPath::fixed("etc/subuid");
/// Subordinate group IDs (subgid(5)).
pub const SUBGID: HostPath = HostPath::fixed("etc/subgid");
/// Users (passwd(5)).
pub const PASSWD: HostPath = HostPath::fixed("etc/passwd");
/// Groups (group(5)).
pub const GROUP: HostPath = HostPath::fixed("etc/group");
/// Passwords of users (shadow(5)).
pub const SHADOW: HostPath = HostPath::fixed("etc/shadow");
/// Passwords of groups (gshadow(5)).
pub const GSHADOW: HostPath = HostPath::fixed("etc/gshadow");
/// Users of the operating system's image, on systems with nss-altfiles.
pub const IMAGE_PASSWD: HostPath = HostPath::fixed("usr/lib/passwd");
/// Groups of the operating system's image, on systems with nss-altfiles.
pub const IMAGE_GROUP: HostPath = HostPath::fixed("usr/lib/group");

/// The kubelet's directory (`--root-dir`) if nothing else is configured.
pub const KUBELET: HostPath = HostPath::fixed("var/lib/kubelet");
/// The kubelet's usual directories: the default, k0s' and MicroK8s'.
pub const KUBELETS: [HostPath; 3] = [
    KUBELET,
    HostPath::fixed("var/lib/k0s/kubelet"),
    HostPath::fixed("var/snap/microk8s/common/var/lib/kubelet"),
];
/// Where kubeadm and k3s put the kubelet's configuration.
pub const KUBELET_CONFIG: HostPath = HostPath::fixed("var/lib/kubelet/config.yaml");
/// The directory in a kubelet's directory with one directory for each pod. The kubelet creates it at its first start;
/// the directory above it may exist without a kubelet.
pub const PODS: &str = "pods";

/// The host's procfs.
pub const PROC: HostPath = HostPath::fixed("proc");
