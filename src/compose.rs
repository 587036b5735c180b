//! The common parts of several composition roots: making parts of the settings, and running and stopping the
//! two deployed roles, agent and exporter.

use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use usernsd_config::{Authorization, BundleDir, Settings};
use usernsd_domain::chain::chain;
use usernsd_inspect::bundle::Bundles;
use usernsd_inspect::doctor::DoctorConfig;
use usernsd_peers::cri::{self, Endpoints};
use usernsd_peers::kube::Kube;
use usernsd_prepare::bootstrap::runtime::containerd_directories;
use usernsd_prepare::crio;
use usernsd_report::authorization;
use usernsd_tasks::{Tasks, name_panics};

/// How long the tasks and servers of a role may take to end. systemd kills after 90 s, the kubelet after 30 s.
const GRACE: Duration = Duration::from_secs(5);
/// Threads for the blocking work of a command: peers are asked one after another, so few are enough.
const BLOCKING: usize = 4;

/// The asynchronous runtime of a command for people.
///
/// # Errors
/// The kernel provides no more descriptors or threads.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    start(BLOCKING)
}

fn start(blocking: usize) -> anyhow::Result<Runtime> {
    usernsd_tasks::runtime(blocking).context("starting the asynchronous runtime")
}

/// Runs a role to its end, and leaves behind what does not end in time. `blocking` is the number of threads for work
/// that blocks.
///
/// # Errors
/// Those of the role.
pub(crate) fn run_role(
    blocking: usize,
    role: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    name_panics();
    let runtime = start(blocking)?;
    let result = runtime.block_on(role);
    runtime.shutdown_timeout(GRACE);
    result
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// Signals cannot be received.
pub(crate) async fn signalled() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Stops the tasks, and then the servers, which answer until then. Both together take no longer than [`GRACE`]: what
/// hangs is named and left behind.
pub(crate) async fn stop(tasks: Tasks, servers: impl Send + 'static) {
    info!("stopping");
    let deadline = Instant::now() + GRACE;
    let left = tasks.stop(deadline).await;
    if !left.is_empty() {
        warn!(tasks = left.join(", "), "did not end in time, and are left behind");
    }
    // Dropping a server waits for the answers that it is sending. Not on a thread of the runtime, which would wait for
    // one that hangs.
    let (end, ended) = oneshot::channel::<()>();
    let dropping = std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
        drop(servers);
        drop(end);
    });
    if let Err(error) = dropping {
        warn!(error = %chain(&error), "no thread to wait for the servers; they are left behind");
    } else if timeout_at(deadline, ended).await.is_err() {
        warn!("a server did not end in time, and is left behind");
    }
}

/// The API server that decides which clients may read over HTTP; `None` if everyone may.
///
/// # Errors
/// Authorization is configured, but there is no service account to ask with.
pub(crate) fn reviewer(settings: &Settings) -> anyhow::Result<Option<Kube>> {
    let kubeconfig = settings.kubernetes.as_ref().and_then(|settings| settings.kubeconfig.clone());
    Ok(match settings.protection.authorization {
        Authorization::None => None,
        Authorization::Kubernetes => Some(authorization::reviewer(kubeconfig)?),
    })
}

/// The CRI sockets: the configured ones, else those that exist at the runtimes' default paths.
#[must_use]
pub(crate) fn endpoints(settings: &Settings) -> Endpoints {
    cri::endpoints(settings.host_root.clone(), settings.runtime.endpoints.clone())
}

/// The settings of a node, with the directories of the bundles of a CRI-O or containerd whose storage was moved. They are
/// read from the runtimes' files, of which a confined agent may not read all.
#[must_use]
pub(crate) fn of_node(mut settings: Settings) -> Settings {
    let root = &settings.host_root;
    let moved = [crio::storage(root).bundle(), containerd_directories(root).bundle()];
    let dirs = &mut settings.runtime.bundle_dirs;
    for dir in moved.iter().filter_map(|dir| BundleDir::new(dir)) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    settings
}

/// The directories in which the runtimes keep the containers' bundles.
#[must_use]
pub(crate) fn bundles(settings: &Settings) -> Bundles {
    let (root, dirs) = (settings.host_root.clone(), settings.runtime.bundle_dirs.clone());
    Bundles::new(move |id| dirs.iter().map(|dir| root.join(dir.of(id))).collect())
}

/// The doctor's configuration. `may_run_programs`: whether it may start the node's programs to ask for their
/// versions.
#[must_use]
pub(crate) fn examined(settings: &Settings, may_run_programs: bool) -> DoctorConfig {
    let bootstrap = settings.bootstrap.clone();
    DoctorConfig {
        root: settings.host_root.clone(),
        endpoints: settings.runtime.endpoints.clone(),
        bus: settings.systemd.as_ref().map(|systemd| systemd.bus_socket.clone()),
        uses_bootstrap: bootstrap.enabled,
        ids: bootstrap.ids,
        runtime: bootstrap.runtime,
        crio: bootstrap.crio,
        containerd_nri: bootstrap.containerd_nri,
        hook: bootstrap.hook,
        plugin: bootstrap.plugin,
        apply_sysctl: bootstrap.apply_sysctl,
        may_run_programs,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_although_a_task_and_a_server_hang() {
        struct Hanging(std::sync::mpsc::Receiver<()>);

        impl Drop for Hanging {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }

        let (release_task, task) = sync_channel::<()>(1);
        let (release_server, server) = sync_channel::<()>(1);
        let mut tasks = Tasks::new();
        tasks.spawn_thread("hangs", move || task.recv().unwrap_or_default(), || {}).unwrap();
        let start = Instant::now();
        stop(tasks, Hanging(server)).await;
        assert!(start.elapsed() <= GRACE + Duration::from_secs(1), "{:?}", start.elapsed());
        drop((release_task, release_server));
    }
}
