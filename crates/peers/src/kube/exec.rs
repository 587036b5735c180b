//! Programs in pods' containers, as `kubectl exec` runs them: over a websocket each, through the API server and the
//! node's kubelet.

use std::io;
use std::path::Path;

use futures_util::future::try_join;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use kube::client::Body;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tower::service_fn;

use super::client::{KubeError, brief};

/// The longest output of a program that is read into memory, in bytes.
const MAX_OUTPUT: usize = 64 << 20;
/// Bytes of an output that wait for their reader.
const BUFFER: usize = 64 << 10;

/// Runs programs in one container of a namespace's pods.
#[derive(Clone)]
pub struct Exec {
    pods: Api<Pod>,
    container: String,
}

/// The end of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramEnd {
    /// The program's exit code.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

// === impl Exec ===

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec").field("container", &self.container).finish_non_exhaustive()
    }
}

impl Exec {
    /// Reaches the API server through a socket on which it answers without credentials, as that of `kubectl proxy`. Must
    /// be called within a runtime.
    #[must_use]
    pub fn through(socket: &Path, namespace: &str, container: &str) -> Exec {
        let socket = socket.to_owned();
        let send = move |mut request: hyper::Request<Body>| {
            let socket = socket.clone();
            async move {
                // kubectl accepts no other names. Without it, hyper would send none.
                request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
                let stream = UnixStream::connect(socket).await?;
                let (mut sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
                // It ends with the answer, or with the websocket that it becomes.
                tokio::spawn(connection.with_upgrades());
                sender.send_request(request).await.map_err(io::Error::other)
            }
        };
        let client = Client::new(service_fn(send), namespace);
        Exec { pods: Api::namespaced(client, namespace), container: container.to_owned() }
    }

    /// Runs a program to its end. Dropping the future closes the connection; the program may go on.
    ///
    /// # Errors
    /// See [`KubeError`]: [`Forbidden`](KubeError::Forbidden) and [`Refused`](KubeError::Refused) before the program has
    /// started, others at any time.
    pub async fn run(&self, pod: &str, command: &[&str]) -> Result<ProgramEnd, KubeError> {
        let attach = AttachParams::default()
            .container(&self.container)
            .stdin(false)
            .max_stdout_buf_size(BUFFER)
            .max_stderr_buf_size(BUFFER);
        let mut process = self.pods.exec(pod, command.iter().copied(), &attach).await?;
        let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
        let (stdout, stderr) = try_join(read(stdout), read(stderr)).await?;
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let Some(status) = status else {
            let why = process.join().await.map_err(|error| brief(&error));
            return Err(KubeError::Away(match why {
                Ok(()) => "the connection was closed before the program's end".to_owned(),
                Err(error) => error,
            }));
        };
        Ok(ProgramEnd { code: exit_code(&status)?, stdout, stderr })
    }
}

/// Reads one of a program's outputs to its end.
async fn read(output: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, KubeError> {
    let mut text = Vec::new();
    if let Some(output) = output {
        let most = MAX_OUTPUT as u64 + 1;
        output.take(most).read_to_end(&mut text).await.map_err(|error| KubeError::Away(brief(&error)))?;
    }
    if text.len() > MAX_OUTPUT { Err(KubeError::TooLong(MAX_OUTPUT)) } else { Ok(text) }
}

/// The exit code in the Status that ends a program (k8s.io/apimachinery, remotecommand: `NonZeroExitCodeReason`).
fn exit_code(status: &Status) -> Result<i32, KubeError> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().filter_map(|details| details.causes.as_ref()).flatten();
    let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match codes.next().and_then(|cause| cause.message.as_deref()?.parse().ok()) {
        Some(code) => Ok(code),
        None => Err(KubeError::of_status(500, status.message.as_deref().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_status_that_ends_a_program_has_its_exit_code() {
        let code = |status: Value| exit_code(&serde_json::from_value(status).unwrap());
        let cause = |reason: &str, message: &str| {
            json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated",
                "details": {"causes": [{"reason": reason, "message": message}]}})
        };
        assert_eq!(code(json!({"status": "Success"})), Ok(0));
        assert_eq!(code(cause("ExitCode", "1")), Ok(1));
        let failed = json!({"status": "Failure", "reason": "InternalError", "message": "no such container"});
        for failed in [failed, cause("ExitCode", "one"), cause("Other", "1"), json!({})] {
            assert!(matches!(code(failed), Err(KubeError::Away(_))));
        }
    }
}
