//! The end of every trigger's path: a container is inspected, recorded, counted and logged in the same way
//! for NRI, systemd, CRI and the resync.

mod log;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tracing::{info, warn};

use crate::decide::{Decider, Decision, Trigger};
use crate::pod_answers::{PodAnswer, PodAnswers};
use usernsd_domain::container::{Container, CriId};
use usernsd_domain::delegation::{KnownLimits, Skip};
use usernsd_domain::guard::Verdict;
use usernsd_domain::isolation::{Conclusion, Stage};
use usernsd_domain::lock::lock;
use usernsd_domain::pairing::Mismatch;
use usernsd_domain::recent_events::EventKind;
use usernsd_domain::record::{CgroupState, Outcome, Record, Source};
use usernsd_domain::repair::{KeepReason, Missed};
use usernsd_domain::report::{ContainerNames, Created, Inspected};
use usernsd_domain::unit::container_of_scope;
use usernsd_inspect::delegate::Delegator;
use usernsd_report::metrics::{Action, GuardCall, Metrics, RefusalReason};
use usernsd_report::store::Store;

/// The containers of this node.
#[derive(Debug)]
pub struct Containers {
    decider: Decider,
    store: Store,
    metrics: Metrics,
    attention: Notify,
    recording: Mutex<()>,
    /// The mismatch that was logged last, so that each is logged once.
    mismatch: Mutex<Option<Mismatch>>,
}

/// Why [`Containers::end`] did not end a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotEnded {
    /// The container has what it should have, or has ended by itself.
    NotSo,
    /// The rules require that the container is kept.
    ByRule(KeepReason),
}

// === impl Containers ===

impl Containers {
    /// Makes the records, counts and log lines of what `decider` decides.
    #[must_use]
    pub fn new(decider: Decider, store: Store, metrics: Metrics) -> Containers {
        Containers {
            decider,
            store,
            metrics,
            attention: Notify::new(),
            recording: Mutex::new(()),
            mismatch: Mutex::new(None),
        }
    }

    /// The records of all containers.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The agent's counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The decisions for a runtime that waits for the answer. Once it has the answer, the caller passes the decision to
    /// [`Containers::record_created`] or [`Containers::record`].
    #[must_use]
    pub fn decider(&self) -> &Decider {
        &self.decider
    }

    /// The remembered answers about pods.
    #[must_use]
    pub fn pods(&self) -> &PodAnswers {
        self.decider.pods()
    }

    fn delegator(&self) -> &Delegator {
        self.decider.delegator()
    }

    /// Counts and logs a decision on a container that is about to be created, made here or by the
    /// launched plugin.
    pub fn record_created(&self, created: &Created, at: SystemTime) {
        let container = &created.container;
        if created.unanswered {
            self.metrics.guard_unanswered(GuardCall::CreateContainer);
        }
        if created.isolation == Verdict::Lost {
            self.lost(container, created.refused, Stage::Specified, at);
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
            self.log_ungranted(container, ungranted, at);
        }
    }

    /// Inspects a container whose cgroup and process exist, delegates its cgroup, and reports the result.
    pub fn inspect(&self, container: &Container, trigger: Trigger) {
        self.finish(vec![self.decider.inspect(container, trigger)]);
    }

    /// Inspects several containers as [`Containers::inspect`] does. They are reported together, after the last inspection;
    /// until then each holds some file descriptors.
    pub fn inspect_all(&self, containers: &[(Container, Stage)], source: Source, since: Instant) {
        let decide = |(container, stage): &(Container, Stage)| {
            let trigger = Trigger { source, stage: *stage, since, patience: Duration::ZERO };
            self.decider.inspect(container, trigger).closed()
        };
        self.finish(containers.iter().map(decide).collect());
    }

    /// Completes the records of decisions for which no runtime waits, and reports them.
    fn finish(&self, mut decisions: Vec<Decision>) {
        Decision::complete_all(&mut decisions);
        let at = SystemTime::now();
        for Decision { inspected, .. } in &decisions {
            self.record(inspected, at);
        }
    }

    /// Records, counts and logs an inspection; one for which a runtime waits, after the runtime has received its answer
    /// or given up waiting for it.
    pub fn record(&self, inspected: &Inspected, at: SystemTime) {
        let is_new = self.record_inspected(inspected, at);
        self.log_inspected(inspected, is_new, at);
    }

    /// Records, counts and logs an inspection that the launched plugin made at that time. A container that
    /// has ended since then gets no record.
    pub fn take_inspected(&self, inspected: &Inspected, at: SystemTime) {
        self.record(inspected, at);
        let record = &inspected.record;
        if let (Some(path), Some(inode)) = (&record.cgroup, record.inode)
            && !self.delegator().is_there(path, inode)
        {
            self.store.forget(&record.id);
        }
    }

    /// Records and counts an inspection. Returns whether its outcome is new.
    fn record_inspected(&self, inspected: &Inspected, at: SystemTime) -> bool {
        let record = &inspected.record;
        if inspected.unanswered {
            self.metrics.guard_unanswered(GuardCall::StartContainer);
        }
        // Nothing below waits. The lock keeps the counts right if several threads record at once.
        let _one_at_a_time = lock(&self.recording);
        let before = self.store.get(&record.id);
        if is_superseded(before.as_deref(), record) {
            return false;
        }
        let is_new = before.as_ref().is_none_or(|before| before.outcome != record.outcome);
        // Up to here only the runtime has worked on the container.
        let is_first =
            before.as_ref().is_none_or(|before| before.outcome == Outcome::Skipped(Skip::BeingMade));
        self.count(inspected, is_new, is_first);
        let container = || {
            let Record { id, name, pod, .. } = record.clone();
            ContainerNames { id, name, pod }
        };
        // A loss that is found again is the same one, and an ended container has lost nothing. Over NRI it
        // is another attempt to start the container.
        let was_lost = before.as_ref().is_some_and(|before| before.isolation == Verdict::Lost);
        let is_gone = record.outcome == Outcome::Skipped(Skip::Gone);
        // A runtime that dropped the plugin before it received the refusal has started the container.
        let went_on = record.source == Source::Nri && !inspected.refused && self.decider.refuses();
        let stage = if went_on { Stage::Running } else { record.stage };
        let is_new_loss =
            record.isolation == Verdict::Lost && (record.source == Source::Nri || !(was_lost || is_gone));
        if is_new_loss {
            self.lost(&container(), inspected.refused, stage, at);
        }
        let was_missed = before.as_ref().is_some_and(|before| before.state() == CgroupState::Missed);
        if record.state() == CgroupState::Missed && !was_missed {
            self.missed(&container(), at);
        }
        if is_gone {
            self.store.forget(&record.id);
            return is_new;
        }
        let mut record = record.clone();
        if is_new_loss {
            record.stage = stage;
        }
        if let Some(before) = &before {
            let known = before.known().and(record.known());
            record.stage = known.stage;
            if let Conclusion::Settled(verdict) = known.finding {
                record.isolation = verdict;
            }
        }
        let needs_attention = needs_attention(&record);
        self.store.put(record);
        if needs_attention {
            self.attention.notify_one();
        }
        is_new
    }

    /// Logs a mismatch once: the runtime that calls over NRI is not the one that answers over CRI.
    pub fn log_mismatch(&self) {
        let found = self.store.mismatch();
        let mut logged = lock(&self.mismatch);
        if let Some(Mismatch { what, remedy }) = found.as_ref().filter(|_| *logged != found) {
            warn!(%what, %remedy, "CRI and NRI lead to different runtimes");
        }
        *logged = found;
    }

    /// Notified when a container must be inspected again, or has started without what its pod asked for.
    #[must_use]
    pub fn attention(&self) -> &Notify {
        &self.attention
    }

    /// The containers that are being created.
    #[must_use]
    pub fn being_made(&self) -> Vec<CriId> {
        let records = self.store.list();
        let made = records.iter().filter(|record| record.outcome == Outcome::Skipped(Skip::BeingMade));
        made.map(|record| record.id.clone()).collect()
    }

    /// The running containers that started without what their pod asked for: those without their user
    /// namespace first.
    #[must_use]
    pub fn without(&self) -> Vec<(Missed, Arc<Record>)> {
        let mut found: Vec<_> = self
            .store
            .list()
            .into_iter()
            .filter_map(|record| Some((missed(&record)?, record)))
            // A container that the guard has just refused is not running.
            .filter(|(missed, record)| record.stage == Stage::Running || *missed == Missed::WritableCgroup)
            .collect();
        found.sort_by_key(|(missed, _)| *missed);
        found
    }

    /// Ends a container that started without what it should have, if `may_end` agrees once the container's
    /// age is known. Inspects it again first. Blocks.
    ///
    /// # Errors
    /// The container has what it should have by now, or must be kept.
    pub fn end(
        &self,
        container: &Container,
        what: Missed,
        may_end: impl FnOnce(Option<Duration>) -> Result<(), KeepReason>,
    ) -> Result<(), NotEnded> {
        let trigger = Trigger {
            source: Source::Resync,
            stage: Stage::Running,
            since: Instant::now(),
            patience: Duration::ZERO,
        };
        let Decision { inspected, init, .. } = self.decider.inspect(container, trigger);
        if missed(&inspected.record) != Some(what) {
            return Err(NotEnded::NotSo);
        }
        // The pidfd is proven to refer to a process in the container's cgroup, so no other process can be
        // killed.
        let Some(init) = &init else { return Err(NotEnded::NotSo) };
        may_end(self.delegator().age(init)).map_err(NotEnded::ByRule)?;
        self.metrics.fix(Action::EndContainer);
        if init.kill().is_err() {
            self.metrics.fix_failed(Action::EndContainer);
            return Err(NotEnded::NotSo);
        }
        let sentence = match what {
            Missed::UserNamespace => "it ran as the host's root although its pod asked for a user namespace",
            Missed::WritableCgroup => "it was created without the writable cgroup that its pod asked for",
        };
        let sentence = format!("ended, so that the kubelet recreates it: {sentence}");
        let Record { id, name, pod, .. } = inspected.record;
        let named = ContainerNames { id, name, pod };
        self.note(&named, EventKind::Fixed, Action::EndContainer.name(), sentence, SystemTime::now());
        warn!(
            container = container.id.short(),
            namespace = %container.pod.namespace,
            pod = %container.pod.name,
            name = %container.name,
            pid = init.pid(),
            missed = what.name(),
            "ended the container, so that the kubelet recreates it"
        );
        Ok(())
    }

    /// Whether a container was right at the last inspection and still is, so that another inspection is not
    /// needed.
    #[must_use]
    pub fn is_still_right(&self, id: &CriId) -> bool {
        let Some(record) = self.store.get(id) else { return false };
        // A container with lost isolation is always inspected again: a later observation may refute the loss.
        if record.isolation == Verdict::Lost || !self.is_settled(&record) {
            return false;
        }
        // The runtime did not report the pod's request in time, but may have done so by now.
        let has_no_request = |facts: &PodAnswer| facts.request.is_none();
        if record.isolation == Verdict::Unknown
            && !self.pods().get(&record.sandbox_id).as_ref().is_some_and(has_no_request)
        {
            return false;
        }
        match (&record.outcome, &record.cgroup, record.inode, record.owner) {
            (Outcome::Delegated | Outcome::AlreadyRight, Some(path), Some(inode), Some(owner)) => {
                self.delegator().is_still_right(path, inode, owner)
            }
            // These outcomes are final: the specification does not change, and a container gains nothing by
            // changing its own namespaces and mounts. One that owns its cgroup must still be limited.
            (
                Outcome::Skipped(Skip::HostUserNamespace | Skip::ReadOnlyMount),
                Some(path),
                Some(inode),
                owner,
            ) => match owner {
                Some(owner) if record.limits != KnownLimits::Unread => {
                    self.delegator().is_still_right(path, inode, owner)
                }
                _ => self.delegator().is_there(path, inode),
            },
            _ => false,
        }
    }

    /// Whether another inspection would find nothing new, as long as the container has not changed.
    #[must_use]
    pub fn is_settled(&self, record: &Record) -> bool {
        match &record.outcome {
            Outcome::Failed(_)
            | Outcome::Skipped(Skip::Unproven | Skip::ObserveOnly | Skip::BeingMade | Skip::Gone) => false,
            // Only the pod's annotations show whether it asked for another mount.
            Outcome::Skipped(Skip::ReadOnlyMount | Skip::NoCgroupMount) => {
                self.pods().has_annotations(&record.sandbox_id)
            }
            _ => record.isolation != Verdict::Lost,
        }
    }

    /// Forgets a container that ended.
    pub fn forget(&self, id: &CriId) {
        self.store.forget(id);
    }

    /// Forgets containers whose cgroup no longer exists, because their end was missed. For those without a
    /// known cgroup, `listed` returns whether the runtime still has them.
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

    /// Forgets the container of a unit that systemd has removed, unless the cgroup still exists. While it
    /// reloads its configuration, systemd removes every unit and reads all of them again (systemd#376).
    pub fn unit_removed(&self, unit: &str) {
        let Some(record) = container_of_scope(unit).and_then(|id| self.store.get(&id)) else { return };
        match (&record.cgroup, record.inode) {
            (Some(path), Some(inode)) if !self.delegator().is_there(path, inode) => {
                self.store.forget(&record.id);
            }
            // The end of a container without a known cgroup is reported by the runtime.
            _ => {}
        }
    }

    /// Reports a container that runs as root on the host although its pod asked for a user namespace, or
    /// that was refused for that reason.
    fn lost(&self, container: &ContainerNames, refused: bool, stage: Stage, at: SystemTime) {
        self.metrics.refused(RefusalReason::LOST_ISOLATION);
        let policy = self.decider.policies().guard.name();
        let short = if refused {
            "not started: it would run as the host's root, its user namespace is lost"
        } else if stage == Stage::Running && self.decider.refuses() {
            self.metrics.missed(Missed::UserNamespace);
            "runs as the host's root: it started while nothing could refuse it"
        } else {
            "runs as the host's root: its user namespace is lost"
        };
        self.note(container, EventKind::Refused, RefusalReason::LOST_ISOLATION.name(), short.to_owned(), at);
        warn!(
            container = container.id.short(),
            namespace = %container.pod.namespace,
            pod = %container.pod.name,
            name = %container.name,
            policy,
            runs = stage == Stage::Running,
            "the container would run as the host's root although its pod asked for a user namespace"
        );
    }

    /// Reports a container that was created without the writable cgroup that its pod asked for.
    fn missed(&self, container: &ContainerNames, at: SystemTime) {
        self.metrics.missed(Missed::WritableCgroup);
        let short =
            "created without the writable cgroup that its pod asked for: nothing was in its start path";
        self.note(container, EventKind::LeftAlone, CgroupState::Missed.name(), short.to_owned(), at);
        warn!(
            container = container.id.short(),
            namespace = %container.pod.namespace,
            pod = %container.pod.name,
            name = %container.name,
            "the container was created without the writable cgroup that its pod asked for, because nothing was in its \
             start path; delete the pod, or set optIn.missed to restart"
        );
    }

    fn count(&self, inspected: &Inspected, is_new: bool, is_first: bool) {
        for change in &inspected.changes {
            self.metrics.fix(change.action);
        }
        let source = inspected.record.source;
        match &inspected.record.outcome {
            // Over NRI the runtime waits for the delegation, so it precedes the container's first
            // instruction.
            Outcome::Delegated if source == Source::Nri => self.metrics.fix_delay(Duration::ZERO),
            Outcome::Delegated => self.metrics.fix_delay(inspected.after),
            Outcome::AlreadyRight if is_first => self.metrics.already_right(),
            Outcome::AlreadyRight => {}
            // Containers are counted and not inspections, because each resync finds the same ones.
            Outcome::Skipped(Skip::BeingMade) => {}
            Outcome::Skipped(skip) if is_new => self.metrics.refused(*skip),
            Outcome::Skipped(_) | Outcome::Failed(_) => {}
        }
        if let Some(action) = inspected.failed {
            // A failed attempt counts as an attempt.
            self.metrics.fix(action);
            self.metrics.fix_failed(action);
        }
        if source == Source::Nri {
            self.metrics.handled(inspected.took);
        }
    }
}

/// What the container started without, if anything.
fn missed(record: &Record) -> Option<Missed> {
    if record.isolation == Verdict::Lost {
        return Some(Missed::UserNamespace);
    }
    (record.state() == CgroupState::Missed).then_some(Missed::WritableCgroup)
}

fn needs_attention(record: &Record) -> bool {
    record.outcome == Outcome::Skipped(Skip::BeingMade) || missed(record).is_some()
}

/// Whether a newer record exists already, or an inspection that came too early adds nothing to it.
fn is_superseded(before: Option<&Record>, now: &Record) -> bool {
    let is_settled = |record: &Record| record.known().finding != Conclusion::TooEarly;
    !is_settled(now) && before.is_some_and(is_settled)
}
