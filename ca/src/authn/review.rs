//! Service-account tokens, judged by the Kubernetes API server (TokenReview).
//!
//! Nothing in a token is believed before the API server says so, and only for the mesh's own audience. A token must be
//! bound to a pod that is there, runs as that account, and has the address that the call comes from: a token that was
//! carried off is of no use elsewhere.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as Timestamp;
use kube::{
    api::PostParams,
    core::{Request, params::GetParams},
};
use mesh_api::names::CA_AUDIENCE;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{Authenticating, Authenticator, AuthnError, Caller, MAX_TOKEN};
use crate::{
    cluster::{Cluster, ClusterError},
    limit::{Bucket, PerCaller, Rate},
    time::Time,
};

/// Where the API server keeps the name and the identity of the pod that a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// A positive answer is believed for this long.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Positive answers at once; further ones are not kept.
const MAX_REMEMBERED: usize = 4096;
/// Questions to the API server that one address causes: what it asks for beyond is refused unasked.
const QUESTIONS: Rate = Rate { refill: Duration::from_millis(100), burst: 50 };
/// Addresses whose questions are counted at once.
const MAX_ASKERS: usize = 65_536;
/// Lines about an API server that cannot be asked.
const COMPLAINTS: Rate = Rate { refill: Duration::from_secs(1), burst: 5 };
/// A pod that was told to end by this moment, and a little, has no use for a certificate.
const LEAVING: Duration = Duration::from_secs(60);
/// Longest name of a pod (RFC 1123 subdomain).
const MAX_POD_NAME: usize = 253;

/// What is asked of a token beyond being genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demands {
    /// The call comes from one of the pod's addresses.
    pub check_address: bool,
    /// Tokens that are bound to no pod are taken as well; nothing is known of where they may come from.
    pub allow_unbound: bool,
}

/// Asks the API server about tokens.
#[derive(Debug)]
pub struct Review {
    cluster: Cluster,
    demands: Demands,
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
    askers: PerCaller,
    complaints: Mutex<Option<Bucket>>,
}

#[derive(Debug)]
struct Remembered {
    until: Instant,
    verified: Verified,
}

/// A token's holder, and from where it may call; `None`: from anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verified {
    caller: Caller,
    addresses: Option<Vec<IpAddr>>,
}

impl Review {
    /// Asks `cluster`.
    #[must_use]
    pub fn new(cluster: Cluster, demands: Demands) -> Self {
        Self {
            cluster,
            demands,
            remembered: Mutex::default(),
            askers: PerCaller::new(QUESTIONS, MAX_ASKERS),
            complaints: Mutex::default(),
        }
    }

    async fn judge(&self, token: &str, peer: Option<IpAddr>, now: Time) -> Result<Caller, AuthnError> {
        check_form(token)?;
        let key = digest(token);
        if let Some(verified) = self.recall(&key) {
            check_address(&verified, peer)?;
            return Ok(verified.caller);
        }
        self.askers.take(peer.map(|ip| ip.to_canonical()), Instant::now()).map_err(AuthnError::TooOften)?;
        let verified = self.ask(token, now).await?;
        check_address(&verified, peer)?;
        let caller = verified.caller.clone();
        self.remember(key, verified);
        Ok(caller)
    }

    async fn ask(&self, token: &str, now: Time) -> Result<Verified, AuthnError> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [CA_AUDIENCE] },
        });
        let reviews = Request::new("/apis/authentication.k8s.io/v1/tokenreviews");
        let request = reviews.create(&PostParams::default(), review.to_string().into_bytes());
        let answer: TokenReview = self.cluster.call(request).await.map_err(|error| self.unavailable(&error))?;
        let holder = holder(&answer.status, token)?;
        let Some(bound) = holder.pod else {
            if self.demands.allow_unbound {
                return Ok(Verified { caller: holder.caller, addresses: None });
            }
            return Err(AuthnError::Unbound);
        };
        let pods = Request::new(format!("/api/v1/namespaces/{}/pods", holder.caller.namespace()));
        let pod: Pod = match self.cluster.call(pods.get(&bound.name, &GetParams::default())).await {
            Ok(pod) => pod,
            Err(error) if error.is_missing() => return Err(AuthnError::Pod),
            Err(error) => return Err(self.unavailable(&error)),
        };
        check_pod(&pod, &bound.uid, holder.caller.account(), now)?;
        let addresses = if self.demands.check_address { Some(addresses_of(&pod)?) } else { None };
        Ok(Verified { caller: holder.caller, addresses })
    }

    /// What goes wrong on our side, or on the API server's, is told here: the caller can do nothing about it.
    fn unavailable(&self, error: &ClusterError) -> AuthnError {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if complaints.get_or_insert_with(|| Bucket::full(now)).take(COMPLAINTS, now).is_ok() {
            tracing::error!(%error, "tokens cannot be checked; members keep the certificates they have");
        }
        AuthnError::Unavailable
    }

    fn recall(&self, key: &[u8; 32]) -> Option<Verified> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let found = remembered.get(key)?;
        (found.until > Instant::now()).then(|| found.verified.clone())
    }

    fn remember(&self, key: [u8; 32], verified: Verified) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, one| one.until > now);
        }
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(key, Remembered { until: now + REMEMBERED, verified });
        }
    }
}

impl Authenticator for Review {
    fn authenticate<'a>(&'a self, token: &'a str, peer: Option<IpAddr>, now: Time) -> Authenticating<'a> {
        Box::pin(self.judge(token, peer, now))
    }
}

/// Whoever asks without anything that could be a token costs the API server nothing. This believes nothing: it looks at
/// letters (RFC 7519 section 3: three parts of base64url).
fn check_form(token: &str) -> Result<(), AuthnError> {
    if token.is_empty() {
        return Err(AuthnError::Missing);
    }
    if token.len() > MAX_TOKEN {
        return Err(AuthnError::TooLong);
    }
    let letters = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let parts = token.split('.').count();
    if parts == 3 && token.split('.').all(letters) { Ok(()) } else { Err(AuthnError::Malformed) }
}

fn digest(token: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    key
}

fn check_address(verified: &Verified, peer: Option<IpAddr>) -> Result<(), AuthnError> {
    let Some(addresses) = &verified.addresses else { return Ok(()) };
    let from = peer.ok_or(AuthnError::Address)?.to_canonical();
    if addresses.contains(&from) { Ok(()) } else { Err(AuthnError::Address) }
}

/// What the API server answers, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct TokenReview {
    status: ReviewStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    audiences: Vec<String>,
    user: User,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

/// Whose token it is.
#[derive(Debug)]
struct Holder {
    caller: Caller,
    pod: Option<Bound>,
}

#[derive(Debug)]
struct Bound {
    name: String,
    uid: String,
}

fn holder(status: &ReviewStatus, token: &str) -> Result<Holder, AuthnError> {
    if !status.authenticated {
        // The words of the API server only choose the words of the refusal.
        return Err(if status.error.contains("audience") {
            AuthnError::Audience
        } else if status.error.contains("expired") {
            AuthnError::Expired
        } else {
            AuthnError::Rejected
        });
    }
    // A server that does not know audiences answers none: then nothing is known, and nothing is believed.
    if !status.audiences.iter().any(|audience| audience == CA_AUDIENCE) {
        return Err(AuthnError::Audience);
    }
    let mut parts = status.user.username.split(':');
    let (Some("system"), Some("serviceaccount"), Some(namespace), Some(account), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(AuthnError::Names);
    };
    let one = |key: &str| match status.user.extra.get(key).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([one]) if !one.is_empty() => Ok(Some(one.clone())),
        Some(_) => Err(AuthnError::Malformed),
    };
    let pod = match (one(POD_NAME)?, one(POD_UID)?) {
        (Some(name), Some(uid)) if is_pod_name(&name) => Some(Bound { name, uid }),
        (None, None) => None,
        _ => return Err(AuthnError::Malformed),
    };
    let instance = match &pod {
        Some(bound) => bound.uid.clone(),
        None => digest(token).iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
    };
    Ok(Holder { caller: Caller::new(namespace, account, &instance)?, pod })
}

/// It becomes part of a path.
fn is_pod_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    name.len() <= MAX_POD_NAME && name.bytes().all(inner) && !name.starts_with('.') && !name.contains("..")
}

/// A pod, as far as it is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pod {
    metadata: PodMetadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodMetadata {
    uid: String,
    deletion_timestamp: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    service_account_name: String,
    host_network: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<Address>,
    #[serde(rename = "hostIP")]
    host_ip: String,
    #[serde(rename = "hostIPs")]
    host_ips: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    ip: String,
}

/// The same pod (not one of the same name that came after it), of this account, and not over.
fn check_pod(pod: &Pod, uid: &str, account: &str, now: Time) -> Result<(), AuthnError> {
    let over = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
    // Until then it drains, and may need a certificate for it.
    let gone = pod.metadata.deletion_timestamp.as_ref().is_some_and(|end| {
        let end = u64::try_from(end.0.as_second()).unwrap_or(0);
        now > Time::from_unix(end).plus(LEAVING)
    });
    let same = !uid.is_empty() && pod.metadata.uid == uid && pod.spec.service_account_name == account;
    if same && !over && !gone { Ok(()) } else { Err(AuthnError::Pod) }
}

/// From where a pod calls.
fn addresses_of(pod: &Pod) -> Result<Vec<IpAddr>, AuthnError> {
    let PodStatus { pod_ip, pod_ips, host_ip, host_ips, .. } = &pod.status;
    let mut texts: Vec<&str> = pod_ips.iter().map(|one| one.ip.as_str()).chain([pod_ip.as_str()]).collect();
    if pod.spec.host_network {
        texts.extend(host_ips.iter().map(|one| one.ip.as_str()).chain([host_ip.as_str()]));
    }
    let found: Vec<IpAddr> =
        texts.iter().filter_map(|text| text.parse().ok()).map(|ip: IpAddr| ip.to_canonical()).collect();
    // The kubelet says it a moment after the pod began to run.
    if found.is_empty() { Err(AuthnError::AddressUnknown) } else { Ok(found) }
}
