//! The OCI hook: this program on the host, and the JSON file that makes CRI-O run it.

use std::collections::BTreeSet;

use super::program::{Obstacle, installed, obstacle};
use super::{BootstrapError, OnManaged, Part};
use crate::crio::CrioError;
use crate::runtime_files::ConfRoot;
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::config::Effective;
use usernsd_domain::crio::drop_in::{CrioOptions, PATH};
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::nri_plugin;
use usernsd_domain::oci_hook::{self, DIRECTORIES, HookCondition, HookInstall, HookOptions, JSON_NAME};
use usernsd_domain::owned_files::{self, Digests, whole};
use usernsd_domain::provision::{FileChange, HostPath};
use usernsd_domain::runtime::Runtime;
use usernsd_linux::host::{HostRoot, OwnProgram};

/// The planned change of the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HookChange {
    /// Install it, or update it to this version.
    Install,
    /// Remove the hook and its program.
    Remove,
    /// Leave it unchanged, because too little is known.
    Leave,
}

/// The observed state of the hook.
struct ObservedHook {
    /// The directories that CRI-O will read hooks from.
    directories: Vec<String>,
    /// The JSON files that usernsd wrote.
    there: Vec<HostPath>,
    decision: HookChange,
    findings: Vec<Finding>,
}

/// Whether the hook must be installed, so that CRI-O must read its directory.
///
/// # Errors
/// A file cannot be read.
pub(super) fn is_wanted(
    root: &HostRoot,
    desired: &HookOptions,
    runtime: Option<Runtime>,
    options: &CrioOptions,
) -> Result<bool, BootstrapError> {
    let wanted = observe(root, desired, runtime, options)?.decision == HookChange::Install;
    Ok(wanted && desired.directory.is_none())
}

/// Plans the hook.
///
/// # Errors
/// A file cannot be read, or a hook at that place would keep every container from starting.
pub fn plan(
    root: &HostRoot,
    desired: &HookOptions,
    runtime: Option<Runtime>,
    options: &CrioOptions,
) -> Result<Part, BootstrapError> {
    let observed = observe(root, desired, runtime, options)?;
    let mut part = Part { on_managed: OnManaged::Leave, findings: observed.findings, ..Part::default() };
    let ours = installed(root, |path| !nri_plugin::is_file_name(path.name()))?;
    let mut keep: Vec<HostPath> = Vec::new();
    match observed.decision {
        HookChange::Leave => return Ok(part),
        HookChange::Remove => {}
        HookChange::Install => {
            let plan = oci_hook::plan(
                &desired.program,
                desired.config.as_deref(),
                &observed.directories,
                &HookCondition::Always,
            );
            part.findings.extend(plan.findings.iter().cloned());
            let path = HostPath::parse(&desired.program)?;
            let own = OwnProgram::open()?;
            let digests = Digests { there: root.digest(&path)?, own: own.digest().to_owned() };
            if let Some(obstacle) = obstacle(root, &path, &own, digests.there.as_ref(), &ours)? {
                return Err(refuse_harm(&obstacle, &path));
            }
            let read = |path: &HostPath| root.read(path).ok().flatten();
            part.changes = owned_files::hook(&plan, &digests, &read)?;
            keep.extend(part.changes.iter().map(|change| change.path.clone()));
        }
    }
    // A JSON file is removed before the program that it names.
    for path in observed.there.iter().filter(|path| !keep.contains(path)) {
        let old = root.read(path)?;
        let read = |_: &HostPath| old.clone();
        part.changes.push(whole(path.clone(), 0o644, None, GONE, &read));
    }
    for (path, digest) in ours.iter().filter(|(path, _)| !keep.contains(path)) {
        let there = root.digest(path)?;
        if there.as_ref() == Some(digest) && !part.changes.iter().any(|change| change.path == *path) {
            part.changes.push(owned_files::program(path.clone(), there, None, GONE));
        }
    }
    part.changes.retain(FileChange::is_needed);
    Ok(part)
}

const GONE: &str = "the hook is no longer wanted there";

fn observe(
    root: &HostRoot,
    desired: &HookOptions,
    runtime: Option<Runtime>,
    options: &CrioOptions,
) -> Result<ObservedHook, BootstrapError> {
    let crio = match runtime {
        Some(Runtime::Crio(version)) => Some(effective(root, version)?),
        _ => None,
    };
    let known = crio.as_ref().map(|crio| crio.hooks_dirs.value.clone()).unwrap_or_default();
    let directories = match &desired.directory {
        Some(directory) => vec![directory.clone()],
        None => oci_hook::with_writable(&known),
    };
    let anywhere = DIRECTORIES.iter().map(|dir| (*dir).to_owned()).chain(known).chain(directories.clone());
    let mut there = Vec::new();
    for directory in anywhere.collect::<BTreeSet<String>>() {
        let Ok(path) = HostPath::parse(directory.trim_end_matches('/')).and_then(|dir| dir.join(JSON_NAME))
        else {
            continue;
        };
        if root.has(&path)? {
            there.push(path);
        }
    }
    let mut findings = Vec::new();
    let mut note = |what: &str, remedy: &str| {
        findings.push(Finding {
            remedy: remedy.to_owned(),
            ..Finding::note(FindingId::OciHook, what.to_owned())
        });
    };
    let decision = match (desired.install, runtime, &crio) {
        (HookInstall::Never, ..) => HookChange::Remove,
        (HookInstall::Always, Some(Runtime::Containerd(_)), _) => {
            note("containerd looks into no directory of hooks", "docs/hook.md says how its handlers get one");
            HookChange::Leave
        }
        (HookInstall::Always, ..) => HookChange::Install,
        (HookInstall::Auto, Some(Runtime::Crio(version)), Some(crio)) => {
            let switched_on = options.nri && version.has_nri() && crio.nri.file.is_none();
            if !crio.nri.value && !switched_on {
                HookChange::Install
            } else if there.is_empty() {
                HookChange::Leave
            } else {
                // Until CRI-O is restarted, the hook may be the only way into the start path, and it does no
                // harm.
                note(
                    "this CRI-O has NRI, and the OCI hook is still there",
                    "set bootstrap.hook.install to never",
                );
                HookChange::Install
            }
        }
        (HookInstall::Auto, ..) => HookChange::Leave,
    };
    Ok(ObservedHook { directories, there, decision, findings })
}

/// CRI-O's effective configuration without usernsd's drop-in.
fn effective(root: &HostRoot, version: CrioVersion) -> Result<Effective, BootstrapError> {
    let mut files = ConfRoot::open(root.path()).and_then(|conf| conf.crio()).map_err(CrioError::from)?;
    files.retain(|file| file.path != PATH);
    Ok(Effective::of(version, &files))
}

/// The error for a hook that could not be run: it would keep every container of the node from starting.
fn refuse_harm(obstacle: &Obstacle, path: &HostPath) -> BootstrapError {
    BootstrapError::Refused(match obstacle {
        Obstacle::Foreign => format!(
            "{path} is there, and was not written by usernsd; move it away, or name another place as \
             bootstrap.hook.path"
        ),
        Obstacle::NoExec => format!(
            "no program can be started from {path}, whose file system is mounted noexec; name another place as \
             bootstrap.hook.path"
        ),
        Obstacle::Loader(loader) => format!(
            "this program needs {loader}, which the node does not have: use one that is linked statically, or set \
             bootstrap.hook.install to never"
        ),
    })
}
