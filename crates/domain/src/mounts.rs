//! A container's mounts, from its `/proc/PID/mountinfo`.

use super::mountinfo::{MountInfo, has_option};

/// A mount: a line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerMount {
    /// Mount point in the container.
    pub point: String,
    /// The file system's type.
    pub kind: String,
    /// The mount source, with the mounted directory of it unless that is its root.
    pub source: String,
    /// Whether the mount or its file system is read-only.
    pub read_only: bool,
    /// Whether the mount maps IDs (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
    pub id_mapped: bool,
}

/// The mounts of a container; of several on the same mount point only the last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerMounts(Vec<ContainerMount>);

/// File systems whose files the kernel generates.
const KERNELS: [&str; 9] =
    ["proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs", "debugfs", "bpf"];
/// File systems that depend on a server or another process: access to them may block forever.
const REMOTE: [&str; 8] = ["fuse", "nfs", "cifs", "smb3", "ceph", "9p", "virtiofs", "autofs"];

// === impl ContainerMounts ===

impl ContainerMounts {
    /// Parses the file's text; malformed lines are skipped.
    #[must_use]
    pub fn parse(text: &str) -> ContainerMounts {
        let mut mounts: Vec<ContainerMount> = Vec::new();
        for mount in text.lines().filter_map(MountInfo::parse).map(ContainerMount::from) {
            mounts.retain(|known| known.point != mount.point);
            mounts.push(mount);
        }
        ContainerMounts(mounts)
    }

    /// The root file system, and every mount with files of its own or of the host.
    pub fn volumes(&self) -> impl Iterator<Item = &ContainerMount> {
        self.0.iter().filter(|mount| {
            let below = |dir: &str| mount.point.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
            // Mounts with which a runtime hides or provides something there are not the pod's.
            let runtimes =
                below("/proc") || below("/sys") || (mount.kind == "tmpfs" && mount.point == "/dev");
            // A device node of the host.
            let device = below("/dev") && mount.kind == "devtmpfs";
            !KERNELS.contains(&mount.kind.as_str()) && !runtimes && !device
        })
    }

    /// Whether the path can be accessed without waiting for anything but the kernel: neither it nor a directory above
    /// it is on a network or FUSE mount.
    #[must_use]
    pub fn never_blocks(&self, path: &str) -> bool {
        let is_above = |point: &str| {
            let point = point.trim_end_matches('/');
            path == point || path.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'))
        };
        !self.0.iter().any(|mount| {
            let kind = mount.kind.as_str();
            is_above(&mount.point) && REMOTE.iter().any(|remote| kind.starts_with(remote))
        })
    }

    /// The mount at exactly that mount point.
    #[must_use]
    pub fn at(&self, point: &str) -> Option<&ContainerMount> {
        self.0.iter().find(|mount| mount.point == point)
    }
}

// === impl ContainerMount ===

impl From<MountInfo<'_>> for ContainerMount {
    fn from(mount: MountInfo<'_>) -> ContainerMount {
        let MountInfo { root, point, options, kind, source, super_options } = mount;
        ContainerMount {
            point: point.into_owned(),
            kind: kind.to_owned(),
            source: if root == "/" { source.into_owned() } else { format!("{source}[{root}]") },
            read_only: has_option(options, "ro") || has_option(super_options, "ro"),
            id_mapped: has_option(options, "idmapped"),
        }
    }
}

/// Whether /proc, mounted at `point`, hides processes from root without CAP_SYS_PTRACE (proc(5), `hidepid` and
/// `gid`). Members of the group see them; without `gid=` it is root's group.
#[must_use]
pub fn hides_processes(mountinfo: &str, point: &str) -> bool {
    let mount = MountInfo::topmost(mountinfo, point).filter(|mount| mount.kind == "proc");
    let options = mount.map_or("", |mount| mount.super_options);
    let value = |name: &str| {
        let mut all = options.split(',');
        all.find_map(|option| option.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    match value("hidepid") {
        "" | "0" | "off" => false,
        "4" | "ptraceable" => true,
        _ => !matches!(value("gid"), "" | "0"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
1 0 0:50 / / rw,relatime,idmapped - overlay overlay rw,lowerdir=/x
2 1 0:51 / /proc rw,nosuid - proc proc rw
3 2 0:52 / /proc/acpi ro - tmpfs tmpfs ro
4 1 0:53 / /dev rw - tmpfs tmpfs rw
5 4 0:54 / /dev/shm rw - tmpfs shm rw
6 4 0:6 /null /dev/null rw - devtmpfs devtmpfs rw
7 1 0:55 / /sys/fs/cgroup ro - cgroup2 cgroup rw
8 1 8:1 /data/my\\040files /srv/my\\040files rw,idmapped - ext4 /dev/sda1 rw
9 1 0:56 / /home rw - nfs4 server:/home rw
10 1 8:1 /old /etc/hosts rw - ext4 /dev/sda1 rw
11 10 8:1 /new /etc/hosts rw - ext4 /dev/sda1 ro
";

    #[test]
    fn volumes_are_distinguished_from_file_systems_of_the_kernel() {
        let mounts = ContainerMounts::parse(TEXT);
        let seen: Vec<_> =
            mounts.volumes().map(|mount| (mount.point.as_str(), mount.id_mapped, mount.read_only)).collect();
        let want = [
            ("/", true, false),
            ("/dev/shm", false, false),
            ("/srv/my files", true, false),
            ("/home", false, false),
            ("/etc/hosts", false, true),
        ];
        assert_eq!(seen, want);
        assert_eq!(mounts.at("/srv/my files").unwrap().source, "/dev/sda1[/data/my files]");
        assert_eq!(mounts.at("/etc/hosts").unwrap().source, "/dev/sda1[/new]");
    }

    #[test]
    fn remote_file_systems_are_not_accessed() {
        let mounts = ContainerMounts::parse(TEXT);
        assert!(
            mounts.never_blocks("/")
                && mounts.never_blocks("/sys/fs/cgroup")
                && mounts.never_blocks("/homes")
        );
        assert!(!mounts.never_blocks("/home") && !mounts.never_blocks("/home/a"));
        let fuse = ContainerMounts::parse("1 0 0:1 / / rw - fuse.overlayfs x rw\n");
        assert!(!fuse.never_blocks("/") && !fuse.never_blocks("/sys/fs/cgroup"));
    }

    proptest! {
        #[test]
        fn any_input_is_parsed_without_panic(text in any::<String>()) {
            let mounts = ContainerMounts::parse(&text);
            let _ = mounts.volumes().count();
        }
    }

    #[test]
    fn hidepid_hides_processes_unless_root_is_in_the_group() {
        for (options, hides) in [
            ("rw", false),
            ("rw,hidepid=invisible", false),
            ("rw,hidepid=2", false),
            ("rw,gid=0,hidepid=2", false),
            ("rw,gid=27,hidepid=off", false),
            ("rw,gid=27,hidepid=invisible", true),
            ("rw,gid=27,hidepid=1", true),
            ("rw,hidepid=ptraceable", true),
            ("rw,hidepid=4", true),
        ] {
            let line =
                |point: &str| format!("22 28 0:21 / {point} rw,relatime shared:5 - proc proc {options}\n");
            assert_eq!(hides_processes(&line("/proc"), "/proc"), hides, "{options}");
            assert!(!hides_processes(&line("/proc"), "/host/proc"), "{options}");
            // A later mount on the same mount point hides this one.
            let covered = line("/proc") + "23 28 0:22 / /proc rw - proc proc rw\n";
            assert!(!hides_processes(&covered, "/proc"), "{options}");
        }
    }
}
