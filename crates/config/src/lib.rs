//! The configuration: a text is parsed into a [`Config`], which is validated and becomes [`Settings`].
//!
//! Each key is defined once, in `keys.rs`, with its meaning and its default; `docs/configuration.yaml` and
//! `docs/configuration.md` are rendered from the same lines.

mod bootstrap;
mod keys;
mod kubernetes;
mod plugin;
mod runtimes;
#[cfg(test)]
mod tests;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

pub use bootstrap::{BootstrapKubelet, BootstrapRange, BootstrapSettings};
pub use keys::Config;
pub use plugin::{PluginConfig, PluginSettings};
pub use runtimes::{BootstrapContainerd, BootstrapCrio, BootstrapHook, BootstrapNri};
pub use validate::parse_duration;

use usernsd_domain::adjust::AdjustRules;
use usernsd_domain::condition::ConditionPolicy;
use usernsd_domain::container::CriId;
use usernsd_domain::delegation::{Limits, Rules};
use usernsd_domain::event::EventPolicy;
use usernsd_domain::guard::GuardPolicy;
use usernsd_domain::node::Exposition;
use usernsd_domain::provision::HostPath;
use usernsd_domain::repair::RepairRules;
use usernsd_domain::words::Choice;

/// Options of the command line and the environment that override the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--host-root`
    pub host_root: Option<String>,
    /// `--cri-endpoint`
    pub cri_endpoint: Option<String>,
    /// `--nri-socket`
    pub nri_socket: Option<String>,
    /// `usernsd agent --http`
    pub http: Option<String>,
    /// `usernsd exporter --http`
    pub exporter_http: Option<String>,
    /// `--metrics-detail`
    pub metrics_detail: Option<String>,
    /// `--metrics-max-pods`
    pub metrics_max_pods: Option<u32>,
    /// `--state-socket`
    pub state_socket: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
}

/// The validated configuration, as the agent uses it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's root directory.
    pub host_root: PathBuf,
    /// The container runtime.
    pub runtime: RuntimeSettings,
    /// NRI; `None` if it is switched off.
    pub nri: Option<NriSettings>,
    /// systemd; `None` if it is switched off.
    pub systemd: Option<SystemdSettings>,
    /// The rules for changing owners of cgroups.
    pub rules: Rules,
    /// The mechanism that changes owners.
    pub mechanism: Mechanism,
    /// The limits that are set with it.
    pub limits: Limits,
    /// The rules for opted-in and privileged containers.
    pub adjust: AdjustRules,
    /// The treatment of containers whose isolation is lost.
    pub guard: GuardPolicy,
    /// The treatment of containers that started without what their pod requested.
    pub repair: RepairRules,
    /// Time between two inspections of all containers.
    pub resync: Duration,
    /// How a node is prepared.
    pub bootstrap: BootstrapSettings,
    /// The state socket.
    pub state_socket: StateSocketSettings,
    /// Address on which metrics are served; `None`: not served.
    pub http: Option<SocketAddr>,
    /// Encryption of metrics and status page, and access to them.
    pub protection: ProtectionSettings,
    pub exporter: ExporterSettings,
    /// The cluster; `None` if it is not used.
    pub kubernetes: Option<KubernetesSettings>,
    /// The feature file for NFD, below the host root; `None`: none is written.
    pub feature_file: Option<HostPath>,
    /// How much becomes metrics.
    pub exposition: Exposition,
    /// Level and format of log lines.
    pub log: LogSettings,
    /// The configuration for the launched plugin.
    pub plugin: PluginConfig,
}

/// See [`Settings::runtime`].
#[derive(Debug, Clone)]
pub struct RuntimeSettings {
    /// CRI sockets to try; empty means the usual places.
    pub endpoints: Vec<PathBuf>,
    /// Directories of OCI bundles, below the host root.
    pub bundle_dirs: Vec<BundleDir>,
}

/// A path that contains `{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleDir(String);

/// See [`Settings::nri`].
#[derive(Debug, Clone)]
pub struct NriSettings {
    /// Sockets to try; at least one.
    pub sockets: Vec<PathBuf>,
    /// The plugin's index, 0 to 99; NRI writes it with two digits.
    pub index: u8,
}

/// See [`Settings::systemd`].
#[derive(Debug, Clone)]
pub struct SystemdSettings {
    /// The system bus.
    pub bus_socket: PathBuf,
}

/// The mechanism that changes the owner of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The agent calls chown(2).
    Agent,
    /// systemd, by the scope's property `User=`.
    SystemdUser,
    /// No owner is changed.
    None,
}

/// See [`Settings::state_socket`].
#[derive(Debug, Clone)]
pub struct StateSocketSettings {
    /// Path of the socket, as the agent sees it.
    pub path: PathBuf,
    /// User IDs that may read besides root.
    pub allow_uids: Vec<u32>,
}

/// See [`Settings::protection`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectionSettings {
    /// Certificate and key for TLS; `None`: no TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Authorization of readers.
    pub authorization: Authorization,
}

/// Authorization of readers over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// Everyone who can connect.
    None,
    /// Clients that the cluster allows to `get` the path.
    Kubernetes,
}

/// See [`Settings::exporter`].
#[derive(Debug, Clone)]
pub struct ExporterSettings {
    /// The address on which it serves.
    pub address: SocketAddr,
}

/// See [`Settings::kubernetes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// The kubeconfig; `None`: the pod's service account, if there is one.
    pub kubeconfig: Option<PathBuf>,
    /// The Events that are posted.
    pub events: EventPolicy,
    /// The Node condition.
    pub node_condition: ConditionPolicy,
    /// Whether to read namespaces' ID ranges.
    pub namespaces: bool,
}

/// See [`Settings::log`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The lowest level that is written.
    pub level: LogLevel,
    /// How a line is written.
    pub format: LogFormat,
}

/// The level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something does not work.
    Error,
    /// Something that an operator can correct.
    Warn,
    /// A change made on the node.
    Info,
    /// Details for debugging.
    Debug,
    /// Every message from and to peers.
    Trace,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line of plain text.
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading {}: {error}; name a readable file with --config, or leave the flag out", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    /// Too long, or not text.
    #[error("{}: {what}", path.display())]
    NotText {
        path: PathBuf,
        /// The kind of content that was found instead.
        what: &'static str,
    },
    /// Not YAML, an unknown key, or a value of the wrong type.
    #[error("{place}: {what}; \"usernsd config default\" prints every key")]
    Parse {
        /// File, line and column.
        place: String,
        /// The problem in one sentence.
        what: String,
    },
    /// A value that is not allowed.
    #[error("{place}: {what}; {remedy}")]
    Value {
        /// File, line and key, or the flag.
        place: String,
        /// The problem in one sentence.
        what: String,
        /// A value that would be valid.
        remedy: String,
    },
}

/// The text is not a duration.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a duration")]
pub struct DurationError(String);

// === impl Mechanism, Authorization, LogLevel, LogFormat ===

usernsd_domain::words! {
    /// The name in the configuration.
    Mechanism { Agent = "agent", SystemdUser = "systemd-user", None = "none" }
}

usernsd_domain::words! {
    /// The name in the configuration.
    Authorization { None = "none", Kubernetes = "kubernetes" }
}

usernsd_domain::words! {
    /// The name in the configuration and in log lines.
    LogLevel { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" }
}

usernsd_domain::words! {
    /// The name in the configuration.
    LogFormat { Text = "text", Json = "json" }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<LogLevel, String> {
        one_of(text)
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        one_of(text)
    }
}

/// The value of that name; the error is the remedy.
fn one_of<T: Choice>(text: &str) -> Result<T, String> {
    T::named(text).ok_or_else(|| write_one_of(T::ALL.iter().map(|value| value.name())))
}

/// As [`one_of`], for values that are not an enum.
fn one_of_named<T: Copy>(values: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = values.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| write_one_of(values.iter().map(|(name, _)| *name)))
}

fn write_one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    format!("write one of: {}", names.collect::<Vec<_>>().join(", "))
}

// === impl BundleDir ===

impl BundleDir {
    /// The directory of a container's bundle, in which `{id}` stands for the container's ID; `None` if it names no
    /// container.
    #[must_use]
    pub fn new(text: &str) -> Option<BundleDir> {
        (text.matches("{id}").count() == 1).then(|| BundleDir(text.to_owned()))
    }

    /// The path below the directory with the container's ID as its name; empty if that is the bundle itself.
    #[must_use]
    pub fn below(&self) -> &str {
        let after = self.0.split("{id}").nth(1).unwrap_or_default();
        after.trim_start_matches('/')
    }

    /// The bundle directory of a container, below the host root (without the leading slash).
    #[must_use]
    pub fn of(&self, id: &CriId) -> PathBuf {
        PathBuf::from(self.0.trim_start_matches('/').replace("{id}", id.as_str()))
    }

    /// The directory that contains those of all containers.
    #[must_use]
    pub fn above(&self) -> PathBuf {
        let fixed = self.0.split("{id}").next().unwrap_or_default();
        let directory = fixed.rsplit_once('/').map_or("", |(directory, _)| directory);
        PathBuf::from(directory.trim_start_matches('/'))
    }
}

// === impl Settings, Overrides ===

impl Settings {
    /// Reads the file, if there is one, applies the overrides, and validates the result.
    ///
    /// # Errors
    /// The first problem, with its place and a remedy.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Settings, ConfigError> {
        let mut config = path.map_or_else(|| Ok(Config::default()), Config::read)?;
        // Overrides are not part of the plugin's settings: otherwise processes with different flags would each
        // change the plugin's file.
        let mut file = config.clone();
        file.host.root.by_flag("--host-root", overrides.host_root.clone());
        overrides.apply(&mut config);
        let mut settings = Settings::of(config, path)?;
        settings.plugin = PluginConfig::of(&file);
        settings.bootstrap.plugin.settings = settings.plugin.keys();
        Ok(settings)
    }
}

impl Overrides {
    fn apply(self, config: &mut Config) {
        config.host.root.by_flag("--host-root", self.host_root);
        config.runtime.endpoints.by_flag("--cri-endpoint", self.cri_endpoint.map(|path| vec![path]));
        config.nri.socket_paths.by_flag("--nri-socket", self.nri_socket.map(|path| vec![path]));
        config.http.address.by_flag("--http", self.http);
        config.exporter.address.by_flag("--http", self.exporter_http);
        config.http.metrics_detail.by_flag("--metrics-detail", self.metrics_detail);
        config.http.metrics_max_pods.by_flag("--metrics-max-pods", self.metrics_max_pods);
        config.state_socket.path.by_flag("--state-socket", self.state_socket);
        config.log.level.by_flag("--log-level", self.log_level);
        config.log.format.by_flag("--log-format", self.log_format);
    }
}
