//! Whether the user may do what is about to be done: asked before, so that nothing is left half done.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, api::PostParams};

use super::Site;
use crate::{
    chart::object::Key,
    cluster::objects::{RequestError, answer},
};

/// What may not be done, one line each; nothing where everything may.
///
/// # Errors
/// [`RequestError`].
pub async fn missing(
    site: &Site,
    keys: impl Iterator<Item = &Key>,
    verbs: &[&str],
) -> Result<Vec<String>, RequestError> {
    let mut wanted = BTreeSet::new();
    for key in keys {
        // A kind that is not served yet comes with the mesh's own.
        let Some(served) = site.objects.served(key).await? else { continue };
        let (group, plural) = (served.resource.group, served.resource.plural);
        wanted.insert((group, plural, key.namespace.clone()));
    }
    let reviews: Api<SelfSubjectAccessReview> = Api::all(site.cluster.client());
    let mut missing = Vec::new();
    for (group, resource, namespace) in wanted {
        let mut refused = Vec::new();
        for verb in verbs {
            let attributes = ResourceAttributes {
                group: Some(group.clone()),
                resource: Some(resource.clone()),
                namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
                verb: Some((*verb).to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            let params = PostParams::default();
            let review = answer("asking what you may do", reviews.create(&params, &review)).await?;
            if !review.status.is_some_and(|status| status.allowed) {
                refused.push(*verb);
            }
        }
        if !refused.is_empty() {
            let place = if namespace.is_empty() { "the cluster".to_owned() } else { format!("namespace {namespace}") };
            let dot = if group.is_empty() { "" } else { "." };
            missing.push(format!("{} {resource}{dot}{group} in {place}", refused.join(", ")));
        }
    }
    Ok(missing)
}

/// Fails where something may not be done.
///
/// # Errors
/// All of it at once, or [`RequestError`].
pub async fn require(site: &Site, keys: impl Iterator<Item = &Key>, verbs: &[&str]) -> anyhow::Result<()> {
    let missing = missing(site, keys, verbs).await?;
    anyhow::ensure!(
        missing.is_empty(),
        "nothing was changed: as the user of context {} you may not\n  {}\nask an administrator of the cluster for these rights",
        site.cluster.name(),
        missing.join("\n  ")
    );
    Ok(())
}
