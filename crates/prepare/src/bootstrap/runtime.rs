//! The container runtime: detects which one the node has, and plans the files that it reads.

mod containerd;
mod crio;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::containerd::{NodeLayout, containerd_directories, containerd_files, layout};
pub use self::crio::{loaded_config, reads_containers};
use super::restart::Loaded;
use super::{BootstrapError, Part, hook};
use crate::crio::{CrioError, version as crio_version};
use crate::runtime_files::ConfRoot;
use usernsd_domain::chain::chain;
use usernsd_domain::container::UserNamespaceRequest;
use usernsd_domain::containerd::Release;
use usernsd_domain::crio::annotation::USERNS_MODE;
use usernsd_domain::crio::drop_in::CrioOptions;
use usernsd_domain::nri_plugin::{self, NriConf, Required, SystemPod, ValidatorPlan};
use usernsd_domain::oci_hook::HookOptions;
use usernsd_domain::provision::HostPath;
use usernsd_domain::ranges::Window;
use usernsd_domain::runtime::{Runtime, RuntimeKind, RuntimesFound};
use usernsd_linux::host::HostRoot;
use usernsd_linux::program;
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
        seen.programs.extend(crio_version(Path::new("crio")).ok().map(Runtime::Crio));
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
    match (runtime, change) {
        (Some(Runtime::Containerd(release)), Some(change)) => containerd::validate(root, release, change)?,
        (Some(Runtime::Crio(_)), Some(change)) => crio::validate(root, change)?,
        _ => {}
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
            crio::plan(
                root,
                version,
                CrioOptions { hook, validator: validator.becomes, ..wanted.crio.clone() },
            )?
        }
        Runtime::Containerd(release) => {
            containerd::plan(root, release, wanted.containerd_nri, validator.becomes.as_ref())?
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
        Runtime::Crio(version) => Ok(Some(crio::nri_conf(root, version, crio_nri, with_ours)?)),
        Runtime::Containerd(release) => containerd::nri_conf(root, release, containerd_nri, with_ours),
    }
}
