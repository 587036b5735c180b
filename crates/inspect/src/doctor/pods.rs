//! The running pods, if no agent has results: listed by the runtime, and inspected in /proc and the cgroup
//! tree as by the agent, without changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::Doctor;
use crate::bundle::Bundles;
use crate::delegate::UnitSource;
use crate::inspector::{Candidate, Inspector};
use crate::survey::Surveyor;
use usernsd_delegation::Plan;
use usernsd_domain::adjust::asks_by;
use usernsd_domain::chain::chain;
use usernsd_domain::check::pods::{Annotations, PodFacts, checks};
use usernsd_domain::check::{Checked, Probe};
use usernsd_domain::container::{Container, ContainerState, CriId, UserNamespaceRequest};
use usernsd_domain::delegation::{Limits, Rules};
use usernsd_domain::guard;
use usernsd_domain::isolation::Occasion;
use usernsd_domain::node::{Peers, Snapshot, StartPath};
use usernsd_domain::record::{Outcome, Record, Source};
use usernsd_peers::cri::{Cri, CriSandbox};
use usernsd_peers::oci::parse_spec;

/// The handles and rules with which doctor inspects pods.
pub struct PodPlace {
    /// The rules by which cgroups are handed over.
    pub rules: Rules,
    /// The limits that are set when a cgroup is handed over.
    pub limits: Limits,
    /// The OCI bundles of the runtimes.
    pub bundles: Bundles,
}

/// The runtime's answers about all containers that run.
struct RuntimeAnswers {
    containers: Vec<(Container, ContainerState)>,
    /// The annotations that can ask for a writable cgroup, by sandbox.
    asked: Annotations,
    /// By sandbox: what its pod asked for.
    requests: HashMap<String, UserNamespaceRequest>,
}

impl Doctor {
    pub(super) async fn pods(&self, cri: Option<&Cri>, place: &PodPlace) -> Vec<Checked> {
        let checked = match (self.is_running(), cri) {
            (Err(why), _) => Err(why),
            (Ok(()), None) => Err("the runtime does not answer".to_owned()),
            (Ok(()), Some(cri)) => match ask_runtime(cri, &place.bundles).await {
                Ok(answers) => self.check_pod(&answers, place),
                Err(error) => Err(error),
            },
        };
        checked.unwrap_or_else(|why| checks(Err(why)))
    }

    fn check_pod(&self, answers: &RuntimeAnswers, place: &PodPlace) -> Probe<Vec<Checked>> {
        let root = &self.place.root;
        let inspector = Inspector::open(root, place.rules, place.limits).map_err(|error| chain(&error))?;
        let of =
            |(container, state): &(Container, ContainerState)| record(&inspector, container, *state, answers);
        let records = answers.containers.iter().map(|container| Arc::new(of(container)));
        let now = SystemTime::now();
        let snapshot = Snapshot {
            started: now,
            reconciled: None,
            runtime: None,
            peers: Peers::new(now),
            start_path: StartPath::Nobody,
            mismatch: None,
            plugins: vec![],
            containers: records.collect(),
            events: Vec::new(),
            past: Vec::new(),
            examined: None,
        };
        let survey = Surveyor::new(root).map_err(|error| chain(&error))?.survey(&snapshot);
        let facts = PodFacts {
            pods: &survey.pods,
            space_is_known: survey.space.is_some(),
            asked: Ok(&answers.asked),
        };
        Ok(checks(Ok(&facts)))
    }

    /// The annotations of the pods that run now, see [`Doctor::asked`].
    pub(super) async fn ask_for_annotations(&self) -> Probe<Annotations> {
        match self.ask_runtime().await {
            (_, Some(cri)) => Doctor::asked(&cri).await,
            (_, None) => Err("the runtime does not answer".to_owned()),
        }
    }

    /// The annotations of each sandbox that can ask for a writable cgroup, if its pod has any.
    pub(super) async fn asked(cri: &Cri) -> Probe<Annotations> {
        Ok(annotations_of(cri.sandboxes().await.map_err(|error| chain(&error))?))
    }
}

fn annotations_of(sandboxes: Vec<CriSandbox>) -> Annotations {
    let of = |mut sandbox: CriSandbox| {
        sandbox.annotations.retain(|key, _| asks_by(key));
        (!sandbox.annotations.is_empty()).then(|| (sandbox.id.to_string(), sandbox.annotations))
    };
    sandboxes.into_iter().filter_map(of).collect()
}

/// Asks about everything that runs: two lists, and for each container its bundle or one call.
async fn ask_runtime(cri: &Cri, bundles: &Bundles) -> Probe<RuntimeAnswers> {
    let sandboxes = cri.sandboxes().await.map_err(|error| chain(&error))?;
    let annotations: HashMap<String, Arc<BTreeMap<String, String>>> = sandboxes
        .iter()
        .map(|sandbox| (sandbox.id.to_string(), Arc::new(sandbox.annotations.clone())))
        .collect();
    let mut answers =
        RuntimeAnswers { containers: Vec::new(), asked: annotations_of(sandboxes), requests: HashMap::new() };
    for listed in cri.containers().await.map_err(|error| chain(&error))? {
        if !matches!(listed.state, ContainerState::Created | ContainerState::Running) {
            continue;
        }
        let container = match bundles.find(&listed.id) {
            Ok(Some(found)) => found.container,
            // If a bundle cannot be read, the specification is requested over CRI.
            Ok(None) | Err(_) => match cri.container(&listed.id).await.map_err(|error| chain(&error))? {
                // Ended in the meantime.
                None => continue,
                Some(found) => {
                    let spec = parse_spec(&found.spec_json).map_err(|error| chain(&error))?;
                    spec.into_container(listed.id.clone(), found.pid)
                }
            },
        };
        // The pod's annotations, because those in a specification are the container's.
        let annotations = annotations.get(&listed.sandbox_id).cloned().unwrap_or_default();
        let container = Container {
            name: listed.name,
            pod: listed.pod,
            sandbox_id: listed.sandbox_id,
            annotations,
            ..container
        };
        // Only a container in the host's user namespace can have lost its own.
        if !container.user_namespace
            && !answers.requests.contains_key(&container.sandbox_id)
            && let Ok(id) = CriId::parse(&container.sandbox_id)
            && let Some(sandbox) = cri.sandbox(&id).await.map_err(|error| chain(&error))?
            && let Some(request) = sandbox.request
        {
            answers.requests.insert(container.sandbox_id.clone(), request);
        }
        answers.containers.push((container, listed.state));
    }
    Ok(answers)
}

/// A container's record after an inspection that changes nothing.
fn record(
    inspector: &Inspector,
    container: &Container,
    state: ContainerState,
    answers: &RuntimeAnswers,
) -> Record {
    let candidate = Candidate { container, stage: Occasion::Listed(state).stage() };
    // Whether systemd delegates the unit is a check of its own.
    let (mut inspection, plan) = inspector.examine(candidate, UnitSource::Unasked);
    if let Some(Plan::Chown { .. }) = plan {
        inspection.outcome = Outcome::Failed("nobody has handed the cgroup over".to_owned());
    }
    let request = if container.user_namespace {
        Some(UserNamespaceRequest::Own)
    } else {
        let of_runtime = answers.requests.get(&container.sandbox_id).copied();
        of_runtime.or_else(|| guard::annotated_request(&container.annotations))
    };
    inspection.record(candidate, Source::Resync, request, || false)
}
