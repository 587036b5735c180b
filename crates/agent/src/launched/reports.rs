//! The plugin's side of the link: reports wait until an agent has recorded them.
//!
//! The newest connected agent gets them. An older one is notified that it is replaced, has a moment to
//! acknowledge its last reports, and gets no more while the newer one is connected. So two agents that
//! overlap during an upgrade count nothing twice.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use usernsd_domain::chain::chain;
use usernsd_domain::lock::lock;
use usernsd_domain::report::{Done, KeptReports, Report};
use usernsd_linux::proc::Proc;
use usernsd_peers::launched::{
    FromAgent, FromPlugin, Hello, Lines, LinkError, MAX_LINE, PluginListener, Writer,
};
use usernsd_report::clock;

/// The most reports that wait for an agent: as many as the boot of a node with some hundred pods makes.
const MOST: usize = 1024;
/// Size limit of all waiting reports, in bytes.
const MOST_BYTES: usize = 1 << 20;
/// The most connections at a time; a further one is closed.
const CONNECTIONS: usize = 8;
/// Time limit for an agent to introduce itself, and for a replaced one to acknowledge its reports.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause after a connection that could not be accepted, for example for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// The plugin's reports to agents, and its introduction.
#[derive(Debug)]
pub struct Reports {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// Where the uptime is read.
    proc: Proc,
}

#[derive(Debug)]
struct State {
    kept: KeptReports<Arc<str>>,
    hello: Hello,
    /// The connected agents, in the order in which they connected.
    agents: BTreeSet<u64>,
    coming: u64,
    /// The agent that gets the reports. A replaced agent keeps its turn until it has acknowledged what it
    /// got.
    turn: Option<u64>,
}

// === impl Reports ===

impl Reports {
    /// No reports yet, for a plugin that introduces itself with `hello`.
    #[must_use]
    pub fn new(hello: Hello, proc: Proc) -> Reports {
        let state = State {
            kept: KeptReports::new(MOST, MOST_BYTES, MAX_LINE),
            hello,
            agents: BTreeSet::new(),
            coming: 0,
            turn: None,
        };
        Reports { state: Mutex::new(state), changed: watch::Sender::new(()), proc }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Keeps a report until an agent has recorded it.
    pub fn add(&self, done: Done) {
        let at = clock::stamp(&self.proc);
        self.lock().kept.add(|number| {
            let line: Arc<str> = FromPlugin::Report(Report { number, at, done }).render().into();
            (line.len(), line)
        });
        self.changed.send_replace(());
    }

    /// Replaces the plugin's description of its settings.
    pub fn describe(&self, settings: String, problems: Vec<String>) {
        let mut state = self.lock();
        if (&state.hello.settings, &state.hello.problems) == (&settings, &problems) {
            return;
        }
        (state.hello.settings, state.hello.problems) = (settings, problems);
        drop(state);
        self.changed.send_replace(());
    }

    fn hello(&self) -> Hello {
        let state = self.lock();
        Hello { dropped: state.kept.dropped(), ..state.hello.clone() }
    }

    /// Serves agents forever. `busy` returns how long the runtime's current request has been in work.
    pub async fn serve(
        self: Arc<Self>,
        listener: PluginListener,
        busy: Arc<dyn Fn() -> Duration + Send + Sync>,
    ) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            match listener.accept().await {
                Ok((lines, writer)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                    let (reports, busy) = (Arc::clone(&self), Arc::clone(&busy));
                    tokio::spawn(async move {
                        let served = reports.serve_one(lines, writer, &*busy).await;
                        if let Err(error) = served {
                            tracing::debug!(error = %chain(&error), "an agent's connection ended");
                        }
                        drop(place);
                    });
                }
                Err(LinkError::Foreigner(uid)) => {
                    tracing::warn!(uid, "refused a connection from another user's process")
                }
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "could not accept an agent's connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn serve_one(
        &self,
        mut lines: Lines,
        writer: Writer,
        busy: &(dyn Fn() -> Duration + Send + Sync),
    ) -> Result<(), LinkError> {
        // A client that sends nothing, such as another plugin that checks for stale sockets, is not an
        // agent.
        let first = timeout(PATIENCE, lines.next()).await.map_err(|_| LinkError::Slow)??;
        if !first.is_some_and(|line| matches!(FromAgent::parse(&line), FromAgent::Hello { .. })) {
            return Ok(());
        }
        let place = Position::take(self);
        Agent { reports: self, place, writer, lines, busy, hello: None, sent: 0, seen: 0, until: None }
            .serve()
            .await
    }
}

/// An agent's place in the order of connected agents; dropping it gives the place up.
struct Position<'a> {
    reports: &'a Reports,
    number: u64,
}

impl<'a> Position<'a> {
    fn take(reports: &'a Reports) -> Position<'a> {
        let mut state = reports.lock();
        state.coming += 1;
        let number = state.coming;
        state.agents.insert(number);
        drop(state);
        reports.changed.send_replace(());
        Position { reports, number }
    }
}

impl Drop for Position<'_> {
    fn drop(&mut self) {
        let mut state = self.reports.lock();
        state.agents.remove(&self.number);
        state.turn.take_if(|turn| *turn == self.number);
        drop(state);
        self.reports.changed.send_replace(());
    }
}

/// An agent's connection.
struct Agent<'a> {
    reports: &'a Reports,
    place: Position<'a>,
    writer: Writer,
    lines: Lines,
    busy: &'a (dyn Fn() -> Duration + Send + Sync),
    /// The introduction that was sent last.
    hello: Option<Hello>,
    /// The last report that was sent, and the last that was acknowledged.
    sent: u64,
    seen: u64,
    /// For a replaced agent, the end of its time to acknowledge the reports that it was sent.
    until: Option<Instant>,
}

/// The next message to an agent.
enum Next {
    Report(u64, Arc<str>),
    Replaced,
    Resumed,
    Nothing,
}

impl Agent<'_> {
    async fn serve(mut self) -> Result<(), LinkError> {
        let mut changed = self.reports.changed.subscribe();
        loop {
            changed.mark_unchanged();
            self.introduce().await?;
            self.send().await?;
            let until = self.until;
            let over = async move {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                line = self.lines.next() => match line? {
                    None => return Ok(()),
                    Some(line) => self.receive(&line).await?,
                },
                _ = changed.changed() => {}
                () = over => self.give_up_turn(),
            }
        }
    }

    async fn introduce(&mut self) -> Result<(), LinkError> {
        let hello = self.reports.hello();
        if self.hello.as_ref() != Some(&hello) {
            self.writer.write(&FromPlugin::Hello(hello.clone()).render()).await?;
            self.hello = Some(hello);
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), LinkError> {
        loop {
            match self.next() {
                Next::Nothing => return Ok(()),
                Next::Replaced => {
                    self.until = Some(Instant::now() + PATIENCE);
                    self.writer.write(&FromPlugin::Replaced.render()).await?;
                    if self.seen >= self.sent {
                        self.give_up_turn();
                    }
                }
                Next::Resumed => self.writer.write(&FromPlugin::Resumed.render()).await?,
                Next::Report(number, line) => {
                    self.sent = number;
                    self.writer.write(&line).await?;
                }
            }
        }
    }

    fn next(&mut self) -> Next {
        let mut state = self.reports.lock();
        let own = self.place.number;
        let is_newest = state.agents.last() == Some(&own);
        match state.turn {
            Some(turn) if turn == own && is_newest => {
                self.until = None;
                state.kept.after(self.sent).map_or(Next::Nothing, |(number, line)| Next::Report(number, line))
            }
            Some(turn) if turn == own && self.until.is_none() => Next::Replaced,
            None if is_newest => {
                state.turn = Some(own);
                // Another agent got the reports that were sent to this one and not acknowledged.
                self.sent = self.seen;
                Next::Resumed
            }
            _ => Next::Nothing,
        }
    }

    fn give_up_turn(&mut self) {
        self.until = None;
        self.reports.lock().turn.take_if(|turn| *turn == self.place.number);
        self.reports.changed.send_replace(());
    }

    async fn receive(&mut self, line: &str) -> Result<(), LinkError> {
        match FromAgent::parse(line) {
            FromAgent::Seen { number } => {
                // Only reports that were sent to this agent count, and only while it has the turn.
                let mut state = self.reports.lock();
                if state.turn == Some(self.place.number) {
                    self.seen = self.seen.max(number.min(self.sent));
                    state.kept.acknowledge(self.seen);
                }
                drop(state);
                if self.until.is_some() && self.seen >= self.sent {
                    self.give_up_turn();
                }
            }
            FromAgent::Ping { number } => {
                let pong = FromPlugin::Pong { number, busy: (self.busy)() };
                self.writer.write(&pong.render()).await?;
            }
            FromAgent::Hello { .. } | FromAgent::Unknown => {}
        }
        Ok(())
    }
}
