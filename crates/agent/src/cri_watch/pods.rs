//! The requests of pods: asked of the runtimes, and kept for as long as a pod exists.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::containers::Containers;
use crate::pod_answers::{PodAnswer, PodAnswers};
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, CriId};
use usernsd_inspect::ask::Question;
use usernsd_peers::cri::{Cri, CriError, Endpoints, InspectedSandbox, OnFailure};

/// Answers other threads' questions about pods, and stores the answers: the asking thread may have given
/// up. `failed` is called for each request that a runtime does not answer.
pub async fn answer_pods(
    endpoints: Endpoints,
    mut questions: mpsc::Receiver<Question<CriId, Option<PodAnswer>>>,
    pods: PodAnswers,
    failed: OnFailure,
) {
    let mut clients: Vec<Cri> = Vec::new();
    while let Some(question) = questions.recv().await {
        let paths = endpoints();
        if !paths.iter().map(PathBuf::as_path).eq(clients.iter().map(Cri::path)) {
            let client = |path| Cri::new(path).reporting(Arc::clone(&failed));
            clients = paths.into_iter().map(client).collect();
        }
        let (clients, pods) = (clients.clone(), pods.clone());
        tokio::spawn(async move {
            let answer = ask_pod(&clients, &question.question).await;
            if let Some(facts) = &answer {
                pods.note(question.question.as_str(), facts.clone());
            }
            question.answer(answer);
        });
    }
}

async fn ask_pod(runtimes: &[Cri], sandbox: &CriId) -> Option<PodAnswer> {
    // All runtimes at once: one that hangs must not delay the answer of the one that has the pod.
    let mut answers: FuturesUnordered<_> = runtimes.iter().map(|cri| ask_one(cri, sandbox)).collect();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Some(found)) => return Some(facts(&found)),
            Ok(None) => {}
            Err(error) => {
                debug!(sandbox = sandbox.short(), error = %chain(&error), "the runtime did not say what the pod asked for")
            }
        }
    }
    None
}

fn facts(found: &InspectedSandbox) -> PodAnswer {
    PodAnswer { request: found.request, root: found.uids.root() }
}

/// Asks one runtime, twice if necessary: only a failing call reveals a broken connection, and the next one
/// reconnects. After a restart of the runtime, the guard's single question must not be lost to that.
async fn ask_one(cri: &Cri, sandbox: &CriId) -> Result<Option<InspectedSandbox>, CriError> {
    match cri.sandbox(sandbox).await {
        Err(CriError::Unreachable { .. }) => cri.sandbox(sandbox).await,
        answer => answer,
    }
}

/// Stores the requests of the runtime's pods, and forgets pods that it no longer has. A pod without
/// containers still exists: it may get another one, and its user record is removed with the pod.
pub(super) async fn review(containers: &Containers, cri: &Cri) {
    // Noted before the list is made, so that pods which are noted in the meantime are kept.
    let noted = containers.pods().noted();
    match cri.sandboxes().await {
        Ok(listed) => {
            for sandbox in &listed {
                let (pods, id) = (containers.pods(), sandbox.id.as_str());
                if sandbox.ready && !sandbox.is_cut && !pods.has_annotations(id) {
                    pods.note_annotations(id, &sandbox.annotations);
                }
            }
            let listed: HashSet<&str> = listed.iter().map(|sandbox| sandbox.id.as_str()).collect();
            let gone = noted.iter().filter(|id| !listed.contains(id.as_str()));
            gone.for_each(|id| containers.decider().forget_pod(id));
        }
        Err(error) => {
            warn!(error = %chain(&error), "could not list the sandboxes; the next resync tries again");
        }
    }
}

/// Learns the requests of these containers' pods, once for each pod: from its annotations and, for a
/// container in the host's user namespace, whether the pod asked for one of its own.
pub(super) async fn learn_requests(all: &Containers, cri: &Cri, containers: &[&Container]) {
    let pods = all.pods();
    let mut asked = HashSet::new();
    for container in containers {
        let id = &container.sandbox_id;
        let is_known = pods.has_annotations(id) && (container.user_namespace || pods.has(id));
        if is_known || !asked.insert(id) {
            continue;
        }
        let Ok(sandbox) = CriId::parse(id) else { continue };
        match ask_one(cri, &sandbox).await {
            Ok(Some(found)) => {
                pods.note_annotations(id, &found.sandbox.annotations);
                if !container.user_namespace {
                    pods.note(id, facts(&found));
                }
            }
            Ok(None) => {}
            Err(error) => {
                debug!(sandbox = sandbox.short(), error = %chain(&error), "the runtime did not say what the pod asked for")
            }
        }
    }
}
