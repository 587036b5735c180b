use super::*;

/// A table made of `path = value` pairs; the keys of a path are separated by slashes.
pub(crate) fn table(pairs: &[(&str, Value)]) -> Table {
    let mut root = Table::new();
    for (path, value) in pairs {
        let (tables, key) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = &mut root;
        for name in tables.split('/').filter(|name| !name.is_empty()) {
            let next = at.entry(name.into()).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(next) = next else { panic!("{path}") };
            at = next;
        }
        at.insert(key.into(), value.clone());
    }
    root
}

pub(crate) fn file(path: &str, pairs: &[(&str, Value)]) -> ConfFile {
    ConfFile { path: path.into(), link: false, content: Content::Toml(table(pairs)) }
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.into())
}

const RUNC: &str = "crio/runtime/runtimes/runc";

fn v(minor: u16) -> CrioVersion {
    CrioVersion::new(1, minor, 0)
}

#[test]
fn a_drop_in_replaces_the_whole_table() {
    let files = [
        file("a", &[(&format!("{RUNC}/runtime_path"), text("/usr/bin/runc"))]),
        file("b", &[(&format!("{RUNC}/allowed_annotations"), Value::list(["x"]))]),
    ];
    let effective = Effective::of(v(36), &files);
    let runc = &effective.handlers["runc"];
    assert_eq!((runc.text("runtime_path"), runc.allowed()), ("", vec!["x".to_owned()]));
    assert_eq!(runc.file.as_deref(), Some("b"));
    // The built-in one stays.
    assert_eq!(effective.default_handler().unwrap().allowed().len(), 2);
}

#[test]
fn later_values_win_and_lists_are_replaced() {
    let files = [
        file(
            "a",
            &[
                ("crio/runtime/default_sysctls", Value::list(["a=1"])),
                ("crio/nri/enable_nri", Value::Bool(false)),
            ],
        ),
        file("b", &[("crio/runtime/Default_Sysctls", Value::list(["b=2"]))]),
    ];
    let effective = Effective::of(v(36), &files);
    assert_eq!(effective.default_sysctls.value, ["b=2"]);
    assert_eq!(effective.nri, Setting { value: false, file: Some("a".into()) });
}

#[test]
fn another_default_runtime_removes_runc_until_1_25_0() {
    let files = [file(
        "a",
        &[
            ("crio/runtime/default_runtime", text("crun")),
            (&format!("{RUNC}/runtime_path"), text("/usr/bin/runc")),
            ("crio/runtime/runtimes/crun/runtime_path", text("/usr/bin/crun")),
        ],
    )];
    for (version, stays) in [
        (v(20), false),
        (CrioVersion::new(1, 24, 6), false),
        (v(25), false),
        (CrioVersion::new(1, 25, 1), true),
        (v(30), true),
    ] {
        let effective = Effective::of(version, &files);
        assert_eq!(effective.handlers.contains_key("runc"), stays, "{version}");
    }
}

#[test]
fn an_empty_default_runtime_is_the_built_in_one() {
    let files = [file("a", &[("crio/runtime/default_runtime", text(""))])];
    for minor in [20, 30, 36] {
        let effective = Effective::of(v(minor), &files);
        assert_eq!(effective.default_runtime.value, v(minor).default_runtime());
        assert!(effective.default_handler().is_some(), "1.{minor}");
    }
}

#[test]
fn values_of_a_wrong_type_are_found() {
    for (path, value, want) in [
        ("crio", text("x"), "crio: string for table"),
        ("crio/runtime/default_runtime", Value::Bool(true), "crio.runtime.default_runtime: bool for string"),
        ("crio/runtime/hooks_dir", text("/x"), "crio.runtime.hooks_dir: string for slice"),
        (
            "crio/runtime/hooks_dir",
            Value::List(vec![Value::Integer(1)]),
            "crio.runtime.hooks_dir: int64 for string",
        ),
        ("crio/runtime/runtimes/x", text(""), "crio.runtime.runtimes.x: string for table"),
        (
            "crio/runtime/workloads/x/activation_annotation",
            Value::Integer(1),
            "crio.runtime.workloads.x.activation_annotation: int64 for string",
        ),
        ("crio/nri/enable_nri", text("true"), "crio.nri.enable_nri: string for boolean"),
        ("crio/runtime/pids_limit", text("1024"), "crio.runtime.pids_limit: string for integer"),
        ("crio/network/plugin_dirs", text("x"), "crio.network.plugin_dirs: string for slice"),
        ("crio/storage_driver", Value::Integer(5), "crio.storage_driver: int64 for string"),
        ("crio/image", Value::Integer(5), "crio.image: int64 for table"),
        ("crio/api/stream_enable_tls", text("yes"), "crio.api.stream_enable_tls: string for boolean"),
        (
            "crio/runtime/runtimes/x/default_annotations/a",
            Value::Bool(true),
            "crio.runtime.runtimes.x.default_annotations: bool for string",
        ),
    ] {
        let found = wrong_types(v(36), &table(&[(path, value)]));
        let found: Vec<String> =
            found.iter().map(|w| format!("{}: {} for {}", w.key, w.found, w.wanted)).collect();
        assert_eq!(found, [want]);
    }
    let nri = table(&[("crio/nri/enable_nri", text("true")), ("crio/unknown", Value::Integer(1))]);
    assert_eq!(wrong_types(v(25), &nri), []);
}
