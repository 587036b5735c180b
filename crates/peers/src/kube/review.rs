//! Authentication and authorization of HTTP clients by TokenReview and SubjectAccessReview, as
//! kube-rbac-proxy does it.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::core::Request;
use kube::core::params::PostParams;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{Kube, KubeError};
use usernsd_domain::chain::chain;

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// The API server's decision about a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Review {
    /// The client is authenticated and authorized.
    Allowed,
    /// The client is authenticated, but not authorized.
    Denied,
    /// The token is not valid (any more).
    Unknown,
}

// === impl Kube ===

impl Kube {
    /// Whether the owner of `token` may `get` the non-resource URL `path`.
    ///
    /// # Errors
    /// See [`KubeError`]. An answer without a clear yes counts as a no, not as an error.
    pub async fn review(&self, token: &str, path: &str) -> Result<Review, KubeError> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
        let asked = TokenReview { spec, ..TokenReview::default() };
        let answer: TokenReview = self.post(TOKENS, &asked).await?;
        let status = answer.status.unwrap_or_default();
        let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Ok(Review::Unknown);
        };
        let UserInfo { username, uid, groups, extra } = user;
        let what = NonResourceAttributes { path: Some(path.to_owned()), verb: Some("get".to_owned()) };
        let spec = SubjectAccessReviewSpec {
            user: username,
            uid,
            groups,
            extra,
            non_resource_attributes: Some(what),
            ..SubjectAccessReviewSpec::default()
        };
        let asked = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer: SubjectAccessReview = self.post(ACCESS, &asked).await?;
        let is_allowed = answer.status.is_some_and(|status| status.allowed && status.denied != Some(true));
        Ok(if is_allowed { Review::Allowed } else { Review::Denied })
    }

    async fn post<T: Serialize + DeserializeOwned>(&self, path: &str, object: &T) -> Result<T, KubeError> {
        let body = serde_json::to_vec(object).map_err(|error| KubeError::Malformed(chain(&error)))?;
        self.ask(Request::new(path).create(&PostParams::default(), body)).await
    }
}
