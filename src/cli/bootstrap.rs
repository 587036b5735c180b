//! `usernsd bootstrap`: prepares this node, shows the changes, or takes them back.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::machineconfig::read_file;
use super::{diff, print_bytes, tell};
use crate::args::BootstrapArgs;
use crate::compose;
use usernsd_config::{Overrides, Settings};
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::finding::{Finding, FindingId, Severity};
use usernsd_domain::provision::FileChange;
use usernsd_domain::restart::{Unread, to_restart};
use usernsd_domain::runtime::{Runtime, RuntimeChoice, RuntimeKind, RuntimeOverride, choose};
use usernsd_linux::host::HostRoot;
use usernsd_prepare::bootstrap::failure;
use usernsd_prepare::bootstrap::ids::{RunPrograms, Sandboxes};
use usernsd_prepare::bootstrap::restart::{self, RestartError, Services};
use usernsd_prepare::bootstrap::runtime::{NodeRuntimes, RuntimePods};
use usernsd_prepare::bootstrap::{self, Part, PartRefusal, PlanStep, Preparation};
use usernsd_prepare::machineconfig::{self, Parsed};

/// How often a run with --exit-zero is repeated if another program changed a file at the same time.
const RACES: usize = 3;
const AGENT_REPORTS: &str = "the agent starts without it, and reports this as the check bootstrap_result";
const AGENT_BLIND: &str = "the agent starts without it, and cannot report why it failed";
const AGENT_REFUSES: &str =
    "correct the configuration: the agent does not start with it either, and its log has the same error";
/// Exit code: differences were found.
const DIFFERENT: u8 = 1;
/// Exit code: something could not be taken back.
const INCOMPLETE: u8 = 2;

/// Plans, and prints or applies the plan. Exit codes: 0 if the node is ready, or with `--exit-zero` also if
/// it could not be prepared; 1 if `--diff` or `--check` find differences; 2 if `--undo` leaves something.
///
/// # Errors
/// The node could not be prepared (no file is half-written), or stdout is closed.
pub fn run(args: &BootstrapArgs) -> anyhow::Result<ExitCode> {
    let (settings, root) = match open(args) {
        // Without a configuration, the place of the node's root is not known, so nothing can be recorded.
        Err(error) if args.exit_zero => {
            let failed = Finding::error(FindingId::BootstrapFailed, format!("{error:#}"), AGENT_REFUSES);
            tell(&failed.to_string());
            return Ok(ExitCode::SUCCESS);
        }
        opened => opened?,
    };
    let error = match run_in(args, &settings, &root) {
        Err(error) if args.exit_zero => format!("{error:#}"),
        done => return done.map(ExitCode::from),
    };
    tell(&Finding::error(FindingId::BootstrapFailed, error.clone(), AGENT_REPORTS).to_string());
    // If the record cannot be written, the agent should start anyway.
    if let Err(unwritten) = failure::record(&root, &error) {
        let unwritten = unwritten.to_string();
        tell(&Finding::warning(FindingId::BootstrapUnrecorded, unwritten, AGENT_BLIND).to_string());
    }
    Ok(ExitCode::SUCCESS)
}

fn open(args: &BootstrapArgs) -> anyhow::Result<(Settings, HostRoot)> {
    let host_root = args.root.as_deref().map(absolute).transpose()?;
    let settings = Settings::load(args.config.as_deref(), Overrides { host_root, ..Overrides::default() })?;
    let root = HostRoot::open(&settings.host_root)?;
    Ok((settings, root))
}

/// Runs once, or with `--exit-zero` until no other program interferes; returns the exit code.
fn run_in(args: &BootstrapArgs, settings: &Settings, root: &HostRoot) -> anyhow::Result<u8> {
    if !settings.bootstrap.enabled && !args.undo && args.machineconfig.is_none() {
        tell("bootstrap.enabled is false: this node is prepared by someone else; nothing to do");
        return Ok(0);
    }
    let mut made_ready = prepare_node(args, settings, root);
    // Nobody runs it again by hand, and the other program has finished by then.
    for _ in 0..RACES {
        let raced = |error: &anyhow::Error| {
            matches!(error.downcast_ref(), Some(bootstrap::BootstrapError::Raced { .. }))
        };
        if !args.exit_zero || !made_ready.as_ref().is_err_and(raced) {
            break;
        }
        made_ready = prepare_node(args, settings, root);
    }
    if matches!(made_ready, Ok(0)) && !args.diff && !args.check {
        failure::clear(root)?;
    }
    made_ready
}

fn prepare_node(args: &BootstrapArgs, settings: &Settings, root: &HostRoot) -> anyhow::Result<u8> {
    let executor = compose::runtime()?;
    let runtimes = executor.block_on(bootstrap::runtime::find(root, &settings.runtime.endpoints))?;
    let node = Node { args, settings, root, runtimes: &runtimes };
    let bus = restart::bus_of(root, settings.systemd.as_ref().map(|systemd| &systemd.bus_socket));
    let services = match bus.map(|bus| executor.block_on(Services::ask(&bus))).transpose() {
        Ok(services) => services,
        Err(error) if args.restart => return Err(error.into()),
        // In this case only pending restarts are unknown.
        Err(error) => {
            let what = format!("it is unknown which services need a restart: {error}");
            tell(&Finding::note(FindingId::RestartUnknown, what).to_string());
            None
        }
    };

    if args.restart {
        let services = services.as_ref().ok_or(RestartError::NoSystemd)?;
        node.check_restart(services, &node.plan_or_apply(true)?)?;
    }
    let mut part = node.plan_or_apply(args.diff || args.check)?;
    if services.is_none() {
        // Nobody can see whether the kubelet runs with the former range.
        let unread = part.findings.iter_mut().filter(|finding| finding.id == FindingId::KubeletRestart);
        let warned = unread.filter(|finding| finding.severity == Severity::Warning);
        warned.for_each(|finding| finding.severity = Severity::Error);
    }
    // The error at the end repeats the one for which a runtime was left out.
    let is_told = |finding: &&Finding| part.refused != Some(PartRefusal::Runtime((*finding).clone()));
    part.findings.iter().filter(is_told).for_each(|finding| tell(&finding.to_string()));
    let left = !part.left.is_empty();
    let refused = part.refused.clone().map(bootstrap::BootstrapError::from);
    if args.diff || args.check {
        node.report_pending(services.as_ref(), &[])?;
        let reported = report(&part, args.diff)?;
        refused.map_or(Ok(()), Err)?;
        return Ok(if left { INCOMPLETE } else { reported });
    }
    if part.changes.is_empty() && !left && refused.is_none() {
        tell("nothing to do");
    }
    if !args.restart {
        node.report_pending(services.as_ref(), &part.changes)?;
    } else if let Some(services) = &services {
        let unread = services.unread(root, &part.changes, runtimes.loaded.as_ref())?;
        if to_restart(&unread).next().is_none() {
            tell("nothing to restart");
        }
        node.check_start(services, &unread, &part.findings)?;
        executor.block_on(services.restart(&unread, &mut tell))?;
    }
    refused.map_or(Ok(()), Err)?;
    Ok(if left { INCOMPLETE } else { 0 })
}

/// A node and the requested action.
struct Node<'a> {
    args: &'a BootstrapArgs,
    settings: &'a Settings,
    root: &'a HostRoot,
    runtimes: &'a NodeRuntimes,
}

impl Node<'_> {
    fn runtime(&self) -> (Option<Runtime>, Vec<Finding>) {
        let mut configured = self.settings.bootstrap.runtime;
        if let Some(version) = self.args.crio_version {
            configured = RuntimeOverride {
                choice: RuntimeChoice::Only(RuntimeKind::Crio),
                crio: Some(version),
                ..configured
            };
        }
        choose(&configured, &self.runtimes.seen)
    }

    fn pods(&self, kind: RuntimeKind) -> Option<&RuntimePods> {
        self.runtimes.pods.iter().find(|(known, _)| *known == kind).map(|(_, pods)| pods)
    }

    /// Plans, and applies the plan unless `plan_only` is set.
    fn plan_or_apply(&self, plan_only: bool) -> anyhow::Result<Part> {
        let (root, desired) = (self.root, &self.settings.bootstrap);
        let ids = &desired.ids;
        let windows: Vec<_> = self.runtimes.pods.iter().flat_map(|(_, pods)| pods.windows.clone()).collect();
        let sandboxes = match &self.runtimes.unlisted {
            Some(why) => Sandboxes::Unlisted(why),
            None if self.runtimes.seen.answered.is_empty() => Sandboxes::NoRuntime,
            None => Sandboxes::Known(&windows),
        };
        match (self.args.undo, plan_only) {
            (true, true) => return Ok(bootstrap::plan_undo(root, ids, sandboxes)?),
            (true, false) => return Ok(bootstrap::undo(root, ids, sandboxes, &mut tell)?),
            (false, _) => {}
        }
        let (runtime, findings) = self.runtime();
        if let Some(path) = self.args.machineconfig.as_deref() {
            let parsed = read_machine_config(path)?;
            let version = match runtime {
                Some(Runtime::Crio(version)) => Some(version),
                _ => None,
            };
            let step: PlanStep<'_> =
                Box::new(|root| bootstrap::machine_config::plan(root, &parsed, ids, sandboxes, version));
            return run_steps(root, &[step], plan_only, findings);
        }
        // A node without any pod has not come up yet, so its system pods are unknown.
        let pods = runtime.and_then(|runtime| self.pods(runtime.kind())).filter(|pods| pods.all > 0);
        let preparation = Preparation {
            ids,
            apply_sysctl: self.args.apply_sysctl || desired.apply_sysctl,
            crio: &desired.crio,
            containerd_nri: desired.containerd_nri,
            hook: &desired.hook,
            plugin: &desired.plugin,
            runtime,
            sandboxes,
            system_pods: pods.map(|pods| pods.system.as_slice()),
            run_programs: RunPrograms::Yes,
            is_tried: true,
        };
        run_steps(root, &preparation.steps(), plan_only, findings)
    }

    /// Before anything is written: checks whether the following restarts would do harm.
    fn check_restart(&self, services: &Services, planned: &Part) -> anyhow::Result<()> {
        let unread = services.unread(self.root, &planned.changes, None)?;
        services.check(self.root, &unread, self.running_crio(), self.pods(RuntimeKind::Crio))?;
        let crio = self.running_crio();
        let starts = services.check_start(self.root, &unread, crio, &planned.changes, &planned.findings);
        Ok(starts.map_err(RestartError::before_any_change)?)
    }

    /// After everything is written and before a restart: checks whether the services would start again.
    /// `found` has the findings of the plan.
    fn check_start(&self, services: &Services, unread: &[Unread], found: &[Finding]) -> anyhow::Result<()> {
        let ids = bootstrap::ids::examine(self.root, &self.settings.bootstrap.ids, RunPrograms::Yes)?;
        let found: Vec<Finding> = found.iter().cloned().chain(ids.findings).collect();
        Ok(services.check_start(self.root, unread, self.running_crio(), &[], &found)?)
    }

    /// The version of a CRI-O that answered.
    fn running_crio(&self) -> Option<CrioVersion> {
        self.runtimes.seen.answered.iter().find_map(|runtime| match runtime {
            Runtime::Crio(version) => Some(*version),
            Runtime::Containerd(_) => None,
        })
    }

    fn report_pending(&self, services: Option<&Services>, changes: &[FileChange]) -> anyhow::Result<()> {
        let Some(services) = services else { return Ok(()) };
        for unread in services.unread(self.root, changes, self.runtimes.loaded.as_ref())? {
            tell(&restart::finding(&unread).to_string());
        }
        Ok(())
    }
}

/// Plans the steps, and applies the plan unless `plan_only` is set. Adds `findings` to those of the steps.
fn run_steps(
    root: &HostRoot,
    steps: &[PlanStep<'_>],
    plan_only: bool,
    findings: Vec<Finding>,
) -> anyhow::Result<Part> {
    let mut part = match plan_only {
        true => bootstrap::plan(root, steps)?,
        false => bootstrap::apply(root, steps, &mut tell)?,
    };
    part.findings.extend(findings);
    Ok(part)
}

fn read_machine_config(path: &Path) -> anyhow::Result<Parsed> {
    let text = read_file(path).context("--machineconfig")?;
    machineconfig::parse(&text).with_context(|| path.display().to_string())
}

fn report(part: &Part, as_patch: bool) -> anyhow::Result<u8> {
    for change in &part.changes {
        if change.reasons.is_empty() {
            tell(&format!("would change {}", change.path));
        }
        change.reasons.iter().for_each(|reason| tell(&format!("would change {}: {reason}", change.path)));
        if as_patch && !change.form.is_in_a_patch() {
            tell(&format!("{} is not in the patch: it is no text", change.path));
        }
    }
    if as_patch {
        print_bytes(&diff::unified(&part.changes))?;
    }
    Ok(if part.changes.is_empty() { 0 } else { DIFFERENT })
}

/// Makes a path absolute: settings accept only absolute paths, but a person may be in any directory.
pub(super) fn absolute(path: &Path) -> anyhow::Result<String> {
    let absolute = std::path::absolute(path).with_context(|| format!("--root {}", path.display()))?;
    absolute.into_os_string().into_string().map_err(|path| anyhow::anyhow!("--root {path:?} is not UTF-8"))
}
