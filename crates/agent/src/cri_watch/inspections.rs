//! Inspects what a runtime has: all that runs, the containers that NRI listed, or a single one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::pods;
use crate::containers::Containers;
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, ContainerState, CriId};
use usernsd_domain::isolation::{Occasion, Stage};
use usernsd_domain::node::Peer;
use usernsd_domain::record::Source;
use usernsd_inspect::bundle::Bundles;
use usernsd_peers::cri::{Cri, CriError, InspectedContainer, ListedContainer};
use usernsd_peers::oci::parse_spec;
use usernsd_report::metrics::ResyncReason;

/// The most specifications that a resync holds at a time. This bounds the heap's peak: the allocator would
/// not return the memory of 500 specifications of some kilobytes each.
const AT_ONCE: usize = 16;

/// Reads the specifications of containers, from bundles or over CRI, and inspects the containers.
#[derive(Clone, Copy)]
pub(super) struct Inspections<'a> {
    /// Inspects and records each container.
    pub(super) containers: &'a Arc<Containers>,
    /// Reads the runtimes' OCI bundles.
    pub(super) bundles: &'a Bundles,
}

// === impl Inspections ===

impl Inspections<'_> {
    /// Inspects everything that runs; false if the runtime does not answer.
    pub(super) async fn all(&self, cri: &Cri, trigger: ResyncReason) -> bool {
        let since = Instant::now();
        let listed = match cri.containers().await {
            Ok(listed) => listed,
            Err(error) => {
                self.containers.metrics().reconcile_failed(trigger);
                warn!(error = %chain(&error), "could not list the containers");
                self.containers.store().down(Peer::Cri, SystemTime::now(), chain(&error));
                return false;
            }
        };
        let alive: Vec<ListedContainer> = listed
            .into_iter()
            .filter(|listed| matches!(listed.state, ContainerState::Created | ContainerState::Running))
            .collect();
        {
            let ids: HashSet<&CriId> = alive.iter().map(|listed| &listed.id).collect();
            self.containers.forget_gone(&|id| ids.contains(id));
        }
        pods::review(self.containers, cri).await;
        let mut inspected = 0;
        let mut inspecting = None;
        for some in alive.chunks(AT_ONCE) {
            let mut unknown = Vec::new();
            for listed in some {
                if self.containers.is_still_right(&listed.id) {
                    continue;
                }
                match self.specification(Some(cri), &listed.id).await {
                    Ok(Some(container)) => {
                        unknown.push((named(container, listed), Occasion::Listed(listed.state).stage()));
                    }
                    // Ended in the meantime.
                    Ok(None) => {}
                    Err(error) => {
                        warn!(container = listed.id.short(), error = %chain(&error), "could not inspect the container");
                    }
                }
            }
            inspected += unknown.len();
            pods::learn_requests(self.containers, cri, &containers_of(&unknown)).await;
            // One thread inspects these while this task reads the specifications of the next ones.
            finished(inspecting.replace(self.start(unknown, Source::Resync, since))).await;
        }
        finished(inspecting).await;
        self.containers.metrics().reconciled(trigger, SystemTime::now());
        debug!(
            containers = alive.len(),
            inspected,
            milliseconds = since.elapsed().as_millis(),
            "resync done"
        );
        true
    }

    /// Inspects the containers that NRI listed when it was joined: they started while the agent was absent.
    pub(super) async fn listed(&self, cri: Option<&Cri>, found: Vec<(Container, ContainerState)>) {
        let since = Instant::now();
        let mut alive = Vec::new();
        for (container, state) in found {
            let is_alive = matches!(state, ContainerState::Created | ContainerState::Running);
            if !is_alive || self.containers.is_still_right(&container.id) {
                continue;
            }
            // The list contains no mounts, and the process may have changed its own.
            match self.specification(cri, &container.id).await {
                Ok(Some(found)) => {
                    let Container { mounts, user_namespace, pid, specified, .. } = found;
                    self.containers.pods().note_annotations(&container.sandbox_id, &container.annotations);
                    let pid = container.pid.or(pid);
                    let container = Container { mounts, user_namespace, pid, specified, ..container };
                    alive.push((container, Occasion::Listed(state).stage()));
                }
                Ok(None) => {
                    debug!(container = container.id.short(), "no specification; left to the next resync")
                }
                Err(error) => {
                    debug!(container = container.id.short(), error = %chain(&error), "left to the next resync")
                }
            }
        }
        if let Some(cri) = cri {
            pods::learn_requests(self.containers, cri, &containers_of(&alive)).await;
        }
        if !alive.is_empty() {
            finished(Some(self.start(alive, Source::Resync, since))).await;
        }
    }

    /// Asks the runtime for a container's current state and process, and inspects the container again.
    pub(super) async fn again(&self, cri: &Cri, id: &CriId) -> Result<(), CriError> {
        let since = Instant::now();
        let Some(found) = cri.container(id).await? else {
            self.containers.forget(id);
            return Ok(());
        };
        if found.container.state == ContainerState::Stopped {
            self.containers.forget(id);
            return Ok(());
        }
        let stage = Occasion::Listed(found.container.state).stage();
        if let Some(container) = specified(id, found) {
            pods::learn_requests(self.containers, cri, &[&container]).await;
            finished(Some(self.start(vec![(container, stage)], Source::Resync, since))).await;
        }
        Ok(())
    }

    /// Inspects a container about which the runtime sent an event.
    pub(super) async fn one(&self, cri: &Cri, id: &CriId, occasion: Occasion, since: Instant) {
        match self.specification(Some(cri), id).await {
            Ok(Some(container)) => {
                pods::learn_requests(self.containers, cri, &[&container]).await;
                finished(Some(self.start(vec![(container, occasion.stage())], Source::Cri, since))).await;
            }
            Ok(None) => {}
            Err(error) => {
                debug!(container = id.short(), error = %chain(&error), "left to the next resync")
            }
        }
    }

    /// A container's specification: from its bundle, at the cost of reading a file; otherwise from the
    /// runtime, at the cost of a call, if it answers.
    async fn specification(&self, cri: Option<&Cri>, id: &CriId) -> Result<Option<Container>, CriError> {
        match self.bundles.find(id) {
            Ok(Some(bundle)) => return Ok(Some(bundle.container)),
            Ok(None) => {}
            Err(error) => {
                debug!(container = id.short(), error = %chain(&error), "the bundle cannot be read; asking the runtime")
            }
        }
        let Some(cri) = cri else { return Ok(None) };
        Ok(cri.container(id).await?.and_then(|found| specified(id, found)))
    }

    /// Begins to inspect containers, on a thread that may block: it reads files and asks systemd.
    fn start(&self, containers: Vec<(Container, Stage)>, source: Source, since: Instant) -> JoinHandle<()> {
        let all = Arc::clone(self.containers);
        // A container that is running already is not refused, but only counted and logged.
        tokio::task::spawn_blocking(move || all.inspect_all(&containers, source, since))
    }
}

/// Waits for the end of inspections.
async fn finished(inspecting: Option<JoinHandle<()>>) {
    if let Some(inspecting) = inspecting
        && let Err(error) = inspecting.await
    {
        warn!(error = %chain(&error), "an inspection of containers ended early");
    }
}

fn containers_of(found: &[(Container, Stage)]) -> Vec<&Container> {
    found.iter().map(|(container, _)| container).collect()
}

/// The container that the runtime describes; `None`, and a line in the log, if its specification cannot be read.
fn specified(id: &CriId, found: InspectedContainer) -> Option<Container> {
    match parse_spec(&found.spec_json) {
        Ok(spec) => Some(named(spec.into_container(id.clone(), found.pid), &found.container)),
        Err(error) => {
            warn!(container = id.short(), error = %chain(&error), "the runtime's specification cannot be read");
            None
        }
    }
}

/// The container, named by CRI's labels of the kubelet if there are any.
fn named(mut container: Container, listed: &ListedContainer) -> Container {
    if !listed.pod.name.is_empty() {
        container.pod = listed.pod.clone();
    }
    container.name.clone_from(&listed.name);
    container.sandbox_id.clone_from(&listed.sandbox_id);
    container
}
