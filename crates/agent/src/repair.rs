//! Ends containers that started without what their pod requested, if the rules permit it, so that the kubelet
//! recreates them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::containers::{Containers, NotEnded};
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, ContainerState, CriId, UserNamespaceRequest};
use usernsd_domain::lock::lock;
use usernsd_domain::rate_limit::Backoff;
use usernsd_domain::record::Record;
use usernsd_domain::repair::{ANNOTATION, KEEP, KeepReason, Missed, RepairFacts, RepairRules, Repairs};
use usernsd_peers::cri::{Cri, CriError, ListedContainer};
use usernsd_peers::oci::parse_spec;

/// The pause before a container that had to wait for others is considered again.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before the runtime is asked again about a container that it could not describe. The
/// answer may be long, and the pod's author decides how long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// SIGKILL as an exit code, in both runtimes.
const KILLED: i32 = 128 + 9;

/// The containers that were ended, and those that are kept.
#[derive(Debug)]
pub struct Repair {
    rules: RepairRules,
    repairs: Arc<Mutex<Repairs>>,
    began: Instant,
    /// Containers without a further decision: why they are kept; `None` for those that were ended.
    decided: BTreeMap<CriId, Option<KeepReason>>,
    /// Containers that the runtime could not describe: when to ask again, and the back-off.
    unread: BTreeMap<CriId, (Instant, Backoff)>,
}

/// The runtime's current answer about a container that started without what its pod asked for.
struct Found {
    container: Container,
    candidate: RepairFacts,
}

// === impl Repair ===

impl Repair {
    /// Makes a repair that has not ended anything yet.
    #[must_use]
    pub fn new(rules: RepairRules) -> Repair {
        Repair {
            rules,
            repairs: Arc::default(),
            began: Instant::now(),
            decided: BTreeMap::new(),
            unread: BTreeMap::new(),
        }
    }

    /// Considers every container that started without something, and returns when to do so again.
    /// `asked_first`: a plugin is in the start path.
    pub async fn turn(
        &mut self,
        cri: &Cri,
        containers: &Arc<Containers>,
        asked_first: bool,
    ) -> Option<Instant> {
        let without = containers.without();
        self.decided.retain(|id, _| without.iter().any(|(_, record)| record.id == *id));
        self.unread.retain(|id, _| without.iter().any(|(_, record)| record.id == *id));
        let open: Vec<(Missed, Arc<Record>)> = without
            .into_iter()
            .filter(|(missed, record)| self.rules.end_any(*missed) && !self.decided.contains_key(&record.id))
            .collect();
        // With nothing in the start path, a new container would miss the same. Once that changes, this is
        // called again.
        if open.is_empty() || !asked_first {
            return None;
        }
        let listed = match cri.containers().await {
            Ok(listed) => listed,
            Err(error) => {
                debug!(error = %chain(&error), "could not list the containers; they are considered again later");
                return Some(Instant::now() + PAUSE);
            }
        };
        let mut more = None;
        for (missed, record) in open {
            let name = &record.name;
            if let Some((again, _)) = self.unread.get(&record.id)
                && *again > Instant::now()
            {
                more = earlier(more, *again);
                continue;
            }
            let was_ended = lock(&self.repairs).was_ended(missed, &record.pod, name);
            let verdict = if was_ended {
                Err(NotEnded::ByRule(KeepReason::EndedBefore))
            } else {
                match find(cri, &listed, missed, &record, asked_first).await {
                    Ok(Some(found)) => self.end(containers, found).await,
                    Ok(None) => Err(NotEnded::NotSo),
                    Err(error) => {
                        debug!(container = record.id.short(), error = %chain(&error), "considered again later");
                        let fresh = || (Instant::now(), Backoff::new(PAUSE, LONGEST_PAUSE, Duration::MAX));
                        let (next, backoff) = self.unread.entry(record.id.clone()).or_insert_with(fresh);
                        let again = Instant::now() + backoff.after(Duration::ZERO);
                        *next = again;
                        more = earlier(more, again);
                        continue;
                    }
                }
            };
            match verdict {
                // The record is removed when the container exits.
                Ok(true) => drop(self.decided.insert(record.id.clone(), None)),
                Ok(false) => more = earlier(more, Instant::now() + PAUSE),
                Err(NotEnded::NotSo) => {}
                Err(NotEnded::ByRule(kept)) => {
                    info!(
                        container = record.id.short(),
                        namespace = %record.pod.namespace,
                        pod = %record.pod.name,
                        %name,
                        missed = missed.name(),
                        reason = kept.name(),
                        "the container is without what its pod asked for, and is not ended"
                    );
                    self.decided.insert(record.id.clone(), Some(kept));
                }
            }
        }
        more
    }

    /// Ends a container if the rules permit it; `false` if it has to wait for others.
    async fn end(&self, containers: &Arc<Containers>, found: Found) -> Result<bool, NotEnded> {
        let (rules, repairs) = (self.rules, Arc::clone(&self.repairs));
        let (containers, now) = (Arc::clone(containers), self.began.elapsed());
        let ended = tokio::task::spawn_blocking(move || {
            let Found { container, candidate } = found;
            let mut waits = false;
            let ended = containers.end(&container, candidate.missed, |age| {
                rules.may_end(&RepairFacts { age, ..candidate })?;
                let may = lock(&repairs).end(&container.pod, &container.name, now);
                waits = !may;
                if may { Ok(()) } else { Err(KeepReason::EndedBefore) }
            });
            if waits { Ok(false) } else { ended.map(|()| true) }
        });
        ended.await.unwrap_or_else(|error| {
            warn!(error = %chain(&error), "ending a container failed");
            Err(NotEnded::NotSo)
        })
    }
}

fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// Asks the runtime for all facts that the rules need; `None` if the container does not run.
async fn find(
    cri: &Cri,
    listed: &[ListedContainer],
    missed: Missed,
    record: &Record,
    asked_first: bool,
) -> Result<Option<Found>, CriError> {
    let Some(found) = cri.container(&record.id).await? else { return Ok(None) };
    let Ok(sandbox_id) = CriId::parse(&record.sandbox_id) else { return Ok(None) };
    let Some(sandbox) = cri.sandbox(&sandbox_id).await? else { return Ok(None) };
    let Ok(spec) = parse_spec(&found.spec_json) else { return Ok(None) };
    let is_running = found.container.state == ContainerState::Running;
    // The kubelet's record and not a stored copy, so that a pod that did not ask is never affected.
    let asked = missed != Missed::UserNamespace || sandbox.request == Some(UserNamespaceRequest::Own);
    if !is_running || !asked || found.pid.is_none() {
        return Ok(None);
    }
    let mut predecessor_was_killed = false;
    let is_predecessor = |other: &&ListedContainer| {
        other.sandbox_id == record.sandbox_id
            && other.name == record.name
            && other.id != record.id
            && other.state == ContainerState::Stopped
    };
    // Irrelevant for a container that lost its user namespace, see `RepairRules::may_end`.
    for other in listed.iter().filter(|_| missed == Missed::WritableCgroup).filter(is_predecessor) {
        predecessor_was_killed |= cri.end(&other.id).await?.is_some_and(|end| end.code == KILLED);
    }
    let container = spec.into_container(record.id.clone(), found.pid);
    let container = Container {
        pod: record.pod.clone(),
        name: record.name.clone(),
        sandbox_id: record.sandbox_id.clone(),
        ..container
    };
    let candidate = RepairFacts {
        missed,
        age: None,
        restarts: found.restarts,
        kept: sandbox.sandbox.annotations.get(ANNOTATION).is_some_and(|value| value == KEEP),
        sandbox_is_ready: sandbox.sandbox.ready,
        predecessor_was_killed,
        asked_first,
    };
    Ok(Some(Found { container, candidate }))
}
