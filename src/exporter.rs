//! The composition root of `usernsd exporter`: the role without any privilege, which may use the network. It
//! reads the agent's state socket and nothing else of the node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use usernsd_config::{Authorization, Settings};
use usernsd_domain::user_mapping::PodMappingProblems;
use usernsd_linux::privilege;
use usernsd_linux::seccomp::{self, Families};
use usernsd_peers::kube::{Access, Kube};
use usernsd_report::cluster;
use usernsd_report::follow::{Followed, Follower};
use usernsd_report::gate::{self, protection};
use usernsd_report::http::{self, Routes};
use usernsd_report::metrics::cluster::ClusterMetrics;
use usernsd_report::metrics::{ExporterMetrics, HttpMetrics};
use usernsd_report::page::{self, Seen};
use usernsd_report::state;

/// For how long the tasks may take to end, before they are aborted.
const GRACE: Duration = Duration::from_secs(5);

/// How many scrapes are passed to the agent at the same time. The agent accepts only so many clients, and
/// other clients need places, too.
const SCRAPES: usize = 2;

/// Gives up all capabilities and ensures that this process can neither regain them nor run another program.
/// Must be called before anything else.
///
/// # Errors
/// The process runs as root, which may write root's files even without capabilities, and `allow_root` does
/// not permit that.
pub fn give_up_privileges(allow_root: bool) -> anyhow::Result<()> {
    if privilege::is_root() && !allow_root {
        bail!(
            "usernsd exporter speaks to a network and must not be root; run it as another user, such as 65532, \
             which stateSocket.allowUids lets read the agent's state, or say --allow-root where root is not the host's"
        );
    }
    privilege::keep_only(&[])?;
    Ok(seccomp::confine(Families::UnixAndInternet)?)
}

fn reviewer(settings: &Settings) -> anyhow::Result<Option<Kube>> {
    let kubeconfig = settings.kubernetes.as_ref().and_then(|settings| settings.kubeconfig.clone());
    Ok(match settings.protection.authorization {
        Authorization::None => None,
        Authorization::Kubernetes => Some(gate::reviewer(kubeconfig)?),
    })
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The address cannot be served, or a task ended unexpectedly.
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
    let reviews = reviewer(&settings)?;
    let socket = settings.state_socket.path.clone();
    let (follower, followed) = Follower::new(socket.clone(), SystemTime::now());
    let metrics = ExporterMetrics::new(followed.link.clone()).context("making the metrics")?;
    let mut tasks = JoinSet::new();
    tasks.spawn(follower.run());
    let (stop, stopping) = watch::channel(false);
    let misfits = watch::Sender::new(Arc::default());
    let unfit = misfits.subscribe();
    if let Some(cluster) = cluster(&settings) {
        let (told, states) = watch::channel(None);
        let cluster_metrics =
            ClusterMetrics::new(&metrics, settings.exposition).context("making the metrics")?;
        tasks.spawn(cluster::listen(followed.clone(), told));
        let (api, options) = cluster;
        tasks.spawn(cluster::run(options, Arc::new(api), states, cluster_metrics, misfits, stopping));
    }

    let http_metrics = HttpMetrics::new().context("making the metrics")?;
    let routes = routes(&followed, unfit, &metrics, &http_metrics, socket);
    let protection = protection(settings.protection.tls.clone(), reviews, &http_metrics);
    let server = http::serve(listener, routes, protection)?;
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
    stop.send_replace(true);
    tasks.abort_all();
    // Waits for answers that are being sent; these no longer need this thread's runtime.
    if tokio::task::spawn_blocking(move || drop(server)).await.is_err() {
        warn!("the HTTP server did not end as it should");
    }
    Ok(())
}

/// The API server and the options for it; `None` if Kubernetes is not configured.
fn cluster(settings: &Settings) -> Option<(Kube, cluster::Options)> {
    let settings = settings.kubernetes.as_ref()?;
    let Some(access) = settings.kubeconfig.clone().map(Access::Kubeconfig).or_else(Access::in_cluster) else {
        info!("there is no service account here; no API server is asked, and no Events are posted");
        return None;
    };
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let options = cluster::Options {
        node: named("NODE_NAME"),
        instance: named("POD_NAME"),
        events: settings.events,
        condition: settings.node_condition,
        namespaces: settings.namespaces,
        pace: cluster::Pace::default(),
    };
    Some((Kube::new(access), options))
}

fn routes(
    followed: &Followed,
    unfit: watch::Receiver<Arc<Vec<PodMappingProblems>>>,
    metrics: &ExporterMetrics,
    http_metrics: &HttpMetrics,
    socket: PathBuf,
) -> Routes {
    let (shown, served, link) = (followed.clone(), followed.clone(), followed.link.clone());
    let (metrics, http_metrics, socket) = (metrics.clone(), http_metrics.clone(), Arc::new(socket));
    let places = Arc::new(Semaphore::new(SCRAPES));
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
            let (metrics, http_metrics) = (metrics.clone(), http_metrics.clone());
            let (socket, places) = (Arc::clone(&socket), Arc::clone(&places));
            Box::pin(async move {
                let place = places.acquire().await;
                let agents = match state::read_metrics(&socket).await {
                    Ok(text) => text,
                    Err(_) => {
                        metrics.scrape_failed();
                        String::new()
                    }
                };
                drop(place);
                // The metrics of the two have no names in common.
                agents + &metrics.render() + &http_metrics.render()
            })
        }),
        state: Box::new(move || {
            served.link.borrow().present()?;
            let state = served.state.borrow().clone();
            let misfits = unfit.borrow().clone();
            state
                .map(|state| cluster::with_misfits(&state, &misfits).render())
                .ok_or_else(|| "the agent said nothing yet".to_owned())
        }),
        healthy: Box::new(|| Ok(())),
        ready: Box::new(move || link.borrow().present()),
    }
}
