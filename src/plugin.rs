//! The composition root of the launched plugin, which the container runtime starts from its directory of NRI
//! plugins: it adjusts containers, guards their isolation and delegates cgroups from the runtime's first
//! container on, whether an agent runs or not.
//!
//! It keeps no state after its end, opens only the files that its decisions need, and ends when the runtime
//! closes the connection. It reports what it did to the agent ([`usernsd_agent::launched`]).

mod settings_file;

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tracing::{info, warn};

use self::settings_file::SettingsFile;
use crate::compose;
use usernsd_agent::confinement;
use usernsd_agent::cri_watch::answer_pods;
use usernsd_agent::decide::{
    Decider, Policies, RUNTIME_PATIENCE, RUNTIME_REST, SYSTEMD_PATIENCE, SYSTEMD_REST, Trigger,
    keep_from_running,
};
use usernsd_agent::launched::reports::Reports;
use usernsd_agent::pod_answers::{PodAnswer, PodAnswers};
use usernsd_config::{LogFormat, Overrides, PluginSettings, Settings};
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, CriId, Sandbox};
use usernsd_domain::guard::Verdict;
use usernsd_domain::isolation::Occasion;
use usernsd_domain::lock::lock;
use usernsd_domain::record::{Outcome, Source};
use usernsd_domain::report::{Done, Inspected};
use usernsd_inspect::ask::{self, Question};
use usernsd_inspect::inspector::Inspector;
use usernsd_inspect::neighbour;
use usernsd_linux::inherited;
use usernsd_linux::landlock::{WritableDirectory, WriteRights};
use usernsd_linux::log;
use usernsd_linux::proc::Proc;
use usernsd_linux::proc::observer;
use usernsd_linux::seccomp::Families;
use usernsd_nri::{CreateToken, Request, Session, StartToken};
use usernsd_peers::cri;
use usernsd_peers::cri::Endpoints;
use usernsd_peers::launched::{DIRECTORY, Hello, PROTOCOL, PluginListener};
use usernsd_report::clock;
use usernsd_tasks::{TaskEnded, Tasks, name_panics};

/// Threads for work of the second thread that blocks; there is none.
const BLOCKING: usize = 1;

/// The environment variable in which a runtime passes the socket's descriptor.
const SOCKET: &str = "NRI_PLUGIN_SOCKET";

/// How the runtime launched this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    socket: i32,
    name: String,
    index: String,
}

// === impl Launched ===

impl Launched {
    /// Recognises whether a runtime launched this process as its plugin: under a name of the form
    /// `90-usernsd`, without arguments and with a socket.
    #[must_use]
    pub fn recognise(
        mut arguments: impl Iterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<Launched> {
        let program = arguments.next()?;
        let file = Path::new(&program).file_name()?.to_str()?;
        let (index, name) = file.split_once('-')?;
        let is_index = index.len() == 2 && index.bytes().all(|byte| byte.is_ascii_digit());
        if !is_index || name != "usernsd" || arguments.next().is_some() {
            return None;
        }
        Some(Launched {
            socket: variable(SOCKET)?.parse().ok().filter(|number| *number > 2)?,
            name: variable("NRI_PLUGIN_NAME").unwrap_or_else(|| name.to_owned()),
            index: variable("NRI_PLUGIN_IDX").unwrap_or_else(|| index.to_owned()),
        })
    }
}

/// Serves the runtime until it closes the connection. Errors are logged as well, because nobody reads a
/// plugin's stderr.
///
/// # Errors
/// Something essential is missing, or the runtime does not register the plugin.
pub fn run(launched: &Launched) -> anyhow::Result<()> {
    let result = try_run(launched);
    if let Err(error) = &result {
        // The log is open already, unless the failure came early.
        let _log = log::init_without_terminal("info", false);
        tracing::error!(
            error = format!("{error:#}"),
            "the launched plugin ends; containers start without it"
        );
    }
    result
}

/// Where the runtimes of this node keep bundles: the directory above those of all containers, and the part after a
/// container's ID. The usual places, without the agent's configuration, which a plugin does not read.
fn bundles() -> Vec<(PathBuf, String)> {
    let settings = Settings::load(None, Overrides::default()).map(compose::of_node);
    let dirs = settings.map(|settings| settings.runtime.bundle_dirs).unwrap_or_default();
    dirs.iter().map(|dir| (Path::new("/").join(dir.above()), dir.below().to_owned())).collect()
}

fn try_run(launched: &Launched) -> anyhow::Result<()> {
    name_panics();
    // Done before there is another thread, because capabilities are per thread.
    let stream = inherited::only_socket(launched.socket)?;
    let mut problems = inherited::reset_inherited();
    let settings = PluginSettings::parse("");
    let proc = Proc::new(Path::new("/proc"));
    let split = confinement::split(&proc)?;
    let inspector = Inspector::open(Path::new("/"), settings.rules, settings.limits)?;
    let open = confinement::confine(split, &written(), None)?;
    usernsd_linux::seccomp::confine(Families::Unix)?;

    let session = Session::launched(stream, &launched.name, &launched.index, |runtime| {
        neighbour::refusal_by_bundles(&runtime.name, &runtime.version, &bundles()).map_or(Ok(()), Err)
    })?;
    let file = SettingsFile::new(&session.runtime().config);
    let settings = file.settings().clone();
    let _log = log::init_without_terminal(settings.log.level.name(), settings.log.format == LogFormat::Json)?;
    problems.extend(settings.problems.iter().cloned());
    if let Some(warning) = open.warning() {
        warn!("{warning}");
    }
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        runtime: session.runtime().name.clone(),
        runtime_version: session.runtime().version.clone(),
        settings: settings.digest.clone(),
        problems: problems.clone(),
        ..Hello::default()
    }
    .starting(clock::stamp(&proc));
    for problem in &problems {
        warn!(%problem, "the launched plugin has a problem");
    }
    info!(
        runtime = %hello.runtime,
        version = %hello.runtime_version,
        "registered as a plugin that the runtime launched"
    );
    let name = format!("{}-{}", file_name(&hello.runtime), hello.pid);
    let reports = Arc::new(Reports::new(hello, proc));
    let busy = Arc::new(Busy::new());
    let endpoints = Arc::new(Mutex::new(settings.endpoints.clone()));
    let (ask_runtime, questions) = ask::channel(RUNTIME_PATIENCE, RUNTIME_REST);
    // Nobody asks systemd: a bus call would cost more than everything else. Its mark on the directory counts.
    let (ask_systemd, _) = ask::channel(SYSTEMD_PATIENCE, SYSTEMD_REST);
    let policies = Policies { adjust: settings.adjust.clone(), guard: settings.guard };
    let mut decider = Decider::new(inspector, policies, ask_runtime, ask_systemd, None);
    decider.set_rules(settings.rules, settings.limits, decider.policies().clone());
    let beside = Beside {
        reports: Arc::clone(&reports),
        busy: Arc::clone(&busy),
        endpoints: Arc::clone(&endpoints),
        pods: decider.pods().clone(),
        name,
        problems: problems.clone(),
        settings: settings.digest.clone(),
    };
    let runtime = usernsd_tasks::runtime(BLOCKING).context("starting the asynchronous runtime")?;
    let (failure, stopper) = (Arc::new(OnceLock::new()), session.stopper());
    let failed = Arc::clone(&failure);
    std::thread::Builder::new()
        .name("link".to_owned())
        .spawn(move || {
            // The other thread waits for the runtime's next request.
            let _ = failed.set(runtime.block_on(beside.run(questions)));
            stopper.stop();
        })
        .context("starting a thread")?;
    Plugin {
        session,
        decider,
        file,
        reports,
        busy,
        endpoints,
        place: inherited_problems(problems, &settings),
        failure,
    }
    .serve()
}

/// The directories that the plugin may write to. Its own is created now, because later it cannot create
/// anything.
fn written() -> [WritableDirectory; 2] {
    let own = Path::new("/").join(DIRECTORY);
    // A failure is reported by the listener, which tries to create it, too.
    let _ = std::fs::DirBuilder::new().mode(0o700).create(&own);
    [
        WritableDirectory { directory: PathBuf::from("/sys/fs/cgroup"), writing: WriteRights::InPlace },
        WritableDirectory { directory: own, writing: WriteRights::Sockets },
    ]
}

/// The problems that do not depend on the settings.
fn inherited_problems(all: Vec<String>, settings: &PluginSettings) -> Vec<String> {
    all.into_iter().filter(|problem| !settings.problems.contains(problem)).collect()
}

/// The characters of a runtime's name that may be part of a file name.
fn file_name(runtime: &str) -> String {
    let name: String = runtime.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    if name.is_empty() { "runtime".to_owned() } else { name }
}

/// For how long the runtime's current request has been in work. Written by the thread that serves the
/// runtime, read by the other one.
#[derive(Debug)]
struct Busy {
    /// Start of the request in milliseconds after `start`; 0 if there is none.
    since: AtomicU64,
    start: Instant,
}

impl Busy {
    fn new() -> Busy {
        Busy { since: AtomicU64::new(0), start: Instant::now() }
    }

    fn begin(&self) {
        let at = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(at.max(1), Ordering::Relaxed);
    }

    fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn time(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.start.elapsed().saturating_sub(Duration::from_millis(since)),
        }
    }
}

/// The tasks of the plugin's second thread: questions to the runtime, and the link to agents.
struct Beside {
    reports: Arc<Reports>,
    busy: Arc<Busy>,
    endpoints: Arc<Mutex<Vec<PathBuf>>>,
    pods: PodAnswers,
    name: String,
    problems: Vec<String>,
    settings: String,
}

impl Beside {
    /// Runs until a task ends by itself, which none may: without this thread the guard cannot ask the runtime, and no
    /// agent gets reports.
    async fn run(self, questions: mpsc::Receiver<Question<CriId, Option<PodAnswer>>>) -> TaskEnded {
        let Beside { reports, busy, endpoints, pods, name, mut problems, settings } = self;
        let mut tasks = Tasks::new();
        let endpoints: Endpoints = Arc::new(move || cri::sockets(Path::new("/"), &lock(&endpoints)));
        tasks.spawn("pods", answer_pods(endpoints, questions, pods, Arc::new(|_| {})));
        match PluginListener::new(&Path::new("/").join(DIRECTORY), &name) {
            Ok(listener) => tasks.spawn("reports", reports.serve(listener, Arc::new(move || busy.time()))),
            Err(error) => {
                let what = format!("no agent can hear of what this plugin does: {}", chain(&error));
                warn!("{what}");
                problems.push(what);
                reports.describe(settings, problems);
            }
        }
        tasks.ended().await
    }
}

/// The state of the thread that serves the runtime.
struct Plugin {
    session: Session,
    decider: Decider,
    file: SettingsFile,
    reports: Arc<Reports>,
    busy: Arc<Busy>,
    endpoints: Arc<Mutex<Vec<PathBuf>>>,
    /// Problems of the environment in which the plugin runs.
    place: Vec<String>,
    /// The task of the second thread that ended by itself.
    failure: Arc<OnceLock<TaskEnded>>,
}

impl Plugin {
    fn serve(mut self) -> anyhow::Result<()> {
        let mut refused = 0;
        loop {
            self.session.refuse_unread(self.decider.refuses());
            let Some(request) = self.session.next()? else { break };
            let since = Instant::now();
            let ignored = self.session.ignored();
            if ignored.refused > refused {
                refused = ignored.refused;
                let last = &ignored.last;
                warn!(refused, ?last, "refused a container, because its description is too long to be read");
            }
            self.busy.begin();
            match request {
                Request::Synchronize { .. } => {}
                Request::CreateContainer { pod, container, token } => {
                    self.check_settings();
                    self.create(&pod, &container, token)?;
                }
                Request::StartContainer { container, token, .. } => {
                    self.check_settings();
                    self.start(&container, token, since)?;
                }
                Request::ContainerStopped { id } | Request::ContainerRemoved { id } => {
                    self.reports.add(Done::Ended(id));
                }
                Request::PodRemoved { id } => {
                    self.decider.forget_pod(id.as_str());
                    self.reports.add(Done::PodEnded(id));
                }
            }
            self.busy.end();
            if observer::installed().is_some_and(|observer| !observer.is_alive()) {
                bail!("the process that reads other processes' namespaces ended");
            }
        }
        if let Some(ended) = self.failure.get() {
            return Err(ended.clone().into());
        }
        info!("the runtime ended the connection");
        Ok(())
    }

    /// Takes over settings that changed since the last request.
    fn check_settings(&mut self) {
        if !self.file.has_changed() {
            return;
        }
        let settings = self.file.settings();
        let policies = Policies { adjust: settings.adjust.clone(), guard: settings.guard };
        self.decider.set_rules(settings.rules, settings.limits, policies);
        *lock(&self.endpoints) = settings.endpoints.clone();
        let problems: Vec<String> = self.place.iter().chain(&settings.problems).cloned().collect();
        info!(problems = problems.len(), "using changed settings");
        problems.iter().for_each(|problem| warn!(%problem, "the launched plugin has a problem"));
        self.reports.describe(settings.digest.clone(), problems);
    }

    fn create(&mut self, pod: &Sandbox, container: &Container, token: CreateToken) -> anyhow::Result<()> {
        let creation = self.decider.before_create(container, pod.user_namespace);
        let (created, answer) = creation.into_answer();
        let answered = self.session.answer_create(token, answer);
        let created = created.answered(answered.is_ok());
        if created.isolation == Verdict::Lost {
            lost(container, created.refused);
        }
        if created.is_notable() {
            self.reports.add(Done::Created(created));
        }
        Ok(answered?)
    }

    fn start(&mut self, container: &Container, token: StartToken, since: Instant) -> anyhow::Result<()> {
        let trigger = Trigger {
            source: Source::Nri,
            stage: Occasion::NriStart.stage(),
            since,
            patience: Duration::ZERO,
        };
        let mut decision = self.decider.inspect(container, trigger);
        let refusal = decision.refusal.take();
        let ended =
            refusal.is_some() && keep_from_running(&self.session.runtime().name, decision.init.as_ref());
        // The runtime waits only for this answer.
        let answered =
            self.session.answer_start(token, refusal.map_or(Ok(()), |refusal| Err(refusal.sentence)));
        decision.complete();
        let inspected = decision.inspected.answered(answered.is_ok(), &self.session.runtime().name, ended);
        log_outcome(container, &inspected);
        self.reports.add(Done::Inspected(inspected));
        Ok(answered?)
    }
}

/// Logs lost isolation and failures here, because no agent may be connected to log them.
fn log_outcome(container: &Container, inspected: &Inspected) {
    if inspected.record.isolation == Verdict::Lost {
        lost(container, inspected.refused);
    }
    if let Outcome::Failed(error) = &inspected.record.outcome {
        warn!(
            container = container.id.short(),
            namespace = %container.pod.namespace,
            pod = %container.pod.name,
            name = %container.name,
            error = error.as_str(),
            "could not hand the cgroup over"
        );
    }
}

fn lost(container: &Container, refused: bool) {
    warn!(
        container = container.id.short(),
        namespace = %container.pod.namespace,
        pod = %container.pod.name,
        name = %container.name,
        refused,
        "the container would run as the host's root although its pod asked for a user namespace"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(arguments: &[&str], variables: &[(&str, &str)]) -> Option<Launched> {
        Launched::recognise(arguments.iter().map(OsString::from), |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_a_runtime_launches_the_plugin() {
        let environment = [(SOCKET, "3"), ("NRI_PLUGIN_NAME", "usernsd"), ("NRI_PLUGIN_IDX", "90")];
        let launched = Launched { socket: 3, name: "usernsd".into(), index: "90".into() };
        for program in ["/opt/nri/plugins/90-usernsd", "90-usernsd"] {
            assert_eq!(recognised(&[program], &environment), Some(launched.clone()));
        }
        let bare = recognised(&["07-usernsd"], &[(SOCKET, "3")]);
        assert_eq!(bare, Some(Launched { index: "07".into(), ..launched }));
        for (arguments, variables) in [
            (&["usernsd"][..], &environment[..]),
            (&["90-usernsd", "ps"], &environment),
            (&["90-other"], &environment),
            (&["9-usernsd"], &environment),
            (&["x9-usernsd"], &environment),
            (&["90-usernsd"], &[]),
            (&["90-usernsd"], &[(SOCKET, "x")]),
            (&["90-usernsd"], &[(SOCKET, "2")]),
            (&[], &environment),
        ] {
            assert_eq!(recognised(arguments, variables), None, "{arguments:?}");
        }
    }

    #[test]
    fn a_runtimes_name_cannot_become_a_path() {
        assert_eq!(file_name("cri-o"), "cri-o");
        assert_eq!(file_name("../x y"), "xy");
        assert_eq!(file_name("/"), "runtime");
    }
}
