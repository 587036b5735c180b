//! Follows the state document, and reads the metrics.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::client::{MAX_BYTES, ReadStateError, parse};
use super::document::State;
use super::request::Request;
use super::server::HEARTBEAT;

/// Time limit for connecting and the first answer, and then for the metrics: half of Prometheus' default.
const MAX_TIME: Duration = Duration::from_secs(5);
/// An agent that sends nothing for this long hangs. It allows for one late heartbeat.
const SILENCE: Duration = Duration::from_secs(2 * HEARTBEAT.as_secs() + 10);
/// The capacity of the buffer that is kept between two documents, in bytes.
const KEPT: usize = 64 << 10;

/// Documents as they arrive. Dropping it closes the connection to the agent.
#[derive(Debug)]
pub struct Documents {
    stream: UnixStream,
    path: PathBuf,
    buffer: Vec<u8>,
    has_spoken: bool,
}

/// Asks the agent at `path` for its state, now and whenever it changes.
///
/// # Errors
/// See [`ReadStateError`].
pub async fn watch_state(path: &Path) -> Result<Documents, ReadStateError> {
    let stream = ask(path, Request::Watch).await?;
    Ok(Documents { stream, path: path.to_owned(), buffer: Vec::new(), has_spoken: false })
}

/// Asks the agent at `path` for its metrics (Prometheus text format 0.0.4).
///
/// # Errors
/// See [`ReadStateError`].
pub async fn read_metrics(path: &Path) -> Result<String, ReadStateError> {
    let mut stream = ask(path, Request::Metrics).await?.take(MAX_BYTES + 1);
    let mut text = String::new();
    match timeout(MAX_TIME, stream.read_to_string(&mut text)).await {
        Err(_) => Err(ReadStateError::Slow(path.to_owned())),
        Ok(Err(error)) => Err(ReadStateError::Read { path: path.to_owned(), error }),
        Ok(Ok(_)) if text.is_empty() => Err(ReadStateError::Silent(path.to_owned())),
        Ok(Ok(_)) if text.len() as u64 > MAX_BYTES => Err(ReadStateError::TooLong(path.to_owned())),
        // A document, or an error: this agent does not support the request.
        Ok(Ok(_)) if text.starts_with('{') => Err(ReadStateError::Unknown(path.to_owned())),
        Ok(Ok(_)) => Ok(text),
    }
}

async fn ask(path: &Path, request: Request) -> Result<UnixStream, ReadStateError> {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(request.line().as_bytes()).await?;
        Ok(stream)
    };
    let named = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => ReadStateError::Denied(path.to_owned()),
        // The socket's queue is full.
        io::ErrorKind::WouldBlock => ReadStateError::Slow(path.to_owned()),
        _ => ReadStateError::NotRunning { path: path.to_owned(), error },
    };
    timeout(MAX_TIME, asked).await.map_err(|_| ReadStateError::Slow(path.to_owned()))?.map_err(named)
}

// === impl Documents ===

impl Documents {
    /// The next document. After an error there are no more.
    ///
    /// # Errors
    /// See [`ReadStateError`]. If the agent closes the connection, [`ReadStateError::Silent`] before the first
    /// document and [`ReadStateError::Ended`] after it.
    pub async fn next(&mut self) -> Result<State, ReadStateError> {
        let line =
            timeout(SILENCE, self.line()).await.map_err(|_| ReadStateError::Slow(self.path.clone()))??;
        if line.starts_with(b"{\"error\"") {
            return Err(ReadStateError::Unknown(self.path.clone()));
        }
        let state = parse(&line, &self.path)?;
        self.has_spoken = true;
        Ok(state)
    }

    async fn line(&mut self) -> Result<Vec<u8>, ReadStateError> {
        let mut seen = 0;
        loop {
            let new = self.buffer.get(seen..).unwrap_or_default();
            if let Some(at) = new.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(seen + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Ok(line);
            }
            seen = self.buffer.len();
            if seen as u64 > MAX_BYTES {
                return Err(ReadStateError::TooLong(self.path.clone()));
            }
            self.buffer.reserve(KEPT);
            let read = self.stream.read_buf(&mut self.buffer).await;
            match read.map_err(|error| ReadStateError::Read { path: self.path.clone(), error })? {
                0 if self.buffer.is_empty() => {
                    let error = if self.has_spoken { ReadStateError::Ended } else { ReadStateError::Silent };
                    return Err(error(self.path.clone()));
                }
                // If the text was cut off within a document, the parser fails.
                0 => return Ok(std::mem::take(&mut self.buffer)),
                _ => {}
            }
        }
    }
}
