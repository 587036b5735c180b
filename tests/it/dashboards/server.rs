//! A Prometheus from Debian, which scrapes as `dashboards/podmonitor.yaml` specifies, on the loopback
//! interface of this machine or of a test node.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use super::catalogue::read;
use super::expressions::has_number;
use super::rules;

/// Time for two scrapes and two evaluations on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A running Prometheus. Dropping it kills it.
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
    network: Option<PathBuf>,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The relabeling that the operator generates.
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

/// The scrape configuration that the operator would generate from the PodMonitor. An agent is its node's
/// name, address and path, and runs in a pod of its own; `beside` contains other jobs.
pub(crate) fn configuration(agents: &[(&str, String, String)], beside: &[Value]) -> Value {
    let monitor: Value = serde_saphyr::from_str(&read("dashboards/podmonitor.yaml")).unwrap();
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let relabelings =
        |key: &str| endpoint[key].as_array().unwrap().iter().map(relabeling).collect::<Vec<Value>>();
    let target = |(number, (node, address, path)): (usize, &(&str, String, String))| {
        let pod = format!("usernsd-x7f2{number}");
        json!({"targets": [address], "labels": {
            // The operator's own relabelings: the location of the agent's pod.
            "job": "usernsd/usernsd", "namespace": "usernsd", "pod": pod,
            "container": "agent", "endpoint": "metrics",
            "__meta_kubernetes_pod_node_name": node, "__meta_kubernetes_pod_name": pod,
            "__metrics_path__": path,
        }})
    };
    let mut jobs = vec![json!({
        "job_name": "podMonitor/usernsd/usernsd/0",
        "honor_labels": endpoint["honorLabels"],
        "sample_limit": monitor["spec"]["sampleLimit"],
        "label_value_length_limit": monitor["spec"]["labelValueLengthLimit"],
        "relabel_configs": relabelings("relabelings"),
        "metric_relabel_configs": relabelings("metricRelabelings"),
        "static_configs": agents.iter().enumerate().map(target).collect::<Vec<_>>(),
    })];
    jobs.extend_from_slice(beside);
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
    })
}

/// Calls `act` in a network namespace, on a thread that enters it and ends.
fn within<T: Send>(network: Option<&Path>, act: impl FnOnce() -> T + Send) -> T {
    let Some(network) = network else { return act() };
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(File::open(network).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            act()
        });
        there.join().unwrap()
    })
}

impl Prometheus {
    /// Starts it in a network namespace or in this one; returns when it has reported readiness.
    pub(crate) fn start(program: &Path, configuration: &Value, network: Option<&Path>) -> Prometheus {
        // It does not accept port 0, and another process may take a free port before it does.
        let tries = (0..3).map(|_| Prometheus::try_start(program, configuration, network));
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

    fn try_start(
        program: &Path,
        configuration: &Value,
        network: Option<&Path>,
    ) -> Result<Prometheus, String> {
        let dir = tempfile::tempdir().unwrap();
        // JSON is valid YAML.
        fs::write(dir.path().join("prometheus.yaml"), configuration.to_string()).unwrap();
        fs::write(dir.path().join("rules.yaml"), rules::plain(&read("dashboards/alerts.yaml"))).unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = within(network, free);
        let mut command = Command::new(program);
        // A child is in the network namespace of the thread that starts it.
        command
            .current_dir(dir.path())
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).unwrap());
        let child = within(network, || command.spawn().unwrap());
        let mut prometheus = Prometheus { child, address, dir, network: network.map(Path::to_owned) };
        let started = Instant::now();
        while prometheus.get("/-/ready").is_none_or(|answer| !answer.contains("Ready")) {
            if prometheus.child.try_wait().unwrap().is_some() || started.elapsed() > PATIENCE {
                return Err(prometheus.log());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(prometheus)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// HTTP/1.0, so that the answer is not chunked. None if there is no answer.
    fn ask(&self, request: &str) -> Option<String> {
        let mut stream = within(self.network.as_deref(), || TcpStream::connect(self.address)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    fn get(&self, path: &str) -> Option<String> {
        self.ask(&format!("GET {path} HTTP/1.0\r\n\r\n"))
    }

    pub(crate) fn api(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).unwrap()).unwrap()
    }

    /// The series that an expression returns; an error has Prometheus's own words.
    pub(crate) fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
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

    /// Asks until all expressions have data. Returns those that have none in the end, or are refused.
    pub(crate) fn without_data(&self, asked: &[(String, String)]) -> Vec<String> {
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
            // An expression that cannot be parsed is not asked again.
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
