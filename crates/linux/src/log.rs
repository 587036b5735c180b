//! Log lines on stderr or in the journal, and their numbers by level.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The levels that are counted. Lower ones are only written for debugging.
const COUNTED: [&str; 3] = ["error", "warn", "info"];

/// A process has one stderr, so the counts are global.
static WRITTEN: [AtomicU64; 3] = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];

/// Why the log could not be opened.
#[derive(Debug, Error)]
pub enum LogError {
    /// Not a log level.
    #[error("log level {0:?}")]
    Level(String),
    /// The log was opened twice.
    #[error("the log is open already")]
    Twice,
}

/// Counts the lines that pass the filter.
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

/// Number of lines that may wait to be written; if there are more, the newest are dropped and counted. About 2 MB.
const WAITING: usize = 8192;

/// Number of dropped lines.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Dropping it writes the waiting lines, within a second.
#[must_use = "lines that wait are lost without it"]
#[derive(Debug)]
pub struct Log {
    _writer: Option<WorkerGuard>,
}

/// The thread that writes the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// A separate thread, so that a thread that logs never waits for the reader of the log.
    Behind,
    /// The thread that logs: for a process that writes fewer lines than a pipe can hold, and ends.
    Directly,
}

/// The socket of systemd's journal (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// The journal's identifier of the lines: `journalctl -t usernsd`.
const IDENTIFIER: &str = "usernsd";

/// Writes lines to the journal; those that it does not accept at once are lost.
struct Journal(Arc<UnixDatagram>);

struct JournalLine {
    socket: Arc<UnixDatagram>,
    /// The priority as in syslog(3).
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
        // A journal that is missing or full must not block anyone.
        let _ = self.socket.send_to(&message, JOURNAL);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the log of a process whose stderr may lead nowhere, such as a program that a container runtime starts: the
/// lines go to the journal if there is one. Logging never blocks.
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

/// Opens the log: `level` applies to usernsd's own lines; from libraries, warnings and errors are logged.
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

/// Not an `EnvFilter`, which builds automata for regular expressions: half of the hook's start.
fn filter(level: &str) -> Result<Targets, LogError> {
    let own: Level = level.parse().map_err(|_| LogError::Level(level.to_owned()))?;
    // kube_client logs an error for each failed request; the caller reports it once.
    Ok(Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("kube_client", LevelFilter::OFF)
        .with_target("usernsd", own))
}

/// Number of lines that were dropped because the log was not read.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Number of lines that were written, by level.
pub fn written() -> impl Iterator<Item = (&'static str, u64)> {
    COUNTED.into_iter().zip(WRITTEN.iter().map(|counter| counter.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn libraries_stay_quiet() {
        let debug = filter("debug").unwrap();
        for (target, level, is_logged) in [
            ("usernsd_agent::nri_plugin", Level::DEBUG, true),
            ("usernsd_agent::nri_plugin", Level::TRACE, false),
            ("kube_client::client", Level::ERROR, false),
            ("zbus", Level::WARN, true),
            ("zbus", Level::INFO, false),
        ] {
            assert_eq!(debug.would_enable(target, &level), is_logged, "{target} {level}");
        }
        for level in ["loud", "", "info,zbus=trace"] {
            assert!(filter(level).is_err(), "{level:?}");
        }
    }

    /// In a process of its own, whose stderr nobody reads for a while: more lines than wait are logged. Those that waited
    /// are read afterwards, and every other one is counted as dropped.
    #[test]
    fn a_storm_of_lines_that_nobody_reads_is_counted_line_by_line() {
        const LINES: u64 = 20_000;
        const NAME: &str = "log::tests::a_storm_of_lines_that_nobody_reads_is_counted_line_by_line";
        const CHILD: &str = "USERNSD_TEST_LOG";
        if std::env::var_os(CHILD).is_some() {
            let log = init("info", true, Writing::Behind).unwrap();
            for number in 0..LINES {
                tracing::warn!(target: "usernsd", number, "one of many");
            }
            let logged: u64 = written().map(|(_, count)| count).sum();
            println!("\ncounts {logged} {}", dropped());
            // Until everything was read.
            let _ = io::stdin().read_line(&mut String::new());
            drop(log);
            return;
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let patience = std::time::Duration::from_secs(20);
        let (send, output) = std::sync::mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // To the end, because the child's test harness prints its result there.
            for line in stdout.lines().map_while(Result::ok) {
                line.strip_prefix("counts ").map(|counts| send.send(counts.to_owned()));
            }
        });
        let counts = output.recv_timeout(patience).expect("logging waits for the reader of the log");
        let counts: Vec<u64> = counts.split(' ').map(|count| count.parse().unwrap()).collect();
        let &[logged, dropped] = counts.as_slice() else { panic!("{counts:?}") };
        assert!(logged == LINES && dropped > 0 && dropped < LINES, "{logged} {dropped}");
        let (send, lines) = std::sync::mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reading = std::thread::spawn(move || {
            let lines = stderr.lines().map_while(Result::ok).filter(|line| line.contains("one of many"));
            lines.for_each(|line| send.send(line).unwrap());
        });
        let mut read = 0;
        while read + dropped < logged && lines.recv_timeout(patience).is_ok() {
            read += 1;
        }
        assert_eq!(read + dropped, logged);
        drop(child.stdin.take());
        reading.join().unwrap();
        assert_eq!(lines.try_iter().count(), 0, "more than were counted");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn lines_that_pass_the_filter_are_counted() {
        let subscriber = tracing_subscriber::registry().with(filter("info").unwrap()).with(Count);
        let before: Vec<_> = written().collect();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("one");
            tracing::warn!("two");
            tracing::info!("three");
            tracing::debug!("not written");
            tracing::info!(target: "zbus", "not ours");
        });
        let grown: Vec<_> = written().zip(before).map(|((_, after), (_, before))| after - before).collect();
        assert_eq!(grown, [0, 2, 1]);
    }
}
