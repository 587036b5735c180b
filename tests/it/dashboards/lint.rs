//! The rules for dashboards: those of Grafana's dashboard-linter under their names there, and our own.

use std::collections::BTreeSet;

use serde_json::Value;

use super::catalogue::{Catalogue, Kind, TARGET_LABELS};
use super::promql::{self, Reads};

/// The units in use; each is one of Grafana's.
const UNITS: [&str; 7] = ["bool_yes_no", "bytes", "none", "ops", "percentunit", "s", "short"];
/// Angular panels that Grafana 12 no longer draws, and the old table.
const GONE: [&str; 5] =
    ["graph", "singlestat", "table-old", "grafana-piechart-panel", "grafana-worldmap-panel"];

/// Permitted exceptions from `dashboards/.lint`: rule, dashboard, panel.
pub(crate) type Exclusions = BTreeSet<(String, String, String)>;

/// The exclusions of a `.lint` file; each rule gives its reason.
pub(crate) fn exclusions(text: &str) -> Exclusions {
    let read: Value = serde_saphyr::from_str(text).unwrap();
    let mut found = Exclusions::new();
    for (rule, excluded) in read["exclusions"].as_object().unwrap() {
        assert!(excluded["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{rule}: no reason");
        for entry in excluded["entries"].as_array().unwrap() {
            let word = |key: &str| entry[key].as_str().unwrap().to_owned();
            found.insert((rule.clone(), word("dashboard"), word("panel")));
        }
    }
    found
}

struct Lint<'a> {
    board: &'a Value,
    catalogue: &'a Catalogue,
    complaints: Vec<(&'static str, String, String)>,
}

/// Everything that is wrong with a dashboard: `rule: panel: what`. An exclusion that excludes nothing is
/// wrong, too.
pub(crate) fn complaints(board: &Value, catalogue: &Catalogue, exclusions: &Exclusions) -> Vec<String> {
    let mut lint = Lint { board, catalogue, complaints: Vec::new() };
    lint.dashboard();
    lint.variables();
    lint.panels();
    let title = text(board, "title");
    let excuse = |(rule, panel, _): &(&str, String, String)| {
        exclusions.contains(&((*rule).to_owned(), title.to_owned(), panel.clone()))
    };
    let (excused, left): (Vec<_>, Vec<_>) = lint.complaints.into_iter().partition(excuse);
    let mut found: Vec<String> =
        left.into_iter().map(|(rule, panel, what)| format!("{rule}: {panel}: {what}")).collect();
    for (rule, dashboard, panel) in exclusions.iter().filter(|(_, dashboard, _)| dashboard == title) {
        if !excused.iter().any(|(by, of, _)| by == rule && of == panel) {
            found.push(format!(
                "lint-file: {panel}: {dashboard:?} does not break {rule} there, remove the exclusion"
            ));
        }
    }
    found
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

impl Lint<'_> {
    fn say(&mut self, rule: &'static str, panel: &str, what: impl Into<String>) {
        self.complaints.push((rule, panel.to_owned(), what.into()));
    }

    fn check(&mut self, holds: bool, rule: &'static str, panel: &str, what: impl Into<String>) {
        if !holds {
            self.say(rule, panel, what);
        }
    }

    fn dashboard(&mut self) {
        let board = self.board;
        self.check(board["editable"] == false, "uneditable-dashboard", "", "editable must be false");
        self.check(board["schemaVersion"] == 39, "schema", "", "schemaVersion must be 39");
        self.check(board["timezone"] == "utc", "schema", "", "timezone must be utc");
        self.check(board["graphTooltip"] == 1, "schema", "", "graphTooltip must be 1");
        self.check(board.get("id").is_none(), "schema", "", "id is one Grafana's own");
        self.check(board.get("__inputs").is_none(), "schema", "", "__inputs is for grafana.com");
        let uid = text(board, "uid");
        let kebab =
            !uid.is_empty() && uid.len() <= 40 && uid.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        self.check(kebab, "schema", "", format!("uid {uid:?}"));
        self.check(!text(board, "title").is_empty(), "schema", "", "no title");
        self.check(text(board, "description").contains('?'), "schema", "", "the description asks nothing");
        self.check(list(board, "tags").contains(&"usernsd".into()), "schema", "", "tag usernsd is missing");
        let linked = list(board, "links").iter().any(|link| link["includeVars"] == true);
        self.check(linked, "schema", "", "no link to the other dashboard with the variables");
    }

    fn variables(&mut self) {
        let variables = list(&self.board["templating"], "list");
        let source: Vec<&Value> = variables.iter().filter(|of| of["type"] == "datasource").collect();
        let named = matches!(source.as_slice(), [one] if one["name"] == "datasource"
            && one["label"] == "Data source" && one["query"] == "prometheus");
        self.check(
            named,
            "template-datasource-rule",
            "",
            "want one variable datasource, Data source, prometheus",
        );
        for (name, label, rule, all) in [
            ("job", "Job", "template-job-rule", ".+"),
            ("cluster", "Cluster", "template-cluster", ".*"),
            ("instance", "Instance", "template-instance-rule", ".+"),
        ] {
            let Some(of) = variables.iter().find(|of| of["name"] == name) else {
                self.say(rule, "", format!("no variable {name}"));
                continue;
            };
            let right = of["type"] == "query"
                && of["label"] == label
                && of["multi"] == true
                && of["includeAll"] == true
                && of["allValue"] == all
                && of["datasource"]["uid"] == "${datasource}";
            self.check(right, rule, "", format!("{name}: want a query labelled {label}, multi, all {all}"));
        }
        for of in variables.iter().filter(|of| of["type"] == "query") {
            let name = text(of, "name");
            self.check(
                of["refresh"] == 2,
                "template-on-time-change-reload-rule",
                "",
                format!("{name}: refresh"),
            );
            let Some((selector, label)) = label_values(text(of, "query")) else {
                self.say(
                    "template-label-promql-rule",
                    "",
                    format!("{name}: want label_values(metric, label)"),
                );
                continue;
            };
            self.check(
                label == name,
                "template-label-promql-rule",
                "",
                format!("{name} has the values of {label}"),
            );
            match promql::reads(&selector) {
                Ok(reads) => self.names("", &reads),
                Err(error) => self.say("template-label-promql-rule", "", error),
            }
        }
    }

    fn panels(&mut self) {
        let panels = list(self.board, "panels");
        self.check(panels.first().is_some_and(|first| first["type"] == "row"), "layout", "", "no row first");
        let mut ids = BTreeSet::new();
        let mut places: Vec<([u64; 4], &str)> = Vec::new();
        for panel in panels {
            let title = text(panel, "title");
            let id = panel["id"].as_u64().unwrap_or_default();
            self.check(id > 0 && ids.insert(id), "panel-id", title, format!("id {id} is 0 or used twice"));
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(99));
            self.check(w > 0 && h > 0 && x + w <= 24, "layout", title, "outside of the 24 columns");
            for ([x2, y2, w2, h2], other) in &places {
                let apart = x + w <= *x2 || x2 + w2 <= x || y + h <= *y2 || y2 + h2 <= y;
                self.check(apart, "layout", title, format!("overlaps {other:?}"));
            }
            places.push(([x, y, w, h], title));
            if panel["type"] == "row" {
                self.check(
                    w == 24 && h == 1 && !title.is_empty(),
                    "layout",
                    title,
                    "a row is 24 wide and has a title",
                );
            } else {
                self.panel(panel, title);
            }
        }
    }

    fn panel(&mut self, panel: &Value, title: &str) {
        let kind = text(panel, "type");
        self.check(
            !kind.is_empty() && !GONE.contains(&kind),
            "panel-type",
            title,
            format!("{kind:?} is deprecated"),
        );
        self.check(!title.is_empty(), "panel-title-description-rule", title, "no title");
        let description = text(panel, "description");
        self.check(!description.is_empty(), "panel-title-description-rule", title, "no description");
        self.check(
            description.matches('?').count() == 1,
            "question",
            title,
            "not one question as its description",
        );
        self.check(
            is_templated(panel),
            "panel-datasource-rule",
            title,
            "the data source is not ${datasource}",
        );
        let defaults = &panel["fieldConfig"]["defaults"];
        let unit = text(defaults, "unit");
        self.check(UNITS.contains(&unit), "panel-units-rule", title, format!("unit {unit:?}"));
        for shown in
            list(&panel["fieldConfig"], "overrides").iter().flat_map(|shown| list(shown, "properties"))
        {
            let known =
                shown["id"] != "unit" || shown["value"].as_str().is_some_and(|unit| UNITS.contains(&unit));
            self.check(known, "panel-units-rule", title, format!("unit {}", shown["value"]));
        }
        self.check(!text(panel, "interval").is_empty(), "minimum-interval", title, "no minimum interval");
        self.thresholds(&defaults["thresholds"], title);
        let targets = list(panel, "targets");
        self.check(!targets.is_empty(), "panel-no-targets-rule", title, "no target");
        let mut letters = BTreeSet::new();
        for target in targets {
            let letter = text(target, "refId");
            self.check(
                letters.insert(letter) && !letter.is_empty(),
                "ref-id",
                title,
                format!("refId {letter:?}"),
            );
            self.check(
                is_templated(target),
                "panel-datasource-rule",
                title,
                "a target's is not ${datasource}",
            );
            let instant = matches!(kind, "stat" | "table");
            self.check(
                target["instant"] == instant,
                "instant",
                title,
                format!("{letter}: instant must be {instant}"),
            );
            match promql::reads(text(target, "expr")) {
                Ok(reads) if !reads.selectors.is_empty() => self.target(title, &reads),
                Ok(_) => self.say("target-promql-rule", title, "reads nothing"),
                Err(error) => self.say("target-promql-rule", title, error),
            }
        }
    }

    fn thresholds(&mut self, thresholds: &Value, title: &str) {
        let steps = list(thresholds, "steps");
        let mut last = f64::NEG_INFINITY;
        for (index, step) in steps.iter().enumerate() {
            let value = step["value"].as_f64();
            let rises = if index == 0 { value.is_none() } else { value.is_some_and(|value| value > last) };
            self.check(
                rises && step["color"].is_string(),
                "thresholds",
                title,
                "must rise from null, with colours",
            );
            last = value.unwrap_or(last);
        }
        self.check(!steps.is_empty(), "thresholds", title, "none");
    }

    fn target(&mut self, title: &str, reads: &Reads) {
        self.names(title, reads);
        for selector in &reads.selectors {
            let name = &selector.name;
            let is = |label: &str| {
                let value = format!("${label}");
                selector.matchers.iter().any(|(of, op, to)| of == label && op == "=~" && *to == value)
            };
            self.check(is("job"), "target-job-rule", title, format!("{name}: no job=~\"$job\""));
            self.check(
                is("instance"),
                "target-instance-rule",
                title,
                format!("{name}: no instance=~\"$instance\""),
            );
            self.check(
                is("cluster") || self.catalogue.is_foreign(name) && name != "up",
                "target-cluster",
                title,
                format!("{name}: no cluster=~\"$cluster\""),
            );
            let rated = matches!(selector.within.as_str(), "rate" | "irate" | "increase");
            let cumulative = self.catalogue.find(name).is_some_and(|of| of.kind != Kind::Gauge);
            self.check(
                !cumulative || rated,
                "target-counter-agg-rule",
                title,
                format!("{name} is a counter"),
            );
            self.check(
                cumulative || !rated,
                "target-counter-agg-rule",
                title,
                format!("{name} is no counter"),
            );
            let range = selector.range.as_deref();
            let stepped = !rated
                || range == Some("$__rate_interval")
                || selector.within == "increase" && range == Some("$__range");
            self.check(
                stepped,
                "target-rate-interval-rule",
                title,
                format!("{name}[{}]", range.unwrap_or_default()),
            );
        }
    }

    fn names(&mut self, title: &str, reads: &Reads) {
        for what in unknown(reads, self.catalogue) {
            self.say("known-names", title, what);
        }
    }
}

fn is_templated(of: &Value) -> bool {
    of["datasource"]["uid"] == "${datasource}" && of["datasource"]["type"] == "prometheus"
}

/// `label_values(selector, label)`, with the space that the OpenShift console needs.
pub(crate) fn label_values(query: &str) -> Option<(String, String)> {
    let (selector, label) = query.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(", ")?;
    Some((selector.to_owned(), label.to_owned()))
}

/// Names in an expression that do not exist: of metrics, labels, and values of labels.
pub(crate) fn unknown(reads: &Reads, catalogue: &Catalogue) -> Vec<String> {
    let mut found = Vec::new();
    let mut labels: BTreeSet<String> = TARGET_LABELS.map(str::to_owned).into();
    // Labels that label_replace creates.
    labels.insert("peer".to_owned());
    for selector in &reads.selectors {
        let name = &selector.name;
        let Some(metric) = catalogue.find(name) else {
            found.push(format!("{name} is not in docs/metrics.md"));
            continue;
        };
        labels.extend(metric.labels.iter().map(|(label, _)| label.clone()));
        for (label, operator, value) in &selector.matchers {
            if !metric.has_label(label) && !TARGET_LABELS.contains(&label.as_str()) {
                found.push(format!("{name} has no label {label}"));
            }
            let wanted: Vec<&str> =
                if operator.ends_with('~') { value.split('|').collect() } else { vec![value] };
            if let Some(known) = metric.values(label) {
                for value in wanted.iter().filter(|value| !known.iter().any(|one| one == **value)) {
                    found.push(format!("{name}: {label} is never {value:?}"));
                }
            }
        }
    }
    for label in reads.grouping.iter().filter(|label| !labels.contains(*label)) {
        found.push(format!("nothing here has the label {label}"));
    }
    found
}
