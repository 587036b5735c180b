//! What the agent did and would not do lately, for people who look after the fact.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::container::{CriId, PodName};

/// How many of each are kept: fixes, and all that is no fix. A storm of fixes takes no refusal away.
pub const KEPT: usize = 64;

/// What kind of event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// Something was put right.
    Fixed,
    /// Something could not be put right.
    Failed,
    /// Something was left as it is, for a reason that an operator can do something about.
    LeftAlone,
    /// A container must not run, or does although it should not.
    Refused,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, from 1, as long as this agent runs.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// Of what kind.
    pub kind: EventKind,
    /// The action, or the reason's name: the words of the log and of the metrics.
    pub what: &'static str,
    /// The container.
    pub container: CriId,
    /// Its name in the pod.
    pub name: String,
    /// Its pod.
    pub pod: PodName,
    /// A sentence for people, without a full stop.
    pub sentence: String,
}

/// The latest events.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    last: u64,
    fixes: VecDeque<Arc<Event>>,
    others: VecDeque<Arc<Event>>,
}

// === impl EventKind ===

impl EventKind {
    /// Every kind.
    pub const ALL: [EventKind; 4] =
        [EventKind::Fixed, EventKind::Failed, EventKind::LeftAlone, EventKind::Refused];

    /// The name in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Fixed => "fixed",
            EventKind::Failed => "failed",
            EventKind::LeftAlone => "left_alone",
            EventKind::Refused => "refused",
        }
    }
}

// === impl Feed ===

impl Feed {
    /// Adds an event and gives it its number; the oldest of its kind goes where there are too many.
    /// What is said of a container again takes the place of what was said.
    pub fn add(&mut self, event: Event) {
        self.last += 1;
        let event = Arc::new(Event { number: self.last, ..event });
        let kept = if event.kind == EventKind::Fixed { &mut self.fixes } else { &mut self.others };
        let said = |known: &Arc<Event>| {
            (&known.container, known.kind, known.what, &known.sentence)
                == (&event.container, event.kind, event.what, &event.sentence)
        };
        kept.retain(|known| !said(known));
        kept.push_back(event);
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    /// Those that are kept, the latest first.
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
            pod: PodName::default(),
            sentence: number.to_string(),
        }
    }

    #[test]
    fn what_is_said_again_is_one_line() {
        let mut feed = Feed::default();
        for number in [1, 2, 1, 1] {
            feed.add(event(EventKind::Failed, number));
        }
        let said: Vec<_> = feed.latest().iter().map(|event| event.sentence.clone()).collect();
        assert_eq!(said, ["1", "2"], "the latest first");
        assert_eq!(feed.latest().first().unwrap().number, 4);
    }

    #[test]
    fn a_storm_of_fixes_takes_no_refusal_away() {
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
