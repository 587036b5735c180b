//! The composition root of `usernsd exporter`: the role without any privilege, which may speak to a
//! network. It reads the agent's state socket and knows nothing else of the node.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::Settings;
use crate::edge::http::{self, Routes};
use crate::edge::privilege;
use crate::edge::state;
use crate::task::follow::{Followed, Follower};
use crate::task::metrics::ExporterMetrics;
use crate::task::page::{self, Seen};

/// How long the tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Makes sure that this process has no capability and gets none. To be called before anything else.
///
/// # Errors
/// It runs as root, which may write root's files without any capability, and `allow_root` does not
/// say that it is meant so.
pub fn give_up_privileges(allow_root: bool) -> anyhow::Result<()> {
    if privilege::is_root() && !allow_root {
        bail!(
            "usernsd exporter speaks to a network and must not be root; run it as another user, such as 65532, \
             which stateSocket.allowUids lets read the agent's state, or say --allow-root where root is not the host's"
        );
    }
    Ok(privilege::keep_only(&[])?)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The address cannot be served, or a task ended.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .context("starting the asynchronous runtime")?;
    let result = runtime.block_on(serve(settings));
    runtime.shutdown_timeout(GRACE);
    result
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let listener = http::listen(settings.exporter.address)?;
    let socket = settings.state_socket.path.clone();
    let (follower, followed) = Follower::new(socket.clone(), SystemTime::now());
    let metrics = ExporterMetrics::new(followed.link.clone()).context("making the metrics")?;
    let mut tasks = JoinSet::new();
    tasks.spawn(follower.run());
    // Here the cluster is told: from `followed.state` and `followed.link`.

    let server = http::serve(listener, routes(&followed, &metrics, socket))?;
    info!(address = %server.address(), "serving metrics, health and the status page");
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Some(ended) = tasks.join_next() => {
            ended.context("a task of the exporter ended")?;
            bail!("a task of the exporter ended");
        }
    }
    info!("stopping");
    tasks.abort_all();
    // It waits for answers under way, which need this thread's runtime no more.
    if tokio::task::spawn_blocking(move || drop(server)).await.is_err() {
        warn!("the HTTP server did not end as it should");
    }
    Ok(())
}

fn routes(followed: &Followed, metrics: &ExporterMetrics, socket: std::path::PathBuf) -> Routes {
    let (shown, served, link) = (followed.clone(), followed.clone(), followed.link.clone());
    let (metrics, socket) = (metrics.clone(), Arc::new(socket));
    Routes {
        page: Box::new(move || {
            let state = shown.state.borrow().clone();
            let link = shown.link.borrow().clone();
            let now = SystemTime::now();
            let age = match link.present() {
                Ok(()) => Duration::ZERO,
                Err(_) => link.heard.and_then(|at| now.duration_since(at).ok()).unwrap_or_default(),
            };
            page::render(&Seen { state: state.as_deref(), age, now })
        }),
        metrics: Box::new(move || {
            let (metrics, socket) = (metrics.clone(), Arc::clone(&socket));
            Box::pin(async move {
                let agents = match state::read_metrics(&socket).await {
                    Ok(text) => text,
                    Err(_) => {
                        metrics.scrape_failed();
                        String::new()
                    }
                };
                // No name of the one is a name of the other.
                agents + &metrics.render()
            })
        }),
        state: Box::new(move || {
            served.link.borrow().present()?;
            let state = served.state.borrow().clone();
            state.map(|state| state.render()).ok_or_else(|| "the agent said nothing yet".to_owned())
        }),
        healthy: Box::new(|| Ok(())),
        ready: Box::new(move || link.borrow().present()),
    }
}
