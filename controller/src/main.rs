//! Runs the controller. Thin: everything is in the library.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use mesh_api::{
    config::{Sources, load},
    log, supervise,
    sys::Sys,
};
use mesh_controller::{app, config::Config};

/// The control plane of the mesh: reads what its users write, and tells every proxy what it must know.
#[derive(Debug, Parser)]
#[command(name = "mesh-controller", version)]
struct Arguments {
    /// Configuration (TOML, or JSON where the name ends so); MESH_ variables of the environment come on top.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One value of the configuration, KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    let environment = Sources::process_environment();
    let config: Config = load(&Sources { file: arguments.config.as_deref(), environment, flags: arguments.set })?;
    let log = log::init(&config.log)?;
    // Where somebody else was first, it is the same one: there is no other in the program.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    Ok(runtime.block_on(app::run(config, Sys::host(), log, supervise::terminated()))?)
}
