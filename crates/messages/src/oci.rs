//! runc `libcontainer`, crun `src/libcrun`, and sysbox.

messages! { Oci;
    RuncIdmap = "runc-idmap" {
        says: [
            "failed to set MOUNT_ATTR_IDMAP on …invalid argument",
            "maybe the filesystem doesn't supports ID-mapped mounts",
        ],
        sample: "failed to set MOUNT_ATTR_IDMAP on /var/lib/kubelet/pods/1/volumes/kubernetes.io~nfs/home: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
        cause: "The file system of the volume does not support ID-mapped mounts. NFS, CIFS, CephFS before Linux 6.7 and other network file systems, hugetlbfs and overlayfs do not; a node that is itself a container may have /var/lib/kubelet on overlayfs, in its root file system. tmpfs, which holds Secrets, ConfigMaps and tokens, supports them from Linux 6.3 on.",
        fix: "Use a volume on a local file system (ext4, xfs, btrfs). For tmpfs use Linux 6.3 or later, or RHEL 9.4 or later. NFS has no support in any version.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    CrunIdmap = "crun-idmap" {
        says: [
            "mount_setattr `…: Invalid argument",
            // mount(8) with the option X-mount.idmap.
            "mount_setattr() failed: …Invalid argument",
        ],
        sample: "mount_setattr `/home` (maybe the file system used doesn't support idmap mounts on this kernel?): Invalid argument",
        cause: "The file system of the volume does not support ID-mapped mounts. NFS, CIFS, CephFS before Linux 6.7 and other network file systems, hugetlbfs and overlayfs do not; a node that is itself a container may have /var/lib/kubelet on overlayfs, in its root file system. tmpfs, which holds Secrets, ConfigMaps and tokens, supports them from Linux 6.3 on.",
        fix: "Use a volume on a local file system (ext4, xfs, btrfs). For tmpfs use Linux 6.3 or later, or RHEL 9.4 or later. NFS has no support in any version.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    UserNotMapped = "user-not-mapped" {
        says: [
            "failed to do idmap to get host ID: container ID … cannot be mapped",
            "cannot setuid to unmapped uid … in user namespace",
            "cannot setgid to unmapped gid … in user namespace",
            "cannot set uid to unmapped user in user namespace",
            "cannot set gid to unmapped user in user namespace",
            "but no mapping found for uid …",
            "but no mapping found for gid …",
            "setresuid to `…`: Invalid argument",
            "setresgid to `…`: Invalid argument",
            "setup user: invalid argument",
            "setup user: cannot set uid to unmapped user",
            "setup user: cannot set gid to unmapped user",
        ],
        sample: "failed to update container IO owner: failed to do idmap to get host ID: container ID 1000660000 cannot be mapped to a host ID",
        cause: "The container's user or group is not mapped into its user namespace; a pod has the IDs 0 to 65535 by default. On OpenShift the user comes from the namespace's range, which starts at 1000000000 or above. If a container engine maps a single ID, its containers have no user but root.",
        fix: "Choose runAsUser and runAsGroup below 65536. On OpenShift annotate the pod with openshift.io/required-scc: restricted-v3, whose users are 1000 to 65534. For an engine add ranges to its /etc/subuid and /etc/subgid, and run podman system migrate.",
        page: "recipes/sandbox.md",
    }
    MountOptionNotMapped = "mount-option-not-mapped" {
        says: ["mount options for unmapped uid", "mount options for unmapped gid"],
        sample: "Error: cannot specify gid= mount options for unmapped gid in rootless containers: OCI runtime error",
        cause: "A mount of the container has the option uid= or gid= with an ID that is not mapped: usually /dev/pts with gid=5 in a rootless container with a single ID, because its user has no line in /etc/subuid and /etc/subgid, as users of a directory service, or newuidmap failed.",
        fix: "Add a line with 65536 IDs for the user to both files (usermod --add-subuids, --add-subgids), or set subid: sss in /etc/nsswitch.conf if the directory service has them; then podman system migrate.",
    }
    NoRoom = "no-user-namespaces-left" {
        says: [
            "fork/exec /proc/self/exe: no space left on device",
            "user namespaces are not enabled in /proc/sys/user/max_user_namespaces",
            "user namespaces are not enabled in /proc/sys/",
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
            "Failed to create container process: No space left on device",
            "unshare user namespace: No space left on device",
        ],
        sample: "failed to create network namespace for sandbox \"…\": failed to start noop process for unshare: fork/exec /proc/self/exe: no space left on device",
        cause: "This is not about disk space: the kernel allows no more user namespaces. user.max_user_namespaces is 0 (the default of Talos, Bottlerocket and hardened images) or used up. In rare cases it is another limit, such as user.max_net_namespaces or the nesting depth of 32.",
        fix: "Run usernsd bootstrap --apply-sysctl on the node; on Talos set user.max_user_namespaces: \"11255\" under machine.sysctls, on Bottlerocket under settings.kernel.sysctl. It cannot be changed from inside a pod.",
        page: "runbooks/checks/max_user_namespaces.md",
    }
    IdmapDenied = "idmapped-mount-denied" {
        says: [
            "unable to shift GID/UID…: operation not permitted",
            "failed to set MOUNT_ATTR_IDMAP on …: operation not permitted",
            "mount_setattr `…`: Operation not permitted",
            "mount_setattr() failed: …Operation not permitted",
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
        cause: "The kernel allows a new sysfs mount only if the network namespace belongs to the container's user namespace and nothing is mounted over /sys; for mqueue the IPC namespace must belong to it, for cgroup the cgroup namespace. Here the namespace belongs to another user namespace (an old runtime, an engine in a pod, hostNetwork), or /sys is covered (older kind, nodes in containers).",
        fix: "Use containerd 2.0 or CRI-O 1.25 or later, without hostNetwork; update kind, and check findmnt -R /sys on the node for mounts over /sys. For an engine in a pod set procMount: Unmasked, which also removes the mounts over /sys, and start inner containers with --network none or --network host.",
    }
    SetxattrDenied = "selinux-label-denied" {
        says: [
            "mounting \"mqueue\" to rootfs…setxattr …: operation not permitted",
            "lsetxattr(label=…: operation not permitted",
            "setxattr …/dev/mqueue: operation not permitted",
        ],
        sample: "error mounting \"mqueue\" to rootfs at \"/dev/mqueue\": setxattr /run/containerd/io.containerd.runtime.v2.task/k8s.io/1/rootfs/dev/mqueue: operation not permitted",
        cause: "The runtime could not set the SELinux label of a mount or a volume: the process that sets it is not root in the user namespace (runc 1.2.0, runc#4466), or root there does not own the file, for example on a volume that podman relabels (options :z and :Z).",
        fix: "Update runc to 1.2.1 or later. For a volume, give its files to a user that is mapped into the container, label them on the node (chcon -Rt container_file_t), or omit :z and :Z.",
    }
    SysboxNoUserns = "sysbox-no-user-namespace" {
        says: [
            "mounting \"sysfs\" to rootfs…mount through procfd: operation not permitted",
            "mounting \"mqueue\" to rootfs…mount through procfd: operation not permitted",
        ],
        sample: "mounting \"sysfs\" to rootfs \"/var/lib/sysbox/rootfs/X/overlay2/merged\" at \"sys\" caused: mount through procfd: operation not permitted",
        cause: "sysbox needs a pod with a user namespace. This pod has none, and the kernel rejects the mount. Among other runtimes, only runc 1.0 uses this wording.",
        fix: "With sysbox set hostUsers: false (Kubernetes 1.30, containerd 2.0), or on CRI-O before Kubernetes 1.33 the annotation io.kubernetes.cri-o.userns-mode: auto:size=65536. Without sysbox update runc.",
    }
    DevptsInvalid = "devpts-invalid" {
        says: ["mounting \"devpts\" to rootfs…invalid argument", "mount `devpts` to `…`: Invalid argument"],
        sample: "error mounting \"devpts\" to rootfs at \"/dev/pts\": mount src=devpts, dst=/dev/pts, dstFd=/proc/thread-self/fd/11, flags=MS_NOSUID|MS_NOEXEC, data=newinstance,ptmxmode=0666,mode=0620,gid=5: invalid argument",
        cause: "Terminals belong to group 5 (tty), which is not in the container's mapping. The mapping has a single ID, from uid_mappings and gid_mappings in CRI-O's configuration or from an engine without subordinate IDs.",
        fix: "Remove uid_mappings and gid_mappings from CRI-O's configuration and use hostUsers: false. For an engine in a pod add ranges to the image's /etc/subuid and /etc/subgid.",
    }
    MountPointDenied = "mount-point-denied" {
        says: [
            "create mountpoint for … mount: …permission denied",
            "mkdirat…/rootfs/…: permission denied",
            "mounting …to rootfs …caused …mkdir /…: permission denied",
            "mkdir `/…`: Permission denied",
            "creating `/…`: openat2 `…`: Permission denied",
            "creating `/…`: open `…`: Permission denied",
        ],
        sample: "create mountpoint for /var/run/secrets/kubernetes.io/serviceaccount mount: mkdirat /run/containerd/io.containerd.runtime.v2.task/k8s.io/X/rootfs/run/secrets: permission denied",
        cause: "The mount point does not exist, and its parent directory does not belong to the container's root, which so cannot create it. In a pod this happens with VOLUME /run or VOLUME /var/run in the image on containerd before 2.0.7, 2.1.5 and 2.2, because the service account token is mounted below /run/secrets. With an engine the image gives the directory to another user, or was unpacked with another mapping.",
        fix: "In a pod update containerd; or mount an emptyDir on that directory (mountPath: /run), or set automountServiceAccountToken: false. For an engine put the mount point into the image, or remove the image and pull it again after podman system migrate.",
    }
    GroupsNotMapped = "groups-not-mapped" {
        says: ["setgroups: invalid argument"],
        sample: "unable to start container process: unable to setup user: setgroups: invalid argument",
        cause: "A supplemental group or the fsGroup of the pod is not mapped into its user namespace, which has the IDs 0 to 65535 by default. On OpenShift the group comes from the namespace's range, which starts at 1000000000 or above. If the pod has no user namespace, the node itself has one (usernetes, rootless kind) that lacks the group.",
        fix: "Choose supplementalGroups and fsGroup below 65536; give a node in a container 65536 IDs at least. On OpenShift annotate the pod with openshift.io/required-scc: restricted-v3.",
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
            "namespace path: lstat /proc/…/ns/…: no such file",
            "lstat /proc/0/ns/",
        ],
        sample: "userns spawn: open userns path /var/run/userns/6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01 failed: No such file or directory",
        cause: "The file of the pod's user or network namespace no longer exists: the sandbox has ended, the node was rebooted, or, where the process number is 0, the runtime had already lost the sandbox's process.",
        fix: "The kubelet creates a new sandbox. If the message persists, delete the pod.",
    }
    LockedFlags = "locked-mount-flags" {
        says: [
            "cannot clear locked flags",
            "cannot change locked atime flags",
            "with locked flags … re-applied",
            "remount `…`: Operation not permitted",
        ],
        sample: "cannot clear locked flags MS_RDONLY|MS_NOEXEC: …",
        cause: "In a user namespace, the flags of a mount from outside cannot be cleared (read-only, nosuid, nodev, noexec, atime), and the runtime was asked to clear one.",
        fix: "Use the volume as it is mounted on the node (readOnly: true if it is read-only there), or mount it on the node without that flag.",
    }
    CwdDenied = "working-directory-denied" {
        says: [
            "chdir to cwd (…) set in config.json failed: permission denied",
            "chdir to cwd…in config.json failed: permission denied",
            "chdir to `…`: Permission denied",
            "chdir `…`: Permission denied",
        ],
        sample: "chdir to cwd (\"/data\") set in config.json failed: permission denied",
        cause: "The container's user has no access to its working directory. It is on a volume that belongs to other users or is not ID-mapped; or it is in the image and belongs to the image's user, while the pod runs as another user (on OpenShift with an ID from the namespace's range).",
        fix: "Choose another workingDir. For a directory in the image, give group 0, to which OpenShift's users belong, the rights of the owner (chgrp -R 0, chmod -R g=u); for a volume change the owner with fsGroup, with an init container, or on the server.",
    }
    KernelWithout = "kernel-without-user-namespaces" {
        says: [
            "user namespaces aren't enabled in the kernel",
            "failed to unshare user namespace: Invalid argument",
            "unshare(CLONE_NEWUSER): Invalid argument",
            "failed to start the child: fork/exec /proc/self/exe: invalid argument",
            "cannot clone: Invalid argument",
            "Failed to create user namespace: Invalid argument",
            "failed to unshare namespaces: Invalid argument",
            "unshare user namespace: Invalid argument",
            "Creating new namespace failed: Invalid argument",
            "Failed to create container process: Invalid argument",
            "Creating new namespace failed: Function not implemented",
            "cannot clone: Function not implemented",
            "unshare failed: Function not implemented",
            "unshare(CLONE_NEWUSER): Function not implemented",
        ],
        cause: "The kernel offers no user namespaces: it is built without CONFIG_USER_NS, they are disabled (RHEL and CentOS 7 do so by default), or it is not Linux itself (gVisor). A seccomp filter can also cause Function not implemented.",
        fix: "Use a kernel with user namespaces, as in all current major distributions. On RHEL 7 boot with user_namespace.enable=1, and set the sysctl user.max_user_namespaces.",
        page: "runbooks/checks/max_user_namespaces.md",
    }
    NoCgroupNamespace = "kernel-without-cgroup-namespaces" {
        says: [
            "cgroup namespaces aren't enabled in the kernel",
            "Your kernel does not support cgroup namespaces",
        ],
        sample: "runc create failed: cgroup namespaces aren't enabled in the kernel",
        cause: "The engine asks for a cgroup namespace, and the kernel has none: it is not Linux itself (gVisor), or older than 4.6.",
        fix: "Start inner containers with --cgroupns=host, or use a runtime class other than gVisor for the pod.",
    }
    RootlessIdmap = "rootless-idmap" {
        says: ["id-mapped mounts are not supported for rootless containers"],
        sample: "invalid mount &{…}: id-mapped mounts are not supported for rootless containers",
        cause: "A rootless OCI runtime, such as that of an engine in a pod, cannot create ID-mapped mounts.",
        fix: "Remove the option idmap from the volume of the inner container; the pod's own volumes are already mapped.",
    }
    HookDenied = "hook-denied" {
        says: ["error running …hook #…: fork/exec …: permission denied"],
        sample: "error running createContainer hook #0: fork/exec /kind/bin/mount-product-files.sh: permission denied",
        cause: "A createContainer hook runs in the container's user namespace, where the hook's program is not accessible (older kind).",
        fix: "Make the hook's program and its parent directories readable for everyone; update kind.",
    }
    CgroupNotEmpty = "cgroup-domain-controllers" {
        says: [
            "with domain controllers -- it is in", "cgroups in hybrid mode not supported",
            "cgroup.type` for writing: Permission denied",
            "cgroup.procs`: Operation not supported",
            "cgroup.procs: operation not supported",
        ],
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
        cause: "systemd on the node did not create the container's scope: it does not support a property of the scope, the scope's user is unknown (delegation.mechanism: systemd-user), or systemd is overloaded.",
        fix: "The end of the message is systemd's reason; systemctl status UNIT and journalctl -u UNIT show more. If it mentions User=, see systemd-unknown-user.",
    }
    CgroupChown = "cgroup-chown-denied" {
        says: [
            "cannot chown `/sys/fs/cgroup…`: Operation not permitted",
            "cannot chown `…`: Read-only file system",
        ],
        sample: "cannot chown `/sys/fs/cgroup/libpod-1`: Operation not permitted",
        cause: "crun tries to give a container in a user namespace ownership of its cgroup, but is not allowed to: crun runs in a pod whose cgroup is read-only or belongs to another user.",
        fix: "Annotate the outer pod with usernsd.io/cgroup: writable, where usernsd runs.",
        page: "annotations.md",
    }
    ChildDied = "runc-child-died" {
        says: [
            "can't get final child's PID from pipe",
            "getting the final child's pid from pipe",
            "nsexec-1[…failed to unshare",
        ],
        sample: "runc create failed: unable to start container process: can't get final child's PID from pipe: EOF",
        cause: "The first process of runc ended before the container was created. The kernel refused a namespace (user.max_user_namespaces is 0 or used up, or a seccomp filter forbids it), or the memory limit of the container is too small.",
        fix: "An earlier line that contains nsexec shows the cause. Check sysctl user.max_user_namespaces on the node, and set a memory limit of at least 16 MiB.",
        page: "runbooks/checks/max_user_namespaces.md",
    }
    JoinDenied = "join-namespace-denied" {
        says: [
            "setns `…/ns/…`: Operation not permitted",
            "failed to setns into … namespace: Operation not permitted",
            "setns to … failed: operation not permitted",
            "setns(pid=…, CLONE_…): Operation not permitted",
            "--userns and --pod cannot be set together",
            "open /var/run/docker/netns/…: permission denied",
            "cannot share the host…namespace when user namespaces are enabled",
            "sethostname: operation not permitted",
            "setns to target user namespace `…`: Operation not permitted",
            "nsenter: cannot open /proc/…/ns/…: Permission denied",
            "nsenter: reassociate to namespace …: Operation not permitted",
        ],
        sample: "cannot setns `/proc/556/ns/net`: Operation not permitted",
        cause: "A container with a user namespace of its own joins a namespace (network, IPC, UTS, PID) that belongs to another user namespace, in which the container has no rights. This happens if only one container of a podman pod gets --userns, or joins another one or the host with --network container:NAME, --network host or --pid host. If podman exec fails so directly after the start, it is a race in crun before 1.8.7.",
        fix: "Give the user namespace to the whole pod (podman pod create --userns=…; in Kubernetes hostUsers: false), so that all its namespaces belong together; with Docker's userns-remap use --userns=host for such containers. Update crun.",
    }
    PingGroups = "ping-group-range" {
        says: [
            "write /proc/sys/net/ipv4/ping_group_range: invalid argument",
            "write to `/proc/sys/net/ipv4/ping_group_range`…: Invalid argument",
            "write sysctl key net.ipv4.ping_group_range: …invalid argument",
        ],
        sample: "runc create failed: unable to start container process: error during container init: write /proc/sys/net/ipv4/ping_group_range: invalid argument",
        cause: "The sysctl net.ipv4.ping_group_range contains groups that are not mapped into the container. It comes from the pod's sysctls, from enable_unprivileged_icmp of containerd before 2.0, or from default_sysctls in containers.conf of an engine.",
        fix: "Use a range of mapped groups (\"0 65535\" in a pod, \"0 0\" for root only), set default_sysctls = [] in containers.conf, or update containerd.",
    }
    PodSysctlDenied = "pod-sysctl-denied" {
        says: [
            "write /proc/sys/net/…: permission denied",
            "write to `/proc/sys/net/…`: Permission denied",
            "open sysctl … file: …permission denied",
            "open `/proc/sys/net/…`: Permission denied",
        ],
        sample: "runc create failed: unable to start container process: error during container init: open sysctl net.ipv4.ip_unprivileged_port_start file: reopen fd 8: permission denied",
        cause: "The runtime is not allowed to set a sysctl of the pod's network. Either the network namespace belongs to another user namespace (sysbox with a pod that has none of its own), or AppArmor forbids it: profiles of LXC, Incus and Proxmox that are older than runc 1.3.3 do, because runc opens /proc/sys in a new way.",
        fix: "With sysbox on containerd set hostUsers: false. In an LXC container update LXC or Incus on its host, with a profile that allows /sys/net, or let the container run unconfined there.",
    }
    Unreachable = "directory-not-accessible" {
        says: [
            "preparing rootfs caused: …permission denied",
            "error preparing rootfs: …permission denied",
            "mounting \"…\" to rootfs…stat …: permission denied",
            "mount `/…` to `…`: Permission denied",
            "error stat'ing file `…`: Permission denied",
            "pivot_root dir…: permission denied",
            "open `/…/merged`: Permission denied",
            "make `/…/merged` private: Permission denied",
            "Failed to detect whether /proc is a mount point: Permission denied",
        ],
        sample: "container init caused: rootfs_linux.go:47: preparing rootfs caused: permission denied",
        cause: "Root in the container is an ordinary user of the host, who cannot enter a directory on the way to the image's files or to a volume (mode 0700).",
        fix: "namei -l PATH shows the directories: each needs x for others (chmod o+x), for example /var/lib/kubelet, the runtime's state directory, or /var/lib/containers/storage/overlay-containers.",
    }
    ReadOnlyRoot = "read-only-root-denied" {
        says: ["setting rootfs as readonly…operation not permitted"],
        sample: "container init caused \"rootfs_linux.go:147: setting rootfs as readonly caused \\\"operation not permitted\\\"\"",
        cause: "The image's files are on a file system that is mounted with nosuid, nodev or noexec. In a user namespace such flags cannot be cleared, and old versions of runc try to clear them when they make the root file system read-only.",
        fix: "Update runc (1.1 at least) or use crun; or mount the runtime's storage without these flags; or omit readOnlyRootFilesystem.",
    }
    LockedRemount = "locked-remount-flags" {
        says: [
            "flags: 0x…: operation not permitted",
            "flags=MS_RDONLY|MS_REMOUNT|MS_BIND…: operation not permitted",
            "flags=MS_REMOUNT|MS_BIND…: operation not permitted",
        ],
        sample: "error mounting \"/var/lib/kubelet/pods/1/volumes/kubernetes.io~configmap/config\" to rootfs at \"/etc/coredns\": mount /var/lib/kubelet/pods/1/volumes/kubernetes.io~configmap/config:/etc/coredns (via /proc/self/fd/6), flags: 0x5021: operation not permitted",
        cause: "The runtime remounts a volume with other flags, read-only for example, and in a user namespace the flags nosuid, nodev, noexec and ro of the original mount cannot be cleared.",
        fix: "Update runc (1.2 keeps the flags of the source) or use crun; or mount the directory of the volume without these flags (findmnt -T PATH on the node shows them).",
        when: is_bound_again,
    }
    HookFailed = "hook-failed" {
        says: [
            "error executing hook `…` (exit code",
            "error running …hook #…: exit status",
            "running hook #…: error running hook: exit status",
            "nvidia-container-cli: ldcache error: ",
            "nvidia-container-cli: initialization error: driver error",
            "could not start …ldconfig: mount operation failed",
        ],
        sample: "error executing hook `/usr/bin/nvidia-cdi-hook` (exit code: 1)",
        cause: "A hook of the OCI runtime failed. Hooks of the stages createContainer and startContainer run as root of the container's user namespace, an ordinary user of the host. There, a hook fails if it reads files of the host's root or changes the image's files, as the hooks of NVIDIA's container toolkit have done so far (nvidia-container-toolkit#648).",
        fix: "The hook's output or its log (/var/log/nvidia-container-toolkit.log) shows the cause. Run pods with GPUs without hostUsers: false until the toolkit supports user namespaces.",
    }
    CgroupGone = "cgroup-gone" {
        says: [
            "adding pid … to cgroups: …no such file or directory",
            "getting all container pids from cgroups…: no such file or directory",
            "open `/sys/fs/cgroup/…/cgroup.freeze`: No such file or directory",
        ],
        sample: "exec failed: unable to start container process: error adding pid 25541 to cgroups: failed to write 25541: open /sys/fs/cgroup/unified/kubepods.slice/cri-containerd-1.scope/cgroup.procs: no such file or directory",
        cause: "The container's cgroup was removed, or its processes were moved out of it, while it runs: by systemd on the node, if the runtime and the kubelet use the driver cgroupfs below a systemd that manages the same tree; by a systemd in the container that has the node's /sys/fs/cgroup; or the node mounts cgroup v1 and v2 side by side.",
        fix: "Set the cgroup driver systemd in the kubelet and in the runtime (SystemdCgroup = true, cgroup_manager = \"systemd\"), boot with cgroup v2 only, do not mount the node's /sys/fs/cgroup into containers, and recreate the pod.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    CgroupMountLost = "cgroup-mount-lost" {
        says: [
            "mounting \"cgroup\" to rootfs…stat /run/…: no such file or directory",
            "mounting \"cgroup\" to rootfs…stat /var/…: no such file or directory",
        ],
        sample: "error mounting \"cgroup\" to rootfs at \"/sys/fs/cgroup\": stat /run/containerd/io.containerd.runtime.v2.task/k8s.io/1/rootfs/sys/fs/kubepods-burstable-pod1.slice/cri-containerd-1.scope: no such file or directory",
        cause: "runc looks for the container's cgroup in a mount of the node that does not show it: a mount of a cgroup was left behind by another container, or the node mounts cgroup v1 and v2 side by side (runc#2404).",
        fix: "Update runc to 1.1.15 or later, and restart the runtime. Boot the node with cgroup v2 only.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    DeviceNode = "device-node-missing" {
        says: [
            "error creating device nodes: mount /dev/…: no such file or directory",
        ],
        sample: "error creating device nodes: mount /dev/nvidiactl:/var/lib/containers/storage/overlay/1/merged/dev/nvidiactl (via /proc/self/fd/14), flags: 0x1000: no such file or directory",
        cause: "In a user namespace the runtime cannot create device nodes, and mounts the host's devices instead; the host does not have this one. Without a user namespace the runtime creates the node by its numbers.",
        fix: "Create the device on the node (for NVIDIA's nvidia-modprobe -c0 -u), or update the device plugin or CDI specification that names it.",
    }
    MountPointInSysfs = "mount-point-in-sysfs" {
        says: [
            "failed to mkdirall …/sys/…: operation not permitted",
            "create mountpoint for /sys/…: operation not permitted",
            "create mountpoint for /proc/…: no such file or directory",
            "mkdir /…/merged/sys/…: no such file or directory",
            "mkdir /…/rootfs/sys/…: no such file or directory",
        ],
        sample: "failed to mkdirall /var/lib/sysbox/rootfs/1/top/merged/sys/kernel/tracing: operation not permitted",
        cause: "The mount point of a volume is below /sys or /proc and does not exist in the container, and no directories can be created there.",
        fix: "Remove that volume from the pod, or mount it elsewhere (/host/sys/kernel/tracing). systemd needs no volume on /sys/fs/cgroup: annotate the pod with usernsd.io/systemd: \"true\" instead.",
    }
    SetnsExit = "runc-setns-exit" {
        says: ["running exec setns process for init caused \"exit status …"],
        sample: "docker: Error response from daemon: OCI runtime create failed: container_linux.go:296: starting container process caused \"process_linux.go:301: running exec setns process for init caused \\\"exit status 40\\\"\": unknown.",
        cause: "The step of an old runc that creates or joins namespaces failed; the number is a place in its code. Most often user namespaces are switched off (user.max_user_namespaces is 0 on RHEL 7), or seccomp or AppArmor forbids them.",
        fix: "sysctl user.max_user_namespaces must be above 0: usernsd bootstrap --apply-sysctl. Update runc to 1.2 or later, whose message gives the reason.",
        page: "runbooks/checks/max_user_namespaces.md",
    }
    NoConsole = "dev-console-missing" {
        says: [
            "containerd-mount…/dev/console: no such file or directory",
            "/merged/dev/console: no such file or directory",
            "/rootfs/dev/console: no such file or directory",
        ],
        sample: "failed to create containerd container: open /var/lib/containerd/tmpmounts/containerd-mount1/dev/console: no such file or directory",
        cause: "The image has no /dev/console, on which the runtime mounts the container's terminal, and in a user namespace it cannot create one in the image's files (containerd#13129, observed with images of a single program on GKE).",
        fix: "Add the file to the image: RUN mkdir -p /dev && touch /dev/console, or COPY an empty file there.",
    }
    NetnsDenied = "network-namespace-denied" {
        says: [
            "failed to setup netns: …permission denied",
            "open /var/run/netns/…: permission denied",
            "open /run/netns/…: permission denied",
            "new shim socket: listen unix …permission denied",
        ],
        sample: "failed to create network namespace for sandbox \"1\": failed to setup netns: open /var/run/netns/cni-1: permission denied",
        cause: "containerd does not own /run: it runs in a user namespace (rootless k3s or usernetes, a node in a container) that still shows the /run of the machine.",
        fix: "Start it with a /run of its own: rootlesskit --copy-up=/run (current versions of k3s server --rootless do so), or a tmpfs on /run of the node's container.",
    }
    NoUserMapping = "no-user-mapping" {
        says: [
            "User namespaces enabled, but no user mapping found",
            "User namespaces enabled, but no group mapping found",
            "user namespaces enabled, but no uid mappings found",
            "user namespaces enabled, but no gid mappings found",
        ],
        sample: "OCI runtime create failed: User namespaces enabled, but no user mapping found.",
        cause: "The configuration of a container names a user namespace without an ID mapping: a runtime that does not support user namespaces has dropped it (Kata Containers under Docker's userns-remap), or the bundle was written by hand.",
        fix: "Use runc or crun for containers with a user namespace; containers in virtual machines need none. In a bundle add uidMappings and gidMappings to its config.json.",
    }
    SignalDenied = "signal-denied" {
        says: [
            "unable to signal init: permission denied",
        ],
        sample: "runc did not terminate successfully: exit status 1: unable to signal init: permission denied",
        cause: "The runtime is not allowed to stop the container. AppArmor 4 (Ubuntu 23.10 and later) confines runc, crun and podman by profiles of their own, and the container's profile accepts signals of unconfined programs only. The kernel's log has a line with apparmor=\"DENIED\" operation=\"signal\".",
        fix: "Update the engine: containerd 1.6.32, 1.7.16 and 2.0 and Docker 27 have a profile with rules for these programs. Until then disable the runtime's own profile: aa-disable /usr/sbin/runc.",
        page: "apparmor.md",
    }
    NoApparmor = "apparmor-not-initialized" {
        says: [
            "AppArmor not initialized correctly",
            "AppArmor is not initialized correctly",
        ],
        sample: "Error: AppArmor not initialized correctly: OCI runtime error",
        cause: "The runtime is to apply an AppArmor profile, but finds no working AppArmor: it runs in a container that shows the node's AppArmor but cannot use it, or in which another engine's profile applies.",
        fix: "For an engine in a pod set apparmor_profile = \"unconfined\" in its containers.conf (podman --security-opt apparmor=unconfined), and update crun.",
    }
    SysboxIdmap = "sysbox-idmap" {
        says: [
            "setting up ID-mapped mount on path …",
        ],
        sample: "rootfs_init_linux.go:317: setting up ID-mapped mount on path 3 (likely means idmapped mounts are not supported on the filesystem at this path ()) caused: Failed to eval symlink on : lstat 3: no such file or directory",
        cause: "sysbox could not map the IDs of a volume: its file system does not support ID-mapped mounts (NFS, CIFS, overlayfs and others). If the path in the message is only a number, sysbox did not receive the volume's path (sysbox#872), and the file system does not matter.",
        fix: "Use a volume on a local file system (ext4, xfs, btrfs). If the path is a number, update sysbox; or use hostUsers: false with runc or crun instead of sysbox.",
    }
    SysboxIdmapDenied = "sysbox-idmap-denied" {
        says: ["setting up ID-mapped mount on path …: Failed to set mount attr: operation not permitted"],
        sample: "setting up ID-mapped mount on path /var/lib/docker/1/merged/lib/modules (likely means idmapped mounts are not supported on the filesystem at this path (xfs)) caused: Failed to set mount attr: operation not permitted",
        cause: "The file system is not the cause, although the message suggests it: the kernel returns this error if the mount is mapped already, if sysbox is not root of the machine, or, in the first versions of RHEL 9 and its rebuilds, for every ID-mapped mount.",
        fix: "Use RHEL 9.4 or later there. If sysbox runs in a container (envbox), or its volumes are mapped already, start it with sysbox-mgr --disable-idmapped-mount.",
    }
    Shiftfs = "sysbox-shiftfs" {
        says: [
            "shiftfs/…value too large for defined data type",
        ],
        sample: "failed to mkdirall /var/lib/sysbox/shiftfs/1/var/lib/rancher: mkdir /var/lib/sysbox/shiftfs/1/var/lib/rancher: value too large for defined data type",
        cause: "sysbox maps the image's files with the kernel module shiftfs, which does not work with this kernel (Ubuntu's 5.15.0-48 and some others).",
        fix: "Use sysbox 0.6 or later on Linux 5.19 or later, where it uses ID-mapped mounts instead; or disable shiftfs (sysbox-mgr --disable-shiftfs).",
    }
}

/// Whether the flags of a mount, in hexadecimal, or its name mean that an existing mount is mounted again in its
/// place: `MS_REMOUNT` and `MS_BIND` of mount(2).
fn is_bound_again(text: &str) -> bool {
    const REMOUNT: u32 = 0x20;
    const BIND: u32 = 0x1000;
    match u32::from_str_radix(text.trim(), 16) {
        Ok(flags) => flags & REMOUNT != 0 && flags & BIND != 0,
        Err(_) => !text.contains(char::is_whitespace),
    }
}
