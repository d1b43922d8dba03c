//! The sidecar's own program.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use mesh_api::{config::Validate as _, names};
use mesh_proxy::redirect::{self, Owner, PortRange, Settings};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The sidecar proxy of the mesh.
///
/// Example: mesh-proxy --config /etc/mesh/proxy.toml --set log.level=debug
#[derive(Debug, Parser)]
#[command(name = "mesh-proxy", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Configuration file (TOML, or JSON where the name ends so).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the configuration; stronger than file and environment.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    sets: Vec<(String, String)>,
    /// Something else than to run.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this network namespace's connections pass through the proxy, or stop that.
    ///
    /// Example: mesh-proxy redirect apply --proxy-uid 15400 --skip-outbound-ports 25,8000-8100
    #[command(subcommand)]
    Redirect(Redirect),
}

#[derive(Debug, Subcommand)]
enum Redirect {
    /// Show the rules, as a script for `nft`.
    Print(Rules),
    /// Put the rules in force, in place of earlier ones.
    Apply(Rules),
    /// Take the rules back.
    Remove,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("owner").required(true)))]
struct Rules {
    /// User that the proxy runs as, and nothing else.
    #[arg(long, value_name = "ID", group = "owner")]
    proxy_uid: Option<u32>,
    /// Group that the proxy runs as, and nothing else.
    #[arg(long, value_name = "ID", group = "owner")]
    proxy_gid: Option<u32>,
    /// Where the proxy takes what comes in.
    #[arg(long, value_name = "PORT", default_value_t = names::PORT_INBOUND)]
    inbound_port: u16,
    /// Where the proxy takes what goes out.
    #[arg(long, value_name = "PORT", default_value_t = names::PORT_OUTBOUND)]
    outbound_port: u16,
    /// The proxy's admin server, which is reached directly.
    #[arg(long, value_name = "PORT", default_value_t = names::PORT_ADMIN)]
    admin_port: u16,
    /// Ports of the application that are reached directly.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_inbound_ports: Vec<PortRange>,
    /// Ports that the application reaches directly.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_outbound_ports: Vec<PortRange>,
    /// Networks that the application reaches directly.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    skip_subnets: Vec<IpNet>,
}

impl Rules {
    /// The script, or everything that is wrong.
    fn plan(self) -> Result<String, String> {
        let proxy = match (self.proxy_uid, self.proxy_gid) {
            (Some(id), _) => Owner::User(id),
            (None, Some(id)) => Owner::Group(id),
            (None, None) => return Err("--proxy-uid or --proxy-gid is missing".into()),
        };
        let settings = Settings {
            proxy,
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            admin_port: self.admin_port,
            skip_inbound_ports: self.skip_inbound_ports,
            skip_outbound_ports: self.skip_outbound_ports,
            skip_subnets: self.skip_subnets,
        };
        let mistakes: Vec<String> =
            settings.mistakes().into_iter().map(|(key, reason)| format!("{key}: {reason}")).collect();
        if mistakes.is_empty() { Ok(redirect::plan(&settings)) } else { Err(mistakes.join("\n  ")) }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Redirect(command)) => redirected(command),
        None => serve(arguments.config, arguments.sets),
    }
}

fn serve(config: Option<PathBuf>, sets: Vec<(String, String)>) -> ExitCode {
    let config = match mesh_proxy::app::configure(config.as_deref(), sets) {
        Ok(config) => config,
        Err(errors) => return fail(2, &errors),
    };
    match mesh_proxy::app::main(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("{error:#}")),
    }
}

fn redirected(command: Redirect) -> ExitCode {
    let (script, only_show) = match command {
        Redirect::Print(rules) => (rules.plan(), true),
        Redirect::Apply(rules) => (rules.plan(), false),
        Redirect::Remove => (Ok(redirect::remove_plan()), false),
    };
    match script {
        Err(mistakes) => fail(2, &mistakes),
        Ok(script) if only_show => {
            print!("{script}");
            ExitCode::SUCCESS
        }
        Ok(script) => match redirect::run(&script) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        },
    }
}

fn fail(code: u8, why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("mesh-proxy: {why}");
    ExitCode::from(code)
}
