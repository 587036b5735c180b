//! The configuration of the plugin that the container runtime launches: the part of the agent's
//! configuration on which its decisions depend, with the same keys.
//!
//! `usernsd bootstrap` writes it into the runtime's directory of plugin configurations, and the runtime
//! passes its text on in NRI's `Configure`.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::keys::Config;

/// The keys that the launched plugin shares with the agent, validated as the agent's are.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    sections: Vec<(&'static str, Vec<(&'static str, Value)>)>,
}

// === impl PluginConfig ===

impl PluginConfig {
    /// The part of a configuration that the plugin needs. The plugin runs on the node itself, so paths
    /// lose the prefix under which the agent's container mounts the node.
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

    /// The file's text; `settings_file` is the absolute path at which it will be on the node.
    #[must_use]
    pub fn render(&self, settings_file: &str) -> String {
        let mut text = format!(
            "# Written by usernsd; changes made here are lost.\n\
             # The launched plugin reads it when the runtime starts, and again when it changes.\n\
             settingsFile: {}\n",
            json!(settings_file)
        );
        for (section, keys) in &self.sections {
            text.push_str(&format!("{section}:\n"));
            // JSON is YAML.
            keys.iter().for_each(|(key, value)| text.push_str(&format!("  {key}: {value}\n")));
        }
        text
    }
}

/// Strings, numbers, lists and plain structs: there is nothing in them that JSON cannot hold.
fn value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_agents_values_and_the_nodes_paths() {
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

    /// Every key is one of the agent's, so that it cannot mean something else there.
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
