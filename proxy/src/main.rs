//! The sidecar's own program.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The sidecar proxy of the mesh.
///
/// Example: mesh-proxy --config /etc/mesh/proxy.toml --set log.level=debug
#[derive(Debug, Parser)]
#[command(name = "mesh-proxy", version)]
struct Arguments {
    /// Configuration file (TOML, or JSON where the name ends so).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the configuration; stronger than file and environment.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    sets: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match mesh_proxy::app::configure(arguments.config.as_deref(), arguments.sets) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("mesh-proxy: {errors}");
            return ExitCode::from(2);
        }
    };
    match mesh_proxy::app::main(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
