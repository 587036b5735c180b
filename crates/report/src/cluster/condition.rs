//! The Node condition: written when it changes, at intervals, and when the clock was set, because consumers compare its
//! times with their own clocks.
//!
//! Nothing is written when the exporter ends: it ends with each update of the DaemonSet and is back a
//! moment later, and each write is sent to everything that watches Nodes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::facts::node_facts;
use super::{Cluster, random};
use crate::clock::ClockWatch;
use crate::metrics::cluster::ApiRequest;
use crate::state::State;
use usernsd_domain::condition::{DesiredCondition, Schedule};
use usernsd_linux::proc::Proc;

pub(super) async fn run(
    cluster: Arc<Cluster>,
    proc: Proc,
    mut states: channel::Receiver<Option<Arc<State>>>,
) {
    let (began, pace) = (Instant::now(), cluster.pace);
    cluster.start().await;
    let mut backoff = cluster.backoff();
    let mut before = loop {
        cluster.rest().await;
        let answer = cluster.kube.node_condition(&cluster.node).await;
        cluster.record_answer(ApiRequest::GetNode, &answer);
        match answer {
            Ok(before) => break before,
            Err(error) => cluster.pause(&mut backoff, &error).await,
        }
    };
    backoff.reset();
    let mut schedule = Schedule::new(pace.heartbeat);
    let mut clock = ClockWatch::new(proc);
    // Whether the time of the last change is by the clock of this process.
    let mut is_own = false;
    let mut absent_since = None;
    loop {
        if let (_, Some(change)) = clock.read() {
            info!(
                seconds = change.shift.distance().as_secs(),
                "the clock was set; the Node condition is written again"
            );
            schedule.outdate();
            if let Some(before) = before.as_mut().filter(|_| is_own) {
                before.shift(change.shift);
            }
        }
        let state = states.borrow_and_update().clone();
        // An agent that has restarted and not inspected the node yet counts as away.
        let has_looked = state.as_ref().is_some_and(|state| state.node.ready.is_some());
        let wait = match has_looked {
            true => {
                absent_since = None;
                Duration::ZERO
            }
            false => {
                pace.agent_absence.saturating_sub(absent_since.get_or_insert_with(Instant::now).elapsed())
            }
        };
        let verdict = DesiredCondition::of(state.as_deref().map(node_facts).as_ref());
        let wait = wait.max(schedule.wait(&verdict, began.elapsed()));
        if !wait.is_zero() {
            tokio::select! {
                () = sleep(wait.min(pace.clock)) => {}
                Ok(()) = states.changed() => {}
            }
            continue;
        }
        cluster.rest().await;
        let answer = cluster.kube.apply_node_condition(&cluster.node, &verdict, before.as_ref()).await;
        cluster.record_answer(ApiRequest::PatchNode, &answer);
        match answer {
            Ok(written) => {
                backoff.reset();
                is_own |= before.as_ref().is_none_or(|before| before.status != written.status);
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
        cluster.record_answer(ApiRequest::PatchNode, &answer);
        match answer {
            Ok(()) => return std::future::pending().await,
            Err(error) => cluster.pause(&mut backoff, &error).await,
        }
    }
}
