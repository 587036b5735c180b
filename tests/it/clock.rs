//! The agent when somebody sets the wall clock, with the binary. libfaketime shows it another time: the machine's own
//! clock is everybody's.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use usernsd_domain::utc::rfc3339;
use usernsd_report::state::read_state;

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

    /// Since when the agent has been without its runtime.
    fn since(&self) -> Option<String> {
        Some(read_state(&self.file("state")).ok()?.peers.cri.since)
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
                self.since(),
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
    let now = SystemTime::now();
    let first = agent.wait("the feature file", || agent.expiry());
    assert!(first >= rfc3339(now + LIFE) && first < rfc3339(now + DAY), "{first}");
    let since = agent.wait("the state", || agent.since());
    let first_since = since.clone();
    assert!(since < rfc3339(now + DAY), "{since}");

    // NFD removes the labels if it reads a file that has expired.
    set(&agent.file("features.d"), "+86400");
    let ahead = rfc3339(SystemTime::now() + DAY);
    let second = agent.wait("a later expiry", || agent.expiry().filter(|expiry| *expiry > ahead));
    assert!(second < rfc3339(SystemTime::now() + DAY + LIFE + LIFE), "{second}");
    let since = agent.wait("a later time", || agent.since().filter(|since| *since != first_since));
    assert!(since > rfc3339(now + DAY - LIFE) && since <= ahead, "as long ago as before: {since}");

    // A file that would hold for a day would outlive the agent.
    set(&agent.file("features.d"), "+0");
    let third = agent.wait("an earlier expiry", || agent.expiry().filter(|expiry| *expiry < second));
    assert!(third < rfc3339(SystemTime::now() + LIFE + LIFE), "{third}");
    agent.wait("the former time", || agent.since().filter(|since| *since < rfc3339(now + LIFE)));
}
