//! What the kernel's error usually means in a step, and where to look next: `user_namespaces(7)`, `capabilities(7)`,
//! `mount_setattr(2)`, `cgroups(7)`, `pivot_root(2)`, `perf_event_open(2)`, `landlock(7)`.

use super::errno::KernelError;
use super::step::Step;

impl Step {
    /// What the kernel's error, or the failure of the step without one, usually means there.
    pub(super) const fn usual(self, error: Option<KernelError>) -> Option<&'static str> {
        use KernelError::{
            Busy, Closed, Denied, ExecFormat, Exists, InUse, Invalid, Io, Late, Missing, NoDevice, NoMemory,
            NoProcess, NoSpace, NotConnected, NotImplemented, NotPermitted, NotSupported, Overflow, Quota,
            ReadOnly, Stale, TooLong, TooManyFiles, Unavailable, Unreachable,
        };
        if let Some(usual) = self.of_sentence() {
            return Some(usual);
        }
        Some(match (self, error) {
            (Step::Crash, _) => {
                "this is a fault of the program itself, not of the node's configuration: the lines after it show the place; update the program"
            }
            (Step::Ended, _) | (_, Some(Closed)) => {
                "the line only reports that another program ended, or has not started: that program's own message, in a line before it or in its log, has the cause"
            }
            (Step::Ignored, _) => {
                "the program goes on without it: if something does not work, another line has the cause"
            }
            (_, Some(Unreachable)) => {
                "the other side did not answer, or its name was not found: it is not running (at a local socket nothing else is possible), listens elsewhere, or a NetworkPolicy, DNS, a firewall or a loaded node is in the way. User namespaces have nothing to do with it, unless the other side has failed because of one: its own log shows that"
            }
            (_, Some(Late)) => {
                "something did not happen in time: the cause is in the log or the events of what was waited for, such as a runtime, a disk or a network that is slow or stuck, not in this line"
            }
            (_, Some(InUse)) => {
                "another program, or an earlier run of this one, has the address: with hostNetwork also one of the node; user namespaces have nothing to do with it"
            }
            (Step::Bpf, Some(NotPermitted | Denied) | None) => {
                "BPF programs, probes and the counters of other processes need BPF, PERFMON or SYS_ADMIN in the machine's own user namespace: no capability of a pod with hostUsers: false counts. In other pods the capability is missing, or a sysctl of the node (kernel.perf_event_paranoid, kernel.unprivileged_bpf_disabled) forbids it"
            }
            (Step::Bpf, Some(Missing | NoDevice)) => {
                "tracefs or debugfs is not mounted in the container, or the kernel does not have this probe or counter"
            }
            (_, Some(NotConnected)) => {
                "the program that serves a FUSE file system (a CSI driver's mounter, rclone, s3fs) has ended while it was mounted: its own log has the cause; the mount point has to be unmounted and mounted again, for a volume by a restart of the pod"
            }
            (Step::RunAs, _) => {
                "the pod has runAsNonRoot: true, and the container or its image runs as user 0, or as a user by name only, which the kubelet cannot judge: set runAsUser to an ID above 0. With hostUsers: false root in a container is an ordinary user of the node, and runAsNonRoot can be omitted"
            }
            (Step::Forbidden, Some(NotPermitted | NotImplemented | Denied) | None) => {
                "the container's seccomp profile forbids the call (RuntimeDefault of current runtimes forbids io_uring, whatever capabilities the container has), or a sysctl of the node does (kernel.io_uring_disabled, vm.unprivileged_userfaultfd), or the kernel is too old. Many programs go on without it"
            }
            (Step::Forbidden, Some(NoMemory)) => {
                "the limit of locked memory (RLIMIT_MEMLOCK, ulimit -l) is too low; it cannot be raised in a pod with hostUsers: false, but in the runtime's unit (LimitMEMLOCK=)"
            }
            (Step::Propagation, _) => {
                "the mounts of this container are private, as they are by default: what is mounted in it is not seen by others. It matters only if it is to be, by containers of an engine in the pod for example: mount --make-rshared / at the beginning needs SYS_ADMIN in the pod's user namespace"
            }
            (Step::Fuse, Some(NotPermitted | Denied) | None) => {
                "mounting with FUSE needs /dev/fuse, and SYS_ADMIN in the user namespace of the program or the setuid program fusermount3, which allowPrivilegeEscalation: false and a user namespace of its own disable; AppArmor's default profile forbids it; kernels before 4.18 have no FUSE in user namespaces. The mounter's own message has the reason"
            }
            (Step::Module, _) => {
                "kernel modules cannot be loaded in a user namespace, whatever capabilities the container has, nor where the image has none for the node's kernel (/lib/modules); if the module is loaded already or built in, nothing is missing"
            }
            (Step::NfsNames, _) => {
                "the NFSv4 domains of the server and of the node differ (Domain in /etc/idmapd.conf), so that owners appear as nobody: a mapping of names, which has nothing to do with the pod's user namespace"
            }
            // The operation matters before the file system does.
            (Step::Sysctl, Some(ReadOnly | Denied)) => {
                "/proc/sys is read-only in containers that are not privileged, and in a user namespace only sysctls of the pod's own network (net.*) and IPC namespace (kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*) can be set; those of the node cannot, whatever capabilities the container has"
            }
            (Step::Sysctl, Some(NotPermitted | Invalid)) => {
                "the kernel takes this value in the machine's own namespaces only, or it lies outside the sysctl's limits"
            }
            (Step::Sysctl, Some(Missing)) => {
                "the sysctl exists in the machine's own network namespace only, or the kernel module that has it is not loaded"
            }
            (Step::Cgroup, Some(ReadOnly)) => {
                "/sys/fs/cgroup is mounted read-only, which is the default in containers"
            }
            (Step::Owner | Step::Mount | Step::Attribute, Some(ReadOnly)) => {
                "the volume or image is mounted read-only: those of Secrets, ConfigMaps and tokens always are, the image's files with readOnlyRootFilesystem. A recursive chown or chmod must omit such a directory (/var/run/secrets)"
            }
            (_, Some(ReadOnly)) => {
                "the file is on a mount that is read-only: /sys and /proc of containers that are not privileged, a Secret, ConfigMap or token, a volume or bind mount with readOnly, or the image with readOnlyRootFilesystem"
            }
            (_, Some(Stale)) => {
                "an NFS or other network file system no longer has the file: the server's export was made again, or the volume was mounted before; restart the pod"
            }
            (Step::OomScore, Some(NotPermitted | Denied) | None) => {
                "lowering a process's OOM score needs SYS_RESOURCE in the machine's own user namespace: in a pod with hostUsers: false, or on a node in a container, it can only be raised. Most programs only warn and go on"
            }
            (Step::SecurityProfile, Some(Missing)) => {
                "the AppArmor profile that the pod or the runtime names is not loaded on the node, or the node has no AppArmor at all"
            }
            (Step::SecurityProfile, Some(Invalid)) => {
                "the profile or label is not one of the security module in use: an AppArmor profile where the node has SELinux or none, a label that the node's SELinux policy does not have, or the node itself is a container and cannot use its machine's module"
            }
            (Step::SecurityProfile, Some(Denied)) => {
                "the runtime itself is confined, and its own AppArmor profile or SELinux domain does not let it start programs under another one: a runtime in a container, in a snap, or with a profile of its own"
            }
            (Step::SecurityProfile, Some(NotPermitted)) => {
                "no_new_privs is set (allowPrivilegeEscalation: false), under which a profile can only become stricter, or the runtime may not change it in its user namespace"
            }
            (Step::SecurityProfile, _) => {
                "the profile or label that the pod or the runtime names does not exist on the node, or the runtime may not apply it"
            }
            (Step::Keyring, Some(NotPermitted | Denied)) => {
                "a seccomp profile forbids keyctl: the default one of containerd and Docker does, so that an engine in their containers cannot give its own containers a keyring"
            }
            (Step::Keyring, Some(NotImplemented)) => {
                "the kernel, or what emulates it, has no keyrings, or a seccomp profile answers so"
            }
            (Step::Keyring, Some(Quota)) => {
                "the keys of this user of the node are used up (kernel.keys.maxkeys): each container has a keyring"
            }
            (Step::Tracing, Some(Denied)) => {
                "SELinux or AppArmor forbids ptrace in this container (SELinux by the boolean deny_ptrace, and older policies in systemd containers, whose type is container_init_t)"
            }
            (Step::Tracing, Some(NotPermitted) | None) => {
                "the other process is in another user namespace, or has capabilities that the debugger lacks; or SYS_PTRACE is missing for a process of another user; or seccomp or kernel.yama.ptrace_scope forbids it"
            }
            (Step::Confinement, Some(NotPermitted | Denied)) => {
                "the container's seccomp profile is older than these calls or forbids them, or the program may not confine itself: that takes no_new_privs or SYS_ADMIN in its user namespace"
            }
            (Step::Confinement, Some(NotSupported | NotImplemented | Missing) | None) => {
                "the program finds no means to confine itself: Landlock takes Linux 5.13 with landlock in /sys/kernel/security/lsm and a seccomp profile that knows it; namespaces a seccomp and an AppArmor profile that allow them; a setuid helper a file of root with mode 4755 on a mount without nosuid, and no allowPrivilegeEscalation: false"
            }
            (Step::Pivot, Some(NotPermitted | Denied | Invalid) | None) => {
                "the process lacks SYS_ADMIN in its user namespace; or seccomp, or an AppArmor profile such as the runtimes' default one, forbids pivot_root; or the root directory is that of an initial ramdisk, or shared with other mount namespaces"
            }
            (Step::Exec, Some(Denied)) => {
                "the file has no x for this user, its directory is closed to it, or its file system is mounted with noexec; or the file's owner is not mapped, as on NFS and other volumes without ID mapping; or SELinux or AppArmor forbids it"
            }
            (Step::Exec, Some(NotPermitted)) => {
                "the file has capabilities that the container has dropped, and the kernel does not execute it without them; or seccomp, SELinux or AppArmor forbids it"
            }
            (Step::Exec, Some(Missing)) => {
                "the program, the interpreter in its first line or its dynamic loader is not in the image, or not in PATH"
            }
            (Step::Exec, Some(ExecFormat)) => {
                "the program is for another CPU architecture, or a script without an interpreter in its first line"
            }
            (Step::Exec, Some(Busy)) => "the file is open for writing",
            (Step::Exec, Some(Invalid)) => "the program is damaged, or for another architecture",
            (Step::WorkingDirectory, Some(Denied | Missing) | None) => {
                "the directory does not exist in the image or volume, or it, or one on the way to it, has no x for the user of the process: it belongs to another user of the image, or to an ID that is not mapped (ls -n shows 65534)"
            }
            (Step::Device, Some(Denied)) => {
                "the device belongs to a user and group of the node that are not mapped into the pod, and its mode admits no others; or it lies on a mount with nodev, as everything does that was mounted inside a user namespace, so that devices work only if the directory is bound from the container's own /dev; or SELinux forbids it"
            }
            (Step::Device, Some(NotPermitted)) => {
                "the container is not allowed to use this device: its device cgroup has it only if a device plugin, CRI-O's annotation io.kubernetes.cri-o.Devices or privileged: true adds it; a bind mount alone does not"
            }
            (Step::Device, Some(Missing)) => {
                "containers have null, zero, full, random, urandom, tty and what a device plugin, an annotation or privileged: true adds; nobody can create device nodes in a user namespace"
            }
            (Step::Device, Some(NoDevice)) => "the device node is there, but not the device or its driver",
            (Step::DeviceNode, Some(NotPermitted | Denied)) => {
                "device nodes cannot be created in a user namespace, whatever capabilities the container has: bind-mount the node's, or leave them out of the image"
            }
            (Step::Network, Some(NotPermitted | Denied)) => {
                "the container lacks NET_ADMIN, or for a tun device /dev/net/tun, which it must be given, or its network belongs to another user namespace: the node's (hostNetwork), or that of the pod for an inner engine's container that shares it"
            }
            (Step::Network, Some(Missing | NoDevice | NotSupported | NotImplemented | Invalid)) => {
                "the kernel lacks this feature, or its module is not loaded and cannot be loaded from a user namespace: load it on the node"
            }
            (Step::Socket, Some(Denied)) => {
                "a port below net.ipv4.ip_unprivileged_port_start of the pod's network needs NET_BIND_SERVICE; for a socket file, it belongs to another user (after a change of the user), or SELinux forbids the connection"
            }
            (Step::Socket, Some(NotPermitted)) => {
                "raw and packet sockets need NET_RAW in the user namespace of the network, and seccomp forbids some kinds of sockets"
            }
            (Step::Credentials, Some(Invalid)) => {
                "the user or group is not mapped where the process runs: a pod has the IDs 0 to 65535 by default, an engine's container in it fewer"
            }
            (Step::Credentials, Some(NotPermitted | Denied) | None) => {
                "the process is not root in the container (runAsUser, USER of the image), or the container has dropped SETUID, SETGID or SETPCAP, or has allowPrivilegeEscalation: false, which disables setuid programs; an engine's mapping of a single ID also forbids setgroups"
            }
            (Step::Chroot, Some(NotPermitted)) => {
                "the container lacks the capability SYS_CHROOT, which CRI-O and podman do not give by default, or the process is no longer root"
            }
            (Step::Limit, Some(NotPermitted | Denied | NoMemory)) => {
                "raising a limit, a priority or locked memory needs SYS_RESOURCE, SYS_NICE or IPC_LOCK in the machine's own user namespace: no capability of a pod with hostUsers: false counts. Limits come from the runtime's unit or its default_ulimits"
            }
            (Step::Machine, Some(NotPermitted | Denied)) => {
                "the clock, the kernel's log, swap and the like belong to the whole machine: no capability of a pod with hostUsers: false counts for them"
            }
            (Step::Attribute, Some(NotPermitted | Denied)) => {
                "attributes trusted.* belong to the machine's own user namespace, security.capability needs SETFCAP, and the file's owner must be mapped; the SELinux label can be set only by a user whom the policy allows it"
            }
            (Step::Attribute, Some(NotSupported)) => {
                "the file system stores no such attributes (NFS and older tmpfs)"
            }
            (Step::Owner, Some(Missing)) => {
                "the file does not exist, or the user or group has no name in the image"
            }
            (Step::Owner, Some(Denied)) => {
                "a directory on the way to the file is closed to the process, or SELinux or AppArmor forbids it"
            }
            (Step::Owner, Some(Invalid)) => {
                "the new owner, or a group or an entry of an access control list, is an ID that is not mapped where the process runs: cat /proc/self/uid_map shows which are"
            }
            (Step::Owner, Some(NotPermitted)) => {
                "the process is not root in the container, or the file's present owner is not mapped where it runs (ls -n shows 65534), as on NFS and other volumes without ID mapping, or the container has dropped the capability CHOWN or FOWNER"
            }
            (Step::Attribute, None) => {
                "the file system does not store such attributes (NFS, older tmpfs), or the process may not set them: security.capability needs SETFCAP; most programs go on without"
            }
            (Step::Network, None) => {
                "the program that sets this up (iptables, nft, ip) failed: it is not in the image, or the container lacks NET_ADMIN, or a module of the kernel is not loaded and cannot be loaded from a user namespace"
            }
            (Step::Range, None) => {
                "the range of IDs is not as the program expects it: there is none for this user in /etc/subuid and /etc/subgid, or it is too small, overlaps another one, or does not begin and end at a multiple of 65536"
            }
            (Step::Mapping, Some(NotPermitted | Denied)) => {
                "the IDs are not among those of the calling process (its /proc/self/uid_map), or it may not map them: newuidmap needs the capabilities SETUID and SETGID and a line in /etc/subuid and /etc/subgid; or AppArmor takes all rights in a new user namespace from the program (Ubuntu 23.10 and later: kernel.apparmor_restrict_unprivileged_userns)"
            }
            (Step::Mapping, Some(Invalid)) => {
                "an ID occurs twice or is not mapped where the process runs, or the range ends beyond 4294967294"
            }
            (Step::MappedMount, Some(Invalid | NotSupported)) => {
                "the file system does not support ID-mapped mounts (NFS, CIFS, overlayfs, hugetlbfs and others), or only on newer kernels, or the path leads over a symbolic link"
            }
            (Step::MappedMount, Some(Busy)) => {
                "something else is mounted below the directory or uses it, so that the mapped copy cannot take its place"
            }
            (Step::MappedMount, Some(NotPermitted | Denied)) => {
                "the mount is mapped already, or the process is not root of the machine (the node itself runs in a user namespace), or the kernel is one of RHEL 9 before 9.4, which refuse every such mount"
            }
            (Step::MappedMount, Some(NotImplemented)) => {
                "the kernel is older than 5.12, or a seccomp filter or gVisor blocks mount_setattr"
            }
            (Step::MappedMount, None) => {
                "the kernel (before Linux 5.12), the file system or the runtime does not support ID-mapped mounts, or the process is not root of the machine"
            }
            (Step::MappedMount | Step::Mount | Step::Rootfs, Some(Overflow)) => {
                "the owner of a file is not mapped into the container"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(NotPermitted)) => {
                "seccomp, AppArmor or a missing SYS_ADMIN forbid creating the namespace, or it belongs to another user namespace and cannot be joined"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(Denied)) => {
                "AppArmor or SELinux forbid it, or a directory on the way is closed to the container's root, an ordinary user of the node"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(NoSpace)) => {
                "not the disk: a sysctl user.max_*_namespaces is 0 or used up, or namespaces are nested 32 deep"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(Invalid | NotImplemented)) => {
                "the kernel has no such namespaces (those of users are switched off on RHEL 7 and some hardened kernels), or the process has joined this one already, or has more than one thread"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(Missing)) => {
                "the namespace's file or process is gone: the sandbox or container ended before"
            }
            (Step::Namespace, None) => {
                "if a namespace cannot be made: seccomp forbids it without SYS_ADMIN, or AppArmor does (Ubuntu 23.10 and later: kernel.apparmor_restrict_unprivileged_userns), or SELinux, or user.max_user_namespaces is 0. If the line is about what is supported or required: the kernel, the program's version, or the way in which it was started does not fit"
            }
            (Step::Cgroup, Some(Denied | NotPermitted)) => {
                "the cgroup does not belong to the user of the process: usernsd explain POD shows the owner of a container's cgroup"
            }
            (Step::Cgroup, Some(Busy)) => {
                "the cgroup has processes, and may have either these or children with controllers: move them into a child cgroup first"
            }
            (Step::Cgroup, Some(Missing)) => {
                "the controller is not enabled in a cgroup above (cgroup.subtree_control), or the cgroup has been removed"
            }
            (Step::Cgroup, Some(NotSupported)) => "the cgroup is threaded, or below one that is",
            (Step::Cgroup, Some(Unavailable)) => {
                "cgroup.max.descendants or cgroup.max.depth of the pod is reached"
            }
            (Step::Cgroup, Some(Invalid)) => {
                "the kernel has no such controller or value, or the cgroup is one of version 1 or of the root"
            }
            (Step::Cgroup, Some(TooLong)) => {
                "the request to systemd is too large: the unit has too many settings"
            }
            (Step::Cgroup, None) => {
                "the cgroups are not as the program expects them: version 1 or both versions, a controller that is not delegated to it, another driver (cgroupfs or systemd), a limit without the one that it depends on (swap without memory), or a device to be allowed that the node does not have"
            }
            (Step::Container | Step::Sandbox, Some(NoSpace)) => {
                "if the line names no file, not the disk: a sysctl user.max_*_namespaces is 0 or used up"
            }
            (Step::Container | Step::Sandbox, Some(NotPermitted)) => {
                "the runtime or a program needs a capability that the container, or the node in a container, does not have, or seccomp forbids the call"
            }
            (Step::Container | Step::Sandbox, Some(Denied)) => {
                "a directory on the way to a file is closed to the container's root, an ordinary user of the node, or AppArmor or SELinux forbids the access"
            }
            (Step::Container | Step::Sandbox, Some(Missing)) => {
                "a file or directory that the container's configuration names does not exist: its program or working directory in the image, a volume or device on the node, or a namespace whose process has ended"
            }
            (Step::Container | Step::Sandbox, Some(Invalid)) => {
                "an ID is not mapped into the container, or the kernel lacks what the runtime asks for"
            }
            (Step::ForeignMount, Some(NotPermitted | Denied) | None) => {
                "in a user namespace network file systems (NFS, CIFS), disks and images cannot be mounted, whatever capabilities the container has: mount them as a Kubernetes volume, or with FUSE. In other pods the container lacks SYS_ADMIN, or is not root"
            }
            (Step::Mount, Some(NotPermitted)) => {
                "the process lacks SYS_ADMIN in its user namespace, or that file system cannot be mounted in one (disks, NFS), or parts of /proc or /sys are covered, or the mount keeps flags of its source (nosuid, nodev, noexec, ro) that a user namespace cannot clear"
            }
            (Step::Mount, Some(Denied)) => {
                "AppArmor or SELinux forbid mounts, or a directory on the way is closed to the container's root, an ordinary user of the node. The program mount prints this, too, if SYS_ADMIN is missing, or if the mount has flags that a user namespace cannot clear"
            }
            (Step::Mount, Some(Invalid)) => {
                "the mount has an option that the file system does not know, or an owner (uid=, gid=) that is not mapped, or its target is the root directory or not a mount point, or an overlay is to be mounted on an overlay"
            }
            (Step::Mount, Some(Missing)) => {
                "what is to be mounted, or the mount point, does not exist: a ConfigMap, Secret or claim in the namespace, a directory or file on the node for a volume, or in the image for its target"
            }
            (Step::Mount | Step::Rootfs, Some(NoDevice)) => {
                "the kernel does not have this file system, or its module is not loaded and cannot be loaded from a user namespace (modprobe overlay on the node)"
            }
            (Step::Mount, Some(Busy)) => "the source is mounted already, or the target is in use",
            (Step::Inside | Step::Refused, Some(Denied)) => {
                "the file, or a directory on the way to it, belongs to another user: in an image or volume to root or another user of the image (fsGroup gives volumes a group), for root in a pod with hostUsers: false to an ID that is not mapped (ls -n shows 65534). If its mode would allow it, SELinux or AppArmor forbids it"
            }
            (Step::Inside | Step::Refused, Some(NotPermitted)) => {
                "the process lacks a capability, or seccomp forbids the call, or it concerns the whole machine (clock, kernel log, devices, limits), for which no capability of a user namespace counts, or the owner of a file is not mapped"
            }
            (Step::Rootfs, Some(Invalid)) => {
                "the owner of a file is not mapped where the image is unpacked, or an overlay is to be mounted on an overlay, or the directory was left behind by a mount that is gone"
            }
            (Step::Rootfs, Some(NotPermitted | Denied)) => {
                "a directory on the way to the image's files is closed to the container's root, an ordinary user of the node (a home directory with mode 0700), or the files do not belong to it, or a device node is to be created, or the kernel allows no overlay in a user namespace (before Linux 5.11); on NFS the server refuses other owners"
            }
            (Step::Rootfs, Some(Missing)) => {
                "a file of the image is not there: it was removed while a container used it, or unpacking ended early; remove the image and pull it again"
            }
            (_, Some(Io)) => {
                "the disk or the server failed, or CephFS refuses a mapped owner: the kernel's log on the node shows which"
            }
            (_, Some(TooManyFiles)) => {
                "a limit of open files, or more often of inotify instances (fs.inotify.max_user_instances), which all pods share as users of the node's root"
            }
            (Step::Mapping, Some(NoProcess)) => {
                "the process whose IDs were to be mapped has ended before: its own message has the cause"
            }
            (Step::Mapping, None) => {
                "the mapping of a user namespace cannot be written or is not the one that the program needs: its IDs are not those of the calling process or of /etc/subuid and /etc/subgid, or newuidmap is missing or may not map, or the process has ended"
            }
            (Step::Rootfs, Some(NotSupported | NotImplemented) | None) => {
                "the snapshotter or storage driver cannot be used there: the file system of its directory does not suit it, or what it mounts with is missing or not allowed in this container or user namespace (overlay takes Linux 5.11 in one, FUSE 4.18 and /dev/fuse, fuse-overlayfs or fusermount3)"
            }
            (Step::Mount, None) => {
                "the line does not have the kernel's reason: a directory is missing, an option or file system is not known to the kernel, the source is in use, or a right is missing (SYS_ADMIN, AppArmor, SELinux)"
            }
            (Step::Bus, Some(Denied | NotPermitted | Missing) | None) => {
                "the program cannot use D-Bus: no bus runs there, or its address is another user's (su and sudo keep XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS), or the bus does not accept the user. A bus outside of a user namespace compares user IDs by number, and those inside are others to it (REJECTED EXTERNAL)"
            }
            (Step::Socket, Some(Missing)) => {
                "the socket is not there: the program that opens it does not run, or has this interface switched off, or its directory is not mounted in this container"
            }
            (Step::Socket, None) => {
                "the program that opens the socket does not run, or has this interface switched off, or its directory is not mounted in this container, or the process may not use it"
            }
            (Step::Exec, None) => {
                "the program could not be executed: it is missing, has no x for this user, is for another architecture, or noexec, seccomp, SELinux or AppArmor forbids it"
            }
            (Step::Fork, Some(Invalid | NotPermitted | Denied | NoSpace)) => {
                "the process was to be started in namespaces of its own, and the kernel does not make them: user namespaces are switched off or used up (user.max_user_namespaces; on RHEL 7 the kernel's option user_namespace.enable), or seccomp or AppArmor forbids it"
            }
            (Step::Fork, _) => {
                "the limit of processes or the memory is reached: pids.max of the container or pod (podPidsLimit of the kubelet), or RLIMIT_NPROC, which counts all processes of the same user of the machine"
            }
            (Step::Cni, _) => {
                "a CNI plugin failed or is missing: the text behind its name is its own message, its programs are in /opt/cni/bin and its configuration in /etc/cni/net.d of the node. A user namespace plays a part only if that text is about joining a namespace"
            }
            (Step::Admission, _) => {
                "the API server refuses the pod by a rule that the line names (Pod Security, an SCC, a quota, a webhook, a field of the pod): no runtime has seen it yet"
            }
            (Step::KubeletStart, _) => {
                "the kubelet ends at its start: the text at the end of the line, behind err=, is the reason; a range of IDs for pods is one of several things that it requires then"
            }
            (Step::RuntimeStart, _) => {
                "the runtime or one of its plugins does not start with its present configuration: the text behind error= is the reason"
            }
            (Step::Chroot, Some(Denied | Missing) | None) => {
                "the directory is missing or closed to the process, or the container lacks the capability SYS_CHROOT, or the process is no longer root"
            }
            (Step::Limit, _) => {
                "a limit of the process is too low or may not be raised: limits come from the runtime's unit or its default_ulimits, and raising them needs rights in the machine's own user namespace"
            }
            (Step::Sysctl, None) => {
                "the sysctl does not exist here, or may not be set: /proc/sys is read-only in containers that are not privileged, and in a user namespace only sysctls of the pod's network and IPC namespace can be set"
            }
            (Step::Device, None) => {
                "the device is not in the container, or belongs to a user and group of the node that are not mapped, or its device cgroup does not allow it: a device plugin, CRI-O's annotation io.kubernetes.cri-o.Devices or privileged: true adds it"
            }
            (Step::Inside, None) => {
                "a program in the container reports a failure of its own: a line before it has the reason, if the kernel has refused something"
            }
            (Step::Storage, _) => {
                "if the line is about a file, its file system is full, of bytes or of inodes, or a quota is reached, or the disk has failed. If it is about a process or a namespace, a sysctl user.max_*_namespaces is 0 or used up; if about inotify, fs.inotify.max_user_watches"
            }
            (Step::Unsupported, _) => {
                "what the line names is missing in the kernel, in a program's version or in how it was built, or cannot be used where the program runs (a container, a user namespace, an ordinary user); the line does not show which"
            }
            (Step::Absent, Some(NoDevice)) => {
                "the kernel has no such device or file system, or its module is not loaded"
            }
            (Step::Absent, Some(NoProcess)) => "the process has ended before, or is in another PID namespace",
            (Step::Absent, _) => {
                "something that the line names is not there: not in the image or its PATH, not on the node, not in the cluster, under another name, or removed before. A shell prints it, too, for a program whose dynamic loader the image does not have. In a container a path is one of its image and volumes, not of the node"
            }
            (Step::Exists, _) | (_, Some(Exists)) => {
                "it is there already, from an earlier run or another program; user namespaces have nothing to do with it"
            }
            (Step::Busy, _) => {
                "something uses it: a mount on or below it, a process with a file or its working directory in it, or another run of the program"
            }
            (Step::Rejected, _) => {
                "the kernel does not accept a value: in a container often a user or group that is not mapped where the process runs; otherwise an option, flag or type that this kernel, file system or socket does not have"
            }
            (Step::Exhausted, _) => {
                "a limit is reached: processes (pids.max of the pod, RLIMIT_NPROC), memory (limits.memory, RLIMIT_MEMLOCK), open files (ulimit -n); it may work again later"
            }
            _ => return None,
        })
    }

    /// Where the cause of a failure in this step shows.
    pub(super) const fn look(self) -> Option<&'static str> {
        Some(match self {
            Step::Mapping | Step::Range => {
                "cat /proc/self/uid_map /proc/self/gid_map /etc/subuid /etc/subgid, in the container or on the node where the program runs"
            }
            Step::MappedMount => {
                "findmnt -T PATH on the node shows the file system; usernsd explain POD shows which volumes are mapped"
            }
            Step::Cgroup => {
                "usernsd explain POD shows the owner of the cgroup; in the container: cat /proc/self/cgroup /sys/fs/cgroup/cgroup.controllers, and ls -ldn /sys/fs/cgroup"
            }
            Step::NetworkNamespace | Step::Namespace | Step::Sandbox => {
                "usernsd doctor on the node; sysctl user.max_user_namespaces there, and journalctl -k | grep -E 'apparmor=|avc:'"
            }
            Step::SecurityProfile => {
                "aa-status on the node lists the profiles that are loaded, getenforce the mode of SELinux, journalctl -k | grep -E 'apparmor=|avc:' what was refused; appArmorProfile and seLinuxOptions of the pod name what is applied"
            }
            Step::Keyring => {
                "start inner containers without a keyring (keyring = false in containers.conf, --no-new-keyring of runc and crun), or with a seccompProfile that allows keyctl"
            }
            Step::Forbidden => {
                "grep Seccomp /proc/self/status in the container (2: a profile is applied); a profile that allows the call (seccompProfile.type: Localhost); sysctl kernel.io_uring_disabled on the node"
            }
            Step::Fuse => {
                "ls -l /dev/fuse in the container, and the log of the program that mounts; docs/recipes/container-engine.md"
            }
            Step::Bpf => {
                "run the agent in a pod without hostUsers: false, with these capabilities; sysctl kernel.perf_event_paranoid kernel.unprivileged_bpf_disabled on the node"
            }
            Step::Tracing | Step::Confinement | Step::Credentials | Step::Chroot | Step::Pivot => {
                "grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp' /proc/self/status in the container (capsh --decode=… names the capabilities); journalctl -k | grep -E 'apparmor=|avc:|type=1326' on the node"
            }
            Step::Module => "lsmod on the node; load the module there (/etc/modules-load.d)",
            Step::Sysctl => {
                "set sysctls of the pod's namespaces with securityContext.sysctls, others on the node (/etc/sysctl.d)"
            }
            Step::Network | Step::Socket => {
                "grep CapEff /proc/self/status in the container (capsh --decode=…), sysctl net.ipv4.ip_unprivileged_port_start there, and lsmod on the node"
            }
            Step::Device | Step::DeviceNode => {
                "ls -ln /dev and findmnt -T /dev/NAME in the container; ls -l of the same device on the node"
            }
            Step::WorkingDirectory => "namei -ln PATH in the container, as the user of the process (id)",
            Step::Exec => "ls -ln FILE, findmnt -T FILE and getcap FILE in the container",
            Step::ForeignMount | Step::Mount | Step::Rootfs => {
                "findmnt -T PATH and namei -ln PATH on the node; journalctl -k there shows the kernel's reason"
            }
            Step::Owner | Step::Attribute | Step::Refused | Step::Inside => {
                "namei -ln PATH and findmnt -T PATH in the container; usernsd explain POD shows which volumes are mapped; journalctl -k | grep -E 'apparmor=|avc:' on the node"
            }
            Step::Limit => {
                "ulimit -a in the container; systemctl show -p LimitNOFILE,LimitMEMLOCK of the runtime's unit on the node"
            }
            _ => return self.look_at_sentence(),
        })
    }
}
