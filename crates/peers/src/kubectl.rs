//! The user's own kubectl, with the user's own rights: it is found in PATH and gets the environment.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use thiserror::Error;

/// kubectl, and the flags that every call gets.
#[derive(Debug, Clone)]
pub struct Kubectl {
    flags: Vec<OsString>,
}

/// What it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code; that of the command for `kubectl exec`.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
}

/// The longest line of its standard error that is told as one, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// It cannot be asked.
#[derive(Debug, Error)]
#[error("starting kubectl: {0}; it must be in PATH")]
pub struct KubectlError(#[from] io::Error);

impl Kubectl {
    /// `flags` come first in each call.
    #[must_use]
    pub fn new(flags: Vec<OsString>) -> Kubectl {
        Kubectl { flags }
    }

    /// Calls it and waits for its end. `tell` gets each line of its standard error when it comes: what is
    /// wrong, how to log in, and what a command on the node says.
    ///
    /// # Errors
    /// There is no kubectl.
    pub fn call(&self, args: &[&str], tell: &(dyn Fn(&str) + Sync)) -> Result<Answer, KubectlError> {
        let mut kubectl = Command::new("kubectl")
            .args(&self.flags)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let errors = kubectl.stderr.take();
        let said = std::thread::scope(|scope| {
            scope.spawn(|| errors.into_iter().for_each(|errors| lines(errors, tell)));
            kubectl.wait_with_output()
        })?;
        // A signal has no code.
        Ok(Answer { code: said.status.code().unwrap_or(2), stdout: said.stdout })
    }
}

fn lines(errors: impl io::Read, tell: &(dyn Fn(&str) + Sync)) {
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    while errors.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        tell(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        line.clear();
    }
}
