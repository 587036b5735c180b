//! Systemd and other owners of cgroups under real controllers: limits from outside, limits that they set
//! inside, and what they cannot reach. A machine without controllers in cgroup v2 skips these cases;
//! `make vm-test` runs them on one that has all.

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime, report_skipped};
use crate::pods::{Container, ContainerSpec, Pod, PodSpec, Pods};

/// Of the container, in bytes.
const MEMORY: i64 = 192 << 20;

/// A node with that runtime whose cgroups have these controllers.
fn node_with_controllers(runtime: Runtime, controllers: &[&str]) -> Option<Node> {
    let node = node_with_binary(Options { runtime, ..Options::default() })?;
    let present = std::fs::read_to_string(node.cgroup_root().join("cgroup.controllers")).unwrap();
    let present: Vec<&str> = present.split_whitespace().collect();
    if let Some(missing) = controllers.iter().find(|name| !present.contains(*name)) {
        report_skipped(&format!("no controller {missing} in cgroup v2"));
        return None;
    }
    Some(node)
}

/// Systemd in a container with limits of memory, processors and processes, as a kubelet sets them.
fn limited_systemd(pods: &Pods<'_>) -> Container {
    let pod = pods.run_pod(&PodSpec::new("limited").annotated("usernsd.io/systemd", "true"));
    let container = create(pods, &pod, &ContainerSpec::systemd(), |resources| {
        resources.memory_limit_in_bytes = MEMORY;
        resources.memory_swap_limit_in_bytes = MEMORY;
        (resources.cpu_quota, resources.cpu_period) = (150_000, 100_000);
        resources.unified.insert("pids.max".to_owned(), "200".to_owned());
        // As the kubelet sets it: if the container itself runs out of memory, all of it ends.
        resources.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    });
    pods.start(&container);
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()), "{}", container.log());
    container
}

fn create(
    pods: &Pods<'_>,
    pod: &Pod,
    spec: &ContainerSpec,
    change: impl FnOnce(&mut usernsd_proto::cri::LinuxContainerResources),
) -> Container {
    let created = pods.try_create_with(pod, spec, |config| {
        change(config.linux.as_mut().unwrap().resources.get_or_insert_default());
    });
    created.unwrap()
}

/// Runs a script in the container, which must succeed, and returns its output.
#[track_caller]
fn sh(pods: &Pods<'_>, container: &Container, script: &str) -> String {
    let output = pods.exec(container, &["/bin/sh", "-euc", script]);
    assert_eq!(output.code, 0, "{script}: {}\n{}", output.stdout, output.stderr);
    output.stdout
}

#[test]
fn systemd_sees_the_limits_of_its_container_and_cannot_change_them() {
    sees_the_limits(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn systemd_on_crio_sees_the_limits_of_its_container_and_cannot_change_them() {
    sees_the_limits(Runtime::Crio);
}

fn sees_the_limits(runtime: Runtime) {
    let Some(node) = node_with_controllers(runtime, &["cpu", "memory", "pids"]) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let container = limited_systemd(&pods);
    assert!(["delegated", "already_right"].contains(&agent.outcome(&container).as_str()));
    for (file, limit) in [
        ("memory.max", MEMORY.to_string()),
        ("cpu.max", "150000 100000".to_owned()),
        ("pids.max", "200".to_owned()),
    ] {
        // The view from outside and the one from inside.
        let outside = std::fs::read_to_string(container.cgroup.join(file)).unwrap();
        assert_eq!(outside.trim(), limit, "{file}");
        assert_eq!(sh(&pods, &container, &format!("cat /sys/fs/cgroup/{file}")), limit, "{file}");
        let output = pods.exec(&container, &["/bin/sh", "-c", &format!("echo max >/sys/fs/cgroup/{file}")]);
        assert!(output.code != 0 && output.stderr.contains("Permission denied"), "{file}: {output:?}");
    }
    // systemd accounts for its units with the controllers that it was given.
    let controllers = sh(&pods, &container, "cat /sys/fs/cgroup/system.slice/cgroup.controllers");
    for controller in ["memory", "pids"] {
        assert!(controllers.split_whitespace().any(|found| found == controller), "{controllers}");
    }
    let top = sh(&pods, &container, "systemd-cgtop --batch --iterations=1 --raw");
    assert!(top.contains("system.slice/nginx.service"), "{top}");
    let shown = sh(&pods, &container, "systemctl show --property=MemoryCurrent --value nginx.service");
    assert!(shown.parse::<u64>().unwrap() > 0);
}

#[test]
fn limits_of_units_in_a_container_are_enforced() {
    limits_of_units(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn limits_of_units_in_a_container_of_crio_are_enforced() {
    limits_of_units(Runtime::Crio);
}

fn limits_of_units(runtime: Runtime) {
    let Some(node) = node_with_controllers(runtime, &["cpu", "memory", "pids"]) else { return };
    let pods = Pods::connect(&node);
    let _agent = Agent::joined(&node);
    let container = limited_systemd(&pods);

    // Each limit arrives in the unit's own cgroup.
    let read = "--property=MemoryMax=40M --property=TasksMax=7 --property=CPUQuota=20% /bin/sh -c \
                'cd /sys/fs/cgroup/system.slice/limits.service && cat memory.max pids.max cpu.max'";
    let read = sh(&pods, &container, &format!("systemd-run --quiet --pipe --wait --unit=limits {read}"));
    assert_eq!(read.split_whitespace().collect::<Vec<_>>(), ["41943040", "7", "20000", "100000"]);

    // TasksMax: the eighth process is not created.
    let output = pods.exec(
        &container,
        &[
            "systemd-run",
            "--quiet",
            "--pipe",
            "--wait",
            "--property=TasksMax=7",
            "/bin/sh",
            "-c",
            "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait",
        ],
    );
    assert!(
        output.code != 0 && format!("{}{}", output.stdout, output.stderr).contains("Cannot fork"),
        "{output:?}"
    );

    // MemoryMax: the unit ends, and nothing else does.
    let nginx = sh(&pods, &container, "systemctl show --property=MainPID --value nginx.service");
    let output = pods.exec(
        &container,
        &[
            "systemd-run",
            "--unit=eater",
            "--quiet",
            "--wait",
            "--property=MemoryMax=30M",
            "--property=MemorySwapMax=0",
            "tail",
            "/dev/zero",
        ],
    );
    assert_ne!(output.code, 0, "{output:?}");
    let log = sh(&pods, &container, "journalctl --no-pager --unit=eater.service");
    assert!(log.contains("oom-kill"), "{log}");
    assert!(pods.is_running(&container));
    assert_eq!(sh(&pods, &container, "systemctl show --property=MainPID --value nginx.service"), nginx);
}

#[test]
fn a_container_that_runs_out_of_memory_ends_alone() {
    runs_out_of_memory(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_container_of_crio_that_runs_out_of_memory_ends_alone() {
    runs_out_of_memory(Runtime::Crio);
}

fn runs_out_of_memory(runtime: Runtime) {
    let Some(node) = node_with_controllers(runtime, &["memory"]) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let container = limited_systemd(&pods);
    let bystander = pods.run(
        &pods.run_pod(&PodSpec::new("bystander").numbered(1).annotated("usernsd.io/cgroup", "writable")),
        &ContainerSpec::sleeping(),
    );
    // No limit of its own: the container's applies, and the container is one group.
    let _ = pods.exec(&container, &["systemd-run", "--quiet", "tail", "/dev/zero"]);
    assert_eq!(pods.exit_code(&container), 137);
    // Counted by the kernel. The runtime's reason is "Error" if the end reaches it before the event.
    let killed = |pod: &std::path::Path| {
        let events = std::fs::read_to_string(pod.join("memory.events")).unwrap();
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse::<u64>().unwrap()
    };
    assert!(killed(&container.pod_cgroup) > 0);
    assert_eq!(killed(&bystander.pod_cgroup), 0);
    assert!(pods.is_running(&bystander));
    assert_eq!(agent.record(&bystander)["outcome"], "already_right");
}

#[test]
fn every_controller_works_in_a_tree_that_was_handed_over() {
    every_controller_works(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn every_controller_works_in_a_tree_that_was_handed_over_on_crio() {
    every_controller_works(Runtime::Crio);
}

fn every_controller_works(runtime: Runtime) {
    let Some(node) = node_with_controllers(runtime, &["cpu", "memory", "pids"]) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let pod = pods.run_pod(&PodSpec::new("tree").annotated("usernsd.io/cgroup", "writable"));
    let container = pods.run(&pod, &ContainerSpec::sleeping());
    agent.wait_for_outcome(&container, "already_right");
    // A cgroup with controllers for its children has no processes of its own.
    let script = "cd /sys/fs/cgroup; mkdir leaf other
        for pid in $(cat cgroup.procs); do echo $pid >leaf/cgroup.procs || true; done
        for controller in $(cat cgroup.controllers); do
          echo +$controller >cgroup.subtree_control && echo $controller
        done";
    let enabled = sh(&pods, &container, script);
    let present = sh(&pods, &container, "cat /sys/fs/cgroup/cgroup.controllers");
    assert_eq!(
        enabled.split_whitespace().collect::<Vec<_>>(),
        present.split_whitespace().collect::<Vec<_>>(),
        "enabled, of those that are present"
    );
    for controller in ["cpu", "memory", "pids"] {
        assert!(present.split_whitespace().any(|name| name == controller), "{present}");
    }
    let set = "cd /sys/fs/cgroup/other
        echo 17 >pids.max; echo 10485760 >memory.max; echo 50 >cpu.weight
        cat pids.max memory.max cpu.weight";
    let set = sh(&pods, &container, set);
    assert_eq!(set.split_whitespace().collect::<Vec<_>>(), ["17", "10485760", "50"]);
    // A kernel without PSI has no such files.
    if std::path::Path::new("/proc/pressure").exists() {
        sh(&pods, &container, "cat /sys/fs/cgroup/other/memory.pressure /sys/fs/cgroup/other/cpu.pressure");
    }
    // Frozen, a process stays where it is until it is thawed. Before, it has replaced the output of the call: else the
    // call would have no end.
    let frozen = "cd /sys/fs/cgroup/other
        sh -c 'while :; do echo x; sleep 0.01; done' >/tmp/ticks 2>&1 & pid=$!
        until [ -s /tmp/ticks ]; do sleep 0.1; done
        echo $pid >cgroup.procs; echo 1 >cgroup.freeze
        until grep -q 'frozen 1' cgroup.events; do :; done
        before=$(wc -c </tmp/ticks); sleep 1; [ $before = $(wc -c </tmp/ticks) ]
        echo 0 >cgroup.freeze
        until [ $(wc -c </tmp/ticks) -gt $before ]; do :; done
        echo 1 >cgroup.kill";
    sh(&pods, &container, frozen);
    // Outside of it nothing can be changed.
    assert_eq!(container.owner("pids.max").0, 0);
    assert_eq!(container.owner("memory.max").0, 0);
}

/// KEP-5474 asks whether a writable cgroup leads to processors that are another container's.
#[test]
fn a_writable_cgroup_reaches_no_processors_of_another_container() {
    let Some(node) = node_with_controllers(Runtime::Containerd, &["cpuset"]) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let pinned = |name: &str, number, cpus: &str| {
        let pod =
            pods.run_pod(&PodSpec::new(name).numbered(number).annotated("usernsd.io/cgroup", "writable"));
        let container = create(&pods, &pod, &ContainerSpec::sleeping(), |resources| {
            resources.cpuset_cpus = cpus.to_owned();
        });
        pods.start(&container);
        agent.wait_for_outcome(&container, "already_right");
        container
    };
    let container = pinned("pinned", 0, "0");
    // As the kubelet's static policy gives a processor to a container alone.
    let neighbour = pinned("neighbour", 1, "1");
    let script = "cd /sys/fs/cgroup; mkdir leaf inner
        for pid in $(cat cgroup.procs); do echo $pid >leaf/cgroup.procs || true; done
        echo +cpuset >cgroup.subtree_control
        cat cpuset.cpus.effective
        echo 0-1 >inner/cpuset.cpus && cat inner/cpuset.cpus.effective
        echo 0-1 >inner/cpuset.cpus.exclusive || true
        for wish in root isolated member; do echo $wish >inner/cpuset.cpus.partition || true; done
        echo $$ >inner/cgroup.procs
        sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status
        cat inner/cpuset.cpus.effective";
    // Whatever it writes, the processors are those of its parent.
    assert_eq!(sh(&pods, &container, script).split_whitespace().collect::<Vec<_>>(), ["0", "0", "0", "0"]);
    for file in ["cpuset.cpus", "cpuset.cpus.exclusive", "cpuset.cpus.partition"] {
        let output = pods.exec(&container, &["/bin/sh", "-c", &format!("echo 0-1 >/sys/fs/cgroup/{file}")]);
        assert_ne!(output.code, 0, "{file}");
    }
    // A partition takes processors away from its siblings: only a child's own, and it was refused.
    let script = "cd /sys/fs/cgroup/inner; echo 0 >cpuset.cpus
        for wish in root isolated; do
          echo $wish >cpuset.cpus.partition 2>/dev/null || true; cat cpuset.cpus.partition
        done";
    for state in sh(&pods, &container, script).lines() {
        assert!(state == "member" || state.contains("invalid"), "{state}");
    }
    let allowed = "cat /sys/fs/cgroup/cpuset.cpus.effective
        sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/1/status";
    assert_eq!(sh(&pods, &neighbour, allowed).split_whitespace().collect::<Vec<_>>(), ["1", "1"]);
    let root = std::fs::read_to_string(node.cgroup_root().join("cpuset.cpus.effective")).unwrap();
    assert_eq!(root.trim(), node.run(["sh", "-c", "echo 0-$(($(nproc --all) - 1))"]));
}
