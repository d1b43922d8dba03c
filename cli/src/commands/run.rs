//! `meshctl run`: a program of one's own, in the foreground, as a member of a mesh that runs.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use mesh_api::{
    model::{Target, is_dns_label},
    resources::ExternalWorkload,
    supervise::terminated,
};
use serde_json::Value;
use tokio::{process::Child, sync::watch};

use crate::{
    io::{self, Tone},
    local::{
        join::Registration,
        keep::{Kept, Wanted},
        plan::{self, Plan},
        ports::{self, Ports},
        process::{self, Launcher, Program, Spec},
        register::{self, Joining, Known},
        report::{Notices, reporter},
        settings::{self, Settings},
        state::{AppEntry, MeshFile, SidecarEntry, StateDir, WorkloadEntry},
        tokens::{self, Tokens},
        workload::ready,
    },
};

/// How long the sidecar may take to become ready.
const WAIT: Duration = Duration::from_secs(60);
/// How often it is looked whether the program listens.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked whether the mesh still runs.
const MESH: Duration = Duration::from_secs(2);
/// How long the program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// Arguments of `meshctl run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl run --service payments --namespace shop --port 8080 -- ./payments --verbose\n  \
    meshctl run --service web --port 8080 --upstream payments:80=19001 -- python3 -m http.server 8080 --bind 127.0.0.1\n\n\
    The program must listen on 127.0.0.1 (or on --app-address): the sidecar has the port on the\n\
    address on which peers reach it. It finds its upstreams in MESH_UPSTREAM_NAME. Its exit code\n\
    is the exit code of meshctl run."
)]
pub struct Args {
    /// Service that the program belongs to; it is made where it is not there.
    #[arg(long, value_name = "NAME", value_parser = label)]
    service: String,
    /// Port of the Service, or of its workloads; the program's own as well, without --app-port.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Namespace.
    #[arg(long, value_name = "NS", default_value = "default", value_parser = label)]
    namespace: String,
    /// Service account, which makes the identity [default: the Service's name].
    #[arg(long, value_name = "NAME", value_parser = label)]
    service_account: Option<String>,
    /// Address on which peers reach the program: auto (a loopback address of its own), or an IP address.
    #[arg(long, value_name = "IP", default_value = "auto", value_parser = listen_address)]
    listen_address: ListenAddress,
    /// Address on which the program listens.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    app_address: IpAddr,
    /// Port on which the program listens, where it is another one.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    app_port: Option<u16>,
    /// Something that the program calls, and the local port or IP:PORT for it. Can be repeated.
    #[arg(long = "upstream", value_name = "SERVICE:PORT=LISTEN", value_parser = upstream)]
    upstreams: Vec<(String, SocketAddr)>,
    /// Folder of the running mesh [default: $XDG_RUNTIME_DIR/mesh, else /tmp/mesh-UID].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Program and arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug)]
enum ListenAddress {
    Auto,
    Ip(IpAddr),
}

fn label(text: &str) -> Result<String, String> {
    if is_dns_label(text) { Ok(text.to_owned()) } else { Err("it is no name (a-z, 0-9 and -, at most 63)".into()) }
}

fn listen_address(text: &str) -> Result<ListenAddress, String> {
    match text {
        "auto" => Ok(ListenAddress::Auto),
        ip => ip.parse().map(ListenAddress::Ip).map_err(|_| "it is neither auto nor an IP address".into()),
    }
}

/// The namespace is not known here; that the name can be read is checked.
fn upstream(text: &str) -> Result<(String, SocketAddr), String> {
    let (service, listen) =
        text.rsplit_once('=').ok_or("it has no `=`; write SERVICE:PORT=LISTEN, as in web:80=19001")?;
    plan::target(service, "default")?;
    let listen = match listen.parse::<u16>() {
        Ok(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => listen.parse().ok(),
    };
    let listen = listen.filter(|listen| listen.port() != 0).ok_or("LISTEN is not IP:PORT, nor a port of 127.0.0.1")?;
    Ok((service.to_owned(), listen))
}

/// Runs the program until it ends.
///
/// # Errors
/// Where no mesh runs, or the program cannot join it.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (state, mesh) = StateDir::of_running(StateDir::choose(args.state.as_deref()))?;
    let (reporter, mut notices) = reporter();
    let joining = joining(&args)?;
    let known = Known::read(&[&mesh.source, &state.workloads()]);
    let port = known.port(&joining).map_err(|why| anyhow!(why))?;
    let (labels, service) = known.labels(&joining).map_err(|why| anyhow!(why))?;
    let address = match args.listen_address {
        ListenAddress::Ip(address) => address,
        ListenAddress::Auto => {
            let name = format!("{}/{}", joining.namespace, joining.name);
            ports::loopback_for(&name, port.port, &known.addresses)?
        }
    };
    let object = register::workload(&joining, address, port, labels);
    let plan = plan::plan(&object, std::path::Path::new(".")).map_err(|unfit| anyhow!("{unfit}"))?;
    let launcher = Launcher::this().context("cannot tell where meshctl is")?;
    let settings = settings(&state, &mesh, launcher, reporter)?;
    let member = Member::join(settings, plan, object, service, args.command, joining.app)?;
    tokio::select! {
        result = member.live() => result,
        () = tell(&mut notices) => bail!("nothing can be told any more"),
    }
}

fn joining(args: &Args) -> anyhow::Result<Joining> {
    let suffix = format!("-{}", std::process::id());
    let short = args.service.get(..args.service.len().min(63 - suffix.len())).unwrap_or_default();
    let target = |(service, listen): &(String, SocketAddr)| -> anyhow::Result<(Target, SocketAddr)> {
        Ok((plan::target(service, &args.namespace).map_err(|why| anyhow!(why))?, *listen))
    };
    Ok(Joining {
        namespace: args.namespace.clone(),
        name: format!("{short}{suffix}"),
        service: args.service.clone(),
        account: args.service_account.clone().unwrap_or_else(|| args.service.clone()),
        app: SocketAddr::new(args.app_address, args.app_port.unwrap_or(args.port)),
        upstreams: args.upstreams.iter().map(target).collect::<anyhow::Result<_>>()?,
    })
}

fn settings(
    state: &StateDir,
    mesh: &MeshFile,
    launcher: Launcher,
    reporter: crate::local::report::Reporter,
) -> anyhow::Result<Arc<Settings>> {
    Ok(Arc::new(Settings {
        tokens: Mutex::new(Tokens::open(state)?),
        state: state.clone(),
        launcher,
        overrides: Vec::new(),
        trust_domain: mesh.trust_domain.parse().context("the mesh's trust domain")?,
        ca: mesh.ca.address,
        discovery: mesh.controller.address,
        otlp: mesh.traces.as_ref().map(|traces| traces.otlp),
        wait: WAIT,
        reporter,
        changed: watch::channel(()).0,
        ports: Mutex::new(Ports::new()),
        starting: settings::starting(),
    }))
}

/// Prints what happens to standard error: standard output is the program's.
async fn tell(notices: &mut Notices) {
    while let Some(notice) = notices.next().await {
        match notice.tone {
            Tone::Bad => io::complain(&io::printable(&notice.text)),
            _ => eprintln!("meshctl: {}", io::printable(&notice.text)),
        }
    }
}

/// A program in the foreground, with its sidecar and its registration.
struct Member {
    settings: Arc<Settings>,
    plan: Plan,
    object: ExternalWorkload,
    service: Option<Value>,
    registration: Registration,
    sidecar: Kept,
    admin: SocketAddr,
    program: Spec,
    app: SocketAddr,
}

impl Member {
    fn join(
        settings: Arc<Settings>,
        plan: Plan,
        object: ExternalWorkload,
        service: Option<Value>,
        command: Vec<OsString>,
        app: SocketAddr,
    ) -> anyhow::Result<Self> {
        let registration = Registration::take(&settings.state, &format!("{}.{}", plan.id.namespace, plan.id.name))?;
        let admin = settings.port()?;
        let sidecar = plan.sidecar.as_ref().context("the workload has no sidecar")?;
        let spec = settings.sidecar_process(&plan, sidecar, admin)?;
        let (reporter, changed) = (settings.reporter.clone(), settings.changed.clone());
        let sidecar = Kept::new(settings.launcher.clone(), spec, Wanted::Down, reporter, changed);
        let program = Spec {
            name: "the program".into(),
            program: Program::Other(command),
            env: plan::environment(&plan).into_iter().collect(),
            dir: None,
            log: PathBuf::new(),
            grace: GRACE,
        };
        Ok(Self { settings, plan, object, service, registration, sidecar, admin, program, app })
    }

    async fn live(self) -> anyhow::Result<ExitCode> {
        let stop = terminated();
        tokio::pin!(stop);
        self.registration.register(&register::manifest(&self.object, self.service.as_ref(), false))?;
        self.sidecar.want(Wanted::Up);
        tokio::select! {
            result = ready(self.admin, WAIT, |_| ()) => if let Err(why) = result {
                self.sidecar.stop().await;
                bail!("the sidecar is not ready: {why}\n  its log: {}", self.sidecar.log().display());
            },
            () = &mut stop => {
                self.sidecar.stop().await;
                return Ok(ExitCode::FAILURE);
            }
        }
        let mut child =
            self.settings.launcher.start_in_foreground(&self.program).context("cannot start the program")?;
        let pid = child.id();
        let status = tokio::select! {
            status = child.wait() => status?,
            never = self.serve(pid) => match never? {},
            () = &mut stop => self.end(&mut child).await?,
        };
        self.registration.unregister();
        self.sidecar.stop().await;
        Ok(exit_code(status))
    }

    /// What goes on while the program runs: peers are told when it listens, `mesh.json` who runs, tokens are made anew.
    async fn serve(&self, pid: Option<u32>) -> anyhow::Result<std::convert::Infallible> {
        let announce = async {
            while !ports::is_listening(self.app) {
                tokio::time::sleep(LOOK).await;
            }
            self.registration.register(&register::manifest(&self.object, self.service.as_ref(), true))?;
            let peers: Vec<_> =
                self.plan.sidecar.iter().flat_map(|s| &s.inbound).map(|(at, _)| at.to_string()).collect();
            let said = format!("{} is a member of the mesh; peers reach it at {}", self.plan.id, peers.join(", "));
            self.settings.reporter.say(Tone::Good, said);
            std::future::pending::<anyhow::Result<()>>().await
        };
        tokio::select! {
            failed = announce => failed?,
            failed = self.tell_who_runs(pid) => failed?,
            () = self.watch_mesh() => {}
            () = self.refresh_tokens() => {}
        }
        bail!("a part of meshctl ended although it never should")
    }

    async fn tell_who_runs(&self, pid: Option<u32>) -> anyhow::Result<()> {
        let mut changes = self.settings.changed.subscribe();
        loop {
            changes.borrow_and_update();
            self.registration.running(&WorkloadEntry {
                namespace: self.plan.id.namespace.to_string(),
                name: self.plan.id.name.to_string(),
                sidecar: Some(SidecarEntry { pid: self.sidecar.doing().pid(), admin: self.admin }),
                app: Some(AppEntry { pid }),
            })?;
            changes.changed().await?;
        }
    }

    async fn watch_mesh(&self) {
        let mut said = false;
        loop {
            tokio::time::sleep(MESH).await;
            let runs = StateDir::of_running(self.settings.state.root().into()).is_ok();
            if !runs && !said {
                self.settings.reporter.say(Tone::Warn, "the mesh ended; the program goes on with what it knew last");
            }
            said = !runs;
        }
    }

    async fn refresh_tokens(&self) {
        loop {
            tokio::time::sleep(tokens::REFRESH).await;
            let tokens = self.settings.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Err(error) = tokens.refresh() {
                self.settings.reporter.say(Tone::Bad, format!("the join token cannot be made anew: {error:#}"));
            }
        }
    }

    /// Nobody new comes, what is in flight ends while the program still runs, then the program ends.
    async fn end(&self, child: &mut Child) -> anyhow::Result<ExitStatus> {
        self.registration.unregister();
        tokio::select! {
            () = self.sidecar.stop() => {}
            // In a terminal, Ctrl-C reached the program as well.
            status = child.wait() => return Ok(status?),
        }
        Ok(process::terminate(child, GRACE).await?)
    }
}

/// The program's code; for one that was killed what a shell would say.
fn exit_code(status: ExitStatus) -> ExitCode {
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_read() {
        assert_eq!(upstream("web:80=19001"), Ok(("web:80".into(), "127.0.0.1:19001".parse().unwrap())));
        assert_eq!(upstream("web.shop:80=127.0.0.9:1"), Ok(("web.shop:80".into(), "127.0.0.9:1".parse().unwrap())));
        for wrong in ["web", "web:80", "web=1", "web:80=0", "web:80=x", "1.2.3.4:80=1"] {
            assert!(upstream(wrong).is_err(), "{wrong}");
        }
    }
}
