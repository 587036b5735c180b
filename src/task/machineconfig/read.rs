//! What a MachineConfig would write on a node (`usernsd bootstrap --machineconfig FILE`), and which
//! files the rendered one keeps.

use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::Value;
use thiserror::Error;

use crate::domain::finding::Finding;
use crate::domain::ignition::bytes::from_data_url;
use crate::domain::ignition::{Carried, NodeFile, NodeUnit};
use crate::domain::mco::Managed;
use crate::domain::provision::{FileChange, HostPathError};
use crate::domain::written::{Read, whole};

/// No file in a MachineConfig is longer: the whole object may have 1.5 MiB.
const MAX_BYTES: u64 = 8 << 20;

/// What a MachineConfig says, as far as a plain node can do it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// Files.
    pub files: Vec<NodeFile>,
    /// Units.
    pub units: Vec<NodeUnit>,
    /// Kernel arguments: reported, not set; they need a reboot.
    pub kernel_arguments: Vec<String>,
    /// What a plain node cannot do.
    pub findings: Vec<Finding>,
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
}

/// Reads every MachineConfig of a file; later files and units of the same name win, as the operator
/// merges them.
///
/// # Errors
/// See [`ReadError`].
pub fn parse(text: &str) -> Result<Parsed, ReadError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| ReadError::Yaml(error.to_string()))?;
    let mut parsed = Parsed::default();
    let mut any = false;
    for document in documents.iter().filter(|document| !document.is_null()) {
        match document.get("kind").and_then(Value::as_str) {
            Some("MachineConfig") => {
                any = true;
                one(document.get("spec").unwrap_or(&Value::Null), &mut parsed)?;
            }
            other => {
                let what = format!("a document of kind {} is left out", other.unwrap_or("nothing"));
                parsed.findings.push(Finding::note("machineconfig-left-out", what));
            }
        }
    }
    if any { Ok(parsed) } else { Err(ReadError::None) }
}

fn one(spec: &Value, parsed: &mut Parsed) -> Result<(), ReadError> {
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
    for value in items(config, "storage", "files") {
        let file = file(value)?;
        parsed.files.retain(|other| other.path != file.path);
        parsed.files.push(file);
    }
    for value in items(config, "systemd", "units") {
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if name.is_empty() || name.contains('/') || !name.contains('.') || name.starts_with('.') {
            return Err(ReadError::Unit(name));
        }
        for drop_in in value.get("dropins").and_then(Value::as_array).into_iter().flatten() {
            let (Some(file), Some(text)) = (
                drop_in.get("name").and_then(Value::as_str).filter(|file| !file.contains('/')),
                drop_in.get("contents").and_then(Value::as_str),
            ) else {
                return Err(ReadError::Unit(name));
            };
            parsed
                .files
                .push(NodeFile::text(&format!("/etc/systemd/system/{name}.d/{file}"), text.to_owned()));
        }
        if value.get("mask") == Some(&Value::Bool(true)) {
            parsed.findings.push(left_out(format!("masking {name}")));
        }
        parsed.units.retain(|other| other.name != name);
        parsed.units.push(NodeUnit {
            enabled: value.get("enabled") == Some(&Value::Bool(true)),
            text: value.get("contents").and_then(Value::as_str).map(str::to_owned),
            name,
        });
    }
    Ok(())
}

fn items<'a>(config: &'a Value, section: &str, key: &str) -> impl Iterator<Item = &'a Value> {
    let list = config.get(section).and_then(|section| section.get(key)).and_then(Value::as_array);
    list.into_iter().flatten()
}

fn file(value: &Value) -> Result<NodeFile, ReadError> {
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
    let contents = value.get("contents");
    let source =
        contents.and_then(|contents| contents.get("source")).and_then(Value::as_str).unwrap_or("data:,");
    let bytes = from_data_url(source).map_err(|error| wrong(&error.to_string()))?;
    match contents.and_then(|contents| contents.get("compression")).and_then(Value::as_str) {
        None | Some("") => Ok(NodeFile { path, mode, content: bytes, carried: Carried::Plain }),
        Some("gzip") => {
            let mut content = Vec::new();
            let read = GzDecoder::new(bytes.as_slice()).take(MAX_BYTES + 1).read_to_end(&mut content);
            if read.is_err() || content.len() as u64 > MAX_BYTES {
                return Err(wrong("is no gzip, or too long"));
            }
            Ok(NodeFile { path, mode, content, carried: Carried::Gzip(bytes) })
        }
        Some(_) => Err(wrong("is compressed in another way than gzip")),
    }
}

impl Parsed {
    /// The node's files as they become, and what is left for a person to do.
    ///
    /// # Errors
    /// A path in it leads nowhere below the root.
    pub fn changes(&self, read: Read<'_>) -> Result<(Vec<FileChange>, Vec<Finding>), HostPathError> {
        let (mut changes, mut findings) = (Vec::new(), self.findings.clone());
        let reason = "the MachineConfig says so";
        for file in &self.files {
            let mode = file.mode.unwrap_or(0o644);
            changes.push(whole(&file.path, mode, Some(file.content.clone()), reason, read)?);
        }
        for unit in &self.units {
            if let Some(text) = &unit.text {
                let path = format!("/etc/systemd/system/{}", unit.name);
                changes.push(whole(&path, 0o644, Some(text.clone().into_bytes()), reason, read)?);
            }
            if unit.enabled {
                let what = format!("{} is to be enabled", unit.name);
                let remedy = format!("run: systemctl enable --now {}", unit.name);
                findings.push(Finding::warning("unit-to-enable", what, &remedy));
            }
        }
        if !self.kernel_arguments.is_empty() {
            let what = format!("kernel arguments need a reboot: {}", self.kernel_arguments.join(" "));
            findings.push(Finding::warning(
                "kernel-arguments",
                what,
                "set them in the boot loader, then reboot",
            ));
        }
        Ok((changes, findings))
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
