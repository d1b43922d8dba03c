//! The control plane may do what it does, and nothing else: what its accounts have asked the API server for, as the audit
//! log tells, held against its roles. Floor 6: imports `suite`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::{Value, json};

use crate::{
    api::text,
    provider::{Choice, Provider},
    suite::{READY, Scenario, Scene, eventually},
};

/// The scenarios of this file: they look at what all others before have had the mesh do.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "mesh-rights",
    "the control plane has used every right that it has, and was refused none",
    |scene| Box::pin(rights(scene)),
)
// It reads the API server's files.
.only_on(Choice::Processes)];

/// Rights (account, group, resource, verb) that no scenario has the mesh use, and why an account has them.
const RARE: &[(&str, &str, &str, &str, &str)] =
    &[("mesh-cni", "", "pods", "delete", "a pod that was started before the plugin was there is made anew")];
/// The kind of Gateway API that the controller reads where it is there, and no more of it than that.
const ROUTES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: httproutes.gateway.networking.k8s.io
  annotations: { api-approved.kubernetes.io: "unapproved, of a test" }
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: { kind: HTTPRoute, listKind: HTTPRouteList, plural: httproutes, singular: httproute }
  versions:
    - name: v1
      served: true
      storage: true
      subresources: { status: {} }
      schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } }
"#;

/// One thing that an account may do: account, group, resource, verb.
type Right = (String, String, String, String);

async fn rights(scene: Scene) -> Result<()> {
    let Provider::Processes(cluster) = &*scene.provider else { return Ok(()) };
    let node = cluster.nodes().first().context("a cluster without nodes")?;
    let folder = node.logs().join("audit");
    seldom(&scene).await?;
    let definition = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let known = scene.server.kind(definition.0, definition.1, "").await?;
    let found = known.get_opt("httproutes.gateway.networking.k8s.io").await?.is_some();
    let routed = routes(&scene, found).await;
    if !found {
        scene.server.delete(ROUTES, "").await?;
    }
    routed?;
    let granted = granted(&scene).await?;
    ensure!(granted.len() > 20, "the mesh has {} rights only: is it installed?", granted.len());
    eventually(READY, async || {
        let mut log = String::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("no audit log in {}", folder.display()))? {
            log.push_str(&fs::read_to_string(entry?.path())?);
        }
        let Seen { used, refused } = seen(&log);
        ensure!(refused.is_empty(), "refused to the mesh's accounts: {refused:#?}");
        let same = |right: &Right, rare: &(&str, &str, &str, &str, &str)| {
            (right.0.as_str(), right.1.as_str(), right.2.as_str(), right.3.as_str()) == (rare.0, rare.1, rare.2, rare.3)
        };
        let rare = |right: &Right| RARE.iter().any(|rare| same(right, rare));
        let unused: Vec<&Right> = granted.iter().filter(|right| !used.contains(*right) && !rare(right)).collect();
        ensure!(unused.is_empty(), "rights that nothing has used: {unused:#?}");
        // Not every part is installed always; of those that are, no exception is made without need.
        let has = |account: &str| granted.iter().any(|right| right.0 == account);
        let mut idle = RARE.iter().filter(|rare| has(rare.0) && !granted.iter().any(|right| same(right, rare)));
        ensure!(idle.next().is_none(), "an exception is made for a right that nobody has");
        println!(
            "     {} rights, {} used",
            granted.len(),
            granted.iter().filter(|right| used.contains(*right)).count()
        );
        Ok(())
    })
    .await
}

/// Has the mesh do what it does seldom.
async fn seldom(scene: &Scene) -> Result<()> {
    // Every kind with a status, and something wrong with each.
    let of = |kind: &str, spec: Value| {
        let version = names::API_VERSION;
        json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "seldom" }, "spec": spec }).to_string()
    };
    let target = json!({ "kind": "Service", "name": "nowhere" });
    let manifests = [
        of("TransportPolicy", json!({ "targetRefs": [target], "mode": "Strict" })),
        of("AuthorizationPolicy", json!({ "targetRefs": [target], "action": "Deny", "rules": [{}] })),
        of(
            "ExternalWorkload",
            json!({ "serviceAccount": "nobody", "address": "198.51.100.7", "ports": [{ "port": 80 }] }),
        ),
    ];
    scene.apply(&manifests.join("\n---\n")).await?;

    // Roots that are wrong, where nobody can put them right.
    let key = names::TRUST_KEY;
    let patch = json!({ "immutable": true, "data": { key: "none" } }).to_string();
    let map = ("v1", "ConfigMap");
    let there = async |what: &str, fits: &dyn Fn(&Value) -> bool| {
        scene.server.wait_for(map, &scene.namespace, names::TRUST_CONFIG_MAP, what, READY, fits).await
    };
    there("is there", &|_| true).await?;
    scene.kubectl(&["patch", "configmap", names::TRUST_CONFIG_MAP, "--type=merge", "--patch", &patch]).await?;
    let right = |map: &Value| text(map, &format!("/data/{key}")).contains("BEGIN CERTIFICATE");
    there("has roots again", &right).await?;

    // A new issuer.
    let secret = ["--namespace", names::SYSTEM_NAMESPACE, "annotate", "secret", names::CA_SECRET];
    scene.kubectl(&[&secret[..], &["--overwrite", "mesh.dev/rotate=issuer"]].concat()).await?;
    let done = |secret: &Value| secret.pointer("/metadata/annotations/mesh.dev~1rotate").is_none();
    let (namespace, name) = (names::SYSTEM_NAMESPACE, names::CA_SECRET);
    scene.server.wait_for(("v1", "Secret"), namespace, name, "has a new issuer", READY, done).await.map(drop)
}

/// Has the controller read a route, and say that it leads nowhere.
async fn routes(scene: &Scene, found: bool) -> Result<()> {
    if !found {
        scene.apply(ROUTES).await?;
    }
    let nowhere = json!({ "name": "nowhere", "port": 80 });
    let parent = json!({ "group": "", "kind": "Service", "name": "nowhere", "port": 80 });
    let route = json!({
        "apiVersion": names::GATEWAY_API_VERSION, "kind": "HTTPRoute", "metadata": { "name": "seldom" },
        "spec": { "parentRefs": [parent], "rules": [{ "backendRefs": [nowhere] }] },
    });
    eventually(READY, async || scene.apply(&route.to_string()).await).await?;
    let told = |route: &Value| route.pointer("/status/parents/0/conditions").is_some();
    let kind = (names::GATEWAY_API_VERSION, "HTTPRoute");
    scene.server.wait_for(kind, &scene.namespace, "seldom", "has a status", READY, told).await.map(drop)
}

/// What the roles of the mesh's charts allow to its accounts.
async fn granted(scene: &Scene) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    let label = format!("--selector={}=mesh", names::LABEL_CHART);
    for kind in ["clusterroles", "roles"] {
        let list = scene.kubectl(&["get", kind, &label, "--namespace", names::SYSTEM_NAMESPACE, "-o", "json"]).await?;
        let list: Value = serde_json::from_str(&list)?;
        for role in list["items"].as_array().into_iter().flatten() {
            // Roles are called after the accounts that have them.
            let account = text(role, "/metadata/name");
            for rule in role["rules"].as_array().into_iter().flatten() {
                let all = |field: &str| -> Vec<String> {
                    let texts = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
                    texts.map(str::to_owned).collect()
                };
                for group in all("apiGroups") {
                    for resource in all("resources") {
                        ensure!(!resource.contains('*') && !group.contains('*'), "{account} may do too much: {rule}");
                        for verb in all("verbs") {
                            ensure!(verb != "*", "{account} may do everything with {resource}");
                            rights.insert((account.to_owned(), group.clone(), resource.clone(), verb));
                        }
                    }
                }
            }
        }
    }
    Ok(rights)
}

/// What an audit log tells of the mesh's accounts.
#[derive(Debug, Default)]
struct Seen {
    used: BTreeSet<Right>,
    /// And how often.
    refused: BTreeMap<String, usize>,
}

fn seen(log: &str) -> Seen {
    let mut seen = Seen::default();
    let prefix = format!("system:serviceaccount:{}:", names::SYSTEM_NAMESPACE);
    // The last line may not be whole yet.
    for event in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(account) = text(&event, "/user/username").strip_prefix(&prefix) else { continue };
        let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
        let (verb, resource) = (text(&event, "/verb"), text(&event, "/objectRef/resource"));
        if matches!(code, 401 | 403) {
            *seen.refused.entry(format!("{account}: {verb} {}: {code}", text(&event, "/requestURI"))).or_default() += 1;
        }
        // Paths that are no resource are open to everybody.
        if resource.is_empty() {
            continue;
        }
        let resource = match text(&event, "/objectRef/subresource") {
            "" => resource.to_owned(),
            sub => format!("{resource}/{sub}"),
        };
        let group = text(&event, "/objectRef/apiGroup").to_owned();
        let mut used = |verb: &str| {
            seen.used.insert((account.to_owned(), group.clone(), resource.clone(), verb.to_owned()));
        };
        used(verb);
        // What is applied and was not there is made, which takes the right to.
        if verb == "patch" && code == 201 {
            used("create");
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_log_tells_what_was_used_and_refused() {
        let user = r#""user":{"username":"system:serviceaccount:mesh-system:mesh-ca"}"#;
        let log = format!(
            r#"{{{user},"verb":"patch","objectRef":{{"resource":"configmaps"}},"responseStatus":{{"code":201}}}}
{{{user},"verb":"get","requestURI":"/api/v1/nodes","objectRef":{{"resource":"nodes"}},"responseStatus":{{"code":403}}}}
{{"user":{{"username":"system:serviceaccount:shop:mesh-ca"}},"verb":"get","objectRef":{{"resource":"pods"}}}}
{{{user},"verb":"get","objectRef""#
        );
        let Seen { used, refused } = seen(&log);
        let right = |resource: &str, verb: &str| ["mesh-ca", "", resource, verb].map(str::to_owned).into();
        let wanted: BTreeSet<Right> =
            [right("configmaps", "patch"), right("configmaps", "create"), right("nodes", "get")].into();
        assert_eq!(used, wanted);
        assert_eq!(refused.into_iter().collect::<Vec<_>>(), [("mesh-ca: get /api/v1/nodes: 403".to_owned(), 1)]);
    }
}
