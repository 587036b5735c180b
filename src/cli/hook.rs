//! `usernsd hook`: the OCI createRuntime hook.

use std::path::Path;
use std::process::ExitCode;

use tracing::{info, warn};

use crate::config::Settings;
use crate::domain::record::Outcome;
use crate::task::hook;

/// Hands over the cgroup of the container whose state is on the standard input.
///
/// It always lets the container start: what could not be done is said on stderr, which the OCI
/// runtime keeps, and the agent's resync tries again.
///
/// # Errors
/// The configuration is unreadable; the caller says so and lets the container start too.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    let root: &Path = &settings.host_root;
    match hook::run(root, settings.rules, settings.limits, std::io::stdin().lock()) {
        Ok(hooked) => {
            let Some(handled) = hooked.handled else { return Ok(ExitCode::SUCCESS) };
            let (container, namespace, pod, name) =
                (&hooked.id, &hooked.namespace, &hooked.pod, &hooked.name);
            for change in &handled.changes {
                info!(
                    %container, %namespace, %pod, %name,
                    action = change.action.name(),
                    path = %change.path,
                    from = %change.from,
                    to = %change.to,
                    "changed"
                );
            }
            if let Outcome::Failed(error) = &handled.outcome {
                warn!(%container, %namespace, %pod, %name, %error, "could not hand the cgroup over");
            }
        }
        Err(error) => {
            warn!(error = format!("{:#}", anyhow::Error::new(error)), "could not hand the cgroup over")
        }
    }
    Ok(ExitCode::SUCCESS)
}
