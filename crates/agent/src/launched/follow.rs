//! The agent's side of the link: records, counts and logs what the plugin did, as if the agent had done it.

use std::collections::HashSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::containers::Containers;
use usernsd_domain::chain::chain;
use usernsd_domain::node::{LaunchedPlugin, Peer, PeerState};
use usernsd_domain::rate_limit::Backoff;
use usernsd_domain::report::{Done, Report};
use usernsd_peers::launched::{self, FromAgent, FromPlugin, Hello, LinkError, PROTOCOL, Watch, Writer};
use usernsd_report::clock::Clock;

/// The pause between two pings.
const PING: Duration = Duration::from_secs(2);
/// A plugin hangs if it is silent for this long, or if one request has been in work for this long. The
/// runtime has dropped it by then: its limit is 2 s.
const HANGS: Duration = Duration::from_secs(5);
/// Time limit for plugins that were running before the agent to introduce themselves; then the agent joins
/// NRI itself.
const FIRST: Duration = Duration::from_secs(1);
/// The first and the longest pause before reconnecting. The longest is also the time limit for a plugin's
/// answer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), HANGS);
/// After a connection that lasted this long, the pauses start again from the first.
const LASTING: Duration = Duration::from_secs(10);
/// The pause before a missing directory is looked for again.
const MISSING: Duration = Duration::from_secs(10);

/// Why a plugin that answers is not in the start path.
const OTHERS: &str = "the plugin was launched by another runtime than the one that answers over CRI";

/// Follows the launched plugins of this node.
pub struct Follow {
    /// The directory of the plugins' sockets, as the agent sees it.
    pub directory: PathBuf,
    /// Records what the plugins did.
    pub containers: Arc<Containers>,
    /// The clock of their records.
    pub clock: Arc<Clock>,
    /// Called with whether the agent is to join NRI itself: at the first decision, and on every change.
    pub join: Box<dyn Fn(bool) + Send + Sync>,
    /// The version of this usernsd.
    pub version: String,
}

/// The plugin at the other end of a connection.
#[derive(Debug, Default)]
struct Known {
    hello: Option<Hello>,
    responds: bool,
}

// === impl Follow ===

impl Follow {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let this = Arc::new(self);
        // In a pod the directory is mounted; elsewhere the agent may be the first to need it.
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(&this.directory) {
            debug!(error = %chain(&error), directory = %this.directory.display(), "could not create the plugins' directory");
        }
        let mut following = JoinSet::new();
        let mut known = HashSet::new();
        // Until the running plugins have introduced themselves, the agent does not join.
        let mut decide = Some(Instant::now() + FIRST);
        loop {
            // A missing directory is created next to the socket.
            let parent = this.directory.parent().unwrap_or(&this.directory);
            let watching = Watch::new(&this.directory).or_else(|_| Watch::new(parent));
            match launched::sockets(&this.directory) {
                Ok(found) => {
                    let found: HashSet<(PathBuf, u64)> = found.into_iter().collect();
                    for (path, inode) in found.difference(&known).cloned() {
                        let this = Arc::clone(&this);
                        following.spawn(async move {
                            this.follow(&path).await;
                            (path, inode)
                        });
                    }
                    known = found;
                }
                Err(error) => {
                    debug!(error = %chain(&error), directory = %this.directory.display(), "no launched plugin can be seen");
                }
            }
            loop {
                if following.is_empty() && decide.take().is_some() {
                    this.decided();
                }
                let changed = async {
                    match &watching {
                        Ok(watching) => watching.changed().await.unwrap_or(()),
                        Err(_) => sleep(MISSING).await,
                    }
                };
                let due = async {
                    match decide {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = changed => break,
                    Some(_) = following.join_next() => {}
                    () = due => {
                        decide = None;
                        this.decided();
                    }
                }
            }
        }
    }

    /// Follows one plugin until its socket has no listener any more.
    async fn follow(&self, path: &Path) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, LASTING);
        loop {
            let mut known = Known::default();
            let since = Instant::now();
            let ended = self.session(path, &mut known).await;
            let pause = backoff.after(since.elapsed());
            if let Some(hello) = known.hello {
                self.containers.store().set_plugin(hello.pid, None);
                let reason = match &ended {
                    Ok(()) => "it ended the connection".to_owned(),
                    Err(error) => chain(&error),
                };
                warn!(pid = hello.pid, runtime = %hello.runtime, %reason, "lost the plugin that the runtime launched");
                self.changed("the plugin that the runtime launched ended; it is started with the runtime");
            }
            match ended {
                Err(LinkError::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound
                    ) =>
                {
                    return;
                }
                Err(error) => {
                    debug!(socket = %path.display(), error = %chain(&error), "no connection to the launched plugin")
                }
                Ok(()) => {}
            }
            sleep(pause).await;
        }
    }

    async fn session(&self, path: &Path, known: &mut Known) -> Result<(), LinkError> {
        let (mut lines, mut writer) = launched::connect(path).await?;
        let hello = FromAgent::Hello { protocol: PROTOCOL, version: self.version.clone() };
        writer.write(&hello.render()).await?;
        let mut last_line = Instant::now();
        let mut pings = 0;
        let mut last = 0;
        let mut beat = interval(PING);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                line = lines.next() => {
                    let Some(line) = line? else { return Ok(()) };
                    last_line = Instant::now();
                    match FromPlugin::parse(&line) {
                        FromPlugin::Hello(hello) => self.introduced(path, hello, known),
                        FromPlugin::Report(report) => {
                            // Sent twice, because the acknowledgement was lost.
                            if report.number > last {
                                last = report.number;
                                self.record(&report);
                            }
                            acknowledge(&mut writer, report.number).await?;
                        }
                        FromPlugin::Unreadable(number) => {
                            if number > last {
                                last = number;
                                self.containers.metrics().plugin_report(false);
                                debug!(number, "the launched plugin has another version, and sent a report that cannot be read here");
                            }
                            acknowledge(&mut writer, number).await?;
                        }
                        FromPlugin::Pong { busy, .. } => self.responds(busy < HANGS, known),
                        FromPlugin::Replaced => info!("another agent gets the launched plugin's reports from now on"),
                        FromPlugin::Resumed => debug!("this agent gets the launched plugin's reports"),
                        FromPlugin::Unknown(kind) => debug!(%kind, "the launched plugin sent a message of an unknown kind"),
                    }
                }
                _ = beat.tick() => {
                    if last_line.elapsed() >= HANGS {
                        self.responds(false, known);
                    }
                    // CRI may lead to another runtime by now.
                    let store = self.containers.store();
                    let is_up = store.health(Peer::Nri).state == PeerState::Up;
                    if known.hello.is_some() && store.is_launched() != (is_up && !store.is_joined()) {
                        self.changed(OTHERS);
                    }
                    pings += 1;
                    writer.write(&FromAgent::Ping { number: pings }.render()).await?;
                }
            }
        }
    }

    fn introduced(&self, path: &Path, hello: Hello, known: &mut Known) {
        let is_new = known.hello.is_none();
        if is_new {
            info!(
                socket = %path.display(),
                pid = hello.pid,
                version = %hello.version,
                runtime = %hello.runtime,
                runtime_version = %hello.runtime_version,
                "the runtime launched the plugin; it is called before containers start"
            );
            known.responds = true;
        }
        let before = known.hello.replace(hello.clone());
        for problem in &hello.problems {
            if before.as_ref().is_none_or(|before| !before.problems.contains(problem)) {
                warn!(pid = hello.pid, %problem, "the launched plugin reports a problem");
            }
        }
        self.show(known);
        if is_new {
            self.changed("");
        }
    }

    fn responds(&self, responds: bool, known: &mut Known) {
        let Some(hello) = &known.hello else { return };
        if known.responds == responds {
            return;
        }
        if responds {
            info!(pid = hello.pid, "the launched plugin answers again");
        } else {
            warn!(pid = hello.pid, "the launched plugin does not answer");
        }
        known.responds = responds;
        self.show(known);
        self.changed("the plugin that the runtime launched does not answer");
    }

    fn show(&self, known: &Known) {
        let Some(hello) = &known.hello else { return };
        let plugin = LaunchedPlugin {
            pid: hello.pid,
            version: hello.version.clone(),
            runtime: hello.runtime.clone(),
            runtime_version: hello.runtime_version.clone(),
            since: hello.started().map_or_else(SystemTime::now, |at| self.clock.time_of(at)),
            responds: known.responds,
            settings: hello.settings.clone(),
            problems: hello.problems.clone(),
            dropped: hello.dropped,
        };
        self.containers.store().set_plugin(hello.pid, Some(plugin));
    }

    /// Called when a plugin appears, disappears or hangs, or turns out to be another runtime's; `why_down`
    /// is the reason.
    fn changed(&self, why_down: &str) {
        let store = self.containers.store();
        let is_live = store.is_launched();
        match (is_live, store.health(Peer::Nri).state) {
            (true, PeerState::Up) | (false, PeerState::Down | PeerState::Waiting | PeerState::Off) => {}
            (true, _) => store.up(Peer::Nri, SystemTime::now()),
            // Meanwhile the agent has joined as well.
            (false, PeerState::Up) if store.is_joined() => {}
            (false, PeerState::Up) => store.down(Peer::Nri, SystemTime::now(), why_down),
        }
        self.containers.log_mismatch();
        (self.join)(!is_live);
        // Containers that started without what their pod asked for may be ended, now that new ones will get
        // it.
        self.containers.attention().notify_one();
    }

    /// Called when every running plugin has had the time to introduce itself.
    fn decided(&self) {
        self.changed(OTHERS);
    }

    fn record(&self, report: &Report) {
        self.containers.metrics().plugin_report(true);
        let at = self.clock.time_of(report.at);
        match &report.done {
            Done::Created(created) => self.containers.record_created(created, at),
            Done::Inspected(inspected) => self.containers.take_inspected(inspected, at),
            Done::Ended(id) => self.containers.forget(id),
            Done::PodEnded(id) => self.containers.decider().forget_pod(id.as_str()),
        }
    }
}

async fn acknowledge(writer: &mut Writer, number: u64) -> Result<(), LinkError> {
    writer.write(&FromAgent::Seen { number }.render()).await
}
