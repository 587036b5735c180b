//! Examines a node for the checks of [`check`]: independently of an agent, on a running node or on one whose
//! disk is mounted somewhere. Changes nothing.
//!
//! - [`runtime`]: the container runtime, its files, its OCI runtimes
//! - [`configuration`]: files that would be written, and files that are not read yet
//! - [`plugin`]: the pre-installed NRI plugin
//! - [`pods`]: the running pods, if no agent has results
//! - [`rounds`]: the agent's checks every few minutes

mod configuration;
mod plugin;
mod pods;
mod rounds;
mod runtime;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::pods::PodPlace;
pub use self::rounds::Rounds;
use usernsd_domain::chain::chain;
use usernsd_domain::check::ids::IdFacts;
use usernsd_domain::check::kernel::KernelFacts;
use usernsd_domain::check::runtime::{Joined, RuntimeFacts};
use usernsd_domain::check::systemd::SystemdFacts;
use usernsd_domain::check::{
    self, Answer, Category, Check, CheckOutcome, CheckResult, Checked, Examined, Probe,
};
use usernsd_domain::crio::drop_in::CrioOptions;
use usernsd_domain::idplan::{self, DesiredIds};
use usernsd_domain::kubelet::DEFAULT_MAX_PODS;
use usernsd_domain::nri_plugin::PluginOptions;
use usernsd_domain::oci_hook::HookOptions;
use usernsd_domain::provision::HostPath;
use usernsd_domain::restart::{Running, Service};
use usernsd_domain::runtime::RuntimeOverride;
use usernsd_linux::cgroupfs::read_delegate_list;
use usernsd_linux::host::{HostError, HostRoot};
use usernsd_linux::kernel_files::kernel_files;
use usernsd_linux::proc::Proc;
use usernsd_peers::systemd::Systemd;
use usernsd_prepare::bootstrap::runtime::containerd_directories;
use usernsd_prepare::bootstrap::{self, ids::RunPrograms, restart::running_service};
use usernsd_prepare::idmapped_mounts;

/// The node that is examined, and its desired configuration.
#[derive(Debug, Clone)]
pub struct DoctorConfig {
    /// The node's root directory.
    pub root: PathBuf,
    /// CRI sockets to try; empty for the default paths.
    pub endpoints: Vec<PathBuf>,
    /// The system bus; `None` if systemd must not be asked.
    pub bus: Option<PathBuf>,
    /// Whether `usernsd bootstrap` prepares this node.
    pub uses_bootstrap: bool,
    /// The desired ranges of host IDs.
    pub ids: DesiredIds,
    /// The container runtime, if it is configured.
    pub runtime: RuntimeOverride,
    /// The features that CRI-O's drop-in enables.
    pub crio: CrioOptions,
    /// Whether containerd should offer NRI.
    pub containerd_nri: bool,
    /// The OCI hook.
    pub hook: HookOptions,
    /// The pre-installed NRI plugin.
    pub plugin: PluginOptions,
    /// Whether the kernel is to allow enough user namespaces.
    pub apply_sysctl: bool,
    /// Whether the node's programs may be started to ask for their versions.
    pub may_run_programs: bool,
}

/// Examines the node.
#[derive(Debug)]
pub struct Doctor {
    place: DoctorConfig,
    root: HostRoot,
}

/// The answers of systemd to the doctor's questions.
#[derive(Debug, Clone)]
pub struct SystemdAnswers {
    facts: Answer<SystemdFacts>,
    running: Probe<Vec<Running>>,
}

/// The agent's results for its node.
#[derive(Debug, Clone, Default)]
pub struct AgentResults {
    /// The agent's results by check; empty if it was not asked or does not answer.
    pub checks: HashMap<Check, Checked>,
}

/// Called with each category as soon as its checks are done.
pub type OnCategory<'a, E> = dyn FnMut(Category, Vec<Checked>) -> Result<(), E> + 'a;

// === impl AgentResults ===

impl AgentResults {
    /// The agent's results.
    #[must_use]
    pub fn new(checked: impl IntoIterator<Item = Checked>) -> AgentResults {
        AgentResults { checks: checked.into_iter().map(|one| (one.check, one)).collect() }
    }

    /// Whether the agent has a result about the runtime that it has joined.
    fn has_joined_runtime(&self) -> bool {
        self.checks.get(&Check::NriJoined).is_some_and(|one| one.result() != CheckResult::Skip)
    }

    /// Whether the agent has results about pods.
    fn has_pods(&self) -> bool {
        self.checks.values().any(|one| one.check.category() == Category::Pods)
    }

    /// The agent's results about pods, with its reasons for those that it skipped.
    fn pods(&self) -> Vec<Checked> {
        let skipped = Check::all_skipped(Category::Pods, "the agent has no such check");
        skipped.into_iter().map(|one| self.checks.get(&one.check).cloned().unwrap_or(one)).collect()
    }

    /// Replaces skipped checks by the agent's results, if it has any.
    fn complete(&self, checked: Vec<Checked>) -> Vec<Checked> {
        let better = |one: Checked| match (&one.outcome, self.checks.get(&one.check)) {
            (CheckOutcome::Skipped(_), Some(theirs))
                if !matches!(theirs.outcome, CheckOutcome::Skipped(_)) =>
            {
                theirs.clone()
            }
            _ => one,
        };
        checked.into_iter().map(better).collect()
    }
}

// === impl Doctor ===

impl Doctor {
    /// Opens the node's root.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn new(place: DoctorConfig) -> Result<Doctor, HostError> {
        Ok(Doctor { root: HostRoot::open(&place.root)?, place })
    }

    /// Examines everything, category by category, the quickest first. Results that this process cannot obtain
    /// are taken from `agent`, and so are those of pods, which the agent watches all the time.
    ///
    /// # Errors
    /// The error of `on_category`.
    pub async fn check<E>(
        &self,
        agent: &AgentResults,
        pods: &PodPlace,
        on_category: &mut OnCategory<'_, E>,
    ) -> Result<(), E> {
        let mut on_category = |category, checked| on_category(category, self.addressed(checked));
        let ids = self.ids();
        let kernel = self.kernel(&ids);
        on_category(Category::Kernel, agent.complete(check::kernel::checks(as_ref(&kernel))))?;
        on_category(Category::Ids, agent.complete(check::ids::checks(as_ref(&ids))))?;
        let (cri, client) = self.ask_runtime().await;
        let (chosen, system_pods) = self.choose_runtime(client.is_some()).await;
        let systemd = self.ask_systemd().await;
        let plugin = self.plugin(&chosen, client.is_some(), system_pods, &systemd, &BTreeMap::new());
        // An agent may be in a pod, whose socket cannot be found from here: only that agent has the answer.
        let joined = if client.is_some() { Joined::Unasked } else { Joined::NothingRuns };
        let runtime = RuntimeFacts { plugin, joined, ..self.runtime(cri, &chosen) };
        let mut checked = check::runtime::checks(&runtime);
        let refusal = Doctor::joinable(client.as_ref(), pods).await;
        // The agent has joined a certain runtime; here only those that it may join can be found.
        let mismatch = if agent.has_joined_runtime() { None } else { self.mismatch(client.as_ref()).await };
        checked.push(check::runtime::joinable(refusal, mismatch));
        on_category(Category::Runtime, agent.complete(checked))?;
        on_category(Category::Systemd, agent.complete(check::systemd::checks(&systemd.facts)))?;
        let found = if agent.has_pods() {
            // The agent's view over time is better than a single inspection.
            agent.pods()
        } else {
            self.pods(client.as_ref(), pods).await
        };
        on_category(Category::Pods, agent.complete(found))?;
        let loaded = Doctor::loaded(client.as_ref(), &chosen).await;
        let configuration = self.configuration(&chosen, &systemd, loaded.as_ref(), &ids);
        on_category(Category::Configuration, agent.complete(check::configuration::checks(&configuration)))
    }

    /// Examines the node for the agent, which has its own records of pods, whether it has `joined` NRI, and
    /// the versions of the `launched` plugins by PID. Leaves out the checks of pods, and starts no
    /// programs. Blocking work is done on a thread that may block.
    ///
    /// # Errors
    /// Such a thread ended early.
    pub async fn examine(
        self: Arc<Self>,
        joined: bool,
        launched: BTreeMap<u32, String>,
    ) -> Result<Examined, tokio::task::JoinError> {
        let doctor = Arc::clone(&self);
        let (ids, mut checked) = tokio::task::spawn_blocking(move || {
            let ids = doctor.ids();
            let kernel = doctor.kernel(&ids);
            let mut checked = check::kernel::checks(as_ref(&kernel));
            checked.extend(check::ids::checks(as_ref(&ids)));
            (ids, checked)
        })
        .await?;
        let (cri, client) = self.ask_runtime().await;
        let (chosen, system_pods) = self.choose_runtime(client.is_some()).await;
        let loaded = Doctor::loaded(client.as_ref(), &chosen).await;
        let answers = client.is_some();
        let asked = match client {
            Some(client) => Doctor::asked(&client).await,
            None => Err("the runtime does not answer".to_owned()),
        };
        let systemd = self.ask_systemd().await;
        let doctor = Arc::clone(&self);
        let (runtime, oci_runtime, configuration, writes, systemd) = tokio::task::spawn_blocking(move || {
            let plugin = doctor.plugin(&chosen, answers, system_pods, &systemd, &launched);
            let joined = if joined { Joined::Yes } else { Joined::No };
            let runtime = RuntimeFacts { plugin, joined, ..doctor.runtime(cri, &chosen) };
            let configuration = doctor.configuration(&chosen, &systemd, loaded.as_ref(), &ids);
            let oci_runtime = doctor.default_oci_runtime(&chosen, &runtime.crio);
            (runtime, oci_runtime, configuration, doctor.writes().ok(), systemd)
        })
        .await?;
        checked.extend(check::runtime::checks(&runtime));
        checked.extend(check::systemd::checks(&systemd.facts));
        checked.extend(check::configuration::checks(&configuration));
        Ok(Examined { checked: self.addressed(checked), asked, configuration, oci_runtime, writes })
    }

    /// The checks with remedies for whoever prepares the node.
    fn addressed(&self, checked: Vec<Checked>) -> Vec<Checked> {
        if self.place.uses_bootstrap {
            return checked;
        }
        checked.into_iter().map(Checked::prepared_by_others).collect()
    }

    /// Whether the node is running: its /proc has processes.
    fn is_running(&self) -> Probe<()> {
        let proc = self.place.root.join("proc");
        if proc.join("1/mountinfo").exists() {
            Ok(())
        } else {
            Err(format!("{} shows no processes: this is not a running node", proc.display()))
        }
    }

    /// Whether the node's root is this process's own, so that its programs can be started.
    fn is_own_root(&self) -> bool {
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|stat| (stat.dev(), stat.ino()));
        identity(&self.place.root).is_some_and(|root| identity(Path::new("/")) == Some(root))
    }

    /// The subordinate IDs as they are.
    fn ids(&self) -> Probe<IdFacts> {
        bootstrap::ids::examine(&self.root, &self.place.ids, self.run_programs())
            .map_err(|error| chain(&error))
    }

    /// Whether programs may be asked for accounts that no file lists.
    fn run_programs(&self) -> RunPrograms {
        if self.place.may_run_programs { RunPrograms::Yes } else { RunPrograms::No }
    }

    /// The kernel, for a node with these IDs.
    fn kernel(&self, ids: &Probe<IdFacts>) -> Probe<KernelFacts> {
        self.is_running()?;
        let has = |path: &str| HostPath::parse(path).is_ok_and(|path| self.root.has(&path).unwrap_or(false));
        let crio = usernsd_prepare::crio::storage(&self.place.root);
        let containerd = containerd_directories(&self.place.root);
        let moved = [crio.root.as_str(), containerd.root.as_str()];
        let mut kernel = Proc::new(&self.place.root.join("proc")).kernel(&moved, has);
        kernel.at_boot = bootstrap::kernel::at_boot(&self.root, &[]);
        let may_try = self.place.may_run_programs;
        let tmpfs = may_try.then(|| idmapped_mounts::probe(&self.root, &mut kernel.stores)).flatten();
        let node = ids.as_ref().map(|facts| &facts.node);
        let pods = node.map_or(DEFAULT_MAX_PODS, |node| idplan::max_pods(node, &self.place.ids));
        let delegate_list = read_delegate_list(&self.place.root.join("sys"));
        let delegate_list = delegate_list.map_err(|error| chain(&error));
        let files = kernel_files(&self.place.root);
        Ok(KernelFacts { kernel, delegate_list, files, tmpfs, pods })
    }

    /// Asks systemd for everything at once.
    async fn ask_systemd(&self) -> SystemdAnswers {
        let unasked =
            |why: String| SystemdAnswers { facts: Answer::NotAsked(why.clone()), running: Err(why) };
        if let Err(why) = self.is_running() {
            return unasked(why);
        }
        let Some(bus) = &self.place.bus else { return unasked("systemd.enabled is false".to_owned()) };
        let asked = async {
            let systemd = Systemd::connect(bus).await?;
            let facts =
                SystemdFacts { version: systemd.version().await?, scopes: Ok(scopes(&systemd).await?) };
            let mut running = Vec::new();
            for service in Service::ALL {
                running.push(running_service(&systemd, service).await?);
            }
            Ok::<_, usernsd_peers::systemd::SystemdError>((facts, running))
        };
        match asked.await {
            Ok((facts, running)) => SystemdAnswers { facts: Answer::Given(facts), running: Ok(running) },
            Err(error) => {
                let no_answer = "systemd does not answer".to_owned();
                SystemdAnswers { facts: Answer::Missing(chain(&error)), running: Err(no_answer) }
            }
        }
    }
}

/// The scopes of containers, and whether each is delegated.
async fn scopes(systemd: &Systemd) -> Result<Vec<(String, bool)>, usernsd_peers::systemd::SystemdError> {
    let mut found = Vec::new();
    for unit in systemd.scopes().await? {
        // CRI-O's monitors are not containers.
        if unit.starts_with("crio-conmon-") {
            continue;
        }
        // A process that has ended in the meantime does not count.
        if let Some(scope) = systemd.scope(&unit).await? {
            found.push((unit, scope.delegate));
        }
    }
    Ok(found)
}

fn as_ref<T>(probe: &Probe<T>) -> Probe<&T> {
    probe.as_ref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_of_pods_have_the_agents_reasons_if_they_were_skipped() {
        let why = "no pod with a user namespace runs";
        let agent = AgentResults::new([Check::PodCgroupWritable.skipped(why)]);
        assert!(agent.has_pods());
        for one in agent.complete(agent.pods()) {
            let CheckOutcome::Skipped(reason) = one.outcome else { panic!("{one:?}") };
            let expected =
                if one.check == Check::PodCgroupWritable { why } else { "the agent has no such check" };
            assert_eq!(reason, expected, "{:?}", one.check);
        }
    }
}
