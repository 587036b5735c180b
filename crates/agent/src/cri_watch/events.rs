//! The runtime's event stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::Wake;
use usernsd_peers::cri::{ContainerEvent, Cri, CriError};

/// The most events that wait to be handled. They are received at once, because CRI-O sends to its
/// subscribers one after the other, so that a slow one delays the kubelet. Further events are dropped, and
/// a resync finds their containers.
const EVENTS: usize = 1024;

/// The event stream, which is read by a task of its own.
pub(super) struct Events {
    received: mpsc::Receiver<ContainerEvent>,
    ended: Option<JoinHandle<(Duration, bool, Option<CriError>)>>,
}

// === impl Events ===

impl Events {
    pub(super) fn subscribe(cri: &Cri, resync: &Arc<Notify>) -> Events {
        let (send, received) = mpsc::channel(EVENTS);
        let resync = Arc::clone(resync);
        let stream = cri.events();
        let ended = tokio::spawn(async move { forward(stream, send, &resync).await });
        Events { received, ended: Some(ended) }
    }

    pub(super) fn none() -> Events {
        Events { received: mpsc::channel(1).1, ended: None }
    }

    /// The next event, or how the stream ended; after that it never returns.
    pub(super) async fn next(&mut self) -> Wake {
        if let Some(event) = self.received.recv().await {
            return Wake::Event(event);
        }
        let Some(ended) = &mut self.ended else { return std::future::pending().await };
        let (lasted, any, error) = ended.await.unwrap_or((Duration::ZERO, false, None));
        self.ended = None;
        Wake::EventsEnded { lasted, any, error }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Otherwise the task would go on reading, and stay subscribed, until the next event.
        if let Some(reading) = &self.ended {
            reading.abort();
        }
    }
}

async fn forward(
    stream: impl Stream<Item = Result<ContainerEvent, CriError>>,
    send: mpsc::Sender<ContainerEvent>,
    resync: &Notify,
) -> (Duration, bool, Option<CriError>) {
    let since = Instant::now();
    let mut stream = std::pin::pin!(stream);
    let mut any = false;
    loop {
        match stream.next().await {
            Some(Ok(event)) => {
                any = true;
                match send.try_send(event) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => resync.notify_one(),
                    Err(mpsc::error::TrySendError::Closed(_)) => return (since.elapsed(), any, None),
                }
            }
            Some(Err(error)) => return (since.elapsed(), any, Some(error)),
            None => return (since.elapsed(), any, None),
        }
    }
}
