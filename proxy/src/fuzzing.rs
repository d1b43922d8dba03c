//! What must hold of the codecs and deciders whatever bytes come: one function for each target of `proxy/fuzz`. Above all floors,
//! and not part of the proxy: only fuzzing and tests are built with it.
//!
//! libFuzzer calls these functions from `proxy/fuzz/fuzz_targets`; `tests` calls them with what is in `proxy/fuzz/corpus` and
//! with mutations of that, so that every run of the tests holds them too. Where a codec must be looked at from the inside, its
//! properties stand beside it: `l7/h1/fuzzing.rs`, `l7/mux/fuzzing.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what does not hold is to be seen")]

mod detect;
mod normal;
#[cfg(test)]
mod tests;

pub use crate::l7::{
    h1::fuzzing::{h1_chunked, h1_request, h1_response},
    mux::fuzzing::{mux_connection, mux_fields, mux_state},
};
pub use detect::detect;
pub use normal::normal;

/// A property: it panics where the bytes show that it does not hold.
pub type Property = fn(&[u8]);

/// All of them, by the name of their target.
pub const TARGETS: [(&str, Property); 8] = [
    ("detect", detect),
    ("h1_chunked", h1_chunked),
    ("h1_request", h1_request),
    ("h1_response", h1_response),
    ("mux_connection", mux_connection),
    ("mux_fields", mux_fields),
    ("mux_state", mux_state),
    ("normal", normal),
];

/// Numbers that the input itself decides, so that it can be written by hand: where it is cut, for example.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        // FNV-1a: every byte counts.
        let hash = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(bytes.iter().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    /// Less than `end`, or 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        // xorshift64*, good enough to be anywhere.
        self.0 |= u64::from(self.0 == 0);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        usize::try_from(number).unwrap_or(usize::MAX).checked_rem(end).unwrap_or(0)
    }
}

/// Inputs longer than this are not given byte by byte.
const SHORT: usize = 512;

/// The ways in which an input arrives: in two pieces, and byte by byte or in many pieces.
pub(crate) fn arrivals(bytes: &[u8]) -> [Vec<&[u8]>; 2] {
    let mut numbers = Numbers::of(bytes);
    let (first, second) = bytes.split_at(numbers.below(bytes.len() + 1));
    let step = if bytes.len() <= SHORT { 1 } else { 1 + numbers.below(SHORT) };
    [vec![first, second], bytes.chunks(step).collect()]
}
