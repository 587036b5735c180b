//! The OCI hook for runtimes without NRI: the program's copy on the host, and the JSON with which CRI-O runs it for
//! every container (containers/common `docs/oci-hooks.5.md`, schema 1.0.0).
//!
//! A hook that fails keeps every container from starting, and malformed JSON keeps CRI-O from starting: so the
//! program is written before the JSON, and removed after it.

use super::finding::{Finding, FindingId};

/// Default path of the copy: it is writable on image-based hosts too, where `/usr` is not, and programs may be
/// executed there.
pub const PROGRAM: &str = "/var/lib/usernsd/bin/usernsd";

/// The JSON's file name.
pub const JSON_NAME: &str = "99-usernsd.json";

/// A directory for this hook alone, if the runtime reads hooks from no writable directory. Adding one of the known
/// directories instead would activate other programs' hooks for every pod, and CRI-O may not accept one of those.
pub const DIRECTORY: &str = "/etc/usernsd/hooks.d";

/// The runtime's hook directories that are writable, best first; `/usr/share/…` is the built-in one, and is read-only
/// on image-based hosts.
pub const DIRECTORIES: [&str; 4] = [
    DIRECTORY,
    "/etc/containers/oci/hooks.d",
    "/run/containers/oci/hooks.d",
    "/usr/share/containers/oci/hooks.d",
];

/// Whether the hook is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HookInstall {
    /// If the runtime has no NRI.
    #[default]
    Auto,
    /// Installed in any case.
    Always,
    /// No; an installed hook is removed.
    Never,
}

words! {
    /// The name in the configuration.
    HookInstall { Auto = "auto", Always = "always", Never = "never" }
}

/// The configuration for the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookOptions {
    /// Whether it is installed.
    pub install: HookInstall,
    /// The program's path on the host.
    pub program: String,
    /// The hooks directory; `None`: one that the runtime reads.
    pub directory: Option<String>,
    /// The configuration file for the hook; `None` for the defaults.
    pub config: Option<String>,
}

/// Seconds after which the runtime kills the hook, which needs some milliseconds.
const TIMEOUT: u32 = 5;

/// A file of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookFile {
    /// The path on the host.
    pub path: String,
    /// The permission bits.
    pub mode: u32,
    pub content: HookContent,
}

/// The contents of a file of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookContent {
    /// The binary of this program.
    Program,
    Text(String),
}

/// The files to write, in this order; they are removed in reverse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookPlan {
    pub files: Vec<HookFile>,
    /// Findings for the administrator.
    pub findings: Vec<Finding>,
}

/// Which containers the hook runs for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HookCondition {
    /// All containers; the hook itself decides on which ones it acts.
    #[default]
    Always,
    /// Containers of pods with an annotation whose name and value match these regular expressions.
    Annotation(String, String),
}

impl Default for HookOptions {
    fn default() -> HookOptions {
        HookOptions { install: HookInstall::Auto, program: PROGRAM.to_owned(), directory: None, config: None }
    }
}

/// The directories, if one of them is writable on the node and persists across reboots; otherwise with [`DIRECTORY`]
/// added.
#[must_use]
pub fn with_writable(directories: &[String]) -> Vec<String> {
    let is_good = |dir: &String| !dir.starts_with("/usr/") && !dir.starts_with("/run/");
    let mut all = directories.to_vec();
    if !all.iter().any(is_good) {
        all.push(DIRECTORY.to_owned());
    }
    all
}

/// Plans the hook's installation.
///
/// `program` is an absolute path on the host; `directories` are the runtime's `hooks_dir`.
#[must_use]
pub fn plan(program: &str, config: Option<&str>, directories: &[String], when: &HookCondition) -> HookPlan {
    let mut findings = Vec::new();
    if !is_plain(program) {
        let what = format!("{program:?} is no absolute path that a hook can name");
        findings.push(Finding::error(FindingId::OciHook, what, "name another one"));
        return HookPlan { files: Vec::new(), findings };
    }
    let listed = |directory: &&&str| directories.iter().any(|dir| dir.trim_end_matches('/') == **directory);
    let chosen = DIRECTORIES.iter().find(listed).map(|directory| (*directory).to_owned());
    let Some(directory) = chosen.or_else(|| directories.first().cloned()) else {
        let what = "the runtime looks into no hooks directory".to_owned();
        let remedy = format!("set hooks_dir = [\"{}\"] for it", DIRECTORY);
        findings.push(Finding::warning(FindingId::OciHook, what, &remedy));
        return HookPlan { files: Vec::new(), findings };
    };
    if directory.starts_with("/usr/") {
        let what = format!("the hook goes to {directory}, which is read-only on image-based hosts");
        let remedy = format!("add {} to hooks_dir", DIRECTORY);
        findings.push(Finding::warning(FindingId::OciHook, what, &remedy));
    }
    if directory.starts_with("/run/") {
        let what = format!("the hook goes to {directory}, which is empty after a reboot");
        let remedy = format!("add {} to hooks_dir", DIRECTORY);
        findings.push(Finding::warning(FindingId::OciHook, what, &remedy));
    }
    let json = HookFile {
        path: format!("{}/{JSON_NAME}", directory.trim_end_matches('/')),
        mode: 0o644,
        content: HookContent::Text(json(program, config, when)),
    };
    let program = HookFile { path: program.to_owned(), mode: 0o755, content: HookContent::Program };
    HookPlan { files: vec![program, json], findings }
}

/// The hook's JSON.
#[must_use]
pub fn json(program: &str, config: Option<&str>, when: &HookCondition) -> String {
    let when = match when {
        HookCondition::Always => "\"always\": true".to_owned(),
        HookCondition::Annotation(name, value) => {
            format!("\"annotations\": {{ {}: {} }}", quote(name), quote(value))
        }
    };
    let program = quote(program);
    let config = config.map(|path| format!(", \"--config\", {}", quote(path))).unwrap_or_default();
    format!(
        "{{\n  \"version\": \"1.0.0\",\n  \"hook\": {{\n    \"path\": {program},\n    \
         \"args\": [\"usernsd\", \"hook\"{config}],\n    \"timeout\": {TIMEOUT}\n  }},\n  \
         \"when\": {{ {when} }},\n  \"stages\": [\"createRuntime\"]\n}}\n"
    )
}

fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains(char::is_control)
        && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
}

/// A JSON string (RFC 8259, section 7).
fn quote(text: &str) -> String {
    let escape = |character: char| match character {
        '"' | '\\' => format!("\\{character}"),
        control if u32::from(control) < 0x20 => format!("\\u{:04x}", u32::from(control)),
        other => other.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dirs(list: &[&str]) -> Vec<String> {
        list.iter().map(|dir| (*dir).to_owned()).collect()
    }

    #[test]
    fn a_writable_directory_is_added_if_there_is_none() {
        for (directories, want) in [
            (&["/usr/share/containers/oci/hooks.d"][..], &[DIRECTORIES[3], DIRECTORY][..]),
            (&[], &[DIRECTORY]),
            (&["/run/containers/oci/hooks.d"], &[DIRECTORIES[2], DIRECTORY]),
            (&["/etc/containers/oci/hooks.d"], &[DIRECTORIES[1]]),
            (&["/opt/hooks"], &["/opt/hooks"]),
            (&DIRECTORIES, &DIRECTORIES),
        ] {
            assert_eq!(with_writable(&dirs(directories)), want);
        }
        let text = json(PROGRAM, Some("/etc/usernsd.yaml"), &HookCondition::Always);
        assert!(text.contains(r#""args": ["usernsd", "hook", "--config", "/etc/usernsd.yaml"],"#), "{text}");
    }

    #[test]
    fn the_hooks_json_is_rendered_in_full() {
        assert_eq!(
            json(PROGRAM, None, &HookCondition::Always),
            r#"{
  "version": "1.0.0",
  "hook": {
    "path": "/var/lib/usernsd/bin/usernsd",
    "args": ["usernsd", "hook"],
    "timeout": 5
  },
  "when": { "always": true },
  "stages": ["createRuntime"]
}
"#
        );
        let some = HookCondition::Annotation("^usernsd\\.io/".into(), ".*".into());
        assert!(
            json(PROGRAM, None, &some).contains(r#""when": { "annotations": { "^usernsd\\.io/": ".*" } }"#)
        );
    }

    #[test]
    fn the_hook_is_in_a_directory_that_is_read_and_writable() {
        for (directories, want, warned) in [
            (
                &["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d/"][..],
                "/etc/containers",
                false,
            ),
            (&["/run/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"], "/etc/containers", false),
            (&["/usr/share/containers/oci/hooks.d", DIRECTORY], DIRECTORY, false),
            (&["/usr/share/containers/oci/hooks.d"], "/usr/share", true),
            (&["/run/containers/oci/hooks.d"], "/run", true),
            (&["/opt/hooks"], "/opt/hooks/99-usernsd.json", false),
        ] {
            let plan = plan(PROGRAM, None, &dirs(directories), &HookCondition::Always);
            // The program first: the JSON takes effect at once.
            assert_eq!(plan.files[0].content, HookContent::Program);
            assert_eq!(plan.files[0].mode, 0o755);
            assert!(plan.files[1].path.starts_with(want), "{plan:?}");
            assert_eq!(!plan.findings.is_empty(), warned, "{plan:?}");
        }
        assert!(plan(PROGRAM, None, &[], &HookCondition::Always).files.is_empty());
        for program in ["usernsd", "/", "/a//b", "/a/../b", "/a\nb", ""] {
            assert!(
                plan(program, None, &dirs(&DIRECTORIES), &HookCondition::Always).files.is_empty(),
                "{program:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_hooks_file_is_json_for_any_path(program in any::<String>(), name in any::<String>(), value in any::<String>()) {
            let text = json(&program, Some("/etc/u \"x"), &HookCondition::Annotation(name, value));
            // Without escaped quotes, quotes come in pairs, and no raw control character is left.
            let bare = text.replace("\\\\", "").replace("\\\"", "");
            prop_assert_eq!(bare.matches('"').count() % 2, 0);
            prop_assert!(!text.chars().any(|c| u32::from(c) < 0x20 && c != '\n'));
        }
    }
}
