//! A cluster's API that answers what a test says.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const TOKEN: &str = "the-token-of-the-agent";
const FLAGS: &str = r#"{"version":"0.1.0","cni":true,"redirect":["--proxy-uid=15400","--skip-outbound-ports=25"]}"#;

/// The cluster: its pods, and what was done to them.
#[derive(Default)]
pub struct World {
    pub pods: BTreeMap<String, Value>,
    pub deleted: Vec<Value>,
    pub labelled: Vec<Value>,
    pub asked: usize,
    /// Questions for one pod.
    pub asked_for_one: usize,
    pub token: String,
}

/// A cluster's API. Dropped, its address is free.
pub struct Api {
    pub world: Arc<Mutex<World>>,
    pub address: SocketAddr,
    roots: String,
}

impl Api {
    pub async fn start() -> Self {
        let world = Arc::new(Mutex::new(World { token: TOKEN.into(), ..World::default() }));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![rcgen::SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let certificate = params.self_signed(&key).unwrap();
        let roots = certificate.pem();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let served = Arc::clone(&world);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&served)));
            }
        });
        Self { world, address, roots }
    }

    pub fn pod(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = json!({
            "metadata": {
                "namespace": namespace,
                "name": name,
                "uid": format!("uid-of-{name}"),
                "labels": { "mesh.dev/injected": "true" },
                "annotations": { "mesh.dev/injection": FLAGS },
                "ownerReferences": [{ "controller": true }],
            },
            "status": { "phase": "Pending" },
        });
        change(&mut pod);
        self.world.lock().unwrap().pods.insert(format!("/api/v1/namespaces/{namespace}/pods/{name}"), pod);
    }

    /// A service account, as it is mounted.
    pub fn account(&self, folder: &Path) -> PathBuf {
        let account = folder.join("account");
        fs::create_dir_all(&account).unwrap();
        fs::write(account.join("ca.crt"), &self.roots).unwrap();
        fs::write(account.join("token"), TOKEN).unwrap();
        account
    }

    pub async fn until(&self, what: &str, done: impl Fn(&World) -> bool) {
        super::eventually(what, || done(&self.world.lock().unwrap())).await;
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, world: Arc<Mutex<World>>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| answer(request, Arc::clone(&world)));
    // A client that goes away is its own business.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, world: Arc<Mutex<World>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let sent = || -> Value { serde_json::from_slice(&body).unwrap_or_default() };
    let mut world = world.lock().unwrap();
    world.asked += 1;
    let bearer = head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let (status, value) = if bearer != format!("Bearer {}", world.token) {
        (StatusCode::UNAUTHORIZED, json!({ "message": "who is that" }))
    } else if head.uri.path() == "/api/v1/pods" && query.contains("watch=true") {
        // Too old: the list is to be read anew.
        (StatusCode::OK, json!({ "type": "ERROR", "object": { "code": 410 } }))
    } else if head.uri.path() == "/api/v1/pods" {
        assert!(query.starts_with("fieldSelector=spec.nodeName%3Dnode-1&labelSelector=mesh.dev%2Finjected%3Dtrue"));
        let items: Vec<&Value> = world.pods.values().collect();
        (StatusCode::OK, json!({ "metadata": { "resourceVersion": "7" }, "items": items }))
    } else {
        world.asked_for_one += 1;
        match (head.method, world.pods.get(head.uri.path()).cloned()) {
            (_, None) => (StatusCode::NOT_FOUND, json!({ "message": "no such pod" })),
            (Method::DELETE, Some(pod)) => {
                assert_eq!(sent()["preconditions"]["uid"], pod["metadata"]["uid"]);
                world.pods.remove(head.uri.path());
                world.deleted.push(pod.clone());
                (StatusCode::OK, pod)
            }
            (Method::PATCH, Some(mut pod)) => {
                pod["metadata"]["labels"]["mesh.dev/repair"] = sent()["metadata"]["labels"]["mesh.dev/repair"].clone();
                world.pods.insert(head.uri.path().to_owned(), pod.clone());
                world.labelled.push(pod.clone());
                (StatusCode::OK, pod)
            }
            (_, Some(pod)) => (StatusCode::OK, pod),
        }
    };
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    Ok(response)
}
