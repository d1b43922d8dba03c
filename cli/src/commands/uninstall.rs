//! `meshctl uninstall`: takes the mesh out of a cluster, with everything that it made.

use std::process::ExitCode;

use crate::{
    chart::object::Key,
    cluster::ClusterArgs,
    io::{Format, Out, Tone},
    release::{
        Site, ask,
        record::Record,
        remove::{self, Remains},
    },
};

/// Users' objects that are named; of more only the number is told.
const MAX_NAMED: usize = 50;

/// Arguments of `meshctl uninstall`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl uninstall --dry-run\n  meshctl uninstall\n  meshctl uninstall --yes --keep-crds\n\n\
    It shows what would go and asks first. The webhooks go first, so that pods can start; then the control plane;\n\
    the kinds of mesh.dev go last, and with them every policy that users wrote."
)]
pub struct Args {
    /// Keep the kinds of mesh.dev, and with them what users wrote.
    #[arg(long)]
    keep_crds: bool,
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

/// Removes the mesh.
///
/// # Errors
/// Where a right is missing, nobody can be asked, a node would keep the CNI plugin, or something does not go.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let site = Site::connect(&args.cluster).await?;
    site.require_not_helms("helm uninstall").await?;
    // What is left of a broken record is found by its labels.
    let known = match Record::load(&site.objects).await {
        Ok(record) => record.map(|record| record.known()).unwrap_or_default(),
        Err(error) => {
            out.toned(Tone::Warn, &format!("{error:#}; searching by labels"))?;
            Vec::new()
        }
    };
    let remains = remove::search(&site, &known, args.keep_crds).await?;
    if args.dry_run && args.output == Format::Json {
        out.json(&serde_json::json!({
            "objects": remains.objects, "usersObjects": remains.users, "injectedPods": remains.injected,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if remains.is_empty() {
        out.toned(Tone::Good, &format!("there is nothing of a mesh in {}", site.cluster.name()))?;
        return Ok(ExitCode::SUCCESS);
    }
    show(&remains, &mut out)?;
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    remove::permitted(&site, &remains.objects, args.force).await?;
    if !args.yes && !ask::go_on(&format!("Remove all of it from {}?", site.cluster.name()))? {
        out.line("nothing was removed")?;
        return Ok(ExitCode::FAILURE);
    }
    remove::all(&site, &remains.objects, args.force, &mut out).await?;
    let left = remove::search(&site, &known, args.keep_crds).await?;
    anyhow::ensure!(left.is_empty(), "something came back meanwhile; run it again:\n{}", named(&left.objects));
    out.toned(Tone::Good, "the mesh is gone")?;
    Ok(ExitCode::SUCCESS)
}

fn show(remains: &Remains, out: &mut Out) -> std::io::Result<()> {
    out.toned(Tone::Strong, &format!("objects of the mesh ({}):", remains.objects.len()))?;
    out.line(named(&remains.objects))?;
    if !remains.users.is_empty() {
        out.toned(Tone::Bad, &format!("what users wrote goes with the kinds of mesh.dev ({}):", remains.users.len()))?;
        out.line(named(&remains.users))?;
    }
    if !remains.injected.is_empty() {
        let pods: usize = remains.injected.values().sum();
        let namespaces: Vec<String> = remains.injected.iter().map(|(name, pods)| format!("{name} ({pods})")).collect();
        out.toned(Tone::Warn, &format!(
            "pods that still have a sidecar: {pods}, in {}\n  without a control plane they keep what they know, but learn nothing new, and their certificates run out\n  \
             within a day; restart them afterwards: kubectl rollout restart deployment -n NAME",
            namespaces.join(", ")
        ))?;
    }
    for refused in &remains.refused {
        out.toned(Tone::Warn, &format!("not searched: {refused}"))?;
    }
    Ok(())
}

fn named(keys: &[Key]) -> String {
    let mut lines: Vec<String> = keys.iter().take(MAX_NAMED).map(|key| format!("  {key}")).collect();
    if keys.len() > MAX_NAMED {
        lines.push(format!("  and {} more", keys.len() - MAX_NAMED));
    }
    lines.join("\n")
}
