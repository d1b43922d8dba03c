{{- define "viz.labels" -}}
mesh.dev/chart: mesh-viz
app.kubernetes.io/part-of: mesh-viz
app.kubernetes.io/name: {{ . }}
{{- end -}}

{{- define "viz.pod" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65534
  runAsGroup: 65534
  fsGroup: 65534
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "viz.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "viz.prometheusConfig" -}}
global:
  scrape_interval: {{ .Values.prometheus.scrapeInterval }}
  scrape_timeout: {{ .Values.prometheus.scrapeInterval }}
scrape_configs:
  - job_name: mesh-proxy
    kubernetes_sd_configs: [{ role: pod }]
    relabel_configs:
      - source_labels: [__meta_kubernetes_pod_label_mesh_dev_injected, __meta_kubernetes_pod_container_name]
        regex: "true;mesh-proxy"
        action: keep
      - source_labels: [__meta_kubernetes_pod_container_init, __meta_kubernetes_pod_phase]
        regex: "(true|false);Running"
        action: keep
      {{- include "viz.target" "15490" | nindent 6 }}
  - job_name: mesh-control-plane
    kubernetes_sd_configs: [{ role: pod, namespaces: { names: [mesh-system] } }]
    relabel_configs:
      - source_labels: [__meta_kubernetes_pod_container_port_name, __meta_kubernetes_pod_phase]
        regex: "admin;Running"
        action: keep
      {{- include "viz.names" . | nindent 6 }}
{{- end -}}

{{- /* One target a pod, whatever ports its containers name. Takes the port. */ -}}
{{- define "viz.target" -}}
- source_labels: [__meta_kubernetes_pod_ip]
  regex: "([0-9.]+)"
  replacement: "$1:{{ . }}"
  target_label: __address__
- source_labels: [__meta_kubernetes_pod_ip]
  regex: "(.*:.*)"
  replacement: "[$1]:{{ . }}"
  target_label: __address__
{{ include "viz.names" . }}
{{- end -}}

{{- define "viz.names" -}}
- source_labels: [__meta_kubernetes_namespace]
  target_label: namespace
- source_labels: [__meta_kubernetes_pod_name]
  target_label: pod
- source_labels: [__meta_kubernetes_pod_controller_name]
  target_label: workload
# A ReplicaSet is named after its Deployment, with a hash behind it.
- source_labels: [__meta_kubernetes_pod_controller_kind, __meta_kubernetes_pod_controller_name]
  regex: "ReplicaSet;(.+)-[a-z0-9]+"
  target_label: workload
{{- end -}}
