//! NRI `plugins/default-validator`, in containerd and CRI-O.

messages! { Nri;
    RequiredPlugin = "nri-required-plugin" {
        says: ["validation error: required plugin…usernsd… not present"],
        sample: "validator \"00-default-validator\" rejected container adjustment, reason: validation error: required plugin \"usernsd\" not present",
        cause: "The pod's annotation or the runtime's configuration (bootstrap.nri.required) requires usernsd for this container, and neither its launched plugin nor an agent is connected.",
        fix: "Start the agent, or restart the runtime so that it launches the plugin; usernsd doctor shows which is missing. The kubelet retries.",
        page: "nri-plugin.md",
    }
    NamespaceRestricted = "nri-namespace-restricted" {
        says: ["validation error: attempted restricted namespace adjustment by …usernsd"],
        sample: "validator \"00-default-validator\" rejected container adjustment, reason: validation error: attempted restricted namespace adjustment by plugin(s) \"usernsd\" (namespace \"cgroup\")",
        cause: "NRI's default validator rejects plugins that change namespaces, and usernsd gives privileged containers their own cgroup namespace.",
        fix: "Remove reject_namespace_adjustment (CRI-O: nri_validator_reject_namespace_adjustment), or set delegation.privilegedCgroupNamespace to false.",
        page: "runbooks/checks/nri_required.md",
    }
}
