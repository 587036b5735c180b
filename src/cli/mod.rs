//! The commands for people: read, render, print. No rules of their own.
//!
//! - [`bootstrap`], [`diff`]: `usernsd bootstrap`, and the patch that it prints
//! - [`completion`], [`man`]: what shells complete; manual pages
//! - [`config`]: `usernsd config default|check`
//! - [`explain`], [`from_log`]: one container from every side; other programs' messages
//! - [`hook`]: the OCI createRuntime hook
//! - [`observe`]: the process with CAP_SYS_PTRACE, beside an agent or a launched plugin
//! - [`read`]: the process that reads /etc, beside an agent
//! - [`ps`]: the node's containers as a table
//! - [`support_bundle`]: what someone needs who looks into a problem
//! - [`whois`]: whose a host ID is
//! - [`kubectl`]: `kubectl userns`, the same on a node of a cluster
//! - [`doctor`]: what is wrong with this node, and what to type
//! - [`explain`]: one container from every side
//! - [`map`]: whose the host IDs are, drawn
//! - [`terminal`]: what the terminal can show
//! - [`machineconfig`]: what makes a pool of nodes ready

pub mod bootstrap;
pub mod completion;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod explain;
pub mod from_log;
pub mod hook;
pub mod kubectl;
pub mod machineconfig;
pub mod man;
pub mod map;
pub mod observe;
pub mod ps;
pub mod read;
pub mod support_bundle;
pub mod terminal;
pub mod whois;

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
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{}", terminal::printable(line));
}
