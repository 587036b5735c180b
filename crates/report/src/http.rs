//! Metrics, health and the status page over HTTP/1.1, for scrapers, probes and people; with TLS and
//! authorization if they are configured.
//!
//! It runs on threads of its own, so that a scrape never delays the agent's work: one accepts connections,
//! one serves them, and one renders the documents, each of which is shared by all requests within a second.
//! Only request heads are read: a request with a body is refused, and a connection serves one request. The
//! number of connections, the length and duration of a head, and the memory in the kernel are bounded. A
//! client that holds many connections open keeps no other client out ([`Place`](usernsd_domain::places::Place)).

mod arrivals;
mod connection;
mod shared;
mod socket;
mod tls;

use std::future::ready as now;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use connection::{Ends, Service, converse};
use shared::Shared;
use tls::Tls;
pub use tls::{InUse, TlsError, TlsFiles};

use usernsd_domain::certificate::Certificate;

/// The header in which Prometheus sends a scrape's time limit, in seconds.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";
/// Prometheus text format 0.0.4.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON_TYPE: &str = "application/json";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";
/// The path in the access review for everything that shows the node's state. It is not a path that is
/// served, because the cluster's built-in roles let every account get `/api/*` (system:discovery), and on
/// OpenShift also `/`.
pub const STATE_RIGHT: &str = "/usernsd/state";
/// The paths that need authorization, each with the path in its access review. Every other path is a health
/// check or does not exist.
const GUARDED: [(&str, &str); 3] =
    [("/", STATE_RIGHT), ("/metrics", "/metrics"), ("/api/v1/state", STATE_RIGHT)];
const HTML_TYPE: &str = "text/html; charset=utf-8";

/// Headers of every answer: it is plain text, must not be cached, and must not be embedded in other pages.
/// The status page has its own policy.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

type Text = Box<dyn Fn() -> BoxFuture<'static, Option<String>> + Send + Sync>;
type Partial = Box<dyn Fn() -> String + Send + Sync>;
type Document = Box<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>;
type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;
type Html = Box<dyn Fn() -> Page + Send + Sync>;

/// A page for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The whole page; it loads no other file.
    pub html: String,
    /// The page's Content-Security-Policy.
    pub policy: String,
}

/// The served pages. An error is one sentence for people.
pub struct Routes {
    /// `/`. This, `metrics` and `state` are each called at most once a second, on a thread that may block.
    pub page: Html,
    /// Renders `/metrics`; `None` if that is not possible. The future is awaited on the server's thread and must not
    /// block it.
    pub metrics: Text,
    /// Renders a part of `/metrics`, for a scraper that cannot get the whole, or that would not wait any
    /// longer for it; without this the scraper waits. It must not block.
    pub partial_metrics: Option<Partial>,
    /// `/api/v1/state`: the state document, JSON.
    pub state: Document,
    /// `/healthz`: a supervisor restarts the agent if this keeps failing. This and `ready` are called on
    /// the server's thread for each request, and must not block.
    pub healthy: Check,
    /// `/readyz`: usernsd handles new containers.
    pub ready: Check,
}

/// Whether a client may read.
pub type Gate = Box<dyn Fn(Credentials) -> BoxFuture<'static, Admission> + Send + Sync>;

/// The credentials of a client that asks to read.
#[derive(Debug)]
pub struct Credentials {
    /// The client's address.
    pub client: IpAddr,
    /// The client's token.
    pub token: String,
    /// The path in the access review (a nonResourceURL of the API server's RBAC).
    pub path: String,
}

/// An answer of the [`Gate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The client may read.
    Granted,
    /// The token is invalid.
    Unknown,
    /// The token's user may not read.
    Forbidden,
    /// The API server could not be asked, so the client may not read now.
    Undecided,
}

/// An event of the server, for its counters and the log.
#[derive(Debug)]
pub enum ServerEvent {
    /// A new certificate is in use.
    CertificateRenewed,
    /// A new certificate cannot be used; the one before stays.
    CertificateBroken(TlsError),
    /// The certificate in use: at the start, after a change, and when its validity begins or ends.
    Certificate(InUse),
    /// A client does not accept the certificate.
    CertificateRefused {
        /// File of the certificate.
        file: PathBuf,
        /// The certificate; `None` if it cannot be parsed.
        certificate: Option<Certificate>,
        /// The client's alert (RFC 8446, 6.2).
        why: String,
    },
    /// A request was refused for lack of authorization.
    Refused(Admission),
}

/// Encryption and authorization in front of the routes.
pub struct Protection {
    /// Serve only TLS, with this certificate.
    pub tls: Option<TlsFiles>,
    /// Authorizes every request except health checks.
    pub gate: Option<Gate>,
    /// Receives the server's events; called on its thread.
    pub report: Box<dyn Fn(ServerEvent) + Send + Sync>,
}

/// Why nothing is served.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The address is in use, or does not belong to this machine.
    #[error("listening on {address}: {error}; choose another http.address (--http)")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The kernel's error.
        error: io::Error,
    },
    /// A thread or a descriptor could not be created.
    #[error("starting the HTTP server: {0}")]
    Start(io::Error),
    /// The certificate or its key.
    #[error("the TLS files (http.tlsCertificateFile, http.tlsKeyFile) cannot be used")]
    Tls(#[from] TlsError),
}

/// A running server. Dropping it stops it, once answers in progress are complete.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// A bound address that is not served yet. It is bound before the process drops its privileges and the
/// permission to make sockets.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds `address`; port 0 selects any free port.
///
/// # Errors
/// See [`HttpError`].
pub fn listen(address: SocketAddr) -> Result<Listener, HttpError> {
    let failed = |error| HttpError::Listen { address, error };
    let listener = TcpListener::bind(address).map_err(failed)?;
    // The standard library's backlog is 128 connections. If a burst overflows it, the kernel drops further
    // ones, and clients retry after a second. -1 means net.core.somaxconn, 4096 by default.
    rustix::net::listen(&listener, -1).map_err(|errno| failed(errno.into()))?;
    socket::bound(&listener).map_err(|errno| failed(errno.into()))?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Listener { listener, address })
}

/// Serves the bound address.
///
/// # Errors
/// See [`HttpError`].
pub fn serve(listener: Listener, routes: Routes, protection: Protection) -> Result<HttpServer, HttpError> {
    let Listener { listener, address } = listener;
    let Protection { tls, gate, report } = protection;
    let tls = tls.map(Tls::open).transpose()?;
    let report = Arc::new(report);
    if let Some(in_use) = tls.as_ref().and_then(|tls| tls.change_of_validity(SystemTime::now())) {
        report(ServerEvent::Certificate(in_use));
    }
    let guard = Guard { gate, report: Arc::clone(&report) };
    let runtime = || usernsd_tasks::runtime(1).map_err(HttpError::Start);
    let (taking, serving) = (runtime()?, runtime()?);
    let listener = {
        let _entered = taking.enter();
        tokio::net::TcpListener::from_std(listener).map_err(HttpError::Start)?
    };
    let (stop, stopped) = oneshot::channel();
    let (taken, arrivals) = mpsc::channel(arrivals::MAX_WAITING);
    let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(work).map_err(HttpError::Start)
    };
    let threads = vec![
        start(
            "http",
            Box::new(move || {
                let service = Arc::new(Service { router: router(routes, guard), tls, report });
                serving.block_on(converse(arrivals, service));
                // A document that is still being rendered has no reader left.
                serving.shutdown_background();
            }),
        )?,
        start("http-accept", Box::new(move || taking.block_on(arrivals::take(listener, taken, stopped))))?,
    ];
    Ok(HttpServer { address, stop: Some(stop), threads })
}

/// The checks that a request must pass.
struct Guard {
    gate: Option<Gate>,
    report: Arc<Box<dyn Fn(ServerEvent) + Send + Sync>>,
}

// === impl HttpServer ===

impl HttpServer {
    /// The address on which the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::debug!("the HTTP server panicked");
            }
        }
    }
}

fn router(routes: Routes, guard: Guard) -> Router {
    let guard = Arc::new(guard);
    let Routes { page, metrics, partial_metrics, state, healthy, ready } = routes;
    // A route is cloned for each request.
    let (page, metrics, state) = (shared_page(page), shared_metrics(metrics), shared_state(state));
    let (healthy, ready, partial) = (Arc::new(healthy), Arc::new(ready), Arc::new(partial_metrics));
    Router::new()
        .route("/", get(move || page.get().map(|page| page.map_or_else(failed, html))))
        .route(
            "/metrics",
            get(move |headers: HeaderMap| async move {
                let whole = metrics.get().map(Option::flatten);
                let whole = match patience(&headers).filter(|_| partial.is_some()) {
                    Some(patience) => timeout(patience, whole).await.ok().flatten(),
                    None => whole.await,
                };
                let text = whole.or_else(|| Some(Bytes::from(partial.as_ref().as_ref()?())));
                text.map_or_else(failed, |text| typed(METRICS_TYPE, text))
            }),
        )
        .route(
            "/api/v1/state",
            get(move || {
                let answer = |text: Option<_>| text.map_or_else(failed, |text| answered(JSON_TYPE, text));
                state.get().map(answer)
            }),
        )
        .route("/healthz", get(move || now(answered(TEXT_TYPE, healthy().map(|()| "ok\n")))))
        .route("/readyz", get(move || now(answered(TEXT_TYPE, ready().map(|()| "ok\n")))))
        .fallback(|| now((StatusCode::NOT_FOUND, typed(TEXT_TYPE, "no such page\n"))))
        .layer(middleware::from_fn(move |request, next| bounded(request, next, Arc::clone(&guard))))
}

fn shared_page(page: Html) -> Arc<Shared<(Bytes, Option<HeaderValue>)>> {
    let page = Arc::new(page);
    Arc::new(Shared::new(move || {
        let page = Arc::clone(&page);
        // A policy that is not a valid header falls back to the default one, which permits nothing.
        elsewhere(move || page()).map(|Page { html, policy }| (html.into(), policy.try_into().ok())).boxed()
    }))
}

fn shared_metrics(metrics: Text) -> Arc<Shared<Option<Bytes>>> {
    let metrics = Arc::new(metrics);
    Arc::new(Shared::new(move || {
        let metrics = Arc::clone(&metrics);
        async { elsewhere(move || metrics()).await.await.map(Bytes::from) }.boxed()
    }))
}

fn shared_state(state: Document) -> Arc<Shared<Result<Bytes, String>>> {
    let state = Arc::new(state);
    Arc::new(Shared::new(move || {
        let state = Arc::clone(&state);
        elsewhere(move || state()).map(|document| document.map(Bytes::from)).boxed()
    }))
}

/// Calls `make` on a thread where it may block. Panics if `make` does.
async fn elsewhere<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(make).await {
        Ok(made) => made,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shut down, and with it the task that waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

fn typed(kind: &'static str, text: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn failed() -> Response {
    let text = "the answer could not be made; see the log\n";
    (StatusCode::INTERNAL_SERVER_ERROR, typed(TEXT_TYPE, text)).into_response()
}

fn html((html, policy): (Bytes, Option<HeaderValue>)) -> Response {
    let mut response = typed(HTML_TYPE, html);
    if let Some(policy) = policy {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn answered(kind: &'static str, text: Result<impl IntoResponse, String>) -> Response {
    match text {
        Ok(text) => typed(kind, text),
        Err(sentence) => (StatusCode::SERVICE_UNAVAILABLE, typed(TEXT_TYPE, sentence + "\n")).into_response(),
    }
}

/// Refuses everything except plain reading requests, and adds the common headers to every answer.
async fn bounded(request: Request, next: Next, guard: Arc<Guard>) -> Response {
    // Every request comes from a connection (`connection`).
    let ends = request.extensions().get::<Ends>().copied();
    let ends = ends.unwrap_or(Ends { client: Ipv4Addr::UNSPECIFIED.into(), is_local: true });
    let mut response = if ends.is_local && !is_local(request.headers()) {
        let text = "this address answers to localhost, 127.0.0.1 and [::1] only\n";
        (StatusCode::MISDIRECTED_REQUEST, typed(TEXT_TYPE, text)).into_response()
    } else if has_body(request.headers()) {
        (StatusCode::PAYLOAD_TOO_LARGE, typed(TEXT_TYPE, "a request has no body here\n")).into_response()
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let allow = [(header::ALLOW, "GET, HEAD")];
        (StatusCode::METHOD_NOT_ALLOWED, allow, typed(TEXT_TYPE, "GET or HEAD only\n")).into_response()
    } else {
        match guard.admit(ends.client, request.uri().path(), token(request.headers())).await {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal,
        }
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

// === impl Guard ===

impl Guard {
    async fn admit(&self, client: IpAddr, path: &str, token: Option<String>) -> Result<(), Response> {
        let Some(gate) = &self.gate else { return Ok(()) };
        // Probes have no token.
        let Some((_, right)) = GUARDED.iter().find(|(guarded, _)| *guarded == path) else { return Ok(()) };
        let admission = match token {
            Some(token) => gate(Credentials { client, token, path: (*right).to_owned() }).await,
            None => Admission::Unknown,
        };
        let (status, text) = match admission {
            Admission::Granted => return Ok(()),
            Admission::Unknown => (StatusCode::UNAUTHORIZED, "a service account's token is needed here\n"),
            Admission::Forbidden => (
                StatusCode::FORBIDDEN,
                "that account may not read this: it needs the right to get the nonResourceURL /metrics, or \
                 /usernsd/state for the state and the status page\n",
            ),
            Admission::Undecided => (StatusCode::SERVICE_UNAVAILABLE, "the API server was not reached\n"),
        };
        (self.report)(ServerEvent::Refused(admission));
        let mut refusal = (status, typed(TEXT_TYPE, text)).into_response();
        if admission == Admission::Unknown {
            let challenge = HeaderValue::from_static("Bearer");
            refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        Err(refusal)
    }
}

/// How long the answer to a scraper may take: half of the time after which it gives up, which Prometheus sends.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(SCRAPE_TIMEOUT)?.to_str().ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds / 2.0).ok()
}

/// The service account's token in the Authorization header (RFC 6750).
fn token(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// Whether the request names this machine. A web page can have its own name resolved to 127.0.0.1 and so read
/// what is served or forwarded there, but it cannot change the Host header that the browser sends (DNS rebinding). A
/// client without that header is not a browser.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}
