//! The feature file for Node Feature Discovery, which makes labels of it: the way to node labels
//! without any right at the API server (NFD, "Local feature source").

use super::event::NodeFacts;

/// The file's name in NFD's directory.
pub const FILE: &str = "usernsd";

/// The file's text. NFD forgets it at `expires` (RFC 3339), so that the labels of a node whose
/// agent is gone go too.
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
    fn reads_as_nfd_reads_it() {
        let facts = NodeFacts { ready: Some(true), ..NodeFacts::default() };
        let want = "# Written by usernsd.\n# +expiry-time=2026-11-21T09:00:00Z\n\
                    feature.node.kubernetes.io/userns.ready=true\nfeature.node.kubernetes.io/userns.nri=false\n";
        assert_eq!(render(&facts, false, "2026-11-21T09:00:00Z"), want);
        // Not known is not ready: a label must not draw pods to a node that cannot run them.
        assert!(render(&NodeFacts::default(), true, "x").contains("userns.ready=false"));
    }
}
