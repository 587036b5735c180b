//! CRI-O: `server/sandbox_run_linux.go`, `pkg/config`.

use super::{Message, row};

pub(super) const CRIO: &[Message] = &[
    row(
        "crio-lost-mappings",
        "CRI-O",
        &["reading ID mappings from \"/proc/0/uid_map\": open /proc/0/uid_map: no such file or directory"],
        "rpc error: code = Unknown desc = reading ID mappings from \"/proc/0/uid_map\": open /proc/0/uid_map: no such file or directory",
        [
            "The pod has CRI-O's userns-mode annotation, and the kubelet, 1.33 or later, says of every pod which user namespace it is to have. CRI-O follows both, halfway.",
            "Use hostUsers: false instead of the annotation, and take userns-mode out of allowed_annotations.",
        ],
        "prepare-openshift.md",
    ),
    row(
        "crio-unknown-annotation",
        "CRI-O",
        &["invalid allowed_annotation: "],
        "workloads validation: invalid allowed_annotation: cgroup2-mount-hierarchy-rw.crio.io",
        [
            "allowed_annotations names an annotation that this CRI-O does not know (names that end in .crio.io came with 1.35), or, before 1.29.10, 1.30.7 and 1.31.2, one that is allowed twice. CRI-O does not start, or ignores the handler.",
            "Name only what this version knows; usernsd machineconfig --crio-version VERSION prints a drop-in that it takes.",
        ],
        "prepare-openshift.md",
    ),
    row(
        "crio-no-activation",
        "CRI-O",
        &["annotation shouldn't be empty for workload "],
        "workloads validation: annotation shouldn't be empty for workload \"usernsd\"",
        [
            "A workload of CRI-O's configuration has no activation_annotation. CRI-O does not start.",
            "Set activation_annotation to any key; a pod with that key belongs to the workload.",
        ],
        "prepare-openshift.md",
    ),
    row(
        "crio-userns-mode",
        "CRI-O",
        &["invalid userns mode: "],
        "invalid userns mode: \"host\"",
        [
            "The value of the userns-mode annotation is not one that CRI-O knows.",
            "Write auto, auto:size=65536 or private:uidmapping=..., or omit the annotation.",
        ],
        "",
    ),
    row(
        "crio-no-mappings",
        "CRI-O",
        &["userns requested but no userns mappings configured"],
        "userns requested but no userns mappings configured",
        [
            "The userns-mode annotation says private, and names no mappings.",
            "Write auto:size=65536, or use hostUsers: false.",
        ],
        "",
    ),
    row(
        "crio-run-as-user",
        "CRI-O",
        &["cannot use uidmapping or gidmapping if RunAsUser is not set"],
        "cannot use uidmapping or gidmapping if RunAsUser is not set",
        [
            "The userns-mode annotation names mappings, and the pod no user.",
            "Set securityContext.runAsUser of the pod, knowing that CRI-O maps that host user into it; or use hostUsers: false.",
        ],
        "",
    ),
    row(
        "crio-not-enough-ids",
        "CRI-O",
        &["not enough unused IDs in user namespace"],
        "creating pod sandbox with name \"…\": not enough unused IDs in user namespace",
        [
            "The ranges of the user containers in /etc/subuid and /etc/subgid are used up, missing, or have a malformed line before them; or auto without a size took its size from the image.",
            "Write auto:size=65536; usernsd bootstrap --diff shows the lines that are missing. Restart CRI-O when a range was changed: it reads them once.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "crio-no-subuid",
        "CRI-O",
        &["Cannot find mappings for user "],
        "Cannot find mappings for user \"containers\": …",
        [
            "/etc/subuid or /etc/subgid has no line of the user containers.",
            "usernsd bootstrap --diff shows the lines, usernsd bootstrap writes them.",
        ],
        "prepare-kubernetes.md",
    ),
    row(
        "crio-runtime-too-old",
        "CRI-O",
        &["idmap mounts specified but OCI runtime does not support them"],
        "idmap mounts specified but OCI runtime does not support them. Perhaps the OCI runtime is too old",
        ["The OCI runtime cannot map the IDs of mounts.", "Use runc 1.2 or crun 1.9 at the least."],
        "runbooks/checks/oci_runtime_version.md",
    ),
    row(
        "crio-rootfs",
        "CRI-O",
        &["create mapped mount for ", "/mapped/", ": invalid argument"],
        "create mapped mount for \"/var/lib/containers/storage/overlay\" on \"/var/lib/containers/storage/overlay/mapped/0\": invalid argument",
        [
            "The file system below /var/lib/containers/storage, or overlay on this kernel, cannot map IDs.",
            "Use ext4, xfs or btrfs there, and Linux 5.19 at the least; RHEL 9.4 has it too.",
        ],
        "runbooks/checks/idmapped_mounts.md",
    ),
    row(
        "crio-ping-group-range",
        "CRI-O",
        &["failed to write to /proc/sys/net/ipv4/ping_group_range: Invalid argument"],
        "failed to pin namespaces [network]: [pinns:w]: failed to write to /proc/sys/net/ipv4/ping_group_range: Invalid argument",
        [
            "The sysctl net.ipv4.ping_group_range, of the pod or of default_sysctls, names groups that are not mapped into the pod.",
            "Write \"0 65535\". \"0 2147483647\" is taken by CRI-O from 1.29.5, 1.30.1 and 1.31.0 on.",
        ],
        "",
    ),
    row(
        "crio-unknown-handler",
        "CRI-O",
        &["failed to find runtime handler ", " from runtime list map["],
        "failed to find runtime handler usernsd from runtime list map[crun:0xc0001a2000]",
        [
            "CRI-O read its configuration anew without a restart: it shows the new handler, and does not use it.",
            "Restart CRI-O, after reading what that does to running pods.",
        ],
        "runbooks/usernsdrestartpending.md",
    ),
    row(
        "crio-reload",
        "CRI-O",
        &["Unable to reload configuration: "],
        "Unable to reload configuration: …",
        [
            "A file of CRI-O's configuration is wrong. CRI-O runs on; at its next start it will not.",
            "Put the file right now: crio config prints the same message until it is.",
        ],
        "",
    ),
    row(
        "crio-unreadable-file",
        "CRI-O",
        &["get and merge config from context: ", "unable to decode configuration"],
        "get and merge config from context: update config from path: walk path: unable to decode configuration …",
        [
            "CRI-O reads every file below /etc/crio/crio.conf.d, whatever its name, and one is no TOML. It does not start.",
            "Remove or repair the file that is named; keep copies elsewhere.",
        ],
        "",
    ),
    row(
        "crio-handler-path",
        "CRI-O",
        &["runtime validation: ", " not found in $PATH"],
        "validating runtime config: runtime validation: \"mycrun\" not found in $PATH: …",
        [
            "A drop-in names an existing handler and so replaces its whole table, runtime_path included. CRI-O does not start.",
            "Use a workload instead of the handler's table; usernsd machineconfig prints one.",
        ],
        "prepare-openshift.md",
    ),
    row(
        "crio-handler-ignored",
        "CRI-O",
        &["Runtime handler ", " is being ignored due to: "],
        "Runtime handler \"usernsd\" is being ignored due to: …",
        [
            "A handler that is not the default one has a wrong path or annotation. Pods of its runtime class do not start.",
            "Put the handler's table right, and restart CRI-O.",
        ],
        "",
    ),
    row(
        "crio-conmon",
        "CRI-O",
        &["failed to translate monitor fields for runtime "],
        "monitor fields translation: failed to translate monitor fields for runtime usernsd: exec: \"conmon\": …",
        [
            "A handler has no monitor_path, and conmon is not in PATH. CRI-O does not start.",
            "Copy monitor_path from the default handler.",
        ],
        "",
    ),
    row(
        "crio-default-runtime",
        "CRI-O",
        &["default_runtime set to ", "but no runtime entry table"],
        "default_runtime set to \"crun\", but no runtime entry table …",
        [
            "default_runtime names a handler that no file defines.",
            "Define the handler, or omit default_runtime.",
        ],
        "",
    ),
    row(
        "crio-default-sysctls",
        "CRI-O",
        &["invalid default_sysctls: ", "extra spaces found"],
        "invalid default_sysctls: … extra spaces found",
        [
            "default_sysctls takes no blanks around the equals sign. CRI-O does not start.",
            "Write net.ipv4.ping_group_range=0 2147483647.",
        ],
        "",
    ),
    row(
        "crio-events-dropped",
        "CRI-O",
        &["GenerateCRIEvent: failed to generate event"],
        "GenerateCRIEvent: failed to generate event …",
        [
            "A subscriber of CRI-O's container events is slow, and events are lost.",
            "Nothing for usernsd: its resync repairs what it missed. Look for another subscriber.",
        ],
        "",
    ),
];
