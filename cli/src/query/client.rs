//! A small HTTP client for admin servers: one request, one connection, a deadline. The connection may be a socket, or
//! whatever else carries bytes.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

/// A whole answer takes at most this long.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, in bytes.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// Why there is no answer. Worth another try, for all but an address where something else listens.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Nobody listens, or the connection broke off.
    #[error("{0} cannot be reached: {1}; the process is down, or busy starting")]
    Unreachable(String, String),
    /// It takes too long.
    #[error("{0} did not answer within 5s; it hangs, or the machine is overloaded")]
    Timeout(String),
    /// The answer is not what was asked for.
    #[error("{0} answered {1}: {2}")]
    Unexpected(String, StatusCode, String),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// From where, for people.
    pub from: String,
    /// Status.
    pub status: StatusCode,
    /// When it answered, by its own clock, where it says so.
    pub date: Option<String>,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text, where the status says that it is what was asked for.
    ///
    /// # Errors
    /// [`QueryError::Unexpected`].
    pub fn text(&self) -> Result<String, QueryError> {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        if self.status.is_success() { Ok(text) } else { Err(self.unexpected(text.trim())) }
    }

    /// The body as JSON, where the status says that it is what was asked for.
    ///
    /// # Errors
    /// [`QueryError::Unexpected`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, QueryError> {
        serde_json::from_str(&self.text()?).map_err(|error| self.unexpected(&error.to_string()))
    }

    fn unexpected(&self, what: &str) -> QueryError {
        QueryError::Unexpected(self.from.clone(), self.status, what.chars().take(500).collect())
    }
}

/// Asks for `path`, with its query.
///
/// # Errors
/// [`QueryError`].
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer, QueryError> {
    exchange(address, Method::GET, path).await
}

/// Orders `path`, with its query and without a body. Whether it happened is not known where there is no answer.
///
/// # Errors
/// [`QueryError`].
pub async fn post(address: SocketAddr, path: &str) -> Result<Answer, QueryError> {
    exchange(address, Method::POST, path).await
}

async fn exchange(address: SocketAddr, method: Method, path: &str) -> Result<Answer, QueryError> {
    let asking = async {
        let connected = TcpStream::connect(address).await;
        let stream = connected.map_err(|error| QueryError::Unreachable(address.to_string(), error.to_string()))?;
        over(stream, &address.to_string(), &address.to_string(), method, path).await
    };
    match timeout(TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(QueryError::Timeout(address.to_string())),
    }
}

/// One request over `stream`, without a deadline. `from` is who answers, for people, `host` what the request names.
pub(super) async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    from: &str,
    host: &str,
    method: Method,
    path: &str,
) -> Result<Answer, QueryError> {
    let unreachable = |error: &dyn std::fmt::Display| QueryError::Unreachable(from.to_owned(), error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(Full::<Bytes>::default())
        .map_err(|error| unreachable(&error))?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|error| unreachable(&error))?;
        Ok(Answer { from: from.to_owned(), status, date, body: body.to_bytes() })
    };
    // The connection is driven here, so that nothing outlives the deadline.
    tokio::pin!(asking);
    tokio::select! {
        answer = &mut asking => answer,
        ended = connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(unreachable(&error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let got = stream.read(&mut buffer).await.unwrap();
            assert!(String::from_utf8_lossy(&buffer[..got]).contains(&format!("host: {address}")));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn answers_are_read() {
        let address = server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\": 12}").await;
        let value: serde_json::Value = get(address, "/status").await.unwrap().json().unwrap();
        assert_eq!(value["a"], 12);
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_reason() {
        let address = server("HTTP/1.1 503 Busy\r\ncontent-length: 10\r\n\r\nnot ready\n").await;
        let error = get(address, "/ready").await.unwrap().text().unwrap_err();
        assert_eq!(error.to_string(), format!("{address} answered 503 Service Unavailable: not ready"));
    }

    #[tokio::test]
    async fn nobody_and_half_an_answer_are_errors() {
        let address = server("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
        assert!(matches!(get(address, "/").await, Err(QueryError::Unreachable(..))));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(get(free, "/").await, Err(QueryError::Unreachable(..))));
    }
}
