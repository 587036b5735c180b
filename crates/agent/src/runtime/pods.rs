//! The requests of pods, as the runtimes report them.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tracing::debug;

use crate::containers::{PodFacts, Pods};
use usernsd_domain::chain::chain;
use usernsd_domain::container::CriId;
use usernsd_inspect::ask::Question;
use usernsd_peers::cri::{Cri, CriError, Endpoints, InspectedSandbox};

/// Answers other threads' questions about pods, and stores the answers: the asking thread may have given
/// up. `failed` is called for each request that a runtime does not answer.
pub async fn answer_pods(
    endpoints: Endpoints,
    mut questions: mpsc::Receiver<Question<CriId, Option<PodFacts>>>,
    pods: Pods,
    failed: impl Fn() + Send + Sync + 'static,
) {
    let failed = Arc::new(failed);
    let mut clients: Vec<Cri> = Vec::new();
    while let Some(question) = questions.recv().await {
        let paths = endpoints();
        if !paths.iter().map(PathBuf::as_path).eq(clients.iter().map(Cri::path)) {
            clients = paths.into_iter().map(Cri::new).collect();
        }
        let (clients, pods, failed) = (clients.clone(), pods.clone(), Arc::clone(&failed));
        tokio::spawn(async move {
            let answer = ask_pod(&clients, &question.question, &*failed).await;
            if let Some(facts) = &answer {
                pods.note(question.question.as_str(), facts.clone());
            }
            question.answer(answer);
        });
    }
}

async fn ask_pod(runtimes: &[Cri], sandbox: &CriId, failed: &(dyn Fn() + Send + Sync)) -> Option<PodFacts> {
    // All runtimes at once: one that hangs must not delay the answer of the one that has the pod.
    let mut answers: FuturesUnordered<_> = runtimes.iter().map(|cri| ask_one(cri, sandbox)).collect();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Some(found)) => return Some(facts(&found)),
            Ok(None) => {}
            Err(error) => {
                failed();
                debug!(sandbox = sandbox.short(), error = %chain(&error), "the runtime did not say what the pod asked for")
            }
        }
    }
    None
}

pub(super) fn facts(found: &InspectedSandbox) -> PodFacts {
    PodFacts { request: found.request, root: found.uids.root() }
}

/// Asks one runtime, twice if necessary: only a failing call reveals a broken connection, and the next one
/// reconnects. After a restart of the runtime, the guard's single question must not be lost to that.
pub(super) async fn ask_one(cri: &Cri, sandbox: &CriId) -> Result<Option<InspectedSandbox>, CriError> {
    match cri.sandbox(sandbox).await {
        Err(CriError::Unreachable { .. }) => cri.sandbox(sandbox).await,
        answer => answer,
    }
}
