//! The fuzz targets (`make fuzz`) in the ordinary build, without libFuzzer: each kept input is run once, so that neither
//! targets nor inputs become stale, and then changed at random.

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
use std::time::{Duration, Instant, SystemTime};

use targets::TARGETS;

/// Maximum size of the inputs of all targets in the repository, in bytes.
const MOST: u64 = 300 << 10;

/// The longest input after changes, in bytes; the same for libFuzzer (`-max_len` in the Makefile).
const LONGEST: usize = 16_384;
/// How many changed inputs are run for each target, unless [`SECONDS`] is set.
const FEW: u64 = 300;
/// The variable with the number of seconds for each target.
const SECONDS: &str = "USERNSD_FUZZ_SECONDS";
/// The variable with the number by which the changes are chosen: a run that failed printed it.
const SEED: &str = "USERNSD_FUZZ_SEED";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The names of the entries in a directory, without extensions.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// The kept inputs of a target, in the order of their names.
fn inputs(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory().join("corpus").join(name)).unwrap();
    let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    inputs
}

/// Numbers that look random, always the same ones for a seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap()
    }

    /// A range within that many bytes, more often a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = if self.below(4) == 0 { length - start } else { (length - start).min(8) };
        start..start + self.below(most + 1)
    }
}

/// Bytes that lengths, numbers and grammars turn on.
const TELLING: [&[u8]; 14] = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\n",
    b"\"",
    b"\\",
    b"[",
    b"{",
    b"-1",
    b"4294967295",
    b"18446744073709551616",
    b"\xff\xff\xff\x7f",
    b"\xed\xa0\x80",
];

/// A changed copy of one of the inputs, with parts of another.
fn changed(inputs: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = inputs[chance.below(inputs.len())].clone();
    for _ in 0..=chance.below(6) {
        let range = chance.range(bytes.len());
        let new = match chance.below(7) {
            0 => Vec::new(),
            1 => bytes[range.clone()].repeat(2),
            2 => TELLING[chance.below(TELLING.len())].to_vec(),
            3 | 4 => {
                let other = &inputs[chance.below(inputs.len())];
                other[chance.range(other.len())].to_vec()
            }
            5 => (0..range.len().max(1)).map(|_| chance.next().to_le_bytes()[0]).collect(),
            _ => bytes[range.clone()].iter().map(|byte| byte ^ (1 << chance.below(8))).collect(),
        };
        bytes.splice(range, new);
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Runs a target with changed inputs, a few of them or for the time in [`SECONDS`].
fn run_changed(name: &str) {
    let (_, run) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let variable = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let time = variable(SECONDS).map(Duration::from_secs);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = variable(SEED).unwrap_or_else(|| if time.is_some() { now() } else { 1 });
    let inputs: Vec<Vec<u8>> = inputs(name).iter().map(|path| fs::read(path).unwrap()).collect();
    let (mut chance, begun, mut count) = (Chance::new(seed), Instant::now(), 0);
    while time.map_or(count < FEW, |time| begun.elapsed() < time) {
        let bytes = changed(&inputs, &mut chance);
        count += 1;
        if catch_unwind(|| run(&bytes)).is_err() {
            let failed = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}-{count}"));
            fs::write(&failed, &bytes).unwrap();
            panic!("{name} fails on {}, number {count} of {SEED}={seed}", failed.display());
        }
    }
    println!("{name}: {count} changed inputs, {SEED}={seed}");
}

macro_rules! changed_inputs_pass {
    ($($name:ident)*) => {
        mod changed_inputs_pass {
            const NAMES: &[&str] = &[$(stringify!($name)),*];

            $(
                #[test]
                fn $name() {
                    super::run_changed(stringify!($name));
                }
            )*

            #[test]
            fn all_targets_are_here() {
                assert_eq!(NAMES, super::TARGETS.map(|(name, _)| name));
            }
        }
    };
}

changed_inputs_pass!(crio_toml machine_config nri_conversation nri_frames runtime_json subid_text);

#[test]
fn every_kept_input_passes() {
    for (name, run) in TARGETS {
        let inputs = inputs(name);
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
