//! Parsers of the kubelet's files: the record of a pod's IDs, and the configuration.

use std::collections::BTreeMap;

use serde::Deserialize;

use usernsd_domain::ranges::Window;

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

/// The annotations in a static pod's manifest (YAML or JSON); `None` if it is no manifest, which the kubelet
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

/// The largest `--max-pods` in a text with flags, for example of a unit
/// (`KUBELET_EXTRA_ARGS="--max-pods=250"`) or of k3s (`kubelet-arg: [max-pods=250]`).
#[must_use]
pub fn max_pods_flag(text: &str) -> Option<u64> {
    flag_values(text, "max-pods").iter().filter_map(|value| value.parse().ok()).max()
}

/// The values of a flag, in order, in a unit, an environment file, or k3s' configuration. `name` has no
/// dashes.
#[must_use]
pub fn flag_values(text: &str, name: &str) -> Vec<String> {
    const BETWEEN: [char; 6] = ['=', ' ', '\t', '"', '\'', ','];
    const AFTER: [char; 7] = [' ', '\t', '"', '\'', ',', ']', '}'];
    let is_said = |line: &&str| !line.trim_start().starts_with(['#', ';']);
    let text = text.replace("\\\n", " ");
    let values = text.lines().filter(is_said).flat_map(|line| {
        line.match_indices(name).filter_map(|(at, _)| {
            let (before, rest) = (line.get(..at)?, line.get(at + name.len()..)?);
            // Other flags may end with the same name. A flag has two dashes, or none in a list of k3s.
            let before = before.strip_suffix("--").unwrap_or(before);
            let starts = before.chars().next_back().is_none_or(|sign| BETWEEN.contains(&sign) || sign == '[');
            let value = rest.strip_prefix(BETWEEN)?.trim_start_matches(BETWEEN);
            let end = value.find(AFTER).unwrap_or(value.len());
            value.get(..end).filter(|value| starts && !value.is_empty()).map(str::to_owned)
        })
    });
    values.collect()
}

/// The `PATH` that a unit gives its process (systemd.exec(5)), from the texts of the unit and its drop-ins, and of
/// their environment files, each in systemd's order: the last assignment counts, an empty `Environment=` forgets
/// those before it, and environment files override all of them.
#[must_use]
pub fn search_path(unit: &[String], environment_files: &[String]) -> Option<String> {
    let (mut path, mut executables) = (None, None);
    for line in unit.iter().flat_map(|text| text.lines()).map(str::trim) {
        if let Some(directories) = line.strip_prefix("ExecSearchPath=") {
            executables = (!directories.is_empty()).then(|| directories.to_owned());
        }
        let Some(assignments) = line.strip_prefix("Environment=") else { continue };
        if assignments.trim().is_empty() {
            path = None;
        }
        let assigned = words(assignments).into_iter().rev().find_map(|word| path_of(&word));
        path = assigned.or(path);
    }
    let lines = environment_files.iter().flat_map(|text| text.lines());
    let of_file = lines.flat_map(words).filter_map(|word| path_of(&word)).next_back();
    of_file.or(path).or(executables)
}

fn path_of(assignment: &str) -> Option<String> {
    assignment.strip_prefix("PATH=").map(str::to_owned)
}

/// The words of a line without their quotes (systemd.syntax(7)).
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for sign in line.chars() {
        match (quote, sign) {
            (None, '"' | '\'') => quote = Some(sign),
            (Some(open), _) if open == sign => quote = None,
            (None, ' ' | '\t') => words.push(std::mem::take(&mut word)),
            _ => word.push(sign),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
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
        for (text, want) in [
            ("KUBELET_EXTRA_ARGS=\"--v=2 --max-pods=250\"\n", Some(250)),
            ("KUBELET_EXTRA_ARGS=--max-pods 64\n", Some(64)),
            ("# --max-pods=9\nA=--max-pods=1\nB=--max-pods=2", Some(2)),
            ("B=--max-pods=9\nA=--max-pods=1", Some(9)),
            ("kubelet-arg: [max-pods=250]", Some(250)),
            ("kubelet-arg:\n  - \"max-pods=250\"\n  - x=1\n", Some(250)),
            ("kubelet-arg+: 'max-pods=250'", Some(250)),
            ("ExecStart=/usr/bin/k3s agent \\\n  '--kubelet-arg=max-pods=250' \\\n  '--x'", Some(250)),
            ("ExecStart=/usr/bin/kubelet '--max-pods' '250'", Some(250)),
            ("ExecStart=/usr/bin/kubelet --max-pods \\\n 250 --x", Some(250)),
            ("Environment=\"KUBELET_EXTRA_ARGS=--max-pods=250\"", Some(250)),
            ("; --max-pods=9", None),
            ("A=--max-pods=$MAX", None),
            ("A=--other-max-pods=9", None),
            ("A=--max-pods-per-core=9", None),
            ("A=--max-pods=", None),
            ("A=--max-pods=99999999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(max_pods_flag(text), want, "{text}");
        }
    }

    #[test]
    fn other_flags_are_found_in_units() {
        let text = "ExecStart=/usr/bin/kubelet --config=/a --config-dir /b --kubeconfig=/c \"--config=/d\"";
        assert_eq!(flag_values(text, "config"), ["/a", "/d"]);
        assert_eq!(flag_values(text, "config-dir"), ["/b"]);
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
