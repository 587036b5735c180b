//! The API server: `pkg/apis/core/validation` and `pod-security-admission` of Kubernetes.

messages! { Kubernetes;
    ProcMount = "api-proc-mount" {
        says: ["`hostUsers` must be false to use `Unmasked`"],
        sample: "Pod \"p\" is invalid: spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        cause: "procMount: Unmasked exposes all of /proc to the container, which is safe only in a user namespace. The API server therefore requires hostUsers: false with it.",
        fix: "Set hostUsers: false in the pod's spec, next to containers.",
        page: "recipes/container-engine.md",
    }
    HostNamespaces = "api-host-namespaces" {
        says: ["Forbidden: when `hostUsers` is false", "Forbidden: when `pod.Spec.HostUsers` is false"],
        sample: "Pod \"p\" is invalid: spec.HostPID: Forbidden: when `hostUsers` is false",
        cause: "A pod with hostUsers: false cannot have the host's process or IPC namespace, nor, without the feature gate UserNamespacesHostNetworkSupport (alpha in Kubernetes 1.35), the host's network.",
        fix: "Omit hostPID, hostIPC and hostNetwork; a pod that needs one of them cannot use a user namespace.",
    }
    VolumeDevices = "api-volume-devices" {
        says: ["volumeDevices: Forbidden: when `hostUsers` is false"],
        sample: "Pod \"p\" is invalid: spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false",
        cause: "Raw block devices are not supported in a user namespace: the device's owner is not mapped.",
        fix: "Use the volume with a file system (volumeMode: Filesystem and volumeMounts), or omit hostUsers: false.",
    }
    Windows = "api-windows" {
        says: ["hostUsers: Forbidden: cannot be set for a windows pod"],
        sample: "Pod \"p\" is invalid: spec.hostUsers: Forbidden: cannot be set for a windows pod",
        cause: "Windows has no user namespaces.",
        fix: "Omit hostUsers in pods whose os.name is windows.",
    }
    UnknownField = "api-unknown-field" {
        says: ["unknown field \"hostUsers\"", "unknown field \"…spec.hostUsers\""],
        sample: "error: error validating \"pod.yaml\": error validating data: ValidationError(Pod.spec): unknown field \"hostUsers\" in io.k8s.api.core.v1.PodSpec",
        cause: "The API server, or kubectl, is older than Kubernetes 1.25 and does not know the field. From 1.25 to 1.32, an API server with the feature gate UserNamespacesSupport disabled drops the field silently, and the pod runs in the host's user namespace.",
        fix: "Update to Kubernetes 1.33 or later, or enable UserNamespacesSupport in 1.30 to 1.32. kubectl get pod NAME -o jsonpath='{.spec.hostUsers}' shows whether the field was kept.",
    }
    MisplacedField = "api-misplaced-field" {
        says: ["unknown field \"…securityContext.hostUsers\""],
        sample: "Warning: unknown field \"spec.securityContext.hostUsers\"",
        cause: "hostUsers is a field of the pod's spec, not of a securityContext. The API server drops it or rejects the pod.",
        fix: "Set it next to containers: spec.hostUsers: false (spec.template.spec.hostUsers in a Deployment).",
    }
    NoEscalation = "api-no-escalation" {
        says: ["cannot set `allowPrivilegeEscalation` to false and `"],
        sample: "spec.containers[0].securityContext: Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        cause: "allowPrivilegeEscalation: false contradicts a privileged container or the capability SYS_ADMIN, also with hostUsers: false.",
        fix: "Omit allowPrivilegeEscalation, or privileged and SYS_ADMIN.",
    }
    PsaProcMount = "pod-security-proc-mount" {
        says: ["violates PodSecurity \"…procMount (", "would violate PodSecurity \"…procMount ("],
        sample: "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        cause: "The namespace's Pod Security level does not admit procMount: Unmasked. baseline admits it for pods with hostUsers: false, from policy version v1.35 on; restricted never does.",
        fix: "Set hostUsers: false. Before Kubernetes 1.35, or if the label pod-security.kubernetes.io/enforce-version names an older version, label the namespace pod-security.kubernetes.io/enforce: privileged.",
        page: "recipes/README.md",
    }
    PsaCapabilities = "pod-security-capabilities" {
        says: [
            "violates PodSecurity \"…non-default capabilities (",
            "violates PodSecurity \"…unrestricted capabilities (…must not include",
            "would violate PodSecurity \"…non-default capabilities (",
            "would violate PodSecurity \"…unrestricted capabilities (…must not include",
        ],
        sample: "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
        cause: "The namespace's Pod Security level does not admit the capabilities that the pod adds. hostUsers: false relaxes only procMount and the rules on runAsUser and runAsNonRoot, not those on capabilities.",
        fix: "Label the namespace pod-security.kubernetes.io/enforce: privileged. Or remove these capabilities: by default containers have CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID and others, which baseline admits.",
        page: "recipes/README.md",
    }
    PsaRunAs = "pod-security-run-as" {
        says: [
            "violates PodSecurity \"…runAsNonRoot != true (",
            "violates PodSecurity \"…runAsUser=0 (",
            "would violate PodSecurity \"…runAsNonRoot != true (",
            "would violate PodSecurity \"…runAsUser=0 (",
        ],
        sample: "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
        cause: "The level restricted admits root only in pods with hostUsers: false, and only from Kubernetes 1.35 on.",
        fix: "Set hostUsers: false (before 1.35 this also needs the feature gate UserNamespacesPodSecurityStandards), or run as another user. Other violations in the message are not relaxed.",
    }
    PsaOther = "pod-security" {
        says: ["violates PodSecurity \"", "would violate PodSecurity \""],
        sample: "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)",
        cause: "The namespace's Pod Security level does not admit the settings that the message lists in parentheses. hostUsers: false relaxes only procMount and the rules on runAsUser and runAsNonRoot.",
        fix: "Remove them from the pod, or label the namespace with a level that admits them: pod-security.kubernetes.io/enforce: privileged admits everything.",
        page: "recipes/README.md",
    }
    Psp = "pod-security-policy" {
        says: [
            "PodSecurityPolicy: unable to admit pod",
            "unable to validate against any pod security policy",
            "PodSecurityPolicy: unable to admit pod: …Allowing privilege escalation for containers is not allowed",
            "unable to validate against any pod security policy: …Allowing privilege escalation for containers is not allowed",
        ],
        sample: "pods \"p\" is forbidden: PodSecurityPolicy: unable to admit pod: [spec.containers[0].securityContext.privileged: Invalid value: true: Privileged containers are not allowed]",
        cause: "No PodSecurityPolicy that the pod's service account may use admits the pod. Kubernetes 1.25 has removed these policies, so this cluster is too old for user namespaces of pods.",
        fix: "Use Kubernetes 1.33 or later with the labels of Pod Security. Until then bind a policy that admits the pod to its service account.",
    }
    RuntimeClass = "api-runtime-class" {
        says: ["pod rejected: RuntimeClass \"…\" not found", "RuntimeClass.node.k8s.io \"…\" not found"],
        sample: "pods \"ubuntu\" is forbidden: pod rejected: RuntimeClass \"sysbox-runc\" not found",
        cause: "The pod names a RuntimeClass that does not exist in the cluster. A handler in the runtime's configuration is not enough: the pod needs the object, which names the handler.",
        fix: "Create it: apiVersion node.k8s.io/v1, kind RuntimeClass, metadata.name as in the pod, and handler as in the runtime's configuration. kubectl get runtimeclass lists those that exist.",
    }
}
