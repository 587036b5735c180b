//! Programs from Debian's package `prometheus`.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, thread};

/// Path of a program. If it is missing, prints so and returns None; with `USERNSD_TEST_NODE=require` (CI)
/// that is a panic instead.
pub(crate) fn found_or_skip(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    if found.is_none() {
        let why = format!("{program} is missing, run: make promtool");
        let required = env::var_os("USERNSD_TEST_NODE").is_some_and(|value| value == "require");
        assert!(!required, "{why}");
        // Not eprintln!, which the test harness captures in passing tests: a skip must be visible.
        let thread = thread::current();
        let _ = writeln!(io::stderr(), "SKIPPED {}: {why}", thread.name().unwrap_or("test"));
    }
    found
}

/// Runs a program with `input`; returns whether it succeeded, and its output.
pub(crate) fn run(command: &mut Command, input: &str) -> (bool, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}
