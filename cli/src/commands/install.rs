//! `meshctl install`: puts the control plane into a cluster.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use mesh_api::names;
use serde_json::{Value, json};

use crate::{
    chart::{Chart, ChartError, MESH, MESH_CRDS, Object, object::Key},
    cluster::ClusterArgs,
    io::{Out, Tone},
    release::{
        Site, VERSION, ValueArgs, Wanted, put,
        record::{Record, State, written},
        rights, wait,
    },
};

/// Verbs that an installation needs for each of its kinds.
const VERBS: [&str; 3] = ["get", "create", "patch"];

/// How objects are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Objects {
    /// Documents of YAML.
    #[default]
    Yaml,
    /// One List.
    Json,
}

/// Whether, and for how long, it is waited until everything stands; shared with `upgrade`.
#[derive(Clone, Debug, clap::Args)]
pub struct WaitArgs {
    /// Wait until everything stands; --wait=false does not.
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          require_equals = true, action = clap::ArgAction::Set)]
    pub wait: bool,
    /// Longest time to wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub timeout: u64,
}

/// Arguments of `meshctl install`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl install\n  meshctl install --ha --set trustDomain=prod.example\n  \
    meshctl install --dry-run > mesh.yaml\n\n\
    It installs what the Helm charts mesh-crds and mesh give. Doing it again is safe.\n\
    What is installed is kept in ConfigMap mesh-release of mesh-system, for `meshctl upgrade`.")]
pub struct Args {
    #[command(flatten)]
    values: ValueArgs,
    /// Print the objects, and change nothing; no cluster is asked.
    #[arg(long)]
    dry_run: bool,
    /// How --dry-run prints.
    #[arg(short, long, value_enum, default_value_t, requires = "dry_run")]
    output: Objects,
    /// Leave the kinds of mesh.dev out: somebody else applies them.
    #[arg(long)]
    skip_crds: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Installs the mesh.
///
/// # Errors
/// Where values are wrong, another version or other values are installed, a right is missing, or it does not stand in
/// time.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let chart = Chart::carried(MESH)?;
    let given = args.values.given(&chart)?;
    let wanted = Wanted::rendered(&given, false, !args.skip_crds)?;
    if args.dry_run {
        let all: Vec<Object> = wanted.kinds.into_iter().chain(wanted.objects).collect();
        print(&all, args.output, &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let site = Site::connect(&args.cluster).await?;
    site.require_version()?;
    site.require_not_helms("helm upgrade").await?;
    let before = Record::load(&site.objects).await?;
    let given = permitted(before.as_ref(), &args.values, given)?;
    if let Some(before) = &before {
        require_domain(&site, &before.current.values, &given).await?;
    }
    let wanted = Wanted::rendered(&given, false, !args.skip_crds)?;
    require_kinds(&site, args.skip_crds).await?;
    let keys = wanted.kinds.iter().chain(&wanted.objects).map(|object| &object.key);
    rights::require(&site, keys, &VERBS).await?;
    out.line(format_args!("installing mesh {VERSION} into {} ({})", site.cluster.name(), site.cluster.server()))?;
    put::kinds(&site, &wanted.kinds, &mut out).await?;
    let (namespaces, _): (Vec<Object>, Vec<Object>) =
        wanted.objects.iter().cloned().partition(|object| object.key.kind == "Namespace");
    require_namespace(&site, &namespaces).await?;
    put::all(&site, &namespaces).await?;
    // Written down before it is done: what happens half way can be gone on with, and taken away.
    let mut record = match before {
        Some(same) if same.current.values == given => same.again(&wanted),
        before => Record::begun(&wanted, VERSION, given, before),
    };
    record.save(&site.objects).await?;
    let count = put::all(&site, &wanted.objects).await?;
    out.toned(Tone::Plain, &count.told("objects of the control plane"))?;
    stands(&site, &record, &args.wait, &mut out).await?;
    done(&site, &mut record).await?;
    next_steps(args.wait.wait, &mut out)?;
    Ok(ExitCode::SUCCESS)
}

/// Waits until everything of a release stands, where that is wanted.
///
/// # Errors
/// What does not stand in time.
pub async fn stands(site: &Site, record: &Record, wait: &WaitArgs, out: &mut Out) -> anyhow::Result<()> {
    if wait.wait {
        let limit = Duration::from_secs(wait.timeout);
        wait::until_ready(site, &record.current.inventory, limit, out).await?;
    }
    Ok(())
}

/// Writes down that a release is done.
///
/// # Errors
/// Where the cluster does not take it.
pub async fn done(site: &Site, record: &mut Record) -> anyhow::Result<()> {
    record.current.state = State::Done;
    record.save(&site.objects).await
}

/// Prints objects.
///
/// # Errors
/// Where they cannot be printed.
pub fn print(objects: &[Object], output: Objects, out: &mut Out) -> std::io::Result<()> {
    match output {
        Objects::Yaml => out.raw(&written(objects)),
        Objects::Json => {
            let items: Vec<&Value> = objects.iter().map(|object| &object.value).collect();
            out.json(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))
        }
    }
}

/// The values to install with, where installing is what is to be done at all.
fn permitted(before: Option<&Record>, args: &ValueArgs, given: Value) -> anyhow::Result<Value> {
    let Some(before) = before else { return Ok(given) };
    let current = &before.current;
    anyhow::ensure!(
        before.is_ours(),
        "mesh {} is installed, and this is meshctl {VERSION}; use: meshctl upgrade",
        current.version
    );
    // A first try that failed may be done with better values.
    if current.state == State::Begun && before.previous.is_none() {
        return Ok(if args.is_empty() { current.values.clone() } else { given });
    }
    anyhow::ensure!(
        args.is_empty() || current.values == given,
        "mesh {} is installed with other values; `meshctl upgrade` keeps them and takes yours on top",
        current.version
    );
    Ok(current.values.clone())
}

/// Fails where members would get names of another domain: those of now would not know them.
///
/// # Errors
/// Both domains, and what it would take.
pub fn same_trust_domain(before: &Value, after: &Value) -> anyhow::Result<()> {
    let chart = Chart::carried(MESH)?;
    let of = |values: &Value| Ok::<_, ChartError>(chart.values(values)?["trustDomain"].clone());
    let (before, after) = (of(before)?, of(after)?);
    anyhow::ensure!(
        before == after,
        "trustDomain is {before} and cannot become {after}: every identity would change at once; \
         that takes `meshctl uninstall` and `meshctl install`"
    );
    Ok(())
}

/// Fails where a try before has made roots of another trust domain: the certificate authority would not start with them.
async fn require_domain(site: &Site, before: &Value, after: &Value) -> anyhow::Result<()> {
    let Err(other) = same_trust_domain(before, after) else { return Ok(()) };
    let (namespace, name) = (names::SYSTEM_NAMESPACE.to_owned(), names::CA_SECRET.to_owned());
    let secret = Key { api_version: "v1".to_owned(), kind: "Secret".to_owned(), namespace, name };
    match site.objects.get(&secret).await {
        Ok(None) => Ok(()),
        // Who may not look cannot know that it is not there.
        Err(error) if error.code != 403 => Err(error.into()),
        Ok(Some(_)) | Err(_) => Err(other.context(format!("{secret} has the roots of the first try to install"))),
    }
}

/// Fails where the kinds are left out and are not there.
async fn require_kinds(site: &Site, skipped: bool) -> anyhow::Result<()> {
    if !skipped {
        return Ok(());
    }
    for object in Chart::carried(MESH_CRDS)?.render(&json!({}), &crate::chart::Release::default())? {
        let found = site.objects.get(&object.key).await?;
        found.with_context(|| format!("{} is not there, and --skip-crds leaves it out", object.key))?;
    }
    Ok(())
}

/// Fails where the namespace is nobody's business.
async fn require_namespace(site: &Site, namespaces: &[Object]) -> anyhow::Result<()> {
    if !namespaces.is_empty() {
        return Ok(());
    }
    let name = names::SYSTEM_NAMESPACE;
    let key = Key {
        api_version: "v1".to_owned(),
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
    };
    let found = site.objects.get(&key).await?;
    found.with_context(|| format!("there is no namespace {name}, and namespace.create=false leaves it out"))?;
    Ok(())
}

fn next_steps(waited: bool, out: &mut Out) -> std::io::Result<()> {
    if waited {
        out.toned(Tone::Good, &format!("mesh {VERSION} is installed"))?;
    } else {
        out.toned(Tone::Good, &format!("mesh {VERSION} is applied; `meshctl check` says when it stands"))?;
    }
    out.line(
        "\nnext:\n  meshctl check                                         is everything as it should be?\n  \
         kubectl label namespace NAME mesh.dev/inject=enabled  new pods of NAME get a sidecar\n  \
         kubectl rollout restart deployment -n NAME            and the present ones, one after another",
    )
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::query::fake::{self, Fake};

    fn record(version: &str, state: State, values: Value) -> Record {
        let wanted = Wanted { kinds: Vec::new(), objects: Vec::new() };
        let mut record = Record::begun(&wanted, version, values, None);
        record.current.state = state;
        record
    }

    #[test]
    fn installing_never_changes_what_is_installed() {
        let none = ValueArgs::default();
        let some = ValueArgs { sets: vec!["ca.replicas=3".into()], ..ValueArgs::default() };
        let (bare, three) = (json!({}), json!({ "ca": { "replicas": 3 } }));
        assert_eq!(permitted(None, &some, three.clone()).unwrap(), three);

        let done = record(VERSION, State::Done, three.clone());
        assert_eq!(permitted(Some(&done), &none, bare.clone()).unwrap(), three, "the values stay");
        assert_eq!(permitted(Some(&done), &some, three.clone()).unwrap(), three);
        let refused = permitted(Some(&record(VERSION, State::Done, bare.clone())), &some, three.clone());
        assert!(refused.unwrap_err().to_string().contains("meshctl upgrade"));

        let failed = record(VERSION, State::Begun, bare.clone());
        assert_eq!(permitted(Some(&failed), &some, three.clone()).unwrap(), three, "a failed try may be mended");
        let other = permitted(Some(&record("0.0.9", State::Done, bare.clone())), &none, bare);
        assert!(other.unwrap_err().to_string().contains("mesh 0.0.9 is installed"));
    }

    #[test]
    fn a_trust_domain_stays() {
        let (none, own, other) =
            (json!({}), json!({ "trustDomain": "a.example" }), json!({ "trustDomain": "b.example" }));
        assert!(same_trust_domain(&none, &json!({ "trustDomain": "cluster.local" })).is_ok());
        assert!(same_trust_domain(&own, &own).is_ok());
        assert!(same_trust_domain(&own, &other).unwrap_err().to_string().contains("cannot become"));
    }

    #[tokio::test]
    async fn a_failed_try_keeps_its_trust_domain_once_there_are_roots() {
        let fake = Fake::start().await;
        fake.serve(&[("v1", "Secret", "secrets", true)]);
        let cluster = fake.cluster();
        let objects = crate::cluster::objects::Objects::new(&cluster);
        let site = Site { cluster, objects };
        let (first, second) = (json!({ "trustDomain": "a.example" }), json!({ "trustDomain": "b.example" }));
        let path = "/api/v1/namespaces/mesh-system/secrets/mesh-ca";
        fake.reply(Method::GET, path, 404, fake::status(404, "NotFound", "no such thing"));
        require_domain(&site, &first, &second).await.unwrap();
        for (code, reason) in [(200, ""), (403, "Forbidden")] {
            let secret = json!({ "metadata": { "name": "mesh-ca" } });
            let reply = if code == 200 { secret } else { fake::status(code, reason, "you may not") };
            fake.reply(Method::GET, path, code, reply);
            let error = format!("{:#}", require_domain(&site, &first, &second).await.unwrap_err());
            assert!(error.contains("Secret mesh-system/mesh-ca") && error.contains("`meshctl uninstall`"), "{error}");
            require_domain(&site, &first, &first).await.unwrap();
        }
        fake.reply(Method::GET, path, 500, fake::status(500, "InternalError", "broken"));
        assert!(require_domain(&site, &first, &second).await.is_err());
    }
}
