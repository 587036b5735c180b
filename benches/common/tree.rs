//! Containers as the kernel sees them, without a runtime: a cgroup below a pod's, with a process in its own
//! user namespace. For benches that run in a node.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::FIXTURES;

/// The host ID of root in the containers.
pub(crate) const ROOT: u32 = 200_000;

const MOUNT: &str = "/sys/fs/cgroup";
const PODS: &str = "kubepods.slice/kubepods-besteffort.slice";

/// Processes in one user namespace, which is not the host's.
pub(crate) struct Crowd {
    holder: Child,
    shell: Child,
    /// PIDs of the sleeping processes.
    pub(crate) pids: Vec<u32>,
}

impl Crowd {
    /// Starts `count` sleeping processes, each the first of a PID namespace of its own. They see the node's
    /// mounts, including a writable cgroup2.
    pub(crate) fn new(count: usize) -> Crowd {
        let holder = Command::new("unshare").args(["--user", "sleep", "2147483647"]).spawn().unwrap();
        let outer = holder.id();
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        while namespace(&outer.to_string()) == namespace("self") {
            thread::sleep(Duration::from_millis(1));
        }
        fs::write(format!("/proc/{outer}/uid_map"), format!("0 {ROOT} 65536")).unwrap();
        fs::write(format!("/proc/{outer}/gid_map"), format!("0 {ROOT} 65536")).unwrap();
        // nsenter becomes root in the namespace, which the process that created it is not.
        let script = "i=0; while [ $i -lt $0 ]; do
            unshare --pid --fork --kill-child sleep 2147483647 & i=$((i+1)); done; wait";
        let shell = Command::new("nsenter")
            .args(["--user", "--target", &outer.to_string(), "sh", "-c", script, &count.to_string()])
            .spawn()
            .unwrap();
        let pid = shell.id();
        let mut pids: Vec<u32> = Vec::new();
        while pids.len() < count {
            thread::sleep(Duration::from_millis(5));
            pids = children(pid).into_iter().flat_map(children).collect();
        }
        Crowd { holder, shell, pids }
    }
}

/// The children of a process with one thread; none of one that has ended.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for pid in &self.pids {
            let _ = kill(Pid::from_raw(i32::try_from(*pid).unwrap()), Signal::SIGKILL);
        }
        for child in [&mut self.shell, &mut self.holder] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A container's cgroup and identity. Dropping it removes the cgroup, which its process must have left
/// before.
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) pid: u32,
    pub(crate) cgroup: PathBuf,
    slice: String,
}

impl Place {
    /// The `number`th container; each pod has ten containers. `pid` is moved into its cgroup.
    pub(crate) fn new(number: usize, pid: u32) -> Place {
        let slice = format!("kubepods-besteffort-pod{:08x}_0000.slice", number / 10);
        let id = format!("{number:064x}");
        let cgroup = PathBuf::from(format!("{MOUNT}/{PODS}/{slice}/cri-containerd-{id}.scope"));
        fs::create_dir_all(&cgroup).unwrap();
        // As systemd marks the cgroup of a delegated unit.
        rustix::fs::setxattr(&cgroup, "user.delegate", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        fs::write(cgroup.join("cgroup.procs"), pid.to_string()).unwrap();
        Place { id, pid, cgroup, slice }
    }

    /// The cgroup's path below the root of the hierarchy.
    pub(crate) fn path(&self) -> String {
        format!("/{PODS}/{}/cri-containerd-{}.scope", self.slice, self.id)
    }

    /// `linux.cgroupsPath` of the specification.
    pub(crate) fn cgroups_path(&self) -> String {
        format!("{}:cri-containerd:{}", self.slice, self.id)
    }

    /// Moves the process to another cgroup.
    pub(crate) fn leave(self) {
        fs::write(format!("{MOUNT}/exec/cgroup.procs"), self.pid.to_string()).unwrap();
    }

    /// The recorded NRI message of containerd for a container that is about to start, with this container's
    /// ID, process and cgroup.
    pub(crate) fn recorded(&self) -> Value {
        let text = fs::read(format!("{FIXTURES}/nri/containerd-2.1.9-start.json")).unwrap();
        let mut start: Value = serde_json::from_slice(&text).unwrap();
        start["container"]["id"] = json!(self.id);
        start["container"]["pid"] = json!(self.pid);
        start["container"]["linux"]["cgroups_path"] = json!(self.cgroups_path());
        start
    }

    /// The OCI specification that containerd gives a privileged container in a user namespace.
    pub(crate) fn specification(&self) -> Value {
        let start = self.recorded();
        let container = &start["container"];
        let capabilities: Vec<String> = (0..41).map(|number| format!("CAP_NUMBER_{number:02}")).collect();
        json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sleep", "2147483647"],
                "env": container["env"],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "rw"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "rw"]},
            ],
            "annotations": {
                "io.kubernetes.cri.container-name": "c",
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-id": start["pod"]["id"],
                "io.kubernetes.cri.sandbox-name": "p",
                "io.kubernetes.cri.sandbox-namespace": "default",
                "io.kubernetes.cri.sandbox-uid": "0",
            },
            "linux": {
                "cgroupsPath": self.cgroups_path(),
                "uidMappings": [{"containerID": 0, "hostID": ROOT, "size": 65536}],
                "gidMappings": [{"containerID": 0, "hostID": ROOT, "size": 65536}],
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "user"}, {"type": "network", "path": "/proc/1/ns/net"}],
                "sysctl": {},
            },
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Owner of a directory.
pub(crate) fn owner(path: &std::path::Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap())
}
