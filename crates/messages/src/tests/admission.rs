//! Messages with which a pod is not admitted.

use super::are;
use crate::*;

#[test]
fn refusals_of_the_api_server_are_known() {
    are(&[
        (
            r#"Pod "p" is invalid: spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`"#,
            "api-proc-mount",
        ),
        (r#"Pod "p" is invalid: spec.HostPID: Forbidden: when `hostUsers` is false"#, "api-host-namespaces"),
        (
            r#"Pod "p" is invalid: spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false"#,
            "api-host-namespaces",
        ),
        (
            r#"Pod "p" is invalid: spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false"#,
            "api-volume-devices",
        ),
        (
            r#"Error from server (BadRequest): error when creating "pod.yaml": strict decoding error: unknown field "spec.template.spec.hostUsers""#,
            "api-unknown-field",
        ),
        (r#"Warning: unknown field "spec.containers[0].securityContext.hostUsers""#, "api-misplaced-field"),
        (
            r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
            "pod-security-proc-mount",
        ),
        (
            r#"Warning: would violate PodSecurity "restricted:v1.34": runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true)"#,
            "pod-security-run-as",
        ),
        (
            r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities (container "c" must not include "SYS_ADMIN" in securityContext.capabilities.add)"#,
            "pod-security-capabilities",
        ),
        // The level restricted requires of every container that it adds no capability.
        (
            r#"pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true)"#,
            "pod-security-run-as",
        ),
        (
            r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": hostPath volumes (volume "v")"#,
            "pod-security",
        ),
    ]);
}

#[test]
fn refusals_of_openshift_are_known() {
    are(&[
        (
            r#"pods "p" is forbidden: unable to validate against any security context constraint: [provider "anyuid": Forbidden: not usable by user or serviceaccount, provider restricted-v2: .containers[0].runAsUser: Invalid value: 999: must be in the ranges: [1000680000, 1000689999]]"#,
            "scc-user-range",
        ),
        (
            r#"pods "p" is forbidden: unable to validate against any security context constraint: [provider restricted-v2: .spec.securityContext.fsGroup: Invalid value: []int64{999}: 999 is not an allowed group]"#,
            "scc-group",
        ),
        (r#"provider "nested-container": Forbidden: not usable by user or serviceaccount"#, "scc-not-usable"),
        (r#"provider "privileged": Forbidden: not usable by user or serviceaccount"#, "scc-none-usable"),
        (
            "provider restricted-v3: .spec.hostUsers: Invalid value: null: Host Users must be set to false",
            "scc-host-users",
        ),
        (
            "unable to validate against any security context constraint: [provider nested-container: .containers[0].capabilities.add: Invalid value: \"SYS_ADMIN\": capability may not be added]",
            "scc-capability",
        ),
        ("unable to find annotation openshift.io/sa.scc.uid-range", "scc-no-range"),
        ("unable to find supplemental group or uid annotation for namespace x", "scc-no-range"),
        ("required scc/restricted-v3 does not match the suggested scc/restricted-v2", "scc-required"),
    ]);
    // The range of users alone leaves fsGroup where it was.
    for message in
        Program::Openshift.messages().iter().filter(|message| message.fix.contains("sa.scc.uid-range"))
    {
        assert!(message.fix.contains("openshift.io/sa.scc.supplemental-groups"), "{}", message.id);
    }
}

#[test]
fn further_refusals_are_known() {
    are(&[
        // nebius/soperator#1446
        (
            r#"create Pod worker-0 in StatefulSet worker failed error: Pod "worker-0" is invalid: spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`"#,
            "api-proc-mount",
        ),
        // Several containers.
        (
            r#"Error creating: pods "x-" is forbidden: violates PodSecurity "baseline:v1.34": procMount (containers "a", "b" must not set securityContext.procMount to "Unmasked")"#,
            "pod-security-proc-mount",
        ),
        (
            r#"would violate PodSecurity "restricted:latest": unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"]; container "a" must not include "SETUID" in securityContext.capabilities.add)"#,
            "pod-security-capabilities",
        ),
        // kubestellar/kubeflex#234
        (
            r#"Error creating: pods "kube-apiserver-5b4d95448b-" is forbidden: unable to validate against any security context constraint: [provider "anyuid": Forbidden: not usable by user or serviceaccount, provider "pipelines-scc": Forbidden: not usable by user or serviceaccount, provider restricted-v2: .containers[0].runAsUser: Invalid value: 65534: must be in the ranges: [1000990000, 1000999999]"#,
            "scc-user-range",
        ),
        (
            r#"pods "p" is forbidden: unable to validate against any security context constraint: [provider "anyuid": Forbidden: not usable by user or serviceaccount, spec.volumes[0]: Invalid value: "hostPath": hostPath volumes are not allowed to be used, provider restricted-v2: .containers[0].hostPort: Invalid value: 80: Host ports are not allowed to be used]"#,
            "scc-privileged",
        ),
    ]);
}
