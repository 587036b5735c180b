//! The kubelet: `pkg/kubelet/userns` and `pkg/kubelet/kubelet_pods.go` of Kubernetes.

messages! { Kubelet;
    LengthNotMultiple = "kubelet-length-not-multiple" {
        says: ["kubelet user namespace length … is not a multiple of ", "userNamespaces.idsPerPod must be a multiple of ", "userNamespaces.idsPerPod must not be less than ", "userNamespaces.idsPerPod must not be more than "],
        sample: "failed to validate kubelet configuration, error: invalid configuration: userNamespaces.idsPerPod must be a multiple of 65536, path: &TypeMeta{Kind:,APIVersion:,}",
        cause: "userNamespaces.idsPerPod in the kubelet's configuration is not a multiple of 65536, or is too small or too large. The kubelet does not start.",
        fix: "Set idsPerPod to 65536 or a multiple of it, and start the kubelet again.",
        page: "prepare-kubernetes.md",
    }
    UnknownGate = "kubelet-gate-unknown" {
        says: [
            "unrecognized feature gate: UserNamespaces",
            "unrecognized feature gate: KubeletInUserNamespace",
            "unrecognized feature gate: ProcMountType",
        ],
        sample: "\"Failed to set feature gates from initial flags-based config\" err=\"unrecognized feature gate: KubeletInUserNamespace\"",
        cause: "This kubelet or API server does not have the feature gate, and does not start. It is older than the gate (KubeletInUserNamespace exists from Kubernetes 1.22 on; UserNamespacesSupport from 1.28 on, before that under the name UserNamespacesStatelessPodsSupport), or so new that the gate was removed.",
        fix: "Remove the gate from the flags or the configuration. From 1.33 on, user namespaces for pods need no gate.",
        page: "runbooks/checks/kubelet_gate.md",
    }
    StartNotMultiple = "kubelet-start-not-multiple" {
        says: ["kubelet user assigned ID … is not a multiple of "],
        sample: "create user namespace manager: kubelet user assigned ID 100000 is not a multiple of 65536",
        cause: "The range of the user kubelet in /etc/subuid starts at an ID that is not a multiple of idsPerPod. The kubelet does not start.",
        fix: "usernsd bootstrap --diff shows a range that fits; usernsd bootstrap writes it. Existing pods in user namespaces keep the old range: drain the node first.",
        page: "prepare-kubernetes.md",
    }
    StartTooLow = "kubelet-start-too-low" {
        says: ["kubelet user assigned ID … must be greater or equal to "],
        sample: "create user namespace manager: kubelet user assigned ID 0 must be greater or equal to 65536",
        cause: "The range of the user kubelet overlaps the IDs of the host's own users. The kubelet does not start.",
        fix: "usernsd bootstrap --diff shows a range that fits; usernsd bootstrap writes it.",
        page: "prepare-kubernetes.md",
    }
    CountNotMultiple = "kubelet-count-not-multiple" {
        says: ["kubelet user assigned IDs length … is not a multiple of "],
        sample: "create user namespace manager: kubelet user assigned IDs length 7208961 is not a multiple of 65536",
        cause: "The number of IDs of the user kubelet in /etc/subuid is not a multiple of idsPerPod. The kubelet does not start.",
        fix: "usernsd bootstrap --diff shows a range that fits; usernsd bootstrap writes it.",
        page: "prepare-kubernetes.md",
    }
    TooFewIds = "kubelet-too-few-ids" {
        says: ["kubelet user assigned IDs are not enough to support … pods"],
        sample: "create user namespace manager: kubelet user assigned IDs are not enough to support 110 pods",
        cause: "The range of the user kubelet has room for fewer pods than the kubelet's maxPods. The kubelet does not start.",
        fix: "Give it maxPods times idsPerPod IDs: usernsd bootstrap --diff shows the range, usernsd bootstrap writes it.",
        page: "prepare-kubernetes.md",
    }
    FilesDiffer = "kubelet-files-differ" {
        says: ["kubelet mappings: mismatched subuids and subgids for user "],
        sample: "create user namespace manager: kubelet mappings: mismatched subuids and subgids for user \"kubelet\"",
        cause: "The lines of the user kubelet in /etc/subuid and /etc/subgid are not the same. The kubelet does not start.",
        fix: "Make them the same, byte for byte: usernsd bootstrap --diff, then usernsd bootstrap.",
        page: "prepare-kubernetes.md",
    }
    TwoLines = "kubelet-two-lines" {
        says: ["error parsing line …: it must contain only one line"],
        sample: "create user namespace manager: kubelet mappings: error parsing line \"0: kubelet 165536 65536\\n1: kubelet 65536 7208960\\n\": it must contain only one line",
        cause: "The user kubelet has more than one line in /etc/subuid or /etc/subgid; on many distributions useradd adds one. The kubelet does not start.",
        fix: "Keep one line, the same in both files; if pods in user namespaces are running, the line with their IDs: usernsd bootstrap --diff, then usernsd bootstrap.",
        page: "prepare-kubernetes.md",
    }
    NoRange = "kubelet-no-range" {
        says: ["error retrieving additional uids for user …", "error retrieving additional gids for user …", "kubelet…Error fetching ranges"],
        sample: "create user namespace manager: kubelet mappings: error retrieving additional uids for user \"kubelet\": exit status 1",
        cause: "The user kubelet exists, and getsubids finds no range for it: /etc/subuid (uids) or /etc/subgid (gids) has no line for it, or only one that getsubids ignores (with a carriage return at its end, a negative number, or one of more than 32 bits), or the directory service named in the subid line of /etc/nsswitch.conf does not answer. The kubelet does not start.",
        fix: "Add the lines with usernsd bootstrap, or fix the directory service: getsubids kubelet and getsubids -g kubelet must each print one line. Or remove the user kubelet to get the default range.",
        page: "prepare-kubernetes.md",
    }
    GetsubidsOutput = "kubelet-getsubids-output" {
        says: ["kubelet mappings: invalid line …", "kubelet mappings: error parsing line …: strconv.ParseUint"],
        sample: "create user namespace manager: kubelet mappings: invalid line \"\"",
        cause: "The output of getsubids is not a line of the form 0: kubelet START COUNT. It is empty or different (a wrapper, or another program with that name), or a number does not fit into 32 bits. The kubelet does not start.",
        fix: "Run getsubids kubelet with the PATH of the kubelet's unit, and check which program is run: it must print one line. usernsd bootstrap --diff shows whether the lines in /etc/subuid and /etc/subgid are right.",
        page: "prepare-kubernetes.md",
    }
    NoPasswd = "kubelet-no-passwd" {
        says: ["kubelet mappings: open /etc/passwd: "],
        sample: "create user namespace manager: kubelet mappings: open /etc/passwd: no such file or directory",
        cause: "The kubelet looks up the user kubelet in /etc/passwd, which is missing or unreadable. The kubelet does not start.",
        fix: "Add a world-readable /etc/passwd to the node's image; a line for root is enough.",
        page: "prepare-kubernetes.md",
    }
    NoGetsubids = "kubelet-getsubids-not-found" {
        says: ["kubelet mappings: exec: \"getsubids\": executable file not found in $PATH"],
        sample: "create user namespace manager: kubelet mappings: exec: \"getsubids\": executable file not found in $PATH",
        cause: "The user kubelet exists, so the kubelet runs getsubids to find its range, and that program is not in the PATH of its unit. The kubelet does not start.",
        fix: "Install getsubids (Debian, Ubuntu: uidmap; Fedora: shadow-utils-subid) in a directory of that PATH (NixOS: path = [ pkgs.shadow ] of the unit), or remove the user kubelet to get the default range.",
        page: "prepare-kubernetes.md",
    }
    RecordOutOfRange = "kubelet-record-out-of-range" {
        says: ["record pod mappings…id … is out of range", "user namespace: id … is out of range"],
        sample: "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": id 626982912 is out of range",
        cause: "The kubelet's range was changed, or getsubids or the user kubelet was installed, while the node had pods in user namespaces. Their IDs lie outside the new range, and the kubelet does not start.",
        fix: "Restore the old range, start the kubelet, drain the node, wait until ls /var/lib/kubelet/pods/*/userns finds nothing (the kubelet removes a pod's record some seconds after the pod), and then change the range. If the pod is no longer running, it is enough to delete its directory below /var/lib/kubelet/pods. usernsd bootstrap refuses such a change.",
        page: "prepare-kubernetes.md",
    }
    RecordLength = "kubelet-record-length" {
        says: ["wrong user namespace length …"],
        sample: "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": wrong user namespace length 131072",
        cause: "idsPerPod was changed while the node had pods in user namespaces. The kubelet does not start.",
        fix: "Restore the old idsPerPod, drain the node, and then change it.",
        page: "prepare-kubernetes.md",
    }
    RecordOffset = "kubelet-record-offset" {
        says: ["wrong user namespace offset specified …"],
        sample: "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": wrong user namespace offset specified 200000",
        cause: "The recorded IDs of a pod do not start at a multiple of idsPerPod: idsPerPod or the range was changed while the pod existed. The kubelet does not start.",
        fix: "Restore the old settings, drain the node, and then change them.",
        page: "prepare-kubernetes.md",
    }
    RecordTaken = "kubelet-record-taken" {
        says: ["range picked for pod … already taken"],
        sample: "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": range picked for pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a02\" already taken",
        cause: "Two pods' records below /var/lib/kubelet/pods name the same range. The kubelet does not start.",
        fix: "Two pods must never share IDs: check both with usernsd whois ID, and delete the directory of the pod that no longer exists.",
        page: "runbooks/usernsdidrangeoverlap.md",
    }
    RecordDamaged = "kubelet-record-damaged" {
        says: [
            "invalid user namespace mappings file",
            "invalid user namespace configuration: ",
            "different user namespace range already used by pod …",
        ],
        sample: "create user namespace manager: record pod mappings for existing pod \"6a3c1a0e-58b1-4b57-9d3c-0c1f6f0d9a01\": invalid user namespace configuration: UID 0 must be mapped",
        cause: "The file userns in a pod's directory below /var/lib/kubelet/pods is no longer as the kubelet wrote it: it was edited, truncated or copied from another pod. When the kubelet starts, it exits with this error; if it is already running, the pod does not start.",
        fix: "Stop the pod's sandbox if it is still running (crictl stopp, crictl rmp), delete the pod's directory below /var/lib/kubelet/pods, and start the kubelet. It recreates the pod with other IDs.",
        page: "prepare-kubernetes.md",
    }
    NoSlot = "kubelet-no-slot" {
        says: ["could not find an empty slot to allocate a user namespace"],
        sample: "create user namespace: could not find an empty slot to allocate a user namespace",
        cause: "Every range in the kubelet's pool is in use.",
        fix: "Check the pool with the metric usernsd_id_pool_slots_used; then give the user kubelet more IDs (drain the node first), or run fewer pods on the node.",
        page: "runbooks/usernsdidpoolalmostfull.md",
    }
    RuntimeUnsupported = "kubelet-runtime-unsupported" {
        says: ["can't set `spec.hostUsers: false`, runtime does not support user namespaces"],
        cause: "The container runtime is too old, or its OCI runtime does not support ID-mapped mounts.",
        fix: "Use containerd 2.0 or CRI-O 1.25 at least, with runc 1.2 or crun 1.9 at least.",
        page: "runbooks/checks/cri_userns_handler.md",
    }
    HandlerUnsupported = "kubelet-handler-unsupported" {
        says: ["RuntimeClass handler … does not support user namespaces"],
        sample: "can't set `spec.hostUsers: false`, RuntimeClass handler \"kata\" does not support user namespaces",
        cause: "The runtime class of the pod names a handler without support for user namespaces, such as one that runs virtual machines.",
        fix: "Use another runtime class, or omit hostUsers: a virtual machine already isolates the pod.",
        page: "runbooks/checks/cri_userns_handler.md",
    }
    HandlerUnknown = "kubelet-handler-unknown" {
        says: ["the handler \"…\" is not known"],
        sample: "the handler \"\" is not known",
        cause: "The kubelet asks the runtime which of its handlers support user namespaces, and the runtime has not reported this one (\"\" is the default): it is too old to report handlers (containerd before 2.0, CRI-O before 1.30), or the kubelet has read the runtime's status too early.",
        fix: "Update the runtime. If it is new enough, restart the kubelet after the runtime has started; crictl info shows the handlers.",
        page: "runbooks/checks/cri_userns_handler.md",
    }
    GateOff = "kubelet-gate-off" {
        says: ["the feature gate … is disabled: can't set spec.HostUsers", "the feature gate \"UserNamespacesSupport\" is disabled"],
        sample: "the feature gate \"UserNamespacesSupport\" is disabled: can\'t set spec.HostUsers",
        cause: "The kubelet's feature gate is off. It is on by default from Kubernetes 1.33, and always from 1.36.",
        fix: "Enable UserNamespacesSupport for the kubelet and the API server, or update.",
    }
    NoSysctl = "kubelet-in-user-namespace" {
        says: [
            "Failed to start ContainerManager…/proc/sys/…: permission denied",
            "Failed to start ContainerManager…/proc/sys/…: read-only file system",
            "enable KubeletInUserNamespace feature flag",
            "failed to create kubelet: open /dev/kmsg: permission denied",
            "failed to create kubelet: open /dev/kmsg: operation not permitted",
            "failed to apply oom score …: write /proc/…/oom_score_adj: permission denied",
        ],
        sample: "\"Failed to start ContainerManager\" err=\"[open /proc/sys/kernel/panic_on_oops: permission denied, open /proc/sys/vm/overcommit_memory: permission denied]\"",
        cause: "The kubelet itself runs in a user namespace (rootless kind, k3s or podman, an unprivileged LXC container, a pod with hostUsers: false). There it cannot write sysctls of the whole machine, read /dev/kmsg or lower oom_score_adj.",
        fix: "Enable the kubelet's feature gate KubeletInUserNamespace (k3s: --kubelet-arg feature-gates=KubeletInUserNamespace=true), which makes it continue without them. Set the sysctls that it needs on the machine that runs it.",
    }
    NoKmsg = "kubelet-no-kmsg" {
        says: ["failed to create kubelet: open /dev/kmsg: no such file or directory"],
        cause: "The kubelet reads the kernel's log from /dev/kmsg, and the container that it runs in does not have this device: LXC and Incus do not provide it, and a privileged pod does not have it if the handler sets privileged_without_host_devices.",
        fix: "Give the node's container the device: lxc.mount.entry = /dev/kmsg dev/kmsg none bind,create=file in LXC, --device /dev/kmsg in Docker, privileged_without_host_devices = false for the handler of a privileged pod. In a user namespace the device can be opened but not read: enable the kubelet's feature gate KubeletInUserNamespace too.",
    }
    CgroupV1Refused = "kubelet-cgroup-v1-refused" {
        says: [
            "kubelet is configured to not run on a host using cgroup v1",
            "cgroups v1 support is deprecated and will be removed",
        ],
        sample: "[WARNING SystemVerification]: cgroups v1 support is deprecated and will be removed in a future release.",
        cause: "The node uses cgroup v1. From Kubernetes 1.35 on the kubelet does not start there unless failCgroupV1 is false, and user namespaces of pods with cgroups of their own need v2 in any version.",
        fix: "Boot the node (if it is a container, the machine that runs it) with cgroup v2 (without systemd.unified_cgroup_hierarchy=0); failCgroupV1: false in the kubelet's configuration only postpones it.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    CgroupDriver = "cgroup-driver-mismatch" {
        says: [
            "did not receive slice as parent",
            "cgroup manager, but received systemd slice as parent",
            "invalid systemd path: \"/",
            "for systemd cgroups, got \"/…\" instead",
            "kubelet cgroup driver: …is different from docker cgroup driver",
        ],
        sample: "cri-o configured with systemd cgroup manager, but did not receive slice as parent: /kubepods/besteffort/pod1",
        cause: "The kubelet and the runtime, or the runtime and a program below it, use different cgroup drivers: one names cgroups as paths (cgroupfs), the other as slices of systemd.",
        fix: "Set systemd in both: cgroupDriver: systemd in the kubelet's configuration, SystemdCgroup = true for each handler of containerd, cgroup_manager = \"systemd\" in CRI-O. From Kubernetes 1.34 on a kubelet takes the driver from containerd 2.0 and CRI-O. Then restart both and recreate the pods.",
    }
    CgroupRoot = "kubelet-cgroup-root" {
        says: [
            "invalid configuration: cgroup-root [\"…\"] doesn't exist",
            "invalid configuration: cgroup-root \"…\" doesn't exist",
        ],
        sample: "failed to run Kubelet: invalid configuration: cgroup-root [\"kubelet\"] doesn't exist",
        cause: "The kubelet's cgroupRoot does not exist in its cgroup file system: on a node in a container (kind, minikube) the entry point could not create it, because a controller is missing or the machine mounts cgroup v1 and v2 side by side; otherwise the name is wrong for the cgroup driver.",
        fix: "Boot the machine with cgroup v2 only, under systemd with Delegate=yes for rootless nodes. On an ordinary node remove cgroupRoot (--cgroup-root), or create that cgroup before the kubelet starts.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    RootContainer = "kubelet-root-container" {
        says: [
            "root container [kubepods] doesn't exist",
            "failed to initialize top level QOS containers: ",
        ],
        sample: "\"Failed to start ContainerManager\" err=\"failed to initialize top level QOS containers: root container [kubepods] doesn't exist\"",
        cause: "The kubelet could not create the cgroup of all pods, kubepods, or finds it without a controller that it needs. The line before gives the reason: a controller is not enabled in the node's cgroup, the node mounts cgroup v1 and v2 side by side, or the kubelet runs in a container and does not own its cgroup.",
        fix: "Compare /sys/fs/cgroup/cgroup.controllers with cgroup.subtree_control beside it: cpu, cpuset, memory and pids must be in both files. Boot with cgroup v2 only, and set the cgroup driver systemd in the kubelet and in the runtime.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    Controller = "kubelet-cgroup-controller" {
        says: [
            "openat2 /sys/fs/cgroup/kubepods…: no such file or directory",
            "open /sys/fs/cgroup/kubepods…: no such file or directory",
        ],
        sample: "cgroup manager.Set failed: openat2 /sys/fs/cgroup/kubepods.slice/cpu.weight: no such file or directory",
        cause: "The cgroup of the pods, or of one of them, lacks that controller: it is not enabled in cgroup.subtree_control of a cgroup above it. The kernel does not enable cpu while a process with real-time priority is outside the root cgroup, and a controller that cgroup v1 uses is not available in v2.",
        fix: "cat /sys/fs/cgroup/cgroup.subtree_control on the node shows the enabled controllers; enable the others (echo +cpu >/sys/fs/cgroup/cgroup.subtree_control shows the kernel's reason), and boot with cgroup v2 only.",
        page: "runbooks/checks/cgroup_v2.md",
        when: is_of_a_controller,
    }
    FsGroup = "kubelet-fsgroup" {
        says: [
            "applyFSGroup failed for vol …: permission denied",
            "applyFSGroup failed for vol …: operation not permitted",
        ],
        sample: "applyFSGroup failed for vol nfs#share#pvc-1##: open /var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc-1/mount/raft: permission denied",
        cause: "The kubelet, although it is root of the node, is not allowed to change the group of the volume's files: an NFS server with root_squash treats it as nobody. This has nothing to do with user namespaces, in which NFS volumes cannot be used at all.",
        fix: "Omit fsGroup for this volume and give its files to the pod's user on the server (supplementalGroups adds their group), or set fsGroupPolicy: None in the CSIDriver.",
    }
}

/// Whether the rest of a path to a file of a cgroup ends in one of a controller.
fn is_of_a_controller(path: &str) -> bool {
    const CONTROLLERS: [&str; 6] = ["cpu.", "cpuset.", "hugetlb.", "io.", "memory.", "pids."];
    let file = path.rsplit('/').next().unwrap_or(path);
    CONTROLLERS.iter().any(|controller| file.starts_with(controller))
}
