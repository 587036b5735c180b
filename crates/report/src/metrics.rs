//! The agent's counters, and the metrics that are computed from its records at each scrape.
//!
//! Counters live as long as the agent. Everything else is computed for each scrape from one survey of the
//! node, so that removed objects leave no series behind. Of the texts that a pod's author controls, only
//! names that Kubernetes would accept become labels, for a bounded number of pods: see [`Exposition`].
//! `docs/metrics.md` is rendered from here.

pub mod cluster;
mod exporter;
mod http;
mod process;
mod scrape;

pub use exporter::ExporterMetrics;
pub use http::HttpMetrics;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::core::Collector;
use prometheus::proto::MetricType;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::store::Store;
use usernsd_domain::adjust::Ungranted;
use usernsd_domain::delegation::Skip;
use usernsd_domain::node::{Exposition, Snapshot, Survey};
pub use usernsd_domain::record::Action;
use usernsd_domain::repair::Missed;

/// From the fastest fix to a resync that found a missed container. The upper buckets are for systemd, not
/// for NRI.
const FIX_DELAYS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// The runtime waits for this time; the last bucket is its time limit of 2 s.
const HANDLING: [f64; 13] =
    [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.0];

/// Why the agent inspects all containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResyncReason {
    /// The agent has started.
    Startup,
    /// The interval has passed.
    Periodic,
    /// A peer was reconnected, and events may have been lost.
    StreamLost,
}

/// Why a request or an expected action was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalReason(&'static str);

/// A call of the runtime at which the guard decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardCall {
    /// The container is about to be created.
    CreateContainer,
    /// The container is about to run.
    StartContainer,
}

/// A change of a container, from the runtime's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeEvent {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// A question to the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Version,
    ListPodSandbox,
    ListContainers,
    ContainerStatus,
    PodSandboxStatus,
    GetContainerEvents,
}

/// Surveys the node for a scrape.
pub type SurveyFn = Arc<dyn Fn(&Snapshot) -> Survey + Send + Sync>;

/// The agent's metrics. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    knowledge: Arc<scrape::Knowledge>,
    fixes: IntCounterVec,
    fix_failures: IntCounterVec,
    already_right: IntCounter,
    refusals: IntCounterVec,
    guard_unanswered: IntCounterVec,
    missed: IntCounterVec,
    fix_delay: Histogram,
    handling: Histogram,
    reconciles: IntCounterVec,
    reconcile_failures: IntCounterVec,
    stream_reconnects: IntCounter,
    events: IntCounterVec,
    request_failures: IntCounterVec,
    plugin_reports: IntCounter,
    plugin_reports_unreadable: IntCounter,
}

// === impl ResyncReason, GuardCall, RuntimeEvent, Method, RefusalReason ===

usernsd_domain::words! {
    /// The label's value.
    ResyncReason { Startup = "startup", Periodic = "periodic", StreamLost = "stream_lost" }
}

usernsd_domain::words! {
    /// The label's value.
    GuardCall { CreateContainer = "create_container", StartContainer = "start_container" }
}

usernsd_domain::words! {
    /// The label's value.
    RuntimeEvent { Created = "created", Started = "started", Stopped = "stopped", Deleted = "deleted" }
}

usernsd_domain::words! {
    /// The label's value.
    Method {
        Version = "version",
        ListPodSandbox = "list_pod_sandbox",
        ListContainers = "list_containers",
        ContainerStatus = "container_status",
        PodSandboxStatus = "pod_sandbox_status",
        GetContainerEvents = "get_container_events",
    }
}

impl Method {
    /// The method that CRI calls by this name; `None` for one that is not counted.
    #[must_use]
    pub fn of_call(call: &str) -> Option<Method> {
        Some(match call {
            "Version" => Method::Version,
            "ListPodSandbox" => Method::ListPodSandbox,
            "ListContainers" => Method::ListContainers,
            "ContainerStatus" => Method::ContainerStatus,
            "PodSandboxStatus" => Method::PodSandboxStatus,
            "GetContainerEvents" => Method::GetContainerEvents,
            _ => return None,
        })
    }
}

impl RefusalReason {
    /// The guard found a container without the user namespace its pod asked for.
    pub const LOST_ISOLATION: RefusalReason = RefusalReason("lost_isolation");

    /// All reasons. A container that is being created is inspected again, so nothing has been refused to it.
    pub fn all() -> impl Iterator<Item = RefusalReason> {
        let skips = Skip::ALL.into_iter().filter(|skip| *skip != Skip::BeingMade).map(RefusalReason::from);
        skips.chain(Ungranted::NAMES.into_iter().map(RefusalReason)).chain([RefusalReason::LOST_ISOLATION])
    }

    /// The label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }

    /// The reason with that name; `None` for an unknown one.
    #[must_use]
    pub fn named(name: &str) -> Option<RefusalReason> {
        RefusalReason::all().find(|refusal| refusal.0 == name)
    }
}

impl From<Skip> for RefusalReason {
    fn from(skip: Skip) -> RefusalReason {
        RefusalReason(skip.name())
    }
}

impl From<&Ungranted> for RefusalReason {
    fn from(ungranted: &Ungranted) -> RefusalReason {
        RefusalReason(ungranted.name())
    }
}

// === impl Metrics ===

impl Metrics {
    /// Metrics that start at 0, with values from `store` and from `survey` at each scrape. Every series that
    /// is not a pod's exists from the start.
    ///
    /// # Errors
    /// Two metrics share a name: a mistake in this file, which its tests find.
    pub fn new(store: Store, survey: SurveyFn, exposition: Exposition) -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let actions = Action::ALL.map(Action::name);
        let triggers = ResyncReason::ALL.map(ResyncReason::name);
        let reasons: Vec<&str> = RefusalReason::all().map(RefusalReason::name).collect();
        let metrics = Metrics {
            knowledge: Arc::new(scrape::Knowledge::new(store, survey, exposition)),
            fixes: counters(
                &registry,
                "usernsd_fixes_total",
                "Changes attempted on this node.",
                "action",
                &actions,
            )?,
            fix_failures: counters(
                &registry,
                "usernsd_fix_failures_total",
                "Changes attempted on this node that failed.",
                "action",
                &actions,
            )?,
            already_right: add(
                &registry,
                IntCounter::new(
                    "usernsd_already_right_total",
                    "Containers that already owned their cgroup at the agent's first inspection.",
                )?,
            )?,
            refusals: counters(
                &registry,
                "usernsd_refusals_total",
                "Containers that were skipped, not adjusted, or refused, by reason.",
                "reason",
                &reasons,
            )?,
            guard_unanswered: counters(
                &registry,
                "usernsd_guard_unanswered_total",
                "Containers that were not judged because the runtime did not report their pod's request in \
                 time: at their creation, and again at their start.",
                "call",
                &GuardCall::ALL.map(GuardCall::name),
            )?,
            missed: counters(
                &registry,
                "usernsd_missed_total",
                "Containers that started without what their pod asked for, because nothing was in their start path.",
                "missed",
                &Missed::ALL.map(Missed::name),
            )?,
            fix_delay: add(
                &registry,
                histogram(
                    "usernsd_fix_delay_seconds",
                    "Time from a container's start until it owned its cgroup; 0 if the start waited for that.",
                    &FIX_DELAYS,
                )?,
            )?,
            handling: add(
                &registry,
                histogram(
                    "usernsd_handling_seconds",
                    "Time the container runtime waited for the agent at the start of a container (NRI StartContainer).",
                    &HANDLING,
                )?,
            )?,
            reconciles: counters(
                &registry,
                "usernsd_reconciles_total",
                "Inspections of all containers of this node.",
                "trigger",
                &triggers,
            )?,
            reconcile_failures: counters(
                &registry,
                "usernsd_reconcile_failures_total",
                "Inspections of all containers of this node that failed.",
                "trigger",
                &triggers,
            )?,
            stream_reconnects: add(
                &registry,
                IntCounter::new(
                    "usernsd_cri_stream_reconnects_total",
                    "Times the stream of container events was opened again.",
                )?,
            )?,
            events: counters(
                &registry,
                "usernsd_cri_events_total",
                "Container events received from the runtime.",
                "event",
                &RuntimeEvent::ALL.map(RuntimeEvent::name),
            )?,
            request_failures: counters(
                &registry,
                "usernsd_cri_request_failures_total",
                "Requests to the runtime that failed, except those of the checks of the node.",
                "method",
                &Method::ALL.map(Method::name),
            )?,
            plugin_reports: add(
                &registry,
                IntCounter::new(
                    "usernsd_nri_plugin_reports_total",
                    "Reports that the launched plugin sent to this agent; its changes count like the \
                     agent's own.",
                )?,
            )?,
            plugin_reports_unreadable: add(
                &registry,
                IntCounter::new(
                    "usernsd_nri_plugin_reports_unreadable_total",
                    "Reports of the launched plugin that this version of the agent cannot read.",
                )?,
            )?,
            registry,
        };
        add(&metrics.registry, build_info("usernsd_build_info", "Build of this agent")?)?;
        metrics.registry.register(Box::new(process::OwnProcess::new()?))?;
        Ok(metrics)
    }

    /// Counts an attempted change.
    pub fn fix(&self, action: Action) {
        increment(&self.fixes, action.name());
    }

    /// Counts a failed change, which was also counted as attempted.
    pub fn fix_failed(&self, action: Action) {
        increment(&self.fix_failures, action.name());
    }

    /// Counts a container whose cgroup was right at the first inspection.
    pub fn already_right(&self) {
        self.already_right.inc();
    }

    /// Counts something that was not done.
    pub fn refused(&self, reason: impl Into<RefusalReason>) {
        increment(&self.refusals, reason.into().name());
    }

    /// Counts a container that the guard let pass without a decision.
    pub fn guard_unanswered(&self, call: GuardCall) {
        increment(&self.guard_unanswered, call.name());
    }

    /// Counts a container that started without what its pod asked for.
    pub fn missed(&self, missed: Missed) {
        increment(&self.missed, missed.name());
    }

    /// Records the time between a container's start and the delegation of its cgroup.
    pub fn fix_delay(&self, delay: Duration) {
        self.fix_delay.observe(delay.as_secs_f64());
    }

    /// Records how long the runtime waited at a container's start.
    pub fn handled(&self, time: Duration) {
        self.handling.observe(time.as_secs_f64());
    }

    /// Counts a report of the launched plugin; one of another version may be unreadable.
    pub fn plugin_report(&self, readable: bool) {
        self.plugin_reports.inc();
        if !readable {
            self.plugin_reports_unreadable.inc();
        }
    }

    /// Counts an inspection of all containers.
    pub fn reconciled(&self, trigger: ResyncReason, now: SystemTime) {
        increment(&self.reconciles, trigger.name());
        self.knowledge.store().set_reconciled(now);
    }

    /// Counts a failed inspection of all containers.
    pub fn reconcile_failed(&self, trigger: ResyncReason) {
        increment(&self.reconciles, trigger.name());
        increment(&self.reconcile_failures, trigger.name());
    }

    /// Counts a reconnection of the event stream.
    pub fn stream_reconnected(&self) {
        self.stream_reconnects.inc();
    }

    /// Counts an event of the runtime.
    pub fn event(&self, event: RuntimeEvent) {
        increment(&self.events, event.name());
    }

    /// Counts a request that the runtime did not answer, or answered unusably; by the name that CRI has for the call.
    pub fn request_failed(&self, call: &str) {
        if let Some(method) = Method::of_call(call) {
            increment(&self.request_failures, method.name());
        }
    }

    /// The text for a scraper (Prometheus text format 0.0.4).
    #[must_use]
    pub fn render(&self) -> String {
        // Encoding fails only for a family without samples, and the registry leaves those out.
        let mut text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default();
        self.knowledge.write(&mut text);
        text
    }

    /// All metrics, as a Markdown page.
    ///
    /// # Errors
    /// See [`Metrics::new`].
    pub fn documented_markdown() -> prometheus::Result<String> {
        let mut text = String::from(
            "# Metrics\n\nThis page is generated from `crates/report/src/metrics.rs`. `usernsd exporter` serves the metrics on `/metrics`, and so\n\
             does the agent if `http.address` is set ([configuration.md](configuration.md)). `http.metricsDetail` chooses the level: `node`\n\
             leaves out the series marked pod or container, `pod` those marked container. Every other series exists from the\n\
             start, with two exceptions: `usernsd_cri_up` and its like are missing for a peer that the configuration switches\n\
             off, and series that are read at the scrape are missing if that failed (`usernsd_scrape_collector_success`).\n\n\
             Only names that Kubernetes would accept become labels. A pod with another name, or beyond\n\
             `http.metricsMaxPods`, is counted in `usernsd_metrics_pods_omitted`, a container in\n\
             `usernsd_metrics_containers_omitted`. Pods with a problem come first. Pods and containers together have at\n\
             most 6,000 samples; containers beyond that are counted in `usernsd_metrics_containers_omitted` too.\n\n\
",
        );
        text.push_str(TABLE);
        let store = Store::new(SystemTime::UNIX_EPOCH);
        let metrics = Metrics::new(store, Arc::new(|_| Survey::empty()), Exposition::default())?;
        let mut rows: Vec<(String, String)> =
            metrics.registry.gather().iter().map(|family| (family.name().to_owned(), row(family))).collect();
        rows.extend(scrape::rows());
        rows.sort();
        text.extend(rows.into_iter().map(|(_, row)| row));
        text.push_str(
            "\n## The exporter's own metrics\n\n\
             `usernsd exporter` serves all of the above, which it fetches from the agent at that moment, and in addition\n\
             these. `process_*` describe the agent, the process with the privileges; the exporter's own series have its\n\
             name. While the agent is away, only these remain.\n\n",
        );
        text.push_str(TABLE);
        text.extend(ExporterMetrics::rows()?);
        text.push_str(
            "\n## The cluster's metrics\n\n\
             The exporter serves these if it uses an API server ([kubernetes.md](kubernetes.md)).\n\n",
        );
        text.push_str(TABLE);
        text.extend(cluster::ClusterMetrics::rows()?);
        text.push_str(
            "\n## The HTTP server's metrics\n\nThese are the metrics of the process that serves them: the exporter, or the agent if\n\
             `http.address` is set.\n\n",
        );
        text.push_str(TABLE);
        text.extend(HttpMetrics::rows()?);
        Ok(text)
    }
}

/// The head of a table of metrics.
const TABLE: &str = "| name | type | labels | level | meaning |\n|---|---|---|---|---|\n";

/// The row of the page for a family that has samples from the start.
fn row(family: &prometheus::proto::MetricFamily) -> String {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        _ => "gauge",
    };
    format!("| `{}` | {kind} | {} | node | {} |\n", family.name(), labels(family), family.help())
}

/// The labels of a family with their values, as on the page.
fn labels(family: &prometheus::proto::MetricFamily) -> String {
    let mut text = String::new();
    let pairs = || family.get_metric().iter().flat_map(|metric| metric.get_label());
    let mut names: Vec<&str> = pairs().map(|pair| pair.name()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let separator = if text.is_empty() { "" } else { ", " };
        // The values of build_info are those of one build.
        let values: Vec<&str> = match family.name() {
            "usernsd_build_info" | "usernsd_exporter_build_info" => vec![],
            _ => pairs().filter(|pair| pair.name() == name).map(|pair| pair.value()).collect(),
        };
        let values = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
        text.push_str(&format!("{separator}`{name}`{values}"));
    }
    text
}

/// A series with the version of the program.
fn build_info(name: &str, what: &str) -> prometheus::Result<IntGaugeVec> {
    let opts = Opts::new(name, format!("{what}; the value is always 1."));
    let build = IntGaugeVec::new(opts, &["version", "revision", "rustc"])?;
    let revision = option_env!("USERNSD_REVISION").unwrap_or("unknown");
    build.get_metric_with_label_values(&[env!("CARGO_PKG_VERSION"), revision, env!("USERNSD_RUSTC")])?.set(1);
    Ok(build)
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let family = add(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)?;
    for value in values {
        family.get_metric_with_label_values(&[value])?;
    }
    Ok(family)
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
}

/// The family has one label, so one value always fits.
fn increment(family: &IntCounterVec, value: &str) {
    if let Ok(counter) = family.get_metric_with_label_values(&[value]) {
        counter.inc();
    }
}

#[cfg(test)]
mod tests;
