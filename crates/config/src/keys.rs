//! The keys of the configuration: each is defined once, with its meaning and its default.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_saphyr::Spanned;

use super::ConfigError;
use super::bootstrap::{BootstrapKubelet, BootstrapRange};
use super::runtimes::{BootstrapContainerd, BootstrapCrio, BootstrapHook, BootstrapNri};
use usernsd_domain::delegation::Limits;

/// Upper limit for the size of a configuration; a larger file must be something else.
const MAX_BYTES: u64 = 1 << 20;

/// A value with its origin, so that an error can point there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    /// The place where the value was set.
    pub origin: Origin,
}

/// The place where a value was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Not set: the default.
    Default,
    /// In the file, on this line.
    Line(u64),
    /// On the command line or in the environment.
    Flag(&'static str),
}

/// A key, for the documentation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    field: &'static str,
    pub(super) doc: &'static [&'static str],
}

/// A section of keys, for the documentation.
pub(super) struct Section {
    name: &'static str,
    doc: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

/// Defines a section once: as the struct that is read, and as its documentation.
macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident {
        $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr;)*
    }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "camelCase")]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: Located<$type>,)*
        }

        impl $name {
            const ABOUT: &'static [&'static str] = &[$($about),*];
            const KEYS: &'static [Key] =
                &[$(Key { field: stringify!($field), doc: &[$($doc),*] }),*];
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: Located { value: $default, origin: Origin::Default }),* }
            }
        }
    };
}

/// Defines the list of sections once.
macro_rules! sections {
    ($($field:ident: $type:ident,)*) => {
        /// The configuration as written in the file.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "camelCase")]
        pub struct Config {
            $(#[doc = concat!("Section `", stringify!($field), "`.")] pub $field: $type,)*
        }

        pub(super) const SECTIONS: &[Section] =
            &[$(Section { name: stringify!($field), doc: $type::ABOUT, keys: $type::KEYS }),*];
    };
}

sections! {
    host: Host,
    runtime: Runtime,
    nri: Nri,
    systemd: Systemd,
    delegation: Delegation,
    opt_in: OptIn,
    guard: Guard,
    resync: Resync,
    bootstrap: Bootstrap,
    state_socket: StateSocket,
    http: Http,
    exporter: Exporter,
    kubernetes: Kubernetes,
    feature_file: FeatureFile,
    log: Log,
}

section! {
    /// Where the node's files are.
    Host {
        /// The node's root directory as the agent sees it: "/" on the node itself, "/host" in a
        /// container that mounts it there. proc and sys are read below it.
        root: String = "/".into();
    }
}

section! {
    /// The container runtime.
    Runtime {
        /// CRI sockets to try, in this order, as the agent sees them; the first that answers is used.
        /// Empty: those of CRI-O and containerd at their usual places, and those of k3s, RKE2, k0s and
        /// MicroK8s.
        endpoints: Vec<String> = vec![];
        /// Where the runtime keeps a container's OCI bundle, below host.root; "{id}" stands for the
        /// container's ID. Tried in this order. That of a CRI-O or containerd whose storage was moved is
        /// found in its files.
        bundle_dirs: Vec<String> = vec![
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}".into(),
            "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{id}".into(),
            "/run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io/{id}".into(),
            "/var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}".into(),
            "/run/containers/storage/overlay-containers/{id}/userdata".into(),
        ];
    }
}

section! {
    /// NRI, with which the agent acts before a container's first instruction.
    Nri {
        /// Whether to register with the runtime.
        enabled: bool = true;
        /// NRI sockets to try, in this order, as the agent sees them.
        socket_paths: Vec<String> = vec!["/var/run/nri/nri.sock".into()];
        /// The plugin's index, from 0 to 99: plugins with lower numbers are called first. The default is
        /// high so that the agent sees the changes of the others.
        plugin_index: u8 = 90;
    }
}

section! {
    /// systemd, which announces new scopes and confirms to whom they belong.
    Systemd {
        /// Whether to use systemd. Set it to false if the runtime uses the cgroupfs manager.
        enabled: bool = true;
        /// The system bus, as the agent sees it.
        bus_socket: String = "/run/dbus/system_bus_socket".into();
    }
}

section! {
    /// Changing the owner of a container's cgroup to the container's user.
    Delegation {
        /// The new owner: "process-user", the user of the container's process (OCI runtime specification,
        /// runc), or "root", the container's root (crun).
        owner: String = "process-user".into();
        /// The program that changes the owner: "agent"; or "systemd-user", to let systemd do it when it
        /// creates the scope (needs nri.enabled, and libnss-systemd on the node); or "none", to change
        /// nothing (with nri.enabled off).
        mechanism: String = "agent".into();
        /// Host IDs below this one are the host's own users' and never become owners.
        minimum_host_id: u32 = 65_536;
        /// Limits on the pod's cgroup, set if the kernel still has "max": before a container gets its cgroup, or
        /// when one is found that owns it already. Each such container gets a share of the descendants, so that
        /// the pod's next container has room.
        limits: DelegationLimits = DelegationLimits::default();
        /// Whether a privileged container with its own user namespace gets its own cgroup namespace, too.
        /// Without one, the runtime shows it the host's tree and does not change the owner.
        privileged_cgroup_namespace: bool = true;
    }
}

/// Limits on the cgroups that a pod may create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DelegationLimits {
    /// `cgroup.max.descendants`: cgroups below the pod's.
    pub descendants: u32,
    /// `cgroup.max.depth`: levels below the pod's.
    pub depth: u32,
}

section! {
    /// Pods that ask for a writable cgroup or for systemd, by annotation.
    OptIn {
        /// Kubernetes namespaces whose pods may ask; a trailing "*" matches any ending. Empty: none may.
        namespaces: Vec<String> = vec!["*".into()];
        /// What to do with a container that was created without the writable cgroup that its pod asked for,
        /// because nothing was in its start path: "report" it, or "restart" it: kill its first process
        /// once, so that the kubelet creates it again. A pod with restartPolicy Never fails then;
        /// the node has no source for that policy. The pod annotation usernsd.io/missed: report keeps a pod's
        /// containers.
        missed: String = "report".into();
        /// The age from which such a container is left alone, up to 365d.
        missed_max_age: String = "10m".into();
    }
}

section! {
    /// Containers about to run in the host's user namespace although their pod asked for its own.
    Guard {
        /// "refuse" them, or only "report" them.
        policy: String = "refuse".into();
        /// What to do with one that started while nothing could refuse it: "report" it, or "restart" it:
        /// kill its first process once. The next container runs in its own user namespace, or is refused, so
        /// "restart" does nothing if the policy is "report". "restart" is the default, unlike in
        /// optIn.missed, because such a container is root on the node, and would not run if the agent had
        /// been in the start path.
        missed: String = "restart".into();
        /// The age from which such a container is left alone, up to 365d: by then it has work to lose, and has
        /// had time to do any harm that it could do to the node.
        missed_max_age: String = "10m".into();
    }
}

section! {
    /// The periodic inspection of all containers, which repairs what lost events missed.
    Resync {
        /// Time between two inspections of all containers, from 10s to 24h.
        interval: String = "5m".into();
    }
}

section! {
    /// What "usernsd bootstrap" prepares on a node.
    Bootstrap {
        /// Whether usernsd prepares this node. If not, as on OpenShift, where a MachineConfig does,
        /// "usernsd bootstrap" changes nothing (except to undo its changes with --undo, and to apply a
        /// --machineconfig), and pending changes do not count as drift.
        enabled: bool = true;
        /// Ranges of subordinate IDs in /etc/subuid and /etc/subgid, each as {owner: alice, start: 300000,
        /// count: 65536}. Without a start, a free one is chosen; "pods: 100" instead of a count means 65536
        /// IDs each, or "idsPerPod" IDs each. A configured range is never moved: if it overlaps another
        /// one, nothing is changed. Empty: core 100000:65536 if that user exists, and containers
        /// 200000:268435456 if CRI-O lets pods ask for a user namespace by annotation, because no one else
        /// reads that range; unless they have ranges. These defaults move if they would overlap another
        /// range.
        ranges: Vec<BootstrapRange> = vec![];
        /// The kubelet's range. user: "if-present" adds a line if the user kubelet exists, "create" creates
        /// the user too, "never" does neither. start: its first ID; by default, a free one is chosen.
        /// maxPods and idsPerPod: by default, those of the kubelet's own configuration. rootDir: its
        /// --root-dir, which contains its records of pods.
        kubelet: BootstrapKubelet = BootstrapKubelet::default();
        /// The container runtime to prepare: "crio", "containerd", "none", or "auto" for the one that
        /// answers over CRI, otherwise the one that is installed.
        runtime: String = "auto".into();
        /// CRI-O's drop-in, /etc/crio/crio.conf.d/99-usernsd.conf. version: CRI-O's version, if it can
        /// neither be asked nor run; no version gets a key that keeps it from starting. writableCgroup:
        /// pods may ask for a writable cgroup by annotation. usernsMode: pods may ask for a user namespace
        /// by annotation, "always", "never", or "auto" for before Kubernetes 1.33, whose kubelet makes such
        /// pods fail. podEvents: events over CRI. nri: NRI, if it is off by default. pingGroupRange: ping
        /// works in every pod.
        crio: BootstrapCrio = BootstrapCrio::default();
        /// containerd's drop-in, 99-usernsd.toml in a directory that its main file imports. version:
        /// containerd's version, if it can neither be asked nor run. nri: NRI, if it is off by default,
        /// before 2.0.
        containerd: BootstrapContainerd = BootstrapContainerd::default();
        /// The OCI hook, for CRI-O without NRI. install: "auto" if NRI is missing or stays off, "always",
        /// or "never", which removes it. path: where this program is copied to; the file system must allow
        /// executing programs, and /usr is read-only on image-based hosts. directory: where its JSON is
        /// written; by default, a directory that CRI-O reads. config: a file for the hook's --config.
        hook: BootstrapHook = BootstrapHook::default();
        /// usernsd as an NRI plugin that the container runtime launches, docs/nri-plugin.md. plugin:
        /// "auto", installed if the runtime continues without a plugin that fails, or "never", which
        /// removes it. required: "off"; "annotated", with which the runtime refuses containers of pods that
        /// are annotated with required-plugins.noderesource.dev while the plugin is not running; or "all",
        /// with which it refuses those of every pod that does not tolerate a missing plugin.
        nri: BootstrapNri = BootstrapNri::default();
        /// Whether to raise user.max_user_namespaces if it is too low for the node's pods, as with
        /// --apply-sysctl.
        apply_sysctl: bool = false;
    }
}

section! {
    /// The unix socket on which "usernsd ps" and an exporter read the state.
    StateSocket {
        /// Its path, as the agent sees it.
        path: String = "/run/usernsd/usernsd.sock".into();
        /// User IDs that may read besides root. Empty: the socket's mode is 0660; otherwise it is 0666, and
        /// connections of other users are closed.
        allow_uids: Vec<u32> = vec![];
    }
}

section! {
    /// Metrics, health and the status page over HTTP.
    Http {
        /// Address and port on which the agent serves, e.g. "127.0.0.1:9564". Empty: off, no network.
        address: String = String::new();
        /// Certificate, followed by its chain up to a root, in PEM: agent and exporter serve with TLS 1.2
        /// or later, and reload changed files by themselves. The agent may then read the whole directory.
        /// Empty: no TLS.
        tls_certificate_file: String = String::new();
        /// The certificate's key, in PEM.
        tls_key_file: String = String::new();
        /// Authorization of readers: "none" asks for no token; "kubernetes" asks the API server
        /// (TokenReview, SubjectAccessReview) whether the client's token may get the path. Needs TLS.
        /// Everyone may read health.
        authorization: String = "none".into();
        /// The finest objects with their own series on /metrics: only the "node", each "pod", or each
        /// "container".
        metrics_detail: String = "container".into();
        /// Maximum number of pods with their own series; those with a problem come first.
        metrics_max_pods: u32 = 512;
    }
}

section! {
    /// The exporter, which has no privileges and serves the agent's state.
    Exporter {
        /// Address and port on which it serves.
        address: String = "127.0.0.1:9564".into();
    }
}

section! {
    /// The cluster, as the exporter sees it: docs/kubernetes.md.
    Kubernetes {
        /// Whether to use the API server: "auto", if there is a service account or a kubeconfig, or "off".
        mode: String = "auto".into();
        /// A kubeconfig file, if there is no service account, as in a systemd unit on the node. It must not
        /// get its token from a program.
        kubeconfig: String = String::new();
        /// Which Events to post: "off", "warnings", or "all", which also posts each changed owner of a
        /// cgroup.
        events: String = "warnings".into();
        /// The Node condition UserNamespacesUnavailable: "off", "on", or "remove" to remove it. "on" needs
        /// permission to write the status of every node.
        node_condition: String = "off".into();
        /// Whether to read the ID ranges that OpenShift assigns to namespaces, for the namespaces of pods
        /// that are restricted to them by an annotation of OpenShift. OpenShift only: elsewhere the pod's
        /// author can set the annotation.
        namespaces: bool = false;
    }
}

section! {
    /// A feature file for Node Feature Discovery, for node labels without access to the API server.
    FeatureFile {
        /// NFD's directory below host.root, usually
        /// "/etc/kubernetes/node-feature-discovery/features.d". Empty: no file is written.
        directory: String = String::new();
    }
}

section! {
    /// Log lines, on stderr.
    Log {
        /// "error", "warn", "info", "debug" or "trace".
        level: String = "info".into();
        /// "text" or "json".
        format: String = "text".into();
    }
}

// === impl Located ===

impl<T> Located<T> {
    pub(super) fn by_flag(&mut self, flag: &'static str, value: Option<T>) {
        if let Some(value) = value {
            *self = Located { value, origin: Origin::Flag(flag) };
        }
    }
}

impl<T: Serialize> Serialize for Located<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Located<T>, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        Ok(Located { value: spanned.value, origin: Origin::Line(spanned.referenced.line()) })
    }
}

// === impl DelegationLimits ===

impl Default for DelegationLimits {
    fn default() -> DelegationLimits {
        let Limits { descendants, depth } = Limits::DEFAULT;
        DelegationLimits { descendants, depth }
    }
}

// === impl Config ===

impl Config {
    /// Parses a configuration. An empty text is the default.
    ///
    /// # Errors
    /// [`ConfigError::Parse`], with `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if text.lines().all(blank) {
            return Ok(Config::default());
        }
        serde_saphyr::from_str(text).map_err(|error| {
            let place = match error.location() {
                Some(location) if location.line() > 0 => {
                    format!("{}:{}:{}", path.display(), location.line(), location.column())
                }
                _ => path.display().to_string(),
            };
            ConfigError::Parse { place, what: sentence(&error) }
        })
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::NotText`], [`ConfigError::Parse`].
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let read = || {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path)?;
            std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_BYTES + 1), &mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(ConfigError::NotText { path: path.to_owned(), what: "longer than 1 MiB" });
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| ConfigError::NotText { path: path.to_owned(), what: "not UTF-8" })?;
        Config::parse(&text, path)
    }

    /// The default configuration as YAML, with comments.
    #[must_use]
    pub fn documented_yaml() -> String {
        let mut text = String::from(
            "# The configuration of usernsd, with every key at its default.\n# Printed by \"usernsd config default\"; \
             a file needs only the keys that differ.\n",
        );
        for (section, values) in documented() {
            text.push_str(&format!("\n# {}\n{}:\n", prose(section.doc), camel(section.name)));
            for (key, value) in section.keys.iter().zip(values) {
                key.doc.iter().for_each(|line| text.push_str(&format!("  #{line}\n")));
                text.push_str(&format!("  {}:{}\n", camel(key.field), yaml(&value)));
            }
        }
        text
    }

    /// Every key, as a Markdown page.
    #[must_use]
    pub fn documented_markdown() -> String {
        let mut text = String::from(
            "# Configuration\n\nGenerated from `crates/config/src/lib.rs`; the same as a YAML file: \
             [configuration.yaml](configuration.yaml).\nUnknown keys are refused. Flags and `USERNSD_*` variables \
             override the file. Check a file with\n`usernsd config check FILE`.\n",
        );
        for (section, values) in documented() {
            text.push_str(&format!("\n## {}\n\n{}\n\n", camel(section.name), prose(section.doc)));
            text.push_str("| key | default | meaning |\n|---|---|---|\n");
            for (key, value) in section.keys.iter().zip(values) {
                let name = format!("{}.{}", camel(section.name), camel(key.field));
                text.push_str(&format!("| `{name}` | `{value}` | {} |\n", prose(key.doc)));
            }
        }
        text
    }
}

/// Every section with the default values of its keys, in the order of the keys.
fn documented() -> impl Iterator<Item = (&'static Section, Vec<serde_json::Value>)> {
    // A struct of plain values: JSON can represent all of them.
    let default = serde_json::to_value(Config::default()).unwrap_or_default();
    SECTIONS.iter().map(move |section| {
        let values = default.get(camel(section.name));
        let of = |key: &Key| values.and_then(|values| values.get(camel(key.field))).cloned();
        (section, section.keys.iter().map(|key| of(key).unwrap_or_default()).collect())
    })
}

fn prose(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// The name in the file: `minimum_host_id` is `minimumHostId` (serde's `camelCase`).
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at_checked(1).unwrap_or((part, ""));
        text.push_str(&first.to_ascii_uppercase());
        text.push_str(rest);
    }
    text
}

/// A value after `key:`; JSON is valid YAML, but lists and maps are more readable on separate lines.
fn yaml(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            items.iter().map(|item| format!("\n    - {item}")).collect()
        }
        serde_json::Value::Object(map) => {
            map.iter().map(|(key, value)| format!("\n    {key}: {value}")).collect()
        }
        plain => format!(" {plain}"),
    }
}

/// A parser's message on one line, without the place, which precedes it.
fn sentence(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.split(['\n', '\r']).next().unwrap_or_default();
    let text = text.split(" at line ").next().unwrap_or_default();
    text.chars().filter(|char| !char.is_control()).take(300).collect()
}
