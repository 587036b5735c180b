//! The wall clock as something that is set now and then: by the first synchronisation after a boot, by hand, or when a
//! machine continues from a snapshot. Times that were recorded before are moved with it.

use std::time::{Duration, SystemTime};

/// Smaller differences are the clock's usual corrections, and the time between the two readings.
const LEAST: Duration = Duration::from_secs(1);

/// The wall clock, and the time since the machine was started, which nobody sets and which passes while the machine
/// sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    pub wall: SystemTime,
    pub uptime: Duration,
}

/// By how much the wall clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    Forward(Duration),
    Back(Duration),
}

/// That the wall clock was set between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockChange {
    pub shift: Shift,
    /// The earlier reading as the clock would have shown it then, and the later one. A time between the two was recorded
    /// after the clock had been set.
    since: SystemTime,
    now: SystemTime,
}

/// A time that another process of this machine recorded, maybe before the clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub wall: SystemTime,
    /// The uptime at that time; `None` if it is not known.
    pub uptime: Option<Duration>,
}

// === impl ClockReading ===

impl ClockReading {
    /// By how much the wall clock was set since an `earlier` reading; `None` if it was not.
    fn shift_since(&self, earlier: &ClockReading) -> Option<Shift> {
        let passed = self.uptime.saturating_sub(earlier.uptime);
        let shift = match earlier.wall.checked_add(passed).map(|due| self.wall.duration_since(due)) {
            Some(Ok(ahead)) => Shift::Forward(ahead),
            Some(Err(behind)) => Shift::Back(behind.duration()),
            None => return None,
        };
        Some(shift).filter(|shift| shift.distance() >= LEAST)
    }

    /// Whether and how the wall clock was set since an `earlier` reading.
    #[must_use]
    pub fn set_since(&self, earlier: &ClockReading) -> Option<ClockChange> {
        let shift = self.shift_since(earlier)?;
        Some(ClockChange { shift, since: shift.apply(earlier.wall), now: self.wall })
    }
}

// === impl Shift ===

impl Shift {
    /// The time that the clock would have shown at `recorded`, had it been set before; `recorded` itself if that cannot
    /// be represented.
    #[must_use]
    pub fn apply(self, recorded: SystemTime) -> SystemTime {
        let moved = match self {
            Shift::Forward(by) => recorded.checked_add(by),
            Shift::Back(by) => recorded.checked_sub(by),
        };
        moved.unwrap_or(recorded)
    }

    /// Without its direction.
    #[must_use]
    pub fn distance(self) -> Duration {
        match self {
            Shift::Forward(by) | Shift::Back(by) => by,
        }
    }
}

// === impl ClockChange ===

impl ClockChange {
    /// A recorded time by the clock as it is now. One that was recorded after the clock had been set stays.
    #[must_use]
    pub fn apply(self, recorded: SystemTime) -> SystemTime {
        if (self.since..=self.now).contains(&recorded) { recorded } else { self.shift.apply(recorded) }
    }
}

// === impl Stamp ===

impl Stamp {
    /// This time by the clock as it is `now`, later on the same machine.
    #[must_use]
    pub fn by(self, now: Option<ClockReading>) -> SystemTime {
        let recorded = self.uptime.map(|uptime| ClockReading { wall: self.wall, uptime });
        let shift = now.zip(recorded).and_then(|(now, recorded)| now.shift_since(&recorded));
        shift.map_or(self.wall, |shift| shift.apply(self.wall))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(wall: u64, uptime: u64) -> ClockReading {
        ClockReading {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall),
            uptime: Duration::from_secs(uptime),
        }
    }

    #[test]
    fn a_clock_that_was_set_is_distinguished_from_one_that_ran() {
        let before = reading(1000, 50);
        assert_eq!(reading(1005, 55).shift_since(&before), None);
        // Asleep for eight hours.
        assert_eq!(reading(1000 + 28_800, 50 + 28_800).shift_since(&before), None);
        let hour = Duration::from_secs(3600);
        assert_eq!(reading(1005 + 3600, 55).shift_since(&before), Some(Shift::Forward(hour)));
        assert_eq!(reading(1005, 55 + 3600).shift_since(&before), Some(Shift::Back(hour)));
        // Corrected by less than a second.
        let corrected = ClockReading { wall: before.wall + Duration::from_millis(900), ..before };
        assert_eq!(corrected.shift_since(&before), None);
        assert_eq!(before.shift_since(&corrected), None);
    }

    #[test]
    fn a_time_that_was_recorded_after_the_clock_was_set_stays() {
        for (shown, recorded_before, recorded_after) in [
            // Set forward by 5000 s, at the uptime of 51 s.
            (reading(6002, 52), (1001, 6001), 6001),
            // Set back by 500 s.
            (reading(502, 52), (999, 499), 501),
        ] {
            let change = shown.set_since(&reading(1000, 50)).unwrap();
            let apply = |wall| change.apply(reading(wall, 0).wall);
            assert_eq!(apply(recorded_before.0), reading(recorded_before.1, 0).wall, "{change:?}");
            assert_eq!(apply(recorded_after), reading(recorded_after, 0).wall, "{change:?}");
        }
        assert_eq!(reading(1002, 52).set_since(&reading(1000, 50)), None);
    }

    #[test]
    fn a_time_of_another_process_is_moved_if_the_clock_was_set_since() {
        let of = |wall, uptime| Stamp { wall: reading(wall, 0).wall, uptime };
        let now = Some(reading(6050, 100));
        let stamp = of(1000, Some(Duration::from_secs(50)));
        assert_eq!(stamp.by(now), reading(6000, 0).wall);
        assert_eq!(of(6000, Some(Duration::from_secs(50))).by(now), reading(6000, 0).wall);
        // Nothing is known about an earlier version's.
        assert_eq!(of(1000, None).by(now), reading(1000, 0).wall);
        assert_eq!(stamp.by(None), reading(1000, 0).wall);
    }

    #[test]
    fn a_recorded_time_keeps_its_distance_to_the_present() {
        let (recorded, now) = (reading(0, 7), reading(1_800_000_000, 107));
        let shift = now.shift_since(&recorded).unwrap();
        let age = now.wall.duration_since(shift.apply(recorded.wall)).unwrap();
        assert_eq!(age, Duration::from_secs(100));
        // Before 1970 there are times too.
        let back = Shift::Back(Duration::from_secs(60));
        assert!(back.apply(SystemTime::UNIX_EPOCH) < SystemTime::UNIX_EPOCH);
        let endless = Shift::Forward(Duration::MAX);
        assert_eq!(endless.apply(now.wall), now.wall);
    }

    proptest! {
        #[test]
        fn a_shift_that_is_taken_back_changes_nothing(
            wall in 0..4_000_000_000_u64, up in 0..1_000_000_u64, passed in 0..1_000_000_u64, other in 0..4_000_000_000_u64,
        ) {
            let (first, second) = (reading(wall, up), reading(other, up + passed));
            let back = reading(wall + passed + passed, up + passed + passed);
            let shifts = [second.shift_since(&first), back.shift_since(&second)];
            let moved = shifts.into_iter().flatten().fold(first.wall, |time, shift| shift.apply(time));
            prop_assert_eq!(moved, first.wall);
        }
    }
}
