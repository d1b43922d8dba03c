//! The one seam to sockets, clock and randomness. Floor 1: imports `address`.
//!
//! Everything that acts gets a [`Sys`] and asks it. [`Sys::host`] is the machine; with the feature `sim` there is also a
//! simulated network, so that a whole mesh can run in one process, with a seed, in virtual time. Monotonic time is
//! tokio's clock everywhere, which a simulator can stop and move; wall time comes from [`Clock`].

mod net;

pub use net::{Listener, Net, Stream};

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rand::{Rng as _, SeedableRng, rngs::StdRng};

/// Sockets, clock and randomness. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sys {
    /// Sockets.
    pub net: Net,
    /// Wall time.
    pub clock: Clock,
    /// Randomness that decides, not that protects: keys come from the crypto library.
    pub entropy: Entropy,
}

impl Sys {
    /// The machine's own sockets, clock and randomness.
    #[must_use]
    pub fn host() -> Self {
        Self { net: Net::Host, clock: Clock::Host, entropy: Entropy::seeded(rand::rng().next_u64()) }
    }

    /// The simulated network of the surrounding turmoil host, which this is called in. Wall time was `epoch` when the
    /// simulation began, and follows its clock: a host that starts again does not go back in time.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn sim(seed: u64, epoch: SystemTime) -> Self {
        let passed = turmoil::sim_elapsed().unwrap_or_default();
        let clock = Clock::Virtual { epoch: epoch + passed, start: tokio::time::Instant::now() };
        Self { net: Net::Sim, clock, entropy: Entropy::seeded(seed) }
    }
}

/// Wall time.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's.
    Host,
    /// Starts at `epoch` and follows tokio's clock.
    Virtual {
        /// Wall time at `start`.
        epoch: SystemTime,
        /// When it began to run.
        start: tokio::time::Instant,
    },
}

impl Clock {
    /// Now.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match self {
            Self::Host => SystemTime::now(),
            Self::Virtual { epoch, start } => *epoch + start.elapsed(),
        }
    }

    /// Now, since 1970-01-01.
    #[must_use]
    pub fn unix(&self) -> Duration {
        self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

/// A tree of random generators under one seed.
#[derive(Clone, Debug)]
pub struct Entropy {
    seed: u64,
    handed_out: Arc<AtomicU64>,
}

impl Entropy {
    /// The same seed gives the same generators in the same order.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { seed, handed_out: Arc::default() }
    }

    /// A generator of its own for the caller.
    #[must_use]
    pub fn rng(&self) -> StdRng {
        let nth = self.handed_out.fetch_add(1, Ordering::Relaxed);
        StdRng::seed_from_u64(self.seed.wrapping_add(nth.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// `duration` plus or minus up to a fifth.
    #[must_use]
    pub fn jitter(&self, duration: Duration) -> Duration {
        let part = f64::from(self.rng().next_u32()) / f64::from(u32::MAX);
        duration.mul_f64(0.8 + 0.4 * part)
    }
}
