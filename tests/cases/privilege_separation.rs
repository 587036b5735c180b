//! The two roles, agent and exporter: the privileges of each, and that hanging clients delay no container.

use std::fs;
use std::os::unix::net::UnixStream;

use usernsd_domain::privilege::{KEPT, OBSERVERS};

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Process};
use crate::pods::{ContainerSpec, PodSpec, Pods, wait_for};

const CONFIGURATION: &str = "stateSocket: {allowUids: [65532]}\n";
const EXPORTER: &str = "127.0.0.1:9565";

/// An exporter as in the manifests: not root, without capabilities.
fn exporter(node: &Node) -> Process {
    let user = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all"];
    node.spawn(user.into_iter().chain(["usernsd", "exporter", "--http", EXPORTER]))
}

fn get(node: &Node, address: &str, path: &str) -> String {
    let output = node.exec(["busybox", "wget", "-qO-", &format!("http://{address}{path}")]);
    String::from_utf8(output.stdout).unwrap()
}

/// A line of `/proc/PID/task/TID/status` for each thread.
fn of_threads(pid: i32, key: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let line = |text: String| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t").map(str::to_owned)).unwrap()
    };
    threads.map(|thread| line(fs::read_to_string(thread.unwrap().path().join("status")).unwrap())).collect()
}

fn kept() -> String {
    format!("{:016x}", KEPT.iter().map(|capability| 1_u64 << capability.number).sum::<u64>())
}

/// The observer of an agent or a launched plugin, found by its parent.
#[track_caller]
fn observer_of(parent: i32) -> i32 {
    let of_parent = format!("PPid:\t{parent}\n");
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_it = |pid: &i32| {
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        file("status").contains(&of_parent) && file("cmdline").contains("observe-processes")
    };
    pids.into_iter().find(is_it).unwrap()
}

/// Opens connections that never complete: a quarter sends nothing, a quarter half of a request's head, and
/// the others send large requests and do not read the answers.
fn hang(node: &Node, address: &str, count: usize) -> Process {
    let (host, port) = address.split_once(':').unwrap();
    let ask = "GET /api/v1/state HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n";
    let marker = format!("/run/hanging-{port}");
    let line = format!(
        "for i in $(seq {count}); do exec {{fd}}<>/dev/tcp/{host}/{port}; case $((i % 4)) in 0) ;; 1) printf 'GET /met' \
         >&$fd ;; *) printf '{ask}' >&$fd ;; esac; done; touch {marker}; sleep 1000"
    );
    let process = node.spawn(["bash", "-c", &line]);
    wait_for("the clients", || node.path(&marker).exists().then_some(()));
    process
}

#[test]
fn clients_that_hang_delay_no_container() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, CONFIGURATION);
    let _exporter = exporter(&node);
    wait_for("the exporter", || get(&node, EXPORTER, "/readyz").contains("ok").then_some(()));
    let _pages = [hang(&node, "127.0.0.1:9564", 84), hang(&node, EXPORTER, 84)];
    let state = node.socket("run/usernsd/usernsd.sock");
    let _readers: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(&state).unwrap()).collect();

    let pod = pods.run_pod(&PodSpec::new("meanwhile").privileged());
    for number in 0..10 {
        let name = format!("c{number}");
        let container = pods.run(&pod, &ContainerSpec::sleeping().privileged().named(&name));
        // Before its first instruction, not some time later.
        assert_eq!(container.owner("").0, container.root);
    }
    // The hanging clients are disconnected eventually, and the others are served.
    let fixed = "usernsd_fixes_total{action=\"chown_cgroup\"} 10\n";
    let served = |text: &str| text.contains(fixed) && text.contains("\nusernsd_nri_reconnects_total 0\n");
    wait_for("a scrape of the agent", || served(&agent.exposition()).then_some(()));
    wait_for("a scrape of the exporter", || served(&get(&node, EXPORTER, "/metrics")).then_some(()));
}

#[test]
fn neither_role_has_more_privileges_than_it_needs() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let agent = Agent::with(&node, CONFIGURATION);
    let exporter = exporter(&node);
    wait_for("the exporter", || get(&node, EXPORTER, "/metrics").contains("usernsd_nri_up 1").then_some(()));
    let everywhere = |pid: i32, key: &str, want: &str| {
        let found = of_threads(pid, key);
        assert!(found.iter().all(|value| value == want), "{key}: {found:?}");
    };
    let nothing = "0000000000000000";
    for set in ["CapPrm", "CapEff"] {
        everywhere(agent.pid(), set, &kept());
        everywhere(exporter.pid().as_raw(), set, nothing);
    }
    // Next to it runs the observer with the third capability, which can open nothing.
    let observer = observer_of(agent.pid());
    let ptrace = format!("{:016x}", 1_u64 << OBSERVERS[0].number);
    for (key, want) in [("CapPrm", &*ptrace), ("CapBnd", &ptrace), ("NoNewPrivs", "1"), ("Seccomp", "2")] {
        everywhere(observer, key, want);
    }
    // As root, the test may change its bounding set.
    everywhere(agent.pid(), "CapBnd", &kept());
    everywhere(exporter.pid().as_raw(), "CapBnd", nothing);
    for pid in [agent.pid(), exporter.pid().as_raw()] {
        everywhere(pid, "NoNewPrivs", "1");
        everywhere(pid, "Seccomp", "2");
        assert!(of_threads(pid, "Seccomp").len() > 1);
    }
}

/// The PID of a process in its own PID namespace.
#[cfg(target_arch = "x86_64")]
#[track_caller]
fn inner(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    line.split_whitespace().next_back().unwrap().to_owned()
}

/// Code in the agent cannot open the memory of any process for writing. Nor can the observer, which may
/// inspect any process.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_attacker_in_the_agent_cannot_write_the_memory_of_any_process() {
    use nix::libc::{O_RDWR, O_WRONLY};
    use nix::unistd::Pid;

    use crate::inject::Stopped;

    let Some(node) = node_with_binary(Options::default()) else { return };
    let agent = Agent::with(&node, CONFIGURATION);
    let free = node.spawn(["sleep", "1000"]);
    // A process of root without capabilities: as far as capabilities go, every process of root may trace it.
    let poor = node.spawn(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "sleep", "1000"]);
    let [free, poor] = [&free, &poor].map(|process| {
        let comm = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        wait_for("sleep", || Some(process.pid()).filter(|pid| comm(*pid).as_deref() == Some("sleep\n")))
    });
    let observer = observer_of(agent.pid());
    let runtime = node.run(["systemctl", "show", "containerd", "--value", "--property=MainPID"]);
    let victims = [runtime, inner(free.as_raw()), inner(poor.as_raw()), inner(observer)];
    let paths: Vec<String> = victims
        .iter()
        .flat_map(|pid| {
            [
                format!("/proc/{pid}/mem"),
                format!("/proc/{pid}/task/{pid}/mem"),
                format!("/proc/self/root/proc/{pid}/mem"),
                format!("/proc/thread-self/root/proc/{pid}/mem"),
                format!("/proc/{pid}/root/proc/{pid}/mem"),
            ]
        })
        .collect();
    let opened = |process: &Stopped| -> Vec<String> {
        let mut all = Vec::new();
        for path in &paths {
            let ways = process.opens(path, &[O_RDWR, O_WRONLY]);
            all.extend(ways.into_iter().map(|way| format!("{path}: {way}")));
        }
        all
    };
    // An unconfined process of root can open all of them, except for those of the stopped process, which are
    // its own. So the checks above can fail.
    let stopped = Stopped::attach(free);
    assert!(opened(&stopped).len() >= paths.len(), "{:?}", opened(&stopped));
    drop(stopped);
    for pid in [agent.pid(), observer] {
        let stopped = Stopped::attach(Pid::from_raw(pid));
        assert_eq!(opened(&stopped), Vec::<String>::new());
        let written = stopped.opens("/etc/hostname", &[O_RDWR, O_WRONLY]);
        assert_eq!(written, Vec::<String>::new());
    }
    // Both processes are still alive.
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("after").privileged());
    let container = pods.run(&pod, &ContainerSpec::sleeping().privileged());
    assert_eq!(container.owner("").0, container.root);
}

/// Code in the agent cannot open a key in /etc, or any other file there. It asks the reader for the files
/// that it needs.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_attacker_in_the_agent_cannot_open_a_key() {
    use nix::libc::O_RDONLY;
    use nix::unistd::Pid;

    use crate::inject::Stopped;

    let Some(node) = node_with_binary(Options::default()) else { return };
    node.write("/etc/subuid", "containers:200000:6553600\n");
    node.write("/etc/subgid", "containers:200000:6553600\n");
    node.write("/etc/kubernetes/pki/ca.key", "PRIVATE KEY");
    node.write("/etc/kubernetes/admin.conf", "kind: Config\n");
    let below_var = [
        "/var/lib/etcd/member/snap/db",
        "/var/lib/kubelet/pki/kubelet-client-current.pem",
        "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~secret/s/token",
        "/var/lib/rancher/k3s/server/token",
    ];
    below_var.iter().for_each(|path| node.write(path, "PRIVATE KEY"));
    node.write("/var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\nmaxPods: 110\n");
    let agent = Agent::with(&node, CONFIGURATION);
    let runtime = node.run(["systemctl", "show", "containerd", "--value", "--property=MainPID"]);
    let keys = ["/etc/kubernetes/pki/ca.key", "/etc/kubernetes/admin.conf", "/etc/shadow", "/etc/subuid"];
    let keys = [&keys[..], &below_var].concat();
    let ways = [
        "".to_owned(),
        "/proc/1/root".to_owned(),
        "/proc/self/root".to_owned(),
        format!("/proc/{runtime}/root"),
    ];
    let stopped = Stopped::attach(Pid::from_raw(agent.pid()));
    for key in keys {
        for way in &ways {
            assert_eq!(
                stopped.opens(&format!("{way}{key}"), &[O_RDONLY]),
                Vec::<String>::new(),
                "{way}{key}"
            );
        }
    }
    // The checks above can fail.
    assert!(!stopped.opens("/usr/bin/env", &[O_RDONLY]).is_empty());
    assert!(!stopped.opens("/proc/1/status", &[O_RDONLY]).is_empty());
    drop(stopped);
    // The reader returns a file on its list, also after a rename has replaced it.
    let ranges = || node.run(["usernsd", "map", "-o", "json"]);
    assert!(ranges().contains("200000"), "{}", ranges());
    for file in ["subuid", "subgid"] {
        node.write(&format!("/etc/{file}.new"), "containers:700000000:6553600\n");
        node.run(["mv", &format!("/etc/{file}.new"), &format!("/etc/{file}")]);
    }
    wait_for("the new range", || ranges().contains("700000000").then_some(()));
    assert!(!agent.log().contains("Permission denied") && !agent.log().contains("EACCES"), "{}", agent.log());
}

/// The DaemonSet's probe connects as root: other readers cannot take its place.
#[test]
fn root_gets_a_place_while_other_users_hold_all_of_theirs() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let _agent = Agent::with(&node, CONFIGURATION);
    let reader = "setpriv --reuid=65532 --regid=65532 --clear-groups socat -u UNIX-CONNECT:/run/usernsd/usernsd.sock -";
    let script = format!("for i in $(seq 40); do {reader} & done; touch /run/readers; wait");
    let _readers = node.spawn(["bash", "-c", &script]);
    wait_for("the readers", || node.path("/run/readers").exists().then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(1));
    for _ in 0..3 {
        let ps = node.exec(["usernsd", "ps"]);
        assert!(ps.status.success(), "{}", String::from_utf8_lossy(&ps.stderr));
    }
}

/// proc(5), `hidepid` and `gid`. Without its group, root that has no CAP_SYS_PTRACE sees no process of another user.
#[test]
fn a_proc_that_hides_processes_keeps_no_container_from_its_cgroup() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let together = [&KEPT[..], &OBSERVERS].concat();
    let together =
        format!("{:016x}", together.iter().map(|capability| 1_u64 << capability.number).sum::<u64>());
    for (name, options, capabilities) in [
        ("noaccess", "hidepid=noaccess,gid=0", kept()),
        ("invisible", "hidepid=invisible,gid=0", kept()),
        ("group", "hidepid=invisible,gid=27", together.clone()),
        ("ptraceable", "hidepid=ptraceable,gid=0", together),
    ] {
        node.run(["mount", "-o", &format!("remount,{options}"), "/proc"]);
        let agent = Agent::with(&node, CONFIGURATION);
        let pod = pods.run_pod(&PodSpec::new(name).privileged());
        let container = pods.run(&pod, &ContainerSpec::sleeping().privileged().named(name));
        assert_eq!(container.owner("").0, container.root, "{options}");
        let found = of_threads(agent.pid(), "CapEff");
        assert!(found.iter().all(|value| *value == capabilities), "{options}: {found:?}");
        let warns =
            agent.log().contains("/proc is mounted with hidepid= and gid=, or with hidepid=ptraceable");
        assert_eq!(warns, capabilities != kept(), "{options}: {}", agent.log());
        pods.remove_pod(&pod);
    }
}
