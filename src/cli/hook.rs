//! `usernsd hook`: the OCI createRuntime hook.

use std::path::Path;
use std::process::ExitCode;

use tracing::{info, warn};

use usernsd_config::{Overrides, Settings};
use usernsd_domain::privilege::HOOKS;
use usernsd_domain::record::Outcome;
use usernsd_inspect::hook::{self, Hooked};
use usernsd_linux::privilege::keep_only;
use usernsd_linux::seccomp;

/// Delegates the cgroup of the container whose state is on the standard input.
///
/// Always lets the container start: a hook that fails makes the container fail, on every node with the same
/// mistake in its configuration. Errors are printed to stderr, and the agent's resync tries again.
#[must_use]
pub fn run(config: Option<&Path>) -> ExitCode {
    match try_run(config) {
        Ok(hooked) => report(&hooked),
        Err(error) => warn!(error = format!("{error:#}"), "could not hand the cgroup over"),
    }
    ExitCode::SUCCESS
}

fn try_run(config: Option<&Path>) -> anyhow::Result<Hooked> {
    let settings = Settings::load(config, Overrides::default())?;
    // Before it reads what a pod's author may have written. No Landlock: it would hide the container's namespaces, and an
    // observer of its own would take longer than everything else.
    keep_only(&HOOKS)?;
    seccomp::confine_to_handing_over()?;
    Ok(hook::run(&settings.host_root, settings.rules, settings.limits, std::io::stdin().lock())?)
}

fn report(hooked: &Hooked) {
    let Some(handled) = &hooked.handled else { return };
    let (container, namespace, pod, name) = (&hooked.id, &hooked.namespace, &hooked.pod, &hooked.name);
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
        warn!(%container, %namespace, %pod, %name, error = error.as_str(), "could not hand the cgroup over");
    }
}
