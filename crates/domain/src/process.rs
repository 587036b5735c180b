//! `/proc/PID/status` of a process (proc_pid_status(5)), and the names of capabilities.

use super::idmap::HostId;

/// Fields of `/proc/PID/status`, as seen by the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessStatus {
    /// `Name`: the command's name, cut by the kernel to 15 characters.
    pub name: String,
    /// `State`: the letter, such as `S`, `T` (stopped) or `Z` (zombie).
    pub state: Option<char>,
    /// `PPid`; 0 if the parent is outside the PID namespace of this `/proc`.
    pub parent: u32,
    /// `NSpid`: its PIDs, from the PID namespace of this `/proc` to its own.
    pub pids: Vec<u32>,
    /// The real user ID.
    pub real_uid: Option<HostId>,
    /// The effective user ID.
    pub uid: Option<HostId>,
    /// The effective group ID.
    pub gid: Option<HostId>,
    /// `CapEff`
    pub effective: Capabilities,
    /// `CapBnd`
    pub bounding: Capabilities,
    /// `NoNewPrivs`
    pub no_new_privileges: bool,
    /// `Seccomp`
    pub seccomp: Seccomp,
}

/// How the process's system calls are filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seccomp {
    None,
    /// Only read, write, exit and sigreturn.
    Strict,
    /// By a BPF filter.
    Filter,
    #[default]
    Unknown,
}

/// A set of capabilities (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(pub u64);

/// `linux/capability.h`, by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

// === impl Capabilities, Seccomp ===

impl Capabilities {
    /// The names without `CAP_`, in the kernel's order; a number if the name is not known.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        let name = |bit: u32| {
            let known = usize::try_from(bit).ok().and_then(|index| NAMES.get(index));
            known.map_or_else(|| bit.to_string(), |name| (*name).to_owned())
        };
        (0..64).filter(|bit| self.0 >> bit & 1 == 1).map(name).collect()
    }
}

impl Seccomp {
    /// The name in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Seccomp::None => "none",
            Seccomp::Strict => "strict",
            Seccomp::Filter => "filter",
            Seccomp::Unknown => "unknown",
        }
    }
}

// === impl ProcessStatus ===

impl ProcessStatus {
    /// Parses the file's text; missing lines leave the defaults.
    #[must_use]
    pub fn parse(text: &str) -> ProcessStatus {
        let mut status = ProcessStatus::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            // Real, effective, saved, file system.
            let id = |index| value.split_ascii_whitespace().nth(index)?.parse().ok().map(HostId);
            let mask = || Capabilities(u64::from_str_radix(value, 16).unwrap_or_default());
            match key {
                "Name" => status.name = value.to_owned(),
                "State" => status.state = value.chars().next(),
                "PPid" => status.parent = value.parse().unwrap_or_default(),
                "NSpid" => {
                    let pids = value.split_ascii_whitespace();
                    status.pids = pids.filter_map(|pid| pid.parse().ok()).collect();
                }
                "Uid" => (status.real_uid, status.uid) = (id(0), id(1)),
                "Gid" => status.gid = id(1),
                "CapEff" => status.effective = mask(),
                "CapBnd" => status.bounding = mask(),
                "NoNewPrivs" => status.no_new_privileges = value == "1",
                "Seccomp" => {
                    status.seccomp = match value {
                        "0" => Seccomp::None,
                        "1" => Seccomp::Strict,
                        "2" => Seccomp::Filter,
                        _ => Seccomp::Unknown,
                    }
                }
                _ => {}
            }
        }
        status
    }

    /// Its PIDs in the PID namespaces below that of this `/proc`, from the outermost to its own; empty if it is in
    /// that namespace itself. `None` if the kernel shows no PIDs.
    #[must_use]
    pub fn inner_pids(&self) -> Option<&[u32]> {
        self.pids.split_first().map(|(_, inner)| inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_file_is_read() {
        let text = "Name:\tsystemd-logind\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t7807\nPPid:\t7759\nUid:\t200000\t200193\t200000\t200000\n\
                    Gid:\t200000\t200081\t200000\t200000\nNSpid:\t7807\t49\nCapEff:\t00000000a80425fb\n\
                    CapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        let status = ProcessStatus::parse(text);
        assert_eq!((status.name.as_str(), status.state, status.parent), ("systemd-logind", Some('S'), 7759));
        assert_eq!((status.pids.as_slice(), status.inner_pids()), (&[7807, 49][..], Some(&[49][..])));
        assert_eq!(status.real_uid, Some(HostId(200_000)));
        assert_eq!((status.uid, status.gid), (Some(HostId(200_193)), Some(HostId(200_081))));
        assert!(status.no_new_privileges && status.seccomp == Seccomp::Filter);
        // The runtimes' default set, as `capsh --decode=00000000a80425fb` prints it.
        let default = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT \
                       MKNOD AUDIT_WRITE SETFCAP";
        assert_eq!(status.effective.names().join(" "), default);
        assert_eq!(status.bounding.names().len(), 41);
        assert_eq!(Capabilities(1 << 63).names(), ["63"]);
        let none = ProcessStatus::parse("");
        assert_eq!((none.seccomp, none.inner_pids(), none.uid), (Seccomp::Unknown, None, None));
    }
}
