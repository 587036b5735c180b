//! Which container runtime a node has, by the runtime's answers, its programs, and the configuration.

use super::containerd::Release;
use super::crio::CrioVersion;
use super::finding::Finding;

/// A container runtime by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// CRI-O.
    Crio,
    /// containerd.
    Containerd,
}

/// A container runtime and its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// CRI-O.
    Crio(CrioVersion),
    /// containerd.
    Containerd(Release),
}

/// Which runtime to prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// The one that the node has.
    #[default]
    Auto,
    /// This one.
    Only(Kind),
    /// None.
    None,
}

/// What is configured for the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuntimeOverride {
    /// Which runtime.
    pub choice: RuntimeChoice,
    /// CRI-O's version, if it cannot be asked.
    pub crio: Option<CrioVersion>,
    /// containerd's version, if it cannot be asked.
    pub containerd: Option<Release>,
}

/// What was found on the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimesFound {
    /// Runtimes that answered over CRI, in the order in which they were asked.
    pub answered: Vec<Runtime>,
    /// Versions that the programs print.
    pub programs: Vec<Runtime>,
    /// Runtimes whose files exist on the node.
    pub installed: Vec<Kind>,
}

// === impl Kind, Runtime ===

impl Kind {
    const ALL: [Kind; 2] = [Kind::Crio, Kind::Containerd];

    /// The name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Crio => "CRI-O",
            Kind::Containerd => "containerd",
        }
    }

    /// How to configure its version.
    fn remedy(self) -> &'static str {
        match self {
            Kind::Crio => "say it with --crio-version, or as bootstrap.crio.version",
            Kind::Containerd => "say it as bootstrap.containerd.version",
        }
    }
}

impl Runtime {
    /// The kind of runtime.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Runtime::Crio(_) => Kind::Crio,
            Runtime::Containerd(_) => Kind::Containerd,
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
pub fn choose(said: &RuntimeOverride, seen: &RuntimesFound) -> (Option<Runtime>, Vec<Finding>) {
    let wanted: &[Kind] = match &said.choice {
        RuntimeChoice::None => return (None, Vec::new()),
        RuntimeChoice::Only(kind) => std::slice::from_ref(kind),
        RuntimeChoice::Auto => &Kind::ALL,
    };
    let told = |kind| match kind {
        Kind::Crio => said.crio.map(Runtime::Crio),
        Kind::Containerd => said.containerd.map(Runtime::Containerd),
    };
    let of = |list: &[Runtime], kind| list.iter().copied().find(|runtime| runtime.kind() == kind);
    let named = |from: &dyn Fn(Kind) -> bool| wanted.iter().copied().filter(|kind| from(*kind)).collect();
    let answered = seen.answered.iter().map(|runtime| runtime.kind()).find(|kind| wanted.contains(kind));
    let told_of: Vec<Kind> = named(&|kind| told(kind).is_some());
    let present: Vec<Kind> =
        named(&|kind| of(&seen.programs, kind).is_some() || seen.installed.contains(&kind));
    let kind = match (answered, told_of.as_slice(), present.as_slice()) {
        (Some(kind), ..) => kind,
        (None, [kind], _) | (None, [], [kind]) => *kind,
        (None, [], []) => match wanted {
            [kind] => *kind,
            _ => {
                let what = "no container runtime was found, and nothing is written for one".to_owned();
                let note = Finding::note("runtime-unknown", what);
                let remedy =
                    "for a node to be, say --crio-version, or bootstrap.containerd.version".to_owned();
                return (None, vec![Finding { remedy, ..note }]);
            }
        },
        _ => {
            let what =
                "both CRI-O and containerd are here and neither answers: nothing is written for either";
            let remedy = "say which one as bootstrap.runtime";
            return (None, vec![Finding::warning("runtime-ambiguous", what.to_owned(), remedy)]);
        }
    };
    let mut findings = Vec::new();
    let seen = [of(&seen.answered, kind), of(&seen.programs, kind)];
    let versions: Vec<Runtime> = seen.into_iter().chain([told(kind)]).flatten().collect();
    let runtime = versions.iter().copied().reduce(Runtime::older);
    if let (Some(oldest), Some(other)) = (runtime, versions.iter().find(|version| Some(**version) != runtime))
    {
        let what = format!(
            "{} is both {} and {} here, by what runs, what lies on the disk and what is said; it is prepared \
             as the older one",
            kind.name(),
            oldest.version(),
            other.version()
        );
        findings.push(Finding::warning(
            "runtime-version-differs",
            what,
            "leave its version out, restart it, and run this again",
        ));
    }
    if runtime.is_none() {
        let what = format!("the version of {} is not known: nothing is written for it", kind.name());
        findings.push(Finding::warning("runtime-version-unknown", what, kind.remedy()));
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
        let seen = |answered: &[Runtime], programs: &[Runtime], installed: &[Kind]| RuntimesFound {
            answered: answered.to_vec(),
            programs: programs.to_vec(),
            installed: installed.to_vec(),
        };
        let auto = RuntimeOverride::default();
        let crio = RuntimeOverride { crio: Some(CrioVersion::new(1, 36, 3)), ..auto };
        let only = |kind| RuntimeOverride { choice: RuntimeChoice::Only(kind), ..auto };
        let both = [Kind::Crio, Kind::Containerd];
        for (said, seen, runtime, finding) in [
            (auto, seen(&[], &[], &[]), None, "runtime-unknown"),
            (auto, seen(&[CONTAINERD], &[NEW, CONTAINERD], &both), Some(CONTAINERD), ""),
            (auto, seen(&[OLD, CONTAINERD], &[], &[]), Some(OLD), ""),
            (auto, seen(&[], &[NEW], &[Kind::Crio]), Some(NEW), ""),
            (auto, seen(&[], &[NEW, CONTAINERD], &both), None, "runtime-ambiguous"),
            (auto, seen(&[], &[], &both), None, "runtime-ambiguous"),
            (auto, seen(&[], &[], &[Kind::Crio]), None, "runtime-version-unknown"),
            (auto, seen(&[], &[CONTAINERD], &both), None, "runtime-ambiguous"),
            (crio, seen(&[], &[], &[]), Some(NEW), ""),
            (crio, seen(&[], &[], &both), Some(NEW), ""),
            (crio, seen(&[CONTAINERD], &[], &[]), Some(CONTAINERD), ""),
            (crio, seen(&[OLD], &[], &[]), Some(OLD), "runtime-version-differs"),
            (crio, seen(&[], &[OLD], &[]), Some(OLD), "runtime-version-differs"),
            (auto, seen(&[OLD], &[NEW], &[]), Some(OLD), "runtime-version-differs"),
            (auto, seen(&[NEW], &[OLD], &[]), Some(OLD), "runtime-version-differs"),
            (crio, seen(&[NEW], &[], &[]), Some(NEW), ""),
            (only(Kind::Crio), seen(&[CONTAINERD], &[], &[]), None, "runtime-version-unknown"),
            (only(Kind::Containerd), seen(&[OLD, CONTAINERD], &[], &[]), Some(CONTAINERD), ""),
            (RuntimeOverride { choice: RuntimeChoice::None, ..crio }, seen(&[OLD], &[], &[]), None, ""),
        ] {
            let (chosen, findings) = choose(&said, &seen);
            let ids: Vec<&str> = findings.iter().map(|finding| finding.id).collect();
            assert_eq!((chosen, ids.join(" ").as_str()), (runtime, finding), "{said:?} {seen:?}");
        }
    }
}
