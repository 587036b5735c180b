use super::*;
use crate::crio::annotation::{CGROUP, names_for};
use crate::crio::config::Setting;
use crate::finding::FindingId;

fn runtime(version: &str) -> RuntimeFacts {
    let version = CrioVersion::parse(version).unwrap();
    let mut effective = Effective::built_in(version);
    for setting in [&mut effective.pod_events, &mut effective.nri] {
        *setting = Setting { value: true, file: None };
    }
    let names = names_for(version, CGROUP).into_iter();
    let fields = |name: &str| {
        use crate::toml::Value;
        [
            ("activation_annotation".to_owned(), Value::Text(name.to_owned())),
            ("allowed_annotations".to_owned(), Value::list(names_for(version, CGROUP).iter().copied())),
        ]
        .into()
    };
    effective.workloads = names
        .map(|name| {
            let fields = fields(name);
            (name.to_owned(), crate::crio::config::Entry { fields, file: None })
        })
        .collect();
    let handler = |name: &str| Handler { name: name.into(), user_namespaces: true };
    RuntimeFacts {
        cri: Answer::Given(CriFacts {
            name: "cri-o".into(),
            version: version.to_string(),
            endpoint: "/s".into(),
            handlers: Ok(vec![handler(""), handler("crun")]),
        }),
        crio: Ok(Crio { version, findings: vec![], effective, older: None, hook: None }),
        containerd: Err("the runtime is CRI-O".into()),
        containerd_file: Err("the runtime is CRI-O".into()),
        oci: Ok(vec![OciRuntime {
            path: "/usr/bin/crun".into(),
            version: Ok("crun version 1.28".into()),
            idmap: Ok(true),
        }]),
        plugin: Err("not looked at".into()),
        joined: Joined::Yes,
    }
}

fn bad(facts: &RuntimeFacts) -> Vec<String> {
    let checked = checks(facts);
    // The result for NRI comes from the agent only.
    let mine = Check::of_category(crate::check::Category::Runtime).filter(|check| *check != Check::NriJoined);
    assert!(mine.eq(checked.iter().map(|one| one.check)));
    // Checks of the other runtime, and those of `plugin`.
    let others = [
        Check::ContainerdConfig,
        Check::ContainerdSnapshotter,
        Check::PluginInstalled,
        Check::PluginRunning,
        Check::NriRequired,
    ];
    let bad = checked.iter().filter(|one| one.word() != "pass" && !others.contains(&one.check));
    bad.map(|one| format!("{} {}", one.check.name(), one.word())).collect()
}

fn crio(facts: &mut RuntimeFacts) -> &mut Crio {
    facts.crio.as_mut().unwrap()
}

fn cri(facts: &mut RuntimeFacts) -> &mut CriFacts {
    match &mut facts.cri {
        Answer::Given(cri) => cri,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_runtime_that_is_not_joined_is_named_with_the_reason() {
    let mut health = Health::new(std::time::SystemTime::UNIX_EPOCH);
    let word = |health: &Health| joined(health, StartPath::Nobody, None).word();
    assert_eq!(word(&health), "warn");
    health.down(std::time::SystemTime::UNIX_EPOCH, "pod a/b is too large".into());
    assert!(
        matches!(joined(&health, StartPath::Nobody, None).outcome, CheckOutcome::Failed(problems) if problems[0].what.contains("a/b"))
    );
    health.up(std::time::SystemTime::UNIX_EPOCH);
    assert_eq!(word(&health), "pass");
    let mismatch = Mismatch { what: "containerd and cri-o".into(), remedy: "x".into() };
    assert_eq!(joined(&health, StartPath::Nobody, Some(&mismatch)).word(), "warn");
    health.off(std::time::SystemTime::UNIX_EPOCH);
    assert_eq!(word(&health), "skip");
    assert_eq!(joinable(Ok(Some("x".into())), None).word(), "warn");
    assert_eq!(joinable(Ok(None), Some(mismatch)).word(), "warn");
    let words = (joinable(Ok(None), None).word(), joinable(Err("x".into()), None).word());
    assert_eq!(words, ("skip", "skip"));
}

#[test]
fn an_older_crio_that_is_installed_would_not_start() {
    let refuses = Finding::error(FindingId::CrioWorkload, "x.crio.io is not known".into(), "y");
    let output_of = |older: Option<Older>, findings: Vec<Finding>| {
        let mut facts = runtime("1.37.0");
        let crio = facts.crio.unwrap();
        facts.crio = Ok(Crio { older, findings, ..crio });
        let checked = checks(&facts).into_iter().find(|one| one.check == Check::CrioConfig).unwrap();
        (checked.word(), format!("{checked:?}"))
    };
    let older = |is_installed| {
        Some(Older { version: CrioVersion::new(1, 34, 2), is_installed, refuses: refuses.clone() })
    };
    let (word, text) = output_of(older(true), vec![]);
    assert!(word == "fail" && text.contains("1.34.2 is installed") && text.contains("x.crio.io"), "{text}");
    assert!(text.contains("usernsd bootstrap --crio-version"), "{text}");
    let (word, text) = output_of(older(false), vec![]);
    assert!(word == "pass" && text.contains("after a downgrade to 1.34.2 or older it would not"), "{text}");
    // Problems that keep the running version from starting come first.
    let now = Finding::error(FindingId::CrioUndecodable, "broken now".into(), "z");
    let (word, text) = output_of(older(true), vec![now]);
    assert!(word == "fail" && text.contains("broken now"), "{text}");
}

#[test]
fn each_check_fails_alone_if_its_cause_is_present() {
    assert_eq!(bad(&runtime("1.37.0")), Vec::<String>::new());
    type Spoil = fn(&mut RuntimeFacts);
    let cases: &[(&str, Spoil, &[&str])] = &[
        ("1.36.3", |_| {}, &["crio_restart warn"]),
        ("1.35.6", |_| {}, &[]),
        ("1.35.0", |_| {}, &["crio_restart warn", "crio_mappings fail"]),
        ("1.35.1", |_| {}, &["crio_restart warn"]),
        ("1.24.6", |_| {}, &["runtime_version fail", "nri_enabled warn", "crio_pod_events note"]),
        ("1.27.1", |_| {}, &["crio_pod_events note", "crio_restart warn"]),
        (
            "1.22.0",
            |_| {},
            &["runtime_version fail", "nri_enabled warn", "crio_annotations skip", "crio_pod_events note"],
        ),
        (
            "1.37.0",
            |f| f.cri = Answer::Missing("no".into()),
            &["cri_reachable fail", "runtime_version skip", "cri_userns_handler skip"],
        ),
        (
            "1.37.0",
            |f| f.cri = Answer::NotAsked("offline".into()),
            &["cri_reachable skip", "runtime_version skip", "cri_userns_handler skip"],
        ),
        ("1.37.0", |f| cri(f).version = "1.24.0".into(), &["runtime_version fail"]),
        ("1.37.0", |f| cri(f).version = "new".into(), &["runtime_version skip"]),
        (
            "1.37.0",
            |f| cri(f).handlers.as_mut().unwrap()[0].user_namespaces = false,
            &["cri_userns_handler fail"],
        ),
        ("1.37.0", |f| cri(f).handlers = Ok(vec![]), &["cri_userns_handler skip"]),
        ("1.37.0", |f| crio(f).effective.nri.value = false, &["nri_enabled warn"]),
        ("1.37.0", |f| crio(f).effective.pod_events.value = false, &["crio_pod_events note"]),
        ("1.37.0", |f| crio(f).effective.workloads.clear(), &["crio_annotations warn"]),
        ("1.37.0", |f| crio(f).effective.cgroup_manager.value = "cgroupfs".into(), &["crio_restart warn"]),
        (
            "1.37.0",
            |f| f.oci.as_mut().unwrap()[0].version = Ok("crun version 1.8.7".into()),
            &["oci_runtime_version fail"],
        ),
        ("1.37.0", |f| f.oci.as_mut().unwrap()[0].idmap = Ok(false), &["oci_runtime_idmap fail"]),
        ("1.37.0", |f| f.oci = Ok(vec![]), &["oci_runtime_version skip", "oci_runtime_idmap skip"]),
    ];
    for (index, (version, spoil, want)) in cases.iter().enumerate() {
        let mut facts = runtime(version);
        spoil(&mut facts);
        assert_eq!(bad(&facts), *want, "case {index}");
    }
    for (finding, want) in [
        (Finding::error(FindingId::CrioWorkload, "x".into(), ""), "crio_config fail"),
        (Finding::warning(FindingId::CrioStrayFile, "x".into(), ""), "crio_config_ignored warn"),
        (Finding::warning(FindingId::CrioWorkloadTwins, "x".into(), ""), "crio_workload_twins warn"),
    ] {
        let mut facts = runtime("1.37.0");
        crio(&mut facts).findings.push(finding);
        assert_eq!(bad(&facts), [want]);
    }
    let mut facts = runtime("1.35.6");
    facts.crio.as_mut().unwrap().version = CrioVersion::new(1, 29, 9);
    crio(&mut facts).findings.push(Finding::warning(FindingId::CrioAllowedTwice, "x".into(), ""));
    assert!(bad(&facts).contains(&"crio_allowed_twice warn".to_owned()));
}

#[test]
fn containerd_is_judged_by_its_own_rules() {
    let facts = |version: &str, findings| RuntimeFacts {
        cri: Answer::Given(CriFacts {
            name: "containerd".into(),
            version: version.into(),
            endpoint: "/s".into(),
            handlers: Err("it does not say".into()),
        }),
        crio: Err("the runtime is containerd".into()),
        containerd: Ok(findings),
        containerd_file: Ok("/etc/containerd/config.toml".into()),
        oci: Err("x".into()),
        plugin: Err("x".into()),
        joined: Joined::Yes,
    };
    let word = |facts: &RuntimeFacts, check: Check| {
        checks(facts).iter().find(|one| one.check == check).unwrap().word()
    };
    assert_eq!(word(&facts("2.1.9+unknown", vec![]), Check::RuntimeVersion), "pass");
    assert_eq!(word(&facts("1.7.28", vec![]), Check::RuntimeVersion), "fail");
    assert_eq!(word(&facts("2.1.9", vec![]), Check::NriEnabled), "pass");
    let off = Finding::warning(FindingId::ContainerdNri, "off".into(), "on");
    assert_eq!(word(&facts("2.1.9", vec![off]), Check::NriEnabled), "warn");
    let broken = || Finding::error(FindingId::ContainerdUndecodable, "no".into(), "repair it");
    assert_eq!(word(&facts("2.1.9", vec![broken()]), Check::ContainerdConfig), "fail");
    assert_eq!(word(&facts("2.1.9", vec![broken()]), Check::NriEnabled), "skip");
    assert_eq!(word(&facts("2.1.9", vec![]), Check::ContainerdConfig), "pass");
    assert_eq!(word(&facts("2.1.9", vec![]), Check::CrioConfig), "skip");
}

#[test]
fn nri_that_is_on_helps_only_where_usernsd_is_asked() {
    let word = |joined| {
        let facts = RuntimeFacts { joined, ..runtime("1.37.0") };
        checks(&facts).iter().find(|one| one.check == Check::NriEnabled).unwrap().word()
    };
    for (joined, want) in [
        (Joined::Yes, "pass"),
        (Joined::No, "warn"),
        (Joined::Unasked, "skip"),
        (Joined::NothingRuns, "pass"),
    ] {
        assert_eq!(word(joined), want, "{joined:?}");
    }
}

#[test]
fn versions_are_read() {
    for (text, want) in [
        ("2.1.9+unknown", Some((2, 1))),
        ("v1.7.0-rc.1", Some((1, 7))),
        (" 1.28", Some((1, 28))),
        ("1.3.6~ds1", Some((1, 3))),
        ("", None),
        ("x.1", None),
    ] {
        assert_eq!(release(text), want, "{text:?}");
    }
}
