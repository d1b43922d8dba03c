//! Carries local connections to a service of the mesh through port-forwards. Each connection finds its pod when it comes,
//! so a pod that was replaced is found again.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{Api, Client, api::ListParams};
use mesh_api::names::{CONTROLLER_ACCOUNT, SYSTEM_NAMESPACE};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::forward::{ForwardError, Target, Tunnel};
use crate::cluster::said;

/// Connections at once; further ones wait.
const MAX_CONNECTIONS: usize = 128;
/// One question to the API server takes at most this long.
const ANSWER: Duration = Duration::from_secs(10);
/// A connection waits this long for a pod that is ready: long enough for one to be replaced.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for one.
const LOOK: Duration = Duration::from_secs(1);
/// After an error of the listener, such as too many open files.
const BREATH: Duration = Duration::from_millis(200);

/// What is carried to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Traces, of the chart mesh-viz.
    Jaeger,
    /// Metrics, of the chart mesh-viz.
    Prometheus,
    /// The admin server of a controller.
    Controller,
}

/// Where it is, by what the charts call it: namespaces, Service, and names of its port.
struct Place {
    namespaces: &'static [&'static str],
    service: &'static str,
    ports: &'static [&'static str],
    hint: &'static str,
}

impl Which {
    fn place(self) -> Place {
        let viz = &["mesh-viz", SYSTEM_NAMESPACE];
        match self {
            Self::Jaeger => Place {
                namespaces: viz,
                service: "jaeger",
                ports: &["query", "http"],
                hint: "install it: meshctl viz install",
            },
            Self::Prometheus => Place {
                namespaces: viz,
                service: "prometheus",
                ports: &["http"],
                hint: "install it: meshctl viz install",
            },
            Self::Controller => Place {
                namespaces: &[SYSTEM_NAMESPACE],
                service: CONTROLLER_ACCOUNT,
                ports: &["admin"],
                hint: "install the mesh: meshctl install",
            },
        }
    }
}

/// Why nothing is carried.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// There is no such thing in the cluster.
    #[error("there is no Service {service} in {namespaces}; {hint}")]
    None {
        /// Its name.
        service: String,
        /// Where it was looked for.
        namespaces: String,
        /// What to do.
        hint: String,
    },
    /// There is one, and it leads to no pods.
    #[error("the Service {0} selects no pods; it was changed, or is somebody else's")]
    NoSelector(String),
    /// The API server does not answer as it should.
    #[error("{what}: {why}")]
    Server {
        /// What was asked.
        what: String,
        /// What happened.
        why: String,
    },
    /// The user may not forward ports.
    #[error(transparent)]
    Forbidden(ForwardError),
    /// No pod became ready in time.
    #[error("no pod of {service} became ready within {}s; kubectl get pods -n {namespace} says why", PATIENCE.as_secs())]
    NoPod {
        /// Service.
        service: String,
        /// Namespace.
        namespace: String,
    },
}

/// Carries connections to one service.
pub struct Relay {
    client: Client,
    namespace: String,
    service: String,
    selector: String,
    port: Port,
    /// The pod that answered last.
    last: Mutex<Option<Target>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("service", &self.service).finish_non_exhaustive()
    }
}

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    Number(u16),
    /// By name, or by number where the pod does not name it.
    Named(String, u16),
}

impl Relay {
    /// Finds out what is to be carried to.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn find(client: Client, which: Which) -> Result<Self, RelayError> {
        let place = which.place();
        for namespace in place.namespaces {
            let services: Api<Service> = Api::namespaced(client.clone(), namespace);
            let what = format!("the Service {namespace}/{}", place.service);
            let Some(service) = asked(&what, services.get_opt(place.service)).await? else { continue };
            let spec = service.spec.unwrap_or_default();
            let pairs = spec.selector.unwrap_or_default();
            if pairs.is_empty() {
                return Err(RelayError::NoSelector(format!("{namespace}/{}", place.service)));
            }
            let selector: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            return Ok(Self {
                client,
                namespace: (*namespace).to_owned(),
                service: place.service.to_owned(),
                selector: selector.join(","),
                port: port(which, &place, spec.ports.as_deref().unwrap_or_default()),
                last: Mutex::new(None),
            });
        }
        Err(RelayError::None {
            service: place.service.to_owned(),
            namespaces: place.namespaces.join(" or "),
            hint: place.hint.to_owned(),
        })
    }

    /// Tries whether ports may be forwarded at all, where there is a pod to try it with.
    ///
    /// # Errors
    /// [`RelayError::Forbidden`], [`RelayError::Server`].
    pub async fn probe(&self) -> Result<(), RelayError> {
        let Some(target) = self.ready_pod().await? else { return Ok(()) };
        match Tunnel::open(&self.client, &target).await {
            Err(error) if error.is_forbidden() => Err(RelayError::Forbidden(error)),
            _ => Ok(()),
        }
    }

    /// Listens on a port, or on the service's own where none is given, or on any where that one is taken.
    ///
    /// # Errors
    /// As the system says.
    pub async fn listen(&self, address: IpAddr, port: Option<u16>) -> io::Result<TcpListener> {
        let usual = match &self.port {
            Port::Number(number) | Port::Named(_, number) => *number,
        };
        match port {
            Some(port) => TcpListener::bind(SocketAddr::new(address, port)).await,
            None => match TcpListener::bind(SocketAddr::new(address, usual)).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    TcpListener::bind(SocketAddr::new(address, 0)).await
                }
                other => other,
            },
        }
    }

    /// Carries until it is dropped, and its connections with it; `trouble` is told what goes wrong, each thing once until
    /// something goes well.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, trouble: impl Fn(&str)) {
        let mut connections: JoinSet<Result<(), String>> = JoinSet::new();
        let mut told = String::new();
        loop {
            tokio::select! {
                ended = connections.join_next(), if !connections.is_empty() => {
                    let ended = match ended {
                        Some(Ok(ended)) => ended,
                        Some(Err(error)) => Err(error.to_string()),
                        None => Ok(()),
                    };
                    match ended {
                        Ok(()) => told.clear(),
                        Err(why) if why != told => {
                            trouble(&why);
                            told = why;
                        }
                        Err(_) => {}
                    }
                }
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(Arc::clone(&self).carry(stream))),
                    Err(error) => {
                        trouble(&error.to_string());
                        sleep(BREATH).await;
                    }
                },
            }
        }
    }

    async fn carry(self: Arc<Self>, mut stream: TcpStream) -> Result<(), String> {
        let mut tunnel = self.tunnel().await.map_err(|error| error.to_string())?;
        match copy_bidirectional(&mut stream, &mut tunnel).await {
            // A client that leaves is nothing to speak of.
            Ok((_, received)) if received > 0 => Ok(()),
            Ok(_) | Err(_) => match tunnel.last_word().await {
                Some(why) => {
                    self.forget();
                    Err(format!("{}: {why}", self.service))
                }
                None => Ok(()),
            },
        }
    }

    /// A tunnel to the pod that answered last, else to whichever becomes ready.
    async fn tunnel(&self) -> Result<Tunnel, RelayError> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(target) = last {
            if let Ok(tunnel) = Tunnel::open(&self.client, &target).await {
                return Ok(tunnel);
            }
            self.forget();
        }
        let end = Instant::now() + PATIENCE;
        loop {
            // What went wrong with one pod may go well with its successor.
            if let Some(target) = self.ready_pod().await? {
                match Tunnel::open(&self.client, &target).await {
                    Ok(tunnel) => {
                        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
                        return Ok(tunnel);
                    }
                    Err(error) if error.is_forbidden() => return Err(RelayError::Forbidden(error)),
                    Err(_) => {}
                }
            }
            if Instant::now() >= end {
                return Err(RelayError::NoPod { service: self.service.clone(), namespace: self.namespace.clone() });
            }
            sleep(LOOK).await;
        }
    }

    fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn ready_pod(&self) -> Result<Option<Target>, RelayError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels(&self.selector);
        let pods = asked(&format!("the pods of {}", self.service), pods.list(&params)).await?;
        let ready = pods.items.into_iter().find(is_ready);
        Ok(ready.and_then(|pod| {
            let port = self.port.of(&pod);
            Some(Target { namespace: self.namespace.clone(), pod: pod.metadata.name?, port })
        }))
    }
}

async fn asked<T>(what: &str, asking: impl Future<Output = kube::Result<T>>) -> Result<T, RelayError> {
    let failed = |why| RelayError::Server { what: what.to_owned(), why };
    match timeout(ANSWER, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(said(&error))),
        Err(_) => Err(failed(format!("the API server did not answer within {}s", ANSWER.as_secs()))),
    }
}

/// The port of the pods behind a Service; the controller's admin server has none.
fn port(which: Which, place: &Place, ports: &[ServicePort]) -> Port {
    let usual = match which {
        Which::Jaeger => 16_686,
        Which::Prometheus => 9_090,
        Which::Controller => 15_421,
    };
    let named = |name: &&str| ports.iter().find(|port| port.name.as_deref() == Some(*name));
    match place.ports.iter().find_map(named) {
        None => Port::Named(place.ports.first().copied().unwrap_or_default().to_owned(), usual),
        Some(port) => {
            let number = u16::try_from(port.port).unwrap_or(usual);
            match &port.target_port {
                Some(IntOrString::Int(target)) => Port::Number(u16::try_from(*target).unwrap_or(number)),
                Some(IntOrString::String(name)) => Port::Named(name.clone(), number),
                None => Port::Number(number),
            }
        }
    }
}

impl Port {
    fn of(&self, pod: &Pod) -> u16 {
        match self {
            Self::Number(number) => *number,
            Self::Named(name, usual) => {
                let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
                let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
                let port = ports.find(|port| port.name.as_deref() == Some(name.as_str()));
                port.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(*usual)
            }
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests;
