//! Log lines on stderr or in the journal, and how many there were.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use thiserror::Error;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The levels that are counted. Lower ones are written only when someone looks for something.
const COUNTED: [&str; 3] = ["error", "warn", "info"];

/// A process has one stderr, so it has one count.
static WRITTEN: [AtomicU64; 3] = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];

/// Why log lines cannot be written.
#[derive(Debug, Error)]
pub enum LogError {
    /// Not a level.
    #[error("log level {0:?}")]
    Level(String),
    /// Called twice.
    #[error("the log is open already")]
    Twice,
}

/// Counts what the filter lets through.
struct Count;

impl<S: Subscriber> Layer<S> for Count {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let index = match *event.metadata().level() {
            Level::ERROR => 0,
            Level::WARN => 1,
            Level::INFO => 2,
            _ => return,
        };
        if let Some(counter) = WRITTEN.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lines that wait to be written while nobody reads them; with more, the newest are dropped and
/// counted. Some 2 MB.
const WAITING: usize = 8192;

/// How many were dropped.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes the lines that still wait when it is dropped, within a second.
#[must_use = "lines that wait are lost without it"]
#[derive(Debug)]
pub struct Log {
    _writer: Option<WorkerGuard>,
}

/// Who writes the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// A thread of its own: whoever logs never waits for whoever reads.
    Behind,
    /// Whoever logs: for a process that says a few lines, fewer than a pipe holds, and ends.
    Directly,
}

/// Where systemd's journal takes messages (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// What the journal files the lines under: `journalctl -t usernsd`.
const IDENTIFIER: &str = "usernsd";

/// Writes lines to the journal; those that it does not take at once are lost.
struct Journal(Arc<UnixDatagram>);

struct JournalLine {
    socket: Arc<UnixDatagram>,
    /// As syslog(3) numbers them.
    priority: u8,
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = JournalLine;

    fn make_writer(&'a self) -> JournalLine {
        JournalLine { socket: Arc::clone(&self.0), priority: 6 }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> JournalLine {
        let priority = match *meta.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        JournalLine { socket: Arc::clone(&self.0), priority }
    }
}

impl Write for JournalLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.trim_ascii_end();
        let mut message =
            format!("PRIORITY={}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE\n", self.priority).into_bytes();
        message.extend_from_slice(&(text.len() as u64).to_le_bytes());
        message.extend_from_slice(text);
        message.push(b'\n');
        // A journal that is away or full takes nothing from anyone.
        let _ = self.socket.send_to(&message, JOURNAL);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the log of a process whose stderr may lead nowhere, as that of a program which a container
/// runtime starts: then the lines go to the journal, where there is one. Nobody who logs waits.
///
/// # Errors
/// See [`LogError`].
pub fn init_without_terminal(level: &str, json: bool) -> Result<Log, LogError> {
    let nowhere =
        rustix::fs::fstat(io::stderr().as_fd()).is_ok_and(|found| found.st_rdev == rustix::fs::makedev(1, 3));
    let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    let Some(socket) = socket.ok().filter(|_| nowhere) else { return init(level, json, Writing::Behind) };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Journal(Arc::new(socket)))
        .with_ansi(false)
        .with_target(false)
        .without_time();
    tracing_subscriber::registry()
        .with(filter(level)?)
        .with(Count)
        .with(lines)
        .try_init()
        .map_err(|_| LogError::Twice)?;
    Ok(Log { _writer: None })
}

/// Opens the log: `level` for usernsd's own lines, warnings and worse of the libraries.
///
/// # Errors
/// See [`LogError`].
pub fn init(level: &str, json: bool, writing: Writing) -> Result<Log, LogError> {
    let filter = filter(level)?;
    let (writer, guard) = match writing {
        Writing::Directly => (BoxMakeWriter::new(std::io::stderr), None),
        Writing::Behind => {
            let (writer, guard) = NonBlockingBuilder::default()
                .buffered_lines_limit(WAITING)
                .lossy(true)
                .finish(std::io::stderr());
            let _ = DROPPED.set(writer.error_counter());
            (BoxMakeWriter::new(writer), Some(guard))
        }
    };
    let registry = tracing_subscriber::registry().with(filter).with(Count);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let twice = |_| LogError::Twice;
    if json {
        registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init().map_err(twice)?;
    } else {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let ansi = std::io::stderr().is_terminal() && !no_color && !dumb;
        registry.with(lines.with_ansi(ansi).with_target(false)).try_init().map_err(twice)?;
    }
    Ok(Log { _writer: guard })
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let wrong = |_: &dyn fmt::Display| LogError::Level(level.to_owned());
    let _: Level = level.parse().map_err(|error| wrong(&error))?;
    // Of each request that fails kube_client makes an error; who asked says it, once.
    EnvFilter::builder().parse(format!("warn,kube_client=off,usernsd={level}")).map_err(|error| wrong(&error))
}

/// How many lines were dropped because nobody read the log.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// How many lines were written, by level.
pub fn written() -> impl Iterator<Item = (&'static str, u64)> {
    COUNTED.into_iter().zip(WRITTEN.iter().map(|counter| counter.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_stay_quiet() {
        assert_eq!(filter("debug").unwrap().to_string(), "kube_client=off,usernsd=debug,warn");
        for level in ["loud", "", "info,zbus=trace"] {
            assert!(filter(level).is_err(), "{level:?}");
        }
    }

    #[test]
    fn what_the_filter_lets_through_is_counted() {
        let subscriber = tracing_subscriber::registry().with(EnvFilter::new("usernsd=info")).with(Count);
        let before: Vec<_> = written().collect();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("one");
            tracing::warn!("two");
            tracing::info!("three");
            tracing::debug!("not written");
            tracing::error!(target: "zbus", "not ours");
        });
        let grown: Vec<_> = written().zip(before).map(|((_, after), (_, before))| after - before).collect();
        assert_eq!(grown, [0, 2, 1]);
    }
}
