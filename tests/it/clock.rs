//! The agent when somebody sets the wall clock, with the binary. libfaketime shows it another time: the machine's own
//! clock is everybody's.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::fakes::cri_runtime::{AfterEvents, FakeRuntime, Scenario};
use serde_json::Value;
use usernsd_domain::utc::{moment, rfc3339};
use usernsd_report::state::{read_metrics, read_state};

/// Less than the pause between two looks at an unchanged feature file.
const PATIENCE: Duration = Duration::from_secs(40);
const DAY: Duration = Duration::from_secs(86_400);
/// How long NFD accepts the file.
const LIFE: Duration = Duration::from_secs(900);

/// A running agent, with a directory that it can read. Dropping it kills it.
struct Agent {
    child: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start(library: &Path) -> Agent {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("features.d")).unwrap();
        let config = format!(
            "featureFile: {{directory: {}}}\nsystemd: {{busSocket: {}}}\n",
            path("features.d").display(),
            path("bus").display()
        );
        fs::write(path("config.yaml"), config).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
        command
            .arg("mount -t proc proc /proc && mount -t tmpfs run /run && exec env LD_PRELOAD=\"$0\" \"$@\"");
        command.arg(library).arg(env!("CARGO_BIN_EXE_usernsd")).args(["agent", "--config"]);
        command.arg(path("config.yaml")).arg("--cri-endpoint").arg(path("cri"));
        command.arg("--nri-socket").arg(path("nri")).arg("--state-socket").arg(path("state"));
        // Beside the feature file, which the agent can read: elsewhere below / it can not.
        command.env("FAKETIME_TIMESTAMP_FILE", path("features.d/.clock")).env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env_remove("USERNSD_CONFIG");
        set(&path("features.d"), "+0");
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Agent { child, directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// When the content of the feature file expires.
    fn expiry(&self) -> Option<String> {
        let text = fs::read_to_string(self.file("features.d/usernsd")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("# +expiry-time=")).map(str::to_owned)
    }

    /// Every time in the state document and in the metrics, by its place; `None` before the first inspection of all
    /// containers.
    fn times(&self) -> Option<BTreeMap<String, SystemTime>> {
        let state = read_state(&self.file("state")).ok()?;
        let mut found = BTreeMap::new();
        find_times("", &serde_json::to_value(state).unwrap(), &mut found);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let metrics = runtime.block_on(read_metrics(&self.file("state"))).ok()?;
        for line in metrics.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            if name.ends_with("_timestamp_seconds") {
                let since = Duration::from_secs_f64(value.parse().unwrap());
                found.insert(name.to_owned(), SystemTime::UNIX_EPOCH + since);
            }
        }
        found.values().all(|time| *time > SystemTime::UNIX_EPOCH).then_some(found)
    }

    /// Waits until every recorded time is `by` later than it was; then none has been forgotten.
    #[track_caller]
    fn wait_for_times(&self, before: &BTreeMap<String, SystemTime>, by: Duration, is_back: bool) {
        let mut last = BTreeMap::new();
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.times().unwrap_or_default();
            let is_moved = |(place, before): (&String, &SystemTime)| {
                let due = if is_back { *before - by } else { *before + by };
                // A time that changes in the meantime is the present, and the test does not take that long.
                now.get(place).is_some_and(|time| *time > due - LIFE && *time < due + LIFE)
            };
            let late: Vec<_> = before.iter().filter(|one| !is_moved(*one)).map(|(place, _)| place).collect();
            if late.is_empty() && now.len() == before.len() {
                return;
            }
            last.clone_from(&now);
            assert!(Instant::now() < end, "not moved: {late:?} in {last:?}, before: {before:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            let log = || fs::read_to_string(self.file("log")).unwrap();
            assert!(
                Instant::now() < end,
                "waiting for {what}: {:?} {:?}\n{}",
                self.expiry(),
                self.times(),
                log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Finds the texts that are times, whatever their names.
fn find_times(place: &str, value: &Value, found: &mut BTreeMap<String, SystemTime>) {
    match value {
        Value::String(text) => {
            let fields: Vec<u64> =
                text.split(['-', 'T', ':', 'Z']).filter_map(|field| field.parse().ok()).collect();
            let time = <[u64; 6]>::try_from(fields).ok().and_then(moment);
            // Nothing else has this form.
            found.extend(time.filter(|time| rfc3339(*time) == *text).map(|time| (place.to_owned(), time)));
        }
        Value::Array(all) => {
            all.iter()
                .enumerate()
                .for_each(|(index, one)| find_times(&format!("{place}/{index}"), one, found));
        }
        Value::Object(all) => {
            all.iter().for_each(|(name, one)| find_times(&format!("{place}/{name}"), one, found));
        }
        _ => {}
    }
}

/// Sets the clock of the process that reads it from that directory.
pub(crate) fn set(directory: &Path, by: &str) {
    let path = directory.join(".clock.new");
    fs::write(&path, format!("{by}\n")).unwrap();
    fs::rename(path, directory.join(".clock")).unwrap();
}

/// Debian's, of this machine's architecture.
pub(crate) fn library() -> Option<PathBuf> {
    let libraries = fs::read_dir("/usr/lib").ok()?.flatten();
    libraries.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

#[test]
fn features_stay_valid_and_times_true_when_the_clock_is_set() {
    let Some(library) = library().filter(|_| nix::unistd::geteuid().is_root()) else {
        // Not with `eprintln!`, which the test harness captures in passing tests.
        let _ = writeln!(std::io::stderr(), "SKIPPED: another time takes root and libfaketime");
        return;
    };
    let agent = Agent::start(&library);
    let scenario = Scenario {
        version: ("containerd".into(), "2.1.9".into()),
        after_events: AfterEvents::Stall,
        ..Default::default()
    };
    let _runtime = FakeRuntime::start(&agent.file("cri"), scenario);
    let now = SystemTime::now();
    let first = agent.wait("the feature file", || agent.expiry());
    assert!(first >= rfc3339(now + LIFE) && first < rfc3339(now + DAY), "{first}");
    let times = agent.wait("the times", || agent.times());
    for place in ["/agent/startedAt", "/peers/cri/since", "usernsd_reconcile_last_success_timestamp_seconds"]
    {
        assert!(times.contains_key(place), "{place}: {times:?}");
    }
    assert!(times.values().all(|time| *time > now - LIFE && *time < now + LIFE), "{times:?}");

    // NFD removes the labels if it reads a file that has expired.
    set(&agent.file("features.d"), "+86400");
    let ahead = rfc3339(SystemTime::now() + DAY);
    let second = agent.wait("a later expiry", || agent.expiry().filter(|expiry| *expiry > ahead));
    assert!(second < rfc3339(SystemTime::now() + DAY + LIFE + LIFE), "{second}");
    agent.wait_for_times(&times, DAY, false);

    // A file that would hold for a day would outlive the agent.
    set(&agent.file("features.d"), "+0");
    let third = agent.wait("an earlier expiry", || agent.expiry().filter(|expiry| *expiry < second));
    assert!(third < rfc3339(SystemTime::now() + LIFE + LIFE), "{third}");
    agent.wait_for_times(&times, Duration::ZERO, true);
}
