//! Full handshakes of mutual TLS 1.3. Floor 0.

use std::{
    cell::RefCell,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::{
    h1::in_time,
    report::{Counts, Report},
};

/// How long a server has to refuse a client whose certificate it does not take.
const REFUSAL: Duration = Duration::from_millis(200);

/// How the key of a connection is agreed on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Agreement {
    /// An elliptic curve.
    X25519,
    /// The same together with ML-KEM-768.
    Mlkem,
}

/// A client that takes every server: it measures, it does not trust.
pub fn config(chain: &Path, key: &Path, alpn: Option<&str>, agreement: Agreement) -> anyhow::Result<Arc<ClientConfig>> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let group = match agreement {
        Agreement::X25519 => aws_lc_rs::kx_group::X25519,
        Agreement::Mlkem => aws_lc_rs::kx_group::X25519MLKEM768,
    };
    let provider = Arc::new(CryptoProvider { kx_groups: vec![group], ..aws_lc_rs::default_provider() });
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols.extend(alpn.map(|name| name.as_bytes().to_vec()));
    Ok(Arc::new(config))
}

/// Connects, shakes hands, closes; again and again.
pub async fn run(
    to: SocketAddr,
    config: Arc<ClientConfig>,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Report> {
    let counts = Rc::new(RefCell::new(Counts::new()?));
    let end = Instant::now() + time;
    let mut loops = JoinSet::new();
    in_time(shake(to, &config, true)).await.context("the first handshake")?;
    for _ in 0..connections {
        let (counts, config) = (Rc::clone(&counts), Arc::clone(&config));
        loops.spawn_local(async move {
            while Instant::now() < end {
                let began = Instant::now();
                match in_time(shake(to, &config, false)).await {
                    Ok(()) => counts.borrow_mut().good(began.elapsed(), 0),
                    Err(error) => {
                        counts.borrow_mut().bad(&format_args!("{error:#}"));
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        });
    }
    while loops.join_next().await.is_some() {}
    let counts = Rc::into_inner(counts).context("a loop still counts")?;
    Ok(counts.into_inner().report())
}

async fn shake(to: SocketAddr, config: &Arc<ClientConfig>, look: bool) -> anyhow::Result<()> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    // Closed without the wait for what is on its way: ports are few.
    nix::sys::socket::setsockopt(
        &stream,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )?;
    let mut tls = TlsConnector::from(Arc::clone(config)).connect(ServerName::IpAddress(to.ip().into()), stream).await?;
    // The server has done its part, the client's certificate included, when it speaks: tickets, or its protocol's opening.
    ensure!(tls.get_ref().0.peek(&mut [0]).await? > 0, "the server closes after the handshake");
    if look {
        // Or a refusal: then it closes.
        let read = tokio::time::timeout(REFUSAL, tls.read(&mut [0; 64])).await;
        ensure!(!matches!(read, Ok(Ok(0) | Err(_))), "the server refuses the client: {read:?}");
    }
    Ok(())
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
