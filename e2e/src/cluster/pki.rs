//! Keys, certificates and kubeconfigs of a cluster, made anew with each. Part of `cluster`.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::plan::{Node, Plan};

/// Makes everything that the control plane needs: `PKI/*.crt`, `PKI/*.key` and kubeconfigs in each node's folder, and the
/// administrator's kubeconfig.
///
/// # Errors
/// Where a key cannot be made or a file not be written.
pub fn make(plan: &Plan) -> Result<()> {
    let pki = plan.pki();
    fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
    fs::set_permissions(&pki, fs::Permissions::from_mode(0o700))?;
    let cluster = Authority::new("kubernetes-ca")?;
    let front = Authority::new("front-proxy-ca")?;
    write(&pki.join("ca.crt"), &cluster.certificate())?;
    write(&pki.join("ca.key"), &cluster.key())?;
    write(&pki.join("front-proxy-ca.crt"), &front.certificate())?;

    let tokens = KeyPair::generate()?;
    write(&pki.join("service-accounts.key"), &tokens.serialize_pem())?;
    write(&pki.join("service-accounts.pub"), &tokens.public_key_pem())?;

    let (names, addresses) = plan.api_names();
    cluster.server("kube-apiserver", &[], &names, &addresses)?.write(&pki, "apiserver")?;
    cluster.client("kube-apiserver-kubelet-client", &["system:masters"])?.write(&pki, "apiserver-kubelet")?;
    front.client("front-proxy-client", &[])?.write(&pki, "front-proxy-client")?;

    let write_kubeconfig = |path: &Path, user: &str, groups: &[&str]| -> Result<()> {
        let leaf = cluster.client(user, groups)?;
        write(path, &kubeconfig(&plan.name, &plan.api(), &cluster.certificate(), &leaf))
    };
    write_kubeconfig(&plan.kubeconfig(), "admin", &["system:masters"])?;
    for user in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        write_kubeconfig(&pki.join(format!("{user}.kubeconfig")), &format!("system:{user}"), &[])?;
    }
    for node in &plan.nodes {
        let user = format!("system:node:{}", node.name);
        write_kubeconfig(&pki.join(format!("{}.kubeconfig", node.name)), &user, &["system:nodes"])?;
        kubelet_server(&cluster, node)?.write(&pki, &format!("{}-server", node.name))?;
    }
    hand_over(&pki, plan.user())
}

/// Gives a folder and its files to the control plane's user.
fn hand_over(dir: &Path, user: u32) -> Result<()> {
    let files = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    for path in files.iter().map(fs::DirEntry::path).chain([dir.to_owned()]) {
        chown(&path, Some(user), Some(user)).with_context(|| format!("cannot give {} away", path.display()))?;
    }
    Ok(())
}

fn kubelet_server(cluster: &Authority, node: &Node) -> Result<Leaf> {
    let addresses = [IpAddr::from(node.v4), node.v6.into()];
    cluster.server(
        &format!("system:node:{}", node.name),
        &["system:nodes"],
        std::slice::from_ref(&node.name),
        &addresses,
    )
}

/// A pair of key and certificate, as PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// A server's certificate that nobody else has signed.
///
/// # Errors
/// Where the name is none.
pub fn self_signed(name: &str) -> Result<Leaf> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    Ok(Leaf { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
}

impl Leaf {
    fn write(&self, dir: &Path, name: &str) -> Result<()> {
        write(&dir.join(format!("{name}.crt")), &self.certificate)?;
        write(&dir.join(format!("{name}.key")), &self.key)
    }
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    fn certificate(&self) -> String {
        self.issuer.pem()
    }

    fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    fn client(&self, name: &str, groups: &[&str]) -> Result<Leaf> {
        self.leaf(name, groups, ExtendedKeyUsagePurpose::ClientAuth, Vec::new())
    }

    fn server(&self, name: &str, groups: &[&str], names: &[String], addresses: &[IpAddr]) -> Result<Leaf> {
        let mut sans = addresses.iter().map(|address| SanType::IpAddress(*address)).collect::<Vec<_>>();
        for name in names {
            sans.push(SanType::DnsName(name.as_str().try_into()?));
        }
        self.leaf(name, groups, ExtendedKeyUsagePurpose::ServerAuth, sans)
    }

    fn leaf(&self, name: &str, groups: &[&str], purpose: ExtendedKeyUsagePurpose, sans: Vec<SanType>) -> Result<Leaf> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, groups);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.subject_alt_names = sans;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn subject(name: &str, groups: &[&str]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    for group in groups {
        subject.push(DnType::OrganizationName, *group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

/// A kubeconfig that needs no other file.
fn kubeconfig(cluster: &str, server: &str, ca: &str, leaf: &Leaf) -> String {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": cluster, "cluster": { "server": server, "certificate-authority-data": base64(ca) } }],
        "users": [{
            "name": cluster,
            "user": { "client-certificate-data": base64(&leaf.certificate), "client-key-data": base64(&leaf.key) },
        }],
        "contexts": [{ "name": cluster, "context": { "cluster": cluster, "user": cluster } }],
        "current-context": cluster,
    });
    format!("{config:#}\n")
}

/// Base 64 with padding (RFC 4648, section 4).
#[must_use]
pub fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(text.len().div_ceil(3) * 4);
    for chunk in text.as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = ALPHABET.get((bits >> (18 - 6 * place)) as usize & 63).copied().unwrap_or(b'A');
            out.push(if place <= chunk.len() { digit.into() } else { '=' });
        }
    }
    out
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    // Some of them are keys; none is for others.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        let table =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (text, expected) in table {
            assert_eq!(base64(text), expected);
        }
    }

    #[test]
    fn certificates_name_their_users() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new("test", 1, 2, dir.path()).unwrap();
        make(&plan).unwrap();
        let pem = fs::read(plan.pki().join("node-2-server.crt")).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let leaf = pem.parse_x509().unwrap();
        assert_eq!(leaf.subject().to_string(), "O=system:nodes, CN=system:node:node-2");
        let ca = fs::read(plan.pki().join("ca.crt")).unwrap();
        let (_, ca) = x509_parser::pem::parse_x509_pem(&ca).unwrap();
        leaf.verify_signature(Some(ca.parse_x509().unwrap().public_key())).unwrap();
        assert!(fs::read_to_string(plan.kubeconfig()).unwrap().contains("https://10.99.1.1:6443"));
    }
}
