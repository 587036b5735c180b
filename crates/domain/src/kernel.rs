//! Requirements on the kernel and its mounts: findings, and the planned setting in `/etc/sysctl.d` if one is
//! needed.

use super::finding::{Finding, FindingId};
use super::mountinfo::{MountInfo, has_option};

/// The file for the setting.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/99-usernsd.conf";

/// The value that is set if user namespaces are switched off: the one that Talos documents, enough for thousands of
/// pods.
const USER_NAMESPACES: u64 = 11255;

/// How cgroups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupSetup {
    /// cgroup v2 at `/sys/fs/cgroup`.
    Unified {
        /// Mounted with `nsdelegate`: cgroup namespaces are delegation boundaries.
        nsdelegate: bool,
    },
    /// cgroup v1, or both.
    Legacy,
    Unknown,
}

/// Whether a file system supports ID-mapped mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdMapped {
    /// `mount_setattr` with `MOUNT_ATTR_IDMAP` was tried and succeeded.
    Yes,
    /// Tried and refused, or never supported by this type of file system.
    No,
    /// Not tried, because that was impossible.
    Unknown,
}

/// The result of trying a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountTrial {
    /// Whether it supports ID-mapped mounts.
    pub mapped: IdMapped,
    /// The system call that failed, and its error; empty if none did.
    pub why: String,
}

/// A file system that contains pods' files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStore {
    /// The directory of interest.
    pub path: String,
    /// The type of the file system.
    pub kind: String,
    /// Whether it supports ID-mapped mounts.
    pub mapped: IdMapped,
    /// Why not, or why that is unknown; empty if nothing is known about it.
    pub why: String,
}

/// The last file of sysctl.d(5) that sets `user.max_user_namespaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtBoot {
    pub value: u64,
    pub file: String,
    /// From 1.
    pub line: usize,
}

/// The facts about the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// `user.max_user_namespaces`; `None` if it could not be read.
    pub max_user_namespaces: Option<u64>,
    /// Its value after the next boot, if a file sets it.
    pub at_boot: Option<AtBoot>,
    /// How cgroups are mounted.
    pub cgroup: CgroupSetup,
    /// Whether the mount options of `/proc` hide processes from root without `CAP_SYS_PTRACE`; `None` if they could not be
    /// read.
    pub hides_processes: Option<bool>,
    /// Whether `/proc/pressure` exists.
    pub psi: Option<bool>,
    /// The file systems of the kubelet's directory and the container storage.
    pub stores: Vec<PodStore>,
}

/// The mount table (`/proc/PID/mountinfo`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountTable(Vec<Mount>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    options: String,
}

// === impl MountTable ===

impl MountTable {
    /// Parses a mount table; malformed lines are skipped.
    #[must_use]
    pub fn parse(text: &str) -> MountTable {
        let mount = |line| {
            let MountInfo { point, kind, super_options, .. } = MountInfo::parse(line)?;
            Some(Mount {
                point: point.into_owned(),
                kind: kind.to_owned(),
                options: super_options.to_owned(),
            })
        };
        MountTable(text.lines().filter_map(mount).collect())
    }

    /// How cgroups are mounted.
    #[must_use]
    pub fn cgroup(&self) -> CgroupSetup {
        // The last mount on a mount point hides the others.
        match self.0.iter().rev().find(|mount| mount.point == "/sys/fs/cgroup") {
            Some(mount) if mount.kind == "cgroup2" => {
                CgroupSetup::Unified { nsdelegate: has_option(&mount.options, "nsdelegate") }
            }
            Some(_) => CgroupSetup::Legacy,
            None => CgroupSetup::Unknown,
        }
    }

    /// The type of the file system that contains a directory.
    #[must_use]
    pub fn kind_of(&self, path: &str) -> Option<&str> {
        let holds = |mount: &&Mount| {
            let point = mount.point.trim_end_matches('/');
            path == point || path.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'))
        };
        let deepest = self.0.iter().filter(holds).max_by_key(|mount| mount.point.trim_end_matches('/').len());
        deepest.map(|mount| mount.kind.as_str())
    }

    /// The file system of a directory, judged by its type alone: network file systems do not support ID-mapped mounts
    /// (Kubernetes' and OpenShift's documentation), everything else has to be tried.
    #[must_use]
    pub fn store(&self, path: &str) -> Option<PodStore> {
        const NEVER: [&str; 4] = ["nfs", "nfs4", "cifs", "hugetlbfs"];
        let kind = self.kind_of(path)?;
        let mapped = if NEVER.contains(&kind) { IdMapped::No } else { IdMapped::Unknown };
        Some(PodStore { path: path.to_owned(), kind: kind.to_owned(), mapped, why: String::new() })
    }
}

/// The findings for a node with that many pods.
#[must_use]
pub fn findings(kernel: &Kernel, pods: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let remedy = "run usernsd bootstrap with --apply-sysctl";
    match kernel.max_user_namespaces {
        Some(0) => {
            let what = "user.max_user_namespaces is 0: no pod can have a user namespace".to_owned();
            found.push(Finding::error(FindingId::MaxUserNamespaces, what, remedy));
        }
        Some(max) if max < pods => {
            let what = format!("user.max_user_namespaces is {max}, and the node may run {pods} pods");
            found.push(Finding::warning(FindingId::MaxUserNamespaces, what, remedy));
        }
        Some(_) => {}
        None => {
            let what =
                "this kernel has no user.max_user_namespaces: user namespaces are not built in".to_owned();
            found.push(Finding::error(
                FindingId::MaxUserNamespaces,
                what,
                "boot a kernel with CONFIG_USER_NS",
            ));
        }
    }
    found.extend(boot_finding(kernel.max_user_namespaces, kernel.at_boot.as_ref(), pods));
    match kernel.cgroup {
        CgroupSetup::Unified { nsdelegate: true } => {}
        CgroupSetup::Unified { nsdelegate: false } => {
            let what =
                "cgroup2 is mounted without nsdelegate: a container with a writable cgroup and no user \
                        namespace could lift its own limits"
                    .to_owned();
            found.push(Finding::error(
                FindingId::Nsdelegate,
                what,
                "mount -o remount,nsdelegate /sys/fs/cgroup",
            ));
        }
        CgroupSetup::Legacy => {
            let what = "cgroup v1 is mounted: no container can own its cgroup".to_owned();
            found.push(Finding::error(
                FindingId::CgroupV1,
                what,
                "boot with systemd.unified_cgroup_hierarchy=1",
            ));
        }
        CgroupSetup::Unknown => {
            let what = "nothing is mounted on /sys/fs/cgroup".to_owned();
            found.push(Finding::warning(FindingId::CgroupUnknown, what, "run this on the node"));
        }
    }
    if kernel.psi == Some(false) {
        found.push(Finding {
            remedy: "boot with psi=1".to_owned(),
            ..Finding::note(FindingId::Psi, "pressure stall information is off".to_owned())
        });
    }
    found.extend(kernel.stores.iter().filter_map(store_finding));
    found
}

/// The last assignment of `user.max_user_namespaces` in these files, each with its path, in the order in which they are
/// read.
#[must_use]
pub fn at_boot(files: &[(String, String)]) -> Option<AtBoot> {
    let mut last = None;
    for (file, text) in files {
        for (index, line) in text.lines().enumerate() {
            let Some((key, value)) = line.split_once('=') else { continue };
            // A dash: errors do not count. Slashes and dots are equal here (sysctl.d(5)).
            let key = key.trim().trim_start_matches('-').replace('/', ".");
            if key == "user.max_user_namespaces"
                && let Ok(value) = value.trim().parse()
            {
                last = Some(AtBoot { value, file: file.clone(), line: index + 1 });
            }
        }
    }
    last
}

/// The finding that the setting lasts only until the next boot.
#[must_use]
pub fn boot_finding(now: Option<u64>, at_boot: Option<&AtBoot>, pods: u64) -> Option<Finding> {
    let AtBoot { value, file, line } = at_boot?;
    let is_low = *value < pods.max(1);
    // If the kernel's own value is as low, its finding has the remedy.
    (is_low && now.is_none_or(|now| now > *value)).then(|| {
        let what = format!(
            "line {line} of {file} is the last that sets user.max_user_namespaces at boot, to {value}, and the node may run \
             {pods} pods"
        );
        let remedy = format!("remove that line, or write {} there, and: sysctl -p {file}", pods.max(USER_NAMESPACES));
        Finding::warning(FindingId::MaxUserNamespaces, what, &remedy)
    })
}

/// The value that `user.max_user_namespaces` needs; `None` if it is large enough.
#[must_use]
pub fn wanted_user_namespaces(kernel: &Kernel, pods: u64) -> Option<u64> {
    let max = kernel.max_user_namespaces?;
    (max < pods.max(1)).then(|| pods.max(USER_NAMESPACES))
}

/// The finding about a file system; `None` if it supports ID-mapped mounts.
#[must_use]
pub fn store_finding(store: &PodStore) -> Option<Finding> {
    let PodStore { path, kind, mapped, why } = store;
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    match mapped {
        IdMapped::Yes => None,
        IdMapped::No => Some(Finding::error(
            FindingId::IdmappedMounts,
            format!(
                "{path} lies on {kind}, which cannot be mounted with mapped IDs{why}: pods with a user namespace fail \
                 there"
            ),
            "move it to ext4, xfs or btrfs on Linux 6.3 or later",
        )),
        IdMapped::Unknown => {
            let what = format!("whether {path} ({kind}) can be mounted with mapped IDs is unknown{why}");
            Some(Finding::note(FindingId::IdmappedMounts, what))
        }
    }
}

/// The finding about tmpfs; `None` if it supports ID-mapped mounts, or could not be tried.
#[must_use]
pub fn tmpfs_finding(tried: &MountTrial) -> Option<Finding> {
    (tried.mapped == IdMapped::No).then(|| {
        let what = format!(
            "tmpfs cannot be mounted with mapped IDs ({}): pods with a user namespace and a Secret or a token fail",
            tried.why
        );
        Finding::error(FindingId::IdmappedTmpfs, what, "boot Linux 6.3 or later")
    })
}

/// The contents of [`SYSCTL_FILE`].
#[must_use]
pub fn sysctl_file(wanted: u64) -> String {
    format!(
        "# Written by \"usernsd bootstrap --apply-sysctl\": each pod with hostUsers: false needs one.\n\
         user.max_user_namespaces = {wanted}\n"
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw - proc proc rw
31 22 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
40 22 8:2 / /var/lib rw - xfs /dev/sdb rw
41 40 0:50 / /var/lib/kubelet rw - nfs4 host:/x rw
42 22 8:3 / /mnt/with\\040space rw - btrfs /dev/sdc rw
nonsense
";

    /// A kernel on which every check passes.
    pub(crate) fn good() -> Kernel {
        Kernel {
            max_user_namespaces: Some(60000),
            at_boot: None,
            cgroup: CgroupSetup::Unified { nsdelegate: true },
            hides_processes: Some(false),
            psi: Some(true),
            stores: vec![PodStore {
                path: "/x".into(),
                kind: "xfs".into(),
                mapped: IdMapped::Yes,
                why: String::new(),
            }],
        }
    }

    #[test]
    fn the_mount_table_is_parsed() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.cgroup(), CgroupSetup::Unified { nsdelegate: true });
        for (path, kind) in [
            ("/var/lib/kubelet", "nfs4"),
            ("/var/lib/kubelet/pods", "nfs4"),
            ("/var/lib/kubeletx", "xfs"),
            ("/var/lib/containers", "xfs"),
            ("/etc", "ext4"),
            ("/mnt/with space/x", "btrfs"),
        ] {
            assert_eq!(table.kind_of(path), Some(kind), "{path}");
        }
        assert_eq!(table.store("/var/lib/kubelet").unwrap().mapped, IdMapped::No);
        assert_eq!(table.store("/var/lib/containers").unwrap().mapped, IdMapped::Unknown);
        let plain = TABLE.replace("nsdelegate,", "");
        assert_eq!(MountTable::parse(&plain).cgroup(), CgroupSetup::Unified { nsdelegate: false });
        let old = "31 22 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 x rw";
        assert_eq!(MountTable::parse(old).cgroup(), CgroupSetup::Legacy);
        assert_eq!(MountTable::parse("").cgroup(), CgroupSetup::Unknown);
    }

    #[test]
    fn each_problem_has_a_finding() {
        assert_eq!(findings(&good(), 250), []);
        type Spoil = fn(&mut Kernel);
        let cases: [(Spoil, FindingId, &str); 8] = [
            (|k| k.max_user_namespaces = Some(0), FindingId::MaxUserNamespaces, "error"),
            (|k| k.max_user_namespaces = Some(100), FindingId::MaxUserNamespaces, "warning"),
            (|k| k.max_user_namespaces = None, FindingId::MaxUserNamespaces, "error"),
            (|k| k.cgroup = CgroupSetup::Unified { nsdelegate: false }, FindingId::Nsdelegate, "error"),
            (|k| k.cgroup = CgroupSetup::Legacy, FindingId::CgroupV1, "error"),
            (|k| k.psi = Some(false), FindingId::Psi, "note"),
            (|k| k.stores[0].mapped = IdMapped::No, FindingId::IdmappedMounts, "error"),
            (|k| k.stores[0].mapped = IdMapped::Unknown, FindingId::IdmappedMounts, "note"),
        ];
        for (spoil, id, severity) in cases {
            let mut kernel = good();
            spoil(&mut kernel);
            let found = findings(&kernel, 250);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].id, found[0].severity.name()), (id, severity));
        }
    }

    #[test]
    fn a_finding_has_the_reason_why_a_store_cannot_be_mapped() {
        let store = |mapped| PodStore {
            path: "/x".into(),
            kind: "nfs4".into(),
            mapped,
            why: "mount_setattr: EINVAL".into(),
        };
        assert_eq!(store_finding(&store(IdMapped::Yes)), None);
        for mapped in [IdMapped::No, IdMapped::Unknown] {
            let output = store_finding(&store(mapped)).unwrap().to_string();
            assert!(output.contains("/x") && output.contains("(mount_setattr: EINVAL)"), "{output}");
        }
        let tried = |mapped| MountTrial { mapped, why: "mount_setattr: EINVAL".into() };
        assert_eq!(tmpfs_finding(&tried(IdMapped::Unknown)), None);
        assert!(tmpfs_finding(&tried(IdMapped::No)).unwrap().to_string().contains("EINVAL"));
    }

    #[test]
    fn the_last_file_that_sets_the_sysctl_counts_at_boot() {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let ours = file("/etc/sysctl.d/99-usernsd.conf", &sysctl_file(11255));
        assert_eq!(at_boot(&[]), None);
        let good = at_boot(std::slice::from_ref(&ours)).unwrap();
        assert_eq!((good.value, good.line), (11255, 2));
        for text in ["a=1\nuser.max_user_namespaces=0\n", "#\n-user/max_user_namespaces = 0"] {
            let last = at_boot(&[ours.clone(), file("/etc/sysctl.conf", text)]).unwrap();
            assert_eq!((last.value, last.line, last.file.as_str()), (0, 2, "/etc/sysctl.conf"));
            let found = boot_finding(Some(11255), Some(&last), 110).unwrap();
            assert!(found.what.contains("line 2 of /etc/sysctl.conf"), "{found}");
            assert!(found.remedy.ends_with("sysctl -p /etc/sysctl.conf"), "{found}");
            assert_eq!(boot_finding(Some(0), Some(&last), 110), None);
        }
        for text in
            ["# user.max_user_namespaces=0", "user.max_user_namespaces_x=0", "user.max_user_namespaces=x"]
        {
            assert_eq!(at_boot(&[ours.clone(), file("/x", text)]), Some(good.clone()), "{text}");
        }
        assert_eq!(boot_finding(Some(60000), Some(&good), 110), None);
        let spoiled =
            Kernel { at_boot: at_boot(&[file("/x", "user.max_user_namespaces=1")]), ..self::good() };
        assert_eq!(findings(&spoiled, 110).len(), 1);
    }

    #[test]
    fn a_sysctl_is_written_only_if_needed() {
        let wanted = |max, pods| wanted_user_namespaces(&Kernel { max_user_namespaces: max, ..good() }, pods);
        assert_eq!(wanted(Some(60000), 250), None);
        assert_eq!(wanted(None, 250), None);
        assert_eq!(wanted(Some(0), 250), Some(11255));
        assert_eq!(wanted(Some(0), 0), Some(11255));
        assert_eq!(wanted(Some(11255), 20000), Some(20000));
        assert!(sysctl_file(11255).ends_with("\nuser.max_user_namespaces = 11255\n"));
    }

    proptest! {
        #[test]
        fn any_input_is_parsed_without_panic(text in any::<String>(), path in any::<String>()) {
            let table = MountTable::parse(&text);
            let _ = (table.cgroup(), table.store(&path));
        }
    }
}
