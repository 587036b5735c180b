//! Notices that the wall clock was set, so that recorded times stay true and documents with a time of expiry are written
//! again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use usernsd_domain::chain::chain;
use usernsd_domain::clock::{Reading, Shift};
use usernsd_linux::proc::Proc;
use usernsd_report::store::Store;

/// The pause between two looks. Until the next one, a time in a document may be wrong.
const LOOK: Duration = Duration::from_secs(2);

/// Moves the times in `store` whenever the clock was set, and notifies `set`.
pub async fn follow(proc: Proc, store: Store, set: Arc<Notify>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = read(&proc);
    loop {
        ticks.tick().await;
        let now = read(&proc);
        if let Some(shift) = now.zip(before).and_then(|(now, before)| now.shift_since(&before)) {
            let direction = match shift {
                Shift::Forward(_) => "forward",
                Shift::Back(_) => "back",
            };
            info!(
                seconds = shift.distance().as_secs(),
                direction, "the clock was set; recorded times are moved with it"
            );
            store.shift(shift);
            set.notify_one();
        }
        before = now.or(before);
    }
}

fn read(proc: &Proc) -> Option<Reading> {
    let clock = proc.clock();
    clock.inspect_err(|error| debug!(error = %chain(error), "could not read the uptime")).ok()
}
