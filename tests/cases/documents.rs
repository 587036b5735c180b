//! Every command in the documents is run by a test, or the comment above it explains why not. A block marked
//! "```console node" is run here, on a node with the agent's unit and the two pods of the demo; one marked
//! "fresh" before any of that exists. If it shows output, that is compared, except for numbers, IDs and
//! times. The line before any other block of commands is `<!-- run by: NAME -->`, with the name of a test, or
//! `<!-- not run: WHY -->`.

#[path = "../node/shown.rs"]
mod shown;

use std::fs;
use std::path::{Path, PathBuf};

use crate::agent::node_with_binary;
use crate::node::{Node, Options};
use crate::pods::{Container, ContainerSpec, PodSpec, Pods, wait_for};
use shown::{Block, agrees, blocks, normal};

/// The nodes on which blocks are run, in this order.
const ON: [&str; 2] = ["fresh", "node"];

fn documents() -> Vec<PathBuf> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md")];
    for directory in ["docs", "dashboards", "machineconfig", "daemonset", "examples"] {
        if root.join(directory).is_dir() {
            below(&root.join(directory), &mut found);
        }
    }
    found.sort();
    assert!(found.len() > 20, "the documents were not found");
    found
}

#[test]
fn every_block_of_commands_is_run_or_has_a_reason() {
    let tests: String = documents_tests().into_iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut complaints = Vec::new();
    for block in documents().iter().flat_map(|path| blocks(path)) {
        let comment = |kind: &str| {
            let inside = block.above.strip_prefix("<!--")?.strip_suffix("-->")?;
            Some(inside.trim().strip_prefix(kind)?.trim().to_owned())
        };
        let is_said = match (comment("run by:"), comment("not run:")) {
            (Some(name), _) => tests.contains(&format!("fn {name}(")) || name.starts_with("make "),
            (_, Some(why)) => why.len() > 10,
            _ => ON.contains(&block.on.as_str()),
        };
        if !is_said {
            complaints.push(format!("{}: {:?}", block.place, block.lines.first()));
        }
    }
    assert!(complaints.is_empty(), "neither run nor explained:\n{}", complaints.join("\n"));
}

fn documents_tests() -> Vec<PathBuf> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests/bootstrap") {
                below(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for directory in ["tests", "examples", "src", "crates"] {
        below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut found);
    }
    found
}

#[test]
fn only_numbers_ids_and_times_may_differ() {
    assert_eq!(normal("default  plain 2a2765582871a 200000-265535 rw"), "default plain # #-# rw");
    assert!(agrees(&["a 12", "...", "z"], &["a 34", "b", "c", "z"]));
    assert!(!agrees(&["a 12", "z"], &["a 34", "b", "z"]));
    assert!(!agrees(&["rw ok"], &["ro ok"]));
}

/// A node with the pods of the demo.
fn demo(node: &Node) -> (Pods<'_>, Container) {
    let pods = Pods::connect(node);
    node.write(
        "/etc/systemd/system/usernsd.service",
        include_str!("../../machineconfig/units/usernsd.service"),
    );
    node.run(["systemctl", "enable", "--now", "--quiet", "usernsd"]);
    // The agent has joined, or the launched plugin serves the node.
    wait_for("a place in the start path", || {
        node.exec(["usernsd", "ps", "--ready"]).status.success().then_some(())
    });
    let pod = pods.run_pod(&PodSpec::new("plain").annotated("usernsd.io/systemd", "true"));
    let plain = pods.run(&pod, &ContainerSpec::systemd().named("systemd"));
    let pod = pods.run_pod(&PodSpec::new("privileged").privileged().mapped(&[(0, 265_536, 65_536)]));
    let spec = ContainerSpec::systemd().named("systemd").privileged().env("container", "oci");
    let privileged = pods.run(&pod, &spec);
    for container in [&plain, &privileged] {
        assert_eq!(pods.systemd_state(container), Ok("running".to_owned()));
    }
    (pods, plain)
}

/// Runs a command in a shell. Returns its exit code and its output: without standard error, with it after the
/// output, and with it before.
fn run(node: &Node, command: &str) -> (Option<i32>, [String; 3]) {
    let script = format!("cd /root; export LC_ALL=C.UTF-8 COLUMNS=120; {{ {command}\n}} >out 2>err");
    let output = node.exec(["bash", "-c", &script]);
    let read = |name: &str| fs::read_to_string(node.path(&format!("root/{name}"))).unwrap();
    let (out, err) = (read("out"), read("err"));
    (output.status.code(), [out.clone(), format!("{out}{err}"), format!("{err}{out}")])
}

#[test]
fn the_commands_print_what_the_documents_show() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let mut checked = Checked { node: &node, complaints: Vec::new(), count: 0 };
    let all = || documents().into_iter().flat_map(|path| blocks(&path));
    for block in all().filter(|block| block.on == "fresh") {
        checked.block(&block, str::to_owned);
        node.run(["usernsd", "bootstrap", "--undo"]);
    }
    // Without the plugin that one of the blocks installs and launches.
    node.restart_unit("containerd.service");
    let (pods, plain) = demo(&node);
    let pid = pods.status(&plain).pid.to_string();
    let cgroup = plain.cgroup.strip_prefix(node.cgroup_root()).unwrap().display().to_string();
    for block in all().filter(|block| block.on == "node") {
        checked.block(&block, |command| {
            command
                .replace("/proc/PID", &format!("/proc/{pid}"))
                .replace("cgroup/PATH", &format!("cgroup/{cgroup}"))
                .replace("SHORT-ID", &plain.id[..13])
        });
    }
    println!("{} commands", checked.count);
    assert!(checked.complaints.is_empty(), "{}", checked.complaints.join("\n\n"));
    assert!(checked.count > 20, "hardly any command was found");
}

struct Checked<'a> {
    node: &'a Node,
    complaints: Vec<String>,
    count: usize,
}

impl Checked<'_> {
    fn block(&mut self, block: &Block, fill_in: impl Fn(&str) -> String) {
        let mut lines = block.lines.iter().map(String::as_str).peekable();
        while let Some(line) = lines.next() {
            let Some(command) = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")) else {
                self.complaints.push(format!("{}: {line:?} is no command", block.place));
                break;
            };
            let is_output = |line: &&str| !line.starts_with("# ") && !line.starts_with("$ ");
            let want: Vec<&str> = std::iter::from_fn(|| lines.next_if(is_output)).collect();
            let command = fill_in(command);
            let (code, output) = run(self.node, &command);
            let is_unknown =
                matches!(code, None | Some(126 | 127)) || command.starts_with("usernsd") && code == Some(2);
            let shown = want.is_empty()
                || output.iter().any(|output| {
                    let output: Vec<&str> = output.trim_end().lines().map(str::trim_end).collect();
                    agrees(&want, &output)
                });
            if is_unknown || !shown {
                let (want, output) = (want.join("\n"), &output[1]);
                self.complaints.push(format!(
                    "{}: {command}: {code:?}\n--- shown\n{want}\n--- printed\n{output}",
                    block.place
                ));
            }
            self.count += 1;
        }
    }
}
