//! The commands for people: read, render, print. No rules of their own.
//!
//! - [`config`]: `usernsd config default|check`
//! - [`hook`]: the OCI createRuntime hook
//! - [`ps`]: the node's containers as a table
//! - [`machineconfig`]: what makes a pool of nodes ready

pub mod config;
pub mod hook;
pub mod machineconfig;
pub mod ps;

use std::io::{self, Write};

/// Writes a result to stdout; a reader that went away, such as `head`, is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Says something beside the result, on stderr. Where that is closed, nobody listens.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
