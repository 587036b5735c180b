//! containerd: is NRI on, and what may be written so that it is.
//!
//! Since 2.0 NRI is on unless someone switched it off; in 1.7 it is off unless switched on
//! (containerd `docs/NRI.md`). `cgroup_writable` is left as it is: it holds for every pod of a
//! runtime handler, and this agent decides by pod.

use super::finding::Finding;
use super::toml::{Table, Value, get, table_at};

/// The main file.
pub const MAIN_FILE: &str = "/etc/containerd/config.toml";

/// The usual `imports`.
pub const IMPORTS: &str = "/etc/containerd/conf.d/*.toml";

/// The drop-in's name, in a directory of which the main file imports every `.toml`.
const NAME: &str = "99-usernsd.toml";

/// The main file's parts that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerdConf {
    /// `version`: 1, 2 (1.x) or 3 (2.x); 1 where it is not set.
    pub version: i64,
    /// `imports`.
    pub imports: Vec<String>,
    /// `disable` of the NRI plugin, where it is set.
    pub nri_disabled: Option<bool>,
    /// `disabled_plugins` names it.
    pub nri_plugin_off: bool,
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
        }
    }

    /// Where a drop-in is read: the first imported directory, all of whose `.toml` files are.
    /// Relative imports are below the main file's directory.
    fn drop_in_path(&self) -> Option<String> {
        let directory = |pattern: &String| {
            let directory = pattern.strip_suffix("/*.toml").or_else(|| pattern.strip_suffix("/*"))?;
            let plain = !directory.is_empty() && !directory.contains(['*', '?', '[', '\\']);
            let base = if directory.starts_with('/') { "" } else { "/etc/containerd/" };
            plain.then(|| format!("{base}{directory}/{NAME}"))
        };
        self.imports.iter().find_map(directory)
    }
}

/// Plans what makes NRI available.
///
/// `release` is containerd's minor version as (major, minor), over CRI's `Version`.
#[must_use]
pub fn plan(release: (u16, u16), conf: &ContainerdConf) -> ContainerdPlan {
    let mut findings = Vec::new();
    let by_default = release >= (2, 0);
    if release < (1, 7) {
        let what = format!("containerd {}.{} has no NRI", release.0, release.1);
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
    let text = drop_in(conf.version);
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
            let what = format!("{MAIN_FILE} is of version {}, which knows no NRI", conf.version);
            findings.push(Finding::warning("containerd-nri", what, "migrate it: containerd config migrate"));
            ContainerdPlan { drop_in: None, findings }
        }
    }
}

/// The drop-in in the main file's own version: containerd refuses to mix them.
fn drop_in(version: i64) -> Option<String> {
    matches!(version, 2 | 3).then(|| {
        format!(
            "# Written by usernsd; changes made here are lost.\n\
             # containerd reads it when it starts.\n\
             version = {version}\n\n\
             [plugins.\"{NRI}\"]\n\
             disable = false\n"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(version: i64, imports: &[&str], disabled: Option<bool>) -> ContainerdConf {
        ContainerdConf {
            version,
            imports: imports.iter().map(|import| (*import).to_owned()).collect(),
            nri_disabled: disabled,
            nri_plugin_off: false,
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
            ((1, 7), conf(2, &["/etc/*/x/*.toml", "/etc/one.toml", "/*"], None), "f"),
            ((1, 7), conf(1, ours, None), "f"),
            ((2, 0), conf(3, &[], None), "-"),
            ((2, 0), conf(2, &[], None), "-"),
            ((2, 1), conf(3, ours, Some(true)), "f"),
            ((2, 2), conf(3, ours, Some(false)), "-"),
            ((2, 2), ContainerdConf { nri_plugin_off: true, ..conf(3, ours, None) }, "f"),
        ] {
            let plan = plan(release, &conf);
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
    fn keeps_the_main_files_version() {
        for version in [2, 3] {
            let (path, text) = plan((1, 7), &conf(version, &["conf.d/*.toml"], None)).drop_in.unwrap();
            assert_eq!(path, "/etc/containerd/conf.d/99-usernsd.toml");
            assert!(text.contains(&format!("\nversion = {version}\n")), "{text}");
            assert!(text.contains("[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\n"), "{text}");
        }
    }
}
