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
        says: ["Failed to allocate manager object: Permission denied"],
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
            "Failed to create …control group: No such file or directory",
        ],
        sample: "Failed to create cgroup /system.slice/nginx.service: Permission denied",
        cause: "systemd is PID 1 of the container and cannot create the cgroup of a unit: the container does not own its cgroup, or no longer owns it, or it has no cgroup namespace.",
        fix: "usernsd explain POD shows the cgroup's owner, and what is missing.",
        page: "architecture.md",
    }
    CgroupLimit = "systemd-cgroup-limit" {
        says: [
            "Failed to create cgroup …: Resource temporarily unavailable",
            "Failed to create …control group: Resource temporarily unavailable",
        ],
        sample: "Failed to create cgroup /system.slice/x.service: Resource temporarily unavailable",
        cause: "The pod has reached cgroup.max.descendants or cgroup.max.depth and cannot create more cgroups.",
        fix: "Run systemd-cgls in the container to find out what creates so many. The limits are delegation.limits in usernsd's configuration.",
        page: "runbooks/usernsdcgroupdescendantsnearlimit.md",
    }
    Namespacing = "systemd-service-namespace" {
        says: [
            "Failed to set up mount namespacing",
            "Failed at step NAMESPACE spawning",
            "status=226/NAMESPACE",
        ],
        sample: "nginx.service: Failed at step NAMESPACE spawning /usr/sbin/nginx: Operation not permitted",
        cause: "A service uses settings that need a mount namespace (PrivateTmp, ProtectSystem, ProtectProc, …), and the container is not allowed to set it up: AppArmor forbids mounts, or parts of /proc are masked.",
        fix: "With hostUsers: false, set procMount: Unmasked for the container, and on nodes with AppArmor name a profile that allows mounts, such as usernsd-systemd, or set appArmorProfile.type: Unconfined; or disable the settings with a drop-in for the service.",
        page: "apparmor.md",
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
        cause: "systemctl cannot reach systemd: it is not PID 1 of the container, has not finished starting, or has failed.",
        fix: "Read the container's log from the beginning for systemd's own message. Annotate the pod with usernsd.io/systemd: \"true\".",
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
        says: ["Failed to set up credentials", "Failed at step CREDENTIALS spawning", "status=243/CREDENTIALS"],
        sample: "systemd-journald.service: Failed to set up credentials: Permission denied",
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
        sample: "dbus-broker-launch[51]: ERROR util_audit_drop_permissions @ ../src/util/audit.c +63: Invalid argument",
        cause: "dbus-broker cannot become the user dbus, because it runs in a user namespace without that ID. systemd 258 starts it in a namespace of its own in containers where the manager lacks rights (systemd#39563); or the container's mapping is too small.",
        fix: "Update systemd in the image to a version with the fix of systemd#39563 (258 has the fault), or go back to 257. If cat /proc/self/uid_map in the container shows fewer than 65536 IDs, use hostUsers: false.",
    }
    InvocationId = "systemd-invocation-id" {
        says: ["trusted.invocation_id xattr on …ignoring", "trusted.invocation_id' xattr on …ignoring"],
        sample: "Failed to set 'trusted.invocation_id' xattr on control group /init.scope, ignoring: Operation not permitted",
        cause: "Attributes of the class trusted can be set only by the host's root. systemd uses user.invocation_id instead.",
        fix: "Nothing has to be done: the message is harmless.",
    }
}
