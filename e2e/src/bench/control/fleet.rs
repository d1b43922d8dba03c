//! Proxies that are not there: tasks that speak the discovery protocol as sidecars do, each over a connection and with an
//! identity of its own, and acknowledge what they get.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use mesh_api::{
    grpc, names,
    proto::{self, discovery_client::DiscoveryClient, watch_request::Message as Said, watch_response::Body},
    spiffe::{SpiffeId, TrustDomain},
    sys::Sys,
    tls::{Credentials, Keeper, TrustBundle},
};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;

use super::plan::{ENDPOINTS, Plan, pod_name, service_name};
use crate::bench::certs::{Certs, DOMAIN, Signer};

/// Messages of one proxy that wait to be sent: what it subscribes to, and acknowledgements.
const OUTGOING: usize = 64;
/// Acknowledgements that were not counted yet.
const REPORTS: usize = 8192;
/// Proxies that connect at once: as many as come up with a rollout, not a flood.
const ABREAST: usize = 32;
/// Bytes before each message of gRPC.
const FRAME: usize = 5;
/// How long a proxy may take to connect and to get all that it asked for.
const CONNECT: Duration = Duration::from_secs(60);

/// A proxy acknowledged something.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which proxy.
    pub proxy: usize,
    /// Of what; `None`: of its inbound policy.
    pub target: Option<String>,
    /// Size of the message, in bytes, with gRPC's head.
    pub bytes: usize,
    /// When.
    pub at: Instant,
}

/// All proxies that are connected.
#[derive(Debug)]
pub struct Fleet {
    plan: Plan,
    signer: Signer,
    trust: Arc<TrustBundle>,
    controller: (SocketAddr, SpiffeId),
    sys: Sys,
    tasks: JoinSet<Result<()>>,
    size: usize,
    reporting: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
}

/// What came of one change.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When the last proxy acknowledged.
    pub last: Instant,
    /// Size of all messages.
    pub bytes: usize,
}

impl Fleet {
    /// None yet.
    ///
    /// # Errors
    /// Where the certificates cannot be read.
    pub fn new(plan: Plan, certs: &Certs, controller: SocketAddr) -> Result<Self> {
        let domain: TrustDomain = DOMAIN.parse()?;
        let id = SpiffeId::workload(&domain, names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT)?;
        let trust = Arc::new(TrustBundle::from_pem(domain, &std::fs::read(certs.path("roots.pem"))?)?);
        let (reporting, reports) = mpsc::channel(REPORTS);
        let signer = Signer::open(certs)?;
        let (sys, tasks) = (Sys::host(), JoinSet::new());
        Ok(Self { plan, signer, trust, controller: (controller, id), sys, tasks, size: 0, reporting, reports })
    }

    /// Proxies that are connected.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Connects more, until there are so many and each has got everything that it asked for.
    ///
    /// # Errors
    /// Where one of them is refused, or does not get it in time.
    pub async fn grow(&mut self, size: usize) -> Result<()> {
        while self.size < size {
            let upto = size.min(self.size + ABREAST);
            let mut missing = 0;
            for number in self.size..upto {
                let proxy = self.proxy(number)?;
                missing += proxy.targets.len() + 1;
                self.tasks.spawn(proxy.run(self.reporting.clone()));
            }
            let until = Instant::now() + CONNECT;
            for _ in 0..missing {
                self.next(until).await.context("a proxy did not get what it asked for")?;
            }
            self.size = upto;
        }
        Ok(())
    }

    /// Waits until every proxy has acknowledged something new about a target.
    ///
    /// # Errors
    /// Where one does not in time.
    pub async fn hear(&mut self, target: &str, within: Duration) -> Result<Arrival> {
        let until = Instant::now() + within;
        let mut heard = vec![false; self.size];
        let (mut left, mut bytes, mut last) = (self.size, 0, Instant::now());
        while left > 0 {
            let report = self.next(until).await.with_context(|| format!("{left} of {} did not hear", self.size))?;
            bytes += report.bytes;
            if report.target.as_deref() == Some(target)
                && let Some(heard) = heard.get_mut(report.proxy)
                && !std::mem::replace(heard, true)
            {
                left -= 1;
                last = report.at;
            }
        }
        Ok(Arrival { last, bytes })
    }

    /// What came meanwhile: how many messages.
    pub fn drain(&mut self) -> usize {
        std::iter::from_fn(|| self.reports.try_recv().ok()).count()
    }

    async fn next(&mut self, until: Instant) -> Result<Report> {
        tokio::select! {
            report = timeout_at(until, self.reports.recv()) => report.context("not in time")?.context("nobody reports"),
            Some(ended) = self.tasks.join_next() => {
                ended??;
                bail!("a proxy's stream ended")
            }
        }
    }

    fn proxy(&self, number: usize) -> Result<Proxy> {
        let pod = self.plan.pod_of_proxy(number);
        let service = pod / ENDPOINTS;
        let (namespace, account) = (self.plan.namespace(service), service_name(service));
        let identity = Arc::new(self.signer.member(&namespace, &account)?);
        Ok(Proxy {
            number,
            keeper: Keeper::new(Credentials { identity: Some(identity), trust: Arc::clone(&self.trust) }),
            controller: self.controller.clone(),
            sys: self.sys.clone(),
            hello: proto::Hello {
                namespace,
                workload: pod_name(pod),
                zone: String::new(),
                version: "bench".to_owned(),
            },
            targets: self.plan.uses(number).into_iter().map(|service| self.plan.target(service)).collect(),
        })
    }
}

struct Proxy {
    number: usize,
    keeper: Arc<Keeper>,
    controller: (SocketAddr, SpiffeId),
    sys: Sys,
    hello: proto::Hello,
    targets: Vec<String>,
}

impl Proxy {
    /// Acknowledges for as long as the stream lasts.
    async fn run(self, reporting: mpsc::Sender<Report>) -> Result<()> {
        let (address, id) = self.controller;
        let channel = grpc::channel(&self.sys, &self.keeper, address, id);
        let (say, outgoing) = mpsc::channel(OUTGOING);
        let wrap = |message| proto::WatchRequest { message: Some(message) };
        say.send(wrap(Said::Hello(self.hello))).await?;
        let keys = self.targets.into_iter().map(proto::key::Key::Destination);
        for key in std::iter::once(proto::key::Key::Inbound(true)).chain(keys) {
            let key = Some(proto::Key { key: Some(key) });
            say.send(wrap(Said::Subscribe(proto::Subscribe { key, version: String::new() }))).await?;
        }
        let mut client = DiscoveryClient::new(channel);
        let mut responses = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
        while let Some(response) = responses.message().await? {
            let bytes = response.encoded_len() + FRAME;
            ensure!(
                matches!(response.body, Some(Body::Destination(_) | Body::Delta(_) | Body::Inbound(_))),
                "proxy {} asked for {:?} and got {:?}",
                self.number,
                response.key,
                response.body
            );
            let target = match response.key.as_ref().and_then(|key| key.key.clone()) {
                Some(proto::key::Key::Destination(target)) => Some(target),
                _ => None,
            };
            say.send(wrap(Said::Ack(proto::Ack { key: response.key, version: response.version }))).await?;
            reporting.send(Report { proxy: self.number, target, bytes, at: Instant::now() }).await?;
        }
        Ok(())
    }
}
