//! Files that hold secrets, or that must never be half there. Floor 0: imports nothing.
//!
//! A secret is created with its final mode and never changed afterwards: there is no moment at which others can read
//! it. Every file is written beside its place, flushed, and moved there, so that after a crash it is the old one or the
//! new one. A secret that others can read is refused, with the command that mends it.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// How names of unfinished files end.
const UNFINISHED: &str = ".mesh-tmp";
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What went wrong with a file. The operator's to mend; what is in memory stays in force.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {doing} {}: {error}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Others than the owner can read a secret.
    #[error("{} holds a secret and its mode {mode:04o} lets others in; run: chmod {mend} '{}'", path.display(), path.display())]
    Exposed {
        /// Which file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Arguments of `chmod` that close it.
        mend: &'static str,
    },
    /// It cannot be what it should be.
    #[error("{} is longer than {MAX_FILE} bytes", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
}

impl FileError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { doing, path, error }
    }

    /// True where the file is simply not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }

    /// True where the file was there already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::AlreadyExists)
    }
}

/// Content of a secret file; it does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The content, to be parsed.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// Who besides the owner may read a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Nobody.
    Owner,
    /// The group as well: a mounted Kubernetes Secret belongs to root and to the pod's group.
    Group,
}

/// Creates a folder (mode 0700, with its parents) or checks the one that is there.
///
/// # Errors
/// [`FileError::Exposed`] where others could put files into it, or replace them.
pub fn create_folder(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::io("create the folder", path))?;
    let mode = fs::metadata(path).map_err(FileError::io("look at the folder", path))?.mode() & 0o7777;
    // In a folder with the sticky bit (/tmp) others cannot replace what is not theirs, but they can still add.
    if mode & 0o022 != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode, mend: "go-w" });
    }
    Ok(())
}

/// Reads a secret.
///
/// # Errors
/// [`FileError::Exposed`] where more people than `readers` can read it or change it.
pub fn read_secret(path: &Path, readers: Readers) -> Result<Secret, FileError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    // The opened file is asked, not the name: that could be another one by now.
    let mode = file.metadata().map_err(FileError::io("look at", path))?.mode() & 0o7777;
    let (closed, mend) = match readers {
        Readers::Owner => (0o077, "600"),
        Readers::Group => (0o037, "640"),
    };
    if mode & closed != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode, mend });
    }
    read_opened(file, path).map(Secret)
}

/// Reads a file that everybody may read.
///
/// # Errors
/// As the system says; [`FileError::TooLong`].
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    read_opened(File::open(path).map_err(FileError::io("open", path))?, path)
}

fn read_opened(file: File, path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(FileError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Writes a secret (mode 0600), replacing the one that was there in one step.
///
/// # Errors
/// As the system says; the old content is there then.
pub fn write_secret(path: &Path, content: &Secret) -> Result<(), FileError> {
    put(path, content.expose(), 0o600, |from, to| fs::rename(from, to))
}

/// Writes a secret (mode 0600) where there is none yet.
///
/// # Errors
/// As the system says; [`FileError::is_taken`] where somebody was first.
pub fn write_new_secret(path: &Path, content: &Secret) -> Result<(), FileError> {
    put(path, content.expose(), 0o600, |from, to| {
        let linked = fs::hard_link(from, to);
        fs::remove_file(from).and(linked)
    })
}

/// Writes a file that everybody may read (mode 0644), replacing the one that was there in one step.
///
/// # Errors
/// As the system says; the old content is there then.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), FileError> {
    put(path, content, 0o644, |from, to| fs::rename(from, to))
}

fn put(
    path: &Path,
    content: &[u8],
    mode: u32,
    place: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), FileError> {
    let beside = beside(path);
    // A leftover of a crash may have any mode; a new file has ours.
    let _ = fs::remove_file(&beside);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        place(&beside, path)?;
        // The name is in the folder: without this it may be gone after a power cut.
        folder_of(path).map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&beside);
        FileError::Io { doing: "write", path: path.to_owned(), error }
    })
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// As the system says.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Where a file is written before it is moved to its place: no two writers share it, in this process or another.
fn beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{nth}{UNFINISHED}", std::process::id()))
}

/// Removes what a crash left unfinished of the files that the caller alone writes; another's may be under way.
///
/// # Errors
/// As the system says.
pub fn sweep(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(FileError::io("list", folder))? {
        let entry = entry.map_err(FileError::io("list", folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let unfinished = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(UNFINISHED));
        if unfinished.is_some_and(&is_ours) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    #[test]
    fn secrets_are_born_closed_and_stay_whole() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("a/b");
        create_folder(&folder).unwrap();
        assert_eq!(mode_of(&folder), 0o700);
        assert_eq!(mode_of(&top.path().join("a")), 0o700);
        let path = folder.join("key");
        write_secret(&path, &secret("one")).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        write_secret(&path, &secret("two")).unwrap();
        assert_eq!(read_secret(&path, Readers::Owner).unwrap().expose(), b"two");
        assert!(write_new_secret(&path, &secret("three")).unwrap_err().is_taken());
        assert_eq!(read_secret(&path, Readers::Owner).unwrap().expose(), b"two");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        for name in [".key.1-0.mesh-tmp", ".other.1-0.mesh-tmp", ".key.txt"] {
            fs::write(folder.join(name), "half").unwrap();
        }
        sweep(&folder, |name| name.starts_with("key.")).unwrap();
        assert!(!folder.join(".key.1-0.mesh-tmp").exists());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
        assert!(read_secret(&folder.join("none"), Readers::Owner).unwrap_err().is_missing());
    }

    #[test]
    fn exposed_secrets_are_refused_with_the_remedy() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("key");
        write_secret(&path, &secret("one")).unwrap();
        for (mode, owner, group) in [
            (0o400, true, true),
            (0o440, false, true),
            (0o640, false, true),
            (0o644, false, false),
            (0o660, false, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_secret(&path, Readers::Owner).is_ok(), owner, "{mode:o}");
            assert_eq!(read_secret(&path, Readers::Group).is_ok(), group, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let told = read_secret(&path, Readers::Owner).unwrap_err().to_string();
        assert!(told.contains(&format!("mode 0644 lets others in; run: chmod 600 '{}'", path.display())), "{told}");
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(create_folder(top.path()).unwrap_err().to_string().contains("chmod go-w"));
    }

    #[test]
    fn i22_secrets_do_not_show_themselves() {
        assert_eq!(format!("{:?}", secret("hidden")), "Secret([redacted])");
    }
}
