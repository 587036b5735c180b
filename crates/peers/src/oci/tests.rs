//! Tables of what CRI-O 1.36.3 and containerd 2.1.9 write, and properties for arbitrary text.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use usernsd_domain::container::{CgroupMount, PodRef};

fn recorded(name: &str) -> Value {
    let path = format!("{}/../../tests/fixtures/cri-o/crio-{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn recorded_specifications_are_parsed() {
    use CgroupMount::{ReadOnly, ReadWrite};
    for (name, user, cgroup, mount, ids, args0) in [
        ("userns-systemd", true, true, ReadWrite, "0:200000:65536", "/lib/systemd/systemd"),
        ("priv-userns-runc", true, false, ReadWrite, "0:200000:65536", "/bin/sleep"),
        ("created", true, true, ReadOnly, "0:200000:65536", "/bin/sleep"),
        ("nouserns", false, true, ReadOnly, "", "/bin/sleep"),
    ] {
        let json = recorded(&format!("containerstatus-{name}"));
        let spec = parse_spec(&json["info"]["runtimeSpec"].to_string()).unwrap();
        assert_eq!((spec.user_namespace, spec.cgroup_namespace), (user, cgroup), "{name}");
        assert_eq!(spec.uid_mappings.to_string(), ids, "{name}");
        assert_eq!(spec.args0.as_deref(), Some(args0), "{name}");
        assert_eq!(spec.process_uid, Some(ContainerId(0)), "{name}");
        let variables = json["info"]["runtimeSpec"]["process"]["env"].as_array().unwrap();
        let is_set = variables.iter().any(|it| it.as_str().unwrap().starts_with("container="));
        assert_eq!(spec.env_names.contains(&"container".to_owned()), is_set, "{name}");
        assert!(spec.rootfs.ends_with("merged"), "{name}: {:?}", spec.rootfs);

        let id = CriId::parse(json["status"]["id"].as_str().unwrap()).unwrap();
        let container = spec.into_container(id.clone(), Some(7));
        assert_eq!(container.cgroup_mount(), mount, "{name}");
        assert!(container.cgroups_path.ends_with(&format!(".slice:crio:{id}")), "{name}");
        assert_eq!(container.sandbox_id, json["info"]["sandboxID"].as_str().unwrap(), "{name}");
        // crictl made this one, without labels: CRI-O's name of the sandbox identifies the pod.
        assert_eq!(
            (container.pod.namespace.as_str(), container.pod.name.as_str()),
            ("rs", &*format!("fx-{name}"))
        );
        assert_eq!(container.pod.uid.len(), 36, "{name}");
        assert_eq!((container.name.as_str(), container.pid), ("c", Some(7)), "{name}");
    }
}

#[test]
fn a_recorded_sandbox_is_parsed() {
    let json = recorded("podsandboxstatus-userns-systemd");
    let spec = parse_spec(&json["info"]["runtimeSpec"].to_string()).unwrap();
    let place = identity_of(&spec.annotations, &spec.cgroups_path);
    let pod = PodRef {
        namespace: "rs".into(),
        name: "fx-userns-systemd".into(),
        uid: "3531d9b1-1990-4c73-86de-ce39fbd267f3".into(),
    };
    let sandbox_id = json["status"]["id"].as_str().unwrap().to_owned();
    assert_eq!(place, ContainerIdentity { pod, sandbox_id, name: String::new(), sandbox: true });
}

#[test]
fn either_runtimes_annotations_identify_a_container() {
    let pod = PodRef { namespace: "ns".into(), name: "web-0".into(), uid: "u1".into() };
    let labels = r#"{"io.kubernetes.pod.namespace":"ns","io.kubernetes.pod.name":"web-0","io.kubernetes.pod.uid":"u1"}"#;
    let crio = [
        ("io.kubernetes.cri-o.SandboxID", "s1"),
        ("io.kubernetes.cri-o.Labels", labels),
        ("io.kubernetes.cri-o.Metadata", r#"{"name":"c","attempt":2}"#),
        ("io.kubernetes.cri-o.ContainerType", "container"),
        // The sandbox's name is used only if there are no labels, which are exact.
        ("io.kubernetes.cri-o.SandboxName", "k8s_x_y_z_0"),
    ];
    let containerd = [
        ("io.kubernetes.cri.sandbox-id", "s1"),
        ("io.kubernetes.cri.sandbox-namespace", "ns"),
        ("io.kubernetes.cri.sandbox-name", "web-0"),
        ("io.kubernetes.cri.sandbox-uid", "u1"),
        ("io.kubernetes.cri.container-name", "c"),
        ("io.kubernetes.cri.container-type", "container"),
    ];
    for annotations in [&crio[..], &containerd[..]] {
        let want =
            ContainerIdentity { pod: pod.clone(), sandbox_id: "s1".into(), name: "c".into(), sandbox: false };
        assert_eq!(identity_of(&map(annotations), ""), want);
    }
    let sandbox =
        map(&[("io.kubernetes.cri.container-type", "sandbox"), ("io.kubernetes.cri.sandbox-id", "s1")]);
    assert_eq!(
        identity_of(&sandbox, ""),
        ContainerIdentity { sandbox_id: "s1".into(), sandbox: true, ..ContainerIdentity::default() }
    );
    for odd in ["null", "{", "[]", "k8s_a_b_c", "k8s_a_b_c_0_1", "a_b_c_d"] {
        let keys = ["Labels", "Metadata", "SandboxName"].map(|key| format!("io.kubernetes.cri-o.{key}"));
        let annotations = map(&keys.each_ref().map(|key| (key.as_str(), odd)));
        assert_eq!(identity_of(&annotations, ""), ContainerIdentity::default(), "{odd}");
    }
}

#[test]
fn a_pod_cannot_take_the_name_of_another_with_the_other_runtimes_annotations() {
    let names = ["namespace", "name", "uid"].map(|key| (format!("io.kubernetes.pod.{key}"), "own"));
    let labels = serde_json::to_string(&BTreeMap::from(names)).unwrap();
    let crio = [
        ("io.kubernetes.cri-o.SandboxID", "own"),
        ("io.kubernetes.cri-o.Labels", &labels),
        ("io.kubernetes.cri-o.Metadata", r#"{"name":"own"}"#),
        ("io.kubernetes.cri-o.ContainerType", "container"),
    ];
    let containerd = ["sandbox-id", "sandbox-namespace", "sandbox-name", "sandbox-uid", "container-name"];
    let containerd = containerd.map(|key| format!("io.kubernetes.cri.{key}"));
    let others = |value| containerd.iter().map(move |key| (key.as_str(), value));
    let pod = PodRef { namespace: "own".into(), name: "own".into(), uid: "own".into() };
    let want = ContainerIdentity { pod, sandbox_id: "own".into(), name: "own".into(), sandbox: false };
    let forged: Vec<_> = crio
        .into_iter()
        .chain(others("victim"))
        .chain([("io.kubernetes.cri.container-type", "sandbox")])
        .collect();
    for path in ["kubepods.slice:crio:abc", "/kubepods/pod1/crio-abc"] {
        assert_eq!(identity_of(&map(&forged), path), want, "{path}");
    }
    let victims = labels.replace("\"own\"", "\"victim\"");
    let forged: Vec<_> = others("own")
        .chain([
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri-o.Labels", &victims),
            ("io.kubernetes.cri-o.SandboxID", "victim"),
            ("io.kubernetes.cri-o.ContainerType", "sandbox"),
        ])
        .collect();
    for path in ["kubepods.slice:cri-containerd:abc", "/kubepods/pod1/abc"] {
        assert_eq!(identity_of(&map(&forged), path), want, "{path}");
    }
}

#[test]
fn absent_and_null_are_the_same() {
    let null = r#"{"linux":{"cgroupsPath":null,"namespaces":null,"uidMappings":null},"mounts":null,
        "process":{"user":{"uid":null},"env":null,"args":null},"annotations":null,"root":{"path":null}}"#;
    for json in ["{}", null, r#"{"linux":null,"process":null,"root":null}"#, r#"{"new":[1e999]}"#] {
        assert_eq!(parse_spec(json).unwrap(), Spec::default(), "{json}");
    }
    let mount = parse_spec(r#"{"mounts":[{"destination":"/a"},{"destination":"/run","options":null}]}"#)
        .unwrap()
        .mounts;
    assert_eq!(mount, [Mount { destination: "/run".into(), ..Mount::default() }], "nobody looks for /a");
}

#[test]
fn a_joined_namespace_does_not_count_as_own() {
    for (namespace, want) in [
        (r#"{"type":"cgroup"}"#, true),
        (r#"{"type":"cgroup","path":""}"#, true),
        (r#"{"type":"cgroup","path":"/proc/1/ns/cgroup"}"#, false),
        (r#"{"type":"mount"}"#, false),
        ("{}", false),
    ] {
        let json = format!(r#"{{"linux":{{"namespaces":[{namespace}]}}}}"#);
        assert_eq!(parse_spec(&json).unwrap().cgroup_namespace, want, "{namespace}");
    }
}

#[test]
fn only_relevant_variable_names_are_kept() {
    let json = r#"{"process":{"env":["A=1","container=\u003coci>","C","=x"],"user":{"uid":4294967295}}}"#;
    let spec = parse_spec(json).unwrap();
    assert_eq!(spec.env_names, ["container"]);
    for other in ["containers=1", "=container", "CONTAINER=x"] {
        let json = format!(r#"{{"process":{{"env":["{other}"]}}}}"#);
        assert!(parse_spec(&json).unwrap().env_names.is_empty(), "{other}");
    }
    assert_eq!(spec.process_uid, Some(ContainerId(u32::MAX)));
}

#[test]
fn malformed_documents_are_refused() {
    let chain = |error: OciError| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    };
    let mapping = |ids: &str| format!(r#"{{"linux":{{"uidMappings":[{ids}]}}}}"#);
    for (json, want) in [
        (String::new(), "not an OCI document: EOF while parsing a value at line 1 column 0"),
        (
            mapping(r#"{"containerID":0,"hostID":1,"size":4294967295}"#),
            "linux.uidMappings: line 1: 4294967295 IDs from 1 do not fit into the 32-bit ID space",
        ),
        (
            mapping(r#"{"containerID":-1,"hostID":1,"size":1}"#),
            "not an OCI document: invalid value: integer `-1`, expected u32 at line 1 column 42",
        ),
        (
            mapping(r#"{"containerID":0,"hostID":1,"size":2},{"containerID":1,"hostID":9,"size":2}"#),
            "linux.uidMappings: line 2: overlaps line 1",
        ),
        (" ".repeat(DOCUMENT_LIMIT + 1), "16777217 bytes: longer than 16777216: "),
    ] {
        assert_eq!(chain(parse_spec(&json).unwrap_err()), want);
    }
    let error = parse_state(r#"{"id":"../x","pid":1}"#).unwrap_err();
    assert_eq!(chain(error), "state: \"../x\" is not a container's ID");
    assert!(matches!(parse_state("{}"), Err(OciError::Json(_))));
}

#[test]
fn the_state_of_a_hook_is_parsed() {
    let json = r#"{"ociVersion":"1.0.2","id":"c1","status":"creating","pid":1234,
        "bundle":"/run/containers/storage/overlay-containers/c1/userdata","annotations":{"a":"b","n":null}}"#;
    let want = HookState {
        id: CriId::parse("c1").unwrap(),
        status: "creating".into(),
        pid: Some(1234),
        bundle: "/run/containers/storage/overlay-containers/c1/userdata".into(),
        annotations: map(&[("a", "b"), ("n", "")]),
    };
    assert_eq!(parse_state(json).unwrap(), want);
    let stopped = parse_state(r#"{"id":"c1","status":"stopped","pid":0,"annotations":null}"#).unwrap();
    assert_eq!((stopped.pid, stopped.annotations.len()), (None, 0));
}

/// Documents close to real ones: the real keys with arbitrary values.
fn near() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
        Just("true".to_owned()),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let key = "linux|namespaces|type|path|uidMappings|containerID|hostID|size|mounts|options|process|user|uid|env|args|annotations|root|cgroupsPath|id|pid|status|bundle";
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            proptest::collection::vec((key, inner), 0..6).prop_map(|all| {
                let fields: Vec<_> = all.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_input_is_parsed_without_panic(text in any::<String>(), near in near()) {
        for json in [text.as_str(), near.as_str()] {
            let _ = parse_spec(json).map(|spec| spec.into_container(CriId::parse("x").unwrap(), None));
            let _ = parse_state(json);
            for key in ["Labels", "Metadata", "SandboxName"] {
                let _ = identity_of(&map(&[(&format!("io.kubernetes.cri-o.{key}"), json)]), "");
            }
        }
    }

    #[test]
    fn the_name_of_a_sandbox_is_parsed_back(name in "[a-z0-9.-]{1,20}", namespace in "[a-z0-9-]{1,20}", uid in "[a-f0-9-]{1,36}") {
        let text = format!("k8s_{name}_{namespace}_{uid}_3");
        let place = identity_of(&map(&[("io.kubernetes.cri-o.SandboxName", &text)]), "");
        prop_assert_eq!(place.pod, PodRef { namespace, name, uid });
    }
}

#[test]
fn the_init_process_is_read_from_the_bundle() {
    assert_eq!(recorded_pid(tempfile::tempdir().unwrap().path()), None);
    for (file, text, want) in
        [("pidfile", "4711", Some(4711)), ("init.pid", "42\n", Some(42)), ("init.pid", "", None)]
    {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join(file), text).unwrap();
        assert_eq!(recorded_pid(bundle.path()), want, "{file} {text:?}");
    }
}

#[test]
fn bind_mounts_are_distinguished_from_other_mounts() {
    let json = r#"{"mounts":[
        {"destination":"/proc","type":"proc","source":"proc"},
        {"destination":"/data","type":"bind","source":"/srv/data","options":["rbind"]},
        {"destination":"/none","source":"/srv/none"},
        {"destination":"/lost","type":"bind"}]}"#;
    let found: Vec<_> = bind_sources(json).unwrap().into_iter().collect();
    assert_eq!(found, [("/data".into(), "/srv/data".into()), ("/none".into(), "/srv/none".into())]);
    assert!(bind_sources(r#"{"mounts":null}"#).unwrap().is_empty());
    assert!(bind_sources("{").is_err());
}
