//! The agent's tasks with a fake runtime on a real socket, and a cgroup tree that is only a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::fakes::cri_runtime::{AfterEvents, FakeRuntime, Scenario};
use crate::fakes::nri_runtime::{self, Fault, Kind};
use crate::fakes::systemd::{self, FakeSystemd};
use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};
use usernsd_agent::containers::{Containers, NotEnded};
use usernsd_agent::cri_watch::{RuntimeWatch, answer_pods};
use usernsd_agent::decide::{Decider, Policies, Refusal, Trigger};
use usernsd_agent::launched::follow::Follow;
use usernsd_agent::launched::reports::Reports;
use usernsd_agent::nri_plugin::{Listed, Plugin};
use usernsd_agent::pod_answers::PodAnswer;
use usernsd_agent::systemd_user::SystemdUser;
use usernsd_agent::systemd_watch::Units;
use usernsd_domain::adjust::AdjustRules;
use usernsd_domain::adjust::Ungranted;
use usernsd_domain::cgroup::{CgroupPath, DelegateList};
use usernsd_domain::check::Check;
use usernsd_domain::clock::Stamp;
use usernsd_domain::container::{
    Container, ContainerState, CriId, PodRef, SpecifiedNamespaces, UserNamespaceRequest,
};
use usernsd_domain::crio::drop_in::CrioOptions;
use usernsd_domain::delegation::{Limits, OwnerPolicy, Rules, Skip};
use usernsd_domain::guard::{GuardPolicy, Verdict};
use usernsd_domain::idmap::HostId;
use usernsd_domain::idplan::DesiredIds;
use usernsd_domain::isolation::Stage;
use usernsd_domain::node::{Exposition, LaunchedPlugin, Peer, PeerState, Survey};
use usernsd_domain::nri_plugin::PluginOptions;
use usernsd_domain::oci_hook::HookOptions;
use usernsd_domain::pairing::{Caller, StartPathKind};
use usernsd_domain::record::{Action, Change, Outcome, Record, Source};
use usernsd_domain::repair::{Missed, MissedPolicy, RepairRule, RepairRules};
use usernsd_domain::report::{Adjusted, ContainerNames, Created, Done, Inspected, NotGranted, Report};
use usernsd_domain::runtime::RuntimeOverride;
use usernsd_domain::unit::Scope;
use usernsd_inspect::ask::{self, Question};
use usernsd_inspect::bundle::Bundles;
use usernsd_inspect::doctor::{Doctor, DoctorConfig, Rounds};
use usernsd_inspect::handles::NodeHandles;
use usernsd_inspect::inspector::Inspector;
use usernsd_linux::cgroupfs::CgroupRoot;
use usernsd_linux::proc::Proc;
use usernsd_linux::userdb::UserDb;
use usernsd_peers::cri::{Endpoints, v1};
use usernsd_peers::launched::{self, FromAgent, FromPlugin, Hello, Lines, PluginListener, Writer};
use usernsd_report::clock::{self, Clock};
use usernsd_report::metrics::{Metrics, RefusalReason};
use usernsd_report::store::Store;

/// A time that is longer than any of these tests.
const NEVER: Duration = Duration::from_secs(1000);

/// The containers of a node that is only a directory, and the channels of their guard.
struct Rig {
    directory: tempfile::TempDir,
    containers: Arc<Containers>,
    /// The guard's questions; taken by [`Rig::answer`].
    questions: Option<mpsc::Receiver<Question<CriId, Option<PodAnswer>>>>,
}

// === impl Rig ===

impl Rig {
    /// A rig whose guard waits for an answer for `patience`, and after a timeout asks no more.
    fn new(patience: Duration) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("cgroup")).unwrap();
        fs::create_dir_all(path("proc/1/ns")).unwrap();
        fs::write(path("proc/1/ns/user"), "").unwrap();
        let handles = NodeHandles {
            cgroups: CgroupRoot::open(&path("cgroup")).unwrap(),
            proc: Proc::new(&path("proc")),
            delegate_list: DelegateList::fallback(),
        };
        Rig::with(handles, directory, patience)
    }

    fn with(handles: NodeHandles, directory: tempfile::TempDir, patience: Duration) -> Rig {
        let rules =
            Rules { owner: OwnerPolicy::ProcessUser, minimum_host_id: HostId(65_536), observe_only: false };
        let inspector = Inspector::new(handles, rules, Limits::DEFAULT).unwrap();
        let adjust = AdjustRules { namespaces: vec!["*".into()], privileged_cgroup_namespace: true };
        let store = Store::new(SystemTime::now());
        let metrics =
            Metrics::new(store.clone(), Arc::new(|_| Survey::empty()), Exposition::default()).unwrap();
        fs::create_dir(directory.path().join("run")).unwrap();
        let userdb = UserDb::new(directory.path());
        let systemd_user = Some(Arc::new(SystemdUser::new(userdb, HostId(65_536))));
        let (ask_runtime, questions) = ask::channel(patience, NEVER);
        let (ask_systemd, _) = ask::channel(patience, NEVER);
        let policies = Policies { adjust, guard: GuardPolicy::Refuse };
        let decider = Decider::new(inspector, policies, ask_runtime, ask_systemd, systemd_user);
        let containers = Containers::new(decider, store, metrics);
        Rig { directory, containers: Arc::new(containers), questions: Some(questions) }
    }

    /// A rig with the machine's own cgroups and these processes of it. This test's own is the first one, because the
    /// machine's may be hidden from it.
    fn on_this_machine(cgroups: &std::path::Path, processes: &[u32]) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let proc = directory.path().join("proc");
        fs::create_dir(&proc).unwrap();
        std::os::unix::fs::symlink(format!("/proc/{}", std::process::id()), proc.join("1")).unwrap();
        for pid in processes {
            std::os::unix::fs::symlink(format!("/proc/{pid}"), proc.join(pid.to_string())).unwrap();
        }
        let handles = NodeHandles {
            cgroups: CgroupRoot::open(cgroups).unwrap(),
            proc: Proc::new(&proc),
            delegate_list: DelegateList::fallback(),
        };
        Rig::with(handles, directory, Duration::ZERO)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn runtime(&self, scenario: Scenario) -> FakeRuntime {
        FakeRuntime::start(&self.socket("cri.sock"), scenario)
    }

    /// Answers the guard's questions with the answers of the runtimes on these sockets.
    fn answer(&mut self, sockets: &[&str]) {
        let paths: Vec<PathBuf> = sockets.iter().map(|name| self.socket(name)).collect();
        let endpoints: Endpoints = Arc::new(move || paths.clone());
        let questions = self.questions.take().unwrap();
        let metrics = self.containers.metrics().clone();
        let failed = Arc::new(move |call: &str| metrics.request_failed(call));
        tokio::spawn(answer_pods(endpoints, questions, self.containers.pods().clone(), failed));
    }

    /// `CreateContainer` over NRI.
    async fn create(&self, container: &Container) -> Result<(), Refusal> {
        let (containers, container) = (Arc::clone(&self.containers), container.clone());
        let decided = move || {
            let creation = containers.decider().before_create(&container, None);
            containers.record_created(&creation.created, SystemTime::now());
            creation.refusal.map_or(Ok(()), Err)
        };
        tokio::task::spawn_blocking(decided).await.unwrap()
    }

    /// `StartContainer` over NRI.
    async fn start(&self, container: &Container) -> Option<Refusal> {
        let (containers, container) = (Arc::clone(&self.containers), container.clone());
        let since = Instant::now();
        let trigger =
            move || Trigger { source: Source::Nri, stage: Stage::Ready, since, patience: Duration::ZERO };
        let decided = move || {
            let decision = containers.decider().inspect(&container, trigger());
            containers.record(&decision.inspected, SystemTime::now());
            decision.refusal
        };
        tokio::task::spawn_blocking(decided).await.unwrap()
    }

    /// Number of containers that the guard let pass without a decision, at their creation and at their
    /// start.
    fn unanswered(&self) -> [f64; 2] {
        ["create_container", "start_container"]
            .map(|call| self.metric(&format!("usernsd_guard_unanswered_total{{call=\"{call}\"}}")))
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.containers.metrics().render();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    }
}

/// The runtime's watcher, which resyncs on request.
struct Watching {
    resync: Arc<Notify>,
    listed: Arc<Listed>,
}

impl Rig {
    /// Watches the runtime on `cri.sock`, as the agent does.
    fn watch(&self) -> Watching {
        let (socket, resync) = (self.socket("cri.sock"), Arc::new(Notify::new()));
        let listed: Arc<Listed> = Arc::default();
        let watching = RuntimeWatch {
            endpoints: Arc::new(move || vec![socket.clone()]),
            containers: Arc::clone(&self.containers),
            bundles: Arc::new(Bundles::new(|_| Vec::new())),
            listed: Arc::clone(&listed),
            resync: Arc::clone(&resync),
            every: NEVER,
            repair: RepairRules {
                opt_in: RepairRule { policy: MissedPolicy::Report, max_age: NEVER },
                guard: RepairRule { policy: MissedPolicy::Report, max_age: NEVER },
                guard_refuses: true,
                observe_only: false,
            },
            ready: watch::Sender::new(false),
        };
        tokio::spawn(watching.run());
        Watching { resync, listed }
    }
}

impl Rig {
    /// Checks the node once and then never again by itself; the pods often. The agent is ready until the result is
    /// dropped.
    fn check_rounds(&self) -> watch::Sender<bool> {
        let (sender, ready) = watch::channel(true);
        let rounds = Rounds {
            doctor: Arc::new(Doctor::new(place(self.directory.path(), self.socket("cri.sock"))).unwrap()),
            store: self.containers.store().clone(),
            every: NEVER,
            pods_every: SHORT,
            ready,
        };
        tokio::spawn(rounds.run());
        sender
    }
}

/// A node as the doctor sees it, with a runtime on that socket.
pub(crate) fn place(root: &Path, runtime: PathBuf) -> DoctorConfig {
    DoctorConfig {
        root: root.to_owned(),
        endpoints: vec![runtime],
        bus: None,
        uses_bootstrap: true,
        ids: DesiredIds::default(),
        runtime: RuntimeOverride::default(),
        crio: CrioOptions::default(),
        containerd_nri: true,
        hook: HookOptions::default(),
        plugin: PluginOptions::default(),
        apply_sysctl: false,
        may_run_programs: false,
    }
}

/// Waits until the condition holds.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn id(text: &str) -> CriId {
    CriId::parse(text).unwrap()
}

/// A container of the sandbox `s1` that would run in the host's user namespace.
fn in_hosts(name: &str) -> Container {
    Container {
        id: id(name),
        sandbox_id: "s1".into(),
        name: name.into(),
        pod: PodRef { namespace: "default".into(), name: "p".into(), uid: "u".into() },
        annotations: Default::default(),
        pid: None,
        cgroups_path: format!("kubepods.slice:crio:{name}"),
        user_namespace: false,
        cgroup_namespace: true,
        mounts: Vec::new(),
        specified: SpecifiedNamespaces::default(),
        process_uid: None,
        env_names: Vec::new(),
    }
}

/// A runtime with the sandbox `s1`, whose pod asked for a user namespace of its own.
fn guarded() -> Scenario {
    let pod = v1::NamespaceMode::Pod as i32;
    let userns_options = Some(v1::UserNamespace { mode: pod, ..Default::default() });
    let options = v1::NamespaceOption { userns_options, ..Default::default() };
    let namespaces = Some(v1::Namespace { options: Some(options) });
    let linux = Some(v1::LinuxPodSandboxStatus { namespaces });
    let status = v1::PodSandboxStatus { id: "s1".into(), linux, ..Default::default() };
    let mut scenario = Scenario { version: ("cri-o".into(), "1.36.3".into()), ..Default::default() };
    scenario.add_sandbox(status, Some("{}".into()));
    scenario
}

fn hanging() -> Scenario {
    Scenario { hang: true, ..guarded() }
}

const SHORT: Duration = Duration::from_millis(20);

#[tokio::test]
async fn an_answer_too_late_for_the_creation_counts_at_the_start() {
    let mut rig = Rig::new(SHORT);
    let runtime = rig.runtime(hanging());
    rig.answer(&["cri.sock"]);
    assert!(rig.create(&in_hosts("c1")).await.is_ok());
    assert_eq!(rig.unanswered(), [1.0, 0.0]);
    runtime.scenario.lock().unwrap().hang = false;
    until("the answer", || rig.containers.pods().has("s1")).await;
    runtime.scenario.lock().unwrap().hang = true;
    assert!(rig.start(&in_hosts("c1")).await.is_some(), "started as the host's root");
    assert!(rig.create(&in_hosts("c2")).await.is_err(), "created as the host's root");
    assert_eq!(rig.unanswered(), [1.0, 0.0]);
    assert_eq!(runtime.calls("PodSandboxStatus"), 1);
}

/// Many containers at once, while the runtime does not answer: each is counted once at its creation and once at its start.
#[tokio::test]
async fn a_storm_of_unanswered_questions_is_counted_container_by_container() {
    const ALL: usize = 40;
    let mut rig = Rig::new(SHORT);
    let _runtime = rig.runtime(hanging());
    rig.answer(&["cri.sock"]);
    let containers: Vec<Container> = (0..ALL).map(|number| in_hosts(&format!("c{number}"))).collect();
    let created =
        futures_util::future::join_all(containers.iter().map(|container| rig.create(container))).await;
    assert!(created.iter().all(Result::is_ok));
    assert_eq!(rig.unanswered(), [ALL as f64, 0.0]);
    let started =
        futures_util::future::join_all(containers.iter().map(|container| rig.start(container))).await;
    assert!(started.iter().all(Option::is_none));
    assert_eq!(rig.unanswered(), [ALL as f64; 2]);
    assert_eq!(rig.metric(LOST), 0.0);
}

#[tokio::test]
async fn the_runtime_is_asked_once_more_at_the_start() {
    let mut rig = Rig::new(Duration::from_secs(1));
    let hung = rig.runtime(hanging());
    rig.answer(&["cri.sock"]);
    assert!(rig.create(&in_hosts("c1")).await.is_ok());
    // Only questions that are indispensable are asked now.
    assert!(rig.create(&in_hosts("c2")).await.is_ok());
    assert!(rig.start(&in_hosts("c2")).await.is_none());
    assert_eq!(rig.unanswered(), [2.0, 1.0]);
    assert_eq!(hung.calls("PodSandboxStatus"), 2);
    // Its answers to these questions are lost.
    drop(hung);
    let _back = rig.runtime(guarded());
    assert!(rig.start(&in_hosts("c1")).await.is_some(), "started as the host's root");
}

/// systemd accepts calls without answering them, and floods the agent with signals. The number of waiting
/// questions is bounded, no caller waits longer than its time limit, and the agent continues.
#[tokio::test]
async fn a_systemd_that_hangs_and_floods_delays_no_caller() {
    const SIGNALS: usize = 20_000;
    let rig = Rig::new(SHORT);
    let socket = rig.socket("bus");
    let fake = FakeSystemd::start(&socket, systemd::Scenario { version: "257".into(), ..Default::default() });
    let (ask, questions) = ask::channel::<String, Option<Scope>>(Duration::from_millis(100), Duration::ZERO);
    let units = Units {
        bus: socket,
        containers: Arc::clone(&rig.containers),
        bundles: Arc::new(Bundles::new(|_| Vec::new())),
        questions,
        resync: Arc::new(Notify::new()),
        systemd_user: None,
    };
    tokio::spawn(units.run());
    let store = rig.containers.store();
    until("the bus", || store.health(Peer::Systemd).state == PeerState::Up).await;
    until("the subscription", || fake.calls().iter().any(|call| call == "Subscribe")).await;
    fake.scenario.lock().unwrap().hang = true;
    let before = fake.calls().len();
    let flood = async {
        for number in 0..SIGNALS {
            fake.job_removed(&format!("cri-containerd-{number:064x}.scope"), "done").await;
        }
    };
    let asked = tokio::task::spawn_blocking(move || {
        let answers: Vec<_> = (0..5).map(|_| ask.ask("x.scope".into()).flatten()).collect();
        (ask, answers)
    });
    let ((), asked) = tokio::join!(flood, asked);
    let (_ask, answers) = asked.unwrap();
    assert_eq!(answers, vec![None; 5]);
    let calls = fake.calls().len() - before;
    // The questions; no container of these scopes is found.
    assert_eq!(calls, 5);
    fake.scenario.lock().unwrap().hang = false;
    assert_eq!(store.health(Peer::Systemd).state, PeerState::Up);
}

/// The runtime dropped the plugin before it received the answer: nothing was refused or prepared, the
/// container runs, and this is logged and counted.
#[tokio::test]
async fn an_answer_that_the_runtime_did_not_get_has_no_effect() {
    let mut rig = Rig::new(Duration::from_secs(20));
    let mut questions = rig.questions.take().unwrap();
    let fake = nri_runtime::Runtime::listen();
    let plugin = Arc::new(Plugin::new(vec![fake.socket.clone()], 90));
    let listed = Listed::default();
    let thread = {
        let (plugin, containers) = (Arc::clone(&plugin), Arc::clone(&rig.containers));
        std::thread::spawn(move || plugin.run(&containers, &listed))
    };
    let container = |name: &str| {
        json!({
            "pod": {"id": "s1", "name": "p", "namespace": "default", "uid": "u"},
            "container": {"id": name, "pod_sandbox_id": "s1", "name": name,
                          "linux": {"cgroups_path": format!("kubepods.slice:cri-containerd:{name}")}},
        })
    };
    let own = PodAnswer { request: Some(UserNamespaceRequest::Own), root: None };
    let refused = |rig: &Rig| rig.metric(LOST);
    let missed = |rig: &Rig| rig.metric("usernsd_missed_total{missed=\"user_namespace\"}");
    let kind = Kind { request_timeout: Duration::from_millis(200), ..nri_runtime::CONTAINERD };
    let mut fake = Some(fake);
    for (index, call) in ["start", "create"].into_iter().enumerate() {
        rig.containers.pods().forget("s1");
        let recorded = container(call);
        let (runtime, kind) = (fake.take().unwrap(), kind.clone());
        let asking = tokio::task::spawn_blocking(move || {
            let mut session = runtime.register(kind).unwrap();
            session.synchronize(&[], &[], 10).unwrap();
            let answer = match call {
                "start" => session.start(&recorded),
                _ => session.create(&recorded).map(drop),
            };
            assert_eq!(answer, Err(Fault::Timeout));
            // The runtime drops the plugin by closing the connection.
            drop(session);
            runtime
        });
        // The plugin asks for the pod's request, and gets the answer too late.
        let question = questions.recv().await.unwrap();
        fake = Some(asking.await.unwrap());
        rig.containers.pods().note("s1", own.clone());
        question.answer(Some(own.clone()));
        if call == "start" {
            until("the record", || missed(&rig) == 1.0).await;
            let record = rig.containers.store().get(&id("start")).unwrap();
            assert_eq!((record.isolation, record.stage), (Verdict::Lost, Stage::Running));
        } else {
            until("the record", || refused(&rig) == 2.0).await;
        }
        assert_eq!(refused(&rig), index as f64 + 1.0);
        let events = rig.containers.store().snapshot().events;
        assert!(events.iter().all(|event| !event.sentence.contains("not started")), "{events:?}");
    }
    plugin.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_request_by_annotation_counts_after_the_creation_too() {
    let rig = Rig::new(SHORT);
    // The pod has CRI-O's annotation, and the runtime reports no other request.
    rig.containers.pods().note("s1", PodAnswer { request: None, root: None });
    let mut container = in_hosts("c1");
    assert!(rig.start(&container).await.is_none());
    Arc::make_mut(&mut container.annotations)
        .insert("io.kubernetes.cri-o.userns-mode".into(), "auto:size=65536".into());
    assert!(rig.start(&container).await.is_some());
    for source in [Source::Cri, Source::Resync] {
        rig.containers.forget(&container.id);
        let trigger =
            Trigger { source, since: Instant::now(), stage: Stage::Ready, patience: Duration::ZERO };
        rig.containers.inspect(&container, trigger);
        assert_eq!(rig.containers.store().get(&container.id).unwrap().isolation, Verdict::Lost);
    }
    assert_eq!(rig.unanswered(), [0.0, 0.0]);
}

/// A container that each resync skips is counted once.
#[tokio::test]
async fn a_container_that_every_resync_skips_is_counted_once() {
    let rig = Rig::new(SHORT);
    let mut container = in_hosts("c1");
    (container.user_namespace, container.pid) = (true, Some(1));
    let refused = || -> f64 {
        let text = rig.containers.metrics().render();
        let of = text.lines().filter(|line| line.starts_with("usernsd_refusals_total{"));
        of.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    for _ in 0..3 {
        let trigger = Trigger {
            source: Source::Resync,
            since: Instant::now(),
            stage: Stage::Ready,
            patience: Duration::ZERO,
        };
        rig.containers.inspect(&container, trigger);
    }
    assert_eq!(refused(), 1.0, "{:?}", rig.containers.store().list());
}

/// The node is checked again as soon as its runtime is back, not at the next resync.
#[tokio::test]
async fn a_runtime_that_comes_back_is_reported_at_once() {
    let rig = Rig::new(SHORT);
    let store = rig.containers.store().clone();
    store.down(Peer::Cri, SystemTime::now(), "away");
    let _ready = rig.check_rounds();
    let reachable = || {
        let examined = store.snapshot().examined?;
        examined.checked.iter().find(|one| one.check == Check::CriReachable).map(|one| one.word())
    };
    until("the first round", || reachable() == Some("fail")).await;
    let _runtime = rig.runtime(guarded());
    store.up(Peer::Cri, SystemTime::now());
    until("another round", || reachable() == Some("pass")).await;
}

#[tokio::test]
async fn what_a_new_pod_asks_for_is_known_before_the_next_round() {
    // The round's last list of pods.
    let mut last = 0;
    for comes_during_a_round in [false, true] {
        let rig = Rig::new(SHORT);
        let store = rig.containers.store();
        let runtime = rig.runtime(Scenario { held_list_of_pods: last, ..guarded() });
        let _ready = rig.check_rounds();
        let asked = || {
            let examined = store.snapshot().examined?;
            Some(examined.asked.as_ref().is_ok_and(|asked| asked.contains_key("s2")))
        };
        if comes_during_a_round {
            until("the round's list of pods", || runtime.calls("list held") > 0).await;
        } else {
            until("the first round", || asked() == Some(false)).await;
            last = runtime.calls("ListPodSandbox");
        }
        let annotations = [("usernsd.io/cgroup".to_owned(), "writable".to_owned())].into();
        let status = v1::PodSandboxStatus { id: "s2".into(), annotations, ..Default::default() };
        runtime.scenario.lock().unwrap().add_sandbox(status, Some("{}".into()));
        let mut container = in_hosts("c2");
        container.sandbox_id = "s2".into();
        rig.start(&container).await;
        runtime.scenario.lock().unwrap().held_list_of_pods = 0;
        until("the annotation", || asked() == Some(true)).await;
    }
}

#[tokio::test]
async fn a_runtime_that_hangs_does_not_answer_for_another() {
    let mut rig = Rig::new(NEVER);
    let _hung = FakeRuntime::start(&rig.socket("hung.sock"), Scenario { hang: true, ..Default::default() });
    let _runtime = rig.runtime(guarded());
    rig.answer(&["hung.sock", "cri.sock"]);
    let created = tokio::time::timeout(usernsd_peers::cri::DEADLINE / 2, rig.create(&in_hosts("c1"))).await;
    assert!(created.unwrap().is_err());
}

#[tokio::test]
async fn a_runtime_without_events_is_joined_once() {
    for after_events in [AfterEvents::Unimplemented, AfterEvents::End] {
        let rig = Rig::new(SHORT);
        let runtime = rig.runtime(Scenario { after_events, ..guarded() });
        let watching = rig.watch();
        for round in 1..=5 {
            until("a list", || runtime.calls("ListContainers") >= round).await;
            until("a subscription", || runtime.calls("GetContainerEvents") >= 1).await;
            // Time for an event that must not occur.
            tokio::time::sleep(Duration::from_millis(100)).await;
            watching.resync.notify_one();
        }
        assert_eq!(rig.containers.store().health(Peer::Cri).state, PeerState::Up);
        assert_eq!((runtime.calls("Version"), runtime.calls("GetContainerEvents")), (1, 1));
        assert_eq!(rig.metric("usernsd_cri_request_failures_total{method=\"get_container_events\"}"), 0.0);
    }
}

#[tokio::test]
async fn the_agent_does_not_stay_subscribed_to_a_runtime_that_it_left() {
    let rig = Rig::new(SHORT);
    let runtime = rig.runtime(Scenario { after_events: AfterEvents::Stall, ..guarded() });
    let watching = rig.watch();
    until("a subscription", || runtime.subscribers() == 1).await;
    until("a list", || runtime.calls("ListContainers") == 1).await;
    // A list that fails ends the session.
    runtime.scenario.lock().unwrap().list_fails = true;
    watching.resync.notify_one();
    until("the end of the subscription", || runtime.subscribers() == 0).await;
    runtime.scenario.lock().unwrap().list_fails = false;
    let lists = runtime.calls("ListContainers");
    until("a list", || runtime.calls("ListContainers") > lists).await;
    until("one subscription", || runtime.subscribers() == 1).await;
}

/// Each counter of CRI counts what its help text describes, for any sequence of events.
#[tokio::test]
async fn a_storm_of_events_is_counted_event_by_event() {
    const EACH: usize = 60;
    let rig = Rig::new(SHORT);
    let kinds = [
        ("created", v1::ContainerEventType::ContainerCreatedEvent),
        ("started", v1::ContainerEventType::ContainerStartedEvent),
        ("stopped", v1::ContainerEventType::ContainerStoppedEvent),
        ("deleted", v1::ContainerEventType::ContainerDeletedEvent),
    ];
    // The containers no longer exist when they are asked for. That is an answer and not a failed request.
    let events = (0..EACH).flat_map(|number| {
        kinds.map(|(_, kind)| v1::ContainerEventResponse {
            container_id: format!("gone{number}"),
            container_event_type: kind.into(),
            ..Default::default()
        })
    });
    let scenario = Scenario { events: events.collect(), after_events: AfterEvents::Stall, ..guarded() };
    let runtime = rig.runtime(scenario);
    let _watching = rig.watch();
    let count = |kind: &str| rig.metric(&format!("usernsd_cri_events_total{{event=\"{kind}\"}}"));
    until("every event", || kinds.iter().map(|(kind, _)| count(kind)).sum::<f64>() >= (4 * EACH) as f64)
        .await;
    until("a list", || runtime.calls("ListContainers") >= 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (kind, _) in kinds {
        assert_eq!(count(kind), EACH as f64, "{kind}");
    }
    for method in ["container_status", "list_containers", "get_container_events", "version"] {
        let series = format!("usernsd_cri_request_failures_total{{method=\"{method}\"}}");
        assert_eq!(rig.metric(&series), 0.0, "{method}");
    }
    assert_eq!(rig.metric("usernsd_cri_reconnects_total"), 0.0);
    assert_eq!(rig.metric("usernsd_cri_stream_reconnects_total"), 0.0);
}

/// Every method fails some times, for every purpose for which it is called.
#[tokio::test]
async fn a_storm_of_failed_requests_is_counted_request_by_request() {
    const CONTAINERS: usize = 12;
    let mut rig = Rig::new(Duration::from_secs(20));
    let mut scenario = Scenario { after_events: AfterEvents::Stall, ..guarded() };
    for number in 0..CONTAINERS {
        let state = v1::ContainerState::ContainerRunning as i32;
        let status = v1::ContainerStatus { id: format!("c{number}"), state, ..Default::default() };
        scenario.add_container("s1", status, Some(r#"{"pid":1,"sandboxID":"s1","runtimeSpec":{}}"#.into()));
    }
    let runtime = rig.runtime(scenario);
    rig.answer(&["cri.sock"]);
    let watching = rig.watch();
    let refuse = |methods: &[&'static str]| {
        runtime.scenario.lock().unwrap().refuses = methods.iter().copied().collect();
    };
    let resyncs = |trigger: &str| rig.metric(&format!("usernsd_reconciles_total{{trigger=\"{trigger}\"}}"));
    until("the first resync", || resyncs("startup") == 1.0 && runtime.subscribers() == 1).await;

    refuse(&["ContainerStatus", "ListPodSandbox"]);
    for number in 1..=3 {
        watching.resync.notify_one();
        until("a resync", || resyncs("stream_lost") == f64::from(number)).await;
    }
    refuse(&["PodSandboxStatus"]);
    let of_new_pod = |number| {
        let mut container = in_hosts(&format!("new{number}"));
        container.sandbox_id = format!("pod{number}");
        container
    };
    let created: Vec<Container> = (0..CONTAINERS).map(of_new_pod).collect();
    let created = futures_util::future::join_all(created.iter().map(|container| rig.create(container))).await;
    assert!(created.iter().all(Result::is_ok));
    // It is asked for its version while another runtime seems to call over NRI.
    refuse(&["Version"]);
    rig.containers.store().set_joined(joined("another", "1.0"));
    for number in 1..=3 {
        rig.containers.attention().notify_one();
        until("the question", || runtime.refused("Version") >= number).await;
    }
    rig.containers.store().set_joined(None);
    // The list that fails ends the session.
    refuse(&["ListContainers", "Version"]);
    watching.resync.notify_one();
    until("the end of the session", || runtime.refused("Version") >= 6).await;
    refuse(&["GetContainerEvents"]);
    until("sessions without events", || runtime.refused("GetContainerEvents") >= 4).await;
    refuse(&[]);
    until("a session", || runtime.subscribers() == 1).await;

    for (method, call, least) in [
        ("version", "Version", 6),
        ("list_pod_sandbox", "ListPodSandbox", 3),
        ("list_containers", "ListContainers", 1),
        ("container_status", "ContainerStatus", 3 * CONTAINERS),
        ("pod_sandbox_status", "PodSandboxStatus", CONTAINERS),
        ("get_container_events", "GetContainerEvents", 4),
    ] {
        let refused = runtime.refused(call);
        assert!(refused >= least, "{call}: {refused}");
        let series = format!("usernsd_cri_request_failures_total{{method=\"{method}\"}}");
        until(&format!("{refused} of {method}"), || rig.metric(&series) >= refused as f64).await;
        assert_eq!(rig.metric(&series), refused as f64, "{method}");
    }
    // Every subscription but the first.
    let again = runtime.calls("GetContainerEvents") - 1;
    assert_eq!(rig.metric("usernsd_cri_stream_reconnects_total"), again as f64);
}

/// Containers of every kind are inspected by several threads at once, and again and again, as by resyncs: each is counted
/// once, and each attempt that fails.
#[test]
fn a_storm_of_inspections_is_counted_container_by_container() {
    const EACH: usize = 25;
    const THREADS: usize = 4;
    let rig = Rig::new(SHORT);
    let change = |action, path: &str| Change {
        action,
        path: CgroupPath::parse(path).unwrap(),
        from: "max".into(),
        to: "1".into(),
    };
    let inspected = |kind: &str, number: usize, outcome| Inspected {
        record: Record {
            name: kind.to_owned(),
            source: Source::Resync,
            stage: Stage::Running,
            outcome,
            ..Record::bare(id(&format!("{kind}{number}")))
        },
        changes: Vec::new(),
        failed: None,
        detail: None,
        refused: false,
        unanswered: false,
        after: Duration::from_millis(1),
        took: Duration::from_millis(1),
    };
    let skips: Vec<Skip> =
        Skip::ALL.into_iter().filter(|skip| !matches!(skip, Skip::BeingMade | Skip::Gone)).collect();
    let mut repeated = Vec::new();
    for number in 0..EACH {
        repeated.push(inspected("right", number, Outcome::AlreadyRight));
        for skip in &skips {
            repeated.push(inspected(skip.name(), number, Outcome::Skipped(*skip)));
        }
        let mut lacks = inspected("lacks", number, Outcome::Skipped(Skip::ReadOnlyMount));
        lacks.record.missed = true;
        repeated.push(lacks);
        let mut lost = inspected("lost", number, Outcome::Skipped(Skip::HostUserNamespace));
        lost.record.isolation = Verdict::Lost;
        repeated.push(lost);
        for action in [Action::ChownCgroup, Action::SetLimits] {
            let outcome = Outcome::Failed("no".into());
            repeated.push(Inspected { failed: Some(action), ..inspected(action.name(), number, outcome) });
        }
    }
    let all_at_once = |inspections: &[Inspected]| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let containers = &rig.containers;
                // Each begins with another one.
                let (late, early) = inspections.split_at(inspections.len() * thread / THREADS);
                scope.spawn(move || {
                    early.iter().chain(late).for_each(|one| containers.record(one, SystemTime::now()));
                });
            }
        });
    };
    // Handed over once, and found right afterwards.
    for number in 0..EACH {
        let changes = vec![
            change(Action::SetLimits, "/p/cgroup.max.descendants"),
            change(Action::SetLimits, "/p/cgroup.max.depth"),
            change(Action::ChownCgroup, "/p/c"),
        ];
        let handed_over = Inspected { changes, ..inspected("given", number, Outcome::Delegated) };
        rig.containers.record(&handed_over, SystemTime::now());
        repeated.push(inspected("given", number, Outcome::AlreadyRight));
        rig.containers.record(&inspected("gone", number, Outcome::Skipped(Skip::Gone)), SystemTime::now());
        // The runtime waits for this one.
        let mut waited_for = inspected("waited", number, Outcome::AlreadyRight);
        waited_for.record.source = Source::Nri;
        rig.containers.record(&waited_for, SystemTime::now());
        for reason in Ungranted::NAMES {
            rig.containers
                .record_created(&created(&format!("{reason}{number}"), Some(reason)), SystemTime::now());
        }
        rig.containers.record_created(&created(&format!("adjusted{number}"), None), SystemTime::now());
    }
    all_at_once(&repeated);
    all_at_once(&repeated);

    let (each, attempts) = (EACH as f64, (EACH * THREADS * 2) as f64);
    for reason in RefusalReason::all().map(RefusalReason::name) {
        let kinds = match reason {
            // The containers that lack something, and those that lost their isolation, are skipped too.
            "read_only_mount" | "host_user_namespace" => 2.0,
            _ => 1.0,
        };
        let series = format!("usernsd_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(rig.metric(&series), kinds * each, "{reason}");
    }
    for (series, want) in [
        ("usernsd_already_right_total", 2.0 * each),
        ("usernsd_fixes_total{action=\"adjust_container\"}", each),
        ("usernsd_fixes_total{action=\"chown_cgroup\"}", each + attempts),
        ("usernsd_fixes_total{action=\"set_limits\"}", 2.0 * each + attempts),
        ("usernsd_fixes_total{action=\"end_container\"}", 0.0),
        ("usernsd_fix_failures_total{action=\"chown_cgroup\"}", attempts),
        ("usernsd_fix_failures_total{action=\"set_limits\"}", attempts),
        ("usernsd_missed_total{missed=\"writable_cgroup\"}", each),
        ("usernsd_missed_total{missed=\"user_namespace\"}", each),
        ("usernsd_fix_delay_seconds_count", each),
        ("usernsd_handling_seconds_count", each),
    ] {
        assert_eq!(rig.metric(series), want, "{series}");
    }
}

/// The decision on a container that is about to be created: adjusted, unless its request is not granted for that reason.
fn created(name: &str, ungranted: Option<&str>) -> Created {
    Created {
        container: ContainerNames { id: id(name), name: name.into(), pod: PodRef::default() },
        isolation: Verdict::Good,
        refused: false,
        unanswered: false,
        adjusted: ungranted.is_none().then_some(Adjusted { mounts: 1, cgroup_namespace: false }),
        ungranted: ungranted.map(|reason| NotGranted { reason: reason.to_owned(), sentence: String::new() }),
    }
}

/// Resyncs that fail, and the requests because of which they fail; then resyncs that succeed.
#[tokio::test]
async fn each_failed_resync_is_counted_once() {
    let rig = Rig::new(SHORT);
    let runtime = rig.runtime(Scenario { after_events: AfterEvents::Stall, ..guarded() });
    let watching = rig.watch();
    let total = |name: &str| -> f64 {
        ["periodic", "startup", "stream_lost"]
            .map(|trigger| rig.metric(&format!("{name}{{trigger=\"{trigger}\"}}")))
            .iter()
            .sum()
    };
    let failed_requests = || rig.metric("usernsd_cri_request_failures_total{method=\"list_containers\"}");
    until("a look", || total("usernsd_reconciles_total") >= 1.0).await;
    assert_eq!((total("usernsd_reconcile_failures_total"), failed_requests()), (0.0, 0.0));
    let before = runtime.calls("ListContainers");
    assert_eq!(total("usernsd_reconciles_total"), before as f64);
    runtime.scenario.lock().unwrap().list_fails = true;
    // Resyncs are requested more often than they can be made.
    for _ in 0..20 {
        watching.resync.notify_one();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("looks that fail", || runtime.calls("ListContainers") >= before + 2).await;
    runtime.scenario.lock().unwrap().list_fails = false;
    let lists = runtime.calls("ListContainers");
    watching.resync.notify_one();
    until("a resync that succeeds", || runtime.calls("ListContainers") > lists).await;
    until("both counts", || total("usernsd_reconciles_total") == runtime.calls("ListContainers") as f64)
        .await;
    let failures = total("usernsd_reconcile_failures_total");
    assert_eq!(failures, failed_requests());
    assert!(failures >= 2.0 && failures <= (lists - before) as f64, "{failures} of {lists}");
}

/// Each restart of the runtime counts as one reconnection. A broken stream is opened again, without counting
/// as a reconnection of the runtime.
#[tokio::test]
async fn each_return_of_the_runtime_is_counted_once() {
    const TIMES: usize = 3;
    let rig = Rig::new(SHORT);
    let is_up = || rig.containers.store().health(Peer::Cri).state == PeerState::Up;
    let stalls = || Scenario { after_events: AfterEvents::Stall, ..guarded() };
    let mut runtime = rig.runtime(stalls());
    let _watching = rig.watch();
    until("it is up", is_up).await;
    until("a subscription", || runtime.subscribers() == 1).await;
    assert_eq!(rig.metric("usernsd_cri_reconnects_total"), 0.0);
    for number in 1..=TIMES {
        drop(runtime);
        until("it is down", || !is_up()).await;
        runtime = rig.runtime(stalls());
        until("it is up again", is_up).await;
        until("a subscription", || runtime.subscribers() == 1).await;
        assert_eq!(rig.metric("usernsd_cri_reconnects_total"), number as f64);
    }
    let streams = rig.metric("usernsd_cri_stream_reconnects_total");
    assert!(streams <= TIMES as f64, "{streams} streams were opened again for {TIMES} restarts");
}

/// systemd's signals slow a start down more than the agent does, and are not needed while the runtime calls. When it
/// no longer does, they are the earliest way to a container, and a resync finds what was started in between.
#[tokio::test]
async fn systemds_signals_are_on_while_no_runtime_calls() {
    let rig = Rig::new(SHORT);
    let socket = rig.socket("bus");
    let fake = FakeSystemd::start(&socket, systemd::Scenario { version: "257".into(), ..Default::default() });
    let (_ask, questions) = ask::channel::<String, Option<Scope>>(SHORT, Duration::ZERO);
    let resync = Arc::new(Notify::new());
    let bundles = rig.directory.path().join("bundles");
    let units = Units {
        bus: socket,
        containers: Arc::clone(&rig.containers),
        bundles: Arc::new(Bundles::new(move |id| vec![bundles.join(id.as_str())])),
        questions,
        resync: Arc::clone(&resync),
        systemd_user: None,
    };
    let store = rig.containers.store();
    let count = |call: &str| fake.calls().iter().filter(|made| *made == call).count();
    let resynced = || tokio::time::timeout(Duration::from_secs(20), resync.notified());
    // The signal of a container whose inspection is counted, because its cgroup is not on cgroup v2.
    let inspected = || rig.metric("usernsd_refusals_total{reason=\"not_unified\"}");
    let bundle = |id: &str| {
        let bundle = rig.directory.path().join("bundles").join(id);
        fs::create_dir_all(&bundle).unwrap();
        let spec = format!(
            r#"{{"ociVersion": "1.2.0", "linux": {{"cgroupsPath": "kubepods.slice:cri-containerd:{id}"}}}}"#
        );
        fs::write(bundle.join("config.json"), spec).unwrap();
    };
    let [first, second, third] = ["1", "2", "3"].map(|name| format!("{name:0>64}"));
    for id in [&first, &second, &third] {
        bundle(id);
    }
    let scope = |id: &str| format!("cri-containerd-{id}.scope");

    // The runtime calls from the beginning.
    store.set_joined(joined("containerd", "2.1.9"));
    tokio::spawn(units.run());
    until("the bus", || store.health(Peer::Systemd).state == PeerState::Up).await;
    fake.job_removed(&scope(&first), "done").await;
    assert_eq!((count("Subscribe"), store.is_called_first()), (0, true));

    // The agent has lost NRI.
    store.set_joined(None);
    until("a subscription", || count("Subscribe") == 1).await;
    resynced().await.expect("a resync, for what was started in between");
    fake.job_removed(&scope(&second), "done").await;
    until("a container for which nobody is called", || inspected() > 0.0).await;
    assert_eq!(inspected(), 1.0, "a signal was acted on while the runtime called");

    // The plugin that the runtime launched calls.
    let plugin = LaunchedPlugin {
        pid: 7,
        version: "1".into(),
        runtime: "containerd".into(),
        runtime_version: "2.1.9".into(),
        since: SystemTime::now(),
        responds: true,
        settings: String::new(),
        problems: Vec::new(),
        dropped: 0,
    };
    store.set_plugin(7, Some(plugin.clone()));
    until("no subscription", || count("Unsubscribe") == 1).await;
    // It hangs.
    store.set_plugin(7, Some(LaunchedPlugin { responds: false, ..plugin }));
    until("a subscription", || count("Subscribe") == 2).await;
    resynced().await.expect("a resync, for what was started in between");
    fake.job_removed(&scope(&third), "done").await;
    until("a container for which nobody is called", || inspected() == 2.0).await;
    assert_eq!((count("Subscribe"), count("Unsubscribe")), (2, 1));
}

/// Each restart of the bus counts as one reconnection. Failed connections, a daemon-reload and a
/// daemon-reexec do not count.
#[tokio::test]
async fn each_return_of_systemd_is_counted_once() {
    const TIMES: usize = 3;
    let rig = Rig::new(SHORT);
    let socket = rig.socket("bus");
    let (_ask, questions) = ask::channel::<String, Option<Scope>>(SHORT, Duration::ZERO);
    let units = Units {
        bus: socket.clone(),
        containers: Arc::clone(&rig.containers),
        bundles: Arc::new(Bundles::new(|_| Vec::new())),
        questions,
        resync: Arc::new(Notify::new()),
        systemd_user: None,
    };
    tokio::spawn(units.run());
    let is_up = || rig.containers.store().health(Peer::Systemd).state == PeerState::Up;
    let returns = || rig.metric("usernsd_systemd_reconnects_total");
    let working = || systemd::Scenario { version: "257".into(), ..Default::default() };
    for number in 0..=TIMES {
        // A bus that refuses every connection does not count.
        let refusing =
            systemd::Scenario { refuse: Some("org.freedesktop.DBus.Error.AccessDenied".into()), ..working() };
        let fake = FakeSystemd::start(&socket, refusing);
        fake.wait_for_calls(1).await;
        fake.hang_up().await;
        drop(fake);
        fs::remove_file(&socket).unwrap();
        assert!(!is_up() && returns() == (number as f64 - 1.0).max(0.0), "{}", returns());
        let fake = FakeSystemd::start(&socket, working());
        until("it is up", is_up).await;
        assert_eq!(returns(), number as f64);
        for _ in 0..20 {
            fake.owner_changed(systemd::SYSTEMD, "").await;
            fake.owner_changed("", systemd::SYSTEMD).await;
            fake.job_removed("crio-1.scope", "done").await;
        }
        let calls = fake.calls().len();
        until("new subscriptions", || fake.calls().len() > calls).await;
        assert_eq!(returns(), number as f64);
        fake.hang_up().await;
        drop(fake);
        fs::remove_file(&socket).unwrap();
        until("it is down", || !is_up()).await;
    }
    assert_eq!(returns(), TIMES as f64);
}

/// Each session that ends counts as one reconnection; a refused registration does not.
#[tokio::test]
async fn each_return_of_the_runtime_over_nri_is_counted_once() {
    const TIMES: usize = 3;
    let rig = Rig::new(SHORT);
    let mut fake = nri_runtime::Runtime::listen();
    let plugin = Arc::new(Plugin::new(vec![fake.socket.clone()], 90));
    let listed = Listed::default();
    let thread = {
        let (plugin, containers) = (Arc::clone(&plugin), Arc::clone(&rig.containers));
        std::thread::spawn(move || plugin.run(&containers, &listed))
    };
    let is_up = || rig.containers.store().health(Peer::Nri).state == PeerState::Up;
    let returns = || rig.metric("usernsd_nri_reconnects_total");
    for number in 0..=TIMES {
        let joining = tokio::task::spawn_blocking(move || {
            let refuses = Kind { refuses: Some("not now"), ..nri_runtime::CONTAINERD };
            assert!(fake.register(refuses).is_err());
            let mut session = fake.register(nri_runtime::CONTAINERD).unwrap();
            session.synchronize(&[], &[], 10).unwrap();
            (fake, session)
        });
        let joined = joining.await.unwrap();
        until("it is up", is_up).await;
        assert_eq!(returns(), number as f64);
        let (runtime, mut session) = joined;
        fake = runtime;
        let calls = tokio::task::spawn_blocking(move || {
            for number in 0..20 {
                let id = format!("c{number}");
                let gone = json!({"pod": {"id": "s1"}, "container": {"id": id, "pod_sandbox_id": "s1"}});
                session.remove(&gone).unwrap();
            }
        });
        calls.await.unwrap();
        until("it is down", || !is_up()).await;
        assert_eq!(returns(), number as f64);
    }
    plugin.stop();
    thread.join().unwrap();
}

/// Reports of a plugin, some of them sent twice and some unreadable. The plugin sends its number of dropped
/// reports repeatedly; the numbers are not added up.
#[tokio::test]
async fn a_storm_of_reports_is_counted_report_by_report() {
    const ALL: u64 = 200;
    let rig = Rig::new(SHORT);
    let listener = rig.listen("containerd-7");
    let _following = rig.follow();
    let (mut lines, mut writer) = listener.accept().await.unwrap();
    assert!(matches!(next(&mut lines).await, FromAgent::Hello { .. }));
    let hello = |dropped| format!("{{\"kind\":\"hello\",\"protocol\":1,\"pid\":7,\"dropped\":{dropped}}}\n");
    writer.write(&hello(5)).await.unwrap();
    until("the plugin", || rig.containers.store().is_launched()).await;
    let (mut unreadable, mut refusals) = (0.0, 0.0);
    for number in 1..=ALL {
        let text = if number % 20 == 0 {
            unreadable += 1.0;
            format!("{{\"kind\":\"report\",\"number\":{number},\"at_us\":1,\"danced\":{{}}}}\n")
        } else {
            refusals += 1.0;
            report(number, refused(&format!("c{number}")))
        };
        for _ in 0..=u64::from(number % 7 == 0) {
            writer.write(&text).await.unwrap();
            assert_eq!(next(&mut lines).await, FromAgent::Seen { number });
        }
    }
    writer.write(&hello(9)).await.unwrap();
    let dropped = || rig.metric("usernsd_nri_plugin_reports_dropped_total");
    until("what it dropped", || dropped() == 9.0).await;
    assert_eq!(rig.metric("usernsd_nri_plugin_reports_total"), ALL as f64);
    assert_eq!(rig.metric("usernsd_nri_plugin_reports_unreadable_total"), unreadable);
    assert_eq!(rig.metric(LOST), refusals);
}

#[tokio::test]
async fn a_pod_is_forgotten_with_its_sandbox_not_with_its_containers() {
    let rig = Rig::new(SHORT);
    let runtime = rig.runtime(Scenario { after_events: AfterEvents::Stall, ..guarded() });
    let userdb = UserDb::new(rig.directory.path());
    let root = HostId(200_000);
    userdb.put(root).unwrap();
    let is_known = || rig.socket(&format!("run/userdb/{}.user", UserDb::name_of(root))).exists();
    rig.containers.pods().note("s1", PodAnswer { request: None, root: Some(root) });
    let watching = rig.watch();
    let resyncs = || rig.metric("usernsd_reconciles_total{trigger=\"stream_lost\"}");
    watching.resync.notify_one();
    until("a resync", || resyncs() >= 1.0).await;
    assert!(rig.containers.pods().has("s1") && is_known(), "its sandbox still exists");
    runtime.scenario.lock().unwrap().sandboxes.clear();
    watching.resync.notify_one();
    until("a resync", || resyncs() >= 2.0).await;
    assert!(!rig.containers.pods().has("s1") && !is_known());
}

#[tokio::test]
async fn a_container_without_a_known_cgroup_is_kept_while_it_is_listed() {
    let rig = Rig::new(SHORT);
    for name in ["listed", "ended"] {
        rig.start(&in_hosts(name)).await;
        assert_eq!(rig.containers.store().get(&id(name)).unwrap().cgroup, None);
    }
    rig.containers.forget_gone(&|container| *container == id("listed"));
    let left: Vec<CriId> = rig.containers.store().list().iter().map(|record| record.id.clone()).collect();
    assert_eq!(left, [id("listed")]);
}

/// The agent's side of the link, and its decisions about joining NRI.
struct Following {
    joins: Arc<std::sync::Mutex<Vec<bool>>>,
}

impl Following {
    fn joins(&self) -> Option<bool> {
        self.joins.lock().unwrap().last().copied()
    }
}

impl Rig {
    fn follow(&self) -> Following {
        let joins = Arc::new(std::sync::Mutex::new(Vec::new()));
        let store = self.containers.store().clone();
        let clock = Clock::new(Proc::new(Path::new("/proc")), move |setting| store.shift(setting));
        let follow = Follow {
            directory: self.socket("plugins"),
            containers: Arc::clone(&self.containers),
            clock: Arc::new(clock),
            join: {
                let joins = Arc::clone(&joins);
                Box::new(move |wanted| joins.lock().unwrap().push(wanted))
            },
            version: "0.1.0".into(),
        };
        tokio::spawn(follow.run());
        Following { joins }
    }

    fn listen(&self, name: &str) -> PluginListener {
        PluginListener::new(&self.socket("plugins"), name).unwrap()
    }
}

fn refused(name: &str) -> Done {
    Done::Created(Created {
        container: ContainerNames { id: id(name), name: name.into(), pod: PodRef::default() },
        isolation: Verdict::Lost,
        refused: true,
        unanswered: false,
        adjusted: None,
        ungranted: None,
    })
}

fn report(number: u64, done: Done) -> String {
    FromPlugin::Report(Report { number, at: clock::stamp(&Proc::new(Path::new("/proc"))), done }).render()
}

/// The next message that is not a ping.
async fn next(lines: &mut Lines) -> FromAgent {
    loop {
        let line =
            tokio::time::timeout(Duration::from_secs(20), lines.next()).await.unwrap().unwrap().unwrap();
        match FromAgent::parse(&line) {
            FromAgent::Ping { .. } => {}
            message => return message,
        }
    }
}

const LOST: &str = "usernsd_refusals_total{reason=\"lost_isolation\"}";

/// A plugin that is killed before its socket has its final name leaves a temporary one.
#[tokio::test]
async fn sockets_of_plugins_that_ended_are_swept() {
    let rig = Rig::new(SHORT);
    let plugins = rig.socket("plugins");
    let _first = rig.listen("containerd-1");
    let left = |name: &str| drop(std::os::unix::net::UnixListener::bind(plugins.join(name)).unwrap());
    // Sockets of ended processes, with a final and a temporary name, and one of a live process.
    let living = format!(".containerd-{}", std::process::id());
    for name in ["crio-4194304.sock", ".crio-4194304", ".odd", &living] {
        left(name);
    }
    std::fs::write(plugins.join(".file-4194304"), "no socket").unwrap();
    let _second = rig.listen("containerd-2");
    let mut names: Vec<String> = std::fs::read_dir(&plugins)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [&living, ".file-4194304", "containerd-1.sock", "containerd-2.sock"]);
}

/// A plugin of a later version, with additional names, and one of an earlier version, with fewer.
#[tokio::test]
async fn plugins_of_other_versions_are_understood_as_far_as_they_are_known() {
    for hello in [
        r#"{"kind":"hello","protocol":9,"version":"9.0.0","pid":7,"colour":"red"}"#,
        r#"{"kind":"hello","pid":7}"#,
    ] {
        let rig = Rig::new(SHORT);
        let listener = rig.listen("containerd-7");
        let following = rig.follow();
        let (mut lines, mut writer) = listener.accept().await.unwrap();
        assert!(matches!(next(&mut lines).await, FromAgent::Hello { protocol: 1, .. }));
        writer.write(&format!("{hello}\n")).await.unwrap();
        until("the plugin", || rig.containers.store().is_launched()).await;
        until("a decision", || following.joins() == Some(false)).await;
        writer.write("{\"kind\":\"dance\",\"number\":3}\nno JSON\n").await.unwrap();
        writer.write("{\"kind\":\"report\",\"number\":1,\"at_us\":1,\"danced\":{}}\n").await.unwrap();
        assert_eq!(next(&mut lines).await, FromAgent::Seen { number: 1 });
        writer.write(&report(2, refused("c1"))).await.unwrap();
        assert_eq!(next(&mut lines).await, FromAgent::Seen { number: 2 });
        // A report that is sent again because the acknowledgement was lost is counted once.
        writer.write(&report(2, refused("c1"))).await.unwrap();
        assert_eq!(next(&mut lines).await, FromAgent::Seen { number: 2 });
        let ungranted = NotGranted { reason: "of_a_later_version".into(), sentence: "no".into() };
        let Done::Created(created) = refused("c2") else { panic!() };
        let created =
            Created { isolation: Verdict::Good, refused: false, ungranted: Some(ungranted), ..created };
        writer.write(&report(3, Done::Created(created))).await.unwrap();
        assert_eq!(next(&mut lines).await, FromAgent::Seen { number: 3 });
        assert_eq!(rig.metric(LOST), 1.0);
        assert_eq!(rig.metric("usernsd_nri_plugin_reports_unreadable_total"), 1.0);
        assert_eq!(rig.metric("usernsd_nri_plugin_reports_total"), 3.0);
        let snapshot = rig.containers.store().snapshot();
        assert_eq!((snapshot.start_path.name(), snapshot.plugins[0].pid), ("launched_plugin", 7));
        drop((lines, writer, listener));
        until("its end", || !rig.containers.store().is_launched()).await;
        until("joining", || following.joins() == Some(true)).await;
        assert!(rig.containers.store().snapshot().plugins.is_empty());
    }
}

/// The runtime that the agent has joined over NRI.
fn joined(name: &str, version: &str) -> Option<Caller> {
    let way = StartPathKind::Joined("/run/nri/nri.sock".into());
    Some(Caller { name: name.into(), version: version.into(), way, has_others: false })
}

#[tokio::test]
async fn the_runtime_of_nri_is_compared_with_that_of_cri() {
    let rig = Rig::new(SHORT);
    let store = rig.containers.store();
    let runtime = rig.runtime(Scenario { after_events: AfterEvents::Stall, ..guarded() });
    let watching = rig.watch();
    until("CRI", || store.snapshot().runtime.is_some()).await;
    store.set_joined(joined("containerd", "2.1.9"));
    let mismatch = store.mismatch().unwrap();
    assert!(
        mismatch.what.contains("cri-o 1.36.3") && mismatch.what.contains("containerd 2.1.9"),
        "{mismatch:?}"
    );
    assert!(!store.is_called_first());
    let snapshot = store.snapshot();
    assert_eq!((snapshot.start_path.name(), snapshot.mismatch), ("nobody", Some(mismatch)));
    // The runtime of CRI was replaced by the one of NRI, and the mismatch ends.
    runtime.scenario.lock().unwrap().version = ("containerd".into(), "2.1.9".into());
    rig.containers.attention().notify_one();
    until("the other runtime", || store.mismatch().is_none()).await;
    assert!(store.is_called_first());
    store.set_joined(joined("containerd", "2.1.9"));
    // Without an answer over CRI there is nothing to compare.
    store.set_joined(joined("cri-o", "1.36.3"));
    assert!(store.mismatch().is_some());
    store.down(Peer::Cri, SystemTime::now(), "away");
    assert!(store.mismatch().is_none() && store.is_called_first());
    drop(watching);
}

/// Two runtimes with the same name and version are distinguished by their lists.
#[tokio::test]
async fn the_list_of_nri_is_compared_with_that_of_cri() {
    let rig = Rig::new(SHORT);
    let store = rig.containers.store();
    let mut scenario = Scenario { after_events: AfterEvents::Stall, ..guarded() };
    let running = v1::ContainerState::ContainerRunning as i32;
    let status =
        v1::ContainerStatus { id: "here".into(), state: running, created_at: 1, ..Default::default() };
    scenario.add_container("s1", status, None);
    let _runtime = rig.runtime(scenario);
    let watching = rig.watch();
    until("CRI", || store.snapshot().runtime.is_some()).await;
    for (listed, is_other) in [(vec!["there"], true), (vec!["here", "there"], false), (vec![], true)] {
        store.set_joined(joined("cri-o", "1.36.3"));
        store.up(Peer::Nri, SystemTime::now());
        assert_eq!(store.mismatch(), None);
        let found = listed.iter().map(|name| (in_hosts(name), ContainerState::Running)).collect();
        watching.listed.put(found);
        let is_seen = || store.mismatch().is_some() == is_other;
        if is_other {
            until("the comparison", is_seen).await;
            assert_eq!(store.snapshot().start_path.name(), "nobody");
        } else {
            // Time for what must not happen.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(is_seen(), "{:?}", store.mismatch());
        }
    }
}

/// While no agent ran, the clock was set forward by a day: by the present clock, plugin and report are a minute old.
#[tokio::test]
async fn times_of_a_plugin_are_moved_if_the_clock_was_set_since() {
    const DAY: Duration = Duration::from_secs(86_400);
    const MINUTE: Duration = Duration::from_secs(60);
    let rig = Rig::new(SHORT);
    let listener = rig.listen("containerd-7");
    let _following = rig.follow();
    let (mut lines, mut writer) = listener.accept().await.unwrap();
    assert!(matches!(next(&mut lines).await, FromAgent::Hello { .. }));
    let now = clock::stamp(&Proc::new(Path::new("/proc")));
    let uptime = now.uptime.unwrap().checked_sub(MINUTE);
    let before = Stamp { wall: now.wall - DAY - MINUTE, uptime: Some(uptime.expect("up for a minute")) };
    let hello = Hello { protocol: 1, pid: 7, ..Hello::default() }.starting(before);
    writer.write(&FromPlugin::Hello(hello.clone()).render()).await.unwrap();
    for (number, at) in [(1, before), (2, Stamp { uptime: None, ..before })] {
        let report = Report { number, at, done: refused(&format!("c{number}")) };
        writer.write(&FromPlugin::Report(report).render()).await.unwrap();
        assert_eq!(next(&mut lines).await, FromAgent::Seen { number });
    }
    // Sent again, as when the plugin's settings change.
    writer.write(&FromPlugin::Hello(Hello { settings: "others".into(), ..hello }).render()).await.unwrap();
    let store = rig.containers.store();
    until("the settings", || store.snapshot().plugins.iter().any(|plugin| plugin.settings == "others")).await;
    let seen = store.snapshot();
    let is_moved = |at: SystemTime| at.duration_since(now.wall - MINUTE * 2).is_ok() && at <= now.wall;
    assert!(is_moved(seen.plugins[0].since), "{:?}", seen.plugins[0].since);
    // Without the uptime, as from an earlier version of the plugin, the time is taken as it is.
    for (name, at_moved) in [("c1", true), ("c2", false)] {
        let at = seen.events.iter().find(|event| event.name == name).unwrap().at;
        assert_eq!(is_moved(at), at_moved, "{name}: {at:?}");
    }
}

/// A plugin that another runtime launched is not in the start path: the agent joins.
#[tokio::test]
async fn a_plugin_of_another_runtime_does_not_keep_the_agent_from_joining() {
    let rig = Rig::new(SHORT);
    let store = rig.containers.store();
    let following = rig.follow();
    let listener = rig.listen("containerd-7");
    let (mut lines, mut writer) = listener.accept().await.unwrap();
    assert!(matches!(next(&mut lines).await, FromAgent::Hello { .. }));
    let hello = Hello {
        protocol: 1,
        pid: 7,
        runtime: "containerd".into(),
        runtime_version: "2.1.9".into(),
        ..Hello::default()
    };
    writer.write(&FromPlugin::Hello(hello).render()).await.unwrap();
    until("no need to join", || following.joins() == Some(false)).await;
    assert_eq!(store.snapshot().start_path.name(), "launched_plugin");
    // Now CRI answers, and it is another runtime.
    let mut runtime = usernsd_domain::node::CriRuntime {
        name: "cri-o".into(),
        version: "1.36.3".into(),
        endpoint: "/run/crio/crio.sock".into(),
    };
    store.set_runtime(runtime.clone());
    store.up(Peer::Cri, SystemTime::now());
    assert!(store.mismatch().unwrap().what.contains("process 7"));
    let answering = tokio::spawn(async move {
        let pong = FromPlugin::Pong { number: 1, busy: Duration::ZERO }.render();
        while writer.write(&pong).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    until("joining", || following.joins() == Some(true)).await;
    assert_eq!(store.snapshot().start_path.name(), "nobody");
    // The runtime that it joins is the right one.
    store.set_joined(joined("cri-o", "1.36.3"));
    assert_eq!((store.mismatch(), store.snapshot().start_path.name()), (None, "agent_joined"));
    store.set_joined(None);
    // The configuration was corrected.
    (runtime.name, runtime.version) = ("containerd".into(), "2.1.9".into());
    store.set_runtime(runtime);
    until("leaving", || following.joins() == Some(false)).await;
    assert_eq!(store.mismatch(), None);
    answering.abort();
}

#[tokio::test]
async fn without_a_plugin_the_agent_joins_and_leaves_when_one_appears() {
    let rig = Rig::new(SHORT);
    let following = rig.follow();
    until("joining", || following.joins() == Some(true)).await;
    // A socket of a plugin that ended.
    drop(rig.listen("containerd-6"));
    let listener = rig.listen("containerd-7");
    let (mut lines, mut writer) = listener.accept().await.unwrap();
    assert!(matches!(next(&mut lines).await, FromAgent::Hello { .. }));
    let hello = Hello { protocol: 1, pid: 7, ..Hello::default() };
    writer.write(&FromPlugin::Hello(hello).render()).await.unwrap();
    until("leaving", || following.joins() == Some(false)).await;
    // The agent pings; a plugin that does not answer hangs.
    until("a plugin that hangs", || following.joins() == Some(true)).await;
    assert_eq!(rig.containers.store().snapshot().start_path.name(), "nobody");
    writer.write(&FromPlugin::Pong { number: 1, busy: Duration::ZERO }.render()).await.unwrap();
    until("one that answers again", || following.joins() == Some(false)).await;
    let busy = Duration::from_secs(60);
    writer.write(&FromPlugin::Pong { number: 2, busy }.render()).await.unwrap();
    until("one whose request is stuck", || following.joins() == Some(true)).await;
}

/// An agent at the other end of [`Reports`].
struct Client {
    lines: Lines,
    writer: Writer,
}

impl Client {
    async fn connect(rig: &Rig) -> Client {
        let path = rig.socket("plugins/containerd-7.sock");
        let (lines, mut writer) = launched::connect(&path).await.unwrap();
        let hello = FromAgent::Hello { protocol: 2, version: "0.2.0".into() };
        writer.write(&hello.render()).await.unwrap();
        let mut client = Client { lines, writer };
        assert!(matches!(client.next().await, FromPlugin::Hello(Hello { pid: 7, .. })));
        client
    }

    async fn next(&mut self) -> FromPlugin {
        let line = tokio::time::timeout(Duration::from_secs(20), self.lines.next()).await;
        FromPlugin::parse(&line.unwrap().unwrap().unwrap())
    }

    async fn number(&mut self) -> u64 {
        match self.next().await {
            FromPlugin::Report(report) => report.number,
            other => panic!("{other:?}"),
        }
    }

    async fn seen(&mut self, number: u64) {
        self.writer.write(&FromAgent::Seen { number }.render()).await.unwrap();
    }
}

#[tokio::test]
async fn each_report_goes_to_one_agent() {
    let rig = Rig::new(SHORT);
    let reports = Arc::new(Reports::new(Hello { pid: 7, ..Hello::default() }, Proc::new(Path::new("/proc"))));
    let listener = rig.listen("containerd-7");
    tokio::spawn(Arc::clone(&reports).serve(listener, Arc::new(|| Duration::from_millis(3))));
    // Without a connected agent.
    (1..=3).for_each(|number| reports.add(refused(&format!("c{number}"))));
    let mut old = Client::connect(&rig).await;
    assert_eq!(old.next().await, FromPlugin::Resumed);
    for number in 1..=3 {
        assert_eq!(old.number().await, number);
    }
    old.seen(2).await;
    old.writer.write(&FromAgent::Ping { number: 5 }.render()).await.unwrap();
    assert_eq!(old.next().await, FromPlugin::Pong { number: 5, busy: Duration::from_millis(3) });
    // Another plugin checks whether this one is alive; it is not an agent.
    drop(launched::connect(&rig.socket("plugins/containerd-7.sock")).await.unwrap());
    let mut newer = Client::connect(&rig).await;
    assert_eq!(old.next().await, FromPlugin::Replaced);
    reports.add(refused("c4"));
    // The replaced agent has a moment to acknowledge its reports; only then the new one gets any.
    old.seen(3).await;
    assert_eq!(newer.next().await, FromPlugin::Resumed);
    assert_eq!(newer.number().await, 4);
    newer.seen(4).await;
    // It acknowledges a report that was sent to the other agent.
    old.seen(9).await;
    reports.add(refused("c5"));
    assert_eq!(newer.number().await, 5);
    // The new agent ends without acknowledging; its reports go to the old one.
    drop(newer);
    assert_eq!(old.next().await, FromPlugin::Resumed);
    assert_eq!(old.number().await, 5);
    old.seen(5).await;
    // An agent that acknowledges nothing does not keep the reports forever.
    reports.add(refused("c6"));
    assert_eq!(old.number().await, 6);
    let mut last = Client::connect(&rig).await;
    assert_eq!(last.next().await, FromPlugin::Resumed);
    assert_eq!(last.number().await, 6);
    reports.describe("digest".into(), vec!["odd".into()]);
    let FromPlugin::Hello(hello) = last.next().await else { panic!() };
    assert_eq!((hello.settings.as_str(), hello.problems.len(), hello.dropped), ("digest", 1, 0));
}

/// A container's cgroup on this machine, with a process; both end with the test.
struct Running {
    cgroup: PathBuf,
    process: std::process::Child,
}

impl Running {
    fn new(cgroup: PathBuf) -> Running {
        fs::create_dir_all(&cgroup).unwrap();
        let process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
        Running { cgroup, process }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// The source that names the process can be wrong: a number is reused, or a container has moved its processes.
#[test]
fn only_a_process_of_the_container_itself_is_ended() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|one| one[2] == "cgroup2");
    let Some(mount) = mount.filter(|_| nix::unistd::geteuid().is_root()) else {
        println!("skipped: needs root and a cgroup v2 mount");
        return;
    };
    let pod = format!("usernsd-end-{}", std::process::id());
    let top = std::path::Path::new(mount[1]).join(&pod);
    let [own, other] = ["a", "b"].map(|name| name.repeat(64));
    let [mut lost, mut victim] = [&own, &other].map(|id| Running::new(top.join(id)));
    let this = std::process::id();
    let rig = Rig::on_this_machine(mount[1].as_ref(), &[lost.process.id(), victim.process.id(), this]);
    let asked = PodAnswer { request: Some(UserNamespaceRequest::Own), root: None };
    rig.containers.pods().note("s1", asked);
    // It runs as the host's root, although its pod asked for a user namespace.
    let mut container = Container { cgroups_path: format!("/{pod}/{own}"), ..in_hosts(&own) };
    // Another container's process, and this test's own.
    for pid in [victim.process.id(), this] {
        container.pid = Some(pid);
        let ended = rig.containers.end(&container, Missed::UserNamespace, |_| Ok(()));
        assert!(matches!(ended, Err(NotEnded::NotSo)), "{pid}: {ended:?}");
    }
    assert!(victim.process.try_wait().unwrap().is_none() && lost.process.try_wait().unwrap().is_none());
    // The container's own is ended, so the checks above can fail.
    container.pid = Some(lost.process.id());
    let ended = rig.containers.end(&container, Missed::UserNamespace, |_| Ok(()));
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&lost.process.wait().unwrap()), Some(9));
    assert!(victim.process.try_wait().unwrap().is_none());
    drop((lost, victim));
    fs::remove_dir(top).unwrap();
}
