//! Panels as Grafana's classic JSON, and as the older panels that the OpenShift console draws.

use serde_json::{Value, json};

/// Replaces each `{S` in Grafana.
const SELECTION: &str = r#"{job=~"$job", cluster=~"$cluster", instance=~"$instance""#;
/// The console has the metrics of only one cluster, and no way to select "with or without that label".
const CONSOLE_SELECTION: &str = r#"{job=~"$job", instance=~"$instance""#;
/// Minimum step: with steps below the scrape interval there are gaps. Grafana makes `$__rate_interval` four
/// times as long.
const MINIMUM_INTERVAL: &str = "30s";
/// URL of the pages in docs/runbooks.
pub(crate) const RUNBOOKS: &str = "https://usernsd.example/runbooks/";
/// Labels and columns that a table shows only if it names them.
const HIDDEN: [&str; 9] =
    ["Time", "__name__", "job", "namespace", "pod", "container", "endpoint", "service", "prometheus"];

/// A threshold: the colour from this value on.
pub(crate) type Step = (Option<f64>, &'static str);

pub(crate) struct Board {
    pub(crate) file: &'static str,
    pub(crate) uid: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) panels: Vec<Panel>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Row,
    Stat,
    Lines,
    Bars,
    Stacked,
    Table,
    Timeline,
    Heatmap,
}

/// A panel, which answers one question.
#[derive(Clone)]
pub(crate) struct Panel {
    kind: Kind,
    title: &'static str,
    question: &'static str,
    unit: &'static str,
    width: u64,
    height: u64,
    steps: Vec<Step>,
    targets: Vec<Target>,
    names: Vec<(&'static str, &'static str)>,
    overrides: Vec<Override>,
    sort: Option<(&'static str, bool)>,
    mappings: Option<Flags>,
    empty: Option<&'static str>,
}

#[derive(Clone, Copy)]
struct Target {
    /// For a line: its legend. For a table: the column of the value, or "" if it is not shown.
    name: &'static str,
    expr: &'static str,
    /// Only a label is of interest; the console cannot merge such a column.
    info: bool,
}

/// Text and colour of the values 0 and 1.
#[derive(Clone, Copy)]
pub(crate) struct Flags([(&'static str, &'static str); 2]);

/// The format of a table's column.
#[derive(Clone)]
pub(crate) enum Override {
    Flags(&'static str, Flags),
    Number(&'static str, &'static str, Vec<Step>),
    Link(&'static str, &'static str, String),
}

// === making panels ===

fn panel(
    kind: Kind,
    title: &'static str,
    unit: &'static str,
    question: &'static str,
    size: (u64, u64),
) -> Panel {
    Panel {
        kind,
        title,
        question,
        unit,
        width: size.0,
        height: size.1,
        steps: vec![(None, "green")],
        targets: Vec::new(),
        names: Vec::new(),
        overrides: Vec::new(),
        sort: None,
        mappings: None,
        empty: None,
    }
}

pub(crate) fn row(title: &'static str) -> Panel {
    panel(Kind::Row, title, "", "", (24, 1))
}

pub(crate) fn stat(
    title: &'static str,
    unit: &'static str,
    expr: &'static str,
    steps: &[Step],
    question: &'static str,
) -> Panel {
    panel(Kind::Stat, title, unit, question, (4, 4)).line("", expr).limited(steps)
}

pub(crate) fn lines(
    title: &'static str,
    unit: &'static str,
    question: &'static str,
    w: u64,
    h: u64,
) -> Panel {
    panel(Kind::Lines, title, unit, question, (w, h))
}

pub(crate) fn bars(title: &'static str, unit: &'static str, question: &'static str, w: u64, h: u64) -> Panel {
    panel(Kind::Bars, title, unit, question, (w, h))
}

pub(crate) fn stacked(
    title: &'static str,
    unit: &'static str,
    question: &'static str,
    w: u64,
    h: u64,
) -> Panel {
    panel(Kind::Stacked, title, unit, question, (w, h))
}

pub(crate) fn table(title: &'static str, question: &'static str, w: u64, h: u64) -> Panel {
    panel(Kind::Table, title, "short", question, (w, h))
}

pub(crate) fn timeline(title: &'static str, question: &'static str, w: u64, h: u64) -> Panel {
    panel(Kind::Timeline, title, "none", question, (w, h))
}

pub(crate) fn heatmap(title: &'static str, question: &'static str, w: u64, h: u64) -> Panel {
    panel(Kind::Heatmap, title, "short", question, (w, h))
}

/// Text and colour for the value 0 (`no`) and 1 (`yes`).
pub(crate) fn flags(
    no: &'static str,
    no_color: &'static str,
    yes: &'static str,
    yes_color: &'static str,
) -> Flags {
    Flags([(no, no_color), (yes, yes_color)])
}

pub(crate) fn yes_no(column: &'static str, no: &'static str, yes: &'static str) -> Override {
    Override::Flags(column, flags("no", no, "yes", yes))
}

pub(crate) fn column(name: &'static str, unit: &'static str, steps: &[Step]) -> Override {
    Override::Number(name, unit, steps.to_vec())
}

impl Panel {
    pub(crate) fn line(mut self, legend: &'static str, expr: &'static str) -> Panel {
        self.targets.push(Target { name: legend, expr, info: false });
        self
    }

    pub(crate) fn query(self, column: &'static str, expr: &'static str) -> Panel {
        self.line(column, expr)
    }

    pub(crate) fn info(mut self, _label: &'static str, expr: &'static str) -> Panel {
        self.targets.push(Target { name: "", expr, info: true });
        self
    }

    pub(crate) fn names(mut self, names: &[(&'static str, &'static str)]) -> Panel {
        self.names = names.to_vec();
        self
    }

    pub(crate) fn sorted(mut self, column: &'static str, descending: bool) -> Panel {
        self.sort = Some((column, descending));
        self
    }

    pub(crate) fn with(mut self, shown: Override) -> Panel {
        self.overrides.push(shown);
        self
    }

    pub(crate) fn limited(mut self, steps: &[Step]) -> Panel {
        self.steps = steps.to_vec();
        self
    }

    pub(crate) fn mapped(mut self, flags: Flags) -> Panel {
        self.mappings = Some(flags);
        self
    }

    pub(crate) fn empty(mut self, text: &'static str) -> Panel {
        self.empty = Some(text);
        self
    }

    pub(crate) fn linked_to_node(self) -> Panel {
        let url = "/d/usernsd-node?${datasource:queryparam}&${job:queryparam}&${cluster:queryparam}\
                   &var-instance=${__value.text:percentencode}&${__url_time_range}";
        self.with(Override::Link("Node", "Show this node", url.to_owned()))
    }

    pub(crate) fn linked_to_check(self) -> Panel {
        let url = format!("{RUNBOOKS}checks/${{__value.text:percentencode}}");
        self.with(Override::Link("Check", "What to do", url))
    }
}

// === Grafana ===

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn letter(index: usize) -> String {
    char::from(b'A' + u8::try_from(index).unwrap()).to_string()
}

fn thresholds(steps: &[Step]) -> Value {
    let steps: Vec<Value> =
        steps.iter().map(|(value, color)| json!({"value": value, "color": color})).collect();
    json!({"mode": "absolute", "steps": steps})
}

impl Flags {
    fn grafana(self) -> Value {
        let [(no, no_color), (yes, yes_color)] = self.0;
        json!([{"type": "value", "options": {
            "0": {"text": no, "color": no_color, "index": 0},
            "1": {"text": yes, "color": yes_color, "index": 1},
        }}])
    }
}

impl Override {
    fn grafana(&self) -> Value {
        let (name, properties) = match self {
            Override::Flags(name, flags) => (
                name,
                json!([
                    {"id": "mappings", "value": flags.grafana()},
                    {"id": "custom.cellOptions", "value": {"type": "color-text"}},
                ]),
            ),
            Override::Number(name, unit, steps) => (
                name,
                json!([
                    {"id": "unit", "value": unit},
                    {"id": "thresholds", "value": thresholds(steps)},
                    {"id": "custom.cellOptions", "value": {"type": "color-text"}},
                ]),
            ),
            Override::Link(name, title, url) => {
                (name, json!([{"id": "links", "value": [{"title": title, "url": url}]}]))
            }
        };
        json!({"matcher": {"id": "byName", "options": name}, "properties": properties})
    }
}

impl Panel {
    fn targets(&self) -> Value {
        let instant = matches!(self.kind, Kind::Stat | Kind::Table);
        let format = match self.kind {
            Kind::Table => "table",
            Kind::Heatmap => "heatmap",
            _ => "time_series",
        };
        let target = |(index, target): (usize, &Target)| {
            let mut made = json!({
                "refId": letter(index),
                "datasource": source(),
                "editorMode": "code",
                "expr": target.expr.replace("{S", SELECTION),
                "format": format,
                "instant": instant,
                "range": !instant,
            });
            if !instant {
                made["legendFormat"] = json!(target.name);
            }
            made
        };
        self.targets.iter().enumerate().map(target).collect()
    }

    fn table_transformations(&self) -> Value {
        let mut renamed = serde_json::Map::new();
        let mut excluded = serde_json::Map::new();
        let mut order = serde_json::Map::new();
        for (label, name) in &self.names {
            renamed.insert((*label).to_owned(), json!(name));
            order.insert((*label).to_owned(), json!(order.len()));
        }
        for (index, target) in self.targets.iter().enumerate() {
            // If it is the only column, it is called Value.
            let letter = letter(index);
            let field = if self.targets.len() == 1 { "Value".to_owned() } else { format!("Value #{letter}") };
            if target.name.is_empty() {
                excluded.insert(field, json!(true));
            } else {
                renamed.insert(field.clone(), json!(target.name));
                order.insert(field, json!(order.len()));
            }
        }
        for label in HIDDEN.iter().filter(|label| self.names.iter().all(|(name, _)| name != *label)) {
            excluded.insert((*label).to_owned(), json!(true));
        }
        json!([
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {
                "excludeByName": excluded, "indexByName": order, "renameByName": renamed,
            }},
        ])
    }

    fn custom(&self) -> Value {
        let lines = |style: &str, fill: u64, stacking: &str| {
            json!({
                "drawStyle": style,
                "fillOpacity": fill,
                "lineWidth": 1,
                "showPoints": "never",
                "stacking": {"group": "A", "mode": stacking},
                "thresholdsStyle": {"mode": if self.steps.len() > 1 { "dashed" } else { "off" }},
            })
        };
        match self.kind {
            Kind::Lines => lines("line", 5, "none"),
            Kind::Stacked => lines("line", 40, "normal"),
            Kind::Bars => lines("bars", 80, "normal"),
            Kind::Timeline => json!({"fillOpacity": 80, "lineWidth": 0}),
            Kind::Table => json!({"align": "auto", "filterable": true}),
            Kind::Stat | Kind::Heatmap | Kind::Row => json!({}),
        }
    }

    fn options(&self) -> Value {
        match self.kind {
            Kind::Stat => json!({
                "colorMode": "value",
                "graphMode": "none",
                "justifyMode": "auto",
                "orientation": "auto",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                "textMode": "value",
            }),
            Kind::Lines | Kind::Bars | Kind::Stacked => json!({
                "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Kind::Timeline => json!({
                "alignValue": "left",
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "mergeValues": true,
                "rowHeight": 0.9,
                "showValue": "auto",
                "tooltip": {"mode": "single", "sort": "none"},
            }),
            Kind::Heatmap => json!({
                "calculate": false,
                "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "legend": {"show": true},
                "tooltip": {"mode": "single", "showColorScale": true, "yHistogram": false},
                "yAxis": {"axisPlacement": "left", "unit": "s"},
            }),
            Kind::Table => {
                let sort: Vec<Value> = (self.sort.iter())
                    .map(|(column, descending)| json!({"displayName": column, "desc": descending}))
                    .collect();
                json!({"cellHeight": "sm", "showHeader": true, "sortBy": sort})
            }
            Kind::Row => json!({}),
        }
    }

    fn grafana(&self, id: usize, x: u64, y: u64) -> Value {
        let place = json!({"h": self.height, "w": self.width, "x": x, "y": y});
        if self.kind == Kind::Row {
            let title = self.title;
            return json!({"id": id, "type": "row", "title": title, "collapsed": false, "gridPos": place, "panels": []});
        }
        let kind = match self.kind {
            Kind::Stat => "stat",
            Kind::Table => "table",
            Kind::Timeline => "state-timeline",
            Kind::Heatmap => "heatmap",
            Kind::Lines | Kind::Bars | Kind::Stacked | Kind::Row => "timeseries",
        };
        let color = match self.kind {
            Kind::Lines | Kind::Bars | Kind::Stacked => "palette-classic",
            _ => "thresholds",
        };
        let mut defaults = json!({
            "color": {"mode": color},
            "custom": self.custom(),
            "mappings": self.mappings.map_or_else(|| json!([]), Flags::grafana),
            "thresholds": thresholds(&self.steps),
            "unit": self.unit,
        });
        if let Some(text) = self.empty {
            defaults["noValue"] = json!(text);
        }
        let overrides: Vec<Value> = self.overrides.iter().map(Override::grafana).collect();
        let mut panel = json!({
            "id": id,
            "type": kind,
            "title": self.title,
            "description": self.question,
            "datasource": source(),
            "gridPos": place,
            "interval": MINIMUM_INTERVAL,
            "fieldConfig": {"defaults": defaults, "overrides": overrides},
            "options": self.options(),
            "targets": self.targets(),
        });
        if self.kind == Kind::Table {
            panel["transformations"] = self.table_transformations();
        }
        panel
    }
}

fn variable(name: &str, label: &str, query: &str, all: &str) -> Value {
    json!({
        "type": "query",
        "name": name,
        "label": label,
        "datasource": source(),
        "definition": query,
        "query": query,
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "multi": true,
        "includeAll": true,
        "allValue": all,
        "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "options": [],
        "skipUrlSync": false,
    })
}

impl Board {
    /// The dashboard for Grafana, with panels from left to right and from top to bottom.
    pub(crate) fn grafana(&self) -> Value {
        let (mut x, mut y, mut height) = (0, 0, 0);
        let mut panels = Vec::new();
        for (index, panel) in self.panels.iter().enumerate() {
            if x + panel.width > 24 {
                (x, y, height) = (0, y + height, 0);
            }
            panels.push(panel.grafana(index + 1, x, y));
            x += panel.width;
            height = height.max(panel.height);
        }
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["usernsd"],
            "schemaVersion": 39,
            "editable": false,
            "graphTooltip": 1,
            "timezone": "utc",
            "refresh": "1m",
            "time": {"from": "now-6h", "to": "now"},
            "annotations": {"list": []},
            "links": [{
                "type": "dashboards",
                "title": "usernsd",
                "tags": ["usernsd"],
                "asDropdown": false,
                "icon": "external link",
                "includeVars": true,
                "keepTime": true,
                "targetBlank": false,
            }],
            "templating": {"list": [
                {
                    "type": "datasource",
                    "name": "datasource",
                    "label": "Data source",
                    "query": "prometheus",
                    "refresh": 1,
                    "regex": "",
                    "multi": false,
                    "includeAll": false,
                    "current": {},
                    "hide": 0,
                    "options": [],
                    "skipUrlSync": false,
                },
                // Series that also exist if no agent answers.
                variable("job", "Job", r#"label_values(up{job="usernsd"}, job)"#, ".+"),
                // If Prometheus has only one cluster, no series has that label.
                variable("cluster", "Cluster", r#"label_values(up{job="usernsd"}, cluster)"#, ".*"),
                variable("instance", "Instance",
                    r#"label_values(up{job="usernsd", cluster=~"$cluster"}, instance)"#, ".+"),
            ]},
            "panels": panels,
        })
    }
}

// === OpenShift console ===

impl Panel {
    fn console(&self, id: usize) -> Option<Value> {
        let targets: Vec<Value> = (self.targets.iter().enumerate())
            .filter(|(_, target)| !target.info)
            .map(|(index, target)| {
                let expr = target.expr.replace("{S", CONSOLE_SELECTION).replace("cluster, ", "");
                let mut made = json!({"refId": letter(index), "expr": expr});
                if !matches!(self.kind, Kind::Stat | Kind::Table) {
                    made["legendFormat"] = json!(target.name);
                }
                made
            })
            .collect();
        let mut panel = json!({
            "id": id,
            "title": self.title,
            "description": self.question,
            "span": self.width / 2,
            "targets": targets,
        });
        match self.kind {
            Kind::Row | Kind::Heatmap => return None,
            Kind::Stat => {
                panel["type"] = json!("singlestat");
                panel["format"] = json!(if self.unit == "bool_yes_no" { "none" } else { self.unit });
                panel["decimals"] = json!(0);
                if self.unit == "bool_yes_no" {
                    panel["valueMaps"] = json!([
                        {"op": "=", "value": "0", "text": "No"}, {"op": "=", "value": "1", "text": "Yes"},
                    ]);
                }
                let steps: Vec<Value> = (self.steps.iter())
                    .map(|(value, color)| json!({"value": value.unwrap_or(0.0), "color": color}))
                    .collect();
                panel["options"] = json!({"fieldOptions": {"thresholds": steps}});
            }
            Kind::Lines | Kind::Bars | Kind::Stacked | Kind::Timeline => {
                panel["type"] = json!("graph");
                panel["stack"] = json!(matches!(self.kind, Kind::Bars | Kind::Stacked));
                panel["legend"] = json!({"show": true});
                let unit =
                    if matches!(self.unit, "bytes" | "percentunit" | "s") { self.unit } else { "short" };
                panel["yaxes"] = json!([{"format": unit}]);
            }
            Kind::Table => {
                panel["type"] = json!("table");
                panel["transform"] = json!("table");
                let labels = (self.names.iter())
                    .filter(|(label, _)| !matches!(*label, "cluster" | "version"))
                    .map(|(label, name)| json!({"pattern": label, "alias": name, "type": "string"}));
                let values = (self.targets.iter().enumerate())
                    .filter(|(_, target)| !target.name.is_empty())
                    .map(|(index, target)| {
                        let unit = self.overrides.iter().find_map(|shown| match shown {
                            Override::Number(name, unit, _) if *name == target.name => Some(*unit),
                            _ => None,
                        });
                        json!({
                            "pattern": format!("Value #{}", letter(index)),
                            "alias": target.name,
                            "type": "number",
                            "unit": unit.unwrap_or("none"),
                            "decimals": 0,
                        })
                    });
                panel["styles"] = labels.chain(values).collect();
            }
        }
        Some(panel)
    }
}

impl Board {
    /// The dashboard for the OpenShift console, in a ConfigMap.
    pub(crate) fn console(&self) -> String {
        let mut rows: Vec<Value> = Vec::new();
        for (index, panel) in self.panels.iter().enumerate() {
            if panel.kind == Kind::Row {
                rows.push(json!({"title": panel.title, "showTitle": true, "collapse": false, "panels": []}));
            } else if let (Some(row), Some(made)) = (rows.last_mut(), panel.console(index + 1)) {
                row["panels"].as_array_mut().unwrap().push(made);
            }
        }
        // The console requires the space after the comma of label_values.
        let variable = |name: &str, label: &str, query: &str| {
            json!({"type": "query", "name": name, "label": label, "query": query, "hide": 0,
                "includeAll": true, "multi": false, "options": []})
        };
        let board = json!({
            "title": self.title,
            "tags": ["usernsd"],
            "templating": {"list": [
                variable("job", "Job", r#"label_values(up{job="usernsd"}, job)"#),
                variable("instance", "Instance", r#"label_values(up{job="usernsd"}, instance)"#),
            ]},
            "rows": rows,
        });
        let text = serde_json::to_string_pretty(&board).unwrap();
        let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {uid}\n  namespace: openshift-config-managed\n  \
             labels:\n    console.openshift.io/dashboard: \"true\"\ndata:\n  {uid}.json: |\n{indented}",
            uid = self.uid
        )
    }
}
