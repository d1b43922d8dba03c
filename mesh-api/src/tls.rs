//! Mutual TLS 1.3 between members: who the peer is, by the SPIFFE rules, decided once in the handshake. Floor 2:
//! imports `names`, `spiffe`, `sys` and `proto`.
//!
//! [`Keeper`] holds the current [`Credentials`] (own certificate and trusted roots). The configurations made here look
//! into it at every handshake, so a rotation takes effect for the next connection and closes none. Sessions are never
//! resumed: a root that left the bundle, or a certificate that ran out, must not live on in a ticket.

mod credentials;
mod verify;

pub use credentials::{BadCredentials, Credentials, Identity, Keeper, TrustBundle};
pub use verify::{PeerRefused, Usage, verify_peer};

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::CertifiedKey,
};

use crate::{spiffe::SpiffeId, sys::Clock};

/// The crypto library, with X25519MLKEM768 first, TLS 1.3 suites only, AES-128-GCM first: it is the cheapest where the
/// processor has AES.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    let made = PROVIDER.get_or_init(|| {
        use rustls::crypto::aws_lc_rs::cipher_suite::{
            TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
        };
        Arc::new(CryptoProvider {
            cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
            ..rustls::crypto::aws_lc_rs::default_provider()
        })
    });
    Arc::clone(made)
}

/// Whether a server asks its clients for certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No client without one gets in.
    Required,
    /// The client is authenticated by other means, above TLS.
    None,
}

/// A server that shows the keeper's current certificate, and offers `alpn` in order of preference. A client that offers
/// none of them is refused, [`require_alpn`] covers the one that offers nothing at all.
///
/// # Errors
/// Where the crypto library does not support TLS 1.3.
pub fn server_config(
    keeper: &Arc<Keeper>,
    clock: Clock,
    auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(SeamTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let verifier = Verifier {
        keeper: Arc::clone(keeper),
        expected: None,
        algorithms: provider().signature_verification_algorithms,
    };
    let builder = match auth {
        ClientAuth::Required => builder.with_client_cert_verifier(Arc::new(verifier)),
        ClientAuth::None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(CurrentCertificate(Arc::clone(keeper))));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// A client that shows the keeper's current certificate, where it has one, and takes nobody but `expected`.
///
/// # Errors
/// Where the crypto library does not support TLS 1.3.
pub fn client_config(
    keeper: &Arc<Keeper>,
    clock: Clock,
    expected: SpiffeId,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let algorithms = provider().signature_verification_algorithms;
    let verifier = Verifier { keeper: Arc::clone(keeper), expected: Some(expected), algorithms };
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(SeamTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(CurrentCertificate(Arc::clone(keeper))));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    // Peers are named by identity, not by host name.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The name that rustls wants for a connection; it is neither sent nor checked.
#[must_use]
pub fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// The ALPN that was agreed on.
///
/// # Errors
/// Where the peer offered none: it is not one of ours, whatever its certificate says.
pub fn require_alpn(connection: &rustls::CommonState) -> Result<&[u8], PeerRefused> {
    connection.alpn_protocol().ok_or(PeerRefused::NoAlpn)
}

/// Identity of the verified peer of a finished handshake.
///
/// # Errors
/// Where there is no certificate, or (which the handshake made impossible) no single identity in it.
pub fn peer_identity(connection: &rustls::CommonState) -> Result<SpiffeId, PeerRefused> {
    let chain = connection.peer_certificates().unwrap_or_default();
    verify::identity_of(chain.first().ok_or(PeerRefused::NoCertificate)?)
}

#[derive(Debug)]
struct SeamTime(Clock);

impl rustls::time_provider::TimeProvider for SeamTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.unix()))
    }
}

#[derive(Debug)]
struct CurrentCertificate(Arc<Keeper>);

impl CurrentCertificate {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.current().identity.as_ref()?.certified_key()))
    }
}

impl rustls::server::ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl rustls::client::ResolvesClientCert for CurrentCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.0.current().identity.is_some()
    }
}

/// Verifies either side; with `expected`, only that identity.
struct Verifier {
    keeper: Arc<Keeper>,
    expected: Option<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let credentials = self.keeper.current();
        let found = verify_peer(&credentials.trust, leaf, intermediates, usage, now).map_err(alert)?;
        match &self.expected {
            Some(expected) if *expected != found => {
                Err(alert(PeerRefused::WrongIdentity { expected: expected.clone(), found }))
            }
            _ => Ok(()),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// What the peer is told, and what the connection's error says on this side.
fn alert(refused: PeerRefused) -> Error {
    Error::InvalidCertificate(match refused {
        PeerRefused::Expired => CertificateError::Expired,
        PeerRefused::NotYetValid => CertificateError::NotValidYet,
        PeerRefused::UnknownIssuer => CertificateError::UnknownIssuer,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    })
}

const NO_TLS12: Error = Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, Usage::Server, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, Usage::Client, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
