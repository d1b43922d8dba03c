//! From an ExternalWorkload to what is to be started beside it. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use mesh_api::{
    model::{Target, WorkloadId},
    resources::{AppAddress, ExternalWorkload, Upstream},
};

/// Account of a workload that names none.
pub const DEFAULT_ACCOUNT: &str = "default";

/// What is to run for one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which workload.
    pub id: WorkloadId,
    /// Its sidecar; none where it is no member of the mesh.
    pub sidecar: Option<Sidecar>,
    /// Its program; none where somebody else runs it.
    pub app: Option<App>,
}

/// A sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Service account.
    pub account: String,
    /// Topology zone.
    pub zone: String,
    /// Where peers reach the workload, and where its program listens.
    pub inbound: Vec<(SocketAddr, SocketAddr)>,
    /// Where the program reaches others, and whom.
    pub outbound: Vec<(SocketAddr, Target)>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment, on top of ours.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub dir: PathBuf,
    /// Where it listens once it is ready.
    pub listens: Vec<SocketAddr>,
}

/// Why a workload cannot be run here; its author's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// Field of the object.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// What is to run for `object`, whose manifest lies in `folder`.
///
/// # Errors
/// [`Unfit`], the first fault found.
pub fn plan(object: &ExternalWorkload, folder: &Path) -> Result<Plan, Unfit> {
    let id =
        WorkloadId { namespace: object.metadata.namespace.as_str().into(), name: object.metadata.name.as_str().into() };
    let spec = &object.spec;
    let inbound = inbound(object)?;
    let has_sidecar = spec.sidecar.unwrap_or(true);
    let outbound = if has_sidecar { outbound(&spec.upstreams, &id.namespace)? } else { Vec::new() };
    let app = match &spec.run {
        Some(run) if run.command.is_empty() => {
            return Err(unfit("spec.run.command", "it is empty; name the program and its arguments"));
        }
        Some(run) => Some(App {
            command: run.command.clone(),
            env: told(&id, &outbound, &run.env),
            dir: run.working_dir.as_ref().map_or_else(|| folder.to_owned(), |dir| folder.join(dir)),
            listens: inbound.iter().map(|(_, app)| *app).collect(),
        }),
        None => None,
    };
    let sidecar = has_sidecar.then(|| Sidecar {
        account: spec.service_account.clone().unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned()),
        zone: spec.zone.clone().unwrap_or_default(),
        inbound,
        outbound,
    });
    Ok(Plan { id, sidecar, app })
}

/// Refuses plans that would listen where an earlier one listens: the system would share their connections out.
pub fn refuse_clashes(plans: &mut Vec<Plan>) -> Vec<(WorkloadId, Unfit)> {
    let mut owners: HashMap<SocketAddr, WorkloadId> = HashMap::new();
    let mut refused = Vec::new();
    plans.retain(|plan| {
        let clash = plan.listens().find_map(|address| owners.get(&address).map(|owner| (address, owner.clone())));
        match clash {
            Some((address, owner)) => {
                let reason = format!("{owner} has {address} already; give each workload an address of its own");
                refused.push((plan.id.clone(), unfit("spec", reason)));
                false
            }
            None => {
                owners.extend(plan.listens().map(|address| (address, plan.id.clone())));
                true
            }
        }
    });
    refused
}

impl Plan {
    fn listens(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let sidecar = self.sidecar.iter();
        let own = sidecar.flat_map(|s| s.inbound.iter().map(|(a, _)| *a).chain(s.outbound.iter().map(|(a, _)| *a)));
        own.chain(self.app.iter().flat_map(|app| app.listens.iter().copied()))
    }
}

fn inbound(object: &ExternalWorkload) -> Result<Vec<(SocketAddr, SocketAddr)>, Unfit> {
    let spec = &object.spec;
    let ip: IpAddr =
        spec.address.parse().map_err(|_| unfit("spec.address", format!("`{}` is no IP address", spec.address)))?;
    let has_sidecar = spec.sidecar.unwrap_or(true);
    spec.ports
        .iter()
        .enumerate()
        .map(|(at, port)| {
            let field = format!("spec.ports[{at}]");
            let peers = SocketAddr::new(ip, port.port);
            // Without a sidecar in between, peers reach the program itself.
            let default = if has_sidecar { SocketAddr::from((Ipv4Addr::LOCALHOST, port.port)) } else { peers };
            let app = port.app.as_ref().map_or(Ok(default), |app| address(app, &format!("{field}.app")))?;
            if has_sidecar && app == peers {
                let reason = format!("sidecar and program would both listen on {app}; set `app`, or another address");
                return Err(unfit(field, reason));
            }
            Ok((peers, app))
        })
        .collect()
}

fn outbound(upstreams: &[Upstream], namespace: &str) -> Result<Vec<(SocketAddr, Target)>, Unfit> {
    let one = |(at, upstream): (usize, &Upstream)| {
        let listen = address(&upstream.listen, &format!("spec.upstreams[{at}].listen"))?;
        let to = target(&upstream.service, namespace)
            .map_err(|reason| unfit(format!("spec.upstreams[{at}].service"), reason))?;
        Ok((listen, to))
    };
    upstreams.iter().enumerate().map(one).collect()
}

/// Whom an upstream means: `NAME:PORT`, `NAME.NAMESPACE:PORT` or `NAME.NAMESPACE.svc:PORT`.
///
/// # Errors
/// Why it cannot be understood.
pub fn target(text: &str, namespace: &str) -> Result<Target, String> {
    let wrong = || format!("`{text}` is not NAME:PORT, NAME.NAMESPACE:PORT or NAME.NAMESPACE.svc:PORT");
    let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let full = if name.contains('.') { text.to_owned() } else { format!("{name}.{namespace}:{port}") };
    match full.parse() {
        Ok(target @ Target::Service { .. }) => Ok(target),
        _ => Err(wrong()),
    }
}

fn address(text: &AppAddress, field: &str) -> Result<SocketAddr, Unfit> {
    let found = match text {
        AppAddress::Port(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))),
        AppAddress::Address(text) => text.parse().ok(),
    };
    found
        .filter(|address| address.port() != 0)
        .ok_or_else(|| unfit(field, "it is not IP:PORT, nor a port of 127.0.0.1"))
}

/// What a program in the foreground is told: who it is and where it reaches whom.
#[must_use]
pub fn environment(plan: &Plan) -> BTreeMap<String, String> {
    let outbound = plan.sidecar.as_ref().map(|sidecar| sidecar.outbound.as_slice()).unwrap_or_default();
    told(&plan.id, outbound, &BTreeMap::new())
}

/// What the program is told: who it is and where it reaches whom; what its author says wins.
fn told(
    id: &WorkloadId,
    outbound: &[(SocketAddr, Target)],
    own: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("MESH_WORKLOAD".to_owned(), id.name.to_string()),
        ("MESH_NAMESPACE".to_owned(), id.namespace.to_string()),
    ]);
    for (listen, target) in outbound {
        let Target::Service { name, port, .. } = target else { continue };
        let name = format!("MESH_UPSTREAM_{}", name.to_ascii_uppercase().replace('-', "_"));
        // Of several ports of one name, the first has the short name.
        env.insert(format!("{name}_{port}"), listen.to_string());
        env.entry(name).or_insert_with(|| listen.to_string());
    }
    env.extend(own.clone());
    env
}

fn unfit(field: impl Into<String>, reason: impl Into<String>) -> Unfit {
    Unfit { field: field.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(spec: &str) -> ExternalWorkload {
        let text = format!("{{\"metadata\": {{\"name\": \"web-1\", \"namespace\": \"shop\"}}, \"spec\": {spec}}}");
        serde_json::from_str(&text).unwrap()
    }

    fn planned(spec: &str) -> Result<Plan, String> {
        plan(&workload(spec), Path::new("/mesh")).map_err(|unfit| unfit.to_string())
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_member_with_a_program() {
        let plan = planned(
            r#"{"address": "127.0.1.1", "zone": "a", "ports": [{"port": 8080}, {"port": 9, "app": 18009}],
                "upstreams": [{"service": "pay-ments:80", "listen": 19001},
                              {"service": "db.data.svc:5432", "listen": "127.0.1.1:5432"},
                              {"service": "db.data:5433", "listen": "127.0.1.1:5433"}],
                "run": {"command": ["./web"], "env": {"A": "1", "MESH_UPSTREAM_DB": "mine"}, "workingDir": "sub"}}"#,
        )
        .unwrap();
        let sidecar = plan.sidecar.unwrap();
        assert_eq!((sidecar.account.as_str(), sidecar.zone.as_str()), ("default", "a"));
        let wanted = [(at("127.0.1.1:8080"), at("127.0.0.1:8080")), (at("127.0.1.1:9"), at("127.0.0.1:18009"))];
        assert_eq!(sidecar.inbound, wanted);
        let outbound: Vec<_> = sidecar.outbound.iter().map(|(at, to)| format!("{at} {to}")).collect();
        let wanted = [
            "127.0.0.1:19001 pay-ments.shop.svc:80",
            "127.0.1.1:5432 db.data.svc:5432",
            "127.0.1.1:5433 db.data.svc:5433",
        ];
        assert_eq!(outbound, wanted);
        let app = plan.app.unwrap();
        let env: Vec<_> = app.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let wanted = [
            "A=1",
            "MESH_NAMESPACE=shop",
            "MESH_UPSTREAM_DB=mine",
            "MESH_UPSTREAM_DB_5432=127.0.1.1:5432",
            "MESH_UPSTREAM_DB_5433=127.0.1.1:5433",
            "MESH_UPSTREAM_PAY_MENTS=127.0.0.1:19001",
            "MESH_UPSTREAM_PAY_MENTS_80=127.0.0.1:19001",
            "MESH_WORKLOAD=web-1",
        ];
        assert_eq!(env, wanted);
        assert_eq!((app.dir.as_path(), app.listens.len()), (Path::new("/mesh/sub"), 2));
    }

    #[test]
    fn without_a_sidecar_peers_reach_the_program() {
        let plan = planned(
            r#"{"address": "127.0.1.1", "sidecar": false, "ports": [{"port": 80}], "run": {"command": ["x"]}}"#,
        );
        let plan = plan.unwrap();
        assert_eq!((plan.sidecar, plan.app.unwrap().listens), (None, vec![at("127.0.1.1:80")]));
    }

    #[test]
    fn faults_are_named() {
        for (spec, reason) in [
            (r#"{"address": "web"}"#, "spec.address: `web` is no IP address"),
            (
                r#"{"address": "127.0.0.1", "ports": [{"port": 80}]}"#,
                "spec.ports[0]: sidecar and program would both listen",
            ),
            (
                r#"{"address": "127.0.1.1", "ports": [{"port": 80, "app": "x"}]}"#,
                "spec.ports[0].app: it is not IP:PORT",
            ),
            (
                r#"{"address": "127.0.1.1", "upstreams": [{"service": "x", "listen": 1}]}"#,
                "spec.upstreams[0].service: `x` is not",
            ),
            (r#"{"address": "127.0.1.1", "upstreams": [{"service": "1.2.3.4:5", "listen": 1}]}"#, "is not NAME:PORT"),
            (
                r#"{"address": "127.0.1.1", "upstreams": [{"service": "x:1", "listen": 0}]}"#,
                "spec.upstreams[0].listen: it is",
            ),
            (r#"{"address": "127.0.1.1", "run": {"command": []}}"#, "spec.run.command: it is empty"),
        ] {
            let error = planned(spec).unwrap_err();
            assert!(error.contains(reason), "{spec}: {error}");
        }
    }

    #[test]
    fn two_that_would_share_an_address_are_told_apart() {
        let spec = r#"{"address": "127.0.1.1", "ports": [{"port": 80}]}"#;
        let first = planned(spec).unwrap();
        let mut second = first.clone();
        second.id.name = "web-2".into();
        let mut plans = vec![first.clone(), second];
        let refused = refuse_clashes(&mut plans);
        assert_eq!(plans, [first]);
        let wanted = "spec: shop/web-1 has 127.0.1.1:80 already; give each workload an address of its own";
        assert_eq!((refused[0].0.to_string(), refused[0].1.to_string()), ("shop/web-2".into(), wanted.into()));
    }
}
