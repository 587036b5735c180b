//! What is known of the node besides its containers, and all of it together at one moment.

use std::sync::Arc;
use std::time::SystemTime;

use super::record::Record;

/// A program the agent talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// The container runtime's CRI.
    Cri,
    /// The container runtime's NRI.
    Nri,
    /// systemd, over the system bus.
    Systemd,
}

/// Whether a peer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// The configuration switches it off: not talking to it is no fault.
    Off,
    /// It does not answer, or was not reached yet.
    Down,
    /// It answers.
    Up,
}

/// How the agent and a peer get on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it answers.
    pub state: PeerState,
    /// Since when.
    pub since: SystemTime,
    /// How often it was reached again after it had been up.
    pub reconnects: u64,
    /// Whether it was ever up.
    pub seen: bool,
    /// The last error, for as long as anyone may ask.
    pub last_error: Option<String>,
}

/// The health of every peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// See [`Peer::Cri`].
    pub cri: Health,
    /// See [`Peer::Nri`].
    pub nri: Health,
    /// See [`Peer::Systemd`].
    pub systemd: Health,
}

/// The container runtime, as it calls itself (CRI `Version`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// `containerd` or `cri-o`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The socket it answers on.
    pub endpoint: String,
}

/// Everything that is known at one moment. It never changes; the next moment is another one.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The runtime, once it was reached.
    pub runtime: Option<Runtime>,
    /// The peers' health.
    pub peers: Peers,
    /// The containers, by their ID.
    pub containers: Vec<Arc<Record>>,
}

// === impl Peer, PeerState ===

impl Peer {
    /// Every peer.
    pub const ALL: [Peer; 3] = [Peer::Cri, Peer::Nri, Peer::Systemd];

    /// The name in logs, metrics and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Peer::Cri => "cri",
            Peer::Nri => "nri",
            Peer::Systemd => "systemd",
        }
    }
}

impl PeerState {
    /// The name in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PeerState::Off => "off",
            PeerState::Down => "down",
            PeerState::Up => "up",
        }
    }
}

// === impl Health ===

impl Health {
    /// A peer nobody has talked to yet.
    #[must_use]
    pub fn new(now: SystemTime) -> Health {
        Health { state: PeerState::Down, since: now, reconnects: 0, seen: false, last_error: None }
    }

    /// It answers.
    pub fn up(&mut self, now: SystemTime) {
        if self.state != PeerState::Up && self.seen {
            self.reconnects += 1;
        }
        self.seen = true;
        self.enter(PeerState::Up, now);
    }

    /// It does not answer, for this reason.
    pub fn down(&mut self, now: SystemTime, error: String) {
        self.last_error = Some(error);
        self.enter(PeerState::Down, now);
    }

    /// It is not to be talked to.
    pub fn off(&mut self, now: SystemTime) {
        self.enter(PeerState::Off, now);
    }

    fn enter(&mut self, state: PeerState, now: SystemTime) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }
}

// === impl Peers ===

impl Peers {
    /// Peers nobody has talked to yet.
    #[must_use]
    pub fn new(now: SystemTime) -> Peers {
        Peers { cri: Health::new(now), nri: Health::new(now), systemd: Health::new(now) }
    }

    /// One of them.
    #[must_use]
    pub fn of(&self, peer: Peer) -> &Health {
        match peer {
            Peer::Cri => &self.cri,
            Peer::Nri => &self.nri,
            Peer::Systemd => &self.systemd,
        }
    }

    /// One of them, to change it.
    pub fn of_mut(&mut self, peer: Peer) -> &mut Health {
        match peer {
            Peer::Cri => &mut self.cri,
            Peer::Nri => &mut self.nri,
            Peer::Systemd => &mut self.systemd,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reconnect_is_a_second_time_up() {
        let start = SystemTime::UNIX_EPOCH;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new(start);
        health.down(at(1), "no socket".into());
        assert_eq!((health.reconnects, health.since), (0, start), "it was down before");
        health.up(at(2));
        health.up(at(3));
        assert_eq!((health.reconnects, health.since), (0, at(2)));
        health.down(at(4), "closed".into());
        health.up(at(5));
        assert_eq!((health.reconnects, health.since), (1, at(5)));
        assert_eq!(health.last_error.as_deref(), Some("closed"), "the last error outlives it");
        health.off(at(6));
        assert_eq!((health.state, health.since), (PeerState::Off, at(6)));
    }
}
