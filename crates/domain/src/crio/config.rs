//! CRI-O's configuration files, merged as CRI-O merges them.
//!
//! Built-in defaults, then `crio.conf`, then every file of `crio.conf.d` in lexical order. A later scalar or list
//! replaces the earlier one; a `[crio.runtime.runtimes.X]` or `[crio.runtime.workloads.X]` table replaces the whole
//! earlier table X (`pkg/config/config.go`, `UpdateFromDropInFile`; observed on 1.36.3).

#[cfg(test)]
pub(crate) mod tests;
mod types;

use std::collections::BTreeMap;

pub use self::types::{WrongType, wrong_types};
use super::CrioVersion;
use super::annotation::built_in;
use crate::nri_plugin::{CONFIG_DIR, NriConf, PLUGIN_DIR, SOCKET, Validator, ValidatorKeys};
use crate::toml::{Table, Value, get, table_at};

/// CRI-O's names for the validator's settings (`internal/config/nri/nri.go`).
pub const VALIDATOR_KEYS: ValidatorKeys = ValidatorKeys {
    enabled: "nri_enable_default_validator",
    required: "nri_validator_required_plugins",
    toleration: "nri_validator_tolerate_missing_plugins_annotation",
    rejects_namespaces: "nri_validator_reject_namespace_adjustment",
};

/// The main file. It is optional.
pub const MAIN_FILE: &str = "/etc/crio/crio.conf";

/// The directory whose files are all read, whatever their names, at any depth.
pub const DROP_IN_DIR: &str = "/etc/crio/crio.conf.d";

/// A file that CRI-O reads.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfFile {
    /// The path on the node.
    pub path: String,
    /// Whether it is a symbolic link.
    pub link: bool,
    /// The file's contents.
    pub content: Content,
}

/// The contents of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Toml(Table),
    /// Not TOML, and why.
    NotToml(String),
    /// The file cannot be opened or read; the system's error.
    Unreadable(String),
}

/// A value, and the file that set it; `None` means CRI-O's built-in default.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting<T> {
    pub value: T,
    /// The file that set it.
    pub file: Option<String>,
}

/// The whole table of a runtime handler or a workload.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Entry {
    pub fields: Table,
    /// The file that defined it; `None` means built-in.
    pub file: Option<String>,
}

/// The effective configuration, as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// `default_runtime`; never empty.
    pub default_runtime: Setting<String>,
    /// Runtime handlers by name.
    pub handlers: BTreeMap<String, Entry>,
    /// Workloads by name.
    pub workloads: BTreeMap<String, Entry>,
    /// `default_sysctls`.
    pub default_sysctls: Setting<Vec<String>>,
    /// `enable_pod_events`.
    pub pod_events: Setting<bool>,
    /// `enable_nri`.
    pub nri: Setting<bool>,
    /// `nri_disable_connections`.
    pub nri_refuses_connections: Setting<bool>,
    /// `nri_listen`.
    pub nri_socket: Setting<String>,
    /// `nri_plugin_dir`.
    pub nri_plugin_dir: Setting<String>,
    /// `nri_plugin_config_dir`.
    pub nri_config_dir: Setting<String>,
    /// `[crio.nri.default_validator]`.
    pub validator: Setting<Validator>,
    /// `hooks_dir`.
    pub hooks_dirs: Setting<Vec<String>>,
    /// `conmon`: for handlers without a monitor of their own.
    pub conmon: Setting<String>,
    /// `cgroup_manager`.
    pub cgroup_manager: Setting<String>,
}

// === impl Entry ===

impl Entry {
    /// A string field; empty if not set.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        match get(&self.fields, key) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// A boolean field; false if not set.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        get(&self.fields, key) == Some(&Value::Bool(true))
    }

    /// `allowed_annotations`.
    #[must_use]
    pub fn allowed(&self) -> Vec<String> {
        get(&self.fields, "allowed_annotations").and_then(Value::texts).unwrap_or_default()
    }
}

// === impl Effective ===

impl Effective {
    /// The built-in configuration of that version (`DefaultConfig`).
    #[must_use]
    pub fn built_in(version: CrioVersion) -> Effective {
        let default = version.default_runtime();
        let root = if version.at_least(31) { "/run/crun" } else { "/run/runc" };
        let mut fields = Table::from([
            ("runtime_type".to_owned(), Value::Text("oci".into())),
            ("runtime_root".to_owned(), Value::Text(root.into())),
        ]);
        if version.at_least(21) {
            fields.insert("allowed_annotations".into(), Value::list(built_in(version).iter().copied()));
        }
        Effective {
            default_runtime: built(default.to_owned()),
            handlers: [(default.to_owned(), Entry { fields, file: None })].into(),
            workloads: BTreeMap::new(),
            default_sysctls: built(Vec::new()),
            pod_events: built(false),
            nri: built(version.nri_by_default()),
            nri_refuses_connections: built(false),
            nri_socket: built(SOCKET.to_owned()),
            nri_plugin_dir: built(PLUGIN_DIR.to_owned()),
            nri_config_dir: built(CONFIG_DIR.to_owned()),
            validator: built(Validator::default()),
            hooks_dirs: built(vec!["/usr/share/containers/oci/hooks.d".to_owned()]),
            conmon: built(String::new()),
            cgroup_manager: built("systemd".to_owned()),
        }
    }

    /// The effective configuration with these files, which are in the order in which CRI-O reads them. Unreadable
    /// files and values of a wrong type are ignored ([`super::check`] reports them).
    #[must_use]
    pub fn of(version: CrioVersion, files: &[ConfFile]) -> Effective {
        let mut effective = Effective::built_in(version);
        for file in files {
            if let Content::Toml(table) = &file.content
                && wrong_types(version, table).is_empty()
            {
                effective.merge(version, &file.path, table);
            }
        }
        if effective.default_runtime.value.is_empty() {
            // An empty name means the built-in handler, which CRI-O creates if it is missing.
            let built = Effective::built_in(version);
            effective.default_runtime = built.default_runtime;
            for (name, handler) in built.handlers {
                effective.handlers.entry(name).or_insert(handler);
            }
        }
        effective
    }

    /// The NRI configuration.
    #[must_use]
    pub fn nri_conf(&self) -> NriConf {
        // An empty string means the default (`ToOptions`).
        let or_default = |setting: &Setting<String>, default: &str| match setting.value.as_str() {
            "" => default.to_owned(),
            path => path.to_owned(),
        };
        NriConf {
            on: self.nri.value,
            refuses_connections: self.nri_refuses_connections.value,
            socket: or_default(&self.nri_socket, SOCKET),
            plugin_dir: or_default(&self.nri_plugin_dir, PLUGIN_DIR),
            config_dir: or_default(&self.nri_config_dir, CONFIG_DIR),
            validator: self.validator.value.clone(),
        }
    }

    /// The handler for pods without a RuntimeClass.
    #[must_use]
    pub fn default_handler(&self) -> Option<&Entry> {
        self.handlers.get(&self.default_runtime.value)
    }

    /// Whether any pod may use one of these annotations, by its runtime handler or by a workload.
    #[must_use]
    pub fn allows(&self, annotations: &[&str]) -> bool {
        let entries = self.handlers.values().chain(self.workloads.values());
        entries.flat_map(Entry::allowed).any(|name| annotations.contains(&name.as_str()))
    }

    fn merge(&mut self, version: CrioVersion, path: &str, table: &Table) {
        let set = |table: Option<&Table>, key: &str| table.and_then(|table| get(table, key)).cloned();
        let runtime = table_at(table, &["crio", "runtime"]);
        let nri = table_at(table, &["crio", "nri"]);
        for (slot, section, key) in [
            (&mut self.default_runtime, runtime, "default_runtime"),
            (&mut self.conmon, runtime, "conmon"),
            (&mut self.cgroup_manager, runtime, "cgroup_manager"),
            (&mut self.nri_socket, nri, "nri_listen"),
            (&mut self.nri_plugin_dir, nri, "nri_plugin_dir"),
            (&mut self.nri_config_dir, nri, "nri_plugin_config_dir"),
        ] {
            if let Some(Value::Text(text)) = set(section, key) {
                *slot = Setting { value: text, file: Some(path.to_owned()) };
            }
        }
        for (slot, key) in
            [(&mut self.default_sysctls, "default_sysctls"), (&mut self.hooks_dirs, "hooks_dir")]
        {
            if let Some(value) = set(runtime, key).as_ref().and_then(Value::texts) {
                *slot = Setting { value, file: Some(path.to_owned()) };
            }
        }
        for (slot, section, key) in [
            (&mut self.pod_events, runtime, "enable_pod_events"),
            (&mut self.nri, nri, "enable_nri"),
            (&mut self.nri_refuses_connections, nri, "nri_disable_connections"),
        ] {
            if let Some(Value::Bool(value)) = set(section, key) {
                *slot = Setting { value, file: Some(path.to_owned()) };
            }
        }
        if let Some(keys) = nri.and_then(|nri| table_at(nri, &["default_validator"])) {
            self.validator = Setting {
                value: self.validator.value.with(keys, &VALIDATOR_KEYS),
                file: Some(path.to_owned()),
            };
        }
        for (slot, key) in [(&mut self.handlers, "runtimes"), (&mut self.workloads, "workloads")] {
            let entries = runtime.and_then(|runtime| table_at(runtime, &[key])).into_iter().flatten();
            for (name, value) in entries {
                if let Value::Table(fields) = value {
                    let entry = Entry { fields: fields.clone(), file: Some(path.to_owned()) };
                    slot.insert(name.clone(), entry);
                }
            }
        }
        // Until 1.25.0 a file that sets another default runtime also removes "runc", even if it defines that handler
        // itself.
        if version <= CrioVersion::new(1, 25, 0)
            && let Some(Value::Text(name)) = set(runtime, "default_runtime")
            && name != "runc"
        {
            self.handlers.remove("runc");
        }
    }
}

fn built<T>(value: T) -> Setting<T> {
    Setting { value, file: None }
}

/// A sort key for the order in which CRI-O reads files: the main file, then `filepath.Walk`'s order, which is lexical
/// within each directory.
#[must_use]
pub fn order(path: &str) -> (bool, Vec<&str>) {
    let drop_in = path.strip_prefix(DROP_IN_DIR).is_some_and(|rest| rest.starts_with('/'));
    (drop_in, path.split('/').collect())
}
