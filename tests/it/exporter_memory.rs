//! Memory use of the exporter, for anything that an API server can send about its node.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use usernsd_report::state::{Sources, State, StateServer, serve};

use crate::fakes::kube_api::Api;

const DAEMON_SET: &str = include_str!("../../daemonset/base/daemonset.yaml");
/// Maximum memory use besides file pages, in KiB: half of the container's limit.
const LIMIT: u64 = 64 << 10;
/// It asks the API server at a random time in its first minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// An exporter with its agent's state and its API server. Dropping it kills the exporter.
struct Exporter {
    child: Child,
    address: String,
    api: Api,
    _agent: (StateServer, watch::Sender<()>),
    _directory: tempfile::TempDir,
}

impl Exporter {
    fn start(api: Api) -> Exporter {
        let url = serve_on_a_thread(api.clone());
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": url}}],
            "users": [{"name": "a", "user": {"token": "its-own"}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        fs::write(file("kubeconfig"), kubeconfig.to_string()).unwrap();
        let config = json!({"kubernetes": {"kubeconfig": file("kubeconfig"), "events": "all"}});
        fs::write(file("config.yaml"), config.to_string()).unwrap();
        let (changed, changes) = watch::channel(());
        let sources =
            Sources { document: Box::new(|| state().render()), metrics: Box::new(String::new), changes };
        let agent = serve(&file("socket"), &[nix::unistd::getuid().as_raw()], sources).unwrap();
        let address = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_usernsd"))
            .args(["exporter", "--allow-root", "--http", &address, "--config"])
            .arg(file("config.yaml"))
            .arg("--state-socket")
            .arg(file("socket"))
            .env_clear()
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Exporter { child, address, api, _agent: (agent, changed), _directory: directory }
    }

    fn scrape(&self) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Waits for a sample.
    #[track_caller]
    fn wait(&self, sample: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.scrape().unwrap_or_default();
            if seen.contains(sample) {
                return;
            }
            let kube = || seen.lines().filter(|line| line.contains("kube")).collect::<Vec<_>>().join("\n");
            assert!(Instant::now() < end, "no {sample}:\n{}", kube());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Peak memory use besides file pages, in KiB.
    #[track_caller]
    fn assert_bounded(&self, what: &str) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let files = field("RssFile");
        let own = field("VmHWM") - files;
        eprintln!("{what}: at most {own} KiB, and {files} KiB of files");
        assert!(own <= LIMIT, "{what}: {own} KiB, more than {LIMIT}");
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves the API until the test ends; returns its URL.
fn serve_on_a_thread(api: Api) -> String {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            told.send(api.serve().await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    address.recv().unwrap()
}

/// An address that nobody uses.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn state() -> State {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state.json");
    let mut state: State = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    state.node.name = "worker-1".into();
    state.node.ready = Some(true);
    state
}

/// A pod whose container has a user that the pod does not map: one misfit.
fn pod(number: usize) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": format!("p{number}"), "namespace": "team-a", "uid": format!("uid-{number}"),
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"x": "y".repeat(100)}}]},
        "spec": {"nodeName": "worker-1", "hostUsers": false, "containers":
            [{"name": "web", "image": "i", "securityContext": {"runAsUser": 70_000}}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "web", "ready": true}]},
    })
}

#[test]
fn the_limit_is_half_of_the_containers() {
    let exporter = DAEMON_SET.split("- name: exporter").nth(1).unwrap();
    let limit = exporter.split("limits: {memory: ").nth(1).unwrap().split("Mi}").next().unwrap();
    assert_eq!(limit.parse::<u64>().unwrap() << 10, LIMIT * 2);
}

#[test]
fn memory_of_the_exporter_is_bounded_with_ten_thousand_pods() {
    let api = Api::default();
    (0..10_000).for_each(|number| api.put_pod(pod(number)));
    let exporter = Exporter::start(api);
    exporter.wait("usernsd_identity_misfits{reason=\"user_not_in_mapping\"} 2500");
    exporter.assert_bounded("ten thousand pods");
}

#[test]
fn memory_of_the_exporter_is_bounded_with_events_of_nine_mebibytes() {
    let exporter = Exporter::start(Api::default());
    exporter.wait("usernsd_kube_up 1");
    // The longest form in which an API server writes what etcd stores.
    for number in 0..20 {
        let mut large = pod(number);
        large["spec"]["volumes"] = json!([{"name": "<&>".repeat((1500 << 10) / 3)}]);
        exporter.api.put_pod(large);
    }
    exporter.wait("usernsd_identity_misfits{reason=\"user_not_in_mapping\"} 20");
    exporter.assert_bounded("events of nine mebibytes");
}
