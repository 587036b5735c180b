//! Recently used host IDs: containers with their own user namespace that have ended, to resolve an ID in an audit
//! log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::clock::ClockChange;
use super::container::{CriId, PodRef};
use super::idmap::IdMap;
use super::record::Record;

/// How many containers are kept. The kubelet may give a slot to another pod at any time, so older entries are of
/// little use.
pub const KEPT: usize = 256;

/// A container that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The identifier; for a restarted container, that of its last run.
    pub id: CriId,
    /// The container's name in the pod.
    pub name: String,
    /// The container's pod.
    pub pod: PodRef,
    /// The mapping of user IDs.
    pub uid_map: IdMap,
    /// The mapping of group IDs.
    pub gid_map: IdMap,
    /// When it was first observed.
    pub since: SystemTime,
    /// When it was observed to have ended.
    pub until: SystemTime,
}

/// The containers that ended most recently.
#[derive(Debug, Clone, Default)]
pub struct History(VecDeque<Arc<Past>>);

// === impl Past ===

impl Past {
    /// The entry for a record; `None` if the container had no host IDs of its own.
    #[must_use]
    pub fn of(record: &Record, since: SystemTime, until: SystemTime) -> Option<Past> {
        if record.user_namespace.is_none_or(|namespace| namespace.is_hosts) {
            return None;
        }
        Some(Past {
            id: record.id.clone(),
            name: record.name.clone(),
            pod: record.pod.clone(),
            uid_map: record.uid_map.clone()?,
            gid_map: record.gid_map.clone().unwrap_or_default(),
            since,
            until,
        })
    }

    /// Whether the other is another run of the same container of the same pod, with the same IDs.
    fn is_same(&self, other: &Past) -> bool {
        (&self.pod, &self.name, &self.uid_map, &self.gid_map)
            == (&other.pod, &other.name, &other.uid_map, &other.gid_map)
    }
}

// === impl History ===

impl History {
    /// Adds an entry. A container that restarts again and again is kept once, from its first start on.
    pub fn add(&mut self, mut past: Past) {
        if let Some(index) = self.0.iter().position(|known| known.is_same(&past))
            && let Some(known) = self.0.remove(index)
        {
            past.since = past.since.min(known.since);
        }
        self.0.push_front(Arc::new(past));
        self.0.truncate(KEPT);
    }

    /// Removes a container that turns out to be running.
    pub fn take_back(&mut self, id: &CriId) {
        self.0.retain(|known| known.id != *id);
    }

    /// Moves the times of all entries, because the clock was set.
    pub fn shift(&mut self, change: ClockChange) {
        for past in &mut self.0 {
            let past = Arc::make_mut(past);
            (past.since, past.until) = (change.apply(past.since), change.apply(past.until));
        }
    }

    /// The entries, the latest first.
    #[must_use]
    pub fn latest(&self) -> Vec<Arc<Past>> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ClockReading;

    fn past(id: &str, name: &str, first: u32, since: u64, until: u64) -> Past {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let map = IdMap::parse(&format!("0 {first} 65536")).unwrap();
        Past {
            id: CriId::parse(id).unwrap(),
            name: name.into(),
            pod: PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() },
            uid_map: map.clone(),
            gid_map: map,
            since: at(since),
            until: at(until),
        }
    }

    #[test]
    fn the_latest_are_kept_and_each_container_once() {
        let mut history = History::default();
        history.add(past("a1", "a", 65_536, 1, 2));
        history.add(past("b1", "b", 65_536, 1, 3));
        history.add(past("a2", "a", 65_536, 4, 5));
        assert_eq!(history.latest().iter().map(|past| past.id.as_str()).collect::<Vec<_>>(), ["a2", "b1"]);
        assert_eq!(*history.latest()[0], past("a2", "a", 65_536, 1, 5));
        // A container with other IDs is another entry.
        history.add(past("a3", "a", 131_072, 6, 7));
        assert_eq!(history.latest().len(), 3);
        history.take_back(&CriId::parse("b1").unwrap());
        assert_eq!(history.latest().len(), 2);
        for index in 0..1000 {
            history.add(past("x", &index.to_string(), 65_536, 8, 9));
        }
        assert_eq!(history.latest().len(), KEPT);
        assert_eq!(history.latest()[0].name, "999");
    }

    #[test]
    fn times_are_moved_with_the_clock() {
        let at = |wall| ClockReading {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall),
            uptime: Duration::from_secs(50),
        };
        let mut history = History::default();
        history.add(past("a", "a", 65_536, 1, 2));
        history.add(past("b", "b", 65_536, 3, 4));
        history.shift(at(1100).set_since(&at(100)).unwrap());
        let moved = history.latest();
        assert_eq!(
            moved.iter().map(|past| (**past).clone()).collect::<Vec<_>>(),
            [past("b", "b", 65_536, 1003, 1004), past("a", "a", 65_536, 1001, 1002)]
        );
    }
}
