//! OpenShift: `apiserver-library-go/pkg/securitycontextconstraints` and the Machine Config Operator.

messages! { Openshift;
    SccNoRange = "scc-no-range" {
        says: ["unable to find annotation openshift.io/sa.scc.", "found annotation openshift.io/sa.scc.… but it was empty", "unable to find pre-allocated …annotation for namespace", "unable to find supplemental group or uid annotation for namespace", "unable to find groups using", "no blocks parsed from annotation"],
        sample: "unable to find annotation openshift.io/sa.scc.uid-range",
        cause: "The namespace has no ID range yet, or its annotation was removed.",
        fix: "oc describe namespace NAME; the cluster-policy-controller writes it to new namespaces.",
    }
    SccNotUsable = "scc-not-usable" {
        says: ["provider \"nested-container\": Forbidden: not usable by user or serviceaccount"],
        cause: "The SCC nested-container is not bound to the pod's user or service account; by default it is bound to no one.",
        fix: "oc adm policy add-scc-to-user nested-container -z SERVICEACCOUNT -n NAMESPACE.",
    }
    SccOtherNotUsable = "scc-none-usable" {
        says: ["provider \"…\": Forbidden: not usable by user or serviceaccount"],
        sample: "provider \"anyuid\": Forbidden: not usable by user or serviceaccount",
        cause: "The SCC in the message is bound neither to the pod's service account nor to its user, and none of the bound ones admits the pod.",
        fix: "For hostUsers: false use restricted-v3, which everyone may use: annotate the pod with openshift.io/required-scc: restricted-v3. For root inside the pod, bind nested-container: oc adm policy add-scc-to-user nested-container -z SERVICEACCOUNT -n NAMESPACE.",
        page: "recipes/README.md",
    }
    SccRange = "scc-user-range" {
        says: [
            "unable to validate against any security context constraint: …must be in the ranges: [",
            "runAsUser: Invalid value: …must be in the ranges: [",
        ],
        sample: "pods \"p\" is forbidden: unable to validate against any security context constraint: [provider \"anyuid\": Forbidden: not usable by user or serviceaccount, provider restricted-v2: .containers[0].runAsUser: Invalid value: 999: must be in the ranges: [1000680000, 1000689999]]",
        cause: "The SCC admits only users in the range of the namespace's annotation openshift.io/sa.scc.uid-range, which is far above the 65536 IDs of a pod with hostUsers: false.",
        fix: "With hostUsers: false annotate the pod with openshift.io/required-scc: restricted-v3, and choose a runAsUser from 1000 to 65534; by default admission chooses restricted-v2. For root inside the pod, bind nested-container. To change the namespace instead, set both openshift.io/sa.scc.uid-range and openshift.io/sa.scc.supplemental-groups.",
        page: "recipes/README.md",
    }
    SccGroup = "scc-group" {
        says: [
            "unable to validate against any security context constraint: …is not an allowed group",
            "is not an allowed group",
        ],
        sample: "provider restricted-v2: .spec.securityContext.fsGroup: Invalid value: []int64{999}: 999 is not an allowed group",
        cause: "The SCC admits only groups in the range of the namespace's annotation openshift.io/sa.scc.supplemental-groups, and as fsGroup only the first of them.",
        fix: "With hostUsers: false annotate the pod with openshift.io/required-scc: restricted-v3, and choose groups from 1000 to 65534. To change the namespace instead, set both openshift.io/sa.scc.uid-range and openshift.io/sa.scc.supplemental-groups.",
        page: "recipes/README.md",
    }
    SccRoot = "scc-root" {
        says: [
            "running with the root UID is forbidden",
            "unable to validate against any security context constraint: …running with the root UID is forbidden",
        ],
        sample: "provider nonroot-v2: .containers[0].runAsUser: Invalid value: 0: running with the root UID is forbidden",
        cause: "The SCC admits every user except root.",
        fix: "For root inside the pod, with hostUsers: false, bind nested-container: oc adm policy add-scc-to-user nested-container -z SERVICEACCOUNT -n NAMESPACE, and annotate the pod with openshift.io/required-scc: nested-container.",
        page: "recipes/README.md",
    }
    SccHostUsers = "scc-host-users" {
        says: [
            "Host Users must be set to false",
            "unable to validate against any security context constraint: …Host Users must be set to false",
        ],
        sample: "provider restricted-v3: .spec.hostUsers: Invalid value: null: Host Users must be set to false",
        cause: "The SCC (restricted-v3, nested-container, or one made of them) admits only pods in a user namespace of their own.",
        fix: "Set hostUsers: false in the pod's spec.",
    }
    SccCapability = "scc-capability" {
        says: [
            "unable to validate against any security context constraint: …capability may not be added",
            "capability may not be added",
            "Allowing privilege escalation for containers is not allowed",
            "unable to validate against any security context constraint: …Allowing privilege escalation for containers is not allowed",
        ],
        sample: "provider nested-container: .containers[0].capabilities.add: Invalid value: \"SYS_ADMIN\": capability may not be added",
        cause: "The SCC does not admit a capability that the pod adds, or privilege escalation. nested-container admits SETUID, SETGID and privilege escalation.",
        fix: "Copy nested-container to an SCC with another name and these capabilities in allowedCapabilities, bind it to the service account, and set it in the pod's annotation openshift.io/required-scc.",
        page: "recipes/README.md",
    }
    SccPrivileged = "scc-privileged" {
        says: [
            "unable to validate against any security context constraint: …Privileged containers are not allowed",
            "Privileged containers are not allowed",
            "Host network is not allowed to be used",
            "Host PID is not allowed to be used",
            "Host IPC is not allowed to be used",
            "volumes are not allowed to be used",
            "Host ports are not allowed to be used",
            "unable to validate against any security context constraint: …Host network is not allowed to be used",
            "unable to validate against any security context constraint: …Host PID is not allowed to be used",
            "unable to validate against any security context constraint: …Host IPC is not allowed to be used",
            "unable to validate against any security context constraint: …volumes are not allowed to be used",
            "unable to validate against any security context constraint: …Host ports are not allowed to be used",
        ],
        sample: "provider restricted-v2: .containers[0].privileged: Invalid value: true: Privileged containers are not allowed",
        cause: "The SCC does not admit privileged containers, host namespaces, host ports or a volume type of the pod. With hostUsers: false most programs do not need them.",
        fix: "Remove the settings that the message lists from the pod, or bind an SCC that admits them.",
        page: "recipes/README.md",
    }
    SccRequired = "scc-required" {
        says: [
            "required scc/… does not match the suggested scc/",
            "failed to retrieve the required SCC",
            "invalid change of required security context constraint annotation",
        ],
        sample: "failed to retrieve the required SCC \"restricted-v3\": securitycontextconstraints.security.openshift.io \"restricted-v3\" not found",
        cause: "The SCC in the pod's annotation openshift.io/required-scc does not exist or does not admit the pod, or the annotation was changed later.",
        fix: "oc get scc lists them (restricted-v3 and nested-container are new in OpenShift 4.20). Set the annotation in the pod template, and recreate the pod.",
    }
    SccNone = "scc-none-admits" {
        says: [
            "unable to validate against any security context constraint",
            "is forbidden: no providers available to validate pod request",
        ],
        sample: "pods \"p\" is forbidden: unable to validate against any security context constraint: []",
        cause: "None of the SCCs that the pod's service account may use admits the pod. The message lists the reasons for each SCC.",
        fix: "restricted-v3 and nested-container require hostUsers: false. With hostUsers: false, annotate the pod with openshift.io/required-scc: restricted-v3; for root inside the pod, bind nested-container. oc adm policy who-can use scc NAME shows the users of an SCC.",
        page: "recipes/README.md",
    }
    McoContent = "mco-content" {
        says: ["content mismatch for file \""],
        sample: "content mismatch for file \"/etc/crio/crio.conf.d/99-usernsd.conf\"",
        cause: "A file from a MachineConfig was changed on the node. The node is Degraded and is not updated.",
        fix: "Restore the content, or touch /run/machine-config-daemon-force, which restarts the node. usernsd bootstrap never writes such a file.",
        page: "prepare-openshift.md",
    }
    McoMode = "mco-mode" {
        says: ["mode mismatch for file: \""],
        sample: "mode mismatch for file: \"/etc/subuid\"; expected: -rw-r--r--/420/0644; received: -rw-------/384/0600",
        cause: "The mode of a file from a MachineConfig was changed on the node. The node is Degraded and is not updated.",
        fix: "Restore the expected mode with chmod.",
        page: "prepare-openshift.md",
    }
    McoInvalidMode = "mco-invalid-mode" {
        says: ["invalid mode …cannot exceed 0777"],
        sample: "invalid mode 04755 for /usr/local/bin/x, cannot exceed 0777",
        cause: "A MachineConfig contains a file with setuid, setgid or the sticky bit; the Machine Config Operator rejects that.",
        fix: "Write the mode as a decimal number of at most 511 (0777).",
    }
    RenderedMissing = "rendered-config-missing" {
        says: ["machineconfig.machineconfiguration.openshift.io \"rendered-…\" not found"],
        sample: "Node ip-10-0-1-1 is reporting: \"machineconfig.machineconfiguration.openshift.io \\\"rendered-master-0b1\\\" not found\"",
        cause: "A node's annotation machineconfiguration.openshift.io/currentConfig or desiredConfig names a rendered MachineConfig that does not exist: it was deleted, or, right after installation, the operator renders another configuration than the bootstrap node did, because a manifest (a MachineConfig, a KubeletConfig) was added meanwhile.",
        fix: "oc get machineconfig shows which rendered ones exist. On a new cluster put MachineConfigs into the installation's manifests. Otherwise set both annotations of the node and /etc/machine-config-daemon/currentconfig to an existing one of the pool, as Red Hat's knowledge base describes.",
        page: "prepare-openshift.md",
    }
}
