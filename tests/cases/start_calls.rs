//! What the agent does while a runtime waits for it, counted in system calls: unlike its duration, their number
//! depends neither on the machine nor on what else runs there.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options};
use crate::pods::{Container, ContainerSpec, PodSpec, Pods, wait_for};

/// The calls of the agent's NRI thread from StartContainer's message to the answer. `None` without strace.
fn until_the_answer(node: &Node, agent: &Agent<'_>, run: impl FnOnce() -> Container) -> Option<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().flatten();
    let mut threads = tasks.map(|task| task.path());
    let thread = threads.find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == "nri").unwrap();
    let trace = node.path("/run/strace");
    let tracer = Command::new("strace")
        .args(["-s", "400", "-p", thread.file_name().unwrap().to_str().unwrap(), "-o"])
        .arg(&trace)
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tracer) = tracer else {
        crate::node::report_skipped("strace is not installed");
        return None;
    };
    let mut says = BufReader::new(tracer.stderr.take().unwrap()).lines();
    assert!(says.any(|line| line.unwrap().contains("attached")));
    let container = run();
    // The line of the call for which the thread waits next is written when it begins.
    let lines = wait_for("the trace", || {
        let text = fs::read_to_string(&trace).unwrap();
        // Each descriptor is checked before it is closed, but only in a build like this one (std's debug assertions).
        let lines = text.lines().filter(|line| !line.starts_with("fcntl"));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        let opened =
            lines.iter().position(|line| line.contains(&container.id) && line.starts_with("openat2"))?;
        let (before, after) = lines.split_at(opened);
        let from = before.iter().rposition(|line| line.starts_with("recvfrom"))?;
        // The answer goes to the descriptor from which the message came.
        let descriptor = lines[from].split(['(', ',']).nth(1)?;
        let to = after.iter().position(|line| line.starts_with(&format!("sendto({descriptor},")))?;
        Some(lines[from + 1..=opened + to].to_vec())
    });
    let _ = tracer.kill();
    tracer.wait().unwrap();
    Some(lines)
}

/// The calls for a pod's second container: the pod's limits are set for the first.
fn of_a_second_container(pod: PodSpec, spec: &dyn Fn(&str) -> ContainerSpec) -> Option<Vec<String>> {
    let node = node_with_binary(Options::default())?;
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, "delegation: {privilegedCgroupNamespace: false}\n");
    let pod = pods.run_pod(&pod);
    pods.run(&pod, &spec("first"));
    until_the_answer(&node, &agent, || pods.run(&pod, &spec("second")))
}

/// Whether one of the calls opens that file of the process's.
fn opens(calls: &[String], file: &str) -> bool {
    calls.iter().any(|line| line.contains(&format!("\"{file}\"")))
}

#[test]
fn a_hand_over_takes_few_system_calls_and_waits_for_nobody() {
    let spec = |name: &str| ContainerSpec::sleeping().named(name).privileged();
    let Some(calls) = of_a_second_container(PodSpec::new("p").privileged(), &spec) else { return };
    assert!(calls.iter().any(|line| line.starts_with("fchownat")), "{calls:#?}");
    assert!(opens(&calls, "mountinfo"), "{calls:#?}");
    assert!(calls.len() <= 76, "{}: {calls:#?}", calls.len());
    // The answer is all that is sent: neither systemd nor the observer is asked.
    assert_eq!(calls.iter().filter(|line| line.starts_with("sendto")).count(), 1, "{calls:#?}");
}

#[test]
fn the_mount_table_of_a_container_with_a_read_only_cgroup_is_not_read() {
    let spec = |name: &str| ContainerSpec::sleeping().named(name);
    let Some(calls) = of_a_second_container(PodSpec::new("p"), &spec) else { return };
    assert!(!opens(&calls, "mountinfo") && !opens(&calls, "status"), "{calls:#?}");
    assert!(calls.len() <= 19, "{}: {calls:#?}", calls.len());
}
