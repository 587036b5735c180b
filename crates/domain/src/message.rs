//! Messages of other programs that have to do with user namespaces, as their sources print them:
//! what is behind each, and what to do about it. `docs/errors.md` is made of this table.

use std::fmt::Write as _;

mod crio;
mod kubelet;
mod others;

/// Program by program, in the order of the documentation.
const TABLES: [&[Message]; 8] = [
    kubelet::KUBELET,
    crio::CRIO,
    others::CONTAINERD,
    others::NRI,
    others::OCI,
    others::SYSTEMD,
    others::OPENSHIFT,
    others::USERNSD,
];

/// A known message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its name, which is its place in `docs/errors.md`.
    pub id: &'static str,
    /// Who prints it.
    pub program: &'static str,
    /// The parts of it that never change, in their order.
    pub parts: &'static [&'static str],
    /// One as it is printed; `…` stands for what differs.
    pub sample: &'static str,
    /// What is behind it.
    pub cause: &'static str,
    /// What to do about it.
    pub fix: &'static str,
    /// Where more is said, below `docs/`; empty where the fix says it all.
    pub page: &'static str,
}

const fn row(
    id: &'static str,
    program: &'static str,
    parts: &'static [&'static str],
    sample: &'static str,
    [cause, fix]: [&'static str; 2],
    page: &'static str,
) -> Message {
    Message { id, program, parts, sample, cause, fix, page }
}

/// Every known message, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Message> {
    TABLES.iter().copied().flatten()
}

/// Finds the message in a line of a log. Of several that fit, the one that says most.
///
/// Lines of logs may hold it quoted: `\"` stands for `"` in them.
#[must_use]
pub fn recognise(line: &str) -> Option<&'static Message> {
    let plain = line.replace("\\\"", "\"");
    let fits = all().filter(|message| message.fits(line) || message.fits(&plain));
    fits.max_by_key(|message| message.parts.iter().map(|part| part.len()).sum::<usize>())
}

/// `docs/errors.md`.
#[must_use]
pub fn documented_markdown() -> String {
    let mut page = String::from(
        "# Error messages\n\n\
         Messages of the kubelet, of runtimes and of systemd that have to do with user namespaces, as they are printed;\n\
         numbers and names differ, and `…` stands for more. `usernsd explain --from-log` finds them in a line of a log:\n\n\
         ```console fresh\n\
         # usernsd explain --from-log \"Failed to create /init.scope control group: Permission denied\"\n\
         Message  Failed to create /init.scope control group: Permission denied\n\
         Cause    systemd is PID 1 of the container, and the container's cgroup is not its own.\n\
         Fix      Run usernsd on the node, with NRI or its hook; usernsd explain POD says what is missing.\n\
         More     docs/errors.md#systemd-init-scope-denied, docs/architecture.md\n\
         ```\n\n\
         Without a line it reads the standard input, such as `journalctl -u kubelet`.\n\
         `usernsd explain POD` looks for them in the log of a container that has ended. This page is made of the same\n\
         table.\n",
    );
    let mut program = "";
    for message in all() {
        if message.program != program {
            program = message.program;
            let _ = write!(page, "\n## {program}\n");
        }
        let Message { id, sample, cause, fix, .. } = message;
        let _ = write!(page, "\n### {id}\n\n```text\n{sample}\n```\n\n{cause}\n\n**What to do:** {fix}\n");
        if !message.page.is_empty() {
            let _ = write!(page, "\nMore: [{0}]({0})\n", message.page);
        }
    }
    page
}

// === impl Message ===

impl Message {
    fn fits(&self, line: &str) -> bool {
        let mut rest = line;
        self.parts.iter().all(|part| match rest.split_once(part) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::guard;

    #[test]
    fn each_is_recognised_by_what_its_source_prints() {
        for message in all() {
            let sample = message.sample;
            for line in [
                sample.to_owned(),
                // As the kubelet's log and a JSON log quote it.
                format!(
                    "E1121 11:00:00.000000 1234 pod_workers.go:1] \"Error syncing pod\" err=\"{}\"",
                    sample.replace('"', "\\\"")
                ),
                format!("{{\"level\":\"error\",\"msg\":\"{}\"}}", sample.replace('"', "\\\"")),
                format!("2026-11-21T11:00:00.000000000Z stderr F {sample}"),
            ] {
                let found = recognise(&line).map(|found| found.id);
                assert_eq!(found, Some(message.id), "{line}");
            }
        }
    }

    #[test]
    fn other_lines_are_not() {
        for line in [
            "",
            "Failed to start nginx.service: Permission denied",
            "rpc error: code = Unknown desc = context deadline exceeded",
            "mount: /data: permission denied",
            "level=info msg=\"Allowed annotations are specified for workload [io.containers.trace-syscall]\"",
            "E1121 1 kubelet.go:1] \"Failed to start ContainerManager\" err=\"system validation failed\"",
        ] {
            assert_eq!(recognise(line), None, "{line}");
        }
    }

    #[test]
    fn other_numbers_and_names_change_nothing() {
        for (line, want) in [
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
        ] {
            assert_eq!(recognise(line).map(|found| found.id), Some(want), "{line}");
        }
    }

    #[test]
    fn its_own_refusal_is_known() {
        let refusal = guard::refusal("prod", "web-0", "nginx");
        assert_eq!(recognise(&refusal).map(|found| found.id), Some("usernsd-refused"));
    }

    #[test]
    fn the_table_is_whole() {
        let mut ids = BTreeSet::new();
        for message in all() {
            let Message { id, cause, fix, page, .. } = message;
            assert!(ids.insert(id), "{id} twice");
            assert!(
                id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{id}"
            );
            for sentence in [cause, fix] {
                assert!(sentence.ends_with('.') && !sentence.contains("  "), "{id}: {sentence}");
            }
            let file = page.split('#').next().unwrap();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file);
            assert!(page.is_empty() || path.is_file(), "{id}: {page}");
            if let Some((_, anchor)) = page.split_once('#') {
                let text = std::fs::read_to_string(path).unwrap();
                assert!(
                    text.lines().any(|line| line.trim_start_matches('#').trim() == anchor),
                    "{id}: {page}"
                );
            }
        }
        assert!(ids.len() >= 40);
    }

    proptest! {
        #[test]
        fn never_panics(line in any::<String>()) {
            let _ = recognise(&line);
        }
    }
}
