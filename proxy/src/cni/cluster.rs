//! The cluster's API, as much of it as is needed: pods are read, watched, labelled and deleted. Floor 1: imports
//! `credentials`, `pod`.
//!
//! A connection for each request: the plugin makes one, the agent few.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use mesh_api::{names, sys::Sys};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    credentials::{Credentials, CredentialsError},
    pod::Pod,
};

/// A connection may take this long to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// An answer may take this long, from asking to its last byte.
const ANSWER: Duration = Duration::from_secs(15);
/// Largest answer: the pods of a node.
const LARGEST: usize = 64 * 1024 * 1024;
/// Largest line of a watch: one pod.
const LARGEST_LINE: usize = 4 * 1024 * 1024;
/// A watch is ended by the server after this time,
const WATCH: Duration = Duration::from_secs(290);
/// and by us after this.
const WATCH_LIMIT: Duration = Duration::from_secs(320);

/// The cluster did not do what it was asked. Asking again is safe.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nobody knows how to speak to it.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Its roots cannot be used.
    #[error("the cluster's root certificates cannot be used: {0}")]
    Roots(String),
    /// It cannot be reached, or the connection broke.
    #[error("the cluster's API at {server} cannot be reached: {why}")]
    Unreachable {
        /// Where it should be.
        server: String,
        /// Why not.
        why: String,
    },
    /// It did not answer in time.
    #[error("the cluster's API at {0} did not answer in time")]
    Late(String),
    /// It said no.
    #[error("the cluster's API refused {what}: {status}{said}")]
    Refused {
        /// What it was asked for.
        what: String,
        /// With which status.
        status: StatusCode,
        /// What it said about it.
        said: String,
    },
    /// It answered something else.
    #[error("the cluster's API answered something that cannot be read: {0}")]
    Unreadable(String),
}

impl ClusterError {
    /// The status it refused with.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// What happened to a pod.
#[derive(Clone, Debug)]
pub enum Event {
    /// It is there, or has changed.
    Present(Box<Pod>),
    /// It has gone, or nothing but time has passed.
    Other,
}

/// A way to the cluster.
#[derive(Clone)]
pub struct Cluster {
    sys: Sys,
    tls: TlsConnector,
    credentials: Credentials,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// An answer that comes in, with the task that carries it.
struct Answer {
    response: Response<Incoming>,
    _carried: JoinSet<()>,
}

impl Cluster {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClusterError::Roots`].
    pub fn new(sys: Sys, credentials: Credentials) -> Result<Self, ClusterError> {
        let wrong = |why: &dyn std::fmt::Display| ClusterError::Roots(why.to_string());
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&credentials.roots) {
            roots.add(root.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"there are none"));
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { sys, tls: TlsConnector::from(Arc::new(config)), credentials })
    }

    /// A pod; `None` where there is none of that name.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        match self.whole(Method::GET, &path(namespace, name), None).await {
            Ok(bytes) => read(&bytes).map(Some),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The injected pods of a node, and the state of the list.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn pods(&self, node: &str) -> Result<(Vec<Pod>, String), ClusterError> {
        #[derive(Deserialize)]
        struct List {
            metadata: Meta,
            #[serde(default)]
            items: Vec<Value>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            resource_version: String,
        }
        // From the server's memory: what it has missed comes with the watch.
        let list: List = read(&self.whole(Method::GET, &of_node(node, "&resourceVersion=0"), None).await?)?;
        // One that cannot be read hurts only itself.
        let pods = list.items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect();
        Ok((pods, list.metadata.resource_version))
    }

    /// Watches the injected pods of a node, from a state of the list on.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn watch(&self, node: &str, since: &str) -> Result<Watch<'_>, ClusterError> {
        let seconds = WATCH.as_secs();
        let query = format!("&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={since}");
        let request = self.request(Method::GET, &of_node(node, &query), None);
        let answer = self.within(ANSWER, async { self.accepted("to watch pods", self.answer(request).await?).await });
        Ok(Watch { cluster: self, answer: answer.await?, open: BytesMut::new() })
    }

    /// Deletes a pod, if it is still the same. What has gone is as good as deleted.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn delete(&self, pod: &Pod) -> Result<(), ClusterError> {
        let only = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": pod.metadata.uid } });
        gone_is_fine(self.whole(Method::DELETE, &path(&pod.metadata.namespace, &pod.metadata.name), Some(&only)).await)
    }

    /// Sets a label of a pod, if it is still the same. What has gone needs none.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn label(&self, pod: &Pod, label: &str, value: &str) -> Result<(), ClusterError> {
        let change = json!({ "metadata": { "uid": pod.metadata.uid, "labels": { label: value } } });
        gone_is_fine(self.whole(Method::PATCH, &path(&pod.metadata.namespace, &pod.metadata.name), Some(&change)).await)
    }

    /// Asks, and reads the whole answer.
    async fn whole(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, ClusterError> {
        let what = format!("{method} {}", path.split('?').next().unwrap_or_default());
        let asked = async {
            let answer = self.accepted(&what, self.answer(self.request(method, path, body)).await?).await?;
            let body = Limited::new(answer.response.into_body(), LARGEST).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(|error| self.unreachable(&error))
        };
        self.within(ANSWER, asked).await
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Request<Full<Bytes>> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let mut request = Request::new(Full::new(bytes));
        *request.method_mut() = method;
        // Paths are made of names that have been looked at; one that is none all the same is asked for at the root.
        *request.uri_mut() = path.parse().unwrap_or_default();
        let agent = concat!("mesh-cni/", env!("CARGO_PKG_VERSION"));
        let bearer = format!("Bearer {}", self.credentials.token);
        let headers = [
            (header::HOST, self.server()),
            (header::AUTHORIZATION, bearer),
            (header::ACCEPT, "application/json".to_owned()),
            (header::CONTENT_TYPE, kind.to_owned()),
            (header::USER_AGENT, agent.to_owned()),
        ];
        for (name, value) in headers {
            // A token that is no header is no token: the server says so.
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(name, value);
            }
        }
        request
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Answer, ClusterError> {
        let connected = self.within(CONNECT, async {
            let mut last = "its name has no address".to_owned();
            let addresses = tokio::net::lookup_host((self.credentials.host.as_str(), self.credentials.port)).await;
            for address in addresses.map_err(|error| self.unreachable(&error))? {
                match self.sys.net.connect(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error.to_string(),
                }
            }
            Err(self.unreachable(&last))
        });
        let stream = connected.await?;
        let name = ServerName::try_from(self.credentials.host.clone()).map_err(|error| self.unreachable(&error))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        let mut carried = JoinSet::new();
        carried.spawn(async move {
            // What breaks is told to whoever waits for the answer.
            let _ = connection.await;
        });
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(&error))?;
        Ok(Answer { response, _carried: carried })
    }

    async fn accepted(&self, what: &str, answer: Answer) -> Result<Answer, ClusterError> {
        #[derive(Deserialize)]
        struct Status {
            message: String,
        }
        let status = answer.response.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = Limited::new(answer.response.into_body(), 64 * 1024).collect().await;
        let said = body.ok().and_then(|body| serde_json::from_slice::<Status>(&body.to_bytes()).ok());
        let said = said.map(|said| format!(" ({})", said.message.chars().take(300).collect::<String>()));
        Err(ClusterError::Refused { what: what.to_owned(), status, said: said.unwrap_or_default() })
    }

    async fn within<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        timeout(limit, asked).await.unwrap_or_else(|_: Elapsed| Err(ClusterError::Late(self.server())))
    }

    fn unreachable(&self, why: &dyn std::fmt::Display) -> ClusterError {
        ClusterError::Unreachable { server: self.server(), why: why.to_string() }
    }

    fn server(&self) -> String {
        let Credentials { host, port, .. } = &self.credentials;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// What happens to the injected pods of a node.
pub struct Watch<'a> {
    cluster: &'a Cluster,
    answer: Answer,
    open: BytesMut,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch<'_> {
    /// What happened next; `None` where the server ended the watch, or its state is too old: the list is to be read anew.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn next(&mut self) -> Result<Option<Event>, ClusterError> {
        loop {
            if let Some(end) = self.open.iter().position(|byte| *byte == b'\n') {
                return event(&self.open.split_to(end + 1));
            }
            if self.open.len() > LARGEST_LINE {
                return Err(ClusterError::Unreadable(format!("an event of more than {LARGEST_LINE} bytes")));
            }
            // Where nothing happens, bookmarks come; and in the end the server ends it.
            let frame = timeout(WATCH_LIMIT, self.answer.response.body_mut().frame()).await;
            let frame = frame.map_err(|_: Elapsed| ClusterError::Late(self.cluster.server()))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| self.cluster.unreachable(&error))?;
            self.open.extend_from_slice(frame.data_ref().map_or(&[][..], AsRef::as_ref));
        }
    }
}

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

fn of_node(node: &str, more: &str) -> String {
    let label = names::LABEL_INJECTED.replace('/', "%2F");
    let value = names::INJECTED_VALUE;
    format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}&labelSelector={label}%3D{value}{more}")
}

fn read<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, ClusterError> {
    serde_json::from_slice(bytes).map_err(|error| ClusterError::Unreadable(error.to_string()))
}

fn gone_is_fine(done: Result<Bytes, ClusterError>) -> Result<(), ClusterError> {
    match done {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.status(), Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// One line of a watch; `None` where the list has to be read anew.
fn event(line: &[u8]) -> Result<Option<Event>, ClusterError> {
    #[derive(Deserialize)]
    struct Line {
        r#type: String,
        object: Value,
    }
    let line: Line = read(line)?;
    Ok(match line.r#type.as_str() {
        "ADDED" | "MODIFIED" => {
            // One that cannot be read hurts only itself.
            Some(serde_json::from_value(line.object).map_or(Event::Other, |pod| Event::Present(Box::new(pod))))
        }
        "ERROR" => None,
        _ => Some(Event::Other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let present = event(br#"{"type":"MODIFIED","object":{"metadata":{"name":"web"}}}"#).unwrap();
        assert!(matches!(present, Some(Event::Present(pod)) if pod.metadata.name == "web"));
        for other in [r#"{"type":"DELETED","object":{}}"#, r#"{"type":"BOOKMARK","object":{}}"#] {
            assert!(matches!(event(other.as_bytes()).unwrap(), Some(Event::Other)), "{other}");
        }
        assert!(event(br#"{"type":"ERROR","object":{"code":410}}"#).unwrap().is_none());
        assert!(matches!(event(br#"{"type":"ADDED","object":{"metadata":5}}"#).unwrap(), Some(Event::Other)));
        assert!(event(b"<html>").is_err());
    }

    #[test]
    fn queries() {
        assert_eq!(
            of_node("node-1", "&watch=true"),
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1&labelSelector=mesh.dev%2Finjected%3Dtrue&watch=true"
        );
    }
}
