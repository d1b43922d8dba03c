//! The admin server, asked as people, monitoring, web pages and slow clients ask.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, StatusCode};
use mesh_api::{
    admin::{self, Admin, AdminRequest, Answer, Mount},
    log::{LogConfig, LogLevel},
    sys::Sys,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod server {
    use super::*;

    #[derive(Default)]
    struct Process {
        not_ready: Mutex<Option<String>>,
    }

    impl Mount for Process {
        fn answer<'a>(&'a self, request: &'a AdminRequest) -> Answer<'a> {
            Box::pin(async move {
                match request.path.as_str() {
                    "/echo" => Some(admin::text(StatusCode::OK, request.body.clone())),
                    "/query" => Some(admin::json(StatusCode::OK, &request.query)),
                    "/panic" => panic!("on purpose"),
                    "/live" => Some(admin::text(StatusCode::OK, "the common page comes first")),
                    _ => None,
                }
            })
        }

        fn index(&self) -> Vec<(&'static str, &'static str)> {
            vec![("/echo", "says it again")]
        }

        fn not_ready(&self) -> Option<String> {
            self.not_ready.lock().unwrap().clone()
        }
    }

    struct Scene {
        address: SocketAddr,
        process: Arc<Process>,
        serving: JoinHandle<()>,
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            self.serving.abort();
        }
    }

    struct Reply {
        status: u16,
        head: String,
        body: String,
    }

    impl Scene {
        async fn new() -> Self {
            Self::with(LogLevel::default()).await
        }

        async fn with(log: LogLevel) -> Self {
            let listener = admin::bind(&Sys::host(), SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let address = listener.local_addr().unwrap();
            let process = Arc::new(Process::default());
            let recorder = PrometheusBuilder::new().build_recorder();
            let metrics = Some(recorder.handle());
            let mount = Arc::clone(&process) as Arc<dyn Mount>;
            let serving = tokio::spawn(admin::serve(listener, Admin { mount, log, metrics }));
            Self { address, process, serving }
        }

        /// Sends these bytes; the answer, where there is one before the connection ends.
        async fn raw(&self, bytes: &[u8]) -> Option<Reply> {
            let mut tcp = TcpStream::connect(self.address).await.unwrap();
            // The answer may come before everything is said.
            let _ = tcp.write_all(bytes).await;
            let mut all = Vec::new();
            let _ = timeout(LIMIT, tcp.read_to_end(&mut all)).await.expect("no end");
            let all = String::from_utf8(all).unwrap();
            let (head, body) = all.split_once("\r\n\r\n")?;
            let status = head.split(' ').nth(1)?.parse().ok()?;
            Some(Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
        }

        async fn ask(&self, method: Method, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
            let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
            for (name, value) in headers {
                request.push_str(&format!("{name}: {value}\r\n"));
            }
            request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
            self.raw(request.as_bytes()).await.expect("no answer")
        }

        async fn get(&self, target: &str) -> Reply {
            let host = self.address.to_string();
            self.ask(Method::GET, target, &[("Host", &host)], "").await
        }
    }

    #[tokio::test]
    async fn the_common_pages_answer() {
        let scene = Scene::new().await;
        let live = scene.get("/live").await;
        assert_eq!((live.status, live.body.as_str()), (200, "live\n"));
        let index = scene.get("/").await;
        for line in ["/live", "/ready", "/metrics", "/log-level", "/echo       says it again"] {
            assert!(index.body.contains(line), "{line} in {}", index.body);
        }
        let metrics = scene.get("/metrics").await;
        assert_eq!(metrics.status, 200);
        assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
        assert_eq!(scene.get("/none").await.status, 404);
        let query = scene.get("/query?a=b&c").await;
        assert_eq!(query.body, "\"a=b&c\"");
        assert!(query.head.contains("content-type: application/json"));
    }

    #[tokio::test]
    async fn ready_says_why_it_is_not() {
        let scene = Scene::new().await;
        assert_eq!(scene.get("/ready").await.status, 200);
        *scene.process.not_ready.lock().unwrap() = Some("no certificate yet".into());
        let reply = scene.get("/ready").await;
        assert_eq!((reply.status, reply.body.as_str()), (503, "not ready: no certificate yet\n"));
        assert_eq!(scene.get("/live").await.status, 200);
        *scene.process.not_ready.lock().unwrap() = None;
        assert_eq!(scene.get("/ready").await.status, 200);
    }

    #[tokio::test]
    async fn it_is_asked_by_address_only() {
        let scene = Scene::new().await;
        let status = async |host: &str| scene.ask(Method::GET, "/live", &[("Host", host)], "").await.status;
        for host in ["127.0.0.1", "127.0.0.1:15490", "localhost", "localhost:15490", "[::1]", "[::1]:15490", "10.1.2.3"]
        {
            assert_eq!(status(host).await, 200, "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:15490",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "localhost:evil",
            "localhost:99999",
            "127.0.0.1:15490:1",
            "127.0.0.1@evil.test",
            "evil.test/127.0.0.1",
            "",
        ] {
            assert_eq!(status(host).await, 403, "{host}");
        }
        // Without a host, and with two of them.
        assert_eq!(scene.ask(Method::GET, "/live", &[], "").await.status, 403);
        let two = [("Host", "127.0.0.1"), ("Host", "evil.test")];
        assert_eq!(scene.ask(Method::GET, "/live", &two, "").await.status, 403);
        // An absolute target names a host, too.
        let host = [("Host", "127.0.0.1")];
        assert_eq!(scene.ask(Method::GET, "http://evil.test/live", &host, "").await.status, 403);
        assert_eq!(scene.ask(Method::GET, "http://127.0.0.1/live", &host, "").await.status, 200);
    }

    #[tokio::test]
    async fn pages_may_not_ask() {
        let scene = Scene::new().await;
        for origin in ["https://evil.test", "null", "http://127.0.0.1:15490", ""] {
            let headers = [("Host", "127.0.0.1:15490"), ("Origin", origin)];
            for method in [Method::GET, Method::PUT, Method::POST, Method::OPTIONS] {
                let reply = scene.ask(method.clone(), "/log-level", &headers, "trace").await;
                assert_eq!(reply.status, 403, "{method} from {origin}");
                assert!(!reply.head.contains("access-control"), "{}", reply.head);
            }
        }
        // What browsers say of a request that a page of somebody else caused without an Origin.
        for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
            let headers = [("Host", "127.0.0.1:15490"), ("Sec-Fetch-Site", site)];
            assert_eq!(scene.ask(Method::GET, "/live", &headers, "").await.status, status, "{site}");
        }
    }

    #[tokio::test]
    async fn bodies_have_a_limit() {
        let scene = Scene::new().await;
        let host = [("Host", "127.0.0.1")];
        let most = "x".repeat(64 * 1024);
        let reply = scene.ask(Method::POST, "/echo", &host, &most).await;
        assert_eq!((reply.status, reply.body.len()), (200, most.len()));
        let reply = scene.ask(Method::POST, "/echo", &host, &(most.clone() + "x")).await;
        assert_eq!(reply.status, 413);
        // In chunks nothing announces the length.
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        let head = "POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let reply = scene.raw(format!("{head}{}0\r\n\r\n", chunk.repeat(17)).as_bytes()).await.unwrap();
        assert_eq!(reply.status, 413);
        assert_eq!(scene.get("/live").await.status, 200);
    }

    #[tokio::test]
    async fn heads_have_a_limit() {
        let scene = Scene::new().await;
        let long = "x".repeat(64 * 1024);
        let host = [("Host", "127.0.0.1"), ("X-Long", long.as_str())];
        assert_eq!(scene.ask(Method::GET, "/live", &host, "").await.status, 431);
        for junk in ["GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n no\r\n\r\n", "\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
            assert!(scene.raw(junk.as_bytes()).await.is_none_or(|reply| reply.status == 400), "{junk:?}");
        }
        assert_eq!(scene.get("/live").await.status, 200);
    }

    #[tokio::test]
    async fn the_log_level_changes_while_the_process_runs() {
        let level = mesh_api::log::init(&LogConfig::default()).unwrap();
        let scene = Scene::with(level).await;
        let host = [("Host", "127.0.0.1")];
        assert_eq!(scene.get("/log-level").await.body, "info\n");
        let put = scene.ask(Method::PUT, "/log-level", &host, "warn,mesh_api=debug\n").await;
        assert_eq!(put.status, 200);
        assert!(put.body.contains("mesh_api=debug") && put.body.contains("warn"), "{}", put.body);
        assert!(tracing::enabled!(target: "mesh_api", tracing::Level::DEBUG));
        assert!(!tracing::enabled!(target: "other", tracing::Level::INFO));
        for wrong in ["mesh_api=loud", "a=b=c", "=", &"x".repeat(1000).replace('x', "[")] {
            let reply = scene.ask(Method::PUT, "/log-level", &host, wrong).await;
            assert_eq!(reply.status, 400, "{wrong}: {}", reply.body);
            assert!(reply.body.len() < 1000);
            assert!(scene.get("/log-level").await.body.contains("mesh_api=debug"), "{wrong} changed it");
        }
        assert_eq!(scene.ask(Method::POST, "/log-level", &host, "info").await.status, 404);
        let back = scene.ask(Method::PUT, "/log-level", &host, "info").await;
        assert_eq!(back.body, "info\n");
    }

    #[tokio::test]
    async fn without_logging_of_its_own_the_level_is_refused() {
        let scene = Scene::new().await;
        let reply = scene.ask(Method::PUT, "/log-level", &[("Host", "127.0.0.1")], "debug").await;
        assert_eq!(reply.status, 400, "{}", reply.body);
    }

    #[tokio::test]
    async fn the_process_answers_after_the_common_pages_and_its_panic_ends_one_connection() {
        let scene = Scene::new().await;
        assert_eq!(scene.get("/live").await.body, "live\n");
        let head = "GET /panic HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        assert!(scene.raw(head.as_bytes()).await.is_none());
        assert_eq!(scene.get("/live").await.status, 200);
    }

    /// More of each kind of slow client than there are connections: each is hung up on, and the next is answered.
    #[tokio::test]
    async fn slow_clients_are_hung_up_on() {
        let head = "GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n";
        let body = "POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\nx".to_owned();
        let idle = format!("{head}\r\n");
        let kinds = async |bytes: &str| {
            let scene = Scene::new().await;
            let mut slow = Vec::new();
            for _ in 0..70 {
                let mut tcp = TcpStream::connect(scene.address).await.unwrap();
                tcp.write_all(bytes.as_bytes()).await.unwrap();
                slow.push(tcp);
            }
            let reply = timeout(Duration::from_secs(25), scene.get("/live")).await;
            assert!(reply.is_ok_and(|reply| reply.status == 200), "{bytes:?} keeps others out");
            for mut tcp in slow {
                let ended = timeout(LIMIT, tcp.read_to_end(&mut Vec::new())).await;
                assert!(ended.is_ok(), "{bytes:?} is never hung up on");
            }
        };
        tokio::join!(kinds(""), kinds(head), kinds(&body), kinds(&idle));
    }

    /// One peer with far more connections than it may have, of which each that is closed is opened again: whoever asks from
    /// another address, as kubelets do, is answered at once.
    #[tokio::test]
    async fn a_peer_with_many_connections_keeps_nobody_else_out() {
        let scene = Scene::new().await;
        let address = scene.address;
        let (said, mut hearing) = tokio::sync::watch::channel(0_u32);
        let mut flood = JoinSet::new();
        for number in 0..200 {
            let said = said.clone();
            flood.spawn(async move {
                loop {
                    let mut tcp = TcpStream::connect(address).await.unwrap();
                    let get = b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
                    if number % 2 == 0 && tcp.write_all(get).await.is_ok() {
                        let _ = tcp.read(&mut [0; 1024]).await;
                        said.send_modify(|said| *said += 1);
                    }
                    let asking = async {
                        // Now and then one more, so that it never seems to be idle.
                        while number % 2 == 0 && tcp.write_all(get).await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(200)).await;
                        }
                    };
                    asking.await;
                    let _ = tcp.read_to_end(&mut Vec::new()).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
        timeout(LIMIT, hearing.wait_for(|said| *said >= 100)).await.unwrap().unwrap();
        for _ in 0..20 {
            let probing = async {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
                let mut tcp = socket.connect(address).await.unwrap();
                tcp.write_all(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                tcp.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let answer = timeout(Duration::from_secs(2), probing).await.expect("a probe was kept out");
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(answer.ends_with("ready\n"), "{answer}");
        }
        let open = flood.len();
        assert_eq!(open, 200, "somebody of the flood gave up");
    }

    #[tokio::test]
    async fn who_says_nothing_is_hung_up_on_soon() {
        let scene = Scene::new().await;
        let mut silent = TcpStream::connect(scene.address).await.unwrap();
        let mut slow = TcpStream::connect(scene.address).await.unwrap();
        slow.write_all(b"GET /live HTTP/1.1\r\nHost").await.unwrap();
        for tcp in [&mut silent, &mut slow] {
            let ended = timeout(Duration::from_secs(5), tcp.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "it is waited for");
        }
    }

    #[tokio::test]
    async fn nothing_is_left_when_it_is_dropped() {
        let scene = Scene::new().await;
        let mut open = TcpStream::connect(scene.address).await.unwrap();
        open.write_all(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
        let mut some = [0; 8];
        timeout(LIMIT, open.read_exact(&mut some)).await.unwrap().unwrap();
        assert_eq!(&some, b"HTTP/1.1");
        drop(scene);
        let ended = timeout(Duration::from_secs(5), open.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection outlived the server");
    }
}
