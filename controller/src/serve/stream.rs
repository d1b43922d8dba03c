//! One stream: its actor, which waits, and the stream of responses, which owns it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use mesh_api::{
    model::{WorkloadId, is_dns_subdomain},
    proto::{self, watch_request::Message},
    spiffe::SpiffeId,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tonic::Status;

use super::{
    hub::{Full, Hub, Registration, Who},
    session::Session,
};
use crate::{
    resolve::Client,
    status::{ProxyStatus, cut, millis},
    telemetry::StreamEnd,
};

/// Messages under way to a proxy: one that is being written and one that follows.
const UNDER_WAY: usize = 2;

/// Messages of a proxy, however they come.
pub(super) trait Requests: Send + 'static {
    /// The next one; `None` at the end. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Option<proto::WatchRequest>, Status>> + Send;
}

impl Requests for tonic::Streaming<proto::WatchRequest> {
    async fn next(&mut self) -> Result<Option<proto::WatchRequest>, Status> {
        self.message().await
    }
}

/// Starts the actor of a stream.
pub(super) fn start(hub: Arc<Hub>, identity: SpiffeId, requests: impl Requests) -> Responses {
    let (out, messages) = mpsc::channel(UNDER_WAY);
    let telemetry = hub.clone();
    let actor = tokio::spawn(run(hub, identity, requests, out));
    Responses { messages, actor, hub: telemetry, ended: false }
}

async fn run(
    hub: Arc<Hub>,
    identity: SpiffeId,
    mut requests: impl Requests,
    out: mpsc::Sender<proto::WatchResponse>,
) -> Result<(), (StreamEnd, Status)> {
    let late = |_| (StreamEnd::Protocol, Status::deadline_exceeded("no hello came"));
    let first = tokio::time::timeout(hub.limits().hello, requests.next()).await.map_err(late)?;
    let Some(first) = first.map_err(|status| (StreamEnd::Closed, status))? else { return Ok(()) };
    let who = introduce(&first, &identity)?;
    let status = ProxyStatus { since_ms: millis(hub.clock().now()), ..described(&first, &identity) };
    let registration = Registration::new(&hub, status).map_err(|Full| {
        let message = "this controller serves as many proxies as it may; try again later, or another replica";
        (StreamEnd::Refused, Status::resource_exhausted(message))
    })?;
    tracing::debug!(workload = %who.workload, %identity, "a proxy connected");
    let synced = hub.synced();
    converse(Session::new(hub.clone(), registration, who), &hub, requests, out, synced).await
}

/// Reads, looks and sends until the proxy goes or must go.
async fn converse(
    mut session: Session,
    hub: &Hub,
    mut requests: impl Requests,
    out: mpsc::Sender<proto::WatchResponse>,
    mut synced: watch::Receiver<bool>,
) -> Result<(), (StreamEnd, Status)> {
    let patience = hub.limits().slow_reader;
    let mut is_synced = *synced.borrow_and_update();
    let mut waiting_since = Instant::now();
    loop {
        // Before all is known nobody is answered: part of the truth would look like all of it.
        let sending = is_synced && session.has_work();
        if !sending {
            waiting_since = Instant::now();
        }
        tokio::select! {
            request = requests.next(), if session.has_room() => match request {
                Ok(Some(request)) => session.take(request.message).map_err(|status| (StreamEnd::Protocol, status))?,
                Ok(None) => return Ok(()),
                Err(status) => return Err((StreamEnd::Closed, status)),
            },
            () = hub.closing().cancelled() => {
                let status = Status::unavailable("this controller stops; connect to another, or again");
                return Err((StreamEnd::Closed, status));
            }
            () = session.changed() => session.collect(),
            changed = synced.changed(), if !is_synced => {
                // The hub outlives its streams.
                is_synced = changed.is_ok() && *synced.borrow_and_update();
            }
            permit = out.reserve(), if sending => {
                let Ok(permit) = permit else { return Ok(()) };
                if let Some(response) = session.next() {
                    permit.send(response);
                }
                waiting_since = Instant::now();
            }
            () = tokio::time::sleep_until(waiting_since + patience), if sending => {
                let message = format!("nothing was read for {patience:?} while there was something to read; connect anew");
                return Err((StreamEnd::Slow, Status::resource_exhausted(message)));
            }
        }
    }
}

/// Whether the proxy may say what it says of itself.
fn introduce(first: &proto::WatchRequest, identity: &SpiffeId) -> Result<Who, (StreamEnd, Status)> {
    let Some(Message::Hello(hello)) = &first.message else {
        return Err((StreamEnd::Protocol, Status::invalid_argument("the first message must be hello")));
    };
    if identity.namespace() != Some(hello.namespace.as_str()) {
        let message = format!("{identity} is not of namespace `{}`", cut(&hello.namespace, 64));
        return Err((StreamEnd::Refused, Status::permission_denied(message)));
    }
    if !is_dns_subdomain(&hello.workload) {
        let message = format!("`{}` is not the name of a workload", cut(&hello.workload, 64));
        return Err((StreamEnd::Protocol, Status::invalid_argument(message)));
    }
    let namespace: mesh_api::model::Name = hello.namespace.as_str().into();
    Ok(Who {
        client: Client { namespace: namespace.clone() },
        workload: WorkloadId { namespace, name: hello.workload.as_str().into() },
        identity: identity.clone(),
    })
}

fn described(first: &proto::WatchRequest, identity: &SpiffeId) -> ProxyStatus {
    let Some(Message::Hello(hello)) = &first.message else { return ProxyStatus::default() };
    ProxyStatus {
        namespace: hello.namespace.clone(),
        workload: hello.workload.clone(),
        identity: identity.to_string(),
        zone: cut(&hello.zone, 64).to_owned(),
        version: cut(&hello.version, 64).to_owned(),
        ..ProxyStatus::default()
    }
}

/// What goes to the proxy. Owns the actor: its end, also by a panic, ends the stream with a status; dropping this ends
/// the actor.
#[derive(Debug)]
pub struct Responses {
    messages: mpsc::Receiver<proto::WatchResponse>,
    actor: JoinHandle<Result<(), (StreamEnd, Status)>>,
    hub: Arc<Hub>,
    ended: bool,
}

impl tokio_stream::Stream for Responses {
    type Item = Result<proto::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = ready!(self.messages.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(message)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let end = ready!(Pin::new(&mut self.actor).poll(cx));
        self.ended = true;
        let (reason, status) = match end {
            Ok(Ok(())) => (StreamEnd::Closed, None),
            Ok(Err((reason, status))) => (reason, Some(status)),
            Err(error) => {
                tracing::error!(%error, "the actor of a stream failed; its proxy will connect anew");
                (StreamEnd::Failed, Some(Status::internal("the controller failed at this stream; connect anew")))
            }
        };
        self.hub.telemetry().ended(reason).increment(1);
        Poll::Ready(status.map(Err))
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        if !self.ended {
            self.actor.abort();
            self.hub.telemetry().ended(StreamEnd::Closed).increment(1);
        }
    }
}
