//! A namespace's annotations. Only the namespace's metadata is requested.

use std::collections::BTreeMap;

use kube::core::Request;
use kube::core::params::GetParams;
use serde::Deserialize;

use super::client::{Kube, KubeError};
use usernsd_domain::scc::{NamespaceRanges, RangeError, SUPPLEMENTAL_GROUPS, UID_RANGE};

#[derive(Debug, Deserialize)]
struct Namespace {
    metadata: Meta,
}

#[derive(Debug, Deserialize)]
struct Meta {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

// === impl Kube ===

impl Kube {
    /// The ID ranges that OpenShift assigned to a namespace.
    ///
    /// # Errors
    /// See [`KubeError`]; the inner error is about the annotations.
    pub async fn namespace_ranges(
        &self,
        name: &str,
    ) -> Result<Result<NamespaceRanges, RangeError>, KubeError> {
        let request = Request::new("/api/v1/namespaces").get_metadata(name, &GetParams::any());
        let namespace: Namespace = self.ask(request).await?;
        let annotation = |key: &str| namespace.metadata.annotations.get(key).map(String::as_str);
        Ok(NamespaceRanges::parse(annotation(UID_RANGE), annotation(SUPPLEMENTAL_GROUPS)))
    }
}
