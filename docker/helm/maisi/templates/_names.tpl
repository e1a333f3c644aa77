{{/* Name of the objects. Without an override it is the name of the release. */}}
{{- define "maisi.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if or (not .Values.nameOverride) (contains .Values.nameOverride .Release.Name) -}}
{{ .Release.Name }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "maisi.name" -}}
{{ .Values.nameOverride | default "maisi" }}
{{- end }}

{{- define "maisi.serviceAccount" -}}
{{- $own := ternary (include "maisi.fullname" .) "default" .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default $own }}
{{- end }}

{{/* The selector of the pods. A Deployment's selector cannot be changed, so no version of the chart may add to it. */}}
{{- define "maisi.selector" -}}
app.kubernetes.io/name: {{ include "maisi.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of an object, of (list . COMPONENT). */}}
{{- define "maisi.labels" -}}
{{- with first . -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "maisi.selector" . }}
{{- end }}
app.kubernetes.io/component: {{ last . }}
app.kubernetes.io/part-of: maisi
{{- end }}

{{/* Labels of the server's pods, without versions, so that a new version of the chart restarts no pod. */}}
{{- define "maisi.podLabels" -}}
{{ include "maisi.selector" . }}
app.kubernetes.io/component: server
app.kubernetes.io/part-of: maisi
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of the dataset's pods. The Service must not select them, and a Job's template cannot be changed. */}}
{{- define "maisi.datasetPodLabels" -}}
app.kubernetes.io/name: {{ include "maisi.name" . }}-dataset
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
