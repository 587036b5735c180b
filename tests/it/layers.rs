//! The rules for the layers that Cargo cannot enforce. The crates' manifests determine which crate may use
//! which. Tested here: crates of rules have no effects, each peer has one module, and modules of the host and of
//! the peers do not name each other.

use std::fs;
use std::path::{Path, PathBuf};

/// Which module may name a peer's crate.
const ONE_DOOR: &[(&str, &[&str])] = &[
    ("ring::digest", &["linux/host", "prepare/machineconfig", "report/page"]),
    ("toml_edit", &["prepare/runtime_files"]),
    ("zbus", &["peers/systemd"]),
    ("tonic", &["peers/cri", "proto/"]),
    ("usernsd_proto", &["peers/cri", "nri/"]),
    ("axum", &["report/http"]),
    ("tokio_rustls", &["report/http", "peers/kube/client"]),
    ("seccompiler", &["linux/seccomp"]),
    ("landlock", &["linux/landlock"]),
    ("kube", &["peers/kube"]),
    ("k8s_openapi", &["peers/kube"]),
    ("prometheus", &["report/metrics"]),
    ("libc", &["linux/mount_idmap", "linux/seccomp"]),
    // Cargo.toml has the reasons.
    ("nix", &["linux/mount_idmap", "linux/inherited", "linux/proc/observer", "linux/host/reader", "nri/lib"]),
    ("tar", &["linux/archive"]),
    ("clap_complete", &["usernsd/cli/completion"]),
    ("clap_mangen", &["usernsd/cli/man"]),
];

/// The one module with unsafe code in it; it may be `allow`ed nowhere else.
const UNSAFE: &str = "linux/mount_idmap";

/// Items that may be used in one place or nowhere, and what to use instead.
const ONE_PLACE: &[(&str, &[&str], &str)] = &[
    ("new_current_thread", &["tasks/lib"], "usernsd_tasks::runtime makes the asynchronous runtime"),
    ("unbounded_channel", &[], "every queue has a bound, and a comment on what happens beyond it"),
    ("PoisonError", &["domain/lock", "tasks/latest"], "usernsd_domain::lock::lock"),
    ("mpsc::channel()", &[], "every queue has a bound: sync_channel"),
    (
        "JoinSet",
        &["tasks/lib", "agent/launched/follow", "report/http"],
        "usernsd_tasks::Tasks notices a task that ends",
    ),
];

/// Crates of rules.
const PURE: &[&str] = &["domain", "delegation", "messages"];

/// Items that have an effect or read a clock, which rules do not.
const EFFECTS: &[&str] =
    &["std::fs", "std::net", "std::process", "std::env", "Instant::now", "SystemTime::now"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Every complaint about one file; it is named by its crate, without "src/".
fn complaints(file: &str, text: &str) -> Vec<String> {
    let stem = file.trim_end_matches(".rs");
    let (krate, module) = stem.split_once('/').unwrap_or((stem, ""));
    let module = module.split('/').next().unwrap_or_default();
    let mut found = Vec::new();
    // Imports within a function of a test may name a type's variants.
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let at = |what: String| format!("{file}:{}: {what}", index + 1);
        for rest in code.split("crate::").skip(1) {
            let named: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // Types that the crate's root has are no modules.
            let is_types =
                rest.strip_prefix('{').unwrap_or(rest).starts_with(|c: char| c.is_uppercase() || c == '*');
            if named.is_empty() && !is_types {
                found.push(at("import one module a line, not crate::{…}".into()));
            } else if ["linux", "peers"].contains(&krate) && module != "lib" && named != module {
                found.push(at(format!("modules of {krate} do not name each other")));
            }
        }
        if code.contains("super::super") {
            found.push(at("name the module from the crate's root".into()));
        }
        for effect in EFFECTS {
            if PURE.contains(&krate) && code.contains(effect) {
                found.push(at(format!("{krate} has no effects and may not use {effect}")));
            }
        }
        let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe_code"];
        if is_unsafe.iter().any(|words| code.contains(words)) && stem != UNSAFE {
            found.push(at(format!("unsafe is {UNSAFE}'s alone")));
        }
        for (words, places, instead) in ONE_PLACE {
            if code.contains(words) && !places.iter().any(|place| stem.starts_with(place)) {
                found.push(at(format!("{words}: {instead}")));
            }
        }
        for (name, doors) in ONE_DOOR {
            // "usernsd_peers::kube::" names a module of ours.
            let path = format!("{name}::");
            let used = code.match_indices(&path).any(|(at, _)| {
                let before = &code[..at];
                !before.ends_with("::") && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            });
            if used && !doors.iter().any(|door| stem.starts_with(door)) {
                found.push(at(format!("{name} is named only in {doors:?}")));
            }
        }
    }
    found
}

#[test]
fn modules_keep_to_their_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut crates = vec![("usernsd".to_owned(), root.join("src"))];
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        let entry = entry.unwrap();
        crates.push((entry.file_name().into_string().unwrap(), entry.path().join("src")));
    }
    assert!(crates.len() > 5, "the crates were not found");
    let mut found = Vec::new();
    for (name, sources_of) in crates {
        let mut files = Vec::new();
        sources(&sources_of, &mut files);
        for path in files {
            let file = format!("{name}/{}", path.strip_prefix(&sources_of).unwrap().display());
            found.extend(complaints(&file, &fs::read_to_string(path).unwrap()));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn each_violation_of_the_layers_is_found() {
    for (file, text, want) in [
        (
            "domain/id.rs",
            "let x = std::fs::read(p);",
            "domain/id.rs:1: domain has no effects and may not use std::fs",
        ),
        ("peers/cri.rs", "use crate::oci::x;", "peers/cri.rs:1: modules of peers do not name each other"),
        ("agent/x.rs", "use zbus::Connection;", "agent/x.rs:1: zbus is named only in [\"peers/systemd\"]"),
        ("agent/x.rs", "#![allow(unsafe_code)]", "agent/x.rs:1: unsafe is linux/mount_idmap's alone"),
        ("agent/x.rs", "use crate::{a, b};", "agent/x.rs:1: import one module a line, not crate::{…}"),
        (
            "agent/x.rs",
            "let (a, b) = mpsc::channel();",
            "agent/x.rs:1: mpsc::channel(): every queue has a bound: sync_channel",
        ),
    ] {
        assert!(
            complaints(file, text).iter().any(|line| line == want),
            "{file}: {text}: {:?}",
            complaints(file, text)
        );
    }
    for (file, text) in [
        ("domain/id.rs", "use crate::idmap::HostId; // std::fs"),
        ("peers/cri.rs", "use crate::cri::info;"),
        ("agent/x.rs", "use usernsd_peers::kube::Client;"),
    ] {
        assert_eq!(complaints(file, text), Vec::<String>::new(), "{file}");
    }
}

/// Errors whose own text contains their cause, which the chain of causes prints again: the line of each `#[error(…)]`
/// that formats a field marked as the source.
fn doubled_causes(file: &str, text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for (at, _) in text.match_indices("#[error(") {
        let rest = &text[at..];
        let Some((message, item)) = rest.split_once(")]") else { continue };
        // Up to the next variant, or the end of the type.
        let item = item.split("#[error(").next().unwrap_or_default();
        let item = item.split("\n}").next().unwrap_or_default();
        for (mark, _) in item.match_indices("#[source]").chain(item.match_indices("#[from]")) {
            let (before, field) = item.split_at(mark);
            let field = field.split_once(']').map_or("", |(_, field)| field).trim_start();
            let is_named = field.split_once(':').is_some_and(|(name, after)| {
                name.chars().all(|char| char.is_alphanumeric() || char == '_') && !after.starts_with(':')
            });
            let name = match is_named {
                true => field.split(':').next().unwrap_or_default().to_owned(),
                // A tuple's field: its index is the number of commas before it.
                false => before.rsplit('(').next().unwrap_or_default().matches(',').count().to_string(),
            };
            let is_printed = [format!("{{{name}}}"), format!("{{{name}:"), format!(".{name}.")];
            if is_printed.iter().any(|words| message.contains(words.as_str())) {
                let line = text[..at].matches('\n').count() + 1;
                found.push(format!(
                    "{file}:{line}: the text contains its cause, which the chain prints again"
                ));
            }
        }
    }
    found
}

/// What `rule` finds in the sources of the product, by file name and text.
fn in_all_sources(rule: fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("crates"), &mut files);
    files
        .iter()
        .flat_map(|path| rule(&path.display().to_string(), &fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn no_error_prints_its_cause_beside_the_chain() {
    let found = in_all_sources(doubled_causes);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Lines that print an error without the causes in its chain.
fn lost_causes(file: &str, text: &str) -> Vec<String> {
    // The chain itself.
    if file.ends_with("domain/src/chain.rs") || file.ends_with("tests.rs") {
        return Vec::new();
    }
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let loses = |line: &str| {
        ["error.to_string()", "%error,", "%error)", "error = %error"].iter().any(|words| line.contains(words))
    };
    let lines = code.lines().enumerate().filter(|(_, line)| loses(line));
    lines.map(|(at, _)| format!("{file}:{}: domain::chain prints an error with its causes", at + 1)).collect()
}

#[test]
fn every_printed_error_has_its_causes() {
    let found = in_all_sources(lost_causes);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    for (text, is_found) in [
        ("warn!(%error, \"no\");", true),
        ("warn!(name, %error, \"no\");", true),
        ("warn!(error = %error, \"no\");", true),
        ("store.down(error.to_string());", true),
        ("warn!(error = %chain(&error), \"no\");", false),
        ("warn!(error = error.as_str(), \"no\");", false),
        ("#[cfg(test)]\nmod tests {\n    error.to_string()", false),
    ] {
        assert_eq!(!lost_causes("x.rs", text).is_empty(), is_found, "{text}");
    }
}

#[test]
fn an_error_that_prints_its_cause_is_found() {
    for (text, is_found) in [
        ("#[error(\"{0}; see x\")]\n    Tls(#[from] TlsError),", true),
        ("#[error(\"starting kubectl: {0}\")]\npub struct KubectlError(#[from] io::Error);", true),
        ("#[error(\"linux.{0}\")]\n    Mappings(&'static str, #[source] IdMapError),", false),
        ("#[error(\"linux.{1}\")]\n    Mappings(&'static str, #[source] IdMapError),", true),
        (
            "#[error(\"reading {}\", path.display())]\n    Read {\n        path: PathBuf,\n        #[source]\n        error: io::Error,",
            false,
        ),
        ("#[error(\"reading: {error}\")]\n    Read {\n        #[source]\n        error: io::Error,", true),
        ("#[error(transparent)]\n    Host(#[from] HostError),", false),
        ("#[error(\"{0}\")]\n    A(String),\n    #[error(\"b\")]\n    B(#[from] io::Error),", false),
    ] {
        assert_eq!(!doubled_causes("x.rs", text).is_empty(), is_found, "{text}");
    }
}
