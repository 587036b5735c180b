//! A real Prometheus, Debian's, scrapes three nodes as `dashboards/podmonitor.yaml` specifies, loads the
//! rules, and evaluates every expression of the dashboards and alerts: each must parse and return data. It
//! uses only the loopback interface.

use crate::dashboards::exposition;
use crate::dashboards::rules;
use crate::dashboards::server;
use crate::dashboards::tools;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::dashboards::catalogue::Catalogue;
use crate::dashboards::exposition::Node;
use crate::dashboards::expressions::{asked, has_number};
use crate::dashboards::rules::Rules;
use crate::dashboards::server::{PATIENCE, Prometheus};

/// Expressions that return nothing here, with the reason.
const EMPTY: [(&str, &str); 3] = [
    ("alert UsernsdAbsent", "there are targets; its unit test has it without"),
    ("alert UsernsdIdPoolFullSoon", "nothing is 5 hours old; its unit test has that"),
    ("variable cluster", "one Prometheus for one cluster puts no such label on anything"),
];

// === the nodes ===

/// Serves the nodes' expositions: `/NODE/metrics`, `/kubelet/metrics`.
fn serve(catalogue: Catalogue) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let scrapes: BTreeMap<&str, AtomicU32> = Node::ALL
            .map(Node::name)
            .into_iter()
            .chain(["kubelet"])
            .map(|name| (name, AtomicU32::new(0)))
            .collect();
        for stream in listener.incoming() {
            // A client that disconnects early asks again.
            let _ = answer(stream.unwrap(), &catalogue, &scrapes);
        }
    });
    address
}

fn answer(
    mut stream: TcpStream,
    catalogue: &Catalogue,
    scrapes: &BTreeMap<&str, AtomicU32>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let who = request.split('/').nth(1).unwrap_or_default();
    let scrape = scrapes.get(who).map_or(0, |count| count.fetch_add(1, Ordering::Relaxed) + 1);
    let body = match (who, Node::ALL.into_iter().find(|node| node.name() == who)) {
        (_, Some(node)) => exposition::exposition(catalogue, node, scrape),
        // Two agents of a node: one that has counted for long, and one that has just started.
        ("before", None) => {
            "usernsd_refusals_total{reason=\"lost_isolation\"} 5\nusernsd_node_ready 1\n".into()
        }
        ("after", None) => {
            "usernsd_refusals_total{reason=\"lost_isolation\"} 0\nusernsd_node_ready 1\n".into()
        }
        (_, None) => exposition::kubelet(scrape),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn prometheus(program: &Path, nodes: SocketAddr) -> Prometheus {
    let agent = |node: &Node| (node.name(), nodes.to_string(), format!("/{}/metrics", node.name()));
    let mut agents: Vec<_> = Node::ALL.iter().map(agent).collect();
    // A target that does not listen: a port that was free a moment ago.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    agents.push(("worker-4", gone.to_string(), "/metrics".to_owned()));
    let kubelet = json!({
        "job_name": "kubelet",
        "honor_labels": true,
        "metrics_path": "/kubelet/metrics",
        "static_configs": [{"targets": [nodes.to_string()]}],
    });
    Prometheus::start(program, &server::configuration(&agents, &[kubelet]), None)
}

// === the tests ===

#[test]
fn each_node_exposes_every_metric_once() {
    let catalogue = rules::catalogue();
    let promtool = tools::found_or_skip("promtool");
    for node in Node::ALL {
        let text = exposition::exposition(&catalogue, node, 3);
        let mut series = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, _) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(name), "{name} twice");
        }
        for name in catalogue.metrics.keys() {
            let there = series.iter().any(|series| {
                series
                    .strip_prefix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['{', '_']))
            });
            // Series that exist only if something is wrong.
            let rare =
                ["usernsd_pod_overlap_ids", "usernsd_container_lost_isolation"].contains(&name.as_str());
            assert!(there || rare && node != Node::Broken, "{name} is missing on {node:?}");
        }
        if let Some(promtool) = &promtool {
            let (good, output) = tools::run(Command::new(promtool).args(["check", "metrics"]), &text);
            assert!(good, "{output}");
        }
    }
}

#[test]
fn every_expression_returns_data() {
    let Some(program) = tools::found_or_skip("prometheus") else { return };
    let prometheus = prometheus(&program, serve(rules::catalogue()));

    // Broken expressions are reported as empty or invalid.
    assert!(prometheus.query("sum(").unwrap_err().contains("parse error"));
    assert!(!has_number(&prometheus.query("usernsd_nothing").unwrap()));
    assert!(!has_number(&prometheus.query("vector(0) / 0").unwrap()));

    let (empty, full): (Vec<_>, Vec<_>) =
        asked().into_iter().partition(|(name, _)| EMPTY.iter().any(|(empty, _)| empty == name));
    assert!(full.len() > 100, "{} expressions", full.len());
    let complaints = prometheus.without_data(&full);
    assert!(complaints.is_empty(), "{complaints:#?}\n{}", prometheus.log());
    assert_eq!(empty.len(), EMPTY.len(), "an exception without an effect: {empty:?}");
    for (name, expr) in &empty {
        let series = prometheus.query(expr).unwrap();
        assert!(series.is_empty(), "{name} has data, remove the exception: {series:?}");
    }

    labels_are_ours(&prometheus);
    rules_are_healthy(&prometheus);
    let log = prometheus.log();
    assert!(!log.contains("level=error") && !log.contains("duplicate"), "{log}");
}

#[test]
fn agents_of_one_node_that_overlap_count_for_themselves() {
    let Some(program) = tools::found_or_skip("prometheus") else { return };
    let address = serve(rules::catalogue()).to_string();
    let agents = ["before", "after"].map(|pod| ("worker-1", address.clone(), format!("/{pod}/metrics")));
    let prometheus = Prometheus::start(&program, &server::configuration(&agents, &[]), None);
    let number = |expr: &str| -> f64 {
        let found = prometheus.query(expr).unwrap();
        found.first().map_or(0.0, |series| series["value"][1].as_str().unwrap().parse().unwrap())
    };
    let started = Instant::now();
    while number("sum(count_over_time(usernsd_refusals_total[15m]))") < 12.0 {
        assert!(started.elapsed() < PATIENCE, "{}", prometheus.log());
        thread::sleep(Duration::from_millis(500));
    }
    let rules = Rules::read();
    let alert = rules.alerts.iter().find(|alert| alert.name == "UsernsdStartRefused").unwrap();
    assert_eq!(prometheus.query(&alert.expr).unwrap(), Vec::<Value>::new(), "a restart that did not happen");
    for (expr, want) in [
        ("count(usernsd_refusals_total)", 2.0),
        ("count(up{job=\"usernsd\"})", 2.0),
        // A node's series are the same before and after a roll-out.
        ("count(usernsd_node_ready)", 1.0),
    ] {
        assert_eq!(number(expr), want, "{expr}");
    }
}

/// `honorLabels` and the relabelings: series about pods keep their labels, and those about the node have none
/// of the agent's pod.
fn labels_are_ours(prometheus: &Prometheus) {
    let pods = prometheus.query("usernsd_pod_info").unwrap();
    assert_eq!(pods.len(), 6);
    for pod in &pods {
        let labels = &pod["metric"];
        assert!(["web-0", "ci-0"].contains(&labels["pod"].as_str().unwrap()), "{labels}");
        assert!(labels.get("exported_pod").is_none(), "{labels}");
        assert_eq!(labels["job"], "usernsd");
        assert!(labels["instance"].as_str().unwrap().starts_with("worker-"), "{labels}");
    }
    for build in prometheus.query("usernsd_build_info").unwrap() {
        for label in ["pod", "container", "endpoint", "agent_pod"] {
            assert!(build["metric"].get(label).is_none(), "{build}");
        }
    }
    let down = prometheus.query("up{job=\"usernsd\"} == 0").unwrap();
    assert_eq!(down.len(), 1);
    assert_eq!(down[0]["metric"]["instance"], "worker-4");
}

/// Every rule was evaluated, every alert except for the listed ones is pending or firing, and its texts are
/// expanded.
fn rules_are_healthy(prometheus: &Prometheus) {
    let rules = Rules::read();
    let excepted = |name: &str| EMPTY.iter().any(|(empty, _)| *empty == format!("alert {name}"));
    let names = rules.alerts.iter().map(|alert| alert.name.clone());
    let want: BTreeSet<String> = names.filter(|name| !excepted(name)).collect();
    let started = Instant::now();
    let alerts = loop {
        let answer = prometheus.api("/api/v1/alerts");
        let alerts = answer["data"]["alerts"].as_array().unwrap().clone();
        let labels = alerts.iter().map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned());
        let pending: BTreeSet<String> = labels.collect();
        if pending == want {
            break alerts;
        }
        assert!(started.elapsed() < PATIENCE, "{pending:?} instead of {want:?}");
        thread::sleep(Duration::from_millis(500));
    };
    for alert in &alerts {
        for text in alert["annotations"].as_object().unwrap().values() {
            let text = text.as_str().unwrap();
            let bad = ["<error", "<no value>", "{{", "  "].iter().any(|bad| text.contains(bad));
            assert!(!bad, "{text}");
        }
    }
    let answer = prometheus.api("/api/v1/rules");
    let groups = answer["data"]["groups"].as_array().unwrap();
    let evaluated: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert_eq!(evaluated.len(), rules.alerts.len() + rules.recorded.len());
    for rule in evaluated {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}
