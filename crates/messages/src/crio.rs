//! CRI-O: `server/sandbox_run_linux.go`, `pkg/config`, `pinns`, and the `storage` library in it.

messages! { Crio;
    LostMappings = "crio-lost-mappings" {
        says: [
            "open /proc/0/uid_map: no such file or directory", "open /proc/0/gid_map: no such file or directory",
            "reading ID mappings from \"/proc/0/uid_map\"",
            "reading ID mappings from \"/proc/0/gid_map\"",
        ],
        sample: "rpc error: code = Unknown desc = reading ID mappings from \"/proc/0/uid_map\": open /proc/0/uid_map: no such file or directory",
        cause: "The pod has CRI-O's userns-mode annotation, and since 1.33 the kubelet sends a user namespace mode for every pod. CRI-O confuses the two.",
        fix: "Use hostUsers: false instead of the annotation, and remove userns-mode from allowed_annotations.",
        page: "prepare-openshift.md",
    }
    UnknownAnnotation = "crio-unknown-annotation" {
        says: ["invalid allowed_annotation: "],
        sample: "workloads validation: invalid allowed_annotation: cgroup2-mount-hierarchy-rw.crio.io",
        cause: "allowed_annotations contains an annotation that this CRI-O does not support (names that end in .crio.io are new in 1.35) or, before 1.29.10, 1.30.7 and 1.31.2, one that is allowed twice. CRI-O does not start, or ignores the handler.",
        fix: "List only annotations that this version supports; usernsd machineconfig --crio-version VERSION prints a valid drop-in.",
        page: "prepare-openshift.md",
    }
    NoActivation = "crio-no-activation" {
        says: ["annotation shouldn't be empty for workload "],
        sample: "workloads validation: annotation shouldn't be empty for workload \"usernsd\"",
        cause: "A workload in CRI-O's configuration has no activation_annotation. CRI-O does not start.",
        fix: "Set activation_annotation to any key; pods with that annotation belong to the workload.",
        page: "prepare-openshift.md",
    }
    UsernsMode = "crio-invalid-userns-mode" {
        says: ["invalid userns mode: "],
        sample: "invalid userns mode: \"host\"",
        cause: "CRI-O does not support this value of the userns-mode annotation.",
        fix: "Use hostUsers: false. Before Kubernetes 1.33 the annotation works with the values auto, auto:size=65536 or private:uidmapping=….",
    }
    NoMappings = "crio-no-mappings" {
        says: ["userns requested but no userns mappings configured"],
        cause: "The userns-mode annotation has the value private without any mappings.",
        fix: "Use hostUsers: false; before Kubernetes 1.33 the annotation works with the value auto:size=65536.",
    }
    NodeMappings = "crio-deprecated-mappings" {
        says: [
            "Configuration options 'uid_mappings' and 'gid_mappings' are deprecated",
        ],
        sample: "Configuration options 'uid_mappings' and 'gid_mappings' are deprecated, and will be replaced with native Kubernetes support for user namespaces in the future",
        cause: "CRI-O's configuration or command line sets one ID mapping for all pods. They share their IDs, so they are not isolated from each other; from Kubernetes 1.33 on the mapping has no effect.",
        fix: "Remove uid_mappings and gid_mappings (--uid-mappings and --gid-mappings in crio.service), and use hostUsers: false.",
        page: "runbooks/checks/crio_mappings.md",
    }
    RunAsUser = "crio-run-as-user" {
        says: ["cannot use uidmapping or gidmapping if RunAsUser is not set"],
        cause: "The userns-mode annotation contains mappings, but the pod sets no user.",
        fix: "Use hostUsers: false. Or set securityContext.runAsUser in the pod, but note that CRI-O then maps that host user into it.",
    }
    NotEnoughIds = "crio-not-enough-ids" {
        says: ["not enough unused IDs in user namespace", "could not find enough available IDs"],
        sample: "creating pod sandbox with name \"…\": not enough unused IDs in user namespace",
        cause: "The ranges of the user containers in /etc/subuid and /etc/subgid are used up, missing, or have a malformed line before them; each pod takes 65536 IDs, so a range of that size is enough for one pod. Or the annotation is auto without a size, and the size was derived from the image. podman --userns=auto reads the same ranges of its own machine or image.",
        fix: "Use hostUsers: false, or before Kubernetes 1.33 the annotation with auto:size=65536. usernsd bootstrap --diff shows missing lines; to enlarge a range, set bootstrap.ranges: [{owner: containers, pods: N}]. Restart CRI-O after changing a range: it reads them only once.",
        page: "prepare-kubernetes.md",
    }
    NoSubuid = "crio-no-subuid" {
        says: [
            "cannot find mappings for user …",
            "cannot find mappings for user …: no subuid ranges found for user",
            "cannot find mappings for user …: no subgid ranges found for user",
            "cannot find mappings for user …: no subgid ranges found for group",
        ],
        sample: "Cannot find mappings for user \"containers\": …",
        cause: "/etc/subuid or /etc/subgid has no line for the user containers.",
        fix: "usernsd bootstrap --diff shows the lines, usernsd bootstrap writes them.",
        page: "prepare-kubernetes.md",
        // The one whose IDs CRI-O gives to pods.
        when: |name| super::begins_with_user(name, "containers"),
    }
    RuntimeTooOld = "crio-runtime-too-old" {
        says: [
            "idmap mounts specified but OCI runtime does not support them",
            "OCI runtime doesn't support idmap mounts",
            "IDMappings specified but runtime does not support them",
        ],
        sample: "idmap mounts specified but OCI runtime does not support them. Perhaps the OCI runtime is too old",
        cause: "The OCI runtime does not support ID-mapped mounts.",
        fix: "Use runc 1.2 or crun 1.9 or later, and the version of CRI-O that ships with it or a later one.",
        page: "runbooks/checks/oci_runtime_version.md",
    }
    Rootfs = "crio-rootfs" {
        says: ["create mapped mount for …/mapped/…: invalid argument", "create mapped mount: invalid argument"],
        sample: "create mapped mount for \"/var/lib/containers/storage/overlay\" on \"/var/lib/containers/storage/overlay/mapped/0\": invalid argument",
        cause: "The file system of /var/lib/containers/storage, or overlayfs in this kernel, does not support ID-mapped mounts.",
        fix: "Use ext4, xfs or btrfs there, and Linux 5.19 or later; RHEL 9.4 has the backport.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    PingGroupRange = "crio-ping-group-range-write" {
        says: ["failed to write to /proc/sys/net/ipv4/ping_group_range: Invalid argument"],
        sample: "failed to pin namespaces [network]: [pinns:w]: failed to write to /proc/sys/net/ipv4/ping_group_range: Invalid argument",
        cause: "The sysctl net.ipv4.ping_group_range, of the pod or of default_sysctls, contains groups that are not mapped into the pod.",
        fix: "Write \"0 65535\". CRI-O accepts \"0 2147483647\" from 1.29.5, 1.30.1 and 1.31.0 on.",
    }
    UnknownHandler = "crio-unknown-handler" {
        says: ["failed to find runtime handler … from runtime list map["],
        sample: "failed to find runtime handler usernsd from runtime list map[crun:0xc0001a2000]",
        cause: "CRI-O reloaded its configuration without a restart: it shows the new handler but does not use it.",
        fix: "Restart CRI-O, but first read about the effects of a restart on running pods.",
        page: "runbooks/usernsdrestartpending.md",
    }
    Reload = "crio-reload" {
        says: ["Unable to reload configuration: "],
        sample: "Unable to reload configuration: …",
        cause: "If CRI-O prints this (crio in the line), a configuration file of CRI-O is invalid: it keeps running, but will not start again.",
        fix: "Fix the file now: crio config prints the same message until it is valid.",
    }
    UnreadableFile = "crio-unreadable-file" {
        says: ["get and merge config from context: …unable to decode configuration"],
        sample: "get and merge config from context: update config from path: walk path: unable to decode configuration …",
        cause: "CRI-O reads every file below /etc/crio/crio.conf.d, whatever its name, and one of them is not valid TOML. CRI-O does not start.",
        fix: "Fix or remove the file; keep backups elsewhere.",
    }
    HandlerPath = "crio-handler-path" {
        says: ["runtime validation: …not found in $PATH", "invalid runtime_path for runtime …"],
        sample: "level=fatal msg=\"validating runtime config: runtime validation: \"runc\" not found in $PATH: exec: \"runc\": executable file not found in $PATH\"",
        cause: "The program of a runtime handler is not installed, or not in CRI-O's PATH. If it belongs to the default handler, CRI-O does not start. OpenShift 4.20 and later no longer ship runc.",
        fix: "Set default_runtime to a handler whose program is installed (CRI-O 1.31 and later: crun); on OpenShift delete the MachineConfig or ContainerRuntimeConfig that sets runc. If a drop-in redefines the handler, its table replaces the original one completely, including runtime_path. Use a workload instead; usernsd machineconfig prints one.",
        page: "prepare-openshift.md",
    }
    HandlerIgnored = "crio-handler-is-ignored" {
        says: ["Runtime handler … is being ignored due to: "],
        sample: "Runtime handler \"usernsd\" is being ignored due to: …",
        cause: "A handler other than the default one has an invalid path or annotation. Pods of its runtime class do not start.",
        fix: "Fix the handler's table, and restart CRI-O.",
    }
    Conmon = "crio-monitor-fields" {
        says: ["failed to translate monitor fields for runtime "],
        sample: "monitor fields translation: failed to translate monitor fields for runtime usernsd: …",
        cause: "The settings of a handler's monitor (monitor_path, monitor_cgroup, conmon, conmon_cgroup) are wrong; the end of the message gives the reason. CRI-O does not start.",
        fix: "The check crio_config of usernsd doctor names the file. Correct the key there, or copy the handler's table from the default one.",
        page: "runbooks/checks/crio_config.md",
    }
    ConmonMissing = "crio-conmon-missing" {
        says: [
            "failed to translate monitor fields for runtime …exec: \"conmon\"",
            "failed to translate monitor fields for runtime …invalid conmon path",
            "conmon validation: …",
        ],
        sample: "monitor fields translation: failed to translate monitor fields for runtime usernsd: exec: \"conmon\": executable file not found in $PATH",
        cause: "CRI-O does not find conmon: a handler has no monitor_path and conmon is not in CRI-O's PATH, or the path is not that of a file. CRI-O does not start.",
        fix: "Copy monitor_path from the default handler, or install conmon.",
    }
    MonitorCgroup = "crio-monitor-cgroup" {
        says: [
            "conmon cgroup should be 'pod' or a systemd slice",
            "cgroupfs manager conmon cgroup should be 'pod' or empty",
        ],
        sample: "monitor fields translation: failed to translate monitor fields for runtime crun: cgroupfs manager conmon cgroup should be 'pod' or empty, but got: 'kube.slice'",
        cause: "conmon_cgroup, which overrides every handler's monitor_cgroup, or monitor_cgroup itself has a value that the cgroup manager does not support: with systemd it must be pod or a slice, with cgroupfs pod or empty. CRI-O does not start.",
        fix: "Write conmon_cgroup = \"pod\", or a name that ends in .slice with cgroup_manager = \"systemd\".",
        page: "runbooks/checks/crio_config.md",
    }
    ConmonVersion = "crio-conmon-version" {
        says: [
            "failed to translate monitor fields for runtime …get conmon version",
            "failed to translate monitor fields for runtime …parse conmon version",
        ],
        sample: "monitor fields translation: failed to translate monitor fields for runtime crun: get conmon version: exit status 127",
        cause: "The program that monitor_path or conmon names cannot be run, or does not print a version of conmon: it is another program, or is built for other libraries. CRI-O does not start.",
        fix: "Run that program with --version; install the conmon that belongs to this CRI-O.",
    }
    TokenDenied = "crio-token-denied" {
        says: ["open /var/run/secrets/kubernetes.io/serviceaccount/token: permission denied"],
        cause: "The process has host IDs that are not those to which the token's volume is mapped. CRI-O before 1.35.6 and 1.37.0 forgets the ID mappings of running pods when it is restarted: containers that start in them later are not mapped (cri-o#10014). Or the container's user is not allowed to read the file, because it belongs to root and the pod sets no fsGroup.",
        fix: "Recreate the pod, and update CRI-O; until then drain the node before a restart of CRI-O. usernsd explain POD shows the mapping. If the container's user is not root, set fsGroup.",
        page: "runbooks/checks/crio_restart.md",
    }
    DefaultRuntime = "crio-default-runtime" {
        says: ["default_runtime set to …but no runtime entry table"],
        sample: "default_runtime set to \"crun\", but no runtime entry table …",
        cause: "default_runtime is set to a handler that is not defined.",
        fix: "Define the handler, or omit default_runtime.",
    }
    DefaultSysctls = "crio-default-sysctls" {
        says: ["invalid default_sysctls: …extra spaces found"],
        sample: "invalid default_sysctls: … extra spaces found",
        cause: "default_sysctls must not have spaces around the equals sign. CRI-O does not start.",
        fix: "Write net.ipv4.ping_group_range=0 2147483647.",
    }
    EventsDropped = "crio-events-dropped" {
        says: ["GenerateCRIEvent: failed to generate event"],
        sample: "GenerateCRIEvent: failed to generate event …",
        cause: "A subscriber to CRI-O's container events reads too slowly, and events are lost.",
        fix: "Nothing has to be done for usernsd: its resync makes up for lost events. Find the slow subscriber.",
    }
    MinimumMappable = "crio-minimum-mappable" {
        says: ["minimum mappable ID", "below minimum mappable UID", "below minimum mappable GID"],
        sample: "cannot use uidmapping or gidmapping if running as a UID below minimum mappable ID 1000",
        cause: "The userns-mode annotation contains mappings to IDs below minimum_mappable_uid or minimum_mappable_gid of [crio.runtime]. If those are not set, only pods that run as root may specify mappings.",
        fix: "Use hostUsers: false instead: the kubelet chooses the IDs. Otherwise start the mappings above that ID, or set minimum_mappable_uid and minimum_mappable_gid.",
    }
    KeepId = "crio-keep-id" {
        says: ["cannot use both keep-id and map-to-root"],
        sample: "cannot use both keep-id and map-to-root: \"auto:keep-id=true;map-to-root=true\"",
        cause: "The userns-mode annotation contains two options that exclude each other.",
        fix: "Remove keep-id or map-to-root; or use hostUsers: false.",
    }
    AutoTooLarge = "crio-auto-too-large" {
        says: ["bigger than the maximum value allowed with userns=auto"],
        sample: "the container needs a user namespace with size 200000 that is bigger than the maximum value allowed with userns=auto 65536",
        cause: "The size of auto, given in the annotation or derived from the owners in the image, exceeds the maximum for one pod.",
        fix: "Use hostUsers: false, or before Kubernetes 1.33 the annotation with auto:size=65536; build the image with owners below 65536.",
    }
    MappingsOverlap = "crio-mappings-overlap" {
        says: ["conflicts with other mappings", "conflict with other mappings"],
        sample: "the specified UID and/or GID mapping [{0 200000 65536}] conflicts with other mappings: …",
        cause: "Mappings in the userns-mode annotation overlap each other or another mapping of the pod.",
        fix: "Use disjoint ranges in uidmapping and gidmapping; or use hostUsers: false.",
    }
    MappingsMalformed = "crio-mappings-malformed" {
        says: ["setting is malformed expected [\"uint32:uint32:uint32\"]", "parsing id map value \""],
        sample: "initializing ID mappings: UID setting is malformed expected [\"uint32:uint32:uint32\"]: [\"0:200000\"]",
        cause: "uid_mappings or gid_mappings in CRI-O's configuration, or a mapping in the annotation, does not have the form CONTAINER-ID:HOST-ID:COUNT.",
        fix: "Remove uid_mappings and gid_mappings from the configuration (they are deprecated and do not isolate pods from each other), and use hostUsers: false.",
    }
    SubidMalformed = "crio-subid-malformed" {
        says: [
            "cannot parse subuid/gid information",
            "conversion failed during subuid/gid parsing of",
            "subuid/gid information: Format not correct",
        ],
        sample: "cannot parse subuid/gid information: Format not correct for /etc/subuid file",
        cause: "A line of /etc/subuid or /etc/subgid does not have the form USER:START:COUNT. The lines after it are ignored.",
        fix: "The check subid_grammar of usernsd doctor shows the line; fix or delete it, and restart CRI-O.",
        page: "runbooks/checks/subid_grammar.md",
    }
    PinnedMappings = "crio-write-mappings" {
        says: ["Cannot write uid mappings: ", "Cannot write gid mappings: "],
        sample: "failed to pin namespaces [user]: [pinns:e]: Cannot write uid mappings: Operation not permitted",
        cause: "The kernel rejected the ID mapping of the pod. Invalid argument: it contains the last ID (4294967295), or an ID twice. Operation not permitted: CRI-O itself runs in a user namespace without these IDs.",
        fix: "usernsd doctor checks for both (subid_terminal_slot, user_namespaces_room). Delete the pod so that it gets another range, and run usernsd bootstrap, which gives the user kubelet a range that ends earlier.",
    }
    HostIdNotMapped = "layer-of-another-mapping" {
        says: [
            "host ID … cannot be mapped to a container ID",
        ],
        sample: "error creating an ID-mapped copy of layer \"L\": error during chown: error mapping host ID pair idtools.IDPair{UID:111000, GID:111000} for \"usr/share\" to container: Host ID 111000 cannot be mapped to a container ID",
        cause: "A layer of the image was copied for the ID mapping of one container, and the engine now copies that copy for a container with another mapping, instead of the original layer. This is a fault of old versions of containers/storage (podman#8259), or another program changed the owners.",
        fix: "Update podman or CRI-O. Remove the image and pull it again, or give containers that share it the same mapping; with ID-mapped mounts (Linux 5.19 or later) layers are not copied.",
    }
}
