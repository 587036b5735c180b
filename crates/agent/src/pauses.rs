//! The pauses between tries to join a peer.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The longest: a peer that was down for an hour is joined within this.
const LONGEST: Duration = Duration::from_secs(5);

/// Each pause is twice the one before, up to a longest. Joining alone does not shorten them, or a peer that
/// takes everyone in and sends them away again would be joined ten times a second.
#[derive(Debug)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
    lasting: Duration,
}

// === impl Pauses ===

impl Pauses {
    /// Pauses of 100 ms to 5 s that start anew after a session of at least `lasting`.
    #[must_use]
    pub fn new(lasting: Duration) -> Pauses {
        Pauses::between(FIRST, LONGEST, lasting)
    }

    /// Pauses from `first` to `longest`.
    #[must_use]
    pub fn between(first: Duration, longest: Duration, lasting: Duration) -> Pauses {
        Pauses { first, longest, next: first, lasting }
    }

    /// The pause after a session of that length; zero for a try that failed.
    pub fn after(&mut self, session: Duration) -> Duration {
        let pause = if session >= self.lasting { self.first } else { self.next };
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_session_that_lasts_shortens_them() {
        let lasting = Duration::from_secs(30);
        let mut pauses = Pauses::new(lasting);
        let mut after = |session, times| (0..times).map(|_| pauses.after(session).as_millis()).collect();
        let short: Vec<u128> = after(lasting / 2, 8);
        assert_eq!(short, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let long: Vec<u128> = after(lasting, 2);
        assert_eq!(long, [100, 100]);
        let failed: Vec<u128> = after(Duration::ZERO, 2);
        assert_eq!(failed, [200, 400]);
        let mut long = Pauses::between(lasting, lasting * 3, lasting);
        let long: Vec<u64> = (0..3).map(|_| long.after(Duration::ZERO).as_secs()).collect();
        assert_eq!(long, [30, 60, 90]);
    }
}
