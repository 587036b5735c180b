//! The container runtime: which one the node has, and the drop-in that is written for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::restart::Loaded;
use super::{BootstrapError, OnManaged, Part, hook};
use crate::domain::container::UserNamespaceRequest;
use crate::domain::containerd::{self, ContainerdConf, Release};
use crate::domain::crio::CrioVersion;
use crate::domain::crio::annotation::USERNS_MODE;
use crate::domain::crio::config::{ConfFile, Content};
use crate::domain::crio::drop_in::Wishes;
use crate::domain::finding::{Finding, Severity};
use crate::domain::oci_hook::HookWish;
use crate::domain::provision::HostPath;
use crate::domain::ranges::Window;
use crate::domain::runtime::{Kind, Runtime, Seen};
use crate::domain::toml::Table;
use crate::domain::written;
use crate::edge::cri::{Cri, CriError, discover};
use crate::edge::crio::{ConfRoot, live};
use crate::edge::host::HostRoot;
use crate::edge::program::{self, ProgramError};
use crate::task::containerd::{self as containerd_program, ContainerdError};
use crate::task::crio::{self, CrioError};

/// A runtime that does not answer within this does not run.
const PATIENCE: Duration = Duration::from_secs(5);
/// CRI-O's own validation works on a copy here: root's alone, and gone after a reboot.
const SCRATCH: &str = "/run";
/// Its main files and programs: where one is, so is the runtime, or it will be.
const TRACES: [(Kind, &[&str]); 2] = [
    (Kind::Crio, &["/etc/crio", "crio"]),
    (Kind::Containerd, &["/etc/containerd/config.toml", "containerd"]),
];

/// What was found of runtimes.
#[derive(Debug, Default)]
pub struct Looked {
    /// For the choice.
    pub seen: Seen,
    /// The pods of each that answered.
    pub pods: Vec<(Kind, Pods)>,
    /// What a CRI-O that answered says that it has loaded.
    pub loaded: Option<Loaded>,
}

/// The pods that a runtime runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pods {
    /// All of them.
    pub all: usize,
    /// Those with a user namespace of their own.
    pub with_user_namespace: usize,
    /// Their host IDs, each with the pod.
    pub windows: Vec<(String, Window)>,
}

/// Whether this program runs on the node itself, so that its programs may be run.
pub(super) fn is_here(root: &HostRoot) -> bool {
    root.path() == Path::new("/")
}

/// Looks for runtimes: who answers over CRI, on the sockets that are named or on the usual ones below
/// the root; what the programs say of themselves, where they are this system's own; and what lies there.
///
/// # Errors
/// The root cannot be read.
pub async fn look(root: &HostRoot, endpoints: &[PathBuf]) -> Result<Looked, BootstrapError> {
    let Looked { mut seen, mut pods, mut loaded } = Looked::default();
    let usual = || discover(root.path()).into_iter().map(|(_, path)| path).collect();
    let sockets: Vec<PathBuf> = if endpoints.is_empty() { usual() } else { endpoints.to_vec() };
    for socket in sockets {
        // Whoever does not answer does not run.
        let cri = Cri::new(socket).with_deadline(PATIENCE);
        let Ok(version) = cri.version().await else { continue };
        let runtime = match version.name.as_str() {
            "cri-o" => CrioVersion::parse(&version.version).ok().map(Runtime::Crio),
            "containerd" => Release::parse(&version.version).ok().map(Runtime::Containerd),
            _ => None,
        };
        if let Some(runtime) = runtime {
            if let Runtime::Crio(version) = runtime {
                loaded = look_at_config(&cri, version).await;
            }
            seen.answered.push(runtime);
            // Who answers one question and not the next is found out at the restart.
            pods.extend(look_at_pods(&cri).await.ok().map(|found| (runtime.kind(), found)));
        }
    }
    let conf = ConfRoot::open(root.path()).map_err(CrioError::from)?;
    for (kind, traces) in TRACES {
        if traces.iter().any(|trace| conf.has_program(trace) == Some(true)) {
            seen.installed.push(kind);
        }
    }
    if is_here(root) && seen.answered.is_empty() {
        seen.programs.extend(crio::version(Path::new("crio")).ok().map(Runtime::Crio));
        let said = program::run(Path::new("containerd"), &["--version"], PATIENCE);
        let release = said.ok().and_then(|said| Release::parse(&said.stdout).ok());
        seen.programs.extend(release.map(Runtime::Containerd));
    }
    Ok(Looked { seen, pods, loaded })
}

/// What that CRI-O says that it has loaded, where it says so.
pub(crate) async fn look_at_config(cri: &Cri, version: CrioVersion) -> Option<Loaded> {
    Some(Loaded { version, config: live::config(cri.path(), PATIENCE).await? })
}

async fn look_at_pods(cri: &Cri) -> Result<Pods, CriError> {
    let mut found = Pods::default();
    for listed in cri.sandboxes().await?.into_iter().filter(|sandbox| sandbox.ready) {
        let Some(inspected) = cri.sandbox(&listed.id).await? else { continue };
        found.all += 1;
        let by_annotation = USERNS_MODE.iter().any(|name| inspected.sandbox.annotations.contains_key(*name));
        if inspected.request == Some(UserNamespaceRequest::Own) || by_annotation {
            found.with_user_namespace += 1;
        }
        let pod = format!("{}/{}", listed.pod.namespace, listed.pod.name);
        found.windows.extend(inspected.uids.extents().iter().map(|extent| {
            (pod.clone(), Window { start: extent.host_id.0.into(), count: extent.length.into() })
        }));
    }
    Ok(found)
}

/// The step that plans what the runtime reads.
///
/// # Errors
/// Its files cannot be read, or it would not start with the plan.
pub fn plan(
    root: &HostRoot,
    runtime: Option<Runtime>,
    wishes: Wishes,
    containerd_nri: bool,
    hook: &HookWish,
) -> Result<Part, BootstrapError> {
    let part = plan_by_rules(root, runtime, wishes, containerd_nri, hook)?;
    let change = part.changes.first().filter(|change| change.is_needed() && is_here(root));
    if let (Some(Runtime::Containerd(_)), Some(new)) =
        (runtime, change.and_then(|change| change.new.as_deref()))
    {
        let version = main_file(root)?.map_or(1, |table| ContainerdConf::of(table.as_ref()).version);
        match containerd_program::validate(Path::new("containerd"), version, new, Path::new(SCRATCH)) {
            Err(ContainerdError::Program(ProgramError::Start { .. })) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let (Some(Runtime::Crio(_)), Some(change)) = (runtime, change) {
        let read = |path: &HostPath| root.read(path).ok().flatten();
        let files = ConfRoot::open(root.path()).and_then(|conf| conf.crio()).map_err(CrioError::from)?;
        match crio::validate(Path::new("crio"), &[change], &files, Path::new(SCRATCH), &read) {
            // Not on this node, or not yet.
            Err(CrioError::Program(ProgramError::Start { .. })) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(part)
}

/// The same by our own rules alone: CRI-O's program is not asked.
///
/// # Errors
/// Its files cannot be read, or it would not start with the plan.
pub fn plan_by_rules(
    root: &HostRoot,
    runtime: Option<Runtime>,
    wishes: Wishes,
    containerd_nri: bool,
    hook: &HookWish,
) -> Result<Part, BootstrapError> {
    let wishes = Wishes { hook: hook::is_wanted(root, hook, runtime, wishes)?, ..wishes };
    match runtime {
        Some(Runtime::Crio(version)) => plan_crio(root, version, wishes),
        Some(Runtime::Containerd(release)) if containerd_nri => plan_containerd(root, release),
        Some(Runtime::Containerd(_)) | None => Ok(Part::default()),
    }
}

fn plan_crio(root: &HostRoot, version: CrioVersion, wishes: Wishes) -> Result<Part, BootstrapError> {
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let plan = crio::plan(root.path(), version, None, wishes, &read)?;
    let mut part = Part { findings: plan.findings, on_managed: OnManaged::Leave, ..Part::default() };
    if !plan.change.is_needed() {
        return Ok(part);
    }
    // What could not be read was taken for nothing above.
    root.read(&plan.change.path)?;
    let files = ConfRoot::open(root.path()).and_then(|conf| conf.crio()).map_err(CrioError::from)?;
    let path = plan.change.path.to_string();
    let is_unread = |file: &&ConfFile| file.path != path && !matches!(file.content, Content::Toml(_));
    if let Some(file) = files.iter().find(is_unread) {
        let about = part
            .findings
            .iter()
            .find(|finding| finding.severity == Severity::Error && finding.what.starts_with(&file.path));
        let why = about.map_or_else(|| file.path.clone(), |finding| finding.what.clone());
        return Err(BootstrapError::Refused(format!(
            "what CRI-O is configured to do is not known, and it does not start: {why}; repair or remove that file, \
             or set bootstrap.runtime to none"
        )));
    }
    part.changes.push(plan.change);
    Ok(part)
}

/// containerd's main file; `None` where there is none.
fn main_file(root: &HostRoot) -> Result<Result<Option<Table>, String>, BootstrapError> {
    let file = ConfRoot::open(root.path()).map_err(CrioError::from)?.toml(containerd::MAIN_FILE);
    Ok(match file.map(|file| file.content) {
        None => Ok(None),
        Some(Content::Toml(table)) => Ok(Some(table)),
        Some(Content::NotToml(why) | Content::Unreadable(why)) => Err(why),
    })
}

fn plan_containerd(root: &HostRoot, release: Release) -> Result<Part, BootstrapError> {
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let table = match main_file(root)? {
        Ok(table) => table,
        Err(why) => {
            let what = format!("containerd does not start with {}: {why}", containerd::MAIN_FILE);
            let finding = Finding::error("containerd-undecodable", what, "repair it");
            return Ok(Part { findings: vec![finding], ..Part::default() });
        }
    };
    let plan = containerd::plan(release, &ContainerdConf::of(table.as_ref()));
    let change = written::containerd(&plan, &read).map_err(CrioError::from)?;
    if let Some(change) = &change {
        root.read(&change.path)?;
    }
    Ok(Part { changes: change.into_iter().collect(), findings: plan.findings, on_managed: OnManaged::Leave })
}
