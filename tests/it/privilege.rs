//! The remaining abilities of a process that has given up its privileges, tried on the running kernel.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, openat2};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use usernsd_domain::privilege::{HOOKS, KEPT, OBSERVERS};
use usernsd_linux::host::reader::{Reader, RequestedKind};
use usernsd_linux::landlock::{self, Enforced, WritableDirectory, WriteRights};
use usernsd_linux::privilege::keep_only;
use usernsd_linux::proc::Proc;
use usernsd_linux::proc::observer::Observer;
use usernsd_linux::seccomp::{Families, confine, confine_to_stat};

const PROBE: &str = "USERNSD_TEST_PROBE";

/// Runs `probe` in a separate process, which is this test again, because privileges cannot be regained.
fn in_a_process(test: &str, probe: impl FnOnce()) {
    if std::env::var_os(PROBE).is_some() {
        return probe();
    }
    let this = std::env::current_exe().unwrap();
    let test = format!("privilege::{test}");
    let ran = Command::new(this).args(["--exact", &test, "--nocapture"]).env(PROBE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{text}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn status(key: &str) -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t")).unwrap().to_owned()
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn no_network_socket_can_be_made() {
    in_a_process("no_network_socket_can_be_made", || {
        // Existing sockets stay usable, as the listener of --http does.
        let before = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = before.local_addr().unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let older = thread::spawn(move || {
            wait.recv().unwrap();
            (errno(TcpStream::connect(address)), status("Seccomp"), status("NoNewPrivs"))
        });
        confine(Families::Unix).unwrap();
        go.send(()).unwrap();
        let none = Some(libc::EAFNOSUPPORT);
        assert_eq!(older.join().unwrap(), (none, "2".to_owned(), "1".to_owned()), "a thread from before");
        assert_eq!(thread::spawn(move || errno(TcpStream::connect(address))).join().unwrap(), none);
        assert_eq!(errno(TcpListener::bind("[::1]:0")), none);
        assert_eq!(errno(UdpSocket::bind("127.0.0.1:0")), none);
        for family in [AddressFamily::Packet, AddressFamily::Netlink, AddressFamily::Vsock] {
            let made = socket(family, SockType::Raw, SockFlag::empty(), None);
            assert_eq!(made.err(), Some(nix::errno::Errno::EAFNOSUPPORT), "{family:?}");
        }
        assert!(UnixStream::pair().is_ok());
        before.set_nonblocking(true).unwrap();
        assert_eq!(errno(before.accept()), Some(libc::EAGAIN), "accept(2) makes no socket(2)");
    });
}

#[test]
fn no_program_process_or_namespace_can_be_made() {
    in_a_process("no_program_process_or_namespace_can_be_made", || {
        confine(Families::UnixAndInternet).unwrap();
        assert!(Command::new("/bin/true").spawn().is_err());
        assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(nix::errno::Errno::ENOSYS));
        assert!(TcpListener::bind("127.0.0.1:0").is_ok());
        // Calls that the agent needs.
        assert!(std::fs::read("/proc/self/uid_map").is_ok());
        assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        });
    });
}

#[test]
fn only_the_named_capabilities_are_left() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("not root: there is no capability to drop");
        return;
    }
    in_a_process("only_the_named_capabilities_are_left", || {
        keep_only(&KEPT).unwrap();
        let kept: u64 = KEPT.iter().map(|capability| 1 << capability.number).sum();
        for (set, want) in
            [("CapEff", kept), ("CapPrm", kept), ("CapBnd", kept), ("CapInh", 0), ("CapAmb", 0)]
        {
            assert_eq!(status(set), format!("{want:016x}"), "{set}");
        }
        assert_eq!(status("NoNewPrivs"), "1");
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
        keep_only(&[]).unwrap();
        assert_eq!(status("CapPrm"), "0000000000000000");
    });
}

/// A process to be attacked, which ends with the test.
struct Victim(Child);

impl Victim {
    fn new(program: &str, arguments: &[&str]) -> Victim {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let victim = Victim(child);
        let comm = format!("/proc/{}/comm", victim.0.id());
        // It has its final identity only after exec.
        while fs::read_to_string(&comm).unwrap() != "sleep\n" {
            thread::yield_now();
        }
        victim
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // By the test's own process; the confined one cannot make this call.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All ways to open a file for writing.
fn ways_to_write(path: &Path) -> Vec<(&'static str, Result<(), Errno>)> {
    let open = |flags| nix::fcntl::open(path, flags, Mode::S_IRWXU).map(drop);
    let openat2 = |flags| openat2(nix::fcntl::AT_FDCWD, path, OpenHow::new().flags(flags)).map(drop);
    let created = File::create(path).map(drop);
    let created = created.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()));
    vec![
        ("openat, O_RDWR", open(OFlag::O_RDWR)),
        ("openat, O_WRONLY", open(OFlag::O_WRONLY)),
        ("openat, O_WRONLY and O_APPEND", open(OFlag::O_WRONLY | OFlag::O_APPEND)),
        ("openat2, O_RDWR", openat2(OFlag::O_RDWR)),
        ("openat2, O_WRONLY", openat2(OFlag::O_WRONLY)),
        ("create", created),
    ]
}

fn paths_to_memory(pid: u32, links: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = [
        format!("/proc/{pid}/mem"),
        format!("/proc/{pid}/task/{pid}/mem"),
        format!("/proc/self/root/proc/{pid}/mem"),
        format!("/proc/thread-self/root/proc/{pid}/mem"),
        format!("/proc/self/cwd/../../../../../../../../proc/{pid}/mem"),
        format!("/proc/{pid}/root/proc/{pid}/mem"),
    ]
    .map(PathBuf::from)
    .into();
    // A link in a directory where files may be written, and one that replaces a file.
    let (link, beside) = (links.join(format!("{pid}")), links.join(format!("{pid}.new")));
    let _ = fs::remove_file(&link);
    fs::write(&link, "a file").unwrap();
    symlink(format!("/proc/{pid}/mem"), &beside).unwrap();
    fs::rename(&beside, &link).unwrap();
    paths.push(link);
    paths
}

#[test]
fn an_attacker_in_the_agent_cannot_write_to_another_process() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("not root: there is no capability to drop");
        return;
    }
    in_a_process("an_attacker_in_the_agent_cannot_write_to_another_process", || {
        let directory = tempfile::tempdir().unwrap();
        let [files, sockets, others] = ["files", "sockets", "others"].map(|name| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        fs::write(others.join("file"), "").unwrap();
        // Root with every capability, like the runtime; and root without any, which every process of root may
        // trace.
        let rich = Victim::new("sleep", &["1000"]);
        let poor = Victim::new("setpriv", &["--bounding-set=-all", "--inh-caps=-all", "sleep", "1000"]);
        let before = Proc::new(Path::new("/proc"));
        let of_victim = || before.open(rich.0.id()).unwrap().namespace("user");
        let namespace = of_victim().unwrap();
        // Without confinement these calls succeed, so the checks below can fail.
        for victim in [&rich, &poor] {
            for path in paths_to_memory(victim.0.id(), &files) {
                let ways = ways_to_write(&path);
                assert!(ways.iter().all(|(_, done)| done.is_ok()), "{path:?}: {ways:?}");
            }
        }

        Observer::start(Path::new(env!("CARGO_BIN_EXE_usernsd")), Path::new("/proc")).unwrap().install();
        keep_only(&KEPT).unwrap();
        let place =
            |directory: &PathBuf, writing| WritableDirectory { directory: directory.clone(), writing };
        let places = [place(&files, WriteRights::Files), place(&sockets, WriteRights::Sockets)];
        assert_ne!(landlock::confine(&places, None).unwrap(), Enforced::Not, "this kernel has no Landlock");
        confine(Families::Unix).unwrap();

        let own = nix::unistd::getppid().as_raw().unsigned_abs();
        let observer = children(std::process::id()).into_iter().find(|pid| status_of(*pid, "Seccomp") == "2");
        for pid in [rich.0.id(), poor.0.id(), own, observer.unwrap()] {
            for path in paths_to_memory(pid, &files) {
                // An owner, if it can be set, and a mode do not help.
                let _ = chown(&path, Some(0), Some(0));
                let _ = fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666));
                for (way, done) in ways_to_write(&path) {
                    assert!(done.is_err(), "{way} of {}", path.display());
                }
            }
            assert!(fs::hard_link(format!("/proc/{pid}/mem"), files.join("hard")).is_err());
            let raw = i32::try_from(pid).unwrap();
            assert_eq!(ptrace::attach(Pid::from_raw(raw)), Err(Errno::ENOSYS));
            let pidfd =
                pidfd_open(rustix::process::Pid::from_raw(raw).unwrap(), PidfdFlags::empty()).unwrap();
            let taken = pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty());
            assert_eq!(taken.err(), Some(rustix::io::Errno::NOSYS));
        }
        // Nor can it write any other file that is not the agent's.
        for path in
            [&others.join("file"), Path::new("/proc/sys/kernel/core_pattern"), Path::new("/etc/hostname")]
        {
            for (way, done) in ways_to_write(path) {
                assert_eq!(done, Err(Errno::EACCES), "{way} of {}", path.display());
            }
        }
        for path in [&others, &sockets] {
            assert_eq!(errno(fs::write(path.join("new"), "")), Some(libc::EACCES));
            assert_eq!(errno(symlink("/", path.join("link"))), Some(libc::EACCES));
            assert_eq!(errno(fs::create_dir(path.join("new"))), Some(libc::EACCES));
        }
        assert_eq!(errno(UnixListener::bind(others.join("socket"))), Some(libc::EACCES));
        assert_eq!(errno(fs::remove_file(others.join("file"))), Some(libc::EACCES));
        assert_eq!(errno(fs::rename(others.join("file"), files.join("x"))), Some(libc::EACCES));

        // Operations that the agent needs still work: its own files and sockets, and inspecting any process.
        fs::write(files.join("new"), "x").unwrap();
        fs::rename(files.join("new"), files.join("there")).unwrap();
        fs::write(files.join("there"), "y").unwrap();
        let _listener = UnixListener::bind(sockets.join("hidden")).unwrap();
        fs::rename(sockets.join("hidden"), sockets.join("socket")).unwrap();
        fs::remove_file(sockets.join("socket")).unwrap();
        assert_eq!(of_victim().unwrap(), namespace);
        let process = before.open(rich.0.id()).unwrap();
        process.uid_map().unwrap();
        process.mount_table().unwrap();
        process.status().unwrap();
        let program = fs::metadata("/proc/self/exe").unwrap();
        let found = before.program_of(std::process::id()).unwrap();
        assert_eq!(
            found,
            (std::os::unix::fs::MetadataExt::dev(&program), std::os::unix::fs::MetadataExt::ino(&program))
        );
        // They can no longer be killed from here, except through a handle from before.
        for victim in [&rich, &poor] {
            before.open(victim.0.id()).unwrap().kill().unwrap();
        }
    });
}

#[test]
fn only_its_own_limits_can_be_changed() {
    in_a_process("only_its_own_limits_can_be_changed", || {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};

        let victim = Victim::new("sleep", &["1000"]);
        let pid = Pid::from_raw(i32::try_from(victim.0.id()).unwrap());
        let few = || Rlimit { current: Some(64), maximum: Some(64) };
        let limit = |pid| prlimit(pid, Resource::Core, few()).map(drop);
        assert_eq!(limit(pid), Ok(()), "without the list it can");
        confine(Families::Unix).unwrap();
        assert_eq!(limit(pid), Err(rustix::io::Errno::NOSYS));
        assert_eq!(limit(None), Ok(()));
        drop(victim);
    });
}

#[test]
fn the_hook_gives_up_its_privileges_before_it_reads() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("not root: there is no capability to drop");
        return;
    }
    let mut hook = Command::new(env!("CARGO_BIN_EXE_usernsd"));
    hook.arg("hook").stdin(Stdio::piped()).stderr(Stdio::null());
    let mut hook = hook.spawn().unwrap();
    let pid = hook.id();
    // It waits for the container's state.
    let begun = std::time::Instant::now();
    while status_of(pid, "Seccomp") != "2" && begun.elapsed().as_secs() < 60 {
        assert!(hook.try_wait().unwrap().is_none(), "it ended without a state");
        thread::yield_now();
    }
    let kept: u64 = HOOKS.iter().map(|capability| 1 << capability.number).sum();
    for (set, want) in [("CapEff", kept), ("CapPrm", kept), ("CapBnd", kept), ("CapInh", 0)] {
        assert_eq!(status_of(pid, set), format!("{want:016x}"), "{set}");
    }
    assert_eq!((status_of(pid, "NoNewPrivs").as_str(), status_of(pid, "Seccomp").as_str()), ("1", "2"));
    drop(hook.stdin.take());
    // A container starts whatever becomes of its hook.
    assert!(hook.wait().unwrap().success());
}

fn status_of(pid: u32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    value.unwrap_or_default().to_owned()
}

fn children(pid: u32) -> Vec<u32> {
    let names =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let pids = names.filter_map(|name| name.parse().ok());
    pids.filter(|child| status_of(*child, "PPid") == pid.to_string()).collect()
}

#[test]
fn the_observer_holds_one_capability_and_opens_nothing() {
    in_a_process("the_observer_holds_one_capability_and_opens_nothing", || {
        let observer = Observer::start(Path::new(env!("CARGO_BIN_EXE_usernsd")), Path::new("/proc")).unwrap();
        let pid = children(std::process::id())[0];
        if nix::unistd::Uid::effective().is_root() {
            let kept: u64 = OBSERVERS.iter().map(|capability| 1 << capability.number).sum();
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                assert_eq!(status_of(pid, set), format!("{kept:016x}"), "{set}");
            }
        }
        assert_eq!((status_of(pid, "Seccomp"), status_of(pid, "NoNewPrivs")), ("2".into(), "1".into()));
        assert_eq!(status_of(pid, "Threads"), "2");
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let thread: u32 = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
            for what in ["CapEff", "CapPrm", "CapBnd", "Seccomp", "NoNewPrivs"] {
                assert_eq!(status_of(thread, what), status_of(pid, what), "{what} of thread {thread}");
            }
        }
        // A file that it does not open, a process that does not exist, and more targets than fit into one
        // message.
        assert_eq!(observer.target(1, "mem"), Err(rustix::io::Errno::INVAL));
        assert_eq!(observer.target(u32::MAX, "ns/user"), Err(rustix::io::Errno::NOENT));
        let own = std::process::id();
        let many = observer.targets(&[own; 100], "ns/user").unwrap();
        let inode =
            fs::metadata("/proc/self/ns/user").map(|found| std::os::unix::fs::MetadataExt::ino(&found));
        let inode = inode.unwrap();
        assert!(many.len() == 100 && many.iter().all(|target| target.unwrap().inode == inode));
        // It ends with its parent, and no request is sent to one that has ended.
        assert!(observer.is_alive());
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        while observer.is_alive() {
            thread::yield_now();
        }
        assert!(observer.target(own, "ns/user").is_err());
        let second = Observer::start(Path::new(env!("CARGO_BIN_EXE_usernsd")), Path::new("/proc")).unwrap();
        let pid = children(own).into_iter().find(|child| *child != pid).unwrap();
        drop(second);
        while !["", "Z (zombie)"].contains(&status_of(pid, "State").as_str()) {
            thread::yield_now();
        }

        confine_to_stat().unwrap();
        assert_eq!(errno(File::open("/proc/self/status")), Some(libc::ENOSYS));
        assert_eq!(openat2(nix::fcntl::AT_FDCWD, "/", OpenHow::new()).err(), Some(Errno::ENOSYS));
        assert_eq!(errno(UnixStream::pair()), Some(libc::ENOSYS));
        assert!(fs::metadata("/proc/self/status").is_ok());
    });
}

#[test]
fn the_reader_returns_no_key() {
    in_a_process("the_reader_returns_no_key", || {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        let pki = etc.join("kubernetes/pki");
        fs::create_dir_all(&pki).unwrap();
        fs::create_dir_all(etc.join("crio/crio.conf.d")).unwrap();
        fs::write(pki.join("ca.key"), "PRIVATE KEY").unwrap();
        fs::write(etc.join("shadow"), "root:$6$x").unwrap();
        fs::write(etc.join("subuid"), "containers:1:2\n").unwrap();
        fs::write(etc.join("kubernetes/kubelet.conf"), "kind: Config\nclient-key-data: x\n").unwrap();
        fs::write(etc.join("kubernetes/other.yaml"), "kind: KubeletConfiguration\nmaxPods: 7\n").unwrap();
        // kubeadm and the kubelet have one file on many nodes.
        let of_kubeadm = "kind: InitConfiguration\ncertificateKey: 8f2c\n";
        let of_kubelet = "kind: KubeletConfiguration\nmaxPods: 8\n";
        fs::write(etc.join("kubernetes/init.yaml"), format!("{of_kubeadm}---\n{of_kubelet}")).unwrap();
        fs::write(etc.join("kubernetes/kubelet.yaml"), format!("{of_kubelet}---\n{of_kubeadm}")).unwrap();
        let embedded = "kind: Secret\nstringData:\n  kubelet: |\n    kind: KubeletConfiguration\n  key: x\n";
        fs::write(etc.join("kubernetes/secret.yaml"), embedded).unwrap();
        fs::write(root.path().join("secret"), "x").unwrap();
        symlink("/secret", etc.join("passwd")).unwrap();
        symlink("../../../../../../../etc/hostname", etc.join("group")).unwrap();
        for name in ["a", "b"] {
            fs::write(etc.join("crio/crio.conf.d").join(name), name).unwrap();
        }
        let reader = Reader::start(Path::new(env!("CARGO_BIN_EXE_usernsd")), root.path()).unwrap();
        let pid = children(std::process::id())[0];
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status_of(pid, set), "0".repeat(16), "{set}");
        }
        assert_eq!((status_of(pid, "Seccomp"), status_of(pid, "NoNewPrivs")), ("2".into(), "1".into()));

        let file = |path: &str| reader.read(RequestedKind::File, path);
        let refused = Err(rustix::io::Errno::ACCESS);
        for path in [
            "etc/kubernetes/pki/ca.key",
            "etc/crio/../kubernetes/pki/ca.key",
            "etc/shadow",
            "etc/kubernetes/kubelet.conf",
            "etc/kubernetes/init.yaml",
            "etc/kubernetes/secret.yaml",
            "secret",
            "etc/../secret",
            "/etc/shadow",
            "",
        ] {
            assert_eq!(file(path), refused, "{path}");
        }
        assert_eq!(file("etc/subuid").unwrap(), b"containers:1:2\n");
        assert!(file("etc/kubernetes/other.yaml").unwrap().ends_with(b"maxPods: 7\n"));
        assert_eq!(file("etc/kubernetes/kubelet.yaml").unwrap(), of_kubelet.as_bytes());
        // Links are resolved from the root.
        assert_eq!(file("etc/passwd").unwrap(), b"x");
        assert_eq!(file("etc/group"), Err(rustix::io::Errno::NOENT));
        assert_eq!(file("etc/nsswitch.conf"), Err(rustix::io::Errno::NOENT));
        assert_eq!(file("etc/crio/crio.conf.d"), Err(rustix::io::Errno::ISDIR));
        let mut names = reader.read(RequestedKind::Directory, "etc/crio/crio.conf.d").unwrap();
        names.sort_unstable();
        assert_eq!(names, b"\0ab");
        assert_eq!(reader.read(RequestedKind::Directory, "etc/none"), Err(rustix::io::Errno::NOENT));
        // A file that was put there by a rename.
        fs::write(etc.join("new"), "core:3:4\n").unwrap();
        fs::rename(etc.join("new"), etc.join("subuid")).unwrap();
        assert_eq!(file("etc/subuid").unwrap(), b"core:3:4\n");
    });
}
