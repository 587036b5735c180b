//! A mailbox for one value.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// A mailbox that holds the latest value: a value that was not taken is replaced by the next. For producers that must
/// not wait, and whose values make older ones worthless. Clones of an `Arc` are both ends.
#[derive(Debug)]
pub struct Latest<T> {
    value: Mutex<Option<T>>,
    put: Notify,
}

// === impl Latest ===

impl<T> Default for Latest<T> {
    fn default() -> Latest<T> {
        Latest { value: Mutex::new(None), put: Notify::new() }
    }
}

impl<T> Latest<T> {
    /// Puts a value, in the place of one that was not taken. Never waits.
    pub fn put(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.put.notify_one();
    }

    /// Takes the value, if there is one.
    pub fn try_take(&self) -> Option<T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes the value, and waits for one if there is none. For one task at a time. Loses nothing if it is dropped
    /// before its end.
    pub async fn take(&self) -> T {
        loop {
            if let Some(value) = self.try_take() {
                return value;
            }
            self.put.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn only_the_latest_value_is_taken() {
        let mailbox = Latest::default();
        assert_eq!(mailbox.try_take(), None);
        mailbox.put(1);
        mailbox.put(2);
        assert_eq!(mailbox.take().await, 2);
        assert_eq!(mailbox.try_take(), None);
    }

    #[tokio::test]
    async fn a_value_that_comes_later_is_waited_for() {
        let mailbox = Arc::new(Latest::default());
        let (putting, waiting) = (Arc::clone(&mailbox), Arc::clone(&mailbox));
        let taken = tokio::spawn(async move { waiting.take().await });
        tokio::task::yield_now().await;
        std::thread::spawn(move || putting.put(7)).join().unwrap();
        assert_eq!(taken.await.unwrap(), 7);
    }
}
