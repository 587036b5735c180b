//! The feature file for Node Feature Discovery, which turns it into node labels, so that usernsd needs no access to
//! the API server for them (NFD, "Local feature source").

use super::event::NodeFacts;

/// The file's name in NFD's directory of local features.
pub const FILE: &str = "usernsd";

/// The file's text. NFD ignores it after `expires` (RFC 3339), so that a node's labels disappear after its agent has.
#[must_use]
pub fn render(facts: &NodeFacts, nri: bool, expires: &str) -> String {
    let ready = facts.ready == Some(true);
    format!(
        "# Written by usernsd.\n# +expiry-time={expires}\nfeature.node.kubernetes.io/userns.ready={ready}\n\
         feature.node.kubernetes.io/userns.nri={nri}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_parsed_as_by_nfd() {
        let facts = NodeFacts { ready: Some(true), ..NodeFacts::default() };
        let want = "# Written by usernsd.\n# +expiry-time=2026-11-21T09:00:00Z\n\
                    feature.node.kubernetes.io/userns.ready=true\nfeature.node.kubernetes.io/userns.nri=false\n";
        assert_eq!(render(&facts, false, "2026-11-21T09:00:00Z"), want);
        // Unknown means not ready: a label must not attract pods to a node that cannot run them.
        assert!(render(&NodeFacts::default(), true, "x").contains("userns.ready=false"));
    }
}
