//! Services. A fault costs the port or the address it is in, never the Service.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use mesh_api::{
    model::{Name, Protocol, is_dns_label},
    names::{ANNOTATION_EXPORT_TO, ANNOTATION_OPAQUE_PORTS},
    resources,
};

use super::{Export, PortSet, Service, ServicePort, Target};
use crate::problem::{Findings, Reason};

pub(super) fn translate(object: &resources::Service, findings: &mut Findings) -> Service {
    let selector = &object.spec.selector;
    if object.spec.kind.as_deref() == Some("ExternalName") {
        // An alias in DNS: who calls it finds another name's addresses, and those are what is looked at then.
        let export = export(&object.metadata, findings);
        return Service { addresses: BTreeSet::new(), selector: None, ports: BTreeMap::new(), export };
    }
    Service {
        addresses: addresses(&object.spec, findings),
        selector: (!selector.is_empty()).then(|| selector.clone()),
        ports: ports(object, findings),
        export: export(&object.metadata, findings),
    }
}

fn addresses(spec: &resources::ServiceSpec, findings: &mut Findings) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    for text in spec.cluster_ips.iter().chain(&spec.cluster_ip) {
        if text.is_empty() || text == "None" {
            continue;
        }
        match text.parse::<IpAddr>() {
            Ok(ip) => {
                addresses.insert(ip.to_canonical());
            }
            Err(_) => findings.report(
                "spec.clusterIP",
                Reason::Invalid,
                format!("`{text}` is not an IP address; nobody can reach the Service by it"),
            ),
        }
    }
    addresses
}

fn ports(object: &resources::Service, findings: &mut Findings) -> BTreeMap<u16, ServicePort> {
    let opaque = opaque(&object.metadata, findings);
    let mut out = BTreeMap::new();
    for (at, port) in object.spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{at}]");
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        if port.port == 0 {
            findings.report(format!("{field}.port"), Reason::Invalid, "a port is a number from 1 to 65535");
            continue;
        }
        let target = match &port.target_port {
            None => Target::Number(port.port),
            Some(resources::TargetPort::Number(0)) => {
                findings.report(format!("{field}.targetPort"), Reason::Invalid, "a port is a number from 1 to 65535");
                continue;
            }
            Some(resources::TargetPort::Number(number)) => Target::Number(*number),
            // A number in quotes is what Kubernetes takes it for: a name, unless it is all digits.
            Some(resources::TargetPort::Name(name)) => match name.parse::<u16>() {
                Ok(number) if number > 0 => Target::Number(number),
                _ => Target::Name(name.as_str().into()),
            },
        };
        let said = protocol(port.app_protocol.as_deref(), &field, findings);
        let named = || port.name.as_deref().filter(|_| port.app_protocol.is_none()).and_then(Protocol::from_port_name);
        let protocol = if opaque.contains(port.port) { Some(Protocol::Opaque) } else { said.or_else(named) };
        let new = ServicePort { name: port.name.as_deref().map(Into::into), target, protocol };
        match out.entry(port.port) {
            Entry::Vacant(entry) => {
                entry.insert(new);
            }
            Entry::Occupied(_) => {
                let message = format!("port {} is there already; the first one holds", port.port);
                findings.report(format!("{field}.port"), Reason::Invalid, message);
            }
        }
    }
    out
}

fn opaque(metadata: &resources::Metadata, findings: &mut Findings) -> PortSet {
    let Some(text) = metadata.annotations.get(ANNOTATION_OPAQUE_PORTS) else { return PortSet::default() };
    PortSet::parse(text).unwrap_or_else(|message| {
        findings.report(format!("metadata.annotations[{ANNOTATION_OPAQUE_PORTS}]"), Reason::Invalid, message);
        PortSet::default()
    })
}

/// What an `appProtocol` means; one that nobody here knows is detected.
pub(super) fn protocol(text: Option<&str>, field: &str, findings: &mut Findings) -> Option<Protocol> {
    let text = text.filter(|text| !text.is_empty())?;
    let known = Protocol::from_app_protocol(text);
    if known.is_none() {
        findings.warn(
            format!("{field}.appProtocol"),
            Reason::UnsupportedValue,
            format!("`{text}` is not known (http, http2, grpc, tls, tcp are); the protocol is detected"),
        );
    }
    known
}

fn export(metadata: &resources::Metadata, findings: &mut Findings) -> Export {
    let Some(text) = metadata.annotations.get(ANNOTATION_EXPORT_TO) else { return Export::Everywhere };
    // What cannot be read exports to nobody.
    let mut namespaces: BTreeSet<Name> = BTreeSet::new();
    for entry in text.split(',').map(str::trim) {
        match entry {
            "*" => return Export::Everywhere,
            "." => {
                namespaces.insert(metadata.namespace.as_str().into());
            }
            name if is_dns_label(name) => {
                namespaces.insert(name.into());
            }
            other => findings.report(
                format!("metadata.annotations[{ANNOTATION_EXPORT_TO}]"),
                Reason::Invalid,
                format!("`{other}` is neither `*`, `.` nor a namespace; it exports to nobody"),
            ),
        }
    }
    Export::To(namespaces)
}
