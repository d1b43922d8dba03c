{{- /* The namespace of the control plane is part of identities and addresses, and therefore fixed. */ -}}
{{- define "mesh.namespace" -}}mesh-system{{- end -}}

{{- /* Labels of every object. What prune and uninstall look for is mesh.dev/chart. Takes (dict "root" $ "component" NAME). */ -}}
{{- define "mesh.labels" -}}
mesh.dev/chart: mesh
app.kubernetes.io/part-of: mesh
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{ include "mesh.selector" . }}
{{- end -}}

{{- /* Labels by which pods of a component are found; never changed, because selectors cannot be. */ -}}
{{- define "mesh.selector" -}}
app.kubernetes.io/name: mesh-{{ .component }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* Image of a component. Takes (dict "root" $ "name" NAME "image" WHOLE-NAME-OR-EMPTY). */ -}}
{{- define "mesh.image" -}}
{{- if .image -}}
{{ .image }}
{{- else -}}
{{ .root.Values.image.registry }}/{{ .name }}:{{ default .root.Chart.AppVersion .root.Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "mesh.pullSecrets" -}}
{{- if .Values.image.pullSecrets }}
imagePullSecrets:
{{- range .Values.image.pullSecrets }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Where pods of the control plane run. Takes (dict "root" $ "component" NAME). */ -}}
{{- define "mesh.placement" -}}
{{- $plane := .root.Values.controlPlane -}}
{{- if $plane.priorityClassName }}
priorityClassName: {{ $plane.priorityClassName | quote }}
{{- end }}
{{- if $plane.nodeSelector }}
nodeSelector:
  {{- toYaml $plane.nodeSelector | nindent 2 }}
{{- end }}
{{- if $plane.tolerations }}
tolerations:
  {{- toYaml $plane.tolerations | nindent 2 }}
{{- end }}
{{- if eq $plane.antiAffinity "required" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "mesh.selector" . | nindent 12 }}
{{- else if eq $plane.antiAffinity "preferred" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "mesh.selector" . | nindent 14 }}
{{- end }}
{{- if or $plane.spreadZones (eq $plane.antiAffinity "spread") }}
topologySpreadConstraints:
{{- if eq $plane.antiAffinity "spread" }}
  # Of each revision by itself, over the nodes that take pods: rollouts and drains find a place.
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: DoNotSchedule
    nodeTaintsPolicy: Honor
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "mesh.selector" . | nindent 8 }}
{{- end }}
{{- if $plane.spreadZones }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "mesh.selector" . | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* No privilege at all: what the Pod Security Standard "restricted" asks for, and more. */ -}}
{{- define "mesh.restricted" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "mesh.restrictedPod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- /* How a rollout goes: where replicas may not share a node there may be no place for an additional one. */ -}}
{{- define "mesh.rollout" -}}
strategy:
  type: RollingUpdate
  rollingUpdate:
    {{- if and (eq .root.Values.controlPlane.antiAffinity "required") (gt (int .replicas) 1) }}
    maxSurge: 0
    maxUnavailable: 1
    {{- else }}
    maxSurge: 1
    maxUnavailable: 0
    {{- end }}
{{- end -}}

{{- /* Probes on the admin server. Takes the name of its port. */ -}}
{{- define "mesh.probes" -}}
startupProbe:
  httpGet: { path: /live, port: {{ . }} }
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: { path: /live, port: {{ . }} }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: { path: /ready, port: {{ . }} }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{- define "mesh.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: mesh-{{ .component }}
  namespace: {{ include "mesh.namespace" . }}
  labels:
    {{- include "mesh.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # One that is broken already does not stand in a drain's way.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "mesh.selector" . | nindent 6 }}
{{- end -}}

{{- /* Configuration of the certificate authority. */ -}}
{{- define "mesh.caConfig" -}}
trust_domain = {{ .Values.trustDomain | quote }}
listen = "[::]:15410"
admin = "[::]:15411"
store = "kubernetes"
authentication = "kubernetes"

[token_review]
check_address = {{ .Values.ca.checkAddress }}

[limits]
connections = {{ .Values.ca.connections }}

[certificates]
default_ttl = {{ .Values.ca.certificates.ttl | quote }}
min_ttl = {{ .Values.ca.certificates.minTtl | quote }}
max_ttl = {{ .Values.ca.certificates.ttl | quote }}

[rotation]
root_lifetime = {{ .Values.ca.rotation.rootLifetime | quote }}
issuer_lifetime = {{ .Values.ca.rotation.issuerLifetime | quote }}
overlap = {{ .Values.ca.rotation.overlap | quote }}
retire = {{ .Values.ca.rotation.retire | quote }}

[log]
level = {{ .Values.controlPlane.logLevel | quote }}
format = {{ .Values.controlPlane.logFormat | quote }}
{{ end -}}

{{- /* Configuration of the controller. */ -}}
{{- define "mesh.controllerConfig" -}}
listen = "[::]:15420"

[source]
kind = "kubernetes"

[defaults]
transport = {{ .Values.defaults.transport | quote }}
allow = {{ .Values.defaults.allow }}

[identity]
trust_domain = {{ .Values.trustDomain | quote }}
ca = "mesh-ca.mesh-system.svc.{{ .Values.clusterDomain }}:15410"

[admin]
listen = "[::]:15421"

[webhook]
listen = "[::]:15430"

[inject]
image = {{ include "mesh.image" (dict "root" $ "name" "proxy" "image" .Values.proxy.image) | quote }}
pull_policy = {{ .Values.image.pullPolicy | quote }}
native = {{ .Values.proxy.native | quote }}
cni = {{ .Values.cni.enabled }}
cpu_request = {{ default "" .Values.proxy.resources.requests.cpu | quote }}
cpu_limit = {{ default "" .Values.proxy.resources.limits.cpu | quote }}
memory_request = {{ default "" .Values.proxy.resources.requests.memory | quote }}
memory_limit = {{ default "" .Values.proxy.resources.limits.memory | quote }}
log_level = {{ .Values.proxy.logLevel | quote }}
log_format = {{ .Values.proxy.logFormat | quote }}
access_log = {{ .Values.proxy.accessLog }}
otlp_endpoint = {{ .Values.telemetry.otlpEndpoint | quote }}
trace_ratio = {{ .Values.telemetry.traceRatio }}
skip_inbound_ports = {{ .Values.proxy.skipInboundPorts | quote }}
skip_outbound_ports = {{ .Values.proxy.skipOutboundPorts | quote }}
skip_subnets = {{ .Values.proxy.skipSubnets | quote }}
ca = "mesh-ca.mesh-system.svc.{{ .Values.clusterDomain }}:15410"
discovery = "mesh-controller.mesh-system.svc.{{ .Values.clusterDomain }}:15420"

[log]
level = {{ .Values.controlPlane.logLevel | quote }}
format = {{ .Values.controlPlane.logFormat | quote }}
{{ end -}}
