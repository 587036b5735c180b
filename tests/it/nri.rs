//! The NRI client against a fake runtime that behaves like Go's, with containers recorded from containerd
//! 2.1.9 (NRI 0.8) and CRI-O 1.36.3 (NRI 0.11).

use crate::fakes as support;
use std::collections::BTreeMap;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::fakes::nri_proto::{Adjust, field};
use crate::fakes::nri_runtime::{CONTAINERD, Fault, Kind, Plugin, Runtime};
use serde_json::{Value, json};
use usernsd_domain::adjust::{Adjustment, MountChange};
use usernsd_domain::container::{CgroupMount, Container, ContainerState, Mount, Sandbox};
use usernsd_domain::idmap::ContainerId;
use usernsd_nri::{NriError, Request, Session, decode_frames};

const CRIO: Kind = Kind { name: "cri-o", version: "1.36.3", ..CONTAINERD };

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/nri/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Registers a plugin, and runs the runtime's side on another thread.
fn play<T: Send + 'static>(
    kind: Kind,
    part: impl FnOnce(Plugin) -> T + Send + 'static,
) -> (Session, JoinHandle<T>) {
    let runtime = Runtime::listen();
    let socket = runtime.socket.clone();
    let playing = thread::spawn(move || part(runtime.register(kind).unwrap()));
    (Session::connect(&socket, "usernsd", "90").unwrap(), playing)
}

fn started(session: &mut Session) -> (Sandbox, Container) {
    match session.next().unwrap() {
        Some(Request::StartContainer { pod, container, token }) => {
            session.answer_start(token, Ok(())).unwrap();
            (pod, container)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_life_of_a_container_is_followed_on_every_kind_of_runtime() {
    for (runtime, own_calls, configure_first, cut) in [
        ("containerd-2.1.9", false, true, usize::MAX),
        ("containerd-2.1.9", true, false, 1000),
        ("crio-1.36.3", false, false, 7),
        ("crio-1.36.3", true, true, 4096),
    ] {
        let kind = Kind {
            own_calls,
            configure_first,
            cut,
            ..if runtime.starts_with("crio") { CRIO } else { CONTAINERD }
        };
        let (create, start) = (recorded(&format!("{runtime}-create")), recorded(&format!("{runtime}-start")));
        let running = recorded(&format!("{runtime}-running"));
        let id = start["container"]["id"].as_str().unwrap().to_owned();
        let pod_id = start["pod"]["id"].as_str().unwrap().to_owned();
        let (mut session, playing) = play(kind, move |mut plugin| {
            assert_eq!((&*plugin.name, &*plugin.index), ("usernsd", "90"));
            plugin.synchronize(&[start["pod"].clone()], &[running["container"].clone()], 10)?;
            let adjust = plugin.create(&create)?;
            plugin.start(&start)?;
            plugin.event("PostStartContainer", 7, &start)?;
            plugin.stop(&start)?;
            plugin.remove(&start)?;
            plugin.remove_pod(&start)?;
            plugin.shutdown()?;
            Ok::<_, Fault>(adjust)
        });
        assert_eq!(session.runtime().nri_version, if own_calls { "v0.12.0" } else { "" });

        let Some(Request::Synchronize { pods, containers, .. }) = session.next().unwrap() else { panic!() };
        assert_eq!((pods.len(), pods[0].id.as_str()), (1, &*pod_id));
        assert_eq!((containers.len(), containers[0].1), (1, ContainerState::Running));
        let Some(Request::CreateContainer { pod, container, token }) = session.next().unwrap() else {
            panic!()
        };
        assert_eq!((pod.id.as_str(), container.id.as_str(), container.pid), (&*pod_id, &*id, None));
        assert_eq!(container.annotations, pod.annotations);
        session.answer_create(token, Ok(None)).unwrap();
        assert_eq!(started(&mut session).1.id.as_str(), id);
        assert!(
            matches!(session.next(), Ok(Some(Request::ContainerStopped { id: it })) if it.as_str() == id)
        );
        assert!(
            matches!(session.next(), Ok(Some(Request::ContainerRemoved { id: it })) if it.as_str() == id)
        );
        assert!(matches!(session.next(), Ok(Some(Request::PodRemoved { id: it })) if it.as_str() == pod_id));
        assert!(matches!(session.next(), Ok(None)));
        assert_eq!(playing.join().unwrap(), Ok(None), "{runtime}");
    }
}

#[test]
fn recorded_containers_contain_what_the_agent_needs() {
    let (mut session, playing) = play(CONTAINERD, |mut plugin| {
        let asks = |name: &str| {
            let mut message = recorded(name);
            message["pod"]["annotations"]["usernsd.io/cgroup"] = json!("writable");
            message
        };
        plugin.start(&asks("containerd-2.1.9-start"))?;
        plugin.start(&asks("crio-1.36.3-start"))?;
        let mut old = recorded("crio-1.36.3-start");
        old["container"]["pid"] = json!(0);
        old["container"]["user"] = json!({ "uid": 1000 });
        old["container"].as_object_mut().unwrap().remove("mounts");
        plugin.start(&old)
    });

    let (pod, container) = started(&mut session);
    assert_eq!((&*pod.pod.namespace, &*pod.pod.name), ("t", "p-753b48"));
    assert_eq!(pod.pod.uid, "753b48d2-89ed-479f-9b9d-6ee4a10dba17");
    assert_eq!((pod.user_namespace, pod.pid), (Some(true), Some(85618)));
    let annotations = BTreeMap::from([("usernsd.io/cgroup".to_owned(), "writable".to_owned())]);
    assert_eq!(*pod.annotations, annotations, "of the annotations those that ask for something");
    assert_eq!(container.pod, pod.pod);
    assert_eq!((&*container.name, &container.sandbox_id), ("c", &pod.id.as_str().to_owned()));
    assert_eq!((container.pid, container.process_uid), (Some(85677), None));
    assert!(container.user_namespace && container.cgroup_namespace);
    assert_eq!(container.cgroup_mount(), CgroupMount::ReadWrite);
    assert!(container.cgroups_path.ends_with(&format!(".slice:cri-containerd:{}", container.id)));
    assert_eq!(container.env_names, ["container"], "of the variables only this one is read");

    let (pod, container) = started(&mut session);
    assert_eq!((pod.user_namespace, pod.pid), (Some(true), None));
    assert_eq!(*container.annotations, annotations, "nothing of CRI-O's own");
    assert_eq!((container.pid, container.process_uid), (Some(85899), Some(ContainerId(0))));
    assert!(container.user_namespace && !container.cgroup_namespace, "privileged on CRI-O");
    let places: Vec<_> = container.mounts.iter().map(|mount| mount.destination.as_str()).collect();
    assert_eq!(
        places,
        ["/run", "/run/lock", "/tmp", "/var/log/journal", "/sys/fs/cgroup"],
        "five of fourteen"
    );

    let (_, container) = started(&mut session);
    assert_eq!((container.pid, container.process_uid), (None, Some(ContainerId(1000))));
    assert_eq!(container.cgroup_mount(), CgroupMount::Absent);
    assert_eq!(playing.join().unwrap(), Ok(()));
}

#[test]
fn an_adjustment_reaches_the_runtime_unchanged() {
    let (mut session, playing) = play(CONTAINERD, |mut plugin| {
        let create = recorded("containerd-2.1.9-create");
        (plugin.create(&create), plugin.create(&create))
    });
    let mount = |destination: &str, kind: &str| Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: kind.into(),
        options: vec!["nosuid".into(), "rw".into()],
    };
    let adjustment = Adjustment {
        annotations: BTreeMap::from([("a".into(), "b".into())]),
        mounts: vec![
            MountChange { mount: mount("/sys/fs/cgroup", "cgroup"), replaces: true },
            MountChange { mount: mount("/run", "tmpfs"), replaces: false },
        ],
        env: vec![("container".into(), "usernsd".into())],
        add_cgroup_namespace: true,
    };
    // 100 kB of it: 25 frames.
    let long = Adjustment { env: vec![("LONG".into(), "x".repeat(100_000))], ..adjustment.clone() };
    for answer in [adjustment, long] {
        let Some(Request::CreateContainer { token, .. }) = session.next().unwrap() else { panic!() };
        session.answer_create(token, Ok(Some(answer))).unwrap();
    }
    let (short, long) = playing.join().unwrap();
    let options = || vec!["nosuid".to_owned(), "rw".to_owned()];
    let expected = Adjust {
        annotations: BTreeMap::from([("a".into(), "b".into())]),
        mounts: vec![
            ("-/sys/fs/cgroup".into(), String::new(), String::new(), vec![]),
            ("/sys/fs/cgroup".into(), "cgroup".into(), "cgroup".into(), options()),
            ("/run".into(), "tmpfs".into(), "tmpfs".into(), options()),
        ],
        env: vec![("container".into(), "usernsd".into())],
        namespaces: vec!["cgroup".into()],
    };
    assert_eq!(short, Ok(Some(expected)));
    assert_eq!(long.unwrap().unwrap().env[0].1.len(), 100_000);
}

#[test]
fn a_refusal_reaches_the_runtime_and_the_session_continues() {
    let (mut session, playing) = play(CONTAINERD, |mut plugin| {
        let create = plugin.create(&recorded("containerd-2.1.9-create"));
        let start = plugin.start(&recorded("containerd-2.1.9-start"));
        (create, start, plugin.start(&recorded("containerd-2.1.9-start")))
    });
    let Some(Request::CreateContainer { token, .. }) = session.next().unwrap() else { panic!() };
    session.answer_create(token, Err("it would run as root".into())).unwrap();
    let Some(Request::StartContainer { token, .. }) = session.next().unwrap() else { panic!() };
    assert!(matches!(session.next(), Err(NriError::Unanswered)));
    session.answer_start(token, Err("it has lost its user namespace".into())).unwrap();
    started(&mut session);
    let status = |message: &str| Fault::Status { code: 9, message: message.into() };
    let (create, start, again) = playing.join().unwrap();
    assert_eq!(create, Err(status("it would run as root")));
    assert_eq!(start, Err(status("it has lost its user namespace")));
    assert_eq!(again, Ok(()));
}

#[test]
fn the_refusal_of_a_runtime_is_quoted() {
    for (index, refuses, words) in [
        ("7", None, "invalid plugin index"),
        ("90", Some("external plugins are disabled"), "plugins are disabled"),
    ] {
        let runtime = Runtime::listen();
        let socket = runtime.socket.clone();
        let playing = thread::spawn(move || runtime.register(Kind { refuses, ..CONTAINERD }).map(drop));
        let error = Session::connect(&socket, "usernsd", index).unwrap_err();
        assert!(matches!(&error, NriError::Refused(output) if output.contains(words)), "{error}");
        assert_eq!(playing.join().unwrap(), Err(Fault::Closed));
    }
}

#[test]
fn a_runtime_without_nri_is_an_error_at_once() {
    let socket = tempfile::tempdir().unwrap().path().join("nri.sock");
    let error = Session::connect(&socket, "usernsd", "90").unwrap_err();
    assert!(matches!(&error, NriError::Io(_)), "{error}");
}

#[test]
fn large_lists_and_lists_in_parts_are_received() {
    let list = |count: usize, padding: usize| {
        let mut template = recorded("crio-1.36.3-running")["container"].clone();
        let pod = recorded("crio-1.36.3-start")["pod"].clone();
        template["pod_sandbox_id"] = pod["id"].clone();
        template["args"] = json!(["x".repeat(padding)]);
        let containers: Vec<Value> = (0..count)
            .map(|number| {
                template["id"] = json!(format!("{number:064x}"));
                template.clone()
            })
            .collect();
        (vec![pod], containers)
    };
    let (mut session, playing) = play(CRIO, move |mut plugin| {
        let (pods, containers) = list(100, 37_000);
        plugin.synchronize(&pods, &containers, 1000)?;
        let (pods, containers) = list(500, 0);
        plugin.synchronize(&pods, &containers, 64)?;
        plugin.start(&recorded("crio-1.36.3-start"))
    });
    for count in [100, 500] {
        let Some(Request::Synchronize { pods, containers, .. }) = session.next().unwrap() else { panic!() };
        assert_eq!((pods.len(), containers.len()), (1, count));
        assert_eq!(containers[count - 1].0.id.as_str(), format!("{:064x}", count - 1));
        // The pod was in the first part.
        assert_eq!(containers[count - 1].0.pod.name, "p-a210f4");
    }
    started(&mut session);
    assert_eq!(playing.join().unwrap(), Ok(()));
}

#[test]
fn one_bad_item_of_a_list_does_not_end_the_session() {
    let (mut session, playing) = play(CRIO, |mut plugin| {
        let (pod, good) = (recorded("crio-1.36.3-start"), recorded("crio-1.36.3-running"));
        let (mut bad_pod, mut bad) = (pod["pod"].clone(), good["container"].clone());
        bad_pod["id"] = json!("");
        bad["id"] = json!("../../etc");
        plugin.synchronize(&[bad_pod, pod["pod"].clone()], &[bad, good["container"].clone()], 10)?;
        plugin.start(&pod)
    });
    let Some(Request::Synchronize { pods, containers, unreadable }) = session.next().unwrap() else {
        panic!()
    };
    assert_eq!((pods.len(), containers.len()), (1, 1));
    let unreadable: Vec<String> = unreadable.iter().map(ToString::to_string).collect();
    assert!(unreadable.len() == 2 && unreadable[1].contains("\"../../etc\""), "{unreadable:?}");
    started(&mut session);
    assert_eq!(playing.join().unwrap(), Ok(()));
}

#[test]
fn two_thousand_calls_in_a_row_are_answered() {
    let (mut session, playing) = play(Kind { own_calls: true, ..CRIO }, |mut plugin| {
        let (create, start) = (recorded("crio-1.36.3-create"), recorded("crio-1.36.3-start"));
        for _ in 0..1000 {
            plugin.create(&create)?;
            plugin.start(&start)?;
        }
        Ok::<_, Fault>(())
    });
    for _ in 0..1000 {
        let Some(Request::CreateContainer { token, .. }) = session.next().unwrap() else { panic!() };
        session.answer_create(token, Ok(Some(Adjustment::default()))).unwrap();
        started(&mut session);
    }
    assert_eq!(playing.join().unwrap(), Ok(()));
}

#[test]
fn unknown_calls_and_fields_do_not_end_the_session() {
    let (mut session, playing) = play(CONTAINERD, |mut plugin| {
        let health = plugin.call_service("grpc.health.v1.Health", "Check", &[]);
        let validate = plugin.call("ValidateContainerAdjustment", &[]);
        plugin.state_change(13, &json!({})).unwrap();
        // A field that is newer than the proto file, and a frame on a connection that was never opened.
        plugin.raw(&[0, 0, 0, 9, 0, 0, 0, 2, 1, 2]);
        plugin.call("StateChange", &field(77, b"new")).unwrap();
        plugin.start(&recorded("containerd-2.1.9-start")).unwrap();
        (health, validate)
    });
    started(&mut session);
    let (health, validate) = playing.join().unwrap();
    assert!(matches!(health, Err(Fault::Status { code: 12, .. })), "{health:?}");
    assert!(matches!(validate, Err(Fault::Status { code: 12, .. })), "{validate:?}");
}

#[test]
fn a_slow_answer_costs_the_connection() {
    let kind = Kind { request_timeout: Duration::from_millis(50), ..CONTAINERD };
    let (mut session, playing) = play(kind, |mut plugin| plugin.start(&recorded("containerd-2.1.9-start")));
    let Some(Request::StartContainer { token, .. }) = session.next().unwrap() else { panic!() };
    assert_eq!(playing.join().unwrap(), Err(Fault::Timeout));
    assert!(matches!(session.answer_start(token, Ok(())), Err(NriError::Io(_))));
    assert!(!matches!(session.next(), Ok(Some(_))));
}

/// Prints the figures, and asserts only what every machine achieves: `cargo nextest run the_latency_of_nri_is_measured
/// --run-ignored all --no-capture`.
#[test]
#[ignore = "a measurement"]
fn the_latency_of_nri_is_measured() {
    for runtime in ["containerd-2.1.9", "crio-1.36.3"] {
        let start = recorded(&format!("{runtime}-start"));
        let payload = [
            field(1, &support::nri_proto::pod(&start["pod"])),
            field(2, &support::nri_proto::container(&start["container"])),
        ]
        .concat();
        let bytes = Plugin::request_bytes(1, "StartContainer", &payload);
        let decode = percentiles(|| assert_eq!(decode_frames(&bytes).unwrap(), 1));

        let (mut session, playing) = play(Kind { own_calls: true, ..CRIO }, move |mut plugin| {
            percentiles(|| drop(plugin.call("StartContainer", &payload).unwrap()))
        });
        for _ in 0..ROUNDS {
            started(&mut session);
        }
        let there_and_back = playing.join().unwrap();
        eprintln!(
            "{runtime}: {} bytes; bytes to answer p50 {:?} p99 {:?}; over the socket p50 {:?} p99 {:?}",
            bytes.len(),
            decode.0,
            decode.1,
            there_and_back.0,
            there_and_back.1
        );
    }
}

const ROUNDS: usize = 5000;

fn percentiles(mut call: impl FnMut()) -> (Duration, Duration) {
    let mut taken: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            call();
            begin.elapsed()
        })
        .collect();
    taken.sort();
    (taken[ROUNDS / 2], taken[ROUNDS * 99 / 100])
}
