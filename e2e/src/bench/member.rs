//! This mesh as one of the chains: certificate authority and controller as they are shipped, two sidecars that the kernel
//! redirects to as in a pod, everything on that a user has on.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::SystemTime};

use anyhow::{Context, Result};
use mesh_api::names;
use mesh_ca::authn::JoinTokens;
use serde_json::{Value, json};

use super::{
    arena::{Ground, Proxies, SERVICE, START},
    certs::{Certs, DOMAIN},
    chain::Port,
};
use crate::{
    bin,
    http::get,
    process::{Process, must_run, until},
    stage::Stage,
};

/// The user that sidecars run as.
const USER: u32 = 15400;

/// Runs what follows as that user.
#[must_use]
pub fn user() -> Vec<String> {
    let user = USER.to_string();
    ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_owned).to_vec()
}

/// Starts the control plane and both sidecars, and waits until they are ready.
///
/// # Errors
/// Where anything of it does not start.
pub fn start(stage: &Stage, ground: &Ground, certs: &Certs) -> Result<Proxies> {
    // Both namespaces have a way to the machine's own: the control plane is there, and out of the measured link.
    let control = ground.client.near();
    let dir = &ground.dir;
    let (ca, discovery) = (stage.lease().port()?, stage.lease().port()?);
    let (ca_admin, controller_admin) = (stage.lease().local()?, stage.lease().local()?);
    let keys = JoinTokens::open_or_create(&dir.join("join.key")).context("the key of join tokens")?;
    let token = |namespace: &str, account: &str, workload: &str| -> Result<Value> {
        let life = std::time::Duration::from_secs(24 * 3600);
        let token = keys.mint_for(namespace, account, Some(workload), life, SystemTime::now().into())?;
        let file = dir.join(format!("{workload}.token"));
        fs::write(&file, token)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        Ok(json!({
            "trust_domain": DOMAIN, "ca": format!("{control}:{ca}"), "token_file": file,
            "roots_file": certs.path("roots.pem"),
        }))
    };
    let ca_config = json!({
        "trust_domain": DOMAIN, "listen": format!("{control}:{ca}"), "admin": ca_admin,
        "state_folder": dir.join("ca"), "join_key_file": dir.join("join.key"),
        "supplied": {
            "roots_file": certs.path("roots.pem"), "chain_file": certs.path("issuer.crt"),
            "key_file": certs.path("issuer.key"),
        },
    });
    let ca = control_plane(ground, "mesh-ca", &ca_config)?;
    let manifests = stage.subdir("mesh/manifests")?;
    fs::write(manifests.join("bench.yaml"), manifest(ground))?;
    let controller_config = json!({
        "listen": format!("{control}:{discovery}"), "admin": { "listen": controller_admin },
        "identity": token(names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT, "controller")?,
        "source": { "folders": [manifests] },
    });
    let controller = control_plane(ground, "mesh-controller", &controller_config)?;
    let otlp = stage.lease().port()?;
    let mut collector = std::process::Command::new("taskset");
    let listen = format!("{control}:{otlp}");
    collector.args(["-c", &ground.processors.load.to_string()]).arg(bin::shipped("mesh-load")?);
    let collector = Process::start("collector", collector.args(["serve", "--listen", &listen]), dir)?;
    let mut sidecars = Vec::new();
    for (client, name) in [(false, "server"), (true, "client")] {
        let netns = if client { &ground.client } else { &ground.server };
        let admin = std::net::SocketAddr::from((netns.far(), names::PORT_ADMIN));
        let config = json!({
            "workload": name, "namespace": "bench", "identity": token("bench", name, name)?,
            "discovery": { "address": format!("{control}:{discovery}") },
            "inbound": { "transparent": format!("0.0.0.0:{}", names::PORT_INBOUND) },
            "outbound": { "transparent": format!("0.0.0.0:{}", names::PORT_OUTBOUND) },
            "admin": { "listen": admin },
            "telemetry": { "otlp_endpoint": format!("http://{control}:{otlp}"), "trace_ratio": 0.01, "access_log": false },
        });
        let program = text(&bin::shipped("mesh-proxy")?);
        let mut words = user();
        words.extend([program.clone(), "--config".to_owned(), write(dir, name, &config)?]);
        let mut sidecar = ground.proxy(client, &words)?;
        until(&format!("the sidecar {name} is ready"), START, || {
            let gone = sidecar.status()?.is_some();
            anyhow::ensure!(!gone, sidecar.explain(anyhow::anyhow!("it ended")));
            Ok(get(admin, "/ready", START).is_ok_and(|answer| answer.status.is_success()).then_some(()))
        })?;
        let mut redirect = netns.command(&program);
        must_run(redirect.args(["redirect", "apply", "--proxy-uid", &USER.to_string()]), START)?;
        sidecars.push(sidecar);
    }
    let outbound = sidecars.pop().context("no sidecar")?;
    let inbound = sidecars.pop().context("no sidecar")?;
    Ok(Proxies { outbound, inbound, others: vec![controller, ca, collector] })
}

fn manifest(ground: &Ground) -> String {
    let protocol = |port: Port| match port {
        Port::H1 => "http",
        Port::Tcp => "tcp",
        Port::H2 => "http2",
        Port::Grpc => "grpc",
    };
    let ports = Port::ALL.map(|port| {
        let (service, app, protocol) = (port.service(), port.application(), protocol(port));
        let own = format!("{{port: {app}, appProtocol: {protocol}}}");
        (format!("{{name: p{service}, port: {service}, targetPort: {app}, appProtocol: {protocol}}}"), own)
    });
    let [services, own] =
        [ports.clone().map(|(service, _)| service), ports.map(|(_, own)| own)].map(|all| all.join(", "));
    let (client, server) = (ground.link.near, ground.link.far);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: server, namespace: bench}}\n\
         spec: {{clusterIP: {SERVICE}, selector: {{app: server}}, ports: [{services}]}}\n---\n\
         apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\n\
         metadata: {{name: server, namespace: bench, labels: {{app: server}}}}\n\
         spec: {{address: {server}, serviceAccount: server, ports: [{own}]}}\n---\n\
         apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\n\
         metadata: {{name: client, namespace: bench, labels: {{app: client}}}}\n\
         spec: {{address: {client}, serviceAccount: client}}\n---\n\
         apiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {{name: strict, namespace: bench}}\n\
         spec: {{mode: Strict}}\n---\n\
         apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: client, namespace: bench}}\n\
         spec:\n  action: Allow\n  rules: [{{from: [{{serviceAccounts: [bench/client]}}]}}]\n"
    )
}

fn control_plane(ground: &Ground, program: &str, config: &Value) -> Result<Process> {
    let file = write(&ground.dir, program, config)?;
    let mut command = std::process::Command::new("taskset");
    command.args(["-c", &ground.processors.load.to_string()]).arg(bin::shipped(program)?).args(["--config", &file]);
    Process::start(program, &command, &ground.dir)
}

fn write(dir: &Path, name: &str, config: &Value) -> Result<String> {
    let file = dir.join(format!("{name}.json"));
    fs::write(&file, config.to_string())?;
    Ok(text(&file))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
