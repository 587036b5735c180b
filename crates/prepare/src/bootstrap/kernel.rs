//! Requirements on the kernel: reported, and planned if a setting can be written.

use std::collections::BTreeMap;

use super::runtime::{containerd_directories, is_running_system};
use super::{BootstrapError, OnManaged, Part};
use crate::idmapped_mounts;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::kernel::{self, AtBoot, Kernel, SYSCTL_FILE};
use usernsd_domain::owned_files;
use usernsd_domain::provision::{FileChange, HostPath};
use usernsd_linux::host::HostRoot;
use usernsd_linux::proc::Proc;

/// Without a mounted /proc nothing is known of the kernel: the root is that of a node under construction.
const SEEN: HostPath = HostPath::fixed("proc/1/mountinfo");

/// Directories of kernel settings, the most important first: a file hides those of the same name in later ones
/// (sysctl.d(5)).
const SETTINGS: [HostPath; 5] = [
    HostPath::fixed("etc/sysctl.d"),
    HostPath::fixed("run/sysctl.d"),
    HostPath::fixed("usr/local/lib/sysctl.d"),
    HostPath::fixed("usr/lib/sysctl.d"),
    HostPath::fixed("lib/sysctl.d"),
];
/// `sysctl --system` and systems without systemd read it after all others (sysctl(8)).
const LAST: HostPath = HostPath::fixed("etc/sysctl.conf");

/// The last setting of the number of user namespaces in the node's files, after these changes. Files that cannot be read
/// are skipped.
#[must_use]
pub fn at_boot(root: &HostRoot, changes: &[FileChange]) -> Option<AtBoot> {
    let mut paths = BTreeMap::new();
    for directory in &SETTINGS {
        for name in
            root.list(directory).unwrap_or_default().into_iter().filter(|name| name.ends_with(".conf"))
        {
            if let Ok(path) = directory.join(&name) {
                paths.entry(name).or_insert(path);
            }
        }
    }
    for change in changes.iter().filter(|change| change.path.parent().as_ref() == SETTINGS.first()) {
        paths.insert(change.path.name().to_owned(), change.path.clone());
    }
    let text = |path: HostPath| {
        let new = changes.iter().find(|change| change.path == path).and_then(|change| change.new.clone());
        let bytes = new.or_else(|| root.read(&path).ok().flatten())?;
        Some((path.to_string(), String::from_utf8_lossy(&bytes).into_owned()))
    };
    let files: Vec<_> = paths.into_values().chain([LAST]).filter_map(text).collect();
    kernel::at_boot(&files)
}

/// Checks the kernel and plans its setting, for a node of `pods` pods.
///
/// # Errors
/// A file cannot be read.
pub fn plan(root: &HostRoot, pods: u64, apply: bool) -> Result<Part, BootstrapError> {
    let mut part = Part { on_managed: OnManaged::Leave, ..Part::default() };
    if !root.has(&SEEN)? {
        if apply {
            let what = format!("there is no /proc below the root: {SYSCTL_FILE} is not written");
            let remedy = "run it on the node itself: its kernel may have more already";
            part.findings.push(Finding::warning(FindingId::KernelUnknown, what, remedy));
        }
        return Ok(part);
    }
    let has = |path: &str| HostPath::parse(path).is_ok_and(|path| root.has(&path).unwrap_or(false));
    let (crio, containerd) = (crate::crio::storage(root.path()), containerd_directories(root.path()));
    let mut found = Proc::new(&root.path().join("proc")).kernel(&[&crio.root, &containerd.root], has);
    let of_tmpfs = idmapped_mounts::probe(root, &mut found.stores);
    part.findings = kernel::findings(&found, pods);
    part.findings.extend(of_tmpfs);
    let setting = write_setting(root, &found, pods, apply)?;
    if !setting.changes.is_empty() {
        part.findings.retain(|finding| finding.id != FindingId::MaxUserNamespaces);
    }
    part.findings.extend(setting.findings);
    part.changes = setting.changes;
    let now =
        found.max_user_namespaces.max(part.changes.first().and(kernel::wanted_user_namespaces(&found, pods)));
    let at_boot = at_boot(root, &part.changes);
    part.findings.extend(kernel::boot_finding(now, at_boot.as_ref(), pods));
    Ok(part)
}

/// Plans only the setting: nothing is tried, and no program is run.
///
/// # Errors
/// A file cannot be read.
pub fn plan_sysctl(root: &HostRoot, pods: u64, apply: bool) -> Result<Part, BootstrapError> {
    if !root.has(&SEEN)? {
        return Ok(Part::default());
    }
    let found = Proc::new(&root.path().join("proc")).kernel(&[], |_| false);
    write_setting(root, &found, pods, apply)
}

fn write_setting(root: &HostRoot, found: &Kernel, pods: u64, apply: bool) -> Result<Part, BootstrapError> {
    let mut part = Part { on_managed: OnManaged::Leave, ..Part::default() };
    let Some(wanted) = kernel::wanted_user_namespaces(found, pods).filter(|_| apply) else {
        return Ok(part);
    };
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let file = owned_files::sysctl(kernel::sysctl_file(wanted), &read);
    root.read(&file.path)?;
    part.changes.push(file);
    if is_running_system(root) {
        part.changes.push(owned_files::live_sysctl(wanted, &read));
    } else {
        let what = format!("the running kernel has not applied {SYSCTL_FILE} yet");
        let remedy = "run sysctl --system on the node, or reboot it";
        part.findings.push(Finding::warning(FindingId::MaxUserNamespaces, what, remedy));
    }
    Ok(part)
}
