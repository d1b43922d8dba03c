//! Holds what is fuzzed to its properties in every run of the tests: with all that is in `proxy/fuzz/corpus`, and with so many
//! mutations of that as take a second or two.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{Property, TARGETS};

/// Of each target.
const MUTATIONS: usize = 2000;
/// What codecs look for, and what is easily mistaken for it.
const WORDS: [&[u8]; 20] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"%2e",
    b"%2F",
    b"/../",
    b"//",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: a\r\n",
    b"0\r\n\r\n",
    b"\xff\xff\xff\xff",
];

fn folder(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(of)
}

fn files(of: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder(of)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn mutate(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seeds.choose(random).unwrap().clone();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 16));
        match random.random_range(0..6) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, WORDS.choose(random).unwrap().iter().copied())),
            2 => bytes.insert(at, random.random()),
            3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
            4 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            _ => {
                let other = seeds.choose(random).unwrap();
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

fn hold(name: &str, property: Property, bytes: &[u8], from: &str) {
    let held = catch_unwind(AssertUnwindSafe(|| property(bytes)));
    assert!(held.is_ok(), "{name} does not hold for {from}: b\"{}\"", bytes.escape_ascii());
}

#[test]
fn what_is_fuzzed_holds_for_the_corpus_and_what_is_near_it() {
    for (name, property) in TARGETS {
        let mut seeds = Vec::new();
        for file in files(&format!("corpus/{name}")) {
            seeds.push(fs::read(&file).unwrap());
            hold(name, property, seeds.last().unwrap(), &file.display().to_string());
        }
        assert!(!seeds.is_empty(), "{name} has nothing to begin with");
        // The same ones each time: a run of the tests fails because of a change, not by chance.
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..MUTATIONS {
            hold(name, property, &mutate(&seeds, &mut random), "a mutation");
        }
        hold(name, property, &[], "nothing");
    }
}

#[test]
fn every_target_has_its_program_and_its_corpus() {
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stem = |file: &PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
    assert_eq!(files("fuzz_targets").iter().map(stem).collect::<Vec<_>>(), names);
    assert_eq!(files("corpus").iter().map(stem).collect::<Vec<_>>(), names);
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    assert!(names.iter().all(|name| manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\""))));
}
