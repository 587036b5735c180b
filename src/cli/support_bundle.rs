//! `usernsd support-bundle`: collects one archive for the analysis of problems.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::explain::node;
use crate::args::SupportBundleArgs;
use crate::compose;
use usernsd_config::Settings;
use usernsd_inspect::support::{Bundle, collect};
use usernsd_linux::archive;

/// Name of the directory in the archive.
const DIRECTORY: &str = "usernsd-support";

/// Collects and writes the archive. What could not be collected is reported, also in the archive.
///
/// # Errors
/// The file exists already, or cannot be written.
pub fn run(args: SupportBundleArgs) -> anyhow::Result<ExitCode> {
    let (file, overrides) = args.node.into_parts();
    let node = node(Settings::load(file.as_deref(), overrides)?);
    let now = SystemTime::now();
    let runtime = compose::runtime()?;
    let Bundle { files, missing, .. } = runtime.block_on(collect(&node, now, args.redact));
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if args.output == Path::new("-") {
        archive::write(std::io::stdout().lock(), DIRECTORY, &files, seconds).context("writing to stdout")?;
    } else {
        let doing = || format!("writing {}", args.output.display());
        // The file is created privately, never written into an existing one that others may read.
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.output);
        let mut to = BufWriter::new(opened.with_context(doing)?);
        archive::write(&mut to, DIRECTORY, &files, seconds).with_context(doing)?;
        to.flush().with_context(doing)?;
        super::tell(&format!("wrote {} ({} files)", args.output.display(), files.len()));
    }
    missing.iter().for_each(|missing| super::tell(&format!("missing: {missing}")));
    Ok(ExitCode::SUCCESS)
}
