//! The application of calls: every message is answered by itself. It also is a collector of traces that throws them away.
//! Floor 0.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::report::Report;

/// Serves until it is ended.
pub async fn run(listen: SocketAddr) -> anyhow::Result<Report> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection(stream).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

async fn connection(stream: TcpStream) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20).max_concurrent_streams(10_000);
    let mut connection = builder.handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::task::spawn_local(async move {
            if let Err(error) = call(request, respond).await {
                eprintln!("a call ended: {error}");
            }
        });
    }
    Ok(())
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut answers = respond.send_response(head, false)?;
    let traces = request.uri().path().starts_with("/opentelemetry.");
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if !data.is_empty() && !traces {
            answers.send_data(data, false)?;
        }
    }
    if traces {
        // An empty message: all was taken.
        answers.send_data(Bytes::from_static(&[0; 5]), false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    answers.send_trailers(trailers)
}
