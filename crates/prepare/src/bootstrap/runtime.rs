//! The container runtime: detects which one the node has, and plans its drop-in.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use super::restart::Loaded;
use super::{BootstrapError, OnManaged, Part, PartRefusal, hook};
use crate::containerd::{self as containerd_program, ContainerdError, Planned};
use crate::crio::{self, CrioError};
use crate::runtime_files::{ConfRoot, live, parse};
use usernsd_domain::chain::chain;
use usernsd_domain::container::UserNamespaceRequest;
use usernsd_domain::containerd::imports::{self, Import};
use usernsd_domain::containerd::layout::{Layout, PACKAGED};
use usernsd_domain::containerd::{self, ContainerdConf, ContainerdPlan, Release};
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::annotation::USERNS_MODE;
use usernsd_domain::crio::config::{ConfFile, Content, Effective};
use usernsd_domain::crio::drop_in::{self, CrioOptions};
use usernsd_domain::finding::{Finding, FindingId, Severity};
use usernsd_domain::nri_plugin::{self, NriConf, Required, SystemPod, Validator, ValidatorPlan};
use usernsd_domain::oci_hook::HookOptions;
use usernsd_domain::owned_files;
use usernsd_domain::provision::{FileChange, HostPath};
use usernsd_domain::ranges::Window;
use usernsd_domain::runtime::{Runtime, RuntimeKind, RuntimesFound};
use usernsd_domain::toml::Table;
use usernsd_domain::unit_file;
use usernsd_linux::host::{HostError, HostRoot};
use usernsd_linux::program::{self, ProgramError};
use usernsd_peers::cri::{Cri, CriError, discover};

/// Time limit of a call; a runtime that does not answer within it counts as not running.
const PATIENCE: Duration = Duration::from_secs(5);
/// Directory for the copy that the runtime's own program validates: accessible to root only, and gone after a
/// reboot.
pub(super) const SCRATCH: &str = "/run";
/// Main files and programs of the runtimes: if one exists, the runtime is installed or will be.
const TRACES: [(RuntimeKind, &[&str]); 2] =
    [(RuntimeKind::Crio, &["/etc/crio", "crio"]), (RuntimeKind::Containerd, &["containerd"])];

/// Facts about the runtimes of the node.
#[derive(Debug, Default)]
pub struct NodeRuntimes {
    /// Evidence for the choice of the runtime.
    pub seen: RuntimesFound,
    /// The pods of each runtime that answered and listed them.
    pub pods: Vec<(RuntimeKind, RuntimePods)>,
    /// Why a runtime that answered did not list its pods.
    pub unlisted: Option<String>,
    /// The configuration that a CRI-O that answered has loaded.
    pub loaded: Option<Loaded>,
}

/// The pods of a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimePods {
    /// The number of pods.
    pub all: usize,
    /// The number of pods with their own user namespace.
    pub with_user_namespace: usize,
    /// Each such pod with its host IDs.
    pub windows: Vec<(String, Window)>,
    /// Pods without which the node may not come up again, including static pods that do not run yet.
    pub system: Vec<SystemPod>,
}

/// The settings that the runtime's files must establish.
#[derive(Debug, Clone, Copy)]
pub struct WantedSettings<'a> {
    /// Options of CRI-O's drop-in.
    pub crio: &'a CrioOptions,
    /// Whether containerd must offer NRI.
    pub containerd_nri: bool,
    /// Options of the OCI hook.
    pub hook: &'a HookOptions,
    /// For which pods the launched plugin is required.
    pub required: Required,
    /// Why the runtime would not launch the plugin; `None` if it would.
    pub plugin_missing: Option<&'a str>,
    /// The node's system pods; `None` if the runtime does not answer or runs no pod.
    pub system_pods: Option<&'a [SystemPod]>,
}

/// Whether the root is this system's own, so that its programs may be run.
pub(super) fn is_running_system(root: &HostRoot) -> bool {
    root.path() == Path::new("/")
}

/// Looks for runtimes: CRI sockets that answer (the named ones, or the usual ones below the root), the
/// versions that installed programs report (only on this system itself), and files of runtimes.
///
/// # Errors
/// The root cannot be read.
pub async fn find(root: &HostRoot, endpoints: &[PathBuf]) -> Result<NodeRuntimes, BootstrapError> {
    let NodeRuntimes { mut seen, mut pods, mut unlisted, mut loaded } = NodeRuntimes::default();
    let usual = || discover(root.path()).into_iter().filter_map(|(_, path)| inside(root, &path)).collect();
    let sockets: Vec<PathBuf> = if endpoints.is_empty() { usual() } else { endpoints.to_vec() };
    for socket in sockets {
        // A runtime that does not answer counts as not running.
        let cri = Cri::new(socket).with_deadline(PATIENCE);
        let Ok(version) = cri.version().await else { continue };
        if let Some(runtime) = Runtime::parse(&version.name, &version.version) {
            if let Runtime::Crio(version) = runtime {
                loaded = loaded_config(&cri, version).await;
            }
            seen.answered.push(runtime);
            match list_pods(&cri).await {
                Ok(found) => pods.push((runtime.kind(), found)),
                Err(error) => unlisted = Some(chain(&error)),
            }
        }
    }
    let manifests = super::kubelet::static_pods(root)?;
    for (_, found) in &mut pods {
        found.system.extend(manifests.iter().cloned());
    }
    let conf = ConfRoot::open(root.path()).map_err(CrioError::from)?;
    if layout(root)?.is_some() {
        seen.installed.push(RuntimeKind::Containerd);
    }
    for (kind, traces) in TRACES {
        if !seen.installed.contains(&kind) && traces.iter().any(|trace| conf.has_program(trace) == Some(true))
        {
            seen.installed.push(kind);
        }
    }
    if is_running_system(root) && seen.answered.is_empty() {
        seen.programs.extend(crio::version(Path::new("crio")).ok().map(Runtime::Crio));
        let output = program::run(Path::new("containerd"), &["--version"], PATIENCE);
        let release = output.ok().and_then(|output| Release::parse(&output.stdout).ok());
        seen.programs.extend(release.map(Runtime::Containerd));
    }
    Ok(NodeRuntimes { seen, pods, unlisted, loaded })
}

/// A path below the root without links; `None` if a link leaves the root, for example to this system's
/// sockets.
fn inside(root: &HostRoot, path: &Path) -> Option<PathBuf> {
    let path = HostPath::parse(path.strip_prefix(root.path()).ok()?.to_str()?).ok()?;
    let path = root.without_links(&path).ok()?;
    root.has(&path).ok()?.then(|| root.shown(&path))
}

/// The configuration that CRI-O has loaded; `None` if it does not report it.
pub async fn loaded_config(cri: &Cri, version: CrioVersion) -> Option<Loaded> {
    Some(Loaded { version, config: live::config(cri.path(), PATIENCE).await? })
}

async fn list_pods(cri: &Cri) -> Result<RuntimePods, CriError> {
    let mut found = RuntimePods::default();
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

/// Plans the files that the runtime reads.
///
/// # Errors
/// The runtime's files cannot be read, or the runtime would not start with the plan.
pub fn plan(
    root: &HostRoot,
    runtime: Option<Runtime>,
    wanted: WantedSettings<'_>,
) -> Result<Part, BootstrapError> {
    let part = plan_by_rules(root, runtime, wanted)?;
    let change = part.changes.first().filter(|change| change.is_needed() && is_running_system(root));
    if let (Some(Runtime::Containerd(release)), Some(change)) = (runtime, change)
        && let Some(new) = change.new.as_deref()
        && let Content::Toml(table) = parse(new)
        && let Ok(files) = containerd_conf(root, release, Ours::Planned(&change.path.to_string(), &table))?
    {
        let planned = Planned { path: change.path.to_string(), bytes: new };
        let (program, version) = (Path::new("containerd"), files.conf.version);
        match containerd_program::validate(program, version, &files.order, planned, Path::new(SCRATCH)) {
            Err(ContainerdError::Program(ProgramError::Start { .. })) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let (Some(Runtime::Crio(_)), Some(change)) = (runtime, change) {
        let read = |path: &HostPath| root.read(path).ok().flatten();
        let files = ConfRoot::open(root.path()).and_then(|conf| conf.crio()).map_err(CrioError::from)?;
        match crio::validate(Path::new("crio"), &[change], &files, Path::new(SCRATCH), &read) {
            // CRI-O is not installed on this node, or not yet.
            Err(CrioError::Program(ProgramError::Start { .. })) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(part)
}

/// Like [`plan`], by usernsd's rules alone: the runtime's program is not run.
///
/// # Errors
/// The runtime's files cannot be read, or the runtime would not start with the plan.
pub fn plan_by_rules(
    root: &HostRoot,
    runtime: Option<Runtime>,
    wanted: WantedSettings<'_>,
) -> Result<Part, BootstrapError> {
    let Some(runtime) = runtime else { return Ok(Part::default()) };
    let validator = validator(root, runtime, wanted)?;
    let mut part = match runtime {
        Runtime::Crio(version) => {
            let hook = hook::is_wanted(root, wanted.hook, Some(runtime), wanted.crio)?;
            plan_crio(
                root,
                version,
                CrioOptions { hook, validator: validator.becomes, ..wanted.crio.clone() },
            )?
        }
        Runtime::Containerd(release) => {
            plan_containerd(root, release, wanted.containerd_nri, validator.becomes.as_ref())?
        }
    };
    part.findings.extend(validator.findings);
    Ok(part)
}

/// Plans the runtime's validator.
fn validator(
    root: &HostRoot,
    runtime: Runtime,
    wanted: WantedSettings<'_>,
) -> Result<ValidatorPlan, BootstrapError> {
    if wanted.required == Required::Off {
        return Ok(ValidatorPlan::default());
    }
    let conf_with = |with_ours| -> Result<Option<NriConf>, BootstrapError> {
        nri_conf_of(root, runtime, wanted.crio.nri, wanted.containerd_nri, with_ours)
    };
    let Some(others) = conf_with(false)? else { return Ok(ValidatorPlan::default()) };
    let was = conf_with(true)?
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

/// The runtime's NRI settings, from its files and from the planned drop-in; `None` if they cannot be read.
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

/// The runtime's NRI settings; with `with_ours`, including the present drop-in of usernsd.
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
            let ours = if with_ours { Ours::AsIs } else { Ours::Without };
            let Ok(ContainerdFiles { conf, .. }) = containerd_conf(root, release, ours)? else {
                return Ok(None);
            };
            let switched_on = containerd_nri && containerd::plan(release, &conf, None).drop_in.is_some();
            Ok(Some(conf.nri_conf(release, switched_on)))
        }
    }
}

/// Whether CRI-O gives pods IDs from the range of `containers`: whether pods may ask for a user namespace by
/// annotation, by CRI-O's files or by the drop-in that is planned. From Kubernetes 1.33 on such pods fail in
/// any case, so it must be enabled explicitly.
///
/// # Errors
/// The root cannot be read.
pub fn reads_containers(
    root: &HostRoot,
    runtime: Option<Runtime>,
    options: &CrioOptions,
) -> Result<bool, BootstrapError> {
    let Some(Runtime::Crio(version)) = runtime else { return Ok(false) };
    if version.at_least(33) && options.userns_mode != Some(true) {
        return Ok(false);
    }
    let conf = ConfRoot::open(root.path()).map_err(CrioError::from)?;
    let mut files = conf.crio().map_err(CrioError::from)?;
    let programs = |program: &str| conf.has_program(program);
    let node = drop_in::CrioNode { version, kubernetes: None, files: Some(&files), programs: &programs };
    let planned = drop_in::plan(node, options.clone()).ok().and_then(|plan| plan.text);
    files.retain(|file| file.path != drop_in::PATH);
    files.extend(planned.map(|text| ConfFile {
        path: drop_in::PATH.to_owned(),
        link: false,
        content: parse(text.as_bytes()),
    }));
    Ok(Effective::of(version, &files).allows(&USERNS_MODE))
}

fn plan_crio(root: &HostRoot, version: CrioVersion, options: CrioOptions) -> Result<Part, BootstrapError> {
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let plan = crio::plan(root.path(), version, None, options, &read)?;
    let mut part = Part { findings: plan.findings, on_managed: OnManaged::Leave, ..Part::default() };
    if !plan.change.is_needed() {
        return Ok(part);
    }
    // An unreadable file counted as missing above; this returns the error.
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

/// containerd's configuration: all files, in the order in which containerd loads them.
struct ContainerdFiles {
    conf: ContainerdConf,
    /// The main file first, if it exists.
    order: Vec<String>,
}

/// Why containerd's configuration is unknown.
enum UnknownConf {
    /// containerd does not start with a file.
    Stops(String),
    /// An imported file is not visible, or cannot be determined.
    Imports(String),
}

/// How usernsd's drop-in is treated when containerd's configuration is read.
#[derive(Clone, Copy)]
enum Ours<'a> {
    /// The file is read like any other.
    AsIs,
    /// The file is left out.
    Without,
    /// This content is used at this path.
    Planned(&'a str, &'a Table),
}

/// Reads containerd's configuration as containerd does (`LoadConfig`): each file once, and imports after the
/// files that are known already.
fn containerd_conf(
    root: &HostRoot,
    release: Release,
    ours: Ours<'_>,
) -> Result<Result<ContainerdFiles, UnknownConf>, BootstrapError> {
    let files = ConfRoot::open(root.path()).map_err(CrioError::from)?;
    let (layout, main_file) = containerd_files(root)?;
    let managed = managed_directory(root, layout, &main_file)?;
    let mut read: Option<ContainerdConf> = None;
    let mut order = Vec::new();
    let mut pending = VecDeque::from([main_file.clone()]);
    while let Some(path) = pending.pop_front() {
        let is_ours = path.ends_with(&format!("/{}", containerd::DROP_IN));
        if order.contains(&path) || (is_ours && matches!(ours, Ours::Without)) {
            continue;
        }
        let content = match ours {
            Ours::Planned(planned, table) if planned == path => Some(Content::Toml(table.clone())),
            _ => files.toml(&path).map(|file| file.content),
        };
        let table = match content {
            None if path == main_file => break,
            None => {
                let why = format!("{main_file} imports {path}, which cannot be seen");
                return Ok(Err(UnknownConf::Imports(why)));
            }
            Some(Content::Toml(table)) => table,
            Some(Content::NotToml(why)) => return Ok(Err(UnknownConf::Stops(format!("{path}: {why}")))),
            Some(Content::Unreadable(why)) => {
                readable_here(root, &path)?;
                return Ok(Err(UnknownConf::Stops(format!("{path}: {why}"))));
            }
        };
        let mut conf = ContainerdConf::of(Some(&table));
        if path == main_file {
            conf = conf.in_layout(layout, &main_file);
            if let Some(pattern) = managed.as_ref().filter(|pattern| !conf.imports.contains(*pattern)) {
                conf.imports.push(pattern.clone());
            }
        }
        for entry in &conf.imports {
            match imports::import(&path, entry) {
                Import::File(path) => pending.push_back(path),
                Import::Pattern(components) => pending.extend(glob(root, &components, ours)?),
                Import::Malformed(pattern) => {
                    let why = format!("{path}: imports names {pattern:?}, which is no pattern");
                    return Ok(Err(UnknownConf::Stops(why)));
                }
            }
        }
        read = Some(match read {
            None => conf,
            Some(main) => main.with_import(release, &table).imported_from(&path, &conf),
        });
        order.push(path);
    }
    let conf = read.unwrap_or_else(|| ContainerdConf::of(None).in_layout(layout, &main_file));
    Ok(Ok(ContainerdFiles { conf, order }))
}

/// Fails for a file that exists and that this process may not read, as the agent most files: containerd may read it, so
/// its configuration is not known here.
fn readable_here(root: &HostRoot, path: &str) -> Result<(), BootstrapError> {
    let path = HostPath::parse(path)?;
    // What the agent's reader refuses counts as missing.
    if matches!(root.read(&path), Ok(None)) {
        let path = root.shown(&path);
        return Err(HostError::Call { doing: "reading", path, errno: Errno::ACCESS }.into());
    }
    Ok(())
}

/// The node's layout, and containerd's main file, which may be missing: that of the distribution, or the one that a
/// unit of containerd names.
///
/// # Errors
/// A file cannot be looked for.
pub fn containerd_files(root: &HostRoot) -> Result<(&'static Layout, String), BootstrapError> {
    let found = layout(root)?;
    let layout = found.as_ref().map_or(&PACKAGED, |found| found.layout);
    if layout.distribution.is_none()
        && let Some(named) =
            unit_file::containerd_config(&super::kubelet::settings_of_unit(root, "containerd.service")?)
    {
        return Ok((layout, named));
    }
    Ok((layout, found.map_or_else(|| layout.main_file.to_owned(), |found| found.place(layout.main_file))))
}

/// The node's layout; `None` if containerd has no main file in a usual place.
///
/// # Errors
/// A unit or a distribution's configuration cannot be read.
pub fn layout(root: &HostRoot) -> Result<Option<NodeLayout>, BootstrapError> {
    let data = super::data_directory::all(root)?;
    let of = |layout: &'static Layout| {
        let usual = layout.data.map_or("", |data| data.usual);
        data.iter().find(|(of, _)| *of == layout).map_or(usual, |(_, directory)| directory.as_str())
    };
    let exists = |path: &str| HostPath::parse(path).is_ok_and(|path| root.has(&path).unwrap_or(false));
    let place = |layout: &'static Layout, path: &str| layout.in_data(path, of(layout));
    Ok(Layout::of(&exists, &place).map(|layout| NodeLayout { layout, data: of(layout).to_owned() }))
}

/// A node's layout, with the directory in which the distribution's data are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLayout {
    pub layout: &'static Layout,
    data: String,
}

impl NodeLayout {
    /// The place of one of the layout's files on this node.
    #[must_use]
    pub fn place(&self, path: &str) -> String {
        self.layout.in_data(path, &self.data)
    }
}

/// What the distribution adds to the imports of a main file that it writes itself.
fn managed_directory(
    root: &HostRoot,
    layout: &Layout,
    main_file: &str,
) -> Result<Option<String>, BootstrapError> {
    let Some(managed) = layout.managed else { return Ok(None) };
    let path = HostPath::parse(main_file)?;
    let text = root.read(&path)?.unwrap_or_default();
    let is_managed = text.split(|byte| *byte == b'\n').next() == Some(managed.first_line.as_bytes());
    Ok(is_managed.then(|| format!("{}/*.toml", managed.directory)))
}

/// The paths that match a pattern, in Go's order (`filepath.Glob`): sorted by each component in turn.
fn glob(root: &HostRoot, components: &[String], ours: Ours<'_>) -> Result<Vec<String>, BootstrapError> {
    let mut found = vec![String::new()];
    for component in components {
        let mut next = Vec::new();
        for directory in found {
            if !imports::is_pattern(component) {
                next.push(format!("{directory}/{component}"));
                continue;
            }
            let path = match directory.as_str() {
                "" => HostPath::fixed("."),
                directory => HostPath::parse(directory)?,
            };
            let mut names = root.list(&path)?;
            if let Ours::Planned(planned, _) = ours
                && let Some((parent, name)) = planned.rsplit_once('/')
                && parent == directory
            {
                names.push(name.to_owned());
                names.sort();
                names.dedup();
            }
            let names = names.into_iter().filter(|name| imports::matches(component, name));
            next.extend(names.map(|name| format!("{directory}/{name}")));
        }
        found = next;
    }
    Ok(found)
}

fn plan_containerd(
    root: &HostRoot,
    release: Release,
    nri: bool,
    validator: Option<&Validator>,
) -> Result<Part, BootstrapError> {
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let is_wanted = nri || validator.is_some();
    let conf = match containerd_conf(root, release, Ours::Without)? {
        Ok(files) => files.conf,
        Err(_) if !is_wanted => return Ok(Part::default()),
        Err(UnknownConf::Stops(why)) => {
            let what = format!("containerd does not start with {why}");
            let finding = Finding::error(FindingId::ContainerdUndecodable, what, "correct that file");
            let refused = Some(PartRefusal::Runtime(finding.clone()));
            return Ok(Part { findings: vec![finding], refused, ..Part::default() });
        }
        Err(UnknownConf::Imports(why)) => {
            return Ok(Part { findings: vec![containerd::unknown_imports(&why)], ..Part::default() });
        }
    };
    let nothing = ContainerdPlan { drop_in: None, findings: Vec::new() };
    let mut plan = if is_wanted { containerd::plan(release, &conf, validator) } else { nothing };
    if let Some(undone) = undone(root, release, &plan, validator)? {
        plan.drop_in = None;
        plan.findings.push(undone);
    }
    let mut changes: Vec<FileChange> = owned_files::containerd(&plan, &read)?.into_iter().collect();
    // A drop-in of an earlier run that is no longer wanted.
    if changes.is_empty()
        && let Some(change) = conf.drop_in_path().map(|path| gone(root, &path)).transpose()?.flatten()
    {
        changes.push(change);
    }
    if let Some(change) = changes.first() {
        root.read(&change.path)?;
    }
    plan.findings.extend(containerd::examine(release, &conf));
    Ok(Part { changes, findings: plan.findings, on_managed: OnManaged::Leave, ..Part::default() })
}

/// A finding if a file that is read after the planned drop-in overrides it.
fn undone(
    root: &HostRoot,
    release: Release,
    plan: &ContainerdPlan,
    validator: Option<&Validator>,
) -> Result<Option<Finding>, BootstrapError> {
    let Some((path, text)) = &plan.drop_in else { return Ok(None) };
    let Content::Toml(table) = parse(text.as_bytes()) else { return Ok(None) };
    let Ok(files) = containerd_conf(root, release, Ours::Planned(path, &table))? else { return Ok(None) };
    let nri = files.conf.nri_conf(release, false);
    let is_required = validator
        .is_none_or(|wanted| wanted.required.iter().all(|name| nri.validator.required.contains(name)));
    let after: Vec<String> = files.order.iter().skip_while(|one| *one != path).skip(1).cloned().collect();
    Ok((!(nri.on && is_required)).then(|| containerd::undone(path, &after)))
}

/// Plans the removal of a drop-in that usernsd wrote.
fn gone(root: &HostRoot, path: &str) -> Result<Option<FileChange>, BootstrapError> {
    let path = HostPath::parse(path)?;
    let old = root.read(&path)?.filter(|text| text.starts_with(nri_plugin::WRITTEN.as_bytes()));
    let is_ours = super::written(root)?.contains(&path);
    if old.is_none() || !is_ours {
        return Ok(None);
    }
    let read = |_: &HostPath| old.clone();
    let reason = "containerd does what is wanted without it";
    Ok(Some(owned_files::whole(path, 0o644, None, reason, &read)))
}
