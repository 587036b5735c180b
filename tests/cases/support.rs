//! `usernsd support-bundle` on a node with secrets in all places where secrets occur.

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
    node.write("/etc/crio/crio.conf.d/50-gone-corp.conf", "[crio.runtime]\ndefault_runtime = \"crun\"\n");
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
    // The agent's log, as the journal would have it.
    assert!(agent.log().contains("hunter2-annotation"), "it contains the annotation: {}", agent.log());
    node.run(["sh", "-c", "systemd-cat -t usernsd cat /run/usernsd-test/log && journalctl --sync"]);
    // Names of pods that no longer exist.
    let gone = "2026-11-21T08:52:00.123456Z  WARN waiting for the removal of pod gone-team/gone-web: gone-box error=x";
    node.write("/run/gone", gone);
    node.run(["sh", "-c", "systemd-cat -t usernsd cat /run/gone && journalctl --sync"]);

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
    assert!(plain["log.txt"].contains("gone-team/gone-web"), "{}", plain["log.txt"]);
    assert!(plain["crio.json"].contains("50-gone-corp.conf"), "{}", plain["crio.json"]);
    assert!(plain["cgroups.json"].contains("nr_descendants"), "{}", plain["cgroups.json"]);

    node.run(["usernsd", "support-bundle", "--redact", "-o", "/run/redacted.tar.gz"]);
    let redacted = unpack(&node, "/run/redacted.tar.gz");
    assert_eq!(redacted.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    for (name, text) in plain.iter().chain(&redacted) {
        assert!(!text.contains("hunter2"), "{name}: {text}");
    }
    let uid = json(&plain, "state.json")["containers"][0]["pod"]["uid"].as_str().unwrap().to_owned();
    for (name, text) in &redacted {
        assert!(!text.contains("gone-"), "{name}: {text}");
        for secret in ["team-secret", "web-secret", "box-secret", &uid, &uid.replace('-', "_")] {
            assert!(!text.contains(secret), "{name} has {secret}: {text}");
        }
    }
    // A name is replaced by the same word everywhere in a bundle, and by another one in the next.
    let word = |files: &BTreeMap<String, String>| {
        json(files, "state.json")["containers"][0]["name"].as_str().unwrap().to_owned()
    };
    assert!(word(&redacted).starts_with("container-"));
    for file in ["metrics.txt", "log.txt"] {
        assert!(redacted[file].contains(&word(&redacted)), "{file}: {}{}", redacted[file], plain[file]);
    }
    node.run(["usernsd", "support-bundle", "--redact", "-o", "/run/again.tar.gz"]);
    assert_ne!(word(&unpack(&node, "/run/again.tar.gz")), word(&redacted));

    // An existing file is not overwritten, and without an agent the bundle contains the rest.
    let again = node.command(["usernsd", "support-bundle", "-o", "/run/again.tar.gz"]).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    agent.terminate();
    let result = node.command(["usernsd", "support-bundle", "-o", "/run/less.tar.gz"]).output().unwrap();
    assert!(
        result.status.success() && String::from_utf8_lossy(&result.stderr).contains("missing: state.json"),
        "{result:?}"
    );
    assert!(unpack(&node, "/run/less.tar.gz").contains_key("subuid"));
    // The agent that knows the names has ended: they are in no file, and the changes are still redacted.
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

/// Fifty secrets, each as it occurs in a text: its marker must never appear.
fn planted() -> Vec<(String, String)> {
    let kinds: [(&str, &str); 50] = [
        ("password", "password={}"),
        ("PASSWORD of an environment", "DB_PASSWORD={}"),
        ("quoted password", "password: \"{} with blanks\""),
        ("passphrase", "passphrase={}"),
        ("password of a flag", "--etcd-password={}"),
        ("password of a flag with a blank", "--password {}"),
        ("password of a URL", "https://admin:{}@registry.local/v2/"),
        ("password of a database's URL", "postgres://user:{}@db/app"),
        ("password of a proxy", "HTTPS_PROXY=http://me:{}@proxy:3128"),
        ("token", "token={}"),
        ("token of a URL", "https://host/path?access_token={}&x=1"),
        ("K3S_TOKEN", "K3S_TOKEN={}"),
        ("token of YAML", "token: {}"),
        ("bearer of a header", "Authorization: Bearer {}"),
        ("bearer by itself", "sent Bearer {}"),
        ("basic of a header", "authorization: Basic {}"),
        ("cookie", "Cookie: {}"),
        ("JWT", "eyJhbGciOiJSUzI1NiJ9.eyJ{}.c2lnbmF0dXJl"),
        ("JWT in a field", "jwt=eyJhbGciOiJSUzI1NiJ9.eyJ{}.c2lnbmF0dXJl"),
        ("AWS access key", "AKIAIOSFODNN7{}"),
        ("AWS temporary key", "ASIAIOSFODNN7{}"),
        ("AWS secret key", "aws_secret_access_key = {}"),
        ("Google API key", "AIzaSyD-abcdefghij{}"),
        ("Google token", "ya29.a0AfH6SMBabcdef{}"),
        ("GitHub token", "ghp_abcdefghijkl{}"),
        ("GitHub fine-grained token", "github_pat_abcdefghijkl{}"),
        ("GitLab token", "glpat-abcdefghijkl{}"),
        ("Slack token", "xoxb-123456789012-{}"),
        ("npm token", "npm_abcdefghijkl{}"),
        ("Vault token", "hvs.abcdefghijkl{}"),
        ("OpenAI key", "sk-abcdefghijkl{}"),
        ("Docker token", "dckr_pat_abcdefghijkl{}"),
        ("PyPI token", "pypi-abcdefghijkl{}"),
        ("docker auth", "{\"auths\":{\"registry.local\":{\"auth\":\"{}\"}}}"),
        ("docker identity token", "\"identitytoken\": \"{}\""),
        ("kubeconfig's key", "client-key-data: {}"),
        ("kubeconfig's token", "    token: {}"),
        ("API key", "api_key={}"),
        ("API key with a dash", "x-api-key: {}"),
        ("client secret", "client_secret={}"),
        ("credential", "credential={}"),
        ("private key of YAML", "privateKey: {}"),
        ("PEM on one line", "-----BEGIN PRIVATE KEY-----\\n{}\\n-----END PRIVATE KEY-----"),
        ("RSA PEM", "-----BEGIN RSA PRIVATE KEY-----{}-----END RSA PRIVATE KEY-----"),
        ("OpenSSH PEM", "-----BEGIN OPENSSH PRIVATE KEY-----{}-----END OPENSSH PRIVATE KEY-----"),
        ("PEM without an end", "-----BEGIN EC PRIVATE KEY----- {}"),
        ("hash of a password", "root:$6$salt${}:1:0"),
        ("base64", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC{}"),
        ("secret of JSON", "{\"secret\": \"{}\"}"),
        ("secret in single quotes", "secret='{}'"),
    ];
    kinds
        .iter()
        .enumerate()
        .map(|(number, (_, text))| {
            let mark = format!("Zq{number:02}xK7wPlanted{number:02}");
            (mark.clone(), text.replace("{}", &mark))
        })
        .collect()
}

#[test]
fn none_of_fifty_planted_secrets_is_in_a_redacted_bundle() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let planted = planted();
    let lines =
        |before: &str| planted.iter().map(|(_, text)| format!("{before}{text}\n")).collect::<String>();
    // Comments, malformed lines, and users whose names are those of people.
    let subid = format!(
        "containers:200000:6553600\nalice-planted:9000000:65536\nkey:Zq-flawed-Planted:1\n{}",
        lines("# ")
    );
    node.write("/etc/subuid", &subid);
    node.write("/etc/subgid", &subid);
    node.run([
        "sh",
        "-c",
        "echo 'bob-planted:x:200001:200001:Bob Planted:/home/bob-planted:/bin/sh' >>/etc/passwd",
    ]);
    let conf = format!(
        "{}[crio.runtime]\ndefault_runtime = \"crun\" # password=Zq-comment-Planted\ndefault_env = [\n{}]\n",
        lines("# "),
        planted.iter().map(|(_, text)| format!("  {text:?},\n")).collect::<String>(),
    );
    node.write("/etc/crio/crio.conf.d/10-crio.conf", conf);
    node.write("/etc/crio/crio.conf.d/20-broken.conf", lines("default_runtime = "));
    node.write(
        "/var/lib/kubelet/config.yaml",
        format!("kind: KubeletConfiguration\nmaxPods: Zq-kubelet-Planted\n{}", lines("# ")),
    );
    for file in [
        "/etc/kubernetes/admin.conf",
        "/var/lib/kubelet/config.json",
        "/etc/kubernetes/pki/ca.key",
        "/root/.docker/config.json",
    ] {
        node.write(file, lines(""));
    }
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    let mut pod = PodSpec::new("web").privileged();
    let mut container = ContainerSpec::sleeping().privileged().named("box");
    for (number, (_, text)) in planted.iter().enumerate() {
        pod = pod.annotated(&format!("example.com/key-{number}"), text).annotated("usernsd.io/cgroup", text);
        container = container.env(&format!("SECRET_{number}"), text);
    }
    let container = pods.run(&pods.run_pod(&pod), &container);
    agent.record(&container);
    // The agent's log, and lines that look like its own, in both formats.
    let text = lines("2026-11-21T08:52:00.123456Z  WARN could not connect: ");
    let fields = lines("2026-11-21T08:52:00.123456Z  WARN could not connect error=");
    let json: String = planted
        .iter()
        .map(|(_, text)| {
            let line = serde_json::json!({
                "timestamp": "2026-11-21T08:52:00Z", "level": "WARN", "target": "usernsd", "message": text, "runtime": text,
            });
            format!("{line}\n")
        })
        .collect();
    for (name, content) in [("text", text), ("fields", fields), ("json", json), ("foreign", lines(""))] {
        let file = format!("/run/planted-{name}");
        node.write(&file, content);
        node.run(["sh", "-c", &format!("systemd-cat -t usernsd cat {file}")]);
    }
    node.run(["sh", "-c", "systemd-cat -t usernsd cat /run/usernsd-test/log && journalctl --sync"]);

    for (bundle, more) in [("/run/planted.tar.gz", Some("--redact")), ("/run/planted-plain.tar.gz", None)] {
        node.run(["usernsd", "support-bundle", "-o", bundle].into_iter().chain(more));
        let files = unpack(&node, bundle);
        assert!(files["log.txt"].contains("could not connect"), "{}", files["log.txt"]);
        assert!(files["crio.json"].contains("default_runtime = \\\"crun\\\""), "{}", files["crio.json"]);
        let mut found = Vec::new();
        for (name, content) in &files {
            let marks = planted.iter().filter(|(mark, _)| content.contains(mark.as_str()));
            found.extend(marks.map(|(_, text)| format!("{name}: {text}")));
            let others = ["Zq-flawed-Planted", "Zq-comment-Planted", "Zq-kubelet-Planted"];
            let users = ["alice-planted", "bob-planted"].into_iter().filter(|_| more.is_some());
            let others = others.into_iter().chain(users).filter(|mark| content.contains(mark));
            found.extend(others.map(|mark| format!("{name}: {mark}")));
        }
        assert_eq!(found, Vec::<String>::new());
    }
}
