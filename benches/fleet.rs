//! `kubectl userns status` for 100 nodes: the whole command, with a real kubectl, against a fake API server over TLS.
//! The fake lets each program in a pod take a while, as a node does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that meets a surprise ends"
)]

mod common;
#[path = "../tests/fakes/mod.rs"]
mod fakes;
#[path = "../tests/node/mod.rs"]
mod node;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::serve::Listener;
use common::{BINARY, Samples, number, say};
use fakes::kube_exec::{Api, Run};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::server::TlsStream;

/// Connections with TLS.
struct Encrypted {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn pod(node: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("usernsd-{node:05}"), "namespace": "usernsd",
            "creationTimestamp": "2026-11-28T10:00:00Z", "labels": {"app.kubernetes.io/name": "usernsd"}},
        "spec": {"nodeName": format!("worker-{node}"), "containers": [{"name": "agent", "image": "usernsd"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// kubectl, as for the test cluster, or that of this machine.
fn kubectl() -> Option<PathBuf> {
    let named = std::env::var_os("USERNSD_TEST_KUBE").map(|dir| PathBuf::from(dir).join("kubectl"));
    let found = named.unwrap_or_else(|| "/usr/bin/kubectl".into());
    found.is_file().then_some(found)
}

fn main() {
    let Some(kubectl) = kubectl() else { return say("no kubectl: USERNSD_TEST_KUBE names none") };
    let nodes = number("USERNSD_BENCH_NODES", 100);
    let delay = Duration::from_millis(number("USERNSD_BENCH_DELAY", 200) as u64);
    let api = Api::new((0..nodes).map(pod).collect(), |pod, _| {
        let status = json!({"node": pod, "containers": 30, "problems": []});
        Run::Ends(0, status.to_string().into_bytes(), String::new())
    })
    .slowly(delay);
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    api.start(move || Encrypted {
        listener: TcpListener::from_std(listener).unwrap(),
        acceptor: TlsAcceptor::from(std::sync::Arc::new(config)),
    });

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    symlink(kubectl, path("kubectl")).unwrap();
    symlink(BINARY, path("kubectl-userns")).unwrap();
    fs::write(path("ca.crt"), cert.pem()).unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": path("ca.crt")}}],
        "users": [{"name": "a", "user": {"token": "t"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    });
    fs::write(path("config"), kubeconfig.to_string()).unwrap();

    let command = |program: &str, args: &[&str]| {
        let mut command = Command::new(path(program));
        let search = format!("{}:/usr/bin:/bin", dir.path().display());
        command.args(args).env("PATH", search).env("KUBECONFIG", path("config")).env("HOME", dir.path());
        command.stdin(Stdio::null()).output().unwrap()
    };
    let (mut status, mut one) = (Samples::default(), Samples::default());
    for round in 0..=number("USERNSD_BENCH_COUNT", 20) {
        // The first fills kubectl's cache of the API.
        let mut unmeasured = Samples::default();
        let (status, one) =
            if round == 0 { (&mut unmeasured, &mut Samples::default()) } else { (&mut status, &mut one) };
        let result = status.time(|| command("kubectl-userns", &["status"]));
        assert!(result.status.success(), "{result:?}");
        assert_eq!(String::from_utf8_lossy(&result.stdout).lines().count(), nodes + 1);
        let exec = ["exec", "-n", "usernsd", "usernsd-00000", "-c", "agent", "--", "/usernsd", "status"];
        let result = one.time(|| command("kubectl", &exec));
        assert!(result.status.success(), "{result:?}");
    }
    let note = format!("each node answers after {} ms", delay.as_millis());
    status.row(&format!("`kubectl userns status`, {nodes} nodes"), "2 s", &note);
    one.row("`kubectl exec` on one of them", "", &note);
}
