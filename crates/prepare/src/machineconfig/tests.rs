use proptest::prelude::*;

use super::*;
use usernsd_domain::finding::FindingId;
use usernsd_domain::mco::Managed;

const DEMO: &str = include_str!("../../../../tests/fixtures/seed/machineconfig.yaml");

fn request(profile: Profile) -> MachineConfigOptions {
    MachineConfigOptions {
        role: "worker".into(),
        profile,
        format: Format::MachineConfig,
        ignition: None,
        crio: None,
        userns_mode: false,
        gzip: false,
        configured: None,
    }
}

fn rendered(request: &MachineConfigOptions) -> String {
    render(request).unwrap().text
}

#[test]
fn the_demonstration_is_rendered_byte_for_byte() {
    assert_eq!(rendered(&request(Profile::Demo47)), DEMO);
}

#[test]
fn the_demonstrations_files_have_the_expected_content() {
    let parsed = parse(DEMO).unwrap();
    let text = |index: usize| String::from_utf8(parsed.files[index].node.content.clone()).unwrap();
    assert_eq!(parsed.files[0].node.path, "/etc/crio/crio.conf.d/99-crio-userns.conf");
    assert_eq!(
        text(0),
        "[crio.runtime.runtimes.runc]\nallowed_annotations=[\"io.kubernetes.cri-o.userns-mode\"]\n"
    );
    assert_eq!((text(1), text(2)), (RANGES.into(), RANGES.into()));
    assert_eq!(
        parsed.kernel_arguments,
        ["systemd.unified_cgroup_hierarchy=1", "cgroup_no_v1=\"all\"", "psi=1"]
    );
}

#[test]
fn the_default_profile_needs_no_reboot_and_no_shared_file() {
    let text = rendered(&request(Profile::Default));
    for part in [
        "name: 99-worker-usernsd\n",
        "version: 3.5.0\n",
        "---\n",
        "serviceName: crio.service\n",
        "- type: Drain\n      - type: Restart\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // No reboot, and none of the files that bootstrap edits.
    for part in ["kernelArguments", "/etc/subuid", "/etc/subgid"] {
        assert!(!text.contains(part), "{part}\n{text}");
    }
    let both = rendered(&MachineConfigOptions { userns_mode: true, ..request(Profile::Default) });
    assert!(both.contains("- path: /etc/subuid\n      actions:\n      - type: None\n"), "{both}");
}

/// The drop-in has only the names that this CRI-O version accepts.
#[test]
fn the_drop_in_suits_the_oldest_cri_o_of_the_pool() {
    let drop_in = |crio: Option<&str>| {
        let crio = crio.map(|text| CrioVersion::parse(text).unwrap());
        let parsed = parse(&rendered(&MachineConfigOptions { crio, ..request(Profile::Default) })).unwrap();
        String::from_utf8(parsed.files[0].node.content.clone()).unwrap()
    };
    for (crio, new) in
        [(None, false), (Some("1.34.11"), false), (Some("1.35.0"), true), (Some("1.36.3"), true)]
    {
        assert_eq!(drop_in(crio).contains("cgroup2-mount-hierarchy-rw.crio.io"), new, "{crio:?}");
        assert!(drop_in(crio).contains("io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw"), "{crio:?}");
    }
    let fixed = CrioVersion::parse("1.37.0").unwrap();
    let text = rendered(&MachineConfigOptions { crio: Some(fixed), ..request(Profile::Default) });
    assert!(text.contains("Restart") && !text.contains("Drain"), "{text}");
    let old = CrioVersion::parse("1.22.0").unwrap();
    let error =
        render(&MachineConfigOptions { crio: Some(old), userns_mode: true, ..request(Profile::Default) })
            .unwrap_err();
    assert!(error.to_string().contains("plan it on the node"), "{error}");
}

/// With a configuration file: the plugin's file as bootstrap writes it, and the validator.
#[test]
fn a_configuration_adds_the_plugins_file_and_the_validator() {
    let of = |crio: &str, plugin: PluginOptions| {
        let crio = Some(CrioVersion::parse(crio).unwrap());
        let configured = Some(Configured { crio: CrioOptions::default(), plugin });
        let rendered =
            render(&MachineConfigOptions { crio, configured, ..request(Profile::Default) }).unwrap();
        let files = parse(&rendered.text).unwrap().files;
        let text = |path: &str| {
            let file = files.iter().find(|file| file.node.path == path)?;
            Some(String::from_utf8(file.node.content.clone()).unwrap())
        };
        let plugin = text("/etc/nri/conf.d/07-usernsd.conf");
        (plugin, text(drop_in::PATH).unwrap(), rendered)
    };
    let wish = |required| PluginOptions {
        required,
        index: 7,
        settings: "guard:\n  policy: \"report\"\n".to_owned(),
        ..PluginOptions::default()
    };
    let ids = |rendered: &Rendered| rendered.notes.iter().map(|note| note.id).collect::<Vec<_>>();
    let (plugin, drop_in, rendered) = of("1.36.3", wish(Required::Annotated));
    let want = settings("/etc/nri/conf.d/07-usernsd.conf", "guard:\n  policy: \"report\"\n");
    assert_eq!(plugin, Some(want));
    assert!(
        drop_in.contains("[crio.nri.default_validator]\nnri_enable_default_validator = true\n"),
        "{drop_in}"
    );
    assert!(!drop_in.contains("required_plugins"), "{drop_in}");
    assert!(
        rendered
            .text
            .contains("- path: /etc/nri/conf.d/07-usernsd.conf\n      actions:\n      - type: None\n")
    );
    assert!(!ids(&rendered).contains(&FindingId::NriRequired));

    // A new node could not start the pods that install the plugin.
    let (_, all, rendered) = of("1.36.3", wish(Required::All));
    assert_eq!(all, drop_in);
    assert!(ids(&rendered).contains(&FindingId::NriRequired));

    let (plugin, none, _) = of("1.36.3", wish(Required::Off));
    assert!(plugin.is_some() && !none.contains("validator"), "{none}");
    // CRI-O before 1.34 has no validator; before 1.32, CRI-O exits if a plugin fails.
    let (plugin, none, rendered) = of("1.33.0", wish(Required::Annotated));
    assert!(plugin.is_some() && !none.contains("validator"), "{none}");
    assert!(ids(&rendered).contains(&FindingId::NriRequired));
    let (plugin, _, rendered) = of("1.31.0", wish(Required::Off));
    assert!(plugin.is_none() && ids(&rendered).contains(&FindingId::PluginNotLaunched));
    let never = PluginOptions { install: PluginInstall::Never, ..wish(Required::Off) };
    assert_eq!(of("1.36.3", never).0, None);
}

#[test]
fn role_and_version_are_those_of_the_pool() {
    let master = MachineConfigOptions {
        role: "master".into(),
        ignition: Some(Ignition::V3_4),
        ..request(Profile::Default)
    };
    let text = rendered(&master);
    assert!(text.contains("role: master\n") && text.contains("version: 3.4.0\n"), "{text}");
    for role in ["", "Worker", "a b", "-x", "x-", "a\nb", "a/b"] {
        let error = render(&MachineConfigOptions { role: role.into(), ..request(Profile::Default) });
        assert!(matches!(error, Err(RenderError::Role(_))), "{role:?}");
    }
}

#[test]
fn gzip_keeps_the_content_and_is_reproducible() {
    let gzip = MachineConfigOptions { gzip: true, ..request(Profile::Default) };
    let text = rendered(&gzip);
    assert!(text.contains("compression: gzip\n"));
    assert_eq!(text, rendered(&gzip));
    let plain = parse(&rendered(&request(Profile::Default))).unwrap();
    assert_eq!(parse(&text).unwrap().files[0].node.content, plain.files[0].node.content);
}

#[test]
fn all_formats_contain_the_same_files() {
    for (format, part) in [
        (Format::Butane, "variant: fcos\nversion: 1.6.0\n"),
        (Format::CloudInit, "#cloud-config\nwrite_files:\n"),
        (Format::Script, "#!/bin/sh\n"),
    ] {
        let text = rendered(&MachineConfigOptions { format, ..request(Profile::Default) });
        assert!(text.starts_with(part), "{text}");
        assert!(text.contains("/etc/crio/crio.conf.d/99-usernsd.conf"), "{text}");
    }
    let butane = MachineConfigOptions { format: Format::Butane, ..request(Profile::Demo47) };
    assert!(matches!(render(&butane), Err(RenderError::KernelArguments(_))));
    assert!(render(&MachineConfigOptions { ignition: Some(Ignition::V3_3), ..butane }).is_ok());
}

/// A real shell runs the script, and the written files are compared.
#[test]
fn the_script_writes_the_files() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().display().to_string();
    let script = rendered(&MachineConfigOptions { format: Format::Script, ..request(Profile::Default) });
    let script = script.replace("'/etc/", &format!("'{etc}/etc/"));
    let file = root.path().join("script");
    std::fs::write(&file, script).unwrap();
    let file = file.display().to_string();
    let output = usernsd_linux::program::run(
        std::path::Path::new("/bin/sh"),
        &[&file],
        std::time::Duration::from_secs(20),
    );
    let output = output.unwrap();
    assert!(output.success, "{}", output.stderr);
    let written = std::fs::read(root.path().join("etc/crio/crio.conf.d/99-usernsd.conf")).unwrap();
    assert_eq!(written, parse(&rendered(&request(Profile::Default))).unwrap().files[0].node.content);
}

#[test]
fn a_mode_is_parsed_as_by_the_kubernetes_api() {
    for (mode, want) in [("0644", 0o644), ("420", 0o644), ("0o600", 0o600), ("0", 0), ("0777", 0o777)] {
        let text = format!(
            "kind: MachineConfig\nspec:\n  config:\n    storage:\n      files:\n      - {{path: /x, mode: {mode}}}\n"
        );
        assert_eq!(parse(&text).unwrap().files[0].node.mode, Some(want), "{mode}");
    }
}

#[test]
fn an_invalid_machineconfig_is_refused_with_the_reason() {
    let with = |file: &str| {
        parse(&format!("kind: MachineConfig\nspec:\n  config:\n    storage:\n      files:\n      - {file}\n"))
            .unwrap_err()
            .to_string()
    };
    for (file, want) in [
        ("{path: etc/x}", "absolute path"),
        ("{path: /x, mode: 2541}", "cannot exceed 0777"),
        ("{path: /x, mode: 01777}", "cannot exceed 0777"),
        ("{path: /x, append: [{source: 'data:,x'}]}", "append is not supported"),
        ("{path: /x, contents: {source: 'https://x/'}}", "not fetched"),
        ("{path: /x, contents: {compression: xz, source: 'data:,x'}}", "gzip"),
        ("{path: /x, contents: {compression: gzip, source: 'data:,x'}}", "is no gzip"),
        (
            "{path: /x, contents: {source: 'data:,x', verification: {hash: sha256-00}}}",
            "other contents than those of its verification.hash",
        ),
        ("{path: /x, contents: {source: 'data:,x', verification: {hash: md5-00}}}", "neither sha256"),
        ("{path: /x, user: {id: 1000}}", "owned by another"),
        ("{path: /x, group: {name: wheel}}", "owned by another"),
    ] {
        assert!(with(file).contains(want), "{file}: {}", with(file));
    }
    assert_eq!(parse("kind: Pod\n"), Err(ReadConfigError::None("; it holds a Pod".to_owned())));
    let old = "kind: MachineConfig\nspec:\n  config:\n    ignition: {version: 2.2.0}\n";
    assert_eq!(parse(old), Err(ReadConfigError::Version("2.2.0".into())));
    assert!(matches!(parse("a: ["), Err(ReadConfigError::Yaml(_))));
}

/// `gzip -c a; gzip -c b`, as `cat a.gz b.gz` makes it; Go's reader, and so Ignition's, reads all members.
#[test]
fn every_member_of_a_gzip_is_read_and_the_hash_is_that_of_the_whole() {
    use std::io::Write as _;
    let member = |text: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    };
    let both = [member(b"one\n"), member(b"two\n")].concat();
    let with = |bytes: &[u8], hash: &str| {
        let data = usernsd_domain::ignition::bytes::base64(bytes);
        parse(&format!(
            "kind: MachineConfig\nspec:\n  config:\n    storage:\n      files:\n      - {{path: /x, contents: \
             {{compression: gzip, source: 'data:;base64,{data}', verification: {{hash: {hash}}}}}}}\n"
        ))
    };
    // printf 'one\ntwo\n' | sha256sum
    let hash = "sha256-c3f9c8c283a2b1f2f1896f27a01cbe3cddc0c9d93f752e4639035a0f5b36f6e8";
    let found = with(&both, hash).unwrap();
    assert_eq!(found.files[0].node.content, b"one\ntwo\n");
    assert!(with(&both, "sha256-00").unwrap_err().to_string().contains("verification.hash"));
    let trailing = [both, b"rest".to_vec()].concat();
    assert!(with(&trailing, hash).unwrap_err().to_string().contains("is no gzip"));
}

#[test]
fn a_machineconfig_beyond_the_limits_is_refused() {
    use std::io::Write as _;
    let head = "kind: MachineConfig\nspec:\n  config:\n    storage:\n      files:\n";
    // 7 MiB each, compressed to some kilobytes: two fit the limit, three do not.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![0; 7 << 20]).unwrap();
    let data = usernsd_domain::ignition::bytes::base64(&gzip.finish().unwrap());
    let file = |number: usize| {
        format!(
            "      - {{path: /{number}, contents: {{compression: gzip, source: 'data:;base64,{data}'}}}}\n"
        )
    };
    let with = |count: usize| parse(&(head.to_owned() + &(0..count).map(file).collect::<String>()));
    assert_eq!(with(2).unwrap().files.len(), 2);
    assert_eq!(with(3), Err(ReadConfigError::TooLarge("16 MiB of contents".to_owned())));
    // Only the last file of a path counts, but each of them is read.
    let same = |count: usize| parse(&(head.to_owned() + &"      - {path: /x}\n".repeat(count)));
    assert_eq!(same(2000).unwrap().files.len(), 1);
    assert_eq!(same(2001), Err(ReadConfigError::TooLarge("2000 files and units".to_owned())));
    let drop_ins = "{name: 1.conf, contents: x}, ".repeat(2000);
    let unit = format!(
        "kind: MachineConfig\nspec:\n  config:\n    systemd:\n      units:\n      - {{name: a.service, dropins: [{drop_ins}]}}\n"
    );
    assert_eq!(parse(&unit), Err(ReadConfigError::TooLarge("2000 files and units".to_owned())));
    let long = format!("kind: MachineConfig\nx: {}\n", "y".repeat(4 << 20));
    assert_eq!(parse(&long), Err(ReadConfigError::TooLarge("4 MiB of text".to_owned())));
}

#[test]
fn units_are_parsed_and_unsupported_parts_are_reported() {
    let text = "kind: MachineConfig\nspec:\n  fips: true\n  config:\n    ignition: {version: 3.2.0}\n    \
                passwd: {users: [{name: core}]}\n    storage: {directories: [{path: /x}]}\n    systemd:\n      units:\n      \
                - {name: a.service, enabled: true, contents: \"[Unit]\\n\", dropins: [{name: 1.conf, contents: x}]}\n      \
                - {name: b.service, mask: true}\n---\nkind: Other\n";
    let parsed = parse(text).unwrap();
    assert_eq!(parsed.files.len(), 1);
    assert_eq!(parsed.files[0].node.path, "/etc/systemd/system/a.service.d/1.conf");
    let units: Vec<_> = parsed.units.iter().map(|unit| (unit.enabled, unit.masked)).collect();
    assert_eq!(units, [(Some(true), None), (None, Some(true))]);
    let all: String = parsed.findings.iter().map(|finding| format!("{finding}\n")).collect();
    for part in ["spec.fips", "passwd.users", "storage.directories", "kind Other"] {
        assert!(all.contains(part), "{part}\n{all}");
    }
    let bad = text.replace("a.service,", "../a.service,");
    assert!(matches!(parse(&bad), Err(ReadConfigError::Unit(_))));
}

#[test]
fn files_of_the_operator_are_recognised() {
    let json = br#"{"kind":"MachineConfig","spec":{"config":{"storage":{"files":[{"path":"/etc/subuid"}]},
        "systemd":{"units":[{"name":"kubelet.service","dropins":[{"name":"10.conf"}]}]}}}}"#;
    let kept = managed(Some(json));
    for path in [
        "/etc/subuid",
        "/etc/systemd/system/kubelet.service",
        "/etc/systemd/system/kubelet.service.d/10.conf",
    ] {
        assert!(kept.keeps(path), "{path}");
    }
    assert!(!kept.keeps("/etc/subgid"));
    assert!(managed(None) == Managed::Nothing);
    for unclear in [&b""[..], b"{", b"{}"] {
        assert!(matches!(managed(Some(unclear)), Managed::Unknown(_)), "{unclear:?}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        let _ = (parse(&text), managed(Some(&bytes)));
    }

    /// Any path and content survive rendering and parsing the YAML.
    #[test]
    fn any_content_survives_yaml(path in "/[^\u{0}]{0,40}", content in any::<Vec<u8>>(), mode in 0u32..=0o777, text in any::<String>(), argument in any::<String>()) {
        let file = NodeFile { path, mode: Some(mode), content, encoding: FileEncoding::Plain };
        let unit = usernsd_domain::ignition::NodeUnit { name: "a.service".into(), enabled: false, text: Some(text) };
        let config = NodeConfig {
            name: "x".into(), role: "worker".into(), ignition: Ignition::V3_4,
            kernel_arguments: vec![argument], files: vec![file], units: vec![unit],
        };
        let parsed = parse(&config.machine_config()).unwrap();
        prop_assert_eq!(parsed.files.into_iter().map(|file| file.node).collect::<Vec<_>>(), config.files);
        let units: Vec<_> = parsed.units.into_iter().map(|unit| (unit.name, unit.text, unit.enabled)).collect();
        let want: Vec<_> = config.units.into_iter().map(|unit| (unit.name, unit.text, Some(unit.enabled))).collect();
        prop_assert_eq!(units, want);
        prop_assert_eq!(parsed.kernel_arguments, config.kernel_arguments);
    }
}

#[test]
fn fields_that_nobody_has_set_are_not_reported() {
    let text = "kind: MachineConfig\nspec:\n  config:\n    ignition: {version: 3.4.0, security: {tls: {}}, timeouts: {}, \
                proxy: {noProxy: []}}\n    passwd: {users: []}\n  extensions: []\n  fips: false\n  kernelType: default\n  \
                osImageURL: ''\n";
    assert_eq!(parse(text).unwrap().findings, []);
    let set = text
        .replace("kernelType: default", "kernelType: realtime")
        .replace("extensions: []", "extensions: [kerberos]");
    let found: Vec<String> = parse(&set).unwrap().findings.into_iter().map(|finding| finding.what).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("spec.extensions") && found[1].contains("spec.kernelType"), "{found:?}");
}
