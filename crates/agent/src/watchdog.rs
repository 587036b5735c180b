//! A watchdog thread: ends the process if the main loop or a request of the runtime hangs. A pod has no
//! systemd watchdog, and its probes are answered by a thread that may work while another one hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The pause between two checks.
const PAUSE: Duration = Duration::from_secs(1);
/// The process ends after this many checks in a row without a beat. Checks are counted and not seconds, so
/// that a process that was suspended does not time out when it resumes.
const LOOKS: u32 = 60;
/// The process ends after this many checks in a row that find a request in work for too long.
const STUCK_LOOKS: u32 = 5;

/// The beats of the main loop.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// How often the main loop must beat.
    pub const EVERY: Duration = Duration::from_secs(5);

    /// Called by the main loop every [`Pulse::EVERY`].
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts the thread. `is_stuck` returns whether a request has been in work for too long.
///
/// # Errors
/// No thread can be created.
pub fn guard(pulse: Pulse, is_stuck: impl Fn() -> bool + Send + 'static) -> std::io::Result<()> {
    let observe = move || (pulse.0.load(Ordering::Relaxed), is_stuck());
    thread::Builder::new().name("alive".to_owned()).spawn(move || {
        let what = wait_for_silence(observe, || thread::sleep(PAUSE));
        tracing::error!(what, "the agent hangs; ending it, so that it is restarted");
        // Log lines are written by another thread, which needs a moment.
        thread::sleep(PAUSE);
        std::process::abort();
    })?;
    Ok(())
}

/// Waits until something hangs, and returns what it is.
fn wait_for_silence(observe: impl Fn() -> (u64, bool), pause: impl Fn()) -> &'static str {
    let (mut last, mut silent, mut stuck) = (None, 0, 0);
    loop {
        let (beats, is_stuck) = observe();
        silent = if last == Some(beats) { silent + 1 } else { 0 };
        stuck = if is_stuck { stuck + 1 } else { 0 };
        last = Some(beats);
        if stuck >= STUCK_LOOKS {
            return "a request of the runtime";
        }
        if silent >= LOOKS {
            return "the main loop";
        }
        pause();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_loop_that_hangs_is_named_and_a_slow_one_is_not() {
        let polls = Cell::new(0_u32);
        let after = |observe: &dyn Fn(u32) -> (u64, bool)| {
            polls.set(0);
            let what = wait_for_silence(|| observe(polls.get()), || polls.set(polls.get() + 1));
            (what, polls.get())
        };
        // A beat every five checks, for two hundred checks.
        let slow = |at: u32| (u64::from(at.min(200) / 5), false);
        assert_eq!(after(&slow), ("the main loop", 200 + LOOKS));
        // Requests that take long now and then, and one that never ends.
        let requests = |at: u32| (u64::from(at), at > 100 || !at.is_multiple_of(5));
        assert_eq!(after(&requests), ("a request of the runtime", 100 + STUCK_LOOKS));
    }
}
