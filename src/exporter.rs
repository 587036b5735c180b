//! The composition root of `usernsd exporter`: the role without any privilege, which may use the network. It
//! reads the agent's state socket and nothing else of the node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use tokio::sync::{Semaphore, watch};
use tracing::info;

use crate::compose;
use usernsd_config::Settings;
use usernsd_domain::privilege::EXPORTER_UID;
use usernsd_domain::user_mapping::PodMappingProblems;
use usernsd_linux::privilege;
use usernsd_linux::proc::Proc;
use usernsd_linux::seccomp::{self, Families};
use usernsd_peers::kube::{Access, Kube};
use usernsd_report::authorization::protection;
use usernsd_report::clock::Clock;
use usernsd_report::cluster;
use usernsd_report::follow::{Followed, Follower};
use usernsd_report::http::{self, Routes};
use usernsd_report::metrics::cluster::ClusterMetrics;
use usernsd_report::metrics::{ExporterMetrics, HttpMetrics};
use usernsd_report::page::{self, PageInput};
use usernsd_report::state;
use usernsd_tasks::Tasks;

/// Threads for work that blocks.
const BLOCKING: usize = 4;

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
            "usernsd exporter uses a network and must not be root; run it as a user that stateSocket.allowUids lets read \
             the agent's state, such as {EXPORTER_UID}, or pass --allow-root if root is not the host's"
        );
    }
    privilege::keep_only(&[])?;
    Ok(seccomp::confine(Families::UnixAndInternet)?)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The address cannot be served, or a task ended by itself.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    compose::run_role(BLOCKING, serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let listener = http::listen(settings.exporter.address)?;
    let reviews = compose::reviewer(&settings)?;
    let socket = settings.state_socket.path.clone();
    let mut tasks = Tasks::new();

    let (follower, followed) = Follower::new(socket.clone(), SystemTime::now());
    let clock = Arc::new(Clock::new(Proc::new(Path::new("/proc")), follower.mover()));
    tasks.spawn("clock", clock.follow());
    tasks.spawn("agent", follower.run());
    let metrics = ExporterMetrics::new(followed.link.clone()).context("making the metrics")?;
    let misfits = report_to_cluster(&mut tasks, &settings, &followed, &metrics)?;

    let http_metrics = HttpMetrics::new().context("making the metrics")?;
    let routes = routes(&followed, misfits, &metrics, &http_metrics, socket);
    let protection = protection(settings.protection.tls.clone(), reviews, &http_metrics);
    let server = http::serve(listener, routes, protection)?;
    info!(address = %server.address(), "serving metrics, health and the status page");

    let ended = tokio::select! {
        signalled = compose::signalled() => signalled,
        ended = tasks.ended() => Err(ended.into()),
    };
    compose::stop(tasks, server).await;
    ended
}

/// Watches this node's pods and reports to the cluster, if Kubernetes is configured. The receiver gets the pods whose
/// users do not fit.
fn report_to_cluster(
    tasks: &mut Tasks,
    settings: &Settings,
    followed: &Followed,
    metrics: &ExporterMetrics,
) -> anyhow::Result<watch::Receiver<Arc<Vec<PodMappingProblems>>>> {
    let (misfit_sender, misfits) = watch::channel(Arc::default());
    if let Some((api, options)) = cluster(settings) {
        let (sender, states) = watch::channel(None);
        let metrics = ClusterMetrics::new(metrics, settings.exposition).context("making the metrics")?;
        tasks.spawn("agent-states", cluster::listen(followed.clone(), sender));
        tasks.spawn("cluster", cluster::run(options, Arc::new(api), states, metrics, misfit_sender));
    }
    Ok(misfits)
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
        proc: Proc::new(Path::new("/proc")),
    };
    Some((Kube::new(access), options))
}

fn routes(
    followed: &Followed,
    misfits: watch::Receiver<Arc<Vec<PodMappingProblems>>>,
    metrics: &ExporterMetrics,
    http_metrics: &HttpMetrics,
    socket: PathBuf,
) -> Routes {
    let (shown, served, link) = (followed.clone(), followed.clone(), followed.link.clone());
    let (metrics, http_metrics, socket) = (metrics.clone(), http_metrics.clone(), Arc::new(socket));
    let (own, own_server) = (metrics.clone(), http_metrics.clone());
    let places = Arc::new(Semaphore::new(SCRAPES));
    Routes {
        page: Box::new(move || {
            let state = shown.state.borrow().clone();
            let link = shown.link.borrow().clone();
            let now = SystemTime::now();
            let age = match link.present() {
                Ok(()) => Duration::ZERO,
                Err(_) => link.last_document.and_then(|at| now.duration_since(at).ok()).unwrap_or_default(),
            };
            page::render(&PageInput { state: state.as_deref(), age, now })
        }),
        metrics: Box::new(move || {
            let (metrics, http_metrics) = (metrics.clone(), http_metrics.clone());
            let (socket, places) = (Arc::clone(&socket), Arc::clone(&places));
            Box::pin(async move {
                let place = places.acquire().await;
                let agents = state::read_metrics(&socket).await.ok()?;
                drop(place);
                // The metrics of the two have no names in common.
                Some(agents + &metrics.render() + &http_metrics.render())
            })
        }),
        // An agent that hangs must not make the exporter look as if it did.
        partial_metrics: Some(Box::new(move || {
            own.scrape_failed();
            own.render() + &own_server.render()
        })),
        state: Box::new(move || {
            served.link.borrow().present()?;
            let state = served.state.borrow().clone();
            let misfits = misfits.borrow().clone();
            state
                .map(|state| cluster::with_mapping_problems(&state, &misfits).render())
                .ok_or_else(|| "the agent has not sent a document yet".to_owned())
        }),
        healthy: Box::new(|| Ok(())),
        ready: Box::new(move || link.borrow().present()),
    }
}
