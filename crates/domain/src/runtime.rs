//! Which container runtime a node has, by the runtime's answers, its programs, and the configuration.

use super::containerd::Release;
use super::crio::CrioVersion;
use super::finding::{Finding, FindingId};

/// A container runtime by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuntimeKind {
    Crio,
    Containerd,
}

/// A container runtime and its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Crio(CrioVersion),
    Containerd(Release),
}

/// Which runtime to prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// The one that the node has.
    #[default]
    Auto,
    Only(RuntimeKind),
    None,
}

/// The configuration for the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuntimeOverride {
    pub choice: RuntimeChoice,
    /// CRI-O's version, if it cannot be asked.
    pub crio: Option<CrioVersion>,
    /// containerd's version, if it cannot be asked.
    pub containerd: Option<Release>,
}

/// The facts on the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimesFound {
    /// Runtimes that answered over CRI, in the order in which they were asked.
    pub answered: Vec<Runtime>,
    /// Versions that the programs print.
    pub programs: Vec<Runtime>,
    /// Runtimes whose files exist on the node.
    pub installed: Vec<RuntimeKind>,
}

// === impl RuntimesFound ===

impl RuntimesFound {
    /// Whether anything of that runtime was found: it answers, or its program or a file of it is there.
    #[must_use]
    pub fn has(&self, kind: RuntimeKind) -> bool {
        let found = self.answered.iter().chain(&self.programs).map(|runtime| runtime.kind());
        found.chain(self.installed.iter().copied()).any(|found| found == kind)
    }
}

// === impl RuntimeKind, Runtime ===

words! {
    /// The name by which it answers to CRI `Version` and registers NRI plugins (CRI-O `internal/nri/nri.go`, containerd
    /// `internal/nri/nri.go`). A build under another name is of no kind.
    RuntimeKind { Crio = "cri-o", Containerd = "containerd" }
}

impl RuntimeKind {
    /// The name for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            RuntimeKind::Crio => "CRI-O",
            RuntimeKind::Containerd => "containerd",
        }
    }

    /// How to configure its version.
    fn remedy(self) -> &'static str {
        match self {
            RuntimeKind::Crio => "set it with --crio-version, or as bootstrap.crio.version",
            RuntimeKind::Containerd => "set it as bootstrap.containerd.version",
        }
    }
}

impl Runtime {
    /// Parses the name and the version with which a runtime answers; `None` for one that is not known, or without a
    /// version.
    #[must_use]
    pub fn parse(name: &str, version: &str) -> Option<Runtime> {
        match RuntimeKind::named(name)? {
            RuntimeKind::Crio => CrioVersion::parse(version).ok().map(Runtime::Crio),
            RuntimeKind::Containerd => Release::parse(version).ok().map(Runtime::Containerd),
        }
    }

    /// The kind of runtime.
    #[must_use]
    pub fn kind(self) -> RuntimeKind {
        match self {
            Runtime::Crio(_) => RuntimeKind::Crio,
            Runtime::Containerd(_) => RuntimeKind::Containerd,
        }
    }

    fn older(self, other: Runtime) -> Runtime {
        match (self, other) {
            (Runtime::Crio(one), Runtime::Crio(other)) => Runtime::Crio(one.min(other)),
            (Runtime::Containerd(one), Runtime::Containerd(other)) => Runtime::Containerd(one.min(other)),
            _ => self,
        }
    }

    fn version(self) -> String {
        match self {
            Runtime::Crio(version) => version.to_string(),
            Runtime::Containerd(release) => release.to_string(),
        }
    }
}

/// The runtime to prepare; `None` if there is none, or too little is known about it: the findings contain what to
/// pass in that case.
///
/// A runtime that answers takes precedence. If the configured, the running and the installed version differ, the
/// oldest is used: what is written for it is valid for every later one, but not the reverse, and any of them may
/// start next.
#[must_use]
pub fn choose(configured: &RuntimeOverride, seen: &RuntimesFound) -> (Option<Runtime>, Vec<Finding>) {
    let wanted: &[RuntimeKind] = match &configured.choice {
        RuntimeChoice::None => return (None, Vec::new()),
        RuntimeChoice::Only(kind) => std::slice::from_ref(kind),
        RuntimeChoice::Auto => &RuntimeKind::ALL,
    };
    let configured = |kind| match kind {
        RuntimeKind::Crio => configured.crio.map(Runtime::Crio),
        RuntimeKind::Containerd => configured.containerd.map(Runtime::Containerd),
    };
    let of = |list: &[Runtime], kind| list.iter().copied().find(|runtime| runtime.kind() == kind);
    let named =
        |from: &dyn Fn(RuntimeKind) -> bool| wanted.iter().copied().filter(|kind| from(*kind)).collect();
    let answered = seen.answered.iter().map(|runtime| runtime.kind()).find(|kind| wanted.contains(kind));
    let configured_kinds: Vec<RuntimeKind> = named(&|kind| configured(kind).is_some());
    let present: Vec<RuntimeKind> =
        named(&|kind| of(&seen.programs, kind).is_some() || seen.installed.contains(&kind));
    let kind = match (answered, configured_kinds.as_slice(), present.as_slice()) {
        (Some(kind), ..) => kind,
        (None, [kind], _) | (None, [], [kind]) => *kind,
        (None, [], []) => match wanted {
            [kind] => *kind,
            _ => {
                let what = "no container runtime was found, and nothing is written for one".to_owned();
                let note = Finding::note(FindingId::RuntimeUnknown, what);
                let remedy = "to prepare a node before its runtime is installed, set the version that it will \
                              have: bootstrap.crio.version (--crio-version), or bootstrap.containerd.version";
                return (None, vec![Finding { remedy: remedy.to_owned(), ..note }]);
            }
        },
        _ => {
            let what =
                "both CRI-O and containerd are here and neither answers: nothing is written for either";
            let remedy = "set bootstrap.runtime to the one that the kubelet uses";
            return (None, vec![Finding::warning(FindingId::RuntimeAmbiguous, what.to_owned(), remedy)]);
        }
    };
    let mut findings = Vec::new();
    let seen = [of(&seen.answered, kind), of(&seen.programs, kind)];
    let versions: Vec<Runtime> = seen.into_iter().chain([configured(kind)]).flatten().collect();
    let runtime = versions.iter().copied().reduce(Runtime::older);
    if let (Some(oldest), Some(other)) = (runtime, versions.iter().find(|version| Some(**version) != runtime))
    {
        let what = format!(
            "{} is both {} and {} here, by what runs, what lies on the disk and what is said; it is prepared \
             as the older one",
            kind.title(),
            oldest.version(),
            other.version()
        );
        findings.push(Finding::warning(
            FindingId::RuntimeVersionDiffers,
            what,
            "leave its version out, restart it, and run this again",
        ));
    }
    if runtime.is_none() {
        let what = format!("the version of {} is not known: nothing is written for it", kind.title());
        findings.push(Finding::warning(FindingId::RuntimeVersionUnknown, what, kind.remedy()));
    }
    (runtime, findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Runtime = Runtime::Crio(CrioVersion::new(1, 34, 0));
    const NEW: Runtime = Runtime::Crio(CrioVersion::new(1, 36, 3));
    const CONTAINERD: Runtime = Runtime::Containerd(Release::new(2, 1));

    #[test]
    fn an_answering_runtime_is_chosen_and_the_oldest_version_used() {
        let seen = |answered: &[Runtime], programs: &[Runtime], installed: &[RuntimeKind]| RuntimesFound {
            answered: answered.to_vec(),
            programs: programs.to_vec(),
            installed: installed.to_vec(),
        };
        let auto = RuntimeOverride::default();
        let crio = RuntimeOverride { crio: Some(CrioVersion::new(1, 36, 3)), ..auto };
        let only = |kind| RuntimeOverride { choice: RuntimeChoice::Only(kind), ..auto };
        let both = [RuntimeKind::Crio, RuntimeKind::Containerd];
        for (configured, seen, runtime, finding) in [
            (auto, seen(&[], &[], &[]), None, Some(FindingId::RuntimeUnknown)),
            (auto, seen(&[CONTAINERD], &[NEW, CONTAINERD], &both), Some(CONTAINERD), None),
            (auto, seen(&[OLD, CONTAINERD], &[], &[]), Some(OLD), None),
            (auto, seen(&[], &[NEW], &[RuntimeKind::Crio]), Some(NEW), None),
            (auto, seen(&[], &[NEW, CONTAINERD], &both), None, Some(FindingId::RuntimeAmbiguous)),
            (auto, seen(&[], &[], &both), None, Some(FindingId::RuntimeAmbiguous)),
            (auto, seen(&[], &[], &[RuntimeKind::Crio]), None, Some(FindingId::RuntimeVersionUnknown)),
            (auto, seen(&[], &[CONTAINERD], &both), None, Some(FindingId::RuntimeAmbiguous)),
            (crio, seen(&[], &[], &[]), Some(NEW), None),
            (crio, seen(&[], &[], &both), Some(NEW), None),
            (crio, seen(&[CONTAINERD], &[], &[]), Some(CONTAINERD), None),
            (crio, seen(&[OLD], &[], &[]), Some(OLD), Some(FindingId::RuntimeVersionDiffers)),
            (crio, seen(&[], &[OLD], &[]), Some(OLD), Some(FindingId::RuntimeVersionDiffers)),
            (auto, seen(&[OLD], &[NEW], &[]), Some(OLD), Some(FindingId::RuntimeVersionDiffers)),
            (auto, seen(&[NEW], &[OLD], &[]), Some(OLD), Some(FindingId::RuntimeVersionDiffers)),
            (crio, seen(&[NEW], &[], &[]), Some(NEW), None),
            (
                only(RuntimeKind::Crio),
                seen(&[CONTAINERD], &[], &[]),
                None,
                Some(FindingId::RuntimeVersionUnknown),
            ),
            (only(RuntimeKind::Containerd), seen(&[OLD, CONTAINERD], &[], &[]), Some(CONTAINERD), None),
            (RuntimeOverride { choice: RuntimeChoice::None, ..crio }, seen(&[OLD], &[], &[]), None, None),
        ] {
            let (chosen, findings) = choose(&configured, &seen);
            let ids: Vec<FindingId> = findings.iter().map(|finding| finding.id).collect();
            assert_eq!((chosen, ids), (runtime, finding.into_iter().collect()), "{configured:?} {seen:?}");
        }
    }
}
