//! CRI-O's drop-in on a node: reads the configuration, plans the drop-in, and validates it with CRI-O's
//! program.

mod hooks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::bootstrap::BootstrapError;
use crate::bootstrap::kubelet::{environment_of_unit, texts_of_unit};
use crate::runtime_files::{ConfError, ConfRoot, parse};
use crate::scratch::Scratch;
use usernsd_domain::check::runtime::{Crio, Older};
use usernsd_domain::crio::check::{STORAGE_CONF, check, storage_conf};
use usernsd_domain::crio::command_line;
use usernsd_domain::crio::config::{ConfFile, DROP_IN_DIR, Effective, MAIN_FILE};
use usernsd_domain::crio::drop_in::{self, CrioNode, CrioOptions, DropIn, DropInError};
use usernsd_domain::crio::storage::Storage;
use usernsd_domain::crio::{CrioVersion, CrioVersionError};
use usernsd_domain::finding::{Finding, FindingId, Severity};
use usernsd_domain::oci_hook::DIRECTORIES;
use usernsd_domain::owned_files;
use usernsd_domain::provision::{FileChange, HostPath};
use usernsd_linux::host::HostRoot;
use usernsd_linux::program::{ProgramError, run};

/// Time limit of CRI-O's program. It takes 50 ms; a node that is starting is slower.
const DEADLINE: Duration = Duration::from_secs(30);

/// The last version that ends at names such as `cgroup2-mount-hierarchy-rw.crio.io`.
const LAST_WITH_LONG_NAMES: CrioVersion = CrioVersion::new(1, 34, 0);

/// CRI-O's unit.
const UNITS: [&str; 2] = ["crio.service", "cri-o.service"];

/// The plan for CRI-O.
#[derive(Debug)]
pub struct CrioPlan {
    /// The change of the drop-in.
    pub change: FileChange,
    /// Errors in the present configuration, and options that were left out.
    pub findings: Vec<Finding>,
}

/// Why there is no plan for CRI-O.
#[derive(Debug, Error)]
pub enum CrioError {
    /// The configuration could not be read.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// No drop-in can be written for this version.
    #[error(transparent)]
    Refused(#[from] DropInError),
    /// The program could not be run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The program reported no version.
    #[error(transparent)]
    Version(#[from] CrioVersionError),
    /// The copy for CRI-O's own validation could not be made.
    #[error("copying the configuration to {}: {error}", path.display())]
    Copy {
        /// Destination of the copy.
        path: PathBuf,
        /// The I/O error.
        error: std::io::Error,
    },
    /// CRI-O would not start, by usernsd's rules.
    #[error("CRI-O would not start again: {0}")]
    Stops(String),
    /// CRI-O refuses the configuration.
    #[error("\"crio config\" refuses the configuration: {0}")]
    Invalid(String),
}

/// The version of the program itself (`crio --version`).
///
/// # Errors
/// The program cannot be run, or reports no version.
pub fn version(program: &Path) -> Result<CrioVersion, CrioError> {
    Ok(CrioVersion::parse(&run(program, &["--version"], DEADLINE)?.stdout)?)
}

/// The effective configuration of CRI-O of that version on the node with the root `root`, and what CRI-O
/// would refuse or ignore.
///
/// # Errors
/// The configuration cannot be read.
pub fn examine(root: &Path, version: CrioVersion) -> Result<Crio, CrioError> {
    let conf = ConfRoot::open(root)?;
    let files = settings(root, &conf)?;
    let findings = findings(&conf, version, &files);
    let effective = Effective::of(version, &files);
    let hook = hooks::of_usernsd(&conf, &effective);
    Ok(Crio { version, findings, effective, older: None, hook })
}

/// Where CRI-O keeps images and containers on the node with the root `root`: in the usual directories, as far as its files
/// cannot be read.
#[must_use]
pub fn storage(root: &Path) -> Storage {
    let Ok(conf) = ConfRoot::open(root) else { return Storage::of(&[], None) };
    let files = settings(root, &conf).unwrap_or_default();
    Storage::of(&files, conf.toml(STORAGE_CONF).as_ref())
}

/// Whether a CRI-O older than `version` would end at the files: the `installed` one, if it is older, else the
/// last one that does not know today's names of annotations.
///
/// # Errors
/// Its configuration cannot be read.
pub fn older(
    root: &Path,
    version: CrioVersion,
    installed: Option<CrioVersion>,
) -> Result<Option<Older>, CrioError> {
    let installed = installed.filter(|installed| *installed < version);
    let older = installed.unwrap_or(LAST_WITH_LONG_NAMES);
    if older >= version {
        return Ok(None);
    }
    let refuses =
        examine(root, older)?.findings.into_iter().find(|finding| finding.severity == Severity::Error);
    Ok(refuses.map(|refuses| Older { version: older, is_installed: installed.is_some(), refuses }))
}

/// All files that CRI-O reads, and its command line as the last of them.
fn settings(root: &Path, conf: &ConfRoot) -> Result<Vec<ConfFile>, ConfError> {
    let mut files = conf.crio()?;
    files.extend(of_command_line(root));
    Ok(files)
}

/// The settings in CRI-O's unit; `None` also if the unit may not be read: the agent may not read units below /etc other
/// than the kubelet's, because they may contain a proxy's password.
fn of_command_line(root: &Path) -> Option<ConfFile> {
    let root = HostRoot::open(root).ok()?;
    let texts = |unit: &str| -> Result<Vec<String>, BootstrapError> {
        let mut texts = texts_of_unit(&root, unit)?;
        texts.extend(environment_of_unit(&root, &texts)?);
        Ok(texts)
    };
    // cri-o.service is an alias, and was the unit's name in some packages.
    let found = UNITS.iter().find_map(|unit| texts(unit).ok().filter(|texts| !texts.is_empty()))?;
    command_line::settings(&found)
}

fn findings(conf: &ConfRoot, version: CrioVersion, files: &[ConfFile]) -> Vec<Finding> {
    let programs = |program: &str| conf.has_program(program);
    let mut findings: Vec<Finding> =
        check(version, files, &programs).into_iter().map(Finding::from).collect();
    findings.extend(conf.toml(STORAGE_CONF).as_ref().and_then(storage_conf).map(Finding::from));
    findings.extend(hooks::bad(conf, &Effective::of(version, files), &|_| false));
    findings
}

/// Plans the drop-in for the node with the root `root`.
///
/// # Errors
/// See [`CrioError`].
pub fn plan(
    root: &Path,
    version: CrioVersion,
    kubernetes: Option<u16>,
    options: CrioOptions,
    read: owned_files::Read<'_>,
) -> Result<CrioPlan, CrioError> {
    let conf = ConfRoot::open(root)?;
    let files = settings(root, &conf)?;
    let mut findings = findings(&conf, version, &files);
    let programs = |program: &str| conf.has_program(program);
    let node = CrioNode { version, kubernetes, files: Some(&files), programs: &programs };
    let plan: DropIn = drop_in::plan(node, options)?;
    findings.extend(plan.notes.iter().cloned());
    let change = owned_files::crio(&plan, read);
    // With the drop-in, CRI-O may read one more hooks directory.
    let effective = Effective::of(version, &with_changes(&files, [&change]));
    let bad = hooks::bad(&conf, &effective, &|_| false);
    if let Some(bad) = bad.iter().find(|one| one.severity == Severity::Error && !findings.contains(one)) {
        return Err(CrioError::Stops(bad.what.clone()));
    }
    Ok(CrioPlan { change, findings })
}

/// CRI-O's files after the changes, in the order in which CRI-O reads them.
fn with_changes<'a>(before: &[ConfFile], changes: impl IntoIterator<Item = &'a FileChange>) -> Vec<ConfFile> {
    let mut after = before.to_vec();
    for change in changes {
        let path = change.path.to_string();
        after.retain(|file| file.path != path);
        after.extend(change.new.as_deref().map(|bytes| ConfFile {
            path,
            link: false,
            content: parse(bytes),
        }));
    }
    // The order of a directory walk: paths are compared component by component.
    after.sort_by_key(|file| {
        (file.path != MAIN_FILE, file.path.split('/').map(str::to_owned).collect::<Vec<_>>())
    });
    after
}

/// Checks CRI-O's configuration as it would be after these changes, which may include files of other
/// programs.
///
/// # Errors
/// [`CrioError::Stops`] if CRI-O would start now, but not after the changes.
pub fn check_changes(
    root: &Path,
    version: CrioVersion,
    changes: &[&FileChange],
) -> Result<Vec<Finding>, CrioError> {
    let conf = ConfRoot::open(root)?;
    let programs = |program: &str| conf.has_program(program);
    let before = settings(root, &conf)?;
    let read = changes.iter().copied().filter(|change| reads(&change.path) && !is_hook(&change.path));
    let after = with_changes(&before, read);
    let known = check(version, &before, &programs);
    let found = check(version, &after, &programs);
    if let Some(new) = found.iter().find(|one| one.severity == Severity::Error && !known.contains(one)) {
        return Err(CrioError::Stops(Finding::from(new.clone()).what));
    }
    let is_written =
        |path: &str| changes.iter().any(|change| change.path.to_string() == path && change.new.is_some());
    let mut hooks = Vec::new();
    for change in changes.iter().filter(|change| change.is_needed() && is_hook(&change.path)) {
        let Some(bytes) = change.new.clone() else { continue };
        hooks.extend(hooks::why_bad(&conf, &change.path.to_string(), Ok(bytes), &is_written));
    }
    // A directory may become one of CRI-O's hooks directories.
    let [before, after] = [before, after].map(|files| Effective::of(version, &files));
    let known = hooks::bad(&conf, &before, &|_| false);
    let of_directories = hooks::bad(&conf, &after, &is_written);
    hooks.extend(of_directories.into_iter().filter(|bad| !known.contains(bad)));
    if let Some(bad) = hooks.iter().find(|bad| bad.severity == Severity::Error) {
        return Err(CrioError::Stops(bad.what.clone()));
    }
    Ok(found.into_iter().map(Finding::from).chain(hooks).collect())
}

/// The errors with which CRI-O would not start after these changes, by usernsd's rules. The changes may
/// include files of other programs.
///
/// # Errors
/// The configuration cannot be read.
pub fn errors_with(
    root: &Path,
    version: CrioVersion,
    changes: &[FileChange],
) -> Result<Vec<Finding>, CrioError> {
    let conf = ConfRoot::open(root)?;
    let read = changes.iter().filter(|change| reads(&change.path) && !is_hook(&change.path));
    let files = with_changes(&settings(root, &conf)?, read);
    let is_changed = |finding: &Finding| {
        changes.iter().any(|change| finding.what.starts_with(&format!("{}: ", change.path)))
    };
    // A hook that is to be written was checked when it was planned.
    let mut found = findings(&conf, version, &files);
    found.retain(|one| {
        one.severity == Severity::Error && !(one.id == FindingId::OciHookBad && is_changed(one))
    });
    Ok(found)
}

/// Whether CRI-O reads this file when it starts: a configuration file or an OCI hook.
#[must_use]
pub fn reads(path: &HostPath) -> bool {
    let path_is = path.to_string();
    path_is == MAIN_FILE || is_below(&path_is, DROP_IN_DIR) || is_hook(path)
}

fn is_hook(path: &HostPath) -> bool {
    let path = path.to_string();
    path.ends_with(".json") && DIRECTORIES.into_iter().any(|dir| is_below(&path, dir))
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// Has CRI-O's own program validate a copy of the files that includes the planned one, before the drop-in is
/// installed on the node.
///
/// # Errors
/// [`CrioError::Invalid`] with CRI-O's message, also if CRI-O refuses the present configuration.
pub fn validate(
    program: &Path,
    changes: &[&FileChange],
    files: &[ConfFile],
    scratch: &Path,
    read: owned_files::Read<'_>,
) -> Result<(), CrioError> {
    let failed = |path: &Path, error| CrioError::Copy { path: path.to_owned(), error };
    let copy = scratch.join(format!("usernsd-crio-{}", std::process::id()));
    let like = Path::new(MAIN_FILE).parent().unwrap_or(Path::new("/"));
    let guard = Scratch::new(copy.clone(), like).map_err(|error| failed(&copy, error))?;
    let put = |path: &str, bytes: &[u8]| {
        let to = copy.join(path.trim_start_matches('/'));
        let parent = to.parent().unwrap_or(&copy);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&to, bytes))
            .map_err(|error| failed(&to, error))
    };
    put(MAIN_FILE, b"")?;
    let stays = |file: &&ConfFile| !changes.iter().any(|change| file.path == change.path.to_string());
    for file in files.iter().filter(stays) {
        // An unreadable file is reported by the check already.
        if let Some(bytes) = HostPath::parse(&file.path).ok().and_then(|path| read(&path)) {
            put(&file.path, &bytes)?;
        }
    }
    for change in changes {
        if let Some(bytes) = &change.new {
            put(&change.path.to_string(), bytes)?;
        }
    }
    let at = |path: &str| copy.join(path.trim_start_matches('/')).display().to_string();
    let output =
        run(program, &["--config", &at(MAIN_FILE), "--config-dir", &at(DROP_IN_DIR), "config"], DEADLINE)?;
    drop(guard);
    if output.success {
        return Ok(());
    }
    let fatal = output.stderr.lines().rev().find(|line| line.contains("level=fatal"));
    Err(CrioError::Invalid(fatal.or(output.stderr.lines().last()).unwrap_or("it gave no reason").to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn node() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/crio/crio.conf.d")).unwrap();
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        for program in ["crun", "conmon"] {
            std::fs::write(root.path().join("usr/bin").join(program), "").unwrap();
        }
        root
    }

    fn reader(root: &Path) -> impl Fn(&HostPath) -> Option<Vec<u8>> {
        move |path| std::fs::read(root.join(path.as_str())).ok()
    }

    fn planned(root: &Path) -> Result<CrioPlan, CrioError> {
        plan(root, CrioVersion::new(1, 36, 3), None, CrioOptions::default(), &reader(root))
    }

    #[test]
    fn a_second_plan_changes_nothing() {
        let root = node();
        let plan = planned(root.path()).unwrap();
        assert!(plan.change.is_needed());
        let known = [FindingId::CrioLeftOut, FindingId::CrioDowngrade];
        assert!(plan.findings.iter().all(|finding| known.contains(&finding.id)), "{:?}", plan.findings);
        std::fs::write(root.path().join(plan.change.path.as_str()), plan.change.new.unwrap()).unwrap();
        assert!(!planned(root.path()).unwrap().change.is_needed());
    }

    #[test]
    fn errors_in_the_present_configuration_are_found() {
        let root = node();
        std::fs::write(root.path().join("etc/crio/crio.conf.d/old.bak"), "[x").unwrap();
        std::fs::remove_file(root.path().join("usr/bin/conmon")).unwrap();
        let ids: Vec<FindingId> =
            planned(root.path()).unwrap().findings.iter().map(|finding| finding.id).collect();
        assert!(ids.contains(&FindingId::CrioUndecodable) && ids.contains(&FindingId::CrioConmon), "{ids:?}");
    }

    #[test]
    fn a_hook_with_which_cri_o_does_not_start_is_found() {
        const HOOK: &str =
            "{\"version\":\"1.0.0\",\"hook\":{\"path\":\"/usr/bin/crun\"},\"stages\":[\"prestart\"]}";
        let root = node();
        let hooks = root.path().join("usr/share/containers/oci/hooks.d");
        std::fs::create_dir_all(&hooks).unwrap();
        let old = "{\"version\":\"0.1.0\",\"hook\":\"/usr/bin/crun\",\"stage\":[\"prestart\"]}";
        for (text, want) in [
            ("{", Some("EOF")),
            ("{\"version\":\"2\"}", Some("unrecognized hook version: \"2\"")),
            ("{\"version\":1}", Some("version check")),
            (HOOK, None),
            (old, None),
            (&old.replace("\"version\":\"0.1.0\",", ""), None),
            (&old.replace("crun", "gone"), Some("leaves this hook out, for its program /usr/bin/gone")),
            (&old.replace("\"stage\"", "\"x\""), Some("missing required property: stages")),
            (&HOOK.replace("crun", "gone"), Some("leaves this hook out, for its program /usr/bin/gone")),
            (&HOOK.replace("path", "x"), Some("missing required property: hook.path")),
            (&HOOK.replace("prestart", "no"), Some("unknown stage \"no\"")),
            (&HOOK.replace("stages", "x"), Some("missing required property: stages")),
        ] {
            std::fs::write(hooks.join("a.json"), text).unwrap();
            std::fs::write(hooks.join("d.bak"), "{").unwrap();
            let found = planned(root.path()).unwrap().findings;
            let bad: Vec<&str> = found
                .iter()
                .filter(|one| one.id == FindingId::OciHookBad)
                .map(|one| one.what.as_str())
                .collect();
            match want {
                None => assert_eq!(bad, [""; 0], "{text}"),
                Some(want) => {
                    assert!(
                        bad.len() == 1 && bad[0].contains(want) && bad[0].contains("a.json"),
                        "{text}: {bad:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_directory_with_a_bad_hook_is_not_added_to_cri_os_directories() {
        let root = node();
        let options = CrioOptions { hook: true, ..CrioOptions::default() };
        let planned =
            || plan(root.path(), CrioVersion::new(1, 24, 6), None, options.clone(), &reader(root.path()));
        // A hooks directory of other programs is not added.
        for (dir, stops) in [("etc/containers/oci/hooks.d", false), ("etc/usernsd/hooks.d", true)] {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
            std::fs::write(root.path().join(dir).join("x.json"), "{").unwrap();
            match planned() {
                Err(CrioError::Stops(why)) => assert!(stops && why.contains("x.json"), "{why}"),
                other => assert!(!stops, "{other:?}"),
            }
        }
    }

    /// A fake `crio` shows the files that it was given.
    #[test]
    fn cri_o_sees_the_drop_in_before_the_node_does() {
        let root = node();
        let program = root.path().join("crio");
        let script = "#!/bin/sh\nif test \"$1\" = --version; then echo crio version 1.36.3; exit; fi\n\
                      cat \"$4\"/* && ! grep -rq REFUSE \"$4\" || { echo level=fatal msg=no >&2; exit 1; }\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(version(&program).unwrap(), CrioVersion::new(1, 36, 3));

        let (plan, read) = (planned(root.path()).unwrap(), reader(root.path()));
        let scratch = tempfile::tempdir().unwrap();
        let try_it = || {
            let files = ConfRoot::open(root.path()).unwrap().crio().unwrap();
            validate(&program, &[&plan.change], &files, scratch.path(), &read)
        };
        try_it().unwrap();
        std::fs::write(root.path().join("etc/crio/crio.conf.d/00-x"), "# REFUSE\n").unwrap();
        assert!(matches!(try_it(), Err(CrioError::Invalid(why)) if why.contains("msg=no")));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "the copy is gone");
        assert!(!root.path().join(plan.change.path.as_str()).exists());
    }
}
