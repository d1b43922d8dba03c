//! `meshctl uninject`: takes sidecars out of manifests.

use std::{path::PathBuf, process::ExitCode};

use mesh_controller::inject::{remove, templates};
use serde_json::Value;

use super::inject::{Changed, finish, inputs, wrong};
use crate::{
    injection::{Input, title},
    io::Out,
    manifest::documents,
};

/// Arguments of `meshctl uninject`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl uninject injected.yaml\n  kubectl get deploy web -o yaml | meshctl uninject - | kubectl apply -f -\n\n\
    What meshctl inject or the mesh's webhook put in is taken out; everything else stays as it is."
)]
pub struct Args {
    /// Files, folders (with all folders below them), or - for standard input.
    #[arg(value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, value_name = "NS", default_value = "default")]
    namespace: String,
}

/// Prints the manifests without sidecars.
///
/// # Errors
/// Where they cannot be read or printed.
pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<ExitCode> {
    let Some(inputs) = inputs(&args.paths)? else {
        return Ok(wrong("nothing to look into: name files or folders, or - for standard input"));
    };
    finish(uninject(&inputs, &args.namespace), out)
}

pub(super) fn uninject(inputs: &[Input], namespace: &str) -> Changed {
    let mut changed = Changed::default();
    for input in inputs {
        for (at, document) in documents(&input.text).into_iter().enumerate() {
            let text = match document.read() {
                Err(error) => {
                    let place = format!("{}:{}", input.name, document.line);
                    changed.note(&place, format_args!("cannot be read and stays as it is: {error}"));
                    document.text.to_owned()
                }
                Ok(None) => document.text.to_owned(),
                Ok(Some(object)) => document.saying(&without(&object, namespace, &mut changed)),
            };
            if at == 0 { changed.push(&text) } else { changed.text.push_str(&text) }
        }
    }
    changed
}

fn without(object: &Value, namespace: &str, changed: &mut Changed) -> Value {
    let mut result = object.clone();
    for template in templates(object) {
        let Some(place) = result.pointer_mut(&template.pointer) else { continue };
        let note = match remove(place) {
            Some(pod) => {
                *place = pod;
                "sidecar taken out"
            }
            None => "has no sidecar",
        };
        changed.note(&title(&template, namespace), note);
    }
    result
}
