//! The launched plugin: this program in the runtime's directory of NRI plugins, and its configuration.
//!
//! A problem with the plugin never stops the rest of the preparation: it becomes a finding, and the agent
//! joins NRI instead.

use std::path::Path;
use std::time::Duration;

use super::program::{Installed, Obstacle, installed, obstacle};
use super::runtime::{is_running_system, nri_conf};
use super::{BootstrapError, OnManaged, Part, journal};
use usernsd_domain::chain::chain;
use usernsd_domain::check::plugin::differ;
use usernsd_domain::crio::drop_in::CrioOptions;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::nri_plugin::{
    NAME, NriConf, PluginInstall, PluginOptions, file_name, is_file_name, is_settings, settings, unsupported,
};
use usernsd_domain::owned_files::{program, staging, whole};
use usernsd_domain::provision::{FileChange, Form, HostPath};
use usernsd_domain::runtime::Runtime;
use usernsd_linux::host::{HostError, HostRoot, OwnProgram};
use usernsd_linux::proc::Proc;
use usernsd_linux::program::run;

/// Time limit for a program to report its version.
const PATIENCE: Duration = Duration::from_secs(3);

/// The planned change of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginChange {
    /// Install it, or update it to this version.
    Install,
    /// Remove the plugin and its configuration.
    Remove,
    /// Leave it unchanged; holds the reason why it is not installed.
    Leave(String),
}

/// The version that a program with this name reports when it is run; `None` if it reports none.
#[must_use]
pub fn version(program: &Path) -> Option<String> {
    let output = run(program, &["--version"], PATIENCE).ok()?;
    let version = output.stdout.strip_prefix(NAME)?.trim();
    (output.success && !version.is_empty()).then(|| version.chars().take(80).collect())
}

/// The version of the program at `installed`, if the running plugin is another program; `None` if both are the same,
/// or it reports no version. `root` must be this system's own. The process's program is not started to ask for its
/// version: a process chooses its own name.
pub(super) fn versions(root: &HostRoot, installed: &HostPath) -> Option<String> {
    let proc = Proc::new(&root.path().join("proc"));
    let (pid, _) = proc.of_program(is_file_name).ok()?.into_iter().next()?;
    if proc.program_of(pid) == root.identity(installed).ok()? {
        return None;
    }
    let installed = version(&root.path().join(installed.as_str()))?;
    Some(differ(None, Some(&installed)))
}

/// The observed state of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPlugin {
    /// The planned change of the plugin.
    pub decision: PluginChange,
    /// Why the runtime would not launch the plugin; `None` if it would.
    pub missing: Option<String>,
    /// The runtime's NRI settings; `None` if no runtime is known.
    pub conf: Option<NriConf>,
    findings: Vec<Finding>,
    /// Paths of the program and of its configuration.
    paths: Option<[HostPath; 2]>,
    /// Digest of the installed program.
    there: Option<String>,
    programs: Vec<Installed>,
    configs: Vec<HostPath>,
}

/// Observes the plugin on the node.
///
/// # Errors
/// The runtime's configuration or the journal cannot be read.
pub fn observe(
    root: &HostRoot,
    desired: &PluginOptions,
    runtime: Option<Runtime>,
    options: &CrioOptions,
    containerd_nri: bool,
) -> Result<ObservedPlugin, BootstrapError> {
    let conf =
        runtime.map(|runtime| nri_conf(root, runtime, options.nri, containerd_nri)).transpose()?.flatten();
    let mut observed = ObservedPlugin {
        decision: PluginChange::Remove,
        missing: None,
        conf,
        findings: Vec::new(),
        paths: None,
        there: None,
        programs: installed(root, |path| is_file_name(path.name()))?,
        configs: configs(root)?,
    };
    let note = |what: String, remedy: &str| Finding {
        remedy: remedy.to_owned(),
        ..Finding::note(FindingId::PluginNotLaunched, what)
    };
    let unknown = "which container runtime the node has is not known";
    let (decision, missing, finding) = match (runtime, &observed.conf) {
        _ if desired.install == PluginInstall::Never => {
            (PluginChange::Remove, "bootstrap.nri.plugin is never".into(), None)
        }
        _ if desired.idle.is_some() => {
            let why = desired.idle.unwrap_or_default();
            let what = format!("the runtime does not launch usernsd as an NRI plugin: {why}");
            (PluginChange::Remove, why.to_owned(), Some(note(what, "")))
        }
        (None, _) => (PluginChange::Leave(unknown.into()), unknown.into(), None),
        (Some(_), None) => {
            let why = "the runtime's configuration cannot be read";
            (PluginChange::Leave(why.into()), why.into(), None)
        }
        (Some(runtime), Some(conf)) => match unsupported(runtime) {
            Some(why) => {
                let what =
                    "the runtime does not launch usernsd as an NRI plugin, and the agent joins NRI instead";
                (PluginChange::Remove, why.clone(), Some(note(format!("{what}: {why}"), "")))
            }
            None if !conf.on => (PluginChange::Remove, "NRI is off".into(), None),
            None => match examine_directories(root, desired, &conf.clone(), &mut observed) {
                Ok(()) => {
                    observed.decision = PluginChange::Install;
                    return Ok(observed);
                }
                Err(CannotInstall { what, remedy }) => {
                    let finding = Finding::warning(FindingId::PluginNotInstalled, what.clone(), &remedy);
                    (PluginChange::Leave(what.clone()), what, Some(finding))
                }
            },
        },
    };
    observed.decision = decision;
    observed.missing = Some(missing);
    observed.findings.extend(finding);
    Ok(observed)
}

/// Why the plugin cannot be installed.
struct CannotInstall {
    what: String,
    remedy: String,
}

fn cannot_install<T>(what: String, remedy: impl Into<String>) -> Result<T, CannotInstall> {
    Err(CannotInstall {
        what: format!("usernsd cannot be installed as an NRI plugin: {what}"),
        remedy: remedy.into(),
    })
}

/// A file that cannot be examined prevents only the plugin.
impl From<HostError> for CannotInstall {
    fn from(error: HostError) -> CannotInstall {
        let what = format!("usernsd cannot be installed as an NRI plugin: {error}");
        CannotInstall { what, remedy: "correct that, or set bootstrap.nri.plugin to never".to_owned() }
    }
}

/// Whether the plugin can be installed.
fn examine_directories(
    root: &HostRoot,
    desired: &PluginOptions,
    conf: &NriConf,
    observed: &mut ObservedPlugin,
) -> Result<(), CannotInstall> {
    let NriConf { plugin_dir, config_dir, .. } = conf;
    let directory = |text: &str| {
        let absolute = HostPath::parse(text.trim_end_matches('/')).ok().filter(|_| text.starts_with('/'));
        absolute.map_or_else(
            || {
                cannot_install(
                    format!("{text:?} is no absolute path"),
                    "name another directory in the runtime's configuration",
                )
            },
            |path| Ok(root.without_links(&path)?),
        )
    };
    let (plugins, configs) = (directory(plugin_dir)?, directory(config_dir)?);
    let name = file_name(desired.index);
    let file = |dir: &HostPath, name: &str| {
        dir.join(name).or_else(|error| cannot_install(chain(&error), "name another directory"))
    };
    let (path, config) = (file(&plugins, &name)?, file(&configs, &format!("{name}.conf"))?);
    for (dir, text) in [(&plugins, plugin_dir), (&configs, config_dir)] {
        if root.is_read_only(dir)? {
            let what = format!("{text} is on a file system that is mounted read-only");
            let remedy = if is_running_system(root) {
                "name a directory that can be written as plugin_path (containerd) or nri_plugin_dir (CRI-O), or \
                 install the file with the system's image, docs/nri-plugin.md"
                    .to_owned()
            } else {
                format!(
                    "on an image-based host name a directory that can be written as plugin_path (containerd) or \
                     nri_plugin_dir (CRI-O); where the host can write it, mount {text}, or a directory above it, into \
                     the bootstrap container"
                )
            };
            return cannot_install(what, remedy);
        }
    }
    // The program is written in this directory and then renamed.
    let Some(above) = staging(&path) else {
        return cannot_install(
            format!(
                "{plugin_dir} is in the root directory, and a file is made beside it before it is put there"
            ),
            "name a directory further below as plugin_path (containerd) or nri_plugin_dir (CRI-O)",
        );
    };
    if !root.is_one_file_system([&plugins, &above])? {
        let what = format!(
            "{plugin_dir} is a mount of its own, and a file is made beside it before it is put there"
        );
        return cannot_install(
            what,
            "name a directory below that mount as plugin_path (containerd) or nri_plugin_dir (CRI-O)",
        );
    }
    let there = root.digest(&path)?;
    let own = OwnProgram::open()?;
    let stands = obstacle(root, &path, &own, there.as_ref(), &observed.programs);
    match stands.map_err(|error| CannotInstall { what: chain(&error), remedy: String::new() })? {
        Some(Obstacle::Foreign) => {
            return cannot_install(
                format!("{path} is there, and was not written by usernsd bootstrap"),
                "move it away, or set another nri.pluginIndex",
            );
        }
        Some(Obstacle::NoExec) => {
            return cannot_install(
                format!("no program can be started from {plugin_dir}, which is mounted noexec"),
                "name another directory as plugin_path (containerd) or nri_plugin_dir (CRI-O)",
            );
        }
        Some(Obstacle::Loader(loader)) => {
            return cannot_install(
                format!("this program needs {loader}, which the node does not have"),
                "use one that is linked statically, as the container image has it",
            );
        }
        None => {}
    }
    if there.is_some() && root.attributes(&path)?.is_some_and(|attributes| attributes.mode & 0o111 == 0) {
        return cannot_install(format!("{path} is not executable"), format!("chmod 755 {path}"));
    }
    // Two plugins would change the same container, which NRI refuses.
    for other in root.list(&plugins)?.into_iter().filter(|other| is_file_name(other) && *other != name) {
        let Ok(twin) = plugins.join(&other) else { continue };
        if !observed.programs.iter().any(|(known, _)| *known == twin) {
            return cannot_install(
                format!("{twin} is there already, and two plugins {NAME} refuse each other's changes"),
                format!("remove {twin}"),
            );
        }
    }
    if let Some(text) = root.read(&config)?
        && !is_settings(&text)
    {
        return cannot_install(format!("{config} is there, and was not written by usernsd"), "move it away");
    }
    observed.there = there;
    observed.paths = Some([path, config]);
    Ok(())
}

/// Configurations that earlier runs wrote and that still exist.
fn configs(root: &HostRoot) -> Result<Vec<HostPath>, BootstrapError> {
    let mut found: Vec<HostPath> = Vec::new();
    for file in journal(root)?.runs.iter().flat_map(|run| &run.files) {
        if let (Form::Content, Ok(path)) = (file.form(), file.path())
            && file.new_bytes().is_some_and(is_settings)
            && !found.contains(&path)
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// Plans the plugin: its configuration before the program, and before both the removal of what an earlier
/// index or directory has left, because two plugins of one name refuse each other's changes.
///
/// # Errors
/// A file cannot be read.
pub fn plan(
    root: &HostRoot,
    desired: &PluginOptions,
    observed: &ObservedPlugin,
) -> Result<Part, BootstrapError> {
    let mut part =
        Part { findings: observed.findings.clone(), on_managed: OnManaged::Leave, ..Part::default() };
    let (PluginChange::Install, Some([path, config])) = (&observed.decision, &observed.paths) else {
        return Ok(part);
    };
    part.changes = removals(root, observed, &[path, config])?;
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let text = settings(&config.to_string(), &desired.settings).into_bytes();
    let reason = "the launched plugin is configured with it, and reads it again when it changes";
    part.changes.push(whole(config.clone(), 0o644, Some(text), reason, &read));
    let reason = "the container runtime launches this program as an NRI plugin when it starts";
    let digest = OwnProgram::open()?.digest().to_owned();
    part.changes.push(program(path.clone(), observed.there.clone(), Some(digest), reason));
    part.changes.retain(FileChange::is_needed);
    Ok(part)
}

/// Plans the removal of the plugin, after the runtime's configuration, which may require it.
///
/// # Errors
/// A file cannot be read.
pub fn plan_removal(root: &HostRoot, observed: &ObservedPlugin) -> Result<Part, BootstrapError> {
    let mut part = Part { on_managed: OnManaged::Leave, ..Part::default() };
    if observed.decision == PluginChange::Remove {
        part.changes = removals(root, observed, &[])?;
    }
    Ok(part)
}

/// Plans the removal of what earlier runs wrote and is not kept, the program before its configuration.
fn removals(
    root: &HostRoot,
    observed: &ObservedPlugin,
    keep: &[&HostPath],
) -> Result<Vec<FileChange>, BootstrapError> {
    const GONE: &str = "the container runtime no longer launches this plugin from there";
    let mut changes: Vec<FileChange> = Vec::new();
    for (path, digest) in observed.programs.iter().filter(|(path, _)| !keep.contains(&path)) {
        let there = root.digest(path)?;
        if there.as_ref() == Some(digest) && !changes.iter().any(|change| change.path == *path) {
            changes.push(program(path.clone(), there, None, GONE));
        }
    }
    for path in observed.configs.iter().filter(|path| !keep.contains(path)) {
        let old = root.read(path)?.filter(|text| is_settings(text));
        if old.is_some() {
            let read = |_: &HostPath| old.clone();
            changes.push(whole(path.clone(), 0o644, None, GONE, &read));
        }
    }
    Ok(changes)
}
