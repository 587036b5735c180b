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

/// The pause between two looks. Until the next one, a time in a document may be wrong.
const LOOK: Duration = Duration::from_secs(2);

/// The clock by which this process records times.
pub struct Clock {
    proc: Proc,
    /// Moves the recorded times.
    move_times: Box<dyn Fn(ClockChange) + Send + Sync>,
    set: Arc<Notify>,
    /// The latest reading.
    before: Mutex<Option<ClockReading>>,
}

impl Clock {
    /// A clock by which no time has been recorded yet; `move_times` moves those that will have been.
    #[must_use]
    pub fn new(proc: Proc, move_times: impl Fn(ClockChange) + Send + Sync + 'static) -> Clock {
        let before = Mutex::new(read(&proc));
        Clock { proc, move_times: Box::new(move_times), set: Arc::default(), before }
    }

    /// Notified after the clock was set.
    #[must_use]
    pub fn set(&self) -> Arc<Notify> {
        Arc::clone(&self.set)
    }

    /// Looks at the clock from time to time.
    pub async fn follow(self: Arc<Clock>) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    /// A time that another process recorded, by the present clock, which is that of all recorded times afterwards.
    #[must_use]
    pub fn time_of(&self, stamp: Stamp) -> SystemTime {
        stamp.by(self.look())
    }

    /// Reads the clock, and moves the recorded times if it was set.
    fn look(&self) -> Option<ClockReading> {
        let mut before = lock(&self.before);
        let now = read(&self.proc);
        if let Some(change) = now.zip(*before).and_then(|(now, before)| now.set_since(&before)) {
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
        *before = now.or(*before);
        now
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("before", &self.before).finish_non_exhaustive()
    }
}

/// The present, for another process that reads it later.
#[must_use]
pub fn stamp(proc: &Proc) -> Stamp {
    let wall = SystemTime::now();
    Stamp { wall, uptime: read(proc).map(|now| now.uptime) }
}

fn read(proc: &Proc) -> Option<ClockReading> {
    let clock = proc.clock();
    clock.inspect_err(|error| debug!(error = %chain(error), "could not read the uptime")).ok()
}
