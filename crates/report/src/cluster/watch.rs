//! This node's pods: listed once, then watched, and listed again if the watch cannot be continued.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{Cluster, random};
use crate::metrics::cluster::ApiRequest;
use usernsd_domain::chain::chain;
use usernsd_domain::rate_limit::Backoff;
use usernsd_domain::user_mapping::PodSpec;
use usernsd_peers::kube::{KubeError, PodChange};

/// More pods than any node has; further ones are ignored.
const MAX_PODS: usize = 2500;

/// The pods by UID.
pub(super) type Pods = BTreeMap<String, Arc<PodSpec>>;

pub(super) async fn run(cluster: Arc<Cluster>, known_pods: channel::Sender<Arc<Pods>>) {
    cluster.start().await;
    let mut backoff = cluster.backoff();
    // The resource version from which the watch continues; `None`: list first.
    let mut version: Option<String> = None;
    loop {
        cluster.rest().await;
        let result = match &mut version {
            None => list(&cluster, &known_pods).await.map(|at| version = Some(at)),
            Some(at) => watch(&cluster, &known_pods, at, &mut backoff).await,
        };
        let Err(error) = result else {
            // When a server stops, all its watches end at the same moment.
            sleep(cluster.pace.base.mul_f64(random())).await;
            continue;
        };
        // The resource version is no longer available, or the server does not support the watch.
        if matches!(error, KubeError::Gone | KubeError::Refused { .. } | KubeError::NotFound(_)) {
            version = None;
        }
        cluster.pause(&mut backoff, &error).await;
    }
}

async fn list(cluster: &Cluster, known_pods: &channel::Sender<Arc<Pods>>) -> Result<String, KubeError> {
    let answer = cluster.kube.list_pods(&cluster.node).await;
    cluster.record_answer(ApiRequest::ListPods, &answer);
    let list = answer?;
    if list.malformed > 0 {
        warn!(pods = list.malformed, "pods of the API server cannot be read; they are left out");
    }
    let pods = list.pods.into_iter();
    known_pods.send_replace(Arc::new(pods.map(|pod| (pod.uid.clone(), Arc::new(pod))).collect()));
    Ok(list.version)
}

/// Follows one watch until it ends. After an error the caller pauses before the next one.
async fn watch(
    cluster: &Cluster,
    known_pods: &channel::Sender<Arc<Pods>>,
    version: &mut String,
    backoff: &mut Backoff,
) -> Result<(), KubeError> {
    // Thousands of watches that began with a restart of the server must not end together.
    let time = cluster.pace.watch.mul_f64(0.5 + random() / 2.0);
    let opened = Instant::now();
    let answer = cluster.kube.watch_pods(&cluster.node, version, time).await;
    cluster.record_answer(ApiRequest::WatchPods, &answer);
    let mut changes = answer?;
    // A single event does not mean that the next watch will last: each may end after its first.
    let steady = cluster.pace.steady.min(time / 2);
    loop {
        if opened.elapsed() >= steady {
            backoff.reset();
        }
        let Ok(next) = timeout(cluster.pace.silence, changes.next()).await else {
            debug!("nothing came on the watch of pods; opening another");
            return Ok(());
        };
        match next {
            Some(Ok((change, at))) => {
                if let Some(at) = at {
                    *version = at;
                }
                apply(change, known_pods);
            }
            // About one pod: the others' events follow, and the position is theirs.
            Some(Err(error @ (KubeError::Malformed(_) | KubeError::TooLong(_)))) => {
                cluster.metrics.request_failed(ApiRequest::WatchPods);
                debug!(error = %chain(&error), "an event of the watch of pods cannot be read");
            }
            Some(Err(error)) => {
                cluster.record_answer::<()>(ApiRequest::WatchPods, &Err(error.clone()));
                return Err(error);
            }
            None if opened.elapsed() >= steady => {
                backoff.reset();
                return Ok(());
            }
            // Probably closed by a proxy. Without a pause this would repeat forever.
            None => return Err(KubeError::Away("the watch of pods was closed at once".to_owned())),
        }
    }
}

fn apply(change: PodChange, known_pods: &channel::Sender<Arc<Pods>>) {
    match change {
        PodChange::Applied(pod) => {
            known_pods.send_if_modified(|pods| {
                let known = pods.get(&pod.uid);
                // A pod's status changes often, the fields that are read rarely.
                if known.is_some_and(|known| **known == pod) || (known.is_none() && pods.len() >= MAX_PODS) {
                    return false;
                }
                Arc::make_mut(pods).insert(pod.uid.clone(), Arc::new(pod));
                true
            });
        }
        PodChange::Gone(uid) => {
            known_pods.send_if_modified(|pods| {
                pods.contains_key(&uid) && Arc::make_mut(pods).remove(&uid).is_some()
            });
        }
        PodChange::Bookmark => {}
    }
}
