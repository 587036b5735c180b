//! The decisions on one container: guard and adjustment before it is created, inspection and delegation once
//! its cgroup exists.
//!
//! Agent and launched plugin use the same code. It keeps no records, counts nothing and logs no outcome: it
//! returns values, which [`crate::containers`] records in the agent and [`crate::launched`] sends from the
//! plugin to the agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pod_answers::{PodAnswer, PodAnswers};
use crate::systemd_user::SystemdUser;
use usernsd_domain::adjust::{self, AdjustRules, Adjustment};
use usernsd_domain::container::{Container, CriId, UserNamespaceRequest};
use usernsd_domain::delegation::{Limits, Rules};
use usernsd_domain::guard::{self, GuardPolicy, Verdict};
use usernsd_domain::idmap::HostId;
use usernsd_domain::isolation::Stage;
use usernsd_domain::record::{Outcome, Source};
use usernsd_domain::repair;
use usernsd_domain::report::{Adjusted, ContainerNames, Created, Inspected, NotGranted};
use usernsd_domain::unit::Scope;
use usernsd_inspect::ask::Asker;
use usernsd_inspect::delegate::{Delegator, Incomplete, Inspection, UnitSource, complete};
use usernsd_inspect::inspector::{Candidate, Inspector};
use usernsd_linux::cgroupfs::Cgroup;
use usernsd_linux::proc::Process;

/// How long a question to the runtime may delay a container's creation. The runtime waits 2 s for the
/// plugin by default.
pub const RUNTIME_PATIENCE: Duration = Duration::from_millis(800);
/// How long a runtime that did not answer in time is not asked again. It is short, because meanwhile the
/// guard lets containers be created; at their start it asks in any case.
pub const RUNTIME_REST: Duration = Duration::from_secs(1);
/// How long a question to systemd may delay a container's start: forty times the usual duration.
pub const SYSTEMD_PATIENCE: Duration = Duration::from_millis(20);
/// How long a systemd that did not answer in time is not asked again. The proof holds without its answer.
pub const SYSTEMD_REST: Duration = Duration::from_secs(10);
/// The pause between two inspections of a process that has not entered its namespaces yet.
const RECHECK: Duration = Duration::from_micros(300);
/// The configured rules, for the tasks.
#[derive(Debug, Clone)]
pub struct Policies {
    /// Opt-in and privileged containers.
    pub adjust: AdjustRules,
    /// The treatment of containers with lost isolation.
    pub guard: GuardPolicy,
}

/// The cause of an inspection, with the facts that its source provides.
#[derive(Debug, Clone, Copy)]
pub struct Trigger {
    pub source: Source,
    /// How far the container has come, at least.
    pub stage: Stage,
    /// Time of the event, from the source if it provides it; otherwise the time at which the message arrived.
    pub since: Instant,
    /// How long to wait for a container that is being created; zero if it is inspected again anyway.
    pub patience: Duration,
}

/// Makes the decisions.
#[derive(Debug)]
pub struct Decider {
    inspector: Inspector,
    policies: Policies,
    pods: PodAnswers,
    ask_runtime: Asker<CriId, Option<PodAnswer>>,
    ask_systemd: Asker<String, Option<Scope>>,
    systemd_user: Option<Arc<SystemdUser>>,
}

/// The decision on a container that is about to be created.
#[derive(Debug)]
pub struct Creation {
    /// The decision, for records.
    pub created: Created,
    /// The reason why the container must not be created.
    pub refusal: Option<Refusal>,
    /// The changes to the container; none if it is refused.
    pub adjustment: Option<Adjustment>,
}

impl Creation {
    /// The decision for the records, and the answer for the runtime: changes, no changes, or the sentence
    /// of a refusal.
    pub fn into_answer(self) -> (Created, Result<Option<Adjustment>, String>) {
        let answer = match self.refusal {
            Some(refusal) => Err(refusal.sentence),
            None => Ok(self.adjustment),
        };
        (self.created, answer)
    }
}

/// The decision on a container that exists, and what was done for it.
#[derive(Debug)]
pub struct Decision {
    /// The inspection, for the record.
    pub inspected: Inspected,
    /// The reason why the container must not run.
    pub refusal: Option<Refusal>,
    /// The init process, held: proven to be in the container's cgroup.
    pub init: Option<Process>,
    /// Handles that are closed with this decision, after the answer.
    _cgroups: (Option<Cgroup>, Vec<Cgroup>),
}

// === impl Decision ===

impl Decision {
    /// Closes the handles of cgroups, for a decision that is kept while others are made.
    #[must_use]
    pub fn closed(self) -> Decision {
        Decision { _cgroups: (None, Vec::new()), ..self }
    }

    /// Reads what the record lacks and the decision did not need, once the runtime does not wait any more.
    pub fn complete(&mut self) {
        Decision::complete_all(std::slice::from_mut(self));
    }

    /// The same for several decisions, with one question to the observer for all of them.
    pub fn complete_all(decisions: &mut [Decision]) {
        let incomplete = decisions.iter_mut().filter_map(|Decision { inspected, init, .. }| {
            let record = &mut inspected.record;
            Some(Incomplete {
                init: init.as_ref()?,
                user_namespace: record.user_namespace.as_mut()?,
                gid_map: &mut record.gid_map,
            })
        });
        complete(incomplete.collect());
    }
}

/// A container that must not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The explanation for the kubelet and its user.
    pub sentence: String,
}

// === impl Decider ===

impl Decider {
    /// Makes decisions by these rules.
    #[must_use]
    pub fn new(
        inspector: Inspector,
        policies: Policies,
        ask_runtime: Asker<CriId, Option<PodAnswer>>,
        ask_systemd: Asker<String, Option<Scope>>,
        systemd_user: Option<Arc<SystemdUser>>,
    ) -> Decider {
        Decider { inspector, policies, pods: PodAnswers::default(), ask_runtime, ask_systemd, systemd_user }
    }

    /// Replaces the rules, for a configuration that changed.
    pub fn set_rules(&mut self, rules: Rules, limits: Limits, policies: Policies) {
        self.inspector.set_rules(rules, limits);
        self.policies = policies;
    }

    /// Whether a container that lost the isolation that its pod asked for is refused.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.policies.guard == GuardPolicy::Refuse
    }

    /// The configured rules.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The parts that change the host.
    #[must_use]
    pub fn delegator(&self) -> &Delegator {
        self.inspector.delegator()
    }

    /// The remembered answers about pods.
    #[must_use]
    pub fn pods(&self) -> &PodAnswers {
        &self.pods
    }

    /// Decides on a container that is about to be created. Blocks for a short time if the runtime has to be
    /// asked about its pod.
    #[must_use]
    pub fn before_create(&self, container: &Container, pod_has_user_namespace: Option<bool>) -> Creation {
        let (request, unanswered) = self.request(container, pod_has_user_namespace);
        let isolation = guard::judge(request, container.user_namespace);
        let refusal = self.refusal(container, isolation);
        let created = Created {
            container: ContainerNames {
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
        // On cgroup v1, runtimes give containers no cgroup namespace, and usernsd does not change their
        // mounts.
        let planned = match self.delegator().is_unified() {
            true => adjust::plan(container, &self.policies.adjust, self.systemd_owner(container)),
            false => Ok(None),
        };
        match planned {
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

    /// Inspects a container whose cgroup and process exist, and delegates its cgroup.
    #[must_use]
    pub fn inspect(&self, container: &Container, trigger: Trigger) -> Decision {
        let candidate = Candidate { container, stage: trigger.stage };
        let mut handled = loop {
            let handled = self.inspector.apply(candidate, UnitSource::Asking(&self.ask_systemd));
            if !handled.is_too_early(candidate) || trigger.since.elapsed() >= trigger.patience {
                break handled;
            }
            std::thread::sleep(RECHECK);
        };
        if trigger.source == Source::Nri {
            self.pods.note_annotations(&container.sandbox_id, &container.annotations);
        }
        let (request, unanswered) = match trigger.source {
            Source::Nri => self.request_at_start(container),
            _ => (self.noted_request(container), false),
        };
        let lacks_writable_cgroup = || self.lacks_writable_cgroup(container);
        let record = handled.record(candidate, trigger.source, request, lacks_writable_cgroup);
        let after = self.waited(&handled, trigger);
        // A running container can no longer be refused.
        let refusal = self.refusal(container, record.isolation).filter(|_| trigger.stage != Stage::Running);
        let failed = matches!(handled.outcome, Outcome::Failed(_)).then(|| handled.failed_action());
        let Inspection { detail, changes, init, own, beside, .. } = handled;
        let refused = refusal.is_some();
        let took = trigger.since.elapsed();
        let inspected = Inspected { record, changes, failed, detail, refused, unanswered, after, took };
        Decision { inspected, refusal, init, _cgroups: (own, beside) }
    }

    /// Whether the container was created without the writable cgroup that its pod asked for and may have.
    fn lacks_writable_cgroup(&self, container: &Container) -> bool {
        let mut annotations = BTreeMap::clone(&container.annotations);
        annotations.extend(self.pods.annotations(&container.sandbox_id).unwrap_or_default());
        if adjust::asks_for_writable(&annotations, &container.name).is_none() {
            return false;
        }
        let container = Container { annotations: annotations.into(), ..container.clone() };
        repair::lacks_writable_cgroup(&container, &self.policies.adjust)
    }

    /// Forgets a pod that ended.
    pub fn forget_pod(&self, sandbox_id: &str) {
        let facts = self.pods.forget(sandbox_id);
        if let (Some(systemd), Some(root)) = (&self.systemd_user, facts.and_then(|facts| facts.root)) {
            systemd.forget(root);
        }
    }

    /// The pod's request, and whether the runtime was asked and did not answer. It is asked only about a
    /// container without a user namespace.
    fn request(
        &self,
        container: &Container,
        pod_has_user_namespace: Option<bool>,
    ) -> (Option<UserNamespaceRequest>, bool) {
        if container.user_namespace {
            return (Some(UserNamespaceRequest::Own), false);
        }
        if pod_has_user_namespace == Some(true) {
            // Only this message contains the request, and the inspection at the start needs it too.
            if !self.pods.has(&container.sandbox_id) {
                let facts = PodAnswer { request: Some(UserNamespaceRequest::Own), root: None };
                self.pods.note(&container.sandbox_id, facts);
            }
            return (Some(UserNamespaceRequest::Own), false);
        }
        let facts = self.pod(&container.sandbox_id);
        let is_answered = facts.is_some();
        let request = facts
            .and_then(|facts| facts.request)
            .or_else(|| guard::annotated_request(&container.annotations));
        (request, request.is_none() && !is_answered)
    }

    /// The pod's request at the last moment at which the container can be refused: the remembered one, or
    /// the answer to one more question. Also whether that question had no answer.
    fn request_at_start(&self, container: &Container) -> (Option<UserNamespaceRequest>, bool) {
        let noted = self.noted_request(container);
        // A runtime that has not reported the pod's request will not report it now.
        if noted.is_some() || self.pods.has(&container.sandbox_id) {
            return (noted, false);
        }
        let id = CriId::parse(&container.sandbox_id).ok();
        let facts = id.and_then(|id| self.ask_runtime.insist(id).flatten());
        let unanswered = facts.is_none();
        (facts.and_then(|facts| facts.request), unanswered)
    }

    /// The runtime's answer about a pod. The answering task also stores it, because it cannot change: an
    /// answer that comes too late for this question serves the next one.
    fn pod(&self, sandbox_id: &str) -> Option<PodAnswer> {
        let noted = self.pods.get(sandbox_id);
        noted.or_else(|| self.ask_runtime.ask(CriId::parse(sandbox_id).ok()?).flatten())
    }

    /// The user to whom systemd should delegate the scope; `None` if the agent delegates it.
    fn systemd_owner(&self, container: &Container) -> Option<HostId> {
        let systemd = self.systemd_user.as_ref().filter(|systemd| systemd.works())?;
        if !container.user_namespace {
            return None;
        }
        systemd.owner(self.pod(&container.sandbox_id)?.root?)
    }

    /// Registers the owner that an adjustment names with systemd. If that fails, systemd is not asked to
    /// delegate, because a container with an unknown user would not start at all.
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

    /// The pod's request, if it is known without asking the runtime.
    fn noted_request(&self, container: &Container) -> Option<UserNamespaceRequest> {
        if container.user_namespace {
            return Some(UserNamespaceRequest::Own);
        }
        let noted = self.pods.get(&container.sandbox_id).and_then(|facts| facts.request);
        noted.or_else(|| guard::annotated_request(&container.annotations))
    }

    fn refusal(&self, container: &Container, isolation: Verdict) -> Option<Refusal> {
        if isolation != Verdict::Lost || self.policies.guard != GuardPolicy::Refuse {
            return None;
        }
        let sentence = guard::refusal(&container.pod.namespace, &container.pod.name, &container.name);
        Some(Refusal { sentence })
    }

    /// How long the container waited for its cgroup. A resync has only the age of its process to go by.
    fn waited(&self, handled: &Inspection, trigger: Trigger) -> Duration {
        let since = trigger.since.elapsed();
        match &handled.init {
            Some(init) if trigger.source == Source::Resync && handled.outcome == Outcome::Delegated => {
                self.delegator().age(init).map_or(since, |age| age.max(since))
            }
            _ => since,
        }
    }
}

/// Kills a container that was refused at its start, if the runtime would start it anyway: CRI-O only logs
/// the refusal. The process is still waiting in the OCI runtime. Returns whether it was killed.
pub fn keep_from_running(runtime: &str, init: Option<&Process>) -> bool {
    !guard::honours_refusal_at_start(runtime) && init.is_some_and(|init| init.kill().is_ok())
}
