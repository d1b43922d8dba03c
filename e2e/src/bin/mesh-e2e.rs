//! `mesh-e2e`: the end-to-end suite on a cluster.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Result, ensure};
use clap::Parser;
use mesh_e2e::{
    provider::{Choice, Provider},
    scenarios,
    suite::{self, Options},
};

/// Runs the scenarios of the end-to-end suite on a real Kubernetes.
#[derive(Parser)]
#[command(name = "mesh-e2e")]
struct Arguments {
    /// Only scenarios whose names contain one of these.
    filters: Vec<String>,
    /// What makes the cluster: `processes` or `kind`.
    #[arg(long, env = "PROVIDER", default_value = "processes")]
    provider: Choice,
    /// The cluster's name. One that is up already is used as it is.
    #[arg(long, default_value = "e2e")]
    name: String,
    /// How many nodes it has.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Keep the cluster, and the namespaces of scenarios that failed.
    #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    keep: bool,
    /// List the scenarios, and run none.
    #[arg(long)]
    list: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mesh-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool> {
    let chosen = suite::select(&scenarios::all(), arguments.provider, &arguments.filters);
    ensure!(!chosen.is_empty(), "no scenario has a name like {:?}", arguments.filters);
    if arguments.list {
        for scenario in &chosen {
            println!("{:24} {}", scenario.name, scenario.about);
        }
        return Ok(true);
    }
    let few = chosen.iter().find(|scenario| scenario.nodes > arguments.nodes);
    ensure!(few.is_none(), "{} needs more nodes: --nodes", few.map_or("", |scenario| scenario.name));

    let provider = Arc::new(Provider::up(arguments.provider, &arguments.name, arguments.nodes).await?);
    let options = Options { filters: arguments.filters.clone(), keep: arguments.keep };
    let summary = suite::play(&chosen, provider, &options).await;
    let gone = if arguments.keep { Ok(()) } else { Provider::down(arguments.provider, &arguments.name) };
    let summary = summary?;
    for name in &summary.failed {
        println!("failed: {name}");
    }
    println!("e2e: {} passed, {} failed", summary.passed, summary.failed.len());
    gone?;
    Ok(summary.failed.is_empty())
}
