//! containerd's files: where the node's distribution has them, the configuration that they form, and the plan of the drop-in.

use std::collections::VecDeque;
use std::path::Path;

use rustix::io::Errno;

use super::SCRATCH;
use crate::bootstrap::{BootstrapError, OnManaged, Part, PartRefusal, data_directory, kubelet, written};
use crate::containerd::{self as containerd_program, ContainerdError, Planned};
use crate::crio::CrioError;
use crate::runtime_files::{ConfRoot, parse};
use usernsd_domain::containerd::directories::Directories;
use usernsd_domain::containerd::imports::{self, Import};
use usernsd_domain::containerd::layout::{Layout, PACKAGED};
use usernsd_domain::containerd::{self, ContainerdConf, ContainerdPlan, Release};
use usernsd_domain::crio::config::Content;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::nri_plugin::{self, NriConf, Validator};
use usernsd_domain::owned_files;
use usernsd_domain::provision::{FileChange, HostPath};
use usernsd_domain::toml::Table;
use usernsd_domain::unit_file;
use usernsd_linux::host::{HostError, HostRoot};
use usernsd_linux::program::ProgramError;

/// Plans the drop-in.
///
/// # Errors
/// containerd's files cannot be read.
pub(super) fn plan(
    root: &HostRoot,
    release: Release,
    nri: bool,
    validator: Option<&Validator>,
) -> Result<Part, BootstrapError> {
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let is_wanted = nri || validator.is_some();
    let conf = match containerd_conf(root, release, OurDropIn::Without)? {
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

/// Has containerd's own program validate its configuration with a change; a node without the program passes.
///
/// # Errors
/// containerd's files cannot be read, or containerd would not start with the change.
pub(super) fn validate(root: &HostRoot, release: Release, change: &FileChange) -> Result<(), BootstrapError> {
    let Some(bytes) = change.new.as_deref() else { return Ok(()) };
    let Content::Toml(table) = parse(bytes) else { return Ok(()) };
    let path = change.path.to_string();
    let Ok(files) = containerd_conf(root, release, OurDropIn::Planned(&path, &table))? else { return Ok(()) };
    let (program, version) = (Path::new("containerd"), files.conf.version);
    let planned = Planned { path, bytes };
    match containerd_program::validate(program, version, &files.order, planned, Path::new(SCRATCH)) {
        Err(ContainerdError::Program(ProgramError::Start { .. })) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// containerd's NRI settings; with `with_ours`, including the present drop-in of usernsd. `None` if they cannot be
/// read.
///
/// # Errors
/// The root cannot be read.
pub(super) fn nri_conf(
    root: &HostRoot,
    release: Release,
    nri: bool,
    with_ours: bool,
) -> Result<Option<NriConf>, BootstrapError> {
    let ours = if with_ours { OurDropIn::AsIs } else { OurDropIn::Without };
    let Ok(ContainerdFiles { conf, .. }) = containerd_conf(root, release, ours)? else {
        return Ok(None);
    };
    let switched_on = nri && containerd::plan(release, &conf, None).drop_in.is_some();
    Ok(Some(conf.nri_conf(release, switched_on)))
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
enum OurDropIn<'a> {
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
    ours: OurDropIn<'_>,
) -> Result<Result<ContainerdFiles, UnknownConf>, BootstrapError> {
    let files = ConfRoot::open(root.path()).map_err(CrioError::from)?;
    let (layout, main_file) = containerd_files(root)?;
    let managed = managed_directory(root, layout, &main_file)?;
    let mut read: Option<ContainerdConf> = None;
    let mut order = Vec::new();
    let mut pending = VecDeque::from([main_file.clone()]);
    while let Some(path) = pending.pop_front() {
        let is_ours = path.ends_with(&format!("/{}", containerd::DROP_IN));
        if order.contains(&path) || (is_ours && matches!(ours, OurDropIn::Without)) {
            continue;
        }
        let content = match ours {
            OurDropIn::Planned(planned, table) if planned == path => Some(Content::Toml(table.clone())),
            _ => files.toml(&path).map(|file| file.content),
        };
        let table = match content {
            None if path == main_file => break,
            None => {
                let why = format!("{main_file} imports {path}, which cannot be seen");
                return Ok(Err(UnknownConf::Imports(why)));
            }
            Some(Content::Toml(table)) => table,
            // The target of such a link may be visible elsewhere. containerd 2 starts without an imported file (seen with
            // 2.1.9 and 2.3.4), 1.7 does not.
            Some(Content::Unreadable(_)) if files.leads_nowhere(&path) => {
                let why = format!("{path} is a link that leads to no file here");
                return Ok(Err(UnknownConf::Imports(why)));
            }
            Some(Content::NotToml(why)) => return Ok(Err(UnknownConf::Stops(format!("{path}: {why}")))),
            Some(Content::Unreadable(why)) => {
                readable_here(root, &path)?;
                return Ok(Err(UnknownConf::Stops(format!("{path}: {why}"))));
            }
        };
        if let Some(why) = containerd::undecodable(release, &table) {
            return Ok(Err(UnknownConf::Stops(format!("{path}: {why}"))));
        }
        if containerd::refuses_byte_order_mark(release) && files.begins_with_byte_order_mark(&path) {
            let why =
                format!("{path}: it begins with a byte order mark (UTF-8 BOM); save the file without it");
            return Ok(Err(UnknownConf::Stops(why)));
        }
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
            unit_file::containerd_config(&kubelet::settings_of_unit(root, "containerd.service")?)
    {
        return Ok((layout, named));
    }
    Ok((layout, found.map_or_else(|| layout.main_file.to_owned(), |found| found.place(layout.main_file))))
}

/// Where containerd keeps images and containers on the node with the root `root`: in the usual directories, as far as its
/// files cannot be read.
#[must_use]
pub fn containerd_directories(root: &Path) -> Directories {
    let Ok(root) = HostRoot::open(root) else { return Directories::of(None, None, None) };
    // Both are merged alike by every release.
    let read = containerd_conf(&root, Release::new(2, 0), OurDropIn::AsIs);
    let conf = read.ok().and_then(Result::ok).map(|files| files.conf);
    let is_packaged = conf.as_ref().is_none_or(|conf| conf.layout.distribution.is_none());
    let unit = is_packaged.then(|| kubelet::settings_of_unit(&root, "containerd.service").ok()).flatten();
    // Go's flags have one dash or two.
    let flag = |flags: [&str; 2]| unit_file::path_of_flag(unit.as_ref()?, "containerd", &flags, &[]);
    Directories::of(conf.as_ref(), flag(["--root", "-root"]), flag(["--state", "-state"]))
}

/// The node's layout; `None` if containerd has no main file in a usual place.
///
/// # Errors
/// A unit or a distribution's configuration cannot be read.
pub fn layout(root: &HostRoot) -> Result<Option<NodeLayout>, BootstrapError> {
    let data = data_directory::all(root)?;
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
fn glob(root: &HostRoot, components: &[String], ours: OurDropIn<'_>) -> Result<Vec<String>, BootstrapError> {
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
            if let OurDropIn::Planned(planned, _) = ours
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

/// A finding if a file that is read after the planned drop-in overrides it.
fn undone(
    root: &HostRoot,
    release: Release,
    plan: &ContainerdPlan,
    validator: Option<&Validator>,
) -> Result<Option<Finding>, BootstrapError> {
    let Some((path, text)) = &plan.drop_in else { return Ok(None) };
    let Content::Toml(table) = parse(text.as_bytes()) else { return Ok(None) };
    let Ok(files) = containerd_conf(root, release, OurDropIn::Planned(path, &table))? else {
        return Ok(None);
    };
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
    let is_ours = written(root)?.contains(&path);
    if old.is_none() || !is_ours {
        return Ok(None);
    }
    let read = |_: &HostPath| old.clone();
    let reason = "containerd does what is wanted without it";
    Ok(Some(owned_files::whole(path, 0o644, None, reason, &read)))
}
