//! `meshctl check`: what is wrong with a mesh on a cluster, whose fault that is, and what to do.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    check::{
        catalog::Stage,
        gather::{Plan, gather},
        report::Report,
    },
    cluster::ClusterArgs,
    io::{Format, Out, complain, note},
};

/// While waiting it is looked again after this long.
const AGAIN: Duration = Duration::from_secs(2);

/// Arguments of `meshctl check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl check --pre\n  meshctl check --wait 2m\n  meshctl check --proxy -n shop\n  \
    meshctl check -o json\n\nThe exit code is 0 where nothing is broken (there may be warnings), 1 where something is.\n\
    Nothing in the cluster is changed. Each check has a page in docs/checks."
)]
pub struct Args {
    /// Before an installation: can the mesh be installed here?
    #[arg(long, conflicts_with = "proxy")]
    pre: bool,
    /// Look at the pods with sidecars as well.
    #[arg(long)]
    proxy: bool,
    /// With --proxy: look at the pods of this namespace only.
    #[arg(short, long, value_name = "NS", requires = "proxy")]
    namespace: Option<String>,
    /// Look again and again until nothing is broken, at most this long, such as 30s or 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; such as 30s or 5m"))
}

/// Checks.
///
/// # Errors
/// Where the result cannot be printed.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let stage = match (args.pre, args.proxy) {
        (true, _) => Stage::Before,
        (_, true) => Stage::Proxies,
        _ => Stage::Installed,
    };
    let plan = Plan { stage, namespace: args.namespace.clone() };
    let end = args.wait.map(|wait| Instant::now() + wait);
    let mut before: Option<Report> = None;
    let report = loop {
        let report = Report::judge(&gather(&args.cluster, &plan).await, stage);
        let over = end.is_none_or(|end| Instant::now() + AGAIN >= end);
        if report.is_good() || over {
            break report;
        }
        for change in report.changes(before.as_ref()) {
            note(&change);
        }
        before = Some(report);
        tokio::time::sleep(AGAIN).await;
    };
    match args.output {
        Format::Table => report.show(&mut out)?,
        Format::Json => out.json(&report)?,
    }
    if report.is_good() {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(wait) = args.wait {
        complain(&format!("after {} something is still broken", humantime::format_duration(wait)));
    }
    Ok(ExitCode::FAILURE)
}
