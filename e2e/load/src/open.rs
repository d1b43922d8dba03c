//! HTTP/1.1 at a fixed rate. Floor 0: imports `h1`.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    h1::{Wire, in_time, request},
    report::{Counts, Report},
};

/// Requests that may be due and not sent, on each connection: more is an error.
const BACKLOG: usize = 10_000;

/// Each connection asks one request after the other; one that is late does not make the next one's time begin later.
pub async fn run(to: SocketAddr, path: &str, connections: usize, rate: u32, time: Duration) -> anyhow::Result<Report> {
    let request: Rc<[u8]> = request(path, false).into();
    let mut wires = Vec::new();
    for _ in 0..connections {
        let mut wire = Wire::connect(to).await?;
        in_time(wire.ask(&request)).await?;
        wires.push(wire);
    }
    let counts = Rc::new(RefCell::new(Counts::new()?));
    let mut loops = JoinSet::new();
    let mut lines = Vec::new();
    for mut wire in wires {
        let (line, mut due) = mpsc::channel::<Instant>(BACKLOG);
        lines.push(line);
        let (request, counts) = (Rc::clone(&request), Rc::clone(&counts));
        loops.spawn_local(async move {
            while let Some(since) = due.recv().await {
                match in_time(wire.ask(&request)).await {
                    Ok(bytes) => counts.borrow_mut().good(since.elapsed(), bytes),
                    Err(error) => {
                        counts.borrow_mut().bad(&format_args!("{error:#}"));
                        match Wire::connect(to).await {
                            Ok(other) => wire = other,
                            Err(_) => return,
                        }
                    }
                }
            }
        });
    }
    let began = Instant::now();
    let step = Duration::from_secs(1).checked_div(rate).context("a rate of 0")?;
    let total = u32::try_from(time.as_nanos() / step.as_nanos().max(1)).context("too long")?;
    for nth in 0..total {
        let at = began + step * nth;
        // Timers of the runtime are a millisecond coarse.
        pause_until(at).await;
        let line = lines.get(nth as usize % connections.max(1)).context("no connections")?;
        line.try_send(at).context("a connection is far behind")?;
    }
    drop(lines);
    while loops.join_next().await.is_some() {}
    let counts = Rc::into_inner(counts).context("a loop still counts")?;
    Ok(counts.into_inner().report())
}

/// By a timer of the kernel, which is fine, and not by the runtime's, which is a millisecond coarse.
async fn pause_until(at: Instant) {
    loop {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        match left.checked_sub(Duration::from_millis(2)) {
            Some(long) if !long.is_zero() => tokio::time::sleep(long).await,
            _ => tokio::task::yield_now().await,
        }
    }
}
