//! Messages of usernsd itself.

messages! { Usernsd;
    Refused = "usernsd-refused" {
        says: ["usernsd: container … would run in the host's user namespace"],
        sample: "usernsd: container nginx of pod prod/web-0 would run in the host's user namespace, as the host's root, although its pod asked for a user namespace (hostUsers: false). The runtime has lost the pod's ID mappings, as CRI-O 1.25 to 1.36.3 (not 1.35.6) does when it restarts. Delete the pod: its successor gets new mappings.",
        cause: "usernsd did not let a container start without the isolation that its pod asked for.",
        fix: "Delete the pod: kubectl delete pod NAME. Update CRI-O to 1.35.6, or later than 1.36.3.",
        page: "runbooks/usernsdlostisolation.md",
    }
}
