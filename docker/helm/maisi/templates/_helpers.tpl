{{- define "maisi.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* Size of /dev/shm in MiB; docs/how-to/operations.md has the formula. */}}
{{- define "maisi.shm" -}}
{{- $working := mul 40 (max 1 (int64 .Values.gpus)) }}
{{- add 512 (div (mul (add $working (int64 .Values.server.maxWaiting)) (int64 .Values.server.maxVoxels)) 1048576) -}}
{{- end }}

{{/* Seconds of a stop: preStop, the drain, the last answers, and the end of tritonserver. */}}
{{- define "maisi.grace" -}}
{{- add 5 (int .Values.server.drainSeconds) 15 20 -}}
{{- end }}

{{- define "maisi.hardened" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The pod without its containers. */}}
{{- define "maisi.pod" -}}
serviceAccountName: {{ include "maisi.serviceAccount" . }}
automountServiceAccountToken: false
terminationGracePeriodSeconds: {{ include "maisi.grace" . }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- $pods := dict "labelSelector" (dict "matchLabels" (include "maisi.selector" . | fromYaml)) }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ ternary . (merge (deepCopy .) $pods) (hasKey . "labelSelector") | toJson }}
  {{- end }}
{{- end }}
{{- include "maisi.init" . }}
{{- end }}

{{/* The nodes for the pods, of .Values or .Values.dataset. */}}
{{- define "maisi.nodes" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The containers of the pod, and the nodes for it. */}}
{{- define "maisi.server" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- include "maisi.nodes" .Values }}
containers:
  - name: {{ ternary "kserve-container" "server" .Values.kserve.enabled }}
    image: {{ include "maisi.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
      - --host=0.0.0.0
      # Without this option, the server uses all visible GPUs, including GPUs that the pod did not reserve.
      - --gpus={{ until (int .Values.gpus) | join "," | default "none" }}
      {{- with .Values.server }}
      - --max-voxels={{ int64 .maxVoxels }}
      - --max-waiting={{ int64 .maxWaiting }}
      {{- with .maxSeconds }}
      - --max-seconds={{ int64 . }}
      {{- end }}
      {{- with .memoryGb }}
      - --memory-gb={{ . }}
      {{- end }}
      {{- if ne .spillGb nil }}
      - --spill-gb={{ .spillGb }}
      {{- end }}
      {{- if .bfloat16 }}
      - --bfloat16
      {{- end }}
      - --start-seconds={{ int64 .startSeconds }}
      - --drain-seconds={{ int64 .drainSeconds }}
      - --stall-seconds={{ int64 .stallSeconds }}
      {{- if .version }}
      - --version={{ int64 .version }}
      {{- end }}
      {{- if .traceEndpoint }}
      - --trace-endpoint={{ .traceEndpoint }}
      {{- end }}
      {{- if .keySecret }}
      - --key-file=/secrets/key/key
      {{- end }}
      {{- if .tls.secret }}
      - --tls-certificate=/secrets/tls/tls.crt
      - --tls-key=/secrets/tls/tls.key
      {{- if .tls.clients }}
      - --tls-clients=/secrets/tls/ca.crt
      {{- end }}
      {{- end }}
      {{- end }}
      {{- if ne .Values.models.source "image" }}
      - --repository=/models/{{ .Values.models.path }}
      {{- end }}
      {{- with .Values.server.variants }}
      - --models
      {{- range . }}
      - {{ . }}
      {{- end }}
      {{- end }}
    {{- with .Values.extraEnv }}
    env: {{ toYaml . | nindent 6 }}
    {{- end }}
    ports:
      - {name: grpc, containerPort: 8001}
      - {name: metrics, containerPort: 8002}
      - {name: status, containerPort: 8003}
    # The server is ready if its latest probe made its volumes and no work hangs.
    startupProbe:
      httpGet: {path: /ready, port: status}
      periodSeconds: 5
      failureThreshold: {{ add 12 (div (int .Values.server.startSeconds) 5) }}
      timeoutSeconds: 70
    readinessProbe:
      httpGet: {path: /ready, port: status}
      periodSeconds: 10
      timeoutSeconds: 70
      failureThreshold: 2
    livenessProbe:
      httpGet: {path: /live, port: status}
      periodSeconds: 30
      timeoutSeconds: 70
    lifecycle:
      preStop: {sleep: {seconds: 5}} # until clients no longer get this address
    resources:
      requests: {{ toYaml .Values.resources.requests | nindent 8 }}
      limits:
        {{- toYaml .Values.resources.limits | nindent 8 }}
        {{- if .Values.gpus }}
        nvidia.com/gpu: {{ .Values.gpus }}
        {{- end }}
    securityContext: {{ include "maisi.hardened" . | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: shm, mountPath: /dev/shm}
      {{- if ne .Values.models.source "image" }}
      - {name: models, mountPath: /models, readOnly: true}
      {{- end }}
      {{- if .Values.server.keySecret }}
      - {name: key, mountPath: /secrets/key, readOnly: true}
      {{- end }}
      {{- if .Values.server.tls.secret }}
      - {name: tls, mountPath: /secrets/tls, readOnly: true}
      {{- end }}
      {{- with .Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes: {{- include "maisi.volumes" . | nindent 2 }}
{{- end }}

{{- define "maisi.volumes" -}}
# There is no sizeLimit, because the kubelet cannot see the decoder's files, which have no names. spillGb limits them.
- {name: tmp, emptyDir: {}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ include "maisi.shm" . }}Mi}
{{- with .Values.models }}
{{- if eq .source "claim" }}
- name: models
  persistentVolumeClaim: {claimName: {{ required "models.claim names the PersistentVolumeClaim" .claim }}, readOnly: true}
{{- else if eq .source "oci" }}
- name: models
  image: {reference: {{ required "models.oci is the reference of an image" .oci }}, pullPolicy: IfNotPresent}
{{- else if eq .source "s3" }}
- {name: models, emptyDir: {}}
{{- else if eq .source "build" }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "maisi.fullname" $ }}-models}
- name: weights
  persistentVolumeClaim: {claimName: {{ required "models.build.weightsClaim has the checkpoints" .build.weightsClaim }}, readOnly: true}
{{- end }}
{{- end }}
{{- with .Values.server.keySecret }}
- name: key
  secret: {secretName: {{ . }}, defaultMode: 288}
{{- end }}
{{- with .Values.server.tls.secret }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 288}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The init container that fetches or builds the models. */}}
{{- define "maisi.init" -}}
{{- with .Values.models }}
{{- if eq .source "s3" }}
initContainers:
  - name: models
    image: {{ .s3.image }}
    args: [copy, ":s3,env_auth,provider=AWS:{{ required "models.s3.url is s3://bucket/folder" .s3.url | trimPrefix "s3://" }}", "/models/{{ .path }}"]
    {{- with .s3.secret }}
    envFrom: [{secretRef: {name: {{ . }} }}]
    {{- end }}
    resources:
      requests: {cpu: "1", memory: 512Mi}
      limits: {memory: 512Mi}
    securityContext: {{ include "maisi.hardened" $ | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models}
      - {name: tmp, mountPath: /tmp}
{{- else if eq .source "build" }}
initContainers:
  - name: engines
    image: {{ .build.image }}
    # One pod holds a lock and builds the engines; the other pods wait and use these engines.
    args:
      - build
      - {{ .build.variant }}
      - --checkpoints=/weights
      - --repository=/models/{{ .path }}
      - --cache=/models/cache
      - --target={{ .build.target }}
      - --precision={{ .build.precision }}
      - --version={{ int64 .build.version }}
      {{- with .build.maxSize }}
      - --max-size={{ . }}
      {{- end }}
    resources:
      requests: {{ toYaml $.Values.resources.requests | nindent 8 }}
      limits:
        {{- toYaml $.Values.resources.limits | nindent 8 }}
        {{- if $.Values.gpus }}
        nvidia.com/gpu: {{ $.Values.gpus }}
        {{- end }}
    securityContext: {{ include "maisi.hardened" $ | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models}
      - {name: weights, mountPath: /weights, readOnly: true}
      - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end }}
{{- end }}
