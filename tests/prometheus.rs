//! A real Prometheus scrapes three nodes as `dashboards/podmonitor.yaml` says, loads the rules, and
//! evaluates every expression of the dashboards and alerts: each must parse and return data. It is
//! Debian's, on loopback; nothing else is spoken to.

#![allow(clippy::unwrap_used, reason = "a test's failure is a panic")]
#![allow(clippy::panic, reason = "a test's failure is a panic")]
#![allow(clippy::indexing_slicing, reason = "JSON that lacks a key is null")]

#[path = "dashboards/catalogue.rs"]
#[allow(dead_code, reason = "tests/dashboards.rs uses it too")]
mod catalogue;
#[path = "dashboards/exposition.rs"]
mod exposition;
#[path = "dashboards/promql.rs"]
#[allow(dead_code, reason = "tests/dashboards.rs uses it too")]
mod promql;
#[path = "dashboards/rules.rs"]
#[allow(dead_code, reason = "tests/dashboards.rs uses it too")]
mod rules;
#[path = "dashboards/tools.rs"]
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use catalogue::{Catalogue, read};
use exposition::Node;
use rules::Rules;

/// Expressions that return nothing here, and why.
const EMPTY: [(&str, &str); 2] = [
    ("alert UsernsdAbsent", "there are targets; its unit test has it without"),
    ("variable cluster", "one Prometheus for one cluster puts no such label on anything"),
];
/// Two scrapes and two evaluations, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

// === the nodes ===

/// Serves what the nodes say: `/NODE/metrics`, `/kubelet/metrics`.
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
            // Who hangs up early asks again.
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
    let body = match Node::ALL.into_iter().find(|node| node.name() == who) {
        Some(node) => exposition::exposition(catalogue, node, scrape),
        None => exposition::kubelet(scrape),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

// === Prometheus ===

/// A running Prometheus; killed when dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the operator makes of a relabeling.
fn relabeling(of: &Value) -> Value {
    let mut made = serde_json::Map::new();
    for (key, value) in of.as_object().unwrap() {
        let key = match key.as_str() {
            "sourceLabels" => "source_labels",
            "targetLabel" => "target_label",
            "action" | "regex" | "replacement" => key,
            other => panic!("the operator's {other} is not known here"),
        };
        made.insert(key.to_owned(), value.clone());
    }
    made.into()
}

/// The scrape configuration that the operator would make of the PodMonitor.
fn configuration(nodes: SocketAddr, monitor: &Value) -> Value {
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let relabelings: Vec<Value> =
        endpoint["relabelings"].as_array().unwrap().iter().map(relabeling).collect();
    let target = |address: String, node: &str| {
        json!({"targets": [address], "labels": {
            // The operator's own relabelings: where the agent's pod is.
            "job": "usernsd/usernsd", "namespace": "usernsd", "pod": "usernsd-x7f2q",
            "container": "agent", "endpoint": "metrics",
            "__meta_kubernetes_pod_node_name": node,
            "__metrics_path__": format!("/{node}/metrics"),
        }})
    };
    let mut targets: Vec<Value> =
        Node::ALL.iter().map(|node| target(nodes.to_string(), node.name())).collect();
    // Nobody listens there: a port that was free a moment ago.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    targets.push(target(gone.to_string(), "worker-4"));
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": "podMonitor/usernsd/usernsd/0",
                "honor_labels": endpoint["honorLabels"],
                "sample_limit": monitor["spec"]["sampleLimit"],
                "label_value_length_limit": monitor["spec"]["labelValueLengthLimit"],
                "relabel_configs": relabelings,
                "static_configs": targets,
            },
            {
                "job_name": "kubelet",
                "honor_labels": true,
                "metrics_path": "/kubelet/metrics",
                "static_configs": [{"targets": [nodes.to_string()]}],
            },
        ],
    })
}

impl Prometheus {
    /// Starts it; it is ready when it says so.
    fn start(program: &Path, configuration: &Value) -> Prometheus {
        // It takes no port 0, and between two looks another may take the port.
        let tries = (0..3).map(|_| Prometheus::try_start(program, configuration));
        let mut failures = Vec::new();
        for tried in tries {
            match tried {
                Ok(prometheus) => return prometheus,
                Err(log) if log.contains("address already in use") => failures.push(log),
                Err(log) => panic!("no Prometheus: {log}"),
            }
        }
        panic!("no Prometheus: {failures:#?}")
    }

    fn try_start(program: &Path, configuration: &Value) -> Result<Prometheus, String> {
        let dir = tempfile::tempdir().unwrap();
        // JSON is YAML.
        fs::write(dir.path().join("prometheus.yaml"), configuration.to_string()).unwrap();
        fs::write(dir.path().join("rules.yaml"), rules::plain(&read("dashboards/alerts.yaml"))).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(program)
            .current_dir(dir.path())
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut prometheus = Prometheus { child, address, dir };
        let started = Instant::now();
        while prometheus.get("/-/ready").is_none_or(|answer| !answer.contains("Ready")) {
            if prometheus.child.try_wait().unwrap().is_some() || started.elapsed() > PATIENCE {
                return Err(prometheus.log());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(prometheus)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// HTTP/1.0, so that the answer comes whole and not in chunks. None: nobody answers.
    fn ask(&self, request: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    fn get(&self, path: &str) -> Option<String> {
        self.ask(&format!("GET {path} HTTP/1.0\r\n\r\n"))
    }

    fn api(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).unwrap()).unwrap()
    }

    /// The series an expression returns; an error is Prometheus' own words.
    fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let body = format!("query={encoded}");
        let answer = self
            .ask(&format!(
                "POST /api/v1/query HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .ok_or("Prometheus hung up")?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        match answer["data"]["result"].as_array() {
            Some(series) if answer["status"] == "success" => Ok(series.clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// Asks until everything has data. Returns what has none in the end, or is refused.
    fn without_data(&self, asked: &[(String, String)]) -> Vec<String> {
        let started = Instant::now();
        let mut left: Vec<&(String, String)> = asked.iter().collect();
        loop {
            let mut complaints = Vec::new();
            left.retain(|(name, expr)| match self.query(expr) {
                Ok(series) if has_number(&series) => false,
                Ok(series) => {
                    complaints.push(format!("{name}: {expr}: {} series, no number", series.len()));
                    true
                }
                Err(error) => {
                    complaints.push(format!("{name}: {expr}: {error}"));
                    true
                }
            });
            // What cannot be parsed does not get better.
            let refused = |complaint: &&String| complaint.contains("parse error");
            if complaints.iter().any(|complaint| refused(&complaint)) {
                return complaints.iter().filter(refused).cloned().collect();
            }
            if left.is_empty() || started.elapsed() > PATIENCE {
                return complaints;
            }
            thread::sleep(Duration::from_millis(500));
        }
    }
}

/// NaN is what 0/0 gives.
fn has_number(series: &[Value]) -> bool {
    series.iter().any(|one| one["value"][1].as_str().is_some_and(|value| value != "NaN"))
}

// === the expressions ===

/// Those of a dashboard: by panel and target, and its variables.
fn of_board(file: &str, board: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let rows =
        board["rows"].as_array().into_iter().flatten().flat_map(|row| row["panels"].as_array().unwrap());
    for panel in board["panels"].as_array().into_iter().flatten().chain(rows) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let name = format!("{file} {} {}", panel["title"], target["refId"]);
            found.push((name, promql::filled(target["expr"].as_str().unwrap())));
        }
    }
    for variable in board["templating"]["list"].as_array().unwrap().iter().filter(|of| of["type"] == "query")
    {
        let query = variable["query"].as_str().unwrap();
        let inside = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
        let (selector, label) = inside.rsplit_once(", ").unwrap();
        // A series without the label is none of its values.
        let some = selector.replace('}', &format!(", {label}!=\"\"}}"));
        let some = if some.contains('{') { some } else { format!("{selector}{{{label}!=\"\"}}") };
        found.push((format!("variable {}", variable["name"].as_str().unwrap()), promql::filled(&some)));
    }
    found
}

fn asked() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in ["dashboards/fleet.json", "dashboards/node.json"] {
        found.extend(of_board(file, &serde_json::from_str(&read(file)).unwrap()));
    }
    for document in read("dashboards/openshift-console.yaml").split("---\n") {
        let map: Value = serde_saphyr::from_str(document).unwrap();
        for (file, text) in map["data"].as_object().unwrap() {
            found.extend(of_board(file, &serde_json::from_str(text.as_str().unwrap()).unwrap()));
        }
    }
    let rules = Rules::read();
    for alert in &rules.alerts {
        found.push((format!("alert {}", alert.name), alert.expr.clone()));
    }
    for (name, expr) in rules.recorded {
        found.push((format!("recorded {name}"), expr));
        found.push((format!("record {name}"), name));
    }
    found.sort();
    found.dedup();
    found
}

// === the tests ===

#[test]
fn the_nodes_say_every_metric_once_and_well() {
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
            // Only where something is wrong.
            let rare =
                ["usernsd_pod_overlap_ids", "usernsd_container_lost_isolation"].contains(&name.as_str());
            assert!(there || rare && node != Node::Broken, "{name} is missing on {node:?}");
        }
        if let Some(promtool) = &promtool {
            let (good, said) = tools::run(Command::new(promtool).args(["check", "metrics"]), &text);
            assert!(good, "{said}");
        }
    }
}

#[test]
fn every_expression_returns_data() {
    let Some(program) = tools::found_or_skip("prometheus") else { return };
    let monitor: Value = serde_saphyr::from_str(&read("dashboards/podmonitor.yaml")).unwrap();
    let nodes = serve(rules::catalogue());
    let prometheus = Prometheus::start(&program, &configuration(nodes, &monitor));

    // What must be found empty or wrong is.
    assert!(prometheus.query("sum(").unwrap_err().contains("parse error"));
    assert!(!has_number(&prometheus.query("usernsd_nothing").unwrap()));
    assert!(!has_number(&prometheus.query("vector(0) / 0").unwrap()));

    let (empty, full): (Vec<_>, Vec<_>) =
        asked().into_iter().partition(|(name, _)| EMPTY.iter().any(|(empty, _)| empty == name));
    assert!(full.len() > 100, "{} expressions", full.len());
    let complaints = prometheus.without_data(&full);
    assert!(complaints.is_empty(), "{complaints:#?}\n{}", prometheus.log());
    assert_eq!(empty.len(), EMPTY.len(), "an exception that is none: {empty:?}");
    for (name, expr) in &empty {
        let series = prometheus.query(expr).unwrap();
        assert!(series.is_empty(), "{name} has data, remove the exception: {series:?}");
    }

    labels_are_ours(&prometheus);
    rules_are_healthy(&prometheus);
    let log = prometheus.log();
    assert!(!log.contains("level=error") && !log.contains("duplicate"), "{log}");
}

/// `honorLabels` and the relabelings: series of pods keep their labels, those of the node have none
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
        for label in ["pod", "container", "endpoint"] {
            assert!(build["metric"].get(label).is_none(), "{build}");
        }
    }
    let down = prometheus.query("up{job=\"usernsd\"} == 0").unwrap();
    assert_eq!(down.len(), 1);
    assert_eq!(down[0]["metric"]["instance"], "worker-4");
}

/// Every rule was evaluated well, every alert but the excepted is on its way, its texts are expanded.
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
