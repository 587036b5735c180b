//! `usernsd man`: manual pages, generated from the definition of the commands.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::Args;

/// Writes a page for `usernsd` and for each of its commands.
///
/// # Errors
/// A page cannot be written.
pub fn run(dir: &Path) -> anyhow::Result<ExitCode> {
    let mut command = Args::command();
    // Sets the full name of each command.
    command.build();
    write(dir, &command)?;
    Ok(ExitCode::SUCCESS)
}

fn write(dir: &Path, command: &clap::Command) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let path = dir.join(format!("{name}.8"));
    let mut page = Vec::new();
    // Section 8: for administrators.
    Man::new(command.clone()).title(name).section("8").render(&mut page).context("rendering the page")?;
    std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    command
        .get_subcommands()
        .filter(|below| below.get_name() != "help")
        .try_for_each(|below| write(dir, below))
}
