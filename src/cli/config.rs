//! `usernsd config`: prints the default configuration, checks one, or renders admission policies for the API
//! server from it.

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

/// `usernsd config check FILE`: exits 0 if the file is valid, 1 if not.
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

/// `usernsd config admission`: renders the policies for the namespaces that may opt in by the configuration.
///
/// # Errors
/// The configuration is not valid, or stdout is closed.
pub fn admission(config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(config, Overrides::default())?;
    super::print(&admission::policies(&settings.adjust.namespaces))?;
    Ok(ExitCode::SUCCESS)
}
