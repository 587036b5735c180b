//! Every way in leads here: one container is looked at, made right, recorded, counted and logged,
//! the same whether NRI, systemd, CRI or the resync brought it.

mod say;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::domain::adjust::{self, AdjustRules, Adjustment};
use crate::domain::container::{Container, CriId, UserNamespaceRequest};
use crate::domain::delegation::Skip;
use crate::domain::feed::EventKind;
use crate::domain::guard::{self, GuardPolicy, Verdict};
use crate::domain::idmap::{HostId, IdMap};
use crate::domain::record::{Outcome, Record, Source, UserNamespace, UserNamespaceMode};
use crate::domain::unit::{Scope, container_of_scope};
use crate::task::ask::Asker;
use crate::task::delegate::{Delegator, Handled, MountSource, Target};
use crate::task::metrics::{Action, GuardCall, Metrics, Refusal as MetricRefusal};
use crate::task::snapshot::Store;
use crate::task::systemd_user::SystemdUser;

/// The pause between two looks at a process that is on its way into its namespaces.
const RECHECK: Duration = Duration::from_micros(300);
/// How long a question to the runtime may hold up a container's creation. The runtime waits for
/// the plugin for 2 s by default.
pub const RUNTIME_PATIENCE: Duration = Duration::from_millis(800);
/// How long a runtime that did not answer in time is left alone. The guard lets containers pass to
/// their start meanwhile, so it is short; there it asks whatever was before.
pub const RUNTIME_REST: Duration = Duration::from_secs(1);
/// How long a question to systemd may hold up a container's start: forty times what it takes.
pub const SYSTEMD_PATIENCE: Duration = Duration::from_millis(20);
/// How long a systemd that did not answer in time is left alone: the proof stands without it.
pub const SYSTEMD_REST: Duration = Duration::from_secs(10);

/// What the runtime says of a pod, as far as it can never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The user namespace it asked for; `None` where the runtime does not say.
    pub request: Option<UserNamespaceRequest>,
    /// The mapped root it was promised.
    pub root: Option<HostId>,
}

/// What the rules allow, for the tasks.
#[derive(Debug, Clone)]
pub struct Policies {
    /// Opt-in and privileged containers.
    pub adjust: AdjustRules,
    /// Lost isolation.
    pub guard: GuardPolicy,
}

/// How a container was reached, and what the source knows besides.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// The source.
    pub source: Source,
    /// What says how `/sys/fs/cgroup` is mounted.
    pub mount: MountSource,
    /// The mapping the runtime was told to make.
    pub told: Option<&'a IdMap>,
    /// When what the source tells of happened, where it says so; else when its message came in.
    pub since: Instant,
    /// For how long the process may still be on its way into its namespaces; zero where the source
    /// comes after that.
    pub patience: Duration,
}

/// The containers of this node.
pub struct Containers {
    delegator: Delegator,
    policies: Policies,
    store: Store,
    metrics: Metrics,
    pods: Mutex<HashMap<String, PodFacts>>,
    scopes: Mutex<HashMap<String, Scope>>,
    ask_runtime: Asker<CriId, Option<PodFacts>>,
    ask_systemd: Asker<String, Option<Scope>>,
    systemd_user: Option<Arc<SystemdUser>>,
}

/// What came of [`Containers::look`].
#[derive(Debug)]
pub struct Look {
    /// What was seen and done.
    pub handled: Handled,
    /// It must not run.
    pub refusal: Option<Refusal>,
    /// The outcome is another than the last time.
    is_news: bool,
    /// How long after that all was done; a cgroup handed over by a resync: after the process's start.
    after: Duration,
}

/// A container that must not run.
#[derive(Debug)]
pub struct Refusal {
    /// The sentence for its creator.
    pub sentence: String,
}

/// The lock's content, whatever happened to another thread that held it: every value in these maps
/// is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

// === impl Containers ===

impl Containers {
    /// Joins the rules with what they act on.
    #[must_use]
    pub fn new(
        delegator: Delegator,
        policies: Policies,
        store: Store,
        metrics: Metrics,
        ask_runtime: Asker<CriId, Option<PodFacts>>,
        ask_systemd: Asker<String, Option<Scope>>,
        systemd_user: Option<Arc<SystemdUser>>,
    ) -> Containers {
        Containers {
            delegator,
            policies,
            store,
            metrics,
            pods: Mutex::default(),
            scopes: Mutex::default(),
            ask_runtime,
            ask_systemd,
            systemd_user,
        }
    }

    /// What is known of the containers.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Decides on a container that is about to be created. Blocks shortly where the runtime has to
    /// be asked about its pod.
    ///
    /// # Errors
    /// It must not be created: its isolation is lost.
    pub fn before_create(
        &self,
        container: &Container,
        pod_has_user_namespace: Option<bool>,
    ) -> Result<Option<Adjustment>, Refusal> {
        let request = self.request(container, pod_has_user_namespace);
        if guard::judge(request, container.user_namespace) == Verdict::Lost {
            self.refuse(container)?;
        }
        match adjust::plan(container, &self.policies.adjust, self.systemd_owner(container)) {
            Ok(Some(mut adjustment)) => {
                self.make_known(container, &mut adjustment);
                self.metrics.fix(Action::AdjustContainer);
                info!(
                    container = container.id.short(),
                    namespace = %container.pod.namespace,
                    pod = %container.pod.name,
                    name = %container.name,
                    mounts = adjustment.mounts.len(),
                    cgroup_namespace = adjustment.add_cgroup_namespace,
                    "prepared the container for a cgroup of its own"
                );
                Ok(Some(adjustment))
            }
            Ok(None) => Ok(None),
            Err(ungranted) => {
                self.say_ungranted(container, &ungranted);
                Ok(None)
            }
        }
    }

    /// Looks at a container whose cgroup and process exist, makes it right, and says so.
    pub fn look(&self, container: &Container, way: Way<'_>) -> Look {
        let look = self.look_first(container, way);
        self.say(container, &look, way.source);
        look
    }

    /// The same, but for the lines in the log: for a source that waits for the answer.
    /// [`Containers::say`] is owed.
    pub fn look_first(&self, container: &Container, way: Way<'_>) -> Look {
        let target = Target {
            id: &container.id,
            cgroups_path: &container.cgroups_path,
            pid: container.pid,
            process_uid: container.process_uid,
            user_namespace: container.user_namespace,
            mount: way.mount,
            uid_map: way.told,
        };
        let mut handled = loop {
            let handled = self.delegator.handle(&target, |unit| self.scope(unit));
            let on_its_way = container.user_namespace
                && matches!(
                    handled.outcome,
                    Outcome::Skipped(Skip::HostUserNamespace | Skip::UnmappedRoot | Skip::Gone)
                );
            if !on_its_way || way.since.elapsed() >= way.patience {
                break handled;
            }
            std::thread::sleep(RECHECK);
        };
        if container.user_namespace
            && way.patience > Duration::ZERO
            && matches!(handled.outcome, Outcome::Skipped(Skip::HostUserNamespace | Skip::UnmappedRoot))
        {
            // A slow start, not lost isolation: nothing of the container's own has run yet. Its
            // CRI event, or the resync, finds it where it belongs.
            handled.outcome = Outcome::Skipped(Skip::Unproven);
            handled.detail = Some("the process has not entered its user namespace yet".to_owned());
            handled.seen.user_namespace = None;
        }
        let request = match way.source {
            Source::Nri => self.request_at_start(container),
            _ => self.noted_request(container),
        };
        // One that it made itself is not what its pod asked for.
        let is_hosts = |namespace: UserNamespace| namespace.is_hosts || !container.user_namespace;
        let in_hosts = handled.seen.user_namespace.map(is_hosts);
        let isolation = guard::judge(request, in_hosts.map_or(container.user_namespace, |host| !host));
        let mode = UserNamespaceMode::of(request, annotated_request(container).is_some(), in_hosts);
        let before = self.store.get(&container.id);
        let is_news = before.as_ref().is_none_or(|before| before.outcome != handled.outcome);
        let after = self.waited(&handled, way);
        self.count(&handled, way, after, is_news);
        if handled.outcome == Outcome::Skipped(Skip::Gone) {
            self.store.forget(&container.id);
        } else {
            self.store.put(record(container, &handled, way.source, isolation, mode));
        }
        // The same container found lost again by a resync is one loss, not two.
        let known =
            way.source == Source::Resync && before.is_some_and(|before| before.isolation == Verdict::Lost);
        let refusal = if isolation == Verdict::Lost && !known { self.refuse(container).err() } else { None };
        Look { handled, refusal, is_news, after }
    }

    /// Whether a container was found right before and still is: then there is nothing to look at.
    #[must_use]
    pub fn is_still_right(&self, id: &CriId) -> bool {
        let Some(record) = self.store.get(id) else { return false };
        // The runtime did not say in time what the pod asked for; it may have by now.
        let says_nothing = |facts: &PodFacts| facts.request.is_none();
        if record.isolation == Verdict::Unknown
            && !lock(&self.pods).get(&record.sandbox_id).is_some_and(says_nothing)
        {
            return false;
        }
        match (&record.outcome, &record.cgroup, record.inode, record.owner) {
            (Outcome::Delegated | Outcome::AlreadyRight, Some(path), Some(inode), Some(owner)) => {
                self.delegator.is_still_right(path, inode, owner)
            }
            // What is left alone stays so: its specification does not change, and what the container
            // makes of its namespaces and mounts gains it nothing.
            (Outcome::Skipped(Skip::HostUserNamespace | Skip::ReadOnlyMount), Some(path), Some(inode), _) => {
                self.delegator.is_there(path, inode)
            }
            _ => false,
        }
    }

    /// Forgets a container that ended.
    pub fn forget(&self, id: &CriId) {
        self.store.forget(id);
    }

    /// Forgets a pod that ended.
    pub fn forget_pod(&self, sandbox_id: &str) {
        let facts = lock(&self.pods).remove(sandbox_id);
        if let (Some(systemd), Some(root)) = (&self.systemd_user, facts.and_then(|facts| facts.root)) {
            systemd.forget(root);
        }
    }

    /// Takes note of what the runtime said of a pod.
    pub fn note_pod(&self, sandbox_id: &str, facts: PodFacts) {
        lock(&self.pods).insert(sandbox_id.to_owned(), facts);
    }

    /// Whether the pod's facts are known already.
    #[must_use]
    pub fn knows_pod(&self, sandbox_id: &str) -> bool {
        lock(&self.pods).contains_key(sandbox_id)
    }

    /// The sandboxes of the pods of which something is noted.
    #[must_use]
    pub fn noted_pods(&self) -> Vec<String> {
        lock(&self.pods).keys().cloned().collect()
    }

    /// Forgets containers whose cgroup is gone: their end was missed. `listed` says of those whose
    /// cgroup nobody saw whether the runtime still has them.
    pub fn forget_gone(&self, listed: &dyn Fn(&CriId) -> bool) {
        for record in self.store.list() {
            let there = match (&record.cgroup, record.inode) {
                (Some(path), Some(inode)) => self.delegator.is_there(path, inode),
                _ => listed(&record.id),
            };
            if !there {
                self.store.forget(&record.id);
            }
        }
    }

    /// Takes note of what systemd said of a unit, ahead of the moment it is needed.
    pub fn note_scope(&self, unit: &str, scope: Scope) {
        lock(&self.scopes).insert(unit.to_owned(), scope);
    }

    /// systemd forgot a unit: so does this, unless the cgroup is still there. While it reloads its
    /// configuration, systemd forgets every unit and reads all of them anew (systemd#376).
    pub fn unit_removed(&self, unit: &str) {
        lock(&self.scopes).retain(|name, scope| {
            name != unit
                || scope.control_group_id.is_some_and(|id| self.delegator.is_there(&scope.control_group, id))
        });
        let Some(record) = container_of_scope(unit).and_then(|id| self.store.get(&id)) else { return };
        match (&record.cgroup, record.inode) {
            (Some(path), Some(inode)) if !self.delegator.is_there(path, inode) => {
                self.store.forget(&record.id);
            }
            // Where no cgroup was seen, the runtime says when it ends.
            _ => {}
        }
    }

    /// systemd's word on a unit: the noted one, which is used once, else asked for now.
    fn scope(&self, unit: &str) -> Option<Scope> {
        let noted = lock(&self.scopes).remove(unit);
        noted.or_else(|| self.ask_systemd.ask(unit.to_owned()).flatten())
    }

    /// What the pod asked for. Only a container without a user namespace makes this worth a
    /// question to the runtime.
    fn request(
        &self,
        container: &Container,
        pod_has_user_namespace: Option<bool>,
    ) -> Option<UserNamespaceRequest> {
        if container.user_namespace {
            return Some(UserNamespaceRequest::Own);
        }
        if pod_has_user_namespace == Some(true) {
            // Only this message says so; the look at the start has to know it too.
            let facts = || PodFacts { request: Some(UserNamespaceRequest::Own), root: None };
            lock(&self.pods).entry(container.sandbox_id.clone()).or_insert_with(facts);
            return Some(UserNamespaceRequest::Own);
        }
        let facts = self.pod(&container.sandbox_id);
        let is_said = facts.is_some();
        let request = facts.and_then(|facts| facts.request).or_else(|| annotated_request(container));
        if request.is_none() && !is_said {
            self.metrics.guard_unanswered(GuardCall::CreateContainer);
        }
        request
    }

    /// What the pod asked for, at the last moment at which the container can be kept from running:
    /// what is noted by now, else the runtime is asked once more.
    fn request_at_start(&self, container: &Container) -> Option<UserNamespaceRequest> {
        let noted = self.noted_request(container);
        // A runtime that does not say what the pod asked for will not say it now.
        if noted.is_some() || self.knows_pod(&container.sandbox_id) {
            return noted;
        }
        let id = CriId::parse(&container.sandbox_id).ok();
        let facts = id.and_then(|id| self.ask_runtime.insist(id).flatten());
        if facts.is_none() {
            self.metrics.guard_unanswered(GuardCall::StartContainer);
        }
        facts?.request
    }

    /// What the runtime says of a pod. Whoever answers takes note of it, for it cannot change: an
    /// answer that comes too late for this question is there for the next.
    fn pod(&self, sandbox_id: &str) -> Option<PodFacts> {
        let noted = lock(&self.pods).get(sandbox_id).cloned();
        noted.or_else(|| self.ask_runtime.ask(CriId::parse(sandbox_id).ok()?).flatten())
    }

    /// To whom systemd shall give the scope; `None` where the agent does it.
    fn systemd_owner(&self, container: &Container) -> Option<HostId> {
        let systemd = self.systemd_user.as_ref().filter(|systemd| systemd.works())?;
        if !container.user_namespace {
            return None;
        }
        systemd.owner(self.pod(&container.sandbox_id)?.root?)
    }

    /// Makes the owner that an adjustment names known to systemd; where that fails, systemd is not
    /// asked: with an unknown user the container would not start at all.
    fn make_known(&self, container: &Container, adjustment: &mut Adjustment) {
        let Some(systemd) = &self.systemd_user else { return };
        if !adjustment.annotations.contains_key(adjust::SYSTEMD_USER_ANNOTATION) {
            return;
        }
        let root = lock(&self.pods).get(&container.sandbox_id).and_then(|facts| facts.root);
        if root.is_none_or(|root| !systemd.make_known(root)) {
            adjustment.annotations.remove(adjust::SYSTEMD_USER_ANNOTATION);
        }
    }

    /// What the pod asked for, as far as it is known without a question.
    fn noted_request(&self, container: &Container) -> Option<UserNamespaceRequest> {
        if container.user_namespace {
            return Some(UserNamespaceRequest::Own);
        }
        let noted = lock(&self.pods).get(&container.sandbox_id).and_then(|facts| facts.request);
        noted.or_else(|| annotated_request(container))
    }

    fn refuse(&self, container: &Container) -> Result<(), Refusal> {
        self.metrics.refused(MetricRefusal::LOST_ISOLATION);
        let sentence = guard::refusal(&container.pod.namespace, &container.pod.name, &container.name);
        let (policy, short) = match self.policies.guard {
            GuardPolicy::Refuse => {
                ("refuse", "not started: it would run as the host's root, its user namespace is lost")
            }
            GuardPolicy::Report => ("report", "runs as the host's root: its user namespace is lost"),
        };
        self.note(container, EventKind::Refused, MetricRefusal::LOST_ISOLATION.name(), short.to_owned());
        warn!(
            container = container.id.short(),
            namespace = %container.pod.namespace,
            pod = %container.pod.name,
            name = %container.name,
            policy,
            "the container would run as the host's root although its pod asked for a user namespace"
        );
        match self.policies.guard {
            GuardPolicy::Refuse => Err(Refusal { sentence }),
            GuardPolicy::Report => Ok(()),
        }
    }

    /// How long the container waited for its cgroup. A resync knows only its process's age.
    fn waited(&self, handled: &Handled, way: Way<'_>) -> Duration {
        let since = way.since.elapsed();
        match &handled.init {
            Some(init) if way.source == Source::Resync && handled.outcome == Outcome::Delegated => {
                self.delegator.age(init).map_or(since, |age| age.max(since))
            }
            _ => since,
        }
    }

    fn count(&self, handled: &Handled, way: Way<'_>, after: Duration, is_news: bool) {
        for change in &handled.changes {
            self.metrics.fix(change.action);
        }
        match &handled.outcome {
            // Over NRI the start waits for this: its first instruction finds it done.
            Outcome::Delegated if way.source == Source::Nri => self.metrics.fix_delay(Duration::ZERO),
            Outcome::Delegated => self.metrics.fix_delay(after),
            Outcome::AlreadyRight => self.metrics.already_right(),
            // A container, not a look: a resync finds the same ones every time.
            Outcome::Skipped(skip) if is_news => self.metrics.refused(*skip),
            Outcome::Skipped(_) => {}
            Outcome::Failed(_) => {
                // An attempt that failed is an attempt.
                self.metrics.fix(handled.failed_action());
                self.metrics.fix_failed(handled.failed_action());
            }
        }
        if way.source == Source::Nri {
            self.metrics.handled(way.since.elapsed());
        }
    }
}

/// What the pod asked for by CRI-O's annotation.
fn annotated_request(container: &Container) -> Option<UserNamespaceRequest> {
    ["io.kubernetes.cri-o.userns-mode", "userns-mode.crio.io"]
        .iter()
        .find_map(|key| guard::request_of_annotation(container.annotations.get(*key)?))
}

fn record(
    container: &Container,
    handled: &Handled,
    source: Source,
    isolation: Verdict,
    mode: UserNamespaceMode,
) -> Record {
    Record {
        id: container.id.clone(),
        sandbox_id: container.sandbox_id.clone(),
        name: container.name.clone(),
        pod: container.pod.clone(),
        pid: handled.seen.pid.or(container.pid),
        uid_map: handled.seen.uid_map.clone(),
        gid_map: handled.seen.gid_map.clone(),
        user_namespace: handled.seen.user_namespace,
        mode,
        mount: handled.seen.mount,
        cgroup: handled.seen.cgroup.clone(),
        inode: handled.seen.inode,
        owner: handled.seen.owner,
        limits: handled.seen.limits,
        outcome: handled.outcome.clone(),
        source,
        isolation,
    }
}
