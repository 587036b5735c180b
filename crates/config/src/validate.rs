//! Validation: raw values become [`Settings`], or an error with the place and a remedy.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bootstrap::BootstrapSettings;
use super::keys::{Config, DelegationLimits, Http, Located, Nri, Origin, Systemd};
use super::plugin::PluginConfig;
use super::{
    Authorization, BundleDir, ConfigError, DurationError, ExporterSettings, LogSettings, Mechanism,
    NriSettings, ProtectionSettings, RuntimeSettings, Settings, StateSocketSettings, SystemdSettings, one_of,
};
use usernsd_domain::adjust::AdjustRules;
use usernsd_domain::chain::chain;
use usernsd_domain::delegation::{Limits, Rules};
use usernsd_domain::guard::GuardPolicy;
use usernsd_domain::idmap::HostId;
use usernsd_domain::node::Exposition;
use usernsd_domain::nri_plugin::PluginOptions;
use usernsd_domain::repair::{RepairRule, RepairRules};
use usernsd_domain::words::Choice;

/// Validates raw values. Contains the file's path for errors.
pub(super) struct Validator<'a> {
    path: Option<&'a Path>,
}

impl Settings {
    /// Validates a configuration; `path` is for errors.
    ///
    /// # Errors
    /// See [`ConfigError::Value`].
    pub fn of(config: Config, path: Option<&Path>) -> Result<Settings, ConfigError> {
        let validator = Validator { path };
        let mechanism = validator.one_of("delegation.mechanism", &config.delegation.mechanism)?;
        if mechanism == Mechanism::SystemdUser && !config.nri.enabled.value {
            return Err(validator.refuse(
                "delegation.mechanism",
                &config.delegation.mechanism,
                "systemd-user needs NRI, which is switched off".into(),
                "set nri.enabled to true, or the mechanism to agent".into(),
            ));
        }
        if mechanism == Mechanism::None && config.nri.enabled.value {
            return Err(validator.refuse(
                "delegation.mechanism",
                &config.delegation.mechanism,
                "none only looks, and by NRI containers are changed".into(),
                "set nri.enabled to false".into(),
            ));
        }
        let minimum = &config.delegation.minimum_host_id;
        let guard = validator.one_of("guard.policy", &config.guard.policy)?;
        let plugin = PluginConfig::of(&config);
        let idle = match mechanism {
            _ if !config.nri.enabled.value => Some("nri.enabled is false"),
            Mechanism::SystemdUser => {
                Some("delegation.mechanism is systemd-user, for which the agent has to be there")
            }
            Mechanism::Agent | Mechanism::None => None,
        };
        let bootstrap = validator.bootstrap(&config.bootstrap)?;
        let bootstrap = BootstrapSettings {
            plugin: PluginOptions {
                index: config.nri.plugin_index.value,
                idle,
                adjusts_namespaces: config.delegation.privileged_cgroup_namespace.value,
                settings: plugin.keys(),
                ..bootstrap.plugin
            },
            ..bootstrap
        };
        Ok(Settings {
            host_root: validator.path("host.root", &config.host.root, &config.host.root.value)?,
            runtime: RuntimeSettings {
                endpoints: validator.paths("runtime.endpoints", &config.runtime.endpoints)?,
                bundle_dirs: validator.bundle_dirs(&config.runtime.bundle_dirs)?,
            },
            nri: config.nri.enabled.value.then(|| validator.nri(&config.nri)).transpose()?,
            systemd: config.systemd.enabled.value.then(|| validator.systemd(&config.systemd)).transpose()?,
            rules: Rules {
                owner: validator.one_of("delegation.owner", &config.delegation.owner)?,
                minimum_host_id: HostId(validator.within(
                    "delegation.minimumHostId",
                    minimum,
                    minimum.value,
                    1_000..=u32::MAX - 65_535,
                )?),
                observe_only: mechanism == Mechanism::None,
            },
            mechanism,
            limits: validator.limits(&config.delegation.limits)?,
            adjust: AdjustRules {
                namespaces: validator.namespaces(&config.opt_in.namespaces)?,
                privileged_cgroup_namespace: config.delegation.privileged_cgroup_namespace.value,
            },
            guard,
            repair: RepairRules {
                opt_in: RepairRule {
                    policy: validator.one_of("optIn.missed", &config.opt_in.missed)?,
                    max_age: validator.age("optIn.missedMaxAge", &config.opt_in.missed_max_age)?,
                },
                guard: RepairRule {
                    policy: validator.one_of("guard.missed", &config.guard.missed)?,
                    max_age: validator.age("guard.missedMaxAge", &config.guard.missed_max_age)?,
                },
                guard_refuses: guard == GuardPolicy::Refuse,
                observe_only: mechanism == Mechanism::None,
            },
            resync: validator.interval("resync.interval", &config.resync.interval)?,
            bootstrap,
            state_socket: StateSocketSettings {
                path: validator.path(
                    "stateSocket.path",
                    &config.state_socket.path,
                    &config.state_socket.path.value,
                )?,
                allow_uids: config.state_socket.allow_uids.value,
            },
            http: validator.address("http.address", &config.http.address)?,
            protection: validator.protection(&config.http)?,
            exporter: ExporterSettings {
                address: validator.needed_address("exporter.address", &config.exporter.address)?,
            },
            kubernetes: validator.kubernetes(&config.kubernetes)?,
            feature_file: validator.feature_file(&config.feature_file.directory)?,
            exposition: validator.exposition(&config.http)?,
            log: LogSettings {
                level: validator.one_of("log.level", &config.log.level)?,
                format: validator.one_of("log.format", &config.log.format)?,
            },
            plugin,
        })
    }
}

// === impl Validator ===

impl Validator<'_> {
    pub(super) fn refuse<T>(&self, key: &str, at: &Located<T>, what: String, remedy: String) -> ConfigError {
        let place = match (at.origin, self.path) {
            (Origin::Flag(flag), _) => flag.to_owned(),
            (Origin::Line(line), Some(path)) => format!("{}:{line}: {key}", path.display()),
            (_, Some(path)) => format!("{}: {key}", path.display()),
            (_, None) => key.to_owned(),
        };
        ConfigError::Value { place, what, remedy }
    }

    pub(super) fn one_of<T: Choice>(&self, key: &str, at: &Located<String>) -> Result<T, ConfigError> {
        one_of(&at.value).map_err(|remedy| self.unknown(key, at, &at.value, remedy))
    }

    /// The same for the value of a `field` of a key that has several.
    pub(super) fn one_of_field<T: Choice, U>(
        &self,
        key: &str,
        at: &Located<U>,
        field: &str,
        value: &str,
    ) -> Result<T, ConfigError> {
        one_of(value).map_err(|remedy| self.unknown_field(key, at, field, value, remedy))
    }

    pub(super) fn unknown<T>(&self, key: &str, at: &Located<T>, value: &str, remedy: String) -> ConfigError {
        self.refuse(key, at, format!("{:?} is unknown", shown(value)), remedy)
    }

    pub(super) fn unknown_field<T>(
        &self,
        key: &str,
        at: &Located<T>,
        field: &str,
        value: &str,
        remedy: String,
    ) -> ConfigError {
        self.refuse(key, at, format!("{field}: {:?} is unknown", shown(value)), remedy)
    }

    fn within<T>(
        &self,
        key: &str,
        at: &Located<T>,
        value: u32,
        range: RangeInclusive<u32>,
    ) -> Result<u32, ConfigError> {
        if range.contains(&value) {
            return Ok(value);
        }
        let remedy = format!("write a number from {} to {}", range.start(), range.end());
        Err(self.refuse(key, at, format!("{value} is out of bounds"), remedy))
    }

    /// An absolute path without `..`, with or without `unix://`.
    pub(super) fn path<T>(&self, key: &str, at: &Located<T>, text: &str) -> Result<PathBuf, ConfigError> {
        let path = Path::new(text.strip_prefix("unix://").unwrap_or(text));
        let good = path.is_absolute()
            && path.components().all(|part| part != std::path::Component::ParentDir)
            && !text.contains('\0');
        if good {
            return Ok(path.to_owned());
        }
        let remedy = "write an absolute path without \"..\"".to_owned();
        Err(self.refuse(key, at, format!("{:?} is not a path", shown(text)), remedy))
    }

    fn paths(&self, key: &str, at: &Located<Vec<String>>) -> Result<Vec<PathBuf>, ConfigError> {
        at.value.iter().map(|text| self.path(key, at, text)).collect()
    }

    fn bundle_dirs(&self, at: &Located<Vec<String>>) -> Result<Vec<BundleDir>, ConfigError> {
        let key = "runtime.bundleDirs";
        let one = |text: &String| {
            self.path(key, at, text)?;
            if let Some(dir) = BundleDir::new(text).filter(|_| !text.starts_with("unix:")) {
                return Ok(dir);
            }
            let remedy = "write {id} once, where the container's ID stands".to_owned();
            Err(self.refuse(key, at, format!("{:?} names no container", shown(text)), remedy))
        };
        at.value.iter().map(one).collect()
    }

    fn nri(&self, nri: &Nri) -> Result<NriSettings, ConfigError> {
        let sockets = self.paths("nri.socketPaths", &nri.socket_paths)?;
        if sockets.is_empty() {
            let remedy = "name the runtime's NRI socket, or set nri.enabled to false".to_owned();
            return Err(self.refuse("nri.socketPaths", &nri.socket_paths, "no socket".into(), remedy));
        }
        let index = &nri.plugin_index;
        self.within("nri.pluginIndex", index, index.value.into(), 0..=99)?;
        Ok(NriSettings { sockets, index: index.value })
    }

    fn systemd(&self, systemd: &Systemd) -> Result<SystemdSettings, ConfigError> {
        let at = &systemd.bus_socket;
        Ok(SystemdSettings { bus_socket: self.path("systemd.busSocket", at, &at.value)? })
    }

    fn limits(&self, at: &Located<DelegationLimits>) -> Result<Limits, ConfigError> {
        let DelegationLimits { descendants, depth } = at.value;
        Ok(Limits {
            descendants: self.within("delegation.limits.descendants", at, descendants, 1..=1_000_000)?,
            depth: self.within("delegation.limits.depth", at, depth, 1..=1_000)?,
        })
    }

    fn namespaces(&self, at: &Located<Vec<String>>) -> Result<Vec<String>, ConfigError> {
        let one = |pattern: &String| {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            let good = !pattern.is_empty()
                && name.len() <= 63
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            if good {
                return Ok(pattern.clone());
            }
            let remedy = "write a name such as team-a, or its start and one \"*\"".to_owned();
            let what = format!("{:?} is no Kubernetes namespace", shown(pattern));
            Err(self.refuse("optIn.namespaces", at, what, remedy))
        };
        at.value.iter().map(one).collect()
    }

    fn interval(&self, key: &str, at: &Located<String>) -> Result<Duration, ConfigError> {
        let remedy = "write a duration from 10s to 24h, such as 30s, 5m or 1h30m";
        let what = match parse_duration(&at.value) {
            Ok(time) if (Duration::from_secs(10)..=Duration::from_secs(86_400)).contains(&time) => {
                return Ok(time);
            }
            Ok(_) => format!("{} is out of bounds", at.value),
            Err(error) => chain(&error),
        };
        Err(self.refuse(key, at, what, remedy.into()))
    }

    fn age(&self, key: &str, at: &Located<String>) -> Result<Duration, ConfigError> {
        let longest = Duration::from_secs(365 * 86_400);
        let what = match parse_duration(&at.value) {
            Ok(age) if age > Duration::ZERO && age <= longest => return Ok(age),
            Ok(_) => format!("{} is out of bounds", at.value),
            Err(error) => chain(&error),
        };
        Err(self.refuse(key, at, what, "write a duration up to 365d, such as 10m or 1d".to_owned()))
    }

    fn exposition(&self, http: &Http) -> Result<Exposition, ConfigError> {
        let max = &http.metrics_max_pods;
        // The kubelet's own limit is far lower; the series of this many pods take about 10 MB.
        let max_pods = self.within("http.metricsMaxPods", max, max.value, 0..=10_000)?;
        Ok(Exposition {
            detail: self.one_of("http.metricsDetail", &http.metrics_detail)?,
            max_pods: max_pods.try_into().unwrap_or(usize::MAX),
        })
    }

    fn protection(&self, http: &Http) -> Result<ProtectionSettings, ConfigError> {
        let (certificate, key) = (&http.tls_certificate_file, &http.tls_key_file);
        let tls = match (certificate.value.is_empty(), key.value.is_empty()) {
            (true, true) => None,
            (false, false) => Some((
                self.path("http.tlsCertificateFile", certificate, &certificate.value)?,
                self.path("http.tlsKeyFile", key, &key.value)?,
            )),
            (true, false) => return Err(self.half("http.tlsCertificateFile", certificate)),
            (false, true) => return Err(self.half("http.tlsKeyFile", key)),
        };
        let authorization = self.one_of("http.authorization", &http.authorization)?;
        if authorization == Authorization::Kubernetes && tls.is_none() {
            let what = "without TLS, tokens could be read on the way".to_owned();
            let remedy = "set http.tlsCertificateFile and http.tlsKeyFile too".to_owned();
            return Err(self.refuse("http.authorization", &http.authorization, what, remedy));
        }
        Ok(ProtectionSettings { tls, authorization })
    }

    fn half(&self, key: &str, at: &Located<String>) -> ConfigError {
        let remedy = "name both files, or none".to_owned();
        self.refuse(key, at, "a certificate and its key belong together".into(), remedy)
    }

    fn needed_address(&self, key: &str, at: &Located<String>) -> Result<SocketAddr, ConfigError> {
        self.address(key, at)?.ok_or_else(|| {
            let remedy = "write an IP address and a port, such as 127.0.0.1:9564 or [::]:9564".to_owned();
            self.refuse(key, at, "an exporter without an address does nothing".into(), remedy)
        })
    }

    fn address(&self, key: &str, at: &Located<String>) -> Result<Option<SocketAddr>, ConfigError> {
        if at.value.is_empty() {
            return Ok(None);
        }
        at.value.parse().map(Some).map_err(|_| {
            let remedy = "write an IP address and a port, such as 127.0.0.1:9564 or [::]:9564".to_owned();
            self.refuse(key, at, format!("{:?} is not an address", shown(&at.value)), remedy)
        })
    }
}

/// A wrong value, quoted and shortened for an error.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Parses a duration: numbers with the units `d`, `h`, `m`, `s` and `ms`, largest first, each at most once.
///
/// # Errors
/// Anything else, and durations that do not fit into 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refuse = || DurationError(shown(text));
    let mut rest = text;
    let mut total = 0_u64;
    let mut units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)].iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits).ok_or_else(refuse)?;
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at_checked(letters).ok_or_else(refuse)?;
        // Units must be in descending order: "1s2m" and "1m2m" are mistakes.
        let (_, scale) = units.find(|(name, _)| *name == unit).ok_or_else(refuse)?;
        let number: u64 = number.parse().map_err(|_| refuse())?;
        total = number.checked_mul(*scale).and_then(|part| total.checked_add(part)).ok_or_else(refuse)?;
        rest = after;
    }
    if text.is_empty() { Err(refuse()) } else { Ok(Duration::from_millis(total)) }
}
