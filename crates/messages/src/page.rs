//! `docs/errors.md`, made of the tables.

use std::fmt::Write as _;

use super::coverage::{Reason, SOURCES, Verdict};
use super::{Message, Program};

const INTRODUCTION: &str = r#"# Error messages

These are messages of the kubelet, container runtimes, systemd and programs in pods that are related to user
namespaces. They are shown as they are printed; numbers and names differ, and `…` stands for other text. `usernsd
explain --from-log` recognises them in a line of a log:

```console fresh
# usernsd explain --from-log "Failed to create /init.scope control group: Permission denied"
Message  Failed to create /init.scope control group: Permission denied
Cause    systemd is PID 1 of the container, and the container's cgroup is not its own.
Fix      Run usernsd on the node, with NRI or its hook; usernsd explain POD shows what is missing.
More     docs/errors.md#systemd-init-scope-denied, docs/architecture.md
```

Without a line it reads the standard input, such as the output of `journalctl -u kubelet`, and prints each message once
with its number of occurrences, the newest first. For an unknown line, it prints the program, the step
that failed, what the kernel's error or the program's sentence usually means in that step, where to look next, and the most
similar known messages; a failure that concerns no user namespace is named as such. `usernsd explain POD` looks for the messages in the log of a container that has ended. This page is generated
from the same tables.
"#;

/// `docs/errors.md`.
#[must_use]
pub fn documented_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    counts(&mut page);
    for program in Program::ALL {
        let _ = write!(page, "\n## {}\n", program.name());
        for Message { id, sample, cause, fix, page: more, .. } in program.messages() {
            let _ =
                write!(page, "\n### {id}\n\n```text\n{sample}\n```\n\n{cause}\n\n**What to do:** {fix}\n");
            if !more.is_empty() {
                let _ = write!(page, "\nMore: [{more}]({more})\n");
            }
        }
    }
    page
}

/// How much of the sources is known.
fn counts(page: &mut String) {
    let (mut all_known, mut all_listed) = (0, 0);
    page.push_str(
        "\n## Coverage\n\n\
         These sources were searched for the error texts that concern ID mappings, ID-mapped mounts, cgroups, sysfs and \
         proc, and subordinate IDs.\n\n\
         | program | versions | texts | explained here | not explained |\n|---|---|---|---|---|\n",
    );
    for source in SOURCES {
        let known = source.texts().filter(|text| matches!(text.verdict, Verdict::Known(_))).count();
        let listed = source.texts().count() - known;
        let versions = source.versions.join(", ");
        let _ = writeln!(page, "| {} | {versions} | {} | {known} | {listed} |", source.name, known + listed);
        all_known += known;
        all_listed += listed;
    }
    let _ = writeln!(page, "| all | | {} | {all_known} | {all_listed} |", all_known + all_listed);
    page.push_str("\nWhy a text is not explained:\n\n| reason | texts |\n|---|---|\n");
    for reason in Reason::ALL {
        let is_so = |verdict: Verdict| matches!(verdict, Verdict::Listed(listed) if listed == reason);
        let texts = SOURCES.iter().flat_map(|source| source.texts());
        let count = texts.filter(|text| is_so(text.verdict)).count();
        let _ = writeln!(page, "| {} | {count} |", reason.sentence());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::all;

    #[test]
    fn pages_that_messages_name_exist() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        for message in all().filter(|message| !message.page.is_empty()) {
            let (file, anchor) = message.page.split_once('#').unwrap_or((message.page, ""));
            let text = std::fs::read_to_string(docs.join(file)).unwrap_or_default();
            assert!(!text.is_empty(), "{}: {}", message.id, message.page);
            let has_anchor = text.lines().any(|line| line.trim_start_matches('#').trim() == anchor);
            assert!(anchor.is_empty() || has_anchor, "{}: {}", message.id, message.page);
        }
    }
}
