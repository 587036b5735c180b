//! The existing metrics: those that agent and exporter serve (`docs/metrics.md`, rendered from the code), and
//! a few of other programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Labels that a target's scrape adds to each series.
pub(crate) const TARGET_LABELS: [&str; 3] = ["cluster", "instance", "job"];

/// Metrics of other programs that a dashboard or an alert may use: name, labels.
const FOREIGN: [(&str, &[&str]); 2] =
    [("up", &[]), ("container_pressure_memory_waiting_seconds_total", &["namespace", "pod", "container"])];

/// A metric type of the text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The label names, with their values if all of them are known.
    pub(crate) labels: Vec<(String, Vec<String>)>,
    pub(crate) help: String,
}

/// All metrics by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalogue {
    pub(crate) metrics: BTreeMap<String, Metric>,
    foreign: BTreeMap<String, Metric>,
    recorded: BTreeMap<String, Metric>,
}

/// The path of a file in the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The text of a file in the repository.
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

// === impl Kind ===

impl Kind {
    fn parse(word: &str) -> Option<Kind> {
        match word {
            "counter" => Some(Kind::Counter),
            "gauge" => Some(Kind::Gauge),
            "histogram" => Some(Kind::Histogram),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

// === impl Metric ===

impl Metric {
    fn plain(name: &str, labels: &[&str]) -> Metric {
        let labels = labels.iter().map(|label| ((*label).to_owned(), Vec::new())).collect();
        let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
        Metric { name: name.to_owned(), kind, labels, help: String::new() }
    }

    /// Whether the metric's series have that label.
    pub(crate) fn has_label(&self, label: &str) -> bool {
        self.labels.iter().any(|(name, _)| name == label)
    }

    /// All values of a label, if they are known.
    pub(crate) fn values(&self, label: &str) -> Option<&[String]> {
        let (_, values) = self.labels.iter().find(|(name, _)| name == label)?;
        (!values.is_empty()).then_some(values.as_slice())
    }
}

// === impl Catalogue ===

impl Catalogue {
    /// The catalogue of this repository.
    pub(crate) fn read() -> Catalogue {
        let (catalogue, complaints) = Catalogue::parse(&read("docs/metrics.md"));
        assert!(complaints.is_empty(), "{complaints:#?}");
        catalogue
    }

    /// Parses the page of metrics; also returns its problems.
    pub(crate) fn parse(served: &str) -> (Catalogue, Vec<String>) {
        let mut catalogue = Catalogue::default();
        let mut complaints = Vec::new();
        let heading = served.lines().find(|line| line.starts_with("| name |")).unwrap_or_default();
        let columns: Vec<&str> = cells(heading).collect();
        for line in served.lines().filter(|line| line.starts_with("| `")) {
            match served_line(&columns, line) {
                None => complaints.push(format!("docs/metrics.md: cannot read {line:?}")),
                Some(metric) => {
                    let name = metric.name.clone();
                    if catalogue.metrics.insert(name.clone(), metric).is_some() {
                        complaints.push(format!("docs/metrics.md: {name} twice"));
                    }
                }
            }
        }
        if catalogue.metrics.is_empty() {
            complaints.push("docs/metrics.md: no metric".to_owned());
        }
        for (name, labels) in FOREIGN {
            catalogue.foreign.insert(name.to_owned(), Metric::plain(name, labels));
        }
        (catalogue, complaints)
    }

    /// Adds a metric that a recording rule produces.
    pub(crate) fn record(&mut self, name: &str, labels: &[&str]) {
        self.recorded.insert(name.to_owned(), Metric::plain(name, labels));
    }

    /// The metric whose series have this name: a histogram's end in `_bucket`, `_sum`, `_count`.
    pub(crate) fn find(&self, series: &str) -> Option<Metric> {
        let exact =
            [&self.metrics, &self.foreign, &self.recorded].into_iter().find_map(|map| map.get(series));
        if let Some(metric) = exact {
            // A histogram has no series of its own name.
            return (metric.kind != Kind::Histogram).then(|| metric.clone());
        }
        let (base, bucket) = match series.strip_suffix("_bucket") {
            Some(base) => (base, true),
            None => (series.strip_suffix("_sum").or_else(|| series.strip_suffix("_count"))?, false),
        };
        let mut metric = self.metrics.get(base).filter(|metric| metric.kind == Kind::Histogram)?.clone();
        if bucket {
            metric.labels.push(("le".to_owned(), Vec::new()));
        }
        Some(metric)
    }

    pub(crate) fn is_foreign(&self, series: &str) -> bool {
        self.foreign.contains_key(series)
    }
}

/// The cells of a table row.
fn cells(row: &str) -> impl Iterator<Item = &str> {
    row.trim_start_matches("| ").trim_end_matches(" |").split(" | ").map(str::trim)
}

/// ``| `name` | type | `label`: value, value, `label` | meaning |``, and perhaps more between.
fn served_line(columns: &[&str], line: &str) -> Option<Metric> {
    let cells: Vec<&str> = cells(line).collect();
    let cell = |name: &str| {
        let at = columns.iter().position(|column| *column == name)?;
        (cells.len() == columns.len()).then(|| cells[at])
    };
    let name = cell("name")?.trim_matches('`').to_owned();
    let kind = Kind::parse(cell("type")?)?;
    let labels = cell("labels")?;
    let help = cell("meaning")?.to_owned();
    let mut found = Vec::new();
    // Odd pieces are the names between backquotes, even ones what follows them.
    let pieces: Vec<&str> = labels.split('`').collect();
    for pair in pieces.get(1..).unwrap_or_default().chunks(2) {
        let label = pair.first()?;
        let values = pair.get(1).map_or("", |rest| rest.trim_matches([':', ',', ' ']));
        let values = values.split(',').map(str::trim).filter(|value| !value.is_empty());
        found.push(((*label).to_owned(), values.map(str::to_owned).collect()));
    }
    Some(Metric { name, kind, labels: found, help })
}
