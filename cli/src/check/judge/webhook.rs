//! Injection and validation: registered, trusted, reached.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::admissionregistration::v1::WebhookClientConfig, apimachinery::pkg::apis::meta::v1::LabelSelector,
};
pub use mesh_api::names::WEBHOOK_CONFIGURATION as CONFIGURATION;
use mesh_api::names::{INJECT, PROXY_CONTAINER, SYSTEM_NAMESPACE, WEBHOOK_SERVICE};

use super::{control, known};
use crate::check::{
    certs::{self, Cert},
    facts::{Facts, Trial},
    verdict::{Lines, Verdict},
};

/// Namespaces that must work without the mesh, so that the cluster can heal itself.
const FREE: [&str; 2] = ["kube-system", SYSTEM_NAMESPACE];

/// One registered webhook of the mesh, of either kind.
struct Hook<'a> {
    kind: &'static str,
    name: &'a str,
    client: &'a WebhookClientConfig,
    failure_policy: Option<&'a str>,
    namespaces: Option<&'a LabelSelector>,
}

/// The mesh's own, and which kinds of configuration are not there.
fn hooks(facts: &Facts) -> Result<(Vec<Hook<'_>>, Vec<&'static str>), Verdict> {
    let mutating = facts.mutating.as_ref().map_err(|missing| missing.verdict())?;
    let validating = facts.validating.as_ref().map_err(|missing| missing.verdict())?;
    let mutating = mutating.iter().find(|hook| hook.metadata.name.as_deref() == Some(CONFIGURATION));
    let validating = validating.iter().find(|hook| hook.metadata.name.as_deref() == Some(CONFIGURATION));
    let mut hooks = Vec::new();
    let mut gone = Vec::new();
    match mutating {
        None => gone.push("MutatingWebhookConfiguration"),
        Some(found) => hooks.extend(found.webhooks.iter().flatten().map(|hook| Hook {
            kind: "mutating",
            name: &hook.name,
            client: &hook.client_config,
            failure_policy: hook.failure_policy.as_deref(),
            namespaces: hook.namespace_selector.as_ref(),
        })),
    }
    match validating {
        None => gone.push("ValidatingWebhookConfiguration"),
        Some(found) => hooks.extend(found.webhooks.iter().flatten().map(|hook| Hook {
            kind: "validating",
            name: &hook.name,
            client: &hook.client_config,
            failure_policy: hook.failure_policy.as_deref(),
            namespaces: hook.namespace_selector.as_ref(),
        })),
    }
    Ok((hooks, gone))
}

macro_rules! known_hooks {
    ($facts:expr) => {
        match hooks($facts) {
            Ok(hooks) => hooks,
            Err(verdict) => return verdict,
        }
    };
}

/// Are the webhooks registered as they should be?
pub fn configuration(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    let (hooks, gone) = known_hooks!(facts);
    let mut lines = Lines::new();
    for kind in gone {
        let what =
            if kind.starts_with('M') { "new pods get no sidecar" } else { "policies are not looked at when written" };
        lines.error(format!("the {kind} {CONFIGURATION} is not there: {what}"), "put it back: meshctl upgrade");
    }
    for hook in &hooks {
        judge_hook(&mut lines, hook);
    }
    let good = format!("{} webhooks are registered", hooks.len());
    lines.verdict(good, "thing about webhooks", "things about webhooks")
}

fn judge_hook(lines: &mut Lines, hook: &Hook<'_>) {
    let Hook { kind, name, .. } = hook;
    let service = hook.client.service.as_ref();
    if !service.is_some_and(|service| service.name == WEBHOOK_SERVICE && service.namespace == SYSTEM_NAMESPACE) {
        let line = format!("the {kind} webhook {name} does not call {SYSTEM_NAMESPACE}/{WEBHOOK_SERVICE}");
        lines.error(line, "somebody changed it; put it back: meshctl upgrade");
    }
    if *kind == "mutating" && hook.failure_policy == Some("Ignore") {
        let line = format!("{name} lets pods pass while it does not answer: they run without a sidecar");
        lines.warning(line, "set failurePolicy to Fail, as the chart has it");
    }
    for namespace in FREE.into_iter().filter(|_| *kind == "mutating") {
        // Neither as it is, nor should somebody ask for sidecars there.
        let named = ("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
        let asking = (INJECT.to_owned(), "enabled".to_owned());
        let labels = [BTreeMap::from([named.clone()]), BTreeMap::from([named, asking])];
        if hook.namespaces.is_none_or(|selector| labels.iter().any(|labels| selects(selector, labels))) {
            let line = format!("{name} covers {namespace}: while it is down, that namespace cannot be mended");
            lines.error(line, "somebody changed its namespaceSelector; put it back: meshctl upgrade");
        }
    }
}

/// Whether a label selector takes these labels. An operator that is not known takes nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.into_iter().all(|expression| {
            let have = labels.get(&expression.key);
            let listed = || have.is_some_and(|have| expression.values.iter().flatten().any(|value| value == have));
            match expression.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => have.is_some(),
                "DoesNotExist" => have.is_none(),
                _ => false,
            }
        })
}

/// Does the API server trust the webhooks by the mesh's roots?
pub fn ca_bundle(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    let (hooks, _) = known_hooks!(facts);
    if hooks.is_empty() {
        return Verdict::skipped("no webhook is registered");
    }
    let roots = match certs::authority_roots(facts) {
        Ok(roots) => roots,
        Err(verdict) => return verdict,
    };
    let roots: BTreeSet<&[u8]> = roots.iter().map(Vec::as_slice).collect();
    let hint = format!(
        "the leader of mesh-controller writes it: look at control-plane-leases, then kubectl logs -n {SYSTEM_NAMESPACE} \
         deployment/mesh-controller"
    );
    let mut lines = Lines::new();
    for Hook { kind, name, client, .. } in &hooks {
        let Some(bundle) = client.ca_bundle.as_ref().filter(|bundle| !bundle.0.is_empty()) else {
            lines.error(
                format!("the {kind} webhook {name} has no caBundle: the API server does not call it"),
                hint.as_str(),
            );
            continue;
        };
        let bundle = certs::pem(&bundle.0);
        let bundle: BTreeSet<&[u8]> = bundle.iter().map(Vec::as_slice).collect();
        if bundle.is_disjoint(&roots) {
            let line = format!("the caBundle of the {kind} webhook {name} has none of the authority's roots");
            lines.error(line, hint.as_str());
        } else if bundle != roots {
            let line =
                format!("the caBundle of the {kind} webhook {name} has not all of the authority's roots, or others");
            lines.warning(line, hint.as_str());
        }
    }
    lines.verdict(
        format!("{} webhooks trust the authority's roots", hooks.len()),
        "caBundle is wrong",
        "caBundles are wrong",
    )
}

/// Do the webhooks show a certificate that the API server accepts?
pub fn certificate(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    let (hooks, _) = known_hooks!(facts);
    let bundles: BTreeSet<&[u8]> =
        hooks.iter().filter_map(|hook| hook.client.ca_bundle.as_ref()).map(|bundle| bundle.0.as_slice()).collect();
    let now = facts.cluster_now();
    let name = format!("{WEBHOOK_SERVICE}.{SYSTEM_NAMESPACE}.svc");
    let mut lines = Lines::new();
    let mut good = 0;
    for replica in facts.replicas_of(control::PARTS[1]) {
        let chain = match &replica.webhook {
            None => continue,
            Some(Err(missing)) => {
                lines.error(
                    format!("{}: {}", replica.pod, missing.why),
                    "see control-plane-pods; does it listen for webhooks?",
                );
                continue;
            }
            Some(Ok(chain)) => chain,
        };
        let hint = format!("restart it: kubectl delete pod -n {SYSTEM_NAMESPACE} {}; then see ca-issuer", replica.pod);
        for bundle in &bundles {
            if let Err(why) = certs::accepts(&certs::pem(bundle), chain, &name, now) {
                lines.error(
                    format!("{}: its certificate is not accepted for {name}: {why}", replica.pod),
                    hint.as_str(),
                );
            }
        }
        if let Some(leaf) = chain.first().and_then(|leaf| Cert::parse(leaf)) {
            if leaf.is_overdue(now) {
                lines.warning(
                    format!("{}: its certificate should have been renewed; it ends {}", replica.pod, leaf.not_after),
                    hint,
                );
            }
            good += 1;
        }
    }
    if good == 0 && bundles.is_empty() && lines.is_empty() {
        return Verdict::skipped("no webhook has a caBundle to compare with");
    }
    lines.verdict(format!("accepted for {name}"), "certificate is wrong", "certificates are wrong")
}

/// Does the API server reach the webhook, and are pods injected?
pub fn answers(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    match known!(&facts.trial) {
        Trial::Created(containers) if containers.contains(PROXY_CONTAINER) => {
            Verdict::ok("a pod that asks for a sidecar would get one")
        }
        Trial::Created(_) => Verdict::error(
            "a pod that asks for a sidecar would get none",
            "see webhook-configuration; its selectors may not cover pods",
        ),
        Trial::Refused(why) if why.contains("failed calling webhook") => {
            Verdict::error(format!("the API server does not get an answer: {why}"), unreachable_hint(why))
        }
        Trial::Refused(why) => Verdict::warning(
            format!("a trial pod is refused before injection can be seen: {why}"),
            "something else in the cluster refuses pods; look at what it names",
        ),
    }
}

fn unreachable_hint(why: &str) -> &'static str {
    if why.contains("x509") || why.contains("certificate") {
        "see webhook-ca-bundle and webhook-certificate"
    } else if why.contains("no endpoints") || why.contains("not found") {
        "see control-plane-services: no controller is ready"
    } else if why.contains("connection refused") {
        "the controller does not listen there: see webhook-certificate"
    } else {
        "the API server cannot open connections to pods on port 15430: look at firewalls between the control plane and the nodes, \
         and at NetworkPolicies in mesh-system"
    }
}
