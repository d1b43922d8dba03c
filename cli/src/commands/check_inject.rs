//! `meshctl check-inject`: explains whether a pod gets a sidecar.

use std::{path::PathBuf, process::ExitCode};

use mesh_api::probe::Token;
use mesh_controller::inject::{Namespace, decide, templates};

use super::inject::wrong;
use crate::{
    cluster::{Cluster, ClusterArgs},
    injection::{SettingsArgs, explain::Explanation, live, namespaces, read_inputs},
    io::{Format, Out},
    manifest::documents,
};

/// Arguments of `meshctl check-inject`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl check-inject -n shop web-7d4b9c8f6d-x2x7z\n  meshctl check-inject -n shop deploy/web\n  \
    meshctl check-inject -f web.yaml\n  meshctl check-inject deploy/web -o json\n\n\
    Why a pod gets a sidecar, gets none, or is refused: decided by the same code as the webhook, about what is in the cluster now, or\n\
    with -f about what a file describes. The exit code is 1 where something is refused."
)]
pub struct Args {
    /// A pod's name, or KIND/NAME: pod, deploy, sts, ds, rs, job, cronjob.
    #[arg(value_name = "POD|KIND/NAME", required_unless_present = "file")]
    target: Option<String>,
    /// Explain what this file describes (- for standard input) instead of asking a cluster.
    #[arg(short, long, value_name = "FILE", conflicts_with = "target")]
    file: Option<PathBuf>,
    /// Namespace [default: the context's; with -f, `default` for objects that name none].
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Explains.
///
/// # Errors
/// Where there is nothing to explain, or the cluster cannot be asked.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let settings = match args.settings.read() {
        Ok(settings) => settings,
        Err(errors) => return Ok(wrong(&errors.to_string())),
    };
    let explanations = match (&args.file, &args.target) {
        (Some(file), _) => {
            let namespace = args.namespace.as_deref().unwrap_or("default");
            let mut found = Vec::new();
            for input in read_inputs(std::slice::from_ref(file))? {
                let objects: Vec<_> =
                    documents(&input.text).iter().filter_map(|document| document.read().ok().flatten()).collect();
                let known = namespaces(&objects);
                for object in &objects {
                    for template in templates(object) {
                        let name = template.namespace.as_deref().unwrap_or(namespace);
                        let space = known.iter().find(|known| known.name == name).cloned();
                        let space =
                            space.unwrap_or_else(|| Namespace { name: name.to_owned(), ..Namespace::default() });
                        let Some(pod) = object.pointer(&template.pointer) else { continue };
                        let version = args.settings.kubernetes_version;
                        let decision =
                            decide(pod, template.owner.as_ref(), &space, &settings, version, &Token::random());
                        found.push(Explanation::new(&template.kind, name, &template.name, decision));
                    }
                }
            }
            anyhow::ensure!(!found.is_empty(), "there is no pod and no workload in {}", file.display());
            found
        }
        (None, Some(target)) => {
            let cluster = Cluster::connect(&args.cluster).await?;
            let namespace = args.namespace.clone().unwrap_or_else(|| cluster.namespace().to_owned());
            let given = (!args.settings.is_empty()).then_some(settings);
            vec![live::explain(&cluster, &namespace, target, given, args.settings.kubernetes_version).await?]
        }
        (None, None) => return Ok(wrong("name a pod, a workload such as deploy/web, or a file with -f")),
    };
    match args.output {
        Format::Json => out.json(&explanations)?,
        Format::Table => {
            for explanation in &explanations {
                explanation.show(&mut out)?;
            }
        }
    }
    let refused = explanations.iter().any(Explanation::is_refused);
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
