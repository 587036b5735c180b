//! Observes one container: its cgroup, its init process and that one's user namespace, as evidence for the proof and as
//! facts for the rules.

use super::stop::Stop;
use super::{Delegator, MountSource, Observation, Target};
use usernsd_delegation::proof::{self, Evidence, InitProcess, Mapping, Opened, Point, ScopeOwners};
use usernsd_delegation::{Facts, ProcessUser};
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::container::CgroupMount;
use usernsd_domain::delegation::Skip;
use usernsd_domain::idmap::{HostId, IdMap};
use usernsd_domain::record::UserNamespace;
use usernsd_linux::cgroupfs::{Cgroup, CgroupError};
use usernsd_linux::proc::{ProcError, Process, observer};

impl Delegator {
    /// Opens the container's directory, and adds what that showed to the evidence.
    pub(super) fn open(&self, path: &CgroupPath, evidence: &mut Evidence<'_>) -> Result<Cgroup, Stop> {
        let opened = self.handles.cgroups.open_cgroup(path);
        evidence.opened = match &opened {
            Ok(cgroup) => Opened::Beneath {
                path: cgroup.path().clone(),
                inode: cgroup.inode(),
                above: cgroup.ancestors(),
            },
            Err(CgroupError::NotRoots(above)) => Opened::Stopped(above.clone()),
            Err(CgroupError::Escapes(path)) => Opened::Escapes(path.clone()),
            // Opening it showed nothing.
            Err(CgroupError::Gone(_) | CgroupError::Closed { .. } | CgroupError::Call { .. }) => {
                return Ok(opened?);
            }
        };
        evidence.check(Point::Opened)?;
        evidence.check(Point::Ancestors)?;
        Ok(opened?)
    }

    /// The container's init process: the one that the source names, otherwise the oldest in its cgroup or,
    /// with crun, one level deeper. If the evidence does not show that the process is the container's,
    /// nothing more is read about it.
    pub(super) fn init_process(
        &self,
        target: &Target<'_>,
        scope: &Cgroup,
        evidence: &mut Evidence<'_>,
    ) -> Result<Process, Stop> {
        let must_be_first = evidence.must_be_first();
        let (process, inner_numbers) = match target.pid {
            Some(pid) => {
                let process = self.handles.proc.open(pid)?;
                let numbers = if must_be_first { process.inner_numbers()? } else { Vec::new() };
                (process, numbers)
            }
            None => self.oldest_process(scope, must_be_first)?,
        };
        let init = InitProcess {
            pid: process.pid(),
            is_named: target.pid.is_some(),
            inner_numbers,
            cgroup: process.cgroup(&self.cgroup_namespace)?,
        };
        evidence.init = Some(init);
        evidence.check(Point::InitProcess)?;
        Ok(process)
    }

    /// The process of a cgroup with the lowest PID; with `must_be_first`, only of those that are the first
    /// of a PID namespace.
    fn oldest_process(&self, scope: &Cgroup, must_be_first: bool) -> Result<(Process, Vec<u32>), Stop> {
        let mut pids = scope.processes()?;
        let mut closed = None;
        if pids.is_empty() {
            for name in scope.children()? {
                match scope.child(&name).and_then(|child| child.processes()) {
                    Ok(found) => pids.extend(found),
                    Err(error) if error.is_closed() => closed = Some(error),
                    // One that is gone, or a threaded one, which has no cgroup.procs to read (EOPNOTSUPP): no init
                    // in it.
                    Err(_) => {}
                }
            }
        }
        if let Some(error) = closed.filter(|_| pids.is_empty()) {
            return Err(error.into());
        }
        // Unless the PID counter has wrapped, the oldest process has the lowest PID.
        pids.sort_unstable();
        if must_be_first {
            for pid in &pids {
                let opened = self.handles.proc.open(*pid);
                match opened.and_then(|process| Ok((process.inner_numbers()?, process))) {
                    Ok((numbers, process)) if InitProcess::is_first(&numbers) => {
                        return Ok((process, numbers));
                    }
                    Ok(_) | Err(ProcError::Gone(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let pid = pids.first().ok_or(Stop::Skip(Skip::Gone, None))?;
        Ok((self.handles.proc.open(*pid)?, Vec::new()))
    }

    /// Reads the process's user namespace and opens the directory that is the container's root: the scope
    /// itself or, if the runtime made one below it (crun's `container`), that one.
    pub(super) fn read_mapping(
        &self,
        process: &Process,
        scope: Cgroup,
        evidence: &mut Evidence<'_>,
        seen: &mut Observation,
    ) -> Result<Cgroup, Stop> {
        seen.pid = Some(process.pid());
        let specified = evidence.specified;
        let mut uid_map = process.uid_map()?;
        let user_namespace = self.user_namespace(process, &uid_map)?;
        if !user_namespace.is_hosts && self.host_uid_map.as_ref().is_none_or(|hosts| uid_map == *hosts) {
            // It may have left the host's after its map was read.
            uid_map = process.uid_map()?;
        }
        let gid_map = match specified.gid_map.is_empty() {
            true => None,
            false => Some(process.gid_map()?),
        };
        seen.uid_map = Some(uid_map.clone());
        seen.gid_map.clone_from(&gid_map);
        seen.user_namespace = Some(user_namespace);
        evidence.mapping = Some(Mapping { user_namespace, uid_map, gid_map });
        let below = evidence.init.as_ref().map(|init| &init.cgroup).filter(|within| *within != scope.path());
        let child = match below {
            None => None,
            Some(within) => {
                let processes = match scope.file_owner("cgroup.procs") {
                    // The owner that closed the directory has its files too.
                    Err(error) if error.is_closed() => scope.owner(),
                    found => found?.unwrap_or(HostId::ROOT),
                };
                let owners = ScopeOwners { directory: scope.owner(), processes };
                proof::runtimes_child(scope.path(), owners, within)
            }
        };
        let own = match child {
            Some(name) => scope.child(name)?,
            None => scope,
        };
        seen.cgroup = Some(own.path().clone());
        seen.inode = Some(own.inode());
        seen.owner = Some(own.owner());
        Ok(own)
    }

    /// The user namespace of a process with this map of user IDs. A map that is not the host's shows that the namespace
    /// is another one; then the observer, for which the container's start would have to wait, is not asked, and the inode
    /// is left out.
    fn user_namespace(&self, process: &Process, uid_map: &IdMap) -> Result<UserNamespace, ProcError> {
        let is_another = self.host_uid_map.as_ref().is_some_and(|hosts| uid_map != hosts);
        if observer::installed().is_some() && is_another {
            return Ok(UserNamespace { inode: None, is_hosts: false });
        }
        let inode = process.namespace("user")?;
        Ok(UserNamespace { inode: Some(inode), is_hosts: inode == self.host_user_namespace })
    }

    /// Reads the facts that the rules need about a container with its own user namespace.
    pub(super) fn read_facts(
        &self,
        target: &Target<'_>,
        process: &Process,
        own: &Cgroup,
        seen: &mut Observation,
    ) -> Result<Facts, Stop> {
        let mount = match target.mount {
            MountSource::Specification(specified) => specified,
            // The table is the most expensive of all that is read, and could permit nothing more.
            MountSource::Stricter(specified) if specified < CgroupMount::ReadWrite => specified,
            MountSource::Stricter(specified) => {
                specified.min(process.cgroup_mount(own.path(), &self.cgroup_namespace)?)
            }
        };
        seen.mount = Some(mount);
        if mount < CgroupMount::ReadWrite {
            return Ok(Facts { mount, ..Facts::unread(own.owner()) });
        }
        let user = match target.process_uid {
            Some(id) => ProcessUser::Container(id),
            None => ProcessUser::Host(process.effective_uid()?),
        };
        let mut files = Vec::new();
        for name in self.handles.delegate_list.files() {
            if let Some(owner) = own.file_owner(name)? {
                files.push((name.to_owned(), owner));
            }
        }
        Ok(Facts { mount, user, owner: own.owner(), files })
    }
}
