//! The composition root of `usernsd agent`: opens the peers, joins them to the tasks, and ends
//! them again.
//!
//! In this topology one process does it all. The seam for two: everything that needs privilege is
//! behind [`Containers`] and writes the store; everything a network can reach reads the state
//! document.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{error, info, warn};

use usernsd_agent::alive::{self, Pulse};
use usernsd_agent::confinement;
use usernsd_agent::containers::{
    Containers, Policies, RUNTIME_PATIENCE, RUNTIME_REST, SYSTEMD_PATIENCE, SYSTEMD_REST,
};
use usernsd_agent::decide::Decider;
use usernsd_agent::launched::follow::Follow;
use usernsd_agent::plugin::Plugin;
use usernsd_agent::runtime::{RuntimeWatch, answer_pods};
use usernsd_agent::systemd_user::SystemdUser;
use usernsd_agent::units::Units;
use usernsd_config::{Authorization, Mechanism, Settings};
use usernsd_domain::node::Peer;
use usernsd_domain::provision::HostPath;
use usernsd_inspect::ask;
use usernsd_inspect::bundle::Bundles;
use usernsd_inspect::doctor::{Doctor, DoctorConfig, Rounds};
use usernsd_inspect::handles::NodeHandles;
use usernsd_inspect::inspector::Inspector;
use usernsd_inspect::neighbour;
use usernsd_inspect::survey::Surveyor;
use usernsd_linux::host::{HostError, HostRoot};
use usernsd_linux::landlock::{Place as Written, Writing};
use usernsd_linux::proc::Proc;
use usernsd_linux::proc::observer;
use usernsd_linux::seccomp::Families;
use usernsd_linux::userdb::UserDb;
use usernsd_peers::cri;
use usernsd_peers::cri::Endpoints;
use usernsd_peers::kube::Kube;
use usernsd_report::features::FeatureFile;
use usernsd_report::gate::{self, protection};
use usernsd_report::http::{self, Listener, Routes};
use usernsd_report::metrics::{HttpMetrics, Method, Metrics, SurveyFn};
use usernsd_report::page::{self, Seen};
use usernsd_report::snapshot::Store;
use usernsd_report::state::{self, About, Sources, State};

/// A request of the runtime that is in work for longer than this means that the agent hangs: the
/// runtime has dropped the plugin by then.
const STUCK: Duration = Duration::from_secs(10);
/// How long the tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// What needs more privileges than the agent keeps.
#[derive(Debug)]
pub struct Prepared {
    inspector: Inspector,
    listener: Option<Listener>,
    /// Whom to ask who may read there.
    reviews: Option<Kube>,
    /// The cgroup hierarchy, where it is not cgroup v2.
    v1: Option<PathBuf>,
    /// What could not be given up.
    open: confinement::Open,
}

/// Does what needs privileges, and gives them up for ever: what is left are the capabilities of
/// [`KEPT`](usernsd_domain::privilege::KEPT), unix sockets, and no way to another program. To be called before there is
/// another thread, and before anything that others wrote is read but the configuration.
///
/// # Errors
/// Something the agent cannot do without is missing, or a privilege is still there.
pub fn prepare(settings: &Settings) -> anyhow::Result<Prepared> {
    let root = &settings.host_root;
    let proc = Proc::new(&root.join("proc"));
    let split = confinement::split(&proc)?;
    // Who asks an API server by the host's own files has them read as they are: its resolver's, for one.
    let asks = settings.http.is_some() && settings.protection.authorization == Authorization::Kubernetes;
    let readable = if asks && root == Path::new("/") {
        None
    } else {
        let mut readable = confinement::read_by_another(root)?;
        readable.extend(own_files(settings));
        Some(readable)
    };
    let handles = NodeHandles::open(root)?;
    let v1 = (!handles.cgroups.is_unified()).then(|| handles.cgroups.path().to_owned());
    let inspector = Inspector::new(handles, settings.rules, settings.limits)?;
    let listener = settings.http.map(http::listen).transpose()?;
    let open = confinement::confine(split, &written(settings), readable.as_deref())?;
    // Who serves a network and asks an API server makes sockets of it too; who only serves has the
    // listener's.
    let reviews = listener.is_some().then(|| reviewer(settings)).transpose()?.flatten();
    let families = if reviews.is_some() { Families::UnixAndInternet } else { Families::Unix };
    usernsd_linux::seccomp::confine(families)?;
    Ok(Prepared { inspector, listener, reviews, v1, open })
}

/// Where the files are that the agent reads again while it runs: they may lie in the node's /etc.
fn own_files(settings: &Settings) -> Vec<PathBuf> {
    let tls = settings.protection.tls.iter().flat_map(|(certificate, key)| [certificate, key]);
    tls.filter_map(|path| path.parent()).map(Path::to_owned).collect()
}

/// Where the agent writes. Those of its own are made here: later nothing could be made beside them.
fn written(settings: &Settings) -> Vec<Written> {
    let make = |directory: &Path| {
        // One that cannot be made is reported by its user, who makes it too.
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
    };
    let mut places = Vec::new();
    if !settings.rules.observe_only {
        let directory = settings.host_root.join("sys/fs/cgroup");
        places.push(Written { directory, writing: Writing::InPlace });
    }
    if let Some(directory) = settings.state_socket.path.parent() {
        make(directory);
        places.push(Written { directory: directory.to_owned(), writing: Writing::Sockets });
    }
    if let Some(directory) = settings.feature_file.as_ref().and_then(HostPath::parent) {
        let directory = settings.host_root.join(directory.as_str());
        places.push(Written { directory, writing: Writing::Files });
    }
    if settings.mechanism == Mechanism::SystemdUser {
        let directory = UserDb::new(&settings.host_root).directory().to_owned();
        make(&directory);
        places.push(Written { directory, writing: Writing::Files });
    }
    places
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
/// Something the agent cannot do without is missing.
pub fn run(settings: Settings, prepared: Prepared) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Looks at containers that wait for systemd or a file; a few are enough.
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .context("starting the asynchronous runtime")?;
    let result = runtime.block_on(serve(settings, prepared));
    runtime.shutdown_timeout(GRACE);
    result
}

async fn serve(settings: Settings, prepared: Prepared) -> anyhow::Result<()> {
    let started = SystemTime::now();
    let Prepared { inspector, listener, reviews, v1, open } = prepared;
    if let Some(warning) = open.warning() {
        warn!("{warning}");
    }
    if let Some(path) = v1 {
        warn!(
            path = %path.display(),
            "this node runs cgroup v1, where delegation is unsafe; no cgroup is handed over until it boots with cgroup v2"
        );
    }
    let store = Store::new(started);
    let root_dir = settings.bootstrap.ids.kubelet.root_dir.as_ref();
    let surveyor = Arc::new(Surveyor::new(&settings.host_root)?.with_kubelet(root_dir));
    let look: SurveyFn = {
        let surveyor = Arc::clone(&surveyor);
        Arc::new(move |snapshot| surveyor.shared(snapshot))
    };
    let metrics = Metrics::new(store.clone(), look, settings.exposition).context("making the metrics")?;
    let (ask_runtime, pod_questions) = ask::channel(RUNTIME_PATIENCE, RUNTIME_REST);
    let (ask_systemd, unit_questions) = ask::channel(SYSTEMD_PATIENCE, SYSTEMD_REST);
    let policies = Policies { adjust: settings.adjust.clone(), guard: settings.guard };
    let systemd_user = systemd_user(&settings);
    let decider = Decider::new(inspector, policies, ask_runtime, ask_systemd, systemd_user.clone());
    let containers = Arc::new(Containers::new(decider, store.clone(), metrics.clone()));
    let (stop, stopping) = watch::channel(false);
    let resync = Arc::new(Notify::new());
    let bundles = Arc::new(bundles(&settings));
    let endpoints = endpoints(&settings);
    let mut tasks = tokio::task::JoinSet::new();

    // NRI, on its own thread.
    let (listed, from_nri) = mpsc::unbounded_channel();
    let (sight, sight_questions) = ask::channel(neighbour::PATIENCE, Duration::ZERO);
    let plugin = settings
        .nri
        .as_ref()
        .map(|nri| Arc::new(Plugin::new(nri.sockets.clone(), nri.index).with_sight(sight)));
    let nri_thread = match &plugin {
        Some(plugin) => {
            // Until it is seen whether the runtime launched one of its own.
            plugin.hold();
            let (plugin, containers) = (Arc::clone(plugin), Arc::clone(&containers));
            let thread = std::thread::Builder::new().name("nri".to_owned());
            Some(thread.spawn(move || plugin.run(&containers, &listed)).context("starting the NRI thread")?)
        }
        None => {
            store.off(Peer::Nri, started);
            None
        }
    };

    // A plugin that the runtime launched makes joining needless.
    let follow = Follow {
        directory: settings.host_root.join(usernsd_peers::launched::DIRECTORY),
        containers: Arc::clone(&containers),
        join: {
            let plugin = plugin.clone();
            Box::new(move |wanted| {
                if let Some(plugin) = &plugin {
                    plugin.set_wanted(wanted);
                }
            })
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    tasks.spawn(follow.run(stopping.clone()));
    let called_first: Arc<dyn Fn() -> bool + Send + Sync> = {
        let store = store.clone();
        Arc::new(move || store.is_called_first())
    };

    // systemd.
    match &settings.systemd {
        Some(systemd) => {
            let units = Units {
                bus: systemd.bus_socket.clone(),
                containers: Arc::clone(&containers),
                bundles: Arc::clone(&bundles),
                called_first: Arc::clone(&called_first),
                questions: unit_questions,
                resync: Arc::clone(&resync),
                systemd_user,
            };
            tasks.spawn(units.run(stopping.clone()));
        }
        None => {
            store.off(Peer::Systemd, started);
            // Dropped: whoever asks hears at once that nobody answers.
            drop(unit_questions);
        }
    }

    // The runtime over CRI.
    tasks.spawn(neighbour::answer(Arc::clone(&endpoints), Arc::clone(&bundles), sight_questions));
    let failed = {
        let metrics = metrics.clone();
        move || metrics.request_failed(Method::PodSandboxStatus)
    };
    tasks.spawn(answer_pods(Arc::clone(&endpoints), pod_questions, containers.pods().clone(), failed));
    let (ready, mut is_ready) = watch::channel(false);
    // The first round of checks comes when the agent is in its place: before, it would report for a whole
    // interval that nobody is called before containers start.
    let (in_place, is_in_place) = watch::channel(false);
    let rounds = Rounds {
        doctor: Arc::new(doctor(&settings)?),
        store: store.clone(),
        every: settings.resync,
        ready: is_in_place,
    };
    tasks.spawn(rounds.run(stopping.clone()));
    let runtime = RuntimeWatch {
        endpoints,
        containers: Arc::clone(&containers),
        bundles,
        called_first,
        listed: from_nri,
        resync,
        every: settings.resync,
        repair: settings.repair,
        ready,
    };
    tasks.spawn(runtime.run(stopping.clone()));

    // What others may know.
    let about =
        About { node: node_name(), version: env!("CARGO_PKG_VERSION").to_owned(), started_at: started };
    let state: Arc<dyn Fn() -> State + Send + Sync> = {
        let store = store.clone();
        Arc::new(move || {
            let snapshot = store.snapshot();
            State::of(&about, &snapshot, &surveyor.shared(&snapshot))
        })
    };
    if let Some(file) = settings.feature_file.clone() {
        let features = FeatureFile::new(HostRoot::open(&settings.host_root)?, file);
        tasks.spawn(features.run(Arc::clone(&state)));
    }
    let _state_server = {
        let (state, metrics) = (Arc::clone(&state), metrics.clone());
        let sources = Sources {
            document: Box::new(move || state().render()),
            metrics: Box::new(move || metrics.render()),
            changes: store.changes(),
        };
        state::serve(&settings.state_socket.path, &settings.state_socket.allow_uids, sources)?
    };
    info!(socket = %settings.state_socket.path.display(), "serving the state");
    let first_look_done = Arc::new(AtomicBool::new(false));
    let _http_server = match listener {
        Some(listener) => {
            let (is_stuck, looked) = (plugin.clone(), Arc::clone(&first_look_done));
            let shown = Arc::clone(&state);
            let http_metrics = HttpMetrics::new().context("making the metrics")?;
            let own_server = http_metrics.clone();
            let routes = Routes {
                page: Box::new(move || page::render(&Seen::now(&shown()))),
                metrics: Box::new(move || {
                    Box::pin(std::future::ready(metrics.render() + &own_server.render()))
                }),
                state: Box::new(move || Ok(state().render())),
                healthy: Box::new(move || match is_stuck.as_ref().map(|plugin| plugin.busy_for()) {
                    Some(busy) if busy >= STUCK => {
                        Err("not healthy: a request of the runtime is stuck".to_owned())
                    }
                    _ => Ok(()),
                }),
                ready: Box::new(move || match looked.load(Ordering::Relaxed) {
                    true => Ok(()),
                    false => Err("not ready: not every container was looked at yet".to_owned()),
                }),
            };
            let protection = protection(settings.protection.tls.clone(), reviews, &http_metrics);
            let server = http::serve(listener, routes, protection)?;
            info!(address = %server.address(), "serving metrics and health");
            Some(server)
        }
        None => None,
    };
    // Ready when everything that ran before has been looked at, and it is known who is in the start path.
    let mut settled = plugin.as_ref().map(|plugin| plugin.settled());
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut watchdog = watchdog();
    let pulse = Pulse::default();
    let in_work = plugin.clone();
    let is_stuck = move || in_work.as_ref().is_some_and(|plugin| plugin.busy_for() >= STUCK);
    alive::guard(pulse.clone(), is_stuck).context("starting a thread")?;
    let mut beat = tokio::time::interval(Pulse::EVERY);
    loop {
        tokio::select! {
            _ = beat.tick() => {
                pulse.beat();
                if observer::installed().is_some_and(|observer| !observer.is_alive()) {
                    bail!("the process that reads other processes' namespaces ended; no container can be looked at without it");
                }
            }
            is_placed = placed(&mut is_ready, settled.as_mut()), if !first_look_done.load(Ordering::Relaxed) => {
                if is_placed {
                    first_look_done.store(true, Ordering::Relaxed);
                    in_place.send_replace(true);
                    notify(&[sd_notify::NotifyState::Ready]);
                    info!(containers = store.list().len(), "ready");
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = watchdog.tick() => {
                match plugin.as_ref().map(|plugin| plugin.busy_for()) {
                    Some(busy) if busy > STUCK => {
                        error!(seconds = busy.as_secs(), "a request of the runtime is stuck; leaving it to the watchdog");
                    }
                    _ => notify(&[sd_notify::NotifyState::Watchdog]),
                }
            }
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    return Err(error).context("a task of the agent ended");
                }
            }
        }
    }

    info!("stopping");
    notify(&[sd_notify::NotifyState::Stopping]);
    stop.send_replace(true);
    if let Some(plugin) = &plugin {
        plugin.stop();
    }
    tasks.abort_all();
    if let Some(thread) = nri_thread {
        // It ends once the request in work is answered.
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if tokio::time::timeout(GRACE, joined).await.is_err() {
            warn!("the NRI thread did not end in time");
        }
    }
    Ok(())
}

/// Waits for the first look at every container, and until it is known whether the runtime can be joined
/// over NRI: a container that starts between the two would be missed. False where a task has ended.
async fn placed(looked: &mut watch::Receiver<bool>, joined: Option<&mut watch::Receiver<bool>>) -> bool {
    let is_looked = looked.wait_for(|looked| *looked).await.is_ok();
    match joined {
        Some(joined) => is_looked && joined.wait_for(|joined| *joined).await.is_ok(),
        None => is_looked,
    }
}

fn systemd_user(settings: &Settings) -> Option<Arc<SystemdUser>> {
    if settings.mechanism != Mechanism::SystemdUser {
        return None;
    }
    Some(Arc::new(SystemdUser::new(UserDb::new(&settings.host_root), settings.rules.minimum_host_id)))
}

fn doctor(settings: &Settings) -> Result<Doctor, HostError> {
    Doctor::new(DoctorConfig {
        root: settings.host_root.clone(),
        endpoints: settings.runtime.endpoints.clone(),
        bus: settings.systemd.as_ref().map(|systemd| systemd.bus_socket.clone()),
        is_ours: settings.bootstrap.enabled,
        ids: settings.bootstrap.ids.clone(),
        runtime: settings.bootstrap.runtime,
        crio: settings.bootstrap.crio.clone(),
        containerd_nri: settings.bootstrap.containerd_nri,
        hook: settings.bootstrap.hook.clone(),
        plugin: settings.bootstrap.plugin.clone(),
        apply_sysctl: settings.bootstrap.apply_sysctl,
        may_run_programs: false,
    })
}

fn bundles(settings: &Settings) -> Bundles {
    let (root, dirs) = (settings.host_root.clone(), settings.runtime.bundle_dirs.clone());
    Bundles::new(move |id| dirs.iter().map(|dir| root.join(dir.of(id))).collect())
}

fn endpoints(settings: &Settings) -> Endpoints {
    let (root, named) = (settings.host_root.clone(), settings.runtime.endpoints.clone());
    Arc::new(move || {
        if named.is_empty() {
            cri::discover(&root).into_iter().map(|(_, path)| path).collect()
        } else {
            named.clone()
        }
    })
}

/// The node's name: what Kubernetes calls it, where it says so, else the host's.
fn node_name() -> String {
    std::env::var("NODE_NAME").unwrap_or_else(|_| {
        nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
    })
}

/// Tells systemd, where it started the agent and wants to know.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "could not tell systemd");
    }
}

/// Ticks twice in systemd's watchdog time; never where there is none.
struct Watchdog(Option<tokio::time::Interval>);

fn watchdog() -> Watchdog {
    Watchdog(sd_notify::watchdog_enabled().map(|time| tokio::time::interval(time / 2)))
}

impl Watchdog {
    async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
