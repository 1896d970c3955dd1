{{- define "larkside.fullname" -}}
{{- if contains "larkside" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-larkside" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "larkside.labels" -}}
app.kubernetes.io/part-of: larkside
app.kubernetes.io/name: larkside
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{- define "larkside.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* The names under which the Service is called. */ -}}
{{- define "larkside.hosts" -}}
{{- $name := include "larkside.fullname" . -}}
{{- $namespace := .Release.Namespace -}}
{{- $hosts := list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.%s" $name $namespace .Values.clusterDomain) -}}
{{- join "," (concat $hosts .Values.extraHosts) -}}
{{- end -}}

{{- define "larkside.eventsByHTTP" -}}
{{- if eq .Values.events "http" -}}
{{- if not .Values.consent.enabled -}}
{{- fail "events=http needs consent.enabled=true: Lark sends them to the consent listener" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}
