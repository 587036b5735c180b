//! `usernsd machineconfig`: renders the configuration of a pool's nodes, by profile. Also the reverse: what a
//! MachineConfig would write on a node, and what the Machine Config Operator would do with one.

pub mod check;
mod pool;
mod read;

#[cfg(test)]
mod tests;

use std::io::Write;

use flate2::{Compression, GzBuilder};
use thiserror::Error;

pub use self::pool::{MAX_TEXT, PlannedConfigError, PoolError};
pub use self::read::{FileEntry, Parsed, ReadConfigError, UnitEntry, managed, parse};
use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::check::unchecked;
use usernsd_domain::crio::drop_in::{self, CrioNode, CrioOptions, DropInError};
use usernsd_domain::finding::{Finding, FindingId};
use usernsd_domain::ignition::{
    FileAction, FileEncoding, FilePolicy, Ignition, NodeConfig, NodeFile, disruption_policy,
};
use usernsd_domain::nri_plugin::{
    self, PluginInstall, PluginOptions, Required, Validator, ValidatorPlan, plan_validator, settings,
    unsupported,
};
use usernsd_domain::runtime::Runtime;

/// The kind of nodes to configure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Current releases: annotations through workloads, no reboot, and no file that bootstrap also writes.
    Default,
    /// The OpenShift 4.7 demonstration of 2021, byte for byte.
    Demo47,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A MachineConfig, for OpenShift.
    MachineConfig,
    /// Butane, for Fedora CoreOS and similar systems.
    Butane,
    /// cloud-init, for cloud images.
    CloudInit,
    /// A shell script, for all other systems.
    Script,
}

/// The options of `usernsd machineconfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfigOptions {
    /// The machine config pool.
    pub role: String,
    /// The kind of nodes.
    pub profile: Profile,
    /// The output format.
    pub format: Format,
    /// The version of Ignition; `None` means the profile's.
    pub ignition: Option<Ignition>,
    /// The oldest CRI-O version of the pool; `None` means [`OLDEST_CRIO`].
    pub crio: Option<CrioVersion>,
    /// Whether pods may request a user namespace by annotation; the ranges for that are then written.
    pub userns_mode: bool,
    /// Whether file contents are compressed.
    pub gzip: bool,
    /// The node's settings in a configuration file; `None` if no file is given. The demonstration does not
    /// use them.
    pub configured: Option<Configured>,
}

/// The part of the agent's configuration that is stored in files of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// The settings of CRI-O's drop-in.
    pub crio: CrioOptions,
    /// The launched plugin.
    pub plugin: PluginOptions,
}

/// The rendered configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text to print.
    pub text: String,
    /// Parts that were left out, with the reasons.
    pub notes: Vec<Finding>,
}

/// Why nothing was rendered.
#[derive(Debug, Error)]
pub enum RenderError {
    /// The role is not the name of a pool.
    #[error("{0:?} is not the name of a machine config pool: write lower-case letters, digits and dashes")]
    Role(String),
    /// No drop-in can be written for that CRI-O version.
    #[error(transparent)]
    Drop(#[from] DropInError),
    /// Ignition before 3.3 cannot set kernel arguments.
    #[error("Ignition {} cannot set kernel arguments; pass --ignition 3.3.0 or later", .0.name())]
    KernelArguments(Ignition),
}

/// The CRI-O version of OpenShift 4.19, the oldest release that the default profile supports. It accepts only
/// the old names of annotations, which later versions accept, too; with a new name it would not start.
pub const OLDEST_CRIO: CrioVersion = CrioVersion::new(1, 32, 0);

/// The content of both subordinate ID files in the demonstration.
const RANGES: &str = "core:100000:65536\ncontainers:200000:268435456\n";

/// Renders the requested configuration.
///
/// # Errors
/// See [`RenderError`].
pub fn render(request: &MachineConfigOptions) -> Result<Rendered, RenderError> {
    let (config, policies, notes) = match request.profile {
        Profile::Default => today(request)?,
        Profile::Demo47 => (demo(request)?, Vec::new(), Vec::new()),
    };
    let text = match request.format {
        Format::MachineConfig if policies.is_empty() => config.machine_config(),
        Format::MachineConfig => {
            format!("{}---\n{}", config.machine_config(), disruption_policy(&policies))
        }
        Format::Butane => config.butane().ok_or(RenderError::KernelArguments(config.ignition))?,
        Format::CloudInit => config.cloud_init(),
        Format::Script => config.script(),
    };
    Ok(Rendered { text, notes })
}

/// The MachineConfig of "Demo: namespaced systemd workloads on OpenShift" (July 2021).
fn demo(request: &MachineConfigOptions) -> Result<NodeConfig, RenderError> {
    let file = |path: &str, text: &str| NodeFile { mode: None, ..NodeFile::text(path, text.to_owned()) };
    let crio = "[crio.runtime.runtimes.runc]\nallowed_annotations=[\"io.kubernetes.cri-o.userns-mode\"]\n";
    let mut files = vec![
        file("/etc/crio/crio.conf.d/99-crio-userns.conf", crio),
        file("/etc/subuid", RANGES),
        file("/etc/subgid", RANGES),
    ];
    pack(request, &mut files);
    let arguments = ["systemd.unified_cgroup_hierarchy=1", "cgroup_no_v1=\"all\"", "psi=1"];
    Ok(NodeConfig {
        name: "userns-cgv2".to_owned(),
        role: role(request)?,
        ignition: request.ignition.unwrap_or(Ignition::V3_1),
        kernel_arguments: arguments.into_iter().map(str::to_owned).collect(),
        files,
        units: Vec::new(),
    })
}

fn today(request: &MachineConfigOptions) -> Result<(NodeConfig, Vec<FilePolicy>, Vec<Finding>), RenderError> {
    let role = role(request)?;
    let version = request.crio.unwrap_or(OLDEST_CRIO);
    let configured = request.configured.as_ref();
    let mut options = configured.map_or_else(CrioOptions::default, |configured| configured.crio.clone());
    options.userns_mode = Some(request.userns_mode || options.userns_mode == Some(true));
    let (mut files, mut policies, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(Configured { plugin, .. }) = configured {
        let missing = not_launched(plugin, version, options.nri);
        let validator = validator(plugin.required, version, missing.as_deref());
        options.validator = validator.becomes;
        notes.extend(validator.findings);
        match missing {
            None => {
                let path = format!("{}/{}.conf", nri_plugin::CONFIG_DIR, nri_plugin::file_name(plugin.index));
                files.push(NodeFile::text(&path, settings(&path, &plugin.settings)));
                // The plugin reads its configuration again when it changes.
                policies.push(FilePolicy { path, actions: vec![FileAction::None] });
            }
            Some(why) => notes.push(Finding::note(
                FindingId::PluginNotLaunched,
                format!("no configuration of the NRI plugin is rendered: {why}"),
            )),
        }
    }
    let node = CrioNode { version, kubernetes: None, files: None, programs: &unchecked };
    let plan = drop_in::plan(node, options)?;
    notes.extend(plan.notes);
    if let Some(text) = plan.text {
        files.push(NodeFile::text(drop_in::PATH, text));
        let mut actions = vec![FileAction::Restart("crio.service".to_owned())];
        if version.forgets_mappings_on_restart() {
            // Such a restart would harm pods with a user namespace, so the node is drained first.
            actions.insert(0, FileAction::Drain);
        }
        policies.push(FilePolicy { path: drop_in::PATH.to_owned(), actions });
    }
    if request.userns_mode {
        // Written only in this case: bootstrap edits these files line by line, so they must not belong to the
        // MachineConfig.
        for path in ["/etc/subuid", "/etc/subgid"] {
            files.push(NodeFile::text(path, RANGES.to_owned()));
            policies.push(FilePolicy { path: path.to_owned(), actions: vec![FileAction::None] });
        }
        let what =
            "/etc/subuid and /etc/subgid are replaced whole: what others have in them on these nodes goes";
        let remedy =
            "if there are such lines, leave --userns-mode out, and run usernsd bootstrap on the nodes";
        notes.push(Finding::warning(FindingId::SubidReplaced, what.to_owned(), remedy));
    }
    pack(request, &mut files);
    let config = NodeConfig {
        name: format!("99-{role}-usernsd"),
        role,
        ignition: request.ignition.unwrap_or(Ignition::V3_5),
        kernel_arguments: Vec::new(),
        files,
        units: Vec::new(),
    };
    Ok((config, policies, notes))
}

/// Why CRI-O of that version does not launch the plugin; `None` if it does.
fn not_launched(plugin: &PluginOptions, version: CrioVersion, nri: bool) -> Option<String> {
    if plugin.install == PluginInstall::Never {
        return Some("bootstrap.nri.plugin is never".to_owned());
    }
    let idle = plugin.idle.map(str::to_owned);
    idle.or_else(|| unsupported(Runtime::Crio(version)))
        .or_else(|| (!nri && !version.nri_by_default()).then(|| "NRI is off".to_owned()))
}

/// Plans the validator. The plugin is not required of all pods: a new node of the pool starts CRI-O before
/// the plugin is installed, and could then not start the pods that install it.
fn validator(required: Required, version: CrioVersion, missing: Option<&str>) -> ValidatorPlan {
    let modest = if required == Required::All { Required::Annotated } else { required };
    let runtime = Runtime::Crio(version);
    let mut plan = plan_validator(modest, runtime, &Validator::default(), missing, None, false);
    if required == Required::All && plan.becomes.is_some() {
        let what =
            "the plugin is required for the pods that ask for it, not for all: a new node of the pool could \
                    not start the pods that install it"
                .to_owned();
        let remedy = "set bootstrap.nri.required to annotated for these nodes";
        plan.findings.push(Finding::warning(FindingId::NriRequired, what, remedy));
    }
    plan
}

fn role(request: &MachineConfigOptions) -> Result<String, RenderError> {
    let role = &request.role;
    let good = (1..=50).contains(&role.len())
        && role.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !role.starts_with('-')
        && !role.ends_with('-');
    if good { Ok(role.clone()) } else { Err(RenderError::Role(role.clone())) }
}

fn pack(request: &MachineConfigOptions, files: &mut [NodeFile]) {
    for file in files.iter_mut().filter(|_| request.gzip) {
        // No time stamp, so that the same content gives the same bytes.
        let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        if let Ok(packed) = writer.write_all(&file.content).and_then(|()| writer.finish()) {
            file.encoding = FileEncoding::Gzip(packed);
        }
    }
}
