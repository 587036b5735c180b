//! The two roles side by side: what each may do, and that clients who hang delay no container.

use std::fs;
use std::os::unix::net::UnixStream;

use usernsd::domain::privilege::KEPT;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Process};
use crate::pods::{ContainerSpec, PodSpec, Pods, wait_for};

const CONFIGURATION: &str = "stateSocket: {allowUids: [65532]}\n";
const EXPORTER: &str = "127.0.0.1:9565";

/// An exporter as the manifests run it: no root, no capability.
fn exporter(node: &Node) -> Process {
    let user = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all"];
    node.spawn(user.into_iter().chain(["usernsd", "exporter", "--http", EXPORTER]))
}

fn get(node: &Node, address: &str, path: &str) -> String {
    let said = node.exec(["busybox", "wget", "-qO-", &format!("http://{address}{path}")]);
    String::from_utf8(said.stdout).unwrap()
}

/// A line of each thread's status.
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

/// Connections that are open and do not come to an end: a quarter says nothing, a quarter half a head,
/// the others ask for much and do not read it.
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
        // Before its first instruction, not some time after.
        assert_eq!(container.owner("").0, container.root);
    }
    // Those who hang are dropped in the end, and the others are served.
    let fixed = "usernsd_fixes_total{action=\"chown_cgroup\"} 10\n";
    let served = |text: &str| text.contains(fixed) && text.contains("\nusernsd_nri_reconnects_total 0\n");
    wait_for("a scrape of the agent", || served(&agent.exposition()).then_some(()));
    wait_for("a scrape of the exporter", || served(&get(&node, EXPORTER, "/metrics")).then_some(()));
}

#[test]
fn neither_role_may_do_more_than_it_needs() {
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
    // The test's root may change its bounding set.
    everywhere(agent.pid(), "CapBnd", &kept());
    everywhere(exporter.pid().as_raw(), "CapBnd", nothing);
    for pid in [agent.pid(), exporter.pid().as_raw()] {
        everywhere(pid, "NoNewPrivs", "1");
        everywhere(pid, "Seccomp", "2");
        assert!(of_threads(pid, "Seccomp").len() > 1);
    }
}

/// The probe of the DaemonSet is root's: whoever else reads takes no place from it.
#[test]
fn who_holds_all_places_keeps_root_from_none() {
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
