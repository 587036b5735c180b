//! The directories in which k3s and RKE2 have their data, if an administrator has chosen another one: by a flag of the
//! unit's command, by a configuration file, or by a variable (k3s `pkg/cli/cmds`, `pkg/configfilearg`).

use serde::Deserialize;

use super::BootstrapError;
use super::kubelet::{environment_files, settings_of_unit};
use usernsd_domain::containerd::layout::{DATA_FLAGS, DISTRIBUTIONS, DataDirectory, Layout};
use usernsd_domain::provision::HostPath;
use usernsd_domain::unit_file::{Variables, add_environment, add_environment_file, path_of_flag};
use usernsd_linux::host::HostRoot;

/// The key of the directory in a configuration file of k3s or RKE2.
#[derive(Debug, Deserialize)]
struct Configuration {
    #[serde(rename = "data-dir")]
    data_dir: Option<String>,
}

/// The distributions with a directory other than the usual one, and its absolute path.
///
/// # Errors
/// A unit cannot be read.
pub(super) fn all(root: &HostRoot) -> Result<Vec<(&'static Layout, String)>, BootstrapError> {
    let mut found = Vec::new();
    for layout in &DISTRIBUTIONS {
        let Some(data) = layout.data else { continue };
        if let Some(directory) = named(root, &data)?.filter(|directory| directory != data.usual) {
            found.push((layout, directory));
        }
    }
    Ok(found)
}

/// A file or directory below each of these directories.
///
/// # Errors
/// As for [`all`].
pub(super) fn in_each(root: &HostRoot, below: &str) -> Result<Vec<HostPath>, BootstrapError> {
    let paths = all(root)?.into_iter().map(|(_, directory)| HostPath::parse(&format!("{directory}/{below}")));
    Ok(paths.filter_map(Result::ok).collect())
}

/// The directory that the command names; else the configuration; else the environment of the unit.
fn named(root: &HostRoot, data: &DataDirectory) -> Result<Option<String>, BootstrapError> {
    let [flag, short] = DATA_FLAGS;
    let mut of_environment = None;
    for unit in data.units {
        let settings = settings_of_unit(root, unit)?;
        if let Some(directory) = path_of_flag(&settings, data.program, &[flag], &[short]) {
            return Ok(Some(directory));
        }
        let mut variables = Variables::new();
        add_environment(&settings, &mut variables);
        let files = settings.iter().filter(|setting| setting.key == "EnvironmentFile");
        for setting in files {
            for path in environment_files(root, &setting.value)? {
                let text = root.read(&path).ok().flatten().unwrap_or_default();
                add_environment_file(&String::from_utf8_lossy(&text), &mut variables);
            }
        }
        let value = variables.get(data.variable).and_then(|values| values.iter().next_back());
        of_environment = of_environment.or_else(|| value.cloned());
    }
    let of_files = of_configuration(root, data.configuration)?;
    Ok(of_files.or(of_environment).filter(|directory| directory.starts_with('/')))
}

/// The value of the configuration file and of the further ones in the directory of its name, the last of which counts.
fn of_configuration(root: &HostRoot, configuration: &str) -> Result<Option<String>, BootstrapError> {
    let directory = HostPath::parse(&format!("{configuration}.d"))?;
    let mut names = root.list(&directory)?;
    names.retain(|name| name.ends_with(".yaml") || name.ends_with(".yml"));
    names.sort();
    let files =
        [HostPath::parse(configuration)].into_iter().chain(names.iter().map(|name| directory.join(name)));
    let mut value = None;
    for file in files.filter_map(Result::ok) {
        // A file that cannot be read, or is of another form, names none.
        let Ok(Some(bytes)) = root.read(&file) else { continue };
        let Ok(read) = serde_saphyr::from_slice::<Configuration>(&bytes) else { continue };
        value = read.data_dir.or(value);
    }
    Ok(value)
}
