//! HTTP from the tests themselves: one request, and load at a steady rate. Floor 1.
//!
//! The load is open-loop: requests leave at their time, whether or not earlier ones have come back, so that a stall is
//! seen as what it is. Connections are kept alive and reused; a share of the requests can be made to open new ones.
//! Nothing is ever tried again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    sync::Mutex,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// Requests of one load that may be on their way at once.
const IN_FLIGHT: usize = 1024;
/// How long one request of a load may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Largest body that is read.
const BODY: usize = 16 << 20;
/// Values of a counted header that are told apart.
const VALUES: usize = 64;
/// Latencies that are kept.
const SAMPLES: usize = 1_000_000;

type Sender = SendRequest<Full<Bytes>>;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header field's value as text; empty where it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// One GET over a connection of its own.
///
/// # Errors
/// Where there is no answer within `deadline`. Any status is an answer.
pub fn get(address: SocketAddr, path: &str, deadline: Duration) -> Result<Answer> {
    send(address, Request::get(path), "", deadline)
}

/// One POST over a connection of its own.
///
/// # Errors
/// As [`get`].
pub fn post(address: SocketAddr, path: &str, body: &str, deadline: Duration) -> Result<Answer> {
    send(address, Request::post(path), body, deadline)
}

/// One request over a connection of its own.
///
/// # Errors
/// As [`get`].
pub fn send(address: SocketAddr, request: http::request::Builder, body: &str, deadline: Duration) -> Result<Answer> {
    let request = with_host(request, address).body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
    let what = format!("{} http://{address}{}", request.method(), request.uri());
    let exchange = async {
        let mut sender = connect(address).await?;
        exchange(&mut sender, request).await
    };
    runtime()?
        .block_on(async { timeout(deadline, exchange).await })
        .map_err(|_| anyhow!("no answer within {deadline:?}"))
        .and_then(|done| done)
        .with_context(|| what)
}

/// A load to put on somebody.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// What to get.
    pub path: String,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// Requests a second.
    pub rate: u32,
    /// Every so many requests one opens a new connection; 0: only as many connections as are needed.
    pub fresh: u64,
    /// Header field of the answers whose values are counted.
    pub count: Option<String>,
}

impl Load {
    /// GETs of `path` at `rate` a second, every tenth over a new connection.
    #[must_use]
    pub fn new(address: SocketAddr, path: &str, rate: u32) -> Self {
        Self { address, path: path.to_owned(), headers: Vec::new(), rate, fresh: 10, count: None }
    }

    /// Counts the values of an answer's header field.
    #[must_use]
    pub fn counting(mut self, header: &str) -> Self {
        self.count = Some(header.to_owned());
        self
    }

    /// Begins, on a thread of its own.
    ///
    /// # Errors
    /// Where the thread cannot be had.
    pub fn start(self) -> Result<Running> {
        ensure!(self.rate > 0, "a load of no requests");
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::Builder::new()
            .name("load".into())
            .spawn(move || -> Result<Report> { runtime()?.block_on(generate(Arc::new(self), &stopped, &counted)) })?;
        Ok(Running { stop, sent, thread: Some(thread) })
    }

    /// Puts the load on for some time.
    ///
    /// # Errors
    /// As [`Load::start`].
    pub fn run(self, time: Duration) -> Result<Report> {
        let running = self.start()?;
        thread::sleep(time);
        running.stop()
    }
}

/// A load that is on. It ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Report>>>,
}

impl Running {
    /// Requests that have left so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, awaits what is on its way, and gives the account.
    ///
    /// # Errors
    /// Where the generator itself failed.
    pub fn stop(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(report)) => report,
            _ => bail!("the load generator panicked"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its account is not wanted any more.
            let _ = thread.join();
        }
    }
}

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that left.
    pub sent: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers by the value of the counted header field.
    pub values: BTreeMap<String, u64>,
    /// Requests without an answer.
    pub errors: u64,
    /// The first of them, or the first answer that was not 200, and when it was (since the load began).
    pub first_failure: Option<(Duration, String)>,
    latencies: Vec<u32>,
}

impl Report {
    /// Every request was answered with 200.
    ///
    /// # Errors
    /// Where one was not: how many, and the first.
    pub fn must_be_clean(&self) -> Result<()> {
        let good = self.statuses.get(&200).copied().unwrap_or_default();
        if self.sent > 0 && good == self.sent {
            return Ok(());
        }
        let first = match &self.first_failure {
            Some((when, what)) => format!("; the first after {when:?}: {what}"),
            None => String::new(),
        };
        bail!(
            "{} of {} requests failed: {} without an answer, answers by status {:?}{first}",
            self.sent - good,
            self.sent,
            self.errors,
            self.statuses
        )
    }

    /// The latency below which `share` (0 to 1) of the answers came.
    #[must_use]
    pub fn latency(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let place = (share.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64) as usize;
        Duration::from_micros(sorted.get(place).copied().unwrap_or_default().into())
    }

    fn add(&mut self, load: &Load, when: Duration, took: Duration, result: Result<Answer>) {
        let failure = match result {
            Ok(answer) => {
                let status = answer.status.as_u16();
                *self.statuses.entry(status).or_default() += 1;
                if self.latencies.len() < SAMPLES {
                    self.latencies.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
                }
                if let Some(name) = &load.count {
                    let value = answer.header(name);
                    if self.values.len() < VALUES || self.values.contains_key(value) {
                        *self.values.entry(value.to_owned()).or_default() += 1;
                    }
                }
                (status != 200).then(|| format!("{status} {:?} {}", answer.headers, answer.text()))
            }
            Err(error) => {
                self.errors += 1;
                Some(format!("{error:#} (after {took:?})"))
            }
        };
        if let (Some(what), None) = (failure, &self.first_failure) {
            self.first_failure = Some((when, what));
        }
    }
}

async fn generate(load: Arc<Load>, stop: &AtomicBool, sent: &AtomicU64) -> Result<Report> {
    let idle: Arc<Mutex<Vec<Sender>>> = Arc::default();
    let mut report = Report::default();
    let mut requests = JoinSet::new();
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / load.rate);
    // Whatever the machine makes late leaves late, but leaves.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let number = sent.fetch_add(1, Ordering::Relaxed) + 1;
        report.sent = number;
        while let Some(done) = requests.try_join_next() {
            let (when, took, result) = done.context("a request panicked")?;
            report.add(&load, when, took, result);
        }
        if requests.len() >= IN_FLIGHT {
            report.add(&load, begin.elapsed(), Duration::ZERO, Err(anyhow!("{IN_FLIGHT} requests are stuck")));
            continue;
        }
        let fresh = load.fresh != 0 && number.is_multiple_of(load.fresh);
        let (load, idle) = (Arc::clone(&load), Arc::clone(&idle));
        requests.spawn(async move {
            let start = Instant::now();
            let result = timeout(REQUEST, one(&load, &idle, fresh)).await;
            let result = result.unwrap_or_else(|_| Err(anyhow!("no answer within {REQUEST:?}")));
            (start.duration_since(begin), start.elapsed(), result)
        });
    }
    while let Some(done) = requests.join_next().await {
        let (when, took, result) = done.context("a request panicked")?;
        report.add(&load, when, took, result);
    }
    Ok(report)
}

/// One request of a load, over an idle connection where there is one.
async fn one(load: &Load, idle: &Mutex<Vec<Sender>>, fresh: bool) -> Result<Answer> {
    let kept = if fresh {
        // As many connections as before: the oldest gives way.
        let mut idle = idle.lock().await;
        if !idle.is_empty() {
            drop(idle.remove(0));
        }
        None
    } else {
        idle.lock().await.pop().filter(|sender| !sender.is_closed())
    };
    let mut sender = match kept {
        Some(sender) => sender,
        None => connect(load.address).await?,
    };
    let mut request = with_host(Request::get(load.path.as_str()), load.address);
    for (name, value) in &load.headers {
        request = request.header(name, value);
    }
    let answer = exchange(&mut sender, request.body(Full::default())?).await?;
    // Goes back only once it can take the next request, which the server may not want.
    if sender.ready().await.is_ok() {
        idle.lock().await.push(sender);
    }
    Ok(answer)
}

fn with_host(request: http::request::Builder, address: SocketAddr) -> http::request::Builder {
    match request.headers_ref() {
        Some(headers) if headers.contains_key(http::header::HOST) => request,
        _ => request.header(http::header::HOST, address.to_string()),
    }
}

async fn connect(address: SocketAddr) -> Result<Sender> {
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its sender, and tells its failure through it.
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Answer> {
    sender.ready().await.context("the connection takes no request")?;
    let (head, body) = sender.send_request(request).await.context("no answer")?.into_parts();
    let body = Limited::new(body, BODY)
        .collect()
        .await
        .map_err(|error| anyhow!("the body of the {} broke off: {error}", head.status))?
        .to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot make a runtime")
}
