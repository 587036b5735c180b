//! What the privileged role may do, and why. `docs/security.md` tells it to people.

/// A capability (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Its name.
    pub name: &'static str,
    /// Its number (`linux/capability.h`).
    pub number: u8,
    /// What fails without it.
    pub reason: &'static str,
}

/// What the agent keeps for as long as it runs; it drops all others. Each was taken away on the test
/// node, where the privileged systemd pod then failed or the lost container then ran.
pub const KEPT: [Capability; 2] = [
    Capability { name: "CAP_CHOWN", number: 0, reason: "hand a container's cgroup over" },
    Capability {
        name: "CAP_KILL",
        number: 5,
        reason: "end a container that lost its isolation, or that is to be made anew",
    },
];

/// What the observer keeps, a process that the agent and the launched plugin start: whoever holds this
/// may also write the memory of other processes, so it is held by one that can open no file.
pub const OBSERVERS: [Capability; 1] =
    [Capability { name: "CAP_SYS_PTRACE", number: 19, reason: "read the namespaces of other processes" }];
