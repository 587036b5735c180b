//! Pages that are generated from the code are the code's. `UPDATE=1 cargo nextest run --test
//! docs` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test's failure is a panic")]

use std::path::Path;

use usernsd::config::{Config, Overrides, Settings};
use usernsd::domain::admission;
use usernsd::task::metrics::Metrics;

/// Compares a page with what the code says, or writes it.
fn page(name: &str, want: &str) {
    file(&format!("docs/{name}"), want);
}

fn file(name: &str, want: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, want).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == want,
        "{name} is stale; write it with: UPDATE=1 cargo nextest run --test docs\nfirst difference: {:?}",
        want.lines().zip(found.lines()).find(|(want, found)| want != found)
    );
}

#[test]
fn configuration_yaml() {
    page("configuration.yaml", &Config::documented_yaml());
}

#[test]
fn configuration_markdown() {
    page("configuration.md", &Config::documented_markdown());
}

#[test]
fn metrics_markdown() {
    page("metrics.md", &Metrics::documented_markdown().unwrap());
}

#[test]
fn errors_markdown() {
    page("errors.md", &usernsd::domain::message::documented_markdown());
}

#[test]
fn admission_policies() {
    let default = Settings::load(None, Overrides::default()).unwrap().adjust.namespaces;
    file("daemonset/components/admission/policies.yaml", &admission::policies(&default));
    file("daemonset/components/admission-required/policy.yaml", &admission::required_policy());
}

/// Each test that docs/security.md names is there, and each sentence on what an attacker can do that has one
/// in brackets has it in the code.
#[test]
fn tests_that_the_security_page_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let section = page.split("## What an attacker can do").nth(1).unwrap();
    let is_name = |word: &&str| {
        word.matches('_').count() >= 3
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
    };
    let named: Vec<&str> = section.split('`').skip(1).step_by(2).filter(is_name).collect();
    assert!(named.len() > 40, "{named:?}");
    let mut code = String::new();
    let mut directories = vec![root.join("tests"), root.join("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                code += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let tests: std::collections::BTreeSet<&str> = code
        .split("#[test]")
        .skip(1)
        .filter_map(|after| after.split("fn ").nth(1)?.split('(').next())
        .chain(
            code.split("#[tokio::test")
                .skip(1)
                .filter_map(|after| after.split("fn ").nth(1)?.split('(').next()),
        )
        .collect();
    let missing: Vec<_> = named.into_iter().filter(|name| !tests.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
