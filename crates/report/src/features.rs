//! The feature file for Node Feature Discovery. The agent writes it, because the exporter may not write on
//! the node. NFD makes labels of it with its own permissions.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::cluster::node_facts;
use crate::state::State;
use usernsd_domain::chain::chain;
use usernsd_domain::feature;
use usernsd_domain::node::PeerState;
use usernsd_domain::provision::{Attributes, HostPath};
use usernsd_domain::utc::rfc3339;
use usernsd_linux::host::{HostError, HostRoot};

/// The pause between two checks for changes: as long as between two reads by NFD.
const INTERVAL: Duration = Duration::from_secs(60);
/// The pause between two writes of the same content.
const REFRESH: Duration = Duration::from_secs(300);
/// How long NFD accepts the file's content.
const LIFE: Duration = Duration::from_secs(900);

/// The feature file, and its content when it was last written.
#[derive(Debug)]
pub struct FeatureFile {
    root: HostRoot,
    file: HostPath,
    written: Option<Written>,
}

/// A version of the file.
#[derive(Debug)]
struct Written {
    /// The content without the time of expiry.
    text: String,
    /// When it was written, by the clock by which NFD compares.
    wall: SystemTime,
    /// The same time by the monotonic clock, which cannot be set.
    at: Instant,
}

// === impl FeatureFile ===

impl FeatureFile {
    /// The feature file `file` on the node with that root directory.
    #[must_use]
    pub fn new(root: HostRoot, file: HostPath) -> FeatureFile {
        FeatureFile { root, file, written: None }
    }

    /// Keeps the file up to date until it is dropped. `set` is notified when the clock was set: the time of expiry in
    /// the file may have passed, and then NFD removes the labels at its next read.
    pub async fn run(mut self, state: Arc<dyn Fn() -> State + Send + Sync>, set: Arc<Notify>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = set.notified() => {}
            }
            let state = Arc::clone(&state);
            // A survey of the node and a synced file take longer than other tasks may be blocked.
            let done = tokio::task::spawn_blocking(move || {
                let done = self.update(&state(), SystemTime::now());
                (self, done)
            });
            let Ok((own, done)) = done.await else { return };
            self = own;
            match done {
                Ok(()) if is_failing => info!("the feature file is written again"),
                Err(error) if !is_failing => {
                    warn!(error = %chain(&error), "no feature file for NFD; is its directory there, and mounted writable?");
                }
                _ => {}
            }
            is_failing = self.written.is_none();
        }
    }

    /// Writes the present features if they have changed or the file is old enough.
    ///
    /// # Errors
    /// See [`HostError`]; the file is unchanged.
    pub fn update(&mut self, state: &State, now: SystemTime) -> Result<(), HostError> {
        let facts = node_facts(state);
        let nri = state.peers.nri.state.is(PeerState::Up);
        let key = feature::render(&facts, nri, "");
        if self.written.as_ref().is_some_and(|written| written.text == key && written.is_fresh(now)) {
            return Ok(());
        }
        self.written = None;
        let text = feature::render(&facts, nri, &rfc3339(now + LIFE));
        self.root.replace(&self.file, text.as_bytes(), &Attributes::READABLE, None)?;
        self.written = Some(Written { text: key, wall: now, at: Instant::now() });
        Ok(())
    }
}

// === impl Written ===

impl Written {
    /// Whether the time of expiry is still as far away as it should be, by both clocks.
    fn is_fresh(&self, now: SystemTime) -> bool {
        let is_fresh = |age: Duration| age < REFRESH;
        is_fresh(self.at.elapsed()) && now.duration_since(self.wall).is_ok_and(is_fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feature_file_is_written_only_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("features.d/usernsd");
        std::fs::create_dir(dir.path().join("features.d")).unwrap();
        // An existing file keeps its owner, whichever user runs this test.
        std::fs::write(&path, "").unwrap();
        let file = HostPath::parse("/features.d/usernsd").unwrap();
        let mut features = FeatureFile::new(HostRoot::open(dir.path()).unwrap(), file);
        let golden = include_str!("../../../tests/golden/state.json");
        let mut state: State = serde_json::from_str(golden).unwrap();
        state.node.ready = Some(true);
        let at = SystemTime::UNIX_EPOCH;
        features.update(&state, at).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("# +expiry-time=1970-01-01T00:15:00Z\n"), "{text}");
        assert!(text.contains("/userns.ready=true\n"), "{text}");

        std::fs::write(&path, "").unwrap();
        features.update(&state, at).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "", "nothing is new, and it is not old");
        state.node.ready = Some(false);
        features.update(&state, at).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("/userns.ready=false\n"));
        // The clock is set: the time of expiry follows, before it has passed and if it is too far away.
        for set in [Duration::from_secs(1_800_000_000), Duration::from_secs(60)] {
            features.update(&state, at + set).unwrap();
            let expiry = format!("# +expiry-time={}\n", rfc3339(at + set + LIFE));
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(&expiry), "{expiry}{text}");
        }
        // NFD reads every file whose name does not begin with a dot.
        let names = std::fs::read_dir(dir.path().join("features.d")).unwrap();
        assert_eq!(names.count(), 1);
    }
}
