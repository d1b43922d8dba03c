//! Labels and annotations by which users tell the mesh what they want, for the reference page. Part of `names`.

/// A label or annotation that users write.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Its name.
    pub name: &'static str,
    /// Which objects carry it, and as what.
    pub on: &'static str,
    /// What its value is, by example.
    pub value: &'static str,
    /// What it does, and what holds without it.
    pub meaning: &'static str,
}

const fn mark(name: &'static str, on: &'static str, value: &'static str, meaning: &'static str) -> Mark {
    Mark { name, on, value, meaning }
}

const POD: &str = "annotation of a Pod";

/// Every one that users write, in the order of the page.
pub const MARKS: &[Mark] = &[
    mark(
        super::INJECT,
        "label of a Namespace or a Pod, annotation of a Pod",
        "`enabled`, `disabled`",
        "whether new pods get a sidecar; a pod's word beats its namespace's; without it they get none",
    ),
    mark(
        super::ANNOTATION_SKIP_INBOUND_PORTS,
        POD,
        "`9100,8000-8010`",
        "ports of the application that are reached without the sidecar: no identity, no policy, no metrics",
    ),
    mark(
        super::ANNOTATION_SKIP_OUTBOUND_PORTS,
        POD,
        "`25,6379`",
        "ports, anywhere, that the application reaches without the sidecar",
    ),
    mark(
        super::ANNOTATION_SKIP_SUBNETS,
        POD,
        "`10.0.0.0/8,fd00::/8`",
        "networks that the application reaches without the sidecar",
    ),
    mark(
        super::ANNOTATION_OPAQUE_PORTS,
        "annotation of a Pod or a Service",
        "`3306,5432`",
        "ports whose bytes are carried, encrypted, and never looked at; seldom needed: protocols are detected",
    ),
    mark(
        super::ANNOTATION_EXPORT_TO,
        "annotation of a Service",
        "`*`, `.`, `shop,web`",
        "which namespaces may discover it: all (without it), its own, or those that are named",
    ),
    mark(
        super::ANNOTATION_NATIVE_SIDECAR,
        POD,
        "`true`, `false`",
        "whether the sidecar is an init container that stays; without it: where the cluster can",
    ),
    mark(super::ANNOTATION_PROXY_CPU_REQUEST, POD, "`50m`", "CPU that the sidecar asks for"),
    mark(
        super::ANNOTATION_PROXY_CPU_LIMIT,
        POD,
        "`2`",
        "CPU that it may use; rounded up it is also the number of its worker threads",
    ),
    mark(super::ANNOTATION_PROXY_MEMORY_REQUEST, POD, "`32Mi`", "memory that the sidecar asks for"),
    mark(super::ANNOTATION_PROXY_MEMORY_LIMIT, POD, "`512Mi`", "memory that it may use"),
    mark(super::ANNOTATION_PROXY_LOG_LEVEL, POD, "`info,mesh_proxy=debug`", "log level of the sidecar"),
    mark(super::ANNOTATION_PROXY_ACCESS_LOG, POD, "`true`, `false`", "whether each request gets a line in its log"),
    mark(super::ANNOTATION_PROXY_IMAGE, POD, "`mesh.dev/proxy:0.1.0`", "image of the sidecar"),
    mark(
        super::ANNOTATION_ROTATE,
        "annotation of the Secret `mesh-ca`",
        "`issuer`, `root`, `repair`",
        "orders a rotation of the certificate authority's keys now (`repair` where every root has expired); the answer \
         stands in `mesh.dev/rotate-outcome`",
    ),
];

/// What the mesh itself writes: good to select by, not to be changed.
pub const OWN_MARKS: &[Mark] = &[
    mark(super::LABEL_INJECTED, "label of a Pod", "`true`", "the pod has a sidecar"),
    mark(super::ANNOTATION_INJECTION, POD, "JSON", "what injection decided and changed"),
    mark(
        super::LABEL_REPAIR,
        "label of a Pod",
        "`needed`",
        "the pod started before the CNI plugin, and has to be made anew",
    ),
    mark(super::LABEL_CHART, "label of every object of the mesh's charts", "name of a chart", "which chart made it"),
    mark(
        super::ANNOTATION_OUTCOME,
        "annotation of the Secret `mesh-ca`",
        "text",
        "how the last rotation that was ordered went",
    ),
];
