//! The metrics of three nodes, with every metric of the catalogue: one node is healthy, one is broken in
//! every way for which there is an alert, and one is not ready and has lost its peers.

use std::time::{SystemTime, UNIX_EPOCH};

use super::catalogue::{Catalogue, Kind, Metric};

/// The three nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Good,
    Broken,
    NotReady,
}

/// Upper bounds of each histogram's buckets.
const BUCKETS: [(&str, f64); 5] =
    [("0.001", 0.001), ("0.1", 0.1), ("1", 1.0), ("10", 10.0), ("+Inf", f64::INFINITY)];
/// Namespace and name of each node's pods; every one has a container "main".
const PODS: [(&str, &str); 2] = [("team-a", "web-0"), ("team-b", "ci-0")];

impl Node {
    pub(crate) const ALL: [Node; 3] = [Node::Good, Node::Broken, Node::NotReady];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Node::Good => "worker-1",
            Node::Broken => "worker-2",
            Node::NotReady => "worker-3",
        }
    }
}

/// The labels of one series.
type Labels = Vec<(String, String)>;

/// Every combination of the values of a metric's labels; pods are one of [`PODS`].
fn series(metric: &Metric) -> Vec<Labels> {
    let mut found: Vec<Labels> = vec![Labels::new()];
    let of_pods = metric.has_label("pod");
    if of_pods {
        found = PODS
            .iter()
            .map(|(namespace, pod)| {
                vec![("namespace".to_owned(), (*namespace).to_owned()), ("pod".to_owned(), (*pod).to_owned())]
            })
            .collect();
    }
    for (label, values) in metric.labels.iter().filter(|(label, _)| !(of_pods && is_of_pod(label))) {
        let values: Vec<String> = match label.as_str() {
            // Each check has only one severity, and each pod only one mode.
            "severity" => vec!["error".to_owned()],
            "userns" if of_pods => vec!["pod".to_owned()],
            "container" => vec!["main".to_owned()],
            _ if values.is_empty() => vec![format!("some-{label}")],
            _ => values.clone(),
        };
        found = found
            .into_iter()
            .flat_map(|labels| {
                values.iter().map(move |value| {
                    let mut labels = labels.clone();
                    labels.push((label.clone(), value.clone()));
                    labels
                })
            })
            .collect();
    }
    found
}

fn is_of_pod(label: &str) -> bool {
    matches!(label, "namespace" | "pod")
}

/// A gauge's or counter's value at the `scrape`th scrape; `None` if the series does not exist.
fn value(name: &str, labels: &Labels, node: Node, scrape: f64) -> Option<f64> {
    let is = |value: &str| labels.iter().any(|(_, of)| of == value);
    let flag = |of: Node| f64::from(u8::from(node == of));
    let broken = flag(Node::Broken);
    let not_ready = flag(Node::NotReady);
    Some(match name {
        "usernsd_node_ready" | "usernsd_cri_up" | "usernsd_nri_up" | "usernsd_systemd_up" => 1.0 - not_ready,
        "usernsd_check_passed" => 1.0 - not_ready * f64::from(u8::from(is("cgroup_nsdelegate"))),
        "usernsd_exporter_agent_up" => 1.0 - not_ready,
        "usernsd_reconcile_failures_total" => not_ready * scrape,
        "usernsd_fix_failures_total" => broken * scrape,
        "usernsd_refusals_total" if is("lost_isolation") => broken * scrape,
        "usernsd_lost_isolation_containers"
        | "usernsd_id_range_overlaps"
        | "usernsd_config_drift"
        | "usernsd_config_restart_pending" => broken,
        "usernsd_containers" if is("owner_wrong") => 2.0 * broken,
        "usernsd_containers" if is("missed") => broken,
        "usernsd_container_cgroup_owner_correct" => 1.0 - broken,
        "usernsd_pod_overlap_ids" | "usernsd_container_lost_isolation" if node != Node::Broken => {
            return None;
        }
        // The pod whose own mapping is wrong, below.
        "usernsd_container_lost_isolation" if is("ci-0") => return None,
        "usernsd_pod_overlap_ids" | "usernsd_pod_mapped_ids" => 65536.0,
        "usernsd_pod_host_root_id" if node == Node::Broken && is("ci-0") => 0.0,
        "usernsd_pod_host_root_id" => 524_288.0,
        "usernsd_pod_cgroup_descendants" => 10.0 + 230.0 * broken,
        "usernsd_pod_cgroup_descendants_max" if is("web-0") => f64::INFINITY,
        "usernsd_pod_cgroup_descendants_max" => 250.0,
        // One of the pod's containers has a limit of its own.
        "usernsd_pod_cgroup_descendants_used_ratio" => 0.1 + 0.85 * broken,
        // One pool is almost full, the other fills up; on the other nodes it is not in use.
        "usernsd_id_pool_slots" if is("kubelet") => 110.0,
        "usernsd_id_pool_slots_used" if is("kubelet") => 20.0 + 80.0 * broken,
        "usernsd_id_pool_slots" => 256.0 * broken,
        "usernsd_id_pool_slots_used" => (140.0 + scrape) * broken,
        "usernsd_user_namespaces_max" => 256_000.0,
        _ if name.ends_with("_timestamp_seconds") || name == "process_start_time_seconds" => {
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
        }
        _ if name.ends_with("_total") => scrape,
        _ => 1.0,
    })
}

fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() }
}

fn line(name: &str, labels: &[(String, String)], value: f64) -> String {
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    format!("{name}{labels} {}\n", number(value))
}

/// A node's metrics at its `scrape`th scrape.
pub(crate) fn exposition(catalogue: &Catalogue, node: Node, scrape: u32) -> String {
    let scrape = f64::from(scrape);
    let mut text = String::new();
    for metric in catalogue.metrics.values() {
        let name = &metric.name;
        text.push_str(&format!("# HELP {name} {}\n# TYPE {name} {}\n", metric.help, metric.kind.name()));
        for labels in series(metric) {
            if metric.kind != Kind::Histogram {
                text.extend(value(name, &labels, node, scrape).map(|value| line(name, &labels, value)));
                continue;
            }
            // On the broken node one in ten takes 5 s; all others are quick.
            let slow = if node == Node::Broken { scrape } else { 0.0 };
            for (bound, upper) in BUCKETS {
                let mut labels = labels.clone();
                labels.push(("le".to_owned(), bound.to_owned()));
                let count = 9.0 * scrape + if upper > 5.0 { slow } else { 0.0 };
                text.push_str(&line(&format!("{name}_bucket"), &labels, count));
            }
            text.push_str(&line(&format!("{name}_sum"), &labels, 5.0 * slow));
            text.push_str(&line(&format!("{name}_count"), &labels, 9.0 * scrape + slow));
        }
    }
    text
}

/// The kubelet's metrics of the same pods.
pub(crate) fn kubelet(scrape: u32) -> String {
    let name = "container_pressure_memory_waiting_seconds_total";
    let mut text =
        format!("# HELP {name} Total time duration tasks have waited for memory.\n# TYPE {name} counter\n");
    for (namespace, pod) in PODS {
        let labels = [("container", "main"), ("namespace", namespace), ("pod", pod)];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
        text.push_str(&line(name, &labels, f64::from(scrape) / 10.0));
    }
    text
}
