//! Objects of any kind in a cluster: read, applied, deleted, found by label.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{self, Discovery, Scope, verbs},
};
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use super::{Cluster, FIELD_MANAGER, said};
use crate::chart::object::{Key, Object};

/// One request takes at most this long.
const REQUEST: Duration = Duration::from_secs(30);
/// Kinds asked for at once.
const AT_ONCE: usize = 8;
/// Objects that one page of a list holds.
const PAGE: u32 = 500;
/// Kinds that others make of what has a label, and take away with it.
const DERIVED: [&str; 3] = ["Endpoints", "EndpointSlice", "Event"];

/// Why a request failed. Reading and applying may be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct RequestError {
    /// What was asked for.
    pub what: String,
    /// What the cluster said.
    pub why: String,
    /// Its status; 0 where it did not answer.
    pub code: u16,
}

impl RequestError {
    pub(super) fn new(what: impl Into<String>, error: &kube::Error) -> Self {
        let code = if let kube::Error::Api(status) = error { status.code } else { 0 };
        Self { what: what.into(), why: said(error), code }
    }
}

/// Waits for an answer, within bounds.
///
/// # Errors
/// [`RequestError`].
pub async fn answer<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    match timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(RequestError::new(what, &error)),
        Err(_) => {
            let why = format!("the API server did not answer within {}s; it is safe to try again", REQUEST.as_secs());
            Err(RequestError { what: what.to_owned(), why, code: 0 })
        }
    }
}

/// A kind as the cluster serves it.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its resource.
    pub resource: ApiResource,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// An object that a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What names it.
    pub key: Key,
    /// Another object owns it and takes it along.
    pub owned: bool,
}

/// Objects of a cluster.
pub struct Objects {
    client: Client,
    kinds: Mutex<HashMap<GroupVersionKind, Option<Served>>>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Objects {
    /// Objects of this cluster.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        Self { client: cluster.client(), kinds: Mutex::default() }
    }

    /// How the cluster serves a kind; none where it does not.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn served(&self, key: &Key) -> Result<Option<Served>, RequestError> {
        let gvk = key.gvk();
        let known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(&gvk).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let what = format!("asking for the kind {} of {}", key.kind, key.api_version);
        let served = match timeout(REQUEST, discovery::pinned_kind(&self.client, &gvk)).await {
            Ok(Ok((resource, capabilities))) => {
                Some(Served { resource, namespaced: capabilities.scope == Scope::Namespaced })
            }
            Ok(Err(kube::Error::Discovery(_))) => None,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => None,
            Ok(Err(error)) => return Err(RequestError::new(what, &error)),
            Err(_) => return answer(&what, std::future::pending()).await,
        };
        // What is not served yet may be so in a moment.
        if served.is_some() {
            self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(gvk, served.clone());
        }
        Ok(served)
    }

    async fn api(&self, key: &Key) -> Result<Option<Api<DynamicObject>>, RequestError> {
        let served = self.served(key).await?;
        Ok(served.map(|served| self.api_of(&served, &key.namespace)))
    }

    fn api_of(&self, served: &Served, namespace: &str) -> Api<DynamicObject> {
        if served.namespaced && !namespace.is_empty() {
            Api::namespaced_with(self.client.clone(), namespace, &served.resource)
        } else {
            Api::all_with(self.client.clone(), &served.resource)
        }
    }

    /// An object as it is; none where it, or its kind, is not there.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn get(&self, key: &Key) -> Result<Option<Value>, RequestError> {
        let Some(api) = self.api(key).await? else { return Ok(None) };
        let object = answer(&format!("reading {key}"), api.get_opt(&key.name)).await?;
        Ok(object.map(|object| whole(&object, key)))
    }

    /// Has the cluster hold the object as it is written, by server-side apply; fields of others stay. The result is the
    /// object as it is then, or would be in a dry run.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn apply(&self, object: &Object, dry_run: bool) -> Result<Value, RequestError> {
        self.apply_as(FIELD_MANAGER, object, dry_run).await
    }

    /// As [`Objects::apply`], but the fields belong to somebody else: what `meshctl` itself has written stays.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn apply_as(&self, manager: &str, object: &Object, dry_run: bool) -> Result<Value, RequestError> {
        let key = &object.key;
        let what = format!("applying {key}");
        let Some(api) = self.api(key).await? else {
            let why = format!("the cluster does not serve {} of {}", key.kind, key.api_version);
            return Err(RequestError { what, why, code: 404 });
        };
        let params = PatchParams { dry_run, ..PatchParams::apply(manager).force().validation_strict() };
        let applied = answer(&what, api.patch(&key.name, &params, &Patch::Apply(&object.value))).await?;
        Ok(whole(&applied, key))
    }

    /// Deletes an object: false where it is not there. What it owns goes first, and it last.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete(&self, key: &Key) -> Result<bool, RequestError> {
        let Some(api) = self.api(key).await? else { return Ok(false) };
        match answer(&format!("deleting {key}"), api.delete(&key.name, &DeleteParams::foreground())).await {
            Ok(_) => Ok(true),
            Err(error) if error.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Every object of a kind, in all namespaces or one, that the selector fits.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list(&self, kind: &Key, selector: &str) -> Result<Vec<Value>, RequestError> {
        let Some(api) = self.api(kind).await? else { return Ok(Vec::new()) };
        let mut params = ListParams::default().labels(selector).limit(PAGE);
        let mut objects = Vec::new();
        loop {
            let page = answer(&format!("listing {}", kind.kind), api.list(&params)).await?;
            objects.extend(page.items.iter().map(|object| whole(object, kind)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(objects),
            }
        }
    }

    /// Every object of whatever kind with a label that the selector fits, but for those that somebody else makes of
    /// such objects. Kinds that may not be listed are named in the second part.
    ///
    /// # Errors
    /// [`RequestError`], where it cannot even be said which kinds there are.
    pub async fn labelled(&self, selector: &str) -> Result<(Vec<Found>, Vec<String>), RequestError> {
        let mut left = self.kinds_to_list().await?.into_iter();
        let mut running = JoinSet::new();
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        loop {
            while running.len() < AT_ONCE {
                let Some(resource) = left.next() else { break };
                let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
                running.spawn(search(api, resource, selector.to_owned()));
            }
            match running.join_next().await {
                None => break,
                Some(Ok(Ok(some))) => found.extend(some),
                Some(Ok(Err(error))) if matches!(error.code, 403..=405) => refused.push(error.what),
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(error)) => {
                    let why = error.to_string();
                    return Err(RequestError { what: "searching by label".to_owned(), why, code: 0 });
                }
            }
        }
        found.sort_by(|left: &Found, right| left.key.cmp(&right.key));
        refused.sort();
        Ok((found, refused))
    }

    async fn kinds_to_list(&self) -> Result<Vec<ApiResource>, RequestError> {
        let what = "asking which kinds there are";
        let all = match answer(what, Discovery::new(self.client.clone()).run_aggregated()).await {
            Ok(all) => all,
            // Servers before 1.30 may not know the short way.
            Err(_) => answer(what, Discovery::new(self.client.clone()).run()).await?,
        };
        let mut kinds = Vec::new();
        for (resource, capabilities) in all.groups().flat_map(discovery::ApiGroup::recommended_resources) {
            let can = capabilities.supports_operation(verbs::LIST) && capabilities.supports_operation(verbs::DELETE);
            if can && !DERIVED.contains(&resource.kind.as_str()) {
                kinds.push(resource);
            }
        }
        Ok(kinds)
    }
}

async fn search(api: Api<DynamicObject>, resource: ApiResource, selector: String) -> Result<Vec<Found>, RequestError> {
    let what = format!("listing {} of {}", resource.kind, resource.api_version);
    let mut params = ListParams::default().labels(&selector).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = answer(&what, api.list_metadata(&params)).await?;
        found.extend(page.items.into_iter().map(|object| Found {
            owned: object.metadata.owner_references.is_some_and(|owners| !owners.is_empty()),
            key: Key {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
                namespace: object.metadata.namespace.unwrap_or_default(),
                name: object.metadata.name.unwrap_or_default(),
            },
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// The object as JSON; lists leave out of what kind it is.
fn whole(object: &DynamicObject, key: &Key) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".to_owned(), Value::from(key.api_version.clone()));
        fields.insert("kind".to_owned(), Value::from(key.kind.clone()));
    }
    value
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::query::fake::Fake;

    #[tokio::test]
    async fn a_search_by_label_reads_every_page() {
        let fake = Fake::start().await;
        fake.serve(&[("v1", "ConfigMap", "configmaps", true)]);
        let page = |name: &str, token: &str| {
            let item = json!({ "metadata": { "name": name, "namespace": "shop" } });
            (200, json!({ "metadata": { "continue": token }, "items": [item] }))
        };
        fake.in_turn(Method::GET, "/api/v1/configmaps", vec![page("a", "t1"), page("b", "t2"), page("c", "")]);
        let (found, refused) = Objects::new(&fake.cluster()).labelled("mesh.dev/chart=mesh").await.unwrap();
        let names: Vec<&str> = found.iter().map(|found| found.key.name.as_str()).collect();
        assert!(names == ["a", "b", "c"] && refused.is_empty(), "{names:?} {refused:?}");
        let lists = fake.asked().into_iter().filter(|asked| asked.path == "/api/v1/configmaps");
        let queries: Vec<String> = lists.map(|asked| asked.query).collect();
        assert!(queries.len() == 3 && queries.iter().all(|query| query.contains("labelSelector=")), "{queries:?}");
        assert!(queries[1].contains("continue=t1") && queries[2].contains("continue=t2"), "{queries:?}");
    }
}
