use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

const FILE: HostPath = HostPath::fixed("etc/subuid");
const NOW: Duration = Duration::ZERO;

fn root() -> (TempDir, HostRoot) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("etc")).unwrap();
    let root = HostRoot::open(directory.path()).unwrap();
    (directory, root)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn replace(root: &HostRoot, bytes: &[u8]) -> Result<(), HostError> {
    root.replace(&FILE, bytes, &Attributes::READABLE, None)
}

fn names(directory: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory.path().join("etc"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_missing_file_is_none() {
    let (_directory, root) = root();
    assert_eq!(root.read(&FILE).unwrap(), None);
    assert_eq!(root.attributes(&FILE).unwrap(), None);
    assert!(!root.has(&HostPath::fixed("no/such")).unwrap());
    assert_eq!(root.list(&HostPath::fixed("no/such")).unwrap(), Vec::<String>::new());
    root.remove(&FILE).unwrap();
    root.remove(&HostPath::fixed("no/such")).unwrap();
}

#[test]
fn a_new_file_gets_the_given_attributes() {
    let (directory, root) = root();
    if !is_root() {
        return;
    }
    let attributes = Attributes { mode: 0o640, uid: 3, gid: 4, label: None };
    root.replace(&FILE, b"new", &attributes, None).unwrap();
    assert_eq!(root.attributes(&FILE).unwrap(), Some(attributes));
    assert_eq!(root.read(&FILE).unwrap().unwrap(), b"new");
    assert_eq!(names(&directory), ["subuid"]);
}

#[test]
fn a_file_keeps_mode_owner_and_label() {
    let (directory, root) = root();
    let path = directory.path().join("etc/subuid");
    fs::write(&path, "old").unwrap();
    if !is_root() {
        return;
    }
    chown(&path, Some(5), Some(6)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4604)).unwrap();
    let label = b"system_u:object_r:passwd_file_t:s0\0";
    let file = fs::File::open(&path).unwrap();
    let labelled = fsetxattr(&file, LABEL, label, rustix::fs::XattrFlags::empty()).is_ok();
    let inode = fs::metadata(&path).unwrap().ino();
    // A leftover of a killed run.
    fs::write(directory.path().join("etc/.subuid.usernsd-new"), "half").unwrap();
    replace(&root, b"new\n").unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode, "it was written in place");
    let want = Attributes { mode: 0o4604, uid: 5, gid: 6, label: labelled.then(|| label.to_vec()) };
    assert_eq!(root.attributes(&FILE).unwrap(), Some(want));
    assert_eq!(fs::read(&path).unwrap(), b"new\n");
    assert_eq!(names(&directory), ["subuid"]);
}

/// This machine's kernel may have no SELinux, so that a label is an attribute like others.
#[test]
fn a_new_file_gets_the_label_of_its_directory() {
    let (directory, root) = root();
    let label = b"system_u:object_r:etc_t:s0\0";
    let etc = fs::File::open(directory.path().join("etc")).unwrap();
    if fsetxattr(&etc, LABEL, label, rustix::fs::XattrFlags::empty()).is_err() {
        return;
    }
    root.replace(&FILE, b"new", &Attributes::READABLE, None).unwrap();
    assert_eq!(root.attributes(&FILE).unwrap().unwrap().label.as_deref(), Some(&label[..]));
}

#[test]
fn a_directory_takes_the_type_of_another_one() {
    let (directory, _root) = root();
    let (etc, new) = (directory.path().join("etc"), directory.path().join("new"));
    fs::create_dir(&new).unwrap();
    let label = b"system_u:object_r:container_config_t:s0\0";
    let set = |path: &std::path::Path, label: &[u8]| {
        fsetxattr(fs::File::open(path).unwrap(), LABEL, label, rustix::fs::XattrFlags::empty()).is_ok()
    };
    take_type(&new, &directory.path().join("missing"));
    if !set(&etc, label) || !set(&new, b"u:r:initrc_runtime_t:s0\0") {
        return;
    }
    take_type(&new, &etc);
    let label = label_of(fs::File::open(&new).unwrap()).unwrap().unwrap();
    assert_eq!(String::from_utf8(label).unwrap(), "u:r:container_config_t:s0\0");
}

#[test]
fn a_staging_directory_keeps_half_written_files_out_of_the_target() {
    let (directory, root) = root();
    let (file, staging) = (HostPath::fixed("etc/conf.d/99.conf"), HostPath::fixed("etc"));
    fs::create_dir(directory.path().join("etc/conf.d")).unwrap();
    root.replace(&file, b"x", &Attributes::READABLE, Some(&staging)).unwrap();
    assert_eq!(root.list(&HostPath::fixed("etc/conf.d")).unwrap(), ["99.conf"]);
    // If the rename fails, the half-written file is not in the target directory either.
    fs::create_dir(directory.path().join("etc/.98.conf.usernsd-new")).unwrap();
    let file = HostPath::fixed("etc/conf.d/98.conf");
    assert!(root.replace(&file, b"x", &Attributes::READABLE, Some(&staging)).is_err());
    assert_eq!(root.list(&HostPath::fixed("etc/conf.d")).unwrap(), ["99.conf"]);
}

#[test]
fn writing_follows_no_link_and_reading_stays_in_the_root() {
    let (directory, root) = root();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("etc/real"), "real").unwrap();
    symlink("/etc/real", at("etc/subuid")).unwrap();
    symlink("../../../../../../etc/passwd", at("etc/outside")).unwrap();
    symlink("etc", at("link")).unwrap();
    assert_eq!(root.read(&FILE).unwrap().unwrap(), b"real");
    assert_eq!(root.read(&HostPath::fixed("etc/outside")).unwrap(), None, "it led out of the root");
    let refused = replace(&root, b"new").unwrap_err();
    assert!(matches!(refused, HostError::Link { .. }), "{refused}");
    let below = HostPath::fixed("link/file");
    let refused = root.replace(&below, b"new", &Attributes::READABLE, None).unwrap_err();
    assert!(matches!(refused, HostError::Link { .. }), "{refused}");
    assert_eq!(fs::read(at("etc/real")).unwrap(), b"real");
    fs::create_dir(at("etc/directory")).unwrap();
    let directory = HostPath::fixed("etc/directory");
    assert!(matches!(root.read(&directory), Err(HostError::NotAFile { .. })));
    let refused = root.replace(&directory, b"", &Attributes::READABLE, None);
    assert!(matches!(refused, Err(HostError::NotAFile { .. })));
}

#[test]
fn opening_a_fifo_does_not_block_and_sizes_are_limited() {
    let (directory, root) = root();
    let path = directory.path().join("etc/subuid");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(matches!(root.read(&FILE), Err(HostError::NotAFile { .. })));
    fs::remove_file(&path).unwrap();
    fs::File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
    assert!(matches!(root.read(&FILE), Err(HostError::TooLong { .. })));
}

#[test]
fn created_directories_are_returned() {
    let (_directory, root) = root();
    let path = HostPath::fixed("var/lib/usernsd");
    let made = root.make_dirs(&path, 0o700).unwrap();
    assert_eq!(made.iter().map(HostPath::as_str).collect::<Vec<_>>(), ["var", "var/lib", "var/lib/usernsd"]);
    assert_eq!(root.make_dirs(&path, 0o700).unwrap(), []);
    root.remove_dir(&HostPath::fixed("var")).unwrap();
    assert!(root.has(&path).unwrap(), "it was not empty");
    made.iter().rev().for_each(|path| root.remove_dir(path).unwrap());
    assert!(!root.has(&HostPath::fixed("var")).unwrap());
}

#[test]
fn a_lock_is_that_of_shadow_utils() {
    let (directory, root) = root();
    let lock = root.lock_shadow(&FILE, NOW).unwrap();
    assert_eq!(names(&directory), ["subuid.lock"]);
    let text = fs::read_to_string(directory.path().join("etc/subuid.lock")).unwrap();
    assert_eq!(text, format!("{}\0", std::process::id()));
    drop(lock);
    assert_eq!(names(&directory), Vec::<String>::new());
}

/// With a `/proc` below the root that shows other PIDs than this process's own, like a container's `/host/proc`.
#[test]
fn a_process_of_the_root_is_alive() {
    let (directory, root) = root();
    let lock = directory.path().join("etc/subuid.lock");
    let proc = directory.path().join("proc");
    fs::create_dir_all(proc.join("4194301")).unwrap();
    symlink("4194302", proc.join("self")).unwrap();
    fs::write(&lock, "4194301\0").unwrap();
    assert!(matches!(root.lock_shadow(&FILE, NOW), Err(HostError::Locked { pid: 4_194_301, .. })));
    root.release_dead(&FILE).unwrap();
    assert_eq!(fs::read_to_string(&lock).unwrap(), "4194301\0");
    // The PID in this PID namespace, which differs from the one in the root.
    fs::create_dir(proc.join(std::process::id().to_string())).unwrap();
    fs::write(&lock, std::process::id().to_string()).unwrap();
    assert!(matches!(root.lock_shadow(&FILE, NOW), Err(HostError::Locked { .. })));
    fs::remove_dir(proc.join("4194301")).unwrap();
    fs::write(&lock, "4194301\0").unwrap();
    let held = root.lock_shadow(&FILE, NOW).unwrap();
    assert_eq!(fs::read_to_string(&lock).unwrap(), "4194302\0");
    drop(held);
    assert_eq!(names(&directory), [""; 0]);
}

#[test]
fn a_killed_runs_leftovers_are_removed() {
    let (directory, root) = root();
    fs::write(directory.path().join("etc/.subuid.usernsd-old"), "x").unwrap();
    root.release_dead(&FILE).unwrap();
    assert_eq!(names(&directory), [""; 0]);
}

#[test]
fn a_dead_lock_is_taken_over_and_a_live_one_waited_for() {
    let (directory, root) = root();
    let lock = directory.path().join("etc/subuid.lock");
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let beside = |pid: u32| directory.path().join(format!("etc/subuid.{pid}"));
    fs::write(&lock, format!("{}\0", dead.id())).unwrap();
    fs::write(beside(dead.id()), format!("{}\0", dead.id())).unwrap();
    fs::write(beside(20_260_101), "alice:100000:65536\n").unwrap();
    fs::write(beside(4_194_304), "").unwrap();
    // A backup whose name could be a dead process's PID, too.
    fs::write(beside(4_194_303), "alice:100000:65536\n").unwrap();
    drop(root.lock_shadow(&FILE, NOW).unwrap());
    assert_eq!(
        names(&directory),
        ["subuid.20260101", "subuid.4194303"],
        "another's copy goes, or what the dead left stays"
    );

    let mut alive = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(&lock, format!("{}\n", alive.id())).unwrap();
    let refused = root.lock_shadow(&FILE, Duration::from_millis(120)).unwrap_err();
    assert!(matches!(refused, HostError::Locked { pid, .. } if pid == alive.id()), "{refused}");
    assert_eq!(names(&directory), ["subuid.20260101", "subuid.4194303", "subuid.lock"]);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| root.lock_shadow(&FILE, Duration::from_secs(20)));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        alive.kill().unwrap();
        alive.wait().unwrap();
        waiting.join().unwrap()
    });
    drop(waiting.unwrap());

    for text in ["", "0", "x", "-1"] {
        fs::write(&lock, text).unwrap();
        assert!(matches!(root.lock_shadow(&FILE, NOW), Err(HostError::BadLock { .. })), "{text:?}");
    }
    assert_eq!(names(&directory), ["subuid.20260101", "subuid.4194303", "subuid.lock"]);
    // A lock with this process's PID is of an earlier process.
    fs::write(&lock, std::process::id().to_string()).unwrap();
    drop(root.lock_shadow(&FILE, NOW).unwrap());
}

/// Locking makes a file with this process's PID in its name, and so may an administrator who keeps a copy.
#[test]
fn a_copy_with_the_name_of_the_lockers_file_is_kept() {
    let (directory, root) = root();
    let copy = format!("subuid.{}", std::process::id());
    let path = directory.path().join("etc").join(&copy);
    fs::write(&path, "alice:100000:65536\n").unwrap();
    drop(root.lock_shadow(&FILE, NOW).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "alice:100000:65536\n");
    assert_eq!(names(&directory), [copy]);
    // A file that an earlier process with this PID left is no copy, under either name.
    fs::write(&path, std::process::id().to_string()).unwrap();
    let dead = directory.path().join("etc/.subuid.usernsd-lock.4194303");
    fs::write(dead, "4194303\0").unwrap();
    drop(root.lock_shadow(&FILE, NOW).unwrap());
    assert_eq!(names(&directory), [""; 0]);
}

#[test]
fn a_second_run_is_refused_while_one_is_active() {
    let (_directory, root) = root();
    let path = HostPath::fixed("etc/own.lock");
    let first = root.lock_task(&path, NOW).unwrap();
    assert!(matches!(root.lock_task(&path, NOW), Err(HostError::Locked { pid: 0, .. })));
    drop(first);
    drop(root.lock_task(&path, NOW).unwrap());
    drop(root.lock_passwords(&HostPath::fixed("etc/.pwd.lock"), NOW).unwrap());
}

#[test]
fn errors_contain_a_remedy() {
    let shown = |errno| HostError::Call { doing: "writing", path: "/etc/subuid".into(), errno }.to_string();
    for (errno, want) in [
        (Errno::ROFS, "MachineConfig"),
        (Errno::BUSY, "mount its directory"),
        (Errno::NOSPC, "make room"),
        (Errno::PERM, "lsattr"),
    ] {
        let text = shown(errno);
        assert!(text.starts_with("writing /etc/subuid: ") && text.contains(want), "{text}");
    }
}

/// With an ACL, the group's bits of the mode are the mask.
#[test]
fn a_replaced_file_keeps_its_acl_and_its_attributes() {
    let (directory, root) = root();
    replace(&root, b"old").unwrap();
    let path = directory.path().join("etc/subuid");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let acl = acl::of_one_more_user();
    let file = File::open(&path).unwrap();
    let attributes = [("system.posix_acl_access", acl.as_slice()), ("user.note", b"kept")];
    for (name, value) in attributes {
        if fsetxattr(&file, name, value, XattrFlags::empty()) == Err(Errno::NOTSUP) {
            return;
        }
    }
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    replace(&root, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    let file = File::open(&path).unwrap();
    for (name, value) in attributes {
        let mut found = vec![0; 4096];
        let length = fgetxattr(&file, name, found.as_mut_slice()).unwrap();
        assert_eq!(&found[..length], value, "{name}");
    }
}

#[test]
fn leftovers_of_a_killed_run_are_removed_with_the_locks() {
    let (directory, root) = root();
    for name in [".subuid.usernsd-new", ".subuid.usernsd-old", ".other.usernsd-new"] {
        fs::write(directory.path().join("etc").join(name), b"x").unwrap();
    }
    root.release_dead(&FILE).unwrap();
    assert_eq!(names(&directory), [".other.usernsd-new"]);
    root.remove_leftovers(&HostPath::fixed("etc/other"), None);
    assert_eq!(names(&directory), Vec::<String>::new());
}
