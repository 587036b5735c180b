//! Why the last run could not prepare the node. Written by `usernsd bootstrap --exit-zero` and read by the
//! agent, which starts anyway. Removed by the next run that succeeds, and by `--undo`.

use std::time::SystemTime;

use super::{BootstrapError, STATE};
use crate::journal::Failure;
use usernsd_domain::provision::{Attributes, HostPath};
use usernsd_linux::host::HostRoot;

/// Path of the record. Everyone may read it, because the agent in a container may appear as another user to
/// the file system.
const FILE: HostPath = HostPath::fixed("var/lib/usernsd/bootstrap-failure.json");

/// Writes the error atomically.
///
/// # Errors
/// The file cannot be written.
pub fn record(root: &HostRoot, error: &str) -> Result<(), BootstrapError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let failure = Failure::new(now.as_millis().try_into().unwrap_or(u64::MAX), error);
    root.make_dirs(&STATE, 0o755)?;
    Ok(root.replace(&FILE, &failure.render(), &Attributes::READABLE, None)?)
}

/// Removes the record, if there is one.
///
/// # Errors
/// The file cannot be removed.
pub fn clear(root: &HostRoot) -> Result<(), BootstrapError> {
    if root.has(&FILE)? { Ok(root.remove(&FILE)?) } else { Ok(()) }
}

/// The failure of the last run; `None` if it succeeded, or if no run used `--exit-zero`.
///
/// # Errors
/// The record exists and cannot be read.
pub fn read(root: &HostRoot) -> Result<Option<Failure>, BootstrapError> {
    let Some(bytes) = root.read(&FILE)? else { return Ok(None) };
    let failure = Failure::parse(&bytes);
    failure.map(Some).map_err(|what| BootstrapError::Journal { path: root.shown(&FILE), what })
}
