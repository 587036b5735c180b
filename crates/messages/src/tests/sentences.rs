//! Lines without an error of the kernel in its own words: statements of programs, names of errors in a language's form, exit
//! statuses. And failures that concern no user namespace, which must not be blamed on one.

use super::operations::mean;
use super::{are, found};
use crate::log::{Step, Understood};

#[test]
fn owners_that_a_program_checks_itself_are_no_refusal_of_the_kernel() {
    mean(&[
        // coreos/bugs#1812
        (
            r#"Unsafe AuthorizedKeysCommand "/usr/bin/sss_ssh_authorizedkeys": bad ownership or modes for directory /"#,
            Step::OwnerCheck,
            "65534",
        ),
        // Written for this test: git, PostgreSQL, ssh, cron, a key.
        ("fatal: unsafe repository ('/src' is owned by someone else)", Step::OwnerCheck, "mappings"),
        ("fatal: detected dubious ownership in repository at '/src'", Step::OwnerCheck, "refused nothing"),
        (r#"FATAL:  data directory "/pg" has wrong ownership"#, Step::OwnerCheck, "fsGroup"),
        ("(CRON) WRONG FILE OWNER: /etc/cron.d/backup is not owned by root", Step::OwnerCheck, "volume"),
        ("Permissions 0644 for '/keys/id_ed25519' are too open.", Step::OwnerCheck, "mappings"),
        ("config file /etc/tool.conf is world writable, refused", Step::OwnerCheck, "mode"),
    ]);
}

#[test]
fn a_user_without_a_name_is_not_one_that_is_not_mapped() {
    mean(&[
        // recyclarr/recyclarr#111, logrotate/logrotate#463, openshift/origin#8374
        ("whoami: unknown uid 1000", Step::UserName, "without a name"),
        ("error: Cannot find logrotate UID (1001) in passwd file: Success", Step::UserName, "/etc/passwd"),
        ("Unable to look up current user in the passwd file: no such user", Step::UserName, "runAsUser"),
        // Written for this test.
        ("KeyError: 'getpwuid(): uid not found: 185'", Step::UserName, "OpenShift"),
        ("No user exists for uid 1000680000", Step::UserName, "ssh"),
        ("chown: invalid user: 'www-data:www-data'", Step::UserName, "No mapping refuses it"),
    ]);
}

#[test]
fn checks_for_root_are_those_of_the_program() {
    mean(&[
        ("This script must be run as root", Step::NeedsRoot, "not root"),
        ("E: this command requires root privileges", Step::NeedsRoot, "allowPrivilegeEscalation"),
        ("tool: you must be superuser to do that", Step::NeedsRoot, "not root"),
        // kubernetes/minikube#19140, scylladb/scylla-operator#106
        (
            r#"Exiting due to DRV_AS_ROOT: The "podman" driver should not be used with root privileges."#,
            Step::RefusesRoot,
            "runAsUser",
        ),
        (
            "2020-05-29 14:21:05,586 CRIT Supervisor is running as root.  Privileges were not dropped because no user is specified in the config file.  If you intend to run as root, you can set user=root in the config file to avoid this message.",
            Step::RefusesRoot,
            "warning can be ignored",
        ),
        // jupyter/docker-stacks#956
        (
            r#"Container must be run with group "root" to update passwd file"#,
            Step::NeedsRoot,
            "another user or group",
        ),
        // Written for this test.
        ("the server must be started as the user that owns it", Step::NeedsRoot, "runAsUser"),
        ("initdb: error: cannot be run as root", Step::RefusesRoot, "user 0"),
        (
            "Running as root without --no-sandbox is not supported.",
            Step::RefusesRoot,
            "option that allows root",
        ),
    ]);
}

#[test]
fn a_setuid_program_of_another_owner_is_the_cause_itself() {
    are(&[
        // moby/moby#34119, #34064, systemd/systemd#6171
        ("mount: only root can do that (effective UID is 427680)", "setuid-owner-not-root"),
        ("sudo: /usr/bin/sudo must be owned by uid 0 and have the setuid bit set", "setuid-owner-not-root"),
        (
            r#"mount: only root can use "--types" option (effective UID is 395444224)"#,
            "setuid-owner-not-root",
        ),
        ("umount: only root can unmount x (effective UID is 100000)", "setuid-owner-not-root"),
        ("mount: only root can do that", "mount-denied"),
        // systemd/systemd#29656: not refused, but not visible.
        (
            "(signald)[283]: signald.service: Failed to set up user namespacing: No such file or directory",
            "systemd-service-hidden-proc",
        ),
        (
            "web.service: Failed at step USER spawning /usr/bin/web: No such file or directory",
            "systemd-service-hidden-proc",
        ),
        (
            "web.service: Failed to set up user namespacing: Operation not permitted",
            "systemd-service-other-namespace",
        ),
    ]);
}

#[test]
fn what_a_program_does_without_is_no_failure_and_a_path_is_not_its_end() {
    mean(&[
        // apptainer/apptainer#2441, #2190, #584; canonical/lxd#3411; actions-runner-controller#3586
        (
            "WARNING: fakeroot with unprivileged installation or 'allow setuid = no' could not use 'fakeroot' network, fallback to 'none' network",
            Step::Ignored,
            "goes on",
        ),
        ("WARN could not load the seccomp profile, continuing without", Step::Ignored, "goes on"),
        ("tool: overlay: permission denied, falling back to vfs", Step::Ignored, "goes on"),
        (
            "FATAL:   While performing build: conveyor failed to get: while copying pseudo devices: while creating /tmp/build-temp-535427745/rootfs/dev/null: operation not permitted",
            Step::DeviceNode,
            "cannot be created in a user namespace",
        ),
        ("tool: creating /x/merged/dev/zero: operation not permitted", Step::DeviceNode, "bind-mount"),
        (
            "ERROR:   Network fakeroot is not permitted for unprivileged users.",
            Step::NeedsRoot,
            "another user",
        ),
        ("only possible if allowed by the administrator; not root here.", Step::NeedsRoot, "rights"),
        (
            "error: Failed to run: /usr/bin/lxd forkstart dev /var/lib/lxd/containers /var/log/lxd/dev/lxc.conf:",
            Step::Ended,
            "own message",
        ),
        (
            "[ERROR] RootlessKit failed, see the error messages and https://example.com/ .",
            Step::Ended,
            "own message",
        ),
        ("Error: setup failed, check the log for details", Step::Ended, "own message"),
    ]);
    // A sysctl that is not there forbids nothing.
    are(&[
        ("sysctl: error: 'kernel.unprivileged_userns_clone' is an unknown key", "userns-sysctl-missing"),
        (
            "sysctl: cannot stat /proc/sys/kernel/apparmor_restrict_unprivileged_userns: No such file or directory",
            "userns-sysctl-missing",
        ),
        (
            "cat: /proc/sys/kernel/unprivileged_userns_clone: No such file or directory",
            "userns-sysctl-missing",
        ),
    ]);
}

#[test]
fn a_compound_name_is_one_word() {
    for (line, step) in [
        // nfrastack/db-backup#331
        ("s6-overlay-suexec: fatal: child failed with exit code 111", Step::Ended),
        ("app-mount-helper: error: exit status 3", Step::Ended),
        ("my-cgroup: error: Permission denied", Step::Refused),
    ] {
        assert_eq!(Understood::of(line).step, Some(step), "{line}");
    }
}

#[test]
fn what_is_not_writable_or_missing_is_understood_from_a_sentence() {
    mean(&[
        // recyclarr/recyclarr#111
        (
            "System.UnauthorizedAccessException: Access to the path '/config/repo' is denied.",
            Step::Refused,
            "fsGroup",
        ),
        // Written for this test: PHP, an entry point, Java, Elasticsearch.
        (
            "The stream or file \"/app/storage/log\" could not be opened: not writable",
            Step::Refused,
            "fsGroup",
        ),
        ("ERROR: /var/lib/app must be writable by user 1001", Step::Refused, "another user"),
        ("java.nio.file.AccessDeniedException: s3 object x", Step::Refused, "another user"),
        ("caused by: java.nio.file.NoSuchFileException: /opt/app/keystore.jks", Step::Absent, "image"),
        ("tool: ReadOnlyFileSystemException: null", Step::Refused, "read-only"),
        // koordinator-sh/koordinator#1993
        (
            r#"new nri mode runtimehooks server error: failed to validate nri server, err: nri socket path "/host-var-run/nri/nri.sock" does not exist"#,
            Step::Socket,
            "switched off",
        ),
        ("dial unix /run/containerd/containerd.sock: no such file or directory", Step::Socket, "not mounted"),
        // k3s-io/k3s#2942
        (
            r#"Failed to retrieve agent config: "fuse-overlayfs" snapshotter cannot be enabled for "/home/ec2-user/.rancher/k3s/agent/containerd", try using "native": fuse-overlayfs not functional, make sure running with kernel >= 4.18"#,
            Step::Fuse,
            "4.18",
        ),
        ("snapshotter overlayfs is not supported on this backing store", Step::Rootfs, "does not suit"),
        // systemd/systemd#38918
        (
            r#"systemd-nspawn[4371]: varlink: Received message: {"error":"io.systemd.NamespaceResource.UserNamespaceInterfaceNotSupported","parameters":{}}"#,
            Step::Unsupported,
            "does not show which",
        ),
        ("tool: quota of that kind is not supported", Step::Unsupported, "does not show which"),
        ("docker-entrypoint.sh: line 3: envsubst: command not found", Step::Absent, "PATH"),
    ]);
}

#[test]
fn d_bus_and_selinux_are_named_by_their_sentences() {
    mean(&[
        // podman#1429
        (
            r#"Failed to open connection to "session" message bus: Did not receive a reply. Possible causes include: the remote application did not send a reply, the message bus security policy blocked the reply"#,
            Step::Bus,
            "compares user IDs",
        ),
        // A call over the bus whose error is not about who may.
        ("dbus error sockopt_get_peersec: Invalid argument", Step::Rejected, "option, flag or type"),
        ("jeepney.auth: Authentication failed. Bus sent: b'REJECTED EXTERNAL'", Step::Bus, "by number"),
        ("dial unix /run/user/1001/bus: connect: permission denied", Step::Bus, "XDG_RUNTIME_DIR"),
        ("Could not acquire name on session bus", Step::Bus, "su and sudo"),
        // rancher/rke2#1865
        (
            r#"level=warning msg="SELinux is enabled for rke2 but process is not running in context 'container_runtime_t', rke2-selinux policy may need to be applied""#,
            Step::Selinux,
            "policy package",
        ),
        (
            "SELinux is preventing /usr/sbin/httpd from write access on the directory cache.",
            Step::Selinux,
            "User IDs have nothing to do with it",
        ),
        (
            "setroubleshoot[9]: SELinux is preventing systemd from mounton access on the directory /run/x.",
            Step::Selinux,
            "labels",
        ),
    ]);
}

#[test]
fn a_mapping_a_process_and_a_call_without_an_operation_have_possible_causes() {
    mean(&[
        // systemd/systemd#41014, #4583
        (
            "(sd-pid[3530]: test.service: Failed to write UID map: Operation not permitted",
            Step::Mapping,
            "newuidmap",
        ),
        ("tool: writing GID map of 17: Invalid argument", Step::Mapping, "an ID occurs twice"),
        ("Failed to fork inner child: Invalid argument", Step::Namespace, "no such namespaces"),
        ("tool: cannot fork: Resource temporarily unavailable", Step::Fork, "pids.max"),
        (
            "java.lang.OutOfMemoryError: unable to create native thread",
            Step::OutOfMemory,
            "memory has run out",
        ),
        ("runtime/cgo: pthread_create failed: Resource temporarily unavailable", Step::Fork, "RLIMIT_NPROC"),
        ("tool: sockopt_get_peersec: Invalid argument", Step::Rejected, "not mapped"),
        ("tool: error: Invalid argument (tool.c:519 22)", Step::Rejected, "option, flag or type"),
        (
            "Failed to start message bus: Failed to set GID to 81: Invalid argument",
            Step::Credentials,
            "not mapped",
        ),
        ("tool: cannot set uid: Operation not permitted", Step::Credentials, "SETUID"),
    ]);
}

#[test]
fn a_name_of_freedesktop_is_not_a_bus_and_what_was_not_found_was_a_failure() {
    mean(&[
        // flatpak/flatpak#5076, sylabs/singularity#4876
        (
            "Failed to install org.freedesktop.Platform.openh264: apply_extra script failed, exit status 256",
            Step::Ended,
            "another program",
        ),
        ("Failed to call org.freedesktop.hostname1.SetHostname: no reply", Step::Bus, "cannot use D-Bus"),
        ("no parent mount point found", Step::Mount, "does not have the kernel's reason"),
        ("volume /data: no mount found for it", Step::Mount, "does not have the kernel's reason"),
    ]);
}

#[test]
fn a_check_and_a_missing_program_count_before_the_words_behind_them() {
    mean(&[
        // ubuntu/aad-auth#399, SSSD/sssd#8166
        (
            "nss_aad: invalid ownership for /var/lib/aad/cache/passwd.db, expected 0:0 but got 65534:65534",
            Step::OwnerCheck,
            "an ID that is not mapped shows as 65534",
        ),
        (
            "Unexpected user owner of '/etc/sssd/sssd.conf': 1001000000",
            Step::OwnerCheck,
            "the program itself",
        ),
        ("tool: unexpected group owner of /etc/tool: 4242", Step::OwnerCheck, "the program itself"),
        ("check: /srv/key: expected owner root, found nobody", Step::OwnerCheck, "the program itself"),
        // containers/podman#13360, actions/actions-runner-controller#3159
        (
            "OCI runtime runsc initialization failed: no valid executable found for OCI runtime runsc: invalid argument",
            Step::Absent,
            "not on the node",
        ),
        ("OCI runtime youki: no executable found in PATH: invalid argument", Step::Absent, "not on the node"),
        (
            "failed to start daemon, ensure docker is not running: process with PID 32 is still running",
            Step::Exists,
            "from an earlier run",
        ),
        ("cannot start: another instance (pid 7) is still running", Step::Exists, "from an earlier run"),
    ]);
    are(&[
        // containers/podman#3541
        ("cannot specify gid= mount options for unmapped gid", "mount-option-not-mapped"),
        (
            "runc: cannot specify uid= mount options for unmapped uid in rootless containers",
            "mount-option-not-mapped",
        ),
    ]);
}

#[test]
fn a_runtime_directory_of_a_user_without_a_login_is_known() {
    const ID: &str = "no-runtime-directory";
    are(&[
        // containers/podman#5094
        ("mkdir /run/user/1001: permission denied", ID),
        ("mkdir: cannot create directory ‘/run/user/1000’: Permission denied", ID),
        ("error creating tmpdir: mkdir /run/user/0: permission denied", ID),
        ("mkdir /run/users: permission denied", "volume-write-denied"),
    ]);
}

#[test]
fn the_end_of_another_program_is_explained_by_its_status() {
    mean(&[
        ("s6-rc: fatal: child failed with exit code 127", Step::Ended, "not found"),
        ("Error: process exited with code 126", Step::Ended, "noexec"),
        (
            "web.service: Main process exited, code=exited, status=217/USER",
            Step::Ended,
            "not mapped in this container",
        ),
        ("container app exited with status 137", Step::Ended, "memory limit"),
        ("job exited with status 4", Step::Ended, "own message"),
        ("Back-off restarting failed container app in pod web-1_default(2)", Step::Ended, "own message"),
        // kubernetes-sigs/kind#1668
        (
            "Command Output: Error: can only create exec sessions on running containers: container state improper",
            Step::ContainerState,
            "has ended",
        ),
        ("Error response from daemon: No such container: web", Step::ContainerState, "never started"),
        ("cannot exec in a stopped container", Step::ContainerState, "has ended"),
    ]);
}

/// Words of answers that blame a user namespace, a mapping or a right.
const BLAME: [&str; 6] = ["hostUsers", "not mapped", "user.max_", "CHOWN", "SYS_ADMIN", "newuidmap"];

#[test]
fn failures_that_concern_no_user_namespace_are_not_blamed_on_one() {
    for (line, step) in [
        (r#"FATAL:  password authentication failed for user "postgres""#, Step::Login),
        ("ERROR 1045 (28000): Access denied for user 'root'@'10.0.3.7' (using password: YES)", Step::Login),
        ("git@github.com: Permission denied (publickey).", Step::Login),
        ("Host key verification failed.", Step::Login),
        ("error: You must be logged in to the server (Unauthorized)", Step::Login),
        (
            "pam_unix(sshd:auth): authentication failure; uid=0 euid=0 tty=ssh rhost=10.0.0.1  user=alice",
            Step::Login,
        ),
        (
            r#"Error from server (Forbidden): pods is forbidden: User "system:serviceaccount:default:app" cannot list resource "pods" in API group "" in the namespace "default""#,
            Step::ApiAccess,
        ),
        ("dial tcp 10.96.0.10:5432: connect: connection refused", Step::Unreachable),
        (
            r#"Get "https://10.96.0.1:443/api?timeout=32s": dial tcp 10.96.0.1:443: i/o timeout"#,
            Step::Unreachable,
        ),
        ("dial tcp: lookup db.default.svc.cluster.local on 10.96.0.10:53: no such host", Step::Unreachable),
        ("curl: (6) Could not resolve host: example.com", Step::Unreachable),
        ("connect to host 10.0.0.7 port 22: No route to host", Step::Unreachable),
        ("x509: certificate signed by unknown authority", Step::Tls),
        ("Error: listen EADDRINUSE: address already in use 0.0.0.0:8080", Step::Exists),
        ("nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)", Step::Exists),
        (
            "Out of memory: Killed process 23871 (java) total-vm:9812340kB, anon-rss:4012312kB, UID:1000 pgtables:8500kB oom_score_adj:985",
            Step::OutOfMemory,
        ),
        ("Last State: Terminated Reason: OOMKilled Exit Code: 137", Step::OutOfMemory),
        ("java.lang.OutOfMemoryError: Java heap space", Step::OutOfMemory),
        ("ModuleNotFoundError: No module named 'requests'", Step::Library),
        ("Error: Cannot find module '/app/server.js'", Step::Library),
        (
            "tool: error while loading shared libraries: libfoo.so.1: cannot open shared object file: No such file or directory",
            Step::Library,
        ),
        ("panic: runtime error: invalid memory address or nil pointer dereference", Step::Crash),
        ("Segmentation fault (core dumped)", Step::Crash),
        (
            r#"Failed to pull image "registry.example.com/app:1.4": failed to pull and unpack image: failed to resolve reference: not found"#,
            Step::ImagePull,
        ),
        (
            "Error: ErrImagePull: pull access denied, repository does not exist or may require authorization",
            Step::ImagePull,
        ),
        ("0/3 nodes are available: 3 Insufficient memory.", Step::Placement),
        ("The node was low on resource: ephemeral-storage.", Step::Placement),
        ("Readiness probe failed: HTTP probe failed with statuscode: 503", Step::Probe),
        ("error: timed out waiting for the condition", Step::Wait),
        ("rpc error: code = DeadlineExceeded desc = context deadline exceeded", Step::Wait),
        ("yaml: line 14: mapping values are not allowed in this context", Step::Configuration),
        (r#"invalid configuration: unknown field "replica" in apps/v1.DeploymentSpec"#, Step::Configuration),
        ("bwrap: Unknown option --argv0", Step::Configuration),
        ("Error: expected integer", Step::Configuration),
        ("bash: kubectl: command not found", Step::Absent),
        ("/bin/sh: 1: ./gradlew: not found", Step::Absent),
        (r#"MountVolume.SetUp failed for volume "config" : configmap "app-config" not found"#, Step::Mount),
        (
            "Error response from daemon: Conflict. The container name \"/web\" is already in use by container \"4f1c\".",
            Step::ContainerState,
        ),
        ("rm: cannot remove '/mnt/cifs/a': Device or resource busy", Step::Busy),
        ("npm ERR! code ERESOLVE npm ERR! ERESOLVE unable to resolve dependency tree", Step::Unclear),
        ("error: failed to push some refs to 'origin'", Step::Unclear),
        ("fork/exec /usr/bin/git: cannot allocate memory", Step::Exhausted),
    ] {
        let of = Understood::of(line);
        assert_eq!((of.step, found(line)), (Some(step), None), "{line}: {:?}", of.usual);
        let said = [of.usual, of.next].into_iter().flatten().collect::<Vec<_>>().join(" ");
        assert!(!said.is_empty() && !BLAME.iter().any(|blame| said.contains(blame)), "{line}: {said}");
        assert!(of.nearest.is_empty(), "{line}: {:?}", of.nearest);
    }
    // A full disk is one of several things that this error can mean.
    let full = Understood::of("write /var/lib/data/segment-000123.log: no space left on device");
    assert!(full.usual.is_some_and(|usual| usual.contains("inodes")), "{full:?}");
}

#[test]
fn messages_with_two_causes_name_both() {
    are(&[
        (
            "modprobe: FATAL: Module wireguard not found in directory /lib/modules/6.1.0-13-amd64",
            "module-missing",
        ),
        ("modprobe: ERROR: could not insert 'wireguard': Operation not permitted", "module-denied"),
        ("ls: cannot access 'x': Value too large for defined data type", "owner-overflow"),
        ("s6-chown: fatal: unable to chown /run: Operation not permitted", "chown-denied"),
        (
            r#"audit[19324]: AVC apparmor="DENIED" operation="change_profile" info="label not found" error=-2 namespace="root//lxd-web_<var-lib-lxd>" profile="unconfined" name="lxd-template_</var/lib/lxd>" pid=19324 comm="lxd""#,
            "apparmor-profile-missing",
        ),
        (
            r#"apparmor="DENIED" operation="change_onexec" info="label not found" error=-2 profile="/usr/bin/dockerd" name="docker-default" pid=7 comm="runc:[2:INIT]""#,
            "apparmor-profile-missing",
        ),
        (
            r#"apparmor="DENIED" operation="change_onexec" profile="/usr/bin/dockerd" pid=19306 comm="runc:[2:INIT]" target="docker-default""#,
            "apparmor-denied",
        ),
    ]);
    let cause = |line: &str| crate::recognise(line).map(|message| message.cause).unwrap_or_default();
    assert!(cause("chown: changing ownership of '/srv/x': Operation not permitted").contains("not root"));
    assert!(cause("ls: cannot access 'x': Value too large for defined data type").contains("32-bit"));
    // A device of the node, which nobody was to own.
    for line in [
        "PermissionError: [Errno 1] Operation not permitted: '/dev/video0'",
        "PermissionError: [Errno 1] Operation not permitted: '/proc/sys/kernel/x'",
    ] {
        assert_ne!(found(line), Some("chown-denied"), "{line}");
    }
}

#[test]
fn a_line_of_which_nothing_is_understood_is_not_said_to_concern_no_user_namespace() {
    for line in
        ["x[3]: userns 17 failed: strange", "error: the control group is odd", "tool: subuid: error 9x"]
    {
        assert_ne!(Understood::of(line).step, Some(Step::Unclear), "{line}");
    }
    // Nor is a line about who may do what.
    for line in ["error: that is not allowed here", "tool failed: ownership", "error: capability x"] {
        assert_ne!(Understood::of(line).step, Some(Step::Unclear), "{line}");
    }
    // Nor is what reports no failure.
    for line in ["Started nginx.", "ready on port 80", "done in 3 s"] {
        assert!(Understood::of(line).is_nothing(), "{line}");
    }
}

#[test]
fn the_program_of_an_understood_line_is_named_by_its_form() {
    for (line, program) in [
        ("su: Authentication failure", "su"),
        ("web-1  | whoami: unknown uid 1000", "web-1"),
        ("Nov 21 11:00:00 n1 backup[7]: error: Cannot find user", "backup"),
        ("/opt/app/start.sh: line 4: ./app: Permission denied", "start.sh"),
    ] {
        assert_eq!(Understood::of(line).program.as_deref(), Some(program), "{line}");
    }
}
