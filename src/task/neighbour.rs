//! What joining a runtime over NRI would meet there: how long its list is, and what is in flight.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tracing::debug;

use crate::domain::container::{ContainerState, PodName};
use crate::domain::join::{self, Ended, InFlight, Lying, Survival, Weights};
use crate::edge::cri::{Cri, CriError, CriSandbox, ListedContainer};
use crate::edge::oci::{
    bundle_size, bundles_in, described_size, parse_spec, pod_of_annotations, read_document,
};
use crate::task::ask::Question;
use crate::task::bundle::Bundles;
use crate::task::runtime::Endpoints;

/// How long the look may hold up a join. The runtime waits 2 s for the answer to Configure, and the
/// last look is made before that answer.
pub const PATIENCE: Duration = Duration::from_millis(1500);
/// How many containers that ended are asked about when. Each is one call.
const ENDED: usize = 64;

/// What there is in a runtime that is about to be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Why it must not be joined at all, for as long as its list is what it is.
    pub refusal: Option<String>,
    /// What goes on in it now.
    pub in_flight: Option<InFlight>,
}

/// Answers what the joining thread wants to know; `None` where no runtime answers over CRI. Nothing
/// can be in flight then: what was begun before the runtime was started anew has ended with it.
pub async fn answer(
    endpoints: Endpoints,
    bundles: Arc<Bundles>,
    mut questions: mpsc::Receiver<Question<(), Option<Sight>>>,
) {
    while let Some(question) = questions.recv().await {
        let mut sight = None;
        for path in endpoints() {
            match look(&Cri::new(path).with_deadline(PATIENCE), &bundles).await {
                Ok(seen) => {
                    sight = Some(seen);
                    break;
                }
                Err(error) => debug!(%error, "no look at the runtime before joining it"),
            }
        }
        question.answer(sight);
    }
}

/// Looks at a runtime.
///
/// # Errors
/// It does not answer.
pub async fn look(cri: &Cri, bundles: &Bundles) -> Result<Sight, CriError> {
    let version = cri.version().await?;
    let (sandboxes, containers) = (cri.sandboxes().await?, cri.containers().await?);
    let mut sight = Sight { refusal: None, in_flight: None };
    if join::splits(&version.name, &version.version) {
        let weights = weigh(&sandboxes, &containers, bundles);
        let survival = if weights.fits() { Survival::Survives } else { weights.survival() };
        sight.refusal = join::refusal(survival, &weights);
    }
    if join::locks(&version.name) {
        sight.in_flight = join::in_flight(&lying(cri, &sandboxes, containers).await?);
    }
    Ok(sight)
}

/// Where the runtimes keep their bundles, each below a directory of its container's ID: the directory,
/// and what comes after the ID.
const BUNDLES: [(&str, &str); 2] = [
    ("/run/containerd/io.containerd.runtime.v2.task/k8s.io", ""),
    ("/run/containers/storage/overlay-containers", "userdata"),
];

/// Why a runtime that is starting would not survive a plugin, by the bundles of the containers that
/// outlived its last run. It sends its list to the plugins that it launches too, and serves nothing
/// before; one that crashes there is started anew by systemd, and crashes again.
#[must_use]
pub fn refusal_by_bundles(name: &str, version: &str) -> Option<String> {
    if !join::splits(name, version) {
        return None;
    }
    let bundles: Vec<PathBuf> =
        BUNDLES.iter().flat_map(|(directory, below)| bundles_in(Path::new(directory), below)).collect();
    let size = |bundle: &PathBuf| (PodName::default(), bundle_size(bundle).unwrap_or(0));
    let mut weights = Weights { pods: Vec::new(), containers: bundles.iter().map(size).collect() };
    if weights.fits() {
        return None;
    }
    weights.containers.clear();
    for bundle in &bundles {
        let Ok(Some(text)) = read_document(bundle) else { continue };
        let size = described_size(&text).unwrap_or_else(|_| u64::try_from(text.len()).unwrap_or(u64::MAX));
        let place = parse_spec(&text).map(|spec| pod_of_annotations(&spec.annotations)).unwrap_or_default();
        let all = if place.sandbox { &mut weights.pods } else { &mut weights.containers };
        all.push((place.pod, size));
    }
    join::refusal(weights.survival(), &weights)
}

/// What the list weighs: by the sizes of files where those are small, else by what is in them.
fn weigh(sandboxes: &[CriSandbox], containers: &[ListedContainer], bundles: &Bundles) -> Weights {
    let named: HashMap<&str, &PodName> =
        sandboxes.iter().map(|sandbox| (sandbox.id.as_str(), &sandbox.pod)).collect();
    let pod = |container: &ListedContainer| {
        named.get(container.sandbox_id.as_str()).map_or_else(|| container.pod.clone(), |pod| (*pod).clone())
    };
    let live: Vec<&ListedContainer> =
        containers.iter().filter(|container| container.state != ContainerState::Stopped).collect();
    let of_containers = |size: &dyn Fn(&ListedContainer) -> Option<u64>| {
        live.iter().map(|container| (pod(container), size(container).unwrap_or(0))).collect()
    };
    let mut weights = Weights {
        // Names, namespaces and resources besides.
        pods: sandboxes.iter().map(|sandbox| (sandbox.pod.clone(), sandbox.size + 2048)).collect(),
        containers: of_containers(&|container| bundles.size(&container.id)),
    };
    if !weights.fits() {
        weights.containers = of_containers(&|container| {
            bundles.described_size(&container.id).or_else(|| bundles.size(&container.id))
        });
    }
    weights
}

/// Each pod as it lies there, with when its containers ended where that matters: where the pod is not
/// simply running or over.
async fn lying(
    cri: &Cri,
    sandboxes: &[CriSandbox],
    containers: Vec<ListedContainer>,
) -> Result<Vec<Lying>, CriError> {
    let mut of: HashMap<String, Vec<ListedContainer>> = HashMap::new();
    for container in containers {
        of.entry(container.sandbox_id.clone()).or_default().push(container);
    }
    let now = SystemTime::now();
    let mut left = ENDED;
    let mut pods = Vec::new();
    for sandbox in sandboxes {
        let mut mine = of.remove(sandbox.id.as_str()).unwrap_or_default();
        let lives = mine.iter().any(|container| container.state != ContainerState::Stopped);
        let all_live = mine.iter().all(|container| container.state != ContainerState::Stopped);
        let mut lying = Vec::with_capacity(mine.len());
        // The kubelet keeps one dead container of each name; the last ones listed are of no more use.
        let mut names = HashSet::new();
        mine.retain(|container| {
            container.state != ContainerState::Stopped || names.insert(container.name.clone())
        });
        for container in mine {
            let matters = !all_live && (lives || !sandbox.ready);
            let ended = if matters && container.state == ContainerState::Stopped && left > 0 {
                left -= 1;
                cri.end(&container.id).await?.map(|end| Ended { ago: ago(end.at_ns, now), code: end.code })
            } else {
                None
            };
            lying.push((container.state, ended));
        }
        pods.push(Lying { pod: sandbox.pod.clone(), ready: sandbox.ready, containers: lying });
    }
    Ok(pods)
}

/// How long ago a moment of the runtime's clock was; none, where it lies ahead.
fn ago(at_ns: i64, now: SystemTime) -> Duration {
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(at_ns).unwrap_or(0));
    now.duration_since(at).unwrap_or(Duration::ZERO)
}
