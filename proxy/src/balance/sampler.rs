//! Draws positions by weight in constant time (Walker's alias method), and the random numbers for it.

use std::cell::Cell;

/// Random numbers that are good enough to spread load: `SplitMix64`. Not for secrets.
#[derive(Debug)]
pub(super) struct Random(Cell<u64>);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(super) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform below `end`, which is not 0.
    fn below(&self, end: usize) -> usize {
        let end = u128::try_from(end).unwrap_or(u128::MAX);
        usize::try_from((u128::from(self.next()) * end) >> 64).unwrap_or(0)
    }
}

/// Draws from a fixed set of positions.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    len: usize,
    /// Empty where all weights are equal. Else for each position the part of its slot that is its own, out of
    /// `u32::MAX`, and to whom the rest belongs.
    slots: Vec<(u32, usize)>,
}

impl Sampler {
    /// Positions `0..weights.len()`; no weight is 0.
    pub(super) fn new(weights: &[u32]) -> Self {
        let len = weights.len();
        if weights.windows(2).all(|pair| pair.first() == pair.last()) {
            return Self { len, slots: Vec::new() };
        }
        // Each slot holds `total`; each position brings its weight times the number of slots.
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        let count = u128::try_from(len).unwrap_or(1);
        let mut parts: Vec<u128> = weights.iter().map(|weight| u128::from(*weight) * count).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..len).partition(|at| parts.get(*at).is_some_and(|part| *part < total));
        let mut slots = vec![(u32::MAX, 0); len];
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            let own = parts.get(poor).copied().unwrap_or(total);
            if let Some(slot) = slots.get_mut(poor) {
                *slot = (u32::try_from(own * u128::from(u32::MAX) / total).unwrap_or(u32::MAX), rich);
            }
            if let Some(left) = parts.get_mut(rich) {
                *left -= total - own;
                if *left < total {
                    large.pop();
                    small.push(rich);
                }
            }
        }
        Self { len, slots }
    }

    /// A position by weight. `None` where there is none.
    pub(super) fn draw(&self, random: &Random) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let at = random.below(self.len);
        let Some((own, other)) = self.slots.get(at) else { return Some(at) };
        let keeps = *own == u32::MAX || u32::try_from(random.next() >> 32).unwrap_or(0) < *own;
        Some(if keeps { at } else { *other })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_weights(weights in proptest::collection::vec(1_u32..100, 1..20), seed: u64) {
            let (sampler, random) = (Sampler::new(&weights), Random::new(seed));
            let mut counts = vec![0_u32; weights.len()];
            let draws = 20_000;
            for _ in 0..draws {
                counts[sampler.draw(&random).unwrap()] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (weight, count) in weights.iter().zip(counts) {
                let wanted = f64::from(*weight) / f64::from(total);
                let have = f64::from(count) / f64::from(draws);
                // Five standard deviations.
                let slack = 5.0 * (wanted * (1.0 - wanted) / f64::from(draws)).sqrt();
                prop_assert!((have - wanted).abs() <= slack + 1e-3, "{wanted} {have}");
            }
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(Sampler::new(&[]).draw(&Random::new(1)), None);
        assert_eq!(Sampler::new(&[7]).draw(&Random::new(1)), Some(0));
        let skewed = Sampler::new(&[1, u32::MAX]);
        let random = Random::new(1);
        assert!((0..1000).all(|_| skewed.draw(&random) == Some(1)));
    }
}
