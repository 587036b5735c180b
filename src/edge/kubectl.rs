//! The user's own kubectl, with the user's own rights: it is found in PATH and gets the environment.

use std::ffi::OsString;
use std::io;
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
    /// Its standard output. Its standard error went to the terminal.
    pub stdout: Vec<u8>,
}

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

    /// Calls it and waits for its end.
    ///
    /// # Errors
    /// There is no kubectl.
    pub fn call(&self, args: &[&str]) -> Result<Answer, KubectlError> {
        let said = Command::new("kubectl")
            .args(&self.flags)
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        // A signal has no code.
        Ok(Answer { code: said.status.code().unwrap_or(2), stdout: said.stdout })
    }
}
