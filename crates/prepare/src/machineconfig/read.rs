//! What a MachineConfig would write on a node (`usernsd bootstrap --machineconfig FILE`), and which
//! files the rendered one keeps.

use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::Value;
use thiserror::Error;

use usernsd_domain::finding::Finding;
use usernsd_domain::ignition::bytes::from_data_url;
use usernsd_domain::ignition::install::is_unit;
use usernsd_domain::ignition::{Carried, Ignition, NodeFile};
use usernsd_domain::mco::Managed;

/// The longest text that is read, in bytes. etcd takes no object of more than 1.5 MiB; a file may hold
/// several.
const MAX_TEXT: usize = 4 << 20;
/// The contents of all files together, decompressed, in bytes.
const MAX_CONTENTS: usize = 16 << 20;
/// Files and units together, counted as often as they are named.
const MAX_ITEMS: usize = 2000;

/// What a MachineConfig says, as far as a plain node can do it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// Files, drop-ins of units among them.
    pub files: Vec<SaidFile>,
    /// Units.
    pub units: Vec<SaidUnit>,
    /// Kernel arguments: reported, not set; they need a reboot.
    pub kernel_arguments: Vec<String>,
    /// What a plain node cannot do.
    pub findings: Vec<Finding>,
}

/// A file, and how it is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct SaidFile {
    /// The file.
    pub node: NodeFile,
    /// Whether a file that is there gives way; `None` where nothing is said of it, and it does, as on
    /// OpenShift.
    pub overwrite: Option<bool>,
    /// Whether contents are said: without them a file that is there keeps its own (Ignition's
    /// specification).
    pub has_contents: bool,
}

/// A unit, and what is to become of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SaidUnit {
    /// Its name.
    pub name: String,
    /// Its text; `None`: the unit is there already.
    pub text: Option<String>,
    /// Whether it starts at boot; `None`: as it is.
    pub enabled: Option<bool>,
    /// Whether it cannot be started at all; `None`: as it is.
    pub masked: Option<bool>,
}

/// Why a file is no MachineConfig.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// Not YAML.
    #[error("is not YAML: {0}")]
    Yaml(String),
    /// There is none in it.
    #[error("holds no MachineConfig")]
    None,
    /// A file in it.
    #[error("file {path}: {what}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A unit in it.
    #[error("{0:?} is not the name of a systemd unit")]
    Unit(String),
    /// Another version of Ignition.
    #[error("is said in Ignition {0}; usernsd reads 3.1.0 to 3.5.0")]
    Version(String),
    /// More than a node is made to read.
    #[error("has more than {0}; split it into several files, and apply one after the other")]
    TooLarge(String),
}

/// What may still be read. It keeps a small file from taking a node's memory: contents may be
/// compressed a thousandfold.
struct Budget {
    bytes: usize,
    items: usize,
}

impl Budget {
    fn take_item(&mut self) -> Result<(), ReadError> {
        let left = self.items.checked_sub(1);
        self.items = left.ok_or_else(|| ReadError::TooLarge(format!("{MAX_ITEMS} files and units")))?;
        Ok(())
    }

    fn take_bytes(&mut self, count: usize) -> Result<(), ReadError> {
        let left = self.bytes.checked_sub(count);
        let most = || ReadError::TooLarge(format!("{} MiB of contents", MAX_CONTENTS >> 20));
        self.bytes = left.ok_or_else(most)?;
        Ok(())
    }
}

/// Reads every MachineConfig of a file; later files and units of the same name win, as the operator
/// merges them.
///
/// # Errors
/// See [`ReadError`].
pub fn parse(text: &str) -> Result<Parsed, ReadError> {
    if text.len() > MAX_TEXT {
        return Err(ReadError::TooLarge(format!("{} MiB of text", MAX_TEXT >> 20)));
    }
    // The Kubernetes API reads YAML 1.1, in which 0644 is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| ReadError::Yaml(error.to_string()))?;
    let mut parsed = Parsed::default();
    let mut any = false;
    let mut budget = Budget { bytes: MAX_CONTENTS, items: MAX_ITEMS };
    for document in documents.iter().filter(|document| !document.is_null()) {
        match document.get("kind").and_then(Value::as_str) {
            Some("MachineConfig") => {
                any = true;
                one(document.get("spec").unwrap_or(&Value::Null), &mut parsed, &mut budget)?;
            }
            other => {
                let what = format!("a document of kind {} is left out", other.unwrap_or("nothing"));
                parsed.findings.push(Finding::note("machineconfig-left-out", what));
            }
        }
    }
    if any { Ok(parsed) } else { Err(ReadError::None) }
}

fn one(spec: &Value, parsed: &mut Parsed, budget: &mut Budget) -> Result<(), ReadError> {
    let texts = |value: Option<&Value>| -> Vec<String> {
        value
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|v| Some(v.as_str()?.to_owned()))
            .collect()
    };
    parsed.kernel_arguments.extend(texts(spec.get("kernelArguments")));
    let left_out = |what: String| {
        Finding::warning(
            "machineconfig-left-out",
            format!("{what} is left out on a plain node"),
            "do it by hand",
        )
    };
    for key in ["extensions", "kernelType", "fips", "osImageURL"] {
        let set =
            |value: &&Value| !matches!(value, Value::Null | Value::Bool(false)) && value.as_str() != Some("");
        if spec.get(key).filter(set).is_some() {
            parsed.findings.push(left_out(format!("spec.{key}")));
        }
    }
    let config = spec.get("config").unwrap_or(&Value::Null);
    for (section, known) in
        [("storage", "files"), ("systemd", "units"), ("ignition", "version"), ("passwd", "")]
    {
        for (key, value) in config.get(section).and_then(Value::as_object).into_iter().flatten() {
            let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if key != known && !empty && !value.as_object().is_some_and(serde_json::Map::is_empty) {
                parsed.findings.push(left_out(format!("config.{section}.{key}")));
            }
        }
    }
    let version = config.get("ignition").and_then(|ignition| ignition.get("version")).and_then(Value::as_str);
    if let Some(version) = version.filter(|version| Ignition::parse(version).is_none()) {
        return Err(ReadError::Version(version.chars().take(40).collect()));
    }
    for value in items(config, "storage", "files") {
        budget.take_item()?;
        put(parsed, file(value, budget)?);
    }
    for value in items(config, "systemd", "units") {
        budget.take_item()?;
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !is_unit(&name) {
            return Err(ReadError::Unit(name));
        }
        for drop_in in value.get("dropins").and_then(Value::as_array).into_iter().flatten() {
            let (Some(file), Some(text)) = (
                drop_in
                    .get("name")
                    .and_then(Value::as_str)
                    .filter(|file| file.ends_with(".conf") && !file.contains('/')),
                drop_in.get("contents").and_then(Value::as_str),
            ) else {
                return Err(ReadError::Unit(name));
            };
            budget.take_item()?;
            let node = NodeFile::text(&format!("/etc/systemd/system/{name}.d/{file}"), text.to_owned());
            put(parsed, SaidFile { node, overwrite: None, has_contents: true });
        }
        parsed.units.retain(|other| other.name != name);
        parsed.units.push(SaidUnit {
            text: value.get("contents").and_then(Value::as_str).map(str::to_owned),
            enabled: value.get("enabled").and_then(Value::as_bool),
            masked: value.get("mask").and_then(Value::as_bool),
            name,
        });
    }
    Ok(())
}

fn items<'a>(config: &'a Value, section: &str, key: &str) -> impl Iterator<Item = &'a Value> {
    let list = config.get(section).and_then(|section| section.get(key)).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// The last one of a path wins, as the operator merges them.
fn put(parsed: &mut Parsed, file: SaidFile) {
    parsed.files.retain(|other| other.node.path != file.node.path);
    parsed.files.push(file);
}

fn file(value: &Value, budget: &mut Budget) -> Result<SaidFile, ReadError> {
    let path = value.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
    let wrong = |what: &str| ReadError::File { path: path.clone(), what: what.to_owned() };
    if !path.starts_with('/') {
        return Err(wrong("has no absolute path"));
    }
    let mode = match value.get("mode") {
        None | Some(Value::Null) => None,
        Some(mode) => {
            let mode = mode.as_u64().and_then(|mode| u32::try_from(mode).ok());
            // The operator's own words.
            Some(
                mode.filter(|mode| *mode <= 0o777)
                    .ok_or_else(|| wrong("invalid mode, cannot exceed 0777"))?,
            )
        }
    };
    if value.get("append").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
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
    let contents = value.get("contents");
    let source = contents.and_then(|contents| contents.get("source")).and_then(Value::as_str);
    let said = |content, carried| SaidFile {
        node: NodeFile { path: path.clone(), mode, content, carried },
        overwrite: value.get("overwrite").and_then(Value::as_bool),
        has_contents: source.is_some(),
    };
    let bytes = from_data_url(source.unwrap_or("data:,")).map_err(|error| wrong(&error.to_string()))?;
    budget.take_bytes(bytes.len())?;
    match contents.and_then(|contents| contents.get("compression")).and_then(Value::as_str) {
        None | Some("") => Ok(said(bytes, Carried::Plain)),
        Some("gzip") => {
            let mut content = Vec::new();
            let most = budget.bytes as u64 + 1;
            if GzDecoder::new(bytes.as_slice()).take(most).read_to_end(&mut content).is_err() {
                return Err(wrong("is no gzip"));
            }
            budget.take_bytes(content.len())?;
            Ok(said(content, Carried::Gzip(bytes)))
        }
        Some(_) => Err(wrong("is compressed in another way than gzip")),
    }
}

/// The paths of the rendered MachineConfig on the node; `None`: there is no such file, and no
/// operator.
#[must_use]
pub fn managed(current_config: Option<&[u8]>) -> Managed {
    let Some(bytes) = current_config else { return Managed::Nothing };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        // A hosted control plane keeps it elsewhere, and replaces nodes instead of watching them.
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
