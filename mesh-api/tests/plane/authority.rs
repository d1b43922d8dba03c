//! A small certificate authority that answers as the test tells it, over the real channel.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use mesh_api::{
    grpc::{self, Peer},
    names::{ALPN_GRPC, CA_ACCOUNT, SYSTEM_NAMESPACE},
    proto::{
        CertifyRequest, CertifyResponse, TrustBundle, WatchTrustRequest,
        identity_server::{Identity, IdentityServer},
    },
    sys::{Clock, Sys},
    tls::{self, ClientAuth, Credentials, Keeper},
};
use tokio::sync::{oneshot, watch};
use tonic::{Request, Response, Status};

use crate::forge::{Authority, DOMAIN, Leaf, WEB};

/// No test waits longer for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The identity of the authority.
pub fn authority_id() -> String {
    format!("spiffe://{DOMAIN}/ns/{SYSTEM_NAMESPACE}/sa/{CA_ACCOUNT}")
}

/// What the authority does with a request.
#[derive(Clone, Debug, Default)]
pub enum Mood {
    /// Signs what it is asked to.
    #[default]
    Good,
    /// Refuses.
    Refuses,
    /// Never answers.
    Silent,
    /// Answers this chain.
    Answers(Vec<Vec<u8>>),
    /// Signs this instead.
    Signs(Leaf),
    /// Signs, and answers this bundle.
    Bundles(TrustBundle),
}

/// What it was asked, and how it shall answer.
#[derive(Default)]
pub struct Desk {
    pub mood: Mood,
    pub asked: Vec<CertifyRequest>,
    pub peers: Vec<Peer>,
    /// How often the trust bundle was asked for.
    pub watched: usize,
    /// Validity of what it signs, in seconds from now.
    pub validity: (i64, i64),
}

/// The authority behind the desk; it outlives its server.
#[derive(Clone)]
pub struct Office {
    pub desk: Arc<Mutex<Desk>>,
    /// Who signs at the moment.
    pub signer: Arc<Mutex<Arc<Authority>>>,
    pub trust: watch::Sender<TrustBundle>,
}

impl Office {
    /// Signs with `root`, and calls that issuer `first`.
    pub fn new(root: &Arc<Authority>) -> Self {
        let desk = Desk { validity: (-1, 3600), ..Desk::default() };
        let trust = bundle(&[root], "first");
        Self {
            desk: Arc::new(Mutex::new(desk)),
            signer: Arc::new(Mutex::new(Arc::clone(root))),
            trust: watch::Sender::new(trust),
        }
    }

    /// How often it was asked to certify.
    pub fn asked(&self) -> usize {
        self.desk.lock().unwrap().asked.len()
    }

    /// How often the trust bundle was asked for.
    pub fn watched(&self) -> usize {
        self.desk.lock().unwrap().watched
    }

    /// From now on.
    pub fn set_mood(&self, mood: Mood) {
        self.desk.lock().unwrap().mood = mood;
    }

    fn answer(&self, request: &CertifyRequest) -> Option<Result<CertifyResponse, Status>> {
        let desk = self.desk.lock().unwrap();
        let signer = Arc::clone(&self.signer.lock().unwrap());
        let mut leaf = Leaf::of(WEB);
        (leaf.from, leaf.until) = desk.validity;
        let mut trust = self.trust.borrow().clone();
        let chain = match &desk.mood {
            Mood::Silent => return None,
            Mood::Refuses => return Some(Err(Status::permission_denied("not you"))),
            Mood::Answers(chain) => chain.clone(),
            Mood::Signs(other) => signer.certify(other, &request.csr),
            Mood::Good => signer.certify(&leaf, &request.csr),
            Mood::Bundles(other) => {
                trust = other.clone();
                signer.certify(&leaf, &request.csr)
            }
        };
        Some(Ok(CertifyResponse { chain, trust: Some(trust), identity: WEB.into() }))
    }
}

/// A bundle as the authority sends it.
pub fn bundle(roots: &[&Authority], issuer: &str) -> TrustBundle {
    let roots = roots.iter().map(|root| root.der().to_vec()).collect();
    TrustBundle { trust_domain: DOMAIN.into(), roots, issuer: issuer.into() }
}

#[tonic::async_trait]
impl Identity for Office {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap();
        let request = request.into_inner();
        {
            let mut desk = self.desk.lock().unwrap();
            desk.peers.push(peer);
            desk.asked.push(request.clone());
        }
        match self.answer(&request) {
            Some(answer) => answer.map(Response::new),
            None => std::future::pending().await,
        }
    }

    type WatchTrustStream = Pin<Box<dyn Stream<Item = Result<TrustBundle, Status>> + Send>>;

    async fn watch_trust(&self, _: Request<WatchTrustRequest>) -> Result<Response<Self::WatchTrustStream>, Status> {
        self.desk.lock().unwrap().watched += 1;
        let bundles = stream::unfold((self.trust.subscribe(), true), |(mut trust, first)| async move {
            if !first {
                trust.changed().await.ok()?;
            }
            let now = trust.borrow_and_update().clone();
            Some((Ok(now), (trust, false)))
        });
        Ok(Response::new(bundles.boxed()))
    }
}

/// A running server with its connections, on a thread of its own: both end when it is dropped.
pub struct Serving {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Serving {
    /// Serves `office` at `address` with these credentials.
    pub async fn start(office: &Office, keeper: &Arc<Keeper>, auth: ClientAuth, address: SocketAddr) -> Self {
        let config = tls::server_config(keeper, Clock::Host, auth, &[ALPN_GRPC]).unwrap();
        let service = IdentityServer::new(office.clone());
        let (stop, stopped) = oneshot::channel();
        let (bound, listening) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = Sys::host().net.bind(address, false).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let server = tonic::transport::Server::builder();
                tokio::select! {
                    ended = server.serve_with_incoming(service, grpc::incoming(listener, config)) => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let address = listening.await.unwrap();
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Ends it; answers the address, which is free again.
    pub fn stop(self) -> SocketAddr {
        self.address
    }
}

/// Where a test's server listens first.
pub fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Credentials of `id` under `root`, which is all they trust.
pub fn keeper(root: &Authority, id: &str) -> Arc<Keeper> {
    let identity = Some(Arc::new(root.issue(&Leaf::of(id)).identity()));
    Keeper::new(Credentials { identity, trust: Arc::new(root.bundle(DOMAIN)) })
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let polling = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, polling).await.is_ok(), "waited too long: {what}");
}
