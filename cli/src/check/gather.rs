//! Collects the facts: thin, bounded in how much is asked at once and in how long an answer may take. Floor 1 of `check`:
//! imports `facts`, `foreign`, `pods`. Nothing is changed in the cluster: the one thing that is sent is a trial that the
//! API server is told not to carry out.

mod api;
mod conditions;
mod pages;
mod rights;
mod settings;
mod trial;

pub use api::{AT_ONCE, all};
pub use pages::admin_port;

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{Api, Client, Resource, api::ListParams};
use mesh_api::names::{API_VERSION, GATEWAY_API_VERSION, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP};

use self::api::list;
use super::{
    catalog::Stage,
    facts::{Clock, Fact, Facts, Fault, Missing, Server},
    foreign,
    judge::control::PARTS,
};
use crate::{
    cluster::{Cluster, ClusterArgs, ClusterError},
    query::prometheus::Sample,
};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which checks will be held.
    pub stage: Stage,
    /// The one namespace whose pods are looked at; none: all.
    pub namespace: Option<String>,
}

/// Connects, and collects what the plan needs.
pub async fn gather(args: &ClusterArgs, plan: &Plan) -> Facts {
    match Cluster::connect(args).await {
        Ok(cluster) => gather_from(&cluster, plan).await,
        Err(error) => unreachable(&error),
    }
}

/// What is known where there is no connection.
#[must_use]
pub fn unreachable(error: &ClusterError) -> Facts {
    let mut facts = Facts::none(Timestamp::now(), "the API server does not answer; see api-reachable");
    let fault = if matches!(error, ClusterError::Stranger { .. }) { Fault::Rights } else { Fault::Server };
    facts.server = Err(Missing { what: "the API server".into(), fault, why: error.to_string() });
    facts
}

/// Collects what the plan needs from a cluster that answers.
pub async fn gather_from(cluster: &Cluster, plan: &Plan) -> Facts {
    let client = cluster.client();
    let mut facts = Facts::none(Timestamp::now(), "not needed for this check");
    facts.scope.clone_from(&plan.namespace);
    facts.server = Ok(server(cluster, api::clock(&client).await));
    cluster_facts(&mut facts, &client).await;
    match plan.stage {
        Stage::Before => before(&mut facts, &client).await,
        Stage::Installed => installed(&mut facts, &client).await,
        Stage::Proxies => {
            let (pods, ()) = tokio::join!(pods(&client, plan.namespace.as_deref()), installed(&mut facts, &client));
            facts.pods = pods;
            facts.proxies = match &facts.pods {
                Ok(pods) => pages::proxies(&client, pods).await,
                Err(_) => BTreeMap::new(),
            };
        }
    }
    facts
}

/// Collects what is needed to show who runs what.
pub async fn gather_status(cluster: &Cluster, namespace: Option<&str>) -> Facts {
    let client = cluster.client();
    let mut facts = Facts::none(Timestamp::now(), "not needed to show who runs what");
    facts.scope = namespace.map(str::to_owned);
    let clock = api::clock(&client).await;
    facts.server = Ok(server(cluster, clock));
    let system = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    (facts.system_pods, facts.pods) =
        tokio::join!(list(system, "the control plane's pods", ListParams::default()), pods(&client, namespace));
    let (system_pods, pods) =
        (facts.system_pods.as_deref().unwrap_or_default(), facts.pods.as_deref().unwrap_or_default());
    (facts.replicas, facts.proxies) =
        tokio::join!(pages::replicas(&client, system_pods, clock), pages::proxies(&client, pods));
    facts
}

/// Metrics of the sidecars, by `NAMESPACE/POD`; none where their pods are not known.
pub async fn gather_proxies(cluster: &Cluster, namespace: Option<&str>) -> BTreeMap<String, Fact<Vec<Sample>>> {
    let client = cluster.client();
    match pods(&client, namespace).await {
        Ok(pods) => pages::proxies(&client, &pods).await,
        Err(_) => BTreeMap::new(),
    }
}

fn server(cluster: &Cluster, clock: Option<Clock>) -> Server {
    Server { url: cluster.server().to_owned(), context: cluster.name().to_owned(), version: cluster.version(), clock }
}

/// All objects of a kind.
fn everywhere<K: Resource<DynamicType = ()>>(client: &Client) -> Api<K> {
    Api::all(client.clone())
}

async fn cluster_facts(facts: &mut Facts, client: &Client) {
    let node_leases = Api::namespaced(client.clone(), "kube-node-lease");
    let any = ListParams::default;
    (facts.nodes, facts.node_leases, facts.groups, facts.mutating, facts.validating, facts.namespaces) = tokio::join!(
        list(everywhere(client), "the nodes", any()),
        list(node_leases, "the nodes' Leases", any()),
        api::groups(client),
        list(everywhere(client), "the mutating webhooks", any()),
        list(everywhere(client), "the validating webhooks", any()),
        list(everywhere(client), "the namespaces", any()),
    );
    let served = |version: &str| {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        facts
            .groups
            .as_ref()
            .is_ok_and(|groups| groups.get(group).is_some_and(|all| all.iter().any(|one| one == version)))
    };
    let wanted: Vec<&'static str> =
        [API_VERSION, GATEWAY_API_VERSION].into_iter().filter(|version| served(version)).collect();
    for version in wanted {
        facts.kinds.insert(version, api::kinds(client, version).await);
    }
    facts.webhook_services = foreign_services(facts, client).await;
}

/// Whether the Services that other meshes' webhooks call are there.
async fn foreign_services(facts: &Facts, client: &Client) -> BTreeMap<String, Fact<bool>> {
    let hooks = facts.mutating.iter().flatten();
    let foreign = hooks.filter(|hook| foreign::MESHES.iter().any(|mesh| foreign::is_webhook_of(mesh, hook)));
    let names: std::collections::BTreeSet<String> = foreign.flat_map(foreign::services).collect();
    all(names, |name| {
        let client = client.clone();
        async move {
            let there = api::service_is_there(&client, &name).await;
            (name, there)
        }
    })
    .await
    .into_iter()
    .collect()
}

async fn before(facts: &mut Facts, client: &Client) {
    let deployments = list(
        Api::namespaced(client.clone(), SYSTEM_NAMESPACE),
        "the control plane's deployments",
        ListParams::default(),
    );
    (facts.rights, facts.deployments) = tokio::join!(rights::rights(client), deployments);
}

async fn installed(facts: &mut Facts, client: &Client) {
    let any = ListParams::default;
    let trust = ListParams::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
    let system = || client.clone();
    (
        facts.deployments,
        facts.daemon_sets,
        facts.system_pods,
        facts.endpoints,
        facts.leases,
        facts.trust,
        facts.inject,
    ) = tokio::join!(
        list(Api::namespaced(system(), SYSTEM_NAMESPACE), "the control plane's deployments", any()),
        list(Api::namespaced(system(), SYSTEM_NAMESPACE), "the control plane's DaemonSets", any()),
        list(Api::namespaced(system(), SYSTEM_NAMESPACE), "the control plane's pods", any()),
        list(Api::namespaced(system(), SYSTEM_NAMESPACE), "the control plane's EndpointSlices", any()),
        list(Api::namespaced(system(), SYSTEM_NAMESPACE), "the control plane's Leases", any()),
        list(everywhere(client), "the trust bundles", trust),
        settings::inject(client),
    );
    let there = facts
        .deployments
        .as_ref()
        .is_ok_and(|all| PARTS.iter().any(|part| super::judge::control::deployment(all, part).is_some()));
    let ahead = facts.server.as_ref().ok().and_then(|server| server.clock);
    let system_pods = facts.system_pods.as_deref().unwrap_or_default();
    let (replicas, conditions, trial) = tokio::join!(
        pages::replicas(client, system_pods, ahead),
        conditions::conditions(client, &facts.kinds),
        async {
            match (&facts.namespaces, there) {
                (Ok(namespaces), true) => trial::trial(client, namespaces, facts.scope.as_deref()).await,
                (Err(missing), _) => Err(missing.clone()),
                (_, false) => Err(Missing::unasked("Mesh is not installed")),
            }
        },
    );
    (facts.replicas, facts.conditions, facts.trial) = (replicas, conditions, trial);
}

async fn pods(client: &Client, namespace: Option<&str>) -> Fact<Vec<Pod>> {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => everywhere(client),
    };
    let living = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = list(api, "the pods", living).await?;
    Ok(pods.into_iter().filter(|pod| pod.metadata.namespace.as_deref() != Some(SYSTEM_NAMESPACE)).collect())
}

#[cfg(test)]
mod tests;
