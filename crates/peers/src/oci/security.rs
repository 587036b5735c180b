//! The security context in a container's specification, for display to people.

use serde::{Deserialize, Serialize};

use super::{OciError, document};

/// The requested security settings. The field names are those of the JSON output.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    /// User ID of the process, inside the container.
    pub user: Option<u32>,
    /// Group ID of the process, inside the container.
    pub group: Option<u32>,
    /// Capabilities of the bounding set, without `CAP_`.
    pub capabilities: Vec<String>,
    /// The process cannot gain privileges by running a program.
    pub no_new_privileges: bool,
    /// The root file system is read-only.
    pub read_only_root: bool,
    /// A seccomp profile is set.
    pub seccomp: bool,
    /// AppArmor profile or SELinux label.
    pub label: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    process: Option<RawProcess>,
    root: Option<RawRoot>,
    linux: Option<RawLinux>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProcess {
    user: Option<RawUser>,
    capabilities: Option<RawCapabilities>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    selinux_label: Option<String>,
}

#[derive(Default, Deserialize)]
struct RawUser {
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Deserialize)]
struct RawCapabilities {
    bounding: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawRoot {
    readonly: Option<bool>,
}

#[derive(Deserialize)]
struct RawLinux {
    seccomp: Option<serde::de::IgnoredAny>,
}

/// Parses the security settings of a specification (`config.json`).
///
/// # Errors
/// See [`OciError`].
pub fn parse_security(json: &str) -> Result<Security, OciError> {
    let raw: Raw = document(json)?;
    let process = raw.process.unwrap_or_default();
    let user = process.user.unwrap_or_default();
    let bounding = process.capabilities.and_then(|capabilities| capabilities.bounding).unwrap_or_default();
    let plain = |name: String| name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned);
    let label = process.apparmor_profile.or(process.selinux_label).filter(|label| !label.is_empty());
    Ok(Security {
        // Go omits neither ID if it is 0: both are always written.
        user: user.uid,
        group: user.gid,
        capabilities: bounding.into_iter().map(plain).collect(),
        no_new_privileges: process.no_new_privileges.unwrap_or(false),
        read_only_root: raw.root.and_then(|root| root.readonly).unwrap_or(false),
        seccomp: raw.linux.is_some_and(|linux| linux.seccomp.is_some()),
        label,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_security_context_of_either_runtime_is_parsed() {
        let json = r#"{"process":{"user":{"uid":0,"gid":7},"capabilities":{"bounding":["CAP_CHOWN","CAP_KILL"]},
            "noNewPrivileges":true,"selinuxLabel":"system_u:system_r:container_t:s0","env":["SECRET=x"]},
            "root":{"readonly":true},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}"#;
        let seen = parse_security(json).unwrap();
        let want = Security {
            user: Some(0),
            group: Some(7),
            capabilities: vec!["CHOWN".into(), "KILL".into()],
            no_new_privileges: true,
            read_only_root: true,
            seccomp: true,
            label: Some("system_u:system_r:container_t:s0".into()),
        };
        assert_eq!(seen, want);
        assert_eq!(parse_security("{}").unwrap(), Security::default());
        assert!(parse_security("nonsense").is_err());
    }
}
