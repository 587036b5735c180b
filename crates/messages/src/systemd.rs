//! systemd `src/core` as PID 1 of a container, and `systemctl` in it.

messages! { Systemd;
    InitScopeDenied = "systemd-init-scope-denied" {
        says: ["Failed to create /…init.scope control group: Permission denied"],
        sample: "Failed to create /init.scope control group: Permission denied",
        cause: "systemd is PID 1 of the container, and the container's cgroup is not its own.",
        fix: "Run usernsd on the node, with NRI or its hook; usernsd explain POD shows what is missing.",
        page: "architecture.md",
    }
    InitScopeReadOnly = "systemd-init-scope-read-only" {
        says: ["Failed to create /…init.scope control group: Read-only file system"],
        sample: "Failed to create /init.scope control group: Read-only file system",
        cause: "systemd is PID 1 of the container, and /sys/fs/cgroup is mounted read-only.",
        fix: "Annotate the pod with usernsd.io/systemd: \"true\", where usernsd runs.",
        page: "annotations.md",
    }
    NoManager = "systemd-no-manager" {
        says: [
            "Failed to allocate manager object: Permission denied",
            "Failed to allocate manager object: Operation not permitted",
        ],
        cause: "systemd is PID 1 of the container and cannot create cgroups: the container's cgroup does not belong to it.",
        fix: "Run usernsd on the node, with NRI or its hook; usernsd explain POD shows what is missing.",
        page: "architecture.md",
    }
    NoManagerReadOnly = "systemd-no-manager-read-only" {
        says: ["Failed to allocate manager object: Read-only file system"],
        cause: "systemd is PID 1 of the container, and /sys/fs/cgroup is mounted read-only.",
        fix: "Annotate the pod with usernsd.io/systemd: \"true\", where usernsd runs.",
        page: "annotations.md",
    }
    ApiFilesystems = "systemd-api-filesystems" {
        says: [
            "Failed to mount API filesystems",
            "Failed to mount early API filesystems",
            "Failed to mount tmpfs at /run: ",
            "Failed to mount tmpfs …on /run ",
        ],
        sample: "[!!!!!!] Failed to mount API filesystems.",
        cause: "systemd is PID 1 of the container, and there is no tmpfs on /run, or /sys/fs/cgroup is read-only; or the container has the capability SYS_ADMIN and its AppArmor profile forbids mounts, as the runtimes' default profiles do.",
        fix: "Annotate the pod with usernsd.io/systemd: \"true\", where usernsd runs. With SYS_ADMIN, on nodes with AppArmor, name a profile that allows mounts, such as usernsd-systemd.",
        page: "annotations.md",
    }
    Propagation = "systemd-propagation" {
        says: ["Failed to set up the root directory for shared mount propagation"],
        cause: "systemd assumes a virtual machine, because the environment variable container is not set.",
        fix: "Annotate the pod with usernsd.io/systemd: \"true\", or set the variable: container=oci.",
        page: "annotations.md",
    }
    UnknownUser = "systemd-unknown-user" {
        says: ["Failed to resolve user '…': Unknown user"],
        sample: "Failed to resolve user '200000': Unknown user",
        cause: "The scope's property User= is a number that no service in /etc/nsswitch.conf can resolve (delegation.mechanism: systemd-user).",
        fix: "Install libnss-systemd on the node, with systemd in the line passwd of /etc/nsswitch.conf; or go back to delegation.mechanism: agent.",
        page: "configuration.md",
    }
    CgroupV1Only = "systemd-cgroup-v1-only" {
        says: [
            "Failed to mount cgroup at /sys/fs/cgroup/systemd",
            "Failed to create root cgroup hierarchy",
            "Failed to mount tmpfs at /sys/fs/cgroup:",
        ],
        sample: "Failed to mount cgroup at /sys/fs/cgroup/systemd: Operation not permitted",
        cause: "The systemd in the image supports cgroup v1 only: it is older than 232 (CentOS 7 has 219), or its command line selects v1. It cannot run on a node with cgroup v2, even if it owns its cgroup.",
        fix: "Use an image with a newer systemd (RHEL 8, Debian 10, Ubuntu 18.04 or later), without systemd.unified_cgroup_hierarchy=0; or run the service without systemd.",
    }
    CgroupV1Refused = "systemd-cgroup-v1-refused" {
        says: [
            "Detected cgroup v1 hierarchy at /sys/fs/cgroup/",
            "Detected unsupported legacy cgroup hierarchy",
            "Refusing to run under cgroup v1",
            "Failed to mount cgroup v1 hierarchy",
            "Legacy cgroup v1 configured",
        ],
        sample: "Detected unsupported legacy cgroup hierarchy, refusing execution",
        cause: "The systemd in the image is version 256 or later and needs cgroup v2, but the node uses cgroup v1.",
        fix: "Boot the node with cgroup v2 (without systemd.unified_cgroup_hierarchy=0); usernsd needs it too.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    NoCgroup2 = "systemd-no-cgroup2" {
        says: [
            "Unknown filesystem type … mounted on /sys/fs/cgroup",
            "Failed to statfs /sys/fs/cgroup",
            "Failed to check cgroup hierarchy",
            "Cannot determine cgroup we are running in",
            "Cannot find cgroup mount point: ",
        ],
        sample: "Unknown filesystem type 1021994 mounted on /sys/fs/cgroup/.",
        cause: "systemd is PID 1 of the container, and /sys/fs/cgroup is not a cgroup v2 file system: nothing is mounted there, or a volume or tmpfs covers it.",
        fix: "Remove the pod's mount on /sys/fs/cgroup, and annotate the pod with usernsd.io/systemd: \"true\".",
        page: "annotations.md",
    }
    CgroupOfUnit = "systemd-unit-cgroup" {
        says: [
            "Failed to create cgroup …: Permission denied",
            "Failed to create …control group: Operation not permitted",
            "Failed to create subcgroup …: Permission denied",
            "Failed to adjust control group access: ",
            "Failed to adjust control subgroup access: ",
            "Failed to attach to cgroup …: Permission denied",
            "Failed to attach process … to cgroup …: Permission denied",
        ],
        sample: "Failed to create cgroup /system.slice/nginx.service: Permission denied",
        cause: "systemd is PID 1 of the container and cannot create the cgroup of a unit: the container does not own its cgroup, or no longer owns it, or it has no cgroup namespace.",
        fix: "usernsd explain POD shows the cgroup's owner, and the reason.",
        page: "architecture.md",
    }
    CgroupPath = "systemd-cgroup-path" {
        says: ["Failed to create …control group: No such file or directory"],
        sample: "Failed to create /init.scope control group: No such file or directory",
        cause: "systemd is PID 1 of the container, and its own cgroup (/proc/self/cgroup) is not at that place below /sys/fs/cgroup: the node's /sys/fs/cgroup is mounted over the container's own, or the container has no cgroup namespace.",
        fix: "Remove the volume on /sys/fs/cgroup (docker: no -v /sys/fs/cgroup, and --cgroupns=private), and annotate the pod with usernsd.io/systemd: \"true\".",
        page: "annotations.md",
    }
    CgroupLimit = "systemd-cgroup-limit" {
        says: [
            "Failed to create cgroup …: Resource temporarily unavailable",
            "Failed to create …control group: Resource temporarily unavailable",
        ],
        sample: "Failed to create cgroup /system.slice/x.service: Resource temporarily unavailable",
        cause: "The pod has reached cgroup.max.descendants or cgroup.max.depth and cannot create more cgroups.",
        fix: "Run systemd-cgls in the container to see which units create so many. The limits are delegation.limits in usernsd's configuration.",
        page: "runbooks/usernsdcgroupdescendantsnearlimit.md",
    }
    Namespacing = "systemd-service-namespace" {
        says: [
            "Failed to set up mount namespacing",
            "Failed at step NAMESPACE spawning",
            "status=226/NAMESPACE",
            "code=exited/status=226",
        ],
        sample: "nginx.service: Failed at step NAMESPACE spawning /usr/sbin/nginx: Operation not permitted",
        cause: "A service uses settings that need a mount namespace (PrivateTmp, ProtectSystem, ProtectProc, …), and the container is not allowed to set it up: AppArmor forbids mounts, or parts of /proc are masked.",
        fix: "With hostUsers: false, set procMount: Unmasked for the container, and on nodes with AppArmor name a profile that allows mounts, such as usernsd-systemd, or set appArmorProfile.type: Unconfined; or disable the settings with a drop-in for the service.",
        page: "apparmor.md",
    }
    NamespacePath = "systemd-service-path" {
        says: [
            "Failed to set up mount namespacing: …: No such file or directory",
        ],
        sample: "x.service: Failed to set up mount namespacing: /run/systemd/mount-rootfs/sys/fs/cgroup/system.slice/x.service/memory.pressure: No such file or directory",
        cause: "A path that a setting of the service names (ReadWritePaths=, BindPaths=, InaccessiblePaths=, …) does not exist. For memory.pressure, the kernel runs without pressure stall information; in a container the path can also be on a volume that is missing.",
        fix: "systemctl cat UNIT shows the settings: create the path, or prefix it with a minus sign in a drop-in. For memory.pressure set MemoryPressureWatch=off for the service, or boot the node with psi=1.",
        when: is_not_in_proc,
    }
    OtherNamespace = "systemd-service-other-namespace" {
        says: [
            "Failed to set up network namespacing",
            "Failed to set up IPC namespacing",
            "Failed to set up user namespacing",
            "Failed to set up UTS namespacing",
            "Failed to set up cgroup namespacing",
            "Failed to set up pid namespace",
            "PrivatePIDs=yes is configured, but /proc/ cannot be re-mounted",
            "PrivateUsers= is configured, but user namespace setup not permitted",
            "Failed at step NETWORK spawning",
            "status=225/NETWORK",
            "code=exited/status=225",
        ],
        sample: "systemd-homed.service: Failed to set up network namespacing: Operation not permitted",
        cause: "A service has PrivateNetwork=, PrivateIPC=, PrivateUsers=, ProtectHostname= or PrivatePIDs=, and the container is not allowed to create such a namespace: it lacks SYS_ADMIN in its user namespace, seccomp or AppArmor forbids it, or a limit of the sysctls user.max_*_namespaces is reached (No space left on device).",
        fix: "Disable the setting with a drop-in for the service (PrivateNetwork=no, and so on). Or, with hostUsers: false, add the capability SYS_ADMIN, which applies in the pod only, and on nodes with AppArmor name a profile that allows mounts, such as usernsd-systemd.",
        page: "apparmor.md",
    }
    NoProc = "systemd-service-hidden-proc" {
        says: [
            "Failed to set up user namespacing: No such file or directory",
            "Failed at step USER spawning …: No such file or directory",
        ],
        sample: "(signald)[283]: signald.service: Failed to set up user namespacing: No such file or directory",
        cause: "systemd makes a user namespace for a service (PrivateUsers=, or in a container ProtectProc= and others that imply one) and cannot see /proc/PID/uid_map of the process that writes its mapping: ProtectProc=, ProcSubset= or hidepid hides it, or the service has no /proc. It is not refused by the kernel.",
        fix: "Set ProtectProc=default and ProcSubset=all in a drop-in for the service, or PrivateUsers=no.",
    }
    UserChange = "systemd-user-change" {
        says: [
            "Changing group credentials failed: ",
            "Failed to determine supplementary groups: Invalid argument",
            "Failed to determine supplementary groups: Operation not permitted",
            "Failed at step GROUP spawning …: Operation not permitted",
            "Failed at step GROUP spawning …: Invalid argument",
            "Failed at step USER spawning …: Operation not permitted",
            "Failed at step USER spawning …: Invalid argument",
        ],
        sample: "x.service: Changing group credentials failed: Operation not permitted",
        cause: "systemd cannot become the user or group of a service (User=, Group=, SupplementaryGroups=): the container has dropped SETUID or SETGID (Operation not permitted), or the ID is not mapped into it (Invalid argument).",
        fix: "Keep the capabilities SETUID and SETGID (with hostUsers: false they apply in the pod only), and give the service a user and groups below 65536.",
        page: "recipes/systemd-server.md",
    }
    Capabilities = "systemd-capabilities" {
        says: [
            ".service: Failed to drop capabilities: ",
            ".service: Failed to drop bset capabilities: ",
            "Failed to apply ambient capabilities (",
            "Failed at step CAPABILITIES spawning",
            "status=218/CAPABILITIES",
            "code=exited/status=218",
        ],
        sample: "x.service: Failed at step CAPABILITIES spawning /usr/sbin/x: Operation not permitted",
        cause: "A service has CapabilityBoundingSet= or AmbientCapabilities=, and the container lacks SETPCAP, or one of the capabilities that the service requests.",
        fix: "Do not drop the capabilities of a container with systemd (drop: [ALL]); with hostUsers: false they apply in the pod only. Or empty these settings with a drop-in for the service.",
        page: "recipes/systemd-server.md",
    }
    NotPid1 = "systemd-not-pid-1" {
        says: [
            "System has not been booted with systemd as init system",
            "Couldn't find an alternative telinit implementation to spawn",
            "Trying to run as user instance, but the system has not been booted with systemd",
        ],
        sample: "System has not been booted with systemd as init system (PID 1). Can't operate.",
        cause: "systemctl was called in a container whose first process is not systemd: it was started by a shell or an entry point, or the pod shares a process namespace.",
        fix: "Make /sbin/init the image's command (in exec form, without a shell), do not set shareProcessNamespace, and annotate the pod with usernsd.io/systemd: \"true\".",
        page: "recipes/systemd-server.md",
    }
    NoBus = "systemd-no-bus" {
        says: [
            "Failed to connect to bus: ",
            "Failed to connect to system scope bus",
            "Failed to get D-Bus connection: ",
        ],
        sample: "Failed to connect to bus: No such file or directory",
        cause: "systemctl cannot reach systemd: it is not PID 1 of the container, has not finished starting, or has failed. With systemctl --user, and if the line ends with \"No medium found\", the session has no bus of its user: su, sudo and cron open none.",
        fix: "Read the container's log from the beginning for systemd's own message. Annotate the pod with usernsd.io/systemd: \"true\". For a user of a machine log in with machinectl shell USER@ or ssh, or loginctl enable-linger USER and set XDG_RUNTIME_DIR=/run/user/UID.",
        page: "recipes/systemd-server.md",
    }
    IdmappedDirectory = "systemd-idmapped-directory" {
        says: [
            "Failed to create an id-mapped mount: ",
            "Failed to set up mount namespacing: /var/lib/private/…",
            "Failed to set up mount namespacing: /var/cache/private/…",
            "Failed to set up mount namespacing: /var/log/private/…",
            "Failed at step NAMESPACE spawning …: Device or resource busy",
        ],
        sample: "authentik.service: Failed to set up mount namespacing: /var/lib/private/authentik: Device or resource busy",
        cause: "The service has DynamicUser= with StateDirectory=, CacheDirectory= or LogsDirectory=, whose owners systemd maps with an ID-mapped mount from version 257 on. In this container the directory cannot be mapped: it is a mount that is mapped already, or its file system does not support it.",
        fix: "Disable DynamicUser= with a drop-in for the service and give it a user, or move the directory off the volume.",
    }
    Credentials = "systemd-credentials" {
        says: [
            "Failed to set up credentials",
            "Failed at step CREDENTIALS spawning",
            "status=243/CREDENTIALS",
            "code=exited/status=243",
        ],
        sample: "container-getty@1.service: Failed to set up credentials: Protocol error",
        cause: "systemd mounts a file system for the credentials of a service (LoadCredential=, ImportCredential=; many of its own services have them from version 254 on), and the container is not allowed to mount it: AppArmor forbids mounts.",
        fix: "With hostUsers: false set appArmorProfile.type: Unconfined for the container; usernsd.io/systemd: \"true\" sets up the rest. Or empty ImportCredential= and LoadCredential= with a drop-in for the service.",
        page: "recipes/systemd-server.md",
    }
    DbusBroker = "systemd-dbus-broker" {
        says: [
            "setresgid(…) = -1 EINVAL",
            "dbus-broker…setresgid…Invalid argument",
            "_drop_permissions @ …: Invalid argument",
        ],
        sample: "setresgid(81, 81, 81) = -1 EINVAL.",
        cause: "dbus-broker cannot become the user dbus, because it runs in a user namespace without that ID. systemd 258 starts it in a namespace of its own in containers where the manager lacks rights (systemd#39563); or the container's mapping is too small.",
        fix: "Update systemd in the image to a version with the fix of systemd#39563 (258 has the fault), or go back to 257. If cat /proc/self/uid_map in the container shows fewer than 65536 IDs, use hostUsers: false.",
    }
    InvocationId = "systemd-invocation-id" {
        says: [
            "trusted.invocation_id xattr on …ignoring", "trusted.invocation_id' xattr on …ignoring",
            "Failed to set invocation ID on control group …ignoring",
            "trusted.delegate xattr flag on …ignoring",
            "trusted.delegate' xattr flag on …ignoring",
            "trusted.survive_final_kill_signal' xattr flag on …ignoring",
            "'trusted.…' xattr …ignoring: Operation not permitted",
        ],
        sample: "run-u9.service: Failed to set 'trusted.invocation_id' xattr on control group /system.slice/run-u9.service, ignoring: Operation not permitted",
        cause: "Attributes of the class trusted can be set only by the host's root. systemd uses user.invocation_id instead.",
        fix: "Nothing has to be done: the message is harmless.",
    }
    NamespaceIgnored = "systemd-service-unprotected" {
        says: [
            "Failed to set up namespace, assuming containerized execution",
            "Failed to set up user namespacing for unprivileged user, ignoring",
            "PrivateNetwork=yes is configured, but network namespace setup not permitted, proceeding",
            "PrivateNetwork=yes is configured, but the kernel does not support or we lack privileges",
            "PrivateIPC=yes is configured, but IPC namespace setup failed, ignoring",
            "PrivateIPC=yes is configured, but the kernel does not support IPC namespaces, ignoring",
            "ProtectHostname=…is configured, but UTS namespace setup is prohibited (container manager?)",
            "ProtectHostname=…is configured, but the kernel does not support UTS namespaces, ignoring",
        ],
        sample: "x.service: Failed to set up namespace, assuming containerized execution, ignoring: Permission denied",
        cause: "systemd is not allowed to set up a namespace in this container, so the service runs without PrivateTmp, ProtectSystem, PrivateNetwork and the like.",
        fix: "Nothing has to be done if the pod's own isolation is enough. To have the settings applied, use hostUsers: false with procMount: Unmasked, and on nodes with AppArmor the profile usernsd-systemd.",
        page: "apparmor.md",
    }
    Hybrid = "systemd-hybrid-cgroups" {
        says: [
            "Failed to create compat systemd cgroup",
            "Failed to install release agent",
        ],
        sample: "Failed to create compat systemd cgroup /init.scope: Permission denied",
        cause: "The node uses cgroup v1, alone or beside v2, and the container cannot create cgroups there. systemd continues if it owns its cgroup in v2.",
        fix: "Boot the node with cgroup v2 only (systemd.unified_cgroup_hierarchy=1). If systemd does not start, the next line of its output shows the cause.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    DirectoryDenied = "systemd-directory-denied" {
        says: [
            "Failed to set up special execution directory in …",
            "Failed at step STATE_DIRECTORY spawning",
            "Failed at step RUNTIME_DIRECTORY spawning",
            "Failed at step CACHE_DIRECTORY spawning",
            "Failed at step LOGS_DIRECTORY spawning",
            "Failed at step CONFIGURATION_DIRECTORY spawning",
            "status=238/STATE_DIRECTORY",
            "status=233/RUNTIME_DIRECTORY",
            "status=239/CACHE_DIRECTORY",
            "status=240/LOGS_DIRECTORY",
        ],
        sample: "systemd-logind.service: Failed to set up special execution directory in /var/lib: Permission denied",
        cause: "systemd creates the directories of a service (StateDirectory=, RuntimeDirectory=, …) as the container's root, who is not allowed to: the parent directory is on a volume that belongs to another user or is not ID-mapped, or is read-only.",
        fix: "ls -ldn of the directory in the message shows the owner; 65534 means that it is not mapped. Mount a volume that supports ID mapping (an emptyDir is enough for /run and /var/lib), or change the owner.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    UnitLimit = "systemd-unit-limit" {
        says: [
            "Failed to set '…' attribute on '…' to '…': No such file or directory",
            "Failed to set '…' attribute on '…' to '…': Permission denied",
            "Failed to set '…' attribute on '…' to '…': Read-only file system",
            "Failed to reset devices.allow/devices.deny: ",
        ],
        sample: "system.slice: Failed to set 'pids.max' attribute on '/system.slice' to 'max': No such file or directory",
        cause: "A limit of a unit has no effect in this container: its cgroup lacks that controller (No such file or directory), or the file does not belong to it. The unit starts nevertheless.",
        fix: "cat /sys/fs/cgroup/cgroup.controllers in the container shows its controllers; the runtime enables those that the pod's own limits need. usernsd explain POD shows the cgroup's owner. Or remove the limit from the unit.",
    }
    MountUnit = "systemd-mount-unit" {
        says: [
            ".mount: Mount process exited, code=exited, status=32",
            ".mount mount process exited, code=exited status=32",
            "[FAILED] Failed to mount ",
        ],
        sample: "dev-hugepages.mount mount process exited, code=exited status=32",
        cause: "A unit of the image mounts a file system (hugetlbfs, debugfs, configfs and others) that cannot be mounted in a user namespace, or that the container is not allowed to mount. Newer versions of systemd skip their own units for such file systems there.",
        fix: "Mask the unit in the image: systemctl mask UNIT.mount. If a service needs that file system, mount it as a volume of the pod.",
        page: "recipes/systemd-server.md",
    }
    UnitFailed = "systemd-unit-failed" {
        says: [
            "[FAILED] Failed to start ",
        ],
        sample: "[FAILED] Failed to start systemd-resolved.service - Network Name Resolution.",
        cause: "A service of the container did not start; systemd itself runs. The console does not show the reason.",
        fix: "kubectl exec POD -- journalctl -u UNIT, and pass the line that you find there to usernsd explain --from-log. A status of 226/NAMESPACE or 243/CREDENTIALS means that the container is not allowed to mount.",
        page: "recipes/systemd-server.md",
    }
}

/// Whether a path is not below `/proc`, parts of which are masked in containers.
fn is_not_in_proc(path: &str) -> bool {
    !path.contains("/proc/")
}
