//! The application's health, asked in a kubelet's place ([`mesh_api::probe`]). Floor 1: imports `mesh_api` only.
//!
//! What is asked for is fixed when the proxy starts. The admin server does not know who asks: paths have a token that cannot
//! be guessed. Whoever has it chooses among what there is, and learns how it went, not what the application said.

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_api::{
    admin::{self, AdminResponse},
    probe::{Get, Probe, shown},
    sys::{Net, Sys},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How much of an answer's body is waited for, in bytes: as much as a kubelet reads.
const MAX_BODY: usize = 10 * 1024;
/// By this applications know a kubelet's requests in their logs.
const USER_AGENT: &str = "kube-probe/mesh";

type Failure = Box<dyn Error + Send + Sync>;

/// Every probe that can be asked for.
pub struct Probes {
    known: HashMap<String, Probe>,
    net: Net,
    tls: TlsConnector,
}

impl Probes {
    /// Those of a configuration.
    ///
    /// # Errors
    /// Where TLS is not available.
    pub fn new(probes: &[Probe], sys: &Sys) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let known = probes.iter().map(|probe| (probe.at.clone(), probe.clone())).collect();
        Ok(Self { known, net: sys.net, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// How the application at `ip` is, by the probe of a path. `None` where there is no such probe.
    ///
    /// A path with another token is one that is not known, told and timed as any: by a keyed hash of it.
    pub async fn answer(&self, path: &str, ip: IpAddr) -> Option<AdminResponse> {
        let probe = self.known.get(path)?;
        let address = SocketAddr::new(ip.to_canonical(), probe.port);
        let asked = timeout(Duration::from_secs(probe.seconds), self.ask(probe, address)).await;
        let why = match asked {
            Ok(Ok(status)) => return Some(admin::text(status, "the application answered\n")),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", probe.seconds),
        };
        tracing::debug!(path = shown(path), %address, why, "a probe of the application failed");
        Some(admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("the application at port {}: {why}\n", probe.port)))
    }

    async fn ask(&self, probe: &Probe, address: SocketAddr) -> Result<StatusCode, Failure> {
        let stream = self.net.connect(address).await?;
        match (&probe.https, &probe.http) {
            (Some(asked), _) => {
                let request = request(asked, address)?;
                get(request, self.tls.connect(ServerName::IpAddress(address.ip().into()), stream).await?).await
            }
            (None, Some(asked)) => get(request(asked, address)?, stream).await,
            (None, None) => Ok(StatusCode::OK),
        }
    }
}

async fn get<S>(request: Request<Empty<Bytes>>, stream: S) -> Result<StatusCode, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What it ends with is told to who waits for the answer.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    let exchange = async {
        let (head, mut body) = sender.send_request(request).await?.into_parts();
        let mut read = 0;
        while read < MAX_BODY
            && let Some(frame) = body.frame().await
        {
            read += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok::<_, hyper::Error>(head.status)
    };
    tokio::select! {
        answer = exchange => Ok(answer?),
        never = connection => match never {},
    }
}

/// As a kubelet would make it.
fn request(get: &Get, address: SocketAddr) -> Result<Request<Empty<Bytes>>, Failure> {
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let mut request = Request::get(path).body(Empty::new())?;
    let headers = request.headers_mut();
    for (name, value) in &get.headers {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let defaults = [
        (header::HOST, HeaderValue::try_from(address.to_string())?),
        (header::USER_AGENT, HeaderValue::from_static(USER_AGENT)),
        (header::ACCEPT, HeaderValue::from_static("*/*")),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(value);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// Takes every certificate: the application stands in the same pod, and a kubelet takes every one, too.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
