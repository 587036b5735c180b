//! State documents of fixed nodes.

use serde_json::{Value, json};
use usernsd_domain::node::PeerState;
use usernsd_domain::space::OverlapKind;
use usernsd_report::state::State;

/// Number of IDs in a slot.
const SLOT: u64 = 65_536;
/// First ID of the kubelet's pool.
const POOL: u64 = 524_288;

/// Description of a container.
pub(crate) struct Made {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) name: String,
    /// Slot in the pool; `None` for the host's user namespace.
    pub(crate) slot: Option<u64>,
    pub(crate) state: &'static str,
    pub(crate) outcome: &'static str,
    pub(crate) reason: Option<&'static str>,
    pub(crate) isolation: &'static str,
}

impl Made {
    pub(crate) fn ok(namespace: &str, pod: &str, name: &str, slot: u64) -> Made {
        Made {
            namespace: namespace.into(),
            pod: pod.into(),
            name: name.into(),
            slot: Some(slot),
            state: "ok",
            outcome: "delegated",
            reason: None,
            isolation: "good",
        }
    }

    fn read_only(self) -> Made {
        Made { state: "read_only", outcome: "read_only_mount", ..self }
    }

    fn host(namespace: &str, pod: &str, name: &str) -> Made {
        let host = Made::ok(namespace, pod, name, 0);
        Made { slot: None, state: "host_user_namespace", outcome: "host_user_namespace", ..host }
    }

    fn container(&self, index: usize) -> Value {
        let id = format!("{:016x}", (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(4);
        let first = self.slot.map(|slot| POOL + slot * SLOT);
        let map = match first {
            Some(first) => json!([{"containerId": 0, "hostId": first, "length": SLOT}]),
            None => json!([{"containerId": 0, "hostId": 0, "length": u32::MAX}]),
        };
        let owner = if self.state == "ok" { first.unwrap_or(0) } else { 0 };
        json!({
            "id": id, "sandboxId": "5a", "name": self.name, "pid": 4_000 + index,
            "pod": {"namespace": self.namespace, "name": self.pod, "uid": self.uid()},
            "uidMap": map, "gidMap": map,
            "userNamespace": {"inode": 4_026_533_000_u64 + index as u64, "host": self.slot.is_none()},
            "mount": if self.state == "read_only" { "read-only" } else { "read-write" },
            "cgroup": {"path": "/kubepods.slice/x", "unit": "x.scope", "inode": 100 + index, "owner": owner,
                       "limits": {"descendants": 250, "depth": 50}},
            "state": self.state, "outcome": self.outcome, "reason": self.reason, "source": "nri",
            "isolation": self.isolation,
        })
    }

    fn uid(&self) -> String {
        format!("{}-{}", self.namespace, self.pod)
    }
}

/// A document with these containers.
pub(crate) fn node(name: &str, made: &[Made]) -> State {
    let containers: Vec<Value> = made.iter().enumerate().map(|(index, made)| made.container(index)).collect();
    let mut uids: Vec<String> = made.iter().map(Made::uid).collect();
    uids.sort();
    uids.dedup();
    let mut pods = Vec::new();
    for (number, uid) in uids.iter().enumerate() {
        let own: Vec<&Value> = containers.iter().filter(|one| one["pod"]["uid"] == uid.as_str()).collect();
        let host = own.iter().all(|one| one["userNamespace"]["host"] == true && one["isolation"] == "good");
        pods.push(json!({
            "namespace": own[0]["pod"]["namespace"], "name": own[0]["pod"]["name"], "uid": uid,
            "userns": if host { "host" } else { "pod" }, "sharedIds": {},
            "cgroup": {"path": "/kubepods.slice/x", "descendants": 3 + number % 9, "maxDescendants": 250},
            "containers": own.iter().map(|one| one["id"].clone()).collect::<Vec<_>>(),
        }));
    }
    let slots: std::collections::BTreeSet<u64> = made.iter().filter_map(|made| made.slot).collect();
    let account = |id_type: &str, name: &str, id: u32| json!({"idType": id_type, "name": name, "id": id});
    let both = |name: &'static str, id: u32| [account("uid", name, id), account("gid", name, id)];
    let accounts: Vec<Value> = [
        ("root", 0),
        ("daemon", 1),
        ("bin", 2),
        ("sync", 4),
        ("messagebus", 101),
        ("sshd", 104),
        ("kubelet", 998),
    ]
    .into_iter()
    .chain([("core", 1_000), ("nobody", 65_534)])
    .flat_map(|(name, id)| both(name, id))
    .collect();
    let line = |file: &str, line: u64, owner: &str, start: u64, count: u64| json!({"file": file, "line": line, "owner": owner, "start": start, "count": count});
    let lines: Vec<Value> = ["subuid", "subgid"]
        .into_iter()
        .flat_map(|file| [line(file, 1, "core", 100_000, SLOT), line(file, 2, "kubelet", POOL, 110 * SLOT)])
        .collect();
    let peer = json!({"state": "up", "since": "2026-11-20T09:00:02Z", "reconnects": 0, "lastError": null});
    serde_json::from_value(json!({
        "version": 1,
        "node": {
            "name": name, "ready": true,
            "runtime": {"name": "cri-o", "version": "1.36.3", "endpoint": "/run/crio/crio.sock"},
            "kernel": {"release": "6.12.0", "userNamespaces": 1 + slots.len(), "maxUserNamespaces": 256_000},
        },
        "agent": {"version": "0.1.0", "startedAt": "2026-11-20T09:00:00Z"},
        "peers": {"cri": peer, "nri": peer, "systemd": peer},
        "containers": containers,
        "pods": pods,
        "idSpace": {
            "pools": [
                {"name": "kubelet", "ranges": [{"start": POOL, "count": 110 * SLOT}], "slotIds": SLOT,
                 "slots": 110, "slotsUsed": slots.len()},
                {"name": "crio", "ranges": [], "slotIds": SLOT, "slots": 0, "slotsUsed": 0},
            ],
            "overlaps": {"pod_pod": 0, "pod_host_user": 0, "pod_subid": 0, "pod_outside_pool": 0,
                         "subid_subid": 0, "subid_host_user": 0},
            "subordinateRanges": lines,
            "accounts": accounts,
        },
        "events": [],
    }))
    .unwrap()
}

const WORDS: [(&str, &str, &str); 9] = [
    ("team-a", "build-7d9c5b8f6", "builder"),
    ("team-a", "registry-0", "registry"),
    ("team-b", "ci-runner", "dind"),
    ("team-b", "nightly-29382", "job"),
    ("payments", "ledger-6c9f7d5b8", "app"),
    ("payments", "gateway-84f6b9c7d", "envoy"),
    ("search", "indexer", "indexer"),
    ("web", "frontend-5f7c8d9b4", "nginx"),
    ("web", "session-store-0", "valkey"),
];

fn some(count: u64) -> Vec<Made> {
    (0..count)
        .map(|index| {
            let (namespace, pod, name) = WORDS[(index as usize * 5 + index as usize / 9) % WORDS.len()];
            let letters = b"bcdfghjklmnpqrstvwxz2456789";
            let hash = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let letter = |at: u32| char::from(letters[(hash / 27_u64.pow(at) % 27) as usize]);
            let pod = format!("{pod}-{}", (0..5).map(letter).collect::<String>());
            // In the order in which a kubelet assigns them, with some returned.
            let slot = index + index / 4 + index / 7;
            let made = Made::ok(namespace, &pod, name, slot);
            if index % 3 == 1 { made.read_only() } else { made }
        })
        .collect()
}

fn events() -> Value {
    let event = |number: u64, at: &str, kind: &str, what: &str, pod: (&str, &str, &str), sentence: &str| {
        json!({"number": number, "at": format!("2026-11-20T{at}Z"), "kind": kind, "what": what, "containerId": "a",
               "container": pod.2, "pod": {"namespace": pod.0, "name": pod.1, "uid": "u"}, "sentence": sentence})
    };
    let (a, b, c, d) = (
        ("team-b", "ci-runner-x2k4p", "dind"),
        ("web", "session-store-0-q8wzn", "valkey"),
        ("payments", "ledger-6c9f7d5b8-mq4zt", "app"),
        ("team-a", "build-7d9c5b8f6-x2k4p", "builder"),
    );
    json!([
        event(
            9,
            "10:41:02",
            "failed",
            "chown_cgroup",
            a,
            "chown of /kubepods.slice/…/crio-a90c44e2.scope: Operation not permitted"
        ),
        event(8, "10:40:51", "fixed", "chown_cgroup", b, "cgroup given to host ID 1703936, in 0.2 ms"),
        event(
            7,
            "10:40:47",
            "refused",
            "lost_isolation",
            c,
            "not started: it would run as the host's root, its user namespace is lost"
        ),
        event(
            6,
            "10:38:12",
            "fixed",
            "chown_cgroup",
            d,
            "cgroup given to host ID 524288, cgroup.max.descendants of the pod set to 250, cgroup.max.depth of the pod set to 50, in 0.4 ms"
        ),
        event(
            5,
            "10:37:59",
            "left_alone",
            "annotation_in_this_namespace",
            d,
            "the configuration does not let pods of this namespace ask"
        ),
        event(
            4,
            "10:12:30",
            "fixed",
            "set_limits",
            b,
            "cgroup.max.descendants of the pod set to 250, in 0.1 ms"
        ),
        event(3, "09:58:03", "fixed", "chown_cgroup", a, "cgroup given to host ID 1507328, in 0.2 ms"),
        event(2, "09:12:44", "fixed", "chown_cgroup", c, "cgroup given to host ID 983040, in 0.3 ms"),
    ])
}

/// A node without problems.
pub(crate) fn well() -> State {
    let mut made = some(26);
    made.push(Made::host("kube-system", "kube-proxy-zk9wd", "kube-proxy"));
    made.push(Made::host("kube-system", "node-exporter-m4x7c", "node-exporter"));
    let mut state = node("worker-3", &made);
    let fixes =
        events().as_array().unwrap().iter().filter(|event| event["kind"] == "fixed").cloned().collect();
    state.events = serde_json::from_value(Value::Array(fixes)).unwrap();
    state
}

/// A node on which two pods share a range, a container has lost its isolation, another one does not own its
/// cgroup, and a user's range overlaps the pool.
pub(crate) fn problems() -> State {
    let mut made = some(26);
    let wrong = Made::ok("team-b", "ci-runner-x2k4p", "dind", 15);
    made.push(Made {
        state: "owner_wrong",
        outcome: "failed",
        reason: Some("chown of /kubepods.slice/…/crio-a90c44e2.scope: Operation not permitted"),
        ..wrong
    });
    let foreign = Made::ok("search", "indexer-9fj2k", "indexer", 40);
    made.push(Made {
        state: "owner_wrong",
        outcome: "foreign_owner",
        reason: Some("the cgroup belongs to a host ID that is not mapped into the container"),
        ..foreign
    });
    let lost = Made::host("payments", "ledger-6c9f7d5b8-mq4zt", "app");
    made.push(Made { isolation: "lost", ..lost });
    made.push(Made::ok("web", "frontend-5f7c8d9b4-tw9rq", "nginx", 21));
    made.push(Made::ok("team-a", "registry-0-8xkzp", "registry", 21));
    made.push(Made::host("kube-system", "kube-proxy-zk9wd", "kube-proxy"));
    let mut state = node("worker-3", &made);
    let space = state.id_space.as_mut().unwrap();
    space.overlaps.insert(OverlapKind::PodPod.into(), 1);
    space.overlaps.insert(OverlapKind::SubidSubid.into(), 1);
    for file in ["subuid", "subgid"] {
        let line = json!({"file": file, "line": 3, "owner": "builder", "start": POOL + 100 * SLOT, "count": 20 * SLOT});
        space.subordinate_ranges.push(serde_json::from_value(line).unwrap());
    }
    for pod in &mut state.pods {
        if pod.name.ends_with("tw9rq") || pod.name.ends_with("8xkzp") {
            pod.shared_ids.insert(OverlapKind::PodPod.into(), SLOT);
        }
    }
    state.events = serde_json::from_value(events()).unwrap();
    state
}

/// A node without containers that was not prepared.
pub(crate) fn empty() -> State {
    let mut state = node("worker-9", &[]);
    let space = state.id_space.as_mut().unwrap();
    space.subordinate_ranges.clear();
    space.pools.iter_mut().for_each(|pool| pool.ranges.clear());
    state
}

/// 250 pods with two containers each in a pool of 4,096.
pub(crate) fn large() -> State {
    let mut made = some(250);
    let sidecars: Vec<Made> = made
        .iter()
        .map(|one| Made::ok(&one.namespace, &one.pod, "sidecar", one.slot.unwrap()).read_only())
        .collect();
    made.extend(sidecars);
    let mut state = node("worker-large", &made);
    let space = state.id_space.as_mut().unwrap();
    let count = 4_096 * SLOT;
    space.pools[0].ranges[0].count = count;
    space.pools[0].slots = 4_096;
    for line in space.subordinate_ranges.iter_mut().filter(|line| line.owner == "kubelet") {
        line.count = count;
    }
    state.events = serde_json::from_value(events()).unwrap();
    state
}

/// A node with markup and control characters in every text that others provide.
pub(crate) fn hostile() -> State {
    let evil =
        "</script></style><script>document.title='pwned'</script><img src=http://x.test/ onerror=alert(1)>";
    let turned = "\u{202e}gnp.dab\u{2066}\u{200f}";
    let long = "x".repeat(253);
    let quotes = "\"' onmouseover=\"alert(1)\" x='";
    let mut made = Vec::new();
    for (slot, text) in
        [evil, turned, &long, quotes, "\u{0}\u{1b}[31m\r\n", "שלום", "{{7*7}}${7*7}"].iter().enumerate()
    {
        made.push(Made::ok(text, text, text, slot as u64));
        made.push(Made {
            state: "owner_wrong",
            ..Made::ok(text, &format!("{text}2"), text, 20 + slot as u64)
        });
    }
    let mut state = node(evil, &made);
    for id in state.pods.iter_mut().flat_map(|pod| &mut pod.containers) {
        *id = format!("{evil}{id}");
    }
    for container in &mut state.containers {
        container.id = format!("{evil}{}", container.id);
        container.reason = Some(evil.to_owned());
    }
    let space = state.id_space.as_mut().unwrap();
    for line in &mut space.subordinate_ranges {
        line.owner = format!("{evil}{}", line.owner);
    }
    space.accounts.iter_mut().for_each(|account| account.name = evil.to_owned());
    space.pools[0].name = evil.to_owned();
    state.peers.nri.state = PeerState::Down.into();
    state.peers.nri.last_error = Some(evil.to_owned());
    state.node.runtime.as_mut().unwrap().version = evil.to_owned();
    state.events = serde_json::from_value(events()).unwrap();
    for event in &mut state.events {
        event.sentence = evil.to_owned();
        event.pod.name = turned.to_owned();
        event.at = evil.to_owned();
        event.what = quotes.to_owned();
    }
    state
}
