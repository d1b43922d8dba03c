//! The reference page is what the program says of itself.

use std::{fs, path::Path};

#[test]
fn the_reference_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    let page = mesh_cli::reference::page();
    if std::env::var_os("MESH_UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "{} is stale; MESH_UPDATE_DOCS=1 cargo test -p meshctl --test reference", path.display());
}
