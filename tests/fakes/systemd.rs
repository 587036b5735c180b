//! A fake message bus with a fake systemd on one unix socket. It answers like systemd of a given version, and
//! records all calls.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use zbus::connection::Builder;
use zbus::message::{Flags, Type};
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant};

pub const SYSTEMD: &str = ":1.1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// A scope; the default is what systemd returns for an unknown one, with everything empty.
#[derive(Debug, Clone, Default)]
pub struct FakeScope {
    pub control_group: String,
    pub control_group_id: u64,
    pub delegate: bool,
}

/// The units and the behaviour of systemd.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    /// The version. Its first number determines which calls and properties exist.
    pub version: String,
    /// Units by object path label, e.g. `crio_2d1_2escope`, each with its name.
    pub units: BTreeMap<String, (String, FakeScope)>,
    /// Loads any unknown unit as not-found, as systemd does for well-formed names.
    pub load_on_demand: bool,
    /// Accepts calls (except for the bus's own) but never answers.
    pub hang: bool,
    /// Answers each call with an error of this name.
    pub refuse: Option<String>,
    /// Answers each call with a string instead of the expected type.
    pub garble: bool,
    pub already_subscribed: bool,
    /// The active state of every unit.
    pub active_state: String,
    /// Start time of every service's main process, in microseconds since 1970.
    pub started: u64,
    /// The type of every service; `notify` if empty.
    pub kind: String,
    /// The service has ended after this number of questions about its state.
    pub ends_after: Option<usize>,
    /// A restart's job never ends.
    pub job_stays: bool,
}

const JOB: &str = "/org/freedesktop/systemd1/job/7";

/// A running fake.
pub struct FakeSystemd {
    pub scenario: Arc<Mutex<Scenario>>,
    calls: Arc<Mutex<Vec<String>>>,
    rules: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<Vec<Connection>>>,
    accept: JoinHandle<()>,
}

// === impl FakeSystemd ===

impl FakeSystemd {
    pub fn start(socket: &Path, scenario: Scenario) -> FakeSystemd {
        let listener = UnixListener::bind(socket).unwrap();
        let scenario = Arc::new(Mutex::new(scenario));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let rules = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let recorded = Recorded { scenario: scenario.clone(), calls: calls.clone(), rules: rules.clone() };
        let accept = tokio::spawn(accept(listener, recorded, connections.clone()));
        FakeSystemd { scenario, calls, rules, connections, accept }
    }

    /// The calls so far, as `Method` or `Method(argument)`, without those to the bus itself.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// The match rules that clients have added and not removed. Signals are sent without them too: everyone on the bus
    /// may send a signal to a single client.
    pub fn rules(&self) -> Vec<String> {
        self.rules.lock().unwrap().clone()
    }

    /// Sends a signal from `sender` to every connection.
    pub async fn signal<B>(&self, sender: &str, interface: &str, member: &str, body: &B)
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let path = if interface == MANAGER { MANAGER_PATH } else { "/org/freedesktop/DBus" };
        let connections = self.connections.lock().unwrap().clone();
        for connection in connections {
            let signal = Message::signal(path, interface, member).sender(sender).build(body).unwrap();
            connection.send(&signal).await.unwrap();
        }
    }

    /// Sends `JobRemoved` as systemd.
    pub async fn job_removed(&self, unit: &str, result: &str) {
        let job = ObjectPath::try_from("/org/freedesktop/systemd1/job/7").unwrap();
        self.signal(SYSTEMD, MANAGER, "JobRemoved", &(7_u32, job, unit, result)).await;
    }

    /// Sends `UnitRemoved` as systemd.
    pub async fn unit_removed(&self, unit: &str) {
        let path = ObjectPath::try_from("/org/freedesktop/systemd1/unit/x").unwrap();
        self.signal(SYSTEMD, MANAGER, "UnitRemoved", &(unit, path)).await;
    }

    /// Sends `NameOwnerChanged` for systemd's name, as the bus.
    pub async fn owner_changed(&self, old: &str, new: &str) {
        let body = ("org.freedesktop.systemd1", old, new);
        self.signal("org.freedesktop.DBus", "org.freedesktop.DBus", "NameOwnerChanged", &body).await;
    }

    /// Closes every connection.
    pub async fn hang_up(&self) {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        for connection in connections {
            let _ = connection.close().await;
        }
    }

    /// Waits until `count` calls have arrived.
    pub async fn wait_for_calls(&self, count: usize) {
        while self.calls.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for FakeSystemd {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// What connections share.
#[derive(Clone)]
struct Recorded {
    scenario: Arc<Mutex<Scenario>>,
    calls: Arc<Mutex<Vec<String>>>,
    rules: Arc<Mutex<Vec<String>>>,
}

async fn accept(listener: UnixListener, recorded: Recorded, connections: Arc<Mutex<Vec<Connection>>>) {
    let mut number = 41;
    while let Ok((stream, _)) = listener.accept().await {
        number += 1;
        let (recorded, connections) = (recorded.clone(), connections.clone());
        tokio::spawn(async move {
            let builder =
                Builder::unix_stream(stream.into_std().unwrap()).server(zbus::Guid::generate()).p2p();
            let connection = builder.build().await.unwrap();
            connections.lock().unwrap().push(connection.clone());
            let mut messages = MessageStream::from(&connection);
            while let Some(Ok(message)) = messages.next().await {
                if message.message_type() == Type::MethodCall {
                    answer(&connection, number, &message, &recorded).await;
                }
            }
        });
    }
}

async fn answer(connection: &Connection, number: u32, call: &Message, recorded: &Recorded) {
    let Recorded { scenario, calls, rules } = recorded;
    let header = call.header();
    let interface = header.interface().map(|name| name.to_string()).unwrap_or_default();
    let member = header.member().unwrap().to_string();
    let path = header.path().unwrap().to_string();
    if interface == "org.freedesktop.DBus" {
        let rule = || call.body().deserialize::<String>().unwrap();
        match member.as_str() {
            "AddMatch" => rules.lock().unwrap().push(rule()),
            "RemoveMatch" => rules.lock().unwrap().retain(|known| *known != rule()),
            _ => {}
        }
        let reply = match member.as_str() {
            "Hello" => connection.reply(&header, &format!(":1.{number}")).await,
            "GetNameOwner" => connection.reply(&header, &SYSTEMD).await,
            _ => connection.reply(&header, &()).await,
        };
        reply.unwrap();
        return;
    }
    assert_eq!(header.destination().unwrap().as_str(), "org.freedesktop.systemd1");
    let scenario = scenario.lock().unwrap().clone();
    let argument: String = match member.as_str() {
        "Get" => call.body().deserialize::<(&str, &str)>().unwrap().1.to_owned(),
        "RestartUnit" => call.body().deserialize::<(&str, &str)>().unwrap().0.to_owned(),
        _ => String::new(),
    };
    let quiet = header.primary().flags().contains(Flags::NO_REPLY_EXPECTED);
    let how = if quiet { " quietly" } else { "" };
    let argument = if argument.is_empty() { argument } else { format!("({argument})") };
    calls.lock().unwrap().push(format!("{member}{argument}{how}"));
    if scenario.hang || quiet {
        return;
    }
    let refuse = async |name: &str| connection.reply_error(&header, name, &"in words").await.unwrap();
    if let Some(name) = &scenario.refuse {
        return refuse(name).await;
    }
    if scenario.garble {
        return connection.reply(&header, &"garbled").await.unwrap();
    }
    let digits: String = scenario.version.chars().take_while(char::is_ascii_digit).collect();
    let version: u32 = digits.parse().unwrap();
    let unit = path.strip_prefix("/org/freedesktop/systemd1/unit/").and_then(|label| {
        let known = scenario.units.get(label).map(|(_, scope)| scope.clone());
        known.or_else(|| scenario.load_on_demand.then(FakeScope::default))
    });
    let root = ObjectPath::try_from("/").unwrap();
    let listed: Vec<_> = scenario
        .units
        .iter()
        .map(|(_, (name, _))| {
            let at = ObjectPath::try_from("/org/freedesktop/systemd1/unit/x").unwrap();
            (name.clone(), "", "loaded", "active", "running", "", at, 0_u32, "", root.clone())
        })
        .collect();
    let sent = match (member.as_str(), unit) {
        ("Get", _) if path == MANAGER_PATH => {
            connection.reply(&header, &Variant::from(scenario.version.as_str())).await
        }
        ("Get", _) if path == JOB && scenario.job_stays => {
            connection.reply(&header, &Variant::from("running")).await
        }
        ("Get", Some(_)) if argument == "(ActiveState)" => {
            let asked = calls.lock().unwrap().iter().filter(|call| *call == "Get(ActiveState)").count();
            let ended = scenario.ends_after.is_some_and(|after| asked > after);
            let state = if ended { "activating" } else { scenario.active_state.as_str() };
            connection.reply(&header, &Variant::from(state)).await
        }
        ("Get", Some(_)) if argument == "(Type)" => {
            let kind = if scenario.kind.is_empty() { "notify" } else { &scenario.kind };
            connection.reply(&header, &Variant::from(kind)).await
        }
        ("Get", Some(_)) if argument == "(ExecMainStartTimestamp)" => {
            connection.reply(&header, &Variant::from(scenario.started)).await
        }
        ("RestartUnit", _) => connection.reply(&header, &ObjectPath::try_from(JOB).unwrap()).await,
        ("Get" | "GetAll", None) => return refuse("org.freedesktop.DBus.Error.UnknownObject").await,
        ("GetAll", Some(scope)) => connection.reply(&header, &properties(version, scope)).await,
        ("Subscribe", _) if scenario.already_subscribed => {
            return refuse("org.freedesktop.systemd1.AlreadySubscribed").await;
        }
        ("Subscribe" | "Unsubscribe", _) => connection.reply(&header, &()).await,
        ("ListUnitsByPatterns", _) if version >= 230 => {
            let (states, patterns): (Vec<String>, Vec<String>) = call.body().deserialize().unwrap();
            assert!(states.is_empty());
            let matches = |name: &str| {
                patterns.iter().any(|pattern| {
                    let (before, after) = pattern.split_once('*').unwrap();
                    name.starts_with(before) && name.ends_with(after)
                })
            };
            let listed: Vec<_> = listed.into_iter().filter(|unit| matches(&unit.0)).collect();
            connection.reply(&header, &listed).await
        }
        ("ListUnits", _) => connection.reply(&header, &listed).await,
        _ => return refuse("org.freedesktop.DBus.Error.UnknownMethod").await,
    };
    sent.unwrap();
}

fn properties(version: u32, scope: FakeScope) -> HashMap<&'static str, Variant<'static>> {
    let mut all = HashMap::from([
        ("ControlGroup", Variant::from(scope.control_group)),
        ("Delegate", Variant::from(scope.delegate)),
        ("Slice", Variant::from("kubepods.slice")),
        ("Controller", Variant::from(":1.9")),
        ("TasksMax", Variant::from(u64::MAX)),
    ]);
    if version >= 251 {
        all.insert("ControlGroupId", Variant::from(scope.control_group_id));
    }
    if version >= 254 {
        all.insert("DelegateSubgroup", Variant::from("payload"));
    }
    all
}
