//! The settings that are not annotations: pod events, NRI, sysctls.

use super::Draft;
use super::text::Section;
use crate::crio::complaint::Complaint;
use crate::crio::config::{Setting, VALIDATOR_KEYS};
use crate::finding::FindingId;
use crate::oci_hook;
use crate::toml::Value;

impl Draft<'_> {
    /// Pod events and sysctls.
    pub(super) fn runtime(&mut self) {
        let version = self.node.version;
        let mut keys = Vec::new();
        if self.options.pod_events && version.at_least(26) {
            if !version.broadcasts_pod_events() {
                let message =
                    "pod events stay off: before 1.28 a second listener takes them from the kubelet";
                self.note(message, "update CRI-O");
            } else if self.must_write(&self.effective.pod_events.clone(), "enable_pod_events") {
                keys.push(("enable_pod_events".into(), Value::Bool(true)));
            }
        }
        if self.options.ping_group_range
            && let Some(list) = self.sysctls()
        {
            keys.push(("default_sysctls".into(), Value::list(list)));
        }
        let dirs = &self.effective.hooks_dirs.value;
        let writable = oci_hook::with_writable(dirs);
        if self.options.hook && writable != *dirs {
            keys.push(("hooks_dir".into(), Value::list(writable)));
        }
        if !keys.is_empty() {
            self.sections.insert(0, Section { path: vec!["runtime".into()], why: "", keys });
        }
    }

    /// Whether a flag is to be written: it is off, and no file switched it off.
    fn must_write(&mut self, setting: &Setting<bool>, name: &str) -> bool {
        match (&setting.file, setting.value) {
            (_, true) => false,
            (None, false) => true,
            (Some(file), false) => {
                let message = format!("{name} stays off, as set in {file}");
                self.note(message, "set it to true there");
                false
            }
        }
    }

    /// The whole list of default sysctls with the range for ping; `None` if it is not to be written.
    fn sysctls(&mut self) -> Option<Vec<String>> {
        const KEY: &str = "net.ipv4.ping_group_range";
        const VALUE: &str = "0 2147483647";
        let fits = self.node.version.fits_ping_group_range();
        let setting = self.effective.default_sysctls.clone();
        let present = setting.value.iter().find_map(|sysctl| sysctl.strip_prefix(KEY)?.strip_prefix('='));
        if let Some(range) = present {
            if !fits || range != VALUE {
                let place = setting.file.clone().unwrap_or_default();
                let message = format!(
                    "{KEY}={range} is outside the mapping of a pod with a user namespace: its start fails with \
                     \"failed to write to /proc/sys/net/ipv4/ping_group_range: Invalid argument\""
                );
                let remedy = if fits {
                    format!("write {KEY}={VALUE}, which CRI-O fits")
                } else {
                    "remove it".to_owned()
                };
                self.notes
                    .push(Complaint::warning(FindingId::CrioPingGroupRange, place, message).remedy(remedy));
            }
            return None;
        }
        if !fits {
            self.note(
                format!("{KEY} is left out: this CRI-O does not fit it into a user namespace's mapping"),
                "update to 1.29.5, 1.30.1, 1.31.0 or later",
            );
            return None;
        }
        if self.node.files.is_none() {
            self.note(
                format!(
                    "{KEY} is left out: the list of default_sysctls is replaced whole, and is not known here"
                ),
                "plan it on the node",
            );
            return None;
        }
        let mut list = setting.value;
        list.push(format!("{KEY}={VALUE}"));
        Some(list)
    }

    pub(super) fn nri(&mut self) {
        let version = self.node.version;
        if !self.options.nri {
            return;
        }
        if !version.has_nri() {
            if !self.options.hook {
                self.note("this CRI-O has no NRI", "install the OCI hook");
            }
        } else if self.must_write(&self.effective.nri.clone(), "enable_nri") {
            let keys = vec![("enable_nri".into(), Value::Bool(true))];
            self.sections.push(Section { path: vec!["nri".into()], why: "", keys });
        }
        if let Some(validator) = self.options.validator.clone().filter(|_| version.has_validator()) {
            self.sections.push(Section {
                path: vec!["nri".into(), "default_validator".into()],
                why: "NRI refuses a container whose pod requires a plugin that was not asked.",
                keys: validator.lines(&VALIDATOR_KEYS),
            });
        }
    }
}
