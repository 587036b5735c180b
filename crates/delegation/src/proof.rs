//! The proof that a cgroup is a container's own.
//!
//! A container can create directories with names like those of scopes and move its processes into them, so
//! the text of `/proc/PID/cgroup` proves nothing. [`prove`] decides on [`Evidence`] that the caller has
//! observed; [`plan`](crate::plan()) takes only its result. The points are those of
//! `docs/architecture.md`, "Proof of identity", in the same order.

#[cfg(test)]
pub(crate) mod tests;

use thiserror::Error;

use usernsd_domain::cgroup::{Ancestor, CgroupPath};
use usernsd_domain::container::{CriId, SpecifiedNamespaces};
use usernsd_domain::idmap::{HostId, IdMap};
use usernsd_domain::record::UserNamespace;
use usernsd_domain::unit::{CgroupsPath, CgroupsPathError, Scope};

/// A point of the proof. All of them must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// The path comes from the runtime's `cgroupsPath` and carries the container's full ID.
    Name,
    /// The directory was opened beneath the cgroup root, through no link and across no mount.
    Opened,
    /// Every directory above it is writable for root alone, so that only root can have created it.
    Ancestors,
    /// The container's init process is in it.
    InitProcess,
    /// The process's IDs are mapped as the runtime was configured.
    Mapping,
    /// systemd, if it can be asked, names the same path and the same cgroup ID.
    Unit,
}

/// Observations of a container, its cgroup and its init process. A missing observation does not hold, except
/// for systemd's answer.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// The container's ID.
    pub id: &'a CriId,
    /// The runtime's `cgroupsPath`.
    pub cgroups_path: &'a str,
    /// The namespaces and mappings in the container's specification.
    pub specified: &'a SpecifiedNamespaces,
    /// The specification gives the container a user namespace.
    pub specifies_user_namespace: bool,
    /// The container's own program was started. From then on other processes can be in its cgroup: those of
    /// commands (CRI ExecSync), and those that root of the host moves there.
    pub is_started: bool,
    /// The result of opening the directory.
    pub opened: Opened,
    /// The init process.
    pub init: Option<InitProcess>,
    /// The init process's user namespace.
    pub mapping: Option<Mapping>,
    /// systemd's answer on the unit; `None` with the cgroupfs manager, or if it could not be asked in time.
    pub unit: Option<Scope>,
}

/// The result of opening a container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Opened by openat2(2), beneath the cgroup root, through no link and across no mount.
    Beneath {
        path: CgroupPath,
        /// The directory's inode, which is the cgroup's ID.
        inode: u64,
        /// Every directory above it, the cgroup root first.
        above: Vec<Ancestor>,
    },
    /// Not opened, because this directory above it does not belong to root alone.
    Stopped(Ancestor),
    /// Not opened, because this path leads through a link or into another file system.
    Escapes(CgroupPath),
}

/// The process that is taken for a container's first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitProcess {
    /// The PID in the host's PID namespace.
    pub pid: u32,
    /// The runtime named it. Otherwise it was found in the cgroup.
    pub is_named: bool,
    /// The PIDs in the PID namespaces below the host's, from the outermost to its own; read only if the
    /// process must be the first of one ([`Evidence::must_be_first`]).
    pub inner_numbers: Vec<u32>,
    /// The cgroup according to `/proc/PID/cgroup`.
    pub cgroup: CgroupPath,
}

/// A process's user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub user_namespace: UserNamespace,
    /// `/proc/PID/uid_map`.
    pub uid_map: IdMap,
    /// `/proc/PID/gid_map`; `None` if it was not read, because the source has no mapping to compare it with.
    pub gid_map: Option<IdMap>,
}

/// A container's cgroup that was proven to be its own. Only [`prove`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    user_namespace: InUserNamespace,
    uid_map: IdMap,
    delegate: Option<bool>,
}

/// In which user namespace a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUserNamespace {
    Hosts,
    /// One that the container created itself: its specification gives it none.
    SelfMade,
    /// The container's own, according to its specification.
    Own,
}

/// Why a cgroup is not proven to be the container's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Unproven {
    /// The point that does not hold.
    pub point: Point,
    /// The contradicting observation.
    pub reason: String,
}

// === impl Point ===

impl Point {
    /// All points, in the order in which they are checked and documented.
    pub const ALL: [Point; 6] =
        [Point::Name, Point::Opened, Point::Ancestors, Point::InitProcess, Point::Mapping, Point::Unit];

    /// The words with which the point begins in `docs/architecture.md`.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Point::Name => "its name",
            Point::Opened => "the way to it",
            Point::Ancestors => "the directories above it",
            Point::InitProcess => "its init process",
            Point::Mapping => "its ID mapping",
            Point::Unit => "its unit",
        }
    }

    fn lacks(self, reason: impl ToString) -> Unproven {
        Unproven { point: self, reason: reason.to_string() }
    }
}

// === impl InitProcess ===

impl InitProcess {
    /// Whether numbers in PID namespaces are those of the first process of one directly below the host's.
    #[must_use]
    pub fn is_first(inner_numbers: &[u32]) -> bool {
        matches!(inner_numbers, [1])
    }
}

// === impl Evidence ===

/// The path at which a container's cgroup must be, and with the systemd manager the unit's name.
///
/// # Errors
/// [`Point::Name`] does not hold.
pub fn place(id: &CriId, cgroups_path: &str) -> Result<(CgroupPath, Option<String>), Unproven> {
    let parsed = CgroupsPath::parse(cgroups_path);
    let placed = parsed.and_then(|place| Ok::<_, CgroupsPathError>((place.directory(id)?, place.unit())));
    placed.map_err(|error| Point::Name.lacks(error))
}

impl Evidence<'_> {
    /// Whether the init process must be the first of a PID namespace: once a container runs that has one of
    /// its own. The number may have passed to another process, and the lowest number in the cgroup may be
    /// that of a process which was moved there.
    #[must_use]
    pub fn must_be_first(&self) -> bool {
        self.is_started && self.specified.pid_namespace
    }

    /// Checks one point.
    ///
    /// # Errors
    /// It does not hold.
    pub fn check(&self, point: Point) -> Result<(), Unproven> {
        match point {
            Point::Name => self.name(),
            Point::Opened => self.opened(),
            Point::Ancestors => self.ancestors(),
            Point::InitProcess => self.init_process(),
            Point::Mapping => self.mapping(),
            Point::Unit => self.unit(),
        }
    }

    fn name(&self) -> Result<(), Unproven> {
        place(self.id, self.cgroups_path).map(drop)
    }

    fn opened(&self) -> Result<(), Unproven> {
        match &self.opened {
            Opened::Escapes(path) => {
                Err(Point::Opened.lacks(format_args!("cgroup {path} leads out of the cgroup tree")))
            }
            // The way to it is judged by the next point.
            Opened::Stopped(_) => Ok(()),
            Opened::Beneath { path, .. } => {
                let (want, _) = place(self.id, self.cgroups_path)?;
                if *path == want {
                    return Ok(());
                }
                Err(Point::Opened.lacks(format_args!("cgroup {path} was opened in place of {want}")))
            }
        }
    }

    fn ancestors(&self) -> Result<(), Unproven> {
        let not_roots = |Ancestor { path, uid, gid, mode }: &Ancestor| {
            Point::Ancestors.lacks(format_args!(
                "cgroup {path} is owned by {uid}:{gid} with mode {mode:o}, not by 0:0 alone"
            ))
        };
        match &self.opened {
            Opened::Escapes(path) => {
                Err(Point::Ancestors.lacks(format_args!("cgroup {path} was not opened")))
            }
            Opened::Stopped(above) => Err(not_roots(above)),
            Opened::Beneath { path, above, .. } => {
                if let Some(above) = above.iter().find(|above| !above.is_roots_alone()) {
                    return Err(not_roots(above));
                }
                // The root of the tree, and every component but the last.
                let mut want = CgroupPath::root();
                let mut seen = above.iter();
                for name in path.components() {
                    if seen.next().is_none_or(|above| above.path != want) {
                        return Err(Point::Ancestors.lacks(format_args!("cgroup {want} was not looked at")));
                    }
                    want = want.join(name).unwrap_or(want);
                }
                Ok(())
            }
        }
    }

    fn init_process(&self) -> Result<(), Unproven> {
        let Opened::Beneath { path, .. } = &self.opened else {
            return Err(Point::InitProcess.lacks("its cgroup was not opened"));
        };
        let Some(init) = &self.init else {
            return Err(Point::InitProcess.lacks(format_args!("no process in {path} was found")));
        };
        if self.must_be_first() && !InitProcess::is_first(&init.inner_numbers) {
            return Err(match init.is_named {
                true => Point::InitProcess.lacks(format_args!(
                    "the runtime names process {}, which is not the first of a PID namespace of the container's",
                    init.pid
                )),
                false => Point::InitProcess
                    .lacks("no process in its cgroup is the first of a PID namespace of its own"),
            });
        }
        if !init.cgroup.is_within(path) {
            return Err(Point::InitProcess
                .lacks(format_args!("process {} is in {}, not in {path}", init.pid, init.cgroup)));
        }
        Ok(())
    }

    /// A process can make a user namespace below its own, with another map, but not change the one that the
    /// runtime made. A process in another one does not show what the container may own. In the host's, and
    /// in one that the container made itself, nothing is handed over, so there is nothing to compare.
    fn mapping(&self) -> Result<(), Unproven> {
        let Some(found) = &self.mapping else {
            return Err(Point::Mapping.lacks("the process's ID maps were not read"));
        };
        if found.user_namespace.is_hosts || !self.specifies_user_namespace {
            return Ok(());
        }
        let pid = self.init.as_ref().map_or(0, |init| init.pid);
        let unread = IdMap::default();
        let maps = [
            ("user", &self.specified.uid_map, &found.uid_map),
            ("group", &self.specified.gid_map, found.gid_map.as_ref().unwrap_or(&unread)),
        ];
        for (ids, specified, found) in maps {
            // The source may have none: NRI's messages do not.
            if !specified.is_empty() && !specified.is_same(found) {
                return Err(Point::Mapping.lacks(format_args!(
                    "the runtime was configured to map {ids} IDs {specified}, and process {pid} has {found}"
                )));
            }
        }
        Ok(())
    }

    fn unit(&self) -> Result<(), Unproven> {
        let Some(scope) = &self.unit else { return Ok(()) };
        let Opened::Beneath { path, inode, .. } = &self.opened else {
            return Err(Point::Unit.lacks("its cgroup was not opened"));
        };
        let (_, unit) = place(self.id, self.cgroups_path)?;
        let unit = unit.unwrap_or_default();
        if scope.control_group != *path {
            return Err(Point::Unit.lacks(format_args!("systemd has {unit} at {}", scope.control_group)));
        }
        if scope.control_group_id.is_some_and(|id| id != *inode) {
            return Err(
                Point::Unit.lacks(format_args!("systemd has another cgroup ID for {unit} than {inode}"))
            );
        }
        Ok(())
    }
}

// === impl Proven ===

impl Proven {
    /// In which user namespace the container runs.
    #[must_use]
    pub fn user_namespace(&self) -> InUserNamespace {
        self.user_namespace
    }

    /// The mapping of user IDs of the container's init process.
    #[must_use]
    pub fn uid_map(&self) -> &IdMap {
        &self.uid_map
    }

    /// systemd's `Delegate` of the unit; `None` if systemd was not asked.
    #[must_use]
    pub fn delegate(&self) -> Option<bool> {
        self.delegate
    }
}

/// Proves that the cgroup is the container's own.
///
/// # Errors
/// The first point that does not hold.
pub fn prove(evidence: &Evidence<'_>) -> Result<Proven, Unproven> {
    Point::ALL.into_iter().try_for_each(|point| evidence.check(point))?;
    let Some(Mapping { user_namespace, uid_map, .. }) = &evidence.mapping else {
        return Err(Point::Mapping.lacks("the process's ID maps were not read"));
    };
    let user_namespace = match (user_namespace.is_hosts, evidence.specifies_user_namespace) {
        (true, _) => InUserNamespace::Hosts,
        (false, false) => InUserNamespace::SelfMade,
        (false, true) => InUserNamespace::Own,
    };
    let delegate = evidence.unit.as_ref().map(|scope| scope.delegate);
    Ok(Proven { user_namespace, uid_map: uid_map.clone(), delegate })
}

/// The owners of a scope's directory and of the file in it by which processes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopeOwners {
    /// Owner of the directory.
    pub directory: HostId,
    /// Owner of `cgroup.procs`.
    pub processes: HostId,
}

/// The name of the directory directly below a scope that is the container's root: crun makes one, runc does
/// not. Once the scope is the container's, everything below is its own making; while it is root's, only a
/// runtime can have made a directory in it.
///
/// A scope whose files are not root's was the container's: files change their owner before the directory does, and
/// somebody may have set the directory back.
#[must_use]
pub fn runtimes_child<'a>(
    scope: &CgroupPath,
    owners: ScopeOwners,
    process: &'a CgroupPath,
) -> Option<&'a str> {
    if owners.directory != HostId::ROOT || owners.processes != HostId::ROOT {
        return None;
    }
    let below = process.as_str().strip_prefix(scope.as_str())?;
    below.split('/').find(|name| !name.is_empty())
}
