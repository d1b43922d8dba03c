//! Asks the API server, with a deadline and a bound for everything.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use http::{Request, header};
use k8s_openapi::{
    api::core::v1::Service,
    jiff::{Timestamp, fmt::rfc2822},
};
use kube::{Api, Client, api::ListParams, client::Body};
use serde::de::DeserializeOwned;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    check::facts::{Clock, Fact, Fault, Missing},
    cluster::said,
};

/// Things asked at once.
pub const AT_ONCE: usize = 12;
/// One question takes at most this long.
const ANSWER: Duration = Duration::from_secs(10);
/// A whole list takes at most this long.
const LIST: Duration = Duration::from_secs(30);
/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Most objects of one kind that are looked at.
const MAX_OBJECTS: usize = 100_000;
/// Resolution of a `date` header, in milliseconds.
const DATE_RESOLUTION: i64 = 1_000;

/// Why something is not known, from how asking for it went.
pub fn missing(what: &str, error: &kube::Error) -> Missing {
    let fault = match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Fault::Rights,
        _ => Fault::Server,
    };
    Missing { what: what.to_owned(), fault, why: said(error) }
}

/// Waits for an answer as long as is reasonable.
pub async fn asked<T>(what: &str, asking: impl Future<Output = kube::Result<T>>) -> Fact<T> {
    within(ANSWER, what, asking).await
}

async fn within<T>(most: Duration, what: &str, asking: impl Future<Output = kube::Result<T>>) -> Fact<T> {
    match timeout(most, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(missing(what, &error)),
        Err(_) => {
            let why = format!("the API server did not answer within {}s", most.as_secs());
            Err(Missing { what: what.to_owned(), fault: Fault::Server, why })
        }
    }
}

/// All objects of a list, page by page.
pub async fn list<K>(api: Api<K>, what: &str, params: ListParams) -> Fact<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let asking = async {
        let mut all = Vec::new();
        let mut params = params.limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if all.len() < MAX_OBJECTS => params = params.continue_token(&token),
                _ => return Ok(all),
            }
        }
    };
    within(LIST, what, asking).await
}

/// Does something for each of many things, some at once; the order is lost.
pub async fn all<T, R, F>(things: impl IntoIterator<Item = T>, each: impl Fn(T) -> F) -> Vec<R>
where
    F: Future<Output = R> + Send + 'static,
    R: Send + 'static,
{
    let mut under_way = JoinSet::new();
    let mut done = Vec::new();
    for thing in things {
        if under_way.len() >= AT_ONCE {
            done.extend(under_way.join_next().await.and_then(Result::ok));
        }
        under_way.spawn(each(thing));
    }
    while let Some(ended) = under_way.join_next().await {
        done.extend(ended.ok());
    }
    done
}

/// The API server's clock against this machine's; none where it does not tell the time.
pub async fn clock(client: &Client) -> Option<Clock> {
    let request = Request::get("/version").body(Body::empty()).ok()?;
    let before = Instant::now();
    let response = timeout(ANSWER, client.send(request)).await.ok()?.ok()?;
    let way = before.elapsed();
    let date = response.headers().get(header::DATE)?.to_str().ok()?;
    offset(date, way, Timestamp::now())
}

/// From a `date` header (RFC 9110 section 5.6.7) that came back after `way`: it was written about the middle of that.
pub fn offset(date: &str, way: Duration, now: Timestamp) -> Option<Clock> {
    let told = rfc2822::parse(date).ok()?.timestamp().as_millisecond();
    let half = i64::try_from(way.as_millis() / 2).ok()?;
    let here = now.as_millisecond().checked_sub(half)?;
    // A whole second stands for all moments within it.
    Some(Clock { ahead_ms: told + DATE_RESOLUTION / 2 - here, slack_ms: half + DATE_RESOLUTION / 2 })
}

/// Served API groups with their versions.
pub async fn groups(client: &Client) -> Fact<BTreeMap<String, Vec<String>>> {
    let groups = asked("the API groups", client.list_api_groups()).await?;
    let versions = |group: k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup| {
        (group.name, group.versions.into_iter().map(|version| version.version).collect())
    };
    Ok(groups.groups.into_iter().map(versions).collect())
}

/// Kinds of a group and version, without what belongs to other kinds.
pub async fn kinds(client: &Client, version: &str) -> Fact<Vec<String>> {
    let what = format!("the kinds of {version}");
    let resources = asked(&what, client.list_api_group_resources(version)).await?.resources;
    Ok(resources.into_iter().filter(|one| !one.name.contains('/')).map(|one| one.kind).collect())
}

/// Whether a Service `NAMESPACE/NAME` is there.
pub async fn service_is_there(client: &Client, name: &str) -> Fact<bool> {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    asked(&format!("the Service {namespace}/{name}"), api.get_opt(name)).await.map(|found| found.is_some())
}
