//! Roots, issuers, trust bundles, and the control plane's own certificates.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use mesh_api::names::{CA_ACCOUNT, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP, TRUST_KEY};

use super::{control, known};
use crate::check::{
    certs::{self, Cert},
    facts::{Authority, Facts, Issuers},
    judge::cluster::count,
    pods,
    verdict::{Lines, Verdict},
};

/// When the authority's own certificate ends.
const CA_EXPIRY: &str = "mesh_ca_server_expiry_timestamp_seconds";

/// What each replica of the authority says, by pod.
fn issuers(facts: &Facts) -> Result<Vec<(&str, &Issuers)>, Verdict> {
    if let Some(verdict) = control::absent(facts) {
        return Err(verdict);
    }
    let mut all = Vec::new();
    for replica in facts.replicas_of(CA_ACCOUNT) {
        match replica.ca.as_ref().map(|pages| pages.issuers.as_ref()) {
            Some(Ok(issuers)) => all.push((replica.pod.as_str(), issuers)),
            Some(Err(missing)) => return Err(missing.verdict()),
            None => {}
        }
    }
    if all.is_empty() { Err(Verdict::skipped("no authority answers; see control-plane-pods")) } else { Ok(all) }
}

fn judge_authority(lines: &mut Lines, what: &str, authority: &Authority, now: Timestamp) {
    let Some(cert) = Cert::told(authority) else { return };
    // Where somebody else makes them nobody renews them either.
    let hint = match authority.generation {
        Some(_) => {
            format!("the authority should have renewed it: kubectl logs -n {SYSTEM_NAMESPACE} deployment/{CA_ACCOUNT}")
        }
        None => "renew it where it is made, and give the authority the new one".to_owned(),
    };
    if let Some(why) = cert.untimely(now) {
        lines.error(format!("{what} {} {why}", cert.subject), hint);
    } else if cert.is_overdue(now) {
        lines.warning(format!("{what} {} ends {}", cert.subject, cert.not_after), hint);
    }
}

/// Are the roots valid, and the same everywhere?
pub fn roots(facts: &Facts) -> Verdict {
    let replicas = match issuers(facts) {
        Ok(replicas) => replicas,
        Err(verdict) => return verdict,
    };
    let now = facts.cluster_now();
    let mut lines = Lines::new();
    let mut seen: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
    let mut judged = BTreeSet::new();
    for (pod, issuers) in &replicas {
        let mut set: Vec<&str> = issuers.roots.iter().map(|root| root.fingerprint.as_str()).collect();
        set.sort_unstable();
        seen.entry(set).or_default().push(pod);
        for root in issuers.roots.iter().filter(|root| judged.insert(root.fingerprint.as_str())) {
            judge_authority(&mut lines, "the root", root, now);
        }
        if issuers.roots.is_empty() {
            lines.error(format!("{pod} trusts no root"), "see the logs of the authority");
        }
    }
    if seen.len() > 1 {
        let groups: Vec<String> = seen.values().map(|pods| pods.join(" and ")).collect();
        lines.error(format!("replicas trust different roots: {}", groups.join(" against ")), SPLIT);
    }
    let number = replicas.first().map_or(0, |(_, issuers)| issuers.roots.len());
    let ends =
        replicas.iter().flat_map(|(_, issuers)| &issuers.roots).filter_map(Cert::told).map(|root| root.not_after).min();
    let until = ends.map(|end| format!(", until {end}")).unwrap_or_default();
    lines.verdict(format!("{}{until}", count(number, "root", "roots")), "thing about roots", "things about roots")
}

const SPLIT: &str = "they share one Secret: a replica that cannot read it is behind; look at the logs of each";

/// Is the issuer valid, and the same everywhere?
pub fn issuer(facts: &Facts) -> Verdict {
    let replicas = match issuers(facts) {
        Ok(replicas) => replicas,
        Err(verdict) => return verdict,
    };
    let now = facts.cluster_now();
    let mut lines = Lines::new();
    let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut good = String::new();
    for (pod, issuers) in &replicas {
        if !seen.contains_key(issuers.issuer.fingerprint.as_str()) {
            judge_authority(&mut lines, "the issuer", &issuers.issuer, now);
            good = Cert::told(&issuers.issuer).map(|cert| cert.to_string()).unwrap_or_default();
        }
        seen.entry(&issuers.issuer.fingerprint).or_default().push(pod);
    }
    if seen.len() > 1 {
        let groups: Vec<String> = seen.values().map(|pods| pods.join(" and ")).collect();
        lines.warning(format!("replicas sign with different issuers: {}", groups.join(" against ")), SPLIT);
    }
    lines.verdict(good, "thing about the issuer", "things about the issuer")
}

/// Has every namespace the authority's trust bundle?
pub fn bundles(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    let namespaces = known!(&facts.namespaces);
    let maps = known!(&facts.trust);
    let roots = match certs::authority_roots(facts) {
        Ok(roots) => roots.into_iter().collect::<BTreeSet<_>>(),
        Err(verdict) => return verdict,
    };
    let hint = format!(
        "the leader of mesh-ca writes it: see control-plane-leases, then kubectl logs -n {SYSTEM_NAMESPACE} deployment/{CA_ACCOUNT}"
    );
    let meshed: BTreeSet<&str> = facts
        .pods
        .iter()
        .flatten()
        .filter(|pod| pods::is_injected(pod))
        .filter_map(|pod| pod.metadata.namespace.as_deref())
        .collect();
    let mut lines = Lines::new();
    let mut good = 0;
    for namespace in namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none()) {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let map = maps.iter().find(|map| {
            map.metadata.namespace.as_deref() == Some(name) && map.metadata.name.as_deref() == Some(TRUST_CONFIG_MAP)
        });
        let text = map.and_then(|map| map.data.as_ref()).and_then(|data| data.get(TRUST_KEY));
        let what = match text {
            None if map.is_some() => format!("{name}: the ConfigMap {TRUST_CONFIG_MAP} has no key {TRUST_KEY}"),
            None => format!("{name}: there is no ConfigMap {TRUST_CONFIG_MAP}: pods with a sidecar do not start"),
            Some(text) => {
                let have: BTreeSet<Vec<u8>> = certs::pem(text.as_bytes()).into_iter().collect();
                if have == roots {
                    good += 1;
                    continue;
                }
                let lacks = if have.is_disjoint(&roots) { "none" } else { "not exactly those" };
                format!("{name}: {TRUST_CONFIG_MAP} has {lacks} of the authority's roots")
            }
        };
        if meshed.contains(name) || name == SYSTEM_NAMESPACE {
            lines.error(what, hint.as_str());
        } else {
            lines.warning(what, hint.as_str());
        }
    }
    lines.verdict(
        format!("the same in {}", count(good, "namespace", "namespaces")),
        "namespace is not served",
        "namespaces are not served",
    )
}

/// Are the control plane's certificates valid?
pub fn own(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    let now = facts.cluster_now();
    let mut lines = Lines::new();
    let mut seen = 0;
    for replica in &facts.replicas {
        let shown = replica.webhook.as_ref().and_then(|chain| chain.as_ref().ok());
        let shown = shown.and_then(|chain| Cert::parse(chain.first()?)).map(|cert| cert.not_after);
        let told = replica.metrics.iter().flatten().find(|sample| sample.name == CA_EXPIRY).map(|sample| sample.value);
        let told = told.filter(|at| *at > 0.0).and_then(|at| Timestamp::from_second(at as i64).ok());
        let Some(end) = shown.or(told) else { continue };
        seen += 1;
        if now > end {
            let hint = format!(
                "kubectl logs -n {SYSTEM_NAMESPACE} {}: it says why it is not renewed; see ca-issuer",
                replica.pod
            );
            lines.error(format!("{}: its certificate expired {end}", replica.pod), hint);
        }
    }
    if seen == 0 {
        return Verdict::skipped("no pod of the control plane showed its certificate");
    }
    lines.verdict(format!("{} valid", count(seen, "certificate is", "certificates are")), "has expired", "have expired")
}
