//! Places of a server that anybody may connect to: so many in all, so many for one address, and whoever needs its place
//! least gives way to who comes. Floor 0.
//!
//! Nobody is made to wait: a server that stops accepting while its places are taken is kept from everybody by the first
//! peer that takes them all and says nothing.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

/// While something is being answered, it is looked this often whether it is over.
const LOOK: Duration = Duration::from_secs(1);

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In all.
    pub total: usize,
    /// For one address.
    pub per_peer: usize,
    /// Whether a connection that has something answered gives way, too, where no other is left.
    pub busy_give_way: bool,
}

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Before its first request.
    pub first: Duration,
    /// After a request.
    pub idle: Duration,
}

/// What a connection does.
#[derive(Debug)]
pub struct Activity {
    begun: Instant,
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// Requests there were.
    requests: AtomicU64,
    /// When the last one began or ended, in milliseconds since `begun`.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { begun: Instant::now(), busy: 0.into(), requests: 0.into(), last: 0.into() }
    }

    /// Counts a request from here until what is returned is dropped.
    #[must_use]
    pub fn request(self: &Arc<Self>) -> Busy {
        self.touch();
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn touch(&self) {
        let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    fn since(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Until it has done nothing for too long.
    pub async fn over(&self, patience: Patience) {
        loop {
            let patience = if self.requests.load(Ordering::Relaxed) == 0 { patience.first } else { patience.idle };
            let (until, now) = (self.since() + patience, Instant::now());
            match (self.is_busy(), now >= until) {
                (false, true) => return,
                (false, false) => sleep_until(until).await,
                (true, _) => sleep_until(until.max(now + LOOK)).await,
            }
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    activity: Arc<Activity>,
    revoked: oneshot::Receiver<()>,
}

impl Place {
    /// What its connection does; to be told of requests.
    #[must_use]
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Until another one gets it: the connection is to be closed.
    pub async fn revoked(&mut self) {
        // That the table is gone means the same.
        let _ = (&mut self.revoked).await;
    }

    /// As [`Self::revoked`], for who polls. Not to be polled again when it is ready.
    pub fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.revoked).poll(cx).map(|_| ())
    }
}

#[derive(Debug)]
struct Taken {
    peer: IpAddr,
    activity: Arc<Activity>,
    revoke: oneshot::Sender<()>,
}

/// The places of one server.
#[derive(Debug)]
pub struct Places {
    bounds: Bounds,
    taken: Vec<Taken>,
}

impl Places {
    /// All free.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Vec::new() }
    }

    /// A place for a connection of `peer`. Where it has all it may have, another of its own gives way; where all are taken,
    /// the one that is idle for longest. `None`: nobody gives way, and the connection is to be closed.
    pub fn take(&mut self, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        self.taken.retain(|taken| !taken.revoke.is_closed());
        let own = self.taken.iter().filter(|taken| taken.peer == peer).count();
        let leaves = if own >= self.bounds.per_peer {
            Some(self.least(|taken| taken.peer == peer, self.bounds.busy_give_way)?)
        } else if self.taken.len() >= self.bounds.total {
            Some(self.least_of_all(own)?)
        } else {
            None
        };
        if let Some(leaves) = leaves {
            // Dropped with what revokes it.
            let leaves = self.taken.swap_remove(leaves);
            tracing::debug!(peer = %leaves.peer, "too many connections: the one that is idle for longest is given up");
        }
        let (revoke, revoked) = oneshot::channel();
        let activity = Arc::new(Activity::new());
        self.taken.push(Taken { peer, activity: Arc::clone(&activity), revoke });
        Some(Place { activity, revoked })
    }

    /// Who gives way where all places are taken, to a peer that has `own`: who is idle; else somebody of who has most, where
    /// that is more than the peer then has. Where all have the same, one would only push out the other.
    fn least_of_all(&self, own: usize) -> Option<usize> {
        if let Some(idle) = self.least(|_| true, false) {
            return Some(idle);
        }
        let mut peers: Vec<IpAddr> = self.taken.iter().map(|taken| taken.peer).collect();
        peers.sort_unstable();
        let most = peers.chunk_by(PartialEq::eq).max_by_key(|same| same.len())?;
        let greedy = most.first().copied().filter(|_| most.len() > own + 1)?;
        self.least(|taken| taken.peer == greedy, self.bounds.busy_give_way)
    }

    /// Who of those does nothing for longest; else who is busy for longest, where these give way.
    fn least(&self, of: impl Fn(&Taken) -> bool, busy: bool) -> Option<usize> {
        let those = self.taken.iter().enumerate().filter(|(_, taken)| of(taken));
        let those = those.map(|(at, taken)| (taken.activity.is_busy(), taken.activity.since(), at));
        those.filter(|(is_busy, ..)| busy || !is_busy).min().map(|(.., at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    fn is_revoked(place: &mut Place) -> bool {
        place.poll_revoked(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    async fn later() {
        tokio::time::advance(SECOND).await;
    }

    fn places(total: usize, per_peer: usize, busy_give_way: bool) -> Places {
        Places::new(Bounds { total, per_peer, busy_give_way })
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_with_too_many_loses_its_own() {
        let mut places = places(100, 2, true);
        let mut other = places.take(ip(2)).unwrap();
        later().await;
        let mut first = places.take(ip(1)).unwrap();
        later().await;
        let mut second = places.take("::ffff:127.0.0.1".parse().unwrap()).unwrap();
        later().await;
        drop(first.activity().request());
        let mut third = places.take(ip(1)).unwrap();
        assert!(is_revoked(&mut second), "it did nothing for longest");
        assert!(!is_revoked(&mut first) && !is_revoked(&mut third) && !is_revoked(&mut other));
        // Both are busy: the one that is so for longest.
        let _one = first.activity().request();
        later().await;
        let _two = third.activity().request();
        let mut fourth = places.take(ip(1)).unwrap();
        assert!(is_revoked(&mut first) && !is_revoked(&mut third) && !is_revoked(&mut fourth));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_taken_the_idle_give_way_and_then_those_of_who_has_most() {
        let mut places = places(3, 2, true);
        let mut one = places.take(ip(1)).unwrap();
        let _busy = one.activity().request();
        later().await;
        let mut two = places.take(ip(2)).unwrap();
        let _busy = two.activity().request();
        later().await;
        let mut idle = places.take(ip(2)).unwrap();
        later().await;
        let mut new = places.take(ip(3)).unwrap();
        assert!(is_revoked(&mut idle) && !is_revoked(&mut one) && !is_revoked(&mut two));
        drop(new);
        // The place that was given back is free.
        new = places.take(ip(2)).unwrap();
        let _busy = new.activity().request();
        let last = places.take(ip(4));
        assert!(is_revoked(&mut two) && !is_revoked(&mut one) && !is_revoked(&mut new));
        let _busy = last.as_ref().map(|last| last.activity().request());
        assert!(last.is_some() && places.take(ip(5)).is_none(), "everybody has one");
    }

    #[tokio::test(start_paused = true)]
    async fn the_busy_stay_where_they_do_not_give_way() {
        let mut places = places(2, 2, false);
        let mut both = [places.take(ip(1)).unwrap(), places.take(ip(1)).unwrap()];
        let _busy = both.each_ref().map(|place| place.activity().request());
        assert!(places.take(ip(1)).is_none() && places.take(ip(2)).is_none());
        assert!(both.iter_mut().all(|place| !is_revoked(place)));
        drop(places);
        assert!(both.iter_mut().all(is_revoked), "they outlive the server");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_has_an_end() {
        let mut places = places(2, 2, false);
        let place = places.take(ip(1)).unwrap();
        let activity = Arc::clone(place.activity());
        let patience = Patience { first: 2 * SECOND, idle: 10 * SECOND };
        let began = Instant::now();
        activity.over(patience).await;
        assert_eq!(began.elapsed().as_secs(), 2);
        let busy = activity.request();
        tokio::select! {
            () = activity.over(patience) => panic!("a request is being answered"),
            () = tokio::time::sleep(100 * SECOND) => {}
        }
        drop(busy);
        let began = Instant::now();
        activity.over(patience).await;
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}
