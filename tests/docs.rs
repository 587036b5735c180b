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
