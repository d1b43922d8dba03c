use std::net::Ipv4Addr;

use http_body_util::BodyExt as _;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::*;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn probe(at: &str, port: u16, https: Option<Get>) -> Probe {
    Probe { at: at.into(), port, seconds: 5, https, http: None }
}

fn get(path: &str) -> Get {
    Get { path: path.into(), headers: vec![("x-probe".into(), "1".into())] }
}

async fn ask(probe: Probe) -> (u16, String) {
    let probes = Probes::new(std::slice::from_ref(&probe), &Sys::host()).unwrap();
    let answer = probes.answer(&probe.at, HOME).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Answers one request over TLS with `answer`; gives what was asked.
async fn application(
    answer: String,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (u16, JoinHandle<String>) {
    let made = rcgen::generate_simple_self_signed(["app".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        // Who has read enough goes.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        String::from_utf8(asked).unwrap()
    });
    (port, serving)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_port_is_asked_and_not_the_sidecar_before_it() {
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(ask(probe("/probe/t/a/liveness", port, None)).await.0, 200);
    drop(listener);
    let (status, why) = ask(probe("/probe/t/a/liveness", port, None)).await;
    assert_eq!(status, 503);
    assert!(why.contains(&port.to_string()), "{why}");
}

#[tokio::test]
async fn over_tls_the_applications_status_is_passed_on_and_nothing_else() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for status in ["200 OK", "302 Found", "500 Oh"] {
            let (port, asked) = application(answer(status, "how it is"), &[version]).await;
            let (seen, body) = ask(probe("/probe/t/a/readiness", port, Some(get("ready?x=1")))).await;
            assert_eq!(seen.to_string(), status[..3]);
            assert!(!body.contains("how it is"), "{body}");
            let asked = asked.await.unwrap();
            assert!(asked.starts_with("GET /ready?x=1 HTTP/1.1\r\n"), "{asked}");
            let lines = asked.to_ascii_lowercase();
            for line in
                ["x-probe: 1", "user-agent: kube-probe/", "connection: close", &format!("host: 127.0.0.1:{port}")]
            {
                assert!(lines.contains(line), "{line} is not in {asked}");
            }
        }
    }
}

#[tokio::test]
async fn a_hook_without_tls_is_carried_out_once_by_whom_has_the_token() {
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer("204 No Content", "").as_bytes()).await.unwrap();
        (String::from_utf8(asked).unwrap(), listener)
    });
    let hook = Probe { http: Some(get("/shutdown")), ..probe("/probe/5e6f1a0c-3c1b/a/pre-stop", port, None) };
    let probes = Probes::new(&[hook], &Sys::host()).unwrap();
    for path in [
        "/probe/a/pre-stop",
        "/probe//a/pre-stop",
        "/probe/5e6f1a0c-3c1/a/pre-stop",
        "/probe/5e6f1a0c-3c1bb/a/pre-stop",
        "/probe/5E6F1A0C-3C1B/a/pre-stop",
        "/probe/5e6f1a0c-3c1b/a/pre-stop/",
        "/probe/5e6f1a0c-3c1b/a/none",
        "/probe/…/a/pre-stop",
    ] {
        assert!(probes.answer(path, HOME).await.is_none(), "{path}");
    }
    let answer = probes.answer("/probe/5e6f1a0c-3c1b/a/pre-stop", HOME).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let (asked, _listener) = serving.await.unwrap();
    assert!(asked.starts_with("GET /shutdown HTTP/1.1\r\nx-probe: 1\r\n"), "{asked}");
}

#[tokio::test]
async fn an_answer_without_end_is_one() {
    let (port, asked) = application(answer("200 OK", &"x".repeat(1 << 20)), rustls::ALL_VERSIONS).await;
    assert_eq!(ask(probe("/probe/t/a/readiness", port, Some(get("/")))).await.0, 200);
    asked.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_asked_fails_and_what_is_unknown_is_told_so() {
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = Probe { seconds: 1, ..probe("/probe/t/a/startup", port, Some(get("/"))) };
    assert_eq!(ask(silent).await.0, 503);
    for wrong in
        [Get { path: "/a b".into(), headers: vec![] }, Get { headers: vec![("\n".into(), "".into())], ..get("/") }]
    {
        assert_eq!(ask(probe("/probe/t/a/startup", port, Some(wrong))).await.0, 503);
    }
    let probes = Probes::new(&[], &Sys::host()).unwrap();
    assert!(probes.answer("/probe/t/a/startup", HOME).await.is_none());
}
