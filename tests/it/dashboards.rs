//! Dashboards, alerts and runbooks: the metrics that they name exist, and they keep the rules. `UPDATE=1
//! cargo nextest run --test it dashboards::` writes the files that are rendered from
//! `tests/it/dashboards/panels.rs`. A real Prometheus evaluates them in `tests/it/prometheus.rs`.

mod away;
pub(crate) mod catalogue;
pub(crate) mod exposition;
pub(crate) mod expressions;
mod lint;
mod panels;
pub(crate) mod promql;
mod render;
pub(crate) mod rules;
pub(crate) mod server;
pub(crate) mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use usernsd_domain::check::{Check, SECTIONS, documented_markdown};

use catalogue::{Catalogue, path, read};
use rules::{Alert, Rules, plain};

const CONSOLE: &str = "dashboards/openshift-console.yaml";
const CONSOLE_HEAD: &str = "# For the OpenShift console; rendered from tests/it/dashboards/panels.rs.\n";
const MONITORING: &str = "docs/monitoring.md";
const GENERATED: &str = "<!-- From here on rendered from tests/it/dashboards/panels.rs. -->\n";

fn boards() -> [render::Board; 2] {
    [panels::fleet(), panels::node()]
}

/// Compares a file with its expected text, or writes it.
fn rendered(name: &str, want: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path(name), want).unwrap();
    }
    let found = fs::read_to_string(path(name)).unwrap_or_default();
    let difference = want.lines().zip(found.lines()).find(|(want, found)| want != found);
    assert!(
        found == want,
        "{name} is stale; write it with: UPDATE=1 cargo nextest run --test it dashboards::\nfirst difference: {difference:?}"
    );
}

fn json_file(name: &str) -> Value {
    serde_json::from_str(&read(name)).unwrap()
}

// === dashboards ===

#[test]
fn dashboards_are_those_of_the_source() {
    for board in boards() {
        rendered(board.file, &(serde_json::to_string_pretty(&board.grafana()).unwrap() + "\n"));
    }
}

#[test]
fn console_dashboards_are_those_of_the_source() {
    let maps = boards().map(|board| board.console());
    rendered(CONSOLE, &format!("{CONSOLE_HEAD}{}", maps.join("---\n")));
}

#[test]
fn the_monitoring_page_lists_every_panel() {
    let page = read(MONITORING);
    let (head, _) = page.split_once(GENERATED).expect("docs/monitoring.md has the mark");
    let mut text = format!("{head}{GENERATED}");
    for board in boards() {
        let board = board.grafana();
        text.push_str(&format!("\n## Dashboard “{}”\n\n", board["title"].as_str().unwrap()));
        text.push_str(&format!(
            "{}\n\n| panel | question |\n|---|---|\n",
            board["description"].as_str().unwrap()
        ));
        for panel in board["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            match panel["description"].as_str() {
                Some(question) => text.push_str(&format!("| {title} | {question} |\n")),
                None => text.push_str(&format!("| **{title}** | |\n")),
            }
        }
    }
    rendered(MONITORING, &text);
}

#[test]
fn dashboards_keep_the_rules() {
    let catalogue = rules::catalogue();
    let exclusions = lint::exclusions(&read("dashboards/.lint"));
    let mut complaints = Vec::new();
    let mut uids = BTreeSet::new();
    for board in boards() {
        let read = json_file(board.file);
        let found = lint::complaints(&read, &catalogue, &exclusions);
        complaints.extend(found.into_iter().map(|what| format!("{}: {what}", board.file)));
        assert!(uids.insert(read["uid"].to_string()), "{} twice", read["uid"]);
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// For each rule, a change that breaks it: where, the new value, and words of the complaint.
fn broken() -> Vec<(&'static str, Value, &'static str)> {
    // The first panel is a row, the second a stat, `nodes` a table with overrides.
    let selected =
        |expr: &str| json!(expr.replace("{S", r#"{job=~"$job", cluster=~"$cluster", instance=~"$instance""#));
    let expr = "/panels/1/targets/0/expr";
    vec![
        ("/editable", json!(true), "uneditable-dashboard"),
        ("/schemaVersion", json!(41), "schemaVersion"),
        ("/timezone", json!("browser"), "timezone"),
        ("/graphTooltip", json!(0), "graphTooltip"),
        ("/id", json!(7), "id is one Grafana's own"),
        ("/__inputs", json!([]), "__inputs"),
        ("/uid", json!("Usernsd Fleet"), "uid"),
        ("/title", json!(""), "no title"),
        ("/description", json!("All of it."), "asks nothing"),
        ("/tags", json!([]), "tag usernsd"),
        ("/links/0/includeVars", json!(false), "no link"),
        ("/templating/list/0/name", json!("ds"), "template-datasource-rule"),
        ("/templating/list/0/label", json!("Source"), "template-datasource-rule"),
        ("/templating/list/0/query", json!("loki"), "template-datasource-rule"),
        ("/templating/list/1/name", json!("jobs"), "template-job-rule"),
        ("/templating/list/1/allValue", json!(".*"), "template-job-rule"),
        ("/templating/list/1/refresh", json!(1), "template-on-time-change-reload-rule"),
        ("/templating/list/2/allValue", json!(".+"), "template-cluster"),
        ("/templating/list/3/multi", json!(false), "template-instance-rule"),
        ("/templating/list/3/datasource/uid", json!("prom"), "template-instance-rule"),
        ("/templating/list/3/query", json!("label_values(instance)"), "template-label-promql-rule"),
        ("/templating/list/3/query", json!("label_values(usernsd_build_info, pod)"), "has the values of pod"),
        ("/templating/list/3/query", json!("label_values(usernsd_builds, instance)"), "known-names"),
        ("/panels/0/type", json!("text"), "no row first"),
        ("/panels/0/title", json!(""), "layout"),
        ("/panels/0/gridPos/w", json!(12), "layout"),
        ("/panels/1/id", json!(3), "used twice"),
        ("/panels/1/gridPos/x", json!(1), "overlaps"),
        ("/panels/1/gridPos/x", json!(22), "outside of the 24 columns"),
        ("/panels/1/type", json!("singlestat"), "panel-type"),
        ("/panels/1/title", json!(""), "panel-title-description-rule"),
        ("/panels/1/description", json!(""), "panel-title-description-rule"),
        ("/panels/1/description", json!("The share."), "question"),
        ("/panels/1/description", json!("One? Two?"), "question"),
        ("/panels/1/datasource/uid", json!("prom"), "panel-datasource-rule"),
        ("/panels/1/targets/0/datasource/uid", json!("-- Mixed --"), "panel-datasource-rule"),
        ("/panels/1/targets/0/datasource/type", json!("loki"), "panel-datasource-rule"),
        ("/panels/1/fieldConfig/defaults/unit", json!("percentages"), "panel-units-rule"),
        ("/panels/1/fieldConfig/defaults/unit", json!(null), "panel-units-rule"),
        ("/panels/1/interval", json!(null), "minimum-interval"),
        ("/panels/1/fieldConfig/defaults/thresholds/steps/0/value", json!(0), "thresholds"),
        ("/panels/1/fieldConfig/defaults/thresholds/steps/2/value", json!(0.5), "thresholds"),
        ("/panels/1/fieldConfig/defaults/thresholds/steps", json!([]), "thresholds"),
        ("/panels/1/targets", json!([]), "panel-no-targets-rule"),
        ("/panels/1/targets/0/refId", json!(""), "ref-id"),
        ("/panels/1/targets/0/instant", json!(false), "instant"),
        (expr, json!("sum(usernsd_node_ready{"), "target-promql-rule"),
        (expr, json!("1 + 1"), "reads nothing"),
        (expr, json!(r#"usernsd_node_ready{instance=~"$instance", cluster=~"$cluster"}"#), "target-job-rule"),
        (expr, json!(r#"usernsd_node_ready{job=~"$job", cluster=~"$cluster"}"#), "target-instance-rule"),
        (expr, json!(r#"usernsd_node_ready{job=~"$job", instance="$instance"}"#), "target-instance-rule"),
        (expr, json!(r#"usernsd_node_ready{job=~"$job", instance=~"$instance"}"#), "target-cluster"),
        (expr, selected("usernsd_fixes_total{S}"), "target-counter-agg-rule"),
        (expr, selected("rate(usernsd_pods{S}[$__rate_interval])"), "is no counter"),
        (expr, selected("rate(usernsd_fixes_total{S}[5m])"), "target-rate-interval-rule"),
        (expr, selected("increase(usernsd_fixes_total{S}[5m])"), "target-rate-interval-rule"),
        (expr, selected("usernsd_nodes_ready{S}"), "is not in docs/metrics.md"),
        (expr, selected("usernsd_fix_delay_seconds{S}"), "is not in docs/metrics.md"),
        (expr, selected("rate(usernsd_node_ready_bucket{S}[$__rate_interval])"), "is not in docs/metrics.md"),
        (expr, selected(r#"usernsd_node_ready{S, pod="x"}"#), "has no label pod"),
        (expr, selected(r#"usernsd_containers{S, cgroup_state=~"ok|wrong"}"#), r#"is never "wrong""#),
        (expr, selected("sum by (node) (usernsd_node_ready{S})"), "the label node"),
    ]
}

#[test]
fn each_rule_finds_a_dashboard_that_breaks_it() {
    let catalogue = rules::catalogue();
    let whole = json_file(panels::fleet().file);
    for (pointer, value, words) in broken() {
        let mut board = whole.clone();
        match board.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => drop(board.as_object_mut().unwrap().insert(pointer[1..].to_owned(), value.clone())),
        }
        let complaints = lint::complaints(&board, &catalogue, &lint::Exclusions::new());
        assert!(
            complaints.iter().any(|complaint| complaint.contains(words)),
            "{pointer} = {value} goes through without {words:?}: {complaints:?}"
        );
    }
    let excused = [("panel-units-rule", "usernsd / Fleet", "Nodes ready")];
    let excused = excused.map(|(rule, board, panel)| (rule.to_owned(), board.to_owned(), panel.to_owned()));
    let complaints = lint::complaints(&whole, &catalogue, &excused.into());
    assert!(complaints.iter().any(|complaint| complaint.contains("remove the exclusion")), "{complaints:?}");
}

#[test]
fn console_dashboards_keep_the_rules_of_the_console() {
    let catalogue = rules::catalogue();
    let mut seen = 0;
    for document in read(CONSOLE).split("---\n") {
        let map: Value = serde_saphyr::from_str(document).unwrap();
        assert_eq!(map["metadata"]["namespace"], "openshift-config-managed");
        assert_eq!(map["metadata"]["labels"]["console.openshift.io/dashboard"], "true");
        // The console reads the first entry only.
        let data = map["data"].as_object().unwrap();
        assert_eq!(data.len(), 1);
        let board: Value = serde_json::from_str(data.values().next().unwrap().as_str().unwrap()).unwrap();
        let panels =
            board["rows"].as_array().unwrap().iter().flat_map(|row| row["panels"].as_array().unwrap());
        for panel in panels {
            seen += 1;
            let title = &panel["title"];
            // LegacyDashboard.tsx draws no other types, and reports no error.
            assert!(["graph", "singlestat", "table"].contains(&panel["type"].as_str().unwrap()), "{title}");
            assert!(panel.get("datasource").is_none(), "{title}: a name there means a plug-in's data source");
            assert_eq!(panel["type"] == "table", panel["styles"].is_array(), "{title}: a table needs styles");
            for target in panel["targets"].as_array().unwrap() {
                let expr = target["expr"].as_str().unwrap();
                assert!(!expr.contains("cluster"), "{title}: the console cannot select a missing label");
                let reads = promql::reads(expr).unwrap();
                assert_eq!(lint::unknown(&reads, &catalogue), Vec::<String>::new(), "{title}");
            }
        }
        for variable in board["templating"]["list"].as_array().unwrap() {
            assert!(lint::label_values(variable["query"].as_str().unwrap()).is_some(), "{variable}");
        }
    }
    assert!(seen > 20, "{seen} panels");
}

// === names ===

#[test]
fn a_page_of_metrics_that_cannot_be_read_is_an_error() {
    let head = "| name | type | labels | level | meaning |\n|---|---|---|---|---|\n";
    let served = format!(
        "{head}| `a_total` | counter | `x`: p, q, `y` | pod | Words. |\n| `c` | gauge |  | node | Words. |\n"
    );
    let (catalogue, complaints) = Catalogue::parse(&served);
    assert_eq!(complaints, Vec::<String>::new());
    assert_eq!(catalogue.find("a_total").unwrap().values("x").unwrap(), ["p", "q"]);
    assert_eq!(catalogue.find("a_total").unwrap().values("y"), None);
    assert!(catalogue.find("a_total").unwrap().has_label("y"));
    assert_eq!(catalogue.find("c").unwrap().labels, []);
    assert_eq!(catalogue.find("d"), None);
    for (served, words) in [
        ("", "no metric"),
        ("| name | labels | meaning |\n| `a` | | Words. |\n", "cannot read"),
        (&format!("{head}| `b` | guage |  | node | Words. |\n"), "cannot read"),
        (&format!("{served}| `c` | gauge |  | node | Words. |\n"), "c twice"),
    ] {
        let (_, complaints) = Catalogue::parse(served);
        assert!(complaints.iter().any(|complaint| complaint.contains(words)), "{served:?}: {complaints:?}");
    }
}

#[test]
fn expressions_are_parsed() {
    let reads = promql::reads(
        r#"topk(10, sum by (a, b) (rate(m_total{x!="}\"", y=~"p|q"}[5m] offset 1h)) * on (c) group_left () n:m:r > bool 1e3 and (o < +Inf) or sum(p) without (d))"#,
    )
    .unwrap();
    let names: Vec<(&str, &str)> =
        reads.selectors.iter().map(|of| (of.name.as_str(), of.within.as_str())).collect();
    assert_eq!(names, [("m_total", "rate"), ("n:m:r", "topk"), ("o", ""), ("p", "sum")]);
    assert_eq!(reads.grouping, ["a", "b", "c", "d"]);
    assert_eq!(reads.selectors[0].range.as_deref(), Some("5m"));
    assert_eq!(reads.selectors[0].matchers[0], ("x".to_owned(), "!=".to_owned(), "}\"".to_owned()));
    for bad in ["sum(a", "a)", "a{b=c}", "a{b=\"c}", "sum by a (b)", r#"{job="x"}"#, "a[5m"] {
        assert!(promql::reads(bad).is_err(), "{bad}");
    }
}

// === alerts ===

/// Everything that is wrong with the alerts.
fn alert_complaints(rules: &Rules, catalogue: &Catalogue) -> Vec<String> {
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    for (name, expr) in &rules.recorded {
        if catalogue.find(name).is_none() {
            found.push(format!("{name}: say its labels in tests/it/dashboards/rules.rs"));
        }
        found.extend(expr_complaints(name, expr, catalogue));
    }
    for alert in &rules.alerts {
        let name = &alert.name;
        let mut check = |holds: bool, what: &str| {
            if !holds {
                found.push(format!("{name}: {what}"));
            }
        };
        check(names.insert(name.clone()), "twice");
        check(name.starts_with("Usernsd") && name.chars().all(char::is_alphanumeric), "name");
        check(alert.rule["for"].is_string(), "no for");
        let severity = alert.rule["labels"]["severity"].as_str().unwrap_or_default();
        check(["critical", "warning", "info"].contains(&severity), "severity");
        let text = |key: &str| alert.rule["annotations"][key].as_str().unwrap_or_default();
        let summary = text("summary");
        check(summary.ends_with('.') && !summary.contains("{{"), "the summary is one static sentence");
        let description = text("description");
        check(
            description.ends_with('.') && description.matches(['.', ':', ';']).count() > 1,
            "description and remedy",
        );
        let placed = description.contains("{{ $labels.instance }}") || name == "UsernsdAbsent";
        check(placed, "the description does not say where");
        let page = name.to_lowercase();
        check(text("runbook_url") == format!("{}{page}", render::RUNBOOKS), "runbook_url");
        check(path(&format!("docs/runbooks/{page}.md")).is_file(), "no page in docs/runbooks");
        found.extend(expr_complaints(name, &alert.expr, catalogue));
    }
    found
}

fn expr_complaints(name: &str, expr: &str, catalogue: &Catalogue) -> Vec<String> {
    let reads = match promql::reads(expr) {
        Ok(reads) => reads,
        Err(error) => return vec![format!("{name}: {error}")],
    };
    let mut found = lint::unknown(&reads, catalogue);
    for selector in &reads.selectors {
        let ours = ("job".to_owned(), "=".to_owned(), "usernsd".to_owned());
        if !selector.matchers.contains(&ours) {
            found.push(format!("{}: no job=\"usernsd\"", selector.name));
        }
        if catalogue.find(&selector.name).is_some_and(|of| of.kind != catalogue::Kind::Gauge)
            && !["rate", "increase"].contains(&selector.within.as_str())
        {
            found.push(format!("{} is a counter", selector.name));
        }
    }
    found.into_iter().map(|what| format!("{name}: {what}")).collect()
}

#[test]
fn alerts_keep_the_rules() {
    let found = alert_complaints(&Rules::read(), &rules::catalogue());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn each_rule_finds_an_alert_that_breaks_it() {
    let catalogue = rules::catalogue();
    let whole = read("dashboards/alerts.yaml");
    for (from, to, words) in [
        ("alert: UsernsdDown", "alert: UsernsdPeerDown", "twice"),
        ("alert: UsernsdDown", "alert: AgentDown", "AgentDown: name"),
        ("          for: 10m\n", "", "no for"),
        ("severity: info", "severity: page", "severity"),
        ("A pod shares host IDs with another owner.", "Host ID ranges overlap", "static sentence"),
        (
            "A pod shares host IDs with another owner.",
            "Overlap on {{ $labels.instance }}.",
            "static sentence",
        ),
        ("the agent on {{ $labels.instance }}", "the agent", "does not say where"),
        ("runbooks/usernsddown", "runbooks/down", "runbook_url"),
        ("alert: UsernsdDown", "alert: UsernsdGone", "no page in docs/runbooks"),
        ("up{job=\"usernsd\"}[5m]", "up[5m]", "no job"),
        ("up{job=\"usernsd\"}[5m]", "ups{job=\"usernsd\"}[5m]", "is not in docs/metrics.md"),
        (
            "increase(usernsd_fix_failures_total{job=\"usernsd\"}[15m])",
            "usernsd_fix_failures_total{job=\"usernsd\"}",
            "counter",
        ),
        ("cgroup_state=\"owner_wrong\"", "cgroup_state=\"wrong\"", "is never"),
        ("record: instance_pool:usernsd_id_pool_used:ratio", "record: pool:used:ratio", "say its labels"),
    ] {
        assert!(whole.contains(from), "{from}");
        let found = alert_complaints(&Rules::parse(&whole.replacen(from, to, 1)), &catalogue);
        assert!(
            found.iter().any(|what| what.contains(words)),
            "{to:?} goes through without {words:?}: {found:?}"
        );
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    let Some(promtool) = tools::found_or_skip("promtool") else { return };
    let whole = plain(&read("dashboards/alerts.yaml"));
    let (good, output) = promtool_check(&promtool, &whole);
    assert!(good, "{output}");
    // Invalid rules, and a duplicate, which only the linter finds.
    for (from, to, words) in [
        ("for: 10m", "for: ten minutes", "not a valid duration"),
        ("absent(up{", "absent(up{{", "could not parse expression"),
        ("{{ $labels.pool }}", "{{ .pool ", "template"),
    ] {
        let (good, output) = promtool_check(&promtool, &whole.replacen(from, to, 1));
        assert!(!good && output.contains(words), "{to}: {output}");
    }
    let twice =
        format!("{whole}{}", whole.split_once("groups:\n").unwrap().1.replace("name: ", "name: again."));
    let (good, output) = promtool_check(&promtool, &twice);
    assert!(!good && output.contains("duplicate rule"), "{output}");
}

fn promtool_check(promtool: &std::path::Path, rules: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yaml");
    fs::write(&file, rules).unwrap();
    tools::run(Command::new(promtool).args(["check", "rules", "--lint-fatal"]).arg(file), "")
}

/// Runs unit tests next to the rules that they test, in a separate directory.
fn promtool_test<'a>(
    promtool: &std::path::Path,
    rules: &str,
    tests: impl IntoIterator<Item = &'a String>,
) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rules.yaml"), rules).unwrap();
    let mut command = Command::new(promtool);
    command.current_dir(dir.path()).args(["test", "rules"]);
    for name in tests {
        fs::copy(path("dashboards/tests").join(name), dir.path().join(name)).unwrap();
        command.arg(name);
    }
    tools::run(&mut command, "")
}

fn test_file(alert: &str) -> String {
    alert.to_lowercase() + ".yaml"
}

fn alert_tests() -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path("dashboards/tests")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = read(&format!("dashboards/tests/{name}"));
        found.insert(name, serde_saphyr::from_str(&text).unwrap());
    }
    found
}

#[test]
fn each_alert_is_tested_firing_and_not_firing() {
    let mut fires: BTreeSet<String> = BTreeSet::new();
    let mut silent: BTreeSet<String> = BTreeSet::new();
    let mut recorded: BTreeSet<String> = BTreeSet::new();
    for (file, test) in alert_tests() {
        assert_eq!(test["rule_files"], json!(["rules.yaml"]), "{file}");
        for case in test["tests"].as_array().unwrap() {
            for asked in case["promql_expr_test"].as_array().into_iter().flatten() {
                recorded.insert(asked["expr"].as_str().unwrap().to_owned());
            }
            for asked in case["alert_rule_test"].as_array().into_iter().flatten() {
                let name = asked["alertname"].as_str().unwrap().to_owned();
                assert_eq!(file, test_file(&name), "the file of an alert's tests has its name");
                let expected = asked["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
                if expected {
                    fires.insert(name)
                } else {
                    silent.insert(name)
                };
            }
        }
    }
    let all: BTreeSet<String> = Rules::read().alerts.into_iter().map(|alert| alert.name).collect();
    assert_eq!(fires, all, "alerts that are tested firing, and those there are");
    assert_eq!(silent, all, "alerts that are tested not firing, and those there are");
    let all: BTreeSet<String> = Rules::read().recorded.into_iter().map(|(name, _)| name).collect();
    assert_eq!(recorded, all, "recorded series that are tested, and those there are");
}

#[test]
fn alert_tests_pass_and_notice_each_change() {
    let Some(promtool) = tools::found_or_skip("promtool") else { return };
    let whole = plain(&read("dashboards/alerts.yaml"));
    let (good, output) = promtool_test(&promtool, &whole, alert_tests().keys());
    assert!(good, "{output}");
    // An alert that never fires, and one that always fires.
    let parsed: Value = serde_saphyr::from_str(&whole).unwrap();
    for alert in Rules::read().alerts {
        for expr in ["vector(1) == 0", r#"label_replace(vector(1), "instance", "worker-9", "", "")"#] {
            let mut changed = parsed.clone();
            for group in changed["groups"].as_array_mut().unwrap() {
                for rule in group["rules"].as_array_mut().unwrap() {
                    if rule["alert"] == alert.name.as_str() {
                        rule["expr"] = json!(expr);
                    }
                }
            }
            let (good, output) = promtool_test(&promtool, &changed.to_string(), [&test_file(&alert.name)]);
            assert!(!good && output.contains(&alert.name), "{} as {expr}: {output}", alert.name);
        }
    }
}

// === runbooks ===

#[test]
fn each_runbook_belongs_to_an_alert_or_to_the_checks() {
    let alerts = Rules::read().alerts;
    let mut want: BTreeSet<String> = alerts.iter().map(|alert| alert.name.to_lowercase() + ".md").collect();
    want.extend(["README.md", "checks.md", "checks"].map(str::to_owned));
    let entries = fs::read_dir(path("docs/runbooks")).unwrap();
    let found: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, want);
    for alert in &alerts {
        let page = read(&format!("docs/runbooks/{}.md", alert.name.to_lowercase()));
        assert!(page.starts_with(&format!("# {}\n", alert.name)), "{}", alert.name);
        for part in ["Why it matters", "How to see it", "What to do", "How to verify"] {
            assert!(page.contains(&format!("\n## {part}\n")), "{}: no section {part:?}", alert.name);
        }
    }
}

/// The table of all alerts in `docs/runbooks/README.md`: the critical ones first.
#[test]
fn the_runbooks_list_each_alert_with_its_summary() {
    const HEAD: &str = "| alert | severity | meaning |\n|---|---|---|\n";
    let severity = |alert: &Alert| alert.rule["labels"]["severity"].as_str().unwrap().to_owned();
    let mut alerts = Rules::read().alerts;
    alerts.sort_by_key(|alert| severity(alert) != "critical");
    let row = |alert: &Alert| {
        let (name, page) = (&alert.name, alert.name.to_lowercase());
        let summary = alert.rule["annotations"]["summary"].as_str().unwrap();
        format!("| [{name}]({page}.md) | {} | {summary} |\n", severity(alert))
    };
    let table: String = alerts.iter().map(row).collect();
    let file = "docs/runbooks/README.md";
    let page = read(file);
    let (before, present) = page.split_once(HEAD).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path(file), format!("{before}{HEAD}{table}")).unwrap();
        return;
    }
    assert!(present == table, "{file} is stale; write it with: make generate");
}

#[test]
fn runbooks_name_what_exists() {
    let catalogue = rules::catalogue();
    let of = |directory: &str| -> Vec<String> {
        let entries = fs::read_dir(path("docs/runbooks").join(directory)).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.path().is_file());
        files.map(|entry| format!("{directory}{}", entry.file_name().into_string().unwrap())).collect()
    };
    for name in [of(""), of("checks/")].concat() {
        let page = read(&format!("docs/runbooks/{name}"));
        let directory = &name[..name.find('/').map_or(0, |slash| slash + 1)];
        // Metrics, between backquotes or in a line of code.
        for word in page.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if word.starts_with("usernsd_") {
                let known = catalogue.metrics.contains_key(word) || catalogue.find(word).is_some();
                assert!(known, "{name}: {word} is no metric");
            }
        }
        // Pages and sections.
        for link in page.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            assert!(!file.starts_with("http"), "{name}: {link}");
            let file = if file.is_empty() { name.clone() } else { format!("{directory}{file}") };
            assert!(path("docs/runbooks").join(&file).is_file(), "{name}: {link}");
            let there = section.is_empty()
                || read(&format!("docs/runbooks/{file}")).contains(&format!("\n## {section}\n"));
            assert!(there, "{name}: {link}");
        }
    }
}

/// `usernsd doctor` names a page, the metric has a label, and `--ignore` has an argument: the same word in
/// all three.
#[test]
fn each_check_has_a_page() {
    let file = |check: Check| format!("docs/runbooks/checks/{}.md", check.name());
    if std::env::var_os("UPDATE").is_some() {
        for check in Check::ALL {
            let found = fs::read_to_string(path(&file(check))).unwrap_or_default();
            let body = match found.find("\n## ") {
                Some(at) => found[at..].to_owned(),
                // To be filled in.
                None => SECTIONS.map(|section| format!("\n## {section}\n")).concat(),
            };
            fs::write(path(&file(check)), check.page_head() + &body).unwrap();
        }
        fs::write(path("docs/runbooks/checks.md"), documented_markdown()).unwrap();
        return;
    }
    assert!(
        read("docs/runbooks/checks.md") == documented_markdown(),
        "docs/runbooks/checks.md is stale; write it with: make generate"
    );
    let entries = fs::read_dir(path("docs/runbooks/checks")).unwrap();
    let found: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let known = Check::ALL.map(|check| format!("{}.md", check.name())).into();
    assert_eq!(found, known, "one page for each check, and no other; write it with: make generate");
    for check in Check::ALL {
        let (page, head) = (read(&file(check)), check.page_head());
        assert!(page.starts_with(&head), "{check:?}: it begins with {head:?}; write it with: make generate");
        for section in SECTIONS {
            let text = page.split_once(&format!("\n## {section}\n\n")).map_or("", |(_, text)| text);
            assert!(
                text.lines().next().is_some_and(|line| !line.is_empty() && !line.starts_with('#')),
                "{check:?}: the section {section:?} is empty"
            );
        }
    }
    let checks = Catalogue::read().find("usernsd_check_passed").unwrap();
    assert_eq!(checks.values("check").unwrap(), Check::ALL.map(Check::name), "the metric's label");
}
