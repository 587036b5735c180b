//! The launched plugin's settings: those that the runtime passed on, until the file on the node has others.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::OFlags;
use rustix::process::geteuid;

use usernsd_config::PluginSettings;

/// The longest file that is read, in bytes; real settings are shorter.
const MAX_BYTES: u64 = 1 << 20;

/// Distinguishes one version of the file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// The current settings, and the file that they come from.
#[derive(Debug)]
pub(super) struct SettingsFile {
    path: Option<PathBuf>,
    seen: Option<Version>,
    settings: PluginSettings,
}

// === impl SettingsFile ===

impl SettingsFile {
    /// Starts with the settings that the runtime passed on, and with the file that they name.
    #[must_use]
    pub(super) fn new(passed_on: &str) -> SettingsFile {
        let settings = PluginSettings::parse(passed_on);
        // The runtime has just read the file; it is read once more at the first request.
        SettingsFile { path: settings.settings_file.clone(), seen: None, settings }
    }

    /// The current settings.
    #[must_use]
    pub(super) fn settings(&self) -> &PluginSettings {
        &self.settings
    }

    /// Reads the file if it changed; returns whether the settings are other ones now. A file that is missing,
    /// cannot be read, names no file, or that another user than this process's may write, changes nothing.
    pub(super) fn has_changed(&mut self) -> bool {
        let Some(path) = &self.path else { return false };
        let Ok(found) = fs::metadata(path) else { return false };
        let version = Version {
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        };
        if self.seen == Some(version) || !found.is_file() || found.len() > MAX_BYTES {
            return false;
        }
        let mut text = String::new();
        // Does not wait if a pipe has taken the file's place, because the runtime waits for this.
        let opened =
            fs::OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
        let read = opened.and_then(|file| {
            // The opened file is examined, because the path may lead to another one by now.
            let found = file.metadata()?;
            let is_own = found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0;
            if !is_own {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            file.take(MAX_BYTES).read_to_string(&mut text)
        });
        if read.is_err() {
            return false;
        }
        self.seen = Some(version);
        let settings = PluginSettings::parse(&text);
        // The file is just being rewritten: with an empty file's defaults, every pod might opt in.
        if settings.settings_file.is_none() {
            return false;
        }
        let is_other = settings != self.settings;
        self.settings = settings;
        is_other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use usernsd_domain::guard::GuardPolicy;

    #[test]
    fn a_changed_settings_file_is_read_and_a_missing_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("90-usernsd.conf");
        let text = |policy: &str| format!("settingsFile: {}\nguard: {{policy: {policy}}}\n", path.display());
        let mut file = SettingsFile::new(&text("refuse"));
        assert!(!file.has_changed(), "not there");
        fs::write(&path, text("refuse")).unwrap();
        assert!(!file.has_changed(), "the same");
        fs::write(&path, text("report")).unwrap();
        assert!(file.has_changed() && !file.has_changed());
        assert_eq!(file.settings().guard, GuardPolicy::Report);
        let mode = |mode| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode));
        fs::write(&path, text("refuse")).unwrap();
        mode(0o664).unwrap();
        assert!(!file.has_changed(), "a group may write it");
        mode(0o644).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert!(!file.has_changed(), "it is another user's");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        assert!(file.has_changed());
        assert_eq!(file.settings().guard, GuardPolicy::Refuse);
        fs::write(&path, text("report")).unwrap();
        assert!(file.has_changed());
        fs::write(&path, "").unwrap();
        assert!(!file.has_changed(), "somebody is about to write it");
        fs::remove_file(&path).unwrap();
        assert!(!file.has_changed());
        assert_eq!(file.settings().guard, GuardPolicy::Report);
        // Settings that name no file never change.
        assert!(!SettingsFile::new("guard: {policy: report}").has_changed());
    }
}
