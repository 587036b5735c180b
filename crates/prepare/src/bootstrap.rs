//! Makes a node ready: plans, and applies what was planned, or takes it back.
//!
//! Each [`Step`] reads the node and says what is to change; none of them writes. Everything is
//! planned twice: to show it, and again under the locks, where nobody else writes. Before the first
//! file is touched the journal says what it was.

pub mod failure;
pub mod hook;
pub mod ids;
pub mod kernel;
mod kubelet;
pub mod machine_config;
pub mod plugin;
mod program;
pub mod restart;
pub mod runtime;
mod undo;

use std::time::{Duration, SystemTime};

use thiserror::Error;

pub use undo::{plan_undo, undo};

use crate::containerd::ContainerdError;
use crate::crio::CrioError;
use crate::journal::{Journal, Run, Written};
use crate::machineconfig;
use usernsd_domain::finding::Finding;
use usernsd_domain::idplan::{SUBGID, SUBUID};
use usernsd_domain::mco::CURRENT_CONFIG;
use usernsd_domain::provision::{Attributes, FileChange, Form, HostPath, Undo, differing_lines};
use usernsd_linux::host::{HostError, HostRoot, OwnProgram, PasswordLock, ShadowLock, TaskLock};

/// Where this program keeps what it must remember.
const STATE: HostPath = HostPath::fixed("var/lib/usernsd");
const JOURNAL: HostPath = HostPath::fixed("var/lib/usernsd/bootstrap.json");
/// Those that the kernel knows: SELinux' only where it was not switched off at boot (`security/selinux/selinuxfs.c`).
const FILE_SYSTEMS: &str = "/proc/filesystems";
const LOCK: HostPath = HostPath::fixed("var/lib/usernsd/bootstrap.lock");
const PASSWORD_LOCK: HostPath = HostPath::fixed("etc/.pwd.lock");
const MACHINE_CONFIG: HostPath = HostPath::fixed(CURRENT_CONFIG);
/// The files that shadow-utils locks, in the order in which it does.
static SHADOWS: [HostPath; 6] = [
    HostPath::fixed("etc/passwd"),
    HostPath::fixed("etc/shadow"),
    HostPath::fixed("etc/group"),
    HostPath::fixed("etc/gshadow"),
    HostPath::fixed("etc/subuid"),
    HostPath::fixed("etc/subgid"),
];
/// How long a lock is waited for. shadow-utils itself gives up after 15 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to change, and what someone should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// The changes, in the order in which they must be made.
    pub changes: Vec<FileChange>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What becomes of it where one of its files belongs to a MachineConfig.
    pub on_managed: OnManaged,
    /// Why some of it is not done; all else is.
    pub refused: Option<String>,
    /// What cannot be taken back; of `--undo` only.
    pub left: Vec<Left>,
}

/// A file that cannot be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The file, as the host has it.
    pub path: String,
    /// Why it stays.
    pub why: String,
}

/// What becomes of a part that would change a file of the rendered MachineConfig. Either way the
/// file is not touched, and no other file of that part is: they only work together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnManaged {
    /// Nothing at all is changed: without this part the node is not ready.
    #[default]
    Refuse,
    /// The part is left to the MachineConfig, with a finding; the others are done.
    Leave,
}

/// A part of the preparation: reads the node and plans. It must not write, and is called again under
/// the locks.
pub type Step<'a> = dyn Fn(&HostRoot) -> Result<Part, BootstrapError> + 'a;

/// Why a node was not made ready. Nothing is half-written then.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// A file could not be read or written.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The ranges would do harm: all but them is done.
    #[error("{0}; no range was changed")]
    Ranges(String),
    /// The plan would do harm.
    #[error("{0}; nothing was changed")]
    Refused(String),
    /// CRI-O's configuration cannot be read, or CRI-O would not start with it.
    #[error("{0}; put that right, or set bootstrap.runtime to none; nothing was changed")]
    Crio(String),
    /// containerd's configuration, or what it would be.
    #[error("{0}; put that right, or set bootstrap.runtime to none; nothing was changed")]
    Containerd(String),
    /// A file was changed by someone who does not take the locks.
    #[error("{} was changed by another program at the same moment; run it again", path.display())]
    Raced {
        /// The file.
        path: std::path::PathBuf,
    },
    /// The journal is unreadable.
    #[error(
        "{}: {what}; without it nothing can be taken back: move it away to go on, and keep it",
        path.display()
    )]
    Journal {
        /// The journal.
        path: std::path::PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file was changed since, in a way that cannot be told apart.
    #[error("{why}")]
    Conflict {
        /// The file.
        path: std::path::PathBuf,
        /// How.
        why: String,
    },
}

/// Its words are part of the message: it is no source, or they would be there twice.
impl From<CrioError> for BootstrapError {
    fn from(error: CrioError) -> BootstrapError {
        BootstrapError::Crio(error.to_string())
    }
}

/// As for CRI-O.
impl From<ContainerdError> for BootstrapError {
    fn from(error: ContainerdError) -> BootstrapError {
        BootstrapError::Containerd(error.to_string())
    }
}

/// Everything that is locked for writing.
struct Locks {
    // Dropped in this order: the innermost first.
    _files: Vec<ShadowLock>,
    _password: Option<PasswordLock>,
    _task: TaskLock,
}

/// Plans, and writes nothing.
///
/// # Errors
/// See [`BootstrapError`].
pub fn plan(root: &HostRoot, steps: &[&Step<'_>]) -> Result<Part, BootstrapError> {
    let mut all = Part::default();
    for step in steps {
        let mut part = step(root)?;
        part.changes.retain(FileChange::is_needed);
        all.findings.extend(part.findings);
        all.refused = all.refused.or(part.refused);
        let kept = match kept_by_others(root, &part.changes)? {
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

/// Plans and applies. `say` hears of each change when it is done.
///
/// # Errors
/// See [`BootstrapError`].
pub fn apply(
    root: &HostRoot,
    steps: &[&Step<'_>],
    say: &mut dyn FnMut(&str),
) -> Result<Part, BootstrapError> {
    let first = plan(root, steps)?;
    if first.changes.is_empty() {
        release_dead(root)?;
        return Ok(first);
    }
    let _locks = lock(root, &first.changes)?;
    let mut part = plan(root, steps)?;
    // A file that was to stay as it is when the locks were chosen has none: look again.
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

/// The finding where files that were written did not get their labels and the kernel has SELinux, for which
/// they are.
fn unlabelled(root: &HostRoot) -> Option<Finding> {
    let mut paths = root.take_unlabelled();
    paths.dedup();
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    // The node's kernel is this process'.
    let has_selinux = || std::fs::read_to_string(FILE_SYSTEMS).is_ok_and(|text| text.contains("selinuxfs"));
    if paths.is_empty() || !has_selinux() {
        return None;
    }
    let what = format!("the SELinux label of {} could not be set", paths.join(", "));
    Some(Finding::warning("selinux-label", what, &format!("run restorecon {}", paths.join(" "))))
}

/// The locks for these files; shadow-utils' where it has such.
fn lock(root: &HostRoot, changes: &[FileChange]) -> Result<Locks, BootstrapError> {
    root.make_dirs(&STATE, 0o755)?;
    let task = root.lock_task(&LOCK, PATIENCE)?;
    // All of them for any of them, as useradd does: what a killed run has left goes this way, too.
    let any = SHADOWS.iter().any(|path| changes.iter().any(|change| change.path == *path));
    let shadows = if any { SHADOWS.as_slice() } else { &[] };
    if !any {
        release_dead(root)?;
    }
    let password = any.then(|| root.lock_passwords(&PASSWORD_LOCK, PATIENCE)).transpose()?;
    let files = shadows.iter().map(|path| root.lock_shadow(path, PATIENCE)).collect::<Result<_, _>>()?;
    Ok(Locks { _files: files, _password: password, _task: task })
}

/// A run may have been killed when all was written and its locks were not yet released.
fn release_dead(root: &HostRoot) -> Result<(), BootstrapError> {
    SHADOWS.iter().try_for_each(|path| Ok(root.release_dead(path)?))
}

/// Writes them in their order; `done` hears of each.
fn write_all(
    root: &HostRoot,
    changes: &[FileChange],
    done: &mut dyn FnMut(&FileChange),
) -> Result<(), BootstrapError> {
    let mut rest = changes;
    while let [first, others @ ..] = rest {
        let together = match others {
            [second, ..] if are_ranges([first, second]) => {
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

/// Whether these are what the kubelet wants to be equal: it does not start on a range that only one of
/// the two files has.
fn are_ranges(both: [&FileChange; 2]) -> bool {
    let is_content = |change: &FileChange| {
        change.form == Form::Content
            && change.new.is_some()
            && change.mode_was.is_none()
            && change.staging.is_none()
    };
    let paths = both.map(|change| &change.path);
    both.into_iter().all(is_content) && [SUBUID, SUBGID].iter().all(|path| paths.contains(&path))
}

/// Writes both, with nothing but one rename between them.
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

/// Writes one file, if it still is what it was when it was planned.
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

/// What is there, in the form in which a change holds it.
fn content(root: &HostRoot, path: &HostPath, form: Form) -> Result<Option<Vec<u8>>, BootstrapError> {
    Ok(match form {
        Form::Content | Form::Live => root.read(path)?,
        Form::Link => root.link_target(path)?,
        Form::Program => root.digest(path)?.map(String::into_bytes),
    })
}

/// Keeps what the files were: in the journal, and once as copies for people.
fn remember(root: &HostRoot, changes: &[FileChange]) -> Result<(), BootstrapError> {
    let mut journal = journal(root)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut run = Run { at: now.as_millis().try_into().unwrap_or(u64::MAX), ..Run::default() };
    for change in changes {
        let known = if change.form == Form::Link { None } else { root.attributes(&change.path)? };
        let attributes = known.unwrap_or_else(|| change.attributes.clone());
        // Passwords are in no journal.
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
        // It was tried before, and is tried again.
        Some(last) if last.files == run.files => {
            last.at = run.at;
            last.made.extend(run.made);
        }
        _ => journal.runs.push(run),
    }
    Ok(root.replace(&JOURNAL, &journal.render(), &Attributes::SECRET, None)?)
}

/// The first copy stays: it is what the file was before this program ever touched it.
fn back_up(root: &HostRoot, path: &HostPath, old: &[u8], like: &Attributes) -> Result<(), BootstrapError> {
    let Ok(copy) = HostPath::parse(&format!("{}/backup{path}", STATE.as_str())) else { return Ok(()) };
    if root.has(&copy)? {
        return Ok(());
    }
    if let Some(parent) = copy.parent() {
        root.make_dirs(&parent, 0o755)?;
    }
    // The label is for the file's own place.
    Ok(root.replace(&copy, old, &Attributes { label: None, ..like.clone() }, None)?)
}

fn journal(root: &HostRoot) -> Result<Journal, BootstrapError> {
    let Some(bytes) = root.read(&JOURNAL)? else { return Ok(Journal::default()) };
    Journal::parse(&bytes).map_err(|what| BootstrapError::Journal { path: root.shown(&JOURNAL), what })
}

/// The files that runs wrote and that were not taken back, one for each time.
///
/// # Errors
/// The journal is unreadable.
pub fn written(root: &HostRoot) -> Result<Vec<HostPath>, BootstrapError> {
    let journal = journal(root)?;
    Ok(journal.runs.iter().flat_map(|run| &run.files).filter_map(|file| file.path().ok()).collect())
}

fn refused(kept: &Finding) -> BootstrapError {
    BootstrapError::Refused(format!("{}; {}", kept.what, kept.remedy))
}

/// Why a file that is written in another directory cannot be renamed into its own.
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
            return Ok(Some(Finding::warning("mount-apart", what, &remedy)));
        }
    }
    Ok(None)
}

/// Why files of the rendered MachineConfig are not touched.
fn kept_by_others(root: &HostRoot, changes: &[FileChange]) -> Result<Option<Finding>, BootstrapError> {
    let managed = machineconfig::managed(root.read(&MACHINE_CONFIG)?.as_deref());
    let paths: Vec<String> = changes.iter().map(|change| change.path.to_string()).collect();
    Ok(managed.refusal(&paths))
}
