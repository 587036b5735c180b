//! The one way to inspect a container: observe → prove → plan, apply if requested, and record. Agent and
//! hook apply; doctor and explain do not.

use std::path::Path;

use thiserror::Error;

use crate::delegate::{Delegator, DelegatorError, Inspection, MountSource, Observation, Target, UnitSource};
use crate::handles::{NodeHandles, OpenHandlesError};
use usernsd_delegation::Plan;
use usernsd_domain::container::{Container, UserNamespaceRequest};
use usernsd_domain::delegation::{Limits, Rules, Skip};
use usernsd_domain::guard;
use usernsd_domain::guard::Verdict;
use usernsd_domain::idmap::IdMap;
use usernsd_domain::isolation::{Conclusion, IsolationEvidence, ProcessPlace, Stage};
use usernsd_domain::record::{Outcome, Record, Source, UserNamespace, UserNamespaceMode};

/// Inspects containers of one node.
#[derive(Debug)]
pub struct Inspector {
    delegator: Delegator,
}

/// Why containers cannot be inspected.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The node's handles cannot be opened.
    #[error(transparent)]
    Handles(#[from] OpenHandlesError),
    /// The host's namespaces cannot be identified.
    #[error(transparent)]
    Start(#[from] DelegatorError),
}

/// A container as its source describes it, and the stage that it has reached.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub container: &'a Container,
    /// The stage that it has reached at least.
    pub stage: Stage,
}

// === impl Inspector ===

impl Inspector {
    /// Makes an inspector that uses these handles.
    ///
    /// # Errors
    /// See [`DelegatorError`].
    pub fn new(handles: NodeHandles, rules: Rules, limits: Limits) -> Result<Inspector, DelegatorError> {
        Ok(Inspector { delegator: Delegator::new(handles, rules, limits)? })
    }

    /// Inspects containers of the node with that root directory.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(host_root: &Path, rules: Rules, limits: Limits) -> Result<Inspector, OpenError> {
        Ok(Inspector::new(NodeHandles::open(host_root)?, rules, limits)?)
    }

    /// The delegator, which changes the host.
    #[must_use]
    pub fn delegator(&self) -> &Delegator {
        &self.delegator
    }

    /// Replaces the rules, for a configuration that changed.
    pub fn set_rules(&mut self, rules: Rules, limits: Limits) {
        self.delegator.set_rules(rules, limits);
    }

    /// Inspects a container and corrects its cgroup.
    pub fn apply(&self, candidate: Candidate<'_>, unit: UnitSource<'_>) -> Inspection {
        self.delegator.handle(&candidate.target(), unit)
    }

    /// Inspects a container without changing anything. Also returns the plan; `None` if the cgroup would be
    /// skipped.
    pub fn examine(&self, candidate: Candidate<'_>, unit: UnitSource<'_>) -> (Inspection, Option<Plan>) {
        self.delegator.plan(&candidate.target(), unit)
    }
}

// === impl Candidate ===

impl<'a> Candidate<'a> {
    fn target(self) -> Target<'a> {
        let Candidate { container, stage } = self;
        let mount = container.cgroup_mount();
        Target {
            id: &container.id,
            cgroups_path: &container.cgroups_path,
            pid: container.pid,
            process_uid: container.process_uid,
            user_namespace: container.user_namespace,
            mount: match stage {
                // The OCI runtime may not have mounted anything yet.
                Stage::Specified | Stage::Making => MountSource::Specification(mount),
                Stage::Ready | Stage::Running => MountSource::Stricter(mount),
            },
            specified: &container.specified,
            is_started: stage == Stage::Running,
        }
    }

    fn evidence(self, seen: &Observation, request: Option<UserNamespaceRequest>) -> IsolationEvidence {
        IsolationEvidence {
            stage: self.stage,
            request,
            specified: self.container.user_namespace,
            place: place(seen),
            named: self.container.pid.is_some(),
        }
    }
}

// === impl Inspection ===

impl Inspection {
    /// Whether the observation proves nothing yet, because the container is still being created, or because
    /// the observed process is not its init process.
    #[must_use]
    pub fn is_too_early(&self, candidate: Candidate<'_>) -> bool {
        candidate.evidence(&self.observation, None).finding() == Conclusion::TooEarly
    }

    /// The record of the container, whose pod requested `request`. `is_missed` is called for a container
    /// without a writable cgroup: it returns whether its pod requested one and may have it. An inspection
    /// that was too early becomes the record of a container that is being created.
    pub fn record(
        &mut self,
        candidate: Candidate<'_>,
        source: Source,
        request: Option<UserNamespaceRequest>,
        is_missed: impl FnOnce() -> bool,
    ) -> Record {
        let container = candidate.container;
        let known = candidate.evidence(&self.observation, request).known();
        let isolation = match known.finding {
            // The init process was not observed.
            Conclusion::Settled(Verdict::Good)
                if container.user_namespace
                    && self.outcome == Outcome::Skipped(Skip::Unproven)
                    && place(&self.observation) == ProcessPlace::Nowhere =>
            {
                Verdict::Unknown
            }
            Conclusion::Settled(verdict) => verdict,
            Conclusion::TooEarly => {
                // The observed process is the OCI runtime's, or a command's.
                let Observation { cgroup, inode, owner, limits, .. } = std::mem::take(&mut self.observation);
                self.observation = Observation { cgroup, inode, owner, limits, ..Observation::default() };
                self.mark_being_made();
                Verdict::Unknown
            }
        };
        // The runtime lists a container before the OCI runtime has made its cgroup.
        if self.outcome == Outcome::Skipped(Skip::Gone) && candidate.stage < Stage::Ready {
            self.mark_being_made();
        }
        let is_read_only =
            matches!(self.outcome, Outcome::Skipped(Skip::ReadOnlyMount | Skip::NoCgroupMount));
        // A user namespace that the container created is not the one that its pod requested.
        let is_hosts = |namespace: UserNamespace| namespace.is_hosts || !container.user_namespace;
        let in_hosts = self.observation.user_namespace.map(is_hosts);
        let is_annotated = guard::annotated_request(&container.annotations).is_some();
        let seen = &self.observation;
        Record {
            id: container.id.clone(),
            sandbox_id: container.sandbox_id.clone(),
            name: container.name.clone(),
            pod: container.pod.clone(),
            pid: seen.pid.or(container.pid),
            uid_map: seen.uid_map.clone(),
            gid_map: seen.gid_map.clone(),
            user_namespace: seen.user_namespace,
            mode: UserNamespaceMode::of(request, is_annotated, in_hosts),
            mount: seen.mount,
            cgroup: seen.cgroup.clone(),
            inode: seen.inode,
            owner: seen.owner,
            limits: seen.limits,
            outcome: self.outcome.clone(),
            source,
            isolation,
            stage: known.stage,
            missed: is_read_only && is_missed(),
        }
    }

    fn mark_being_made(&mut self) {
        self.outcome = Outcome::Skipped(Skip::BeingMade);
        self.detail = None;
    }
}

fn place(seen: &Observation) -> ProcessPlace {
    match (&seen.user_namespace, &seen.uid_map) {
        (None, _) => ProcessPlace::Nowhere,
        (Some(namespace), _) if namespace.is_hosts => ProcessPlace::Hosts,
        (Some(_), map) if map.as_ref().is_none_or(IdMap::is_empty) => ProcessPlace::Unmapped,
        (Some(_), _) => ProcessPlace::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use usernsd_domain::container::{CriId, PodRef, SpecifiedNamespaces};

    fn container(specified: bool) -> Container {
        Container {
            id: CriId::parse("c").unwrap(),
            sandbox_id: "s".into(),
            name: "web".into(),
            pod: PodRef::default(),
            annotations: std::sync::Arc::default(),
            pid: Some(17),
            cgroups_path: String::new(),
            user_namespace: specified,
            cgroup_namespace: true,
            mounts: Vec::new(),
            specified: SpecifiedNamespaces::default(),
            process_uid: None,
            env_names: Vec::new(),
        }
    }

    fn inspection(is_hosts: bool) -> Inspection {
        let map = if is_hosts { "0 0 4294967295" } else { "0 200000 65536" };
        let observation = Observation {
            pid: Some(17),
            uid_map: IdMap::parse(map).ok(),
            user_namespace: Some(UserNamespace { inode: Some(1), is_hosts }),
            ..Observation::default()
        };
        let outcome = Outcome::Skipped(Skip::HostUserNamespace);
        let (changes, beside) = (Vec::new(), Vec::new());
        Inspection { outcome, detail: None, changes, observation, init: None, own: None, beside }
    }

    fn record(specified: bool, is_hosts: bool, stage: Stage) -> Record {
        let candidate = Candidate { container: &container(specified), stage };
        let own = Some(UserNamespaceRequest::Own);
        inspection(is_hosts).record(candidate, Source::Resync, own, || false)
    }

    #[test]
    fn a_container_that_is_being_made_has_no_verdict_yet() {
        let made = record(true, true, Stage::Making);
        assert_eq!((made.isolation, made.outcome), (Verdict::Unknown, Outcome::Skipped(Skip::BeingMade)));
        assert_eq!((made.pid, made.uid_map), (Some(17), None));
        let runs = record(true, true, Stage::Running);
        assert_eq!((runs.isolation, runs.mode), (Verdict::Lost, UserNamespaceMode::Pod));
    }

    #[test]
    fn a_user_namespace_that_a_container_made_itself_is_not_what_its_pod_asked_for() {
        assert_eq!(record(false, false, Stage::Running).isolation, Verdict::Lost);
        assert_eq!(record(true, false, Stage::Running).isolation, Verdict::Good);
    }
}
