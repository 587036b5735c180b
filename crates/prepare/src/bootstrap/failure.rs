//! Why the last run could not make the node ready. Written by `usernsd bootstrap --exit-zero`, read by
//! the agent, which starts all the same; removed by the next run that succeeds, and by `--undo`.

use std::time::SystemTime;

use super::{BootstrapError, STATE};
use crate::journal::Failure;
use usernsd_domain::provision::{Attributes, HostPath};
use usernsd_linux::host::HostRoot;

/// Where it is kept. Everyone may read it: the agent in a container may be another user to its file
/// system.
const FILE: HostPath = HostPath::fixed("var/lib/usernsd/bootstrap-failure.json");

/// Keeps the error, as a whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn record(root: &HostRoot, error: &str) -> Result<(), BootstrapError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let failure = Failure::new(now.as_millis().try_into().unwrap_or(u64::MAX), error);
    root.make_dirs(&STATE, 0o755)?;
    Ok(root.replace(&FILE, &failure.render(), &Attributes::READABLE, None)?)
}

/// Removes it, where it is there.
///
/// # Errors
/// The file cannot be removed.
pub fn clear(root: &HostRoot) -> Result<(), BootstrapError> {
    if root.has(&FILE)? { Ok(root.remove(&FILE)?) } else { Ok(()) }
}

/// The last run's; `None` where it succeeded, or none has run with `--exit-zero`.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read(root: &HostRoot) -> Result<Option<Failure>, BootstrapError> {
    let Some(bytes) = root.read(&FILE)? else { return Ok(None) };
    let failure = Failure::parse(&bytes);
    failure.map(Some).map_err(|what| BootstrapError::Journal { path: root.shown(&FILE), what })
}
