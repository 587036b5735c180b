//! A node's files, units and kernel arguments as a MachineConfig, and for other nodes as Butane, cloud-init or a
//! shell script.
//!
//! The Machine Config Operator accepts files and units of Ignition 3.1 to 3.5, modes up to 0777, and contents as data
//! URLs, plain or gzip; but neither `append` nor links, directories or users (machine-config-operator
//! `pkg/controller/common`).

pub mod bytes;
pub mod elsewhere;
pub mod install;

use std::fmt::Write as _;

use self::bytes::base64;

/// A version of the Ignition specification that the operator accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignition {
    /// 3.1.0, OpenShift 4.6 and 4.7.
    V3_1,
    /// 3.2.0, OpenShift 4.8 to 4.13.
    V3_2,
    /// 3.3.0
    V3_3,
    /// 3.4.0, OpenShift 4.14 to 4.18.
    V3_4,
    /// 3.5.0, OpenShift 4.19 and later.
    V3_5,
}

/// How a file's content is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEncoding {
    Plain,
    /// Compressed: these bytes.
    Gzip(Vec<u8>),
}

/// A file to be written on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFile {
    /// The absolute path.
    pub path: String,
    /// The permission bits; `None` is Ignition's default, 0644.
    pub mode: Option<u32>,
    pub content: Vec<u8>,
    /// How the content is encoded.
    pub encoding: FileEncoding,
}

/// A systemd unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUnit {
    pub name: String,
    /// Whether it is enabled, so that it starts at boot.
    pub enabled: bool,
    /// The unit's text; `None` if the unit exists on the node already.
    pub text: Option<String>,
}

/// The configuration of the nodes of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The object's name.
    pub name: String,
    /// The machine config pool: worker, master, arbiter or a custom one.
    pub role: String,
    /// The Ignition version of files and units.
    pub ignition: Ignition,
    /// Kernel arguments; changing them reboots the node.
    pub kernel_arguments: Vec<String>,
    pub files: Vec<NodeFile>,
    pub units: Vec<NodeUnit>,
}

/// The operator's actions in place of a reboot when a file changes (NodeDisruptionPolicy, generally available
/// in OpenShift 4.17).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePolicy {
    /// The file's path.
    pub path: String,
    /// The actions, in order.
    pub actions: Vec<FileAction>,
}

/// An action of the operator after a file has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileAction {
    None,
    /// Drain the node first.
    Drain,
    /// Restart that unit.
    Restart(String),
}

// === impl Ignition ===

words! {
    /// The version in the document.
    Ignition { V3_1 = "3.1.0", V3_2 = "3.2.0", V3_3 = "3.3.0", V3_4 = "3.4.0", V3_5 = "3.5.0" }
}

impl Ignition {
    /// Parses `3.4.0` or `3.4`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Ignition> {
        Ignition::ALL
            .into_iter()
            .find(|one| one.name() == text || one.name().strip_suffix(".0") == Some(text))
    }
}

// === impl NodeFile ===

impl NodeFile {
    /// A text file without compression, with mode 0644.
    #[must_use]
    pub fn text(path: &str, text: String) -> NodeFile {
        let content = text.into_bytes();
        NodeFile { path: path.to_owned(), mode: Some(0o644), content, encoding: FileEncoding::Plain }
    }

    /// The content as a data URL.
    #[must_use]
    pub fn source(&self) -> String {
        match &self.encoding {
            // RFC 2397; the text before the comma is that of the demonstration of 2021.
            FileEncoding::Plain => format!("data:text/plain;charset=utf-8;base64,{}", base64(&self.content)),
            FileEncoding::Gzip(packed) => format!("data:;base64,{}", base64(packed)),
        }
    }
}

// === impl NodeConfig ===

impl NodeConfig {
    /// The MachineConfig document.
    #[must_use]
    pub fn machine_config(&self) -> String {
        let mut out = Out(String::new());
        out.line(0, "apiVersion: machineconfiguration.openshift.io/v1");
        out.line(0, "kind: MachineConfig");
        out.line(0, "metadata:");
        out.line(1, "labels:");
        out.line(2, &format!("machineconfiguration.openshift.io/role: {}", scalar(&self.role)));
        out.line(1, &format!("name: {}", scalar(&self.name)));
        out.line(0, "spec:");
        if !self.kernel_arguments.is_empty() {
            out.line(1, "kernelArguments:");
            for argument in &self.kernel_arguments {
                out.line(2, &format!("- {}", scalar(argument)));
            }
        }
        out.line(1, "config:");
        out.line(2, "ignition:");
        out.line(3, &format!("version: {}", self.ignition.name()));
        if !self.files.is_empty() {
            out.line(2, "storage:");
            out.line(3, "files:");
        }
        for file in &self.files {
            out.line(3, &format!("- path: {}", scalar(&file.path)));
            if let Some(mode) = file.mode {
                out.line(4, &format!("mode: {mode}"));
            }
            out.line(4, "overwrite: true");
            out.line(4, "contents:");
            if let FileEncoding::Gzip(_) = file.encoding {
                out.line(5, "compression: gzip");
            }
            out.line(5, &format!("source: {}", file.source()));
        }
        if !self.units.is_empty() {
            out.line(2, "systemd:");
            out.line(3, "units:");
        }
        for unit in &self.units {
            out.line(3, &format!("- name: {}", scalar(&unit.name)));
            out.line(4, &format!("enabled: {}", unit.enabled));
            if let Some(text) = &unit.text {
                out.text(4, "contents", text);
            }
        }
        out.0
    }
}

/// The document with the disruption policies. The object exists in the cluster and is patched, not created: `oc patch
/// --type=merge`, or `oc apply --server-side`.
#[must_use]
pub fn disruption_policy(policies: &[FilePolicy]) -> String {
    let mut out = Out(String::new());
    out.line(0, "apiVersion: operator.openshift.io/v1");
    out.line(0, "kind: MachineConfiguration");
    out.line(0, "metadata:");
    out.line(1, "name: cluster");
    out.line(0, "spec:");
    out.line(1, "nodeDisruptionPolicy:");
    out.line(2, "files:");
    for policy in policies {
        out.line(2, &format!("- path: {}", scalar(&policy.path)));
        out.line(3, "actions:");
        for action in &policy.actions {
            match action {
                FileAction::None => out.line(3, "- type: None"),
                FileAction::Drain => out.line(3, "- type: Drain"),
                FileAction::Restart(unit) => {
                    out.line(3, "- type: Restart");
                    out.line(4, "restart:");
                    out.line(5, &format!("serviceName: {}", scalar(unit)));
                }
            }
        }
    }
    out.0
}

/// A text that is written line by line, with two spaces of indentation per level.
struct Out(String);

impl Out {
    fn line(&mut self, level: usize, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{:indent$}{text}", "", indent = 2 * level);
    }

    /// Writes a literal block, or a quoted line if a block cannot represent the text.
    fn text(&mut self, level: usize, key: &str, text: &str) {
        if !is_block(text) {
            return self.line(level, &format!("{key}: {}", quote(text)));
        }
        self.line(level, &format!("{key}: |"));
        for line in text.lines() {
            if line.is_empty() {
                self.0.push('\n');
            } else {
                self.line(level + 1, line);
            }
        }
    }
}

/// Whether a literal block represents exactly this text: it ends in one line break, does not begin with a space or an
/// empty line, and contains no character that YAML cannot print.
fn is_block(text: &str) -> bool {
    let printable =
        |c: char| matches!(c, '\n' | '\t' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}');
    text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\t', '\n'])
        && text.chars().all(printable)
        && !text.contains(['\u{2028}', '\u{2029}'])
        && text.lines().all(|line| line.trim() == line.trim_end() || line.starts_with([' ', '\t']))
}

/// A plain scalar if YAML reads it as this very string, otherwise a quoted one.
fn scalar(text: &str) -> String {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    // "99-worker" is neither a number nor a date.
    let numbered = text.split_once('-').is_some_and(|(number, word)| {
        !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && word.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
    });
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-=\"@,+".contains(&byte));
    let word = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let plain = (first || numbered) && rest && !word.iter().any(|word| text.eq_ignore_ascii_case(word));
    if plain { text.to_owned() } else { quote(text) }
}

/// A double-quoted scalar (YAML 1.2, section 7.3.1); its escapes are a superset of JSON's.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            other => {
                let _ = write!(out, "\\U{:08X}", u32::from(other));
            }
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_stay_strings() {
        for (text, want) in [
            ("cgroup_no_v1=\"all\"", "cgroup_no_v1=\"all\""),
            ("/etc/subuid", "/etc/subuid"),
            ("no", "\"no\""),
            ("99-worker-usernsd", "99-worker-usernsd"),
            ("2026-11-21", "\"2026-11-21\""),
            ("-x", "\"-x\""),
            ("1.5", "\"1.5\""),
            ("a: b", "\"a: b\""),
            ("", "\"\""),
            ("a\nb\u{7}", "\"a\\nb\\U00000007\""),
        ] {
            assert_eq!(scalar(text), want);
        }
    }

    #[test]
    fn a_machine_config_contains_every_part() {
        let config = NodeConfig {
            name: "99-x".into(),
            role: "worker".into(),
            ignition: Ignition::V3_5,
            kernel_arguments: Vec::new(),
            files: vec![NodeFile {
                encoding: FileEncoding::Gzip(vec![1, 2]),
                ..NodeFile::text("/etc/x", "y".into())
            }],
            units: vec![NodeUnit {
                name: "u.service".into(),
                enabled: true,
                text: Some("[Unit]\n\nX=1\n".into()),
            }],
        };
        let text = config.machine_config();
        for part in [
            "name: 99-x\n",
            "      version: 3.5.0\n",
            "      - path: /etc/x\n        mode: 420\n        overwrite: true\n        contents:\n          \
             compression: gzip\n          source: data:;base64,AQI=\n",
            "    systemd:\n      units:\n      - name: u.service\n        enabled: true\n        contents: |\n          \
             [Unit]\n\n          X=1\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("kernelArguments"));
    }

    #[test]
    fn a_disruption_policy_is_rendered_in_full() {
        let policy = FilePolicy {
            path: "/x".into(),
            actions: vec![FileAction::Drain, FileAction::Restart("crio.service".into())],
        };
        let none = FilePolicy { path: "/y".into(), actions: vec![FileAction::None] };
        assert_eq!(
            disruption_policy(&[policy, none]),
            "apiVersion: operator.openshift.io/v1\nkind: MachineConfiguration\nmetadata:\n  name: cluster\nspec:\n  \
             nodeDisruptionPolicy:\n    files:\n    - path: /x\n      actions:\n      - type: Drain\n      - type: Restart\n        \
             restart:\n          serviceName: crio.service\n    - path: /y\n      actions:\n      - type: None\n"
        );
    }

    #[test]
    fn versions_of_ignition_are_parsed() {
        for one in Ignition::ALL {
            assert_eq!(Ignition::parse(one.name()), Some(one));
        }
        assert_eq!(Ignition::parse("3.4"), Some(Ignition::V3_4));
        for text in ["", "3", "3.0", "3.6.0", "2.2.0"] {
            assert_eq!(Ignition::parse(text), None, "{text}");
        }
    }
}
