//! The commands for people, as processes: what they print, and how they end.

#![allow(clippy::unwrap_used, reason = "a test's failure is a panic")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn usernsd(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_usernsd"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_line_of_a_log_is_explained() {
    let line = "Failed to create /init.scope control group: Permission denied";
    let log =
        format!("Starting\n{line}\nagain: {line}\nnot enough unused IDs in user namespace\n\x1b[31mred\n");
    let said = usernsd(&["explain", "--from-log", line], "");
    let want = "Message  Failed to create /init.scope control group: Permission denied\n\
                Cause    systemd is PID 1 of the container, and the container's cgroup is not its own.\n\
                Fix      Run usernsd on the node, with NRI or its hook; usernsd explain POD says what is missing.\n\
                More     docs/errors.md#systemd-init-scope-denied, docs/architecture.md\n";
    assert_eq!((said.status.code(), text(&said.stdout)), (Some(0), want.to_owned()));

    let said = usernsd(&["explain", "--from-log", "-o", "json"], &log);
    let all: Value = serde_json::from_slice(&said.stdout).unwrap();
    let ids: Vec<_> = all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["systemd-init-scope-denied", "crio-not-enough-ids"], "each once");

    let said = usernsd(&["explain", "--from-log"], "nothing of that kind\n");
    assert_eq!((said.status.code(), text(&said.stdout)), (Some(1), String::new()));
    assert!(text(&said.stderr).contains("docs/errors.md"));
    // Neither a container nor a log.
    assert_eq!(usernsd(&["explain"], "").status.code(), Some(2));
    assert_eq!(usernsd(&["explain", "x", "--from-log", "y"], "").status.code(), Some(2));
}
