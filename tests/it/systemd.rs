//! The systemd client against a fake that answers like an old and like a new systemd.

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

use crate::fakes::systemd::{FakeScope, FakeSystemd, SYSTEMD, Scenario};
use futures_util::{Stream, StreamExt};
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::unit::Scope;
use usernsd_peers::systemd::{Systemd, SystemdError, SystemdEvent};

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The client's deadline in tests of that deadline.
const SOON: Duration = Duration::from_millis(200);
/// Time limit for answers that must arrive, on a machine however busy.
const LIMIT: Duration = Duration::from_secs(60);
const CRIO: &str = "crio-2d6f.scope";

/// The fake, and the client on its socket.
struct Rig {
    _directory: tempfile::TempDir,
    fake: FakeSystemd,
    systemd: Systemd,
}

async fn rig(scenario: Scenario) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bus");
    let fake = FakeSystemd::start(&socket, scenario);
    let systemd = Systemd::connect(&socket).await.unwrap();
    Rig { _directory: directory, fake, systemd }
}

/// RHEL 8: no cgroup ID, no subgroup.
fn old() -> Scenario {
    Scenario { version: "239 (239-82.el8)".into(), ..units() }
}

fn new() -> Scenario {
    Scenario { version: "262.1-1".into(), ..units() }
}

fn units() -> Scenario {
    let scope = FakeScope {
        control_group: format!("/kubepods.slice/{CRIO}"),
        control_group_id: 63_466,
        delegate: true,
    };
    let names = [
        ("crio_2d2d6f_2escope", CRIO),
        ("crio_2dconmon_2d2d6f_2escope", "crio-conmon-2d6f.scope"),
        ("cri_2dcontainerd_2d2d6f_2escope", "cri-containerd-2d6f.scope"),
        ("crio_2eservice", "crio.service"),
        ("init_2escope", "init.scope"),
    ];
    Scenario {
        units: names.map(|(label, name)| (label.to_owned(), (name.to_owned(), scope.clone()))).into(),
        ..Scenario::default()
    }
}

async fn next(events: &mut (impl Stream<Item = SystemdEvent> + Unpin)) -> Option<SystemdEvent> {
    tokio::time::timeout(LIMIT, events.next()).await.unwrap()
}

fn done(unit: &str) -> Option<SystemdEvent> {
    Some(SystemdEvent::JobDone { unit: unit.to_owned() })
}

#[tokio::test]
async fn the_version_is_parsed() {
    for (text, want) in [("239 (239-82.el8)", 239), ("252.38-1~deb12u1", 252), ("262.1-1", 262)] {
        let rig = rig(Scenario { version: text.into(), ..Scenario::default() }).await;
        assert_eq!(rig.systemd.version().await.unwrap(), want, "{text}");
    }
}

#[tokio::test]
async fn a_scope_of_an_old_and_of_a_new_systemd_is_read() {
    for (scenario, id) in [(old(), None), (new(), Some(63_466))] {
        let rig = rig(scenario).await;
        let want = Scope {
            control_group: CgroupPath::parse(&format!("/kubepods.slice/{CRIO}")).unwrap(),
            control_group_id: id,
            delegate: true,
        };
        assert_eq!(rig.systemd.scope(CRIO).await.unwrap(), Some(want));
        // One call, without GetUnit.
        assert_eq!(rig.fake.calls(), ["GetAll"]);
    }
}

#[tokio::test]
async fn a_unit_without_cgroup_is_no_scope() {
    let rig = rig(new()).await;
    let set = |change: fn(&mut Scenario)| change(&mut rig.fake.scenario.lock().unwrap());
    assert_eq!(rig.systemd.scope("crio-gone.scope").await, Ok(None), "UnknownObject");
    for name in ["org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.DBus.Error.UnknownInterface"] {
        rig.fake.scenario.lock().unwrap().refuse = Some(name.into());
        assert_eq!(rig.systemd.scope("crio-gone.scope").await, Ok(None), "{name}");
    }
    set(|scenario| {
        scenario.refuse = None;
        scenario.load_on_demand = true;
    });
    assert_eq!(rig.systemd.scope("crio-gone.scope").await, Ok(None), "loaded as not-found");
    set(|scenario| scenario.units.get_mut("crio_2d2d6f_2escope").unwrap().1.control_group.clear());
    assert_eq!(rig.systemd.scope(CRIO).await, Ok(None), "UnitNew, before its job ran");
}

#[tokio::test]
async fn an_invalid_scope_is_an_error() {
    let rig = rig(new()).await;
    let set = |change: fn(&mut FakeScope)| {
        change(&mut rig.fake.scenario.lock().unwrap().units.get_mut("crio_2d2d6f_2escope").unwrap().1);
    };
    set(|scope| scope.control_group = "/a/../b".into());
    let error = rig.systemd.scope(CRIO).await.unwrap_err();
    let want = "GetAll Scope: unreadable answer: \"/a/../b\" has a component that is no cgroup name";
    assert_eq!(error.to_string(), want);
    rig.fake.scenario.lock().unwrap().garble = true;
    for error in [
        rig.systemd.scope(CRIO).await.unwrap_err(),
        rig.systemd.version().await.unwrap_err(),
        rig.systemd.scopes().await.unwrap_err(),
    ] {
        assert!(matches!(error, SystemdError::Answer { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_scopes_of_the_runtime_are_listed() {
    let ancient = Scenario { version: "229".into(), ..units() };
    for (scenario, calls) in [
        (new(), vec!["ListUnitsByPatterns", "ListUnitsByPatterns"]),
        // Asked once, then cached.
        (ancient, vec!["ListUnitsByPatterns", "ListUnits", "ListUnits"]),
    ] {
        let rig = rig(scenario).await;
        for _ in 0..2 {
            let mut scopes = rig.systemd.scopes().await.unwrap();
            scopes.sort();
            assert_eq!(scopes, ["cri-containerd-2d6f.scope", CRIO, "crio-conmon-2d6f.scope"]);
        }
        assert_eq!(rig.fake.calls(), calls);
    }
}

#[tokio::test]
async fn an_error_names_the_call_and_its_cause() {
    let rig = rig(new()).await;
    let (_events, subscription) = rig.systemd.events().await.unwrap();
    rig.fake.scenario.lock().unwrap().refuse = Some("org.freedesktop.DBus.Error.AccessDenied".into());
    for (error, call) in [
        (rig.systemd.version().await.unwrap_err(), "Get Version"),
        (rig.systemd.scopes().await.unwrap_err(), "ListUnitsByPatterns"),
        (rig.systemd.scope(CRIO).await.unwrap_err(), "GetAll Scope"),
        (subscription.switch_on().await.unwrap_err(), "Subscribe"),
        (subscription.switch_off().await.unwrap_err(), "Unsubscribe"),
    ] {
        assert_eq!(error.to_string(), format!("{call}: in words (org.freedesktop.DBus.Error.AccessDenied)"));
    }
    rig.fake.hang_up().await;
    let error = rig.systemd.version().await.unwrap_err();
    assert!(matches!(error, SystemdError::Broken { call: "Get Version", .. }), "{error}");
}

#[tokio::test]
async fn a_call_to_a_systemd_that_hangs_is_given_up() {
    let rig = rig(Scenario { hang: true, ..new() }).await;
    let systemd = rig.systemd.with_deadline(SOON);
    let (_events, subscription) = systemd.events().await.unwrap();
    let both =
        async { (systemd.scope(CRIO).await.unwrap_err(), subscription.switch_on().await.unwrap_err()) };
    let (scope, events) = tokio::time::timeout(LIMIT, both).await.unwrap();
    for (error, call) in [(scope, "GetAll Scope"), (events, "Subscribe")] {
        assert_eq!(error.to_string(), format!("{call}: no answer from systemd within 200ms"));
    }
}

#[tokio::test]
async fn a_dead_bus_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bus");
    let error = Systemd::connect(&socket).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot reach the system bus at {}: No such file or directory (os error 2); check that dbus runs, \
             and in a pod mount the socket's directory",
            socket.display()
        )
    );
}

/// The events of systemd, with its signals switched on.
async fn subscribed(systemd: &Systemd) -> Pin<Box<impl Stream<Item = SystemdEvent> + use<>>> {
    let (events, subscription) = systemd.events().await.unwrap();
    subscription.switch_on().await.unwrap();
    Box::pin(events)
}

#[tokio::test]
async fn signals_about_scopes_arrive_in_order() {
    let rig = rig(new()).await;
    let mut events = subscribed(&rig.systemd).await;
    rig.fake.job_removed("run-x.mount", "done").await;
    rig.fake.job_removed("crio-1.scope", "failed").await;
    rig.fake.job_removed("crio-1.scope", "done").await;
    rig.fake.unit_removed("run-x.mount").await;
    rig.fake.unit_removed("crio-0.scope").await;
    rig.fake.signal(SYSTEMD, MANAGER, "Reloading", &true).await;
    rig.fake.signal(SYSTEMD, MANAGER, "JobRemoved", &"garbled").await;
    rig.fake.signal(SYSTEMD, MANAGER, "UnitNew", &"x.scope").await;
    rig.fake.signal(SYSTEMD, MANAGER, "Reloading", &false).await;
    rig.fake.job_removed("cri-containerd-2.scope", "done").await;
    assert_eq!(next(&mut events).await, done("crio-1.scope"));
    assert_eq!(next(&mut events).await, Some(SystemdEvent::UnitRemoved { unit: "crio-0.scope".into() }));
    assert_eq!(next(&mut events).await, Some(SystemdEvent::Reloading(true)));
    assert_eq!(next(&mut events).await, Some(SystemdEvent::Reloading(false)));
    assert_eq!(next(&mut events).await, done("cri-containerd-2.scope"));
    rig.fake.hang_up().await;
    assert_eq!(next(&mut events).await, None, "the connection is lost");
}

#[tokio::test]
async fn signals_of_other_senders_are_ignored() {
    let rig = rig(new()).await;
    let mut events = subscribed(&rig.systemd).await;
    let path = zbus::ObjectPath::try_from("/a").unwrap();
    rig.fake.signal(":1.66", MANAGER, "JobRemoved", &(1_u32, path, "crio-evil.scope", "done")).await;
    let change = ("org.freedesktop.systemd1", SYSTEMD, ":1.66");
    rig.fake.signal(":1.66", "org.freedesktop.DBus", "NameOwnerChanged", &change).await;
    let other = ("org.freedesktop.login1", ":1.2", ":1.3");
    rig.fake.signal("org.freedesktop.DBus", "org.freedesktop.DBus", "NameOwnerChanged", &other).await;
    rig.fake.job_removed("crio-1.scope", "done").await;
    assert_eq!(next(&mut events).await, done("crio-1.scope"));
}

/// The memory of this process, in MiB: now, and at its highest.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_end_matches("kB").trim().parse::<u64>().unwrap() >> 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Every user of the node may send signals of up to 32 MiB over the system bus, and the agent's container has 128 MiB.
#[tokio::test]
async fn a_flood_of_large_signals_takes_no_memory_and_loses_none_of_systemds() {
    const EACH: usize = 4 << 20;
    let rig = rig(new()).await;
    // Its events are not taken in the meantime, so that everything that is read is queued.
    let mut events = subscribed(&rig.systemd).await;
    let path = zbus::ObjectPath::try_from("/a").unwrap();
    let unit = "x".repeat(EACH) + ".scope";
    let flood = async |count: usize| {
        for _ in 0..count {
            // A matching signal, from another sender and as if from systemd itself.
            for sender in [":1.66", SYSTEMD] {
                let body = (1_u32, path.clone(), unit.as_str(), "done");
                rig.fake.signal(sender, MANAGER, "JobRemoved", &body).await;
            }
        }
    };
    // The time that one of them takes in the fake.
    flood(1).await;
    rig.fake.job_removed("crio-1.scope", "done").await;
    let (now, before) = memory();
    flood(40).await;
    rig.fake.job_removed("crio-2.scope", "done").await;
    for unit in ["crio-1.scope", "crio-2.scope"] {
        assert_eq!(next(&mut events).await, done(unit));
    }
    // The connection for calls gets them too.
    assert_eq!(rig.systemd.version().await.unwrap(), 262);
    let (_, highest) = memory();
    // Unread, they would take 320 MiB.
    let most = before.max(now) + 160;
    assert!(highest < most, "{highest} MiB at the highest, {before} before");
}

#[tokio::test]
async fn a_reply_that_is_too_long_is_an_error_at_once_and_not_read() {
    let rig = rig(Scenario { version: "257".to_owned() + &"x".repeat(17 << 20), ..new() }).await;
    let error = rig.systemd.version().await.unwrap_err();
    assert!(matches!(error, SystemdError::Broken { call: "Get Version", .. }), "{error}");
    assert!(error.to_string().contains("bytes, of at most 16777216"), "{error}");
}

#[tokio::test]
async fn the_client_subscribes_again_after_a_reexec() {
    let rig = rig(new()).await;
    let mut events = subscribed(&rig.systemd).await;
    rig.fake.owner_changed(SYSTEMD, "").await;
    // The name has no owner now.
    rig.fake.job_removed("crio-0.scope", "done").await;
    rig.fake.owner_changed("", ":1.77").await;
    assert_eq!(next(&mut events).await, Some(SystemdEvent::Restarted));
    tokio::time::timeout(LIMIT, rig.fake.wait_for_calls(2)).await.unwrap();
    assert_eq!(rig.fake.calls(), ["Subscribe", "Subscribe quietly"]);
    rig.fake.job_removed("crio-0.scope", "done").await;
    let path = zbus::ObjectPath::try_from("/a").unwrap();
    rig.fake.signal(":1.77", MANAGER, "JobRemoved", &(1_u32, path, "crio-1.scope", "done")).await;
    assert_eq!(next(&mut events).await, done("crio-1.scope"));
}

#[tokio::test]
async fn signals_are_sent_only_while_they_are_switched_on() {
    let rig = rig(new()).await;
    let (events, subscription) = rig.systemd.events().await.unwrap();
    let mut events = Box::pin(events);
    let rules = |fake: &FakeSystemd| {
        fake.rules().iter().filter(|rule| rule.contains("org.freedesktop.systemd1.Manager")).count()
    };
    // A restart of systemd is seen all the same, and nobody subscribes with it.
    rig.fake.owner_changed("", SYSTEMD).await;
    assert_eq!(next(&mut events).await, Some(SystemdEvent::Restarted));
    assert_eq!((rules(&rig.fake), rig.fake.calls(), subscription.is_on()), (0, vec![], false));
    subscription.switch_on().await.unwrap();
    assert_eq!((rules(&rig.fake), subscription.is_on()), (3, true));
    rig.fake.job_removed("crio-1.scope", "done").await;
    assert_eq!(next(&mut events).await, done("crio-1.scope"));
    subscription.switch_off().await.unwrap();
    assert_eq!((rules(&rig.fake), rig.fake.calls()), (0, vec!["Subscribe".into(), "Unsubscribe".into()]));
    rig.fake.owner_changed("", SYSTEMD).await;
    assert_eq!(next(&mut events).await, Some(SystemdEvent::Restarted));
    assert_eq!(rig.fake.calls().len(), 2);
    // A systemd that has no subscription of it, because it was executed again, has nothing to end.
    subscription.switch_on().await.unwrap();
    rig.fake.scenario.lock().unwrap().refuse = Some("org.freedesktop.systemd1.NotSubscribed".into());
    subscription.switch_off().await.unwrap();
}

#[tokio::test]
async fn an_existing_subscription_is_accepted() {
    let rig = rig(Scenario { already_subscribed: true, ..new() }).await;
    let mut events = subscribed(&rig.systemd).await;
    rig.fake.job_removed("crio-1.scope", "done").await;
    assert_eq!(next(&mut events).await, done("crio-1.scope"));
}

#[tokio::test]
async fn calls_are_answered_while_signals_are_not_read() {
    let rig = rig(new()).await;
    let mut events = subscribed(&rig.systemd).await;
    // More than the queue holds; calls use another connection.
    let sent = Cell::new(0);
    let flood = async {
        loop {
            rig.fake.job_removed("crio-1.scope", "done").await;
            sent.set(sent.get() + 1);
        }
    };
    let ask = async {
        let mut asked = 0;
        // At some point, which varies, the bus no longer accepts signals.
        while asked < 50 || asked < 500 && sent.get() < 3000 {
            assert!(rig.systemd.scope(CRIO).await.unwrap().is_some());
            asked += 1;
        }
    };
    let both = async {
        tokio::select! {
            () = ask => {}
            () = flood => {}
        }
    };
    tokio::time::timeout(LIMIT, both).await.unwrap();
    assert!(rig.systemd.scope(CRIO).await.unwrap().is_some());
    assert!(sent.get() > 0);
    for _ in 0..sent.get().min(1024) {
        assert_eq!(next(&mut events).await, done("crio-1.scope"));
    }
}

/// Ends with the test, also if the test fails.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The match rules that a real bus accepts, and the signals that it forwards: from two consecutive owners of
/// systemd's name, and from a stranger who sends to the agent alone, as any user of a bus may.
#[tokio::test]
#[ignore = "needs dbus-daemon"]
async fn a_real_bus_forwards_only_signals_of_systemd() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bus");
    let mut daemon = Daemon(
        std::process::Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--address"])
            .arg(format!("unix:path={}", socket.display()))
            .spawn()
            .unwrap(),
    );
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        tokio::time::sleep(SOON / 20).await;
    }
    let address = format!("unix:path={}", socket.display());
    let join = async |answer: bool| {
        let connection = zbus::connection::Builder::address(address.as_str()).build().await.unwrap();
        let mut calls = zbus::MessageStream::from(&connection);
        if answer {
            connection.request_name("org.freedesktop.systemd1").await.unwrap();
        }
        let served = connection.clone();
        tokio::spawn(async move {
            while let Some(Ok(call)) = calls.next().await {
                if call.header().member().is_some_and(|member| member == "Subscribe") {
                    let _ = served.reply(&call.header(), &()).await;
                }
            }
        });
        connection
    };
    let job = async |from: &zbus::Connection, to: Option<&str>, unit: &str| {
        let job = zbus::ObjectPath::try_from("/a").unwrap();
        let body = (1_u32, job, unit, "done");
        from.emit_signal(to, "/org/freedesktop/systemd1", MANAGER, "JobRemoved", &body).await.unwrap();
    };
    let (first, stranger) = (join(true).await, join(false).await);
    let systemd = Systemd::connect(&socket).await.unwrap();
    let mut events = subscribed(&systemd).await;
    // Unique names are numbered: two of the test's, then the connection for calls, then the one for signals.
    let number: u32 = stranger.unique_name().unwrap().rsplit('.').next().unwrap().parse().unwrap();
    for victim in [number + 1, number + 2] {
        job(&stranger, Some(&format!(":1.{victim}")), "crio-evil.scope").await;
    }
    job(&stranger, None, "crio-evil.scope").await;
    job(&first, None, "crio-1.scope").await;
    assert_eq!(next(&mut events).await, done("crio-1.scope"));
    first.release_name("org.freedesktop.systemd1").await.unwrap();
    let second = join(true).await;
    assert_eq!(next(&mut events).await, Some(SystemdEvent::Restarted));
    job(&first, None, "crio-0.scope").await;
    job(&second, None, "crio-2.scope").await;
    assert_eq!(next(&mut events).await, done("crio-2.scope"));
    daemon.0.kill().unwrap();
    assert_eq!(next(&mut events).await, None);
}
