use std::collections::BTreeSet;

use proptest::prelude::*;

use super::coverage::{SOURCES, Verdict};
use super::*;
use crate::finding::FindingId;
use crate::guard;

/// The identifier of the message that is found in a line.
fn found(line: &str) -> Option<&'static str> {
    recognise(line).map(|found| found.id.name())
}

/// Each line has this message.
fn are(lines: &[(&str, &str)]) {
    for (line, want) in lines {
        assert_eq!(found(line), Some(*want), "{line}");
    }
}

#[test]
fn each_is_recognised_by_what_its_source_prints() {
    for message in all() {
        // Messages with the same wording are distinguished by the parts that differ.
        let is_shared = |text: &str| all().any(|other| other.when.is_some() && other.says.contains(&text));
        let says = message.says.iter().copied().filter(|text| !is_shared(text));
        for text in says.chain([message.sample]) {
            for line in [
                text.to_owned(),
                // As the kubelet's log and a JSON log quote it, once and twice.
                format!(
                    "E1121 11:00:00.000000 1234 pod_workers.go:1] \"Error syncing pod\" err=\"{}\"",
                    text.replace('"', "\\\"")
                ),
                format!("{{\"level\":\"error\",\"msg\":\"{}\"}}", text.replace('"', "\\\\\\\"")),
                format!("2026-11-21T11:00:00.000000000Z stderr F {text}"),
            ] {
                assert_eq!(found(&line), Some(message.id.name()), "{line}");
            }
        }
    }
}

#[test]
fn other_lines_are_not_recognised() {
    for line in [
        "",
        "Failed to start nginx.service: Permission denied",
        "rpc error: code = Unknown desc = context deadline exceeded",
        "mount: /data: permission denied",
        "level=info msg=\"Allowed annotations are specified for workload [io.containers.trace-syscall]\"",
        "E1121 1 kubelet.go:1] \"Failed to start ContainerManager\" err=\"system validation failed\"",
        "open /var/lib/data/file: permission denied",
        "write /var/log/app.log: no space left on device",
        "fork/exec /usr/bin/app: no such file or directory",
        "error: unknown field \"spec.hostNetworks\"",
        "nginx: [emerg] bind() to 0.0.0.0:80 failed (13: Permission denied)",
        "systemd 262 running in system mode (+PAM)",
    ] {
        assert_eq!(found(line), None, "{line}");
    }
}

#[test]
fn other_numbers_and_names_change_nothing() {
    are(&[
        ("record pod mappings: id 626982912 is out of range", "kubelet-record-out-of-range"),
        (
            "can't set `spec.hostUsers: false`, RuntimeClass handler \"kata\" does not support user namespaces",
            "kubelet-handler-unsupported",
        ),
        (
            "failed to set MOUNT_ATTR_IDMAP on /mnt/nfs: invalid argument (maybe the source filesystem doesn't support idmap mounts on this kernel?)",
            "runc-idmap",
        ),
        (
            "validating runtime config: runtime validation: invalid allowed_annotation: cgroup2-mount-hierarchy-rw.crio.io",
            "crio-unknown-annotation",
        ),
        (
            "Failed to create /kubepods.slice/kubepods-podx.slice/crio-1.scope/init.scope control group: Permission denied",
            "systemd-init-scope-denied",
        ),
    ]);
}

#[test]
fn usernsds_own_refusal_is_known() {
    assert_eq!(found(&guard::refusal("prod", "web-0", "nginx")), Some("usernsd-refused"));
}

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
fn refusals_of_the_api_server_are_known() {
    are(&[
        (
            r#"Pod "p" is invalid: spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`"#,
            "api-proc-mount",
        ),
        (r#"Pod "p" is invalid: spec.HostPID: Forbidden: when `hostUsers` is false"#, "api-host-namespaces"),
        (
            r#"Pod "p" is invalid: spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false"#,
            "api-host-namespaces",
        ),
        (
            r#"Pod "p" is invalid: spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false"#,
            "api-volume-devices",
        ),
        (
            r#"Error from server (BadRequest): error when creating "pod.yaml": strict decoding error: unknown field "spec.template.spec.hostUsers""#,
            "api-unknown-field",
        ),
        (r#"Warning: unknown field "spec.containers[0].securityContext.hostUsers""#, "api-misplaced-field"),
        (
            r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
            "pod-security-proc-mount",
        ),
        (
            r#"Warning: would violate PodSecurity "restricted:v1.34": runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true)"#,
            "pod-security-run-as",
        ),
        (
            r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities (container "c" must not include "SYS_ADMIN" in securityContext.capabilities.add)"#,
            "pod-security-capabilities",
        ),
        // The level restricted requires of every container that it adds no capability.
        (
            r#"pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true)"#,
            "pod-security-run-as",
        ),
        (
            r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": hostPath volumes (volume "v")"#,
            "pod-security",
        ),
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
fn engines_in_a_pod_are_known() {
    are(&[
        ("newgidmap: write to gid_map failed: Operation not permitted", "newuidmap"),
        ("newuidmap: write to uid_map failed: Operation not permitted", "newuidmap"),
        ("newuidmap: write to uid_map failed: Invalid argument", "newuidmap-invalid"),
        ("newuidmap: uid range [0-1) -> [1000-1001) not allowed", "newuidmap-not-allowed"),
        ("no subuid ranges found for user \"build\" in /etc/subuid", "no-subordinate-ids"),
        ("no subgid ranges found for group \"build\" in /etc/subgid", "no-subordinate-ids"),
        (
            "processing tar file(potentially insufficient UIDs or GIDs available in user namespace (requested 172761424:0 for /opt/app): Check /etc/subuid and /etc/subgid if configured locally and run \"podman system migrate\": lchown /opt/app: invalid argument): exit status 1",
            "insufficient-ids",
        ),
        ("mkdir: can't create directory '/sys/fs/cgroup/init': Permission denied", "cgroup-denied"),
        ("mkdir /sys/fs/cgroup/libpod_parent: permission denied", "cgroup-denied"),
        ("mkdir: cannot create directory ‘/sys/fs/cgroup/x’: Read-only file system", "cgroup-read-only"),
        ("sh: write error: /sys/fs/cgroup/cgroup.subtree_control: Device or resource busy", "cgroup-busy"),
        (
            "crun: the requested cgroup controller `pids` is not available: OCI runtime error",
            "cgroup-controller",
        ),
        ("crun: mount `proc` to `proc`: Operation not permitted: OCI permission denied", "proc-denied"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "proc-denied"),
        ("cannot clone: Operation not permitted", "unshare-denied"),
        ("unshare: unshare failed: Operation not permitted", "unshare-denied"),
        ("bwrap: setting up uid map: Permission denied", "self-map-denied"),
        ("finding newgidmap: exec: \"newgidmap\": executable file not found in $PATH", "newuidmap-missing"),
        ("level=warning msg=\"Falling back to single mapping\"", "single-mapping"),
        (
            "[rootlesskit:parent] error: failed to setup UID/GID map: newuidmap 41 [0 1000 1] failed: newuidmap: write to uid_map failed: Operation not permitted",
            "newuidmap",
        ),
        ("Error: cannot set up namespace using \"/usr/bin/newuidmap\": exit status 1", "newuidmap"),
        ("crun: clone: Operation not permitted: OCI permission denied", "unshare-denied"),
        (
            "/usr/local/bin/dind: line 59: can't create /sys/fs/cgroup/init/cgroup.procs: Permission denied",
            "cgroup-denied",
        ),
        ("fuse: device not found, try 'modprobe fuse' first", "no-fuse"),
        ("could not find matching subuid and subgids range for user sysbox", "sysbox-subordinate-ids"),
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
fn an_old_systemd_is_behind_what_follows_from_it() {
    let log = "systemd 219 running in system mode. (+PAM +AUDIT)\n\
               Welcome to CentOS Linux 7 (Core)!\n\
               Failed to mount cgroup at /sys/fs/cgroup/systemd: Operation not permitted\n\
               [!!!!!!] Failed to mount API filesystems, freezing.\n";
    let ids = |log: &str| log::read(log).known.iter().map(|found| found.what.id.name()).collect::<Vec<_>>();
    assert_eq!(ids(log), ["systemd-cgroup-v1-only"]);
    let twin = "Failed to create root cgroup hierarchy: Permission denied\n\
                Failed to allocate manager object: Permission denied\n";
    assert_eq!(ids(twin), ["systemd-cgroup-v1-only"]);
    assert_eq!(ids("Failed to allocate manager object: Permission denied"), ["systemd-no-manager"]);
    are(&[
        (
            "Detected cgroup v1 hierarchy at /sys/fs/cgroup/, which is no longer supported",
            "systemd-cgroup-v1-refused",
        ),
        ("Unknown filesystem type 1021994 mounted on /sys/fs/cgroup/.", "systemd-no-cgroup2"),
        ("Failed to create cgroup /system.slice/x.service: Permission denied", "systemd-unit-cgroup"),
        (
            "System has not been booted with systemd as init system (PID 1). Can't operate.",
            "systemd-not-pid-1",
        ),
        ("Couldn't find an alternative telinit implementation to spawn.", "systemd-not-pid-1"),
        (
            "nginx.service: Main process exited, code=exited, status=226/NAMESPACE",
            "systemd-service-namespace",
        ),
    ]);
}

#[test]
fn programs_that_open_their_output_by_name_are_known() {
    for line in [
        "nginx: [alert] could not open error log file: open() \"/dev/stderr\" failed (13: Permission denied)",
        "nginx: [alert] could not open error log file: open() \"/var/log/nginx/error.log\" failed (13: Permission denied)",
        "/bin/sh: can't create /dev/stdout: Permission denied",
        "bash: /dev/stderr: Permission denied",
        "chown: changing ownership of '/dev/stdout': Permission denied",
        "ERROR: failed to open error_log (/proc/self/fd/2): Permission denied (13)",
        "(13)Permission denied: AH00091: httpd: could not open error log file /proc/self/fd/2.",
        "tee: /dev/stdout: Permission denied",
    ] {
        are(&[(line, "stdio-denied")]);
    }
    are(&[
        ("chown: changing ownership of '/data': Invalid argument", "chown-not-mapped"),
        ("chown: changing ownership of '/data': Operation not permitted", "chown-denied"),
        ("sysctl: permission denied on key \"vm.max_map_count\"", "sysctl-denied"),
        ("tar: ./x: Cannot change ownership to uid 197609, gid 197121: Invalid argument", "chown-not-mapped"),
        ("rsync: chown \"/data/x\" failed: Invalid argument (22)", "chown-not-mapped"),
        ("cp: failed to preserve ownership for '/x': Operation not permitted", "chown-denied"),
        ("E: setgroups 65534 failed - setgroups (1: Operation not permitted)", "setgroups-denied"),
        (
            "sudo: effective uid is not 0, is /usr/bin/sudo on a file system with the 'nosuid' option set?",
            "sudo-denied",
        ),
        ("ls: cannot open directory '/data': Value too large for defined data type", "owner-overflow"),
        ("cpio: cap_set_file failed - Operation not permitted", "file-capabilities-denied"),
    ]);
}

#[test]
fn refusals_of_openshift_are_known() {
    are(&[
        (
            r#"pods "p" is forbidden: unable to validate against any security context constraint: [provider "anyuid": Forbidden: not usable by user or serviceaccount, provider restricted-v2: .containers[0].runAsUser: Invalid value: 999: must be in the ranges: [1000680000, 1000689999]]"#,
            "scc-user-range",
        ),
        (
            r#"pods "p" is forbidden: unable to validate against any security context constraint: [provider restricted-v2: .spec.securityContext.fsGroup: Invalid value: []int64{999}: 999 is not an allowed group]"#,
            "scc-group",
        ),
        (r#"provider "nested-container": Forbidden: not usable by user or serviceaccount"#, "scc-not-usable"),
        (r#"provider "privileged": Forbidden: not usable by user or serviceaccount"#, "scc-none-usable"),
        (
            "provider restricted-v3: .spec.hostUsers: Invalid value: null: Host Users must be set to false",
            "scc-host-users",
        ),
        (
            "unable to validate against any security context constraint: [provider nested-container: .containers[0].capabilities.add: Invalid value: \"SYS_ADMIN\": capability may not be added]",
            "scc-capability",
        ),
        ("unable to find annotation openshift.io/sa.scc.uid-range", "scc-no-range"),
        ("unable to find supplemental group or uid annotation for namespace x", "scc-no-range"),
        ("required scc/restricted-v3 does not match the suggested scc/restricted-v2", "scc-required"),
    ]);
    // The range of users alone leaves fsGroup where it was.
    for message in
        Program::Openshift.messages().iter().filter(|message| message.fix.contains("sa.scc.uid-range"))
    {
        assert!(message.fix.contains("openshift.io/sa.scc.supplemental-groups"), "{}", message.id);
    }
}

#[test]
fn reports_from_the_field_are_known() {
    are(&[
        // Runtimes.
        (
            "Error: cannot setns `/proc/556/ns/net`: Operation not permitted: OCI runtime permission denied error",
            "join-namespace-denied",
        ),
        (
            "nsexec-1[42]: failed to setns into net namespace: Operation not permitted",
            "join-namespace-denied",
        ),
        ("crun: setns `/proc/12/ns/ipc`: Operation not permitted", "join-namespace-denied"),
        (
            "container init caused: write sysctl key net.ipv4.ping_group_range: write /proc/sys/net/ipv4/ping_group_range: invalid argument: unknown",
            "ping-group-range",
        ),
        (
            "runc create failed: unable to start container process: error during container init: write /proc/sys/net/ipv4/ping_group_range: invalid argument: unknown",
            "ping-group-range",
        ),
        ("Error: crun: write to `/proc/sys/net/ipv4/ping_group_range`: Invalid argument", "ping-group-range"),
        (
            "crun: write to `/proc/sys/net/ipv4/ping_group_range` (are all the group IDs mapped in the user namespace?): Invalid argument",
            "ping-group-range",
        ),
        (
            "failed to pin namespaces [network]: [pinns:w]: failed to write to /proc/sys/net/ipv4/ping_group_range: Invalid argument",
            "crio-ping-group-range-write",
        ),
        (
            "container init caused: write sysctl key net.ipv4.ip_unprivileged_port_start: write /proc/sys/net/ipv4/ip_unprivileged_port_start: permission denied",
            "pod-sysctl-denied",
        ),
        (
            "runc create failed: unable to start container process: error during container init: open sysctl net.ipv4.ip_unprivileged_port_start file: reopen fd 8: permission denied: unknown",
            "pod-sysctl-denied",
        ),
        ("crun: write to `/proc/sys/net/ipv4/tcp_syncookies`: Permission denied", "pod-sysctl-denied"),
        ("sh: can't create /proc/sys/vm/max_map_count: Permission denied", "sysctl-denied"),
        (
            "container init caused: rootfs_linux.go:47: preparing rootfs caused: permission denied: unknown",
            "directory-not-accessible",
        ),
        (
            "rootfs_linux.go:53: mounting \"/dev/termination-log\" to rootfs \"/rootfs\" caused \"stat /var/lib/kubelet/pods/e01cd144/containers/healthz/2a804743: permission denied\"",
            "directory-not-accessible",
        ),
        (
            "Error: crun: mount `/var/lib/containers/storage/overlay-containers/d0f2/userdata/overlay/3500/merge` to `hello-world`: Permission denied: OCI permission denied",
            "directory-not-accessible",
        ),
        (
            "rootfs_linux.go:147: setting rootfs as readonly caused \"operation not permitted\"",
            "read-only-root-denied",
        ),
        (
            "{\"msg\":\"error executing hook `/usr/bin/nvidia-cdi-hook` (exit code: 1)\",\"level\":\"error\"}",
            "hook-failed",
        ),
        (
            "error running createContainer hook #0: exit status 1, stdout: , stderr: failed to update ldcache: permission denied",
            "hook-failed",
        ),
        (
            "Running hook #0:: error running hook: exit status 1, stdout: , stderr: nvidia-container-cli: ldcache error: process /sbin/ldconfig failed with error code: 1",
            "hook-failed",
        ),
        (
            "could not start /sbin/ldconfig: mount operation failed: /proc: operation not permitted",
            "hook-failed",
        ),
        ("error running startContainer hook #1: fork/exec /opt/hooks/x: permission denied", "hook-denied"),
        (
            "error adding pid 25541 to cgroups: failed to write 25541: open /sys/fs/cgroup/unified/kubepods.slice/x.scope/cgroup.procs: no such file or directory: unknown",
            "cgroup-gone",
        ),
        (
            "failed to mkdirall /var/lib/sysbox/rootfs/9d9b/top/merged/sys/kernel/tracing: operation not permitted",
            "mount-point-in-sysfs",
        ),
        (
            "mounting \"sysfs\" to rootfs \"/run/containerd/io.containerd.runtime.v2.task/k8s.io/e73c/rootfs\" at \"sys\" caused: mount through procfd: operation not permitted",
            "sysbox-no-user-namespace",
        ),
        (
            "starting container process caused \"cannot set uid to unmapped user in user namespace\"",
            "user-not-mapped",
        ),
        (
            "failed to create network namespace for sandbox \"285a\": failed to setup netns: open /var/run/netns/cni-c628: permission denied",
            "network-namespace-denied",
        ),
        (
            "io.containerd.runc.v2: create new shim socket: listen unix /run/containerd/s/8f0e: bind: permission denied",
            "network-namespace-denied",
        ),
        (
            "failed to set MOUNT_ATTR_IDMAP on /run/containerd/io.containerd.grpc.v1.cri/image-volumes/df59/2c91: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
            "containerd-image-volume",
        ),
        (
            "failed to set MOUNT_ATTR_IDMAP on /var/lib/kubelet/pods/1/volumes/kubernetes.io~nfs/image-volumes: invalid argument",
            "runc-idmap",
        ),
        ("Failed to create pod sandbox: RuntimeHandler \"sysbox-runc\" not supported", "runtime-no-handler"),
        ("failed to get sandbox runtime: no runtime for \"kata\" is configured", "runtime-no-handler"),
        // A kubelet in a container.
        (
            "E kubelet.go:1688] \"Failed to start ContainerManager\" err=\"[open /proc/sys/kernel/panic_on_oops: permission denied, open /proc/sys/vm/overcommit_memory: permission denied]\"",
            "kubelet-in-user-namespace",
        ),
        (
            "failed to run Kubelet: failed to create kubelet: open /dev/kmsg: operation not permitted",
            "kubelet-in-user-namespace",
        ),
        (
            "failed to apply oom score -999 to PID 25: write /proc/25/oom_score_adj: permission denied",
            "kubelet-in-user-namespace",
        ),
        ("level=fatal msg=\"failed to find cpuset cgroup (v2)\"", "cgroup-not-delegated"),
        (
            "level=fatal msg=\"failed to evacuate root cgroup: mkdir /sys/fs/cgroup/init: permission denied\"",
            "cgroup-not-delegated",
        ),
        (
            "failed to evacuate root cgroup: mkdir /sys/fs/cgroup/init: read-only file system",
            "cgroup-read-only",
        ),
        // Programs in a pod.
        (
            "[rootlesskit:parent] error: failed to start the child: fork/exec /proc/self/exe: invalid argument",
            "kernel-without-user-namespaces",
        ),
        (
            "[rootlesskit:parent] error: failed to start the child: fork/exec /proc/self/exe: permission denied",
            "unshare-denied",
        ),
        (
            "WARN[0000] [rootlesskit:parent] This error might have happened because /proc/sys/kernel/apparmor_restrict_unprivileged_userns is set to 1  error=\"fork/exec /proc/self/exe: permission denied\"",
            "unshare-denied",
        ),
        (
            "level=warning msg=\"/proc/sys/kernel/unprivileged_userns_clone needs to be set to 1.\"",
            "unshare-denied",
        ),
        ("Error during unshare(CLONE_NEWUSER): Invalid argument", "kernel-without-user-namespaces"),
        ("Error during unshare(CLONE_NEWUSER): Operation not permitted", "unshare-denied"),
        ("enroot-nsenter: failed to create user namespace: Permission denied", "unshare-denied"),
        ("bwrap: Creating new namespace failed: Permission denied", "unshare-denied"),
        ("write(\"/proc/self/uid_map\", ..) => Operation not permitted (os error 1)", "self-map-denied"),
        (
            "[rootlesskit:child ] error: failed to share mount point: /: permission denied",
            "engine-mount-denied",
        ),
        (
            "Error: mount /var/lib/containers/storage/overlay:/var/lib/containers/storage/overlay, flags: 0x1000: operation not permitted",
            "engine-mount-denied",
        ),
        ("mount --make-rshared /var/run/netns failed: \"operation not permitted\"", "engine-mount-denied"),
        (
            "failed to mount /run/user/1000/containerd-mount3852074643: [{Type:bind Source:/x Options:[rbind ro]}]: operation not permitted",
            "engine-mount-denied",
        ),
        ("fuse: mount failed: Permission denied", "engine-mount-denied"),
        ("fusermount3: mount failed: Operation not permitted", "engine-mount-denied"),
        (
            "docker: Error response from daemon: cgroups: cannot find cgroup mount destination: unknown.",
            "docker-cgroup-v1-only",
        ),
        ("cgroups: cgroup mountpoint does not exist: unknown.", "docker-cgroup-v1-only"),
        ("sed: write error", "docker-entry-point"),
        ("sed: couldn't write 1 item to stdout: Device or resource busy", "docker-entry-point"),
        (
            "newuidmap 11 [0 1000 1 1 100000 65536] failed: newuidmap: Could not set caps",
            "newuidmap-no-capability",
        ),
        (
            "newuidmap failed to write mapping \"\": newuidmap 70171 0 1000000 1000000000",
            "newuidmap-not-allowed",
        ),
        (
            "Error: LXD doesn't have a uid/gid allocation. In this mode, only privileged containers are supported.",
            "newuidmap-not-allowed",
        ),
        ("Creating container...error: shared's user has no subuids", "newuidmap-not-allowed"),
        (
            "failed to Lchown \"/opt/bin\" for UID 1185200044, GID 1185200044: lchown /opt/bin: invalid argument (Hint: try increasing the number of subordinate IDs in /etc/subuid and /etc/subgid): unknown",
            "node-ids-insufficient",
        ),
        // AppArmor, in the kernel's log.
        (
            "kernel: [184769.091168] audit: type=1400 audit(1628093212.657:352): apparmor=\"DENIED\" operation=\"mount\" info=\"failed flags match\" error=-13 profile=\"lxd-centos8_</var/snap/lxd/common/lxd>\" name=\"/run/systemd/unit-root/dev/\" pid=104514 comm=\"(ostnamed)\" flags=\"ro, nosuid, noexec, remount, strictatime\"",
            "apparmor-mount",
        ),
        (
            "audit: type=1400 audit(1537817228.528:33270): apparmor=\"DENIED\" operation=\"ptrace\" profile=\"cri-containerd.apparmor.d\" pid=2741 comm=\"ps\" requested_mask=\"trace\" denied_mask=\"trace\" peer=\"unconfined\"",
            "apparmor-ptrace",
        ),
        (
            "audit[1780857]: AVC apparmor=\"DENIED\" operation=\"ptrace\" profile=\"docker-default\" pid=1780857 comm=\"tokio-runtime-w\" requested_mask=\"read\" denied_mask=\"read\" peer=\"unconfined\"",
            "apparmor-ptrace",
        ),
        (
            "kernel: audit: type=1400 audit(1781443408.871:199): apparmor=\"DENIED\" operation=\"signal\" class=\"signal\" profile=\"crio-default\" pid=4076 comm=\"systemd\" requested_mask=\"send\" denied_mask=\"send\" signal=hup peer=\"crio-default//&unconfined\"",
            "apparmor-stacked-peer",
        ),
        (
            "kernel: audit: type=1400 audit(1781443408.952:206): apparmor=\"DENIED\" operation=\"ptrace\" class=\"ptrace\" profile=\"crio-default\" pid=4090 comm=\"(journald)\" requested_mask=\"read\" denied_mask=\"read\" peer=\"crio-default//&unprivileged_userns\"",
            "apparmor-stacked-peer",
        ),
        (
            "[266713.893126] audit: type=1400 audit(1722708589.057:470): apparmor=\"DENIED\" operation=\"mount\" class=\"mount\" info=\"failed mntpnt match\" error=-13 profile=\"unprivileged_userns\" name=\"/\" pid=2054704 comm=\"nsjail\" flags=\"rw, rprivate\"",
            "apparmor-userns",
        ),
        (
            "Nov 22 03:43:37 ken kernel: [23400.926843] audit: type=1400 audit(1511322217.267:80): apparmor=\"DENIED\" operation=\"mknod\" profile=\"snap.openra.ra\" name=\"/dev/shm/mono.20414\" pid=20414 comm=\"mono-sgen\" requested_mask=\"c\" denied_mask=\"c\" fsuid=1001 ouid=1001",
            "apparmor-denied",
        ),
        // systemd and applications.
        (
            "authentik-migrate.service: Failed to set up mount namespacing: /var/lib/private/authentik: Device or resource busy",
            "systemd-idmapped-directory",
        ),
        (
            "x.service: Failed at step NAMESPACE spawning /bin/ln: Device or resource busy",
            "systemd-idmapped-directory",
        ),
        (
            "x.service: Failed at step NAMESPACE spawning /bin/ln: Operation not permitted",
            "systemd-service-namespace",
        ),
        ("sh: can't create /mounted/volume/test: I/O error", "cephfs-idmap"),
        (
            "Error connecting to 127.0.0.6:15002: dial tcp 127.0.0.1:0->127.0.0.6:15002: connect: connection refused",
            "istio-validation",
        ),
        // NRI.
        (
            "failed to connect to NRI service: dial unix /var/run/nri/nri.sock: connect: no such file or directory",
            "nri-no-service",
        ),
        ("failed to register with NRI/Runtime: ttrpc: closed", "nri-registration"),
    ]);
}

#[test]
fn a_cgroup_of_a_v1_controller_is_not_to_be_handed_over() {
    are(&[
        ("mkdir /sys/fs/cgroup/cpuset/docker: permission denied: unknown.", "cgroup-v1-denied"),
        ("err=\"mkdir /sys/fs/cgroup/cpu,cpuacct/kubepods: permission denied\"", "cgroup-v1-denied"),
        ("mkdir: can't create directory '/sys/fs/cgroup/memory/x': Permission denied", "cgroup-v1-denied"),
        // A cgroup of that name.
        ("mkdir /sys/fs/cgroup/memory: permission denied", "cgroup-denied"),
        ("mkdir /sys/fs/cgroup/system.slice/x: permission denied", "cgroup-denied"),
    ]);
}

#[test]
fn a_device_is_told_from_what_a_container_has_of_its_own_in_dev() {
    are(&[
        ("Could not access KVM kernel module: Unable to open /dev/kvm: Permission denied", "device-denied"),
        ("libguestfs: error: could not open /dev/vda: Permission denied", "device-denied"),
        ("MESA: error: Failed to open /dev/dri/renderD128: Permission denied", "device-denied"),
        ("tee: /dev/stdout: Permission denied", "stdio-denied"),
        ("fuse: failed to open /dev/fuse: Permission denied", "no-fuse"),
        ("Failed to open /dev/net/tun: Permission denied", "no-tun"),
    ]);
    assert_eq!(found("touch: cannot touch /dev/shm/x: Permission denied"), None);
    assert_eq!(found("open /dev/pts/0: permission denied"), None);
}

#[test]
fn each_text_of_the_sources_is_known_or_listed() {
    for source in SOURCES {
        assert!(source.versions.len() >= 3, "{}", source.name);
        for text in source.texts() {
            let line = text.printed.unwrap_or(text.text);
            match text.verdict {
                Verdict::Known(message) => {
                    assert_eq!(found(line), Some(message.name()), "{}: {line}", source.name)
                }
                Verdict::Listed(_) => assert_eq!(found(line), None, "{}: {line}", source.name),
            }
        }
    }
}

#[test]
fn a_log_is_read_newest_first() {
    let log = "Nov 21 11:00:00 n1 kubelet[1]: create user namespace: could not find an empty slot to allocate a user namespace\n\
               Nov 21 11:00:01 n1 systemd[1]: Started session.\n\
               Nov 21 11:00:02 n1 crio[2]: not enough unused IDs in user namespace\n\
               Nov 21 11:00:03 n1 kubelet[1]: create user namespace: could not find an empty slot to allocate a user namespace\n\
               Nov 21 11:00:04 n1 x[3]: userns 17 failed: strange\n\
               Nov 21 11:00:05 n1 x[3]: userns 18 failed: strange\n";
    let read = log::read(log);
    let known: Vec<_> = read.known.iter().map(|found| (found.what.id.name(), found.count)).collect();
    assert_eq!(known, [("kubelet-no-slot", 2), ("crio-not-enough-ids", 1)]);
    assert!(read.known[0].line.contains("11:00:03"));
    let unknown: Vec<_> = read.unknown.iter().map(|found| (found.line.as_str(), found.count)).collect();
    assert_eq!(unknown, [("Nov 21 11:00:05 n1 x[3]: userns 18 failed: strange", 2)]);
}

#[test]
fn a_line_that_is_not_known_is_understood_in_part() {
    let of = log::Understood::of;
    let nearest = |line: &str| of(line).nearest.iter().map(|message| message.id.name()).collect::<Vec<_>>();

    let line = "runc create failed: failed to set MOUNT_ATTR_IDMAP on /data: bad address";
    assert_eq!((of(line).program, of(line).step), (Some("runc"), Some(log::Step::MappedMount)));
    // A message with a longer wording of the same words comes after it.
    assert_eq!(nearest(line).first(), Some(&"runc-idmap"), "{:?}", nearest(line));

    let line = "newuidmap: write to uid_map failed: No such process";
    assert_eq!((of(line).program, of(line).step), (Some("newuidmap"), Some(log::Step::Mapping)));
    assert_eq!(nearest(line).first(), Some(&"newuidmap"), "{:?}", nearest(line));

    let line = "kubelet user assigned identifiers 17 are not enough to support all pods";
    assert_eq!(nearest(line).first(), Some(&"kubelet-too-few-ids"), "{:?}", nearest(line));

    // A directory of its name is not the program.
    assert_eq!(of("failed to mount /var/lib/kubelet/pods/1/x: no such device").program, None);

    // A text of the sources that no message stands for.
    let line = "failed to sync with parent: SYNC_USERMAP_ACK: got 17";
    assert_eq!(of(line).listed, Some(("runc", coverage::Reason::Internal)));

    assert!(of("nothing of that kind").is_nothing());
    assert!(of("Started Session 12 of User root.").nearest.is_empty());
}

#[test]
fn the_tables_of_messages_are_complete() {
    let mut ids = BTreeSet::new();
    for message in all() {
        let Message { id, cause, fix, says, .. } = message;
        let id = id.name();
        assert!(ids.insert(id), "{id} twice");
        assert!(
            id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "{id}"
        );
        for sentence in [cause, fix] {
            assert!(sentence.ends_with('.') && !sentence.contains("  "), "{id}: {sentence}");
        }
        for says in *says {
            assert!(!says.starts_with('…') && !says.is_empty(), "{id}: {says}");
        }
    }
    for (effect, cause) in &FOLLOWS {
        let (effect, cause) = (effect.id(), cause.id());
        assert!(follows(effect, &[cause]) && !follows(effect, &[effect]));
    }
    // A finding of that name has no section in docs/errors.md.
    let findings = FindingId::ALL.map(FindingId::name);
    assert!(findings.iter().all(|name| !ids.contains(name)), "{findings:?}");
    assert!(ids.len() >= 140, "{}", ids.len());
}

proptest! {
    #[test]
    fn any_line_is_explained_without_panic(line in any::<String>()) {
        let _ = recognise(&line);
        let _ = log::read(&line);
        let _ = log::Understood::of(&line);
    }
}

/// Lines of public reports; the comment names the report.
#[test]
fn lines_of_public_reports_are_known() {
    are(&[
        // shadow#459
        ("useradd: Can't get unique subordinate UID range", "useradd-no-range"),
        ("useradd: can't create subordinate user IDs", "useradd-no-range"),
        // runc#1740
        (
            r#"container_linux.go:296: starting container process caused "process_linux.go:245: running exec setns process for init caused \"exit status 40\"""#,
            "runc-setns-exit",
        ),
        // buildah#5622
        (
            "ApplyLayer stdout: stderr: remount /, flags: 0x44000: permission denied exit status 1",
            "engine-mount-denied",
        ),
        // containers/storage#156, gvisor#13314
        (
            "error joining user namespace: setns /proc/12/ns/user: invalid argument",
            "join-user-namespace-invalid",
        ),
        // machine-config-operator#2010
        (
            r#"Node master-0 is reporting: "machineconfig.machineconfiguration.openshift.io \"rendered-master-0b1\" not found""#,
            "rendered-config-missing",
        ),
        // kubernetes#131623
        (r#"failed to get runtime handler: the handler "" is not known"#, "kubelet-handler-unknown"),
        // systemd#39563
        ("setresgid(81, 81, 81) = -1 EINVAL (Invalid argument)", "systemd-dbus-broker"),
        // systemd#34809
        ("systemd-journald.service: Failed to set up credentials: Protocol error", "systemd-credentials"),
        // systemd#29526
        (
            "Failed to set 'trusted.invocation_id' xattr on control group /init.scope, ignoring: Operation not permitted",
            "systemd-invocation-id",
        ),
        // containerd#10905
        (
            r#"containerd: failed to load TOML: invalid disabled plugin URI "cri" expect io.containerd.x.vx"#,
            "containerd-disabled-plugin-uri",
        ),
        // containerd#12612
        (
            "invalid plugin config: `mirrors` cannot be set when `config_path` is provided",
            "containerd-registry-mirrors",
        ),
        // containerd#13129
        (
            "failed to create containerd container: open /x/dev/console: no such file or directory",
            "dev-console-missing",
        ),
        // sysbox#130
        (
            "error: unpacking of archive failed on file /usr/bin/x: cpio: chown failed - Operation not permitted",
            "chown-denied",
        ),
        // rootlesskit#269
        ("failed to mount overlay: operation not permitted  storage-driver=overlay2", "overlay-denied"),
        // buildah#3666, containers/storage#967
        (
            "kernel does not support overlay fs: unable to create kernel-style whiteout: operation not permitted",
            "overlay-on-overlay",
        ),
        ("'overlay' is not supported over overlayfs, a mount_program is required", "overlay-on-overlay"),
        // stacker#150
        (
            "error: failed adding idmap entry: {true false 205743 0 1}: Host id is in the range of subids",
            "host-id-in-subordinate-range",
        ),
        // lxc#2764
        ("lxc-usernsexec failed: No such file or directory - Failed to open tty", "lxc-usernsexec"),
        // cri-o#10014
        ("open /var/run/secrets/kubernetes.io/serviceaccount/token: permission denied", "crio-token-denied"),
        (
            "closing plugin 90-usernsd, failed to handle event 4: context deadline exceeded",
            "nri-plugin-closed",
        ),
        (
            "rpc error: code = Unimplemented desc = unknown service runtime.v1.RuntimeService",
            "containerd-no-cri",
        ),
        (
            r#"no corresponding runtime configured in `containerd.runtimes` for `containerd` `default_runtime_name = "crun"`"#,
            "containerd-no-default-runtime",
        ),
    ]);
}

/// Each of these once had the advice of another.
#[test]
fn messages_that_are_alike_have_causes_of_their_own() {
    are(&[
        (
            r#"monitor fields translation: failed to translate monitor fields for runtime crun: exec: "conmon": executable file not found in $PATH"#,
            "crio-conmon-missing",
        ),
        (
            "failed to translate monitor fields for runtime crun: invalid conmon path: stat /usr/bin/conmon: no such file or directory",
            "crio-conmon-missing",
        ),
        (
            "failed to translate monitor fields for runtime crun: conmon cgroup should be 'pod' or a systemd slice",
            "crio-monitor-cgroup",
        ),
        (
            "failed to translate monitor fields for runtime crun: cgroupfs manager conmon cgroup should be 'pod' or empty, but got: 'kube.slice'",
            "crio-monitor-cgroup",
        ),
        (
            "failed to translate monitor fields for runtime crun: parse conmon version: Invalid character(s)",
            "crio-conmon-version",
        ),
        ("failed to translate monitor fields for runtime crun: something new", "crio-monitor-fields"),
        ("Error fetching ranges", "getsubids-no-range"),
        ("kubelet[812]: Error fetching ranges", "kubelet-no-range"),
        (
            r#"error retrieving additional uids for user "kubelet": Error fetching ranges: exit status 1"#,
            "kubelet-no-range",
        ),
        ("chown: changing ownership of '/dev/stdout': Operation not permitted", "stdio-denied"),
        ("chown: /dev/stderr: Operation not permitted", "stdio-denied"),
        ("chown: changing ownership of '/data': Operation not permitted", "chown-denied"),
        (
            r#"Error creating ID mappings: No subuid ranges found for user "dockremap" in /etc/subuid"#,
            "dockremap-subordinate-ids",
        ),
        (r#"No subuid ranges found for user "build" in /etc/subuid"#, "no-subordinate-ids"),
        // Docker's wording, without a hint.
        (
            "failed to register layer: failed to Lchown \"/opt/bin\" for UID 1185200044, GID 1185200044: lchown /opt/bin: invalid argument",
            "node-ids-insufficient",
        ),
    ]);
}
