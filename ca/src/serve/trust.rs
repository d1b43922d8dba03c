//! Following the trust bundle: each member's stream holds the newest one, never a queue. A member that does not read
//! costs a place and nothing else.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use mesh_api::proto::TrustBundle;
use tokio::sync::watch;
use tokio_stream::{Stream, wrappers::WatchStream};
use tonic::Status;

use super::bounded::{Link, Watch};
use crate::{issuer::Issuing, telemetry};

/// Counts streams.
#[derive(Debug)]
pub(super) struct Watchers {
    count: Arc<AtomicUsize>,
    limit: usize,
}

impl Watchers {
    pub(super) fn new(limit: usize) -> Self {
        Self { count: Arc::default(), limit }
    }

    /// A stream that begins with the present bundle, over that connection; `None` where there are too many.
    pub(super) fn follow(&self, issuing: watch::Receiver<Arc<Issuing>>, link: Option<&Link>) -> Option<Following> {
        let watch = match link {
            Some(link) => Some(link.watch()?),
            None => None,
        };
        let one_more = |count: usize| (count < self.limit).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        metrics::gauge!(telemetry::WATCHERS).increment(1.0);
        let place = Place(Arc::clone(&self.count));
        Some(Following { newest: WatchStream::new(issuing), sent: None, _place: place, _watch: watch })
    }
}

#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(telemetry::WATCHERS).decrement(1.0);
    }
}

/// The bundles of one member's stream. It ends when the process does.
pub struct Following {
    newest: WatchStream<Arc<Issuing>>,
    sent: Option<TrustBundle>,
    _place: Place,
    _watch: Option<Watch>,
}

impl Stream for Following {
    type Item = Result<TrustBundle, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(issuing) = std::task::ready!(Pin::new(&mut self.newest).poll_next(cx)) else {
                return Poll::Ready(None);
            };
            let bundle = issuing.bundle();
            // No change, no message.
            if self.sent.as_ref() != Some(&bundle) {
                self.sent = Some(bundle.clone());
                return Poll::Ready(Some(Ok(bundle)));
            }
        }
    }
}
