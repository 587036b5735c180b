//! The composition root of `usernsd agent`: opens the peers, connects them to the tasks, and stops them again.
//!
//! In this topology one process does it all. The seam for two: everything that needs privilege is behind [`Containers`]
//! and writes the store; everything a network can reach reads the state document.

use std::convert::Infallible;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{error, info, warn};

use crate::compose;
use usernsd_agent::confinement;
use usernsd_agent::containers::Containers;
use usernsd_agent::cri_watch::{RuntimeWatch, answer_pods};
use usernsd_agent::decide::{
    Decider, Policies, RUNTIME_PATIENCE, RUNTIME_REST, SYSTEMD_PATIENCE, SYSTEMD_REST,
};
use usernsd_agent::launched::follow::Follow;
use usernsd_agent::nri_plugin::{Listed, Plugin};
use usernsd_agent::pod_answers::PodAnswer;
use usernsd_agent::systemd_user::SystemdUser;
use usernsd_agent::systemd_watch::Units;
use usernsd_agent::watchdog::{self, Pulse};
use usernsd_config::{Authorization, BundleDir, ConfigError, Mechanism, Overrides, Settings};
use usernsd_domain::chain::chain;
use usernsd_domain::container::CriId;
use usernsd_domain::node::Peer;
use usernsd_domain::provision::HostPath;
use usernsd_domain::unit::Scope;
use usernsd_inspect::ask::{self, Question};
use usernsd_inspect::bundle::Bundles;
use usernsd_inspect::doctor::{Doctor, Rounds};
use usernsd_inspect::handles::NodeHandles;
use usernsd_inspect::inspector::Inspector;
use usernsd_inspect::neighbour;
use usernsd_inspect::survey::Surveyor;
use usernsd_linux::host::HostRoot;
use usernsd_linux::landlock::{WritableDirectory, WriteRights};
use usernsd_linux::proc::Proc;
use usernsd_linux::proc::observer;
use usernsd_linux::seccomp::Families;
use usernsd_linux::userdb::UserDb;
use usernsd_peers::cri::{Endpoints, OnFailure};
use usernsd_peers::kube::Kube;
use usernsd_report::authorization::protection;
use usernsd_report::clock::Clock;
use usernsd_report::features::FeatureFile;
use usernsd_report::http::{self, Listener, Routes};
use usernsd_report::metrics::{HttpMetrics, Metrics};
use usernsd_report::page::{self, PageInput};
use usernsd_report::state::{self, About, Sources, State};
use usernsd_report::store::Store;
use usernsd_tasks::Tasks;

/// Time between two looks for new pods, for the check of what they ask for.
const NEW_PODS: Duration = Duration::from_secs(10);
/// Threads for looks at containers that wait for systemd or a file; a few are enough.
const BLOCKING: usize = 8;
/// The directory of the pods' bundles, below containerd's state directory.
const BUNDLES_OF_PODS: &str = "io.containerd.runtime.v2.task/k8s.io";

/// The parts that are made with more privileges than the agent keeps.
#[derive(Debug)]
pub struct Prepared {
    inspector: Inspector,
    listener: Option<Listener>,
    /// The API server that authorizes readers of the HTTP server.
    reviews: Option<Kube>,
    /// The path of the cgroup hierarchy if it is not cgroup v2.
    v1: Option<PathBuf>,
    /// The part of the confinement that could not be enforced.
    open: confinement::Open,
}

/// The agent's settings, with what only a process without its confinement can find on the node.
///
/// # Errors
/// As for [`Settings::load`].
pub fn settings(file: Option<&Path>, overrides: Overrides) -> Result<Settings, ConfigError> {
    Ok(compose::of_node(Settings::load(file, overrides)?))
}

/// Does everything that needs privileges, and drops them permanently. What remains are the capabilities in
/// [`KEPT`](usernsd_domain::privilege::KEPT), unix sockets, and no way to another program. To be called
/// before there is another thread, and before anything that others wrote is read but the configuration.
///
/// # Errors
/// Something the agent cannot do without is missing, or a privilege is still there.
pub fn prepare(settings: &Settings) -> anyhow::Result<Prepared> {
    let root = &settings.host_root;
    let proc = Proc::new(&root.join("proc"));
    let split = confinement::split(&proc)?;
    // If `host.root` is `/`, asking an API server needs the host's own files in `/etc`, such as the
    // resolver's.
    let asks = settings.http.is_some() && settings.protection.authorization == Authorization::Kubernetes;
    let readable = if asks && root == Path::new("/") {
        None
    } else {
        let mut readable = confinement::read_by_another(root)?;
        readable.extend(bundles(settings));
        readable.extend(own_files(settings));
        Some(readable)
    };
    let handles = NodeHandles::open(root)?;
    let v1 = (!handles.cgroups.is_unified()).then(|| handles.cgroups.path().to_owned());
    let inspector = Inspector::new(handles, settings.rules, settings.limits)?;
    let listener = settings.http.map(http::listen).transpose()?;
    let open = confinement::confine(split, &written(settings), readable.as_deref())?;
    // Asking an API server needs new TCP sockets. Serving needs only the listener that is bound already.
    let reviews = listener.is_some().then(|| compose::reviewer(settings)).transpose()?.flatten();
    let families = if reviews.is_some() { Families::UnixAndInternet } else { Families::Unix };
    usernsd_linux::seccomp::confine(families)?;
    Ok(Prepared { inspector, listener, reviews, v1, open })
}

/// The directories of the files that the agent reads again while it runs, if it serves HTTP: they may lie in the node's
/// /etc. The whole directories, because the files are replaced by a rename.
fn own_files(settings: &Settings) -> Vec<PathBuf> {
    let served = settings.protection.tls.iter().filter(|_| settings.http.is_some());
    let tls = served.flat_map(|(certificate, key)| [certificate, key]);
    tls.filter_map(|path| path.parent()).map(Path::to_owned).collect()
}

/// Where the runtimes keep the containers' bundles, and the state directories of containerd: it makes those of the bundles
/// with its first container, and what is not there cannot be named.
fn bundles(settings: &Settings) -> Vec<PathBuf> {
    let above = |dir: &BundleDir| settings.host_root.join(dir.above());
    let state = |above: &PathBuf| {
        let of_task = above.ends_with(BUNDLES_OF_PODS);
        of_task.then(|| above.ancestors().nth(2).map(Path::to_owned)).flatten()
    };
    let mut places: Vec<PathBuf> = settings.runtime.bundle_dirs.iter().map(above).collect();
    places.extend(places.iter().filter_map(state).collect::<Vec<_>>());
    places
}

/// Where the agent writes. Those of its own are made here: later nothing could be made beside them.
fn written(settings: &Settings) -> Vec<WritableDirectory> {
    let make = |directory: &Path| {
        // One that cannot be made is reported by its user, who makes it too.
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
    };
    let mut places = Vec::new();
    if !settings.rules.observe_only {
        let directory = settings.host_root.join("sys/fs/cgroup");
        places.push(WritableDirectory { directory, writing: WriteRights::InPlace });
    }
    if let Some(directory) = settings.state_socket.path.parent() {
        make(directory);
        places.push(WritableDirectory { directory: directory.to_owned(), writing: WriteRights::Sockets });
    }
    if let Some(directory) = settings.feature_file.as_ref().and_then(HostPath::parent) {
        let directory = settings.host_root.join(directory.as_str());
        places.push(WritableDirectory { directory, writing: WriteRights::Files });
    }
    if settings.mechanism == Mechanism::SystemdUser {
        let directory = UserDb::new(&settings.host_root).directory().to_owned();
        make(&directory);
        places.push(WritableDirectory { directory, writing: WriteRights::Files });
    }
    places
}

/// The state that the agent's tasks share.
struct Agent {
    settings: Settings,
    started: SystemTime,
    /// The node's uptime at that time.
    uptime_at_start: Option<Duration>,
    store: Store,
    metrics: Metrics,
    surveyor: Arc<Surveyor>,
    containers: Arc<Containers>,
    systemd_user: Option<Arc<SystemdUser>>,
    bundles: Arc<Bundles>,
    endpoints: Endpoints,
    /// Asks for a resync.
    resync: Arc<Notify>,
    /// The containers that the runtime listed when it was joined over NRI.
    listed: Arc<Listed>,
    /// The clock of the records in the store.
    clock: Arc<Clock>,
    /// True once everything that ran before the agent was looked at, and it is known who is in the start path.
    ready: watch::Sender<bool>,
    tasks: Tasks,
}

/// Questions of threads that wait for a container's start, for the tasks that ask the peers.
struct Questions {
    pods: mpsc::Receiver<Question<CriId, Option<PodAnswer>>>,
    units: mpsc::Receiver<Question<String, Option<Scope>>>,
}

/// The state document as it is now.
type StateNow = Arc<dyn Fn() -> State + Send + Sync>;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Something the agent cannot do without is missing, or a task ended by itself.
pub fn run(settings: Settings, prepared: Prepared) -> anyhow::Result<()> {
    compose::run_role(BLOCKING, serve(settings, prepared))
}

async fn serve(settings: Settings, prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { inspector, listener, reviews, v1, open } = prepared;
    warn_of_limits(&open, v1.as_deref());
    let (mut agent, questions) = Agent::new(settings, inspector)?;

    let plugin = agent.join_nri()?;
    agent.follow_launched_plugins(plugin.clone());
    agent.ask_systemd(questions.units);
    let inspected = agent.watch_runtime(questions.pods);
    agent.check_node()?;
    agent.tasks.spawn("clock", Arc::clone(&agent.clock).follow());

    let state = agent.state();
    agent.write_features(&state)?;
    let state_server = agent.serve_state(&state)?;
    let http_server =
        listener.map(|listener| agent.serve_http(listener, reviews, &state, plugin.clone())).transpose()?;

    let ended = agent.until_stopped(plugin, inspected).await;
    notify(&[sd_notify::NotifyState::Stopping]);
    compose::stop(agent.tasks, (http_server, state_server)).await;
    ended
}

fn warn_of_limits(open: &confinement::Open, v1: Option<&Path>) {
    if let Some(warning) = open.warning() {
        warn!("{warning}");
    }
    if let Some(path) = v1 {
        warn!(
            path = %path.display(),
            "this node runs cgroup v1, where delegation is unsafe; no cgroup is handed over until it boots with cgroup v2"
        );
    }
}

// === impl Agent ===

impl Agent {
    fn new(settings: Settings, inspector: Inspector) -> anyhow::Result<(Agent, Questions)> {
        let started = SystemTime::now();
        let store = Store::new(started);
        let proc = Proc::new(&settings.host_root.join("proc"));
        let uptime_at_start = proc.uptime().ok();
        let moved = store.clone();
        let root_dir = settings.bootstrap.ids.kubelet.root_dir.as_ref();
        let surveyor = Arc::new(Surveyor::new(&settings.host_root)?.with_kubelet(root_dir));
        let surveying = Arc::clone(&surveyor);
        let survey = Arc::new(move |snapshot: &_| surveying.shared(snapshot));
        let metrics =
            Metrics::new(store.clone(), survey, settings.exposition).context("making the metrics")?;
        let (ask_runtime, pods) = ask::channel(RUNTIME_PATIENCE, RUNTIME_REST);
        let (ask_systemd, units) = ask::channel(SYSTEMD_PATIENCE, SYSTEMD_REST);
        let policies = Policies { adjust: settings.adjust.clone(), guard: settings.guard };
        let systemd_user = systemd_user(&settings);
        let decider = Decider::new(inspector, policies, ask_runtime, ask_systemd, systemd_user.clone());
        let agent = Agent {
            containers: Arc::new(Containers::new(decider, store.clone(), metrics.clone())),
            bundles: Arc::new(compose::bundles(&settings)),
            endpoints: compose::endpoints(&settings),
            settings,
            started,
            uptime_at_start,
            clock: Arc::new(Clock::new(proc, move |change| moved.shift(change))),
            store,
            metrics,
            surveyor,
            systemd_user,
            resync: Arc::default(),
            listed: Arc::default(),
            ready: watch::Sender::new(false),
            tasks: Tasks::new(),
        };
        Ok((agent, Questions { pods, units }))
    }

    /// Counts requests to the runtime that fail.
    fn on_failure(&self) -> OnFailure {
        let metrics = self.metrics.clone();
        Arc::new(move |call| metrics.request_failed(call))
    }

    /// Joins the runtime over NRI, on a thread of its own, unless a plugin that the runtime launched serves it.
    fn join_nri(&mut self) -> anyhow::Result<Option<Arc<Plugin>>> {
        let Some(nri) = &self.settings.nri else {
            self.store.off(Peer::Nri, self.started);
            return Ok(None);
        };
        let (join_facts, questions) = ask::channel(neighbour::PATIENCE, Duration::ZERO);
        let plugin = Arc::new(Plugin::new(nri.sockets.clone(), nri.index).with_join_facts(join_facts));
        // Until it is seen whether the runtime launched a plugin.
        plugin.hold();
        let (endpoints, bundles) = (Arc::clone(&self.endpoints), Arc::clone(&self.bundles));
        self.tasks
            .spawn("nri-neighbours", neighbour::answer(endpoints, bundles, questions, self.on_failure()));
        let (joining, leaving) = (Arc::clone(&plugin), Arc::clone(&plugin));
        let (containers, listed) = (Arc::clone(&self.containers), Arc::clone(&self.listed));
        // It ends once the request in work is answered.
        self.tasks
            .spawn_thread("nri", move || joining.run(&containers, &listed), move || leaving.stop())
            .context("starting the NRI thread")?;
        Ok(Some(plugin))
    }

    /// Takes the reports of plugins that the runtime launched. While one serves the runtime, `joining` is not needed.
    fn follow_launched_plugins(&mut self, joining: Option<Arc<Plugin>>) {
        let follow = Follow {
            directory: self.settings.host_root.join(usernsd_peers::launched::DIRECTORY),
            containers: Arc::clone(&self.containers),
            clock: Arc::clone(&self.clock),
            join: Box::new(move |wanted| {
                if let Some(plugin) = &joining {
                    plugin.set_wanted(wanted);
                }
            }),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.tasks.spawn("launched-plugins", follow.run());
    }

    /// Answers `questions` about units, and follows systemd's signals. Without systemd the questions are dropped, so
    /// that nobody waits for an answer.
    fn ask_systemd(&mut self, questions: mpsc::Receiver<Question<String, Option<Scope>>>) {
        let Some(systemd) = &self.settings.systemd else {
            self.store.off(Peer::Systemd, self.started);
            return;
        };
        let units = Units {
            bus: systemd.bus_socket.clone(),
            containers: Arc::clone(&self.containers),
            bundles: Arc::clone(&self.bundles),
            questions,
            resync: Arc::clone(&self.resync),
            systemd_user: self.systemd_user.clone(),
        };
        self.tasks.spawn("systemd", units.run());
    }

    /// Answers `questions` about pods, and follows the runtime over CRI. The receiver becomes true after the
    /// first inspection of all containers.
    fn watch_runtime(
        &mut self,
        questions: mpsc::Receiver<Question<CriId, Option<PodAnswer>>>,
    ) -> watch::Receiver<bool> {
        let failed = self.on_failure();
        let pods = self.containers.pods().clone();
        self.tasks.spawn("pods", answer_pods(Arc::clone(&self.endpoints), questions, pods, failed));
        let (ready, inspected) = watch::channel(false);
        let runtime = RuntimeWatch {
            endpoints: Arc::clone(&self.endpoints),
            containers: Arc::clone(&self.containers),
            bundles: Arc::clone(&self.bundles),
            listed: Arc::clone(&self.listed),
            resync: Arc::clone(&self.resync),
            every: self.settings.resync,
            repair: self.settings.repair,
            ready,
        };
        self.tasks.spawn("runtime", runtime.run());
        inspected
    }

    /// Checks the node in rounds. The first comes when the agent is in its place: before, it would report for a whole
    /// interval that nobody is called before containers start.
    fn check_node(&mut self) -> anyhow::Result<()> {
        let rounds = Rounds {
            doctor: Arc::new(Doctor::new(compose::examined(&self.settings, false))?),
            store: self.store.clone(),
            every: self.settings.resync,
            pods_every: NEW_PODS,
            ready: self.ready.subscribe(),
        };
        self.tasks.spawn("checks", rounds.run());
        Ok(())
    }

    fn state(&self) -> StateNow {
        let about = About {
            node: node_name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_at_start: self.uptime_at_start,
        };
        let (store, surveyor) = (self.store.clone(), Arc::clone(&self.surveyor));
        Arc::new(move || {
            let snapshot = store.snapshot();
            State::of(&about, &snapshot, &surveyor.shared(&snapshot))
        })
    }

    /// Keeps the file for Node Feature Discovery, if one is configured.
    fn write_features(&mut self, state: &StateNow) -> anyhow::Result<()> {
        if let Some(file) = self.settings.feature_file.clone() {
            let features = FeatureFile::new(HostRoot::open(&self.settings.host_root)?, file);
            self.tasks.spawn("features", features.run(Arc::clone(state), self.clock.set()));
        }
        Ok(())
    }

    fn serve_state(&self, state: &StateNow) -> anyhow::Result<state::StateServer> {
        let (state, metrics) = (Arc::clone(state), self.metrics.clone());
        let sources = Sources {
            document: Box::new(move || state().render()),
            metrics: Box::new(move || metrics.render()),
            changes: self.store.changes(),
        };
        let socket = &self.settings.state_socket;
        let server = state::serve(&socket.path, &socket.allow_uids, sources)?;
        info!(socket = %socket.path.display(), "serving the state");
        Ok(server)
    }

    fn serve_http(
        &self,
        listener: Listener,
        reviews: Option<Kube>,
        state: &StateNow,
        plugin: Option<Arc<Plugin>>,
    ) -> anyhow::Result<http::HttpServer> {
        let (shown, state, metrics) = (Arc::clone(state), Arc::clone(state), self.metrics.clone());
        let http_metrics = HttpMetrics::new().context("making the metrics")?;
        let (own_server, ready) = (http_metrics.clone(), self.ready.subscribe());
        let routes = Routes {
            page: Box::new(move || page::render(&PageInput::now(&shown()))),
            metrics: Box::new(move || {
                Box::pin(std::future::ready(Some(metrics.render() + &own_server.render())))
            }),
            partial_metrics: None,
            state: Box::new(move || Ok(state().render())),
            healthy: Box::new(move || match plugin.as_ref().is_some_and(|plugin| plugin.is_stuck()) {
                true => Err("not healthy: a request of the runtime is stuck".to_owned()),
                false => Ok(()),
            }),
            ready: Box::new(move || match *ready.borrow() {
                true => Ok(()),
                false => Err("not ready: not every container was looked at yet".to_owned()),
            }),
        };
        let protection = protection(self.settings.protection.tls.clone(), reviews, &http_metrics);
        let server = http::serve(listener, routes, protection)?;
        info!(address = %server.address(), "serving metrics and health");
        Ok(server)
    }

    /// Shows that the agent lives and when it is ready, until it is stopped.
    ///
    /// # Errors
    /// A task ended by itself, or a process without which the agent cannot work.
    async fn until_stopped(
        &mut self,
        plugin: Option<Arc<Plugin>>,
        inspected: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let pulse = Pulse::default();
        let guarded = plugin.clone();
        let is_stuck = move || guarded.as_ref().is_some_and(|plugin| plugin.is_stuck());
        watchdog::guard(pulse.clone(), is_stuck).context("starting a thread")?;
        tokio::select! {
            signalled = compose::signalled() => signalled,
            ended = self.tasks.ended() => Err(ended.into()),
            error = beat(pulse) => Err(error),
            never = announce(inspected, plugin.as_deref(), &self.ready, &self.store) => match never {},
            never = feed_watchdog(plugin.as_deref()) => match never {},
        }
    }
}

/// Beats as long as the main loop works and the observer lives.
async fn beat(pulse: Pulse) -> anyhow::Error {
    let mut ticks = tokio::time::interval(Pulse::EVERY);
    loop {
        ticks.tick().await;
        pulse.beat();
        if observer::installed().is_some_and(|observer| !observer.is_alive()) {
            return anyhow!(
                "the process that reads other processes' namespaces ended; no container can be looked at without it"
            );
        }
    }
}

/// Announces that the agent is ready: every container was looked at, and it is known whether the runtime can be joined
/// over NRI. A container that starts between the two would be missed.
async fn announce(
    mut inspected: watch::Receiver<bool>,
    plugin: Option<&Plugin>,
    ready: &watch::Sender<bool>,
    store: &Store,
) -> Infallible {
    let is_inspected = inspected.wait_for(|inspected| *inspected).await.is_ok();
    let is_placed = match plugin {
        Some(plugin) => plugin.settled().wait_for(|settled| *settled).await.is_ok(),
        None => true,
    };
    // A sender that is gone belonged to a task that ended, which ends the agent.
    if is_inspected && is_placed {
        ready.send_replace(true);
        notify(&[sd_notify::NotifyState::Ready]);
        info!(containers = store.list().len(), "ready");
    }
    std::future::pending().await
}

/// Feeds systemd's watchdog twice in its time, if there is one, unless a request of the runtime is stuck.
async fn feed_watchdog(plugin: Option<&Plugin>) -> Infallible {
    let Some(time) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(time / 2);
    loop {
        ticks.tick().await;
        match plugin.filter(|plugin| plugin.is_stuck()) {
            Some(plugin) => {
                let seconds = plugin.busy_for().as_secs();
                error!(seconds, "a request of the runtime is stuck; leaving it to the watchdog");
            }
            None => notify(&[sd_notify::NotifyState::Watchdog]),
        }
    }
}

fn systemd_user(settings: &Settings) -> Option<Arc<SystemdUser>> {
    let is_wanted = settings.mechanism == Mechanism::SystemdUser;
    let user_db = || UserDb::new(&settings.host_root);
    is_wanted.then(|| Arc::new(SystemdUser::new(user_db(), settings.rules.minimum_host_id)))
}

/// The node's name: what Kubernetes calls it, if it is known, else the host's.
fn node_name() -> String {
    std::env::var("NODE_NAME").unwrap_or_else(|_| {
        rustix::system::uname().nodename().to_str().map(str::to_owned).unwrap_or_default()
    })
}

/// Notifies systemd, if it started the agent and expects that.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(error = %chain(&error), "could not notify systemd");
    }
}
