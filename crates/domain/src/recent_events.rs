//! The agent's recent actions and refusals, for people who investigate afterwards.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::clock::ClockChange;
use super::container::{CriId, PodRef};

/// How many events are kept: this many fixes, and as many others, so that many fixes cannot displace a refusal.
pub const KEPT: usize = 64;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// Something was corrected.
    Fixed,
    /// Something could not be corrected.
    Failed,
    /// Something was left as it is, for a reason that an operator can change.
    LeftAlone,
    /// A container must not run, or runs although it should not.
    Refused,
}

/// A recent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Sequence number, from 1 since the agent started.
    pub number: u64,
    /// Time of the event.
    pub at: SystemTime,
    /// Kind of event.
    pub kind: EventKind,
    /// The action, or the reason's name, as in the log and the metrics.
    pub what: &'static str,
    /// The container's identifier.
    pub container: CriId,
    /// The container's name in the pod.
    pub name: String,
    /// The container's pod.
    pub pod: PodRef,
    /// A sentence for people, without a full stop.
    pub sentence: String,
}

/// The most recent events.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    last: u64,
    fixes: VecDeque<Arc<Event>>,
    others: VecDeque<Arc<Event>>,
}

// === impl EventKind ===

words! {
    /// The name in documents.
    EventKind { Fixed = "fixed", Failed = "failed", LeftAlone = "left_alone", Refused = "refused" }
}

// === impl Feed ===

impl Feed {
    /// Adds an event and numbers it, removing the oldest of its kind if there are too many. An event replaces an
    /// earlier one of the same container with the same sentence.
    pub fn add(&mut self, event: Event) {
        self.last += 1;
        let event = Arc::new(Event { number: self.last, ..event });
        let kept = if event.kind == EventKind::Fixed { &mut self.fixes } else { &mut self.others };
        let sentences = |known: &Arc<Event>| {
            (&known.container, known.kind, known.what, &known.sentence)
                == (&event.container, event.kind, event.what, &event.sentence)
        };
        kept.retain(|known| !sentences(known));
        kept.push_back(event);
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    /// Moves the times of all events, because the clock was set.
    pub fn shift(&mut self, change: ClockChange) {
        for event in self.fixes.iter_mut().chain(&mut self.others) {
            let at = change.apply(event.at);
            Arc::make_mut(event).at = at;
        }
    }

    /// The kept events, the latest first.
    #[must_use]
    pub fn latest(&self) -> Vec<Arc<Event>> {
        let mut events: Vec<_> = self.fixes.iter().chain(&self.others).cloned().collect();
        events.sort_by_key(|event| std::cmp::Reverse(event.number));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, number: u64) -> Event {
        Event {
            number: 0,
            at: SystemTime::UNIX_EPOCH,
            kind,
            what: "chown_cgroup",
            container: CriId::parse("a").unwrap(),
            name: String::new(),
            pod: PodRef::default(),
            sentence: number.to_string(),
        }
    }

    #[test]
    fn a_repeated_event_is_kept_once() {
        let mut feed = Feed::default();
        for number in [1, 2, 1, 1] {
            feed.add(event(EventKind::Failed, number));
        }
        let sentences: Vec<_> = feed.latest().iter().map(|event| event.sentence.clone()).collect();
        assert_eq!(sentences, ["1", "2"], "the latest first");
        assert_eq!(feed.latest().first().unwrap().number, 4);
    }

    #[test]
    fn many_fixes_do_not_displace_a_refusal() {
        let mut feed = Feed::default();
        feed.add(event(EventKind::Refused, 0));
        (0..10 * KEPT as u64).for_each(|number| feed.add(event(EventKind::Fixed, number)));
        let latest = feed.latest();
        assert_eq!(latest.len(), KEPT + 1);
        let numbers: Vec<u64> = latest.iter().map(|event| event.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a > b), "the latest first: {numbers:?}");
        assert_eq!(latest.first().unwrap().number, 10 * KEPT as u64 + 1);
        assert_eq!(latest.last().unwrap().kind, EventKind::Refused);
        (0..10 * KEPT as u64).for_each(|number| feed.add(event(EventKind::LeftAlone, number)));
        assert_eq!(feed.latest().len(), 2 * KEPT, "bounded, whatever comes");
    }
}
