//! A watcher over a node's whole cgroup tree, from outside: it finds every wrong owner.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::pods::IdMapping;

/// Reads the owners of every directory and of the relevant files in it, repeatedly.
#[derive(Debug)]
pub(crate) struct Watcher {
    root: PathBuf,
    stop: AtomicBool,
    rounds: AtomicU64,
    /// All files and directories that were ever seen with an owner other than root.
    seen: Mutex<BTreeSet<(PathBuf, u32)>>,
    /// All containers that ever existed, with their host IDs.
    containers: Mutex<BTreeMap<String, Vec<IdMapping>>>,
}

impl Watcher {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            stop: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            seen: Mutex::default(),
            containers: Mutex::default(),
        }
    }

    /// Registers a container or a sandbox by its ID, with its host IDs.
    pub(crate) fn register(&self, id: &str, mappings: &[IdMapping]) {
        self.containers.lock().unwrap().insert(id.to_owned(), mappings.to_vec());
    }

    /// Runs `work` under watch. Everything that was seen with an owner other than root must then be the
    /// cgroup of a container that contains this owner, or be below it.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = thread::scope(|scope| {
            scope.spawn(|| {
                while !self.stop.load(Ordering::Relaxed) {
                    self.look();
                }
            });
            // The watcher must end even if `work` panics.
            struct Stop<'a>(&'a AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _stop = Stop(&self.stop);
            work()
        });
        self.look();
        let wrong = self.wrong();
        assert!(wrong.is_empty(), "given to whom it does not belong: {wrong:#?}");
        done
    }

    /// The number of rounds, and of the files that were seen with an owner other than root.
    pub(crate) fn figures(&self) -> (u64, usize) {
        (self.rounds.load(Ordering::Relaxed), self.seen.lock().unwrap().len())
    }

    fn look(&self) {
        let mut todo = vec![self.root.clone()];
        let mut found = BTreeSet::new();
        while let Some(directory) = todo.pop() {
            // A directory may disappear between listing and reading.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
                // systemd delegates it to the user of a service.
                let services = entry.file_name() == "memory.pressure"
                    && directory.parent().is_some_and(|above| above.ends_with("system.slice"));
                if metadata.uid() != 0 && !services {
                    found.insert((entry.path(), metadata.uid()));
                }
                if metadata.is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        self.seen.lock().unwrap().extend(found);
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    fn wrong(&self) -> Vec<String> {
        let containers = self.containers.lock().unwrap();
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter_map(|(path, owner)| {
                let below = path.strip_prefix(&self.root).unwrap();
                // From the root down, because a container may create any name below its own cgroup.
                let own = below.iter().find_map(|name| id_of(name.to_str()?));
                let contains = own.and_then(|id| containers.get(id)).is_some_and(|mappings| {
                    mappings.iter().any(|&(_, host, length)| (host..host + length).contains(owner))
                });
                (!contains).then(|| format!("{} of {owner}", below.display()))
            })
            .collect()
    }
}

/// The container ID in the name of a cgroup, for either runtime and either cgroup manager.
fn id_of(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.strip_prefix("cri-containerd-").or_else(|| name.strip_prefix("crio-")).unwrap_or(name);
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}
