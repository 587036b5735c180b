//! The composition root of `usernsd agent`.

use crate::config::Settings;

/// Runs until told to stop.
///
/// # Errors
/// Something the agent cannot do without is missing.
pub fn run(_settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("the agent is not written yet")
}
