//! The configuration of the launched plugin: the part of the agent's configuration on which its decisions depend,
//! with the same keys.
//!
//! `usernsd bootstrap` writes it into the runtime's directory of plugin configurations, and the runtime passes its
//! text to the plugin in NRI's `Configure`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::keys::Config;
use super::{LogFormat, LogLevel, LogSettings, Mechanism, Settings, one_of};
use usernsd_domain::adjust::AdjustRules;
use usernsd_domain::chain::chain;
use usernsd_domain::delegation::{Limits, OwnerPolicy, Rules};
use usernsd_domain::guard::GuardPolicy;
use usernsd_domain::idmap::HostId;
use usernsd_domain::nri_plugin;

/// Maximum number of reported problems.
const PROBLEMS: usize = 16;
/// Maximum length of a problem, in characters.
const PROBLEM: usize = 400;
/// The only key of the file that the agent's configuration does not have: the file's own path.
const SETTINGS_FILE: &str = "settingsFile";

/// The keys that the launched plugin shares with the agent, validated as the agent's are.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    sections: Vec<(&'static str, Vec<(&'static str, Value)>)>,
}

/// The validated file, as the plugin uses it. A value that could not be read is reported as a problem and replaced by
/// a safe one: the file may be of another version than the plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginSettings {
    /// The rules for changing owners of cgroups.
    pub rules: Rules,
    /// The limits that are set with it.
    pub limits: Limits,
    /// The rules for opted-in and privileged containers.
    pub adjust: AdjustRules,
    /// The treatment of containers whose isolation is lost.
    pub guard: GuardPolicy,
    /// CRI sockets to try; empty means the usual places.
    pub endpoints: Vec<PathBuf>,
    /// Level and format of log lines.
    pub log: LogSettings,
    /// The file's path on the node, for reading it again; `None` if it is not in the file.
    pub settings_file: Option<PathBuf>,
    /// A digest of the file's text.
    pub digest: String,
    /// Problems of the file, a sentence each.
    pub problems: Vec<String>,
}

// === impl PluginSettings ===

impl PluginSettings {
    /// The settings for missing or unreadable values.
    fn safe() -> PluginSettings {
        let config = Config::default();
        PluginSettings {
            rules: Rules {
                owner: OwnerPolicy::ProcessUser,
                minimum_host_id: HostId(config.delegation.minimum_host_id.value),
                observe_only: false,
            },
            limits: Limits::DEFAULT,
            adjust: AdjustRules {
                namespaces: config.opt_in.namespaces.value,
                privileged_cgroup_namespace: config.delegation.privileged_cgroup_namespace.value,
            },
            guard: GuardPolicy::default(),
            endpoints: Vec::new(),
            log: LogSettings { level: LogLevel::Info, format: LogFormat::Text },
            settings_file: None,
            digest: String::new(),
            problems: Vec::new(),
        }
    }

    /// Reads the file's text, key by key.
    #[must_use]
    pub fn parse(text: &str) -> PluginSettings {
        let mut problems = Vec::new();
        let mut good = Map::new();
        let mut settings_file = None;
        let mut may_change = true;
        let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        let sections = if text.lines().all(is_blank) {
            Map::new()
        } else {
            serde_saphyr::from_str::<Map<String, Value>>(text).unwrap_or_else(|error| {
                let error = chain(&error);
                let first = error.lines().next().unwrap_or_default();
                problems.push(format!("the settings are not YAML ({first}); no pod may ask until they are"));
                Map::from_iter([("optIn".to_owned(), json!({"namespaces": []}))])
            })
        };
        let known = PluginConfig::of(&Config::default()).sections;
        for (section, keys) in sections {
            if section == SETTINGS_FILE {
                settings_file = keys.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
                continue;
            }
            let of_section = known.iter().find(|(name, _)| *name == section).map(|(_, keys)| keys);
            let (Some(of_section), Value::Object(keys)) = (of_section, keys) else {
                problems.push(format!("the settings' section {section:?} is not known here; ignored"));
                continue;
            };
            for (key, value) in keys {
                let name = format!("{section}.{key}");
                if !of_section.iter().any(|(known, _)| *known == key) {
                    problems.push(format!("the setting {name} is not known here; ignored"));
                    continue;
                }
                if name == "delegation.mechanism" {
                    match one_of::<Mechanism>(value.as_str().unwrap_or_default()) {
                        Ok(mechanism) => may_change = mechanism != Mechanism::None,
                        Err(remedy) => problems.push(format!("the setting {name} is {value}; {remedy}")),
                    }
                    continue;
                }
                let value = match check(&section, &key, &value) {
                    Ok(()) => value,
                    // The namespaces were restricted, but the list is unreadable: none may opt in.
                    Err(error) if name == "optIn.namespaces" => {
                        problems.push(format!("{error}; no pod may ask until it is"));
                        json!([])
                    }
                    Err(error) => {
                        problems.push(format!("{error}; its default holds"));
                        continue;
                    }
                };
                let section = good.entry(section.clone()).or_insert_with(|| json!({}));
                if let Some(section) = section.as_object_mut() {
                    section.insert(key, value);
                }
            }
        }
        let settings = Config::parse(&Value::Object(good).to_string(), Path::new(SETTINGS_FILE))
            .and_then(|config| Settings::of(config, None));
        let safe = PluginSettings { settings_file, digest: digest(text), ..PluginSettings::safe() };
        let mut read = match settings {
            Ok(settings) => PluginSettings {
                rules: settings.rules,
                limits: settings.limits,
                adjust: settings.adjust,
                guard: settings.guard,
                endpoints: settings.runtime.endpoints,
                log: settings.log,
                ..safe
            },
            // Each key was checked by itself before.
            Err(error) => {
                problems.push(format!("{error}; the defaults hold, and no pod may ask"));
                PluginSettings { adjust: AdjustRules { namespaces: vec![], ..safe.adjust.clone() }, ..safe }
            }
        };
        if !may_change {
            read.rules.observe_only = true;
            read.adjust = AdjustRules { namespaces: vec![], privileged_cgroup_namespace: false };
        }
        PluginSettings { problems: shortened(problems), ..read }
    }
}

/// The first problems, shortened: they are sent to the agent and shown on its page.
fn shortened(problems: Vec<String>) -> Vec<String> {
    problems.into_iter().take(PROBLEMS).map(|problem| problem.chars().take(PROBLEM).collect()).collect()
}

/// Whether the agent's configuration would accept this value for this key.
fn check(section: &str, key: &str, value: &Value) -> Result<(), String> {
    let one = json!({section: {key: value}});
    Config::parse(&one.to_string(), Path::new(SETTINGS_FILE))
        .and_then(|config| Settings::of(config, None))
        .map(drop)
        .map_err(|error| {
            let error = chain(&error);
            format!(
                "the setting {section}.{key} cannot be used ({})",
                error.lines().next().unwrap_or_default()
            )
        })
}

/// FNV-1a (64 bits): only distinguishes texts.
fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

// === impl PluginConfig ===

impl PluginConfig {
    /// The part of a configuration that the plugin needs. The plugin runs on the node itself, so paths lose the
    /// prefix at which the agent's container mounts the node.
    pub(super) fn of(config: &Config) -> PluginConfig {
        let root = &config.host.root.value;
        let on_the_node = |path: &String| match Path::new(path).strip_prefix(root) {
            Ok(rest) => format!("/{}", rest.display()),
            Err(_) => path.clone(),
        };
        let endpoints: Vec<String> = config.runtime.endpoints.value.iter().map(on_the_node).collect();
        let of_delegation = &config.delegation;
        PluginConfig {
            sections: vec![
                (
                    "delegation",
                    vec![
                        ("owner", value(&of_delegation.owner)),
                        ("mechanism", value(&of_delegation.mechanism)),
                        ("minimumHostId", value(&of_delegation.minimum_host_id)),
                        ("limits", value(&of_delegation.limits)),
                        ("privilegedCgroupNamespace", value(&of_delegation.privileged_cgroup_namespace)),
                    ],
                ),
                ("optIn", vec![("namespaces", value(&config.opt_in.namespaces))]),
                ("guard", vec![("policy", value(&config.guard.policy))]),
                ("runtime", vec![("endpoints", json!(endpoints))]),
                ("log", vec![("level", value(&config.log.level)), ("format", value(&config.log.format))]),
            ],
        }
    }

    /// The file's text; `settings_file` is its absolute path on the node.
    #[must_use]
    pub fn render(&self, settings_file: &str) -> String {
        nri_plugin::settings(settings_file, &self.keys())
    }

    /// The keys of the file, as YAML.
    #[must_use]
    pub fn keys(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            text.push_str(&format!("{section}:\n"));
            // JSON is valid YAML.
            keys.iter().for_each(|(key, value)| text.push_str(&format!("  {key}: {value}\n")));
        }
        text
    }
}

/// Strings, numbers, lists and plain structs: JSON can represent all of them.
fn value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_contains_the_agents_values_and_the_nodes_paths() {
        let text = "host: {root: /host}\nruntime: {endpoints: [/host/run/crio/crio.sock, /run/other.sock]}\n\
                    optIn: {namespaces: [\"team-*\"]}\ndelegation: {limits: {depth: 9}}\n";
        let config = Config::parse(text, Path::new("x.yaml")).unwrap();
        assert_eq!(
            PluginConfig::of(&config).render("/etc/nri/conf.d/90-usernsd.conf"),
            "# Written by usernsd; changes made here are lost.\n\
             # The launched plugin reads it when the runtime starts, and again when it changes.\n\
             settingsFile: \"/etc/nri/conf.d/90-usernsd.conf\"\n\
             delegation:\n  owner: \"process-user\"\n  mechanism: \"agent\"\n  minimumHostId: 65536\n  \
             limits: {\"depth\":9,\"descendants\":250}\n  privilegedCgroupNamespace: true\n\
             optIn:\n  namespaces: [\"team-*\"]\n\
             guard:\n  policy: \"refuse\"\n\
             runtime:\n  endpoints: [\"/run/crio/crio.sock\",\"/run/other.sock\"]\n\
             log:\n  level: \"info\"\n  format: \"text\"\n"
        );
    }

    #[test]
    fn the_plugin_reads_what_bootstrap_writes() {
        let text = "optIn: {namespaces: [\"team-*\"]}\ndelegation: {owner: root, minimumHostId: 100000, \
                    limits: {descendants: 10, depth: 9}, privilegedCgroupNamespace: false}\n\
                    guard: {policy: report}\nruntime: {endpoints: [/run/x.sock]}\nlog: {level: debug}\n";
        let config = Config::parse(text, Path::new("x.yaml")).unwrap();
        let agents = Settings::of(config.clone(), None).unwrap();
        let read =
            PluginSettings::parse(&PluginConfig::of(&config).render("/etc/nri/conf.d/90-usernsd.conf"));
        assert_eq!(read.problems, Vec::<String>::new());
        assert_eq!(read.settings_file.as_deref(), Some(Path::new("/etc/nri/conf.d/90-usernsd.conf")));
        assert_eq!((read.rules, read.limits, read.guard), (agents.rules, agents.limits, agents.guard));
        assert_eq!(
            (read.adjust, read.endpoints, read.log),
            (agents.adjust, agents.runtime.endpoints, agents.log)
        );
    }

    #[test]
    fn without_settings_the_defaults_apply() {
        let agents = Settings::of(Config::default(), None).unwrap();
        for text in ["", "  \n", "# nothing\nlog: {}\n"] {
            let read = PluginSettings::parse(text);
            assert_eq!(read.problems, Vec::<String>::new(), "{text:?}");
            assert_eq!((read.rules, read.limits, read.guard), (agents.rules, agents.limits, agents.guard));
            assert_eq!(read.adjust, agents.adjust);
        }
        assert_ne!(PluginSettings::parse("").digest, PluginSettings::parse("\n").digest);
    }

    #[test]
    fn an_unreadable_value_is_a_problem_and_replaced_by_a_safe_one() {
        let read = PluginSettings::parse(
            "waltz: {a: 1}\nguard: {policy: dance, colour: red}\noptIn: {namespaces: [\"A B\"]}\n\
             delegation: {limits: {depth: 7}, owner: 3}\nsettingsFile: x\n",
        );
        assert_eq!(read.guard, GuardPolicy::Refuse);
        assert_eq!(read.adjust.namespaces, Vec::<String>::new());
        assert_eq!(read.limits, Limits { depth: 7, ..Limits::DEFAULT });
        assert_eq!(read.settings_file, None);
        for words in ["\"waltz\"", "guard.policy", "guard.colour", "optIn.namespaces", "delegation.owner"] {
            assert_eq!(read.problems.iter().filter(|problem| problem.contains(words)).count(), 1, "{words}");
        }
        assert_eq!(read.problems.len(), 5);
        let many: String = (0..100).map(|number| format!("{}{number}: {{}}\n", "x".repeat(900))).collect();
        let many = PluginSettings::parse(&many).problems;
        assert_eq!((many.len(), many[0].chars().count()), (PROBLEMS, PROBLEM));
        let broken = PluginSettings::parse("{");
        assert_eq!((broken.adjust.namespaces.len(), broken.problems.len()), (0, 1));
    }

    #[test]
    fn a_plugin_with_mechanism_none_changes_nothing() {
        let read = PluginSettings::parse("delegation: {mechanism: none}");
        assert!(read.rules.observe_only && read.adjust.namespaces.is_empty());
        assert!(!read.adjust.privileged_cgroup_namespace);
        assert_eq!(read.problems, Vec::<String>::new());
        assert!(!PluginSettings::parse("delegation: {mechanism: systemd-user}").rules.observe_only);
    }

    /// Every key is also one of the agent's, so that it has the same meaning.
    #[test]
    fn the_agent_reads_every_key_but_the_files_own_path() {
        let text = PluginConfig::of(&Config::default()).render("/x");
        let keys: String = text.lines().filter(|line| !line.starts_with("settingsFile")).fold(
            String::new(),
            |mut all, line| {
                all.push_str(line);
                all.push('\n');
                all
            },
        );
        assert_eq!(Config::parse(&keys, Path::new("x")).map(|read| PluginConfig::of(&read)).ok(), {
            Some(PluginConfig::of(&Config::default()))
        });
    }
}
