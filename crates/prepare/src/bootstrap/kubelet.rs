//! What the kubelet is told of pods and their IDs, by the files that it or its unit reads.
//!
//! Its command line is not asked: any container can have a process of that name.

use std::collections::BTreeSet;

use super::BootstrapError;
use crate::kubelet::{KubeletConfig, flag_values, max_pods_flag, static_pod_annotations};
use usernsd_domain::finding::Finding;
use usernsd_domain::nri_plugin::SystemPod;
use usernsd_domain::provision::HostPath;
use usernsd_linux::host::{HostError, HostRoot};

/// Where kubeadm, OpenShift, Kubespray, EKS and k0s keep the kubelet's configuration.
const CONFIGS: [HostPath; 7] = [
    HostPath::fixed("var/lib/kubelet/config.yaml"),
    HostPath::fixed("etc/kubernetes/kubelet.conf"),
    HostPath::fixed("etc/kubernetes/kubelet-config.yaml"),
    HostPath::fixed("var/lib/kubelet/kubeconfig.yaml"),
    HostPath::fixed("etc/kubernetes/kubelet/config.json"),
    HostPath::fixed("etc/kubernetes/kubelet/kubelet-config.json"),
    HostPath::fixed("var/lib/k0s/kubelet-config.yaml"),
];
/// What `--config-dir` names there: files that end in `.conf`, in its directories too, the last one wins.
const DROP_INS: [HostPath; 4] = [
    HostPath::fixed("etc/kubernetes/kubelet.conf.d"),
    HostPath::fixed("etc/kubernetes/kubelet/config.json.d"),
    HostPath::fixed("var/lib/rancher/k3s/agent/etc/kubelet.conf.d"),
    HostPath::fixed("var/lib/rancher/rke2/agent/etc/kubelet.conf.d"),
];
/// Flags that units of the kubelet read.
const FLAGS: [HostPath; 4] = [
    HostPath::fixed("var/lib/kubelet/kubeadm-flags.env"),
    HostPath::fixed("etc/default/kubelet"),
    HostPath::fixed("etc/sysconfig/kubelet"),
    HostPath::fixed("etc/kubernetes/kubelet.env"),
];
/// Flags that distributions hand on to the kubelet in them (`kubelet-arg`), and directories of more.
const DISTRIBUTIONS: [[HostPath; 2]; 2] = [
    [HostPath::fixed("etc/rancher/k3s/config.yaml"), HostPath::fixed("etc/rancher/k3s/config.yaml.d")],
    [HostPath::fixed("etc/rancher/rke2/config.yaml"), HostPath::fixed("etc/rancher/rke2/config.yaml.d")],
];
/// Where units are (systemd.unit(5)), and those with a kubelet in them.
const UNITS: [HostPath; 4] = [
    HostPath::fixed("etc/systemd/system"),
    HostPath::fixed("run/systemd/system"),
    HostPath::fixed("usr/local/lib/systemd/system"),
    HostPath::fixed("usr/lib/systemd/system"),
];
/// Where kubeadm and OpenShift, k3s, and RKE2 keep the manifests of static pods.
const MANIFESTS: [HostPath; 3] = [
    HostPath::fixed("etc/kubernetes/manifests"),
    HostPath::fixed("var/lib/rancher/k3s/agent/pod-manifests"),
    HostPath::fixed("var/lib/rancher/rke2/agent/pod-manifests"),
];
const NAMES: [&str; 4] = ["kubelet", "k3s", "rke2", "k0s"];
const KUBELET: &str = "kubelet";
/// How deep directories of drop-ins are followed.
const DEPTH: usize = 8;

/// `maxPods` and `userNamespaces.idsPerPod` as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// The largest that anyone says: more room than needed harms nobody, with less the kubelet does not
    /// start. `None` where nobody says it, or its configuration cannot be read.
    pub(super) max_pods: Option<u64>,
    /// See [`Told::max_pods`].
    pub(super) ids_per_pod: Option<u64>,
    /// Its configuration was found, and can be read.
    pub(super) has_config: bool,
    /// Which file cannot be read, and why.
    pub(super) unreadable: Option<String>,
    /// `--root-dir` of a unit.
    pub(super) root_dirs: Vec<HostPath>,
    /// `staticPodPath` and `--pod-manifest-path`: files, or directories, with manifests of static pods.
    pub(super) manifests: Vec<HostPath>,
}

/// A text with flags, and whether they are the kubelet's own.
struct Flags {
    text: String,
    own: bool,
}

/// Reads them all.
pub(super) fn told(root: &HostRoot) -> Result<(Told, Vec<Finding>), BootstrapError> {
    let (flags, mut hidden) = flags(root)?;
    let of_flag = |name: &str| -> Vec<HostPath> {
        let own = flags.iter().filter(|flags| flags.own);
        let values = own.flat_map(|flags| flag_values(&flags.text, name));
        values
            .filter(|value| value.starts_with('/'))
            .filter_map(|value| HostPath::parse(&value).ok())
            .collect()
    };
    let mut told =
        Told { root_dirs: of_flag("root-dir"), manifests: of_flag("pod-manifest-path"), ..Told::default() };
    for flags in &flags {
        told.max_pods = told.max_pods.max(max_pods_flag(&flags.text));
        if !flags.own {
            let named = flag_values(&flags.text, "root-dir");
            told.root_dirs.extend(named.iter().filter_map(|value| HostPath::parse(value).ok()));
        }
    }
    let mut findings = Vec::new();
    let mut files: Vec<HostPath> = CONFIGS.into_iter().chain(of_flag("config")).collect();
    let bases = files.len();
    for directory in DROP_INS.into_iter().chain(of_flag("config-dir")) {
        walk(root, &directory, DEPTH, &mut files)?;
    }
    // The kubelet does not start without them: where they are not seen here, they are elsewhere.
    for (flag, path) in ["config", "config-dir"]
        .into_iter()
        .flat_map(|flag| of_flag(flag).into_iter().map(move |path| (flag, path)))
    {
        if !root.has(&path)? {
            hidden.push(format!("--{flag} names {path}, which is not to be seen"));
        }
    }
    for why in hidden {
        unreadable(&mut told, &mut findings, why);
    }
    for (index, path) in files.iter().enumerate() {
        let Some(bytes) = read(root, path)? else { continue };
        match KubeletConfig::parse(&bytes) {
            Ok(config) if config.is_kubelets() => {
                told.has_config = true;
                let manifests = config.static_pod_path.as_deref().unwrap_or_default();
                told.manifests.extend(HostPath::parse(manifests).ok().filter(|_| !manifests.is_empty()));
                told.max_pods = told.max_pods.max(config.max_pods.filter(|pods| *pods > 0));
                // The first of the files, and the last of those that go on top of it.
                let said = config.ids_per_pod();
                told.ids_per_pod =
                    if index < bases { told.ids_per_pod.or(said) } else { said.or(told.ids_per_pod) };
            }
            Ok(_) => {}
            Err(why) => unreadable(&mut told, &mut findings, format!("{path}: {why}")),
        }
    }
    if told.unreadable.is_some() {
        (told.max_pods, told.ids_per_pod, told.has_config) = (None, None, false);
    }
    Ok((told, findings))
}

/// The static pods that the kubelet runs, or will run: each by the path of its manifest. Those that a runtime
/// lists are not all of them, on a node where the kubelet has not come up yet.
///
/// # Errors
/// A directory or a file cannot be read.
pub(super) fn static_pods(root: &HostRoot) -> Result<Vec<SystemPod>, BootstrapError> {
    let mut places: Vec<HostPath> = MANIFESTS.into_iter().chain(told(root)?.0.manifests).collect();
    places.sort();
    places.dedup();
    let mut pods = Vec::new();
    for place in places {
        let mut names = root.list(&place)?;
        // The kubelet passes over these (`pkg/kubelet/config/file.go`).
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

/// A part of its configuration that is not known.
fn unreadable(told: &mut Told, findings: &mut Vec<Finding>, why: String) {
    let what = format!("{why}; the kubelet's maxPods and idsPerPod are not known");
    let remedy = "say them under bootstrap.kubelet";
    findings.push(Finding::warning("kubelet-config-unreadable", what, remedy));
    told.unreadable.get_or_insert(why);
}

/// The `.conf` files of a directory and of those in it, in the kubelet's order (`filepath.WalkDir` in
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

/// What a unit names may be anything, and one that is masked leads to `/dev/null`.
fn read(root: &HostRoot, path: &HostPath) -> Result<Option<Vec<u8>>, BootstrapError> {
    match root.read(path) {
        Err(HostError::NotAFile { .. }) => Ok(None),
        bytes => Ok(bytes?),
    }
}

/// Everything in which flags of a kubelet stand, and what of that is not to be seen.
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
                    // Without a dash the unit does not start without it (systemd.exec(5)).
                    if !line.starts_with('-') && !root.has(&path)? {
                        hidden.push(format!("a unit reads {path}, which is not to be seen"));
                    }
                    take(path, own)?;
                }
            }
        }
    }
    Ok((all, hidden))
}
