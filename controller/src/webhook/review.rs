//! Reviews as API servers send them (`admission.k8s.io/v1`), and the answers to them.

use bytes::Bytes;
use k8s_openapi::ByteString;
use mesh_api::model::is_dns_label;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inject::Op;

/// The one version that is spoken.
const API_VERSION: &str = "admission.k8s.io/v1";
/// Warnings of one answer, and the length of one: beyond both, API servers cut.
const MAX_WARNINGS: usize = 16;
const MAX_WARNING: usize = 250;
/// Longest message of a refusal.
const MAX_MESSAGE: usize = 4000;

/// A review that cannot be answered. Sending it again is of use only where it [is transient](Self::is_transient).
#[derive(Debug, thiserror::Error)]
pub enum BadReview {
    /// Not JSON, or not of this shape.
    #[error("the body is not an AdmissionReview: {0}")]
    Shape(String),
    /// Another version, or another kind.
    #[error("`{0}` is not read; AdmissionReview of {API_VERSION} is")]
    Version(String),
    /// No request in it, or one without an id.
    #[error("the review has no request with a uid, which is a UUID")]
    Empty,
    /// No namespace is called so.
    #[error("`{0}` is not the name of a namespace")]
    Namespace(String),
    /// Objects of this kind are not for this webhook.
    #[error("{0}")]
    Kind(String),
    /// What is needed to decide cannot be asked for now.
    #[error("{0}; try again")]
    Unknown(String),
}

impl BadReview {
    /// True where the same review may be answered later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// What is asked, as far as anything depends on it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// Names the review; the answer repeats it.
    pub uid: String,
    /// Kind of the object.
    pub kind: Kind,
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    pub operation: String,
    /// Namespace of the object: a DNS label; empty where it is in none.
    pub namespace: String,
    /// Its name, where it has one yet.
    pub name: String,
    /// What of it is meant; empty: the object itself.
    pub sub_resource: String,
    /// The object as it is to be; null where it is to go.
    pub object: Value,
    /// As it was.
    pub old_object: Value,
}

/// A kind with its group and version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Kind {
    /// Group; empty for the core one.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

/// Reads a review.
///
/// # Errors
/// [`BadReview`].
pub fn read_review(body: &[u8]) -> Result<Request, BadReview> {
    let review: Review = serde_json::from_slice(body).map_err(|error| BadReview::Shape(error.to_string()))?;
    if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
        let found = format!("{} of {}", review.kind, review.api_version);
        return Err(BadReview::Version(clipped(&found, 100)));
    }
    let request = review.request.filter(|request| !request.uid.is_empty()).ok_or(BadReview::Empty)?;
    // Whoever reaches the port says it, and it is asked for.
    if !request.namespace.is_empty() && !is_dns_label(&request.namespace) {
        return Err(BadReview::Namespace(clipped(&request.namespace, 100)));
    }
    Ok(request)
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Why not, with a status code of HTTP; `None`: it is allowed.
    pub refused: Option<(u16, String)>,
    /// Changes to the object; only where it is allowed.
    pub patch: Vec<Op>,
    /// Told to whoever made the request.
    pub warnings: Vec<String>,
    /// For the audit log, as (key, value).
    pub audit: Vec<(&'static str, String)>,
}

impl Answer {
    /// As API servers read it.
    #[must_use]
    pub fn encode(&self, uid: &str) -> Bytes {
        let mut response = json!({ "uid": uid, "allowed": self.refused.is_none() });
        if let Some((code, message)) = &self.refused {
            let reason = if *code == 422 { "Invalid" } else { "Forbidden" };
            response["status"] = json!({
                "status": "Failure", "code": code, "reason": reason, "message": clipped(message, MAX_MESSAGE),
            });
        }
        if !self.patch.is_empty() && self.refused.is_none() {
            let patch = serde_json::to_vec(&self.patch).unwrap_or_default();
            response["patchType"] = "JSONPatch".into();
            response["patch"] = json!(ByteString(patch));
        }
        if !self.warnings.is_empty() {
            response["warnings"] =
                self.warnings.iter().take(MAX_WARNINGS).map(|text| clipped(text, MAX_WARNING)).collect();
        }
        if !self.audit.is_empty() {
            response["auditAnnotations"] =
                self.audit.iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect();
        }
        let review = json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response });
        review.to_string().into()
    }
}

/// At most so many bytes, in one line, without what moves a cursor.
fn clipped(text: &str, max: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() <= max {
        return line;
    }
    let end = (0..=max.saturating_sub(3)).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", line.get(..end).unwrap_or_default())
}
