//! Certificates: how many each second, and a thousand members that ask at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_api::{
    grpc, names,
    proto::{CertifyRequest, identity_client::IdentityClient},
    spiffe::{SpiffeId, TrustDomain},
    sys::Sys,
    tls::{Credentials, Keeper, TrustBundle},
};
use rcgen::{CertificateParams, KeyPair};
use serde::Serialize;
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    figures::percentile,
    plane::{Ca, Ground, seconds},
};
use crate::bench::{certs::DOMAIN, cost::cost};

/// Connections over which requests go one after the other.
const CONNECTIONS: usize = 8;
/// Members that take turns at asking: each may get only so many certificates in a time.
const HOLDERS: usize = 2400;
/// Waits between the tries of a member are as long as a sidecar's, from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Tries of one member, after which it counts as unanswered.
const TRIES: u32 = 8;

/// Requests one after the other, over several connections.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// Connections.
    pub connections: usize,
    /// Certificates.
    pub certificates: usize,
    /// Each second.
    pub per_second: f64,
    /// Processor time of the authority for one, in microseconds.
    pub cpu_us: f64,
    /// Share of its processor that the authority had meanwhile: less than all, and the load is what is slow.
    pub busy: f64,
}

/// Many members at once, each over a connection of its own.
#[derive(Clone, Debug, Serialize)]
pub struct Burst {
    /// Members.
    pub members: usize,
    /// How many got a certificate.
    pub answered: usize,
    /// Tries that were refused or failed, and the first reason.
    pub failures: usize,
    /// Why the first of them did.
    pub reason: String,
    /// From the start to the last certificate, in milliseconds.
    pub last_ms: f64,
    /// Of all members, from the start.
    pub p50_ms: f64,
    /// The 99th of a hundred.
    pub p99_ms: f64,
    /// Processor time of the authority for one, handshake included, in microseconds.
    pub cpu_us: f64,
}

/// What asks for certificates.
struct Asker {
    client: IdentityClient<tonic::transport::Channel>,
}

impl Asker {
    fn new(trust: &Arc<TrustBundle>, sys: &Sys, address: SocketAddr) -> Result<Self> {
        let domain: TrustDomain = DOMAIN.parse()?;
        let ca = SpiffeId::workload(&domain, names::SYSTEM_NAMESPACE, names::CA_ACCOUNT)?;
        let keeper = Keeper::new(Credentials { identity: None, trust: Arc::clone(trust) });
        Ok(Self { client: IdentityClient::new(grpc::channel(sys, &keeper, address, ca)) })
    }

    async fn ask(&mut self, request: CertifyRequest) -> Result<()> {
        let answer = self.client.certify(request).await.map_err(|status| anyhow!("{}", status.message()))?;
        ensure!(!answer.get_ref().chain.is_empty(), "an answer without a certificate");
        Ok(())
    }
}

fn requests(ground: &Ground<'_>, count: usize) -> Result<Vec<CertifyRequest>> {
    let one = |number: usize| {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        let token = ground.token("bench", "member", &format!("member-{number}"))?;
        Ok(CertifyRequest { token, csr, validity_seconds: 0 })
    };
    (0..count).map(one).collect()
}

fn trust(ground: &Ground<'_>) -> Result<Arc<TrustBundle>> {
    let roots = std::fs::read(ground.certs.path("roots.pem"))?;
    Ok(Arc::new(TrustBundle::from_pem(DOMAIN.parse()?, &roots)?))
}

/// Asks over several connections, one request after the other on each, for a time.
///
/// # Errors
/// Where a request is refused.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub async fn rate(ground: &Ground<'_>, ca: &Ca, duration: Duration) -> Result<Rate> {
    let (trust, sys) = (trust(ground)?, Sys::host());
    let requests = requests(ground, HOLDERS)?;
    let ready = Arc::new(Barrier::new(CONNECTIONS + 1));
    let mut tasks = JoinSet::new();
    for own in requests.chunks(HOLDERS.div_ceil(CONNECTIONS)) {
        let (own, ready) = (own.to_vec(), Arc::clone(&ready));
        let mut asker = Asker::new(&trust, &sys, ca.address)?;
        tasks.spawn(async move {
            let mut turn = own.iter().cycle();
            let mut next = || turn.next().cloned().context("no request");
            // The handshake is not part of it.
            asker.ask(next()?).await?;
            ready.wait().await;
            let (until, mut count) = (Instant::now() + duration, 0_usize);
            while Instant::now() < until {
                asker.ask(next()?).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    ready.wait().await;
    let (began, before) = (Instant::now(), cost(ca.process.pid())?.total_ns);
    let mut certificates = 0;
    while let Some(ended) = tasks.join_next().await {
        certificates += ended??;
    }
    let (took, used) = (began.elapsed().as_secs_f64(), seconds(cost(ca.process.pid())?.total_ns - before));
    let each = certificates.max(1) as f64;
    Ok(Rate {
        connections: CONNECTIONS,
        certificates,
        per_second: certificates as f64 / took,
        cpu_us: used * 1e6 / each,
        busy: used / took,
    })
}

/// Has so many members ask at once, each over a new connection and as stubbornly as a sidecar does.
///
/// # Errors
/// Where the load itself cannot be made.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub async fn burst(ground: &Ground<'_>, ca: &Ca, members: usize) -> Result<Burst> {
    let (trust, sys) = (trust(ground)?, Sys::host());
    let mut tasks = JoinSet::new();
    let requests = requests(ground, members)?;
    let (began, before) = (Instant::now(), cost(ca.process.pid())?.total_ns);
    for request in requests {
        let mut asker = Asker::new(&trust, &sys, ca.address)?;
        let entropy = sys.entropy.clone();
        tasks.spawn(async move {
            let (mut wait, mut failures) = (RETRY.0, Vec::new());
            for _ in 0..TRIES {
                match asker.ask(request.clone()).await {
                    Ok(()) => return (Some(began.elapsed()), failures),
                    Err(error) => failures.push(error.to_string()),
                }
                sleep(entropy.jitter(wait)).await;
                wait = (wait * 2).min(RETRY.1);
            }
            (None, failures)
        });
    }
    let (mut times, mut failures) = (Vec::new(), Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (time, failed) = ended?;
        times.extend(time.map(|time| time.as_secs_f64() * 1e3));
        failures.extend(failed);
    }
    let used = seconds(cost(ca.process.pid())?.total_ns - before);
    times.sort_by(f64::total_cmp);
    let at = |share| percentile(&times, share).context("no member got a certificate");
    Ok(Burst {
        members,
        answered: times.len(),
        failures: failures.len(),
        reason: failures.first().cloned().unwrap_or_default(),
        last_ms: at(1.0)?,
        p50_ms: at(0.5)?,
        p99_ms: at(0.99)?,
        cpu_us: used * 1e6 / times.len().max(1) as f64,
    })
}
