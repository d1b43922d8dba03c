//! The Kubernetes API server, as far as the authority asks it. Floor 0: imports nothing of the crate.
//!
//! Every call has a deadline and a bound on its answer. What is sent and answered is never logged, and no error shows
//! any of it: tokens and keys travel here.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use kube::{
    Client,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
    core::request,
};
use serde::{Deserialize, de::DeserializeOwned};

/// Largest answer, in bytes: a Secret has at most one MiB, and base64 makes a third more of it.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Longest message of the API server that is repeated in an error.
const MAX_MESSAGE: usize = 300;

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// How to reach it is not known. The operator's to mend.
    #[error("no Kubernetes is configured: {0}")]
    Config(String),
    /// It was not reached, or broke off. Worth a retry.
    #[error("the Kubernetes API server cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time. Worth a retry.
    #[error("the Kubernetes API server did not answer within {0:?}")]
    Late(Duration),
    /// It refused. Code and reason are of its own vocabulary.
    #[error("the Kubernetes API server refused ({code} {reason}): {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Such as `Forbidden`.
        reason: String,
        /// For people.
        message: String,
    },
    /// Its answer is not what it should be.
    #[error("the answer of the Kubernetes API server cannot be read: {0}")]
    Malformed(String),
}

impl ClusterError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// True where there is no such thing.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.code() == Some(404)
    }

    /// True where somebody else was first: it is there already, or it changed since it was read.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// True where the API server finds the object wrong.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// True where the namespace is being deleted.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        matches!(self, Self::Refused { code: 403, message, .. } if message.contains("because it is being terminated"))
    }
}

/// What the API server says where it refuses.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    reason: Option<String>,
    message: Option<String>,
}

/// A connection to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    impatient: Client,
    namespace: Arc<str>,
    deadline: Duration,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// As `KUBECONFIG`, `~/.kube/config` or the pod's service account say. `namespace` is the control plane's; one call
    /// takes at most `deadline`.
    ///
    /// # Errors
    /// [`ClusterError::Config`].
    pub async fn infer(namespace: &str, deadline: Duration) -> Result<Self, ClusterError> {
        let config = kube::Config::infer().await.map_err(|error| ClusterError::Config(error.to_string()))?;
        Self::new(config, namespace, deadline)
    }

    /// As a file says.
    ///
    /// # Errors
    /// [`ClusterError::Config`].
    pub async fn from_file(kubeconfig: &Path, namespace: &str, deadline: Duration) -> Result<Self, ClusterError> {
        let wrong = |error: kube::config::KubeconfigError| ClusterError::Config(error.to_string());
        let file = Kubeconfig::read_from(kubeconfig).map_err(wrong)?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?;
        Self::new(config, namespace, deadline)
    }

    /// As `config` says.
    ///
    /// # Errors
    /// [`ClusterError::Config`].
    pub fn new(mut config: kube::Config, namespace: &str, deadline: Duration) -> Result<Self, ClusterError> {
        // Whoever calls has a deadline and tries again by itself.
        config.default_retry = false;
        config.connect_timeout = Some(deadline);
        let wrong = |error: kube::Error| ClusterError::Config(error.to_string());
        let client = Client::try_from(config.clone()).map_err(wrong)?;
        config.read_timeout = Some(deadline);
        let impatient = Client::try_from(config).map_err(wrong)?;
        Ok(Self { client, impatient, namespace: namespace.into(), deadline })
    }

    /// For watches, which have no deadline.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// For libraries that have no deadlines of their own: an answer that does not come is an error.
    #[must_use]
    pub fn impatient_client(&self) -> Client {
        self.impatient.clone()
    }

    /// Namespace of the control plane.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// One call.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, request::Error>,
    ) -> Result<T, ClusterError> {
        let request = request.map_err(|error| ClusterError::Malformed(format!("the request: {error}")))?;
        match tokio::time::timeout(self.deadline, self.exchange(request)).await {
            Ok(answered) => answered,
            Err(_) => Err(ClusterError::Late(self.deadline)),
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, request: http::Request<Vec<u8>>) -> Result<T, ClusterError> {
        let response = self.client.send(request.map(Body::from)).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body =
            body.map_err(|error| ClusterError::Unreachable(format!("the answer broke off: {error}")))?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| ClusterError::Malformed(place_of(&error)));
        }
        Err(refused(status, &body))
    }
}

fn refused(status: StatusCode, body: &[u8]) -> ClusterError {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let mut message = refusal.message.unwrap_or_default();
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
        message.truncate(end);
    }
    let reason = refusal.reason.unwrap_or_else(|| status.canonical_reason().unwrap_or("unknown").to_owned());
    ClusterError::Refused { code: status.as_u16(), reason, message }
}

/// The whole chain of reasons: the first one alone says `ServiceError` and nothing else.
fn unreachable(error: &kube::Error) -> ClusterError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        let deeper_text = deeper.to_string();
        if !text.contains(&deeper_text) {
            text.push_str(": ");
            text.push_str(&deeper_text);
        }
        cause = deeper.source();
    }
    ClusterError::Unreachable(text)
}

/// Where it went wrong; not with what, which may be a secret.
fn place_of(error: &serde_json::Error) -> String {
    format!("{:?} error at line {}, column {}", error.classify(), error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let of = |code: u16, body: &str| refused(StatusCode::from_u16(code).unwrap(), body.as_bytes());
        let told = of(403, r#"{"kind":"Status","reason":"Forbidden","message":"secrets \"mesh-ca\" is forbidden"}"#);
        assert_eq!(
            told.to_string(),
            "the Kubernetes API server refused (403 Forbidden): secrets \"mesh-ca\" is forbidden"
        );
        assert!(of(404, "").is_missing() && of(409, "{}").is_conflict() && of(422, "[]").is_invalid());
        assert!(!told.is_terminating());
        assert!(of(403, r#"{"message":"unable to create: because it is being terminated"}"#).is_terminating());
        let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(10_000));
        assert!(of(500, &long).to_string().chars().count() < 500);
        assert!(of(502, "<html>").to_string().contains("502 Bad Gateway"));
    }

    #[test]
    fn i22_an_answer_does_not_show_itself() {
        let error = serde_json::from_str::<u32>("\"a secret\"").unwrap_err();
        assert!(!place_of(&error).contains("secret"));
    }
}
