//! System calls in the threads of a running process: a call that is refused to them is refused to an attacker
//! who controls the process.
//!
//! The calls are made with ptrace(2) from outside the node: each thread is stopped, gets a call into its
//! registers, makes one step, and gets its registers back.

use std::ffi::{c_long, c_void};
use std::fs;
use std::process::{Child, Command};

use nix::libc::user_regs_struct;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::node::Node;
use crate::pods::wait_for;

/// The instruction `syscall` in memory.
const SYSCALL: c_long = 0x050f;
const LENGTH: u64 = 2;

/// A process that is stopped until this value is dropped.
#[derive(Debug)]
pub(crate) struct Stopped {
    threads: Vec<Pid>,
    /// Address of a `syscall` instruction in the process.
    instruction: u64,
}

impl Stopped {
    /// Stops a process of a node, given its PID there.
    #[track_caller]
    pub(crate) fn on(node: &Node, pid: &str) -> Stopped {
        Stopped::attach(as_seen_here(node, pid))
    }

    /// Stops a process while one of its threads waits in a system call.
    #[track_caller]
    pub(crate) fn attach(pid: Pid) -> Stopped {
        // On a busy machine, every thread may be running at that moment.
        wait_for("a thread that waits in a call", || Stopped::try_attach(pid))
    }

    /// Returns `None`, and lets the process continue, if no thread waits in a call.
    fn try_attach(pid: Pid) -> Option<Stopped> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let thread = Pid::from_raw(entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
            ptrace::attach(thread).unwrap();
            threads.push(thread);
            wait_until_stopped(thread);
        }
        // A waiting thread waits in a system call.
        let instruction = threads.iter().find_map(|thread| {
            let at = ptrace::getregs(*thread).unwrap().rip - LENGTH;
            let place = std::ptr::without_provenance_mut::<c_void>(usize::try_from(at).unwrap());
            let word = ptrace::read(*thread, place).unwrap();
            (word & 0xffff == SYSCALL).then_some(at)
        });
        let Some(instruction) = instruction else {
            threads.into_iter().for_each(|thread| ptrace::detach(thread, None).unwrap());
            return None;
        };
        Some(Stopped { threads, instruction })
    }

    /// The kernel's answer to each of the threads: a negative error number, or the result.
    #[track_caller]
    pub(crate) fn call(&self, number: c_long, [first, second, third]: [i64; 3]) -> Vec<i64> {
        self.call4(number, [first, second, third, 0])
    }

    /// Writes bytes, whose number must be a multiple of eight, far below the stack of the first thread, where
    /// all threads can read them. Returns their address.
    #[track_caller]
    fn put(&self, bytes: &[u8], below: u64) -> i64 {
        let thread = self.threads[0];
        let start = (ptrace::getregs(thread).unwrap().rsp - below) & !0xf;
        let (words, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty());
        for (index, word) in words.iter().enumerate() {
            let at = usize::try_from(start).unwrap() + 8 * index;
            let place = std::ptr::without_provenance_mut::<c_void>(at);
            ptrace::write(thread, place, c_long::from_ne_bytes(*word)).unwrap();
        }
        start.cast_signed()
    }

    /// Returns those of the flags with which a file can be opened, by any of the system calls. Opened files
    /// are closed again.
    #[track_caller]
    pub(crate) fn opens(&self, path: &str, flags: &[i32]) -> Vec<String> {
        let mut text = path.as_bytes().to_vec();
        text.resize((path.len() / 8 + 1) * 8, 0);
        let path = self.put(&text, 16 << 10);
        let mut opened = Vec::new();
        for flag in flags.iter().map(|flag| i64::from(*flag)) {
            // struct open_how: flags, mode, resolve.
            let how = [flag.to_ne_bytes(), [0; 8], [0; 8]].concat();
            let how = self.put(&how, 20 << 10);
            let here = i64::from(nix::libc::AT_FDCWD);
            for (name, number, args) in [
                ("open", nix::libc::SYS_open, [path, flag, 0, 0]),
                ("openat", nix::libc::SYS_openat, [here, path, flag, 0]),
                ("openat2", nix::libc::SYS_openat2, [here, path, how, 24]),
                ("creat", nix::libc::SYS_creat, [path, 0, 0, 0]),
            ] {
                if name == "creat" && flag == 0 {
                    continue;
                }
                for answer in self.call4(number, args).into_iter().filter(|answer| *answer >= 0) {
                    opened.push(format!("{name} with {flag:#o}"));
                    self.call(nix::libc::SYS_close, [answer, 0, 0]);
                }
            }
        }
        opened
    }

    #[track_caller]
    pub(crate) fn call4(&self, number: c_long, args: [i64; 4]) -> Vec<i64> {
        let [rdi, rsi, rdx, r10] = args.map(i64::cast_unsigned);
        let one = |thread: &Pid| {
            let own = ptrace::getregs(*thread).unwrap();
            // An interrupted call must not be restarted in the middle of ours.
            let call = user_regs_struct {
                rip: self.instruction,
                rax: number.cast_unsigned(),
                orig_rax: u64::MAX,
                rdi,
                rsi,
                rdx,
                r10,
                r8: 0,
                ..own
            };
            ptrace::setregs(*thread, call).unwrap();
            // A pending signal is reported, and discarded, before the step is made.
            while ptrace::getregs(*thread).unwrap().rip == self.instruction {
                ptrace::step(*thread, None).unwrap();
                stop_of(*thread);
            }
            let answer = ptrace::getregs(*thread).unwrap().rax.cast_signed();
            ptrace::setregs(*thread, own).unwrap();
            answer
        };
        self.threads.iter().map(one).collect()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for thread in &self.threads {
            let _ = ptrace::detach(*thread, None);
        }
    }
}

/// Waits until a thread has stopped by SIGSTOP, which attaching sends. Another signal that is pending for the thread, such
/// as a trap, may be reported first, and is discarded.
#[track_caller]
fn wait_until_stopped(thread: Pid) {
    while stop_of(thread) != Signal::SIGSTOP {
        ptrace::cont(thread, None).unwrap();
    }
}

#[track_caller]
fn stop_of(thread: Pid) -> Signal {
    match waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap() {
        WaitStatus::Stopped(_, signal) => signal,
        other => panic!("{other:?}"),
    }
}

/// The PID of a node's process on this machine.
#[track_caller]
fn as_seen_here(node: &Node, pid: &str) -> Pid {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let of_node = namespace(&node.pid().to_string());
    let names =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let is_it = |name: &String| {
        name.bytes().all(|byte| byte.is_ascii_digit())
            && namespace(name) == of_node
            && fs::read_to_string(format!("/proc/{name}/status")).is_ok_and(|status| {
                let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                line.and_then(|line| line.split_whitespace().last()) == Some(pid)
            })
    };
    let found = names.into_iter().find(is_it).unwrap_or_else(|| panic!("no process {pid} in the node"));
    Pid::from_raw(found.parse().unwrap())
}

/// A process that only sleeps. Dropping it kills it.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> (Sleeper, Pid) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (Sleeper(child), pid)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kernel reports a pending trap before a pending stop, whichever was sent first (`next_signal` and its
/// `SYNCHRONOUS_MASK`).
#[test]
fn a_pending_trap_is_not_taken_for_the_stop() {
    let (_sleeper, thread) = Sleeper::start();
    ptrace::attach(thread).unwrap();
    wait_until_stopped(thread);
    // While it is stopped, both become pending; attaching sends the same stop.
    kill(thread, Signal::SIGSTOP).unwrap();
    kill(thread, Signal::SIGTRAP).unwrap();
    ptrace::cont(thread, None).unwrap();
    wait_until_stopped(thread);
    // Nothing is pending any more, so the process sleeps on.
    ptrace::detach(thread, None).unwrap();
    let stopped = Stopped::attach(thread);
    assert_eq!(stopped.call(nix::libc::SYS_getpid, [0, 0, 0]), [i64::from(thread.as_raw())]);
}

#[test]
fn a_pending_signal_is_not_taken_for_the_step_of_a_call() {
    let (_sleeper, thread) = Sleeper::start();
    let stopped = Stopped::attach(thread);
    for signal in [Signal::SIGUSR1, Signal::SIGTRAP] {
        kill(thread, signal).unwrap();
        let answers = stopped.call(nix::libc::SYS_getpid, [0, 0, 0]);
        assert_eq!(answers, [i64::from(thread.as_raw())], "{signal}");
    }
}
