//! Prepares a node: plans the changes, and applies them or takes them back.
//!
//! Each [`PlanStep`] reads the node and plans changes; none of them writes. Every plan is made twice: once to
//! show it, and again under the locks, when no other program writes. The journal records the previous content
//! of all files before the first of them is changed.

mod data_directory;
pub mod failure;
pub mod hook;
pub mod ids;
pub mod kernel;
pub(crate) mod kubelet;
pub mod machine_config;
pub mod plugin;
mod preparation;
mod program;
pub mod restart;
pub mod runtime;
mod undo;

use std::time::{Duration, SystemTime};

use thiserror::Error;

pub use preparation::Preparation;
pub use undo::{plan_undo, undo};

use crate::containerd::ContainerdError;
use crate::crio::CrioError;
use crate::journal::{Journal, Run, Written};
use crate::machineconfig;
use usernsd_domain::chain::chain;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::idplan;
use usernsd_domain::mco::CURRENT_CONFIG;
use usernsd_domain::paths::{self, SUBGID, SUBUID};
use usernsd_domain::provision::{
    Attributes, FileChange, Form, HostPath, HostPathError, Undo, differing_lines,
};
use usernsd_linux::host::{HostError, HostRoot, OwnProgram, PasswordLock, ShadowLock, TaskLock};

/// Directory of the data that bootstrap keeps between runs.
pub const STATE: HostPath = HostPath::fixed("var/lib/usernsd");
const JOURNAL: HostPath = HostPath::fixed("var/lib/usernsd/bootstrap.json");
/// Lists the kernel's file systems. SELinux' is among them only if SELinux was not disabled at boot
/// (`security/selinux/selinuxfs.c`).
const FILE_SYSTEMS: &str = "/proc/filesystems";
const LOCK: HostPath = HostPath::fixed("var/lib/usernsd/bootstrap.lock");
const PASSWORD_LOCK: HostPath = HostPath::fixed("etc/.pwd.lock");
const MACHINE_CONFIG: HostPath = HostPath::fixed(CURRENT_CONFIG);
/// The files that shadow-utils locks, in the order in which it locks them.
static SHADOWS: [HostPath; 6] = [paths::PASSWD, paths::SHADOW, paths::GROUP, paths::GSHADOW, SUBUID, SUBGID];
/// For how long bootstrap waits for a lock. shadow-utils itself gives up after 15 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// The plan of one step: changes and findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// The changes, in the order in which they must be made.
    pub changes: Vec<FileChange>,
    /// Findings about the node.
    pub findings: Vec<Finding>,
    /// How the part is handled if one of its files belongs to a MachineConfig.
    pub on_managed: OnManaged,
    /// Why some changes of this part are not made; the others are.
    pub refused: Option<PartRefusal>,
    /// Files that cannot be undone; set only by `--undo`.
    pub left: Vec<NotRestored>,
}

/// Why some changes are not made although the others are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PartRefusal {
    /// The ranges would do harm.
    #[error("{0}; no range was changed")]
    Ranges(String),
    /// A runtime's configuration cannot be read; the finding is among those of the part, too.
    #[error("{}; {}; nothing was written for that runtime [{}]", .0.what, .0.remedy, .0.id)]
    Runtime(Finding),
}

/// A file that `--undo` cannot restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRestored {
    /// The file's path on the host.
    pub path: String,
    /// Why the file stays.
    pub why: String,
}

/// How a part is handled if it would change a file of the rendered MachineConfig. In either case neither that
/// file nor any other file of the part is changed, because they only work together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnManaged {
    /// Nothing is changed at all: without this part the node would not be ready.
    #[default]
    Refuse,
    /// The part is left to the MachineConfig, with a finding; the other parts are applied.
    Leave,
}

/// Plans one part of the preparation from what it reads on the node. It must not write, and is called a
/// second time under the locks.
pub type PlanStep<'a> = Box<dyn Fn(&HostRoot) -> Result<Part, BootstrapError> + 'a>;

/// Why a node was not prepared. No file is half-written then.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// A file could not be read or written.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A path in the configuration, usernsd's or a runtime's, cannot be used.
    #[error("a configured path cannot be used; correct it; nothing was changed")]
    Path(#[from] HostPathError),
    /// Everything else is applied.
    #[error(transparent)]
    InPart(#[from] PartRefusal),
    /// The plan would do harm.
    #[error("{0}; nothing was changed")]
    Refused(String),
    /// CRI-O's configuration cannot be read, or CRI-O would not start with it as planned.
    #[error("{0}; correct that, or set bootstrap.runtime to none; nothing was changed")]
    Crio(String),
    /// containerd's configuration cannot be read, or containerd would not start with it as planned.
    #[error("{0}; correct that, or set bootstrap.runtime to none; nothing was changed")]
    Containerd(String),
    /// A file was changed by a program that does not take the locks.
    #[error("{} was changed by another program at the same moment; run it again", path.display())]
    Raced {
        /// Path of the file.
        path: std::path::PathBuf,
    },
    /// The journal cannot be read.
    #[error(
        "{}: {what}; without it nothing can be taken back: move it away to go on, and keep it",
        path.display()
    )]
    Journal {
        /// Path of the journal.
        path: std::path::PathBuf,
        what: String,
    },
    /// A file was changed after bootstrap wrote it, in a way that cannot be separated from bootstrap's
    /// change.
    #[error("{why}")]
    Conflict {
        /// Path of the file.
        path: std::path::PathBuf,
        /// Description of the conflict.
        why: String,
    },
}

/// The text of the error becomes part of the message. It is no `source`, otherwise it would be printed twice.
impl From<CrioError> for BootstrapError {
    fn from(error: CrioError) -> BootstrapError {
        BootstrapError::Crio(chain(&error))
    }
}

/// The text of the error becomes part of the message, as for CRI-O.
impl From<ContainerdError> for BootstrapError {
    fn from(error: ContainerdError) -> BootstrapError {
        BootstrapError::Containerd(chain(&error))
    }
}

/// All locks that are held while files are written.
struct Locks {
    // Dropped in this order: the innermost lock first.
    _files: Vec<ShadowLock>,
    _password: Option<PasswordLock>,
    _task: TaskLock,
}

/// Plans all steps without writing.
///
/// # Errors
/// See [`BootstrapError`].
pub fn plan(root: &HostRoot, steps: &[PlanStep<'_>]) -> Result<Part, BootstrapError> {
    let mut all = Part::default();
    for step in steps {
        let mut part = step(root)?;
        part.changes.retain(FileChange::is_needed);
        all.findings.extend(part.findings);
        all.refused = all.refused.or(part.refused);
        let kept = match managed_by_others(root, &part.changes)? {
            None => apart(root, &part.changes)?,
            kept => kept,
        };
        match kept {
            None => all.changes.extend(part.changes),
            Some(kept) if part.on_managed == OnManaged::Leave => {
                let what = format!("{}; it is left as it is", kept.what);
                all.findings.push(Finding::warning(kept.id, what, &kept.remedy));
            }
            Some(kept) => return Err(refused(&kept)),
        }
    }
    Ok(all)
}

/// Plans all steps and applies the changes. `say` is called after each change.
///
/// # Errors
/// See [`BootstrapError`].
pub fn apply(
    root: &HostRoot,
    steps: &[PlanStep<'_>],
    say: &mut dyn FnMut(&str),
) -> Result<Part, BootstrapError> {
    correct_times(root)?;
    let first = plan(root, steps)?;
    if first.changes.is_empty() {
        release_dead(root)?;
        return Ok(first);
    }
    let _locks = lock(root, &first.changes)?;
    let mut part = plan(root, steps)?;
    // A file that needed no change when the locks were chosen may need one now, without being locked: plan
    // again.
    let unlocked = |change: &FileChange| !first.changes.iter().any(|known| known.path == change.path);
    if let Some(change) = part.changes.iter().find(|change| unlocked(change)) {
        return Err(BootstrapError::Raced { path: root.shown(&change.path) });
    }
    if part.changes.is_empty() {
        return Ok(part);
    }
    remember(root, &part.changes)?;
    write_all(root, &part.changes, &mut |change| {
        change.reasons.iter().for_each(|reason| say(&format!("{}: {reason}", change.path)));
    })?;
    part.findings.extend(unlabelled(root));
    Ok(part)
}

/// Writes down that runs whose times are still to come have ended by now: the clock was wrong then, or was set back since.
/// Otherwise every service would count as started before them, however often it is restarted.
fn correct_times(root: &HostRoot) -> Result<(), BootstrapError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    if !journal(root)?.has_times_after(now) {
        return Ok(());
    }
    let _task = root.lock_task(&LOCK, PATIENCE)?;
    let mut journal = journal(root)?;
    journal.end_times_at(now);
    Ok(root.replace(&JOURNAL, &journal.render(), &Attributes::SECRET, None)?)
}

/// A finding if written files did not get their SELinux labels and the kernel has SELinux, which needs them.
fn unlabelled(root: &HostRoot) -> Option<Finding> {
    let mut paths = root.take_unlabelled();
    paths.dedup();
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    // The node's kernel is the kernel of this process.
    let has_selinux = || std::fs::read_to_string(FILE_SYSTEMS).is_ok_and(|text| text.contains("selinuxfs"));
    if paths.is_empty() || !has_selinux() {
        return None;
    }
    let what = format!("the SELinux label of {} could not be set", paths.join(", "));
    Some(Finding::warning(FindingId::SelinuxLabel, what, &format!("run restorecon {}", paths.join(" "))))
}

/// Takes the locks for these files, including those of shadow-utils if it locks any of them.
fn lock(root: &HostRoot, changes: &[FileChange]) -> Result<Locks, BootstrapError> {
    root.make_dirs(&STATE, 0o755)?;
    let task = root.lock_task(&LOCK, PATIENCE)?;
    // Any of them requires all of them, as for useradd. This also removes the locks that a killed run has
    // left.
    let any = SHADOWS.iter().any(|path| changes.iter().any(|change| change.path == *path));
    let shadows = if any { SHADOWS.as_slice() } else { &[] };
    if !any {
        release_dead(root)?;
    }
    let password = any.then(|| root.lock_passwords(&PASSWORD_LOCK, PATIENCE)).transpose()?;
    let files = shadows.iter().map(|path| root.lock_shadow(path, PATIENCE)).collect::<Result<_, _>>()?;
    Ok(Locks { _files: files, _password: password, _task: task })
}

/// Removes locks of a run that was killed after it had written everything and before it released them.
fn release_dead(root: &HostRoot) -> Result<(), BootstrapError> {
    SHADOWS.iter().try_for_each(|path| Ok(root.release_dead(path)?))
}

/// Writes the changes in their order; `done` is called after each.
fn write_all(
    root: &HostRoot,
    changes: &[FileChange],
    done: &mut dyn FnMut(&FileChange),
) -> Result<(), BootstrapError> {
    let mut rest = changes;
    while let [first, others @ ..] = rest {
        let together = match others {
            [second, ..] if idplan::must_change_together([first, second]) => {
                write_ranges(root, [first, second])?;
                2
            }
            _ => {
                write(root, first)?;
                1
            }
        };
        let (written, others) = rest.split_at(together);
        written.iter().for_each(&mut *done);
        rest = others;
    }
    Ok(())
}

/// Writes both files with nothing between the two renames.
fn write_ranges(root: &HostRoot, both: [&FileChange; 2]) -> Result<(), BootstrapError> {
    for change in both {
        is_as_planned(root, change)?;
    }
    let file = |change| {
        let FileChange { path, new, attributes, .. }: &FileChange = change;
        (path, new.as_deref().unwrap_or_default(), attributes)
    };
    Ok(root.replace_together(&both.map(file))?)
}

fn is_as_planned(root: &HostRoot, change: &FileChange) -> Result<(), BootstrapError> {
    if content(root, &change.path, change.form)? == change.old {
        return Ok(());
    }
    Err(BootstrapError::Raced { path: root.shown(&change.path) })
}

/// Writes one file, if it is unchanged since it was planned.
fn write(root: &HostRoot, change: &FileChange) -> Result<(), BootstrapError> {
    is_as_planned(root, change)?;
    let FileChange { path, attributes, staging, .. } = change;
    let Some(bytes) = &change.new else { return Ok(root.remove(path)?) };
    if let Some(parent) = path.parent().filter(|_| change.form != Form::Live) {
        root.make_dirs(&parent, 0o755)?;
    }
    match change.form {
        Form::Live => root.write_in_place(path, bytes)?,
        Form::Link => root.link(path, bytes)?,
        Form::Content if change.mode_was.is_some() => {
            root.replace_with_mode(path, bytes, attributes, staging.as_ref())?;
        }
        Form::Content => root.replace(path, bytes, attributes, staging.as_ref())?,
        Form::Program => {
            let own = OwnProgram::open()?;
            if own.digest().as_bytes() != bytes {
                let why = "the program that was there before was not kept".to_owned();
                return Err(BootstrapError::Conflict { path: root.shown(path), why });
            }
            root.install(path, &own, attributes, staging.as_ref())?;
        }
    }
    Ok(())
}

/// The present content, in the form that a change has it.
fn content(root: &HostRoot, path: &HostPath, form: Form) -> Result<Option<Vec<u8>>, BootstrapError> {
    Ok(match form {
        Form::Content | Form::Live => root.read(path)?,
        Form::Link => root.link_target(path)?,
        Form::Program => root.digest(path)?.map(String::into_bytes),
    })
}

/// Records the previous content of the files: in the journal, and once as copies for people.
fn remember(root: &HostRoot, changes: &[FileChange]) -> Result<(), BootstrapError> {
    let mut journal = journal(root)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut run = Run { at: now.as_millis().try_into().unwrap_or(u64::MAX), ..Run::default() };
    for change in changes {
        let known = if change.form == Form::Link { None } else { root.attributes(&change.path)? };
        let attributes = known.unwrap_or_else(|| change.attributes.clone());
        // The journal contains no passwords.
        let is_secret = attributes.mode & 0o004 == 0;
        let bytes = |bytes: &Option<Vec<u8>>| bytes.clone().unwrap_or_default();
        let written =
            if is_secret && change.undo == Undo::Lines && change.old.is_some() && change.new.is_some() {
                let (removed, added) = differing_lines(&bytes(&change.old), &bytes(&change.new));
                let text = |lines: Vec<Vec<u8>>| {
                    lines.into_iter().flat_map(|line| [line, vec![b'\n']].concat()).collect()
                };
                let (old, new): (Vec<u8>, Vec<u8>) = (text(removed), text(added));
                Written::of(change, [Some(&old), Some(&new)], true, &attributes)
            } else {
                let both = [change.old.as_deref(), change.new.as_deref()];
                Written::of(change, both, false, &attributes)
            };
        run.files.push(written);
        let mut above = change.path.parent();
        let mut made = Vec::new();
        while let Some(path) = above {
            if root.has(&path)? || run.made.contains(&path.as_str().to_owned()) {
                break;
            }
            made.push(path.as_str().to_owned());
            above = path.parent();
        }
        run.made.extend(made.into_iter().rev());
        if let Some(old) = change.old.as_ref().filter(|_| !is_secret && change.form == Form::Content) {
            back_up(root, &change.path, old, &attributes)?;
        }
    }
    match journal.runs.last_mut() {
        // The same run was attempted before and is attempted again.
        Some(last) if last.files == run.files => {
            last.at = run.at;
            last.made.extend(run.made);
        }
        _ => journal.runs.push(run),
    }
    Ok(root.replace(&JOURNAL, &journal.render(), &Attributes::SECRET, None)?)
}

/// Copies the file once: the first copy is the file before usernsd ever changed it.
fn back_up(root: &HostRoot, path: &HostPath, old: &[u8], like: &Attributes) -> Result<(), BootstrapError> {
    let Ok(copy) = HostPath::parse(&format!("{}/backup{path}", STATE.as_str())) else { return Ok(()) };
    if root.has(&copy)? {
        return Ok(());
    }
    if let Some(parent) = copy.parent() {
        root.make_dirs(&parent, 0o755)?;
    }
    // The label belongs to the file's own path, not to the copy.
    Ok(root.replace(&copy, old, &Attributes { label: None, ..like.clone() }, None)?)
}

fn journal(root: &HostRoot) -> Result<Journal, BootstrapError> {
    let Some(bytes) = root.read(&JOURNAL)? else { return Ok(Journal::default()) };
    Journal::parse(&bytes).map_err(|what| BootstrapError::Journal { path: root.shown(&JOURNAL), what })
}

/// The files that runs have written and that were not undone, once for each write.
///
/// # Errors
/// The journal cannot be read.
pub fn written(root: &HostRoot) -> Result<Vec<HostPath>, BootstrapError> {
    let is_as_found = |file: &Written| {
        // Not everybody may read the others.
        let may_read = file.form() == Form::Content && !file.only_lines;
        let now = file.path().ok().filter(|_| may_read).and_then(|path| root.read(&path).ok());
        now.is_some_and(|now| file.is_as_found(now.as_deref()))
    };
    Ok(journal(root)?.written(is_as_found))
}

fn refused(kept: &Finding) -> BootstrapError {
    BootstrapError::Refused(format!("{}; {}", kept.what, kept.remedy))
}

/// A finding if a file that is written in another directory cannot be renamed into its own.
fn apart(root: &HostRoot, changes: &[FileChange]) -> Result<Option<Finding>, BootstrapError> {
    for change in changes {
        let (Some(staging), Some(parent), Some(_)) = (&change.staging, change.path.parent(), &change.new)
        else {
            continue;
        };
        if !root.is_one_file_system([staging, &parent])? {
            let what = format!(
                "{parent} is a mount of its own, and nothing can be renamed into it from {staging}, where {} is \
                 written first",
                change.path
            );
            let remedy = format!("mount {staging} as a whole, or write that file by hand");
            return Ok(Some(Finding::warning(FindingId::MountApart, what, &remedy)));
        }
    }
    Ok(None)
}

/// A finding if files belong to the rendered MachineConfig, which bootstrap does not change.
fn managed_by_others(root: &HostRoot, changes: &[FileChange]) -> Result<Option<Finding>, BootstrapError> {
    let managed = machineconfig::managed(root.read(&MACHINE_CONFIG)?.as_deref());
    let paths: Vec<String> = changes.iter().map(|change| change.path.to_string()).collect();
    Ok(managed.refusal(&paths))
}
