//! Requirements on the kernel: reported, and planned if a setting can be written.

use super::runtime::is_running_system;
use super::{BootstrapError, OnManaged, Part};
use crate::idmapped_mounts;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::kernel::{self, Kernel, SYSCTL_FILE};
use usernsd_domain::owned_files;
use usernsd_domain::provision::HostPath;
use usernsd_linux::host::HostRoot;
use usernsd_linux::proc::Proc;

/// Without a mounted /proc nothing is known of the kernel: the root is that of a node under construction.
const SEEN: HostPath = HostPath::fixed("proc/1/mountinfo");

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
    let mut found = Proc::new(&root.path().join("proc")).kernel(has);
    let of_tmpfs = idmapped_mounts::probe(root, &mut found.stores);
    part.findings = kernel::findings(&found, pods);
    part.findings.extend(of_tmpfs);
    let setting = write_setting(root, &found, pods, apply)?;
    if !setting.changes.is_empty() {
        part.findings.retain(|finding| finding.id != FindingId::MaxUserNamespaces);
    }
    part.findings.extend(setting.findings);
    part.changes = setting.changes;
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
    let found = Proc::new(&root.path().join("proc")).kernel(|_| false);
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
        let what = format!("the running kernel does not know {SYSCTL_FILE} yet");
        let remedy = "run sysctl --system on the node, or reboot it";
        part.findings.push(Finding::warning(FindingId::MaxUserNamespaces, what, remedy));
    }
    Ok(part)
}
