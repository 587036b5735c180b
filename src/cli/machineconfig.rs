//! `usernsd machineconfig`: prints the configuration that prepares a pool of nodes.

use std::process::ExitCode;

use tracing::{info, warn};

use crate::args::{MachineconfigArgs, NodeFormat, NodeProfile};
use usernsd_config::{Overrides, Settings};
use usernsd_domain::finding::Severity;
use usernsd_prepare::machineconfig::{Configured, Format, Profile, Request, render};

/// Prints documents to stdout, and notes about what was left out to stderr.
///
/// # Errors
/// The configuration file is invalid, nothing can be rendered for that CRI-O, role or version of Ignition, or
/// stdout is closed.
pub fn run(args: MachineconfigArgs) -> anyhow::Result<ExitCode> {
    let settings = args.config.as_deref().map(|path| Settings::load(Some(path), Overrides::default()));
    let rendered = render(&request(args, settings.transpose()?))?;
    for note in rendered.notes {
        if note.severity == Severity::Note {
            info!("{note}");
        } else {
            warn!("{note}");
        }
    }
    super::print(&rendered.text)?;
    Ok(ExitCode::SUCCESS)
}

fn request(args: MachineconfigArgs, settings: Option<Settings>) -> Request {
    let said = settings.as_ref().and_then(|settings| settings.bootstrap.runtime.crio);
    Request {
        role: args.role,
        profile: match args.profile {
            NodeProfile::Default => Profile::Default,
            NodeProfile::Demo47 => Profile::Demo47,
        },
        format: match args.format {
            NodeFormat::Machineconfig => Format::MachineConfig,
            NodeFormat::Butane => Format::Butane,
            NodeFormat::CloudInit => Format::CloudInit,
            NodeFormat::Script => Format::Script,
        },
        ignition: args.ignition,
        crio: args.crio_version.or(said),
        userns_mode: args.userns_mode,
        gzip: args.gzip,
        configured: settings
            .map(|settings| Configured { crio: settings.bootstrap.crio, plugin: settings.bootstrap.plugin }),
    }
}
