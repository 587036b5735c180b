//! The commands for people: they read, render and print, and contain no rules of their own.
//!
//! - [`bootstrap`], [`diff`]: `usernsd bootstrap`, and the patch that it prints
//! - [`completion`], [`man`]: shell completion and manual pages
//! - [`config`]: `usernsd config default|check|admission`
//! - [`doctor`]: checks of this node
//! - [`explain`], [`from_log`]: everything about one container; messages of other programs
//! - [`hook`]: the OCI createRuntime hook
//! - [`kubectl`], [`kubectl_complete`]: `kubectl userns`, which runs these commands on a node of a cluster, and its
//!   completion
//! - [`machineconfig`]: the configuration of a pool of nodes
//! - [`map`]: a drawing of the host IDs and their owners
//! - [`observe`]: the observer, which holds CAP_SYS_PTRACE beside an agent or a launched plugin
//! - [`ps`]: the node's containers as a table
//! - [`read`]: the reader of /etc beside an agent
//! - [`status`]: the problems of the node
//! - [`support_bundle`]: an archive for the analysis of problems
//! - [`terminal`]: the capabilities of the terminal
//! - [`whois`]: the owner of a host ID

pub mod bootstrap;
pub mod completion;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod explain;
pub mod from_log;
pub mod hook;
pub mod kubectl;
pub mod kubectl_complete;
pub mod machineconfig;
pub mod man;
pub mod map;
pub mod observe;
pub mod ps;
pub mod read;
pub mod status;
pub mod support_bundle;
pub mod terminal;
pub mod whois;

use std::io::{self, Write};

/// Writes a result to stdout. A reader that has gone away, such as `head`, is not an error.
fn print(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

/// Like [`print`](fn@print), for bytes that need not be UTF-8.
fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to stderr for the person who started the command; a closed stderr is not an error.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{}", terminal::printable(line));
}
