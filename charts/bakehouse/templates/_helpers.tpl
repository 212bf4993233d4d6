{{- define "bakehouse.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "bakehouse.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bakehouse.selector" -}}
app.kubernetes.io/name: {{ include "bakehouse.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "bakehouse.labels" -}}
{{ include "bakehouse.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: bakehouse
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "bakehouse.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "bakehouse.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* An image by registry, repository, and digest or tag. Takes (dict "image" … "root" .). */ -}}
{{- define "bakehouse.image" -}}
{{- $name := .image.repository -}}
{{- with .image.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $name .image.digest }}
{{- else -}}
{{ printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) }}
{{- end -}}
{{- end }}

{{- /*
What the operator asks of the API server in the namespaces it serves; checked against its code by scripts/packaging.sh.
Secrets and ConfigMaps are not among it: only the kubelet reads them.
*/ -}}
{{- define "bakehouse.rules" -}}
# The cache; `get` before a Job is started, so that a lagging cache starts nothing twice; `patch` for the finalizer; `delete` when its time to live is over.
- apiGroups: [bakehouse.dev]
  resources: [bakejobs]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [bakehouse.dev]
  resources: [bakejobs/status]
  verbs: [patch]
# Owner references with blockOwnerDeletion ask for it where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [bakehouse.dev]
  resources: [bakejobs/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Progress is read from the worker's log.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# `patch`: a repeated event is counted, not written again.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if .Values.kueue.enabled }}
# That of a Job is found by a label. Nothing of Kueue is watched.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
{{- end }}
{{- end }}
