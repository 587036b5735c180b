//! Too little processor time, and too little memory, for the part of usernsd in the start path.
//!
//! The limits are set with the machine's cgroup v1 controllers; without those the cases are skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::agent::{Agent, Home, node_with_binary};
use crate::join::it_works;
use crate::launched::{asking, assert_served, node_with_plugin, plugin, running, wait_for_path};
use crate::node::{Options, Runtime, report_skipped};
use crate::pods::{BASE, ContainerSpec, Pods, wait_for};

const PLUGIN: &str = "/opt/nri/plugins/90-usernsd";
/// The agent's request in the DaemonSet, 50m, in shares of cgroup v1.
const REQUEST: &str = "51";
/// Two processors, requested by other pods.
const OTHERS: &str = "2048";
const BUSY: usize = 16;

/// A cgroup v1 of one controller. Dropping it moves its processes out.
struct Group(PathBuf);

impl Group {
    fn new(controller: &str, file: &str, value: &str) -> Option<Group> {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("usernsd-test-{}-{number}", std::process::id());
        let group = Path::new("/sys/fs/cgroup").join(controller).join(name);
        if fs::create_dir(&group).and_then(|()| fs::write(group.join(file), value)).is_err() {
            report_skipped(&format!("no cgroup v1 controller {controller} to be limited by"));
            return None;
        }
        Some(Group(group))
    }

    fn add(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let parent = self.0.parent().unwrap().join("cgroup.procs");
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(&parent, pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// Loops that use all the processor time that they get.
struct Busy(Vec<Child>);

impl Busy {
    fn start(group: &Group) -> Busy {
        let busy = Busy(
            (0..BUSY)
                .map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
                .collect(),
        );
        busy.0.iter().for_each(|child| group.add(child.id().cast_signed()));
        busy
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A container whose CreateContainer carries 400,000 variables.
fn many_variables() -> ContainerSpec {
    let env = (0..400_000).map(|index| (format!("{index:x}"), String::new())).collect();
    ContainerSpec { env, ..ContainerSpec::sleeping() }
}

fn busy_processors_and_the_plugin(runtime: Runtime) {
    let (Some(others), Some(node)) = (Group::new("cpu", "cpu.shares", OTHERS), node_with_plugin(runtime))
    else {
        return;
    };
    let pods = Pods::connect(&node);
    let before = plugin(&node);
    let pod = pods.run_pod(&asking("variables"));
    let busy = Busy::start(&others);
    pods.create(&pod, &many_variables());
    drop(busy);
    assert_eq!(running(&node), Some(before), "the runtime dropped its plugin");
    let next = pods.run_pod(&asking("next").numbered(1));
    assert_served(&pods, &pods.run(&next, &ContainerSpec::sleeping()), BASE + 65_536);
}

#[test]
fn busy_processors_do_not_disconnect_the_plugin_that_containerd_launched() {
    busy_processors_and_the_plugin(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn busy_processors_do_not_disconnect_the_plugin_that_crio_launched() {
    busy_processors_and_the_plugin(Runtime::Crio);
}

/// An agent that has joined and gets only the processor time that it requests. The test prints whether the
/// runtime waits for it: a build without optimisations is ten times slower. If it does not wait, the agent
/// joins again by itself.
fn busy_processors_and_the_agent(runtime: Runtime) {
    let options = Options { runtime, ..Options::default() };
    let (Some(others), Some(own), Some(node)) = (
        Group::new("cpu", "cpu.shares", OTHERS),
        Group::new("cpu", "cpu.shares", REQUEST),
        node_with_binary(options),
    ) else {
        return;
    };
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    let Home::Node(process) = &agent.home else { panic!("it is on the node") };
    own.add(process.pid().as_raw());
    let pod = pods.run_pod(&asking("variables"));
    let busy = Busy::start(&others);
    let container = pods.create(&pod, &many_variables());
    drop(busy);
    let mounts = pods.status(&container).spec["mounts"].as_array().unwrap().clone();
    let cgroup = mounts.iter().find(|mount| mount["destination"] == "/sys/fs/cgroup").unwrap();
    let served = cgroup["options"].as_array().unwrap().contains(&"rw".into());
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("{}, {build} build: served {served}", pods.runtime_name);
    assert!(served || cfg!(debug_assertions), "the runtime did not wait for the agent");
    drop(own);
    if !served {
        wait_for("the agent's word", || agent.log().contains("not joined over NRI").then_some(()));
    }
    // With this container in the list, the agent might not join.
    pods.remove_pod(&pod);
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    it_works(&pods, "after");
    let next = pods.run_pod(&asking("next").numbered(1));
    assert_served(&pods, &pods.run(&next, &ContainerSpec::sleeping()), BASE + 65_536);
}

#[test]
fn containerd_waits_for_an_agent_that_gets_no_more_than_its_request() {
    busy_processors_and_the_agent(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_waits_for_an_agent_that_gets_no_more_than_its_request() {
    busy_processors_and_the_agent(Runtime::Crio);
}

/// The kernel kills a plugin that has no memory left. Containers start as without it, and the agent takes its
/// place.
fn a_plugin_out_of_memory(runtime: Runtime) {
    let Some(node) = node_with_plugin(runtime) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    wait_for_path(&agent, "launched_plugin");
    let pid = *node.processes(PLUGIN).first().unwrap();
    let Some(group) = Group::new("memory", "memory.swappiness", "0") else { return };
    group.add(pid);
    // Memory that it has allocated so far does not count here; a message with 400,000 variables and its
    // copies do not fit into 4 MiB.
    fs::write(group.0.join("memory.limit_in_bytes"), "2M").unwrap();
    let pod = pods.run_pod(&asking("variables"));
    let created = pods.create(&pod, &many_variables());
    wait_for("the kernel's kill", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    println!("created {} although the plugin was killed", created.id);
    wait_for_path(&agent, "agent_joined");
    it_works(&pods, "after");
    let next = pods.run_pod(&asking("next").numbered(1));
    assert_served(&pods, &pods.run(&next, &ContainerSpec::sleeping()), BASE + 65_536);
    let doctor = node.exec(["usernsd", "doctor", "--output", "json"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let doctor: serde_json::Value = serde_json::from_str(&doctor).unwrap();
    let checks = doctor["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["id"] == "plugin_running").unwrap();
    assert_ne!(check["outcome"], "pass", "{check}");
}

#[test]
fn a_plugin_that_runs_out_of_memory_harms_no_container_on_containerd() {
    a_plugin_out_of_memory(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_plugin_that_runs_out_of_memory_harms_no_container_on_crio() {
    a_plugin_out_of_memory(Runtime::Crio);
}
