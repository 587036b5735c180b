//! The exporter and a real kube-apiserver with RBAC and the rules of `docs/kubernetes.md`: no request is
//! refused, and no rule is unused. `USERNSD_TEST_KUBE` names the directory of the binaries.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::apiserver::{Server, USER, ask};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use usernsd_domain::condition::ConditionPolicy;
use usernsd_domain::event::EventPolicy;
use usernsd_domain::node::Exposition;
use usernsd_linux::proc::Proc;
use usernsd_peers::kube::{Access, Kube, PodChange, Review};
use usernsd_report::cluster::{self, Options, Pace};
use usernsd_report::follow::Follower;
use usernsd_report::http::STATE_RIGHT;
use usernsd_report::metrics::ExporterMetrics;
use usernsd_report::metrics::cluster::ClusterMetrics;
use usernsd_report::state::State;

fn state(lost: bool) -> State {
    let peer = json!({"state": "up", "since": "", "reconnects": 0, "lastError": null});
    let pod = json!({"namespace": "team-a", "name": "web", "uid": "uid-web"});
    serde_json::from_value(json!({
        "version": 1, "node": {"name": "worker-1", "runtime": null, "ready": true},
        "agent": {"version": "0.1.0", "startedAt": "a"}, "peers": {"cri": peer, "nri": peer, "systemd": peer},
        "containers": [{"id": "c1", "sandboxId": "s1", "name": "web", "pod": pod, "pid": 7, "uidMap": null,
            "mount": null, "cgroup": {"path": null, "unit": null, "inode": null, "owner": null, "limits": null},
            "state": "ok", "outcome": "delegated", "reason": null, "source": "nri",
            "isolation": if lost { "lost" } else { "good" }}],
        "pods": [{"namespace": "team-a", "name": "web", "uid": "uid-web", "userns": "pod", "sharedIds": {},
            "cgroup": null, "containers": ["c1"]}],
    }))
    .unwrap()
}

/// The rules of the page, as `verb group/resource`.
fn rules(role: &Value) -> BTreeSet<String> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let mut found = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for (group, resource) in list(&rule["apiGroups"]).iter().zip(list(&rule["resources"])) {
            found.extend(list(&rule["verbs"]).iter().map(|verb| format!("{verb} {group}/{resource}")));
        }
    }
    found
}

/// The exporter's requests in the audit log, with their answers.
fn asked(log: &Path) -> (BTreeSet<String>, BTreeSet<u64>) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own: Vec<Value> = lines.filter(|line| line["user"]["username"] == USER).collect();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let what = |line: &Value| {
        let reference = &line["objectRef"];
        let sub = word(&reference["subresource"]);
        let sub = if sub.is_empty() { sub } else { format!("/{sub}") };
        format!(
            "{} {}/{}{sub}",
            word(&line["verb"]),
            word(&reference["apiGroup"]),
            word(&reference["resource"])
        )
    };
    let codes = own.iter().filter_map(|line| line["responseStatus"]["code"].as_u64());
    (own.iter().map(what).collect(), codes.collect())
}

#[tokio::test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
async fn the_built_in_roles_open_neither_the_state_nor_the_metrics() {
    let Some(server) = Server::start_or_skip() else { return };
    server.admin().await;
    // The exporter's account has no role here, so it has the permissions of every account.
    let reviewer = Kube::new(Access::Kubeconfig(server.kubeconfig("admin")));
    for (path, want) in [
        (STATE_RIGHT, Review::Denied),
        ("/metrics", Review::Denied),
        ("/", Review::Denied),
        // The reason why the access review does not use the state's own path.
        ("/api/v1/state", Review::Allowed),
    ] {
        assert_eq!(reviewer.review("exporter", path).await.unwrap(), want, "{path}");
    }
}

/// A tenant's largest pod: etcd takes 1.5 MiB, and the API server writes `<` in six bytes.
#[tokio::test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
async fn the_largest_pod_that_the_api_server_stores_hides_no_other() {
    let Some(server) = Server::start_or_skip() else { return };
    let admin = server.admin().await;
    let name = json!({"name": "team-a"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": name});
    ask(&admin, "POST", "/api/v1/namespaces", Some(namespace)).await.unwrap();
    let pod = |name: &str, text: usize| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "team-a"}, "spec":
            {"nodeName": "worker-1", "containers": [{"name": "web", "image": "i", "args": ["<".repeat(text)]}]}})
    };
    let create = async |name: &str, text: usize| {
        ask(&admin, "POST", "/api/v1/namespaces/team-a/pods", Some(pod(name, text))).await
    };
    // What fits into 1.5 MiB, to 16 KiB.
    let largest = (1472..=1536).rev().step_by(16);
    let kube = Kube::new(Access::Kubeconfig(server.kubeconfig("admin")));
    let mut stored = None;
    for kib in largest.clone() {
        if create("largest", kib << 10).await.is_ok() {
            stored = Some(kib);
            break;
        }
    }
    let stored = stored.expect("a pod of 1.4 MiB");
    create("web", 1).await.unwrap();
    let text = ask(&admin, "GET", "/api/v1/namespaces/team-a/pods/largest", None).await.unwrap();
    assert!(text.len() > 8 << 20, "{stored} KiB are {} bytes", text.len());
    let list = kube.list_pods("worker-1").await.unwrap();
    let names: Vec<&str> = list.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!((names, list.malformed), (vec!["largest", "web"], 0));
    let mut watch = kube.watch_pods("worker-1", &list.version, Duration::from_secs(60)).await.unwrap();
    create("largest-2", stored << 10).await.unwrap();
    create("web-2", 1).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let PodChange::Applied(pod) = watch.next().await.unwrap().unwrap().0 {
            seen.push(pod.name);
        }
    }
    assert_eq!(seen, ["largest-2", "web-2"]);
}

#[tokio::test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
async fn no_request_is_refused_and_no_rule_is_unused() {
    let Some(server) = Server::start_or_skip() else { return };
    let admin = server.admin().await;
    let page = include_str!("../../docs/kubernetes.md");
    let role = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let role: Value = serde_saphyr::from_str(role).unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "usernsd-exporter"}, "subjects": [{"kind": "User", "name": USER}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "usernsd-exporter"}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a",
        "annotations": {"openshift.io/sa.scc.uid-range": "1000/100"}}});
    // As a kubelet creates it.
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "team-a",
        "annotations": {"openshift.io/scc": "restricted-v2"}}, "spec": {"nodeName": "worker-1",
        "containers": [{"name": "web", "image": "i", "securityContext": {"runAsUser": 5000}}]}});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    for (path, object) in [
        (format!("{rbac}/clusterroles"), role.clone()),
        (format!("{rbac}/clusterrolebindings"), binding),
        ("/api/v1/namespaces".into(), namespace),
        ("/api/v1/nodes".into(), node),
    ] {
        ask(&admin, "POST", &path, Some(object)).await.unwrap();
    }

    let (_follower, followed) = Follower::new("/none".into(), SystemTime::UNIX_EPOCH);
    let metrics = ExporterMetrics::new(followed.link).unwrap();
    let counted = ClusterMetrics::new(&metrics, Exposition::default()).unwrap();
    let (states, heard) = watch::channel(Some(Arc::new(state(true))));
    let (sender, misfits) = watch::channel(Arc::default());
    let pace = Pace { spread: Duration::ZERO, settle: Duration::from_millis(50), ..Pace::default() };
    let options = Options {
        node: None,
        instance: None,
        events: EventPolicy::Warnings,
        condition: ConditionPolicy::On,
        namespaces: true,
        pace,
        proc: Proc::new(Path::new("/proc")),
    };
    let kube = Arc::new(Kube::new(Access::Kubeconfig(server.kubeconfig("exporter"))));
    let task = tokio::spawn(cluster::run(options, kube, heard, counted, sender));
    // This pod is created now, so the watch reports it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    ask(&admin, "POST", "/api/v1/namespaces/team-a/pods", Some(pod)).await.unwrap();
    let wanted = rules(&role);
    let log = server.dir.path().join("audit.log");
    let mut flips = 0;
    for _ in 0..600 {
        let (asked, _) = asked(&log);
        // The log may contain the watch only once it has ended; the pod below was reported by it.
        let is_asked = |rule: &&String| asked.contains(*rule) || rule.starts_with("watch ");
        if wanted.iter().all(|rule| is_asked(&rule)) && !misfits.borrow().is_empty() {
            break;
        }
        // The problem ends and recurs, so the Event is patched.
        flips += 1;
        states.send_replace(Some(Arc::new(state(flips % 10 < 5))));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let found: Vec<&'static str> =
        misfits.borrow().iter().flat_map(|pod| pod.misfits.iter().map(|misfit| misfit.name())).collect();
    assert_eq!(found, ["user_not_in_namespace_range"], "the pod came by the watch");

    let events: Value = serde_json::from_str(
        &ask(&admin, "GET", "/apis/events.k8s.io/v1/namespaces/team-a/events", None).await.unwrap(),
    )
    .unwrap();
    let event = &events["items"][0];
    assert_eq!((&event["reason"], &event["regarding"]["name"]), (&json!("UserNamespaceLost"), &json!("web")));
    assert!(event["series"]["count"].as_u64().is_some_and(|count| count >= 2), "{event}");
    let node = |text: String| -> Vec<Value> {
        let node: Value = serde_json::from_str(&text).unwrap();
        node["status"]["conditions"].as_array().cloned().unwrap_or_default()
    };
    let read = || ask(&admin, "GET", "/api/v1/nodes/worker-1", None);
    let conditions = node(read().await.unwrap());
    let ours = |conditions: &[Value]| {
        conditions.iter().filter(|one| one["type"] == "UserNamespacesUnavailable").count()
    };
    assert_eq!(ours(&conditions), 1, "{conditions:?}");
    assert!(!task.is_finished(), "a task ended by itself");
    task.abort();

    // The conditions of the kubelet and others remain when ours is removed.
    let others = json!({"type": "KernelDeadlock", "status": "False"});
    let others = json!([{"op": "add", "path": "/status/conditions/-", "value": others}]);
    let patch = hyper::Request::patch("/api/v1/nodes/worker-1/status")
        .header("content-type", "application/json-patch+json");
    admin.request_text(patch.body(others.to_string().into_bytes()).unwrap()).await.unwrap();
    let own = Kube::new(Access::Kubeconfig(server.kubeconfig("exporter")));
    own.remove_node_condition("worker-1").await.unwrap();
    let conditions = node(read().await.unwrap());
    assert_eq!((ours(&conditions), conditions.len()), (0, 3), "{conditions:?}");

    // A watch is logged when it ends, with the process that asked for it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (asked, codes) = asked(&log);
    assert!(!codes.contains(&403) && !codes.contains(&401), "{codes:?}");
    assert_eq!(asked, wanted, "what was asked, and the rules of docs/kubernetes.md");
}
