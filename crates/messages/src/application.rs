//! Programs that were not written for user namespaces.

messages! { Application;
    StdioDenied = "stdio-denied" {
        says: [
            "/dev/stdout…permission denied",
            "/dev/stderr…permission denied",
            "/proc/self/fd/…permission denied",
            "permission denied…/proc/self/fd/",
            "/proc/1/fd/…permission denied",
            "permission denied…/dev/stdout",
            "permission denied…/dev/stderr",
            "error log file: open() \"/var/log/nginx/error.log\" failed (13: permission denied)",
            "open() \"/var/log/nginx/access.log\" failed (13: permission denied)",
            "chown: changing ownership of '/dev/std…: Operation not permitted",
            "chown: /dev/std…: Operation not permitted",
            "lchown /dev/std…: operation not permitted",
            "chown /dev/std…: operation not permitted",
            "chown: changing ownership of '/proc/self/fd/…: Operation not permitted",
            "permission denied: AH00091",
            "permission denied: AH00649",
        ],
        sample: "nginx: [alert] could not open error log file: open() \"/dev/stderr\" failed (13: Permission denied)",
        cause: "The program opens its standard output by path, or changes its owner, and the pipe behind it belongs to another user: to the host's root (containerd before 2.0.1 with runc) or, if the process has changed its user, to the user with which the container started.",
        fix: "Use containerd 2.0.1 or later, or crun. Otherwise configure the program to write to its inherited standard output instead of a path, or do not change the user. The chown of /dev/stdout can be omitted.",
        // The standard streams are 0 to 2; other numbers are handles, by which engines name the targets of mounts.
        when: |between| crate::number(between).is_none_or(|stream| stream <= 2) && !between.contains("), flags"),
    }
    ChownInvalid = "chown-not-mapped" {
        says: [
            "chown: changing ownership of …: Invalid argument",
            "lchown …: invalid argument",
            "chown …: invalid argument",
            "chown: …: Invalid argument",
            "Cannot change ownership to uid …: Invalid argument",
            "chown failed - Invalid argument",
            "chown(…) failed (22: Invalid argument)",
            "error setting ownership of …: Invalid argument",
            "EINVAL: invalid argument, chown ",
            "cannot change owner and permissions of …: Invalid argument",
        ],
        sample: "chown: changing ownership of '/data': Invalid argument",
        cause: "The new owner is not mapped. If it is below 65536, which every pod has, the program runs in a smaller mapping that a container engine inside the pod has made from /etc/subuid and /etc/subgid of its image. Otherwise the pod does not have that ID; by default it has 0 to 65535. Users from a directory service (LDAP, Active Directory) often have larger IDs.",
        fix: "For an owner below 65536 write a range into the image's /etc/subuid and /etc/subgid (1001:64535 for user 1000) and run podman system migrate; cat /proc/self/uid_map there shows the mapping. For a larger one use an ID below 65536, or raise idsPerPod of the kubelet on a drained node.",
        page: "recipes/container-engine.md",
    }
    ChownDenied = "chown-denied" {
        says: [
            "chown: changing ownership of …: Operation not permitted",
            "lchown …: operation not permitted",
            "chown …: operation not permitted",
            "chown: …: Operation not permitted",
            "cannot change ownership of …: Operation not permitted",
            "Cannot change ownership to uid …: Operation not permitted",
            "cpio: chown failed -",
            "failed to preserve ownership for …: Operation not permitted",
            "chown(…) failed (1: Operation not permitted)",
            "chown failed: [Errno 1] Operation not permitted",
            "PermissionError: [Errno 1] Operation not permitted: '…'",
            "EPERM: operation not permitted, chown ",
            "EPERM: operation not permitted, chmod ",
            "cannot change owner and permissions of …: Operation not permitted",
            "error setting ownership of …: Operation not permitted",
            "chmod: changing permissions of …: Operation not permitted",
        ],
        sample: "chown: changing ownership of '/data': Operation not permitted",
        cause: "There are three possible causes: the process is not root in the container; or the container has dropped the capability CHOWN or FOWNER; or the file's present owner is not mapped there, as on NFS and other volumes that are not ID-mapped, whose files belong to users of the server or the host.",
        fix: "id in the container shows the user, and usernsd explain POD which volumes are mapped, and their owners. A process that is not root needs the owner from the image, the volume or fsGroup. Otherwise keep the capability CHOWN, use a volume that supports ID mapping, or change the owner on the server.",
        page: "runbooks/checks/idmapped_mounts.md",
        when: is_not_of_the_kernel,
    }
    WriteDenied = "volume-write-denied" {
        says: [
            "touch: cannot touch …: Permission denied",
            "touch: …: Permission denied",
            "mkdir: cannot create directory …: Permission denied",
            "mkdir: can't create directory …: Permission denied",
            "mkdir() \"…\" failed (13: Permission denied)",
            "can't create …: Permission denied",
            // Python, Node.js, Ruby, Java, Go.
            "PermissionError: [Errno 13] Permission denied: '…'",
            "EACCES: permission denied, mkdir '…'",
            "EACCES: permission denied, open '…'",
            "EACCES: permission denied, unlink '…'",
            "Permission denied @ dir_s_mkdir - …",
            "Permission denied @ rb_sysopen - …",
            "java.nio.file.AccessDeniedException: …",
            "mkdir …: permission denied",
            "cannot create regular file …: Permission denied",
            "couldn't open temporary file …: Permission denied",
            "failed to create file via template …: Permission denied",
            "failed to create directory via template …: Permission denied",
            "cannot create …: Permission denied",
        ],
        sample: "mkdir: cannot create directory '/data/db': Permission denied",
        cause: "The user of the process is not allowed to write to that directory. If that user is root in a pod with hostUsers: false, the directory is on a volume without ID mapping and belongs to an ID that is not mapped (ls -n shows 65534). Otherwise it belongs to another user, such as root.",
        fix: "usernsd explain POD shows which volumes are mapped, and their owners. For a user other than root, set fsGroup for volumes, and use an image that writes to no other directories; or run it as root with hostUsers: false.",
        page: "runbooks/checks/idmapped_mounts.md",
        when: may_be_of_a_volume,
    }
    ExecDenied = "exec-file-capabilities" {
        says: [
            "exec /…: operation not permitted",
            "exec: \"/…\": operation not permitted",
            "exec `/…`: Operation not permitted",
            "exec user process caused: operation not permitted",
        ],
        sample: "fork/exec /usr/bin/virt-launcher: operation not permitted",
        cause: "The program's file has capabilities that the container has dropped (all of them, or those that a policy drops). The kernel does not execute such a program.",
        fix: "getcap FILE in the image shows these capabilities: add them to the container, or remove them from the file when the image is built (setcap -r FILE). With hostUsers: false they apply in the pod only.",
        when: is_program,
    }
    ShellExecDenied = "shell-exec-denied" {
        says: [
            "bash: /…: Operation not permitted",
            "sh: /…: Operation not permitted",
        ],
        sample: "bash: /usr/bin/ping: Operation not permitted",
        cause: "The program's file has capabilities that the container has dropped (all of them, or those that a policy drops). The kernel does not execute such a program.",
        fix: "getcap FILE in the image shows these capabilities: add them to the container, or remove them from the file when the image is built (setcap -r FILE). With hostUsers: false they apply in the pod only.",
        when: is_program_of_shell,
    }
    AuditDenied = "audit-denied" {
        says: [
            "unable to send audit message: Operation not permitted",
            "audit_log_acct_message() failed: Operation not permitted",
            "linux_audit_write_entry failed: Operation not permitted",
        ],
        sample: "sudo: unable to send audit message: Operation not permitted",
        cause: "The container lacks the capability AUDIT_WRITE, which CRI-O and podman do not give by default. The message does not occur in a user namespace: there the kernel answers with another error, which sudo, su and sshd ignore.",
        fix: "Set hostUsers: false, or add the capability AUDIT_WRITE.",
    }
    ChrootDenied = "chroot-denied" {
        says: [
            "chroot(\"…\"): Operation not permitted",
            "chroot: cannot change root directory to …: Operation not permitted",
            "chroot(…) failed (1: Operation not permitted)",
            "chroot(…) failed: Operation not permitted",
        ],
        sample: "sshd: fatal: chroot(\"/usr/share/empty.sshd\"): Operation not permitted [preauth]",
        cause: "The container lacks the capability SYS_CHROOT, which CRI-O and podman do not give by default; sshd, FTP servers and package managers need it.",
        fix: "Add the capability SYS_CHROOT; with hostUsers: false it applies in the pod only.",
    }
    PamAccount = "pam-shadow-denied" {
        says: ["Authentication service cannot retrieve authentication info"],
        sample: "sudo: PAM account management error: Authentication service cannot retrieve authentication info",
        cause: "A PAM module cannot reach the source of its account data. With pam_unix, unix_chkpwd cannot read /etc/shadow: the user has no line there, the file belongs to an ID that is not mapped, the container has dropped DAC_OVERRIDE, or an AppArmor profile named unix-chkpwd on the node denies it that capability. With pam_sss, pam_winbind or pam_ldap it cannot reach its daemon, or the daemon cannot reach the directory.",
        fix: "/etc/pam.d/SERVICE names the module. For a directory service read the log of its daemon. For pam_unix, ls -n /etc/shadow in the container shows the owner, which must be 0. If the kernel's log has profile=\"unix-chkpwd\" and capname=\"dac_override\", allow that capability in /etc/apparmor.d/local/unix-chkpwd on the node.",
    }
    AuditDaemon = "audit-daemon" {
        says: [
            "Error sending status request (Operation not permitted)",
            "Error setting audit daemon pid (Operation not permitted)",
            "Unable to set initial audit startup state to",
        ],
        sample: "auditd[306]: Error sending status request (Operation not permitted)",
        cause: "auditd runs only in the machine's own user and process namespaces: the kernel has a single audit log, which containers cannot read.",
        fix: "Disable the service in the image (systemctl disable auditd), and collect the audit log on the node.",
    }
    SysctlHidden = "sysctl-missing" {
        says: ["open /proc/sys/net/…: no such file or directory"],
        sample: "error during container init: open /proc/sys/net/core/somaxconn: no such file or directory",
        cause: "The pod's network has no such sysctl. Older kernels hide those of net.core in a network namespace that belongs to a user namespace; other sysctls exist only once for the machine, or belong to a module that is not loaded.",
        fix: "Remove the sysctl from securityContext.sysctls of pods with hostUsers: false and from the runtime's defaults, or update the kernel.",
    }
    UsernsSysctlMissing = "userns-sysctl-missing" {
        says: [
            "unprivileged_userns_clone' is an unknown key",
            "cannot stat /proc/sys/kernel/unprivileged_userns_clone",
            "/proc/sys/kernel/unprivileged_userns_clone: No such file or directory",
            "apparmor_restrict_unprivileged_userns' is an unknown key",
            "cannot stat /proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns: No such file or directory",
        ],
        sample: "sysctl: error: 'kernel.unprivileged_userns_clone' is an unknown key",
        cause: "This kernel does not have the sysctl: kernel.unprivileged_userns_clone exists only with a patch of Debian's and older Ubuntu's kernels, kernel.apparmor_restrict_unprivileged_userns only in Ubuntu 23.10 and later. Where it is missing, it forbids nothing.",
        fix: "Nothing has to be set. user.max_user_namespaces must be above 0; unshare -Ur true shows whether this user can create user namespaces, and its message why not.",
        page: "runbooks/checks/max_user_namespaces.md",
    }
    BridgeFilter = "bridge-netfilter-missing" {
        says: [
            "/proc/sys/net/bridge/…: no such file or directory",
            "cannot stat /proc/sys/net/bridge/",
        ],
        sample: "Failed to set sysctl: open /proc/sys/net/bridge/bridge-nf-call-iptables: no such file or directory",
        cause: "The kernel module br_netfilter is not loaded. A node that is itself a container cannot load it: modules belong to the machine that runs it.",
        fix: "Load it on that machine: modprobe br_netfilter, and a line br_netfilter in a file below /etc/modules-load.d.",
    }
    Conntrack = "conntrack-sysctl-denied" {
        says: [
            "/proc/sys/net/netfilter/nf_conntrack_…: permission denied",
            "/proc/sys/net/netfilter/nf_conntrack_…: read-only file system",
            "net/netfilter/nf_conntrack_…: operation not permitted",
        ],
        sample: "F0624 07:38:23.053999      54 server.go:495] open /proc/sys/net/netfilter/nf_conntrack_max: permission denied",
        cause: "kube-proxy adjusts the limits of connection tracking. Since Linux 5.13 they can be set only in the machine's own network namespace, so not on a node that is itself a container.",
        fix: "Keep kube-proxy from changing them: conntrack.maxPerCore: 0 and conntrack.min: 0 in its configuration (k3s: --kube-proxy-arg conntrack-max-per-core=0); set net.netfilter.nf_conntrack_max on the machine that runs the node.",
    }
    WorldReadable = "kernel-file-denied" {
        says: [
            "/proc/sys/kernel/overflowuid: Permission denied",
            "/proc/sys/kernel/overflowgid: Permission denied",
            "/proc/sys/kernel/cap_last_cap: Permission denied",
            "/proc/sys/kernel/ngroups_max: Permission denied",
            "/proc/sys/kernel/osrelease: Permission denied",
            "/proc/filesystems: Permission denied",
            "/proc/cpuinfo: Permission denied",
            "/proc/meminfo: Permission denied",
            "/proc/self/mountinfo: Permission denied",
            "/proc/self/uid_map: Permission denied",
        ],
        sample: "nvidia-container-cli: initialization error: open failed: /proc/sys/kernel/overflowuid: permission denied",
        cause: "This file of the kernel is readable for everyone, so its mode is not the cause: the AppArmor or SELinux profile of the program forbids it, or a sandbox hides /proc from it.",
        fix: "The kernel's log has a line with apparmor=\"DENIED\" or avc: denied and the name of the profile (journalctl -k). Allow the file in that profile, or set appArmorProfile.type: Unconfined for the container, with hostUsers: false.",
        page: "apparmor.md",
    }
    SysctlDenied = "sysctl-denied" {
        says: [
            "sysctl: permission denied on key",
            "sysctl: setting key …: Permission denied",
            "sysctl: setting key …: Read-only file system",
            "sysctl: error setting key",
            "/proc/sys/…: Read-only file system",
            "/proc/sys/…: Permission denied",
        ],
        sample: "sysctl: permission denied on key \"vm.max_map_count\"",
        cause: "/proc/sys is read-only in containers that are not privileged. Sysctls of the whole node (vm.max_map_count, fs.*, most of kernel.*) cannot be changed from a user namespace at all, not even by a privileged container.",
        fix: "Set the sysctl on the node (/etc/sysctl.d, the Node Tuning Operator, or a DaemonSet without hostUsers: false), and remove the init container that sets it. Set sysctls of the pod's network (net.*) with securityContext.sysctls. If an engine in a pod cannot set some of them for its own containers, it only warns.",
        when: |name| !name.contains(char::is_whitespace),
    }
    RlimitDenied = "rlimit-denied" {
        says: [
            "cannot modify limit: Operation not permitted",
            "error setting limit: Operation not permitted",
            "failed to set the … resource limit: Operation not permitted",
            "setrlimit…: Operation not permitted",
            "setrlimit…: operation not permitted",
            "error setting rlimit…operation not permitted",
        ],
        sample: "ulimit: max locked memory: cannot modify limit: Operation not permitted",
        cause: "Raising a limit needs SYS_RESOURCE on the host; the capability has no effect in a user namespace.",
        fix: "Raise the limit where the runtime starts containers (LimitNOFILE= and LimitMEMLOCK= of containerd's or CRI-O's unit, default_ulimits of CRI-O), or remove ulimit from the entry point.",
    }
    MountDenied = "mount-denied" {
        says: [
            "mount.nfs: Operation not permitted",
            "mount.nfs4: Operation not permitted",
            "mount error(1): Operation not permitted",
            "mount: only root can do that",
            "losetup: …: Operation not permitted",
            "failed to set up loop device: Permission denied",
            "could not attach image file too loop device: operation not permitted",
        ],
        sample: "mount.nfs: Operation not permitted",
        cause: "In a user namespace only a few file systems can be mounted: tmpfs, proc, sysfs, overlay, FUSE, cgroup2, devpts, mqueue and bind mounts. Disks, images, NFS and CIFS cannot be mounted, whatever capabilities the container has.",
        fix: "Mount it as a Kubernetes volume, or use FUSE. For the file systems that are allowed, add the capability SYS_ADMIN, which applies in the pod only, and set appArmorProfile.type: Unconfined.",
    }
    KernelLog = "kernel-log-denied" {
        says: [
            "read kernel buffer failed: Operation not permitted",
            "/proc/kmsg…: Operation not permitted",
            "/proc/kmsg…: Permission denied",
            "klogctl…: Operation not permitted",
        ],
        sample: "dmesg: read kernel buffer failed: Operation not permitted",
        cause: "The kernel's log belongs to the whole machine: it cannot be read in a user namespace, whatever capabilities the container has.",
        fix: "Read it on the node (journalctl -k). In the container, disable the module imklog of rsyslog, or ReadKMsg= of systemd-journald, which read it.",
    }
    Clock = "clock-denied" {
        says: [
            "cannot set date: Operation not permitted",
            "adjtimex(…) failed : Operation not permitted",
            "settimeofday: Operation not permitted",
            "settimeofday() failed: Operation not permitted",
            "clock_settime: Operation not permitted",
        ],
        sample: "date: cannot set date: Operation not permitted",
        cause: "The clock belongs to the whole machine and cannot be set in a user namespace, whatever capabilities the container has.",
        fix: "Set it on the node, and disable chronyd, ntpd or systemd-timesyncd in the container.",
    }
    Scheduling = "scheduling-denied" {
        says: [
            "failed to set …policy: Operation not permitted",
            "ioprio_set failed: Operation not permitted",
            "cannot set niceness: Permission denied",
            "sched_setscheduler…: Operation not permitted",
            "setpriority…: Permission denied",
        ],
        sample: "chrt: failed to set pid 0's policy: Operation not permitted",
        cause: "Raising a priority, or a real-time policy, needs SYS_NICE on the host; the capability has no effect in a user namespace.",
        fix: "Do not raise it (in systemd units omit Nice=, IOSchedulingClass= and CPUSchedulingPolicy=); use the pod's CPU requests instead.",
    }
    HostName = "host-name-denied" {
        says: [
            "you must be root to change the host name",
            "hostname: sethostname: Operation not permitted",
        ],
        sample: "hostname: you must be root to change the host name",
        cause: "The program is not root in the container, or it lacks SYS_ADMIN, or the pod has the host's UTS namespace (hostNetwork), which a user namespace of the pod has no rights over.",
        fix: "Set the name with hostname: and subdomain: in the pod's spec; or with hostUsers: false add the capability SYS_ADMIN, which applies in the pod only.",
    }
    Network = "network-denied" {
        says: [
            "RTNETLINK answers: Operation not permitted",
            "ioctl(TUNSETIFF): Operation not permitted",
        ],
        sample: "RTNETLINK answers: Operation not permitted",
        cause: "The container lacks NET_ADMIN, or its network namespace belongs to another user namespace: to the host's (hostNetwork) or, for an inner engine's container that shares the pod's network, to the pod's.",
        fix: "Add the capability NET_ADMIN, which with hostUsers: false applies to the pod's own network only. For an inner container use a network of its own, or --network none.",
    }
    Ptrace = "ptrace-denied" {
        says: [
            "ptrace(…): Operation not permitted",
            "ptrace: Operation not permitted",
        ],
        sample: "strace: attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted",
        cause: "A debugger may attach only to processes of its own user namespace, and to those of other users only with SYS_PTRACE; or seccomp, AppArmor or the sysctl kernel.yama.ptrace_scope forbids it.",
        fix: "With hostUsers: false add the capability SYS_PTRACE, which applies in the pod only. An ephemeral container (kubectl debug --target) shares the pod's user namespace.",
    }
    Inotify = "inotify-limit" {
        says: [
            "Failed to allocate directory watch: Too many open files",
            "inotify object: Too many open files",
            "inotify_init…: Too many open files",
            "fsnotify watcher: too many open files",
            "System limit for number of file watchers reached",
            "inotify_add_watch…: No space left on device",
        ],
        sample: "Failed to allocate directory watch: Too many open files",
        cause: "The limit of inotify instances (128 by default) or watches of a user is reached, not that of open files. Instances and watches in a user namespace also count for the user who created the namespace, for pods the host's root.",
        fix: "Raise fs.inotify.max_user_instances and fs.inotify.max_user_watches on the node (/etc/sysctl.d); they cannot be changed in the pod.",
    }
    ModuleDenied = "module-denied" {
        says: [
            "modprobe: ERROR: could not insert",
            "could not insert '…': Operation not permitted",
        ],
        sample: "modprobe: ERROR: could not insert 'ip_tables': Operation not permitted",
        cause: "Kernel modules cannot be loaded from a user namespace.",
        fix: "Load the module on the node (/etc/modules-load.d, a MachineConfig, or a DaemonSet without hostUsers: false).",
    }
    ModuleMissing = "module-missing" {
        says: [
            "modprobe: FATAL: Module",
            "modprobe: can't change directory to",
        ],
        sample: "modprobe: FATAL: Module wireguard not found in directory /lib/modules/6.1.0-13-amd64",
        cause: "modprobe finds no such module for the running kernel: /lib/modules of a container is that of its image, which has none for the node's kernel, and the kernel may have the module built in, or not at all.",
        fix: "lsmod and modprobe -n NAME on the node show whether it is there; install and load it there (/etc/modules-load.d). A container with a user namespace could not load it, and needs no modprobe if it is loaded.",
    }
    SetgroupsDenied = "setgroups-denied" {
        says: [
            "setgroups: operation not permitted",
            "setgroups failed: Operation not permitted",
            "setgroups 65534 failed",
            "setegid 65534 failed",
            "seteuid … failed - seteuid (1: Operation not permitted)",
            "cannot set groups: Operation not permitted",
            "initgroups failed: Operation not permitted",
            "setgroups … failed - setgroups (1: Operation not permitted)",
            "setgid: Operation not permitted",
            "setuid: Operation not permitted",
            "cannot set user id: Operation not permitted",
            "cannot set group id: Operation not permitted",
            "su: must be suid to work properly",
        ],
        sample: "E: setgroups 65534 failed - setgroups (1: Operation not permitted)",
        cause: "The container has dropped the capability SETGID or SETUID, or a user other than root runs the program, which is not setuid; or an engine created the container with a mapping of a single ID, for which the kernel forbids setgroups.",
        fix: "Keep the capabilities SETGID and SETUID, and start the container as root. For an engine in a pod, add ranges to the image's /etc/subuid and /etc/subgid; apt in such containers needs the option APT::Sandbox::User \"root\".",
    }
    SudoDenied = "sudo-denied" {
        says: [
            "sudo: effective uid is not 0",
            "\"no new privileges\" flag is set, which prevents sudo",
            "sudo: PERM_SUDOERS: setresuid",
            "sudo: unable to change to root gid: Operation not permitted",
        ],
        sample: "sudo: effective uid is not 0, is /usr/bin/sudo on a file system with the 'nosuid' option set or an NFS file system without root privileges?",
        cause: "The container sets allowPrivilegeEscalation: false, which disables setuid programs such as sudo, or has dropped the capabilities SETUID and SETGID, or the program is on a volume mounted with nosuid.",
        fix: "Keep the capabilities SETUID and SETGID, and omit allowPrivilegeEscalation: false: with hostUsers: false root in the container has no privileges on the node. Or start the container as root instead of using sudo.",
        page: "recipes/root-application.md",
    }
    SetuidOwner = "setuid-owner-not-root" {
        says: [
            "mount: only root can do that (effective UID is …)",
            "(effective UID is …)",
            "must be owned by uid 0 and have the setuid bit set",
        ],
        sample: "mount: only root can do that (effective UID is 427680)",
        cause: "The program is setuid, and its file does not belong to root of this user namespace, or has lost its setuid bit: the image was unpacked with another mapping than the one with which the container runs (userns-remap with --userns=host, a copied root file system, a rootless engine's image used by root), or a script has changed the owner or mode.",
        fix: "ls -ln of the program shows the owner, which must be 0. Run the container with the mapping that its image was unpacked for, or remove the image and pull it again; in a running container chown root FILE and chmod u+s FILE.",
        when: |id| crate::number(id).is_none_or(|id| id != 0),
    }
    FileCapabilities = "file-capabilities-denied" {
        says: [
            "cap_set_file failed",
            "cpio: cap_set_file",
            "Failed to set capabilities on file",
            "Failed to set capabilities on the file",
        ],
        sample: "error: unpacking of archive failed on file /usr/bin/ping: cpio: cap_set_file failed - Operation not permitted",
        cause: "File capabilities cannot be set: the container has dropped the capability SETFCAP, or the file system does not store them (NFS).",
        fix: "Keep the capability SETFCAP in the container that installs the program, or set the file capabilities when the image is built.",
    }
    Overflow = "owner-overflow" {
        says: ["Value too large for defined data type"],
        sample: "touch: cannot touch '/data/x': Value too large for defined data type",
        cause: "If a file is made or moved: the kernel cannot store its owner, because the user or group of the process is not mapped in the ID-mapped mount, or the file system has no ID for it. If a file is only looked at (ls, stat): a 32-bit program cannot hold its size or inode number, which has nothing to do with owners.",
        fix: "Run the process as a user and group below 65536 that are mapped into the pod; usernsd explain POD shows the mapping and the volumes. Do not mount a volume with a smaller mapping of its own.",
    }
    DeviceDenied = "device-denied" {
        says: ["/dev/…: Permission denied", "/dev/…' (permission denied)"],
        sample: "Unable to open /dev/kvm: Permission denied",
        cause: "The device belongs to a user and group of the host that are not mapped into the pod, where they appear as nobody, and the device's mode admits nobody else. Capabilities of the pod do not apply to it.",
        fix: "Make the device accessible for everyone with a udev rule on the node (KERNEL==\"kvm\", MODE=\"0666\"); the container must also be allowed to use it, by a device plugin or CRI-O's annotation io.kubernetes.cri-o.Devices.",
        when: is_device,
    }
    UseraddRange = "useradd-no-range" {
        says: [
            "Can't get unique subordinate UID range",
            "Can't get unique subordinate GID range",
            "can't create subordinate user IDs",
            "can't create subordinate group IDs",
        ],
        sample: "useradd: Can't get unique subordinate UID range",
        cause: "useradd gives each new user a range between SUB_UID_MIN and SUB_UID_MAX of /etc/login.defs (600100000 by default), and the lines in /etc/subuid or /etc/subgid leave no room for one there, because they include a large range of the user containers; or a directory service has no entry for the user.",
        fix: "For a user that starts no containers set SUB_UID_COUNT 0 and SUB_GID_COUNT 0, or create it as a system user (useradd --system). Otherwise raise SUB_UID_MAX and SUB_GID_MAX, or give containers fewer IDs: bootstrap.ranges: [{owner: containers, pods: N}].",
        page: "prepare-kubernetes.md",
    }
    GetsubidsRange = "getsubids-no-range" {
        says: ["Error fetching ranges"],
        cause: "getsubids found no range for the given user: /etc/subuid (with -g /etc/subgid) of the machine or image where it runs has no line for that user, or the source in the subid line of /etc/nsswitch.conf does not answer.",
        fix: "Add a line for the user to both files there. For the kubelet's user on a node: usernsd bootstrap.",
    }
    IoOnIdmap = "cephfs-idmap" {
        says: [
            "can't create …: I/O error",
            "cannot create …: Input/output error",
            "cannot touch …: Input/output error",
        ],
        sample: "touch: cannot touch '/data/x': Input/output error",
        cause: "On a CephFS volume of a pod with hostUsers: false: Linux 6.7 and later map its IDs, but metadata servers before Ceph 19 (Squid) cannot store the mapped owner of a new file, and the kernel refuses to create it. On other volumes the disk or server has failed; the kernel's log shows which.",
        fix: "Update the metadata servers of Ceph. If no Ceph client is restricted to certain users by its Ceph capabilities, the kernel module's parameter enable_unsafe_idmap=Y permits older servers.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    IstioValidation = "istio-validation" {
        says: ["Error connecting to 127.0.0.6:15002"],
        sample: "Error connecting to 127.0.0.6:15002: dial tcp 127.0.0.1:0->127.0.0.6:15002: connect: connection refused",
        cause: "istio-validation finds no redirection of the pod's traffic. In a pod with hostUsers: false istio-cni cannot set it up: rules that match the owner of a packet are accepted only from the user namespace of the network namespace, and istio-cni is in the host's (istio#58750). In other pods istio-cni did not run.",
        fix: "Use istio-init for such pods (an installation without istio-cni): it sets the rules from inside the pod and needs NET_ADMIN there. Or exclude them from the mesh.",
    }
    UserChange = "user-change-not-mapped" {
        says: [
            "setuid: Invalid argument",
            "setgid: Invalid argument",
            "cannot set user id: Invalid argument",
            "cannot set group id: Invalid argument",
            "cannot set groups: Invalid argument",
            "Unable to change UID to … temporarily",
            "Unable to change GID to … temporarily",
            "pam_modutil_drop_priv: change_gid failed",
            "pam_modutil_drop_priv: change_uid failed",
            "initgroups: Invalid argument",
            "seteuid … failed - seteuid (22: Invalid argument)",
        ],
        sample: "pam_keyinit(sshd:session): Unable to change GID to 99000 temporarily",
        cause: "A program in the container (su, sshd, a PAM module) tries to become a user or group that is not mapped into the pod, which has the IDs 0 to 65535 by default. Users of a directory service (LDAP, Active Directory) often have larger IDs.",
        fix: "Give such users IDs below 65536 in the container, or raise idsPerPod of the kubelet on a drained node. For an engine in a pod with a smaller mapping, enlarge the image's /etc/subuid and /etc/subgid.",
    }
}

/// Whether a text, which may be a path in quotes, is no path of a device or of a file system of the kernel.
fn is_not_of_the_kernel(path: &str) -> bool {
    let path = path.trim_start_matches(['\'', '"', '`']);
    !["/sys/", "/proc/", "/dev/"].iter().any(|kernels| path.starts_with(kernels))
}

/// Whether a path, perhaps in quotes, can be one of a volume or an image, not of a file system of the kernel.
fn may_be_of_a_volume(path: &str) -> bool {
    let name = path.trim_start_matches(['\'', '"', '`']);
    let is_path = name.starts_with('/') || (!name.is_empty() && !name.contains(char::is_whitespace));
    is_path && is_not_of_the_kernel(path)
}

/// Whether a text is the rest of a program's path, and not the program itself that is executed again.
fn is_program(path: &str) -> bool {
    let is_of_the_kernel = ["dev/", "proc/", "sys/"].iter().any(|kernels| path.starts_with(kernels));
    !path.contains(char::is_whitespace) && !is_of_the_kernel
}

/// Whether a text is the rest of the path of an installed program, not of a file that a shell was to write.
fn is_program_of_shell(path: &str) -> bool {
    const DIRECTORIES: [&str; 3] = ["bin/", "sbin/", "libexec/"];
    let is_installed = DIRECTORIES
        .iter()
        .any(|directory| path.starts_with(directory) || path.contains(&format!("/{directory}")));
    is_installed && !path.contains(char::is_whitespace)
}

/// Whether a path below `/dev` names a device of the host: not the container's own standard streams, terminals and
/// directories, nor what has a message of its own.
fn is_device(name: &str) -> bool {
    const OTHERS: [&str; 10] =
        ["std", "fd/", "pts", "shm", "mqueue", "hugepages", "termination-log", "fuse", "net/tun", "kmsg"];
    // The container's own terminal, but not a serial line of the node (ttyUSB0).
    let is_other = name == "tty" || OTHERS.iter().any(|other| name.starts_with(other));
    !name.contains(char::is_whitespace) && !is_other
}
