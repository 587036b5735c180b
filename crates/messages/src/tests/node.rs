//! Messages of the kubelet and the runtimes, with which a pod does not start.

use super::{are, found};
use crate::*;

#[test]
fn the_kubelets_start_is_known() {
    are(&[
        (
            "create user namespace manager: kubelet user namespace length 70000 is not a multiple of 65536",
            "kubelet-length-not-multiple",
        ),
        (
            "failed to validate kubelet configuration, error: invalid configuration: userNamespaces.idsPerPod must not be less than 65536, path: &TypeMeta{Kind:,APIVersion:,}",
            "kubelet-length-not-multiple",
        ),
        (
            r#"failed to run Kubelet: failed to create kubelet: create user namespace manager: kubelet mappings: error parsing line "0: kubelet 165536 65536\n1: kubelet 65536 7208960\n": it must contain only one line"#,
            "kubelet-two-lines",
        ),
        (
            r#"failed to run Kubelet: failed to create kubelet: create user namespace manager: kubelet mappings: error retrieving additional uids for user "kubelet": exit status 1"#,
            "kubelet-no-range",
        ),
        (
            r#"create user namespace manager: kubelet mappings: error retrieving additional gids for user "kubelet""#,
            "kubelet-no-range",
        ),
        (r#"create user namespace manager: kubelet mappings: invalid line """#, "kubelet-getsubids-output"),
        (
            r#"create user namespace manager: kubelet mappings: error parsing line "0: kubelet 65536 4294967296\n": strconv.ParseUint: parsing "4294967296": value out of range"#,
            "kubelet-getsubids-output",
        ),
        (
            "create user namespace manager: kubelet mappings: open /etc/passwd: no such file or directory",
            "kubelet-no-passwd",
        ),
        (
            "create user namespace manager: kubelet mappings: open /etc/passwd: permission denied",
            "kubelet-no-passwd",
        ),
        (
            "create user namespace manager: record pod mappings for existing pod \"POD\": different user namespace range already used by pod \"POD\"",
            "kubelet-record-damaged",
        ),
        (
            "user namespace: invalid user namespace configuration: UID 0 must be mapped",
            "kubelet-record-damaged",
        ),
        (
            "user namespace: invalid user namespace configuration: GID and UID mapping should be identical",
            "kubelet-record-damaged",
        ),
        (
            "create user namespace manager: record pod mappings for existing pod \"POD\": invalid user namespace configuration: no more than one mapping allowed.",
            "kubelet-record-damaged",
        ),
    ]);
}

#[test]
fn an_id_that_cannot_be_mapped_is_explained_by_what_it_is() {
    are(&[
        (
            "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to start sandbox \"ID\": failed to create containerd container: mount callback failed on /tmp/containerd-mount1: container ID 498008064 cannot be mapped to a host ID",
            "id-of-another-pod",
        ),
        ("container ID 6553600 cannot be mapped to a host ID", "id-of-another-pod"),
        ("container ID 131072 cannot be mapped to a host ID", "id-of-another-pod"),
        ("container ID 172761424 cannot be mapped to a host ID", "id-not-mapped"),
        ("container ID 65537 cannot be mapped to a host ID", "id-not-mapped"),
        (
            "error creating an ID-mapped copy of layer \"L\": exit status 1: error during chown: error mapping container ID pair idtools.IDPair{UID:0, GID:42} for \"etc/shadow\" to host: Container ID 42 cannot be mapped to a host ID",
            "id-mapping-too-small",
        ),
        ("container ID 65534 cannot be mapped to a host ID", "id-mapping-too-small"),
        ("container ID 0 cannot be mapped to a host ID", "id-mapping-too-small"),
        (
            "failed to update container IO owner: failed to do idmap to get host ID: container ID 1000660000 cannot be mapped to a host ID",
            "user-not-mapped",
        ),
    ]);
    for id in ["id-of-another-pod", "id-not-mapped", "id-mapping-too-small"] {
        let message = all().find(|message| message.id.name() == id).unwrap();
        assert_eq!(message.fix.contains("raise idsPerPod"), id == "id-not-mapped", "{id}");
    }
}

#[test]
fn a_snapshotter_that_is_not_overlayfs_is_the_cause_itself() {
    let line = |name: &str| {
        format!(
            "snapshotter \"{name}\" doesn't support idmap mounts on this host, configure `slow_chown` to …"
        )
    };
    for (name, want) in [
        ("overlayfs", "containerd-no-idmap"),
        ("native", "containerd-snapshotter-no-idmap"),
        ("fuse-overlayfs", "containerd-snapshotter-no-idmap"),
        ("soci", "containerd-snapshotter-no-idmap"),
    ] {
        are(&[(&line(name), want)]);
    }
}

#[test]
fn a_handlers_program_that_is_not_there_is_known() {
    are(&[
        (
            r#"level=fatal msg="validating runtime config: runtime validation: \"runc\" not found in $PATH: exec: \"runc\": executable file not found in $PATH""#,
            "crio-handler-path",
        ),
        (
            r#"level=fatal msg="validating runtime config: runtime validation: invalid runtime_path for runtime 'kata': \"stat /usr/bin/containerd-shim-kata-v2: no such file or directory\"""#,
            "crio-handler-path",
        ),
        (
            r#"Runtime handler "kata" is being ignored due to: invalid runtime_path for runtime 'kata': …"#,
            "crio-handler-is-ignored",
        ),
    ]);
    let message = all().find(|message| message.id == Crio::HandlerPath.id()).unwrap();
    assert!(message.fix.starts_with("Set default_runtime"), "{}", message.fix);
}

#[test]
fn no_space_left_on_device_is_not_the_disk() {
    for line in [
        "failed to create network namespace for sandbox \"ID\": failed to start noop process for unshare: fork/exec /proc/self/exe: no space left on device",
        "user namespaces are not enabled in /proc/sys/user/max_user_namespaces",
        "[pinns:e]: Failed to unshare namespaces: No space left on device",
        "runc create failed: unable to start container process: failed to unshare user namespace: No space left on device",
        "unshare: unshare failed: No space left on device",
        "crun: clone: No space left on device: OCI runtime error",
        "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
        "[rootlesskit:parent] error: failed to start the child: fork/exec /proc/self/exe: no space left on device",
        "[ERROR] /proc/sys/user/max_user_namespaces needs to be set non-zero",
    ] {
        are(&[(line, "no-user-namespaces-left")]);
    }
    let of =
        |errno: &str| format!("failed to start noop process for unshare: fork/exec /proc/self/exe: {errno}");
    are(&[
        (&of("invalid argument"), "noop-process"),
        (&of("operation not permitted"), "noop-process-denied"),
        (&of("resource temporarily unavailable"), "noop-process-limit"),
    ]);
}

#[test]
fn crios_other_wordings_are_known() {
    are(&[
        (
            "Failed to create pod sandbox: rpc error: code = Unknown desc = creating pod sandbox with name \"N\": could not find enough available IDs",
            "crio-not-enough-ids",
        ),
        ("Error: open /proc/0/uid_map: no such file or directory", "crio-lost-mappings"),
        (
            "cannot use uidmapping or gidmapping if running as a UID below minimum mappable ID 1000",
            "crio-minimum-mappable",
        ),
        (
            "cannot use uidmapping or gidmapping if not running as root and minimum mappable ID is not set",
            "crio-minimum-mappable",
        ),
        (
            "not allowed to map UID range (1000-66535), below minimum mappable UID 100000",
            "crio-minimum-mappable",
        ),
        ("cannot use uidmapping or gidmapping if RunAsUser is not set", "crio-run-as-user"),
        (
            "the container needs a user namespace with size 200000 that is bigger than the maximum value allowed with userns=auto 65536",
            "crio-auto-too-large",
        ),
        ("Cannot find mappings for user \"containers\": no such file", "crio-no-subuid"),
        // The node's files, not those of an engine's image.
        (
            "Cannot find mappings for user \"containers\": No subuid ranges found for user \"containers\" in /etc/subuid",
            "crio-no-subuid",
        ),
    ]);
}

#[test]
fn runtimes_at_creation_are_known() {
    are(&[
        (
            "error mounting \"sysfs\" to rootfs at \"/sys\": mount src=sysfs, dst=/sys, dstFd=/proc/thread-self/fd/11, flags=MS_NOSUID|MS_NODEV|MS_NOEXEC: operation not permitted",
            "sysfs-denied",
        ),
        ("crun: mount `sysfs` to `sys`: Operation not permitted: OCI permission denied", "sysfs-denied"),
        (
            "error mounting \"mqueue\" to rootfs at \"/dev/mqueue\": mount src=mqueue, dst=/dev/mqueue, flags=MS_NOSUID: operation not permitted",
            "sysfs-denied",
        ),
        (
            "error mounting \"devpts\" to rootfs at \"/dev/pts\": mount src=devpts, dst=/dev/pts, data=newinstance,gid=5: invalid argument",
            "devpts-invalid",
        ),
        (
            "mounting \"sysfs\" to rootfs \"/var/lib/sysbox/rootfs/X/overlay2/merged\" at \"sys\" caused: mount through procfd: operation not permitted",
            "sysbox-no-user-namespace",
        ),
        (
            "create mountpoint for /var/run/secrets/kubernetes.io/serviceaccount mount: mkdirat /run/containerd/io.containerd.runtime.v2.task/k8s.io/X/rootfs/run/secrets: permission denied",
            "mount-point-denied",
        ),
        (
            "unable to start container process: unable to setup user: setgroups: invalid argument",
            "groups-not-mapped",
        ),
        ("crun: setgroups: Invalid argument", "groups-not-mapped"),
        ("cannot setuid to unmapped uid 1000680000 in user namespace", "user-not-mapped"),
        ("crun: setresuid to `1000680000`: Invalid argument", "user-not-mapped"),
        (
            "failed to mount rootfs component: failed to create idmapped mount: Unable to shift GID/UID for /X: function not implemented",
            "idmapped-mount-no-kernel",
        ),
        (
            "failed to mount rootfs component: failed to prepare idmapped overlay: failed to create idmapped mount: unable to shift GID/UID or set mount attrs for /X: invalid argument",
            "containerd-idmapped-mount",
        ),
        ("crun: mount_setattr `/run/secrets/kubernetes.io/serviceaccount`: Invalid argument", "crun-idmap"),
        (
            "failed to set MOUNT_ATTR_IDMAP on /var/lib/kubelet/pods/1/volumes/x: operation not permitted",
            "idmapped-mount-denied",
        ),
        ("chdir to cwd (\"/data\") set in config.json failed: permission denied", "working-directory-denied"),
    ]);
}

#[test]
fn further_starts_of_the_kubelet_are_known() {
    are(&[
        // NixOS/nixpkgs#440973
        (
            r#"k3s[13954]: time="2025-09-07T15:24:18Z" level=error msg="kubelet exited: failed to run Kubelet: failed to create kubelet: create user namespace manager: kubelet mappings: exec: \"getsubids\": executable file not found in $PATH""#,
            "kubelet-getsubids-not-found",
        ),
        // kubernetes/kubernetes#132966
        (
            r#""command failed" err="failed to run Kubelet: failed to create kubelet: create user namespace manager: record pod mappings: id 626982912 is out of range""#,
            "kubelet-record-out-of-range",
        ),
        (
            r#"E0907 15:24:18.100000 1 run.go:72] "command failed" err="failed to run Kubelet: failed to create kubelet: create user namespace manager: kubelet mappings: error retrieving additional gids for user \"kubelet\": exit status 2""#,
            "kubelet-no-range",
        ),
        (
            "failed to create kubelet: create user namespace manager: kubelet user assigned ID 524288 is not a multiple of 131072",
            "kubelet-start-not-multiple",
        ),
        // kubernetes/kubernetes#126484
        (
            r#"Failed to create pod sandbox: the feature gate "UserNamespacesSupport" is disabled: can't set spec.HostUsers"#,
            "kubelet-gate-off",
        ),
    ]);
}

#[test]
fn namespaces_that_run_out_are_known_in_every_program() {
    are(&[
        (
            "crun: unshare user namespace: No space left on device: OCI runtime error",
            "no-user-namespaces-left",
        ),
        (
            "runsc: creating container: starting sandbox: fork/exec /proc/self/exe: no space left on device",
            "no-user-namespaces-left",
        ),
        // The same step fails for another reason.
        ("crun: unshare user namespace: Operation not permitted: OCI permission denied", "unshare-denied"),
        (
            "crun: unshare user namespace: Invalid argument: OCI runtime error",
            "kernel-without-user-namespaces",
        ),
        (
            "crun: setns to target user namespace `/proc/12/ns/user`: Invalid argument",
            "join-user-namespace-invalid",
        ),
    ]);
    assert_eq!(found("write /var/lib/containerd/x: no space left on device"), None);
}
