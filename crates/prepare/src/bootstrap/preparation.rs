//! All that prepares a node: `usernsd bootstrap` applies it; doctor and agent only plan it, to see what would change.

use super::ids::{self, RunPrograms, Sandboxes};
use super::runtime::{self, WantedSettings, reads_containers};
use super::{BootstrapError, Part, PlanStep, hook, kernel, plugin};
use usernsd_domain::crio::drop_in::CrioOptions;
use usernsd_domain::idplan::DesiredIds;
use usernsd_domain::nri_plugin::{PluginOptions, Required, SystemPod};
use usernsd_domain::oci_hook::HookOptions;
use usernsd_domain::runtime::Runtime;
use usernsd_linux::host::HostRoot;

/// The desired state of a node, with the facts about it that a preparation needs.
#[derive(Debug, Clone, Copy)]
pub struct Preparation<'a> {
    /// The desired ranges of host IDs.
    pub ids: &'a DesiredIds,
    /// Whether to raise the kernel's limit of user namespaces if it is too low.
    pub apply_sysctl: bool,
    /// The options of CRI-O's drop-in.
    pub crio: &'a CrioOptions,
    /// Whether containerd should offer NRI.
    pub containerd_nri: bool,
    /// The OCI hook.
    pub hook: &'a HookOptions,
    /// The pre-installed NRI plugin.
    pub plugin: &'a PluginOptions,
    /// The node's runtime; `None` if it is unknown, or left alone.
    pub runtime: Option<Runtime>,
    /// The pods of the runtimes.
    pub sandboxes: Sandboxes<'a>,
    /// The node's system pods; `None` if the runtime does not answer or runs no pod.
    pub system_pods: Option<&'a [SystemPod]>,
    /// Whether programs may be run to find out what no file contains.
    pub run_programs: RunPrograms,
    /// Whether the plan is tried: the runtime's own program reads its files, and the node's file systems are mounted
    /// with mapped IDs. Otherwise usernsd's rules alone decide.
    pub is_tried: bool,
}

// === impl Preparation ===

impl Preparation<'_> {
    /// The steps in their order: the plugin is installed before the runtime requires it, and removed after the
    /// requirement. Another step is added here.
    #[must_use]
    pub fn steps(&self) -> [PlanStep<'_>; 6] {
        [
            Box::new(|root| self.plan_ids(root)),
            Box::new(|root| self.plan_kernel(root)),
            Box::new(|root| plugin::plan(root, self.plugin, &self.observe_plugin(root)?)),
            Box::new(|root| self.plan_runtime(root)),
            Box::new(|root| plugin::plan_removal(root, &self.observe_plugin(root)?)),
            Box::new(|root| hook::plan(root, self.hook, self.runtime, self.crio)),
        ]
    }

    fn plan_ids(&self, root: &HostRoot) -> Result<Part, BootstrapError> {
        let reads_containers = reads_containers(root, self.runtime, self.crio)?;
        ids::plan(root, self.ids, reads_containers, self.sandboxes, self.run_programs)
    }

    fn plan_kernel(&self, root: &HostRoot) -> Result<Part, BootstrapError> {
        let pods = ids::max_pods(root, self.ids)?;
        match self.is_tried {
            true => kernel::plan(root, pods, self.apply_sysctl),
            false => kernel::plan_sysctl(root, pods, self.apply_sysctl),
        }
    }

    fn observe_plugin(&self, root: &HostRoot) -> Result<plugin::ObservedPlugin, BootstrapError> {
        plugin::observe(root, self.plugin, self.runtime, self.crio, self.containerd_nri)
    }

    fn plan_runtime(&self, root: &HostRoot) -> Result<Part, BootstrapError> {
        let missing = match self.plugin.required {
            Required::Off => None,
            Required::Annotated | Required::All => self.observe_plugin(root)?.missing,
        };
        let wanted = WantedSettings {
            crio: self.crio,
            containerd_nri: self.containerd_nri,
            hook: self.hook,
            required: self.plugin.required,
            plugin_missing: missing.as_deref(),
            system_pods: self.system_pods,
        };
        match self.is_tried {
            true => runtime::plan(root, self.runtime, wanted),
            false => runtime::plan_by_rules(root, self.runtime, wanted),
        }
    }
}
