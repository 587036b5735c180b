//! Three nodes, one of which is broken in each way for which there is an alert: a real Prometheus scrapes the
//! agents through the pods' network, and exactly the right alerts name the right node.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::alerts::rules::plain;
use crate::alerts::server::{self, Prometheus};
use crate::alerts::{catalogue, tools};
use crate::cri::{ContainerSpec, PodSpec, Pods, UserNamespace};
use crate::harness::{Cluster, Worker, is_ready, wait_for};
use crate::node::Options;
use crate::presence::{asking, plugin_runs};

/// Alert and node.
type Firing = BTreeSet<(String, String)>;

/// The range of the kubelet on the node that breaks, and how many pods that is.
const RANGE: (u32, u32) = (16_777_216, 16);
/// What the node's own user may use, and a user whose range overlaps with it.
const OVERLAP: &str = "alice:300000:65536\nbob:300000:65536\n";
/// How long a change may take until Prometheus has an alert of it, or none any more.
const PATIENCE: Duration = Duration::from_secs(150);
/// The windows of the rules, for which nobody waits here.
const WINDOW: &str = "20s";

/// Alerts that this story does not cause, and why.
const NOT_CAUSED: [(&str, &str); 5] = [
    ("UsernsdAbsent", "names no node: there is no agent at all"),
    ("UsernsdCertificateExpires", "the overlay serves without TLS"),
    ("UsernsdFixFailing", "the runtime hands over by itself here"),
    ("UsernsdFixSlow", "the runtime hands over by itself here"),
    ("UsernsdIdPoolFullSoon", "looks back for hours"),
];

/// A cluster under observation.
struct Fleet {
    cluster: Cluster,
    prometheus: Prometheus,
    /// Alerts that fire because of the machine, on every node.
    always: Firing,
    /// Steps with other alerts than expected.
    wrong: Vec<String>,
    /// Alerts that have fired for the node that breaks.
    seen: BTreeSet<String>,
}

/// The rules of `dashboards/alerts.yaml`, which fire at once and look back for seconds.
fn quick_rules() -> String {
    let rules = plain(&catalogue::read("dashboards/alerts.yaml"));
    let rules: Vec<&str> = rules.lines().filter(|line| !line.trim_start().starts_with("for:")).collect();
    let [five, fifteen] = ["[5m]", "[15m]"];
    rules.join("\n").replace(five, &format!("[{WINDOW}]")).replace(fifteen, &format!("[{WINDOW}]"))
}

/// Scrapes as the Prometheus operator configures it for `dashboards/podmonitor.yaml`. Debian's Prometheus has no
/// discovery by Kubernetes' API: node and address of each agent's pod are looked up here.
fn configuration(cluster: &Cluster, rules: &str) -> Value {
    let pods = cluster.get(&["pods", "-n", "usernsd", "-l", "app.kubernetes.io/name=usernsd"]);
    let agents: Vec<(&str, String, String)> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| {
            let address = pod["status"]["podIP"].as_str().unwrap();
            let node = pod["spec"]["nodeName"].as_str().unwrap();
            (node, format!("{address}:9564"), "/metrics".to_owned())
        })
        .collect();
    let mut configuration = server::configuration(&agents, &[]);
    configuration["rule_files"] = json!([rules]);
    configuration
}

impl Fleet {
    fn firing(&self) -> Firing {
        let answer = self.prometheus.api("/api/v1/alerts");
        let alerts = answer["data"]["alerts"].as_array().unwrap().iter();
        alerts
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| {
                let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
                (label("alertname"), label("instance"))
            })
            .collect()
    }

    fn broken(&self) -> &Worker {
        &self.cluster.workers[1]
    }

    /// Waits until exactly these alerts fire for the broken node, and no others for any node.
    fn expect(&mut self, step: &str, alerts: &[&str]) {
        let node = self.broken().name.clone();
        let mut want = self.always.clone();
        want.extend(alerts.iter().map(|alert| ((*alert).to_owned(), node.clone())));
        let start = Instant::now();
        loop {
            let firing = self.firing();
            if firing == want {
                println!("{step}: {alerts:?} after {} s", start.elapsed().as_secs());
                self.seen.extend(alerts.iter().map(|alert| (*alert).to_owned()));
                return;
            }
            if start.elapsed() > PATIENCE {
                let differs: Vec<_> = firing.symmetric_difference(&want).collect();
                println!("{step}: wrong: {differs:?}");
                self.wrong.push(format!("{step}: {differs:?}"));
                return;
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// The same while nothing is known of the broken node itself, so that no other alert fires for it.
    fn expect_alone(&mut self, step: &str, alert: &str) {
        let node = self.broken().name.clone();
        let of_others = self.always.iter().filter(|(_, instance)| *instance != node).cloned().collect();
        let always = std::mem::replace(&mut self.always, of_others);
        self.expect(step, &[alert]);
        self.always = always;
    }

    /// Processes of the agent's pod on the broken node.
    fn processes(&self, command: &str) -> String {
        self.broken().node.run(["pgrep", "-f", &format!("^/usernsd {command}")])
    }

    fn signal(&self, signal: &str, command: &str) {
        let pids = self.processes(command);
        self.broken().node.run(["kill", signal].into_iter().chain(pids.split_whitespace()));
    }

    fn unit(&self, action: &str, unit: &str) {
        self.broken().node.run(["systemctl", action, unit]);
    }

    /// Creates a pod on the broken node.
    fn create(&self, name: &str) {
        let node = format!("spec:\n  nodeName: {}\n", self.broken().name);
        self.cluster.apply(&asking(name, "").replace("spec:\n", &node));
    }

    /// Creates a pod on the broken node, and waits until it runs.
    fn run(&self, name: &str) {
        self.create(name);
        self.cluster.wait_for_pod(name, is_ready);
    }

    fn delete(&self, pod: &str) {
        self.cluster.kubectl(&["delete", "pod", pod]);
    }

    /// The cgroup of a pod's container, seen from this machine.
    fn cgroup(&self, pod: &str) -> PathBuf {
        let pod = self.cluster.get(&["pod", pod]);
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
        let id = id.rsplit('/').next().unwrap();
        let node = &self.broken().node;
        let found = node.run(["find", "/sys/fs/cgroup", "-type", "d", "-name", &format!("*{id}*")]);
        let path = found.lines().next().unwrap();
        node.cgroup_root().join(path.trim_start_matches("/sys/fs/cgroup/"))
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.broken().node.path(file);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, before + text).unwrap();
    }

    fn remove(&self, file: &str, text: &str) {
        let path = self.broken().node.path(file);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, before.replace(text, "")).unwrap();
    }
}

fn boot() -> Option<Fleet> {
    let program = tools::found_or_skip("prometheus")?;
    let cluster = Cluster::boot_or_skip(3, &Options::default())?;
    let broken = &cluster.workers[1];

    // A small range, as many pods as it has room for, and one pod from before.
    let (first, pods) = RANGE;
    broken.node.run(["sh", "-euc", "echo kubelet:x:950:950::/:/usr/sbin/nologin >>/etc/passwd"]);
    for file in ["/etc/subuid", "/etc/subgid"] {
        broken.node.write(file, format!("kubelet:{first}:{}\n", pods * 65_536));
    }
    let settings = fs::read_to_string(broken.node.path("/var/lib/kubelet/config.yaml")).unwrap();
    broken.node.write("/var/lib/kubelet/config.yaml", format!("{settings}maxPods: {pods}\n"));
    broken.node.restart_unit("kubelet.service");
    let on = format!("spec:\n  nodeName: {}\n", broken.name);
    cluster.apply(&asking("early", "").replace("spec:\n", &on));
    cluster.wait_for_pod("early", is_ready);

    cluster.edit("daemonset/base/config.yaml", |text| {
        text + "guard: {policy: report}\nresync: {interval: 10s}\n"
    });
    cluster.install("kubernetes");
    for worker in &cluster.workers {
        worker.node.restart_unit(worker.runtime_unit());
        wait_for("the launched plugin", || plugin_runs(worker).then_some(()));
    }
    let rules = std::env::temp_dir().join(format!("usernsd-rules-{}.yaml", std::process::id()));
    fs::write(&rules, quick_rules()).unwrap();
    let network = PathBuf::from(format!("/proc/{}/ns/net", cluster.control().pid()));
    let configuration = configuration(&cluster, rules.to_str().unwrap());
    let prometheus = Prometheus::start(&program, &configuration, Some(&network));
    wait_for("three nodes", || {
        let series = prometheus.query("usernsd_build_info").unwrap();
        (series.len() == 3).then_some(())
    });
    fs::remove_file(rules).unwrap();

    let mut always = Firing::new();
    let nsdelegate = broken.node.run(["grep", "cgroup2", "/proc/mounts"]).contains("nsdelegate");
    if !nsdelegate {
        let of = |worker: &Worker| ("UsernsdNodeNotReady".to_owned(), worker.name.clone());
        always.extend(cluster.workers.iter().map(of));
    }
    Some(Fleet { cluster, prometheus, always, wrong: Vec::new(), seen: BTreeSet::new() })
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn each_alert_names_the_node_that_is_broken() {
    let Some(mut fleet) = boot() else { return };
    let node = fleet.broken().name.clone();

    fleet.expect("a pod from before", &["UsernsdRequestMissed"]);
    // That is an error of this node's, the first in the table.
    let status = fleet.cluster.try_kubectl(&["userns", "status"]);
    let status = String::from_utf8(status.stdout).unwrap();
    println!("{status}");
    let rows: Vec<&str> = status.lines().skip(1).collect();
    assert_eq!(rows.len(), 3, "{status}");
    assert!(rows[0].starts_with(&node), "{status}");
    fleet.delete("early");
    fleet.expect("no pod from before", &[]);

    for file in ["/etc/subuid", "/etc/subgid"] {
        fleet.append(file, OVERLAP);
    }
    fleet.expect("two users with one range", &["UsernsdSubidOverlap"]);
    for file in ["/etc/subuid", "/etc/subgid"] {
        fleet.remove(file, OVERLAP);
    }
    fleet.expect("one user a range", &[]);

    fleet.append("/etc/containerd/config.toml", "# changed\n");
    fleet.expect("a changed file of the runtime's", &["UsernsdRestartPending"]);
    fleet.unit("restart", "containerd");
    fleet.expect("a restarted runtime", &[]);

    let lines = fs::read_to_string(fleet.broken().node.path("/etc/subuid")).unwrap();
    fleet.remove("/etc/subuid", &lines);
    fleet.expect("no range in a file", &["UsernsdConfigDrift"]);
    fleet.append("/etc/subuid", &lines);
    fleet.unit("restart", "kubelet");
    fleet.expect("a range in both files", &[]);

    // The agent's own pod counts, but is not in a user namespace.
    let full: Vec<String> = (1..RANGE.1).map(|index| format!("fills-{index}")).collect();
    for name in &full {
        fleet.create(name);
    }
    for name in &full {
        fleet.cluster.wait_for_pod(name, is_ready);
    }
    fleet.expect("a full pool", &["UsernsdIdPoolAlmostFull"]);
    fleet
        .cluster
        .kubectl(&[&["delete", "pod"], &full.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    fleet.expect("an empty pool", &[]);

    fleet.run("greedy");
    fleet.cluster.exec(
        "greedy",
        &["sh", "-c", "cd /sys/fs/cgroup; i=0; while mkdir $i 2>/dev/null; do i=$((i + 1)); done"],
    );
    fleet.expect("a greedy pod", &["UsernsdCgroupDescendantsNearLimit"]);
    fleet.delete("greedy");
    fleet.expect("no greedy pod", &[]);

    fleet.run("foreign");
    std::os::unix::fs::chown(fleet.cgroup("foreign"), Some(12_345), None).unwrap();
    fleet.expect("a foreign owner", &["UsernsdCgroupOwnerWrong"]);
    fleet.delete("foreign");
    fleet.expect("no foreign owner", &[]);

    runtime_steps(&mut fleet);
    agent_steps(&mut fleet);

    assert!(fleet.wrong.is_empty(), "{:#?}", fleet.wrong);
    let rules = crate::alerts::rules::Rules::read();
    let not_caused = NOT_CAUSED.map(|(alert, _)| alert);
    let is_always = |name: &str| fleet.always.iter().any(|(alert, _)| alert == name);
    for alert in rules.alerts {
        let name = alert.name.as_str();
        assert_eq!(fleet.seen.contains(name) || is_always(name), !not_caused.contains(&name), "{name}");
    }
}

/// Containers that the runtime creates without the kubelet, which is stopped; and a runtime that is away.
fn runtime_steps(fleet: &mut Fleet) {
    fleet.unit("stop", "kubelet");
    let ids = |index: u32| [(0, RANGE.0 + 65_536 * index, 65_536)];
    let without_kubelet =
        |fleet: &mut Fleet, step: &str, specs: &[(PodSpec, Vec<ContainerSpec>)], alerts: &[&str]| {
            let made: Vec<_> = {
                let pods = Pods::connect(&fleet.broken().node);
                let made = specs.iter().map(|(pod, containers)| {
                    let pod = pods.run_pod(pod);
                    for container in containers {
                        pods.run(&pod, container);
                    }
                    pod
                });
                made.collect()
            };
            fleet.expect(step, alerts);
            let pods = Pods::connect(&fleet.broken().node);
            for pod in &made {
                pods.remove_pod(pod);
            }
            drop(pods);
            fleet.expect("without", &[]);
        };
    let sleeping = || ContainerSpec::sleeping();
    let lost = ContainerSpec { user_namespace: Some(UserNamespace::Host), ..sleeping().named("lost") };
    without_kubelet(
        fleet,
        "a container in the host's user namespace",
        &[(PodSpec::new("lost").mapped(&ids(0)), vec![sleeping(), lost])],
        &["UsernsdLostIsolation", "UsernsdStartRefused"],
    );
    without_kubelet(
        fleet,
        "two pods with one range",
        &[
            (PodSpec::new("one").mapped(&ids(1)), vec![sleeping()]),
            (PodSpec::new("other").mapped(&ids(1)), vec![sleeping()]),
        ],
        &["UsernsdIdRangeOverlap"],
    );
    without_kubelet(
        fleet,
        "a pod outside of the pool",
        &[(PodSpec::new("outside").mapped(&ids(1_000)), vec![sleeping()])],
        &["UsernsdPodOutsidePool"],
    );
    without_kubelet(
        fleet,
        "a pod whose root is the host's",
        &[(PodSpec::new("root").mapped(&[(0, 0, 65_536)]), vec![sleeping()])],
        &["UsernsdPodRootIsHostRoot", "UsernsdIdRangeOverlap", "UsernsdPodOutsidePool"],
    );
    fleet.unit("start", "kubelet");

    fleet.unit("stop", "containerd");
    fleet.expect("no runtime", &["UsernsdPeerDown"]);
    fleet.unit("start", "containerd");
    fleet.expect("a runtime", &[]);

    fleet.broken().node.run(["systemctl", "kill", "--kill-whom=main", "--signal=STOP", "containerd"]);
    fleet.expect("a runtime that hangs", &["UsernsdPeerDown", "UsernsdReconcileFailing"]);
    fleet.broken().node.run(["systemctl", "kill", "--kill-whom=main", "--signal=CONT", "containerd"]);
    fleet.expect("a runtime that goes on", &[]);
}

/// An exporter and an agent that hang, and an agent that ended, while no kubelet restarts them.
fn agent_steps(fleet: &mut Fleet) {
    fleet.unit("stop", "kubelet");
    fleet.signal("-STOP", "exporter");
    fleet.expect_alone("an exporter that hangs", "UsernsdDown");
    fleet.signal("-CONT", "exporter");
    fleet.expect("an exporter that goes on", &[]);

    // The exporter answers within the scrape's second, and knows after a minute that the agent does not.
    fleet.signal("-STOP", "agent");
    fleet.expect_alone("an agent that hangs", "UsernsdAgentAway");
    fleet.signal("-CONT", "agent");
    fleet.expect("an agent that goes on", &[]);

    fleet.signal("-KILL", "agent");
    fleet.expect_alone("an agent that ended", "UsernsdAgentAway");
    fleet.unit("start", "kubelet");
    fleet.expect("the next agent", &[]);
}
