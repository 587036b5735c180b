//! What the HTTP server of this process counts. It stands beside whatever else is served there, and
//! not in the agent's text on the state socket: an exporter has a server of its own.

use prometheus::{IntCounter, IntCounterVec, Registry, TextEncoder};
use tracing::{info, warn};

use super::{add, counters, increment, row};
use crate::http::{Admission, Happening};

/// The counters. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    registry: Registry,
    renewals: IntCounter,
    failures: IntCounter,
    refusals: IntCounterVec,
}

/// Why a request is turned away, as the label says it.
const REASONS: [&str; 3] = ["unauthenticated", "forbidden", "undecided"];

// === impl HttpMetrics ===

impl HttpMetrics {
    /// Counters at 0.
    ///
    /// # Errors
    /// Two metrics share a name: a mistake in this file, which its tests find.
    pub fn new() -> prometheus::Result<HttpMetrics> {
        let registry = Registry::new();
        Ok(HttpMetrics {
            renewals: add(
                &registry,
                IntCounter::new(
                    "usernsd_http_certificate_renewals_total",
                    "Times another certificate came into use.",
                )?,
            )?,
            failures: add(
                &registry,
                IntCounter::new(
                    "usernsd_http_certificate_failures_total",
                    "New certificates that could not be used; the one before stayed.",
                )?,
            )?,
            refusals: counters(
                &registry,
                "usernsd_http_refusals_total",
                "Requests turned away: without a good token, without the right, or because the API server was not \
                 reached.",
                "reason",
                &REASONS,
            )?,
            registry,
        })
    }

    /// Counts what the server tells, and logs what someone must know of.
    pub fn told(&self, happening: Happening) {
        let [unauthenticated, forbidden, undecided] = REASONS;
        match happening {
            Happening::CertificateRenewed => {
                info!("serving with the new certificate");
                self.renewals.inc();
            }
            Happening::CertificateBroken(error) => {
                warn!(%error, "the new certificate cannot be used; serving with the one before");
                self.failures.inc();
            }
            Happening::Refused(Admission::Granted) => {}
            Happening::Refused(Admission::Unknown) => increment(&self.refusals, unauthenticated),
            Happening::Refused(Admission::Forbidden) => increment(&self.refusals, forbidden),
            Happening::Refused(Admission::Undecided) => increment(&self.refusals, undecided),
        }
    }

    /// Every metric as rows of the page, by name.
    pub(super) fn rows() -> prometheus::Result<Vec<String>> {
        Ok(HttpMetrics::new()?.registry.gather().iter().map(row).collect())
    }

    /// The text for a scraper.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}
