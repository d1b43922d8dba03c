//! What a namespace says about injection.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, time::Duration};

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1;
use kube::{
    Client, Resource,
    api::GetParams,
    client::Body,
    core::{ObjectMeta, Request},
};
use mesh_api::model::is_dns_label;
use serde::Deserialize;
use tokio::{sync::Semaphore, time::timeout};

use crate::inject::Namespace;

/// Questions to the API server at once.
const MAX_AT_ONCE: usize = 16;
/// One question takes at most this long.
const DEADLINE: Duration = Duration::from_secs(3);
/// Largest answer that is read, in bytes; an object with its metadata is below 1.5 MiB.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The namespace.
    Known(Namespace),
    /// Nothing, and why.
    Unknown(String),
}

/// A question on its way.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// Knows namespaces.
pub trait NamespaceLookup: Send + Sync {
    /// The namespace of this name, as it is now: an older state would let a pod in without its sidecar, where the label
    /// was set a moment ago.
    fn find<'a>(&'a self, name: &'a str) -> Lookup<'a>;
}

/// Asks the API server each time.
pub struct KubeNamespaces {
    client: Client,
    room: Semaphore,
}

impl fmt::Debug for KubeNamespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeNamespaces").finish_non_exhaustive()
    }
}

impl KubeNamespaces {
    /// Asks with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, room: Semaphore::new(MAX_AT_ONCE) }
    }

    async fn ask(&self, name: &str) -> Found {
        let asked = timeout(DEADLINE, async {
            let _room = self.room.acquire().await;
            self.labels(name).await
        });
        match asked.await {
            Err(_) => Found::Unknown("the API server did not answer in time".to_owned()),
            Ok(Err(why)) => Found::Unknown(why),
            Ok(Ok(labels)) => Found::Known(Namespace { name: name.to_owned(), labels }),
        }
    }

    async fn labels(&self, name: &str) -> Result<BTreeMap<String, String>, String> {
        // The name becomes part of a path as it is.
        if !is_dns_label(name) {
            return Err("this is no name of a namespace".to_owned());
        }
        let request = Request::new(v1::Namespace::url_path(&(), None)).get_metadata(name, &GetParams::default());
        let request = request.map_err(|error| format!("the API server cannot be asked: {error}"))?;
        let response = self.client.send(request.map(Body::from)).await;
        let response = response.map_err(|error| format!("the API server does not answer: {error}"))?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Err("there is no such namespace".to_owned());
        }
        if !status.is_success() {
            return Err(format!("the API server says {status}"));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| format!("the API server's answer broke off: {error}"))?.to_bytes();
        let found: Partial =
            serde_json::from_slice(&body).map_err(|error| format!("the API server's answer is not read: {error}"))?;
        if found.metadata.name.as_deref() != Some(name) {
            return Err("the API server answered with something else".to_owned());
        }
        Ok(found.metadata.labels.unwrap_or_default())
    }
}

/// What is asked for of a namespace.
#[derive(Deserialize)]
struct Partial {
    metadata: ObjectMeta,
}

impl NamespaceLookup for KubeNamespaces {
    fn find<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        Box::pin(self.ask(name))
    }
}

/// Knows these namespaces only; for tests, and where there is no API server.
#[derive(Clone, Debug, Default)]
pub struct StaticNamespaces(pub BTreeMap<String, BTreeMap<String, String>>);

impl NamespaceLookup for StaticNamespaces {
    fn find<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        let found = match self.0.get(name) {
            Some(labels) => Found::Known(Namespace { name: name.to_owned(), labels: labels.clone() }),
            None => Found::Unknown("there is no such namespace".to_owned()),
        };
        Box::pin(std::future::ready(found))
    }
}

#[cfg(test)]
mod tests;
