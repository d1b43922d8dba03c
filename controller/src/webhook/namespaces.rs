//! What a namespace says about injection.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, time::Duration};

use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use tokio::{sync::Semaphore, time::timeout};

use crate::inject::Namespace;

/// Questions to the API server at once.
const MAX_AT_ONCE: usize = 16;
/// One question takes at most this long.
const DEADLINE: Duration = Duration::from_secs(3);

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
        let api: Api<v1::Namespace> = Api::all(self.client.clone());
        let asked = timeout(DEADLINE, async {
            let _room = self.room.acquire().await;
            api.get_metadata_opt(name).await
        });
        match asked.await {
            Err(_) => Found::Unknown("the API server did not answer in time".to_owned()),
            Ok(Err(error)) => Found::Unknown(format!("the API server says: {error}")),
            Ok(Ok(None)) => Found::Unknown("there is no such namespace".to_owned()),
            Ok(Ok(Some(found))) => {
                let labels = found.metadata.labels.unwrap_or_default();
                Found::Known(Namespace { name: name.to_owned(), labels })
            }
        }
    }
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
