//! A member of the mesh and a stranger, and what happens when they meet over a real loopback socket.

use std::{io, sync::Arc, time::Duration};

use mesh_api::{
    names::ALPN_MESH_HTTP,
    spiffe::SpiffeId,
    sys::Clock,
    tls::{self, ClientAuth, Credentials, Keeper, TrustBundle},
};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::forge::{Authority, DOMAIN, Leaf, Shown, WEB};

/// No meeting takes longer.
pub const LIMIT: Duration = Duration::from_secs(20);
/// What each side says when the handshake is done.
const HELLO: &[u8] = b"from the client";
const ANSWER: &[u8] = b"from the server";
/// Who the tested member is.
pub const OURS: &str = "spiffe://td/ns/mesh/sa/ours";

/// One side's view of a meeting.
#[derive(Debug, Default)]
pub struct Side {
    /// Why TLS broke off, here or as the other side's alert said.
    pub fault: Option<Error>,
    /// Why it was refused above TLS, or broke off below it.
    pub broken: Option<String>,
    /// Application bytes that arrived.
    pub got: Vec<u8>,
    /// Who the other one is.
    pub peer: Option<SpiffeId>,
}

impl Side {
    fn broke(error: &io::Error) -> Self {
        Self::default().and(error)
    }

    fn and(mut self, error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(fault) => self.fault = Some(fault.clone()),
            None => self.broken = Some(error.to_string()),
        }
        self
    }

    /// The alert that the other side sent.
    pub fn alert(&self) -> Option<AlertDescription> {
        match self.fault {
            Some(Error::AlertReceived(alert)) => Some(alert),
            _ => None,
        }
    }
}

/// What a meeting led to.
#[derive(Debug)]
pub struct Met {
    pub server: Side,
    pub client: Side,
}

impl Met {
    /// Both sides got what the other said.
    pub fn assert_good(&self) {
        assert_eq!((self.server.got.as_slice(), self.client.got.as_slice()), (HELLO, ANSWER), "{self:?}");
    }

    /// Nobody got a byte of the application.
    pub fn assert_silent(&self) {
        assert!(self.server.got.is_empty() && self.client.got.is_empty(), "{self:?}");
    }
}

/// Lets the two meet: each says something as soon as it may, and listens.
pub async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Met {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        match TlsAcceptor::from(server).accept(tcp).into_fallible().await {
            Ok(mut stream) => {
                let connection = stream.get_ref().1;
                let (alpn, peer) = (tls::require_alpn(connection).err(), tls::peer_identity(connection).ok());
                if let Some(refused) = alpn {
                    return Side { broken: Some(refused.to_string()), ..Side::default() };
                }
                let mut side = listen(&mut stream, HELLO.len()).await;
                side.peer = peer;
                if side.fault.is_none() && side.broken.is_none() {
                    let _ = stream.write_all(ANSWER).await;
                    let _ = stream.shutdown().await;
                }
                drain(stream).await;
                side
            }
            Err((error, tcp)) => {
                drain(tcp).await;
                Side::broke(&error)
            }
        }
    };
    let calling = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        match TlsConnector::from(client).connect(tls::no_name(), tcp).into_fallible().await {
            Ok(mut stream) => {
                let connection = stream.get_ref().1;
                let (alpn, peer) = (tls::require_alpn(connection).err(), tls::peer_identity(connection).ok());
                if let Some(refused) = alpn {
                    return Side { broken: Some(refused.to_string()), ..Side::default() };
                }
                // A refusal may arrive before this is written: reading tells.
                let _ = stream.write_all(HELLO).await;
                let _ = stream.flush().await;
                let mut side = listen(&mut stream, ANSWER.len()).await;
                side.peer = peer;
                let _ = stream.shutdown().await;
                side
            }
            Err((error, tcp)) => {
                drain(tcp).await;
                Side::broke(&error)
            }
        }
    };
    let both = async { tokio::join!(serving, calling) };
    let (server, client) = tokio::time::timeout(LIMIT, both).await.unwrap();
    Met { server, client }
}

async fn listen(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Side {
    let mut side = Side::default();
    let mut buffer = [0; 64];
    while side.got.len() < length {
        match stream.read(&mut buffer).await {
            Ok(0) => {
                side.broken = Some("end".into());
                break;
            }
            Ok(read) => side.got.extend(&buffer[..read]),
            Err(error) => return side.and(&error),
        }
    }
    side
}

/// Takes what is still on its way, so that closing does not tear down an alert that was just sent.
async fn drain(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = stream.shutdown().await;
    let mut sink = [0; 4096];
    while matches!(stream.read(&mut sink).await, Ok(1..)) {}
}

/// A member under test, with the configurations of the mesh, and the authority that it trusts.
pub struct Member {
    pub root: Authority,
    pub keeper: Arc<Keeper>,
    pub clock: Clock,
    server: Arc<ServerConfig>,
}

impl Member {
    /// Trusts one root for [`DOMAIN`].
    pub fn new() -> Self {
        let root = Authority::root("root");
        let trust = root.bundle(DOMAIN);
        Self::with(root, trust, Clock::Host)
    }

    /// Trusts `trust`; its own certificate is `root`'s.
    pub fn with(root: Authority, trust: TrustBundle, clock: Clock) -> Self {
        let identity = root.issue(&Leaf::of(OURS)).identity();
        let keeper = Keeper::new(Credentials { identity: Some(Arc::new(identity)), trust: Arc::new(trust) });
        let server = tls::server_config(&keeper, clock, ClientAuth::Required, &[ALPN_MESH_HTTP]).unwrap();
        Self { root, keeper, clock, server }
    }

    /// The one server configuration of this member, that every connection shares.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The client configuration for a connection to `expected`.
    pub fn client(&self, expected: &str) -> Arc<ClientConfig> {
        tls::client_config(&self.keeper, self.clock, expected.parse().unwrap(), &[ALPN_MESH_HTTP]).unwrap()
    }

    /// A stranger calls.
    pub async fn called_by(&self, stranger: &Shown) -> Met {
        meet(self.server(), client_showing(stranger, &[ALPN_MESH_HTTP])).await
    }

    /// Calls a stranger, who should be `expected`.
    pub async fn calls(&self, stranger: &Shown, expected: &str) -> Met {
        meet(server_showing(stranger, &[ALPN_MESH_HTTP]), self.client(expected)).await
    }

    /// A certificate that this member must take, for both roles.
    pub async fn assert_takes(&self, stranger: &Shown, id: &str) {
        for met in [self.called_by(stranger).await, self.calls(stranger, id).await] {
            met.assert_good();
        }
        let met = self.called_by(stranger).await;
        assert_eq!(met.server.peer.unwrap().as_str(), id);
    }

    /// A certificate that this member must refuse, for both roles, with `alert`; the next good one is taken.
    pub async fn assert_refuses(&self, stranger: &Shown, alert: AlertDescription, case: &str) {
        self.assert_refuses_client(stranger, alert, case).await;
        self.assert_refuses_server(stranger, WEB, alert, case).await;
        self.assert_still_good().await;
    }

    /// The same, where a stranger calls.
    pub async fn assert_refuses_client(&self, stranger: &Shown, alert: AlertDescription, case: &str) {
        let met = self.called_by(stranger).await;
        assert!(met.server.fault.is_some(), "{case}: let in as a client: {met:?}");
        assert_eq!(met.client.alert(), Some(alert), "{case}: {met:?}");
        met.assert_silent();
    }

    /// The same, where a stranger is called.
    pub async fn assert_refuses_server(&self, stranger: &Shown, expected: &str, alert: AlertDescription, case: &str) {
        let met = self.calls(stranger, expected).await;
        assert!(met.client.fault.is_some(), "{case}: trusted as a server: {met:?}");
        assert_eq!(met.server.alert(), Some(alert), "{case}: {met:?}");
        met.assert_silent();
    }

    /// Whatever came before: a good peer gets through, both ways.
    pub async fn assert_still_good(&self) {
        let good = self.root.issue(&Leaf::of(WEB));
        self.called_by(&good).await.assert_good();
        self.calls(&good, WEB).await.assert_good();
    }
}

/// A client that shows this and takes everybody.
pub fn client_showing(shown: &Shown, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = open_client().with_client_cert_resolver(Arc::new(Always(shown.certified())));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// A client that shows nothing and takes everybody.
pub fn client_showing_nothing(alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = open_client().with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn open_client() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Everybody))
}

/// A server that shows this and asks for no certificate.
pub fn server_showing(shown: &Shown, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(shown.certified())));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Everybody;

impl ServerCertVerifier for Everybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
