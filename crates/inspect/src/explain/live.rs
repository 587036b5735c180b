//! The kernel's view of a running container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::delegate::Observation;
use crate::handles::NodeHandles;
use usernsd_domain::cgroup::{CgroupPath, descendants_of_stat};
use usernsd_domain::container::{CgroupMount, Container};
use usernsd_domain::delegation::Limits as Bounds;
use usernsd_domain::idmap::{HostId, IdMap};
use usernsd_domain::mounts::{ContainerMount, ContainerMounts};
use usernsd_domain::space::IdType;
use usernsd_domain::unit::{CgroupsPath, Scope, pod_cgroup};
use usernsd_linux::cgroupfs::Cgroup as Directory;
use usernsd_linux::proc::{InnerFile, NAMESPACES, Process};

use super::document::{
    Cgroup, DirectoryOwner, Extent, FileOwner, Limits, Namespace, Observed, ObservedSecurity, ProcessRow,
    Sysctl, Volume, number,
};

/// The most processes that are listed.
const MAX_PROCESSES: usize = 200;
/// Time limit for reading all command lines.
const COMMAND_LINES: Duration = Duration::from_millis(300);
/// Maximum number of volumes that are examined.
const MAX_FILES: usize = 64;
/// This program, even if its file has been replaced or removed.
const PROGRAM: &str = "/proc/self/exe";
/// The most cgroups that are searched for processes.
const MAX_CGROUPS: usize = 500;
/// The mount point of the cgroup file system in a container.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
/// Cgroup files that are shown if a limit is set in them.
const CONTROLLERS: [&str; 6] =
    ["memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max", "cpuset.cpus"];
/// Network sysctls that matter to programs in user namespaces.
const NETWORK: [&str; 2] = ["net/ipv4/ping_group_range", "net/ipv4/ip_unprivileged_port_start"];
/// Sysctls of the whole node.
const NODES: [&str; 3] = [
    "user/max_user_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
];

/// A container, with everything that is needed to examine it.
pub(super) struct LiveContainer<'a> {
    pub(super) handles: &'a NodeHandles,
    pub(super) process: &'a Process,
    pub(super) seen: &'a Observation,
    pub(super) scope: Option<&'a Scope>,
    pub(super) container: &'a Container,
    /// Sources on the host of the container's bind mounts, by mount point.
    pub(super) binds: &'a BTreeMap<String, String>,
    pub(super) pool_of: &'a dyn Fn(IdType, u32, u32) -> Option<String>,
}

impl LiveContainer<'_> {
    pub(super) fn observe(&self, unseen: &mut Vec<String>) -> Observed {
        let mut on_error =
            |what: &str, error: &dyn std::fmt::Display| unseen.push(format!("{what}: {error}"));
        let or_empty = |map: &Option<IdMap>| map.clone().unwrap_or_default();
        let (uids, gids) = (or_empty(&self.seen.uid_map), or_empty(&self.seen.gid_map));
        let mounts = match self.process.mount_table() {
            Ok(text) => ContainerMounts::parse(&text),
            Err(error) => {
                on_error("mounts", &error);
                ContainerMounts::default()
            }
        };
        let namespaces = self.namespaces(&mut on_error);
        // In the host's cgroup namespace the mount shows the whole node's tree.
        let in_hosts = namespaces.iter().any(|namespace| namespace.kind == "cgroup" && namespace.host);
        let inner = match &self.seen.cgroup {
            Some(path) if in_hosts => format!("{CGROUP_MOUNT}{path}"),
            _ => CGROUP_MOUNT.to_owned(),
        };
        let files = self.files(&inner, &mounts, &mut on_error);
        let inside = files.get(&inner).copied();
        let cgroup = self.seen.cgroup.as_ref().map(|path| self.cgroup(path, &uids, inside, &mut on_error));
        let (processes, more_processes) = self.processes(&uids, &gids);
        let sysctls = self.sysctls(&gids, &mut on_error);
        Observed {
            user_namespace: namespaces.iter().find(|namespace| namespace.kind == "user").cloned(),
            uid_map: Extent::of(&uids, |first, count| (self.pool_of)(IdType::Uid, first, count)),
            gid_map: Extent::of(&gids, |first, count| (self.pool_of)(IdType::Gid, first, count)),
            cgroup,
            namespaces: namespaces.into_iter().filter(|namespace| namespace.kind != "user").collect(),
            processes,
            more_processes,
            security: self.security(&mut on_error),
            sysctls,
            volumes: self.volumes(&uids, &mounts, &files),
        }
    }

    fn volumes(
        &self,
        uids: &IdMap,
        mounts: &ContainerMounts,
        files: &BTreeMap<String, InnerFile>,
    ) -> Vec<Volume> {
        let names = [self.container.pod.uid.as_str(), &self.container.sandbox_id, self.container.id.as_str()];
        let mut all = volumes(uids, mounts, files);
        for volume in &mut all {
            volume.note = self.binds.get(&volume.path).and_then(|source| note_of(volume, source, &names));
        }
        all
    }

    fn namespaces(&self, on_error: &mut dyn FnMut(&str, &dyn std::fmt::Display)) -> Vec<Namespace> {
        let mut found = Vec::new();
        for kind in NAMESPACES {
            match (self.process.namespace(kind), self.handles.proc.host_namespace(kind)) {
                (Ok(inode), Ok(hosts)) => found.push(Namespace { kind, inode, host: inode == hosts }),
                (Err(error), _) | (_, Err(error)) => on_error("namespaces", &error),
            }
        }
        found
    }

    fn cgroup(
        &self,
        path: &CgroupPath,
        uids: &IdMap,
        inside_it: Option<InnerFile>,
        on_error: &mut dyn FnMut(&str, &dyn std::fmt::Display),
    ) -> Cgroup {
        let place = |inode, owner: u32| DirectoryOwner { inode, owner, owner_inside: inside(uids, owner) };
        let own = self.handles.cgroups.open_cgroup(path).map_err(|error| on_error("cgroup", &error)).ok();
        let file = |own: &Directory, name: &str| own.file_owner(name).ok().flatten();
        let files = own.iter().flat_map(|own| {
            let owned = |name: &str| Some(FileOwner { name: name.to_owned(), owner: file(own, name)?.0 });
            self.handles.delegate_list.files().filter_map(owned).collect::<Vec<_>>()
        });
        let specified = CgroupsPath::parse(&self.container.cgroups_path).ok();
        let scope = specified.as_ref().and_then(|path| path.directory(&self.container.id).ok());
        let read =
            |file: &str| Some((file.to_owned(), self.handles.cgroups.read_of(scope.as_ref()?, file).ok()?));
        let set = CONTROLLERS.iter().filter_map(|file| read(file));
        Cgroup {
            path: path.to_string(),
            unit: specified.and_then(|path| path.unit()),
            delegate: self.scope.map(|scope| scope.delegate),
            outside: own.as_ref().map(|own| place(own.inode(), own.owner().0)),
            inside: inside_it.map(|found| place(found.inode, found.uid)),
            mount: self.seen.mount.map(CgroupMount::name),
            files: files.collect(),
            limits: self.limits(&pod_cgroup(path).unwrap_or_else(|| path.clone())),
            own_limits: pod_cgroup(path).and_then(|_| self.limits(path)),
            controllers: set
                .map(|(file, text)| (file, text.trim().to_owned()))
                .filter(|(_, text)| !text.is_empty() && !text.starts_with("max"))
                .collect(),
        }
    }

    fn limits(&self, path: &CgroupPath) -> Option<Limits> {
        let read = |file| self.handles.cgroups.read_of(path, file).ok();
        let descendants = descendants_of_stat(&read("cgroup.stat")?);
        Some(Limits {
            path: path.to_string(),
            descendants,
            max_descendants: number(read(Bounds::DESCENDANTS_FILE)),
            max_depth: number(read(Bounds::DEPTH_FILE)),
        })
    }

    /// The processes in the container's cgroup, parents before their children, and the number of those that
    /// are not listed.
    fn processes(&self, uids: &IdMap, gids: &IdMap) -> (Vec<ProcessRow>, usize) {
        let mut pids = BTreeSet::from([self.process.pid()]);
        let own = self.seen.cgroup.as_ref().and_then(|path| self.handles.cgroups.open_cgroup(path).ok());
        let mut waiting: Vec<Directory> = own.into_iter().collect();
        let mut looked = 0;
        while let Some(cgroup) = waiting.pop() {
            looked += 1;
            pids.extend(cgroup.processes().unwrap_or_default());
            if looked + waiting.len() < MAX_CGROUPS {
                let names = cgroup.children().unwrap_or_default();
                waiting.extend(names.iter().filter_map(|name| cgroup.child(name).ok()));
            }
        }
        let all = pids.len();
        let mut commands = self.command_lines(&pids);
        let rows: BTreeMap<u32, ProcessRow> = pids
            .into_iter()
            .take(MAX_PROCESSES)
            .filter_map(|pid| Some((pid, self.row(pid, commands.remove(&pid), uids, gids)?)))
            .collect();
        (as_tree(rows), all.saturating_sub(MAX_PROCESSES))
    }

    /// The command lines of processes, as many as can be read in time. The kernel reads them from the
    /// processes' memory, which a container can back with a FUSE file system that never answers.
    fn command_lines(&self, pids: &BTreeSet<u32>) -> BTreeMap<u32, String> {
        let (proc, pids) = (self.handles.proc.clone(), pids.clone());
        // The results are received until the deadline; the thread ends when its next result finds no
        // receiver.
        let (answer, answers) = std::sync::mpsc::sync_channel(16);
        std::thread::spawn(move || {
            for pid in pids.into_iter().take(MAX_PROCESSES) {
                let line = proc.open(pid).and_then(|process| process.command_line()).unwrap_or_default();
                if answer.send((pid, line)).is_err() {
                    break;
                }
            }
        });
        let end = Instant::now() + COMMAND_LINES;
        std::iter::from_fn(|| answers.recv_timeout(end.saturating_duration_since(Instant::now())).ok())
            .collect()
    }

    fn row(&self, pid: u32, command: Option<String>, uids: &IdMap, gids: &IdMap) -> Option<ProcessRow> {
        let process = self.handles.proc.open(pid).ok()?;
        let status = process.status().ok()?;
        let of = |map: &IdMap, id: Option<HostId>| id.and_then(|id| inside(map, id.0));
        Some(ProcessRow {
            pid,
            inner_pid: status.pids.last().copied(),
            parent: status.parent,
            level: 0,
            user: status.uid.map(|id| id.0),
            user_inside: of(uids, status.uid),
            group: status.gid.map(|id| id.0),
            group_inside: of(gids, status.gid),
            command: command.filter(|line| !line.is_empty()).unwrap_or_else(|| format!("[{}]", status.name)),
        })
    }

    fn security(&self, on_error: &mut dyn FnMut(&str, &dyn std::fmt::Display)) -> ObservedSecurity {
        let status = self.process.status().map_err(|error| on_error("status", &error)).unwrap_or_default();
        ObservedSecurity {
            effective: status.effective.names(),
            bounding: status.bounding.names(),
            no_new_privileges: status.no_new_privileges,
            seccomp: status.seccomp.name(),
            label: self.process.security_label(),
        }
    }

    fn sysctls(&self, gids: &IdMap, on_error: &mut dyn FnMut(&str, &dyn std::fmt::Display)) -> Vec<Sysctl> {
        let dotted = |name: &str| name.replace('/', ".");
        let values = self.handles.proc.network_sysctls(self.process, &NETWORK).unwrap_or_else(|error| {
            on_error("sysctls of its network", &error);
            Vec::new()
        });
        let network = NETWORK.iter().zip(values).filter_map(|(name, value)| Some((*name, value?)));
        let nodes = NODES.iter().filter_map(|name| Some((*name, self.handles.proc.sysctl(name)?)));
        network
            .chain(nodes)
            .map(|(name, value)| {
                let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
                let (value, meaning) = match name {
                    "net/ipv4/ping_group_range" => ping_group_range(&value, gids),
                    "user/max_user_namespaces" => (value, Some("the node's".to_owned())),
                    _ => (value, None),
                };
                Sysctl { name: dotted(name), value, meaning }
            })
            .collect()
    }

    /// The container's view of its cgroup, and its volumes, as far as they can be examined.
    fn files(
        &self,
        inner: &str,
        mounts: &ContainerMounts,
        on_error: &mut dyn FnMut(&str, &dyn std::fmt::Display),
    ) -> BTreeMap<String, InnerFile> {
        let is_mounted = mounts.at(CGROUP_MOUNT).is_some_and(|mount| mount.kind == "cgroup2");
        let cgroup = is_mounted.then(|| inner.to_owned());
        let volumes = mounts.volumes().map(|mount| mount.point.clone());
        let paths: Vec<String> = cgroup
            .into_iter()
            .chain(volumes)
            .filter(|path| mounts.never_blocks(path))
            .take(MAX_FILES)
            .collect();
        let found = self.handles.proc.examine_inside(self.process, &paths, Path::new(PROGRAM));
        let mut files = BTreeMap::new();
        for (path, found) in paths.into_iter().zip(found) {
            match found {
                Ok(file) => drop(files.insert(path, file)),
                Err(error) => on_error(&path, &error),
            }
        }
        files
    }
}

fn volumes(uids: &IdMap, mounts: &ContainerMounts, files: &BTreeMap<String, InnerFile>) -> Vec<Volume> {
    mounts
        .volumes()
        .map(|mount| {
            let found = files.get(&mount.point);
            let owner = found.map(|found| found.uid);
            // Like /tmp: writable for everyone.
            let is_everyones = found.is_some_and(|found| found.mode & 0o1777 == 0o1777);
            let owner_inside = owner.and_then(|owner| inside(uids, owner));
            Volume {
                path: mount.point.clone(),
                kind: mount.kind.clone(),
                source: mount.source.clone(),
                read_only: mount.read_only,
                id_mapped: mount.id_mapped,
                owner,
                owner_inside,
                problem: problem_of(mount, owner, owner_inside).filter(|_| !is_everyones),
                note: None,
            }
        })
        .collect()
}

/// The meaning of a bind mount of a host path. The kubelet and the runtime create directories for a pod with
/// one of its `names` (UID, sandbox, container) in their paths; the pod's author chose the others.
fn note_of(volume: &Volume, source: &str, names: &[&str]) -> Option<String> {
    let is_made_for_it = names.iter().any(|name| !name.is_empty() && source.contains(name));
    (volume.id_mapped && !volume.read_only && !is_made_for_it).then(|| {
        format!("{source} of the host: files that user 0 writes here belong to the host's root, and so on")
    })
}

fn inside(map: &IdMap, id: u32) -> Option<u32> {
    map.container_of(HostId(id)).map(|id| id.0)
}

/// The range with its IDs in the container, and its meaning. The kernel translates the host's IDs for this
/// process's user namespace. `1 0` contains no group (icmp(7)).
fn ping_group_range(value: &str, gids: &IdMap) -> (String, Option<String>) {
    let numbers: Vec<u32> = value.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [first, last] = numbers.as_slice() else { return (value.to_owned(), None) };
    if first > last {
        let meaning =
            "nobody may ping without NET_RAW; to let all of them, set the pod's sysctl to \"0 65535\"";
        return (value.to_owned(), Some(meaning.to_owned()));
    }
    match (inside(gids, *first), inside(gids, *last)) {
        (Some(first), Some(last)) => {
            (format!("{first} {last}"), Some("these groups inside may ping without NET_RAW".to_owned()))
        }
        _ => (value.to_owned(), Some("the host's IDs: not all of them are mapped".to_owned())),
    }
}

fn problem_of(mount: &ContainerMount, owner: Option<u32>, owner_inside: Option<u32>) -> Option<String> {
    let network = ["nfs", "cifs", "smb3", "ceph"].iter().any(|kind| mount.kind.starts_with(kind));
    match (owner, owner_inside) {
        (Some(owner), None) if mount.id_mapped => {
            Some(format!("host user {owner}, nobody inside, although the mount maps IDs"))
        }
        (Some(owner), None) => Some(format!("host user {owner}, nobody inside: the mount does not map IDs")),
        (None, _) if network && !mount.id_mapped => {
            Some(format!("{} does not map IDs: files belong to the server's users", mount.kind))
        }
        _ => None,
    }
}

/// Parents before their children, each with its depth.
fn as_tree(mut rows: BTreeMap<u32, ProcessRow>) -> Vec<ProcessRow> {
    let roots: Vec<u32> =
        rows.values().filter(|row| !rows.contains_key(&row.parent)).map(|row| row.pid).collect();
    let mut waiting: Vec<(u32, usize)> = roots.into_iter().rev().map(|pid| (pid, 0)).collect();
    let mut tree = Vec::with_capacity(rows.len());
    while let Some((pid, level)) = waiting.pop() {
        let Some(row) = rows.remove(&pid) else { continue };
        waiting.extend(
            rows.values().rev().filter(|child| child.parent == pid).map(|child| (child.pid, level + 1)),
        );
        tree.push(ProcessRow { level, ..row });
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_ping_groups_is_explained_with_the_containers_ids() {
        let map = IdMap::parse("0 200000 65536").unwrap();
        let meaning = |value: &str| ping_group_range(value, &map);
        assert_eq!(meaning("200000 265535").0, "0 65535");
        assert!(meaning("1 0").1.unwrap().starts_with("nobody"));
        assert_eq!(meaning("0 2147483647").0, "0 2147483647");
        assert_eq!(meaning("nonsense"), ("nonsense".to_owned(), None));
    }

    #[test]
    fn a_mapped_path_of_the_host_has_a_note() {
        let volume = |id_mapped, read_only| Volume {
            path: "/data".into(),
            kind: "ext4".into(),
            source: "/dev/sda1[/srv/data]".into(),
            read_only,
            id_mapped,
            owner: None,
            owner_inside: None,
            problem: None,
            note: None,
        };
        let names = ["uid-1", "", "c0ffee"];
        let note = note_of(&volume(true, false), "/srv/data", &names).unwrap();
        assert!(note.starts_with("/srv/data of the host: "), "{note}");
        for (volume, source) in [
            (volume(true, true), "/srv/data"),
            (volume(false, false), "/srv/data"),
            (volume(true, false), "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~empty-dir/data"),
            (volume(true, false), "/var/lib/containers/storage/overlay-containers/c0ffee/userdata/hostname"),
        ] {
            assert_eq!(note_of(&volume, source, &names), None, "{source}");
        }
    }

    #[test]
    fn processes_are_a_tree_whatever_their_numbers() {
        let row = |pid, parent| ProcessRow {
            pid,
            inner_pid: None,
            parent,
            level: 0,
            user: None,
            user_inside: None,
            group: None,
            group_inside: None,
            command: String::new(),
        };
        // 5 is the parent of 3; 9 came by exec, its parent is elsewhere; 20 and 21 are a loop.
        let rows = [(5, 1), (3, 5), (7, 5), (8, 3), (9, 100), (20, 21), (21, 20)];
        let rows = rows.into_iter().map(|(pid, parent)| (pid, row(pid, parent))).collect();
        let seen: Vec<_> = as_tree(rows).iter().map(|row| (row.pid, row.level)).collect();
        assert_eq!(seen, [(5, 0), (3, 1), (8, 2), (7, 1), (9, 0)]);
    }
}
