//! The standard's kinds, as far as they are read.

use super::{Field, fields};

/// Service.
pub(super) const SERVICE: &[Field] = fields! {
    "spec.type" "text" "`ClusterIP`" "What it is; one of type `ExternalName` is an alias in DNS, which the mesh does not route.";
    "spec.clusterIP" "IP address or `None`" "none" "Its virtual address; `None` for a headless one.";
    "spec.clusterIPs" "list of IP addresses" "none" "All its virtual addresses, of both families.";
    "spec.selector" "map of text" "none" "Labels that its workloads have, all of them; without any it has no workloads.";
    "spec.ports" "list" "none" "Its ports.";
    "spec.ports[].name" "text" "none" "Name, where the Service has several. Where no `appProtocol` is given, a name that begins with `tcp`, `tls`, `https`, `mysql`, `postgres`, `redis`, `mongo` or `smtp` (alone, or before a `-`) makes the port one whose bytes are passed on; HTTP and gRPC are recognised by their first bytes, whatever the name.";
    "spec.ports[].port" "number" "required" "Number.";
    "spec.ports[].targetPort" "number or text" "the same number" "The workloads' port, by number or by name.";
    "spec.ports[].appProtocol" "text" "detected" "What it speaks: `http`, `http2`, `grpc`, `tls`, `tcp`, Kubernetes' own names (`kubernetes.io/h2c`), and names of well-known opaque protocols.";
    "spec.ports[].protocol" "text" "`TCP`" "A port with another one is passed over.";
};

/// HTTPRoute.
pub(super) const HTTP_ROUTE: &[Field] = fields! {
    "spec.parentRefs" "list" "none" "Where it is attached, at most 32. A parent that is no Service is passed over.";
    "spec.parentRefs[].group" "text" "`gateway.networking.k8s.io`" "API group; empty for a Service.";
    "spec.parentRefs[].kind" "text" "`Gateway`" "Kind; `Service` is what the mesh reads.";
    "spec.parentRefs[].namespace" "text" "the route's own" "Namespace of the Service.";
    "spec.parentRefs[].name" "text" "required" "Name.";
    "spec.parentRefs[].port" "number" "all" "Port of the Service.";
    "spec.parentRefs[].sectionName" "text" "all" "Name of a port of the Service.";
    "spec.hostnames" "list of text" "all" "Host names that it is for, at most 16; `*.` in front for one label or more.";
    "spec.rules" "list" "one that matches everything" "Its rules, at most 64.";
    "spec.rules[].name" "text" "its position" "Name, for messages and metrics.";
    "spec.rules[].matches" "list" "every request" "Any of these, at most 64; in one entry all given parts must match.";
    "spec.rules[].matches[].path" "object" "prefix `/`" "Path.";
    "spec.rules[].matches[].path.type" "`Exact`, `PathPrefix` or `RegularExpression`" "`PathPrefix`" "How the value is meant; a prefix is one of whole segments.";
    "spec.rules[].matches[].path.value" "text" "`/`" "Path, normalised and without query.";
    "spec.rules[].matches[].headers" "list" "any" "Header fields, all of them, at most 16; of several for one name the first counts.";
    "spec.rules[].matches[].headers[].type" "`Exact` or `RegularExpression`" "`Exact`" "How the value is meant.";
    "spec.rules[].matches[].headers[].name" "text" "required" "Name, in any case.";
    "spec.rules[].matches[].headers[].value" "text" "required" "Value.";
    "spec.rules[].matches[].queryParams" "list" "any" "Query parameters, all of them, at most 16; of several for one name the first counts.";
    "spec.rules[].matches[].queryParams[].type" "`Exact` or `RegularExpression`" "`Exact`" "How the value is meant.";
    "spec.rules[].matches[].queryParams[].name" "text" "required" "Name, as it is.";
    "spec.rules[].matches[].queryParams[].value" "text" "required" "Value.";
    "spec.rules[].matches[].method" "text" "any" "Method, case-sensitive.";
    "spec.rules[].filters" "list" "none" "Applied before a backend is chosen, at most 16. One that cannot be carried out is answered 500.";
    "spec.rules[].filters[].type" "`RequestHeaderModifier` or `ResponseHeaderModifier`" "required" "What it does.";
    "spec.rules[].filters[].requestHeaderModifier" "object" "none" "For a filter of type `RequestHeaderModifier`. Header fields of the connection and of the mesh itself cannot be changed.";
    "spec.rules[].filters[].requestHeaderModifier.set" "list" "none" "Replaces all values, at most 16.";
    "spec.rules[].filters[].requestHeaderModifier.set[].name" "text" "required" "Name.";
    "spec.rules[].filters[].requestHeaderModifier.set[].value" "text" "required" "Value.";
    "spec.rules[].filters[].requestHeaderModifier.add" "list" "none" "Adds a value, at most 16.";
    "spec.rules[].filters[].requestHeaderModifier.add[].name" "text" "required" "Name.";
    "spec.rules[].filters[].requestHeaderModifier.add[].value" "text" "required" "Value.";
    "spec.rules[].filters[].requestHeaderModifier.remove" "list of text" "none" "Removes all values, at most 16.";
    "spec.rules[].filters[].responseHeaderModifier" "object" "none" "For a filter of type `ResponseHeaderModifier`. Header fields of the connection and of the mesh itself cannot be changed.";
    "spec.rules[].filters[].responseHeaderModifier.set" "list" "none" "Replaces all values, at most 16.";
    "spec.rules[].filters[].responseHeaderModifier.set[].name" "text" "required" "Name.";
    "spec.rules[].filters[].responseHeaderModifier.set[].value" "text" "required" "Value.";
    "spec.rules[].filters[].responseHeaderModifier.add" "list" "none" "Adds a value, at most 16.";
    "spec.rules[].filters[].responseHeaderModifier.add[].name" "text" "required" "Name.";
    "spec.rules[].filters[].responseHeaderModifier.add[].value" "text" "required" "Value.";
    "spec.rules[].filters[].responseHeaderModifier.remove" "list of text" "none" "Removes all values, at most 16.";
    "spec.rules[].backendRefs" "list" "none" "Chosen by weight, at most 64. One that cannot be used keeps its share, which is answered 500.";
    "spec.rules[].backendRefs[].group" "text" "empty" "API group; empty for a Service.";
    "spec.rules[].backendRefs[].kind" "text" "`Service`" "Kind; only a Service can be a backend.";
    "spec.rules[].backendRefs[].namespace" "text" "the route's own" "Namespace of the Service.";
    "spec.rules[].backendRefs[].name" "text" "required" "Name.";
    "spec.rules[].backendRefs[].port" "number" "required" "Port of the Service.";
    "spec.rules[].backendRefs[].weight" "number" "1" "Share, 0 to 1000000.";
    "spec.rules[].backendRefs[].filters" "as `spec.rules[].filters`" "none" "Applied only to what goes to this backend.";
    "spec.rules[].timeouts" "object" "none" "Deadlines, as in `1h`, `500ms` or `1m30s` (GEP-2257); zero switches one off.";
    "spec.rules[].timeouts.request" "duration" "none" "For the whole request.";
    "spec.rules[].timeouts.backendRequest" "duration" "none" "For each try of a backend; at most `request`.";
};
