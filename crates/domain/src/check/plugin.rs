//! usernsd in the start path of containers: the pre-installed NRI plugin, and whether the runtime
//! requires it.

use super::{Check, CheckOutcome, Checked, Probe, Problem};
use crate::nri_plugin::{NAME, NriConf, SystemPod, has_validator, runtime_name, strict_pods};
use crate::runtime::Runtime;

/// The facts that the checks need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFacts {
    pub runtime: Runtime,
    /// The NRI settings, from all its files.
    pub conf: NriConf,
    /// Why the runtime launches no plugin with this configuration, so that none is expected; `None` if one is.
    pub unwanted: Option<String>,
    /// Why `usernsd bootstrap` cannot install it; `None` if it can.
    pub obstacle: Option<String>,
    /// The program in the runtime's plugin directory.
    pub installed: Probe<Option<Installed>>,
    /// Paths of executable files there whose names are not those of plugins.
    pub strays: Vec<String>,
    /// The plugin's process.
    pub process: Probe<Option<PluginProcess>>,
    /// Whether the program was installed after the runtime started; `None` if unknown.
    pub is_newer_than_runtime: Option<bool>,
    /// Whether privileged containers are to get their own cgroup namespace, over NRI.
    pub adjusts_namespaces: bool,
    /// Pods that the node may need to start up; `None` if the runtime does not answer.
    pub system_pods: Option<Vec<SystemPod>>,
}

/// The installed program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The path on the node.
    pub path: String,
    /// Whether it is the same build as this program.
    pub is_own: bool,
    /// The version; `None` if unknown.
    pub version: Option<String>,
    /// Why it cannot be started, if that is visible in the file.
    pub broken: Option<String>,
}

/// The launched plugin's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginProcess {
    /// The process ID.
    pub pid: u32,
    /// Whether it is stopped by a signal or a debugger.
    pub is_stopped: bool,
    /// Whether it runs the installed program; `None` if that is not visible.
    pub is_installed: Option<bool>,
    /// The version of its program; `None` if unknown.
    pub version: Option<String>,
}

#[must_use]
pub fn checks(facts: Probe<&PluginFacts>) -> Vec<Checked> {
    match facts {
        Err(why) => [Check::PluginInstalled, Check::PluginRunning, Check::NriRequired]
            .map(|check| check.skipped(why.clone()))
            .into(),
        Ok(facts) => vec![installed(facts), running(facts), required(facts)],
    }
}

const INSTALL: &str = "usernsd bootstrap, and restart the runtime when that harms no pod";

fn installed(facts: &PluginFacts) -> Checked {
    let check = Check::PluginInstalled;
    let problem = |what: String, remedy: String| Problem { what, remedy };
    let stray = |stray: &String| {
        problem(
            format!("{stray} is executable, and its name is not NN-NAME: the runtime will not start again"),
            format!("remove it, or: chmod a-x {stray}"),
        )
    };
    let mut problems: Vec<Problem> = facts.strays.iter().map(stray).collect();
    let found = match (&facts.unwanted, &facts.installed) {
        (Some(why), _) if problems.is_empty() => return check.skipped(why.clone()),
        (_, Err(why)) if problems.is_empty() => return check.skipped(why.clone()),
        (Some(_), _) | (_, Err(_)) => None,
        (None, Ok(found)) => Some(found),
    };
    problems.extend(match found {
        None => None,
        Some(None) => Some(problem(
            format!(
                "the runtime launches no usernsd from {}: containers that start before the agent has joined NRI \
                 start without it",
                facts.conf.plugin_dir
            ),
            match &facts.obstacle {
                Some(why) => format!("{why}; correct that and run usernsd bootstrap, or set bootstrap.nri.plugin to never"),
                None => INSTALL.to_owned(),
            },
        )),
        Some(Some(Installed { path, broken: Some(broken), .. })) => {
            Some(problem(format!("{path} cannot be started: {broken}"), INSTALL.to_owned()))
        }
        Some(Some(Installed { path, is_own: false, .. })) => {
            Some(problem(format!("{path} is a different build from this program"), INSTALL.to_owned()))
        }
        Some(Some(Installed { path, .. })) if problems.is_empty() => return check.passed(path.clone()),
        Some(Some(_)) => None,
    });
    Checked { check, outcome: CheckOutcome::Failed(problems) }
}

fn running(facts: &PluginFacts) -> Checked {
    let check = Check::PluginRunning;
    if let Some(why) = &facts.unwanted {
        return check.skipped(why.clone());
    }
    let restart = "restart the runtime when that harms no pod; for CRI-O see the check crio_restart first";
    match (&facts.process, &facts.installed) {
        (Err(why), _) => check.skipped(why.clone()),
        (Ok(Some(PluginProcess { pid, is_stopped: true, .. })), _) => check.failed(
            format!("the launched plugin, process {pid}, is stopped: the runtime drops it after its time limit"),
            format!("kill {pid}, so that the agent takes over; then {restart}"),
        ),
        (Ok(Some(PluginProcess { pid, is_installed: Some(false), version, .. })), installed) => {
            let installed = installed.as_ref().ok().and_then(Option::as_ref);
            let differ = differ(version.as_deref(), installed.and_then(|one| one.version.as_deref()));
            check.failed(
                format!("the launched plugin, process {pid}, runs another program than the one that is installed now: {differ}"),
                restart,
            )
        }
        (Ok(Some(PluginProcess { pid, .. })), _) => check.passed(format!("process {pid}")),
        (Ok(None), Ok(None)) => check.skipped("it is not installed, see plugin_installed"),
        (Ok(None), Err(why)) => check.skipped(why.clone()),
        (Ok(None), Ok(Some(Installed { path, broken, .. }))) => match (broken, facts.is_newer_than_runtime) {
            (Some(broken), _) => {
                check.failed(format!("the runtime cannot launch {path}: {broken}"), INSTALL)
            }
            (None, Some(true)) => check.failed(
                format!("{path} was installed after the runtime started, which launches plugins when it starts"),
                restart,
            ),
            (None, _) => check.failed(
                format!(
                    "no process of {path} runs: the runtime does not launch a plugin again that ended, or that did \
                     not register in time"
                ),
                format!("the runtime's log has the reason (journalctl, \"NRI plugin\"); {restart}"),
            ),
        },
    }
}

/// The versions of two different builds, that of the process first; `None` for an unknown one.
#[must_use]
pub fn differ(running: Option<&str>, installed: Option<&str>) -> String {
    match (running, installed) {
        (Some(running), Some(installed)) if running == installed => {
            format!("usernsd {running} runs, and another build of usernsd {installed} is installed")
        }
        _ => {
            let running =
                running.map_or("another program".to_owned(), |version| format!("usernsd {version}"));
            let installed = installed.unwrap_or("of unknown version");
            format!("{running} runs, and usernsd {installed} is installed")
        }
    }
}

fn required(facts: &PluginFacts) -> Checked {
    let check = Check::NriRequired;
    let PluginFacts { runtime, conf, .. } = facts;
    let name = runtime_name(*runtime);
    if !has_validator(*runtime) {
        return check.passed(format!("{name} cannot require plugins"));
    }
    let validator = &conf.validator;
    if validator.enabled != Some(true) || !conf.on {
        return check.passed("NRI's default validator is off");
    }
    let mut problems = Vec::new();
    if validator.rejects_namespaces && facts.adjusts_namespaces {
        problems.push(Problem {
            what: format!(
                "{name} rejects changes of namespaces by NRI plugins: privileged containers of pods with a user \
                 namespace are not created, because usernsd gives them a cgroup namespace of their own"
            ),
            remedy: "set reject_namespace_adjustment (containerd) or nri_validator_reject_namespace_adjustment \
                     (CRI-O) to false, or delegation.privilegedCgroupNamespace to false"
                .to_owned(),
        });
    }
    let is_required = validator.required.iter().any(|name| name == NAME);
    let is_there = matches!(facts.process, Ok(Some(_)))
        || matches!(&facts.installed, Ok(Some(Installed { broken: None, .. })));
    if is_required && !is_there {
        problems.push(Problem {
            what: format!(
                "{name} requires the plugin {NAME} for every container, and launches none: unless an agent has \
                 joined NRI, no container is created"
            ),
            remedy: INSTALL.to_owned(),
        });
    }
    let pods = facts.system_pods.as_deref().unwrap_or_default();
    let strict: Vec<&str> = strict_pods(pods, &validator.toleration).take(10).collect();
    if is_required && !strict.is_empty() {
        problems.push(Problem {
            what: format!(
                "{name} requires the plugin {NAME} for {} too, without which the node may not come up again",
                strict.join(", ")
            ),
            remedy: match validator.toleration.as_str() {
                "" => {
                    "configure the annotation with which pods tolerate a missing plugin: docs/nri-plugin.md"
                        .to_owned()
                }
                toleration => format!("annotate these with {toleration}: \"true\""),
            },
        });
    }
    if !problems.is_empty() {
        return Checked { check, outcome: CheckOutcome::Failed(problems) };
    }
    check.passed(if is_required {
        format!("the plugin {NAME} is required for every container that does not tolerate its absence")
    } else {
        "the plugin is required for pods that are annotated with it".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::crio::CrioVersion;
    use crate::nri_plugin::Validator;

    fn good() -> PluginFacts {
        PluginFacts {
            runtime: Runtime::Crio(CrioVersion::new(1, 37, 0)),
            conf: NriConf {
                validator: Validator {
                    enabled: Some(true),
                    required: vec![NAME.to_owned()],
                    toleration: "t".to_owned(),
                    rejects_namespaces: false,
                },
                ..NriConf::default()
            },
            unwanted: None,
            obstacle: None,
            installed: Ok(Some(Installed {
                path: "/p/90-usernsd".into(),
                is_own: true,
                version: Some("0.2.0".into()),
                broken: None,
            })),
            strays: vec![],
            process: Ok(Some(PluginProcess {
                pid: 7,
                is_stopped: false,
                is_installed: Some(true),
                version: Some("0.1.0".into()),
            })),
            is_newer_than_runtime: Some(false),
            adjusts_namespaces: true,
            system_pods: Some(vec![]),
        }
    }

    fn words(facts: &PluginFacts) -> Vec<&'static str> {
        checks(Ok(facts)).iter().map(Checked::word).collect()
    }

    fn sentences(facts: &PluginFacts) -> String {
        let problems = checks(Ok(facts)).into_iter().filter_map(|one| match one.outcome {
            CheckOutcome::Failed(problems) => Some(problems),
            _ => None,
        });
        problems.flatten().map(|problem| format!("{}; {}\n", problem.what, problem.remedy)).collect()
    }

    #[test]
    fn builds_and_unknown_versions_differ_too() {
        let build = "usernsd 0.1.0 runs, and another build of usernsd 0.1.0 is installed";
        assert_eq!(differ(Some("0.1.0"), Some("0.1.0")), build);
        let unknown = "another program runs, and usernsd 0.1.0 is installed";
        assert_eq!(differ(None, Some("0.1.0")), unknown);
        assert!(differ(None, None).ends_with("usernsd of unknown version is installed"));
    }

    #[test]
    fn each_check_fails_alone_if_its_cause_is_present() {
        assert_eq!(words(&good()), ["pass", "pass", "pass"]);
        type Spoil = fn(&mut PluginFacts);
        let cases: &[(Spoil, [&str; 3], &str)] = &[
            (
                |f| f.installed.as_mut().unwrap().as_mut().unwrap().is_own = false,
                ["warn", "pass", "pass"],
                "a different build",
            ),
            (
                |f| {
                    f.installed.as_mut().unwrap().as_mut().unwrap().broken =
                        Some("it is not executable".into());
                    f.process = Ok(None);
                },
                ["warn", "warn", "fail"],
                "it is not executable",
            ),
            (|f| f.strays = vec!["/p/.x".into()], ["warn", "pass", "pass"], "will not start again"),
            (
                |f| {
                    f.installed = Ok(None);
                    f.obstacle = Some("/opt is read-only".into());
                },
                ["warn", "pass", "pass"],
                "/opt is read-only; correct that and run usernsd bootstrap",
            ),
            (
                |f| f.process.as_mut().unwrap().as_mut().unwrap().is_stopped = true,
                ["pass", "warn", "pass"],
                "is stopped",
            ),
            (
                |f| f.process.as_mut().unwrap().as_mut().unwrap().is_installed = Some(false),
                ["pass", "warn", "pass"],
                "usernsd 0.1.0 runs, and usernsd 0.2.0 is installed",
            ),
            (|f| f.process = Ok(None), ["pass", "warn", "pass"], "does not launch a plugin again"),
            (
                |f| {
                    f.process = Ok(None);
                    f.is_newer_than_runtime = Some(true);
                },
                ["pass", "warn", "pass"],
                "after the runtime started",
            ),
            (
                |f| {
                    f.process = Ok(None);
                    f.installed = Ok(None);
                },
                ["warn", "skip", "fail"],
                "launches none",
            ),
            (
                |f| f.conf.validator.rejects_namespaces = true,
                ["pass", "pass", "fail"],
                "rejects changes of namespaces",
            ),
            (
                |f| {
                    let pod = SystemPod { name: "kube-system/etcd".into(), annotations: BTreeMap::new() };
                    f.system_pods = Some(vec![pod]);
                },
                ["pass", "pass", "fail"],
                "for kube-system/etcd too",
            ),
            (|f| f.conf.validator = Validator::default(), ["pass", "pass", "pass"], ""),
            (|f| f.unwanted = Some("never".into()), ["skip", "skip", "pass"], ""),
        ];
        for (index, (spoil, want, word)) in cases.iter().enumerate() {
            let mut facts = good();
            spoil(&mut facts);
            let output = sentences(&facts);
            assert!(output.contains(word), "case {index}: {output}");
            assert_eq!(words(&facts), *want, "case {index}: {output}");
        }
    }
}
