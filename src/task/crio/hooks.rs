//! OCI hooks that CRI-O does not start with (containers/common `pkg/hooks`: `read.go`, and `hook.go` of
//! `1.0.0` and `0.1.0`).

use serde_json::Value;

use crate::domain::crio::config::Effective;
use crate::domain::finding::Finding;
use crate::edge::crio::ConfRoot;

/// The stages of a hook.
const STAGES: [&str; 6] =
    ["createContainer", "createRuntime", "prestart", "poststart", "poststop", "startContainer"];

/// Those in CRI-O's directories. `is_written` knows programs that are about to be.
pub(super) fn bad(conf: &ConfRoot, effective: &Effective, is_written: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let directories = effective.hooks_dirs.value.iter();
    let hooks = directories.flat_map(|directory| conf.hooks(directory.trim_end_matches('/')));
    hooks.filter_map(|(path, bytes)| why_bad(conf, &path, bytes, is_written)).collect()
}

/// What is wrong with one.
pub(super) fn why_bad(
    conf: &ConfRoot,
    path: &str,
    bytes: Result<Vec<u8>, String>,
    is_written: &dyn Fn(&str) -> bool,
) -> Option<Finding> {
    let why = match bytes.map(|bytes| serde_json::from_slice::<Value>(&bytes)) {
        Ok(Ok(hook)) => validate(&hook, &|program| {
            // CRI-O runs in the root directory.
            let program = if program.starts_with('/') { program.to_owned() } else { format!("/{program}") };
            !is_missing(conf, &program) || is_written(&program)
        })
        .err()?,
        Ok(Err(error)) => format!("version check: {error}"),
        Err(why) => why,
    };
    let what = format!("{path}: CRI-O does not start with it: parsing hook {path:?}: {why}");
    Some(Finding::error("oci-hook-bad", what, "repair or remove it"))
}

/// Whether a program is not there, and would be seen if it were: a container that was shown some
/// directories of the node only has no `/root`.
fn is_missing(conf: &ConfRoot, program: &str) -> bool {
    let sees = |path: &str| conf.has_program(path) == Some(true);
    let parent = program.rsplit_once('/').map_or("", |(parent, _)| parent);
    conf.has_program(program) == Some(false)
        && (program.starts_with("/usr/") || sees(parent) || sees("/root"))
}

fn validate(hook: &Value, exists: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let (path, stages) = match field(hook, "version") {
        Some(Value::String(version)) if version == "1.0.0" => {
            let path = text(field(hook, "hook").and_then(|hook| field(hook, "path")));
            if path.is_empty() {
                return Err("missing required property: hook.path".to_owned());
            }
            (path, field(hook, "stages"))
        }
        None | Some(Value::Null) => old(hook)?,
        Some(Value::String(version)) if matches!(version.as_str(), "0.1.0" | "") => old(hook)?,
        Some(Value::String(version)) => return Err(format!("unrecognized hook version: {version:?}")),
        Some(_) => return Err("version check: the version is no text".to_owned()),
    };
    if !exists(&path) {
        return Err(format!("stat {path}: no such file or directory"));
    }
    let Some(stages) = stages.and_then(Value::as_array) else {
        return Err("missing required property: stages".to_owned());
    };
    match stages.iter().find(|stage| !stage.as_str().is_some_and(|stage| STAGES.contains(&stage))) {
        None => Ok(()),
        Some(stage) => Err(format!("unknown stage {stage}")),
    }
}

/// Version 0.1.0, which is also meant where none is said.
fn old(hook: &Value) -> Result<(String, Option<&Value>), String> {
    let Some(path) = field(hook, "hook").and_then(Value::as_str) else {
        return Err("missing required property: hook".to_owned());
    };
    let [stages, stage] = ["stages", "stage"].map(|name| field(hook, name).filter(|value| !value.is_null()));
    if stages.is_some() && stage.is_some() {
        return Err("cannot set both 'stage' and 'stages'".to_owned());
    }
    Ok((path.to_owned(), stages.or(stage)))
}

/// Go takes names in any case.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    fields
        .get(name)
        .or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}
