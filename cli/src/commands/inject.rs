//! `meshctl inject`: puts sidecars into manifests.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use mesh_api::{names, probe::Token};
use mesh_controller::inject::{Decision, Namespace, Settings, Version, decide, templates};
use serde_json::Value;

use crate::{
    injection::{Input, SettingsArgs, namespaces, read_inputs, title},
    io::{self, Out},
    manifest::{Document, documents},
};

/// Arguments of `meshctl inject`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl inject web.yaml | kubectl apply -f -\n  meshctl inject ./manifests > injected.yaml\n  \
    helm template ./chart | meshctl inject - | kubectl apply -f -\n  meshctl inject --set cni=true --set log_level=debug web.yaml\n\n\
    Where the mesh's webhook is installed nothing needs to be injected by hand: kubectl label namespace NAME mesh.dev/inject=enabled\n\
    Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and lists of them are changed; everything else stays as it\n\
    is. What says mesh.dev/inject: disabled is left alone. Where something is refused nothing is printed, and the exit code is 1."
)]
pub struct Args {
    /// Files, folders (with all folders below them), or - for standard input.
    #[arg(value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, value_name = "NS", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Prints the manifests with sidecars.
///
/// # Errors
/// Where they cannot be read or printed.
pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<ExitCode> {
    let settings = match args.settings.read() {
        Ok(settings) => settings,
        Err(errors) => return Ok(wrong(&errors.to_string())),
    };
    let Some(inputs) = inputs(&args.paths)? else {
        return Ok(wrong("nothing to inject: name files or folders, or - for standard input"));
    };
    let injector = Injector { settings, version: args.settings.kubernetes_version, namespace: &args.namespace };
    finish(injector.inject(&inputs), out)
}

/// What is to be read; `None` where nothing was named and nothing is piped in.
pub(super) fn inputs(paths: &[PathBuf]) -> anyhow::Result<Option<Vec<Input>>> {
    if !paths.is_empty() {
        return read_inputs(paths).map(Some);
    }
    if std::io::stdin().is_terminal() {
        return Ok(None);
    }
    read_inputs(&["-".into()]).map(Some)
}

pub(super) fn wrong(reason: &str) -> ExitCode {
    io::complain(&io::printable(reason));
    ExitCode::from(2)
}

/// Manifests, changed, and what there is to tell.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) text: String,
    pub(super) notes: Vec<String>,
    pub(super) refused: usize,
}

impl Changed {
    pub(super) fn push(&mut self, text: &str) {
        if !self.text.is_empty() {
            if !self.text.ends_with('\n') {
                self.text.push('\n');
            }
            if !text.starts_with("---") {
                self.text.push_str("---\n");
            }
        }
        self.text.push_str(text);
    }

    pub(super) fn note(&mut self, what: &str, note: impl std::fmt::Display) {
        self.notes.push(io::printable(&format!("{what}: {note}")));
    }
}

/// Notes to standard error, manifests to standard output.
pub(super) fn finish(changed: Changed, out: &mut Out) -> anyhow::Result<ExitCode> {
    for note in &changed.notes {
        // Nobody is left to be told where this fails.
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    if changed.refused > 0 {
        io::complain("nothing is printed, because something is refused");
        return Ok(ExitCode::FAILURE);
    }
    out.raw(&changed.text)?;
    Ok(ExitCode::SUCCESS)
}

struct Injector<'a> {
    settings: Settings,
    version: Option<Version>,
    namespace: &'a str,
}

impl Injector<'_> {
    fn inject(&self, inputs: &[Input]) -> Changed {
        let mut changed = Changed::default();
        let all: Vec<(&str, Document<'_>)> = inputs
            .iter()
            .flat_map(|input| documents(&input.text).into_iter().map(|one| (input.name.as_str(), one)))
            .collect();
        let objects: Vec<Value> = all.iter().filter_map(|(_, document)| document.read().ok().flatten()).collect();
        let known = namespaces(&objects);
        let (mut before, mut kept) = ("", 0);
        for (file, document) in all {
            let text = match document.read() {
                Err(error) => {
                    changed.note(
                        &format!("{file}:{}", document.line),
                        format_args!("cannot be read and stays as it is: {error}"),
                    );
                    document.text.to_owned()
                }
                Ok(None) => document.text.to_owned(),
                Ok(Some(object)) => {
                    let result = self.object(&object, &known, &mut changed);
                    kept += usize::from(result.is_none());
                    result.map_or_else(|| document.text.to_owned(), |wanted| document.saying(&wanted))
                }
            };
            if file == before {
                changed.text.push_str(&text)
            } else {
                changed.push(&text)
            }
            before = file;
        }
        if kept > 0 {
            changed.notes.push(format!("{kept} other documents stay as they are"));
        }
        changed
    }

    /// The object with sidecars; `None` where it has no pods.
    fn object(&self, object: &Value, known: &[Namespace], changed: &mut Changed) -> Option<Value> {
        let found = templates(object);
        let mut result = object.clone();
        for template in &found {
            let Some(pod) = object.pointer(&template.pointer) else { continue };
            let title = title(template, self.namespace);
            let namespace = self.namespace_of(template.namespace.as_deref().unwrap_or(self.namespace), known);
            let token = Token::random();
            match decide(pod, template.owner.as_ref(), &namespace, &self.settings, self.version, &token) {
                Decision::Leave(fault) => changed.note(&title, format_args!("left alone: {fault}")),
                Decision::Refuse(faults) => {
                    changed.refused += 1;
                    for fault in faults {
                        changed.note(&title, format_args!("refused: {fault}"));
                    }
                }
                Decision::Inject(injection) => {
                    let how = if injection.patch.is_empty() { "has its sidecar" } else { "injected" };
                    changed.note(&title, how);
                    for warning in &injection.warnings {
                        changed.note(&title, format_args!("warning: {warning}"));
                    }
                    if let Some(place) = result.pointer_mut(&template.pointer) {
                        *place = injection.pod;
                    }
                }
            }
        }
        (!found.is_empty()).then_some(result)
    }

    /// Who injects by hand asks for it; what the manifests say of the namespace holds all the same.
    fn namespace_of(&self, name: &str, known: &[Namespace]) -> Namespace {
        let found = known.iter().find(|namespace| namespace.name == name).cloned();
        let mut namespace = found.unwrap_or_else(|| Namespace { name: name.to_owned(), ..Namespace::default() });
        namespace.labels.entry(names::INJECT.to_owned()).or_insert_with(|| "enabled".to_owned());
        namespace
    }
}

#[cfg(test)]
mod tests;
