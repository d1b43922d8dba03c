//! Where one chain runs: a namespace for the client, one for the server, a link between them, the applications, and the two
//! proxies. Both proxies share one processor; load and applications share another.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit};

use super::{
    certs::Certs,
    chain::{Chain, Kind, Pair, Place, Port},
    member,
};
use crate::{
    bin,
    netns::Netns,
    ports::Network,
    process::{Process, must_run, until},
    stage::Stage,
};

/// The service's address, which no machine has.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 212, 9, 9);
/// How long anything may take to start.
pub const START: Duration = Duration::from_secs(30);

/// Which processors are whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processors {
    /// Of load and applications.
    pub load: usize,
    /// Of both proxies.
    pub proxies: usize,
}

impl Processors {
    /// The first two of this machine; where there is one alone, that one.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let many = std::thread::available_parallelism().is_ok_and(|number| number.get() > 1);
        Self { load: 0, proxies: usize::from(many) }
    }
}

/// The two proxies of a chain.
#[derive(Debug)]
pub struct Proxies {
    /// Beside the client.
    pub outbound: Process,
    /// Beside the server.
    pub inbound: Process,
    /// What they need to live.
    pub others: Vec<Process>,
}

/// A chain that runs.
#[derive(Debug)]
pub struct Arena {
    /// Which.
    pub chain: Chain,
    /// None where the client speaks to the application.
    pub proxies: Option<Proxies>,
    _apps: Vec<Process>,
    /// Where the load comes from.
    pub ground: Ground,
}

/// Namespaces and processors of a chain.
#[derive(Debug)]
pub struct Ground {
    /// The client's namespace.
    pub client: Netns,
    /// The server's.
    pub server: Netns,
    /// The link between them: the client is near.
    pub link: Network,
    /// A folder for this chain.
    pub dir: PathBuf,
    /// Whose is which.
    pub processors: Processors,
}

impl Ground {
    fn create(stage: &Stage, name: &str, processors: Processors) -> Result<Self> {
        let lease = stage.lease();
        let (client, server, link) = (Netns::create(lease)?, Netns::create(lease)?, lease.network()?);
        let (near, far) = (format!("{}c", link.name), format!("{}s", link.name));
        ip(&[
            "link",
            "add",
            &near,
            "netns",
            client.name(),
            "type",
            "veth",
            "peer",
            "name",
            &far,
            "netns",
            server.name(),
        ])?;
        for (netns, interface, address) in [(&client, &near, link.near), (&server, &far, link.far)] {
            ip(&["-n", netns.name(), "addr", "add", &format!("{address}/30"), "dev", interface])?;
            ip(&["-n", netns.name(), "link", "set", interface, "up"])?;
        }
        Ok(Self { client, server, link, dir: stage.subdir(name)?, processors })
    }

    /// A program within a namespace, on one processor.
    #[must_use]
    pub fn command(&self, netns: &Netns, processor: usize, words: &[String]) -> Command {
        let mut command = netns.command("taskset");
        // As many files as are allowed: every connection is one.
        let files = format!("--nofile={0}:{0}", files());
        command.args(["-c", &processor.to_string(), "prlimit", &files]).args(words);
        command
    }

    fn start(&self, name: &str, netns: &Netns, processor: usize, words: &[String]) -> Result<Process> {
        Process::start(name, &self.command(netns, processor, words), &self.dir)
    }

    /// A proxy beside the client (true) or the server.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn proxy(&self, client: bool, words: &[String]) -> Result<Process> {
        let (name, netns) = if client { ("outbound", &self.client) } else { ("inbound", &self.server) };
        self.start(name, netns, self.processors.proxies, words)
    }
}

impl Arena {
    /// Starts a chain and waits until it carries all that it should.
    ///
    /// # Errors
    /// Where it does not.
    pub fn start(stage: &Stage, chain: Chain, certs: &Certs, www: &Path, processors: Processors) -> Result<Self> {
        let ground = Ground::create(stage, &chain.name, processors)?;
        let apps = applications(&ground, www)?;
        let proxies = match &chain.kind {
            Kind::Direct => {
                track(&ground)?;
                None
            }
            Kind::Pair(pair) => Some(start_pair(&ground, pair, certs)?),
            Kind::Mesh => Some(member::start(stage, &ground, certs)?),
        };
        let arena = Self { chain, proxies, _apps: apps, ground };
        for port in &arena.chain.carries {
            arena.carries(*port).with_context(|| format!("{} does not carry {port:?}", arena.chain.name))?;
        }
        Ok(arena)
    }

    /// Where the client asks.
    #[must_use]
    pub fn target(&self, port: Port) -> SocketAddr {
        match self.chain.kind {
            Kind::Direct => (self.ground.link.far, port.application()).into(),
            _ => (SERVICE, port.service()).into(),
        }
    }

    /// Where the inbound proxy is connected to by its peer.
    #[must_use]
    pub fn inbound(&self, port: Port) -> SocketAddr {
        match self.chain.kind {
            Kind::Pair(_) => (self.ground.link.far, port.inbound()).into(),
            _ => (self.ground.link.far, port.application()).into(),
        }
    }

    /// The load program within the client's namespace.
    ///
    /// # Errors
    /// Where it was not built.
    pub fn load(&self, arguments: &[String]) -> Result<Command> {
        self.load_as(&[], arguments)
    }

    /// The same as whom no redirection is meant for: the outbound proxy itself.
    ///
    /// # Errors
    /// As [`Arena::load`].
    pub fn load_as_proxy(&self, arguments: &[String]) -> Result<Command> {
        match self.chain.kind {
            Kind::Mesh => self.load_as(&member::user(), arguments),
            _ => self.load(arguments),
        }
    }

    fn load_as(&self, before: &[String], arguments: &[String]) -> Result<Command> {
        let mut words = before.to_vec();
        words.push(bin::shipped("mesh-load")?.to_string_lossy().into_owned());
        words.extend_from_slice(arguments);
        Ok(self.ground.command(&self.ground.client, self.ground.processors.load, &words))
    }

    fn carries(&self, port: Port) -> Result<()> {
        let to = self.target(port).to_string();
        let kind = match port {
            Port::H1 | Port::Tcp => vec!["h1"],
            Port::H2 => vec!["h2", "--kind", "get"],
            Port::Grpc => vec!["h2", "--kind", "unary"],
        };
        let rest = ["--to", &to, "--connections", "1", "--seconds", "0.05"];
        let words: Vec<String> = kind.into_iter().chain(rest).map(str::to_owned).collect();
        let command = self.load(&words)?;
        let mut last = String::new();
        until("a request is answered", START, || {
            last = match must_run(&command, START) {
                Ok(output) if output.text().contains("\"errors\":0,") => return Ok(Some(())),
                Ok(output) => output.text(),
                Err(error) => format!("{error:#}"),
            };
            Ok(None)
        })
        .with_context(|| format!("{last}\nlogs are in {}", self.ground.dir.display()))
    }
}

/// Files that one process may have open here; few where the system does not say.
#[must_use]
pub fn files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, most)| most.min(1 << 18))
}

fn applications(ground: &Ground, www: &Path) -> Result<Vec<Process>> {
    let dir = ground.dir.display();
    let config = format!(
        "daemon off;\nworker_processes 1;\npid {dir}/app.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 30000; }}\nhttp {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  \
         keepalive_timeout 1h;\n  keepalive_requests 100000000;\n  client_body_temp_path {dir}/app-body;\n  \
         proxy_temp_path {dir}/app-1;\n  fastcgi_temp_path {dir}/app-2;\n  uwsgi_temp_path {dir}/app-3;\n  \
         scgi_temp_path {dir}/app-4;\n  server {{ listen 8080; listen 8081; root {www}; }}\n  \
         server {{ listen 8082 http2; sendfile off; root {www}; }}\n}}\n",
        www = www.display()
    );
    let file = ground.dir.join("app.conf");
    fs::write(&file, config)?;
    let words = ["nginx", "-p", &dir.to_string(), "-e", "stderr", "-c", &file.to_string_lossy()].map(str::to_owned);
    let processor = ground.processors.load;
    let nginx = ground.start("app", &ground.server, processor, &words)?;
    let load = bin::shipped("mesh-load")?.to_string_lossy().into_owned();
    let listen = format!("0.0.0.0:{}", Port::Grpc.application());
    let grpc = ground.start("calls", &ground.server, processor, &[load, "serve".into(), "--listen".into(), listen])?;
    Ok(vec![nginx, grpc])
}

fn start_pair(ground: &Ground, pair: &Pair, certs: &Certs) -> Result<Proxies> {
    track(ground)?;
    let mut rules = String::from("table ip bench {\n chain to_the_proxy {\n type nat hook output priority -100\n");
    for port in Port::ALL {
        rules += &format!("ip daddr {SERVICE} tcp dport {} redirect to :{}\n", port.service(), port.outbound());
    }
    nft(&ground.client, &ground.dir, &(rules + "}\n}\n"))?;
    let place = Place { server: ground.link.far, certs: certs.dir.clone(), dir: ground.dir.clone() };
    let inbound = ground.proxy(false, &pair.inbound.render("inbound", &place)?)?;
    let outbound = ground.proxy(true, &pair.outbound.render("outbound", &place)?)?;
    Ok(Proxies { outbound, inbound, others: Vec::new() })
}

/// Connections are tracked in every namespace alike: the redirection of a pod makes the kernel do so.
fn track(ground: &Ground) -> Result<()> {
    let rules = "table ip tracked { chain every { type nat hook prerouting priority -100\n }\n}\n";
    nft(&ground.client, &ground.dir, rules)?;
    nft(&ground.server, &ground.dir, rules)
}

fn nft(netns: &Netns, dir: &Path, rules: &str) -> Result<()> {
    let file = dir.join("rules.nft");
    fs::write(&file, rules)?;
    let mut command = netns.command("nft");
    must_run(command.arg("-f").arg(file), START).map(drop)
}

fn ip(arguments: &[&str]) -> Result<()> {
    must_run(Command::new("ip").args(arguments), START).map(drop)
}
