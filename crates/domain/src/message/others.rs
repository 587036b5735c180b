//! containerd, NRI `plugins/default-validator` (in containerd and CRI-O), runc `libcontainer`, crun `src/libcrun`, systemd `src/core`, OpenShift, and usernsd itself.

use super::{Message, row};

pub(super) const CONTAINERD: &[Message] = &[
    row(
        "containerd-no-idmap",
        "containerd",
        &["snapshotter ", "doesn't support idmap mounts on this host"],
        "snapshotter \"overlayfs\" doesn't support idmap mounts on this host, configure `slow_chown` to allow a slower and expensive fallback",
        [
            "Overlay on this kernel, or the file system below it, cannot map IDs.",
            "Use Linux 5.19 at the least with ext4, xfs or btrfs; or set slow_chown, which copies every image.",
        ],
        "runbooks/checks/idmapped_mounts.md",
    ),
    row(
        "containerd-cgroup-v1",
        "containerd",
        &["`cgroup_writable` is only supported on cgroup v2"],
        "runtime runc: `cgroup_writable` is only supported on cgroup v2",
        ["cgroup_writable is set, and the node runs cgroup v1.", "Boot with cgroup v2."],
        "runbooks/checks/cgroup_v2.md",
    ),
    row(
        "id-not-mapped",
        "containerd",
        &["container ID ", " cannot be mapped to a host ID"],
        "mount callback failed on …: container ID 6553600 cannot be mapped to a host ID",
        [
            "A file of the image belongs to an ID that is not mapped into the pod: the pod has 65536 IDs by default.",
            "Build the image with owners below 65536, or raise idsPerPod of the kubelet on a drained node.",
        ],
        "",
    ),
];

pub(super) const NRI: &[Message] = &[
    row(
        "nri-required-plugin",
        "NRI in containerd and CRI-O",
        &["validation error: required plugin", "usernsd", " not present"],
        "validator \"00-default-validator\" rejected container adjustment, reason: validation error: required plugin \"usernsd\" not present",
        [
            "The runtime requires usernsd of this container, by the pod's annotation or of all (bootstrap.nri.required), and neither its launched plugin nor an agent is in the start path.",
            "Start the agent, or restart the runtime so that it launches the plugin; usernsd doctor says which is missing. The kubelet tries again by itself.",
        ],
        "nri-plugin.md",
    ),
    row(
        "nri-namespace-restricted",
        "NRI in containerd and CRI-O",
        &["validation error: attempted restricted namespace adjustment by ", "usernsd"],
        "validator \"00-default-validator\" rejected container adjustment, reason: validation error: attempted restricted namespace adjustment by plugin(s) \"usernsd\" (namespace \"cgroup\")",
        [
            "NRI's default validator rejects plugins that change namespaces, and usernsd gives privileged containers a cgroup namespace of their own.",
            "Take reject_namespace_adjustment (CRI-O: nri_validator_reject_namespace_adjustment) out, or set delegation.privilegedCgroupNamespace to false.",
        ],
        "runbooks/checks/nri_required.md",
    ),
];

pub(super) const OCI: &[Message] = &[
    row(
        "runc-idmap",
        "runc and crun",
        &["failed to set MOUNT_ATTR_IDMAP on ", "invalid argument"],
        "failed to set MOUNT_ATTR_IDMAP on /var/lib/kubelet/pods/1/volumes/kubernetes.io~nfs/home: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
        [
            "The file system of that volume cannot map IDs: NFS, CephFS and other network file systems, hugetlbfs, or tmpfs before Linux 6.3.",
            "Use a volume of a local file system, or a newer kernel; NFS cannot do it at all.",
        ],
        "runbooks/checks/idmapped_mounts.md",
    ),
    row(
        "crun-idmap",
        "runc and crun",
        &["mount_setattr `", "doesn't support idmap mounts on this kernel?): Invalid argument"],
        "mount_setattr `/home` (maybe the file system used doesn't support idmap mounts on this kernel?): Invalid argument",
        [
            "The file system of that volume cannot map IDs: NFS, CephFS and other network file systems, hugetlbfs, or tmpfs before Linux 6.3.",
            "Use a volume of a local file system, or a newer kernel; NFS cannot do it at all.",
        ],
        "runbooks/checks/idmapped_mounts.md",
    ),
    row(
        "hook-denied",
        "runc and crun",
        &["error running createContainer hook #", "permission denied"],
        "error running createContainer hook #0: fork/exec /kind/bin/mount-product-files.sh: permission denied",
        [
            "A createContainer hook runs in the container's user namespace, and may not read the program there (kind before its fix).",
            "Make the hook's program and the directories above it readable for everyone; with kind, update.",
        ],
        "",
    ),
    row(
        "newuidmap",
        "runc and crun",
        &["newuidmap: write to uid_map failed: Operation not permitted"],
        "newuidmap: write to uid_map failed: Operation not permitted",
        [
            "An engine in a pod wants IDs that the pod does not have: /etc/subuid in the image says 100000:65536, the pod has 0 to 65535.",
            "Write a range inside the pod's into the image's /etc/subuid and /etc/subgid: for user 1000 the line 1001:64535.",
        ],
        "",
    ),
];

pub(super) const SYSTEMD: &[Message] = &[
    row(
        "systemd-init-scope-denied",
        "systemd",
        &["Failed to create /", "init.scope control group: Permission denied"],
        "Failed to create /init.scope control group: Permission denied",
        [
            "systemd is PID 1 of the container, and the container's cgroup is not its own.",
            "Run usernsd on the node, with NRI or its hook; usernsd explain POD says what is missing.",
        ],
        "architecture.md",
    ),
    row(
        "systemd-init-scope-read-only",
        "systemd",
        &["Failed to create /", "init.scope control group: Read-only file system"],
        "Failed to create /init.scope control group: Read-only file system",
        [
            "systemd is PID 1 of the container, and /sys/fs/cgroup is mounted read-only.",
            "Annotate the pod with usernsd.io/systemd: \"true\", where usernsd runs.",
        ],
        "annotations.md",
    ),
    row(
        "systemd-no-manager",
        "systemd",
        &["Failed to allocate manager object: Permission denied"],
        "Failed to allocate manager object: Permission denied",
        [
            "systemd is PID 1 of the container, and may not make cgroups: the container's cgroup is not its own.",
            "Run usernsd on the node, with NRI or its hook; usernsd explain POD says what is missing.",
        ],
        "architecture.md",
    ),
    row(
        "systemd-no-manager-read-only",
        "systemd",
        &["Failed to allocate manager object: Read-only file system"],
        "Failed to allocate manager object: Read-only file system",
        [
            "systemd is PID 1 of the container, and /sys/fs/cgroup is mounted read-only.",
            "Annotate the pod with usernsd.io/systemd: \"true\", where usernsd runs.",
        ],
        "annotations.md",
    ),
    row(
        "systemd-api-filesystems",
        "systemd",
        &["Failed to mount API filesystems"],
        "[!!!!!!] Failed to mount API filesystems.",
        [
            "systemd is PID 1 of the container, and there is no tmpfs on /run, or /sys/fs/cgroup is read-only.",
            "Annotate the pod with usernsd.io/systemd: \"true\", where usernsd runs.",
        ],
        "annotations.md",
    ),
    row(
        "systemd-propagation",
        "systemd",
        &["Failed to set up the root directory for shared mount propagation"],
        "Failed to set up the root directory for shared mount propagation",
        [
            "systemd takes the container for a virtual machine, as the variable container is not set.",
            "Annotate the pod with usernsd.io/systemd: \"true\", or set the variable: container=oci.",
        ],
        "annotations.md",
    ),
    row(
        "systemd-unknown-user",
        "systemd",
        &["Failed to resolve user '", "': Unknown user"],
        "Failed to resolve user '200000': Unknown user",
        [
            "The scope's property User= names a number that no service of /etc/nsswitch.conf knows (delegation.mechanism: systemd-user).",
            "Install libnss-systemd on the node, with systemd in the line passwd of /etc/nsswitch.conf; or go back to delegation.mechanism: agent.",
        ],
        "configuration.md",
    ),
];

pub(super) const OPENSHIFT: &[Message] = &[
    row(
        "scc-no-range",
        "OpenShift",
        &["unable to find annotation openshift.io/sa.scc.uid-range"],
        "unable to find annotation openshift.io/sa.scc.uid-range",
        [
            "The namespace has no ID range yet, or someone took its annotation away.",
            "oc describe namespace NAME; the cluster-policy-controller writes it to new namespaces.",
        ],
        "",
    ),
    row(
        "scc-not-usable",
        "OpenShift",
        &["provider \"nested-container\": Forbidden: not usable by user or serviceaccount"],
        "provider \"nested-container\": Forbidden: not usable by user or serviceaccount",
        [
            "The SCC nested-container is bound to nobody.",
            "oc adm policy add-scc-to-user nested-container -z SERVICEACCOUNT -n NAMESPACE.",
        ],
        "",
    ),
    row(
        "mco-content",
        "OpenShift",
        &["content mismatch for file \""],
        "content mismatch for file \"/etc/crio/crio.conf.d/99-usernsd.conf\"",
        [
            "A file of a MachineConfig was changed on the node. The node is Degraded and is not updated.",
            "Put the old content back, or touch /run/machine-config-daemon-force, which restarts the node. usernsd bootstrap never writes such a file.",
        ],
        "prepare-openshift.md",
    ),
    row(
        "mco-mode",
        "OpenShift",
        &["mode mismatch for file: \""],
        "mode mismatch for file: \"/etc/subuid\"; expected: -rw-r--r--/420/0644; received: -rw-------/384/0600",
        [
            "The mode of a file of a MachineConfig was changed on the node. The node is Degraded and is not updated.",
            "chmod it to what is expected.",
        ],
        "prepare-openshift.md",
    ),
    row(
        "mco-invalid-mode",
        "OpenShift",
        &["invalid mode ", "cannot exceed 0777"],
        "invalid mode 04755 for /usr/local/bin/x, cannot exceed 0777",
        [
            "A MachineConfig writes a file with setuid, setgid or the sticky bit; the Machine Config Operator refuses that.",
            "Write the mode as a decimal number of at most 511, that is 0777.",
        ],
        "",
    ),
];

pub(super) const USERNSD: &[Message] = &[row(
    "usernsd-refused",
    "usernsd",
    &["usernsd: container ", " would run in the host's user namespace"],
    "usernsd: container nginx of pod prod/web-0 would run in the host's user namespace, as the host's root, although its pod asked for a user namespace (hostUsers: false). The runtime has lost the pod's ID mappings, as CRI-O 1.25 to 1.36.3 (not 1.35.6) does when it restarts. Delete the pod: its successor gets new mappings.",
    [
        "usernsd refused to let a container start without the isolation that its pod asked for.",
        "Delete the pod: kubectl delete pod NAME. Update CRI-O to 1.35.6, or later than 1.36.3.",
    ],
    "runbooks/usernsdlostisolation.md",
)];
