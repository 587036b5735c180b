//! What a MachineConfig changes in the rendered one of a pool.
//!
//! The Machine Config Operator merges the MachineConfigs of a pool in the order of their names, those of the role
//! `worker` first (MergeMachineConfigs), field by field as Ignition does. It compares the results field by field too:
//! the same content in another encoding is a change (CalculateConfigFileDiffs). Function names in comments are those
//! of openshift/machine-config-operator.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::nri_plugin::WRITTEN;

/// The fields of a file or unit that are set, by their path: `mode`, `contents.source`, `dropins.10-x.conf.contents`.
pub type SetFields = BTreeMap<String, String>;

/// The field with a file's content.
pub const SOURCE: &str = "contents.source";
/// The field with its compression.
pub const COMPRESSION: &str = "contents.compression";

/// The parts of a MachineConfig that the operator compares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ComparedConfig {
    /// The object's name.
    pub name: String,
    /// The role in its label; empty for a rendered one.
    pub role: String,
    /// By path.
    pub files: BTreeMap<String, SetFields>,
    /// By name.
    pub units: BTreeMap<String, SetFields>,
    pub kernel_arguments: Vec<String>,
    /// SSH keys and password of the user `core`.
    pub users: SetFields,
    /// Image and kernel type of the operating system, extensions, FIPS; without those at their default.
    pub system: SetFields,
    /// What the operator never changes on a running node, in words.
    pub refused: Vec<String>,
}

/// The MachineConfigs of a pool, as far as they are known.
#[derive(Debug, Clone, Default)]
pub struct ConfigPool {
    /// The present result.
    pub rendered: ComparedConfig,
    /// MachineConfigs that it was rendered from.
    pub sources: Vec<ComparedConfig>,
}

/// A difference between two configurations of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangedPart {
    /// The file of that path.
    File(String),
    /// The unit of that name.
    Unit(String),
    KernelArguments,
    Users,
    /// That property of the operating system.
    System(String),
}

/// How it is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    New,
    Removed,
    /// These fields are.
    Fields(Vec<String>),
}

/// One difference between two rendered MachineConfigs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    pub what: ChangedPart,
    pub how: Difference,
}

/// A file or unit that another MachineConfig has with other fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The file's path or the unit's name.
    pub key: String,
    /// The fields that differ.
    pub fields: Vec<String>,
    /// The names of the other MachineConfigs, in the order in which they count; empty if they are not known.
    pub others: Vec<String>,
    /// The one of them that counts more than ours, since it is merged later.
    pub stronger: Option<String>,
}

impl fmt::Display for ChangedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangedPart::File(name) | ChangedPart::Unit(name) | ChangedPart::System(name) => {
                f.write_str(name)
            }
            ChangedPart::KernelArguments => f.write_str("kernel arguments"),
            ChangedPart::Users => f.write_str("SSH keys or password of core"),
        }
    }
}

impl ComparedConfig {
    /// The order in which MachineConfigs are merged (MergeMachineConfigs).
    fn order(&self) -> (bool, &str) {
        (self.role != "worker", &self.name)
    }
}

/// Merges the fields of a later MachineConfig into those of the earlier ones. The operator resets the compression with
/// each that does not set it (ignitionMergeSetFilesDefaultCompression).
fn merge(into: &mut SetFields, later: &SetFields) {
    into.remove(COMPRESSION);
    into.extend(later.iter().map(|(key, value)| (key.clone(), value.clone())));
}

fn differing(one: &SetFields, other: &SetFields) -> Vec<String> {
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    keys.into_iter().filter(|key| one.get(*key) != other.get(*key)).cloned().collect()
}

/// Files, or units, of a MachineConfig.
type Items = BTreeMap<String, SetFields>;

/// The items after `ours` has replaced the MachineConfig of its name.
fn merged(pool: &ConfigPool, ours: &ComparedConfig, of: fn(&ComparedConfig) -> &Items) -> Items {
    let previous = pool.sources.iter().find(|one| one.name == ours.name);
    let mut others: Vec<&ComparedConfig> = pool.sources.iter().filter(|one| one.name != ours.name).collect();
    others.sort_by(|a, b| a.order().cmp(&b.order()));
    let (before, after): (Vec<&ComparedConfig>, Vec<&ComparedConfig>) =
        others.into_iter().partition(|one| one.order() < ours.order());
    let mut result = of(&pool.rendered).clone();
    let touched: BTreeSet<&String> =
        of(ours).keys().chain(previous.map(of).into_iter().flat_map(BTreeMap::keys)).collect();
    for key in touched {
        // What the earlier version of ours set is gone; what is not from it stays.
        let mut fields = if previous.is_some_and(|previous| of(previous).contains_key(key)) {
            None
        } else {
            result.get(key).cloned()
        };
        let writers = before.iter().copied().chain([ours]).chain(after.iter().copied());
        for one in writers.filter_map(|one| of(one).get(key)) {
            merge(fields.get_or_insert_default(), one);
        }
        match fields {
            Some(fields) => result.insert(key.clone(), fields),
            None => result.remove(key),
        };
    }
    result
}

fn differences(old: &Items, new: &Items, name: fn(String) -> ChangedPart) -> Vec<ConfigChange> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |key: &String| {
        let how = match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) => Difference::Fields(differing(old, new)),
            (Some(_), None) => Difference::Removed,
            (None, _) => Difference::New,
        };
        Some(ConfigChange { what: name(key.clone()), how })
    };
    keys.into_iter().filter_map(change).collect()
}

/// Where a list has another one as a piece.
fn position(list: &[String], piece: &[String]) -> Option<usize> {
    if piece.is_empty() { None } else { list.windows(piece.len()).position(|window| window == piece) }
}

/// The kernel arguments afterwards; the operator concatenates those of all MachineConfigs.
fn kernel_arguments(pool: &ConfigPool, ours: &ComparedConfig) -> Vec<String> {
    let mut result = pool.rendered.kernel_arguments.clone();
    let previous = pool.sources.iter().find(|one| one.name == ours.name);
    let previous = previous.map_or(ours, |previous| previous).kernel_arguments.as_slice();
    match position(&result, previous) {
        Some(start) => {
            result.splice(start..start + previous.len(), ours.kernel_arguments.iter().cloned());
        }
        None => result.extend(ours.kernel_arguments.iter().cloned()),
    }
    result
}

/// Every difference between the rendered MachineConfig and the one that the operator would render with `ours`.
#[must_use]
pub fn changes(pool: &ConfigPool, ours: &ComparedConfig) -> Vec<ConfigChange> {
    let old = &pool.rendered;
    let files = merged(pool, ours, |config| &config.files);
    let units = merged(pool, ours, |config| &config.units);
    let mut found = differences(&old.files, &files, ChangedPart::File);
    found.extend(differences(&old.units, &units, ChangedPart::Unit));
    let arguments = kernel_arguments(pool, ours);
    if arguments != old.kernel_arguments {
        let gone =
            old.kernel_arguments.iter().filter(|one| !arguments.contains(one)).map(|one| format!("-{one}"));
        let added =
            arguments.iter().filter(|one| !old.kernel_arguments.contains(one)).map(|one| format!("+{one}"));
        found.push(ConfigChange {
            what: ChangedPart::KernelArguments,
            how: Difference::Fields(gone.chain(added).collect()),
        });
    }
    if ours.users.iter().any(|(key, value)| old.users.get(key) != Some(value)) {
        // Without the keys themselves.
        let kinds: BTreeSet<&str> = ours.users.keys().filter_map(|key| key.split('.').next()).collect();
        let how = Difference::Fields(kinds.into_iter().map(str::to_owned).collect());
        found.push(ConfigChange { what: ChangedPart::Users, how });
    }
    for (key, value) in ours.system.iter().filter(|(key, value)| old.system.get(*key) != Some(value)) {
        let how = if old.system.contains_key(key) {
            Difference::Fields(vec![value.clone()])
        } else {
            Difference::New
        };
        found.push(ConfigChange { what: ChangedPart::System(key.clone()), how });
    }
    found
}

/// Files and units of ours that another MachineConfig has with other fields. Those of an earlier version of ours do not
/// count; where only the rendered MachineConfig has the file, `content` decodes it, to find the line that starts each
/// of ours.
#[must_use]
pub fn conflicts(
    pool: &ConfigPool,
    ours: &ComparedConfig,
    content: &dyn Fn(&SetFields) -> Option<Vec<u8>>,
) -> Vec<Conflict> {
    let ours_before = pool.sources.iter().find(|one| one.name == ours.name);
    let mut found = Vec::new();
    let parts: [fn(&ComparedConfig) -> &Items; 2] = [|config| &config.files, |config| &config.units];
    for of in parts {
        for (key, fields) in of(ours) {
            let overlapping = |theirs: &SetFields| -> Vec<String> {
                let both = differing(fields, theirs).into_iter();
                both.filter(|key| fields.contains_key(key) && theirs.contains_key(key)).collect()
            };
            let mut others: Vec<&ComparedConfig> =
                pool.sources.iter().filter(|one| one.name != ours.name).collect();
            others.retain(|one| of(one).get(key).is_some_and(|theirs| !overlapping(theirs).is_empty()));
            others.sort_by(|a, b| a.order().cmp(&b.order()));
            let rendered = of(&pool.rendered).get(key);
            let from_ours = |rendered: &SetFields| {
                ours_before.is_some_and(|before| of(before).contains_key(key))
                    || content(rendered).is_some_and(|content| content.starts_with(WRITTEN.as_bytes()))
            };
            let unknown = rendered.filter(|rendered| others.is_empty() && !from_ours(rendered));
            let mut differ: Vec<String> =
                others.iter().filter_map(|one| of(one).get(key)).flat_map(overlapping).collect();
            differ.extend(unknown.into_iter().flat_map(overlapping));
            differ.sort();
            differ.dedup();
            if !differ.is_empty() {
                let stronger = others.iter().rev().find(|one| one.order() > ours.order());
                found.push(Conflict {
                    key: key.clone(),
                    fields: differ,
                    stronger: stronger.map(|one| one.name.clone()),
                    others: others.iter().map(|one| one.name.clone()).collect(),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> SetFields {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn config(name: &str, role: &str, files: &[(&str, &[(&str, &str)])]) -> ComparedConfig {
        let files = files.iter().map(|(path, pairs)| ((*path).to_owned(), fields(pairs))).collect();
        ComparedConfig { name: name.to_owned(), role: role.to_owned(), files, ..ComparedConfig::default() }
    }

    const OURS: &[(&str, &str)] = &[("mode", "420"), (SOURCE, "data:,a"), ("overwrite", "true")];

    fn ours() -> ComparedConfig {
        config("99-worker-usernsd", "worker", &[("/x", OURS)])
    }

    fn no_content(_: &SetFields) -> Option<Vec<u8>> {
        None
    }

    #[test]
    fn what_is_rendered_already_is_no_change() {
        let pool =
            ConfigPool { rendered: config("rendered-worker-1", "", &[("/x", OURS)]), sources: Vec::new() };
        assert_eq!(changes(&pool, &ours()), Vec::new());
        assert_eq!(conflicts(&pool, &ours(), &no_content), Vec::new());
    }

    #[test]
    fn the_same_content_in_another_encoding_is_a_change() {
        let encoded: &[(&str, &str)] =
            &[("mode", "420"), (SOURCE, "data:;base64,YQ=="), ("overwrite", "true")];
        let pool =
            ConfigPool { rendered: config("rendered-worker-1", "", &[("/x", encoded)]), sources: Vec::new() };
        let want = ConfigChange {
            what: ChangedPart::File("/x".into()),
            how: Difference::Fields(vec![SOURCE.into()]),
        };
        assert_eq!(changes(&pool, &ours()), [want]);
    }

    #[test]
    fn a_later_name_wins_and_a_pool_of_its_own_wins_over_worker() {
        let theirs: &[(&str, &str)] = &[(SOURCE, "data:,b"), ("overwrite", "true")];
        for (name, role, stronger) in [
            ("98-worker-x", "worker", None),
            ("99-worker-zz", "worker", Some("99-worker-zz")),
            ("01-infra", "infra", Some("01-infra")),
        ] {
            let rendered: &[(&str, &str)] = &[(SOURCE, "data:,b"), ("overwrite", "true")];
            let pool = ConfigPool {
                rendered: config("rendered-infra-1", "", &[("/x", rendered)]),
                sources: vec![config(name, role, &[("/x", theirs)])],
            };
            let conflict = Conflict {
                key: "/x".into(),
                fields: vec![SOURCE.into()],
                others: vec![name.into()],
                stronger: stronger.map(str::to_owned),
            };
            assert_eq!(conflicts(&pool, &ours(), &no_content), [conflict]);
            let changed = if stronger.is_some() { vec!["mode"] } else { vec![SOURCE, "mode"] };
            let how = Difference::Fields(changed.into_iter().map(str::to_owned).collect());
            assert_eq!(changes(&pool, &ours()), [ConfigChange { what: ChangedPart::File("/x".into()), how }]);
        }
    }

    #[test]
    fn a_file_that_our_next_version_does_not_have_is_removed_unless_another_writes_it() {
        let previous = config("99-worker-usernsd", "worker", &[("/x", OURS), ("/y", OURS)]);
        let mut pool = ConfigPool {
            rendered: config("rendered-worker-1", "", &[("/x", OURS), ("/y", OURS)]),
            sources: vec![previous],
        };
        let removed = ConfigChange { what: ChangedPart::File("/y".into()), how: Difference::Removed };
        assert_eq!(changes(&pool, &ours()), [removed]);
        pool.sources.push(config("50-worker", "worker", &[("/y", OURS)]));
        assert_eq!(changes(&pool, &ours()), Vec::new());
    }

    #[test]
    fn a_file_of_an_earlier_version_of_ours_is_no_conflict() {
        let old: &[(&str, &str)] = &[("mode", "420"), (SOURCE, "data:,old"), ("overwrite", "true")];
        let pool =
            ConfigPool { rendered: config("rendered-worker-1", "", &[("/x", old)]), sources: Vec::new() };
        assert_eq!(conflicts(&pool, &ours(), &no_content).len(), 1);
        let written = |_: &SetFields| Some(WRITTEN.as_bytes().to_vec());
        assert_eq!(conflicts(&pool, &ours(), &written), Vec::new());
        let known =
            ConfigPool { sources: vec![config("99-worker-usernsd", "worker", &[("/x", old)])], ..pool };
        assert_eq!(conflicts(&known, &ours(), &no_content), Vec::new());
    }

    #[test]
    fn compression_does_not_survive_a_later_content() {
        let packed: &[(&str, &str)] =
            &[(SOURCE, "data:;base64,AA"), (COMPRESSION, "gzip"), ("overwrite", "true")];
        let pool =
            ConfigPool { rendered: config("rendered-worker-1", "", &[("/x", packed)]), sources: Vec::new() };
        let found = merged(&pool, &ours(), |config| &config.files);
        assert_eq!(found["/x"], fields(OURS));
    }

    #[test]
    fn kernel_arguments_are_replaced_where_they_were() {
        let with = |name: &str, arguments: &[&str]| ComparedConfig {
            kernel_arguments: arguments.iter().map(|one| (*one).to_owned()).collect(),
            ..config(name, "worker", &[])
        };
        let rendered = with("rendered-worker-1", &["a", "psi=1", "b"]);
        let pool = ConfigPool { rendered, sources: vec![with("99-worker-usernsd", &["psi=1"])] };
        assert_eq!(changes(&pool, &with("99-worker-usernsd", &["psi=1"])), Vec::new());
        let how = Difference::Fields(vec!["-psi=1".into(), "+psi=0".into()]);
        let want = ConfigChange { what: ChangedPart::KernelArguments, how };
        assert_eq!(changes(&pool, &with("99-worker-usernsd", &["psi=0"])), [want]);
        assert_eq!(kernel_arguments(&pool, &ours()), ["a", "b"]);
    }
}
