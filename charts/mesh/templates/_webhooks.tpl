{{- define "mesh.excluded" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
    - kube-system
    - {{ include "mesh.namespace" . }}
    {{- range .Values.webhook.excludedNamespaces }}
    - {{ . | quote }}
    {{- end }}
{{- end -}}
{{- define "mesh.injector" -}}
clientConfig:
  service:
    name: mesh-webhook
    namespace: {{ include "mesh.namespace" . }}
    path: /inject
    port: 443
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    resources: [pods]
    operations: [CREATE]
    scope: Namespaced
failurePolicy: {{ .Values.webhook.failurePolicy }}
matchPolicy: Equivalent
# Once more where a later webhook has changed the pod.
reinvocationPolicy: IfNeeded
sideEffects: None
timeoutSeconds: {{ .Values.webhook.timeoutSeconds }}
admissionReviewVersions: [v1]
{{- end -}}
