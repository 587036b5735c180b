//! One meaning for each name of a type: docs/glossary.md, "One meaning for each word".

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Types that share a name with another one, and the reason.
const SHARED: &[(&str, &str, &str)] = &[
    ("report/state/", DOCUMENT, "*"),
    ("inspect/explain/document", DOCUMENT, "*"),
    ("messages/coverage", TABLE, "Reason Source Verdict"),
];

const DOCUMENT: &str =
    "the form of a value of the domain in a JSON document, with the document's word as its name";
const TABLE: &str = "a column of the table of other programs' texts, which nothing outside the crate names";

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The names of a file's public types.
fn public_types(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let item = line.strip_prefix("pub ")?;
        let (kind, rest) = item.split_once(' ')?;
        let name = rest.split(|sign: char| !(sign.is_alphanumeric() || sign == '_')).next()?;
        ["struct", "enum", "trait", "type", "union"].contains(&kind).then_some(name)
    })
}

/// The names that more than one of these files defines, without those that may be shared.
fn ambiguous(files: &[(String, String)]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, text) in files {
        let stem = file.trim_end_matches(".rs");
        for name in public_types(text) {
            let is_shared = |(place, _, names): &(&str, &str, &str)| {
                stem.starts_with(place) && (*names == "*" || names.split(' ').any(|other| other == name))
            };
            if !SHARED.iter().any(is_shared) {
                places.entry(name).or_default().push(stem);
            }
        }
    }
    let several = places.into_iter().filter(|(_, places)| places.len() > 1);
    several.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect()
}

#[test]
fn a_name_of_a_public_type_means_one_thing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut crates = vec![("usernsd".to_owned(), root.join("src"))];
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        let entry = entry.unwrap();
        crates.push((entry.file_name().into_string().unwrap(), entry.path().join("src")));
    }
    let mut files = Vec::new();
    for (name, directory) in crates {
        let mut paths = Vec::new();
        sources(&directory, &mut paths);
        for path in paths {
            let file = format!("{name}/{}", path.strip_prefix(&directory).unwrap().display());
            files.push((file, fs::read_to_string(path).unwrap()));
        }
    }
    let types: usize = files.iter().map(|(_, text)| public_types(text).count()).sum();
    assert!(types > 500, "{types} types were found");
    let found = ambiguous(&files);
    assert!(found.is_empty(), "rename one, or give the reason in SHARED:\n{}", found.join("\n"));
}

#[test]
fn a_second_type_of_a_name_is_found() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let one = file("domain/a.rs", "pub struct Thing {\n}\n");
    assert_eq!(ambiguous(&[one.clone(), file("agent/b.rs", "pub(crate) enum Thing {}\n")]), [""; 0]);
    assert_eq!(
        ambiguous(&[one.clone(), file("agent/b.rs", "pub enum Thing<T> {\n")]),
        ["Thing: domain/a, agent/b"]
    );
    assert_eq!(ambiguous(&[one, file("report/state/b.rs", "pub type Thing = u8;\n")]), [""; 0]);
}
