//! A [`Keyring`] in a folder.
//!
//! A step writes new files first and moves `state.json` last: that move is the step. What a crash leaves behind is not
//! named by `state.json`, and is overwritten or removed later. The file `lock` is held by the one process that uses the
//! folder.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use mesh_api::spiffe::TrustDomain;

use super::{
    Issuing, TRUST_FILE,
    keyring::{self, Contents, Frame, Keyring, KeyringError, STATE_FILE},
    rotation::{self, Order, Schedule, State, Step},
};
use crate::{
    files::{self, FileError, Readers, Secret},
    time::Time,
};

/// Why a folder cannot be used, or a step was not done. What signed before still does.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Two processes, one folder.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// What the folder holds, or what it should do.
    #[error("{place}{error}")]
    Keyring {
        /// Where; empty where the error is not about a place.
        place: String,
        /// What is wrong.
        error: KeyringError,
    },
}

/// The folder, open. One process has it at a time.
#[derive(Debug)]
pub struct Store {
    folder: Folder,
    frame: Frame,
    keyring: Keyring,
    /// What follows from the state, `trust.pem` and the removal of old files, is still to be done.
    untidy: bool,
    _lock: File,
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
        let folder = Folder::new(folder);
        let frame = Frame { domain, schedule };
        let read = |name: &str| folder.read(name);
        let keyring = match Keyring::open(&read, &frame).map_err(folder.at())? {
            Some(keyring) => keyring,
            None => {
                let keyring = Keyring::begin(&read, &frame, now).map_err(folder.at())?;
                folder.commit(&keyring)?;
                keyring
            }
        };
        let mut store = Self { folder, frame, keyring, untidy: true, _lock: lock };
        store.tidy();
        Ok(store)
    }

    /// What holds now.
    ///
    /// # Errors
    /// [`StoreError`], as well where it does not make certificates that members accept.
    pub fn issuing(&self, now: Time) -> Result<Issuing, StoreError> {
        self.keyring.issuing(&self.frame, now).map_err(self.folder.at())
    }

    /// Does the next step that is due or ordered, if any.
    ///
    /// # Errors
    /// [`StoreError`]; the state is as it was before.
    pub fn advance(&mut self, now: Time, order: Option<Order>) -> Result<Option<Step>, StoreError> {
        if self.untidy {
            self.tidy();
        }
        let planned = rotation::plan(self.state(), &self.frame.schedule, now, order);
        if planned.map_err(KeyringError::from).map_err(self.folder.at())?.is_none() {
            return Ok(None);
        }
        // A step stands on what is there, not on what was there once.
        let read = |name: &str| self.folder.read(name);
        let fresh = Keyring::load(self.state().clone(), &read, &self.frame).map_err(self.folder.at())?;
        let Some((step, next)) = fresh.next(&self.frame, now, order).map_err(self.folder.at())? else {
            return Ok(None);
        };
        self.folder.commit(&next)?;
        self.keyring = next;
        self.tidy();
        Ok(Some(step))
    }

    /// Where roots and issuers stand.
    #[must_use]
    pub fn state(&self) -> &State {
        self.keyring.state()
    }

    /// What follows from the state. Nothing depends on it at once, so it may fail and is done again later.
    fn tidy(&mut self) {
        let outcome = self.folder.tidy(&self.keyring);
        self.untidy = outcome.is_err();
        if let Err(error) = outcome {
            tracing::warn!(%error, "trust.pem or old files are not up to date; trying again later");
        }
    }
}

/// The files of a keyring.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    #[cfg(test)]
    writes_left: std::cell::Cell<Option<usize>>,
}

impl Folder {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            #[cfg(test)]
            writes_left: std::cell::Cell::default(),
        }
    }

    /// Says where it went wrong.
    fn at(&self) -> impl FnOnce(KeyringError) -> StoreError + use<> {
        let place = format!("{}/", self.path.display());
        move |error| match error {
            KeyringError::File(error) => StoreError::File(error),
            error if error.names_something() => StoreError::Keyring { place, error },
            error => StoreError::Keyring { place: String::new(), error },
        }
    }

    /// A file by its name; a key that others can read is refused.
    fn read(&self, name: &str) -> Result<Option<Secret>, FileError> {
        let path = self.path.join(name);
        let found = if is_secret(name) {
            files::read_secret(&path, Readers::Owner)
        } else {
            files::read(&path).map(Secret::from)
        };
        match found {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what is new, and `state.json` last: the one moment at which a step happens.
    fn commit(&self, next: &Keyring) -> Result<(), StoreError> {
        let contents = next.contents();
        for name in in_order(contents) {
            let Some(content) = contents.get(name) else { continue };
            // What cannot be read is replaced: nothing that counts has this name, or it would have been read before.
            if self.read(name).ok().flatten().as_ref() != Some(content) {
                self.write(name, content)?;
            }
        }
        let Some(state) = contents.get(STATE_FILE) else { return Ok(()) };
        if let Err(error) = self.write(STATE_FILE, state) {
            // It may have failed after the move: then the step happened.
            let path = self.path.join(STATE_FILE);
            if files::read(&path).ok().as_deref() != Some(state.expose()) {
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn tidy(&self, keyring: &Keyring) -> Result<(), FileError> {
        if let Some(trust) = keyring.contents().get(TRUST_FILE)
            && files::read(&self.path.join(TRUST_FILE)).ok().as_deref() != Some(trust.expose())
        {
            self.write(TRUST_FILE, trust)?;
        }
        let list = |error| FileError::Io { doing: "list", path: self.path.clone(), error };
        for file in std::fs::read_dir(&self.path).map_err(list)? {
            let path = file.map_err(list)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if keyring.is_old(name) {
                self.before_write()?;
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &Secret) -> Result<(), FileError> {
        self.before_write()?;
        let path = self.path.join(name);
        if is_secret(name) { files::write_secret(&path, content) } else { files::write_public(&path, content.expose()) }
    }

    /// Where a test lets the process "die".
    #[cfg(test)]
    fn before_write(&self) -> Result<(), FileError> {
        match self.writes_left.get() {
            None => Ok(()),
            Some(0) => Err(FileError::Io {
                doing: "write",
                path: self.path.clone(),
                error: std::io::Error::other("no more writes"),
            }),
            Some(left) => {
                self.writes_left.set(Some(left - 1));
                Ok(())
            }
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "a test lets the process die here")]
    fn before_write(&self) -> Result<(), FileError> {
        Ok(())
    }
}

fn is_secret(name: &str) -> bool {
    name.ends_with(".key")
}

/// Roots before issuers and keys before certificates: whatever a crash in the first start leaves, the next start can
/// go on from. `state.json` and `trust.pem` have their own moment.
fn in_order(contents: &Contents) -> Vec<&str> {
    let mut names: Vec<&str> =
        contents.keys().map(String::as_str).filter(|name| ![STATE_FILE, TRUST_FILE].contains(name)).collect();
    names.sort_by_key(|name| (!name.starts_with("root-"), *name));
    debug_assert!(names.iter().all(|name| keyring::is_ours(name)));
    names
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
