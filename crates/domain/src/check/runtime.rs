//! The container runtime, its configuration, and its OCI runtimes.

#[cfg(test)]
mod tests;

mod crio;
mod oci;

use self::crio::of_crio;
use self::oci::of_oci;
use super::plugin::PluginFacts;
use super::{Answer, Check, CheckOutcome, Checked, Probe, plugin};
use crate::crio::CrioVersion;
use crate::crio::config::Effective;
use crate::finding::{Finding, FindingId};
use crate::node::{Health, PeerState, StartPath};
use crate::pairing::Mismatch;
use crate::runtime::RuntimeKind;

/// The facts that the checks need.
#[derive(Debug, Clone)]
pub struct RuntimeFacts {
    /// The runtime over CRI.
    pub cri: Answer<CriFacts>,
    /// CRI-O; an error if the runtime is another one.
    pub crio: Probe<Crio>,
    /// Findings about containerd.
    pub containerd: Probe<Vec<Finding>>,
    /// containerd's main file; or why it is not known.
    pub containerd_file: Probe<String>,
    /// The OCI runtimes of all handlers.
    pub oci: Probe<Vec<OciRuntime>>,
    /// The pre-installed NRI plugin.
    pub plugin: Probe<PluginFacts>,
    /// Whether an agent has joined NRI.
    pub joined: Joined,
}

/// Whether an agent has joined NRI, or is connected to the launched plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// An agent has joined.
    Yes,
    /// No agent has joined.
    No,
    /// Not known yet: the agent has to be asked.
    Unasked,
    /// No runtime answers, so there is nothing to join: only files are checked.
    NothingRuns,
}

/// The runtime that answers over CRI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriFacts {
    /// `cri-o` or `containerd`.
    pub name: String,
    pub version: String,
    /// The socket on which it answers.
    pub endpoint: String,
    /// Its handlers; `Err` if it does not report them.
    pub handlers: Probe<Vec<Handler>>,
}

/// A runtime handler, as CRI's `Status` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its name; empty for the default one.
    pub name: String,
    /// `features.user_namespaces`: user namespaces and ID-mapped mounts.
    pub user_namespaces: bool,
}

/// CRI-O.
#[derive(Debug, Clone)]
pub struct Crio {
    pub version: CrioVersion,
    /// The parts of its files that it would refuse or ignore.
    pub findings: Vec<Finding>,
    /// Its effective configuration.
    pub effective: Effective,
    /// An older one that would not start with them.
    pub older: Option<Older>,
    /// The file of usernsd's OCI hook, if CRI-O runs it.
    pub hook: Option<String>,
}

/// A CRI-O before the one that runs, and why it would not start with the same files: it ends at names of
/// annotations that it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Older {
    pub version: CrioVersion,
    /// Whether it is installed, and so is what starts next.
    pub is_installed: bool,
    /// The finding because of which it would not start.
    pub refuses: Finding,
}

/// An OCI runtime that a handler starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRuntime {
    pub path: String,
    /// The first line of `PROGRAM --version`, such as `runc version 1.3.6`.
    pub version: Probe<String>,
    /// `linux.mountExtensions.idmap.enabled` of `PROGRAM features`.
    pub idmap: Probe<bool>,
}

#[must_use]
pub fn checks(facts: &RuntimeFacts) -> Vec<Checked> {
    let mut checked = of_cri(&facts.cri);
    checked.push(in_the_start_path(nri(facts), facts));
    checked.extend(plugin::checks(facts.plugin.as_ref().map_err(Clone::clone)));
    match &facts.containerd {
        Ok(findings) => {
            let is_bad = || findings.iter().any(|finding| finding.check() == Some(Check::ContainerdConfig));
            checked.push(match &facts.containerd_file {
                Err(why) if !is_bad() => Check::ContainerdConfig.skipped(why.clone()),
                Ok(seen) | Err(seen) => Check::ContainerdConfig.judged(findings, seen.as_str()),
            });
            let unread = findings.iter().any(|finding| {
                matches!(finding.id, FindingId::ContainerdUndecodable | FindingId::ContainerdImports)
            });
            checked.push(match &facts.containerd_file {
                _ if unread => Check::ContainerdSnapshotter
                    .skipped("containerd's configuration cannot be read, see containerd_config"),
                Err(why) if !findings.iter().any(|one| one.check() == Some(Check::ContainerdSnapshotter)) => {
                    Check::ContainerdSnapshotter.skipped(why.clone())
                }
                _ => Check::ContainerdSnapshotter
                    .judged(findings, "overlayfs, or one that reports support for ID mapping"),
            });
        }
        Err(why) => {
            checked.push(Check::ContainerdConfig.skipped(why.clone()));
            checked.push(Check::ContainerdSnapshotter.skipped(why.clone()));
        }
    }
    checked.extend(of_crio(&facts.crio));
    checked.extend(of_oci(&facts.oci));
    checked
}

/// Whether the agent has joined over NRI, by its own health. It does not join if a launched plugin is in the start
/// path.
#[must_use]
pub fn joined(nri: &Health, start_path: StartPath, mismatch: Option<&Mismatch>) -> Checked {
    if let Some(mismatch) = mismatch {
        return Check::NriJoined.failed(mismatch.what.clone(), mismatch.remedy.clone());
    }
    match nri.state {
        _ if start_path == StartPath::LaunchedPlugin => {
            Check::NriJoined.skipped("the plugin that the runtime launched serves it")
        }
        PeerState::Up => Check::NriJoined.passed("joined"),
        PeerState::Off => Check::NriJoined.skipped("nri.enabled is false"),
        PeerState::Down | PeerState::Waiting => Check::NriJoined
            .failed(nri.last_error.clone().unwrap_or_else(|| "not joined yet".to_owned()), NOT_JOINED),
    }
}

/// Whether an agent could join, without asking one: `refusal` is why the runtime would not survive it, and `mismatch`
/// is a second runtime that it would join instead.
#[must_use]
pub fn joinable(refusal: Probe<Option<String>>, mismatch: Option<Mismatch>) -> Checked {
    if let Some(Mismatch { what, remedy }) = mismatch {
        return Check::NriJoined.failed(what, remedy);
    }
    match refusal {
        Ok(Some(why)) => Check::NriJoined.failed(why, NOT_JOINED),
        Ok(None) => {
            Check::NriJoined.skipped("only the agent can report this; the runtime would survive a join")
        }
        Err(why) => Check::NriJoined.skipped(why),
    }
}

/// The remedy if the agent has not joined.
const NOT_JOINED: &str = "see docs/runbooks/checks/nri_joined.md; the agent tries again by itself";

/// The first two numbers of a version: (2, 1) of `2.1.9+unknown`, `v2.1.9`, `1.28`.
#[must_use]
pub fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim().trim_start_matches('v').split(['.', '-', '+', '~', ' ']);
    let mut number = || numbers.next()?.parse::<u32>().ok();
    Some((number()?, number()?))
}

fn of_cri(cri: &Answer<CriFacts>) -> Vec<Checked> {
    let cri = match cri {
        Answer::Given(cri) => cri,
        Answer::Missing(why) => {
            let remedy = "systemctl start crio, or containerd; journalctl -u UNIT shows why it does not run";
            let no_answer = "the runtime does not answer";
            return vec![
                Check::CriReachable.failed(why.clone(), remedy),
                Check::RuntimeVersion.skipped(no_answer),
                Check::CriUsernsHandler.skipped(no_answer),
            ];
        }
        Answer::NotAsked(why) => {
            return [Check::CriReachable, Check::RuntimeVersion, Check::CriUsernsHandler]
                .map(|check| check.skipped(why.clone()))
                .into();
        }
    };
    let CriFacts { name, version, endpoint, .. } = cri;
    vec![Check::CriReachable.passed(format!("{name} {version} at {endpoint}")), version_of(cri), handler(cri)]
}

fn version_of(cri: &CriFacts) -> Checked {
    let CriFacts { name, version, .. } = cri;
    let (needed, why) = match RuntimeKind::named(name) {
        Some(RuntimeKind::Crio) => ((1, 25), "it does not support them"),
        Some(RuntimeKind::Containerd) => {
            ((2, 0), "1.6 silently ignores the request, 1.7 does not work with Kubernetes 1.27 or later")
        }
        None => return Check::RuntimeVersion.skipped(format!("the runtime {name} is not supported")),
    };
    let (major, minor) = needed;
    match release(version) {
        Some(release) if release >= needed => Check::RuntimeVersion.passed(format!("{name} {version}")),
        Some(_) => Check::RuntimeVersion.failed(
            format!("{name} {version} runs no pods with hostUsers: false: {why}"),
            format!("update it to {major}.{minor} or later"),
        ),
        None => Check::RuntimeVersion.skipped(format!("{version:?} is no version")),
    }
}

fn handler(cri: &CriFacts) -> Checked {
    let check = Check::CriUsernsHandler;
    let handlers = match &cri.handlers {
        Ok(handlers) => handlers,
        Err(why) => return check.skipped(why.clone()),
    };
    let able: Vec<&str> = handlers
        .iter()
        .filter(|handler| handler.user_namespaces && !handler.name.is_empty())
        .map(|handler| handler.name.as_str())
        .collect();
    match handlers.iter().find(|handler| handler.name.is_empty()) {
        None => check.skipped("the runtime lists no default handler"),
        Some(Handler { user_namespaces: true, .. }) => {
            check.passed([&["the default handler"], able.as_slice()].concat().join(", "))
        }
        Some(_) => {
            let others = if able.is_empty() {
                "no handler does".to_owned()
            } else {
                format!("only {} can, by a RuntimeClass", able.join(", "))
            };
            check.failed(
                format!(
                    "the default runtime handler offers no user namespaces with ID-mapped mounts ({others}): the \
                     kubelet refuses pods with hostUsers: false"
                ),
                "update the OCI runtime to runc 1.2 or crun 1.9, and the kernel to 6.3; see oci_runtime_idmap",
            )
        }
    }
}

fn nri(facts: &RuntimeFacts) -> Checked {
    let check = Check::NriEnabled;
    match (&facts.crio, &facts.containerd) {
        (Ok(Crio { version, hook, .. }), _) if !version.has_nri() => check.failed(
            format!("CRI-O {version} has no NRI: {}", without_nri(hook.as_deref())),
            match hook {
                Some(_) => "update to 1.26 or later",
                None => "update to 1.26 or later, or install the OCI hook, docs/hook.md",
            },
        ),
        (Ok(Crio { effective, hook, .. }), _) if !effective.nri.value => {
            let file = effective.nri.file.as_deref().unwrap_or("its default");
            check.failed(
                format!("enable_nri is false ({file}): {}", without_nri(hook.as_deref())),
                "set enable_nri = true under [crio.nri], and: systemctl restart crio",
            )
        }
        (Ok(crio), _) => check.judged(&crio.findings, "enable_nri is true"),
        (Err(_), Ok(findings)) if Check::ContainerdConfig.judged(findings, "").is_failed() => {
            check.skipped("containerd's configuration cannot be read, see containerd_config")
        }
        (Err(_), Ok(findings)) => match &facts.containerd_file {
            Err(why) if !findings.iter().any(|one| one.check() == Some(check)) => check.skipped(why.clone()),
            _ => check.judged(findings, "on"),
        },
        (Err(_), Err(why)) => check.skipped(why.clone()),
    }
}

/// The consequence of a CRI-O without NRI, which depends on whether usernsd's OCI hook is installed.
fn without_nri(hook: Option<&str>) -> String {
    match hook {
        None => "cgroups are handed over after the container started, if only by moments".to_owned(),
        Some(path) => format!(
            "the OCI hook {path} hands cgroups over in time, but pods cannot ask for a writable cgroup by annotation, and \
             containers without their user namespace are not refused"
        ),
    }
}

/// NRI has an effect only if usernsd is in the start path.
fn in_the_start_path(nri: Checked, facts: &RuntimeFacts) -> Checked {
    let CheckOutcome::Passed(seen) = &nri.outcome else { return nri };
    let process = facts.plugin.as_ref().ok().and_then(|plugin| plugin.process.as_ref().ok()?.as_ref());
    match (process, facts.joined) {
        (_, Joined::NothingRuns) => nri,
        (Some(process), _) if !process.is_stopped => {
            Check::NriEnabled.passed(format!("{seen}; the runtime has launched usernsd, process {}", process.pid))
        }
        (_, Joined::Yes) => Check::NriEnabled.passed(format!("{seen}; the agent has joined")),
        (_, Joined::No) => Check::NriEnabled.failed(
            format!(
                "{seen}, but does not call usernsd: it has launched no usernsd plugin, and no agent has joined"
            ),
            "see plugin_running, and start the agent; its log has the reason if it does not join",
        ),
        (_, Joined::Unasked) => {
            Check::NriEnabled.skipped(format!("{seen}; only an agent can report whether it has joined"))
        }
    }
}
