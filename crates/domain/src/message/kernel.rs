//! AppArmor's lines in the kernel's log and in the audit log (`security/apparmor/audit.c`).

messages! { Kernel;
    ApparmorMount = "apparmor-mount" {
        says: [
            "apparmor=\"DENIED\" operation=\"mount\"",
            "apparmor=\"DENIED\" operation=\"umount\"",
            "apparmor=\"DENIED\" operation=\"pivotroot\"",
        ],
        sample: "audit: type=1400 audit(1628093212.657:352): apparmor=\"DENIED\" operation=\"mount\" info=\"failed flags match\" error=-13 profile=\"lxd-centos8_</var/snap/lxd/common/lxd>\" name=\"/run/systemd/unit-root/dev/\" pid=104514 comm=\"(ostnamed)\" flags=\"ro, nosuid, noexec, remount, strictatime\"",
        cause: "A program (comm) in a container tried to mount, and its AppArmor profile has no rule that allows it. A comm in parentheses is systemd, which sets up a service with PrivateTmp, ProtectSystem or the like. The default profiles of containerd, CRI-O and Docker forbid every mount too, but by a deny rule, for which the kernel logs nothing unless /sys/module/apparmor/parameters/audit is noquiet.",
        fix: "In pods with hostUsers: false, name a profile that allows mounts, such as usernsd-systemd, or set appArmorProfile.type: Unconfined for the container; or remove the service's settings with a drop-in.",
        page: "apparmor.md",
    }
    ApparmorPtrace = "apparmor-ptrace" {
        says: ["apparmor=\"DENIED\" operation=\"ptrace\""],
        sample: "audit: type=1400 audit(1751619291.464:27263984): apparmor=\"DENIED\" operation=\"ptrace\" profile=\"cri-containerd.apparmor.d\" pid=3464912 comm=\"process-agent\" requested_mask=\"read\" denied_mask=\"read\" peer=\"unconfined\"",
        cause: "A program (comm) under an AppArmor profile tried to read another process's namespaces, memory or environment; a runtime's default profile permits that only among processes under the same profile.",
        fix: "If comm is usernsd, give its container appArmorProfile.type: Unconfined, as its manifest does, or the profile usernsd-agent. ps and monitoring programs go on without what they could not read.",
        page: "apparmor.md",
    }
    ApparmorStacked = "apparmor-stacked-peer" {
        says: [
            "apparmor=\"DENIED\" operation=\"signal\" … peer=\"…//&unconfined\"",
            "apparmor=\"DENIED\" operation=\"signal\" … peer=\"…//&unprivileged_userns\"",
            "apparmor=\"DENIED\" operation=\"ptrace\" … peer=\"…//&unconfined\"",
            "apparmor=\"DENIED\" operation=\"ptrace\" … peer=\"…//&unprivileged_userns\"",
        ],
        sample: "kernel: audit: type=1400 audit(1781443408.952:207): apparmor=\"DENIED\" operation=\"signal\" class=\"signal\" profile=\"crio-default\" pid=4090 comm=\"(journald)\" requested_mask=\"send\" denied_mask=\"send\" signal=kill peer=\"crio-default//&unprivileged_userns\"",
        cause: "Two processes of one container: a second AppArmor profile is stacked on that of the peer, because the runtime started it in the running container (kubectl exec) or because it is in a user namespace of its own. The kernel does so from 6.17 on (Ubuntu 26.04), and default profiles of runtimes from before that have no rule for it (containerd#12886, cri-o#10036). systemd-journald fails in pods.",
        fix: "With hostUsers: false, name a profile that has rules for such peers, such as usernsd-systemd, or set appArmorProfile.type: Unconfined for the container; or update the runtime to a version whose default profile allows them.",
        page: "apparmor.md",
    }
    ApparmorUserns = "apparmor-userns" {
        says: [
            "apparmor=\"DENIED\" operation=\"userns_create\"",
            "apparmor=\"DENIED\" operation=\"capable\" … profile=\"unprivileged_userns\"",
            "apparmor=\"DENIED\" operation=\"mount\" … profile=\"unprivileged_userns\"",
        ],
        sample: "audit: type=1400 audit(1722708589.057:469): apparmor=\"DENIED\" operation=\"capable\" class=\"cap\" profile=\"unprivileged_userns\" pid=2054704 comm=\"nsjail\" capability=6  capname=\"setgid\"",
        cause: "A program made a user namespace without being privileged on the node, and AppArmor leaves it no capabilities there (Ubuntu 23.10 and later: kernel.apparmor_restrict_unprivileged_userns). The user namespaces of pods are made by the runtime, as root, and are not concerned.",
        fix: "Load an AppArmor profile with the rule userns for that program on the node, as for rootless engines.",
    }
    ApparmorOther = "apparmor-denied" {
        says: ["apparmor=\"DENIED\" operation=\""],
        sample: "audit: type=1400 audit(1541596673.929:52): apparmor=\"DENIED\" operation=\"open\" profile=\"snap.rambox.rambox\" name=\"/etc/fstab\" pid=5562 comm=\"rambox\" requested_mask=\"r\" denied_mask=\"r\" fsuid=1000 ouid=0",
        cause: "A program (comm) did what its AppArmor profile (profile) forbids: operation and name show what.",
        fix: "If the program needs it, set appArmorProfile.type: Unconfined for the container, with hostUsers: false, or name a profile that allows it.",
    }
}
