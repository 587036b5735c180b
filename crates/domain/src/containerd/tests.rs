use super::layout::DISTRIBUTIONS;
use super::*;
use crate::crio::config::tests::table;

const RELEASE_1_7: Release = Release::new(1, 7);
const RELEASE_2: Release = Release::new(2, 0);

fn conf(version: i64, imports: &[&str], disabled: Option<bool>) -> ContainerdConf {
    ContainerdConf {
        root: None,
        state: None,
        layout: &PACKAGED,
        main_file: MAIN_FILE.to_owned(),
        version,
        imports: imports.iter().map(|import| (*import).to_owned()).collect(),
        nri_disabled: disabled,
        nri_disabled_in: None,
        nri_plugin_off_in: None,
        nri_plugin_off: false,
        nri_keys: Table::new(),
        cri_disabled: None,
        default_runtime: None,
        runtimes: BTreeSet::new(),
        overlayfs_off: false,
        snapshotters: BTreeMap::new(),
        remapping_proxies: BTreeSet::new(),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn tables(path: &[&str], keys: Table) -> Table {
    path.iter().rev().fold(keys, |inner, name| [((*name).to_owned(), Value::Table(inner))].into())
}

#[test]
fn a_containerd_that_serves_no_cri_is_an_error() {
    for plugin in CRI {
        let table: Table = [("disabled_plugins".to_owned(), Value::list([plugin]))].into();
        let conf = ContainerdConf::of(Some(&table));
        let found = examine(RELEASE_2, &conf);
        assert!(
            found[0].id == FindingId::ContainerdCriDisabled && found[0].what.contains(plugin),
            "{found:?}"
        );
        let imported = ContainerdConf::of(None).with_import(Release::new(2, 1), &table);
        assert_eq!(examine(RELEASE_2, &imported), found);
    }
    assert_eq!(examine(RELEASE_2, &conf(2, &[], None)), Vec::new());
}

#[test]
fn remedies_name_what_restarts_the_containerd_of_a_distribution() {
    let disabled: Table =
        [("disabled_plugins".to_owned(), Value::list(["cri"])), ("version".to_owned(), Value::Integer(2))]
            .into();
    let packaged = examine(RELEASE_2, &ContainerdConf::of(Some(&disabled)));
    assert!(packaged[0].what.contains("Docker's package"), "{packaged:?}");
    assert!(packaged[0].remedy.ends_with("systemctl restart containerd"), "{packaged:?}");
    for layout in DISTRIBUTIONS.iter().filter(|layout| layout.distribution != Some("Flatcar")) {
        let conf = ContainerdConf::of(Some(&disabled)).in_layout(layout, layout.main_file);
        let found = examine(RELEASE_2, &conf);
        assert!(!found[0].what.contains("Docker"), "{found:?}");
        assert!(found[0].remedy.ends_with(layout.restart), "{found:?}");
        assert!(!found[0].remedy.contains("restart containerd"), "{found:?}");
    }
}

#[test]
fn a_snapshotter_that_is_not_known_to_map_ids_is_named() {
    const IMAGES: [&str; 2] = ["plugins", "io.containerd.cri.v1.images"];
    const V2: [&str; 3] = ["plugins", "io.containerd.grpc.v1.cri", "containerd"];
    let snapshotter = |path: &[&str], name: &str| tables(path, [("snapshotter".into(), text(name))].into());
    let named = |table: &Table| -> Vec<String> {
        examine(RELEASE_2, &ContainerdConf::of(Some(table))).into_iter().map(|finding| finding.what).collect()
    };
    for path in [&IMAGES[..], &V2[..]] {
        for name in ["soci", "native", "fuse-overlayfs"] {
            let found = named(&snapshotter(path, name));
            assert!(found.len() == 1 && found[0].contains(&format!("snapshotter {name} maps")), "{found:?}");
        }
        for name in ["overlayfs", "erofs"] {
            assert_eq!(named(&snapshotter(path, name)), Vec::<String>::new());
        }
    }
    // One handler's own.
    let handler = ["plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes", "kata"];
    assert!(named(&snapshotter(&handler, "devmapper"))[0].contains("of handler kata"));
    // A proxy that has the capability.
    let mut table = snapshotter(&IMAGES, "soci");
    let capabilities = Value::list(["remap-ids", "rebase"]);
    table.extend(tables(&["proxy_plugins", "soci"], [("capabilities".into(), capabilities)].into()));
    assert_eq!(named(&table), Vec::<String>::new());
    // An imported file: until 1.7 its table takes the place of the whole, later its keys do.
    let (main, import) = (snapshotter(&V2, "native"), tables(&V2[..2], [("x".into(), text("y"))].into()));
    let merged = |release| ContainerdConf::of(Some(&main)).with_import(release, &import);
    assert_eq!(examine(RELEASE_1_7, &merged(RELEASE_1_7)), Vec::new());
    assert_eq!(examine(RELEASE_2, &merged(Release::new(2, 0))).len(), 1);
}

#[test]
fn the_main_file_is_parsed() {
    let nri = Value::Table([("disable".to_owned(), Value::Bool(true))].into());
    let table: Table = [
        ("version".to_owned(), Value::Integer(2)),
        ("imports".to_owned(), Value::list(["/etc/containerd/conf.d/*.toml"])),
        ("plugins".to_owned(), Value::Table([(NRI.to_owned(), nri)].into())),
    ]
    .into();
    let read = ContainerdConf::of(Some(&table));
    assert_eq!(read, conf(2, &["/etc/containerd/conf.d/*.toml"], Some(true)));
    assert_eq!(ContainerdConf::of(None), conf(1, &[], None));
    let off: Table = [("disabled_plugins".to_owned(), Value::list([NRI]))].into();
    assert!(ContainerdConf::of(Some(&off)).nri_plugin_off);
}

/// w: a drop-in is written; f: a finding has the remedy; -: nothing to do.
#[test]
fn the_plan_depends_on_version_and_file() {
    let ours = &[IMPORTS][..];
    for (release, conf, want) in [
        ((1, 6), conf(2, ours, None), "f"),
        ((1, 7), conf(2, ours, None), "w"),
        ((1, 7), conf(2, ours, Some(true)), "w"),
        ((1, 7), conf(2, ours, Some(false)), "-"),
        ((1, 7), conf(2, &["conf.d/*.toml"], None), "w"),
        ((1, 7), conf(2, &[], None), "f"),
        ((1, 7), conf(2, &["/etc/other/*.toml"], None), "w"),
        ((1, 7), conf(2, &["/etc/*/x/*.toml", "/etc/one.toml", "/*", "/etc/x/*"], None), "f"),
        ((1, 7), conf(1, ours, None), "f"),
        ((2, 0), conf(3, &[], None), "-"),
        ((2, 0), conf(2, &[], None), "-"),
        ((2, 1), conf(3, ours, Some(true)), "f"),
        ((2, 2), conf(3, ours, Some(false)), "-"),
        ((2, 2), ContainerdConf { nri_plugin_off: true, ..conf(3, ours, None) }, "f"),
    ] {
        let plan = plan(Release::new(release.0, release.1), &conf, None);
        let found = match (&plan.drop_in, plan.findings.is_empty()) {
            (Some(_), true) => "w",
            (None, false) => "f",
            (None, true) => "-",
            (Some(_), false) => "both",
        };
        assert_eq!(found, want, "{release:?} {conf:?}");
        assert!(plan.findings.iter().all(|finding| !finding.remedy.is_empty()));
    }
}

#[test]
fn versions_are_parsed() {
    for (text, major, minor, patch) in [
        ("2.1", 2, 1, 0),
        ("2.1.9+unknown", 2, 1, 9),
        ("v1.7.24", 1, 7, 24),
        ("2.4.0-beta.0", 2, 4, 0),
        ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7", 2, 1, 4),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n", 1, 6, 20),
    ] {
        assert_eq!(Release::parse(text), Ok(Release { major, minor, patch }), "{text}");
    }
    for text in ["", "2", "containerd", "containerd x", "a.b"] {
        assert!(Release::parse(text).is_err(), "{text}");
    }
}

/// In containerd 1.7 a drop-in's plugin table replaces the main file's.
#[test]
fn other_keys_of_the_table_are_kept() {
    let keys = [("socket_path".to_owned(), Value::Text("/run/other.sock".into()))];
    let conf = ContainerdConf { nri_keys: keys.into(), ..conf(2, &[IMPORTS], Some(true)) };
    let (_, text) = plan(RELEASE_1_7, &conf, None).drop_in.unwrap();
    assert!(text.ends_with("disable = false\nsocket_path = \"/run/other.sock\"\n"), "{text}");
}

#[test]
fn required_plugins_are_added_to_those_of_an_administrator() {
    const RELEASE_2_2: Release = Release::new(2, 2);
    let text = |table: &[(&str, Value)]| -> Table {
        table.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    };
    let validator = text(&[
        ("reject_oci_hook_adjustment", Value::Bool(true)),
        ("required_plugins", Value::list(["logger"])),
    ]);
    let nri = text(&[
        ("plugin_path", Value::Text("/srv/nri".into())),
        ("default_validator", Value::Table(validator)),
    ]);
    let main =
        text(&[("version", Value::Integer(3)), ("imports", Value::list(["conf.d/*.toml", "/x.toml"]))]);
    let import = text(&[("plugins", Value::Table(text(&[(NRI, Value::Table(nri))])))]);
    let read = ContainerdConf::of(Some(&main)).with_import(RELEASE_2_2, &import);
    let found = read.nri_conf(RELEASE_2_2, false);
    assert_eq!(
        (found.on, found.plugin_dir.as_str(), found.config_dir.as_str()),
        (true, "/srv/nri", CONFIG_DIR)
    );
    assert_eq!(found.validator.required, ["logger"]);
    let wanted = Validator {
        enabled: Some(true),
        required: vec!["logger".into(), "usernsd".into()],
        toleration: "example.com".into(),
        ..found.validator
    };
    let (_, text) = plan(RELEASE_2_2, &read, Some(&wanted)).drop_in.unwrap();
    assert!(
        text.ends_with(
            "\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\nplugin_path = \"/srv/nri\"\n\n\
                 [plugins.\"io.containerd.nri.v1.nri\".default_validator]\nenable = true\n\
                 reject_oci_hook_adjustment = true\nrequired_plugins = [\n  \"logger\",\n  \"usernsd\",\n]\n\
                 tolerate_missing_plugins_annotation = \"example.com\"\n"
        ),
        "{text}"
    );
    // The main file imports no directory: the finding contains the text to add.
    let nowhere = plan(RELEASE_2_2, &conf(3, &[], None), Some(&wanted));
    assert_eq!((nowhere.drop_in, nowhere.findings[0].id), (None, FindingId::NriRequired));
}

#[test]
fn an_imported_table_replaces_or_adds_by_version() {
    let table = |key: &str, value: Value| -> Table {
        let nri: Table = [(key.to_owned(), value)].into();
        [("plugins".to_owned(), Value::Table([(NRI.to_owned(), Value::Table(nri))].into()))].into()
    };
    let (main, import) =
        (table("plugin_path", Value::Text("/a".into())), table("disable", Value::Bool(false)));
    let dir = |release| {
        ContainerdConf::of(Some(&main)).with_import(release, &import).nri_conf(release, false).plugin_dir
    };
    assert_eq!(dir(Release::new(1, 7)), PLUGIN_DIR);
    assert_eq!(dir(Release::new(2, 0)), "/a");
    let off = ContainerdConf::of(None).nri_conf(Release::new(1, 7), false);
    assert!(!off.on && ContainerdConf::of(None).nri_conf(Release::new(1, 7), true).on);
}

#[test]
fn the_version_of_the_main_file_is_kept() {
    for version in [2, 3] {
        let (path, text) = plan(RELEASE_1_7, &conf(version, &["conf.d/*.toml"], None), None).drop_in.unwrap();
        assert_eq!(path, "/etc/containerd/conf.d/99-usernsd.toml");
        assert!(text.contains(&format!("\nversion = {version}\n")), "{text}");
        assert!(text.contains("[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\n"), "{text}");
    }
}

#[test]
fn a_configuration_that_containerd_does_not_load_is_found() {
    let of = |release, pairs: &[(&str, Value)]| {
        let conf = ContainerdConf::of(Some(&table(pairs)));
        examine(release, &conf).into_iter().map(|finding| finding.what).collect::<Vec<_>>()
    };
    let version = |number| [("version", Value::Integer(number))];
    for (release, number, good) in [
        (RELEASE_1_7, 2, true),
        (RELEASE_1_7, 3, false),
        (Release::new(2, 1), 3, true),
        (Release::new(2, 1), 4, false),
        (Release::new(2, 3), 4, true),
    ] {
        assert_eq!(of(release, &version(number)).is_empty(), good, "{release} {number}");
    }
    const CRI: &str = "plugins/io.containerd.cri.v1.runtime/containerd";
    let name = format!("{CRI}/default_runtime_name");
    let handler = format!("{CRI}/runtimes/crun/runtime_type");
    assert_eq!(of(RELEASE_2, &[(&name, text("runc"))]), Vec::<String>::new());
    assert_eq!(of(RELEASE_2, &[(&name, text("crun")), (&handler, text("x"))]), Vec::<String>::new());
    let found = of(RELEASE_2, &[(&name, text("crun"))]);
    assert!(found.len() == 1 && found[0].contains("no table containerd.runtimes.crun"), "{found:?}");

    let off = ("disabled_plugins", Value::list(["io.containerd.snapshotter.v1.overlayfs"]));
    let found = of(RELEASE_2, std::slice::from_ref(&off));
    assert!(found.len() == 1 && found[0].contains("names the snapshotter overlayfs"), "{found:?}");
    let other = ("plugins/io.containerd.cri.v1.images/snapshotter", text("erofs"));
    assert_eq!(of(RELEASE_2, &[off, other]), Vec::<String>::new());
}
