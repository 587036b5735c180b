//! Runs the user's own kubectl, found in PATH, with the user's environment and rights.

mod proxy;

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use thiserror::Error;

pub use proxy::Proxy;

/// kubectl, and the flags that every call gets.
#[derive(Debug, Clone)]
pub struct Kubectl {
    flags: Vec<OsString>,
}

/// kubectl's exit code and output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubectlOutput {
    /// kubectl's exit code; for `kubectl exec`, that of the remote command.
    pub code: i32,
    /// kubectl's standard output.
    pub stdout: Vec<u8>,
}

/// The longest line of standard error that is passed on in one piece, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// kubectl could not be used.
#[derive(Debug, Error)]
pub enum KubectlError {
    /// The program was not found, or a process, pipe or directory could not be made.
    #[error("kubectl could not be started; it must be in PATH")]
    Start(#[from] io::Error),
    /// `kubectl proxy` has ended; the reason is on its standard error.
    #[error("kubectl proxy has ended at once")]
    Ended,
}

impl Kubectl {
    /// Makes a caller that puts `flags` first in each command line.
    #[must_use]
    pub fn new(flags: Vec<OsString>) -> Kubectl {
        Kubectl { flags }
    }

    /// Runs kubectl and waits for its end. `on_line` gets each line of its standard error as it comes: error
    /// messages, login instructions, and the standard error of a remote command.
    ///
    /// # Errors
    /// kubectl could not be started.
    pub fn call(
        &self,
        args: &[&str],
        on_line: &(dyn Fn(&str) + Sync),
    ) -> Result<KubectlOutput, KubectlError> {
        self.run(args, None, on_line)
    }

    /// The same with a standard input, which fits into a pipe: a manifest.
    ///
    /// # Errors
    /// kubectl could not be started.
    pub fn call_with(
        &self,
        args: &[&str],
        input: &[u8],
        on_line: &(dyn Fn(&str) + Sync),
    ) -> Result<KubectlOutput, KubectlError> {
        self.run(args, Some(input), on_line)
    }

    fn run(
        &self,
        args: &[&str],
        input: Option<&[u8]>,
        on_line: &(dyn Fn(&str) + Sync),
    ) -> Result<KubectlOutput, KubectlError> {
        let mut kubectl = Command::new("kubectl")
            .args(&self.flags)
            .args(args)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let (Some(mut stdin), Some(input)) = (kubectl.stdin.take(), input) {
            // If kubectl ends without reading it, the reason is on its standard error.
            let _ = stdin.write_all(input);
        }
        let errors = kubectl.stderr.take();
        let output = std::thread::scope(|scope| {
            scope.spawn(|| errors.into_iter().for_each(|errors| lines(errors, on_line)));
            kubectl.wait_with_output()
        })?;
        // A process that was killed by a signal has no exit code.
        Ok(KubectlOutput { code: output.status.code().unwrap_or(2), stdout: output.stdout })
    }
}

fn lines(errors: impl io::Read, on_line: &(dyn Fn(&str) + Sync)) {
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    while errors.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        on_line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        line.clear();
    }
}
