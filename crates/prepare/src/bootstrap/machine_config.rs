//! Applies a MachineConfig to a plain node: its files and units, as the operator would write them, except for
//! those that would do harm there.

use super::ids::Sandboxes;
use super::runtime::{SCRATCH, is_running_system};
use super::{BootstrapError, Part, ids};
use crate::crio::{self, CrioError};
use crate::machineconfig::{FileEntry, Parsed, UnitEntry};
use crate::runtime_files::ConfRoot;
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::idplan::{ACCOUNT_FILES, DesiredIds};
use usernsd_domain::ignition::install::{install, template_of};
use usernsd_domain::owned_files;
use usernsd_domain::paths::{SUBGID, SUBUID};
use usernsd_domain::provision::{Attributes, FileChange, Form, HostPath, HostPathError, Undo};
use usernsd_linux::host::HostRoot;
use usernsd_linux::program::ProgramError;

const CMDLINE: HostPath = HostPath::fixed("proc/cmdline");
const REASON: &str = "the MachineConfig contains it";
/// The directories in which systemd finds units; the first one of a name counts (systemd.unit(5)).
const UNIT_DIRS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Plans the parts of a MachineConfig, in their order. `/etc/subuid` and `/etc/subgid` are not replaced: each
/// owner in them gets its range by the same rules as every other range. CRI-O's version is needed if files of
/// CRI-O are among the changes.
///
/// # Errors
/// A file cannot be read, or the plan would do harm.
/// A file is unreadable, or the plan would do harm.
pub fn plan(
    root: &HostRoot,
    parsed: &Parsed,
    desired: &DesiredIds,
    sandboxes: Sandboxes<'_>,
    version: Option<CrioVersion>,
) -> Result<Part, BootstrapError> {
    let mut part = Part { findings: parsed.findings.clone(), ..Part::default() };
    let is_ranges = |file: &&FileEntry, path: &HostPath| file.node.path == path.to_string();
    let both = [SUBUID, SUBGID].map(|path| parsed.files.iter().find(|file| is_ranges(file, &path)));
    if both.iter().any(Option::is_some) {
        let lines = both.map(|file| file.map_or(&[][..], |file| file.node.content.as_slice()));
        let ranges = ids::plan_lines(root, lines, desired, sandboxes)?;
        part.changes.extend(ranges.changes);
        part.findings.extend(ranges.findings);
    }
    for file in parsed.files.iter().filter(|file| !both.contains(&Some(*file))) {
        part.changes.push(change(root, file)?);
    }
    part.findings.extend(check_crio(root, &part.changes, version)?);
    for unit in &parsed.units {
        unit_changes(root, unit, &mut part)?;
    }
    part.findings.extend(kernel_arguments(root, &parsed.kernel_arguments)?);
    Ok(part)
}

fn refused(what: String) -> BootstrapError {
    BootstrapError::Refused(what)
}

fn path_of(text: &str) -> Result<HostPath, BootstrapError> {
    HostPath::parse(text).map_err(|error: HostPathError| refused(format!("the MachineConfig: {error}")))
}

fn change(root: &HostRoot, entry: &FileEntry) -> Result<FileChange, BootstrapError> {
    let path = path_of(&entry.node.path)?;
    if ACCOUNT_FILES.iter().any(|(_, known)| *known == path) {
        let what = format!("{path} of the MachineConfig would take away this node's own users; leave it out");
        return Err(refused(what));
    }
    if path.as_str().starts_with("var/lib/usernsd/") {
        return Err(refused(format!("{path} is where usernsd keeps its journal; leave it out")));
    }
    let (old, known) = (root.read(&path)?, root.attributes(&path)?);
    let new = match &old {
        Some(old) if !entry.has_contents => old.clone(),
        _ => entry.node.content.clone(),
    };
    if entry.overwrite == Some(false) && old.as_ref().is_some_and(|old| *old != new) {
        return Err(refused(format!(
            "{path} is there with other contents, and the MachineConfig says \"overwrite: false\"; move it away, \
             or say true"
        )));
    }
    let mut change =
        owned_files::whole(path.clone(), entry.node.mode.unwrap_or(0o644), Some(new), REASON, &|_| None);
    // Ignition's default mode counts as specified, unless the existing file stays.
    let is_specified = entry.node.mode.is_some() || entry.has_contents;
    change.mode_was = known.map(|known| known.mode).filter(|_| is_specified);
    change.old = old;
    Ok(change)
}

/// Refuses changes with which CRI-O would not start.
fn check_crio(
    root: &HostRoot,
    changes: &[FileChange],
    version: Option<CrioVersion>,
) -> Result<Vec<Finding>, BootstrapError> {
    let read: Vec<&FileChange> =
        changes.iter().filter(|change| change.is_needed() && crio::reads(&change.path)).collect();
    let Some(first) = read.first() else { return Ok(Vec::new()) };
    let wrong = |error: CrioError| refused(format!("the MachineConfig: {error}"));
    let program = std::path::Path::new("crio");
    let Some(version) = version else {
        return Err(refused(format!(
            "{} is read by CRI-O, and nobody can say whether CRI-O starts with it: its version is not known; set it \
             with --crio-version",
            first.path
        )));
    };
    // A hook's program may be among the changes.
    let all: Vec<&FileChange> = changes.iter().collect();
    let findings = crio::check_changes(root.path(), version, &all).map_err(wrong)?;
    if is_running_system(root) {
        let files = ConfRoot::open(root.path()).and_then(|conf| conf.crio()).map_err(|e| wrong(e.into()))?;
        let content = |path: &HostPath| root.read(path).ok().flatten();
        match crio::validate(program, &read, &files, std::path::Path::new(SCRATCH), &content) {
            // CRI-O is not installed on this node, or not yet.
            Ok(()) | Err(CrioError::Program(ProgramError::Start { .. })) => {}
            Err(error) => return Err(wrong(error)),
        }
    }
    Ok(findings)
}

/// Plans a unit's text, and the links that enable or mask it.
fn unit_changes(root: &HostRoot, unit: &UnitEntry, part: &mut Part) -> Result<(), BootstrapError> {
    let own = path_of(&format!("/etc/systemd/system/{}", unit.name))?;
    let before = part.changes.iter().filter(|change| change.is_needed()).count();
    let masked = unit.masked == Some(true);
    if masked {
        if unit.text.is_some() {
            let what = format!("the text of {} is left out: it is masked", unit.name);
            part.findings.push(Finding::note(FindingId::MachineconfigLeftOut, what));
        }
        part.changes.push(link(root, own.clone(), Some("/dev/null"))?);
    } else if let Some(text) = &unit.text {
        let file = usernsd_domain::ignition::NodeFile::text(&own.to_string(), text.clone());
        part.changes.push(change(root, &FileEntry { node: file, overwrite: None, has_contents: true })?);
    } else if unit.masked == Some(false) && leads_to_null(root, &own) {
        part.changes.push(link(root, own.clone(), None)?);
    }
    let Some(enabled) = unit.enabled.filter(|enabled| !(masked && *enabled)) else { return Ok(()) };
    let found = match &unit.text {
        Some(text) => Some((own.to_string(), text.clone())),
        None => find(root, &unit.name)?,
    };
    let Some((file, text)) = found else {
        if enabled {
            let what = format!("{} is to be enabled, and is not on this node", unit.name);
            part.findings.push(Finding::warning(
                FindingId::UnitMissing,
                what,
                "install it, then run this again",
            ));
        }
        return Ok(());
    };
    let install = install(&unit.name, &text, &file);
    for (path, target) in &install.links {
        part.changes.push(link(root, path_of(path)?, enabled.then_some(target))?);
    }
    if enabled {
        let by_hand = format!("run: systemctl enable {}", unit.name);
        if install.links.is_empty() && install.left_out.is_empty() {
            let what = format!("{} is to be enabled, but has no [Install] section that starts it", unit.name);
            part.findings.push(Finding::note(FindingId::UnitStatic, what));
        }
        for what in install.left_out {
            part.findings.push(Finding::warning(
                FindingId::UnitToEnable,
                format!("{what} is left out"),
                &by_hand,
            ));
        }
        if part.changes.iter().filter(|change| change.is_needed()).count() > before {
            let what = format!("{} starts at the next boot", unit.name);
            let remedy =
                format!("to start it now: systemctl daemon-reload && systemctl restart {}", unit.name);
            part.findings.push(Finding { remedy, ..Finding::note(FindingId::UnitEnabled, what) });
        }
    }
    Ok(())
}

fn leads_to_null(root: &HostRoot, path: &HostPath) -> bool {
    root.link_target(path).ok().flatten().as_deref() == Some(b"/dev/null")
}

/// Plans a link to `target`, or its removal.
fn link(root: &HostRoot, path: HostPath, target: Option<&str>) -> Result<FileChange, BootstrapError> {
    let old = root.link_target(&path)?;
    let name = |target: &[u8]| target.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
    let new = target.map(|target| target.as_bytes().to_vec());
    // The same unit under another path: relative, or through /lib.
    let same = matches!((&old, &new), (Some(old), Some(new)) if name(old) == name(new));
    Ok(FileChange {
        new: if same { old.clone() } else { new },
        old,
        attributes: Attributes::READABLE,
        mode_was: None,
        form: Form::Link,
        staging: None,
        undo: Undo::Whole,
        reasons: vec![REASON.to_owned()],
        path,
    })
}

/// Path and text of an existing unit.
fn find(root: &HostRoot, name: &str) -> Result<Option<(String, String)>, BootstrapError> {
    let names = [Some(name.to_owned()), template_of(name)];
    for name in names.iter().flatten() {
        for dir in UNIT_DIRS {
            let path = path_of(&format!("{dir}/{name}"))?;
            // A masked unit cannot be enabled.
            if leads_to_null(root, &path) {
                return Ok(None);
            }
            if let Some(text) = root.read(&path)? {
                return Ok(Some((path.to_string(), String::from_utf8_lossy(&text).into_owned())));
            }
        }
    }
    Ok(None)
}

/// A finding about arguments that the running kernel was not booted with.
fn kernel_arguments(root: &HostRoot, wanted: &[String]) -> Result<Option<Finding>, BootstrapError> {
    let bytes = root.read(&CMDLINE)?.unwrap_or_default();
    let line = String::from_utf8_lossy(&bytes).replace('"', "");
    let missing: Vec<&str> = wanted
        .iter()
        .map(String::as_str)
        .filter(|wanted| !line.split_whitespace().any(|known| known == wanted.replace('"', "")))
        .collect();
    Ok((!missing.is_empty()).then(|| {
        let what = format!("kernel arguments are not set, and take a reboot: {}", missing.join(" "));
        Finding::warning(FindingId::KernelArguments, what, "add them in the boot loader, then reboot")
    }))
}
