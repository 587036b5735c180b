//! The OCI runtimes that the container runtime starts.

use super::{OciRuntime, release};
use crate::check::{Check, CheckOutcome, Checked, Probe, Problem};

/// The oldest releases with ID-mapped mounts (Kubernetes' documentation, "User Namespaces").
const OCI_RUNTIMES: [(&str, (u32, u32)); 2] = [("runc", (1, 2)), ("crun", (1, 9))];

pub(super) fn of_oci(oci: &Probe<Vec<OciRuntime>>) -> Vec<Checked> {
    let runtimes = match oci {
        Ok(runtimes) if runtimes.is_empty() => &Err("no OCI runtime was found".to_owned()),
        other => other,
    };
    let runtimes = match runtimes {
        Ok(runtimes) => runtimes,
        Err(why) => {
            return [Check::OciRuntimeVersion, Check::OciRuntimeIdmap]
                .map(|check| check.skipped(why.clone()))
                .into();
        }
    };
    let mut versions = Many::new(Check::OciRuntimeVersion);
    let mut maps = Many::new(Check::OciRuntimeIdmap);
    for OciRuntime { path, version, idmap } in runtimes {
        match version {
            Err(why) => versions.bad(format!("{path}: {why}"), "repair or remove the handler that names it"),
            Ok(line) => version_of_oci(path, line, &mut versions),
        }
        match idmap {
            Err(why) => maps.unknown(format!("{path}: {why}")),
            Ok(true) => maps.good(path.clone()),
            Ok(false) => maps.bad(
                format!(
                    "{path} reports that it cannot map the IDs of mounts: pods with hostUsers: false fail"
                ),
                "update it to runc 1.2 or crun 1.9 or later",
            ),
        }
    }
    vec![versions.checked(), maps.checked()]
}

fn version_of_oci(path: &str, line: &str, versions: &mut Many) {
    let known = OCI_RUNTIMES.iter().find_map(|(name, needed)| {
        let version = line.strip_prefix(name)?.trim_start().strip_prefix("version")?;
        Some((name, *needed, release(version)?))
    });
    match known {
        None => versions.unknown(format!("{path} prints {line:?} as its version")),
        Some((_, needed, found)) if found >= needed => versions.good(line.to_owned()),
        Some((name, (major, minor), _)) => versions.bad(
            format!("{path} is {line}: pods with hostUsers: false need {name} {major}.{minor}"),
            "update it; a binary that was installed by hand may take precedence over the packaged one",
        ),
    }
}

/// A check of several OCI runtimes: what was found of each.
struct Many {
    check: Check,
    good: Vec<String>,
    unknown: Vec<String>,
    bad: Vec<Problem>,
}

impl Many {
    fn new(check: Check) -> Many {
        Many { check, good: vec![], unknown: vec![], bad: vec![] }
    }

    fn good(&mut self, what: String) {
        self.good.push(what);
    }

    fn unknown(&mut self, what: String) {
        self.unknown.push(what);
    }

    fn bad(&mut self, what: String, remedy: &str) {
        self.bad.push(Problem { what, remedy: remedy.to_owned() });
    }

    fn checked(self) -> Checked {
        match (self.bad.is_empty(), self.good.is_empty()) {
            (false, _) => Checked { check: self.check, outcome: CheckOutcome::Failed(self.bad) },
            (true, false) => self.check.passed(match self.unknown.is_empty() {
                true => self.good.join(", "),
                false => format!("{}; not known: {}", self.good.join(", "), self.unknown.join(", ")),
            }),
            (true, true) => self.check.skipped(self.unknown.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines_of_oci_runtimes_are_judged() {
        let mut versions = Many::new(Check::OciRuntimeVersion);
        for line in ["runc version 1.1.5", "runc version 1.2.0", "crun version 1.14.1", "kata 3"] {
            version_of_oci("/x", line, &mut versions);
        }
        assert_eq!((versions.good.len(), versions.bad.len(), versions.unknown.len()), (2, 1, 1));
    }
}
