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
  # those that PartitionGroups name; they are never listed
  verbs: [get]
  {{- with .Values.rbac.secretNames }}
  resourceNames: {{ toJson . }}
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
