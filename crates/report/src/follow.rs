//! The agent as the exporter sees it: its last word, and whether it still speaks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::state::{ReadError, State, watch_state};
use usernsd_domain::node::{Health, PeerState};
use usernsd_domain::rate_limit::Backoff;

/// The first and the longest pause between two attempts to reach the agent.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// After a connection that lasted this long, the pauses start anew.
const LASTING: Duration = Duration::from_secs(10);

/// How the exporter and the agent get on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Whether it answers, since when, and what went wrong last.
    pub health: Health,
    /// When the last document came.
    pub heard: Option<SystemTime>,
    /// How many came.
    pub documents: u64,
}

/// The agent's latest state document and counters, as the exporter has them. Clones share them.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The agent's last word, also while it is away; `None` before the first.
    pub state: watch::Receiver<Option<Arc<State>>>,
    /// Whether it still speaks.
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
    /// A follower of the agent behind `socket`, and what it will know.
    #[must_use]
    pub fn new(socket: PathBuf, now: SystemTime) -> (Follower, Followed) {
        let (state, last) = watch::channel(None);
        let link = Link { health: Health::new(now), heard: None, documents: 0 };
        let (link, current) = watch::channel(link);
        (Follower { socket, state, link }, Followed { state: last, link: current })
    }

    /// Reads until it is dropped. An agent that is away is asked again, with growing pauses.
    pub async fn run(self) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, LASTING);
        loop {
            let since = Instant::now();
            let error = self.listen().await;
            let lasted = since.elapsed();
            // Said once: an agent may be away for days.
            if self.link.borrow().health.state == PeerState::Up {
                warn!(%error, "the agent is away");
            } else if self.link.borrow().health.last_error.as_ref() != Some(&error.to_string()) {
                warn!(%error, "waiting for the agent");
            }
            let now = SystemTime::now();
            self.link.send_modify(|link| link.health.down(now, error.to_string()));
            sleep(backoff.after(lasted)).await;
        }
    }

    /// Takes every document of one connection; returns why there are no more.
    async fn listen(&self) -> ReadError {
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
                link.heard = Some(now);
                link.documents += 1;
            });
        }
    }
}

// === impl Link ===

impl Link {
    /// What to tell who asks for something that only a present agent has.
    ///
    /// # Errors
    /// The agent is away: a sentence for people.
    pub fn present(&self) -> Result<(), String> {
        match (&self.health.state, &self.health.last_error) {
            (PeerState::Up, _) => Ok(()),
            (_, Some(error)) => Err(format!("the agent is away: {error}")),
            (_, None) => Err("the agent did not answer yet".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

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
        // At the first pause it would be 240 times.
        let accepted = accepted.load(Ordering::Relaxed);
        assert!((5..=20).contains(&accepted), "connected {accepted} times in a minute");
    }
}
