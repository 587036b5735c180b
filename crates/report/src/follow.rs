//! The agent's state as the exporter follows it: the last document, and whether the agent still answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::state::{ReadStateError, State, watch_state};
use usernsd_domain::chain::chain;
use usernsd_domain::clock::ClockChange;
use usernsd_domain::node::{Health, PeerState};
use usernsd_domain::rate_limit::Backoff;

/// The first and the longest pause between two attempts to reach the agent.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// After a connection that lasted this long, the pauses start again from the first.
const LASTING: Duration = Duration::from_secs(10);

/// The state of the connection between exporter and agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Whether the agent answers, since when, and the last error.
    pub health: Health,
    /// When the last document arrived.
    pub last_document: Option<SystemTime>,
    /// The number of documents that have arrived.
    pub documents: u64,
}

/// The agent's latest state document and the state of the connection to it. Clones share them.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The agent's last document, kept while the agent is away; `None` before the first.
    pub state: watch::Receiver<Option<Arc<State>>>,
    /// The state of the connection.
    pub link: watch::Receiver<Link>,
}

/// Reads the agent's state for as long as the exporter runs.
#[derive(Debug)]
pub struct Follower {
    socket: PathBuf,
    state: watch::Sender<Option<Arc<State>>>,
    link: watch::Sender<Link>,
}

// === impl Follower ===

impl Follower {
    /// A follower of the agent behind `socket`, and its results.
    #[must_use]
    pub fn new(socket: PathBuf, now: SystemTime) -> (Follower, Followed) {
        let (state, last) = watch::channel(None);
        let link = Link { health: Health::new(now), last_document: None, documents: 0 };
        let (link, current) = watch::channel(link);
        (Follower { socket, state, link }, Followed { state: last, link: current })
    }

    /// Moves the recorded times of the connection; for a clock that was set.
    pub fn mover(&self) -> impl Fn(ClockChange) + Send + Sync + 'static {
        let link = self.link.clone();
        move |change| {
            link.send_modify(|link| {
                link.health.since = change.apply(link.health.since);
                link.last_document = link.last_document.map(|at| change.apply(at));
            });
        }
    }

    /// Reads until it is dropped. Reconnects to an agent that is away, with growing pauses.
    pub async fn run(self) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, LASTING);
        loop {
            let since = Instant::now();
            let error = self.listen().await;
            let lasted = since.elapsed();
            // Logged once, because an agent may be away for days.
            if self.link.borrow().health.state == PeerState::Up {
                warn!(error = %chain(&error), "the agent is away");
            } else if self.link.borrow().health.last_error.as_ref() != Some(&chain(&error)) {
                warn!(error = %chain(&error), "waiting for the agent");
            }
            let now = SystemTime::now();
            self.link.send_modify(|link| link.health.down(now, chain(&error)));
            sleep(backoff.after(lasted)).await;
        }
    }

    /// Takes every document of one connection; returns why there are no more.
    async fn listen(&self) -> ReadStateError {
        let mut documents = match watch_state(&self.socket).await {
            Ok(documents) => documents,
            Err(error) => return error,
        };
        loop {
            let state = match documents.next().await {
                Ok(state) => state,
                Err(error) => return error,
            };
            let now = SystemTime::now();
            if self.link.borrow().health.state != PeerState::Up {
                info!(agent = %state.agent.version, "reading the agent's state");
            }
            self.state.send_replace(Some(Arc::new(state)));
            self.link.send_modify(|link| {
                link.health.up(now);
                link.last_document = Some(now);
                link.documents += 1;
            });
        }
    }
}

// === impl Link ===

impl Link {
    /// Whether the agent is present, for requests that only a present agent can answer.
    ///
    /// # Errors
    /// The agent is away; the error is a sentence for people.
    pub fn present(&self) -> Result<(), String> {
        match (&self.health.state, &self.health.last_error) {
            (PeerState::Up, _) => Ok(()),
            (_, Some(error)) => Err(format!("the agent is away: {error}")),
            (_, None) => Err("the agent has not answered yet".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use usernsd_domain::clock::ClockReading;

    #[test]
    fn the_times_of_the_connection_are_moved_with_the_clock() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (follower, followed) = Follower::new(PathBuf::new(), at(1000));
        let reading =
            |seconds, uptime| ClockReading { wall: at(seconds), uptime: Duration::from_secs(uptime) };
        let move_times = follower.mover();
        let change = reading(5000, 60).set_since(&reading(1010, 50)).unwrap();
        move_times(change);
        assert_eq!(
            (followed.link.borrow().health.since, followed.link.borrow().last_document),
            (at(4980), None)
        );
        follower.link.send_modify(|link| link.last_document = Some(at(4990)));
        move_times(reading(1030, 80).set_since(&reading(5010, 70)).unwrap());
        assert_eq!(
            (followed.link.borrow().health.since, followed.link.borrow().last_document),
            (at(990), Some(at(1000)))
        );
    }

    const DOCUMENT: &str = include_str!("../../../tests/golden/state.json");

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_answers_and_hangs_up_is_asked_less_and_less_often() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        tokio::spawn(async move {
            let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
            let line = format!("{document}\n");
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                // A connection that is closed with an unread request is reset.
                let _ = stream.read(&mut [0; 64]).await;
                stream.write_all(line.as_bytes()).await.unwrap();
            }
        });
        let (follower, followed) = Follower::new(path, SystemTime::UNIX_EPOCH);
        tokio::spawn(follower.run());
        sleep(Duration::from_secs(60)).await;
        let documents = followed.link.borrow().documents;
        assert!(documents > 1, "{documents} documents came");
        // With the first pause throughout, there would be 240 connections.
        let accepted = accepted.load(Ordering::Relaxed);
        assert!((5..=20).contains(&accepted), "connected {accepted} times in a minute");
    }
}
