//! The reader: reads the node's `/etc` for an agent.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use usernsd_domain::chain::chain;
use usernsd_linux::host::reader::ReaderServer;

/// Gives up everything except reading files, and answers until the parent process has ended.
///
/// # Errors
/// The process was not started by usernsd, or something could not be given up.
pub fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let server = ReaderServer::open(root).context("opening what the reader needs")?;
    let confined = usernsd_linux::privilege::keep_only(&[])
        .map_err(|error| chain(&error))
        .and_then(|()| usernsd_linux::landlock::confine(&[], None).map_err(|error| chain(&error)))
        .and_then(|_| usernsd_linux::seccomp::confine_to_reading().map_err(|error| chain(&error)));
    if let Err(why) = confined {
        server.refuse(&why);
        anyhow::bail!(why);
    }
    server.run().context("answering")?;
    Ok(ExitCode::SUCCESS)
}
