//! Compares the loaded configuration of a running CRI-O with its files.
//!
//! `/config` is right about settings that are read only at the start: workloads, sysctls, pod events, NRI. It
//! is wrong about handlers: after a reload it shows those of the files, which pods do not get (#10202). So
//! handlers are not compared.

use std::collections::BTreeSet;

use super::CrioVersion;
use super::config::{ConfFile, Effective, Entry};

/// The differences between what CRI-O runs with and what its files contain, a few words each.
#[must_use]
pub fn differences(version: CrioVersion, files: &[ConfFile], running: &ConfFile) -> Vec<String> {
    let wanted = Effective::of(version, files);
    let loaded = Effective::of(version, std::slice::from_ref(running));
    let mut found = Vec::new();
    let names: BTreeSet<&String> = wanted.workloads.keys().chain(loaded.workloads.keys()).collect();
    for name in names {
        found.extend(match (wanted.workloads.get(name), loaded.workloads.get(name)) {
            (Some(_), None) => Some(format!("workload {name} is not loaded")),
            (None, Some(_)) => Some(format!("workload {name} is still loaded")),
            (Some(wanted), Some(loaded)) if compared(wanted) != compared(loaded) => {
                Some(format!("workload {name} is loaded as it was before"))
            }
            _ => None,
        });
    }
    for (key, wanted, loaded) in [
        ("enable_pod_events", wanted.pod_events.value, loaded.pod_events.value),
        ("enable_nri", wanted.nri.value, loaded.nri.value),
    ] {
        if wanted != loaded {
            found.push(format!("{key} is {loaded}"));
        }
    }
    if wanted.default_sysctls.value != loaded.default_sysctls.value {
        found.push(format!("default_sysctls is {:?}", loaded.default_sysctls.value));
    }
    found
}

/// The parts of a workload that are compared; the order of its allowed annotations does not matter.
fn compared(workload: &Entry) -> (&str, BTreeSet<String>) {
    (workload.text("activation_annotation"), workload.allowed().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crio::config::Content;
    use crate::toml::{Table, Value};

    fn table(entries: &[(&str, Value)]) -> Value {
        Value::Table(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    }

    fn file(runtime: &[(&str, Value)], nri: bool) -> ConfFile {
        let nri = table(&[("enable_nri", Value::Bool(nri))]);
        let crio = table(&[("runtime", table(runtime)), ("nri", nri)]);
        let content = Content::Toml(Table::from([("crio".to_owned(), crio)]));
        ConfFile { path: "x".into(), link: false, content }
    }

    fn workload(allowed: &[&str]) -> Value {
        let entry = table(&[
            ("activation_annotation", Value::Text("a".into())),
            ("allowed_annotations", Value::list(allowed.iter().copied())),
        ]);
        table(&[("usernsd", entry)])
    }

    #[test]
    fn each_difference_is_reported() {
        let files = [file(
            &[
                ("workloads", workload(&["a", "b"])),
                ("enable_pod_events", Value::Bool(true)),
                ("default_sysctls", Value::list(["net.ipv4.ping_group_range=0 5"])),
            ],
            true,
        )];
        let version = CrioVersion::new(1, 36, 3);
        let differs = |running: &[(&str, Value)], nri| differences(version, &files, &file(running, nri));
        let events = ("enable_pod_events", Value::Bool(true));
        let sysctls = ("default_sysctls", Value::list(["net.ipv4.ping_group_range=0 5"]));
        let same = [("workloads", workload(&["b", "a"])), events.clone(), sysctls.clone()];
        assert_eq!(differs(&same, true), Vec::<String>::new());
        assert_eq!(differs(&same, false), ["enable_nri is false"]);
        let before = [("workloads", workload(&["a"])), events, sysctls];
        assert_eq!(differs(&before, true), ["workload usernsd is loaded as it was before"]);
        assert_eq!(
            differs(&[], true),
            ["workload usernsd is not loaded", "enable_pod_events is false", "default_sysctls is []"]
        );
        let gone = differences(version, &[], &file(&[("workloads", workload(&["a"]))], true));
        assert_eq!(gone, ["workload usernsd is still loaded"]);
    }

    /// Handlers shown after a reload prove nothing, so they are no difference either.
    #[test]
    fn handlers_are_not_differs() {
        let handlers = table(&[("x", table(&[("runtime_path", Value::Text("/x".into()))]))]);
        let running = file(&[("runtimes", handlers)], true);
        assert_eq!(differences(CrioVersion::new(1, 36, 3), &[], &running), Vec::<String>::new());
    }
}
