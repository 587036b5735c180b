//! The OCI createRuntime hook, for runtimes without NRI. The OCI runtime starts it once the container's
//! cgroup and namespaces exist, and waits for it. The hook hands the cgroup over in its own process and
//! exits; it needs no agent.

use std::io::Read;
use std::path::Path;

use thiserror::Error;

use crate::delegate::{Inspection, UnitSource};
use crate::inspector::{Candidate, Inspector, OpenError};
use usernsd_domain::delegation::{Limits, Rules};
use usernsd_domain::isolation::Stage;
use usernsd_peers::oci::{DOCUMENT_LIMIT, OciError, parse_state, read_bundle};

/// Why the hook failed. The container starts all the same.
#[derive(Debug, Error)]
pub enum HookError {
    /// The state on the standard input is unreadable.
    #[error("reading the container's state from the standard input")]
    Input(#[source] std::io::Error),
    /// The state is not valid according to the OCI runtime specification.
    #[error("the container's state")]
    State(#[source] OciError),
    /// The state names no process: this is not a createRuntime hook.
    #[error("the container's state names no process; install the hook at the createRuntime stage")]
    NoProcess,
    /// The bundle has no `config.json`.
    #[error("the bundle {0} has no config.json")]
    NoBundle(String),
    /// The bundle's specification is unreadable.
    #[error("the container's specification")]
    Spec(#[source] OciError),
    /// The node cannot be inspected.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// The hook's result for a container.
#[derive(Debug)]
pub struct Hooked {
    /// The container's ID.
    pub id: String,
    /// The pod's Kubernetes namespace, as far as the specification contains it.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub name: String,
    /// The inspection; `None` for a container without a user namespace, which needs nothing.
    pub handled: Option<Inspection>,
}

/// Reads the state from `input` and hands the cgroup over.
///
/// # Errors
/// See [`HookError`].
pub fn run(host_root: &Path, rules: Rules, limits: Limits, input: impl Read) -> Result<Hooked, HookError> {
    let mut text = String::new();
    input.take(DOCUMENT_LIMIT as u64).read_to_string(&mut text).map_err(HookError::Input)?;
    let state = parse_state(&text).map_err(HookError::State)?;
    let pid = state.pid.filter(|pid| *pid != 0).ok_or(HookError::NoProcess)?;
    let spec = read_bundle(&state.bundle)
        .map_err(HookError::Spec)?
        .ok_or_else(|| HookError::NoBundle(state.bundle.display().to_string()))?;
    let container = spec.into_container(state.id, Some(pid));
    let mut hooked = Hooked {
        id: container.id.to_string(),
        namespace: container.pod.namespace.clone(),
        pod: container.pod.name.clone(),
        name: container.name.clone(),
        handled: None,
    };
    if !container.user_namespace {
        return Ok(hooked);
    }
    let inspector = Inspector::open(host_root, rules, limits)?;
    // The OCI runtime has not made its mounts yet.
    let candidate = Candidate { container: &container, stage: Stage::Making };
    // A bus call would take longer than everything else; systemd's mark on the directory counts.
    hooked.handled = Some(inspector.apply(candidate, UnitSource::Unasked));
    Ok(hooked)
}
