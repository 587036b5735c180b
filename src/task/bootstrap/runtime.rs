//! The container runtime: which one the node has, and the drop-in that is written for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::restart::Loaded;
use super::{BootstrapError, OnManaged, Part, hook};
use crate::domain::container::UserNamespaceRequest;
use crate::domain::containerd::{self, ContainerdConf, ContainerdPlan, Import, Release};
use crate::domain::crio::CrioVersion;
use crate::domain::crio::annotation::USERNS_MODE;
use crate::domain::crio::config::{ConfFile, Content, Effective};
use crate::domain::crio::drop_in::{self, Wishes};
use crate::domain::finding::{Finding, Severity};
use crate::domain::nri_plugin::{self, NriConf, Required, SystemPod, Validator, ValidatorPlan};
use crate::domain::oci_hook::HookWish;
use crate::domain::provision::{FileChange, HostPath};
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
pub(super) const SCRATCH: &str = "/run";
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
    /// Those without which the node may not come up again, static pods that do not run yet among them.
    pub system: Vec<SystemPod>,
}

/// What the runtime's files are to bring about.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// CRI-O's drop-in.
    pub crio: &'a Wishes,
    /// Whether containerd is to offer NRI.
    pub containerd_nri: bool,
    /// The OCI hook.
    pub hook: &'a HookWish,
    /// Whether the pre-installed plugin is required.
    pub required: Required,
    /// Why the runtime would not launch it; `None` where it would.
    pub plugin_missing: Option<&'a str>,
    /// The node's system pods; `None` where the runtime does not answer, or runs no pod.
    pub system_pods: Option<&'a [SystemPod]>,
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
    let manifests = super::kubelet::static_pods(root)?;
    for (_, found) in &mut pods {
        found.system.extend(manifests.iter().cloned());
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
        found.system.extend(SystemPod::of(
            &listed.pod.namespace,
            &listed.pod.name,
            inspected.host_network,
            &inspected.sandbox.annotations,
        ));
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
pub fn plan(root: &HostRoot, runtime: Option<Runtime>, wanted: Wanted<'_>) -> Result<Part, BootstrapError> {
    let part = plan_by_rules(root, runtime, wanted)?;
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
    wanted: Wanted<'_>,
) -> Result<Part, BootstrapError> {
    let Some(runtime) = runtime else { return Ok(Part::default()) };
    let validator = validator(root, runtime, wanted)?;
    let mut part = match runtime {
        Runtime::Crio(version) => {
            let hook = hook::is_wanted(root, wanted.hook, Some(runtime), wanted.crio)?;
            plan_crio(root, version, Wishes { hook, validator: validator.becomes, ..wanted.crio.clone() })?
        }
        Runtime::Containerd(release) => {
            plan_containerd(root, release, wanted.containerd_nri, validator.becomes.as_ref())?
        }
    };
    part.findings.extend(validator.findings);
    Ok(part)
}

/// What becomes of the runtime's validator.
fn validator(root: &HostRoot, runtime: Runtime, wanted: Wanted<'_>) -> Result<ValidatorPlan, BootstrapError> {
    if wanted.required == Required::Off {
        return Ok(ValidatorPlan::default());
    }
    let is_required = |with_ours| -> Result<Option<NriConf>, BootstrapError> {
        nri_conf_of(root, runtime, wanted.crio.nri, wanted.containerd_nri, with_ours)
    };
    let Some(others) = is_required(false)? else { return Ok(ValidatorPlan::default()) };
    let was = is_required(true)?
        .is_some_and(|conf| conf.validator.required.iter().any(|name| name == nri_plugin::NAME));
    Ok(nri_plugin::plan_validator(
        wanted.required,
        runtime,
        &others.validator,
        wanted.plugin_missing,
        wanted.system_pods,
        was,
    ))
}

/// The runtime's NRI as its files set it, and as this program's drop-in is to; `None` where they cannot
/// be read.
///
/// # Errors
/// The root cannot be read.
pub(super) fn nri_conf(
    root: &HostRoot,
    runtime: Runtime,
    crio_nri: bool,
    containerd_nri: bool,
) -> Result<Option<NriConf>, BootstrapError> {
    nri_conf_of(root, runtime, crio_nri, containerd_nri, false)
}

/// The same with what this program's drop-in says now, where `with_ours`.
///
/// # Errors
/// The root cannot be read.
pub fn nri_conf_of(
    root: &HostRoot,
    runtime: Runtime,
    crio_nri: bool,
    containerd_nri: bool,
    with_ours: bool,
) -> Result<Option<NriConf>, BootstrapError> {
    match runtime {
        Runtime::Crio(version) => {
            let mut files =
                ConfRoot::open(root.path()).and_then(|conf| conf.crio()).map_err(CrioError::from)?;
            files.retain(|file| with_ours || file.path != drop_in::PATH);
            let effective = Effective::of(version, &files);
            let switched_on = crio_nri && version.has_nri() && effective.nri.file.is_none();
            let conf = effective.nri_conf();
            Ok(Some(NriConf { on: conf.on || switched_on, ..conf }))
        }
        Runtime::Containerd(release) => {
            let Ok(conf) = containerd_conf(root, release, with_ours)? else { return Ok(None) };
            let switched_on = containerd_nri && containerd::plan(release, &conf, None).drop_in.is_some();
            Ok(Some(conf.nri_conf(release, switched_on)))
        }
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

/// containerd's configuration: the main file and what it imports, this program's drop-in only where
/// `with_ours`; else why the main file cannot be read.
fn containerd_conf(
    root: &HostRoot,
    release: Release,
    with_ours: bool,
) -> Result<Result<ContainerdConf, String>, BootstrapError> {
    let main = match main_file(root)? {
        Ok(main) => ContainerdConf::of(main.as_ref()),
        Err(why) => return Ok(Err(why)),
    };
    let files = ConfRoot::open(root.path()).map_err(CrioError::from)?;
    let mut conf = main.clone();
    for import in main.imported() {
        let paths = match import {
            Import::File(path) => vec![path],
            Import::Directory(directory) => {
                let names = HostPath::parse(&directory).ok().map(|path| root.list(&path)).transpose()?;
                let is_toml = |name: &String| name.ends_with(".toml") && !name.starts_with('.');
                let names = names.unwrap_or_default().into_iter().filter(is_toml);
                names.map(|name| format!("{directory}/{name}")).collect()
            }
        };
        for path in paths.iter().filter(|path| with_ours || !path.ends_with(containerd::DROP_IN)) {
            // Of one that cannot be read containerd itself complains.
            if let Some(Content::Toml(table)) = files.toml(path).map(|file| file.content) {
                conf = conf.with_import(release, &table);
            }
        }
    }
    Ok(Ok(conf))
}

fn plan_containerd(
    root: &HostRoot,
    release: Release,
    nri: bool,
    validator: Option<&Validator>,
) -> Result<Part, BootstrapError> {
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let is_wanted = nri || validator.is_some();
    let conf = match containerd_conf(root, release, false)? {
        Ok(conf) => conf,
        Err(_) if !is_wanted => return Ok(Part::default()),
        Err(why) => {
            let what = format!("containerd does not start with {}: {why}", containerd::MAIN_FILE);
            let finding = Finding::error("containerd-undecodable", what, "repair it");
            return Ok(Part { findings: vec![finding], ..Part::default() });
        }
    };
    let nothing = ContainerdPlan { drop_in: None, findings: Vec::new() };
    let plan = if is_wanted { containerd::plan(release, &conf, validator) } else { nothing };
    let mut changes: Vec<FileChange> =
        written::containerd(&plan, &read).map_err(CrioError::from)?.into_iter().collect();
    // What an earlier run wrote for what is no longer wanted.
    if changes.is_empty()
        && let Some(change) = conf.drop_in_path().map(|path| gone(root, &path)).transpose()?.flatten()
    {
        changes.push(change);
    }
    if let Some(change) = changes.first() {
        root.read(&change.path)?;
    }
    Ok(Part { changes, findings: plan.findings, on_managed: OnManaged::Leave, ..Part::default() })
}

/// The removal of a drop-in that this program wrote.
fn gone(root: &HostRoot, path: &str) -> Result<Option<FileChange>, BootstrapError> {
    let path = HostPath::parse(path).map_err(CrioError::from)?;
    let old = root.read(&path)?.filter(|text| text.starts_with(nri_plugin::WRITTEN.as_bytes()));
    let is_ours = super::written(root)?.contains(&path);
    if old.is_none() || !is_ours {
        return Ok(None);
    }
    let read = |_: &HostPath| old.clone();
    let reason = "containerd does what is wanted without it";
    Ok(Some(written::whole(&path.to_string(), 0o644, None, reason, &read).map_err(CrioError::from)?))
}
