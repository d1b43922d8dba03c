//! Certificates of every shape: right ones, and ones that no authority should sign.
//!
//! Extensions are written as raw DER through `rcgen`'s custom extensions, so that each can be wrong on its own;
//! [`Authority::resign`] replaces bytes of a finished certificate and signs it again, for what `rcgen` does not write.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_api::tls::{Identity, TrustBundle, provider};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension, DistinguishedName, DnType,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SigningKey as _, date_time_ymd,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SigningKey},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The trust domain of the tests.
pub const DOMAIN: &str = "td";
/// The identity that most certificates claim.
pub const WEB: &str = "spiffe://td/ns/shop/sa/web";

/// Bits of a key usage (RFC 5280 section 4.2.1.3).
pub mod usage {
    pub const DIGITAL_SIGNATURE: u8 = 0x80;
    pub const KEY_ENCIPHERMENT: u8 = 0x20;
    pub const KEY_CERT_SIGN: u8 = 0x04;
    pub const CRL_SIGN: u8 = 0x02;
}

/// Purposes of an extended key usage, as DER object identifiers.
pub mod purpose {
    pub const SERVER: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];
    pub const CLIENT: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];
    pub const ANY: &[u8] = &[0x06, 4, 0x55, 0x1d, 0x25, 0];
}

/// A name in a certificate, byte for byte.
#[derive(Clone, Debug)]
pub enum Name {
    Uri(Vec<u8>),
    Dns(Vec<u8>),
}

/// What a leaf says. [`Leaf::of`] is right in everything.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub names: Vec<Name>,
    /// Whether it is critical, and its bits.
    pub usage: Option<(bool, u8)>,
    pub purposes: Vec<&'static [u8]>,
    /// Seconds from now.
    pub from: i64,
    /// Seconds from now.
    pub until: i64,
    pub ca: IsCa,
    pub more: Vec<CustomExtension>,
}

impl Leaf {
    /// A right one.
    pub fn of(id: impl AsRef<[u8]>) -> Self {
        Self {
            names: vec![Name::Uri(id.as_ref().to_vec())],
            usage: Some((true, usage::DIGITAL_SIGNATURE)),
            purposes: vec![purpose::SERVER, purpose::CLIENT],
            from: -60,
            until: 3600,
            ca: IsCa::NoCa,
            more: Vec::new(),
        }
    }

    /// A right one for [`WEB`], and then changed.
    pub fn web(change: impl FnOnce(&mut Self)) -> Self {
        let mut leaf = Self::of(WEB);
        change(&mut leaf);
        leaf
    }

    fn params(&self) -> CertificateParams {
        let mut params = params("leaf");
        set_validity(&mut params, self.from, self.until);
        params.is_ca = self.ca;
        if !self.names.is_empty() {
            params.custom_extensions.push(alternative_names(&self.names));
        }
        if let Some((critical, bits)) = self.usage {
            params.custom_extensions.push(key_usage(critical, bits));
        }
        if !self.purposes.is_empty() {
            params.custom_extensions.push(purposes(&self.purposes));
        }
        params.custom_extensions.extend(self.more.iter().cloned());
        params
    }
}

/// What a peer shows: a chain, leaf first, and something that signs.
#[derive(Clone, Debug)]
pub struct Shown {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Arc<dyn SigningKey>,
    pkcs8: Vec<u8>,
}

impl Shown {
    fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let pkcs8 = key.serialize_der();
        Self { chain, key: loaded(&pkcs8), pkcs8 }
    }

    /// From a certificate and its private key, both DER.
    pub fn from_der(chain: Vec<CertificateDer<'static>>, pkcs8: &[u8]) -> Self {
        Self { chain, key: loaded(pkcs8), pkcs8: pkcs8.to_vec() }
    }

    /// As rustls wants it; nothing is compared.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(self.chain.clone(), Arc::clone(&self.key)))
    }

    /// As the mesh wants it.
    pub fn identity(&self) -> Identity {
        Identity::new(self.chain.clone(), PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.pkcs8.clone()))).unwrap()
    }

    /// With more certificates at the chain's end.
    pub fn followed_by(mut self, more: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        self.chain.extend(more);
        self
    }
}

fn loaded(pkcs8: &[u8]) -> Arc<dyn SigningKey> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    provider().key_provider.load_private_key(key).unwrap()
}

/// Somebody who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
    /// Certificates between this one and the root, nearest first, this one included; empty for a root.
    path: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// A root that is called `name`.
    pub fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    /// A root with something changed.
    pub fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = authority_params(name, change);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), der, pem, path: Vec::new() }
    }

    /// An intermediate under this one, with something changed.
    pub fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = authority_params(name, change);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        let path = [vec![der.clone()], self.path.clone()].concat();
        Self { issuer: Issuer::new(params, key), der, pem, path }
    }

    /// A leaf, with the certificates between it and the root behind it.
    pub fn issue(&self, leaf: &Leaf) -> Shown {
        let key = KeyPair::generate().unwrap();
        let der = leaf.params().signed_by(&key, &self.issuer).unwrap().der().clone();
        Shown::new([vec![der], self.path.clone()].concat(), &key)
    }

    /// A chain for the key of a signing request.
    pub fn certify(&self, leaf: &Leaf, request: &[u8]) -> Vec<Vec<u8>> {
        let request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let der = leaf.params().signed_by(&request.public_key, &self.issuer).unwrap().der().to_vec();
        std::iter::once(der).chain(self.path.iter().map(|der| der.to_vec())).collect()
    }

    /// `shown` with a leaf in which `old` became `new` (of any length, inside the first level of the signed part) and
    /// which this authority signed again.
    pub fn resign(&self, mut shown: Shown, old: &[u8], new: &[u8]) -> Shown {
        let leaf = shown.chain[0].to_vec();
        let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
        let signed = parsed.tbs_certificate.as_ref();
        let algorithm = der(0x30, &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        let content = &signed[header_of(signed)..];
        let position = content.windows(old.len()).position(|window| window == old).unwrap();
        let changed = [&content[..position], new, &content[position + old.len()..]].concat();
        let signed = der(0x30, &changed);
        let signature = self.issuer.key().sign(&signed).unwrap();
        let signature = der(0x03, &[&[0], signature.as_slice()].concat());
        shown.chain[0] = CertificateDer::from(der(0x30, &[signed, algorithm, signature].concat()));
        shown
    }

    /// The own certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Shows the authority's own certificate, as if it were a leaf.
    pub fn shown(&self) -> Shown {
        Shown::new([vec![self.der.clone()], self.path.clone()].concat(), self.issuer.key())
    }

    /// The own certificate, as text.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A bundle that trusts this root for `domain`.
    pub fn bundle(&self, domain: &str) -> TrustBundle {
        TrustBundle::new(domain.parse().unwrap(), vec![self.der.clone()]).unwrap()
    }
}

/// A leaf that signed itself.
pub fn self_signed(leaf: &Leaf) -> Shown {
    let key = KeyPair::generate().unwrap();
    Shown::new(vec![leaf.params().self_signed(&key).unwrap().der().clone()], &key)
}

/// A leaf that `signer`, itself a leaf, signed.
pub fn signed_by_leaf(leaf: &Leaf, signer: &Shown) -> Shown {
    let issuer = Issuer::new(params("leaf"), KeyPair::try_from(signer.pkcs8.as_slice()).unwrap());
    let key = KeyPair::generate().unwrap();
    let der = leaf.params().signed_by(&key, &issuer).unwrap().der().clone();
    Shown::new([vec![der], signer.chain.clone()].concat(), &key)
}

/// Validity, in seconds from now.
pub fn set_validity(params: &mut CertificateParams, from: i64, until: i64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let at = |seconds: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_add_signed(seconds));
    (params.not_before, params.not_after) = (at(from), at(until));
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = params(name);
    set_validity(&mut params, -3600, 24 * 3600);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    params
}

/// A subject alternative name extension.
pub fn alternative_names(names: &[Name]) -> CustomExtension {
    let encoded: Vec<u8> = names
        .iter()
        .flat_map(|name| match name {
            Name::Uri(bytes) => der(0x86, bytes),
            Name::Dns(bytes) => der(0x82, bytes),
        })
        .collect();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], der(0x30, &encoded))
}

/// A key usage extension.
pub fn key_usage(critical: bool, bits: u8) -> CustomExtension {
    let unused = bits.trailing_zeros().min(7) as u8;
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 15], der(0x03, &[unused, bits]));
    extension.set_criticality(critical);
    extension
}

/// An extended key usage extension.
pub fn purposes(purposes: &[&[u8]]) -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, 37], der(0x30, &purposes.concat()))
}

/// A DER element: tag, length, content.
pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        0x100..=0xffff => out.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => out.extend([0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

fn header_of(element: &[u8]) -> usize {
    2 + if element[1] & 0x80 == 0 { 0 } else { usize::from(element[1] & 0x7f) }
}
