//! Converts the agent's document to the input of the rules in `usernsd-domain`.

use crate::state::{Container, Mapping, MappingProblemState, PodState, State};
use crate::verdict::assess;
use usernsd_domain::assessment::Assessment;
use usernsd_domain::check::{Category, CheckResult};
use usernsd_domain::delegation::Skip;
use usernsd_domain::event::{ContainerFacts, FailedCheck, NodeFacts};
use usernsd_domain::idmap::IdMap;
use usernsd_domain::node::PeerState;
use usernsd_domain::record::OutcomeName;
use usernsd_domain::space::{IdType, OverlapKind};
use usernsd_domain::user_mapping::PodMappingProblems;

/// The facts for the Node condition and Events, from the state document.
#[must_use]
pub fn node_facts(state: &State) -> NodeFacts {
    let cri = &state.peers.cri;
    let pools = state.id_space.iter().flat_map(|space| &space.pools);
    let failed = state
        .checks
        .iter()
        .find(|check| check.outcome.is(CheckResult::Fail) && !check.category.is(Category::Pods));
    NodeFacts {
        failed_check: failed.map(|check| FailedCheck {
            check: check.id.known(),
            name: check.id.to_string(),
            problem: check
                .problems
                .first()
                .map(|problem| format!("{}; {}", problem.what, problem.remedy))
                .unwrap_or_default(),
        }),
        ready: state.node.ready,
        runtime_answers: cri.state.is(PeerState::Up),
        runtime_error: cri.last_error.clone(),
        max_user_namespaces: state.node.kernel.as_ref().map(|kernel| kernel.max_user_namespaces),
        pools: pools.map(|pool| (pool.name.clone(), pool.slots_used, pool.slots)).collect(),
    }
}

/// The document, with the user mapping problems added to its pods.
#[must_use]
pub fn with_mapping_problems(state: &State, misfits: &[PodMappingProblems]) -> State {
    let mut state = state.clone();
    for pod in &mut state.pods {
        let found = misfits.iter().find(|found| found.uid == pod.uid);
        let found = found.into_iter().flat_map(|found| &found.misfits);
        pod.misfits = found
            .map(|misfit| MappingProblemState {
                reason: misfit.name().to_owned(),
                container: misfit.container().map(str::to_owned),
                sentence: misfit.to_string(),
            })
            .collect();
    }
    state
}

pub(super) fn container_facts(container: &Container) -> ContainerFacts {
    let assessment = assess(container);
    let reason = || container.reason.clone().unwrap_or_else(|| container.outcome.to_string());
    let was_tried = !container.outcome.is(OutcomeName::Skipped(Skip::ObserveOnly));
    ContainerFacts {
        name: container.name.clone(),
        handed_over: container.outcome.is(OutcomeName::Delegated),
        // If nothing was tried, nothing failed; the state and the metrics show the owner.
        failed: (matches!(assessment, Assessment::OwnerWrong | Assessment::Failed) && was_tried).then(reason),
        lost: assessment == Assessment::IsolationLost,
        refused: None,
        missed: assessment == Assessment::Missed,
        ended: None,
    }
}

pub(super) fn overlaps(pod: &PodState) -> Vec<(OverlapKind, u64)> {
    let of = |kind: OverlapKind| Some((kind, *pod.shared_ids.get(&kind.into())?));
    OverlapKind::ALL.into_iter().filter_map(of).collect()
}

pub(super) fn in_hosts(containers: &[&Container]) -> bool {
    containers.iter().any(|container| {
        assess(container) == Assessment::IsolationLost
            || container.user_namespace.as_ref().is_some_and(|namespace| namespace.host)
    })
}

/// A pod's mapping: all its containers share one.
pub(super) fn map(containers: &[&Container], id_type: IdType) -> Option<IdMap> {
    let of = |container: &&Container| match id_type {
        IdType::Uid => container.uid_map.clone(),
        IdType::Gid => container.gid_map.clone(),
    };
    let extents = containers.iter().filter_map(of).find(|map| !map.is_empty())?;
    let line = |extent: &Mapping| format!("{} {} {}\n", extent.container_id, extent.host_id, extent.length);
    IdMap::parse(&extents.iter().map(line).collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(outcome: &str) -> Container {
        serde_json::from_value(serde_json::json!({
            "id": "a", "sandboxId": "", "name": "web", "pod": {"namespace": "", "name": "", "uid": ""},
            "cgroup": {}, "state": "owner_wrong", "outcome": outcome, "reason": "why", "source": "",
            "isolation": "good"
        }))
        .unwrap()
    }

    #[test]
    fn a_wrong_owner_is_a_failure_unless_nothing_was_tried() {
        let failed = |outcome: &str| container_facts(&container(outcome)).failed;
        assert_eq!(failed("failed").as_deref(), Some("why"));
        assert_eq!(failed("unproven").as_deref(), Some("why"));
        assert_eq!(failed("observe_only"), None);
    }
}
