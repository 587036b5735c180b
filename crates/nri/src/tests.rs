//! Tests of the link with whole messages. `tests/it/nri.rs` uses a runtime that behaves like Go's.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::thread;

use proptest::prelude::*;
use prost::Message;

use super::ttrpc::{Response, Status};
use super::*;

const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";

/// The frame of a call, as a runtime sends it.
fn call(stream: u32, method: &str, message: &impl Message) -> Vec<u8> {
    request(PLUGIN, stream, method, message)
}

fn request(service: &str, stream: u32, method: &str, message: &impl Message) -> Vec<u8> {
    let (service, method) = (service.to_owned(), method.to_owned());
    let body = ttrpc::Request { service, method, payload: message.encode_to_vec() };
    framed(mux::PLUGIN, stream, ttrpc::REQUEST, &body)
}

fn framed(connection: u32, stream: u32, kind: u8, body: &impl Message) -> Vec<u8> {
    let mut message = Vec::new();
    ttrpc::write_header(body.encoded_len(), stream, kind, &mut message);
    body.encode(&mut message).unwrap();
    let mut out = Vec::new();
    mux::write_frames(connection, &message, &mut out);
    out
}

fn pod(id: &str) -> proto::PodSandbox {
    let annotations = BTreeMap::from([("usernsd.io/cgroup".to_owned(), "writable".to_owned())]);
    proto::PodSandbox { id: id.into(), name: format!("pod-{id}"), annotations, ..Default::default() }
}

fn container(id: &str, pod: &str) -> proto::Container {
    proto::Container { id: id.into(), pod_sandbox_id: pod.into(), ..Default::default() }
}

/// A container and its pod as a list contains them.
fn listed(id: &str, pod: &str) -> proto::ListedContainer {
    proto::ListedContainer { id: id.into(), pod_sandbox_id: pod.into(), ..Default::default() }
}

fn start(stream: u32, id: &str) -> Vec<u8> {
    let message = proto::ContainerEvent { pod: Some(pod("p")), container: Some(container(id, "p")) };
    call(stream, "StartContainer", &message)
}

/// The link's answers so far: stream and response.
fn answers(link: &mut Link) -> Vec<(u32, Response)> {
    let mut inbox = mux::Inbox::default();
    inbox.accept(&std::mem::take(&mut link.out));
    std::iter::from_fn(|| {
        let message = inbox.message()?;
        assert_eq!((message.connection, message.header.kind), (mux::PLUGIN, ttrpc::RESPONSE));
        Some((message.header.stream, Response::decode(message.body).unwrap()))
    })
    .collect()
}

fn step(link: &mut Link, bytes: &[u8]) -> Result<Step, NriError> {
    link.inbox.accept(bytes);
    link.step()
}

fn session() -> (Session, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&call(1, "Configure", &proto::ConfigureRequest::default())).unwrap();
    let session = Session::over(ours, "usernsd", "90").unwrap();
    (session, theirs)
}

fn error(result: Result<impl std::fmt::Debug, NriError>) -> String {
    result.unwrap_err().to_string()
}

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

#[test]
fn a_recorded_registration_is_answered_byte_for_byte() {
    let recorded = include_str!("../../../tests/fixtures/nri/wire-containerd-2.1.9.txt");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let runtime = thread::spawn(move || {
        let mut replies = Vec::new();
        for line in recorded.lines().filter(|line| !line.starts_with('#')) {
            let (who, digits) = line.split_once(' ').unwrap();
            let bytes = hex(digits);
            if who == "runtime" {
                theirs.write_all(&bytes).unwrap();
                continue;
            }
            let mut header = [0; 8];
            theirs.read_exact(&mut header).unwrap();
            let mut rest = vec![0; u32::from_be_bytes(header[4..].try_into().unwrap()) as usize];
            theirs.read_exact(&mut rest).unwrap();
            replies.push(([header.to_vec(), rest].concat(), bytes));
        }
        replies
    });
    let mut session = Session::over(ours, "rnri", "20").unwrap();
    assert_eq!(
        *session.runtime(),
        NriRuntime {
            name: "containerd".into(),
            version: "2.1.9+unknown".into(),
            nri_version: String::new(),
            config: String::new(),
            registration_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
        }
    );
    let Some(Request::Synchronize { pods, containers, .. }) = session.next().unwrap() else { panic!() };
    assert_eq!((pods.len(), containers.len()), (0, 0));
    let replies = runtime.join().unwrap();
    assert_eq!(replies.len(), 3);
    for (index, (ours, recorded)) in replies.iter().enumerate() {
        match index {
            // The recorded plugin sent a timeout as well, which concerns only itself.
            0 => assert_eq!(ours[18..], recorded[18..recorded.len() - 6]),
            // The plugin also subscribed to other events.
            1 => assert_eq!(
                (&ours[..21], &ours[21..]),
                (
                    &[&recorded[..7], &[15], &recorded[8..11], &[5], &recorded[12..19], &[3, 0x10]].concat()
                        [..],
                    &[0xac, 0x0c][..]
                )
            ),
            _ => assert_eq!(ours, recorded),
        }
    }
}

#[test]
fn the_event_mask_has_only_the_events_in_use() {
    let mut link = Link::new();
    let configured = step(&mut link, &call(1, "Configure", &proto::ConfigureRequest::default()));
    assert!(matches!(configured, Ok(Step::Configured)));
    let [(1, response)] = &answers(&mut link)[..] else { panic!() };
    let configured = proto::ConfigureResponse::decode(response.payload.as_slice()).unwrap();
    // REMOVE_POD 3, CREATE 4, START 6, STOP 10, REMOVE 11.
    assert_eq!(configured.events, 0b110_0010_1100);
    let runtime = link.runtime.unwrap();
    assert_eq!(runtime.registration_timeout, Duration::from_secs(5), "NRI's default");
    assert_eq!(runtime.request_timeout, Duration::from_secs(2), "NRI's default");
}

#[test]
fn a_silent_or_stalling_peer_is_given_up_in_time() {
    for output in
        [Vec::new(), vec![0, 0, 0, 1, 0], framed(mux::RUNTIME, 1, ttrpc::RESPONSE, &Response::default())]
    {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&output).unwrap();
        let begin = Instant::now();
        let result =
            Session::register(Link::new(), ours, "usernsd", "90", Duration::from_millis(40), |_| Ok(()));
        assert!(matches!(result, Err(NriError::Silent(_))), "{result:?}");
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_failed_registration_has_a_reason() {
    let status = Status { code: 2, message: "invalid plugin index".into() };
    let refusal = Response { status: Some(status), payload: vec![] };
    for (output, reason) in [
        (
            framed(mux::RUNTIME, 1, ttrpc::RESPONSE, &refusal),
            "refused the registration: invalid plugin index",
        ),
        (vec![], "closed the connection before it had registered the plugin"),
        (call(1, "Shutdown", &proto::Empty {}), "closed the connection instead of registering"),
        (start(1, "c"), "a call before Configure"),
        // This reply is ignored.
        (framed(mux::RUNTIME, 3, ttrpc::RESPONSE, &Response::default()), "before it had registered"),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&output).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let output = error(Session::over(ours, "usernsd", "9"));
        assert!(output.contains(reason), "{output}");
    }
}

#[test]
fn a_caller_that_declines_refuses_the_configuration() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let configure = proto::ConfigureRequest { runtime_name: "containerd".into(), ..Default::default() };
    theirs.write_all(&call(1, "Configure", &configure)).unwrap();
    let session = Session::launched(ours, "usernsd", "90", |runtime| {
        assert_eq!(runtime.name, "containerd");
        Err("not now".to_owned())
    });
    assert!(matches!(session, Err(NriError::Declined(reason)) if reason == "not now"));
    let mut output = Vec::new();
    theirs.read_to_end(&mut output).unwrap();
    let mut inbox = mux::Inbox::default();
    inbox.accept(&output);
    let mut answers = Vec::new();
    while let Some(message) = inbox.message() {
        if message.connection == mux::PLUGIN {
            answers.push(Response::decode(message.body).unwrap());
        }
    }
    let [Response { status: Some(status), .. }] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(status.message, "not now");
}

#[test]
fn a_session_ends_cleanly_only_between_messages() {
    let (mut session, theirs) = session();
    let timeouts = (session.stream.read_timeout().unwrap(), session.stream.write_timeout().unwrap());
    assert_eq!(timeouts, (None, None), "silence is normal");
    drop(theirs);
    // Data that the runtime never read turns the end into ECONNRESET, once.
    assert!(matches!(session.next(), Err(NriError::Io(_)) | Ok(None)));
    assert!(session.next().unwrap().is_none());
    let whole = start(3, "c");
    for cut in [1, 7, 8, 9, 17, 18, whole.len() - 1] {
        let (mut session, mut theirs) = self::session();
        theirs.write_all(&whole[..cut]).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(error(session.next()), "the runtime closed the connection within a message", "{cut}");
    }
}

#[test]
fn a_stopper_wakes_a_waiting_session() {
    let (mut session, _theirs) = session();
    let stopper = session.stopper();
    let waiting = thread::spawn(move || session.next());
    thread::sleep(Duration::from_millis(20));
    stopper.stop();
    assert!(waiting.join().unwrap().unwrap().is_none());
}

#[test]
fn requests_before_the_end_are_still_answered() {
    let (mut session, mut theirs) = session();
    theirs.write_all(&start(3, "c")).unwrap();
    session.stopper().stop();
    let Some(Request::StartContainer { token, .. }) = session.next().unwrap() else { panic!() };
    session.answer_start(token, Ok(())).unwrap();
    assert!(session.next().unwrap().is_none());
    drop(session);
    let mut output = Vec::new();
    theirs.read_to_end(&mut output).unwrap();
    let mut inbox = mux::Inbox::default();
    inbox.accept(&output);
    let streams: Vec<u32> =
        std::iter::from_fn(|| inbox.message().map(|message| message.header.stream)).collect();
    assert!(streams.contains(&3), "{streams:?}");
}

#[test]
fn a_timeout_ends_the_wait_but_not_the_session() {
    let (mut session, mut theirs) = session();
    session.set_patience(Some(Duration::from_millis(5))).unwrap();
    let bytes = start(3, "c");
    theirs.write_all(&bytes[..9]).unwrap();
    assert!(matches!(session.next(), Err(NriError::Quiet)));
    theirs.write_all(&bytes[9..]).unwrap();
    session.set_patience(None).unwrap();
    assert!(matches!(session.next(), Ok(Some(Request::StartContainer { .. }))));
    assert_eq!(session.peer(), i32::try_from(std::process::id()).ok());
}

#[test]
fn a_dropped_session_closes_its_connection_even_if_a_stopper_is_left() {
    let (session, mut theirs) = session();
    let _stopper = session.stopper();
    drop(session);
    let mut output = Vec::new();
    theirs.read_to_end(&mut output).unwrap();
}

#[test]
fn a_request_is_answered_only_once_and_only_with_its_own_token() {
    let (mut one, mut two) = (Link::new(), Link::new());
    let Ok(Step::Request(Request::StartContainer { token, .. })) = step(&mut one, &start(5, "c")) else {
        panic!()
    };
    let Ok(Step::Request(Request::StartContainer { token: other, .. })) = step(&mut two, &start(5, "c"))
    else {
        panic!()
    };
    assert!(matches!(one.step(), Err(NriError::Unanswered)));
    assert!(matches!(one.answer_start(other, Ok(())), Err(NriError::ForeignToken)));
    assert!(one.out.is_empty());
    one.answer_start(token, Ok(())).unwrap();
    assert_eq!(answers(&mut one), [(5, Response::default())]);
    assert!(matches!(one.step(), Ok(Step::Idle)));
}

#[test]
fn refusals_are_failed_preconditions_with_bounded_messages() {
    let mut link = Link::new();
    let create = proto::CreateContainerRequest { pod: Some(pod("p")), container: Some(container("c", "p")) };
    let mut ask = |stream| match step(&mut link, &call(stream, "CreateContainer", &create)) {
        Ok(Step::Request(Request::CreateContainer { token, .. })) => token,
        other => panic!("{other:?}"),
    };
    let token = ask(1);
    let mut done = vec![link.answer_create(token, Err("é".repeat(5000)))];
    let [(1, response)] = &answers(&mut link)[..] else { panic!() };
    let status = response.status.as_ref().unwrap();
    assert_eq!((status.code, status.message.len()), (9, 2048));

    let Ok(Step::Request(Request::CreateContainer { token, .. })) =
        step(&mut link, &call(3, "CreateContainer", &create))
    else {
        panic!()
    };
    let env = vec![("A".to_owned(), "x".repeat(link::MAX_ANSWER))];
    done.push(link.answer_create(token, Ok(Some(Adjustment { env, ..Default::default() }))));
    assert!(matches!(done[..], [Ok(()), Err(NriError::AnswerTooLong(length))] if length > link::MAX_ANSWER));
    let [(3, response)] = &answers(&mut link)[..] else { panic!() };
    assert_eq!(response.status.as_ref().unwrap().code, 9);
}

#[test]
fn unknown_calls_are_unimplemented_and_unsubscribed_events_are_ignored() {
    let mut link = Link::new();
    let mut bytes = request("grpc.health.v1.Health", 1, "StartContainer", &proto::Empty {});
    bytes.extend(call(3, "PostUpdatePodSandbox", &proto::Empty {}));
    let event = proto::Event::PostStartContainer as i32;
    bytes.extend(call(5, "StateChange", &proto::StateChangeEvent { event, ..Default::default() }));
    bytes.extend(call(7, "StateChange", &proto::StateChangeEvent { event: 99, ..Default::default() }));
    assert!(matches!(step(&mut link, &bytes), Ok(Step::Idle)));
    let answers = answers(&mut link);
    let codes: Vec<_> = answers.iter().map(|(_, answer)| answer.status.as_ref().map(|it| it.code)).collect();
    assert_eq!(codes, [Some(12), Some(12), None, None]);
}

#[test]
fn malformed_messages_are_ignored_and_counted() {
    let nobody = proto::ContainerEvent { pod: Some(pod("p")), container: None };
    let response = framed(mux::PLUGIN, 1, ttrpc::RESPONSE, &Response::default());
    let ignored = |unreadable, unexpected| (unreadable, unexpected, 0);
    for (bytes, counted, reason, answered) in [
        (
            call(1, "StartContainer", &nobody),
            ignored(1, 0),
            "StartContainer without its pod or container",
            Some(None),
        ),
        (call(1, "RemoveContainer", &nobody), ignored(1, 0), "\"\" is not a container's ID", Some(None)),
        (start(2, "c"), ignored(0, 1), "type 1, stream 2, where a request was due", None),
        (response, ignored(0, 1), "type 2, stream 1, where a request was due", None),
        (
            framed(mux::RUNTIME, 9, ttrpc::RESPONSE, &Response::default()),
            ignored(0, 1),
            "only the registration's reply",
            None,
        ),
        (
            call(1, "CreateContainer", &Status { code: 1, message: "x".into() }),
            ignored(1, 0),
            "CreateContainer: \"\" is not a container's ID",
            Some(None),
        ),
        (
            request("\u{7f}", 1, "x", &proto::Empty {})
                .into_iter()
                .map(|it| if it == 0x7f { 0xff } else { it })
                .collect(),
            ignored(1, 0),
            "field 1 is not UTF-8",
            Some(Some(3)),
        ),
    ] {
        let mut link = Link::new();
        assert!(matches!(step(&mut link, &bytes), Ok(Step::Idle)), "{reason}");
        let Ignored { unreadable, unexpected, truncated, last, .. } = link.ignored.clone();
        assert_eq!((unreadable, unexpected, truncated), counted, "{reason}");
        assert!(last.as_ref().is_some_and(|last| last.contains(reason)), "{last:?}");
        let answers = answers(&mut link);
        let codes: Vec<_> =
            answers.iter().map(|(_, answer)| answer.status.as_ref().map(|it| it.code)).collect();
        assert_eq!(codes, Vec::from_iter(answered), "{reason}");
        // The session continues.
        assert!(matches!(step(&mut link, &start(3, "c")), Ok(Step::Request(_))), "{reason}");
    }
}

#[test]
fn a_container_with_a_too_long_description_is_refused_and_the_session_continues() {
    let mut large = container("c", "p");
    large.env = vec!["x".repeat(1 << 20); 5];
    let create = proto::CreateContainerRequest { pod: Some(pod("p")), container: Some(large.clone()) };
    let change = |event: proto::Event| proto::StateChangeEvent {
        event: event.into(),
        pod: Some(pod("p")),
        container: Some(large.clone()),
    };
    let calls = [
        (call(1, "CreateContainer", &create), true),
        (call(1, "StartContainer", &create), true),
        (call(1, "StateChange", &change(proto::Event::StartContainer)), true),
        (call(1, "StateChange", &change(proto::Event::RemoveContainer)), false),
        (call(1, "StopContainer", &create), false),
        (call(1, "Synchronize", &create), false),
    ];
    for refuses in [true, false] {
        for (bytes, starts) in &calls {
            let mut link = Link::new();
            link.refuses_unread = refuses;
            assert!(matches!(step(&mut link, bytes), Ok(Step::Idle)));
            let answers = answers(&mut link);
            let [(1, answer)] = answers.as_slice() else { panic!("{answers:?}") };
            let code = answer.status.as_ref().map(|status| status.code);
            assert_eq!(code, (refuses && *starts).then_some(ttrpc::RESOURCE_EXHAUSTED), "{answer:?}");
            assert_eq!((link.ignored.unreadable, link.ignored.refused), (1, u64::from(refuses && *starts)));
            assert!(matches!(step(&mut link, &start(3, "c")), Ok(Step::Request(_))));
        }
    }
}

#[test]
fn the_parts_of_a_synchronize_are_joined_and_bounded() {
    let mut link = Link::new();
    let part = |containers, pods, more| proto::SynchronizeRequest { pods, containers, more };
    let early = call(1, "Synchronize", &part(vec![listed("c", "p")], vec![], true));
    assert!(matches!(step(&mut link, &early), Ok(Step::Idle)));
    let late = call(3, "Synchronize", &part(vec![listed("d", "q")], vec![pod("p")], false));
    let Ok(Step::Request(Request::Synchronize { pods, containers, .. })) = step(&mut link, &late) else {
        panic!()
    };
    assert_eq!(pods.len(), 1);
    let of: Vec<_> = containers.iter().map(|(it, _)| (&*it.pod.name, it.annotations.len())).collect();
    assert_eq!(of, [("pod-p", 1), ("", 0)]);
    let more: Vec<bool> = answers(&mut link)
        .iter()
        .map(|(_, answer)| proto::SynchronizeResponse::decode(answer.payload.as_slice()).unwrap().more)
        .collect();
    assert_eq!(more, [true, false]);

    // The next list starts empty, and a long one is cut.
    let many: Vec<_> = (0..wire::LISTED + 5).map(|index| listed(&format!("c{index}"), "p")).collect();
    for stream in [5, 7] {
        let mut bad = many.clone();
        bad[0].id = "../x".into();
        let whole = call(stream, "Synchronize", &part(bad, vec![], false));
        let Ok(Step::Request(Request::Synchronize { pods, containers, unreadable })) =
            step(&mut link, &whole)
        else {
            panic!()
        };
        assert!(pods.is_empty());
        assert_eq!((containers.len(), unreadable.len()), (wire::LISTED, 1));
    }
    assert_eq!((link.ignored.unreadable, link.ignored.truncated), (2, 8));
}

#[test]
fn a_shutdown_is_answered_and_ends_the_session() {
    let mut link = Link::new();
    let mut bytes = call(1, "Shutdown", &proto::Empty {});
    bytes.extend(start(3, "c"));
    assert!(matches!(step(&mut link, &bytes), Ok(Step::Ended)));
    assert_eq!(answers(&mut link), [(1, Response::default())]);
    assert!(matches!(link.step(), Ok(Step::Ended)));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_frames(&bytes);
        let _ = decode_frames(&framed(mux::PLUGIN, 1, ttrpc::REQUEST, &ttrpc::Request {
            service: PLUGIN.into(), method: "StartContainer".into(), payload: bytes,
        }));
    }

    #[test]
    fn a_damaged_call_is_decoded_or_refused(at in 0..400usize, bit in 0..8u32, cut in 0..400usize) {
        let mut bytes = start(1, "container");
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        let _ = decode_frames(&bytes);
        let _ = decode_frames(bytes.get(..cut).unwrap_or_default());
    }

    #[test]
    fn chunk_sizes_do_not_change_requests(cuts in prop::collection::vec(1..300usize, 1..40)) {
        let stop = proto::ContainerEvent { pod: None, container: Some(container("b", "p")) };
        let part = |more| proto::SynchronizeRequest { pods: vec![pod("p")], containers: vec![listed("a", "p")], more };
        let bytes = [
            call(1, "Synchronize", &part(true)),
            call(3, "Synchronize", &part(false)),
            call(5, "StopContainer", &stop),
            start(7, "c"),
            call(9, "RemovePodSandbox", &proto::ContainerEvent { pod: Some(pod("p")), container: None }),
        ].concat();
        let run = |parts: &mut dyn Iterator<Item = &[u8]>| {
            let (mut link, mut seen) = (Link::new(), Vec::new());
            for part in parts {
                link.inbox.accept(part);
                loop {
                    match link.step().unwrap() {
                        Step::Request(Request::StartContainer { token, pod, container }) => {
                            seen.push(format!("start {pod:?} {container:?}"));
                            link.answer_start(token, Ok(())).unwrap();
                        }
                        Step::Request(request) => seen.push(format!("{request:?}")),
                        _ => break,
                    }
                }
            }
            (seen, answers(&mut link))
        };
        let whole = run(&mut [bytes.as_slice()].into_iter());
        prop_assert_eq!(whole.0.len(), 4);
        let mut rest = bytes.as_slice();
        let mut lengths = cuts.iter().cycle();
        let mut pieces = std::iter::from_fn(|| {
            let (part, tail) = rest.split_at(rest.len().min(*lengths.next()?));
            rest = tail;
            (!part.is_empty()).then_some(part)
        });
        prop_assert_eq!(run(&mut pieces), whole);
    }
}
