//! Reaches ports of pods through the API server, as `kubectl port-forward` does: nothing in a cluster is exposed for it.
//!
//! A tunnel is one connection. The pod sees it come from its own loopback address.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::Portforwarder};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::{
    client::{self, Answer, QueryError},
    peer,
};

/// Opening a tunnel takes at most this long.
const OPEN: Duration = Duration::from_secs(10);
/// A whole answer through a tunnel takes at most this long.
const WHOLE: Duration = Duration::from_secs(15);
/// What the far side says about a tunnel that broke comes at most so much later than the break.
const LAST_WORD: Duration = Duration::from_millis(300);

/// Why a port of a pod is not reached.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The API server does not make a tunnel.
    #[error("no port-forward to {target}: {why}")]
    Refused {
        /// `NAMESPACE/POD:PORT`.
        target: String,
        /// What was said.
        why: String,
        /// True where the rights are missing: nothing is wrong with the pod.
        forbidden: bool,
    },
    /// The API server, or the kubelet behind it, takes too long.
    #[error("no port-forward to {target} within {}s; the API server or the kubelet of its node hangs", OPEN.as_secs())]
    Slow {
        /// `NAMESPACE/POD:PORT`.
        target: String,
    },
    /// The tunnel stands and nobody answers.
    #[error("{target} did not answer within {}s; the process hangs, or its node is overloaded", WHOLE.as_secs())]
    Silent {
        /// `NAMESPACE/POD:PORT`.
        target: String,
    },
    /// The tunnel stands and nobody behind it answers as it should.
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl ForwardError {
    /// True where the user has not the right, which no other try will change.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { forbidden: true, .. })
    }
}

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.pod, self.port)
    }
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

type Error = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// One connection to a port of a pod. Nothing of it outlives it.
pub struct Tunnel {
    stream: Box<dyn Bytes>,
    error: Error,
    forwarder: Portforwarder,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl Tunnel {
    /// Opens one. That it stands says nothing about whether somebody listens on the port.
    ///
    /// # Errors
    /// [`ForwardError`]; worth another try, but where the rights are missing.
    pub async fn open(client: &Client, target: &Target) -> Result<Self, ForwardError> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
        let ports = [target.port];
        let opening = pods.portforward(&target.pod, &ports);
        let mut forwarder = match timeout(OPEN, opening).await {
            Err(_) => return Err(ForwardError::Slow { target: target.to_string() }),
            Ok(Err(error)) => return Err(refused(target, &error)),
            Ok(Ok(forwarder)) => forwarder,
        };
        let (Some(stream), Some(error)) = (forwarder.take_stream(target.port), forwarder.take_error(target.port))
        else {
            let why = "the port was not forwarded".to_owned();
            return Err(ForwardError::Refused { target: target.to_string(), why, forbidden: false });
        };
        Ok(Self { stream: Box::new(stream), error: Box::pin(error), forwarder })
    }

    /// What the far side said about why the tunnel broke; waits a moment for it.
    pub async fn last_word(&mut self) -> Option<String> {
        timeout(LAST_WORD, &mut self.error).await.ok().flatten().map(|said| said.trim().to_owned())
    }
}

fn refused(target: &Target, error: &kube::Error) -> ForwardError {
    use kube::client::UpgradeConnectionError::ProtocolSwitch;
    let target = target.to_string();
    match error {
        kube::Error::Api(status) => {
            ForwardError::Refused { target, why: status.message.clone(), forbidden: status.code == 403 }
        }
        kube::Error::UpgradeConnection(ProtocolSwitch(status)) => {
            let forbidden = status.as_u16() == 403;
            let why = match status.as_u16() {
                403 => "you may not; the verbs `get` and `create` on `pods/portforward` are needed".to_owned(),
                404 => "the pod is gone".to_owned(),
                _ => format!("the API server answered {status}"),
            };
            ForwardError::Refused { target, why, forbidden }
        }
        other => ForwardError::Refused { target, why: crate::cluster::said(other), forbidden: false },
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Asks the admin server of a pod for `path`.
///
/// # Errors
/// [`ForwardError`].
pub async fn get(client: &Client, target: &Target, path: &str) -> Result<Answer, ForwardError> {
    let from = target.to_string();
    let asking = async {
        let mut tunnel = Tunnel::open(client, target).await?;
        // The admin server is asked by address only.
        let host = format!("127.0.0.1:{}", target.port);
        match client::over(&mut tunnel, &from, &host, Method::GET, path).await {
            Err(QueryError::Unreachable(from, why)) => {
                let why = tunnel.last_word().await.unwrap_or(why);
                Err(ForwardError::Query(QueryError::Unreachable(from, why)))
            }
            other => Ok(other?),
        }
    };
    match timeout(WHOLE, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(ForwardError::Silent { target: from.clone() }),
    }
}

/// The certificates that a TLS server in a pod shows to a client that asks for `name`, the leaf first, in DER. They are
/// taken as they are: whether they are good is the caller's to judge.
///
/// # Errors
/// [`ForwardError`].
pub async fn certificates(client: &Client, target: &Target, name: &str) -> Result<Vec<Vec<u8>>, ForwardError> {
    let from = target.to_string();
    let asking = async {
        let mut tunnel = Tunnel::open(client, target).await?;
        match peer::certificates(&mut tunnel, name).await {
            Ok(chain) => Ok(chain),
            Err(error) => {
                let why = tunnel.last_word().await.unwrap_or_else(|| error.to_string());
                Err(ForwardError::Query(QueryError::Unreachable(from.clone(), why)))
            }
        }
    };
    match timeout(WHOLE, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(ForwardError::Silent { target: from.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::query::fake::{self, Fake};

    fn target(port: u16) -> Target {
        Target { namespace: "mesh-system".into(), pod: "controller-1".into(), port }
    }

    #[tokio::test]
    async fn a_page_comes_through_a_tunnel() {
        let fake = Fake::start().await;
        fake.forward("mesh-system/controller-1:15421", fake::pages(&[("/status", 200, "{\"a\": 12}")]).await);
        let client = fake.client();
        let answer = get(&client, &target(15_421), "/status").await.unwrap();
        assert!(answer.date.is_some());
        assert_eq!(answer.json::<Value>().unwrap()["a"], 12);
        let error = get(&client, &target(15_421), "/none").await.unwrap().text().unwrap_err();
        assert_eq!(error.to_string(), "mesh-system/controller-1:15421 answered 404 Not Found: no such page");
    }

    #[tokio::test]
    async fn what_the_kubelet_says_is_told() {
        let fake = Fake::start().await;
        let error = get(&fake.client(), &target(1), "/").await.unwrap_err();
        assert!(matches!(error, ForwardError::Query(_)), "{error:?}");
        assert!(error.to_string().contains("connection refused"), "{error}");
    }

    #[tokio::test]
    async fn missing_rights_are_told_apart_from_what_is_broken() {
        let fake = Fake::start().await;
        let path = "/api/v1/namespaces/mesh-system/pods/controller-1/portforward";
        for (code, right) in [(403, true), (404, false), (500, false)] {
            fake.reply(Method::GET, path, code, fake::status(code, "", ""));
            let error = Tunnel::open(&fake.client(), &target(1)).await.unwrap_err();
            let ForwardError::Refused { forbidden, .. } = error else { panic!("{error:?}") };
            assert_eq!(forbidden, right, "{code}");
        }
    }

    #[tokio::test]
    async fn the_certificate_of_a_server_is_seen_whoever_signed_it() {
        use std::sync::Arc;

        let key = rcgen::generate_simple_self_signed(["anything".to_owned()]).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(mesh_api::tls::provider());
        let config = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_no_client_auth();
        let private = rustls_pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let config = config.with_single_cert(vec![key.cert.der().clone()], private).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Fake::start().await;
        fake.forward("mesh-system/controller-1:15430", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = acceptor.accept(stream).await;
        });
        let chain = certificates(&fake.client(), &target(15_430), "mesh-webhook.mesh-system.svc").await.unwrap();
        assert_eq!(chain, [key.cert.der().to_vec()]);
    }
}
