{{- define "partymq.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "partymq.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "partymq.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "partymq.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The name of a Service, which may have 63 characters like the full name alone. */}}
{{- define "partymq.serviceName" -}}
{{- printf "%s-%s" (include "partymq.fullname" (index . 0) | trunc 54 | trimSuffix "-") (index . 1) }}
{{- end }}

{{- define "partymq.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "partymq.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "partymq.selectorLabels" -}}
app.kubernetes.io/name: {{ include "partymq.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "partymq.labels" -}}
{{ include "partymq.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: partymq
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What the operator may do in the namespaces that it serves. */}}
{{- define "partymq.rules" -}}
- apiGroups: [partymq.io]
  resources: [partitiongroups]
  # patch: the finalizer, nothing else is written there
  verbs: [get, list, watch, patch]
- apiGroups: [partymq.io]
  resources: [partitiongroups/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [secrets]
  # those that PartitionGroups name, and tokens of namespaces; they are never listed
  verbs: [get]
  {{- if .Values.rbac.secretNames }}
  {{- $token := ternary .Values.clientsApi.token.namespaceSecretName "" .Values.clientsApi.enabled }}
  resourceNames: {{ concat .Values.rbac.secretNames (list $token | compact) | uniq | toJson }}
  {{- end }}
- apiGroups: [""]
  resources: [events]
  verbs: [create, get, patch]
- apiGroups: [""]
  resources: [namespaces]
  # whether a group's namespace is being deleted
  verbs: [get]
{{- end }}

{{/* A probe of a path; an operator on the host's network may listen on one address only. */}}
{{- define "partymq.probe" -}}
{{- $values := (index . 0).Values -}}
httpGet:
  path: {{ index . 1 }}
  port: {{ $values.http.port }}
  {{- if and $values.hostNetwork (ne $values.http.host "0.0.0.0") }}
  host: {{ $values.http.host | quote }}
  {{- end }}
{{- end }}

{{/* The PartitionGroup kind. */}}
{{- define "partymq.kind" -}}
{{ .Files.Get "files/crds/partymq.io_partitiongroups.yaml" }}
{{- end }}

{{/*
Who has installed the kind that the cluster has, in words; empty where there is none, or it is this release's. Nobody is asked
where nothing is installed (`helm template`).
*/}}
{{- define "partymq.kindOwner" -}}
{{- with lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "partitiongroups.partymq.io" }}
{{- $annotations := .metadata.annotations | default dict }}
{{- $release := get $annotations "meta.helm.sh/release-name" }}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" }}
{{- if not $release }}somebody without Helm
{{- else if or (ne $release $.Release.Name) (ne $namespace $.Release.Namespace) }}the release {{ $release }} of the namespace {{ $namespace }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether that kind is another version's than this chart's: the end of a sentence. */}}
{{- define "partymq.kindDiffers" -}}
{{- with lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "partitiongroups.partymq.io" }}
{{- $ours := include "partymq.kind" $ | fromYaml }}
{{- if ne (toJson .spec.versions) (toJson $ours.spec.versions) }}.
It is another version than this chart's. Ask them to upgrade it, or do so: kubectl apply --server-side --force-conflicts -f crds/
{{- end }}
{{- end }}
{{- end }}
