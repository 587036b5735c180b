//! systemd's signals, as one stream in the order they were sent.

use std::num::NonZeroUsize;

use futures_util::stream::{Stream, StreamExt};
use zbus::message::{Flags, Type};
use zbus::{Connection, Message, MessageStream, ObjectPath};

use super::error::{SystemdError, answer, within};
use super::{MANAGER, MANAGER_PATH, NAME, Systemd, open};

/// Signals kept while nobody takes them. Creating and removing a pod gives some 20; when the queue
/// is full zbus stops reading, so the bus keeps the rest: nothing is lost, only late.
pub(super) const QUEUE: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(queue) => queue,
    None => NonZeroUsize::MIN,
};

const BUS: &str = "org.freedesktop.DBus";

/// What systemd tells about scopes and itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemdEvent {
    /// A job on a scope ended with result `done`: a start, then its cgroup is there, or a stop,
    /// then it is gone. Which one only [`Systemd::scope`] tells.
    JobDone {
        /// The unit's name.
        unit: String,
    },
    /// systemd forgot a scope.
    UnitRemoved {
        /// The unit's name.
        unit: String,
    },
    /// A daemon-reload begins (`true`) or ended (`false`). No call is answered in between.
    Reloading(bool),
    /// systemd is back on the bus under a new address (daemon-reexec, or a bus that started
    /// first); signals were lost in between. Already subscribed again.
    Restarted,
}

impl Systemd {
    /// Subscribes, on a connection of its own, and says what happens from then on. The stream ends
    /// when that connection does.
    ///
    /// Only what the owner of systemd's name sends counts: anyone on the bus may send a signal.
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub async fn events(
        &self,
    ) -> Result<impl Stream<Item = SystemdEvent> + Send + 'static + use<>, SystemdError> {
        let connection = open(&self.bus).await?;
        // Before the first match rule, so that nothing is missed. One stream for all: order.
        let messages = MessageStream::from(&connection);
        let mut source = Source { connection, owner: None };
        self.match_signals(&mut source).await?;
        let subscribed =
            source.connection.call_method(Some(NAME), MANAGER_PATH, Some(MANAGER), "Subscribe", &());
        match within("Subscribe", self.deadline, subscribed).await {
            Ok(_) => {}
            Err(error) if error.is_named("org.freedesktop.systemd1.AlreadySubscribed") => {}
            Err(error) => return Err(error),
        }
        // An error is the connection's end, and the last thing zbus gives.
        let messages = messages.take_while(|message| std::future::ready(message.is_ok()));
        Ok(futures_util::stream::unfold(
            (messages.boxed(), source),
            |(mut messages, mut source)| async move {
                loop {
                    let message = messages.next().await?.ok()?;
                    if let Some(event) = source.read(&message) {
                        if event == SystemdEvent::Restarted {
                            source.subscribe_again().await?;
                        }
                        return Some((event, (messages, source)));
                    }
                }
            },
        ))
    }

    /// Has the bus pass systemd's signals on, and finds out whose they must be.
    async fn match_signals(&self, source: &mut Source) -> Result<(), SystemdError> {
        let bus = async |call: &'static str, text: &str| {
            let reply =
                source.connection.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), call, &text);
            within(call, self.deadline, reply).await
        };
        for member in ["JobRemoved", "UnitRemoved", "Reloading"] {
            let rule = format!(
                "type='signal',sender='{NAME}',path='{MANAGER_PATH}',interface='{MANAGER}',member='{member}'"
            );
            bus("AddMatch", &rule).await?;
        }
        let rule =
            format!("type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{NAME}'");
        bus("AddMatch", &rule).await?;
        let reply = bus("GetNameOwner", NAME).await?;
        let owner: String =
            reply.body().deserialize().map_err(|error| answer("GetNameOwner", error.to_string()))?;
        source.owner = Some(owner);
        Ok(())
    }
}

/// Where the signals come from, and who may send them.
struct Source {
    connection: Connection,
    /// The unique name of systemd's connection; `None` while it has none.
    owner: Option<String>,
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
        // The bus puts the sender in, so it cannot be feigned.
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

    /// A new systemd knows no subscribers. No answer is awaited: nobody takes signals meanwhile,
    /// and systemd may take its time. `None` where the connection is gone.
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
