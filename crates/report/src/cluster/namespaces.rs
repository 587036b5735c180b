//! The ID ranges of the namespaces that this node's pods are in.
//!
//! They are requested one by one, and only if an SCC that holds a pod to them admitted it, so never outside
//! OpenShift. A watch of all namespaces would keep those of the whole cluster in memory on every node, and
//! send each change to every node; see `docs/scale.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep};

use super::watch::Pods;
use super::{Cluster, random};
use crate::metrics::cluster::ApiRequest;
use usernsd_domain::scc::{NamespaceRanges, RangeError};
use usernsd_peers::kube::KubeError;

/// The ID ranges of each namespace, from its annotations.
pub(super) type Ranges = BTreeMap<String, Result<NamespaceRanges, RangeError>>;

struct Fetched {
    at: Instant,
    pods: BTreeSet<String>,
}

pub(super) async fn run(
    cluster: Arc<Cluster>,
    mut pods: channel::Receiver<Arc<Pods>>,
    known_ranges: channel::Sender<Arc<Ranges>>,
) {
    let mut asked: BTreeMap<String, Fetched> = BTreeMap::new();
    let mut backoff = cluster.backoff();
    while pods.changed().await.is_ok() {
        let mut wanted = wanted(&pods.borrow_and_update());
        asked.retain(|name, _| wanted.contains_key(name));
        known_ranges.send_if_modified(|ranges| {
            let before = ranges.len();
            if ranges.keys().any(|name| !wanted.contains_key(name)) {
                Arc::make_mut(ranges).retain(|name, _| wanted.contains_key(name));
            }
            ranges.len() != before
        });
        while let Some((name, uids)) = wanted.pop_first() {
            // The range may have been edited for the new pod.
            let is_known = asked.get_mut(&name).is_some_and(|asked| {
                let no_news = uids.is_subset(&asked.pods) || asked.at.elapsed() < cluster.pace.range_age;
                asked.pods.clone_from(&uids);
                no_news
            });
            if is_known {
                continue;
            }
            cluster.rest().await;
            let answer = cluster.kube.namespace_ranges(&name).await;
            cluster.record_answer(ApiRequest::GetNamespace, &answer);
            match answer {
                Ok(ranges) => {
                    backoff.reset();
                    asked.insert(name.clone(), Fetched { at: Instant::now(), pods: uids });
                    known_ranges.send_modify(|all| {
                        Arc::make_mut(all).insert(name, ranges);
                    });
                    // The pauses spread the requests, which are not urgent.
                    if !wanted.is_empty() {
                        sleep(cluster.pace.apart.mul_f64(random())).await;
                    }
                }
                // The namespace is being deleted together with its pods.
                Err(KubeError::NotFound(_)) => {}
                Err(error) => {
                    wanted.insert(name, uids);
                    cluster.pause(&mut backoff, &error).await;
                    // In the meantime other pods may have started.
                    if pods.has_changed().unwrap_or(true) {
                        break;
                    }
                }
            }
        }
    }
}

/// The namespaces to ask, with the UIDs of their pods.
fn wanted(pods: &Pods) -> BTreeMap<String, BTreeSet<String>> {
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in pods.values().filter(|pod| pod.held_to_range) {
        wanted.entry(pod.namespace.clone()).or_default().insert(pod.uid.clone());
    }
    wanted
}
