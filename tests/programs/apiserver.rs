//! A real kube-apiserver with RBAC and its etcd, from the directory that `USERNSD_TEST_KUBE` names.

// A panic here fails the test, but Clippy applies its exception for tests only to functions that are marked
// as tests.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::client::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// The user of the token `exporter`.
pub(crate) const USER: &str = "system:serviceaccount:usernsd:usernsd-exporter";

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A kube-apiserver, its etcd, and their files. Ends with this value.
pub(crate) struct Server {
    pub(crate) dir: tempfile::TempDir,
    port: u16,
    _etcd: Ended,
    _server: Ended,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Starts both; without them, prints that the test is skipped and returns `None`.
    #[allow(clippy::print_stderr, reason = "a test prints to stderr why it is skipped")]
    pub(crate) fn start_or_skip() -> Option<Server> {
        let Some(programs) = std::env::var_os("USERNSD_TEST_KUBE").map(PathBuf::from) else {
            eprintln!("SKIPPED: USERNSD_TEST_KUBE names no directory with kube-apiserver and etcd");
            return None;
        };
        Some(Server::start(&programs.join("kube-apiserver"), &programs.join("etcd")))
    }

    fn start(server: &Path, etcd: &Path) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let log = |name: &str| Stdio::from(std::fs::File::create(file(name)).unwrap());
        let (client, peer, port) = (free_port(), free_port(), free_port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let etcd = Command::new(etcd)
            .args(["--data-dir", file("etcd").to_str().unwrap(), "--listen-client-urls", &url(client)])
            .args(["--advertise-client-urls", &url(client), "--listen-peer-urls", &url(peer)])
            .args([
                "--initial-advertise-peer-urls",
                &url(peer),
                "--initial-cluster",
                &format!("default={}", url(peer)),
            ])
            .stdout(Stdio::null())
            .stderr(log("etcd.log"))
            .spawn()
            .unwrap();
        let key = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(file("sa.key"))
            .arg("2048")
            .output()
            .unwrap();
        assert!(key.status.success());
        std::fs::write(file("tokens"), format!("admin,admin,1,system:masters\nexporter,{USER},2\n")).unwrap();
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";
        std::fs::write(file("audit.yaml"), policy).unwrap();
        let named = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
        let server = Command::new(server)
            .arg(format!("--etcd-servers={}", url(client)))
            .args([
                "--bind-address=127.0.0.1",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
            ])
            .args(["--service-cluster-ip-range=10.0.0.0/24", "--service-account-issuer=https://test.invalid"])
            .arg(format!("--secure-port={port}"))
            .args([
                named("service-account-key-file", "sa.key"),
                named("service-account-signing-key-file", "sa.key"),
            ])
            .args([named("token-auth-file", "tokens"), named("cert-dir", "certificates")])
            .args([named("audit-policy-file", "audit.yaml"), named("audit-log-path", "audit.log")])
            .stdout(Stdio::null())
            .stderr(log("server.log"))
            .spawn()
            .unwrap();
        Server { dir, port, _etcd: Ended(etcd), _server: Ended(server) }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its certificate, which it signed itself.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.path().join("certificates/apiserver.crt")
    }

    /// A kubeconfig for the owner of a token: `admin` or `exporter`.
    pub(crate) fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.dir.path().join(format!("kubeconfig-{token}"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": self.url(), "certificate-authority": self.authority()}}],
            "users": [{"name": "a", "user": {"token": token}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    /// A client that may do everything, once the server is ready.
    pub(crate) async fn admin(&self) -> Client {
        for _ in 0..600 {
            if let Ok(file) = Kubeconfig::read_from(self.kubeconfig("admin"))
                && let Ok(config) =
                    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
                && let Ok(client) = Client::try_from(config)
                && let Ok(text) = ask(&client, "GET", "/readyz", None).await
                && text == "ok"
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let log = std::fs::read_to_string(self.dir.path().join("server.log")).unwrap();
        panic!("{}", log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
    }
}

/// One request: the answer's text.
pub(crate) async fn ask(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<String, kube::Error> {
    let request =
        hyper::Request::builder().method(method).uri(path).header("content-type", "application/json");
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    client.request_text(request.body(body).unwrap()).await
}
