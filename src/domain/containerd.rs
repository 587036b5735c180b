//! containerd: is NRI on, and what may be written so that it is.
//!
//! Since 2.0 NRI is on unless someone switched it off; in 1.7 it is off unless switched on
//! (containerd `docs/NRI.md`). `cgroup_writable` is left as it is: it holds for every pod of a
//! runtime handler, and this agent decides by pod.

use std::fmt;

use thiserror::Error;

use super::finding::Finding;
use super::toml::{Table, Value, get, line, table_at};

/// The main file.
pub const MAIN_FILE: &str = "/etc/containerd/config.toml";

/// The usual `imports`.
pub const IMPORTS: &str = "/etc/containerd/conf.d/*.toml";

/// The drop-in's name, in a directory of which the main file imports every `.toml`.
const NAME: &str = "99-usernsd.toml";

/// A version of containerd, as far as anything depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The major version.
    pub major: u16,
    /// The minor version.
    pub minor: u16,
}

/// Why a text is no version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a version of containerd such as 2.1.4")]
pub struct ReleaseError(String);

/// The main file's parts that matter here.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerdConf {
    /// `version`: 1, 2 (1.x) or 3 (2.x); 1 where it is not set.
    pub version: i64,
    /// `imports`.
    pub imports: Vec<String>,
    /// `disable` of the NRI plugin, where it is set.
    pub nri_disabled: Option<bool>,
    /// `disabled_plugins` names it.
    pub nri_plugin_off: bool,
    /// The other keys of the NRI plugin's table: a table in a drop-in takes the place of the whole.
    pub nri_keys: Table,
}

/// What is to become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerdPlan {
    /// The drop-in's path and text; `None` where there is nothing to write, or no way to.
    pub drop_in: Option<(String, String)>,
    /// What a person has to do instead, and what is noted.
    pub findings: Vec<Finding>,
}

/// The NRI plugin's name as `disabled_plugins` and `[plugins]` write it.
const NRI: &str = "io.containerd.nri.v1.nri";

// === impl Release ===

impl Release {
    /// Reads `2.1`, `2.1.9+unknown`, `v1.7.24`, and the line of `containerd --version`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Release, ReleaseError> {
        let refuse = || ReleaseError(text.chars().take(80).collect());
        let line = text.trim().lines().next().unwrap_or_default();
        // "containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7".
        let word = match line.strip_prefix("containerd ") {
            Some(rest) => rest.split_ascii_whitespace().nth(1).ok_or_else(refuse)?,
            None => line,
        };
        let mut parts = word.strip_prefix('v').unwrap_or(word).splitn(3, '.');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(refuse);
        Ok(Release { major: number()?, minor: number()? })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

// === impl ContainerdConf ===

impl ContainerdConf {
    /// Reads the main file's table; `None` stands for no file, which is legal.
    #[must_use]
    pub fn of(table: Option<&Table>) -> ContainerdConf {
        let empty = Table::new();
        let table = table.unwrap_or(&empty);
        let texts = |key| get(table, key).and_then(Value::texts).unwrap_or_default();
        let nri = table_at(table, &["plugins", NRI]);
        ContainerdConf {
            version: match get(table, "version") {
                Some(Value::Integer(version)) => *version,
                _ => 1,
            },
            imports: texts("imports"),
            nri_disabled: match nri.and_then(|nri| get(nri, "disable")) {
                Some(Value::Bool(disabled)) => Some(*disabled),
                _ => None,
            },
            nri_plugin_off: texts("disabled_plugins").iter().any(|plugin| plugin == NRI || plugin == "nri"),
            nri_keys: nri
                .into_iter()
                .flatten()
                .filter(|(key, _)| !key.eq_ignore_ascii_case("disable"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }
    }

    /// Where a drop-in is read: the first imported directory, all of whose `.toml` files are. Not one
    /// whose files are all read: half-written ones, which have other names, would be too.
    /// Relative imports are below the main file's directory.
    fn drop_in_path(&self) -> Option<String> {
        let directory = |pattern: &String| {
            let directory = pattern.strip_suffix("/*.toml")?;
            let plain = !directory.is_empty() && !directory.contains(['*', '?', '[', '\\']);
            let base = if directory.starts_with('/') { "" } else { "/etc/containerd/" };
            plain.then(|| format!("{base}{directory}/{NAME}"))
        };
        self.imports.iter().find_map(directory)
    }
}

/// Plans what makes NRI available.
///
#[must_use]
pub fn plan(release: Release, conf: &ContainerdConf) -> ContainerdPlan {
    let mut findings = Vec::new();
    let by_default = release >= Release { major: 2, minor: 0 };
    if release < (Release { major: 1, minor: 7 }) {
        let what = format!("containerd {release} has no NRI");
        findings.push(Finding::warning(
            "containerd-nri",
            what,
            "install the OCI hook, or update to 2.0 or later",
        ));
        return ContainerdPlan { drop_in: None, findings };
    }
    if conf.nri_plugin_off {
        let what = format!("{MAIN_FILE} lists {NRI} under disabled_plugins, so NRI stays off");
        findings.push(Finding::warning(
            "containerd-nri",
            what,
            "take it out of that list and restart containerd",
        ));
        return ContainerdPlan { drop_in: None, findings };
    }
    if conf.nri_disabled == Some(false) || (conf.nri_disabled.is_none() && by_default) {
        return ContainerdPlan { drop_in: None, findings };
    }
    let text = drop_in(conf);
    if conf.nri_disabled == Some(true) && by_default {
        // Someone wants it so.
        let what = format!("{MAIN_FILE} switches NRI off");
        findings.push(Finding::warning(
            "containerd-nri",
            what,
            "set disable = false there, restart containerd",
        ));
        return ContainerdPlan { drop_in: None, findings };
    }
    match text.map(|text| (conf.drop_in_path(), text)) {
        Some((Some(path), text)) => ContainerdPlan { drop_in: Some((path, text)), findings },
        Some((None, text)) => {
            // `imports` is a list of the main file: adding to it would mean editing that file.
            let what = format!("{MAIN_FILE} imports no {IMPORTS}, so a file there would not be read");
            let settings: Vec<&str> =
                text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
            let remedy = format!("add imports = [\"{IMPORTS}\"] at its top, or add: {}", settings.join("  "));
            findings.push(Finding::warning("containerd-nri", what, &remedy));
            ContainerdPlan { drop_in: None, findings }
        }
        None => {
            let what = format!("{MAIN_FILE} is missing, or of version {}, which knows no NRI", conf.version);
            let remedy = "write one of version 2: containerd config migrate, or, where there is none, containerd config default";
            findings.push(Finding::warning("containerd-nri", what, remedy));
            ContainerdPlan { drop_in: None, findings }
        }
    }
}

/// The drop-in in the main file's own version: containerd refuses to mix them.
fn drop_in(conf: &ContainerdConf) -> Option<String> {
    let version = conf.version;
    let others: String = conf.nri_keys.iter().map(|(key, value)| line(key, value)).collect();
    matches!(version, 2 | 3).then(|| {
        format!(
            "# Written by usernsd; changes made here are lost.\n\
             # containerd reads it when it starts.\n\
             version = {version}\n\n\
             [plugins.\"{NRI}\"]\n\
             disable = false\n{others}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE_1_7: Release = Release { major: 1, minor: 7 };

    fn conf(version: i64, imports: &[&str], disabled: Option<bool>) -> ContainerdConf {
        ContainerdConf {
            version,
            imports: imports.iter().map(|import| (*import).to_owned()).collect(),
            nri_disabled: disabled,
            nri_plugin_off: false,
            nri_keys: Table::new(),
        }
    }

    #[test]
    fn reads_the_main_file() {
        let nri = Value::Table([("disable".to_owned(), Value::Bool(true))].into());
        let table: Table = [
            ("version".to_owned(), Value::Integer(2)),
            ("imports".to_owned(), Value::list(["/etc/containerd/conf.d/*.toml"])),
            ("plugins".to_owned(), Value::Table([(NRI.to_owned(), nri)].into())),
        ]
        .into();
        let read = ContainerdConf::of(Some(&table));
        assert_eq!(read, conf(2, &["/etc/containerd/conf.d/*.toml"], Some(true)));
        assert_eq!(ContainerdConf::of(None), conf(1, &[], None));
        let off: Table = [("disabled_plugins".to_owned(), Value::list([NRI]))].into();
        assert!(ContainerdConf::of(Some(&off)).nri_plugin_off);
    }

    /// w: a drop-in is written; f: a finding says what to do; -: all is well.
    #[test]
    fn plans_by_version_and_file() {
        let ours = &[IMPORTS][..];
        for (release, conf, want) in [
            ((1, 6), conf(2, ours, None), "f"),
            ((1, 7), conf(2, ours, None), "w"),
            ((1, 7), conf(2, ours, Some(true)), "w"),
            ((1, 7), conf(2, ours, Some(false)), "-"),
            ((1, 7), conf(2, &["conf.d/*.toml"], None), "w"),
            ((1, 7), conf(2, &[], None), "f"),
            ((1, 7), conf(2, &["/etc/other/*.toml"], None), "w"),
            ((1, 7), conf(2, &["/etc/*/x/*.toml", "/etc/one.toml", "/*", "/etc/x/*"], None), "f"),
            ((1, 7), conf(1, ours, None), "f"),
            ((2, 0), conf(3, &[], None), "-"),
            ((2, 0), conf(2, &[], None), "-"),
            ((2, 1), conf(3, ours, Some(true)), "f"),
            ((2, 2), conf(3, ours, Some(false)), "-"),
            ((2, 2), ContainerdConf { nri_plugin_off: true, ..conf(3, ours, None) }, "f"),
        ] {
            let plan = plan(Release { major: release.0, minor: release.1 }, &conf);
            let found = match (&plan.drop_in, plan.findings.is_empty()) {
                (Some(_), true) => "w",
                (None, false) => "f",
                (None, true) => "-",
                (Some(_), false) => "both",
            };
            assert_eq!(found, want, "{release:?} {conf:?}");
            assert!(plan.findings.iter().all(|finding| !finding.remedy.is_empty()));
        }
    }

    #[test]
    fn reads_versions() {
        for (text, major, minor) in [
            ("2.1", 2, 1),
            ("2.1.9+unknown", 2, 1),
            ("v1.7.24", 1, 7),
            ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7", 2, 1),
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n", 1, 6),
        ] {
            assert_eq!(Release::parse(text), Ok(Release { major, minor }), "{text}");
        }
        for text in ["", "2", "containerd", "containerd x", "a.b"] {
            assert!(Release::parse(text).is_err(), "{text}");
        }
    }

    /// containerd puts a drop-in's table of a plugin in the place of the main file's.
    #[test]
    fn keeps_the_other_keys_of_the_table() {
        let keys = [("socket_path".to_owned(), Value::Text("/run/other.sock".into()))];
        let conf = ContainerdConf { nri_keys: keys.into(), ..conf(2, &[IMPORTS], Some(true)) };
        let (_, text) = plan(RELEASE_1_7, &conf).drop_in.unwrap();
        assert!(text.ends_with("disable = false\nsocket_path = \"/run/other.sock\"\n"), "{text}");
    }

    #[test]
    fn keeps_the_main_files_version() {
        for version in [2, 3] {
            let (path, text) = plan(RELEASE_1_7, &conf(version, &["conf.d/*.toml"], None)).drop_in.unwrap();
            assert_eq!(path, "/etc/containerd/conf.d/99-usernsd.toml");
            assert!(text.contains(&format!("\nversion = {version}\n")), "{text}");
            assert!(text.contains("[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\n"), "{text}");
        }
    }
}
