//! podman, buildah, Docker, BuildKit, bubblewrap and sysbox in a pod, and shadow's `newuidmap` and `newgidmap` under them.

messages! { Engine;
    Newuidmap = "newuidmap" {
        says: [
            "newuidmap: write to uid_map failed: Operation not permitted",
            "newgidmap: write to gid_map failed: Operation not permitted",
        ],
        cause: "There are three possible causes: the image's /etc/subuid or /etc/subgid contains IDs that the pod does not have (100000:65536, while the pod has 0 to 65535); the container has dropped SETUID and SETGID; or allowPrivilegeEscalation: false keeps the program from using them.",
        fix: "Write a range within the pod's into both files of the image (1001:64535 for user 1000), keep the capabilities SETUID and SETGID, and omit allowPrivilegeEscalation: false.",
        page: "recipes/container-engine.md",
    }
    NewuidmapFailed = "newuidmap-failed" {
        says: [
            "'newuidmap' execution failed. Check that",
            "'newgidmap' execution failed. Check that",
            "cannot set up namespace using \"…/newuidmap\"",
            "cannot set up namespace using \"…/newgidmap\"",
            "cannot setup namespace using \"…/newuidmap\"",
            "cannot setup namespace using newuidmap",
            "cannot setup namespace using newgidmap",
            "running `/usr/bin/newuidmap …`: ",
            "running `/usr/bin/newgidmap …`: ",
            "running /usr/bin/newuidmap ",
        ],
        sample: "Error: cannot set up namespace using \"/usr/bin/newuidmap\": exit status 1",
        cause: "newuidmap or newgidmap failed. Its own message, in this line or the one before, names the cause. Usually the image's /etc/subuid or /etc/subgid contains IDs that the pod does not have (100000:65536, while the pod has 0 to 65535), the container has dropped SETUID and SETGID, or allowPrivilegeEscalation: false keeps the program from using them.",
        fix: "Read that message. Write a range within the pod's into both files of the image (1001:64535 for user 1000), keep the capabilities SETUID and SETGID, and omit allowPrivilegeEscalation: false.",
        page: "recipes/container-engine.md",
    }
    NewuidmapInvalid = "newuidmap-invalid" {
        says: [
            "newuidmap: write to uid_map failed: Invalid argument",
            "newgidmap: write to gid_map failed: Invalid argument",
            "subuid overflow detected",
        ],
        cause: "The ranges in the image's /etc/subuid or /etc/subgid overlap each other or the user's own ID, or exceed what can be mapped.",
        fix: "Write one line for the user into each of the two files, within 0 to 65535 and without its own ID: 1001:64535 for user 1000.",
        page: "recipes/container-engine.md",
    }
    NewuidmapRange = "newuidmap-not-allowed" {
        says: [
            "uid range [… not allowed",
            "gid range [… not allowed",
            "newuidmap failed to write mapping",
            "newgidmap failed to write mapping",
            "doesn't have a uid/gid allocation",
            "user has no subuids",
            "user has no subgids",
            "Failed to set up id mapping",
            "Error setting up child mappings",
        ],
        sample: "newuidmap: uid range [1-65537) -> [100000-165536) not allowed",
        cause: "The engine uses IDs that /etc/subuid or /etc/subgid does not give to its user.",
        fix: "Add lines for that user to both files of the image, within 0 to 65535, and run podman system migrate. LXD and Incus on a node need lines of the form root:START:COUNT.",
    }
    NewuidmapCapability = "newuidmap-no-capability" {
        says: [
            "newuidmap: Could not set caps",
            "newgidmap: Could not set caps",
            "Could not seteuid to",
            "Could not prctl(PR_SET_KEEPCAPS)",
            "should have setuid or have filecaps",
            "should be setuid or have filecaps",
            "should be setgid or have filecaps",
            "failed to setgroups … policy: Operation not permitted",
            "newuidmap: open of uid_map failed: Permission denied",
            "newgidmap: open of gid_map failed: Permission denied",
        ],
        sample: "/usr/bin/newuidmap should be setuid or have filecaps setuid",
        cause: "newuidmap or newgidmap runs without the capabilities SETUID and SETGID: the container has dropped them, the image has lost the programs' file capabilities, or allowPrivilegeEscalation: false ignores those.",
        fix: "Keep the capabilities SETUID and SETGID, and omit allowPrivilegeEscalation: false; in the image make the programs setuid (chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap).",
    }
    NewuidmapOwner = "newuidmap-other-user" {
        says: [
            "Target process is owned by a different user",
            "Target process … is owned by a different user",
            "Could not stat directory for target process",
            "Cannot determine your user name",
        ],
        sample: "newuidmap: Target process is owned by a different user: uid:1000 pw_uid:1000 st_uid:0, gid:1000 pw_gid:1000 st_gid:0",
        cause: "newuidmap maps IDs only for processes of the calling user, who must be listed in the image's /etc/passwd with the group that the process has. An arbitrary runAsUser is not listed, and an arbitrary runAsGroup is another group (gid and pw_gid in the message differ).",
        fix: "Add a line for the user to the image's /etc/passwd (images for OpenShift do this in their entry point), with the group that the container runs with, or run the engine as a listed user with its own group.",
    }
    NewuidmapMissing = "newuidmap-missing" {
        says: [
            "finding newuidmap: …",
            "finding newgidmap: …",
            "\"newuidmap\": executable file not found",
            "\"newgidmap\": executable file not found",
            "mapping tool not present",
        ],
        sample: "finding newgidmap: exec: \"newgidmap\": executable file not found in $PATH",
        cause: "A rootless engine maps IDs with newuidmap and newgidmap, which are not in the PATH in this image.",
        fix: "Install them in the image (Debian, Ubuntu: uidmap; Fedora: shadow-utils), or run the engine as root inside the pod, which does not need them.",
    }
    SingleMapping = "single-mapping" {
        says: [
            "Falling back to single mapping",
            "creating a user namespace with single mapping as an alternative",
            "rootless single mapping into the namespace",
        ],
        sample: "Falling back to single mapping",
        cause: "newuidmap or newgidmap failed or is missing, and the engine continues with a single ID. Images with files of other owners cannot be unpacked, and programs cannot change their user.",
        fix: "The line before shows why the mapping failed. Usually the image has no line for its user in /etc/subuid and /etc/subgid (1001:64535 for user 1000), or the container lacks SETUID and SETGID.",
        page: "recipes/container-engine.md",
    }
    NoSubids = "no-subordinate-ids" {
        says: [
            "no subuid ranges found for user",
            "no subgid ranges found for group",
            "no subgid ranges found for user",
            "found no UID ranges set aside for user",
            "found no GID ranges set aside for user",
            "reading subuid mappings for user",
            "cannot find UID/GID for user",
            "missing necessary entries in /etc/subuid and/or /etc/subgid",
        ],
        sample: "no subuid ranges found for user \"build\" in /etc/subuid",
        cause: "/etc/subuid or /etc/subgid of the machine or image where the engine runs has no line for its user. For an engine in a pod these are the files of its image, not those of the node.",
        fix: "Write one line for the user into both files of that machine or image; in a pod within 0 to 65535: 1001:64535 for user 1000. An engine that runs as root inside the pod needs none.",
        page: "recipes/container-engine.md",
    }
    AutoUser = "automatic-user-no-range" {
        says: [
            "cannot find mappings for user …",
            "cannot find mappings for user …: no subuid ranges found for user",
            "cannot find mappings for user …: no subgid ranges found for user",
            "cannot find mappings for user …: no subgid ranges found for group",
        ],
        sample: "Cannot find mappings for user \"root\": no subuid ranges found for user \"root\" in /etc/subuid",
        cause: "A container with --userns=auto takes its IDs from the lines of one user in /etc/subuid and /etc/subgid. root-auto-userns-user in storage.conf sets that user, who has no line. The lines of the user containers count only if that user is set there.",
        fix: "Add lines for the user in the message to both files, or set root-auto-userns-user = \"containers\" in /etc/containers/storage.conf, and run podman system migrate.",
        when: |name| !super::begins_with_user(name, "containers"),
    }
    Dockremap = "dockremap-subordinate-ids" {
        says: [
            "no subuid ranges found for user …",
            "no subgid ranges found for group …",
            "no subgid ranges found for user …",
        ],
        sample: "Error creating ID mappings: No subuid ranges found for user \"dockremap\" in /etc/subuid",
        cause: "dockerd runs with userns-remap: default, and /etc/subuid or /etc/subgid of the machine or image where it runs has no line for its user dockremap. The kubelet and CRI-O do not use that line.",
        fix: "Write a line dockremap:START:65536 into both files there, beside the other ranges (usernsd map shows them), and restart dockerd.",
        when: |name| super::begins_with_user(name, "dockremap"),
    }
    IdsInsufficient = "insufficient-ids" {
        says: [
            "potentially insufficient UIDs or GIDs available in user namespace",
            "potentially insufficient UIDs or GIDs available in the user namespace",
            "there might not be enough IDs available in the namespace",
        ],
        sample: "potentially insufficient UIDs or GIDs available in user namespace (requested 172761424:0 for /opt/app): Check /etc/subuid and /etc/subgid if configured locally and run \"podman system migrate\": lchown /opt/app: invalid argument",
        cause: "A file of the inner image is owned by an ID that the engine's mapping does not have: the pod's /etc/subuid and /etc/subgid give it too few IDs, or the image has owners above 65535. If the owner is below, the engine's storage may be on NFS: its server refuses other owners, regardless of the mapping.",
        fix: "Enlarge the range in the pod's own /etc/subuid and /etc/subgid, within 0 to 65535 (1001:64535 for user 1000), and run podman system migrate; build the inner image with owners below 65536. ignore_chown_errors in storage.conf gives all files to one user instead.",
        page: "recipes/container-engine.md",
    }
    CgroupDenied = "cgroup-denied" {
        says: [
            "/sys/fs/cgroup/…: Permission denied",
            "mkdir /sys/fs/cgroup…: permission denied",
            "creating cgroup directory `…`: Permission denied",
        ],
        sample: "mkdir: can't create directory '/sys/fs/cgroup/init': Permission denied",
        cause: "A program in the pod creates cgroups, but the container's cgroup does not belong to it.",
        fix: "Annotate the pod with usernsd.io/cgroup: writable, where usernsd runs; usernsd explain POD shows what is missing. For a rootless engine on a machine, delegate the user's cgroup: Delegate=yes in a drop-in for user@.service.",
        page: "annotations.md",
    }
    CgroupMove = "cgroup-move-denied" {
        says: [
            "Failed to add PIDs to scope's control group: Permission denied",
            "/sys/fs/cgroup/…user.slice/…/cgroup.procs…: Permission denied",
        ],
        sample: "podman-305690.scope: Failed to add PIDs to scope's control group: Permission denied",
        cause: "A rootless engine tries to move a process into a cgroup below user@.service, but the process is in another tree: it was started by su, sudo, cron or an ssh session without pam_systemd. The kernel lets a user move a process only if the common ancestor of the two cgroups belongs to that user.",
        fix: "Start it below the user's own systemd: loginctl enable-linger USER, then systemd-run --user --scope COMMAND, or log in with machinectl shell USER@. Run podman exec from there too, and not only podman run.",
    }
    CgroupReadOnly = "cgroup-read-only" {
        says: [
            "/sys/fs/cgroup…: Read-only file system",
            "creating cgroup directory `…`: Read-only file system",
        ],
        sample: "Error: OCI runtime error: crun: enable controllers `+hugetlb`: open `/sys/fs/cgroup/cgroup.subtree_control` for writing: Read-only file system",
        cause: "A program in the pod creates cgroups, but /sys/fs/cgroup is mounted read-only, which is the default.",
        fix: "Annotate the pod with usernsd.io/cgroup: writable, where usernsd runs.",
        page: "recipes/container-engine.md",
    }
    CgroupBusy = "cgroup-busy" {
        says: ["cgroup.subtree_control…device or resource busy", "cgroup.procs…device or resource busy"],
        sample: "write /sys/fs/cgroup/cgroup.subtree_control: device or resource busy",
        cause: "In cgroup v2 a cgroup contains either processes or children with controllers, not both. The program has processes in the cgroup in which it creates children.",
        fix: "Move them into a child first, as the entry point of Docker's image does: mkdir /sys/fs/cgroup/init, then write each number from cgroup.procs to init/cgroup.procs. systemd as PID 1 does this.",
    }
    CgroupController = "cgroup-controller" {
        says: [
            "the requested cgroup controller `…` is not available",
            "can't be set: controller … not available",
            "cgroup.subtree_control…: no such file or directory",
            "cgroup.subtree_control: invalid argument",
            "cgroup.subtree_control`: Invalid argument",
            "/sys/fs/cgroup/…/cpuset.…: no such file or directory",
            "/sys/fs/cgroup/…/cpu.max…: no such file or directory",
            "/sys/fs/cgroup/…/cpu.weight…: no such file or directory",
            "/sys/fs/cgroup/…/memory.max…: no such file or directory",
            "/sys/fs/cgroup/…/memory.high…: no such file or directory",
            "/sys/fs/cgroup/…/pids.max…: no such file or directory",
            "/sys/fs/cgroup/…/io.…: no such file or directory",
            "/sys/fs/cgroup/…/hugetlb.…: no such file or directory",
        ],
        sample: "the requested cgroup controller `pids` is not available",
        cause: "The pod's cgroup does not have that controller: it is not enabled in a parent cgroup on the node, or in the container's own cgroup.subtree_control.",
        fix: "Omit the limit of the inner container (podman: pids_limit = 0 in containers.conf), or enable the controller: echo +pids >/sys/fs/cgroup/cgroup.subtree_control.",
    }
    NoSystemd = "engine-no-systemd" {
        says: [
            "systemd not running on this host, cannot use systemd cgroups manager",
            "cannot open sd-bus",
            "could not detect DBUS_SESSION_BUS_ADDRESS",
            "sd-bus call: …",
            "systemd not supported",
        ],
        sample: "systemd not running on this host, cannot use systemd cgroups manager",
        cause: "The engine in the pod uses systemd to create cgroups, but systemd is not running there or not accessible.",
        fix: "Set cgroup_manager = \"cgroupfs\" and events_logger = \"file\" in /etc/containers/containers.conf of the image (Docker: --exec-opt native.cgroupdriver=cgroupfs), or run systemd as PID 1 of the container.",
        page: "recipes/container-engine.md",
    }
    NoCgroups = "engine-no-cgroup-permission" {
        says: ["rootless needs no limits + no cgrouppath when no permission is granted for cgroups"],
        cause: "The inner container has limits, but the engine is not allowed to create cgroups.",
        fix: "Annotate the pod with usernsd.io/cgroup: writable, where usernsd runs; or start the inner container without limits (podman: --cgroups=disabled).",
        page: "annotations.md",
    }
    ProcDenied = "proc-denied" {
        says: [
            "mount `proc` to `…`: Operation not permitted",
            "mounting \"proc\" to rootfs…operation not permitted",
            "can't mount proc on …: Operation not permitted",
            "mount proc on … operation not permitted",
            "mounting proc…: operation not permitted",
            "mounting /proc…: operation not permitted",
            "mount proc:/proc…: operation not permitted",
            "mount /proc…: operation not permitted",
            "failed to mount proc…: operation not permitted",
            "procfs is obstructed; please mount a new procfs",
            "can't mount proc filesystem to …: operation not permitted",
            "mount `/proc` to `…`: Operation not permitted",
        ],
        sample: "crun: mount `proc` to `proc`: Operation not permitted: OCI permission denied",
        cause: "The kernel allows a new /proc only if no part of the existing one is covered, and runtimes mask parts of it in every container; and only for a process namespace that belongs to the same user namespace, which the host's (--pid=host) does not.",
        fix: "Set securityContext.procMount: Unmasked for the outer container, with hostUsers: false; the namespace's Pod Security level must admit it. Omit --pid=host for inner containers. Outside of a pod, findmnt -R /proc shows the mounts that cover it.",
        page: "recipes/container-engine.md",
    }
    UnshareDenied = "unshare-denied" {
        says: [
            "cannot clone: Operation not permitted",
            "unshare: Operation not permitted",
            "unshare failed: Operation not permitted",
            "Failed to unshare namespaces: Operation not permitted",
            "failed to unshare user namespace: Operation not permitted",
            "failed to unshare remaining namespaces: Operation not permitted",
            "Creating new namespace failed: Operation not permitted",
            "Creating new namespace failed: Permission denied",
            "failed to create user namespace: Permission denied",
            "failed to create user namespace: Operation not permitted",
            "unshare(CLONE_NEWUSER): Operation not permitted",
            "unshare(CLONE_NEWUSER): Permission denied",
            "fork/exec /proc/self/exe: permission denied",
            "because /proc/sys/kernel/apparmor_restrict_unprivileged_userns is set",
            "/proc/sys/kernel/unprivileged_userns_clone needs to be set to 1",
            "No permissions to create new namespace",
            "No permissions to create a new namespace",
            "fork/exec /proc/self/exe: operation not permitted",
            "fork/exec /usr/bin/unshare: operation not permitted",
            "No permissions to creating new namespace",
            "crun: clone: Operation not permitted",
            "sysctl -w kernel.unprivileged_userns_clone=1",
            "sysctl kernel.unprivileged_userns_clone=1",
            "No usable sandbox!",
            "creating new mount namespace for …: operation not permitted",
            "credentials.cc(…Permission denied (13)",
            "cannot clone: Permission denied",
            "unshare user namespace: Operation not permitted",
            "unshare user namespace: Permission denied",
            "cloning builder process: Operation not permitted",
            "Failed to move to new namespace: …Operation not permitted",
            "mount namespace requires privileges, check",
            "Failed to create container process: Operation not permitted",
            "Failed to create container process: Permission denied",
            "does not support the kernel namespaces that are required for sandboxing",
        ],
        sample: "cannot clone: Operation not permitted",
        cause: "A program in the pod is not allowed to create a user namespace: the runtime's seccomp profile blocks it without SYS_ADMIN, or AppArmor on the node does (Ubuntu 23.10 and later: kernel.apparmor_restrict_unprivileged_userns), or a sysctl of old Debian kernels does (kernel.unprivileged_userns_clone=0).",
        fix: "Set seccompProfile.type: Unconfined, or a profile that allows clone and unshare; or, with hostUsers: false, add the capability SYS_ADMIN, which then applies in the pod only. On Ubuntu set appArmorProfile.type: Unconfined, and load an AppArmor profile with userns on the node.",
        page: "recipes/container-engine.md",
    }
    SelfMapDenied = "self-map-denied" {
        says: [
            "write failed /proc/self/uid_map: Operation not permitted",
            "write failed /proc/self/gid_map: Operation not permitted",
            "/proc/self/uid_map\"…Operation not permitted",
            "/proc/self/gid_map\"…Operation not permitted",
            "write /proc/self/uid_map: operation not permitted",
            "write /proc/self/gid_map: operation not permitted",
            "write /proc/self/setgroups: operation not permitted",
            "setting up uid map: Permission denied",
            "setting up gid map: Permission denied",
            "Failed RTM_NEWADDR: Operation not permitted",
            "Failed RTM_NEWLINK: Operation not permitted",
        ],
        sample: "bwrap: setting up uid map: Permission denied",
        cause: "A program created a user namespace, but has no rights in it to map IDs or to set up its network: AppArmor on the node removes its capabilities (Ubuntu 23.10 and later: kernel.apparmor_restrict_unprivileged_userns), or it maps more than its own ID without newuidmap.",
        fix: "Set appArmorProfile.type: Unconfined, or load an AppArmor profile with userns for that program on the node. As a last resort, set the sysctl kernel.apparmor_restrict_unprivileged_userns=0 on the node.",
    }
    OverlayOnOverlay = "overlay-on-overlay" {
        says: [
            "'overlay' is not supported over overlayfs",
            "overlay is not supported over overlayfs",
            "fstype: overlay,…,userxattr…err: invalid argument",
            "unable to create kernel-style whiteout",
            "failed to mount overlay: invalid argument",
        ],
        sample: "kernel does not support overlay fs: 'overlay' is not supported over overlayfs, a mount_program is required",
        cause: "The engine's storage is in the container's root file system, which is an overlay, and an overlay cannot be the upper layer of another one.",
        fix: "Mount a volume (an emptyDir is enough) on /var/lib/containers, /var/lib/docker or ~/.local/share/containers; or use fuse-overlayfs with /dev/fuse.",
        page: "recipes/container-engine.md",
    }
    NetworkStorage = "engine-network-storage" {
        says: ["a network file system with user namespaces is not supported"],
        sample: "a network file system with user namespaces is not supported. Please use a mount_program: backing file system is unsupported for this graph driver",
        cause: "A rootless engine stores its layers on a network file system (often an NFS home), which stores no owners other than the user's own.",
        fix: "Set graphroot in storage.conf to a directory on a local disk; in a pod mount an emptyDir there.",
        page: "recipes/container-engine.md",
    }
    NoFuse = "no-fuse" {
        says: [
            "fuse: device not found, try 'modprobe fuse' first",
            "/dev/fuse: operation not permitted",
            "/dev/fuse: permission denied",
            "/dev/fuse: no such file or directory",
            "failed to open /dev/fuse",
        ],
        sample: "fuse: device not found, try 'modprobe fuse' first",
        cause: "fuse-overlayfs needs /dev/fuse, which containers do not have by default and cannot create in a user namespace.",
        fix: "On CRI-O annotate the pod with io.kubernetes.cri-o.Devices: /dev/fuse (from 1.35 on devices.crio.io), elsewhere use a device plugin; or avoid FUSE: overlay works on a volume.",
    }
    NoTun = "no-tun" {
        says: [
            "/dev/net/tun…no such file or directory",
            "/dev/net/tun…operation not permitted",
            "/dev/net/tun…permission denied",
        ],
        sample: "Failed to open() /dev/net/tun: No such file or directory",
        cause: "slirp4netns, pasta and VPNs need /dev/net/tun, which containers do not have by default and cannot create in a user namespace. If the error is Permission denied, the device is there, and its mode on the node, AppArmor or SELinux forbids its use.",
        fix: "On CRI-O annotate the pod with io.kubernetes.cri-o.Devices: /dev/net/tun (from 1.35 on devices.crio.io), elsewhere use a device plugin; or start inner containers with --network host or --network none.",
    }
    CgroupParent = "engine-cgroup-parent" {
        says: ["did not receive systemd slice as cgroup parent when using systemd to manage cgroups"],
        sample: "Error: did not receive systemd slice as cgroup parent when using systemd to manage cgroups: invalid argument",
        cause: "podman uses systemd to create cgroups, and the parent cgroup is not a slice of systemd: --cgroup-parent names no .slice, or the podman pod was created while the user had no systemd session and cgroupfs was used.",
        fix: "Create the podman pod again in a session with systemd (loginctl enable-linger USER for units at boot); or set cgroup_manager = \"cgroupfs\" in containers.conf.",
    }
    NoRuntimeDirectory = "no-runtime-directory" {
        says: [
            "mkdir /run/user/…: permission denied",
            "mkdir: cannot create directory …/run/user/…: Permission denied",
            "mkdir '/run/user/…: Permission denied",
        ],
        sample: "Error: mkdir /run/user/1001: permission denied",
        cause: "The runtime directory of that user (XDG_RUNTIME_DIR) does not exist, and only root creates it: systemd-logind does so at the user's login and removes it after the last one. su and sudo are no login and may keep another user's variable; in an image without systemd nobody creates it.",
        fix: "Log in with machinectl shell USER@ or ssh, or loginctl enable-linger USER, which keeps the directory without a login. In a container, or without systemd, set XDG_RUNTIME_DIR to a directory of the user with mode 0700.",
    }
    OomScore = "engine-oom-score" {
        says: [
            "failed to write to /proc/self/oom_score_adj: Permission denied",
            "/proc/self/oom_score_adj`: Permission denied",
            "write /proc/self/oom_score_adj: permission denied",
        ],
        sample: "[conmon:d]: failed to write to /proc/self/oom_score_adj: Permission denied",
        cause: "A program that is not root of the machine (a rootless engine, conmon, a kubelet on a node in a container) tries to lower its oom_score_adj, by which the kernel chooses the process to kill when memory runs out. Only the host's root can lower it. The program continues.",
        fix: "Nothing has to be done: the message is harmless.",
    }
    RootlessNetwork = "rootless-network-failed" {
        says: [
            "slirp4netns failed",
            "failed to setup network &{…slirp4netns",
            "failed to setup network &{…pasta",
            "pasta failed with exit code",
        ],
        sample: "[rootlesskit:parent] error: failed to setup network &{logWriter:0xc000212b20 binary:slirp4netns mtu:65520}: waiting for ready fd (/usr/bin/slirp4netns 2724 tap0): slirp4netns failed",
        cause: "slirp4netns or pasta, which connects a rootless engine's network, did not start. Its own message, in this line or near it, gives the reason. Usually /dev/net/tun is missing, AppArmor or seccomp forbids the sandbox that slirp4netns creates for itself, or SELinux forbids pasta to open a file (its domain is pasta_t; ausearch -m avc -ts recent on the node shows it).",
        fix: "Give the pod /dev/net/tun (see no-tun), and set appArmorProfile.type: Unconfined. DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SANDBOX=false omits the sandbox. An engine that runs as root in a pod with hostUsers: false needs neither program.",
        page: "recipes/container-engine.md",
    }
    MknodDenied = "mknod-denied" {
        says: ["mknod…operation not permitted"],
        sample: "mknod /dev/loop0: operation not permitted",
        cause: "Device nodes cannot be created in a user namespace, whatever capabilities the container has. In the host's user namespace the container lacks the capability MKNOD, which CRI-O does not give by default.",
        fix: "Bind-mount the host's device, as runtimes do for /dev/null, or exclude the device nodes from the image or archive (tar --exclude=dev/*).",
    }
    Netfilter = "netfilter-denied" {
        says: [
            "can't initialize iptables table",
            "iptables: Permission denied (you must be root)",
            "Could not fetch rule set generation id: Operation not permitted",
            "Could not fetch rule set generation id: Permission denied",
        ],
        sample: "iptables v1.8.9: can't initialize iptables table `nat': Permission denied (you must be root)",
        cause: "The engine cannot set network rules: the container lacks NET_ADMIN, or the kernel module is not loaded on the node, and modules cannot be loaded from a user namespace.",
        fix: "Add the capability NET_ADMIN (it applies to the pod's own network only), and load ip_tables or nf_tables on the node. Or start inner containers with --network host or --network none.",
    }
    SysboxSubids = "sysbox-subordinate-ids" {
        says: ["could not find matching subuid and subgids range for user"],
        sample: "could not find matching subuid and subgids range for user sysbox",
        cause: "sysbox needs the same range for its user in /etc/subuid and in /etc/subgid of the node. The two ranges differ, or one is missing.",
        fix: "Write the same line sysbox:START:COUNT into both files, without overlapping other ranges; usernsd map shows the free ranges.",
        page: "runbooks/checks/subid_no_overlap.md",
    }
    CgroupV1 = "cgroup-v1-denied" {
        says: [
            "/sys/fs/cgroup/…: Permission denied",
            "mkdir /sys/fs/cgroup/…: permission denied",
            "/sys/fs/cgroup/…: Read-only file system",
        ],
        sample: "applying cgroup configuration for process caused: mkdir /sys/fs/cgroup/cpuset/docker: permission denied",
        cause: "The directories of controllers below /sys/fs/cgroup show that the node uses cgroup v1, in which cgroups cannot be handed over to containers safely; usernsd does not try.",
        fix: "Boot the node with cgroup v2 (without systemd.unified_cgroup_hierarchy=0).",
        page: "runbooks/checks/cgroup_v2.md",
        when: is_v1_controller,
    }
    CgroupV1Missing = "cgroup-v1-missing" {
        says: [
            "/sys/fs/cgroup/…: No such file or directory",
        ],
        sample: "failed to create container for [kubepods burstable pod1] : mkdir /sys/fs/cgroup/devices/kubepods.slice: no such file or directory",
        cause: "The program uses the directories of cgroup v1, one for each controller, and this directory does not exist: the node uses cgroup v2 (and the program is too old for it), the controller is not mounted, or systemd has just removed the cgroup.",
        fix: "Update the program (runc 1.0, crun 0.15 and Docker 20.10 are the first to support cgroup v2), and boot the node with cgroup v2 only. If the node uses only cgroup v1, delete the pod: its replacement gets a new cgroup.",
        page: "runbooks/checks/cgroup_v2.md",
        when: is_v1_controller,
    }
    CgroupNotDelegated = "cgroup-not-delegated" {
        says: [
            "UserNS: … controller needs to be delegated",
            "failed to find cpu cgroup (v2)",
            "failed to find cpuset cgroup (v2)",
            "failed to find memory cgroup (v2)",
            "failed to find pids cgroup (v2)",
            "failed to evacuate root cgroup: mkdir /sys/fs/cgroup/…: permission denied",
            "cannot set cgroup2 evacuation",
            "cgroup v2 controller \"…\" is not delegated for the current user",
            "requires setting systemd property \"Delegate=yes\"",
            "possibly due to lack of cgroup (Hint: enable cgroup v2 delegation)",
            "delegated cgroup v2 controllers are required for rootless",
        ],
        sample: "level=fatal msg=\"failed to find cpuset cgroup (v2)\"",
        cause: "A rootless engine, kind or k3s runs without root, or in a container without root, and its cgroup does not belong to it or lacks a controller: systemd delegates only memory and pids to users by default.",
        fix: "On a machine: Delegate=cpu cpuset io memory pids in a drop-in for user@.service, log in again, and start it as a systemd user unit (systemd-run --user -p Delegate=yes). In a pod: annotate it with usernsd.io/cgroup: writable.",
        page: "annotations.md",
    }
    DockerCgroupV1 = "docker-cgroup-v1-only" {
        says: [
            "cannot find cgroup mount destination", "cgroup mountpoint does not exist",
            "no cgroup mount found in mountinfo",
        ],
        sample: "docker: Error response from daemon: cgroups: cannot find cgroup mount destination: unknown.",
        cause: "Nothing is mounted on /sys/fs/cgroup of the container in which the engine runs, or the Docker in it supports cgroup v1 only (it is older than 20.10).",
        fix: "Use an image with Docker 20.10.16 or later, and annotate the pod with usernsd.io/cgroup: writable.",
        page: "recipes/container-engine.md",
    }
    DockerEntryPoint = "docker-entry-point" {
        says: ["sed: write error", "sed: couldn't write … to stdout: "],
        cause: "If the container starts Docker, its entry point prints this: it enables controllers with sed, and there are still processes in the cgroup (images before 20.10.16 do not move them), or the cgroup is read-only or belongs to someone else. In other containers a file system may be full.",
        fix: "Use an image with Docker 20.10.16 or later, and annotate the pod with usernsd.io/cgroup: writable, where usernsd runs.",
        page: "annotations.md",
    }
    MountDenied = "engine-mount-denied" {
        says: [
            "failed to share mount point: …: permission denied",
            "failed to share mount point: …: operation not permitted",
            "flags: 0x1000: operation not permitted",
            "mount --make-rshared … failed: …operation not permitted",
            "failed to mount shm tmpfs …: operation not permitted",
            "failed to mount …/containerd-mount…: operation not permitted",
            "failed to mount …/buildkit-mount…: operation not permitted",
            "remount /, flags: …: permission denied",
            "remount /, flags: …: operation not permitted",
            "fuse: mount failed: Permission denied",
            "fuse: mount failed: Operation not permitted",
            "fusermount: mount failed: ",
            "fusermount3: mount failed: ",
            "flags: 0x…: permission denied",
            "mount `proc` to `…`: Permission denied",
            "mount `/proc` to `…`: Permission denied",
            "mount `sysfs` to `…`: Permission denied",
            "mount `tmpfs` to `…`: Permission denied",
            "mount `devpts` to `…`: Permission denied",
            "mounting \"proc\" to rootfs…permission denied",
            "mount: …: must be superuser to use mount",
            "umount: …: must be superuser to unmount",
            "Failed to set mount propagation: Permission denied",
            "Failed to set mount propagation: Operation not permitted",
            "Failed to make / slave: Permission denied",
            "Failed to make / slave: Operation not permitted",
            "bwrap: Failed to mount …: Permission denied",
            "bwrap: Failed to mount …: Operation not permitted",
        ],
        sample: "[rootlesskit:child ] error: failed to share mount point: /: permission denied",
        cause: "A program in the pod is not allowed to mount. Permission denied comes from AppArmor, whose default profile forbids every mount, from SELinux, or from a directory on the way that is closed to the container's root. Operation not permitted means that the container lacks SYS_ADMIN in its user namespace.",
        fix: "With hostUsers: false add the capability SYS_ADMIN, which applies in the pod only, and set appArmorProfile.type: Unconfined; on nodes with SELinux set seLinuxOptions.type: container_engine_t.",
        page: "recipes/container-engine.md",
    }
    OverlayDenied = "overlay-denied" {
        says: [
            "'overlay' is not supported over extfs",
            "'overlay' is not supported over xfs",
            "'overlay' is not supported over btrfs",
            "failed to mount overlay: operation not permitted",
            "failed to mount overlay: permission denied",
            "error creating overlay mount to …: operation not permitted",
            "error creating overlay mount to …: permission denied",
        ],
        sample: "level=error msg=\"failed to mount overlay: operation not permitted\" storage-driver=overlay2",
        cause: "Docker or another engine cannot mount an overlay in its user namespace: Linux before 5.11 (Ubuntu and Debian have patched kernels) does not allow it, or the container lacks SYS_ADMIN, or AppArmor forbids mounts.",
        fix: "Use Linux 5.11 or later. In a pod with hostUsers: false add the capability SYS_ADMIN and set appArmorProfile.type: Unconfined, and put the engine's storage on a volume. Or use fuse-overlayfs with /dev/fuse.",
        page: "recipes/container-engine.md",
    }
    DockerPrivileged = "docker-privileged-remapped" {
        says: ["privileged mode is incompatible with user namespaces"],
        sample: "docker: Error response from daemon: privileged mode is incompatible with user namespaces. You must run the container in the host namespace when running privileged mode.",
        cause: "This Docker daemon maps the IDs of all its containers (userns-remap), and does not start privileged containers with that mapping.",
        fix: "Replace --privileged with the capabilities that the container needs. It also starts with --userns=host, but then its root is the host's root. In Kubernetes, a privileged container can have hostUsers: false.",
    }
    JoinInvalid = "join-user-namespace-invalid" {
        says: [
            "setns…/ns/user…: invalid argument",
            "cannot set user namespace",
            "cannot set user namespace: Invalid argument",
            "cannot re-exec process to join the existing user namespace",
            "setns to target user namespace `…`: Invalid argument",
        ],
        sample: "error joining user namespace: setns /proc/self/ns/user: invalid argument",
        cause: "A process cannot join the user namespace that it is in already, and one with several threads or with shared file system state (CLONE_FS) cannot join any. gVisor supports no joining at all.",
        fix: "Stop the processes that are left of the engine's earlier run, and start it again: podman system migrate, or remove pause.pid in its runtime directory. Rootless engines do not run under gVisor; use hostUsers: false with runc or crun.",
    }
    HostIdInSubids = "host-id-in-subordinate-range" {
        says: ["failed adding idmap entry: …Host id is in the range of subids"],
        sample: "error: failed adding idmap entry: {true false 205743 0 1}: Host id is in the range of subids",
        cause: "The user's own ID lies within its range in /etc/subuid or /etc/subgid: one host ID would have two IDs in the namespace.",
        fix: "Give the user a range that does not contain its own ID, in both files; usernsd doctor reports such ranges of a node (subid_no_host_user).",
        page: "runbooks/checks/subid_no_host_user.md",
    }
    LxcUsernsexec = "lxc-usernsexec" {
        says: ["lxc-usernsexec failed"],
        sample: "chown_mapped_root: 3279 lxc-usernsexec failed: No such file or directory - Failed to open tt",
        cause: "lxc-usernsexec could not run a command in a new user namespace: the user has no range in /etc/subuid and /etc/subgid, or lxc.idmap has another range, or newuidmap and newgidmap are missing or have no privileges.",
        fix: "Write lxc.idmap with the range of the user's lines in both files, and install newuidmap (package uidmap) with its set-user-ID bit or file capability.",
    }
    NodeIds = "node-ids-insufficient" {
        says: [
            "Hint: try increasing the number of subordinate IDs in /etc/subuid and /etc/subgid",
            "failed to Lchown …for UID …: lchown …: invalid argument",
        ],
        sample: "failed to extract layer: failed to Lchown \"/opt/bin\" for UID 1185200044, GID 1185200044: lchown /opt/bin: invalid argument (Hint: try increasing the number of subordinate IDs in /etc/subuid and /etc/subgid)",
        cause: "The runtime that unpacks the image runs in a user namespace itself (rootless Docker or k3s, usernetes, a node in a container), in which the owner of a file in the image is not mapped.",
        fix: "Build the image with owners below 65536. Otherwise enlarge the user's ranges in /etc/subuid and /etc/subgid on the machine that it runs on, and start the rootless runtime again.",
    }
    Propagation = "rootless-propagation" {
        says: ["Setting child propagation to …is not supported"],
        sample: "The host root filesystem is mounted as \"master:943\". Setting child propagation to \"rslave\" is not supported.",
        cause: "RootlessKit runs in a container whose root mount is not shared: later mounts of that container do not appear in the inner ones. This is a warning, and the engine continues.",
        fix: "Nothing has to be done unless such mounts are needed. If the engine does not start, a later line shows the cause.",
    }
    KindNode = "kind-node-not-booted" {
        says: ["could not find a log line that matches"],
        sample: "ERROR: failed to create cluster: could not find a log line that matches \"Reached target .*Multi-User System.*|detected cgroup v1\"",
        cause: "kind waited for systemd to boot in the node's container, in vain: systemd cannot create its cgroups, or another error stopped it.",
        fix: "kind create cluster --retain keeps the container, and podman logs or docker logs of that container shows systemd's own error; explain that line. A rootless engine needs delegated cgroups with cpu, cpuset, memory and pids.",
    }
    IdmapRequired = "lxd-idmap-required" {
        says: ["idmapping abilities are required but aren't supported on system"],
        sample: "Linux 6.9+ idmapping abilities are required but aren't supported on system",
        cause: "A disk device of an LXD or Incus container has shift=true, or the container shares a volume, and LXD finds that the file system or the kernel does not support ID-mapped mounts.",
        fix: "Use ext4, xfs, btrfs, or ZFS 2.2 or later, for the source, and a current LXD or Incus (older ones misjudge newer kernels); or remove shift=true and give the files to the container's own IDs.",
    }
    NoRootlesskit = "rootless-without-rootlesskit" {
        says: [
            "rootless mode requires to be executed as the mapped root in a user namespace",
            "rootless mode requires to be executed as the mapped root",
            "non root user need to have an 'user' namespace",
        ],
        sample: "buildkitd: rootless mode requires to be executed as the mapped root in a user namespace; you may use RootlessKit for setting up the namespace",
        cause: "buildkitd, crun or another program of a rootless engine was started as an ordinary user, without the user namespace that it needs.",
        fix: "Start it with rootlesskit, as the entry point of its image does (rootlesskit buildkitd --oci-worker-no-process-sandbox), or with podman unshare; or run it as root in a pod with hostUsers: false.",
        page: "recipes/container-engine.md",
    }
}

/// Whether a path below `/sys/fs/cgroup` begins with the directory of a controller of cgroup v1.
fn is_v1_controller(path: &str) -> bool {
    const CONTROLLERS: [&str; 16] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "elogind",
        "freezer",
        "hugetlb",
        "memory",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
        "rdma",
        // The hierarchies of a hybrid layout.
        "systemd",
        "unified",
    ];
    // Several are mounted together, in either order: cpu,cpuacct.
    path.split_once('/').is_some_and(|(first, _)| first.split(',').all(|one| CONTROLLERS.contains(&one)))
}
