//! The documents name files that exist.

use std::path::Path;

#[test]
fn every_file_that_architecture_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let named = text.split('`').skip(1).step_by(2);
        let files =
            named.filter(|name| name.contains('/') && !name.contains([' ', '*', ':', '@']) && !name.starts_with('/'));
        for file in files.filter(|name| {
            ["mesh-api", "ca", "controller", "proxy", "cli", "e2e", "docs"]
                .iter()
                .any(|top| name.split('/').next() == Some(top))
        }) {
            assert!(root.join(file).exists(), "{page} names {file}, which is not there");
        }
    }
}
