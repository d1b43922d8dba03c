//! The sidecar's own program.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use mesh_proxy::redirect::{self, Proof, Rules, Settings};

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
    /// Say whether the rules are in force: exit status 0, or 1 and why not.
    ///
    /// Who has not the capability NET_ADMIN cannot read rules: then it is tried with a connection, which takes another
    /// user than the proxy's, and has to be done before the proxy runs.
    Check(Rules),
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
    let done = match command {
        Redirect::Print(rules) => with(rules, |settings| {
            print!("{}", redirect::plan(settings).script());
            Ok(())
        }),
        Redirect::Apply(rules) => with(rules, |settings| redirect::apply(settings).map_err(|error| error.to_string())),
        Redirect::Remove => redirect::remove().map_err(|error| (1, error.to_string())),
        Redirect::Check(rules) => with(rules, |settings| {
            println!("{}", proven(redirect::check(settings).map_err(|error| error.to_string())?));
            Ok(())
        }),
    };
    done.map_or_else(|(code, why)| fail(code, &why), |()| ExitCode::SUCCESS)
}

fn with(rules: Rules, act: impl FnOnce(&Settings) -> Result<(), String>) -> Result<(), (u8, String)> {
    let settings = rules.settings().map_err(|mistakes| (2, mistakes.to_string()))?;
    act(&settings).map_err(|why| (1, why))
}

fn proven(proof: Proof) -> &'static str {
    match proof {
        Proof::Rules => "connections are redirected: the rules are exactly those that are wanted",
        Proof::Connection => "connections are redirected: one was tried, and arrived at the proxy's port",
    }
}

fn fail(code: u8, why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("mesh-proxy: {why}");
    ExitCode::from(code)
}
