//! containerd: `client`, `core/mount`, `internal/cri`, `pkg/sys`, `plugins/snapshots`.

use super::number;

messages! { Containerd;
    NoIdmap = "containerd-no-idmap" {
        says: ["snapshotter \"…\" doesn't support idmap mounts"],
        sample: "snapshotter \"overlayfs\" doesn't support idmap mounts on this host, configure `slow_chown` to allow a slower and expensive fallback",
        cause: "overlayfs in this kernel, or the file system below it, does not support ID-mapped mounts.",
        fix: "Use Linux 5.19 at least with ext4, xfs or btrfs below /var/lib/containerd; or set slow_chown, which copies the image for every pod.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    Snapshotter = "containerd-snapshotter-no-idmap" {
        says: ["snapshotter \"…\" doesn't support idmap mounts"],
        sample: "snapshotter \"native\" doesn't support idmap mounts on this host, configure `slow_chown` to allow a slower and expensive fallback",
        cause: "The configured snapshotter cannot map IDs, even if the kernel can.",
        fix: "Set snapshotter = \"overlayfs\" in containerd's configuration, also in the table of the runtime. A proxy snapshotter (soci, nydus, stargz) that can map IDs needs the line capabilities = [\"remap-ids\"] in its [proxy_plugins.NAME].",
        page: "runbooks/checks/containerd_snapshotter.md",
        when: |name| name != "overlayfs",
    }
    CgroupV1 = "containerd-cgroup-v1" {
        says: ["`cgroup_writable` is only supported on cgroup v2"],
        sample: "runtime runc: `cgroup_writable` is only supported on cgroup v2",
        cause: "cgroup_writable is set, but the node uses cgroup v1.",
        fix: "Boot with cgroup v2.",
        page: "runbooks/checks/cgroup_v2.md",
    }
    NotMapped = "id-not-mapped" {
        says: ["container ID … cannot be mapped to a host ID"],
        sample: "mount callback failed on …: container ID 172761424 cannot be mapped to a host ID",
        cause: "A file in the image is owned by an ID that is not mapped into the pod, which has the IDs 0 to 65535 by default.",
        fix: "Build the image with owners below 65536 (COPY --chown, or tar with --owner and --group), or raise idsPerPod of the kubelet on a drained node. If the image works on other nodes, compare their snapshotters.",
    }
    OfAnotherPod = "id-of-another-pod" {
        says: ["container ID … cannot be mapped to a host ID"],
        sample: "failed to create containerd container: mount callback failed on /tmp/containerd-mount1: container ID 498008064 cannot be mapped to a host ID",
        cause: "The number is a multiple of 65536, so it is not an owner from the image but the first host ID of a pod. The snapshotter does not map IDs: the owners in the layer were changed for one pod, and cannot be mapped for another.",
        fix: "Write capabilities = [\"remap-ids\"] in the [proxy_plugins.NAME] of the snapshotter (soci, nydus, stargz, GKE image streaming) if this version can map IDs; otherwise use overlayfs. Changing idsPerPod or the image does not help.",
        page: "runbooks/checks/containerd_snapshotter.md",
        when: |id| number(id).is_some_and(|id| id > 0 && id % 65536 == 0),
    }
    MappingTooSmall = "id-mapping-too-small" {
        says: ["container ID … cannot be mapped to a host ID"],
        sample: "error creating an ID-mapped copy of layer \"L\": exit status 1: error during chown: error mapping container ID pair idtools.IDPair{UID:0, GID:42} for \"etc/shadow\" to host: Container ID 42 cannot be mapped to a host ID",
        cause: "Every pod has the IDs below 65536, so the kubelet did not choose this mapping. It belongs to a container engine inside the pod, which often maps a single ID because /etc/subuid and /etc/subgid in its image have no line for its user; or to a pod with the userns-mode annotation and a small size.",
        fix: "Write a range within the pod's IDs into the image's /etc/subuid and /etc/subgid (1001:64535 for user 1000) and run podman system migrate. Instead of the annotation, use hostUsers: false.",
        page: "recipes/container-engine.md",
        when: |id| number(id).is_some_and(|id| id < 65536),
    }
    NoopLastRange = "noop-process" {
        says: ["failed to start noop process for unshare: fork/exec /proc/self/exe: invalid argument"],
        sample: "failed to create network namespace for sandbox: failed to start noop process for unshare: fork/exec /proc/self/exe: invalid argument",
        cause: "The kubelet assigned the last range of the ID space, 4294901760 to 4294967295. The kernel rejects its last ID, and the pod never starts.",
        fix: "Delete the pod; its replacement gets another range. Run usernsd bootstrap, which gives the user kubelet a range that ends earlier.",
        page: "prepare-kubernetes.md",
    }
    NoopDenied = "noop-process-denied" {
        says: [
            "failed to start noop process for unshare: fork/exec /proc/self/exe: operation not permitted",
        ],
        sample: "failed to create network namespace for sandbox \"…\": failed to start noop process for unshare: fork/exec /proc/self/exe: operation not permitted",
        cause: "containerd is not allowed to create the pod's user namespace. This happens when containerd itself runs in a container or user namespace (kind, k3d, LXD, sysbox) that does not have the IDs that the kubelet assigns.",
        fix: "Give the user kubelet a range within the node's own /proc/self/uid_map: usernsd doctor compares them, and usernsd bootstrap writes one that fits. Or give the node more IDs.",
        page: "runbooks/checks/user_namespaces_room.md",
    }
    NoopAgain = "noop-process-limit" {
        says: [
            "failed to start noop process for unshare: fork/exec /proc/self/exe: resource temporarily unavailable",
        ],
        sample: "failed to create network namespace for sandbox \"…\": failed to start noop process for unshare: fork/exec /proc/self/exe: resource temporarily unavailable",
        cause: "containerd cannot start another process: TasksMax of its unit or the user's process limit is reached.",
        fix: "Set TasksMax=infinity and LimitNPROC=infinity in containerd's unit, and restart it.",
    }
    NoPidfd = "containerd-no-pidfd" {
        says: [
            "kernel doesn't support pidfd",
            "kernel doesn't support CLONE_PIDFD",
            "because pidfd isn't supported",
        ],
        sample: "failed to prevent pid reused issue because pidfd isn't supported",
        cause: "containerd needs pidfds to create user namespaces. The kernel is too old for them, or containerd runs under gVisor or a seccomp filter that blocks them.",
        fix: "Use Linux 5.19 at least for pods with hostUsers: false (6.3 for their Secrets and tokens).",
    }
    IdmapInvalid = "containerd-idmapped-mount" {
        says: ["unable to shift GID/UID…: invalid argument"],
        sample: "failed to mount rootfs component: failed to create idmapped mount: unable to shift GID/UID or set mount attrs for /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs: invalid argument",
        cause: "The file system of the snapshotter's directory does not support ID-mapped mounts, or overlayfs in this kernel does not accept mapped layers.",
        fix: "Use Linux 5.19 at least with ext4, xfs or btrfs below /var/lib/containerd. The check idmapped_mounts of usernsd doctor tests it.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    InUserns = "containerd-in-user-namespace" {
        says: ["Running CRI plugin in a user namespace typically requires"],
        sample: "Running CRI plugin in a user namespace typically requires disable_apparmor and restrict_oom_score_adj to be true",
        cause: "containerd itself runs in a user namespace, as in rootless kind or k3s. Pods with hostUsers: false can only get IDs that the node has.",
        fix: "The range of the user kubelet must lie within /proc/self/uid_map of the node: the check user_namespaces_room of usernsd doctor compares them.",
        page: "runbooks/checks/user_namespaces_room.md",
    }
    RuntimeFeatures = "containerd-runtime-features" {
        says: ["failed to validate OCI runtime features"],
        sample: "failed to create containerd task: failed to validate OCI runtime features: runtime info: failed to run [/usr/bin/containerd-shim-runc-v2 -info]: exit status 1",
        cause: "Before it starts a container in a user namespace, containerd asks the OCI runtime for its features. The program of the runtime (BinaryName in its options) could not be run, or does not have the command features.",
        fix: "Set BinaryName in the options of the runtime to runc 1.2 or crun 1.9 or later, and update containerd: 2.0.1 ignores the options here.",
        page: "runbooks/checks/oci_runtime_version.md",
    }
    ImageVolume = "containerd-image-volume" {
        says: [
            "failed to set MOUNT_ATTR_IDMAP on …/image-volumes/…invalid argument",
            "mount_setattr `…/image-volumes/…: Invalid argument",
        ],
        sample: "failed to set MOUNT_ATTR_IDMAP on /run/containerd/io.containerd.grpc.v1.cri/image-volumes/1/2: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
        cause: "The pod has a volume of type image. containerd mounts it as an overlay whose IDs cannot be mapped afterwards; the fix (containerd#12816) maps the layers instead.",
        fix: "Update containerd to a version with that fix (the later releases of 2.1 and 2.2), or copy the files from the image into an emptyDir with an init container.",
        page: "runbooks/checks/idmapped_mounts.md",
    }
    NoHandler = "runtime-no-handler" {
        says: ["no runtime for \"…\" is configured", "RuntimeHandler \"…\" not supported"],
        sample: "failed to get sandbox runtime: no runtime for \"sysbox-runc\" is configured",
        cause: "The pod's runtime class names a handler that the runtime of this node does not have. The second wording comes from Docker with cri-dockerd, which has no handlers at all.",
        fix: "Add the handler to containerd's configuration ([plugins.….containerd.runtimes.NAME]) and restart containerd, or keep such pods to prepared nodes with nodeSelector in the RuntimeClass. With Docker, change the node to containerd or CRI-O.",
    }
    NoCri = "containerd-no-cri" {
        says: [
            "unknown service runtime.v1.RuntimeService",
            "unknown service runtime.v1.ImageService",
            "unknown service runtime.v1alpha2.RuntimeService",
            "failed to load plugin io.containerd.grpc.v1.cri",
            "failed to load plugin\" …io.containerd.grpc.v1.cri",
            "failed to load plugin\" …io.containerd.cri.v1.",
        ],
        sample: "validate CRI v1 runtime API for endpoint \"unix:///run/containerd/containerd.sock\": rpc error: code = Unimplemented desc = unknown service runtime.v1.RuntimeService",
        cause: "containerd runs without its CRI plugin: disabled_plugins names it, as in the file of Docker's package containerd.io, or it could not be loaded, for example because of a default_runtime_name without a table.",
        fix: "The check containerd_config of usernsd doctor shows the line. Take cri out of disabled_plugins, or correct the plugin's error in containerd's log (\"failed to load plugin\"), and restart containerd.",
        page: "runbooks/checks/containerd_config.md",
    }
    NoDefaultRuntime = "containerd-no-default-runtime" {
        says: ["no corresponding runtime configured in …default_runtime_name"],
        sample: "invalid plugin config: no corresponding runtime configured in `containerd.runtimes` for `containerd` `default_runtime_name = \"crun\"`",
        cause: "default_runtime_name in containerd's configuration names a runtime without a table [plugins.….containerd.runtimes.NAME]. The CRI plugin does not load, and the node does not become ready.",
        fix: "Define that runtime, or remove default_runtime_name; then restart containerd.",
        page: "runbooks/checks/containerd_config.md",
    }
    DisabledPluginUri = "containerd-disabled-plugin-uri" {
        says: ["invalid disabled plugin URI \"…\"", "invalid plugin key URI \"…\""],
        sample: "containerd: failed to load TOML from ./disable_cri.toml: invalid disabled plugin URI \"cri\" expect io.containerd.x.vx",
        cause: "disabled_plugins or a table [plugins.NAME] contains the short name of a plugin, which only version 1 of the file allows. containerd does not start.",
        fix: "Write the plugin's full name, io.containerd.grpc.v1.cri for cri. A node of Kubernetes needs that plugin: remove it from disabled_plugins.",
        page: "runbooks/checks/containerd_config.md",
    }
    RegistryMirrors = "containerd-registry-mirrors" {
        says: ["`mirrors` cannot be set when `config_path` is provided"],
        sample: "invalid plugin config: `mirrors` cannot be set when `config_path` is provided",
        cause: "containerd's configuration sets mirrors of registries in both ways, with the old tables registry.mirrors and with the directory config_path; often an imported file has one of them. The CRI plugin does not load.",
        fix: "Move the mirrors into hosts.toml files below config_path and remove the tables registry.mirrors, or remove config_path; then restart containerd.",
    }
    BusyLowerdir = "containerd-idmapped-unmount" {
        says: [
            "failed to unmount temp lowerdir …",
            "failed to unmount idmapped directory …",
        ],
        sample: "level=warning msg=\"failed to unmount temp lowerdir /var/lib/containerd/tmpmounts/ovl-idmapped1999575633/2\" error=\"device or resource busy\"",
        cause: "containerd could not remove the ID-mapped mounts of a container's layers, because they were still in use. Release candidates of containerd 2.0 then deleted the files of the image's layers (containerd#10704); 2.0 and later leave a mount behind.",
        fix: "Update containerd to 2.0.7, 2.1.5 or later, which try again. If files are missing from images, remove these images and pull them again; findmnt | grep ovl-idmapped shows left-over mounts.",
    }
}
