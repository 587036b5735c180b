//! The state of a runtime before a join over NRI: the length of its list, and the operations in progress.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;
use tracing::debug;

use crate::ask::Question;
use crate::bundle::Bundles;
use usernsd_domain::chain::chain;
use usernsd_domain::container::{ContainerState, CriId, PodRef};
use usernsd_domain::join::{self, EndedContainer, InFlight, ItemSizes, ListHandling, ListedPod};
use usernsd_linux::proc;
use usernsd_peers::cri::{Cri, CriError, CriSandbox, Endpoints, ListedContainer, OnFailure};
use usernsd_peers::oci::{
    bundle_size, bundles_in, described_size, identity_of, parse_spec, read_document, recorded_pid,
};

/// Time limit for examining the runtime before a join. The runtime waits 2 s for the answer to Configure,
/// and the last examination precedes that answer.
pub const PATIENCE: Duration = Duration::from_millis(1500);
/// The most ended containers whose ends are requested in one examination.
const ENDED: usize = 256;
/// The most of these calls at a time. One after the other, they would take seconds on a machine under full
/// load.
const AT_ONCE: usize = 16;

/// The ends of containers that earlier checks requested: the time, in nanoseconds since 1970 by the runtime's
/// clock, and the exit code. An end never changes, so each container is requested once; without this cache, a
/// check of a node where many pods come and go takes longer than [`PATIENCE`], each time.
#[derive(Debug, Default)]
pub struct Ends(HashMap<CriId, (i64, i32)>);

/// The state of a runtime that is about to be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinFacts {
    /// Why the runtime must not be joined while it would send this list.
    pub refusal: Option<String>,
    /// An operation in progress with which a join would interfere.
    pub in_flight: Option<InFlight>,
}

/// Answers the questions of the joining thread; `None` if no runtime answers over CRI. In that case nothing
/// is in progress: operations that had begun ended with the runtime. `failed` is called for each request that fails.
pub async fn answer(
    endpoints: Endpoints,
    bundles: Arc<Bundles>,
    mut questions: mpsc::Receiver<Question<(), Option<JoinFacts>>>,
    failed: OnFailure,
) {
    let mut ends = Ends::default();
    while let Some(question) = questions.recv().await {
        let mut join_facts = None;
        for path in endpoints() {
            let cri = Cri::new(path).with_deadline(PATIENCE).reporting(Arc::clone(&failed));
            match observe(&cri, &bundles, &mut ends).await {
                Ok(seen) => {
                    join_facts = Some(seen);
                    break;
                }
                Err(error) => debug!(error = %chain(&error), "no look at the runtime before joining it"),
            }
        }
        question.answer(join_facts);
    }
}

/// Examines a runtime.
///
/// # Errors
/// The runtime does not answer.
pub async fn observe(cri: &Cri, bundles: &Bundles, ends: &mut Ends) -> Result<JoinFacts, CriError> {
    let version = cri.version().await?;
    let (sandboxes, containers) = (cri.sandboxes().await?, cri.containers().await?);
    let mut refusal = None;
    if join::splits(&version.name, &version.version) {
        let sizes = item_sizes(&sandboxes, &containers, bundles);
        let handling = if sizes.fits() { ListHandling::Survives } else { sizes.handling() };
        refusal = join::refusal(handling, &sizes);
    }
    let listed = list_pods(cri, &sandboxes, containers, ends).await?;
    Ok(JoinFacts { refusal, in_flight: join::in_flight(&version.name, &listed) })
}

/// The reason why a starting runtime would not survive a plugin, from the bundles of the containers that
/// outlived its last run. `places` are the directories of the runtimes' bundles: the part before the container's ID, and
/// the part after it. The runtime sends its list also to plugins that it launches, and serves nothing
/// before; if it crashes on that, systemd restarts it, and it crashes again.
#[must_use]
pub fn refusal_by_bundles(name: &str, version: &str, places: &[(PathBuf, String)]) -> Option<String> {
    if !join::splits(name, version) {
        return None;
    }
    // A container's bundle outlives the container until it is removed (CRI-O), or for as long as the
    // runtime is away (containerd). Neither runtime lists such a container.
    let lives = |pid: u32| i32::try_from(pid).is_ok_and(proc::lives);
    let may_live = |bundle: &PathBuf| recorded_pid(bundle).is_none_or(lives);
    let bundles: Vec<PathBuf> =
        places.iter().flat_map(|(directory, below)| bundles_in(directory, below)).filter(may_live).collect();
    let size = |bundle: &PathBuf| (PodRef::default(), bundle_size(bundle).unwrap_or(0));
    let mut sizes = ItemSizes { pods: Vec::new(), containers: bundles.iter().map(size).collect() };
    if sizes.fits() {
        return None;
    }
    sizes.containers.clear();
    for bundle in &bundles {
        let Ok(Some(text)) = read_document(bundle) else { continue };
        let size = described_size(&text).unwrap_or_else(|_| u64::try_from(text.len()).unwrap_or(u64::MAX));
        let place = parse_spec(&text)
            .map(|spec| identity_of(&spec.annotations, &spec.cgroups_path))
            .unwrap_or_default();
        let all = if place.sandbox { &mut sizes.pods } else { &mut sizes.containers };
        all.push((place.pod, size));
    }
    join::refusal(sizes.handling(), &sizes)
}

/// The sizes of the list's items: from the sizes of files if those are small, otherwise from their contents.
fn item_sizes(sandboxes: &[CriSandbox], containers: &[ListedContainer], bundles: &Bundles) -> ItemSizes {
    let named: HashMap<&str, &PodRef> =
        sandboxes.iter().map(|sandbox| (sandbox.id.as_str(), &sandbox.pod)).collect();
    let pod = |container: &ListedContainer| {
        named.get(container.sandbox_id.as_str()).map_or_else(|| container.pod.clone(), |pod| (*pod).clone())
    };
    let live: Vec<&ListedContainer> =
        containers.iter().filter(|container| container.state != ContainerState::Stopped).collect();
    let of_containers = |size: &dyn Fn(&ListedContainer) -> Option<u64>| {
        live.iter().map(|container| (pod(container), size(container).unwrap_or(0))).collect()
    };
    let mut sizes = ItemSizes {
        // An allowance for names, namespaces and resources.
        pods: sandboxes.iter().map(|sandbox| (sandbox.pod.clone(), sandbox.size + 2048)).collect(),
        containers: of_containers(&|container| bundles.size(&container.id)),
    };
    if !sizes.fits() {
        sizes.containers = of_containers(&|container| {
            bundles.described_size(&container.id).or_else(|| bundles.size(&container.id))
        });
    }
    sizes
}

/// Each pod's state, with the ends of its containers if they matter: if the pod is neither simply running
/// nor over.
async fn list_pods(
    cri: &Cri,
    sandboxes: &[CriSandbox],
    containers: Vec<ListedContainer>,
    ends: &mut Ends,
) -> Result<Vec<ListedPod>, CriError> {
    ends.keep_listed(&containers);
    let mut of: HashMap<String, Vec<ListedContainer>> = HashMap::new();
    for container in containers {
        of.entry(container.sandbox_id.clone()).or_default().push(container);
    }
    for sandbox in sandboxes {
        // The kubelet keeps one ended container of each name, so the ones listed last are not needed.
        let mut names = HashSet::new();
        of.entry(sandbox.id.to_string()).or_default().retain(|container| {
            container.state != ContainerState::Stopped || names.insert(container.name.clone())
        });
    }
    let mine = |sandbox: &CriSandbox| of.get(sandbox.id.as_str()).map_or(&[][..], Vec::as_slice);
    let matter = sandboxes.iter().flat_map(|sandbox| {
        let ended = |container: &&ListedContainer| container.state == ContainerState::Stopped;
        let lives = mine(sandbox).iter().any(|container| !ended(&container));
        mine(sandbox).iter().filter(ended).filter(move |_| lives || !sandbox.ready)
    });
    ends.ask(cri, matter.map(|container| container.id.clone()).collect()).await?;
    let now = SystemTime::now();
    let ended = |id: &CriId| {
        let (at_ns, code) = ends.0.get(id)?;
        Some(EndedContainer { ago: ago(*at_ns, now), code: *code })
    };
    let listed = sandboxes.iter().map(|sandbox| ListedPod {
        pod: sandbox.pod.clone(),
        ready: sandbox.ready,
        containers: mine(sandbox).iter().map(|container| (container.state, ended(&container.id))).collect(),
    });
    Ok(listed.collect())
}

// === impl Ends ===

impl Ends {
    /// Forgets the containers that the runtime no longer lists.
    fn keep_listed(&mut self, listed: &[ListedContainer]) {
        let listed: HashSet<&CriId> = listed.iter().map(|container| &container.id).collect();
        self.0.retain(|id, _| listed.contains(id));
    }

    /// Requests those ends that are not cached yet.
    async fn ask(&mut self, cri: &Cri, ids: Vec<CriId>) -> Result<(), CriError> {
        let unknown = ids.into_iter().filter(|id| !self.0.contains_key(id)).take(ENDED);
        let calls: Vec<_> = unknown
            .map(|id| {
                let cri = cri.clone();
                async move { cri.end(&id).await.map(|end| (id, end)) }
            })
            .collect();
        let mut answers = stream::iter(calls).buffer_unordered(AT_ONCE);
        while let Some((id, end)) = answers.try_next().await? {
            self.0.extend(end.map(|end| (id, (end.at_ns, end.code))));
        }
        Ok(())
    }
}

/// The time since a moment of the runtime's clock; zero if that lies in the future.
fn ago(at_ns: i64, now: SystemTime) -> Duration {
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(at_ns).unwrap_or(0));
    now.duration_since(at).unwrap_or(Duration::ZERO)
}
