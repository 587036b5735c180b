use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::*;

/// A cgroup in the machine's own tree. Dropping it removes it with its children.
struct Tree {
    mount: PathBuf,
    path: PathBuf,
}

impl Tree {
    /// `None`, after printing the reason, without root or cgroup v2.
    fn new(name: &str) -> Option<Tree> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2");
        let Some(mount) = mount.filter(|_| rustix::process::geteuid().is_root()) else {
            eprintln!("skipped: needs root and a cgroup v2 mount");
            return None;
        };
        let mount = PathBuf::from(mount[1]);
        let path = mount.join(format!("usernsd-unit-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Some(Tree { mount, path })
    }

    fn make(&self, below: &str) -> CgroupPath {
        fs::create_dir_all(self.path.join(below)).unwrap();
        self.named(below)
    }

    fn named(&self, below: &str) -> CgroupPath {
        let top = self.path.file_name().unwrap().to_str().unwrap();
        CgroupPath::parse(format!("/{top}/{below}").trim_end_matches('/')).unwrap()
    }

    fn open(&self) -> CgroupRoot {
        CgroupRoot::open(&self.mount).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fn remove(path: &Path) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    remove(&entry.path());
                }
            }
            let _ = fs::remove_dir(path);
        }
        remove(&self.path);
    }
}

#[test]
fn only_the_opened_cgroup_and_file_change_their_owner() {
    let Some(tree) = Tree::new("chown") else { return };
    let path = tree.make("pod.slice/a.scope");
    let cgroup = tree.open().open_cgroup(&path).unwrap();
    assert_eq!(cgroup.inode(), fs::metadata(tree.path.join("pod.slice/a.scope")).unwrap().ino());
    cgroup.chown_file("cgroup.procs", HostId(200_000)).unwrap();
    cgroup.chown(HostId(200_000)).unwrap();
    let stat = |name: &str| fs::metadata(tree.path.join("pod.slice/a.scope").join(name)).unwrap();
    assert_eq!((stat("").uid(), stat("").gid()), (200_000, 0));
    assert_eq!((stat("cgroup.procs").uid(), stat("cgroup.procs").gid()), (200_000, 0));
    assert_eq!(stat("cgroup.kill").uid(), 0);
    assert_eq!(stat("..").uid(), 0);
    assert!(tree.open().still_has(&cgroup) && cgroup.owner_now().unwrap() == HostId(200_000));
    assert!(cgroup.file_owner("no.such").unwrap().is_none());
}

#[test]
fn a_cgroup_that_systemd_delegates_is_recognized_by_its_mark() {
    let Some(tree) = Tree::new("mark") else { return };
    let path = tree.make("a.scope");
    let cgroup = tree.open().open_cgroup(&path).unwrap();
    assert!(!cgroup.is_marked_as_delegated());
    let set = |value: &[u8]| {
        let (directory, flags) = (tree.path.join("a.scope"), rustix::fs::XattrFlags::empty());
        rustix::fs::setxattr(directory, "user.delegate", value, flags).unwrap();
        cgroup.is_marked_as_delegated()
    };
    assert!(set(b"1"));
    assert!(!set(b"0") && !set(b"") && !set(b"1x") && !set(b"longer than it can be"));
}

#[test]
fn a_mark_on_one_of_roots_services_shows_that_systemd_sets_marks() {
    let Some(tree) = Tree::new("marks") else { return };
    // The root of the machine's tree is systemd's own.
    let root = CgroupRoot::open(&tree.path).unwrap();
    assert!(!root.has_marks());
    tree.make("system.slice/a.service");
    tree.make("system.slice/b.service");
    assert!(!root.has_marks());
    let service = tree.path.join("system.slice/b.service");
    rustix::fs::setxattr(&service, "user.delegate", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    assert!(root.has_marks());
    chown(&service, Some(200_000), None).unwrap();
    assert!(!root.has_marks());
}

#[test]
fn an_interface_file_is_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    // Not a cgroup tree, but read by the same calls: as a file of a cgroup that is held.
    let dir = Arc::new(OwnedFd::from(fs::File::open(directory.path()).unwrap()));
    let found = ancestor(CgroupPath::parse("/a").unwrap(), &fstat(&dir).unwrap());
    let held = Cgroup::new(HeldAncestor { found: found.clone(), dir, inode: 1 }, None, found, Vec::new());
    for length in [0, 1, WHOLE - 1, WHOLE, 4095, 4096, 4097, 100_000] {
        let text = "x".repeat(length);
        fs::write(directory.path().join("file"), &text).unwrap();
        assert_eq!(held.read("file").unwrap(), text, "{length}");
    }
}

#[test]
fn a_directory_above_must_belong_to_root_alone() {
    let Some(tree) = Tree::new("parents") else { return };
    let path = tree.make("pod.slice/a.scope");
    chown(tree.path.join("pod.slice"), Some(200_000), None).unwrap();
    let refused = tree.open().open_cgroup(&path).unwrap_err();
    assert!(matches!(refused, CgroupError::NotRoots(Ancestor { uid: 200_000, .. })), "{refused}");
    chown(tree.path.join("pod.slice"), Some(0), None).unwrap();
    assert!(tree.open().open_cgroup(&path).is_ok());
    fs::set_permissions(tree.path.join("pod.slice"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        tree.open().open_cgroup(&path),
        Err(CgroupError::NotRoots(Ancestor { mode: 0o777, .. }))
    ));
}

#[test]
fn directories_above_are_held_and_checked_again() {
    let Some(tree) = Tree::new("above") else { return };
    let path = tree.make("pod.slice/a.scope");
    tree.make("pod.slice/a.scope/container");
    let root = tree.open();
    let scope = root.open_cgroup(&path).unwrap();
    let child = scope.child("container").unwrap();
    let pod = child.above(&tree.named("pod.slice")).unwrap();
    assert_eq!(pod.path(), &tree.named("pod.slice"));
    assert_eq!(pod.inode(), fs::metadata(tree.path.join("pod.slice")).unwrap().ino());
    assert!(child.above(child.path()).is_none());
    assert!(root.still_has(&scope) && root.still_has(&child) && root.still_has(&pod));
    // Only the child: the scope itself may belong to anyone.
    chown(tree.path.join("pod.slice/a.scope"), Some(200_000), None).unwrap();
    assert!(root.still_has(&scope) && !root.still_has(&child));
    chown(tree.path.join("pod.slice"), Some(200_000), None).unwrap();
    assert!(!root.still_has(&scope) && !root.still_has(&child) && root.still_has(&pod));
}

#[test]
fn a_removed_cgroup_is_gone_although_chown_succeeds() {
    let Some(tree) = Tree::new("gone") else { return };
    let path = tree.make("a.scope");
    let root = tree.open();
    let cgroup = root.open_cgroup(&path).unwrap();
    fs::remove_dir(tree.path.join("a.scope")).unwrap();
    cgroup.chown(HostId(200_000)).unwrap();
    assert!(!root.still_has(&cgroup));
    assert!(cgroup.read("cgroup.procs").unwrap_err().is_gone());
    assert!(root.open_cgroup(&path).unwrap_err().is_gone());
    // Another cgroup of the same name is not the same.
    tree.make("a.scope");
    assert!(!root.still_has(&cgroup));
    assert_eq!(fs::metadata(tree.path.join("a.scope")).unwrap().uid(), 0);
}

#[test]
fn links_and_mounts_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
    let root = CgroupRoot::open(directory.path()).unwrap();
    assert!(!root.is_unified());
    let link = CgroupPath::parse("/link").unwrap();
    assert!(matches!(root.open_cgroup(&link), Err(CgroupError::Escapes(_) | CgroupError::Call { .. })));
    let host = CgroupRoot::open(Path::new("/")).unwrap();
    let proc = CgroupPath::parse("/proc").unwrap();
    assert!(matches!(host.open_cgroup(&proc), Err(CgroupError::Escapes(_))));
    assert!(matches!(host.open_cgroup(&CgroupPath::root()), Err(CgroupError::Escapes(_))));
}
