//! The content of a support bundle: usernsd's records, and everything on the node that affects user
//! namespaces. Never an environment, an annotation, a secret or a complete configuration file.

use std::collections::hash_map::RandomState;
use std::fmt::Display;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::explain::Node;
use crate::survey::Surveyor;
use usernsd_domain::accounts::Account;
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::chain::chain;
use usernsd_domain::crio::config::Content as CrioContent;
use usernsd_domain::mountinfo::MountInfo;
use usernsd_domain::paths::{KUBELET, KUBELET_CONFIG};
use usernsd_domain::redact::{Names, log_field, log_line};
use usernsd_domain::secrets::{LEFT_OUT, without_secrets};
use usernsd_domain::space::HostIds;
use usernsd_domain::subid::{Content, SubidFile};
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
}

/// Collects the bundle. With `redact`, names are replaced by hashes with a salt that is not kept.
#[must_use]
pub async fn collect(node: &Node, now: SystemTime, redact: bool) -> Bundle {
    let mut bundle = Bundle { files: Vec::new(), missing: Vec::new() };
    let state = read_state(&node.state_socket).map_err(|error| bundle.missing("state.json", &error)).ok();
    let salt = RandomState::new();
    let mut names = Names::default();
    if redact && let Some(state) = &state {
        names = names_of(state, &salt);
    }
    let host_ids = Surveyor::new(&node.host_root).map_err(|error| chain(&error));
    let host_ids = host_ids.and_then(|surveyor| surveyor.host_ids().map_err(|error| chain(&error)));
    if redact && let Ok(host) = &host_ids {
        add_users(&mut names, host, &salt);
    }
    if let Some(state) = &state {
        let mut value = serde_json::to_value(state).unwrap_or_default();
        strip(&mut value, &names);
        bundle.json("state.json", &value);
        bundle.json("cgroups.json", &cgroups(node, state, &names));
        let metrics = read_metrics(&node.state_socket).await;
        bundle.text("metrics.txt", metrics.map(|text| names.redact(&text)));
    }
    match host_ids {
        Ok(host) => {
            for (name, file) in [("subuid", &host.subuid), ("subgid", &host.subgid)] {
                bundle.text(name, Ok::<_, String>(names.redact(&ranges(file))));
            }
            let mut inside = users_in_ranges(&host);
            strip(&mut inside, &names);
            bundle.json("users-in-ranges.json", &inside);
        }
        Err(error) => bundle.missing("subuid, subgid", &error),
    }
    bundle.text("cgroup-mount.txt", cgroup_mounts(&node.host_root).map(|text| names.redact(&text)));
    let mut settings = crio(&node.host_root);
    strip(&mut settings, &names);
    bundle.json("crio.json", &settings);
    match kubelet(&node.host_root) {
        Ok(found) => bundle.json("kubelet.json", &found),
        Err(error) => bundle.missing("kubelet.json", &error),
    }
    let text = log(&node.host_root, redact).map(|text| without_annotations(&text));
    let hashed =
        |kind: &str, name: &str| names.of(name).map_or_else(|| word(&salt, kind, name), str::to_owned);
    bundle.text("log.txt", text.map(|text| if redact { without_names(&text, &hashed) } else { text }));
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
    bundle.json("manifest.json", &manifest);
    bundle
}

impl Bundle {
    fn add(&mut self, name: &str, content: Vec<u8>) {
        self.files.push((name.to_owned(), content));
    }

    fn json(&mut self, name: &str, value: &Value) {
        // Strings and numbers only: JSON can hold all of it.
        let mut content = serde_json::to_vec_pretty(value).unwrap_or_default();
        content.push(b'\n');
        self.add(name, content);
    }

    fn text(&mut self, name: &str, text: Result<String, impl Display>) {
        match text {
            Ok(text) => self.add(name, without_secrets(&text).into_bytes()),
            Err(error) => self.missing(name, &error),
        }
    }

    fn missing(&mut self, name: &str, error: &dyn Display) {
        self.missing.push(without_secrets(&format!("{name}: {error}")));
    }
}

/// All names in the state document, with their hashes. The salt keeps anyone from guessing names and
/// comparing hashes.
fn names_of(state: &State, salt: &RandomState) -> Names {
    let mut names = Names::default();
    let mut add = |kind: &str, name: &str| {
        let word = word(salt, kind, name);
        names.add(name, word.clone());
        // The form of a UID in the names of systemd's slices.
        names.add(&name.replace('-', "_"), word);
    };
    add("node", &state.node.name);
    let pods = state.containers.iter().map(|container| (&container.pod, &container.name));
    let past = state.past.iter().map(|past| (&past.pod, &past.name));
    let events = state.events.iter().map(|event| (&event.pod, &event.container));
    for (pod, container) in pods.chain(past).chain(events) {
        add("namespace", &pod.namespace);
        add("pod", &pod.name);
        add("uid", &pod.uid);
        add("container", container);
    }
    names
}

/// Owners of subordinate ranges, and users and groups with IDs in them, except those that every node has.
fn add_users(names: &mut Names, host: &HostIds, salt: &RandomState) {
    const EVERYONES: [&str; 4] = ["root", "containers", "kubelet", "core"];
    let owners = [&host.subuid, &host.subgid].into_iter().flat_map(|file| file.ranges());
    let owners = owners.map(|(_, range)| range.owner.as_str());
    let accounts = host.accounts.users().iter().chain(host.accounts.groups());
    let inside =
        accounts.filter(|account| is_in_a_range(account.id, host)).map(|account| account.name.as_str());
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    for name in owners.chain(inside).filter(|name| !EVERYONES.contains(name) && !is_number(name)) {
        names.add(name, word(salt, "user", name));
    }
}

fn is_in_a_range(id: u32, host: &HostIds) -> bool {
    let id = u64::from(id);
    let mut ranges = [&host.subuid, &host.subgid].into_iter().flat_map(|file| file.ranges());
    ranges.any(|(_, range)| range.start <= id && id < range.end())
}

/// The lines of a file of subordinate ranges that can be parsed; each other line is replaced by a
/// placeholder.
fn ranges(file: &SubidFile) -> String {
    let line = |content: &Content| match content {
        Content::Nothing => "\n".to_owned(),
        Content::Range(range) => format!("{}:{}:{}\n", range.owner, range.start, range.count),
        Content::Flawed { flaw, .. } => format!("{LEFT_OUT}: {flaw}\n"),
    };
    file.contents().map(|(_, content)| line(content)).collect()
}

fn word(salt: &RandomState, kind: &str, name: &str) -> String {
    let mut hasher = salt.build_hasher();
    hasher.write(name.as_bytes());
    format!("{kind}-{:016x}", hasher.finish())
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
        let (Value::String(text), false) =
            (&mut *value, ["timestamp", "level", "message", "target"].contains(&key.as_str()))
        else {
            continue;
        };
        *value = Value::String(log_field(key, text, hashed));
    }
    is_own.then(|| Value::Object(fields).to_string())
}

/// Removes names and values of annotations from every text in a document.
fn strip(value: &mut Value, names: &Names) {
    match value {
        Value::String(text) => {
            *text = without_secrets(&names.redact(&without_annotations(text)));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| strip(value, names)),
        Value::Object(fields) => fields.values_mut().for_each(|value| strip(value, names)),
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

fn cgroup_mounts(host_root: &Path) -> Result<String, std::io::Error> {
    let table = std::fs::read_to_string(host_root.join("proc/1/mountinfo"))?;
    let is_cgroup =
        |line: &&str| MountInfo::parse(line).is_some_and(|mount| mount.kind.starts_with("cgroup"));
    Ok(table.lines().filter(is_cgroup).map(|line| format!("{line}\n")).collect())
}

/// The limits of the cgroups of all pods in the state document.
fn cgroups(node: &Node, state: &State, names: &Names) -> Value {
    let Ok(root) = CgroupRoot::open(&node.host_root.join("sys/fs/cgroup")) else { return Value::Null };
    let pods = state.pods.iter().filter_map(|pod| {
        let path = CgroupPath::parse(&pod.cgroup.as_ref()?.path).ok()?;
        let read = |file: &&str| Some(((*file).to_owned(), Value::from(root.read_of(&path, file).ok()?)));
        let files: serde_json::Map<String, Value> = CGROUP_FILES.iter().filter_map(read).collect();
        Some((names.redact(path.as_str()), Value::Object(files)))
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
            CrioContent::Toml(table) => crio_lines(table, "", &mut lines),
            // The parser's error would quote the file.
            CrioContent::NotToml(_) => lines.push("(no TOML)".to_owned()),
            CrioContent::Unreadable(_) => lines.push("(unreadable)".to_owned()),
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
    let said = program::run(Path::new("journalctl"), &args, LOG_DEADLINE).map_err(|error| chain(&error))?;
    if said.success { Ok(said.stdout) } else { Err(said.stderr.trim().to_owned()) }
}
