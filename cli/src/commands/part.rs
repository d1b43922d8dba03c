//! `meshctl proxy`, `meshctl controller`, `meshctl ca` (hidden): one part of the mesh, as a process of its own.

use std::{path::PathBuf, process::ExitCode};

use mesh_api::config::ConfigErrors;

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

fn wrong(errors: &ConfigErrors) -> ExitCode {
    io::complain(&io::printable(&errors.to_string()));
    ExitCode::from(2)
}
