//! `usernsd completion`: a script for the shell to complete commands and flags, generated from their
//! definition.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

use crate::args::{Args, Shell};

/// Prints the script.
///
/// # Errors
/// stdout is closed.
pub fn run(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut command = Args::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, &mut command, "usernsd", &mut script),
        Shell::Zsh => generate(Zsh, &mut command, "usernsd", &mut script),
        Shell::Fish => generate(Fish, &mut command, "usernsd", &mut script),
    }
    super::print_bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
