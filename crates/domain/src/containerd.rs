//! containerd: whether NRI is on, and the drop-in that switches it on.
//!
//! Since 2.0 NRI is on unless switched off; in 1.7 it is off unless switched on (containerd `docs/NRI.md`).
//! `cgroup_writable` is not changed: it applies to every pod of a runtime handler, and this agent decides per pod.

pub mod imports;
pub mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

use self::layout::{Layout, PACKAGED};
use super::finding::{Finding, FindingId};
use super::nri_plugin::{CONFIG_DIR, NriConf, PLUGIN_DIR, SOCKET, Validator, ValidatorKeys};
use super::toml::{Table, Value, get, key, line, table_at};

/// The main file.
pub const MAIN_FILE: &str = "/etc/containerd/config.toml";

/// The usual `imports`.
pub const IMPORTS: &str = "/etc/containerd/conf.d/*.toml";

/// The drop-in's file name, in a directory from which the main file imports every `.toml`.
pub const DROP_IN: &str = "99-usernsd.toml";

/// A version of containerd, as far as rules depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The major version.
    pub major: u16,
    /// The minor version.
    pub minor: u16,
    /// The patch version; 0 if missing.
    pub patch: u16,
}

/// The text is not a version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a version of containerd such as 2.1.4")]
pub struct ReleaseError(String);

/// The settings of the main file that matter here.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerdConf {
    /// Where the distribution keeps the main file.
    pub layout: &'static Layout,
    /// The main file, which may be another one than the layout's.
    pub main_file: String,
    /// `version`: 1, 2 (1.x) or 3 (2.x); 1 if not set.
    pub version: i64,
    /// `imports`.
    pub imports: Vec<String>,
    /// `disable` of the NRI plugin, if set.
    pub nri_disabled: Option<bool>,
    /// Whether `disabled_plugins` lists the NRI plugin.
    pub nri_plugin_off: bool,
    /// The other keys of the NRI plugin's table: a table in a drop-in replaces the whole table.
    pub nri_keys: Table,
    /// The CRI plugin that `disabled_plugins` lists, if any: without it the kubelet cannot use this containerd.
    pub cri_disabled: Option<String>,
    /// Configured snapshotters by runtime handler; the key "" is the one for all other handlers. Empty if the
    /// default, overlayfs, applies.
    pub snapshotters: BTreeMap<String, String>,
    /// The proxy snapshotters whose `capabilities` have `remap-ids`.
    pub remapping_proxies: BTreeSet<String>,
}

/// The planned change to containerd's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerdPlan {
    /// Path and text of the drop-in; `None` if nothing is to be written, or nothing can be.
    pub drop_in: Option<(String, String)>,
    /// Findings: actions that are left to an administrator, and notes.
    pub findings: Vec<Finding>,
}

/// The NRI plugin's name in `disabled_plugins` and `[plugins]`.
const NRI: &str = "io.containerd.nri.v1.nri";

/// Plugins that CRI needs, by their names in versions 1, 2 and 3 of the file; the last one is for images.
const CRI: [&str; 4] =
    ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"];

/// Built-in snapshotters that map IDs (`capaRemapIDs` in `plugins/snapshots`; erofs since 2.1). A proxy
/// snapshotter declares it in its `capabilities`. For all others containerd copies the image for each mapping and
/// changes the owners of the copy (`resolveSnapshotOptions`, 1.7 to 2.3).
const REMAPPING: [&str; 2] = ["overlayfs", "erofs"];

/// The default validator's table in the NRI plugin's table.
const VALIDATOR: &str = "default_validator";

/// containerd's names for the validator's settings, the same as NRI's (`plugins/default-validator`).
pub const VALIDATOR_KEYS: ValidatorKeys = ValidatorKeys {
    enabled: "enable",
    required: "required_plugins",
    toleration: "tolerate_missing_plugins_annotation",
    rejects_namespaces: "reject_namespace_adjustment",
};

// === impl Release ===

impl Release {
    /// Parses `2.1`, `2.1.9+unknown`, `v1.7.24`, and the line of `containerd --version`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Release, ReleaseError> {
        let refuse = || ReleaseError(text.chars().take(80).collect());
        let line = text.trim().lines().next().unwrap_or_default();
        // "containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7".
        let word = match line.strip_prefix("containerd ") {
            Some(rest) => rest.split_ascii_whitespace().nth(1).ok_or_else(refuse)?,
            None => line,
        };
        let mut parts = word.strip_prefix('v').unwrap_or(word).splitn(3, '.');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(refuse);
        let (major, minor) = (number()?, number()?);
        // "9+unknown", "20~ds1".
        let rest = parts.next().unwrap_or_default();
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let patch = rest.get(..digits).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Ok(Release { major, minor, patch })
    }

    /// The first release of a minor version.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Release {
        Release { major, minor, patch: 0 }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

// === impl ContainerdConf ===

impl ContainerdConf {
    /// Reads the main file's table; `None` if there is no file, which is allowed.
    #[must_use]
    pub fn of(table: Option<&Table>) -> ContainerdConf {
        let empty = Table::new();
        let table = table.unwrap_or(&empty);
        let texts = |key| get(table, key).and_then(Value::texts).unwrap_or_default();
        let nri = table_at(table, &["plugins", NRI]);
        ContainerdConf {
            layout: &PACKAGED,
            main_file: MAIN_FILE.to_owned(),
            version: match get(table, "version") {
                Some(Value::Integer(version)) => *version,
                _ => 1,
            },
            imports: texts("imports"),
            nri_disabled: match nri.and_then(|nri| get(nri, "disable")) {
                Some(Value::Bool(disabled)) => Some(*disabled),
                _ => None,
            },
            nri_plugin_off: texts("disabled_plugins").iter().any(|plugin| plugin == NRI || plugin == "nri"),
            nri_keys: nri
                .into_iter()
                .flatten()
                .filter(|(key, _)| !key.eq_ignore_ascii_case("disable"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            cri_disabled: texts("disabled_plugins").into_iter().find(|plugin| CRI.contains(&plugin.as_str())),
            snapshotters: snapshotters(table),
            remapping_proxies: remapping_proxies(table),
        }
    }

    /// The same settings in the main file of another layout.
    #[must_use]
    pub fn in_layout(self, layout: &'static Layout, main_file: &str) -> ContainerdConf {
        ContainerdConf { layout, main_file: main_file.to_owned(), ..self }
    }

    /// Adds a file that the main file imports. Until 1.7 a plugin's table in the file replaces the earlier table;
    /// since 2.0 it replaces only the keys that it contains (`mergeConfig`).
    #[must_use]
    pub fn with_import(mut self, release: Release, table: &Table) -> ContainerdConf {
        let import = ContainerdConf::of(Some(table));
        self.nri_plugin_off |= import.nri_plugin_off;
        // Lists grow, in every version.
        self.cri_disabled = self.cri_disabled.or(import.cri_disabled);
        let has_cri = CRI.iter().any(|plugin| table_at(table, &["plugins", plugin]).is_some());
        if has_cri && release < Release::new(2, 0) {
            self.snapshotters = import.snapshotters;
        } else {
            self.snapshotters.extend(import.snapshotters);
        }
        self.remapping_proxies.extend(import.remapping_proxies);
        if table_at(table, &["plugins", NRI]).is_some() {
            if release < Release::new(2, 0) {
                self.nri_disabled = import.nri_disabled;
                self.nri_keys = import.nri_keys;
            } else {
                self.nri_disabled = import.nri_disabled.or(self.nri_disabled);
                merge(&mut self.nri_keys, import.nri_keys);
            }
        }
        self
    }

    /// The NRI configuration. `switched_on`: a drop-in switches NRI on.
    #[must_use]
    pub fn nri_conf(&self, release: Release, switched_on: bool) -> NriConf {
        let by_default = release >= Release::new(2, 0);
        let is_on = !self.nri_plugin_off && !self.nri_disabled.unwrap_or(!by_default);
        let path = |key: &str, default: &str| match get(&self.nri_keys, key) {
            // An empty string means the default (`toOptions`).
            Some(Value::Text(text)) if !text.is_empty() => text.clone(),
            _ => default.to_owned(),
        };
        let validator = match get(&self.nri_keys, VALIDATOR) {
            Some(Value::Table(keys)) => Validator::default().with(keys, &VALIDATOR_KEYS),
            _ => Validator::default(),
        };
        NriConf {
            on: is_on || switched_on,
            socket: path("socket_path", SOCKET),
            plugin_dir: path("plugin_path", PLUGIN_DIR),
            config_dir: path("plugin_config_path", CONFIG_DIR),
            validator,
        }
    }

    /// The drop-in's path: in the first imported directory from which all `.toml` files are read. Not in one from
    /// which all files are read: half-written ones, which have other names, would be read too. Relative imports are
    /// relative to the main file's directory.
    #[must_use]
    pub fn drop_in_path(&self) -> Option<String> {
        let parent = self.main_file.rsplit_once('/').map_or("", |(parent, _)| parent);
        let directory = |pattern: &String| {
            let directory = pattern.strip_suffix("/*.toml")?;
            let plain = !directory.is_empty() && !directory.contains(['*', '?', '[', '\\']);
            let base = if directory.starts_with('/') { String::new() } else { format!("{parent}/") };
            plain.then(|| format!("{base}{directory}/{DROP_IN}"))
        };
        self.imports.iter().find_map(directory)
    }
}

/// See [`ContainerdConf::snapshotters`].
fn snapshotters(table: &Table) -> BTreeMap<String, String> {
    let text = |table: &Table| match get(table, "snapshotter") {
        Some(Value::Text(name)) if !name.is_empty() => Some(name.clone()),
        _ => None,
    };
    let at = |path: &[&str]| table_at(table, path);
    let of_images = at(&["plugins", "io.containerd.cri.v1.images"]);
    let of_cri = at(&["plugins", "io.containerd.grpc.v1.cri", "containerd"]);
    let mut found: BTreeMap<String, String> =
        of_images.or(of_cri).and_then(text).into_iter().map(|name| (String::new(), name)).collect();
    for plugin in ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"] {
        let handlers = at(&["plugins", plugin, "containerd", "runtimes"]).into_iter().flatten();
        found.extend(handlers.filter_map(|(handler, keys)| match keys {
            Value::Table(keys) => Some((handler.clone(), text(keys)?)),
            _ => None,
        }));
    }
    found
}

/// See [`ContainerdConf::remapping_proxies`].
fn remapping_proxies(table: &Table) -> BTreeSet<String> {
    let proxies = table_at(table, &["proxy_plugins"]).into_iter().flatten();
    let remaps = |value: &Value| match value {
        Value::Table(keys) => get(keys, "capabilities")
            .and_then(Value::texts)
            .is_some_and(|capabilities| capabilities.iter().any(|capability| capability == "remap-ids")),
        _ => false,
    };
    proxies.filter(|(_, keys)| remaps(keys)).map(|(name, _)| name.clone()).collect()
}

fn merge(table: &mut Table, other: Table) {
    for (name, value) in other {
        match (table.get_mut(&name), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => drop(table.insert(name, value)),
        }
    }
}

/// The findings on settings that keep pods with a user namespace, or all pods, from running.
#[must_use]
pub fn examine(conf: &ContainerdConf) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(plugin) = &conf.cri_disabled {
        let what = format!(
            "disabled_plugins of containerd's configuration names {plugin}, so the kubelet cannot use this \
             containerd; Docker's package ships it so"
        );
        let remedy = "take it out of disabled_plugins, or: containerd config default > /etc/containerd/config.toml; \
                      then: systemctl restart containerd";
        findings.push(Finding::error(FindingId::ContainerdCriDisabled, what, remedy));
    }
    for (handler, name) in &conf.snapshotters {
        if REMAPPING.contains(&name.as_str()) || conf.remapping_proxies.contains(name) {
            continue;
        }
        let of = if handler.is_empty() { String::new() } else { format!(" of handler {handler}") };
        let what = format!(
            "containerd does not know that the snapshotter {name}{of} maps IDs: for pods with a user namespace it \
             copies each image and changes the owners of the copy, which takes time and space and can fail"
        );
        let remedy = format!(
            "use overlayfs for them; where {name} is a proxy snapshotter whose version maps IDs: capabilities = \
             [\"remap-ids\"] in [proxy_plugins.{name}], and: systemctl restart containerd"
        );
        findings.push(Finding::warning(FindingId::ContainerdSnapshotter, what, &remedy));
    }
    findings
}

/// The finding that a file imported after the drop-in overrides it.
#[must_use]
pub fn undone(path: &str, by: &[String]) -> Finding {
    let what = format!(
        "{path} would have no effect: {} is read after it and says otherwise of NRI",
        by.join(" or ")
    );
    Finding::warning(
        FindingId::ContainerdNri,
        what,
        "take the table of NRI out of that file, or import it before",
    )
}

/// The finding that the files imported by containerd could not be determined.
#[must_use]
pub fn unknown_imports(why: &str) -> Finding {
    let what = format!("what containerd is configured to do is not known: {why}");
    Finding::warning(
        FindingId::ContainerdImports,
        what,
        "write that entry of imports as a path, or as DIRECTORY/*.toml",
    )
}

/// Plans what switches NRI on, and what requires plugins: `validator`, if that is to change.
#[must_use]
pub fn plan(release: Release, conf: &ContainerdConf, validator: Option<&Validator>) -> ContainerdPlan {
    let mut findings = Vec::new();
    let by_default = release >= Release::new(2, 0);
    let main_file = &conf.main_file;
    if release < Release::new(1, 7) {
        let what = format!("containerd {release} has no NRI");
        findings.push(Finding::warning(
            FindingId::ContainerdNri,
            what,
            "install the OCI hook, or update to 2.0 or later",
        ));
        return ContainerdPlan { drop_in: None, findings };
    }
    if conf.nri_plugin_off {
        let what = format!("{main_file} lists {NRI} under disabled_plugins, so NRI stays off");
        findings.push(Finding::warning(
            FindingId::ContainerdNri,
            what,
            "take it out of that list and restart containerd",
        ));
        return ContainerdPlan { drop_in: None, findings };
    }
    let is_on = conf.nri_disabled == Some(false) || (conf.nri_disabled.is_none() && by_default);
    if is_on && validator.is_none() {
        return ContainerdPlan { drop_in: None, findings };
    }
    let text = drop_in(conf, validator);
    if conf.nri_disabled == Some(true) && by_default {
        // The administrator has decided so.
        let what = format!("{main_file} switches NRI off");
        findings.push(Finding::warning(
            FindingId::ContainerdNri,
            what,
            "set disable = false there, restart containerd",
        ));
        return ContainerdPlan { drop_in: None, findings };
    }
    match text.map(|text| (conf.drop_in_path(), text)) {
        Some((Some(path), text)) => ContainerdPlan { drop_in: Some((path, text)), findings },
        Some((None, text)) => {
            // `imports` is a list in the main file; adding to it would mean editing that file.
            // The main file has a version already.
            let is_setting =
                |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("version");
            let settings: Vec<&str> = text.lines().filter(is_setting).collect();
            let (what, remedy) = without_imports(conf, &settings.join("  "));
            let id = if is_on { FindingId::NriRequired } else { FindingId::ContainerdNri };
            findings.push(Finding::warning(id, what, &remedy));
            ContainerdPlan { drop_in: None, findings }
        }
        None => {
            let what = format!("{main_file} is missing, or of version {}, which knows no NRI", conf.version);
            let remedy = "write one of version 2: containerd config migrate, or, if there is no file, containerd config default";
            let id = if is_on { FindingId::NriRequired } else { FindingId::ContainerdNri };
            findings.push(Finding::warning(id, what, remedy));
            ContainerdPlan { drop_in: None, findings }
        }
    }
}

/// The problem of a main file that imports no directory, and its remedy.
fn without_imports(conf: &ContainerdConf, settings: &str) -> (String, String) {
    let ContainerdConf { layout, main_file, version, .. } = conf;
    let Some(template) = layout.template else {
        let imports = if layout.distribution.is_none() {
            IMPORTS.to_owned()
        } else {
            format!("{}/conf.d/*.toml", layout.directory())
        };
        let what = format!("{main_file} imports no {imports}, so a file there would not be read");
        let remedy = format!("add imports = [\"{imports}\"] at its top, or add: {settings}");
        return (what, remedy);
    };
    let name = layout.distribution.unwrap_or_default();
    let what = format!("{name} writes {main_file} at each start, and it imports no directory");
    let [before, three] = template.paths;
    let path = if *version < 3 { before } else { three };
    let remedy = match template.first_line {
        Some(first_line) => {
            format!("write a template {path} that begins with {first_line}, and add to it: {settings}")
        }
        None => format!("add to {path}: {settings}"),
    };
    (what, format!("{remedy}; then restart {name}"))
}

/// The drop-in, in the main file's version: containerd refuses a mix.
fn drop_in(conf: &ContainerdConf, validator: Option<&Validator>) -> Option<String> {
    let version = conf.version;
    let mut keys = conf.nri_keys.clone();
    if let Some(validator) = validator {
        let lines = validator.lines(&VALIDATOR_KEYS).into_iter().collect();
        let name = keys.keys().find(|name| name.eq_ignore_ascii_case(VALIDATOR)).cloned();
        let name = name.unwrap_or_else(|| VALIDATOR.to_owned());
        merge(&mut keys, [(name, Value::Table(lines))].into());
    }
    let is_table = |value: &Value| matches!(value, Value::Table(_));
    let plain: String =
        keys.iter().filter(|(_, value)| !is_table(value)).map(|(key, value)| line(key, value)).collect();
    let mut text = format!(
        "# Written by usernsd; changes made here are lost.\n\
         # containerd reads it when it starts.\n\
         version = {version}\n\n\
         [plugins.\"{NRI}\"]\n\
         disable = false\n{plain}"
    );
    for (name, value) in &keys {
        let Value::Table(inner) = value else { continue };
        text.push_str(&format!("\n[plugins.\"{NRI}\".{}]\n", key(name)));
        text.extend(inner.iter().map(|(key, value)| line(key, value)));
    }
    matches!(version, 2 | 3).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE_1_7: Release = Release::new(1, 7);

    fn conf(version: i64, imports: &[&str], disabled: Option<bool>) -> ContainerdConf {
        ContainerdConf {
            layout: &PACKAGED,
            main_file: MAIN_FILE.to_owned(),
            version,
            imports: imports.iter().map(|import| (*import).to_owned()).collect(),
            nri_disabled: disabled,
            nri_plugin_off: false,
            nri_keys: Table::new(),
            cri_disabled: None,
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
            let found = examine(&conf);
            assert!(
                found[0].id == FindingId::ContainerdCriDisabled && found[0].what.contains(plugin),
                "{found:?}"
            );
            let imported = ContainerdConf::of(None).with_import(Release::new(2, 1), &table);
            assert_eq!(examine(&imported), found);
        }
        assert_eq!(examine(&conf(2, &[], None)), Vec::new());
    }

    #[test]
    fn a_snapshotter_that_is_not_known_to_map_ids_is_named() {
        const IMAGES: [&str; 2] = ["plugins", "io.containerd.cri.v1.images"];
        const V2: [&str; 3] = ["plugins", "io.containerd.grpc.v1.cri", "containerd"];
        let snapshotter =
            |path: &[&str], name: &str| tables(path, [("snapshotter".into(), text(name))].into());
        let named = |table: &Table| -> Vec<String> {
            examine(&ContainerdConf::of(Some(table))).into_iter().map(|finding| finding.what).collect()
        };
        for path in [&IMAGES[..], &V2[..]] {
            for name in ["soci", "native", "fuse-overlayfs"] {
                let found = named(&snapshotter(path, name));
                assert!(
                    found.len() == 1 && found[0].contains(&format!("snapshotter {name} maps")),
                    "{found:?}"
                );
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
        assert_eq!(examine(&merged(RELEASE_1_7)), Vec::new());
        assert_eq!(examine(&merged(Release::new(2, 0))).len(), 1);
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
            let (path, text) =
                plan(RELEASE_1_7, &conf(version, &["conf.d/*.toml"], None), None).drop_in.unwrap();
            assert_eq!(path, "/etc/containerd/conf.d/99-usernsd.toml");
            assert!(text.contains(&format!("\nversion = {version}\n")), "{text}");
            assert!(text.contains("[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\n"), "{text}");
        }
    }
}
