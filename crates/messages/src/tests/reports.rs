//! Lines of public reports.

use super::are;

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

/// Lines of public reports; the comment names the report.
#[test]
fn lines_of_public_reports_are_known() {
    are(&[
        // shadow#289
        ("useradd: Can't get unique subordinate UID range", "useradd-no-range"),
        ("useradd: can't create subordinate user IDs", "useradd-no-range"),
        // runc#1740
        (
            r#"docker: Error response from daemon: OCI runtime create failed: container_linux.go:296: starting container process caused "process_linux.go:301: running exec setns process for init caused \"exit status 40\"": unknown."#,
            "runc-setns-exit",
        ),
        // buildah#5622
        (
            "ApplyLayer stdout:  stderr: remount /, flags: 0x44000: permission denied exit status 1",
            "engine-mount-denied",
        ),
        // containers/storage#156
        ("nsenter: failed to setns to /proc/18624/ns/user: Invalid argument", "join-user-namespace-invalid"),
        // okd#963
        (
            r#"Master:  pool is degraded because nodes fail with "3 nodes are reporting degraded status on sync": "Node control2.ois.lan is reporting: \"machineconfig.machineconfiguration.openshift.io \\\"rendered-master-875b2cd14b3f0c5149589aff3d6e400d\\\" not found\""#,
            "rendered-config-missing",
        ),
        // kubernetes#131623
        (
            r#"  Warning  FailedCreatePodSandBox  1s    kubelet            Failed to create pod sandbox: the handler "" is not known"#,
            "kubelet-handler-unknown",
        ),
        // systemd#39563
        ("setresgid(81, 81, 81) = -1 EINVAL.", "systemd-dbus-broker"),
        // nixpkgs#258371, lx-images#48
        ("container-getty@1.service: Failed to set up credentials: Protocol error", "systemd-credentials"),
        (
            "container-getty@1.service: Failed at step CREDENTIALS spawning /sbin/agetty: Protocol error",
            "systemd-credentials",
        ),
        (
            "systemd-tmpfiles-setup-dev-early.service: Failed to set up credentials: Invalid argument",
            "systemd-credentials",
        ),
        // systemd#29526
        (
            "run-u9.service: Failed to set 'trusted.invocation_id' xattr on control group /system.slice/run-u9.service, ignoring: Operation not permitted",
            "systemd-invocation-id",
        ),
        // containerd#10905, kata-containers#4124
        (
            r#"containerd: failed to load TOML from ./disable_cri.toml: invalid disabled plugin URI "cri" expect io.containerd.x.vx"#,
            "containerd-disabled-plugin-uri",
        ),
        (r#"invalid plugin key URI "cri" expect io.containerd.x.vx"#, "containerd-disabled-plugin-uri"),
        // containerd#5306
        (
            r#"failed to load plugin io.containerd.grpc.v1.cri  error="invalid plugin config: `mirrors` cannot be set when `config_path` is provided""#,
            "containerd-registry-mirrors",
        ),
        // what containerd#13129 describes, in containerd's words
        (
            "failed to create containerd container: open /var/lib/containerd/tmpmounts/containerd-mount1/dev/console: no such file or directory",
            "dev-console-missing",
        ),
        // buildah#3309, podman#14867, sysbox#130: rpm prints the error of another call
        (
            "error: unpacking of archive failed on file /proc: cpio: chown failed - Inappropriate ioctl for device",
            "chown-denied",
        ),
        (
            "error: unpacking of archive failed on file /proc: cpio: chown failed - No such file or directory",
            "chown-denied",
        ),
        // rootlesskit#269
        ("failed to mount overlay: operation not permitted  storage-driver=overlay2", "overlay-denied"),
        // the text of containers/storage#967
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
        (
            "chown_mapped_root: 3279 lxc-usernsexec failed: No such file or directory - Failed to open tt",
            "lxc-usernsexec",
        ),
        // cri-o#10014
        (
            "F0216 22:15:29.874507       1 cmd.go:182] open /var/run/secrets/kubernetes.io/serviceaccount/token: permission denied",
            "crio-token-denied",
        ),
        // as in containerd#10773, of usernsd
        (
            "closing plugin 90-usernsd, failed to handle event 4: context deadline exceeded",
            "nri-plugin-closed",
        ),
        (
            "rpc error: code = Unimplemented desc = unknown service runtime.v1.RuntimeService",
            "containerd-no-cri",
        ),
        // containerd's text
        (
            r#"no corresponding runtime configured in `containerd.runtimes` for `containerd` `default_runtime_name = "crun"`"#,
            "containerd-no-default-runtime",
        ),
    ]);
}

/// Lines of programs that have no power over a file, as they print them, and of Docker's own user namespaces.
#[test]
fn what_has_no_power_over_a_file_is_known() {
    are(&[
        // L1-node#115
        (
            r#"nginx: [emerg] chown("/usr/src/app/shared/nginx_cache", 101) failed (1: Operation not permitted)"#,
            "chown-denied",
        ),
        // docker-nginx#329
        (
            r#"2019/05/14 15:28:10 [emerg] 1#1: mkdir() "/var/cache/nginx/proxy_temp" failed (13: Permission denied)"#,
            "volume-write-denied",
        ),
        ("chmod: changing permissions of '/data': Operation not permitted", "chown-denied"),
        ("touch: cannot touch ‘/data/file’: Permission denied", "volume-write-denied"),
        (
            "mkdir: cannot create directory '/var/lib/postgresql/data/pgdata': Permission denied",
            "volume-write-denied",
        ),
        ("mkdir: cannot create directory '/sys/fs/cgroup/x': Permission denied", "cgroup-denied"),
        // docker-code-server#100, molecule-podman#51
        ("sudo: unable to send audit message: Operation not permitted", "audit-denied"),
        // elastic-ci-stack-for-aws#538, moby#36208
        (
            "docker: Error response from daemon: privileged mode is incompatible with user namespaces. You must run the container in the host namespace when running privileged mode.",
            "docker-privileged-remapped",
        ),
        ("write /proc/self/uid_map: operation not permitted", "self-map-denied"),
        // x11docker#111
        ("E: seteuid 100 failed - seteuid (1: Operation not permitted)", "setgroups-denied"),
        ("E: seteuid 100 failed - seteuid (22: Invalid argument)", "user-change-not-mapped"),
        ("dpkg: error: error setting ownership of './bin/ping': Operation not permitted", "chown-denied"),
        // systemd#6069
        ("dev-hugepages.mount mount process exited, code=exited status=32", "systemd-mount-unit"),
        ("[FAILED] Failed to mount Huge Pages File System.", "systemd-mount-unit"),
        (
            "unable to start container process: error during container init: sethostname: operation not permitted",
            "join-namespace-denied",
        ),
    ]);
}

/// Lines of reports that a count after the others took at random.
#[test]
fn lines_of_a_third_count_are_known() {
    are(&[
        // for-linux#836
        (
            "docker: Error response from daemon: error creating overlay mount to /home/u/.local/share/docker/overlay/918283926d7ce7e89ed73b6b17034793980a11b4f07534ba411bd54ee177dece-init/merged: operation not permitted.",
            "overlay-denied",
        ),
        // moby#51841
        (
            r#"failed to mount /home/u/.docker/run/containerd-mount3620361889: mount source: "overlay", target: "/home/u/.docker/run/containerd-mount3620361889", fstype: overlay, flags: 0, data: "workdir=/home/u/.local/share/docker/containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/12/work,upperdir=/home/u/.local/share/docker/containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/12/fs,userxattr,index=off", err: invalid argument"#,
            "overlay-on-overlay",
        ),
        // runc#3770
        (
            "OCI runtime create failed: runc create failed: unable to start container process: error during container init: open /proc/sys/net/core/somaxconn: no such file or directory: unknown",
            "sysctl-missing",
        ),
        // podman#8545
        (
            "systemd-journald.service: Failed to reset devices.allow/devices.deny: No such file or directory",
            "systemd-unit-limit",
        ),
        // audit-userspace#128
        (
            "May 21 07:35:54 fd8b520bfdbe auditd[306]: Error sending status request (Operation not permitted)",
            "audit-daemon",
        ),
        // lxc#1492
        (
            "error: unpacking of archive failed on file /usr/sbin/suexec;58da9f30: cpio: cap_set_file",
            "file-capabilities-denied",
        ),
        // nsjail#236
        (
            r#"audit: type=1400 audit(1722708589.045:468): apparmor="AUDIT" operation="userns_create" class="namespace" info="Userns create - transitioning profile" profile="unconfined" pid=2054703 comm="nsjail" requested="userns_create" target="unprivileged_userns""#,
            "apparmor-userns",
        ),
        // protontricks#400
        (
            r#"kernel	audit: type=1400 audit(1746284084.451:212): apparmor="DENIED" operation="open" class="file" info="Failed name lookup - disconnected path" error=-13 profile="unprivileged_userns" name="proc/8508/uid_map" pid=8508 comm="srt-bwrap" requested_mask="wr" denied_mask="wr" fsuid=1000 ouid=1000"#,
            "apparmor-userns",
        ),
        // minikube#14985
        (
            r#"Sep 21 09:58:08 minikube kubelet[108686]: E0921 09:58:08.895170  108686 server.go:186] "Failed to set feature gates from initial flags-based config" err="unrecognized feature gate: KubeletInUserNamespace""#,
            "kubelet-gate-unknown",
        ),
        // minikube#14871
        ("ERROR: UserNS: cpu controller needs to be delegated", "cgroup-not-delegated"),
        // cri-o#1939
        (
            r#"container create failed: container_linux.go:344: starting container process caused "process_linux.go:424: container init caused \"rootfs_linux.go:58: mounting \\\"/var/lib/kubelet/pods/8e074cfe-f653-11e8-b0c9-c85b7602acf8/volumes/kubernetes.io~secret/default-token-vjpht\\\" to rootfs \\\"/run/crio/intermediate-mount401612839/root\\\" at \\\"/run/crio/intermediate-mount401612839/root/run/secrets/kubernetes.io/serviceaccount\\\" caused \\\"mkdir /run/crio/intermediate-mount401612839/root/run/secrets/kubernetes.io: permission denied\\\"\"""#,
            "mount-point-denied",
        ),
        // apptainer#635
        (
            "ERROR  : 'newgidmap' execution failed. Check that 'newgidmap' is setuid root, or has required capabilities.",
            "newuidmap-failed",
        ),
    ]);
}

/// Lines of further public reports; the comment names the report.
#[test]
fn lines_of_a_second_count_are_known() {
    are(&[
        // containerd#9160
        (
            r##"Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to create new parent process: namespace path: lstat /proc/0/ns/ipc: no such file or directory: unknown"##,
            "sandbox-namespace-gone",
        ),
        // containerd#10877
        (
            r##"RunPodSandbox from runtime service failed: rpc error: code = Unknown desc = failed to start sandbox "ed8348b9215a10dba3ef48191f37dfa41c7a4648bbdf7fba9365fdf8a4c1ed4e": failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error mounting "mqueue" to rootfs at "/dev/mqueue": setxattr /run/containerd-test/io.containerd.runtime.v2.task/k8s.io/ed8348b9215a10dba3ef48191f37dfa41c7a4648bbdf7fba9365fdf8a4c1ed4e/rootfs/dev/mqueue: operation not permitted"##,
            "selinux-label-denied",
        ),
        // podman#10589
        (r##"Error: --userns and --pod cannot be set together"##, "join-namespace-denied"),
        // podman#19940
        (
            r##"error: common_cgroup_instantiate: unable to create cgroup '/sys/fs/cgroup/freezer/slurm' : Read-only file system"##,
            "cgroup-v1-denied",
        ),
        // podman#10386
        (r##"Failed to install release agent, ignoring: Permission denied"##, "systemd-hybrid-cgroups"),
        // systemd#19245
        (
            r##"Error response from daemon: runc did not terminate successfully: container_linux.go:186: getting all container pids from cgroups caused: lstat /sys/fs/cgroup/system.slice/docker-817dfec3facbeb10c64d7b0fae478804b1177ae949e695e111b7c693569dd21a.scope: no such file or directory"##,
            "cgroup-gone",
        ),
        // singularity#5240
        (r##"Failed to create user namespace: Invalid argument"##, "kernel-without-user-namespaces"),
        // crun#1264
        (
            r##"Error: crun: setns(pid=87793, CLONE_NEWUSER): Operation not permitted: OCI permission denied"##,
            "join-namespace-denied",
        ),
        // crun#1320
        (
            r##"Error: crun: error stat'ing file `/global/cfs/cdirs/nstaff/reframe/cfstest/reframe_temp_12345`: Permission denied: OCI permission denied"##,
            "directory-not-accessible",
        ),
        // sysbox#999
        (
            r##"Error: reading ID mappings from "/proc/0/uid_map": no such file or directory"##,
            "crio-lost-mappings",
        ),
        // sysbox#608
        (
            r##"docker: Error response from daemon: failed to create shim task: OCI runtime create failed: container_linux.go:419: starting container process caused: process_linux.go:607: container init caused: process_linux.go:578: handleReqOp caused: rootfs_init_linux.go:348: failed to mkdirall /var/lib/sysbox/shiftfs/faf84eee-9fd3-4379-a027-52d63cd53fc7/var/lib/rancher/k3s: mkdir /var/lib/sysbox/shiftfs/faf84eee-9fd3-4379-a027-52d63cd53fc7/var/lib/rancher: value too large for defined data type caused: mkdir /var/lib/sysbox/shiftfs/faf84eee-9fd3-4379-a027-52d63cd53fc7/var/lib/rancher: value too large for defined data type: unknown."##,
            "sysbox-shiftfs",
        ),
        // nerdctl#292
        (
            r##"[WARNING] The cgroup v2 controller "cpu" is not delegated for the current user ("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers"), see https://rootlesscontaine.rs/getting-started/common/cgroup2/"##,
            "cgroup-not-delegated",
        ),
        // nerdctl#3668
        (r##"runc run failed: no cgroup mount found in mountinfo"##, "docker-cgroup-v1-only"),
        // bugs#1491
        (
            r##"Jul 29 19:39:49 test kernel: audit: type=1400 audit(1469821189.804:187): avc: denied { create } for pid=7457 comm="python" name="health.log" scontext=system_u:system_r:svirt_lxc_net_t:s0:c316,c573 tcontext=system_u:object_r:home_root_t:s0 tclass=file permissive=1"##,
            "selinux-file",
        ),
        // podman#2245
        (
            r##"type=AVC msg=audit(1555425280.457:308): avc:  denied  { map } for  pid=7462 comm="run.sh" path="/usr/bin/bash" dev="fuse" ino=26566333 scontext=system_u:system_r:container_t:s0:c442,c952 tcontext=system_u:object_r:fusefs_t:s0 tclass=file permissive=0"##,
            "selinux-file",
        ),
        // podman#1652
        (
            r##"type=AVC msg=audit(1539652620.118:1547): avc:  denied  { write } for  pid=17729 comm="systemd" name="cgroup.procs" dev="cgroup" ino=819 scontext=system_u:system_r:container_t:s0:c327,c646 tcontext=system_u:object_r:cgroup_t:s0 tclass=file permissive=0"##,
            "selinux-cgroup",
        ),
        // podman#2409
        (
            r##"type=AVC msg=audit(1551071540.614:1716): avc:  denied  { mounton } for  pid=22830 comm="exe" path="/tmp/buildah823386363/mnt/rootfs/etc/hosts" dev="overlay""##,
            "selinux-mount",
        ),
        // autotest-docker#726
        (
            r##"type=AVC msg=audit(1502872056.507:8809): avc:  denied  { mounton } for  pid=1800 comm="systemd" path="/proc" dev="proc" ino=1 scontext=system_u:system_r:container_t:s0:c331,c427 tcontext=system_u:object_r:proc_t:s0 tclass=dir permissive=0"##,
            "selinux-mount",
        ),
        // podman#3075
        (
            r##"WARN[0001] Failed to add conmon to cgroupfs sandbox cgroup: mkdir /sys/fs/cgroup/systemd/libpod_parent: permission denied"##,
            "cgroup-v1-denied",
        ),
        // kind#2254
        (
            r##"ERROR: failed to create cluster: running kind with rootless provider requires setting systemd property "Delegate=yes", see https://kind.sigs.k8s.io/docs/user/rootless/"##,
            "cgroup-not-delegated",
        ),
        // kind#2440
        (
            r##"failed to run Kubelet: invalid configuration: cgroup-root ["kubelet"] doesn't exist"##,
            "kubelet-cgroup-root",
        ),
        // moby#12648
        (
            r##"Error response from daemon: Cannot start container 13fd124e483dd7417a2168c9b96f9d2869f0fb2d557fa93f2f1e775bb3965e66: [8] System error: open /var/run/docker/netns/default: permission denied"##,
            "join-namespace-denied",
        ),
        // moby#34011
        (r##"nsenter: failed to unshare namespaces: Invalid argument"##, "kernel-without-user-namespaces"),
        // podman#2788
        (r##"ERRO[0000] cannot setup namespace using newuidmap: exit status 1"##, "newuidmap-failed"),
        // podman#2731
        (
            r##"standard_init_linux.go:203: exec user process caused "setup user: invalid argument""##,
            "user-not-mapped",
        ),
        // docker-library#251
        (
            r##"error: attempting to run rootless dockerd but missing necessary entries in /etc/subuid and/or /etc/subgid for 1000690000"##,
            "no-subordinate-ids",
        ),
        // podman#19334
        (r##"ERRO[0000] running /usr/bin/newuidmap <pid> 0 83060 1 1 608752 65536"##, "newuidmap-failed"),
        // buildah#2554
        (
            r##"Error: mount /home/podman/.local/share/containers/storage/overlay:/home/podman/.local/share/containers/storage/overlay, flags: 0x1000: permission denied"##,
            "engine-mount-denied",
        ),
        // podman#5829
        (
            r##"error running container: error creating new mount namespace for [/bin/sh -c bin/jboss-cli.sh --file=cli/test.cli ]: operation not permitted"##,
            "unshare-denied",
        ),
        // buildkit#1638
        (
            r##"buildkitd: rootless mode requires to be executed as the mapped root in a user namespace; you may use RootlessKit for setting up the namespace"##,
            "rootless-without-rootlesskit",
        ),
        // runc#252
        (
            r##"Message: can't create pivot_root dir , error mkdir /home/wang/runctest/rootfs/.pivot_root887033361: permission denied"##,
            "directory-not-accessible",
        ),
        // podman#8259
        (
            r##"Error: error creating container storage: error creating an ID-mapped copy of layer "...": exit status 1: error during chown: error mapping host ID pair idtools.IDPair{UID:..., GID:...} for "..." to container: Host ID ... cannot be mapped to a container ID"##,
            "layer-of-another-mapping",
        ),
        // systemd#29449
        (
            r##"Oct 04 21:32:23 localhost-live (sleep)[5311]: test-service.service: Failed to set up mount namespacing: /run/systemd/mount-rootfs/sys/fs/cgroup/system.slice/test-service.service/memory.pressure: No such file or directory"##,
            "systemd-service-path",
        ),
        // systemd#9700
        (
            r##"exec-basic.service: Failed to set up namespace, assuming containerized execution, ignoring: Permission denied"##,
            "systemd-service-unprotected",
        ),
        // systemd#34565
        (
            r##"[FAILED] Failed to start systemd-resolved.service - Network Name Resolution."##,
            "systemd-unit-failed",
        ),
        // crun#1208
        (
            r##"docker: Error response from daemon: failed to create shim task: OCI runtime create failed: opening file `/sys/fs/cgroup/./cgroup.type` for writing: Permission denied: unknown."##,
            "cgroup-domain-controllers",
        ),
        // podman#14884
        (
            r##"writing file `/sys/fs/cgroup/buildah-<random>/cgroup.procs`: Operation not supported"##,
            "cgroup-domain-controllers",
        ),
        // csi-driver-nfs#894
        (
            r##"applyFSGroup failed for vol SERVER_IP#mnt/default/talos#pvc-b8335f99-53a9-4e90-9cb5-929e3bb42c7e##: open /var/lib/kubelet/pods/ffa5bff2-02a1-4aad-a410-a2d812cd34d5/volumes/kubernetes.io~csi/pvc-b8335f99-53a9-4e90-9cb5-929e3bb42c7e/mount/raft: permission denied"##,
            "kubelet-fsgroup",
        ),
        // kata-runtime#2364
        (
            r##"docker: Error response from daemon: OCI runtime create failed: rpc error: code = Unknown desc = User namespaces enabled, but no user mapping found.: unknown."##,
            "no-user-mapping",
        ),
        // gvisor#11313
        (
            r##"docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: cgroup namespaces aren't enabled in the kernel: unknown."##,
            "kernel-without-cgroup-namespaces",
        ),
        // systemd#6244
        (
            r##"Failed to create compat systemd cgroup /init.scope: Permission denied"##,
            "systemd-hybrid-cgroups",
        ),
        (
            r##"user.slice: Failed to set invocation ID on control group /user.slice, ignoring: Operation not permitted"##,
            "systemd-invocation-id",
        ),
        // systemd#1585
        (
            r##"Failed to detect whether /proc is a mount point: Permission denied"##,
            "directory-not-accessible",
        ),
        // systemd#20869
        (
            r##"systemd-logind.service: Failed to set up special execution directory in /var/lib: Permission denied"##,
            "systemd-directory-denied",
        ),
        // common#2321
        (r##"ERRO[0000] unable to signal init: permission denied     "##, "signal-denied"),
        (
            r##"kernel: audit: type=1400 audit(1739296150.596:141): apparmor="DENIED" operation="signal" class="signal" profile="containers-default-0.57.4-apparmor1" pid=35666 comm="runc" requested_mask="receive" denied_mask="receive" signal=hup peer="podman""##,
            "apparmor-signal-of-runtime",
        ),
        // podman-desktop#7256
        (
            r##"[11530:0520/093828.734261:FATAL:credentials.cc(127)] Check failed: . : Permission denied (13)"##,
            "unshare-denied",
        ),
        // containerd#10123
        (
            r##"unknown error after kill: runc did not terminate successfully: exit status 1: unable to signal init: permission denied"##,
            "signal-denied",
        ),
        // podman#4902
        (r##"Error: AppArmor not initialized correctly: OCI runtime error"##, "apparmor-not-initialized"),
        // moby#47830
        (
            r##"Apr 23 20:45:26 cloudimg kernel: audit: type=1400 audit(1713905126.444:253): apparmor="DENIED" operation="signal" class="signal" profile="docker-default" pid=9289 comm="runc" requested_mask="receive" denied_mask="receive" signal=kill peer="runc""##,
            "apparmor-signal-of-runtime",
        ),
        // containerd#10111
        (
            r##"kernel: audit: type=1400 audit(1713840662.766:122): apparmor="DENIED" operation="signal" class="signal" profile="nerdctl-default" pid=366783 comm="runc" requested_mask="receive" denied_mask="receive" signal=kill peer="/usr/local/bin/rootlesskit""##,
            "apparmor-signal-of-runtime",
        ),
        // containerd#10704
        (
            r##"time="2024-09-17T23:04:52.334331723Z" level=warning msg="failed to unmount temp lowerdir /var/lib/containerd/tmpmounts/ovl-idmapped1999575633/2" error="device or resource busy""##,
            "containerd-idmapped-unmount",
        ),
        // origin#3797
        (
            r##"Error from server: Pod "tomcat-openshift" is forbidden: no providers available to validate pod request"##,
            "scc-none-admits",
        ),
        // origin#11153
        (
            r##"pods "hello-jboss7" is forbidden: unable to validate against any security context constraint: [spec.containers[0].securityContext.volumes[6]: Invalid value: "hostPath": hostPath volumes are not allowed to be used]"##,
            "scc-privileged",
        ),
        // podman#8545
        (
            r##"systemd-journald.service: Failed to set 'memory.limit_in_bytes' attribute on '/user.slice/user-1002.slice/user@1002.service/user.slice/podman-885477.scope/system.slice/systemd-journald.service' to '-1': No such file or directory"##,
            "systemd-unit-limit",
        ),
        // containerd#9139
        (
            r##"time="2023-09-24T21:43:20.958509027Z" level=warning msg="failed to load plugin io.containerd.grpc.v1.cri" error="failed to create CRI service: failed to create cni conf monitor for default: failed to create the parent of the cni conf dir=/etc/cni: mkdir /etc/cni: read-only"##,
            "containerd-no-cri",
        ),
        // lxd#2784
        (r##"setuid: Invalid argument"##, "user-change-not-mapped"),
        // lxd#2111
        (
            r##"Jun 13 02:05:39 xenial-template sshd[390]: pam_keyinit(sshd:session): Unable to change GID to 99000 temporarily"##,
            "user-change-not-mapped",
        ),
        (
            r##"Jun 13 02:05:39 xenial-template sshd[390]: pam_motd(sshd:session): pam_modutil_drop_priv: change_gid failed: Success"##,
            "user-change-not-mapped",
        ),
        // cri-tools#1354
        (r##"OCI runtime doesn't support idmap mounts"##, "crio-runtime-too-old"),
        // cri-o#7289
        (r##"IDMappings specified but runtime does not support them"##, "crio-runtime-too-old"),
        // podman#5703
        (
            r##"Error: creating cgroup directory `/sys/fs/cgroup/cpuset/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-bb607f8075bbc8252f8eeea06e4bb1ed684287d8ef9a00a7c18547ee7c93490d.scope`: No such file or directory: OCI runtime command not found error"##,
            "cgroup-v1-missing",
        ),
        // kubernetes#103542
        (
            r##"unable to ensure pod container exists: failed to create container for [kubepods burstable pod247ca13b-bc17-4709-ab2c-4d98b5ad4fb2] : mkdir /sys/fs/cgroup/devices/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod247ca13b_bc17_4709_ab2c_4d98b5ad4fb2.slice: no such file or directory"##,
            "cgroup-v1-missing",
        ),
        // runc#2143
        (
            r##"container_linux.go:346: starting container process caused "process_linux.go:297: applying cgroup configuration for process caused \"open /sys/fs/cgroup/foo/cpuset.cpus.effective: no such file or directory\"""##,
            "cgroup-controller",
        ),
        // podman#22165
        (
            r##"runc: runc create failed: unable to start container process: error during container init: error mounting "cgroup" to rootfs at "/sys/fs/cgroup": stat /sys/fs/cgroup/devices/machine.slice/machine-libpod_pod_0b2bfa75b9e139af1542a302869e7de36c11ec40691616fd980cfc2a04813699.slice/libpod-1ae333654906d875ed36bea81bf0be74da47dc7e867c7ecc22c44b407240db64.scope: no such file or directory"##,
            "cgroup-v1-missing",
        ),
        // podman#21877
        (
            r##"WARN[0000] Failed to add conmon to cgroupfs sandbox cgroup: creating cgroup path /libpod_parent/conmon: write /sys/fs/cgroup/cgroup.subtree_control: invalid argument"##,
            "cgroup-controller",
        ),
        // podman#17419
        (
            r##"Error: crun: mount `proc` to `/proc`: Permission denied: OCI permission denied"##,
            "engine-mount-denied",
        ),
        // pelagos#434
        (r##"E: setgroups 0 failed - setgroups (1: Operation not permitted)"##, "setgroups-denied"),
        // transmission#47
        (r##"setgid: Operation not permitted"##, "setgroups-denied"),
        // lxd#6885
        (
            r##"lxc jupyter 20200216165002.175 ERROR    start - start.c:lxc_spawn:1798 - Failed to set up id mapping."##,
            "newuidmap-not-allowed",
        ),
        // lxd#2764
        (
            r##"lxc 20170323223454.412 ERROR    lxc_conf - conf.c:userns_exec_1:4453 - Error setting up child mappings"##,
            "newuidmap-not-allowed",
        ),
        // arc#792
        (
            r##"pods \"example-runner\" is forbidden: PodSecurityPolicy: unable to admit pod: [spec.containers[1].securityContext.privileged: Invalid value: true: Privileged containers are not allowed spec.containers[1].securityContext.privileged: Invalid value: true: Privileged containers are not allowed]"##,
            "pod-security-policy",
        ),
    ]);
}

#[test]
fn lines_of_a_fourth_count_are_known() {
    are(&[
        // sysbox#872
        (
            r##"Error: container create failed: time="2024-11-18T06:04:55Z" level=error msg="container_linux.go:439: starting container process caused: process_linux.go:608: container init caused: process_linux.go:579: handleReqOp caused: rootfs_init_linux.go:317: setting up ID-mapped mount on path 3 (likely means idmapped mounts are not supported on the filesystem at this path ()) caused: Failed to eval symlink on : lstat 3: no such file or directory""##,
            "sysbox-idmap",
        ),
        // kubevirt#11784
        (
            r##"{"component":"virt-launcher-monitor","level":"error","msg":"failed to run virt-launcher","pos":"virt-launcher-monitor.go:181","reason":"fork/exec /usr/bin/virt-launcher: operation not permitted","timestamp":"2024-04-24T11:53:56.790431Z"}"##,
            "exec-file-capabilities",
        ),
        // bubblewrap#473
        (
            r##"bwrap: Creating new namespace failed: Function not implemented"##,
            "kernel-without-user-namespaces",
        ),
        // kubernetes#105463
        (
            r##"Warning  Failed     64s                  kubelet            Error: container create failed: time="2021-10-04T17:43:07Z" level=error msg="container_linux.go:380: starting container process caused: process_linux.go:545: container init caused: rootfs_linux.go:76: mounting \"/sys/fs/cgroup/systemd\" to rootfs at \"/sys/fs/cgroup/systemd\" caused: mkdir /var/lib/containers/storage/overlay/a758e3eb68c6dddcd02bfd4b1b3886b924f654c6926c55639f3d95b835e7e348/merged/sys/fs/cgroup/systemd: no such file or directory""##,
            "mount-point-in-sysfs",
        ),
        // juicefs-csi-driver#1595
        (
            r##"spec.containers{jfs-mount}: Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error mounting "cgroup" to rootfs at "/sys/fs/cgroup": stat /run/containerd/io.containerd.runtime.v2.task/k8s.io/abc/rootfs/sys/fs/kubepods-burstable-pod.slice/cri-containerd-jfs-mount.scope: no such file or directory"##,
            "cgroup-mount-lost",
        ),
        // codex#15893
        (r##"bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted"##, "self-map-denied"),
        // podman#10135
        (r##"cannot set user namespace"##, "join-user-namespace-invalid"),
        // safe-code-execution#26
        (
            r##"Environment needs setup work: procfs is obstructed; please mount a new procfs mount somewhere in the container, e.g. /proc2 (`--mount=type=bind,source=/proc,target=/proc2,readonly=false,bind-recursive=disabled`)"##,
            "proc-denied",
        ),
        // actions-runner-controller#4234
        (
            r##"ERRO[0000] running `/usr/bin/newuidmap 60 0 1001 1 1 100000 2000000`: newuidmap: Target process 60 is owned by a different user: uid:1001 pw_uid:1001 st_uid:1001, gid:123 pw_gid:12345 st_gid:123"##,
            "newuidmap-other-user",
        ),
        // podman#26801
        (
            r##"ERRO[0000] running `/usr/bin/newuidmap 380 0 1000750000 1 1 100000 65536 65537 100000 65536`: newuidmap: write to uid_map failed: Invalid argument"##,
            "newuidmap-invalid",
        ),
        // k3s#4065
        (
            r##"FATA[0001] delegated cgroup v2 controllers are required for rootless."##,
            "cgroup-not-delegated",
        ),
        // rke2#5923
        (
            r##"E0518 19:48:52.148026  733385 cgroup_manager_linux.go:476] cgroup manager.Set failed: openat2 /sys/fs/cgroup/kubepods.slice/cpu.weight: no such file or directory"##,
            "kubelet-cgroup-controller",
        ),
        // rke2#5923
        (
            r##"E0518 19:48:52.148149  733385 kubelet.go:1542] "Failed to start ContainerManager" err="failed to initialize top level QOS containers: root container [kubepods] doesn't exist""##,
            "kubelet-root-container",
        ),
        // anylinuxfs#61
        (
            r##"mount: /mnt/storage1: mount_setattr() failed: cannot set ID-mapping: Invalid argument."##,
            "crun-idmap",
        ),
        // podman#29430
        (
            r##"error: this system does not support the kernel namespaces that are required for sandboxing; use '--no-sandbox' to disable sandboxing"##,
            "unshare-denied",
        ),
        // makes#599
        (
            r##"error: while setting up the build environment: mounting /proc: Operation not permitted"##,
            "proc-denied",
        ),
        // buildkit#4073
        (r##"mount proc:/proc (via /proc/self/fd/6), flags: 0xe: operation not permitted"##, "proc-denied"),
        // systemd#31037
        (
            r##"29s Jan 20 04:16:22 ci-020-dcd36dc4 (s_server)[1287]: pdns.service: Failed to set up IPC namespacing: Resource temporarily unavailable"##,
            "systemd-service-other-namespace",
        ),
        // systemd#14970
        (
            r##"Feb 28 12:45:53 0b2420135953 systemd[21]: systemd-homed.service: Failed to set up network namespacing: Operation not permitted"##,
            "systemd-service-other-namespace",
        ),
        // fedora-coreos-tracker#818
        (r##"cp: can't create '/host//opt/cni/bin/bandwidth': Permission denied"##, "volume-write-denied"),
        // apptainer#3042
        (
            r##"ERROR   [U=0,P=317]        shared_mount_namespace_init() Failed to create mount namespace: mount namespace requires privileges, check Apptainer installation"##,
            "unshare-denied",
        ),
        // singularity#5857
        (
            r##"FATAL:   container creation failed: mount proc->/proc error: can't mount proc filesystem to /proc: operation not permitted"##,
            "proc-denied",
        ),
        // apptainer#1806
        (
            r##"shared_mount_namespace_init() Failed to set mount propagation: Permission denied"##,
            "engine-mount-denied",
        ),
        // apptainer#629
        (
            r##"ERROR  : Failed to create container process: Invalid argument"##,
            "kernel-without-user-namespaces",
        ),
        // apptainer#2455
        (
            r##"ERROR  : Failed to create container process: No space left on device"##,
            "no-user-namespaces-left",
        ),
        // usernetes#337
        (
            r##"Aug 14 06:12:38 host0 dockerd-rootless.sh[2713]: [rootlesskit:parent] error: failed to setup network &{logWriter:0xc000212b20 binary:slirp4netns mtu:65520}: waiting for ready fd (/usr/bin/slirp4netns --mtu 65520 -r 3 --disable-host-loopback --enable-sandbox --enable-seccomp 2724 tap0): slirp4netns failed"##,
            "rootless-network-failed",
        ),
        // gpu-operator#466
        (
            r##"Warning  Failed     25s               kubelet, node1  Error: container create failed: time="2023-01-04T09:19:12Z" level=error msg="runc create failed: unable to start container process: error during container init: error creating device nodes: mount /dev/nvidiactl:/var/lib/containers/storage/overlay/bd769cb61dcc2ee7ee6c41388d8be8ec897adf68141d763b5f3c057bc907be5d/merged/dev/nvidiactl (via /proc/self/fd/14), flags: 0x1000: no such file or directory""##,
            "device-node-missing",
        ),
        // docker-jenkins-builder#122
        (
            r##"fatal: [localhost]: FAILED! => {"changed": false, "gid": 65534, "group": "nobody", "mode": "0755", "msg": "chown failed: [Errno 1] Operation not permitted: b'/tmp/.github'", "owner": "root", "path": "/tmp/.github", "size": 4096, "state": "directory", "uid": 0}"##,
            "chown-denied",
        ),
        // helm3-charts#33
        (
            r##"mktemp: failed to create file via template ‘/app/etc/passwd.XXXXXXXXX’: Permission denied"##,
            "volume-write-denied",
        ),
        // k8s-at-home#1469
        (
            r##"cp: cannot create regular file '/config/nzbget.conf': Permission denied"##,
            "volume-write-denied",
        ),
        // pulsar-helm-chart#52
        (r##"mkdir: cannot create directory ‘data/zookeeper’: Permission denied"##, "volume-write-denied"),
        // chromadb-chart#104
        (
            r##"sed: couldn't open temporary file /chroma/sedBjGyZV: Permission denied"##,
            "volume-write-denied",
        ),
        // opentelemetry-operator#1286
        (
            r##"Error response from daemon OC runtime create failed: container_linux.go: 346:: starting container process caused "chdir to cwd/home/nonroot" in config.json failed: permission denied: unknown"##,
            "working-directory-denied",
        ),
        // podman#8848
        (
            r##"[conmon:d]: failed to write to /proc/self/oom_score_adj: Permission denied"##,
            "engine-oom-score",
        ),
        // otobo-docker#148
        (
            r##"Fehler: Diese Grafik konnte nicht erzeugt werden: Failed to move to new namespace: PID namespaces supported, Network namespace supported, but failed: errno = Operation not permitted"##,
            "unshare-denied",
        ),
        // n8n-nodes-puppeteer#216
        (
            r##"Failed to launch/connect to browser: Failed to launch the browser process: Code: null stderr: Failed to move to new namespace: PID namespaces supported, Network namespace supported, but failed: errno = Operation not permitted [44:44:1123/124456.705258:FATAL:content/browser/zygote_host/zygote_host_impl_linux.cc:207] Check failed: . : Operation not permitted (1)"##,
            "unshare-denied",
        ),
        // podman#23026
        (
            r##"Error: did not receive systemd slice as cgroup parent when using systemd to manage cgroups: invalid argument"##,
            "engine-cgroup-parent",
        ),
        // sysbox-runc#106
        (
            r##"Error from server (Forbidden): error when creating "STDIN": pods "ubuntu" is forbidden: pod rejected: RuntimeClass "sysbox-runc" not found"##,
            "api-runtime-class",
        ),
    ]);
}

/// Printed by the programs themselves in a user namespace.
#[test]
fn what_belongs_to_the_whole_machine_is_known() {
    are(&[
        ("dmesg: read kernel buffer failed: Operation not permitted", "kernel-log-denied"),
        ("chrt: failed to set pid 0's policy: Operation not permitted", "scheduling-denied"),
        ("nice: cannot set niceness: Permission denied", "scheduling-denied"),
        ("ionice: ioprio_set failed: Operation not permitted", "scheduling-denied"),
        ("nsenter: cannot open /proc/1/ns/mnt: Permission denied", "join-namespace-denied"),
        ("hostname: you must be root to change the host name", "host-name-denied"),
        ("losetup: /dev/loop0: failed to set up loop device: Permission denied", "mount-denied"),
        ("RTNETLINK answers: Operation not permitted", "network-denied"),
        ("PermissionError: [Errno 13] Permission denied: '/srv/zzz'", "volume-write-denied"),
        ("umount: /proc: must be superuser to unmount.", "engine-mount-denied"),
        (
            "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)",
            "netfilter-denied",
        ),
        ("install: cannot change owner and permissions of ‘/tmp/x5’: Invalid argument", "chown-not-mapped"),
        ("prlimit: failed to set the MEMLOCK resource limit: Operation not permitted", "rlimit-denied"),
        ("strace: attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted", "ptrace-denied"),
        ("ptrace: Operation not permitted.", "ptrace-denied"),
    ]);
}

/// Of each kind a line of a report, and one of the same kind that was not reported.
#[test]
fn nodes_in_containers_are_known_by_what_the_machine_below_withholds() {
    are(&[
        (
            "580 server.go:269] failed to run Kubelet: failed to create kubelet: open /dev/kmsg: no such file or directory  component=kubelet",
            "kubelet-no-kmsg",
        ),
        (
            "Nov 30 x kubelet[9]: E1130 run.go:72] \"command failed\" err=\"failed to run Kubelet: failed to create kubelet: open /dev/kmsg: no such file or directory\"",
            "kubelet-no-kmsg",
        ),
        (
            "\"Failed to run kubelet\" err=\"failed to run Kubelet: failed to create kubelet: open /dev/kmsg: permission denied\"",
            "kubelet-in-user-namespace",
        ),
        (
            "F0624 07:38:23.053999      54 server.go:495] open /proc/sys/net/netfilter/nf_conntrack_max: permission denied",
            "conntrack-sysctl-denied",
        ),
        (
            "E1130 12:00:00.000000 1 run.go:72] \"command failed\" err=\"open /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established: read-only file system\"",
            "conntrack-sysctl-denied",
        ),
        (
            "Failed to set sysctl: open /proc/sys/net/bridge/bridge-nf-call-iptables: no such file or directory",
            "bridge-netfilter-missing",
        ),
        (
            "[ERROR FileContent--proc-sys-net-bridge-bridge-nf-call-iptables]: sysctl: cannot stat /proc/sys/net/bridge/bridge-nf-call-ip6tables: No such file or directory",
            "bridge-netfilter-missing",
        ),
        (
            "ERROR: failed to create cluster: could not find a log line that matches \"Reached target .*Multi-User System.*|detected cgroup v1\"",
            "kind-node-not-booted",
        ),
        (
            "[WARNING SystemVerification]: cgroups v1 support is deprecated and will be removed in a future release. Please migrate to cgroups v2.",
            "kubelet-cgroup-v1-refused",
        ),
        (
            "\"command failed\" err=\"failed to validate kubelet configuration, error: kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is in maintenance mode\"",
            "kubelet-cgroup-v1-refused",
        ),
        (
            "The host root filesystem is mounted as \"master:943\". Setting child propagation to \"rslave\" is not supported.",
            "rootless-propagation",
        ),
        (
            "WARN[0000] The host root filesystem is mounted as \"\". Setting child propagation to \"rshared\" is not supported.",
            "rootless-propagation",
        ),
    ]);
}

#[test]
fn cgroups_of_reports_are_known() {
    are(&[
        (
            "Feb 08 15:16:38 x systemd[1577]: podman-305690.scope: Failed to add PIDs to scope's control group: Permission denied",
            "cgroup-move-denied",
        ),
        (
            "2023-04-17T12:27:13.019831Z: writing file `/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/crun-test.scope/container/cgroup.procs`: Permission denied",
            "cgroup-move-denied",
        ),
        (
            "Error: writing file `/sys/fs/cgroup//user.slice/user-1000.slice/user@1000.service/user.slice/libpod-5e22.scope/container/cgroup.procs`: Permission denied: OCI permission denied",
            "cgroup-move-denied",
        ),
        (
            "failed to write 42: open /sys/fs/cgroup/user.slice/user-1001.slice/user@1001.service/user.slice/nerdctl-1.scope/cgroup.procs: permission denied",
            "cgroup-move-denied",
        ),
        // In a pod it is the pod's cgroup.
        ("sh: can't create /sys/fs/cgroup/init/cgroup.procs: Permission denied", "cgroup-denied"),
        (
            "cri-o configured with systemd cgroup manager, but did not receive slice as parent",
            "cgroup-driver-mismatch",
        ),
        (
            "cannot set up cgroup for root: invalid systemd path: \"/kubepods/burstable/pod<uid>\"",
            "cgroup-driver-mismatch",
        ),
        (
            "runc create failed: expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/kubepods/besteffort/pod1/2\" instead: unknown",
            "cgroup-driver-mismatch",
        ),
        ("Failed to create /init.scope control group: No such file or directory", "systemd-cgroup-path"),
        (
            "Failed to create /kubepods.slice/cri-containerd-1.scope/init.scope control group: No such file or directory",
            "systemd-cgroup-path",
        ),
        (
            "Error: creating cgroup directory `/sys/fs/cgroup/net_prio,net_cls/machine.slice/libpod-1.scope`: No such file or directory: OCI not found",
            "cgroup-v1-missing",
        ),
        (
            "mkdir: cannot create directory '/sys/fs/cgroup/cpuacct,cpu/x': No such file or directory",
            "cgroup-v1-missing",
        ),
        (
            "Error: crun: open `/sys/fs/cgroup/machine.slice/libpod-1.scope/container/cgroup.freeze`: No such file or directory: OCI runtime attempted to invoke a command that was not found",
            "cgroup-gone",
        ),
        (
            "msg=\"Failed to run CRI service\" error=\"failed to set up NRI for CRI service: failed to start NRI interface: failed to create socket \\\"/var/run/nri/nri.sock\\\": listen unix /var/run/nri/nri.sock: bind: permission denied\"",
            "nri-socket-denied",
        ),
        ("Main processes terminated with: code=exited/status=226", "systemd-service-namespace"),
        ("Main processes terminated with: code=exited/status=243", "systemd-credentials"),
    ]);
}

#[test]
fn ids_of_reports_are_known() {
    are(&[
        (
            "ERRO[0000] Cannot find mappings for user \"root\": no subuid ranges found for user \"root\" in /etc/subuid",
            "automatic-user-no-range",
        ),
        (
            "Cannot find mappings for user \"storage\": No subgid ranges found for group \"storage\" in /etc/subgid",
            "automatic-user-no-range",
        ),
        (
            "ERRO[0003] Cannot find mappings for user \"containers\": no subuid ranges found for user \"containers\" in /etc/subuid",
            "crio-no-subuid",
        ),
        ("x.service: Failed to determine supplementary groups: Invalid argument", "systemd-user-change"),
        (
            "systemd[1]: app.service: Failed to determine supplementary groups: Operation not permitted",
            "systemd-user-change",
        ),
        (
            "container init caused: rootfs_init_linux.go:316: setting up ID-mapped mount on path /var/lib/docker/1/merged/usr/lib/modules/5.14.0 (likely means idmapped mounts are not supported on the filesystem at this path (xfs)) caused: Failed to set mount attr: operation not permitted: unknown",
            "sysbox-idmap-denied",
        ),
        (
            "setting up ID-mapped mount on path /data (likely means idmapped mounts are not supported on the filesystem at this path (ext4)) caused: Failed to set mount attr: operation not permitted",
            "sysbox-idmap-denied",
        ),
        (
            "setting up ID-mapped mount on path /data (likely means idmapped mounts are not supported on the filesystem at this path (nfs)) caused: Failed to set mount attr: invalid argument",
            "sysbox-idmap",
        ),
        ("Linux 6.9+ idmapping abilities are required but aren't supported on system", "lxd-idmap-required"),
        (
            "Error: Failed to start device \"data\": Required idmapping abilities not available: idmapping abilities are required but aren't supported on system",
            "lxd-idmap-required",
        ),
        (
            "failed to change mount attributes, maybe the filesystem doesn't supports ID-mapped mounts",
            "runc-idmap",
        ),
        (
            "failed to use mount_setattr(2), maybe the filesystem doesn't supports ID-mapped mounts: /data",
            "runc-idmap",
        ),
        (
            "process_linux.go:405: getting the final child's pid from pipe caused: EOF: unknown.",
            "runc-child-died",
        ),
    ]);
}

#[test]
fn what_a_container_may_not_do_is_known_by_the_reports() {
    are(&[
        (
            "error mounting \\\".rancher/k3s/agent/kubelet/pods//volumes/kubernetes.io ~ configmap/config-volume\\\" to rootfs at \\\"/etc/coredns\\\": mount .rancher/k3s/agent/kubelet/pods//volumes/kubernetes.io~configmap/config-volume:/etc/coredns (via /proc/self/fd/6), flags: 0x5021: operation not permitted: unknown",
            "locked-remount-flags",
        ),
        (
            "error mounting \"/run/secrets\" to rootfs at \"/run/secrets\": mount src=/run/secrets, dst=/run/secrets, dstFd=/proc/thread-self/fd/9, flags=MS_RDONLY|MS_REMOUNT|MS_BIND|MS_REC: operation not permitted",
            "locked-remount-flags",
        ),
        // A first mount has no flags to keep.
        (
            "mount /dev/fuse (via /proc/self/fd/14), flags: 0x1000: operation not permitted",
            "engine-mount-denied",
        ),
        (
            "Error: kernel does not support overlay fs: 'overlay' is not supported over extfs at \"/var/lib/containers/storage/overlay\": backing file system is unsupported for this graph driver",
            "overlay-denied",
        ),
        ("ERRO[0000] 'overlay' is not supported over xfs at \"/data/overlay\"", "overlay-denied"),
        (
            "nvidia-container-cli: initialization error: open failed: /proc/sys/kernel/overflowuid: permission denied",
            "kernel-file-denied",
        ),
        ("bwrap: Can't read /proc/sys/kernel/overflowgid: Permission denied", "kernel-file-denied"),
        ("sh: can't create /proc/sys/kernel/panic: Permission denied", "sysctl-denied"),
        (
            "Apr 27 22:31:29 f420cd7310bc sshd[230]: fatal: linux_audit_write_entry failed: Operation not permitted",
            "audit-denied",
        ),
        ("fatal: chroot(\"/usr/share/empty.sshd\"): Operation not permitted [preauth]", "chroot-denied"),
        ("chroot: cannot change root directory to '/mnt': Operation not permitted", "chroot-denied"),
        (
            "sudo: PAM account management error: Authentication service cannot retrieve authentication info",
            "pam-shadow-denied",
        ),
        ("su: Authentication service cannot retrieve authentication info", "pam-shadow-denied"),
    ]);
}
