//! The mesh's own kinds.

use super::{Field, fields};

/// AuthorizationPolicy.
pub(super) const AUTHORIZATION_POLICY: &[Field] = fields! {
    "spec.targetRefs" "list" "none" "What it protects, at most 64. Neither this nor `selector`: its own namespace.";
    "spec.targetRefs[].group" "text" "empty" "API group; empty for the core group. An ExternalWorkload may be given with `mesh.dev` or without.";
    "spec.targetRefs[].kind" "`Service`, `ServiceAccount`, `ExternalWorkload` or `Namespace`" "required" "Kind. A ServiceAccount stands for every workload that runs as it; a Namespace can only be the policy's own.";
    "spec.targetRefs[].name" "text" "required" "Name, in the policy's own namespace.";
    "spec.selector" "object" "none" "What it protects, by labels of workloads in its own namespace; not together with `targetRefs`.";
    "spec.selector.matchLabels" "map of text" "empty" "Labels that a workload has, all of them; none: every workload.";
    "spec.action" "`Allow`, `Deny` or `Audit`" "`Allow`" "What a match means: let in; refuse, stronger than every allow; note, and decide nothing.";
    "spec.rules" "list" "none" "Any rule that matches is enough, at most 256. None matches nothing: an `Allow` without rules denies everything, a `Deny` without rules nothing.";
    "spec.rules[].from" "list" "every caller" "Any of these callers. In one entry all given fields must match; of a list any entry.";
    "spec.rules[].from[].identities" "list of text" "any" "SPIFFE IDs, `*` at the end for any rest; `*` alone for every verified identity.";
    "spec.rules[].from[].serviceAccounts" "list of text" "any" "Service accounts of the mesh's trust domain, as `NAMESPACE/NAME`; added to `identities`.";
    "spec.rules[].from[].namespaces" "list of text" "any" "Namespaces of verified identities.";
    "spec.rules[].from[].cidrs" "list of text" "any" "Networks of the peer's socket address, as `10.0.0.0/8` or a single address.";
    "spec.rules[].from[].notIdentities" "list of text" "none" "None of these identities.";
    "spec.rules[].from[].notServiceAccounts" "list of text" "none" "None of these service accounts; added to `notIdentities`.";
    "spec.rules[].from[].notNamespaces" "list of text" "none" "None of these namespaces.";
    "spec.rules[].from[].notCidrs" "list of text" "none" "None of these networks.";
    "spec.rules[].to" "list" "every operation" "Any of these operations. In one entry all given fields must match; of a list any entry.";
    "spec.rules[].to[].hosts" "list of text" "any" "Host names, without port; `*.` in front for one label or more.";
    "spec.rules[].to[].methods" "list of text" "any" "Methods, case-sensitive.";
    "spec.rules[].to[].paths" "list of text or objects" "any" "Paths: `/exact`, `/prefix/*` (whole segments), or `{type, value}` as in an HTTPRoute.";
    "spec.rules[].to[].paths[].type" "`Exact`, `PathPrefix` or `RegularExpression`" "required" "How the value is meant.";
    "spec.rules[].to[].paths[].value" "text" "required" "Path, normalised and without query.";
    "spec.rules[].to[].ports" "list of numbers" "any" "Ports of the workload.";
    "spec.rules[].to[].headers" "list" "any" "Header fields, all of them.";
    "spec.rules[].to[].headers[].type" "`Exact` or `RegularExpression`" "`Exact`" "How the value is meant.";
    "spec.rules[].to[].headers[].name" "text" "required" "Name, in any case.";
    "spec.rules[].to[].headers[].value" "text" "required" "Value.";
    "spec.rules[].to[].notMethods" "list of text" "none" "None of these methods.";
    "spec.rules[].to[].notPaths" "as `spec.rules[].to[].paths`" "none" "None of these paths.";
};

/// TransportPolicy.
pub(super) const TRANSPORT_POLICY: &[Field] = fields! {
    "spec.targetRefs" "list" "none" "What it is for, at most 64. Neither this nor `selector`: its own namespace.";
    "spec.targetRefs[].group" "text" "empty" "API group; empty for the core group. An ExternalWorkload may be given with `mesh.dev` or without.";
    "spec.targetRefs[].kind" "`Service`, `ServiceAccount`, `ExternalWorkload` or `Namespace`" "required" "Kind. A ServiceAccount stands for every workload that runs as it; a Namespace can only be the policy's own.";
    "spec.targetRefs[].name" "text" "required" "Name, in the policy's own namespace.";
    "spec.selector" "object" "none" "What it is for, by labels of workloads in its own namespace; not together with `targetRefs`.";
    "spec.selector.matchLabels" "map of text" "empty" "Labels that a workload has, all of them; none: every workload.";
    "spec.mode" "`Permissive` or `Strict`" "required" "Whether plain connections are let in too, or only mutual TLS. Of several policies the most specific holds: workload, then Service, then namespace.";
    "spec.ports" "list" "none" "Exceptions, at most 256.";
    "spec.ports[].port" "number" "required" "Port of the workload.";
    "spec.ports[].mode" "`Permissive` or `Strict`" "required" "What holds there.";
};

/// ExternalWorkload.
pub(super) const EXTERNAL_WORKLOAD: &[Field] = fields! {
    "spec.serviceAccount" "text" "`default`" "Service account, which makes its identity.";
    "spec.address" "IP address" "required" "Where peers reach it: its sidecar's, where it has one.";
    "spec.zone" "text" "empty" "Topology zone.";
    "spec.sidecar" "true or false" "true" "False: it has no sidecar, peers reach it in plain.";
    "spec.weight" "number" "1" "Relative share of the load, at most 1000000.";
    "spec.draining" "true or false" "false" "True: on its way out, nothing new goes there.";
    "spec.ports" "list" "none" "Its ports, at most 256.";
    "spec.ports[].name" "text" "none" "Name, to which a Service's `targetPort` can refer.";
    "spec.ports[].port" "number" "required" "Number on which peers reach it.";
    "spec.ports[].app" "port or `IP:PORT`" "the same number" "Where the program listens; a number alone is a port of 127.0.0.1.";
    "spec.ports[].appProtocol" "text" "detected" "What it speaks, as in a Service.";
    "spec.upstreams" "list" "none" "What its program calls, each with a local address of its own, where nothing is redirected.";
    "spec.upstreams[].service" "text" "required" "`NAME:PORT` (the workload's own namespace), `NAME.NAMESPACE:PORT` or `NAME.NAMESPACE.svc:PORT`.";
    "spec.upstreams[].listen" "port or `IP:PORT`" "required" "Local address for it; a number alone is a port of 127.0.0.1.";
    "spec.run" "object" "none" "The program itself, where `meshctl up` starts it.";
    "spec.run.command" "list of text" "required" "Program and arguments.";
    "spec.run.env" "map of text" "empty" "Environment, on top of `meshctl`'s own.";
    "spec.run.workingDir" "text" "the manifest's folder" "Working directory.";
};
