//! Lines of AppArmor and SELinux in the kernel's log and in the audit log (`security/apparmor/audit.c`,
//! `security/selinux/avc.c`).

messages! { Kernel;
    ApparmorMount = "apparmor-mount" {
        says: [
            "apparmor=\"DENIED\" operation=\"mount\"",
            "apparmor=\"DENIED\" operation=\"umount\"",
            "apparmor=\"DENIED\" operation=\"pivotroot\"",
        ],
        sample: "audit: type=1400 audit(1628093212.657:352): apparmor=\"DENIED\" operation=\"mount\" info=\"failed flags match\" error=-13 profile=\"lxd-centos8_</var/snap/lxd/common/lxd>\" name=\"/run/systemd/unit-root/dev/\" pid=104514 comm=\"(ostnamed)\" flags=\"ro, nosuid, noexec, remount, strictatime\"",
        cause: "A program (comm) in a container tried to mount, and its AppArmor profile has no rule that allows it. A comm in parentheses is systemd, which sets up a service with PrivateTmp, ProtectSystem or the like. The default profiles of containerd, CRI-O and Docker forbid every mount too, but with a deny rule, whose denials are not logged unless /sys/module/apparmor/parameters/audit is noquiet.",
        fix: "In pods with hostUsers: false, name a profile that allows mounts, such as usernsd-systemd, or set appArmorProfile.type: Unconfined for the container; or remove the service's settings with a drop-in.",
        page: "apparmor.md",
    }
    ApparmorPtrace = "apparmor-ptrace" {
        says: ["apparmor=\"DENIED\" operation=\"ptrace\""],
        sample: "audit: type=1400 audit(1751619291.464:27263984): apparmor=\"DENIED\" operation=\"ptrace\" profile=\"cri-containerd.apparmor.d\" pid=3464912 comm=\"process-agent\" requested_mask=\"read\" denied_mask=\"read\" peer=\"unconfined\"",
        cause: "A program (comm) under an AppArmor profile tried to read another process's namespaces, memory or environment; the default profiles of runtimes permit this only between processes under the same profile.",
        fix: "If comm is usernsd, give its container appArmorProfile.type: Unconfined, as its manifest does, or the profile usernsd-agent. ps and monitoring programs continue without these values.",
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
        cause: "Both processes are in one container, but a second AppArmor profile is stacked on the peer's, because the runtime started the peer in the running container (kubectl exec), or because it is in a user namespace of its own. Linux stacks profiles in this way from 6.17 on (Ubuntu 26.04), and the default profiles of older runtimes have no rule for it (containerd#12886, cri-o#10036). systemd-journald fails in pods.",
        fix: "With hostUsers: false, name a profile that has rules for such peers, such as usernsd-systemd, or set appArmorProfile.type: Unconfined for the container; or update the runtime to a version whose default profile allows them.",
        page: "apparmor.md",
    }
    ApparmorRuntime = "apparmor-signal-of-runtime" {
        says: [
            "apparmor=\"DENIED\" operation=\"signal\" … denied_mask=\"receive\" … peer=\"…runc\"",
            "apparmor=\"DENIED\" operation=\"signal\" … denied_mask=\"receive\" … peer=\"…crun\"",
            "apparmor=\"DENIED\" operation=\"signal\" … denied_mask=\"receive\" … peer=\"podman\"",
            "apparmor=\"DENIED\" operation=\"signal\" … denied_mask=\"receive\" … peer=\"…rootlesskit\"",
        ],
        sample: "kernel: audit: type=1400 audit(1713905126.444:253): apparmor=\"DENIED\" operation=\"signal\" class=\"signal\" profile=\"docker-default\" pid=9289 comm=\"runc\" requested_mask=\"receive\" denied_mask=\"receive\" signal=kill peer=\"runc\"",
        cause: "The runtime (peer) could not signal a container, which therefore does not stop or reload. AppArmor 4 (Ubuntu 23.10 and later) confines runc, crun and podman by profiles of their own, and the container's profile accepts signals of unconfined programs only.",
        fix: "Update the engine: containerd 1.6.32, 1.7.16 and 2.0 and Docker 27 have a profile with rules for these programs. Until then disable the runtime's own profile: aa-disable /usr/sbin/runc.",
        page: "apparmor.md",
    }
    ApparmorUserns = "apparmor-userns" {
        says: [
            "apparmor=\"DENIED\" operation=\"userns_create\"",
            "apparmor=\"AUDIT\" operation=\"userns_create\"",
            "apparmor=\"DENIED\" operation=\"capable\" … profile=\"unprivileged_userns\"",
            "apparmor=\"DENIED\" operation=\"mount\" … profile=\"unprivileged_userns\"",
            "apparmor=\"DENIED\" operation=\"open\" … profile=\"unprivileged_userns\"",
        ],
        sample: "audit: type=1400 audit(1722708589.057:469): apparmor=\"DENIED\" operation=\"capable\" class=\"cap\" profile=\"unprivileged_userns\" pid=2054704 comm=\"nsjail\" capability=6  capname=\"setgid\"",
        cause: "A program without privileges on the node created a user namespace, and AppArmor removes its capabilities there (Ubuntu 23.10 and later: kernel.apparmor_restrict_unprivileged_userns). This does not affect the user namespaces of pods, which the runtime creates as root.",
        fix: "Load an AppArmor profile with the rule userns for that program on the node, as for rootless engines.",
    }
    ApparmorNoProfile = "apparmor-profile-missing" {
        says: ["apparmor=\"DENIED\" operation=\"change_…\" info=\"label not found\""],
        sample: "audit: type=1400 audit(1492091794.691:601): apparmor=\"DENIED\" operation=\"change_profile\" info=\"label not found\" error=-2 profile=\"unconfined\" name=\"lxd-web_</var/lib/lxd>\" pid=19324 comm=\"lxd\"",
        cause: "A program (comm) was to put another one under an AppArmor profile (name) that is not loaded: it was never loaded on this node, or loading it has failed, or it is looked for in the AppArmor namespace of a container that has none.",
        fix: "aa-status lists the loaded profiles. Restart the program that loads this one (LXD, snapd, containerd) and read what it logs then, or load it with apparmor_parser -r FILE.",
        page: "apparmor.md",
    }
    ApparmorOther = "apparmor-denied" {
        says: ["apparmor=\"DENIED\" operation=\""],
        sample: "audit: type=1400 audit(1541596673.929:52): apparmor=\"DENIED\" operation=\"open\" profile=\"snap.rambox.rambox\" name=\"/etc/fstab\" pid=5562 comm=\"rambox\" requested_mask=\"r\" denied_mask=\"r\" fsuid=1000 ouid=0",
        cause: "The AppArmor profile (profile) of a program (comm) forbids an operation (operation), on the object in name.",
        fix: "In a container: if the program needs it, set appArmorProfile.type: Unconfined, with hostUsers: false, or name a profile that allows it. A profile of a program of the node (snap.…, /usr/sbin/…) has nothing to do with pods.",
    }
    SelinuxCgroup = "selinux-cgroup" {
        says: [
            "avc: denied { … tcontext=…:cgroup_t:",
            "avc: denied { … scontext=… tcontext=…:cgroup_t:… tclass=",
        ],
        sample: "type=AVC msg=audit(1539652620.118:1547): avc:  denied  { write } for  pid=17729 comm=\"systemd\" name=\"cgroup.procs\" dev=\"cgroup\" ino=819 scontext=system_u:system_r:container_t:s0:c327,c646 tcontext=system_u:object_r:cgroup_t:s0 tclass=file permissive=0",
        cause: "SELinux forbids a program (comm) to use a cgroup, even if it owns it. If the type in scontext is a container's (container_t), the program runs in a container.",
        fix: "For systemd set seLinuxOptions.type: container_init_t in the container's securityContext, for a container engine container_engine_t; or on the node setsebool -P container_manage_cgroup on. permissive=1 at the end of the line means that nothing was forbidden. For a program of the node, ausearch -m avc -ts recent | audit2why explains the line.",
        page: "selinux.md",
    }
    SelinuxMount = "selinux-mount" {
        says: [
            "avc: denied { mounton }",
            "avc: denied { mount }",
            "avc: denied { remount }",
            "avc: denied { unmount }",
            "avc: denied { mounton } for … scontext=… tcontext=… tclass=",
            "avc: denied { mount } for … scontext=… tcontext=… tclass=",
            "avc: denied { remount } for … scontext=… tcontext=… tclass=",
            "avc: denied { unmount } for … scontext=… tcontext=… tclass=",
        ],
        sample: "type=AVC msg=audit(1502872056.507:8809): avc:  denied  { mounton } for  pid=1800 comm=\"systemd\" path=\"/proc\" dev=\"proc\" ino=1 scontext=system_u:system_r:container_t:s0:c331,c427 tcontext=system_u:object_r:proc_t:s0 tclass=dir permissive=0",
        cause: "SELinux forbids a program (comm) to mount. If the type in scontext is container_t, it runs in a container, and SELinux allows that type no mounts, whatever capabilities the container has.",
        fix: "With hostUsers: false set seLinuxOptions.type: container_engine_t for a container engine, container_init_t for systemd, in the container's securityContext. On OpenShift the SCC nested-container sets it. For a program of the node, ausearch -m avc -ts recent | audit2why explains the line.",
        page: "recipes/container-engine.md",
    }
    SelinuxUserns = "selinux-userns" {
        says: [
            "avc: denied { create } for … tclass=user_namespace",
            "avc: denied { userns_create }",
            "avc: denied { … tclass=cap_userns",
            "avc: denied { … scontext=… tcontext=… tclass=cap_userns",
        ],
        sample: "type=AVC msg=audit(1687430789.136:1239): avc:  denied  { create } for  pid=19907 comm=\"exe\" scontext=system_u:system_r:container_t:s0:c570,c767 tcontext=system_u:system_r:container_t:s0:c570,c767 tclass=user_namespace permissive=0",
        cause: "SELinux forbids a program (comm) to create a user namespace (tclass=user_namespace, from Linux 6.1 on) or to use a capability in one (cap_userns).",
        fix: "In a pod set seLinuxOptions.type: container_engine_t; for a program on the node allow it in the policy (ausearch -m avc -ts recent | audit2allow).",
    }
    SelinuxLabel = "selinux-file" {
        says: [
            "avc: denied { … scontext=…:container_t:…tcontext=",
            "avc: denied { … scontext=…:container_init_t:…tcontext=",
            "avc: denied { … scontext=…:container_engine_t:…tcontext=",
            "avc: denied { … scontext=…:svirt_lxc_net_t:…tcontext=",
            "avc: denied { … scontext=…:spc_t:…tcontext=",
        ],
        sample: "type=AVC msg=audit(1555425280.457:308): avc:  denied  { map } for  pid=7462 comm=\"run.sh\" path=\"/usr/bin/bash\" dev=\"fuse\" ino=26566333 scontext=system_u:system_r:container_t:s0:c442,c952 tcontext=system_u:object_r:fusefs_t:s0 tclass=file permissive=0",
        cause: "SELinux forbids a program (comm) in a container the access in braces to an object with the label tcontext: a file or volume of the host without a container's label, or one of another container (other categories cN,cM). User namespaces and owners do not matter for this.",
        fix: "Use a volume that the kubelet labels (not hostPath), or label the files on the node: semanage fcontext -a -t container_file_t 'PATH(/.*)?' and restorecon -R PATH. Give pods that share a volume the same seLinuxOptions.level. Nothing was forbidden if the line ends with permissive=1.",
    }
    SelinuxOther = "selinux-denied" {
        says: [
            "avc: denied {",
        ],
        sample: "type=AVC msg=audit(1747693292.179:1035): avc:  denied  { read } for  pid=6181 comm=\"pasta.avx2\" name=\"netns\" dev=\"tmpfs\" ino=67 scontext=unconfined_u:unconfined_r:pasta_t:s0-s0:c0.c1023 tcontext=unconfined_u:object_r:user_tmp_t:s0 tclass=dir permissive=0",
        cause: "SELinux forbids a program (comm) the access in braces. scontext is the label of the program, tcontext that of the object.",
        fix: "ausearch -m avc -ts recent | audit2why explains it on the node. Nothing was forbidden if the line ends with permissive=1.",
    }
}
