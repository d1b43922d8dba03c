//! Where the control plane is by number: pods that resolve names in their own way (`dnsPolicy` None or Default) may not find
//! it by name. The address of a Service stays for as long as the Service.

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams};
use tokio::{sync::watch, time::timeout};

use crate::inject::{Addresses, InjectConfig};

/// How often to look.
const PERIOD: Duration = Duration::from_secs(60);
/// How often while they are not known.
const RETRY: Duration = Duration::from_secs(5);
/// One question takes at most this long.
const DEADLINE: Duration = Duration::from_secs(5);

/// Keeps the addresses; what was known stays known while the API server is away. Ends with the last receiver.
pub async fn follow_addresses(client: Client, config: InjectConfig, addresses: watch::Sender<Option<Addresses>>) {
    loop {
        let found = find_addresses(&client, &config).await;
        addresses.send_if_modified(|known| {
            let changed = found.is_some() && *known != found;
            if changed {
                known.clone_from(&found);
            }
            changed
        });
        let wait = if addresses.borrow().is_some() { PERIOD } else { RETRY };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = addresses.closed() => return,
        }
    }
}

/// The addresses of the Services that the configuration names; `None` where one of them is not known.
pub async fn find_addresses(client: &Client, config: &InjectConfig) -> Option<Addresses> {
    Some(Addresses { ca: find(client, &config.ca).await?, discovery: find(client, &config.discovery).await? })
}

async fn find(client: &Client, address: &str) -> Option<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Some(address);
    }
    let (name, namespace, port) = service(address)?;
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    // Who may list may watch, and no other right is needed.
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    match timeout(DEADLINE, api.list(&named)).await {
        Ok(Ok(found)) => {
            let ip = found.items.into_iter().next()?.spec?.cluster_ip?.parse().ok()?;
            Some(SocketAddr::new(ip, port))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, address, "the Service is not known");
            None
        }
        Err(_) => None,
    }
}

/// Name, namespace and port of `NAME.NAMESPACE.svc...:PORT`.
fn service(address: &str) -> Option<(&str, &str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let mut labels = host.split('.');
    let (name, namespace, kind) = (labels.next()?, labels.next()?, labels.next()?);
    (kind == "svc").then_some((name, namespace, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::service;

    #[test]
    fn services_are_known_by_their_names() {
        assert_eq!(service("mesh-ca.mesh-system.svc.cluster.local:15410"), Some(("mesh-ca", "mesh-system", 15410)));
        assert_eq!(service("a.b.svc:1"), Some(("a", "b", 1)));
        for other in ["a.b:1", "a.b.c.d:1", "a.b.svc:x", "a.b.svc", "example.com:443"] {
            assert_eq!(service(other), None, "{other}");
        }
    }
}
