//! One worker: its runtime, its listeners, its end.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use mesh_api::{
    model::Target,
    sys::{Listener, Stream},
};
use tokio::{runtime::LocalOptions, sync::mpsc, time::timeout};

use super::{Ground, Progress};
use crate::{
    fault::{Code, Fault},
    inbound::Inbound,
    l4::accept::{Slots, accept},
    outbound::Outbound,
    phase::{Phase, Phases},
    telemetry::metrics::RefusalMetrics,
    worker::Worker,
};

/// A worker on a thread of its own.
pub(super) fn thread(ground: Ground) {
    let progress = ground.progress.clone();
    let unwinding = Unwinding(progress.clone());
    // Of one thread by itself: a `LocalSet` within an ordinary runtime is a second scheduler, which every wake-up passes.
    let ended = match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime.block_on(work(ground)).map_err(|error| format!("{error:#}")),
        Err(error) => Err(error.to_string()),
    };
    drop(unwinding);
    // The proxy is gone already.
    let _ = progress.blocking_send(Progress::Ended(ended));
}

/// Tells that a worker panicked: the proxy must not go on with fewer.
struct Unwinding(mpsc::Sender<Progress>);

impl Drop for Unwinding {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The queue has room for all that a worker ever says.
            let _ = self.0.try_send(Progress::Ended(Err("a worker panicked".to_owned())));
        }
    }
}

/// A worker in the local set that surrounds it.
pub(super) async fn here(ground: Ground) {
    let progress = ground.progress.clone();
    let ended = work(ground).await.map_err(|error| format!("{error:#}"));
    let _ = progress.send(Progress::Ended(ended)).await;
}

async fn work(ground: Ground) -> anyhow::Result<()> {
    let Ground { sys, config, keeper, discovery, telemetry, phase, progress } = ground;
    let phases = Phases::new(&phase);
    tokio::task::spawn_local(Rc::clone(&phases).follow(phase));
    let worker = Worker::new(&sys, &config, &keeper, &discovery, &telemetry, phases);
    let share = |max: usize| Slots::new(max / usize::from(config.workers));
    let inbound = Side {
        worker: Rc::clone(&worker),
        slots: share(config.inbound.max_connections),
        until: Phase::DrainingInbound,
    };
    let outbound =
        Side { worker: Rc::clone(&worker), slots: share(config.outbound.max_connections), until: Phase::DrainingAll };
    open_inbound(&inbound).await?;
    let upstreams = open_outbound(&outbound).await?;
    // What the application will call is known: its first request need not wait, nor fail with the controller away.
    timeout(config.discovery.wait, upstreams.warm()).await.unwrap_or_default();
    progress.send(Progress::Listening).await?;
    worker.reached(Phase::DrainingInbound).await;
    tokio::select! {
        () = inbound.slots.empty() => {}
        () = worker.reached(Phase::DrainingAll) => {}
    }
    progress.send(Progress::InboundEmpty).await?;
    worker.reached(Phase::DrainingAll).await;
    outbound.slots.empty().await;
    Ok(())
}

/// One side of a worker: where its connections are counted, and until when it takes new ones.
struct Side {
    worker: Rc<Worker>,
    slots: Rc<Slots>,
    until: Phase,
}

impl Side {
    async fn bind(&self, address: SocketAddr) -> anyhow::Result<Listener> {
        // Shared with the other workers, and with the process that takes over from this one.
        let bound = self.worker.sys.net.bind(address, true).await;
        bound.map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}"))
    }

    fn accept<F>(&self, listener: Listener, serve: impl Fn(Stream, SocketAddr) -> F + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let (slots, stop) = (Rc::clone(&self.slots), self.worker.reached(self.until));
        tokio::task::spawn_local(accept(listener, slots, stop, serve));
    }
}

async fn open_inbound(side: &Side) -> anyhow::Result<()> {
    let config = &side.worker.config.inbound;
    let inbound = Inbound::new(&side.worker, &side.slots)?;
    for one in &config.listeners {
        let (listener, inbound, one) = (side.bind(one.listen).await?, Rc::clone(&inbound), one.clone());
        side.accept(listener, move |stream, peer| Rc::clone(&inbound).serve(stream, peer, one.listen.port(), one.app));
    }
    if let Some(address) = config.transparent {
        let listener = side.bind(address).await?;
        // What is redirected to here is for this machine: on these ports that is the proxy, not the application.
        let own: Vec<u16> =
            config.transparent.iter().chain(&side.worker.config.outbound.transparent).map(SocketAddr::port).collect();
        side.accept(listener, move |stream, peer| {
            let app = meant(&stream).filter(|app| !own.contains(&app.port()));
            let inbound = Rc::clone(&inbound);
            async move {
                match app {
                    Some(app) => inbound.serve(stream, peer, app.port(), app).await,
                    None => refuse_loop(&stream, &inbound.worker().inbound_refusals),
                }
            }
        });
    }
    Ok(())
}

async fn open_outbound(side: &Side) -> anyhow::Result<Rc<Outbound>> {
    let config = &side.worker.config.outbound;
    let outbound = Outbound::new(&side.worker);
    for one in &config.listeners {
        let target: Target = one.to.parse()?;
        let (listener, outbound) = (side.bind(one.listen).await?, Rc::clone(&outbound));
        side.accept(listener, move |stream, _| Rc::clone(&outbound).serve(stream, target.clone(), None));
    }
    if let Some(address) = config.transparent {
        let (listener, outbound) = (side.bind(address).await?, Rc::clone(&outbound));
        side.accept(listener, move |stream, _| {
            let (to, outbound) = (meant(&stream), Rc::clone(&outbound));
            async move {
                match to {
                    Some(to) => outbound.serve(stream, Target::Address(to), Some(to)).await,
                    None => refuse_loop(&stream, &outbound.worker().outbound_refusals),
                }
            }
        });
    }
    Ok(outbound)
}

/// Where a redirected connection meant to go. `None`: it was not redirected but made to the proxy itself, which would go
/// round for ever.
fn meant(stream: &Stream) -> Option<SocketAddr> {
    let to = plain(stream.original_dst()?);
    (to != plain(stream.local_addr().ok()?)).then_some(to)
}

/// An address of IPv4 that is written as one of IPv6, as what it is. Anything else as it is: the scope of a link-local
/// address is needed to reach it.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn refuse_loop(stream: &Stream, refusals: &RefusalMetrics) {
    refusals.record(&Fault::new(Code::Loop, "the connection was made to the proxy itself"));
    stream.reset_on_drop();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_are() {
        let cases = [
            ("[::ffff:10.1.2.3]:80", "10.1.2.3:80"),
            ("10.1.2.3:80", "10.1.2.3:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[fe80::1%7]:80", "[fe80::1%7]:80"),
            // An address of IPv6 that only looks like one of IPv4.
            ("[::10.1.2.3]:80", "[::10.1.2.3]:80"),
        ];
        for (address, meant) in cases {
            assert_eq!(plain(address.parse().unwrap()), meant.parse().unwrap(), "{address}");
        }
    }
}
