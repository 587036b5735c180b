//! A real Prometheus in the network namespace of a live node: it scrapes the agent, and evaluates every
//! dashboard, alert and recording rule.

#[path = "../it/dashboards/catalogue.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
mod catalogue;
#[path = "../it/dashboards/expressions.rs"]
mod expressions;
#[path = "../it/dashboards/promql.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
mod promql;
#[path = "../it/dashboards/rules.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
mod rules;
#[path = "../it/dashboards/server.rs"]
mod server;
#[path = "../it/dashboards/tools.rs"]
#[allow(dead_code, reason = "tests/it/dashboards.rs uses it too")]
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::agent::{Agent, HTTP, node_with_binary};
use crate::metrics::samples;
use crate::node::Options;
use crate::pods::{ContainerSpec, PodSpec, Pods, UserNamespace, wait_for};
use expressions::{asked, has_number};
use server::Prometheus;

/// Expressions that return nothing on one node with only containerd, by a part of their names, with the
/// reason.
const EMPTY: [(&str, &str); 4] = [
    ("\"Changes\" \"B\"", "no change fails here"),
    ("\"Inspections of all containers\" \"B\"", "no inspection fails here"),
    ("\"Memory pressure\" \"A\"", "no kubelet runs here"),
    ("variable cluster", "one Prometheus for one cluster puts no such label on anything"),
];

/// A series without the label by which the PodMonitor distinguishes the counters of a node's agents.
fn without_agent_pod(series: &str) -> String {
    let Some((before, rest)) = series.split_once("agent_pod=\"") else { return series.to_owned() };
    let rest = rest.split_once('"').map_or("", |(_, rest)| rest);
    format!("{before}{}", rest.trim_start_matches(',')).replace("{}", "")
}

#[test]
fn every_expression_has_an_answer_on_a_live_node() {
    let Some(program) = tools::found_or_skip("prometheus") else { return };
    let Some(node) = node_with_binary(Options::default()) else { return };
    for file in ["/etc/subuid", "/etc/subgid"] {
        node.write(file, "kubelet:196608:7208960\n");
    }
    node.run(["useradd", "--system", "kubelet"]);
    let pods = Pods::connect(&node);
    let privileged = || ContainerSpec::sleeping().privileged();
    let wrong = pods.run_pod(&PodSpec::new("wrong").numbered(0).privileged());
    let wrong = pods.run(&wrong, &privileged());
    std::os::unix::fs::chown(&wrong.cgroup, Some(12_345), None).unwrap();

    // The node was not prepared by bootstrap, which would have installed the plugin.
    let configuration = "guard:\n  policy: report\nbootstrap:\n  nri:\n    plugin: never\n";
    let agent = Agent::with(&node, configuration);
    let network = PathBuf::from(format!("/proc/{}/ns/net", node.pid()));
    let agents = [("node-1", HTTP.to_owned(), "/metrics".to_owned())];
    let prometheus = Prometheus::start(&program, &server::configuration(&agents, &[]), Some(&network));
    // Prometheus must see the counters grow.
    wait_for("a scrape", || (prometheus.query("usernsd_build_info").unwrap().len() == 1).then_some(()));

    let lost = ContainerSpec { user_namespace: Some(UserNamespace::Host), ..ContainerSpec::sleeping() };
    let mut containers = vec![wrong];
    for (spec, names) in [
        (PodSpec::new("right").numbered(1).privileged(), vec![("c", privileged())]),
        (PodSpec::new("read-only").numbered(2), vec![("c", ContainerSpec::sleeping())]),
        (PodSpec::new("root").mapped(&[(0, 0, 65_536)]).privileged(), vec![("c", privileged())]),
        (PodSpec::new("overlap-a").numbered(3), vec![("c", ContainerSpec::sleeping())]),
        (PodSpec::new("overlap-b").numbered(3), vec![("c", ContainerSpec::sleeping())]),
        (PodSpec::new("host").in_host_user_namespace(), vec![("c", ContainerSpec::sleeping())]),
        (PodSpec::new("lost").numbered(4), vec![("isolated", ContainerSpec::sleeping()), ("lost", lost)]),
    ] {
        let pod = pods.run_pod(&spec);
        containers
            .extend(names.iter().map(|(name, container)| pods.run(&pod, &container.clone().named(name))));
    }
    for container in &containers {
        wait_for("a settled look", || (agent.outcome(container) != "unproven").then_some(()));
    }

    let (alerts, panels): (Vec<_>, Vec<_>) =
        asked().into_iter().partition(|(name, _)| name.starts_with("alert "));
    let is_empty = |name: &str| EMPTY.iter().any(|(empty, _)| name.contains(empty));
    let (empty, full): (Vec<_>, Vec<_>) = panels.into_iter().partition(|(name, _)| is_empty(name));
    assert!(full.len() > 90, "{} expressions", full.len());
    let complaints = prometheus.without_data(&full);
    assert!(complaints.is_empty(), "{complaints:#?}\n{}", prometheus.log());
    for (of, why) in EMPTY {
        assert!(
            empty.iter().any(|(name, _)| name.contains(of)),
            "an exception without an effect: {of}: {why}"
        );
    }
    for (name, expr) in &empty {
        let series = prometheus.query(expr).unwrap();
        assert!(series.is_empty(), "{name} has data, remove the exception: {series:?}");
    }

    // The alerts are exactly those of the problems of this node.
    let nsdelegate = node.run(["grep", "cgroup2", "/proc/mounts"]).contains("nsdelegate");
    let mut want = BTreeSet::from([
        "alert UsernsdCgroupOwnerWrong",
        "alert UsernsdIdRangeOverlap",
        "alert UsernsdLostIsolation",
        "alert UsernsdPodOutsidePool",
        "alert UsernsdPodRootIsHostRoot",
        "alert UsernsdStartRefused",
    ]);
    want.extend((!nsdelegate).then_some("alert UsernsdNodeNotReady"));
    let fires = |(name, expr): &'_ (String, String)| {
        let series = prometheus.query(expr).unwrap_or_else(|error| panic!("{name}: {expr}: {error}"));
        has_number(&series)
    };
    let firing: BTreeSet<&str> =
        alerts.iter().filter(|one| fires(one)).map(|(name, _)| name.as_str()).collect();
    assert_eq!(firing, want);
    wait_for("every rule's evaluation", || {
        let answer = prometheus.api("/api/v1/rules");
        let groups = answer["data"]["groups"].as_array().unwrap().iter();
        let rules: Vec<&Value> = groups.flat_map(|group| group["rules"].as_array().unwrap()).collect();
        assert!(rules.len() > alerts.len() && rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
        rules.iter().all(|rule| rule["health"] == "ok").then_some(())
    });

    // No sample is lost, duplicated or changed on the way.
    let one = |expr: &str| {
        let series = prometheus.query(expr).unwrap();
        assert_eq!(series.len(), 1, "{expr}: {series:?}");
        series[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(one("up"), 1.0);
    let output = samples(&agent.exposition());
    assert_eq!(one("scrape_samples_scraped"), output.len() as f64);
    assert_eq!(one("scrape_samples_post_metric_relabeling"), output.len() as f64);
    let families = ["usernsd_pod_", "usernsd_container", "usernsd_id_", "usernsd_check_", "usernsd_config_"];
    let of_them = |series: &String| families.iter().any(|family| series.starts_with(family));
    let output: BTreeMap<String, f64> = output
        .into_iter()
        .filter(|(series, _)| of_them(series))
        .map(|(series, value)| (with_sorted_labels(&series), value))
        .collect();
    let expr = "{__name__=~\"usernsd_(pod_|container|id_|check_|config_).*\"}";
    let stored: BTreeMap<String, f64> = prometheus
        .query(expr)
        .unwrap()
        .iter()
        .map(stored)
        .map(|(series, value)| (without_agent_pod(&series), value))
        .collect();
    assert!(stored.len() > 100, "{}", stored.len());
    assert_eq!(stored, output);
    // Log lines of level warning and above.
    assert_eq!(prometheus.log(), "");
}

fn with_sorted_labels(series: &str) -> String {
    let Some((name, labels)) = series.split_once('{') else { return format!("{series}{{}}") };
    let mut labels: Vec<&str> = labels.trim_end_matches('}').split_inclusive("\",").collect();
    labels.iter_mut().for_each(|label| *label = label.trim_end_matches(','));
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// A series as the agent names it, with its value.
fn stored(series: &Value) -> (String, f64) {
    let labels = series["metric"].as_object().unwrap();
    assert_eq!((&labels["job"], &labels["instance"]), (&"usernsd".into(), &"node-1".into()));
    let of_target = |name: &str, value: &Value| match name {
        "__name__" | "job" | "instance" => true,
        // The labels of the agent's own pod, for a series that has none of a pod.
        "namespace" => value == "usernsd",
        _ => false,
    };
    let pairs = labels.iter().filter(|(name, value)| !of_target(name, value));
    let mut pairs: Vec<String> =
        pairs.map(|(name, value)| format!("{name}=\"{}\"", value.as_str().unwrap())).collect();
    pairs.sort_unstable();
    let name = format!("{}{{{}}}", labels["__name__"].as_str().unwrap(), pairs.join(","));
    (name, series["value"][1].as_str().unwrap().replace("+Inf", "inf").parse().unwrap())
}
