//! The DaemonSet, as docs/install-kubernetes.md installs it: it becomes ready on every node, and pods get what
//! they ask for.

use std::fs;

use crate::harness::{Cluster, is_ready, wait_for};
use crate::image::SOURCE;
use crate::node::Options;

/// A pod from `examples/`, with an image that nodes have.
#[track_caller]
pub(crate) fn apply_example(cluster: &Cluster, file: &str, image: &str) {
    let text = fs::read_to_string(cluster.control().path(&format!("{SOURCE}/examples/{file}"))).unwrap();
    let (before, rest) = text.split_once("image: ").unwrap();
    let (_, after) = rest.split_once('\n').unwrap();
    let output = cluster.apply(&format!("{before}image: {image}\n{after}"));
    assert!(!output.contains("Warning"), "{output}");
}

/// The table for an account that may create pods/exec but not get it, so that the websocket is refused and kubectl uses
/// another way. An account without both rights gets an error with their names.
#[track_caller]
fn assert_status_by_rights(cluster: &Cluster) {
    cluster.script(
        "kubectl -n usernsd create role list --verb=list,get --resource=pods
         kubectl -n usernsd create role exec --verb=create --resource=pods/exec
         kubectl -n usernsd create rolebinding list --role=list --serviceaccount=default:default
         token=$(kubectl create token default)
         kubectl config set-credentials reader --token=\"$token\" >/dev/null
         cluster=$(kubectl config view --minify -o 'jsonpath={.clusters[0].name}')
         kubectl config set-context reader --cluster=\"$cluster\" --user=reader >/dev/null",
    );
    let status = || {
        let output = cluster.try_kubectl(&["userns", "--context=reader", "status"]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, stdout, stderr) = status();
    assert!(code == Some(2) && stdout.is_empty(), "{stdout}{stderr}");
    assert!(
        stderr.contains("cannot") && stderr.contains("the rights to get and create pods/exec"),
        "{stderr}"
    );
    cluster.kubectl(&[
        "-n",
        "usernsd",
        "create",
        "rolebinding",
        "exec",
        "--role=exec",
        "--serviceaccount=default:default",
    ]);
    wait_for("the table", || {
        let (_, stdout, stderr) = status();
        println!("{stdout}{stderr}");
        (stdout.lines().count() == 1 + cluster.workers.len()).then_some(())
    });
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn the_daemonset_serves_a_cluster_of_two_nodes() {
    let Some(cluster) = Cluster::boot_or_skip(2, &Options::default()) else { return };
    cluster.install("kubernetes");

    // A container with systemd on each node, created through the scheduler and the kubelet.
    apply_example(&cluster, "systemd-server.yaml", "localhost/systemd:1");
    let pod = cluster.wait_for_pod("systemd-server", is_ready);
    assert_eq!(cluster.exec("systemd-server", &["systemctl", "is-system-running"]), "running");
    let host = cluster.host_id("systemd-server");
    assert!(host >= 65_536, "{host}");

    // The plugin of kubectl finds the agent of each node, and the pod.
    // It exits 1 if the node itself has a problem, as on a machine without nsdelegate.
    let status = cluster.try_kubectl(&["userns", "status"]);
    let status = String::from_utf8(status.stdout).unwrap();
    println!("{status}");
    for worker in &cluster.workers {
        let row = status.lines().find(|line| line.starts_with(&worker.name)).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(words[2], "Running", "{status}");
    }
    assert_status_by_rights(&cluster);
    let ps = cluster.kubectl(&["userns", "ps", "-A"]);
    println!("{ps}");
    let row = ps.lines().find(|line| line.contains("systemd-server")).unwrap();
    assert!(row.contains(&host.to_string()) && row.contains("ok"), "{ps}");
    let explained = cluster.kubectl(&["userns", "explain", "systemd-server"]);
    assert!(explained.contains("read-write"), "{explained}");
    let node = pod["spec"]["nodeName"].as_str().unwrap();
    let whole = cluster.kubectl(&["userns", "map", node]);
    assert!(whole.contains("1 pod"), "{whole}");

    // The exporter's page is reached through the pods' network, and it has read the API server with its token.
    for agent in cluster.get(&["pods", "-n", "usernsd"])["items"].as_array().unwrap() {
        let address = agent["status"]["podIP"].as_str().unwrap();
        let metrics = || cluster.script(&format!("busybox wget -qO- http://{address}:9564/metrics"));
        wait_for("the exporter's list of pods", || metrics().contains("\nusernsd_kube_up 1").then_some(()));
    }
}
