//! Which manifests there are. Symbolic links to files are followed (that is how a mounted ConfigMap looks), links to
//! folders are not (they can lead in circles); names that begin with a dot are passed over.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{MAX_FILES, file_problem};
use crate::problem::{Problem, Reason};

/// Deepest folder below a root.
const MAX_DEPTH: usize = 16;

/// Tells whether a file may have changed: every write changes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What a look at the folders found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    pub(super) problems: Vec<Problem>,
    /// Every root could be read.
    pub(super) complete: bool,
    unreadable: Vec<PathBuf>,
}

impl Found {
    /// True where a file was not found only because what is above it could not be read.
    pub(super) fn is_hidden(&self, path: &Path) -> bool {
        self.unreadable.iter().any(|above| path.starts_with(above))
    }

    fn fault(&mut self, path: &Path, reason: Reason, message: String) {
        self.problems.push(file_problem(Arc::new(path.to_owned()), reason, message));
    }
}

pub(super) fn scan(roots: &[PathBuf]) -> Found {
    let mut found = Found { complete: true, ..Found::default() };
    for root in roots {
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => folder(root, 0, &mut found),
            Ok(metadata) => {
                found.files.insert(root.clone(), stamp(&metadata));
            }
            Err(error) => unreadable(root, &error, &mut found),
        }
        let below_root = |above: &PathBuf| above == root;
        found.complete &= !found.unreadable.iter().any(below_root);
    }
    found
}

fn unreadable(path: &Path, error: &std::io::Error, found: &mut Found) {
    found.fault(path, Reason::Unreadable, format!("cannot be read: {error}; what was read before stays in force"));
    found.unreadable.push(path.to_owned());
}

fn folder(path: &Path, depth: usize, found: &mut Found) {
    if depth > MAX_DEPTH {
        found.fault(path, Reason::TooLarge, format!("deeper than {MAX_DEPTH} folders; not read"));
        return;
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return unreadable(path, &error, found),
    };
    for entry in entries {
        match entry {
            Ok(entry) => one(&entry, depth, found),
            Err(error) => return unreadable(path, &error, found),
        }
    }
}

fn one(entry: &fs::DirEntry, depth: usize, found: &mut Found) {
    if entry.file_name().as_encoded_bytes().starts_with(b".") {
        return;
    }
    let path = entry.path();
    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
        return folder(&path, depth + 1, found);
    }
    let is_manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
    // A file that went away between the two looks is simply not there.
    let Some(metadata) = fs::metadata(&path).ok().filter(|metadata| is_manifest && metadata.is_file()) else { return };
    if found.files.len() < MAX_FILES {
        found.files.insert(path, stamp(&metadata));
    } else if found.problems.iter().all(|problem| problem.reason != Reason::TooLarge) {
        found.fault(&path, Reason::TooLarge, format!("more than {MAX_FILES} files; this one and more are not read"));
    }
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}
