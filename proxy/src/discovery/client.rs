//! The stream to the controller.

use std::{pin::pin, sync::Arc, time::Duration};

use ::metrics::{Counter, Gauge, Label};
use mesh_api::{
    backoff::Backoff,
    proto::{self, discovery_client::DiscoveryClient, watch_request::Message},
    sys::Sys,
};
use rand::Rng as _;
use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Streaming, transport::Channel};

use super::{
    Command, Discovery,
    store::{Reply, Store, kind_of},
};
use crate::{config::Config, telemetry::Telemetry};

/// Questions of workers that may wait.
const COMMAND_QUEUE: usize = 256;
/// Opening the stream takes at most this long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between tries grow from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How often unused destinations are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Largest message of the controller.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// How the stream to the controller is doing; for the admin server.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    up: Arc<std::sync::atomic::AtomicBool>,
}

impl Connection {
    /// True while the stream is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Holds the stream and what came over it.
pub struct Client {
    hello: proto::Hello,
    channel: Channel,
    store: Store,
    commands: mpsc::Receiver<Command>,
    idle: Duration,
    outgoing: usize,
    sys: Sys,
    telemetry: Arc<Telemetry>,
    connected: Gauge,
    connection: Connection,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("hello", &self.hello).finish_non_exhaustive()
    }
}

impl Client {
    /// A client over `channel`, which may not be connected yet.
    #[must_use]
    pub fn new(config: &Config, channel: Channel, sys: &Sys, telemetry: &Arc<Telemetry>) -> (Self, Discovery) {
        let store = Store::new(config.discovery.max_destinations);
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let discovery = Discovery { commands: sender, inbound: store.follow_inbound() };
        let client = Self {
            hello: proto::Hello {
                namespace: config.namespace.clone(),
                workload: config.workload.clone(),
                zone: config.zone.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            channel,
            store,
            commands,
            idle: config.discovery.idle,
            // A reconnecting proxy says everything it holds at once.
            outgoing: config.discovery.max_destinations + 64,
            sys: sys.clone(),
            telemetry: Arc::clone(telemetry),
            connected: telemetry.gauge("mesh_discovery_connected", Vec::new()),
            connection: Connection::default(),
        };
        (client, discovery)
    }

    /// How the stream is doing.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// Runs for as long as the proxy does.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut rng = self.sys.entropy.rng();
        loop {
            let ended = self.stream(&mut backoff).await;
            self.set_connected(false);
            let wait = backoff.next_wait(rng.next_u32());
            tracing::info!(reason = ended, retry_in = ?wait, "no discovery stream; the last known state stays in force");
            self.answer_for(wait).await;
        }
    }

    fn set_connected(&self, up: bool) {
        self.connected.set(if up { 1.0 } else { 0.0 });
        self.connection.up.store(up, std::sync::atomic::Ordering::Relaxed);
    }

    /// Answers workers for a time, without a stream.
    async fn answer_for(&mut self, wait: Duration) {
        let mut over = pin!(sleep(wait));
        loop {
            tokio::select! {
                () = &mut over => return,
                command = self.commands.recv() => match command {
                    Some(command) => drop(self.answer(command)),
                    None => return over.await,
                }
            }
        }
    }

    /// Answers a worker; what the controller must be told about it.
    fn answer(&mut self, command: Command) -> Vec<Message> {
        match command {
            Command::Follow(target, answer) => {
                let followed = self.store.follow(&target);
                let (follow, tell) = followed.map_or((None, Vec::new()), |(follow, tell)| (Some(follow), tell));
                // The worker gave up waiting: the sweep finds that nobody follows.
                let _ = answer.send(follow);
                tell.into_iter().map(told).collect()
            }
            Command::Dump(answer) => {
                let _ = answer.send(self.store.dump());
                Vec::new()
            }
        }
    }

    /// One stream, until it ends; why it did.
    async fn stream(&mut self, backoff: &mut Backoff) -> String {
        let (requests, outgoing) = mpsc::channel(self.outgoing);
        let mut all = vec![Message::Hello(self.hello.clone())];
        all.extend(self.store.subscriptions().into_iter().map(Message::Subscribe));
        for message in all {
            if requests.try_send(wrap(message)).is_err() {
                return "more subscriptions than the queue holds".to_owned();
            }
        }
        let mut client = DiscoveryClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let mut opening = pin!(client.watch(ReceiverStream::new(outgoing)));
        let mut late = pin!(sleep(OPEN_TIMEOUT));
        let responses = loop {
            tokio::select! {
                opened = &mut opening => match opened {
                    Ok(opened) => break opened.into_inner(),
                    Err(status) => return status.message().to_owned(),
                },
                () = &mut late => return "no answer in time".to_owned(),
                Some(command) = self.commands.recv() => for message in self.answer(command) {
                    if requests.try_send(wrap(message)).is_err() {
                        return "the controller does not read".to_owned();
                    }
                },
            }
        };
        self.set_connected(true);
        self.converse(&requests, responses, backoff).await
    }

    async fn converse(
        &mut self,
        requests: &mpsc::Sender<proto::WatchRequest>,
        mut responses: Streaming<proto::WatchResponse>,
        backoff: &mut Backoff,
    ) -> String {
        let mut sweep = interval(SWEEP);
        let mut counters: Vec<(&'static str, Counter)> = Vec::new();
        loop {
            let messages: Vec<Message> = tokio::select! {
                response = responses.next() => match response {
                    None => return "the controller ended it".to_owned(),
                    Some(Err(status)) => return status.message().to_owned(),
                    Some(Ok(response)) => {
                        backoff.reset();
                        self.count(&mut counters, kind_of(response.body.as_ref()));
                        self.take_in(response).into_iter().collect()
                    }
                },
                Some(command) = self.commands.recv() => self.answer(command),
                _ = sweep.tick() => {
                    let now = Instant::now();
                    let before = now.checked_sub(self.idle);
                    let gone = before.map(|before| self.store.forget_idle(now, before)).unwrap_or_default();
                    gone.into_iter().map(told).collect()
                }
            };
            for message in messages {
                if requests.try_send(wrap(message)).is_err() {
                    return "the controller does not read".to_owned();
                }
            }
        }
    }

    fn take_in(&mut self, response: proto::WatchResponse) -> Option<Message> {
        let reply = self.store.apply(response)?;
        if let Reply::Nack(nack) = &reply {
            tracing::error!(
                version = nack.version,
                reason = nack.reason,
                "the controller sent something unusable; kept the last good state"
            );
        }
        Some(told(reply))
    }

    fn count(&self, counters: &mut Vec<(&'static str, Counter)>, kind: &'static str) {
        match counters.iter().find(|(known, _)| *known == kind) {
            Some((_, counter)) => counter.increment(1),
            None => {
                let label = vec![Label::from_static_parts("kind", kind)];
                let counter = self.telemetry.counter("mesh_discovery_updates_total", label);
                counter.increment(1);
                counters.push((kind, counter));
            }
        }
    }
}

fn told(reply: Reply) -> Message {
    match reply {
        Reply::Ack(ack) => Message::Ack(ack),
        Reply::Nack(nack) => Message::Nack(nack),
        Reply::Again(subscribe) => Message::Subscribe(subscribe),
        Reply::Unsubscribe(unsubscribe) => Message::Unsubscribe(unsubscribe),
    }
}

fn wrap(message: Message) -> proto::WatchRequest {
    proto::WatchRequest { message: Some(message) }
}
