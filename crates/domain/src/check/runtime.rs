//! The container runtime, its configuration, and its OCI runtimes.

use super::plugin::PluginFacts;
use super::{Check, Checked, Outcome, Probe, Problem, plugin};
use crate::crio::CrioVersion;
use crate::crio::annotation::{CGROUP, names_for};
use crate::crio::config::Effective;
use crate::finding::Finding;
use crate::node::{Health, PeerState, StartPath};
use crate::pairing::Mismatch;
use crate::restart;
use crate::runtime::RuntimeKind;

/// The facts that the checks need.
#[derive(Debug, Clone)]
pub struct RuntimeFacts {
    /// The runtime over CRI; the inner error is why it does not answer.
    pub cri: Probe<Result<Cri, String>>,
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
pub struct Cri {
    /// `cri-o` or `containerd`.
    pub name: String,
    /// The version.
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
    /// The version.
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
    /// The version.
    pub version: CrioVersion,
    /// Whether it is installed, and so is what starts next.
    pub is_installed: bool,
    /// The finding because of which it would not start.
    pub refuses: Finding,
}

/// An OCI runtime that a handler starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciRuntime {
    /// The program.
    pub path: String,
    /// The first line of `PROGRAM --version`, such as `runc version 1.3.6`.
    pub version: Probe<String>,
    /// `linux.mountExtensions.idmap.enabled` of `PROGRAM features`.
    pub idmap: Probe<bool>,
}

/// The oldest releases with ID-mapped mounts (Kubernetes' documentation, "User Namespaces").
const OCI_RUNTIMES: [(&str, (u32, u32)); 2] = [("runc", (1, 2)), ("crun", (1, 9))];

/// The checks.
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
            checked.push(
                Check::ContainerdSnapshotter
                    .judged(findings, "overlayfs, or one that reports support for ID mapping"),
            );
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

fn of_cri(cri: &Probe<Result<Cri, String>>) -> Vec<Checked> {
    let cri = match cri {
        Ok(Ok(cri)) => cri,
        Ok(Err(why)) => {
            let remedy = "systemctl start crio, or containerd; journalctl -u shows why it does not run";
            let no_answer = "the runtime does not answer";
            return vec![
                Check::CriReachable.failed(why.clone(), remedy),
                Check::RuntimeVersion.skipped(no_answer),
                Check::CriUsernsHandler.skipped(no_answer),
            ];
        }
        Err(why) => {
            return [Check::CriReachable, Check::RuntimeVersion, Check::CriUsernsHandler]
                .map(|check| check.skipped(why.clone()))
                .into();
        }
    };
    let Cri { name, version, endpoint, .. } = cri;
    vec![Check::CriReachable.passed(format!("{name} {version} at {endpoint}")), version_of(cri), handler(cri)]
}

fn version_of(cri: &Cri) -> Checked {
    let Cri { name, version, .. } = cri;
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

fn handler(cri: &Cri) -> Checked {
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
            check.passed(format!("the default handler, and {}", able.join(", ")))
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
        (Ok(_), _) => check.passed("enable_nri is true"),
        (Err(_), Ok(findings)) if Check::ContainerdConfig.judged(findings, "").is_failed() => {
            check.skipped("containerd's configuration cannot be read, see containerd_config")
        }
        (Err(_), Ok(findings)) => check.judged(findings, "on"),
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
    let Outcome::Passed(seen) = &nri.outcome else { return nri };
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

fn of_crio(crio: &Probe<Crio>) -> Vec<Checked> {
    let Crio { version, findings, effective, older, hook: _ } = match crio {
        Ok(crio) => crio,
        Err(why) => {
            let checks = [
                Check::CrioConfig,
                Check::CrioConfigIgnored,
                Check::CrioWorkloadTwins,
                Check::CrioAllowedTwice,
                Check::CrioAnnotations,
                Check::CrioPodEvents,
                Check::CrioRestart,
                Check::CrioUserns,
                Check::CrioMappings,
            ];
            return checks.map(|check| check.skipped(why.clone())).into();
        }
    };
    vec![
        starts(*version, findings, older.as_ref()),
        Check::CrioConfigIgnored.judged(findings, Check::CrioConfigIgnored.meaning()),
        Check::CrioWorkloadTwins.judged(findings, Check::CrioWorkloadTwins.meaning()),
        if version.tolerates_allowing_twice() {
            Check::CrioAllowedTwice.passed(format!("CRI-O {version} permits both"))
        } else {
            Check::CrioAllowedTwice.judged(findings, Check::CrioAllowedTwice.meaning())
        },
        annotations(*version, effective),
        pod_events(*version, effective),
        restarts(*version, effective),
        Check::CrioUserns.judged(findings, Check::CrioUserns.meaning()),
        if version.leaves_mappings_out() {
            Check::CrioMappings.failed(
                format!(
                    "CRI-O {version} does not pass the ID mappings to the OCI runtime (cri-o#9705): no \
                     container of a pod with hostUsers: false owns its cgroup, and systemd does not start there"
                ),
                "update to 1.35.1 or later; until then the agent hands the cgroups over",
            )
        } else {
            Check::CrioMappings.passed(format!("CRI-O {version}"))
        },
    ]
}

fn starts(version: CrioVersion, findings: &[Finding], older: Option<&Older>) -> Checked {
    let judged = Check::CrioConfig.judged(findings, "CRI-O would start with it");
    let Some(Older { version: older, is_installed, refuses }) = older.filter(|_| !judged.is_failed()) else {
        return judged;
    };
    if *is_installed {
        return Check::CrioConfig.failed(
            format!("CRI-O {version} runs and {older} is installed, which does not start with its configuration: {}", refuses.what),
            "before CRI-O restarts, install the version that runs, or run usernsd bootstrap --crio-version with the one that \
             is installed",
        );
    }
    Check::CrioConfig.passed(format!(
        "CRI-O would start with it; after a downgrade to {older} or older it would not, until usernsd bootstrap has run: {}",
        refuses.what
    ))
}

fn annotations(version: CrioVersion, effective: &Effective) -> Checked {
    let names = names_for(version, CGROUP);
    if names.is_empty() {
        return Check::CrioAnnotations.skipped(format!("CRI-O {version} has no such annotation"));
    }
    let by_handler = effective.default_handler().map(|handler| handler.allowed()).unwrap_or_default();
    let is_allowed = |name: &str| {
        let by_workload = effective.workloads.values().any(|workload| {
            workload.text("activation_annotation") == name
                && workload.allowed().iter().any(|allowed| allowed == name)
        });
        by_workload || by_handler.iter().any(|allowed| allowed == name)
    };
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_allowed(name)).collect();
    if missing.is_empty() {
        return Check::CrioAnnotations.passed(names.join(", "));
    }
    Check::CrioAnnotations.failed(
        format!("CRI-O ignores {}: pods that use it to ask for a writable cgroup do not get one", missing.join(", ")),
        "usernsd bootstrap; then: systemctl restart crio (see crio_restart first). Or let pods ask by usernsd.io/cgroup",
    )
}

fn pod_events(version: CrioVersion, effective: &Effective) -> Checked {
    if !version.broadcasts_pod_events() {
        return Check::CrioPodEvents.failed(
            format!("CRI-O {version} gives each event to one subscriber only: the agent leaves them to the kubelet"),
            "update to 1.28 or later, or do without: NRI and the resync see every container",
        );
    }
    if effective.pod_events.value {
        return Check::CrioPodEvents.passed("enable_pod_events is true");
    }
    Check::CrioPodEvents.failed(
        "enable_pod_events is false: the agent learns of containers by NRI, systemd and the resync only",
        "set enable_pod_events = true under [crio.runtime], and: systemctl restart crio (see crio_restart first)",
    )
}

fn restarts(version: CrioVersion, effective: &Effective) -> Checked {
    let mut problems = Vec::new();
    if version.forgets_mappings_on_restart() {
        problems.push(Problem {
            what: format!(
                "CRI-O {version} forgets the ID mappings of running pods when it is restarted (cri-o#10014): \
                 containers that start in them later would run as the host's root"
            ),
            remedy: "update to 1.35.6, or to 1.37.0 or later; until then drain the node before: systemctl restart crio"
                .to_owned(),
        });
    }
    let monitors = restart::warnings(Some(version), &effective.cgroup_manager.value, 1, 0);
    let judged = Check::CrioRestart.judged(&monitors, format!("CRI-O {version} restores ID mappings"));
    match judged.outcome {
        Outcome::Failed(more) => problems.extend(more),
        _ if problems.is_empty() => return judged,
        _ => {}
    }
    Checked { check: Check::CrioRestart, outcome: Outcome::Failed(problems) }
}

fn of_oci(oci: &Probe<Vec<OciRuntime>>) -> Vec<Checked> {
    let runtimes = match oci {
        Ok(runtimes) if runtimes.is_empty() => &Err("no OCI runtime was found".to_owned()),
        other => other,
    };
    let runtimes = match runtimes {
        Ok(runtimes) => runtimes,
        Err(why) => {
            return [Check::OciRuntimeVersion, Check::OciRuntimeIdmap]
                .map(|check| check.skipped(why.clone()))
                .into();
        }
    };
    let mut versions = Many::new(Check::OciRuntimeVersion);
    let mut maps = Many::new(Check::OciRuntimeIdmap);
    for OciRuntime { path, version, idmap } in runtimes {
        match version {
            Err(why) => versions.bad(format!("{path}: {why}"), "repair or remove the handler that names it"),
            Ok(line) => version_of_oci(path, line, &mut versions),
        }
        match idmap {
            Err(why) => maps.unknown(format!("{path}: {why}")),
            Ok(true) => maps.good(path.clone()),
            Ok(false) => maps.bad(
                format!(
                    "{path} reports that it cannot map the IDs of mounts: pods with hostUsers: false fail"
                ),
                "update it to runc 1.2 or crun 1.9 or later",
            ),
        }
    }
    vec![versions.checked(), maps.checked()]
}

fn version_of_oci(path: &str, line: &str, versions: &mut Many) {
    let known = OCI_RUNTIMES.iter().find_map(|(name, needed)| {
        let version = line.strip_prefix(name)?.trim_start().strip_prefix("version")?;
        Some((name, *needed, release(version)?))
    });
    match known {
        None => versions.unknown(format!("{path} prints {line:?} as its version")),
        Some((_, needed, found)) if found >= needed => versions.good(line.to_owned()),
        Some((name, (major, minor), _)) => versions.bad(
            format!("{path} is {line}: pods with hostUsers: false need {name} {major}.{minor}"),
            "update it; one that was installed by hand may stand before the packaged one",
        ),
    }
}

/// One check of many objects.
struct Many {
    check: Check,
    good: Vec<String>,
    unknown: Vec<String>,
    bad: Vec<Problem>,
}

impl Many {
    fn new(check: Check) -> Many {
        Many { check, good: vec![], unknown: vec![], bad: vec![] }
    }

    fn good(&mut self, what: String) {
        self.good.push(what);
    }

    fn unknown(&mut self, what: String) {
        self.unknown.push(what);
    }

    fn bad(&mut self, what: String, remedy: &str) {
        self.bad.push(Problem { what, remedy: remedy.to_owned() });
    }

    fn checked(self) -> Checked {
        match (self.bad.is_empty(), self.good.is_empty()) {
            (false, _) => Checked { check: self.check, outcome: Outcome::Failed(self.bad) },
            (true, false) => self.check.passed(self.good.join(", ")),
            (true, true) => self.check.skipped(self.unknown.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crio::config::Setting;
    use crate::finding::FindingId;

    fn runtime(version: &str) -> RuntimeFacts {
        let version = CrioVersion::parse(version).unwrap();
        let mut effective = Effective::built_in(version);
        for setting in [&mut effective.pod_events, &mut effective.nri] {
            *setting = Setting { value: true, file: None };
        }
        let names = names_for(version, CGROUP).into_iter();
        let fields = |name: &str| {
            use crate::toml::Value;
            [
                ("activation_annotation".to_owned(), Value::Text(name.to_owned())),
                ("allowed_annotations".to_owned(), Value::list(names_for(version, CGROUP).iter().copied())),
            ]
            .into()
        };
        effective.workloads = names
            .map(|name| {
                let fields = fields(name);
                (name.to_owned(), crate::crio::config::Entry { fields, file: None })
            })
            .collect();
        let handler = |name: &str| Handler { name: name.into(), user_namespaces: true };
        RuntimeFacts {
            cri: Ok(Ok(Cri {
                name: "cri-o".into(),
                version: version.to_string(),
                endpoint: "/s".into(),
                handlers: Ok(vec![handler(""), handler("crun")]),
            })),
            crio: Ok(Crio { version, findings: vec![], effective, older: None, hook: None }),
            containerd: Err("the runtime is CRI-O".into()),
            containerd_file: Err("the runtime is CRI-O".into()),
            oci: Ok(vec![OciRuntime {
                path: "/usr/bin/crun".into(),
                version: Ok("crun version 1.28".into()),
                idmap: Ok(true),
            }]),
            plugin: Err("not looked at".into()),
            joined: Joined::Yes,
        }
    }

    fn bad(facts: &RuntimeFacts) -> Vec<String> {
        let checked = checks(facts);
        // The result for NRI comes from the agent only.
        let mine =
            Check::of_category(crate::check::Category::Runtime).filter(|check| *check != Check::NriJoined);
        assert!(mine.eq(checked.iter().map(|one| one.check)));
        // Checks of the other runtime, and those of `plugin`.
        let others = [
            Check::ContainerdConfig,
            Check::ContainerdSnapshotter,
            Check::PluginInstalled,
            Check::PluginRunning,
            Check::NriRequired,
        ];
        let bad = checked.iter().filter(|one| one.word() != "pass" && !others.contains(&one.check));
        bad.map(|one| format!("{} {}", one.check.name(), one.word())).collect()
    }

    fn crio(facts: &mut RuntimeFacts) -> &mut Crio {
        facts.crio.as_mut().unwrap()
    }

    fn cri(facts: &mut RuntimeFacts) -> &mut Cri {
        facts.cri.as_mut().unwrap().as_mut().unwrap()
    }

    #[test]
    fn a_runtime_that_is_not_joined_is_named_with_the_reason() {
        let mut health = Health::new(std::time::SystemTime::UNIX_EPOCH);
        let word = |health: &Health| joined(health, StartPath::Nobody, None).word();
        assert_eq!(word(&health), "warn");
        health.down(std::time::SystemTime::UNIX_EPOCH, "pod a/b is too large".into());
        assert!(
            matches!(joined(&health, StartPath::Nobody, None).outcome, Outcome::Failed(problems) if problems[0].what.contains("a/b"))
        );
        health.up(std::time::SystemTime::UNIX_EPOCH);
        assert_eq!(word(&health), "pass");
        let mismatch = Mismatch { what: "containerd and cri-o".into(), remedy: "x".into() };
        assert_eq!(joined(&health, StartPath::Nobody, Some(&mismatch)).word(), "warn");
        health.off(std::time::SystemTime::UNIX_EPOCH);
        assert_eq!(word(&health), "skip");
        assert_eq!(joinable(Ok(Some("x".into())), None).word(), "warn");
        assert_eq!(joinable(Ok(None), Some(mismatch)).word(), "warn");
        let words = (joinable(Ok(None), None).word(), joinable(Err("x".into()), None).word());
        assert_eq!(words, ("skip", "skip"));
    }

    #[test]
    fn an_older_crio_that_is_installed_would_not_start() {
        let refuses = Finding::error(FindingId::CrioWorkload, "x.crio.io is not known".into(), "y");
        let said = |older: Option<Older>, findings: Vec<Finding>| {
            let mut facts = runtime("1.37.0");
            let crio = facts.crio.unwrap();
            facts.crio = Ok(Crio { older, findings, ..crio });
            let checked = checks(&facts).into_iter().find(|one| one.check == Check::CrioConfig).unwrap();
            (checked.word(), format!("{checked:?}"))
        };
        let older = |is_installed| {
            Some(Older { version: CrioVersion::new(1, 34, 2), is_installed, refuses: refuses.clone() })
        };
        let (word, text) = said(older(true), vec![]);
        assert!(
            word == "fail" && text.contains("1.34.2 is installed") && text.contains("x.crio.io"),
            "{text}"
        );
        assert!(text.contains("usernsd bootstrap --crio-version"), "{text}");
        let (word, text) = said(older(false), vec![]);
        assert!(
            word == "pass" && text.contains("after a downgrade to 1.34.2 or older it would not"),
            "{text}"
        );
        // Problems that keep the running version from starting come first.
        let now = Finding::error(FindingId::CrioUndecodable, "broken now".into(), "z");
        let (word, text) = said(older(true), vec![now]);
        assert!(word == "fail" && text.contains("broken now"), "{text}");
    }

    #[test]
    fn each_check_fails_alone_if_its_cause_is_present() {
        assert_eq!(bad(&runtime("1.37.0")), Vec::<String>::new());
        type Spoil = fn(&mut RuntimeFacts);
        let cases: [(&str, Spoil, &[&str]); 20] = [
            ("1.36.3", |_| {}, &["crio_restart warn"]),
            ("1.35.6", |_| {}, &[]),
            ("1.35.0", |_| {}, &["crio_restart warn", "crio_mappings fail"]),
            ("1.35.1", |_| {}, &["crio_restart warn"]),
            ("1.24.6", |_| {}, &["runtime_version fail", "nri_enabled warn", "crio_pod_events note"]),
            ("1.27.1", |_| {}, &["crio_pod_events note", "crio_restart warn"]),
            (
                "1.22.0",
                |_| {},
                &[
                    "runtime_version fail",
                    "nri_enabled warn",
                    "crio_annotations skip",
                    "crio_pod_events note",
                ],
            ),
            (
                "1.37.0",
                |f| f.cri = Ok(Err("no".into())),
                &["cri_reachable fail", "runtime_version skip", "cri_userns_handler skip"],
            ),
            (
                "1.37.0",
                |f| f.cri = Err("offline".into()),
                &["cri_reachable skip", "runtime_version skip", "cri_userns_handler skip"],
            ),
            ("1.37.0", |f| cri(f).version = "1.24.0".into(), &["runtime_version fail"]),
            ("1.37.0", |f| cri(f).version = "new".into(), &["runtime_version skip"]),
            (
                "1.37.0",
                |f| cri(f).handlers.as_mut().unwrap()[0].user_namespaces = false,
                &["cri_userns_handler fail"],
            ),
            ("1.37.0", |f| cri(f).handlers = Ok(vec![]), &["cri_userns_handler skip"]),
            ("1.37.0", |f| crio(f).effective.nri.value = false, &["nri_enabled warn"]),
            ("1.37.0", |f| crio(f).effective.pod_events.value = false, &["crio_pod_events note"]),
            ("1.37.0", |f| crio(f).effective.workloads.clear(), &["crio_annotations warn"]),
            (
                "1.37.0",
                |f| crio(f).effective.cgroup_manager.value = "cgroupfs".into(),
                &["crio_restart warn"],
            ),
            (
                "1.37.0",
                |f| f.oci.as_mut().unwrap()[0].version = Ok("crun version 1.8.7".into()),
                &["oci_runtime_version fail"],
            ),
            ("1.37.0", |f| f.oci.as_mut().unwrap()[0].idmap = Ok(false), &["oci_runtime_idmap fail"]),
            ("1.37.0", |f| f.oci = Ok(vec![]), &["oci_runtime_version skip", "oci_runtime_idmap skip"]),
        ];
        for (index, (version, spoil, want)) in cases.into_iter().enumerate() {
            let mut facts = runtime(version);
            spoil(&mut facts);
            assert_eq!(bad(&facts), want, "case {index}");
        }
        for (finding, want) in [
            (Finding::error(FindingId::CrioWorkload, "x".into(), ""), "crio_config fail"),
            (Finding::warning(FindingId::CrioStrayFile, "x".into(), ""), "crio_config_ignored warn"),
            (Finding::warning(FindingId::CrioWorkloadTwins, "x".into(), ""), "crio_workload_twins warn"),
        ] {
            let mut facts = runtime("1.37.0");
            crio(&mut facts).findings.push(finding);
            assert_eq!(bad(&facts), [want]);
        }
        let mut facts = runtime("1.35.6");
        facts.crio.as_mut().unwrap().version = CrioVersion::new(1, 29, 9);
        crio(&mut facts).findings.push(Finding::warning(FindingId::CrioAllowedTwice, "x".into(), ""));
        assert!(bad(&facts).contains(&"crio_allowed_twice warn".to_owned()));
    }

    #[test]
    fn containerd_is_judged_by_its_own_rules() {
        let facts = |version: &str, findings| RuntimeFacts {
            cri: Ok(Ok(Cri {
                name: "containerd".into(),
                version: version.into(),
                endpoint: "/s".into(),
                handlers: Err("it does not say".into()),
            })),
            crio: Err("the runtime is containerd".into()),
            containerd: Ok(findings),
            containerd_file: Ok("/etc/containerd/config.toml".into()),
            oci: Err("x".into()),
            plugin: Err("x".into()),
            joined: Joined::Yes,
        };
        let word = |facts: &RuntimeFacts, check: Check| {
            checks(facts).iter().find(|one| one.check == check).unwrap().word()
        };
        assert_eq!(word(&facts("2.1.9+unknown", vec![]), Check::RuntimeVersion), "pass");
        assert_eq!(word(&facts("1.7.28", vec![]), Check::RuntimeVersion), "fail");
        assert_eq!(word(&facts("2.1.9", vec![]), Check::NriEnabled), "pass");
        let off = Finding::warning(FindingId::ContainerdNri, "off".into(), "on");
        assert_eq!(word(&facts("2.1.9", vec![off]), Check::NriEnabled), "warn");
        let broken = || Finding::error(FindingId::ContainerdUndecodable, "no".into(), "repair it");
        assert_eq!(word(&facts("2.1.9", vec![broken()]), Check::ContainerdConfig), "fail");
        assert_eq!(word(&facts("2.1.9", vec![broken()]), Check::NriEnabled), "skip");
        assert_eq!(word(&facts("2.1.9", vec![]), Check::ContainerdConfig), "pass");
        assert_eq!(word(&facts("2.1.9", vec![]), Check::CrioConfig), "skip");
    }

    #[test]
    fn nri_that_is_on_helps_only_where_usernsd_is_asked() {
        let word = |joined| {
            let facts = RuntimeFacts { joined, ..runtime("1.37.0") };
            checks(&facts).iter().find(|one| one.check == Check::NriEnabled).unwrap().word()
        };
        for (joined, want) in [
            (Joined::Yes, "pass"),
            (Joined::No, "warn"),
            (Joined::Unasked, "skip"),
            (Joined::NothingRuns, "pass"),
        ] {
            assert_eq!(word(joined), want, "{joined:?}");
        }
    }

    #[test]
    fn versions_are_read() {
        for (text, want) in [
            ("2.1.9+unknown", Some((2, 1))),
            ("v1.7.0-rc.1", Some((1, 7))),
            (" 1.28", Some((1, 28))),
            ("1.3.6~ds1", Some((1, 3))),
            ("", None),
            ("x.1", None),
        ] {
            assert_eq!(release(text), want, "{text:?}");
        }
        let mut versions = Many::new(Check::OciRuntimeVersion);
        for line in ["runc version 1.1.5", "runc version 1.2.0", "crun version 1.14.1", "kata 3"] {
            version_of_oci("/x", line, &mut versions);
        }
        assert_eq!((versions.good.len(), versions.bad.len(), versions.unknown.len()), (2, 1, 1));
    }
}
