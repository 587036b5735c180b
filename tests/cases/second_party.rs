//! cgroups-rs, an independent implementation of cgroups, creates a delegated scope over systemd and reads it:
//! usernsd must see the same. docs/adr/0001-cgroups-by-handle.md explains why usernsd itself accesses cgroups
//! by handle.

use std::collections::BTreeMap;
use std::env;

use cgroups_rs::CgroupPid;
use cgroups_rs::fs::cgroup::get_cgroups_relative_paths_by_pid;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, hierarchies};
use cgroups_rs::systemd::{DEFAULT_DEPENDENCIES, DELEGATE, SLICE, SystemdClient};
use usernsd_domain::cgroup::CgroupPath;
use usernsd_linux::cgroupfs::CgroupRoot;
use usernsd_peers::systemd::Systemd;

use crate::node::{Node, Options, Runtime};

const PROGRAM: &str = "/usr/local/bin/second-party";
const UNIT: &str = "second-party.scope";
/// The process to put into the scope, by its PID on the node.
const PROCESS: &str = "SECOND_PARTY_PROCESS";

/// Runs on the node: creates the scope and prints the values that cgroups-rs reads, one `NAME=VALUE` per
/// line.
#[test]
#[ignore = "a program for the test below, which runs it in a node"]
fn second_party() {
    let pid: u32 = env::var(PROCESS).unwrap().parse().unwrap();
    let properties =
        vec![(SLICE, "system.slice".into()), (DELEGATE, true.into()), (DEFAULT_DEPENDENCIES, false.into())];
    let mut client = SystemdClient::new(UNIT, properties).unwrap();
    client.set_pid_prop(CgroupPid::from(u64::from(pid))).unwrap();
    client.start().unwrap();
    let path = crate::pods::wait_for("the process in its scope", || {
        let paths = get_cgroups_relative_paths_by_pid(pid).unwrap();
        paths.into_values().find(|path| path.ends_with(UNIT))
    });
    println!("path={path}");
    let cgroup = Cgroup::load(hierarchies::auto(), path.trim_start_matches('/'));
    assert!(cgroup.v2());
    println!("type={}", cgroup.get_cgroup_type().unwrap().trim());
    // The controller, if the machine has it in cgroup v2.
    if let Some(pids) = cgroup.controller_of::<PidController>() {
        println!("pids.current={}", pids.get_pid_current().unwrap());
    }
}

#[test]
fn usernsd_reads_the_same_values_as_another_implementation() {
    let binds = vec![(env::current_exe().unwrap(), PROGRAM.to_owned())];
    let options = Options { runtime: Runtime::None, binds, ..Options::default() };
    let Some(node) = Node::boot_or_skip(&options) else { return };
    let pid = node.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]);
    let process = format!("{PROCESS}={}", pid.trim());
    let test = concat!(module_path!(), "::second_party").split_once("::").unwrap().1;
    let output = node.run(["env", &process, PROGRAM, "--ignored", "--exact", "--nocapture", test]);
    let read: BTreeMap<&str, &str> = output.lines().filter_map(|line| line.split_once('=')).collect();

    let path = CgroupPath::parse(read["path"]).unwrap();
    let root = CgroupRoot::open(node.cgroup_root()).unwrap();
    let cgroup = root.open_cgroup(&path).unwrap();
    assert_eq!(cgroup.read("cgroup.type").unwrap().trim(), read["type"]);
    assert_eq!(cgroup.processes().unwrap().len(), 1);
    let pids = cgroup.read("pids.current").ok();
    assert_eq!(pids.as_deref().map(str::trim), read.get("pids.current").copied());

    // systemd's part of the proof of identity.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scope = runtime.block_on(async {
        Systemd::connect(&node.system_bus()).await.unwrap().scope(UNIT).await.unwrap().unwrap()
    });
    assert_eq!(scope.control_group, path);
    assert_eq!(scope.control_group_id, Some(cgroup.inode()));
    assert!(scope.delegate);
}
