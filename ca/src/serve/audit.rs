//! One line for each certificate and each refusal. Refusals cost a caller nothing, so their lines have a rate; what is
//! left out is counted in the next line.

use std::{
    fmt::Display,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    authn::Caller,
    issue::Issued,
    limit::{Bucket, Rate},
    telemetry,
};

/// Lines about refusals: ten a second, a hundred at once.
const RATE: Rate = Rate { refill: Duration::from_millis(100), burst: 100 };
/// Target of these lines, to filter by.
const TARGET: &str = "mesh_ca::audit";

/// Writes audit lines.
#[derive(Debug, Default)]
pub(super) struct Audit {
    refusals: Mutex<Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    bucket: Option<Bucket>,
    left_out: u64,
}

impl Refusals {
    /// How many lines were left out before this one; `None` where this one is left out as well.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        match self.bucket.get_or_insert_with(|| Bucket::full(now)).take(RATE, now) {
            Ok(()) => Some(std::mem::take(&mut self.left_out)),
            Err(_) => {
                self.left_out += 1;
                None
            }
        }
    }
}

impl Audit {
    pub(super) fn issued(&self, issued: &Issued, caller: Option<&Caller>, peer: Option<SocketAddr>) {
        metrics::counter!(telemetry::ISSUED, "key" => issued.key.as_str()).increment(1);
        tracing::info!(
            target: TARGET,
            identity = %issued.identity,
            instance = caller.map(Caller::instance),
            serial = %issued.leaf.serial,
            not_after = %issued.leaf.not_after,
            key = issued.key.as_str(),
            peer = peer.map(tracing::field::display),
            "certificate issued"
        );
    }

    pub(super) fn refused(
        &self,
        reason: &'static str,
        error: &dyn Display,
        caller: Option<&Caller>,
        peer: Option<SocketAddr>,
    ) {
        metrics::counter!(telemetry::REFUSED, "reason" => reason).increment(1);
        let admitted = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        let Some(left_out) = admitted else { return };
        tracing::warn!(
            target: TARGET,
            reason,
            error = %error,
            namespace = caller.map(Caller::namespace),
            account = caller.map(Caller::account),
            instance = caller.map(Caller::instance),
            peer = peer.map(tracing::field::display),
            left_out,
            "certificate refused"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_a_trickle_of_lines() {
        let mut refusals = Refusals::default();
        let mut lines = 0;
        let mut told = 0;
        for _ in 0..10_000 {
            if let Some(left_out) = refusals.admit(Instant::now()) {
                lines += 1;
                told += left_out;
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!((199..=202).contains(&lines), "{lines}");
        assert_eq!(told + refusals.left_out + lines, 10_000);
    }
}
