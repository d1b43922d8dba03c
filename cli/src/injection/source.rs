//! Which manifests are meant.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::manifest::MAX_INPUT;

/// Files of one folder, with those below it, at most.
const MAX_FILES: usize = 10_000;

/// One file, or standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// As people know it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// Reads files, the manifests of folders with all folders below them in the order of their names, and `-`: standard input.
///
/// # Errors
/// What cannot be read, or is too large.
pub fn read_inputs(paths: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() != "-" && path.is_dir() {
            let before = files.len();
            gather(path, &mut files)?;
            if files.len() == before {
                bail!("there is no manifest in {}: no name there ends in .yaml, .yml or .json", path.display());
            }
        } else {
            files.push(path.clone());
        }
    }
    let mut left = MAX_INPUT;
    files.iter().map(|path| read(path, &mut left)).collect()
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", folder.display());
    let mut entries = fs::read_dir(folder).with_context(cannot)?.collect::<Result<Vec<_>, _>>().with_context(cannot)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links to folders are not followed: they may lead back up.
        if entry.file_type().with_context(cannot)?.is_dir() {
            gather(&path, files)?;
        } else if path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known)) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            bail!("more than {MAX_FILES} manifests in {}; name a part of them", folder.display());
        }
    }
    Ok(())
}

fn read(path: &Path, left: &mut u64) -> anyhow::Result<Input> {
    let stdin = path.as_os_str() == "-";
    let name = if stdin { "(standard input)".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let source: Box<dyn Read> = if stdin {
        Box::new(std::io::stdin())
    } else {
        Box::new(fs::File::open(path).with_context(|| format!("cannot read {name}"))?)
    };
    source.take(*left + 1).read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
    *left = left
        .checked_sub(text.len() as u64)
        .with_context(|| format!("the manifests have more than {MAX_INPUT} bytes"))?;
    Ok(Input { name, text })
}
