//! The kernel and its mounts.

use std::collections::BTreeMap;

use super::{Category, Check, Checked, Probe};
use crate::cgroup::DelegateList;
use crate::finding::Finding;
use crate::kernel::{CgroupSetup, IdMapped, Kernel, findings};
use crate::security_module;

/// A small file of the kernel that checks judge by its text. A check that needs another one adds it here: all of them
/// are read in one place (`usernsd-linux`, `kernel_files`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelFile {
    /// The security modules that are active.
    SecurityModules,
    /// The AppArmor profiles that are loaded.
    ApparmorProfiles,
    /// `kernel.apparmor_restrict_unprivileged_userns`, which Ubuntu's kernels have.
    RestrictUserns,
    /// Whether SELinux enforces.
    SelinuxEnforce,
    /// The boolean `container_manage_cgroup`: the value, and the one that was set and is not yet used.
    ManageCgroup,
}

words! {
    /// The file's path below the node's root.
    KernelFile {
        SecurityModules = "sys/kernel/security/lsm",
        ApparmorProfiles = "sys/kernel/security/apparmor/profiles",
        RestrictUserns = "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        SelinuxEnforce = "sys/fs/selinux/enforce",
        ManageCgroup = "sys/fs/selinux/booleans/container_manage_cgroup",
    }
}

impl KernelFile {
    /// A text with which every check passes, for tests.
    #[must_use]
    pub const fn good_text(self) -> &'static str {
        match self {
            KernelFile::SecurityModules => "capability,apparmor,selinux",
            KernelFile::ApparmorProfiles => "crio-default (enforce)\nusernsd-systemd (enforce)\n",
            KernelFile::RestrictUserns => "0",
            KernelFile::SelinuxEnforce => "1",
            KernelFile::ManageCgroup => "1 1",
        }
    }
}

/// The texts of the kernel's files that could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelFiles(BTreeMap<KernelFile, String>);

// === impl KernelFiles ===

impl KernelFiles {
    /// The text of a file, without blanks around it; `None` if it could not be read.
    #[must_use]
    pub fn text(&self, file: KernelFile) -> Option<&str> {
        self.0.get(&file).map(|text| text.trim())
    }
}

impl<S: Into<String>> FromIterator<(KernelFile, S)> for KernelFiles {
    fn from_iter<T: IntoIterator<Item = (KernelFile, S)>>(texts: T) -> KernelFiles {
        KernelFiles(texts.into_iter().map(|(file, text)| (file, text.into())).collect())
    }
}

/// The facts that the checks need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    /// The facts about the kernel.
    pub kernel: Kernel,
    /// `/sys/kernel/cgroup/delegate`; `Err` if it is invalid, `None` if there is no such file.
    pub delegate_list: Probe<Option<DelegateList>>,
    /// The kernel's files that checks judge by their texts.
    pub files: KernelFiles,
    /// The finding that tmpfs, which holds Secrets, does not support ID-mapped mounts.
    pub tmpfs: Option<Finding>,
    /// Number of pods that the node may run.
    pub pods: u64,
}

#[must_use]
pub fn checks(facts: Probe<&KernelFacts>) -> Vec<Checked> {
    let facts = match facts {
        Ok(facts) => facts,
        Err(why) => return Check::all_skipped(Category::Kernel, &why),
    };
    let KernelFacts { kernel, delegate_list, files, tmpfs, pods } = facts;
    let mut found = findings(kernel, *pods);
    found.extend(tmpfs.clone());
    let max = kernel.max_user_namespaces.unwrap_or(0);
    let is_v2 = matches!(kernel.cgroup, CgroupSetup::Unified { .. });
    let of_v2 = |check: Check, checked: Checked| {
        if is_v2 { checked } else { check.skipped("cgroup v2 is not mounted") }
    };
    let mut checked = vec![
        Check::CgroupV2.judged(&found, "unified hierarchy at /sys/fs/cgroup"),
        of_v2(
            Check::CgroupNsdelegate,
            Check::CgroupNsdelegate.judged(&found, "cgroup2 is mounted with nsdelegate"),
        ),
        of_v2(Check::CgroupDelegateList, delegation(delegate_list)),
        Check::MaxUserNamespaces.judged(&found, format!("user.max_user_namespaces = {max}")),
        if max == 0 {
            Check::UserNamespacesRoom.skipped("user namespaces are switched off")
        } else {
            Check::UserNamespacesRoom
                .judged(&found, format!("room for {max}, and the node may run {pods} pods"))
        },
        mounts(kernel, Check::IdmappedMounts.judged(&found, String::new())),
        hidepid(kernel.hides_processes),
        match kernel.psi {
            None => Check::PsiEnabled.skipped("/proc/pressure could not be looked for"),
            Some(_) => Check::PsiEnabled.judged(&found, "pressure files in /proc/pressure"),
        },
    ];
    checked.extend(security_module::checks(files));
    checked
}

/// Files without which systemd in a container cannot manage its cgroup (cgroups(7), "Cgroups
/// delegation").
const NEEDED: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];

fn delegation(list: &Probe<Option<DelegateList>>) -> Checked {
    let remedy = "unmount what covers it: umount /sys/kernel/cgroup/delegate";
    match list {
        Err(why) => Check::CgroupDelegateList.failed(why.clone(), remedy),
        Ok(None) => Check::CgroupDelegateList.failed(
            "there is no /sys/kernel/cgroup/delegate: only the three files that every kernel has are handed over",
            "boot Linux 4.15 or later, and mount sysfs at /sys: mount -t sysfs sysfs /sys",
        ),
        Ok(Some(list)) => {
            let missing: Vec<&str> =
                NEEDED.into_iter().filter(|name| !list.files().any(|file| file == *name)).collect();
            let names: Vec<&str> = list.files().collect();
            if missing.is_empty() {
                Check::CgroupDelegateList.passed(names.join(", "))
            } else {
                let what = format!("/sys/kernel/cgroup/delegate does not list {}", missing.join(", "));
                Check::CgroupDelegateList.failed(what, remedy)
            }
        }
    }
}

fn hidepid(hides_processes: Option<bool>) -> Checked {
    match hides_processes {
        None => Check::ProcHidepid.skipped("the mount table could not be read"),
        Some(false) => Check::ProcHidepid.passed("/proc is mounted so that root sees every process"),
        Some(true) => Check::ProcHidepid.failed(
            "/proc is mounted with hidepid= and gid=, or with hidepid=ptraceable, so the agent keeps CAP_SYS_PTRACE \
             itself and may write the memory of every process, and every file that its mounts permit",
            "mount -o remount,hidepid=0,gid=0 /proc, and restart the agent",
        ),
    }
}

/// Passes only if each file system was tried.
fn mounts(kernel: &Kernel, judged: Checked) -> Checked {
    if judged.is_failed() {
        return judged;
    }
    let named = |mapped| -> Vec<String> {
        let stores = kernel.stores.iter().filter(|store| store.mapped == mapped);
        stores.map(|store| format!("{} ({})", store.path, store.kind)).collect()
    };
    let (tried, untried) = (named(IdMapped::Yes), named(IdMapped::Unknown));
    match (tried.as_slice(), untried.as_slice()) {
        ([], []) => {
            Check::IdmappedMounts.skipped("there is no directory of a kubelet or of container storage")
        }
        (_, []) => Check::IdmappedMounts.passed(tried.join(", ")),
        (_, _) => Check::IdmappedMounts.skipped(format!("could not be tried: {}", untried.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckOutcome;

    /// Replaces one text, or removes it.
    fn set(facts: &mut KernelFacts, file: KernelFile, text: Option<&str>) {
        let others = KernelFile::ALL.into_iter().filter(|other| *other != file);
        let others = others.map(|other| (other, Some(other.good_text())));
        let all = others.chain([(file, text)]);
        facts.files = all.filter_map(|(file, text)| Some((file, text?))).collect();
    }

    fn good() -> KernelFacts {
        KernelFacts {
            kernel: crate::kernel::tests::good(),
            delegate_list: Ok(
                DelegateList::parse("cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n").ok()
            ),
            files: KernelFile::ALL.map(|file| (file, file.good_text())).into_iter().collect(),
            tmpfs: None,
            pods: 110,
        }
    }

    /// The checks that do not pass, each with its word.
    fn bad(facts: &KernelFacts) -> Vec<String> {
        let checked = checks(Ok(facts));
        assert!(Check::of_category(Category::Kernel).eq(checked.iter().map(|one| one.check)));
        let bad = checked.iter().filter(|one| one.word() != "pass");
        bad.map(|one| format!("{} {}", one.check.name(), one.word())).collect()
    }

    #[test]
    fn each_check_fails_alone_if_its_cause_is_present() {
        assert_eq!(bad(&good()), Vec::<String>::new());
        type Spoil = fn(&mut KernelFacts);
        let cases: &[(Spoil, &[&str])] = &[
            (
                |f| f.kernel.cgroup = CgroupSetup::Legacy,
                &["cgroup_v2 fail", "cgroup_nsdelegate skip", "cgroup_delegate_list skip"],
            ),
            (
                |f| f.kernel.cgroup = CgroupSetup::Unknown,
                &["cgroup_v2 fail", "cgroup_nsdelegate skip", "cgroup_delegate_list skip"],
            ),
            (|f| f.kernel.cgroup = CgroupSetup::Unified { nsdelegate: false }, &["cgroup_nsdelegate fail"]),
            (|f| f.delegate_list = Ok(None), &["cgroup_delegate_list warn"]),
            (
                |f| f.delegate_list = Ok(DelegateList::parse("cgroup.procs\n").ok()),
                &["cgroup_delegate_list warn"],
            ),
            (|f| f.delegate_list = Err("bad".into()), &["cgroup_delegate_list warn"]),
            (
                |f| f.kernel.max_user_namespaces = Some(0),
                &["max_user_namespaces fail", "user_namespaces_room skip"],
            ),
            (
                |f| f.kernel.max_user_namespaces = None,
                &["max_user_namespaces fail", "user_namespaces_room skip"],
            ),
            (|f| f.kernel.max_user_namespaces = Some(109), &["user_namespaces_room warn"]),
            (|f| f.kernel.stores[0].mapped = IdMapped::No, &["idmapped_mounts fail"]),
            (|f| f.kernel.stores[0].mapped = IdMapped::Unknown, &["idmapped_mounts skip"]),
            (|f| f.kernel.stores.clear(), &["idmapped_mounts skip"]),
            (|f| f.kernel.hides_processes = Some(true), &["proc_hidepid warn"]),
            (|f| f.kernel.hides_processes = None, &["proc_hidepid skip"]),
            (|f| f.kernel.psi = Some(false), &["psi_enabled note"]),
            (
                |f| set(f, KernelFile::ApparmorProfiles, Some("crio-default (enforce)")),
                &["apparmor_profile note"],
            ),
            (|f| set(f, KernelFile::RestrictUserns, Some("1")), &["apparmor_userns note"]),
            (|f| set(f, KernelFile::ManageCgroup, Some("0 0")), &["selinux_cgroup note"]),
            (
                |f| set(f, KernelFile::SecurityModules, None),
                &["apparmor_profile skip", "apparmor_userns skip", "selinux_cgroup skip"],
            ),
        ];
        for (spoil, want) in cases {
            let mut facts = good();
            spoil(&mut facts);
            assert_eq!(bad(&facts), *want);
        }
        let skipped = checks(Err("no /proc".into()));
        assert!(
            skipped.len() == Check::of_category(Category::Kernel).count()
                && skipped.iter().all(|one| one.outcome == CheckOutcome::Skipped("no /proc".into()))
        );
    }
}
