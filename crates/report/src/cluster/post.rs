//! Posts Events, one after the other.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::Cluster;
use crate::metrics::cluster::ApiRequest;
use usernsd_domain::chain::chain;
use usernsd_domain::event::Occurrence;
use usernsd_peers::kube::{KubeError, Reporter};

/// An Event that waits to be posted.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) occurrence: Occurrence,
    pub(super) since: Instant,
}

pub(super) async fn run(cluster: Arc<Cluster>, mut waiting: mpsc::Receiver<Waiting>, reporter: Reporter) {
    cluster.start().await;
    while let Some(Waiting { occurrence, since }) = waiting.recv().await {
        let mut backoff = cluster.backoff();
        loop {
            cluster.rest().await;
            if since.elapsed() > cluster.pace.event_age {
                debug!(reason = occurrence.notice.reason.name(), "an Event is too old to be posted");
                cluster.metrics.event_dropped();
                break;
            }
            match post(&cluster, &occurrence, &reporter).await {
                Ok(()) => {
                    cluster.metrics.event(occurrence.notice.reason);
                    break;
                }
                // Already posted by an earlier exporter process.
                Err(KubeError::Exists(_)) => break,
                Err(error) if error.is_transient() => cluster.pause(&mut backoff, &error).await,
                // Usually the namespace is being deleted; drop the Event.
                Err(error) => {
                    debug!(reason = occurrence.notice.reason.name(), error = %chain(&error), "an Event was not posted");
                    cluster.metrics.event_dropped();
                    break;
                }
            }
        }
    }
}

async fn post(cluster: &Cluster, occurrence: &Occurrence, reporter: &Reporter) -> Result<(), KubeError> {
    if occurrence.count > 1 {
        let answer = cluster.kube.repeat_event(occurrence, reporter).await;
        if !matches!(answer, Err(KubeError::NotFound(_))) {
            cluster.record_answer(ApiRequest::PatchEvent, &answer);
            return answer;
        }
    }
    let answer = cluster.kube.create_event(occurrence, reporter).await;
    cluster.record_answer(ApiRequest::CreateEvent, &answer);
    answer
}
