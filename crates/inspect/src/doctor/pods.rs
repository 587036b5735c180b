//! The pods that run, where no agent knows them: asked of the runtime, and looked at in /proc and the
//! cgroup tree as the agent would, with nothing changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::Doctor;
use crate::bundle::Bundles;
use crate::delegate::{Delegator, MountSource, Target};
use crate::survey::Surveyor;
use usernsd_domain::adjust::asks_by;
use usernsd_domain::check::pods::{Annotations, PodFacts, checks};
use usernsd_domain::check::{Checked, Look};
use usernsd_domain::container::{Container, ContainerState, CriId, UserNamespaceRequest};
use usernsd_domain::crio::annotation::USERNS_MODE;
use usernsd_domain::delegation::{Limits, Plan, Rules};
use usernsd_domain::guard;
use usernsd_domain::isolation::Stage;
use usernsd_domain::node::{Peers, Snapshot, StartPath};
use usernsd_domain::record::{Outcome, Record, Source, UserNamespace, UserNamespaceMode};
use usernsd_linux::cgroupfs::{self, CgroupRoot};
use usernsd_linux::proc::Proc;
use usernsd_peers::cri::{Cri, CriSandbox};
use usernsd_peers::oci::parse_spec;

/// What it takes to look at pods.
pub struct PodPlace {
    /// The rules by which cgroups are handed over.
    pub rules: Rules,
    /// The bounds set with it.
    pub limits: Limits,
    /// Where the runtimes keep what they were told.
    pub bundles: Bundles,
}

/// What the runtime says of everything that runs.
struct Told {
    containers: Vec<(Container, ContainerState)>,
    /// The annotations that can ask for a writable cgroup, by sandbox.
    asked: Annotations,
    /// By sandbox: what its pod asked for.
    requests: HashMap<String, UserNamespaceRequest>,
    /// Sandboxes that asked by CRI-O's annotation.
    annotated: HashMap<String, UserNamespaceRequest>,
}

impl Doctor {
    pub(super) async fn pods(&self, cri: Option<&Cri>, place: &PodPlace) -> Vec<Checked> {
        let looked = match (self.is_running(), cri) {
            (Err(why), _) => Err(why),
            (Ok(()), None) => Err("the runtime does not answer".to_owned()),
            (Ok(()), Some(cri)) => match told(cri, &place.bundles).await {
                Ok(told) => self.look_at(&told, place),
                Err(error) => Err(error),
            },
        };
        looked.unwrap_or_else(|why| checks(Err(why)))
    }

    fn look_at(&self, told: &Told, place: &PodPlace) -> Look<Vec<Checked>> {
        let root = &self.place.root;
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let cgroups = CgroupRoot::open(&root.join("sys/fs/cgroup")).map_err(|error| said(&error))?;
        let list = cgroupfs::read_delegate_list(&root.join("sys")).map_err(|error| said(&error))?;
        let proc = Proc::new(&root.join("proc"));
        let delegator =
            Delegator::new(cgroups, proc, list, place.rules, place.limits).map_err(|error| said(&error))?;
        let of =
            |(container, state): &(Container, ContainerState)| record(&delegator, container, *state, told);
        let records = told.containers.iter().map(|container| Arc::new(of(container)));
        let snapshot = Snapshot {
            runtime: None,
            peers: Peers::new(SystemTime::now()),
            start_path: StartPath::Nobody,
            mismatch: None,
            plugins: vec![],
            containers: records.collect(),
            events: Vec::new(),
            past: Vec::new(),
            examined: None,
        };
        let survey = Surveyor::new(root).map_err(|error| said(&error))?.survey(&snapshot);
        let facts =
            PodFacts { pods: &survey.pods, space_is_known: survey.space.is_some(), asked: Ok(&told.asked) };
        Ok(checks(Ok(&facts)))
    }

    /// Each sandbox's annotations that can ask for a writable cgroup, where its pod has any.
    pub(super) async fn asked(cri: &Cri) -> Look<Annotations> {
        Ok(asked_of(cri.sandboxes().await.map_err(|error| error.to_string())?))
    }
}

fn asked_of(sandboxes: Vec<CriSandbox>) -> Annotations {
    let of = |mut sandbox: CriSandbox| {
        sandbox.annotations.retain(|key, _| asks_by(key));
        (!sandbox.annotations.is_empty()).then(|| (sandbox.id.to_string(), sandbox.annotations))
    };
    sandboxes.into_iter().filter_map(of).collect()
}

/// Asks for everything that runs: two lists, and of each container its bundle or one call.
async fn told(cri: &Cri, bundles: &Bundles) -> Look<Told> {
    let sandboxes = cri.sandboxes().await.map_err(|error| error.to_string())?;
    let annotated = sandboxes.iter().filter_map(|sandbox| {
        let mode = USERNS_MODE.iter().find_map(|name| sandbox.annotations.get(*name))?;
        Some((sandbox.id.to_string(), guard::request_of_annotation(mode)?))
    });
    let annotated = annotated.collect();
    let mut told =
        Told { containers: Vec::new(), asked: asked_of(sandboxes), requests: HashMap::new(), annotated };
    for listed in cri.containers().await.map_err(|error| error.to_string())? {
        if !matches!(listed.state, ContainerState::Created | ContainerState::Running) {
            continue;
        }
        let container = match bundles.find(&listed.id) {
            Ok(Some(found)) => found.container,
            // What cannot be read is asked for.
            Ok(None) | Err(_) => match cri.container(&listed.id).await.map_err(|error| error.to_string())? {
                // Ended meanwhile.
                None => continue,
                Some(found) => {
                    let spec = parse_spec(&found.spec_json).map_err(|error| error.to_string())?;
                    spec.into_container(listed.id.clone(), found.pid)
                }
            },
        };
        let container =
            Container { name: listed.name, pod: listed.pod, sandbox_id: listed.sandbox_id, ..container };
        // Only who is in the host's user namespace can have lost its own.
        if !container.user_namespace
            && !told.requests.contains_key(&container.sandbox_id)
            && let Ok(id) = CriId::parse(&container.sandbox_id)
            && let Some(sandbox) = cri.sandbox(&id).await.map_err(|error| error.to_string())?
            && let Some(request) = sandbox.request
        {
            told.requests.insert(container.sandbox_id.clone(), request);
        }
        told.containers.push((container, listed.state));
    }
    Ok(told)
}

/// What is known of a container after a look at it.
fn record(delegator: &Delegator, container: &Container, state: ContainerState, told: &Told) -> Record {
    let target = Target {
        id: &container.id,
        cgroups_path: &container.cgroups_path,
        pid: container.pid,
        process_uid: container.process_uid,
        user_namespace: container.user_namespace,
        mount: MountSource::Stricter(container.cgroup_mount()),
        told: &container.told,
        is_started: state == ContainerState::Running,
    };
    // systemd's word is a check of its own.
    let (handled, plan) = delegator.plan(&target, |_| None);
    let outcome = match plan {
        Some(Plan::Chown { .. }) => Outcome::Failed("nobody has handed the cgroup over".to_owned()),
        Some(Plan::AlreadyRight { .. }) | None => handled.outcome,
    };
    let request = if container.user_namespace {
        Some(UserNamespaceRequest::Own)
    } else {
        let of = |of: &HashMap<String, UserNamespaceRequest>| of.get(&container.sandbox_id).copied();
        of(&told.requests).or_else(|| of(&told.annotated))
    };
    let is_hosts = |namespace: UserNamespace| namespace.is_hosts || !container.user_namespace;
    let in_hosts = handled.observation.user_namespace.map(is_hosts);
    let is_annotated = told.annotated.contains_key(&container.sandbox_id);
    Record {
        id: container.id.clone(),
        sandbox_id: container.sandbox_id.clone(),
        name: container.name.clone(),
        pod: container.pod.clone(),
        pid: handled.observation.pid.or(container.pid),
        uid_map: handled.observation.uid_map,
        gid_map: handled.observation.gid_map,
        user_namespace: handled.observation.user_namespace,
        mode: UserNamespaceMode::of(request, is_annotated, in_hosts),
        mount: handled.observation.mount,
        cgroup: handled.observation.cgroup,
        inode: handled.observation.inode,
        owner: handled.observation.owner,
        limits: handled.observation.limits,
        outcome,
        source: Source::Resync,
        isolation: guard::judge(request, in_hosts.map_or(container.user_namespace, |hosts| !hosts)),
        stage: Stage::Running,
        missed: false,
    }
}
