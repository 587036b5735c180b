//! systemd over D-Bus (org.freedesktop.systemd1(5)): finds a container's scope, and reports when a scope is
//! ready.
//!
//! Uses two connections to the system bus: zbus stops reading a connection whose signals are not taken in
//! time, so a call made while handling a signal would wait for itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use zbus::connection::Builder;
use zbus::{Connection, Message, ObjectPath, OwnedObjectPath, OwnedVariant};

pub use self::error::SystemdError;
use self::error::{UNKNOWN_METHOD, answer, within};
pub use self::event::{Subscription, SystemdEvent};
use self::socket::Bus;
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::chain::chain;
use usernsd_domain::unit::Scope;

mod error;
mod event;
mod path;
mod probe;
mod service;
mod socket;

/// The system bus's socket, relative to the host's root (the D-Bus specification's default).
/// Not `/run/systemd/private`: systemd 262 hangs clients there that send the first call together
/// with the end of the handshake, and zbus does not take its messages.
pub const SYSTEM_BUS: &str = "run/dbus/system_bus_socket";

/// Time limit of one call. The usual answer takes 0.3 ms; during a daemon-reload systemd answers no calls,
/// for up to some seconds on a node with thousands of units.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The longest reply that is read, in bytes: a list of more than 40,000 units.
const MOST_REPLY: u64 = 16 << 20;

const NAME: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A unit as `ListUnits` and `ListUnitsByPatterns` return it: name, description, load, active and sub state,
/// followed unit, object path, job ID, job type, job's object path.
type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A client of systemd's manager object. Shared by reference; it has one connection for calls.
#[derive(Debug)]
pub struct Systemd {
    bus: PathBuf,
    calls: Connection,
    deadline: Duration,
    /// Set once `ListUnitsByPatterns` was answered with "unknown method", because an older systemd does not gain methods.
    /// (A newer one could after a daemon-reexec; the older call is then used until the agent restarts.)
    no_patterns: AtomicBool,
}

// === impl Systemd ===

impl Systemd {
    /// Connects to the system bus at the socket `bus`.
    ///
    /// # Errors
    /// [`SystemdError::Unreachable`].
    pub async fn connect(bus: &Path) -> Result<Systemd, SystemdError> {
        Ok(Systemd {
            calls: open(bus, MOST_REPLY).await?,
            bus: bus.to_owned(),
            deadline: DEADLINE,
            no_patterns: AtomicBool::new(false),
        })
    }

    /// Replaces [`DEADLINE`] as the time limit of each call.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Systemd {
        Systemd { deadline, ..self }
    }

    /// systemd's version: 252 for `252.38-1~deb12u1`.
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub async fn version(&self) -> Result<u32, SystemdError> {
        const CALL: &str = "Get Version";
        let reply = self.call(CALL, MANAGER_PATH, PROPERTIES, "Get", &(MANAGER, "Version")).await?;
        let text: String = convert(CALL, body::<OwnedVariant>(CALL, &reply)?)?;
        parse_version(&text).ok_or_else(|| answer(CALL, format!("{text:?} is no version")))
    }

    /// The names of the scopes that CRI-O and containerd created, whatever their state, including those of
    /// CRI-O's monitors (`crio-conmon-…`).
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub async fn scopes(&self) -> Result<Vec<String>, SystemdError> {
        const PATTERNS: [&str; 2] = ["crio-*.scope", "cri-containerd-*.scope"];
        const STATES: [&str; 0] = [];
        if !self.no_patterns.load(Ordering::Relaxed) {
            const CALL: &str = "ListUnitsByPatterns";
            match self.call(CALL, MANAGER_PATH, MANAGER, CALL, &(&STATES[..], &PATTERNS[..])).await {
                Ok(reply) => return names(CALL, &reply),
                Err(error) if error.is_named(UNKNOWN_METHOD) => {
                    self.no_patterns.store(true, Ordering::Relaxed)
                }
                Err(error) => return Err(error),
            }
        }
        const CALL: &str = "ListUnits";
        let reply = self.call(CALL, MANAGER_PATH, MANAGER, CALL, &()).await?;
        let mut names = names(CALL, &reply)?;
        names.retain(|name| {
            name.ends_with(".scope") && (name.starts_with("crio-") || name.starts_with("cri-containerd-"))
        });
        Ok(names)
    }

    /// Looks up a scope by its unit's name. `None` if there is no such unit or it has no cgroup (not started
    /// yet, ended, or invented by systemd to answer this call).
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub async fn scope(&self, unit: &str) -> Result<Option<Scope>, SystemdError> {
        const CALL: &str = "GetAll Scope";
        // The object path follows from the name, so no GetUnit is needed first.
        let path = path::of_unit(unit);
        let reply =
            match self.call(CALL, &path, PROPERTIES, "GetAll", &"org.freedesktop.systemd1.Scope").await {
                Ok(reply) => reply,
                Err(error) if NO_SUCH_UNIT.iter().any(|name| error.is_named(name)) => return Ok(None),
                Err(error) => return Err(error),
            };
        let mut all: HashMap<String, OwnedVariant> = body(CALL, &reply)?;
        let control_group: String = property(CALL, &mut all, "ControlGroup")?.unwrap_or_default();
        if control_group.is_empty() {
            return Ok(None);
        }
        Ok(Some(Scope {
            control_group: CgroupPath::parse(&control_group).map_err(|error| answer(CALL, chain(&error)))?,
            // 0: the kernel has no cgroup ID.
            control_group_id: property(CALL, &mut all, "ControlGroupId")?.filter(|id| *id != 0),
            delegate: property(CALL, &mut all, "Delegate")?.unwrap_or(false),
        }))
    }

    /// Makes one call, within the deadline.
    async fn call<B>(
        &self,
        call: &'static str,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<Message, SystemdError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let path = ObjectPath::try_from(path).map_err(|error| answer(call, chain(&error)))?;
        let reply = self.calls.call_method(Some(NAME), path, Some(interface), method, body);
        within(call, self.deadline, reply).await
    }
}

/// D-Bus errors that mean that there is no such unit.
const NO_SUCH_UNIT: [&str; 3] = [
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.DBus.Error.UnknownObject",
    "org.freedesktop.DBus.Error.UnknownInterface",
];

async fn open(bus: &Path, most_reply: u64) -> Result<Connection, SystemdError> {
    let unreachable = |reason: String| SystemdError::Unreachable { path: bus.to_owned(), reason };
    let connect = async {
        let stream = UnixStream::connect(bus).await.map_err(|error| unreachable(chain(&error)))?;
        let builder = Builder::socket(Bus { stream, most_reply }).max_queued(event::QUEUE);
        builder.build().await.map_err(|error| unreachable(chain(&error)))
    };
    let silent = |_| unreachable(format!("no greeting within {DEADLINE:?}"));
    tokio::time::timeout(DEADLINE, connect).await.map_err(silent)?
}

fn body<T>(call: &'static str, reply: &Message) -> Result<T, SystemdError>
where
    T: serde::de::DeserializeOwned + zbus::Type,
{
    reply.body().deserialize().map_err(|error| answer(call, chain(&error)))
}

fn convert<T>(call: &'static str, value: OwnedVariant) -> Result<T, SystemdError>
where
    T: TryFrom<OwnedVariant, Error = zbus::Error>,
{
    T::try_from(value).map_err(|error| answer(call, chain(&error)))
}

/// Takes one property out of `all`; `None` if this systemd does not have it.
fn property<T>(
    call: &'static str,
    all: &mut HashMap<String, OwnedVariant>,
    name: &str,
) -> Result<Option<T>, SystemdError>
where
    T: TryFrom<OwnedVariant, Error = zbus::Error>,
{
    let convert = |value| T::try_from(value).map_err(|error| answer(call, format!("{name}: {error}")));
    all.remove(name).map(convert).transpose()
}

fn names(call: &'static str, reply: &Message) -> Result<Vec<String>, SystemdError> {
    let units: Vec<ListedUnit> = body(call, reply)?;
    Ok(units.into_iter().map(|unit| unit.0).collect())
}

/// The number at the start of the `Version` property: `252.38-1~deb12u1`, `v258-rc1`.
fn parse_version(text: &str) -> Option<u32> {
    let text = text.strip_prefix('v').unwrap_or(text);
    text.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_major_version_is_parsed() {
        for (text, want) in [
            ("239 (239-82.el8)", Some(239)),
            ("252.38-1~deb12u1", Some(252)),
            ("v258-rc1", Some(258)),
            ("", None),
            ("next", None),
            ("99999999999", None),
        ] {
            assert_eq!(parse_version(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_version_is_parsed_without_panic(text in any::<String>()) {
            let _ = parse_version(&text);
        }
    }
}
