//! Services that run with an outdated configuration, and their restart.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::runtime::{RuntimePods, SCRATCH, containerd_files, is_running_system, layout};
use super::{BootstrapError, journal, plugin};
use crate::containerd::{self as containerd_program, ContainerdError};
use crate::crio::{self, CrioError, errors_with};
use crate::runtime_files::ConfRoot;
use usernsd_domain::chain::chain;
use usernsd_domain::containerd::layout::PACKAGED;
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::config::{ConfFile, DROP_IN_DIR, Effective, MAIN_FILE};
use usernsd_domain::crio::loaded::differences;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::idplan::CONTAINERS;
use usernsd_domain::kubelet;
use usernsd_domain::nri_plugin;
use usernsd_domain::paths::{PASSWD, SUBGID, SUBUID};
use usernsd_domain::provision::{FileChange, HostPath, differing_lines};
use usernsd_domain::restart::{
    ChangedFile, Running, SET_ELSEWHERE, Service, Unread, pending, to_restart, units_to_restart, warnings,
};
use usernsd_linux::host::HostRoot;
use usernsd_linux::program::ProgramError;
use usernsd_peers::systemd::{SYSTEM_BUS, Systemd, SystemdError};

/// Time limit of a restart. CRI-O and the kubelet report readiness within seconds; a loaded node takes
/// longer.
const PATIENCE: Duration = Duration::from_secs(90);
/// Files that only one service reads, apart from CRI-O's drop-ins and the runtime's directory of launched
/// plugins.
const FILES: [&str; 7] = [
    MAIN_FILE,
    DROP_IN_DIR,
    nri_plugin::PLUGIN_DIR,
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/kubelet-config.yaml",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeconfig.yaml",
];
/// A directory of drop-ins of the kubelet.
const DIRECTORY: &str = "/etc/kubernetes/kubelet.conf.d";

/// The configuration that a running CRI-O has loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The running version.
    pub version: CrioVersion,
    /// The answer to `/config`.
    pub config: ConfFile,
}

/// The node's services and their start times, from systemd.
#[derive(Debug)]
pub struct Services {
    systemd: Systemd,
    running: Vec<Running>,
}

/// Why a service is not restarted.
#[derive(Debug, Error)]
pub enum RestartError {
    /// systemd cannot be reached.
    #[error(
        "nothing is restarted: systemd cannot be asked; on a node that is not this system, its bus must be at {SYSTEM_BUS} below the root"
    )]
    NoSystemd,
    /// The restart would do harm while pods run.
    #[error("{0}; nothing was changed, and nothing restarted")]
    Harm(String),
    /// The service would not start again.
    #[error(
        "{unit} would not start again: {why}; nothing was restarted: correct that, or take back what was written \
         with usernsd bootstrap --undo"
    )]
    WontStart {
        /// The service's unit.
        unit: &'static str,
        /// The configuration error.
        why: String,
    },
    /// The service does not run after the restart.
    #[error(
        "{unit} does not run after its restart: {error}; look at journalctl --unit {unit}, and take back what was \
         written with usernsd bootstrap --undo --restart"
    )]
    Failed {
        /// The service's unit.
        unit: &'static str,
        error: SystemdError,
    },
}

impl RestartError {
    /// The same error, worded for the case that nothing has been written yet.
    #[must_use]
    pub fn before_any_change(self) -> RestartError {
        match self {
            RestartError::WontStart { unit, why } => {
                RestartError::Harm(format!("{unit} would not start again: {why}"))
            }
            other => other,
        }
    }
}

/// The bus socket of the node's systemd; `None` if the root is not a running system.
#[must_use]
pub fn bus_of(root: &HostRoot, configured: Option<&PathBuf>) -> Option<PathBuf> {
    if is_running_system(root) {
        return configured.filter(|bus| bus.exists()).cloned();
    }
    // A link that leaves the root would lead to the bus of this system.
    let bus = HostPath::parse(SYSTEM_BUS).ok().and_then(|bus| root.without_links(&bus).ok())?;
    root.has(&bus).ok()?.then(|| root.shown(&bus))
}

/// The unit in which a service runs, and since when.
///
/// # Errors
/// systemd does not answer.
pub async fn running_service(systemd: &Systemd, service: Service) -> Result<Running, SystemdError> {
    for unit in service.units() {
        let since = systemd.running_since(unit).await?;
        if since.is_some() {
            return Ok(Running { service, unit, since });
        }
    }
    Ok(Running { service, unit: service.unit(), since: None })
}

impl Services {
    /// Asks systemd for the services' start times.
    ///
    /// # Errors
    /// systemd does not answer.
    pub async fn ask(bus: &Path) -> Result<Services, SystemdError> {
        let systemd = Systemd::connect(bus).await?;
        let mut running = Vec::new();
        for service in Service::ALL {
            running.push(running_service(&systemd, service).await?);
        }
        Ok(Services { systemd, running })
    }

    /// [`unread`] for these services; for a plugin's program with its version, if another one runs.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn unread(
        &self,
        root: &HostRoot,
        changes: &[FileChange],
        loaded: Option<&Loaded>,
    ) -> Result<Vec<Unread>, BootstrapError> {
        let mut unread = unread(root, &self.running, changes, loaded)?;
        for file in unread.iter_mut().flat_map(|one| &mut one.files).filter(|_| is_running_system(root)) {
            let path = HostPath::parse(file).ok().filter(|path| nri_plugin::is_file_name(path.name()));
            if let Some(versions) = path.and_then(|path| plugin::versions(root, &path)) {
                *file = format!("{file} ({versions})");
            }
        }
        Ok(unread)
    }

    /// Whether CRI-O may be restarted, if that is necessary.
    ///
    /// # Errors
    /// [`RestartError::Harm`].
    pub fn check(
        &self,
        root: &HostRoot,
        unread: &[Unread],
        version: Option<CrioVersion>,
        pods: Option<&RuntimePods>,
    ) -> Result<(), RestartError> {
        if !to_restart(unread).any(|service| service == Service::Crio) {
            return Ok(());
        }
        let Some(pods) = pods else {
            let what =
                "CRI-O runs, but does not answer over CRI: which pods its restart would harm is not known";
            return Err(RestartError::Harm(what.to_owned()));
        };
        let files = ConfRoot::open(root.path()).and_then(|conf| conf.crio()).unwrap_or_default();
        let manager = version.map(|version| Effective::of(version, &files).cgroup_manager.value);
        let found =
            warnings(version, manager.as_deref().unwrap_or_default(), pods.all, pods.with_user_namespace);
        match found.as_slice() {
            [] => Ok(()),
            found => {
                let sentence = |finding: &Finding| format!("{}: {}", finding.what, finding.remedy);
                Err(RestartError::Harm(found.iter().map(sentence).collect::<Vec<_>>().join("; ")))
            }
        }
    }

    /// Whether the services to be restarted would start again after these changes, judged from the files.
    ///
    /// # Errors
    /// [`RestartError::WontStart`].
    pub fn check_start(
        &self,
        root: &HostRoot,
        unread: &[Unread],
        version: Option<CrioVersion>,
        changes: &[FileChange],
        found: &[Finding],
    ) -> Result<(), RestartError> {
        for (service, unit) in
            unread.iter().filter(|one| !one.files.is_empty()).map(|one| (one.service, one.unit))
        {
            let own = match (service, version) {
                (Service::Crio, Some(version)) => errors_with(root.path(), version, changes),
                _ => Ok(Vec::new()),
            };
            let own = own.map_err(|error| chain(&error));
            let by_rules = own.and_then(|own| {
                let stops = own.iter().chain(found).find(|finding| service.is_stopped_by(finding));
                stops.map_or(Ok(()), |finding| Err(format!("{}; {}", finding.what, finding.remedy)))
            });
            let by_itself =
                || if is_running_system(root) { ask_program(root, service, changes) } else { Ok(()) };
            by_rules.and_then(|()| by_itself()).map_err(|why| {
                let why = why.trim_end_matches("; ").to_owned();
                RestartError::WontStart { unit, why }
            })?;
        }
        Ok(())
    }

    /// Restarts the services in order: the runtime first, then its clients.
    ///
    /// # Errors
    /// [`RestartError::Failed`]; the following services are not restarted.
    pub async fn restart(&self, unread: &[Unread], say: &mut dyn FnMut(&str)) -> Result<(), RestartError> {
        for unit in units_to_restart(unread) {
            let done = self.systemd.restart_unit(unit, PATIENCE).await;
            done.map_err(|error| RestartError::Failed { unit, error })?;
            say(&format!("{unit}: restarted"));
        }
        Ok(())
    }
}

/// Has the service's own program check its configuration as it will be after these changes.
fn ask_program(root: &HostRoot, service: Service, changes: &[FileChange]) -> Result<(), String> {
    match service {
        Service::Crio => {
            let conf = ConfRoot::open(root.path()).and_then(|conf| conf.crio());
            let files = conf.map_err(|error| chain(&error))?;
            let read = |path: &HostPath| root.read(path).ok().flatten();
            let is_conf = |change: &&FileChange| {
                let path = change.path.to_string();
                path == MAIN_FILE || path.starts_with(&format!("{DROP_IN_DIR}/"))
            };
            let changes: Vec<&FileChange> = changes.iter().filter(is_conf).collect();
            match crio::validate(Path::new("crio"), &changes, &files, Path::new(SCRATCH), &read) {
                Err(CrioError::Program(ProgramError::Start { .. })) | Ok(()) => Ok(()),
                Err(error) => Err(chain(&error)),
            }
        }
        // If containerd's configuration changes, the planning step has asked containerd already.
        Service::Containerd if changes.iter().any(|change| service.reads(&change.path.to_string())) => Ok(()),
        Service::Containerd => {
            let (_, main_file) = containerd_files(root).map_err(|error| chain(&error))?;
            match containerd_program::check(Path::new("containerd"), &main_file) {
                Err(ContainerdError::Program(ProgramError::Start { .. })) | Ok(()) => Ok(()),
                Err(error) => Err(chain(&error)),
            }
        }
        Service::Kubelet => Ok(()),
    }
}

/// Services whose configuration on disk is newer than their start, including changes that this run made or
/// plans; for CRI-O also what `/config` reports.
///
/// # Errors
/// A file cannot be read.
pub fn unread(
    root: &HostRoot,
    running: &[Running],
    changes: &[FileChange],
    loaded: Option<&Loaded>,
) -> Result<Vec<Unread>, BootstrapError> {
    let mut changed = on_disk(root)?;
    let now = SystemTime::now();
    for change in changes {
        let [old, new] = [&change.old, &change.new].map(|bytes| bytes.as_deref().unwrap_or_default());
        changed.extend(concerned(&change.path, old, new, now));
    }
    let differences = match loaded {
        None => None,
        Some(Loaded { version, config }) => {
            let files = ConfRoot::open(root.path()).and_then(|conf| conf.crio()).map_err(CrioError::from)?;
            Some(differences(*version, &files, config))
        }
    };
    let of = |service: Service| if service == Service::Crio { differences.clone() } else { None };
    let mut unread: Vec<Unread> = pending(running, &changed)
        .into_iter()
        .map(|(Running { service, unit, .. }, paths)| Unread {
            service,
            unit,
            files: paths.into_iter().map(str::to_owned).collect(),
            differences: of(service),
        })
        .collect();
    let is_reported = unread.iter().any(|one| one.service == Service::Crio);
    if !is_reported && differences.as_ref().is_some_and(|found| !found.is_empty()) {
        unread.insert(
            0,
            Unread { service: Service::Crio, unit: Service::Crio.unit(), files: Vec::new(), differences },
        );
    }
    Ok(unread)
}

/// The finding about a service that runs with an outdated configuration.
#[must_use]
pub fn finding(unread: &Unread) -> Finding {
    if unread.is_of_range() {
        let remedy = format!(
            "restart it before any such pod starts here: systemctl restart {}, or usernsd bootstrap --restart",
            unread.unit
        );
        return Finding::error(FindingId::KubeletRangeUnread, unread.describe(), &remedy);
    }
    let remedy = match unread.service {
        _ if unread.files.is_empty() => SET_ELSEWHERE,
        Service::Crio => "restart it when no pod would be harmed: usernsd bootstrap --restart looks first",
        Service::Containerd | Service::Kubelet => "usernsd bootstrap --restart does it",
    };
    Finding::warning(FindingId::RestartPending, unread.describe(), remedy)
}

/// All relevant files, with the time of their last change.
fn on_disk(root: &HostRoot) -> Result<Vec<ChangedFile>, BootstrapError> {
    let conf = ConfRoot::open(root.path()).map_err(CrioError::from)?;
    let drop_ins = conf.crio().map_err(CrioError::from)?.into_iter().map(|file| file.path);
    let mut changed = Vec::new();
    let mut others = Vec::new();
    let found = layout(root)?;
    let sources = found.as_ref().map_or(&PACKAGED, |found| found.layout).sources.iter();
    let place =
        |source: &&str| found.as_ref().map_or_else(|| (*source).to_owned(), |found| found.place(source));
    let sources: Vec<String> = sources.map(place).chain([DIRECTORY.to_owned()]).collect();
    for source in &sources {
        let Ok(path) = HostPath::parse(source) else { continue };
        // If a directory is a link, the times are those of files elsewhere, which are not known here.
        let names = root.list(&path).unwrap_or_default();
        others.extend(names.into_iter().map(|name| format!("{source}/{name}")));
        if source.ends_with(".toml") || source.ends_with(".tmpl") {
            others.push(source.clone());
        }
    }
    for text in FILES.iter().map(|path| (*path).to_owned()).chain(drop_ins).chain(others) {
        let Ok(path) = HostPath::parse(&text) else { continue };
        // A file that cannot be opened, such as a dangling link, has a finding already.
        let Ok(Some(at)) = root.changed_at(&path) else { continue };
        changed.push(ChangedFile { path: text, at, only: None });
    }
    // Other programs write these files, too: only the journal shows which changes concern which service.
    let journal = journal(root)?;
    if let Some(at) = journal.kubelet_undone_at {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
        changed.push(ChangedFile { path: SUBUID.to_string(), at, only: Some(Service::Kubelet) });
    }
    for run in journal.runs {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(run.at);
        for file in &run.files {
            let Ok(path) = file.path() else { continue };
            let [old, new] = [file.old(), file.new_bytes()].map(Option::unwrap_or_default);
            changed.extend(concerned(&path, old, new, at));
        }
    }
    Ok(changed)
}

/// A change, once for each service that it concerns.
pub(super) fn concerned(path: &HostPath, old: &[u8], new: &[u8], at: SystemTime) -> Vec<ChangedFile> {
    let shared = [SUBUID, SUBGID, PASSWD].contains(path);
    if !shared {
        return vec![ChangedFile { path: path.to_string(), at, only: None }];
    }
    let (removed, added) = differing_lines(old, new);
    let has = |lines: &[Vec<u8>], owner: &str| {
        lines
            .iter()
            .any(|line| line.strip_prefix(owner.as_bytes()).is_some_and(|rest| rest.starts_with(b":")))
    };
    // CRI-O keeps a range that it has found; until it finds one, it looks again for each pod.
    let crio = has(&removed, CONTAINERS.0);
    let kubelet = has(&removed, kubelet::USER) || has(&added, kubelet::USER);
    [(crio, Service::Crio), (kubelet, Service::Kubelet)]
        .into_iter()
        .filter(|(is_concerned, _)| *is_concerned)
        .map(|(_, service)| ChangedFile { path: path.to_string(), at, only: Some(service) })
        .collect()
}
