//! The exporter's counters of requests to the API server, and of pods whose users do not fit their mapping.

use std::collections::BTreeMap;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{ExporterMetrics, add, counters, increment, row};
use usernsd_domain::event::Reason;
use usernsd_domain::node::{Detail, Exposition};
use usernsd_domain::user_mapping::{MappingProblem, PodMappingProblems};

const POD_MISFITS: (&str, &str) = (
    "usernsd_pod_identity_misfits",
    "Users and groups of the pod outside its ID mapping or the range of its namespace, by reason; present only while there are any.",
);

/// A question to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiRequest {
    /// This node's pods.
    ListPods,
    WatchPods,
    GetNamespace,
    GetNode,
    /// The node's condition.
    PatchNode,
    CreateEvent,
    /// An Event that occurred again.
    PatchEvent,
}

/// The metrics. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    exposition: Exposition,
    up: IntGauge,
    request_failures: IntCounterVec,
    events: IntCounterVec,
    events_dropped: IntCounter,
    misfits: IntGaugeVec,
    pod_misfits: IntGaugeVec,
}

// === impl ApiRequest ===

usernsd_domain::words! {
    /// The label's value.
    ApiRequest {
        ListPods = "list_pods",
        WatchPods = "watch_pods",
        GetNamespace = "get_namespace",
        GetNode = "get_node",
        PatchNode = "patch_node",
        CreateEvent = "create_event",
        PatchEvent = "patch_event",
    }
}

// === impl ClusterMetrics ===

impl ClusterMetrics {
    /// Metrics that start at 0, served with the exporter's.
    ///
    /// # Errors
    /// Two metrics share a name: a mistake in this file, which its tests find.
    pub fn new(exporter: &ExporterMetrics, exposition: Exposition) -> prometheus::Result<ClusterMetrics> {
        ClusterMetrics::within(exporter.registry(), exposition)
    }

    fn within(registry: &Registry, exposition: Exposition) -> prometheus::Result<ClusterMetrics> {
        let metrics = ClusterMetrics {
            exposition,
            up: add(
                registry,
                IntGauge::new(
                    "usernsd_kube_up",
                    "Whether the API server answered the last request (1) or not (0).",
                )?,
            )?,
            request_failures: counters(
                registry,
                "usernsd_kube_request_failures_total",
                "Requests to the API server that failed.",
                "request",
                &ApiRequest::ALL.map(ApiRequest::name),
            )?,
            events: counters(
                registry,
                "usernsd_kube_events_total",
                "Kubernetes Events sent.",
                "reason",
                &Reason::ALL.map(Reason::name),
            )?,
            events_dropped: add(
                registry,
                IntCounter::new(
                    "usernsd_kube_events_dropped_total",
                    "Kubernetes Events that were not sent because of the rate limit, or that the API server refused.",
                )?,
            )?,
            misfits: add(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "usernsd_identity_misfits",
                        "Users and groups of this node's pods outside the pod's ID mapping or the range of \
                         its namespace, by reason.",
                    ),
                    &["reason"],
                )?,
            )?,
            pod_misfits: add(
                registry,
                IntGaugeVec::new(Opts::new(POD_MISFITS.0, POD_MISFITS.1), &["namespace", "pod", "reason"])?,
            )?,
        };
        metrics.set_mapping_problems(&[]);
        Ok(metrics)
    }

    /// Records whether the API server answered.
    pub fn up(&self, up: bool) {
        self.up.set(i64::from(up));
    }

    /// Counts a failed request.
    pub fn request_failed(&self, request: ApiRequest) {
        increment(&self.request_failures, request.name());
    }

    /// Counts an Event that was sent.
    pub fn event(&self, reason: Reason) {
        increment(&self.events, reason.name());
    }

    /// Counts an Event that was not sent.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// All present user mapping problems. Pods have their own series as far as the exposition permits; the
    /// names are the API server's.
    pub fn set_mapping_problems(&self, pods: &[PodMappingProblems]) {
        let mut counts: BTreeMap<&str, i64> =
            MappingProblem::NAMES.into_iter().map(|name| (name, 0)).collect();
        self.pod_misfits.reset();
        let shown = if self.exposition.detail == Detail::Node { 0 } else { self.exposition.max_pods };
        for (index, pod) in pods.iter().enumerate() {
            for misfit in &pod.misfits {
                *counts.entry(misfit.name()).or_default() += 1;
                let labels = [pod.namespace.as_str(), &pod.name, misfit.name()];
                if index < shown
                    && let Ok(series) = self.pod_misfits.get_metric_with_label_values(&labels)
                {
                    series.inc();
                }
            }
        }
        for (name, count) in counts {
            if let Ok(series) = self.misfits.get_metric_with_label_values(&[name]) {
                series.set(count);
            }
        }
    }

    /// Every metric as rows of the page, by name.
    pub(super) fn rows() -> prometheus::Result<Vec<String>> {
        let registry = Registry::new();
        ClusterMetrics::within(&registry, Exposition::default())?;
        let mut rows: Vec<String> = registry.gather().iter().map(row).collect();
        // A pod without a problem has no sample to show.
        rows.push(format!(
            "| `{}` | gauge | `namespace`, `pod`, `reason` | pod | {} |\n",
            POD_MISFITS.0, POD_MISFITS.1
        ));
        rows.sort();
        Ok(rows)
    }
}
