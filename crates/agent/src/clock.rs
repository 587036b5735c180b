//! Notices that the wall clock was set, so that recorded times stay true and documents with a time of expiry are written
//! again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use usernsd_domain::chain::chain;
use usernsd_domain::clock::{ClockReading, Shift, Stamp};
use usernsd_domain::lock::lock;
use usernsd_linux::proc::Proc;
use usernsd_report::store::Store;

/// The pause between two looks. Until the next one, a time in a document may be wrong.
const LOOK: Duration = Duration::from_secs(2);

/// The clock by which the times in a store are recorded.
#[derive(Debug)]
pub struct Clock {
    proc: Proc,
    store: Store,
    set: Arc<Notify>,
    /// The latest reading.
    before: Mutex<Option<ClockReading>>,
}

impl Clock {
    /// The clock for `store`, which has no earlier times.
    #[must_use]
    pub fn new(proc: Proc, store: Store) -> Clock {
        let before = Mutex::new(read(&proc));
        Clock { proc, store, set: Arc::default(), before }
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

    /// A time that another process recorded, by the present clock, which is the store's afterwards.
    #[must_use]
    pub fn time_of(&self, stamp: Stamp) -> SystemTime {
        stamp.by(self.look())
    }

    /// Reads the clock, and moves the times in the store if it was set.
    fn look(&self) -> Option<ClockReading> {
        let mut before = lock(&self.before);
        let now = read(&self.proc);
        if let Some(setting) = now.zip(*before).and_then(|(now, before)| now.set_since(&before)) {
            let direction = match setting.shift {
                Shift::Forward(_) => "forward",
                Shift::Back(_) => "back",
            };
            info!(
                seconds = setting.shift.distance().as_secs(),
                direction, "the clock was set; recorded times are moved with it"
            );
            self.store.shift(setting);
            self.set.notify_one();
        }
        *before = now.or(*before);
        now
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
