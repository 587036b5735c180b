//! Lines without a message of their own, of which the operation that failed and the kernel's error are understood.

use super::{are, found};
use crate::log::{Step, Understood};

/// Each line is about this step, and this is in what is said of its error.
pub(super) fn mean(lines: &[(&str, Step, &str)]) {
    let other = |(line, step, usual): &(&str, Step, &str)| {
        let of = Understood::of(line);
        let is_said = of.usual.is_some_and(|output| output.contains(usual));
        let is_known = found(line).is_some();
        (of.step != Some(*step) || !is_said || is_known)
            .then(|| format!("{:?}, {:?}, {:?}: {line}", of.step, of.usual, found(line)))
    };
    let others: Vec<String> = lines.iter().filter_map(other).collect();
    assert!(others.is_empty(), "\n{}", others.join("\n"));
}

#[test]
fn operations_of_reports_are_understood() {
    mean(&[
        // slauger/openvox-operator#475
        (
            "Errno::EACCES: Permission denied - /etc/puppetlabs/puppetserver/ca/signed",
            Step::Refused,
            "fsGroup",
        ),
        // google/gvisor#11696
        (
            "FATAL ERROR: running container: creating container: cannot create sandbox: cannot read client sync file: waiting for sandbox to start: EOF",
            Step::Ended,
            "before it",
        ),
        (
            r#"W0506 17:44:16.126697       1 util.go:64] FATAL ERROR: error setting up chroot: error converting mounts: mount("", "/proc/self/fd/17", "", 0x84000, "") failed: permission denied"#,
            Step::Mount,
            "AppArmor",
        ),
        // google/gvisor#8567
        (
            "cannot create sandbox process: starting sandbox: fork/exec /proc/self/exe: invalid argument: unknown.",
            Step::Namespace,
            "no such namespaces",
        ),
        // GoogleContainerTools/kaniko#2107
        (
            "chown: /var/run/secrets/kubernetes.io/serviceaccount/..data: Read-only file system",
            Step::Owner,
            "tokens",
        ),
        // madhuakula/hacker-container#5
        (
            r#"ERRO[2021-09-27T10:31:59.170130972Z] failed to change OOM score to -500            error="write /proc/301/oom_score_adj: permission denied""#,
            Step::OomScore,
            "SYS_RESOURCE",
        ),
        // anthropics/claude-code#46560, #29039, #36529, #28730
        (
            "bwrap: Can't create file at /home/<user>/.claude/.github: Read-only file system",
            Step::Refused,
            "read-only",
        ),
        ("bwrap: Can't bind mount /oldroot/ on /newroot/: Operation not permitted", Step::Mount, "nosuid"),
        (
            "fatal: could not open '/dev/null' for reading and writing: Permission denied",
            Step::Device,
            "nodev",
        ),
        (
            "fatal: Unable to create '/opt/project/.git/index.lock': Read-only file system",
            Step::Refused,
            "readOnly",
        ),
        // openai/codex#9292, #6828, #1039
        (
            r#"error running landlock: Io(Os { code: 1, kind: PermissionDenied, message: "Operation not permitted" })"#,
            Step::Confinement,
            "seccomp profile",
        ),
        ("error running landlock: Sandbox(LandlockRestrict)", Step::Confinement, "Linux 5.13"),
        (
            "Error: The combination of seccomp/landlock that Codex uses for sandboxing is not supported in this environment.",
            Step::Confinement,
            "Linux 5.13",
        ),
        // FootprintAI/Containarium#1568
        (
            r#"cgfsng - Device or resource busy - Could not enable "+cpuset +cpu +io +memory +hugetlb +pids +rdma +misc" controllers in the unified cgroup 11"#,
            Step::Cgroup,
            "child cgroup",
        ),
        (
            r#"cgfsng - No such file or directory - Failed to set "memory.max" to "268435456""#,
            Step::Cgroup,
            "not enabled",
        ),
        // freeipa/freeipa-container#581
        (
            "ns-slapd[312]: [20/Jan/2024:14:45:29.495027794 +0000] - ERR - set_workingdir - detach: failed to chdir to /var/log/dirsrv/slapd-EXAMPLE-TEST",
            Step::WorkingDirectory,
            "does not exist",
        ),
        // podman#16405
        (
            "Error: netavark: IO error: failed to configure bridge and veth interface: failed while configuring network interface: failed to create a bridge interface podman0: Received a netlink error message Operation not permitted (os error 1)",
            Step::Network,
            "NET_ADMIN",
        ),
        // docker/for-linux#1199, #1129; opencontainers/runc#3831; containers/crun#898
        (
            "apparmor failed to apply profile: write /proc/self/attr/exec: invalid argument: unknown.",
            Step::SecurityProfile,
            "not one of the security module in use",
        ),
        (
            r#"container init caused \"apply apparmor profile: apparmor failed to apply profile: write /proc/self/attr/exec: permission denied\"": unknown."#,
            Step::SecurityProfile,
            "itself is confined",
        ),
        (
            "apparmor failed to apply profile: write /proc/self/attr/apparmor/exec: no such file or directory",
            Step::SecurityProfile,
            "not loaded",
        ),
        (
            "2022-03-29T12:29:45.000304160Z: write file `/proc/thread-self/attr/exec`: No such file or directory",
            Step::SecurityProfile,
            "not loaded",
        ),
        // roddhjav/apparmor.d#1095
        (
            "DENIED  docker-default userns_create comm=coolwsd requested=userns_create denied=userns_create",
            Step::Namespace,
            "AppArmor",
        ),
        // docker-mailserver#3499
        (
            r#"rsync: [sender] opendir "/data/containers/data/mailserver/state/lib-spamassassin/.spamassassin" failed: Permission denied (13)"#,
            Step::Refused,
            "another user",
        ),
        ("Error: Can't drop privilege as nonroot user", Step::Credentials, "not root"),
        // xencon/aixcl#831
        ("su: Authentication failure", Step::Credentials, "disables setuid programs"),
        // OWASP/Python-Honeypot#349
        ("grafana          | GF_PATHS_DATA='/var/lib/grafana' is not writable.", Step::Refused, "fsGroup"),
        // fossasia/eventyay#3124
        (
            r#"rsync: [generator] chgrp "/home/app/web/eventyay/static.dist/." failed: Operation not permitted (1)"#,
            Step::Owner,
            "not root",
        ),
        // dovecot/docker#12
        (
            "[FATAL tini (7)] exec /dovecot/sbin/dovecot failed: Operation not permitted",
            Step::Exec,
            "capabilities that the container has dropped",
        ),
        // docker-mailserver#3174
        (
            "dovecot: auth: Error: net_connect_unix(anvil-auth-penalty) failed: Permission denied",
            Step::Socket,
            "another user",
        ),
        // projectcalico/calico#8150
        (
            r#"plugin type="calico" failed (add): error switching to ns /var/run/netns/cni-1: Error switching to ns /var/run/netns/cni-1: operation not permitted" pod="default/my-pod""#,
            Step::NetworkNamespace,
            "another user namespace",
        ),
        // containers/container-selinux#273
        ("strace: test_ptrace_get_syscall_info: PTRACE_TRACEME: Permission denied", Step::Tracing, "SELinux"),
        // grafana/beyla#91
        (
            "setting uprobe: creating perf_uprobe PMU: token /proc/2388/exe:0x2b61a0: opening perf event: permission denied",
            Step::Bpf,
            "PERFMON",
        ),
        // 89luca89/distrobox#1359: what crun, runc and podman add is not the kernel's error.
        (
            r#"runc create failed: unable to start container process: error during container init: error mounting "/" to rootfs at "/run/host": mount dst=/run/host, dstFd=/proc/thread-self/fd/8, flags=0x5020: operation not permitted: OCI permission denied"#,
            Step::Mount,
            "cannot clear",
        ),
        ("Error: pivot_root: Operation not permitted: OCI permission denied", Step::Pivot, "SYS_ADMIN"),
        // containers/crun#1786, #594, #1752, #852
        ("create keyring my_alpine: Operation not permitted", Step::Keyring, "keyctl"),
        (
            "Error: OCI runtime error: create keyring `1b4226eb`: Function not implemented",
            Step::Keyring,
            "has no keyrings",
        ),
        ("mount `/tmp/foo/bar/root` to ``: Invalid argument", Step::Mount, "root directory"),
        ("Error: open executable: Permission denied: OCI permission denied", Step::Exec, "not mapped"),
        // podman#16316
        (
            "Error: error mounting volume ssdvoltest for container 9f10: /usr/sbin/start-statd: line 10: /run/rpc.statd.lock: Permission denied",
            Step::ForeignMount,
            "Kubernetes volume",
        ),
        // Unstructured-IO/unstructured-api#392
        (
            r#"runc create failed: unable to start container process: exec: \"scripts/app-start.sh\": stat scripts/app-start.sh: permission denied""#,
            Step::Exec,
            "closed to it",
        ),
        // Mic92/nixpkgs-review#245
        (
            "[1733280:1223/151649.923782:FATAL:setuid_sandbox_host.cc(158)] The SUID sandbox helper binary was found, but is not configured correctly.",
            Step::Confinement,
            "mode 4755",
        ),
        // Heisath/wdmc2-kernel#19
        (
            "ERRO[2023-05-08T06:48:44.647317040+02:00] failed to mount overlay: no such device       storage-driver=overlay2",
            Step::Rootfs,
            "modprobe",
        ),
        (
            "iptables failed: iptables -t nat -N DOCKER: iptables v1.8.7 (nf_tables): Could not fetch rule set generation id: Invalid argument",
            Step::Network,
            "load it on the node",
        ),
        // google/nsjail#232
        (
            "clone(flags=CLONE_NEWNS|CLONE_NEWCGROUP|CLONE_NEWUTS|CLONE_NEWIPC|CLONE_NEWUSER|CLONE_NEWPID) failed: Invalid argument",
            Step::Namespace,
            "no such namespaces",
        ),
        // podman#16796, cloudnative-pg#9948, MariaDB/mariadb-docker#570
        (
            "[Warning] mysqld: io_uring_queue_init() failed with ENOSYS: check seccomp filters, and the kernel version (newer than 5.1 required)",
            Step::Forbidden,
            "io_uring",
        ),
        (
            "FATAL:  could not setup io_uring queue: Operation not permitted",
            Step::Forbidden,
            "RuntimeDefault",
        ),
        (
            "mysqld: io_uring_queue_init() failed with ENOMEM: try larger memory locked limit",
            Step::Forbidden,
            "RLIMIT_MEMLOCK",
        ),
        // yandex-cloud/k8s-csi-s3#163: --setuid is an argument of the mounter.
        (
            "rpc error: code = Unknown desc = Error fuseMount command: geesefs args: [--endpoint XXXXXXXXXX -o allow_other --log-file /dev/stderr --setuid 65534 --setgid 65534 --memory-limit 1000 pvc-a41f: /var/lib/kubelet/plugins/kubernetes.io/csi/ru.yandex.s3.csi/XXXXXXX/globalmount]",
            Step::Fuse,
            "/dev/fuse",
        ),
        // ctrox/csi-s3#70
        (
            "GRPC error: stat /var/lib/kubelet/pods/b9907a71/volumes/kubernetes.io~csi/pvc-c86e/mount: software caused connection abort",
            Step::Mount,
            "has ended while it was mounted",
        ),
        // rustfs/rustfs#1776
        (
            r#"Error: container's runAsUser breaks non-root policy (pod: "rustfs-66f98b6949-k8qsb_rustfs(bf2a6808)", container: init-step)"#,
            Step::RunAs,
            "runAsUser",
        ),
        // tektoncd/operator#1287
        (
            r#"level=warning msg=""/" is not a shared mount, this could cause issues or missing mounts with rootless containers""#,
            Step::Propagation,
            "private",
        ),
        // tailscale/tailscale#14256, #4537; tailscale-dev/docker-mod#29
        (
            r#"wgengine.NewUserspaceEngine(tun "tailscale0") error: tstun.New("tailscale0"): operation not permitted"#,
            Step::Network,
            "NET_ADMIN",
        ),
        (
            "setting link attributes: netlink receive: no such file or directory",
            Step::Network,
            "load it on the node",
        ),
        (
            "could not setup netfilter: could not create new netfilter: could not get iptables version: exit status 1",
            Step::Network,
            "NET_ADMIN",
        ),
        // apptainer/apptainer#2202
        (
            "apply_privileges()            Requesting capability set 0x000001ffffffffff while permitted capability set is 0x000001fffdfcffff",
            Step::Credentials,
            "dropped",
        ),
        // rover#550
        ("dpkg: error: requested operation requires superuser privilege", Step::NeedsRoot, "not root"),
        // sylabs/singularity#2727, #315
        (
            "write_xattr: failed to write xattr security.selinux for file /image/root/.exec because extended attributes are not supported by the destination filesystem",
            Step::Attribute,
            "does not store",
        ),
        (
            "ERROR   [U=0,P=184493]     init()                        Failed to open current working directory: Permission denied",
            Step::WorkingDirectory,
            "has no x",
        ),
        // systemd/systemd#30157, #35387; containers/crun#622, #2212
        (
            "Automatic UID/GID adjusting is only supported for UID/GID ranges starting at multiples of 2^16 with a range of 2^16.",
            Step::Range,
            "multiple of 65536",
        ),
        (r#"Job failed. See "journalctl -xe" for details."#, Step::Ended, "has not started"),
        ("Error: openat2 : No such file or directory: OCI not found", Step::Container, "does not exist"),
        (
            r#"Error: container create failed (no logs from conmon): conmon bytes "": readObjectStart: expect { or n, but found"#,
            Step::Ended,
            "own message",
        ),
        // longhorn/longhorn#2357: names, not the pod's mapping.
        (
            "nfsidmap[2607242]: nss_getpwnam: name 'root@localdomain' does not map into domain 'lan'",
            Step::NfsNames,
            "idmapd.conf",
        ),
    ]);
}

#[test]
fn where_to_look_next_belongs_to_the_step() {
    for (line, next) in [
        ("tool: open /data/x: permission denied", "namei -ln PATH"),
        ("exec /app/run failed: Operation not permitted", "getcap FILE"),
        ("create keyring x: Operation not permitted", "containers.conf"),
        ("tool: write /sys/fs/cgroup/x/memory.max: no such file or directory", "cgroup.controllers"),
    ] {
        let of = Understood::of(line);
        assert!(of.next.is_some_and(|output| output.contains(next)), "{line}: {of:?}");
    }
    // Nothing is said of what is not understood.
    assert_eq!(Understood::of("tool: something odd happened").next, None);
    // Where a connection fails, the operation does not matter.
    let refused = Understood::of("tool: uid_map of child: connection refused");
    assert!(refused.next.is_some_and(|next| next.contains("other side")), "{refused:?}");
}

#[test]
fn an_operation_is_not_named_by_chance() {
    for (line, step) in [
        // mgoltzsche/podman-static#57: the cause is another line's.
        (
            "systemctl: stderr Job for ceph@mon.node01.service failed because the control process exited with error code.",
            Some(Step::Ended),
        ),
        // The container's own streams and file systems are no devices.
        ("tool: stat /dev/shm/x: permission denied", Some(Step::Refused)),
        // Words that only contain a mark.
        ("tool: reading timesheet (subpfx): permission denied", Some(Step::Refused)),
        ("tool: amount due: permission denied", Some(Step::Refused)),
        // The inner step, not the one that waits for it.
        ("mounting x: applying cgroup: chroot to y: operation not permitted", Some(Step::Chroot)),
        // No error at all.
        ("Started nginx.", None),
        ("the exit was quick", None),
        ("pam_unix(sshd:auth): authentication failure; rhost=10.0.0.1", Some(Step::Login)),
    ] {
        assert_eq!(Understood::of(line).step, step, "{line}");
    }
    // A message that has another error of the kernel than the line is not near.
    let near =
        |line: &str| Understood::of(line).nearest.iter().map(|near| near.id.name()).collect::<Vec<_>>();
    let line = |error: &str| format!("open userns path /var/run/userns/1 of namespaces: {error}");
    assert!(!near(&line("invalid argument")).contains(&"sandbox-namespace-gone"));
}

#[test]
fn rules_that_were_too_general_are_not() {
    are(&[
        // crun's own words: its function crun_safe_ensure_at.
        (
            "Error: crun: creating `/run/secrets`: openat2 `run/secrets`: Permission denied: OCI permission denied",
            "mount-point-denied",
        ),
        ("bash: /usr/bin/ping: Operation not permitted", "shell-exec-denied"),
        ("sh: /opt/tool/bin/capture: Operation not permitted", "shell-exec-denied"),
        // systemd/systemd#4959
        (
            "systemd[12599]: capcheck.service: Failed to drop capabilities: Operation not permitted",
            "systemd-capabilities",
        ),
        (
            "open /var/lib/containers/storage/overlay/1/merged/dev/console: no such file or directory",
            "dev-console-missing",
        ),
        // podman#25080, #21319
        (
            "Error: crun: open `/home/u1/.local/share/containers/storage/overlay/41bf/merged`: Permission denied: OCI permission denied",
            "directory-not-accessible",
        ),
        (
            "Error: crun: make `/home/user/.local/share/containers/storage/overlay/a44a/merged` private: Permission denied: OCI permission denied",
            "directory-not-accessible",
        ),
        // nestybox/sysbox#1008
        ("could not insert 'br_netfilter': Operation not permitted", "module-denied"),
        // dovecot/docker#12
        ("imap-login: Fatal: chroot(/run/dovecot/login) failed: Operation not permitted", "chroot-denied"),
        // containers/container-selinux#136: a transition of a process, not the label of a file.
        (
            r#"type=AVC msg=audit(1624955388.759:582): avc:  denied  { transition } for  pid=1138 comm="3" path="/bin/busybox" dev="overlay" ino=12917485 scontext=staff_u:staff_r:container_runtime_t:s0 tcontext=system_u:system_r:container_t:s0:c161,c260 tclass=process permissive=0"#,
            "selinux-denied",
        ),
    ]);
    for (line, not) in [
        ("app: creating `report`: cannot read template: Permission denied", "mount-point-denied"),
        // A file that cannot be changed (chattr +i), not a program.
        ("bash: /data/journal: Operation not permitted", "shell-exec-denied"),
        ("sh: /usr/bin/x y: Operation not permitted", "shell-exec-denied"),
        ("bash: fork: Operation not permitted", "shell-exec-denied"),
        // lxc/lxc#317
        ("lxc-start: failed to drop capabilities", "systemd-capabilities"),
        ("dnsmasq: failed to drop capabilities: Operation not permitted", "systemd-capabilities"),
        ("agetty[7]: /dev/console: No such file or directory", "dev-console-missing"),
        ("could not insert 'x': Unknown symbol in module", "module-denied"),
        // A handle in a mount, not a standard stream: google/gvisor#11696.
        (r#"mount("", "/proc/self/fd/17", "", 0x84000, "") failed: permission denied"#, "stdio-denied"),
    ] {
        assert_ne!(found(line), Some(not), "{line}");
    }
}
