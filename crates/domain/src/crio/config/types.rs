//! The keys of CRI-O's configuration and the types of their values, as its decoder expects them.

use thiserror::Error;

use super::VALIDATOR_KEYS;
use crate::crio::CrioVersion;
use crate::toml::{Table, Value, get, table_at};

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
