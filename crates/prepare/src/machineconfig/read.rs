//! Parses a MachineConfig to be applied to a node (`usernsd bootstrap --machineconfig FILE`), and finds the
//! files that the rendered MachineConfig owns.

use std::collections::BTreeSet;
use std::io::Read as _;

use flate2::read::MultiGzDecoder;
use ring::digest::{SHA256, SHA512, digest};
use serde_json::Value;
use thiserror::Error;

use usernsd_domain::chain::chain;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::ignition::bytes::from_data_url;
use usernsd_domain::ignition::install::is_unit;
use usernsd_domain::ignition::{FileEncoding, Ignition, NodeFile};
use usernsd_domain::mco::Managed;
use usernsd_domain::mco::merge::{COMPRESSION, SOURCE, SetFields};

/// The longest text that is read, in bytes. etcd stores no object of more than 1.5 MiB; a file may contain
/// several.
const MAX_TEXT: usize = 4 << 20;
/// Size limit of the decompressed contents of all files together, in bytes.
const MAX_CONTENTS: usize = 16 << 20;
/// Limit of files and units together; repeated ones count each time.
const MAX_ITEMS: usize = 2000;
/// The keys of a file, of its contents and of a unit (Ignition's specification, version 3).
const FILE_KEYS: [&str; 7] = ["path", "overwrite", "contents", "append", "mode", "user", "group"];
const CONTENTS_KEYS: [&str; 4] = ["compression", "source", "httpHeaders", "verification"];
const UNIT_KEYS: [&str; 5] = ["name", "enabled", "mask", "contents", "dropins"];

/// The parts of a MachineConfig that can be applied to a plain node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// The files, including drop-ins of units.
    pub files: Vec<FileEntry>,
    pub units: Vec<UnitEntry>,
    /// Kernel arguments. They need a reboot, so they are only reported, not set.
    pub kernel_arguments: Vec<String>,
    /// Findings about what a plain node cannot do.
    pub findings: Vec<Finding>,
}

/// A file, and how to write it.
#[derive(Debug, Clone, PartialEq)]
pub struct FileEntry {
    /// Path, content and mode.
    pub node: NodeFile,
    /// Whether an existing file is replaced; `None` if not specified, which means yes, as on OpenShift.
    pub overwrite: Option<bool>,
    /// Whether contents are specified: without them an existing file keeps its own (Ignition's
    /// specification).
    pub has_contents: bool,
}

/// A unit, and its intended state.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitEntry {
    /// Name of the unit.
    pub name: String,
    /// Text of the unit; `None` if the unit exists already.
    pub text: Option<String>,
    /// Whether the unit is enabled at boot; `None` leaves it unchanged.
    pub enabled: Option<bool>,
    /// Whether the unit is masked; `None` leaves it unchanged.
    pub masked: Option<bool>,
}

/// Why a file is not a usable MachineConfig.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReadConfigError {
    /// The file is not YAML.
    #[error("is not YAML: {0}")]
    Yaml(String),
    /// The file is not JSON.
    #[error("is not JSON: {0}")]
    Json(String),
    /// The file contains no MachineConfig; what it contains instead, and what to do about that.
    #[error("holds no MachineConfig{0}")]
    None(String),
    /// A file entry is not valid.
    #[error("file {path}: {what}")]
    File {
        /// Path in the entry.
        path: String,
        what: String,
    },
    /// A unit's name is not valid.
    #[error("{0:?} is not the name of a systemd unit")]
    Unit(String),
    /// A value is of another kind than the operator reads. Left out, it would mean the default.
    #[error("{place}: {what}")]
    Kind {
        /// The part of the MachineConfig.
        place: String,
        what: String,
    },
    /// The version of Ignition is not supported.
    #[error("is in the format of Ignition {0}; usernsd reads 3.1.0 to 3.5.0")]
    Version(String),
    /// The MachineConfig exceeds a limit.
    #[error("has more than {0}; split it into several files, and apply one after the other")]
    TooLarge(String),
}

/// The number of bytes that may still be read. It protects the node's memory: contents may be compressed a
/// thousandfold.
struct Budget {
    bytes: usize,
    items: usize,
}

impl Budget {
    fn take_item(&mut self) -> Result<(), ReadConfigError> {
        let left = self.items.checked_sub(1);
        self.items = left.ok_or_else(|| ReadConfigError::TooLarge(format!("{MAX_ITEMS} files and units")))?;
        Ok(())
    }

    fn take_bytes(&mut self, count: usize) -> Result<(), ReadConfigError> {
        let left = self.bytes.checked_sub(count);
        let most = || ReadConfigError::TooLarge(format!("{} MiB of contents", MAX_CONTENTS >> 20));
        self.bytes = left.ok_or_else(most)?;
        Ok(())
    }
}

/// Parses all MachineConfigs in a file. Of files or units with the same name the last one counts, as when the
/// operator merges them.
///
/// # Errors
/// See [`ReadConfigError`].
pub fn parse(text: &str) -> Result<Parsed, ReadConfigError> {
    if text.len() > MAX_TEXT {
        return Err(ReadConfigError::TooLarge(format!("{} MiB of text", MAX_TEXT >> 20)));
    }
    let documents = documents(text)?;
    let mut parsed = Parsed::default();
    let mut any = false;
    let mut budget = Budget { bytes: MAX_CONTENTS, items: MAX_ITEMS };
    let mut instead = String::new();
    let mut roles = BTreeSet::new();
    for document in documents.iter().flat_map(objects).filter(|document| !document.is_null()) {
        match document.get("kind").and_then(Value::as_str) {
            Some("MachineConfig") => {
                any = true;
                roles.extend(role(document));
                one(document.get("spec").unwrap_or(&Value::Null), &mut parsed, &mut budget)?;
            }
            other => {
                instead = other_kind(document);
                let what = format!("a document of kind {} is left out", other.unwrap_or("nothing"));
                parsed.findings.push(Finding::note(FindingId::MachineconfigLeftOut, what));
            }
        }
    }
    if roles.len() > 1 {
        let roles: Vec<&str> = roles.into_iter().collect();
        let what = format!(
            "the file holds MachineConfigs of several roles, and all are applied: {}",
            roles.join(", ")
        );
        parsed.findings.push(Finding::warning(
            FindingId::MachineconfigRoles,
            what,
            "leave only those of this node's role in it",
        ));
    }
    if any { Ok(parsed) } else { Err(ReadConfigError::None(instead)) }
}

/// The documents of a text in YAML or JSON.
pub(super) fn documents(text: &str) -> Result<Vec<Value>, ReadConfigError> {
    // The Kubernetes API reads YAML 1.1, in which 0644 is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| ReadConfigError::Yaml(chain(&error)))
}

/// The objects of a document: the items of a list, as `oc get -o yaml` prints it for several.
pub(super) fn objects(document: &Value) -> impl Iterator<Item = &Value> {
    let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    let items = document.get("items").and_then(Value::as_array).filter(|_| is_list);
    let itself = items.is_none().then_some(document);
    items.into_iter().flatten().chain(itself)
}

/// The role of the nodes for which a MachineConfig is.
pub(super) fn role(document: &Value) -> Option<&str> {
    let labels = document.get("metadata")?.get("labels")?;
    labels.get("machineconfiguration.openshift.io/role")?.as_str()
}

/// The kind of a document that is not a MachineConfig but can be converted to one.
fn other_kind(document: &Value) -> String {
    if document.get("variant").is_some() {
        return "; it is a Butane file: butane FILE makes Ignition of it, and with \"variant: openshift\" a \
                MachineConfig"
            .to_owned();
    }
    match document.get("kind").and_then(Value::as_str) {
        Some(kind @ ("ContainerRuntimeConfig" | "KubeletConfig")) => {
            let of = if kind == "KubeletConfig" { "kubelet" } else { "containerruntime" };
            format!(
                "; it holds a {kind}, of which the Machine Config Operator makes one: \
                 oc get machineconfig 99-worker-generated-{of} -o yaml"
            )
        }
        Some(kind) => format!("; it holds a {}", kind.chars().take(60).collect::<String>()),
        None if document.get("ignition").is_some() => {
            "; it is an Ignition file: put it below spec.config of a MachineConfig".to_owned()
        }
        None => String::new(),
    }
}

/// Whether a value is empty: `oc get -o yaml` prints fields that nobody has set.
pub(super) fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_blank),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A part of a MachineConfig.
#[derive(Clone, Copy)]
struct Section<'a> {
    value: &'a Value,
    /// Its name in an error.
    place: &'a str,
}

impl<'a> Section<'a> {
    /// The field `key` as `read` takes it, in words: `wanted`. `None` if it is not there.
    fn field<T>(
        self,
        key: &str,
        wanted: &str,
        read: fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ReadConfigError> {
        let Some(found) = self.value.get(key).filter(|found| !found.is_null()) else { return Ok(None) };
        let wrong = || {
            let kind = match found {
                Value::Null => "nothing",
                Value::Bool(_) => "true or false",
                Value::Number(_) => "a number",
                Value::String(_) => "a text",
                Value::Array(_) => "a list",
                Value::Object(_) => "a mapping",
            };
            let what = format!("{key} is {kind} instead of {wanted}");
            ReadConfigError::Kind { place: self.place.to_owned(), what }
        };
        read(found).map(Some).ok_or_else(wrong)
    }

    fn flag(self, key: &str) -> Result<Option<bool>, ReadConfigError> {
        self.field(key, "true or false", Value::as_bool)
    }

    fn text(self, key: &str) -> Result<Option<&'a str>, ReadConfigError> {
        self.field(key, "a text", Value::as_str)
    }

    /// The items of a list; none if it is not there.
    fn list(self, key: &str) -> Result<&'a [Value], ReadConfigError> {
        let list = self.field(key, "a list", Value::as_array)?;
        Ok(list.map(Vec::as_slice).unwrap_or_default())
    }

    /// A mapping, or one without fields if it is not there.
    fn mapping(self, key: &str, place: &'a str) -> Result<Section<'a>, ReadConfigError> {
        let value = self.field(key, "a mapping", |value| value.is_object().then_some(value))?;
        Ok(Section { value: value.unwrap_or(&Value::Null), place })
    }

    /// The keys that are set and not `known`, each with the part that has it.
    fn others(self, known: &[&str]) -> Vec<String> {
        let fields = self.value.as_object().into_iter().flatten();
        let others = fields.filter(|(key, value)| !known.contains(&key.as_str()) && !is_blank(value));
        others.map(|(key, _)| format!("{}.{key}", self.place)).collect()
    }
}

fn one(spec: &Value, parsed: &mut Parsed, budget: &mut Budget) -> Result<(), ReadConfigError> {
    let of_spec = Section { value: spec, place: "spec" };
    for argument in of_spec.list("kernelArguments")? {
        let text = argument.as_str().ok_or_else(|| ReadConfigError::Kind {
            place: "spec.kernelArguments".to_owned(),
            what: "an argument is not a text".to_owned(),
        })?;
        parsed.kernel_arguments.push(text.to_owned());
    }
    let left_out = |what: String| {
        Finding::warning(
            FindingId::MachineconfigLeftOut,
            format!("{what} is left out on a plain node"),
            "do it by hand",
        )
    };
    for key in ["extensions", "kernelType", "fips", "osImageURL"] {
        let is_default = |value: &Value| key == "kernelType" && value.as_str() == Some("default");
        if spec.get(key).is_some_and(|value| !is_blank(value) && !is_default(value)) {
            parsed.findings.push(left_out(format!("spec.{key}")));
        }
    }
    let config = of_spec.mapping("config", "spec.config")?;
    let storage = config.mapping("storage", "config.storage")?;
    let systemd = config.mapping("systemd", "config.systemd")?;
    let ignition = config.mapping("ignition", "config.ignition")?;
    let passwd = config.mapping("passwd", "config.passwd")?;
    for (section, known) in [(storage, "files"), (systemd, "units"), (ignition, "version"), (passwd, "")] {
        parsed.findings.extend(section.others(&[known]).into_iter().map(left_out));
    }
    let version = ignition.text("version")?;
    if let Some(version) = version.filter(|version| Ignition::parse(version).is_none()) {
        return Err(ReadConfigError::Version(version.chars().take(40).collect()));
    }
    for value in storage.list("files")? {
        budget.take_item()?;
        let file = file(value, budget)?;
        let place = format!("file {}", file.node.path);
        let others = Section { value, place: &place }.others(&FILE_KEYS);
        parsed.findings.extend(others.into_iter().map(left_out));
        put(parsed, file);
    }
    for value in systemd.list("units")? {
        budget.take_item()?;
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !is_unit(&name) {
            return Err(ReadConfigError::Unit(name));
        }
        let place = format!("unit {name}");
        let unit = Section { value, place: &place };
        for drop_in in unit.list("dropins")? {
            let of_drop_in = Section { value: drop_in, place: &place };
            let file = of_drop_in.text("name")?.filter(|file| file.ends_with(".conf") && !file.contains('/'));
            let (Some(file), Some(text)) = (file, of_drop_in.text("contents")?) else {
                return Err(ReadConfigError::Unit(name));
            };
            budget.take_item()?;
            let node = NodeFile::text(&format!("/etc/systemd/system/{name}.d/{file}"), text.to_owned());
            put(parsed, FileEntry { node, overwrite: None, has_contents: true });
        }
        parsed.findings.extend(unit.others(&UNIT_KEYS).into_iter().map(left_out));
        parsed.units.retain(|other| other.name != name);
        parsed.units.push(UnitEntry {
            text: unit.text("contents")?.map(str::to_owned),
            enabled: unit.flag("enabled")?,
            masked: unit.flag("mask")?,
            name,
        });
    }
    Ok(())
}

fn items<'a>(config: &'a Value, section: &str, key: &str) -> impl Iterator<Item = &'a Value> {
    let list = config.get(section).and_then(|section| section.get(key)).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// Adds a file; the last one of each path counts, as when the operator merges them.
fn put(parsed: &mut Parsed, file: FileEntry) {
    parsed.files.retain(|other| other.node.path != file.node.path);
    parsed.files.push(file);
}

fn file(value: &Value, budget: &mut Budget) -> Result<FileEntry, ReadConfigError> {
    let path = value.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
    let wrong = |what: &str| ReadConfigError::File { path: path.clone(), what: what.to_owned() };
    if !path.starts_with('/') {
        return Err(wrong("has no absolute path"));
    }
    let mode = match value.get("mode") {
        None | Some(Value::Null) => None,
        Some(mode) => {
            let mode = mode.as_u64().and_then(|mode| u32::try_from(mode).ok());
            // Follows the operator's error message.
            Some(
                mode.filter(|mode| *mode <= 0o777)
                    .ok_or_else(|| wrong("invalid mode, cannot exceed 0777"))?,
            )
        }
    };
    let place = format!("file {path}");
    let entry = Section { value, place: &place };
    if !entry.list("append")?.is_empty() {
        return Err(wrong("append is not supported"));
    }
    for key in ["user", "group"] {
        let text = |name: &str| value.get(key)?.get(name).filter(|value| !value.is_null());
        let is_root = text("id").is_none_or(|id| id.as_u64() == Some(0))
            && text("name").is_none_or(|name| matches!(name.as_str(), Some("root" | "")));
        if !is_root {
            return Err(wrong("is to be owned by another than root, and usernsd writes root's files only"));
        }
    }
    let contents = entry.mapping("contents", &place)?;
    let fields = contents.value.as_object().into_iter().flatten();
    if let Some((other, _)) = fields.into_iter().find(|(key, _)| !CONTENTS_KEYS.contains(&key.as_str())) {
        let butane = match other.as_str() {
            "inline" | "local" => "; that is Butane's, and butane FILE makes a source of it",
            _ => "",
        };
        return Err(wrong(&format!("contents has {other}, which is no key of Ignition's{butane}")));
    }
    let source = contents.text("source")?;
    let overwrite = entry.flag("overwrite")?;
    let entry = |content, encoding| FileEntry {
        node: NodeFile { path: path.clone(), mode, content, encoding },
        overwrite,
        has_contents: source.is_some(),
    };
    let hash = contents.mapping("verification", &place)?.text("hash")?;
    let verify = |content: &[u8]| hash.map_or(Ok(()), |hash| verify(content, hash)).map_err(wrong);
    let bytes = from_data_url(source.unwrap_or("data:,")).map_err(|error| wrong(&chain(&error)))?;
    budget.take_bytes(bytes.len())?;
    match contents.text("compression")? {
        None | Some("") => {
            verify(&bytes)?;
            Ok(entry(bytes, FileEncoding::Plain))
        }
        Some("gzip") => {
            let content = unpack(&bytes, budget.bytes).ok_or_else(|| wrong("is no gzip"))?;
            budget.take_bytes(content.len())?;
            verify(&content)?;
            Ok(entry(content, FileEncoding::Gzip(bytes)))
        }
        Some(_) => Err(wrong("is compressed in another way than gzip")),
    }
}

/// Compares contents with Ignition's hash of them after decompression, `sha256-HEX` or `sha512-HEX`.
fn verify(content: &[u8], hash: &str) -> Result<(), &'static str> {
    let (kind, hex) = hash.split_once('-').unwrap_or_default();
    let algorithm = match kind {
        "sha256" => &SHA256,
        "sha512" => &SHA512,
        _ => return Err("has a verification.hash that is neither sha256-… nor sha512-…"),
    };
    let found: String =
        digest(algorithm, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(hex) {
        Ok(())
    } else {
        Err("has other contents than those of its verification.hash")
    }
}

/// Decompresses; at most one byte more than `most`. A gzip may have several members, and nothing else after them, as for
/// Go's reader.
fn unpack(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    MultiGzDecoder::new(bytes).take(most as u64 + 1).read_to_end(&mut content).ok()?;
    Some(content)
}

/// The content of a file by its fields, decoded; `None` if that cannot be done.
pub(super) fn decoded(fields: &SetFields) -> Option<Vec<u8>> {
    let bytes = from_data_url(fields.get(SOURCE)?).ok()?;
    match fields.get(COMPRESSION).map(String::as_str) {
        None | Some("") => Some(bytes),
        Some("gzip") => unpack(&bytes, MAX_CONTENTS).filter(|content| content.len() <= MAX_CONTENTS),
        Some(_) => None,
    }
}

/// The paths in the rendered MachineConfig of the node. Without that file the node has no operator.
#[must_use]
pub fn managed(current_config: Option<&[u8]>) -> Managed {
    let Some(bytes) = current_config else { return Managed::Nothing };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        // A hosted control plane stores it elsewhere, and replaces nodes instead of watching them.
        return Managed::Unknown("the rendered MachineConfig on this node is empty".to_owned());
    }
    let Ok(object) = serde_json::from_slice::<Value>(bytes) else {
        return Managed::Unknown("the rendered MachineConfig on this node is no JSON".to_owned());
    };
    let Some(config) = object.get("spec").and_then(|spec| spec.get("config")) else {
        return Managed::Unknown("the rendered MachineConfig on this node has no spec.config".to_owned());
    };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let files = items(config, "storage", "files").filter_map(|file| text(file, "path")).collect();
    let units = items(config, "systemd", "units").filter_map(|unit| {
        let drop_ins = unit.get("dropins").and_then(Value::as_array).into_iter().flatten();
        Some((text(unit, "name")?, drop_ins.filter_map(|one| text(one, "name")).collect()))
    });
    let name = object.get("metadata").and_then(|metadata| text(metadata, "name"));
    Managed::of(&name.unwrap_or_default(), files, units.collect())
}
