//! How often a peer is asked: pauses between attempts to reach it, and limits for requests. No clock: durations are
//! passed in, and times are measured from any one fixed moment.

use std::collections::BTreeMap;
use std::time::Duration;

/// Exponential back-off: each pause is twice the one before, up to the longest.
///
/// A connection that was made does not reset it, only one that lasted: otherwise a peer that accepts and hangs up would
/// be connected to at the pace of the first pause, forever.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    lasting: Duration,
    next: Duration,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    size: f64,
    every: Duration,
    tokens: f64,
    since: Duration,
}

/// Limits how often something is posted: in total, and about each object. It also counts the recent posts of each
/// part, such as a namespace, so that the parts can take turns.
#[derive(Debug, Clone)]
pub struct Limiter {
    all: Bucket,
    fresh: Bucket,
    objects: BTreeMap<String, Bucket>,
    /// A bucket per part, each of the size of the total one.
    parts: BTreeMap<String, Bucket>,
    whole: Bucket,
}

/// Lets clients ask in turn: each has a bucket of its own, below the one of all. While more clients ask than that one
/// permits, those that have asked the least come first.
#[derive(Debug)]
pub struct Turns<C> {
    all: Bucket,
    fresh: Bucket,
    /// The clients that have asked recently.
    clients: BTreeMap<C, Bucket>,
    /// The clients that wait for their turn, by ticket.
    waiting: BTreeMap<u64, C>,
    next: u64,
}

/// Whether it is a client's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The client may ask now.
    Now,
    /// The client has to wait for others.
    Later,
    /// The client has asked too much.
    Refused,
}

// === impl Backoff ===

impl Backoff {
    /// Pauses from `first` to `longest`, which start again from the first after a connection of at least
    /// `lasting`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, lasting: Duration) -> Backoff {
        Backoff { first, longest, lasting, next: first }
    }

    /// Pauses for a peer on this node, from 100 ms to 5 s: within that time one is reached that was away for long.
    #[must_use]
    pub fn on_this_node(lasting: Duration) -> Backoff {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(5), lasting)
    }

    /// The pause after a connection that lasted for `lasted`; zero for an attempt that failed.
    pub fn after(&mut self, lasted: Duration) -> Duration {
        if lasted >= self.lasting {
            self.reset();
        }
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }

    /// Starts again from the first pause, because the peer answered a request.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A pause that is spread over time, so that thousands of nodes that fail together do not retry together: `random`
/// (from 0 to 1) times the pause, in addition to what the peer asked for. Clients that were given the same time must
/// not return at the same moment either.
#[must_use]
pub fn spread(pause: Duration, random: f64, at_least: Option<Duration>) -> Duration {
    at_least.unwrap_or_default() + pause.mul_f64(random.clamp(0.0, 1.0))
}

// === impl Bucket ===

impl Bucket {
    /// A full bucket of `size` tokens; one is added after each interval `every`.
    #[must_use]
    pub fn new(size: u32, every: Duration) -> Bucket {
        Bucket { size: f64::from(size), every, tokens: f64::from(size), since: Duration::ZERO }
    }

    /// Takes a token if there is one, at time `now`.
    pub fn take(&mut self, now: Duration) -> bool {
        self.refill(now);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        self.since = self.since.max(now);
        self.tokens = (self.tokens + passed / self.every.as_secs_f64()).min(self.size);
    }

    fn is_full(&self) -> bool {
        self.tokens >= self.size
    }
}

// === impl Limiter ===

impl Limiter {
    /// `all` limits everything together, `each` each object.
    #[must_use]
    pub fn new(all: Bucket, each: Bucket) -> Limiter {
        Limiter { all, fresh: each, objects: BTreeMap::new(), parts: BTreeMap::new(), whole: all }
    }

    /// Number of tokens that a part has used and that were not refilled yet.
    pub fn spent(&mut self, part: &str, now: Duration) -> f64 {
        self.parts.get_mut(part).map_or(0.0, |bucket| {
            bucket.refill(now);
            bucket.size - bucket.tokens
        })
    }

    /// Whether something may be posted about `object`, which belongs to `part`. Takes a token if so.
    pub fn may(&mut self, object: &str, part: &str, now: Duration) -> bool {
        self.all.refill(now);
        let bucket = self.objects.entry(object.to_owned()).or_insert(Bucket { since: now, ..self.fresh });
        bucket.refill(now);
        let granted = bucket.tokens >= 1.0 && self.all.tokens >= 1.0;
        if granted {
            bucket.tokens -= 1.0;
            self.all.tokens -= 1.0;
            let part = self.parts.entry(part.to_owned()).or_insert(Bucket { since: now, ..self.whole });
            part.refill(now);
            part.tokens -= 1.0;
        }
        // Full buckets need no memory; there are at most as many others as tokens were taken.
        for buckets in [&mut self.objects, &mut self.parts] {
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                !bucket.is_full()
            });
        }
        granted
    }
}

// === impl Turns ===

impl<C: Ord + Clone> Turns<C> {
    /// `all` limits everything together, `each` each client.
    #[must_use]
    pub fn new(all: Bucket, each: Bucket) -> Turns<C> {
        Turns { all, fresh: each, clients: BTreeMap::new(), waiting: BTreeMap::new(), next: 0 }
    }

    /// A ticket for one question of `client`. The caller must give it back with [`Turns::leave`].
    pub fn enter(&mut self, client: C) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.waiting.insert(ticket, client);
        ticket
    }

    /// Takes a ticket back, used or not.
    pub fn leave(&mut self, ticket: u64) {
        self.waiting.remove(&ticket);
    }

    /// Whether it is the ticket's turn, at time `now`. Uses the ticket and takes the tokens if so.
    pub fn take(&mut self, ticket: u64, now: Duration) -> Turn {
        self.all.refill(now);
        // Full buckets need no memory; there are at most as many others as tokens were taken.
        self.clients.retain(|_, bucket| {
            bucket.refill(now);
            !bucket.is_full()
        });
        let Some(client) = self.waiting.get(&ticket).cloned() else { return Turn::Refused };
        if self.left(&client) < 1.0 {
            return Turn::Refused;
        }
        let others = self.waiting.iter().map(|(ticket, client)| (self.left(client), *ticket));
        let first = others.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        if self.all.tokens < 1.0 || first.is_none_or(|(_, first)| first != ticket) {
            return Turn::Later;
        }
        self.waiting.remove(&ticket);
        self.all.tokens -= 1.0;
        let bucket = self.clients.entry(client).or_insert(Bucket { since: now, ..self.fresh });
        bucket.tokens -= 1.0;
        Turn::Now
    }

    /// The tokens that a client has left.
    fn left(&self, client: &C) -> f64 {
        self.clients.get(client).map_or(self.fresh.size, |bucket| bucket.tokens)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new(seconds(1), seconds(60), seconds(30));
        let pauses: Vec<u64> = (0..8).map(|_| backoff.after(seconds(0)).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.after(seconds(0)), seconds(1));
    }

    #[test]
    fn only_a_connection_that_lasted_resets_the_pauses() {
        let mut backoff = Backoff::on_this_node(seconds(30));
        let mut after = |lasted, times| (0..times).map(|_| backoff.after(lasted).as_millis()).collect();
        let short: Vec<u128> = after(seconds(29), 8);
        assert_eq!(short, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let long: Vec<u128> = after(seconds(30), 2);
        assert_eq!(long, [100, 100]);
        let failed: Vec<u128> = after(Duration::ZERO, 2);
        assert_eq!(failed, [200, 400]);
    }

    #[test]
    fn a_spread_pause_is_added_to_what_the_peer_asked_for() {
        assert_eq!(spread(seconds(60), 0.0, None), Duration::ZERO);
        assert_eq!(spread(seconds(60), 1.0, None), seconds(60));
        assert_eq!(spread(seconds(60), 0.5, Some(seconds(90))), seconds(120));
        assert_eq!(spread(seconds(60), f64::MAX, None), seconds(60));
    }

    #[test]
    fn one_object_has_25_and_then_one_every_five_minutes() {
        let mut limiter = Limiter::new(Bucket::new(1000, seconds(1)), Bucket::new(25, seconds(300)));
        let granted = (0..100).filter(|_| limiter.may("pod", "", seconds(0))).count();
        assert_eq!(granted, 25);
        assert!(limiter.may("other", "", seconds(0)));
        assert!(!limiter.may("pod", "", seconds(299)));
        assert!(limiter.may("pod", "", seconds(300)));
        assert!(!limiter.may("pod", "", seconds(300)));
    }

    #[test]
    fn all_together_have_ten_a_minute() {
        let mut limiter = Limiter::new(Bucket::new(10, seconds(6)), Bucket::new(25, seconds(300)));
        let granted = |limiter: &mut Limiter, now: u64| {
            (0..100).filter(|n| limiter.may(&format!("pod-{n}"), "", seconds(now))).count()
        };
        assert_eq!(granted(&mut limiter, 0), 10);
        assert_eq!(granted(&mut limiter, 5), 0);
        assert_eq!(granted(&mut limiter, 60), 10);
    }

    #[test]
    fn the_tokens_of_a_part_are_refilled_with_time() {
        let mut limiter = Limiter::new(Bucket::new(10, seconds(6)), Bucket::new(25, seconds(300)));
        for number in 0..4 {
            assert!(limiter.may(&format!("pod-{number}"), "evil", seconds(0)));
        }
        let spent = |limiter: &mut Limiter, part: &str, now: u64| limiter.spent(part, seconds(now)).round();
        assert_eq!([spent(&mut limiter, "evil", 0), spent(&mut limiter, "victim", 0)], [4.0, 0.0]);
        assert_eq!(spent(&mut limiter, "evil", 12), 2.0);
        assert_eq!(spent(&mut limiter, "evil", 60), 0.0);
    }

    fn turns() -> Turns<u32> {
        Turns::new(Bucket::new(20, Duration::from_millis(200)), Bucket::new(4, seconds(10)))
    }

    #[test]
    fn a_client_has_its_own_limit_and_leaves_the_others_theirs() {
        let mut turns = turns();
        let mut ask = |client, now| {
            let ticket = turns.enter(client);
            let turn = turns.take(ticket, seconds(now));
            turns.leave(ticket);
            turn
        };
        let flood: Vec<Turn> = (0..1000).map(|_| ask(1, 0)).collect();
        assert_eq!(flood.iter().filter(|turn| **turn == Turn::Now).count(), 4);
        assert_eq!(flood.last(), Some(&Turn::Refused));
        assert_eq!(
            (ask(2, 0), ask(1, 9), ask(1, 10), ask(1, 10)),
            (Turn::Now, Turn::Refused, Turn::Now, Turn::Refused)
        );
    }

    #[test]
    fn the_clients_that_have_asked_the_least_come_first() {
        let mut turns = turns();
        let now = |turns: &mut Turns<u32>, client| {
            let ticket = turns.enter(client);
            assert_eq!(turns.take(ticket, seconds(0)), Turn::Now);
        };
        // The bucket of all is empty.
        (0..10).for_each(|client| (0..2).for_each(|_| now(&mut turns, client)));
        let flood: Vec<u64> = (0..10).map(|client| turns.enter(client)).collect();
        let (newcomer, second) = (turns.enter(77), turns.enter(78));
        let mut asked = |ticket, milliseconds| turns.take(ticket, Duration::from_millis(milliseconds));
        assert!(flood.iter().all(|ticket| asked(*ticket, 200) == Turn::Later));
        assert_eq!(
            (asked(second, 200), asked(newcomer, 200), asked(second, 200)),
            (Turn::Later, Turn::Now, Turn::Later)
        );
        assert_eq!(
            (asked(flood[0], 400), asked(second, 400), asked(flood[0], 400)),
            (Turn::Later, Turn::Now, Turn::Later)
        );
        assert_eq!((asked(flood[1], 600), asked(flood[0], 600)), (Turn::Later, Turn::Now));
        // A ticket that was given back delays nobody.
        turns.leave(flood[1]);
        assert_eq!(turns.take(flood[2], Duration::from_millis(800)), Turn::Now);
        assert_eq!(turns.take(flood[1], seconds(60)), Turn::Refused);
    }

    proptest! {
        #[test]
        fn turns_are_bounded_in_all(clients in proptest::collection::vec((0..40u32, 0..300u64), 0..500)) {
            let (mut turns, mut at, mut granted) = (turns(), Duration::ZERO, 0);
            for (client, milliseconds) in clients {
                at += Duration::from_millis(milliseconds);
                let ticket = turns.enter(client);
                granted += u64::from(turns.take(ticket, at) == Turn::Now);
                turns.leave(ticket);
                prop_assert!(granted <= 20 + u64::try_from(at.as_millis()).unwrap() / 200);
                // A bucket that is not full is refilled within 40 s.
                prop_assert!(turns.clients.len() <= 220 && turns.waiting.is_empty());
            }
        }

        #[test]
        fn memory_is_bounded_by_the_tokens_granted(objects in proptest::collection::vec(0..10_000u32, 0..300)) {
            let mut limiter = Limiter::new(Bucket::new(10, seconds(6)), Bucket::new(25, seconds(300)));
            for object in &objects {
                limiter.may(&object.to_string(), &object.to_string(), seconds(0));
            }
            prop_assert!(limiter.objects.len() <= 10 && limiter.parts.len() <= 10);
            limiter.may("last", "", seconds(7500));
            prop_assert!(limiter.objects.len() <= 1);
        }
    }
}
