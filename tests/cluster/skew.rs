//! Control planes and kubelets of several versions of Kubernetes, in every pair that Kubernetes supports: the kubelet
//! may be up to three minor versions older than the API server, and never newer.

use std::env;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::harness::{Cluster, Programs, UNAVAILABLE, is_ready, wait_for};
use crate::install::apply_example;
use crate::node::Options;
use crate::presence::asking;

/// How much older than the API server a kubelet may be, in minor versions.
const OLDEST: u32 = 3;
/// The first minor version whose API server has `MutatingAdmissionPolicy` as `v1`.
const MUTATING: u32 = 36;

/// A program's version, 1.MINOR.PATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    minor: u32,
    patch: u32,
}

impl Version {
    /// The version of a program of Kubernetes; `None` if the directory does not have it.
    fn of(program: &Path) -> Option<Self> {
        if !program.is_file() {
            return None;
        }
        let output = Command::new(program).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers = text.trim().strip_prefix("Kubernetes v1.").unwrap_or_else(|| panic!("{text}"));
        let (minor, patch) = numbers.split_once('.').unwrap();
        Some(Self { minor: minor.parse().unwrap(), patch: patch.parse().unwrap() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.{}", self.minor, self.patch)
    }
}

/// The supported pairs of the directories, the newest API server first.
fn pairs(directories: &[PathBuf]) -> Vec<(Version, Version, Programs)> {
    let mut pairs = Vec::new();
    for control in directories {
        let Some(server) = Version::of(&control.join("kube-apiserver")) else { continue };
        for kubelets in directories {
            let Some(kubelet) = Version::of(&kubelets.join("kubelet")) else { continue };
            if kubelet <= server && server.minor - kubelet.minor <= OLDEST {
                let programs = Programs { control: control.clone(), kubelet: kubelets.clone() };
                pairs.push((server, kubelet, programs));
            }
        }
    }
    pairs.sort_by_key(|(server, kubelet, _)| std::cmp::Reverse((*server, *kubelet)));
    pairs
}

/// The life of an installation on such a cluster; `false` if this machine cannot boot one.
fn live(server: Version, kubelet: Version, programs: &Programs) -> bool {
    let Some(cluster) = Cluster::boot_with_or_skip(programs, 1, &Options::default()) else { return false };
    let worker = &cluster.workers[0];
    let node = cluster.get(&["node", &worker.name]);
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], format!("v{kubelet}"));
    assert!(cluster.kubectl(&["version"]).contains(&format!("Server Version: v{server}")));

    // It starts without an agent, which later reports that in an Event.
    cluster.apply(&asking("early", ""));
    let early = cluster.wait_for_pod("early", is_ready);
    assert_eq!(early["spec"]["hostUsers"], false, "the API server has dropped the field");

    cluster.install_site(
        "resources: [../daemonset/overlays/kubernetes]\ncomponents:\n- ../daemonset/components/node-condition\n\
         - ../daemonset/components/admission\n- ../daemonset/components/authorization\n",
        "kubernetes: {nodeCondition: \"on\"}\n",
    );

    let required =
        cluster.try_kubectl(&["apply", "-f", "daemonset/components/admission-required/policy.yaml"]);
    let printed = String::from_utf8_lossy(&required.stderr).into_owned();
    assert_eq!(required.status.success(), server.minor >= MUTATING, "{printed}");
    if server.minor < MUTATING {
        assert!(printed.contains("no matches for kind \"MutatingAdmissionPolicy\""), "{printed}");
    } else {
        cluster.kubectl(&["delete", "-f", "daemonset/components/admission-required/policy.yaml"]);
    }

    apply_example(&cluster, "systemd-server.yaml", "localhost/systemd:1");
    cluster.wait_for_pod("systemd-server", is_ready);
    assert_eq!(cluster.exec("systemd-server", &["systemctl", "is-system-running"]), "running");
    let host = cluster.host_id("systemd-server");
    assert!(host >= 65_536, "{host}");

    wait_for("the Event", || {
        let events = cluster.get(&["events", "--field-selector=involvedObject.name=early"]);
        let events = events["items"].as_array()?;
        events.iter().any(|event| event["reason"] == "WritableCgroupMissed").then_some(())
    });
    let condition = wait_for("the Node condition", || cluster.node_condition(&worker.name, UNAVAILABLE));
    println!("{}: {}", condition["status"], condition["reason"]);

    // They exit 1 for the node's problems and for the pod that was missed.
    let text = |words: &[&str]| {
        let output = cluster.try_kubectl(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let status = text(&["userns", "status"]);
    let row = status.lines().find(|line| line.starts_with(&worker.name)).unwrap();
    assert_eq!(row.split_whitespace().nth(2), Some("Running"), "{status}");
    let ps = text(&["userns", "ps", "-A"]);
    let row = ps.lines().find(|line| line.contains("systemd-server")).unwrap();
    assert!(row.contains(&host.to_string()) && row.trim_end().ends_with("ok"), "{ps}");
    assert!(ps.lines().any(|line| line.contains("early") && line.contains("missed")), "{ps}");

    let agents = cluster.get(&["pods", "-n", "usernsd"]);
    let address = agents["items"][0]["status"]["podIP"].as_str().unwrap();
    let metrics = cluster.script(&format!("busybox wget -qO- http://{address}:9564/metrics"));
    assert!(metrics.contains("\nusernsd_kube_up 1"), "{metrics}");

    cluster.kubectl(&["apply", "-k", "daemonset/overlays/undo"]);
    cluster.wait_for_roll_out();
    cluster.kubectl(&["delete", "-k", "daemonset/overlays/undo"]);
    assert!(!worker.node.path("/opt/nri/plugins/90-usernsd").exists());
    true
}

#[test]
#[cfg_attr(
    not(has_kubernetes_versions),
    ignore = "USERNSD_TEST_KUBE or USERNSD_TEST_KUBE_SKEW names no directory with Kubernetes' programs"
)]
fn an_installation_works_with_each_supported_pair_of_versions() {
    let mut directories = vec![Programs::directory()];
    directories.extend(env::split_paths(&env::var_os("USERNSD_TEST_KUBE_SKEW").unwrap()));
    let pairs = pairs(&directories);
    assert!(pairs.iter().any(|(server, kubelet, _)| server != kubelet), "one version only: {directories:?}");
    let mut failed = Vec::new();
    for (server, kubelet, programs) in &pairs {
        let start = Instant::now();
        let lived = catch_unwind(AssertUnwindSafe(|| live(*server, *kubelet, programs)));
        let result = match lived {
            Ok(true) => "passed",
            Ok(false) => "skipped",
            Err(_) => "failed",
        };
        println!("API server {server}, kubelet {kubelet}: {result} after {} s", start.elapsed().as_secs());
        if lived.is_err() {
            failed.push(format!("API server {server}, kubelet {kubelet}"));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
