//! The changes that `usernsd bootstrap` would make, and files that services have not read yet.

use std::collections::BTreeMap;

use super::{Doctor, DoctorConfig, SystemdAnswers};
use usernsd_domain::chain::chain;
use usernsd_domain::check::Probe;
use usernsd_domain::check::configuration::{ConfigFacts, ConfigFile, Drift};
use usernsd_domain::check::ids::IdFacts;
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::restart::Unread;
use usernsd_domain::runtime::{Runtime, RuntimeChoice};
use usernsd_prepare::bootstrap::ids::Sandboxes;
use usernsd_prepare::bootstrap::restart::{Loaded, unread};
use usernsd_prepare::bootstrap::{self, BootstrapError, Part, Preparation};

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
        let preparation = Preparation {
            ids,
            apply_sysctl: *apply_sysctl,
            crio,
            containerd_nri: *containerd_nri,
            hook,
            plugin,
            runtime: runtime.as_ref().ok().copied(),
            sandboxes: Sandboxes::NoRuntime,
            // Whether the plugin is required for all pods is not decided again here.
            system_pods: None,
            run_programs: self.run_programs(),
            is_tried: false,
        };
        Ok(match bootstrap::plan(&self.root, &preparation.steps()) {
            Ok(Part { refused: Some(why), .. }) => Drift::Refused(why.to_string()),
            // Nothing is planned for a runtime that was not found: an empty plan does not pass then.
            Ok(Part { changes, .. })
                if changes.is_empty() && self.place.runtime.choice != RuntimeChoice::None =>
            {
                if let Err(why) = runtime {
                    return Err(why.clone());
                }
                Drift::Changes(Vec::new())
            }
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
        if let Some(failure) = bootstrap::failure::read(&self.root).map_err(|error| chain(&error))? {
            return Ok(Some(failure.error));
        }
        // Without a record the check passes only if bootstrap has run.
        let has_run = self.root.has(&bootstrap::STATE).map_err(|error| chain(&error))?;
        if has_run { Ok(None) } else { Err("usernsd bootstrap has changed nothing on this node".to_owned()) }
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
