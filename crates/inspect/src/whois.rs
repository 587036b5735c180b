//! Gathers the owners of host IDs: from the agent if one answers, otherwise from the runtime and `/proc`;
//! users, groups and ranges from the node's files.

use crate::explain::ExplainNode;
use crate::survey::Surveyor;
use usernsd_domain::chain::chain;
use usernsd_domain::container::ContainerState;
use usernsd_domain::idmap::IdMap;
use usernsd_domain::record::CgroupState;
use usernsd_domain::space::HostIds;
use usernsd_domain::whois::Tenant;
use usernsd_linux::proc::Proc;
use usernsd_peers::cri::{Cri, first_answering};
use usernsd_peers::oci::parse_spec;
use usernsd_report::state::{Mapping, Past, State, read_state};

/// All holders of host IDs, and the sources that could not be read.
#[derive(Debug)]
pub struct Registry {
    /// Containers in user namespaces of their own; those that ended recently come last.
    pub tenants: Vec<Tenant>,
    /// The accounts and ranges in the node's files.
    pub host: Option<HostIds>,
    /// Sources that could not be read, with the reasons.
    pub unseen: Vec<String>,
}

/// Reads all sources.
pub async fn gather(node: &ExplainNode) -> Registry {
    let mut unseen = Vec::new();
    let tenants = match read_state(&node.state_socket) {
        Ok(state) => of_state(state),
        Err(error) => {
            unseen.push(format!("pods that ended lately: {error}"));
            match of_runtime(node).await {
                Ok(tenants) => tenants,
                Err(error) => {
                    unseen.push(format!("pods: {error}"));
                    Vec::new()
                }
            }
        }
    };
    let host = Surveyor::new(&node.host_root).map_err(|error| chain(&error));
    let host = host.and_then(|surveyor| surveyor.host_ids().map_err(|error| chain(&error)));
    let host = host.map_err(|error| unseen.push(format!("users and ranges: {error}"))).ok();
    Registry { tenants, host, unseen }
}

fn of_state(state: State) -> Vec<Tenant> {
    let own = |container: &usernsd_report::state::Container| {
        // An older agent's document does not contain this directly.
        let in_hosts = container.state.is(CgroupState::HostUserNamespace);
        container.user_namespace.as_ref().map_or(!in_hosts, |namespace| !namespace.host)
    };
    let present = state.containers.into_iter().filter(own).map(|container| Tenant {
        id: container.id,
        name: container.name,
        pod: container.pod.into(),
        uid_map: map(container.uid_map.as_deref().unwrap_or_default()),
        gid_map: map(container.gid_map.as_deref().unwrap_or_default()),
        past: None,
    });
    let past = |past: Past| Tenant {
        id: past.id,
        name: past.name,
        pod: past.pod.into(),
        uid_map: map(&past.uid_map),
        gid_map: map(&past.gid_map),
        past: Some((past.since, past.until)),
    };
    present.chain(state.past.into_iter().map(past)).collect()
}

fn map(extents: &[Mapping]) -> IdMap {
    // Through the kernel's text form, so that one parser has all rules. An invalid map is empty.
    let line = |extent: &Mapping| format!("{} {} {}\n", extent.container_id, extent.host_id, extent.length);
    IdMap::parse(&extents.iter().map(line).collect::<String>()).unwrap_or_default()
}

async fn of_runtime(node: &ExplainNode) -> Result<Vec<Tenant>, String> {
    let proc = Proc::new(&node.host_root.join("proc"));
    let hosts = proc.host_namespace("user").map_err(|error| format!("{error}; become root"))?;
    let clients = node.endpoints.iter().cloned().map(Cri::new);
    let (cri, _) = first_answering(clients)
        .await
        .map_err(|unanswered| format!("no container runtime answers over CRI: {unanswered}"))?;
    let mut tenants = Vec::new();
    for listed in cri.containers().await.map_err(|error| chain(&error))? {
        if listed.state == ContainerState::Running
            && let Some(tenant) = tenant(&cri, &proc, hosts, &listed.id).await
        {
            tenants.push(tenant);
        }
    }
    Ok(tenants)
}

/// A running container with host IDs of its own; `None` if it has ended in the meantime.
async fn tenant(cri: &Cri, proc: &Proc, hosts: u64, id: &usernsd_domain::container::CriId) -> Option<Tenant> {
    let inspected = cri.container(id).await.ok()??;
    let process = proc.open(inspected.pid?).ok()?;
    if process.namespace("user").ok()? == hosts {
        return None;
    }
    let (uid_map, gid_map) = (process.uid_map().ok()?, process.gid_map().ok()?);
    // Its first process may have entered a namespace below.
    let given = parse_spec(&inspected.spec_json).unwrap_or_default();
    Some(Tenant {
        id: id.to_string(),
        name: inspected.container.name,
        pod: inspected.container.pod,
        uid_map: uid_map.or_given(&given.uid_mappings),
        gid_map: gid_map.or_given(&given.gid_mappings),
        past: None,
    })
}
