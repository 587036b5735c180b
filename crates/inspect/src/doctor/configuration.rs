//! The changes that `usernsd bootstrap` would make, and files that services have not read yet.

use std::collections::BTreeMap;

use super::{Doctor, DoctorConfig, SystemdAnswers};
use usernsd_domain::chain::chain;
use usernsd_domain::check::Probe;
use usernsd_domain::check::configuration::{ConfigFacts, ConfigFile, Drift};
use usernsd_domain::check::ids::IdFacts;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::nri_plugin::Required;
use usernsd_domain::restart::Unread;
use usernsd_domain::runtime::Runtime;
use usernsd_linux::host::HostRoot;
use usernsd_prepare::bootstrap::ids::Sandboxes;
use usernsd_prepare::bootstrap::restart::{Loaded, unread};
use usernsd_prepare::bootstrap::runtime::Wanted;
use usernsd_prepare::bootstrap::{self, BootstrapError, Part, Step};

impl Doctor {
    pub(super) fn configuration(
        &self,
        runtime: &Probe<Runtime>,
        systemd: &SystemdAnswers,
        loaded: Option<&Loaded>,
        ids: &Probe<IdFacts>,
    ) -> ConfigFacts {
        let is_outside = |finding: &Finding| finding.id == FindingId::KubeletRecordOutside;
        ConfigFacts {
            failure: self.failure(),
            drift: self.drift(runtime),
            pending: self.pending(systemd, loaded),
            has_pods_outside: ids.as_ref().is_ok_and(|facts| facts.findings.iter().any(is_outside)),
        }
    }

    /// The same plan as that of `usernsd bootstrap --check`, except that CRI-O's program is not asked.
    fn drift(&self, runtime: &Probe<Runtime>) -> Probe<Drift> {
        self.uses_bootstrap()?;
        let DoctorConfig { ids, crio, containerd_nri, hook, plugin, apply_sysctl, .. } = &self.place;
        let runtime = runtime.as_ref().ok().copied();
        let plan_ids = |root: &HostRoot| {
            let reads_containers = bootstrap::runtime::reads_containers(root, runtime, crio)?;
            bootstrap::ids::plan(root, ids, reads_containers, Sandboxes::NoRuntime, self.ask())
        };
        let plan_kernel = |root: &HostRoot| {
            bootstrap::kernel::plan_sysctl(root, bootstrap::ids::max_pods(root, ids)?, *apply_sysctl)
        };
        let observe =
            |root: &HostRoot| bootstrap::plugin::observe(root, plugin, runtime, crio, *containerd_nri);
        let plan_plugin = |root: &HostRoot| bootstrap::plugin::plan(root, plugin, &observe(root)?);
        let plan_runtime = |root: &HostRoot| {
            let missing = match plugin.required {
                Required::Off => None,
                Required::Annotated | Required::All => observe(root)?.missing,
            };
            let wanted = Wanted {
                crio,
                containerd_nri: *containerd_nri,
                hook,
                required: plugin.required,
                plugin_missing: missing.as_deref(),
                // Whether the plugin is required for all pods is not decided again here.
                system_pods: None,
            };
            bootstrap::runtime::plan_by_rules(root, runtime, wanted)
        };
        let plan_removal = |root: &HostRoot| bootstrap::plugin::plan_removal(root, &observe(root)?);
        let plan_hook = |root: &HostRoot| bootstrap::hook::plan(root, hook, runtime, crio);
        let steps: [&Step<'_>; 6] =
            [&plan_ids, &plan_kernel, &plan_plugin, &plan_runtime, &plan_removal, &plan_hook];
        Ok(match bootstrap::plan(&self.root, &steps) {
            Ok(Part { refused: Some(why), .. }) => Drift::Refused(BootstrapError::Ranges(why).to_string()),
            Ok(part) => Drift::Changes(
                part.changes.into_iter().map(|change| (change.path, change.reasons.join(", "))).collect(),
            ),
            // The plan would do harm, or a file has an unexpected form.
            Err(error @ (BootstrapError::Refused(_) | BootstrapError::Crio(_))) => {
                Drift::Refused(chain(&error))
            }
            Err(error) => return Err(chain(&error)),
        })
    }

    /// The failure that the bootstrap run before the agent's start recorded, if any.
    fn failure(&self) -> Probe<Option<String>> {
        self.uses_bootstrap()?;
        let failure = bootstrap::failure::read(&self.root).map_err(|error| chain(&error))?;
        Ok(failure.map(|failure| failure.error))
    }

    fn uses_bootstrap(&self) -> Probe<()> {
        let why = "bootstrap.enabled is false: this node is prepared by someone else";
        if self.place.uses_bootstrap { Ok(()) } else { Err(why.to_owned()) }
    }

    /// The same result as that of `usernsd bootstrap`.
    fn pending(&self, systemd: &SystemdAnswers, loaded: Option<&Loaded>) -> Probe<Vec<Unread>> {
        let running = systemd.running.clone()?;
        unread(&self.root, &running, &[], loaded).map_err(|error| chain(&error))
    }

    /// How often `usernsd bootstrap` wrote each file, from its journal, which does not contain undone writes.
    pub(super) fn writes(&self) -> Probe<BTreeMap<ConfigFile, u64>> {
        self.uses_bootstrap()?;
        let written = bootstrap::written(&self.root).map_err(|error| chain(&error))?;
        let mut counts = BTreeMap::new();
        for file in written.iter().filter_map(ConfigFile::of) {
            *counts.entry(file).or_default() += 1;
        }
        Ok(counts)
    }
}
