//! The certificates of all chains: one root, one issuer, ECDSA on P-256, as the mesh's own authority makes them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use mesh_api::tls::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::time::ASN1Time;

/// How long a leaf is valid, in seconds: the mesh takes none that is valid for long.
const DAY: i64 = 24 * 3600;

/// Trust domain of the comparison.
pub const DOMAIN: &str = "bench.mesh";

/// Name of the issuer.
const ISSUER: &str = "bench issuer";

/// A folder of certificates.
#[derive(Clone, Debug)]
pub struct Certs {
    /// Where they are.
    pub dir: PathBuf,
}

impl Certs {
    /// Makes root, issuer, and the certificates of client and server.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn make(dir: &Path) -> Result<Self> {
        let (root_key, issuer_key) = (KeyPair::generate()?, KeyPair::generate()?);
        let root_params = authority("bench root", 1)?;
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::from_params(&root_params, &root_key);
        let issuer_params = authority(ISSUER, 0)?;
        let issuer_certificate = issuer_params.signed_by(&issuer_key, &root_issuer)?;
        let issuer = Issuer::from_params(&issuer_params, &issuer_key);
        let certs = Self { dir: dir.to_owned() };
        certs.write("roots.pem", &root.pem())?;
        certs.write("issuer.crt", &issuer_certificate.pem())?;
        certs.write("issuer.key", &issuer_key.serialize_pem())?;
        fs::set_permissions(certs.path("issuer.key"), fs::Permissions::from_mode(0o600))?;
        for name in ["client", "server"] {
            let key = KeyPair::generate()?;
            let chain = leaf("bench", name, true)?.signed_by(&key, &issuer)?.pem() + &issuer_certificate.pem();
            certs.write(&format!("{name}.crt"), &chain)?;
            certs.write(&format!("{name}.key"), &key.serialize_pem())?;
            certs.write(&format!("{name}.pem"), &(chain + &key.serialize_pem()))?;
        }
        // A member's certificate has its identity as its only name.
        let key = KeyPair::generate()?;
        let chain = leaf("bench", "client", false)?.signed_by(&key, &issuer)?.pem() + &issuer_certificate.pem();
        certs.write("member.crt", &chain)?;
        certs.write("member.key", &key.serialize_pem())?;
        Ok(certs)
    }

    /// A file among them.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text).with_context(|| format!("cannot write {}", self.path(name).display()))
    }
}

/// Makes certificates of members by the hundred, as the authority would, without asking it.
#[derive(Debug)]
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
}

impl Signer {
    /// With the issuer of a folder of certificates.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn open(certs: &Certs) -> Result<Self> {
        let key = KeyPair::from_pem(&fs::read_to_string(certs.path("issuer.key"))?)?;
        // Made from the same parameters, so that names and key identifiers are the same.
        let issuer = Issuer::new(authority(ISSUER, 0)?, key);
        let chain = CertificateDer::pem_file_iter(certs.path("issuer.crt"))?.collect::<Result<_, _>>()?;
        Ok(Self { issuer, chain })
    }

    /// What a member of this service account proves itself with.
    ///
    /// # Errors
    /// Where the crypto library fails.
    pub fn member(&self, namespace: &str, account: &str) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut chain = vec![leaf(namespace, account, false)?.signed_by(&key, &self.issuer)?.der().clone()];
        chain.extend(self.chain.iter().cloned());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Identity::new(chain, key)?)
    }
}

fn authority(name: &str, depth: u8) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{DOMAIN}").try_into()?)];
    Ok(params)
}

fn leaf(namespace: &str, name: &str, named: bool) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    params.not_before = ASN1Time::from_timestamp(now - 60)?.to_datetime();
    params.not_after = ASN1Time::from_timestamp(now + DAY)?.to_datetime();
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{DOMAIN}/ns/{namespace}/sa/{name}").try_into()?)];
    if named {
        params.subject_alt_names.push(SanType::DnsName(format!("{name}.bench").try_into()?));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
