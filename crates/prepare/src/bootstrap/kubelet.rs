//! The kubelet's settings about pods and their IDs, from the files that the kubelet or its unit reads.
//!
//! The command line of its process is not used, because any container can have a process of that name.

use std::collections::{BTreeMap, BTreeSet};

use super::BootstrapError;
use crate::kubelet::{KubeletConfig, flag_values, max_pods_flag, search_path, static_pod_annotations};
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::kubelet::SearchPath;
use usernsd_domain::nri_plugin::SystemPod;
use usernsd_domain::paths::KUBELET_CONFIG;
use usernsd_domain::provision::HostPath;
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
const NAMES: [&str; 4] = ["kubelet", "k3s", "rke2", "k0s"];
const KUBELET: &str = "kubelet";
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
}

/// A text with flags, and whether they are the kubelet's own.
struct Flags {
    text: String,
    own: bool,
}

/// Reads the settings from all sources.
pub(super) fn settings(root: &HostRoot) -> Result<(KubeletSettings, Vec<Finding>), BootstrapError> {
    let (flags, mut hidden) = flags(root)?;
    let of_flag = |name: &str| -> Vec<HostPath> {
        let own = flags.iter().filter(|flags| flags.own);
        let values = own.flat_map(|flags| flag_values(&flags.text, name));
        values
            .filter(|value| value.starts_with('/'))
            .filter_map(|value| HostPath::parse(&value).ok())
            .collect()
    };
    let mut settings = KubeletSettings {
        root_dirs: of_flag("root-dir"),
        manifests: of_flag("pod-manifest-path"),
        ..KubeletSettings::default()
    };
    for flags in &flags {
        settings.max_pods = settings.max_pods.max(max_pods_flag(&flags.text));
        if !flags.own {
            let named = flag_values(&flags.text, "root-dir");
            settings.root_dirs.extend(named.iter().filter_map(|value| HostPath::parse(value).ok()));
        }
    }
    let mut findings = Vec::new();
    let mut files: Vec<HostPath> = CONFIGS.into_iter().chain(of_flag("config")).collect();
    let bases = files.len();
    for directory in DROP_INS.into_iter().chain(of_flag("config-dir")) {
        walk(root, &directory, DEPTH, &mut files)?;
    }
    // The kubelet does not start without these files: if they are not visible here, they are elsewhere.
    for (flag, path) in ["config", "config-dir"]
        .into_iter()
        .flat_map(|flag| of_flag(flag).into_iter().map(move |path| (flag, path)))
    {
        if !root.has(&path)? {
            hidden.push(format!("--{flag} names {path}, which cannot be seen"));
        }
    }
    for why in hidden {
        unreadable(&mut settings, &mut findings, why);
    }
    for (index, path) in files.iter().enumerate() {
        let Some(bytes) = read(root, path)? else { continue };
        match KubeletConfig::parse(&bytes) {
            Ok(config) if config.is_kubelets() => {
                settings.has_config = true;
                let manifests = config.static_pod_path.as_deref().unwrap_or_default();
                settings.manifests.extend(HostPath::parse(manifests).ok().filter(|_| !manifests.is_empty()));
                settings.max_pods = settings.max_pods.max(config.max_pods.filter(|pods| *pods > 0));
                // The first of the main files, or the last of the drop-ins on top of it.
                let ids_per_pod = config.ids_per_pod();
                settings.ids_per_pod = if index < bases {
                    settings.ids_per_pod.or(ids_per_pod)
                } else {
                    ids_per_pod.or(settings.ids_per_pod)
                };
            }
            Ok(_) => {}
            Err(why) => unreadable(&mut settings, &mut findings, format!("{path}: {why}")),
        }
    }
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
/// A directory or a file cannot be read.
pub(super) fn static_pods(root: &HostRoot) -> Result<Vec<SystemPod>, BootstrapError> {
    let mut places: Vec<HostPath> = MANIFESTS.into_iter().chain(settings(root)?.0.manifests).collect();
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
    let remedy = "say them under bootstrap.kubelet";
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

/// The value of a flag in the last of a unit's files that has it: the unit itself, then its drop-ins.
///
/// # Errors
/// A file cannot be read.
pub(super) fn flag_of_units(
    root: &HostRoot,
    unit: &str,
    flag: &str,
) -> Result<Option<String>, BootstrapError> {
    let mut value = None;
    // The first directory has the last word (systemd.unit(5)).
    for directory in UNITS.iter().rev() {
        let drop_ins = directory.join(&format!("{unit}.d")).ok();
        let names = drop_ins.as_ref().map_or(Ok(Vec::new()), |path| root.list(path))?;
        let names = names.iter().filter(|name| name.ends_with(".conf"));
        let drop_ins = drop_ins.iter().flat_map(|path| names.clone().filter_map(|name| path.join(name).ok()));
        for path in directory.join(unit).ok().into_iter().chain(drop_ins) {
            // The agent may not read units of containerd below /etc: they may contain a proxy's password.
            let text = read(root, &path).ok().flatten().unwrap_or_default();
            let named = flag_values(&String::from_utf8_lossy(&text), flag);
            value = named.into_iter().rfind(|value| value.starts_with('/')).or(value);
        }
    }
    Ok(value)
}

/// All texts with flags of a kubelet, and descriptions of those that are not visible.
fn flags(root: &HostRoot) -> Result<(Vec<Flags>, Vec<String>), BootstrapError> {
    let mut all = Vec::new();
    let mut hidden = Vec::new();
    let mut seen = BTreeSet::new();
    let mut take = |path: HostPath, own: bool| -> Result<Option<String>, BootstrapError> {
        if !seen.insert(path.clone()) {
            return Ok(None);
        }
        let bytes = read(root, &path)?;
        let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        all.extend(text.iter().map(|text| Flags { text: text.clone(), own }));
        Ok(text)
    };
    for path in FLAGS {
        take(path, true)?;
    }
    for [file, directory] in DISTRIBUTIONS {
        for name in root.list(&directory)? {
            directory.join(&name).map_or(Ok(None), |path| take(path, false))?;
        }
        take(file, false)?;
    }
    for directory in &UNITS {
        for name in root.list(directory)?.iter().filter(|name| NAMES.iter().any(|one| name.starts_with(one)))
        {
            let Ok(path) = directory.join(name) else { continue };
            let own = name.starts_with(KUBELET);
            let drop_ins = if name.ends_with(".service.d") { root.list(&path)? } else { Vec::new() };
            let drop_ins = drop_ins.iter().filter(|name| name.ends_with(".conf"));
            let mut files: Vec<HostPath> = drop_ins.filter_map(|name| path.join(name).ok()).collect();
            files.extend(name.ends_with(".service").then_some(path));
            for file in files {
                let text = take(file, own)?.unwrap_or_default();
                let lines = text.lines().filter_map(|line| line.trim().strip_prefix("EnvironmentFile="));
                for line in lines {
                    let Ok(path) = HostPath::parse(line.trim_start_matches('-')) else { continue };
                    // Without a dash before the path, the unit does not start without the file
                    // (systemd.exec(5)).
                    if !line.starts_with('-') && !root.has(&path)? {
                        hidden.push(format!("a unit reads {path}, which cannot be seen"));
                    }
                    take(path, own)?;
                }
            }
        }
    }
    Ok((all, hidden))
}

/// The search path of the unit that runs the kubelet; `None` if there is no such unit, or it sets none.
///
/// # Errors
/// A unit cannot be read.
pub(super) fn path_of_unit(root: &HostRoot) -> Result<Option<SearchPath>, BootstrapError> {
    for prefix in NAMES {
        let mut names = BTreeSet::new();
        for directory in &UNITS {
            let services = root.list(directory)?.into_iter();
            names.extend(services.filter(|name| name.starts_with(prefix) && name.ends_with(".service")));
        }
        for unit in names {
            let texts = texts_of_unit(root, &unit)?;
            if texts.is_empty() {
                continue;
            }
            let files = environment_of_unit(root, &texts)?;
            return Ok(search_path(&texts, &files).map(|path| SearchPath { unit, path }));
        }
    }
    Ok(None)
}

/// The texts of the environment files that a unit's texts name and that exist.
pub(crate) fn environment_of_unit(root: &HostRoot, unit: &[String]) -> Result<Vec<String>, BootstrapError> {
    let mut files = Vec::new();
    let lines = unit.iter().flat_map(|text| text.lines());
    for line in lines.filter_map(|line| line.trim().strip_prefix("EnvironmentFile=")) {
        let Ok(path) = HostPath::parse(line.trim_start_matches('-')) else { continue };
        files.extend(read(root, &path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(files)
}

/// The texts of a unit and its drop-ins, in the order in which they count: a file in an earlier directory replaces
/// one of the same name in a later one (systemd.unit(5)).
pub(crate) fn texts_of_unit(root: &HostRoot, unit: &str) -> Result<Vec<String>, BootstrapError> {
    let mut fragment = None;
    let mut drop_ins = BTreeMap::new();
    for directory in &UNITS {
        let Ok(path) = directory.join(unit) else { continue };
        if fragment.is_none() {
            fragment = read(root, &path)?;
        }
        let Ok(more) = directory.join(&format!("{unit}.d")) else { continue };
        for name in root.list(&more)?.into_iter().filter(|name| name.ends_with(".conf")) {
            let Ok(path) = more.join(&name) else { continue };
            if let Some(bytes) = read(root, &path)? {
                drop_ins.entry(name).or_insert(bytes);
            }
        }
    }
    let Some(fragment) = fragment else { return Ok(Vec::new()) };
    let texts = [fragment].into_iter().chain(drop_ins.into_values());
    Ok(texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect())
}
