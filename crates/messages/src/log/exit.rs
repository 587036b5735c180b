//! The meanings of exit statuses: `sh(1)`, `systemd.exec(5)`, `podman-run(1)`.

/// Texts before a status.
const MARKS: [&str; 9] = [
    "exit status ",
    "exit status: ",
    "exit code ",
    "exit code: ",
    "exited with status ",
    "exited with code ",
    "error code: ",
    "error code ",
    "status=",
];

/// The meaning of the exit status in a line; `None` without a status, or for one that each program uses in its own way.
pub(super) fn meaning(line: &str) -> Option<&'static str> {
    Some(match status(line)? {
        125 => {
            "the line only reports the end of another program, with status 125: the engine (podman, docker) or systemd-run itself has failed before it ran the program; its own message, in a line before, has the cause"
        }
        126 => {
            "the line only reports the end of another program, with status 126: the file is there and could not be executed, because it has no x for this user, or lies on a mount with noexec, or is a directory or for another architecture"
        }
        127 => {
            "the line only reports the end of another program, with status 127: a command or library was not found, in the image's PATH or where a script looks for it"
        }
        134 => {
            "the line only reports the end of another program, with status 134 (SIGABRT): the program has ended itself after an error, which it prints before"
        }
        137 => {
            "the line only reports the end of another program, with status 137 (SIGKILL): the memory limit was reached (kubectl describe pod shows OOMKilled), or it did not end in time after SIGTERM, or a liveness probe has failed"
        }
        139 => {
            "the line only reports the end of another program, with status 139 (SIGSEGV): a fault of the program, or a library for another processor"
        }
        143 => {
            "the line only reports the end of another program, with status 143 (SIGTERM): it was asked to end, and has; this is no error"
        }
        203 => {
            "the line only reports the end of a service, with status 203/EXEC: systemd could not execute its program, which is not there, or has no x, or is forbidden"
        }
        216 => {
            "the line only reports the end of a service, with status 216/GROUP: its group (Group=, SupplementaryGroups=) does not exist, or is not mapped in this container"
        }
        217 => {
            "the line only reports the end of a service, with status 217/USER: its user (User=, DynamicUser=) does not exist, or is not mapped in this container, or its user namespace (PrivateUsers=) could not be made"
        }
        _ => return None,
    })
}

/// The last status in a line.
fn status(line: &str) -> Option<u32> {
    let places = MARKS.iter().filter_map(|mark| Some(line.rfind(mark)? + mark.len()));
    let rest = line.get(places.max()?..)?;
    let end = rest.find(|next: char| !next.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_status_of_a_line_counts() {
        for (line, want) in [
            ("command exited with code 127", Some(127)),
            ("main process exited, code=exited, status=217/user", Some(217)),
            ("state: exit code: 137, reason: oomkilled", Some(137)),
            ("exit status 1: x: exit status 126", Some(126)),
            ("exit status unknown", None),
            ("no status", None),
        ] {
            assert_eq!(status(line), want, "{line}");
        }
        assert_eq!(meaning("exit status 3"), None, "of that program");
        assert!(meaning("exit status 143").is_some_and(|text| text.contains("no error")));
    }
}
