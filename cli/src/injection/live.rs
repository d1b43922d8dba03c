//! Decisions about what is in a cluster.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{ConfigMap, Namespace as KubeNamespace},
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use mesh_api::{
    config::{Sources, load},
    names,
    probe::Token,
};
use mesh_controller::{
    inject::{Namespace, Record, Settings, Version, decide, templates},
    webhook::find_addresses,
};
use serde_json::Value;
use tokio::time::timeout;

use super::explain::Explanation;
use crate::cluster::{Cluster, said};

/// One question takes at most this long.
const DEADLINE: Duration = Duration::from_secs(10);
/// Kinds with pods, by the names that people use for them.
const KINDS: [(&[&str], &str, &str, &str); 8] = [
    (&["po", "pod", "pods"], "", "v1", "Pod"),
    (&["deploy", "deployment", "deployments"], "apps", "v1", "Deployment"),
    (&["sts", "statefulset", "statefulsets"], "apps", "v1", "StatefulSet"),
    (&["ds", "daemonset", "daemonsets"], "apps", "v1", "DaemonSet"),
    (&["rs", "replicaset", "replicasets"], "apps", "v1", "ReplicaSet"),
    (&["job", "jobs"], "batch", "v1", "Job"),
    (&["cj", "cronjob", "cronjobs"], "batch", "v1", "CronJob"),
    (&["rc", "replicationcontroller", "replicationcontrollers"], "", "v1", "ReplicationController"),
];

/// Explains what becomes of a pod (`NAME`) or of a workload's pods (`KIND/NAME`). `given` beats the settings of the mesh
/// that is installed.
///
/// # Errors
/// Where there is no such object, or the cluster cannot be asked.
pub async fn explain(
    cluster: &Cluster,
    namespace: &str,
    target: &str,
    given: Option<Settings>,
    version: Option<Version>,
) -> anyhow::Result<Explanation> {
    let (kind, name) = target.split_once('/').unwrap_or(("pod", target));
    let known = KINDS.iter().find(|(names, ..)| names.iter().any(|one| kind.eq_ignore_ascii_case(one)));
    let Some((_, group, api, kind)) = known else {
        let names: Vec<&str> = KINDS.iter().filter_map(|(names, ..)| names.first().copied()).collect();
        bail!("`{kind}` is not a kind with pods; known are {}", names.join(", "));
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, api, kind));
    let objects: Api<DynamicObject> = Api::namespaced_with(cluster.client(), namespace, &resource);
    let found = asked(&format!("{kind} {namespace}/{name}"), objects.get_opt(name)).await?;
    let Some(found) = found else { bail!("there is no {kind} {namespace}/{name}; -n names another namespace") };
    let mut object = serde_json::to_value(&found)?;
    // Lists and gets of an API leave out what is known from the question.
    object["apiVersion"] = if group.is_empty() { (*api).into() } else { format!("{group}/{api}").into() };
    object["kind"] = (*kind).into();

    let spaces: Api<KubeNamespace> = Api::all(cluster.client());
    let labels = asked(&format!("namespace {namespace}"), spaces.get_metadata_opt(namespace)).await?;
    let labels = labels.and_then(|found| found.metadata.labels).unwrap_or_default();
    let space = Namespace { name: namespace.to_owned(), labels };

    let mut notes = Vec::new();
    let mut settings = match given {
        Some(settings) => settings,
        None => installed(cluster, &mut notes).await,
    };
    settings.addresses = find_addresses(&cluster.client(), &settings.config).await;
    let own = cluster.version();
    let version = version.or(Some(Version { major: own.major, minor: own.minor }));
    let template = templates(&object).into_iter().next().with_context(|| format!("{kind} {name} has no pods"))?;
    let pod = object.pointer(&template.pointer).unwrap_or(&Value::Null);
    let has = Record::of(pod);
    let decision = decide(pod, template.owner.as_ref(), &space, &settings, version, &Token::random());
    let mut explanation = Explanation::new(kind, namespace, name, decision);
    webhook(cluster, &mut notes).await;
    explanation.notes = notes;
    if *kind == "Pod" {
        compare(&mut explanation, has.as_ref());
    }
    explanation.has = has;
    Ok(explanation)
}

/// What a pod is, beside what a new one would be.
fn compare(explanation: &mut Explanation, has: Option<&Record>) {
    let anew = "make it anew, as with kubectl rollout restart, to change that";
    match (has, &explanation.sidecar) {
        (None, Some(_)) => {
            explanation.notes.push(format!("it has no sidecar, since it was made before this was so; {anew}"))
        }
        (Some(_), None) => {
            explanation.notes.push(format!("it has a sidecar, since it was made before this was so; {anew}"))
        }
        (Some(has), Some(now)) if has.hash != now.hash => {
            let version = &has.version;
            explanation
                .notes
                .push(format!("its sidecar is of version {version} and not what it would get now; {anew}"));
        }
        _ => {}
    }
}

/// Settings of the mesh that is installed; the defaults where they cannot be read.
async fn installed(cluster: &Cluster, notes: &mut Vec<String>) -> Settings {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), names::SYSTEM_NAMESPACE);
    let found = asked("the controller's configuration", maps.get_opt(names::CONTROLLER_ACCOUNT)).await;
    let text = match found {
        Ok(Some(map)) => map.data.unwrap_or_default().into_iter().find(|(key, _)| key.ends_with(".toml")),
        Ok(None) => None,
        Err(error) => {
            notes.push(format!("{error:#}; the defaults are taken for it"));
            return Settings::default();
        }
    };
    let Some((_, text)) = text else {
        notes.push(format!("there is no mesh in namespace {}; its defaults are taken", names::SYSTEM_NAMESPACE));
        return Settings::default();
    };
    match read(&text) {
        Ok(settings) => settings,
        Err(error) => {
            notes.push(format!(
                "the controller's configuration cannot be read, and the defaults are taken for it: {error}"
            ));
            Settings::default()
        }
    }
}

fn read(toml: &str) -> anyhow::Result<Settings> {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::with_suffix(".toml")?;
    file.write_all(toml.as_bytes())?;
    let sources = Sources { file: Some(file.path()), ..Sources::default() };
    Ok(super::settings(load(&sources)?))
}

/// Whether anybody injects at all.
async fn webhook(cluster: &Cluster, notes: &mut Vec<String>) {
    let hooks: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    match asked("the webhook configuration", hooks.get_opt(names::WEBHOOK_CONFIGURATION)).await {
        Ok(Some(found)) => {
            let trusted =
                |bundle: &Option<k8s_openapi::ByteString>| bundle.as_ref().is_some_and(|one| !one.0.is_empty());
            if found.webhooks.into_iter().flatten().any(|hook| !trusted(&hook.client_config.ca_bundle)) {
                notes.push("the webhook has no caBundle yet: no pod is injected; see meshctl check".to_owned());
            }
        }
        Ok(None) => notes.push(format!(
            "the webhook configuration {} is not there: no pod is injected in this cluster; meshctl install makes it",
            names::WEBHOOK_CONFIGURATION
        )),
        Err(error) => notes.push(format!("{error:#}")),
    }
}

async fn asked<T>(what: &str, question: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    match timeout(DEADLINE, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => bail!("cannot read {what}: {}", said(&error)),
        Err(_) => bail!("cannot read {what}: no answer within {}s", DEADLINE.as_secs()),
    }
}
