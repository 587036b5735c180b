//! The expressions of the dashboards, alerts and recording rules.

use serde_json::Value;

use super::catalogue::read;
use super::promql;
use super::rules::Rules;

/// Whether a series has a number; 0/0 is NaN.
pub(crate) fn has_number(series: &[Value]) -> bool {
    series.iter().any(|one| one["value"][1].as_str().is_some_and(|value| value != "NaN"))
}

/// The expressions of a dashboard by panel and target, and those of its variables.
fn of_board(file: &str, board: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let rows =
        board["rows"].as_array().into_iter().flatten().flat_map(|row| row["panels"].as_array().unwrap());
    for panel in board["panels"].as_array().into_iter().flatten().chain(rows) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let name = format!("{file} {} {}", panel["title"], target["refId"]);
            found.push((name, promql::filled(target["expr"].as_str().unwrap())));
        }
    }
    for variable in board["templating"]["list"].as_array().unwrap().iter().filter(|of| of["type"] == "query")
    {
        let query = variable["query"].as_str().unwrap();
        let inside = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
        let (selector, label) = inside.rsplit_once(", ").unwrap();
        // A series without the label has none of its values.
        let some = selector.replace('}', &format!(", {label}!=\"\"}}"));
        let some = if some.contains('{') { some } else { format!("{selector}{{{label}!=\"\"}}") };
        found.push((format!("variable {}", variable["name"].as_str().unwrap()), promql::filled(&some)));
    }
    found
}

/// All expressions, with the place where each is used.
pub(crate) fn asked() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in ["dashboards/fleet.json", "dashboards/node.json"] {
        found.extend(of_board(file, &serde_json::from_str(&read(file)).unwrap()));
    }
    for document in read("dashboards/openshift-console.yaml").split("---\n") {
        let map: Value = serde_saphyr::from_str(document).unwrap();
        for (file, text) in map["data"].as_object().unwrap() {
            found.extend(of_board(file, &serde_json::from_str(text.as_str().unwrap()).unwrap()));
        }
    }
    let rules = Rules::read();
    for alert in &rules.alerts {
        found.push((format!("alert {}", alert.name), alert.expr.clone()));
    }
    for (name, expr) in rules.recorded {
        found.push((format!("recorded {name}"), expr));
        found.push((format!("record {name}"), name));
    }
    found.sort();
    found.dedup();
    found
}
