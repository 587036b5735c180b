//! The pre-installed NRI plugin: whether it is installed where the runtime looks for it, and whether it
//! runs.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Doctor, DoctorConfig, SystemdAnswers};
use usernsd_domain::chain::chain;
use usernsd_domain::check::Probe;
use usernsd_domain::check::plugin::{Installed, PluginFacts, PluginProcess};
use usernsd_domain::nri_plugin::{SystemPod, is_file_name, is_plugin_name};
use usernsd_domain::provision::HostPath;
use usernsd_domain::restart::Service;
use usernsd_domain::runtime::{Runtime, RuntimeKind};
use usernsd_linux::host::{HostError, OwnProgram};
use usernsd_linux::proc::Proc;
use usernsd_prepare::bootstrap::plugin::{PluginChange, observe, version};
use usernsd_prepare::bootstrap::runtime::nri_conf_of;

const NO_ANSWER: &str = "the runtime does not answer";

impl Doctor {
    /// The facts about the plugin. `answers`: whether the runtime answers over CRI; `launched`: the versions
    /// of the launched plugins, by their PIDs. Blocks for some milliseconds.
    pub(super) fn plugin(
        &self,
        runtime: &Probe<Runtime>,
        answers: bool,
        system_pods: Option<Vec<SystemPod>>,
        systemd: &SystemdAnswers,
        launched: &BTreeMap<u32, String>,
    ) -> Probe<PluginFacts> {
        let runtime = *runtime.as_ref().map_err(Clone::clone)?;
        let DoctorConfig { crio, containerd_nri, plugin: options, .. } = &self.place;
        // From the files as they are, not as bootstrap would write them.
        let conf = nri_conf_of(&self.root, runtime, false, false, true).map_err(|error| chain(&error))?;
        let conf = conf.ok_or("the runtime's configuration cannot be read")?;
        let observed = observe(&self.root, options, Some(runtime), crio, *containerd_nri);
        let observed = observed.map_err(|error| chain(&error))?;
        let (mut unwanted, mut obstacle) = match (observed.decision, observed.missing) {
            (PluginChange::Install, _) => (None, None),
            (PluginChange::Remove, missing) => (missing, None),
            (PluginChange::Leave(why), _) => (None, Some(why)),
        };
        let directory = HostPath::parse(&conf.plugin_dir);
        let directory = directory.map_err(|_| format!("{} is no absolute path", conf.plugin_dir))?;
        let names = self.root.list(&directory).map_err(|error| chain(&error));
        let path = names.as_ref().ok().and_then(|names| names.iter().find(|name| is_file_name(name)));
        let path = path.and_then(|name| directory.join(name).ok());
        let is_shown = self.is_shown(&directory);
        let installed = match &path {
            _ if !is_shown => Err(format!("{} cannot be seen from here", conf.plugin_dir)),
            None => names.clone().map(|_| None),
            Some(path) => self.installed(path).map(Some).map_err(|error| chain(&error)),
        };
        if !self.place.uses_bootstrap && path.is_none() {
            unwanted = Some("bootstrap.enabled is false: this node is prepared by someone else".to_owned());
            obstacle = None;
        }
        let is_executable = |path: &HostPath| {
            self.root.attributes(path).ok().flatten().is_some_and(|one| one.mode & 0o111 != 0)
        };
        let strays = names.iter().flatten().filter(|name| !is_plugin_name(name));
        let strays = strays.filter_map(|name| directory.join(name).ok()).filter(is_executable);
        Ok(PluginFacts {
            strays: strays.map(|path| path.to_string()).collect(),
            process: match answers {
                true => {
                    self.process(path.as_ref(), installed.as_ref().ok().and_then(Option::as_ref), launched)
                }
                false => Err(NO_ANSWER.to_owned()),
            },
            is_newer_than_runtime: path.as_ref().and_then(|path| self.is_newer(path, runtime, systemd)),
            adjusts_namespaces: options.adjusts_namespaces,
            runtime,
            conf,
            unwanted,
            obstacle,
            installed,
            system_pods,
        })
    }

    /// Whether this process sees that directory of the node, or would see it if it existed: its topmost
    /// component exists.
    fn is_shown(&self, directory: &HostPath) -> bool {
        let top = directory.as_str().split('/').next().unwrap_or_default();
        self.is_own_root() || HostPath::parse(top).is_ok_and(|top| self.root.has(&top).unwrap_or(false))
    }

    fn installed(&self, path: &HostPath) -> Result<Installed, HostError> {
        let digest = self.root.digest(path)?;
        let is_own = digest.is_some_and(|digest| OwnProgram::open().is_ok_and(|own| own.digest() == digest));
        let broken = self.broken(path)?;
        let version = match (is_own, &broken) {
            (true, _) => Some(env!("CARGO_PKG_VERSION").to_owned()),
            (false, None) => self.version(&self.root.path().join(path.as_str())),
            (false, Some(_)) => None,
        };
        Ok(Installed { path: path.to_string(), is_own, version, broken })
    }

    /// The version that the program prints, if it may be started.
    fn version(&self, program: &Path) -> Option<String> {
        if self.place.may_run_programs && self.is_own_root() { version(program) } else { None }
    }

    /// Why that file cannot be started.
    fn broken(&self, path: &HostPath) -> Result<Option<String>, HostError> {
        if self.root.attributes(path)?.is_some_and(|attributes| attributes.mode & 0o111 == 0) {
            return Ok(Some("it is not executable".to_owned()));
        }
        if let Some(parent) = path.parent()
            && self.root.is_noexec(&parent)?
        {
            return Ok(Some("its file system is mounted noexec".to_owned()));
        }
        let Some(loader) = self.root.loader(path)? else { return Ok(None) };
        // If /lib is a link that is not visible here, its target may be.
        let places = [loader.clone(), format!("/usr{loader}")];
        let is_there =
            |path: &String| HostPath::parse(path).is_ok_and(|path| self.root.has(&path).unwrap_or(true));
        Ok((!places.iter().any(is_there)).then(|| format!("it needs {loader}, which the node does not have")))
    }

    /// The process that a runtime launched. Its program is never started, because its name is of its own choice: a
    /// container with the node's PID namespace may have started it.
    fn process(
        &self,
        path: Option<&HostPath>,
        installed: Option<&Installed>,
        launched: &BTreeMap<u32, String>,
    ) -> Probe<Option<PluginProcess>> {
        self.is_running()?;
        let proc = Proc::new(&self.place.root.join("proc"));
        let found = proc.of_program(is_file_name).map_err(|error| chain(&error))?;
        let identity = path.and_then(|path| self.root.identity(path).ok().flatten());
        Ok(found.first().map(|(pid, is_stopped)| {
            let is_installed = identity.zip(proc.program_of(*pid)).map(|(one, other)| one == other);
            let same = installed.filter(|_| is_installed == Some(true));
            PluginProcess {
                pid: *pid,
                is_stopped: *is_stopped,
                is_installed,
                version: launched.get(pid).cloned().or_else(|| same.and_then(|one| one.version.clone())),
            }
        }))
    }

    /// Whether the program was installed after the runtime was started.
    fn is_newer(&self, path: &HostPath, runtime: Runtime, systemd: &SystemdAnswers) -> Option<bool> {
        let service = match runtime.kind() {
            RuntimeKind::Crio => Service::Crio,
            RuntimeKind::Containerd => Service::Containerd,
        };
        let running = systemd.running.as_ref().ok()?.iter().find(|one| one.service == service)?;
        let changed = self.root.changed_at(path).ok().flatten()?;
        Some(changed >= running.since?)
    }
}
