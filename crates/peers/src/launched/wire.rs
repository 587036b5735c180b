//! The messages between plugin and agent. Unknown message kinds and fields are ignored; an unknown enum value
//! makes only its own message unreadable.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::clock::Stamp;
use usernsd_domain::container::{CgroupMount, CriId, PodRef};
use usernsd_domain::delegation::{KnownLimits, Limits};
use usernsd_domain::guard::Verdict;
use usernsd_domain::idmap::{HostId, IdMap};
use usernsd_domain::isolation::Occasion;
use usernsd_domain::record::{
    Action, Change, Outcome, OutcomeName, Record, Source, UserNamespace, UserNamespaceMode,
};
use usernsd_domain::report::{Adjusted, ContainerNames, Created, Done, Inspected, NotGranted, Report};
use usernsd_domain::words::Word as _;

/// Version of these messages. It is raised when one of them changes its meaning; a side that meets a newer
/// version continues with the messages that it recognises.
pub const PROTOCOL: u32 = 1;

/// The plugin's description of itself: its first message, sent again whenever it changes.
#[derive(Default, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The plugin's [`PROTOCOL`].
    pub protocol: u32,
    /// Version of usernsd.
    pub version: String,
    /// The plugin's process ID.
    pub pid: u32,
    /// The plugin's start in nanoseconds since 1970. Together with it, a report's number is unique.
    pub instance: u64,
    /// The machine's uptime at the plugin's start, in microseconds; `None` if it cannot be read, and from earlier
    /// versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_us: Option<u64>,
    /// The runtime's name, `containerd` or `cri-o`.
    pub runtime: String,
    /// The runtime's version.
    pub runtime_version: String,
    /// A digest of the settings in use.
    pub settings: String,
    /// Problems with the settings or the node, one sentence each.
    pub problems: Vec<String>,
    /// Number of reports dropped so far, because no agent fetched them.
    pub dropped: u64,
}

/// A message from the plugin to the agent.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most messages are the large one")]
pub enum FromPlugin {
    /// The plugin's description of itself.
    Hello(Hello),
    /// A change that the plugin made to a container.
    Report(Report),
    /// A report of another version that cannot be read here; holds its number.
    Unreadable(u64),
    /// The answer to a ping.
    Pong {
        /// The number of the ping.
        number: u64,
        /// For how long the runtime's current request has been in work.
        busy: Duration,
    },
    /// Another agent gets the reports from now on.
    Replaced,
    /// The reports go to this agent (again).
    Resumed,
    /// A kind that is not recognised.
    Unknown(String),
}

/// A message from the agent to the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FromAgent {
    /// The agent's first message: from now on, reports go to this agent.
    Hello {
        /// The agent's [`PROTOCOL`].
        #[serde(default)]
        protocol: u32,
        /// Version of usernsd.
        #[serde(default)]
        version: String,
    },
    /// Acknowledges all reports up to this number: they are recorded.
    Seen {
        /// The last acknowledged report.
        number: u64,
    },
    /// Asks for a [`FromPlugin::Pong`].
    Ping {
        /// Any number; the answer repeats it.
        number: u64,
    },
    /// A kind that is not recognised.
    #[serde(other)]
    Unknown,
}

#[derive(Serialize, Deserialize)]
struct PodWire {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Serialize, Deserialize)]
struct ReportWire {
    number: u64,
    at_us: u64,
    /// The machine's uptime at that time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    up_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    created: Option<CreatedWire>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    looked: Option<InspectedWire>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    ended: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pod_ended: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CreatedWire {
    id: String,
    name: String,
    pod: PodWire,
    isolation: String,
    #[serde(default)]
    refused: bool,
    #[serde(default)]
    unanswered: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    adjusted: Option<AdjustedWire>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    ungranted: Option<UngrantedWire>,
}

#[derive(Serialize, Deserialize)]
struct AdjustedWire {
    mounts: usize,
    cgroup_namespace: bool,
}

#[derive(Serialize, Deserialize)]
struct UngrantedWire {
    reason: String,
    sentence: String,
}

#[derive(Serialize, Deserialize)]
struct InspectedWire {
    id: String,
    sandbox_id: String,
    name: String,
    pod: PodWire,
    pid: Option<u32>,
    uid_map: Option<String>,
    gid_map: Option<String>,
    user_namespace: Option<u64>,
    #[serde(default)]
    in_hosts: bool,
    mode: String,
    mount: Option<String>,
    cgroup: Option<String>,
    inode: Option<u64>,
    owner: Option<u32>,
    limits: Option<(u32, u32)>,
    /// They were read, and one is not set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unlimited: bool,
    outcome: String,
    error: Option<String>,
    isolation: String,
    #[serde(default)]
    missed: bool,
    changes: Vec<ChangeWire>,
    failed: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    refused: bool,
    #[serde(default)]
    unanswered: bool,
    after_us: u64,
    took_us: u64,
}

#[derive(Serialize, Deserialize)]
struct ChangeWire {
    action: String,
    path: String,
    from: String,
    to: String,
}

// === impl FromAgent ===

impl FromAgent {
    /// Reads a line. A line that is not a message becomes [`FromAgent::Unknown`].
    #[must_use]
    pub fn parse(line: &str) -> FromAgent {
        serde_json::from_str(line).unwrap_or(FromAgent::Unknown)
    }

    /// The message as a line, including the line end.
    #[must_use]
    pub fn render(&self) -> String {
        line(serde_json::to_value(self).unwrap_or_default())
    }
}

// === impl Hello ===

impl Hello {
    /// When the plugin started; `None` if that cannot be represented.
    #[must_use]
    pub fn started(&self) -> Option<Stamp> {
        let wall = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(self.instance))?;
        Some(Stamp { wall, uptime: self.up_us.map(Duration::from_micros) })
    }

    /// Sets the time of the plugin's start, which is now.
    #[must_use]
    pub fn starting(self, now: Stamp) -> Hello {
        let since = now.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let instance = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Hello { instance, up_us: now.uptime.map(micros), ..self }
    }
}

// === impl FromPlugin ===

impl FromPlugin {
    /// Reads a line. A line that is not a message becomes [`FromPlugin::Unknown`].
    #[must_use]
    pub fn parse(line: &str) -> FromPlugin {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            return FromPlugin::Unknown("no JSON".to_owned());
        };
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or_default();
        match kind.as_str() {
            "hello" => match serde_json::from_value(value) {
                Ok(hello) => FromPlugin::Hello(hello),
                Err(_) => FromPlugin::Unknown(kind),
            },
            "report" => {
                let of = number("number");
                let report: Option<ReportWire> = serde_json::from_value(value).ok();
                report.and_then(read).map_or(FromPlugin::Unreadable(of), FromPlugin::Report)
            }
            "pong" => {
                let busy = Duration::from_millis(number("busy_ms"));
                FromPlugin::Pong { number: number("number"), busy }
            }
            "replaced" => FromPlugin::Replaced,
            "resumed" => FromPlugin::Resumed,
            _ => FromPlugin::Unknown(kind),
        }
    }

    /// The message as a line, including the line end; empty for a kind that only reading can yield.
    #[must_use]
    pub fn render(&self) -> String {
        match self {
            FromPlugin::Hello(hello) => tagged("hello", serde_json::to_value(hello)),
            FromPlugin::Report(report) => tagged("report", serde_json::to_value(write(report))),
            FromPlugin::Pong { number, busy } => {
                let busy = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
                line(serde_json::json!({"kind": "pong", "number": number, "busy_ms": busy}))
            }
            FromPlugin::Replaced => line(serde_json::json!({"kind": "replaced"})),
            FromPlugin::Resumed => line(serde_json::json!({"kind": "resumed"})),
            FromPlugin::Unreadable(_) | FromPlugin::Unknown(_) => String::new(),
        }
    }
}

fn tagged(kind: &str, value: serde_json::Result<Value>) -> String {
    let mut value = value.unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("kind".to_owned(), Value::from(kind));
    }
    line(value)
}

fn line(value: Value) -> String {
    format!("{value}\n")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn write(report: &Report) -> ReportWire {
    let at = report.at.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut wire = ReportWire {
        number: report.number,
        at_us: micros(at),
        up_us: report.at.uptime.map(micros),
        created: None,
        looked: None,
        ended: None,
        pod_ended: None,
    };
    match &report.done {
        Done::Created(created) => wire.created = Some(write_created(created)),
        Done::Inspected(inspected) => wire.looked = Some(write_inspected(inspected)),
        Done::Ended(id) => wire.ended = Some(id.to_string()),
        Done::PodEnded(id) => wire.pod_ended = Some(id.to_string()),
    }
    wire
}

/// `None` if this version cannot read the report.
fn read(wire: ReportWire) -> Option<Report> {
    let ReportWire { number, at_us, up_us, created, looked, ended, pod_ended } = wire;
    let done = match (created, looked, ended, pod_ended) {
        (Some(created), ..) => Done::Created(read_created(created)?),
        (_, Some(looked), ..) => Done::Inspected(read_inspected(looked)?),
        (_, _, Some(id), _) => Done::Ended(CriId::parse(&id).ok()?),
        (.., Some(id)) => Done::PodEnded(CriId::parse(&id).ok()?),
        _ => return None,
    };
    let wall = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(at_us))?;
    let at = Stamp { wall, uptime: up_us.map(Duration::from_micros) };
    Some(Report { number, at, done })
}

fn write_pod(pod: &PodRef) -> PodWire {
    PodWire { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}

fn read_pod(pod: PodWire) -> PodRef {
    PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid }
}

fn write_created(created: &Created) -> CreatedWire {
    CreatedWire {
        id: created.container.id.to_string(),
        name: created.container.name.clone(),
        pod: write_pod(&created.container.pod),
        isolation: created.isolation.name().to_owned(),
        refused: created.refused,
        unanswered: created.unanswered,
        adjusted: created
            .adjusted
            .map(|Adjusted { mounts, cgroup_namespace }| AdjustedWire { mounts, cgroup_namespace }),
        ungranted: created.ungranted.as_ref().map(|ungranted| UngrantedWire {
            reason: ungranted.reason.clone(),
            sentence: ungranted.sentence.clone(),
        }),
    }
}

fn read_created(wire: CreatedWire) -> Option<Created> {
    Some(Created {
        container: ContainerNames {
            id: CriId::parse(&wire.id).ok()?,
            name: wire.name,
            pod: read_pod(wire.pod),
        },
        isolation: Verdict::named(&wire.isolation)?,
        refused: wire.refused,
        unanswered: wire.unanswered,
        adjusted: wire
            .adjusted
            .map(|AdjustedWire { mounts, cgroup_namespace }| Adjusted { mounts, cgroup_namespace }),
        ungranted: wire.ungranted.map(|UngrantedWire { reason, sentence }| NotGranted { reason, sentence }),
    })
}

fn write_inspected(inspected: &Inspected) -> InspectedWire {
    let record = &inspected.record;
    InspectedWire {
        id: record.id.to_string(),
        sandbox_id: record.sandbox_id.clone(),
        name: record.name.clone(),
        pod: write_pod(&record.pod),
        pid: record.pid,
        uid_map: record.uid_map.as_ref().map(IdMap::to_string),
        gid_map: record.gid_map.as_ref().map(IdMap::to_string),
        user_namespace: record.user_namespace.and_then(|namespace| namespace.inode),
        in_hosts: record.user_namespace.is_some_and(|namespace| namespace.is_hosts),
        mode: record.mode.name().to_owned(),
        mount: record.mount.map(|mount| mount.name().to_owned()),
        cgroup: record.cgroup.as_ref().map(CgroupPath::to_string),
        inode: record.inode,
        owner: record.owner.map(|owner| owner.0),
        limits: record.limits.set().map(|limits| (limits.descendants, limits.depth)),
        unlimited: record.limits == KnownLimits::Missing,
        outcome: record.outcome.name().to_owned(),
        error: match &record.outcome {
            Outcome::Failed(error) => Some(error.clone()),
            _ => None,
        },
        isolation: record.isolation.name().to_owned(),
        missed: record.missed,
        changes: inspected
            .changes
            .iter()
            .map(|change| ChangeWire {
                action: change.action.name().to_owned(),
                path: change.path.to_string(),
                from: change.from.clone(),
                to: change.to.clone(),
            })
            .collect(),
        failed: inspected.failed.map(|action| action.name().to_owned()),
        detail: inspected.detail.clone(),
        refused: inspected.refused,
        unanswered: inspected.unanswered,
        after_us: micros(inspected.after),
        took_us: micros(inspected.took),
    }
}

fn read_inspected(wire: InspectedWire) -> Option<Inspected> {
    let outcome = match OutcomeName::named(&wire.outcome)? {
        OutcomeName::Delegated => Outcome::Delegated,
        OutcomeName::AlreadyRight => Outcome::AlreadyRight,
        OutcomeName::Failed => Outcome::Failed(wire.error.unwrap_or_default()),
        OutcomeName::Skipped(skip) => Outcome::Skipped(skip),
    };
    let mount = |mount: String| CgroupMount::named(&mount);
    let change = |change: ChangeWire| {
        Some(Change {
            action: Action::named(&change.action)?,
            path: CgroupPath::parse(&change.path).ok()?,
            from: change.from,
            to: change.to,
        })
    };
    let record = Record {
        id: CriId::parse(&wire.id).ok()?,
        sandbox_id: wire.sandbox_id,
        name: wire.name,
        pod: read_pod(wire.pod),
        pid: wire.pid,
        uid_map: maybe(wire.uid_map, map)?,
        gid_map: maybe(wire.gid_map, map)?,
        user_namespace: wire
            .user_namespace
            .map(|inode| UserNamespace { inode: Some(inode), is_hosts: wire.in_hosts }),
        mode: UserNamespaceMode::named(&wire.mode)?,
        mount: maybe(wire.mount, mount)?,
        cgroup: maybe(wire.cgroup, |path| CgroupPath::parse(&path).ok())?,
        inode: wire.inode,
        owner: wire.owner.map(HostId),
        limits: match wire.limits {
            Some((descendants, depth)) => KnownLimits::Set(Limits { descendants, depth }),
            None if wire.unlimited => KnownLimits::Missing,
            None => KnownLimits::Unread,
        },
        outcome,
        source: Source::Nri,
        isolation: Verdict::named(&wire.isolation)?,
        // The plugin inspects a container only at its start.
        stage: Occasion::NriStart.stage(),
        missed: wire.missed,
    };
    Some(Inspected {
        record,
        changes: wire.changes.into_iter().map(change).collect::<Option<_>>()?,
        failed: maybe(wire.failed, |name| Action::named(&name))?,
        detail: wire.detail,
        refused: wire.refused,
        unanswered: wire.unanswered,
        after: Duration::from_micros(wire.after_us),
        took: Duration::from_micros(wire.took_us),
    })
}

/// An absent value stays absent (`Some(None)`); a value that cannot be read makes the whole `None`.
#[expect(clippy::option_option, reason = "absent is not unreadable")]
fn maybe<A, B>(value: Option<A>, read: impl FnOnce(A) -> Option<B>) -> Option<Option<B>> {
    match value {
        None => Some(None),
        Some(value) => read(value).map(Some),
    }
}

/// Parses an ID map in the form in which [`IdMap`] is displayed.
fn map(text: String) -> Option<IdMap> {
    IdMap::parse(&text.replace(':', " ").replace(',', "\n")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use usernsd_domain::delegation::Skip;

    fn report(done: Done) -> FromPlugin {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_166_123_000_001);
        let at = Stamp { wall, uptime: Some(Duration::from_micros(77)) };
        FromPlugin::Report(Report { number: 7, at, done })
    }

    fn inspected(outcome: Outcome) -> Inspected {
        let path = CgroupPath::parse("/kubepods.slice/x.scope").unwrap();
        Inspected {
            failed: matches!(outcome, Outcome::Failed(_)).then_some(Action::SetLimits),
            record: Record {
                uid_map: IdMap::parse("0 200000 65536\n65536 1 1").ok(),
                gid_map: IdMap::parse("0 200000 65536").ok(),
                user_namespace: Some(UserNamespace { inode: Some(4_026_531_837), is_hosts: true }),
                mount: Some(CgroupMount::ReadWrite),
                cgroup: Some(path.clone()),
                inode: Some(99),
                owner: Some(HostId(200_000)),
                limits: KnownLimits::Set(Limits::DEFAULT),
                pid: Some(12),
                outcome,
                isolation: Verdict::Lost,
                missed: true,
                ..Record::bare(CriId::parse("c1").unwrap())
            },
            changes: vec![Change {
                action: Action::ChownCgroup,
                path,
                from: "0".into(),
                to: "200000".into(),
            }],
            detail: Some("why \"so\"\n".into()),
            refused: true,
            unanswered: true,
            after: Duration::from_micros(12),
            took: Duration::from_micros(13),
        }
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let id = CriId::parse("c1").unwrap();
        let created = Created {
            container: ContainerNames { id: id.clone(), name: "n".into(), pod: PodRef::default() },
            isolation: Verdict::Good,
            refused: false,
            unanswered: false,
            adjusted: Some(Adjusted { mounts: 3, cgroup_namespace: true }),
            ungranted: Some(NotGranted { reason: "r".into(), sentence: "s".into() }),
        };
        let outcomes = [Outcome::Delegated, Outcome::AlreadyRight, Outcome::Failed("EPERM".into())];
        let outcomes = outcomes.into_iter().chain(Skip::ALL.map(Outcome::Skipped));
        let mut messages: Vec<FromPlugin> =
            outcomes.map(|outcome| report(Done::Inspected(inspected(outcome)))).collect();
        for limits in [KnownLimits::Missing, KnownLimits::Unread] {
            let Inspected { record, .. } = inspected(Outcome::AlreadyRight);
            let record = Record { limits, ..record };
            messages.push(report(Done::Inspected(Inspected { record, ..inspected(Outcome::AlreadyRight) })));
        }
        messages.extend([
            FromPlugin::Hello(Hello {
                protocol: 1,
                pid: 3,
                instance: u64::MAX,
                up_us: Some(5),
                ..Hello::default()
            }),
            report(Done::Created(created)),
            report(Done::Ended(id.clone())),
            report(Done::PodEnded(id)),
            FromPlugin::Pong { number: 4, busy: Duration::from_millis(5) },
            FromPlugin::Replaced,
            FromPlugin::Resumed,
        ]);
        for message in messages {
            let line = message.render();
            assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line}");
            assert_eq!(FromPlugin::parse(&line), message, "{line}");
        }
        for message in [
            FromAgent::Hello { protocol: 1, version: "0.1.0".into() },
            FromAgent::Seen { number: 9 },
            FromAgent::Ping { number: 1 },
        ] {
            assert_eq!(FromAgent::parse(&message.render()), message);
        }
    }

    #[test]
    fn another_versions_kinds_fields_and_names_are_skipped() {
        assert_eq!(FromPlugin::parse(r#"{"kind":"dance","x":1}"#), FromPlugin::Unknown("dance".into()));
        assert_eq!(FromPlugin::parse("]"), FromPlugin::Unknown("no JSON".into()));
        assert_eq!(FromAgent::parse(r#"{"kind":"dance"}"#), FromAgent::Unknown);
        assert_eq!(FromAgent::parse("]"), FromAgent::Unknown);
        assert_eq!(
            FromAgent::parse(r#"{"kind":"hello","protocol":9,"colour":"red"}"#),
            FromAgent::Hello { protocol: 9, version: String::new() }
        );
        let hello = FromPlugin::parse(r#"{"kind":"hello","protocol":9,"colour":"red","pid":5}"#);
        assert_eq!(hello, FromPlugin::Hello(Hello { protocol: 9, pid: 5, ..Hello::default() }));
        let line = report(Done::Inspected(inspected(Outcome::Delegated))).render();
        let more = line.replacen("{", r#"{"colour":"red","#, 1);
        assert_eq!(FromPlugin::parse(&more), FromPlugin::parse(&line));
        // A report with a word of a newer version is unreadable, but its number is known and acknowledged.
        for (word, other) in [("delegated", "danced"), ("chown_cgroup", "dance"), ("\"lost\"", "\"odd\"")] {
            assert_eq!(FromPlugin::parse(&line.replace(word, other)), FromPlugin::Unreadable(7));
        }
        let newer = r#"{"kind":"report","number":8,"at_us":1,"danced":{}}"#;
        assert_eq!(FromPlugin::parse(newer), FromPlugin::Unreadable(8));
    }
}
