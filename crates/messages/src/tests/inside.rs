//! Messages of programs in a pod.

use super::{are, found};
use crate::*;

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
        ("Error: cannot set up namespace using \"/usr/bin/newuidmap\": exit status 1", "newuidmap-failed"),
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
fn a_device_is_distinguished_from_a_containers_own_files_in_dev() {
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
fn further_programs_in_a_pod_are_known() {
    are(&[
        // A systemd that knows cgroup v1 only.
        ("Failed to mount tmpfs at /sys/fs/cgroup: Operation not permitted", "systemd-cgroup-v1-only"),
        ("Failed to mount cgroup at /sys/fs/cgroup/systemd: Permission denied", "systemd-cgroup-v1-only"),
        // systemd/systemd#19740
        ("Failed to allocate manager object: Operation not permitted", "systemd-no-manager"),
        // Output by name.
        (r#"nginx: [emerg] open() "/dev/stdout" failed (13: Permission denied)"#, "stdio-denied"),
        ("chown: changing ownership of ‘/proc/self/fd/1’: Operation not permitted", "stdio-denied"),
        // containers/container-selinux#257
        ("Error during unshare(CLONE_NEWUSER): Permission denied", "unshare-denied"),
        // containers/podman#16921
        ("Error: cannot re-exec process to join the existing user namespace", "join-user-namespace-invalid"),
        // secureblue/secureblue#754
        ("cannot clone: Permission denied", "unshare-denied"),
    ]);
}

#[test]
fn selinux_denials_are_recognised_by_the_denied_access() {
    are(&[
        // secureblue/secureblue#754
        (
            r#"Jan 01 12:34:02 secureblue audit[40473]: AVC avc:  denied  { create } for  pid=40473 comm="podman" scontext=unconfined_u:unconfined_r:container_runtime_t:s0-s0:c0.c1023 tcontext=unconfined_u:unconfined_r:container_runtime_t:s0-s0:c0.c1023 tclass=user_namespace permissive=0"#,
            "selinux-userns",
        ),
        // containers/podman#26157
        (
            r#"type=AVC msg=audit(1747693292.179:1032): avc:  denied  { setgid } for  pid=6181 comm="pasta.avx2" capability=6  scontext=unconfined_u:unconfined_r:pasta_t:s0-s0:c0.c1023 tcontext=unconfined_u:unconfined_r:pasta_t:s0-s0:c0.c1023 tclass=cap_userns permissive=0"#,
            "selinux-userns",
        ),
        // containers/container-selinux#169
        (
            r#"type=AVC msg=audit(1644242078.475:706): avc:  denied  { read } for  pid=3831 comm="date" path="/lib/ld-musl-x86_64.so.1" dev="vda1" ino=265972 scontext=system_u:system_r:container_t:s0:c196,c287 tcontext=unconfined_u:object_r:var_lib_t:s0 tclass=file permissive=0"#,
            "selinux-file",
        ),
        (
            r#"type=AVC msg=audit(1539652620.118:1546): avc:  denied  { write } for  pid=17729 comm="systemd" name="release_agent" dev="cgroup" ino=7 scontext=system_u:system_r:container_t:s0:c327,c646 tcontext=system_u:object_r:cgroup_t:s0 tclass=file permissive=0"#,
            "selinux-cgroup",
        ),
        // A user's program, such as D-Bus.
        (
            r#"type=USER_AVC msg=audit(1634059868.849:168): pid=931 uid=81 subj=system_u:system_r:system_dbusd_t:s0-s0:c0.c1023 msg='avc:  denied  { send_msg } for msgtype=method_call scontext=system_u:system_r:xdm_t:s0-s0:c0.c1023 tcontext=system_u:system_r:timedatex_t:s0 tclass=dbus permissive=0'"#,
            "selinux-denied",
        ),
    ]);
    assert_eq!(found("type=AVC msg=audit(1.1:1): avc:  granted  { setsecparam } for  pid=1"), None);
}
