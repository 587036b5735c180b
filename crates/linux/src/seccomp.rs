//! The system calls that this process may make (seccomp(2)).
//!
//! The filter is an allow list: a call that is not on it fails with ENOSYS, so that libraries try an older one. No
//! call on it starts another program or changes a namespace, a module or a mount, and only one changes another process:
//! pidfd_send_signal(2), which the agent needs. Only sockets of the requested families can be created.
//!
//! Files may be opened for writing: openat2(2) has its flags in memory, where no filter can see them. Which files, is
//! up to [`landlock`](super::landlock); and the capability to write another process's memory is held by a process
//! whose list has no call that opens anything ([`confine_to_stat`]).
//!
//! If a call is missing here, it fails with ENOSYS, "Function not implemented"; `strace -f` shows which. `io_uring`
//! must never be added: its operations bypass every filter.

mod calls;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};
use thiserror::Error;

use self::calls::{ALLOWED, HANDING_OVER, OLDER, OLDER_READING, READING, STAT};

/// Families of sockets that may be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// Unix sockets only.
    Unix,
    /// Unix sockets, TCP and UDP.
    UnixAndInternet,
}

/// Why there is no filter.
#[derive(Debug, Error)]
pub enum FilterError {
    /// There is no filter for this processor.
    #[error("making the filter of system calls: {0}")]
    Make(seccompiler::BackendError),
    /// The kernel does not accept it.
    #[error("the kernel does not take the filter of system calls ({0}); it needs CONFIG_SECCOMP_FILTER")]
    Apply(seccompiler::Error),
}

/// Commands of fcntl(2) by which a descriptor sends signals to a process that the caller chooses.
const SIGNALLING: [libc::c_int; 3] = [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX];
/// `linux/fcntl.h`; the same on every architecture that has a filter.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
/// The same as requests to ioctl(2) on a socket: FIOSETOWN, SIOCSPGRP (`asm-generic/sockios.h`).
const SIGNALLING_SOCKETS: [libc::c_int; 2] = [0x8901, 0x8902];

/// Allows only reading files and directories, and writing to open descriptors.
///
/// # Errors
/// See [`FilterError`].
pub fn confine_to_reading() -> Result<(), FilterError> {
    apply(only(&[STAT, READING].concat(), &[libc::SYS_fcntl]))
}

/// Allows only what it takes to read files and to change the owner and the limits of a cgroup: no socket, no signal, no
/// thread. Files may be opened for writing, as with [`confine`].
///
/// # Errors
/// See [`FilterError`].
pub fn confine_to_handing_over() -> Result<(), FilterError> {
    apply(only(&handing_over(), &[libc::SYS_fcntl, libc::SYS_ioctl]))
}

fn handing_over() -> Vec<libc::c_long> {
    let sockets = [libc::SYS_sendto, libc::SYS_recvfrom];
    let mut calls = [STAT, READING, HANDING_OVER, OLDER_READING].concat();
    calls.retain(|call| !sockets.contains(call));
    calls
}

/// Allows only stat(2), and reading and writing open descriptors.
///
/// # Errors
/// See [`FilterError`].
pub fn confine_to_stat() -> Result<(), FilterError> {
    apply(only(STAT, &[]))
}

/// A filter before it is a program of one processor.
#[derive(Debug)]
struct Filter {
    /// By their numbers on this processor. A call without rules is allowed with any arguments.
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    these: SeccompAction,
    others: SeccompAction,
}

// === impl Filter ===

impl Filter {
    fn compile(self, processor: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
        SeccompFilter::new(self.calls, self.others, self.these, processor)?.try_into()
    }

    fn compile_here(self) -> Result<BpfProgram, seccompiler::BackendError> {
        self.compile(TargetArch::try_from(std::env::consts::ARCH)?)
    }
}

/// Only `calls`, and `bounded` with the arguments that [`bounded`] permits.
fn only(calls: &[libc::c_long], more: &[libc::c_long]) -> Result<Filter, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = calls.iter().map(|call| (*call, vec![])).collect();
    let bounded = bounded()?.into_iter();
    calls.extend(bounded.filter(|(call, _)| *call == libc::SYS_tgkill || more.contains(call)));
    Ok(Filter { calls, these: SeccompAction::Allow, others: errno(libc::ENOSYS) })
}

/// Allows only these calls from now on, in every thread of this process and in everything that it starts later. This
/// sets no_new_privs, too.
///
/// # Errors
/// See [`FilterError`].
pub fn confine(families: Families) -> Result<(), FilterError> {
    // The kernel runs both filters for each call, and takes the stricter result. The second one forbids adding a
    // third.
    for filter in filters(families).map_err(FilterError::Make)? {
        apply(Ok(filter))?;
    }
    Ok(())
}

fn apply(filter: Result<Filter, seccompiler::BackendError>) -> Result<(), FilterError> {
    let program = filter.and_then(Filter::compile_here).map_err(FilterError::Make)?;
    apply_filter_all_threads(&program).map_err(FilterError::Apply)
}

fn filters(families: Families) -> Result<[Filter; 2], seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(OLDER).map(|call| (*call, vec![])).collect();
    calls.extend(bounded()?);
    // The other filter checks these.
    calls.insert(libc::SYS_socket, vec![]);
    calls.insert(libc::SYS_socketpair, vec![]);
    // Only a thread, not a process, and no new namespace. clone3(2) is not on the list, because its arguments are in
    // memory, where no filter can see them.
    let thread = i64::from(libc::CLONE_THREAD).unsigned_abs();
    calls.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    let known = Filter { calls, these: SeccompAction::Allow, others: errno(libc::ENOSYS) };

    let good: &[libc::c_int] = match families {
        Families::Unix => &[libc::AF_UNIX],
        Families::UnixAndInternet => &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6],
    };
    let other = || {
        let differs =
            |family: &libc::c_int| condition(0, SeccompCmpOp::Ne, i64::from(*family).unsigned_abs());
        SeccompRule::new(good.iter().map(differs).collect::<Result<_, _>>()?).map(|rule| vec![rule])
    };
    let calls = [(libc::SYS_socket, other()?), (libc::SYS_socketpair, other()?)].into_iter().collect();
    let sockets = Filter { calls, these: errno(libc::EAFNOSUPPORT), others: SeccompAction::Allow };
    Ok([sockets, known])
}

/// Calls whose arguments name a process or are commands, with the arguments that change no other process: a process
/// of root may set the limits of root's others and send them signals.
fn bounded() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let none_of = |argument, values: &[libc::c_int]| {
        let differs =
            |value: &libc::c_int| condition(argument, SeccompCmpOp::Ne, i64::from(*value).unsigned_abs());
        SeccompRule::new(values.iter().map(differs).collect::<Result<_, _>>()?).map(|rule| vec![rule])
    };
    // This process by its number, which raise(3) and abort(3) use.
    let own = when(0, SeccompCmpOp::Eq, std::process::id().into())?;
    Ok([
        (libc::SYS_tgkill, vec![own]),
        // 0 is the calling process.
        (libc::SYS_prlimit64, vec![when(0, SeccompCmpOp::Eq, 0)?]),
        (libc::SYS_fcntl, none_of(1, &SIGNALLING)?),
        (libc::SYS_ioctl, none_of(1, &SIGNALLING_SOCKETS)?),
    ]
    .into())
}

fn errno(number: libc::c_int) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn when(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![condition(argument, operator, value)?])
}

/// The kernel reads only 32 bits of these arguments.
fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u32 = 0x8000_0000;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    /// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64`
    const HERE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    /// `AUDIT_ARCH_I386`
    const I386: u32 = 0x4000_0003;
    /// Calls of the x32 ABI carry this bit.
    const X32: i64 = 0x4000_0000;

    /// The kernel's result, computed by bpf(2)'s classic machine.
    fn run(program: &BpfProgram, arch: u32, call: i64, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(u32::try_from(call).unwrap().to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |is_so: bool| usize::from(if is_so { step.jt } else { step.jf });
            match step.code {
                0x20 => {
                    let from = step.k as usize;
                    a = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                }
                0x54 => a &= step.k,
                0x05 => at += step.k as usize,
                0x15 => at += jump(a == step.k),
                0x25 => at += jump(a > step.k),
                0x35 => at += jump(a >= step.k),
                0x06 => return step.k,
                code => panic!("code {code:#x}"),
            }
        }
    }

    /// The stricter result: the one with the higher precedence is the smaller number, except for KILL.
    fn strictest(programs: &[BpfProgram], arch: u32, call: i64, args: [u64; 6]) -> u32 {
        let answers = programs.iter().map(|program| run(program, arch, call, args));
        answers.min_by_key(|answer| (*answer != KILL, *answer)).unwrap()
    }

    fn verdict(families: Families, arch: u32, call: i64, args: [u64; 6]) -> u32 {
        strictest(&filters(families).unwrap().map(|filter| filter.compile_here().unwrap()), arch, call, args)
    }

    fn answer(call: i64, args: [u64; 6]) -> u32 {
        verdict(Families::Unix, HERE, call, args)
    }

    const ABSENT: u32 = ERRNO | libc::ENOSYS as u32;

    /// Calls that the agent never needs.
    const FORBIDDEN: &[libc::c_long] = &[
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_bpf,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone3,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_settimeofday,
        libc::SYS_open_by_handle_at,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setresuid,
        libc::SYS_capset,
        libc::SYS_mknodat,
        libc::SYS_kill,
        libc::SYS_memfd_create,
        libc::SYS_seccomp,
    ];

    #[test]
    fn calls_that_the_agent_never_needs_do_not_exist() {
        for call in FORBIDDEN {
            assert_eq!(answer(*call, [0; 6]), ABSENT, "{call}");
        }
        for call in ALLOWED.iter().chain(OLDER) {
            assert_eq!(answer(*call, [0; 6]), ALLOW, "{call}");
        }
        assert_eq!(answer(100_000, [0; 6]), ABSENT, "calls to come");
    }

    #[test]
    fn the_observer_can_open_and_change_nothing() {
        let program = only(STAT, &[]).unwrap().compile_here().unwrap();
        let files: Vec<_> = ALLOWED.iter().chain(OLDER).filter(|call| !STAT.contains(call)).collect();
        for call in [libc::SYS_openat, libc::SYS_openat2, libc::SYS_recvmsg, libc::SYS_fchownat] {
            assert!(files.contains(&&call));
        }
        for call in files {
            assert_eq!(run(&program, HERE, *call, [0; 6]), ABSENT, "{call}");
        }
        assert_eq!(run(&program, HERE, libc::SYS_newfstatat, [0; 6]), ALLOW);
        assert_eq!(run(&program, I386, libc::SYS_newfstatat, [0; 6]), KILL);
    }

    #[test]
    fn a_process_that_hands_a_cgroup_over_makes_no_socket_and_sends_no_signal() {
        let program =
            only(&handing_over(), &[libc::SYS_fcntl, libc::SYS_ioctl]).unwrap().compile_here().unwrap();
        for call in ALLOWED.iter().chain(OLDER) {
            let want = if handing_over().contains(call) { ALLOW } else { ABSENT };
            assert_eq!(run(&program, HERE, *call, [0; 6]), want, "{call}");
        }
        for call in [
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_recvfrom,
            libc::SYS_pidfd_send_signal,
            libc::SYS_clone,
            libc::SYS_execve,
            libc::SYS_mkdirat,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
        ] {
            assert_eq!(run(&program, HERE, call, [0; 6]), ABSENT, "{call}");
        }
        assert_eq!(run(&program, I386, libc::SYS_openat2, [0; 6]), KILL);
    }

    #[test]
    fn only_the_process_itself_can_be_limited_and_signalled() {
        let own = u64::from(std::process::id());
        let with = |first: u64, second: u64| [first, second, 0, 0, 0, 0];
        for (call, good, bad) in [
            (libc::SYS_prlimit64, vec![with(0, 7)], vec![with(1, 7), with(own + 1, 7)]),
            (libc::SYS_tgkill, vec![with(own, 1)], vec![with(1, 1), with(own + 1, 1), with(0, 1)]),
            (libc::SYS_fcntl, vec![with(3, 1), with(3, 1030)], vec![with(3, 8), with(3, 10), with(3, 15)]),
            // The kernel reads 32 bits.
            (libc::SYS_ioctl, vec![with(3, 0x5421)], vec![with(3, 0x8901), with(3, 0x8902 | 1 << 32)]),
        ] {
            for (arguments, want) in
                good.iter().map(|good| (good, ALLOW)).chain(bad.iter().map(|bad| (bad, ABSENT)))
            {
                assert_eq!(answer(call, *arguments), want, "{call} {arguments:?}");
            }
            for (calls, more) in [
                (STAT.to_vec(), &[][..]),
                ([STAT, READING].concat(), &[libc::SYS_fcntl]),
                (handing_over(), &[libc::SYS_fcntl, libc::SYS_ioctl]),
            ] {
                let program = only(&calls, more).unwrap().compile_here().unwrap();
                for arguments in &bad {
                    assert_eq!(run(&program, HERE, call, *arguments), ABSENT, "{call} {arguments:?}");
                }
                let is_there = call == libc::SYS_tgkill || more.contains(&call);
                let want = if is_there { ALLOW } else { ABSENT };
                assert_eq!(run(&program, HERE, call, good[0]), want, "{call}");
            }
        }
    }

    #[test]
    fn threads_can_be_started_but_processes_cannot() {
        let flags = |flags: i32| [u64::from(flags.unsigned_abs()), 0, 0, 0, 0, 0];
        let thread =
            libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        assert_eq!(answer(libc::SYS_clone, flags(thread)), ALLOW);
        for process in [libc::SIGCHLD, libc::CLONE_VM | libc::CLONE_VFORK, libc::CLONE_NEWUSER] {
            assert_eq!(answer(libc::SYS_clone, flags(process)), ABSENT, "{process:#x}");
        }
    }

    #[test]
    fn sockets_are_of_the_families_asked_for() {
        let refused = ERRNO | libc::EAFNOSUPPORT as u32;
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            for family in 0..64_u64 {
                let unix = family == libc::AF_UNIX as u64;
                let internet = [libc::AF_INET as u64, libc::AF_INET6 as u64].contains(&family);
                let of = |families, family| verdict(families, HERE, call, [family, 1, 0, 0, 0, 0]);
                let want = |good| if good { ALLOW } else { refused };
                assert_eq!(of(Families::Unix, family), want(unix), "{family}");
                assert_eq!(of(Families::UnixAndInternet, family), want(unix || internet), "{family}");
                // The kernel takes an int, so higher bits change nothing.
                assert_eq!(of(Families::Unix, family | 1 << 32), want(unix), "{family}");
            }
        }
    }

    #[test]
    fn other_architectures_and_abis_are_refused() {
        for call in [libc::SYS_socket, libc::SYS_read, 359, 0] {
            assert_eq!(verdict(Families::Unix, I386, call, [2, 1, 0, 0, 0, 0]), KILL, "32-bit call {call}");
            assert_eq!(answer(call | X32, [2, 1, 0, 0, 0, 0]), ABSENT, "x32 call {call}");
        }
    }

    /// The numbers of aarch64 for those of x86-64, as a filter made there would have them.
    #[cfg(target_arch = "x86_64")]
    mod on_arm64 {
        use syscalls::{aarch64, x86_64};

        use super::*;

        const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
        /// 32-bit programs on such a machine.
        const AUDIT_ARCH_ARM: u32 = 0x4000_0028;
        const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

        fn name(call: i64) -> &'static str {
            x86_64::Sysno::new(usize::try_from(call).unwrap()).unwrap().name()
        }

        fn number(call: i64) -> Option<i64> {
            let name = match name(call) {
                // As the kernel's table for all newer processors has it (asm-generic/unistd.h).
                "newfstatat" => "fstatat",
                name => name,
            };
            let there: aarch64::Sysno = name.parse().ok()?;
            Some(i64::from(there.id()))
        }

        fn compiled(filter: Filter) -> BpfProgram {
            let there = |(call, rules)| number(call).map(|call| (call, rules));
            let calls = filter.calls.into_iter().filter_map(there).collect();
            Filter { calls, ..filter }.compile(TargetArch::aarch64).unwrap()
        }

        #[test]
        fn only_the_older_names_are_missing() {
            let lists = [ALLOWED, STAT, READING, FORBIDDEN].concat();
            let missing: Vec<_> =
                lists.into_iter().filter(|call| number(*call).is_none()).map(name).collect();
            assert_eq!(missing, [""; 0], "these do not compile for aarch64");
            let known: Vec<_> =
                OLDER.iter().filter(|call| number(**call).is_some()).map(|call| name(*call)).collect();
            assert_eq!(known, [""; 0], "aarch64 has these, which belong into the list of all processors");
        }

        #[test]
        fn the_filters_have_the_same_answers() {
            let programs = filters(Families::Unix).unwrap().map(compiled);
            let answer = |call, args| strictest(&programs, AUDIT_ARCH_AARCH64, number(call).unwrap(), args);
            let allowed: Vec<i64> = ALLOWED.iter().filter_map(|call| number(*call)).collect();
            let bounded: Vec<i64> = bounded().unwrap().into_keys().filter_map(number).collect();
            let created =
                [libc::SYS_socket, libc::SYS_socketpair, libc::SYS_clone].map(|call| number(call).unwrap());
            for number in 0..1000 {
                let got = strictest(&programs, AUDIT_ARCH_AARCH64, number, [0; 6]);
                if allowed.contains(&number) {
                    assert_eq!(got, ALLOW, "{number}");
                } else if !bounded.contains(&number) && !created.contains(&number) {
                    assert_eq!(got, ABSENT, "{number}");
                }
            }
            for call in FORBIDDEN {
                assert_eq!(answer(*call, [0; 6]), ABSENT, "{}", name(*call));
            }
            let family = |family: i32| [u64::from(family.unsigned_abs()), 1, 0, 0, 0, 0];
            assert_eq!(answer(libc::SYS_socket, family(libc::AF_UNIX)), ALLOW);
            assert_eq!(answer(libc::SYS_socket, family(libc::AF_INET)), ERRNO | libc::EAFNOSUPPORT as u32);
            assert_eq!(answer(libc::SYS_clone, family(libc::CLONE_THREAD)), ALLOW);
            assert_eq!(answer(libc::SYS_clone, family(libc::SIGCHLD)), ABSENT);
            let observer = compiled(only(STAT, &[]).unwrap());
            let reads = number(libc::SYS_openat).unwrap();
            assert_eq!(run(&observer, AUDIT_ARCH_AARCH64, reads, [0; 6]), ABSENT);
        }

        #[test]
        fn calls_of_other_processors_are_refused() {
            for filter in
                filters(Families::UnixAndInternet).unwrap().into_iter().chain([only(STAT, &[]).unwrap()])
            {
                let program = compiled(filter);
                for arch in [AUDIT_ARCH_ARM, AUDIT_ARCH_X86_64, I386] {
                    for call in [0, 63, 198, libc::SYS_read] {
                        assert_eq!(run(&program, arch, call, [0; 6]), KILL, "{arch:#x} {call}");
                    }
                }
            }
        }
    }
}
