//! Settings on CRI-O's command line, which override its configuration files (`internal/criocli/criocli.go`, 1.20 to
//! 1.37): flags in `ExecStart=` or in variables such as `CRIO_RUNTIME_OPTIONS`, and environment variables that stand
//! for flags.

use super::config::{ConfFile, Content};
use crate::toml::{Table, Value};

/// The place that findings name for these settings.
pub const PLACE: &str = "crio.service";

/// How the text of a flag becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Without a value it means true.
    Switch,
    /// Each use of the flag, and each part between commas, adds an element.
    List,
}

/// A flag, the environment variable that stands for it, and the key that it sets, with the key's table, which is empty
/// for a key of `[crio]` itself.
struct Flag {
    name: &'static str,
    variable: Option<&'static str>,
    key: [&'static str; 2],
    kind: Kind,
}

const fn flag(
    name: &'static str,
    variable: Option<&'static str>,
    key: [&'static str; 2],
    kind: Kind,
) -> Flag {
    Flag { name, variable, key, kind }
}

/// The flags whose keys the rules use.
const FLAGS: [Flag; 14] = [
    flag("cgroup-manager", Some("CONTAINER_CGROUP_MANAGER"), ["runtime", "cgroup_manager"], Kind::Text),
    flag("conmon", Some("CONTAINER_CONMON"), ["runtime", "conmon"], Kind::Text),
    flag("default-runtime", Some("CONTAINER_DEFAULT_RUNTIME"), ["runtime", "default_runtime"], Kind::Text),
    flag("default-sysctls", Some("CONTAINER_DEFAULT_SYSCTLS"), ["runtime", "default_sysctls"], Kind::List),
    flag("enable-nri", None, ["nri", "enable_nri"], Kind::Switch),
    flag("enable-pod-events", Some("ENABLE_POD_EVENTS"), ["runtime", "enable_pod_events"], Kind::Switch),
    flag("gid-mappings", Some("CONTAINER_GID_MAPPINGS"), ["runtime", "gid_mappings"], Kind::Text),
    flag("hooks-dir", Some("CONTAINER_HOOKS_DIR"), ["runtime", "hooks_dir"], Kind::List),
    flag("nri-listen", None, ["nri", "nri_listen"], Kind::Text),
    flag("nri-plugin-config-dir", None, ["nri", "nri_plugin_config_dir"], Kind::Text),
    flag("nri-plugin-dir", None, ["nri", "nri_plugin_dir"], Kind::Text),
    flag("root", Some("CONTAINER_ROOT"), ["", "root"], Kind::Text),
    flag("runroot", Some("CONTAINER_RUNROOT"), ["", "runroot"], Kind::Text),
    flag("uid-mappings", Some("CONTAINER_UID_MAPPINGS"), ["runtime", "uid_mappings"], Kind::Text),
];

/// The settings in the texts of CRI-O's unit, its drop-ins and its environment files, in the order in which systemd
/// applies them, as if they were in the last file that CRI-O reads; `None` if there are none.
#[must_use]
pub fn settings(texts: &[String]) -> Option<ConfFile> {
    let words = words(texts);
    let mut table = Table::new();
    for flag in &FLAGS {
        let value = of_flags(&words, flag).or_else(|| of_variable(&words, flag));
        let Some(value) = value else { continue };
        let [section, key] = flag.key;
        if section.is_empty() {
            table.insert(key.to_owned(), value);
            continue;
        }
        let inner = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(inner) = inner {
            inner.insert(key.to_owned(), value);
        }
    }
    let content = Content::Toml([("crio".to_owned(), Value::Table(table.clone()))].into());
    (!table.is_empty()).then(|| ConfFile { path: PLACE.to_owned(), link: false, content })
}

/// The words of all lines that count, without quotes. A flag in a variable's value is a word of its own.
fn words(texts: &[String]) -> Vec<String> {
    const RESETTABLE: [&str; 2] = ["ExecStart=", "Environment="];
    let mut lines: Vec<String> = Vec::new();
    for text in texts {
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            // An empty assignment forgets those before it (systemd.service(5), systemd.exec(5)).
            if RESETTABLE.contains(&line) {
                lines.retain(|before| !before.starts_with(line));
            }
            lines.push(line.to_owned());
        }
    }
    let words = lines.iter().flat_map(|line| line.split([' ', '\t', '"', '\'']));
    let words = words.filter(|word| !word.is_empty());
    // Environment=A=1 B=2, in which quotes are needed only around spaces.
    let words = words.map(|word| word.strip_prefix("Environment=").unwrap_or(word));
    // CRIO_RUNTIME_OPTIONS=--uid-mappings=0:100000:65536
    words.map(|word| word.find("=--").and_then(|at| word.get(at + 1..)).unwrap_or(word).to_owned()).collect()
}

fn of_flags(words: &[String], flag: &Flag) -> Option<Value> {
    let mut values = words.iter().enumerate().filter_map(|(at, word)| {
        // Go's parser takes one dash for two.
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        let rest = word.strip_prefix(flag.name)?;
        let next = words.get(at + 1).map(String::as_str);
        match (rest.strip_prefix('='), flag.kind) {
            (Some(value), _) => Some(value),
            (None, Kind::Switch) if rest.is_empty() => Some("true"),
            (None, _) if rest.is_empty() => next,
            _ => None,
        }
    });
    match flag.kind {
        Kind::Text => values.next_back().map(|value| Value::Text(value.to_owned())),
        Kind::Switch => values.next_back().map(|value| Value::Bool(value == "true")),
        Kind::List => {
            let all: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
            (!all.is_empty()).then(|| Value::list(all))
        }
    }
}

fn of_variable(words: &[String], flag: &Flag) -> Option<Value> {
    let prefix = format!("{}=", flag.variable?);
    let value = words.iter().rev().find_map(|word| word.strip_prefix(&prefix))?;
    Some(match flag.kind {
        Kind::Text => Value::Text(value.to_owned()),
        Kind::Switch => Value::Bool(value == "true"),
        Kind::List => Value::list(value.split(',')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crio::CrioVersion;
    use crate::crio::config::Effective;
    use crate::crio::storage::Storage;
    use crate::toml::{get, table_at};

    fn of(texts: &[&str]) -> Option<ConfFile> {
        settings(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn runtime_text(texts: &[&str], key: &str) -> Option<String> {
        let Content::Toml(table) = of(texts)?.content else { panic!() };
        match get(table_at(&table, &["crio", "runtime"])?, key)? {
            Value::Text(text) => Some(text.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_are_found_where_units_have_them() {
        for (texts, want) in [
            (&["ExecStart=/usr/bin/crio --uid-mappings=0:1:2"][..], Some("0:1:2")),
            (&["ExecStart=/usr/bin/crio \\\n  --uid-mappings 0:1:2 \\\n  --x"], Some("0:1:2")),
            (&["ExecStart=/usr/bin/crio -uid-mappings \"0:1:2\""], Some("0:1:2")),
            (&["CRIO_RUNTIME_OPTIONS=\"--x --uid-mappings=0:1:2 --y\""], Some("0:1:2")),
            (&["CRIO_RUNTIME_OPTIONS=--uid-mappings=0:1:2"], Some("0:1:2")),
            (&["Environment=\"CONTAINER_UID_MAPPINGS=0:1:2\""], Some("0:1:2")),
            (&["Environment=CONTAINER_UID_MAPPINGS=0:1:2 CONTAINER_GID_MAPPINGS=0:3:4"], Some("0:1:2")),
            (&["Environment=A=1 CONTAINER_UID_MAPPINGS=0:1:2"], Some("0:1:2")),
            (&["A=--uid-mappings=0:1:2", "B=--uid-mappings=0:3:4"], Some("0:3:4")),
            // A flag overrides the variable, wherever the two are.
            (&["ExecStart=crio --uid-mappings=0:1:2", "CONTAINER_UID_MAPPINGS=0:3:4"], Some("0:1:2")),
            (&["ExecStart=crio --uid-mappings=0:1:2", "ExecStart=\nExecStart=crio"], None),
            (&["# ExecStart=crio --uid-mappings=0:1:2"], None),
            (&["ExecStart=crio --x-uid-mappings=0:1:2 --uid-mappings-x=1"], None),
            (&["ExecStart=crio --uid-mappings"], None),
        ] {
            assert_eq!(runtime_text(texts, "uid_mappings").as_deref(), want, "{texts:?}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["ExecStart=/usr/bin/crio --log-level=debug"]), None);
    }

    #[test]
    fn flags_override_the_files() {
        let version = CrioVersion::new(1, 36, 3);
        let file = ConfFile {
            path: "/etc/crio/crio.conf".into(),
            link: false,
            content: Content::Toml(
                [("crio".to_owned(), Value::Table([("nri".to_owned(), nri(true))].into()))].into(),
            ),
        };
        let unit = "ExecStart=crio --enable-nri=false --hooks-dir=/a --hooks-dir /b,/c --enable-pod-events \
                    --default-runtime=runc";
        let effective = Effective::of(version, &[file, of(&[unit]).unwrap()]);
        assert_eq!((effective.nri.value, effective.nri.file.as_deref()), (false, Some(PLACE)));
        assert_eq!(effective.hooks_dirs.value, ["/a", "/b", "/c"]);
        assert!(effective.pod_events.value);
        assert_eq!(effective.default_runtime.value, "runc");
    }

    #[test]
    fn directories_of_the_storage_are_keys_of_the_first_table() {
        let storage = |texts: &[&str]| Storage::of(&[of(texts).unwrap()], None);
        let moved = storage(&["ExecStart=crio --root=/data/c --runroot /run/c"]);
        assert_eq!((moved.root.as_str(), moved.run_root.as_str()), ("/data/c", "/run/c"));
        let moved = storage(&["Environment=CONTAINER_ROOT=/data/c CONTAINER_RUNROOT=/run/c"]);
        assert_eq!((moved.root.as_str(), moved.run_root.as_str()), ("/data/c", "/run/c"));
    }

    fn nri(on: bool) -> Value {
        Value::Table([("enable_nri".to_owned(), Value::Bool(on))].into())
    }
}
