//! `usernsd machineconfig`: prints the configuration that prepares a pool of nodes, or what it would do to the pool.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tracing::{info, warn};

use super::terminal::printable;
use crate::args::{MachineconfigArgs, NodeFormat, NodeProfile};
use usernsd_config::{Overrides, Settings};
use usernsd_domain::finding::Severity;
use usernsd_prepare::machineconfig::check::{self, CheckError};
use usernsd_prepare::machineconfig::{Configured, Format, MAX_TEXT, MachineConfigOptions, Profile, render};

/// Prints documents to stdout, and notes about what was left out to stderr.
///
/// # Errors
/// The configuration file is invalid, nothing can be rendered for that CRI-O, role or version of Ignition, or
/// stdout is closed.
pub fn run(args: MachineconfigArgs) -> anyhow::Result<ExitCode> {
    let (pool, ours) = (args.check.clone(), args.machineconfig.clone());
    let role = args.role.clone();
    if let (Some(pool), Some(ours)) = (&pool, &ours) {
        return check(pool, &role, &read(ours)?, &ours.display().to_string());
    }
    let settings = args.config.as_deref().map(|path| Settings::load(Some(path), Overrides::default()));
    let rendered = render(&request(args, settings.transpose()?))?;
    for note in rendered.notes {
        if note.severity == Severity::Note {
            info!("{note}");
        } else {
            warn!("{note}");
        }
    }
    if let Some(pool) = pool {
        return check(&pool, &role, &rendered.text, "the MachineConfig that is printed");
    }
    super::print(&rendered.text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what the operator would do with `ours` in the pool, and exits with 1 if that is not smooth.
fn check(pool: &Path, role: &str, ours: &str, ours_is: &str) -> anyhow::Result<ExitCode> {
    let text = read(pool)?;
    let report = match check::check(&text, role, ours) {
        Ok(report) => report,
        // Texts of the files are in the messages.
        Err(CheckError::Pool(error)) => bail!("{}", printable(&format!("{}: {error}", pool.display()))),
        Err(CheckError::PlannedConfig(error)) => bail!("{}", printable(&format!("{ours_is}: {error}"))),
    };
    super::print(&printable(&report.to_string()))?;
    Ok(if report.needs_no_attention() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Reads a file, or stdin for `-`, but not without end.
fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") { text_of(std::io::stdin(), path) } else { read_file(path) }
}

/// Reads a file, but not without end.
pub(super) fn read_file(path: &Path) -> anyhow::Result<String> {
    let file = File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
    text_of(file, path)
}

fn text_of(input: impl Read, path: &Path) -> anyhow::Result<String> {
    let name = path.display();
    let mut bytes = Vec::new();
    let read = input.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("{name}: cannot be read"))?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        bail!(
            "{name}: is UTF-16, as PowerShell's > writes it; write UTF-8: oc … | Out-File -Encoding utf8 {name}"
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        anyhow::anyhow!("{name}: line {line}: is not UTF-8; oc get -o yaml prints a text that can be read")
    })
}

fn request(args: MachineconfigArgs, settings: Option<Settings>) -> MachineConfigOptions {
    let configured_crio = settings.as_ref().and_then(|settings| settings.bootstrap.runtime.crio);
    MachineConfigOptions {
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
        crio: args.crio_version.or(configured_crio),
        userns_mode: args.userns_mode,
        gzip: args.gzip,
        configured: settings
            .map(|settings| Configured { crio: settings.bootstrap.crio, plugin: settings.bootstrap.plugin }),
    }
}
