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

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::{
        cluster::objects::Objects,
        io::tests::Shared,
        query::fake::{self, Fake},
    };

    const OLD: &str = "/api/v1/namespaces/mesh-system/configmaps/old";
    const RECORD: &str = "/api/v1/namespaces/mesh-system/configmaps/mesh-release";

    /// A mesh that has ConfigMap `kept`; `old` is left of another, and `owned` goes with its owner.
    async fn mesh() -> (Fake, Site) {
        let fake = Fake::start().await;
        fake.serve(&[("v1", "ConfigMap", "configmaps", true), ("apps/v1", "Deployment", "deployments", true)]);
        let object = |name: &str| json!({ "metadata": { "name": name, "namespace": "mesh-system" } });
        let mut owned = object("owned");
        let owner = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "kept", "uid": "1" });
        owned["metadata"]["ownerReferences"] = json!([owner]);
        fake.list("/api/v1/configmaps", &[object("kept"), object("old"), owned]);
        fake.object(OLD, &object("old"));
        let key = Key {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: "mesh-system".into(),
            name: "kept".into(),
        };
        let release = json!({ "version": "0.1.0", "revision": 1, "state": "done", "values": {}, "inventory": [key] });
        let mut record = object("mesh-release");
        record["data"] = json!({ "current.json": release.to_string() });
        fake.reply(Method::GET, RECORD, 200, record);
        fake.forbid(&[]);
        let cluster = fake.cluster();
        let objects = Objects::new(&cluster);
        (fake, Site { cluster, objects })
    }

    async fn pruned(site: &Site, words: &[&str]) -> (anyhow::Result<ExitCode>, String) {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            args: Args,
        }
        let words = ["prune"].iter().chain(words);
        let args = <Command as clap::Parser>::try_parse_from(words).unwrap().args;
        let said = Shared::default();
        let done = prune(site, &args, &mut Out::to(said.clone())).await;
        (done, said.text())
    }

    #[tokio::test]
    async fn what_the_release_does_not_have_goes_and_nothing_else() {
        let (fake, site) = mesh().await;
        let (done, said) = pruned(&site, &["--dry-run"]).await;
        assert!(done.is_ok() && said == "  ConfigMap mesh-system/old\n", "{said}");
        let (done, said) = pruned(&site, &["--dry-run", "-o", "json"]).await;
        let listed: Vec<Key> = serde_json::from_str(&said).unwrap();
        assert!(done.is_ok() && listed.len() == 1 && listed[0].name == "old", "{said}");
        assert_eq!(fake.deleted(), [""; 0], "--dry-run removes nothing");
        let (done, said) = pruned(&site, &["--yes"]).await;
        assert!(done.is_ok() && said.contains("removed what it used (1)"), "{said}");
        assert_eq!(fake.deleted(), [OLD]);
        // Nothing is left, and that is said.
        let kept = json!({ "metadata": { "name": "kept", "namespace": "mesh-system" } });
        fake.list("/api/v1/configmaps", &[kept]);
        let (done, said) = pruned(&site, &["--yes"]).await;
        assert!(done.is_ok() && said.contains("nothing is left of releases before 0.1.0"), "{said}");
    }

    #[tokio::test]
    async fn nothing_goes_without_a_release_or_a_right_or_a_whole_search() {
        let (fake, site) = mesh().await;
        fake.forbid(&[("delete", "configmaps")]);
        let error = pruned(&site, &["--yes"]).await.0.unwrap_err().to_string();
        assert!(error.contains("delete configmaps in namespace mesh-system"), "{error}");
        // A kind that may not be listed is named; the others are searched.
        fake.reply(Method::GET, "/apis/apps/v1/deployments", 403, fake::status(403, "Forbidden", "you may not"));
        let (done, said) = pruned(&site, &["--dry-run"]).await;
        assert!(done.is_ok() && said.contains("not searched: listing Deployment") && said.contains("/old"), "{said}");
        fake.reply(Method::GET, RECORD, 404, fake::status(404, "NotFound", "no such thing"));
        let error = pruned(&site, &["--yes"]).await.0.unwrap_err().to_string();
        assert!(error.contains("meshctl uninstall"), "{error}");
        let helms = json!({ "metadata": { "annotations": { "meta.helm.sh/release-name": "mesh" } } });
        fake.reply(Method::GET, "/apis/apps/v1/namespaces/mesh-system/deployments/mesh-controller", 200, helms);
        let error = pruned(&site, &["--yes"]).await.0.unwrap_err().to_string();
        assert!(error.contains("helm upgrade"), "{error}");
        assert_eq!(fake.deleted(), [""; 0]);
    }
}
