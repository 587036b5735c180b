//! The connection to the API server: address, credentials, requests and errors.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Bytes;
use kube::client::{Body, ClientBuilder, DynBody};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::{self, CertificateError};
use tower::util::MapResponseLayer;

use usernsd_domain::chain::chain;
use usernsd_domain::lock::lock;
use usernsd_domain::utc::rfc3339;

/// Time limit for an answer; for a watch, for its first byte.
const PATIENCE: Duration = Duration::from_secs(30);
/// A connection on which nothing arrives for this long is dead: a watch sees a bookmark each minute.
const SILENCE: Duration = Duration::from_secs(295);
/// Minimum time between two reloads of the certificates while the server cannot be reached.
const RENEWAL: Duration = Duration::from_secs(60);
/// The longest object that is read into memory, in bytes: an answer, or an event of a watch. etcd takes
/// requests of up to 1.5 MiB (`--max-request-bytes`), and the API server writes `<`, `>`, `&` and control
/// characters in six bytes each (Go's `encoding/json`): 9 MiB, and what an object has besides texts.
pub(super) const MAX_OBJECT: usize = 16 << 20;
/// The longest error answer (a Status) that is read, in bytes.
const MAX_STATUS: usize = 64 << 10;
/// Upper bound applied to a `Retry-After`.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Directory of a pod's service account (kubernetes.io, "Accessing the API from within a pod").
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
const HOST: &str = "KUBERNETES_SERVICE_HOST";

/// The media type of an answer with the objects' metadata only.
pub(super) const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The address of the API server, and the credentials for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// The service account of the pod that this process runs in.
    InCluster,
    /// A kubeconfig file.
    Kubeconfig(PathBuf),
}

/// A client of an API server. It connects at the first request.
pub struct Kube {
    access: Option<Access>,
    client: Mutex<Option<Client>>,
    /// No request is sent before this moment, because the server asked for a pause.
    not_before: Arc<Mutex<Option<Instant>>>,
    /// When the token and the certificates were last discarded.
    renewed: Mutex<Option<Instant>>,
}

/// Why a request has no usable answer.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum KubeError {
    /// The kubeconfig, the token or the certificate cannot be used.
    #[error("{0}")]
    Access(String),
    /// The token is not accepted (any more).
    #[error("the API server does not accept the token (401); is the service account still there?")]
    Unauthorized,
    /// The account lacks a permission.
    #[error("the API server refuses (403): {0}; compare the ClusterRole with docs/kubernetes.md")]
    Forbidden(String),
    /// There is no such object.
    #[error("the API server has no such object (404): {0}")]
    NotFound(String),
    /// The object exists already.
    #[error("the API server has it already (409): {0}")]
    Exists(String),
    /// The requested resource version is too old.
    #[error("the API server no longer has that version (410)")]
    Gone,
    /// The server has too many requests.
    #[error("the API server is busy ({0})")]
    Busy(u16),
    /// The request was refused for another reason.
    #[error("the API server refuses ({code}): {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The server's message.
        message: String,
    },
    /// The server's certificate is not accepted.
    #[error("the API server's certificate is not accepted: {0}")]
    Certificate(String),
    /// The address has no listener, or the answer is not HTTP.
    #[error("the API server cannot be reached: {0}")]
    Away(String),
    /// An answer, or one line of it, is longer than this many bytes, and was not kept.
    #[error("the API server's answer is longer than {} MiB, and was not read", .0 >> 20)]
    TooLong(usize),
    /// The answer cannot be read.
    #[error("the API server's answer cannot be read: {0}")]
    Malformed(String),
}

// === impl Access ===

impl Access {
    /// The service account of this pod; `None` outside a pod or without an account.
    #[must_use]
    pub fn in_cluster() -> Option<Access> {
        let named = std::env::var_os(HOST).is_some_and(|host| !host.is_empty());
        (named && Path::new(TOKEN).exists()).then_some(Access::InCluster)
    }

    async fn config(&self) -> Result<Config, KubeError> {
        match self {
            Access::InCluster => Config::incluster().map_err(|error| {
                KubeError::Access(format!("the pod's service account cannot be used: {error}"))
            }),
            Access::Kubeconfig(path) => {
                let wrong =
                    |what: String| KubeError::Access(format!("kubeconfig {}: {what}", path.display()));
                let file = Kubeconfig::read_from(path).map_err(|error| wrong(chain(&error)))?;
                let infos = file.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
                // This process talks to a network, so it starts no credential programs.
                if infos.into_iter().any(|info| info.exec.is_some() || info.auth_provider.is_some()) {
                    return Err(wrong(
                        "it gets its token from a program; use tokenFile or a certificate".into(),
                    ));
                }
                let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                config.map_err(|error| wrong(chain(&error)))
            }
        }
    }
}

// === impl Kube ===

impl std::fmt::Debug for Kube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kube").field("access", &self.access).finish_non_exhaustive()
    }
}

impl Kube {
    /// Makes a client for the API server of `access`.
    #[must_use]
    pub fn new(access: Access) -> Kube {
        Kube {
            access: Some(access),
            client: Mutex::default(),
            not_before: Arc::default(),
            renewed: Mutex::default(),
        }
    }

    /// Makes a client on top of an existing `client`, for example of an API server simulated in the same
    /// process.
    #[must_use]
    pub fn of(client: Client) -> Kube {
        Kube {
            access: None,
            client: Mutex::new(Some(client)),
            not_before: Arc::default(),
            renewed: Mutex::default(),
        }
    }

    /// Reads the token and the certificates again before the next request if the error may come from outdated
    /// ones. Also if the server cannot be reached, at most every [`RENEWAL`]: it may have a new certificate
    /// authority.
    pub fn renew_after(&self, error: &KubeError) {
        let at_once = matches!(error, KubeError::Unauthorized | KubeError::Access(_));
        let mut renewed = lock(&self.renewed);
        let is_due = renewed.is_none_or(|at| at.elapsed() >= RENEWAL);
        if self.access.is_some() && (at_once || error.is_transient() && is_due) {
            *renewed = Some(Instant::now());
            *lock(&self.client) = None;
        }
    }

    /// Time for which the server asks for no more requests; `None` if it accepts them.
    #[must_use]
    pub fn requested_pause(&self) -> Option<Duration> {
        let until = *lock(&self.not_before);
        until.map(|until| until.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero())
    }

    pub(super) async fn client(&self) -> Result<Client, KubeError> {
        let kept = || lock(&self.client);
        if let Some(client) = kept().clone() {
            return Ok(client);
        }
        let Some(access) = &self.access else { return Err(KubeError::Access("no client".into())) };
        let mut config = access.config().await?;
        config.read_timeout = Some(SILENCE);
        // Idle time of a pooled connection does not count as the server's silence.
        config.reset_reader_on_write = true;
        // The caller decides when and how often to retry.
        config.default_retry = false;
        let not_before = Arc::clone(&self.not_before);
        let listen = MapResponseLayer::new(move |response: hyper::Response<Box<DynBody>>| {
            if let Some(wait) = retry_after(&response) {
                let until = Instant::now().checked_add(wait);
                let mut not_before = lock(&not_before);
                *not_before = (*not_before).max(until);
            }
            response
        });
        let builder = ClientBuilder::try_from(config).map_err(|error| {
            KubeError::Access(format!("no connection to the API server can be made: {error}"))
        })?;
        let client = builder.with_layer(&listen).build();
        *kept() = Some(client.clone());
        Ok(client)
    }

    /// Sends one request and reads the whole answer into memory.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, KubeError> {
        let answer = async {
            let response = self.send(request.map_err(KubeError::unsendable)?).await?;
            let text = whole(response.into_body(), MAX_OBJECT).await?;
            serde_json::from_slice(&text).map_err(|error| KubeError::Malformed(chain(&error)))
        };
        in_time(answer).await
    }

    /// Sends one request; the caller reads the body of the answer.
    pub(super) async fn send(
        &self,
        request: hyper::Request<Vec<u8>>,
    ) -> Result<hyper::Response<Body>, KubeError> {
        let response = self.client().await?.send(request.map(Body::from)).await?;
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(response);
        }
        let text = whole(response.into_body(), MAX_STATUS).await.unwrap_or_default();
        let message = match serde_json::from_slice::<Status>(&text) {
            Ok(status) => status.message,
            Err(_) => String::from_utf8_lossy(&text).into_owned(),
        };
        Err(KubeError::of_status(status.as_u16(), &message))
    }
}

/// Waits for an answer, for at most [`PATIENCE`].
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, KubeError>>) -> Result<T, KubeError> {
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(KubeError::timed_out()))
}

/// Reads a body of at most `most` bytes.
async fn whole(body: Body, most: usize) -> Result<Bytes, KubeError> {
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(KubeError::TooLong(most)),
        Err(error) => Err(KubeError::Away(brief(&*error))),
    }
}

fn retry_after<B>(response: &hyper::Response<B>) -> Option<Duration> {
    if !matches!(response.status().as_u16(), 429 | 503) {
        return None;
    }
    // The API server never sends the other form, a date.
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

// === impl KubeError ===

impl KubeError {
    pub(super) fn timed_out() -> KubeError {
        KubeError::Away(format!("no answer within {} s", PATIENCE.as_secs()))
    }

    #[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
    pub(super) fn unsendable(error: kube::core::request::Error) -> KubeError {
        KubeError::Refused { code: 0, message: chain(&error) }
    }

    /// The error for a Status; `code` is the HTTP status.
    pub(super) fn of_status(code: u16, message: &str) -> KubeError {
        let message: String = message.chars().filter(|char| !char.is_control()).take(300).collect();
        match code {
            // The crate `kube` takes any watch object that it cannot read for a Status.
            0 => KubeError::Malformed("an object that is no pod".to_owned()),
            401 => KubeError::Unauthorized,
            403 => KubeError::Forbidden(message),
            404 => KubeError::NotFound(message),
            409 => KubeError::Exists(message),
            410 => KubeError::Gone,
            429 | 503 | 504 => KubeError::Busy(code),
            500.. => KubeError::Away(format!("{code} {message}")),
            _ => KubeError::Refused { code, message },
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            KubeError::Access(_)
                | KubeError::Unauthorized
                | KubeError::Busy(_)
                | KubeError::Certificate(_)
                | KubeError::Away(_)
                | KubeError::TooLong(_)
                | KubeError::Malformed(_)
        )
    }
}

impl From<kube::Error> for KubeError {
    fn from(error: kube::Error) -> KubeError {
        match error {
            kube::Error::Api(status) => KubeError::of_status(status.code, &status.message),
            kube::Error::SerdeError(error) => KubeError::Malformed(chain(&error)),
            kube::Error::FromUtf8(error) => KubeError::Malformed(chain(&error)),
            kube::Error::Auth(error) => KubeError::Access(brief(&error)),
            kube::Error::UpgradeConnection(error) => {
                KubeError::Refused { code: 0, message: format!("no websocket: {}", brief(&error)) }
            }
            other => match certificate_error(&other) {
                Some(error) => KubeError::Certificate(sentence(error)),
                None => KubeError::Away(brief(&other)),
            },
        }
    }
}

/// The error of the server's certificate, if that is what failed.
fn certificate_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CertificateError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(error)) = error.downcast_ref() {
            return Some(error);
        }
        // `source` of an io::Error skips the error that it wraps.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn sentence(error: &CertificateError) -> String {
    let date = |seconds: u64| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            let (end, now) = (date(not_after.as_secs()), date(time.as_secs()));
            format!("it expired at {end}, and this node's clock says {now}; renew it, or set the clock")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (start, now) = (date(not_before.as_secs()), date(time.as_secs()));
            format!("it is valid from {start} on, and this node's clock says {now}; is the clock right?")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = presented.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
            format!(
                "it is for {names} and not for {}, as the server is called in the kubeconfig (server) or in \
                 {HOST}",
                expected.to_str()
            )
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "its authority is another one than that of the kubeconfig (certificate-authority) or of {AUTHORITY}"
        ),
        other => other.to_string(),
    }
}

/// An error of the client's libraries with its causes, shortened: hyper's own message is only "client error (Connect)".
pub(super) fn brief(error: &dyn std::error::Error) -> String {
    chain(error).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_that_runs_programs_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let text = |user: &str| {
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{{name: a, cluster: {{server: \
                 'http://127.0.0.1:1'}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\nusers: [{{name: \
                 a, user: {user}}}]\n"
            )
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = |user: &str| {
            std::fs::write(&path, text(user)).unwrap();
            runtime
                .block_on(Access::Kubeconfig(path.clone()).config())
                .map(|config| config.cluster_url.to_string())
        };
        assert_eq!(config("{token: x}").unwrap(), "http://127.0.0.1:1/");
        let error = config("{exec: {apiVersion: client.authentication.k8s.io/v1, command: sh}}").unwrap_err();
        assert!(error.to_string().contains("it gets its token from a program"), "{error}");
    }

    #[test]
    fn each_status_has_its_own_error() {
        for (code, want) in [
            (0, KubeError::Malformed("an object that is no pod".into())),
            (401, KubeError::Unauthorized),
            (403, KubeError::Forbidden("m".into())),
            (404, KubeError::NotFound("m".into())),
            (409, KubeError::Exists("m".into())),
            (410, KubeError::Gone),
            (429, KubeError::Busy(429)),
            (503, KubeError::Busy(503)),
            (500, KubeError::Away("500 m".into())),
            (422, KubeError::Refused { code: 422, message: "m".into() }),
        ] {
            assert_eq!(KubeError::of_status(code, "m"), want);
        }
        assert!(KubeError::Unauthorized.is_transient() && !KubeError::Gone.is_transient());
    }
}
