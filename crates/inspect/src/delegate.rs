//! Hands a container's cgroup over to it: observe → plan → apply, for one container at a time, the
//! same whichever way it was reached.
//!
//! What makes a target the container's own: its path comes from the runtime and carries the
//! container's full ID; every directory above it is root's alone, so that only root can have made
//! it; systemd, where it can be asked, names the same path, the same cgroup ID, and delegates the
//! unit; a process, held by a pidfd, is in it; and after the change the path still leads to the
//! directory that was changed. Where one of these does not hold, nothing is done.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use usernsd_domain::cgroup::{CgroupPath, DelegateList, descendants_of_stat};
use usernsd_domain::container::{CgroupMount, CriId, Told};
use usernsd_domain::delegation::{self, Facts, Held, Limit, Limits, Plan, ProcessUser, Rules, Skip};
use usernsd_domain::idmap::{ContainerId, HostId, IdMap};
pub use usernsd_domain::record::Change;
use usernsd_domain::record::{Action, Outcome, UserNamespace};
use usernsd_domain::unit::{CgroupsPath, Scope, pod_cgroup};
use usernsd_linux::cgroupfs::{Cgroup, CgroupError, CgroupRoot};
use usernsd_linux::proc::{Proc, ProcError, Process};

/// Cgroups that an OCI runtime makes in a container's own at most: crun makes one.
const RUNTIMES_CGROUPS: usize = 8;

/// Hands cgroups over.
#[derive(Debug)]
pub struct Delegator {
    cgroups: CgroupRoot,
    proc: Proc,
    delegate_list: DelegateList,
    rules: Rules,
    limits: Limits,
    host_user_namespace: u64,
    /// The root of this process's cgroup namespace.
    cgroup_namespace: CgroupPath,
}

/// A container to look at.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its ID.
    pub id: &'a CriId,
    /// The runtime's `cgroupsPath`.
    pub cgroups_path: &'a str,
    /// Its init process, where the source says it; else it is looked for in its cgroup.
    pub pid: Option<u32>,
    /// The process's user, where the source says it; else what the kernel says of the process.
    pub process_uid: Option<ContainerId>,
    /// Its specification gives it a user namespace. One that it made itself is not the pod's.
    pub user_namespace: bool,
    /// What says how `/sys/fs/cgroup` is mounted.
    pub mount: MountSource,
    /// What the runtime was told to make of its namespaces.
    pub told: &'a Told,
    /// Its own program was started: from then on other processes can be in its cgroup, those of commands
    /// (CRI ExecSync) and those that root of the host moves there.
    pub is_started: bool,
}

/// What says how `/sys/fs/cgroup` is mounted in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountSource {
    /// Its specification alone: the process has not got that far.
    Specification(CgroupMount),
    /// Its specification and its process's mount table; what allows less holds. A specification does not
    /// tell what the OCI runtime made of it, and a container that runs may have mounted what it was not
    /// given.
    Stricter(CgroupMount),
}

/// What was seen and what came of it.
#[derive(Debug)]
pub struct Handled {
    /// The result.
    pub outcome: Outcome,
    /// Why, where the outcome's name does not say it all.
    pub detail: Option<String>,
    /// What was changed on the host, in order.
    pub changes: Vec<Change>,
    /// What was seen on the way; the more, the further it came.
    pub seen: Seen,
    /// The init process, held: proven to be in the container's cgroup.
    pub init: Option<Process>,
}

/// Facts for the record.
#[derive(Debug, Default)]
pub struct Seen {
    /// The init process.
    pub pid: Option<u32>,
    /// Its mapping of user IDs.
    pub uid_map: Option<IdMap>,
    /// Its mapping of group IDs.
    pub gid_map: Option<IdMap>,
    /// Its user namespace.
    pub user_namespace: Option<UserNamespace>,
    /// How `/sys/fs/cgroup` is mounted.
    pub mount: Option<CgroupMount>,
    /// The container's own cgroup.
    pub cgroup: Option<CgroupPath>,
    /// Its inode.
    pub inode: Option<u64>,
    /// Its owner, after the change.
    pub owner: Option<HostId>,
    /// The bounds that hold for it.
    pub limits: Option<Limits>,
}

/// Why the agent cannot hand over cgroups at all.
#[derive(Debug, Error)]
pub enum StartError {
    /// The host's own namespaces cannot be read.
    #[error("{0}; the agent needs the host's PID namespace (hostPID: true) and CAP_SYS_PTRACE")]
    HostNamespace(ProcError),
    /// This process is in a cgroup namespace of its own, and does not find its place in the tree.
    #[error(
        "this process is in a cgroup namespace of its own, and is not found in the tree at {0}: \
         that must be the host's /sys/fs/cgroup"
    )]
    CgroupNamespace(PathBuf),
    /// The cgroup tree cannot be listed.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
}

/// The handling ends here.
enum Stop {
    Skip(Skip, Option<String>),
    Failed(String),
}

// === impl Stop ===

impl From<CgroupError> for Stop {
    fn from(error: CgroupError) -> Stop {
        match error {
            CgroupError::Gone(_) => Stop::Skip(Skip::Gone, Some(error.to_string())),
            CgroupError::NotRoots { .. } | CgroupError::Escapes(_) => {
                Stop::Skip(Skip::Unproven, Some(error.to_string()))
            }
            CgroupError::Call { .. } => Stop::Failed(error.to_string()),
        }
    }
}

impl From<ProcError> for Stop {
    fn from(error: ProcError) -> Stop {
        match error {
            ProcError::Gone(_) => Stop::Skip(Skip::Gone, Some(error.to_string())),
            ProcError::Cgroup { .. } => Stop::Skip(Skip::Unproven, Some(error.to_string())),
            ProcError::Read { .. }
            | ProcError::IdMap { .. }
            | ProcError::Status { .. }
            | ProcError::Stat { .. } => Stop::Failed(error.to_string()),
        }
    }
}

fn unproven(why: impl ToString) -> Stop {
    Stop::Skip(Skip::Unproven, Some(why.to_string()))
}

// === impl Handled ===

impl Handled {
    fn new() -> Handled {
        Handled {
            outcome: Outcome::AlreadyRight,
            detail: None,
            changes: Vec::new(),
            seen: Seen::default(),
            init: None,
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

    /// What was being changed when the handling failed: bounds come before the owner.
    #[must_use]
    pub fn failed_action(&self) -> Action {
        if self.seen.limits.is_none() { Action::SetLimits } else { Action::ChownCgroup }
    }
}

// === impl Delegator ===

impl Delegator {
    /// Prepares to hand over cgroups of the tree `cgroups`, for processes of `proc`.
    ///
    /// # Errors
    /// The host's user namespace cannot be told from others, or paths in `/proc/PID/cgroup` do not
    /// mean the host's tree.
    pub fn new(
        cgroups: CgroupRoot,
        proc: Proc,
        delegate_list: DelegateList,
        rules: Rules,
        limits: Limits,
    ) -> Result<Delegator, StartError> {
        let host_user_namespace = proc.host_namespace("user").map_err(StartError::HostNamespace)?;
        let cgroup_namespace = cgroup_namespace(&cgroups, &proc)?;
        Ok(Delegator { cgroups, proc, delegate_list, rules, limits, host_user_namespace, cgroup_namespace })
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

    /// Looks at a container and makes its cgroup right.
    ///
    /// `scope_of` asks systemd for a unit; `None` from it means that systemd could not be asked in
    /// time, and the proof stands on the rest.
    pub fn handle(&self, target: &Target<'_>, scope_of: impl FnOnce(&str) -> Option<Scope>) -> Handled {
        let mut handled = Handled::new();
        let result = self.try_plan(target, scope_of, &mut handled);
        let result = result.and_then(|(own, plan)| self.apply(&own, plan, &mut handled));
        handled.end(result);
        handled
    }

    /// Looks at a container as [`Delegator::handle`] does, and says what that would do; nothing is
    /// changed. `None` where it would leave it alone: then the outcome says why.
    pub fn plan(
        &self,
        target: &Target<'_>,
        scope_of: impl FnOnce(&str) -> Option<Scope>,
    ) -> (Handled, Option<Plan>) {
        let mut handled = Handled::new();
        let result = self.try_plan(target, scope_of, &mut handled);
        let plan = result.and_then(|(own, plan)| {
            handled.seen.limits = Self::limits_of(Self::bounded_cgroup(&own).as_ref().unwrap_or(&own))?;
            Ok(plan)
        });
        let (plan, result) = match plan {
            Ok(plan) => (Some(plan), Ok(Outcome::AlreadyRight)),
            Err(stop) => (None, Err(stop)),
        };
        handled.end(result);
        (handled, plan)
    }

    /// Looks again at a container that was right before: whether its cgroup, of that inode, still
    /// belongs to that owner and is still bounded.
    #[must_use]
    pub fn is_still_right(&self, path: &CgroupPath, inode: u64, owner: HostId) -> bool {
        let Ok(cgroup) = self.cgroups.open_cgroup(path) else { return false };
        let bounded = || {
            let pod = Self::bounded_cgroup(&cgroup);
            matches!(Self::limits_of(pod.as_ref().unwrap_or(&cgroup)), Ok(Some(_)))
                && matches!(read_limit(&cgroup, Limits::DESCENDANTS_FILE), Ok(Limit::At(_)))
        };
        cgroup.inode() == inode && cgroup.owner() == owner && bounded()
    }

    /// Whether the cgroup, of that inode, is there.
    #[must_use]
    pub fn is_there(&self, path: &CgroupPath, inode: u64) -> bool {
        self.cgroups.open_cgroup(path).is_ok_and(|cgroup| cgroup.inode() == inode)
    }

    /// Whether the node's cgroups are v2: on v1 nothing is prepared or handed over.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.cgroups.is_unified()
    }

    /// How long ago a process was made, where that can be read.
    #[must_use]
    pub fn age(&self, process: &Process) -> Option<Duration> {
        Some(self.proc.uptime().ok()?.saturating_sub(process.started().ok()?))
    }

    fn try_plan(
        &self,
        target: &Target<'_>,
        scope_of: impl FnOnce(&str) -> Option<Scope>,
        handled: &mut Handled,
    ) -> Result<(Cgroup, Plan), Stop> {
        // Observe. A container of the host's user namespace needs no proof: it is left alone.
        let place = CgroupsPath::parse(target.cgroups_path).map_err(unproven)?;
        let path = place.directory(target.id).map_err(unproven)?;
        if !self.cgroups.is_unified() {
            return Err(Stop::Skip(Skip::NotUnified, None));
        }
        let scope = self.cgroups.open_cgroup(&path)?;
        let scope_inode = scope.inode();
        let (process, within) = self.init_process(target, &scope)?;
        let process = handled.init.insert(process);
        let seen = &mut handled.seen;
        seen.pid = Some(process.pid());
        let uid_map = process.uid_map()?;
        let user_namespace = process.namespace("user")?;
        let in_host_user_namespace = user_namespace == self.host_user_namespace;
        seen.uid_map = Some(uid_map.clone());
        seen.gid_map = Some(process.gid_map()?);
        seen.user_namespace = Some(UserNamespace { inode: user_namespace, is_hosts: in_host_user_namespace });
        let own = self.own_cgroup(scope, &within)?;
        seen.cgroup = Some(own.path().clone());
        seen.inode = Some(own.inode());
        seen.owner = Some(own.owner());
        if in_host_user_namespace {
            return Err(Stop::Skip(Skip::HostUserNamespace, None));
        }
        if !target.user_namespace {
            let why = "its specification gives it no user namespace; it made the one it is in itself";
            return Err(Stop::Skip(Skip::HostUserNamespace, Some(why.to_owned())));
        }
        // A process can make a user namespace below its own, with another map, but not change the
        // one the runtime made. Where it is in another one, it does not prove what the container may own.
        let gid_map = seen.gid_map.as_ref().unwrap_or(&uid_map);
        for (ids, told, found) in
            [("user", &target.told.uid_map, &uid_map), ("group", &target.told.gid_map, gid_map)]
        {
            if !told.is_empty() && !told.is_same(found) {
                return Err(unproven(format!(
                    "the runtime was told to map {ids} IDs {told}, and process {} has {found}",
                    process.pid()
                )));
            }
        }
        let mount = match target.mount {
            MountSource::Specification(told) => told,
            MountSource::Stricter(told) => {
                told.min(process.cgroup_mount(own.path(), &self.cgroup_namespace)?)
            }
        };
        seen.mount = Some(mount);
        let user = match target.process_uid {
            Some(id) => ProcessUser::Container(id),
            None => ProcessUser::Host(process.effective_uid()?),
        };
        let mut files = Vec::new();
        for name in self.delegate_list.files() {
            if let Some(owner) = own.file_owner(name)? {
                files.push((name.to_owned(), owner));
            }
        }

        // Plan.
        let mut facts = Facts {
            unified: true,
            in_host_user_namespace,
            uid_map,
            mount,
            user,
            delegate: None,
            owner: own.owner(),
            files,
        };
        let mut plan = delegation::plan(&facts, &self.rules).map_err(|skip| Stop::Skip(skip, None))?;

        // systemd is asked only where something is to be done.
        if matches!(plan, Plan::Chown { .. })
            && let Some(unit) = place.unit()
            && let Some(scope) = scope_of(&unit)
        {
            if scope.control_group != path {
                return Err(unproven(format!("systemd has {unit} at {}", scope.control_group)));
            }
            if scope.control_group_id.is_some_and(|id| id != scope_inode) {
                return Err(unproven(format!(
                    "systemd knows {unit} by another cgroup ID than {scope_inode}"
                )));
            }
            facts.delegate = Some(scope.delegate);
            plan = delegation::plan(&facts, &self.rules).map_err(|skip| Stop::Skip(skip, None))?;
        }

        Ok((own, plan))
    }

    fn apply(&self, own: &Cgroup, plan: Plan, handled: &mut Handled) -> Result<Outcome, Stop> {
        let _held = matches!(plan, Plan::Chown { .. }).then(|| own.hold());
        // Bounds first, so that nothing is ever delegated without them.
        if self.rules.observe_only {
            handled.seen.limits = Self::limits_of(Self::bounded_cgroup(own).as_ref().unwrap_or(own))?;
        } else {
            self.set_limits(own, handled)?;
        }
        match plan {
            Plan::AlreadyRight { .. } => Ok(Outcome::AlreadyRight),
            Plan::Chown { owner, files, directory } => {
                let is_alive = handled.init.as_ref().is_some_and(Process::is_alive);
                if !is_alive || !self.cgroups.still_has(own) {
                    return Err(Stop::Skip(Skip::Gone, None));
                }
                // Another agent may have done it since this one looked.
                if directory && own.owner_now()? == owner {
                    handled.seen.owner = Some(owner);
                    return Ok(Outcome::AlreadyRight);
                }
                let before = own.owner();
                for name in &files {
                    match own.chown_file(name, owner) {
                        Err(error) if !error.is_gone() => return Err(error.into()),
                        Ok(()) | Err(_) => {}
                    }
                }
                // The directory last: until then the container can use none of it.
                if directory {
                    own.chown(owner)?;
                }
                // fchown succeeds on a removed cgroup too: look again.
                if !self.cgroups.still_has(own) {
                    return Err(Stop::Skip(Skip::Gone, None));
                }
                let now = own.owner_now()?;
                handled.seen.owner = Some(now);
                handled.changes.push(Change {
                    action: Action::ChownCgroup,
                    path: own.path().clone(),
                    from: before.to_string(),
                    to: now.to_string(),
                });
                Ok(Outcome::Delegated)
            }
        }
    }

    /// The container's init process: the one the source names, else the one in its cgroup or, with crun, one
    /// level deeper. Either must be within the cgroup and, once the container runs, be the first of its PID
    /// namespace where it has one of its own: the number may have passed to another process, and the
    /// lowest number may be that of a process which was moved there.
    /// With it comes where in the cgroup it is.
    fn init_process(&self, target: &Target<'_>, scope: &Cgroup) -> Result<(Process, CgroupPath), Stop> {
        let must_be_first = target.is_started && target.told.pid_namespace;
        if let Some(pid) = target.pid {
            let process = self.proc.open(pid)?;
            if must_be_first && !is_first(&process)? {
                return Err(unproven(format!(
                    "the runtime names process {pid}, which is not the first of a PID namespace of the container's"
                )));
            }
            return self.within(process, scope);
        }
        let mut pids = scope.processes()?;
        if pids.is_empty() {
            for name in scope.children()? {
                match scope.child(&name).and_then(|child| child.processes()) {
                    Ok(found) => pids.extend(found),
                    Err(error) if error.is_gone() => {}
                    // A threaded cgroup has no cgroup.procs to read (EOPNOTSUPP): no init in it.
                    Err(_) => {}
                }
            }
        }
        // The oldest has, but for a wrapped counter, the lowest number.
        pids.sort_unstable();
        if must_be_first {
            for pid in &pids {
                match self.proc.open(*pid).and_then(|process| Ok((is_first(&process)?, process))) {
                    Ok((true, process)) => return self.within(process, scope),
                    Ok((false, _)) | Err(ProcError::Gone(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if !pids.is_empty() {
                return Err(unproven("no process in its cgroup is the first of a PID namespace of its own"));
            }
        }
        let pid = pids.first().ok_or(Stop::Skip(Skip::Gone, None))?;
        self.within(self.proc.open(*pid)?, scope)
    }

    fn within(&self, process: Process, scope: &Cgroup) -> Result<(Process, CgroupPath), Stop> {
        let path = process.cgroup(&self.cgroup_namespace)?;
        if path.is_within(scope.path()) {
            Ok((process, path))
        } else {
            Err(unproven(format!("process {} is in {path}, not in {}", process.pid(), scope.path())))
        }
    }

    /// The directory that is the container's root: the scope itself or, where the runtime made one
    /// below it (crun's `container`), that one.
    fn own_cgroup(&self, scope: Cgroup, process: &CgroupPath) -> Result<Cgroup, Stop> {
        // Once the scope is the container's, everything below is its own making. While it is
        // root's, only a runtime can have made a directory in it.
        if scope.owner() != HostId::ROOT {
            return Ok(scope);
        }
        let below = process.as_str().strip_prefix(scope.path().as_str()).unwrap_or_default();
        match below.split('/').find(|name| !name.is_empty()) {
            None => Ok(scope),
            Some(name) => Ok(scope.child(name)?),
        }
    }

    /// Where bounds belong: on the pod's cgroup, where the kubelet will set them too (KEP-5474);
    /// on the container's where there is no pod, so that no other service is bounded with it.
    fn bounded_cgroup(own: &Cgroup) -> Option<Cgroup> {
        own.above(&pod_cgroup(own.path())?)
    }

    fn limits_of(cgroup: &Cgroup) -> Result<Option<Limits>, CgroupError> {
        let (descendants, depth) = read_limits(cgroup)?;
        Ok(match (descendants, depth) {
            (Limit::At(descendants), Limit::At(depth)) => Some(Limits { descendants, depth }),
            _ => None,
        })
    }

    fn set_limits(&self, own: &Cgroup, handled: &mut Handled) -> Result<(), Stop> {
        let pod = Self::bounded_cgroup(own);
        let bounded = pod.as_ref().unwrap_or(own);
        let (descendants, depth) = read_limits(bounded)?;
        for (file, value) in self.limits.missing(descendants, depth) {
            handled.changes.push(set_limit(bounded, file, value)?);
        }
        // Written or found: a write that fails ends above.
        let or = |limit, written| if let Limit::At(found) = limit { found } else { written };
        let limits = Limits {
            descendants: or(descendants, self.limits.descendants),
            depth: or(depth, self.limits.depth),
        };
        if let Some(pod) = &pod {
            self.set_share(own, pod, limits.descendants, handled)?;
        }
        handled.seen.limits = Some(limits);
        Ok(())
    }

    /// Bounds the container's own cgroup, so that the pod's next container finds room in the pod's,
    /// which may hold `most` cgroups. A bound that is there already is kept.
    fn set_share(&self, own: &Cgroup, pod: &Cgroup, most: u32, handled: &mut Handled) -> Result<(), Stop> {
        if let Limit::At(_) = read_limit(own, Limits::DESCENDANTS_FILE)? {
            return Ok(());
        }
        // Of two containers that come at the same moment, the second sees the first one's bound.
        let _held = pod.hold();
        let mut below = own.path().components().skip(pod.path().components().count());
        let top = below.next().unwrap_or_default();
        let mut taken = 1 + below.count() as u64;
        for name in pod.children()?.iter().filter(|name| *name != top) {
            match pod.child(name).and_then(|beside| most_held(&beside, most)) {
                Ok(held) => taken = taken.saturating_add(held),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let share = Limits::share(most, taken, descendants(own)?);
        handled.changes.push(set_limit(own, Limits::DESCENDANTS_FILE, share)?);
        Ok(())
    }
}

/// Whether it is the first process of a PID namespace directly below the node's.
fn is_first(process: &Process) -> Result<bool, ProcError> {
    Ok(matches!(process.inner_numbers()?.as_slice(), [1]))
}

/// How many cgroups a cgroup directly below a pod's may come to hold, itself included.
fn most_held(cgroup: &Cgroup, pod: u32) -> Result<u64, CgroupError> {
    let held = held(cgroup)?;
    // Of crun's container the bound is one level deeper. What is in a directory of root's only root can
    // have made.
    if held.bound != Limit::Max || held.used == 0 || cgroup.owner() != HostId::ROOT {
        return Ok(held.most(pod));
    }
    let mut most = 1_u64;
    for name in cgroup.children()?.iter().take(RUNTIMES_CGROUPS) {
        match cgroup.child(name).and_then(|child| self::held(&child)) {
            Ok(held) => most = most.saturating_add(held.most(pod)),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(most.max(held.most(pod)))
}

fn held(cgroup: &Cgroup) -> Result<Held, CgroupError> {
    Ok(Held { used: descendants(cgroup)?, bound: read_limit(cgroup, Limits::DESCENDANTS_FILE)? })
}

/// The number of cgroups below one.
fn descendants(cgroup: &Cgroup) -> Result<u64, CgroupError> {
    let text = cgroup.read("cgroup.stat")?;
    descendants_of_stat(&text).ok_or_else(|| unreadable(cgroup, "cgroup.stat", &text))
}

/// Sets a limit that is `max`.
fn set_limit(cgroup: &Cgroup, file: &str, value: u32) -> Result<Change, CgroupError> {
    cgroup.write(file, &value.to_string())?;
    Ok(Change {
        action: Action::SetLimits,
        path: cgroup.path().join(file).unwrap_or_else(|| cgroup.path().clone()),
        from: "max".to_owned(),
        to: value.to_string(),
    })
}

/// The root of this process's cgroup namespace: from there `/proc/PID/cgroup` is read. Joining the
/// host's would take CAP_SYS_ADMIN; knowing where one is takes no more than a look.
fn cgroup_namespace(cgroups: &CgroupRoot, proc: &Proc) -> Result<CgroupPath, StartError> {
    if !cgroups.is_unified() || proc.in_host_cgroup_namespace().map_err(StartError::HostNamespace)? {
        return Ok(CgroupPath::root());
    }
    let own = std::process::id();
    let seen = proc.open(own).and_then(|process| process.cgroup(&CgroupPath::root()));
    let found = cgroups.find(own)?;
    found
        .zip(seen.ok())
        .and_then(|(found, seen)| found.namespace_of(&seen))
        .ok_or_else(|| StartError::CgroupNamespace(cgroups.path().to_owned()))
}

fn read_limits(cgroup: &Cgroup) -> Result<(Limit, Limit), CgroupError> {
    Ok((read_limit(cgroup, Limits::DESCENDANTS_FILE)?, read_limit(cgroup, Limits::DEPTH_FILE)?))
}

fn read_limit(cgroup: &Cgroup, file: &str) -> Result<Limit, CgroupError> {
    let text = cgroup.read(file)?;
    Limit::parse(&text).ok_or_else(|| unreadable(cgroup, file, &text))
}

fn unreadable(cgroup: &Cgroup, file: &str, text: &str) -> CgroupError {
    CgroupError::Call {
        what: format!("{}/{file} holds {:?}", cgroup.path(), text.chars().take(40).collect::<String>()),
        errno: nix::errno::Errno::EINVAL,
    }
}
