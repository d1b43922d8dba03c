//! Probes and hooks of the application that only the sidecar can carry out ([`mesh_api::probe`]): the kubelet is sent to its
//! admin server. Probes over plain HTTP and gRPC stay: the sidecar knows them when it sees them, and lets them in. Hooks do
//! not: whoever is let in for a probe learns how the application is, for a hook it changes what that does.

use std::borrow::Cow;

use mesh_api::{
    names,
    probe::{Get, PREFIX, Probe, Token},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Record, pod::all_containers, ports::PortList};

/// Where a container's probes are, with their names in paths.
const PROBES: [(&str, &str); 3] =
    [("/livenessProbe", "liveness"), ("/readinessProbe", "readiness"), ("/startupProbe", "startup")];
/// Where its hooks are.
const HOOKS: [(&str, &str); 2] = [("/lifecycle/postStart", "post-start"), ("/lifecycle/preStop", "pre-stop")];
/// What Kubernetes takes where a probe says nothing of it, in seconds.
const PROBE_SECONDS: u64 = 1;
/// A hook may take this long, in seconds; a probe, too, whatever it says.
const MAX_SECONDS: u64 = 60;

/// A probe or hook that was sent to the sidecar, to be put back when that goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// The container.
    pub container: String,
    /// Where in it (RFC 6901).
    pub at: String,
    /// What stood there in place of the request to the sidecar: `tcpSocket` or `httpGet`.
    pub was: Map<String, Value>,
}

/// The probes that the sidecar has to carry out, and what they were.
pub(super) fn taken(pod: &Value, direct: &PortList, token: &Token) -> (Vec<Taken>, Vec<Probe>) {
    let beside = |one: &super::ContainerRef<'_>| {
        one.list == "containers" || one.json.get("restartPolicy").is_some_and(|policy| policy == "Always")
    };
    let mut all = (Vec::new(), Vec::new());
    for container in all_containers(pod).filter(|one| !one.is_of_mesh() && is_label(one.name())).filter(beside) {
        for (at, name) in PROBES.into_iter().chain(HOOKS) {
            let Some(handler) = container.json.pointer(at) else { continue };
            let (key, Some(probe)) = asked(container.json, handler, HOOKS.iter().any(|(hook, _)| *hook == at)) else {
                continue;
            };
            if direct.contains(probe.port) {
                continue;
            }
            let was = handler.get(key).map(|was| (key.to_owned(), was.clone())).into_iter().collect();
            all.0.push(Taken { container: container.name().to_owned(), at: at.to_owned(), was });
            all.1.push(Probe { at: path(token.as_str(), container.name(), name), ..probe });
        }
    }
    all
}

/// What the sidecar must do in place of `handler`.
fn asked(container: &Value, handler: &Value, hook: bool) -> (&'static str, Option<Probe>) {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let seconds = if hook { MAX_SECONDS } else { PROBE_SECONDS };
    let seconds = handler.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(seconds).clamp(1, MAX_SECONDS);
    let probe = |of: &Value| {
        let here = of.get("host").is_none_or(|host| host.is_null() || host == "");
        let port = number(container, of.get("port")?).filter(|_| here)?;
        Some(Probe { at: String::new(), port, seconds, https: None, http: None })
    };
    let encrypted = |get: &Value| text(get.get("scheme")).eq_ignore_ascii_case("https");
    if let Some(get) = handler.get("httpGet").filter(|get| hook || encrypted(get)) {
        let headers = get.get("httpHeaders").and_then(Value::as_array).into_iter().flatten();
        let headers = headers.map(|one| (text(one.get("name")), text(one.get("value")))).collect();
        let asked = Some(Get { path: text(get.get("path")), headers });
        let (https, http) = if encrypted(get) { (asked, None) } else { (None, asked) };
        return ("httpGet", probe(get).map(|probe| Probe { https, http, ..probe }));
    }
    // A hook that is only a connection does nothing.
    ("tcpSocket", handler.get("tcpSocket").filter(|_| !hook).and_then(probe))
}

/// A port by number, or by the name that its container gives it; none of the sidecar's own.
fn number(container: &Value, port: &Value) -> Option<u16> {
    let named = |name: &str| {
        let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        let found = ports.into_iter().find(|one| one.get("name").is_some_and(|own| own == name));
        found.and_then(|port| port.get("containerPort")?.as_u64()).or_else(|| name.parse().ok())
    };
    let number = port.as_u64().or_else(|| named(port.as_str()?))?;
    let own = [names::PORT_ADMIN, names::PORT_INBOUND, names::PORT_OUTBOUND];
    u16::try_from(number).ok().filter(|port| *port > 0 && !own.contains(port))
}

/// Without a token: as it was once, in what is to be put back.
fn path(token: &str, container: &str, name: &str) -> String {
    let between = if token.is_empty() { "" } else { "/" };
    format!("{PREFIX}{token}{between}{container}/{name}")
}

/// What the name of a container is made of.
fn is_label(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(good)
}

/// The request that a kubelet makes in place of what was taken.
fn instead(taken: &Taken, token: &str) -> Option<Value> {
    let (_, name) = PROBES.into_iter().chain(HOOKS).find(|(at, _)| *at == taken.at)?;
    Some(json!({ "path": path(token, &taken.container, name), "port": names::PORT_ADMIN, "scheme": "HTTP" }))
}

/// Sends the kubelet to the sidecar for what was taken.
pub(super) fn put(pod: &mut Value, record: &Record) {
    for taken in &record.probes {
        let (Some(instead), Some(handler)) = (instead(taken, &record.token), handler(pod, taken)) else { continue };
        handler.retain(|key, _| !taken.was.contains_key(key));
        handler.insert("httpGet".to_owned(), instead);
    }
}

/// The pod with the probes that it had before an earlier injection. What was changed since stays as it is.
pub(super) fn restored<'a>(pod: &'a Value) -> Cow<'a, Value> {
    let Some(record) = Record::of(pod).filter(|record| !record.probes.is_empty()) else { return Cow::Borrowed(pod) };
    let mut changed = pod.clone();
    for taken in &record.probes {
        let (Some(instead), Some(handler)) = (instead(taken, &record.token), handler(&mut changed, taken)) else {
            continue;
        };
        if handler.get("httpGet") == Some(&instead) {
            handler.remove("httpGet");
            handler.extend(taken.was.clone());
        }
    }
    Cow::Owned(changed)
}

fn handler<'a>(pod: &'a mut Value, taken: &Taken) -> Option<&'a mut Map<String, Value>> {
    let place = all_containers(pod).find(|one| one.name() == taken.container && !one.is_of_mesh());
    let (list, at) = place.map(|one| (one.list, one.at))?;
    pod.get_mut("spec")?.get_mut(list)?.get_mut(at)?.pointer_mut(&taken.at)?.as_object_mut()
}

#[cfg(test)]
mod tests;
