use super::*;
use crate::crio::config::tests::{file, text};
use crate::finding::Severity;
use crate::toml::{Table, Value};

const DROP_IN: &str = "/etc/crio/crio.conf.d/99-x.conf";

fn v(text: &str) -> CrioVersion {
    CrioVersion::parse(text).unwrap()
}

/// `severity: message` of each finding.
fn messages(version: &str, files: &[ConfFile], programs: Programs<'_>) -> Vec<String> {
    let found = check(v(version), files, programs);
    found.iter().map(|finding| format!("{}: {}", finding.severity.name(), finding.message)).collect()
}

fn drop_in(pairs: &[(&str, Value)]) -> Vec<ConfFile> {
    vec![file(DROP_IN, pairs)]
}

#[test]
fn an_empty_configuration_has_no_complaints() {
    for minor in 20..=37 {
        assert_eq!(messages(&format!("1.{minor}.0"), &[], &|_| Some(true)), Vec::<String>::new());
    }
}

/// The messages of a real CRI-O 1.36.3 for the same files.
#[test]
fn messages_are_those_of_cri_o() {
    let validating = |rest: &str| vec![format!("error: validating runtime config: {rest}")];
    for (pairs, want) in [
        (
            vec![("crio/runtime/default_sysctls", Value::list(["a = b"]))],
            validating(
                "invalid default_sysctls: 'a = b' is invalid, extra spaces found: format should be key=value",
            ),
        ),
        (
            vec![("crio/runtime/default_sysctls", Value::list(["net.a= b"]))],
            validating(
                "invalid default_sysctls: 'net.a= b' is invalid, extra spaces found: format should be key=value",
            ),
        ),
        (
            vec![("crio/runtime/default_sysctls", Value::list(["", "ab"]))],
            validating("invalid default_sysctls: \"ab\" is not in key=value format"),
        ),
        (
            vec![
                ("crio/runtime/workloads/x/activation_annotation", text("y")),
                ("crio/runtime/workloads/x/allowed_annotations", Value::list(["foo"])),
            ],
            validating("workloads validation: invalid allowed_annotation: foo"),
        ),
        (
            vec![("crio/runtime/workloads/x/resources/cpushares", Value::Integer(1))],
            validating("workloads validation: annotation shouldn't be empty for workload \"x\""),
        ),
        (
            vec![("crio/runtime/default_runtime", text("zz"))],
            validating(
                "default_runtime set to \"zz\", but no runtime entry table [crio.runtime.runtimes.zz] was found",
            ),
        ),
        (
            vec![("crio/runtime/runtimes/crun/allowed_annotations", Value::list(["foo"]))],
            validating("runtime validation: invalid allowed_annotation: foo"),
        ),
        (
            vec![("crio/runtime/runtimes/other/allowed_annotations", Value::list(["foo"]))],
            vec![
                "warning: Runtime handler \"other\" is being ignored due to: invalid allowed_annotation: foo"
                    .into(),
            ],
        ),
        (
            vec![("crio/nri/enable_nri", text("x"))],
            vec![format!(
                "error: get and merge config from context: update config from path: walk path: unable to decode \
                 configuration {DROP_IN}: toml: (last key \"crio.nri.enable_nri\"): incompatible types: TOML value \
                 has type string; destination has type boolean"
            )],
        ),
    ] {
        assert_eq!(messages("1.36.3", &drop_in(&pairs), &|_| Some(true)), want);
    }
}

#[test]
fn a_missing_program_is_fatal_for_the_default_handler_only() {
    let pairs = [
        ("crio/runtime/default_runtime", text("mycrun")),
        ("crio/runtime/runtimes/mycrun/monitor_path", text("/usr/bin/conmon")),
        ("crio/runtime/runtimes/other/runtime_path", text("/opt/other")),
        ("crio/runtime/runtimes/other/monitor_path", text("/usr/bin/conmon")),
    ];
    let programs = |name: &str| Some(!matches!(name, "mycrun" | "/opt/other"));
    assert_eq!(
        messages("1.36.3", &drop_in(&pairs), &programs),
        [
            "error: validating runtime config: runtime validation: \"mycrun\" not found in $PATH: exec: \"mycrun\": \
             executable file not found in $PATH",
            "warning: Runtime handler \"other\" is being ignored due to: invalid runtime_path for runtime 'other': \
             stat /opt/other: no such file or directory",
        ]
    );
    assert!(messages("1.20.0", &drop_in(&pairs), &programs).iter().all(|line| line.starts_with("error")));
    assert_eq!(messages("1.36.3", &drop_in(&pairs), &unchecked), Vec::<String>::new());
}

#[test]
fn a_handler_without_a_monitor_is_fatal_where_conmon_is_elsewhere() {
    let pairs = [
        ("crio/runtime/runtimes/crun/monitor_path", text("/usr/libexec/crio/conmon")),
        ("crio/runtime/runtimes/new/inherit_default_runtime", Value::Bool(true)),
    ];
    let programs = |name: &str| Some(name != "conmon" && name != "new");
    let want = "error: validating runtime config: monitor fields translation: failed to translate monitor fields for \
                runtime new: exec: \"conmon\": executable file not found in $PATH";
    assert_eq!(messages("1.36.3", &drop_in(&pairs), &programs), [want]);
    // The handler is ignored for another reason first.
    let old = messages("1.31.2", &drop_in(&pairs), &programs);
    assert!(old.len() == 1 && old[0].starts_with("warning: Runtime handler \"new\""), "{old:?}");
    let before = messages("1.23.0", &[], &programs);
    assert!(before.len() == 1 && before[0].contains("conmon validation: exec"), "{before:?}");
    let mut everyones = pairs.to_vec();
    everyones.push(("crio/runtime/conmon", text("/usr/libexec/crio/conmon")));
    assert_eq!(messages("1.36.3", &drop_in(&everyones), &programs), Vec::<String>::new());
}

#[test]
fn drop_ins_of_openshifts_operator_are_not_stray_files() {
    for name in [
        "00-default",
        "01-ctrcfg-pidsLimit",
        "01-ctrcfg-logLevel",
        "01-ctrcfg-logSizeMax",
        "01-ctrcfg-additionalArtifactStores",
        "99-cic-systemd",
        "10-nvidia",
        "50-pinned-images",
        "99-userns",
        "10-userns.toml",
        "20-pause.cfg",
    ] {
        let path = format!("/etc/crio/crio.conf.d/{name}");
        let file = ConfFile { path, link: false, content: Content::Toml(Table::new()) };
        assert_eq!(check(v("1.36.3"), &[file], &unchecked), Vec::new(), "{name}");
    }
    for name in [
        "x.conf.bak",
        "x.conf~",
        "x.conf.rpmsave",
        ".x.swp",
        "x~",
        "x.conf.dpkg-old",
        "#x#",
        "x.orig",
        "x.conf.disabled",
    ] {
        let path = format!("/etc/crio/crio.conf.d/{name}");
        let file = ConfFile { path, link: false, content: Content::Toml(Table::new()) };
        assert_eq!(check(v("1.36.3"), &[file], &unchecked).len(), 1, "{name}");
    }
}

#[test]
fn stray_files_are_found() {
    let plain = |path: &str, link| ConfFile { path: path.into(), link, content: Content::Toml(Table::new()) };
    for (stray, severity, word) in [
        (plain("/etc/crio/crio.conf.d/00-default.bak", false), Severity::Warning, "has left"),
        (plain("/etc/crio/crio.conf.d/sub/x.tmp", false), Severity::Warning, "has left"),
        (plain("/etc/crio/crio.conf.d/x.conf", true), Severity::Warning, "symbolic link"),
        (
            ConfFile { content: Content::NotToml("line 1: expected '='".into()), ..plain(DROP_IN, false) },
            Severity::Error,
            "unable to decode configuration",
        ),
        (
            ConfFile {
                content: Content::Unreadable("read /etc/crio/crio.conf.d/..data: is a directory".into()),
                ..plain("/etc/crio/crio.conf.d/..data", true)
            },
            Severity::Error,
            "walk path: read /etc/crio/crio.conf.d/..data: is a directory",
        ),
    ] {
        let found = check(v("1.36.3"), std::slice::from_ref(&stray), &unchecked);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, severity);
        assert!(found[0].message.contains(word), "{:?}", found[0]);
        assert!(!found[0].remedy.is_empty());
    }
    assert_eq!(check(v("1.36.3"), &[plain("/etc/crio/crio.conf", true)], &unchecked), []);
}

#[test]
fn a_replaced_table_is_reported_with_the_keys_it_loses() {
    let files = [
        file(
            "/etc/crio/crio.conf.d/10-crio.conf",
            &[
                ("crio/runtime/runtimes/crun/runtime_path", text("/usr/libexec/crio/crun")),
                ("crio/runtime/runtimes/crun/monitor_path", text("/usr/libexec/crio/conmon")),
            ],
        ),
        file(
            DROP_IN,
            &[("crio/runtime/runtimes/crun/allowed_annotations", Value::list(Vec::<String>::new()))],
        ),
    ];
    assert_eq!(
        messages("1.36.3", &files, &unchecked),
        ["warning: replaces the whole table [crio.runtime.runtimes.crun] of \
          /etc/crio/crio.conf.d/10-crio.conf and loses: monitor_path, runtime_path"]
    );
}

#[test]
fn versions_that_refuse_new_or_double_names_do_not_start() {
    let list = |names: &[&str]| {
        drop_in(&[
            ("crio/runtime/workloads/x/activation_annotation", text("y")),
            ("crio/runtime/workloads/x/allowed_annotations", Value::list(names.iter().copied())),
        ])
    };
    let old = "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw";
    for (version, names, good) in [
        ("1.22.5", &[old][..], true), // workloads had no such list
        ("1.23.0", &[old], true),
        ("1.34.11", &[old, "cgroup2-mount-hierarchy-rw.crio.io"], false),
        ("1.35.0", &[old, "cgroup2-mount-hierarchy-rw.crio.io"], true),
        ("1.29.9", &[old, old], false),
        ("1.29.10", &[old, old], true),
    ] {
        assert_eq!(messages(version, &list(names), &unchecked).is_empty(), good, "{version} {names:?}");
    }
}

#[test]
fn an_annotation_allowed_twice_breaks_pods_of_old_versions() {
    let both = drop_in(&[
        ("crio/runtime/runtimes/runc/allowed_annotations", Value::list(["io.kubernetes.cri-o.userns-mode"])),
        ("crio/runtime/workloads/x/activation_annotation", text("y")),
        ("crio/runtime/workloads/x/allowed_annotations", Value::list(["io.kubernetes.cri-o.userns-mode"])),
    ]);
    for (version, good) in [("1.23.0", false), ("1.30.6", false), ("1.30.7", true), ("1.36.3", true)] {
        assert_eq!(messages(version, &both, &unchecked).is_empty(), good, "{version}");
    }
}

#[test]
fn duplicate_workloads_are_found() {
    let twins = drop_in(&[
        ("crio/runtime/workloads/a/activation_annotation", text("y")),
        ("crio/runtime/workloads/b/activation_annotation", text("y")),
        ("crio/runtime/workloads/b/allowed_annotations", Value::list(["io.containers.trace-syscall"])),
    ]);
    let messages = messages("1.36.3", &twins, &unchecked);
    assert!(messages.len() == 1 && messages[0].contains("picks one at random"), "{messages:?}");
}

/// okd-project/okd#2255: an old setting makes a handler the default whose program is no longer installed.
#[test]
fn the_default_handlers_missing_program_is_blamed_on_the_line_that_chooses_it() {
    const CHOICE: &str = "/etc/crio/crio.conf.d/01-ctrcfg-defaultRuntime";
    let base = [
        ("crio/runtime/default_runtime", text("crun")),
        ("crio/runtime/runtimes/runc/runtime_root", text("/run/runc")),
        ("crio/runtime/runtimes/crun/runtime_root", text("/run/crun")),
    ];
    let choice = |name: &str| file(CHOICE, &[("crio/runtime/default_runtime", text(name))]);
    let files = |last: ConfFile| vec![file("/etc/crio/crio.conf.d/00-default", &base), last];
    let errors = |files: &[ConfFile], installed: &[&str]| -> Vec<(String, String)> {
        let found = check(v("1.33.5"), files, &|name| Some(installed.contains(&name)));
        let errors = found.into_iter().filter(|found| found.severity == Severity::Error);
        errors.map(|found| (found.place, found.remedy)).collect()
    };
    let found = errors(&files(choice("runc")), &["crun", "conmon"]);
    let [(place, remedy)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(place, CHOICE);
    assert!(remedy.contains("whose program is installed (crun)"), "{remedy}");
    assert!(remedy.contains("ContainerRuntimeConfig"), "{remedy}");

    // A path that is not there, and one handler more to choose from.
    let kata = file(
        CHOICE,
        &[
            ("crio/runtime/default_runtime", text("kata")),
            ("crio/runtime/runtimes/kata/runtime_path", text("/usr/bin/containerd-shim-kata-v2")),
            ("crio/runtime/runtimes/kata/runtime_type", text("vm")),
        ],
    );
    let found = errors(&files(kata), &["crun", "runc", "conmon"]);
    let [(place, remedy)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(place, CHOICE);
    assert!(remedy.contains("(crun, runc)"), "{remedy}");

    // Nothing else is installed, and no file chooses: the handler itself is all there is to name.
    let found = errors(&[file(DROP_IN, &base[1..2])], &["conmon"]);
    let remedies: Vec<&str> = found.iter().map(|(_, remedy)| remedy.as_str()).collect();
    assert_eq!(remedies, ["install that program, or set the handler's runtime_path"]);

    // The default is complete: the other is ignored, which is no error.
    assert_eq!(errors(&files(choice("crun")), &["crun", "conmon"]), []);
}

#[test]
fn monitors_have_a_cgroup_that_the_manager_can_make() {
    const HANDLER: &str = "crio/runtime/runtimes/crun/monitor_cgroup";
    type Case = (&'static str, &'static [(&'static str, &'static str)], bool);
    let cases: [Case; 14] = [
        ("1.36.3", &[("crio/runtime/conmon_cgroup", "kube")], false),
        ("1.36.3", &[("crio/runtime/conmon_cgroup", "pod")], true),
        ("1.36.3", &[("crio/runtime/conmon_cgroup", "kube.slice")], true),
        ("1.36.3", &[(HANDLER, "kube")], false),
        ("1.36.3", &[(HANDLER, "kube.slice")], true),
        // conmon_cgroup takes the place of the handlers' own.
        ("1.36.3", &[(HANDLER, "kube"), ("crio/runtime/conmon_cgroup", "pod")], true),
        ("1.36.3", &[("crio/runtime/cgroup_manager", "cgroupfs"), (HANDLER, "kube.slice")], false),
        ("1.36.3", &[("crio/runtime/cgroup_manager", "cgroupfs"), (HANDLER, "system.slice")], true),
        ("1.32.0", &[("crio/runtime/cgroup_manager", "cgroupfs"), (HANDLER, "system.slice")], false),
        ("1.36.3", &[("crio/runtime/cgroup_manager", "cgroupfs"), (HANDLER, "pod")], true),
        (
            "1.36.3",
            &[("crio/runtime/cgroup_manager", "cgroupfs"), ("crio/runtime/conmon_cgroup", "a.slice")],
            false,
        ),
        ("1.22.0", &[("crio/runtime/conmon_cgroup", "kube")], false),
        // A key that 1.22 does not have.
        ("1.22.0", &[("crio/runtime/runtimes/runc/monitor_cgroup", "kube")], true),
        // Only the monitors of OCI runtimes are in a cgroup of their own.
        (
            "1.36.3",
            &[
                ("crio/runtime/runtimes/k/runtime_type", "vm"),
                ("crio/runtime/runtimes/k/monitor_cgroup", "x"),
            ],
            true,
        ),
    ];
    for (version, pairs, good) in cases {
        let pairs: Vec<(&str, Value)> = pairs.iter().map(|(key, value)| (*key, text(value))).collect();
        let found = messages(version, &drop_in(&pairs), &unchecked);
        assert_eq!(found.is_empty(), good, "{version} {pairs:?}: {found:?}");
        assert!(found.iter().all(|line| line.contains("conmon cgroup should be 'pod' or")), "{found:?}");
    }
}

/// The words are those of CRI-O 1.36.3 for the same files.
#[test]
fn values_that_cri_o_refuses_are_found() {
    for (key, value, word) in [
        ("crio/runtime/cgroup_manager", text("Systemd"), "invalid cgroup manager: Systemd"),
        ("crio/runtime/log_level", text("verbose"), "not a valid logrus Level: \"verbose\""),
        (
            "crio/runtime/default_ulimits",
            Value::list(["nofile=1:2", "nofile=abc"]),
            "unrecognized ulimit nofile=abc",
        ),
        ("crio/runtime/default_ulimits", Value::list(["nofile=3:2"]), "unrecognized ulimit nofile=3:2"),
        ("crio/runtime/log_size_max", Value::Integer(100), "log size max should be negative or >= 8192"),
        ("crio/runtime/pinns_path", text("/opt/pinns"), "invalid pinns path: stat /opt/pinns"),
        ("crio/image/image_volumes", text("copy"), "unrecognized image volume type"),
    ] {
        let programs = |name: &str| Some(name != "/opt/pinns");
        let found = messages("1.36.3", &drop_in(&[(key, value)]), &programs);
        assert!(
            found.len() == 1 && found[0].starts_with("error") && found[0].contains(word),
            "{key}: {found:?}"
        );
    }
    for (key, value) in [
        ("crio/runtime/cgroup_manager", text("cgroupfs")),
        ("crio/runtime/log_level", text("Warning")),
        ("crio/runtime/default_ulimits", Value::list(["nofile=1024", "core=-1:-1", "nproc=1:-1"])),
        ("crio/runtime/log_size_max", Value::Integer(-1)),
        ("crio/runtime/pinns_path", text("")),
        ("crio/runtime/seccomp_profile", text("/opt/seccomp.json")),
    ] {
        let programs = |name: &str| Some(name != "/opt/seccomp.json");
        assert_eq!(messages("1.36.3", &drop_in(&[(key, value)]), &programs), Vec::<String>::new(), "{key}");
    }
    let profile = drop_in(&[("crio/runtime/seccomp_profile", text("/opt/seccomp.json"))]);
    let old = messages("1.32.0", &profile, &|name| Some(name != "/opt/seccomp.json"));
    assert!(old.len() == 1 && old[0].contains("unable to load seccomp profile"), "{old:?}");
}

#[test]
fn resources_of_a_workload_that_cri_o_refuses_are_found() {
    let workload = |pairs: &[(&str, Value)]| {
        let mut all = vec![("crio/runtime/workloads/x/activation_annotation", text("y"))];
        all.extend(pairs.iter().cloned());
        drop_in(&all)
    };
    let key = |name: &str| format!("crio/runtime/workloads/x/resources/{name}");
    let [shares, quota, period, set] = ["cpushares", "cpuquota", "cpuperiod", "cpuset"].map(key);
    for (pairs, word) in [
        (vec![(shares.as_str(), text("x"))], "has type string; destination has type integer"),
        (
            vec![(quota.as_str(), Value::Integer(5)), (shares.as_str(), Value::Integer(9))],
            "cannot be less than cpushares",
        ),
        (vec![(period.as_str(), Value::Integer(5))], "cannot be less than 1000 microseconds"),
        (vec![(set.as_str(), text("0-"))], "unable to parse cpuset"),
    ] {
        let found = messages("1.36.3", &workload(&pairs), &unchecked);
        assert!(found.len() == 1 && found[0].contains(word), "{pairs:?}: {found:?}");
    }
    let good = workload(&[(shares.as_str(), Value::Integer(2)), (set.as_str(), text("0-3,8"))]);
    assert_eq!(messages("1.36.3", &good, &unchecked), Vec::<String>::new());
}
