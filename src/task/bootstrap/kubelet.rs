//! What the kubelet is told of pods and their IDs, by the files that it or its unit reads.
//!
//! Its command line is not asked: any container can have a process of that name.

use super::BootstrapError;
use crate::domain::finding::Finding;
use crate::domain::kubelet::DEFAULT_MAX_PODS;
use crate::domain::provision::HostPath;
use crate::edge::host::HostRoot;
use crate::edge::kubelet::{KubeletConfig, max_pods_flag};

/// Where kubeadm, OpenShift, k3s and EKS keep the kubelet's configuration.
const CONFIGS: [HostPath; 5] = [
    HostPath::fixed("var/lib/kubelet/config.yaml"),
    HostPath::fixed("etc/kubernetes/kubelet.conf"),
    HostPath::fixed("var/lib/kubelet/kubeconfig.yaml"),
    HostPath::fixed("etc/kubernetes/kubelet/config.json"),
    HostPath::fixed("etc/kubernetes/kubelet/kubelet-config.json"),
];
/// What `--config-dir` names there: files that end in `.conf`, the last one wins.
const DROP_INS: [HostPath; 4] = [
    HostPath::fixed("etc/kubernetes/kubelet.conf.d"),
    HostPath::fixed("etc/kubernetes/kubelet/config.json.d"),
    HostPath::fixed("var/lib/rancher/k3s/agent/etc/kubelet.conf.d"),
    HostPath::fixed("var/lib/rancher/rke2/agent/etc/kubelet.conf.d"),
];
/// Flags that units of the kubelet read.
const FLAGS: [HostPath; 3] = [
    HostPath::fixed("var/lib/kubelet/kubeadm-flags.env"),
    HostPath::fixed("etc/default/kubelet"),
    HostPath::fixed("etc/sysconfig/kubelet"),
];

/// `maxPods` and `userNamespaces.idsPerPod` as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// The largest that anyone says: more room than needed harms nobody, with less the kubelet does not
    /// start. `None` where its configuration was not found, or cannot be read.
    pub(super) max_pods: Option<u64>,
    /// See [`Told::max_pods`]; `None` where nobody says it.
    pub(super) ids_per_pod: Option<u64>,
}

/// Reads them all.
pub(super) fn told(root: &HostRoot) -> Result<(Told, Vec<Finding>), BootstrapError> {
    let (mut told, mut findings) = (Told::default(), Vec::new());
    let (mut found, mut unreadable) = (false, false);
    let mut heed = |path: &HostPath, bytes: &[u8], told: &mut Told| match KubeletConfig::parse(bytes) {
        Ok(config) => {
            told.max_pods = told.max_pods.max(config.max_pods);
            told.ids_per_pod = config.ids_per_pod().or(told.ids_per_pod);
        }
        Err(why) => {
            unreadable = true;
            findings.push(Finding::warning(
                "kubelet-config-unreadable",
                format!("{path}: {why}; its maxPods and idsPerPod are not known"),
                "say them under bootstrap.kubelet",
            ));
        }
    };
    for path in &CONFIGS {
        if let Some(bytes) = root.read(path)?.filter(|_| !found) {
            found = true;
            heed(path, &bytes, &mut told);
        }
    }
    for directory in &DROP_INS {
        let mut names = root.list(directory)?;
        names.retain(|name| name.ends_with(".conf"));
        names.sort();
        for name in names {
            let Ok(path) = directory.join(&name) else { continue };
            if let Some(bytes) = root.read(&path)? {
                found = true;
                heed(&path, &bytes, &mut told);
            }
        }
    }
    for path in &FLAGS {
        if let Some(bytes) = root.read(path)? {
            told.max_pods = told.max_pods.max(max_pods_flag(&String::from_utf8_lossy(&bytes)));
        }
    }
    if unreadable {
        told = Told::default();
    } else if found {
        told.max_pods = told.max_pods.or(Some(DEFAULT_MAX_PODS));
    }
    Ok((told, findings))
}
