//! The content of a support bundle: usernsd's records, and everything on the node that affects user
//! namespaces. Never an environment, an annotation, a secret or a complete configuration file.

use std::collections::hash_map::RandomState;
use std::fmt::Display;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::explain::ExplainNode;
use crate::survey::Surveyor;
use usernsd_domain::accounts::Account;
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::chain::chain;
use usernsd_domain::crio::config::Content;
use usernsd_domain::mountinfo::MountInfo;
use usernsd_domain::paths::{KUBELET, KUBELET_CONFIG};
use usernsd_domain::redact::{Names, log_field, log_line, own_words};
use usernsd_domain::secrets::{LEFT_OUT, without_secrets};
use usernsd_domain::space::HostIds;
use usernsd_domain::subid::{LineContent, SubidFile};
use usernsd_domain::toml::{Table, Value as TomlValue};
use usernsd_domain::utc::rfc3339;
use usernsd_linux::cgroupfs::CgroupRoot;
use usernsd_linux::host::HostRoot;
use usernsd_linux::program;
use usernsd_prepare::kubelet::KubeletConfig;
use usernsd_prepare::runtime_files::ConfRoot;
use usernsd_report::state::{State, read_metrics, read_state};

/// The most lines of the agent's log.
const LOG_LINES: &str = "500";
const LOG_DEADLINE: Duration = Duration::from_secs(10);
/// The files that are read of each pod in a user namespace.
const CGROUP_FILES: [&str; 4] =
    ["cgroup.stat", "cgroup.max.descendants", "cgroup.max.depth", "cgroup.controllers"];
/// The settings of CRI-O's configuration that the bundle contains, and no others.
const CRIO_KEYS: [&str; 9] = [
    "default_runtime",
    "cgroup_manager",
    "enable_pod_events",
    "enable_nri",
    "hooks_dir",
    "default_sysctls",
    "allowed_annotations",
    "activation_annotation",
    "runtime_path",
];

/// The files of a support bundle.
#[derive(Debug)]
pub struct Bundle {
    /// Names and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// Parts that could not be collected, with the reasons.
    pub missing: Vec<String>,
    /// `None` if names are kept.
    censor: Option<Censor>,
}

/// Collects the bundle. With `redact`, names are replaced by hashes with a salt that is not kept, and of every
/// text only usernsd's own words are kept.
#[must_use]
pub async fn collect(node: &ExplainNode, now: SystemTime, redact: bool) -> Bundle {
    let mut bundle = Bundle { files: Vec::new(), missing: Vec::new(), censor: redact.then(Censor::new) };
    // Before the state, so that a pod which appears in between is not in the metrics alone.
    let metrics = read_metrics(&node.state_socket).await;
    let state = read_state(&node.state_socket).map_err(|error| bundle.missing("state.json", &error)).ok();
    let host_ids = Surveyor::new(&node.host_root).map_err(|error| chain(&error));
    let host_ids = host_ids.and_then(|surveyor| surveyor.host_ids().map_err(|error| chain(&error)));
    if let Some(censor) = &mut bundle.censor {
        if let Some(state) = &state {
            censor.collect_names(state);
        }
        if let Ok(host) = &host_ids {
            censor.collect_users(host);
        }
    }
    if let Some(state) = &state {
        bundle.json("state.json", serde_json::to_value(state).unwrap_or_default());
        let cgroups = cgroups(node, state);
        bundle.json("cgroups.json", cgroups);
        let metrics = match &bundle.censor {
            Some(censor) => metrics.map(|text| censor.metrics(&text)),
            None => metrics,
        };
        bundle.made("metrics.txt", metrics);
    }
    match host_ids {
        Ok(host) => {
            for (name, file) in [("subuid", &host.subuid), ("subgid", &host.subgid)] {
                bundle.text(name, Ok::<_, String>(ranges(file)));
            }
            bundle.json("users-in-ranges.json", users_in_ranges(&host));
        }
        Err(error) => bundle.missing("subuid, subgid", &error),
    }
    let mounts = cgroup_mounts(&node.host_root, &|path| match &bundle.censor {
        Some(censor) => censor.text(path),
        None => path.to_owned(),
    });
    bundle.made("cgroup-mount.txt", mounts);
    bundle.json("crio.json", crio(&node.host_root));
    match kubelet(&node.host_root) {
        Ok(found) => bundle.json("kubelet.json", found),
        Err(error) => bundle.missing("kubelet.json", &error),
    }
    let text = log(&node.host_root, redact).map(|text| without_annotations(&text));
    let text = match &bundle.censor {
        Some(censor) => text.map(|text| without_names(&text, &|kind, name| censor.word(kind, name))),
        None => text,
    };
    bundle.made("log.txt", text);
    let kernel =
        std::fs::read_to_string(node.host_root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    let manifest = json!({
        "version": 1,
        "at": rfc3339(now),
        "usernsd": env!("CARGO_PKG_VERSION"),
        "agent": state.as_ref().map(|state| state.agent.version.clone()),
        "runtime": state.as_ref().and_then(|state| state.node.runtime.clone()),
        "kernel": without_secrets(kernel.trim()),
        "redacted": redact,
        "missing": bundle.missing,
    });
    bundle.json("manifest.json", manifest);
    bundle
}

impl Bundle {
    fn add(&mut self, name: &str, content: Vec<u8>) {
        self.files.push((name.to_owned(), content));
    }

    /// Adds a document, without names if they are to be removed.
    fn json(&mut self, name: &str, mut value: Value) {
        if let Some(censor) = &self.censor {
            censor.names_of_fields(&mut value, "");
        }
        strip(&mut value, &|text| {
            let text = without_annotations(text);
            without_secrets(&self.censor.as_ref().map_or(text.clone(), |censor| censor.text(&text)))
        });
        // Strings and numbers only: JSON can hold all of it.
        let mut content = serde_json::to_vec_pretty(&value).unwrap_or_default();
        content.push(b'\n');
        self.add(name, content);
    }

    /// Adds a text, without names if they are to be removed.
    fn text(&mut self, name: &str, text: Result<String, impl Display>) {
        let text = match &self.censor {
            Some(censor) => text.map(|text| censor.text(&text)),
            None => text,
        };
        self.made(name, text);
    }

    /// Adds a text from which names have been removed.
    fn made(&mut self, name: &str, text: Result<String, impl Display>) {
        match text {
            Ok(text) => self.add(name, without_secrets(&text).into_bytes()),
            Err(error) => self.missing(name, &error),
        }
    }

    fn missing(&mut self, name: &str, why: &dyn Display) {
        let why = why.to_string();
        let why = self.censor.as_ref().map_or(why.clone(), |censor| censor.text(&why));
        self.missing.push(without_secrets(&format!("{name}: {why}")));
    }
}

/// Removes names. The salt keeps anyone from guessing names and comparing hashes.
#[derive(Debug)]
struct Censor {
    salt: RandomState,
    /// The names that the agent and the node's files have, with their hashes.
    names: Names,
}

// === impl Censor ===

impl Censor {
    fn new() -> Censor {
        Censor { salt: RandomState::new(), names: Names::default() }
    }

    /// The names in the state document.
    fn collect_names(&mut self, state: &State) {
        let mut found = vec![("node", state.node.name.as_str())];
        let containers = state.containers.iter().map(|container| (&container.pod, &container.name));
        let past = state.past.iter().map(|past| (&past.pod, &past.name));
        let events = state.events.iter().map(|event| (&event.pod, &event.container));
        for (pod, container) in containers.chain(past).chain(events) {
            found.extend([("namespace", pod.namespace.as_str()), ("pod", &pod.name), ("uid", &pod.uid)]);
            found.push(("container", container));
        }
        for pod in &state.pods {
            found.extend([("namespace", pod.namespace.as_str()), ("pod", &pod.name), ("uid", &pod.uid)]);
        }
        for (kind, name) in found {
            let word = self.hash(kind, name);
            self.names.add(name, word.clone());
            // The form of a UID in the names of systemd's slices.
            self.names.add(&name.replace('-', "_"), word);
        }
    }

    /// Owners of subordinate ranges, and users and groups with IDs in them, except those that every node has.
    fn collect_users(&mut self, host: &HostIds) {
        let owners = [&host.subuid, &host.subgid].into_iter().flat_map(|file| file.ranges());
        let owners = owners.map(|(_, range)| range.owner.as_str());
        let accounts = host.accounts.users().iter().chain(host.accounts.groups());
        let inside =
            accounts.filter(|account| is_in_a_range(account.id, host)).map(|account| account.name.as_str());
        for name in owners.chain(inside).filter(|name| !is_everyones(name)) {
            let word = self.hash("user", name);
            self.names.add(name, word);
        }
    }

    fn hash(&self, kind: &str, name: &str) -> String {
        let mut hasher = self.salt.build_hasher();
        hasher.write(name.as_bytes());
        format!("{kind}-{:016x}", hasher.finish())
    }

    /// The replacement of a name.
    fn word(&self, kind: &str, name: &str) -> String {
        match self.names.of(name) {
            Some(word) => word.to_owned(),
            None if name.is_empty() || kind == "user" && is_everyones(name) => name.to_owned(),
            None => self.hash(kind, name),
        }
    }

    /// A text without known names, and without words that may be unknown ones.
    fn text(&self, text: &str) -> String {
        own_words(&self.names.redact(text), &|kind, name| self.word(kind, name))
    }

    /// The exposition without names. A line about a pod that the state document does not have is left out.
    fn metrics(&self, text: &str) -> String {
        let is_unknown = |line: &str| {
            ["namespace=\"", "pod=\"", "container=\""].iter().any(|label| {
                let values = line.match_indices(label).filter_map(|(at, _)| line.get(at + label.len()..));
                let mut names = values.filter_map(|rest| rest.split('"').next());
                names.any(|name| !name.is_empty() && self.names.of(name).is_none())
            })
        };
        let lines = text.lines().filter(|line| line.starts_with('#') || !is_unknown(line));
        lines.map(|line| self.names.redact(line) + "\n").collect()
    }

    /// Replaces names in the fields of a document that contain nothing else. `within` is the field of the object.
    fn names_of_fields(&self, value: &mut Value, within: &str) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(|value| self.names_of_fields(value, within)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    let kind = match (key.as_str(), within) {
                        ("namespace", _) => "namespace",
                        ("uid", _) => "uid",
                        ("container", _) | ("name", "containers" | "past") => "container",
                        ("name", "pod" | "pods") => "pod",
                        ("name", "node") => "node",
                        ("owner", _) | ("name", "accounts" | "users" | "groups") => "user",
                        _ => "",
                    };
                    match value {
                        Value::String(name) if !kind.is_empty() => *name = self.word(kind, name),
                        _ => self.names_of_fields(value, key),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Users that every node has, and numbers.
fn is_everyones(name: &str) -> bool {
    ["root", "containers", "kubelet", "core"].contains(&name)
        || name.bytes().all(|byte| byte.is_ascii_digit())
}
fn is_in_a_range(id: u32, host: &HostIds) -> bool {
    let id = u64::from(id);
    let mut ranges = [&host.subuid, &host.subgid].into_iter().flat_map(|file| file.ranges());
    ranges.any(|(_, range)| range.start <= id && id < range.end())
}

/// The lines of a file of subordinate ranges that can be parsed; each other line is replaced by a
/// placeholder.
fn ranges(file: &SubidFile) -> String {
    let line = |content: &LineContent| match content {
        LineContent::Nothing => "\n".to_owned(),
        LineContent::Range(range) => format!("{}:{}:{}\n", range.owner, range.start, range.count),
        LineContent::Flawed { flaw, .. } => format!("{LEFT_OUT}: {flaw}\n"),
    };
    file.contents().map(|(_, content)| line(content)).collect()
}

/// The agent's log without names, including those of pods that no longer exist.
fn without_names(text: &str, hashed: &dyn Fn(&str, &str) -> String) -> String {
    let line = |line| json_line(line, hashed).or_else(|| log_line(line, hashed));
    text.lines().map(|text| line(text).unwrap_or_else(|| "(left out)".to_owned()) + "\n").collect()
}

/// A log line in the format `log.format: json`, without names.
fn json_line(line: &str, hashed: &dyn Fn(&str, &str) -> String) -> Option<String> {
    let mut fields: serde_json::Map<String, Value> = serde_json::from_str(line).ok()?;
    let is_own = fields.get("target").and_then(Value::as_str).is_some_and(|from| from.starts_with("usernsd"));
    for (key, value) in fields.iter_mut().filter(|_| is_own) {
        let Value::String(text) = &mut *value else { continue };
        *value = match key.as_str() {
            "timestamp" | "level" | "target" => continue,
            "message" => own_words(text, hashed),
            _ => log_field(key, text, hashed),
        }
        .into();
    }
    is_own.then(|| Value::Object(fields).to_string())
}

/// Changes every text in a document, also the paths that are keys.
fn strip(value: &mut Value, change: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(values) => values.iter_mut().for_each(|value| strip(value, change)),
        Value::Object(fields) => {
            for (number, (key, mut value)) in std::mem::take(fields).into_iter().enumerate() {
                strip(&mut value, change);
                let mut shown = if key.starts_with('/') { change(&key) } else { key };
                // Two paths that look the same without names.
                if fields.contains_key(&shown) {
                    shown += &format!(" ({number})");
                }
                fields.insert(shown, value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Lines about an annotation contain its value: only the fact that there was one is kept.
fn without_annotations(text: &str) -> String {
    let line = |line: &str| match line.find("annotation ") {
        Some(at) => format!("{}annotation (left out)", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    };
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// Users and groups whose IDs lie in a subordinate range: those that are a problem.
fn users_in_ranges(host: &HostIds) -> Value {
    let inside = |accounts: &[Account], file: &usernsd_domain::subid::SubidFile| -> Vec<Value> {
        let is_inside = |id: u32| {
            let id = u64::from(id);
            file.ranges().any(|(_, range)| range.start <= id && id < range.end())
        };
        let found = accounts.iter().filter(|account| is_inside(account.id));
        found.map(|account| json!({"name": account.name, "id": account.id})).collect()
    };
    json!({
        "users": inside(host.accounts.users(), &host.subuid),
        "groups": inside(host.accounts.groups(), &host.subgid),
    })
}

/// The mounts of cgroup file systems; `shown` is applied to their paths.
fn cgroup_mounts(host_root: &Path, shown: &dyn Fn(&str) -> String) -> Result<String, std::io::Error> {
    let table = std::fs::read_to_string(host_root.join("proc/1/mountinfo"))?;
    let is_cgroup =
        |line: &&str| MountInfo::parse(line).is_some_and(|mount| mount.kind.starts_with("cgroup"));
    let line = |line: &str| {
        let fields = line.split(' ').enumerate();
        let fields =
            fields.map(|(field, text)| if (3..=4).contains(&field) { shown(text) } else { text.to_owned() });
        fields.collect::<Vec<_>>().join(" ") + "\n"
    };
    Ok(table.lines().filter(is_cgroup).map(line).collect())
}

/// The limits of the cgroups of all pods in the state document.
fn cgroups(node: &ExplainNode, state: &State) -> Value {
    let Ok(root) = CgroupRoot::open(&node.host_root.join("sys/fs/cgroup")) else { return Value::Null };
    let pods = state.pods.iter().filter_map(|pod| {
        let path = CgroupPath::parse(&pod.cgroup.as_ref()?.path).ok()?;
        let read = |file: &&str| Some(((*file).to_owned(), Value::from(root.read_of(&path, file).ok()?)));
        let files: serde_json::Map<String, Value> = CGROUP_FILES.iter().filter_map(read).collect();
        Some((path.as_str().to_owned(), Value::Object(files)))
    });
    Value::Object(pods.collect())
}

/// The lines of CRI-O's configuration that decide about user namespaces and cgroups, by file.
fn crio(host_root: &Path) -> Value {
    let Ok(files) = ConfRoot::open(host_root).and_then(|root| root.crio()) else { return Value::Null };
    let mut found = serde_json::Map::new();
    for file in files {
        let mut lines = Vec::new();
        match &file.content {
            Content::Toml(table) => crio_lines(table, "", &mut lines),
            // The parser's error would quote the file.
            Content::NotToml(_) => lines.push("(no TOML)".to_owned()),
            Content::Unreadable(_) => lines.push("(unreadable)".to_owned()),
        }
        found.insert(file.path, Value::from(lines));
    }
    Value::Object(found)
}

/// The selected settings, each group after the header of its table.
fn crio_lines(table: &Table, name: &str, lines: &mut Vec<String>) {
    let wanted = table.iter().filter(|(key, _)| CRIO_KEYS.contains(&key.as_str()));
    let mut wanted = wanted.filter_map(|(key, value)| Some(format!("{key} = {}", shown(value)?))).peekable();
    if wanted.peek().is_some() && !name.is_empty() {
        lines.push(format!("[{name}]"));
    }
    lines.extend(wanted);
    for (key, value) in table {
        if let TomlValue::Table(inner) = value {
            let inner_name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            crio_lines(inner, &inner_name, lines);
        }
    }
}

/// The value in TOML's syntax.
fn shown(value: &TomlValue) -> Option<String> {
    Some(match value {
        TomlValue::Text(text) => format!("{text:?}"),
        TomlValue::Integer(number) => number.to_string(),
        TomlValue::Bool(flag) => flag.to_string(),
        TomlValue::List(values) => {
            format!("[{}]", values.iter().filter_map(shown).collect::<Vec<_>>().join(", "))
        }
        TomlValue::Table(_) | TomlValue::Other(_) => return None,
    })
}

fn kubelet(host_root: &Path) -> Result<Value, String> {
    let root = HostRoot::open(host_root).map_err(|error| chain(&error))?;
    let bytes = root.read(&KUBELET_CONFIG).map_err(|error| chain(&error))?;
    // The kubelet's directory contains more than the pods. An agent's pod does not see it.
    let is_hidden = || root.list(&KUBELET).is_ok_and(|names| names.iter().all(|name| name == "pods"));
    let bytes = bytes.ok_or_else(|| {
        if is_hidden() {
            "it cannot be seen from here: /var/lib/kubelet is not mounted"
        } else {
            "there is none"
        }
    })?;
    // The parser's error would quote the file.
    let config = KubeletConfig::parse(&bytes).map_err(|_| "it is no KubeletConfiguration")?;
    Ok(json!({"maxPods": config.max_pods, "idsPerPod": config.ids_per_pod()}))
}

/// The last lines of the agent's log, if the agent is a service of this node.
fn log(host_root: &Path, redact: bool) -> Result<String, String> {
    if host_root != Path::new("/") {
        return Err("the journal is read on the node itself".to_owned());
    }
    // The format "cat" omits the node's name.
    let output = if redact { "--output=cat" } else { "--output=short-iso" };
    let args = ["--identifier=usernsd", "--lines", LOG_LINES, output, "--no-pager", "--quiet"];
    let output = program::run(Path::new("journalctl"), &args, LOG_DEADLINE).map_err(|error| chain(&error))?;
    if output.success { Ok(output.stdout) } else { Err(output.stderr.trim().to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document in which names of pods that no longer exist are in sentences only.
    fn state() -> State {
        let peer = |error: &str| json!({"state": "up", "since": "2026-11-29T21:02:00Z", "reconnects": 1, "lastError": error});
        let pod = json!({"namespace": "known-team", "name": "known-web", "uid": "c7f11ee7-e178-4dea-9d8c-c005ad648988"});
        let gone = "0b1f9d2e-2f5a-4c3b-8f51-0a1b2c3d4e5f";
        serde_json::from_value(json!({
            "version": 1,
            "node": {"name": "known-node", "ready": true,
                "runtime": {"name": "containerd", "version": "2.1.9", "endpoint": "/run/containerd/containerd.sock"}},
            "agent": {"version": "0.1.0", "startedAt": "2026-11-29T21:02:00Z"},
            "peers": {
                "cri": peer("rpc error: sandbox zzyzxone not found: namespace \"agent\" of zzyzxtwo-7d4b9c6f5-x2x1z"),
                "nri": peer("waiting for the removal of pod zzyzxthree/zzyzxfour, which has 16.8 MiB of it"),
                "systemd": peer(&format!("kubepods-pod{}.slice: no such unit", gone.replace('-', "_"))),
                "mismatch": {"what": "container zzyzxfive was created by another", "remedy": "ask zzyzxsix"},
                "plugins": [{"pid": 7, "version": "0.1.0", "runtime": "containerd", "runtimeVersion": "2.1.9",
                    "since": "2026-11-29T21:02:00Z", "responds": true, "settings": "0a1b2c3d4e5f",
                    "problems": ["pod zzyzxseven/web cannot be described"], "dropped": 0}],
            },
            "containers": [{"id": "0a".repeat(32), "sandboxId": "0b".repeat(32), "name": "known-box", "pod": pod,
                "pid": 7, "uidMap": null, "mount": "read-write", "cgroup": {"path": null, "unit": null, "inode": null,
                "owner": null, "limits": null}, "state": "failed", "outcome": "failed", "source": "nri",
                "reason": format!("/host/var/lib/kubelet/pods/{gone}/volumes/zzyzxeight: Permission denied (os error 13)"),
                "isolation": "good"}],
            "pods": [{"namespace": "known-team", "name": "known-web", "uid": "c7f11ee7-e178-4dea-9d8c-c005ad648988",
                "userns": "pod", "sharedIds": {}, "cgroup": null, "containers": [],
                "misfits": [{"reason": "user_not_in_mapping", "container": "zzyzxnine",
                    "sentence": "container zzyzxnine runs as user 70000, which is not mapped"}]}],
            "idSpace": {"pools": [], "overlaps": {}, "subordinateRanges": [],
                "accounts": [{"idType": "uid", "name": "zzyzxten", "id": 1000}]},
            "checks": [{"id": "subid_no_overlap", "category": "subordinate_ids", "severity": "error", "outcome": "fail",
                "seen": null, "problems": [{"what": "the range of pod zzyzxeleven/agent overlaps with that of alice-zzyzx",
                    "remedy": "delete zzyzxtwelve"}]}],
        }))
        .unwrap()
    }

    fn text(bundle: &Bundle, name: &str) -> String {
        let (_, content) = bundle.files.iter().find(|(file, _)| file == name).unwrap();
        String::from_utf8(content.clone()).unwrap()
    }

    #[test]
    fn names_that_only_sentences_have_are_not_in_a_redacted_bundle() {
        let state = state();
        let mut censor = Censor::new();
        censor.collect_names(&state);
        let metrics = censor.metrics(
            "# HELP usernsd_pod_info A pod.\nusernsd_node_ready 1\n\
             usernsd_pod_info{namespace=\"known-team\",pod=\"known-web\"} 1\n\
             usernsd_pod_info{namespace=\"zzyzx\",pod=\"known-web\"} 1\n\
             usernsd_container_lost_isolation{container=\"zzyzx\",namespace=\"known-team\",pod=\"known-web\"} 1\n",
        );
        assert_eq!(metrics.lines().count(), 3, "{metrics}");
        let mut bundle = Bundle { files: vec![], missing: vec![], censor: Some(censor) };
        bundle.json("state.json", serde_json::to_value(&state).unwrap());
        bundle.json(
            "crio.json",
            json!({
                "/etc/crio/crio.conf.d/10-crio.conf": ["[crio.runtime]", "default_runtime = \"crun\""],
                "/etc/crio/crio.conf.d/99-zzyzx-corp.conf":
                    ["[crio.runtime.workloads.zzyzx]", "activation_annotation = \"zzyzx.example/userns\""],
                "/etc/crio/crio.conf.d/98-zzyzx-corp.conf": [],
            }),
        );
        bundle.text("mounts", Ok::<_, String>("/var/lib/kubelet/pods/x/volumes/zzyzx".to_owned()));
        bundle.missing("log.txt", &"journalctl: zzyzx is not there");
        let missing = bundle.missing.join("\n");
        let state = text(&bundle, "state.json");
        for text in [&metrics, &state, &text(&bundle, "crio.json"), &text(&bundle, "mounts"), &missing] {
            assert!(!text.contains("zzyzx") && !text.contains("known-"), "{text}");
            assert!(!text.contains("0b1f9d2e") && !text.contains("c7f11ee7"), "{text}");
        }
        // The rest is kept.
        for kept in [
            "waiting for the removal of pod (left out)/(left out), which has 16.8 MiB of it",
            "volumes/(left out): Permission denied (os error 13)",
            "is not mapped",
            "\"startPath\"",
            "/run/containerd/containerd.sock",
            "subid_no_overlap",
            "2026-11-29T21:02:00Z",
            &"0a".repeat(32),
        ] {
            assert!(state.contains(kept), "{kept}: {state}");
        }
        let crio = text(&bundle, "crio.json");
        assert!(crio.contains("10-crio.conf") && crio.contains("default_runtime = \\\"crun\\\""), "{crio}");
        assert_eq!(serde_json::from_str::<Value>(&crio).unwrap().as_object().unwrap().len(), 3, "{crio}");
    }

    #[test]
    fn a_bundle_with_names_is_complete() {
        let mut bundle = Bundle { files: vec![], missing: vec![], censor: None };
        let state = serde_json::to_value(state()).unwrap();
        bundle.json("state.json", state.clone());
        assert_eq!(serde_json::from_str::<Value>(&text(&bundle, "state.json")).unwrap(), state);
    }
}
