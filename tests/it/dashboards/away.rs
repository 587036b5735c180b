//! How the dashboards show agents that are away. If an exporter serves for an agent that is away, its target
//! is up and has nearly no series.

use std::process::Command;

use serde_json::{Value, json};

use super::{boards, promql, tools};

/// For each node: its name, `up`, the exporter's metric for the agent, and the agent's own readiness.
type Nodes = &'static [(&'static str, f64, Option<f64>, Option<f64>)];

/// A node with an exporter, and one whose agent serves HTTP itself.
const MIXED: Nodes = &[
    ("exporter-well", 1.0, Some(1.0), Some(1.0)),
    ("exporter-without-agent", 1.0, Some(0.0), None),
    ("exporter-away", 0.0, None, None),
    ("agent-well", 1.0, None, Some(1.0)),
    ("agent-away", 0.0, None, None),
];
const WELL: Nodes = &[("exporter-well", 1.0, Some(1.0), Some(1.0)), ("agent-well", 1.0, None, Some(1.0))];
/// Only this job is scraped.
const ALONE: Nodes = &[("exporter-without-agent", 1.0, Some(0.0), None)];
const AWAY: Nodes = &[("exporter-without-agent", 1.0, Some(0.0), None), ("agent-away", 0.0, None, None)];

/// A panel's expression, with everything selected.
fn of_panel(board: &Value, title: &str, target: usize) -> String {
    let is_it = |panel: &&Value| panel["title"] == title && panel["targets"].is_array();
    let panel = board["panels"].as_array().unwrap().iter().find(is_it);
    let panel = panel.unwrap_or_else(|| panic!("no panel {title:?}"));
    promql::filled(panel["targets"][target]["expr"].as_str().unwrap())
}

/// A unit test for an expression. Targets of other jobs, all of them down, must not count.
fn expected(nodes: Nodes, expr: &str, want: &[(&str, f64)]) -> Value {
    let mut series = vec![
        json!({"series": r#"up{job="node-exporter", instance="agent-well"}"#, "values": "0"}),
        json!({"series": r#"up{job="etcd", instance="master-1"}"#, "values": "0"}),
    ];
    for (instance, up, agent, ready) in nodes {
        // An agent that is being replaced, and does not answer any more.
        let before = format!(r#"up{{job="usernsd", instance="{instance}", agent_pod="usernsd-before"}}"#);
        series.push(json!({"series": before, "values": "0"}));
        let output = [
            ("up", Some(up)),
            ("usernsd_exporter_agent_up", agent.as_ref()),
            ("usernsd_node_ready", ready.as_ref()),
        ];
        for (name, value) in output.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            let series_name =
                format!(r#"{name}{{job="usernsd", namespace="usernsd", instance="{instance}"}}"#);
            series.push(json!({"series": series_name, "values": value.to_string()}));
        }
    }
    let labels = |instance: &str| match instance {
        "" => "{}".to_owned(),
        _ => format!("{{instance={instance:?}}}"),
    };
    let sample = |(instance, value): &(&str, f64)| json!({"labels": labels(instance), "value": value});
    let samples: Vec<Value> = want.iter().map(sample).collect();
    json!({"interval": "1m", "input_series": series, "promql_expr_test": [
        {"expr": expr, "eval_time": "0m", "exp_samples": samples},
    ]})
}

#[test]
fn an_agent_that_is_away_is_shown() {
    let Some(promtool) = tools::found_or_skip("promtool") else { return };
    let [fleet, node] = boards().map(|board| board.grafana());
    let mut tests = Vec::new();
    for (nodes, down, share) in [(MIXED, 3.0, 0.4), (ALONE, 1.0, 0.0), (AWAY, 2.0, 0.0), (WELL, 0.0, 1.0)] {
        // An average is not exact.
        let ready = format!("round({}, 0.01)", of_panel(&fleet, "Nodes ready", 0));
        tests.push(expected(nodes, &of_panel(&fleet, "Agents down", 0), &[("", down)]));
        tests.push(expected(nodes, &ready, &[("", share)]));
        let agent = nodes.iter().map(|(name, up, agent, _)| (*name, agent.unwrap_or(*up)));
        let agent: Vec<(&str, f64)> = agent.collect();
        let ready = nodes.iter().map(|(name, _, _, ready)| (*name, ready.unwrap_or(0.0)));
        let ready: Vec<(&str, f64)> = ready.collect();
        tests.push(expected(nodes, &of_panel(&fleet, "Nodes", 0), &agent));
        tests.push(expected(nodes, &of_panel(&fleet, "Nodes", 1), &ready));
        tests.push(expected(nodes, &of_panel(&fleet, "Node ready", 0), &ready));
        // The worst of the selected nodes.
        let worst = if down > 0.0 { 0.0 } else { 1.0 };
        tests.push(expected(nodes, &of_panel(&node, "Ready", 0), &[("", worst)]));
        tests.push(expected(nodes, &of_panel(&node, "Agent and peers", 0), &[("", worst)]));
    }
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let test = |tests: &[Value]| {
        std::fs::write(&file, json!({"rule_files": [], "tests": tests}).to_string()).unwrap();
        tools::run(Command::new(&promtool).args(["test", "rules"]).arg(file.path()), "")
    };
    let (good, output) = test(&tests);
    assert!(good, "{output}");
    // A wrong expectation makes the test fail.
    let (good, output) = test(&[expected(ALONE, "count(up == 0) or vector(0)", &[("", 0.0)])]);
    assert!(!good && output.contains("FAILED"), "{output}");
}

/// Otherwise nodes whose agents are away could not be selected.
#[test]
fn a_node_can_be_selected_without_its_agent() {
    let mut queries = Vec::new();
    for board in boards() {
        let console: Value = serde_saphyr::from_str(&board.console()).unwrap();
        let console = console["data"].as_object().unwrap().values().next().unwrap().as_str().unwrap();
        for board in [board.grafana(), serde_json::from_str(console).unwrap()] {
            let variables = board["templating"]["list"].as_array().unwrap().clone();
            queries.extend(variables.into_iter().filter(|of| of["type"] == "query"));
        }
    }
    assert_eq!(queries.len(), 10);
    for variable in queries {
        let query = variable["query"].as_str().unwrap();
        assert!(query.starts_with("label_values(up{job=\"usernsd\""), "{query}");
    }
}
