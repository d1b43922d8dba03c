//! Maps by number of stream. The peer chooses those of its own, but only upwards and few at once: no hash needs to withstand it.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// By stream.
pub type IdMap<T> = HashMap<u32, T, BuildHasherDefault<IdHasher>>;

/// Spreads a number over all bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The golden ratio of 2^64 (Knuth, TAOCP 6.4): neighbours fall far apart, in the high bits as in the low ones.
        let spread = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
