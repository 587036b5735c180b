//! The open connections of a server, and which of them is closed to make room for a new one.
//!
//! A connection costs a client nothing, so with a limit alone a client could keep all others out with idle
//! connections. Here a new connection is always accepted: if all places are taken, it replaces one of the client with
//! the most connections.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::lock;

/// The open connections of clients of type `C`, an address or a user. Clones share their state.
pub struct Places<C> {
    most: usize,
    open: Arc<Mutex<Open<C>>>,
}

struct Open<C> {
    next: u64,
    /// The oldest first.
    connections: Vec<Connection<C>>,
}

struct Connection<C> {
    number: u64,
    client: C,
    has_asked: bool,
    evict: Box<dyn FnOnce() + Send>,
}

/// A connection's place. Dropping it frees the place.
pub struct Place<C: Eq> {
    places: Places<C>,
    number: u64,
}

// === impl Places ===

impl<C> Clone for Places<C> {
    fn clone(&self) -> Places<C> {
        Places { most: self.most, open: Arc::clone(&self.open) }
    }
}

impl<C: Eq> Places<C> {
    /// Space for `most` connections at once.
    #[must_use]
    pub fn new(most: usize) -> Places<C> {
        Places { most, open: Arc::new(Mutex::new(Open { next: 0, connections: Vec::new() })) }
    }

    /// A place for a new connection of `client`. `evict` is called, at most once, when another connection takes the
    /// place; it must close this connection, and must not block.
    #[must_use]
    pub fn take(&self, client: C, evict: impl FnOnce() + Send + 'static) -> Place<C> {
        let mut open = self.lock();
        let evicted = (open.connections.len() >= self.most)
            .then(|| makes_room(&open.connections, &client))
            .flatten()
            .map(|index| open.connections.remove(index));
        let number = open.next;
        open.next += 1;
        open.connections.push(Connection { number, client, has_asked: false, evict: Box::new(evict) });
        drop(open);
        if let Some(evicted) = evicted {
            (evicted.evict)();
        }
        Place { places: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, Open<C>> {
        // Every change is one call of a Vec method: a panicking thread leaves it consistent.
        lock(&self.open)
    }
}

/// The index of the connection that makes room for a new one of `newcomer`: a connection of the client with the most
/// connections (counting the new one, so that a client makes room for itself), preferably one whose request has not
/// arrived, and of these the oldest.
fn makes_room<C: Eq>(connections: &[Connection<C>], newcomer: &C) -> Option<usize> {
    let count = |client: &C| {
        connections.iter().filter(|connection| connection.client == *client).count()
            + usize::from(client == newcomer)
    };
    let weight = |connection: &Connection<C>| (count(&connection.client), !connection.has_asked);
    let heaviest = connections.iter().map(weight).max()?;
    connections.iter().position(|connection| weight(connection) == heaviest)
}

// === impl Place ===

impl<C: Eq> Place<C> {
    /// Records that the connection's request has arrived.
    pub fn has_asked(&self) {
        let mut open = self.places.lock();
        if let Some(own) = open.connections.iter_mut().find(|connection| connection.number == self.number) {
            own.has_asked = true;
        }
    }
}

impl<C: Eq> Drop for Place<C> {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        open.connections.retain(|connection| connection.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// A connection of a client, and whether it lost its place.
    fn connect(places: &Places<u8>, client: u8) -> (Place<u8>, Arc<AtomicBool>) {
        let evicted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&evicted);
        (places.take(client, move || flag.store(true, Ordering::Relaxed)), evicted)
    }

    fn is_evicted((_, evicted): &(Place<u8>, Arc<AtomicBool>)) -> bool {
        evicted.load(Ordering::Relaxed)
    }

    #[test]
    fn the_client_with_the_most_connections_makes_room() {
        let places = Places::new(4);
        let few = connect(&places, 1);
        let many = [2, 2, 2].map(|client| connect(&places, client));
        let newcomer = connect(&places, 3);
        assert_eq!(many.each_ref().map(is_evicted), [true, false, false]);
        assert!(!is_evicted(&few) && !is_evicted(&newcomer));
        // A client with as many connections as the others makes room for itself.
        let places = Places::new(2);
        let (other, own) = (connect(&places, 1), connect(&places, 2));
        let _newest = connect(&places, 2);
        assert!(is_evicted(&own) && !is_evicted(&other));
    }

    #[test]
    fn a_connection_without_a_request_goes_before_one_that_is_being_answered() {
        let places = Places::new(2);
        let (answered, silent) = (connect(&places, 1), connect(&places, 1));
        answered.0.has_asked();
        let _newcomer = connect(&places, 1);
        assert!(is_evicted(&silent) && !is_evicted(&answered));
    }

    #[test]
    fn a_dropped_place_is_free() {
        let places = Places::new(1);
        drop(connect(&places, 1));
        let first = connect(&places, 1);
        assert!(!is_evicted(&first));
        let second = connect(&places, 1);
        assert!(is_evicted(&first));
        // Dropping the connection that lost its place does not free the other's.
        drop(first);
        let _third = connect(&places, 2);
        assert!(is_evicted(&second));
    }

    proptest! {
        #[test]
        fn a_client_with_one_connection_keeps_it_while_another_has_more(
            flood in prop::collection::vec(2_u8..6, 1..200),
            most in 8_usize..32,
        ) {
            let places = Places::new(most);
            let probe = connect(&places, 1);
            let _flood: Vec<_> = flood.into_iter().map(|client| connect(&places, client)).collect();
            prop_assert!(places.lock().connections.len() <= most);
            // Four clients share at least seven places, so one of them has two or more.
            prop_assert!(!is_evicted(&probe));
        }
    }
}
