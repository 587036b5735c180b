//! Reads what `oc get -o yaml` prints about a pool: its rendered MachineConfig, and if they are there, the
//! MachineConfigs that it consists of, the pool, its nodes, and the policies of the Machine Config Operator.

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;

use super::read::{self, ReadConfigError, documents, is_blank, objects};
use usernsd_domain::chain::chain;
use usernsd_domain::ignition::Ignition;
use usernsd_domain::ignition::install::is_unit;
use usernsd_domain::mco::disruption::{DisruptionAction, DisruptionPolicies};
use usernsd_domain::mco::merge::{ComparedConfig, ConfigPool, SetFields};

/// The longest text that is read, in bytes: all MachineConfigs of a cluster, with some older rendered ones.
pub const MAX_TEXT: usize = 32 << 20;

/// Where the operator names the pool that a rendered MachineConfig is for, and its files come from.
const NAMES: &str = "oc get machineconfigs,machineconfigpools -o yaml";

/// Why the state of a pool was not read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PoolError {
    #[error(transparent)]
    Text(#[from] ReadConfigError),
    #[error("has more than {} MiB; print only what is needed: oc get machineconfig rendered-…", MAX_TEXT >> 20)]
    TooLarge,
    /// There is no rendered MachineConfig; what there is instead.
    #[error(
        "holds no rendered MachineConfig{0}; oc get machineconfigpool POOL -o jsonpath='{{.spec.configuration.name}}' \
         prints the name of a pool's, and oc get machineconfig NAME -o yaml prints it"
    )]
    NoneRendered(String),
    #[error(
        "holds several rendered MachineConfigs, {0}; print that of the pool alone, or the pools too: {NAMES}, and name \
         the pool with --role"
    )]
    SeveralRendered(String),
    /// The pool's rendered MachineConfig is not in the file.
    #[error("holds the pool {pool}, but not its MachineConfig {name}; print both: {NAMES}")]
    Elsewhere { pool: String, name: String },
    /// An entry is malformed: the line, if it can be found, and what is wrong.
    #[error("{}{what}; {remedy}", .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
    Entry { line: Option<usize>, what: String, remedy: String },
}

/// Why the MachineConfig that is to be applied was not read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlannedConfigError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("holds no MachineConfig; usernsd machineconfig prints one")]
    None,
    #[error("holds several MachineConfigs, {0}; check one after the other")]
    Several(String),
}

/// The state of a pool.
#[derive(Debug, Clone, Default)]
pub(super) struct PoolState {
    pub pool: ConfigPool,
    /// The pool's name; empty if it is not known.
    pub name: String,
    /// The release of OpenShift that rendered it, such as `4.19.3`.
    pub release: Option<String>,
    /// The object MachineConfigPool.
    pub object: Option<PoolObject>,
    /// Names of the pool's nodes; empty if they are not known.
    pub nodes: Vec<String>,
    pub policies: ClusterPolicies,
}

/// A MachineConfigPool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolObject {
    pub is_paused: bool,
    pub is_updating: bool,
    pub machines: Option<u64>,
    pub max_unavailable: String,
}

/// The policies of `MachineConfiguration/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum ClusterPolicies {
    /// The object is not in the file.
    #[default]
    Unknown,
    /// The operator has no such policies.
    Unsupported,
    /// Those in effect, and those that somebody has set.
    Known { effective: DisruptionPolicies, set: DisruptionPolicies },
}

/// The MachineConfig that is to be applied.
#[derive(Debug, Clone)]
pub(super) struct PlannedConfig {
    pub config: ComparedConfig,
    /// The version of Ignition; `None` if the MachineConfig has no such part.
    pub ignition: Option<String>,
    /// Policies that are applied with it.
    pub policies: DisruptionPolicies,
}

/// The text, in which the line of a malformed entry is looked for.
struct Source<'a> {
    text: &'a str,
}

fn get<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key)).filter(|value| !value.is_null())
}

fn string<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    get(value, path).and_then(Value::as_str)
}

fn kind(value: &Value) -> &str {
    string(value, &["kind"]).unwrap_or_default()
}

fn name(value: &Value) -> &str {
    string(value, &["metadata", "name"]).unwrap_or_default()
}

/// For a message: at most 100 characters.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

fn all_objects(text: &str) -> Result<Vec<Value>, PoolError> {
    if text.len() > MAX_TEXT {
        return Err(PoolError::TooLarge);
    }
    let documents = if text.trim_start().starts_with('{') {
        let one = serde_json::from_str(text).map_err(|error| ReadConfigError::Json(chain(&error)))?;
        vec![one]
    } else {
        documents(text)?
    };
    Ok(documents.iter().flat_map(objects).filter(|one| !one.is_null()).cloned().collect())
}

/// Reads the state of the pool of that role.
///
/// # Errors
/// See [`PoolError`].
pub(super) fn read(text: &str, role: &str) -> Result<PoolState, PoolError> {
    let source = Source { text };
    let found = all_objects(text)?;
    // The operator keeps its copy on a node without a kind.
    let is_config = |one: &Value| {
        kind(one) == "MachineConfig" || (kind(one).is_empty() && name(one).starts_with("rendered-"))
    };
    let (rendered, sources): (Vec<&Value>, Vec<&Value>) =
        found.iter().filter(|one| is_config(one)).partition(|one| name(one).starts_with("rendered-"));
    let pools: Vec<&Value> = found.iter().filter(|one| kind(one) == "MachineConfigPool").collect();
    let chosen = choose(&rendered, &pools, role, &found)?;
    let pool_name = pool_of(chosen);
    let object = pools.iter().copied().find(|pool| name(pool) == pool_name);
    let members =
        object.and_then(|pool| get(pool, &["spec", "configuration", "source"])).and_then(Value::as_array);
    let is_source = |one: &Value| match members {
        Some(members) => members.iter().any(|member| string(member, &["name"]) == Some(name(one))),
        // Without the pool: those of its role, and of the role that other pools inherit from.
        None => {
            matches!(read::role(one), Some(role) if role == pool_name || (role == "worker" && pool_name != "master"))
        }
    };
    let mut state = PoolState {
        name: pool_name.to_owned(),
        release: string(
            chosen,
            &["metadata", "annotations", "machineconfiguration.openshift.io/release-image-version"],
        )
        .map(short),
        object: object.map(pool_object),
        policies: policies(&found)?,
        ..PoolState::default()
    };
    state.pool.rendered = source.config(chosen)?;
    state.pool.sources = sources
        .into_iter()
        .filter(|one| is_source(one))
        .map(|one| source.config(one))
        .collect::<Result<_, _>>()?;
    let current = |node: &&Value| {
        let annotation = ["metadata", "annotations", "machineconfiguration.openshift.io/desiredConfig"];
        kind(node) == "Node" && string(node, &annotation) == Some(name(chosen))
    };
    state.nodes = found.iter().filter(current).map(|node| name(node).to_owned()).collect();
    state.nodes.sort();
    Ok(state)
}

/// The rendered MachineConfig of the role's pool.
fn choose<'a>(
    rendered: &[&'a Value],
    pools: &[&'a Value],
    role: &str,
    found: &[Value],
) -> Result<&'a Value, PoolError> {
    let pool = pools.iter().find(|pool| name(pool) == role);
    if let Some(wanted) = pool.and_then(|pool| string(pool, &["spec", "configuration", "name"])) {
        let one = rendered.iter().find(|one| name(one) == wanted).copied();
        return one.ok_or_else(|| PoolError::Elsewhere { pool: role.to_owned(), name: short(wanted) });
    }
    match rendered {
        [one] => Ok(one),
        [] => {
            let mut kinds: Vec<String> =
                found.iter().map(kind).filter(|kind| !kind.is_empty()).map(short).collect();
            kinds.sort();
            kinds.dedup();
            kinds.truncate(5);
            let instead = match (kinds.is_empty(), found.is_empty()) {
                (false, _) => format!(", but: {}", kinds.join(", ")),
                (true, true) => ", and nothing else: oc has printed nothing".to_owned(),
                (true, false) => String::new(),
            };
            Err(PoolError::NoneRendered(instead))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|one| name(one)).take(5).collect();
            Err(PoolError::SeveralRendered(short(&names.join(", "))))
        }
    }
}

/// The pool of a rendered MachineConfig: its owner's name, or that between `rendered-` and the hash.
fn pool_of(rendered: &Value) -> &str {
    let owners = get(rendered, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    let owner = owners.into_iter().flatten().find(|owner| kind(owner) == "MachineConfigPool");
    owner.and_then(|owner| string(owner, &["name"])).unwrap_or_else(|| {
        let rest = name(rendered).strip_prefix("rendered-").unwrap_or_default();
        rest.rsplit_once('-').map_or("", |(pool, _)| pool)
    })
}

fn pool_object(pool: &Value) -> PoolObject {
    let unavailable = get(pool, &["spec", "maxUnavailable"]);
    PoolObject {
        is_paused: get(pool, &["spec", "paused"]).and_then(Value::as_bool) == Some(true),
        is_updating: string(pool, &["spec", "configuration", "name"])
            != string(pool, &["status", "configuration", "name"]),
        machines: get(pool, &["status", "machineCount"]).and_then(Value::as_u64),
        // A number, or a percentage; one node without it (maxUnavailable of the API).
        max_unavailable: unavailable.map_or_else(
            || "1".to_owned(),
            |value| match value {
                Value::String(text) => short(text),
                other => other.to_string(),
            },
        ),
    }
}

/// The policies in `MachineConfiguration/cluster`, if the object is there.
fn policies(found: &[Value]) -> Result<ClusterPolicies, PoolError> {
    let is_it = |one: &&Value| kind(one) == "MachineConfiguration" && name(one) == "cluster";
    let Some(object) = found.iter().find(is_it) else { return Ok(ClusterPolicies::Unknown) };
    let set =
        get(object, &["spec", "nodeDisruptionPolicy"]).map(policy_lists).transpose()?.unwrap_or_default();
    let status = ["status", "nodeDisruptionPolicyStatus", "clusterPolicies"];
    Ok(match get(object, &status) {
        Some(effective) => ClusterPolicies::Known { effective: policy_lists(effective)?, set },
        None => ClusterPolicies::Unsupported,
    })
}

fn policy_lists(value: &Value) -> Result<DisruptionPolicies, PoolError> {
    let list = |key: &str, id: &str| -> Result<BTreeMap<String, Vec<DisruptionAction>>, PoolError> {
        let entries = get(value, &[key]).and_then(Value::as_array).into_iter().flatten();
        entries
            .map(|entry| Ok((string(entry, &[id]).unwrap_or_default().to_owned(), actions(entry)?)))
            .collect()
    };
    let users = get(value, &["sshkey"]).map(actions).transpose()?.unwrap_or_default();
    Ok(DisruptionPolicies { files: list("files", "path")?, units: list("units", "name")?, users })
}

fn actions(entry: &Value) -> Result<Vec<DisruptionAction>, PoolError> {
    let list = get(entry, &["actions"]).and_then(Value::as_array).into_iter().flatten();
    list.map(|action| {
        let service = |key: &str| string(action, &[key, "serviceName"]).unwrap_or_default().to_owned();
        Ok(match string(action, &["type"]).unwrap_or_default() {
            "None" => DisruptionAction::None,
            "Drain" => DisruptionAction::Drain,
            "DaemonReload" => DisruptionAction::DaemonReload,
            "Reload" => DisruptionAction::Reload(service("reload")),
            "Restart" => DisruptionAction::Restart(service("restart")),
            "Special" => DisruptionAction::Special,
            "Reboot" => DisruptionAction::Reboot,
            other => {
                return Err(PoolError::Entry {
                    line: None,
                    what: format!(
                        "MachineConfiguration/cluster: {:?} is no action of a NodeDisruptionPolicy",
                        short(other)
                    ),
                    remedy: "leave the object out, or ask whether there is a newer usernsd".to_owned(),
                });
            }
        })
    })
    .collect()
}

/// Reads the MachineConfig that is to be applied.
///
/// # Errors
/// See [`PlannedConfigError`].
pub(super) fn ours(text: &str) -> Result<PlannedConfig, PlannedConfigError> {
    let source = Source { text };
    let found = all_objects(text)?;
    let configs: Vec<&Value> = found.iter().filter(|one| kind(one) == "MachineConfig").collect();
    let [one] = configs.as_slice() else {
        let names: Vec<&str> = configs.iter().map(|one| name(one)).take(5).collect();
        return Err(if names.is_empty() {
            PlannedConfigError::None
        } else {
            PlannedConfigError::Several(short(&names.join(", ")))
        });
    };
    let of_cluster = found.iter().find(|one| kind(one) == "MachineConfiguration");
    let set = of_cluster.and_then(|object| get(object, &["spec", "nodeDisruptionPolicy"]));
    Ok(PlannedConfig {
        config: source.config(one)?,
        ignition: string(one, &["spec", "config", "ignition", "version"]).map(short),
        policies: set.map(policy_lists).transpose()?.unwrap_or_default(),
    })
}

/// Whether the operator of a release reads a version of Ignition; `None` if that is not known.
pub(super) fn reads_ignition(release: &str, version: &str) -> Option<bool> {
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().ok());
    let release = (numbers.next()??, numbers.next()??);
    let since = match Ignition::parse(version)? {
        Ignition::V3_1 => (4, 6),
        Ignition::V3_2 => (4, 8),
        Ignition::V3_3 | Ignition::V3_4 => (4, 14),
        Ignition::V3_5 => (4, 19),
    };
    Some(release >= since)
}

impl Source<'_> {
    /// An entry that is malformed; its line is where that text is, if it is there once.
    fn wrong(&self, near: &str, what: String, remedy: &str) -> PoolError {
        let mut lines =
            self.text.lines().enumerate().filter(|(_, line)| !near.is_empty() && line.contains(near));
        let line = match (lines.next(), lines.next()) {
            (Some((index, _)), None) => Some(index + 1),
            _ => None,
        };
        PoolError::Entry { line, what, remedy: remedy.to_owned() }
    }

    fn config(&self, object: &Value) -> Result<ComparedConfig, PoolError> {
        const PRINTED: &str = "write the object as oc get machineconfig NAME -o yaml prints it";
        let name = name(object);
        if name.is_empty() {
            return Err(self.wrong(
                "kind: MachineConfig",
                "a MachineConfig has no metadata.name".to_owned(),
                PRINTED,
            ));
        }
        let wrong = |near: &str, what: &str| {
            self.wrong(near, format!("MachineConfig {}: {what}", short(name)), PRINTED)
        };
        let spec = get(object, &["spec"]).unwrap_or(&Value::Null);
        if !spec.is_object() {
            return Err(wrong(name, "spec is missing"));
        }
        let mut config = ComparedConfig {
            name: name.to_owned(),
            role: read::role(object).unwrap_or_default().to_owned(),
            ..ComparedConfig::default()
        };
        let list = |value: &'_ Value, path: &[&str]| -> Result<Vec<Value>, PoolError> {
            match get(value, path) {
                None => Ok(Vec::new()),
                Some(Value::Array(list)) => Ok(list.clone()),
                Some(_) => {
                    let last = path.last().copied().unwrap_or_default();
                    Err(wrong(&format!("{last}:"), &format!("{} is no list", path.join("."))))
                }
            }
        };
        for argument in list(spec, &["kernelArguments"])? {
            let text =
                argument.as_str().ok_or_else(|| wrong("kernelArguments:", "a kernel argument is no text"))?;
            config.kernel_arguments.push(text.to_owned());
        }
        let ignition = get(spec, &["config"]).unwrap_or(&Value::Null);
        for file in list(ignition, &["storage", "files"])? {
            let path = string(&file, &["path"]).unwrap_or_default();
            if !path.starts_with('/') {
                return Err(wrong(path, &format!("the file {:?} has no absolute path", short(path))));
            }
            self.file(&file, path, &mut config.refused);
            let mut fields = flat(&file);
            fields.remove("path");
            // MergeMachineConfigs sets it in what it renders.
            fields.entry("overwrite".to_owned()).or_insert_with(|| "true".to_owned());
            config.files.insert(path.to_owned(), fields);
        }
        for unit in list(ignition, &["systemd", "units"])? {
            let unit_name = string(&unit, &["name"]).unwrap_or_default();
            if !is_unit(unit_name) {
                return Err(wrong(
                    unit_name,
                    &format!("{:?} is not the name of a systemd unit", short(unit_name)),
                ));
            }
            let mut fields = flat(&unit);
            fields.remove("name");
            config.units.insert(unit_name.to_owned(), fields);
        }
        for user in list(ignition, &["passwd", "users"])? {
            users(&user, &mut config);
        }
        system(spec, &mut config);
        // isConfigReconcilable: changes of these sections.
        for path in [
            &["storage", "disks"][..],
            &["storage", "filesystems"],
            &["storage", "raid"],
            &["storage", "directories"],
            &["storage", "links"],
            &["passwd", "groups"],
            &["kernelArguments"],
        ] {
            if get(ignition, path).is_some_and(|value| !is_blank(value)) {
                config
                    .refused
                    .push(format!("spec.config.{} cannot be changed on a node that runs", path.join(".")));
            }
        }
        Ok(config)
    }

    /// What the operator refuses in a file (isConfigReconcilable, validateIgn3FileModes).
    fn file(&self, file: &Value, path: &str, refused: &mut Vec<String>) {
        if get(file, &["append"]).is_some_and(|value| !is_blank(value)) {
            refused.push(format!("{path}: append is not supported"));
        }
        if get(file, &["mode"]).is_some_and(|mode| mode.as_u64().is_none_or(|mode| mode > 0o777)) {
            refused.push(format!("{path}: the mode cannot exceed 0777, which is 511"));
        }
        if path == "/run/machine-config-daemon-force" {
            refused.push(format!("{path} cannot be created by a MachineConfig"));
        }
    }
}

/// SSH keys and password; the operator changes nothing else of a user, and no user but `core` (verifyUserFields).
fn users(user: &Value, config: &mut ComparedConfig) {
    let user_name = string(user, &["name"]).unwrap_or_default();
    for (key, value) in user.as_object().into_iter().flatten().filter(|(_, value)| !is_blank(value)) {
        match (key.as_str(), value) {
            ("name", _) => {}
            ("sshAuthorizedKeys", Value::Array(keys)) if user_name == "core" => {
                for one in keys.iter().filter_map(Value::as_str) {
                    config.users.insert(format!("sshAuthorizedKeys.{one}"), String::new());
                }
            }
            ("passwordHash", Value::String(hash)) if user_name == "core" => {
                config.users.insert("passwordHash".to_owned(), hash.clone());
            }
            _ => config.refused.push(format!("{key} of the user {:?} cannot be changed", short(user_name))),
        }
    }
}

/// The properties of the operating system (newMachineConfigDiff).
fn system(spec: &Value, config: &mut ComparedConfig) {
    let image = string(spec, &["osImageURL"]).filter(|url| !url.is_empty());
    config.system.extend(image.map(|url| ("the OS image".to_owned(), url.to_owned())));
    // CanonicalizeKernelType: everything else is the default.
    let kernel = string(spec, &["kernelType"]).filter(|kernel| ["realtime", "64k-pages"].contains(kernel));
    config.system.extend(kernel.map(|kernel| ("the type of the kernel".to_owned(), kernel.to_owned())));
    if get(spec, &["fips"]).and_then(Value::as_bool) == Some(true) {
        config.system.insert("FIPS".to_owned(), "true".to_owned());
    }
    let extensions = get(spec, &["extensions"]).and_then(Value::as_array).into_iter().flatten();
    for extension in extensions.filter_map(Value::as_str) {
        config.system.insert(format!("the extension {extension}"), String::new());
    }
}

/// Every field that is set, by its path. Entries of a list count by their name, as Ignition merges them.
fn flat(value: &Value) -> SetFields {
    fn walk(value: &Value, path: &str, fields: &mut SetFields) {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            Value::Null => {}
            Value::Object(entries) => {
                entries.iter().for_each(|(key, value)| walk(value, &below(key), fields));
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let key = string(item, &["name"]).map_or_else(|| index.to_string(), str::to_owned);
                    walk(item, &below(&key), fields);
                }
            }
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => {
                fields.insert(path.to_owned(), text.clone());
            }
            other => {
                fields.insert(path.to_owned(), other.to_string());
            }
        }
    }
    let mut fields = SetFields::new();
    walk(value, "", &mut fields);
    fields
}
