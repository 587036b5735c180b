//! Delegates a container's cgroup: observe → prove → plan → apply, for one container at a time, in the same
//! way for every trigger.
//!
//! This module reads and writes. [`usernsd_delegation::proof`] decides whether a cgroup is proven to be the
//! container's own, and [`usernsd_domain::delegation`] decides what is done with it. After a change, the path
//! must still lead to the directory that was changed.

mod limits;
mod observe;
mod stop;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use thiserror::Error;

use self::limits::read_limit;
use self::stop::Stop;
use crate::ask::Asker;
use crate::handles::NodeHandles;
use usernsd_delegation::proof::{self, Evidence, InUserNamespace, Opened, Point, Proven};
use usernsd_delegation::{Facts, Plan, plan};
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::container::{CgroupMount, CriId, SpecifiedNamespaces};
use usernsd_domain::delegation::{KnownLimits, Limit, Limits, Rules, Skip};
use usernsd_domain::idmap::{ContainerId, HostId, IdMap};
pub use usernsd_domain::record::Change;
use usernsd_domain::record::{Action, Outcome, UserNamespace};
use usernsd_domain::unit::Scope;
use usernsd_linux::cgroupfs::{Cgroup, CgroupError, CgroupRoot};
use usernsd_linux::proc::{Proc, ProcError, Process, own_apparmor_profile};

/// Hands cgroups over.
#[derive(Debug)]
pub struct Delegator {
    handles: NodeHandles,
    rules: Rules,
    limits: Limits,
    host_user_namespace: u64,
    /// The user IDs of the host's user namespace, as this process sees them; `None` if they cannot be read.
    host_uid_map: Option<IdMap>,
    /// The root of this process's cgroup namespace.
    cgroup_namespace: CgroupPath,
    /// Whether systemd marks the cgroups of delegated units; read if it is needed.
    marks: OnceLock<bool>,
}

/// A container to inspect.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub id: &'a CriId,
    /// The runtime's `cgroupsPath`.
    pub cgroups_path: &'a str,
    /// PID of the init process, if the source provides it; otherwise it is searched for in the cgroup.
    pub pid: Option<u32>,
    /// The user of the process, if the source provides it; otherwise it is read from the kernel.
    pub process_uid: Option<ContainerId>,
    /// Whether the specification gives the container a user namespace. One that the container created does
    /// not count.
    pub user_namespace: bool,
    /// How to find out how `/sys/fs/cgroup` is mounted.
    pub mount: MountSource,
    /// The namespaces and mappings in the container's specification.
    pub specified: &'a SpecifiedNamespaces,
    /// Whether the container's own program has been started. From then on other processes can be in its
    /// cgroup: those of commands (CRI ExecSync), and those that root on the host moves there.
    pub is_started: bool,
}

/// How to find out how `/sys/fs/cgroup` is mounted in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountSource {
    /// From the specification alone, because the process has not mounted anything yet.
    Specification(CgroupMount),
    /// From the specification and the mount table of the process; the more restrictive one counts. The
    /// specification does not show how the OCI runtime mounted it, and a running container may have mounted
    /// more than it was given.
    Stricter(CgroupMount),
}

/// Where systemd's answer about a container's unit comes from, unless systemd has written it on the directory.
/// Without an answer, the proof uses the other evidence.
#[derive(Debug, Clone, Copy)]
pub enum UnitSource<'a> {
    /// Nobody asks systemd.
    Unasked,
    /// systemd was asked before, and gave this answer.
    Answered(Option<&'a Scope>),
    /// A task asks systemd, once its answer is needed.
    Asking(&'a Asker<String, Option<Scope>>),
}

/// The result of observing one container and acting on it.
#[derive(Debug)]
pub struct Inspection {
    /// The outcome as a word.
    pub outcome: Outcome,
    /// An explanation, if the outcome's name is not sufficient.
    pub detail: Option<String>,
    /// The changes made on the host, in order.
    pub changes: Vec<Change>,
    /// The facts observed so far; an inspection that ends early has fewer.
    pub observation: Observation,
    /// The init process, held: proven to be in the container's cgroup.
    pub init: Option<Process>,
    /// The container's cgroup. Its handles are closed when this is dropped, for which nobody need wait.
    pub own: Option<Cgroup>,
    /// Other cgroups of its pod, likewise.
    pub beside: Vec<Cgroup>,
}

/// Facts for the record.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The init process.
    pub pid: Option<u32>,
    /// The mapping of user IDs.
    pub uid_map: Option<IdMap>,
    /// The mapping of group IDs.
    pub gid_map: Option<IdMap>,
    /// The user namespace of the init process.
    pub user_namespace: Option<UserNamespace>,
    /// How `/sys/fs/cgroup` is mounted.
    pub mount: Option<CgroupMount>,
    /// The container's own cgroup.
    pub cgroup: Option<CgroupPath>,
    /// Inode of the cgroup, which is the kernel's ID of it.
    pub inode: Option<u64>,
    /// Owner of the cgroup, after the change.
    pub owner: Option<HostId>,
    /// The limits that apply to it.
    pub limits: KnownLimits,
}

/// Why the agent cannot hand over cgroups at all.
#[derive(Debug, Error)]
pub enum DelegatorError {
    /// The host's own namespaces cannot be read.
    #[error("{0}; the agent needs the host's PID namespace (hostPID: true) and CAP_SYS_PTRACE")]
    HostNamespace(ProcError),
    /// An AppArmor profile forbids reading the host's namespaces.
    #[error(
        "{0}: the AppArmor profile {1} of this container forbids it; set appArmorProfile.type: Unconfined for it, as the \
         manifest does, or name the profile usernsd-agent (docs/apparmor.md)"
    )]
    Confined(ProcError, String),
    /// This process is in a cgroup namespace of its own, and its place in the tree is not found.
    #[error(
        "this process is in a cgroup namespace of its own, and is not found in the tree at {0}: \
         that must be the host's /sys/fs/cgroup"
    )]
    CgroupNamespace(PathBuf),
    /// The cgroup tree cannot be listed.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
}

// === impl DelegatorError ===

impl DelegatorError {
    fn of_namespace(error: ProcError) -> DelegatorError {
        match own_apparmor_profile() {
            Some(profile) => DelegatorError::Confined(error, profile),
            None => DelegatorError::HostNamespace(error),
        }
    }
}

// === impl UnitSource ===

impl UnitSource<'_> {
    fn scope(self, unit: &str) -> Option<Scope> {
        match self {
            UnitSource::Unasked => None,
            UnitSource::Answered(scope) => scope.cloned(),
            UnitSource::Asking(asker) => asker.ask(unit.to_owned()).flatten(),
        }
    }
}

// === impl Observation ===

impl Observation {
    /// Takes the maps that the container was given instead of those that were observed, if its process has entered a
    /// namespace below.
    fn take_given(&mut self, specified: &SpecifiedNamespaces) {
        self.uid_map = self.uid_map.take().map(|found| found.or_given(&specified.uid_map));
        self.gid_map = self.gid_map.take().map(|found| found.or_given(&specified.gid_map));
    }
}

// === impl Inspection ===

impl Inspection {
    fn new() -> Inspection {
        Inspection {
            outcome: Outcome::AlreadyRight,
            detail: None,
            changes: Vec::new(),
            observation: Observation::default(),
            init: None,
            own: None,
            beside: Vec::new(),
        }
    }

    fn end(&mut self, result: Result<Outcome, Stop>) {
        match result {
            Ok(outcome) => self.outcome = outcome,
            Err(Stop::Skip(skip, why)) => {
                self.outcome = Outcome::Skipped(skip);
                self.detail = why;
            }
            Err(Stop::Failed(why)) => self.outcome = Outcome::Failed(why),
        }
    }

    /// The action that failed: limits are set before the owner changes.
    #[must_use]
    pub fn failed_action(&self) -> Action {
        match self.observation.limits {
            KnownLimits::Set(_) => Action::ChownCgroup,
            KnownLimits::Missing | KnownLimits::Unread => Action::SetLimits,
        }
    }
}

// === impl Delegator ===

impl Delegator {
    /// Prepares delegation with these handles.
    ///
    /// # Errors
    /// The host's user namespace cannot be identified, or paths in `/proc/PID/cgroup` do not refer to the
    /// host's tree.
    pub fn new(handles: NodeHandles, rules: Rules, limits: Limits) -> Result<Delegator, DelegatorError> {
        let host_user_namespace =
            handles.proc.host_namespace("user").map_err(DelegatorError::of_namespace)?;
        let host_uid_map = handles.proc.open(1).and_then(|host| host.uid_map()).ok();
        let cgroup_namespace = cgroup_namespace(&handles.cgroups, &handles.proc)?;
        let marks = OnceLock::new();
        Ok(Delegator { handles, rules, limits, host_user_namespace, host_uid_map, cgroup_namespace, marks })
    }

    /// The node's handles.
    #[must_use]
    pub fn handles(&self) -> &NodeHandles {
        &self.handles
    }

    /// Replaces the rules, for a configuration that changed.
    pub fn set_rules(&mut self, rules: Rules, limits: Limits) {
        self.rules = rules;
        self.limits = limits;
    }

    /// The root of this process's cgroup namespace, for reading where processes are.
    #[must_use]
    pub fn cgroup_namespace(&self) -> &CgroupPath {
        &self.cgroup_namespace
    }

    /// Inspects a container and delegates its cgroup.
    pub fn handle(&self, target: &Target<'_>, unit: UnitSource<'_>) -> Inspection {
        let mut done = Inspection::new();
        let result = self.try_plan(target, unit, &mut done);
        let result = result.and_then(|(own, plan)| {
            let applied = self.apply(&own, plan, &mut done);
            done.own = Some(own);
            applied
        });
        let result =
            result.map_err(|stop| self.bound_skipped(target, stop, self.rules.observe_only, &mut done));
        done.end(result);
        done
    }

    /// Limits a container that is skipped, and its pod, if [`Limits::are_needed`]; with `observe_only`, only reads the
    /// limits. Returns why the inspection ends.
    fn bound_skipped(
        &self,
        target: &Target<'_>,
        stop: Stop,
        observe_only: bool,
        done: &mut Inspection,
    ) -> Stop {
        let Stop::Skip(..) = stop else { return stop };
        let Some(own) = done.own.take() else { return stop };
        let (MountSource::Specification(specified) | MountSource::Stricter(specified)) = target.mount;
        let uid_map = done.observation.uid_map.as_ref();
        let needs_limits = uid_map.is_some_and(|map| Limits::are_needed(own.owner(), map));
        let bounded = match (needs_limits && done.changes.is_empty(), observe_only) {
            (false, _) => Ok(()),
            (true, true) => Self::observe_limits(&own, &mut done.observation),
            (true, false) => self.set_limits(&own, specified, done),
        };
        done.own = Some(own);
        match bounded {
            Err(failed @ Stop::Failed(_)) => failed,
            // The pod's limits come first; a container's own that is closed or gone is skipped for that already.
            Ok(()) | Err(Stop::Skip(..)) => stop,
        }
    }

    /// Reads the limits that apply to a container.
    fn observe_limits(own: &Cgroup, seen: &mut Observation) -> Result<(), Stop> {
        seen.limits = Self::limits_of(own)?;
        Ok(())
    }

    /// Inspects a container as [`Delegator::handle`] does, and returns the plan without changing anything.
    /// `None` if the cgroup would be skipped; the outcome has the reason.
    pub fn plan(&self, target: &Target<'_>, unit: UnitSource<'_>) -> (Inspection, Option<Plan>) {
        let mut done = Inspection::new();
        let result = self.try_plan(target, unit, &mut done);
        let plan = result.and_then(|(own, plan)| {
            Self::observe_limits(&own, &mut done.observation)?;
            Ok(plan)
        });
        let plan = plan.map_err(|stop| self.bound_skipped(target, stop, true, &mut done));
        let (plan, result) = match plan {
            Ok(plan) => (Some(plan), Ok(Outcome::AlreadyRight)),
            Err(stop) => (None, Err(stop)),
        };
        done.end(result);
        let Inspection { init, observation, .. } = &mut done;
        if let (Some(init), Some(user_namespace)) = (init, &mut observation.user_namespace) {
            complete(vec![Incomplete { init, user_namespace, gid_map: &mut observation.gid_map }]);
        }
        (done, plan)
    }

    /// Inspects a container again that was right before: whether its cgroup still has that inode, that
    /// owner, and limits.
    #[must_use]
    pub fn is_still_right(&self, path: &CgroupPath, inode: u64, owner: HostId) -> bool {
        let Ok(cgroup) = self.handles.cgroups.open_cgroup(path) else { return false };
        let bounded = || {
            matches!(Self::limits_of(&cgroup), Ok(KnownLimits::Set(_)))
                && matches!(read_limit(&cgroup, Limits::DESCENDANTS_FILE), Ok(Limit::At(_)))
        };
        cgroup.inode() == inode && cgroup.owner() == owner && bounded()
    }

    /// Whether the cgroup exists and still has that inode.
    #[must_use]
    pub fn is_there(&self, path: &CgroupPath, inode: u64) -> bool {
        self.handles.cgroups.open_cgroup(path).is_ok_and(|cgroup| cgroup.inode() == inode)
    }

    /// Whether the node's cgroups are v2: on v1 nothing is prepared or handed over.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.handles.cgroups.is_unified()
    }

    /// The age of a process, if it can be read.
    #[must_use]
    pub fn age(&self, process: &Process) -> Option<Duration> {
        Some(self.handles.proc.uptime().ok()?.saturating_sub(process.started().ok()?))
    }

    /// Observes, proves and plans.
    fn try_plan(
        &self,
        target: &Target<'_>,
        source: UnitSource<'_>,
        done: &mut Inspection,
    ) -> Result<(Cgroup, Plan), Stop> {
        let (path, unit) = proof::place(target.id, target.cgroups_path)?;
        if !self.handles.cgroups.is_unified() {
            return Err(Stop::Skip(Skip::NotUnified, None));
        }
        let mut evidence = Evidence {
            id: target.id,
            cgroups_path: target.cgroups_path,
            specified: target.specified,
            specifies_user_namespace: target.user_namespace,
            is_started: target.is_started,
            opened: Opened::Escapes(path.clone()),
            init: None,
            mapping: None,
            unit: None,
        };
        let scope = self.open(&path, &mut evidence)?;
        let process = self.init_process(target, &scope, &mut evidence)?;
        let process = done.init.insert(process);
        let own = self.read_mapping(process, scope, &mut evidence, &mut done.observation)?;
        let mut proven = match proof::prove(&evidence) {
            Ok(proven) => proven,
            Err(unproven) => {
                // Everything before shows that the cgroup is the container's, and so are the IDs that it was given.
                if unproven.point == Point::Mapping && target.is_started {
                    done.observation.take_given(target.specified);
                    done.own = Some(own);
                }
                return Err(unproven.into());
            }
        };
        let facts = match proven.user_namespace() {
            InUserNamespace::Own => self.read_facts(target, process, &own, &mut done.observation),
            InUserNamespace::Hosts | InUserNamespace::SelfMade => Ok(Facts::unread(own.owner())),
        };
        let planned = facts.and_then(|facts| Ok((self.decide(&proven, &facts)?, facts)));
        let (mut plan, facts) = match planned {
            Ok(planned) => planned,
            Err(stop) => {
                if proven.user_namespace() == InUserNamespace::Own {
                    done.own = Some(own);
                }
                return Err(stop);
            }
        };
        // systemd is asked only if there is something to do, and if its answer is not on the directory.
        if matches!(plan, Plan::Chown { .. })
            && let Some(unit) = unit
        {
            evidence.unit = self.scope(&own, &path, &unit, source);
            proven = proof::prove(&evidence)?;
            plan = self.decide(&proven, &facts)?;
        }
        Ok((own, plan))
    }

    /// systemd's answer about the unit at `path`, which is `own` or above it: the one that systemd has written on the
    /// directory, otherwise the one of `source`.
    fn scope(&self, own: &Cgroup, path: &CgroupPath, unit: &str, source: UnitSource<'_>) -> Option<Scope> {
        let above = (own.path() != path).then(|| own.above(path));
        let scope = match &above {
            None => Some(own),
            Some(above) => above.as_ref(),
        };
        let scope = scope.filter(|scope| scope.owner() == HostId::ROOT);
        let with = |scope: &Cgroup, delegate| Scope {
            control_group: path.clone(),
            control_group_id: Some(scope.inode()),
            delegate,
        };
        match scope {
            Some(scope) if scope.is_marked_as_delegated() => Some(with(scope, true)),
            scope => source.scope(unit).or_else(|| {
                // A systemd that sets marks has set none on this directory.
                let sets_marks = *self.marks.get_or_init(|| self.handles.cgroups.has_marks());
                scope.filter(|_| sets_marks).map(|scope| with(scope, false))
            }),
        }
    }

    fn decide(&self, proven: &Proven, facts: &Facts) -> Result<Plan, Stop> {
        plan(proven, facts, &self.rules).map_err(|skip| {
            let is_self_made = proven.user_namespace() == InUserNamespace::SelfMade;
            let why = "its specification gives it no user namespace; it made the one it is in itself";
            Stop::Skip(skip, is_self_made.then(|| why.to_owned()))
        })
    }

    fn apply(&self, own: &Cgroup, plan: Plan, done: &mut Inspection) -> Result<Outcome, Stop> {
        let _held = matches!(plan, Plan::Chown { .. }).then(|| own.hold());
        // Limits first, so that nothing is ever delegated without them.
        if self.rules.observe_only {
            Self::observe_limits(own, &mut done.observation)?;
        } else {
            self.set_limits(own, CgroupMount::ReadWrite, done)?;
        }
        match plan {
            Plan::AlreadyRight { .. } => Ok(Outcome::AlreadyRight),
            Plan::Chown { owner, files, directory } => {
                let is_alive = done.init.as_ref().is_some_and(Process::is_alive);
                if !is_alive || !self.handles.cgroups.still_has(own) {
                    return Err(Stop::Skip(Skip::Gone, None));
                }
                // Another agent may have changed it since this one read it.
                if directory && own.owner_now()? == owner {
                    done.observation.owner = Some(owner);
                    return Ok(Outcome::AlreadyRight);
                }
                let before = own.owner();
                for name in &files {
                    match own.chown_file(name, owner) {
                        Err(error) if !error.is_gone() => return Err(error.into()),
                        Ok(()) | Err(_) => {}
                    }
                }
                // The directory is changed last, because until then the container can use none of the
                // files.
                if directory {
                    own.chown(owner)?;
                }
                // fchown also succeeds on a removed cgroup, so its existence is checked again.
                if !self.handles.cgroups.still_has(own) {
                    return Err(Stop::Skip(Skip::Gone, None));
                }
                let now = own.owner_now()?;
                done.observation.owner = Some(now);
                done.changes.push(Change {
                    action: Action::ChownCgroup,
                    path: own.path().clone(),
                    from: before.to_string(),
                    to: now.to_string(),
                });
                Ok(Outcome::Delegated)
            }
        }
    }
}

/// What the decision on a container did not need about its init process, and was not read.
#[derive(Debug)]
pub struct Incomplete<'a> {
    /// The init process.
    pub init: &'a Process,
    /// Its user namespace, whose inode may be missing.
    pub user_namespace: &'a mut UserNamespace,
    /// The mapping of group IDs, which may be missing.
    pub gid_map: &'a mut Option<IdMap>,
}

/// Reads what is missing. What cannot be read remains so.
pub fn complete(mut all: Vec<Incomplete<'_>>) {
    let mut unknown: Vec<_> = all.iter_mut().filter(|one| one.user_namespace.inode.is_none()).collect();
    let processes: Vec<&Process> = unknown.iter().map(|one| one.init).collect();
    let inodes = Process::namespaces(&processes, "user");
    for (one, inode) in unknown.iter_mut().zip(inodes) {
        one.user_namespace.inode = inode.ok();
    }
    for one in all.iter_mut().filter(|one| one.gid_map.is_none()) {
        *one.gid_map = one.init.gid_map().ok();
    }
}

/// The root of this process's cgroup namespace, to which paths in `/proc/PID/cgroup` are relative. Joining
/// the host's namespace would take CAP_SYS_ADMIN; finding one's own place takes no capability.
fn cgroup_namespace(cgroups: &CgroupRoot, proc: &Proc) -> Result<CgroupPath, DelegatorError> {
    if !cgroups.is_unified() || proc.in_host_cgroup_namespace().map_err(DelegatorError::of_namespace)? {
        return Ok(CgroupPath::root());
    }
    let own = std::process::id();
    let seen = proc.open(own).and_then(|process| process.cgroup(&CgroupPath::root()));
    let found = cgroups.find(own)?;
    found
        .zip(seen.ok())
        .and_then(|(found, seen)| found.namespace_of(&seen))
        .ok_or_else(|| DelegatorError::CgroupNamespace(cgroups.path().to_owned()))
}
