//! Roots and issuers with what decides about them, as one value that is read whole and replaced whole. Pure: where it is
//! kept, a folder or a Kubernetes Secret, is its owner's matter; both keep the same names.
//!
//! ```text
//!  state.json        which of the others count, and where a change of root stands
//!  root-N.pem/.key   trusted roots with their keys
//!  issuer-N.pem/.key what signs
//!  trust.pem         all trusted roots
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_api::spiffe::TrustDomain;
use serde::{Deserialize, Serialize};

use super::{
    Issuing, Line, Report, TRUST_FILE,
    rotation::{self, Entry, Made, Order, Refusal, Schedule, State, Step},
};
use crate::{
    files::{FileError, Secret},
    pki::{self, AuthorityCert, AuthoritySpec, PkiError, PrivateKey, Serial, SigningAuthority},
    time::Time,
};

/// Version of `state.json` that this program writes and reads.
const VERSION: u32 = 1;
/// Name of what decides which of the others count.
pub const STATE_FILE: &str = "state.json";

/// What is kept, by name.
pub type Contents = BTreeMap<String, Secret>;

/// Reads one thing by its name; `None` where it is not there.
pub type Reader<'a> = dyn Fn(&str) -> Result<Option<Secret>, FileError> + 'a;

/// Why what is kept cannot be used, or a step was not done. Names are those of what is kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What the state names is not there.
    #[error("{0} is missing; restore it from a backup")]
    Missing(String),
    /// What one of them holds.
    #[error("{name}: {error}")]
    Content {
        /// Which.
        name: String,
        /// What is wrong with it.
        error: PkiError,
    },
    /// What is there does not sign certificates that members accept.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Not a state of this program.
    #[error("{STATE_FILE} cannot be read: {0}; restore it from a backup")]
    State(String),
    /// It is another mesh's.
    #[error("{STATE_FILE} belongs to the trust domain `{found}`, configured is `{wanted}`")]
    Domain {
        /// Its domain.
        found: String,
        /// The configured one.
        wanted: String,
    },
    /// Somebody exchanged a certificate.
    #[error(
        "{0} is not the certificate that {STATE_FILE} names; put that one back, or configure files of your own (`supplied`)"
    )]
    Exchanged(String),
    /// A certificate was put there without its key.
    #[error("{0} is there without its key")]
    NoKey(String),
    /// The state machine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl KeyringError {
    /// True where the message begins with the name of something that is kept.
    #[must_use]
    pub fn names_something(&self) -> bool {
        !matches!(self, Self::File(_) | Self::Pki(_) | Self::Refused(_))
    }
}

/// What a keyring is for.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The trust domain.
    pub domain: TrustDomain,
    /// How long things live and how long changes take.
    pub schedule: Schedule,
}

/// What `state.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    trust_domain: String,
    state: State,
}

/// Roots and issuers, and the state that names them; all of them were there and fitted when it was made.
#[derive(Clone, Debug)]
pub struct Keyring {
    state: State,
    contents: Contents,
}

impl Keyring {
    /// What is kept; `None` where there is no state yet: then [`Keyring::begin`].
    ///
    /// # Errors
    /// [`KeyringError`]: something is missing, broken, or another's.
    pub fn open(read: &Reader<'_>, frame: &Frame) -> Result<Option<Self>, KeyringError> {
        let Some(text) = read(STATE_FILE)? else { return Ok(None) };
        let wrong = |error: serde_json::Error| KeyringError::State(error.to_string());
        let file: StateFile = serde_json::from_slice(text.expose()).map_err(wrong)?;
        if file.version != VERSION {
            return Err(KeyringError::State(format!("version {} is not known here", file.version)));
        }
        if file.trust_domain != frame.domain.as_str() {
            return Err(KeyringError::Domain { found: file.trust_domain, wanted: frame.domain.to_string() });
        }
        Self::load(file.state, read, frame).map(Some)
    }

    /// What this state names.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub fn load(state: State, read: &Reader<'_>, frame: &Frame) -> Result<Self, KeyringError> {
        let mut draft = Draft { frame, contents: Contents::new() };
        let entries = state.roots.iter().map(|root| ("root", root)).chain([("issuer", &state.issuer)]);
        for (what, entry) in entries {
            for end in ["pem", "key"] {
                let name = name(what, entry.generation, end);
                let content = read(&name)?.ok_or_else(|| KeyringError::Missing(name.clone()))?;
                draft.contents.insert(name, content);
            }
            draft.authority(what, entry)?;
        }
        draft.finish(state)
    }

    /// The first one: a new root and issuer, or those that are there already as `root-1` and `issuer-1`.
    ///
    /// # Errors
    /// [`KeyringError`]: what is there does not fit.
    pub fn begin(read: &Reader<'_>, frame: &Frame, now: Time) -> Result<Self, KeyringError> {
        let mut draft = Draft { frame, contents: Contents::new() };
        let root = match draft.found("root", read)? {
            Found::Pair(cert) => entry(1, cert.not_before(), &cert),
            Found::Key(key) => {
                let cert = pki::make_root(&draft.spec(1, frame.schedule.root_lifetime, now)?, &key)?;
                draft.put_cert("root", 1, &cert);
                entry(1, now, &cert)
            }
            Found::Nothing => draft.make_root(1, now)?,
        };
        let above = draft.authority("root", &root)?;
        let issuer = match draft.found("issuer", read)? {
            Found::Pair(cert) if cert.signed_by(above.cert()) => entry(1, cert.not_before(), &cert),
            Found::Pair(cert) => {
                let error = PkiError::BrokenChain(cert.name().to_owned());
                return Err(KeyringError::Content { name: name("issuer", 1, "pem"), error });
            }
            Found::Key(key) => {
                let cert = pki::make_issuer(&draft.spec(1, frame.schedule.issuer_lifetime, now)?, &key, &above)?;
                draft.put_cert("issuer", 1, &cert);
                entry(1, now, &cert)
            }
            Found::Nothing => draft.make_issuer(1, &above, now)?,
        };
        draft.finish(rotation::first(root, issuer))
    }

    /// Does the next step that is due or ordered, if any; this one stays as it is.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn next(&self, frame: &Frame, now: Time, order: Option<Order>) -> Result<Option<(Step, Self)>, KeyringError> {
        let Some(step) = rotation::plan(&self.state, &frame.schedule, now, order)? else { return Ok(None) };
        let mut draft = Draft { frame, contents: self.contents.clone() };
        let made = match step {
            Step::Announce { root } => Made { root: Some(draft.make_root(root, now)?), issuer: None },
            Step::Issue { issuer, root } => {
                let above = self.state.roots.iter().find(|entry| entry.generation == root);
                let above = draft.authority("root", above.ok_or(Refusal::Inconsistent)?)?;
                Made { root: None, issuer: Some(draft.make_issuer(issuer, &above, now)?) }
            }
            Step::Retire { .. } => Made::default(),
            Step::Renew { root, issuer } => {
                let root = draft.make_root(root, now)?;
                let above = draft.authority("root", &root)?;
                Made { issuer: Some(draft.make_issuer(issuer, &above, now)?), root: Some(root) }
            }
        };
        let state = rotation::after(&self.state, step, made, now).ok_or(Refusal::Inconsistent)?;
        draft.contents.retain(|name, _| !is_old(&state, name));
        Ok(Some((step, draft.finish(state)?)))
    }

    /// What holds now.
    ///
    /// # Errors
    /// [`KeyringError`], as well where it does not make certificates that members accept.
    pub fn issuing(&self, frame: &Frame, now: Time) -> Result<Issuing, KeyringError> {
        let state = &self.state;
        let draft = Draft { frame, contents: self.contents.clone() };
        let signer = Arc::new(draft.authority("issuer", &state.issuer)?);
        let roots = draft.roots(state)?;
        let lines = state.roots.iter().zip(&roots);
        let report = Report {
            source: "own",
            phase: state.phase.name(),
            next_step: Some(rotation::next_due(state, &frame.schedule)?.to_string()),
            issuer: Line::of(signer.cert(), Some(state.issuer.generation), true),
            roots: lines
                .map(|(entry, cert)| Line::of(cert, Some(entry.generation), entry.generation == state.issuer_root))
                .collect(),
        };
        let chain = vec![signer.cert().der().clone()];
        Ok(Issuing { domain: frame.domain.clone(), signer, chain, roots, report }.checked(now)?)
    }

    /// Where roots and issuers stand.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// All that is to be kept, `state.json` and `trust.pem` among it.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// True for the name of a root or an issuer that no longer counts. Later ones than those that count are left alone:
    /// where an older state was restored, they may be all that is left of what members trust.
    #[must_use]
    pub fn is_old(&self, name: &str) -> bool {
        is_old(&self.state, name)
    }
}

/// True for every name that a keyring may keep.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name == STATE_FILE || name == TRUST_FILE || generation(name, "root-").or(generation(name, "issuer-")).is_some()
}

fn is_old(state: &State, name: &str) -> bool {
    let oldest_root = state.roots.iter().map(|root| root.generation).min().unwrap_or(0);
    generation(name, "root-").is_some_and(|number| number < oldest_root)
        || generation(name, "issuer-").is_some_and(|number| number < state.issuer.generation)
}

fn generation(name: &str, prefix: &str) -> Option<u64> {
    let stem = name.strip_suffix(".pem").or_else(|| name.strip_suffix(".key"))?;
    stem.strip_prefix(prefix)?.parse().ok()
}

fn name(what: &str, generation: u64, end: &str) -> String {
    format!("{what}-{generation}.{end}")
}

fn entry(generation: u64, made: Time, cert: &AuthorityCert) -> Entry {
    Entry { generation, made, not_after: cert.not_after(), fingerprint: cert.fingerprint().to_owned() }
}

/// What lies there at the first start: an operator's, or what a crash in the first start left.
enum Found {
    Pair(AuthorityCert),
    Key(PrivateKey),
    Nothing,
}

/// A keyring that is being made.
struct Draft<'a> {
    frame: &'a Frame,
    contents: Contents,
}

impl Draft<'_> {
    fn finish(mut self, state: State) -> Result<Keyring, KeyringError> {
        let trust = pki::certs_to_pem(self.roots(&state)?.iter().map(AuthorityCert::der));
        self.contents.insert(TRUST_FILE.to_owned(), Secret::from(trust));
        let file = StateFile { version: VERSION, trust_domain: self.frame.domain.to_string(), state };
        let text = serde_json::to_string_pretty(&file).map_err(|error| KeyringError::State(error.to_string()))?;
        self.contents.insert(STATE_FILE.to_owned(), Secret::from(text));
        Ok(Keyring { state: file.state, contents: self.contents })
    }

    fn roots(&self, state: &State) -> Result<Vec<AuthorityCert>, KeyringError> {
        state.roots.iter().map(|entry| self.cert("root", entry)).collect()
    }

    fn make_root(&mut self, generation: u64, now: Time) -> Result<Entry, KeyringError> {
        let key = PrivateKey::generate()?;
        let cert = pki::make_root(&self.spec(generation, self.frame.schedule.root_lifetime, now)?, &key)?;
        self.put("root", generation, &cert, &key);
        Ok(entry(generation, now, &cert))
    }

    fn make_issuer(&mut self, generation: u64, root: &SigningAuthority, now: Time) -> Result<Entry, KeyringError> {
        let key = PrivateKey::generate()?;
        let cert = pki::make_issuer(&self.spec(generation, self.frame.schedule.issuer_lifetime, now)?, &key, root)?;
        self.put("issuer", generation, &cert, &key);
        Ok(entry(generation, now, &cert))
    }

    fn spec(&self, generation: u64, lifetime: Duration, now: Time) -> Result<AuthoritySpec<'_>, PkiError> {
        let serial = Serial::random()?;
        Ok(AuthoritySpec { trust_domain: self.frame.domain.as_str(), generation, lifetime, serial, now })
    }

    /// A key is never replaced: it may be the operator's.
    fn found(&mut self, what: &str, read: &Reader<'_>) -> Result<Found, KeyringError> {
        let (cert_name, key_name) = (name(what, 1, "pem"), name(what, 1, "key"));
        let key = match read(&key_name)? {
            Some(secret) => {
                let key = PrivateKey::from_pem(secret.expose()).map_err(in_it(&key_name))?;
                self.contents.insert(key_name.clone(), secret);
                Some(key)
            }
            None => None,
        };
        let cert = match read(&cert_name)? {
            Some(pem) => {
                let cert = one_authority(pem.expose()).map_err(in_it(&cert_name))?;
                self.contents.insert(cert_name.clone(), pem);
                Some(cert)
            }
            None => None,
        };
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let pair = SigningAuthority::new(cert, key).map_err(in_it(&key_name))?;
                Ok(Found::Pair(pair.cert().clone()))
            }
            (None, Some(key)) => Ok(Found::Key(key)),
            (Some(_), None) => Err(KeyringError::NoKey(cert_name)),
            (None, None) => Ok(Found::Nothing),
        }
    }

    fn get(&self, name: &str) -> Result<&Secret, KeyringError> {
        self.contents.get(name).ok_or_else(|| KeyringError::Missing(name.to_owned()))
    }

    fn authority(&self, what: &str, entry: &Entry) -> Result<SigningAuthority, KeyringError> {
        let cert = self.cert(what, entry)?;
        let name = name(what, entry.generation, "key");
        let key = PrivateKey::from_pem(self.get(&name)?.expose()).map_err(in_it(&name))?;
        SigningAuthority::new(cert, key).map_err(in_it(&name))
    }

    fn cert(&self, what: &str, entry: &Entry) -> Result<AuthorityCert, KeyringError> {
        let name = name(what, entry.generation, "pem");
        let cert = one_authority(self.get(&name)?.expose()).map_err(in_it(&name))?;
        if cert.fingerprint() == entry.fingerprint { Ok(cert) } else { Err(KeyringError::Exchanged(name)) }
    }

    fn put(&mut self, what: &str, generation: u64, cert: &AuthorityCert, key: &PrivateKey) {
        self.contents.insert(name(what, generation, "key"), Secret::from(key.to_pem()));
        self.put_cert(what, generation, cert);
    }

    fn put_cert(&mut self, what: &str, generation: u64, cert: &AuthorityCert) {
        let pem = pki::certs_to_pem([cert.der()]);
        self.contents.insert(name(what, generation, "pem"), Secret::from(pem));
    }
}

fn one_authority(pem: &[u8]) -> Result<AuthorityCert, PkiError> {
    let first = pki::certs_from_pem(pem)?.into_iter().next().ok_or(PkiError::NoPem("certificate"))?;
    AuthorityCert::parse(first)
}

fn in_it(name: &str) -> impl FnOnce(PkiError) -> KeyringError {
    let name = name.to_owned();
    move |error| KeyringError::Content { name, error }
}
