use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// Asks an API server that answers with `answer`; gives what was found, and the first line that it was asked by.
async fn ask(name: &str, answer: String) -> (Found, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        // Who has read enough goes.
        let _ = stream.write_all(answer.as_bytes()).await;
        String::from_utf8(asked).unwrap().lines().next().unwrap().to_owned()
    });
    let client = Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let found = KubeNamespaces::new(client).find(name).await;
    if serving.is_finished() || !matches!(&found, Found::Unknown(why) if why.contains("no name")) {
        return (found, timeout(DEADLINE, serving).await.unwrap().unwrap());
    }
    serving.abort();
    (found, String::new())
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn labels_are_what_the_api_server_says() {
    let body = r#"{"kind":"PartialObjectMetadata","metadata":{"name":"shop","labels":{"a":"b"}}}"#;
    let (found, asked) = ask("shop", answer("200 OK", body)).await;
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    assert_eq!(found, Found::Known(Namespace { name: "shop".into(), labels }));
    assert_eq!(asked, "GET /api/v1/namespaces/shop HTTP/1.1");
}

#[tokio::test]
async fn nothing_else_is_taken_for_an_answer() {
    let large = format!(r#"{{"metadata":{{"name":"shop","labels":{{"a":"{}"}}}}}}"#, "b".repeat(MAX_ANSWER));
    for (status, body, wanted) in [
        ("404 Not Found", "{}", "no such"),
        ("403 Forbidden", "{}", "403"),
        ("200 OK", "{}", "not read"),
        ("200 OK", r#"{"metadata":{"name":"other"}}"#, "something else"),
        ("200 OK", r#"{"kind":"NamespaceList","metadata":{},"items":[]}"#, "something else"),
        ("200 OK", &large, "broke off"),
    ] {
        let (found, _) = ask("shop", answer(status, body)).await;
        let Found::Unknown(why) = found else { panic!("{found:?}") };
        assert!(why.contains(wanted), "{status}: {why}");
    }
}

#[tokio::test]
async fn a_name_that_would_ask_for_something_else_asks_for_nothing() {
    for name in ["", "?watch=1", "shop/pods", "..", "shop?x"] {
        let (found, asked) = ask(name, String::new()).await;
        assert!(matches!(found, Found::Unknown(_)), "{found:?}");
        assert_eq!(asked, "", "{name}");
    }
}
