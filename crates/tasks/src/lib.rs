//! How the long-running roles run their tasks: one kind of asynchronous runtime, named tasks of which none may end by
//! itself, one way to stop them all, and a mailbox that keeps the latest value. Nothing here depends on what a task does.
//! Used by the composition roots, and by crates whose tasks start tasks of their own.

mod latest;

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub use latest::Latest;

/// How long an idle thread for blocking work is kept.
const IDLE: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// The name of the task that is being polled.
    static NAME: &'static str;
}

/// The asynchronous runtime of every role and command: one thread, and up to `blocking` threads for work that blocks.
///
/// # Errors
/// The kernel provides no more descriptors or threads.
pub fn runtime(blocking: usize) -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(blocking).thread_keep_alive(IDLE).build()
}

/// Makes a panic print the name of its task to stderr: a panic aborts the process, so nothing can print the name
/// afterwards. Called once, before tasks are spawned.
pub fn name_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(name) = NAME.try_with(|name| *name) {
            let _ =
                writeln!(io::stderr(), "{}", TaskEnded::Panicked { name, message: "see below".to_owned() });
        }
        default(panic);
    }));
}

/// A task ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TaskEnded {
    /// The task returned.
    #[error("the task {0:?} ended by itself; usernsd cannot work without it, and ends to be started again")]
    Returned(&'static str),
    /// The task panicked.
    #[error(
        "the task {name:?} panicked ({message}); usernsd cannot work without it, and ends to be started again"
    )]
    Panicked {
        /// The task's name.
        name: &'static str,
        /// The panic's message.
        message: String,
    },
}

/// The tasks of a role. Dropping them stops them without waiting.
#[derive(Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

// === impl Tasks ===

impl Tasks {
    /// An empty set of tasks.
    #[must_use]
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Spawns a task that runs until all are stopped; then it is dropped at the point where it waits.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let task = async move {
            stop.run_until_cancelled(task).await;
        };
        let handle = self.running.spawn(NAME.scope(name, task));
        self.names.insert(handle.id(), name);
    }

    /// Starts a thread for work that blocks, as a task. `stop` must make the work end.
    ///
    /// # Errors
    /// The kernel starts no more threads.
    pub fn spawn_thread(
        &mut self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
        stop: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let (end, mut ended) = oneshot::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let _ = end.send(result);
        })?;
        let stopped = self.stop.clone();
        let task = async move {
            let result = tokio::select! {
                result = &mut ended => result,
                () = stopped.cancelled() => {
                    stop();
                    ended.await
                }
            };
            if let Ok(Err(panic)) = result {
                std::panic::resume_unwind(panic);
            }
        };
        let handle = self.running.spawn(NAME.scope(name, task));
        self.names.insert(handle.id(), name);
        Ok(())
    }

    /// Waits until one of them ends by itself.
    pub async fn ended(&mut self) -> TaskEnded {
        match self.join_next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Stops all of them, and waits for their end until `deadline`. Returns the names of those that did not end by
    /// then, which go on if they are threads.
    pub async fn stop(mut self, deadline: Instant) -> Vec<&'static str> {
        self.stop.cancel();
        while let Ok(Some(ended)) = timeout_at(deadline, self.join_next()).await {
            if let TaskEnded::Panicked { name, message } = ended {
                tracing::warn!(task = name, message, "a task panicked while it was stopped");
            }
        }
        let mut left: Vec<&'static str> = self.names.into_values().collect();
        left.sort_unstable();
        left
    }

    async fn join_next(&mut self) -> Option<TaskEnded> {
        let joined = self.running.join_next_with_id().await?;
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let name = self.names.remove(&id).unwrap_or_default();
        Some(match joined.map_err(JoinError::try_into_panic) {
            Err(Ok(panic)) => TaskEnded::Panicked { name, message: message(&*panic) },
            Ok(_) | Err(Err(_)) => TaskEnded::Returned(name),
        })
    }
}

/// The message of a panic, if it is a text.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_task_that_returns_is_named() {
        let mut tasks = Tasks::new();
        tasks.spawn("stays", std::future::pending());
        tasks.spawn("returns", async {});
        let ended = tasks.ended().await;
        assert_eq!(ended, TaskEnded::Returned("returns"));
        assert!(ended.to_string().starts_with("the task \"returns\" ended by itself;"), "{ended}");
        assert_eq!(tasks.stop(deadline()).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_task_that_panics_is_named_with_its_message() {
        for number in [7, 8] {
            let mut tasks = Tasks::new();
            tasks.spawn("stays", std::future::pending());
            if number == 7 {
                tasks.spawn("panics", async move { std::panic::panic_any(format!("on purpose {number}")) });
            } else {
                let work = move || std::panic::panic_any(format!("on purpose {number}"));
                tasks.spawn_thread("panics", work, || {}).unwrap();
            }
            let message = format!("on purpose {number}");
            assert_eq!(tasks.ended().await, TaskEnded::Panicked { name: "panics", message });
        }
    }

    #[tokio::test]
    async fn a_stop_ends_tasks_where_they_wait_and_threads_by_their_own_stop() {
        let mut tasks = Tasks::new();
        let held = Arc::new(());
        let dropped = Arc::clone(&held);
        tasks.spawn("waits", async move {
            let _held = dropped;
            std::future::pending::<()>().await;
        });
        let (stop, stopped) = sync_channel(1);
        let work = move || stopped.recv().unwrap_or_default();
        tasks.spawn_thread("thread", work, move || stop.send(()).unwrap_or_default()).unwrap();
        assert_eq!(tasks.stop(deadline()).await, [""; 0]);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_hangs_is_named_at_the_deadline() {
        let mut tasks = Tasks::new();
        let (release, held) = sync_channel::<()>(1);
        tasks.spawn("waits", std::future::pending());
        tasks.spawn_thread("hangs", move || held.recv().unwrap_or_default(), || {}).unwrap();
        assert_eq!(tasks.stop(deadline()).await, ["hangs"]);
        drop(release);
    }

    #[tokio::test]
    async fn without_a_task_none_ends() {
        let mut tasks = Tasks::new();
        assert!(tokio::time::timeout(Duration::from_millis(1), tasks.ended()).await.is_err());
    }

    #[test]
    fn the_runtime_runs_blocking_work_beside_itself() {
        let runtime = runtime(1).unwrap();
        assert_eq!(runtime.block_on(async { tokio::task::spawn_blocking(|| 7).await }).unwrap(), 7);
    }
}
