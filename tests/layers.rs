//! The direction of imports: `main → agent/exporter/cli → task → { edge, domain }`, `edge → domain`,
//! `config → domain`. Edges never import each other; `domain` knows only std and `thiserror`.

// Not #[test] functions alone: what helps them may fail loudly too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What each layer may import of this crate.
const MAY: &[(&str, &[&str])] = &[
    ("domain", &["domain"]),
    ("edge", &["domain"]),
    ("task", &["task", "edge", "domain"]),
    ("config", &["domain"]),
    ("args", &["config", "domain"]),
    ("cli", &["cli", "args", "config", "task", "edge", "domain"]),
    ("agent", &["config", "task", "edge", "domain"]),
    ("exporter", &["config", "task", "edge", "domain"]),
    ("plugin", &["config", "task", "edge", "domain"]),
];

/// Crates that the pure layer may name.
const PURE: &[&str] = &["std", "thiserror", "super", "self", "crate", "proptest"];

/// Which file of `edge` may name a peer's crate; `agent.rs` opens some of them.
const ONE_DOOR: &[(&str, &[&str])] = &[
    ("ring::digest", &["edge/host", "task/page"]),
    ("toml_edit", &["edge/crio"]),
    ("zbus", &["edge/systemd"]),
    ("tonic", &["edge/cri"]),
    ("prost", &["edge/cri", "edge/nri"]),
    ("axum", &["edge/http"]),
    ("tokio_rustls", &["edge/http"]),
    ("seccompiler", &["edge/seccomp"]),
    ("landlock", &["edge/landlock"]),
    ("kube", &["edge/kube"]),
    ("k8s_openapi", &["edge/kube"]),
    ("prometheus", &["task/metrics"]),
    ("libc", &["edge/idmap", "edge/seccomp"]),
    ("tar", &["edge/archive"]),
    ("clap_complete", &["cli/completion"]),
    ("clap_mangen", &["cli/man"]),
];

/// The one file with unsafe code in it; it may be `allow`ed nowhere else.
const UNSAFE: &str = "edge/idmap";

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

/// Every complaint about one file.
fn complaints(file: &str, text: &str) -> Vec<String> {
    let layer = file.split(['/', '.']).next().unwrap_or_default();
    let stem = file.trim_end_matches(".rs");
    let mut found = Vec::new();
    // Imports within a function of a test may name a type's variants.
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let at = |what: String| format!("{file}:{}: {what}", index + 1);
        for rest in code.split("crate::").skip(1) {
            let module: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if module.is_empty() {
                found.push(at("import one module a line, not crate::{…}".into()));
                continue;
            }
            let Some((_, may)) = MAY.iter().find(|(name, _)| *name == layer) else { continue };
            if !may.contains(&module.as_str()) {
                found.push(at(format!("{layer} may not import {module}")));
            }
            // An edge is one file or one folder.
            if layer == "edge" && module == "edge" && !rest.starts_with(&stem.replace('/', "::")) {
                found.push(at("edges never import each other".into()));
            }
        }
        if code.contains("super::super") {
            found.push(at("name the module from the crate's root".into()));
        }
        if layer == "domain"
            && let Some(import) = code.trim_start().strip_prefix("use ")
        {
            let root: String = import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !PURE.contains(&root.as_str()) {
                found.push(at(format!("domain is pure and may not use {root}")));
            }
        }
        for impure in ["std::fs", "std::net", "std::process", "std::env", "Instant::now", "SystemTime::now"] {
            if layer == "domain" && code.contains(impure) {
                found.push(at(format!("domain is pure and may not use {impure}")));
            }
        }
        let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe_code"];
        if is_unsafe.iter().any(|words| code.contains(words)) && stem != UNSAFE {
            found.push(at(format!("unsafe is {UNSAFE}'s alone")));
        }
        for (name, doors) in ONE_DOOR {
            // "edge::kube::" names a module of this crate.
            let path = format!("{name}::");
            let used = code.match_indices(&path).any(|(at, _)| !code[..at].ends_with("::"));
            if used && !doors.iter().any(|door| stem.starts_with(door)) {
                found.push(at(format!("{name} is named only in {doors:?}")));
            }
        }
    }
    found
}

#[test]
fn imports_go_downhill() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 10, "the sources were not found");
    let found: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let file = path.strip_prefix(&root).unwrap().display().to_string();
            complaints(&file, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn uphill_imports_are_found() {
    for (file, text, want) in [
        ("domain/id.rs", "use crate::edge::proc::Proc;", "domain/id.rs:1: domain may not import edge"),
        ("domain/id.rs", "use tokio::time;", "domain/id.rs:1: domain is pure and may not use tokio"),
        (
            "domain/id.rs",
            "let x = std::fs::read(p);",
            "domain/id.rs:1: domain is pure and may not use std::fs",
        ),
        ("edge/cri.rs", "use crate::task::x;", "edge/cri.rs:1: edge may not import task"),
        ("config.rs", "use crate::edge::x;", "config.rs:1: config may not import edge"),
        ("task/x.rs", "use zbus::Connection;", "task/x.rs:1: zbus is named only in [\"edge/systemd\"]"),
        ("task/x.rs", "#![allow(unsafe_code)]", "task/x.rs:1: unsafe is edge/idmap's alone"),
        ("task/x.rs", "use crate::{edge, domain};", "task/x.rs:1: import one module a line, not crate::{…}"),
    ] {
        assert!(
            complaints(file, text).iter().any(|line| line == want),
            "{file}: {text}: {:?}",
            complaints(file, text)
        );
    }
    assert_eq!(complaints("task/x.rs", "use crate::edge::proc::Proc; // crate::agent"), Vec::<String>::new());
}
