//! Files that this program owns as a whole: the plans for the runtimes as file changes.

use super::containerd::ContainerdPlan;
use super::crio::drop_in::{DropIn, PATH};
use super::kernel::SYSCTL_FILE;
use super::nri_plugin;
use super::oci_hook::{HookContent, HookPlan};
use super::provision::{Attributes, FileChange, Form, HostPath, HostPathError, Undo};

/// Reads a file on the node; `None` if it does not exist.
pub type Read<'a> = &'a dyn Fn(&HostPath) -> Option<Vec<u8>>;

/// A file that gets these contents, or is removed.
#[must_use]
pub fn whole(path: HostPath, mode: u32, new: Option<Vec<u8>>, reason: &str, read: Read<'_>) -> FileChange {
    FileChange {
        form: Form::Content,
        old: read(&path),
        new,
        attributes: Attributes { mode, ..Attributes::READABLE },
        mode_was: None,
        staging: staging(&path),
        undo: Undo::Whole,
        reasons: vec![reason.to_owned()],
        path,
    }
}

/// Where a file is written before it is renamed: not in a directory in which every file is read, nor in a plugin
/// directory, where an executable file whose name is not a plugin's keeps NRI from starting.
#[must_use]
pub fn staging(path: &HostPath) -> Option<HostPath> {
    if path.as_str().starts_with("etc/crio/crio.conf.d/") {
        return Some(HostPath::fixed("etc/crio"));
    }
    if nri_plugin::is_file_name(path.name()) { path.parent()?.parent() } else { None }
}

/// CRI-O's drop-in.
#[must_use]
pub fn crio(plan: &DropIn, read: Read<'_>) -> FileChange {
    let reason = match plan.text {
        Some(_) => {
            "CRI-O lets pods ask for the configured features, and sends container events; it reads this when it starts"
        }
        None => "this version of CRI-O needs no drop-in for the configured features",
    };
    whole(HostPath::fixed(PATH), 0o644, plan.text.clone().map(String::into_bytes), reason, read)
}

/// containerd's drop-in; `None` if nothing is to be written.
///
/// # Errors
/// The main file imports from a path that is not below the root.
pub fn containerd(plan: &ContainerdPlan, read: Read<'_>) -> Result<Option<FileChange>, HostPathError> {
    let Some((path, text)) = &plan.drop_in else { return Ok(None) };
    let text = Some(text.clone().into_bytes());
    let reason = "containerd offers NRI; it reads this when it starts";
    Ok(Some(whole(HostPath::parse(path)?, 0o644, text, reason, read)))
}

/// The files of the OCI hook, in the order in which they are written.
///
/// # Errors
/// The hooks directory is not below the root.
pub fn hook(plan: &HookPlan, digests: &Digests, read: Read<'_>) -> Result<Vec<FileChange>, HostPathError> {
    let change = |file: &super::oci_hook::HookFile| {
        let path = HostPath::parse(&file.path)?;
        Ok(match &file.content {
            HookContent::Program => {
                let reason = "the OCI runtime starts this program";
                program(path, digests.there.clone(), Some(digests.own.clone()), reason)
            }
            HookContent::Text(text) => {
                let text = Some(text.clone().into_bytes());
                whole(path, file.mode, text, "the runtime starts the hook for every container", read)
            }
        })
    };
    plan.files.iter().map(change).collect()
}

/// Digests of the installed program and of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// The installed program's; `None` if there is none.
    pub there: Option<String>,
    /// The digest of this program.
    pub own: String,
}

/// A program that is replaced by this one, or removed.
#[must_use]
pub fn program(path: HostPath, old: Option<String>, new: Option<String>, reason: &str) -> FileChange {
    let change = whole(path, 0o755, new.map(String::into_bytes), reason, &|_| None);
    FileChange { form: Form::Program, old: old.map(String::into_bytes), ..change }
}

/// The kernel setting's file, which is read at boot and by `sysctl --system`.
#[must_use]
pub fn sysctl(text: String, read: Read<'_>) -> FileChange {
    let reason = "user namespaces are switched off, or too few";
    whole(HostPath::fixed(SYSCTL_FILE), 0o644, Some(text.into_bytes()), reason, read)
}

/// The same setting in the running kernel.
#[must_use]
pub fn live_sysctl(wanted: u64, read: Read<'_>) -> FileChange {
    let path = HostPath::fixed("proc/sys/user/max_user_namespaces");
    FileChange {
        form: Form::Live,
        old: read(&path),
        new: Some(format!("{wanted}\n").into_bytes()),
        attributes: Attributes::READABLE,
        mode_was: None,
        staging: None,
        undo: Undo::Whole,
        reasons: vec!["set in the running kernel, too".to_owned()],
        path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci_hook::{self, DIRECTORIES, HookCondition, PROGRAM};

    fn nothing(_: &HostPath) -> Option<Vec<u8>> {
        None
    }

    #[test]
    fn a_half_written_drop_in_is_never_in_cri_os_directory() {
        let plan = DropIn { text: Some("x".into()), notes: Vec::new() };
        let change = crio(&plan, &nothing);
        assert_eq!(change.path.to_string(), "/etc/crio/crio.conf.d/99-usernsd.conf");
        assert_eq!(change.staging.unwrap().to_string(), "/etc/crio");
        assert_eq!(change.new.as_deref(), Some(&b"x"[..]));
        // Without a text the file is removed.
        let gone = crio(&DropIn { text: None, notes: Vec::new() }, &|_| Some(b"x".to_vec()));
        assert!(gone.is_needed() && gone.new.is_none());
    }

    #[test]
    fn a_half_written_plugin_is_never_in_the_plugin_directory() {
        let path = HostPath::fixed("/opt/nri/plugins/90-usernsd");
        let change = program(path, None, Some("sha256:1".into()), "x");
        assert_eq!(change.staging.unwrap().to_string(), "/opt/nri");
        let hook = program(HostPath::fixed(PROGRAM), None, Some("sha256:1".into()), "x");
        assert_eq!(hook.staging, None);
    }

    #[test]
    fn the_program_exists_whenever_the_hook_does() {
        let plan = oci_hook::plan(PROGRAM, None, &[DIRECTORIES[1].to_owned()], &HookCondition::Always);
        let digests = Digests { there: None, own: "sha256:1".into() };
        let paths = |changes: Vec<FileChange>| changes.iter().map(|c| c.path.to_string()).collect::<Vec<_>>();
        let [program, json] = [PROGRAM, "/etc/containers/oci/hooks.d/99-usernsd.json"];
        let written = hook(&plan, &digests, &nothing).unwrap();
        assert_eq!((written[0].attributes.mode, written[0].new.as_deref()), (0o755, Some(&b"sha256:1"[..])));
        assert_eq!((written[0].form, written[1].form), (Form::Program, Form::Content));
        assert_eq!(paths(written), [program, json]);
    }
}
