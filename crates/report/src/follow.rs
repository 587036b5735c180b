//! The agent as the exporter sees it: its last word, and whether it still speaks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::state::{ReadError, State, watch_state};
use usernsd_domain::node::{Health, PeerState};

/// Between two attempts to reach the agent: doubled after each, up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

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
        let (shortest, longest) = PAUSES;
        let mut pause = shortest;
        loop {
            let before = self.link.borrow().documents;
            let error = self.listen().await;
            // Said once: an agent may be away for days.
            if self.link.borrow().health.state == PeerState::Up {
                warn!(%error, "the agent is away");
                pause = shortest;
            } else if self.link.borrow().health.last_error.as_ref() != Some(&error.to_string()) {
                warn!(%error, "waiting for the agent");
            }
            let now = SystemTime::now();
            self.link.send_modify(|link| link.health.down(now, error.to_string()));
            sleep(pause).await;
            let heard = self.link.borrow().documents > before;
            pause = if heard { shortest } else { longest.min(2 * pause) };
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
