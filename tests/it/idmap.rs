//! Whether file systems can be mounted with mapped IDs, tried on the running kernel.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use usernsd_domain::kernel::{IdMapped, PodStore};
use usernsd_linux::host::HostRoot;
use usernsd_linux::mount_idmap::Prober;
use usernsd_prepare::idmapped_mounts::probe_with;

const USERNSD: &str = env!("CARGO_BIN_EXE_usernsd");

fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

#[test]
fn file_systems_with_and_without_mapped_mounts_are_distinguished() {
    if !nix::unistd::Uid::effective().is_root() {
        skip("mounting is root's");
        return;
    }
    let before = mounts();
    let prober = Prober::new(Path::new(USERNSD)).unwrap();
    let tried = |path: &str| prober.try_mount(File::open(path).unwrap().as_fd());
    for path in ["/proc", "/sys"] {
        let tried = tried(path);
        assert_eq!(tried.mapped, IdMapped::No, "{path}");
        assert!(tried.why.contains("mount_setattr: Invalid argument"), "{path}: {}", tried.why);
    }
    // True for every kernel with which Kubernetes enables user namespaces by default.
    let tmpfs = prober.try_tmpfs();
    assert_eq!((tmpfs.mapped, tmpfs.why.as_str()), (IdMapped::Yes, ""));
    let shm = Command::new("stat").args(["-fc", "%T", "/dev/shm"]).output().unwrap();
    if shm.stdout == b"tmpfs\n" {
        assert_eq!(tried("/dev/shm").mapped, IdMapped::Yes);
    }
    assert_eq!(mounts(), before, "nothing stays mounted");
    assert!(Prober::new(Path::new("/bin/false")).is_err());
}

#[test]
fn stores_are_tried_only_if_the_root_is_the_running_system() {
    if !nix::unistd::Uid::effective().is_root() {
        skip("mounting is root's");
        return;
    }
    let stores = || {
        let store =
            |path: &str, mapped| PodStore { path: path.into(), kind: "x".into(), mapped, why: String::new() };
        vec![
            store("/proc", IdMapped::Unknown),
            store("/no/such", IdMapped::Unknown),
            store("/proc", IdMapped::Yes),
        ]
    };
    let mut found = stores();
    assert_eq!(probe_with(Path::new(USERNSD), &HostRoot::open(Path::new("/")).unwrap(), &mut found), None);
    let mapped: Vec<_> = found.iter().map(|store| (store.mapped, store.why.as_str())).collect();
    assert_eq!(mapped[0].0, IdMapped::No);
    assert_eq!(mapped[1..], [(IdMapped::Unknown, "it is not there"), (IdMapped::Yes, "")]);

    let image = tempfile::tempdir().unwrap();
    let mut untouched = stores();
    let root = HostRoot::open(image.path()).unwrap();
    assert_eq!(probe_with(Path::new(USERNSD), &root, &mut untouched), None);
    assert_eq!(untouched, stores());

    // If no user namespace can be created, the result has the reason.
    let mut found = stores();
    let root = HostRoot::open(Path::new("/")).unwrap();
    assert_eq!(probe_with(Path::new("/bin/false"), &root, &mut found), None);
    assert!(found[0].why.contains("no user namespace could be made"), "{}", found[0].why);
}
