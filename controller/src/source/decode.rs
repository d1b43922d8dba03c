//! From the text of a manifest to objects. Pure.
//!
//! Kinds that the mesh does not read are passed over. Of those that it reads, an error names the file, the line, the
//! object and the field, and where the field's name is unknown the one that was probably meant.

use std::{path::PathBuf, sync::Arc};

use mesh_api::{
    config::nearest,
    model::{is_dns_label, is_dns_subdomain},
    names,
    resources::{KINDS, Metadata, Resource},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    document::{Document, split},
    stand_in::stand_in,
};
use crate::problem::{Place, Problem, Reason, Severity};

/// Largest file, in bytes.
pub const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Most objects in a file.
pub const MAX_OBJECTS: usize = 10_000;

/// Something, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Located<T> {
    /// Where its document begins.
    pub place: Place,
    /// It.
    pub value: T,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Objects that could be read, in the file's order.
    pub objects: Vec<Located<Resource>>,
    /// What stands in for policies that could not be read.
    pub stand_ins: Vec<Located<Resource>>,
    /// What could not be read, and why.
    pub problems: Vec<Problem>,
    /// How many objects are of kinds that the mesh does not read.
    pub foreign: usize,
}

impl Decoded {
    /// True where every document could be read.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity < Severity::Error)
    }
}

/// Reads the text of one file.
#[must_use]
pub fn decode(path: &Arc<PathBuf>, text: &str) -> Decoded {
    let mut out = Decoded::default();
    for (count, document) in split(text).enumerate() {
        let place = Place { path: path.clone(), line: first_line(document) };
        if count >= MAX_OBJECTS {
            let message = format!("more than {MAX_OBJECTS} objects in one file; the rest is not read");
            out.problems.push(problem(place, Reason::TooLarge, message));
            break;
        }
        decode_document(document, place, &mut out);
    }
    out
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Header {
    api_version: String,
    kind: String,
    metadata: Metadata,
}

fn decode_document(document: Document<'_>, place: Place, out: &mut Decoded) {
    let header: Option<Header> = match read(document) {
        Ok(header) => header,
        Err(fault) => {
            // Not even the head can be read. What cannot be read as a map at all has no object to name.
            let place = Place { line: fault.line.unwrap_or(place.line), ..place };
            let field = fault.path;
            out.problems.push(Problem { field, ..problem(place, Reason::Syntax, fault.message) });
            return;
        }
    };
    let Some(header) = header else { return };
    if header.kind.is_empty() || header.api_version.is_empty() {
        let message = "not an object: it has no apiVersion or no kind".into();
        out.problems.push(problem(place, Reason::Syntax, message));
        return;
    }
    let kind = match known_kind(&header) {
        Known::Kind(kind) => kind,
        Known::Foreign => {
            tracing::debug!(%place, kind = header.kind, "kind is not read");
            out.foreign += 1;
            return;
        }
        Known::Wrong(field, message) => {
            let field = field.into();
            out.problems.push(Problem { field, ..problem(place, Reason::Invalid, message) });
            return;
        }
    };
    let metadata = complete(kind, header.metadata);
    match typed(kind, document) {
        Ok(mut resource) => {
            *resource.metadata_mut() = metadata;
            match name_fault(&resource) {
                None => out.objects.push(Located { place, value: resource }),
                Some((field, message)) => {
                    let object = Some(resource.object_ref());
                    let field = field.into();
                    out.problems.push(Problem { object, field, ..problem(place, Reason::Invalid, message) });
                }
            }
        }
        Err(fault) => {
            let object = Some(mesh_api::model::ObjectRef {
                kind: kind.into(),
                namespace: metadata.namespace.as_str().into(),
                name: metadata.name.as_str().into(),
            });
            if let Ok(Some(value)) = read::<Option<serde_json::Value>>(document)
                && let Some(resource) = stand_in(kind, &metadata, &value)
                && name_fault(&resource).is_none()
            {
                out.stand_ins.push(Located { place: place.clone(), value: resource });
            }
            let place = Place { line: fault.line.unwrap_or(place.line), ..place };
            let field = fault.path;
            out.problems.push(Problem { object, field, ..problem(place, Reason::Invalid, fault.message) });
        }
    }
}

enum Known {
    Kind(&'static str),
    Foreign,
    Wrong(&'static str, String),
}

fn known_kind(header: &Header) -> Known {
    let (group, version) = header.api_version.split_once('/').unwrap_or(("", &header.api_version));
    let versions: &[&str] = match group {
        "" => &["v1"],
        names::GROUP => &["v1alpha1"],
        _ => &["v1", "v1beta1"],
    };
    let Some((_, kind)) = KINDS.iter().find(|known| **known == (group, header.kind.as_str())) else {
        if group != names::GROUP {
            return Known::Foreign;
        }
        let kinds = KINDS.iter().filter(|(group, _)| *group == names::GROUP).map(|(_, kind)| *kind);
        let hint = nearest(&header.kind, kinds).map(|kind| format!("; did you mean `{kind}`?")).unwrap_or_default();
        return Known::Wrong("kind", format!("there is no kind `{}` in {}{hint}", header.kind, names::GROUP));
    };
    if !versions.contains(&version) {
        let message = format!("version `{version}` of {kind} is not known, {} is", versions.join(" or "));
        return Known::Wrong("apiVersion", message);
    }
    Known::Kind(kind)
}

fn complete(kind: &str, mut metadata: Metadata) -> Metadata {
    if kind == "Namespace" {
        metadata.namespace.clear();
    } else if metadata.namespace.is_empty() {
        "default".clone_into(&mut metadata.namespace);
    }
    metadata
}

/// Names must be what Kubernetes would let through: they become host names and identities.
pub(super) fn name_fault(resource: &Resource) -> Option<(&'static str, String)> {
    let Metadata { name, namespace, .. } = resource.metadata();
    let subdomain = is_dns_subdomain(name);
    let good = match resource {
        Resource::Service(_) | Resource::Namespace(_) => is_dns_label(name),
        _ => subdomain,
    };
    if name.is_empty() {
        return Some(("metadata.name", "missing".into()));
    }
    if !good {
        let message = format!("`{name}` is not a name: a-z, 0-9 and `-`, not at an end, and not too long");
        return Some(("metadata.name", message));
    }
    let whole = matches!(resource, Resource::Namespace(_) | Resource::Node(_));
    (!whole && !is_dns_label(namespace)).then(|| ("metadata.namespace", format!("`{namespace}` is not a namespace")))
}

fn typed(kind: &str, document: Document<'_>) -> Result<Resource, Fault> {
    Ok(match kind {
        "Namespace" => Resource::Namespace(read(document)?),
        "Service" => Resource::Service(read(document)?),
        "HTTPRoute" => Resource::HttpRoute(read(document)?),
        "AuthorizationPolicy" => Resource::AuthorizationPolicy(read(document)?),
        "TransportPolicy" => Resource::TransportPolicy(read(document)?),
        "ExternalWorkload" => Resource::ExternalWorkload(read(document)?),
        other => return Err(Fault { line: None, path: String::new(), message: format!("unknown kind {other}") }),
    })
}

struct Fault {
    line: Option<u64>,
    path: String,
    message: String,
}

fn read<T: DeserializeOwned>(document: Document<'_>) -> Result<T, Fault> {
    let options = serde_saphyr::options! { with_snippet: false, budget: serde_saphyr::budget! { max_aliases: 1000 } };
    let mut path = String::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(document.text, options, |deserializer| {
        let mut track = serde_path_to_error::Track::new();
        let result = T::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track));
        if result.is_err() {
            path = track.path().to_string();
        }
        result
    });
    read.map_err(|error| fault(&error, path, document))
}

fn fault(error: &serde_saphyr::Error, path: String, document: Document<'_>) -> Fault {
    use serde_saphyr::Error;
    let line = error.location().map(|location| location.line());
    let line = line.filter(|line| *line > 0).map(|line| document.before + line);
    let message = match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown field `{field}`{}", meant(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not known{}", meant(variant, expected))
        }
        Error::InvalidScalar { ty, .. } => format!("not a value of type {ty}"),
        other => {
            let text = other.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            // The line is told once, at the front, and for the whole file.
            text.split(" at line ").next().unwrap_or_default().to_owned()
        }
    };
    // Where a key itself is at fault, its name is in the message, not in the path.
    let path = path.trim_end_matches(['?', '.']).to_owned();
    Fault { line, path, message }
}

fn meant(text: &str, expected: &[&'static str]) -> String {
    match nearest(text, expected.iter().copied()) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => format!("; known are {}", expected.join(", ")),
    }
}

fn first_line(document: Document<'_>) -> u64 {
    let skipped = document.text.lines().take_while(|line| {
        let line = line.trim_start_matches('\u{feff}').trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "---"
    });
    document.before + skipped.count() as u64 + 1
}

fn problem(place: Place, reason: Reason, message: String) -> Problem {
    let (object, field) = (None, String::new());
    Problem { place: Some(place), object, field, reason, severity: Severity::Error, message }
}

#[cfg(test)]
mod tests;
