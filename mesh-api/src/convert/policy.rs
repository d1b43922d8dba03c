//! Inbound policy between the model and the wire. What an older proxy cannot read enforces as a denial.

use super::{
    Invalid,
    destination::collect,
    object_from, object_to, port_from, protocol_from, protocol_to,
    route::{path_from, path_to, value_from, value_to},
};
use crate::{
    model::{
        Name, WorkloadId,
        policy::{
            Action, AuthorizationPolicy, AuthorizationRule, InboundPolicy, Operation, PortPolicy, Probe, Source,
            Transport,
        },
    },
    proto,
};

/// From the wire.
///
/// # Errors
/// [`Invalid`] where a field says something impossible.
pub fn inbound_from_proto(value: proto::InboundPolicy) -> Result<InboundPolicy, Invalid> {
    let ports = collect("ports", value.ports, |port| Ok((port_from("port", port.port)?, port_policy_from(port)?)))?;
    Ok(InboundPolicy {
        workload: WorkloadId { namespace: value.namespace.into(), name: value.workload.into() },
        service_account: value.service_account.into(),
        ports: ports.into_iter().collect(),
        default_port: port_policy_from(value.default_port.ok_or_else(|| Invalid::new("default_port", "missing"))?)?,
    })
}

/// To the wire.
#[must_use]
pub fn inbound_to_proto(value: &InboundPolicy) -> proto::InboundPolicy {
    proto::InboundPolicy {
        namespace: value.workload.namespace.to_string(),
        workload: value.workload.name.to_string(),
        service_account: value.service_account.to_string(),
        ports: value.ports.iter().map(|(port, policy)| port_policy_to(*port, policy)).collect(),
        default_port: Some(port_policy_to(0, &value.default_port)),
    }
}

fn port_policy_from(value: proto::InboundPort) -> Result<PortPolicy, Invalid> {
    Ok(PortPolicy {
        protocol: protocol_from(value.protocol),
        transport: match proto::Transport::try_from(value.transport) {
            Ok(proto::Transport::Permissive) => Transport::Permissive,
            Ok(proto::Transport::Strict) | Err(_) => Transport::Strict,
        },
        policies: collect("policies", value.policies, policy_from)?,
        default_allow: value.default_allow,
        probes: value.probes.into_iter().map(|p| Probe { method: p.method.into(), path: p.path.into() }).collect(),
    })
}

fn port_policy_to(port: u16, value: &PortPolicy) -> proto::InboundPort {
    let transport = match value.transport {
        Transport::Permissive => proto::Transport::Permissive,
        Transport::Strict => proto::Transport::Strict,
    };
    proto::InboundPort {
        port: u32::from(port),
        protocol: protocol_to(value.protocol),
        transport: transport.into(),
        policies: value.policies.iter().map(policy_to).collect(),
        default_allow: value.default_allow,
        probes: value.probes.iter().map(probe_to).collect(),
    }
}

fn probe_to(value: &Probe) -> proto::Probe {
    proto::Probe { method: value.method.to_string(), path: value.path.to_string() }
}

fn policy_from(value: proto::AuthorizationPolicy) -> Result<AuthorizationPolicy, Invalid> {
    let origin = object_from(value.origin);
    let action = match proto::Action::try_from(value.action) {
        Ok(proto::Action::Allow) => Action::Allow,
        Ok(proto::Action::Deny) => Action::Deny,
        Ok(proto::Action::Audit) => Action::Audit,
        Ok(proto::Action::Unspecified) | Err(_) => {
            let everything = vec![AuthorizationRule::default()];
            return Ok(AuthorizationPolicy { origin, action: Action::Deny, rules: everything });
        }
    };
    Ok(AuthorizationPolicy { origin, action, rules: collect("rules", value.rules, rule_from)? })
}

fn policy_to(value: &AuthorizationPolicy) -> proto::AuthorizationPolicy {
    let action = match value.action {
        Action::Allow => proto::Action::Allow,
        Action::Deny => proto::Action::Deny,
        Action::Audit => proto::Action::Audit,
    };
    proto::AuthorizationPolicy {
        origin: Some(object_to(&value.origin)),
        action: action.into(),
        rules: value.rules.iter().map(rule_to).collect(),
    }
}

fn rule_from(value: proto::AuthorizationRule) -> Result<AuthorizationRule, Invalid> {
    Ok(AuthorizationRule {
        from: collect("from", value.from, source_from)?,
        to: collect("to", value.to, operation_from)?,
    })
}

fn rule_to(value: &AuthorizationRule) -> proto::AuthorizationRule {
    proto::AuthorizationRule {
        from: value.from.iter().map(source_to).collect(),
        to: value.to.iter().map(operation_to).collect(),
    }
}

fn source_from(value: proto::Source) -> Result<Source, Invalid> {
    let networks = |field: &str, list: Vec<String>| {
        collect(field, list, |text| text.parse().map_err(|error| Invalid::new(text.clone(), error)))
    };
    Ok(Source {
        identities: names_from(value.identities),
        namespaces: names_from(value.namespaces),
        cidrs: networks("cidrs", value.cidrs)?,
        not_identities: names_from(value.not_identities),
        not_namespaces: names_from(value.not_namespaces),
        not_cidrs: networks("not_cidrs", value.not_cidrs)?,
    })
}

fn source_to(value: &Source) -> proto::Source {
    proto::Source {
        identities: texts(&value.identities),
        namespaces: texts(&value.namespaces),
        cidrs: texts(&value.cidrs),
        not_identities: texts(&value.not_identities),
        not_namespaces: texts(&value.not_namespaces),
        not_cidrs: texts(&value.not_cidrs),
    }
}

fn operation_from(value: proto::Operation) -> Result<Operation, Invalid> {
    Ok(Operation {
        hosts: names_from(value.hosts),
        methods: names_from(value.methods),
        paths: collect("paths", value.paths, path_from)?,
        ports: collect("ports", value.ports, |port| port_from("port", port))?,
        headers: collect("headers", value.headers, value_from)?,
        not_methods: names_from(value.not_methods),
        not_paths: collect("not_paths", value.not_paths, path_from)?,
    })
}

fn operation_to(value: &Operation) -> proto::Operation {
    proto::Operation {
        hosts: texts(&value.hosts),
        methods: texts(&value.methods),
        paths: value.paths.iter().map(path_to).collect(),
        ports: value.ports.iter().map(|port| u32::from(*port)).collect(),
        headers: value.headers.iter().map(value_to).collect(),
        not_methods: texts(&value.not_methods),
        not_paths: value.not_paths.iter().map(path_to).collect(),
    }
}

fn names_from(list: Vec<String>) -> Vec<Name> {
    list.into_iter().map(Into::into).collect()
}

fn texts(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}
