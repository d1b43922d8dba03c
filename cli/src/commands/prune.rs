//! `meshctl prune`: removes what earlier releases left behind.

use std::process::ExitCode;

use anyhow::Context;
use mesh_api::names::LABEL_CHART;

use crate::{
    chart::{MESH, object::Key},
    cluster::ClusterArgs,
    io::{Format, Out, Tone},
    release::{Site, ask, record::Record, remove},
};

/// Arguments of `meshctl prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl prune --dry-run\n  meshctl prune --yes\n\n\
    What is the mesh's is known by its label mesh.dev/chart=mesh; what the current release has is kept.")]
pub struct Args {
    /// Show what would go, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// How --dry-run shows it.
    #[arg(short, long, value_enum, default_value_t, requires = "dry_run")]
    output: Format,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Go on where the CNI plugin stays on nodes whose agents cannot take it away.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Removes leftovers.
///
/// # Errors
/// Where no mesh is installed, a right is missing, nobody can be asked, or something does not go.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let site = Site::connect(&args.cluster).await?;
    prune(&site, &args, &mut out).await
}

async fn prune(site: &Site, args: &Args, out: &mut Out) -> anyhow::Result<ExitCode> {
    site.require_not_helms("helm upgrade").await?;
    let record = Record::load(&site.objects).await?;
    let record = record.context("no mesh is installed here; to remove what is left of one: meshctl uninstall")?;
    let (found, refused) = site.objects.labelled(&format!("{LABEL_CHART}={MESH}")).await?;
    let inventory = &record.current.inventory;
    let is_kept = |key: &Key| inventory.iter().any(|kept| kept.is_same(key));
    let left = found.into_iter().filter(|found| !found.owned).map(|found| found.key);
    let left: Vec<Key> = left.filter(|key| !is_kept(key)).collect();
    if args.dry_run && args.output == Format::Json {
        out.json(&left)?;
        return Ok(ExitCode::SUCCESS);
    }
    for kind in refused {
        out.toned(Tone::Warn, &format!("not searched: {kind}"))?;
    }
    if left.is_empty() {
        out.toned(Tone::Good, &format!("nothing is left of releases before {}", record.current.version))?;
        return Ok(ExitCode::SUCCESS);
    }
    for key in &left {
        out.line(format_args!("  {key}"))?;
    }
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    remove::permitted(site, &left, args.force).await?;
    if !args.yes && !ask::go_on(&format!("Remove these {} objects?", left.len()))? {
        out.line("nothing was removed")?;
        return Ok(ExitCode::FAILURE);
    }
    remove::all(site, &left, args.force, out).await?;
    Ok(ExitCode::SUCCESS)
}
