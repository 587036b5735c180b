//! `usernsd config`: prints the default configuration, checks one, or renders what the API server is to
//! refuse by it.

use std::path::Path;
use std::process::ExitCode;

use usernsd_config::{Config, ConfigError, Overrides, Settings};
use usernsd_domain::admission;

/// `usernsd config default`.
///
/// # Errors
/// Stdout is closed.
pub fn default() -> anyhow::Result<ExitCode> {
    super::print(&Config::documented_yaml())?;
    Ok(ExitCode::SUCCESS)
}

/// `usernsd config check FILE`: 0 where it is good, 1 where something in it is wrong.
///
/// # Errors
/// The file cannot be read, or stdout is closed.
pub fn check(file: &Path) -> anyhow::Result<ExitCode> {
    match Settings::load(Some(file), Overrides::default()) {
        Ok(_) => {
            super::print(&format!("{} is good\n", file.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ ConfigError::Read { .. }) => Err(error.into()),
        Err(error) => {
            super::print(&format!("{error}\n"))?;
            Ok(ExitCode::from(1))
        }
    }
}

/// `usernsd config admission`: the policies for the namespaces that a configuration lets ask.
///
/// # Errors
/// The configuration is not good, or stdout is closed.
pub fn admission(config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(config, Overrides::default())?;
    super::print(&admission::policies(&settings.adjust.namespaces))?;
    Ok(ExitCode::SUCCESS)
}
