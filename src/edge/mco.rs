//! OpenShift's Machine Config Operator: which files are its own.
//!
//! Its daemon compares them with the rendered MachineConfig, and a node on which one differs is
//! Degraded and gets no updates.

use serde::Deserialize;

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct MachineConfig {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Metadata {
    name: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Spec {
    config: Ignition,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Ignition {
    storage: Option<Storage>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Storage {
    files: Vec<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    path: String,
}

/// What the rendered MachineConfig of a node says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    /// Its name, `rendered-worker-…`.
    pub name: String,
    /// The files, with the leading slash.
    pub files: Vec<String>,
}

impl Rendered {
    /// Reads `/etc/machine-config-daemon/currentconfig`. It is empty on nodes of hosted clusters.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Rendered, String> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Rendered::default());
        }
        let config: MachineConfig = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let files = config.spec.config.storage.unwrap_or_default().files;
        Ok(Rendered { name: config.metadata.name, files: files.into_iter().map(|file| file.path).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_files_of_a_rendered_config() {
        let text = br#"{"kind":"MachineConfig","metadata":{"name":"rendered-worker-1"},"spec":{"config":{"ignition":
            {"version":"3.5.0"},"storage":{"files":[{"path":"/etc/subuid","mode":420}]}},"kernelArguments":[]}}"#;
        let rendered = Rendered::parse(text).unwrap();
        assert_eq!(
            (rendered.name.as_str(), rendered.files),
            ("rendered-worker-1", vec!["/etc/subuid".to_owned()])
        );
        assert_eq!(Rendered::parse(b" \n").unwrap(), Rendered::default());
        assert_eq!(Rendered::parse(b"{\"spec\":{\"config\":{}}}").unwrap(), Rendered::default());
        assert!(Rendered::parse(b"{").is_err());
    }
}
