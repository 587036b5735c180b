//! systemd's signals as one stream, in the order in which they were sent.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use zbus::message::{Flags, Type};
use zbus::{Connection, Message, MessageStream, ObjectPath};

use super::error::{SystemdError, answer, within};
use super::{MANAGER, MANAGER_PATH, NAME, Systemd, open};
use usernsd_domain::chain::chain;

/// Signals that are queued until they are taken. Creating and removing a pod causes some 20. If the queue is
/// full, zbus stops reading and the bus keeps the rest: signals arrive later, but none is lost.
pub(super) const QUEUE: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(queue) => queue,
    None => NonZeroUsize::MIN,
};

/// The longest reply on this connection, in bytes: those of the bus itself, and an empty one.
const MOST_REPLY: u64 = 8 << 10;

const BUS: &str = "org.freedesktop.DBus";

/// A change of a scope or of systemd itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemdEvent {
    /// A job on a scope ended with the result `done`. After a start job the scope's cgroup exists, after a
    /// stop job it is gone; [`Systemd::scope`] distinguishes the two.
    JobDone {
        /// The unit's name.
        unit: String,
    },
    /// systemd unloaded a scope.
    UnitRemoved {
        /// The unit's name.
        unit: String,
    },
    /// A daemon-reload begins (`true`) or has ended (`false`). systemd answers no calls in between.
    Reloading(bool),
    /// systemd is back on the bus under a new unique name (daemon-reexec, or a bus that started first).
    /// If signals were switched on, some were lost in between, and the subscription has been renewed.
    Restarted,
}

/// Switches systemd's signals on and off, on the connection on which they arrive.
#[derive(Debug)]
pub struct Subscription {
    connection: Connection,
    deadline: Duration,
    is_on: Arc<AtomicBool>,
}

impl Systemd {
    /// Opens a connection for signals, and yields the events on it. The stream ends with that connection.
    ///
    /// Until the subscription is switched on, only a restart of systemd is an event: as long as one client is
    /// subscribed, systemd sends the bus several signals for each unit and job, and each costs three processes some
    /// work.
    ///
    /// Only signals from the owner of systemd's bus name count, because anyone on the bus may send one.
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub async fn events(
        &self,
    ) -> Result<(impl Stream<Item = SystemdEvent> + Send + 'static + use<>, Subscription), SystemdError> {
        let connection = open(&self.bus, MOST_REPLY).await?;
        // The stream is made before the first match rule, so that no signal is missed; one stream for all
        // signals keeps their order.
        let messages = MessageStream::from(&connection);
        let is_on = Arc::new(AtomicBool::new(false));
        let subscription = Subscription {
            connection: connection.clone(),
            deadline: self.deadline,
            is_on: Arc::clone(&is_on),
        };
        let rule =
            format!("type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{NAME}'");
        subscription.ask_bus("AddMatch", &rule).await?;
        let reply = subscription.ask_bus("GetNameOwner", NAME).await?;
        let owner: String =
            reply.body().deserialize().map_err(|error| answer("GetNameOwner", chain(&error)))?;
        let source = Source { connection, owner: Some(owner), is_on };
        // zbus yields one error when the connection ends, and nothing after it.
        let messages = messages.take_while(|message| std::future::ready(message.is_ok()));
        let events = futures_util::stream::unfold(
            (messages.boxed(), source),
            |(mut messages, mut source)| async move {
                loop {
                    let message = messages.next().await?.ok()?;
                    if let Some(event) = source.read(&message) {
                        if event == SystemdEvent::Restarted && source.is_on.load(Ordering::Relaxed) {
                            source.subscribe_again().await?;
                        }
                        return Some((event, (messages, source)));
                    }
                }
            },
        );
        Ok((events, subscription))
    }
}

// === impl Subscription ===

impl Subscription {
    /// Whether systemd's signals are on, or are being switched on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Switches systemd's signals on. Events must be taken meanwhile, because the answers arrive among them.
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub async fn switch_on(&self) -> Result<(), SystemdError> {
        for member in SIGNALS {
            self.ask_bus("AddMatch", &rule(member)).await?;
        }
        self.is_on.store(true, Ordering::Relaxed);
        self.ask_systemd("Subscribe", "org.freedesktop.systemd1.AlreadySubscribed").await
    }

    /// Switches them off, likewise.
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub async fn switch_off(&self) -> Result<(), SystemdError> {
        self.is_on.store(false, Ordering::Relaxed);
        self.ask_systemd("Unsubscribe", "org.freedesktop.systemd1.NotSubscribed").await?;
        for member in SIGNALS {
            self.ask_bus("RemoveMatch", &rule(member)).await?;
        }
        Ok(())
    }

    async fn ask_bus(&self, call: &'static str, text: &str) -> Result<Message, SystemdError> {
        let reply = self.connection.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), call, &text);
        within(call, self.deadline, reply).await
    }

    /// `already` is the error that systemd returns if there is nothing to do.
    async fn ask_systemd(&self, call: &'static str, already: &str) -> Result<(), SystemdError> {
        let reply = self.connection.call_method(Some(NAME), MANAGER_PATH, Some(MANAGER), call, &());
        match within(call, self.deadline, reply).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_named(already) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The manager's signals that are events.
const SIGNALS: [&str; 3] = ["JobRemoved", "UnitRemoved", "Reloading"];

fn rule(member: &str) -> String {
    format!("type='signal',sender='{NAME}',path='{MANAGER_PATH}',interface='{MANAGER}',member='{member}'")
}

/// The connection that signals arrive on, and their only legitimate sender.
struct Source {
    connection: Connection,
    /// The unique name of systemd's connection; `None` while it has none.
    owner: Option<String>,
    is_on: Arc<AtomicBool>,
}

// === impl Source ===

impl Source {
    fn read(&mut self, message: &Message) -> Option<SystemdEvent> {
        let header = message.header();
        let (interface, member) = (header.interface()?.as_str(), header.member()?.as_str());
        if message.message_type() != Type::Signal {
            return None;
        }
        let body = message.body();
        // The bus fills in the sender, so it cannot be forged.
        let sender = header.sender().map(|sender| sender.as_str());
        if (interface, member) == (BUS, "NameOwnerChanged") && sender == Some(BUS) {
            let (name, _, owner): (&str, &str, &str) = body.deserialize().ok()?;
            if name != NAME {
                return None;
            }
            self.owner = (!owner.is_empty()).then(|| owner.to_owned());
            return self.owner.is_some().then_some(SystemdEvent::Restarted);
        }
        if sender.is_none() || sender != self.owner.as_deref() || interface != MANAGER {
            return None;
        }
        let scope = |unit: &str| unit.ends_with(".scope").then(|| unit.to_owned());
        match member {
            "JobRemoved" => {
                let (_, _, unit, result): (u32, ObjectPath<'_>, &str, &str) = body.deserialize().ok()?;
                scope(unit).filter(|_| result == "done").map(|unit| SystemdEvent::JobDone { unit })
            }
            "UnitRemoved" => {
                let (unit, _): (&str, ObjectPath<'_>) = body.deserialize().ok()?;
                scope(unit).map(|unit| SystemdEvent::UnitRemoved { unit })
            }
            "Reloading" => Some(SystemdEvent::Reloading(body.deserialize().ok()?)),
            _ => None,
        }
    }

    /// Subscribes with a restarted systemd, which has no subscribers. No reply is awaited: meanwhile no
    /// signals would be taken, and systemd may take its time. `None` if the connection has ended.
    async fn subscribe_again(&self) -> Option<()> {
        let call = Message::method_call(MANAGER_PATH, "Subscribe")
            .destination(NAME)
            .interface(MANAGER)
            .with_flags(Flags::NO_REPLY_EXPECTED)
            .build(&())
            .ok()?;
        self.connection.send(&call).await.ok()
    }
}
