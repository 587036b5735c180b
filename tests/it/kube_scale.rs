//! The number of requests from the exporters of a large cluster: counted for some nodes over a simulated day,
//! and compared with `docs/scale.md`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::fakes::kube_api::Api;
use serde_json::{Value, json};
use tokio::sync::watch;
use usernsd_domain::condition::ConditionPolicy;
use usernsd_domain::event::EventPolicy;
use usernsd_domain::node::Exposition;
use usernsd_linux::proc::Proc;
use usernsd_peers::kube::Kube;
use usernsd_report::authorization::Gatekeeper;
use usernsd_report::cluster::{self, Options, Pace};
use usernsd_report::follow::Follower;
use usernsd_report::http::Admission;
use usernsd_report::metrics::ExporterMetrics;
use usernsd_report::metrics::cluster::ClusterMetrics;
use usernsd_report::state::State;

/// Number of simulated nodes; the table is for 5,000.
const NODES: u32 = 16;
const DAY: u64 = 86_400;
/// Interval at which a pod is replaced on each node, in seconds.
const CHURN: u64 = 600;
const SCRAPES: Duration = Duration::from_secs(30);
const PODS: usize = 40;
const NAMESPACES: usize = 10;

fn pod(number: usize, generation: u64) -> Value {
    json!({
        "metadata": {"name": format!("p{number}-{generation}"), "namespace": format!("team-{}", number % NAMESPACES),
            "uid": format!("uid-{number}-{generation}"), "annotations": {"openshift.io/scc": "restricted-v2"}},
        "spec": {"nodeName": "worker-1", "containers": [{"name": "web", "securityContext": {"runAsUser": 1001}}]},
        "status": {"phase": "Running"},
    })
}

fn state() -> State {
    let peer = json!({"state": "up", "since": "", "reconnects": 0, "lastError": null});
    serde_json::from_value(json!({
        "version": 1, "node": {"name": "worker-1", "runtime": null, "ready": true},
        "agent": {"version": "0.1.0", "startedAt": "a"}, "peers": {"cri": peer, "nri": peer, "systemd": peer},
        "containers": [],
    }))
    .unwrap()
}

/// Reads the metrics at the interval of `dashboards/podmonitor.yaml`, until it is aborted.
async fn scrape(keeper: Gatekeeper, first: Duration) {
    tokio::time::sleep(first).await;
    loop {
        assert_eq!(keeper.admit([10, 128, 0, 1].into(), "token", "/metrics").await, Admission::Granted);
        tokio::time::sleep(SCRAPES).await;
    }
}

/// Simulates a day of one node, the `node`th: the number of requests of each kind in the first hour and in the day.
async fn day(node: u32) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let api = Api::default();
    for number in 0..NAMESPACES {
        let annotations = json!({"openshift.io/sa.scc.uid-range": "1000/1000"});
        api.lock().namespaces.insert(format!("team-{number}"), annotations);
    }
    (0..PODS).for_each(|number| api.put_pod(pod(number, 0)));
    let (_follower, followed) = Follower::new("/none".into(), SystemTime::UNIX_EPOCH);
    let metrics = ExporterMetrics::new(followed.link).unwrap();
    let counted = ClusterMetrics::new(&metrics, Exposition::default()).unwrap();
    let (states, heard) = watch::channel(Some(Arc::new(state())));
    let options = Options {
        node: None,
        instance: None,
        events: EventPolicy::Warnings,
        condition: ConditionPolicy::On,
        namespaces: true,
        pace: Pace::default(),
        proc: Proc::new(Path::new("/proc")),
    };
    let kube = Arc::new(Kube::of(api.client()));
    let misfits = watch::Sender::new(Arc::default());
    let task = tokio::spawn(cluster::run(options, kube, heard, counted, misfits));
    let keeper = Gatekeeper::new(Kube::of(api.client()));
    // Prometheus spreads the nodes' scrapes over its interval.
    let scraper = tokio::spawn(scrape(keeper, SCRAPES * node / NODES));
    let mut at_start = BTreeMap::new();
    for generation in 1..=DAY / CHURN {
        tokio::time::sleep(Duration::from_secs(CHURN)).await;
        // The state document changes all the time, without a change that matters to the cluster.
        states.send_replace(Some(Arc::new(state())));
        if generation == 1 {
            at_start = api.counts();
        }
        let number = usize::try_from(generation).unwrap() % PODS;
        let (old, _) = api
            .lock()
            .pods
            .iter()
            .find(|(uid, _)| uid.starts_with(&format!("uid-{number}-")))
            .map(|(uid, pod)| (uid.clone(), pod.clone()))
            .unwrap();
        api.delete_pod(&old);
        api.put_pod(pod(number, generation));
    }
    assert!(!task.is_finished(), "a task ended by itself");
    assert!(!scraper.is_finished(), "a scrape was refused");
    task.abort();
    scraper.abort();
    assert_eq!(api.lock().unexpected, Vec::<String>::new());
    (at_start, api.counts())
}

/// The rows of the table: the request, per node, and per second for 5,000 nodes.
fn table(page: &str, head: &str) -> Vec<(String, f64, f64)> {
    let table = page.split(head).nth(1).unwrap().split("\n\n").find(|part| part.starts_with('|')).unwrap();
    let rows = table.lines().skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells[1].parse().unwrap(), cells[2].parse().unwrap())
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn the_page_has_the_measured_figures() {
    let mut nodes = tokio::task::JoinSet::new();
    (0..NODES).for_each(|node| {
        nodes.spawn(day(node));
    });
    let (mut first, mut whole) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    while let Some(counts) = nodes.join_next().await {
        let (at_start, all) = counts.unwrap();
        at_start.into_iter().for_each(|(what, count)| *first.entry(what).or_default() += count);
        all.into_iter().for_each(|(what, count)| *whole.entry(what).or_default() += count);
    }
    let page = include_str!("../../docs/scale.md");
    let day = u32::try_from(DAY).map(f64::from).unwrap();
    for (counts, head, seconds) in [(&whole, "## A day", Some(day)), (&first, "## The start", None)] {
        let mut rows = table(page, head);
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let measured: Vec<(String, f64)> = counts
            .iter()
            .map(|(what, count)| (what.clone(), f64::from(u32::try_from(*count).unwrap()) / 16.0))
            .collect();
        println!("{head}: {measured:?}");
        let names: Vec<&String> = measured.iter().map(|(what, _)| what).collect();
        assert_eq!(rows.iter().map(|row| &row.0).collect::<Vec<_>>(), names, "{measured:?}");
        for ((what, per_node, per_second), (_, measured)) in rows.into_iter().zip(&measured) {
            assert!((per_node - measured).abs() <= 0.6_f64.max(measured * 0.08), "{what}: {measured}");
            if let Some(seconds) = seconds {
                let rate = per_node * 5_000.0 / seconds;
                assert!((rate - per_second).abs() <= 0.05, "{what}: {rate} a second");
            }
        }
    }
}
