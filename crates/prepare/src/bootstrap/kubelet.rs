//! The kubelet's settings about pods and their IDs, from the files that the kubelet or its unit reads.
//!
//! The command line of its process is not used, because any container can have a process of that name.

use std::collections::{BTreeMap, BTreeSet};

use super::{BootstrapError, data_directory};
use crate::kubelet::{KubeletConfig, flag_values, gate_flag, search_path, static_pod_annotations};
use usernsd_domain::containerd::imports::{is_pattern, matches};
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::kubelet::{FeatureGate, GATE, SearchPath};
use usernsd_domain::nri_plugin::SystemPod;
use usernsd_domain::paths::KUBELET_CONFIG;
use usernsd_domain::provision::HostPath;
use usernsd_domain::unit_file::{self, UnitSetting, Variables};
use usernsd_linux::host::{HostError, HostRoot};

/// Where kubeadm, OpenShift, Kubespray, EKS and k0s store the kubelet's configuration.
const CONFIGS: [HostPath; 8] = [
    KUBELET_CONFIG,
    HostPath::fixed("etc/kubernetes/kubelet.conf"),
    HostPath::fixed("etc/kubernetes/kubelet-config.yaml"),
    HostPath::fixed("var/lib/kubelet/kubeconfig.yaml"),
    HostPath::fixed("etc/kubernetes/kubelet/config.json"),
    HostPath::fixed("etc/kubernetes/kubelet/kubelet-config.json"),
    HostPath::fixed("var/lib/k0s/kubelet-config.yaml"),
    HostPath::fixed("run/k0s/kubelet/config.yaml"),
];
/// The usual directories of `--config-dir`: files that end in `.conf`, also in subdirectories; the last one
/// counts.
const DROP_INS: [HostPath; 4] = [
    HostPath::fixed("etc/kubernetes/kubelet.conf.d"),
    HostPath::fixed("etc/kubernetes/kubelet/config.json.d"),
    HostPath::fixed("var/lib/rancher/k3s/agent/etc/kubelet.conf.d"),
    HostPath::fixed("var/lib/rancher/rke2/agent/etc/kubelet.conf.d"),
];
/// Files with flags of the kubelet: environment files that its units read, and the arguments of MicroK8s.
const FLAGS: [HostPath; 5] = [
    HostPath::fixed("var/lib/kubelet/kubeadm-flags.env"),
    HostPath::fixed("etc/default/kubelet"),
    HostPath::fixed("etc/sysconfig/kubelet"),
    HostPath::fixed("etc/kubernetes/kubelet.env"),
    HostPath::fixed("var/snap/microk8s/current/args/kubelet"),
];
/// Configuration files of distributions with flags for the kubelet (`kubelet-arg`), and directories of more
/// such files.
const DISTRIBUTIONS: [[HostPath; 2]; 2] = [
    [HostPath::fixed("etc/rancher/k3s/config.yaml"), HostPath::fixed("etc/rancher/k3s/config.yaml.d")],
    [HostPath::fixed("etc/rancher/rke2/config.yaml"), HostPath::fixed("etc/rancher/rke2/config.yaml.d")],
];
/// Where units are (systemd.unit(5)).
const UNITS: [HostPath; 4] = [
    HostPath::fixed("etc/systemd/system"),
    HostPath::fixed("run/systemd/system"),
    HostPath::fixed("usr/local/lib/systemd/system"),
    HostPath::fixed("usr/lib/systemd/system"),
];
/// Where kubeadm and OpenShift, k3s, and RKE2 store the manifests of static pods.
const MANIFESTS: [HostPath; 3] = [
    HostPath::fixed("etc/kubernetes/manifests"),
    HostPath::fixed("var/lib/rancher/k3s/agent/pod-manifests"),
    HostPath::fixed("var/lib/rancher/rke2/agent/pod-manifests"),
];
/// The beginnings of the names of units that may run a kubelet.
const NAMES: [&str; 4] = ["kubelet", "k3s", "rke2", "k0s"];
/// Units that run a kubelet, whatever program they start.
const EXACT: [&str; 5] =
    ["kubelet.service", "k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service"];
const KUBELET: &str = "kubelet";
/// The target of a masked unit (systemd.unit(5)).
const MASK: &[u8] = b"/dev/null";
/// How deep directories of drop-ins are searched.
const DEPTH: usize = 8;

/// The kubelet's settings, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct KubeletSettings {
    /// The largest `maxPods` in any source: too much room does no harm, but with too little the kubelet does
    /// not start. `None` if no source has it, or the configuration cannot be read.
    pub(super) max_pods: Option<u64>,
    /// `userNamespaces.idsPerPod`; `None` as for [`KubeletSettings::max_pods`].
    pub(super) ids_per_pod: Option<u64>,
    /// Whether the configuration was found and can be read.
    pub(super) has_config: bool,
    /// The file that cannot be read, and why.
    pub(super) unreadable: Option<String>,
    /// The values of `--root-dir`.
    pub(super) root_dirs: Vec<HostPath>,
    /// `staticPodPath` and `--pod-manifest-path`: files, or directories, with manifests of static pods.
    pub(super) manifests: Vec<HostPath>,
    /// The feature gate for user namespaces, if anything sets it.
    pub(super) gate: Option<FeatureGate>,
}

/// A line that may have flags of the kubelet.
struct Line {
    path: HostPath,
    /// From 1.
    number: usize,
    text: String,
    /// Whether the flags are the kubelet's own, or those of a distribution for it.
    own: bool,
}

/// All lines with flags of a kubelet, and what their variables stand for.
#[derive(Default)]
struct Flags {
    lines: Vec<Line>,
    variables: Variables,
    /// Descriptions of those that are not visible.
    hidden: Vec<String>,
}

/// A unit that runs a kubelet.
struct KubeletUnit {
    name: String,
    /// Its file and its drop-ins, in the order in which they count.
    files: Vec<(HostPath, String)>,
    settings: Vec<UnitSetting>,
}

impl Flags {
    /// Each value of a flag with the line that has it; `None` for a value that cannot be known here. Several values
    /// if a variable in it is assigned more than once.
    fn values<'a>(&'a self, name: &'a str) -> Vec<(&'a Line, String, Option<Vec<String>>)> {
        let of_line =
            |line: &'a Line| flag_values(&line.text, name).into_iter().map(move |value| (line, value));
        let all = self.lines.iter().flat_map(of_line);
        all.map(|(line, value)| {
            let known = unit_file::expand(&value, &self.variables);
            (line, value, known)
        })
        .collect()
    }

    /// The values of a flag of the kubelet that are absolute paths, and descriptions of those that are not known.
    fn paths(&self, name: &str) -> (Vec<HostPath>, Vec<String>) {
        let (mut paths, mut unknown) = (Vec::new(), Vec::new());
        for (line, value, known) in self.values(name).into_iter().filter(|(line, ..)| line.own) {
            let parse = |path: String| HostPath::parse(&path).ok().filter(|_| path.starts_with('/'));
            match known.and_then(|known| known.into_iter().map(parse).collect::<Option<Vec<_>>>()) {
                Some(known) => paths.extend(known),
                None => unknown.push(format!("{}: --{name}={value} is no absolute path", line.place())),
            }
        }
        (paths, unknown)
    }
}

impl Line {
    fn place(&self) -> String {
        format!("{}, line {}", self.path, self.number)
    }
}

/// Reads the settings from all sources.
pub(super) fn settings(root: &HostRoot) -> Result<(KubeletSettings, Vec<Finding>), BootstrapError> {
    let flags = flags(root)?;
    let mut settings = KubeletSettings {
        root_dirs: flags.paths("root-dir").0,
        manifests: flags.paths("pod-manifest-path").0,
        ..KubeletSettings::default()
    };
    let mut hidden = flags.hidden.clone();
    for (line, value, known) in flags.values("max-pods") {
        let numbers = known.and_then(|known| {
            known.iter().map(|one| one.parse::<u32>().ok().map(u64::from)).collect::<Option<Vec<_>>>()
        });
        match numbers {
            Some(numbers) => settings.max_pods = settings.max_pods.max(numbers.into_iter().max()),
            None => hidden.push(format!("{}: --max-pods={value} is no number", line.place())),
        }
    }
    let of_others = flags.values("root-dir").into_iter().filter(|(line, ..)| !line.own);
    settings.root_dirs.extend(of_others.filter_map(|(_, value, _)| HostPath::parse(&value).ok()));
    let gate_in =
        |line: &Line| gate_flag(&line.text, GATE).map(|is_on| FeatureGate { is_on, place: line.place() });
    let of_flags = flags.lines.iter().rev().find_map(gate_in);
    let mut findings = Vec::new();
    let (configs, unknown) = flags.paths("config");
    hidden.extend(unknown);
    let (directories, unknown) = flags.paths("config-dir");
    hidden.extend(unknown);
    let mut files: Vec<HostPath> = CONFIGS.into_iter().chain(configs.iter().cloned()).collect();
    let bases = files.len();
    let moved = data_directory::in_each(root, "agent/etc/kubelet.conf.d")?;
    for directory in DROP_INS.into_iter().chain(moved).chain(directories.iter().cloned()) {
        walk(root, &directory, DEPTH, &mut files)?;
    }
    // The kubelet does not start without these files: if they are not visible here, they are elsewhere.
    for (flag, paths) in [("config", &configs), ("config-dir", &directories)] {
        for path in paths {
            if !root.has(path)? {
                hidden.push(format!("--{flag} names {path}, which cannot be seen"));
            }
        }
    }
    for why in hidden {
        unreadable(&mut settings, &mut findings, why);
    }
    for (index, path) in files.iter().enumerate() {
        let Some(bytes) = read(root, path)? else {
            // The kubelet reads it all the same.
            if path.as_str().contains(char::REPLACEMENT_CHARACTER) {
                unreadable(&mut settings, &mut findings, format!("{path}: its name is not UTF-8"));
            }
            continue;
        };
        match KubeletConfig::parse(&bytes) {
            Ok(config) if config.is_kubelets() => {
                settings.has_config = true;
                let manifests = config.static_pod_path.as_deref().unwrap_or_default();
                settings.manifests.extend(HostPath::parse(manifests).ok().filter(|_| !manifests.is_empty()));
                settings.max_pods = settings.max_pods.max(config.max_pods.filter(|pods| *pods > 0));
                let gate =
                    config.feature_gate(GATE).map(|is_on| FeatureGate { is_on, place: path.to_string() });
                // The first of the main files, or the last of the drop-ins on top of it.
                let ids_per_pod = config.ids_per_pod();
                if index < bases {
                    settings.ids_per_pod = settings.ids_per_pod.or(ids_per_pod);
                    settings.gate = settings.gate.take().or(gate);
                } else {
                    settings.ids_per_pod = ids_per_pod.or(settings.ids_per_pod);
                    settings.gate = gate.or(settings.gate.take());
                }
            }
            Ok(_) => {}
            Err(why) => unreadable(&mut settings, &mut findings, format!("{path}: {why}")),
        }
    }
    settings.gate = of_flags.or(settings.gate.take());
    if settings.unreadable.is_some() {
        (settings.max_pods, settings.ids_per_pod, settings.has_config) = (None, None, false);
    }
    Ok((settings, findings))
}

/// The static pods that the kubelet runs or will run, each by the path of its manifest. The runtime does not
/// list all of them if the kubelet has not come up yet.
///
/// # Errors
/// A directory or a file cannot be read.
pub(super) fn static_pods(root: &HostRoot) -> Result<Vec<SystemPod>, BootstrapError> {
    let moved = data_directory::in_each(root, "agent/pod-manifests")?;
    let mut places: Vec<HostPath> =
        MANIFESTS.into_iter().chain(moved).chain(settings(root)?.0.manifests).collect();
    places.sort();
    places.dedup();
    let mut pods = Vec::new();
    for place in places {
        let mut names = root.list(&place)?;
        // The kubelet ignores these files (`pkg/kubelet/config/file.go`).
        names.retain(|name| !name.starts_with('.'));
        let files = names.iter().filter_map(|name| place.join(name).ok()).chain([place.clone()]);
        for file in files {
            let Some(bytes) = read(root, &file)? else { continue };
            pods.extend(
                static_pod_annotations(&bytes)
                    .map(|annotations| SystemPod { name: file.to_string(), annotations }),
            );
        }
    }
    Ok(pods)
}

/// Records that a part of the kubelet's configuration is unknown.
fn unreadable(settings: &mut KubeletSettings, findings: &mut Vec<Finding>, why: String) {
    let what = format!("{why}; the kubelet's maxPods and idsPerPod are not known");
    let remedy = "correct it, or set maxPods and idsPerPod under bootstrap.kubelet";
    findings.push(Finding::warning(FindingId::KubeletConfigUnreadable, what, remedy));
    settings.unreadable.get_or_insert(why);
}

/// The `.conf` files of a directory and its subdirectories, in the kubelet's order (`filepath.WalkDir` in
/// `mergeKubeletConfigurations`, `cmd/kubelet/app/server.go`).
fn walk(
    root: &HostRoot,
    directory: &HostPath,
    depth: usize,
    files: &mut Vec<HostPath>,
) -> Result<(), BootstrapError> {
    for name in root.list(directory)? {
        let Ok(path) = directory.join(&name) else { continue };
        let is_drop_in = name.ends_with(".conf");
        match depth.checked_sub(1) {
            Some(depth) if root.is_dir(&path)? => walk(root, &path, depth, files)?,
            _ if is_drop_in => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

/// Reads a file that a unit names, which may be of any type; a masked unit leads to `/dev/null`.
fn read(root: &HostRoot, path: &HostPath) -> Result<Option<Vec<u8>>, BootstrapError> {
    match root.read(path) {
        Err(HostError::NotAFile { .. }) => Ok(None),
        bytes => Ok(bytes?),
    }
}

/// The settings of a unit: the first directory that has it counts, and for each name the first drop-in
/// (systemd.unit(5)).
///
/// # Errors
/// A file cannot be read.
pub(super) fn settings_of_unit(root: &HostRoot, unit: &str) -> Result<Vec<UnitSetting>, BootstrapError> {
    let (mut own, mut drop_ins) = (None, BTreeMap::new());
    for directory in UNITS.iter().rev() {
        // The agent may not read units of containerd below /etc: they may contain a proxy's password.
        let text = |path: &HostPath| read(root, path).ok().flatten();
        own = directory.join(unit).ok().as_ref().and_then(text).or(own);
        let Ok(directory) = directory.join(&format!("{unit}.d")) else { continue };
        for name in root.list(&directory)?.into_iter().filter(|name| name.ends_with(".conf")) {
            if let Some(bytes) = directory.join(&name).ok().as_ref().and_then(text) {
                drop_ins.insert(name, bytes);
            }
        }
    }
    let texts = own.into_iter().chain(drop_ins.into_values());
    let texts: Vec<String> = texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
    Ok(unit_file::settings(&texts))
}

/// Reads all lines with flags of a kubelet.
fn flags(root: &HostRoot) -> Result<Flags, BootstrapError> {
    let mut flags = Flags::default();
    let mut seen = BTreeSet::new();
    let mut take = |flags: &mut Flags, path: HostPath, own: bool| -> Result<(), BootstrapError> {
        if !seen.insert(path.clone()) {
            return Ok(());
        }
        let Some(bytes) = read(root, &path)? else { return Ok(()) };
        let text = String::from_utf8_lossy(&bytes);
        if own {
            unit_file::add_environment_file(&text, &mut flags.variables);
        }
        for (number, text) in unit_file::lines(&text) {
            flags.lines.push(Line { path: path.clone(), number, text, own });
        }
        Ok(())
    };
    for path in FLAGS {
        take(&mut flags, path, true)?;
    }
    for [file, directory] in DISTRIBUTIONS {
        for name in root.list(&directory)? {
            if let Ok(path) = directory.join(&name) {
                take(&mut flags, path, false)?;
            }
        }
        take(&mut flags, file, false)?;
    }
    for unit in kubelet_units(root)? {
        let own = unit.name.starts_with(KUBELET);
        unit_file::add_environment(&unit.settings, &mut flags.variables);
        for setting in &unit.settings {
            let Some((path, _)) = unit.files.get(setting.file) else { continue };
            if setting.key.starts_with("Exec") || setting.key == "Environment" {
                let (number, text) = (setting.line, setting.value.clone());
                flags.lines.push(Line { path: path.clone(), number, text, own });
            }
            if setting.key == "EnvironmentFile" {
                let Some(value) = with_the_name(&setting.value, &unit.name) else {
                    flags.hidden.push(format!(
                        "{} reads {}, which only systemd can expand",
                        unit.name, setting.value
                    ));
                    continue;
                };
                let paths = environment_files(root, &value)?;
                // Without a dash before the path, the unit does not start without the file (systemd.exec(5)).
                if !value.starts_with('-') && !paths.iter().any(|path| root.has(path).unwrap_or(false)) {
                    flags.hidden.push(format!("a unit reads {value}, which cannot be seen"));
                }
                for path in paths {
                    take(&mut flags, path, own)?;
                }
            }
        }
    }
    Ok(flags)
}

/// The units that run a kubelet, those with the usual names first.
fn kubelet_units(root: &HostRoot) -> Result<Vec<KubeletUnit>, BootstrapError> {
    let mut names: BTreeSet<String> = EXACT.into_iter().map(str::to_owned).collect();
    for directory in &UNITS {
        for name in root.list(directory)? {
            // Drop-ins may be visible where the unit's own file is not.
            let unit = name.strip_suffix(".d").unwrap_or(&name);
            if unit.ends_with(".service") && NAMES.iter().any(|one| unit.starts_with(one)) {
                names.insert(unit.to_owned());
            }
        }
    }
    let is_other = |name: &String| !EXACT.contains(&name.as_str());
    let (others, exact): (Vec<String>, Vec<String>) = names.into_iter().partition(is_other);
    let mut units = Vec::new();
    for name in exact.into_iter().chain(others) {
        let files = files_of_unit(root, &name)?;
        let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
        let settings = unit_file::settings(&texts);
        let starts_kubelet =
            |setting: &UnitSetting| setting.key == "ExecStart" && unit_file::starts_kubelet(&setting.value);
        let runs = !is_other(&name) || settings.iter().any(starts_kubelet);
        if runs && !files.is_empty() {
            units.push(KubeletUnit { name, files, settings });
        }
    }
    Ok(units)
}

/// The search paths of the units that run a kubelet; `None` for a unit that sets none.
///
/// # Errors
/// A unit cannot be read.
pub(super) fn paths_of_units(root: &HostRoot) -> Result<Vec<Option<SearchPath>>, BootstrapError> {
    let mut paths = Vec::new();
    for unit in kubelet_units(root)? {
        let texts: Vec<String> = unit.files.into_iter().map(|(_, text)| text).collect();
        let files = environment_of_unit(root, &texts)?;
        paths.push(search_path(&texts, &files).map(|path| SearchPath { unit: unit.name, path }));
    }
    Ok(paths)
}

/// The unit that runs the kubelet in a container of its own, if there is one.
///
/// # Errors
/// A unit cannot be read.
pub(super) fn unit_in_container(root: &HostRoot) -> Result<Option<String>, BootstrapError> {
    let is_container = |setting: &UnitSetting| {
        setting.key == "ExecStart" && unit_file::starts_kubelet_in_container(&setting.value)
    };
    let mut units = kubelet_units(root)?.into_iter();
    Ok(units.find(|unit| unit.settings.iter().any(is_container)).map(|unit| unit.name))
}

/// The texts of the environment files that a unit's texts name and that exist.
pub(crate) fn environment_of_unit(root: &HostRoot, unit: &[String]) -> Result<Vec<String>, BootstrapError> {
    let mut files = Vec::new();
    for setting in unit_file::settings(unit).iter().filter(|setting| setting.key == "EnvironmentFile") {
        for path in environment_files(root, &setting.value)? {
            files.extend(read(root, &path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    Ok(files)
}

/// A value in which the unit's own name replaces its specifiers; `None` if it has others (systemd.unit(5)).
fn with_the_name(value: &str, unit: &str) -> Option<String> {
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let named = value.replace("%n", unit).replace("%N", stem).replace("%p", stem);
    (!named.contains('%')).then_some(named)
}

/// The files that an `EnvironmentFile=` names: one, or all that match a pattern (systemd.exec(5), glob(7)).
///
/// # Errors
/// A directory cannot be read.
pub(super) fn environment_files(root: &HostRoot, value: &str) -> Result<Vec<HostPath>, BootstrapError> {
    let value = value.trim_start_matches('-');
    if !is_pattern(value) {
        return Ok(HostPath::parse(value).into_iter().collect());
    }
    let below = |directory: &Option<HostPath>, name: &str| match directory {
        Some(directory) => directory.join(name).ok().map(Some),
        None => HostPath::parse(name).ok().map(Some),
    };
    let mut found = vec![None];
    for component in value.split('/').filter(|component| !component.is_empty()) {
        let mut next = Vec::new();
        for directory in &found {
            if !is_pattern(component) {
                next.extend(below(directory, component));
                continue;
            }
            let names = root.list(directory.as_ref().unwrap_or(&HostPath::fixed(".")))?;
            // A leading dot is special.
            let names = names.iter().filter(|name| !name.starts_with('.') && matches(component, name));
            next.extend(names.filter_map(|name| below(directory, name)));
        }
        found = next;
    }
    Ok(found.into_iter().flatten().collect())
}

/// The texts of a unit and its drop-ins, in the order in which they count; none if the unit's own file is not visible.
pub(crate) fn texts_of_unit(root: &HostRoot, unit: &str) -> Result<Vec<String>, BootstrapError> {
    let files = files_of_unit(root, unit)?;
    let has_own = files.iter().any(|(path, _)| path.name() == unit);
    Ok(if has_own { files.into_iter().map(|(_, text)| text).collect() } else { Vec::new() })
}

/// A unit's file and its drop-ins, in the order in which they count: a file in an earlier directory replaces one of the
/// same name in a later one (systemd.unit(5)). None if the unit is masked.
fn files_of_unit(root: &HostRoot, unit: &str) -> Result<Vec<(HostPath, String)>, BootstrapError> {
    let is_masked = |path: &HostPath| root.link_target(path).is_ok_and(|to| to.as_deref() == Some(MASK));
    let mut fragment = None;
    let mut drop_ins = BTreeMap::new();
    for directory in &UNITS {
        let Ok(path) = directory.join(unit) else { continue };
        if fragment.is_none() && is_masked(&path) {
            return Ok(Vec::new());
        }
        if fragment.is_none() {
            fragment = read(root, &path)?.map(|bytes| (path, bytes));
        }
        let Ok(more) = directory.join(&format!("{unit}.d")) else { continue };
        for name in root.list(&more)?.into_iter().filter(|name| name.ends_with(".conf")) {
            let Ok(path) = more.join(&name) else { continue };
            if drop_ins.contains_key(&name) {
                continue;
            }
            if is_masked(&path) {
                drop_ins.insert(name, None);
            } else if let Some(bytes) = read(root, &path)? {
                drop_ins.insert(name, Some((path, bytes)));
            }
        }
    }
    let files = fragment.into_iter().chain(drop_ins.into_values().flatten());
    Ok(files.map(|(path, bytes)| (path, String::from_utf8_lossy(&bytes).into_owned())).collect())
}
