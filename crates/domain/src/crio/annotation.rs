//! The annotations that `allowed_annotations` may name, by version
//! (`pkg/annotations`, `AllAllowedAnnotations`, at every tag from 1.20.0 to 1.36.3 and main).
//!
//! An unknown name in a workload or in the default handler keeps CRI-O from starting.

use super::CrioVersion;

/// A writable cgroup: the old name (1.23.0) and the new one (1.35.0).
pub const CGROUP: [&str; 2] =
    ["io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", "cgroup2-mount-hierarchy-rw.crio.io"];

/// A user namespace by annotation: the old name (1.20.0) and the new one (1.35.0).
pub const USERNS_MODE: [&str; 2] = ["io.kubernetes.cri-o.userns-mode", "userns-mode.crio.io"];

/// A name, and the first release of each branch that supports it.
type Known = (&'static str, &'static [(u16, u16)]);

const NAMES: &[Known] = &[
    ("io.kubernetes.cri-o.userns-mode", &[(21, 0)]),
    ("io.kubernetes.cri-o.Devices", &[(21, 0)]),
    ("io.kubernetes.cri-o.ShmSize", &[(21, 0)]),
    ("io.kubernetes.cri-o.UnifiedCgroup", &[(21, 0)]),
    ("io.containers.trace-syscall", &[(21, 0)]),
    ("cpu-load-balancing.crio.io", &[(21, 0)]),
    ("cpu-quota.crio.io", &[(21, 0)]),
    ("irq-load-balancing.crio.io", &[(21, 0)]),
    ("io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel", &[(21, 4), (22, 1)]),
    ("io.kubernetes.cri.rdt-class", &[(22, 0)]),
    ("io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", &[(23, 0)]),
    ("cpu-c-states.crio.io", &[(25, 0)]),
    ("cpu-freq-governor.crio.io", &[(25, 0)]),
    ("io.kubernetes.cri-o.seccompNotifierAction", &[(26, 0)]),
    ("io.kubernetes.cri-o.LinkLogs", &[(26, 4), (27, 1)]),
    ("io.kubernetes.cri-o.umask", &[(27, 0)]),
    ("bundle", RUNTIMES_OWN),
    ("org.systemd.property.", RUNTIMES_OWN),
    ("org.criu.config", RUNTIMES_OWN),
    ("module.wasm.image/variant", RUNTIMES_OWN),
    ("io.kubernetes.cri.container-type", RUNTIMES_OWN),
    ("run.oci.", RUNTIMES_OWN),
    ("io.kubernetes.cri-o.PodLinuxOverhead", &[(28, 0)]),
    ("io.kubernetes.cri-o.PodLinuxResources", &[(28, 0)]),
    ("cpu-shared.crio.io", &[(28, 3)]),
    ("io.kubernetes.cri-o.DisableFIPS", &[(30, 0)]),
    ("seccomp-profile.kubernetes.cri-o.io", &[(30, 0)]),
    ("io.kubernetes.cri-o.PlatformRuntimePath", &[(35, 0)]),
    ("io.kubernetes.cri-o.Spoofed", &[(35, 0)]),
    ("org.opencontainers.image.stopSignal", &[(35, 0)]),
    ("cgroup2-mount-hierarchy-rw.crio.io", &[(35, 0)]),
    ("devices.crio.io", &[(35, 0)]),
    ("disable-fips.crio.io", &[(35, 0)]),
    ("link-logs.crio.io", &[(35, 0)]),
    ("platform-runtime-path.crio.io", &[(35, 0)]),
    ("pod-linux-overhead.crio.io", &[(35, 0)]),
    ("pod-linux-resources.crio.io", &[(35, 0)]),
    ("seccomp-notifier-action.crio.io", &[(35, 0)]),
    ("seccomp-profile.crio.io", &[(35, 0)]),
    ("shm-size.crio.io", &[(35, 0)]),
    ("spoofed.crio.io", &[(35, 0)]),
    ("try-skip-volume-selinux-label.crio.io", &[(35, 0)]),
    ("umask.crio.io", &[(35, 0)]),
    ("unified-cgroup.crio.io", &[(35, 0)]),
    ("userns-mode.crio.io", &[(35, 0)]),
];

/// The OCI runtimes' own annotations were allowed in patch releases, but not in 1.28.0 and 1.29.0.
const RUNTIMES_OWN: &[(u16, u16)] = &[(27, 6), (28, 6), (29, 4), (30, 0)];

/// Whether that version accepts the name in a list of allowed annotations. 1.20 accepts every name.
#[must_use]
pub fn is_known(version: CrioVersion, name: &str) -> bool {
    !version.at_least(21) || NAMES.iter().any(|(known, first)| *known == name && version.has(first))
}

/// Annotations that the built-in default handler allows (`DefaultConfig` at the last tag of each minor).
#[must_use]
pub fn built_in(version: CrioVersion) -> &'static [&'static str] {
    match () {
        () if version.at_least(35) => &["io.containers.trace-syscall", "devices.crio.io"],
        () if version.at_least(28) => &["io.containers.trace-syscall", "io.kubernetes.cri-o.Devices"],
        () if version.at_least(21) => &["io.containers.trace-syscall"],
        () => &[],
    }
}

/// The names of one annotation to use with that version: the old one, the new one, or both. After the newest version
/// implemented here only the new one, because the old ones are to be removed.
#[must_use]
pub fn names_for(version: CrioVersion, names: [&'static str; 2]) -> Vec<&'static str> {
    let [old, new] = names;
    if version.minor() > super::NEWEST_KNOWN.minor() {
        return vec![new];
    }
    if !version.at_least(21) {
        // 1.20 accepts every name, but acted only on the old ones, and not yet on this one.
        return if old == CGROUP[0] { Vec::new() } else { vec![old] };
    }
    [old, new].into_iter().filter(|name| is_known(version, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str, name: &str) -> bool {
        is_known(CrioVersion::parse(text).unwrap(), name)
    }

    #[test]
    fn each_name_is_known_from_the_first_release_of_its_branch_on() {
        for (name, first) in NAMES {
            for (minor, patch) in *first {
                assert!(is_known(CrioVersion::new(1, *minor, *patch), name), "{name} 1.{minor}.{patch}");
                if *patch > 0 {
                    let before = CrioVersion::new(1, *minor, patch - 1);
                    assert!(!is_known(before, name), "{name} {before}");
                }
            }
            let (oldest, _) = first[0];
            if oldest > 21 {
                assert!(!is_known(CrioVersion::new(1, oldest - 1, 0), name), "{name}");
            }
        }
    }

    #[test]
    fn an_old_version_refuses_new_names() {
        for name in [CGROUP[1], USERNS_MODE[1], "devices.crio.io"] {
            assert!(!known("1.34.11", name) && known("1.35.0", name), "{name}");
            assert!(!known("1.35.0-rc.1", name), "{name}");
        }
        assert!(!known("1.22.5", CGROUP[0]) && known("1.23.0", CGROUP[0]));
        assert!(known("1.20.0", "anything"));
        assert!(!known("1.36.3", "seccomp-profile.crio.io/POD"));
    }

    #[test]
    fn names_are_those_that_the_version_supports() {
        for (text, cgroup, userns) in [
            ("1.20.7", &[][..], &USERNS_MODE[..1]),
            ("1.22.5", &[][..], &USERNS_MODE[..1]),
            ("1.23.0", &CGROUP[..1], &USERNS_MODE[..1]),
            ("1.34.11", &CGROUP[..1], &USERNS_MODE[..1]),
            ("1.35.0", &CGROUP[..], &USERNS_MODE[..]),
            ("1.37.0", &CGROUP[..], &USERNS_MODE[..]),
            ("1.38.0", &CGROUP[1..], &USERNS_MODE[1..]),
        ] {
            let version = CrioVersion::parse(text).unwrap();
            assert_eq!(names_for(version, CGROUP), cgroup, "{text}");
            assert_eq!(names_for(version, USERNS_MODE), userns, "{text}");
        }
    }

    #[test]
    fn built_in_names_are_known() {
        for minor in 20..=37 {
            let version = CrioVersion::new(1, minor, 99);
            for name in built_in(version) {
                assert!(is_known(version, name), "{version} {name}");
            }
        }
    }
}
