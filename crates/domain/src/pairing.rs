//! Whether the runtime that answers over CRI is the one that calls usernsd over NRI.
//!
//! A node may have two runtimes that use the same NRI socket: the one that started last owns it. Then CRI lists other
//! containers than those that usernsd is called for.

use super::container::{ContainerState, CriId};
use super::node::CriRuntime;
use super::runtime::RuntimeKind;

/// A runtime that calls usernsd before a container starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The runtime's name in NRI's `Configure`.
    pub name: String,
    /// The runtime's version.
    pub version: String,
    /// How it calls usernsd.
    pub way: StartPathKind,
    /// Whether its containers differ from those that CRI lists. Distinguishes two runtimes of the same name and
    /// version.
    pub has_others: bool,
}

/// How a runtime calls usernsd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPathKind {
    /// The agent joined at this NRI socket.
    Joined(String),
    /// The runtime launched a plugin with this PID.
    Launched(u32),
}

/// The runtime that answers over CRI does not call usernsd over NRI, but another runtime does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The mismatch, as one sentence without a full stop.
    pub what: String,
    /// The setting that solves the problem.
    pub remedy: String,
}

// === impl Caller ===

impl Caller {
    /// Whether it is the runtime that answers over CRI, as far as can be determined. CRI-O and containerd use the
    /// same name and version in both protocols (CRI-O `internal/nri/nri.go`, containerd `internal/nri/nri.go`).
    /// Builds of containerd under another name keep CRI's, so that for them the version decides.
    #[must_use]
    pub fn is(&self, cri: &CriRuntime) -> bool {
        let kinds = RuntimeKind::named(&self.name).zip(RuntimeKind::named(&cri.name));
        let names_differ = kinds.is_some_and(|(own, theirs)| own != theirs);
        let versions_differ =
            !self.version.is_empty() && !cri.version.is_empty() && self.version != cri.version;
        !(names_differ || versions_differ || self.has_others)
    }
}

// === impl Mismatch ===

impl Mismatch {
    /// Compares the runtime that answers over CRI with those that call. `None` if it is one of them, or if none
    /// calls, which is a problem of its own.
    #[must_use]
    pub fn find<'a>(cri: &CriRuntime, callers: impl Iterator<Item = &'a Caller>) -> Option<Mismatch> {
        let mut first = None;
        for caller in callers {
            if caller.is(cri) {
                return None;
            }
            first.get_or_insert(caller);
        }
        let Caller { name, version, way, .. } = first?;
        let CriRuntime { name: cri_name, version: cri_version, endpoint } = cri;
        let how = match way {
            StartPathKind::Joined(socket) => {
                format!("the agent joined {name} {version} over NRI at {socket}")
            }
            StartPathKind::Launched(pid) => {
                format!("usernsd was launched as a plugin by {name} {version}, process {pid}")
            }
        };
        let others =
            if (name, version) == (cri_name, cri_version) { ", which has other containers" } else { "" };
        Some(Mismatch {
            what: format!(
                "two container runtimes: {cri_name} {cri_version} answers over CRI at {endpoint}, and {how}{others}; nobody \
                 is called before a container of the first one starts"
            ),
            remedy: REMEDY.to_owned(),
        })
    }
}

/// A runtime that answers over CRI, with the NRI socket in its configuration; `None` if NRI is off.
pub type Offer = (CriRuntime, Option<String>);

impl Mismatch {
    /// Compares the NRI sockets of two runtimes of a node, without asking an agent which of them it has joined.
    /// `first` is the runtime that is used over CRI. `None` if each has its own socket, and if the other has none.
    #[must_use]
    pub fn between(first: &Offer, other: &Offer) -> Option<Mismatch> {
        // /var/run is a link to /run.
        let place = |path: &str| {
            path.strip_prefix("/var").filter(|rest| rest.starts_with("/run/")).unwrap_or(path).to_owned()
        };
        let (first, first_socket) = first;
        let (CriRuntime { name, version, endpoint }, Some(socket)) = other else { return None };
        let which = match first_socket {
            Some(own) if place(own) != place(socket) => return None,
            Some(_) => format!(
                "offers NRI at the same socket, {socket}: the one that started last has it, and nobody is called before \
                 a container of the other starts"
            ),
            None => format!(
                "alone offers NRI, at {socket}; nobody is called before a container of the first one starts"
            ),
        };
        Some(Mismatch {
            what: format!(
                "two container runtimes: {} {} answers over CRI at {}, and {name} {version} at {endpoint} {which}",
                first.name, first.version, first.endpoint
            ),
            remedy: REMEDY.to_owned(),
        })
    }
}

const REMEDY: &str = "set runtime.endpoints to the socket that the kubelet uses (containerRuntimeEndpoint), switch NRI on in \
                      that runtime, with a socket_path of its own, and name it in nri.socketPaths; switch NRI off in the other";

/// Whether NRI and CRI list the containers of different runtimes. `nri`: the containers listed over NRI, with their
/// states. `cri`: those listed over CRI a moment later, each with whether it was created before the NRI list was
/// made.
#[must_use]
pub fn are_different_runtimes(
    nri: &[(CriId, ContainerState)],
    cri: &[(CriId, ContainerState, bool)],
) -> bool {
    let is_alive =
        |state: &ContainerState| matches!(state, ContainerState::Created | ContainerState::Running);
    if nri.iter().any(|(id, _)| cri.iter().any(|(other, ..)| other == id)) {
        return false;
    }
    // The lists have nothing in common. A container that is alive in only one list is the proof; those that ended or
    // began in between prove nothing.
    let only_nri = nri.iter().any(|(_, state)| *state == ContainerState::Running);
    let only_cri = cri.iter().any(|(_, state, was_there)| is_alive(state) && *was_there);
    only_nri || only_cri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cri(name: &str, version: &str) -> CriRuntime {
        CriRuntime { name: name.into(), version: version.into(), endpoint: "/run/a.sock".into() }
    }

    fn caller(name: &str, version: &str) -> Caller {
        let way = StartPathKind::Joined("/run/nri/nri.sock".into());
        Caller { name: name.into(), version: version.into(), way, has_others: false }
    }

    #[test]
    fn runtimes_are_distinguished_by_name_and_version() {
        for (nri, over_cri, same) in [
            (("containerd", "2.1.9"), ("containerd", "2.1.9"), true),
            (("cri-o", "1.36.3"), ("cri-o", "1.36.3"), true),
            (("cri-o", "1.36.3"), ("containerd", "2.1.9"), false),
            (("containerd", "1.36.3"), ("cri-o", "1.36.3"), false),
            (("containerd", "2.1.9"), ("containerd", "2.2.0"), false),
            // A build under another name.
            (("edge-containerd", "2.1.9"), ("containerd", "2.1.9"), true),
            (("edge-containerd", "2.1.9"), ("containerd", "2.2.0"), false),
            // A runtime that sends no name and version.
            (("", ""), ("containerd", "2.1.9"), true),
        ] {
            assert_eq!(caller(nri.0, nri.1).is(&cri(over_cri.0, over_cri.1)), same, "{nri:?} {over_cri:?}");
        }
    }

    #[test]
    fn one_matching_caller_is_enough() {
        let here = cri("cri-o", "1.36.3");
        let (right, wrong) = (caller("cri-o", "1.36.3"), caller("containerd", "2.1.9"));
        assert_eq!(Mismatch::find(&here, [].iter()), None);
        assert_eq!(Mismatch::find(&here, [wrong.clone(), right.clone()].iter()), None);
        let found = Mismatch::find(&here, [wrong].iter()).unwrap();
        for part in ["cri-o 1.36.3", "/run/a.sock", "containerd 2.1.9", "/run/nri/nri.sock"] {
            assert!(found.what.contains(part), "{found:?}");
        }
        let twin = Caller { has_others: true, way: StartPathKind::Launched(9), ..right };
        let found = Mismatch::find(&here, [twin].iter()).unwrap();
        assert!(found.what.contains("process 9, which has other containers"), "{found:?}");
        assert!(found.remedy.contains("nri.socketPaths"), "{found:?}");
    }

    #[test]
    fn two_runtimes_share_no_socket() {
        let offer = |runtime: CriRuntime, socket: Option<&str>| (runtime, socket.map(str::to_owned));
        let crio = |socket| offer(cri("cri-o", "1.36.3"), socket);
        let containerd = |socket| offer(cri("containerd", "2.1.9"), socket);
        let usual = Some("/var/run/nri/nri.sock");
        for (first, other, word) in [
            (
                usual,
                usual,
                Some("at the same socket, /var/run/nri/nri.sock: the one that started last has it"),
            ),
            (Some("/run/nri/nri.sock"), usual, Some("at the same socket")),
            (None, usual, Some("alone offers NRI, at /var/run/nri/nri.sock")),
            (Some("/run/crio/nri.sock"), usual, None),
            (usual, None, None),
            (None, None, None),
        ] {
            let found = Mismatch::between(&crio(first), &containerd(other));
            assert_eq!(found.is_some(), word.is_some(), "{first:?} {other:?}");
            let Some((found, word)) = found.zip(word) else { continue };
            for word in [word, "cri-o 1.36.3 answers over CRI", "containerd 2.1.9"] {
                assert!(found.what.contains(word), "{word}: {found:?}");
            }
            assert!(found.remedy.contains("nri.socketPaths"), "{found:?}");
        }
    }

    #[test]
    fn lists_of_the_same_runtime_overlap() {
        use ContainerState::{Created, Running, Stopped};
        let id = |id: &str| CriId::parse(id).unwrap();
        let nri =
            |all: &[(&str, ContainerState)]| -> Vec<_> { all.iter().map(|(i, s)| (id(i), *s)).collect() };
        let cri = |all: &[(&str, ContainerState, bool)]| -> Vec<_> {
            all.iter().map(|(i, s, b)| (id(i), *s, *b)).collect()
        };
        for (left, right, others) in [
            (nri(&[]), cri(&[]), false),
            (nri(&[("a", Running)]), cri(&[("a", Running, true)]), false),
            (
                nri(&[("a", Running), ("b", Running)]),
                cri(&[("b", Stopped, true), ("c", Running, false)]),
                false,
            ),
            (nri(&[("a", Running)]), cri(&[("b", Running, true)]), true),
            (nri(&[]), cri(&[("b", Running, true)]), true),
            (nri(&[("a", Running)]), cri(&[]), true),
            // Created after the list, and one that could have ended before it.
            (nri(&[]), cri(&[("b", Running, false)]), false),
            (nri(&[]), cri(&[("b", Stopped, true)]), false),
            (nri(&[("a", Created)]), cri(&[]), false),
        ] {
            assert_eq!(are_different_runtimes(&left, &right), others, "{left:?} {right:?}");
        }
    }
}
