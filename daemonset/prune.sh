#!/bin/sh
# prune.sh DIRECTORY|FILE [ARGUMENT…]: applies an overlay again, which is a directory of the source or a file of a release,
# and deletes the objects that another overlay, a component or an earlier configuration has left behind. ARGUMENTs go to
# kubectl: "--dry-run=server" shows what would be deleted.
# Run it once the pods of the new overlay run: a pod of the old one may still need its ConfigMap.
set -eu
overlay=${1:?usage: prune.sh DIRECTORY|FILE [ARGUMENT…]}
shift
if [ -d "$overlay" ]; then as=-k; else as=-f; fi

# Every kind that an overlay or a component has, but Namespace. kubectl looks only for objects of kinds that are
# named to it, and refuses those that the API server does not know.
kinds='
admissionregistration.k8s.io/v1/MutatingAdmissionPolicy
admissionregistration.k8s.io/v1/MutatingAdmissionPolicyBinding
admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy
admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding
apps/v1/DaemonSet
core/v1/ConfigMap
core/v1/Secret
core/v1/Service
core/v1/ServiceAccount
monitoring.coreos.com/v1/PodMonitor
monitoring.coreos.com/v1/PrometheusRule
networking.k8s.io/v1/NetworkPolicy
rbac.authorization.k8s.io/v1/ClusterRole
rbac.authorization.k8s.io/v1/ClusterRoleBinding
rbac.authorization.k8s.io/v1/Role
rbac.authorization.k8s.io/v1/RoleBinding
security.openshift.io/v1/SecurityContextConstraints
'
# NAME [SHORTNAMES] APIVERSION NAMESPACED KIND; the core group's version has no group.
known=$(kubectl api-resources --no-headers | awk '{ version = $(NF - 2); print (version ~ /\// ? version : "core/" version) "/" $NF }')
for kind in $kinds; do
    if printf '%s\n' "$known" | grep -qxF "$kind"; then
        set -- "$@" "--prune-allowlist=$kind"
    fi
done
exec kubectl apply "$as" "$overlay" --prune -l app.kubernetes.io/part-of=usernsd "$@"
