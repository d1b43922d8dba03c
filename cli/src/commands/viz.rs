//! `meshctl viz`: Prometheus and Jaeger, to look at a mesh with, as they come and go.

use std::{process::ExitCode, time::Duration};

use mesh_api::names;
use serde_json::Value;

use super::install::{Objects, WaitArgs, print};
use crate::{
    chart::{self, Chart, MESH_VIZ, Object, object::Key},
    cluster::ClusterArgs,
    io::{Out, Tone},
    release::{Site, ask, order, put, remove, rights, wait},
};

/// The namespace of the chart.
const NAMESPACE: &str = "mesh-viz";
/// Where sidecars send their traces, so that the chart's Jaeger gets them.
const ENDPOINT: &str = "http://jaeger.mesh-viz:4317";

/// Arguments of `meshctl viz`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl viz install\n  meshctl dashboard jaeger\n  meshctl viz uninstall")]
pub struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Put Prometheus and Jaeger into a cluster, or change how they are there.
    Install(InstallArgs),
    /// Take them out, with everything that they have kept.
    Uninstall(UninstallArgs),
}

/// Arguments of `meshctl viz install`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl viz install\n  meshctl viz install --set prometheus.retention=2h\n  \
    meshctl viz install --dry-run > viz.yaml\n\n\
    It installs what the Helm chart mesh-viz gives, in the namespace mesh-viz. Doing it again is safe; with other values\n\
    it changes what is there, and what is not given goes back to the chart's own. What is then not wanted any more is\n\
    shown, and removed after a question.\n\
    They keep everything in memory: small, to look at a mesh with, not to rely on.")]
struct InstallArgs {
    /// File of values, YAML. Can be repeated; later ones come on top.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    files: Vec<std::path::PathBuf>,
    /// A value, in Helm's syntax: jaeger.enabled=false. Can be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print the objects, and change nothing; no cluster is asked.
    #[arg(long)]
    dry_run: bool,
    /// How --dry-run prints.
    #[arg(short, long, value_enum, default_value_t, requires = "dry_run")]
    output: Objects,
    /// Do not ask before something is removed.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `meshctl viz uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl viz uninstall\n  meshctl viz uninstall --yes\n\n\
    The mesh goes on without them; `meshctl uninstall` takes them out as well.")]
struct UninstallArgs {
    /// Show what would go, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Installs or removes them.
///
/// # Errors
/// Where values are wrong, Helm holds them, a right is missing, or they do not stand, or go, in time.
pub async fn run(args: Args, out: Out) -> anyhow::Result<ExitCode> {
    match args.task {
        Task::Install(args) => install(args, out).await,
        Task::Uninstall(args) => uninstall(args, out).await,
    }
}

async fn install(args: InstallArgs, mut out: Out) -> anyhow::Result<ExitCode> {
    let given = chart::values::given(&args.files, &args.sets)?;
    let release = chart::Release { namespace: NAMESPACE.to_owned(), ..chart::Release::default() };
    let mut objects = Chart::carried(MESH_VIZ)?.render(&given, &release)?;
    objects.sort_by_key(|object| order::rank(&object.key));
    if args.dry_run {
        print(&objects, args.output, &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let site = Site::connect(&args.cluster).await?;
    put_in(&site, &objects, &args, &mut out).await
}

async fn put_in(site: &Site, objects: &[Object], args: &InstallArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    require_not_helms(site, "helm upgrade").await?;
    let keys = || objects.iter().map(|object| &object.key);
    rights::require(site, keys(), &["get", "create", "patch"]).await?;
    let left = left_over(present(site).await?, objects)?;
    if !left.is_empty() {
        rights::require(site, left.iter(), &["get", "delete"]).await?;
        out.line("with these values it is not wanted any more:")?;
        for key in &left {
            out.line(format_args!("  {key}"))?;
        }
        if !args.yes && !ask::go_on(&format!("Remove it from {}, and go on?", site.cluster.name()))? {
            out.line("nothing was changed")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    out.line(format_args!("installing mesh-viz into {} ({})", site.cluster.name(), site.cluster.server()))?;
    let count = put::all(site, objects).await?;
    out.toned(Tone::Plain, &count.told("objects"))?;
    for key in &left {
        site.objects.delete(key).await?;
        out.toned(Tone::Plain, &format!("removed {key}: it is not wanted any more"))?;
    }
    if args.wait.wait {
        let keys: Vec<Key> = keys().cloned().collect();
        wait::until_ready(site, &keys, Duration::from_secs(args.wait.timeout), out).await?;
        out.toned(Tone::Good, "mesh-viz is installed")?;
    } else {
        out.toned(Tone::Good, "mesh-viz is applied; kubectl get pods -n mesh-viz says when it stands")?;
    }
    let with_traces = keys().any(|key| key.kind == "Deployment" && key.name == "jaeger");
    if let Some(hint) = hint(site, with_traces).await? {
        out.toned(Tone::Warn, &hint)?;
    }
    out.line("\nnext:\n  meshctl dashboard prometheus  metrics of every sidecar and of the control plane")?;
    if with_traces {
        out.line("  meshctl dashboard jaeger      traces")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What keeps them from showing anything.
async fn hint(site: &Site, with_traces: bool) -> anyhow::Result<Option<String>> {
    let key = key("v1", "ConfigMap", names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT);
    let settings = site.objects.get(&key).await?;
    Ok(missing(settings.as_ref(), with_traces))
}

fn missing(settings: Option<&Value>, with_traces: bool) -> Option<String> {
    let Some(settings) = settings else {
        return Some("no mesh is installed: there is nothing to see before `meshctl install`".to_owned());
    };
    let texts = settings.get("data").and_then(Value::as_object).into_iter().flatten();
    let mut lines = texts.filter_map(|(_, text)| text.as_str()).flat_map(str::lines);
    let sent = lines.find_map(|line| line.strip_prefix("otlp_endpoint = ")).unwrap_or_default().trim_matches('"');
    // The same Service may be written with more of its name.
    if !with_traces || sent.starts_with("http://jaeger.mesh-viz") {
        return None;
    }
    let sent = if sent.is_empty() { "nowhere".to_owned() } else { format!("to {sent}") };
    Some(format!(
        "sidecars send their traces {sent}; to have them here:\n  meshctl upgrade --set telemetry.otlpEndpoint={ENDPOINT}\n  \
         kubectl rollout restart deployment -n NAME"
    ))
}

async fn uninstall(args: UninstallArgs, mut out: Out) -> anyhow::Result<ExitCode> {
    let site = Site::connect(&args.cluster).await?;
    require_not_helms(&site, "helm uninstall").await?;
    let mut keys = present(&site).await?;
    keys.sort_by_key(|key| (order::step(key), std::cmp::Reverse(order::rank(key))));
    if keys.is_empty() {
        out.toned(Tone::Good, &format!("there is no mesh-viz in {}", site.cluster.name()))?;
        return Ok(ExitCode::SUCCESS);
    }
    out.toned(Tone::Strong, &format!("objects of mesh-viz ({}):", keys.len()))?;
    for key in &keys {
        out.line(format_args!("  {key}"))?;
    }
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    rights::require(&site, keys.iter(), &["get", "delete"]).await?;
    if !args.yes && !ask::go_on(&format!("Remove all of it from {}?", site.cluster.name()))? {
        out.line("nothing was removed")?;
        return Ok(ExitCode::FAILURE);
    }
    remove::all(&site, &keys, false, &mut out).await?;
    out.toned(Tone::Good, "mesh-viz is gone")?;
    Ok(ExitCode::SUCCESS)
}

/// Everything of the chart that is there, but what others made of it: pods go with their Deployment.
async fn present(site: &Site) -> anyhow::Result<Vec<Key>> {
    let (found, refused) = site.objects.labelled(&format!("{}={MESH_VIZ}", names::LABEL_CHART)).await?;
    for what in refused {
        crate::io::note(&format!("not searched: {what}"));
    }
    let mut keys: Vec<Key> = Vec::new();
    for key in found.into_iter().filter(|found| !found.owned).map(|found| found.key) {
        // Kinds that are served in several groups come more than once.
        if !keys.iter().any(|other| other.is_same(&key)) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// What an earlier installation, with other values, had and this one has not. A namespace stays: others may be in it. And
/// so does what the chart never makes: anybody may write its label.
fn left_over(present: Vec<Key>, wanted: &[Object]) -> anyhow::Result<Vec<Key>> {
    let release = chart::Release { namespace: NAMESPACE.to_owned(), ..chart::Release::default() };
    let made = Chart::carried(MESH_VIZ)?.render(&Value::Object(serde_json::Map::new()), &release)?;
    let is_wanted = |key: &Key| wanted.iter().any(|object| object.key.is_same(key));
    let is_charts = |key: &Key| {
        let is_kind = |made: &Key| (made.gvk().group, &made.kind) == (key.gvk().group, &key.kind);
        let in_place = key.namespace == NAMESPACE && made.iter().any(|made| is_kind(&made.key));
        in_place || made.iter().any(|made| made.key.is_same(key))
    };
    let left = present.into_iter().filter(|key| key.kind != "Namespace" && is_charts(key) && !is_wanted(key));
    Ok(left.collect())
}

/// Fails where Helm holds the chart: two installers would undo each other's work.
async fn require_not_helms(site: &Site, instead: &str) -> anyhow::Result<()> {
    let found = site.objects.get(&key("apps/v1", "Deployment", NAMESPACE, "prometheus")).await?;
    let release = found.as_ref().and_then(|found| found.pointer("/metadata/annotations/meta.helm.sh~1release-name"));
    if let Some(release) = release.and_then(Value::as_str) {
        anyhow::bail!("mesh-viz was installed by Helm, as release {release}; use: {instead}");
    }
    Ok(())
}

fn key(api_version: &str, kind: &str, namespace: &str, name: &str) -> Key {
    Key {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        io::tests::Shared,
        query::fake::{self, Fake},
    };

    fn settings(endpoint: &str) -> Value {
        json!({ "data": { "controller.toml": format!("[inject]\notlp_endpoint = \"{endpoint}\"\ntrace_ratio = 1\n") } })
    }

    #[test]
    fn it_is_said_what_keeps_traces_away() {
        assert!(missing(None, true).unwrap().contains("meshctl install"));
        assert_eq!(missing(Some(&settings(ENDPOINT)), true), None);
        assert_eq!(missing(Some(&settings("http://jaeger.mesh-viz.svc.cluster.local:4317")), true), None);
        let nowhere = missing(Some(&settings("")), true).unwrap();
        assert!(nowhere.contains("nowhere") && nowhere.contains(&format!("otlpEndpoint={ENDPOINT}")), "{nowhere}");
        assert!(missing(Some(&settings("http://other:4317")), true).unwrap().contains("to http://other:4317"));
        assert_eq!(missing(Some(&settings("")), false), None, "without Jaeger nobody waits for traces");
    }

    #[test]
    fn the_mesh_sends_traces_here_by_itself() {
        let defaults = Chart::carried(chart::MESH).unwrap().defaults().clone();
        assert_eq!(defaults["telemetry"]["otlpEndpoint"], ENDPOINT);
    }

    #[test]
    fn what_other_values_had_goes_and_the_namespace_stays() {
        let release = chart::Release { namespace: NAMESPACE.to_owned(), ..chart::Release::default() };
        let chart = Chart::carried(MESH_VIZ).unwrap();
        let all = chart.render(&json!({}), &release).unwrap();
        let less = json!({ "jaeger": { "enabled": false }, "namespace": { "create": false } });
        let less = chart.render(&less, &release).unwrap();
        let left = left_over(all.iter().map(|object| object.key.clone()).collect(), &less).unwrap();
        let left: Vec<_> = left.iter().map(|key| (key.kind.as_str(), key.name.as_str())).collect();
        assert_eq!(left, [("Service", "jaeger"), ("Deployment", "jaeger")]);
    }

    /// A cluster in which somebody else wrote the chart's label, and an earlier Service of the chart is left.
    async fn labelled() -> (Fake, Site) {
        let fake = Fake::start().await;
        fake.serve(&[
            ("v1", "Service", "services", true),
            ("v1", "ConfigMap", "configmaps", true),
            ("v1", "Secret", "secrets", true),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false),
        ]);
        let object = |namespace: &str, name: &str| json!({ "metadata": { "namespace": namespace, "name": name } });
        fake.list("/api/v1/services", &[object("mesh-viz", "old"), object("shop", "web")]);
        fake.list("/api/v1/secrets", &[object("mesh-viz", "mine")]);
        fake.list("/apis/rbac.authorization.k8s.io/v1/clusterroles", &[json!({ "metadata": { "name": "theirs" } })]);
        fake.object(OLD, &object("mesh-viz", "old"));
        let none = fake::status(404, "NotFound", "no such thing");
        fake.reply(http::Method::GET, "/api/v1/namespaces/mesh-system/configmaps/mesh-controller", 404, none);
        fake.forbid(&[]);
        let cluster = fake.cluster();
        let objects = crate::cluster::objects::Objects::new(&cluster);
        (fake, Site { cluster, objects })
    }

    const OLD: &str = "/api/v1/namespaces/mesh-viz/services/old";

    fn args(more: &[&str]) -> InstallArgs {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            args: InstallArgs,
        }
        let words = ["install", "--wait=false"].iter().chain(more);
        <Command as clap::Parser>::try_parse_from(words).unwrap().args
    }

    #[tokio::test]
    async fn only_what_the_chart_makes_goes_and_only_after_a_yes() {
        let (fake, site) = labelled().await;
        let said = Shared::default();
        put_in(&site, &[], &args(&["--yes"]), &mut Out::to(said.clone())).await.unwrap();
        assert_eq!(fake.deleted(), [OLD]);
        assert!(said.text().contains("not wanted any more:\n  Service mesh-viz/old\n"), "{}", said.text());
        // The right is asked for before.
        let (fake, site) = labelled().await;
        fake.forbid(&[("delete", "services")]);
        let error = put_in(&site, &[], &args(&["--yes"]), &mut Out::to(std::io::sink())).await.unwrap_err();
        assert!(error.to_string().contains("delete services in namespace mesh-viz"), "{error}");
        assert_eq!(fake.deleted(), [""; 0]);
    }
}
