//! OCI hooks with which CRI-O does not start, or which it ignores (containers/common `pkg/hooks`: `read.go`,
//! and `hook.go` of `1.0.0` and `0.1.0`; tried with CRI-O 1.36.3).

use serde_json::Value;

use crate::runtime_files::ConfRoot;
use usernsd_domain::crio::config::Effective;
use usernsd_domain::finding::{Finding, FindingId};

/// An error in a hook.
enum Flaw {
    /// CRI-O does not start.
    Fatal(String),
    /// The hook's program does not exist: CRI-O ignores the hook, and reports it only if the file changes.
    NoProgram(String),
}

/// The stages of a hook.
const STAGES: [&str; 6] =
    ["createContainer", "createRuntime", "prestart", "poststart", "poststop", "startContainer"];

/// Findings about the hooks in CRI-O's directories. `is_written` accepts programs that are about to be
/// written.
pub(super) fn bad(conf: &ConfRoot, effective: &Effective, is_written: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let directories = effective.hooks_dirs.value.iter();
    let hooks = directories.flat_map(|directory| conf.hooks(directory.trim_end_matches('/')));
    hooks.filter_map(|(path, bytes)| why_bad(conf, &path, bytes, is_written)).collect()
}

/// The file with which CRI-O runs `usernsd hook`, whatever its name; not one of which it ends, or which it leaves out.
pub(super) fn of_usernsd(conf: &ConfRoot, effective: &Effective) -> Option<String> {
    let directories = effective.hooks_dirs.value.iter();
    let mut hooks = directories.flat_map(|directory| conf.hooks(directory.trim_end_matches('/')));
    let is_ours = |hook: &Value| {
        let text = |pointer| hook.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        text("/hook/path").rsplit('/').next() == Some("usernsd") && text("/hook/args/1") == "hook"
    };
    hooks.find_map(|(path, bytes)| {
        let hook = serde_json::from_slice(bytes.as_ref().ok()?).ok()?;
        (is_ours(&hook) && why_bad(conf, &path, bytes, &|_| false).is_none()).then_some(path)
    })
}

/// The error of one hook, if it has one.
pub(super) fn why_bad(
    conf: &ConfRoot,
    path: &str,
    bytes: Result<Vec<u8>, String>,
    is_written: &dyn Fn(&str) -> bool,
) -> Option<Finding> {
    let exists = |program: &str| {
        // CRI-O's working directory is the root directory.
        let program = if program.starts_with('/') { program.to_owned() } else { format!("/{program}") };
        !is_missing(conf, &program) || is_written(&program)
    };
    let flaw = match bytes.map(|bytes| serde_json::from_slice::<Value>(&bytes)) {
        Ok(Ok(hook)) => validate(&hook, &exists).err()?,
        Ok(Err(error)) => Flaw::Fatal(format!("version check: {error}")),
        Err(why) => Flaw::Fatal(why),
    };
    Some(match flaw {
        Flaw::Fatal(why) => {
            let what = format!("{path}: CRI-O does not start with it: parsing hook {path:?}: {why}");
            Finding::error(FindingId::OciHookBad, what, "repair or remove it")
        }
        Flaw::NoProgram(program) => {
            let what = format!("{path}: CRI-O leaves this hook out, for its program {program} is not there");
            Finding::warning(FindingId::OciHookBad, what, "install the program, or remove the hook")
        }
    })
}

/// Whether a program is missing, provided that it would be visible: a container that sees only some of the
/// node's directories has no `/root`.
fn is_missing(conf: &ConfRoot, program: &str) -> bool {
    let sees = |path: &str| conf.has_program(path) == Some(true);
    let parent = program.rsplit_once('/').map_or("", |(parent, _)| parent);
    conf.has_program(program) == Some(false)
        && (program.starts_with("/usr/") || sees(parent) || sees("/root"))
}

fn validate(hook: &Value, exists: &dyn Fn(&str) -> bool) -> Result<(), Flaw> {
    let fatal = |why: &str| Err(Flaw::Fatal(why.to_owned()));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let (path, stages) = match field(hook, "version") {
        Some(Value::String(version)) if version == "1.0.0" => {
            let path = text(field(hook, "hook").and_then(|hook| field(hook, "path")));
            if path.is_empty() {
                return fatal("missing required property: hook.path");
            }
            (path, field(hook, "stages"))
        }
        None | Some(Value::Null) => old(hook)?,
        Some(Value::String(version)) if matches!(version.as_str(), "0.1.0" | "") => old(hook)?,
        Some(Value::String(version)) => return fatal(&format!("unrecognized hook version: {version:?}")),
        Some(_) => return fatal("version check: the version is no text"),
    };
    if !exists(&path) {
        return Err(Flaw::NoProgram(path));
    }
    let Some(stages) = stages.and_then(Value::as_array) else {
        return fatal("missing required property: stages");
    };
    match stages.iter().find(|stage| !stage.as_str().is_some_and(|stage| STAGES.contains(&stage))) {
        None => Ok(()),
        Some(stage) => fatal(&format!("unknown stage {stage}")),
    }
}

/// Parses version 0.1.0, which is also the default if no version is given.
fn old(hook: &Value) -> Result<(String, Option<&Value>), Flaw> {
    let fatal = |why: &str| Flaw::Fatal(format!("0.1.0: {why}"));
    let Some(path) = field(hook, "hook").and_then(Value::as_str) else {
        return Err(fatal("missing required property: hook"));
    };
    let [stages, stage] = ["stages", "stage"].map(|name| field(hook, name).filter(|value| !value.is_null()));
    match (stages, stage) {
        (Some(_), Some(_)) => Err(fatal("cannot set both 'stage' and 'stages'")),
        (None, None) => Err(fatal("missing required property: stages")),
        _ => Ok((path.to_owned(), stages.or(stage))),
    }
}

/// Go matches field names in any case.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    fields
        .get(name)
        .or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}
