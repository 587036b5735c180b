//! containerd: whether NRI is on, and the drop-in that switches it on.
//!
//! Since 2.0 NRI is on unless switched off; in 1.7 it is off unless switched on (containerd `docs/NRI.md`).
//! `cgroup_writable` is not changed: it applies to every pod of a runtime handler, and this agent decides per pod.

#[cfg(test)]
mod tests;

pub mod directories;
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
    /// `version`: 1, 2 (1.x), 3 (2.0 to 2.2) or 4 (from 2.3 on); 1 if not set.
    pub version: i64,
    /// `root`, if set: the directory of images and of what containers write.
    pub root: Option<String>,
    /// `state`, if set: the directory of the containers' bundles, among others.
    pub state: Option<String>,
    /// `imports`.
    pub imports: Vec<String>,
    /// `disable` of the NRI plugin, if set.
    pub nri_disabled: Option<bool>,
    /// Whether `disabled_plugins` lists the NRI plugin.
    pub nri_plugin_off: bool,
    /// The imported file that sets `disable`; `None`: the main file.
    pub nri_disabled_in: Option<String>,
    /// The imported file whose `disabled_plugins` lists the NRI plugin; `None`: the main file.
    pub nri_plugin_off_in: Option<String>,
    /// The other keys of the NRI plugin's table: a table in a drop-in replaces the whole table.
    pub nri_keys: Table,
    /// The CRI plugin that `disabled_plugins` lists, if any: without it the kubelet cannot use this containerd.
    pub cri_disabled: Option<String>,
    /// `default_runtime_name` of the CRI plugin, if set.
    pub default_runtime: Option<String>,
    /// The runtime handlers that have a table.
    pub runtimes: BTreeSet<String>,
    /// Whether `disabled_plugins` lists the snapshotter overlayfs.
    pub overlayfs_off: bool,
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

/// The default snapshotter.
const OVERLAYFS: &str = "overlayfs";

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
        let directory = |key| match get(table, key) {
            Some(Value::Text(path)) if path.starts_with('/') && path.len() > 1 => {
                Some(path.trim_end_matches('/').to_owned())
            }
            _ => None,
        };
        let nri = table_at(table, &["plugins", NRI]);
        ContainerdConf {
            layout: &PACKAGED,
            main_file: MAIN_FILE.to_owned(),
            version: match get(table, "version") {
                Some(Value::Integer(version)) => *version,
                _ => 1,
            },
            root: directory("root"),
            state: directory("state"),
            imports: texts("imports"),
            nri_disabled: match nri.and_then(|nri| get(nri, "disable")) {
                Some(Value::Bool(disabled)) => Some(*disabled),
                _ => None,
            },
            nri_plugin_off: texts("disabled_plugins").iter().any(|plugin| plugin == NRI || plugin == "nri"),
            nri_disabled_in: None,
            nri_plugin_off_in: None,
            nri_keys: nri
                .into_iter()
                .flatten()
                .filter(|(key, _)| !key.eq_ignore_ascii_case("disable"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            cri_disabled: texts("disabled_plugins").into_iter().find(|plugin| CRI.contains(&plugin.as_str())),
            default_runtime: runtime_tables(table).find_map(|table| {
                match get(table, "default_runtime_name") {
                    Some(Value::Text(name)) if !name.is_empty() => Some(name.clone()),
                    _ => None,
                }
            }),
            runtimes: runtime_tables(table)
                .filter_map(|table| table_at(table, &["runtimes"]))
                .flat_map(|runtimes| runtimes.keys().cloned())
                .collect(),
            overlayfs_off: texts("disabled_plugins").iter().any(|plugin| {
                matches!(plugin.as_str(), "overlayfs" | "io.containerd.snapshotter.v1.overlayfs")
            }),
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
        self.root = import.root.or(self.root);
        self.state = import.state.or(self.state);
        // Lists grow, in every version.
        self.cri_disabled = self.cri_disabled.or(import.cri_disabled);
        self.overlayfs_off |= import.overlayfs_off;
        let has_cri = CRI.iter().any(|plugin| table_at(table, &["plugins", plugin]).is_some());
        if has_cri && release < Release::new(2, 0) {
            self.snapshotters = import.snapshotters;
            self.runtimes = import.runtimes;
            self.default_runtime = import.default_runtime;
        } else {
            self.snapshotters.extend(import.snapshotters);
            self.runtimes.extend(import.runtimes);
            self.default_runtime = import.default_runtime.or(self.default_runtime);
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

    /// Records that the settings `import` are those of the imported file `path`.
    #[must_use]
    pub fn imported_from(mut self, path: &str, import: &ContainerdConf) -> ContainerdConf {
        if import.nri_disabled.is_some() {
            self.nri_disabled_in = Some(path.to_owned());
        }
        if import.nri_plugin_off {
            self.nri_plugin_off_in = Some(path.to_owned());
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
            refuses_connections: get(&self.nri_keys, "disable_connections") == Some(&Value::Bool(true)),
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

/// The tables of the CRI plugin that have `runtimes` and `default_runtime_name`, in versions 3 and 2 of the file.
fn runtime_tables(table: &Table) -> impl Iterator<Item = &Table> {
    let plugins = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"];
    plugins.into_iter().filter_map(|plugin| table_at(table, &["plugins", plugin, "containerd"]))
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
    // By handler, for its containers and for its images.
    for path in [
        &["plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"][..],
        &["plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes"],
        &["plugins", "io.containerd.cri.v1.images", "runtime_platforms"],
    ] {
        let handlers = at(path).into_iter().flatten();
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

/// Why containerd cannot decode a file, and does not start: the kinds of the values that are read here. Without this a value
/// of another kind would count as missing.
#[must_use]
pub fn undecodable(release: Release, table: &Table) -> Option<String> {
    if get(table, "version").is_some_and(|version| !matches!(version, Value::Integer(_))) {
        return Some("version is not a number, which has no quotes".to_owned());
    }
    let lists = ["imports", "disabled_plugins"];
    let is_no_list = |key: &&str| get(table, key).is_some_and(|list| list.texts().is_none());
    if let Some(key) = lists.into_iter().find(is_no_list) {
        return Some(format!("{key} is not a list of texts"));
    }
    let disable = table_at(table, &["plugins", NRI]).and_then(|nri| get(nri, "disable"));
    let has_nri = release >= Release::new(1, 7);
    let is_no_flag = has_nri && disable.is_some_and(|disable| !matches!(disable, Value::Bool(_)));
    is_no_flag.then(|| format!("disable of {NRI} is neither true nor false, which have no quotes"))
}

/// Whether containerd refuses a file that begins with a byte order mark (UTF-8 BOM): since 2.0, with its other parser (seen
/// with 2.1.9 and 2.3.4; 1.7.24 reads it).
#[must_use]
pub fn refuses_byte_order_mark(release: Release) -> bool {
    release >= Release::new(2, 0)
}

/// The findings on settings that keep pods with a user namespace, or all pods, from running.
#[must_use]
pub fn examine(release: Release, conf: &ContainerdConf) -> Vec<Finding> {
    let mut findings = Vec::new();
    let restart = conf.layout.restart;
    let newest = newest_version(release);
    if conf.version > newest {
        let what = format!(
            "{} has version = {}, and containerd {release} reads versions up to {newest}: it does not \
             start with it",
            conf.main_file, conf.version
        );
        let remedy = "write it in a version that this containerd reads, or update containerd";
        findings.push(Finding::error(FindingId::ContainerdUndecodable, what, remedy));
    }
    if let Some(name) = conf.default_runtime.as_ref().filter(|name| !is_runtime(conf, name)) {
        let what = format!(
            "default_runtime_name of containerd's configuration is {name:?}, and there is no table \
             containerd.runtimes.{name}: the CRI plugin does not load, so the kubelet cannot use this containerd"
        );
        let remedy = format!("define that runtime, or remove default_runtime_name; then: {restart}");
        findings.push(Finding::error(FindingId::ContainerdCriDisabled, what, &remedy));
    }
    let default_snapshotter = conf.snapshotters.get("").map_or(OVERLAYFS, String::as_str);
    if conf.overlayfs_off && default_snapshotter == OVERLAYFS {
        let what = "disabled_plugins of containerd's configuration names the snapshotter overlayfs, which the CRI plugin \
                    uses: it does not load, so the kubelet cannot use this containerd"
            .to_owned();
        let remedy = format!("take it out of disabled_plugins; then: {restart}");
        findings.push(Finding::error(FindingId::ContainerdCriDisabled, what, &remedy));
    }
    if let Some(plugin) = &conf.cri_disabled {
        let shipped = if conf.main_file == MAIN_FILE { "; Docker's package ships it so" } else { "" };
        let what = format!(
            "disabled_plugins of containerd's configuration names {plugin}, so the kubelet cannot use this \
             containerd{shipped}"
        );
        let remedy = format!("take it out of disabled_plugins; then: {restart}");
        findings.push(Finding::error(FindingId::ContainerdCriDisabled, what, &remedy));
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
             [\"remap-ids\"] in [proxy_plugins.{name}], and: {restart}"
        );
        findings.push(Finding::warning(FindingId::ContainerdSnapshotter, what, &remedy));
    }
    findings
}

/// The newest version of the file that a release reads (`version.ConfigVersion`).
fn newest_version(release: Release) -> i64 {
    if release < Release::new(2, 0) {
        2
    } else if release < Release::new(2, 3) {
        3
    } else {
        // A later release may read more.
        i64::MAX
    }
}

/// Whether a runtime handler is defined; `runc` is built in.
fn is_runtime(conf: &ContainerdConf, name: &str) -> bool {
    name == "runc" || conf.runtimes.contains(name)
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
        "write that entry of imports as the path of a file that exists, or as DIRECTORY/*.toml",
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
        let file = conf.nri_plugin_off_in.as_ref().unwrap_or(main_file);
        let what = format!("{file} lists {NRI} under disabled_plugins, so NRI stays off");
        findings.push(Finding::warning(
            FindingId::ContainerdNri,
            what,
            &format!("take it out of that list; then: {}", conf.layout.restart),
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
        let file = conf.nri_disabled_in.as_ref().unwrap_or(main_file);
        let what = format!("{file} switches NRI off");
        findings.push(Finding::warning(
            FindingId::ContainerdNri,
            what,
            &format!("set disable = false there; then: {}", conf.layout.restart),
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
            let (what, remedy) = without_imports(conf, &format!("these lines: {}", settings.join(" | ")));
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
    let path = layout.beside(if *version < 3 { before } else { three }, main_file);
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
    matches!(version, 2..=4).then_some(text)
}
