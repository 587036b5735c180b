//! Every way in leads here: one container is looked at, made right, recorded, counted and logged,
//! the same whether NRI, systemd, CRI or the resync brought it.

mod say;

use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use crate::domain::adjust::Adjustment;
use crate::domain::container::{Container, CriId};
use crate::domain::delegation::Skip;
use crate::domain::feed::EventKind;
use crate::domain::guard::Verdict;
use crate::domain::record::{Outcome, Record, Source};
use crate::domain::report::{Created, Looked, Named};
use crate::domain::unit::{Scope, container_of_scope};
use crate::edge::proc::Process;
use crate::task::decide::Decider;
pub use crate::task::decide::{Decision, PodFacts, Pods, Policies, Refusal, Way};
use crate::task::delegate::Delegator;
use crate::task::metrics::{Action, GuardCall, Metrics, Refusal as MetricRefusal};
use crate::task::snapshot::Store;

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

/// The containers of this node.
#[derive(Debug)]
pub struct Containers {
    decider: Decider,
    store: Store,
    metrics: Metrics,
}

/// What came of [`Containers::look`].
#[derive(Debug)]
pub struct Look {
    /// What was seen and done.
    pub looked: Looked,
    /// It must not run.
    pub refusal: Option<Refusal>,
    /// The init process, held: proven to be in the container's cgroup.
    pub init: Option<Process>,
    /// The outcome is another than the last time.
    is_news: bool,
}

// === impl Containers ===

impl Containers {
    /// Records, counts and logs what `decider` decides.
    #[must_use]
    pub fn new(decider: Decider, store: Store, metrics: Metrics) -> Containers {
        Containers { decider, store, metrics }
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

    /// What is noted of pods.
    #[must_use]
    pub fn pods(&self) -> &Pods {
        self.decider.pods()
    }

    fn delegator(&self) -> &Delegator {
        self.decider.delegator()
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
        let creation = self.decider.before_create(container, pod_has_user_namespace);
        self.record_created(&creation.created, SystemTime::now());
        match creation.refusal {
            Some(refusal) => Err(refusal),
            None => Ok(creation.adjustment),
        }
    }

    /// Counts and logs a decision on a container that is about to be created, made here or by the
    /// launched plugin.
    pub fn record_created(&self, created: &Created, at: SystemTime) {
        let container = &created.container;
        if created.unanswered {
            self.metrics.guard_unanswered(GuardCall::CreateContainer);
        }
        if created.isolation == Verdict::Lost {
            self.lost(container, created.refused, at);
        }
        if let Some(adjusted) = created.adjusted {
            self.metrics.fix(Action::AdjustContainer);
            info!(
                container = container.id.short(),
                namespace = %container.pod.namespace,
                pod = %container.pod.name,
                name = %container.name,
                mounts = adjusted.mounts,
                cgroup_namespace = adjusted.cgroup_namespace,
                "prepared the container for a cgroup of its own"
            );
        }
        if let Some(ungranted) = &created.ungranted {
            self.say_ungranted(container, ungranted, at);
        }
    }

    /// Looks at a container whose cgroup and process exist, makes it right, and says so.
    pub fn look(&self, container: &Container, way: Way<'_>) -> Look {
        let look = self.look_first(container, way);
        self.say(&look);
        look
    }

    /// The same, but for the lines in the log: for a source that waits for the answer.
    /// [`Containers::say`] is owed.
    pub fn look_first(&self, container: &Container, way: Way<'_>) -> Look {
        let Decision { looked, refusal, init } = self.decider.look(container, way);
        let (is_news, is_new_loss) = self.record_looked(&looked, SystemTime::now());
        Look { looked, refusal: refusal.filter(|_| is_new_loss), init, is_news }
    }

    /// Records, counts and logs a look that the launched plugin took at that time. What it did while no
    /// agent was there may be of containers that ended since: nothing is kept of them.
    pub fn take_looked(&self, looked: &Looked, at: SystemTime) {
        let (is_news, _) = self.record_looked(looked, at);
        self.say_looked(looked, is_news, at);
        let record = &looked.record;
        if let (Some(path), Some(inode)) = (&record.cgroup, record.inode)
            && !self.delegator().is_there(path, inode)
        {
            self.store.forget(&record.id);
        }
    }

    /// Records and counts a look. Returns whether its outcome is news, and whether a loss of isolation
    /// is.
    fn record_looked(&self, looked: &Looked, at: SystemTime) -> (bool, bool) {
        let record = &looked.record;
        if looked.unanswered {
            self.metrics.guard_unanswered(GuardCall::StartContainer);
        }
        let before = self.store.get(&record.id);
        let is_news = before.as_ref().is_none_or(|before| before.outcome != record.outcome);
        self.count(looked, is_news);
        if record.outcome == Outcome::Skipped(Skip::Gone) {
            self.store.forget(&record.id);
        } else {
            self.store.put(record.clone());
        }
        // The same container found lost again by a resync is one loss, not two.
        let known =
            record.source == Source::Resync && before.is_some_and(|before| before.isolation == Verdict::Lost);
        let is_new_loss = record.isolation == Verdict::Lost && !known;
        if is_new_loss {
            let Record { id, name, pod, .. } = record.clone();
            self.lost(&Named { id, name, pod }, looked.refused, at);
        }
        (is_news, is_new_loss)
    }

    /// Whether a container was found right before and still is: then there is nothing to look at.
    #[must_use]
    pub fn is_still_right(&self, id: &CriId) -> bool {
        let Some(record) = self.store.get(id) else { return false };
        // The runtime did not say in time what the pod asked for; it may have by now.
        let says_nothing = |facts: &PodFacts| facts.request.is_none();
        if record.isolation == Verdict::Unknown
            && !self.pods().get(&record.sandbox_id).as_ref().is_some_and(says_nothing)
        {
            return false;
        }
        match (&record.outcome, &record.cgroup, record.inode, record.owner) {
            (Outcome::Delegated | Outcome::AlreadyRight, Some(path), Some(inode), Some(owner)) => {
                self.delegator().is_still_right(path, inode, owner)
            }
            // What is left alone stays so: its specification does not change, and what the container
            // makes of its namespaces and mounts gains it nothing.
            (Outcome::Skipped(Skip::HostUserNamespace | Skip::ReadOnlyMount), Some(path), Some(inode), _) => {
                self.delegator().is_there(path, inode)
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
        self.decider.forget_pod(sandbox_id);
    }

    /// Forgets containers whose cgroup is gone: their end was missed. `listed` says of those whose
    /// cgroup nobody saw whether the runtime still has them.
    pub fn forget_gone(&self, listed: &dyn Fn(&CriId) -> bool) {
        for record in self.store.list() {
            let there = match (&record.cgroup, record.inode) {
                (Some(path), Some(inode)) => self.delegator().is_there(path, inode),
                _ => listed(&record.id),
            };
            if !there {
                self.store.forget(&record.id);
            }
        }
    }

    /// Takes note of what systemd said of a unit, ahead of the moment it is needed.
    pub fn note_scope(&self, unit: &str, scope: Scope) {
        self.decider.note_scope(unit, scope);
    }

    /// systemd forgot a unit: so does this, unless the cgroup is still there. While it reloads its
    /// configuration, systemd forgets every unit and reads all of them anew (systemd#376).
    pub fn unit_removed(&self, unit: &str) {
        self.decider.forget_scope(unit);
        let Some(record) = container_of_scope(unit).and_then(|id| self.store.get(&id)) else { return };
        match (&record.cgroup, record.inode) {
            (Some(path), Some(inode)) if !self.delegator().is_there(path, inode) => {
                self.store.forget(&record.id);
            }
            // Where no cgroup was seen, the runtime says when it ends.
            _ => {}
        }
    }

    /// A container that would run as the host's root, or does.
    fn lost(&self, container: &Named, refused: bool, at: SystemTime) {
        self.metrics.refused(MetricRefusal::LOST_ISOLATION);
        let (policy, short) = if refused {
            ("refuse", "not started: it would run as the host's root, its user namespace is lost")
        } else {
            ("report", "runs as the host's root: its user namespace is lost")
        };
        self.note(container, EventKind::Refused, MetricRefusal::LOST_ISOLATION.name(), short.to_owned(), at);
        warn!(
            container = container.id.short(),
            namespace = %container.pod.namespace,
            pod = %container.pod.name,
            name = %container.name,
            policy,
            "the container would run as the host's root although its pod asked for a user namespace"
        );
    }

    fn count(&self, looked: &Looked, is_news: bool) {
        for change in &looked.changes {
            self.metrics.fix(change.action);
        }
        let source = looked.record.source;
        match &looked.record.outcome {
            // Over NRI the start waits for this: its first instruction finds it done.
            Outcome::Delegated if source == Source::Nri => self.metrics.fix_delay(Duration::ZERO),
            Outcome::Delegated => self.metrics.fix_delay(looked.after),
            Outcome::AlreadyRight => self.metrics.already_right(),
            // A container, not a look: a resync finds the same ones every time.
            Outcome::Skipped(skip) if is_news => self.metrics.refused(*skip),
            Outcome::Skipped(_) | Outcome::Failed(_) => {}
        }
        if let Some(action) = looked.failed {
            // An attempt that failed is an attempt.
            self.metrics.fix(action);
            self.metrics.fix_failed(action);
        }
        if source == Source::Nri {
            self.metrics.handled(looked.took);
        }
    }
}
