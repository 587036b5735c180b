//! Runs programs of the node: the one place where one is started.
//!
//! No shell, no standard input, an empty environment, a deadline, and a limit on the output that is read.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

/// As systemd sets it for services.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// More than `crio config` prints.
const MAX_BYTES: u64 = 1 << 20;

/// The output of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramOutput {
    /// Whether it exited with status 0.
    pub success: bool,
    /// Standard output, cut at the limit.
    pub stdout: String,
    /// Standard error, cut at the limit.
    pub stderr: String,
}

/// Why a program has no output.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The program does not exist, or could not be started.
    #[error("starting {}: {error}", program.display())]
    Start {
        /// The program's path.
        program: PathBuf,
        error: std::io::Error,
    },
    /// The program did not end in time, and was killed.
    #[error("{} did not end within {deadline:?}", program.display())]
    Deadline {
        /// The program's path.
        program: PathBuf,
        /// The time limit.
        deadline: Duration,
    },
}

/// Runs a program to its end.
///
/// # Errors
/// See [`ProgramError`].
pub fn run(program: &Path, args: &[&str], deadline: Duration) -> Result<ProgramOutput, ProgramError> {
    let failed = |error| ProgramError::Start { program: program.to_owned(), error };
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let until = Instant::now() + deadline;
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                end(&mut child);
                return Err(ProgramError::Deadline { program: program.to_owned(), deadline });
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    // A child process of the program may hold the pipe open: what was read by then is the output.
    let text = |from: mpsc::Receiver<Vec<u8>>| {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        String::from_utf8_lossy(&from.recv_timeout(left).unwrap_or_default()).into_owned()
    };
    Ok(ProgramOutput { success: status.success(), stdout: text(stdout), stderr: text(stderr) })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Output that was read before an error is worth showing.
            let _ = pipe.by_ref().take(MAX_BYTES).read_to_end(&mut bytes);
            let _ = send.send(bytes);
            // Read on: a full pipe would keep the program from ending.
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
    });
    receive
}

fn end(child: &mut Child) {
    // The program may have ended by itself at this moment.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline: Duration) -> Result<ProgramOutput, ProgramError> {
        run(Path::new("/bin/sh"), &["-c", script], deadline)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn both_outputs_and_the_status_are_read() {
        let output = sh("echo out; echo err >&2; echo \"$PATH$HOME\"; exit 3", LONG).unwrap();
        assert_eq!(
            output,
            ProgramOutput { success: false, stdout: format!("out\n{PATH}\n"), stderr: "err\n".into() }
        );
        assert!(sh("cat", LONG).unwrap().success, "the standard input is empty");
    }

    #[test]
    fn a_program_is_killed_at_the_deadline() {
        let begun = Instant::now();
        assert!(matches!(sh("exec sleep 60", Duration::from_millis(50)), Err(ProgramError::Deadline { .. })));
        // A killed program does not continue.
        let file = tempfile::tempdir().unwrap().path().join("x");
        let script = format!("sleep 0.3; mkdir -p {} && touch {0}/y", file.display());
        assert!(sh(&script, Duration::from_millis(50)).is_err());
        thread::sleep(Duration::from_millis(600));
        assert!(!file.exists());
        let output = sh("sleep 60 & echo x", Duration::from_millis(300)).unwrap();
        assert!(output.success);
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(matches!(run(Path::new("/no/such"), &[], LONG), Err(ProgramError::Start { .. })));
    }

    #[test]
    fn excess_output_is_dropped_and_the_program_ends() {
        let output = sh("head -c 3000000 /dev/zero", LONG).unwrap();
        assert!(output.success);
        assert_eq!(output.stdout.len() as u64, MAX_BYTES);
    }
}
