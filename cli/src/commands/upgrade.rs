//! `meshctl upgrade`: brings an installed mesh to this version, or to other values, or back.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use super::install::{WaitArgs, done, same_trust_domain, stands};
use crate::{
    chart::{Chart, MESH, Object, object::Key, values},
    cluster::ClusterArgs,
    io::{Format, Out, Tone},
    release::{
        Site, VERSION, ValueArgs, Wanted, ask,
        change::{self, Action, Change},
        order, put,
        record::{Record, State},
        remove, rights,
    },
};

/// Verbs that a change needs for each of its kinds.
const VERBS: [&str; 4] = ["get", "create", "patch", "delete"];

/// Arguments of `meshctl upgrade`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl upgrade --dry-run\n  meshctl upgrade --yes\n  \
    meshctl upgrade --set defaults.transport=strict\n  meshctl upgrade --rollback\n\n\
    Values of before stay, given ones come on top; certificates and policies are not touched. It shows what would\n\
    change and asks first. Sidecars go on as they are; restart workloads to give them the new one.")]
pub struct Args {
    #[command(flatten)]
    values: ValueArgs,
    /// Forget the values of before: only the given ones count.
    #[arg(long)]
    reset_values: bool,
    /// Go back to the release before; the kinds of mesh.dev stay as they are.
    #[arg(long, conflicts_with_all = ["ha", "cni", "files", "sets", "reset_values"])]
    rollback: bool,
    /// Show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How --dry-run shows it.
    #[arg(short, long, value_enum, default_value_t, requires = "dry_run")]
    output: Format,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Go on where the CNI plugin, which is not wanted any more, stays on nodes whose agents cannot take it away.
    #[arg(long)]
    force: bool,
    /// Leave the kinds of mesh.dev out: somebody else applies them.
    #[arg(long)]
    skip_crds: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Changes what is installed.
///
/// # Errors
/// Where nothing is installed, values are wrong, a right is missing, nobody can be asked, or it does not stand in time.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let chart = Chart::carried(MESH)?;
    let given = args.values.given(&chart)?;
    let site = Site::connect(&args.cluster).await?;
    site.require_version()?;
    site.require_not_helms("helm upgrade").await?;
    let before = Record::load(&site.objects).await?;
    let before =
        before.context("no mesh is installed here (there is no ConfigMap mesh-release); use: meshctl install")?;
    let goal = goal(&args, &before, &given)?;
    let known = before.known();
    let all: Vec<_> = goal.wanted.kinds.iter().chain(&goal.wanted.objects).cloned().collect();
    rights::require(&site, all.iter().map(|object| &object.key), &VERBS).await?;
    let changes = change::changes(&site, &all, &known).await?;
    if args.dry_run && args.output == Format::Json {
        out.json(&changes)?;
        return Ok(ExitCode::SUCCESS);
    }
    out.line(format_args!("mesh {} -> {} in {}", before.current.version, goal.version, site.cluster.name()))?;
    change::show(&changes, &mut out)?;
    let settled = before.current.state == State::Done && before.current.version == goal.version;
    if changes.is_empty() && settled && before.current.values == goal.values {
        out.toned(Tone::Good, "nothing would change")?;
        return Ok(ExitCode::SUCCESS);
    }
    out.toned(Tone::Strong, &told(&changes))?;
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let going = changes.iter().filter(|change| change.action == Action::Removed).map(|change| change.key.clone());
    remove::permitted(&site, &going.collect::<Vec<_>>(), args.force).await?;
    if !args.yes && !ask::go_on("Go on?")? {
        out.line("nothing was changed")?;
        return Ok(ExitCode::FAILURE);
    }
    put::kinds(&site, &goal.wanted.kinds, &mut out).await?;
    let gone = change::leftovers(&goal.wanted.objects, &known);
    let mut record = Record::begun(&goal.wanted, &goal.version, goal.values, Some(before));
    record.save(&site.objects).await?;
    // Where something that runs has to go, it runs once more to clean up: what its namespace lets run stays so until then.
    let (last, first): (Vec<Object>, Vec<Object>) =
        goal.wanted.objects.into_iter().partition(|object| object.key.kind == "Namespace" && runs(&gone));
    let count = put::all(&site, &first).await?;
    out.toned(Tone::Plain, &count.told("objects of the control plane"))?;
    if let Err(error) = stands(&site, &record, &args.wait, &mut out).await {
        anyhow::bail!("{error:#}{}", way_back(&record));
    }
    prune(&site, &gone, args.force, &mut out).await?;
    put::all(&site, &last).await?;
    // What was left of releases before, done or not, is gone.
    record.current.leftovers.clear();
    done(&site, &mut record).await?;
    out.toned(Tone::Good, &format!("mesh {} is installed", record.current.version))?;
    out.line(
        "\nnext:\n  meshctl check                               is everything as it should be?\n  \
         kubectl rollout restart deployment -n NAME  sidecars of the new version for NAME\n  \
         meshctl upgrade --rollback                  back to the release before",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What can be done about an upgrade that does not come to its end, beside waiting.
fn way_back(record: &Record) -> String {
    let back = record.previous.as_ref().map(|(release, _)| {
        format!("; `meshctl upgrade --rollback` goes back to revision {} (mesh {})", release.revision, release.version)
    });
    back.unwrap_or_default()
}

struct Goal {
    wanted: Wanted,
    version: String,
    values: Value,
}

fn goal(args: &Args, before: &Record, given: &Value) -> anyhow::Result<Goal> {
    if args.rollback {
        let (release, objects) = before.previous_objects()?;
        let wanted = Wanted { kinds: Vec::new(), objects };
        return Ok(Goal { wanted, version: release.version, values: release.values });
    }
    anyhow::ensure!(
        !is_older(VERSION, &before.current.version),
        "mesh {} is installed, and this is meshctl {VERSION}: use the newer one, or --rollback",
        before.current.version
    );
    let mut values = if args.reset_values { serde_json::json!({}) } else { before.current.values.clone() };
    values::overlay(&mut values, given);
    same_trust_domain(&before.current.values, &values)?;
    let wanted = Wanted::rendered(&values, true, !args.skip_crds)?;
    Ok(Goal { wanted, version: VERSION.to_owned(), values })
}

/// True where version `left` came out before `right`.
fn is_older(left: &str, right: &str) -> bool {
    let numbers = |version: &str| {
        let plain = version.split(['-', '+']).next().unwrap_or_default();
        plain.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u64>>()
    };
    numbers(left) < numbers(right)
}

fn told(changes: &[Change]) -> String {
    let count = |action| changes.iter().filter(|change| change.action == action).count();
    let (added, changed, removed) = (count(Action::Added), count(Action::Changed), count(Action::Removed));
    format!("{added} added, {changed} changed, {removed} removed")
}

/// True where programs are among them.
fn runs(gone: &[Key]) -> bool {
    gone.iter().any(|key| order::step(key) == order::Step::Programs)
}

async fn prune(site: &Site, gone: &[Key], force: bool, out: &mut Out) -> anyhow::Result<()> {
    let mut present = Vec::new();
    for key in gone {
        if site.objects.get(key).await?.is_some() {
            present.push(key.clone());
        }
    }
    remove::all(site, &present, force, out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_older("0.9.0", "0.10.0") && is_older("0.1.0", "0.1.1") && !is_older("1.0.0", "0.9.9"));
        assert!(!is_older("0.1.0", "0.1.0"));
    }
}
