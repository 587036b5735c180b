//! Authorisation of HTTP readers by the API server.
//!
//! A permission is cached for longer than the pause between two scrapes, so that most scrapes cost the API
//! server nothing; a denial for some seconds, so that a newly granted permission soon takes effect. If the
//! API server cannot be asked, nobody is admitted.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::http::{Admission, Credentials, Gate, Protection, TlsFiles};
use crate::metrics::HttpMetrics;
use usernsd_domain::chain::chain;
use usernsd_domain::lock::lock;
use usernsd_domain::rate_limit::{Bucket, Turn, Turns};
use usernsd_peers::kube::{Access, Kube, Review};

/// How long a permission is cached, as in the kubelet (`authentication.webhook.cacheTTL`). A revoked token is
/// admitted for no longer than this.
pub const GRANTED: Duration = Duration::from_secs(120);
/// How long a denial is cached.
const DENIED: Duration = Duration::from_secs(3);
/// Time limit of a client's wait for the API server; after it the request is refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most answers that are cached; beyond it, those that expire first are forgotten.
const KEPT: usize = 128;
/// The most questions at a time.
const AT_ONCE: usize = 4;
/// The burst of questions about clients that are not familiar, and the pause that permits one more after it,
/// so that invented tokens cost the API server no more than this.
const BURST: u32 = 20;
const EVERY: Duration = Duration::from_millis(200);
/// The same for each address: enough for a reader with a new token, and for a few behind one address. A
/// client that invents tokens uses up its own, and whoever shares its address waits with it.
const ADDRESS_BURST: u32 = 8;
const ADDRESS_EVERY: Duration = Duration::from_secs(10);
/// The pause between two looks whether it is a client's turn.
const INTERVAL: Duration = Duration::from_millis(50);
/// The most recently admitted clients: questions about them have a limit of their own, so that a flood of
/// invented tokens does not delay a scraper that was admitted before.
const FAMILIAR: usize = 16;

/// Asks the API server, and caches its answers.
#[derive(Debug)]
pub struct Gatekeeper {
    api: Kube,
    kept: Mutex<Vec<Answer>>,
    places: Semaphore,
    familiar: Mutex<VecDeque<(String, String)>>,
    strangers: Mutex<Turns<IpAddr>>,
    familiar_questions: Mutex<Bucket>,
    /// The moment from which the buckets measure time.
    began: Instant,
}

/// A stranger's place in the queue; dropping it gives it back.
struct Ticket<'a> {
    strangers: &'a Mutex<Turns<IpAddr>>,
    number: u64,
}

#[derive(Debug)]
struct Answer {
    token: String,
    path: String,
    admission: Admission,
    until: Instant,
}

/// Why the API server cannot be asked.
#[derive(Debug, Error)]
#[error(
    "http.authorization is \"kubernetes\", but there is no service account here to ask with; mount its token, or name \
     a file in kubernetes.kubeconfig"
)]
pub struct NoAccount;

/// A client of the API server that is asked who may read: the one of a kubeconfig, or that of the pod in
/// which this process runs.
///
/// # Errors
/// There is neither a kubeconfig nor a service account.
pub fn reviewer(kubeconfig: Option<PathBuf>) -> Result<Kube, NoAccount> {
    let access = kubeconfig.map(Access::Kubeconfig).or_else(Access::in_cluster);
    access.map(Kube::new).ok_or(NoAccount)
}

/// The protection of the HTTP server: TLS with these two files, and authorization by the API server, as far
/// as they are configured.
#[must_use]
pub fn protection(
    tls: Option<(PathBuf, PathBuf)>,
    reviews: Option<Kube>,
    metrics: &HttpMetrics,
) -> Protection {
    let metrics = metrics.clone();
    Protection {
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        gate: reviews.map(|api| Arc::new(Gatekeeper::new(api)).gate()),
        report: Box::new(move |happening| metrics.record(happening)),
    }
}

// === impl Gatekeeper ===

impl Gatekeeper {
    /// A gatekeeper that asks this API server.
    #[must_use]
    pub fn new(api: Kube) -> Gatekeeper {
        Gatekeeper {
            api,
            kept: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
            familiar: Mutex::default(),
            strangers: Mutex::new(Turns::new(
                Bucket::new(BURST, EVERY),
                Bucket::new(ADDRESS_BURST, ADDRESS_EVERY),
            )),
            familiar_questions: Mutex::new(Bucket::new(BURST, EVERY)),
            began: Instant::now(),
        }
    }

    fn gate(self: Arc<Gatekeeper>) -> Gate {
        Box::new(move |Credentials { client, token, path }| {
            let this = Arc::clone(&self);
            Box::pin(async move { this.admit(client, &token, &path).await })
        })
    }

    /// Whether the owner of `token`, at the address `client`, may get `path`.
    pub async fn admit(&self, client: IpAddr, token: &str, path: &str) -> Admission {
        if let Some(admission) = self.remembered(token, path) {
            return admission;
        }
        let asked = async {
            if !self.may_ask(client, token, path).await {
                debug!("not asking the API server: too many questions");
                return None;
            }
            let _place = self.places.acquire().await.ok()?;
            // Another connection of the same client may have asked in the meantime.
            match self.remembered(token, path) {
                Some(admission) => Some(admission),
                None => self.ask(token, path).await,
            }
        };
        match timeout(PATIENCE, asked).await {
            Ok(admission) => admission.unwrap_or(Admission::Undecided),
            Err(_) => {
                debug!("the API server did not answer in time whether a client may read");
                Admission::Undecided
            }
        }
    }

    /// Whether another question about this client may be sent to the API server. Waits for the client's turn.
    async fn may_ask(&self, client: IpAddr, token: &str, path: &str) -> bool {
        let is_familiar = {
            let familiar = lock(&self.familiar);
            familiar.iter().any(|(its_token, its_path)| its_token == token && its_path == path)
        };
        if is_familiar {
            let mut questions = lock(&self.familiar_questions);
            return self.api.requested_pause().is_none() && questions.take(self.began.elapsed());
        }
        let ticket = Ticket::new(&self.strangers, client);
        loop {
            if self.api.requested_pause().is_some() {
                return false;
            }
            match ticket.turn(self.began.elapsed()) {
                Turn::Now => return true,
                Turn::Refused => return false,
                Turn::Later => sleep(INTERVAL).await,
            }
        }
    }

    /// Remembers whether the client was admitted.
    fn remember(&self, token: &str, path: &str, is_granted: bool) {
        let mut familiar = lock(&self.familiar);
        familiar.retain(|(its_token, its_path)| its_token != token || its_path != path);
        if is_granted {
            familiar.push_front((token.to_owned(), path.to_owned()));
            familiar.truncate(FAMILIAR);
        }
    }

    async fn ask(&self, token: &str, path: &str) -> Option<Admission> {
        let admission = match self.api.review(token, path).await {
            Ok(Review::Allowed) => Admission::Granted,
            Ok(Review::Denied) => Admission::Forbidden,
            Ok(Review::Unknown) => Admission::Unknown,
            Err(error) => {
                debug!(error = %chain(&error), "the API server did not answer whether a client may read");
                // The error may come from this process's own token, or from the cluster's certificates.
                self.api.renew_after(&error);
                return None;
            }
        };
        self.remember(token, path, admission == Admission::Granted);
        let now = Instant::now();
        let until = now + if admission == Admission::Granted { GRANTED } else { DENIED };
        let answer = Answer { token: token.to_owned(), path: path.to_owned(), admission, until };
        let mut kept = lock(&self.kept);
        kept.retain(|answer| answer.until > now && !(answer.token == token && answer.path == path));
        if kept.len() >= KEPT {
            let first = kept.iter().enumerate().min_by_key(|(_, answer)| answer.until);
            if let Some(index) = first.map(|(index, _)| index) {
                kept.swap_remove(index);
            }
        }
        kept.push(answer);
        Some(admission)
    }

    fn remembered(&self, token: &str, path: &str) -> Option<Admission> {
        let now = Instant::now();
        let kept = lock(&self.kept);
        let found = kept.iter().find(|answer| answer.token == token && answer.path == path)?;
        (found.until > now).then_some(found.admission)
    }
}

// === impl Ticket ===

impl Ticket<'_> {
    fn new(strangers: &Mutex<Turns<IpAddr>>, client: IpAddr) -> Ticket<'_> {
        let number = lock(strangers).enter(client);
        Ticket { strangers, number }
    }

    fn turn(&self, now: Duration) -> Turn {
        lock(self.strangers).take(self.number, now)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        lock(self.strangers).leave(self.number);
    }
}
