//! The certificates of all chains: one root, one issuer, ECDSA on P-256, as the mesh's own authority makes them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use x509_parser::time::ASN1Time;

/// How long a leaf is valid, in seconds: the mesh takes none that is valid for long.
const DAY: i64 = 24 * 3600;

/// Trust domain of the comparison.
pub const DOMAIN: &str = "bench.mesh";

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
        let issuer_params = authority("bench issuer", 0)?;
        let issuer_certificate = issuer_params.signed_by(&issuer_key, &root_issuer)?;
        let issuer = Issuer::from_params(&issuer_params, &issuer_key);
        let certs = Self { dir: dir.to_owned() };
        certs.write("roots.pem", &root.pem())?;
        certs.write("issuer.crt", &issuer_certificate.pem())?;
        certs.write("issuer.key", &issuer_key.serialize_pem())?;
        fs::set_permissions(certs.path("issuer.key"), fs::Permissions::from_mode(0o600))?;
        for name in ["client", "server"] {
            let key = KeyPair::generate()?;
            let chain = leaf(name, true)?.signed_by(&key, &issuer)?.pem() + &issuer_certificate.pem();
            certs.write(&format!("{name}.crt"), &chain)?;
            certs.write(&format!("{name}.key"), &key.serialize_pem())?;
            certs.write(&format!("{name}.pem"), &(chain + &key.serialize_pem()))?;
        }
        // A member's certificate has its identity as its only name.
        let key = KeyPair::generate()?;
        let chain = leaf("client", false)?.signed_by(&key, &issuer)?.pem() + &issuer_certificate.pem();
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

fn authority(name: &str, depth: u8) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{DOMAIN}").try_into()?)];
    Ok(params)
}

fn leaf(name: &str, named: bool) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    params.not_before = ASN1Time::from_timestamp(now - 60)?.to_datetime();
    params.not_after = ASN1Time::from_timestamp(now + DAY)?.to_datetime();
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{DOMAIN}/ns/bench/sa/{name}").try_into()?)];
    if named {
        params.subject_alt_names.push(SanType::DnsName(format!("{name}.bench").try_into()?));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
