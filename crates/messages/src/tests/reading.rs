//! Whole logs, and lines in the forms in which logs, terminals and web pages show them.

use proptest::prelude::*;

use crate::*;

/// The messages in a text, the newest first, with the number of lines of each.
fn ids(text: &str) -> Vec<(&'static str, usize)> {
    log::read(text).known.iter().map(|found| (found.what.id.name(), found.count)).collect()
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
    assert_eq!((of(line).program.as_deref(), of(line).step), (Some("runc"), Some(log::Step::MappedMount)));
    // A message with a longer wording of the same words comes after it.
    assert_eq!(nearest(line).first(), Some(&"runc-idmap"), "{:?}", nearest(line));

    let line = "newuidmap: write to uid_map failed: odd";
    assert_eq!((of(line).program.as_deref(), of(line).step), (Some("newuidmap"), Some(log::Step::Mapping)));
    assert_eq!(nearest(line).first(), Some(&"newuidmap"), "{:?}", nearest(line));

    let line = "kubelet user assigned identifiers 17 are not enough to support all pods";
    assert_eq!(nearest(line).first(), Some(&"kubelet-too-few-ids"), "{:?}", nearest(line));

    // A directory of its name is not the program.
    assert_eq!(of("failed to mount /var/lib/kubelet/pods/1/x: no such device").program, None);

    // A text of the sources that no message stands for.
    let line = "failed to sync with parent: SYNC_USERMAP_ACK: got 17";
    assert_eq!(of(line).listed, Some(("runc", coverage::Reason::Internal)));

    // What the kernel's error usually means in the step, by the last error of the line.
    for (line, step, usual) in [
        ("x: permission denied: mount foo: operation not permitted", log::Step::Mount, "SYS_ADMIN"),
        ("tool: cannot make new namespace: no space left on device", log::Step::Namespace, "not the disk"),
        ("tool: open /sys/fs/cgroup/x/pids.new: read-only file system", log::Step::Cgroup, "read-only"),
        ("tool: idmap of /data: invalid argument", log::Step::MappedMount, "NFS"),
        ("tool: uid_map of child: operation not permitted", log::Step::Mapping, "/proc/self/uid_map"),
        ("crio[1]: panic: index out of range", log::Step::Crash, "fault of the program"),
    ] {
        assert_eq!(of(line).step, Some(step), "{line}");
        assert!(of(line).usual.is_some_and(|output| output.contains(usual)), "{line}: {:?}", of(line).usual);
    }
    // A line about another program's end, or about something that is done without, sends to other lines.
    for (line, step, usual) in [
        (
            "rootlesskit[25526]: [rootlesskit:child ] error: command [buildkitd] exited: exit status 1",
            log::Step::Ended,
            "before it",
        ),
        (
            "ERRO error parsing PID \"\": strconv.Atoi: parsing \"\": invalid syntax",
            log::Step::Ended,
            "before it",
        ),
        ("tool[7]: helper exited with status 3", log::Step::Ended, "before it"),
        (
            "Short read while reading cgroup mode (0 bytes). The child is most likely dead.",
            log::Step::Ended,
            "before it",
        ),
        (
            "WARN[0000] Additional gid=20 is not present in the user namespace, skip setting it",
            log::Step::Ignored,
            "goes on",
        ),
        (
            "Failed to read AF_UNIX datagram queue length, ignoring: No such file or directory",
            log::Step::Ignored,
            "goes on",
        ),
        ("tool[7]: could not raise my priority, ignoring: Permission denied", log::Step::Ignored, "goes on"),
        ("Setting mailbox file permissions: Invalid argument", log::Step::Owner, "not mapped"),
        ("cp: preserving permissions for ‘t’: Invalid argument", log::Step::Owner, "not mapped"),
        ("rsync: chgrp \"/data/x\" failed: Invalid argument (22)", log::Step::Owner, "not mapped"),
        (
            "[78924.510510] overlayfs: failed to resolve '/var/lib/containers/storage/overlay/1/mapped/0/l/2': -13",
            log::Step::Rootfs,
            "do not belong",
        ),
        (
            "[   64.825991] overlayfs: failed to resolve '/snapshots/2/fs': -2",
            log::Step::Rootfs,
            "pull it again",
        ),
        ("[9.1] xfs: cannot mount with idmap /data: -22", log::Step::MappedMount, "does not support"),
        (
            "Failed to set up ID mapped mounts: Device or resource busy",
            log::Step::MappedMount,
            "below the directory",
        ),
        ("Failed to set up ID mapped mounts: Operation not permitted", log::Step::MappedMount, "RHEL 9"),
        (
            "systemd-nspawn[9]: Failed to map ids for bind mount /run/x/a/file: Invalid argument",
            log::Step::MappedMount,
            "symbolic link",
        ),
    ] {
        assert_eq!(of(line).step, Some(step), "{line}");
        assert!(of(line).usual.is_some_and(|output| output.contains(usual)), "{line}: {:?}", of(line).usual);
    }
    let program = |line: &str| of(line).program;
    assert_eq!(
        program("systemd-nspawn[9]: Failed to map ids for bind mount /x: Invalid argument").as_deref(),
        Some("systemd-nspawn")
    );
    assert_eq!(
        program("x systemd[1577]: podman-1.scope: Failed to set up something: Permission denied").as_deref(),
        Some("systemd")
    );
    // No word names what was refused.
    let refused = of("tool: could not open /data/x: permission denied");
    assert_eq!(refused.step, Some(log::Step::Refused));
    assert!(refused.usual.is_some_and(|output| output.contains("65534")), "{refused:?}");
    assert_eq!(of("tool: could not open /data/x: no such file or directory").step, Some(log::Step::Absent));

    // A word that ends with another is not that one.
    assert_eq!(of("tool: preidmap[26]: name 'root' is not in domain 'lan'").step, None);
    assert_eq!(of("error: this tool needs sandboxing").step, None);

    // The texts with which runtimes introduce each error are near nothing, nor is what shares a common word or two.
    for line in [
        "Error response from daemon: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: cannot frobnicate",
        "FATA[0000] failed to create shim task: OCI runtime create failed: cannot set swap limit without the memory limit: unknown",
        "crio[2286]: panic: runtime error: index out of range [0] with length 0",
    ] {
        let near = nearest(line);
        assert!(
            !near.contains(&"containerd-runtime-features")
                && !near.contains(&"crio-runtime-too-old")
                && !near.contains(&"kubelet-record-out-of-range"),
            "{near:?}"
        );
    }
    assert!(of("nothing of that kind").is_nothing());
    assert!(of("Started Session 12 of User root.").nearest.is_empty());
}

proptest! {
    #[test]
    fn any_line_is_explained_without_panic(line in any::<String>()) {
        let _ = recognise(&line);
        let _ = log::read(&line);
        let _ = log::Understood::of(&line);
    }
}

#[test]
fn a_message_is_known_in_each_form_in_which_logs_show_it() {
    for (line, want) in [
        // Colours, of a terminal and as a syslog daemon or a JSON log writes them.
        (
            "[\u{1b}[0;1;31mFAILED\u{1b}[0m] Failed to start \u{1b}[0;1;39mnginx.service\u{1b}[0m - nginx.",
            "systemd-unit-failed",
        ),
        ("#033[0;31mError#033[0m: cannot clone: #033[1mOperation not permitted#033[0m", "unshare-denied"),
        (
            r#"{"log":"\u001b[31mcannot clone: \u001b[1mOperation not permitted\u001b[0m\n","stream":"stderr"}"#,
            "unshare-denied",
        ),
        // A journal in JSON, with a message of bytes.
        (
            r#"{"PRIORITY":"3","MESSAGE":[99,97,110,110,111,116,32,27,91,49,109,99,108,111,110,101,58,32,79,112,101,114,97,116,105,111,110,32,110,111,116,32,112,101,114,109,105,116,116,101,100]}"#,
            "unshare-denied",
        ),
        // JSON and HTML escape what they need not.
        (
            r#"{"msg":"audit: apparmor=\"DENIED\" operation=\"signal\" profile=\"crio-default\" peer=\"crio-default//\u0026unconfined\""}"#,
            "apparmor-stacked-peer",
        ),
        ("newuidmap: uid range [0-1) -&gt; [1000-1001) not allowed", "newuidmap-not-allowed"),
        ("default_runtime set to &quot;crun&quot;, but no runtime entry table", "crio-default-runtime"),
        // Other quotation marks, or those that a page made of them.
        ("chown: changing ownership of ‘/dev/stdout’: Operation not permitted", "stdio-denied"),
        (
            "Error: crun: mount 'proc' to 'proc': Operation not permitted: OCI permission denied",
            "proc-denied",
        ),
        ("error mounting “sysfs” to rootfs at “/sys”: operation not permitted", "sysfs-denied"),
        // Spaces.
        ("type=AVC msg=audit(1.1:1): avc: denied { mounton } for pid=1", "selinux-mount"),
        ("newuidmap:\u{a0}write to uid_map  failed:\tOperation not permitted", "newuidmap"),
        // Other languages.
        ("newuidmap: write to uid_map failed: Vorgang nicht zulässig", "newuidmap"),
        ("newgidmap: write to gid_map failed: Opération non permise", "newuidmap"),
        (
            "mkdir: das Verzeichnis »/sys/fs/cgroup/init« kann nicht angelegt werden: Keine Berechtigung",
            "cgroup-denied",
        ),
        (
            "mkdir: impossible de créer le répertoire « /sys/fs/cgroup/init »: Système de fichiers accessible en lecture seulement",
            "cgroup-read-only",
        ),
        ("bash: /sys/fs/cgroup/cgroup.subtree_control: 设备或资源忙", "cgroup-busy"),
        (
            "unshare: не удалось выполнить unshare failed: На устройстве не осталось свободного места",
            "no-user-namespaces-left",
        ),
    ] {
        assert_eq!(ids(line), [(want, 1)], "{line}");
    }
}

#[test]
fn a_line_that_was_cut_off_is_known_unless_it_could_be_another() {
    let noop = "failed to create network namespace for sandbox \"1\": failed to start noop process for unshare: fork/exec /proc/self/exe: ";
    assert_eq!(ids(&format!("{noop}no space lef…")), [("no-user-namespaces-left", 1)]);
    assert_eq!(ids(&format!("{noop}operation not")), [("noop-process-denied", 1)]);
    assert_eq!(ids(noop), []);
    assert_eq!(
        ids("kubelet mappings: exec: \"getsubids\": executable file not fou>"),
        [("kubelet-getsubids-not-found", 1)]
    );
    assert_eq!(ids("kubelet user assigned IDs"), []);
    // Three messages begin like this, and the missing error tells them apart.
    assert_eq!(ids("[pinns:e]: Failed to unshare namespaces"), []);
}

#[test]
fn a_message_broken_over_lines_is_one() {
    let event = "  Warning  FailedCreatePodSandBox  2s  kubelet  Failed to create pod sandbox: failed to start noop process\n\
                 \x20   for unshare: fork/exec /proc/self/exe:\n\
                 \x20   no space left on device\n";
    assert_eq!(ids(event), [("no-user-namespaces-left", 1)]);
    let table = "│ Error: crun: mount `sysfs` to `sys`: Operation not p │\n│ ermitted: OCI permission denied                     │\n";
    assert_eq!(ids(table), [("sysfs-denied", 1)]);
    // A line that is known by itself is no part of another.
    let two = "cannot clone: Operation not permitted\nnewuidmap: write to uid_map failed:\nOperation not permitted\n";
    assert_eq!(ids(two), [("newuidmap", 1), ("unshare-denied", 1)]);
}

#[test]
fn a_line_with_the_errors_of_several_programs_has_a_message_of_each() {
    let line = "unable to start container process: error mounting \"proc\" to rootfs at \"/proc\": operation not permitted; \
                cleaning up: write /sys/fs/cgroup/cgroup.subtree_control: device or resource busy";
    let mut found: Vec<_> = ids(line).into_iter().map(|(id, _)| id).collect();
    found.sort_unstable();
    assert_eq!(found, ["cgroup-busy", "proc-denied"]);
    // What newuidmap says itself is the cause of what its caller says.
    assert_eq!(
        ids(
            "running `/usr/bin/newuidmap 60 0 1001 1 1 100000 2000000`: newuidmap: Target process 60 is owned by a different user: uid:1001 pw_uid:1001 st_uid:1001, gid:123 pw_gid:12345 st_gid:123"
        ),
        [("newuidmap-other-user", 1)]
    );
    // Parts of one message are not messages.
    assert_eq!(
        ids(
            "potentially insufficient UIDs or GIDs available in user namespace (requested 0:12 for /x): lchown /x: invalid argument"
        ),
        [("insufficient-ids", 1)]
    );
    assert_eq!(
        ids(
            "\"Updating kernel flag failed (Hint: enable KubeletInUserNamespace feature flag to ignore the error)\" err=\"open /proc/sys/kernel/panic: permission denied\""
        ),
        [("kubelet-in-user-namespace", 1)]
    );
}

#[test]
fn a_text_of_a_source_in_the_middle_of_a_sentence_is_not_that_sources() {
    // The kubelet's is "create user namespace: …".
    let program = |line: &str| log::Understood::of(line).program;
    assert_eq!(program("Failed to create user namespace: Bad address"), None);
    assert_eq!(program("user: create user namespace: bad address").as_deref(), Some("kubelet"));
}

#[test]
fn a_line_of_another_program_is_not_taken_for_the_one_with_the_same_words() {
    let mount = r#"error mounting "/var/lib/kubelet/x" to rootfs at "/y": mount /var/lib/kubelet/x:/y (via /proc/self/fd/6), flags: 0x5000: permission denied"#;
    let user = r#"cannot find mappings for user "containers2": no subuid ranges found for user "containers2" in /etc/subuid"#;
    for (line, want) in [
        (mount, Some("engine-mount-denied")),
        (user, Some("automatic-user-no-range")),
        ("sh: write /proc/self/oom_score_adj: permission denied", Some("engine-oom-score")),
        ("open /dev/ttyUSB0: Permission denied", Some("device-denied")),
        ("open /dev/tty: Permission denied", None),
        ("com.amazonaws.services.kms.model.AccessDeniedException: null", None),
        ("sysctl: kernel.unprivileged_userns_clone = 1", None),
        ("fatal: git clone: Operation not permitted", None),
        ("applyFSGroup failed for vol pvc-1: lstat /x: no such file or directory", None),
    ] {
        assert_eq!(recognise(line).map(|found| found.id.name()), want, "{line}");
    }
}

#[test]
fn a_line_and_a_log_of_that_line_have_the_same_message() {
    let two_of_one_length = "PodSecurityPolicy: unable to admit pod: [spec.securityContext.hostNetwork: Invalid value: true: Host network is not allowed to be used]";
    for line in all().map(|message| message.sample).chain([two_of_one_length]) {
        assert_eq!(
            ids(line).first().map(|(id, _)| *id),
            recognise(line).map(|found| found.id.name()),
            "{line}"
        );
    }
}
