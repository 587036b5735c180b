//! The fuzz targets (`make fuzz`) with their kept inputs: each is run once, in the time of a unit test, so
//! that neither targets nor inputs become stale.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's failure is a panic"
)]
#![allow(missing_docs, unreachable_pub, reason = "targets are a library of their own for libFuzzer")]

#[allow(missing_docs, unreachable_pub, reason = "a library of its own for libFuzzer")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use targets::TARGETS;

/// Maximum size of the inputs of all targets in the repository, in bytes.
const MOST: u64 = 300 << 10;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The names of the entries in a directory, without extensions.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_kept_input_passes() {
    for (name, run) in TARGETS {
        let mut inputs: Vec<PathBuf> = fs::read_dir(directory().join("corpus").join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(inputs.len() >= 10, "{name} has {} inputs", inputs.len());
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            assert!(catch_unwind(|| run(&bytes)).is_ok(), "{name} fails on {}", input.display());
        }
    }
}

#[test]
fn every_target_is_built_has_inputs_and_is_described() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&directory().join("corpus")), targets);
    assert_eq!(names(&directory().join("fuzz_targets")), targets);
    let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/development.md");
    let page = fs::read_to_string(page).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no binary of fuzz/Cargo.toml");
        assert!(page.contains(&format!("| `{name}` |")), "docs/development.md does not describe {name}");
    }
}

#[test]
fn the_inputs_stay_small() {
    let directories = fs::read_dir(directory().join("corpus")).unwrap();
    let inputs = directories.flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    let bytes: u64 = inputs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= MOST, "{bytes} bytes");
}
