//! Explains one container: what its pod asked for, what it got, and why. Reads only, and runs nothing in
//! the container. Needs root and no agent; if an agent answers, its record of the container is part of the
//! explanation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::delegate::UnitSource;
use crate::handles::NodeHandles;
use crate::inspector::{Candidate, Inspector, OpenError};
use crate::survey::Surveyor;
use usernsd_delegation::explain::{
    AgentRecord, ChosenIds, Diagnosis, Ended, ExplainFacts, OptInResult, PresentPlan, Waiting,
};
use usernsd_domain::adjust::{self, AdjustRules};
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, ContainerState, CriId, UserNamespaceRequest};
use usernsd_domain::crio::annotation::USERNS_MODE;
use usernsd_domain::delegation::{Limits, Rules, Skip};
use usernsd_domain::denial::{DENIALS, Denied};
use usernsd_domain::guard::{self, Verdict};
use usernsd_domain::idmap::IdMap;
use usernsd_domain::isolation::Occasion;
use usernsd_domain::paths::{KUBELETS, PODS};
use usernsd_domain::provision::HostPath;
use usernsd_domain::record::{Outcome, Source};
use usernsd_domain::security_module::forbids_mounts;
use usernsd_domain::space::{HostIds, IdType};
use usernsd_domain::unit::{CgroupsPath, Scope};
use usernsd_linux::kernel_log::kernel_log;
use usernsd_linux::proc::ProcError;
use usernsd_linux::tail::tail;
use usernsd_messages::{Message, MessageId, follows, recognise};
use usernsd_peers::cri::{Cri, CriError, InspectedContainer, InspectedSandbox, NoAnswer, first_answering};
use usernsd_peers::oci::{OciError, Security, bind_sources, parse_security, parse_spec};
use usernsd_peers::systemd::Systemd;
use usernsd_report::state::{State, read_state};

pub use self::document::{
    Cgroup, DirectoryOwner, Explanation, Extent, KnownMessage, Namespace, ProcessRow, VERSION, Volume,
};
use self::document::{Observed, RequestedByPod, Subject};
pub use self::find::FindError;
use self::live::LiveContainer;

mod document;
mod find;
mod live;

/// Time limit for systemd. Without its answer the rest is still complete.
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(2);
/// Where the kubelet keeps its pods' logs.
const POD_LOGS: &str = "var/log/pods";
/// The kernel's log.
const KERNEL_LOG: &str = "dev/kmsg";
/// The log of auditd.
const AUDIT_LOG: &str = "var/log/audit/audit.log";
/// The size of the end of it that is searched, in bytes.
const AUDIT_BYTES: u64 = 4 << 20;
/// The most pods' directories that are read.
const MAX_PODS: usize = 5000;
/// The size of the end of a failed container's log that is searched, in bytes.
const LOG_BYTES: u64 = 64 << 10;

/// The node and its rules.
#[derive(Debug, Clone)]
pub struct ExplainNode {
    /// Its root directory.
    pub host_root: PathBuf,
    /// The CRI sockets to try.
    pub endpoints: Vec<PathBuf>,
    /// The system bus; `None` if systemd is not to be asked.
    pub bus: Option<PathBuf>,
    /// The agent's state socket.
    pub state_socket: PathBuf,
    /// The rules by which cgroups are handed over.
    pub rules: Rules,
    /// The limits that are set when a cgroup is handed over.
    pub limits: Limits,
    /// The rules for opted-in and privileged containers.
    pub adjust: AdjustRules,
}

/// What is to be explained.
#[derive(Debug, Clone, Copy)]
pub struct ExplainTarget<'a> {
    /// A container ID or its beginning, a pod's name, `NAMESPACE/POD`, or a PID.
    pub name: &'a str,
    /// The name of one of the pod's containers.
    pub container: Option<&'a str>,
    /// The UID of the pod `NAMESPACE/POD`, if the API server reports that the pod is on this node.
    pub pod_uid: Option<&'a str>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// No runtime answers.
    #[error("no container runtime answers over CRI")]
    NoRuntime(#[from] NoAnswer),
    /// The runtime's answer is incomplete.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// The name matches nothing, or more than one thing.
    #[error(transparent)]
    Find(#[from] FindError),
    /// A process cannot be examined.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// The container's specification is unreadable.
    #[error("the container's specification")]
    Spec(#[from] OciError),
    /// The node cannot be inspected.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// The handles and clients for one explanation.
struct Explainer<'a> {
    node: &'a ExplainNode,
    cri: Cri,
    inspector: Inspector,
    systemd: Option<Systemd>,
    state: Result<State, String>,
    host_ids: Option<HostIds>,
}

/// The judgement on a container that runs, as it is now.
struct Present {
    plan: PresentPlan,
    isolation: Verdict,
    /// It owns its cgroup, and lacks the limits that it needs.
    is_unlimited: bool,
}

/// Explains the containers that `target` names.
///
/// # Errors
/// See [`ExplainError`].
pub async fn explain(
    node: &ExplainNode,
    target: ExplainTarget<'_>,
) -> Result<Vec<Explanation>, ExplainError> {
    let explainer = Explainer::open(node).await?;
    let mut all = Vec::new();
    let found = match explainer.find(target.name, target.container).await {
        Err(ExplainError::Find(FindError::Nothing(_))) if target.container.is_none() => {
            return Ok(vec![explainer.waiting(target).await?]);
        }
        found => found?,
    };
    for id in found {
        all.extend(explainer.explain(&id).await?);
    }
    if all.is_empty() {
        return Err(FindError::Nothing(target.name.to_owned()).into());
    }
    // For each name, the container that was created last: earlier runs of a container are kept for a while.
    all.sort_by(|(one, a), (other, b)| one.container.name.cmp(&other.container.name).then(b.cmp(a)));
    all.dedup_by(|(later, _), (kept, _)| later.container.name == kept.container.name);
    Ok(all.into_iter().map(|(explanation, _)| explanation).collect())
}

impl<'a> Explainer<'a> {
    async fn open(node: &'a ExplainNode) -> Result<Explainer<'a>, ExplainError> {
        let inspector = Inspector::open(&node.host_root, node.rules, node.limits)?;
        let clients = node.endpoints.iter().cloned().map(Cri::new);
        let (cri, _) = first_answering(clients).await?;
        let systemd = match &node.bus {
            Some(bus) => connect(bus).await,
            None => None,
        };
        let host_ids = Surveyor::new(&node.host_root).ok().and_then(|surveyor| surveyor.host_ids().ok());
        Ok(Explainer {
            node,
            cri,
            inspector,
            systemd,
            state: read_state(&node.state_socket).map_err(|error| chain(&error)),
            host_ids,
        })
    }

    fn handles(&self) -> &NodeHandles {
        self.inspector.delegator().handles()
    }

    async fn find(&self, target: &str, container: Option<&str>) -> Result<Vec<CriId>, ExplainError> {
        if let Ok(pid) = target.parse::<u32>()
            && let Ok(process) = self.handles().proc.open(pid)
        {
            let path = process.cgroup(self.inspector.delegator().cgroup_namespace())?;
            let id = find::container_of_path(&path).ok_or(FindError::NoContainer(pid, path))?;
            return Ok(vec![id]);
        }
        let (sandboxes, containers) = (self.cri.sandboxes().await?, self.cri.containers().await?);
        Ok(find::find(target, container, &sandboxes, &containers)?)
    }

    /// A pod that has no container.
    async fn waiting(&self, target: ExplainTarget<'_>) -> Result<Explanation, ExplainError> {
        // The directory is not mounted into an agent's pod.
        let logs = std::fs::read_dir(self.node.host_root.join(POD_LOGS));
        let logs: Option<Vec<String>> = logs.ok().map(|logs| {
            logs.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).take(MAX_PODS).collect()
        });
        let sandboxes = self.cri.sandboxes().await?;
        let (pod, has_sandbox) = find::find_waiting(target, &sandboxes, logs.as_deref())?;
        let Diagnosis { owner_is_right, problems, because, next } = Diagnosis::of_waiting(&Waiting {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            has_sandbox,
            ids: self.chosen_ids(&pod.uid),
        });
        Ok(Explanation {
            version: VERSION,
            container: Subject {
                id: String::new(),
                sandbox_id: String::new(),
                name: String::new(),
                namespace: pod.namespace,
                pod: pod.name,
                pod_uid: pod.uid,
                state: "waiting",
                exit_code: None,
                pid: None,
            },
            asked: None,
            got: None,
            owner_is_right,
            problems,
            messages: Vec::new(),
            because,
            next,
            unseen: Vec::new(),
        })
    }

    /// The host IDs that the kubelet chose for a pod, from the kubelet's record.
    fn chosen_ids(&self, pod_uid: &str) -> ChosenIds {
        let has_directory =
            |kubelet: &HostPath| self.node.host_root.join(kubelet.as_str()).join(PODS).join(pod_uid).is_dir();
        match self.recorded_ids(pod_uid) {
            Some((first, count)) => ChosenIds::Range { first, count },
            // The kubelet creates the directory before it chooses the IDs. An agent's pod does not see the
            // directory.
            None if pod_uid.is_empty() || !KUBELETS.iter().any(has_directory) => ChosenIds::Unseen,
            None => ChosenIds::None,
        }
    }

    fn recorded_ids(&self, pod_uid: &str) -> Option<(u32, u32)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Record {
            uid_mappings: Vec<Mapping>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Mapping {
            host_id: u32,
            length: u32,
        }
        let is_uid =
            !pod_uid.is_empty() && pod_uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let record = |kubelet: &HostPath| {
            let path = self.node.host_root.join(kubelet.as_str()).join(PODS).join(pod_uid).join("userns");
            tail(&path, LOG_BYTES).ok()
        };
        let text = is_uid.then(|| KUBELETS.iter().find_map(record))??;
        let record: Record = serde_json::from_str(&text).ok()?;
        record.uid_mappings.first().map(|mapping| (mapping.host_id, mapping.length))
    }

    /// The explanation, and the creation time of the container.
    async fn explain(&self, id: &CriId) -> Result<Option<(Explanation, i64)>, ExplainError> {
        let Some(inspected) = self.cri.container(id).await? else { return Ok(None) };
        let sandbox = match CriId::parse(&inspected.container.sandbox_id) {
            Ok(sandbox) => self.cri.sandbox(&sandbox).await?,
            Err(_) => None,
        };
        let security = parse_security(&inspected.spec_json)?;
        let binds = bind_sources(&inspected.spec_json)?;
        let spec = parse_spec(&inspected.spec_json)?;
        let mut container = spec.into_container(id.clone(), inspected.pid);
        if let Some(found) = &sandbox {
            container.annotations = found.sandbox.annotations.clone().into();
            container.pod = found.sandbox.pod.clone();
        }
        container.name.clone_from(&inspected.container.name);
        let runs = matches!(inspected.container.state, ContainerState::Running | ContainerState::Created);
        let mut unseen = Vec::new();
        let mut got = None;
        let mut now = None;
        if runs {
            let scope = self.scope(&container, &mut unseen).await;
            let request = request(&container, sandbox.as_ref());
            let (seen, found) =
                self.inspect(&container, &inspected, request, &binds, scope.as_ref(), &mut unseen)?;
            (got, now) = (seen, Some(found));
        }
        let facts = self.facts_of(&container, &inspected, sandbox.as_ref(), got.as_ref(), now);
        let Diagnosis { owner_is_right, mut problems, mut because, mut next } = Diagnosis::of(&facts);
        let label = got.as_ref().and_then(|got| got.security.label.as_deref()).or(security.label.as_deref());
        let mut messages = self.messages(&inspected, &mut unseen);
        messages.extend(self.denials(&container, &inspected, label, got.as_ref(), &mut unseen));
        because.extend(messages.iter().map(|message| message.cause.to_owned()));
        next.splice(0..0, messages.iter().map(|message| message.fix.to_owned()));
        problems.dedup();
        next.dedup();
        let explanation = Explanation {
            version: VERSION,
            container: subject(&container, &inspected),
            asked: Some(asked(&container, &inspected, sandbox.as_ref(), security)),
            got,
            owner_is_right,
            problems,
            messages,
            because,
            next,
            unseen,
        };
        Ok(Some((explanation, inspected.created_at_ns)))
    }

    /// Known messages of a container that failed, from the runtime's own message and from the end of its
    /// log.
    fn messages(&self, inspected: &InspectedContainer, unseen: &mut Vec<String>) -> Vec<KnownMessage> {
        let Some(end) = inspected.end.as_ref().filter(|end| end.code != 0) else { return Vec::new() };
        let path = self.node.host_root.join(inspected.log_path.trim_start_matches('/'));
        let log = if inspected.log_path.is_empty() { Ok(String::new()) } else { tail(&path, LOG_BYTES) };
        let log = log.unwrap_or_else(|error| {
            unseen.push(format!("{}: {error}", path.display()));
            String::new()
        });
        known(end.message.lines().chain(log.lines()))
    }

    /// What a security module denied to the container, from the kernel's log and that of auditd, which has it where
    /// auditd runs.
    fn denials(
        &self,
        container: &Container,
        inspected: &InspectedContainer,
        label: Option<&str>,
        got: Option<&Observed>,
        unseen: &mut Vec<String>,
    ) -> Vec<KnownMessage> {
        // Also to an unconfined one: Ubuntu's restriction of user namespaces is for programs without a profile.
        let Some(label) = label else { return Vec::new() };
        let device = self.node.host_root.join(KERNEL_LOG);
        let log = kernel_log(&device, &DENIALS);
        let audit = tail(&self.node.host_root.join(AUDIT_LOG), AUDIT_BYTES);
        // Neither is in an agent's pod.
        if let (Err(error), Err(_)) = (&log, &audit)
            && inspected.end.as_ref().is_some_and(|end| end.code != 0)
        {
            unseen.push(format!("denials of AppArmor or SELinux: {}: {error}", device.display()));
        }
        let seconds = |nanoseconds: i64| u64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0);
        let processes = got.iter().flat_map(|got| got.processes.iter().map(|process| process.pid));
        let (pids, nobody) = (processes.chain(inspected.pid).collect(), IdMap::default());
        let denied = Denied {
            label,
            pids: &pids,
            users: if container.user_namespace { &container.specified.uid_map } else { &nobody },
            from: seconds(inspected.created_at_ns),
            // The last of them are written while it ends.
            until: inspected.end.as_ref().map_or(u64::MAX, |end| seconds(end.at_ns).saturating_add(1)),
        };
        let text = [log.unwrap_or_default(), audit.unwrap_or_default()].concat();
        known(denied.lines(&text).into_iter())
    }

    async fn scope(&self, container: &Container, unseen: &mut Vec<String>) -> Option<Scope> {
        let unit = CgroupsPath::parse(&container.cgroups_path).ok()?.unit()?;
        let Some(systemd) = &self.systemd else {
            unseen.push("systemd was not asked: its bus does not answer".to_owned());
            return None;
        };
        match systemd.scope(&unit).await {
            Ok(found) => found.map(|found| Scope {
                control_group: found.control_group,
                control_group_id: found.control_group_id,
                delegate: found.delegate,
            }),
            Err(error) => {
                unseen.push(format!("systemd: {error}"));
                None
            }
        }
    }

    fn inspect(
        &self,
        container: &Container,
        inspected: &InspectedContainer,
        request: Option<UserNamespaceRequest>,
        binds: &BTreeMap<String, String>,
        scope: Option<&Scope>,
        unseen: &mut Vec<String>,
    ) -> Result<(Option<Observed>, Present), ExplainError> {
        let candidate = Candidate { container, stage: Occasion::Listed(inspected.container.state).stage() };
        let (mut handled, plan) = self.inspector.examine(candidate, UnitSource::Answered(scope));
        let seen = handled.observation.clone();
        let record = handled.record(candidate, Source::Resync, request, || false);
        let plan = match (plan, &handled.outcome) {
            (_, Outcome::Skipped(skip @ Skip::BeingMade)) => PresentPlan::Skip(*skip, None),
            (Some(plan), _) => PresentPlan::Plan(plan),
            (None, Outcome::Failed(error)) => PresentPlan::Failed(error.clone()),
            (None, Outcome::Skipped(skip)) => PresentPlan::Skip(*skip, handled.detail.clone()),
            (None, Outcome::Delegated | Outcome::AlreadyRight) => PresentPlan::Skip(Skip::Unproven, None),
        };
        let now = Present { plan, isolation: record.isolation, is_unlimited: record.is_unlimited() };
        let process = match (handled.init, container.pid) {
            (Some(process), _) => process,
            (None, Some(pid)) => match self.handles().proc.open(pid) {
                Ok(process) => process,
                Err(error) => {
                    unseen.push(chain(&error));
                    return Ok((None, now));
                }
            },
            (None, None) => return Ok((None, now)),
        };
        let live = LiveContainer {
            handles: self.handles(),
            process: &process,
            seen: &seen,
            scope,
            container,
            binds,
            pool_of: &|space, first, count| self.pool_of(space, first, count),
        };
        Ok((Some(live.observe(unseen)), now))
    }

    fn pool_of(&self, space: IdType, first: u32, count: u32) -> Option<String> {
        let slot = self.host_ids.as_ref()?.slot_of(space, first.into(), count.into())?;
        Some(format!("slot {} of {} in pool {}", slot.index + 1, slot.slots, slot.pool.name()))
    }

    fn facts_of(
        &self,
        container: &Container,
        inspected: &InspectedContainer,
        sandbox: Option<&InspectedSandbox>,
        got: Option<&Observed>,
        now: Option<Present>,
    ) -> ExplainFacts {
        // If the container does not run, only the specification is left.
        let specified = || guard::judge(request(container, sandbox), container.user_namespace);
        let isolation = now.as_ref().map(|now| now.isolation);
        ExplainFacts {
            namespace: container.pod.namespace.clone(),
            pod: container.pod.name.clone(),
            name: container.name.clone(),
            ended: inspected.end.as_ref().map(|end| Ended {
                code: end.code,
                reason: [end.reason.as_str(), end.message.as_str()]
                    .into_iter()
                    .filter(|text| !text.is_empty())
                    .collect::<Vec<_>>()
                    .join(": "),
            }),
            is_unlimited: now.as_ref().is_some_and(|now| now.is_unlimited),
            now: now.map(|now| now.plan),
            isolation: isolation.unwrap_or_else(specified),
            opt_in: opt_in(container, &self.node.adjust),
            agent: self.agent_on(&container.id),
            forbids_mounts: got
                .filter(|got| got.runs_systemd())
                .and_then(|got| forbids_mounts(got.security.label.as_deref()?).map(str::to_owned)),
        }
    }

    fn agent_on(&self, id: &CriId) -> AgentRecord {
        match &self.state {
            Err(error) => AgentRecord::Silent(error.clone()),
            Ok(state) => match state.containers.iter().find(|known| known.id == id.as_str()) {
                None => AgentRecord::Unaware,
                Some(known) => AgentRecord::Inspected {
                    outcome: known.outcome.known(),
                    reason: known.reason.clone(),
                    source: known.source.to_string(),
                },
            },
        }
    }
}

/// The known messages in these lines: of each kind the last line, in the order of the log.
fn known<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<KnownMessage> {
    let mut found: Vec<(&'static Message, &str)> = Vec::new();
    for line in lines {
        let Some(message) = recognise(line) else { continue };
        found.retain(|(known, _)| known.id != message.id);
        found.push((message, line));
    }
    let ids: Vec<MessageId> = found.iter().map(|(message, _)| message.id).collect();
    let known = |(message, line): (_, &str)| KnownMessage::new(message, line.to_owned());
    found.into_iter().filter(|(message, _)| !follows(message.id, &ids)).map(known).collect()
}

async fn connect(bus: &Path) -> Option<Systemd> {
    let connected = tokio::time::timeout(SYSTEMD_PATIENCE, Systemd::connect(bus)).await;
    connected.ok()?.ok().map(|systemd| systemd.with_deadline(SYSTEMD_PATIENCE))
}

/// The pod's request for a user namespace.
fn request(container: &Container, sandbox: Option<&InspectedSandbox>) -> Option<UserNamespaceRequest> {
    let of_runtime = sandbox.and_then(|sandbox| sandbox.request);
    of_runtime.or_else(|| guard::annotated_request(&container.annotations))
}

/// The changes that the container's annotations ask for. The cgroup namespace of a privileged container is
/// not among them: no annotation asks for it.
fn opt_in(container: &Container, rules: &AdjustRules) -> OptInResult {
    match adjust::plan(container, &AdjustRules { privileged_cgroup_namespace: false, ..rules.clone() }, None)
    {
        Err(ungranted) => OptInResult::Ungranted(ungranted),
        Ok(Some(adjustment)) if !adjustment.mounts.is_empty() => OptInResult::Missed,
        Ok(_) => match adjust::OptIn::of(&container.annotations, &container.name) {
            Ok(adjust::OptIn { writable: false, decided_by: Some(decision), .. }) => {
                OptInResult::Declined(decision)
            }
            _ => OptInResult::Nothing,
        },
    }
}

fn subject(container: &Container, inspected: &InspectedContainer) -> Subject {
    Subject {
        id: container.id.to_string(),
        sandbox_id: inspected.container.sandbox_id.clone(),
        name: inspected.container.name.clone(),
        namespace: container.pod.namespace.clone(),
        pod: container.pod.name.clone(),
        pod_uid: container.pod.uid.clone(),
        state: match inspected.container.state {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Stopped => "exited",
            ContainerState::Unknown => "unknown",
        },
        exit_code: inspected.end.as_ref().map(|end| end.code),
        // Both runtimes keep the PID of a process that has ended.
        pid: inspected.pid.filter(|_| inspected.end.is_none()),
    }
}

fn asked(
    container: &Container,
    inspected: &InspectedContainer,
    sandbox: Option<&InspectedSandbox>,
    security: Security,
) -> RequestedByPod {
    // Annotations that name another container of the pod do not concern this one.
    let concerns = |key: &str| adjust::concerns(key, &container.name) || USERNS_MODE.contains(&key);
    let annotations = container.annotations.iter().filter(|(key, _)| concerns(key));
    let decided_by = adjust::OptIn::of(&container.annotations, &container.name).ok();
    RequestedByPod {
        user_namespace: request(container, sandbox).map(|request| match request {
            UserNamespaceRequest::Own => "own",
            UserNamespaceRequest::Host => "host",
        }),
        runtime_handler: sandbox.map(|found| found.sandbox.runtime_handler.clone()).unwrap_or_default(),
        privileged: inspected.privileged,
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        decided_by: decided_by.and_then(|opt_in| opt_in.decided_by).map(|decision| decision.key),
        cgroup_mount: container.cgroup_mount().name(),
        cgroup_namespace: container.cgroup_namespace,
        security,
    }
}
