//! The CNI plugin, and the agent that puts it on nodes. Thin: everything is in the library.

use std::{
    io::Read as _,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use mesh_api::{
    log::{self, LogConfig, LogFormat},
    names, supervise,
    sys::Sys,
};
use mesh_proxy::cni::{
    agent::{self, Settings},
    credentials::ACCOUNT,
    node::Node,
    plugin,
    protocol::{Failure, Kind, Request},
    repair::Mode,
};
use serde_json::Value;

/// Longest configuration that the runtime may hand over, in bytes.
const LONGEST: u64 = 4 * 1024 * 1024;

/// Redirects connections of pods, called by the node's container runtime (CNI 0.3.0 to 1.1.0) with CNI_COMMAND set.
#[derive(Debug, Parser)]
#[command(name = "mesh-cni", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the plugin on this node: binary, credentials, configuration. Runs until it is told to stop.
    Install(Box<Install>),
}

#[derive(Args, Debug)]
struct Install {
    /// The node's folder of plugins, as it is mounted here.
    #[arg(long, env = "MESH_CNI_BIN_DIR", value_name = "DIR", default_value = "/host/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The node's folder of configuration, as it is mounted here.
    #[arg(long, env = "MESH_CNI_CONF_DIR", value_name = "DIR", default_value = "/host/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The same folder, as the node sees it.
    #[arg(long, env = "MESH_CNI_HOST_CONF_DIR", value_name = "DIR", default_value = "/etc/cni/net.d")]
    host_conf_dir: PathBuf,
    /// Service account of the agent, as it is mounted here; the plugin uses it too.
    #[arg(long, env = "MESH_CNI_ACCOUNT_DIR", value_name = "DIR", default_value = ACCOUNT)]
    account_dir: PathBuf,
    /// Name of this node: its pods are repaired.
    #[arg(long, env = "MESH_NODE", value_name = "NAME")]
    node_name: Option<String>,
    /// Namespaces whose pods start without a question: the mesh's own, and others that never have sidecars.
    #[arg(
        long,
        env = "MESH_CNI_EXCLUDE_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ',',
        default_values = [names::SYSTEM_NAMESPACE, "kube-system"]
    )]
    exclude_namespaces: Vec<String>,
    /// What is done with pods that were started without redirection.
    #[arg(long, env = "MESH_CNI_REPAIR", value_name = "MODE", default_value = "delete")]
    repair: Mode,
    /// With how many of them in a minute, at most.
    #[arg(long, env = "MESH_CNI_REPAIRS_PER_MINUTE", value_name = "N", default_value_t = 10)]
    repairs_per_minute: u32,
    /// Take everything away at the end, so that pods start without the mesh.
    #[arg(long, env = "MESH_CNI_REMOVE_ON_EXIT")]
    remove_on_exit: bool,
    /// Admin server: /ready, /live, /metrics.
    #[arg(long, env = "MESH_CNI_LISTEN", value_name = "ADDRESS", default_value_t = everywhere())]
    listen: SocketAddr,
    /// Log level.
    #[arg(long, env = "MESH_LOG__LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// Lines for machines.
    #[arg(long, env = "MESH_CNI_LOG_JSON")]
    log_json: bool,
}

fn everywhere() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, names::PORT_CNI).into()
}

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return called();
    }
    let Command::Install(install) = Arguments::parse().command;
    match agent(*install) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-cni: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// As the plugin.
fn called() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin().take(LONGEST).read_to_string(&mut input);
    let answered = match read {
        Ok(_) => Request::read(|name| std::env::var(name).ok()).and_then(|request| plugin::run(&request, &input)),
        Err(error) => Err(Failure::new(Kind::Io, format!("standard input cannot be read: {error}"))),
    };
    match answered {
        Ok(Value::Null) => ExitCode::SUCCESS,
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let configuration: Value = serde_json::from_str(&input).unwrap_or_default();
            let version = configuration.get("cniVersion").and_then(Value::as_str).unwrap_or("1.1.0");
            println!("{}", failure.to_json(version));
            ExitCode::FAILURE
        }
    }
}

fn agent(install: Install) -> anyhow::Result<()> {
    let format = if install.log_json { LogFormat::Json } else { LogFormat::Text };
    let log = log::init(&LogConfig { level: install.log_level, format })?;
    let settings = Settings {
        node: Node {
            program: std::env::current_exe()?,
            bin: install.bin_dir,
            conf: install.conf_dir,
            conf_on_node: install.host_conf_dir,
            exclude_namespaces: install.exclude_namespaces,
        },
        account: install.account_dir,
        name: install.node_name,
        listen: install.listen,
        remove_on_exit: install.remove_on_exit,
        repair: install.repair,
        repairs_each_minute: install.repairs_per_minute,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(agent::run(settings, Sys::host(), log, supervise::terminated()))?)
}
