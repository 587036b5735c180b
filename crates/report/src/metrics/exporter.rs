//! The exporter's own metrics, served together with the agent's text.

use std::time::SystemTime;

use prometheus::core::{Collector as Source, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, Registry, TextEncoder};
use tokio::sync::watch;

use super::process::own_process;
use super::scrape::{Family, counter, descs, gauge, number, seconds, truth};
use super::{add, build_info, row};
use crate::follow::Link;
use usernsd_domain::node::{Health, PeerState};

const UP: Family = gauge(
    "usernsd_exporter_agent_up",
    &[],
    "Whether the exporter receives the agent's state (1) or not (0).",
);
const RECONNECTS: Family =
    counter("usernsd_exporter_agent_reconnects_total", &[], "Times the agent was reached again.");
const DOCUMENTS: Family =
    counter("usernsd_exporter_documents_total", &[], "State documents received from the agent.");
const LAST_DOCUMENT: Family = gauge(
    "usernsd_exporter_last_document_timestamp_seconds",
    &[],
    "Unix time of the last state document; 0 before the first.",
);
const CPU: Family = counter(
    "usernsd_exporter_cpu_seconds_total",
    &[],
    "Total user and system CPU time spent by the exporter in seconds.",
);
const RESIDENT: Family =
    gauge("usernsd_exporter_resident_memory_bytes", &[], "Resident memory size of the exporter in bytes.");
const OPEN_FDS: Family =
    gauge("usernsd_exporter_open_fds", &[], "Number of open file descriptors of the exporter.");
const START: Family = gauge(
    "usernsd_exporter_start_time_seconds",
    &[],
    "Start time of the exporter since unix epoch in seconds.",
);

/// The exporter's metrics. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct ExporterMetrics {
    registry: Registry,
    scrape_failures: IntCounter,
}

/// Values read at a scrape.
struct Own {
    link: watch::Receiver<Link>,
    descs: Vec<Desc>,
}

// === impl ExporterMetrics ===

impl ExporterMetrics {
    /// Metrics that start at 0, with the state of the connection to the agent.
    ///
    /// # Errors
    /// Two metrics share a name: a mistake in this file, which its tests find.
    pub fn new(link: watch::Receiver<Link>) -> prometheus::Result<ExporterMetrics> {
        let registry = Registry::new();
        let scrape_failures = add(
            &registry,
            IntCounter::new(
                "usernsd_exporter_scrape_failures_total",
                "Scrapes in which the agent's own metrics are missing.",
            )?,
        )?;
        add(&registry, build_info("usernsd_exporter_build_info", "Build of this exporter")?)?;
        let families = [&UP, &RECONNECTS, &DOCUMENTS, &LAST_DOCUMENT, &CPU, &RESIDENT, &OPEN_FDS, &START];
        registry.register(Box::new(Own { link, descs: descs(families)? }))?;
        Ok(ExporterMetrics { registry, scrape_failures })
    }

    /// The counters of the exporter's tasks.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts a scrape without the agent's metrics.
    pub fn scrape_failed(&self) {
        self.scrape_failures.inc();
    }

    /// Every metric of the exporter as rows of the page, by name.
    pub(super) fn rows() -> prometheus::Result<Vec<String>> {
        let link = Link { health: Health::new(SystemTime::UNIX_EPOCH), last_document: None, documents: 0 };
        let metrics = ExporterMetrics::new(watch::Sender::new(link).subscribe())?;
        Ok(metrics.registry.gather().iter().map(row).collect())
    }

    /// The text for a scraper, without the agent's metrics.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

impl Source for Own {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let link = self.link.borrow().clone();
        let mut families = vec![
            UP.one(truth(link.health.state == PeerState::Up)),
            RECONNECTS.one(number(link.health.reconnects)),
            DOCUMENTS.one(number(link.documents)),
            LAST_DOCUMENT.one(seconds(link.last_document)),
        ];
        // Without /proc these series are missing; the rest of the scrape is still useful.
        if let Ok(process) = own_process() {
            families.extend([
                CPU.one(process.cpu),
                RESIDENT.one(process.resident),
                OPEN_FDS.one(process.open_fds),
                START.one(process.start),
            ]);
        }
        families
    }
}
