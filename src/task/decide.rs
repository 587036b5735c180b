//! The decisions on one container: guard and adjustment before it is created, the look at it and the
//! handing over of its cgroup once it exists.
//!
//! The same code serves the agent and the plugin that the runtime launches. It keeps no records,
//! counts nothing and logs no outcome: it returns values, which [`crate::task::containers`] records
//! in the agent and [`crate::task::launched`] sends from the plugin to the agent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::adjust::{self, AdjustRules, Adjustment};
use crate::domain::container::{Container, CriId, UserNamespaceRequest};
use crate::domain::delegation::{Limits, Rules, Skip};
use crate::domain::guard::{self, GuardPolicy, Verdict};
use crate::domain::idmap::{HostId, IdMap};
use crate::domain::record::{Outcome, Record, Source, UserNamespace, UserNamespaceMode};
use crate::domain::report::{Adjusted, Created, Looked, Named, NotGranted};
use crate::domain::unit::Scope;
use crate::edge::proc::Process;
use crate::task::ask::Asker;
use crate::task::delegate::{Delegator, Handled, MountSource, Target};
use crate::task::systemd_user::SystemdUser;

/// The pause between two looks at a process that is on its way into its namespaces.
const RECHECK: Duration = Duration::from_micros(300);
/// Pods of which something is noted at most: several times what a kubelet runs on a node. One more
/// replaces any other; a pod that is no longer noted is asked for again.
const NOTED_PODS: usize = 4096;

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

/// What the runtime said of pods, by their sandbox's ID. Clones are the same notes.
#[derive(Debug, Clone, Default)]
pub struct Pods(Arc<Mutex<HashMap<String, PodFacts>>>);

/// Makes the decisions.
#[derive(Debug)]
pub struct Decider {
    delegator: Delegator,
    policies: Policies,
    pods: Pods,
    scopes: Mutex<HashMap<String, Scope>>,
    ask_runtime: Asker<CriId, Option<PodFacts>>,
    ask_systemd: Asker<String, Option<Scope>>,
    systemd_user: Option<Arc<SystemdUser>>,
}

/// The decision on a container that is about to be created.
#[derive(Debug)]
pub struct Creation {
    /// The decision, for records.
    pub created: Created,
    /// It must not be created.
    pub refusal: Option<Refusal>,
    /// The changes to it; none for one that is refused.
    pub adjustment: Option<Adjustment>,
}

/// The decision on a container that exists, and what was done for it.
#[derive(Debug)]
pub struct Decision {
    /// What was seen and done, for records.
    pub looked: Looked,
    /// It must not run.
    pub refusal: Option<Refusal>,
    /// The init process, held: proven to be in the container's cgroup.
    pub init: Option<Process>,
}

/// A container that must not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The sentence for its creator.
    pub sentence: String,
}

/// The lock's content, whatever happened to another thread that held it: every value in these maps
/// is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Pods ===

impl Pods {
    /// Takes note of what the runtime said of a pod.
    pub fn note(&self, sandbox_id: &str, facts: PodFacts) {
        let mut pods = lock(&self.0);
        if pods.len() >= NOTED_PODS
            && !pods.contains_key(sandbox_id)
            && let Some(any) = pods.keys().next().cloned()
        {
            pods.remove(&any);
        }
        pods.insert(sandbox_id.to_owned(), facts);
    }

    /// What is noted of a pod.
    #[must_use]
    pub fn get(&self, sandbox_id: &str) -> Option<PodFacts> {
        lock(&self.0).get(sandbox_id).cloned()
    }

    /// Whether anything is noted of a pod.
    #[must_use]
    pub fn knows(&self, sandbox_id: &str) -> bool {
        lock(&self.0).contains_key(sandbox_id)
    }

    /// The sandboxes of the pods of which something is noted.
    #[must_use]
    pub fn noted(&self) -> Vec<String> {
        lock(&self.0).keys().cloned().collect()
    }

    /// Forgets a pod, and returns what was noted of it.
    pub fn forget(&self, sandbox_id: &str) -> Option<PodFacts> {
        lock(&self.0).remove(sandbox_id)
    }
}

// === impl Decider ===

impl Decider {
    /// Joins the rules with what they act on.
    #[must_use]
    pub fn new(
        delegator: Delegator,
        policies: Policies,
        ask_runtime: Asker<CriId, Option<PodFacts>>,
        ask_systemd: Asker<String, Option<Scope>>,
        systemd_user: Option<Arc<SystemdUser>>,
    ) -> Decider {
        Decider {
            delegator,
            policies,
            pods: Pods::default(),
            scopes: Mutex::default(),
            ask_runtime,
            ask_systemd,
            systemd_user,
        }
    }

    /// Replaces the rules, for a configuration that changed.
    pub fn set_rules(&mut self, rules: Rules, limits: Limits, policies: Policies) {
        self.delegator.set_rules(rules, limits);
        self.policies = policies;
    }

    /// What the rules allow.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What changes the host.
    #[must_use]
    pub fn delegator(&self) -> &Delegator {
        &self.delegator
    }

    /// What is noted of pods.
    #[must_use]
    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Decides on a container that is about to be created. Blocks shortly where the runtime has to
    /// be asked about its pod.
    #[must_use]
    pub fn before_create(&self, container: &Container, pod_has_user_namespace: Option<bool>) -> Creation {
        let (request, unanswered) = self.request(container, pod_has_user_namespace);
        let isolation = guard::judge(request, container.user_namespace);
        let refusal = self.refusal(container, isolation);
        let created = Created {
            container: Named {
                id: container.id.clone(),
                name: container.name.clone(),
                pod: container.pod.clone(),
            },
            isolation,
            refused: refusal.is_some(),
            unanswered,
            adjusted: None,
            ungranted: None,
        };
        let mut creation = Creation { created, refusal, adjustment: None };
        if creation.refusal.is_some() {
            return creation;
        }
        match adjust::plan(container, &self.policies.adjust, self.systemd_owner(container)) {
            Ok(Some(mut adjustment)) => {
                self.make_known(container, &mut adjustment);
                creation.created.adjusted = Some(Adjusted {
                    mounts: adjustment.mounts.len(),
                    cgroup_namespace: adjustment.add_cgroup_namespace,
                });
                creation.adjustment = Some(adjustment);
            }
            Ok(None) => {}
            Err(ungranted) => {
                let reason = ungranted.name().to_owned();
                creation.created.ungranted = Some(NotGranted { reason, sentence: ungranted.to_string() });
            }
        }
        creation
    }

    /// Looks at a container whose cgroup and process exist, and makes it right.
    #[must_use]
    pub fn look(&self, container: &Container, way: Way<'_>) -> Decision {
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
        let (request, unanswered) = match way.source {
            Source::Nri => self.request_at_start(container),
            _ => (self.noted_request(container), false),
        };
        // One that it made itself is not what its pod asked for.
        let is_hosts = |namespace: UserNamespace| namespace.is_hosts || !container.user_namespace;
        let in_hosts = handled.seen.user_namespace.map(is_hosts);
        let isolation = guard::judge(request, in_hosts.map_or(container.user_namespace, |host| !host));
        let mode = UserNamespaceMode::of(request, annotated_request(container).is_some(), in_hosts);
        let after = self.waited(&handled, way);
        let refusal = self.refusal(container, isolation);
        let failed = matches!(handled.outcome, Outcome::Failed(_)).then(|| handled.failed_action());
        let record = record(container, &handled, way.source, isolation, mode);
        let Handled { detail, changes, init, .. } = handled;
        let refused = refusal.is_some();
        let took = way.since.elapsed();
        let looked = Looked { record, changes, failed, detail, refused, unanswered, after, took };
        Decision { looked, refusal, init }
    }

    /// Forgets a pod that ended.
    pub fn forget_pod(&self, sandbox_id: &str) {
        let facts = self.pods.forget(sandbox_id);
        if let (Some(systemd), Some(root)) = (&self.systemd_user, facts.and_then(|facts| facts.root)) {
            systemd.forget(root);
        }
    }

    /// Takes note of what systemd said of a unit, ahead of the moment it is needed.
    pub fn note_scope(&self, unit: &str, scope: Scope) {
        lock(&self.scopes).insert(unit.to_owned(), scope);
    }

    /// Forgets what systemd said of a unit, unless its cgroup is still there.
    pub fn forget_scope(&self, unit: &str) {
        lock(&self.scopes).retain(|name, scope| {
            name != unit
                || scope.control_group_id.is_some_and(|id| self.delegator.is_there(&scope.control_group, id))
        });
    }

    /// systemd's word on a unit: the noted one, which is used once, else asked for now.
    fn scope(&self, unit: &str) -> Option<Scope> {
        let noted = lock(&self.scopes).remove(unit);
        noted.or_else(|| self.ask_systemd.ask(unit.to_owned()).flatten())
    }

    /// What the pod asked for, and whether the runtime was asked in vain. Only a container without a
    /// user namespace makes this worth a question to the runtime.
    fn request(
        &self,
        container: &Container,
        pod_has_user_namespace: Option<bool>,
    ) -> (Option<UserNamespaceRequest>, bool) {
        if container.user_namespace {
            return (Some(UserNamespaceRequest::Own), false);
        }
        if pod_has_user_namespace == Some(true) {
            // Only this message says so; the look at the start has to know it too.
            if !self.pods.knows(&container.sandbox_id) {
                let facts = PodFacts { request: Some(UserNamespaceRequest::Own), root: None };
                self.pods.note(&container.sandbox_id, facts);
            }
            return (Some(UserNamespaceRequest::Own), false);
        }
        let facts = self.pod(&container.sandbox_id);
        let is_said = facts.is_some();
        let request = facts.and_then(|facts| facts.request).or_else(|| annotated_request(container));
        (request, request.is_none() && !is_said)
    }

    /// What the pod asked for, at the last moment at which the container can be kept from running:
    /// what is noted by now, else the runtime is asked once more. With it, whether that was in vain.
    fn request_at_start(&self, container: &Container) -> (Option<UserNamespaceRequest>, bool) {
        let noted = self.noted_request(container);
        // A runtime that does not say what the pod asked for will not say it now.
        if noted.is_some() || self.pods.knows(&container.sandbox_id) {
            return (noted, false);
        }
        let id = CriId::parse(&container.sandbox_id).ok();
        let facts = id.and_then(|id| self.ask_runtime.insist(id).flatten());
        let unanswered = facts.is_none();
        (facts.and_then(|facts| facts.request), unanswered)
    }

    /// What the runtime says of a pod. Whoever answers takes note of it, for it cannot change: an
    /// answer that comes too late for this question is there for the next.
    fn pod(&self, sandbox_id: &str) -> Option<PodFacts> {
        let noted = self.pods.get(sandbox_id);
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
        let root = self.pods.get(&container.sandbox_id).and_then(|facts| facts.root);
        if root.is_none_or(|root| !systemd.make_known(root)) {
            adjustment.annotations.remove(adjust::SYSTEMD_USER_ANNOTATION);
        }
    }

    /// What the pod asked for, as far as it is known without a question.
    fn noted_request(&self, container: &Container) -> Option<UserNamespaceRequest> {
        if container.user_namespace {
            return Some(UserNamespaceRequest::Own);
        }
        let noted = self.pods.get(&container.sandbox_id).and_then(|facts| facts.request);
        noted.or_else(|| annotated_request(container))
    }

    fn refusal(&self, container: &Container, isolation: Verdict) -> Option<Refusal> {
        if isolation != Verdict::Lost || self.policies.guard != GuardPolicy::Refuse {
            return None;
        }
        let sentence = guard::refusal(&container.pod.namespace, &container.pod.name, &container.name);
        Some(Refusal { sentence })
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
}

/// Ends a container that was refused at its start, where the runtime would start it all the same: CRI-O
/// logs the error and goes on, so its process, which still waits in the OCI runtime, must not live.
/// Returns whether it was ended.
pub fn keep_from_running(runtime: &str, init: Option<&Process>) -> bool {
    runtime == "cri-o" && init.is_some_and(|init| init.kill().is_ok())
}

/// What is to be kept of the container.
fn record(
    container: &Container,
    handled: &Handled,
    source: Source,
    isolation: Verdict,
    mode: UserNamespaceMode,
) -> Record {
    let seen = &handled.seen;
    Record {
        id: container.id.clone(),
        sandbox_id: container.sandbox_id.clone(),
        name: container.name.clone(),
        pod: container.pod.clone(),
        pid: seen.pid.or(container.pid),
        uid_map: seen.uid_map.clone(),
        gid_map: seen.gid_map.clone(),
        user_namespace: seen.user_namespace,
        mode,
        mount: seen.mount,
        cgroup: seen.cgroup.clone(),
        inode: seen.inode,
        owner: seen.owner,
        limits: seen.limits,
        outcome: handled.outcome.clone(),
        source,
        isolation,
    }
}

/// What the pod asked for by CRI-O's annotation.
fn annotated_request(container: &Container) -> Option<UserNamespaceRequest> {
    ["io.kubernetes.cri-o.userns-mode", "userns-mode.crio.io"]
        .iter()
        .find_map(|key| guard::request_of_annotation(container.annotations.get(*key)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_pods_are_bounded() {
        let (pods, facts) = (Pods::default(), PodFacts { request: None, root: None });
        for number in 0..NOTED_PODS + 10 {
            pods.note(&number.to_string(), facts.clone());
        }
        assert_eq!(pods.noted().len(), NOTED_PODS);
        let last = (NOTED_PODS + 9).to_string();
        assert!(pods.knows(&last));
        // One that is there already replaces no other.
        pods.note(&last, PodFacts { request: Some(UserNamespaceRequest::Own), root: None });
        assert_eq!(pods.noted().len(), NOTED_PODS);
        assert_eq!(pods.forget(&last).unwrap().request, Some(UserNamespaceRequest::Own));
        assert!(!pods.knows(&last));
    }
}
