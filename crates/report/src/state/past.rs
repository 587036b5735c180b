//! Containers that have ended, in the document.

#![deny(missing_docs, reason = "programs of others read this document")]

use serde::{Deserialize, Serialize};

use usernsd_domain::history;

use super::document::{Mapping, Pod, mappings};
use usernsd_domain::utc::rfc3339;

/// A container in a user namespace of its own that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// The CRI container ID, of the last run if there were several.
    pub id: String,
    /// The container's name in its pod.
    pub name: String,
    /// The pod that contained the container.
    pub pod: Pod,
    /// The mapping of user IDs.
    pub uid_map: Vec<Mapping>,
    /// The mapping of group IDs.
    pub gid_map: Vec<Mapping>,
    /// When the agent first saw it (RFC 3339, UTC).
    pub since: String,
    /// When the agent learnt that it had ended (RFC 3339, UTC).
    pub until: String,
}

impl From<&history::Past> for Past {
    fn from(past: &history::Past) -> Past {
        Past {
            id: past.id.to_string(),
            name: past.name.clone(),
            pod: Pod::from(&past.pod),
            uid_map: mappings(&past.uid_map),
            gid_map: mappings(&past.gid_map),
            since: rfc3339(past.since),
            until: rfc3339(past.until),
        }
    }
}
