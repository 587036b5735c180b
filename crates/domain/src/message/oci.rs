//! runc `libcontainer`, crun `src/libcrun`, and sysbox.

messages! { Oci;
    RuncIdmap = "runc-idmap" {
        says: ["failed to set MOUNT_ATTR_IDMAP on …invalid argument"],
        sample: "failed to set MOUNT_ATTR_IDMAP on /var/lib/kubelet/pods/1/volumes/kubernetes.io~nfs/home: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
        cause: "The file system of the volume does not support ID-mapped mounts. NFS, CephFS and other network file systems, hugetlbfs and overlayfs do not (overlayfs is the case on a node that is itself a container and has /var/lib/kubelet in its root file system); tmpfs, which holds Secrets, ConfigMaps and tokens, does from Linux 6.3 on.",
        fix: "Use a volume on a local file system (ext4, xfs, btrfs). For tmpfs use Linux 6.3 or later, or RHEL 9.4 or later. NFS has no support in any version.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    CrunIdmap = "crun-idmap" {
        says: ["mount_setattr `…: Invalid argument"],
        sample: "mount_setattr `/home` (maybe the file system used doesn't support idmap mounts on this kernel?): Invalid argument",
        cause: "The file system of the volume does not support ID-mapped mounts. NFS, CephFS and other network file systems, hugetlbfs and overlayfs do not (overlayfs is the case on a node that is itself a container and has /var/lib/kubelet in its root file system); tmpfs, which holds Secrets, ConfigMaps and tokens, does from Linux 6.3 on.",
        fix: "Use a volume on a local file system (ext4, xfs, btrfs). For tmpfs use Linux 6.3 or later, or RHEL 9.4 or later. NFS has no support in any version.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    UserNotMapped = "user-not-mapped" {
        says: [
            "failed to do idmap to get host ID: container ID … cannot be mapped",
            "cannot setuid to unmapped uid … in user namespace",
            "cannot setgid to unmapped gid … in user namespace",
            "but no mapping found for uid …",
            "but no mapping found for gid …",
            "setresuid to `…`: Invalid argument",
            "setresgid to `…`: Invalid argument",
        ],
        sample: "failed to update container IO owner: failed to do idmap to get host ID: container ID 1000660000 cannot be mapped to a host ID",
        cause: "The container's user or group is not mapped into the pod, which has the IDs 0 to 65535 by default. On OpenShift the user comes from the namespace's range, which starts at 1000000000 or above.",
        fix: "Choose runAsUser and runAsGroup below 65536. On OpenShift annotate the pod with openshift.io/required-scc: restricted-v3, whose users are 1000 to 65534.",
        page: "recipes/sandbox.md",
    }
    NoRoom = "no-user-namespaces-left" {
        says: [
            "fork/exec /proc/self/exe: no space left on device",
            "user namespaces are not enabled in /proc/sys/user/max_user_namespaces",
            "Failed to unshare namespaces: No space left on device",
            "failed to unshare user namespace: No space left on device",
            "unable to spawn stage-1: No space left on device",
            "unshare failed: No space left on device",
            "unshare(CLONE_NEWUSER): no space left on device",
            "clone: No space left on device",
            "cannot clone: No space left on device",
            "max_user_namespaces needs to be set",
            "max_*_namespaces exceeded",
            "Failed to create new user namespace: No space left on device",
        ],
        sample: "failed to create network namespace for sandbox \"…\": failed to start noop process for unshare: fork/exec /proc/self/exe: no space left on device",
        cause: "This is not about disk space: the kernel allows no more user namespaces. user.max_user_namespaces is 0 (the default of Talos, Bottlerocket and hardened images) or used up. Rarely the limit is another one, such as user.max_net_namespaces, or the nesting depth of 32.",
        fix: "Run usernsd bootstrap --apply-sysctl on the node; on Talos set user.max_user_namespaces: \"11255\" under machine.sysctls, on Bottlerocket under settings.kernel.sysctl. It cannot be changed from inside a pod.",
        page: "runbooks/checks/max_user_namespaces.md",
    }
    IdmapDenied = "idmapped-mount-denied" {
        says: [
            "unable to shift GID/UID…: operation not permitted",
            "failed to set MOUNT_ATTR_IDMAP on …: operation not permitted",
            "mount_setattr `…`: Operation not permitted",
        ],
        sample: "failed to set MOUNT_ATTR_IDMAP on /var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/data: operation not permitted",
        cause: "The process is not allowed to map this mount: the node itself runs in a user namespace (rootless kind, LXD, sysbox), or the source is already an ID-mapped mount.",
        fix: "Nodes of rootless kind or k3d cannot run such pods: use a node with real root. If the source is ID-mapped already, remove the idmap option there.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    NoMountSetattr = "idmapped-mount-no-kernel" {
        says: [
            "unable to shift GID/UID…: function not implemented",
            "failed to set MOUNT_ATTR_IDMAP on …: function not implemented",
            "mount_setattr `…`: Function not implemented",
            "unable to open tree for …: function not implemented",
            "open_tree `…`: Function not implemented",
        ],
        sample: "failed to mount rootfs component: failed to create idmapped mount: Unable to shift GID/UID for /X: function not implemented",
        cause: "The kernel is older than 5.12 and has no ID-mapped mounts, or gVisor or a seccomp filter blocks mount_setattr.",
        fix: "Use Linux 6.3 or later, which supports all volumes that Kubernetes creates (5.19 supports images only), or RHEL 9.4 or later.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    SysfsDenied = "sysfs-denied" {
        says: [
            "mounting \"sysfs\" to rootfs…operation not permitted",
            "mount `sysfs` to `…`: Operation not permitted",
            "mounting \"mqueue\" to rootfs…operation not permitted",
            "mount `mqueue` to `…`: Operation not permitted",
            "mounting \"cgroup…\" to rootfs…operation not permitted",
            "mount `cgroup…` to `…`: Operation not permitted",
            "bind mount `/sys` from the host: Operation not permitted",
        ],
        sample: "error mounting \"sysfs\" to rootfs at \"/sys\": mount src=sysfs, dst=/sys, dstFd=/proc/thread-self/fd/11, flags=MS_NOSUID|MS_NODEV|MS_NOEXEC: operation not permitted",
        cause: "The kernel allows a new sysfs mount only if the network namespace belongs to the container's user namespace and nothing is mounted over /sys; for mqueue the IPC namespace matters, for cgroup the cgroup namespace. Here the namespace belongs to another user namespace (an old runtime, an engine in a pod, hostNetwork), or /sys is covered (older kind, nodes in containers).",
        fix: "Use containerd 2.0 or CRI-O 1.25 or later, without hostNetwork; update kind, and check findmnt -R /sys on the node for mounts over /sys. For an engine in a pod set procMount: Unmasked, which also uncovers /sys, and start inner containers with --network none or --network host.",
    }
    SysboxNoUserns = "sysbox-no-user-namespace" {
        says: ["/var/lib/sysbox/…mount through procfd: operation not permitted"],
        sample: "mounting \"sysfs\" to rootfs \"/var/lib/sysbox/rootfs/X/overlay2/merged\" at \"sys\" caused: mount through procfd: operation not permitted",
        cause: "sysbox needs a pod with a user namespace. This pod has none, and the kernel rejects the mount.",
        fix: "With sysbox set hostUsers: false (Kubernetes 1.30, containerd 2.0), or on CRI-O before Kubernetes 1.33 the annotation io.kubernetes.cri-o.userns-mode: auto:size=65536.",
    }
    DevptsInvalid = "devpts-invalid" {
        says: ["mounting \"devpts\" to rootfs…invalid argument", "mount `devpts` to `…`: Invalid argument"],
        sample: "error mounting \"devpts\" to rootfs at \"/dev/pts\": mount src=devpts, dst=/dev/pts, dstFd=/proc/thread-self/fd/11, flags=MS_NOSUID|MS_NOEXEC, data=newinstance,ptmxmode=0666,mode=0620,gid=5: invalid argument",
        cause: "Terminals belong to group 5 (tty), which is not in the container's mapping. The mapping has a single ID, from uid_mappings and gid_mappings in CRI-O's configuration or from an engine without subordinate IDs.",
        fix: "Remove uid_mappings and gid_mappings from CRI-O's configuration and use hostUsers: false. For an engine in a pod add ranges into the image's /etc/subuid and /etc/subgid.",
    }
    MountPointDenied = "mount-point-denied" {
        says: [
            "create mountpoint for … mount: …permission denied",
            "mkdirat…/rootfs/…: permission denied",
            "mkdir `/…`: Permission denied",
            "creating `…`: …Permission denied",
        ],
        sample: "create mountpoint for /var/run/secrets/kubernetes.io/serviceaccount mount: mkdirat /run/containerd/io.containerd.runtime.v2.task/k8s.io/X/rootfs/run/secrets: permission denied",
        cause: "The mount point does not exist, and its parent directory belongs to the host's root, so the container's root cannot create it. This happens with VOLUME /run or VOLUME /var/run in the image on containerd before 2.0.7, 2.1.5 and 2.2, because the service account token is mounted below /run/secrets.",
        fix: "Update containerd; or mount an emptyDir on that directory (mountPath: /run), or set automountServiceAccountToken: false.",
    }
    GroupsNotMapped = "groups-not-mapped" {
        says: ["setgroups: invalid argument"],
        sample: "unable to start container process: unable to setup user: setgroups: invalid argument",
        cause: "A supplemental group or the fsGroup of the pod is not mapped into its user namespace, which has the IDs 0 to 65535 by default. On OpenShift the group comes from the namespace's range, which starts at 1000000000 or above.",
        fix: "Choose supplementalGroups and fsGroup below 65536. On OpenShift annotate the pod with openshift.io/required-scc: restricted-v3.",
    }
    WriteMapDenied = "write-map-denied" {
        says: [
            "failed to update /proc/…/uid_map: Operation not permitted",
            "failed to update /proc/…/gid_map: Operation not permitted",
            "write to `uid_map`: Operation not permitted",
            "write to `gid_map`: Operation not permitted",
            "to /proc/…/uid_map: operation not permitted",
            "to /proc/…/gid_map: operation not permitted",
            "failed to write 'deny' to /proc/…/setgroups",
            "write to `/proc/…/setgroups`: Operation not permitted",
            "write to uid_map: Operation not permitted",
            "write to gid_map: Operation not permitted",
            "/uid_map`: Operation not permitted",
            "/gid_map`: Operation not permitted",
        ],
        sample: "failed to update /proc/42/uid_map: Operation not permitted",
        cause: "The runtime is not allowed to map these IDs: it runs in a user namespace that does not have them (a node in a container, an engine in a pod), or it is rootless and newuidmap and newgidmap are missing.",
        fix: "In a pod, configure the engine for IDs between 0 and 65535, and install newuidmap and newgidmap. On a node in a container, run usernsd bootstrap, which gives the user kubelet a range within the node's own.",
    }
    WriteMapInvalid = "write-map-invalid" {
        says: [
            "failed to update /proc/…/uid_map: Invalid argument",
            "failed to update /proc/…/gid_map: Invalid argument",
            "write to `uid_map`: Invalid argument",
            "write to `gid_map`: Invalid argument",
        ],
        sample: "failed to update /proc/42/uid_map: Invalid argument",
        cause: "The kernel rejects the mapping: it contains an ID twice, more than 340 ranges, or the last ID (4294967295).",
        fix: "Delete the pod; its replacement gets another range. Run usernsd bootstrap, which gives the user kubelet a range that ends earlier.",
        page: "runbooks/checks/subid_terminal_slot.md",
    }
    NamespaceGone = "sandbox-namespace-gone" {
        says: [
            "open userns path … failed: No such file",
            "failed to open existing userns for … id-mapping: …no such file",
            "failed to open netns(…no such file",
            "setns `/run/userns/…`: ",
            "setns `/var/run/userns/…`: ",
            "proc entry for pid … is gone",
        ],
        sample: "userns spawn: open userns path /var/run/userns/6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01 failed: No such file or directory",
        cause: "The file of the pod's user or network namespace no longer exists: the sandbox has ended, or the node was rebooted.",
        fix: "The kubelet creates a new sandbox. If the message persists, delete the pod.",
    }
    LockedFlags = "locked-mount-flags" {
        says: [
            "cannot clear locked flags",
            "cannot change locked atime flags",
            "with locked flags … re-applied",
            "remount `…`: Operation not permitted",
            "setting rootfs as readonly…operation not permitted",
        ],
        sample: "cannot clear locked flags MS_RDONLY|MS_NOEXEC: …",
        cause: "A mount from outside the user namespace keeps its flags (read-only, nosuid, nodev, noexec, atime), and the runtime was asked to clear one.",
        fix: "Use the volume as it is mounted on the node (readOnly: true if it is read-only there), or mount it on the node without that flag.",
    }
    CwdDenied = "working-directory-denied" {
        says: [
            "chdir to cwd (…) set in config.json failed: permission denied",
            "chdir to `…`: Permission denied",
            "chdir `…`: Permission denied",
        ],
        sample: "chdir to cwd (\"/data\") set in config.json failed: permission denied",
        cause: "The container's user has no access to its working directory, which is in a volume that belongs to other users or is not ID-mapped.",
        fix: "Choose another workingDir, or change the owner of the volume's files to the container's user with fsGroup, an init container, or on the server.",
    }
    KernelWithout = "kernel-without-user-namespaces" {
        says: [
            "user namespaces aren't enabled in the kernel",
            "failed to unshare user namespace: Invalid argument",
        ],
        cause: "The kernel is built without CONFIG_USER_NS.",
        fix: "Use a kernel with that option; the default kernels of all major distributions have it.",
        page: "runbooks/checks/max_user_namespaces.md",
    }
    RootlessIdmap = "rootless-idmap" {
        says: ["id-mapped mounts are not supported for rootless containers"],
        sample: "invalid mount &{…}: id-mapped mounts are not supported for rootless containers",
        cause: "A rootless OCI runtime, such as that of an engine in a pod, cannot create ID-mapped mounts.",
        fix: "Remove the option idmap from the volume of the inner container; the pod's own volumes are already mapped.",
    }
    HookDenied = "hook-denied" {
        says: ["error running createContainer hook #…permission denied"],
        sample: "error running createContainer hook #0: fork/exec /kind/bin/mount-product-files.sh: permission denied",
        cause: "A createContainer hook runs in the container's user namespace, where the hook's program is not accessible (older kind).",
        fix: "Make the hook's program and its parent directories readable for everyone; update kind.",
    }
    CgroupNotEmpty = "cgroup-domain-controllers" {
        says: ["with domain controllers -- it is in", "cgroups in hybrid mode not supported"],
        sample: "cannot enter cgroupv2 \"/sys/fs/cgroup/kubepods/x\" with domain controllers -- it is in an invalid state",
        cause: "The cgroup cannot have controllers: it is threaded or invalid because a cgroup with children contains processes, or the node mounts cgroup v1 and v2 side by side.",
        fix: "Boot the node with cgroup v2 only (systemd.unified_cgroup_hierarchy=1). For an engine in a pod, the entry point must move its processes into a child cgroup before it creates others.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    SystemdUnit = "cgroup-systemd-unit" {
        says: [
            "unable to start unit \"",
            "error creating systemd unit `",
            "Timeout waiting for systemd to create",
            "error `…` systemd unit `",
        ],
        sample: "unable to start unit \"cri-containerd-1.scope\" (properties [{Name:Description Value:\"libcontainer container 1\"}]): Unit cri-containerd-1.scope was already loaded or has a fragment file.",
        cause: "systemd on the node did not create the container's scope: it does not know a property of the scope, the scope's user is unknown (delegation.mechanism: systemd-user), or systemd is overloaded.",
        fix: "The end of the message comes from systemd; systemctl status UNIT and journalctl -u UNIT show more. If it mentions User=, see systemd-unknown-user.",
    }
    CgroupChown = "cgroup-chown-denied" {
        says: [
            "cannot chown `/sys/fs/cgroup…`: Operation not permitted",
            "cannot chown `…`: Read-only file system",
        ],
        sample: "cannot chown `/sys/fs/cgroup/libpod-1`: Operation not permitted",
        cause: "crun gives a container in a user namespace ownership of its cgroup, and is not allowed to: it runs in a pod whose cgroup is read-only or belongs to another user.",
        fix: "Annotate the outer pod with usernsd.io/cgroup: writable, where usernsd runs.",
        page: "annotations.md",
    }
    ChildDied = "runc-child-died" {
        says: ["can't get final child's PID from pipe", "nsexec-1[…failed to unshare"],
        sample: "runc create failed: unable to start container process: can't get final child's PID from pipe: EOF",
        cause: "The first process of runc ended before the container was created. The kernel refused a namespace (user.max_user_namespaces is 0 or used up, or a seccomp filter forbids it), or the memory limit of the container is too small.",
        fix: "An earlier line with nsexec in it has the cause. Check sysctl user.max_user_namespaces on the node, and set a memory limit of at least 16 MiB.",
        page: "runbooks/checks/max_user_namespaces.md",
    }
}
