//! The files of the charts, as they were when the program was built.

use std::collections::BTreeMap;

use include_dir::{Dir, include_dir};

/// The control plane.
pub const MESH: &str = "mesh";
/// The kinds of `mesh.dev`.
pub const MESH_CRDS: &str = "mesh-crds";
/// Prometheus and Jaeger, to look at a mesh with.
pub const MESH_VIZ: &str = "mesh-viz";

static CHARTS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../charts");

/// Files of one chart by their path in it.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<String, &'static str>);

impl Files {
    /// A file's text.
    pub fn get(&self, path: &str) -> Option<&'static str> {
        self.0.get(path).copied()
    }

    /// Files that may hold templates, with their paths.
    pub fn templates(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.0.iter().filter(|(path, _)| path.starts_with("templates/")).map(|(path, text)| (path.as_str(), *text))
    }

    /// Files of a test.
    #[cfg(test)]
    pub fn of(files: &[(&str, &'static str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), *text)).collect())
    }
}

/// The files of a chart; none where there is no such chart.
pub fn files(chart: &str) -> Option<Files> {
    let dir = CHARTS.get_dir(chart)?;
    let mut files = BTreeMap::new();
    gather(dir, chart, &mut files);
    Some(Files(files))
}

fn gather(dir: &'static Dir<'static>, chart: &str, files: &mut BTreeMap<String, &'static str>) {
    for file in dir.files() {
        let path = file.path().strip_prefix(chart).unwrap_or(file.path());
        if let Some(text) = file.contents_utf8() {
            files.insert(path.to_string_lossy().into_owned(), text);
        }
    }
    for inner in dir.dirs() {
        gather(inner, chart, files);
    }
}
