//! CRI-O's configuration files, merged as CRI-O merges them.
//!
//! Built-in defaults, then `crio.conf`, then every file of `crio.conf.d` in lexical order. A later scalar or list
//! replaces the earlier one; a `[crio.runtime.runtimes.X]` or `[crio.runtime.workloads.X]` table replaces the whole
//! earlier table X (`pkg/config/config.go`, `UpdateFromDropInFile`; observed on 1.36.3).

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use thiserror::Error;

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

/// A value of a type that Go's decoder would refuse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("(last key {key:?}): incompatible types: TOML value has type {found}; destination has type {wanted}")]
pub struct WrongType {
    /// The key with its tables.
    pub key: String,
    /// The value's type in the file.
    pub found: &'static str,
    /// The field's type.
    pub wanted: &'static str,
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

/// A table of the configuration: the first minor version of 1.x that has it, where it is, and its keys.
type Section = (u16, &'static [&'static str], &'static [Key]);
/// A key: its name, the type of its field, and the first minor version that has it. CRI-O ignores an unknown key,
/// whatever its type.
type Key = (&'static str, &'static str, u16);

/// Every key of CRI-O 1.20 to 1.37 (`pkg/config/config.go`, `internal/config/nri/nri.go`).
const SECTIONS: &[Section] = &[
    (20, &[], &[("crio", "table", 20)]),
    (
        20,
        &["crio"],
        &[
            ("api", "table", 20),
            ("runtime", "table", 20),
            ("image", "table", 20),
            ("network", "table", 20),
            ("metrics", "table", 20),
            ("tracing", "table", 23),
            ("stats", "table", 23),
            ("nri", "table", 26),
            ("checkpoint_restore", "table", 37),
            ("root", "string", 20),
            ("runroot", "string", 20),
            ("imagestore", "string", 29),
            ("storage_driver", "string", 20),
            ("storage_option", "slice", 20),
            ("log_dir", "string", 20),
            ("version_file", "string", 20),
            ("version_file_persist", "string", 20),
            ("clean_shutdown_file", "string", 21),
            ("internal_wipe", "boolean", 22),
            ("internal_repair", "boolean", 28),
        ],
    ),
    (
        20,
        &["crio", "api"],
        &[
            ("grpc_max_recv_msg_size", "integer", 20),
            ("grpc_max_send_msg_size", "integer", 20),
            ("listen", "string", 20),
            ("stream_address", "string", 20),
            ("stream_enable_tls", "boolean", 20),
            ("stream_idle_timeout", "string", 21),
            ("stream_port", "string", 20),
            ("stream_tls_ca", "string", 20),
            ("stream_tls_cert", "string", 20),
            ("stream_tls_key", "string", 20),
            ("tls_cipher_suites", "slice", 36),
            ("tls_min_version", "string", 36),
        ],
    ),
    (
        20,
        &["crio", "runtime"],
        &[
            ("absent_mount_sources_to_reject", "slice", 22),
            ("add_inheritable_capabilities", "boolean", 26),
            ("additional_artifact_stores", "slice", 36),
            ("additional_devices", "slice", 20),
            ("allowed_devices", "slice", 24),
            ("apparmor_profile", "string", 20),
            ("bind_mount_prefix", "string", 20),
            ("blockio_config_file", "string", 22),
            ("blockio_reload", "boolean", 29),
            ("cdi_spec_dirs", "slice", 24),
            ("cgroup_manager", "string", 20),
            ("conmon", "string", 20),
            ("conmon_cgroup", "string", 20),
            ("conmon_env", "slice", 20),
            ("container_attach_socket_dir", "string", 20),
            ("container_exits_dir", "string", 20),
            ("ctr_stop_timeout", "integer", 20),
            ("decryption_keys_path", "string", 20),
            ("default_capabilities", "slice", 20),
            ("default_env", "slice", 20),
            ("default_mounts_file", "string", 20),
            ("default_runtime", "string", 20),
            ("default_sysctls", "slice", 20),
            ("default_ulimits", "slice", 20),
            ("device_ownership_from_security_context", "boolean", 22),
            ("disable_hostport_mapping", "boolean", 28),
            ("drop_infra_ctr", "boolean", 20),
            ("enable_criu_support", "boolean", 25),
            ("enable_pod_events", "boolean", 26),
            ("gid_mappings", "string", 20),
            ("hooks_dir", "slice", 20),
            ("hostnetwork_disable_selinux", "boolean", 27),
            ("infra_ctr_cpuset", "string", 21),
            ("irqbalance_config_file", "string", 21),
            ("irqbalance_config_restore_file", "string", 27),
            ("log_filter", "string", 20),
            ("log_level", "string", 20),
            ("log_size_max", "integer", 20),
            ("log_to_journald", "boolean", 20),
            ("min_injected_gomaxprocs", "integer", 36),
            ("minimum_mappable_gid", "integer", 23),
            ("minimum_mappable_uid", "integer", 23),
            ("namespaces_dir", "string", 20),
            ("no_pivot", "boolean", 20),
            ("pids_limit", "integer", 20),
            ("pinns_path", "string", 20),
            ("privileged_seccomp_profile", "string", 33),
            ("rdt_config_file", "string", 22),
            ("read_only", "boolean", 20),
            ("runtimes", "table", 20),
            ("seccomp_profile", "string", 20),
            ("selinux", "boolean", 20),
            ("separate_pull_cgroup", "string", 20),
            ("shared_cpuset", "string", 29),
            ("timezone", "string", 30),
            ("uid_mappings", "string", 20),
            ("workloads", "table", 21),
        ],
    ),
    (
        20,
        &["crio", "image"],
        &[
            ("auto_reload_registries", "boolean", 30),
            ("big_files_temporary_dir", "string", 20),
            ("default_transport", "string", 20),
            ("global_auth_file", "string", 20),
            ("image_volumes", "string", 20),
            ("insecure_registries", "slice", 20),
            ("namespaced_auth_dir", "string", 35),
            ("oci_artifact_mount_support", "boolean", 33),
            ("pause_command", "string", 20),
            ("pause_image", "string", 20),
            ("pause_image_auth_file", "string", 20),
            ("pinned_images", "slice", 28),
            ("pull_progress_timeout", "duration", 32),
            ("short_name_mode", "string", 34),
            ("signature_policy", "string", 20),
            ("signature_policy_dir", "string", 28),
        ],
    ),
    (
        20,
        &["crio", "network"],
        &[
            ("cni_default_network", "string", 20),
            ("cni_status_grace_period", "duration", 37),
            ("network_dir", "string", 20),
            ("plugin_dir", "string", 20),
            ("plugin_dirs", "slice", 20),
        ],
    ),
    (
        20,
        &["crio", "metrics"],
        &[
            ("enable_metrics", "boolean", 20),
            ("metrics_cert", "string", 22),
            ("metrics_collectors", "slice", 22),
            ("metrics_host", "string", 30),
            ("metrics_key", "string", 22),
            ("metrics_port", "integer", 20),
            ("metrics_socket", "string", 20),
        ],
    ),
    (
        23,
        &["crio", "tracing"],
        &[
            ("enable_tracing", "boolean", 23),
            ("tracing_endpoint", "string", 23),
            ("tracing_sampling_rate_per_million", "integer", 23),
        ],
    ),
    (
        23,
        &["crio", "stats"],
        &[
            ("collection_period", "integer", 30),
            ("included_pod_metrics", "slice", 30),
            ("stats_collection_period", "integer", 23),
        ],
    ),
    (37, &["crio", "checkpoint_restore"], &[("container_level_enabled", "string", 37)]),
    (
        26,
        &["crio", "nri"],
        &[
            ("enable_nri", "boolean", 26),
            ("nri_listen", "string", 26),
            ("nri_plugin_dir", "string", 26),
            ("nri_plugin_config_dir", "string", 27),
            ("nri_disable_connections", "boolean", 27),
            ("nri_plugin_registration_timeout", "duration", 27),
            ("nri_plugin_request_timeout", "duration", 27),
            ("default_validator", "table", 34),
        ],
    ),
    (
        34,
        &["crio", "nri", "default_validator"],
        &[
            (VALIDATOR_KEYS.enabled, "boolean", 34),
            (VALIDATOR_KEYS.required, "slice", 34),
            (VALIDATOR_KEYS.toleration, "string", 34),
            (VALIDATOR_KEYS.rejects_namespaces, "boolean", 34),
            ("nri_validator_reject_custom_seccomp_adjustment", "boolean", 34),
            ("nri_validator_reject_oci_hook_adjustment", "boolean", 34),
            ("nri_validator_reject_runtime_default_seccomp_adjustment", "boolean", 34),
            ("nri_validator_reject_unconfined_seccomp_adjustment", "boolean", 34),
        ],
    ),
];
const HANDLER_KEYS: &[Key] = &[
    ("allowed_annotations", "slice", 20),
    ("container_create_timeout", "integer", 35),
    ("container_min_memory", "string", 30),
    ("default_annotations", "table of strings", 32),
    ("exec_cpu_affinity", "string", 34),
    ("inherit_default_runtime", "boolean", 32),
    ("monitor_cgroup", "string", 24),
    ("monitor_env", "slice", 24),
    ("monitor_exec_cgroup", "string", 24),
    ("monitor_path", "string", 24),
    ("no_sync_log", "boolean", 31),
    ("platform_runtime_paths", "table of strings", 28),
    ("privileged_without_host_devices", "boolean", 20),
    ("runtime_config_path", "string", 22),
    ("runtime_path", "string", 20),
    ("runtime_pull_image", "boolean", 29),
    ("runtime_root", "string", 20),
    ("runtime_type", "string", 20),
    ("seccomp_profile", "string", 34),
    ("stream_websockets", "boolean", 34),
];
const WORKLOAD_KEYS: &[Key] = &[
    ("activation_annotation", "string", 21),
    ("annotation_prefix", "string", 21),
    ("allowed_annotations", "slice", 23),
    ("resources", "table", 21),
];
const RESOURCE_KEYS: &[Key] = &[
    ("cpushares", "integer", 22),
    ("cpuset", "string", 22),
    ("cpuquota", "integer", 30),
    ("cpuperiod", "integer", 30),
    ("cpulimit", "integer", 30),
];

/// Every value of a type that CRI-O's decoder refuses, which keeps CRI-O from starting.
#[must_use]
pub fn wrong_types(version: CrioVersion, table: &Table) -> Vec<WrongType> {
    let mut found = Vec::new();
    for (since, path, keys) in SECTIONS {
        if version.at_least(*since)
            && let Some(inner) = table_at(table, path)
        {
            let place: String = path.iter().map(|name| format!("{name}.")).collect();
            section(version, inner, &place, keys, &mut found);
        }
    }
    for (kind, keys) in [("runtimes", HANDLER_KEYS), ("workloads", WORKLOAD_KEYS)] {
        for (name, value) in table_at(table, &["crio", "runtime", kind]).into_iter().flatten() {
            let place = format!("crio.runtime.{kind}.{name}");
            match value {
                Value::Table(entry) => {
                    section(version, entry, &format!("{place}."), keys, &mut found);
                    if let Some(resources) = table_at(entry, &["resources"]).filter(|_| kind == "workloads") {
                        section(
                            version,
                            resources,
                            &format!("{place}.resources."),
                            RESOURCE_KEYS,
                            &mut found,
                        );
                    }
                }
                other => found.push(WrongType { key: place, found: other.kind(), wanted: "table" }),
            }
        }
    }
    found
}

fn section(version: CrioVersion, table: &Table, place: &str, keys: &[Key], found: &mut Vec<WrongType>) {
    for (key, wanted, _) in keys.iter().filter(|(_, _, since)| version.at_least(*since)) {
        let Some(value) = get(table, key) else { continue };
        let wrong =
            |value: &Value, wanted| WrongType { key: format!("{place}{key}"), found: value.kind(), wanted };
        match value {
            Value::List(items) if *wanted == "slice" => {
                let others = items.iter().filter(|item| !matches!(item, Value::Text(_)));
                found.extend(others.map(|item| wrong(item, "string")));
            }
            Value::Table(items) if *wanted == "table of strings" => {
                let others = items.values().filter(|item| !matches!(item, Value::Text(_)));
                found.extend(others.map(|item| wrong(item, "string")));
            }
            value if !fits(value, wanted) => found.push(wrong(value, wanted)),
            _ => {}
        }
    }
}

fn fits(value: &Value, wanted: &str) -> bool {
    matches!(
        (value, wanted),
        (Value::Text(_), "string")
            | (Value::Bool(_), "boolean")
            | (Value::Integer(_), "integer")
            // A duration is a text such as "10s", or a number of nanoseconds.
            | (Value::Text(_) | Value::Integer(_), "duration")
            | (Value::List(_), "slice")
            | (Value::Table(_), "table")
    )
}

/// A sort key for the order in which CRI-O reads files: the main file, then `filepath.Walk`'s order, which is lexical
/// within each directory.
#[must_use]
pub fn order(path: &str) -> (bool, Vec<&str>) {
    let drop_in = path.strip_prefix(DROP_IN_DIR).is_some_and(|rest| rest.starts_with('/'));
    (drop_in, path.split('/').collect())
}
