{{/* Objects have fixed names, as there is one agent a node: dashboards, alerts and "kubectl userns" use them. */}}
{{- define "usernsd.labels" -}}
app.kubernetes.io/name: usernsd
app.kubernetes.io/part-of: usernsd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Combinations of values that have no meaning. The schema checks each value. */}}
{{- define "usernsd.check" -}}
{{- if and (eq .Values.topology "combined") (include "usernsd.onOpenShift" .) }}
{{- fail "topology combined serves without TLS, and is not for OpenShift: use topology sidecar" }}
{{- end }}
{{- if and .Values.bootstrap.undo (include "usernsd.onOpenShift" .) }}
{{- fail "bootstrap.undo: on OpenShift a MachineConfig prepares the nodes, and bootstrap wrote nothing; delete the MachineConfig (docs/prepare-openshift.md)" }}
{{- end }}
{{- if and .Values.bootstrap.undo (eq .Values.mode "observe") }}
{{- fail "bootstrap.undo writes on nodes, which mode observe does not allow: use mode enforce" }}
{{- end }}
{{- if and (or .Values.nodeCondition .Values.authorization) (eq .Values.topology "combined") }}
{{- fail "nodeCondition and authorization need the exporter, which topology combined does not have" }}
{{- end }}
{{- if and .Values.tls.secretName (eq .Values.topology "combined") }}
{{- fail "tls.secretName is for the exporter, which topology combined does not have: use topology sidecar" }}
{{- end }}
{{- if and .Values.authorization (not (include "usernsd.hasTls" .)) }}
{{- fail "authorization needs TLS, without which readers' tokens could be read on the way: set tls.secretName to a Secret with tls.crt and tls.key" }}
{{- end }}
{{- $http := default dict .Values.config.http }}
{{- if or $http.tlsCertificateFile $http.tlsKeyFile }}
{{- fail "config.http.tlsCertificateFile and config.http.tlsKeyFile: set tls.secretName instead, which mounts the pair and lets probes and Prometheus use TLS" }}
{{- end }}
{{- if eq (default "none" $http.authorization) "kubernetes" }}
{{- fail "config.http.authorization: set authorization=true instead, which also grants the exporter the rights to ask the API server" }}
{{- end }}
{{- if not (include "usernsd.port" .) }}
{{- fail (printf "%s: probes and Prometheus reach the pod by its own address; name 0.0.0.0 or [::], and a port other than 0" (include "usernsd.address" .)) }}
{{- end }}
{{- if and .Values.prometheusOperator.enabled .Values.prometheusOperator.check (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}
{{- fail "prometheusOperator.enabled: the cluster has no kinds PodMonitor and PrometheusRule (monitoring.coreos.com/v1); install the Prometheus operator, or set prometheusOperator.enabled=false; for \"helm template\", which asks no cluster, set prometheusOperator.check=false" }}
{{- end }}
{{- end }}

{{- define "usernsd.onOpenShift" -}}
{{- if has .Values.platform (list "openshift" "microshift") }}true{{ end }}
{{- end }}

{{/* Nothing is written on the nodes, or nothing any more. */}}
{{- define "usernsd.onlyObserves" -}}
{{- if or (eq .Values.mode "observe") .Values.bootstrap.undo }}true{{ end }}
{{- end }}

{{- define "usernsd.hasBootstrap" -}}
{{- if and (eq .Values.mode "enforce") (not (include "usernsd.onOpenShift" .)) }}true{{ end }}
{{- end }}

{{- define "usernsd.hasTls" -}}
{{- include "usernsd.tlsSecret" . }}
{{- end }}

{{/* The Secret with the pair that the exporter serves with. The service CA of OpenShift makes usernsd-tls. */}}
{{- define "usernsd.tlsSecret" -}}
{{- if .Values.tls.secretName }}{{ .Values.tls.secretName }}
{{- else if eq .Values.platform "openshift" }}usernsd-tls{{ end }}
{{- end }}

{{/* Where metrics are served, and the port of it; no port if nothing outside of the pod could reach it. */}}
{{- define "usernsd.address" -}}
{{- $config := include "usernsd.config" . | fromYaml }}
{{- if eq .Values.topology "combined" }}
{{- default "0.0.0.0:9564" (default dict $config.http).address }}
{{- else }}
{{- $config.exporter.address }}
{{- end }}
{{- end }}

{{- define "usernsd.port" -}}
{{- $address := include "usernsd.address" . }}
{{- if not (regexMatch "^(127\\.|\\[::1\\]|localhost)" $address) }}
{{- regexFind ":[1-9][0-9]*$" $address | trimPrefix ":" }}
{{- end }}
{{- end }}

{{- define "usernsd.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "usernsd.config" -}}
{{- $config := dict
  "host" (dict "root" "/host")
  "systemd" (dict "busSocket" "/host/run/dbus/system_bus_socket")
  "stateSocket" (dict "allowUids" (list 60950))
  "exporter" (dict "address" "0.0.0.0:9564")
  "log" (dict "format" "json")
}}
{{- if include "usernsd.onlyObserves" . }}
{{- $_ := mergeOverwrite $config (dict
  "bootstrap" (dict "enabled" false)
  "delegation" (dict "mechanism" "none")
  "guard" (dict "policy" "report")
  "nri" (dict "enabled" false)
) }}
{{- else }}
{{- $_ := set $config "nri" (dict "socketPaths" (list "/host/run/nri/nri.sock")) }}
{{- end }}
{{- if include "usernsd.onOpenShift" . }}
{{- $_ := mergeOverwrite $config (dict "bootstrap" (dict "enabled" false) "kubernetes" (dict "namespaces" true)) }}
{{- end }}
{{- if include "usernsd.hasTls" . }}
{{- $_ := set $config "http" (dict
  "tlsCertificateFile" "/etc/usernsd-tls/tls.crt"
  "tlsKeyFile" "/etc/usernsd-tls/tls.key"
) }}
{{- end }}
{{- if .Values.nodeCondition }}
{{- $_ := mergeOverwrite $config (dict "kubernetes" (dict "nodeCondition" "on")) }}
{{- end }}
{{- if .Values.authorization }}
{{- $_ := mergeOverwrite $config (dict "http" (dict "authorization" "kubernetes")) }}
{{- end }}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) }}
{{- end }}

{{/*
The directories of a node that differ between distributions: kubelet is its root directory; directories are those of the
runtime, each with name, path and type of the volume; bootstrap and agent have the mode in which each mounts it (rw,
ro, or none), runtime is set where containers' file systems are mounted below. A test compares the results with
daemonset/overlays, where the reasons are.
*/}}
{{- define "usernsd.node" -}}
{{- if eq .Values.platform "k3s" }}
kubelet: /var/lib/kubelet
directories:
  - {name: run-k3s, path: /run/k3s, type: Directory, bootstrap: ro, agent: ro, runtime: true}
  - {name: etc-containerd, path: /var/lib/rancher/k3s/agent/etc/containerd, type: Directory, bootstrap: rw, agent: ro}
{{- else if eq .Values.platform "rke2" }}
kubelet: /var/lib/kubelet
directories:
  - {name: run-k3s, path: /run/k3s, type: Directory, bootstrap: ro, agent: ro, runtime: true}
  - {name: etc-containerd, path: /var/lib/rancher/rke2/agent/etc/containerd, type: Directory, bootstrap: rw, agent: ro}
{{- else if eq .Values.platform "k0s" }}
kubelet: /var/lib/k0s/kubelet
directories:
  - {name: run-k0s, path: /run/k0s, type: Directory, bootstrap: ro, agent: ro, runtime: true}
{{- else if eq .Values.platform "microk8s" }}
kubelet: /var/snap/microk8s/common/var/lib/kubelet
directories:
  - {name: run-microk8s, path: /var/snap/microk8s/common/run, type: Directory, bootstrap: ro, agent: ro, runtime: true}
  - {name: args, path: /var/snap/microk8s/current/args, type: Directory, bootstrap: ro, agent: ro}
{{- else if eq .Values.platform "both-runtimes" }}
kubelet: /var/lib/kubelet
directories:
  - {name: run-containerd, path: /run/containerd, type: DirectoryOrCreate, bootstrap: ro, agent: ro, runtime: true}
  - {name: run-crio, path: /run/crio, type: DirectoryOrCreate, bootstrap: ro, agent: ro, runtime: true}
  - {name: run-containers, path: /run/containers, type: DirectoryOrCreate, bootstrap: none, agent: ro, runtime: true}
{{- else if or (eq .Values.platform "crio") (include "usernsd.onOpenShift" .) }}
kubelet: /var/lib/kubelet
directories:
  - {name: run-crio, path: /run/crio, type: Directory, bootstrap: ro, agent: ro, runtime: true}
  - {name: run-containers, path: /run/containers, type: DirectoryOrCreate, bootstrap: none, agent: ro, runtime: true}
{{- else }}
kubelet: /var/lib/kubelet
directories:
  - {name: run-containerd, path: /run/containerd, type: Directory, bootstrap: ro, agent: ro, runtime: true}
{{- end }}
{{- end }}
