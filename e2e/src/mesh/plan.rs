//! What is to be in a mesh: objects, workloads, settings. It gives the addresses and starts the whole.

use std::{collections::BTreeMap, fs, net::SocketAddr, process::Command};

use anyhow::{Context, Result};
use mesh_api::resources::{AppAddress, ExternalWorkload, ExternalWorkloadSpec, Resource, Run, Upstream, WorkloadPort};

use super::{Mesh, READY, objects, put};
use crate::{bin, process::Process, stage::Stage};

/// One workload: a program with its sidecar.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    object: ExternalWorkload,
    calls: Vec<String>,
}

impl Workload {
    /// A workload without ports, account `NAME`, label `app: NAME`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self::of(namespace, name, name)
    }

    /// One instance of a service: account and label `app` are the service's name.
    #[must_use]
    pub fn of(namespace: &str, service: &str, name: &str) -> Self {
        let mut metadata = objects::metadata(namespace, name);
        metadata.labels.insert("app".to_owned(), service.to_owned());
        let spec =
            ExternalWorkloadSpec { service_account: Some(service.to_owned()), ..ExternalWorkloadSpec::default() };
        Self { object: ExternalWorkload { metadata, spec }, calls: Vec::new() }
    }

    /// Adds a port: the number that peers use, and where the program listens.
    #[must_use]
    pub fn port(mut self, port: u16, app: SocketAddr, protocol: Option<&str>) -> Self {
        self.object.spec.ports.push(WorkloadPort {
            name: None,
            port,
            app: Some(AppAddress::Address(app.to_string())),
            app_protocol: protocol.map(str::to_owned),
        });
        self
    }

    /// Lets its program call a service, `NAME.NAMESPACE:PORT`.
    #[must_use]
    pub fn calls(mut self, service: &str) -> Self {
        self.calls.push(service.to_owned());
        self
    }

    /// Has the mesh start its program.
    #[must_use]
    pub fn run(mut self, command: &Command) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        self.object.spec.run =
            Some(Run { command: words.map(|word| word.to_string_lossy().into_owned()).collect(), ..Run::default() });
        self
    }
}

/// What is to be in a mesh.
#[derive(Debug)]
pub struct Plan<'a> {
    stage: &'a Stage,
    objects: Vec<Resource>,
    settings: Vec<(String, String)>,
    upstreams: BTreeMap<(String, String), SocketAddr>,
    inbound: BTreeMap<(String, u16), SocketAddr>,
}

impl<'a> Plan<'a> {
    /// An empty mesh.
    #[must_use]
    pub fn new(stage: &'a Stage) -> Self {
        let (objects, settings) = (Vec::new(), Vec::new());
        Self { stage, objects, settings, upstreams: BTreeMap::new(), inbound: BTreeMap::new() }
    }

    /// Adds an object.
    #[must_use]
    pub fn object(mut self, object: Resource) -> Self {
        self.objects.push(object);
        self
    }

    /// Adds a workload, with an address of its own and one for each service that it calls.
    ///
    /// # Errors
    /// Where the stage has no addresses left.
    pub fn workload(mut self, workload: Workload) -> Result<Self> {
        let Workload { mut object, calls } = workload;
        let id = format!("{}/{}", object.metadata.namespace, object.metadata.name);
        let address = self.stage.lease().address()?;
        object.spec.address = address.to_string();
        for port in &object.spec.ports {
            self.inbound.insert((id.clone(), port.port), (address, port.port).into());
        }
        for service in calls {
            let listen = self.stage.lease().local()?;
            object
                .spec
                .upstreams
                .push(Upstream { service: service.clone(), listen: AppAddress::Address(listen.to_string()) });
            self.upstreams.insert((id.clone(), service), listen);
        }
        self.objects.push(Resource::ExternalWorkload(object));
        Ok(self)
    }

    /// Sets something of `meshctl up`, as with `--set`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until all of it is ready.
    ///
    /// # Errors
    /// Where there is no `meshctl`, or the mesh does not get ready.
    pub fn start(self) -> Result<Mesh> {
        let meshctl = bin::meshctl()?;
        let (manifests, drafts) = (self.stage.subdir("manifests")?, self.stage.subdir("drafts")?);
        let state = self.stage.subdir("state")?;
        for object in &self.objects {
            put(&drafts, &manifests, &objects::file_name(object), &objects::document(object)?)?;
        }
        let mut command = Command::new(meshctl);
        command.arg("up").arg("-f").arg(&manifests).arg("--state").arg(&state).current_dir(self.stage.dir());
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        // A state of an earlier mesh on this stage would be taken for this one's.
        match fs::remove_file(state.join("mesh.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("an old mesh.json");
            }
            _ => {}
        }
        let process = Process::start("meshctl", &command, self.stage.dir())?;
        let (upstreams, inbound) = (self.upstreams, self.inbound);
        let mut mesh = Mesh { process, manifests, drafts, state, upstreams, inbound };
        mesh.process.wait_for_line_that("says 'ready'", |line| line.trim() == "ready", READY)?;
        mesh.state()?;
        Ok(mesh)
    }
}
