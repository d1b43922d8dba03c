//! Every check has its page, with something in each of its sections, and no page is left over.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is not as it should be")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use mesh_cli::check::{
    catalog::CHECKS,
    pages::{SECTIONS, head, index, page},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/checks")
}

fn is_update() -> bool {
    std::env::var_os("MESH_UPDATE_DOCS").is_some()
}

#[test]
fn every_check_has_its_page_and_no_page_is_left_over() {
    every_page();
    index_and_folder();
}

fn every_page() {
    for check in CHECKS {
        let path = folder().join(format!("{}.md", check.name));
        let old = fs::read_to_string(&path).unwrap_or_default();
        if is_update() {
            fs::create_dir_all(folder()).unwrap();
            fs::write(&path, page(check, &old)).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let stale = "is stale; MESH_UPDATE_DOCS=1 cargo test -p meshctl --test checks";
        assert!(text.starts_with(&head(check)), "{} {stale}", path.display());
        let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, SECTIONS, "{}", path.display());
        for section in text.split("\n## ").skip(1) {
            let (heading, said) = section.split_once('\n').unwrap_or((section, ""));
            assert!(said.trim().len() > 40, "{}: nothing stands under {heading}", path.display());
        }
    }
}

fn index_and_folder() {
    let path = folder().join("README.md");
    if is_update() {
        fs::create_dir_all(folder()).unwrap();
        fs::write(&path, index()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == index(), "{} is stale; MESH_UPDATE_DOCS=1 cargo test -p meshctl --test checks", path.display());
    let mut wanted: BTreeSet<String> = CHECKS.iter().map(|check| format!("{}.md", check.name)).collect();
    wanted.insert("README.md".into());
    let there = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), wanted);
}
