//! Tells the API server whom to trust: the roots of this process go into `caBundle` of the webhook configurations. Without
//! them no webhook is called, so they are looked after: when they rotate, and when somebody writes the configurations anew.

use std::{pin::pin, sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use mesh_api::{names, tls::Keeper};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_stream::StreamExt;

use crate::cluster::Clients;

/// The roots are compared with those that were written this often.
const PERIOD: Duration = Duration::from_secs(2);
/// The configurations are looked at this often although no change was heard of.
const RESYNC: Duration = Duration::from_secs(60);
/// Between two looks after changes.
const PAUSE: Duration = Duration::from_millis(500);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// One request takes at most this long.
const DEADLINE: Duration = Duration::from_secs(10);

/// Keeps the bundle right while `leader` is true. Runs for ever; ends where nobody can become leader any more.
pub async fn keep_bundle(clients: Clients, keeper: Arc<Keeper>, mut leader: watch::Receiver<bool>) {
    loop {
        if leader.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        tokio::select! {
            () = lead(&clients, &keeper) => {}
            lost = leader.wait_for(|leads| !*leads) => if lost.is_err() { return },
        }
    }
}

async fn lead(clients: &Clients, keeper: &Keeper) {
    let only_ours = || watcher::Config::default().fields(&format!("metadata.name={}", names::WEBHOOK_CONFIGURATION));
    let mutating =
        watcher(Api::<MutatingWebhookConfiguration>::all(clients.watch.clone()), only_ours()).default_backoff();
    let validating =
        watcher(Api::<ValidatingWebhookConfiguration>::all(clients.watch.clone()), only_ours()).default_backoff();
    let changes = mutating.map(|event| event.map(drop)).merge(validating.map(|event| event.map(drop)));
    let mut changes = pin!(changes);
    let mut written: Option<Vec<u8>> = None;
    let mut looked = Instant::now();
    loop {
        let bundle = pem(keeper);
        if written.as_ref() != Some(&bundle) || looked.elapsed() >= RESYNC {
            looked = Instant::now();
            let mutating = write::<MutatingWebhookConfiguration>(&clients.call, &bundle).await;
            let validating = write::<ValidatingWebhookConfiguration>(&clients.call, &bundle).await;
            match mutating.and(validating) {
                Ok(()) => written = Some(bundle),
                Err(error) => {
                    tracing::warn!(%error, "the webhooks' caBundle may be out of date");
                    sleep(RETRY).await;
                    continue;
                }
            }
        }
        tokio::select! {
            () = sleep(PERIOD) => {}
            event = changes.next() => match event {
                Some(Ok(())) => {
                    // Several come at once.
                    sleep(PAUSE).await;
                    written = None;
                }
                Some(Err(error)) => tracing::debug!(%error, "webhook configurations are not watched"),
                None => return,
            },
        }
    }
}

/// The trusted roots as PEM, in one order.
fn pem(keeper: &Keeper) -> Vec<u8> {
    let credentials = keeper.current();
    let mut roots: Vec<&[u8]> = credentials.trust.roots().map(|(_, root)| root.as_ref()).collect();
    roots.sort_unstable();
    roots.dedup();
    roots.into_iter().flat_map(certificate).collect()
}

/// RFC 7468.
fn certificate(der: &[u8]) -> Vec<u8> {
    let Ok(Value::String(base64)) = serde_json::to_value(ByteString(der.to_vec())) else { return Vec::new() };
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text.into_bytes()
}

/// Puts the bundle into one configuration, where it is not in it. Where there is no such configuration there is nothing
/// to do.
async fn write<K>(client: &Client, bundle: &[u8]) -> Result<(), String>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::all(client.clone());
    let kind = K::kind(&());
    let wrong = |error: &dyn std::fmt::Display| format!("{kind} {}: {error}", names::WEBHOOK_CONFIGURATION);
    let late = || wrong(&"the API server did not answer in time");
    let found = timeout(DEADLINE, api.get_opt(names::WEBHOOK_CONFIGURATION)).await.map_err(|_| late())?;
    let Some(found) = found.map_err(|error| wrong(&error))? else { return Ok(()) };
    let found = serde_json::to_value(&found).map_err(|error| wrong(&error))?;
    let Some(patch) = patch(&found, bundle) else { return Ok(()) };
    let patch = Patch::Json::<()>(serde_json::from_value(patch).map_err(|error| wrong(&error))?);
    let params = PatchParams::default();
    let written = api.patch(names::WEBHOOK_CONFIGURATION, &params, &patch);
    timeout(DEADLINE, written).await.map_err(|_| late())?.map_err(|error| wrong(&error))?;
    tracing::info!(%kind, name = names::WEBHOOK_CONFIGURATION, "caBundle is up to date");
    Ok(())
}

/// What makes every webhook of a configuration trust `bundle`, where nobody changed it meanwhile. `None`: they do.
fn patch(configuration: &Value, bundle: &[u8]) -> Option<Value> {
    let bundle = serde_json::to_value(ByteString(bundle.to_vec())).ok()?;
    let webhooks = configuration.get("webhooks")?.as_array()?;
    let mut ops = Vec::new();
    for (at, webhook) in webhooks.iter().enumerate() {
        if webhook.pointer("/clientConfig/caBundle") != Some(&bundle) {
            ops.push(json!({ "op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": bundle }));
        }
    }
    if ops.is_empty() {
        return None;
    }
    let version = configuration.pointer("/metadata/resourceVersion")?;
    ops.insert(0, json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }));
    Some(ops.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let encoded = serde_json::to_value(ByteString(b"roots".to_vec())).unwrap();
        let mut configuration = json!({
            "metadata": { "resourceVersion": "7" },
            "webhooks": [
                { "name": "a", "clientConfig": { "service": {} } },
                { "name": "b", "clientConfig": { "caBundle": encoded } },
                { "name": "c", "clientConfig": { "caBundle": "b3RoZXI=" } },
            ],
        });
        let ops = patch(&configuration, b"roots").unwrap();
        assert_eq!(
            ops,
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": encoded },
                { "op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": encoded },
            ])
        );
        for at in [0, 2] {
            configuration["webhooks"][at]["clientConfig"]["caBundle"] = encoded.clone();
        }
        assert_eq!(patch(&configuration, b"roots"), None);
        assert_eq!(patch(&json!({ "metadata": {} }), b"roots"), None);
    }

    #[test]
    fn roots_are_written_as_pem() {
        let text = String::from_utf8(certificate(&[7; 100])).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[1].len() == 64 && lines[0].starts_with("-----BEGIN") && lines[4].starts_with("-----END"));
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        let read: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        assert_eq!(read, [CertificateDer::from(vec![7; 100])]);
    }
}
