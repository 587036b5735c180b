//! Notices that the wall clock was set, so that recorded times stay true and documents with a time of expiry are written
//! again.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use usernsd_domain::chain::chain;
use usernsd_domain::clock::{ClockChange, ClockReading, Shift, Stamp};
use usernsd_domain::lock::lock;
use usernsd_linux::proc::Proc;

/// The pause between two readings. Until the next one, a time in a document may be wrong.
const INTERVAL: Duration = Duration::from_secs(2);

/// Notices that the wall clock was set.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    proc: Proc,
    /// The latest reading.
    before: Option<ClockReading>,
}

/// The clock by which this process records times.
pub struct Clock {
    watch: Mutex<ClockWatch>,
    /// Moves the recorded times.
    move_times: Box<dyn Fn(ClockChange) + Send + Sync>,
    set: Arc<Notify>,
}

// === impl ClockWatch ===

impl ClockWatch {
    /// Starts with the clock as it is now; `proc` has the uptime.
    pub(crate) fn new(proc: Proc) -> ClockWatch {
        let before = read(&proc);
        ClockWatch { proc, before }
    }

    /// Reads the clock, and returns how it was set since the last reading. A reading is missing if the uptime cannot be
    /// read.
    pub(crate) fn read(&mut self) -> (Option<ClockReading>, Option<ClockChange>) {
        let now = read(&self.proc);
        let change = now.zip(self.before).and_then(|(now, before)| now.set_since(&before));
        self.before = now.or(self.before);
        (now, change)
    }
}

// === impl Clock ===

impl Clock {
    /// Starts with the clock as it is now. `move_times` is called after each change of the clock, and moves the times that
    /// were recorded before it.
    #[must_use]
    pub fn new(proc: Proc, move_times: impl Fn(ClockChange) + Send + Sync + 'static) -> Clock {
        let watch = Mutex::new(ClockWatch::new(proc));
        Clock { watch, move_times: Box::new(move_times), set: Arc::default() }
    }

    /// Notified after the clock was set.
    #[must_use]
    pub fn set(&self) -> Arc<Notify> {
        Arc::clone(&self.set)
    }

    /// Reads the clock at intervals, without end.
    pub async fn follow(self: Arc<Clock>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.read();
        }
    }

    /// A time that another process recorded, by the clock as it is now. If the clock was set since the last reading, the
    /// recorded times are moved first, so that all of them are by the same clock.
    #[must_use]
    pub fn time_of(&self, stamp: Stamp) -> SystemTime {
        stamp.by(self.read())
    }

    /// Reads the clock, and moves the recorded times if it was set.
    fn read(&self) -> Option<ClockReading> {
        // Held until the times are moved: a caller of `time_of` must not see the new clock with the old times.
        let mut watch = lock(&self.watch);
        let (now, change) = watch.read();
        if let Some(change) = change {
            let direction = match change.shift {
                Shift::Forward(_) => "forward",
                Shift::Back(_) => "back",
            };
            info!(
                seconds = change.shift.distance().as_secs(),
                direction, "the clock was set; recorded times are moved with it"
            );
            (self.move_times)(change);
            self.set.notify_one();
        }
        now
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("watch", &self.watch).finish_non_exhaustive()
    }
}

/// The present, for another process that reads it later.
#[must_use]
pub fn stamp(proc: &Proc) -> Stamp {
    let now = read(proc);
    Stamp { wall: now.map_or_else(SystemTime::now, |now| now.wall), uptime: now.map(|now| now.uptime) }
}

fn read(proc: &Proc) -> Option<ClockReading> {
    let clock = proc.clock();
    clock.inspect_err(|error| debug!(error = %chain(error), "could not read the uptime")).ok()
}
