//! The one file that is written for CRI-O.
//!
//! It only adds: workloads allow annotations without changing a runtime handler, whose table would be replaced as a
//! whole. Before 1.23 workloads cannot do that, and the default handler is written again with all its keys.

mod settings;
mod text;

#[cfg(test)]
mod tests;

use thiserror::Error;

use self::text::{Section, has_new_names, overridden, render, table};
use super::annotation::{CGROUP, USERNS_MODE, names_for};
use super::check::{Programs, check};
use super::complaint::Complaint;
use super::config::{ConfFile, Content, Effective, order};
use super::{CrioVersion, NEWEST_KNOWN, OLDEST_KNOWN};
use crate::finding::{Finding, FindingId, Severity};
use crate::nri_plugin::Validator;
use crate::toml::Value;

/// The drop-in's path. Temporary files never lie in that directory: CRI-O would read them.
pub const PATH: &str = "/etc/crio/crio.conf.d/99-usernsd.conf";

/// Which form of the drop-in a version needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 1.20 to 1.22: only a runtime handler allows annotations.
    Handler,
    /// 1.23 to 1.34: a workload, annotations by their old names.
    Workload,
    /// 1.35 to 1.37: workloads, both names of each annotation, each name in a workload of its own.
    BothNames,
    /// Later versions: only the new names are sure to be supported.
    NewNames,
}

/// The features that the drop-in enables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrioOptions {
    /// Pods may ask for a writable cgroup by annotation.
    pub writable_cgroup: bool,
    /// Pods may ask for a user namespace by annotation. `None`: only if Kubernetes is older than 1.33, whose kubelet
    /// makes such pods fail.
    pub userns_mode: Option<bool>,
    /// CRI events (`enable_pod_events`).
    pub pod_events: bool,
    /// NRI (`enable_nri`).
    pub nri: bool,
    /// `ping` works for every group in every pod.
    pub ping_group_range: bool,
    /// CRI-O reads hooks from a directory that is writable on the node.
    pub hook: bool,
    /// The settings of NRI's default validator; `None` to leave them.
    pub validator: Option<Validator>,
}

/// The input of the plan.
#[derive(Clone, Copy)]
pub struct CrioNode<'a> {
    pub version: CrioVersion,
    /// The kubelet's minor version; `None`: the same as CRI-O's.
    pub kubernetes: Option<u16>,
    /// CRI-O's files in the order in which it reads them; `None` if there is no node yet.
    pub files: Option<&'a [ConfFile]>,
    /// The programs that exist.
    pub programs: Programs<'a>,
}

/// The planned drop-in.
#[derive(Debug, Clone, PartialEq)]
pub struct DropIn {
    /// The file's text; `None` if no file is needed.
    pub text: Option<String>,
    /// Settings that were left out or will have no effect, with the reasons.
    pub notes: Vec<Finding>,
}

/// Why no drop-in can be written.
#[derive(Debug, Error, PartialEq)]
pub enum DropInError {
    /// Older than the rules implemented here.
    #[error("CRI-O {0} is older than {OLDEST_KNOWN}, the first with user namespaces by annotation")]
    TooOld(CrioVersion),
    /// Another major version.
    #[error("CRI-O {0} is not supported; its treatment of configuration files is unknown")]
    Unknown(CrioVersion),
    /// The default handler must be written again, but its configuration is not available.
    #[error(
        "CRI-O {0} allows annotations only in the default runtime handler's table, which must be copied from \
         the node's configuration; plan it on the node"
    )]
    NeedsConfiguration(CrioVersion),
    /// Another file uses the workload's name.
    #[error("{file} defines a workload {workload:?} of its own; rename it")]
    NameTaken {
        /// The workload's name.
        workload: String,
        /// The file that defines it.
        file: String,
    },
    /// CRI-O would not start with the drop-in.
    #[error("CRI-O would not start: {}", .0.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("; "))]
    WouldNotStart(Vec<Complaint>),
}

impl Default for CrioOptions {
    fn default() -> CrioOptions {
        CrioOptions {
            writable_cgroup: true,
            userns_mode: None,
            pod_events: true,
            nri: true,
            ping_group_range: true,
            hook: false,
            validator: None,
        }
    }
}

impl Era {
    /// The era of a version; `None` before 1.20 and for another major version.
    #[must_use]
    pub fn of(version: CrioVersion) -> Option<Era> {
        match () {
            () if version < OLDEST_KNOWN || version >= CrioVersion::new(2, 0, 0) => None,
            () if !version.at_least(23) => Some(Era::Handler),
            () if !version.at_least(35) => Some(Era::Workload),
            () if version.minor() <= NEWEST_KNOWN.minor() => Some(Era::BothNames),
            () => Some(Era::NewNames),
        }
    }
}

/// Plans the drop-in.
///
/// # Errors
/// See [`DropInError`].
pub fn plan(node: CrioNode<'_>, options: CrioOptions) -> Result<DropIn, DropInError> {
    let version = node.version;
    let era = Era::of(version).ok_or(if version < OLDEST_KNOWN {
        DropInError::TooOld(version)
    } else {
        DropInError::Unknown(version)
    })?;
    let others: Vec<ConfFile> =
        node.files.unwrap_or_default().iter().filter(|file| file.path != PATH).cloned().collect();
    let effective = Effective::of(version, &others);
    let mut draft = Draft { node, options, effective, sections: Vec::new(), notes: Vec::new() };
    match era {
        Era::Handler => draft.handler()?,
        Era::Workload | Era::BothNames | Era::NewNames => draft.workloads()?,
    }
    draft.runtime();
    draft.nri();
    draft.finish(others)
}

struct Draft<'a> {
    node: CrioNode<'a>,
    options: CrioOptions,
    /// The configuration without the drop-in.
    effective: Effective,
    sections: Vec<Section>,
    notes: Vec<Complaint>,
}

impl Draft<'_> {
    fn note(&mut self, message: impl Into<String>, remedy: &str) {
        self.notes.push(Complaint::note(FindingId::CrioLeftOut, PATH, message).remedy(remedy));
    }

    /// Whether pods may ask for a user namespace by annotation.
    fn userns_mode(&mut self) -> bool {
        let minor = self.node.kubernetes.unwrap_or(self.node.version.minor());
        match self.options.userns_mode {
            Some(true) if minor >= 33 => {
                let message = format!(
                    "with Kubernetes 1.{minor} the kubelet sets the user namespace of every pod: a pod \
                     annotated with userns-mode fails with /proc/0/uid_map"
                );
                self.notes.push(
                    Complaint::warning(FindingId::CrioUsernsMode, PATH, message)
                        .remedy("use hostUsers: false"),
                );
                true
            }
            Some(choice) => choice,
            None => minor < 33,
        }
    }

    /// 1.20 to 1.22: the default handler once more, with all its keys.
    fn handler(&mut self) -> Result<(), DropInError> {
        if self.options.writable_cgroup {
            self.note("this CRI-O has no annotation for a writable cgroup", "update to 1.23 or later");
        }
        if !self.userns_mode() {
            return Ok(());
        }
        if self.node.files.is_none() {
            return Err(DropInError::NeedsConfiguration(self.node.version));
        }
        // Without a default handler CRI-O does not start anyway, and the check reports it.
        let Some(handler) = self.effective.default_handler() else { return Ok(()) };
        let mut allowed = handler.allowed();
        let [name, _] = USERNS_MODE;
        if allowed.iter().any(|other| other == name) {
            return Ok(());
        }
        allowed.push(name.to_owned());
        let mut fields = handler.fields.clone();
        fields.retain(|field, _| !field.eq_ignore_ascii_case("allowed_annotations"));
        fields.insert("allowed_annotations".to_owned(), Value::list(allowed));
        self.sections.push(Section {
            path: vec!["runtime".into(), "runtimes".into(), self.effective.default_runtime.value.clone()],
            why: "Takes the place of the whole table: every key is copied from the configuration before it.",
            keys: fields.into_iter().collect(),
        });
        Ok(())
    }

    /// 1.23 and later: one workload for each activation annotation, each allowing all annotations, so that it does
    /// not matter which workload CRI-O picks.
    fn workloads(&mut self) -> Result<(), DropInError> {
        let version = self.node.version;
        let mut wanted: Vec<(&str, &str)> = Vec::new();
        let named = ["usernsd", "usernsd-v2", "usernsd-userns", "usernsd-userns-v2"];
        let userns = self.userns_mode();
        for (is_on, names, workloads) in [
            (self.options.writable_cgroup, CGROUP, [named[0], named[1]]),
            (userns, USERNS_MODE, [named[2], named[3]]),
        ] {
            let known = names_for(version, names);
            let both = names.into_iter().zip(workloads);
            wanted.extend(both.filter(|(name, _)| is_on && known.contains(name)));
        }
        if !version.tolerates_allowing_twice() {
            let handlers = self.effective.handlers.clone();
            wanted.retain(|(name, _)| {
                let by = handlers.iter().find(|(_, entry)| entry.allowed().iter().any(|other| other == name));
                if let Some((handler, _)) = by {
                    let message = format!(
                        "{name} is allowed by handler {handler:?}; allowed by a workload too, its pods would fail"
                    );
                    self.note(message, "allow it there for other handlers, or update CRI-O");
                }
                by.is_none()
            });
        }
        let allowed: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
        for (activation, workload) in &wanted {
            if let Some(entry) = self.effective.workloads.get(*workload) {
                let file = entry.file.clone().unwrap_or_default();
                return Err(DropInError::NameTaken { workload: (*workload).to_owned(), file });
            }
            let twin = self
                .effective
                .workloads
                .iter()
                .find(|(_, entry)| entry.text("activation_annotation") == *activation);
            if let Some((name, entry)) = twin {
                let theirs = entry.allowed();
                let missing: Vec<&str> = allowed
                    .iter()
                    .filter(|name| !theirs.iter().any(|other| other == *name))
                    .copied()
                    .collect();
                if !missing.is_empty() {
                    let place = entry.file.clone().unwrap_or_default();
                    let message = format!(
                        "workload {name:?} is activated by {activation} already; CRI-O picks one at random"
                    );
                    let remedy = format!("add to its allowed_annotations: {}", missing.join(", "));
                    self.notes.push(
                        Complaint::warning(FindingId::CrioWorkloadTwins, place, message).remedy(remedy),
                    );
                }
                continue;
            }
            self.sections.push(Section {
                path: vec!["runtime".into(), "workloads".into(), (*workload).to_owned()],
                why: "",
                keys: vec![
                    ("activation_annotation".into(), Value::Text((*activation).to_owned())),
                    ("allowed_annotations".into(), Value::list(allowed.iter().copied())),
                ],
            });
        }
        if let Some(first) = self.sections.first_mut() {
            first.why = "Pods may use these annotations. Of several workloads that match CRI-O picks one at \
                         random: each allows all.";
            let strangers: Vec<String> = self.effective.workloads.keys().cloned().collect();
            if !strangers.is_empty() {
                let message = format!(
                    "a pod that also activates another workload ({}) gets one of them at random",
                    strangers.join(", ")
                );
                self.note(message, "do not combine them in one pod");
            }
        }
        Ok(())
    }

    /// The text, after checking it by CRI-O's own rules.
    fn finish(mut self, others: Vec<ConfFile>) -> Result<DropIn, DropInError> {
        if self.sections.is_empty() {
            return Ok(DropIn { text: None, notes: findings(self.notes) });
        }
        let before = check(self.node.version, &others, self.node.programs);
        let mut files = others;
        files.push(ConfFile {
            path: PATH.into(),
            link: false,
            content: Content::Toml(table(&self.sections)),
        });
        files.sort_by(|one, other| order(&one.path).cmp(&order(&other.path)));
        let mut new = check(self.node.version, &files, self.node.programs);
        // The table that 1.22 and older replace loses nothing, because every key is copied. A complaint that existed
        // before is not caused by the drop-in.
        new.retain(|finding| {
            finding.id != FindingId::CrioTableReplaced
                && !before.iter().any(|old| old.message == finding.message)
        });
        if new.iter().any(|finding| finding.severity == Severity::Error) {
            new.retain(|finding| finding.severity == Severity::Error);
            return Err(DropInError::WouldNotStart(new));
        }
        self.notes.extend(new);
        let effective = Effective::of(self.node.version, &files);
        for (what, file) in overridden(&effective, &self.sections) {
            let message = format!("{what} has no effect: {file} comes later");
            self.notes.push(
                Complaint::warning(FindingId::CrioOverridden, PATH, message).remedy("take it out there"),
            );
        }
        if has_new_names(&self.sections) {
            let message = "CRI-O 1.34 and older do not start with the new names of annotations in it";
            let remedy = "before a downgrade run usernsd bootstrap --undo, or set bootstrap.crio.version to the older \
                          one and run it";
            self.notes.push(Complaint::note(FindingId::CrioDowngrade, PATH, message).remedy(remedy));
        }
        Ok(DropIn { text: Some(render(&self.sections)), notes: findings(self.notes) })
    }
}

fn findings(complaints: Vec<Complaint>) -> Vec<Finding> {
    complaints.into_iter().map(Finding::from).collect()
}
