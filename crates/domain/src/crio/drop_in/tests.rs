use proptest::prelude::*;

use super::*;
use crate::crio::check::unchecked;
use crate::crio::config::order;
use crate::crio::config::tests::{file, text};
use crate::finding::FindingId;

fn v(text: &str) -> CrioVersion {
    CrioVersion::parse(text).unwrap()
}

fn planned(version: &str, files: &[ConfFile], options: CrioOptions) -> Result<DropIn, DropInError> {
    plan(
        CrioNode { version: v(version), kubernetes: None, files: Some(files), programs: &unchecked },
        options,
    )
}

fn written(version: &str, files: &[ConfFile], options: CrioOptions) -> String {
    planned(version, files, options).unwrap().text.unwrap_or_default()
}

fn notes(version: &str, files: &[ConfFile], options: CrioOptions) -> String {
    let notes: Vec<String> =
        planned(version, files, options).unwrap().notes.iter().map(Finding::to_string).collect();
    notes.join("\n")
}

const ALL: CrioOptions = CrioOptions {
    writable_cgroup: true,
    userns_mode: None,
    pod_events: true,
    nri: true,
    ping_group_range: true,
    hook: false,
    validator: None,
};

#[test]
fn the_newest_form_is_rendered_in_full() {
    assert_eq!(
        written("1.36.3", &[], ALL),
        r#"# Written by usernsd; changes made here are lost.
# CRI-O reads it when it starts, not on reload.
# CRI-O 1.34 and older do not start with it: take it away before a downgrade.

[crio.runtime]
enable_pod_events = true
default_sysctls = ["net.ipv4.ping_group_range=0 2147483647"]

# Pods may use these annotations. Of several workloads that match CRI-O picks one at random: each allows all.
[crio.runtime.workloads.usernsd]
activation_annotation = "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw"
allowed_annotations = [
  "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw",
  "cgroup2-mount-hierarchy-rw.crio.io",
]

[crio.runtime.workloads.usernsd-v2]
activation_annotation = "cgroup2-mount-hierarchy-rw.crio.io"
allowed_annotations = [
  "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw",
  "cgroup2-mount-hierarchy-rw.crio.io",
]
"#
    );
}

#[test]
fn the_text_names_what_keeps_an_older_version_from_starting() {
    for (version, is_noted) in [("1.34.11", false), ("1.35.0", true), ("1.37.0", true), ("1.38.0", true)] {
        assert_eq!(notes(version, &[], ALL).contains("[crio-downgrade]"), is_noted, "{version}");
        assert_eq!(written(version, &[], ALL).contains("before a downgrade"), is_noted, "{version}");
    }
    let none = CrioOptions { writable_cgroup: false, userns_mode: Some(false), ..ALL };
    assert!(!notes("1.36.3", &[], none).contains(FindingId::CrioDowngrade.name()));
}

/// The settings of each version, at every boundary of the facts. c: writable cgroup, u: userns-mode, lower
/// case old names, upper case new; e: events, n: NRI, p: ping; h: the handler's table.
#[test]
fn each_version_gets_what_it_supports() {
    for (version, want) in [
        ("1.20.0", "hu"),
        ("1.22.5", "hu"),
        ("1.23.0", "cu"),
        ("1.24.6", "cu"),
        ("1.25.5", "cu"),
        ("1.26.0", "cun"),
        ("1.27.8", "cun"),
        ("1.28.0", "cuen"),
        ("1.29.4", "cuen"),
        ("1.29.5", "cuenp"),
        ("1.30.0", "cue"),
        ("1.30.1", "cuep"),
        ("1.31.0", "cuep"),
        ("1.32.0", "cuep"),
        ("1.33.0", "cep"),
        ("1.34.11", "cep"),
        ("1.35.0-rc.1", "cep"),
        ("1.35.0", "cCep"),
        ("1.37.0", "cCep"),
        ("1.38.0", "Cep"),
        ("1.40.1", "Cep"),
    ] {
        let text = written(version, &[], ALL);
        let found: String = [
            ('h', "[crio.runtime.runtimes."),
            ('c', "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw"),
            ('C', "\"cgroup2-mount-hierarchy-rw.crio.io"),
            ('u', "io.kubernetes.cri-o.userns-mode"),
            ('U', "\"userns-mode.crio.io"),
            ('e', "enable_pod_events = true"),
            ('n', "enable_nri = true"),
            ('p', "net.ipv4.ping_group_range=0 2147483647"),
        ]
        .iter()
        .filter(|(_, word)| text.contains(word))
        .map(|(letter, _)| *letter)
        .collect();
        assert_eq!(found, want, "{version}\n{text}");
    }
}

#[test]
fn an_unknown_version_is_refused() {
    assert_eq!(planned("1.19.9", &[], ALL), Err(DropInError::TooOld(v("1.19.9"))));
    assert_eq!(planned("2.0.0", &[], ALL), Err(DropInError::Unknown(v("2.0.0"))));
    let node = CrioNode { version: v("1.22.5"), kubernetes: None, files: None, programs: &unchecked };
    assert_eq!(plan(node, ALL), Err(DropInError::NeedsConfiguration(v("1.22.5"))));
}

#[test]
fn userns_mode_follows_kubernetes_unless_configured() {
    let node =
        |kubernetes| CrioNode { version: v("1.34.0"), kubernetes, files: Some(&[]), programs: &unchecked };
    let has = |kubernetes, wish| {
        let plan = plan(node(kubernetes), CrioOptions { userns_mode: wish, ..ALL }).unwrap();
        (
            plan.text.unwrap().contains("userns-mode"),
            plan.notes.iter().any(|n| n.id == FindingId::CrioUsernsMode),
        )
    };
    assert_eq!(has(None, None), (false, false));
    assert_eq!(has(Some(32), None), (true, false));
    assert_eq!(has(Some(33), None), (false, false));
    assert_eq!(has(Some(33), Some(true)), (true, true));
    assert_eq!(has(Some(32), Some(false)), (false, false));
    let both = written("1.36.0", &[], CrioOptions { userns_mode: Some(true), ..ALL });
    assert_eq!(both.matches("[crio.runtime.workloads.").count(), 4, "{both}");
    assert_eq!(both.matches("  \"userns-mode.crio.io\",").count(), 4, "{both}");
}

#[test]
fn the_old_form_keeps_every_key_of_the_handler() {
    let files = [file(
        "/etc/crio/crio.conf",
        &[
            ("crio/runtime/runtimes/runc/runtime_path", text("/usr/libexec/runc")),
            ("crio/runtime/runtimes/runc/runtime_root", text("/run/x")),
            ("crio/runtime/runtimes/runc/unheard_of", Value::Integer(3)),
            ("crio/runtime/runtimes/runc/allowed_annotations", Value::list(["io.containers.trace-syscall"])),
        ],
    )];
    let text = written("1.22.5", &files, ALL);
    for line in [
        "[crio.runtime.runtimes.runc]",
        "runtime_path = \"/usr/libexec/runc\"",
        "runtime_root = \"/run/x\"",
        "unheard_of = 3",
        "  \"io.containers.trace-syscall\",\n  \"io.kubernetes.cri-o.userns-mode\",",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!notes("1.22.5", &files, ALL).contains("replaces"));
}

#[test]
fn lists_are_merged_and_an_administrators_choices_stay() {
    let sysctl = |list: &[&str]| {
        [file(
            "/etc/crio/crio.conf.d/00-default",
            &[("crio/runtime/default_sysctls", Value::list(list.iter().copied()))],
        )]
    };
    let text = written("1.36.3", &sysctl(&["net.core.somaxconn=1024"]), ALL);
    assert!(
        text.contains("  \"net.core.somaxconn=1024\",\n  \"net.ipv4.ping_group_range=0 2147483647\",\n"),
        "{text}"
    );
    let same = sysctl(&["net.ipv4.ping_group_range=0 2147483647"]);
    assert!(!written("1.36.3", &same, ALL).contains("sysctl"));
    assert!(!notes("1.36.3", &same, ALL).contains("ping"));
    assert!(notes("1.30.0", &same, ALL).contains("Invalid argument"));
    let other = sysctl(&["net.ipv4.ping_group_range=0 1000000000"]);
    assert!(notes("1.36.3", &other, ALL).contains("which CRI-O fits"));

    let off = [file(
        "/etc/crio/crio.conf",
        &[
            ("crio/runtime/enable_pod_events", Value::Bool(false)),
            ("crio/nri/enable_nri", Value::Bool(false)),
        ],
    )];
    let text = written("1.36.3", &off, ALL);
    assert!(!text.contains("enable_"), "{text}");
    let output = notes("1.36.3", &off, ALL);
    assert!(output.contains("enable_pod_events stays off, as set in /etc/crio/crio.conf"), "{output}");
    assert!(output.contains("enable_nri stays off"), "{output}");
}

#[test]
fn a_hook_adds_a_writable_directory() {
    let hook = || CrioOptions { hook: true, ..ALL };
    let text = written("1.24.6", &[], hook());
    assert!(
        text.contains(
            "hooks_dir = [\n  \"/usr/share/containers/oci/hooks.d\",\n  \"/etc/usernsd/hooks.d\",\n]"
        ),
        "{text}"
    );
    let there = [file(
        "/etc/crio/crio.conf",
        &[("crio/runtime/hooks_dir", Value::list(["/etc/containers/oci/hooks.d"]))],
    )];
    assert!(!written("1.24.6", &there, hook()).contains("hooks_dir"));
    assert!(!notes("1.24.6", &there, hook()).contains("install the OCI hook"));
    let later =
        [file("/etc/crio/crio.conf.d/zz.conf", &[("crio/runtime/hooks_dir", Value::list(["/usr/x"]))])];
    assert!(notes("1.24.6", &later, hook()).contains("hooks_dir has no effect"));
}

/// Keys in another file that are not named here stay: CRI-O merges the table key by key.
#[test]
fn the_validator_is_written_if_cri_o_has_one() {
    let validator = Validator {
        enabled: Some(true),
        required: vec!["logger".into(), "usernsd".into()],
        toleration: "example.com".into(),
        rejects_namespaces: false,
    };
    let options = || CrioOptions { validator: Some(validator.clone()), ..ALL };
    let text = written("1.34.0", &[], options());
    assert!(
        text.contains(
            "[crio.nri.default_validator]\nnri_enable_default_validator = true\n\
             nri_validator_required_plugins = [\n  \"logger\",\n  \"usernsd\",\n]\n\
             nri_validator_tolerate_missing_plugins_annotation = \"example.com\"\n"
        ),
        "{text}"
    );
    assert!(!written("1.33.9", &[], options()).contains("validator"));
    let key = "crio/nri/default_validator/nri_validator_required_plugins";
    let later = [file("/etc/crio/crio.conf.d/zz.conf", &[(key, Value::list(["x"]))])];
    assert!(notes("1.34.0", &later, options()).contains("nri_validator_required_plugins has no effect"));
    // Read back, with the keys of an earlier file.
    let rejects = "crio/nri/default_validator/nri_validator_reject_namespace_adjustment";
    let files = [
        file("/etc/crio/crio.conf", &[(rejects, Value::Bool(true))]),
        file("/etc/crio/crio.conf.d/10.conf", &[(key, Value::list(["x"]))]),
        file("/etc/crio/crio.conf.d/20.conf", &[("crio/nri/nri_plugin_dir", Value::Text("/srv".into()))]),
    ];
    let conf = Effective::of(CrioVersion::new(1, 37, 0), &files).nri_conf();
    assert_eq!(
        (conf.plugin_dir.as_str(), conf.config_dir.as_str(), conf.on),
        ("/srv", "/etc/nri/conf.d", true)
    );
    assert_eq!(
        conf.validator,
        Validator { required: vec!["x".into()], rejects_namespaces: true, ..Validator::default() }
    );
}

#[test]
fn no_annotation_is_allowed_twice_if_that_is_an_error() {
    let files = [file(
        "/etc/crio/crio.conf.d/10-x.conf",
        &[("crio/runtime/runtimes/runc/allowed_annotations", Value::list([CGROUP[0]]))],
    )];
    for (version, twice) in [("1.29.9", false), ("1.29.10", true), ("1.30.6", false), ("1.31.2", true)] {
        let text = written(version, &files, ALL);
        assert_eq!(text.contains(CGROUP[0]), twice, "{version}\n{text}");
        assert!(text.contains(USERNS_MODE[0]), "{version}");
    }
}

#[test]
fn a_workload_with_our_activation_annotation_is_kept() {
    let twin = |allowed: &[&str]| {
        [file(
            "/etc/crio/crio.conf.d/50-theirs.conf",
            &[
                ("crio/runtime/workloads/theirs/activation_annotation", text(CGROUP[0])),
                ("crio/runtime/workloads/theirs/allowed_annotations", Value::list(allowed.iter().copied())),
            ],
        )]
    };
    let text = written("1.34.0", &twin(&[CGROUP[0]]), ALL);
    assert!(!text.contains("workloads"), "{text}");
    let output = notes("1.34.0", &twin(&[]), ALL);
    assert!(output.contains("50-theirs.conf: workload \"theirs\""), "{output}");
    let taken = [file(
        "/etc/crio/crio.conf.d/50-theirs.conf",
        &[("crio/runtime/workloads/usernsd/activation_annotation", Value::Text("x".into()))],
    )];
    assert!(matches!(planned("1.34.0", &taken, ALL), Err(DropInError::NameTaken { .. })));
}

#[test]
fn a_later_file_that_wins_is_named() {
    let files = [file(
        "/etc/crio/crio.conf.d/zz.conf",
        &[("crio/runtime/default_sysctls", Value::list(["net.x=1"]))],
    )];
    let output = notes("1.36.3", &files, ALL);
    assert!(
        output.contains("default_sysctls has no effect: /etc/crio/crio.conf.d/zz.conf comes later"),
        "{output}"
    );
}

#[test]
fn the_plan_ignores_the_existing_drop_in() {
    let ours = [file(
        PATH,
        &[
            ("crio/runtime/enable_pod_events", Value::Bool(true)),
            ("crio/runtime/default_sysctls", Value::list(["net.ipv4.ping_group_range=0 2147483647"])),
            ("crio/runtime/workloads/usernsd/activation_annotation", Value::Text(CGROUP[0].into())),
        ],
    )];
    assert_eq!(written("1.36.3", &ours, ALL), written("1.36.3", &[], ALL));
}

#[test]
fn files_are_sorted_in_the_order_in_which_cri_o_reads_them() {
    let mut paths = [
        "/etc/crio/crio.conf.d/a/z",
        "/etc/crio/crio.conf.d/a.conf",
        "/etc/crio/crio.conf.d/99-usernsd.conf",
        "/etc/crio/crio.conf.d/.x",
        "/etc/crio/crio.conf",
    ];
    paths.sort_by(|one, other| order(one).cmp(&order(other)));
    assert_eq!(
        paths,
        [
            "/etc/crio/crio.conf",
            "/etc/crio/crio.conf.d/.x",
            "/etc/crio/crio.conf.d/99-usernsd.conf",
            "/etc/crio/crio.conf.d/a/z",
            "/etc/crio/crio.conf.d/a.conf",
        ]
    );
}

proptest! {
    /// For any existing files and any version, no plan adds a fatal finding.
    #[test]
    fn no_planned_drop_in_keeps_cri_o_from_starting(
        minor in 20u16..=39,
        patch in 0u16..14,
        userns in proptest::option::of(any::<bool>()),
        flags in any::<[bool; 5]>(),
        sysctls in proptest::collection::vec("[a-z.]{0,6}[= ]{0,2}[a-z0-9]{0,3}", 0..3),
        default in "(runc|crun|x|)",
        handler in "(runc|crun|x)",
        allowed in proptest::collection::vec(0usize..5, 0..3),
        activation in 0usize..5,
    ) {
        let names = [CGROUP[0], CGROUP[1], USERNS_MODE[0], "nonsense", ""];
        let files = [
            file("/etc/crio/crio.conf", &[
                ("crio/runtime/default_runtime", Value::Text(default)),
                ("crio/runtime/default_sysctls", Value::list(sysctls)),
            ]),
            file("/etc/crio/crio.conf.d/10-x", &[
                (&format!("crio/runtime/runtimes/{handler}/allowed_annotations"), Value::list(allowed.iter().map(|i| names[*i]))),
                ("crio/runtime/workloads/w/activation_annotation", Value::Text(names[activation].into())),
                ("crio/runtime/workloads/w/allowed_annotations", Value::list(allowed.iter().map(|i| names[*i]))),
            ]),
        ];
        let [writable_cgroup, pod_events, nri, ping_group_range, hook] = flags;
        let options = CrioOptions { writable_cgroup, userns_mode: userns, pod_events, nri, ping_group_range, hook, validator: None };
        let version = CrioVersion::new(1, minor, patch);
        let node = CrioNode { version, kubernetes: None, files: Some(&files), programs: &unchecked };
        let plan = plan(node, options);
        prop_assert!(!matches!(plan, Err(DropInError::WouldNotStart(_))), "{plan:?}");
    }
}
