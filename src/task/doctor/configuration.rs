//! What `usernsd bootstrap` would change, and what services have not read yet.

use std::collections::BTreeMap;

use super::{Doctor, Place, SystemdSaid, changed_at};
use crate::domain::check::Look;
use crate::domain::check::configuration::{ConfigFacts, ConfigFile};
use crate::domain::provision::HostPath;
use crate::domain::restart::{Changed, Service, pending};
use crate::domain::runtime::Runtime;
use crate::edge::crio::ConfRoot;
use crate::edge::host::HostRoot;
use crate::task::bootstrap::{self, BootstrapError, Step};

/// Files beside CRI-O's that services read at their start.
const FILES: [&str; 6] = [
    "etc/subuid",
    "etc/subgid",
    "etc/containerd/config.toml",
    "var/lib/kubelet/config.yaml",
    "etc/kubernetes/kubelet.conf",
    "etc/kubernetes/kubelet-config.yaml",
];
/// Directories of drop-ins.
const DIRECTORIES: [&str; 2] = ["etc/containerd/conf.d", "etc/kubernetes/kubelet.conf.d"];

impl Doctor {
    pub(super) fn configuration(&self, runtime: &Look<Runtime>, systemd: &SystemdSaid) -> ConfigFacts {
        ConfigFacts { drift: self.drift(runtime), pending: self.pending(systemd) }
    }

    /// The same plan as `usernsd bootstrap --check` makes; only CRI-O's program is not asked.
    fn drift(&self, runtime: &Look<Runtime>) -> Look<Result<Vec<(HostPath, String)>, String>> {
        let Place { ids, crio, containerd_nri, hook, apply_sysctl, .. } = &self.place;
        let runtime = runtime.as_ref().ok().copied();
        let plan_ids = |root: &HostRoot| bootstrap::ids::plan(root, ids, &[]);
        let plan_kernel = |root: &HostRoot| {
            bootstrap::kernel::plan_sysctl(root, bootstrap::ids::max_pods(root, ids)?, *apply_sysctl)
        };
        let plan_runtime =
            |root: &HostRoot| bootstrap::runtime::plan_by_rules(root, runtime, *crio, *containerd_nri, hook);
        let plan_hook = |root: &HostRoot| bootstrap::hook::plan(root, hook, runtime, *crio);
        let steps: [&Step<'_>; 4] = [&plan_ids, &plan_kernel, &plan_runtime, &plan_hook];
        Ok(match bootstrap::plan(&self.root, &steps) {
            Ok(part) => {
                Ok(part.changes.into_iter().map(|change| (change.path, change.reasons.join(", "))).collect())
            }
            // It would do harm, or a file is not as it must be.
            Err(error @ (BootstrapError::Refused(_) | BootstrapError::Crio(_))) => Err(error.to_string()),
            Err(error) => return Err(error.to_string()),
        })
    }

    fn pending(&self, systemd: &SystemdSaid) -> Look<Vec<(Service, Vec<String>)>> {
        let running = systemd.running.clone()?;
        let mut paths: Vec<String> = FILES.iter().map(|path| format!("/{path}")).collect();
        for directory in DIRECTORIES {
            let names = HostPath::parse(directory).ok().and_then(|path| self.root.list(&path).ok());
            paths.extend(names.unwrap_or_default().into_iter().map(|name| format!("/{directory}/{name}")));
        }
        if let Ok(files) = ConfRoot::open(&self.place.root).and_then(|conf| conf.crio()) {
            paths.extend(files.into_iter().map(|file| file.path));
        }
        let changed: Vec<Changed> = paths
            .into_iter()
            .filter_map(|path| {
                let at = changed_at(&self.place.root.join(path.trim_start_matches('/')))?;
                Some(Changed { path, at, only: None })
            })
            .collect();
        let unread = pending(&running, &changed);
        Ok(unread
            .into_iter()
            .map(|(service, files)| (service, files.into_iter().map(str::to_owned).collect()))
            .collect())
    }

    /// How often `usernsd bootstrap` wrote each file, as its journal says; what was taken back again
    /// is not in it.
    pub(super) fn writes(&self) -> Look<BTreeMap<ConfigFile, u64>> {
        let written = bootstrap::written(&self.root).map_err(|error| error.to_string())?;
        let mut counts = BTreeMap::new();
        for file in written.iter().filter_map(ConfigFile::of) {
            *counts.entry(file).or_default() += 1;
        }
        Ok(counts)
    }
}
