//! Counters of this process's HTTP server. They are served by that process only, not in the agent's text on
//! the state socket, because an exporter has a server of its own.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};
use tracing::{info, warn};

use super::{add, counters, increment, row};
use crate::http::{Admission, InUse, ServerEvent};
use usernsd_domain::certificate::{Certificate, Validity};
use usernsd_domain::chain::chain;
use usernsd_domain::lock::lock;
use usernsd_domain::utc::rfc3339;

/// The counters. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    registry: Registry,
    renewals: IntCounter,
    failures: IntCounter,
    not_before: IntGauge,
    not_after: IntGauge,
    refused: IntCounter,
    refusals: IntCounterVec,
    /// Time of the last log line about a client that refuses the certificate.
    refusal_logged: Arc<Mutex<Option<Instant>>>,
}

/// Minimum time between two log lines about clients that refuse the certificate, because they try again soon.
const PAUSE: Duration = Duration::from_secs(600);

/// Reasons for which a request is turned away, as values of the label.
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
                    "New certificates that could not be used; the previous one stayed in use.",
                )?,
            )?,
            not_before: add(
                &registry,
                IntGauge::new(
                    "usernsd_http_certificate_not_before_seconds",
                    "When the validity of the certificate in use begins, in seconds since 1970; 0 without TLS.",
                )?,
            )?,
            not_after: add(
                &registry,
                IntGauge::new(
                    "usernsd_http_certificate_not_after_seconds",
                    "When the certificate in use expires, in seconds since 1970; 0 without TLS.",
                )?,
            )?,
            refused: add(
                &registry,
                IntCounter::new(
                    "usernsd_http_certificate_refusals_total",
                    "Connections that the client closed because it does not accept the certificate: \
                     unknown authority, another name, or not valid now.",
                )?,
            )?,
            refusal_logged: Arc::default(),
            refusals: counters(
                &registry,
                "usernsd_http_refusals_total",
                "Requests that were refused: without a valid token, without permission, or because the API \
                 server could not be asked.",
                "reason",
                &REASONS,
            )?,
            registry,
        })
    }

    /// Counts the server's events, and logs those that an operator should see.
    pub fn record(&self, event: ServerEvent) {
        let [unauthenticated, forbidden, undecided] = REASONS;
        match event {
            ServerEvent::CertificateRenewed => {
                info!("serving with the new certificate");
                self.renewals.inc();
            }
            ServerEvent::CertificateBroken(error) => {
                warn!(error = %chain(&error), "the new certificate cannot be used; serving with the one before");
                self.failures.inc();
            }
            ServerEvent::Certificate(in_use) => self.record_certificate(&in_use),
            ServerEvent::CertificateRefused { file, certificate, why } => {
                self.refused.inc();
                let mut logged = lock(&self.refusal_logged);
                if logged.is_none_or(|at| at.elapsed() >= PAUSE) {
                    *logged = Some(Instant::now());
                    let certificate_text = certificate.as_ref().map(certificate_text).unwrap_or_default();
                    warn!(
                        "a client does not accept the certificate in {} ({why}){certificate_text}",
                        file.display()
                    );
                }
            }
            ServerEvent::Refused(Admission::Granted) => {}
            ServerEvent::Refused(Admission::Unknown) => increment(&self.refusals, unauthenticated),
            ServerEvent::Refused(Admission::Forbidden) => increment(&self.refusals, forbidden),
            ServerEvent::Refused(Admission::Undecided) => increment(&self.refusals, undecided),
        }
    }

    fn record_certificate(&self, InUse { file, certificate, validity }: &InUse) {
        let file = file.display();
        let Some(certificate) = certificate else {
            self.not_before.set(0);
            self.not_after.set(0);
            warn!("the certificate in {file} has no expiry date in a supported form");
            return;
        };
        let since =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = |time| i64::try_from(since(time)).unwrap_or(i64::MAX);
        self.not_before.set(seconds(certificate.not_before));
        self.not_after.set(seconds(certificate.not_after));
        match validity {
            Validity::Valid => {
                info!("the certificate in {file} expires at {}", rfc3339(certificate.not_after));
            }
            Validity::NotYet => warn!(
                "the certificate in {file} is valid only from {} on, and clients refuse it before; if that moment is \
                 past, this node's clock is wrong",
                rfc3339(certificate.not_before)
            ),
            Validity::Expired => warn!(
                "the certificate in {file} expired at {}, and clients refuse it; renew it",
                rfc3339(certificate.not_after)
            ),
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

/// The parts of the certificate that can be compared with the client's request.
fn certificate_text(certificate: &Certificate) -> String {
    let names = match certificate.names.as_slice() {
        [] => "it names no host".to_owned(),
        names => format!("it is for {}", names.join(", ")),
    };
    let [from, to] = [certificate.not_before, certificate.not_after].map(rfc3339);
    format!("; {names}, from {from} to {to}: compare that with the client's address, authority and clock")
}
