//! The exporter and an API server, over real HTTP: lists, watches, failures, Events and the Node condition.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::fakes::kube_api::{Api, Fault};
use serde_json::{Value, json};
use tokio::sync::watch;
use usernsd_domain::condition::ConditionPolicy;
use usernsd_domain::event::EventPolicy;
use usernsd_domain::node::Exposition;
use usernsd_domain::user_mapping::PodMappingProblems;
use usernsd_domain::utc::rfc3339;
use usernsd_linux::proc::Proc;
use usernsd_peers::kube::{Access, Kube};
use usernsd_report::cluster::{self, Options, Pace};
use usernsd_report::follow::Follower;
use usernsd_report::metrics::ExporterMetrics;
use usernsd_report::metrics::cluster::ClusterMetrics;
use usernsd_report::state::{Sources, State, serve};

const MS: Duration = Duration::from_millis(1);

/// Intervals for tests: milliseconds instead of minutes.
fn pace() -> Pace {
    Pace {
        spread: Duration::ZERO,
        base: 5 * MS,
        longest: 20 * MS,
        refused: 50 * MS,
        watch: Duration::from_secs(60),
        steady: 100 * MS,
        silence: 300 * MS,
        settle: MS,
        range_age: Duration::ZERO,
        apart: MS,
        event_age: Duration::from_secs(20),
        clock: 10 * MS,
        heartbeat: Duration::from_secs(60),
        agent_absence: 100 * MS,
    }
}

fn options() -> Options {
    Options {
        node: None,
        instance: Some("usernsd-x7k2p".into()),
        events: EventPolicy::Warnings,
        condition: ConditionPolicy::Off,
        namespaces: true,
        pace: pace(),
        proc: Proc::new(Path::new("/proc")),
    }
}

/// A pod as the API server returns it.
fn pod(name: &str, host_users: bool, user: u32) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "team-a", "uid": format!("uid-{name}"), "managedFields": [{"manager": "x"}]},
        "spec": {"nodeName": "worker-1", "hostUsers": host_users, "containers":
            [{"name": "web", "image": "i", "securityContext": {"runAsUser": user}}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "web", "ready": true}]},
    })
}

/// The agent's state document, with one container in `team-a/web`.
fn state(container: Value) -> State {
    let mut whole = json!({
        "id": "c1", "sandboxId": "s1", "name": "web",
        "pod": {"namespace": "team-a", "name": "web", "uid": "uid-web"}, "pid": 7,
        "uidMap": [{"containerId": 0, "hostId": 200000, "length": 65536}],
        "gidMap": [{"containerId": 0, "hostId": 200000, "length": 65536}],
        "userNamespace": {"inode": 5, "host": false}, "mount": "read-write",
        "cgroup": {"path": null, "unit": null, "inode": null, "owner": null, "limits": null},
        "state": "ok", "outcome": "delegated", "reason": null, "source": "nri", "isolation": "good"
    });
    whole.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    let peer = json!({"state": "up", "since": "", "reconnects": 0, "lastError": null});
    serde_json::from_value(json!({
        "version": 1,
        "node": {"name": "worker-1", "runtime": null, "ready": true,
            "kernel": {"release": "6.12", "userNamespaces": 3, "maxUserNamespaces": 63000}},
        "agent": {"version": "0.1.0", "startedAt": "a"},
        "peers": {"cri": peer, "nri": peer, "systemd": peer},
        "containers": [whole],
        "pods": [{"namespace": "team-a", "name": "web", "uid": "uid-web", "userns": "pod", "sharedIds": {},
            "cgroup": null, "containers": ["c1"]}],
    }))
    .unwrap()
}

/// The part of the exporter that uses the API server.
struct Cluster {
    api: Api,
    states: watch::Sender<Option<Arc<State>>>,
    misfits: watch::Receiver<Arc<Vec<PodMappingProblems>>>,
    metrics: ExporterMetrics,
    token: PathBuf,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(api: Api, options: Options) -> Cluster {
        let url = api.serve().await;
        let dir = tempfile::tempdir().unwrap();
        let (kubeconfig, token) = (dir.path().join("kubeconfig"), dir.path().join("token"));
        std::fs::write(&token, "first").unwrap();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": url}}],
            "users": [{"name": "a", "user": {"tokenFile": token}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        Cluster::on(api, Kube::new(Access::Kubeconfig(kubeconfig)), options, dir, token)
    }

    fn on(api: Api, kube: Kube, options: Options, dir: tempfile::TempDir, token: PathBuf) -> Cluster {
        let (_follower, followed) = Follower::new("/none".into(), SystemTime::UNIX_EPOCH);
        let metrics = ExporterMetrics::new(followed.link).unwrap();
        let counted = ClusterMetrics::new(&metrics, Exposition::default()).unwrap();
        let (states, heard) = watch::channel(None);
        let (sender, misfits) = watch::channel(Arc::default());
        let task = tokio::spawn(cluster::run(options, Arc::new(kube), heard, counted, sender));
        Cluster { api, states, misfits, metrics, token, task, _dir: dir }
    }

    fn say(&self, state: State) {
        self.states.send_replace(Some(Arc::new(state)));
    }

    /// Waits until a condition holds; the test's time limit ends the wait otherwise.
    async fn until(&self, what: impl Fn(&Cluster) -> bool) {
        for _ in 0..4000 {
            if what(self) {
                return;
            }
            tokio::time::sleep(5 * MS).await;
        }
        panic!("never: {:?} {:?}", self.api.counts(), self.found());
    }

    /// The names of the user mapping problems that were found.
    fn found(&self) -> Vec<(String, &'static str)> {
        let pods = self.misfits.borrow().clone();
        let of = |pod: &PodMappingProblems| {
            let name = pod.name.clone();
            pod.misfits.iter().map(move |misfit| (name.clone(), misfit.name())).collect::<Vec<_>>()
        };
        pods.iter().flat_map(of).collect()
    }

    /// Makes a pod that does not fit, and waits until that is found.
    async fn put_and_find(&self, name: &str) {
        self.api.put_pod(pod(name, false, 70_000));
        self.until(|cluster| cluster.found().iter().any(|(found, _)| found == name)).await;
    }

    fn reasons(&self) -> Vec<String> {
        let inner = self.api.lock();
        let mut reasons: Vec<String> =
            inner.events.values().map(|event| event["reason"].as_str().unwrap().to_owned()).collect();
        reasons.sort();
        reasons
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.render().lines().any(|found| found == line)
    }

    /// Ends it, and asserts that every request is permitted by a rule on the page.
    async fn end(self) -> Api {
        assert_eq!(self.api.lock().unexpected, Vec::<String>::new());
        assert!(!self.task.is_finished(), "a task ended by itself");
        self.task.abort();
        self.api
    }
}

const MISFIT: &str = "user_not_in_mapping";

#[tokio::test]
async fn pods_are_followed_while_they_appear_change_and_disappear() {
    let api = Api::default();
    api.put_pod(pod("web", false, 1_000_000_000));
    let mut elsewhere = pod("other", false, 1_000_000_000);
    elsewhere["spec"]["nodeName"] = json!("worker-2");
    api.put_pod(elsewhere);
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.found() == [("web".to_owned(), MISFIT)]).await;
    assert!(cluster.metric("usernsd_identity_misfits{reason=\"user_not_in_mapping\"} 1"));
    assert!(cluster.metric(
        "usernsd_pod_identity_misfits{namespace=\"team-a\",pod=\"web\",reason=\"user_not_in_mapping\"} 1"
    ));
    let first = cluster.api.lock().requests[0].clone();
    assert_eq!(first.query["resourceVersion"], "0", "from the API server's memory");
    assert_eq!(
        first.query["fieldSelector"],
        "spec.nodeName=worker-1,status.phase!=Succeeded,status.phase!=Failed"
    );
    assert_eq!(first.token, "first");

    cluster.until(|cluster| cluster.api.count("watch pods") >= 1).await;
    cluster.api.put_pod(pod("web", false, 1000));
    cluster.until(|cluster| cluster.found().is_empty()).await;
    cluster.api.put_pod(pod("late", false, 70_000));
    cluster.until(|cluster| cluster.found().len() == 1).await;
    let mut ended = pod("late", false, 70_000);
    ended["status"]["phase"] = json!("Succeeded");
    cluster.api.put_pod(ended);
    cluster.until(|cluster| cluster.found().is_empty()).await;
    cluster.api.put_pod(pod("web", false, 80_000));
    cluster.until(|cluster| cluster.found().len() == 1).await;
    cluster.api.delete_pod("uid-web");
    cluster.until(|cluster| cluster.found().is_empty()).await;
    assert!(!cluster.metrics.render().contains("usernsd_pod_identity_misfits{"), "a gone pod has no series");
    // A watch may end and continue without a new list.
    assert_eq!(cluster.api.count("list pods"), 1);
    assert!(cluster.metric("usernsd_kube_up 1"));
    cluster.end().await;
}

#[tokio::test]
async fn pods_are_listed_again_if_the_place_of_a_watch_is_lost() {
    for gone in [
        Fault::Status(410, 0),
        Fault::Cut(
            "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"message\":\"old\"}}\n",
        ),
    ] {
        let api = Api::default();
        api.put_pod(pod("web", false, 70_000));
        api.fail("watch pods", gone);
        let cluster = Cluster::start(api, options()).await;
        cluster.say(state(json!({})));
        cluster.until(|cluster| cluster.api.count("list pods") >= 2).await;
        cluster.until(|cluster| cluster.api.count("watch pods") >= 2).await;
        assert_eq!(cluster.found().len(), 1);
        cluster.end().await;
    }
    // Compacted while the exporter was away: the usual cause of a 410.
    let api = Api::default();
    api.put_pod(pod("web", false, 70_000));
    api.fail("watch pods", Fault::Empty);
    api.lock().compacted = 1000;
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.api.count("list pods") >= 2).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_watch_that_breaks_continues_where_it_was() {
    let line = |name: &str, version: u32| {
        let mut pod = pod(name, false, 70_000);
        pod["metadata"]["resourceVersion"] = json!(version.to_string());
        format!("{}\n", json!({"type": "ADDED", "object": pod}))
    };
    // One complete event, one that is not about a pod, and half a line.
    let text = format!(
        "{}{{\"type\":\"ADDED\",\"object\":{{\"metadata\":5}}}}\n{}",
        line("a", 4711),
        &line("b", 4712)[..40]
    );
    let api = Api::default();
    api.fail("watch pods", Fault::Cut(Box::leak(text.into_boxed_str())));
    api.fail("watch pods", Fault::Silent);
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    // The third watch is requested because the second one sent nothing.
    cluster.until(|cluster| cluster.api.count("watch pods") >= 3).await;
    let versions: Vec<String> = {
        let inner = cluster.api.lock();
        let watches = inner.requests.iter().filter(|seen| seen.what == "watch pods");
        watches.map(|seen| seen.query["resourceVersion"].clone()).collect()
    };
    assert_eq!(versions, ["100", "4711", "4711"]);
    assert_eq!(cluster.found(), [("a".to_owned(), MISFIT)]);
    assert_eq!(cluster.api.count("list pods"), 1);
    cluster.end().await;
}

#[tokio::test]
async fn malformed_pods_do_not_affect_the_others() {
    let api = Api::default();
    api.put_pod(pod("web", false, 70_000));
    let mut broken = pod("broken", false, 1);
    broken["spec"]["containers"] = json!("none");
    api.put_pod(broken);
    api.fail("list pods", Fault::Garbage("<html>"));
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.found() == [("web".to_owned(), MISFIT)]).await;
    assert!(cluster.metric("usernsd_kube_request_failures_total{request=\"list_pods\"} 1"));
    cluster.end().await;
}

/// Events that no API server sends, in arbitrary order; then the watch cannot be continued, and the list
/// counts.
#[tokio::test]
async fn a_watch_with_false_events_is_bounded_and_the_next_list_counts() {
    const CROWD: usize = 10_000;
    let api = Api::default();
    api.put_pod(pod("web", false, 70_000));
    let event = |kind: &str, object: &Value| format!("{}\n", json!({"type": kind, "object": object}));
    let mut nameless = pod("x", false, 70_000);
    nameless["metadata"] = json!({"resourceVersion": "7"});
    let mut odd = pod("odd", false, 70_000);
    odd["metadata"]["name"] = json!("../../\u{1b}[2J\u{202e}".repeat(5_000));
    let mut text: String = [
        event("EVIL", &pod("evil", false, 70_000)),
        event("ADDED", &Value::Null),
        event("ADDED", &json!([1, {"metadata": "x"}])),
        event("DELETED", &pod("unknown", false, 70_000)),
        event("MODIFIED", &nameless),
        event("ADDED", &odd),
        event("BOOKMARK", &json!({"metadata": {"resourceVersion": "-5"}})),
        event("BOOKMARK", &json!({"metadata": {"resourceVersion": "\u{0}\n"}})),
        "{\"type\":\"ADDED\"\n\n\n".to_owned(),
    ]
    .concat();
    // The same one again and again, and more than a node can have.
    (0..100).for_each(|_| text += &event("ADDED", &pod("web", false, 80_000)));
    (0..CROWD).for_each(|number| text += &event("ADDED", &pod(&format!("crowd-{number}"), false, 70_000)));
    text += &event("DELETED", &pod("web", false, 70_000));
    text += &event("ERROR", &json!({"kind": "Status", "code": 410, "message": "old"}));
    api.fail("watch pods", Fault::Cut(Box::leak(text.into_boxed_str())));
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    let mut misfits = cluster.misfits.clone();
    let most = tokio::spawn(async move {
        let mut most = 0;
        while misfits.changed().await.is_ok() {
            most = most.max(misfits.borrow_and_update().len());
        }
        most
    });
    cluster.until(|cluster| cluster.api.count("list pods") >= 2 && cluster.found().len() == 1).await;
    assert_eq!(cluster.found(), [("web".to_owned(), MISFIT)]);
    cluster.put_and_find("late").await;
    cluster.end().await;
    let most = most.await.unwrap();
    assert!(most <= 2_500, "{most} pods were kept");
}

/// The largest objects that an API server keeps, in the longest form in which it writes them.
#[tokio::test]
async fn pods_at_their_limits_are_judged_like_others() {
    let api = Api::default();
    // 63 and 253 characters; 256 KiB of annotations, and as much of everything as etcd takes: 1.5 MiB.
    let largest = |number: usize| {
        let mut largest = pod(&format!("{}{number:03}", "n".repeat(250)), false, 70_000);
        largest["metadata"]["annotations"] = json!({"example.com/a": "\u{1b}".repeat(256 << 10)});
        largest["spec"]["volumes"] = json!([{"name": "<&>".repeat((1236 << 10) / 3)}]);
        largest
    };
    let length = largest(0).to_string().replace(['<', '>', '&'], "\\u003c").len();
    assert!(length > 8 << 20, "{length}");
    (0..3).for_each(|number| api.put_pod(largest(number)));
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.found().len() == 3).await;
    cluster.until(|cluster| cluster.api.count("watch pods") >= 1).await;
    cluster.api.put_pod(largest(3));
    cluster.until(|cluster| cluster.found().len() == 4).await;
    assert_eq!(cluster.api.count("list pods"), 1);
    for request in ["list_pods", "watch_pods"] {
        let line = format!("usernsd_kube_request_failures_total{{request=\"{request}\"}} 0");
        assert!(cluster.metric(&line), "{request}");
    }
    cluster.end().await;
}

/// No API server sends such a pod. It must not make the others invisible, neither in the list nor on the watch.
#[tokio::test]
async fn a_pod_that_is_longer_than_any_affects_no_other() {
    let api = Api::default();
    let mut endless = pod("endless", false, 70_000);
    endless["spec"]["volumes"] = json!([{"name": "x".repeat(17 << 20)}]);
    api.put_pod(endless.clone());
    api.put_pod(pod("web", false, 70_000));
    let patient = Pace { silence: Duration::from_secs(60), ..pace() };
    let cluster = Cluster::start(api, Options { pace: patient, ..options() }).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.found().len() == 2).await;
    cluster.until(|cluster| cluster.api.count("watch pods") >= 1).await;
    endless["metadata"]["uid"] = json!("uid-another");
    cluster.api.put_pod(endless);
    cluster.put_and_find("late").await;
    assert!(cluster.metric("usernsd_kube_request_failures_total{request=\"watch_pods\"} 1"));
    assert_eq!((cluster.api.count("list pods"), cluster.api.count("watch pods")), (1, 1));
    cluster.end().await;
}

/// The exporter repeats this call, but with pauses that grow from 20 ms to a minute.
async fn assert_asked_rarely(api: Api, call: &str, pace: Pace) {
    let slow = Pace { base: 20 * MS, longest: Duration::from_secs(60), ..pace };
    let cluster = Cluster::start(api, Options { pace: slow, ..options() }).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.api.count(call) >= 3).await;
    tokio::time::sleep(1500 * MS).await;
    let count = cluster.api.count(call);
    assert!(count < 40, "{count} times: {call}");
    cluster.end().await;
}

#[tokio::test]
async fn a_watch_that_closes_at_once_is_repeated_after_a_pause() {
    let api = Api::default();
    for _ in 0..1000 {
        api.fail("watch pods", Fault::Empty);
    }
    assert_asked_rarely(api, "watch pods", pace()).await;
}

#[tokio::test]
async fn a_busy_server_is_not_asked_before_its_retry_after() {
    let api = Api::default();
    api.put_pod(pod("web", false, 70_000));
    api.fail("list pods", Fault::Status(429, 2));
    api.fail("list pods", Fault::Status(503, 0));
    let cluster = Cluster::start(api, options()).await;
    let began = std::time::Instant::now();
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.api.count("list pods") >= 3).await;
    // Only a lower bound, because an upper bound would depend on the machine.
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    cluster.until(|cluster| cluster.metric("usernsd_kube_up 1")).await;
    cluster.end().await;
}

#[tokio::test]
async fn an_expired_token_is_read_again() {
    let api = Api::default();
    api.put_pod(pod("web", false, 70_000));
    api.lock().tokens = vec!["second".into()];
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.api.count("list pods") >= 2).await;
    assert!(cluster.metric("usernsd_kube_up 0"));
    std::fs::write(&cluster.token, "second").unwrap();
    cluster.until(|cluster| cluster.found().len() == 1).await;
    assert!(cluster.metric("usernsd_kube_up 1"));
    cluster.end().await;
}

/// As the kubelet does it once an hour: the token of an open watch becomes invalid.
#[tokio::test]
async fn a_token_that_is_rotated_during_a_watch_costs_no_list() {
    let api = Api::default();
    api.put_pod(pod("web", false, 70_000));
    api.lock().tokens = vec!["first".into()];
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.found().len() == 1 && cluster.api.count("watch pods") >= 1).await;
    cluster.api.lock().tokens = vec!["second".into()];
    std::fs::write(&cluster.token, "second").unwrap();
    let is_renewed = |cluster: &Cluster| {
        let inner = cluster.api.lock();
        inner.requests.iter().any(|seen| seen.what == "watch pods" && seen.token == "second")
    };
    cluster.until(is_renewed).await;
    cluster.put_and_find("late").await;
    assert_eq!((cluster.api.count("list pods"), cluster.found().len()), (1, 2));
    assert!(cluster.metric("usernsd_kube_up 1"));
    cluster.end().await;
}

#[tokio::test]
async fn an_event_is_posted_once_and_counted_if_it_recurs() {
    let api = Api::default();
    api.put_pod(pod("web", false, 70_000));
    let cluster = Cluster::start(api, options()).await;
    let bad = json!({"state": "owner_wrong", "outcome": "unmapped_owner", "reason": "it is not mapped"});
    cluster.say(state(bad.clone()));
    cluster.until(|cluster| cluster.reasons() == ["CgroupOwnershipFixFailed", "UserNotInMapping"]).await;
    let event = {
        let inner = cluster.api.lock();
        inner.events.values().find(|event| event["reason"] == "CgroupOwnershipFixFailed").unwrap().clone()
    };
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "v1", "kind": "Pod", "namespace": "team-a", "name": "web",
        "uid": "uid-web"})
    );
    assert_eq!(event["note"], "the cgroup of container web could not be handed to it: it is not mapped");
    assert_eq!((&event["reportingInstance"], &event["type"]), (&json!("usernsd-x7k2p"), &json!("Warning")));
    cluster.until(|cluster| cluster.metric("usernsd_kube_events_total{reason=\"UserNotInMapping\"} 1")).await;

    // The problem ends and occurs again.
    cluster.say(state(json!({})));
    tokio::time::sleep(50 * MS).await;
    cluster.say(state(bad.clone()));
    cluster.until(|cluster| cluster.api.count("patch events") == 1).await;
    let series = || {
        let inner = cluster.api.lock();
        inner.events.values().find_map(|event| event["series"]["count"].as_u64())
    };
    cluster.until(|_| series() == Some(2)).await;

    // The next process finds that everything has been posted.
    let made = cluster.api.count("create events");
    let api = cluster.end().await;
    let again = Cluster::start(api, options()).await;
    again.say(state(bad));
    again.until(|again| again.api.count("create events") == made + 2).await;
    assert_eq!(again.api.lock().events.len(), 2);
    assert!(again.metric("usernsd_kube_events_total{reason=\"UserNotInMapping\"} 0"));
    assert!(again.metric("usernsd_kube_events_dropped_total 0"));
    again.end().await;
}

#[tokio::test]
async fn an_event_that_the_server_forgot_is_created_again() {
    let cluster = Cluster::start(Api::default(), options()).await;
    let lost = json!({"isolation": "lost"});
    cluster.say(state(lost.clone()));
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceLost"]).await;
    cluster.api.lock().events.clear();
    cluster.say(state(json!({})));
    tokio::time::sleep(50 * MS).await;
    cluster.say(state(lost));
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceLost"]).await;
    assert_eq!(cluster.api.count("patch events"), 1);
    cluster.end().await;
}

#[tokio::test]
async fn refusals_become_events_unless_they_are_older_than_an_event_may_be() {
    let ago = |minutes: u64| rfc3339(SystemTime::now() - Duration::from_secs(60 * minutes));
    let refused = |number: u64, container: &str, minutes: u64| {
        json!({"number": number, "at": ago(minutes), "kind": "refused", "what": "lost_isolation", "containerId": container,
            "container": "init", "pod": {"namespace": "team-a", "name": "job", "uid": "uid-job"},
            "sentence": "container init was not let through"})
    };
    let with = |events: Vec<Value>| {
        let mut state = serde_json::to_value(state(json!({}))).unwrap();
        state["events"] = json!(events);
        serde_json::from_value::<State>(state).unwrap()
    };
    let cluster = Cluster::start(Api::default(), options()).await;
    cluster.say(with(vec![refused(4, "c7", 60)]));
    tokio::time::sleep(50 * MS).await;
    assert!(cluster.reasons().is_empty(), "that was long before");
    cluster.say(with(vec![refused(6, "c9", 0), refused(5, "c1", 0), refused(4, "c7", 60)]));
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceRefused"]).await;
    cluster.end().await;

    // The agent starts before the exporter, and may have refused, or ended, in its first moment.
    let cluster = Cluster::start(Api::default(), options()).await;
    cluster.say(with(vec![refused(1, "c9", 0)]));
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceRefused"]).await;
    cluster.end().await;
}

/// The node's clock was set back after the agent's entry: the entry is of the future, for the exporter and for the API
/// server.
#[tokio::test]
async fn a_clock_that_was_set_back_loses_no_event_and_keeps_the_conditions_time() {
    let tomorrow = rfc3339(SystemTime::now() + Duration::from_secs(86_400));
    let api = Api::default();
    let condition = json!({"type": "UserNamespacesUnavailable", "status": "False", "reason": "UserNamespacesWork",
        "lastTransitionTime": tomorrow});
    api.lock().conditions.insert("UserNamespacesUnavailable".into(), condition);
    let cluster = Cluster::start(api, Options { condition: ConditionPolicy::On, ..options() }).await;
    let mut output = serde_json::to_value(state(json!({}))).unwrap();
    output["node"]["ready"] = json!(true);
    output["events"] = json!([{"number": 1, "at": tomorrow, "kind": "refused", "what": "lost_isolation",
        "containerId": "c9", "container": "init", "pod": {"namespace": "team-a", "name": "job", "uid": "uid-job"},
        "sentence": "container init was not let through"}]);
    cluster.say(serde_json::from_value(output).unwrap());
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceRefused"]).await;
    cluster.until(|cluster| cluster.api.count("patch nodes/status") == 1).await;
    let written = cluster.api.lock().conditions["UserNamespacesUnavailable"].clone();
    assert_eq!(written["lastTransitionTime"], tomorrow, "the status has not changed");
    cluster.end().await;
}

/// The time since the boot is a file here. If it advances by a day and the wall clock does not, that was set back by a day.
#[tokio::test]
async fn the_conditions_times_are_moved_with_a_clock_that_was_set() {
    const DAY: u64 = 86_400;
    let proc = tempfile::tempdir().unwrap();
    let has_run_for = |seconds: u64| {
        let path = proc.path().join("new");
        fs::write(&path, format!("{seconds}.00 0.00\n")).unwrap();
        fs::rename(path, proc.path().join("uptime")).unwrap();
    };
    has_run_for(10 * DAY);
    let on = || Options { condition: ConditionPolicy::On, proc: Proc::new(proc.path()), ..options() };
    let works = || {
        let mut state = state(json!({}));
        state.node.ready = Some(true);
        state
    };
    let written = |cluster: &Cluster| cluster.api.lock().conditions["UserNamespacesUnavailable"].clone();
    let began = SystemTime::now() - Duration::from_secs(1);
    let cluster = Cluster::start(Api::default(), on()).await;
    cluster.say(works());
    cluster.until(|cluster| cluster.api.count("patch nodes/status") == 1).await;
    assert!(written(&cluster)["lastTransitionTime"].as_str().unwrap() >= rfc3339(began).as_str());

    has_run_for(11 * DAY);
    cluster.until(|cluster| cluster.api.count("patch nodes/status") == 2).await;
    let moved = written(&cluster);
    let yesterday = SystemTime::now() - Duration::from_secs(DAY);
    assert!(moved["lastTransitionTime"].as_str().unwrap() <= rfc3339(yesterday).as_str(), "{moved}");
    assert!(moved["lastHeartbeatTime"].as_str().unwrap() >= rfc3339(began).as_str(), "{moved}");
    let api = cluster.end().await;

    // Another exporter's clock may have been right: its time stays, the heartbeat is this one's.
    let cluster = Cluster::start(api, on()).await;
    cluster.say(works());
    cluster.until(|cluster| cluster.api.count("patch nodes/status") == 3).await;
    has_run_for(12 * DAY);
    cluster.until(|cluster| cluster.api.count("patch nodes/status") == 4).await;
    assert_eq!(written(&cluster)["lastTransitionTime"], moved["lastTransitionTime"]);
    cluster.end().await;
}

/// A cluster in this process, whose clock can be advanced.
fn simulated(api: &Api, options: Options) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("none");
    Cluster::on(api.clone(), Kube::of(api.client()), options, dir, token)
}

#[tokio::test(start_paused = true)]
async fn a_flood_in_one_namespace_delays_only_its_own_events() {
    let api = Api::default();
    for number in 0..50 {
        let mut pod = pod(&format!("p{number}"), false, 70_000);
        pod["metadata"]["namespace"] = json!("evil");
        pod["metadata"]["uid"] = json!(format!("aa-{number}"));
        api.put_pod(pod);
    }
    let cluster = simulated(&api, options());
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.api.lock().events.len() == 10).await;
    // The node's Events are used up when another pod loses its isolation.
    cluster.say(state(json!({"isolation": "lost"})));
    let posted = |cluster: &Cluster| cluster.api.lock().events.len();
    cluster.until(|cluster| cluster.reasons().contains(&"UserNamespaceLost".to_owned())).await;
    let before = posted(&cluster);
    assert!(before <= 13, "{before} Events, most of them of the flood, went before");
    // No Event of the flood is lost.
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    assert_eq!(posted(&cluster), 51);
    assert!(cluster.metric("usernsd_kube_events_dropped_total 0"));
    let reasons = cluster.reasons();
    for reason in &reasons {
        let sent = reasons.iter().filter(|other| *other == reason).count();
        assert!(
            cluster.metric(&format!("usernsd_kube_events_total{{reason=\"{reason}\"}} {sent}")),
            "{reason}"
        );
    }
    cluster.end().await;
}

#[tokio::test]
async fn a_pod_cannot_claim_an_event_about_another() {
    let api = Api::default();
    let mut forged = pod("forged", false, 1000);
    forged["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "uid-web"});
    forged["metadata"]["namespace"] = json!("evil");
    // The UID sorts last, so that it would win.
    forged["metadata"]["uid"] = json!("zz");
    api.put_pod(pod("web", true, 1000));
    api.put_pod(forged);
    // The kubelet's mirror of a static pod.
    let mut mirror = pod("static", false, 70_000);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    api.put_pod(mirror);
    let cluster = Cluster::start(api, options()).await;
    let mut output = serde_json::to_value(state(json!({"isolation": "lost"}))).unwrap();
    output["containers"][0]["userNamespace"]["host"] = json!(true);
    output["pods"]
        .as_array_mut()
        .unwrap()
        .push(json!({"namespace": "team-a", "name": "static", "uid": "hash",
        "userns": "pod", "sharedIds": {}, "cgroup": null, "containers": []}));
    cluster.say(serde_json::from_value(output).unwrap());
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceLost", "UserNotInMapping"]).await;
    let regarding = |reason: &str| {
        let inner = cluster.api.lock();
        let event = inner.events.values().find(|event| event["reason"] == reason).unwrap();
        (event["regarding"]["namespace"].clone(), event["regarding"]["uid"].clone())
    };
    assert_eq!(regarding("UserNamespaceLost"), (json!("team-a"), json!("uid-web")));
    assert_eq!(regarding("UserNotInMapping"), (json!("team-a"), json!("uid-static")), "as the API has it");
    assert_eq!(cluster.found(), [("static".to_owned(), MISFIT)]);
    let static_pod = cluster.misfits.borrow().first().unwrap().uid.clone();
    assert_eq!(static_pod, "hash", "as the node has it");
    cluster.end().await;
}

#[tokio::test]
async fn lists_become_rare_if_the_place_of_a_watch_is_lost_repeatedly() {
    let api = Api::default();
    let mut event = pod("web", false, 1000);
    event["metadata"]["resourceVersion"] = json!("4711");
    let text = format!(
        "{}\n{}\n",
        json!({"type": "MODIFIED", "object": event}),
        json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "old"}})
    );
    let text: &str = Box::leak(text.into_boxed_str());
    for _ in 0..1000 {
        api.fail("watch pods", Fault::Garbage(text));
    }
    assert_asked_rarely(api, "list pods", Pace { steady: Duration::from_secs(60), ..pace() }).await;
}

#[tokio::test]
async fn an_endless_answer_is_given_up() {
    let api = Api::default();
    api.fail("watch pods", Fault::Endless(32 << 20));
    let large = json!({"metadata": {"annotations": {"x": "y".repeat(17 << 20)}}}).to_string();
    api.fail("get nodes", Fault::Garbage(Box::leak(large.into_boxed_str())));
    let pace = Pace { silence: Duration::from_secs(3), ..pace() };
    let cluster = Cluster::start(api, Options { condition: ConditionPolicy::On, pace, ..options() }).await;
    cluster.say(state(json!({})));
    // A watch whose line does not end is one on which nothing arrives.
    cluster
        .until(|cluster| cluster.api.count("watch pods") >= 2 && cluster.api.count("get nodes") == 2)
        .await;
    assert_eq!(cluster.api.count("list pods"), 1);
    for request in ["watch_pods", "get_node"] {
        let line = format!("usernsd_kube_request_failures_total{{request=\"{request}\"}} 1");
        assert!(cluster.metric(&line), "{request}");
    }
    cluster.end().await;
}

#[tokio::test]
async fn an_event_has_the_time_of_its_cause_and_is_dropped_when_it_is_old() {
    let away = |api: &Api| (0..10_000).for_each(|_| api.fail("create events", Fault::Status(500, 0)));
    let back = |api: &Api| api.lock().faults.clear();
    let cluster = Cluster::start(Api::default(), options()).await;
    away(&cluster.api);
    cluster.say(state(json!({"isolation": "lost"})));
    cluster.until(|cluster| cluster.api.count("create events") > 2).await;
    let before = k8s_openapi::jiff::Timestamp::now();
    back(&cluster.api);
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceLost"]).await;
    let time = cluster.api.lock().events.values().next().unwrap()["eventTime"].as_str().unwrap().to_owned();
    let time: k8s_openapi::jiff::Timestamp = time.parse().unwrap();
    assert!(time <= before, "{time} is the time of the post");
    cluster.end().await;

    // Two at the same time: the second has waited as long as the first.
    let pace = Pace { event_age: 300 * MS, ..pace() };
    let cluster = Cluster::start(Api::default(), Options { pace, ..options() }).await;
    away(&cluster.api);
    let mut two = serde_json::to_value(state(json!({"isolation": "lost"}))).unwrap();
    two["pods"][0]["sharedIds"] = json!({"pod_pod": 5});
    cluster.say(serde_json::from_value(two).unwrap());
    cluster.until(|cluster| !cluster.metric("usernsd_kube_events_dropped_total 0")).await;
    back(&cluster.api);
    cluster.until(|cluster| cluster.metric("usernsd_kube_events_dropped_total 2")).await;
    assert!(cluster.reasons().is_empty());
    cluster.end().await;
}

#[tokio::test]
async fn events_wait_for_a_server_that_is_away() {
    let api = Api::default();
    for _ in 0..5 {
        api.fail("create events", Fault::Status(500, 0));
    }
    api.fail("create events", Fault::Garbage("<html>"));
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({"isolation": "lost"})));
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceLost"]).await;
    assert_eq!(cluster.api.count("create events"), 7);
    // An Event that the server refuses is dropped.
    cluster.api.fail("create events", Fault::Status(403, 0));
    cluster.say(state(json!({"state": "owner_wrong"})));
    cluster.until(|cluster| cluster.metric("usernsd_kube_events_dropped_total 1")).await;
    cluster.end().await;
}

/// Events of many pods at once, some of which the API server refuses: each is counted once, as sent or as dropped.
#[tokio::test(start_paused = true)]
async fn a_storm_of_refused_events_is_counted_event_by_event() {
    const PODS: usize = 24;
    const REFUSED: usize = 9;
    let api = Api::default();
    for number in 0..PODS {
        let mut pod = pod(&format!("p{number}"), false, 70_000);
        // Each namespace has a share of the node's Events of its own.
        pod["metadata"]["namespace"] = json!(format!("n{number}"));
        pod["metadata"]["uid"] = json!(format!("aa-{number}"));
        api.put_pod(pod);
    }
    for number in 0..REFUSED {
        // Others are tried again before.
        api.fail("create events", Fault::Status(500, 0));
        api.fail("create events", Fault::Status(if number % 2 == 0 { 403 } else { 422 }, 0));
    }
    let cluster = simulated(&api, options());
    cluster.say(state(json!({})));
    let sum = |name: &str| -> f64 {
        let text = cluster.metrics.render();
        let values = text.lines().filter(|line| line.starts_with(name));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let counted = || (sum("usernsd_kube_events_total{"), sum("usernsd_kube_events_dropped_total "));
    // The node's Events are limited to one each six seconds.
    for _ in 0..600 {
        if counted().0 + counted().1 >= PODS as f64 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(counted(), ((PODS - REFUSED) as f64, REFUSED as f64));
    assert_eq!(cluster.api.lock().events.len(), PODS - REFUSED);
    cluster.end().await;
}

/// Each kind of request fails some times, in every way in which an answer is a failure.
#[tokio::test]
async fn a_storm_of_failed_requests_is_counted_request_by_request() {
    let requests = [
        ("list_pods", "list pods"),
        ("watch_pods", "watch pods"),
        ("get_namespace", "get namespaces"),
        ("get_node", "get nodes"),
        ("patch_node", "patch nodes/status"),
        ("create_event", "create events"),
        ("patch_event", "patch events"),
    ];
    let failures = [429, 503, 500, 504, 401];
    const ROUNDS: usize = 4;
    let each = (ROUNDS * failures.len()) as f64;
    let api = Api::default();
    for (_, what) in requests {
        (0..ROUNDS).flat_map(|_| failures).for_each(|code| api.fail(what, Fault::Status(code, 0)));
    }
    let mut held = pod("held", true, 1050);
    held["metadata"]["annotations"] = json!({"openshift.io/scc": "restricted-v2"});
    api.put_pod(held);
    api.lock().namespaces.insert("team-a".into(), json!({"openshift.io/sa.scc.uid-range": "1000/100"}));
    let options = Options { condition: ConditionPolicy::On, ..options() };
    let cluster = Cluster::start(api, options).await;
    let lost = json!({"isolation": "lost"});
    cluster.say(state(lost.clone()));
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceLost"]).await;
    // The problem ends and recurs.
    cluster.say(state(json!({})));
    tokio::time::sleep(50 * MS).await;
    cluster.say(state(lost));
    cluster.until(|cluster| cluster.api.lock().faults.is_empty()).await;
    let answered = |cluster: &Cluster| requests.iter().all(|(_, what)| cluster.api.count(what) as f64 > each);
    cluster.until(answered).await;
    for (request, what) in requests {
        let line = format!("usernsd_kube_request_failures_total{{request=\"{request}\"}} {each}");
        cluster.until(|cluster| cluster.metric(&line)).await;
        // Requests that were not counted as failed were answered.
        assert!(cluster.api.count(what) as f64 > each, "{what}");
    }
    cluster.until(|cluster| cluster.metric("usernsd_kube_up 1")).await;
    cluster.end().await;
}

#[tokio::test]
async fn the_exporter_keeps_trying_if_there_is_no_api_server() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("none");
    let kube = Kube::new(Access::Kubeconfig(kubeconfig.clone()));
    let cluster = Cluster::on(Api::default(), kube, options(), dir, kubeconfig);
    cluster.say(state(json!({"isolation": "lost"})));
    cluster
        .until(|cluster| {
            cluster.metrics.render().lines().any(|line| {
                line.starts_with("usernsd_kube_request_failures_total{request=\"list_pods\"}")
                    && !line.ends_with(" 0")
            })
        })
        .await;
    assert!(cluster.metric("usernsd_kube_up 0"));
    assert!(!cluster.task.is_finished());
    cluster.end().await;
}

#[tokio::test]
async fn namespaces_are_asked_for_on_openshift_only() {
    let held = |name: &str, user: u32| {
        let mut pod = pod(name, true, user);
        pod["metadata"]["annotations"] = json!({"openshift.io/scc": "restricted-v2"});
        pod
    };
    let api = Api::default();
    api.put_pod(pod("plain", true, 5));
    let cluster = Cluster::start(api, options()).await;
    cluster.say(state(json!({})));
    cluster.until(|cluster| cluster.api.count("watch pods") >= 1).await;
    assert_eq!(cluster.api.count("get namespaces"), 0);
    let annotations = json!({"openshift.io/sa.scc.uid-range": "1000/100"});
    cluster.api.lock().namespaces.insert("team-a".into(), annotations);
    cluster.api.put_pod(held("inside", 1050));
    cluster.until(|cluster| cluster.api.count("get namespaces") == 1).await;
    cluster.api.put_pod(held("outside", 5000));
    cluster.until(|cluster| cluster.found() == [("outside".to_owned(), "user_not_in_namespace_range")]).await;
    // The range is edited, and a new pod makes the exporter read it.
    let annotations = json!({"openshift.io/sa.scc.uid-range": "1000-9999"});
    cluster.api.lock().namespaces.insert("team-a".into(), annotations);
    cluster.api.put_pod(held("third", 1001));
    cluster.until(|cluster| cluster.found().is_empty()).await;
    assert!(cluster.reasons().is_empty(), "a changed range is no reason for an Event");
    cluster.end().await;
}

#[tokio::test]
async fn the_node_condition_is_written_kept_and_removed() {
    let api = Api::default();
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady"});
    api.lock().conditions.insert("Ready".into(), ready);
    let condition = || {
        let mut state = state(json!({}));
        state.node.ready = Some(true);
        state
    };
    let on = || Options { condition: ConditionPolicy::On, ..options() };
    let cluster = Cluster::start(api, on()).await;
    cluster.say(condition());
    let written = |cluster: &Cluster| cluster.api.lock().conditions.get("UserNamespacesUnavailable").cloned();
    cluster.until(|cluster| written(cluster).is_some()).await;
    let first = written(&cluster).unwrap();
    assert_eq!((&first["status"], &first["reason"]), (&json!("False"), &json!("UserNamespacesWork")));
    let patch = {
        let inner = cluster.api.lock();
        inner.requests.iter().find(|seen| seen.what == "patch nodes/status").unwrap().clone()
    };
    assert_eq!((patch.query["fieldManager"].as_str(), patch.query["force"].as_str()), ("usernsd", "true"));
    assert!(patch.accept.contains("PartialObjectMetadata"), "the answer would be the whole Node");
    // An unchanged condition is not written again.
    cluster.say(condition());
    tokio::time::sleep(100 * MS).await;
    assert_eq!(cluster.api.count("patch nodes/status"), 1);
    let api = cluster.end().await;

    // An exporter that starts again keeps the transition time.
    let old = json!("2026-01-01T00:00:00Z");
    api.lock().conditions.get_mut("UserNamespacesUnavailable").unwrap()["lastTransitionTime"] = old.clone();
    let cluster = Cluster::start(api, on()).await;
    cluster.say(condition());
    cluster.until(|cluster| cluster.api.count("patch nodes/status") == 2).await;
    assert_eq!(written(&cluster).unwrap()["lastTransitionTime"], old);
    let api = cluster.end().await;

    let cluster = Cluster::start(api, Options { condition: ConditionPolicy::Remove, ..options() }).await;
    cluster.say(condition());
    cluster.until(|cluster| written(cluster).is_none()).await;
    assert!(cluster.api.lock().conditions.contains_key("Ready"), "the kubelet's is the kubelet's");
    cluster.end().await;
}

#[tokio::test]
async fn an_agent_that_is_away_makes_the_condition_unknown() {
    let options = Options { node: Some("worker-1".into()), condition: ConditionPolicy::On, ..options() };
    let cluster = Cluster::start(Api::default(), options).await;
    cluster
        .until(|cluster| {
            let inner = cluster.api.lock();
            inner
                .conditions
                .get("UserNamespacesUnavailable")
                .is_some_and(|one| one["reason"] == "AgentDoesNotAnswer")
        })
        .await;
    cluster.end().await;
}

/// A new agent has inspected nothing for a moment: that changes neither the condition nor Events.
#[tokio::test]
async fn condition_and_events_are_kept_while_an_agent_restarts() {
    let pace = Pace { agent_absence: Duration::from_secs(60), ..pace() };
    let options = Options { condition: ConditionPolicy::On, pace, ..options() };
    let cluster = Cluster::start(Api::default(), options).await;
    let of = |ready: Option<bool>, container: Value| {
        let mut state = state(container);
        state.node.ready = ready;
        state
    };
    let bad = json!({"isolation": "lost"});
    cluster.say(of(Some(false), bad.clone()));
    cluster.until(|cluster| cluster.reasons() == ["UserNamespaceLost", "UserNamespacesUnavailable"]).await;
    cluster.until(|cluster| cluster.api.count("patch nodes/status") == 1).await;
    cluster.say(of(None, json!({})));
    tokio::time::sleep(50 * MS).await;
    cluster.say(of(Some(false), bad));
    tokio::time::sleep(100 * MS).await;
    assert_eq!((cluster.api.count("patch nodes/status"), cluster.api.count("patch events")), (1, 0));
    cluster.end().await;
}

#[tokio::test]
async fn no_request_is_made_for_an_invalid_node_name() {
    let cluster =
        Cluster::start(Api::default(), Options { node: Some("Worker_1/..".into()), ..options() }).await;
    tokio::time::sleep(100 * MS).await;
    assert!(cluster.api.counts().is_empty() && !cluster.task.is_finished());
    cluster.end().await;
}

/// The binary itself, with a kubeconfig in its configuration, a token file, and an agent's socket.
#[tokio::test]
async fn the_exporter_reports_users_outside_their_mapping() {
    let api = Api::default();
    api.put_pod(pod("web", false, 70_000));
    let url = api.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    std::fs::write(file("token"), "first").unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": url}}],
        "users": [{"name": "a", "user": {"tokenFile": file("token")}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    });
    std::fs::write(file("kubeconfig"), kubeconfig.to_string()).unwrap();
    let config = json!({"kubernetes": {"kubeconfig": file("kubeconfig"), "events": "all"}});
    std::fs::write(file("config.yaml"), config.to_string()).unwrap();
    let (_changed, changes) = watch::channel(());
    let sources =
        Sources { document: Box::new(|| state(json!({})).render()), metrics: Box::new(String::new), changes };
    let _agent = serve(&file("socket"), &[nix::unistd::getuid().as_raw()], sources).unwrap();
    let mut exporter = std::process::Command::new(env!("CARGO_BIN_EXE_usernsd"))
        .args(["exporter", "--allow-root", "--http", "127.0.0.1:0", "--config"])
        .arg(file("config.yaml"))
        .arg("--state-socket")
        .arg(file("socket"))
        .env_clear()
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(exporter.stderr.take().unwrap());
    let address = tokio::task::spawn_blocking(move || {
        let mut lines = log.lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.split_once("address=")?.1.to_owned()));
        // Reads on, so that the exporter can continue to write.
        std::thread::spawn(move || lines.for_each(drop));
        address.unwrap()
    });
    let address = address.await.unwrap();
    let get = |path: &'static str| {
        let address = address.clone();
        tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address.trim()).unwrap();
            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    };
    // It starts at a random time in its first minute.
    let mut seen = String::new();
    for _ in 0..900 {
        seen = get("/metrics").await.unwrap();
        if seen.contains("usernsd_identity_misfits{reason=\"user_not_in_mapping\"} 1") {
            break;
        }
        tokio::time::sleep(100 * MS).await;
    }
    assert!(seen.contains("usernsd_kube_up 1"), "{seen}");
    let document = get("/api/v1/state").await.unwrap();
    let document: Value = serde_json::from_str(document.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let sentence = "container web runs as user 70000, which is not mapped into the pod's user namespace; choose a \
                    smaller runAsUser, or a larger userNamespaces.idsPerPod for the kubelet";
    assert_eq!(
        document["pods"][0]["misfits"],
        json!([{"reason": MISFIT, "container": "web", "sentence": sentence}])
    );
    exporter.kill().unwrap();
    exporter.wait().unwrap();
    assert_eq!(api.lock().unexpected, Vec::<String>::new());
}
