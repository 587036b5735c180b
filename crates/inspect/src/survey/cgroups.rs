//! The cgroups of the pods, as a survey finds them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::debug;

use usernsd_domain::cgroup::{CgroupPath, descendants_of_stat};
use usernsd_domain::chain::chain;
use usernsd_domain::delegation::{Limit, Limits};
use usernsd_domain::lock::lock;
use usernsd_domain::node::{ContainerCgroups, PodCgroup};
use usernsd_domain::pod::Pod;
use usernsd_domain::record::Record;
use usernsd_linux::cgroupfs::{CgroupError, CgroupRoot, CgroupWatch, CgroupWatches, EndedWatches};

/// How long facts are used that only the host's root can change: the limits, and whether a cgroup that is no
/// container's has others below it. A new record of one of the pod's containers ends it sooner.
const KEPT: Duration = Duration::from_secs(45);

/// The most cgroups that are watched: root has 8,192 watches for everything on the node in kernels before 5.11.
const WATCHED: usize = 2_000;

/// Reads the cgroups of pods.
#[derive(Debug)]
pub(super) struct PodCgroups {
    root: CgroupRoot,
    watches: Option<CgroupWatches>,
    /// By the path of the pod's cgroup; only of the pods of the last survey.
    kept: Mutex<HashMap<CgroupPath, CachedPod>>,
    /// See [`KEPT`].
    keeps: Duration,
}

/// Facts about a pod that are kept between two surveys.
#[derive(Debug)]
struct CachedPod {
    since: Instant,
    of: Vec<Arc<Record>>,
    limit: Option<Limit>,
    /// In the order of `of`.
    limits: Vec<Option<Limit>>,
    quiet: Option<PodWithoutChildren>,
}

/// A pod whose containers have created no cgroups.
#[derive(Debug)]
struct PodWithoutChildren {
    /// Number of cgroups directly below the pod's.
    children: u64,
    found: PodCgroup,
    /// On the pod's cgroup and its containers'. As long as none has ended, nothing is looked at.
    watches: Vec<CgroupWatch>,
}

// === impl CachedPod ===

impl CachedPod {
    fn new(pod: &Pod) -> CachedPod {
        CachedPod {
            since: Instant::now(),
            of: pod.containers.clone(),
            limit: None,
            limits: vec![None; pod.containers.len()],
            quiet: None,
        }
    }

    fn is_usable_for(&self, pod: &Pod, keeps: Duration) -> bool {
        self.since.elapsed() < keeps
            && self.of.len() == pod.containers.len()
            && self.of.iter().zip(&pod.containers).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn watches(&self) -> &[CgroupWatch] {
        self.quiet.as_ref().map_or(&[], |quiet| &quiet.watches)
    }
}

// === impl PodCgroups ===

impl PodCgroups {
    /// The cgroups below `root`.
    pub(super) fn open(root: &Path) -> Result<PodCgroups, CgroupError> {
        let root = CgroupRoot::open(root)?;
        Ok(PodCgroups { root, watches: CgroupWatches::new(), kept: Mutex::default(), keeps: KEPT })
    }

    /// See [`CgroupRoot::is_unified`].
    pub(super) fn is_unified(&self) -> bool {
        self.root.is_unified()
    }

    /// The cgroup of each pod, and whether every existing one could be read.
    pub(super) fn of(&self, pods: &[Pod]) -> (Vec<Option<PodCgroup>>, bool) {
        // The value is replaced as a whole, so after a panic of another thread it is an older one, or empty.
        let mut kept = lock(&self.kept);
        let mut before = std::mem::take(&mut *kept);
        let ended = self.watches.as_ref().map_or(EndedWatches::Any, CgroupWatches::ended);
        let mut free = WATCHED.saturating_sub(before.values().map(|one| one.watches().len()).sum());
        let mut succeeded = true;
        let found = pods.iter().map(|pod| {
            let path = pod.cgroup.as_ref()?;
            let (path, mut one) = match before.remove_entry(path) {
                Some((path, one)) if one.is_usable_for(pod, self.keeps) => (path, one),
                other => {
                    other.iter().for_each(|(_, one)| self.unwatch(one.watches()));
                    (path.clone(), CachedPod::new(pod))
                }
            };
            let is_watched =
                !one.watches().is_empty() && one.watches().iter().all(|watch| !ended.has(*watch));
            let found = match &one.quiet {
                Some(quiet) if is_watched => Some(quiet.found.clone()),
                _ => self.one(pod, &path, &mut one, &mut free, &mut succeeded),
            };
            kept.insert(path, one);
            found
        });
        let found = found.collect();
        before.values().for_each(|one| self.unwatch(one.watches()));
        (found, succeeded)
    }

    /// The cgroup of a pod; `None` if it was removed, which is no failure, or cannot be read, which makes `succeeded`
    /// false. A container that closed its cgroup is left out, which is no failure either.
    /// A quiet one is watched from now on, as long as watches are `free`.
    fn one(
        &self,
        pod: &Pod,
        path: &CgroupPath,
        kept: &mut CachedPod,
        free: &mut usize,
        succeeded: &mut bool,
    ) -> Option<PodCgroup> {
        self.unwatch(kept.watches());
        if let Some(PodWithoutChildren { children, found, .. }) = kept.quiet.take() {
            // Watched first, so that no change is missed in between.
            let watches = self.watch(pod, path, free);
            if self.is_unchanged(pod, path, children) {
                kept.quiet = Some(PodWithoutChildren { children, found: found.clone(), watches });
                return Some(found);
            }
            self.unwatch(&watches);
        }
        let mut read = |result: Result<(u64, Limit), CgroupError>| match result {
            Ok(found) => Some(found),
            Err(error) => {
                if !error.is_gone() && !error.is_closed() {
                    debug!(error = %chain(&error), "a cgroup cannot be read");
                    *succeeded = false;
                }
                None
            }
        };
        let (descendants, limit) = read(self.count(path, &mut kept.limit))?;
        let children = self.root.children_of(path).ok().flatten();
        // If every cgroup below the pod's is directly below it, which is usual, no container has created one, and the
        // numbers of the containers need not be read.
        let is_flat = children == Some(descendants);
        // A container has a limit of its own only if its cgroup was handed over.
        let records = if pod.is_in_user_namespace() { pod.containers.as_slice() } else { &[] };
        let mut are_empty = is_flat || pod.is_in_user_namespace();
        let mut fullest: Option<ContainerCgroups> = None;
        for (record, limit) in records.iter().zip(&mut kept.limits) {
            let Some(path) = &record.cgroup else { continue };
            let found = if is_flat {
                self.limit(path, limit).map(|limit| (0, limit))
            } else {
                self.count(path, limit)
            };
            let found = read(found);
            are_empty &= found.is_some_and(|(descendants, _)| descendants == 0);
            let Some((descendants, Limit::At(limit))) = found else { continue };
            let one = ContainerCgroups { container: record.id.clone(), descendants, limit };
            if fullest.as_ref().is_none_or(|fullest| fullest.used() <= one.used()) {
                fullest = Some(one);
            }
            if is_flat {
                break;
            }
        }
        let found = PodCgroup { descendants, limit, fullest };
        kept.quiet = children.filter(|_| are_empty).map(|children| PodWithoutChildren {
            children,
            found: found.clone(),
            watches: Vec::new(),
        });
        Some(found)
    }

    /// Watches the pod's cgroup and its containers'; empty if one of them cannot be watched.
    fn watch(&self, pod: &Pod, path: &CgroupPath, free: &mut usize) -> Vec<CgroupWatch> {
        let Some(watches) = &self.watches else { return Vec::new() };
        let own = pod.containers.iter().filter_map(|record| record.cgroup.as_ref());
        let all: Vec<&CgroupPath> = std::iter::once(path).chain(own).collect();
        if all.len() > *free {
            return Vec::new();
        }
        let mut set = Vec::with_capacity(all.len());
        for path in all {
            match watches.add(&self.root, path) {
                Some(watch) => set.push(watch),
                None => {
                    self.unwatch(&set);
                    return Vec::new();
                }
            }
        }
        *free -= set.len();
        set
    }

    fn unwatch(&self, watches: &[CgroupWatch]) {
        watches.iter().for_each(|watch| self.watches.iter().for_each(|all| all.remove(*watch)));
    }

    /// Whether the pod's cgroup still has as many children, and its containers' still have none. A container can create
    /// a cgroup further down only after one directly below its own, so it cannot hide any.
    fn is_unchanged(&self, pod: &Pod, path: &CgroupPath, children: u64) -> bool {
        let has = |path: &CgroupPath, count: u64| {
            self.root.children_of(path).is_ok_and(|children| children == Some(count))
        };
        let mut own = pod.containers.iter().filter_map(|record| record.cgroup.as_ref());
        has(path, children) && own.all(|path| has(path, 0))
    }

    /// The number of cgroups below one, and its limit.
    fn count(&self, path: &CgroupPath, kept: &mut Option<Limit>) -> Result<(u64, Limit), CgroupError> {
        let text = self.root.read_of(path, "cgroup.stat")?;
        let descendants =
            descendants_of_stat(&text).ok_or_else(|| CgroupError::unreadable(path, "cgroup.stat", &text))?;
        Ok((descendants, self.limit(path, kept)?))
    }

    /// The limit of cgroups below one.
    fn limit(&self, path: &CgroupPath, kept: &mut Option<Limit>) -> Result<Limit, CgroupError> {
        if let Some(limit) = kept {
            return Ok(*limit);
        }
        let text = self.root.read_of(path, Limits::DESCENDANTS_FILE)?;
        let limit = Limit::parse(&text)
            .ok_or_else(|| CgroupError::unreadable(path, Limits::DESCENDANTS_FILE, &text))?;
        Ok(*kept.insert(limit))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use usernsd_domain::container::CriId;
    use usernsd_domain::idmap::IdMap;
    use usernsd_domain::record::{UserNamespace, UserNamespaceMode};

    const POD: &str = "kubepods.slice/kubepods-podc7f11ee7_e178_4dea_9d8c_c005ad648988.slice";
    const SCOPES: [&str; 2] = ["cri-containerd-a.scope", "cri-containerd-b.scope"];

    fn record(id: &str, cgroup: &str) -> Arc<Record> {
        Arc::new(Record {
            sandbox_id: "s".into(),
            user_namespace: Some(UserNamespace { inode: Some(7), is_hosts: false }),
            uid_map: IdMap::parse("0 200000 65536").ok(),
            mode: UserNamespaceMode::Pod,
            cgroup: CgroupPath::parse(&format!("/{POD}/{cgroup}")).ok(),
            ..Record::bare(CriId::parse(id).unwrap())
        })
    }

    fn found(cgroups: &PodCgroups, records: &[Arc<Record>]) -> (PodCgroup, bool) {
        let (found, succeeded) = cgroups.of(&Pod::of(records));
        let [Some(found)] = found.as_slice() else { panic!("{found:?}") };
        (found.clone(), succeeded)
    }

    /// Directories that stand for cgroups: most file systems count the links of a directory as cgroupfs does.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Tree {
            Tree(tempfile::tempdir().unwrap())
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(POD).join(path)
        }

        fn make(&self, path: &str, descendants: u64, limit: &str) {
            fs::create_dir_all(self.at(path)).unwrap();
            self.write(path, "cgroup.stat", &format!("nr_descendants {descendants}\n"));
            self.write(path, "cgroup.max.descendants", &format!("{limit}\n"));
        }

        fn write(&self, path: &str, file: &str, text: &str) {
            fs::write(self.at(path).join(file), text).unwrap();
        }

        fn open(&self) -> PodCgroups {
            PodCgroups::open(self.0.path()).unwrap()
        }
    }

    #[test]
    fn the_fullest_cgroup_of_a_pod_is_found() {
        let tree = Tree::new();
        let [one, other] = SCOPES;
        tree.make("", 3, "250");
        tree.make("sandbox", 0, "max");
        tree.make(one, 0, "100");
        tree.make(other, 0, "50");
        let records = SCOPES.map(|name| record(name, name));
        let cgroups = tree.open();
        let seen = || {
            let (found, succeeded) = found(&cgroups, &records);
            let fullest = found.fullest.unwrap();
            (found.descendants, fullest.container.to_string(), fullest.descendants, fullest.limit, succeeded)
        };
        let (descendants, _, own, limit, succeeded) = seen();
        assert_eq!((descendants, own, succeeded), (3, 0, true));
        assert!([50, 100].contains(&limit), "{limit}");
        // A container has created one.
        tree.make("", 4, "250");
        tree.make(one, 1, "100");
        tree.make(&format!("{one}/init"), 0, "max");
        assert_eq!(seen(), (4, one.to_owned(), 1, 100, true));
        // A file that is not in the kernel's form is a failure; the other cgroups are still read.
        tree.write(other, "cgroup.stat", "?");
        assert_eq!(seen(), (4, one.to_owned(), 1, 100, false));
    }

    #[test]
    fn a_pod_without_own_cgroups_is_read_once_until_there_are_some() {
        // crun's containers are in a cgroup below their scope.
        for (container, others) in [(SCOPES[0], 1), ("crio-a.scope/container", 2)] {
            let tree = Tree::new();
            tree.make(container, 0, "100");
            tree.make("", others, "250");
            let records = [record("a", container)];
            let cgroups = tree.open();
            let first = found(&cgroups, &records);
            assert_eq!((first.0.descendants, first.1), (others, true), "{container}");
            for file in ["cgroup.stat", "cgroup.max.descendants"] {
                tree.write("", file, "?");
                tree.write(container, file, "?");
            }
            assert_eq!(found(&cgroups, &records), first, "{container}: it is read again");
            tree.make(container, 2, "100");
            tree.make(&format!("{container}/a/b"), 0, "max");
            tree.make("", others + 2, "250");
            let (after, succeeded) = found(&cgroups, &records);
            assert_eq!((after.descendants, succeeded), (others + 2, true), "{container}: they are hidden");
            assert_eq!(after.fullest.unwrap().descendants, 2, "{container}");
        }
    }

    #[test]
    fn a_watched_pod_is_not_looked_at_until_something_happens_in_it() {
        for container in [SCOPES[0], "crio-a.scope/container"] {
            let tree = Tree::new();
            tree.make(container, 0, "100");
            tree.make("", container.split('/').count() as u64, "250");
            let records = [record("a", container)];
            let cgroups = tree.open();
            let first = found(&cgroups, &records);
            // The second time it is watched.
            assert_eq!(found(&cgroups, &records), first, "{container}");
            let (pod, away) = (tree.at(""), tree.0.path().join("away"));
            fs::rename(&pod, &away).unwrap();
            assert_eq!(found(&cgroups, &records), first, "{container}: it is looked at");
            fs::create_dir(away.join(container).join("a")).unwrap();
            assert_eq!(
                cgroups.of(&Pod::of(&records)),
                (vec![None], true),
                "{container}: it is not looked at"
            );
            fs::rename(&away, &pod).unwrap();
            tree.make(&format!("{container}/a"), 0, "max");
            tree.make(container, 1, "100");
            tree.make("", container.split('/').count() as u64 + 1, "250");
            assert_eq!(found(&cgroups, &records).0.fullest.unwrap().descendants, 1, "{container}");
        }
    }

    #[test]
    fn only_so_many_cgroups_are_watched() {
        let tree = Tree::new();
        tree.make(SCOPES[0], 0, "100");
        tree.make("", 1, "250");
        let cgroups = tree.open();
        let pods = Pod::of(&[record("a", SCOPES[0])]);
        let path = pods[0].cgroup.clone().unwrap();
        for (mut free, watched, left) in [(1, 0, 1), (2, 2, 0), (9, 2, 7)] {
            assert_eq!(cgroups.watch(&pods[0], &path, &mut free).len(), watched);
            assert_eq!(free, left);
        }
        // One that cannot be watched is looked at.
        let pods = Pod::of(&[record("a", "gone.scope")]);
        let mut free = 9;
        assert_eq!((cgroups.watch(&pods[0], &path, &mut free), free), (vec![], 9));
    }

    #[test]
    fn a_limit_is_read_again_with_a_new_record_and_after_a_while() {
        let tree = Tree::new();
        tree.make("", 1, "max");
        tree.make(SCOPES[0], 0, "max");
        let mut cgroups = tree.open();
        let before = [record("a", SCOPES[0])];
        assert_eq!(found(&cgroups, &before).0.limit, Limit::Max);
        // The agent sets a limit when it hands the cgroup over, and stores a new record.
        tree.make("", 1, "250");
        let after = [record("a", SCOPES[0])];
        assert_eq!(found(&cgroups, &after).0.limit, Limit::At(250));
        tree.make("", 1, "500");
        assert_eq!(found(&cgroups, &after).0.limit, Limit::At(250));
        cgroups.keeps = Duration::ZERO;
        assert_eq!(found(&cgroups, &after).0.limit, Limit::At(500));
        assert_eq!(cgroups.of(&[]).0, []);
        assert!(cgroups.kept.lock().unwrap().is_empty(), "a pod that is gone stays in memory");
    }

    #[test]
    fn cgroups_of_the_kernel_are_counted_whatever_a_container_creates_and_removes() {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let top = mounts
            .find(|fields| fields[2] == "cgroup2")
            .map(|fields| PathBuf::from(fields[1]).join(format!("usernsd-survey-{}", std::process::id())));
        let Some(top) = top.filter(|top| fs::create_dir(top).is_ok()) else {
            eprintln!("skipped: needs root and a cgroup v2 mount");
            return;
        };
        let directories = [SCOPES[0], SCOPES[1], "sandbox"].map(|name| top.join(POD).join(name));
        directories.iter().for_each(|directory| fs::create_dir_all(directory).unwrap());
        let cgroups = PodCgroups::open(&top).unwrap();
        let records = SCOPES.map(|name| record(name, name));
        let [one, other, _] = &directories;
        let steps =
            [(one, "a"), (one, "a/b"), (other, "c"), (one, "a/b/d")].map(|(scope, name)| scope.join(name));
        let count = || found(&cgroups, &records).0.descendants;
        let mut seen = vec![count(), count()];
        for directory in &steps {
            fs::create_dir(directory).unwrap();
            seen.push(count());
        }
        for directory in steps.iter().rev() {
            fs::remove_dir(directory).unwrap();
            seen.push(count());
        }
        for directory in &directories {
            fs::remove_dir(directory).unwrap();
        }
        for directory in [POD, "kubepods.slice", ""] {
            fs::remove_dir(top.join(directory)).unwrap();
        }
        assert_eq!(seen, [3, 3, 4, 5, 6, 7, 6, 5, 4, 3]);
    }
}
