//! What a sidecar shows of itself in a handshake: the chain of certificates that it serves right now. Floor 1.
//!
//! The probe offers the mesh's ALPN and has no certificate. In TLS 1.3 the server's chain comes before it learns
//! that, so that the chain is seen although the server then refuses.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use mesh_api::names;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A chain as a server shows it, leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Serial number of the leaf.
    pub serial: String,
    /// The leaf's URI names.
    pub uris: Vec<String>,
    /// Which key signed the leaf: its authority key id, or the issuer's name where it has none.
    pub issuer: String,
    /// Which key signed the last certificate that is shown: the root's, where the root itself is not shown.
    pub root: String,
}

/// The chain that `address` serves to members of the mesh.
///
/// # Errors
/// Where nobody answers there with TLS 1.3, or the certificates cannot be read.
pub fn chain(address: SocketAddr) -> Result<Chain> {
    let shown = handshake(address).with_context(|| format!("TLS with {address}"))?;
    let parse = |der: &CertificateDer<'_>| -> Result<Names> { names_of(der) };
    let leaf = parse(shown.first().context("an empty chain")?)?;
    let last = parse(shown.last().context("an empty chain")?)?;
    Ok(Chain { serial: leaf.serial, uris: leaf.uris, issuer: leaf.issuer, root: last.issuer })
}

struct Names {
    serial: String,
    uris: Vec<String>,
    issuer: String,
}

fn names_of(der: &CertificateDer<'_>) -> Result<Names> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| anyhow!("a bad certificate: {error}"))?;
    let mut names = Names {
        serial: certificate.raw_serial_as_string(),
        uris: Vec::new(),
        issuer: certificate.issuer().to_string(),
    };
    let own = certificate.subject() == certificate.issuer();
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => {
                names.uris.extend(san.general_names.iter().filter_map(|name| match name {
                    GeneralName::URI(uri) => Some((*uri).to_owned()),
                    _ => None,
                }));
            }
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                if let Some(key) = &id.key_identifier {
                    names.issuer = hex(key.0);
                }
            }
            // A root that is shown too need not name the key that signed it: its own.
            ParsedExtension::SubjectKeyIdentifier(id) if own => names.issuer = hex(id.0),
            _ => {}
        }
    }
    Ok(names)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn handshake(address: SocketAddr) -> Result<Vec<CertificateDer<'static>>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![names::ALPN_MESH_HTTP.to_vec()];
    // A probe that resumed a session would be shown no chain.
    config.resumption = rustls::client::Resumption::disabled();
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::IpAddress(address.ip().into()))?;
    let mut stream = TcpStream::connect_timeout(&address, HANDSHAKE)?;
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.set_write_timeout(Some(HANDSHAKE))?;
    while tls.is_handshaking() {
        let done = tls.complete_io(&mut stream);
        if tls.peer_certificates().is_some() {
            break;
        }
        done?;
    }
    let shown = tls.peer_certificates().context("no certificate was shown")?;
    let shown = shown.iter().map(|der| der.clone().into_owned()).collect();
    tls.send_close_notify();
    // The server may have gone already: it has been seen.
    let _ = tls.write_tls(&mut stream).and_then(|_| stream.flush()).and_then(|()| stream.read(&mut [0]));
    Ok(shown)
}

/// Takes every certificate: the probe looks, it does not trust.
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
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use rustls::{RootCertStore, ServerConfig, ServerConnection, server::WebPkiClientVerifier};

    use super::*;

    /// A server that demands a certificate of its callers, and the chain that it shows.
    fn server() -> (ServerConfig, Vec<CertificateDer<'static>>) {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let (root_key, middle_key, leaf_key) =
            (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root_params = authority("root");
        let root_certificate = root_params.self_signed(&root_key).unwrap();
        let root = Issuer::new(root_params, root_key);
        let middle_params = authority("middle");
        let middle_certificate = middle_params.signed_by(&middle_key, &root).unwrap();
        let middle = Issuer::new(middle_params, middle_key);
        let mut leaf = CertificateParams::new(Vec::new()).unwrap();
        leaf.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/shop/sa/web".try_into().unwrap()));
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&leaf_key, &middle).unwrap();
        let chain = vec![leaf.der().clone(), middle_certificate.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(root_certificate.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let callers =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(callers)
            .with_single_cert(chain.clone(), key)
            .unwrap();
        config.alpn_protocols = vec![names::ALPN_MESH_HTTP.to_vec()];
        (config, chain)
    }

    #[test]
    fn a_chain_is_seen_by_a_caller_without_a_certificate() {
        let (config, _) = server();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = thread::spawn(move || {
            let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(HANDSHAKE)).unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut stream)?;
            }
            std::io::Result::Ok(())
        });
        let seen = chain(address).unwrap();
        assert_eq!(seen.uris, ["spiffe://cluster.local/ns/shop/sa/web"]);
        assert!(seen.root.contains("root"), "{seen:?}");
        // The key id, in hex.
        assert!(!seen.issuer.contains("middle") && seen.issuer.len() >= 40, "{seen:?}");
        assert!(serving.join().unwrap().is_err(), "the probe was let in");
    }
}
