//! The problems of a node, computed from its state document: the headline and the sentences.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::{Duration, SystemTime};

use crate::state::{CheckState, Container, Mapping, Named, Plugin, PodState, ProblemState, State};
pub use usernsd_domain::assessment::{Assessment, Tone};
use usernsd_domain::check::{Category, Check, CheckResult};
use usernsd_domain::map::words::{counted, grouped};
use usernsd_domain::node::{PeerState, StartPath};
use usernsd_domain::space::OverlapKind;
use usernsd_domain::utc::rfc3339;

/// The share of a pool, in tenths, above which it is almost full; the same as in the alert.
const POOL: u64 = 9;
/// The same share for the cgroups that a pod may create.
const CGROUPS: u64 = 8;

/// How long an agent that cannot reach the runtime over NRI counts as starting. On a node without NRI,
/// waiting longer would not help.
const JOINING: Duration = Duration::from_secs(60);

/// Whether an agent is in its place, so that its predecessor may end: it has inspected everything that ran
/// before, and new containers reach it before they start, if the runtime supports that at all.
///
/// # Errors
/// The condition for which the agent still waits.
pub fn in_place(state: &State, now: SystemTime) -> Result<(), &'static str> {
    if state.node.ready.is_none() {
        return Err("the agent has not inspected the node yet");
    }
    let nri = &state.peers.nri;
    // Times in this format sort like texts.
    let is_starting = |since: &str| {
        let earliest = now.checked_sub(JOINING).map(rfc3339);
        // A clock that was set back does not make it start for longer.
        earliest.is_none_or(|earliest| since > earliest.as_str()) && since <= rfc3339(now).as_str()
    };
    let is_called =
        matches!(state.peers.start_path.known(), Some(StartPath::LaunchedPlugin | StartPath::AgentJoined));
    match nri.state.known() {
        // The agent ends this state by itself: it joins eventually, whatever it waits for.
        Some(PeerState::Waiting) if !is_called => Err(
            "the agent waits for a quiet moment of the runtime to join it over NRI; `usernsd ps` has the reason",
        ),
        Some(PeerState::Down) if !is_called && is_starting(&nri.since) => Err(
            "the runtime does not call usernsd before a start yet: neither a launched plugin nor the agent",
        ),
        _ => Ok(()),
    }
}

/// A problem that a reader should act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProblem {
    pub tone: Tone,
    /// The problem, one sentence without a full stop.
    pub what: String,
    /// The objects concerned, or the remedy.
    pub where_: String,
}

/// The problems of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVerdict {
    /// The problems, the worst first.
    pub problems: Vec<NodeProblem>,
}

/// The most severe assessment that applies to a container.
#[must_use]
pub fn assess(container: &Container) -> Assessment {
    let Container { isolation, outcome, state, uid_map, .. } = container;
    let is_root = |extent: &Mapping| extent.container_id == 0 && extent.host_id == 0 && extent.length > 0;
    let maps_host_root = super::map::has_own_ids(container) && uid_map.iter().flatten().any(is_root);
    Assessment::of(isolation.known(), outcome.known(), state.known(), maps_host_root)
}

// === impl NodeVerdict ===

impl NodeVerdict {
    /// The verdict on a document.
    #[must_use]
    pub fn of(state: &State) -> NodeVerdict {
        let mut problems = Vec::new();
        containers(state, &mut problems);
        overlaps(state, &mut problems);
        node(state, &mut problems);
        checks(state, &mut problems);
        room(state, &mut problems);
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.tone));
        NodeVerdict { problems }
    }

    /// The tone of the worst problem.
    #[must_use]
    pub fn tone(&self) -> Tone {
        self.problems.iter().map(|problem| problem.tone).max().unwrap_or(Tone::Good)
    }

    /// A summary in a few words: `2 problems`.
    #[must_use]
    pub fn short(&self) -> String {
        match self.problems.len() {
            0 => "all well".to_owned(),
            many => counted(many as u64, "problem", "problems"),
        }
    }
}

fn is_above(part: u64, whole: u64, tenths: u64) -> bool {
    whole > 0 && part.saturating_mul(10) > whole.saturating_mul(tenths)
}

/// The first few names, and the number of further ones.
fn some(names: impl Iterator<Item = impl Display>) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    let mut text = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        text += &format!(" and {} more", names.len() - 3);
    }
    text
}

fn containers(state: &State, problems: &mut Vec<NodeProblem>) {
    let all: Vec<(Assessment, &Container)> =
        state.containers.iter().map(|container| (assess(container), container)).collect();
    let assessed = |as_what: Assessment| -> Vec<&Container> {
        all.iter().filter(|(assessment, _)| *assessment == as_what).map(|(_, container)| *container).collect()
    };
    let name = |container: &&Container| {
        format!("{}/{} {}", container.pod.namespace, container.pod.name, container.name)
    };
    for assessment in Assessment::ALL {
        let Some([one, many]) = assessment.sentence() else { continue };
        let found = assessed(assessment);
        if !found.is_empty() {
            problems.push(NodeProblem {
                tone: assessment.tone(),
                what: counted(found.len() as u64, one, many),
                where_: some(found.iter().map(name)),
            });
        }
    }
    let pod_name = |pod: &&PodState| format!("{}/{}", pod.namespace, pod.name);
    let roots: HashSet<&str> =
        assessed(Assessment::HostRoot).iter().map(|container| container.id.as_str()).collect();
    let is_root = |pod: &&PodState| pod.containers.iter().any(|id| roots.contains(id.as_str()));
    let rooted: Vec<&PodState> = state.pods.iter().filter(is_root).collect();
    if !rooted.is_empty() {
        problems.push(NodeProblem {
            tone: Tone::Bad,
            what: counted(rooted.len() as u64, "pod maps", "pods map") + " root to the host's root",
            where_: some(rooted.iter().map(pod_name)),
        });
    }
    let near: Vec<&PodState> = state
        .pods
        .iter()
        .filter(|pod| {
            let cgroup = pod.cgroup.as_ref();
            let pods = cgroup.and_then(|cgroup| Some((cgroup.descendants, cgroup.max_descendants?)));
            let fullest = cgroup.and_then(|cgroup| cgroup.fullest.as_ref());
            let containers = fullest.map(|fullest| (fullest.descendants, fullest.max_descendants));
            let mut made = pods.into_iter().chain(containers);
            made.any(|(made, limit)| is_above(made, limit.into(), CGROUPS))
        })
        .collect();
    if !near.is_empty() {
        problems.push(NodeProblem {
            tone: Tone::Warning,
            what: counted(near.len() as u64, "pod has", "pods have")
                + " nearly reached a limit of cgroups, the pod's or a container's",
            where_: some(near.iter().map(pod_name)),
        });
    }
}

fn overlaps(state: &State, problems: &mut Vec<NodeProblem>) {
    let Some(space) = &state.id_space else {
        problems.push(NodeProblem {
            tone: Tone::Warning,
            what: "the owners of host IDs are unknown".to_owned(),
            where_: "/etc/passwd, /etc/subuid or /etc/subgid cannot be read".to_owned(),
        });
        return;
    };
    for (kind, tone, one, many) in [
        (OverlapKind::PodPod, Tone::Bad, "pair of pods shares host IDs", "pairs of pods share host IDs"),
        (
            OverlapKind::PodHostUser,
            Tone::Bad,
            "time a pod has the ID of a host user or group",
            "times a pod has the ID of a host user or group",
        ),
        (
            OverlapKind::PodSubid,
            Tone::Bad,
            "time a pod has IDs of another's subordinate range",
            "times a pod has IDs of another's subordinate range",
        ),
        (
            OverlapKind::PodOutsidePool,
            Tone::Warning,
            "pod has IDs outside every pool",
            "pods have IDs outside every pool",
        ),
        (
            OverlapKind::SubidSubid,
            Tone::Warning,
            "pair of subordinate ranges overlaps",
            "pairs of subordinate ranges overlap",
        ),
        (
            OverlapKind::SubidHostUser,
            Tone::Warning,
            "host user or group is in a subordinate range",
            "host users or groups are in subordinate ranges",
        ),
    ] {
        let count = space.overlaps.get(&kind.into()).copied().unwrap_or(0);
        if count > 0 {
            let sharing = state.pods.iter().filter(|pod| pod.shared_ids.contains_key(&kind.into()));
            problems.push(NodeProblem {
                tone,
                what: counted(count, one, many),
                where_: some(sharing.map(|pod| format!("{}/{}", pod.namespace, pod.name))),
            });
        }
    }
}

fn node(state: &State, problems: &mut Vec<NodeProblem>) {
    let peers = &state.peers;
    for (peer, tone, what) in [
        (&peers.cri, Tone::Bad, "the runtime does not answer over CRI"),
        (&peers.nri, Tone::Warning, "the runtime does not call usernsd before a container starts (NRI)"),
        (&peers.systemd, Tone::Warning, "systemd does not answer over D-Bus"),
    ] {
        if matches!(peer.state.known(), Some(PeerState::Down | PeerState::Waiting)) {
            let why = peer.last_error.clone().unwrap_or_else(|| "not reached yet".to_owned());
            problems.push(NodeProblem { tone, what: what.to_owned(), where_: why });
        }
    }
    if let Some(mismatch) = &peers.mismatch {
        let ProblemState { what, remedy } = mismatch.clone();
        problems.push(NodeProblem { tone: Tone::Bad, what, where_: remedy });
    }
    for plugin in &peers.plugins {
        let Plugin { runtime, version, pid, .. } = plugin;
        let whose = format!("usernsd {version} as a plugin of {runtime}, process {pid}");
        if !plugin.responds {
            problems.push(NodeProblem {
                tone: Tone::Warning,
                what: "the plugin that the runtime launched does not answer".to_owned(),
                where_: format!("{whose}; the agent takes its place until the runtime starts again"),
            });
        }
        problems.extend(plugin.problems.iter().map(|problem| NodeProblem {
            tone: Tone::Warning,
            what: format!("the plugin that the runtime launched reports: {problem}"),
            where_: whose.clone(),
        }));
        if plugin.dropped > 0 {
            problems.push(NodeProblem {
                tone: Tone::Warning,
                what: counted(
                    plugin.dropped,
                    "report of the launched plugin was dropped, because no agent fetched it",
                    "reports of the launched plugin were dropped, because no agent fetched them",
                ),
                where_: format!("{whose}; counters and Events lack the changes in them"),
            });
        }
    }
    // The message of a failed check is more precise.
    let fails =
        |check: &CheckState| check.outcome.is(CheckResult::Fail) && !check.category.is(Category::Pods);
    if state.node.ready == Some(false) && peers.cri.state.is(PeerState::Up) && !state.checks.iter().any(fails)
    {
        problems.push(NodeProblem {
            tone: Tone::Bad,
            what: "this node cannot run pods in user namespaces".to_owned(),
            where_: "it needs cgroup v2 and a user.max_user_namespaces above 0".to_owned(),
        });
    }
}

/// The failed checks whose problems have not been listed already.
fn checks(state: &State, problems: &mut Vec<NodeProblem>) {
    let peers = &state.peers;
    let listed = [
        (Check::SubidNoOverlap, true),
        (Check::SubidNoHostUser, true),
        (Check::CriReachable, !peers.cri.state.is(PeerState::Up)),
        (Check::NriEnabled, !peers.nri.state.is(PeerState::Up)),
        (Check::NriJoined, !peers.nri.state.is(PeerState::Up) || peers.mismatch.is_some()),
        (Check::SystemdReachable, !peers.systemd.state.is(PeerState::Up)),
    ];
    let is_listed = |id: &Named<Check>| listed.iter().any(|(check, is_listed)| id.is(*check) && *is_listed);
    let others =
        state.checks.iter().filter(|check| !check.category.is(Category::Pods) && !is_listed(&check.id));
    for check in others {
        let tone = match check.outcome.known() {
            Some(CheckResult::Fail) => Tone::Bad,
            Some(CheckResult::Warn) => Tone::Warning,
            _ => continue,
        };
        let Some(first) = check.problems.first() else { continue };
        let more = check.problems.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        problems.push(NodeProblem { tone, what: first.what.clone() + &more, where_: first.remedy.clone() });
    }
}

fn room(state: &State, problems: &mut Vec<NodeProblem>) {
    for pool in state.id_space.iter().flat_map(|space| &space.pools) {
        if is_above(pool.slots_used, pool.slots, POOL) {
            problems.push(NodeProblem {
                tone: Tone::Warning,
                what: format!("the pool {} is almost full", pool.name),
                where_: format!("{} of {} slots used", grouped(pool.slots_used), grouped(pool.slots)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(change: impl FnOnce(&mut serde_json::Value)) -> State {
        let peer = json!({"state": "up", "since": "", "reconnects": 0, "lastError": null});
        let kinds =
            ["pod_pod", "pod_host_user", "pod_subid", "pod_outside_pool", "subid_subid", "subid_host_user"];
        let mut text = json!({
            "version": 1, "node": {"name": "n", "runtime": null, "ready": true},
            "agent": {"version": "", "startedAt": ""}, "peers": {"cri": peer, "nri": peer, "systemd": peer},
            "containers": [{
                "id": "a", "sandboxId": "", "name": "c", "pod": {"namespace": "x", "name": "p", "uid": "u"},
                "uidMap": [{"containerId": 0, "hostId": 200_000, "length": 65_536}],
                "userNamespace": {"inode": 1, "host": false}, "cgroup": {}, "state": "ok",
                "outcome": "delegated", "source": "nri", "isolation": "good",
            }],
            "pods": [{
                "namespace": "x", "name": "p", "uid": "u", "userns": "pod", "sharedIds": {},
                "cgroup": {"path": "/", "descendants": 80, "maxDescendants": 100}, "containers": ["a"],
            }],
            "idSpace": {
                "pools": [{"name": "crio", "ranges": [], "slotIds": 65_536, "slots": 10, "slotsUsed": 9}],
                "overlaps": kinds.iter().map(|kind| ((*kind).to_owned(), json!(0))).collect::<serde_json::Map<_, _>>(),
                "subordinateRanges": [], "accounts": [],
            },
        });
        change(&mut text);
        serde_json::from_value(text).unwrap()
    }

    fn plugin(key: &str, value: serde_json::Value) -> serde_json::Value {
        let mut plugin = json!({
            "pid": 9, "version": "0.1.0", "runtime": "cri-o", "runtimeVersion": "1.36.3", "since": "",
            "responds": true, "settings": "", "problems": [], "dropped": 0,
        });
        plugin[key] = value;
        json!([plugin])
    }

    #[test]
    fn an_agent_is_in_its_place_once_it_has_inspected_and_joined() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let nri = |word: &'static str, seconds: u64| {
            state(move |state| {
                let since = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
                state["peers"]["nri"]["state"] = word.into();
                state["peers"]["nri"]["since"] = since.into();
            })
        };
        assert_eq!(in_place(&nri("up", 999), now), Ok(()));
        assert_eq!(in_place(&nri("off", 999), now), Ok(()));
        assert!(in_place(&nri("down", 999), now).is_err());
        let mut launched = nri("down", 999);
        launched.peers.start_path = StartPath::LaunchedPlugin.into();
        assert_eq!(in_place(&launched, now), Ok(()));
        // A node without NRI must not block a roll-out forever.
        assert_eq!(in_place(&nri("down", 900), now), Ok(()));
        // The clock was set back meanwhile.
        assert_eq!(in_place(&nri("down", 5000), now), Ok(()));
        // An agent that is going to join does block it, because its predecessor is called meanwhile.
        assert!(in_place(&nri("waiting", 900), now).is_err());
        assert!(in_place(&state(|state| state["node"]["ready"] = json!(null)), now).is_err());
    }

    #[test]
    fn a_node_that_is_not_ready_has_a_problem() {
        // The condition of the Kubernetes node and usernsd_node_ready follow from `ready`.
        for cri in ["up", "down"] {
            let state = state(move |state| {
                state["node"]["ready"] = json!(false);
                state["peers"]["cri"]["state"] = json!(cri);
            });
            assert_eq!(NodeVerdict::of(&state).tone(), Tone::Bad, "{cri}");
        }
    }

    #[test]
    fn each_problem_is_part_of_the_verdict() {
        assert_eq!(NodeVerdict::of(&state(|_| ())).short(), "all well");
        let container = |key: &'static str, value: &'static str| {
            move |state: &mut serde_json::Value| state["containers"][0][key] = value.into()
        };
        let overlap = |kind: &'static str| {
            move |state: &mut serde_json::Value| state["idSpace"]["overlaps"][kind] = 2.into()
        };
        assert_eq!(
            NodeVerdict::of(&state(|state| state["peers"]["plugins"] = plugin("pid", json!(9)))).short(),
            "all well"
        );
        type Change = Box<dyn FnOnce(&mut serde_json::Value)>;
        let cases: Vec<(Change, Tone, &str)> = vec![
            (Box::new(container("isolation", "lost")), Tone::Bad, "1 container runs as the host's root"),
            (Box::new(container("state", "owner_wrong")), Tone::Bad, "1 container does not own its cgroup"),
            (Box::new(container("outcome", "failed")), Tone::Bad, "1 container could not be given"),
            (Box::new(container("state", "unlimited")), Tone::Warning, "1 container's cgroup has no bounds"),
            (
                Box::new(container("state", "missed")),
                Tone::Warning,
                "1 container was created without the writable",
            ),
            (
                Box::new(|state| state["containers"][0]["uidMap"][0]["hostId"] = 0.into()),
                Tone::Bad,
                "1 pod maps root to the host's root",
            ),
            (
                Box::new(|state| state["pods"][0]["cgroup"]["descendants"] = 81.into()),
                Tone::Warning,
                "1 pod has nearly reached",
            ),
            (
                Box::new(|state| {
                    let fullest = json!({"id": "a", "descendants": 87, "maxDescendants": 108});
                    state["pods"][0]["cgroup"]["fullest"] = fullest;
                }),
                Tone::Warning,
                "1 pod has nearly reached a limit of cgroups, the pod's or a container's",
            ),
            (Box::new(overlap("pod_pod")), Tone::Bad, "2 pairs of pods share host IDs"),
            (Box::new(overlap("pod_host_user")), Tone::Bad, "2 times a pod has the ID of a host user"),
            (Box::new(overlap("pod_subid")), Tone::Bad, "2 times a pod has IDs of another's"),
            (Box::new(overlap("pod_outside_pool")), Tone::Warning, "2 pods have IDs outside every pool"),
            (Box::new(overlap("subid_subid")), Tone::Warning, "2 pairs of subordinate ranges overlap"),
            (Box::new(overlap("subid_host_user")), Tone::Warning, "2 host users or groups are in"),
            (Box::new(|state| state["idSpace"] = json!(null)), Tone::Warning, "the owners of host IDs"),
            (
                Box::new(|state| state["idSpace"]["pools"][0]["slotsUsed"] = 10.into()),
                Tone::Warning,
                "the pool crio is almost full",
            ),
            (
                Box::new(|state| state["peers"]["cri"]["state"] = "down".into()),
                Tone::Bad,
                "the runtime does not answer",
            ),
            (
                Box::new(|state| state["peers"]["nri"]["state"] = "down".into()),
                Tone::Warning,
                "the runtime does not call",
            ),
            (
                Box::new(|state| state["peers"]["plugins"] = plugin("responds", json!(false))),
                Tone::Warning,
                "the plugin that the runtime launched does not answer",
            ),
            (
                Box::new(|state| state["peers"]["plugins"] = plugin("problems", json!(["it rains"]))),
                Tone::Warning,
                "the plugin that the runtime launched reports: it rains",
            ),
            (
                Box::new(|state| state["peers"]["plugins"] = plugin("dropped", json!(2))),
                Tone::Warning,
                "2 reports of the launched plugin were dropped",
            ),
            (
                Box::new(|state| {
                    state["node"]["ready"] = false.into();
                    state["checks"] = json!([
                        {"id": "subid_no_overlap", "category": "runtime", "severity": "warning", "outcome": "warn",
                         "seen": null, "problems": [{"what": "said by the ranges", "remedy": ""}]},
                        {"id": "psi_enabled", "category": "kernel", "severity": "note", "outcome": "note",
                         "seen": null, "problems": [{"what": "a note", "remedy": ""}]},
                        {"id": "cgroup_nsdelegate", "category": "kernel", "severity": "error", "outcome": "fail",
                         "seen": null, "problems": [{"what": "no nsdelegate", "remedy": "mount it so"}]},
                    ]);
                }),
                Tone::Bad,
                "no nsdelegate",
            ),
            (Box::new(|state| state["node"]["ready"] = false.into()), Tone::Bad, "this node cannot run pods"),
        ];
        for (change, tone, want) in cases {
            let verdict = NodeVerdict::of(&state(change));
            let [problem] = verdict.problems.as_slice() else { panic!("{want}: {verdict:?}") };
            assert!(problem.what.starts_with(want), "{want}: {problem:?}");
            assert_eq!((problem.tone, verdict.tone()), (tone, tone), "{want}");
        }
        // A peer that the configuration switches off is not a problem.
        assert!(
            NodeVerdict::of(&state(|state| state["peers"]["nri"]["state"] = "off".into()))
                .problems
                .is_empty()
        );
    }
}
