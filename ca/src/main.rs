//! Runs the certificate authority. Thin: everything is in the library.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use mesh_api::{
    config::{Sources, load},
    log, supervise,
    sys::Sys,
};
use mesh_ca::{
    app::{self, Shared},
    config::Config,
};

/// The certificate authority of the mesh: gives every member its identity, and renews it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration (TOML, or JSON where the name ends so); MESH_ variables of the environment come on top.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// One value of the configuration, KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// After every root expired: make new ones. Members must be given the new trust.pem.
    Repair,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-ca: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    let environment = Sources::process_environment();
    let config: Config = load(&Sources { file: arguments.config.as_deref(), environment, flags: arguments.set })?;
    let log = log::init(&config.log)?;
    // For libraries that speak to the cluster; who sets it first wins, and all want the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let sys = Sys::host();
        if let Some(Command::Repair) = arguments.command {
            let issuing = app::repair(&config, &sys).await?;
            println!("{}", issuing.trust_pem());
            return Ok(());
        }
        let metrics = Some(app::install_metrics().context("metrics")?);
        Ok(app::run(config, sys, Shared { log, metrics }, supervise::terminated()).await?)
    })
}
