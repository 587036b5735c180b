//! Validation of the sections `kubernetes` and `featureFile`.

use super::keys::{Kubernetes, Located};
use super::validate::Validator;
use super::{ConfigError, KubernetesSettings, one_of_named};
use usernsd_domain::chain::chain;
use usernsd_domain::feature;
use usernsd_domain::provision::HostPath;

const MODES: [(&str, bool); 2] = [("auto", true), ("off", false)];

impl Validator<'_> {
    pub(super) fn kubernetes(&self, keys: &Kubernetes) -> Result<Option<KubernetesSettings>, ConfigError> {
        let kubeconfig = match keys.kubeconfig.value.as_str() {
            "" => None,
            path => Some(self.path("kubernetes.kubeconfig", &keys.kubeconfig, path)?),
        };
        let settings = KubernetesSettings {
            kubeconfig,
            events: self.one_of("kubernetes.events", &keys.events)?,
            node_condition: self.one_of("kubernetes.nodeCondition", &keys.node_condition)?,
            namespaces: keys.namespaces.value,
        };
        let mode = &keys.mode;
        let is_on = one_of_named(&MODES, &mode.value)
            .map_err(|remedy| self.unknown("kubernetes.mode", mode, &mode.value, remedy))?;
        Ok(is_on.then_some(settings))
    }

    /// The feature file; `None` if no directory is set.
    pub(super) fn feature_file(&self, at: &Located<String>) -> Result<Option<HostPath>, ConfigError> {
        if at.value.is_empty() {
            return Ok(None);
        }
        let file = HostPath::parse(&at.value).and_then(|directory| directory.join(feature::FILE));
        file.map(Some).map_err(|error| {
            let remedy = "write an absolute path without \"..\" and without a slash at its end".to_owned();
            self.refuse("featureFile.directory", at, chain(&error), remedy)
        })
    }
}
