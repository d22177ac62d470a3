//! Pseudo-random numbers that are the same for a seed on every machine and in every version, so that a
//! seed reproduces a failure. The generator is written out here because a dependency could change its
//! sequence.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

/// `SplitMix64` (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts the sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64-bit word.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The remainder is slightly uneven, which does not matter here.
        usize::try_from(self.word() >> 1).map_or(0, |word| word.checked_rem(bound).unwrap_or(0))
    }

    /// Returns true with a probability of `percent` per cent.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Returns a random byte.
    pub fn byte(&mut self) -> u8 {
        self.word().to_le_bytes()[0]
    }

    /// Returns a random 16-bit number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Returns one of several values.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Returns the seed of this run: `TRAINGUARD_SEED`, or a value from the clock.
pub fn seed() -> u64 {
    if let Ok(seed) = env::var("TRAINGUARD_SEED") {
        return seed.parse().expect("TRAINGUARD_SEED is a number");
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| u64::from(since.subsec_nanos()) << 20 ^ since.as_secs())
}
