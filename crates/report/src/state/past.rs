//! Containers that have ended, as the document has them.

use serde::{Deserialize, Serialize};

use usernsd_domain::history;

use super::document::{Mapping, Pod, mappings};
use usernsd_domain::utc::rfc3339;

/// A container in a user namespace of its own that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// Its ID; of several runs the last one's.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// Its pod.
    pub pod: Pod,
    /// Its mapping of user IDs.
    pub uid_map: Vec<Mapping>,
    /// Its mapping of group IDs.
    pub gid_map: Vec<Mapping>,
    /// When the agent saw it first (RFC 3339, UTC).
    pub since: String,
    /// When the agent knew that it had ended (RFC 3339, UTC).
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
