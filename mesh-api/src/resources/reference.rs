//! Every field of every kind that the mesh reads, for the reference page. A test compares the tables with the types,
//! by serialising values in which every field is set.

mod own;
mod standard;

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Path, as in `spec.rules[].from`; `[]` for each entry of a list.
    pub path: &'static str,
    /// Type, for people. What begins with `map` has keys that users choose, what begins with `as` the fields of another.
    pub ty: &'static str,
    /// What holds where it is not given, or [`REQUIRED`].
    pub default: &'static str,
    /// Meaning.
    pub meaning: &'static str,
}

/// [`Field::default`] of a field that must be given.
pub const REQUIRED: &str = "required";

/// One kind.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Value of `apiVersion`.
    pub api_version: &'static str,
    /// Value of `kind`.
    pub name: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// Its fields beyond [`METADATA`].
    pub fields: &'static [Field],
}

macro_rules! fields {
    ($($path:literal $ty:literal $default:literal $meaning:literal;)*) => {
        &[$(Field { path: $path, ty: $ty, default: $default, meaning: $meaning }),*]
    };
}
use fields;

/// Every kind that the mesh reads.
pub const KINDS: &[Kind] = &[
    Kind {
        api_version: crate::names::API_VERSION,
        name: "AuthorizationPolicy",
        meaning: "Allows, denies or audits calls.",
        fields: own::AUTHORIZATION_POLICY,
    },
    Kind {
        api_version: crate::names::API_VERSION,
        name: "TransportPolicy",
        meaning: "Strict or permissive mutual TLS.",
        fields: own::TRANSPORT_POLICY,
    },
    Kind {
        api_version: crate::names::API_VERSION,
        name: "ExternalWorkload",
        meaning: "A member of the mesh outside Kubernetes: one process on some machine.",
        fields: own::EXTERNAL_WORKLOAD,
    },
    Kind {
        api_version: "v1",
        name: "Service",
        meaning: "A name for workloads, as far as the mesh reads it.",
        fields: standard::SERVICE,
    },
    Kind {
        api_version: crate::names::GATEWAY_API_VERSION,
        name: "HTTPRoute",
        meaning: "How requests to a Service are told apart, changed and shared out, as far as the mesh reads it.",
        fields: standard::HTTP_ROUTE,
    },
    Kind { api_version: "v1", name: "Namespace", meaning: "Only its metadata is read.", fields: &[] },
];

/// Fields that every kind has.
pub const METADATA: &[Field] = fields! {
    "metadata.name" "text" "required" "Name: a DNS label for Namespaces and Services, a DNS subdomain for the others.";
    "metadata.namespace" "text" "`default`" "Namespace; not for Namespaces.";
    "metadata.labels" "map of text" "empty" "Labels; what selectors look at.";
    "metadata.annotations" "map of text" "empty" "Annotations. Of a Service, `mesh.dev/export-to` lists the namespaces that may call it: names, `.` for its own, `*` for all (default); `mesh.dev/opaque-ports` lists its ports whose bytes are never looked at (`3306,8000-8010`).";
    "metadata.creationTimestamp" "RFC 3339 in UTC" "none" "Of objects in conflict the oldest holds; one without a time comes last.";
    "metadata.generation" "number" "none" "Read, and without effect.";
};
