use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const ID: &str = "3c0e974d38774631c9306c15f27e5e8c4839a756fb0371df51ed51d4f2bf906c";

fn answer(info: &str) -> v1::ContainerStatusResponse {
    let status = v1::ContainerStatus { id: ID.into(), ..Default::default() };
    v1::ContainerStatusResponse {
        status: Some(status),
        info: HashMap::from([("info".to_owned(), info.to_owned())]),
    }
}

fn bytes(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn container(
    call: &'static str,
    answer: &v1::ContainerStatusResponse,
) -> Result<InspectedContainer, CriError> {
    super::container(call, &bytes(answer))
}

#[test]
fn either_runtimes_verbose_answer_is_parsed() {
    for (info, pid, privileged, spec) in [
        (r#"{"pid":7,"privileged":true,"runtimeSpec":{"a": 1}}"#, Some(7), Some(true), r#"{"a": 1}"#),
        (r#"{"pid":0,"config":{"linux":{"security_context":{}}},"runtimeSpec":{}}"#, None, Some(false), "{}"),
        (
            r#"{"config":{"linux":{"security_context":{"privileged":true}}},"runtimeSpec":{}}"#,
            None,
            Some(true),
            "{}",
        ),
        (r#"{"pid":null,"sandboxID":null,"config":null,"runtimeSpec":[]}"#, None, None, "[]"),
        (r#"{"config":{"linux":null},"runtimeSpec":{},"new":{"x":[1e400]}}"#, None, None, "{}"),
    ] {
        let seen = container("X", &answer(info)).unwrap();
        assert_eq!((seen.pid, seen.privileged, seen.spec_json.as_str()), (pid, privileged, spec), "{info}");
    }
}

#[test]
fn the_error_names_the_unreadable_part() {
    for (info, want) in [
        ("{}", "X: unreadable answer: no runtimeSpec in the verbose information"),
        (r#"{"runtimeSpec":null}"#, "X: unreadable answer: no runtimeSpec in the verbose information"),
        ("nonsense", "X: unreadable answer: verbose information: expected ident at line 1 column 2"),
        (
            r#"{"pid":-1}"#,
            "X: unreadable answer: verbose information: invalid value: integer `-1`, expected u32 at line 1 column 9",
        ),
    ] {
        assert_eq!(container("X", &answer(info)).unwrap_err().to_string(), want, "{info}");
    }
    let none = v1::ContainerStatusResponse::default();
    assert_eq!(container("X", &none).unwrap_err().to_string(), "X: unreadable answer: no status");
}

#[test]
fn a_list_keeps_only_relevant_annotations_of_bounded_total_size() {
    let pod = |index: usize, annotations: Vec<(String, String)>| v1::PodSandbox {
        id: format!("{index:x}"),
        annotations: annotations.into_iter().collect(),
        labels: HashMap::from([("a".to_owned(), "bc".to_owned())]),
        ..Default::default()
    };
    let large = ("example.com/large".to_owned(), "x".repeat(200 << 10));
    let asks = |index: usize| (format!("cgroup.usernsd.io/container.c{index:0>50}"), "writable".to_owned());
    let mut items = vec![pod(0, vec![large.clone(), asks(0)])];
    items.extend((1..900).map(|index| pod(index, (0..80).map(asks).collect())));
    let list = bytes(&v1::ListPodSandboxResponse { items });
    let seen = listed_sandboxes("X", &list).unwrap();
    assert_eq!(seen[0].annotations, BTreeMap::from([asks(0)]));
    let (key, value) = asks(0);
    assert_eq!(
        seen[0].size,
        length(large.0.as_bytes()) + (200 << 10) + length(key.as_bytes()) + length(value.as_bytes()) + 3
    );
    let kept: usize = seen.iter().map(|sandbox| weight(&sandbox.annotations)).sum();
    assert!(kept <= ANNOTATIONS && kept > ANNOTATIONS / 2, "{kept}");
    for sandbox in &seen[1..] {
        assert_eq!(sandbox.annotations.len(), if sandbox.is_cut { 0 } else { 32 });
        assert!(sandbox.size > 6_000);
    }
    assert!(seen.last().unwrap().is_cut);
}

#[test]
fn the_length_of_a_list_is_bounded() {
    let item = |index: usize| v1::Container { id: format!("{index:x}"), ..Default::default() };
    let list = v1::ListContainersResponse { containers: (0..LISTED + 9).map(item).collect() };
    assert_eq!(listed_containers("X", &bytes(&list)).unwrap().len(), LISTED);
    let item = |index: usize| v1::PodSandbox { id: format!("{index:x}"), ..Default::default() };
    let list = v1::ListPodSandboxResponse { items: (0..LISTED + 9).map(item).collect() };
    assert_eq!(listed_sandboxes("X", &bytes(&list)).unwrap().len(), LISTED);
}

proptest! {
    /// Generated code decodes the same values.
    #[test]
    fn a_status_is_decoded_as_by_generated_code(
        name in "[a-z]{0,20}", pod in "[a-z]{0,20}", state in 0..5i32, code in any::<i32>(),
        at in any::<i64>(), reason in "[A-Z][a-z]*", count in any::<u32>(), path in "[a-z/]{0,80}",
    ) {
        let mut message = answer(r#"{"pid":7,"sandboxID":"s","runtimeSpec":{"a": 1}}"#);
        let labels = [(LABEL_NAME, &pod), (LABEL_UID, &name)].map(|(key, value)| (key.to_owned(), value.clone()));
        message.status = Some(v1::ContainerStatus {
            id: ID.into(), state, exit_code: code, created_at: at, finished_at: at, reason: reason.clone(),
            message: path.clone(), log_path: path.clone(), labels: labels.into(),
            metadata: Some(v1::ContainerMetadata { name: name.clone(), attempt: 1 }),
            annotations: HashMap::from([(RESTART_COUNT.to_owned(), count.to_string())]),
            ..Default::default()
        });
        let seen = container("X", &message).unwrap();
        prop_assert_eq!((&seen.container.name, &seen.container.pod.name, &seen.container.pod.uid), (&name, &pod, &name));
        prop_assert_eq!((seen.created_at_ns, seen.restarts, &seen.log_path), (at, Some(count), &path));
        let ended = (state == 2).then_some(End { code, at_ns: at, reason, message: path });
        prop_assert_eq!(&seen.end, &ended);
        prop_assert_eq!(end("X", &bytes(&message)).unwrap(), ended);
        prop_assert_eq!(seen.spec_json.as_str(), r#"{"a": 1}"#);
    }

    #[test]
    fn any_bytes_are_read_as_an_answer_or_refused(message in proptest::collection::vec(any::<u8>(), 0..300)) {
        let message = Bytes::from(message);
        let _ = listed_sandboxes("X", &message);
        let _ = listed_containers("X", &message);
        let _ = sandbox("X", &message);
        let _ = super::container("X", &message);
        let _ = end("X", &message);
        let _ = event("X", &message);
    }

    #[test]
    fn any_input_is_parsed_without_panic(text in any::<String>(), key in "sandboxID|pid|config|runtimeSpec|privileged") {
        for info in [text.clone(), format!("{{\"{key}\":{text}}}"), format!("{{\"{key}\":{text:?}}}")] {
            let _ = container("X", &answer(&info));
            let _ = sandbox("X", &bytes(&v1::PodSandboxStatusResponse {
                status: Some(v1::PodSandboxStatus { id: text.clone(), ..Default::default() }),
                info: answer(&info).info,
                ..Default::default()
            }));
        }
    }

    #[test]
    fn any_message_is_read_or_refused(kind in -1..6i32, id in any::<String>(), ids in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 0..4)) {
        let event = event("X", &bytes(&v1::ContainerEventResponse { container_id: id, container_event_type: kind, ..Default::default() }));
        prop_assert_eq!(matches!(event, Ok(None)), !(0..4).contains(&kind));
        let _ = id_map("X", ids.into_iter().map(|(container_id, host_id, length)| v1::IdMapping { container_id, host_id, length }).collect());
    }
}
