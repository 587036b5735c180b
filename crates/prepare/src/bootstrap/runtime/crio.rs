//! CRI-O's files: the configuration that they form, and the plan of the drop-in.

use std::path::Path;

use super::{PATIENCE, SCRATCH};
use crate::bootstrap::restart::Loaded;
use crate::bootstrap::{BootstrapError, OnManaged, Part};
use crate::crio::{self as crio_program, CrioError};
use crate::runtime_files::{ConfRoot, live, parse};
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::annotation::USERNS_MODE;
use usernsd_domain::crio::config::{ConfFile, Content, Effective};
use usernsd_domain::crio::drop_in::{self, CrioOptions};
use usernsd_domain::finding::Severity;
use usernsd_domain::nri_plugin::NriConf;
use usernsd_domain::provision::{FileChange, HostPath};
use usernsd_domain::runtime::Runtime;
use usernsd_linux::host::HostRoot;
use usernsd_linux::program::ProgramError;
use usernsd_peers::cri::Cri;

/// Plans the drop-in.
///
/// # Errors
/// CRI-O's files cannot be read, or CRI-O would not start with the plan.
pub(super) fn plan(
    root: &HostRoot,
    version: CrioVersion,
    options: CrioOptions,
) -> Result<Part, BootstrapError> {
    let read = |path: &HostPath| root.read(path).ok().flatten();
    let plan = crio_program::plan(root.path(), version, None, options, &read)?;
    let mut part = Part { findings: plan.findings, on_managed: OnManaged::Leave, ..Part::default() };
    if !plan.change.is_needed() {
        return Ok(part);
    }
    // An unreadable file counted as missing above; this returns the error.
    root.read(&plan.change.path)?;
    let files = files(root)?;
    let path = plan.change.path.to_string();
    let is_unread = |file: &&ConfFile| file.path != path && !matches!(file.content, Content::Toml(_));
    if let Some(file) = files.iter().find(is_unread) {
        let about = part
            .findings
            .iter()
            .find(|finding| finding.severity == Severity::Error && finding.what.starts_with(&file.path));
        let why = about.map_or_else(|| file.path.clone(), |finding| finding.what.clone());
        return Err(BootstrapError::Refused(format!(
            "what CRI-O is configured to do is not known, and it does not start: {why}; repair or remove that file, \
             or set bootstrap.runtime to none"
        )));
    }
    part.changes.push(plan.change);
    Ok(part)
}

/// Has CRI-O's own program validate its configuration with a change; a node without the program passes.
///
/// # Errors
/// CRI-O's files cannot be read, or CRI-O would not start with the change.
pub(super) fn validate(root: &HostRoot, change: &FileChange) -> Result<(), BootstrapError> {
    let read = |path: &HostPath| root.read(path).ok().flatten();
    match crio_program::validate(Path::new("crio"), &[change], &files(root)?, Path::new(SCRATCH), &read) {
        // CRI-O is not installed on this node, or not yet.
        Err(CrioError::Program(ProgramError::Start { .. })) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// CRI-O's NRI settings; with `with_ours`, including the present drop-in of usernsd.
///
/// # Errors
/// The root cannot be read.
pub(super) fn nri_conf(
    root: &HostRoot,
    version: CrioVersion,
    nri: bool,
    with_ours: bool,
) -> Result<NriConf, BootstrapError> {
    let mut files = files(root)?;
    files.retain(|file| with_ours || file.path != drop_in::PATH);
    let effective = Effective::of(version, &files);
    let switched_on = nri && version.has_nri() && effective.nri.file.is_none();
    let conf = effective.nri_conf();
    Ok(NriConf { on: conf.on || switched_on, ..conf })
}

/// Whether CRI-O gives pods IDs from the range of `containers`: whether pods may ask for a user namespace by
/// annotation, by CRI-O's files or by the drop-in that is planned. From Kubernetes 1.33 on such pods fail in
/// any case, so it must be enabled explicitly.
///
/// # Errors
/// The root cannot be read.
pub fn reads_containers(
    root: &HostRoot,
    runtime: Option<Runtime>,
    options: &CrioOptions,
) -> Result<bool, BootstrapError> {
    let Some(Runtime::Crio(version)) = runtime else { return Ok(false) };
    if version.at_least(33) && options.userns_mode != Some(true) {
        return Ok(false);
    }
    let conf = ConfRoot::open(root.path()).map_err(CrioError::from)?;
    let mut files = conf.crio().map_err(CrioError::from)?;
    let programs = |program: &str| conf.has_program(program);
    let node = drop_in::CrioNode { version, kubernetes: None, files: Some(&files), programs: &programs };
    let planned = drop_in::plan(node, options.clone()).ok().and_then(|plan| plan.text);
    files.retain(|file| file.path != drop_in::PATH);
    files.extend(planned.map(|text| ConfFile {
        path: drop_in::PATH.to_owned(),
        link: false,
        content: parse(text.as_bytes()),
    }));
    Ok(Effective::of(version, &files).allows(&USERNS_MODE))
}

/// The configuration that CRI-O has loaded; `None` if it does not report it.
pub async fn loaded_config(cri: &Cri, version: CrioVersion) -> Option<Loaded> {
    Some(Loaded { version, config: live::config(cri.path(), PATIENCE).await? })
}

/// CRI-O's files, in the order in which it reads them.
fn files(root: &HostRoot) -> Result<Vec<ConfFile>, BootstrapError> {
    Ok(ConfRoot::open(root.path()).and_then(|conf| conf.crio()).map_err(CrioError::from)?)
}
