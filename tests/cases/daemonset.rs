//! The pod of `daemonset/`: with the permissions in its manifest it does the same work as an agent on the
//! node, and it needs each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::agent::{Agent, Start};
use crate::daemon_pod::{AS_IT_IS, DaemonPod, Variant, in_the_pod, node};
use crate::faults;
use crate::node::{Node, Options, Runtime};
use crate::ownership;
use crate::pods::{ContainerSpec, PodSpec, Pods, wait_for};
use crate::service::privileged_systemd;
use crate::storm;
use usernsd_domain::crio::CrioVersion;

/// A case that other modules run with an agent on the node.
fn with_the_pod(case: fn(&Node, Start)) {
    with_the_pod_on(Runtime::Containerd, case);
}

fn with_the_pod_on(runtime: Runtime, case: fn(&Node, Start)) {
    if let Some(node) = node(Options { runtime, ..Options::default() }) {
        case(&node, in_the_pod);
    }
}

#[test]
fn systemd_runs_with_the_agent_in_a_pod() {
    with_the_pod(ownership::systemd_runs);
}

#[test]
fn the_pod_is_before_the_first_instruction_of_200_annotated_pods() {
    with_the_pod(storm::before_the_first_instruction_of_200_annotated_pods);
}

#[test]
fn the_pod_is_before_the_first_instruction_of_200_privileged_pods() {
    with_the_pod(storm::before_the_first_instruction_of_200_privileged_pods);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn systemd_runs_with_the_agent_in_a_pod_on_crio() {
    with_the_pod_on(Runtime::Crio, ownership::systemd_runs_privileged);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn the_pod_is_before_the_first_instruction_on_crio() {
    with_the_pod_on(Runtime::Crio, storm::before_the_first_instruction_on_crio);
}

#[test]
fn containers_become_right_if_the_pod_is_killed_in_a_storm() {
    with_the_pod(faults::killed);
}

#[test]
fn the_pod_serves_containers_after_the_runtime_restarts() {
    with_the_pod(faults::runtime_restarts);
}

#[test]
fn the_pod_serves_containers_after_dbus_restarts() {
    with_the_pod(faults::bus_restarts);
}

#[test]
fn the_pod_serves_containers_if_systemd_is_re_executed_in_a_storm() {
    with_the_pod(faults::systemd_is_re_executed);
}

/// The lines of `/proc/PID/NAME` for a container's first process.
fn proc(node: &Node, container: &str, name: &str) -> Vec<String> {
    let pid = DaemonPod.pid(node, container);
    node.run(["cat", &format!("/proc/{pid}/{name}")]).lines().map(str::to_owned).collect()
}

/// Fields of `/proc/PID/status`.
#[track_caller]
fn status(node: &Node, container: &str, field: &str) -> String {
    let lines = proc(node, container, "status");
    let value = lines.iter().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap().split_whitespace().next().unwrap().to_owned()
}

/// The agent's and the exporter's mounts below a directory: mount point, and whether it is writable.
fn mounts(node: &Node, container: &str, below: &str) -> BTreeSet<(String, bool)> {
    let lines = proc(node, container, "mountinfo");
    let fields = lines.iter().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields[4].starts_with(below))
        .map(|fields| (fields[4].to_owned(), fields[5].split(',').any(|option| option == "rw")))
        .collect()
}

#[test]
fn the_pod_has_only_what_is_declared() {
    let Some(node) = node(Options::default()) else { return };
    let agent = in_the_pod(&node);
    // CAP_CHOWN 0, CAP_KILL 5. CAP_SYS_PTRACE (19) is held by the observer, which the agent starts.
    for (container, capabilities, bounding, user) in [
        ("agent", "0000000000000021", "0000000000080021", "0"),
        ("exporter", "0000000000000000", "0000000000000000", "60950"),
    ] {
        for (set, want) in [("CapEff", capabilities), ("CapPrm", capabilities), ("CapBnd", bounding)] {
            assert_eq!(status(&node, container, set), want, "{container} {set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(status(&node, container, set), "0000000000000000", "{container} {set}");
        }
        assert_eq!(status(&node, container, "Uid"), user);
        assert_eq!(status(&node, container, "NoNewPrivs"), "1");
        // The container's filter, and the process's own, which permits no network sockets in the agent
        // (tests/cases/roles.rs).
        assert!(status(&node, container, "Seccomp_filters").parse::<u32>().unwrap() > 1, "{container}");
        // The cgroup and network namespaces are its own; the PID namespace is the host's.
        let namespace = |pid: &str, name: &str| node.run(["readlink", &format!("/proc/{pid}/ns/{name}")]);
        let pid = DaemonPod.pid(&node, container);
        for (name, shared) in
            [("cgroup", false), ("net", false), ("mnt", false), ("pid", true), ("user", true)]
        {
            assert_eq!(namespace(&pid, name) == namespace("1", name), shared, "{container}: {name}");
        }
        assert!(!mounts(&node, container, "/").contains(&("/".to_owned(), true)), "{container}");
    }
    let place = |(name, writable): (&str, bool)| (format!("/host/{name}"), writable);
    let declared = [
        ("proc", false),
        ("sys/fs/cgroup", true),
        ("sys/kernel/cgroup", false),
        ("sys/kernel/security", false),
        ("etc", false),
        ("var/lib/kubelet/pods", false),
        ("run/dbus", false),
        ("run/nri", false),
        ("run/usernsd-plugin", false),
        ("run/containerd", false),
    ];
    let mut seen = mounts(&node, "agent", "/host/");
    // Mounts of containers below it, and the mounts of /proc.
    seen.retain(|(place, _)| declared.iter().any(|(name, _)| *place == format!("/host/{name}")));
    assert_eq!(seen, declared.map(place).into());
    assert_eq!(mounts(&node, "exporter", "/host"), BTreeSet::new());
    assert!(mounts(&node, "exporter", "/run/usernsd").contains(&("/run/usernsd".to_owned(), false)));

    // Nothing of another runtime is made on the node.
    assert!(!node.path("run/crio").exists());

    // The init container has finished.
    assert!(node.path("etc/nri/conf.d/90-usernsd.conf").exists());
    // The requests of the probes.
    agent.get("/readyz");
    agent.get("/healthz");
    assert!(agent.is_connected("nri") && agent.is_connected("cri"));
    assert!(node.run(["podman", "healthcheck", "run", "usernsd-pod-agent"]).is_empty());
}

#[test]
fn the_exporter_can_do_nothing_to_the_host() {
    let Some(node) = node(Options::default()) else { return };
    DaemonPod::play(&node, Variant { busybox: true, ..AS_IT_IS });
    let inside = |script: &str| DaemonPod.script(&node, "exporter", script);
    wait_for("the state socket", || inside("/busybox ls /run/usernsd").contains(".sock").then_some(()));

    // The only socket is the agent's, which accepts fixed requests only.
    let sockets = inside("/busybox find / -path /proc -prune -o -type s -print");
    assert_eq!(sockets.lines().collect::<Vec<_>>(), ["/run/usernsd/usernsd.sock"], "{sockets}");
    // Files: its own mounts, and the host's by way of /proc.
    for file in ["/x", "/usernsd", "/etc/usernsd/x", "/run/usernsd/x", "/sys/fs/cgroup/x", "/proc/1/root/x"] {
        let output = inside(&format!("echo x >{file}; echo $?"));
        assert!(output.ends_with("\n1"), "{file}: {output}");
        assert!(
            output.contains("Read-only file system") || output.contains("ermission denied"),
            "{file}: {output}"
        );
    }
    for file in ["/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/proc/sys/kernel/core_pattern"] {
        let output = inside(&format!("echo 0 >{file}; echo $?"));
        assert!(output.ends_with("\n1"), "{file}: {output}");
    }
    let output =
        inside("/busybox cat /proc/1/root /proc/1/environ; /busybox rm /run/usernsd/usernsd.sock; true");
    assert_eq!(output.matches("ermission denied").count(), 2, "{output}");
    assert!(output.contains("Read-only file system"), "{output}");
    // Processes: systemd, the runtime, the agent.
    let runtime = node.run(["systemctl", "show", "containerd", "--value", "--property=MainPID"]);
    for pid in ["1", &runtime, &DaemonPod.pid(&node, "agent")] {
        let output = inside(&format!("kill -0 {pid}; kill -9 {pid}; echo $?"));
        assert_eq!(output.matches("ermitted").count(), 2, "{pid}: {output}");
    }
    // Namespaces and devices of the host.
    for command in ["nsenter -t 1 -m /busybox true", "chroot /proc/1/root", "mknod /dev/shm/x b 8 0"] {
        let output = inside(&format!("/busybox {command}; echo $?"));
        assert!(
            output.contains("ermission denied") || output.contains("not permitted"),
            "{command}: {output}"
        );
        assert!(!output.ends_with("\n0"), "{command}: {output}");
    }
    // The same calls succeed where they are permitted, so the checks above can fail.
    assert_eq!(node.run(["sh", "-c", "kill -0 1; echo $?"]), "0");
    let inside = |script: &str| DaemonPod.script(&node, "agent", script);
    assert!(inside("/busybox find /host/run -type s").contains("/host/run/containerd/containerd.sock"));
}

/// Code in the processes themselves and not in other processes of their containers, so that their own
/// filters apply, in each thread.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_attacker_in_a_process_can_do_no_more_than_the_process() {
    use nix::libc::{
        AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, EAFNOSUPPORT, ENOSYS, EPERM, F_SETOWN,
        RLIMIT_NOFILE, SIGKILL, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SYS_bpf, SYS_clone3, SYS_close,
        SYS_execve, SYS_fcntl, SYS_fork, SYS_init_module, SYS_io_uring_setup, SYS_ioctl, SYS_kill, SYS_mount,
        SYS_pidfd_open, SYS_pidfd_send_signal, SYS_prlimit64, SYS_ptrace, SYS_setns, SYS_setuid, SYS_socket,
        SYS_tgkill, SYS_unshare,
    };

    use crate::inject::Stopped;

    /// `asm-generic/sockios.h`
    const FIOSETOWN: i64 = 0x8901;

    let Some(node) = node(Options::default()) else { return };
    let agent = in_the_pod(&node);
    let network = [(AF_INET, SOCK_STREAM), (AF_INET6, SOCK_DGRAM)];
    let kernel = [(AF_NETLINK, SOCK_RAW), (AF_PACKET, SOCK_RAW)];
    let socket = |process: &Stopped, (family, kind): (i32, i32)| {
        let answers = process.call(SYS_socket, [family.into(), kind.into(), 0]);
        for made in answers.iter().filter(|answer| **answer >= 0) {
            process.call(SYS_close, [*made, 0, 0]);
        }
        answers
    };
    #[track_caller]
    fn all_are(answers: &[i64], errno: i32) {
        assert!(answers.iter().all(|answer| *answer == -i64::from(errno)), "{answers:?}");
    }
    #[track_caller]
    fn all_work(answers: &[i64]) {
        assert!(answers.iter().all(|answer| *answer >= 0), "{answers:?}");
    }

    // A process that is not confined can make all of these calls, so the checks above can fail.
    let free = node.spawn(["sleep", "1000"]);
    let comm = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let pid = wait_for("sleep", || Some(free.pid()).filter(|pid| comm(*pid).as_deref() == Some("sleep\n")));
    let stopped = Stopped::attach(pid);
    for family in network.iter().chain(&kernel) {
        all_work(&socket(&stopped, *family));
    }
    // Calls that name another process: its limits, a signal, and who gets a descriptor's signals.
    let on_another = |process: &Stopped, pid: i64| {
        let mut answers = process.call(SYS_prlimit64, [pid, RLIMIT_NOFILE.into(), 0]);
        answers.extend(process.call(SYS_tgkill, [pid, pid, 0]));
        for fd in process.call(SYS_socket, [AF_UNIX.into(), SOCK_STREAM.into(), 0]) {
            answers.extend(process.call(SYS_fcntl, [fd, F_SETOWN.into(), pid]));
            answers.extend(process.call(SYS_ioctl, [fd, FIOSETOWN, 0]));
            process.call(SYS_close, [fd, 0, 0]);
        }
        answers
    };
    let answers = on_another(&stopped, 1);
    assert!(!answers.contains(&-i64::from(ENOSYS)), "{answers:?}");
    drop(stopped);

    for (container, families, refused) in
        [("agent", &[][..], [&network[..], &kernel].concat()), ("exporter", &network, kernel.to_vec())]
    {
        let process = Stopped::on(&node, &DaemonPod.pid(&node, container));
        for family in refused {
            all_are(&socket(&process, family), EAFNOSUPPORT);
        }
        for family in families.iter().chain(&[(AF_UNIX, SOCK_STREAM)]) {
            all_work(&socket(&process, *family));
        }
        for call in [
            SYS_bpf,
            SYS_clone3,
            SYS_execve,
            SYS_fork,
            SYS_init_module,
            SYS_io_uring_setup,
            SYS_kill,
            SYS_mount,
            SYS_ptrace,
            SYS_setns,
            SYS_setuid,
            SYS_unshare,
        ] {
            all_are(&process.call(call, [0, 0, 0]), ENOSYS);
        }
        all_are(&on_another(&process, 1), ENOSYS);
        if container == "exporter" {
            // The only remaining way to send a signal to a process fails as well.
            for pid in [1, DaemonPod.pid(&node, "agent").parse().unwrap()] {
                let opened = process.call(SYS_pidfd_open, [pid, 0, 0]);
                all_work(&opened);
                for pidfd in opened {
                    all_are(&process.call(SYS_pidfd_send_signal, [pidfd, SIGKILL.into(), 0]), EPERM);
                    process.call(SYS_close, [pidfd, 0, 0]);
                }
            }
        }
    }
    // Both processes continue.
    assert!(agent.is_connected("nri"));
    agent.get("/readyz");
}

/// The resource usage of a container's process so far: peak resident memory in KiB, and processor time in
/// milliseconds.
fn used(node: &Node, container: &str) -> (u64, u64) {
    let stat = proc(node, container, "stat").concat();
    // utime and stime in hundredths of a second (proc_pid_stat(5)); the process's name may contain blanks.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    (status(node, container, "VmHWM").parse().unwrap(), ticks * 10)
}

#[test]
fn the_pod_stays_within_its_requests() {
    let Some(node) = node(Options::default()) else { return };
    let agent = in_the_pod(&node);
    let containers = ["agent", "exporter"];
    let before = containers.map(|container| used(&node, container));
    let pods = Pods::connect(&node);
    let (pod, _) = storm::privileged();
    let staying = ContainerSpec::sleeping().privileged();
    let storm = storm::Storm { pod, container: staying, pods: 10, per_pod: 5 };
    let sandboxes = storm.run_pods(&pods);
    let (made, took) = storm.run(&pods, &sandboxes);
    assert!(made.iter().all(|(_, started)| started.is_ok()));
    for (container, _) in &made {
        assert_eq!(container.owner("").0, container.root);
    }
    // A page with 50 containers, requested as by a browser and by Prometheus.
    for _ in 0..10 {
        for path in ["/", "/metrics", "/api/v1/state"] {
            agent.get(path);
        }
    }
    println!("{} containers in {took:?}", made.len());
    let limits = DaemonPod::memory_limits(&node);
    for (container, before) in containers.into_iter().zip(before) {
        let after = used(&node, container);
        println!("{container}: resident at most {} KiB, then {} KiB", before.0, after.0);
        println!("{container}: {} ms, and {} ms more", before.1, after.1 - before.1);
        let limit = limits[container];
        assert!(after.0 * 2 <= limit, "{container}: {} KiB are more than half of {limit} KiB", after.0);
    }
}

fn without(container: &'static str, capability: &'static str) -> Variant {
    Variant { without: Some((container, capability)), ..AS_IT_IS }
}

#[test]
fn the_agent_needs_chown() {
    let Some(node) = node(Options::default()) else { return };
    DaemonPod::play(&node, without("agent", "CHOWN"));
    wait_for("NRI", || DaemonPod.log(&node, "agent").contains("joined the runtime over NRI").then_some(()));
    assert_eq!(privileged_systemd(&node), Err(255));
}

#[test]
fn the_agent_needs_sys_ptrace() {
    let Some(node) = node(Options::default()) else { return };
    DaemonPod::try_play(&node, without("agent", "SYS_PTRACE"));
    // The agent does not start, which does no harm.
    wait_for("its end", || DaemonPod.log(&node, "agent").contains("CAP_SYS_PTRACE").then_some(()));
    assert_eq!(privileged_systemd(&node), Err(255));
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn the_agent_needs_kill_if_the_runtime_ignores_a_refusal() {
    for (variant, runs) in [(AS_IT_IS, false), (without("agent", "KILL"), true)] {
        let Some(node) = node(Options { runtime: Runtime::Crio, ..Options::default() }) else { return };
        // Many versions of CRI-O forget the ID mappings of their pods when they restart (cri-o#10014), and
        // continue when a start is refused. Other versions have nothing to refuse.
        let forgets = node.crio_version().forgets_mappings_on_restart();
        let pods = Pods::connect(&node);
        let pod = pods.run_pod(&PodSpec::new("guarded"));
        node.restart_unit("crio.service");
        pods.wait_until_it_answers();
        let lost = pods.create(&pod, &ContainerSpec::script("echo ran; sleep 1000").user(1000));
        DaemonPod::play(&node, variant);
        wait_for("NRI", || {
            DaemonPod.log(&node, "agent").contains("joined the runtime over NRI").then_some(())
        });
        // The log may have lines of runc, too.
        let has_run = || lost.log().lines().any(|line| line == "ran");
        let ran = pods.try_start(&lost).is_ok()
            && wait_for("the container", || match (pods.is_running(&lost), has_run()) {
                (_, true) => Some(true),
                (false, false) => Some(false),
                (true, false) => None,
            });
        assert_eq!(ran, runs || !forgets, "{variant:?}");
    }
}

/// Creates the user `kubelet`, which replaces the files with passwords, too.
const KUBELET: &str = "bootstrap: {kubelet: {user: create, maxPods: 110}}\n";

/// Whether bootstrap succeeded, according to the agent, which runs in either case.
#[track_caller]
fn wait_for_result(node: &Node, done: bool) {
    let agent = Agent { node, home: crate::agent::Home::Pod(DaemonPod) };
    wait_for("the agent in its place", || {
        let ready = ["podman", "exec", "usernsd-pod-agent", "/usernsd", "ps", "--ready"];
        node.exec(ready).status.success().then_some(())
    });
    let sample = "usernsd_check_passed{check=\"bootstrap_result\",severity=\"error\"} ";
    let sample = format!("{sample}{}\n", u8::from(done));
    wait_for(&sample, || agent.get("/metrics").contains(&sample).then_some(()));
}

#[test]
fn a_bootstrap_that_refuses_leaves_an_agent_that_reports_it() {
    let Some(node) = node(Options::default()) else { return };
    // No IDs are left for a range.
    for file in ["/etc/subuid", "/etc/subgid"] {
        node.write(file, "other:65536:4294836224\n");
    }
    DaemonPod::play(&node, Variant { config: KUBELET, ..AS_IT_IS });
    wait_for_result(&node, false);
    let failure = fs::read_to_string(node.path("var/lib/usernsd/bootstrap-failure.json")).unwrap();
    assert!(failure.contains("no range was changed"), "{failure}");
    let output: Value = serde_json::from_str(&DaemonPod.exec(&node, &["ps", "-o", "json"])).unwrap();
    assert!(output.is_array());
    let agent = Agent { node: &node, home: crate::agent::Home::Pod(DaemonPod) };
    // The exporter receives the state a moment later than the metrics.
    let check = wait_for("the check in the state", || {
        let state: Value = serde_json::from_str(&agent.get("/api/v1/state")).unwrap();
        let checks = state["checks"].as_array().cloned().unwrap_or_default();
        checks.into_iter().find(|check| check["id"] == "bootstrap_result")
    });
    assert!(check.to_string().contains("usernsd bootstrap could not make this node ready"), "{check:#}");
    // Guarding and delegation work.
    assert_eq!(privileged_systemd(&node), Ok("running".to_owned()));

    // The next run succeeds, and the failure is no longer reported.
    node.run(["podman", "pod", "rm", "--force", "--time=2", "--all"]);
    for file in ["/etc/subuid", "/etc/subgid"] {
        node.write(file, "");
    }
    DaemonPod::play(&node, Variant { config: KUBELET, ..AS_IT_IS });
    wait_for_result(&node, true);
    assert!(!node.path("var/lib/usernsd/bootstrap-failure.json").exists());
}

#[test]
fn bootstrap_needs_dac_override_if_shadow_has_mode_0() {
    for (variant, done) in [(AS_IT_IS, true), (without("bootstrap", "DAC_OVERRIDE"), false)] {
        let Some(node) = node(Options::default()) else { return };
        node.run(["chmod", "0", "/etc/shadow", "/etc/gshadow"]);
        let output = DaemonPod::try_play(&node, Variant { config: KUBELET, ..variant });
        let log = DaemonPod.log(&node, "bootstrap");
        assert!(output.status.success(), "{variant:?}: {log}");
        wait_for_result(&node, done);
        assert_eq!(fs::read_to_string(node.path("etc/passwd")).unwrap().contains("kubelet"), done, "{log}");
        assert_eq!(node.run(["stat", "-c", "%a", "/etc/shadow"]), "0");
    }
}

#[test]
fn bootstrap_needs_chown_if_shadow_has_a_group() {
    for (variant, done) in [(AS_IT_IS, true), (without("bootstrap", "CHOWN"), false)] {
        let Some(node) = node(Options::default()) else { return };
        let output = DaemonPod::try_play(&node, Variant { config: KUBELET, ..variant });
        let log = DaemonPod.log(&node, "bootstrap");
        assert!(output.status.success(), "{variant:?}: {log}");
        wait_for_result(&node, done);
        assert_eq!(fs::read_to_string(node.path("etc/passwd")).unwrap().contains("kubelet"), done, "{log}");
        assert_eq!(node.run(["stat", "-c", "%U:%G %a", "/etc/shadow"]), "root:shadow 640");
    }
}

/// The names of the init container's findings, without those about this machine's kernel.
fn found_by_bootstrap(node: &Node) -> Vec<String> {
    let log = DaemonPod.log(node, "bootstrap");
    assert!(log.contains("/etc/nri/conf.d/90-usernsd.conf: "), "{log}");
    let names = log.lines().filter_map(|line| line.strip_suffix(']')?.rsplit_once('[')).map(|(_, name)| name);
    names.filter(|name| !["nsdelegate", "psi", "idmapped-mounts"].contains(name)).map(str::to_owned).collect()
}

/// A configuration without questions: the kubelet's user is disabled.
const KNOWN: [&str; 1] = ["kubelet-default-pool"];

#[test]
fn bootstrap_finds_all_facts_about_the_node() {
    let Some(node) = node(Options::default()) else { return };
    DaemonPod::play(&node, AS_IT_IS);
    assert_eq!(found_by_bootstrap(&node), KNOWN, "{}", DaemonPod.log(&node, "bootstrap"));
    assert!(!node.path("etc/containerd/conf.d/99-usernsd.toml").exists(), "this containerd has NRI");
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn bootstrap_prepares_crio() {
    let Some(node) = node(Options { runtime: Runtime::Crio, ..Options::default() }) else { return };
    let hook = "bootstrap: {hook: {install: always}}\n";
    DaemonPod::play(&node, Variant { config: hook, ..AS_IT_IS });
    let mut found = found_by_bootstrap(&node);
    // Since 1.35 the drop-in contains annotations with which older versions do not start.
    let has_new_names = node.crio_version() >= CrioVersion::new(1, 35, 0);
    assert_eq!(found.iter().any(|id| id == "crio-downgrade"), has_new_names, "{found:?}");
    found.retain(|id| id != "crio-downgrade");
    assert_eq!(found, KNOWN, "{}", DaemonPod.log(&node, "bootstrap"));
    // The agent reports that CRI-O has not read it.
    let agent = Agent { node: &node, home: crate::agent::Home::Pod(DaemonPod) };
    wait_for("the agent", || agent.log().contains("\"ready\"").then_some(()));
    // There is no sample before the first survey.
    let pending = "usernsd_config_restart_pending{unit=\"crio\"} 1\n";
    wait_for("a check of the files", || agent.get("/metrics").contains(pending).then_some(()));
    // CRI-O starts with the drop-in, and containers with the hook alone.
    node.restart_unit("crio.service");
    let pods = Pods::connect(&node);
    pods.wait_until_it_answers();
    let effective = node.run(["crio", "config"]);
    assert!(effective.contains("cgroup2-mount-hierarchy-rw"), "{effective}");
    agent.kill();
    assert_eq!(privileged_systemd(&node), Ok("running".to_owned()));
}

/// The agent's checks from within its container have the same results as on the node itself: files that are
/// not mounted are not reported as missing.
#[test]
fn the_agent_in_the_pod_judges_the_node_as_doctor_does() {
    for runtime in [Runtime::Containerd, Runtime::Crio] {
        let Some(node) = node(Options { runtime, ..Options::default() }) else { continue };
        node.run(["mkdir", "-p", "/var/lib/kubelet/plugins", "/var/lib/kubelet/pods"]);
        DaemonPod::play(&node, Variant { config: KUBELET, ..AS_IT_IS });
        DaemonPod.wait_for_exporter(&node);
        let agent = Agent { node: &node, home: crate::agent::Home::Pod(DaemonPod) };
        let state = wait_for("the first checks", || {
            let state: Value = serde_json::from_str(&agent.get("/api/v1/state")).unwrap();
            let checks = state["checks"].as_array()?;
            let has = |check: &str| checks.iter().any(|one| one["id"] == check);
            // Pods are judged with the next resync.
            (has("cri_reachable") && has("pod_isolation")).then_some(state)
        });
        let outcomes = |checks: &Value| -> BTreeMap<String, String> {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            checks.as_array().unwrap().iter().map(|one| (text(&one["id"]), text(&one["outcome"]))).collect()
        };
        let theirs = outcomes(&state["checks"]);
        // The pod's configuration, as far as it determines what bootstrap writes.
        node.write("/tmp/usernsd.yaml", format!("{KUBELET}log: {{format: json}}\n"));
        let doctor =
            ["/srv/image/usernsd", "doctor", "--no-agent", "-o", "json", "--config=/tmp/usernsd.yaml"];
        let output: Value = serde_json::from_slice(&node.exec(doctor).stdout).unwrap();
        // A command in the pod judges the node, not the container's own root, without an option that names
        // it.
        let inside =
            ["podman", "exec", "usernsd-pod-agent", "/usernsd", "doctor", "--no-agent", "-o", "json"];
        let inside: Value = serde_json::from_slice(&node.exec(inside).stdout).unwrap();
        for check in ["cgroup_v2", "subid_grammar", "subid_kubelet", "kubelet_getsubids", "runtime_version"] {
            let of = |document: &Value| {
                document["checks"].as_array().unwrap().iter().find(|one| one["id"] == check).cloned().unwrap()
            };
            assert_eq!(of(&inside), of(&output), "{runtime:?}");
        }
        let mut differing = Vec::new();
        for (id, outcome) in outcomes(&output["checks"]) {
            let in_the_pod = theirs.get(&id).map_or("nothing", String::as_str);
            if in_the_pod != outcome {
                differing.push(format!("{id}: {outcome}, in the pod {in_the_pod}"));
            }
        }
        // The agent starts no programs and makes no mounts, and the kubelet's directory is not its own.
        // Without an agent there is no result about joining.
        let may_differ =
            ["oci_runtime", "idmapped_mounts", "kubelet_records", "kubelet_config", "kubelet_gate"];
        differing
            .retain(|line| !(may_differ.iter().any(|id| line.starts_with(id)) && line.ends_with(" skip")));
        let of_the_agent = ["nri_enabled: skip, in the pod pass", "nri_joined: skip, in the pod pass"];
        differing.retain(|line| !of_the_agent.contains(&line.as_str()));
        assert_eq!(differing, Vec::<String>::new(), "{runtime:?}: {output:#}");
    }
}

/// The files that bootstrap wrote are removed before usernsd is.
#[test]
fn undo_removes_what_bootstrap_wrote() {
    let Some(node) = node(Options::default()) else { return };
    let lines = || fs::read_to_string(node.path("etc/subuid")).unwrap_or_default();
    let before = lines();
    DaemonPod::play(&node, Variant { config: KUBELET, ..AS_IT_IS });
    assert_ne!(lines(), before);
    node.run(["podman", "pod", "rm", "--force", "--time=2", "--all"]);
    DaemonPod::play(&node, Variant { overlay: "undo", ..AS_IT_IS });
    assert_eq!(lines(), before, "{}", DaemonPod.log(&node, "bootstrap"));
    // The agent stays, in observe-only mode.
    wait_for("the agent", || DaemonPod.log(&node, "agent").contains("\"ready\"").then_some(()));
    assert!(!DaemonPod.log(&node, "agent").contains("NRI"), "{}", DaemonPod.log(&node, "agent"));
}

#[test]
fn the_observe_only_pod_writes_nothing() {
    let Some(node) = node(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let before = node.run([
        "find",
        "/etc/subuid",
        "/etc/subgid",
        "/etc/passwd",
        "-newermt",
        "@0",
        "-printf",
        "%p %T@\n",
    ]);
    DaemonPod::play(&node, Variant { overlay: "observe-only", ..AS_IT_IS });
    wait_for("the agent", || DaemonPod.log(&node, "agent").contains("\"ready\"").then_some(()));
    assert_eq!(status(&node, "agent", "CapBnd"), "0000000000080000");
    let agent = Agent { node: &node, home: crate::agent::Home::Pod(DaemonPod) };
    let pod = pods.run_pod(&PodSpec::new("p").privileged());
    let container = pods.run(&pod, &ContainerSpec::sleeping().privileged());
    agent.wait_for_outcome(&container, "observe_only");
    assert_eq!(container.owner(""), (0, 0));
    assert_eq!(fs::read_to_string(container.pod_cgroup.join("cgroup.max.depth")).unwrap(), "max\n");
    let after = node.run([
        "find",
        "/etc/subuid",
        "/etc/subgid",
        "/etc/passwd",
        "-newermt",
        "@0",
        "-printf",
        "%p %T@\n",
    ]);
    assert_eq!(before, after);
    assert!(!node.path("run/crio").exists(), "a directory was made for a runtime that is not there");
    // Mounts below /run that containers made are ignored.
    for place in [
        "proc",
        "sys/fs/cgroup",
        "sys/kernel/cgroup",
        "sys/kernel/security",
        "etc",
        "run",
        "var/lib/kubelet/pods",
    ] {
        let mount = (format!("/host/{place}"), false);
        assert!(mounts(&node, "agent", &mount.0).contains(&mount), "{place}");
    }
}

/// A role's own system calls, from strace's lines; calls that were interrupted by another thread's are
/// joined again.
fn own_calls(trace: &str, role: &str) -> Vec<String> {
    let program = format!("execve(\"/usernsd\", [\"/usernsd\", \"{role}\"");
    let mut own: BTreeSet<&str> = BTreeSet::new();
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with(&program) {
            own.insert(pid);
        }
        if !own.contains(pid) {
            continue;
        }
        if let Some(start) = call.strip_suffix("<unfinished ...>") {
            begun.insert(pid, start);
            continue;
        }
        let start = if call.starts_with("<... ") { begun.remove(pid) } else { None };
        let whole = format!("{pid} {}{call}", start.unwrap_or_default());
        let is_clone = start.unwrap_or(call).starts_with("clone");
        if let Some((_, thread)) = call.rsplit_once(" = ")
            && is_clone
        {
            own.insert(thread.split(' ').next().unwrap());
        }
        found.push(whole);
    }
    found
}

#[test]
fn no_system_call_of_the_pod_is_denied() {
    for (variant, is_denied) in [(AS_IT_IS, false), (without("agent", "CHOWN"), true)] {
        let Some(node) = node(Options::default()) else { return };
        DaemonPod::prepare(&node, variant);
        let strace = ["strace", "-f", "-qq", "-s", "200", "-o", "/run/usernsd-test/trace"];
        let _podman = node.spawn(strace.iter().chain(&DaemonPod::command()));
        wait_for("NRI", || {
            DaemonPod.log(&node, "agent").contains("joined the runtime over NRI").then_some(())
        });
        assert_eq!(privileged_systemd(&node).is_err(), is_denied);
        let agent = Agent { node: &node, home: crate::agent::Home::Pod(DaemonPod) };
        DaemonPod.wait_for_exporter(&node);
        for path in ["/", "/metrics", "/healthz", "/readyz", "/api/v1/state"] {
            agent.get(path);
        }
        let trace = fs::read(node.path("run/usernsd-test/trace")).unwrap();
        let trace = String::from_utf8_lossy(&trace);
        let is_denial = |call: &&String| {
            ["EPERM", "EACCES", "ENOSYS", "EROFS"].iter().any(|errno| call.contains(&format!("= -1 {errno}")))
        };
        // The resources that each of them needs, and those that it does not.
        for (role, call, harmless) in [
            // Whether file systems take ID mappings is not tried in a container (docs/install-kubernetes.md).
            ("bootstrap", "renameat(", &["clone3", "unshare", "\"0 65536 65536"][..]),
            // A filter cannot examine the flags of clone3(2), so glibc falls back to clone(2). The agent may
            // open nothing in /etc, and asks its reader instead.
            ("agent", "fchownat(", &["clone3", ", \"etc/"]),
            ("exporter", "accept4(", &["clone3"]),
        ] {
            let calls = own_calls(&trace, role);
            assert!(
                calls.iter().any(|line| line.contains(call)),
                "{role}: no {call} in {} calls",
                calls.len()
            );
            let denied: Vec<_> = calls
                .iter()
                .filter(is_denial)
                .filter(|line| !harmless.iter().any(|name| line.contains(name)))
                .collect();
            assert_eq!(denied.is_empty(), !is_denied || role != "agent", "{role}: {denied:#?}");
        }
    }
}
