//! Whether joining a runtime over NRI would harm it, as far as that can be predicted.
//!
//! The runtime sends everything it has to a plugin that joins (`Synchronize`), and containerd delays all other
//! requests meanwhile. Read in containerd/nri `pkg/adaptation` v0.2 to v0.12.2 and containerd `internal/cri/server`
//! v1.7 to v2.4.0-beta.0; no version has a fix for either.

use std::collections::BTreeMap;
use std::time::Duration;

use super::container::{ContainerState, PodRef};
use super::runtime::RuntimeKind;

/// The longest ttrpc message, in bytes.
pub const MESSAGE: u64 = 4 << 20;
/// Size of the envelope around a list, in bytes: names of service and method, the timeout, lengths.
const ENVELOPE: u64 = 256;
/// The least number of items that NRI's `recalcObjsPerSyncMsg` puts into a message.
const AT_LEAST: usize = 8;
/// How recently a container of a stopped pod must have ended for its removal to be expected. The kubelet removes a
/// deleted pod's containers within a minute (its garbage collection's period).
pub const REMOVAL: Duration = Duration::from_secs(60);
/// How recently a container must have been ended by a signal for the other containers of its pod to be expected in
/// their grace period: Kubernetes' default of 30 s.
pub const GRACE: Duration = Duration::from_secs(30);

/// The behaviour of the runtime with the list that it has to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListHandling {
    /// The runtime sends the list.
    Survives,
    /// The runtime panics ("slice bounds out of range").
    Panics,
    /// The runtime gives up ("failed to synchronize plugin with split messages", or its time limit) and
    /// closes the connection.
    Fails,
}

/// An upper estimate of the list's size, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ItemSizes {
    /// Each sandbox's pod and size.
    pub pods: Vec<(PodRef, u64)>,
    /// Pod and size of each container that has not stopped.
    pub containers: Vec<(PodRef, u64)>,
}

/// A pod in the state that the runtime lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPod {
    pub pod: PodRef,
    /// Whether its sandbox is ready; otherwise it has been stopped.
    pub ready: bool,
    pub containers: Vec<(ContainerState, Option<EndedContainer>)>,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedContainer {
    /// How long ago.
    pub ago: Duration,
    /// The exit code; above 128 for a signal.
    pub code: i32,
}

/// An operation in a runtime during which a plugin should not join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InFlight {
    /// A stopped pod has containers that have not stopped: it is being removed. Removal takes containerd's lock for
    /// synchronization twice, the second time inside the first; if a plugin begins to wait for the lock in between,
    /// neither ever gets it (`RemovePodSandbox`, `RemoveContainer`; containerd#10085).
    Removal(PodRef),
    /// A stopped pod has containers that ended recently: either it is removed at any moment, or it has completed and
    /// stays.
    Ending(PodRef),
    /// A container of the pod was ended by a signal and others still run: a graceful stop holds a lock as long as its
    /// grace period, and every start waits behind a plugin that waits for it. In containerd it is the lock for
    /// synchronization (containerd#14083); in CRI-O it is the container's own (`StopLoopForContainer`), whose state
    /// the list needs (`nriAPI.ListContainers`, called with NRI's lock held in `syncPlugin`).
    Stop(PodRef),
}

/// Whether this runtime splits a long list, which is what can go wrong. Earlier versions send the whole list: ttrpc
/// checks the length on receipt only.
///
/// NRI splits since 0.7.0: containerd since 1.7.26 and 2.0.0, CRI-O since 1.32.0. Future versions are assumed to
/// behave like the last one examined.
#[must_use]
pub fn splits(name: &str, version: &str) -> bool {
    let mut numbers = version
        .trim_start_matches('v')
        .split(|digit: char| !digit.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    match RuntimeKind::named(name) {
        Some(RuntimeKind::Containerd) => version >= (1, 7, 26),
        Some(RuntimeKind::Crio) => version >= (1, 32, 0),
        None => true,
    }
}

/// Whether a plugin that joins this runtime while a pod is removed can cause a deadlock. Only containerd has the lock
/// for that (`BlockPluginSync`).
#[must_use]
pub fn deadlocks(name: &str) -> bool {
    RuntimeKind::named(name) != Some(RuntimeKind::Crio)
}

// === impl ItemSizes ===

impl ItemSizes {
    /// The fate of a runtime that splits its list, in the worst of several orders: it lists its pods and
    /// containers in the order of a hash table.
    #[must_use]
    pub fn handling(&self) -> ListHandling {
        let sizes = |items: &[(PodRef, u64)]| items.iter().map(|(_, size)| *size).collect::<Vec<u64>>();
        let (mut pods, mut containers) = (sizes(&self.pods), sizes(&self.containers));
        let mut worst = ListHandling::Survives;
        let mut random = 0x9e37_79b9_7f4a_7c15;
        for round in 0..34_u8 {
            match round {
                // The heaviest first, so that they are in one message; or last, when few are left.
                0 => {
                    pods.sort_unstable_by(|a, b| b.cmp(a));
                    containers.sort_unstable_by(|a, b| b.cmp(a));
                }
                1 => {
                    pods.reverse();
                    containers.reverse();
                }
                _ => {
                    shuffle(&mut pods, &mut random);
                    shuffle(&mut containers, &mut random);
                }
            }
            match split(&pods, &containers) {
                ListHandling::Panics => return ListHandling::Panics,
                ListHandling::Fails => worst = ListHandling::Fails,
                ListHandling::Survives => {}
            }
        }
        worst
    }

    /// Whether everything fits into one message, so that nothing is split.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.total() + ENVELOPE <= MESSAGE
    }

    /// Total size in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.pods.iter().chain(&self.containers).map(|(_, size)| size).sum()
    }

    /// The pod with the largest part, and the size of that part in bytes.
    #[must_use]
    pub fn heaviest(&self) -> Option<(PodRef, u64)> {
        let mut of: BTreeMap<(&str, &str, &str), (u64, &PodRef)> = BTreeMap::new();
        for (pod, size) in self.pods.iter().chain(&self.containers) {
            of.entry((&pod.namespace, &pod.name, &pod.uid)).or_insert((0, pod)).0 += size;
        }
        of.into_values().max_by_key(|(size, _)| *size).map(|(size, pod)| (pod.clone(), size))
    }
}

/// NRI's `plugin.synchronize` and `recalcObjsPerSyncMsg`, step by step.
fn split(mut pods: &[u64], mut containers: &[u64]) -> ListHandling {
    let (mut some_pods, mut some_containers) = (pods.len(), containers.len());
    loop {
        let (Some((first_pods, other_pods)), Some((first_containers, others))) =
            (pods.split_at_checked(some_pods), containers.split_at_checked(some_containers))
        else {
            // `podsToSend[:podsPerMsg]` is out of bounds.
            return ListHandling::Panics;
        };
        let size = first_pods.iter().chain(first_containers).sum::<u64>() + ENVELOPE;
        if size <= MESSAGE {
            if other_pods.is_empty() && others.is_empty() {
                return ListHandling::Survives;
            }
            if some_pods + some_containers == 0 {
                // Empty messages until the time limit.
                return ListHandling::Fails;
            }
            (pods, containers) = (other_pods, others);
            some_pods = some_pods.min(pods.len());
            some_containers = some_containers.min(containers.len());
            continue;
        }
        if some_pods + some_containers <= AT_LEAST {
            return ListHandling::Fails;
        }
        let fewer = |count: usize| {
            // A tenth less, or in proportion to the excess length.
            let by_size = u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(MESSAGE) / size;
            usize::try_from(by_size).unwrap_or(count).min(count * 9 / 10)
        };
        (some_pods, some_containers) = (fewer(some_pods), fewer(some_containers));
        if some_pods + some_containers < AT_LEAST {
            (some_pods, some_containers) = (AT_LEAST / 2, AT_LEAST / 2);
        }
    }
}

/// A pseudo-random order, the same at each call: xorshift64.
fn shuffle(items: &mut [u64], random: &mut u64) {
    for end in (1..items.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let end_u64 = u64::try_from(end).unwrap_or(u64::MAX);
        items.swap(end, usize::try_from(*random % (end_u64 + 1)).unwrap_or(0));
    }
}

/// The operation during which a runtime should not be joined, a removal first, as far as its lists show it: a
/// graceful stop of a pod's only container is not visible. `name` is the runtime's.
#[must_use]
pub fn in_flight(name: &str, pods: &[ListedPod]) -> Option<InFlight> {
    let seen = |listed: &ListedPod| {
        let ListedPod { pod, ready, containers } = listed;
        let ended = || containers.iter().filter_map(|(_, ended)| *ended);
        let lives = containers.iter().any(|(state, _)| *state != ContainerState::Stopped);
        if !ready {
            let lately = ended().any(|ended| ended.ago < REMOVAL);
            return match deadlocks(name) {
                true if lives => Some(InFlight::Removal(pod.clone())),
                true if lately => Some(InFlight::Ending(pod.clone())),
                _ => None,
            };
        }
        let by_signal = |ended: EndedContainer| ended.ago < GRACE && matches!(ended.code, 137 | 143);
        (lives && ended().any(by_signal)).then(|| InFlight::Stop(pod.clone()))
    };
    let all = || pods.iter().filter_map(seen);
    all().find(|seen| matches!(seen, InFlight::Removal(_))).or_else(|| all().next())
}

impl std::fmt::Display for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, pod) = match self {
            InFlight::Removal(pod) | InFlight::Ending(pod) => ("the removal", pod),
            InFlight::Stop(pod) => ("a graceful stop", pod),
        };
        write!(f, "waiting for {what} of pod {}/{}", pod.namespace, pod.name)
    }
}

/// The reason for not joining a runtime.
#[must_use]
pub fn refusal(handling: ListHandling, sizes: &ItemSizes) -> Option<String> {
    let what = match handling {
        ListHandling::Survives => return None,
        ListHandling::Panics => "would crash as it splits",
        ListHandling::Fails => "cannot split",
    };
    let (pod, size) = sizes.heaviest()?;
    let (all, part) = (mebibytes(sizes.total()), mebibytes(size));
    Some(format!(
        "not joining NRI: the list of all pods and containers has {all}, and this runtime {what} it \
         into messages of 4 MiB; pod {}/{} has {part} of it in environment and annotations: shorten them \
         or remove the pod",
        pod.namespace, pod.name
    ))
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LARGE: u64 = 1_960_000;

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "ns".into(), name: name.into(), uid: String::new() }
    }

    fn sizes(pods: &[u64], containers: &[u64]) -> ItemSizes {
        let named = |sizes: &[u64]| sizes.iter().map(|size| (pod("p"), *size)).collect();
        ItemSizes { pods: named(pods), containers: named(containers) }
    }

    #[test]
    fn predictions_agree_with_containerd_2_1_9() {
        // One pod with nine containers of 1.87 MiB: "slice bounds out of range [:4] with capacity 1".
        assert_eq!(sizes(&[1000], &[LARGE; 9]).handling(), ListHandling::Panics);
        // Five plain pods and twelve such containers: "failed to synchronize plugin with split messages".
        assert_eq!(sizes(&[1000; 5], &[LARGE; 12]).handling(), ListHandling::Fails);
        // Up to eight items are never split.
        assert_eq!(sizes(&[1000], &[LARGE; 3]).handling(), ListHandling::Fails);
        assert_eq!(sizes(&[1000], &[LARGE; 2]).handling(), ListHandling::Survives);
        // An ordinary node, whose list is too long for one message.
        assert_eq!(sizes(&[20_000; 110], &[16_000; 250]).handling(), ListHandling::Survives);
        // One sandbox is never sent if its fraction rounds to none.
        assert_eq!(sizes(&[1000], &[50_000; 100]).handling(), ListHandling::Fails);
    }

    #[test]
    fn old_runtimes_do_not_split() {
        for (name, version, want) in [
            ("containerd", "1.7.25", false),
            ("containerd", "v1.7.26", true),
            ("containerd", "2.1.9+unknown", true),
            ("containerd", "2.4.0-beta.0", true),
            ("cri-o", "1.31.9", false),
            ("cri-o", "1.32.0-dev", true),
            ("cri-o", "1.36.3", true),
            ("other", "", true),
        ] {
            assert_eq!(splits(name, version), want, "{name} {version}");
        }
    }

    #[test]
    fn the_heaviest_pod_is_named() {
        let mut sizes = sizes(&[1000], &[1000]);
        sizes.containers.extend(vec![(pod("large"), LARGE); 9]);
        let refusal = refusal(sizes.handling(), &sizes).unwrap();
        assert!(refusal.contains("pod ns/large has 16.8 MiB of it"), "{refusal}");
        assert_eq!(super::refusal(ListHandling::Survives, &sizes), None);
    }

    #[test]
    fn a_removal_and_a_graceful_stop_are_seen() {
        let ended = |ago, code| {
            (ContainerState::Stopped, Some(EndedContainer { ago: Duration::from_secs(ago), code }))
        };
        let running = (ContainerState::Running, None);
        let found = |ready, containers: &[(ContainerState, Option<EndedContainer>)]| {
            let listed = [ListedPod { pod: pod("p"), ready, containers: containers.to_vec() }];
            let seen = in_flight("containerd", &listed);
            // CRI-O allows a plugin to join during a removal.
            let stop = seen.clone().filter(|seen| matches!(seen, InFlight::Stop(_)));
            assert_eq!(in_flight("cri-o", &listed), stop);
            seen
        };
        let (removal, stop) = (Some(InFlight::Removal(pod("p"))), Some(InFlight::Stop(pod("p"))));
        let ending = Some(InFlight::Ending(pod("p")));
        for (ready, containers, want) in [
            (true, vec![], &None),
            (true, vec![running], &None),
            // A pod that has completed, and one whose container failed a while ago.
            (false, vec![ended(600, 0)], &None),
            (true, vec![running, ended(600, 137)], &None),
            (true, vec![running, ended(1, 1)], &None),
            // The containers are removed already.
            (false, vec![], &None),
            (false, vec![running], &removal),
            (false, vec![running, ended(5, 143)], &removal),
            (false, vec![ended(5, 0)], &ending),
            (false, vec![ended(600, 0), ended(5, 143)], &ending),
            (true, vec![running, ended(5, 143)], &stop),
            (true, vec![running, ended(5, 137)], &stop),
            (true, vec![ended(5, 137)], &None),
        ] {
            assert_eq!(&found(ready, &containers), want, "{ready} {containers:?}");
        }
        assert_eq!(removal.unwrap().to_string(), "waiting for the removal of pod ns/p");
    }

    proptest! {
        #[test]
        fn a_list_that_fits_survives_and_no_list_panics_here(
            pods in prop::collection::vec(0..600_000u64, 0..30),
            containers in prop::collection::vec(0..3_000_000u64, 0..40),
        ) {
            let sizes = sizes(&pods, &containers);
            let handling = sizes.handling();
            prop_assert!(!sizes.fits() || handling == ListHandling::Survives);
            // Eight items or fewer are sent as one message, or not at all.
            if pods.len() + containers.len() <= AT_LEAST {
                prop_assert_eq!(handling == ListHandling::Survives, sizes.fits());
            }
        }
    }
}
