//! The kernel's security modules, as far as they judge what containers do: AppArmor by profiles, SELinux by types.

use std::ops::Range;

use super::check::kernel::{KernelFile, KernelFiles};
use super::check::{Check, Checked};

/// The profile in `apparmor/` of this project, which allows mounts.
pub const SYSTEMD_PROFILE: &str = "usernsd-systemd";

/// The default profiles of containerd, CRI-O, podman and Docker, which forbid every mount. That of podman has a version
/// behind it.
const DEFAULT_PROFILES: [&str; 4] =
    ["cri-containerd.apparmor.d", "crio-default", "containers-default-", "docker-default"];

/// The profile that is enforced according to a process's label or a line of the kernel's list, `PROFILE (enforce)`. From
/// Linux 6.17 on, another profile may be stacked on it.
fn enforced(label: &str) -> Option<&str> {
    let label = label.strip_suffix(" (enforce)")?;
    Some(label.split_once("//&").map_or(label, |(first, _)| first))
}

/// The AppArmor profile of a process's label, if it is enforced and a runtime's default, so that it forbids every mount.
#[must_use]
pub fn forbids_mounts(label: &str) -> Option<&str> {
    enforced(label).filter(|profile| DEFAULT_PROFILES.iter().any(|name| profile.starts_with(name)))
}

/// The checks of the security modules.
#[must_use]
pub fn checks(files: &KernelFiles) -> [Checked; 3] {
    // The result of a check that concerns one module.
    let judged = |check: Check, module: &str, name: &str, judge: fn(&KernelFiles) -> Checked| {
        let Some(active) = files.text(KernelFile::SecurityModules) else {
            return check.skipped("/sys/kernel/security/lsm cannot be read here");
        };
        match active.split(',').any(|one| one == module) {
            true => judge(files),
            false => check.passed(format!("{name} is off")),
        }
    };
    [
        judged(Check::ApparmorProfile, "apparmor", "AppArmor", systemd_profile),
        judged(Check::ApparmorUserns, "apparmor", "AppArmor", unprivileged_userns),
        judged(Check::SelinuxCgroup, "selinux", "SELinux", cgroup_boolean),
    ]
}

fn systemd_profile(files: &KernelFiles) -> Checked {
    let check = Check::ApparmorProfile;
    let Some(profiles) = files.text(KernelFile::ApparmorProfiles) else {
        return check.skipped("/sys/kernel/security/apparmor/profiles cannot be read");
    };
    if profiles.lines().filter_map(enforced).any(|profile| profile == SYSTEMD_PROFILE) {
        return check.passed(format!("the profile {SYSTEMD_PROFILE} is loaded"));
    }
    let Some(default) = profiles.lines().find_map(forbids_mounts) else {
        return check.passed("no profile of a container runtime is enforced");
    };
    check.failed(
        format!(
            "AppArmor enforces {default}, which forbids every mount: systemd in pods starts services without their \
             sandboxes (PrivateTmp, ProtectSystem), or not at all (BindPaths)"
        ),
        format!("if pods have such services, load the profile {SYSTEMD_PROFILE} (docs/apparmor.md)"),
    )
}

fn unprivileged_userns(files: &KernelFiles) -> Checked {
    let check = Check::ApparmorUserns;
    match files.text(KernelFile::RestrictUserns) {
        None => check.passed("this kernel has no kernel.apparmor_restrict_unprivileged_userns"),
        Some("0") => check.passed("kernel.apparmor_restrict_unprivileged_userns = 0"),
        Some(value) => check.failed(
            format!(
                "kernel.apparmor_restrict_unprivileged_userns is {value}: a user namespace that a program in a pod \
                 creates has no capabilities, which container engines and browsers need"
            ),
            "load an AppArmor profile with the rule \"userns,\" for that program, or sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
}

fn cgroup_boolean(files: &KernelFiles) -> Checked {
    let check = Check::SelinuxCgroup;
    match files.text(KernelFile::SelinuxEnforce) {
        None => return check.skipped("/sys/fs/selinux/enforce cannot be read"),
        Some("0") => return check.passed("SELinux is permissive"),
        Some(_) => {}
    }
    match files.text(KernelFile::ManageCgroup).and_then(|text| text.split_whitespace().next()) {
        None => check.skipped("SELinux' policy has no boolean container_manage_cgroup"),
        Some("0") => check.failed(
            "SELinux enforces, and container_manage_cgroup is off: a container of type container_t cannot change its \
             cgroup, whoever owns it",
            "setsebool -P container_manage_cgroup on, or give such containers the type container_init_t \
             (seLinuxOptions.type): docs/selinux.md",
        ),
        Some(_) => check.passed("container_manage_cgroup is on"),
    }
}

/// The SELinux label that a new file gets instead of its `own`, which the kernel has chosen; `None` if it keeps that.
///
/// It is the type of the file's directory, as it is in the policy's list of paths (file_contexts) for directories of
/// configuration. The kernel's choice also depends on the process: with Debian's policy what a service creates in a directory
/// of `/etc` is `etc_runtime_t`, which containerd may not read, and then does not start. User, role and level stay.
#[must_use]
pub fn label_in(directory: &[u8], own: Option<&[u8]>) -> Option<Vec<u8>> {
    let Some(own) = own else { return Some(directory.to_vec()) };
    let (wanted, range) = (directory.get(type_in(directory)?)?, type_in(own)?);
    if own.get(range.clone())? == wanted {
        return None;
    }
    Some([own.get(..range.start)?, wanted, own.get(range.end..)?].concat())
}

/// The place of the type in a label, `user:role:type` or `user:role:type:level`, which may end with a zero byte.
fn type_in(label: &[u8]) -> Option<Range<usize>> {
    let mut ends = label.iter().enumerate().filter(|(_, byte)| matches!(byte, b':' | 0)).map(|(at, _)| at);
    let start = ends.nth(1)? + 1;
    Some(start..ends.next().unwrap_or(label.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::check::CheckOutcome;

    fn modules(active: &str) -> KernelFiles {
        [(KernelFile::SecurityModules, active)].into_iter().collect()
    }

    /// The outcome of the check: a word, and the sentence with it.
    fn outcome(files: &KernelFiles, check: Check) -> String {
        let checked = checks(files).into_iter().find(|one| one.check == check).unwrap();
        let output = match &checked.outcome {
            CheckOutcome::Passed(output) | CheckOutcome::Skipped(output) => output.clone(),
            CheckOutcome::Failed(problems) => problems[0].what.clone(),
        };
        format!("{}: {output}", checked.word())
    }

    #[test]
    fn a_new_file_gets_the_type_of_its_directory_and_keeps_the_rest_of_its_label() {
        let label = |directory: &str, own: Option<&str>| {
            let label = label_in(directory.as_bytes(), own.map(str::as_bytes));
            label.map(|label| String::from_utf8(label).unwrap())
        };
        let etc = "system_u:object_r:etc_t:s0\0";
        let runtime = "unconfined_u:object_r:etc_runtime_t:s0:c1,c2\0";
        assert_eq!(label(etc, Some(runtime)).unwrap(), "unconfined_u:object_r:etc_t:s0:c1,c2\0");
        assert_eq!(label("a:b:c", Some("d:e:f")).unwrap(), "d:e:c");
        assert_eq!(label("a:b:c\0", Some("d:e:f:s0")).unwrap(), "d:e:c:s0");
        // SELinux is off: the directory's is what there is.
        assert_eq!(label(etc, None).unwrap(), etc);
        for keeps in ["unconfined_u:object_r:etc_t:s0\0", "system_u:object_r:etc_t", "no label", ""] {
            assert_eq!(label(etc, Some(keeps)), None, "{keeps}");
        }
        assert_eq!(label("no label", Some(runtime)), None);
    }

    #[test]
    fn nothing_is_judged_of_a_module_that_is_off_or_not_seen() {
        for (modules, word, output) in [
            (modules("capability,yama,bpf"), "pass", "is off"),
            // Names that only begin alike.
            (modules("capability,apparmor2,selinux2"), "pass", "is off"),
            (KernelFiles::default(), "skip", "cannot be read here"),
        ] {
            for check in checks(&modules).map(|one| one.check) {
                let outcome = outcome(&modules, check);
                assert!(outcome.starts_with(word) && outcome.ends_with(output), "{outcome}");
            }
        }
    }

    #[test]
    fn the_profile_for_systemd_is_missed_only_where_a_default_profile_is_enforced() {
        let with = |profiles: &str| {
            let files =
                [(KernelFile::SecurityModules, "yama,apparmor\n"), (KernelFile::ApparmorProfiles, profiles)];
            outcome(&files.into_iter().collect(), Check::ApparmorProfile)
        };
        assert!(outcome(&modules("apparmor"), Check::ApparmorProfile).starts_with("skip"));
        let default = "cri-containerd.apparmor.d (enforce)\n";
        assert!(with(default).starts_with("note: AppArmor enforces cri-containerd.apparmor.d, which"));
        assert!(with("unprivileged_userns (enforce)\ncrio-default (enforce)\n").contains("crio-default"));
        for profiles in [
            "",
            "lsb_release (enforce)\n",
            "crio-default (complain)\n",
            &format!("{default}usernsd-systemd (enforce)\n"),
        ] {
            assert!(with(profiles).starts_with("pass"), "{profiles}");
        }
        assert!(with(&format!("{default}usernsd-systemd (complain)\n")).starts_with("note"));
    }

    #[test]
    fn a_label_is_enforced_whatever_is_stacked_on_it() {
        for (label, want) in [
            ("cri-containerd.apparmor.d (enforce)", Some("cri-containerd.apparmor.d")),
            ("crio-default//&unprivileged_userns (enforce)", Some("crio-default")),
            ("containers-default-0.67.1 (enforce)", Some("containers-default-0.67.1")),
            ("crio-default (complain)", None),
            ("usernsd-systemd (enforce)", None),
            ("unconfined", None),
            ("system_u:system_r:container_t:s0:c1,c2", None),
        ] {
            assert_eq!(forbids_mounts(label), want, "{label}");
        }
    }

    #[test]
    fn the_restriction_of_user_namespaces_is_named_where_it_is_set() {
        let with = |value: Option<&str>| {
            let value = value.map(|value| (KernelFile::RestrictUserns, value));
            let files = value.into_iter().chain([(KernelFile::SecurityModules, "apparmor")]);
            outcome(&files.collect(), Check::ApparmorUserns)
        };
        assert!(with(None).starts_with("pass") && with(Some("0\n")).starts_with("pass"));
        assert!(with(Some("1\n")).starts_with("note: kernel.apparmor_restrict_unprivileged_userns is 1:"));
    }

    #[test]
    fn the_boolean_matters_only_while_selinux_enforces() {
        let with = |enforce: Option<&str>, boolean: Option<&str>| {
            let files = [
                (KernelFile::SecurityModules, Some("yama,selinux")),
                (KernelFile::SelinuxEnforce, enforce),
                (KernelFile::ManageCgroup, boolean),
            ];
            let files = files.into_iter().filter_map(|(file, text)| Some((file, text?)));
            outcome(&files.collect(), Check::SelinuxCgroup)
        };
        assert!(
            with(Some("1"), Some("0 1"))
                .starts_with("note: SELinux enforces, and container_manage_cgroup is off")
        );
        for (enforce, boolean, want) in [
            (Some("0"), Some("0 0"), "pass: SELinux is permissive"),
            (Some("1"), Some("1 0"), "pass: container_manage_cgroup is on"),
            (Some("1"), None, "skip: SELinux' policy has no boolean container_manage_cgroup"),
            (None, Some("0 0"), "skip: /sys/fs/selinux/enforce cannot be read"),
        ] {
            assert_eq!(with(enforce, boolean), want);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic(text in any::<String>()) {
            let texts = KernelFile::ALL.map(|file| match file {
                KernelFile::SecurityModules => (file, format!("apparmor,selinux,{text}")),
                _ => (file, text.clone()),
            });
            let _ = checks(&texts.into_iter().collect());
        }
    }
}
