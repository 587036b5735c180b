//! The kubelet's files: the record of a pod's IDs, and its configuration.

use serde::Deserialize;

use crate::domain::ranges::Window;

/// `/var/lib/kubelet/pods/UID/userns`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(default)]
    uid_mappings: Vec<Mapping>,
    #[serde(default)]
    gid_mappings: Vec<Mapping>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// What a `KubeletConfiguration` says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeletConfig {
    /// `maxPods`.
    pub max_pods: Option<u64>,
    /// `userNamespaces`.
    #[serde(default)]
    user_namespaces: Option<UserNamespaces>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserNamespaces {
    #[serde(rename = "idsPerPod")]
    ids_per_pod: Option<u64>,
}

/// Reads a pod's record as the kubelet does: exactly one mapping, from container ID 0, the same for
/// users and groups.
///
/// # Errors
/// Why the kubelet would refuse it, and not start.
pub fn parse_record(bytes: &[u8]) -> Result<Window, String> {
    let record: Record =
        serde_json::from_slice(bytes).map_err(|error| format!("its record is unreadable: {error}"))?;
    let ([uid], [gid]) = (record.uid_mappings.as_slice(), record.gid_mappings.as_slice()) else {
        return Err("its record does not have exactly one mapping".to_owned());
    };
    if uid != gid {
        return Err("its record maps users and groups to different IDs".to_owned());
    }
    if uid.container_id != 0 {
        return Err(format!("its record starts at ID {} inside, not at 0", uid.container_id));
    }
    Ok(Window { start: uid.host_id.into(), count: uid.length.into() })
}

/// `--max-pods` in a text with flags, such as `KUBELET_EXTRA_ARGS="--max-pods=250"`; the last one, as
/// the kubelet takes it.
#[must_use]
pub fn max_pods_flag(text: &str) -> Option<u64> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let values = lines.flat_map(|line| line.split("--max-pods").skip(1)).filter_map(|rest| {
        let rest = rest.strip_prefix('=').or_else(|| rest.strip_prefix(' ').map(str::trim_start))?;
        let end = rest.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end)?.parse().ok()
    });
    values.last()
}

impl KubeletConfig {
    /// Reads a configuration, YAML or JSON.
    ///
    /// # Errors
    /// What is wrong, on one line.
    pub fn parse(bytes: &[u8]) -> Result<KubeletConfig, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
        serde_saphyr::from_str(text).map_err(|error| {
            let text = error.without_snippet().to_string();
            text.lines().next().unwrap_or_default().chars().take(200).collect()
        })
    }

    /// `userNamespaces.idsPerPod`.
    #[must_use]
    pub fn ids_per_pod(&self) -> Option<u64> {
        self.user_namespaces?.ids_per_pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kubelet_writes() {
        let text = r#"{"uidMappings":[{"hostId":626982912,"containerId":0,"length":65536}],"gidMappings":[{"hostId":626982912,"containerId":0,"length":65536}]}"#;
        assert_eq!(parse_record(text.as_bytes()), Ok(Window { start: 626_982_912, count: 65_536 }));
    }

    #[test]
    fn refuses_what_the_kubelet_refuses() {
        let one =
            |host: u32, inside: u32| format!(r#"{{"hostId":{host},"containerId":{inside},"length":65536}}"#);
        let record = |uids: &str, gids: &str| format!(r#"{{"uidMappings":[{uids}],"gidMappings":[{gids}]}}"#);
        for (text, want) in [
            (String::new(), "unreadable"),
            ("{}".into(), "exactly one"),
            ("[]".into(), "exactly one"),
            (record(&one(1, 0), ""), "exactly one"),
            (record(&format!("{},{}", one(1, 0), one(2, 0)), &one(1, 0)), "exactly one"),
            (record(&one(1, 0), &one(2, 0)), "different"),
            (record(&one(1, 5), &one(1, 5)), "starts at ID 5"),
            (r#"{"uidMappings":[{"hostId":-1}]}"#.into(), "unreadable"),
        ] {
            let error = parse_record(text.as_bytes()).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn reads_the_flag_of_a_unit() {
        for (text, want) in [
            ("KUBELET_EXTRA_ARGS=\"--v=2 --max-pods=250\"\n", Some(250)),
            ("KUBELET_EXTRA_ARGS=--max-pods 64\n", Some(64)),
            ("# --max-pods=9\nA=--max-pods=1\nB=--max-pods=2", Some(2)),
            ("A=--max-pods-per-core=9", None),
            ("A=--max-pods=", None),
            ("A=--max-pods=99999999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(max_pods_flag(text), want, "{text}");
        }
    }

    #[test]
    fn reads_a_configuration() {
        let text = b"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 250\n\
                     userNamespaces:\n  idsPerPod: 1048576\nauthentication:\n  anonymous: {enabled: false}\n";
        let config = KubeletConfig::parse(text).unwrap();
        assert_eq!((config.max_pods, config.ids_per_pod()), (Some(250), Some(1_048_576)));
        let config = KubeletConfig::parse(b"{\"kind\": \"KubeletConfiguration\"}").unwrap();
        assert_eq!((config.max_pods, config.ids_per_pod()), (None, None));
        assert!(KubeletConfig::parse(b"maxPods: many").is_err());
        assert!(KubeletConfig::parse(b"\xff").is_err());
    }
}
