//! A server on loopback whose peers say who they are in a header, and a client that waits with a bound.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mesh_api::{
    convert::{delta_from_proto, destination_from_proto},
    model::destination::Destination,
    proto::{
        self, WatchRequest, WatchResponse, discovery_client::DiscoveryClient, watch_request::Message,
        watch_response::Body,
    },
    spiffe::SpiffeId,
    sys::Clock,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Status, Streaming, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    fixtures::{objects, settings},
    serve::{DiscoveryService, Hub, Limits, stream::Requests},
    source::Event,
    telemetry::Telemetry,
};

const IN_TIME: Duration = Duration::from_secs(30);

pub fn hub(events: Vec<Event>, limits: Limits) -> Arc<Hub> {
    let hub = Hub::new(settings(), limits, Clock::Host, Arc::new(Telemetry::new().unwrap()));
    hub.commit(events);
    hub
}

/// Waits until something holds.
pub async fn eventually(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(IN_TIME, wait).await.expect("it holds in time");
}

/// A workload of namespace `shop` on port 8080, also named `http`.
pub fn workload_yaml(name: &str, app: &str, n: usize) -> String {
    format!(
        "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
         spec: {{serviceAccount: {app}, address: 10.1.{}.{}, ports: [{{name: http, port: 8080}}]}}",
        n / 250,
        n % 250 + 1
    )
}

pub struct Server {
    pub hub: Arc<Hub>,
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(events: Vec<Event>) -> Self {
        Self::start_with(events, Limits::default()).await
    }

    pub async fn start_with(events: Vec<Event>, limits: Limits) -> Self {
        let hub = hub(events, limits);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = DiscoveryService::new(hub.clone(), Arc::new(|extensions| extensions.get::<SpiffeId>().cloned()));
        let named = InterceptedService::new(service.into_server(), |mut request: Request<()>| {
            let id =
                request.metadata().get("test-identity").and_then(|value| value.to_str().ok()?.parse::<SpiffeId>().ok());
            if let Some(id) = id {
                request.extensions_mut().insert(id);
            }
            Ok(request)
        });
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(named);
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { hub, address, task }
    }

    pub fn apply(&self, yaml: &str) {
        self.hub.commit(objects(yaml).into_iter().map(|object| Event::Apply(Box::new(object))));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn hello(namespace: &str, workload: &str) -> Message {
    Message::Hello(proto::Hello { namespace: namespace.into(), workload: workload.into(), ..proto::Hello::default() })
}

pub fn subscribe(target: &str, version: &str) -> Message {
    Message::Subscribe(proto::Subscribe { key: Some(key(target)), version: version.into() })
}

fn key(target: &str) -> proto::Key {
    proto::Key { key: Some(proto::key::Key::Destination(target.into())) }
}

pub fn key_of(message: &WatchResponse) -> String {
    match message.key.as_ref().and_then(|key| key.key.as_ref()) {
        Some(proto::key::Key::Destination(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

/// Requests that a test sends to an actor without any network.
pub struct Fake(mpsc::Receiver<WatchRequest>);

impl Requests for Fake {
    async fn next(&mut self) -> Result<Option<WatchRequest>, Status> {
        Ok(self.0.recv().await)
    }
}

pub fn requests(messages: Vec<Message>) -> (mpsc::Sender<WatchRequest>, Fake) {
    let (sender, receiver) = mpsc::channel(10_000);
    for message in messages {
        sender.try_send(WatchRequest { message: Some(message) }).unwrap();
    }
    (sender, Fake(receiver))
}

pub struct Client {
    requests: mpsc::Sender<WatchRequest>,
    responses: Result<Streaming<WatchResponse>, Status>,
}

impl Client {
    pub async fn hello(server: &Server, identity: &str, namespace: &str, workload: &str) -> Self {
        let client = Self::connect(server, identity, vec![hello(namespace, workload)]).await;
        assert!(client.responses.is_ok(), "{:?}", client.responses);
        client
    }

    pub async fn connect(server: &Server, identity: &str, messages: Vec<Message>) -> Self {
        // Small windows, so that a client that does not read is felt soon.
        let endpoint = Channel::from_shared(format!("http://{}", server.address)).unwrap();
        let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let channel = endpoint.connect().await.unwrap();
        let (requests, receiver) = mpsc::channel(64);
        for message in messages {
            requests.try_send(WatchRequest { message: Some(message) }).unwrap();
        }
        let mut request = Request::new(ReceiverStream::new(receiver));
        if !identity.is_empty() {
            request.metadata_mut().insert("test-identity", identity.parse().unwrap());
        }
        let responses = DiscoveryClient::new(channel).watch(request).await.map(tonic::Response::into_inner);
        Self { requests, responses }
    }

    async fn send(&self, message: Message) {
        self.requests.send(WatchRequest { message: Some(message) }).await.expect("the stream is open");
    }

    pub async fn subscribe(&self, target: &str, version: &str) {
        self.send(subscribe(target, version)).await;
    }

    pub async fn subscribe_inbound(&self) {
        let key = Some(proto::Key { key: Some(proto::key::Key::Inbound(true)) });
        self.send(Message::Subscribe(proto::Subscribe { key, version: String::new() })).await;
    }

    pub async fn unsubscribe(&self, target: &str) {
        self.send(Message::Unsubscribe(proto::Unsubscribe { key: Some(key(target)) })).await;
    }

    pub async fn ack(&self, message: &WatchResponse) {
        self.send(Message::Ack(proto::Ack { key: message.key.clone(), version: message.version.clone() })).await;
    }

    pub async fn nack(&self, message: &WatchResponse, reason: &str) {
        let (key, version, reason) = (message.key.clone(), message.version.clone(), reason.into());
        self.send(Message::Nack(proto::Nack { key, version, reason })).await;
    }

    pub async fn next(&mut self) -> WatchResponse {
        let responses = self.responses.as_mut().expect("the stream is open");
        tokio::time::timeout(IN_TIME, responses.message()).await.expect("in time").expect("open").expect("a message")
    }

    /// Sends something that is answered at once, and checks that nothing else is before the answer.
    pub async fn is_silent(&mut self) {
        // The answer to a wrong name does not wait for the source.
        let quiet = tokio::time::timeout(Duration::from_millis(100), self.responses.as_mut().unwrap().message()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }

    /// The status with which the stream ends.
    pub async fn end(self) -> Code {
        let mut responses = match self.responses {
            Ok(responses) => responses,
            Err(status) => return status.code(),
        };
        let drain = async {
            loop {
                match responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Code::Ok,
                    Err(status) => return status.code(),
                }
            }
        };
        tokio::time::timeout(IN_TIME, drain).await.expect("it ends in time")
    }

    /// Does what a proxy does until it holds `wanted`; answers what it holds, and how many whole states and changes came.
    pub async fn follow(&mut self, key: &str, wanted: &Destination) -> (Destination, usize, usize) {
        let (mut held, mut version, mut whole, mut changes) = (None, String::new(), 0, 0);
        loop {
            let message = self.next().await;
            assert_eq!(key_of(&message), key);
            match message.body {
                Some(Body::Destination(wire)) => {
                    held = Some(destination_from_proto(wire).unwrap());
                    whole += 1;
                }
                Some(Body::Delta(delta)) => {
                    assert_eq!(delta.base_version, version);
                    held.as_mut().unwrap().apply(delta_from_proto(delta).unwrap()).unwrap();
                    changes += 1;
                }
                other => panic!("{other:?}"),
            }
            version = message.version;
            if held.as_ref() == Some(wanted) {
                return (wanted.clone(), whole, changes);
            }
        }
    }
}
