{{- /* What our services are; the rest of the templates loops over it. `values` is the key in values.yaml. */ -}}
{{- define "icestream.components" -}}
router: { values: router, module: services.router, variables: ICESTREAM_ROUTER_, grpcPort: 50051, asksTriton: true, compiles: true }
scanner: { values: scanner, module: services.scanner.coordinator, variables: ICESTREAM_SCANNER_, grpcPort: 50052, isSingle: true, compiles: true }
scan-worker: { values: scanWorker, module: services.scanner.worker, variables: ICESTREAM_SCAN_WORKER_, asksTriton: true, compiles: true }
recorder: { values: recorder, module: services.recorder, variables: ICESTREAM_RECORDER_, grpcPort: 50053, hasDatabase: true }
nats-exporter: { values: natsExporter, module: services.nats_exporter, variables: ICESTREAM_NATS_EXPORTER_, watchesNats: true }
emitter: { values: emitter, module: services.emitter, variables: ICESTREAM_EMITTER_, isSingle: true, compiles: true }
{{- end -}}

{{- /* Those that are switched on. */ -}}
{{- define "icestream.enabled" -}}
{{- range $name, $facts := fromYaml (include "icestream.components" .) }}
{{- if (index $.Values $facts.values).enabled }}
{{ $name }}: {{ toJson $facts }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "icestream.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- /* Of a dict with `root` and `component`. */ -}}
{{- define "icestream.selector" -}}
app.kubernetes.io/name: icestream
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "icestream.labels" -}}
{{ include "icestream.selector" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "icestream.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "icestream.tritonUrl" -}}
{{- if .Values.triton.enabled -}}
{{ include "icestream.fullname" . }}-triton:8001
{{- else -}}
{{ .Values.triton.url }}
{{- end -}}
{{- end -}}

{{- /* A number of a values file is a float to Helm, which would write 8388608 as 8.388608e+06. */ -}}
{{- define "icestream.scalar" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{- /* What a stream is called: icestream.runtime.jetstream.topology.Names.stream. Of a dict with `root` and `stream`. */ -}}
{{- define "icestream.stream" -}}
{{- if eq .root.Values.prefix "icestream" }}{{ .stream }}{{ else }}{{ .root.Values.prefix }}_{{ .stream }}{{ end -}}
{{- end -}}

{{- /* How to reach NATS, and where what proves who we are is mounted. Of a dict with `root` and `facts`. */ -}}
{{- define "icestream.natsVariables" -}}
{{- $nats := .root.Values.nats }}
{{- $prefix := .facts.variables }}
{{ $prefix }}NATS_URL: {{ $nats.url | quote }}
{{- if $nats.existingSecret }}
{{ $prefix }}NATS_SEED: /etc/icestream/nats/seed
{{- end }}
{{- if $nats.existingCaSecret }}
{{ $prefix }}NATS_CA: /etc/icestream/nats/ca.crt
{{- end }}
{{- end -}}

{{- /* Variables without a secret. Of a dict with `root` and `facts`. */ -}}
{{- define "icestream.variables" -}}
{{- $values := .root.Values }}
{{- $prefix := .facts.variables }}
{{ $prefix }}PREFIX: {{ $values.prefix | quote }}
{{ $prefix }}LOG_LEVEL: {{ $values.logLevel | quote }}
{{- include "icestream.natsVariables" . }}
{{- if .facts.grpcPort }}
{{- if $values.grpc.existingTlsSecret }}
{{ $prefix }}GRPC_TLS_CERTIFICATE: /etc/icestream/grpc/tls.crt
{{ $prefix }}GRPC_TLS_KEY: /etc/icestream/grpc/tls.key
{{- end }}
{{- if $values.grpc.existingTokensSecret }}
{{ $prefix }}GRPC_TOKENS: /etc/icestream/tokens/tokens
{{- end }}
{{- end }}
{{- if .facts.asksTriton }}
{{ $prefix }}TRITON_URL: {{ include "icestream.tritonUrl" .root | quote }}
{{- end }}
{{- with $values.otlpEndpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
{{- end }}
{{- range $name, $value := (index $values .facts.values).settings }}
{{ $prefix }}{{ upper $name }}: {{ include "icestream.scalar" $value | quote }}
{{- end }}
{{- end -}}

{{- /* Variables with a secret, by reference. Of a dict with `root`, `component` and `facts`. */ -}}
{{- define "icestream.secretVariables" -}}
{{- $values := .root.Values }}
{{- if .facts.hasDatabase }}
- name: {{ .facts.variables }}DATABASE_URL
  valueFrom: { secretKeyRef: { name: {{ $values.database.existingSecret }}, key: url } }
- name: PGPASSWORD
  valueFrom: { secretKeyRef: { name: {{ $values.database.existingSecret }}, key: password } }
{{- if $values.database.existingCaSecret }}
- name: PGSSLROOTCERT
  value: /etc/icestream/database/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "icestream.mounts" -}}
- { name: tmp, mountPath: /tmp }
{{- if .facts.compiles }}
- { name: kernels, mountPath: /var/cache/icestream }
{{- end }}
{{- if or .root.Values.nats.existingSecret .root.Values.nats.existingCaSecret }}
- { name: nats, mountPath: /etc/icestream/nats, readOnly: true }
{{- end }}
{{- if .facts.grpcPort }}
{{- if .root.Values.grpc.existingTlsSecret }}
- { name: grpc, mountPath: /etc/icestream/grpc, readOnly: true }
{{- end }}
{{- if .root.Values.grpc.existingTokensSecret }}
- { name: tokens, mountPath: /etc/icestream/tokens, readOnly: true }
{{- end }}
{{- end }}
{{- if and .facts.hasDatabase .root.Values.database.existingCaSecret }}
- { name: database-ca, mountPath: /etc/icestream/database, readOnly: true }
{{- end }}
{{- end -}}

{{- define "icestream.volumes" -}}
- name: tmp
  emptyDir: { sizeLimit: 64Mi }
{{- if .facts.compiles }}
# Compiled kernels; a new pod compiles for some seconds (router) or a minute or two before its first work.
- name: kernels
  emptyDir: { sizeLimit: 256Mi }
{{- end }}
{{- $nats := .root.Values.nats }}
{{- if or $nats.existingSecret $nats.existingCaSecret }}
- name: nats
  projected:
    sources:
      {{- with $nats.existingSecret }}
      - secret: { name: {{ . }}, items: [{ key: {{ $.component }}, path: seed }] }
      {{- end }}
      {{- with $nats.existingCaSecret }}
      - secret: { name: {{ . }}, items: [{ key: ca.crt, path: ca.crt }] }
      {{- end }}
{{- end }}
{{- if .facts.grpcPort }}
{{- with .root.Values.grpc.existingTlsSecret }}
- name: grpc
  secret: { secretName: {{ . }}, items: [{ key: tls.crt, path: tls.crt }, { key: tls.key, path: tls.key }] }
{{- end }}
{{- with .root.Values.grpc.existingTokensSecret }}
- name: tokens
  secret: { secretName: {{ . }}, items: [{ key: tokens, path: tokens }] }
{{- end }}
{{- end }}
{{- if .facts.hasDatabase }}
{{- with .root.Values.database.existingCaSecret }}
- name: database-ca
  secret: { secretName: {{ . }}, items: [{ key: ca.crt, path: ca.crt }] }
{{- end }}
{{- end }}
{{- end -}}

{{- /* Of a pod; a dict with `user`. */ -}}
{{- define "icestream.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
fsGroup: {{ .user }}
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "icestream.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- /* Of a dict with `root` and `component`. */ -}}
{{- define "icestream.spread" -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  # One machine that is full must not keep a pod from another one.
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "icestream.selector" $ | nindent 6 }}
{{- end }}
{{- end -}}
