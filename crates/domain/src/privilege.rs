//! The capabilities of the privileged role, with their reasons. `docs/security.md` describes them.

/// The user of the exporter in the image and in the manifests, which `stateSocket.allowUids` there lets read the state.
pub const EXPORTER_UID: u32 = 60_950;

/// A capability (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// The capability's name.
    pub name: &'static str,
    /// The number (`linux/capability.h`).
    pub number: u8,
    /// The consequence of its absence.
    pub reason: &'static str,
}

/// The capabilities that the agent keeps as long as it runs; it drops all others. Each was dropped on the test node,
/// where the privileged systemd pod then failed or the lost container then ran.
pub const KEPT: [Capability; 2] = [
    Capability { name: "CAP_CHOWN", number: 0, reason: "hand a container's cgroup over" },
    Capability {
        name: "CAP_KILL",
        number: 5,
        reason: "end a container that lost its isolation, or that is to be recreated",
    },
];

/// The capabilities of the OCI hook, which the OCI runtime starts with all of its own.
pub const HOOKS: [Capability; 2] = [
    Capability { name: "CAP_CHOWN", number: 0, reason: "hand the container's cgroup over" },
    Capability {
        name: "CAP_SYS_PTRACE",
        number: 19,
        reason: "read the namespaces of the container's process",
    },
];

/// The capability of the observer, a process that the agent and the launched plugin start. It also permits writing to
/// other processes' memory, so the process that holds it can open no file.
pub const OBSERVERS: [Capability; 1] =
    [Capability { name: "CAP_SYS_PTRACE", number: 19, reason: "read the namespaces of other processes" }];
