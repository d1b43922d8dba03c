//! gRPC through two sidecars, with a real client and a real server of it: all four kinds of calls, errors, deadlines,
//! cancellation, refusals.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_api::{
    model::Protocol,
    proto::{
        self, discovery_client::DiscoveryClient, discovery_server, identity_client::IdentityClient, identity_server,
        watch_request::Message,
    },
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};

use self::{
    apps::{until, within},
    mesh::{Pair, open},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

/// The mesh's own services, with other meanings: the token says what to do.
#[derive(Clone, Default)]
struct App {
    /// Calls that are being worked on.
    busy: Arc<AtomicUsize>,
}

struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn begin(app: &App) -> Self {
        app.busy.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&app.busy))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl identity_server::Identity for App {
    async fn certify(
        &self,
        request: Request<proto::CertifyRequest>,
    ) -> Result<Response<proto::CertifyResponse>, Status> {
        let _busy = Busy::begin(self);
        let caller = request.metadata().get("mesh-client-id").map(|id| id.to_str().unwrap().to_owned());
        let request = request.into_inner();
        match &*request.token {
            "fail" => return Err(Status::with_details(Code::NotFound, "not \u{e4} thing", vec![1, 2, 3].into())),
            "hang" => std::future::pending().await,
            _ => {}
        }
        let mut response = Response::new(proto::CertifyResponse {
            chain: vec![request.csr],
            identity: caller.unwrap_or_default(),
            trust: None,
        });
        response.metadata_mut().insert("x-app", "yes".parse().unwrap());
        Ok(response)
    }

    type WatchTrustStream = ReceiverStream<Result<proto::TrustBundle, Status>>;

    async fn watch_trust(
        &self,
        _: Request<proto::WatchTrustRequest>,
    ) -> Result<Response<Self::WatchTrustStream>, Status> {
        let (sender, stream) = mpsc::channel(1);
        let busy = Busy::begin(self);
        tokio::spawn(async move {
            let _busy = busy;
            for n in 0..100 {
                let bundle = proto::TrustBundle {
                    trust_domain: n.to_string(),
                    roots: vec![vec![7; 10_000]],
                    issuer: "i".into(),
                };
                if sender.send(Ok(bundle)).await.is_err() {
                    return;
                }
            }
            let _ = sender.send(Err(Status::data_loss("that was all"))).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl discovery_server::Discovery for App {
    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    /// Answers each acknowledgement with its version, the end of all with how many there were.
    async fn watch(
        &self,
        request: Request<Streaming<proto::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let busy = Busy::begin(self);
        let mut requests = request.into_inner();
        let (sender, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let _busy = busy;
            let mut count = 0;
            let answer = |version: String| proto::WatchResponse { key: None, version, body: None };
            while let Some(Ok(request)) = requests.next().await {
                count += 1;
                if let Some(Message::Ack(ack)) = request.message
                    && sender.send(Ok(answer(ack.version))).await.is_err()
                {
                    return;
                }
            }
            let _ = sender.send(Ok(answer(format!("{count} in all")))).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn serve(app: App) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(identity_server::IdentityServer::new(app.clone()))
            .add_service(discovery_server::DiscoveryServer::new(app))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    address
}

async fn start(protocol: Protocol) -> (Pair, App, Channel) {
    let app = App::default();
    let pair = Pair::start(serve(app.clone()).await, protocol, open(protocol)).await;
    let channel = Channel::from_shared(format!("http://{}", pair.entry)).unwrap().connect().await.unwrap();
    (pair, app, channel)
}

fn certify(token: &str) -> proto::CertifyRequest {
    proto::CertifyRequest { csr: b"the request".to_vec(), token: token.into(), validity_seconds: 0 }
}

fn acknowledge(version: &str) -> proto::WatchRequest {
    proto::WatchRequest { message: Some(Message::Ack(proto::Ack { key: None, version: version.into() })) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_calls() {
    for protocol in [Protocol::Grpc, Protocol::Detect] {
        let (_pair, _, channel) = start(protocol).await;
        let mut unary = IdentityClient::new(channel.clone());
        let response = within(unary.certify(certify("x"))).await.unwrap();
        assert_eq!(response.metadata().get("x-app").unwrap(), "yes");
        let response = response.into_inner();
        assert_eq!(response.chain, [b"the request"]);
        assert_eq!(response.identity, "spiffe://test.mesh/ns/shop/sa/web");

        let mut stream = within(unary.watch_trust(proto::WatchTrustRequest {})).await.unwrap().into_inner();
        for n in 0..100 {
            assert_eq!(within(stream.message()).await.unwrap().unwrap().trust_domain, n.to_string());
        }
        let end = within(stream.message()).await.unwrap_err();
        assert_eq!((end.code(), end.message()), (Code::DataLoss, "that was all"));

        // One after the other: neither side waits for the other's end.
        let mut both = DiscoveryClient::new(channel);
        let (sender, requests) = mpsc::channel(1);
        sender.send(acknowledge("0")).await.unwrap();
        let mut answers = within(both.watch(ReceiverStream::new(requests))).await.unwrap().into_inner();
        for n in 0..50 {
            assert_eq!(within(answers.message()).await.unwrap().unwrap().version, n.to_string());
            sender.send(acknowledge(&(n + 1).to_string())).await.unwrap();
        }
        drop(sender);
        assert_eq!(within(answers.message()).await.unwrap().unwrap().version, "50");
        assert_eq!(within(answers.message()).await.unwrap().unwrap().version, "51 in all");
        assert!(within(answers.message()).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_keep_their_code_message_and_details() {
    let (pair, _, channel) = start(Protocol::Grpc).await;
    let error = within(IdentityClient::new(channel).certify(certify("fail"))).await.unwrap_err();
    assert_eq!((error.code(), error.message(), error.details()), (Code::NotFound, "not \u{e4} thing", &[1, 2, 3][..]));
    for (proxy, direction) in [(&pair.client, "outbound"), (&pair.server, "inbound")] {
        until("it is counted", async || {
            proxy.metric(&["mesh_requests_total", direction, "protocol=\"grpc\"", "\"error\""]).await == Some(1.0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g32_deadlines_and_cancellation_end_the_work() {
    let (_pair, app, channel) = start(Protocol::Grpc).await;
    let mut client = IdentityClient::new(channel.clone());
    let mut request = Request::new(certify("hang"));
    request.set_timeout(Duration::from_millis(300));
    let error = within(client.certify(request)).await.unwrap_err();
    assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error}");
    until("the call is given up", async || app.busy.load(Ordering::SeqCst) == 0).await;

    let call = tokio::spawn(async move { client.certify(certify("hang")).await });
    until("the call is there", async || app.busy.load(Ordering::SeqCst) == 1).await;
    let begun = Instant::now();
    call.abort();
    while app.busy.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(begun.elapsed() < Duration::from_millis(100), "still worked on");
    }

    // A stream that both sides of the caller left.
    let (sender, requests) = mpsc::channel(1);
    let answers = within(DiscoveryClient::new(channel).watch(ReceiverStream::new(requests))).await.unwrap();
    assert_eq!(app.busy.load(Ordering::SeqCst), 1);
    drop((answers, sender));
    until("the stream is given up", async || app.busy.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g22_refusals_of_the_mesh_are_grpc_too() {
    let (pair, app, channel) = start(Protocol::Grpc).await;
    let mut client = IdentityClient::new(channel);
    pair.plane.change(|world| {
        world.inbound.get_mut("cart-1").unwrap().default_port.default_allow = false;
    });
    until(
        "the policy holds",
        async || matches!(client.certify(certify("x")).await, Err(status) if status.code() == Code::PermissionDenied),
    )
    .await;
    let refused = client.certify(certify("x")).await.unwrap_err();
    assert_eq!(refused.metadata().get("mesh-error").unwrap(), "denied");
    assert_eq!(app.busy.load(Ordering::SeqCst), 0);
    pair.plane.change(|world| {
        for destination in world.destinations.values_mut() {
            for backend in destination.backends.values_mut() {
                backend.endpoints.clear();
            }
        }
    });
    until(
        "nobody is there",
        async || matches!(client.certify(certify("x")).await, Err(status) if status.code() == Code::Unavailable),
    )
    .await;
}
