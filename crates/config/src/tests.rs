use proptest::prelude::*;

use super::keys::SECTIONS;
use super::*;
use usernsd_domain::delegation::OwnerPolicy;
use usernsd_domain::idmap::HostId;
use usernsd_domain::node::Detail;
use usernsd_domain::provision::HostPath;
use usernsd_domain::repair::{MissedPolicy, RepairRule};

fn settings(text: &str) -> Result<Settings, ConfigError> {
    let path = Path::new("/etc/usernsd.yaml");
    Settings::of(Config::parse(text, path)?, Some(path))
}

fn refusal(text: &str) -> String {
    settings(text).map(|_| format!("{text:?} was taken")).unwrap_or_else(|error| error.to_string())
}

#[test]
fn an_empty_configuration_is_the_default() {
    for text in ["", "\n", "# only a comment\n", "---\n{}\n"] {
        let config = Config::parse(text, Path::new("x")).unwrap();
        assert_eq!(config, Config::default(), "{text:?}");
    }
    let settings = settings("").unwrap();
    assert_eq!(settings.resync, Duration::from_secs(300));
    assert_eq!(settings.limits, Limits::DEFAULT);
    assert_eq!(settings.rules.owner, OwnerPolicy::default());
    assert_eq!(settings.rules.minimum_host_id, HostId(65_536));
    assert_eq!(settings.guard, GuardPolicy::default());
    let young = |policy| RepairRule { policy, max_age: Duration::from_secs(600) };
    assert_eq!(settings.repair.opt_in, young(MissedPolicy::Report));
    assert_eq!(settings.repair.guard, young(MissedPolicy::Restart));
    assert!(settings.repair.guard_refuses && !settings.repair.observe_only);
    assert!(settings.http.is_none() && settings.nri.is_some() && settings.systemd.is_some());
}

#[test]
fn every_key_has_an_effect() {
    let settings = settings(
        "host: {root: /host}\nruntime: {endpoints: [\"unix:///run/x.sock\"], bundleDirs: [\"/b/{id}/c\"]}\n\
         nri: {socketPaths: [/n.sock], pluginIndex: 5}\nsystemd: {busSocket: /bus}\n\
         delegation:\n  owner: root\n  mechanism: systemd-user\n  minimumHostId: 200000\n  \
         limits: {depth: 3}\n  privilegedCgroupNamespace: false\n\
         optIn: {namespaces: [\"team-*\", db], missed: restart, missedMaxAge: 1d}\n\
         guard: {policy: report, missed: report, missedMaxAge: 365d}\nresync: {interval: 1h30m}\nstateSocket: {path: /s, allowUids: [65532]}\n\
         http: {address: \"[::1]:9\", metricsDetail: pod, metricsMaxPods: 7}\nlog: {level: debug, format: json}\n",
    )
    .unwrap();
    assert_eq!(settings.host_root, Path::new("/host"));
    assert_eq!(settings.runtime.endpoints, [Path::new("/run/x.sock")]);
    let id = CriId::parse("abc").unwrap();
    assert_eq!(settings.runtime.bundle_dirs[0].of(&id), Path::new("b/abc/c"));
    assert_eq!(settings.runtime.bundle_dirs[0].above(), Path::new("b"));
    assert_eq!(settings.runtime.bundle_dirs[0].below(), "c");
    let nri = settings.nri.unwrap();
    assert_eq!((nri.sockets, nri.index), (vec![PathBuf::from("/n.sock")], 5));
    assert_eq!(settings.systemd.unwrap().bus_socket, Path::new("/bus"));
    assert_eq!(settings.rules.owner, OwnerPolicy::Root);
    assert_eq!(settings.rules.minimum_host_id, HostId(200_000));
    assert_eq!(settings.mechanism, Mechanism::SystemdUser);
    assert_eq!(settings.limits, Limits { depth: 3, ..Limits::DEFAULT });
    assert!(!settings.adjust.privileged_cgroup_namespace);
    assert_eq!(settings.adjust.namespaces, ["team-*", "db"]);
    assert_eq!(settings.guard, GuardPolicy::Report);
    let rule = |policy, days: u64| RepairRule { policy, max_age: Duration::from_secs(days * 86_400) };
    assert_eq!(settings.repair.opt_in, rule(MissedPolicy::Restart, 1));
    assert_eq!(settings.repair.guard, rule(MissedPolicy::Report, 365));
    assert!(!settings.repair.guard_refuses);
    assert_eq!(settings.resync, Duration::from_secs(5_400));
    assert_eq!(settings.state_socket.path, Path::new("/s"));
    assert_eq!(settings.state_socket.allow_uids, [65_532]);
    assert_eq!(settings.http, "[::1]:9".parse().ok());
    assert_eq!(settings.exposition, Exposition { detail: Detail::Pod, max_pods: 7 });
    assert_eq!(settings.log, LogSettings { level: LogLevel::Debug, format: LogFormat::Json });
}

#[test]
fn configured_ranges_are_passed_to_the_plan() {
    use usernsd_domain::idplan::{DesiredIds, DesiredRange, KubeletOptions, KubeletUser};
    assert_eq!(settings("").unwrap().bootstrap.ids, DesiredIds::default());
    let text = "bootstrap:\n  ranges:\n    - {owner: containers}\n    - {owner: a, start: 65536, pods: 2}\n    \
                - {owner: \"1000\", pods: 2, idsPerPod: 10}\n  \
                kubelet: {user: create, start: 131072, maxPods: 250, idsPerPod: 131072, rootDir: /data/kubelet}\n";
    let range = |owner: &str, start, count| DesiredRange { owner: owner.into(), start, count };
    let ranges = vec![
        range("containers", None, 268_435_456),
        range("a", Some(65_536), 131_072),
        range("1000", None, 20),
    ];
    let kubelet = KubeletOptions {
        user: KubeletUser::Create,
        start: Some(131_072),
        max_pods: Some(250),
        ids_per_pod: Some(131_072),
        root_dir: Some(HostPath::fixed("data/kubelet")),
    };
    assert_eq!(settings(text).unwrap().bootstrap.ids, DesiredIds { ranges: Some(ranges), kubelet });
}

#[test]
fn a_runtime_is_prepared_as_configured() {
    use usernsd_domain::containerd::Release;
    use usernsd_domain::crio::CrioVersion;
    use usernsd_domain::crio::drop_in::CrioOptions;
    use usernsd_domain::oci_hook::{HookInstall, HookOptions};
    use usernsd_domain::runtime::{RuntimeChoice, RuntimeKind, RuntimeOverride};
    let text = "bootstrap:\n  runtime: crio\n  applySysctl: true\n  containerd: {version: 2.1.4, nri: false}\n  \
                crio: {version: 1.36.3, writableCgroup: false, usernsMode: always, podEvents: false, nri: false, \
                pingGroupRange: false}\n";
    let bootstrap = settings(text).unwrap().bootstrap;
    let output = RuntimeOverride {
        choice: RuntimeChoice::Only(RuntimeKind::Crio),
        crio: Some(CrioVersion::new(1, 36, 3)),
        containerd: Some(Release { major: 2, minor: 1, patch: 4 }),
    };
    assert_eq!(bootstrap.runtime, output);
    let nothing = CrioOptions {
        writable_cgroup: false,
        userns_mode: Some(true),
        pod_events: false,
        nri: false,
        ping_group_range: false,
        hook: false,
        validator: None,
    };
    assert_eq!((bootstrap.crio, bootstrap.containerd_nri), (nothing, false));
    assert!(bootstrap.apply_sysctl && bootstrap.enabled);
    assert!(!settings("bootstrap: {enabled: false}").unwrap().bootstrap.enabled);
    let text = "bootstrap: {hook: {install: always, path: /opt/u, directory: /etc/h, config: /etc/u.yaml}}";
    let hook = HookOptions {
        install: HookInstall::Always,
        program: "/opt/u".into(),
        directory: Some("/etc/h".into()),
        config: Some("/etc/u.yaml".into()),
    };
    assert_eq!(settings(text).unwrap().bootstrap.hook, hook);
    assert_eq!(settings("").unwrap().bootstrap.hook, HookOptions::default());
    for (text, want) in [
        ("bootstrap: {runtime: docker}", "\"docker\" is unknown; write one of: auto, crio, containerd, none"),
        ("bootstrap: {crio: {version: 1.36}}", "\"1.36\" is not a version of CRI-O"),
        ("bootstrap: {crio: {usernsMode: yes}}", "\"yes\" is unknown; write one of: auto, always, never"),
        ("bootstrap: {hook: {install: yes}}", "\"yes\" is unknown; write one of: auto, always, never"),
        ("bootstrap: {hook: {path: usernsd}}", "\"usernsd\" is not a path; write an absolute path"),
        ("bootstrap: {hook: {directory: /a/../b}}", "\"/a/../b\" is not a path"),
        ("bootstrap: {containerd: {version: x}}", "\"x\" is not a version of containerd"),
    ] {
        let output = refusal(text);
        assert!(output.starts_with("/etc/usernsd.yaml:1: bootstrap.") && output.contains(want), "{output}");
    }
}

#[test]
fn an_impossible_range_is_refused() {
    for (text, want) in [
        (
            "bootstrap:\n  ranges: [{owner: kubelet, count: 5}]",
            "/etc/usernsd.yaml:2: bootstrap.ranges: kubelet is in the list; set it under bootstrap.kubelet",
        ),
        (
            "bootstrap: {ranges: [{owner: a, count: 5}, {owner: a, pods: 5}]}",
            "a is there twice; write one range",
        ),
        ("bootstrap: {ranges: [{owner: \"a:b\", count: 5}]}", "\"a:b\" is no user; "),
        ("bootstrap: {ranges: [{owner: a}]}", "how many IDs a gets is not clear; set count or pods"),
        ("bootstrap: {ranges: [{owner: a, count: 5, pods: 5}]}", "set count or pods"),
        (
            "bootstrap: {ranges: [{owner: a, count: 0}]}",
            "the range of a is out of bounds; stay within 65536 to 4294901759",
        ),
        ("bootstrap: {ranges: [{owner: a, start: 65535, count: 1}]}", "out of bounds"),
        ("bootstrap: {ranges: [{owner: a, start: 4294901760, count: 1}]}", "out of bounds"),
        ("bootstrap: {ranges: [{owner: a, pods: 18446744073709551615}]}", "out of bounds"),
        ("bootstrap: {ranges: [{owner: a, cont: 1}]}", "unknown field `cont`"),
        (
            "bootstrap: {kubelet: {user: yes}}",
            "bootstrap.kubelet: user: \"yes\" is unknown; write one of: if-present",
        ),
        ("bootstrap: {kubelet: {idsPerPod: 70000}}", "idsPerPod is no multiple of 65536"),
        ("bootstrap: {kubelet: {maxPods: 0}}", "maxPods is out of bounds"),
        ("bootstrap: {kubelet: {start: 65535}}", "start is out of bounds"),
        ("bootstrap: {kubelet: {rootDir: var/lib}}", "rootDir: \"var/lib\" is no absolute path"),
    ] {
        let output = refusal(text);
        assert!(
            output.starts_with("/etc/usernsd.yaml:") && output.contains(want),
            "{text:?}\n said {output}\n want {want}"
        );
    }
}

#[test]
fn more_owners_of_ranges_than_can_be_planned_are_refused() {
    let text = |owners: usize| {
        let owners = (0..owners).map(|at| format!("{{owner: u{at}, count: 1}}"));
        format!("bootstrap: {{ranges: [{}]}}", owners.collect::<Vec<_>>().join(", "))
    };
    assert!(settings(&text(1_000)).is_ok());
    assert_eq!(
        refusal(&text(1_001)),
        "/etc/usernsd.yaml:1: bootstrap.ranges: it has 1001 owners; leave some out: at most 1000 get a range"
    );
}

#[test]
fn a_section_that_is_switched_off_is_none() {
    let settings = settings("nri: {enabled: false}\nsystemd: {enabled: false}").unwrap();
    assert!(settings.nri.is_none() && settings.systemd.is_none());
}

#[test]
fn errors_name_the_place_and_a_remedy() {
    for (text, want) in [
        (
            "\nresync:\n  interval: 5\n",
            "/etc/usernsd.yaml:3: resync.interval: \"5\" is not a duration; write a duration from 10s to 24h, such as 30s, 5m or 1h30m",
        ),
        ("resync: {interval: 1s}", "/etc/usernsd.yaml:1: resync.interval: 1s is out of bounds; "),
        (
            "optIn:\n  missed: kill",
            "/etc/usernsd.yaml:2: optIn.missed: \"kill\" is unknown; write one of: report, restart",
        ),
        (
            "guard: {missedMaxAge: 0s}",
            "/etc/usernsd.yaml:1: guard.missedMaxAge: 0s is out of bounds; write a duration up to 365d, such as 10m or 1d",
        ),
        ("optIn: {missedMaxAge: 366d}", "/etc/usernsd.yaml:1: optIn.missedMaxAge: 366d is out of bounds; "),
        (
            "guard:\n  policy: warn",
            "/etc/usernsd.yaml:2: guard.policy: \"warn\" is unknown; write one of: refuse, report",
        ),
        (
            "delegation:\n  minimumHostId: 0",
            "/etc/usernsd.yaml:2: delegation.minimumHostId: 0 is out of bounds; write a number from 1000 to 4294901760",
        ),
        (
            "delegation:\n  limits: {depth: 0}",
            "/etc/usernsd.yaml:2: delegation.limits.depth: 0 is out of bounds; ",
        ),
        (
            "delegation:\n  mechanism: none",
            "/etc/usernsd.yaml:2: delegation.mechanism: none only looks, and by NRI containers are changed; ",
        ),
        (
            "delegation:\n  mechanism: systemd-user\nnri: {enabled: false}",
            "/etc/usernsd.yaml:2: delegation.mechanism: systemd-user needs NRI, which is switched off; ",
        ),
        ("nri: {socketPaths: []}", "/etc/usernsd.yaml:1: nri.socketPaths: no socket; "),
        (
            "nri: {pluginIndex: 100}",
            "/etc/usernsd.yaml:1: nri.pluginIndex: 100 is out of bounds; write a number from 0 to 99",
        ),
        ("host: {root: host}", "/etc/usernsd.yaml:1: host.root: \"host\" is not a path; "),
        ("host: {root: /a/../b}", "/etc/usernsd.yaml:1: host.root: "),
        (
            "runtime: {bundleDirs: [/a]}",
            "/etc/usernsd.yaml:1: runtime.bundleDirs: \"/a\" names no container; write {id} once",
        ),
        (
            "optIn: {namespaces: [\"a*b\"]}",
            "/etc/usernsd.yaml:1: optIn.namespaces: \"a*b\" is no Kubernetes namespace; ",
        ),
        (
            "http: {address: \":9564\"}",
            "/etc/usernsd.yaml:1: http.address: \":9564\" is not an address; write an IP address and a port",
        ),
        (
            "http: {metricsDetail: all}",
            "/etc/usernsd.yaml:1: http.metricsDetail: \"all\" is unknown; write one of: node, pod, container",
        ),
        (
            "http: {metricsMaxPods: 10001}",
            "/etc/usernsd.yaml:1: http.metricsMaxPods: 10001 is out of bounds; write a number from 0 to 10000",
        ),
        (
            "http: {tlsKeyFile: /k}",
            "/etc/usernsd.yaml: http.tlsCertificateFile: a certificate and its key belong together; name both files",
        ),
        ("http: {tlsCertificateFile: /c}", "/etc/usernsd.yaml: http.tlsKeyFile: a certificate and its key"),
        (
            "http: {tlsCertificateFile: c, tlsKeyFile: /k}",
            "/etc/usernsd.yaml:1: http.tlsCertificateFile: \"c\" is not a path",
        ),
        (
            "http:\n  authorization: kubernetes",
            "/etc/usernsd.yaml:2: http.authorization: without TLS, tokens could be read on the way; set http.tls",
        ),
        (
            "http: {authorization: basic}",
            "/etc/usernsd.yaml:1: http.authorization: \"basic\" is unknown; write one of: none, kubernetes",
        ),
        (
            "exporter: {address: \"\"}",
            "/etc/usernsd.yaml:1: exporter.address: an exporter without an address does nothing; write",
        ),
        (
            "guard:\n  polcy: refuse",
            "/etc/usernsd.yaml:2:3: unknown field `polcy`, expected one of policy, missed, missedMaxAge; \"usernsd config default\" prints every key",
        ),
        ("gard: {}", "/etc/usernsd.yaml:1:1: unknown field `gard`"),
        ("guard: {policy: refuse}\nguard: {policy: report}", "/etc/usernsd.yaml:2:"),
        ("nri: {enabled: 3}", "/etc/usernsd.yaml:1:"),
        ("nri: [", "/etc/usernsd.yaml:"),
    ] {
        let output = refusal(text);
        assert!(output.starts_with(want), "{text:?}\n said {output}\n want {want}");
        assert!(!output.contains('\n') && output.len() < 400, "{output}");
    }
}

#[test]
fn flags_override_the_file_and_are_named_in_errors() {
    let overrides = Overrides { host_root: Some("/host".into()), ..Overrides::default() };
    assert_eq!(Settings::load(None, overrides).unwrap().host_root, Path::new("/host"));
    for (overrides, want) in [
        (Overrides { host_root: Some("x".into()), ..Overrides::default() }, "--host-root: "),
        (Overrides { cri_endpoint: Some("x".into()), ..Overrides::default() }, "--cri-endpoint: "),
        (Overrides { nri_socket: Some("x".into()), ..Overrides::default() }, "--nri-socket: "),
        (Overrides { http: Some("x".into()), ..Overrides::default() }, "--http: "),
        (Overrides { exporter_http: Some("x".into()), ..Overrides::default() }, "--http: "),
        (Overrides { state_socket: Some("x".into()), ..Overrides::default() }, "--state-socket: "),
        (Overrides { log_level: Some("x".into()), ..Overrides::default() }, "--log-level: "),
        (Overrides { log_format: Some("x".into()), ..Overrides::default() }, "--log-format: "),
    ] {
        let output = Settings::load(None, overrides).unwrap_err().to_string();
        assert!(output.starts_with(want), "{output}");
    }
}

/// The agent and `usernsd bootstrap` are started with different flags, but must write the same file.
#[test]
fn the_plugins_file_does_not_depend_on_flags() {
    let text = |overrides| Settings::load(None, overrides).unwrap().bootstrap.plugin.settings;
    let flags = Overrides {
        log_format: Some("json".into()),
        log_level: Some("debug".into()),
        cri_endpoint: Some("/x".into()),
        host_root: Some("/host".into()),
        ..Overrides::default()
    };
    assert_eq!(text(flags), text(Overrides::default()));
}

#[test]
fn an_unreadable_file_is_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no.yaml");
    let output = Settings::load(Some(&path), Overrides::default()).unwrap_err().to_string();
    assert!(output.contains("no.yaml") && output.contains("--config"), "{output}");
    std::fs::write(&path, b"\xff").unwrap();
    assert!(Config::read(&path).unwrap_err().to_string().ends_with("not UTF-8"));
    std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(Config::read(&path).unwrap_err().to_string().ends_with("longer than 1 MiB"));
}

#[test]
fn the_documentation_is_the_default_and_contains_every_key() {
    let text = Config::documented_yaml();
    let parsed: serde_json::Value =
        serde_json::to_value(Config::parse(&text, Path::new("x")).unwrap()).unwrap();
    assert_eq!(parsed, serde_json::to_value(Config::default()).unwrap(), "{text}");
    let markdown = Config::documented_markdown();
    for (section, keys) in parsed.as_object().unwrap() {
        for key in keys.as_object().unwrap().keys() {
            assert!(markdown.contains(&format!("| `{section}.{key}` |")), "{section}.{key}");
            assert!(text.contains(&format!("\n  {key}:")), "{section}.{key}");
        }
    }
    assert!(SECTIONS.iter().all(|section| section.keys.iter().all(|key| !key.doc.is_empty())));
    assert!(
        text.lines()
            .chain(markdown.lines().filter(|line| !line.starts_with('|')))
            .all(|line| line.len() <= 110)
    );
}

#[test]
fn durations_are_parsed() {
    for (text, want) in [
        ("0s", 0),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("2s5ms", 2_005),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(want)), "{text}");
    }
    for text in [
        "",
        "5",
        "m",
        "5 m",
        " 5m",
        "1s2m",
        "1m2m",
        "-5m",
        "1.5h",
        "5M",
        "5\u{b5}s",
        "99999999999999999999s",
        "300000000000d",
    ] {
        assert!(parse_duration(text).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_without_panic(text in any::<String>(), tail in any::<String>()) {
        let _ = settings(&text);
        let _ = parse_duration(&text);
        for key in ["resync: {interval: ", "delegation:\n  limits: ", "runtime:\n  bundleDirs:\n  - ", "http:\n  address: "] {
            if let Err(error) = settings(&format!("{key}{tail}")) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }

    #[test]
    fn a_formatted_duration_parses_back(hours in 0_u64..1_000, minutes in 0_u64..60, seconds in 0_u64..60) {
        let want = Duration::from_secs(hours * 3_600 + minutes * 60 + seconds);
        prop_assert_eq!(parse_duration(&format!("{hours}h{minutes}m{seconds}s")), Ok(want));
    }

    #[test]
    fn an_accepted_setting_is_within_bounds(id in any::<u32>(), depth in any::<u32>(), interval in "[0-9]{1,5}(s|m|h)") {
        let text = format!("delegation: {{minimumHostId: {id}, limits: {{depth: {depth}}}}}\nresync: {{interval: {interval}}}");
        if let Ok(settings) = settings(&text) {
            prop_assert!(settings.rules.minimum_host_id.0 >= 1_000);
            prop_assert!((1..=1_000).contains(&settings.limits.depth));
            prop_assert!(settings.resync >= Duration::from_secs(10));
        }
    }
}
