//! Follows the folder of manifests, for the workloads in it. The controller reads the same folder for everything else,
//! with the same code: what is no workload for it is none here.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use mesh_api::{model::WorkloadId, resources::Resource, spiffe::TrustDomain};
use mesh_controller::{
    source::{Located, files::State},
    translate::{Verdict, translate},
};

use super::plan::{self, Plan, Unfit};

/// The folder, and what was found in it last.
#[derive(Debug)]
pub struct Manifests {
    state: State,
    trust_domain: TrustDomain,
    first: bool,
}

/// Everything that is to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Workloads that can be run.
    pub plans: Vec<Plan>,
    /// Workloads that cannot, with the place of their manifest: what runs of them is left as it is.
    pub unfit: Vec<(WorkloadId, String)>,
    /// Where each object stands, by `Kind/NAMESPACE/NAME`.
    pub places: HashMap<String, String>,
}

impl Manifests {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(folder: PathBuf, trust_domain: TrustDomain) -> Self {
        Self { state: State::new(vec![folder]), trust_domain, first: true }
    }

    /// Looks at the folder; `None` where nothing changed. Blocks on the file system.
    pub fn look(&mut self) -> Option<Found> {
        let changed = !self.state.scan().is_empty();
        if !changed && !self.first {
            return None;
        }
        self.first = false;
        let (objects, _) = self.state.contents();
        Some(workloads(&objects, &self.trust_domain))
    }
}

fn workloads(objects: &[Located<Resource>], trust_domain: &TrustDomain) -> Found {
    let places = objects.iter().map(|located| (located.value.object_ref().to_string(), located.place.to_string()));
    let mut found = Found { places: places.collect(), ..Found::default() };
    for located in objects {
        let Resource::ExternalWorkload(object) = &located.value else { continue };
        let reference = located.value.object_ref();
        let id = WorkloadId { namespace: reference.namespace, name: reference.name };
        if matches!(translate(&located.value, trust_domain).verdict, Verdict::Refused { .. }) {
            // The controller says why.
            found.unfit.push((id, String::new()));
            continue;
        }
        match plan::plan(object, folder_of(&located.place.path)) {
            Ok(plan) => found.plans.push(plan),
            Err(unfit) => found.unfit.push(told(&located.place.to_string(), id, &unfit)),
        }
    }
    for (id, unfit) in plan::refuse_clashes(&mut found.plans) {
        let place = found.places.get(&format!("ExternalWorkload/{id}")).cloned().unwrap_or_default();
        found.unfit.push(told(&place, id, &unfit));
    }
    found
}

fn told(place: &str, id: WorkloadId, unfit: &Unfit) -> (WorkloadId, String) {
    let text = format!("{place}: ExternalWorkload {id}: {unfit}");
    (id, text)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, address: &str) -> String {
        format!(
            "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{address: {address}, ports: [{{port: 80}}], run: {{command: [./run]}}}}\n"
        )
    }

    #[test]
    fn changes_are_seen_and_faults_are_told_with_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifests = Manifests::new(dir.path().into(), "cluster.local".parse().unwrap());
        assert_eq!(manifests.look(), Some(Found::default()));
        assert_eq!(manifests.look(), None);
        let path = dir.path().join("web.yaml");
        let text = [manifest("a", "127.0.1.1"), manifest("b", "127.0.1.1"), manifest("c", "x")].join("---\n");
        std::fs::write(&path, text).unwrap();
        let found = manifests.look().unwrap();
        let plans: Vec<_> = found.plans.iter().map(|plan| plan.id.to_string()).collect();
        assert_eq!(plans, ["shop/a"]);
        assert_eq!(found.places["ExternalWorkload/shop/b"], format!("{}:6", path.display()));
        assert_eq!(found.plans[0].app.as_ref().unwrap().dir, dir.path());
        let unfit: Vec<_> = found.unfit.iter().map(|(id, text)| format!("{id} {text}")).collect();
        let clash = format!(
            "shop/b {}:6: ExternalWorkload shop/b: spec: shop/a has 127.0.1.1:80 already; \
             give each workload an address of its own",
            path.display()
        );
        assert_eq!(unfit, ["shop/c ".to_owned(), clash]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(manifests.look(), Some(Found::default()));
    }
}
