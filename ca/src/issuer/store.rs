//! A folder whose roots and issuers this authority makes and rotates itself.
//!
//! ```text
//!  state.json        which of the files count, and where a change of root stands
//!  root-N.pem/.key   trusted roots with their keys
//!  issuer-N.pem/.key what signs
//!  trust.pem         all trusted roots, for members' first contact
//!  lock              held by the one process that uses the folder
//! ```
//!
//! A step writes new files first and moves `state.json` last: that move is the step. What a crash leaves behind is not
//! named by `state.json`, and is overwritten or removed later.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mesh_api::spiffe::TrustDomain;
use serde::{Deserialize, Serialize};

use super::{
    Issuing, Line, Report,
    rotation::{self, Entry, Made, Order, Refusal, Schedule, State, Step},
};
use crate::{
    files::{self, FileError, Readers, Secret},
    pki::{self, AuthorityCert, AuthoritySpec, PkiError, PrivateKey, Serial, SigningAuthority},
    time::Time,
};

/// Version of `state.json` that this program writes and reads.
const VERSION: u32 = 1;

/// Why a folder cannot be used, or a step was not done. What signed before still does.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What a file holds.
    #[error("{}: {error}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: PkiError,
    },
    /// What is there does not sign certificates that members accept.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Two processes, one folder.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// Not a state of this program.
    #[error("{} cannot be read: {reason}; restore it from a backup", path.display())]
    State {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The folder is another mesh's.
    #[error("{} belongs to the trust domain `{found}`, configured is `{wanted}`", path.display())]
    Domain {
        /// The folder's state.
        path: PathBuf,
        /// Its domain.
        found: String,
        /// The configured one.
        wanted: String,
    },
    /// Somebody exchanged a file.
    #[error(
        "{} is not the certificate that state.json names; put that one back, or configure files of your own (`supplied`)",
        .0.display()
    )]
    Exchanged(PathBuf),
    /// A certificate was put there without its key.
    #[error("{} is there without its key", .0.display())]
    NoKey(PathBuf),
    /// The state machine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What `state.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    trust_domain: String,
    state: State,
}

/// The folder, open. One process has it at a time.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    domain: TrustDomain,
    schedule: Schedule,
    state: State,
    /// What follows from the state, `trust.pem` and the removal of old files, is still to be done.
    untidy: bool,
    _lock: File,
    #[cfg(test)]
    writes_left: std::cell::Cell<Option<usize>>,
}

impl Store {
    /// Opens a folder, or makes it with a first root and issuer. A root (and an issuer) that lies there already as
    /// `root-1.pem` and `root-1.key` is taken instead of a new one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(folder: &Path, domain: TrustDomain, schedule: Schedule, now: Time) -> Result<Self, StoreError> {
        files::create_folder(folder)?;
        let lock = lock(folder)?;
        // Not the key of join tokens: whoever makes tokens may be writing it at this moment.
        let ours = ["root-", "issuer-", "state.json.", "trust.pem."];
        files::sweep(folder, |name| ours.iter().any(|start| name.starts_with(start)))?;
        let nothing = Entry { generation: 0, made: now, not_after: now, fingerprint: String::new() };
        let mut store = Self {
            folder: folder.to_owned(),
            domain,
            schedule,
            state: rotation::first(nothing.clone(), nothing),
            untidy: true,
            _lock: lock,
            #[cfg(test)]
            writes_left: std::cell::Cell::default(),
        };
        match files::read(&store.state_path()) {
            Ok(bytes) => store.state = store.read_state(&bytes)?,
            Err(error) if error.is_missing() => store.begin(now)?,
            Err(error) => return Err(error.into()),
        }
        store.check_files()?;
        store.tidy();
        Ok(store)
    }

    /// What holds now.
    ///
    /// # Errors
    /// [`StoreError`], as well where it does not make certificates that members accept.
    pub fn issuing(&self, now: Time) -> Result<Issuing, StoreError> {
        let state = &self.state;
        let signer = Arc::new(self.authority("issuer", &state.issuer)?);
        let roots: Result<Vec<_>, _> = state.roots.iter().map(|entry| self.cert("root", entry)).collect();
        let roots = roots?;
        let lines = state.roots.iter().zip(&roots);
        let report = Report {
            source: "own",
            phase: state.phase.name(),
            next_step: Some(rotation::next_due(state, &self.schedule)?.to_string()),
            issuer: Line::of(signer.cert(), Some(state.issuer.generation), true),
            roots: lines
                .map(|(entry, cert)| Line::of(cert, Some(entry.generation), entry.generation == state.issuer_root))
                .collect(),
        };
        let chain = vec![signer.cert().der().clone()];
        Ok(Issuing { domain: self.domain.clone(), signer, chain, roots, report }.checked(now)?)
    }

    /// Does the next step that is due or ordered, if any.
    ///
    /// # Errors
    /// [`StoreError`]; the state is as it was before.
    pub fn advance(&mut self, now: Time, order: Option<Order>) -> Result<Option<Step>, StoreError> {
        if self.untidy {
            self.tidy();
        }
        let Some(step) = rotation::plan(&self.state, &self.schedule, now, order)? else { return Ok(None) };
        let made = self.make(step, now)?;
        let next = rotation::after(&self.state, step, made, now).ok_or(Refusal::Inconsistent)?;
        self.commit(next)?;
        self.tidy();
        Ok(Some(step))
    }

    /// Where roots and issuers stand.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    fn make(&self, step: Step, now: Time) -> Result<Made, StoreError> {
        Ok(match step {
            Step::Announce { root } => Made { root: Some(self.make_root(root, now)?), issuer: None },
            Step::Issue { issuer, root } => {
                let above = self.state.roots.iter().find(|entry| entry.generation == root);
                let above = self.authority("root", above.ok_or(Refusal::Inconsistent)?)?;
                Made { root: None, issuer: Some(self.make_issuer(issuer, &above, now)?) }
            }
            Step::Retire { .. } => Made::default(),
            Step::Renew { root, issuer } => {
                let root = self.make_root(root, now)?;
                let above = self.authority("root", &root)?;
                Made { issuer: Some(self.make_issuer(issuer, &above, now)?), root: Some(root) }
            }
        })
    }

    fn make_root(&self, generation: u64, now: Time) -> Result<Entry, StoreError> {
        let key = PrivateKey::generate()?;
        let cert = pki::make_root(&self.spec(generation, self.schedule.root_lifetime, now)?, &key)?;
        self.put_authority("root", generation, &cert, &key)?;
        Ok(entry(generation, now, &cert))
    }

    fn make_issuer(&self, generation: u64, root: &SigningAuthority, now: Time) -> Result<Entry, StoreError> {
        let key = PrivateKey::generate()?;
        let cert = pki::make_issuer(&self.spec(generation, self.schedule.issuer_lifetime, now)?, &key, root)?;
        self.put_authority("issuer", generation, &cert, &key)?;
        Ok(entry(generation, now, &cert))
    }

    fn spec(&self, generation: u64, lifetime: Duration, now: Time) -> Result<AuthoritySpec<'_>, PkiError> {
        let serial = Serial::random()?;
        Ok(AuthoritySpec { trust_domain: self.domain.as_str(), generation, lifetime, serial, now })
    }

    /// The first start.
    fn begin(&mut self, now: Time) -> Result<(), StoreError> {
        let root = match self.found("root")? {
            Found::Pair(cert) => entry(1, cert.not_before(), &cert),
            Found::Key(key) => {
                let cert = pki::make_root(&self.spec(1, self.schedule.root_lifetime, now)?, &key)?;
                self.put_cert("root", 1, &cert)?;
                entry(1, now, &cert)
            }
            Found::Nothing => self.make_root(1, now)?,
        };
        let above = self.authority("root", &root)?;
        let issuer = match self.found("issuer")? {
            Found::Pair(cert) if cert.signed_by(above.cert()) => entry(1, cert.not_before(), &cert),
            Found::Pair(cert) => {
                let error = PkiError::BrokenChain(cert.name().to_owned());
                return Err(StoreError::Content { path: self.path("issuer", 1, "pem"), error });
            }
            Found::Key(key) => {
                let cert = pki::make_issuer(&self.spec(1, self.schedule.issuer_lifetime, now)?, &key, &above)?;
                self.put_cert("issuer", 1, &cert)?;
                entry(1, now, &cert)
            }
            Found::Nothing => self.make_issuer(1, &above, now)?,
        };
        self.commit(rotation::first(root, issuer))
    }

    /// What lies in the folder at the first start: an operator's, or what a crash in the first start left. A key is
    /// never overwritten: it may be the operator's.
    fn found(&self, what: &str) -> Result<Found, StoreError> {
        let (cert_path, key_path) = (self.path(what, 1, "pem"), self.path(what, 1, "key"));
        let key = match files::read_secret(&key_path, Readers::Owner) {
            Ok(secret) => Some(PrivateKey::from_pem(secret.expose()).map_err(in_file(&key_path))?),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        let cert = match files::read(&cert_path) {
            Ok(pem) => Some(one_authority(&pem).map_err(in_file(&cert_path))?),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let pair = SigningAuthority::new(cert, key).map_err(in_file(&key_path))?;
                Ok(Found::Pair(pair.cert().clone()))
            }
            (None, Some(key)) => Ok(Found::Key(key)),
            (Some(_), None) => Err(StoreError::NoKey(cert_path)),
            (None, None) => Ok(Found::Nothing),
        }
    }

    fn read_state(&self, bytes: &[u8]) -> Result<State, StoreError> {
        let path = self.state_path();
        let wrong = |reason: String| StoreError::State { path: path.clone(), reason };
        let file: StateFile = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if file.version != VERSION {
            return Err(wrong(format!("version {} is not known here", file.version)));
        }
        if file.trust_domain != self.domain.as_str() {
            let wanted = self.domain.to_string();
            return Err(StoreError::Domain { path, found: file.trust_domain, wanted });
        }
        Ok(file.state)
    }

    /// Every file that the state names is there, closed to others, and the one that it names.
    fn check_files(&self) -> Result<(), StoreError> {
        self.authority("issuer", &self.state.issuer)?;
        self.state.roots.iter().try_for_each(|root| self.authority("root", root).map(drop))
    }

    fn authority(&self, what: &str, entry: &Entry) -> Result<SigningAuthority, StoreError> {
        let cert = self.cert(what, entry)?;
        let path = self.path(what, entry.generation, "key");
        let secret = files::read_secret(&path, Readers::Owner)?;
        let key = PrivateKey::from_pem(secret.expose()).map_err(in_file(&path))?;
        SigningAuthority::new(cert, key).map_err(in_file(&path))
    }

    fn cert(&self, what: &str, entry: &Entry) -> Result<AuthorityCert, StoreError> {
        let path = self.path(what, entry.generation, "pem");
        let cert = one_authority(&files::read(&path)?).map_err(in_file(&path))?;
        if cert.fingerprint() == entry.fingerprint { Ok(cert) } else { Err(StoreError::Exchanged(path)) }
    }

    fn put_authority(
        &self,
        what: &str,
        generation: u64,
        cert: &AuthorityCert,
        key: &PrivateKey,
    ) -> Result<(), StoreError> {
        self.before_write()?;
        files::write_secret(&self.path(what, generation, "key"), &Secret::from(key.to_pem()))?;
        self.put_cert(what, generation, cert)
    }

    fn put_cert(&self, what: &str, generation: u64, cert: &AuthorityCert) -> Result<(), StoreError> {
        self.before_write()?;
        let pem = pki::certs_to_pem([cert.der()]);
        Ok(files::write_public(&self.path(what, generation, "pem"), pem.as_bytes())?)
    }

    /// The one moment at which a step happens.
    fn commit(&mut self, next: State) -> Result<(), StoreError> {
        let file = StateFile { version: VERSION, trust_domain: self.domain.to_string(), state: next };
        let path = self.state_path();
        let text = serde_json::to_vec_pretty(&file)
            .map_err(|error| StoreError::State { path: path.clone(), reason: error.to_string() })?;
        self.before_write()?;
        if let Err(error) = files::write_public(&path, &text) {
            // It may have failed after the move: then the step happened.
            if files::read(&path).ok().as_deref() != Some(&text) {
                return Err(error.into());
            }
        }
        self.state = file.state;
        self.untidy = true;
        Ok(())
    }

    /// What follows from the state. Nothing depends on it at once, so it may fail and is done again later.
    fn tidy(&mut self) {
        let outcome = self.write_trust().and_then(|()| self.remove_old());
        self.untidy = outcome.is_err();
        if let Err(error) = outcome {
            tracing::warn!(%error, "trust.pem or old files are not up to date; trying again later");
        }
    }

    fn write_trust(&self) -> Result<(), StoreError> {
        let roots: Result<Vec<_>, _> = self.state.roots.iter().map(|entry| self.cert("root", entry)).collect();
        let pem = pki::certs_to_pem(roots?.iter().map(AuthorityCert::der));
        let path = self.folder.join(super::TRUST_FILE);
        if files::read(&path).ok().as_deref() == Some(pem.as_bytes()) {
            return Ok(());
        }
        self.before_write()?;
        Ok(files::write_public(&path, pem.as_bytes())?)
    }

    /// Generations before the oldest that counts. Later ones are not touched: where an older `state.json` was restored,
    /// they may be all that is left of what members trust.
    fn remove_old(&self) -> Result<(), StoreError> {
        let oldest_root = self.state.roots.iter().map(|root| root.generation).min().unwrap_or(0);
        let list = |error| FileError::Io { doing: "list", path: self.folder.clone(), error };
        for file in std::fs::read_dir(&self.folder).map_err(list)? {
            let path = file.map_err(list)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let stem = name.strip_suffix(".pem").or_else(|| name.strip_suffix(".key")).unwrap_or_default();
            let generation = |prefix| stem.strip_prefix(prefix).and_then(|number: &str| number.parse::<u64>().ok());
            let old_root = generation("root-").is_some_and(|number| number < oldest_root);
            let old_issuer = generation("issuer-").is_some_and(|number| number < self.state.issuer.generation);
            if old_root || old_issuer {
                self.before_write()?;
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, what: &str, generation: u64, end: &str) -> PathBuf {
        self.folder.join(format!("{what}-{generation}.{end}"))
    }

    fn state_path(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// Where a test lets the process "die".
    #[cfg(test)]
    fn before_write(&self) -> Result<(), FileError> {
        match self.writes_left.get() {
            None => Ok(()),
            Some(0) => Err(FileError::Io {
                doing: "write",
                path: self.folder.clone(),
                error: std::io::Error::other("no more writes"),
            }),
            Some(left) => {
                self.writes_left.set(Some(left - 1));
                Ok(())
            }
        }
    }

    #[cfg(not(test))]
    fn before_write(&self) -> Result<(), FileError> {
        Ok(())
    }
}

/// What lies in the folder at the first start.
enum Found {
    Pair(AuthorityCert),
    Key(PrivateKey),
    Nothing,
}

fn entry(generation: u64, made: Time, cert: &AuthorityCert) -> Entry {
    Entry { generation, made, not_after: cert.not_after(), fingerprint: cert.fingerprint().to_owned() }
}

fn one_authority(pem: &[u8]) -> Result<AuthorityCert, PkiError> {
    let first = pki::certs_from_pem(pem)?.into_iter().next().ok_or(PkiError::NoPem("certificate"))?;
    AuthorityCert::parse(first)
}

fn in_file(path: &Path) -> impl FnOnce(PkiError) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Content { path, error }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let wrong = |error| FileError::Io { doing: "lock", path: path.clone(), error };
    let file = File::options().create(true).append(true).open(&path).map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(wrong(error).into()),
    }
}

#[cfg(test)]
mod tests;
