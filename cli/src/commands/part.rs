//! `meshctl proxy`, `meshctl controller`, `meshctl ca` (hidden): one part of the mesh, as a process of its own.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use mesh_api::{
    config::{ConfigErrors, Sources, Validate, load},
    log,
    supervise::terminated,
    sys::Sys,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::io;

/// Arguments of every part.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meshctl proxy --config /etc/mesh/proxy.toml --set log.level=debug")]
pub struct Args {
    /// Configuration file (TOML, or JSON where the name ends so).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the configuration; stronger than file and environment.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    sets: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it has no `=`; write KEY=VALUE, as in log.level=debug")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs a sidecar until it is told to end.
///
/// # Errors
/// As the sidecar says.
pub fn proxy(args: Args) -> anyhow::Result<ExitCode> {
    match mesh_proxy::app::configure(args.config.as_deref(), args.sets) {
        Ok(config) => mesh_proxy::app::main(config).map(|()| ExitCode::SUCCESS),
        Err(errors) => Ok(wrong(&errors)),
    }
}

/// Runs the controller until it is told to end.
///
/// # Errors
/// As the controller says.
pub fn controller(args: Args) -> anyhow::Result<ExitCode> {
    let config: mesh_controller::config::Config = match configured(args) {
        Ok(config) => config,
        Err(errors) => return Ok(wrong(&errors)),
    };
    let log = log::init(&config.log)?;
    runtime()?.block_on(mesh_controller::app::run(config, Sys::host(), log, terminated()))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the certificate authority until it is told to end.
///
/// # Errors
/// As the authority says.
pub fn ca(args: Args) -> anyhow::Result<ExitCode> {
    let config: mesh_ca::config::Config = match configured(args) {
        Ok(config) => config,
        Err(errors) => return Ok(wrong(&errors)),
    };
    let log = log::init(&config.log)?;
    let metrics = Some(mesh_ca::app::install_metrics().context("metrics")?);
    let shared = mesh_ca::app::Shared { log, metrics };
    runtime()?.block_on(mesh_ca::app::run(config, Sys::host(), shared, terminated()))?;
    Ok(ExitCode::SUCCESS)
}

fn configured<T>(args: Args) -> Result<T, ConfigErrors>
where
    T: Default + Serialize + DeserializeOwned + Validate,
{
    let environment = Sources::process_environment();
    load(&Sources { file: args.config.as_deref(), environment, flags: args.sets })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn wrong(errors: &ConfigErrors) -> ExitCode {
    io::complain(&io::printable(&errors.to_string()));
    ExitCode::from(2)
}
