//! A cluster's API server, as the suite talks to it: manifests are applied, conditions awaited. Floor 1.

mod pods;

pub use pods::Ran;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
};
use serde_json::Value;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Who has written what the suite applies.
const MANAGER: &str = "mesh-e2e";

/// A connection to an API server.
#[derive(Clone)]
pub struct Server {
    client: Client,
    kinds: Arc<Mutex<HashMap<GroupVersionKind, (ApiResource, Scope)>>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// The server that a kubeconfig names. Nothing is sent yet.
    ///
    /// # Errors
    /// Where the file cannot be read or has no usable context.
    pub async fn open(kubeconfig: &Path) -> Result<Self> {
        // Somebody else in this process may have done it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let what = || format!("cannot use the kubeconfig {}", kubeconfig.display());
        let file = Kubeconfig::read_from(kubeconfig).with_context(what)?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.with_context(what)?;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(120));
        Ok(Self { client: Client::try_from(config).with_context(what)?, kinds: Arc::default() })
    }

    /// The client, for what is not here.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// What the server answers at a path that is no object: `/readyz`, `/version`.
    ///
    /// # Errors
    /// Where it cannot be reached, or refuses.
    pub async fn get(&self, path: &str) -> Result<String> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.client.request_text(request).await?)
    }

    /// Applies the objects of manifests (YAML, several documents), in their order. What others have written of them is
    /// overwritten. Objects without a namespace go to `namespace`.
    ///
    /// # Errors
    /// Where the text is no manifest, or the server refuses one.
    pub async fn apply(&self, manifests: &str, namespace: &str) -> Result<()> {
        for mut object in objects(manifests)? {
            let (api, name) = self.api_of(&object, namespace).await?;
            // Some servers take a namespace only where it is the one in the path.
            if let Some(namespace) = api.namespace() {
                object.metadata.namespace = Some(namespace.to_owned());
            }
            api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object))
                .await
                .with_context(|| format!("cannot apply {}", title(&object)))?;
        }
        Ok(())
    }

    /// Deletes the objects of manifests, in reverse order. Those that are not there count as deleted.
    ///
    /// # Errors
    /// Where the text is no manifest, or the server refuses one.
    pub async fn delete(&self, manifests: &str, namespace: &str) -> Result<()> {
        for object in objects(manifests)?.iter().rev() {
            let (api, name) = self.api_of(object, namespace).await?;
            match api.delete(&name, &DeleteParams::background()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => other.map(drop).with_context(|| format!("cannot delete {}", title(object)))?,
            }
        }
        Ok(())
    }

    /// A kind's objects: `("apps/v1", "Deployment")`, in `namespace` where they have one.
    ///
    /// # Errors
    /// Where the server has no such kind.
    pub async fn kind(&self, version: &str, kind: &str, namespace: &str) -> Result<Api<DynamicObject>> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(&gvk).cloned();
        let (resource, scope) = match known {
            Some(known) => known,
            None => {
                let (resource, about) =
                    pinned_kind(&self.client, &gvk).await.with_context(|| format!("no kind {kind} of {version}"))?;
                let found = (resource, about.scope);
                self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(gvk, found.clone());
                found
            }
        };
        Ok(match scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
        })
    }

    async fn api_of(&self, object: &DynamicObject, namespace: &str) -> Result<(Api<DynamicObject>, String)> {
        let types = object.types.as_ref().context("an object without a kind")?;
        let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
        let name = object.metadata.name.clone().with_context(|| format!("a {} without a name", types.kind))?;
        Ok((self.kind(&types.api_version, &types.kind, namespace).await?, name))
    }

    /// Waits until an object is there and `fits`; gives it.
    ///
    /// # Errors
    /// Where the deadline passes: the error has the object's last state. Errors of the server meanwhile are waited out.
    pub async fn wait_for(
        &self,
        (version, kind): (&str, &str),
        namespace: &str,
        name: &str,
        what: &str,
        deadline: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = String::from("nothing was seen of it");
        let begun = Instant::now();
        loop {
            match self.look(version, kind, namespace, name).await {
                Ok(Some(object)) if fits(&object) => return Ok(object),
                Ok(Some(object)) => last = format!("its state: {:#}", object.get("status").unwrap_or(&object)),
                Ok(None) => "it is not there".clone_into(&mut last),
                Err(error) => last = format!("{error:#}"),
            }
            if begun.elapsed() >= deadline {
                bail!("waited {deadline:?} in vain until {kind} {namespace}/{name} {what}; {last}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self, version: &str, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let api = self.kind(version, kind, namespace).await?;
        let found = api.get_opt(name).await?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// Waits until every instance of a Deployment is new and available.
    ///
    /// # Errors
    /// As [`Server::wait_for`].
    pub async fn rolled_out(&self, namespace: &str, name: &str, deadline: Duration) -> Result<Value> {
        self.wait_for(("apps/v1", "Deployment"), namespace, name, "is rolled out", deadline, is_rolled_out).await
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// As [`Server::wait_for`].
    pub async fn pod_ready(&self, namespace: &str, name: &str, deadline: Duration) -> Result<Value> {
        let fits = |pod: &Value| has_condition(pod, "Ready");
        self.wait_for(("v1", "Pod"), namespace, name, "is ready", deadline, fits).await
    }
}

/// True where an object's status has this condition, and it is true.
#[must_use]
pub fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| text(one, "/type") == kind && text(one, "/status") == "True")
}

/// True where a Deployment has all its instances, of its newest template, available, and no old ones.
#[must_use]
pub fn is_rolled_out(deployment: &Value) -> bool {
    let number = |path: &str| deployment.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    number("/status/observedGeneration") >= number("/metadata/generation")
        && ["updatedReplicas", "availableReplicas", "replicas"]
            .iter()
            .all(|name| number(&format!("/status/{name}")) == wanted)
}

/// A text within an object; empty where there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The objects of a text of several documents.
///
/// # Errors
/// Where one is no object with a kind.
pub fn objects(manifests: &str) -> Result<Vec<DynamicObject>> {
    let mut documents = vec![String::new()];
    for line in manifests.lines() {
        if line.trim_end() == "---" {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let mut all = Vec::new();
    for document in documents {
        let bare = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if document.lines().all(bare) {
            continue;
        }
        let value: Value = serde_saphyr::from_str(&document).with_context(|| format!("no YAML:\n{document}"))?;
        all.push(serde_json::from_value(value).with_context(|| format!("no object of Kubernetes:\n{document}"))?);
    }
    Ok(all)
}

fn title(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |types| &types.kind);
    let metadata = &object.metadata;
    format!(
        "{kind} {}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_told_apart() {
        let text = "# first\n---\nkind: A\napiVersion: v1\nmetadata: {name: a}\n---\n---\nkind: B\napiVersion: g/v1\nmetadata: {name: b}\n";
        let all = objects(text).unwrap();
        assert_eq!(all.iter().map(title).collect::<Vec<_>>(), ["A /a", "B /b"]);
        assert!(objects("just text").is_err());
    }

    #[test]
    fn a_rollout_is_over_when_all_are_new() {
        let mut one = json!({
            "metadata": { "generation": 2 },
            "spec": { "replicas": 2 },
            "status": { "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 },
        });
        assert!(is_rolled_out(&one));
        one["status"]["replicas"] = json!(3);
        assert!(!is_rolled_out(&one));
        one["status"]["replicas"] = json!(2);
        one["metadata"]["generation"] = json!(3);
        assert!(!is_rolled_out(&one));
    }
}
