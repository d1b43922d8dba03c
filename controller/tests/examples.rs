//! The example manifests hold: they decode, translate, and refer to nothing that is not there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{collections::BTreeSet, path::Path};

use mesh_api::{names, resources::KINDS};
use mesh_controller::{config::Config, index::Index, review::review, source::load_dir};

#[test]
fn every_example_is_without_problems() {
    let (objects, problems) = load_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples"));
    assert!(problems.is_empty(), "{problems:#?}");
    let mut index = Index::new(Config::default().settings().unwrap());
    for object in &objects {
        index.apply(&object.value);
    }
    let problems: Vec<String> = review(&index).iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    let shown: BTreeSet<&str> = objects.iter().map(|object| object.value.kind()).collect();
    for (_, kind) in KINDS.iter().filter(|(group, _)| *group == names::GROUP) {
        assert!(shown.contains(kind), "there is no example of {kind}");
    }
}
