//! This program as a file on the node, run by the OCI runtime as a hook or by the container runtime as an NRI
//! plugin.

use super::runtime::is_running_system;
use super::{BootstrapError, journal};
use usernsd_domain::provision::{Form, HostPath};
use usernsd_linux::host::{HostRoot, OwnProgram};

/// A program that an earlier run wrote, and its digest at that time.
pub(super) type Installed = (HostPath, String);

/// Why this program cannot be installed at a path, or could not be run from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Another program is there that no earlier run wrote.
    Foreign,
    /// The file system is mounted noexec.
    NoExec,
    /// The node does not have this dynamic loader.
    Loader(String),
}

/// The programs that earlier runs have written and whose path `is_of` accepts.
pub(super) fn installed(
    root: &HostRoot,
    is_of: impl Fn(&HostPath) -> bool,
) -> Result<Vec<Installed>, BootstrapError> {
    let mut found = Vec::new();
    for file in journal(root)?.runs.iter().flat_map(|run| &run.files) {
        let digest = file.new_bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        if let (Form::Program, Ok(path), Some(digest)) = (file.form(), file.path(), digest)
            && is_of(&path)
        {
            found.push((path, digest));
        }
    }
    Ok(found)
}

/// The obstacle to installing `own` at `path`, if any; `there` is the digest of the present file.
pub(super) fn obstacle(
    root: &HostRoot,
    path: &HostPath,
    own: &OwnProgram,
    there: Option<&String>,
    ours: &[Installed],
) -> Result<Option<Obstacle>, BootstrapError> {
    if let Some(there) = there
        && *there != own.digest()
        && !ours.iter().any(|(known, digest)| known == path && digest == there)
    {
        return Ok(Some(Obstacle::Foreign));
    }
    if let Some(parent) = path.parent()
        && root.is_noexec(&parent)?
    {
        return Ok(Some(Obstacle::NoExec));
    }
    let loader = own.loader().filter(|_| !is_running_system(root));
    let is_there =
        |loader: &String| HostPath::parse(loader).is_ok_and(|path| root.has(&path).unwrap_or(false));
    Ok(loader.filter(|loader| !is_there(loader)).map(Obstacle::Loader))
}
