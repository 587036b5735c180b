//! What a process can still do once it gave its privileges up, asked of the kernel itself.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's failure is a panic")]

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use usernsd::domain::privilege::KEPT;
use usernsd::edge::privilege::keep_only;
use usernsd::edge::seccomp::{Families, confine};

const PROBE: &str = "USERNSD_TEST_PROBE";

/// Runs `probe` in a process of its own, which is this test again: what it gives up stays so.
fn in_a_process(test: &str, probe: impl FnOnce()) {
    if std::env::var_os(PROBE).is_some() {
        return probe();
    }
    let this = std::env::current_exe().unwrap();
    let ran = Command::new(this).args(["--exact", test, "--nocapture"]).env(PROBE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(said.contains("1 passed"), "{said}");
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
        // What was made before stays, as the listener of --http does.
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
        // What the agent lives on.
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
