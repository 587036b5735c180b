//! The Node condition: written when it changes, and at intervals.
//!
//! Nothing is written when the exporter ends: it ends with each update of the DaemonSet and is back a
//! moment later, and each write is sent to everything that watches Nodes.

use std::sync::Arc;

use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep};

use super::facts::node_facts;
use super::{Cluster, random};
use crate::metrics::cluster::Request;
use crate::state::State;
use usernsd_domain::condition::{Schedule, Verdict};

pub(super) async fn run(cluster: Arc<Cluster>, mut states: channel::Receiver<Option<Arc<State>>>) {
    let (began, pace) = (Instant::now(), cluster.pace);
    cluster.start().await;
    let mut backoff = cluster.backoff();
    let mut before = loop {
        cluster.rest().await;
        let answer = cluster.kube.node_condition(&cluster.node).await;
        cluster.heard(Request::GetNode, &answer);
        match answer {
            Ok(before) => break before,
            Err(error) => cluster.pause(&mut backoff, &error).await,
        }
    };
    backoff.reset();
    let mut schedule = Schedule::new(pace.heartbeat);
    let mut absent_since = None;
    loop {
        let state = states.borrow_and_update().clone();
        // An agent that has restarted and not inspected the node yet counts as away.
        let has_looked = state.as_ref().is_some_and(|state| state.node.ready.is_some());
        let wait = match has_looked {
            true => {
                absent_since = None;
                std::time::Duration::ZERO
            }
            false => {
                pace.agent_absence.saturating_sub(absent_since.get_or_insert_with(Instant::now).elapsed())
            }
        };
        let verdict = Verdict::of(state.as_deref().map(node_facts).as_ref());
        let wait = wait.max(schedule.wait(&verdict, began.elapsed()));
        if !wait.is_zero() {
            tokio::select! {
                () = sleep(wait) => {}
                Ok(()) = states.changed() => {}
            }
            continue;
        }
        cluster.rest().await;
        let answer = cluster.kube.apply_node_condition(&cluster.node, &verdict, before.as_ref()).await;
        cluster.heard(Request::PatchNode, &answer);
        match answer {
            Ok(written) => {
                backoff.reset();
                before = Some(written);
                schedule.wrote(verdict, began.elapsed(), random());
            }
            Err(error) => cluster.pause(&mut backoff, &error).await,
        }
    }
}

/// Removes the condition once, and then waits forever.
pub(super) async fn remove(cluster: Arc<Cluster>) {
    cluster.start().await;
    let mut backoff = cluster.backoff();
    loop {
        cluster.rest().await;
        let answer = cluster.kube.remove_node_condition(&cluster.node).await;
        cluster.heard(Request::PatchNode, &answer);
        match answer {
            Ok(()) => return std::future::pending().await,
            Err(error) => cluster.pause(&mut backoff, &error).await,
        }
    }
}
