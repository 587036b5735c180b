//! The tables of messages, and the wordings of their sources.

use std::collections::BTreeSet;

use super::{are, found};
use crate::coverage::{SOURCES, Verdict};
use crate::*;
use usernsd_domain::finding::FindingId;
use usernsd_domain::guard;

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
    for (effect, cause) in FOLLOWS {
        assert!(follows(effect, &[cause]) && !follows(effect, &[effect]));
    }
    // A finding of that name has no section in docs/errors.md.
    let findings = FindingId::ALL.map(FindingId::name);
    assert!(findings.iter().all(|name| !ids.contains(name)), "{findings:?}");
    assert!(ids.len() >= 140, "{}", ids.len());
}

#[test]
fn each_text_of_the_sources_is_known_or_listed() {
    let mut others = Vec::new();
    for source in SOURCES {
        assert!(source.versions.len() >= 3, "{}", source.name);
        for text in source.texts() {
            let line = text.printed.unwrap_or(text.text);
            let want = match text.verdict {
                Verdict::Known(message) => Some(message.name()),
                Verdict::Listed(_) => None,
            };
            let found = found(line);
            if found != want {
                others.push(format!("{found:?} and not {want:?}: {}: {line}", source.name));
            }
        }
    }
    assert!(others.is_empty(), "\n{}", others.join("\n"));
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
