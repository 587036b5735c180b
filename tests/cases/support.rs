//! `usernsd support-bundle` on a node with secrets in every place where some are found.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options};
use crate::pods::{ContainerSpec, PodSpec, Pods};

/// The files of a bundle.
#[track_caller]
fn unpack(node: &Node, bundle: &str) -> BTreeMap<String, String> {
    let directory = format!("{bundle}.d");
    node.run(["mkdir", &directory]);
    node.run(["tar", "-xzf", bundle, "-C", &directory]);
    let directory = node.path(&format!("{directory}/usernsd-support"));
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect()
}

#[test]
fn a_bundle_has_what_is_needed_and_no_secret() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    node.write("/etc/subuid", "containers:200000:6553600\n");
    node.write("/etc/subgid", "containers:200000:6553600\n");
    node.run(["mkdir", "-p", "/etc/crio/crio.conf.d", "/var/lib/kubelet", "/srv/secret"]);
    node.write("/srv/secret/token", "hunter2-file");
    node.write(
        "/etc/crio/crio.conf.d/10-crio.conf",
        "# hunter2-comment\n[crio.api]\ntls_key = \"hunter2-tls\"\n[crio.runtime]\ndefault_runtime = \"crun\"\n\
         default_env = [\"X=hunter2-crio\"]\n",
    );
    node.write(
        "/var/lib/kubelet/config.yaml",
        "maxPods: 250\nstaticPodURLHeader: {Auth: [hunter2-kubelet]}\n",
    );
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    let pod = PodSpec { namespace: "team-secret".to_owned(), ..PodSpec::new("web-secret") }
        .privileged()
        .annotated("usernsd.io/cgroup", "hunter2-annotation")
        .annotated("example.com/password", "hunter2-password");
    let container = ContainerSpec::sleeping()
        .privileged()
        .named("box-secret")
        .env("PASSWORD", "hunter2-env")
        .mount("/srv/secret", "/secret");
    let container = pods.run(&pods.run_pod(&pod), &container);
    agent.record(&container);
    // Its log as the journal would have it.
    assert!(agent.log().contains("hunter2-annotation"), "it tells of the annotation: {}", agent.log());
    node.run(["sh", "-c", "systemd-cat -t usernsd cat /run/usernsd-test/log && journalctl --sync"]);

    node.run(["usernsd", "support-bundle", "-o", "/run/plain.tar.gz"]);
    assert_eq!(fs::metadata(node.path("run/plain.tar.gz")).unwrap().mode() & 0o7777, 0o600);
    let plain = unpack(&node, "/run/plain.tar.gz");
    for name in [
        "state.json",
        "cgroups.json",
        "metrics.txt",
        "subuid",
        "subgid",
        "users-in-ranges.json",
        "cgroup-mount.txt",
        "crio.json",
        "kubelet.json",
        "log.txt",
        "manifest.json",
    ] {
        assert!(plain.contains_key(name), "{name} of {:?}", plain.keys());
    }
    let json = |files: &BTreeMap<String, String>, name: &str| -> Value {
        serde_json::from_str(&files[name]).unwrap()
    };
    assert_eq!(json(&plain, "state.json")["containers"][0]["name"], "box-secret");
    assert_eq!(json(&plain, "manifest.json")["missing"], Value::Array(vec![]));
    assert_eq!(json(&plain, "kubelet.json")["maxPods"], 250);
    assert!(plain["crio.json"].contains("default_runtime = \\\"crun\\\""), "{}", plain["crio.json"]);
    assert!(plain["metrics.txt"].contains("usernsd_build_info"));
    assert!(plain["cgroup-mount.txt"].contains(" - cgroup2 "));
    assert!(plain["log.txt"].contains("box-secret"), "{}", plain["log.txt"]);
    assert!(plain["cgroups.json"].contains("nr_descendants"), "{}", plain["cgroups.json"]);

    node.run(["usernsd", "support-bundle", "--redact", "-o", "/run/redacted.tar.gz"]);
    let redacted = unpack(&node, "/run/redacted.tar.gz");
    assert_eq!(redacted.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    for (name, text) in plain.iter().chain(&redacted) {
        assert!(!text.contains("hunter2"), "{name}: {text}");
    }
    let uid = json(&plain, "state.json")["containers"][0]["pod"]["uid"].as_str().unwrap().to_owned();
    for (name, text) in &redacted {
        for secret in ["team-secret", "web-secret", "box-secret", &uid, &uid.replace('-', "_")] {
            assert!(!text.contains(secret), "{name} has {secret}: {text}");
        }
    }
    // The same name is the same word everywhere in a bundle, and another one in the next.
    let word = |files: &BTreeMap<String, String>| {
        json(files, "state.json")["containers"][0]["name"].as_str().unwrap().to_owned()
    };
    assert!(word(&redacted).starts_with("container-"));
    for file in ["metrics.txt", "log.txt"] {
        assert!(redacted[file].contains(&word(&redacted)), "{file}: {}{}", redacted[file], plain[file]);
    }
    node.run(["usernsd", "support-bundle", "--redact", "-o", "/run/again.tar.gz"]);
    assert_ne!(word(&unpack(&node, "/run/again.tar.gz")), word(&redacted));

    // Nothing is written into a file that is there, and without an agent there is what there is.
    let again = node.command(["usernsd", "support-bundle", "-o", "/run/again.tar.gz"]).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    agent.terminate();
    let said = node.command(["usernsd", "support-bundle", "-o", "/run/less.tar.gz"]).output().unwrap();
    assert!(
        said.status.success() && String::from_utf8_lossy(&said.stderr).contains("missing: state.json"),
        "{said:?}"
    );
    assert!(unpack(&node, "/run/less.tar.gz").contains_key("subuid"));
    // Nobody is left who knows the names: they are in no file, and what was done still is.
    node.run(["usernsd", "support-bundle", "--redact", "-o", "/run/nobody.tar.gz"]);
    let nobody = unpack(&node, "/run/nobody.tar.gz");
    for (name, text) in &nobody {
        for secret in ["hunter2", "team-secret", "web-secret", "box-secret", &uid, &uid.replace('-', "_")] {
            assert!(!text.contains(secret), "{name} has {secret}: {text}");
        }
    }
    let hostname = node.run(["hostname"]);
    assert!(!nobody["log.txt"].contains(&hostname), "{}", nobody["log.txt"]);
    assert!(nobody["log.txt"].contains("\"name\":\"container-"), "{}", nobody["log.txt"]);
    assert!(nobody["log.txt"].contains("\"pod\":\"pod-"), "{}", nobody["log.txt"]);
}
