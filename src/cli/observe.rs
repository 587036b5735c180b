//! The process that holds CAP_SYS_PTRACE for an agent or a launched plugin.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use usernsd_domain::privilege::OBSERVERS;
use usernsd_linux::proc::observer::Server;
use usernsd_linux::{privilege, seccomp};

/// Gives everything up but stat(2) of other processes' namespaces, and answers until the process that
/// started this one has ended.
///
/// # Errors
/// It was not started by usernsd, or something could not be given up.
pub fn run(proc_root: &Path) -> anyhow::Result<ExitCode> {
    let server = Server::open(proc_root).context("opening what the observer needs")?;
    // Before there is another thread, which has its own.
    privilege::keep_only(&OBSERVERS).map_err(|error| server.refuse(&error))?;
    server.run(seccomp::confine_to_stat).context("answering")?;
    Ok(ExitCode::SUCCESS)
}
