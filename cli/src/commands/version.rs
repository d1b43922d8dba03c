//! `meshctl version`.

use serde::Serialize;

use crate::io::{Format, Out};

/// Arguments of `meshctl version`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl version\n  meshctl version -o json")]
pub struct Args {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// Prints the version.
///
/// # Errors
/// Where it cannot be printed.
pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match args.output {
        Format::Table => out.line(format_args!("meshctl {version}"))?,
        Format::Json => out.json(&Version { version })?,
    }
    Ok(())
}
