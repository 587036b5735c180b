//! CRI-O: what each version supports, how it reads its configuration, and what keeps it from starting.
//!
//! - [`annotation`]: the annotations that each version supports
//! - [`command_line`]: settings in its unit, which override the files
//! - [`config`]: its configuration files, merged as CRI-O merges them
//! - [`check`]: what CRI-O would refuse or ignore in them
//! - [`complaint`]: one thing that is wrong in the configuration
//! - [`drop_in`]: the one file that is written for CRI-O
//!
//! Source of the rules: CRI-O's `pkg/config`, read at the last tag of every minor version from 1.20 to 1.36 and at
//! main (1.37).

pub mod annotation;
pub mod check;
pub mod command_line;
pub mod complaint;
pub mod config;
pub mod drop_in;
pub mod loaded;
pub mod storage;

use std::fmt;

use thiserror::Error;

/// A version of CRI-O. A pre-release is less than its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrioVersion {
    major: u16,
    minor: u16,
    patch: u16,
    released: bool,
}

/// The text is not a version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a version of CRI-O such as 1.36.3")]
pub struct CrioVersionError(String);

/// The newest minor version whose rules are implemented here.
pub const NEWEST_KNOWN: CrioVersion = CrioVersion::new(1, 37, 0);

/// The oldest version whose rules are implemented here: annotations came with 1.20.0.
pub const OLDEST_KNOWN: CrioVersion = CrioVersion::new(1, 20, 0);

impl CrioVersion {
    /// A released version (not a pre-release).
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> CrioVersion {
        CrioVersion { major, minor, patch, released: true }
    }

    /// Parses `1.36.3`, `v1.36.3`, `1.29.5-5.rhaos4.16.git7032128.el9`, `1.37.0-dev`, and the first line of `crio
    /// --version`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<CrioVersion, CrioVersionError> {
        let refuse = || CrioVersionError(text.chars().take(60).collect());
        let line = text.trim().lines().next().unwrap_or_default().trim();
        let line = line.strip_prefix("crio version").unwrap_or(line).trim();
        let line = line.strip_prefix('v').unwrap_or(line);
        let end = line.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(line.len());
        let (numbers, rest) = line.split_at_checked(end).ok_or_else(refuse)?;
        let mut parts = numbers.split('.');
        let mut number = || parts.next().and_then(|part| part.parse::<u16>().ok()).ok_or_else(refuse);
        let (major, minor, patch) = (number()?, number()?, number()?);
        if parts.next().is_some() || !(rest.is_empty() || rest.starts_with(['-', '+', '~', ' '])) {
            return Err(refuse());
        }
        // A distribution's suffix ("-5.rhaos4.16") follows a release; these words mark a pre-release.
        let tail = rest.trim_start_matches(['-', '+', '~', ' ']);
        let released = !["alpha", "beta", "rc", "dev"].iter().any(|word| tail.starts_with(word));
        Ok(CrioVersion { major, minor, patch, released })
    }

    /// The minor version, equal to that of the matching Kubernetes release.
    #[must_use]
    pub fn minor(self) -> u16 {
        self.minor
    }

    /// Whether it is 1.`minor`.0 or later.
    #[must_use]
    pub fn at_least(self, minor: u16) -> bool {
        self >= CrioVersion::new(1, minor, 0)
    }

    /// Whether this version contains a change. `first` lists the first releases with it, one (minor, patch) per
    /// branch, oldest first: later minor versions have it, earlier ones do not.
    #[must_use]
    pub fn has(self, first: &[(u16, u16)]) -> bool {
        let Some((newest, _)) = first.last() else { return false };
        if (self.major, self.minor) > (1, *newest) {
            return true;
        }
        first.iter().any(|(minor, patch)| {
            self.major == 1 && self.minor == *minor && self >= CrioVersion::new(1, *minor, *patch)
        })
    }

    /// The built-in `default_runtime` (`config_linux.go`: crun since 1.31.0).
    #[must_use]
    pub fn default_runtime(self) -> &'static str {
        if self.at_least(31) { "crun" } else { "runc" }
    }

    /// Whether `enable_nri` exists (1.26.0).
    #[must_use]
    pub fn has_nri(self) -> bool {
        self.at_least(26)
    }

    /// Whether `[crio.nri.default_validator]` exists (1.34.0).
    #[must_use]
    pub fn has_validator(self) -> bool {
        self.at_least(34)
    }

    /// Whether NRI is on by default (1.30.0).
    #[must_use]
    pub fn nri_by_default(self) -> bool {
        self.at_least(30)
    }

    /// Whether `enable_pod_events` sends every event to every subscriber. 1.26 and 1.27 have the option, but a second
    /// subscriber takes events away from the kubelet (8b230dec7e, 1.28.0).
    #[must_use]
    pub fn broadcasts_pod_events(self) -> bool {
        self.at_least(28)
    }

    /// Whether CRI-O fits the default sysctl `net.ipv4.ping_group_range=0 2147483647` into the ID mapping of a pod
    /// with a user namespace. Before, it keeps such pods from starting (64b991b1f6).
    #[must_use]
    pub fn fits_ping_group_range(self) -> bool {
        self.has(&[(29, 5), (30, 1), (31, 0)])
    }

    /// Whether a handler and a workload may both allow the same annotation (6a6f570115). Before, every pod that
    /// matches such a workload fails with `invalid allowed_annotation`.
    #[must_use]
    pub fn tolerates_allowing_twice(self) -> bool {
        self.has(&[(29, 10), (30, 7), (31, 2), (32, 0)])
    }

    /// Whether CRI-O forgets the ID mappings of pods with a user namespace when it restarts, so that containers
    /// started in them later run as the host's root (#10014; 88fbb7c087).
    #[must_use]
    pub fn forgets_mappings_on_restart(self) -> bool {
        self.at_least(25) && !self.has(&[(35, 6), (37, 0)])
    }

    /// Whether it omits the ID mappings from the OCI specification of a container that joins its pod's user namespace
    /// (c2ebfbac1e; fixed by fd17220ea4 and e826ac15c7).
    #[must_use]
    pub fn leaves_mappings_out(self) -> bool {
        self.at_least(35) && !self.has(&[(35, 1), (36, 0)])
    }
}

impl fmt::Display for CrioVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = if self.released { "" } else { "-pre" };
        write!(out, "{}.{}.{}{tail}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> CrioVersion {
        CrioVersion::parse(text).unwrap()
    }

    #[test]
    fn versions_are_parsed() {
        for (text, want) in [
            ("1.36.3", CrioVersion::new(1, 36, 3)),
            ("v1.20.0", CrioVersion::new(1, 20, 0)),
            ("crio version 1.36.3\n   GitCommit: unknown\n", CrioVersion::new(1, 36, 3)),
            ("1.29.5-5.rhaos4.16.git7032128.el9", CrioVersion::new(1, 29, 5)),
            ("1.24.1~0", CrioVersion::new(1, 24, 1)),
            ("1.31.0+build", CrioVersion::new(1, 31, 0)),
        ] {
            assert_eq!(CrioVersion::parse(text), Ok(want), "{text}");
        }
        for text in ["", "1", "1.36", "1.36.3.1", "one", "1.x.3", "1.36.3x", "99999.1.1", "crio"] {
            assert!(CrioVersion::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pre_release_is_not_the_release() {
        for text in ["1.35.0-dev", "1.35.0-rc.1", "v1.35.0-beta.2", "1.35.0~rc1"] {
            assert!(!version(text).at_least(35), "{text}");
            assert!(version(text).at_least(34), "{text}");
            assert!(!version(text).has(&[(35, 0)]), "{text}");
        }
        assert_eq!(version("1.35.0-dev").to_string(), "1.35.0-pre");
    }

    /// Every boundary in the facts: the last version before, the first one with.
    #[test]
    fn every_version_boundary_is_known() {
        type Rule = fn(CrioVersion) -> bool;
        let rules: [(Rule, &[&str], &[&str]); 8] = [
            (|v| v.default_runtime() == "crun", &["1.30.9"], &["1.31.0"]),
            (CrioVersion::has_nri, &["1.25.9"], &["1.26.0"]),
            (CrioVersion::nri_by_default, &["1.29.13"], &["1.30.0"]),
            (CrioVersion::broadcasts_pod_events, &["1.26.0", "1.27.8"], &["1.28.0"]),
            (
                CrioVersion::fits_ping_group_range,
                &["1.28.11", "1.29.4", "1.30.0"],
                &["1.29.5", "1.30.1", "1.31.0", "1.32.0"],
            ),
            (
                CrioVersion::tolerates_allowing_twice,
                &["1.23.0", "1.28.11", "1.29.9", "1.30.6", "1.31.1"],
                &["1.29.10", "1.30.7", "1.31.2", "1.32.0", "1.36.3"],
            ),
            (
                CrioVersion::forgets_mappings_on_restart,
                &["1.24.6", "1.35.6", "1.37.0", "1.38.1"],
                &["1.25.0", "1.33.13", "1.34.11", "1.35.5", "1.36.3"],
            ),
            (CrioVersion::leaves_mappings_out, &["1.34.11", "1.35.1", "1.36.0"], &["1.35.0"]),
        ];
        for (index, (rule, before, with)) in rules.into_iter().enumerate() {
            for text in before {
                assert!(!rule(version(text)), "rule {index}: {text}");
            }
            for text in with {
                assert!(rule(version(text)), "rule {index}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_input_is_parsed_without_panic(text in any::<String>()) {
            let _ = CrioVersion::parse(&text);
        }

        #[test]
        fn a_printed_version_is_parsed_back(minor in 0u16..99, patch in 0u16..99) {
            let version = CrioVersion::new(1, minor, patch);
            prop_assert_eq!(CrioVersion::parse(&version.to_string()), Ok(version));
        }
    }
}
