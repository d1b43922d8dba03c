//! An issuer and roots that somebody else makes (an organisation's own authority, a certificate manager) and replaces.
//!
//! The files are read again and again: whoever replaces them need not tell. What is good takes effect as a whole; what
//! is bad (half written, another's key, expired) is reported once and changes nothing.

use std::{path::PathBuf, sync::Arc};

use mesh_api::spiffe::TrustDomain;
use serde::{Deserialize, Serialize};

use super::{Issuing, Line, Report};
use crate::{
    files::{self, FileError, Readers, Secret},
    pki::{self, AuthorityCert, PkiError, PrivateKey, SigningAuthority},
    time::Time,
};

/// Where the files are; none is secret but the key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuppliedFiles {
    /// Roots to trust, PEM.
    pub roots_file: PathBuf,
    /// The issuer first, then the certificates between it and a root, PEM.
    pub chain_file: PathBuf,
    /// The issuer's key, PEM, mode 0640 or less.
    pub key_file: PathBuf,
}

/// Why the files cannot be used. The operator's to mend; what signed before still does.
#[derive(Debug, thiserror::Error)]
pub enum SuppliedError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What a file holds.
    #[error("{}: {error}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: PkiError,
    },
}

/// Files that somebody else replaces.
#[derive(Debug)]
pub struct Supplied {
    files: SuppliedFiles,
    domain: TrustDomain,
    /// Where the roots are put for members, if anywhere.
    publish: Option<PathBuf>,
    /// Digest of what is in force.
    in_force: Vec<u8>,
    /// The last complaint: the same one is made once.
    complaint: String,
}

/// What the files held at one moment.
struct Contents {
    roots: Vec<u8>,
    chain: Vec<u8>,
    key: Secret,
}

impl Supplied {
    /// Files of this trust domain; they are read by [`Supplied::load`]. The roots are put into `publish` for members,
    /// unless these get them in another way.
    #[must_use]
    pub fn new(files: SuppliedFiles, domain: TrustDomain, publish: impl Into<Option<PathBuf>>) -> Self {
        Self { files, domain, publish: publish.into(), in_force: Vec::new(), complaint: String::new() }
    }

    /// What the files hold now.
    ///
    /// # Errors
    /// [`SuppliedError`].
    pub fn load(&mut self, now: Time) -> Result<Issuing, SuppliedError> {
        let contents = self.read()?;
        let issuing = self.build(&contents, now)?;
        self.in_force = contents.digest();
        self.complaint.clear();
        if let Some(publish) = &self.publish
            && let Err(error) = files::write_public(publish, issuing.trust_pem().as_bytes())
        {
            tracing::warn!(%error, "members that come for the first time may not find the roots");
        }
        Ok(issuing)
    }

    /// What the files hold now; `None` where that is in force already, or was complained about before.
    ///
    /// # Errors
    /// [`SuppliedError`]; what is in force stays so.
    pub fn reload(&mut self, now: Time) -> Result<Option<Issuing>, SuppliedError> {
        if self.read().is_ok_and(|contents| contents.digest() == self.in_force) {
            self.complaint.clear();
            return Ok(None);
        }
        // What was bad is tried again: it may not have been valid yet.
        match self.load(now) {
            Ok(issuing) => Ok(Some(issuing)),
            Err(error) if error.to_string() == self.complaint => Ok(None),
            Err(error) => {
                self.complaint = error.to_string();
                Err(error)
            }
        }
    }

    fn read(&self) -> Result<Contents, FileError> {
        let roots = files::read(&self.files.roots_file)?;
        let chain = files::read(&self.files.chain_file)?;
        let key = files::read_secret(&self.files.key_file, Readers::Group)?;
        Ok(Contents { roots, chain, key })
    }

    fn build(&self, contents: &Contents, now: Time) -> Result<Issuing, SuppliedError> {
        let wrong = |path: &PathBuf| {
            let path = path.clone();
            move |error| SuppliedError::Content { path, error }
        };
        let (in_roots, in_chain) = (&self.files.roots_file, &self.files.chain_file);
        let roots = authorities(&contents.roots).map_err(wrong(in_roots))?;
        let chain = authorities(&contents.chain).map_err(wrong(in_chain))?;
        let key = PrivateKey::from_pem(contents.key.expose()).map_err(wrong(&self.files.key_file))?;
        let issuer = chain.first().cloned().ok_or(PkiError::NoPem("certificate")).map_err(wrong(in_chain))?;
        let top = check_chain(&chain, &roots, now).map_err(wrong(in_chain))?;
        let signer = Arc::new(SigningAuthority::new(issuer, key).map_err(wrong(&self.files.key_file))?);
        let report = Report {
            source: "supplied",
            phase: "steady",
            next_step: None,
            issuer: Line::of(signer.cert(), None, true),
            roots: roots.iter().map(|root| Line::of(root, None, root.fingerprint() == top)).collect(),
        };
        // A chain file may end with its root; members have it, and it is not sent.
        let is_root = |cert: &AuthorityCert| roots.iter().any(|root| root.fingerprint() == cert.fingerprint());
        let chain = chain.iter().filter(|cert| !is_root(cert)).map(|cert| cert.der().clone()).collect();
        let issuing = Issuing { domain: self.domain.clone(), signer, chain, roots, report };
        issuing.checked(now).map_err(wrong(in_chain))
    }
}

fn authorities(pem: &[u8]) -> Result<Vec<AuthorityCert>, PkiError> {
    pki::certs_from_pem(pem)?.into_iter().map(AuthorityCert::parse).collect()
}

/// Every certificate of the chain is valid now and signed by the next one; the last by a root, whose fingerprint is the
/// answer.
fn check_chain(chain: &[AuthorityCert], roots: &[AuthorityCert], now: Time) -> Result<String, PkiError> {
    for (place, cert) in chain.iter().enumerate() {
        cert.check_time(now)?;
        if let Some(root) = roots.iter().find(|root| cert.fingerprint() == root.fingerprint() || cert.signed_by(root)) {
            root.check_time(now)?;
            return Ok(root.fingerprint().to_owned());
        }
        if !chain.get(place + 1).is_some_and(|above| cert.signed_by(above)) {
            return Err(PkiError::BrokenChain(cert.name().to_owned()));
        }
    }
    Err(PkiError::NoPem("certificate"))
}

impl Contents {
    fn digest(&self) -> Vec<u8> {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in [self.roots.as_slice(), &self.chain, self.key.expose()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests;
