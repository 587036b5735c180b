//! The subordinate IDs: reads the node's state for [`idplan`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::runtime::is_running_system;
use super::{BootstrapError, Part, PartRefusal, kubelet};
use crate::kubelet::parse_record;
use usernsd_domain::accounts::{AccountFile, Accounts};
use usernsd_domain::chain::chain;
use usernsd_domain::check::ids::IdFacts;
use usernsd_domain::finding::Finding;
use usernsd_domain::idmap::IdMap;
use usernsd_domain::idplan::{self, ACCOUNT_FILES, DesiredIds, KubeletUser, NodeIds};
use usernsd_domain::kubelet::{
    DEFAULT_MAX_PODS, Directory, KubeletEnvironment, PodIdsRecord, SearchPath, USER, has_others, nsswitch,
    of_getsubids, reads_files,
};
use usernsd_domain::paths::{IMAGE_GROUP, IMAGE_PASSWD, KUBELETS, PASSWD, PODS, PROC, SUBGID, SUBUID};
use usernsd_domain::provision::{FileChange, HostPath};
use usernsd_domain::ranges::{FIRST, Window};
use usernsd_linux::host::HostRoot;
use usernsd_linux::program;

const NSSWITCH: HostPath = HostPath::fixed("etc/nsswitch.conf");
/// Where a kubelet that systemd starts looks for programs.
const PROGRAMS: [HostPath; 6] = [
    HostPath::fixed("usr/local/sbin"),
    HostPath::fixed("usr/local/bin"),
    HostPath::fixed("usr/sbin"),
    HostPath::fixed("usr/bin"),
    HostPath::fixed("sbin"),
    HostPath::fixed("bin"),
];
/// Sources of nsswitch.conf(5) whose users are read here.
const IN_FILES: [&str; 2] = ["files", "altfiles"];
/// Sources that need not be asked for a user `kubelet`: files, which are read here, and the users that systemd creates.
const LOCAL: [&str; 5] = ["files", "altfiles", "compat", "systemd", "mymachines"];
/// Time limit of getent and getsubids. An unreachable directory service answers late, and the kubelet waits
/// for it, too.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether programs may be run to find out what no file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPrograms {
    /// Run the programs that the kubelet runs, if the root is this system's.
    Yes,
    /// Run no programs, as the agent.
    No,
}

/// The pods of the runtimes. A running pod implies a kubelet, wherever it keeps its files.
#[derive(Debug, Clone, Copy)]
pub enum Sandboxes<'a> {
    /// No runtime answers.
    NoRuntime,
    /// The pods of all runtimes that answer, with their host IDs.
    Known(&'a [(String, Window)]),
    /// A runtime answers but does not list its pods; holds the reason.
    Unlisted(&'a str),
}

/// Plans the subordinate IDs beside the pods of the runtimes. A plan that would do harm is [`Part::refused`],
/// because nothing else depends on the ranges. `reads_containers`: see
/// [`super::runtime::reads_containers`].
///
/// # Errors
/// A file cannot be read.
pub fn plan(
    root: &HostRoot,
    desired: &DesiredIds,
    reads_containers: bool,
    sandboxes: Sandboxes<'_>,
    run_programs: RunPrograms,
) -> Result<Part, BootstrapError> {
    let with_passwords = desired.kubelet.user == KubeletUser::Create;
    let (node, mut findings) = observe(root, with_passwords, desired, sandboxes, run_programs)?;
    let node = NodeIds { reads_containers, ..node };
    match idplan::plan(&node, desired) {
        Ok(plan) => {
            findings.extend(plan.findings);
            Ok(Part { changes: plan.changes, findings, ..Part::default() })
        }
        Err(refused) => {
            Ok(Part { findings, refused: Some(PartRefusal::Ranges(refused.to_string())), ..Part::default() })
        }
    }
}

/// Plans the ranges of a MachineConfig in both files, each owner's beside all others'.
///
/// # Errors
/// A file cannot be read, or the plan would do harm.
pub(super) fn plan_lines(
    root: &HostRoot,
    lines: [&[u8]; 2],
    desired: &DesiredIds,
    sandboxes: Sandboxes<'_>,
) -> Result<Part, BootstrapError> {
    let (node, mut findings) = observe(root, false, desired, sandboxes, RunPrograms::Yes)?;
    let plan = idplan::plan_lines(&node, lines, &desired.kubelet)
        .map_err(|refused| BootstrapError::Refused(format!("the MachineConfig: {refused}")))?;
    findings.extend(plan.findings);
    Ok(Part { changes: plan.changes, findings, ..Part::default() })
}

/// The present state and its findings, without a plan.
///
/// # Errors
/// A file cannot be read.
pub fn examine(
    root: &HostRoot,
    desired: &DesiredIds,
    run_programs: RunPrograms,
) -> Result<IdFacts, BootstrapError> {
    let (node, mut findings) = observe_files(root, false, desired, run_programs)?;
    findings.extend(idplan::examine(&node, desired));
    Ok(IdFacts { node, findings })
}

/// Refuses to take back a pool that pods use, or one without which the kubelet would not start; reports what
/// would be wrong with the node as it was. `first` is the content of files before the first run.
pub(super) fn check_undo(
    root: &HostRoot,
    desired: &DesiredIds,
    sandboxes: Sandboxes<'_>,
    changes: &[FileChange],
    first: &[(HostPath, Option<Vec<u8>>)],
) -> Result<Vec<Finding>, BootstrapError> {
    let (before, _) = observe(root, true, desired, sandboxes, RunPrograms::Yes)?;
    let mut of_changes = changes.iter().map(|change| (&change.path, &change.new));
    let after = with_files(root, &before, &mut of_changes)?;
    let first = with_files(root, &before, &mut first.iter().map(|(path, old)| (path, old)))?;
    idplan::check_pool([&first, &before, &after], desired)
        .map_err(|refused| BootstrapError::Refused(refused.to_string()))
}

/// The observed node, with other contents of its files.
fn with_files(
    root: &HostRoot,
    node: &NodeIds,
    files: &mut dyn Iterator<Item = (&HostPath, &Option<Vec<u8>>)>,
) -> Result<NodeIds, BootstrapError> {
    let mut after = node.clone();
    for (path, bytes) in files {
        let bytes = bytes.clone();
        if *path == SUBUID {
            after.subuid = bytes;
        } else if *path == SUBGID {
            after.subgid = bytes;
        } else if let Some(file) =
            after.account_files.iter_mut().zip(&ACCOUNT_FILES).find(|(_, (_, known))| path == known)
        {
            *file.0 = bytes;
        }
    }
    after.accounts = accounts(root, &after.account_files)?;
    // The users of a directory service do not change.
    let known = node.accounts.user(USER).filter(|_| matches!(node.kubelet.directory, Directory::HasUser(_)));
    known.cloned().into_iter().for_each(|user| after.accounts.add_user(user));
    Ok(after)
}

/// The finding that CRI-O has too few IDs of `containers`, from the files as they are.
///
/// # Errors
/// A file cannot be read.
pub fn room_of_containers(root: &HostRoot) -> Result<Option<Finding>, BootstrapError> {
    let mut files = <[Option<Vec<u8>>; 4]>::default();
    for (bytes, (file, path)) in files.iter_mut().zip(&ACCOUNT_FILES) {
        if matches!(file, AccountFile::Passwd | AccountFile::Group) {
            *bytes = root.read(path)?;
        }
    }
    let [uids, gids] = [root.read(&SUBUID)?, root.read(&SUBGID)?].map(Option::unwrap_or_default);
    Ok(idplan::room_of_containers([&uids, &gids], &accounts(root, &files)?))
}

/// Whether the node has a kubelet: by its directory, or because a runtime answers.
///
/// # Errors
/// A file cannot be read.
pub(super) fn has_kubelet(
    root: &HostRoot,
    desired: &DesiredIds,
    sandboxes: Sandboxes<'_>,
) -> Result<bool, BootstrapError> {
    Ok(!matches!(sandboxes, Sandboxes::NoRuntime) || kubelet_environment(root, desired)?.0.is_present)
}

/// How many pods the kubelet may run, from the options or from its own configuration.
///
/// # Errors
/// A file cannot be read.
pub fn max_pods(root: &HostRoot, desired: &DesiredIds) -> Result<u64, BootstrapError> {
    let (settings, _) = kubelet::settings(root)?;
    Ok(desired.kubelet.max_pods.max(settings.max_pods).unwrap_or(DEFAULT_MAX_PODS))
}

/// Reads everything that matters to subordinate IDs.
fn observe(
    root: &HostRoot,
    with_passwords: bool,
    desired: &DesiredIds,
    sandboxes: Sandboxes<'_>,
    run_programs: RunPrograms,
) -> Result<(NodeIds, Vec<Finding>), BootstrapError> {
    let (mut node, findings) = observe_files(root, with_passwords, desired, run_programs)?;
    node.kubelet.is_present |= !matches!(sandboxes, Sandboxes::NoRuntime);
    let (sandboxes, unlisted) = match sandboxes {
        Sandboxes::NoRuntime => (Vec::new(), None),
        Sandboxes::Known(pods) => (pods.to_vec(), None),
        Sandboxes::Unlisted(why) => (Vec::new(), Some(why.to_owned())),
    };
    Ok((NodeIds { running: running(root), sandboxes, unlisted, ..node }, findings))
}

/// Like [`observe`], but without the processes, which take most of the time.
///
/// Password files are read only if a user may be created: the agent has no permission to read them.
fn observe_files(
    root: &HostRoot,
    with_passwords: bool,
    desired: &DesiredIds,
    run_programs: RunPrograms,
) -> Result<(NodeIds, Vec<Finding>), BootstrapError> {
    let mut account_files = <[Option<Vec<u8>>; 4]>::default();
    for (bytes, (file, path)) in account_files.iter_mut().zip(&ACCOUNT_FILES) {
        if with_passwords || matches!(file, AccountFile::Passwd | AccountFile::Group) {
            *bytes = root.read(path)?;
        }
    }
    let (mut kubelet, findings) = kubelet_environment(root, desired)?;
    let mut accounts = accounts(root, &account_files)?;
    ask_directory(root, run_programs, &mut kubelet, &mut accounts)?;
    if run_programs == RunPrograms::Yes
        && kubelet.gate.is_none()
        && kubelet.is_present
        && is_running_system(root)
    {
        let output = program::run(Path::new("kubelet"), &["--version"], PATIENCE).ok();
        kubelet.version = output.and_then(|output| usernsd_domain::kubelet::version(&output.stdout));
    }
    let node = NodeIds {
        subuid: root.read(&SUBUID)?,
        subgid: root.read(&SUBGID)?,
        accounts,
        account_files,
        running: Vec::new(),
        sandboxes: Vec::new(),
        unlisted: None,
        kubelet,
        reads_containers: false,
    };
    Ok((node, findings))
}

fn accounts(root: &HostRoot, files: &[Option<Vec<u8>>; 4]) -> Result<Accounts, BootstrapError> {
    let [group, _, _, passwd] = files;
    let mut accounts = Accounts::default();
    accounts.add_users(passwd.as_deref().unwrap_or_default());
    accounts.add_users(&root.read(&IMAGE_PASSWD)?.unwrap_or_default());
    accounts.add_groups(group.as_deref().unwrap_or_default());
    accounts.add_groups(&root.read(&IMAGE_GROUP)?.unwrap_or_default());
    Ok(accounts)
}

/// Looks up the kubelet's user and range as the kubelet does, if no file of the node has them.
fn ask_directory(
    root: &HostRoot,
    run_programs: RunPrograms,
    kubelet: &mut KubeletEnvironment,
    accounts: &mut Accounts,
) -> Result<(), BootstrapError> {
    let may_ask = run_programs == RunPrograms::Yes && is_running_system(root);
    let sources = root.read(&NSSWITCH)?.and_then(|text| nsswitch(&text, "passwd"));
    if let Some(sources) = sources.filter(|sources| has_others(sources, &IN_FILES))
        && accounts.user(USER).is_none()
    {
        kubelet.directory =
            match may_ask.then(|| program::run(Path::new("getent"), &["passwd", USER], PATIENCE)) {
                Some(Ok(output)) if output.success => {
                    accounts.add_users(output.stdout.as_bytes());
                    Directory::HasUser(sources)
                }
                Some(Ok(_)) => Directory::Nothing,
                // These sources contain only users that systemd itself created, none of which is called
                // kubelet.
                Some(Err(_)) | None if !has_others(&sources, &LOCAL) => Directory::Nothing,
                Some(Err(_)) | None => Directory::Unasked(sources),
            };
    }
    let elsewhere = kubelet.nsswitch_subid.as_deref().is_some_and(|source| !reads_files(source));
    if may_ask && elsewhere && kubelet.getsubids && accounts.user(USER).is_some() {
        let of = |words: &[&str]| match program::run(Path::new("getsubids"), words, PATIENCE) {
            Ok(output) if output.success => Ok(output.stdout),
            Ok(_) => Err("it has no range for kubelet".to_owned()),
            Err(error) => Err(chain(&error)),
        };
        let both = of(&[USER]).and_then(|uids| Ok((uids, of(&["-g", USER])?)));
        kubelet.getsubids_output = Some(both.and_then(|(uids, gids)| of_getsubids(&uids, &gids)));
    }
    Ok(())
}

fn kubelet_environment(
    root: &HostRoot,
    desired: &DesiredIds,
) -> Result<(KubeletEnvironment, Vec<Finding>), BootstrapError> {
    let (settings, findings) = kubelet::settings(root)?;
    let usual: BTreeSet<HostPath> = KUBELETS.into_iter().chain(settings.root_dirs).collect();
    let configured = desired.kubelet.root_dir.clone();
    let (mut is_present, mut is_shown) = (false, false);
    for path in usual.iter().chain(&configured) {
        is_present |= root.has(path)?;
        // A kubelet's own directory contains more from its first start on.
        is_shown |= root.list(path)?.iter().any(|name| name != PODS);
    }
    // If the root directory is configured, records in the usual places are those of an earlier kubelet.
    let with_records = configured.map_or(usual, |path| BTreeSet::from([path]));
    let mut records = Vec::new();
    for pods in with_records.iter().filter_map(|path| path.join(PODS).ok()) {
        for pod in root.list(&pods)? {
            let Ok(path) = pods.join(&format!("{pod}/userns")) else { continue };
            let Some(bytes) = root.read(&path)? else { continue };
            if let Some(window) = parse_record(&bytes).transpose() {
                records.push(PodIdsRecord { pod, window });
            }
        }
    }
    let is_hidden = is_present && !is_shown && records.is_empty();
    let mut search_paths = kubelet::paths_of_units(root)?;
    if search_paths.is_empty() {
        search_paths.push(None);
    }
    // If several units run a kubelet, the one that finds less counts.
    let (mut getsubids, mut getent, mut search_path) = (true, true, None);
    for path in search_paths {
        let [with_subids, with_getent] =
            ["getsubids", "getent"].map(|name| has_program(root, name, path.as_ref(), is_hidden));
        let (with_subids, with_getent) = (with_subids?, with_getent?);
        if !(with_subids && with_getent) && getsubids && getent {
            search_path = path;
        }
        getsubids &= with_subids;
        getent &= with_getent;
    }
    let nsswitch_file = root.read(&NSSWITCH)?;
    let environment = KubeletEnvironment {
        is_present,
        is_hidden,
        no_passwd: !root.has(&PASSWD)?,
        getsubids,
        getent,
        search_path,
        in_container: kubelet::unit_in_container(root)?,
        has_nsswitch: nsswitch_file.is_some(),
        nsswitch_subid: nsswitch_file.and_then(|text| nsswitch(&text, "subid")),
        getsubids_output: None,
        directory: Directory::Nothing,
        max_pods: settings.max_pods,
        ids_per_pod: settings.ids_per_pod,
        has_config: settings.has_config,
        config_unreadable: settings.unreadable,
        gate: settings.gate,
        version: None,
        records,
    };
    Ok((environment, findings))
}

/// Whether a kubelet with this search path, by default that of systemd, finds a program.
fn has_program(
    root: &HostRoot,
    name: &str,
    path: Option<&SearchPath>,
    is_hidden: bool,
) -> Result<bool, BootstrapError> {
    let directories: Vec<HostPath> = match path {
        Some(SearchPath { path, .. }) => {
            path.split(':').filter_map(|directory| HostPath::parse(directory).ok()).collect()
        }
        None => PROGRAMS.to_vec(),
    };
    for directory in &directories {
        if let Ok(program) = directory.join(name)
            && root.has(&program)?
        {
            return Ok(true);
        }
    }
    // From an agent's pod only parts of the node are to be seen: a unit's own directories may be among the others.
    if path.is_some() && is_hidden {
        for directory in &directories {
            if !root.has(directory)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The host IDs of processes in user namespaces: each window once, with the first process in it. Skips
/// processes that end meanwhile or that may not be examined.
fn running(root: &HostRoot) -> Vec<(u32, Window)> {
    let mut pids: Vec<u32> =
        root.list(&PROC).unwrap_or_default().iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    let mut windows = BTreeMap::new();
    for pid in pids {
        for file in ["uid_map", "gid_map"] {
            let Ok(path) = PROC.join(&format!("{pid}/{file}")) else { continue };
            let Ok(Some(bytes)) = root.read(&path) else { continue };
            let Ok(map) = IdMap::parse(&String::from_utf8_lossy(&bytes)) else { continue };
            for extent in map.extents() {
                let window = Window { start: extent.host_id.0.into(), count: extent.length.into() };
                // An ID that is equal inside and outside belongs to the host's own namespace, or reveals
                // nothing.
                if extent.host_id.0 != extent.container_id.0 && window.end() > FIRST {
                    windows.entry(window).or_insert(pid);
                }
            }
        }
    }
    windows.into_iter().map(|(window, pid)| (pid, window)).collect()
}
