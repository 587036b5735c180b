//! The observer: holds CAP_SYS_PTRACE for an agent or a launched plugin.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use usernsd_domain::privilege::OBSERVERS;
use usernsd_linux::proc::observer::ObserverServer;
use usernsd_linux::{privilege, seccomp};

/// Gives up everything except stat(2) of other processes' namespaces, and answers until the parent process
/// has ended.
///
/// # Errors
/// The process was not started by usernsd, or something could not be given up.
pub fn run(proc_root: &Path) -> anyhow::Result<ExitCode> {
    let server = ObserverServer::open(proc_root).context("opening what the observer needs")?;
    // Done before there is another thread, because capabilities are per thread.
    privilege::keep_only(&OBSERVERS).map_err(|error| server.refuse(&error))?;
    server.run(seccomp::confine_to_stat).context("answering")?;
    Ok(ExitCode::SUCCESS)
}
