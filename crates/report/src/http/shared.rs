//! Shares one answer among all requests within a short time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use tokio::time::sleep;

use usernsd_domain::lock::lock;

/// How long a finished answer is reused.
const KEPT: Duration = Duration::from_secs(1);

type Make<T> = Box<dyn Fn() -> BoxFuture<'static, T> + Send + Sync>;
/// An answer in progress or finished; `None` if making it panicked.
type Flight<T> = future::Shared<BoxFuture<'static, Option<T>>>;

/// Makes answers, one at a time and at most one a second. Clones of an answer should be cheap.
pub(super) struct Shared<T: Clone> {
    make: Make<T>,
    /// Empty from [`KEPT`] after the last answer was finished.
    flight: Arc<Mutex<Option<Flight<T>>>>,
}

// === impl Shared ===

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    pub(super) fn new(make: impl Fn() -> BoxFuture<'static, T> + Send + Sync + 'static) -> Shared<T> {
        Shared { make: Box::new(make), flight: Arc::default() }
    }

    /// Returns the last answer, the one in progress, or a new one. A new one is finished even if all its
    /// requesters have left: otherwise clients that disconnect early would cause it to be started repeatedly.
    /// Must be called within a runtime.
    pub(super) fn get(&self) -> Flight<T> {
        let mut flight = lock(&self.flight);
        if let Some(flight) = &*flight {
            return flight.clone();
        }
        let (made, kept) = (tokio::spawn((self.make)()), Arc::clone(&self.flight));
        let task = tokio::spawn(async move {
            let made = made.await.ok();
            tokio::spawn(async move {
                sleep(KEPT).await;
                *lock(&kept) = None;
            });
            made
        });
        let begun = task.map(|made| made.ok().flatten()).boxed().shared();
        *flight = Some(begun.clone());
        begun
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counting() -> (Shared<usize>, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let shared = Shared::new(move || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(300)).map(move |()| number).boxed()
        });
        (shared, made)
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_serves_everyone_for_a_second() {
        let (shared, made) = counting();
        let answers = future::join_all((0..100).map(|_| shared.get())).await;
        assert!(answers.iter().all(|answer| *answer == Some(0)));
        sleep(KEPT / 2).await;
        assert_eq!(shared.get().await, Some(0));
        sleep(KEPT).await;
        assert_eq!(shared.get().await, Some(1));
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_waits_for_is_finished_and_forgotten() {
        let (shared, made) = counting();
        for _ in 0..100 {
            drop(shared.get());
            tokio::task::yield_now().await;
        }
        sleep(Duration::from_millis(400)).await;
        assert_eq!(shared.get().now_or_never(), Some(Some(0)));
        assert_eq!(made.load(Ordering::Relaxed), 1);
        sleep(2 * KEPT).await;
        assert!(lock(&shared.flight).is_none(), "a document stays in memory");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_kept_forever() {
        let tries = Arc::new(AtomicUsize::new(0));
        let shared = Shared::new(move || {
            let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
            async move { if first { std::panic::panic_any("on purpose") } else { 7 } }.boxed()
        });
        assert_eq!(shared.get().await, None);
        sleep(2 * KEPT).await;
        assert_eq!(shared.get().await, Some(7));
    }
}
