//! What holds for one pod: the settings, and what its annotations say otherwise.

use std::fmt::Display;

use ipnet::IpNet;
use mesh_api::names;

use super::{
    pod::Pod,
    ports::{PortList, subnets},
    quantity,
    reason::{Fault, Reason, shown},
    settings::{Native, Settings, Version},
};

/// Longest reference of an image.
const MAX_IMAGE: usize = 512;
/// Longest log level.
const MAX_LEVEL: usize = 256;

/// What one pod's sidecar is made from.
pub(super) struct Overrides {
    pub(super) image: String,
    pub(super) native: bool,
    pub(super) cni: bool,
    pub(super) cpu: Amount,
    pub(super) memory: Amount,
    pub(super) log_level: String,
    pub(super) access_log: bool,
    pub(super) skip_inbound: PortList,
    pub(super) skip_outbound: PortList,
    pub(super) skip_subnets: Vec<IpNet>,
    /// Address of the certificate authority, as the pod can reach it.
    pub(super) ca: String,
    /// Address of the controller.
    pub(super) discovery: String,
}

/// What is asked for, and the most that may be used; empty where nothing is said.
pub(super) struct Amount {
    pub(super) request: String,
    pub(super) limit: String,
}

impl Overrides {
    pub(super) fn read(pod: &Pod<'_>, settings: &Settings, version: Option<Version>, faults: &mut Vec<Fault>) -> Self {
        let config = &settings.config;
        let mut read = Reader { pod, faults };
        let listed = |text: &str| text.parse::<PortList>().unwrap_or_default();
        let skip_inbound = read.value(names::ANNOTATION_SKIP_INBOUND_PORTS, inbound_ports).unwrap_or_default();
        let skip_outbound = read.value(names::ANNOTATION_SKIP_OUTBOUND_PORTS, str::parse).unwrap_or_default();
        let mut nets = read.value(names::ANNOTATION_SKIP_SUBNETS, subnets).unwrap_or_default();
        nets.extend(subnets(&config.skip_subnets).unwrap_or_default());
        nets.sort_unstable();
        nets.dedup();
        // The controller reads it; whoever wrote it wants to hear of a mistake now.
        let _: Option<PortList> = read.value(names::ANNOTATION_OPAQUE_PORTS, str::parse);
        let checked = |check: fn(&str) -> Result<(), String>| move |text: &str| check(text).map(|()| text.to_owned());
        let image = read.value(names::ANNOTATION_PROXY_IMAGE, checked(check_image));
        let log_level = read.value(names::ANNOTATION_PROXY_LOG_LEVEL, checked(check_log_level));
        let access_log = read.value(names::ANNOTATION_PROXY_ACCESS_LOG, switch);
        let numeric = settings.addresses.as_ref().filter(|_| pod.other_dns().is_some());
        let none = String::new();
        let default = |amount| if pod.has_resources() { &none } else { amount };
        let cpu = [names::ANNOTATION_PROXY_CPU_REQUEST, names::ANNOTATION_PROXY_CPU_LIMIT];
        let memory = [names::ANNOTATION_PROXY_MEMORY_REQUEST, names::ANNOTATION_PROXY_MEMORY_LIMIT];
        Self {
            cpu: read.amount(cpu, [default(&config.cpu_request), default(&config.cpu_limit)]),
            memory: read.amount(memory, [default(&config.memory_request), default(&config.memory_limit)]),
            native: read.native(config.native, version),
            image: image.unwrap_or_else(|| config.image.clone()),
            cni: config.cni,
            log_level: log_level.unwrap_or_else(|| config.log_level.clone()),
            access_log: access_log.unwrap_or(config.access_log),
            skip_inbound: listed(&config.skip_inbound_ports).and(&skip_inbound),
            skip_outbound: listed(&config.skip_outbound_ports).and(&skip_outbound),
            skip_subnets: nets,
            ca: numeric.map_or_else(|| config.ca.clone(), |known| known.ca.to_string()),
            discovery: numeric.map_or_else(|| config.discovery.clone(), |known| known.discovery.to_string()),
        }
    }

    /// True where the sidecar needs no name to reach the control plane.
    pub(super) fn is_numeric(&self) -> bool {
        [&self.ca, &self.discovery].iter().all(|address| address.parse::<std::net::SocketAddr>().is_ok())
    }

    /// Threads that carry traffic: what the limit of CPU is rounded up to, else one.
    pub(super) fn workers(&self) -> u128 {
        quantity::thousandths(&self.cpu.limit).map_or(1, |limit| limit.div_ceil(1000).clamp(1, 256))
    }
}

struct Reader<'a, 'b> {
    pod: &'a Pod<'a>,
    faults: &'b mut Vec<Fault>,
}

impl Reader<'_, '_> {
    /// The value of an annotation; `None` where it is not there, or wrong, which is noted.
    fn value<T, E: Display>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let text = self.pod.annotation(name)?;
        match read(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(name, error.to_string());
                None
            }
        }
    }

    fn refuse(&mut self, name: &str, message: String) {
        self.faults.push(Fault::new(Reason::InvalidValue, field(name), message));
    }

    fn amount(&mut self, names: [&str; 2], defaults: [&String; 2]) -> Amount {
        let given = names.map(|name| self.value(name, quantity_of));
        let [request_given, limit_given] = given.each_ref().map(Option::is_some);
        let [mut request, mut limit] = given;
        let [default_request, default_limit] = defaults;
        let size = |text: &Option<String>| text.as_deref().and_then(quantity::thousandths);
        if !request_given {
            request = Some(default_request.clone());
        }
        if !limit_given {
            limit = Some(default_limit.clone());
        }
        if let (Some(asked), Some(most)) = (size(&request), size(&limit))
            && asked > most
        {
            match (request_given, limit_given) {
                // Who sets one of them does not mean the other's default to be in the way.
                (true, false) => limit.clone_from(&request),
                (false, true) => request.clone_from(&limit),
                _ => {
                    let [name, _] = names;
                    let (asked, most) = (request.clone().unwrap_or_default(), limit.clone().unwrap_or_default());
                    self.refuse(name, format!("{asked} is more than the limit of {most}"));
                }
            }
        }
        Amount { request: request.unwrap_or_default(), limit: limit.unwrap_or_default() }
    }

    fn native(&mut self, default: Native, version: Option<Version>) -> bool {
        let asked = self.value(names::ANNOTATION_NATIVE_SIDECAR, switch);
        let auto = version.is_none_or(Version::has_native_sidecars);
        let wanted = asked.or(match default {
            Native::Auto => None,
            Native::True => Some(true),
            Native::False => Some(false),
        });
        if wanted == Some(true)
            && let Some(version) = version.filter(|version| !version.may_have_native_sidecars())
        {
            let message = format!("the cluster is {version}, and native sidecars need 1.29 or later");
            self.faults.push(Fault::new(Reason::NoNativeSidecars, field(names::ANNOTATION_NATIVE_SIDECAR), message));
        }
        wanted.unwrap_or(auto)
    }
}

fn field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{}` is not `true` or `false`", shown(text)))
}

fn quantity_of(text: &str) -> Result<String, String> {
    match quantity::thousandths(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("`{}` is not a quantity such as 100m or 64Mi", shown(text))),
    }
}

/// Ports that may be left out of inbound redirection: not the proxy's own, on which nothing else can arrive.
pub(super) fn inbound_ports(text: &str) -> Result<PortList, String> {
    let list: PortList = text.parse()?;
    for port in [names::PORT_INBOUND, names::PORT_OUTBOUND] {
        if list.contains(port) {
            return Err(format!("`{}` has the sidecar's own port {port} in it", shown(text)));
        }
    }
    Ok(list)
}

/// What a reference of an image is made of; nothing that a kubelet or a shell would expand.
pub(super) fn check_image(text: &str) -> Result<(), String> {
    let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= MAX_IMAGE
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte));
    good.then_some(()).ok_or_else(|| format!("`{}` is not an image such as mesh.dev/proxy:1.2.3", shown(text)))
}

/// Directives such as `info,mesh_proxy=debug`.
pub(super) fn check_log_level(text: &str) -> Result<(), String> {
    let level = |text: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].iter().any(|known| text.eq_ignore_ascii_case(known))
    };
    let target =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte));
    let directive = |text: &str| match text.split_once('=') {
        Some((name, value)) => target(name) && level(value),
        None => level(text),
    };
    let good = text.len() <= MAX_LEVEL && text.split(',').map(str::trim).all(directive);
    good.then_some(()).ok_or_else(|| {
        format!(
            "`{}` is not a log level: off, error, warn, info, debug, trace, or as in info,mesh_proxy=debug",
            shown(text)
        )
    })
}
