//! What containerd's own program says of a drop-in, before the node has it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::runtime_files::parse;
use usernsd_domain::containerd::ContainerdConf;
use usernsd_domain::crio::config::Content;
use usernsd_linux::program::{ProgramError, run};

/// It answers in 100 ms; a node that starts up is slow.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a drop-in is not written.
#[derive(Debug, Error)]
pub enum ContainerdError {
    /// The program did not run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The copy for its validation could not be made.
    #[error("copying the configuration to {}: {error}", path.display())]
    Copy {
        /// Where to.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// containerd does not take it.
    #[error("\"containerd config dump\" refuses the configuration: {0}")]
    Invalid(String),
    /// It takes it, and comes to something else.
    #[error("by \"containerd config dump\" NRI would still be off with the configuration as planned")]
    NoUse,
}

/// A drop-in that is to be written.
#[derive(Debug)]
pub struct Planned<'a> {
    /// Where.
    pub path: String,
    /// Its text.
    pub bytes: &'a [u8],
}

/// Lets containerd's own program load its configuration with the planned drop-in, which lies in a
/// directory below `scratch` for that time. All other files of `order`, which has them as containerd loads
/// them, are read in their place.
///
/// # Errors
/// [`ContainerdError::Invalid`] in its words; also where it already refuses what is there.
pub fn validate(
    program: &Path,
    version: i64,
    order: &[String],
    planned: Planned<'_>,
    scratch: &Path,
) -> Result<(), ContainerdError> {
    let copy = scratch.join(format!("usernsd-containerd-{}", std::process::id()));
    let _guard = Scratch(copy.clone());
    let failed = |error| ContainerdError::Copy { path: copy.clone(), error };
    DirBuilder::new().mode(0o700).create(&copy).map_err(failed)?;
    let (main, beside) = (copy.join("config.toml"), copy.join("planned.toml"));
    std::fs::write(&beside, planned.bytes).map_err(failed)?;
    let beside = beside.display().to_string();
    // What these import themselves comes after all of them, and is among them: it is not loaded again.
    let imports: Vec<&String> =
        order.iter().map(|path| if *path == planned.path { &beside } else { path }).collect();
    let text = format!("version = {version}\nimports = {imports:?}\n");
    std::fs::write(&main, text).map_err(failed)?;
    let said = run(program, &["--config", &main.display().to_string(), "config", "dump"], DEADLINE)?;
    if !said.success {
        let why = said.stderr.lines().last().unwrap_or("it says nothing");
        return Err(ContainerdError::Invalid(why.to_owned()));
    }
    match parse(said.stdout.as_bytes()) {
        Content::Toml(table) if ContainerdConf::of(Some(&table)).nri_disabled == Some(false) => Ok(()),
        Content::Toml(_) => Err(ContainerdError::NoUse),
        Content::NotToml(why) | Content::Unreadable(why) => Err(ContainerdError::Invalid(why)),
    }
}

/// Lets containerd's own program load the configuration as it is.
///
/// # Errors
/// [`ContainerdError::Invalid`] in its words.
pub fn check(program: &Path) -> Result<(), ContainerdError> {
    let said = run(program, &["config", "dump"], DEADLINE)?;
    let why = said.stderr.lines().last().unwrap_or("it says nothing");
    if said.success { Ok(()) } else { Err(ContainerdError::Invalid(why.to_owned())) }
}

/// Removes the copy, whatever happened.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may not have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
