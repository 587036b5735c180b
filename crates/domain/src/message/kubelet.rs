//! The kubelet: `pkg/kubelet/userns` and `pkg/kubelet/kubelet_pods.go` of Kubernetes.

use super::{Message, row};

pub(super) const KUBELET: &[Message] = &[
    row(
        "kubelet-length-not-multiple",
        "kubelet",
        &["kubelet user namespace length ", " is not a multiple of "],
        "create user namespace manager: kubelet user namespace length 70000 is not a multiple of 65536",
        [
            "userNamespaces.idsPerPod of the kubelet's configuration is no multiple of 65536. The kubelet does not start.",
            "Set idsPerPod to 65536 or a multiple of it, and start the kubelet again.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-start-not-multiple",
        "kubelet",
        &["kubelet user assigned ID ", " is not a multiple of "],
        "create user namespace manager: kubelet user assigned ID 100000 is not a multiple of 65536",
        [
            "The range of the user kubelet in /etc/subuid begins at an ID that is no multiple of idsPerPod. The kubelet does not start.",
            "usernsd bootstrap --diff shows a range that fits; usernsd bootstrap writes it. Pods in user namespaces that are there keep the old range: drain the node first.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-start-too-low",
        "kubelet",
        &["kubelet user assigned ID ", " must be greater or equal to "],
        "create user namespace manager: kubelet user assigned ID 0 must be greater or equal to 65536",
        [
            "The range of the user kubelet begins among the IDs of the host's own users. The kubelet does not start.",
            "usernsd bootstrap --diff shows a range that fits; usernsd bootstrap writes it.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-count-not-multiple",
        "kubelet",
        &["kubelet user assigned IDs length ", " is not a multiple of "],
        "create user namespace manager: kubelet user assigned IDs length 7208961 is not a multiple of 65536",
        [
            "The number of IDs of the user kubelet in /etc/subuid is no multiple of idsPerPod. The kubelet does not start.",
            "usernsd bootstrap --diff shows a range that fits; usernsd bootstrap writes it.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-too-few-ids",
        "kubelet",
        &["kubelet user assigned IDs are not enough to support ", " pods"],
        "create user namespace manager: kubelet user assigned IDs are not enough to support 110 pods",
        [
            "The range of the user kubelet has room for fewer pods than the kubelet's maxPods. The kubelet does not start.",
            "Give it maxPods times idsPerPod IDs: usernsd bootstrap --diff shows the range, usernsd bootstrap writes it.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-files-differ",
        "kubelet",
        &["kubelet mappings: mismatched subuids and subgids for user "],
        "create user namespace manager: kubelet mappings: mismatched subuids and subgids for user \"kubelet\"",
        [
            "The lines of the user kubelet in /etc/subuid and /etc/subgid are not the same. The kubelet does not start.",
            "Make them the same, byte for byte: usernsd bootstrap --diff, then usernsd bootstrap.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-no-getsubids",
        "kubelet",
        &["kubelet mappings: exec: \"getsubids\": executable file not found in $PATH"],
        "create user namespace manager: kubelet mappings: exec: \"getsubids\": executable file not found in $PATH",
        [
            "There is a user kubelet, so the kubelet asks getsubids for its range, and that program is not in its PATH. It does not start.",
            "Install getsubids (Debian, Ubuntu: uidmap; Fedora: shadow-utils-subid), or remove the user kubelet to get the default range.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-record-out-of-range",
        "kubelet",
        &["record pod mappings", "id ", " is out of range"],
        "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": id 626982912 is out of range",
        [
            "The kubelet's range was changed, or getsubids or the user kubelet was installed, while pods in user namespaces were on the node. Their IDs lie outside the new range, and the kubelet does not start.",
            "Put the old range back, drain the node, and change it then; or delete the directory of the pod below /var/lib/kubelet/pods. usernsd bootstrap refuses such a change.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-record-length",
        "kubelet",
        &["wrong user namespace length "],
        "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": wrong user namespace length 131072",
        [
            "idsPerPod was changed while pods in user namespaces were on the node. The kubelet does not start.",
            "Put the old idsPerPod back, drain the node, and change it then.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-record-offset",
        "kubelet",
        &["wrong user namespace offset specified "],
        "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": wrong user namespace offset specified 200000",
        [
            "A pod's recorded IDs begin at no multiple of idsPerPod: idsPerPod or the range was changed under it. The kubelet does not start.",
            "Put the old settings back, drain the node, and change them then.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "kubelet-record-taken",
        "kubelet",
        &["range picked for pod ", " already taken"],
        "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": range picked for pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a02\" already taken",
        [
            "Two pods' records below /var/lib/kubelet/pods name the same range. The kubelet does not start.",
            "Two pods must never share IDs: delete the directory of the one that is gone, after looking at both with usernsd whois ID.",
        ],
        "runbooks/usernsdidrangeoverlap.md",
    ),
    row(
        "kubelet-record-unreadable",
        "kubelet",
        &["invalid user namespace mappings file"],
        "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": invalid user namespace mappings file: …",
        [
            "The file userns in a pod's directory below /var/lib/kubelet/pods is not what the kubelet writes. It does not start.",
            "Delete the directory of that pod if the pod is gone; else drain the node first.",
        ],
        "",
    ),
    row(
        "kubelet-no-slot",
        "kubelet",
        &["could not find an empty slot to allocate a user namespace"],
        "create user namespace: could not find an empty slot to allocate a user namespace",
        [
            "Every range of the kubelet's pool is taken.",
            "Look at the pool with usernsd_id_pool_slots_used; then give the user kubelet more IDs (drain the node first), or run fewer pods on it.",
        ],
        "runbooks/usernsdidpoolalmostfull.md",
    ),
    row(
        "kubelet-runtime-unsupported",
        "kubelet",
        &["can't set `spec.hostUsers: false`, runtime does not support user namespaces"],
        "can't set `spec.hostUsers: false`, runtime does not support user namespaces",
        [
            "The container runtime is too old, or its OCI runtime cannot map mounts.",
            "Use containerd 2.0 or CRI-O 1.25 at the least, with runc 1.2 or crun 1.9 at the least.",
        ],
        "runbooks/checks/cri_userns_handler.md",
    ),
    row(
        "kubelet-handler-unsupported",
        "kubelet",
        &["RuntimeClass handler ", " does not support user namespaces"],
        "can't set `spec.hostUsers: false`, RuntimeClass handler \"kata\" does not support user namespaces",
        [
            "The runtime class of the pod names a handler whose OCI runtime cannot do it, as those of virtual machines.",
            "Use another runtime class, or omit hostUsers: a virtual machine isolates by itself.",
        ],
        "runbooks/checks/cri_userns_handler.md",
    ),
    row(
        "kubelet-gate-off",
        "kubelet",
        &["the feature gate \"UserNamespacesSupport\" is disabled"],
        "the feature gate \"UserNamespacesSupport\" is disabled: can't set spec.HostUsers",
        [
            "The kubelet's feature gate is off. It is on by default from Kubernetes 1.33, and always from 1.36.",
            "Switch UserNamespacesSupport on for the kubelet and the API server, or update.",
        ],
        "",
    ),
    row(
        "noop-process",
        "kubelet",
        &["failed to start noop process for unshare: fork/exec /proc/self/exe: invalid argument"],
        "failed to create network namespace for sandbox: failed to start noop process for unshare: fork/exec /proc/self/exe: invalid argument",
        [
            "The kubelet handed out the last range of the ID space, 4294901760 to 4294967295. The kernel refuses its last ID, and the pod never starts.",
            "Delete the pod; its successor gets another range. Give the user kubelet a range that ends earlier: usernsd bootstrap.",
        ],
        "prepare-kubernetes.md",
    ),
];
