//! The commands for people: read, render, print. No rules of their own.
//!
//! - [`bootstrap`], [`diff`]: `usernsd bootstrap`, and the patch that it prints
//! - [`config`]: `usernsd config default|check`
//! - [`doctor`]: what is wrong with this node, and what to type
//! - [`explain`]: one container from every side
//! - [`hook`]: the OCI createRuntime hook
//! - [`ps`]: the node's containers as a table
//! - [`terminal`]: what the terminal can show
//! - [`machineconfig`]: what makes a pool of nodes ready

pub mod bootstrap;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod explain;
pub mod hook;
pub mod machineconfig;
pub mod ps;
pub mod terminal;

use std::io::{self, Write};

/// Writes a result to stdout; a reader that went away, such as `head`, is no failure.
fn print(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

/// The same for what need not be UTF-8.
fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A line for the person who has started the command; a closed stderr is no failure.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
