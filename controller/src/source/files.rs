//! A set of folders (or files) of manifests as a source. `scan` looks at the disk and works out events; the task that
//! calls it when something moved is in `watch`.
//!
//! A file is taken whole: while a document in it cannot be read, the file's last good state stays in force. A file that
//! never was good gives what can be read of it, and stand-ins for policies that cannot. A file that is gone takes its
//! objects with it; a folder that cannot be read takes nothing.

mod scan;
mod watch;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_api::{model::ObjectRef, resources::Resource};

use self::scan::Stamp;
pub use self::watch::{Options, watch};
use super::{
    Event,
    decode::{Decoded, Located, MAX_FILE, decode},
    merge::merge,
};
use crate::problem::{Place, Problem, Reason, Severity};

/// Most files that are read.
pub const MAX_FILES: usize = 10_000;
/// Most objects of all files together.
pub const MAX_TOTAL: usize = 100_000;

/// What is known of the folders.
#[derive(Debug)]
pub struct State {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    told: BTreeMap<ObjectRef, Resource>,
    told_problems: Option<Vec<Problem>>,
    unreadable: Vec<Problem>,
    synced: bool,
}

/// What is known of one file.
#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    /// In force.
    objects: Vec<Located<Resource>>,
    /// All documents of what is in force could be read.
    good: bool,
    /// Of the newest text, in force or not.
    problems: Vec<Problem>,
    foreign: usize,
}

impl State {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(roots: Vec<PathBuf>) -> Self {
        let (files, told) = (BTreeMap::new(), BTreeMap::new());
        Self { roots, files, told, told_problems: None, unreadable: Vec::new(), synced: false }
    }

    /// Looks at the disk and says what changed since the last look. Blocks on the file system.
    pub fn scan(&mut self) -> Vec<Event> {
        let mut found = scan::scan(&self.roots);
        self.unreadable = std::mem::take(&mut found.problems);
        self.files.retain(|path, _| found.files.contains_key(path) || found.is_hidden(path));
        for (path, stamp) in found.files {
            let file = self.files.entry(path.clone()).or_default();
            if file.stamp != Some(stamp) {
                file.stamp = Some(stamp);
                file.take(&path);
            }
        }
        // While a folder has never been read, nobody may take what is known for all there is.
        self.events(found.complete)
    }

    /// What is in force, and what is wrong.
    #[must_use]
    pub fn contents(&self) -> (Vec<Located<Resource>>, Vec<Problem>) {
        let merged = merge(self.files.values().flat_map(|file| &file.objects));
        let mut problems = self.problems(merged.problems);
        let mut objects: Vec<Located<Resource>> = merged.objects.into_values().cloned().collect();
        objects.sort_by(|one, other| one.place.cmp(&other.place));
        if objects.len() > MAX_TOTAL {
            objects.truncate(MAX_TOTAL);
            problems.push(too_many());
        }
        (objects, problems)
    }

    /// Objects of kinds that the mesh does not read.
    #[must_use]
    pub fn foreign(&self) -> usize {
        self.files.values().map(|file| file.foreign).sum()
    }

    fn events(&mut self, complete: bool) -> Vec<Event> {
        let merged = merge(self.files.values().flat_map(|file| &file.objects));
        let mut events = Vec::new();
        let gone = self.told.keys().filter(|object| !merged.objects.contains_key(object));
        events.extend(gone.cloned().map(Event::Delete));
        for event in &events {
            if let Event::Delete(object) = event {
                self.told.remove(object);
            }
        }
        let mut dropped = false;
        for (object, located) in &merged.objects {
            let known = self.told.get(object);
            if known == Some(&located.value) {
                continue;
            }
            if known.is_none() && self.told.len() >= MAX_TOTAL {
                dropped = true;
                continue;
            }
            self.told.insert(object.clone(), located.value.clone());
            events.push(Event::Apply(Box::new(located.value.clone())));
        }
        let mut problems = self.problems(merged.problems);
        if dropped {
            problems.push(too_many());
        }
        if self.told_problems.as_ref() != Some(&problems) {
            self.told_problems = Some(problems.clone());
            events.push(Event::Problems(problems));
        }
        if complete && !self.synced {
            self.synced = true;
            events.push(Event::Synced);
        }
        events
    }

    fn problems(&self, mut merged: Vec<Problem>) -> Vec<Problem> {
        merged.extend(self.unreadable.iter().cloned());
        merged.extend(self.files.values().flat_map(|file| file.problems.iter().cloned()));
        merged.sort();
        merged
    }
}

impl File {
    /// Reads the newest text, and takes it over where it is good or nothing good is in force.
    fn take(&mut self, path: &Path) {
        let shared = Arc::new(path.to_owned());
        let decoded = match read(path) {
            Ok(text) => decode(&shared, &text),
            Err((reason, message)) => {
                Decoded { problems: vec![file_problem(shared, reason, message)], ..Decoded::default() }
            }
        };
        let good = decoded.is_good();
        self.problems = decoded.problems;
        self.foreign = decoded.foreign;
        if self.good && !good {
            for problem in &mut self.problems {
                problem.message.push_str("; the file's last good state stays in force");
            }
            return;
        }
        self.good = good;
        self.objects = decoded.objects;
        self.objects.extend(decoded.stand_ins);
    }
}

fn read(path: &Path) -> Result<String, (Reason, String)> {
    use std::io::Read as _;
    let unreadable = |error: std::io::Error| (Reason::Unreadable, format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err((Reason::TooLarge, format!("larger than {} MiB", MAX_FILE / 1024 / 1024)));
    }
    String::from_utf8(bytes).map_err(|_| (Reason::Syntax, "not UTF-8 text".to_owned()))
}

fn file_problem(path: Arc<PathBuf>, reason: Reason, message: String) -> Problem {
    let place = Some(Place { path, line: 0 });
    Problem { place, object: None, field: String::new(), reason, severity: Severity::Error, message }
}

fn too_many() -> Problem {
    let message = format!("more than {MAX_TOTAL} objects; the rest is not in force");
    Problem {
        place: None,
        object: None,
        field: String::new(),
        reason: Reason::TooLarge,
        severity: Severity::Error,
        message,
    }
}

#[cfg(test)]
mod tests;
