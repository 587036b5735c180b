//! `usernsd bootstrap` under adverse conditions: killed at any moment, on a full or read-only file system,
//! next to `useradd`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;
use usernsd_domain::check::configuration::ConfigFile;
use usernsd_domain::node::{Exposition, Survey};
use usernsd_domain::provision::HostPath;
use usernsd_inspect::doctor::{Doctor, Rounds};
use usernsd_report::metrics::Metrics;
use usernsd_report::store::Store;

const USERNSD: &str = env!("CARGO_BIN_EXE_usernsd");
/// System calls that change a file system, or that keep other programs from changing it.
const CALLS: [&str; 17] = [
    "openat",
    "openat2",
    "write",
    "copy_file_range",
    "sendfile",
    "fsync",
    "fchown",
    "fchmod",
    "fsetxattr",
    "renameat",
    "renameat2",
    "linkat",
    "symlinkat",
    "unlinkat",
    "mkdirat",
    "fcntl",
    "flock",
];
/// Lower bound for the number of changes in every run.
const MOMENTS: u32 = 50;
const SUBIDS: &str = "alice:100000:65536";
const SHADOW: &str = "root:$6$secret$hash:::::::\n";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n";

/// A node that gets ranges: both lines for two owners, and the kubelet's user.
struct Node {
    dir: TempDir,
    /// Whether a MachineConfig is applied instead.
    machine_config: bool,
    program: PathBuf,
}

/// A MachineConfig with new and changed files and files with another mode, a range next to others, and units
/// that are enabled, disabled and masked.
const MACHINE_CONFIG: &str = r#"kind: MachineConfig
spec:
  config:
    ignition: {version: 3.4.0}
    storage:
      files:
      - {path: /etc/new/x, mode: 384, contents: {source: "data:,x%0A"}}
      - {path: /etc/there, mode: 384, contents: {source: "data:,new%0A"}}
      - {path: /etc/subuid, contents: {source: "data:,containers:200000:65536%0A"}}
      - {path: /etc/subgid, contents: {source: "data:,containers:200000:65536%0A"}}
    systemd:
      units:
      - {name: a.service, enabled: true, contents: "[Install]\nWantedBy=multi-user.target\n"}
      - {name: off.service, enabled: false}
      - {name: masked.service, mask: true}
"#;

impl Node {
    fn new() -> Node {
        let node = Node { dir: tempfile::tempdir().unwrap(), program: USERNSD.into(), machine_config: false };
        node.write("etc/passwd", PASSWD);
        node.write("etc/group", "root:x:0:\n");
        node.write("etc/shadow", SHADOW);
        fs::set_permissions(node.path("etc/shadow"), fs::Permissions::from_mode(0o640)).unwrap();
        node.write("etc/subuid", SUBIDS);
        node.write("etc/subgid", SUBIDS);
        node.write("usr/bin/getsubids", "");
        node.write("usernsd.yaml", "bootstrap: {kubelet: {user: create}}\n");
        node
    }

    /// A node to which a MachineConfig is applied.
    fn with_machine_config() -> Node {
        let node = Node { machine_config: true, ..Node::new() };
        node.write("mc.yaml", MACHINE_CONFIG);
        node.write("etc/there", "old\n");
        let unit = "[Install]\nWantedBy=multi-user.target\n";
        node.write("usr/lib/systemd/system/off.service", unit);
        let wants = node.path("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        std::os::unix::fs::symlink("/usr/lib/systemd/system/off.service", wants.join("off.service")).unwrap();
        node
    }

    /// A node that gets the rest: CRI-O's drop-in, the hook and its program, a sysctl.
    fn for_a_runtime(program: &Path) -> Node {
        let node = Node { program: program.to_owned(), ..Node::new() };
        node.write("etc/subuid", "containers:200000:268435456\n");
        node.write("etc/subgid", "containers:200000:268435456\n");
        for program in ["usr/bin/crio", "usr/bin/crun", "usr/bin/conmon"] {
            node.write(program, "");
        }
        // The libraries of the program, if it is linked dynamically.
        for loader in ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"] {
            node.write(loader, "");
        }
        let mounts =
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 22 0:27 / /sys/fs/cgroup rw - cgroup2 c rw,nsdelegate\n";
        node.write("proc/1/mountinfo", mounts);
        node.write("proc/sys/user/max_user_namespaces", "0\n");
        node.write("usernsd.yaml", "bootstrap: {crio: {version: 1.24.6}, applySysctl: true}\n");
        node
    }

    /// A node whose runtime launches plugins.
    fn for_a_plugin(program: &Path) -> Node {
        let node = Node::for_a_runtime(program);
        node.write("usernsd.yaml", "bootstrap: {crio: {version: 1.37.0}}\n");
        node
    }

    /// The files that the runtime would launch: the executable ones in its plugin directory, with their
    /// contents.
    fn plugins(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.path("opt/nri/plugins")).into_iter().flatten();
        let executable = entries.map(Result::unwrap).filter(|entry| {
            let stat = entry.metadata().unwrap();
            stat.is_file() && stat.permissions().mode() & 0o111 != 0
        });
        executable
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// The command line of a run.
    fn words(&self, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let program = self.program.display().to_string();
        let mut words = vec![program, "bootstrap".into(), "--root".into(), path("")];
        words.extend(["--config".into(), path("usernsd.yaml")]);
        if self.machine_config && !more.contains(&"--undo") {
            words.extend(["--machineconfig".into(), path("mc.yaml")]);
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }

    fn run(&self, more: &[&str]) -> Output {
        run(&self.words(more))
    }

    /// Runs it in a separate mount namespace after `script`, in which `$R` is the root.
    fn run_mounted(&self, script: &str) -> Output {
        let script = format!("set -e; {script}\nexec \"$@\"");
        let mut words: Vec<String> =
            ["unshare", "--mount", "env", "sh", "-c", &script, "sh"].map(String::from).to_vec();
        words.insert(3, format!("R={}", self.dir.path().display()));
        words.extend(self.words(&[]));
        run(&words)
    }

    /// The files of `/etc` by name, with the targets of links. A mode is included if it is neither 644 nor
    /// 640.
    fn etc(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.path("etc")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let name = entry.path().strip_prefix(self.path("etc")).unwrap().to_str().unwrap().to_owned();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    dirs.push(entry.path());
                } else if kind.is_symlink() {
                    let target = fs::read_link(entry.path()).unwrap();
                    found.insert(name, format!("-> {}", target.display()));
                } else if name != ".pwd.lock" {
                    let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                    let text = fs::read_to_string(entry.path()).unwrap();
                    let special =
                        if [0o644, 0o640].contains(&mode) { String::new() } else { format!("{mode:o} ") };
                    found.insert(name, special + &text);
                }
            }
        }
        found
    }
}

fn run(words: &[String]) -> Output {
    Command::new(&words[0])
        .args(&words[1..])
        .env_remove("USERNSD_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn output_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Prints why a test is skipped. Does not use `eprintln!`, which the test harness captures in passing tests:
/// a skip must be visible.
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn is_root() -> bool {
    let is_root = nix::unistd::Uid::effective().is_root();
    if !is_root {
        skip("files of a node are root's");
    }
    is_root
}

/// Whether strace is installed; otherwise the test is skipped.
fn is_traced() -> bool {
    let is_there = installed(&["strace"]);
    if !is_there {
        skip("strace is not installed");
    }
    is_root() && is_there
}

/// A command line that runs another one under strace, which prints these calls. The question mark makes
/// strace ignore a call that the machine's architecture does not have.
fn traced(calls: &[&str], more: &[&str], words: &[String]) -> Vec<String> {
    let trace = format!("trace=?{}", calls.join(",?"));
    let strace = ["strace", "-f", "-qq", "-e", &trace];
    strace.iter().chain(more).map(|word| (*word).to_owned()).chain(words.iter().cloned()).collect()
}

/// A system call of a run.
struct Call {
    /// The name of the system call.
    name: &'static str,
    /// The number of this call among those of the same name, from 1.
    number: usize,
    /// The line that strace prints for it.
    line: String,
}

/// The system calls of a run, which must succeed.
fn calls_of(words: &[String]) -> Vec<Call> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let output = run(&traced(&CALLS, &["-o", trace.path().to_str().unwrap()], words));
    assert!(output.status.success(), "{}", output_of(&output));
    let mut numbers = BTreeMap::new();
    let text = fs::read_to_string(trace.path()).unwrap();
    // A line is "PID CALL(…"; a call that another thread interrupts continues in a later line.
    let calls = text.lines().filter_map(|line| {
        let (_, line) = line.split_once(' ')?;
        let (name, _) = line.trim_start().split_once('(')?;
        let name = *CALLS.iter().find(|known| **known == name)?;
        let number = numbers.entry(name).or_insert(0);
        *number += 1;
        Some(Call { name, number: *number, line: line.to_owned() })
    });
    calls.collect()
}

impl Call {
    /// Whether a later process can see the effect. Between two such calls it does not matter when the process
    /// is killed.
    fn changes(&self) -> bool {
        !self.line.contains(" = -1 ")
            && match self.name {
                "openat" | "openat2" => self.line.contains("O_CREAT") || self.line.contains("O_TMPFILE"),
                "write" => !self.line.contains("write(2, "),
                "fcntl" => self.line.contains("SETLK"),
                _ => true,
            }
    }

    /// The command line of the same run with a fault at this call: `signal=SIGKILL`, `error=EIO`. Not with
    /// --seccomp-bpf, with which strace 6.1 sends no signal.
    fn injected(&self, what: &str, words: &[String]) -> Vec<String> {
        let inject = format!("inject={}:{what}:when={}", self.name, self.number);
        traced(&[self.name], &["-o", "/dev/null", "-e", &inject], words)
    }

    /// Repeats the run and kills it at this call; returns `false` if it ended before.
    fn kills(&self, words: &[String], at: &str) -> bool {
        let output = run(&self.injected("signal=SIGKILL", words));
        // strace ends in the same way as the process that it traces.
        let killed = output.status.signal() == Some(9);
        assert!(killed || output.status.success(), "{at}: {}", output_of(&output));
        killed
    }
}

#[test]
fn a_run_killed_at_any_call_leaves_files_old_or_new_1_of_3() {
    if is_traced() {
        killed_at_any_call(Node::new, 0);
    }
}

#[test]
fn a_run_killed_at_any_call_leaves_files_old_or_new_2_of_3() {
    if is_traced() {
        killed_at_any_call(Node::new, 1);
    }
}

#[test]
fn a_run_killed_at_any_call_leaves_files_old_or_new_3_of_3() {
    if is_traced() {
        killed_at_any_call(Node::new, 2);
    }
}

#[test]
fn a_machine_config_killed_at_any_call_leaves_files_old_or_new_1_of_3() {
    if is_traced() {
        killed_at_any_call(Node::with_machine_config, 0);
    }
}

#[test]
fn a_machine_config_killed_at_any_call_leaves_files_old_or_new_2_of_3() {
    if is_traced() {
        killed_at_any_call(Node::with_machine_config, 1);
    }
}

#[test]
fn a_machine_config_killed_at_any_call_leaves_files_old_or_new_3_of_3() {
    if is_traced() {
        killed_at_any_call(Node::with_machine_config, 2);
    }
}

/// Kills the run at every third call, starting with `first`: all of them take longer on a loaded machine than
/// a test may.
fn killed_at_any_call(make: fn() -> Node, first: usize) {
    let whole = make();
    let before = whole.etc();
    let calls = calls_of(&whole.words(&[]));
    let after = whole.etc();
    assert_ne!(after, before);
    let is_left = |name: &&String| name.contains("usernsd") || name.contains("lock");
    assert_eq!(after.keys().find(is_left), None, "something was left");

    let mut killed = 0_u32;
    for call in calls.iter().filter(|call| call.changes()).skip(first).step_by(3) {
        let at = format!("{} {}", call.name, call.number);
        let node = make();
        if !call.kills(&node.words(&[]), &at) {
            continue;
        }
        killed += 1;
        let found = node.etc();
        for name in before.keys().chain(after.keys()) {
            let now = found.get(name);
            assert!([before.get(name), after.get(name)].contains(&now), "{at}: {name} is {now:?}");
        }
        if found["passwd"] != before["passwd"] {
            let lines = ["subuid", "subgid"].map(|name| found[name].contains("kubelet:"));
            assert_eq!(lines, [true, true], "{at}: a user without lines stops the kubelet");
        }
        let changed = after.keys().any(|name| found.get(name) != before.get(name));
        let journal = fs::read_to_string(node.path("var/lib/usernsd/bootstrap.json"));
        assert!(!changed || journal.is_ok_and(|text| text.ends_with("}\n")), "{at}: without a journal");

        let again = node.run(&[]);
        assert!(again.status.success(), "{at}: {}", output_of(&again));
        assert_eq!(node.etc(), after, "{at}: after the next run");
        let undone = node.run(&["--undo"]);
        assert!(undone.status.success(), "{at}: {}", output_of(&undone));
        assert_eq!(node.etc(), before, "{at}: taken back");
    }
    assert!(killed > MOMENTS / 3, "only {killed} moments");
}

/// The hook's JSON file names a program: if that is missing or incomplete, no container of the node starts.
#[test]
fn a_run_killed_at_any_call_leaves_no_hook_without_its_program_1_of_3() {
    hook_never_stands_without_its_program(0);
}

#[test]
fn a_run_killed_at_any_call_leaves_no_hook_without_its_program_2_of_3() {
    hook_never_stands_without_its_program(1);
}

#[test]
fn a_run_killed_at_any_call_leaves_no_hook_without_its_program_3_of_3() {
    hook_never_stands_without_its_program(2);
}

fn hook_never_stands_without_its_program(first: usize) {
    if !is_traced() || !installed(&["strip"]) {
        return;
    }
    // Copied more than a hundred times, so without debug information.
    let small = tempfile::tempdir().unwrap();
    let program = small.path().join("usernsd");
    let strip = ["strip", "-o", program.to_str().unwrap(), USERNSD].map(String::from);
    assert!(run(&strip).status.success());
    let content = fs::read(&program).unwrap();
    let make = || Node::for_a_runtime(&program);
    let whole = make();
    let before = whole.etc();
    let output = whole.run(&[]);
    assert!(output.status.success(), "{}", output_of(&output));
    let after = whole.etc();
    let [drop_in, json, sysctl] =
        ["crio/crio.conf.d/99-usernsd.conf", "usernsd/hooks.d/99-usernsd.json", "sysctl.d/99-usernsd.conf"];
    for name in [drop_in, json, sysctl] {
        assert!(after.contains_key(name), "{name}: {after:?}");
    }
    let installed = |node: &Node| fs::read(node.path("var/lib/usernsd/bin/usernsd")).ok();
    let is_new = |node: &Node, at: &str| {
        let found = node.etc();
        for name in found.keys().filter(|name| !name.contains(".lock") && !name.contains(".usernsd-new")) {
            let known = [before.get(name), after.get(name)];
            assert!(known.contains(&Some(&found[name])), "{at}: {name} is {:?}", found[name]);
        }
        // CRI-O reads every file in that directory.
        let dir = node.path("etc/crio/crio.conf.d");
        let names = fs::read_dir(dir).map_or(0, |dir| {
            dir.filter(|one| one.as_ref().unwrap().file_name() != "99-usernsd.conf").count()
        });
        assert_eq!(names, 0, "{at}: something else lies in crio.conf.d");
        if found.contains_key(json) {
            assert!(installed(node).as_ref() == Some(&content), "{at}: a hook without its program");
        }
    };
    let mut killed = 0;
    for undo in [false, true] {
        let args: &[&str] = if undo { &["--undo"] } else { &[] };
        let make = || {
            let node = make();
            if undo {
                assert!(node.run(&[]).status.success());
            }
            node
        };
        for call in calls_of(&make().words(args)).iter().filter(|call| call.changes()).skip(first).step_by(3)
        {
            let at = format!("{} {}{}", call.name, call.number, if undo { " while taking back" } else { "" });
            let node = make();
            if !call.kills(&node.words(args), &at) {
                continue;
            }
            killed += 1;
            is_new(&node, &at);
            if !undo {
                let again = node.run(&[]);
                assert!(again.status.success(), "{at}: {}", output_of(&again));
                assert_eq!(node.etc(), after, "{at}: after the next run");
                assert!(installed(&node).as_ref() == Some(&content), "{at}: after the next run");
            }
            let undone = node.run(&["--undo"]);
            assert!(undone.status.success(), "{at}: {}", output_of(&undone));
            assert_eq!(node.etc(), before, "{at}: taken back");
            assert_eq!(installed(&node), None, "{at}: taken back");
        }
    }
    assert!(killed > MOMENTS / 3, "only {killed} moments");
}

/// NRI, and the runtime with it, does not start if the plugin directory contains an executable file whose
/// name is not that of a plugin. An incomplete program would be launched, and a plugin without its
/// configuration would use its defaults.
#[test]
fn a_run_killed_at_any_call_leaves_a_whole_plugin_or_none_1_of_3() {
    plugin_directory_holds_a_whole_plugin_or_none(0);
}

#[test]
fn a_run_killed_at_any_call_leaves_a_whole_plugin_or_none_2_of_3() {
    plugin_directory_holds_a_whole_plugin_or_none(1);
}

#[test]
fn a_run_killed_at_any_call_leaves_a_whole_plugin_or_none_3_of_3() {
    plugin_directory_holds_a_whole_plugin_or_none(2);
}

fn plugin_directory_holds_a_whole_plugin_or_none(first: usize) {
    if !is_traced() || !installed(&["strip"]) {
        return;
    }
    let small = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| small.path().join(name));
    let strip = ["strip", "-o", old.to_str().unwrap(), USERNSD].map(String::from);
    assert!(run(&strip).status.success());
    // Another build, which also runs.
    let contents = [fs::read(&old).unwrap(), [fs::read(&old).unwrap().as_slice(), b"x"].concat()];
    fs::copy(&old, &new).unwrap();
    fs::OpenOptions::new().append(true).open(&new).unwrap().write_all(b"x").unwrap();
    let config = "nri/conf.d/90-usernsd.conf";
    let mut killed = 0;
    for (what, from, to) in
        [("install", None, Some(&old)), ("update", Some(&old), Some(&new)), ("undo", Some(&old), None)]
    {
        let args: &[&str] = if to.is_some() { &[] } else { &["--undo"] };
        let make = || {
            let mut node = Node::for_a_plugin(&old);
            if from.is_some() {
                assert!(node.run(&[]).status.success());
                assert_eq!(node.plugins().keys().collect::<Vec<_>>(), ["90-usernsd"]);
            }
            node.program = to.unwrap_or(&old).clone();
            node
        };
        for call in calls_of(&make().words(args)).iter().filter(|call| call.changes()).skip(first).step_by(3)
        {
            let at = format!("{what}, {} {}", call.name, call.number);
            let node = make();
            if !call.kills(&node.words(args), &at) {
                continue;
            }
            killed += 1;
            for (name, content) in node.plugins() {
                assert_eq!(name, "90-usernsd", "{at}");
                assert!(contents.contains(&content), "{at}: half a program");
                let text = node.etc().get(config).cloned().unwrap_or_default();
                assert!(text.ends_with("format: \"text\"\n"), "{at}: a program with {text:?}");
            }
            let again = node.run(args);
            assert!(again.status.success(), "{at}: {}", output_of(&again));
            let want = to.map(|_| &contents[usize::from(what == "update")]);
            assert!(
                node.plugins().values().collect::<Vec<_>>() == want.into_iter().collect::<Vec<_>>(),
                "{at}: after the next run"
            );
            assert_eq!(
                fs::read_dir(node.path("opt/nri")).map_or(0, Iterator::count),
                usize::from(to.is_some()),
                "{at}: left beside it"
            );
        }
    }
    assert!(killed > MOMENTS / 3, "only {killed} moments");
}

/// Two plugins of the same name would make conflicting changes, so that every container is refused.
#[test]
fn a_plugin_moves_with_its_index_and_is_removed_if_disabled() {
    if !is_root() {
        return;
    }
    let node = Node::for_a_plugin(Path::new(USERNSD));
    let names = || node.plugins().into_keys().collect::<Vec<_>>();
    let configs = || -> Vec<String> {
        let dir = fs::read_dir(node.path("etc/nri/conf.d")).into_iter().flatten();
        dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let before = node.etc();
    for (config, want) in [
        ("bootstrap: {crio: {version: 1.37.0}}", Some("90-usernsd")),
        ("bootstrap: {crio: {version: 1.37.0}}\nnri: {pluginIndex: 7}", Some("07-usernsd")),
        // An older CRI-O fails on a plugin that a later one launches.
        ("bootstrap: {crio: {version: 1.31.0}}\nnri: {pluginIndex: 7}", None),
        ("bootstrap: {crio: {version: 1.37.0}}", Some("90-usernsd")),
        ("bootstrap: {crio: {version: 1.37.0}, nri: {plugin: never}}", None),
    ] {
        node.write("usernsd.yaml", config);
        let output = node.run(&[]);
        assert!(output.status.success(), "{config}: {}", output_of(&output));
        assert_eq!(names(), want.into_iter().collect::<Vec<_>>(), "{config}");
        assert_eq!(
            configs(),
            want.map(|name| format!("{name}.conf")).into_iter().collect::<Vec<_>>(),
            "{config}"
        );
        assert!(node.run(&["--check"]).status.success(), "{config}");
    }
    assert!(node.run(&["--undo"]).status.success());
    assert_eq!(node.etc(), before);
}

/// The reason why the plugin cannot be installed is printed, and everything else is done.
#[test]
fn the_rest_is_done_if_the_plugin_cannot_be_installed() {
    if !is_root() {
        return;
    }
    for (script, says) in [
        (
            "mount -t tmpfs -o ro none $R/opt",
            "/opt/nri/plugins is on a file system that is mounted read-only",
        ),
        (
            "mount -t tmpfs -o noexec none $R/opt",
            "no program can be started from /opt/nri/plugins, which is mounted noexec",
        ),
        (
            "mkdir -p $R/opt/nri/plugins; mount -t tmpfs none $R/opt/nri/plugins",
            "/opt/nri/plugins is a mount of its own",
        ),
        ("mkdir -p $R/opt/nri/plugins/90-usernsd", "90-usernsd is not a regular file"),
        ("ln -s /nowhere/else/../../../.. $R/opt/nri", "usernsd cannot be installed as an NRI plugin"),
    ] {
        let node = Node::for_a_plugin(Path::new(USERNSD));
        fs::create_dir_all(node.path("opt")).unwrap();
        let output = node.run_mounted(script);
        assert!(output.status.success(), "{script}: {}", output_of(&output));
        assert!(output_of(&output).contains(says), "{script}: {}", output_of(&output));
        assert!(node.etc().contains_key("crio/crio.conf.d/99-usernsd.conf"), "{script}");
        assert!(!node.etc().contains_key("nri/conf.d/90-usernsd.conf"), "{script}");
    }
}

/// The kubelet does not start with a range that only one of the two files has.
#[test]
fn no_call_comes_between_the_renames_of_the_two_range_files() {
    if !installed(&["strace"]) {
        return skip("strace");
    }
    let node = Node::new();
    for words in [[].as_slice(), &["--undo"]] {
        let trace = node.path("trace");
        let strace = ["strace", "-f", "-o", trace.to_str().unwrap()].map(String::from);
        let output = run(&[&strace, node.words(words).as_slice()].concat());
        assert!(output.status.success(), "{}", output_of(&output));
        let trace = fs::read_to_string(trace).unwrap();
        let calls: Vec<&str> = trace.lines().collect();
        // Only the last ones, because backup copies have the same names.
        let renamed = |name: &str| {
            let is_it = |call: &&str| call.contains("renameat") && call.contains(&format!("\"{name}\""));
            calls.iter().rposition(is_it).unwrap()
        };
        assert_eq!(renamed("subuid").abs_diff(renamed("subgid")), 1, "{words:?}");
    }
}

/// The second rename fails: the first file is restored, and the journal has one entry, however often this is
/// tried.
#[test]
fn the_first_range_file_is_restored_if_the_second_cannot_change() {
    if !is_root() || !installed(&["strace"]) {
        return skip("strace");
    }
    let node = Node::new();
    let before = node.etc();
    let renames = {
        let trace = node.path("trace");
        let strace =
            ["strace", "-f", "-o", trace.to_str().unwrap(), "-e", "trace=renameat"].map(String::from);
        let whole = Node::new();
        assert!(run(&[&strace, whole.words(&[]).as_slice()].concat()).status.success());
        let trace = fs::read_to_string(&trace).unwrap();
        let calls: Vec<&str> = trace.lines().filter(|line| line.contains("renameat(")).collect();
        1 + calls.iter().rposition(|call| call.contains("\"subgid\"")).unwrap()
    };
    fs::remove_file(node.path("trace")).unwrap();
    for try_number in 0..3 {
        // Backup copies are made only by the first attempt.
        let when = if try_number == 0 { renames } else { 3 };
        let inject = format!("inject=renameat:error=EIO:when={when}");
        let strace =
            ["strace", "-f", "-o", "/dev/null", "-e", "trace=renameat", "-e", &inject].map(String::from);
        let output = run(&[&strace, node.words(&[]).as_slice()].concat());
        assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
        assert!(
            output_of(&output).contains("etc/subgid: ")
                && output_of(&output).contains("etc/subuid is what it was again"),
            "{}",
            output_of(&output)
        );
        assert_eq!(node.etc(), before);
    }
    let journal = fs::read_to_string(node.path("var/lib/usernsd/bootstrap.json")).unwrap();
    assert_eq!(journal.matches("\"files\"").count(), 1, "{journal}");
    assert!(node.run(&[]).status.success());
    assert!(node.run(&["--undo"]).status.success());
    assert_eq!(node.etc(), before);
}

/// If its lines are removed while its user still exists, the kubelet does not start.
#[test]
fn the_kubelets_lines_are_not_undone_without_its_user() {
    if !is_root() {
        return;
    }
    for file in ["passwd", "group"] {
        let node = Node::new();
        assert!(node.run(&[]).status.success());
        let path = format!("etc/{file}");
        let text = fs::read_to_string(node.path(&path)).unwrap();
        node.write(&path, &text.replace("kubelet:x:999:", "kubelet:x:998:"));
        let before = node.etc();
        let refused = node.run(&["--undo"]);
        assert_eq!(refused.status.code(), Some(2), "{}", output_of(&refused));
        assert!(
            output_of(&refused).contains("the line of kubelet was changed since"),
            "{}",
            output_of(&refused)
        );
        assert_eq!(node.etc(), before);
    }
}

#[test]
fn an_undo_killed_at_any_call_can_be_repeated() {
    if is_traced() {
        killed_while_taking_back(Node::new);
    }
}

#[test]
fn an_undo_of_a_machine_config_killed_at_any_call_can_be_repeated() {
    if is_traced() {
        killed_while_taking_back(Node::with_machine_config);
    }
}

fn killed_while_taking_back(make: fn() -> Node) {
    let before = make().etc();
    let prepared = || {
        let node = make();
        assert!(node.run(&[]).status.success());
        node
    };
    let whole = prepared();
    let after = whole.etc();
    let mut killed = 0;
    for call in calls_of(&whole.words(&["--undo"])).iter().filter(|call| call.changes()) {
        let at = format!("{} {}", call.name, call.number);
        let node = prepared();
        if !call.kills(&node.words(&["--undo"]), &at) {
            continue;
        }
        killed += 1;
        let found = node.etc();
        for name in before.keys().chain(after.keys()) {
            let now = found.get(name);
            assert!([before.get(name), after.get(name)].contains(&now), "{at}: {name}: {now:?}");
        }
        if found["passwd"] != before["passwd"] {
            assert!(found["subuid"].contains("kubelet:") && found["subgid"].contains("kubelet:"), "{at}");
        }
        let again = node.run(&["--undo"]);
        assert!(again.status.success(), "{at}: {}", output_of(&again));
        assert_eq!(node.etc(), before, "{at}");
        assert!(!node.path("var/lib/usernsd/bootstrap.json").exists(), "{at}");
    }
    assert!(killed > MOMENTS, "only {killed} moments");
}

/// Whichever call fails, each file is either old or new; the next run completes the work, and it can be
/// undone.
fn where_any_call_fails(make: fn() -> Node, errno: &str, undo: bool) {
    let whole = make();
    let before = whole.etc();
    assert!(whole.run(&[]).status.success());
    let after = whole.etc();
    let args: &[&str] = if undo { &["--undo"] } else { &[] };
    let want = if undo { &before } else { &after };
    let fresh = make();
    let calls = calls_of(&if undo { &whole } else { &fresh }.words(args));
    // Errors when a file is opened or locked have other tests.
    let writes = |call: &&Call| !["openat", "openat2", "fcntl", "flock"].contains(&call.name);
    let mut tried = 0;
    for call in calls.iter().filter(writes) {
        let back = if undo { " while taking back" } else { "" };
        let at = format!("{errno} at {} {}{back}", call.name, call.number);
        let node = make();
        if undo {
            assert!(node.run(&[]).status.success());
        }
        let output = run(&call.injected(&format!("error={errno}"), &node.words(args)));
        let ended = output.status.code();
        assert!(matches!(ended, Some(0 | 2)), "{at}: {ended:?}: {}", output_of(&output));
        tried += 1;
        let found = node.etc();
        for name in before.keys().chain(after.keys()) {
            let now = found.get(name);
            let known = [before.get(name), after.get(name)].contains(&now);
            assert!(known, "{at}: {name} is {now:?}: {}", output_of(&output));
        }
        if found["passwd"] != before["passwd"] {
            let lines = ["subuid", "subgid"].map(|name| found[name].contains("kubelet:"));
            assert_eq!(lines, [true, true], "{at}: a user without lines stops the kubelet");
        }
        // A lock file that cannot be removed stays, as passwd.lock or passwd.PID, until that file is locked
        // again; the process that it names has ended.
        let is_lock = |end: &str| end == "lock" || end.bytes().all(|byte| byte.is_ascii_digit());
        let without_locks = |mut etc: BTreeMap<String, String>| {
            // The old file that is kept while two are renamed also stays until the next run.
            etc.retain(|name, _| !name.ends_with(".usernsd-old"));
            etc.retain(|name, _| !name.rsplit_once('.').is_some_and(|(_, end)| is_lock(end)));
            etc
        };
        if ended == Some(0) {
            assert_eq!(without_locks(found), *want, "{at}: {}", output_of(&output));
        }
        let again = node.run(args);
        assert!(again.status.success(), "{at}: {}", output_of(&again));
        // A run without changes takes no lock.
        let now = if ended == Some(0) { without_locks(node.etc()) } else { node.etc() };
        assert_eq!(now, *want, "{at}: after the next run");
        if !undo {
            let undone = node.run(&["--undo"]);
            assert!(undone.status.success(), "{at}: {}", output_of(&undone));
            assert_eq!(node.etc(), before, "{at}: taken back");
        }
    }
    assert!(tried > MOMENTS, "only {tried} calls");
}

#[test]
fn on_a_full_disk_every_file_is_old_or_new() {
    if is_traced() {
        where_any_call_fails(Node::new, "ENOSPC", false);
    }
}

#[test]
fn on_a_broken_disk_every_file_is_old_or_new() {
    if is_traced() {
        where_any_call_fails(Node::with_machine_config, "EIO", false);
    }
}

#[test]
fn on_a_full_disk_an_undo_leaves_every_file_old_or_new() {
    if is_traced() {
        where_any_call_fails(Node::new, "ENOSPC", true);
    }
}

#[test]
fn on_a_disk_that_became_read_only_an_undo_leaves_every_file_old_or_new() {
    if is_traced() {
        where_any_call_fails(Node::with_machine_config, "EROFS", true);
    }
}

#[test]
fn a_run_that_cannot_write_reports_it_and_changes_nothing() {
    if !is_root() {
        return;
    }
    let bind = "mount --bind $R/etc $R/etc";
    let full = "mkdir $R/new && mount -t tmpfs -o size=64k tmpfs $R/new && cp -a $R/etc/. $R/new && \
                { dd if=/dev/zero of=$R/new/ballast bs=1k status=none || true; } 2>/dev/null && \
                mount --move $R/new $R/etc";
    for (script, want) in [
        (format!("{bind} && mount -o remount,bind,ro $R/etc"), "on an image-based system"),
        ("cp $R/etc/subuid $R/x && mount --bind $R/x $R/etc/subuid".to_owned(), "mount its directory"),
        ("mount --bind $R/etc/subgid $R/etc/subgid".to_owned(), "mount its directory"),
        ("mount --bind $R/etc/subuid $R/etc/subuid".to_owned(), "mount its directory"),
        (full.to_owned(), "make room"),
        (
            format!(
                "mkdir $R/var && {bind} && mount --bind $R/var $R/var && mount -o remount,bind,ro $R/var"
            ),
            "/var/lib",
        ),
    ] {
        let node = Node::new();
        let before = node.etc();
        let output = node.run_mounted(&script);
        assert_eq!(output.status.code(), Some(2), "{script}: {}", output_of(&output));
        assert!(output_of(&output).contains(want), "{script}: {}", output_of(&output));
        let found = node.etc();
        for (name, old) in &before {
            assert_eq!(found[name], *old, "{script}: {name}");
        }
        assert!(!found.keys().any(|name| name.contains("usernsd") || name.contains("lock")), "{found:?}");
        assert!(node.run(&["--undo"]).status.success());
        assert_eq!(node.etc(), before, "{script}");
    }
}

#[test]
fn changes_that_others_made_since_are_not_undone() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    assert!(node.run(&[]).status.success());
    let text = fs::read_to_string(node.path("etc/subuid")).unwrap();
    node.write("etc/subuid", &format!("bob:165536:9\n{text}"));
    node.write("usernsd.yaml", "bootstrap: {ranges: [{owner: containers, start: 500000, count: 5}]}\n");
    assert!(node.run(&[]).status.success());
    assert!(fs::read_to_string(node.path("etc/subuid")).unwrap().contains("containers:500000:5\n"));
    let undone = node.run(&["--undo"]);
    assert!(undone.status.success(), "{}", output_of(&undone));
    let mut want = Node::new().etc();
    want.insert("subuid".into(), format!("bob:165536:9\n{SUBIDS}\n"));
    assert_eq!(node.etc(), want);

    // A line of ours that someone has changed is no longer ours.
    assert!(node.run(&[]).status.success());
    let ours = fs::read_to_string(node.path("etc/subgid")).unwrap();
    node.write("etc/subgid", &ours.replace("containers:500000:5\n", "containers:500000:6\n"));
    let before = node.etc();
    let undone = node.run(&["--undo"]);
    let complaint = output_of(&undone);
    // Our line was only added and is gone, so there is nothing to undo in this file. The other file is
    // restored.
    assert!(undone.status.success(), "{complaint}");
    assert_eq!(node.etc()["subgid"], before["subgid"]);
    assert_eq!(node.etc()["subuid"], want["subuid"]);
}

/// An undo that waits while another run writes works with the journal of that run, or with none: the record of what the
/// run wrote is not lost.
#[test]
fn an_undo_that_waited_for_another_run_keeps_its_record() {
    if !is_root() {
        return;
    }
    let node = Node::with_machine_config();
    let (before, journal) = (node.etc(), node.path("var/lib/usernsd/bootstrap.json"));
    let ranges = Node { machine_config: false, dir: node.dir, program: node.program };
    assert!(ranges.run(&[]).status.success());
    let first = fs::read(&journal).unwrap();
    let node = Node { machine_config: true, ..ranges };
    assert!(node.run(&[]).status.success());
    let second = fs::read(&journal).unwrap();
    assert_ne!(first, second);

    // The undo finds the first journal, and the second once it has the lock.
    fs::write(&journal, first).unwrap();
    let lock = node.path("var/lib/usernsd/bootstrap.lock");
    let held = nix::fcntl::Flock::lock(fs::File::open(&lock).unwrap(), nix::fcntl::FlockArg::LockExclusive);
    let held = held.map_err(|(_, errno)| errno).unwrap();
    let words = node.words(&["--undo"]);
    let child = Command::new(&words[0]).args(&words[1..]).stderr(Stdio::piped()).spawn().unwrap();
    let descriptors = PathBuf::from(format!("/proc/{}/fd", child.id()));
    let waits = || {
        let open = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|path| path == lock)
    };
    while !waits() {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(&journal, &second).unwrap();
    drop(held);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
    assert!(output_of(&output).contains("at the same moment; run it again"), "{}", output_of(&output));
    assert_eq!(fs::read(&journal).unwrap(), second);
    assert!(node.run(&["--undo"]).status.success());
    assert_eq!(node.etc(), before);
}

/// A service counts as started before a run by their times. After a run in the future it could never be restarted late
/// enough.
#[test]
fn times_of_runs_under_a_wrong_clock_are_corrected() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    assert!(node.run(&[]).status.success());
    let path = "var/lib/usernsd/bootstrap.json";
    let times = || -> Vec<u64> {
        let text = fs::read_to_string(node.path(path)).unwrap();
        let journal: serde_json::Value = serde_json::from_str(&text).unwrap();
        journal["runs"].as_array().unwrap().iter().map(|run| run["at"].as_u64().unwrap()).collect()
    };
    let ran_at = times()[0];
    let text = fs::read_to_string(node.path(path)).unwrap();
    let in_ten_years = ran_at + 10 * 365 * 86_400_000;
    node.write(path, &text.replace(&ran_at.to_string(), &in_ten_years.to_string()));
    assert_eq!(times(), [in_ten_years]);
    // A run that only plans writes nothing.
    assert!(node.run(&["--check"]).status.success());
    assert_eq!(times(), [in_ten_years]);
    let output = node.run(&[]);
    assert!(output_of(&output).contains("nothing to do"), "{}", output_of(&output));
    let corrected = times()[0];
    assert!((ran_at..in_ten_years).contains(&corrected), "{corrected}");
    // A time that has passed stays.
    assert!(node.run(&[]).status.success());
    assert_eq!(times(), [corrected]);
    assert!(node.run(&["--undo"]).status.success());
}

/// The kubelet's lines are removed after its user, whichever run wrote them last.
#[test]
fn several_runs_are_undone_in_the_order_of_the_first() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    assert!(node.run(&[]).status.success());
    node.write("usernsd.yaml", "bootstrap: {kubelet: {user: create}, ranges: [{owner: x, count: 5}]}\n");
    assert!(node.run(&[]).status.success());
    let undone = output_of(&node.run(&["--undo"]));
    let at = |name: &str| undone.find(&format!("/etc/{name}: taken back")).unwrap();
    assert!(at("passwd") < at("subgid") && at("subgid") < at("subuid"), "{undone}");
}

#[test]
fn no_password_appears_outside_its_file() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    assert!(node.run(&[]).status.success());
    assert!(node.etc()["shadow"].contains("secret") && node.etc()["shadow"].contains("kubelet:"));
    let kept = run(&["grep", "-rl", "secret", &node.path("var").display().to_string()].map(String::from));
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
    // The content is shown on request only, to users who may read it anyway; only root may read the journal.
    let journal = fs::metadata(node.path("var/lib/usernsd/bootstrap.json")).unwrap();
    assert_eq!(journal.permissions().mode() & 0o777, 0o600);
    assert!(node.run(&["--undo"]).status.success());
    assert_eq!(node.etc(), Node::new().etc());
}

#[test]
fn a_pool_is_not_undone_while_it_has_pods() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.write("usernsd.yaml", "bootstrap: {kubelet: {user: if-present}}\n");
    node.write("etc/passwd", &format!("{PASSWD}kubelet:x:991:991:::\n"));
    let line = "kubelet:65536:7208960\n";
    node.write("etc/subuid", line);
    node.write("etc/subgid", line);
    node.write("usernsd.yaml", "bootstrap: {kubelet: {start: 300023808}, ranges: [{owner: x, count: 5}]}\n");
    assert!(node.run(&[]).status.success());
    let map = r#"[{"hostId":300023808,"containerId":0,"length":65536}]"#;
    node.write("var/lib/kubelet/pods/a/userns", &format!(r#"{{"uidMappings":{map},"gidMappings":{map}}}"#));
    let before = node.etc();
    let refused = node.run(&["--undo"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(output_of(&refused).contains("drain the node first"), "{}", output_of(&refused));
    assert_eq!(node.etc(), before);
}

/// A root directory in which shadow-utils can run: this machine's programs, and separate account files.
struct Chroot {
    dir: TempDir,
}

impl Chroot {
    fn new() -> Chroot {
        let chroot = Chroot { dir: tempfile::tempdir().unwrap() };
        let at = |name: &str| chroot.dir.path().join(name);
        for dir in ["etc/default", "usr", "var/mail", "home", "tmp", "dev"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), at(link)).unwrap();
        }
        fs::copy("/etc/login.defs", at("etc/login.defs")).unwrap();
        fs::write(at("etc/passwd"), PASSWD).unwrap();
        for (name, text) in [
            ("group", "root:x:0:\n"),
            ("shadow", "root:*:::::::\n"),
            ("gshadow", "root:*::\n"),
            ("subuid", ""),
            ("subgid", ""),
        ] {
            fs::write(at("etc").join(name), text).unwrap();
        }
        chroot
    }

    fn command(&self, script: &str) -> Command {
        let root = self.dir.path().display();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec"]);
        command.arg(format!("mount --rbind /usr {root}/usr; exec chroot {root} sh -ec '{script}'"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.dir.path().join("etc").join(name))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn installed(programs: &[&str]) -> bool {
    programs
        .iter()
        .all(|name| Path::new("/usr/sbin").join(name).exists() || Path::new("/usr/bin").join(name).exists())
}

#[test]
fn no_line_is_lost_while_useradd_and_usermod_run() {
    if !is_root() || !installed(&["useradd", "usermod", "getsubids"]) {
        skip("needs root and shadow-utils");
        return;
    }
    const USERS: usize = 40;
    let chroot = Chroot::new();
    let add = format!("for i in $(seq {USERS}); do useradd --no-create-home u$i; sleep 0.05; done");
    let modify = format!(
        "for i in $(seq {USERS}); do usermod --add-subuids 9000$((i + 100))-9000$((i + 100)) \
         --add-subgids 9000$((i + 100))-9000$((i + 100)) root; sleep 0.05; done"
    );
    let mut others = [&add, &modify].map(|script| chroot.command(script).spawn().unwrap());
    let config = chroot.dir.path().join("usernsd.yaml");
    let mut rounds = 0;
    while others.iter_mut().any(|other| other.try_wait().unwrap().is_none()) {
        rounds += 1;
        let start = 700_000_000 + rounds % 2 * 65_536;
        let text = format!("bootstrap: {{ranges: [{{owner: containers, start: {start}, count: 65536}}]}}\n");
        fs::write(&config, text).unwrap();
        let words = [
            USERNSD,
            "bootstrap",
            "--root",
            chroot.dir.path().to_str().unwrap(),
            "--config",
            config.to_str().unwrap(),
        ];
        let output = run(&words.map(String::from));
        // An account that was changed between planning and locking is found in the next round.
        let raced = output_of(&output).contains("run it again");
        assert!(output.status.success() || raced, "{}", output_of(&output));
        std::thread::sleep(Duration::from_millis(20));
    }
    for other in others {
        let output = other.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", output_of(&output));
    }
    // A process that polls for the lock gets it less often than those that sleep in the kernel.
    assert!(rounds > 1, "only {rounds} rounds");
    for file in ["subuid", "subgid"] {
        let lines = chroot.lines(file);
        for number in 1..=USERS {
            let own = lines.iter().filter(|line| line.starts_with(&format!("u{number}:"))).count();
            assert_eq!(own, 1, "{file}: u{number} in {lines:?}");
            let root = format!("root:9000{}:1", number + 100);
            assert!(lines.contains(&root), "{file}: {root} in {lines:?}");
        }
        assert_eq!(lines.iter().filter(|line| line.starts_with("containers:")).count(), 1, "{lines:?}");
        assert_eq!(lines.len(), 2 * USERS + 1, "{lines:?}");
    }
    // getsubids finds what was planned.
    let line = chroot.lines("subuid").into_iter().find(|line| line.starts_with("containers:")).unwrap();
    let output = chroot
        .command(
            "useradd --system --no-create-home containers; getsubids containers; getsubids -g containers",
        )
        .output()
        .unwrap();
    let want = format!("0: {}\n", line.replace(':', " "));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{want}{want}"), "{}", output_of(&output));
    let left: Vec<String> = fs::read_dir(chroot.dir.path().join("etc"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".pwd.lock" && (name.contains("lock") || name.contains("usernsd")))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

/// A node with all files that do not depend on a runtime: ranges, a drop-in, a hook with its program, a
/// sysctl.
fn prepared() -> (Node, BTreeMap<String, String>) {
    let node = Node::for_a_runtime(Path::new(USERNSD));
    let config = "bootstrap: {crio: {version: 1.24.6}, applySysctl: true, kubelet: {user: create}}\n";
    node.write("usernsd.yaml", config);
    let before = node.etc();
    let output = node.run(&[]);
    assert!(output.status.success(), "{}", output_of(&output));
    (node, before)
}

/// Undoes the rest: without the obstacle it succeeds and leaves nothing behind.
fn ends(node: &Node, before: &BTreeMap<String, String>, what: &str) {
    let undone = node.run(&["--undo"]);
    assert!(undone.status.success(), "{what}: {}", output_of(&undone));
    assert!(!output_of(&undone).contains("undo-left"), "{what}: {}", output_of(&undone));
    assert_eq!(node.etc(), *before, "{what}");
    assert!(!node.path("var/lib/usernsd/bootstrap.json").exists(), "{what}");
    assert!(!node.path("var/lib/usernsd/bin").exists(), "{what}");
}

/// A run that failed on a link, the node's first one or a later one, has journaled a change that it never made. Once
/// the link is gone, everything is undone, whatever has taken its place.
#[test]
fn a_run_that_failed_on_a_link_does_not_prevent_undoing_the_others() {
    if !is_root() {
        return;
    }
    let (node, before) = prepared();
    let written = fs::read_to_string(node.path("etc/subuid")).unwrap();
    ends(&node, &before, "without a link");
    let other = "bob:165536:9\n";
    for (is_first, instead) in [
        (true, None),
        (true, Some(other)),
        (true, Some(&*before["subuid"])),
        (false, None),
        (false, Some(other)),
        (false, Some(&*written)),
    ] {
        let node = if is_first { Node::for_a_runtime(Path::new(USERNSD)) } else { prepared().0 };
        fs::rename(node.path("etc/subuid"), node.path("etc/elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", node.path("etc/subuid")).unwrap();
        node.write(
            "usernsd.yaml",
            "bootstrap: {crio: {version: 1.24.6}, applySysctl: true, ranges: [{owner: x, count: 5}]}\n",
        );
        let failed = node.run(&[]);
        assert_eq!(failed.status.code(), Some(2), "{}", output_of(&failed));
        assert!(output_of(&failed).contains("a symbolic link leads elsewhere"), "{}", output_of(&failed));
        assert!(node.path("var/lib/usernsd/bootstrap.json").exists());
        fs::remove_file(node.path("etc/subuid")).unwrap();
        fs::remove_file(node.path("etc/elsewhere")).unwrap();
        let mut want = before.clone();
        match instead {
            None => drop(want.remove("subuid")),
            Some(text) => {
                node.write("etc/subuid", text);
                // The own lines stay; ours are gone already, or are removed.
                let rest = if text == written { before["subuid"].clone() } else { text.to_owned() };
                want.insert("subuid".into(), rest);
            }
        }
        ends(&node, &want, &format!("first run: {is_first}, {instead:?}"));
    }
}

/// Each reason for which a file stays: it is reported, the rest is undone, and the next attempt completes the
/// undo.
#[test]
fn a_change_that_cannot_be_undone_does_not_prevent_undoing_the_rest() {
    if !is_root() {
        return;
    }
    let [drop_in, json, sysctl] =
        ["crio/crio.conf.d/99-usernsd.conf", "usernsd/hooks.d/99-usernsd.json", "sysctl.d/99-usernsd.conf"];
    let ids = ["passwd", "group", "shadow", "subuid", "subgid"];
    let etc = |name: &str| format!("etc/{name}");
    let append = |name: &str| {
        let name = etc(name);
        move |node: &Node| {
            let text = fs::read_to_string(node.path(&name)).unwrap();
            node.write(&name, &format!("{text}# mine\n"));
        }
    };
    type Break = Box<dyn Fn(&Node)>;
    let is_link = |name: &'static str| -> Break {
        Box::new(move |node: &Node| {
            fs::rename(node.path(name), node.path("aside")).unwrap();
            std::os::unix::fs::symlink("/aside", node.path(name)).unwrap();
        })
    };
    let cases: Vec<(&str, Break, &str, Vec<&str>)> = vec![
        ("a drop-in that was changed", Box::new(append(drop_in)), "it was changed since", vec![drop_in]),
        ("a setting that was changed", Box::new(append(sysctl)), "it was changed since", vec![sysctl]),
        ("a hook that was changed", Box::new(append(json)), "it was changed since", vec![json]),
        ("a link", is_link("etc/subuid"), "a symbolic link leads elsewhere", ids.to_vec()),
        (
            "a directory in the place of a file",
            Box::new(move |node: &Node| {
                fs::remove_file(node.path("etc/sysctl.d/99-usernsd.conf")).unwrap();
                fs::create_dir(node.path("etc/sysctl.d/99-usernsd.conf")).unwrap();
            }),
            "is not a regular file",
            vec![],
        ),
        (
            "an account that was changed",
            Box::new(|node: &Node| {
                let text = fs::read_to_string(node.path("etc/passwd")).unwrap();
                node.write("etc/passwd", &text.replace("kubelet:x:999:", "kubelet:x:998:"));
            }),
            "the line of kubelet was changed since",
            ids.to_vec(),
        ),
        (
            "a lock that names nobody",
            Box::new(|node: &Node| node.write("etc/subuid.lock", "x")),
            "names no process",
            ids.to_vec(),
        ),
        (
            "a file of a MachineConfig",
            Box::new(|node: &Node| {
                node.write(
                    "etc/machine-config-daemon/currentconfig",
                    r#"{"spec":{"config":{"storage":{"files":[{"path":"/etc/sysctl.d/99-usernsd.conf"}]}}}}"#,
                );
            }),
            "MachineConfig",
            vec![sysctl],
        ),
    ];
    for (what, spoil, why, stays) in cases {
        let (node, before) = prepared();
        let written = node.etc();
        spoil(&node);
        let spoilt = node.etc();
        let left = node.run(&["--undo"]);
        let complaint = output_of(&left);
        assert_eq!(left.status.code(), Some(2), "{what}: {complaint}");
        assert!(complaint.contains(why) && complaint.contains("[undo-left]"), "{what}: {complaint}");
        let found = node.etc();
        for name in written.keys().filter(|name| written.get(*name) != before.get(*name)) {
            let want = if stays.contains(&name.as_str()) { spoilt.get(name) } else { before.get(name) };
            assert_eq!(found.get(name), want, "{what}: {name}: {complaint}");
        }
        // Another attempt reports the same again.
        let again = node.run(&["--undo"]);
        assert_eq!(again.status.code(), Some(2), "{what}: {}", output_of(&again));
        assert!(output_of(&again).contains(why), "{what}: {}", output_of(&again));
        assert_eq!(node.etc(), found, "{what}");
        // `--diff` takes no lock.
        let looked = node.run(&["--undo", "--check"]);
        let want = if what == "a lock that names nobody" { 1 } else { 2 };
        assert_eq!(looked.status.code(), Some(want), "{what}: {}", output_of(&looked));

        // The same, without the obstacle.
        for extra in ["aside", "etc/subuid.lock", "etc/machine-config-daemon/currentconfig"] {
            let _ = fs::remove_file(node.path(extra));
        }
        for extra in ["etc/machine-config-daemon", "etc/sysctl.d/99-usernsd.conf"] {
            let _ = fs::remove_dir_all(node.path(extra));
        }
        for name in &stays {
            let _ = fs::remove_file(node.path(&etc(name)));
            node.write(&etc(name), &written[*name]);
        }
        if stays.contains(&"shadow") {
            fs::set_permissions(node.path("etc/shadow"), fs::Permissions::from_mode(0o640)).unwrap();
        }
        ends(&node, &before, what);
    }
}

/// Programs that edit accounts hold one of these locks; bootstrap waits for it and writes nothing meanwhile.
#[test]
fn bootstrap_waits_for_every_lock_of_the_accounts() {
    if !is_root() {
        return;
    }
    for name in ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"] {
        let node = Node::new();
        let before = node.etc();
        let lock = format!("etc/{name}.lock");
        // The PID of a live process: this one.
        node.write(&lock, &std::process::id().to_string());
        let words = node.words(&[]);
        let child = Command::new(&words[0]).args(&words[1..]).stderr(Stdio::piped()).spawn().unwrap();
        // Bootstrap has reached the lock when it has taken those before it, or if there are none before it.
        let journaled = || node.path("var/lib/usernsd/bootstrap.lock").exists();
        while !journaled() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(200));
        let mut found = node.etc();
        found.retain(|name, _| !name.ends_with(".lock") && !name.contains(".lock."));
        let mut want = before.clone();
        want.retain(|name, _| !name.ends_with(".lock"));
        assert_eq!(found, want, "{name}: written although it is locked");
        // Meanwhile the holder of the lock has added a line.
        if node.path(&format!("etc/{name}")).exists() && name.starts_with("sub") {
            let text = fs::read_to_string(node.path(&format!("etc/{name}"))).unwrap();
            node.write(&format!("etc/{name}"), &format!("{}\nbob:9000000:1\n", text.trim_end()));
        }
        fs::remove_file(node.path(&lock)).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}: {}", output_of(&output));
        let found = node.etc();
        assert!(found["passwd"].contains("kubelet:") && found["subuid"].contains("kubelet:"), "{name}");
        if name.starts_with("sub") {
            assert!(found[name].contains("bob:9000000:1\n"), "{name}: {found:?}");
        }
        assert!(!found.keys().any(|name| name.contains("lock")), "{name}: {found:?}");
        assert!(node.run(&["--undo"]).status.success());
    }
}

/// A directory may be a mount of the same device as its neighbours, and still no file can be renamed into it.
#[test]
fn no_plugin_is_installed_in_a_directory_that_is_a_bind_mount() {
    if !is_root() {
        return;
    }
    let node = Node::for_a_plugin(Path::new(USERNSD));
    let output =
        node.run_mounted("mkdir -p $R/opt/nri/plugins && mount --bind $R/opt/nri/plugins $R/opt/nri/plugins");
    assert!(output_of(&output).contains("/opt/nri/plugins is a mount of its own"), "{}", output_of(&output));
    assert!(output.status.success(), "{}", output_of(&output));
    assert!(node.plugins().is_empty());
    assert!(node.run(&["--undo"]).status.success());
}

/// The samples of `usernsd_config_writes_total` after a round of checks, by file.
fn counted_writes(node: &Node) -> BTreeMap<String, usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Store::new(SystemTime::now());
    let look = Arc::new(|_: &_| Survey::empty());
    let metrics = Metrics::new(store.clone(), look, Exposition::default()).unwrap();
    let (_is_ready, ready) = tokio::sync::watch::channel(true);
    let place = crate::agent_tasks::place(node.dir.path(), node.path("no-runtime.sock"));
    let never = Duration::from_secs(1000);
    let doctor = Arc::new(Doctor::new(place).unwrap());
    let rounds = Rounds { doctor, store: store.clone(), every: never, pods_every: never, ready };
    runtime.block_on(async {
        tokio::spawn(rounds.run());
        let end = Instant::now() + Duration::from_secs(60);
        while store.snapshot().examined.is_none() {
            assert!(Instant::now() < end, "no round of checks");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let text = metrics.render();
    let samples = text.lines().filter_map(|line| line.strip_prefix("usernsd_config_writes_total{file=\""));
    samples
        .map(|sample| {
            let (file, count) = sample.split_once("\"} ").unwrap();
            (file.to_owned(), count.parse().unwrap())
        })
        .collect()
}

/// Runs that change files, that find nothing to change, that fail, and that are killed at their first change: each
/// change of a file that lasts is counted once, and none that did not occur.
#[test]
fn a_storm_of_runs_is_counted_write_by_write() {
    const RUNS: usize = 15;
    if !is_root() || !is_traced() {
        return;
    }
    let node = Node::new();
    let mut want: BTreeMap<String, usize> =
        ConfigFile::ALL.map(|file| (file.name().to_owned(), 0)).into_iter().collect();
    let mut owners: Vec<String> = Vec::new();
    for number in 0..RUNS {
        let before = node.etc();
        if number % 5 != 1 {
            owners.push(format!("{{owner: o{number}, count: 5}}"));
        }
        let config = format!("bootstrap: {{kubelet: {{user: create}}, ranges: [{}]}}\n", owners.join(", "));
        node.write("usernsd.yaml", &config);
        let output = match number % 5 {
            // The second file cannot be written.
            3 => {
                fs::rename(node.path("etc/subgid"), node.path("etc/elsewhere")).unwrap();
                std::os::unix::fs::symlink("elsewhere", node.path("etc/subgid")).unwrap();
                let output = node.run(&[]);
                fs::remove_file(node.path("etc/subgid")).unwrap();
                fs::rename(node.path("etc/elsewhere"), node.path("etc/subgid")).unwrap();
                owners.pop();
                assert_eq!(output.status.code(), Some(2), "{number}: {}", output_of(&output));
                output
            }
            // Killed when the first file is about to be replaced.
            4 => {
                let kill = ["-e", "inject=?renameat,?renameat2:signal=SIGKILL:when=2"];
                let output = run(&traced(&["renameat", "renameat2"], &kill, &node.words(&[])));
                assert!(!output.status.success(), "{number}: {}", output_of(&output));
                output
            }
            _ => {
                let output = node.run(&[]);
                assert!(output.status.success(), "{number}: {}", output_of(&output));
                output
            }
        };
        let after = node.etc();
        for (name, text) in &after {
            let path = HostPath::parse(&format!("etc/{name}")).unwrap();
            if let Some(file) = ConfigFile::of(&path).filter(|_| before.get(name) != Some(text)) {
                *want.get_mut(file.name()).unwrap() += 1;
            }
        }
        assert_eq!(counted_writes(&node), want, "{number}: {}", output_of(&output));
    }
    assert!(want["subuid"] >= RUNS / 3 && want["kubelet"] > 0, "{want:?}");
    let undone = node.run(&["--undo"]);
    assert!(undone.status.success(), "{}", output_of(&undone));
    assert!(counted_writes(&node).values().all(|count| *count == 0), "undone writes do not count");
}
