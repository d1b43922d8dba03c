//! The cluster's version: it decides whether there are native sidecars, and changes when the cluster is upgraded.

use std::time::Duration;

use kube::Client;
use tokio::{sync::watch, time::timeout};

use crate::inject::Version;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(300);
/// How often while it is not known.
const RETRY: Duration = Duration::from_secs(2);
/// One question takes at most this long.
const DEADLINE: Duration = Duration::from_secs(5);

/// Keeps the version of `client`'s cluster; what was known stays known while the API server is away. Ends with the last
/// receiver.
pub async fn follow_version(client: Client, version: watch::Sender<Option<Version>>) {
    loop {
        match timeout(DEADLINE, client.apiserver_version()).await {
            Ok(Ok(info)) => {
                let found = Version::of(&info.major, &info.minor);
                version.send_if_modified(|known| {
                    let changed = found.is_some() && *known != found;
                    if changed {
                        tracing::info!(major = info.major, minor = info.minor, "the cluster's version");
                        *known = found;
                    }
                    changed
                });
            }
            Ok(Err(error)) => tracing::warn!(%error, "the cluster's version is not known"),
            Err(_) => tracing::warn!("the cluster's version is not known: the API server did not answer in time"),
        }
        let wait = if version.borrow().is_some() { PERIOD } else { RETRY };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = version.closed() => return,
        }
    }
}
