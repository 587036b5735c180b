//! The pre-installed NRI plugin: where it may be installed, its file name, and whether the runtime requires it.
//!
//! A runtime starts every executable file `NN-name` in its plugin directory before it serves its first container (NRI
//! `pkg/adaptation/adaptation.go`, `startPlugins`). Since NRI 0.7.0 a plugin that fails to start is skipped with a
//! warning; before, NRI failed to start, and so did the runtime: containerd exits with "Failed to run CRI service",
//! CRI-O with the error of its server. An executable file with any other name, or a configuration that cannot be
//! read, keeps NRI from starting in every version.
//!
//! The table of versions is in docs/nri-plugin.md.

use std::collections::BTreeMap;

use super::containerd::Release;
use super::crio::CrioVersion;
use super::finding::{Finding, FindingId};
use super::runtime::Runtime;
use super::toml::{Table, Value, get};

/// The plugin's base name: the part after the index. A validator requires the plugin by this name.
pub const NAME: &str = "usernsd";

/// The socket at which plugins join, in both runtimes (containerd/nri `pkg/api/plugin.go`,
/// `DefaultSocketPath`).
pub const SOCKET: &str = "/var/run/nri/nri.sock";
/// NRI's default plugin directory (`DefaultPluginPath`).
pub const PLUGIN_DIR: &str = "/opt/nri/plugins";

/// NRI's default directory of plugin configurations (`DefaultPluginConfigPath`).
pub const CONFIG_DIR: &str = "/etc/nri/conf.d";

/// The annotation with which a pod tolerates missing required plugins, unless the administrator has chosen another
/// one: the one in NRI's documentation. It has no slash, so that `KEY/container.NAME` is a valid annotation, too.
pub const TOLERATION: &str = "tolerate-missing-nri-plugins.noderesource.dev";

/// The annotation with which a pod requires plugins (NRI `pkg/plugin`).
pub const REQUIREMENT: &str = "required-plugins.noderesource.dev";

/// `bootstrap.nri.plugin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PluginInstall {
    /// Installed if the runtime continues without a plugin that fails.
    #[default]
    Auto,
    /// Not installed; an installed plugin is removed.
    Never,
}

words! {
    /// The name in the configuration.
    PluginInstall { Auto = "auto", Never = "never" }
}

/// `bootstrap.nri.required`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Required {
    /// The runtime's validator is not changed.
    #[default]
    Off,
    /// Pods that request it with [`REQUIREMENT`] are not started without the plugin.
    Annotated,
    /// No pod is started without the plugin, except for those with the toleration.
    All,
}

words! {
    /// The name in the configuration.
    Required { Off = "off", Annotated = "annotated", All = "all" }
}

/// The configuration for the pre-installed plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PluginOptions {
    /// Whether it is installed.
    pub install: PluginInstall,
    /// Whether the runtime requires it.
    pub required: Required,
    /// `nri.pluginIndex`, 0 to 99.
    pub index: u8,
    /// Why the plugin would do nothing with this configuration; `None` if it would do something.
    pub idle: Option<&'static str>,
    /// Whether privileged containers get their own cgroup namespace, over NRI.
    pub adjusts_namespaces: bool,
    /// The keys of the plugin's configuration file.
    pub settings: String,
}

/// The NRI settings in a runtime's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NriConf {
    /// Whether NRI is on.
    pub on: bool,
    /// Whether only plugins that the runtime launches itself may join.
    pub refuses_connections: bool,
    /// The socket at which plugins join.
    pub socket: String,
    /// The plugin directory.
    pub plugin_dir: String,
    /// The directory of plugin configurations.
    pub config_dir: String,
    /// The built-in validator.
    pub validator: Validator,
}

/// The finding that an agent cannot join the runtime; `None` if it can, or if the runtime launches the plugin itself.
#[must_use]
pub fn connections_finding(conf: &NriConf, plugin_is_installed: bool) -> Option<Finding> {
    (conf.on && conf.refuses_connections && !plugin_is_installed).then(|| {
        let what = "the runtime's configuration disables connections of NRI plugins, and no usernsd plugin is installed that \
                    it would launch itself: the agent cannot join"
            .to_owned();
        let remedy = "set disable_connections (CRI-O: nri_disable_connections) to false and restart the runtime, or install \
                      the plugin: usernsd bootstrap";
        Finding::warning(FindingId::NriConnections, what, remedy)
    })
}

/// The built-in validator of NRI 0.10 and later.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validator {
    /// Whether it is on; `None` if no file sets it, which means off.
    pub enabled: Option<bool>,
    /// Plugins that every container needs.
    pub required: Vec<String>,
    /// The annotation with which a pod tolerates their absence; empty for none.
    pub toleration: String,
    /// Whether it refuses a container whose namespaces a plugin changed.
    pub rejects_namespaces: bool,
}

/// A runtime's names for the settings of [`Validator`].
#[derive(Debug, Clone, Copy)]
pub struct ValidatorKeys {
    /// [`Validator::enabled`].
    pub enabled: &'static str,
    /// [`Validator::required`].
    pub required: &'static str,
    /// [`Validator::toleration`].
    pub toleration: &'static str,
    /// [`Validator::rejects_namespaces`].
    pub rejects_namespaces: &'static str,
}

/// A pod that a node may need to start up, see [`SystemPod::of`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemPod {
    /// `namespace/name`.
    pub name: String,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
}

// === impl SystemPod ===

impl SystemPod {
    /// The pod, if a node may need it to start up: the kubelet runs it from a file, like the control plane; it
    /// belongs to kube-system; or it uses the node's network, like a network plugin.
    #[must_use]
    pub fn of(
        namespace: &str,
        name: &str,
        host_network: bool,
        annotations: &BTreeMap<String, String>,
    ) -> Option<SystemPod> {
        // The kubelet's `pkg/kubelet/types`: "api" marks pods of the API server.
        let source = annotations.get("kubernetes.io/config.source").map(String::as_str);
        let is_static = matches!(source, Some("file" | "http"));
        (is_static || host_network || namespace == "kube-system")
            .then(|| SystemPod { name: format!("{namespace}/{name}"), annotations: annotations.clone() })
    }

    /// Whether all its containers start without a required plugin (NRI `GetEffectiveAnnotation`, and Go's
    /// `ParseBool`).
    #[must_use]
    pub fn tolerates(&self, toleration: &str) -> bool {
        let value =
            self.annotations.get(&format!("{toleration}/pod")).or_else(|| self.annotations.get(toleration));
        value.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "TRUE" | "true" | "True"))
    }
}

// === impl NriConf ===

impl Default for NriConf {
    fn default() -> NriConf {
        NriConf {
            on: true,
            refuses_connections: false,
            socket: SOCKET.to_owned(),
            plugin_dir: PLUGIN_DIR.to_owned(),
            config_dir: CONFIG_DIR.to_owned(),
            validator: Validator::default(),
        }
    }
}

// === impl Validator ===

impl Validator {
    /// The validator after a file that sets these keys; a list replaces the earlier one.
    #[must_use]
    pub fn with(&self, table: &Table, keys: &ValidatorKeys) -> Validator {
        let flag = |key| match get(table, key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        };
        let text = match get(table, keys.toleration) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        Validator {
            enabled: flag(keys.enabled).or(self.enabled),
            required: get(table, keys.required)
                .and_then(Value::texts)
                .unwrap_or_else(|| self.required.clone()),
            toleration: text.unwrap_or_else(|| self.toleration.clone()),
            rejects_namespaces: flag(keys.rejects_namespaces).unwrap_or(self.rejects_namespaces),
        }
    }

    /// The settings for a drop-in, with the runtime's names. `rejects_namespaces` is left to the administrator.
    #[must_use]
    pub fn lines(&self, keys: &ValidatorKeys) -> Vec<(String, Value)> {
        let mut lines = vec![(keys.enabled.to_owned(), Value::Bool(self.enabled.unwrap_or(false)))];
        if !self.required.is_empty() {
            lines.push((keys.required.to_owned(), Value::list(self.required.iter().cloned())));
        }
        if !self.toleration.is_empty() {
            lines.push((keys.toleration.to_owned(), Value::Text(self.toleration.clone())));
        }
        lines
    }
}

// === names ===

/// The plugin's file name, for instance `90-usernsd`.
#[must_use]
pub fn file_name(index: u8) -> String {
    format!("{index:02}-{NAME}")
}

/// Whether a file in a plugin directory would be started as this plugin, with any index.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    matches!(name.split_once('-'), Some((index, NAME)) if is_index(index))
}

/// Whether NRI accepts this as the name of a plugin (`api.ParsePluginName`). An executable file with another name
/// keeps NRI, and with it the runtime, from starting.
#[must_use]
pub fn is_plugin_name(name: &str) -> bool {
    matches!(name.split_once('-'), Some((index, _)) if is_index(index))
}

fn is_index(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The text of the configuration file, which will be at `path` on the node.
#[must_use]
pub fn settings(path: &str, keys: &str) -> String {
    // A JSON string is a valid YAML string; a path has no control characters.
    let path = path.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "{WRITTEN}# The launched plugin reads it when the runtime starts, and again when it changes.\n\
         settingsFile: \"{path}\"\n{keys}"
    )
}

/// Whether [`settings`] has rendered this text.
#[must_use]
pub fn is_settings(text: &[u8]) -> bool {
    const KEY: &[u8] = b"\nsettingsFile: ";
    text.starts_with(WRITTEN.as_bytes()) && text.windows(KEY.len()).any(|window| window == KEY)
}

/// The first line of every file that this program writes.
pub const WRITTEN: &str = "# Written by usernsd; changes made here are lost.\n";

// === versions ===

/// Why the plugin is not installed for a runtime of this version; `None` if it may be, because the runtime continues
/// if a plugin fails.
#[must_use]
pub fn unsupported(runtime: Runtime) -> Option<String> {
    /// containerd 1.7.26 has NRI 0.8.0; 1.7.25 has 0.6.1.
    const CONTAINERD_1: Release = Release { major: 1, minor: 7, patch: 26 };
    let ends = |name: &str, version: String, remedy: &str| {
        Some(format!("{name} {version} ends at its start where a pre-installed plugin fails; {remedy}"))
    };
    match runtime {
        Runtime::Containerd(release) if release < Release::new(1, 7) => Some(format!(
            "containerd {release} has no NRI with pre-installed plugins; update to 2.0 or later"
        )),
        Runtime::Containerd(release) if release < CONTAINERD_1 => {
            ends("containerd", release.to_string(), "update to 1.7.26, or to 2.0 or later")
        }
        Runtime::Containerd(release) if release >= Release::new(3, 0) => Some(format!(
            "how containerd {release} treats a pre-installed plugin that fails is unknown to this version of usernsd"
        )),
        Runtime::Crio(version) if !version.has_nri() => {
            Some(format!("CRI-O {version} has no NRI; update to 1.32 or later"))
        }
        // CRI-O 1.32.0 has NRI 0.9.0; every 1.31 has 0.6.1.
        Runtime::Crio(version) if !version.at_least(32) => {
            ends("CRI-O", version.to_string(), "update to 1.32 or later")
        }
        Runtime::Crio(version) if version >= CrioVersion::new(2, 0, 0) => Some(format!(
            "how CRI-O {version} treats a pre-installed plugin that fails is unknown to this version of usernsd"
        )),
        Runtime::Containerd(_) | Runtime::Crio(_) => None,
    }
}

/// Whether a runtime of this version has the built-in validator (NRI 0.10).
#[must_use]
pub fn has_validator(runtime: Runtime) -> bool {
    match runtime {
        Runtime::Containerd(release) => release >= Release::new(2, 2),
        Runtime::Crio(version) => version.has_validator(),
    }
}

/// The first version of that runtime with the validator.
fn validator_since(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Containerd(_) => "containerd 2.2",
        Runtime::Crio(_) => "CRI-O 1.34",
    }
}

// === the validator ===

/// The planned change to the validator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValidatorPlan {
    /// The new settings; `None` to leave it as it is.
    pub becomes: Option<Validator>,
    /// Changes that are not made, with the reasons.
    pub findings: Vec<Finding>,
}

/// Plans the validator's settings.
///
/// `current` are the settings in files that this program did not write. `missing` is why the runtime does not launch
/// the plugin. `pods` are the node's system pods, `None` if they are not known: as long as one of them does not
/// tolerate a missing plugin, the plugin is not required for all pods. Otherwise a node on which the plugin fails to
/// start could not start that pod, and with it not what would help. If the pods are not known, the plugin stays
/// required if it `was`.
#[must_use]
pub fn plan_validator(
    required: Required,
    runtime: Runtime,
    current: &Validator,
    missing: Option<&str>,
    pods: Option<&[SystemPod]>,
    was: bool,
) -> ValidatorPlan {
    let warn = |what: String, remedy: &str| Finding::warning(FindingId::NriRequired, what, remedy);
    let mut findings = Vec::new();
    let refused = |finding: Finding| ValidatorPlan { becomes: None, findings: vec![finding] };
    if required == Required::Off {
        return ValidatorPlan::default();
    }
    if !has_validator(runtime) {
        let what =
            format!("bootstrap.nri.required has no effect: {} cannot require plugins", runtime_name(runtime));
        return refused(warn(
            what,
            &format!("update to {} or later, or set it to off", validator_since(runtime)),
        ));
    }
    if current.enabled == Some(false) {
        let what =
            "bootstrap.nri.required has no effect: the runtime's configuration switches NRI's default \
                    validator off"
                .to_owned();
        return refused(warn(what, "switch it on there, or take the key out"));
    }
    let toleration =
        if current.toleration.is_empty() { TOLERATION.to_owned() } else { current.toleration.clone() };
    let mut becomes = Validator { enabled: Some(true), toleration, ..current.clone() };
    if required == Required::All {
        let strict: Vec<&str> =
            strict_pods(pods.unwrap_or_default(), &becomes.toleration).take(MANY).collect();
        if let Some(missing) = missing {
            let what = format!(
                "the plugin is not required of all pods, because the runtime would not launch it: {missing}"
            );
            findings.push(warn(what, "set bootstrap.nri.required to annotated, or see docs/nri-plugin.md"));
        } else if pods.is_none() && !was {
            let what = "the plugin is not required of all pods, because the runtime does not answer or runs no pod: \
                        which pods the node needs is not known"
                .to_owned();
            findings.push(warn(what, "run usernsd bootstrap again when the node's pods run"));
        } else if !strict.is_empty() {
            let what = format!(
                "the plugin is not required of all pods: without it the node could not start {} again",
                strict.join(", ")
            );
            let remedy = format!("annotate these with {}: \"true\"", becomes.toleration);
            findings.push(warn(what, &remedy));
        } else if !becomes.required.iter().any(|name| name == NAME) {
            becomes.required.push(NAME.to_owned());
        }
    }
    let is_so = |becomes: &Validator| *becomes == Validator { enabled: Some(true), ..current.clone() };
    let stays = current.enabled == Some(true) && is_so(&becomes);
    ValidatorPlan { becomes: (!stays).then_some(becomes), findings }
}

/// The pods that do not start if a required plugin is missing.
pub fn strict_pods<'a>(pods: &'a [SystemPod], toleration: &str) -> impl Iterator<Item = &'a str> {
    pods.iter().filter(move |pod| !pod.tolerates(toleration)).map(|pod| pod.name.as_str())
}

/// At most so many pods are named.
const MANY: usize = 10;

/// The runtime's name and version.
#[must_use]
pub fn runtime_name(runtime: Runtime) -> String {
    match runtime {
        Runtime::Containerd(release) => format!("containerd {release}"),
        Runtime::Crio(version) => format!("CRI-O {version}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn containerd(text: &str) -> Runtime {
        Runtime::Containerd(Release::parse(text).unwrap())
    }

    fn crio(text: &str) -> Runtime {
        Runtime::Crio(CrioVersion::parse(text).unwrap())
    }

    #[test]
    fn the_plugin_is_installed_if_the_runtime_continues_without_it() {
        for good in ["1.7.26", "1.7.34", "2.0.0", "2.1.9+unknown", "2.2.7", "2.3.4", "2.4.0-beta.0"] {
            assert_eq!(unsupported(containerd(good)), None, "{good}");
        }
        for (bad, word) in [
            ("1.6.39", "has no NRI"),
            // The patch version of 1.7 is unknown.
            ("1.7", "ends at its start"),
            ("1.7.0", "ends at its start"),
            ("1.7.25", "update to 1.7.26"),
            ("3.0.0", "is unknown"),
        ] {
            let why = unsupported(containerd(bad)).unwrap();
            assert!(why.contains(word), "{bad}: {why}");
        }
        for good in ["1.32.0", "1.33.13", "1.34.11", "1.35.6", "1.36.3", "1.37.0", "1.40.0"] {
            assert_eq!(unsupported(crio(good)), None, "{good}");
        }
        for (bad, word) in [
            ("1.25.5", "has no NRI"),
            ("1.26.0", "ends at its start"),
            ("1.31.13", "ends at its start"),
            ("1.29.5-5.rhaos4.16.git7032128.el9", "ends at its start"),
            ("2.0.0", "is unknown"),
        ] {
            let why = unsupported(crio(bad)).unwrap();
            assert!(why.contains(word), "{bad}: {why}");
        }
    }

    #[test]
    fn file_names_are_those_that_nri_accepts() {
        assert_eq!((file_name(90), file_name(7)), ("90-usernsd".to_owned(), "07-usernsd".to_owned()));
        for (name, plugin, ours) in [
            ("90-usernsd", true, true),
            ("00-usernsd", true, true),
            ("90-usernsd-new", true, false),
            ("10-other", true, false),
            (".90-usernsd.usernsd-new", false, false),
            ("usernsd", false, false),
            ("9-usernsd", false, false),
            ("990-usernsd", false, false),
            ("a0-usernsd", false, false),
        ] {
            assert_eq!((is_plugin_name(name), is_file_name(name)), (plugin, ours), "{name}");
        }
    }

    #[test]
    fn the_validator_keeps_what_an_administrator_set() {
        let plan = |required, runtime, current: &Validator| {
            plan_validator(required, runtime, current, None, Some(&[]), false)
        };
        let off = Validator::default();
        assert_eq!(plan(Required::Off, crio("1.37.0"), &off), ValidatorPlan::default());
        let on = |required: &[&str]| Validator {
            enabled: Some(true),
            required: required.iter().map(|name| (*name).to_owned()).collect(),
            toleration: TOLERATION.into(),
            rejects_namespaces: false,
        };
        for runtime in [crio("1.34.0"), containerd("2.2.0")] {
            assert_eq!(plan(Required::Annotated, runtime, &off).becomes, Some(on(&[])));
            assert_eq!(plan(Required::All, runtime, &off).becomes, Some(on(&["usernsd"])));
            // Nothing changes.
            assert_eq!(plan(Required::All, runtime, &on(&["usernsd"])), ValidatorPlan::default());
            // An administrator's own settings.
            let theirs =
                Validator { toleration: "example.com".into(), rejects_namespaces: true, ..on(&["logger"]) };
            assert_eq!(plan(Required::Annotated, runtime, &theirs), ValidatorPlan::default());
            let both = Validator { required: vec!["logger".into(), "usernsd".into()], ..theirs.clone() };
            assert_eq!(plan(Required::All, runtime, &theirs).becomes, Some(both));
            let refused = plan(Required::All, runtime, &Validator { enabled: Some(false), ..off.clone() });
            assert!(refused.becomes.is_none() && refused.findings.len() == 1);
        }
        for old in [crio("1.33.13"), containerd("2.1.9")] {
            let plan = plan(Required::Annotated, old, &off);
            assert!(plan.becomes.is_none() && plan.findings[0].remedy.starts_with("update to "), "{plan:?}");
        }
    }

    /// A node must be able to start what it needs when the plugin fails.
    #[test]
    fn the_plugin_is_not_required_for_pods_that_a_node_needs() {
        let runtime = crio("1.37.0");
        let off = Validator::default();
        let pod = |host_network, annotations: &[(&str, &str)]| {
            let annotations =
                annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            SystemPod::of("cni", "a", host_network, &annotations)
        };
        assert_eq!(pod(false, &[]), None);
        assert_eq!(pod(false, &[("kubernetes.io/config.source", "api")]), None);
        let is_static = pod(false, &[("kubernetes.io/config.source", "file")]).unwrap();
        let strict = pod(true, &[(TOLERATION, "false")]).unwrap();
        let scoped = format!("{TOLERATION}/pod");
        let tolerant = pod(true, &[(TOLERATION, "false"), (&scoped, "true")]).unwrap();
        assert_eq!(
            [&is_static, &strict, &tolerant].map(|pod| pod.tolerates(TOLERATION)),
            [false, false, true]
        );
        let plan = |missing, pods: Option<&[SystemPod]>, was| {
            let plan = plan_validator(Required::All, runtime, &off, missing, pods, was);
            let what = plan.findings.first().map(|finding| finding.what.clone()).unwrap_or_default();
            (plan.becomes.unwrap().required, what)
        };
        let required = vec!["usernsd".to_owned()];
        assert_eq!(
            plan(None, Some(std::slice::from_ref(&tolerant)), false),
            (required.clone(), String::new())
        );
        for pod in [is_static, strict] {
            let (found, what) = plan(None, Some(&[tolerant.clone(), pod]), true);
            assert!(found.is_empty() && what.contains("could not start cni/a again"), "{what}");
        }
        let (found, what) = plan(Some("its version"), Some(&[]), true);
        assert!(found.is_empty() && what.ends_with("would not launch it: its version"), "{what}");
        // If the runtime does not answer.
        assert_eq!(plan(None, None, true), (required, String::new()));
        assert!(plan(None, None, false).0.is_empty());
    }
}
