//! Shared by the benches: samples and their table, and access to a test node.
//!
//! Rows go to standard output as lines of a Markdown table, progress messages to standard error. Machines are
//! noisy: variants are interleaved in one run and compared by their medians.

// Each bench uses only a part of this module.
#![allow(dead_code)]
// A bench panics on any error; its table is its output.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

pub(crate) mod agent;
pub(crate) mod tree;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::node::{Node, Options};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_usernsd");
/// Path of the binary under test in a node.
pub(crate) const AFTER: &str = "/usr/local/bin/usernsd";
/// Path in a node of another build to compare with, which `USERNSD_BENCH_BEFORE` names.
pub(crate) const BEFORE: &str = "/usr/local/bin/usernsd-before";

/// Set if the bench already runs in the node.
const INSIDE: &str = "USERNSD_BENCH_INSIDE";

/// Durations of one operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

// === impl Samples ===

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Measures one call.
    pub(crate) fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = call();
        self.0.push(start.elapsed());
        value
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Duration> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The shortest duration that at least this part of all samples does not exceed.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// The smallest and the largest median of consecutive parts of `size` samples, which shows the variation
    /// of the machine itself.
    pub(crate) fn spread(&self, size: usize) -> (Duration, Duration) {
        let medians: Vec<_> = self.0.chunks(size).map(|chunk| Samples(chunk.to_vec()).median()).collect();
        let least = medians.iter().min().copied().unwrap_or_default();
        (least, medians.iter().max().copied().unwrap_or_default())
    }

    /// Prints a row of the table; `note` may be empty.
    pub(crate) fn row(&self, what: &str, budget: &str, note: &str) {
        row(what, &milliseconds(self.median()), &milliseconds(self.quantile(0.99)), self.len(), budget, note);
    }

    /// Prints also the row of the other build, with the ratio of the medians.
    pub(crate) fn row_and_before(&self, before: &Samples, what: &str, budget: &str, note: &str) {
        self.row(what, budget, note);
        if !before.is_empty() {
            let ratio = |part| self.quantile(part).as_secs_f64() / before.quantile(part).as_secs_f64();
            let note = format!("after/before: p50 {:.2}, p99 {:.2}", ratio(0.5), ratio(0.99));
            before.row(&format!("{what}, before"), "", &note);
        }
    }
}

/// Prints one line of the table.
pub(crate) fn row(what: &str, p50: &str, p99: &str, count: usize, budget: &str, note: &str) {
    println!("| {what} | {p50} | {p99} | {count} | {budget} | {note} |");
}

/// Prints a progress message.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

pub(crate) fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 1.0 {
        format!("{ms:.3} ms")
    } else if ms < 100.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// The number in the environment variable `name`, or `default`: for short runs by hand.
pub(crate) fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// The binary under test, or another one in its place: one of another profile, such as the image's.
fn program() -> PathBuf {
    std::env::var_os("USERNSD_BENCH_PROGRAM").map_or_else(|| BINARY.into(), PathBuf::from)
}

/// The other build, if one is given.
pub(crate) fn before() -> Option<PathBuf> {
    std::env::var_os("USERNSD_BENCH_BEFORE").map(PathBuf::from)
}

/// A node with both builds in it; `None`, with a message, if this machine cannot boot one.
pub(crate) fn node(options: Options) -> Option<Node> {
    let node = Node::boot_or_skip(&options)?;
    // Copied, because a file written by a linker and its copy differ by a fifth in start time.
    node.install(&program(), AFTER);
    if let Some(before) = before() {
        node.install(&before, BEFORE);
    }
    Some(node)
}

/// Runs `bench` as a process in a node: with its root, its `/sys/fs/cgroup`, its PIDs.
pub(crate) fn in_node(mut options: Options, bench: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return bench();
    }
    let me = std::env::current_exe().unwrap();
    options.binds.push((me, "/usr/local/bin/bench".to_owned()));
    // The recorded messages for the bench.
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    options.binds.push((fixtures.into(), FIXTURES.to_owned()));
    let Some(node) = self::node(options) else { return };
    let mut command = node.command(["/usr/local/bin/bench"]);
    let status = command.env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{status}");
}

/// Path of `tests/fixtures` for a bench in a node.
pub(crate) const FIXTURES: &str = "/usr/local/share/usernsd-fixtures";

/// The builds to compare, as paths in a node; the one under test is the first.
pub(crate) fn builds() -> Vec<&'static str> {
    if before().is_some() { vec![AFTER, BEFORE] } else { vec![AFTER] }
}
