//! Validates a drop-in with containerd's own program, before it is installed on the node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::runtime_files::parse;
use crate::scratch::Scratch;
use usernsd_domain::containerd::{ContainerdConf, MAIN_FILE};
use usernsd_domain::crio::config::Content;
use usernsd_linux::program::{ProgramError, run};

/// Time limit of containerd's program. It takes 100 ms; a node that is starting is slower.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a drop-in is not written.
#[derive(Debug, Error)]
pub enum ContainerdError {
    /// The program could not be run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The copy for the validation could not be made.
    #[error("copying the configuration to {}: {error}", path.display())]
    Copy {
        /// Destination of the copy.
        path: PathBuf,
        /// The I/O error.
        error: std::io::Error,
    },
    /// containerd refuses the configuration.
    #[error("\"containerd config dump\" refuses the configuration: {0}")]
    Invalid(String),
    /// containerd accepts the configuration, but NRI would still be off.
    #[error("\"containerd config dump\" shows that NRI would still be off with the planned configuration")]
    NoUse,
}

/// A drop-in to be written.
#[derive(Debug)]
pub struct Planned<'a> {
    /// Path on the host.
    pub path: String,
    /// The drop-in's content.
    pub bytes: &'a [u8],
}

/// Has containerd's own program load its configuration with the planned drop-in, which is stored in a
/// temporary directory below `scratch`. The other files in `order`, the order in which containerd loads them,
/// are read from their own paths.
///
/// # Errors
/// [`ContainerdError::Invalid`] with containerd's message, also if containerd refuses the present
/// configuration.
pub fn validate(
    program: &Path,
    version: i64,
    order: &[String],
    planned: Planned<'_>,
    scratch: &Path,
) -> Result<(), ContainerdError> {
    let copy = scratch.join(format!("usernsd-containerd-{}", std::process::id()));
    let failed = |error| ContainerdError::Copy { path: copy.clone(), error };
    let main_file = order.first().map_or(MAIN_FILE, String::as_str);
    let like = Path::new(main_file).parent().unwrap_or(Path::new("/"));
    let _guard = Scratch::new(copy.clone(), like).map_err(failed)?;
    let (main, beside) = (copy.join("config.toml"), copy.join("planned.toml"));
    std::fs::write(&beside, planned.bytes).map_err(failed)?;
    let beside = beside.display().to_string();
    // The files that these import are loaded last and are in `order` already, so they are not loaded twice.
    let imports: Vec<&String> =
        order.iter().map(|path| if *path == planned.path { &beside } else { path }).collect();
    let text = format!("version = {version}\nimports = {imports:?}\n");
    std::fs::write(&main, text).map_err(failed)?;
    let output = run(program, &["--config", &main.display().to_string(), "config", "dump"], DEADLINE)?;
    if !output.success {
        let why = output.stderr.lines().last().unwrap_or("it gave no reason");
        return Err(ContainerdError::Invalid(why.to_owned()));
    }
    match parse(output.stdout.as_bytes()) {
        Content::Toml(table) if ContainerdConf::of(Some(&table)).nri_disabled == Some(false) => Ok(()),
        Content::Toml(_) => Err(ContainerdError::NoUse),
        Content::NotToml(why) | Content::Unreadable(why) => Err(ContainerdError::Invalid(why)),
    }
}

/// Has containerd's own program load the present configuration, of which `main_file` is the first file. A missing file is
/// no error: containerd then has its defaults.
///
/// # Errors
/// [`ContainerdError::Invalid`] with containerd's message.
pub fn check(program: &Path, main_file: &str) -> Result<(), ContainerdError> {
    let output = run(program, &["--config", main_file, "config", "dump"], DEADLINE)?;
    let why = output.stderr.lines().last().unwrap_or("it gave no reason");
    if output.success { Ok(()) } else { Err(ContainerdError::Invalid(why.to_owned())) }
}
