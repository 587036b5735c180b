//! TLS and access control in front of the HTTP server, over real connections. The API server is a fake that
//! implements TLS and HTTP.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion,
};
use usernsd_domain::certificate::Validity;
use usernsd_domain::chain::chain;
use usernsd_peers::kube::{Access, Kube};
use usernsd_report::authorization::{GRANTED, Gatekeeper, protection};
use usernsd_report::http::{self, Admission, HttpServer, Page, Protection, Routes, ServerEvent, TlsFiles};
use usernsd_report::metrics::HttpMetrics;

/// A certificate authority, and the certificates that it signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A client finds an authority by its name.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key for a server on this machine that is also known as `name`.
    pub(crate) fn pair(&self, name: &str) -> (String, String) {
        self.pair_for(&["localhost", "127.0.0.1", name], [-1, 1])
    }

    /// Certificate and key for these names, valid between two times, in days from now.
    fn pair_for(&self, names: &[&str], days: [i64; 2]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        [params.not_before, params.not_after] = days.map(|days| in_days(days).into());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(crate) fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }
}

/// A certificate and key as Kubernetes mounts a Secret: links through `..data`, which is swapped.
pub(crate) struct Secret {
    dir: tempfile::TempDir,
    turn: Mutex<u32>,
}

impl Secret {
    pub(crate) fn new((certificate, key): &(String, String)) -> Secret {
        let dir = tempfile::tempdir().unwrap();
        for name in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), dir.path().join(name)).unwrap();
        }
        let secret = Secret { dir, turn: Mutex::new(0) };
        secret.swap(certificate, key);
        secret
    }

    fn swap(&self, certificate: &str, key: &str) {
        let mut turn = self.turn.lock().unwrap();
        *turn += 1;
        let at = |name: String| self.dir.path().join(name);
        let next = at(format!("..{turn}"));
        std::fs::create_dir(&next).unwrap();
        std::fs::write(next.join("tls.crt"), certificate).unwrap();
        std::fs::write(next.join("tls.key"), key).unwrap();
        symlink(&next, at("..data_tmp".into())).unwrap();
        std::fs::rename(at("..data_tmp".into()), at("..data".into())).unwrap();
    }

    /// Permits every user to read it.
    pub(crate) fn open_to_all(&self) {
        std::fs::set_permissions(self.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn files(&self) -> TlsFiles {
        let at = |name: &str| self.dir.path().join(name);
        TlsFiles { certificate: at("tls.crt"), key: at("tls.key") }
    }
}

fn in_days(days: i64) -> SystemTime {
    let distance = Duration::from_secs(days.unsigned_abs() * 86_400);
    if days < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

/// The log, with levels and without times.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn dispatch(&self) -> tracing::Dispatch {
        let log = self.clone();
        let lines = tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false);
        tracing::Dispatch::new(lines.with_writer(move || log.clone()).finish())
    }

    /// Removes and returns the lines since the last call.
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(|line| format!("{}\n", line.trim_start())).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(20), "it did not come about");
        thread::sleep(Duration::from_millis(20));
    }
}

fn routes() -> Routes {
    Routes {
        page: Box::new(|| Page { html: "<p>page</p>".into(), policy: "default-src 'none'".into() }),
        metrics: Box::new(|| Box::pin(async { Some("usernsd_x 1\n".to_owned()) })),
        partial_metrics: None,
        state: Box::new(|| Ok(b"{}".to_vec())),
        healthy: Box::new(|| Ok(())),
        ready: Box::new(|| Ok(())),
    }
}

fn serve(protection: Protection) -> HttpServer {
    http::serve(http::listen("127.0.0.1:0".parse().unwrap()).unwrap(), routes(), protection).unwrap()
}

/// A server with these files, and the texts that `describe` makes of its events.
fn serve_and_note(
    files: TlsFiles,
    describe: fn(ServerEvent) -> Option<String>,
) -> (HttpServer, Arc<Mutex<Vec<String>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&events);
    let report = move |event| noted.lock().unwrap().extend(describe(event));
    let server = serve(Protection { tls: Some(files), gate: None, report: Box::new(report) });
    (server, events)
}

/// An answer over TLS, and whether the server's certificate is also valid for `name`.
pub(crate) fn get(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    name: &str,
    path: &str,
    token: &str,
) -> std::io::Result<String> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::clone(client), name).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(connection, stream);
    let token = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{token}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // hyper closes the connection without TLS's close_notify.
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(String::from_utf8(answer).unwrap()),
    }
}

#[test]
fn a_new_certificate_is_used_and_a_broken_one_is_not() {
    let authority = Authority::new();
    let secret = Secret::new(&authority.pair("first.test"));
    let (server, events) = serve_and_note(secret.files(), |event| match event {
        ServerEvent::CertificateRenewed => Some("renewed".to_owned()),
        ServerEvent::CertificateBroken(error) => Some(error.to_string()),
        ServerEvent::Refused(admission) => Some(format!("{admission:?}")),
        // Lines of another test.
        ServerEvent::Certificate(_) | ServerEvent::CertificateRefused { .. } => None,
    });
    for version in [&TLS12, &TLS13] {
        let client = authority.client(version);
        let answer = get(server.address(), &client, "first.test", "/metrics", "").unwrap();
        assert!(answer.contains("usernsd_x 1"), "{answer}");
    }
    let client = authority.client(&TLS13);
    let known_as = |name: &str| get(server.address(), &client, name, "/healthz", "").is_ok();
    assert!(!known_as("second.test"), "the certificate is looked at");
    let wait = || thread::sleep(Duration::from_millis(1100));

    let (certificate, key) = authority.pair("second.test");
    secret.swap(&certificate, &key);
    wait();
    assert!(known_as("second.test") && !known_as("first.test"));
    // Another key, no key, no certificate: each is logged once, and the previous pair stays in use.
    let other = authority.pair("third.test");
    for (certificate, key) in
        [(&certificate, &other.1), (&certificate, &String::new()), (&String::new(), &key)]
    {
        secret.swap(certificate, key);
        for _ in 0..2 {
            wait();
            assert!(known_as("second.test"));
        }
    }
    secret.swap(&other.0, &other.1);
    wait();
    assert!(known_as("third.test"));
    let events = events.lock().unwrap();
    assert_eq!(events.len(), 5, "{events:?}");
    assert_eq!((events[0].as_str(), events[4].as_str()), ("renewed", "renewed"));
    for (index, want) in [(1, "tls.key: "), (2, "reading "), (3, "tls.crt holds no certificate")] {
        assert!(events[index].contains(want), "{events:?}");
    }
}

/// Good and broken pairs in turn, while many clients connect: each change is counted once.
#[test]
fn a_storm_of_certificates_is_counted_change_by_change() {
    const TURNS: usize = 3;
    let authority = Authority::new();
    let secret = Secret::new(&authority.pair("a.test"));
    let metrics = HttpMetrics::new().unwrap();
    let server = serve(protection(files(&secret), None, &metrics));
    let client = authority.client(&TLS13);
    let is_counted = |name: &str, count: usize| {
        // A certificate is looked at when a client connects, once a second at most.
        until(|| {
            for _ in 0..5 {
                assert!(get(server.address(), &client, "a.test", "/healthz", "").is_ok());
            }
            metrics.render().contains(&format!("\nusernsd_http_certificate_{name}_total {count}\n"))
        });
    };
    for turn in 1..=TURNS {
        let (certificate, key) = authority.pair("a.test");
        secret.swap(&certificate, &authority.pair("a.test").1);
        is_counted("failures", turn);
        secret.swap(&certificate, &key);
        is_counted("renewals", turn);
    }
    is_counted("failures", TURNS);
    is_counted("refusals", 0);
}

/// A chain of 10 MB, which no Secret can hold, is refused and does not increase the server's memory use.
#[test]
fn a_chain_that_is_too_long_is_refused() {
    let authority = Authority::new();
    let (certificate, key) = authority.pair("a.test");
    let long = certificate.repeat((10 << 20) / certificate.len());
    let secret = Secret::new(&(long, key));
    let listener = http::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let protection = Protection { tls: Some(secret.files()), gate: None, report: Box::new(|_| ()) };
    let error = chain(&http::serve(listener, routes(), protection).unwrap_err());
    assert_eq!(error.matches("tls.crt is longer than 1048576 bytes").count(), 1, "{error}");
}

/// Clients judge the names, validity and authority of a certificate, so it is served in any case. Log and
/// metrics report what is wrong, with which file, and since when.
#[test]
fn expired_early_and_foreign_certificates_are_reported() {
    let authority = Authority::new();
    let secret = Secret::new(&authority.pair_for(&["a.test"], [-9, -2]));
    let events = Arc::new(Mutex::new(Vec::new()));
    let (reported, metrics) = (Arc::clone(&events), HttpMetrics::new().unwrap());
    let counted = metrics.clone();
    let log = Log::default();
    let logging = log.dispatch();
    let server = serve(Protection {
        tls: Some(secret.files()),
        gate: None,
        report: Box::new(move |event| {
            reported.lock().unwrap().push(format!("{event:?}"));
            tracing::dispatcher::with_default(&logging, || counted.record(event));
        }),
    });
    let gauge = |metrics: &HttpMetrics, name: &str| -> u64 {
        let (text, name) = (metrics.render(), format!("usernsd_http_certificate_{name}_seconds "));
        let line = text.lines().find(|line| line.starts_with(&name));
        line.unwrap().split(' ').next_back().unwrap().parse().unwrap()
    };
    let not_after = |metrics| gauge(metrics, "not_after");
    let not_before = |metrics| gauge(metrics, "not_before");
    let seconds = |days| in_days(days).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(not_after(&metrics).abs_diff(seconds(-2)) < 60, "{}", metrics.render());
    assert!(not_before(&metrics).abs_diff(seconds(-9)) < 60, "{}", metrics.render());
    let day = |days| usernsd_domain::utc::rfc3339(in_days(days))[..10].to_owned();
    let file = secret.files().certificate.display().to_string();
    let output = log.take();
    assert!(output.contains(&format!("WARN the certificate in {file} expired at {}", day(-2))), "{output}");
    let (tls12, tls13) = (authority.client(&TLS12), authority.client(&TLS13));
    let refused = |client, name: &str| get(server.address(), client, name, "/healthz", "").unwrap_err();
    for client in [&tls12, &tls13] {
        assert!(refused(client, "a.test").to_string().contains("expired"));
    }
    // Logged once, counted twice.
    until(|| metrics.render().contains("usernsd_http_certificate_refusals_total 2"));
    let output = log.take();
    assert_eq!(output.lines().count(), 1, "{output}");
    for word in [file.as_str(), "CertificateExpired", "it is for a.test", &day(-9), &day(-2)] {
        assert!(output.contains(word), "{word}: {output}");
    }

    thread::sleep(Duration::from_millis(1100));
    let (certificate, key) = authority.pair_for(&["a.test"], [2, 9]);
    secret.swap(&certificate, &key);
    assert!(refused(&tls13, "a.test").to_string().contains("not valid"));
    let output = log.take();
    assert!(
        output.contains(&format!("WARN the certificate in {file} is valid only from {}", day(2))),
        "{output}"
    );
    assert!(not_after(&metrics).abs_diff(seconds(9)) < 60);
    assert!(not_before(&metrics).abs_diff(seconds(2)) < 60);

    thread::sleep(Duration::from_millis(1100));
    let (certificate, key) = authority.pair_for(&["b.test"], [-1, 1]);
    secret.swap(&certificate, &key);
    assert!(refused(&tls13, "a.test").to_string().contains("not valid for name"));
    assert!(refused(&Authority::new().client(&TLS13), "b.test").to_string().contains("UnknownIssuer"));
    until(|| metrics.render().contains("usernsd_http_certificate_refusals_total 5"));
    assert!(log.take().contains(&format!("INFO the certificate in {file} expires at {}", day(1))));
    assert!(get(server.address(), &tls13, "b.test", "/healthz", "").is_ok());
    let events = events.lock().unwrap();
    for (alert, times) in [("CertificateExpired", 3), ("BadCertificate", 1), ("UnknownCA", 1)] {
        let output = events.iter().filter(|output| output.contains(&format!("why: \"{alert}\""))).count();
        assert_eq!(output, times, "{alert}: {events:?}");
    }
}

/// Clients that do not accept the certificate, for every reason at once and with both versions of TLS, among others that
/// do, that send no TLS, and that close the connection without a reason: each that refuses it is counted once.
#[test]
fn a_storm_of_clients_that_refuse_the_certificate_is_counted_client_by_client() {
    const TURNS: usize = 8;
    let authority = Authority::new();
    let secret = Secret::new(&authority.pair("a.test"));
    let metrics = HttpMetrics::new().unwrap();
    let server = serve(protection(files(&secret), None, &metrics));
    let address = server.address();
    let refusals = || -> usize {
        let text = metrics.render();
        let name = "usernsd_http_certificate_refusals_total ";
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
    };
    let (strangers, mut refused) = (Authority::new(), 0);
    for turn in 0..TURNS {
        let version = if turn % 2 == 0 { &TLS12 } else { &TLS13 };
        let (knows, knows_not) = (authority.client(version), strangers.client(version));
        thread::scope(|scope| {
            let refuse = |client, name: &'static str| {
                scope.spawn(move || assert!(get(address, client, name, "/healthz", "").is_err()))
            };
            for (client, name) in [(&knows, "other.test"), (&knows_not, "a.test"), (&knows_not, "other.test")]
            {
                refuse(client, name);
                refused += 1;
            }
            let knows = &knows;
            scope.spawn(move || assert!(get(address, knows, "a.test", "/healthz", "").is_ok()));
            for garbage in ["", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01"] {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(garbage.as_bytes()).unwrap();
            }
        });
        // One address has places for a few connections at a time.
        until(|| refusals() >= refused);
        assert_eq!(refusals(), refused, "{}", metrics.render());
    }
    // Time for one that must not be counted.
    thread::sleep(Duration::from_millis(200));
    assert_eq!((refusals(), refused), (3 * TURNS, 3 * TURNS));
    let others = metrics.render();
    for name in ["certificate_failures_total 0", "certificate_renewals_total 0"] {
        assert!(others.contains(&format!("\nusernsd_http_{name}\n")), "{name}: {others}");
    }
}

/// A certificate that expires while it is in use.
#[test]
fn a_certificate_that_expires_while_in_use_is_reported_once() {
    let authority = Authority::new();
    let secret = Secret::new(&{
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = in_days(-1).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(2)).into();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    });
    let events = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&events);
    let server = serve(Protection {
        tls: Some(secret.files()),
        gate: None,
        report: Box::new(move |event| {
            if let ServerEvent::Certificate(in_use) = event {
                reported.lock().unwrap().push(in_use.validity);
            }
        }),
    });
    let client = authority.client(&TLS13);
    until(|| {
        let _ = get(server.address(), &client, "a.test", "/healthz", "");
        events.lock().unwrap().len() == 2
    });
    let _ = get(server.address(), &client, "a.test", "/healthz", "");
    assert_eq!(*events.lock().unwrap(), [Validity::Valid, Validity::Expired]);
}

#[test]
fn a_broken_pair_at_the_start_is_refused() {
    let authority = Authority::new();
    let secret = Secret::new(&(authority.pair("a.test").0, authority.pair("b.test").1));
    let listener = http::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let protection = Protection { tls: Some(secret.files()), gate: None, report: Box::new(|_| ()) };
    let error = chain(&http::serve(listener, routes(), protection).unwrap_err());
    let text = "the TLS files (http.tlsCertificateFile, http.tlsKeyFile) cannot be used: ";
    assert!(error.starts_with(text) && error.contains("tls.key: "), "{error}");
}

#[test]
fn an_unfinished_handshake_delays_no_other_client() {
    let authority = Authority::new();
    let secret = Secret::new(&authority.pair("a.test"));
    let server = serve(Protection { tls: Some(secret.files()), gate: None, report: Box::new(|_| ()) });
    let halves: Vec<TcpStream> = (0..20)
        .map(|index| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            // A record of a handshake that never completes, or nothing at all.
            let begun: &[u8] = if index % 2 == 0 { &[22, 3, 1, 2, 0, 1] } else { &[] };
            stream.write_all(begun).unwrap();
            stream
        })
        .collect();
    let since = Instant::now();
    let client = authority.client(&TLS13);
    assert!(get(server.address(), &client, "a.test", "/metrics", "").unwrap().contains("usernsd_x"));
    assert!(since.elapsed() < Duration::from_secs(5), "it waited for the others");
    // A client that does not use TLS gets no answer.
    let mut plain = TcpStream::connect(server.address()).unwrap();
    plain.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("usernsd_x"));
    // They are disconnected in the end.
    let mut first = &halves[0];
    first.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    assert!(first.read_to_end(&mut Vec::new()).is_ok());
}

// === the gate ===

/// Behaviour of the fake API server.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Good,
    /// Answers every request with this status.
    Says(u16),
    Silent,
    /// Answers with an object that is not a review.
    Babbles,
}

struct Api {
    mood: Mood,
    /// The users of tokens, and the paths that each user may get.
    users: HashMap<String, (&'static str, Vec<&'static str>)>,
    /// The received requests, with their tokens.
    asked: Vec<(String, Value)>,
}

type Fake = Arc<Mutex<Api>>;

fn typed(object: &Value) -> impl IntoResponse {
    ([("content-type", "application/json")], object.to_string())
}

async fn review(Shared(api): Shared<Fake>, headers: HeaderMap, body: Bytes) -> axum::response::Response {
    let mood = {
        let mut api = api.lock().unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let own = headers["authorization"].to_str().unwrap().to_owned();
        api.asked.push((own, body));
        api.mood
    };
    match mood {
        Mood::Good => {}
        Mood::Says(code) => {
            let status =
                json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "no"});
            return (StatusCode::from_u16(code).unwrap(), typed(&status)).into_response();
        }
        Mood::Silent => std::future::pending().await,
        Mood::Babbles => return "{\"kind\": \"TokenReview\"".into_response(),
    }
    let api = api.lock().unwrap();
    let mut object = api.asked.last().unwrap().1.clone();
    let spec = object["spec"].clone();
    object["status"] = match spec["token"].as_str() {
        Some(token) => match api.users.get(token) {
            Some((name, _)) => json!({
                "authenticated": true,
                "user": {"username": name, "uid": "u-1", "groups": ["system:authenticated"], "extra": {"a": ["b"]}},
            }),
            None => json!({"authenticated": false, "error": "invalid bearer token"}),
        },
        None => {
            let user = api.users.values().find(|(name, _)| spec["user"] == *name);
            let wants = &spec["nonResourceAttributes"];
            let may = user.is_some_and(|(_, paths)| paths.iter().any(|path| wants["path"] == *path));
            json!({"allowed": may && wants["verb"] == "get" && spec["groups"][0] == "system:authenticated"})
        }
    };
    (StatusCode::CREATED, typed(&object)).into_response()
}

/// An API server on a separate thread, and a kubeconfig for it.
struct Cluster {
    api: Fake,
    authority: Authority,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let authority = Authority::new();
        let pair = authority.pair("api.test");
        Cluster::with(authority, pair)
    }

    /// Starts one with this certificate and key, and a kubeconfig that names this authority.
    fn with(authority: Authority, (certificate, key): (String, String)) -> Cluster {
        let user = |name, paths: &[&'static str]| (name, paths.to_vec());
        let users = [
            ("scraper".to_owned(), user("prometheus", &["/metrics"])),
            ("reader".to_owned(), user("someone", &[])),
            // Paths that the built-in role system:discovery permits to every account, and "/" as in
            // OpenShift.
            ("anybody".to_owned(), user("anybody", &["/", "/api/v1/state", "/healthz"])),
            ("viewer".to_owned(), user("viewer", &["/usernsd/state"])),
        ];
        let api = Api { mood: Mood::Good, users: users.into_iter().collect(), asked: vec![] };
        let api = Arc::new(Mutex::new(api));
        let config = ServerConfig::builder_with_provider(Arc::new(
            tokio_rustls::rustls::crypto::ring::default_provider(),
        ))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let router = Router::new()
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
            .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(review))
            .with_state(Arc::clone(&api));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, router) = (acceptor.clone(), router.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        let service = TowerToHyperService::new(router);
                        let http = hyper::server::conn::http1::Builder::new();
                        let _ = http.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            })
        });
        let cluster = Cluster { api, authority, dir: tempfile::tempdir().unwrap() };
        let file = |name: &str, text: &str| {
            let path = cluster.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let root = file("ca.crt", &cluster.authority.pem);
        let token = file("token", "its-own");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {
                "server": format!("https://{address}"), "certificate-authority": root}}],
            "users": [{"name": "a", "user": {"tokenFile": token}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        file("config", &config.to_string());
        cluster
    }

    fn kube(&self) -> Kube {
        Kube::new(Access::Kubeconfig(self.dir.path().join("config")))
    }

    fn mood(&self, mood: Mood) {
        self.api.lock().unwrap().mood = mood;
    }

    fn asked(&self) -> usize {
        self.api.lock().unwrap().asked.len()
    }
}

fn files(secret: &Secret) -> Option<(PathBuf, PathBuf)> {
    let TlsFiles { certificate, key } = secret.files();
    Some((certificate, key))
}

#[test]
fn only_clients_that_the_cluster_permits_may_read() {
    let cluster = Cluster::start();
    let authority = Authority::new();
    let secret = Secret::new(&authority.pair("a.test"));
    let metrics = HttpMetrics::new().unwrap();
    let serving = || serve(protection(files(&secret), Some(cluster.kube()), &metrics));
    let server = serving();
    let client = authority.client(&TLS13);
    let status_of = |server: &HttpServer, path: &str, token: &str| {
        let answer = get(server.address(), &client, "a.test", path, token).unwrap();
        let status = answer.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(answer.contains("usernsd_x"), status == "200" && path == "/metrics", "{answer}");
        assert_eq!(answer.contains("www-authenticate: Bearer"), status == "401", "{answer}");
        status
    };
    let status = |path: &str, token: &str| status_of(&server, path, token);
    // Health checks need no permission.
    assert_eq!((status("/healthz", ""), status("/readyz", "wrong")), ("200".into(), "200".into()));
    assert_eq!((status("/metrics", ""), status("/nowhere", "")), ("401".into(), "404".into()));
    assert_eq!(cluster.asked(), 0, "nothing to ask");

    assert_eq!(status("/metrics", "scraper"), "200");
    assert_eq!(cluster.asked(), 2);
    {
        let api = cluster.api.lock().unwrap();
        assert!(api.asked.iter().all(|(own, _)| own == "Bearer its-own"));
        let spec = &api.asked[1].1["spec"];
        assert_eq!((&spec["user"], &spec["uid"]), (&json!("prometheus"), &json!("u-1")));
        assert_eq!(
            (&spec["extra"], &spec["groups"]),
            (&json!({"a": ["b"]}), &json!(["system:authenticated"]))
        );
    }
    (0..5).for_each(|_| assert_eq!(status("/metrics", "scraper"), "200"));
    assert_eq!(cluster.asked(), 2, "a yes is believed for a while");
    assert_eq!(status("/api/v1/state", "scraper"), "403", "but only for that path");
    for path in ["/", "/api/v1/state"] {
        assert_eq!(status(path, "anybody"), "403", "{path}: a built-in role opens it");
        assert_eq!(status(path, "viewer"), "200", "{path}");
    }
    assert_eq!(status("/metrics", "viewer"), "403");
    assert_eq!((status("/", "reader"), status("/metrics", "stolen")), ("403".into(), "401".into()));

    // While the API server cannot be asked, only clients with a recent answer may read.
    // This address may ask another server as much as a new one.
    let other = serving();
    for mood in [Mood::Says(403), Mood::Says(401), Mood::Says(500), Mood::Says(429), Mood::Babbles] {
        cluster.mood(mood);
        assert_eq!(status_of(&other, "/metrics", "unheard-of"), "503");
    }
    assert_eq!(status("/metrics", "scraper"), "200");
    cluster.mood(Mood::Silent);
    let since = Instant::now();
    assert_eq!(status_of(&other, "/metrics", "unheard-of"), "503");
    assert!(since.elapsed() < Duration::from_secs(9), "a scraper waits for ten seconds");
    assert!(status("/healthz", "") == "200");

    let text = metrics.render();
    for (reason, count) in [("unauthenticated", 2), ("forbidden", 5), ("undecided", 6)] {
        let line = format!("usernsd_http_refusals_total{{reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

/// Requests of every kind, several at once and with tokens that are asked for the first time and again.
#[test]
fn a_storm_of_refused_requests_is_counted_request_by_request() {
    const TURNS: usize = 6;
    let cluster = Cluster::start();
    let authority = Authority::new();
    let secret = Secret::new(&authority.pair("a.test"));
    let metrics = HttpMetrics::new().unwrap();
    let server = serve(protection(files(&secret), Some(cluster.kube()), &metrics));
    let (address, client) = (server.address(), authority.client(&TLS13));
    let status = |path: &str, token: &str| {
        let answer = get(address, &client, "a.test", path, token).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let requests = [
        ("/metrics", "scraper", "200"),
        ("/metrics", "", "401"),
        ("/api/v1/state", "", "401"),
        ("/metrics", "stolen", "401"),
        ("/api/v1/state", "scraper", "403"),
        ("/metrics", "reader", "403"),
        ("/healthz", "stolen", "200"),
    ];
    for _ in 0..TURNS {
        thread::scope(|scope| {
            for (path, token, want) in requests {
                let status = &status;
                scope.spawn(move || assert_eq!(status(path, token), want, "{path} {token}"));
            }
        });
    }
    // Unknown tokens of one address are reviewed a few at a time; those that are not are undecided.
    cluster.mood(Mood::Says(500));
    for number in 0..TURNS {
        assert_eq!(status("/metrics", &format!("unheard-of-{number}")), "503");
    }
    let text = metrics.render();
    for (reason, count) in [("unauthenticated", 3 * TURNS), ("forbidden", 2 * TURNS), ("undecided", TURNS)] {
        let line = format!("usernsd_http_refusals_total{{reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[test]
fn answers_of_the_api_server_are_forgotten_in_time() {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use usernsd_report::http::Admission::{Forbidden, Granted, Unknown};
        let keeper = Gatekeeper::new(cluster.kube());
        let may = |token: &'static str| keeper.admit(address(1), token, "/metrics");
        assert_eq!(may("reader").await, Forbidden);
        assert_eq!(may("scraper").await, Granted);
        {
            let mut api = cluster.api.lock().unwrap();
            api.users.insert("reader".into(), ("someone", vec!["/metrics"]));
            // The answer has expired.
            api.users.remove("scraper");
        }
        assert_eq!(may("reader").await, Forbidden, "a no is believed too");
        let (forgotten, moment) = (Duration::from_millis(3200), Duration::from_secs(20));
        pass(forgotten).await;
        assert_eq!(may("reader").await, Granted);
        pass(GRANTED - forgotten - moment).await;
        assert_eq!(may("scraper").await, Granted, "for longer than the pause between two scrapes");
        pass(moment).await;
        assert_eq!(may("scraper").await, Unknown, "a yes must not last");
        // The API server is still asked about a client that was accepted before.
        cluster.api.lock().unwrap().users.insert("reader".into(), ("someone", vec![]));
        pass(GRANTED).await;
        for number in 0..100 {
            keeper.admit(address(1), &number.to_string(), "/metrics").await;
        }
        assert_eq!(may("reader").await, Forbidden);
    });
}

/// An address of a pod.
fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 128, 0, number])
}

/// Lets time pass for the gatekeeper, and for nobody else.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[test]
fn invented_tokens_cost_little_and_keep_no_new_scraper_out() {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use usernsd_report::http::Admission::{Granted, Undecided, Unknown};
        let keeper = Gatekeeper::new(cluster.kube());
        let since = Instant::now();
        for number in 0..3000 {
            let token = format!("{number:08000}");
            let admission = keeper.admit(address(1), &token, "/metrics").await;
            assert!([Unknown, Undecided].contains(&admission), "{admission:?}");
            // After each of them: without the bound, all of them take ten minutes.
            let cost = cluster.asked() as u64;
            let most = 8 + since.elapsed().as_secs() / 10;
            assert!((1..=most).contains(&cost), "{cost} questions about {} tokens", number + 1);
        }
        assert_eq!(keeper.admit(address(2), "scraper", "/metrics").await, Granted);
        // From many addresses: those that have asked before wait for the one that has not.
        let flood = async {
            let asks = |number: usize| {
                let client = address(u8::try_from(10 + number % 20).unwrap());
                let (keeper, token) = (&keeper, format!("invented {number}"));
                async move { keeper.admit(client, &token, "/metrics").await }
            };
            futures_util::future::join_all((0..80).map(asks)).await
        };
        let newcomer = async {
            while cluster.asked() < 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            keeper.admit(address(3), "viewer", "/usernsd/state").await
        };
        let (answers, admission) = tokio::join!(flood, newcomer);
        assert_eq!(admission, Granted);
        assert!(answers.contains(&Undecided), "the flood had to wait");
    });
}

/// The error for an API server whose certificate has expired, is for another host, or is from another
/// authority.
#[test]
fn problems_of_the_api_servers_certificate_are_reported() {
    let day = |days| usernsd_domain::utc::rfc3339(in_days(days))[..10].to_owned();
    let here = ["127.0.0.1"];
    let foreign = Authority::new().pair("api.test");
    let authority = Authority::new;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = |authority: Authority, pair| {
        let cluster = Cluster::with(authority, pair);
        let error = runtime.block_on(cluster.kube().review("scraper", "/metrics")).unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(
            runtime.block_on(Gatekeeper::new(cluster.kube()).admit(address(1), "scraper", "/metrics")),
            Admission::Undecided
        );
        error.to_string()
    };
    let own = authority();
    let pair = own.pair_for(&here, [-9, -2]);
    let expired = error(own, pair);
    let own = authority();
    let pair = own.pair_for(&here, [2, 9]);
    let early = error(own, pair);
    let own = authority();
    let pair = own.pair_for(&["other.test"], [-1, 1]);
    let elsewhere = error(own, pair);
    let unknown = error(authority(), foreign);
    for (output, words) in [
        (expired, vec![format!("it expired at {}", day(-2)), format!("this node's clock says {}", day(0))]),
        (early, vec![format!("it is valid from {}", day(2)), format!("this node's clock says {}", day(0))]),
        (
            elsewhere,
            vec!["it is for".to_owned(), "other.test".to_owned(), "and not for 127.0.0.1".to_owned()],
        ),
        (unknown, vec!["its authority is another one than that of the kubeconfig".to_owned()]),
    ] {
        assert!(output.starts_with("the API server's certificate is not accepted: "), "{output}");
        for word in words {
            assert!(output.contains(&word), "{word}: {output}");
        }
    }
}
