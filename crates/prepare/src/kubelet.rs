//! Parsers of the kubelet's files: the record of a pod's IDs, and the configuration.

use std::collections::BTreeMap;

use serde::Deserialize;

use usernsd_domain::ranges::Window;
use usernsd_domain::unit_file::{self, words};

/// The kubelet's record of a pod's ID mappings, `/var/lib/kubelet/pods/UID/userns`.
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

/// The fields of a `KubeletConfiguration` that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeletConfig {
    kind: Option<String>,
    /// `maxPods`; 0 means the kubelet's default.
    pub max_pods: Option<u64>,
    /// `staticPodPath`: a file, or a directory, with manifests of static pods.
    pub static_pod_path: Option<String>,
    /// `userNamespaces`.
    #[serde(default)]
    user_namespaces: Option<UserNamespaces>,
    /// `featureGates`.
    #[serde(default)]
    feature_gates: Option<BTreeMap<String, bool>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserNamespaces {
    #[serde(rename = "idsPerPod")]
    ids_per_pod: Option<u64>,
}

/// The fields of a static pod's manifest that matter here.
#[derive(Debug, Default, Deserialize)]
struct Manifest {
    kind: Option<String>,
    #[serde(default)]
    metadata: ManifestMetadata,
}

#[derive(Debug, Default, Deserialize)]
struct ManifestMetadata {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The annotations in a static pod's manifest (YAML or JSON); `None` if it is not a manifest, which the kubelet
/// ignores, too.
#[must_use]
pub fn static_pod_annotations(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let manifest: Manifest = serde_saphyr::from_multiple(text).ok()?.into_iter().next()?;
    (manifest.kind.as_deref() == Some("Pod")).then(|| manifest.metadata.annotations.unwrap_or_default())
}

/// Parses a pod's record as the kubelet does: exactly one mapping, from container ID 0, equal for users and
/// groups. An empty record means no mapping (`recordPodMappings`).
///
/// # Errors
/// The reason for which the kubelet would refuse the record and not start.
pub fn parse_record(bytes: &[u8]) -> Result<Option<Window>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
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
    Ok(Some(Window { start: uid.host_id.into(), count: uid.length.into() }))
}

/// The values of a flag, in order, in a unit, an environment file, or k3s' configuration. `name` has no
/// dashes.
#[must_use]
pub fn flag_values(text: &str, name: &str) -> Vec<String> {
    const BETWEEN: [char; 6] = ['=', ' ', '\t', '"', '\'', ','];
    let is_setting = |line: &&str| !line.trim_start().starts_with(['#', ';']);
    let text = text.replace("\\\n", " ");
    let values = text.lines().filter(is_setting).flat_map(|line| {
        line.match_indices(name).filter_map(|(at, _)| {
            let (before, rest) = (line.get(..at)?, line.get(at + name.len()..)?);
            // Other flags may end with the same name. A flag has two dashes, or none in a list of k3s, whose items are
            // NAME=VALUE.
            let (before, rest) = match before.strip_suffix("--") {
                Some(before) => (before, rest.strip_prefix(BETWEEN)?),
                None => (before, rest.strip_prefix('=')?),
            };
            let starts = before.chars().next_back().is_none_or(|sign| BETWEEN.contains(&sign) || sign == '[');
            let value = rest.trim_start_matches(BETWEEN);
            value.get(..end_of(value)).filter(|value| starts && !value.is_empty()).map(str::to_owned)
        })
    });
    values.collect()
}

/// The length of the value at the start of a text; the brace of `${VARIABLE}` is part of it.
fn end_of(text: &str) -> usize {
    let mut is_braced = false;
    for (at, sign) in text.char_indices() {
        match sign {
            '{' if text.get(..at).is_some_and(|before| before.ends_with('$')) => is_braced = true,
            '}' if is_braced => is_braced = false,
            ' ' | '\t' | '"' | '\'' | ',' | ']' | '}' => return at,
            _ => {}
        }
    }
    text.len()
}

/// The setting of a feature gate in `--feature-gates` (`A=true,B=false`), in a unit, an environment file, or k3s'
/// configuration; `None` if it is not there.
#[must_use]
pub fn gate_flag(text: &str, gate: &str) -> Option<bool> {
    let (_, gates) = text.split_once("feature-gates")?;
    let (_, value) = gates.rsplit_once(&format!("{gate}="))?;
    let value = value.split(|sign: char| !sign.is_ascii_alphanumeric()).next()?;
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" => Some(true),
        "false" | "0" | "f" => Some(false),
        _ => None,
    }
}

/// The `PATH` that a unit gives its process (systemd.exec(5)), from the texts of the unit and its drop-ins, and of
/// their environment files, each in systemd's order: the last assignment counts, an empty `Environment=` forgets
/// those before it, and environment files override all of them.
#[must_use]
pub fn search_path(unit: &[String], environment_files: &[String]) -> Option<String> {
    let (mut path, mut executables) = (None, None);
    for setting in unit_file::settings(unit) {
        match setting.key.as_str() {
            "ExecSearchPath" => executables = Some(setting.value),
            "Environment" => {
                let assigned = words(&setting.value).into_iter().rev().find_map(|word| path_of(&word));
                path = assigned.or(path);
            }
            _ => {}
        }
    }
    let lines = environment_files.iter().flat_map(|text| text.lines());
    let of_file = lines.flat_map(words).filter_map(|word| path_of(&word)).next_back();
    of_file.or(path).or(executables)
}

fn path_of(assignment: &str) -> Option<String> {
    assignment.strip_prefix("PATH=").map(str::to_owned)
}

impl KubeletConfig {
    /// Parses a configuration (YAML or JSON). Of several documents only the first counts, as for the kubelet.
    ///
    /// # Errors
    /// The error as one line.
    pub fn parse(bytes: &[u8]) -> Result<KubeletConfig, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
        let documents: Vec<KubeletConfig> = serde_saphyr::from_multiple(text).map_err(|error| {
            let text = error.without_snippet().to_string();
            text.lines().next().unwrap_or_default().chars().take(200).collect::<String>()
        })?;
        Ok(documents.into_iter().next().unwrap_or_default())
    }

    /// Whether this is a KubeletConfiguration: kubeconfigs and configurations of distributions use the same
    /// file names. The kubelet accepts nothing else.
    #[must_use]
    pub fn is_kubelets(&self) -> bool {
        self.kind.as_deref() == Some("KubeletConfiguration")
    }

    /// `userNamespaces.idsPerPod`.
    #[must_use]
    pub fn ids_per_pod(&self) -> Option<u64> {
        self.user_namespaces.as_ref()?.ids_per_pod
    }

    /// A feature gate; `None` if it is not set.
    #[must_use]
    pub fn feature_gate(&self, name: &str) -> Option<bool> {
        self.feature_gates.as_ref()?.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_kubelet_are_parsed() {
        let text = r#"{"uidMappings":[{"hostId":626982912,"containerId":0,"length":65536}],"gidMappings":[{"hostId":626982912,"containerId":0,"length":65536}]}"#;
        assert_eq!(parse_record(text.as_bytes()), Ok(Some(Window { start: 626_982_912, count: 65_536 })));
        assert_eq!(parse_record(b""), Ok(None));
    }

    #[test]
    fn annotations_of_a_static_pod_are_parsed() {
        let annotations = |text: &str| static_pod_annotations(text.as_bytes());
        let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: etcd\n  annotations: {a: b}\nspec: {}\n";
        assert_eq!(annotations(pod), Some([("a".to_owned(), "b".to_owned())].into()));
        let json = r#"{"kind":"Pod","metadata":{"name":"etcd","annotations":null}}"#;
        assert_eq!(annotations(json), Some(BTreeMap::new()));
        for other in ["kind: ConfigMap\nmetadata: {annotations: {a: b}}\n", "a: [", "", "\0"] {
            assert_eq!(annotations(other), None, "{other:?}");
        }
    }

    #[test]
    fn records_that_the_kubelet_refuses_are_refused() {
        let one =
            |host: u32, inside: u32| format!(r#"{{"hostId":{host},"containerId":{inside},"length":65536}}"#);
        let record = |uids: &str, gids: &str| format!(r#"{{"uidMappings":[{uids}],"gidMappings":[{gids}]}}"#);
        for (text, want) in [
            (" ".into(), "unreadable"),
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
    fn a_units_path_is_what_systemd_gives_its_process() {
        let path = |unit: &[&str], files: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            search_path(&owned(unit), &owned(files))
        };
        let some = |path: &str| Some(path.to_owned());
        assert_eq!(path(&["[Service]\nEnvironment=\"PATH=/a:/b\"\n"], &[]), some("/a:/b"));
        assert_eq!(path(&["Environment=X=1 'PATH=/a' \"Y=2 3\"\n"], &[]), some("/a"));
        assert_eq!(path(&["Environment=PATH=/a\nEnvironment=PATH=/b"], &[]), some("/b"));
        assert_eq!(path(&["Environment=PATH=/a", "Environment=\n"], &[]), None);
        assert_eq!(path(&["Environment=PATH=/a"], &["# PATH\nPATH=\"/c:/d\"\n"]), some("/c:/d"));
        assert_eq!(path(&["ExecSearchPath=/e\n"], &[]), some("/e"));
        assert_eq!(path(&["Environment=MANPATH=/a\n"], &["XPATH=/b\n"]), None);
    }

    #[test]
    fn the_max_pods_flag_is_found_in_units() {
        let max_pods = |text: &str| flag_values(text, "max-pods").into_iter().next_back();
        for (text, want) in [
            ("KUBELET_EXTRA_ARGS=\"--v=2 --max-pods=250\"\n", Some("250")),
            ("KUBELET_EXTRA_ARGS=--max-pods 64\n", Some("64")),
            ("# --max-pods=9\nA=--max-pods=1\nB=--max-pods=2", Some("2")),
            ("B=--max-pods=9\nA=--max-pods=1", Some("1")),
            ("kubelet-arg: [max-pods=250]", Some("250")),
            ("kubelet-arg:\n  - \"max-pods=250\"\n  - x=1\n", Some("250")),
            ("kubelet-arg+: 'max-pods=250'", Some("250")),
            ("ExecStart=/usr/bin/k3s agent \\\n  '--kubelet-arg=max-pods=250' \\\n  '--x'", Some("250")),
            ("ExecStart=/usr/bin/kubelet '--max-pods' '250'", Some("250")),
            ("ExecStart=/usr/bin/kubelet --max-pods \\\n 250 --x", Some("250")),
            ("Environment=\"KUBELET_EXTRA_ARGS=--max-pods=250\"", Some("250")),
            ("; --max-pods=9", None),
            ("A=--max-pods=$MAX", Some("$MAX")),
            ("A=\"--max-pods=${MAX} --x\"", Some("${MAX}")),
            ("{\"A\":\"--max-pods=${MAX}\"}", Some("${MAX}")),
            ("Description=Set max-pods for the kubelet", None),
            ("A=--other-max-pods=9", None),
            ("A=--max-pods-per-core=9", None),
            ("A=--max-pods=", None),
            ("A=--max-pods=99999999999999999999999", Some("99999999999999999999999")),
            ("", None),
        ] {
            assert_eq!(max_pods(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_feature_gate_is_found_in_flags_and_in_the_configuration() {
        const GATE: &str = "UserNamespacesSupport";
        for (text, want) in [
            ("ExecStart=kubelet --feature-gates=A=true,UserNamespacesSupport=false,B=true --x", Some(false)),
            ("KUBELET_EXTRA_ARGS=\"--feature-gates UserNamespacesSupport=true\"", Some(true)),
            ("kubelet-arg: [feature-gates=UserNamespacesSupport=False]", Some(false)),
            ("--feature-gates=UserNamespacesPodSecurityStandards=false", None),
            ("UserNamespacesSupport=false", None),
        ] {
            assert_eq!(gate_flag(text, GATE), want, "{text}");
        }
        let text = b"kind: KubeletConfiguration\nfeatureGates: {UserNamespacesSupport: false, B: true}\n";
        let config = KubeletConfig::parse(text).unwrap();
        assert_eq!((config.feature_gate(GATE), config.feature_gate("C")), (Some(false), None));
    }

    #[test]
    fn other_flags_are_found_in_units() {
        let text = "ExecStart=/usr/bin/kubelet --config=/a --config-dir /b --kubeconfig=/c \"--config=/d\"";
        assert_eq!(flag_values(text, "config"), ["/a", "/d"]);
        assert_eq!(flag_values(text, "config-dir"), ["/b"]);
    }

    /// Each text with the number of pods that the kubelet of Kubernetes 1.36 takes from it; `None` for one that is not
    /// understood here, so that nothing is assumed.
    #[test]
    fn unusual_numbers_of_pods_are_not_smaller_than_the_kubelets() {
        for (text, kubelets) in [
            ("\u{feff}kind: KubeletConfiguration\nmaxPods: 250\n", 250),
            ("kind: KubeletConfiguration\r\nmaxPods: 250\r\n", 250),
            ("kind: KubeletConfiguration\n<<: {maxPods: 250}\n", 250),
            ("kind: KubeletConfiguration\nmaxPods: 0400\n", 256),
            ("kind: KubeletConfiguration\nmaxPods: 250.0\n", 250),
            ("kind: KubeletConfiguration\nmaxPods: 2_50\n", 250),
            ("kind: KubeletConfiguration\nmaxPods: 0x100\n", 256),
            ("{\n\t\"kind\": \"KubeletConfiguration\",\n\t\"maxPods\": 250\n}\n", 250),
        ] {
            let found = KubeletConfig::parse(text.as_bytes());
            let is_enough = found.as_ref().map_or(true, |config| {
                config.is_kubelets() && config.max_pods.is_some_and(|pods| pods >= kubelets)
            });
            assert!(is_enough, "{text}: {found:?}");
        }
        let with_mark = KubeletConfig::parse("\u{feff}kind: KubeletConfiguration\nmaxPods: 250\n".as_bytes());
        assert_eq!(with_mark.unwrap().max_pods, Some(250));
    }

    #[test]
    fn a_kubelet_configuration_is_parsed() {
        let text = b"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 250\n\
                     userNamespaces:\n  idsPerPod: 1048576\nauthentication:\n  anonymous: {enabled: false}\n";
        let config = KubeletConfig::parse(text).unwrap();
        assert_eq!((config.max_pods, config.ids_per_pod()), (Some(250), Some(1_048_576)));
        let config = KubeletConfig::parse(b"{\"kind\": \"KubeletConfiguration\"}").unwrap();
        assert_eq!((config.max_pods, config.ids_per_pod()), (None, None));
        assert!(config.is_kubelets());
        let config = KubeletConfig::parse(b"apiVersion: v1\nkind: Config\nmaxPods: 5\n").unwrap();
        assert!(!config.is_kubelets() && !KubeletConfig::parse(b"").unwrap().is_kubelets());
        for text in [
            "kind: KubeletConfiguration\nmaxPods: 250\n---\n",
            "---\nkind: KubeletConfiguration\nmaxPods: 250\n---\nmaxPods: 1\n",
        ] {
            assert_eq!(KubeletConfig::parse(text.as_bytes()).unwrap().max_pods, Some(250), "{text}");
        }
        assert!(KubeletConfig::parse(b"maxPods: many").is_err());
        assert!(KubeletConfig::parse(b"\xff").is_err());
    }
}
